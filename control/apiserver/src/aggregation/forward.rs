//! Passing a request on to the server that answers it, as the user who made it: that server believes the headers
//! because of the certificate that it is shown.

use super::remote::{Remote, RemoteError};
use crate::{
    ApiServer,
    authn::User,
    body::Body,
    http::Answer,
    streams::{NodeTarget, StreamTarget, pass_upgrade, strip_hop_by_hop, wants_upgrade},
};
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Request, header, request::Parts};
use std::{net::IpAddr, sync::Arc, time::Duration};
use timonel_api::Status;

/// Time until an answer begins, when it is no watch.
const TIMEOUT: Duration = Duration::from_secs(60);
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// Headers that are between the client and this server.
const PRIVATE: [&str; 4] = ["authorization", "cookie", "host", "x-remote-"];
const EXTRA: &str = "x-remote-extra-";

/// A request that is passed on.
#[derive(Debug)]
pub(crate) struct Passed<'a> {
    pub(crate) parts: &'a Parts,
    pub(crate) extensions: Extensions,
    pub(crate) body: Body,
    /// Who makes it.
    pub(crate) user: &'a User,
    /// Where it comes from.
    pub(crate) address: Option<IpAddr>,
    /// Whether its answer may take any time.
    pub(crate) long: bool,
}

/// Passes a request on and gives back the answer as it is.
pub(crate) async fn forward(server: &ApiServer, remote: &Remote, passed: Passed<'_>) -> Result<Answer, Status> {
    if !remote.is_available() {
        return Ok(refused("service unavailable"));
    }
    let path = passed.parts.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let mut headers = passed.parts.headers.clone();
    let upgrade = wants_upgrade(&headers);
    strip_hop_by_hop(&mut headers, upgrade);
    strip_private(&mut headers);
    speak_for(&mut headers, passed.user);
    append_address(&mut headers, passed.address);
    let mut request = Request::new(passed.body);
    *request.method_mut() = passed.parts.method.clone();
    *request.headers_mut() = headers;
    if upgrade {
        *request.extensions_mut() = passed.extensions;
        return upgraded(server, remote, path, request).await;
    }
    timonel_runtime::propagate_trace(request.headers_mut());
    let sent = remote.send(path, request);
    let sent = if passed.long {
        sent.await
    } else {
        match tokio::time::timeout(TIMEOUT, sent).await {
            Ok(sent) => sent,
            Err(_) => return Err(Status::timeout("request did not complete within the allotted timeout", 1)),
        }
    };
    let mut response = match sent {
        Ok(response) => response,
        Err(error) => return Ok(unreachable(remote, &error)),
    };
    let redirects = response.status().is_redirection() && response.headers().contains_key(header::LOCATION);
    if redirects {
        // Following it would be a request to somebody whom nobody registered.
        return Ok(Answer::text(502, "the backend attempted to redirect this request, which is not permitted"));
    }
    strip_hop_by_hop(response.headers_mut(), false);
    Ok(Answer::foreign(response.map(Body::new)))
}

async fn upgraded(server: &ApiServer, remote: &Remote, path: &str, request: Request<Body>) -> Result<Answer, Status> {
    let dialer = match remote.upgrades() {
        Ok(dialer) => dialer,
        Err(error) => return Ok(unreachable(remote, &error)),
    };
    let target = NodeTarget::Tcp { host: String::new(), port: 0 };
    let node = remote.registered.name.to_string();
    let to = StreamTarget { node, target, path_and_query: path.to_owned(), command: None };
    match pass_upgrade(request, to, Arc::new(dialer), &server.tasks).await {
        Ok(response) => Ok(Answer::foreign(response.map(Body::new))),
        Err(error) => {
            tracing::debug!(?remote, %error, "an upgrade was not passed on");
            Ok(refused(&timonel_runtime::chain(&error)))
        }
    }
}

/// 503 in upstream's words.
fn refused(why: &str) -> Answer {
    Answer::text(503, format!("{why}\n")).with(header::X_CONTENT_TYPE_OPTIONS, "nosniff")
}

fn unreachable(remote: &Remote, error: &RemoteError) -> Answer {
    tracing::debug!(?remote, cause = error.cause(), "a request was not passed on");
    if error.is_nobody() { refused("service unavailable") } else { refused(&error.cause()) }
}

fn strip_private(headers: &mut HeaderMap) {
    let private = |name: &HeaderName| {
        let name = name.as_str();
        PRIVATE.iter().any(|own| name == *own || (own.ends_with('-') && name.starts_with(own)))
            || name.starts_with("impersonate-")
    };
    let names: Vec<HeaderName> = headers.keys().filter(|name| private(name)).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

/// Says in headers who the user is.
fn speak_for(headers: &mut HeaderMap, user: &User) {
    let mut say = |name: &str, value: &str| {
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value.as_bytes()))
        {
            headers.append(name, value);
        }
    };
    say("x-remote-user", &user.name);
    if !user.uid.is_empty() {
        say("x-remote-uid", &user.uid);
    }
    user.groups.iter().for_each(|group| say("x-remote-group", group));
    for (key, values) in &user.extra {
        let name = format!("{EXTRA}{}", escaped(key));
        values.iter().for_each(|value| say(&name, value));
    }
}

/// A key as the name of a header has it.
fn escaped(key: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&byte);
    key.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

fn append_address(headers: &mut HeaderMap, address: Option<IpAddr>) {
    let Some(address) = address else { return };
    let before = headers.get(FORWARDED_FOR).and_then(|value| value.to_str().ok());
    let all = before.map_or_else(|| address.to_string(), |before| format!("{before}, {address}"));
    if let Ok(value) = HeaderValue::from_str(&all) {
        headers.insert(FORWARDED_FOR, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_told_who_asks_and_nobody_else_says_so() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("authorization", "Bearer x"),
            ("x-remote-user", "forged"),
            ("x-remote-extra-a", "forged"),
            ("impersonate-user", "x"),
            ("accept", "*/*"),
            ("x-forwarded-for", "10.0.0.1"),
        ] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let mut user = User::new("alice", &["a", "b"]);
        user.uid = "u".to_owned();
        user.extra.insert("example.com/scope%".to_owned(), vec!["1".to_owned(), "2".to_owned()]);
        strip_private(&mut headers);
        speak_for(&mut headers, &user);
        append_address(&mut headers, "192.0.2.1".parse().ok());
        let mut said: Vec<String> =
            headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        said.sort();
        assert_eq!(
            said,
            [
                "accept: */*",
                "x-forwarded-for: 10.0.0.1, 192.0.2.1",
                "x-remote-extra-example.com%2fscope%25: 1",
                "x-remote-extra-example.com%2fscope%25: 2",
                "x-remote-group: a",
                "x-remote-group: b",
                "x-remote-uid: u",
                "x-remote-user: alice",
            ]
        );
    }
}
