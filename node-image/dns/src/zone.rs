//! The cluster's names. Pure: built from objects, read by queries.

use hickory_proto::rr::Name;
use k8s_openapi::api::{
    core::v1::Service,
    discovery::v1::{Endpoint, EndpointSlice},
};
use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

/// Label that ties a slice to its service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// What one name has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// A and AAAA records.
    pub addresses: Vec<IpAddr>,
    /// SRV records: port and target.
    pub services: Vec<(u16, Name)>,
    /// The one CNAME, of a service of type `ExternalName`.
    pub alias: Option<Name>,
    /// PTR records.
    pub pointers: Vec<Name>,
}

/// Every name of a cluster. Keys are lower case, without the final dot.
#[derive(Clone, Debug, Default)]
pub struct Zone {
    /// `cluster.local` or what the cluster calls it.
    pub domain: String,
    names: HashMap<String, Entry>,
}

impl Zone {
    /// Builds the zone of `domain`.
    pub fn build<'a>(
        domain: &str,
        services: impl IntoIterator<Item = &'a Service>,
        slices: impl IntoIterator<Item = &'a EndpointSlice>,
    ) -> Self {
        let mut zone = Self { domain: domain.trim_matches('.').to_ascii_lowercase(), names: HashMap::new() };
        let mut by_service: BTreeMap<(&str, &str), Vec<&EndpointSlice>> = BTreeMap::new();
        for slice in slices {
            let service = slice.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME));
            if let (Some(service), Some(namespace)) = (service, &slice.metadata.namespace) {
                by_service.entry((namespace, service)).or_default().push(slice);
            }
        }
        for service in services {
            let (Some(name), Some(namespace)) = (&service.metadata.name, &service.metadata.namespace) else { continue };
            let slices = by_service.get(&(namespace.as_str(), name.as_str())).map_or(&[][..], Vec::as_slice);
            zone.add_service(&format!("{name}.{namespace}.svc.{}", zone.domain), service, slices);
        }
        zone
    }

    /// What a name has; `None` when it does not exist. `name` is lower case, without the final dot.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Entry> {
        self.names.get(name)
    }

    /// How many names there are, those without records of their own included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there is no name.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    fn add_service(&mut self, host: &str, service: &Service, slices: &[&EndpointSlice]) {
        let Some(spec) = &service.spec else { return };
        if spec.type_.as_deref() == Some("ExternalName") {
            let alias = spec.external_name.as_deref().and_then(absolute);
            self.entry(host).alias = alias;
            return;
        }
        let cluster_ips = spec.cluster_ips.as_deref().unwrap_or(spec.cluster_ip.as_slice());
        if cluster_ips.iter().any(|ip| ip == "None") {
            self.add_headless(host, slices);
            return;
        }
        let addresses: Vec<IpAddr> = cluster_ips.iter().filter_map(|ip| ip.parse().ok()).collect();
        if addresses.is_empty() {
            return;
        }
        let Some(target) = absolute(host) else { return };
        for address in &addresses {
            self.entry(&reverse(*address)).pointers = vec![target.clone()];
        }
        for port in spec.ports.iter().flatten() {
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            if let Ok(number) = u16::try_from(port.port) {
                self.add_srv(host, port.name.as_deref(), protocol, number, &target);
            }
        }
        self.entry(host).addresses = addresses;
    }

    fn add_headless(&mut self, host: &str, slices: &[&EndpointSlice]) {
        self.entry(host);
        for slice in slices {
            for endpoint in slice.endpoints.iter().flatten().filter(|endpoint| ready(endpoint)) {
                for address in endpoint.addresses.iter().filter_map(|text| text.parse::<IpAddr>().ok()) {
                    self.add_endpoint(host, slice, endpoint.hostname.as_deref(), address);
                }
            }
        }
    }

    fn add_endpoint(&mut self, host: &str, slice: &EndpointSlice, hostname: Option<&str>, address: IpAddr) {
        let own = match hostname {
            Some(hostname) => format!("{hostname}.{host}"),
            None => format!("{}.{host}", address.to_string().replace(['.', ':'], "-")),
        };
        for name in [host, &own] {
            let addresses = &mut self.entry(name).addresses;
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        let Some(target) = absolute(&own) else { return };
        if hostname.is_some() {
            let pointers = &mut self.entry(&reverse(address)).pointers;
            if !pointers.contains(&target) {
                pointers.push(target.clone());
            }
        }
        for port in slice.ports.iter().flatten() {
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            if let Some(number) = port.port.and_then(|port| u16::try_from(port).ok()) {
                self.add_srv(host, port.name.as_deref(), protocol, number, &target);
            }
        }
    }

    fn add_srv(&mut self, host: &str, port: Option<&str>, protocol: &str, number: u16, target: &Name) {
        let protocol = protocol.to_ascii_lowercase();
        let mut owners = vec![host.to_owned()];
        if let Some(port) = port.filter(|name| !name.is_empty()) {
            owners.push(format!("_{port}._{protocol}.{host}"));
        }
        for owner in owners {
            let services = &mut self.entry(&owner).services;
            let record = (number, target.clone());
            if !services.contains(&record) {
                services.push(record);
            }
        }
    }

    /// The entry of a name; its parents up to the domain come to exist with it, without records.
    fn entry(&mut self, name: &str) -> &mut Entry {
        let name = name.to_ascii_lowercase();
        let mut parent = name.as_str();
        while let Some((_, rest)) = parent.split_once('.') {
            if !rest.ends_with(&self.domain) || self.names.contains_key(rest) {
                break;
            }
            self.names.insert(rest.to_owned(), Entry::default());
            parent = rest;
        }
        self.names.entry(name).or_default()
    }
}

/// Ready, or published regardless (the controller says `ready` then); absent means ready.
fn ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) != Some(false)
}

pub(crate) fn absolute(name: &str) -> Option<Name> {
    let mut name = Name::from_ascii(name).ok()?;
    name.set_fqdn(true);
    Some(name)
}

/// `in-addr.arpa` or `ip6.arpa` name of an address, without the final dot.
fn reverse(address: IpAddr) -> String {
    match address {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(ip) => {
            let nibbles = ip.octets().into_iter().rev().flat_map(|byte| [byte & 0xf, byte >> 4]);
            let labels: Vec<_> = nibbles.map(|nibble| format!("{nibble:x}")).collect();
            format!("{}.ip6.arpa", labels.join("."))
        }
    }
}

#[cfg(test)]
#[allow(clippy::needless_pass_by_value, reason = "`json!` literals read best by value")]
mod tests {
    use super::*;
    use serde_json::json;

    fn zone(spec: serde_json::Value, slice: serde_json::Value) -> Zone {
        let service = json!({"metadata": {"namespace": "ns", "name": "web"}, "spec": spec});
        let service: Service = serde_json::from_value(service).unwrap();
        let slices: Vec<EndpointSlice> = if slice.is_null() {
            vec![]
        } else {
            let mut slice = slice;
            slice["addressType"] = json!("IPv4");
            slice["metadata"] = json!({"namespace": "ns", "name": "web-1", "labels": {SERVICE_NAME: "web"}});
            vec![serde_json::from_value(slice).unwrap()]
        };
        Zone::build("cluster.local.", [&service], &slices)
    }

    #[test]
    fn a_service_has_its_address_ports_and_pointer() {
        let spec = json!({"clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"],
            "ports": [{"name": "http", "port": 80}]});
        let zone = zone(spec, json!(null));
        let host = "web.ns.svc.cluster.local";
        assert_eq!(zone.get(host).unwrap().addresses, ["10.96.0.9".parse::<IpAddr>().unwrap()]);
        let srv = &zone.get(&format!("_http._tcp.{host}")).unwrap().services;
        assert_eq!(srv, &[(80, absolute(host).unwrap())]);
        assert_eq!(zone.get("9.0.96.10.in-addr.arpa").unwrap().pointers, [absolute(host).unwrap()]);
        assert_eq!(zone.get("ns.svc.cluster.local"), Some(&Entry::default()));
        assert_eq!(zone.get("other.svc.cluster.local"), None);
    }

    #[test]
    fn a_headless_service_has_its_ready_endpoints() {
        let zone = zone(
            json!({"clusterIP": "None", "clusterIPs": ["None"]}),
            json!({"ports": [{"name": "db", "port": 5432}], "endpoints": [
                {"addresses": ["10.1.0.1"], "hostname": "web-0", "conditions": {"ready": true}},
                {"addresses": ["10.1.0.2"]},
                {"addresses": ["10.1.0.3"], "conditions": {"ready": false}}]}),
        );
        let host = "web.ns.svc.cluster.local";
        assert_eq!(zone.get(host).unwrap().addresses.len(), 2);
        assert_eq!(zone.get(&format!("web-0.{host}")).unwrap().addresses.len(), 1);
        assert_eq!(zone.get(&format!("10-1-0-2.{host}")).unwrap().addresses.len(), 1);
        assert_eq!(zone.get(&format!("_db._tcp.{host}")).unwrap().services.len(), 2);
        assert!(zone.get(&format!("10-1-0-3.{host}")).is_none());
    }

    #[test]
    fn an_external_name_is_an_alias() {
        let zone = zone(json!({"type": "ExternalName", "externalName": "db.example.org"}), json!(null));
        assert_eq!(zone.get("web.ns.svc.cluster.local").unwrap().alias, absolute("db.example.org"));
    }

    #[test]
    fn ipv6_reverses_by_nibble() {
        let name = reverse("2001:db8::1".parse().unwrap());
        assert!(name.starts_with("1.0.0.0.") && name.ends_with("8.b.d.0.1.0.0.2.ip6.arpa"), "{name}");
    }
}
