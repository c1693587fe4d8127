//! Events as objects of the core API.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};
use timonel_cloud_core::Subject;

/// Longest message that the API takes.
const MESSAGE_BYTES: usize = 1024;

/// Path and body of an event about `subject`. `serial` tells events of one instant apart.
pub(crate) fn event(
    subject: &Subject,
    source: &str,
    (warning, reason, message): (bool, &str, &str),
    (now, serial): (Timestamp, u32),
) -> (String, Value) {
    let (api_version, kind, _) = subject.kind.names();
    let namespace = subject.namespace.as_deref().unwrap_or("default");
    let name = format!("{}.{:x}", subject.name, now.as_nanosecond().saturating_add(i128::from(serial)));
    let mut end = message.len().min(MESSAGE_BYTES);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    let body = json!({
        "apiVersion": "v1", "kind": "Event", "metadata": { "name": name, "namespace": namespace },
        "involvedObject": {
            "apiVersion": api_version, "kind": kind, "namespace": subject.namespace, "name": subject.name,
            "uid": subject.uid, "resourceVersion": subject.version,
        },
        "type": if warning { "Warning" } else { "Normal" }, "reason": reason, "message": &message[..end],
        "source": { "component": source }, "reportingComponent": source, "count": 1,
        "firstTimestamp": Time(now), "lastTimestamp": Time(now),
    });
    (format!("/api/v1/namespaces/{namespace}/events"), body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use timonel_cloud_core::Kind;

    #[test]
    fn long_messages_are_cut_between_characters() {
        let subject = Subject::absent(Kind::Node, "n");
        let message = "é".repeat(MESSAGE_BYTES);
        let (path, body) = event(&subject, "s", (true, "R", &message), (Timestamp::UNIX_EPOCH, 0));
        assert_eq!(path, "/api/v1/namespaces/default/events");
        assert_eq!(body["message"].as_str().unwrap().len(), MESSAGE_BYTES);
    }
}
