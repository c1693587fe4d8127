//! Connections to servers beside this one, webhooks and extension API servers: TCP from here, or through a node's
//! tunnel to a pod of a Service, with TLS inside. The one place that finds a Service's pods for the server itself.

use crate::{
    admission::Lookup,
    streams::{NodeConnector, NodeIo, NodeTarget, SharedConnector},
    unchecked_tls,
};
use async_trait::async_trait;
use futures::future::BoxFuture;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::TokioIo,
};
use ipnet::IpNet;
use rustls::{
    ClientConfig, RootCertStore,
    client::ResolvesClientCert,
    pki_types::{CertificateDer, pem::PemObject},
};
use std::{
    convert::Infallible,
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use timonel_api::Value;
use timonel_runtime::{Entropy, OnError, Tasks};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Where the system keeps the authorities it trusts.
const SYSTEM_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Addresses of a name that are tried.
const MAX_ADDRESSES: usize = 8;
/// Where EC2's metadata service answers over IPv6.
const AWS_METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254);

/// Who is dialled.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Host {
    /// A name or an address outside the cluster.
    Name(String),
    /// A Service.
    Service { namespace: String, name: String },
}

impl Host {
    /// The name that its certificate must have.
    pub(crate) fn server_name(&self) -> String {
        match self {
            Self::Name(name) => name.clone(),
            Self::Service { namespace, name } => format!("{name}.{namespace}.svc"),
        }
    }
}

/// What a dialled server must show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trust<'a> {
    /// A certificate of these authorities, in PEM; none for those of the system.
    Bundle(&'a [u8]),
    /// Any certificate.
    Anything,
}

/// The HTTP versions that are offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offer {
    /// Both.
    Any,
    /// HTTP/1.1 alone, which can be upgraded.
    Http1,
}

/// The way of one cluster to servers beside this one.
#[derive(Clone)]
pub(crate) struct Reach {
    pub(crate) lookup: Arc<dyn Lookup>,
    pub(crate) nodes: Option<SharedConnector>,
    pub(crate) entropy: Entropy,
    /// Of the addresses that mean this machine or its link, those that may be dialled from here.
    pub(crate) local: Arc<[IpNet]>,
}

/// What dialling needs.
#[derive(Clone)]
pub(crate) struct Dialer {
    pub(crate) host: Host,
    pub(crate) port: u16,
    /// The name that the certificate must have.
    pub(crate) server_name: String,
    /// None is spoken where clear text was configured.
    pub(crate) tls: Option<Arc<ClientConfig>>,
    pub(crate) reach: Reach,
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
    async fn dial(&self) -> io::Result<Wire> {
        let io = self.reach().await?;
        let Some(tls) = &self.tls else { return Ok(Wire { io: TokioIo::new(io), http2: false }) };
        let name = rustls::pki_types::ServerName::try_from(self.server_name.clone()).map_err(io::Error::other)?;
        let stream = TlsConnector::from(tls.clone()).connect(name, io).await?;
        let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        Ok(Wire { io: TokioIo::new(Box::new(stream)), http2 })
    }

    async fn reach(&self) -> io::Result<Box<dyn NodeIo>> {
        let address = match &self.host {
            Host::Name(name) => Address { node: String::new(), host: name.clone(), port: self.port },
            Host::Service { namespace, name } => self.resolve(namespace, name)?,
        };
        if let (Some(nodes), false) = (&self.reach.nodes, address.node.is_empty()) {
            let to = NodeTarget::Tcp { host: address.host.clone(), port: address.port };
            return nodes.connect(&address.node, to).await;
        }
        let found = tokio::net::lookup_host((address.host.as_str(), address.port)).await?;
        let mut refused = io::Error::new(io::ErrorKind::AddrNotAvailable, format!("{:?} has no address", address.host));
        for to in found.take(MAX_ADDRESSES) {
            match connect(to, &self.reach.local).await {
                Ok(stream) => return Ok(Box::new(stream)),
                Err(error) => refused = error,
            }
        }
        Err(refused)
    }

    /// One ready endpoint of a Service, since its cluster address means nothing where no proxy runs.
    fn resolve(&self, namespace: &str, name: &str) -> io::Result<Address> {
        let nobody = |why: String| io::Error::new(io::ErrorKind::AddrNotAvailable, why);
        let missing = || nobody(format!("service {name:?} not found"));
        let service = self.reach.lookup.get("", "services", namespace, name).ok_or_else(missing)?;
        if service.str_at(&["spec", "type"]) == "ExternalName" {
            let host = service.str_at(&["spec", "externalName"]).to_owned();
            return Ok(Address { node: String::new(), host, port: self.port });
        }
        let port_name = port_name(&service, self.port)
            .ok_or_else(|| io::Error::other(format!("no service port {} found for service {name:?}", self.port)))?;
        let mut ready = Vec::new();
        for slice in self.reach.lookup.list("discovery.k8s.io", "endpointslices", Some(namespace)) {
            if slice.str_at(&["metadata", "labels", "kubernetes.io/service-name"]) == name {
                ready_in(&slice, &port_name, &mut ready);
            }
        }
        let chosen = usize::try_from(self.reach.entropy.below((ready.len() as u64).max(1))).unwrap_or(0);
        let none = || nobody(format!("no endpoints available for service {name:?}"));
        ready.into_iter().nth(chosen).ok_or_else(none)
    }
}

/// Whoever may write a URL, an external name or an endpoint chooses where this process connects to; what listens for
/// this machine alone, or hands out its credentials, is not for them.
async fn connect(to: SocketAddr, allowed: &[IpNet]) -> io::Result<TcpStream> {
    let address = to.ip().to_canonical();
    if is_local(address) && !allowed.iter().any(|range| range.contains(&address)) {
        let why = format!("{address} is an address of the control plane's own machine or link");
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    let stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Whether an address means this machine or its link, metadata services included.
fn is_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            v4.is_loopback() || v4.is_link_local() || v4.is_multicast() || v4.is_broadcast() || v4.octets()[0] == 0
        }
        IpAddr::V6(v6) => {
            v6.is_loopback()
                || v6.is_unspecified()
                || v6.is_multicast()
                || v6.is_unicast_link_local()
                || v6 == AWS_METADATA_V6
        }
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

/// TLS with a server that shows what is asked for; it is shown `identity`.
///
/// # Errors
/// With upstream's words, when the bundle holds no certificate.
pub(crate) fn tls(
    trust: Trust<'_>,
    identity: Option<Arc<dyn ResolvesClientCert>>,
    offer: Offer,
) -> Result<ClientConfig, String> {
    let mut config = match trust {
        Trust::Anything => unchecked_tls(None).map_err(|error| error.to_string())?,
        Trust::Bundle(bundle) => checked(bundle)?,
    };
    if let Some(identity) = identity {
        config.client_auth_cert_resolver = identity;
    }
    config.alpn_protocols = match offer {
        Offer::Any => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        Offer::Http1 => vec![b"http/1.1".to_vec()],
    };
    Ok(config)
}

fn checked(bundle: &[u8]) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    let system;
    let pem = if bundle.is_empty() {
        system = std::fs::read(SYSTEM_AUTHORITIES).unwrap_or_default();
        &system
    } else {
        bundle
    };
    for certificate in CertificateDer::pem_slice_iter(pem).flatten() {
        // Bundles may hold what this library does not take; what it takes still counts.
        drop(roots.add(certificate));
    }
    if roots.is_empty() && !bundle.is_empty() {
        return Err("unable to load root certificates: unable to parse bytes as PEM block".to_owned());
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// Upgraded connections are served as those to nodes are; node and target are the dialler's own.
#[async_trait]
impl NodeConnector for Dialer {
    async fn connect(&self, _: &str, _: NodeTarget) -> io::Result<Box<dyn NodeIo>> {
        Ok(self.dial().await?.io.into_inner())
    }
}

/// Gives an HTTP client its connections.
impl tower::Service<http::Uri> for Dialer {
    type Response = Wire;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Wire>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Uri) -> Self::Future {
        let dialer = self.clone();
        Box::pin(async move { dialer.dial().await })
    }
}

/// The work of an HTTP client's connections belongs to the server's tasks.
#[derive(Clone)]
pub(crate) struct Spawner(pub(crate) Tasks);

impl<F> hyper::rt::Executor<F> for Spawner
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, work: F) {
        self.0.spawn::<Infallible>("connection to another server", OnError::Log, async move {
            work.await;
            Ok(())
        });
    }
}

/// A connection as the HTTP client takes it.
pub(crate) struct Wire {
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
    fn what_is_local() {
        let cases = [
            ("127.0.0.1", true),
            ("127.8.0.1", true),
            ("0.0.0.0", true),
            ("0.1.2.3", true),
            ("169.254.169.254", true),
            ("224.0.0.1", true),
            ("255.255.255.255", true),
            ("::1", true),
            ("::", true),
            ("::ffff:127.0.0.1", true),
            ("fe80::1", true),
            ("ff02::1", true),
            ("fd00:ec2::254", true),
            ("10.0.0.1", false),
            ("192.168.0.1", false),
            ("203.0.113.7", false),
            ("fd00::1", false),
            ("2001:db8::1", false),
        ];
        for (address, local) in cases {
            let parsed: IpAddr = address.parse().unwrap();
            assert_eq!(is_local(parsed.to_canonical()), local, "{address}");
        }
    }

    #[tokio::test]
    async fn this_machine_is_dialled_only_where_that_is_allowed() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = listener.local_addr().unwrap();
        let mapped = SocketAddr::new("::ffff:127.0.0.1".parse().unwrap(), to.port());
        for address in [to, mapped] {
            let refused = connect(address, &["10.0.0.0/8".parse().unwrap()]).await.unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied, "{address}: {refused}");
        }
        connect(to, &["127.0.0.0/8".parse().unwrap()]).await.unwrap();
    }

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
