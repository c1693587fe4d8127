//! Answers before they become HTTP: status, type, body, warnings.

use super::{
    frames::{GZIP_FROM, gzip},
    negotiate::{Accept, JSON, Media, PROTOBUF, YAML, takes_gzip},
};
use crate::{body::Body, rules};
use ::http::{
    HeaderMap, HeaderName, HeaderValue, Response,
    header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER, VARY, WARNING},
};
use bytes::Bytes;
use http_body::Body as _;
use timonel_api::{Scheme, Status, Value, encode_json};

/// Bytes of all warnings of one answer, as upstream bounds them.
const MAX_WARNINGS: usize = 4 << 10;

/// One answer.
#[derive(Debug)]
pub(crate) struct Answer {
    code: u16,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Body,
    /// A whole response of another server, passed on as it is.
    foreign: Option<Box<Response<Body>>>,
}

impl Answer {
    pub(crate) fn body(code: u16, content_type: &'static str, body: Body) -> Self {
        Self { code, headers: vec![(CONTENT_TYPE, HeaderValue::from_static(content_type))], body, foreign: None }
    }

    pub(crate) fn bytes(code: u16, content_type: &'static str, bytes: impl Into<Bytes>) -> Self {
        Self::body(code, content_type, bytes.into().into())
    }

    /// JSON that is at hand.
    pub(crate) fn json(code: u16, bytes: Bytes, accept: &Accept) -> Self {
        let bytes = if accept.pretty { Bytes::from(indent(&bytes)) } else { bytes };
        Self::bytes(code, JSON, bytes)
    }

    /// Plain text.
    pub(crate) fn text(code: u16, text: impl Into<Body>) -> Self {
        Self::body(code, "text/plain; charset=utf-8", text.into())
    }

    /// A response of another server.
    pub(crate) fn foreign(response: Response<Body>) -> Self {
        Self { code: 0, headers: Vec::new(), body: Body::empty(), foreign: Some(Box::new(response)) }
    }

    /// An object in the form that the client asked for.
    pub(crate) fn value(code: u16, value: &Value, scheme: &Scheme, accept: &Accept) -> Result<Self, Status> {
        Ok(match accept.media {
            Media::Json => Self::json(code, encode_json(value).into(), accept),
            Media::Yaml => Self::bytes(code, YAML, rules::to_yaml(value)?),
            Media::Protobuf => match rules::to_protobuf(scheme, value) {
                Some(bytes) => Self::bytes(code, PROTOBUF, bytes),
                None => return Err(super::not_acceptable()),
            },
        })
    }

    /// A `Status`; always JSON, which every client reads.
    pub(crate) fn status(status: &Status) -> Self {
        let code = if status.code == 0 { 200 } else { status.code };
        let mut answer = Self::bytes(code, JSON, encode_json(&status.to_value()));
        if let Some(seconds) = status.details.as_ref().map(|details| details.retry_after_seconds).filter(|s| *s > 0) {
            answer = answer.with(RETRY_AFTER, &seconds.to_string());
        }
        answer
    }

    /// A `Status` that is a success.
    pub(crate) fn success(status: &Status) -> Self {
        let code = if status.code == 0 { 200 } else { status.code };
        Self::bytes(code, JSON, encode_json(&status.to_value()))
    }

    /// One more header; one that is not valid is left out.
    pub(crate) fn with(mut self, name: HeaderName, value: &str) -> Self {
        self.headers.extend(HeaderValue::from_str(value).ok().map(|value| (name, value)));
        self
    }

    /// Compressed when it is big and the client takes that.
    pub(crate) fn compressed_for(mut self, headers: &HeaderMap) -> Self {
        let size = self.body.size_hint().lower();
        if size >= GZIP_FROM && takes_gzip(headers) {
            self.body = gzip(self.body);
            self = self.with(CONTENT_ENCODING, "gzip").with(VARY, "Accept-Encoding");
        }
        self
    }

    /// As HTTP, with the warnings collected on the way.
    pub(crate) fn finish(self, warnings: &[String]) -> Response<Body> {
        if let Some(mut foreign) = self.foreign {
            add_warnings(foreign.headers_mut(), warnings);
            return *foreign;
        }
        let mut response = Response::new(self.body);
        *response.status_mut() = ::http::StatusCode::from_u16(self.code).unwrap_or_default();
        let headers = response.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
        for (name, value) in self.headers {
            headers.insert(name, value);
        }
        add_warnings(headers, warnings);
        response
    }
}

fn add_warnings(headers: &mut HeaderMap, warnings: &[String]) {
    let mut room = MAX_WARNINGS;
    for warning in warnings {
        let clean: String = warning.chars().filter(|c| !c.is_control()).collect();
        let text = format!("299 - \"{}\"", clean.replace('\\', "\\\\").replace('"', "\\\""));
        let Some(left) = room.checked_sub(text.len()) else { break };
        room = left;
        if let Ok(value) = HeaderValue::from_bytes(text.as_bytes()) {
            headers.append(WARNING, value);
        }
    }
}

/// JSON with line breaks and two spaces per level.
pub(crate) fn indent(json: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len() * 2);
    let (mut depth, mut in_text, mut escaped) = (0usize, false, false);
    let newline = |out: &mut Vec<u8>, depth: usize| {
        out.push(b'\n');
        out.resize(out.len() + depth * 2, b' ');
    };
    for (at, &byte) in json.iter().enumerate() {
        if in_text {
            out.push(byte);
            (in_text, escaped) = (escaped || byte != b'"', !escaped && byte == b'\\');
            continue;
        }
        let empty = matches!(json.get(at + 1), Some(b'}' | b']'));
        match byte {
            b'{' | b'[' => {
                out.push(byte);
                if !empty {
                    depth += 1;
                    newline(&mut out, depth);
                }
            }
            b'}' | b']' => {
                if !matches!(json.get(at.wrapping_sub(1)), Some(b'{' | b'[')) {
                    depth = depth.saturating_sub(1);
                    newline(&mut out, depth);
                }
                out.push(byte);
            }
            b',' => {
                out.push(byte);
                newline(&mut out, depth);
            }
            b':' => out.extend_from_slice(b": "),
            b'\n' => {}
            _ => {
                in_text = byte == b'"';
                out.push(byte);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indentation_is_gos() {
        let json = br#"{"a":{},"b":[1,"x:,{\"}"],"c":[]}"#;
        let expected = "{\n  \"a\": {},\n  \"b\": [\n    1,\n    \"x:,{\\\"}\"\n  ],\n  \"c\": []\n}";
        assert_eq!(String::from_utf8(indent(json)).unwrap(), expected);
    }

    #[test]
    fn warnings_are_quoted_and_bounded() {
        let warnings = vec!["a \"b\"\n".to_owned(), "x".repeat(MAX_WARNINGS)];
        let response = Answer::text(200, "ok").finish(&warnings);
        let found: Vec<_> = response.headers().get_all(WARNING).iter().collect();
        assert_eq!(found, [r#"299 - "a \"b\"""#]);
    }
}
