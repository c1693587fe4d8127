//! Kubeconfig files: one context per cluster, merged into what a person already has.

use crate::PkiError;
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// How a context proves who it is.
#[derive(Clone)]
pub enum Credential {
    /// A client certificate.
    Certificate {
        /// Certificate in PEM.
        cert_pem: String,
        /// Key in PEM.
        key_pem: String,
    },
    /// A bearer token.
    Token(String),
    /// A client certificate in a file, which something else keeps fresh (the kubelet's own).
    CertificateFile {
        /// Path of certificate and key.
        cert: String,
        /// Path of the key.
        key: String,
    },
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Self::Certificate { .. } => "Certificate",
            Self::Token(_) => "Token",
            Self::CertificateFile { .. } => "CertificateFile",
        })
    }
}

/// One context with its cluster and user, all of the same name.
#[derive(Clone, Debug)]
pub struct KubeconfigEntry {
    /// Name of context, cluster and user.
    pub name: String,
    /// `https://host:port`.
    pub server: String,
    /// Whom to trust.
    pub ca_pem: String,
    /// Server name to ask for, where DNS has none.
    pub tls_server_name: Option<String>,
    /// Who one is.
    pub credential: Credential,
    /// Namespace, where it is not `default`.
    pub namespace: Option<String>,
}

/// A kubeconfig. Keeps members it does not know.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Kubeconfig {
    #[serde(rename = "apiVersion", default = "v1")]
    api_version: String,
    #[serde(default = "config")]
    kind: String,
    #[serde(default)]
    clusters: Vec<Named>,
    #[serde(default)]
    contexts: Vec<Named>,
    #[serde(rename = "current-context", default)]
    current_context: String,
    #[serde(default)]
    users: Vec<Named>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Named {
    name: String,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

fn v1() -> String {
    "v1".to_owned()
}

fn config() -> String {
    "Config".to_owned()
}

impl Default for Kubeconfig {
    fn default() -> Self {
        Self {
            api_version: v1(),
            kind: config(),
            clusters: Vec::new(),
            contexts: Vec::new(),
            current_context: String::new(),
            users: Vec::new(),
            rest: Map::new(),
        }
    }
}

impl Kubeconfig {
    /// Parses a kubeconfig; an empty text is an empty one.
    ///
    /// # Errors
    /// When it is no kubeconfig.
    pub fn parse(yaml: &str) -> Result<Self, PkiError> {
        if yaml.trim().is_empty() {
            return Ok(Self::default());
        }
        serde_saphyr::from_str(yaml).map_err(|error| PkiError::Kubeconfig(error.to_string()))
    }

    /// As YAML.
    ///
    /// # Errors
    /// When the YAML library refuses.
    pub fn to_yaml(&self) -> Result<String, PkiError> {
        serde_saphyr::to_string(self).map_err(|error| PkiError::Kubeconfig(error.to_string()))
    }

    /// Adds a context or replaces the one of the same name; the first becomes current.
    pub fn set(&mut self, entry: &KubeconfigEntry) {
        let mut cluster = json!({
            "server": entry.server,
            "certificate-authority-data": BASE64.encode(&entry.ca_pem),
        });
        if let Some(name) = &entry.tls_server_name {
            cluster["tls-server-name"] = name.as_str().into();
        }
        let user = match &entry.credential {
            Credential::Certificate { cert_pem, key_pem } => json!({
                "client-certificate-data": BASE64.encode(cert_pem),
                "client-key-data": BASE64.encode(key_pem),
            }),
            Credential::Token(token) => json!({"token": token}),
            Credential::CertificateFile { cert, key } => json!({"client-certificate": cert, "client-key": key}),
        };
        let mut context = json!({"cluster": entry.name, "user": entry.name});
        if let Some(namespace) = &entry.namespace {
            context["namespace"] = namespace.as_str().into();
        }
        put(&mut self.clusters, &entry.name, "cluster", cluster);
        put(&mut self.users, &entry.name, "user", user);
        put(&mut self.contexts, &entry.name, "context", context);
        if self.current_context.is_empty() {
            self.current_context.clone_from(&entry.name);
        }
    }

    /// Removes a context with its cluster and user; another becomes current if it was.
    pub fn remove(&mut self, name: &str) {
        for list in [&mut self.clusters, &mut self.users, &mut self.contexts] {
            list.retain(|named| named.name != name);
        }
        if self.current_context == name {
            self.current_context = self.contexts.first().map(|named| named.name.clone()).unwrap_or_default();
        }
    }

    /// Makes a context the current one.
    pub fn set_current(&mut self, name: &str) {
        name.clone_into(&mut self.current_context);
    }

    /// The current context.
    #[must_use]
    pub fn current(&self) -> &str {
        &self.current_context
    }

    /// Names of the contexts.
    pub fn contexts(&self) -> impl Iterator<Item = &str> {
        self.contexts.iter().map(|named| named.name.as_str())
    }
}

fn put(list: &mut Vec<Named>, name: &str, member: &str, value: Value) {
    let named = Named { name: name.to_owned(), rest: Map::from_iter([(member.to_owned(), value)]) };
    match list.iter_mut().find(|named| named.name == name) {
        Some(old) => *old = named,
        None => list.push(named),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str) -> KubeconfigEntry {
        KubeconfigEntry {
            name: name.into(),
            server: "https://127.0.0.1:6443".into(),
            ca_pem: "CA".into(),
            tls_server_name: Some(format!("{name}.example")),
            credential: Credential::Token("t".into()),
            namespace: None,
        }
    }

    #[test]
    fn contexts_are_merged_and_others_kept() {
        let mine = "apiVersion: v1\nkind: Config\ncurrent-context: mine\nclusters:\n- name: mine\n  cluster:\n    server: https://x\n    proxy-url: http://p\n";
        let mut config = Kubeconfig::parse(mine).unwrap();
        config.set(&entry("timonel-demo"));
        config.set(&entry("timonel-demo"));
        let mut config = Kubeconfig::parse(&config.to_yaml().unwrap()).unwrap();
        assert_eq!((config.current(), config.clusters.len()), ("mine", 2));
        assert_eq!(config.clusters[0].rest["cluster"]["proxy-url"], "http://p");
        assert_eq!(config.clusters[1].rest["cluster"]["tls-server-name"], "timonel-demo.example");
        config.set_current("timonel-demo");
        config.remove("timonel-demo");
        assert_eq!((config.current(), config.users.len()), ("", 0));
    }

    #[test]
    fn the_first_context_is_current() {
        let mut config = Kubeconfig::parse("").unwrap();
        config.set(&entry("a"));
        config.set(&entry("b"));
        assert_eq!(config.current(), "a");
        assert_eq!(config.contexts().collect::<Vec<_>>(), ["a", "b"]);
        assert!(Kubeconfig::parse("[1").is_err());
    }
}
