//! Cluster addresses and node ports of Services.
//!
//! An address is taken by an `IPAddress` object, a node port by a key of its own; both are written in the same
//! transaction as the Service, so that no two Services ever hold the same and none is lost.

use super::{
    call::Call,
    commit::Beside,
    service_plan::{self, Family, Wanted},
    view::columns_of,
};
use crate::cache::{Entry, Slot, encode};
use bytes::Bytes;
use ipnet::IpNet;
use std::{collections::BTreeSet, net::IpAddr, ops::RangeInclusive, sync::Arc};
use timonel_api::{FieldErrors, GroupResource, Path, Status, Value, strategy};
use timonel_runtime::Entropy;
use timonel_store::{Compare, KeyRange, Op, RangeRequest, Store};

/// The segment under a cluster's prefix that holds taken node ports.
const NODE_PORTS: &str = "a/nodeports/";
/// Addresses tried at random before looking for a free one in order.
const RANDOM_TRIES: usize = 32;

/// The allocator of one cluster.
#[derive(Debug)]
pub(crate) struct Services {
    pub(crate) ranges: Vec<IpNet>,
    pub(crate) node_ports: RangeInclusive<u16>,
    pub(crate) prefix: Bytes,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) addresses: Arc<Slot>,
    pub(crate) entropy: Entropy,
}

/// What is written together with a Service.
#[derive(Clone, Debug, Default)]
pub(crate) struct Allocated(Vec<Beside>);

impl Allocated {
    pub(crate) fn steps(&self) -> Vec<Beside> {
        self.0.clone()
    }
}

/// The resource of taken addresses.
pub(crate) fn addresses_resource() -> GroupResource {
    GroupResource { group: "networking.k8s.io".into(), resource: "ipaddresses".into() }
}

fn is_service(call: &Call<'_>) -> bool {
    call.view.plural() == "services" && call.view.group().is_empty()
}

impl Services {
    /// Gives a new Service what it asks for and needs.
    pub(crate) async fn on_create(&self, call: &Call<'_>, service: &mut Value) -> Result<Allocated, Status> {
        if !is_service(call) || self.ranges.is_empty() {
            return Ok(Allocated::default());
        }
        service_plan::fill_families(service, &self.families());
        self.allocate(call, service, &Wanted::default()).await
    }

    /// Carries over what a Service had, gives it what it now needs, takes back what it no longer needs.
    pub(crate) async fn on_update(&self, call: &Call<'_>, new: &mut Value, old: &Value) -> Result<Allocated, Status> {
        if !is_service(call) || self.ranges.is_empty() || !call.info.subresource.is_empty() {
            return Ok(Allocated::default());
        }
        service_plan::carry_over(new, old);
        service_plan::fill_families(new, &self.families());
        let had = Wanted::of(old);
        let mut allocated = self.allocate(call, new, &had).await?;
        let keeps = Wanted::of(new);
        allocated.0.extend(self.release(&had, &keeps));
        Ok(allocated)
    }

    /// Takes back everything of a Service that goes.
    pub(crate) fn on_delete(&self, call: &Call<'_>, entry: &Entry) -> Result<Vec<Beside>, Status> {
        if !is_service(call) || self.ranges.is_empty() {
            return Ok(Vec::new());
        }
        let old = entry.decode().map_err(Status::internal)?;
        Ok(self.release(&Wanted::of(&old), &Wanted::default()))
    }

    fn families(&self) -> Vec<Family> {
        self.ranges.iter().map(|range| Family::of(range.addr())).collect()
    }

    async fn allocate(&self, call: &Call<'_>, service: &mut Value, had: &Wanted) -> Result<Allocated, Status> {
        let mut allocated = Allocated::default();
        self.allocate_addresses(call, service, had, &mut allocated)?;
        self.allocate_ports(call, service, had, &mut allocated).await?;
        Ok(allocated)
    }

    fn allocate_addresses(
        &self,
        call: &Call<'_>,
        service: &mut Value,
        had: &Wanted,
        allocated: &mut Allocated,
    ) -> Result<(), Status> {
        if !service_plan::needs_address(service) {
            return Ok(());
        }
        let families = service_plan::families(service);
        let asked = service_plan::addresses(service);
        let mut addresses = Vec::new();
        for (at, family) in families.iter().enumerate() {
            let address = match asked.get(at) {
                Some(address) if had.addresses.contains(address) => *address,
                Some(address) => self.check_address(service, *address)?,
                None => self.free_address(*family)?,
            };
            if !had.addresses.contains(&address) {
                allocated.0.push(self.take_address(call, service, address)?);
            }
            addresses.push(address);
        }
        service_plan::set_addresses(service, &addresses);
        Ok(())
    }

    fn check_address(&self, service: &Value, address: IpAddr) -> Result<IpAddr, Status> {
        let why = if !self.ranges.iter().any(|range| range.contains(&address)) {
            let ranges: Vec<String> = self.ranges.iter().map(ToString::to_string).collect();
            format!(
                "failed to allocate IP {address}: the provided network does not match the current range: the provided IP ({address}) is not in the valid range. The range of valid IPs is {}",
                ranges.join(",")
            )
        } else if self.addresses.get("", &address.to_string()).is_some() {
            format!("failed to allocate IP {address}: provided IP is already allocated")
        } else {
            return Ok(address);
        };
        let mut errors = FieldErrors::new();
        let listed = service.at(&["spec", "clusterIPs"]).cloned().unwrap_or_default();
        errors.invalid(&Path::new("spec").child("clusterIPs"), listed, why);
        Err(Status::invalid("", "Service", service.str_at(&["metadata", "name"]), &errors))
    }

    fn free_address(&self, family: Family) -> Result<IpAddr, Status> {
        let range = self.ranges.iter().find(|range| Family::of(range.addr()) == family);
        let range = range.ok_or_else(|| Status::internal(format!("no range of {} addresses", family.as_str())))?;
        let size = service_plan::usable(range);
        let reserved = service_plan::reserved_for_static(size);
        let taken = |offset: u64| {
            let address = service_plan::nth(range, offset);
            self.addresses.get("", &address.to_string()).is_none().then_some(address)
        };
        for _ in 0..RANDOM_TRIES {
            let offset = reserved + self.entropy.below(size.saturating_sub(reserved));
            if let Some(address) = taken(offset.max(1)) {
                return Ok(address);
            }
        }
        let in_order = (reserved.max(1)..size).chain(1..reserved).take(service_plan::MAX_SCAN);
        in_order
            .filter_map(taken)
            .next()
            .ok_or_else(|| Status::internal("failed to allocate a serviceIP: range is full"))
    }

    fn take_address(&self, call: &Call<'_>, service: &Value, address: IpAddr) -> Result<Beside, Status> {
        let name = service.str_at(&["metadata", "name"]);
        let object = address_object(&self.entropy.uuid(), call.now, address, call.namespace(), name);
        let key = self.addresses.key("", &address.to_string());
        let value = encode(&object, &columns_of(&addresses_resource()));
        Ok(Beside { compare: Some(Compare::ModRevision(key.clone(), 0)), op: Op::Put { key, value, lease: None } })
    }

    async fn allocate_ports(
        &self,
        call: &Call<'_>,
        service: &mut Value,
        had: &Wanted,
        allocated: &mut Allocated,
    ) -> Result<(), Status> {
        let open = service_plan::open_ports(service);
        let asked = Wanted::of(service).ports;
        let fresh: BTreeSet<u16> = asked.difference(&had.ports).copied().collect();
        if open.is_empty() && fresh.is_empty() {
            return Ok(());
        }
        let mut taken = self.taken_ports().await?;
        for port in &fresh {
            self.check_port(service, *port, &taken)?;
        }
        taken.extend(&asked);
        let mut given = Vec::new();
        for _ in &open {
            let port = self.free_port(&taken)?;
            taken.insert(port);
            given.push(port);
        }
        service_plan::set_ports(service, &open, &given);
        // Ports of several protocols share a number when they are one service of two protocols.
        let owner = format!("{}/{}", call.namespace(), service.str_at(&["metadata", "name"]));
        for port in fresh.into_iter().chain(Wanted::of(service).ports.difference(&asked).copied()) {
            let key = self.port_key(port);
            allocated.0.push(Beside {
                compare: Some(Compare::ModRevision(key.clone(), 0)),
                op: Op::Put { key, value: owner.clone().into(), lease: None },
            });
        }
        Ok(())
    }

    fn check_port(&self, service: &Value, port: u16, taken: &BTreeSet<u16>) -> Result<(), Status> {
        let why = if !self.node_ports.contains(&port) {
            let (first, last) = (self.node_ports.start(), self.node_ports.end());
            format!("provided port is not in the valid range. The range of valid ports is {first}-{last}")
        } else if taken.contains(&port) {
            "provided port is already allocated".to_owned()
        } else {
            return Ok(());
        };
        let mut errors = FieldErrors::new();
        let at = service
            .list_at(&["spec", "ports"])
            .iter()
            .position(|item| item.int_at(&["nodePort"]) == Some(i64::from(port)));
        match at {
            Some(at) => errors.invalid(
                &Path::new("spec").child("ports").index(at).child("nodePort"),
                Value::Int(i64::from(port)),
                why,
            ),
            None => errors.invalid(&Path::new("spec").child("healthCheckNodePort"), Value::Int(i64::from(port)), why),
        }
        Err(Status::invalid("", "Service", service.str_at(&["metadata", "name"]), &errors))
    }

    fn free_port(&self, taken: &BTreeSet<u16>) -> Result<u16, Status> {
        let (first, last) = (*self.node_ports.start(), *self.node_ports.end());
        let count = u64::from(last.saturating_sub(first)) + 1;
        let start = self.entropy.below(count);
        let ports = (0..count).map(|at| first + u16::try_from((start + at) % count).unwrap_or(0));
        let mut free = ports.filter(|port| !taken.contains(port));
        free.next().ok_or_else(|| Status::internal("failed to allocate a nodePort: range is full"))
    }

    fn port_key(&self, port: u16) -> Bytes {
        Bytes::from([&self.prefix[..], NODE_PORTS.as_bytes(), port.to_string().as_bytes()].concat())
    }

    async fn taken_ports(&self) -> Result<BTreeSet<u16>, Status> {
        let range = KeyRange::prefix([&self.prefix[..], NODE_PORTS.as_bytes()].concat());
        let skip = range.start.len();
        let mut request = RangeRequest { range, revision: None, limit: 0 };
        let mut taken = BTreeSet::new();
        loop {
            let page = self.store.range(request.clone()).await.map_err(super::commit::store_status)?;
            let port = |key: &[u8]| std::str::from_utf8(key.get(skip..)?).ok()?.parse::<u16>().ok();
            taken.extend(page.items.iter().filter_map(|item| port(&item.key)));
            match page.items.last() {
                Some(last) if page.more => request.range.start = Bytes::from([&last.key[..], &[0]].concat()),
                _ => return Ok(taken),
            }
        }
    }

    /// Takes back what `had` has and `keeps` has not.
    fn release(&self, had: &Wanted, keeps: &Wanted) -> Vec<Beside> {
        let addresses = had.addresses.iter().filter(|address| !keeps.addresses.contains(address));
        let addresses = addresses.filter_map(|address| {
            let entry = self.addresses.get("", &address.to_string())?;
            let compare = Some(Compare::ModRevision(entry.key().clone(), entry.revision));
            Some(Beside { compare, op: Op::Delete(entry.key().clone()) })
        });
        let ports = had.ports.difference(&keeps.ports);
        let ports = ports.map(|port| Beside { compare: None, op: Op::Delete(self.port_key(*port)) });
        addresses.chain(ports).collect()
    }
}

/// The object by which an address is taken.
pub(crate) fn address_object(
    uid: &str,
    now: jiff::Timestamp,
    address: IpAddr,
    namespace: &str,
    service: &str,
) -> Value {
    let mut object = Value::object();
    object.set_at(&["metadata", "name"], address.to_string());
    object.set_at(&["metadata", "labels", "ipaddress.kubernetes.io/ip-family"], Family::of(address).as_str());
    object.set_at(&["metadata", "labels", "ipaddress.kubernetes.io/managed-by"], "ipallocator.k8s.io");
    for (field, text) in [("group", ""), ("resource", "services"), ("namespace", namespace), ("name", service)] {
        object.set_at(&["spec", "parentRef", field], text);
    }
    strategy::fill_system_fields(&mut object, uid, now);
    object
}
