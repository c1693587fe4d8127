//! What there is: versions, health, metrics, discovery and OpenAPI.
//!
//! Documents are made on first use, once per scheme, and shared by all clusters that serve it. Big ones are kept
//! compressed: most clients take them so, and the words of OpenAPI shrink to a seventh.

mod custom;
mod groups;
mod health;
mod merged;
mod openapi;
mod openapi_proto;
mod paths;
mod schemas;

pub(crate) use merged::Merged;

use crate::{
    ApiServer,
    http::{self as wire, Answer, Query, RequestInfo},
};
use ::http::{HeaderMap, header, request::Parts};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use flate2::read::GzDecoder;
use parking_lot::Mutex;
use serde_json::{Value as Json, json};
use sha2::{Digest, Sha256};
use std::{
    collections::HashMap,
    io::Read,
    sync::{Arc, Weak},
};
use timonel_api::{Scheme, Status};

/// Schemes whose documents are kept at a time: the built-in one, the fleet's, and a few with custom resources.
const MAX_SCHEMES: usize = 8;

/// The version that this server is compatible with.
const GIT_VERSION: &str = concat!("v1.36.2+timonel-", env!("CARGO_PKG_VERSION"));

/// Documents from this size in bytes on are kept compressed.
const PACK_FROM: usize = 16 << 10;

/// A document with the tag by which clients tell whether theirs is still good.
#[derive(Clone, Debug)]
pub(crate) struct Document {
    kept: Bytes,
    packed: bool,
    pub(crate) tag: String,
}

impl Document {
    fn new(json: &Json) -> Self {
        Self::of_bytes(serde_json::to_vec(json).unwrap_or_default())
    }

    fn of_bytes(bytes: Vec<u8>) -> Self {
        let tag = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02X}")).collect();
        match wire::pack(&bytes).filter(|_| bytes.len() >= PACK_FROM) {
            Some(packed) => Self { kept: packed.into(), packed: true, tag },
            None => Self { kept: bytes.into(), packed: false, tag },
        }
    }

    /// Bytes that it takes in memory.
    #[cfg(test)]
    fn size(&self) -> usize {
        self.kept.len()
    }

    /// The document itself.
    fn plain(&self) -> Bytes {
        if !self.packed {
            return self.kept.clone();
        }
        let mut plain = Vec::with_capacity(self.kept.len() * 8);
        GzDecoder::new(&*self.kept).read_to_end(&mut plain).expect("what this process packed unpacks");
        plain.into()
    }

    /// As an answer, packed when it is kept so and the client takes that.
    fn answer(&self, headers: &HeaderMap, content_type: &'static str) -> Answer {
        if self.packed && wire::takes_gzip(headers) {
            return Answer::bytes(200, content_type, self.kept.clone()).with(header::CONTENT_ENCODING, "gzip");
        }
        Answer::bytes(200, content_type, self.plain())
    }
}

/// The documents of one scheme.
#[derive(Debug)]
pub(crate) struct Documents {
    scheme: Arc<Scheme>,
    made: Mutex<HashMap<String, Document>>,
}

static SHARED: Mutex<Vec<(Weak<Scheme>, Arc<Documents>)>> = Mutex::new(Vec::new());

impl Documents {
    /// Those of a scheme that no other server has.
    pub(crate) fn own(scheme: &Arc<Scheme>) -> Arc<Self> {
        Arc::new(Self { scheme: scheme.clone(), made: Mutex::default() })
    }

    /// Those of a scheme, shared with every other server of it.
    pub(crate) fn of(scheme: &Arc<Scheme>) -> Arc<Self> {
        let mut shared = SHARED.lock();
        if let Some((_, known)) = shared.iter().find(|(known, _)| std::ptr::eq(known.as_ptr(), Arc::as_ptr(scheme))) {
            return known.clone();
        }
        let new = Self::own(scheme);
        shared.truncate(MAX_SCHEMES - 1);
        shared.insert(0, (Arc::downgrade(scheme), new.clone()));
        new
    }

    fn get(&self, name: &str, make: impl FnOnce(&Scheme) -> Option<Json>) -> Option<Document> {
        self.get_as(name, |scheme| make(scheme).map(|json| Document::new(&json)))
    }

    fn get_as(&self, name: &str, make: impl FnOnce(&Scheme) -> Option<Document>) -> Option<Document> {
        if let Some(known) = self.made.lock().get(name) {
            return Some(known.clone());
        }
        let document = make(&self.scheme)?;
        self.made.lock().insert(name.to_owned(), document.clone());
        Some(document)
    }
}

/// Answers a request about a path that is no resource.
pub(crate) async fn serve(
    server: &ApiServer,
    parts: &Parts,
    query: &Query<'_>,
    info: &RequestInfo<'_>,
) -> Result<Answer, Status> {
    if !matches!(parts.method, ::http::Method::GET | ::http::Method::HEAD) {
        return Err(Status::method_not_allowed());
    }
    let resources = server.resources.load_full();
    let documents = resources.documents().clone();
    let routes = server.aggregation.routes();
    let headers = &parts.headers;
    let segments: Vec<&str> = info.path.split('/').filter(|segment| !segment.is_empty()).collect();
    match segments[..] {
        [] => plain(headers, query, &root(&documents.scheme)),
        ["version"] => plain(headers, query, &version()),
        ["healthz" | "livez" | "readyz", ref rest @ ..] => health::answer(server, segments[0], rest, query).await,
        ["metrics"] => Ok(Answer::body(200, "text/plain; version=0.0.4; charset=utf-8", server.metrics_text().into())),
        ["metrics", "slis"] => Ok(health::indicators(server).await),
        ["debug", "api_priority_and_fairness", table] => {
            let table = crate::fairness::dump(&server.fairness, table).ok_or_else(Status::no_such_resource)?;
            Ok(Answer::text(200, table))
        }
        [".well-known", "openid-configuration"] => {
            plain(headers, query, &server.authenticator.openid_configuration(&server.public_address))
        }
        ["openid", "v1", "jwks"] => {
            let bytes = serde_json::to_vec(&server.authenticator.jwks()).unwrap_or_default();
            Ok(Answer::bytes(200, "application/jwk-set+json", bytes))
        }
        ["apis"] if !routes.is_empty() => merged::all(server, &documents, &routes, headers, query),
        ["apis", group] if !routes.is_empty() => merged::one(&documents, &routes, headers, query, group),
        ["openapi", "v2"] if !routes.is_empty() => merged::openapi_v2(server, &resources, &routes, headers),
        ["openapi", "v3"] if !routes.is_empty() => merged::openapi_v3(server, &resources, &routes, headers),
        ["openapi", "v2"] => openapi::v2(&resources, headers),
        ["openapi", "v3"] => openapi::v3_index(&resources, headers),
        ["openapi", "v3", ref rest @ ..] => openapi::v3_group(&resources, headers, query, &rest.join("/")),
        ["api"] => groups::core(server, &documents, headers, query),
        ["apis"] => groups::all(&documents, headers, query),
        ["apis", group] => groups::one(&documents, headers, query, group),
        ["api", version] => groups::resources(&documents, headers, query, "", version),
        ["apis", group, version] => groups::resources(&documents, headers, query, group, version),
        _ => Err(Status::no_such_resource()),
    }
}

/// A small document in the form the client asked for.
fn plain(headers: &HeaderMap, query: &Query<'_>, json: &Json) -> Result<Answer, Status> {
    let accept = wire::accept(headers, query, false)?;
    let accept = wire::Accept { shape: wire::Shape::Whole, ..accept };
    match accept.media {
        wire::Media::Yaml => {
            Ok(Answer::bytes(200, wire::YAML, crate::rules::to_yaml(&timonel_api::Value::from(json.clone()))?))
        }
        _ => Ok(Answer::json(200, serde_json::to_vec(json).unwrap_or_default().into(), &accept)),
    }
}

/// A document with its tag: 304 to who has it.
fn tagged(headers: &HeaderMap, content_type: &'static str, document: &Document) -> Answer {
    let answer = if is_known(headers, &document.tag) {
        Answer::bytes(304, content_type, Bytes::new())
    } else {
        document.answer(headers, content_type)
    };
    with_tag(answer, &document.tag)
}

fn with_tag(answer: Answer, tag: &str) -> Answer {
    answer.with(header::ETAG, &format!("\"{tag}\"")).with(header::VARY, "Accept, Accept-Encoding")
}

/// Whether the client has the document of a tag.
fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    let known = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok()).unwrap_or("");
    known.split(',').any(|candidate| candidate.trim().trim_matches('"') == tag)
}

fn version() -> Json {
    json!({
        "major": "1",
        "minor": "36",
        "emulationMajor": "1",
        "emulationMinor": "36",
        "minCompatibilityMajor": "1",
        "minCompatibilityMinor": "35",
        "gitVersion": GIT_VERSION,
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": concat_platform(),
    })
}

fn concat_platform() -> String {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("{}/{arch}", std::env::consts::OS)
}

/// The paths that `/` lists.
fn root(scheme: &Scheme) -> Json {
    let mut paths =
        vec!["/.well-known/openid-configuration".to_owned(), "/api".into(), "/api/v1".into(), "/apis".into()];
    for group in scheme.groups().iter().filter(|group| !group.name.is_empty()) {
        paths.push(format!("/apis/{}", group.name));
        paths.extend(group.versions.iter().map(|version| format!("/apis/{}/{version}", group.name)));
    }
    for path in
        ["/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", "/openid/v1/jwks", "/readyz", "/version"]
    {
        paths.push(path.to_owned());
    }
    json!({ "paths": paths })
}

/// The hash by which clients tell that a resource is stored in another version.
fn storage_version_hash(group: &str, version: &str, kind: &str) -> String {
    STANDARD.encode(&Sha256::digest(format!("{group}/{version}/{kind}"))[..8])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_upstreams() {
        for (group, version, kind, hash) in [
            ("", "v1", "Pod", "xPOwRZ+Yhw8="),
            ("", "v1", "Node", "XwShjMxG9Fs="),
            ("", "v1", "ServiceAccount", "pbx9ZvyFpBE="),
        ] {
            assert_eq!(storage_version_hash(group, version, kind), hash, "{kind}");
        }
    }

    #[test]
    fn documents_are_shared_and_tagged() {
        let scheme = Scheme::kubernetes();
        let (a, b) = (Documents::of(&scheme), Documents::of(&scheme));
        assert!(Arc::ptr_eq(&a, &b));
        let document = a.get("x", |_| Some(json!({"a": 1}))).unwrap();
        let mut headers = HeaderMap::new();
        assert_eq!(tagged(&headers, "text/plain", &document).finish(&[]).status(), 200);
        headers.insert(header::IF_NONE_MATCH, format!("\"{}\"", document.tag).parse().unwrap());
        assert_eq!(tagged(&headers, "text/plain", &document).finish(&[]).status(), 304);
    }

    #[test]
    fn big_documents_are_kept_packed_and_told_so() {
        let big = json!({"text": "word ".repeat(PACK_FROM)});
        let (small, big, text) = (Document::new(&json!({"a": 1})), Document::new(&big), big.to_string());
        assert!(!small.packed && big.packed && big.kept.len() < text.len() / 8);
        assert_eq!(big.plain(), text.as_bytes());
        let mut headers = HeaderMap::new();
        let length = |headers: &HeaderMap, document: &Document| {
            let response = tagged(headers, wire::JSON, document).finish(&[]);
            let packed = response.headers().get(header::CONTENT_ENCODING).is_some();
            (packed, http_body::Body::size_hint(response.body()).exact().unwrap())
        };
        assert_eq!(length(&headers, &big), (false, text.len() as u64));
        headers.insert(header::ACCEPT_ENCODING, "gzip".parse().unwrap());
        assert_eq!(length(&headers, &big), (true, big.kept.len() as u64));
        assert_eq!(length(&headers, &small), (false, small.kept.len() as u64));
    }
}
