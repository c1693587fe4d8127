//! One audit event as JSON, member by member in upstream's order. Pure.

use super::policy::{Level, Stage};
use bytes::Bytes;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;
use timonel_api::{Limits, Object, Status, Value, decode_json_untyped, encode_json};
use timonel_runtime::Entropy;

/// The header by which a client names a request and is told its name.
pub(crate) const AUDIT_ID: &str = "audit-id";
/// What stands before an event that is told alone.
const HEAD: &[u8] = br#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","#;
/// Bytes of an event with its objects; what is larger is told without them, and says so.
const MAX_EVENT: usize = 4 << 20;
/// Says that objects were left out.
const TRUNCATED: &str = "audit.k8s.io/truncated";

/// What is known of a request so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Event {
    pub(crate) level: Level,
    pub(crate) id: String,
    pub(crate) uri: String,
    pub(crate) verb: String,
    pub(crate) user: Json,
    pub(crate) impersonated: Option<Json>,
    /// The verb of constrained impersonation that was used.
    pub(crate) constraint: String,
    pub(crate) source_ips: Vec<String>,
    pub(crate) user_agent: String,
    pub(crate) object: Option<ObjectRef>,
    pub(crate) status: Option<ResponseStatus>,
    pub(crate) request: Option<Bytes>,
    pub(crate) response: Option<Bytes>,
    pub(crate) received: Timestamp,
    pub(crate) annotations: BTreeMap<String, String>,
}

/// What the request is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ObjectRef {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) resource: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) namespace: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) uid: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) api_group: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) api_version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) resource_version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) subresource: String,
}

/// The answer in short: `Status` without what has no bound.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ResponseStatus {
    pub(crate) code: u16,
    pub(crate) status: &'static str,
    pub(crate) message: String,
    pub(crate) reason: String,
    pub(crate) details: Option<Json>,
}

impl ResponseStatus {
    /// From what a request was refused with.
    pub(crate) fn of(status: &Status) -> Self {
        let value = status.to_value();
        Self {
            code: status.code,
            status: if status.is_failure() { "Failure" } else { "Success" },
            message: status.message.clone(),
            reason: status.reason.to_string(),
            details: value.get("details").map(Json::from),
        }
    }

    fn to_json(&self) -> Json {
        let mut shown = json!({"metadata": {}, "code": self.code});
        for (name, text) in [("status", self.status), ("message", &self.message), ("reason", &self.reason)] {
            if !text.is_empty() {
                shown[name] = text.into();
            }
        }
        if let Some(details) = &self.details {
            shown["details"] = details.clone();
        }
        shown
    }
}

impl Event {
    /// The event of a stage as one JSON object without line breaks and without kind and version, as a list holds it.
    pub(crate) fn encode(&self, stage: Stage, at: Timestamp) -> Vec<u8> {
        let size =
            [&self.request, &self.response].iter().filter_map(|object| object.as_ref()).map(Bytes::len).sum::<usize>();
        let truncated = size > MAX_EVENT;
        let mut out = Vec::with_capacity(1024 + if truncated { 0 } else { size });
        let mut put = |name: &str, value: &[u8]| {
            out.push(if out.is_empty() { b'{' } else { b',' });
            out.push(b'"');
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b"\":");
            out.extend_from_slice(value);
        };
        put("level", &json_of(self.level.as_str()));
        put("auditID", &json_of(&self.id));
        put("stage", &json_of(stage.as_str()));
        put("requestURI", &json_of(&self.uri));
        put("verb", &json_of(&self.verb));
        put("user", &json_of(&self.user));
        if let Some(impersonated) = &self.impersonated {
            put("impersonatedUser", &json_of(impersonated));
        }
        if !self.constraint.is_empty() {
            put("authenticationMetadata", &json_of(&json!({"impersonationConstraint": self.constraint})));
        }
        if !self.source_ips.is_empty() {
            put("sourceIPs", &json_of(&self.source_ips));
        }
        if !self.user_agent.is_empty() {
            put("userAgent", &json_of(&self.user_agent));
        }
        if let Some(object) = &self.object {
            put("objectRef", &json_of(object));
        }
        if let Some(status) = &self.status {
            put("responseStatus", &json_of(&status.to_json()));
        }
        if !truncated {
            for (name, object) in [("requestObject", &self.request), ("responseObject", &self.response)] {
                if let Some(object) = object {
                    put(name, object);
                }
            }
        }
        put("requestReceivedTimestamp", &json_of(&micro_time(self.received)));
        put("stageTimestamp", &json_of(&micro_time(at)));
        let mut annotations = self.annotations.clone();
        if truncated {
            annotations.insert(TRUNCATED.to_owned(), "true".to_owned());
        }
        if !annotations.is_empty() {
            put("annotations", &json_of(&annotations));
        }
        out.push(b'}');
        out
    }
}

/// An encoded event as it stands alone.
pub(super) fn alone(event: &[u8]) -> impl Iterator<Item = &[u8]> {
    [HEAD, event.get(1..).unwrap_or_default()].into_iter()
}

/// Several encoded events as an `EventList`.
pub(super) fn list(events: &[Bytes]) -> Vec<u8> {
    let mut out = br#"{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{},"items":["#.to_vec();
    for (at, event) in events.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        out.extend_from_slice(event);
    }
    out.extend_from_slice(b"]}");
    out
}

fn json_of(value: &(impl Serialize + ?Sized)) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_else(|_| b"null".to_vec())
}

/// A time as upstream's `MicroTime`.
fn micro_time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// A name for a request: a random UUID.
pub(crate) fn audit_id(entropy: &Entropy) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut random = [0; 16];
    entropy.fill(&mut random);
    random[6] = random[6] & 0x0f | 0x40;
    random[8] = random[8] & 0x3f | 0x80;
    let mut text = String::with_capacity(36);
    for (at, byte) in random.into_iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

/// JSON of an object as an event holds it: on one line, without managed fields where they are not wanted.
pub(super) fn object_json(json: &Bytes, omit_managed_fields: bool) -> Bytes {
    let json = json.slice(..json.trim_ascii_end().len());
    if !omit_managed_fields && !json.contains(&b'\n') {
        return json;
    }
    match decode_json_untyped(&json, &Limits::default()) {
        Ok(mut value) => {
            if omit_managed_fields {
                drop_managed_fields(&mut value);
            }
            encode_json(&value).into()
        }
        Err(_) => text_json(&json),
    }
}

/// What is no JSON, as a JSON text.
pub(super) fn text_json(bytes: &[u8]) -> Bytes {
    json_of(&*String::from_utf8_lossy(bytes)).into()
}

/// Takes the managed fields from an object, from the items of a list and from the rows of a table.
pub(super) fn drop_managed_fields(value: &mut Value) {
    let strip = |object: &mut Value| drop(object.remove_at(&["metadata", "managedFields"]));
    strip(value);
    for list in ["items", "rows"] {
        for item in value.at_mut(&[list]).and_then(Value::as_list_mut).into_iter().flatten() {
            strip(item);
            if let Some(object) = item.at_mut(&["object"]) {
                strip(object);
            }
        }
    }
}

/// Fills from an object what the path does not say.
pub(super) fn complete(of: &mut ObjectRef, object: &Value) {
    let Some(metadata) = object.get("metadata").and_then(Value::as_object) else { return };
    let text = |metadata: &Object, name: &str| metadata.get(name).and_then(Value::as_str).unwrap_or("").to_owned();
    for (field, name) in [
        (&mut of.namespace, "namespace"),
        (&mut of.name, "name"),
        (&mut of.uid, "uid"),
        (&mut of.resource_version, "resourceVersion"),
    ] {
        if field.is_empty() {
            *field = text(metadata, name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_have_upstreams_form() {
        let event = Event {
            level: Level::RequestResponse,
            id: "id".into(),
            uri: "/api/v1/namespaces/x/pods?a=\"b\"".into(),
            verb: "create".into(),
            user: json!({"username": "u", "groups": ["g"]}),
            impersonated: Some(json!({"username": "v"})),
            constraint: "impersonate:user-info".into(),
            source_ips: vec!["192.0.2.1".into()],
            user_agent: "kubectl".into(),
            object: Some(ObjectRef { resource: "pods".into(), api_version: "v1".into(), ..ObjectRef::default() }),
            status: Some(ResponseStatus { code: 201, ..ResponseStatus::default() }),
            request: Some(Bytes::from_static(b"{\"kind\":\"Pod\"}")),
            response: Some(Bytes::from_static(b"{\"kind\":\"Pod\",\"x\":1}")),
            received: "2026-11-21T12:00:00.000001Z".parse().unwrap(),
            annotations: [("authorization.k8s.io/decision".to_owned(), "allow".to_owned())].into(),
        };
        let at = "2026-11-21T12:00:00.5Z".parse().unwrap();
        let bytes = event.encode(Stage::ResponseComplete, at);
        let line: Vec<u8> = alone(&bytes).flatten().copied().collect();
        assert_eq!(
            String::from_utf8(line).unwrap(),
            concat!(
                r#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"RequestResponse","auditID":"id","#,
                r#""stage":"ResponseComplete","requestURI":"/api/v1/namespaces/x/pods?a=\"b\"","verb":"create","#,
                r#""user":{"groups":["g"],"username":"u"},"impersonatedUser":{"username":"v"},"#,
                r#""authenticationMetadata":{"impersonationConstraint":"impersonate:user-info"},"#,
                r#""sourceIPs":["192.0.2.1"],"userAgent":"kubectl","#,
                r#""objectRef":{"resource":"pods","apiVersion":"v1"},"responseStatus":{"code":201,"metadata":{}},"#,
                r#""requestObject":{"kind":"Pod"},"responseObject":{"kind":"Pod","x":1},"#,
                r#""requestReceivedTimestamp":"2026-11-21T12:00:00.000001Z","#,
                r#""stageTimestamp":"2026-11-21T12:00:00.500000Z","#,
                r#""annotations":{"authorization.k8s.io/decision":"allow"}}"#
            )
        );
        let list = list(&[Bytes::from(bytes.clone()), Bytes::from(bytes)]);
        assert_eq!(serde_json::from_slice::<Json>(&list).unwrap()["items"].as_array().unwrap().len(), 2);
        let huge = Event { response: Some(vec![b'1'; MAX_EVENT + 1].into()), ..event };
        let told: Json = serde_json::from_slice(&huge.encode(Stage::ResponseComplete, at)).unwrap();
        assert_eq!(told["annotations"][TRUNCATED], "true");
        assert_eq!(told.get("responseObject"), None);
    }

    #[test]
    fn objects_lose_managed_fields_and_line_breaks() {
        for (json, omit, expected) in [
            ("{\"a\":1}\n", false, "{\"a\":1}"),
            ("{\n  \"a\": 1\n}", false, "{\"a\":1}"),
            ("{\"metadata\":{\"name\":\"x\",\"managedFields\":[]}}", true, "{\"metadata\":{\"name\":\"x\"}}"),
            (
                "{\"items\":[{\"metadata\":{\"managedFields\":[1]}}],\"rows\":[{\"object\":{\"metadata\":{\"managedFields\":[1]}}}]}",
                true,
                "{\"items\":[{\"metadata\":{}}],\"rows\":[{\"object\":{\"metadata\":{}}}]}",
            ),
            ("no\njson", false, "\"no\\njson\""),
        ] {
            assert_eq!(object_json(&Bytes::from(json), omit), expected);
        }
        let id = audit_id(&Entropy::seeded(1));
        assert!(id.len() == 36 && id.as_bytes()[14] == b'4' && uuid::Uuid::parse_str(&id).is_ok());
    }
}
