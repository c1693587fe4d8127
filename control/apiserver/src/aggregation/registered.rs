//! What an `APIService` says. Pure.

use base64::{Engine, engine::general_purpose::STANDARD};
use timonel_api::{Key, Value};

/// The group of `APIService`.
pub(super) const GROUP: &str = "apiregistration.k8s.io";
pub(super) const PLURAL: &str = "apiservices";
/// The condition that says whether a server can be asked.
pub(super) const AVAILABLE: &str = "Available";

/// One `APIService`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Registered {
    pub(crate) name: Key,
    pub(crate) group: Key,
    pub(crate) version: Key,
    pub(crate) group_priority: i64,
    pub(crate) version_priority: i64,
    /// Who answers; this server itself when there is none.
    pub(crate) server: Option<Server>,
    /// Whether the server was there when it was last asked.
    pub(crate) available: bool,
}

/// A server that answers for a group and version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Server {
    pub(crate) namespace: String,
    pub(crate) service: String,
    pub(crate) port: u16,
    /// PEM; empty for the authorities of the system.
    pub(crate) ca_bundle: Vec<u8>,
    /// Whether its certificate is nobody's business.
    pub(crate) insecure: bool,
}

impl Registered {
    /// From the object.
    pub(crate) fn read(object: &Value) -> Self {
        let spec = |field: &str| Key::from(object.str_at(&["spec", field]));
        let number = |field: &str| object.int_at(&["spec", field]).unwrap_or(0);
        Self {
            name: object.str_at(&["metadata", "name"]).into(),
            group: spec("group"),
            version: spec("version"),
            group_priority: number("groupPriorityMinimum"),
            version_priority: number("versionPriority"),
            server: Server::read(object),
            available: condition(object).is_some_and(|condition| condition.str_at(&["status"]) == "True"),
        }
    }
}

impl Server {
    fn read(object: &Value) -> Option<Self> {
        const HTTPS: u16 = 443;
        let service = object.at(&["spec", "service"]).filter(|service| !service.is_null())?;
        let port = service.int_at(&["port"]).and_then(|port| u16::try_from(port).ok());
        Some(Self {
            namespace: service.str_at(&["namespace"]).to_owned(),
            service: service.str_at(&["name"]).to_owned(),
            port: port.unwrap_or(HTTPS),
            // What is stored has been decoded before: it is base64.
            ca_bundle: STANDARD.decode(object.str_at(&["spec", "caBundle"])).unwrap_or_default(),
            insecure: object.bool_at(&["spec", "insecureSkipTLSVerify"]).unwrap_or(false),
        })
    }
}

/// The condition of an `APIService` that says whether it is available.
pub(super) fn condition(object: &Value) -> Option<&Value> {
    object.list_at(&["status", "conditions"]).iter().find(|condition| condition.str_at(&["type"]) == AVAILABLE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_service_answers_or_this_server_does() {
        let local = json!({"metadata": {"name": "v1.apps"}, "spec": {"group": "apps", "version": "v1",
            "groupPriorityMinimum": 17800, "versionPriority": 15}});
        let local = Registered::read(&local.into());
        assert_eq!(
            (&*local.group, &*local.version, local.group_priority, local.version_priority),
            ("apps", "v1", 17800, 15)
        );
        assert!(local.server.is_none() && !local.available);
        let remote = json!({"metadata": {"name": "v1.a.b"}, "spec": {"group": "a.b", "version": "v1", "caBundle": "YQ==",
            "service": {"namespace": "n", "name": "s", "port": 8443}},
            "status": {"conditions": [{"type": "Other", "status": "False"}, {"type": "Available", "status": "True"}]}});
        let remote = Registered::read(&remote.into());
        assert!(remote.available);
        let server = remote.server.unwrap();
        assert_eq!(
            (&*server.namespace, &*server.service, server.port, &*server.ca_bundle),
            ("n", "s", 8443, &b"a"[..])
        );
    }
}
