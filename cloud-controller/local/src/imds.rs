//! The instance metadata service, version 2, at 169.254.169.254 inside the router.
//!
//! A caller is who its source address says, which the router has checked. Nothing is answered without a session token,
//! nothing that a proxy passed on, and answers travel no further than the hop limit.

use crate::{
    config::LocalConfig,
    error::LocalError,
    identity::IdentityDocument,
    local::Shared,
    namespace::inside,
    network::{METADATA_ADDRESS, mac},
    records::{MachineRecord, Power, Records},
};
use aws_lc_rs::hmac;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use jiff::{SignedDuration, Timestamp};
use std::{
    collections::BTreeSet,
    convert::Infallible,
    net::{IpAddr, SocketAddr, TcpListener as StdListener},
    sync::Arc,
    time::Duration,
};
use timonel_cloud_core::InstanceId;
use timonel_runtime::OnError;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

const PORT: u16 = 80;
const TTL_HEADER: &str = "x-aws-ec2-metadata-token-ttl-seconds";
const TOKEN_HEADER: &str = "x-aws-ec2-metadata-token";
const LONGEST_TTL_SECONDS: i64 = 21_600;
const CONNECTIONS: usize = 256;
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);
const NONCE_BYTES: usize = 8;

/// Who asks, and what it may know.
struct Caller<'a> {
    id: &'a InstanceId,
    entries: Vec<(String, String)>,
}

/// The listening socket, inside the router.
pub(crate) fn listen(config: &LocalConfig) -> Result<TcpListener, LocalError> {
    let listener = inside(&config.router(), || {
        let listener = StdListener::bind((METADATA_ADDRESS, PORT))?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    })?;
    TcpListener::from_std(listener).map_err(LocalError::io("listening", "169.254.169.254"))
}

/// Serves for ever.
pub(crate) async fn serve(shared: Arc<Shared>, listener: TcpListener) -> Result<(), Infallible> {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return Ok(()) };
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "metadata: a connection failed before it began");
                continue;
            }
        };
        let worker = Arc::clone(&shared);
        shared.tasks.spawn("metadata connection", OnError::Log, async move {
            let _slot = slot;
            let served = tokio::time::timeout(CONNECTION_TIMEOUT, connection(&worker, stream, peer)).await;
            if let Ok(Err(error)) = served {
                tracing::debug!(%peer, %error, "metadata: a connection ended early");
            }
            Ok::<(), Infallible>(())
        });
    }
}

async fn connection(shared: &Arc<Shared>, stream: TcpStream, peer: SocketAddr) -> Result<(), hyper::Error> {
    if let Err(error) = stream.set_ttl(shared.config.metadata_hop_limit) {
        tracing::warn!(%error, "metadata: no hop limit, no answer");
        return Ok(());
    }
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let response = handle(shared, peer.ip(), &request);
        async move { Ok::<_, Infallible>(response) }
    });
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

fn handle<B>(shared: &Shared, peer: IpAddr, request: &Request<B>) -> Response<Full<Bytes>> {
    let caller = {
        let records = shared.records.lock();
        caller(&records, peer).cloned()
    };
    let Some(machine) = caller else { return plain(StatusCode::NOT_FOUND, "") };
    let entries = match entries(shared, &machine) {
        Ok(entries) => entries,
        Err(error) => {
            tracing::error!(%error, "metadata: no answer");
            return plain(StatusCode::INTERNAL_SERVER_ERROR, "");
        }
    };
    let caller = Caller { id: &machine.id, entries };
    let mut nonce = [0; NONCE_BYTES];
    shared.entropy.fill(&mut nonce);
    let parts = (request.method(), request.uri().path(), request.headers());
    respond(&caller, parts, &shared.token_key, nonce, shared.clock.now())
}

/// The machine with that address, or with the pod range that holds it.
fn caller(records: &Records, peer: IpAddr) -> Option<&MachineRecord> {
    let live = |machine: &&MachineRecord| machine.power != Power::Gone;
    let direct = records.machines.values().filter(live).find(|m| IpAddr::V4(m.address) == peer);
    direct.or_else(|| {
        let route = records.routes.values().find(|r| r.route.destination.contains(&peer))?;
        records.machines.get(&route.route.instance).filter(live)
    })
}

fn plain(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::copy_from_slice(body.as_bytes())));
    *response.status_mut() = status;
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("text/plain"));
    response
}

/// The whole protocol, as a function.
fn respond(
    caller: &Caller<'_>,
    (method, path, headers): (&Method, &str, &HeaderMap),
    key: &hmac::Key,
    nonce: [u8; NONCE_BYTES],
    now: Timestamp,
) -> Response<Full<Bytes>> {
    if headers.contains_key("x-forwarded-for") {
        return plain(StatusCode::FORBIDDEN, "");
    }
    if path.trim_end_matches('/') == "/latest/api/token" {
        let ttl = headers.get(TTL_HEADER).and_then(|v| v.to_str().ok()).and_then(|v| v.trim().parse::<i64>().ok());
        return match (method, ttl) {
            (&Method::PUT, Some(ttl @ 1..=LONGEST_TTL_SECONDS)) => {
                let until = now.saturating_add(SignedDuration::from_secs(ttl)).unwrap_or(Timestamp::MAX);
                let mut response = plain(StatusCode::OK, &token(key, caller.id, until.as_second(), nonce));
                response.headers_mut().insert(TTL_HEADER, ttl.into());
                response
            }
            (&Method::PUT, _) => plain(StatusCode::BAD_REQUEST, ""),
            _ => plain(StatusCode::METHOD_NOT_ALLOWED, ""),
        };
    }
    if !matches!(*method, Method::GET | Method::HEAD) {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "");
    }
    let shown = headers.get(TOKEN_HEADER).and_then(|value| value.to_str().ok());
    if !shown.is_some_and(|shown| holds(key, caller.id, shown, now)) {
        return plain(StatusCode::UNAUTHORIZED, "");
    }
    match look_up(&caller.entries, path) {
        Some(text) => plain(StatusCode::OK, &text),
        None => plain(StatusCode::NOT_FOUND, ""),
    }
}

fn signed(key: &hmac::Key, id: &InstanceId, body: &[u8]) -> hmac::Tag {
    let mut context = hmac::Context::with_key(key);
    context.update(body);
    context.update(id.0.as_bytes());
    context.sign()
}

/// A token holds its own end and is good for one instance: nothing is remembered.
fn token(key: &hmac::Key, id: &InstanceId, until: i64, nonce: [u8; NONCE_BYTES]) -> String {
    let mut bytes = until.to_be_bytes().to_vec();
    bytes.extend(nonce);
    let tag = signed(key, id, &bytes);
    bytes.extend(tag.as_ref());
    URL_SAFE_NO_PAD.encode(bytes)
}

fn holds(key: &hmac::Key, id: &InstanceId, token: &str, now: Timestamp) -> bool {
    const BODY: usize = 8 + NONCE_BYTES;
    let Ok(bytes) = URL_SAFE_NO_PAD.decode(token) else { return false };
    let Some((body, tag)) = bytes.split_at_checked(BODY) else { return false };
    let mut signed = body.to_vec();
    signed.extend(id.0.as_bytes());
    let until = body[..8].try_into().map(i64::from_be_bytes).unwrap_or(0);
    hmac::verify(key, &signed, tag).is_ok() && now.as_second() < until
}

/// A value, or what is below a path, one name a line.
fn look_up(entries: &[(String, String)], path: &str) -> Option<String> {
    let mut parts = path.trim_matches('/').splitn(2, '/');
    let version = parts.next().unwrap_or_default();
    let dated = version.len() == 10 && version.bytes().all(|b| b.is_ascii_digit() || b == b'-');
    if version.is_empty() {
        return Some("latest".to_owned());
    }
    if version != "latest" && !dated {
        return None;
    }
    let path = parts.next().unwrap_or_default();
    if let Some((_, value)) = entries.iter().find(|(key, _)| key == path) {
        return Some(value.clone());
    }
    let prefix = if path.is_empty() { String::new() } else { format!("{path}/") };
    let below = entries.iter().filter_map(|(key, _)| key.strip_prefix(&prefix));
    let names: BTreeSet<String> =
        below.map(|rest| rest.split_once('/').map_or_else(|| rest.to_owned(), |(dir, _)| format!("{dir}/"))).collect();
    (!names.is_empty()).then(|| names.into_iter().collect::<Vec<_>>().join("\n"))
}

/// Everything that a machine may read about itself.
fn entries(shared: &Shared, machine: &MachineRecord) -> Result<Vec<(String, String)>, LocalError> {
    let document = document(&shared.config, machine);
    let signature = shared.signer.sign(&document)?;
    let order = &machine.order;
    let host_name = order.name.clone();
    let mut entries: Vec<(String, String)> = [
        ("meta-data/ami-id", order.image.clone()),
        ("meta-data/hostname", host_name.clone()),
        ("meta-data/instance-id", machine.id.0.clone()),
        ("meta-data/instance-type", order.instance_type.clone()),
        ("meta-data/local-hostname", host_name),
        ("meta-data/local-ipv4", machine.address.to_string()),
        ("meta-data/mac", mac(&machine.id)),
        ("meta-data/placement/availability-zone", machine.zone.clone()),
        ("meta-data/placement/region", crate::local::REGION.to_owned()),
        ("dynamic/instance-identity/document", document),
        ("dynamic/instance-identity/signature", signature),
    ]
    .map(|(path, value)| (path.to_owned(), value))
    .into();
    for (key, value) in order.all_tags() {
        entries.push((format!("meta-data/tags/instance/{key}"), value));
    }
    if !order.user_data.is_empty() {
        entries.push(("user-data".to_owned(), order.user_data.clone()));
    }
    Ok(entries)
}

fn document(config: &LocalConfig, machine: &MachineRecord) -> String {
    let document = IdentityDocument {
        account_id: config.account.clone(),
        availability_zone: machine.zone.clone(),
        image_id: machine.order.image.clone(),
        instance_id: machine.id.0.clone(),
        instance_type: machine.order.instance_type.clone(),
        pending_time: machine.created.to_string(),
        private_ip: machine.address.to_string(),
        region: crate::local::REGION.to_owned(),
        version: "2017-09-30".to_owned(),
    };
    serde_json::to_string_pretty(&document).expect("a struct of strings is JSON")
}

/// A fresh key for session tokens; tokens do not outlive the process.
pub(crate) fn token_key(entropy: &timonel_runtime::Entropy) -> hmac::Key {
    let mut bytes = [0; 32];
    entropy.fill(&mut bytes);
    hmac::Key::new(hmac::HMAC_SHA256, &bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn ask(method: &Method, path: &str, headers: &[(&'static str, &str)], now: i64, who: &str) -> (u16, String) {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &[7; 32]);
        let id = InstanceId::from(who);
        let entries = vec![
            ("meta-data/instance-id".to_owned(), who.to_owned()),
            ("meta-data/placement/region".to_owned(), "local".to_owned()),
            ("user-data".to_owned(), "hello".to_owned()),
        ];
        let caller = Caller { id: &id, entries };
        let headers: HeaderMap =
            headers.iter().map(|(k, v)| (http::HeaderName::from_static(k), v.parse().unwrap())).collect();
        let response = respond(&caller, (method, path, &headers), &key, [1; NONCE_BYTES], at(now));
        let status = response.status().as_u16();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let body = runtime.block_on(http_body_util::BodyExt::collect(response.into_body())).unwrap();
        (status, String::from_utf8(body.to_bytes().to_vec()).unwrap())
    }

    #[test]
    fn a_token_is_needed_and_is_one_machines() {
        let (status, token) = ask(&Method::PUT, "/latest/api/token", &[(TTL_HEADER, "60")], 0, "i-1");
        assert_eq!(status, 200);
        let token: &str = &token;
        let get = |headers: &[(&'static str, &str)], now, who| {
            ask(&Method::GET, "/latest/meta-data/instance-id", headers, now, who)
        };
        assert_eq!(get(&[(TOKEN_HEADER, token)], 59, "i-1"), (200, "i-1".to_owned()));
        assert_eq!(get(&[(TOKEN_HEADER, token)], 60, "i-1").0, 401, "expired");
        assert_eq!(get(&[(TOKEN_HEADER, token)], 1, "i-2").0, 401, "another machine's");
        assert_eq!(get(&[], 1, "i-1").0, 401);
        assert_eq!(get(&[(TOKEN_HEADER, "x")], 1, "i-1").0, 401);
        assert_eq!(get(&[(TOKEN_HEADER, token), ("x-forwarded-for", "1.2.3.4")], 1, "i-1").0, 403);
    }

    #[test]
    fn token_requests() {
        for (method, ttl, status) in [
            (Method::PUT, Some("1"), 200),
            (Method::PUT, Some("21600"), 200),
            (Method::PUT, Some("21601"), 400),
            (Method::PUT, Some("0"), 400),
            (Method::PUT, None, 400),
            (Method::GET, Some("1"), 405),
        ] {
            let headers: Vec<_> = ttl.map(|ttl| (TTL_HEADER, ttl)).into_iter().collect();
            assert_eq!(ask(&method, "/latest/api/token", &headers, 0, "i-1").0, status, "{ttl:?}");
        }
    }

    #[test]
    fn paths() {
        let entries = [("meta-data/a", "1"), ("meta-data/b/c", "2"), ("user-data", "3")]
            .map(|(path, value)| (path.to_owned(), value.to_owned()));
        for (path, answer) in [
            ("/latest/meta-data/a", Some("1")),
            ("/2021-03-23/meta-data/a/", Some("1")),
            ("/latest/meta-data/", Some("a\nb/")),
            ("/latest/meta-data/b", Some("c")),
            ("/latest", Some("meta-data/\nuser-data")),
            ("/", Some("latest")),
            ("/latest/meta-data/x", None),
            ("/other/meta-data/a", None),
        ] {
            assert_eq!(look_up(&entries, path).as_deref(), answer, "{path}");
        }
    }
}
