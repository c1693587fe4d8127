//! Where a webhook is: a URL, or a Service of the cluster, with the authorities that vouch for it. Pure.

use super::CallError;
use crate::dial::Host;
use base64::Engine;
use timonel_api::Value;

/// A webhook's place, from the `clientConfig` of its configuration or from a kubeconfig.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct WebhookTarget {
    pub(super) host: Host,
    pub(super) port: u16,
    /// Path and query, with the leading slash.
    pub(super) path: String,
    /// PEM; empty for the authorities of the system.
    pub(super) ca_bundle: Vec<u8>,
    /// Spoken in clear: only what an operator configured may be.
    pub(super) plain: bool,
    /// Who one is towards it.
    pub(crate) credentials: Credentials,
}

/// Who one is towards a server, and how far it is trusted.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Credentials {
    /// The client's certificate and key in PEM; empty for none.
    pub(crate) certificate_pem: Vec<u8>,
    pub(crate) key_pem: Vec<u8>,
    /// The header `Authorization`; empty for none.
    pub(crate) authorization: String,
    /// The name that the server's certificate must have, where it is not the host's.
    pub(crate) server_name: String,
    /// Whether any certificate will do.
    pub(crate) insecure: bool,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Credentials").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

impl WebhookTarget {
    /// From a `clientConfig`.
    pub(crate) fn parse(config: &Value) -> Result<Self, CallError> {
        let ca_bundle = base64::engine::general_purpose::STANDARD
            .decode(config.str_at(&["caBundle"]))
            .map_err(|_| CallError::Config("unable to load root certificates: the bundle is not base64".to_owned()))?;
        if let Some(service) = config.get("service").filter(|service| !service.is_null()) {
            let text = |field: &str| service.str_at(&[field]).to_owned();
            let port = service.int_at(&["port"]).unwrap_or(443);
            let port = u16::try_from(port).map_err(|_| CallError::Config(format!("invalid port {port}")))?;
            let host = Host::Service { namespace: text("namespace"), name: text("name") };
            let path = rooted(&text("path"));
            return Ok(Self { host, port, path, ca_bundle, plain: false, credentials: Credentials::default() });
        }
        let url = config.str_at(&["url"]);
        if !url.starts_with("https:") {
            return Err(CallError::Config(format!("invalid URL {url:?}")));
        }
        Self::of_server(url, ca_bundle, Credentials::default())
    }

    /// From the URL of a server outside the cluster.
    pub(crate) fn of_server(url: &str, ca_bundle: Vec<u8>, credentials: Credentials) -> Result<Self, CallError> {
        let refused = || CallError::Config(format!("invalid URL {url:?}"));
        let uri: http::Uri = url.parse().map_err(|_| refused())?;
        let (plain, standard) = match uri.scheme_str() {
            Some("https") => (false, 443),
            Some("http") => (true, 80),
            _ => return Err(refused()),
        };
        let host = Host::Name(uri.host().ok_or_else(refused)?.trim_matches(['[', ']']).to_owned());
        let path = rooted(uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str));
        Ok(Self { host, port: uri.port_u16().unwrap_or(standard), path, ca_bundle, plain, credentials })
    }

    /// The name that its certificate must have.
    pub(super) fn server_name(&self) -> String {
        match self.credentials.server_name.as_str() {
            "" => self.host.server_name(),
            name => name.to_owned(),
        }
    }

    /// The URL of a call, as messages and requests name it.
    pub(crate) fn url(&self, timeout_seconds: Option<u64>) -> String {
        let name = self.host.server_name();
        let name = if name.contains(':') { format!("[{name}]") } else { name };
        let port = match &self.host {
            Host::Name(_) if self.port == if self.plain { 80 } else { 443 } => String::new(),
            _ => format!(":{}", self.port),
        };
        let timeout = timeout_seconds.map_or_else(String::new, |seconds| {
            let joint = if self.path.contains('?') { '&' } else { '?' };
            format!("{joint}timeout={seconds}s")
        });
        let scheme = if self.plain { "http" } else { "https" };
        format!("{scheme}://{name}{port}{}{timeout}", self.path)
    }
}

fn rooted(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn places_have_upstreams_urls() {
        for (config, url) in [
            (
                json!({"service": {"namespace": "n", "name": "s", "path": "validate", "port": 8443}}),
                Some("https://s.n.svc:8443/validate?timeout=5s"),
            ),
            (json!({"service": {"namespace": "n", "name": "s"}}), Some("https://s.n.svc:443/?timeout=5s")),
            (json!({"url": "https://example.com/a?b=c"}), Some("https://example.com/a?b=c&timeout=5s")),
            (json!({"url": "https://[::1]:9/x"}), Some("https://[::1]:9/x?timeout=5s")),
            (json!({"url": "http://example.com"}), None),
            (json!({"url": "https://a", "caBundle": "?"}), None),
        ] {
            let target = WebhookTarget::parse(&Value::from(config.clone()));
            assert_eq!(target.ok().map(|target| target.url(Some(5))).as_deref(), url, "{config}");
        }
    }
}
