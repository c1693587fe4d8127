//! The way from a cluster's API to its nodes: their own tunnel, here or at another control machine; or, for nodes without one (upstream's kubelet), a
//! connection to the address that the Node claims, within the ranges that the operator allows.

use crate::{
    peers::Peers,
    tenant::{Inside, Shared, Tenant},
};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use rustls::pki_types::ServerName;
use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use timonel_apiserver::streams::{NodeConnector, NodeIo, NodeTarget};
use timonel_tunnel::{Target, TunnelError, TunnelServer};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// How long a request waits for a node that is not connected.
const NODE_PATIENCE: Duration = Duration::from_secs(5);
/// Time for a connection to a node, TLS included.
const DIAL: Duration = Duration::from_secs(10);

/// The way to the nodes of one cluster.
#[derive(Debug)]
pub(crate) struct Nodes {
    cluster: String,
    tunnel: Arc<TunnelServer>,
    inside: Arc<Inside>,
    direct: Arc<[IpNet]>,
    peers: Peers,
}

impl Nodes {
    pub(crate) fn new(cluster: &str, tunnel: Arc<TunnelServer>, inside: Arc<Inside>, shared: &Shared) -> Self {
        let (direct, peers) = (shared.direct_nodes.clone(), shared.peers.clone());
        Self { cluster: cluster.to_owned(), tunnel, inside, direct, peers }
    }

    async fn tunnelled(&self, node: &str, target: NodeTarget) -> io::Result<Box<dyn NodeIo>> {
        let target = match target {
            NodeTarget::Kubelet => Target::Kubelet,
            NodeTarget::Tcp { host, port } => Target::Tcp { host, port },
        };
        if !self.tunnel.has(node)
            && let Some(stream) = self.peers.open(&self.cluster, node, &target).await?
        {
            return Ok(Box::new(stream));
        }
        // It may be about to come back, here or elsewhere.
        match self.tunnel.open(node, &target, NODE_PATIENCE).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error @ TunnelError::NotConnected(_)) => {
                let elsewhere = self.peers.open(&self.cluster, node, &target).await?;
                elsewhere.map(|stream| Box::new(stream) as Box<dyn NodeIo>).ok_or_else(|| io::Error::other(error))
            }
            Err(error) => Err(io::Error::other(error)),
        }
    }

    async fn dial(&self, tenant: &Tenant, address: SocketAddr, kubelet: bool) -> io::Result<Box<dyn NodeIo>> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        if !kubelet {
            return Ok(Box::new(stream));
        }
        let config = tenant.kubelet_tls().map_err(io::Error::other)?;
        let name = ServerName::IpAddress(address.ip().into());
        Ok(Box::new(TlsConnector::from(config).connect(name, stream).await?))
    }
}

#[async_trait::async_trait]
impl NodeConnector for Nodes {
    async fn connect(&self, node: &str, target: NodeTarget) -> io::Result<Box<dyn NodeIo>> {
        let tenant = self.inside.tenant();
        let (false, Some(tenant)) = (self.direct.is_empty() || self.tunnel.has(node), tenant) else {
            return self.tunnelled(node, target).await;
        };
        let claimed = match &target {
            NodeTarget::Kubelet => {
                let nodes: Api<Node> = Api::all(tenant.client("apiserver"));
                nodes.get_opt(node).await.map_err(io::Error::other)?.as_ref().and_then(kubelet_address)
            }
            NodeTarget::Tcp { host, port } => host.parse().ok().map(|ip: IpAddr| SocketAddr::new(ip, *port)),
        };
        match claimed.filter(|address| self.direct.iter().any(|range| range.contains(&address.ip()))) {
            Some(address) => {
                let dial = self.dial(&tenant, address, target == NodeTarget::Kubelet);
                tokio::time::timeout(DIAL, dial).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
            }
            None => self.tunnelled(node, target).await,
        }
    }
}

/// Where a node says that its kubelet listens.
fn kubelet_address(node: &Node) -> Option<SocketAddr> {
    let status = node.status.as_ref()?;
    let port = u16::try_from(status.daemon_endpoints.as_ref()?.kubelet_endpoint.as_ref()?.port).ok()?;
    let mut addresses = status.addresses.iter().flatten().filter(|address| address.type_ == "InternalIP");
    let ip = addresses.find_map(|address| address.address.parse().ok())?;
    (port != 0).then_some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kubelet_is_where_its_node_says() {
        for (status, expected) in [
            (
                r#"{"addresses": [{"type": "Hostname", "address": "n"}, {"type": "InternalIP", "address": "10.0.0.7"}],
                    "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}}}"#,
                Some("10.0.0.7:10250"),
            ),
            (r#"{"addresses": [{"type": "InternalIP", "address": "10.0.0.7"}]}"#, None),
            (r#"{"addresses": [], "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}}}"#, None),
        ] {
            let node = format!(r#"{{"metadata": {{"name": "n"}}, "status": {status}}}"#);
            let node: Node = serde_json::from_str(&node).unwrap();
            assert_eq!(kubelet_address(&node), expected.map(|address| address.parse().unwrap()), "{status}");
        }
    }
}
