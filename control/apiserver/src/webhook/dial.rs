//! Connections to webhooks: TCP from here, or through a node's tunnel to a pod, with TLS inside.

use super::target::{Credentials, Host, WebhookTarget};
use crate::{
    admission::Lookup,
    streams::{NodeIo, NodeTarget, SharedConnector},
};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::TokioIo,
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use timonel_api::Value;
use timonel_runtime::Entropy;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Where the system keeps the authorities it trusts.
const SYSTEM_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// What dialling needs.
#[derive(Clone)]
pub(super) struct Dialer {
    pub(super) target: Arc<WebhookTarget>,
    pub(super) tls: Arc<ClientConfig>,
    pub(super) lookup: Arc<dyn Lookup>,
    pub(super) nodes: Option<SharedConnector>,
    pub(super) entropy: Entropy,
}

/// One address to try.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Address {
    node: String,
    host: String,
    port: u16,
}

impl Dialer {
    /// A connection with TLS, or in clear where that was configured.
    pub(super) async fn dial(&self) -> io::Result<Wire> {
        let io = self.reach().await?;
        if self.target.plain {
            return Ok(Wire { io: TokioIo::new(io), http2: false });
        }
        let name = self.target.server_name();
        let name = rustls::pki_types::ServerName::try_from(name).map_err(io::Error::other)?;
        let stream = TlsConnector::from(self.tls.clone()).connect(name, io).await?;
        let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        Ok(Wire { io: TokioIo::new(Box::new(stream)), http2 })
    }

    async fn reach(&self) -> io::Result<Box<dyn NodeIo>> {
        let address = match &self.target.host {
            Host::Name(name) => Address { node: String::new(), host: name.clone(), port: self.target.port },
            Host::Service { namespace, name } => self.resolve(namespace, name)?,
        };
        if let (Some(nodes), false) = (&self.nodes, address.node.is_empty()) {
            let to = NodeTarget::Tcp { host: address.host.clone(), port: address.port };
            return nodes.connect(&address.node, to).await;
        }
        let stream = TcpStream::connect((address.host.as_str(), address.port)).await?;
        stream.set_nodelay(true)?;
        Ok(Box::new(stream))
    }

    /// One ready endpoint of a Service, since its cluster address means nothing where no proxy runs.
    fn resolve(&self, namespace: &str, name: &str) -> io::Result<Address> {
        let missing = || io::Error::new(io::ErrorKind::NotFound, format!("service {name:?} not found"));
        let service = self.lookup.get("", "services", namespace, name).ok_or_else(missing)?;
        if service.str_at(&["spec", "type"]) == "ExternalName" {
            let host = service.str_at(&["spec", "externalName"]).to_owned();
            return Ok(Address { node: String::new(), host, port: self.target.port });
        }
        let port_name = port_name(&service, self.target.port).ok_or_else(|| {
            io::Error::other(format!("no service port {} found for service {name:?}", self.target.port))
        })?;
        let mut ready = Vec::new();
        for slice in self.lookup.list("discovery.k8s.io", "endpointslices", Some(namespace)) {
            if slice.str_at(&["metadata", "labels", "kubernetes.io/service-name"]) == name {
                ready_in(&slice, &port_name, &mut ready);
            }
        }
        let chosen = usize::try_from(self.entropy.below((ready.len() as u64).max(1))).unwrap_or(0);
        let none = || io::Error::other(format!("no endpoints available for service {name:?}"));
        ready.into_iter().nth(chosen).ok_or_else(none)
    }
}

/// The name of a Service's port; pure.
fn port_name(service: &Value, wanted: u16) -> Option<String> {
    let mut ports = service.list_at(&["spec", "ports"]).iter();
    ports.find(|port| port.int_at(&["port"]) == Some(wanted.into())).map(|port| port.str_at(&["name"]).to_owned())
}

/// Ready endpoints of a slice behind a port's name; pure.
fn ready_in(slice: &Value, port_name: &str, found: &mut Vec<Address>) {
    let port = slice.list_at(&["ports"]).iter().find(|port| port.str_at(&["name"]) == port_name);
    let Some(port) = port.and_then(|port| port.int_at(&["port"])).and_then(|port| u16::try_from(port).ok()) else {
        return;
    };
    for endpoint in slice.list_at(&["endpoints"]) {
        if endpoint.bool_at(&["conditions", "ready"]) == Some(false) {
            continue;
        }
        if let Some(host) = endpoint.list_at(&["addresses"]).first().and_then(Value::as_str) {
            found.push(Address { node: endpoint.str_at(&["nodeName"]).to_owned(), host: host.to_owned(), port });
        }
    }
}

/// TLS towards a target: trusts its bundle, or the system's authorities when there is none.
pub(super) fn tls(target: &WebhookTarget) -> Result<ClientConfig, String> {
    let identity = identity(&target.credentials)?;
    let mut config = if target.credentials.insecure {
        crate::connect::unchecked_tls(identity).map_err(|error| error.to_string())?
    } else {
        checked_tls(&target.ca_bundle, identity)?
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// The client's certificate and key, if it has them.
fn identity(credentials: &Credentials) -> Result<Option<Identity>, String> {
    if credentials.certificate_pem.is_empty() {
        return Ok(None);
    }
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&credentials.certificate_pem).collect();
    let chain = chain.map_err(|error| format!("client certificate: {error}"))?;
    let key = PrivateKeyDer::from_pem_slice(&credentials.key_pem).map_err(|error| format!("client key: {error}"))?;
    Ok(Some((chain, key)))
}

fn checked_tls(ca_bundle: &[u8], identity: Option<Identity>) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    let system;
    let pem = if ca_bundle.is_empty() {
        system = std::fs::read(SYSTEM_AUTHORITIES).unwrap_or_default();
        &system
    } else {
        ca_bundle
    };
    for certificate in CertificateDer::pem_slice_iter(pem).flatten() {
        // Bundles may hold what this library does not take; what it takes still counts.
        drop(roots.add(certificate));
    }
    if roots.is_empty() && !ca_bundle.is_empty() {
        return Err("unable to load root certificates: unable to parse bytes as PEM block".to_owned());
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = builder.with_root_certificates(roots);
    match identity {
        None => Ok(builder.with_no_client_auth()),
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(|error| error.to_string()),
    }
}

/// A connection as the HTTP client takes it.
pub(super) struct Wire {
    io: TokioIo<Box<dyn NodeIo>>,
    http2: bool,
}

impl Connection for Wire {
    fn connected(&self) -> Connected {
        let connected = Connected::new();
        if self.http2 { connected.negotiated_h2() } else { connected }
    }
}

impl Read for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_read(cx, buf)
    }
}

impl Write for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_service_leads_to_ready_endpoints_behind_its_port() {
        let service = json!({"spec": {"ports": [{"name": "web", "port": 443}, {"name": "x", "port": 81}]}}).into();
        assert_eq!(port_name(&service, 443).as_deref(), Some("web"));
        assert_eq!(port_name(&service, 80), None);
        let slice = json!({"ports": [{"name": "web", "port": 8443}], "endpoints": [
            {"addresses": ["10.0.0.1"], "nodeName": "n", "conditions": {"ready": true}},
            {"addresses": ["10.0.0.2"], "conditions": {"ready": false}}]});
        let mut found = Vec::new();
        ready_in(&slice.into(), "web", &mut found);
        assert_eq!(found, [Address { node: "n".into(), host: "10.0.0.1".into(), port: 8443 }]);
    }
}
