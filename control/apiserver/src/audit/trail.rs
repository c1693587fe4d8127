//! What one request leaves in the audit log, from its arrival to the end of its answer.

use super::{
    backend::Audit,
    event::{Event, ObjectRef, ResponseStatus, complete, drop_managed_fields, object_json, text_json},
    policy::{Level, Stage, Verdict},
};
use crate::{
    authn::{User, user_info},
    body::Body,
    fairness::Schema,
    http::{PROTOBUF, RequestInfo, YAML},
};
use bytes::Bytes;
use flate2::read::GzDecoder;
use http::{
    HeaderMap, Response,
    header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, USER_AGENT},
};
use http_body::{Body as _, Frame};
use http_body_util::BodyExt;
use jiff::Timestamp;
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    io::Read,
    net::IpAddr,
    sync::{Arc, OnceLock},
};
use timonel_api::{
    Envelope, Gvk, Limits, Scheme, Status, Value, decode_json_untyped, decode_proto, decode_yaml_untyped, encode_json,
    is_proto,
};

/// Bytes of a client's name for itself.
const MAX_USER_AGENT: usize = 1024;
/// Addresses that a request may say it came over.
const MAX_SOURCES: usize = 32;
/// Bytes of an answer that is told.
const MAX_HELD: u64 = 64 << 20;
/// Bytes of an answer that is a `Status`.
const MAX_STATUS: usize = 64 << 10;

/// What a request leaves beside its answer.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// `Warning` headers.
    pub(crate) warnings: Mutex<Vec<String>>,
    /// Its audit trail, where the policy wants one.
    pub(crate) trail: OnceLock<Arc<Trail>>,
    /// The flow schema that it belongs to.
    pub(crate) flow: OnceLock<Arc<Schema>>,
}

/// A request as audit is told of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) id: &'a str,
    pub(crate) parts: &'a http::request::Parts,
    pub(crate) info: &'a RequestInfo<'a>,
    pub(crate) address: Option<IpAddr>,
    pub(crate) received: Timestamp,
    /// Whether it is a watch or a stream, which has no bound in time.
    pub(crate) long: bool,
}

/// The trail of one request. When it goes before the answer was told, it tells so itself.
#[derive(Debug)]
pub(crate) struct Trail {
    audit: Arc<Audit>,
    verdict: Verdict,
    long: bool,
    state: Mutex<(Event, State)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing was answered yet.
    Working,
    /// The head of the answer is out, its body is not at its end.
    Started,
    /// All was told.
    Complete,
}

impl Trail {
    /// Begins the trail of a request, if the policy wants one; `user` is absent when authentication failed.
    pub(crate) fn begin(audit: &Arc<Audit>, asked: Asked<'_>, user: Option<&User>) -> Option<Arc<Self>> {
        let attributes = asked.info.attributes();
        let verdict = audit.policy.judge(user, &attributes);
        audit.judged(verdict.level);
        if verdict.level == Level::None {
            return None;
        }
        let text = |text: &str| text.to_owned();
        let object = attributes.is_resource().then(|| ObjectRef {
            resource: text(attributes.resource),
            namespace: text(attributes.namespace),
            name: text(attributes.name),
            api_group: text(attributes.group),
            api_version: text(attributes.version),
            subresource: text(attributes.subresource),
            ..ObjectRef::default()
        });
        let uri = asked.parts.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        let event = Event {
            level: verdict.level,
            id: text(asked.id),
            uri: text(uri),
            verb: text(attributes.verb),
            user: user.map_or_else(|| serde_json::json!({}), user_info),
            source_ips: sources(&asked.parts.headers, asked.address),
            user_agent: user_agent(&asked.parts.headers),
            object,
            received: asked.received,
            ..Event::default()
        };
        let state = Mutex::new((event, State::Working));
        let trail = Arc::new(Self { audit: audit.clone(), verdict, long: asked.long, state });
        trail.tell(Stage::RequestReceived);
        Some(trail)
    }

    fn tell(&self, stage: Stage) {
        if self.verdict.omitted.has(stage) {
            return;
        }
        let (event, _) = &*self.state.lock();
        let at = if stage == Stage::RequestReceived { event.received } else { self.audit.clock.now() };
        self.audit.tell(event, stage, at);
    }

    /// Adds an annotation; the first of a name stays.
    pub(crate) fn annotate(&self, key: &str, value: &str) {
        self.state.lock().0.annotations.entry(key.to_owned()).or_insert_with(|| value.to_owned());
    }

    /// All annotations so far.
    pub(crate) fn annotations(&self) -> BTreeMap<String, String> {
        self.state.lock().0.annotations.clone()
    }

    /// Puts annotations back as they were.
    pub(crate) fn set_annotations(&self, annotations: BTreeMap<String, String>) {
        self.state.lock().0.annotations = annotations;
    }

    /// Whom the requester acts as, and by which verb of constrained impersonation, if by one.
    pub(crate) fn impersonated(&self, user: &User, constraint: &str) {
        let event = &mut self.state.lock().0;
        event.impersonated = Some(user_info(user));
        constraint.clone_into(&mut event.constraint);
    }

    /// Whether it tells what is answered.
    pub(crate) fn wants_answer(&self) -> bool {
        self.verdict.level == Level::RequestResponse && !self.long
    }

    /// The object that was sent.
    pub(crate) fn request_object(&self, object: &Value) {
        let event = &mut self.state.lock().0;
        if let Some(of) = &mut event.object {
            complete(of, object);
        }
        if self.verdict.level >= Level::Request {
            event.request = Some(if self.verdict.omit_managed_fields {
                let mut object = object.clone();
                drop_managed_fields(&mut object);
                encode_json(&object).into()
            } else {
                encode_json(object).into()
            });
        }
    }

    /// The patch that was sent.
    pub(crate) fn request_patch(&self, patch: &Bytes) {
        if self.verdict.level < Level::Request {
            return;
        }
        let json = if decode_json_untyped(patch, &Limits::default()).is_ok() {
            object_json(patch, false)
        } else {
            decode_yaml_untyped(patch, &Limits::default())
                .map_or_else(|_| text_json(patch), |value| encode_json(&value).into())
        };
        self.state.lock().0.request = Some(json);
    }

    /// What the request was refused with.
    pub(crate) fn refused(&self, status: &Status) {
        self.state.lock().0.status = Some(ResponseStatus::of(status));
    }

    /// Authentication failed; the event says with which credentials.
    pub(crate) fn unauthenticated(&self, headers: &HeaderMap, certificate: bool) {
        let message = attempted(headers, certificate);
        let status = ResponseStatus { code: 401, message, ..ResponseStatus::default() };
        let mut state = self.state.lock();
        (state.0.status, state.1) = (Some(status), State::Complete);
        drop(state);
        self.tell(Stage::ResponseStarted);
    }

    /// The answer is ready: tells of it, at once or when its body has ended.
    pub(crate) async fn answered(self: Arc<Self>, response: Response<Body>, scheme: &Scheme) -> Response<Body> {
        if self.state.lock().1 == State::Complete {
            return response;
        }
        let code = response.status().as_u16();
        if self.long {
            let mut state = self.state.lock();
            state.0.status.get_or_insert_default().code = code;
            state.1 = State::Started;
            drop(state);
            self.tell(Stage::ResponseStarted);
            return response.map(|body| body.keeping(self));
        }
        let wanted = self.wants_answer();
        let (parts, body) = response.into_parts();
        // What is still to come from elsewhere is passed on as it comes.
        let at_hand = body.size_hint().exact().is_some_and(|size| size <= MAX_HELD);
        let (body, bytes) = if at_hand && (wanted || !body.is_stream()) { held(body).await } else { (body, None) };
        let json = bytes.filter(|bytes| wanted || bytes.len() <= MAX_STATUS);
        let json = json.and_then(|bytes| as_json(&parts.headers, bytes, scheme));
        let mut state = self.state.lock();
        let event = &mut state.0;
        if event.status.is_none() {
            event.status = json.as_ref().and_then(status_of);
        }
        event.status.get_or_insert_default().code = code;
        if wanted && event.object.is_some() {
            event.response = json.map(|json| object_json(&json, self.verdict.omit_managed_fields));
        }
        state.1 = State::Complete;
        drop(state);
        self.tell(Stage::ResponseComplete);
        Response::from_parts(parts, body)
    }
}

impl Drop for Trail {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        let stage = match state.1 {
            State::Complete => return,
            _ if std::thread::panicking() => {
                state.0.status = Some(ResponseStatus {
                    code: 500,
                    status: "Failure",
                    reason: "InternalError".to_owned(),
                    message: "APIServer panic'd".to_owned(),
                    details: None,
                });
                Stage::Panic
            }
            State::Working => {
                let message = "Connection closed early".to_owned();
                let early = ResponseStatus { code: 200, status: "Success", message, ..ResponseStatus::default() };
                state.0.status.get_or_insert(early);
                if self.long {
                    self.tell(Stage::ResponseStarted);
                }
                Stage::ResponseComplete
            }
            State::Started => Stage::ResponseComplete,
        };
        self.tell(stage);
    }
}

/// A body that is at hand, read and given back. One that breaks off stays what it is.
async fn held(body: Body) -> (Body, Option<Bytes>) {
    match body.collect().await {
        Ok(collected) => {
            let bytes = collected.to_bytes();
            (bytes.clone().into(), Some(bytes))
        }
        Err(error) => {
            let broken = futures::stream::once(async move { Err::<Frame<Bytes>, _>(error) });
            (Body::new(http_body_util::StreamBody::new(broken)), None)
        }
    }
}

/// An answer's bytes as JSON, whatever their encoding; `None` for what is no object.
fn as_json(headers: &HeaderMap, bytes: Bytes, scheme: &Scheme) -> Option<Bytes> {
    let bytes = match headers.get(CONTENT_ENCODING) {
        Some(encoding) if encoding == "gzip" => {
            let mut plain = Vec::new();
            GzDecoder::new(&bytes[..]).take(MAX_HELD).read_to_end(&mut plain).ok()?;
            plain.into()
        }
        _ => bytes,
    };
    let media = headers.get(CONTENT_TYPE).and_then(|media| media.to_str().ok()).unwrap_or("");
    if media.starts_with(PROTOBUF) || is_proto(&bytes) {
        let envelope = Envelope::open(&bytes).ok()?;
        let gvk = Gvk::of(envelope.api_version, envelope.kind);
        let value = decode_proto(scheme.schema(), scheme.type_of(&gvk)?, &bytes, &Limits::default()).ok()?;
        return Some(encode_json(&value).into());
    }
    if media.starts_with(YAML) {
        return decode_yaml_untyped(&bytes, &Limits::default()).ok().map(|value| encode_json(&value).into());
    }
    bytes.starts_with(b"{").then_some(bytes)
}

/// The short form of an answer that is a `Status`.
fn status_of(json: &Bytes) -> Option<ResponseStatus> {
    if json.len() > MAX_STATUS {
        return None;
    }
    let value = decode_json_untyped(json, &Limits::default()).ok()?;
    if (value.str_at(&["apiVersion"]), value.str_at(&["kind"])) != ("v1", "Status") {
        return None;
    }
    let failed = value.str_at(&["status"]) == "Failure";
    Some(ResponseStatus {
        code: 0,
        status: if failed { "Failure" } else { "Success" },
        message: value.str_at(&["message"]).to_owned(),
        reason: value.str_at(&["reason"]).to_owned(),
        details: value.get("details").map(serde_json::Value::from),
    })
}

/// Where a request says it came over, and where it came from; all but the last may be made up.
fn sources(headers: &HeaderMap, address: Option<IpAddr>) -> Vec<String> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("");
    let forwarded = text("x-forwarded-for").split(',').filter_map(|part| part.trim().parse::<IpAddr>().ok());
    let mut all: Vec<IpAddr> = forwarded.take(MAX_SOURCES).collect();
    if let Ok(real) = text("x-real-ip").trim().parse()
        && !all.contains(&real)
    {
        all.push(real);
    }
    if let Some(address) = address.filter(|address| all.last() != Some(address)) {
        all.push(address);
    }
    all.iter().map(IpAddr::to_string).collect()
}

fn user_agent(headers: &HeaderMap) -> String {
    let name = headers.get(USER_AGENT).map_or(&b""[..], |value| value.as_bytes());
    let text = String::from_utf8_lossy(&name[..name.len().min(MAX_USER_AGENT)]).into_owned();
    if name.len() > MAX_USER_AGENT { text + "...TRUNCATED" } else { text }
}

/// Upstream's words for credentials that were no good.
fn attempted(headers: &HeaderMap, certificate: bool) -> String {
    let header = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or("").trim();
    let scheme = header.split_once(' ').map_or("", |(scheme, _)| scheme).to_ascii_lowercase();
    let mut methods: Vec<&str> = ["basic", "bearer"].into_iter().filter(|known| *known == scheme).collect();
    if certificate {
        methods.push("x509");
    }
    match methods.as_slice() {
        [] => "Authentication failed, no credentials provided".to_owned(),
        methods => format!("Authentication failed, attempted: {}", methods.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| (http::HeaderName::from_static(name), value.parse().unwrap());
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn requests_tell_where_they_come_from_and_what_they_tried() {
        let here: IpAddr = "192.0.2.9".parse().unwrap();
        for (pairs, address, expected) in [
            (&[][..], Some(here), "192.0.2.9"),
            (&[("x-forwarded-for", "10.0.0.1, bad, 10.0.0.2")], Some(here), "10.0.0.1 10.0.0.2 192.0.2.9"),
            (&[("x-forwarded-for", "10.0.0.1"), ("x-real-ip", "10.0.0.1")], None, "10.0.0.1"),
            (&[("x-real-ip", "192.0.2.9")], Some(here), "192.0.2.9"),
        ] {
            assert_eq!(sources(&headers(pairs), address).join(" "), expected);
        }
        for (pairs, certificate, expected) in [
            (&[][..], false, "Authentication failed, no credentials provided"),
            (&[("authorization", "Bearer x")], false, "Authentication failed, attempted: bearer"),
            (&[("authorization", "Basic x")], true, "Authentication failed, attempted: basic, x509"),
        ] {
            assert_eq!(attempted(&headers(pairs), certificate), expected);
        }
        let long = headers(&[("user-agent", &"x".repeat(2000))]);
        assert!(user_agent(&long).ends_with("xx...TRUNCATED") && user_agent(&long).len() == MAX_USER_AGENT + 12);
    }

    #[test]
    fn answers_are_read_whatever_their_encoding() {
        let scheme = Scheme::kubernetes();
        let pod = Value::from(serde_json::json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "p"}}));
        let proto = crate::rules::to_protobuf(&scheme, &pod).unwrap();
        let json = as_json(&headers(&[("content-type", PROTOBUF)]), proto, &scheme).unwrap();
        assert_eq!(decode_json_untyped(&json, &Limits::default()).unwrap().str_at(&["metadata", "name"]), "p");
        let yaml = as_json(&headers(&[("content-type", YAML)]), Bytes::from_static(b"a: 1\n"), &scheme);
        assert_eq!(yaml.unwrap(), "{\"a\":1}");
        assert_eq!(as_json(&headers(&[]), Bytes::from_static(b"ok"), &scheme), None);
        let status =
            Bytes::from_static(br#"{"apiVersion":"v1","kind":"Status","status":"Success","details":{"name":"x"}}"#);
        let short = status_of(&status).unwrap();
        assert_eq!((short.status, short.details.unwrap()["name"].as_str()), ("Success", Some("x")));
    }
}
