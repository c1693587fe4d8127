//! What the proxy needs to know of Services and EndpointSlices, reduced to plain values. Pure.

use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use std::net::{Ipv4Addr, SocketAddrV4};

/// Transport protocol of a service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP, the default.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// nftables' word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }

    fn parse(text: Option<&str>) -> Self {
        match text {
            Some("UDP") => Self::Udp,
            Some("SCTP") => Self::Sctp,
            _ => Self::Tcp,
        }
    }
}

/// The node that the rules are for.
#[derive(Clone, Debug, Default)]
pub struct NodeView {
    /// Its name, as endpoints say it.
    pub name: String,
    /// Its own addresses: node ports answer on these.
    pub addresses: Vec<Ipv4Addr>,
}

/// One backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// Where it listens.
    pub address: SocketAddrV4,
    /// Whether it runs on this node.
    pub local: bool,
    /// Whether it is ready; one that is not still serves while it ends.
    pub ready: bool,
}

/// One port of a service with its backends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortView {
    /// Protocol.
    pub protocol: Protocol,
    /// Port on the service's addresses.
    pub port: u16,
    /// Port on the node's addresses.
    pub node_port: Option<u16>,
    /// Backends that may take traffic, sorted: the ready ones and those that still serve while they end.
    pub endpoints: Vec<Endpoint>,
}

impl PortView {
    /// Backends for everybody: the ready ones, or those that end when no other is left (KEP-1669).
    #[must_use]
    pub fn anywhere(&self) -> Vec<Endpoint> {
        ready_or_ending(self.endpoints.iter())
    }

    /// The same among the backends of this node.
    #[must_use]
    pub fn here(&self) -> Vec<Endpoint> {
        ready_or_ending(self.endpoints.iter().filter(|endpoint| endpoint.local))
    }
}

fn ready_or_ending<'a>(endpoints: impl Iterator<Item = &'a Endpoint>) -> Vec<Endpoint> {
    let (ready, ending): (Vec<_>, Vec<_>) = endpoints.copied().partition(|endpoint| endpoint.ready);
    if ready.is_empty() { ending } else { ready }
}

/// One service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceView {
    /// `namespace/name`.
    pub name: String,
    /// ClusterIPs (IPv4).
    pub cluster_ips: Vec<Ipv4Addr>,
    /// `externalIPs` and load-balancer addresses.
    pub external_ips: Vec<Ipv4Addr>,
    /// Whether inside traffic stays on the node.
    pub internal_local: bool,
    /// Whether outside traffic stays on the node (and keeps its source address).
    pub external_local: bool,
    /// Seconds a client sticks to its endpoint.
    pub affinity_seconds: Option<u32>,
    /// Who may use the load-balancer addresses; empty is everybody.
    pub source_ranges: Vec<String>,
    /// Port on which the node tells load balancers whether it has endpoints.
    pub health_check_port: Option<u16>,
    /// Ports.
    pub ports: Vec<PortView>,
}

/// Default of `service.spec.sessionAffinityConfig.clientIP.timeoutSeconds`.
const AFFINITY_SECONDS: u32 = 10_800;
/// Label that ties a slice to its service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Services of other proxies carry this label.
const OTHER_PROXY: &str = "service.kubernetes.io/service-proxy-name";

/// `namespace/name` of the service that a slice belongs to; none for one that the proxy has no use for.
pub(crate) fn service_of(slice: &EndpointSlice) -> Option<String> {
    let meta = &slice.metadata;
    let name = meta.labels.as_ref()?.get(SERVICE_NAME).filter(|_| slice.address_type == "IPv4")?;
    Some(format!("{}/{name}", meta.namespace.as_deref().unwrap_or_default()))
}

/// The view of a service with its slices; none when it has no ClusterIP or is another proxy's.
pub(crate) fn view<'a>(
    name: &str,
    service: &Service,
    slices: &(impl Iterator<Item = &'a EndpointSlice> + Clone),
    node: &NodeView,
) -> Option<ServiceView> {
    let spec = service.spec.as_ref()?;
    if service.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(OTHER_PROXY)) {
        return None;
    }
    let cluster_ips = addresses(spec.cluster_ips.as_deref().unwrap_or(spec.cluster_ip.as_slice()));
    if cluster_ips.is_empty() || spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    let mut external_ips = addresses(spec.external_ips.as_deref().unwrap_or_default());
    external_ips.extend(load_balancer_ips(service));
    external_ips.sort_unstable();
    external_ips.dedup();
    let affinity = (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
        let client_ip = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
        client_ip.and_then(|c| c.timeout_seconds).and_then(|s| u32::try_from(s).ok()).unwrap_or(AFFINITY_SECONDS)
    });
    let ports = spec.ports.iter().flatten().filter_map(|port| {
        Some(PortView {
            protocol: Protocol::parse(port.protocol.as_deref()),
            port: u16::try_from(port.port).ok()?,
            node_port: port.node_port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0),
            endpoints: endpoints(slices.clone(), port.name.as_deref().unwrap_or_default(), node),
        })
    });
    Some(ServiceView {
        name: name.to_owned(),
        cluster_ips,
        external_ips,
        internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
        external_local: spec.external_traffic_policy.as_deref() == Some("Local"),
        affinity_seconds: affinity,
        source_ranges: spec.load_balancer_source_ranges.clone().unwrap_or_default(),
        health_check_port: spec.health_check_node_port.and_then(|port| u16::try_from(port).ok()).filter(|p| *p != 0),
        ports: ports.collect(),
    })
}

fn addresses(texts: &[String]) -> Vec<Ipv4Addr> {
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}

/// Addresses of the load balancer that the proxy may answer for; `ipMode: Proxy` asks it not to.
fn load_balancer_ips(service: &Service) -> impl Iterator<Item = Ipv4Addr> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    status
        .and_then(|balancer| balancer.ingress.as_deref())
        .unwrap_or_default()
        .iter()
        .filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"))
        .filter_map(|ingress| ingress.ip.as_deref()?.parse().ok())
}

/// Backends of the port of that name that are ready, or still serve while they end.
fn endpoints<'a>(slices: impl Iterator<Item = &'a EndpointSlice>, port_name: &str, node: &NodeView) -> Vec<Endpoint> {
    let mut chosen = Vec::new();
    for slice in slices {
        let port = slice.ports.iter().flatten().find(|port| port.name.as_deref().unwrap_or_default() == port_name);
        let Some(port) = port.and_then(|port| u16::try_from(port.port?).ok()) else { continue };
        for endpoint in slice.endpoints.iter().flatten() {
            let local = endpoint.node_name.as_deref() == Some(node.name.as_str());
            let Some(address) = endpoint.addresses.first().and_then(|address| address.parse().ok()) else { continue };
            let conditions = endpoint.conditions.as_ref();
            let ready = conditions.and_then(|c| c.ready) != Some(false);
            if ready || conditions.is_some_and(|c| c.serving == Some(true) && c.terminating == Some(true)) {
                chosen.push(Endpoint { address: SocketAddrV4::new(address, port), local, ready });
            }
        }
    }
    // Of an address that is in two slices, the ready one.
    chosen.sort_unstable_by_key(|endpoint| (endpoint.address, !endpoint.ready));
    chosen.dedup_by_key(|endpoint| endpoint.address);
    chosen
}

#[cfg(test)]
#[allow(clippy::needless_pass_by_value, reason = "`json!` literals read best by value")]
mod tests {
    use super::*;
    use serde_json::json;

    fn service(spec: serde_json::Value) -> Service {
        serde_json::from_value(json!({"metadata": {"namespace": "n", "name": "s"}, "spec": spec})).unwrap()
    }

    fn slice(endpoints: serde_json::Value) -> EndpointSlice {
        serde_json::from_value(json!({
            "addressType": "IPv4",
            "metadata": {"namespace": "n", "name": "s-1", "labels": {SERVICE_NAME: "s"}},
            "ports": [{"name": "http", "port": 8080}],
            "endpoints": endpoints,
        }))
        .unwrap()
    }

    fn seen(service: &Service, slices: &[EndpointSlice]) -> Option<ServiceView> {
        view("n/s", service, &slices.iter(), &node())
    }

    fn node() -> NodeView {
        NodeView { name: "node-1".into(), addresses: vec![Ipv4Addr::new(10, 0, 0, 5)] }
    }

    #[test]
    fn headless_external_name_and_foreign_services_are_left_out() {
        for spec in [json!({"clusterIP": "None"}), json!({"type": "ExternalName", "externalName": "x"})] {
            assert_eq!(seen(&service(spec), &[]), None);
        }
        let mut foreign = service(json!({"clusterIP": "10.96.0.1"}));
        foreign.metadata.labels = Some([(OTHER_PROXY.to_owned(), "x".to_owned())].into());
        assert_eq!(seen(&foreign, &[]), None);
    }

    #[test]
    fn ready_endpoints_win_over_ending_ones_here_and_anywhere() {
        let ports = json!({"clusterIP": "10.96.0.1", "ports": [{"name": "http", "port": 80}]});
        let ready = json!({"addresses": ["10.1.0.1"], "nodeName": "node-2", "conditions": {"ready": true}});
        let ending = json!({"addresses": ["10.1.0.2"], "nodeName": "node-1",
            "conditions": {"ready": false, "serving": true, "terminating": true}});
        let broken = json!({"addresses": ["10.1.0.3"], "conditions": {"ready": false, "serving": false}});
        for (listed, anywhere, here) in [
            (json!([ready, ending, broken]), vec!["10.1.0.1:8080"], vec!["10.1.0.2:8080"]),
            (json!([ending, broken]), vec!["10.1.0.2:8080"], vec!["10.1.0.2:8080"]),
            (json!([broken, ready]), vec!["10.1.0.1:8080"], Vec::<&str>::new()),
        ] {
            let found = seen(&service(ports.clone()), &[slice(listed)]).unwrap();
            let texts = |list: Vec<Endpoint>| list.iter().map(|e| e.address.to_string()).collect::<Vec<_>>();
            assert_eq!(texts(found.ports[0].anywhere()), anywhere);
            assert_eq!(texts(found.ports[0].here()), here);
        }
    }

    #[test]
    fn a_load_balancer_in_proxy_mode_is_not_answered_for() {
        let mut with = service(json!({"clusterIP": "10.96.0.1", "externalIPs": ["192.0.2.9"]}));
        with.status = serde_json::from_value(json!({"loadBalancer": {"ingress": [
            {"ip": "192.0.2.1", "ipMode": "VIP"}, {"ip": "192.0.2.2", "ipMode": "Proxy"}]}}))
        .unwrap();
        let found = seen(&with, &[]).unwrap();
        assert_eq!(found.external_ips, [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 9)]);
    }
}
