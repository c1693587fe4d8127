//! The stateful fake.

use crate::{
    cloud::{Instances, LoadBalancers, Machines, Metadata, Routes, Volumes},
    error::{CloudError, CloudResult},
    model::{
        Address, AddressKind, Attachment, Balancer, BalancerSpec, Instance, InstanceId, InstanceState, InstanceType,
        MachineOrder, Owner, Route, TAG_CLUSTER, Tags, Volume, VolumeId, VolumeOrder,
    },
};
use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{IpAddr, Ipv4Addr},
};

/// One scripted misbehaviour of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No answer, no effect.
    Unavailable,
    /// The effect, but no answer.
    LostAnswer,
    /// Refused: too many calls.
    Throttled,
    /// A listing that shows nothing.
    Empty,
    /// A listing from before the last change.
    Stale,
}

#[derive(Clone, Debug, Default)]
struct Things {
    instances: BTreeMap<InstanceId, Instance>,
    tokens: BTreeMap<String, InstanceId>,
    routes: BTreeMap<(String, ipnet::IpNet), InstanceId>,
    balancers: BTreeMap<Owner, Balancer>,
    volumes: BTreeMap<VolumeId, Volume>,
}

#[derive(Debug)]
struct State {
    things: Things,
    before: Things,
    faults: BTreeMap<&'static str, VecDeque<Fault>>,
    calls: BTreeMap<&'static str, u64>,
    serial: u32,
    now: Timestamp,
}

/// A cloud in memory.
#[derive(Debug)]
pub struct FakeCloud {
    provider: String,
    zonal: bool,
    state: Mutex<State>,
}

impl FakeCloud {
    /// An empty cloud at that time.
    #[must_use]
    pub fn new(provider: &str, now: Timestamp) -> Self {
        let state = State {
            things: Things::default(),
            before: Things::default(),
            faults: BTreeMap::new(),
            calls: BTreeMap::new(),
            serial: 0,
            now,
        };
        Self { provider: provider.to_owned(), zonal: false, state: Mutex::new(state) }
    }

    /// The same with volumes bound to their zone.
    #[must_use]
    pub fn zonal(mut self) -> Self {
        self.zonal = true;
        self
    }

    /// Adds a misbehaviour of the next `call` (name of the trait's method) that has none scripted yet.
    pub fn script(&self, call: &'static str, fault: Fault) {
        self.state.lock().faults.entry(call).or_default().push_back(fault);
    }

    /// Lets time pass.
    pub fn advance(&self, by: SignedDuration) {
        let mut state = self.state.lock();
        state.now = state.now.saturating_add(by).unwrap_or(Timestamp::MAX);
    }

    /// How often each method was called.
    #[must_use]
    pub fn calls(&self) -> BTreeMap<&'static str, u64> {
        self.state.lock().calls.clone()
    }

    /// Changes an instance behind everybody's back, as an accident would; `None` removes every trace of it.
    pub fn disturb(&self, id: &InstanceId, state: Option<InstanceState>) {
        let mut all = self.state.lock();
        all.before = all.things.clone();
        match state {
            Some(state) => {
                if let Some(instance) = all.things.instances.get_mut(id) {
                    instance.state = state;
                }
            }
            None => {
                all.things.instances.remove(id);
            }
        }
    }

    fn read<T>(&self, call: &'static str, read: impl FnOnce(&Things) -> T) -> CloudResult<T> {
        let mut state = self.state.lock();
        match state.next_fault(call) {
            Some(Fault::Empty) => Ok(read(&Things::default())),
            Some(Fault::Stale) => Ok(read(&state.before)),
            Some(fault) => Err(refusal(fault, call)),
            None => Ok(read(&state.things)),
        }
    }

    fn change<T>(
        &self,
        call: &'static str,
        change: impl FnOnce(&mut Things, u32, Timestamp) -> CloudResult<T>,
    ) -> CloudResult<T> {
        let mut state = self.state.lock();
        let fault = state.next_fault(call);
        if let Some(fault @ (Fault::Unavailable | Fault::Throttled)) = fault {
            return Err(refusal(fault, call));
        }
        state.before = state.things.clone();
        state.serial = state.serial.saturating_add(1);
        let (serial, now) = (state.serial, state.now);
        let answer = change(&mut state.things, serial, now);
        if fault == Some(Fault::LostAnswer) { Err(refusal(Fault::LostAnswer, call)) } else { answer }
    }

    fn power(&self, call: &'static str, id: &InstanceId, to: InstanceState) -> CloudResult<()> {
        self.change(call, |things, _, _| {
            let live = things.instances.get_mut(id).filter(|i| i.state != InstanceState::Gone);
            live.ok_or_else(|| CloudError::NotFound(id.to_string()))?.state = to;
            Ok(())
        })
    }
}

impl State {
    fn next_fault(&mut self, call: &'static str) -> Option<Fault> {
        *self.calls.entry(call).or_default() += 1;
        self.faults.get_mut(call)?.pop_front()
    }
}

fn refusal(fault: Fault, call: &str) -> CloudError {
    match fault {
        Fault::Throttled => CloudError::Throttled(call.to_owned()),
        _ => CloudError::Unavailable(format!("{call} timed out")),
    }
}

#[async_trait]
impl Metadata for FakeCloud {
    fn provider(&self) -> &str {
        &self.provider
    }

    fn region(&self) -> &'static str {
        "fake"
    }

    fn volumes_are_zonal(&self) -> bool {
        self.zonal
    }

    async fn zones(&self) -> CloudResult<Vec<String>> {
        Ok(vec!["fake-a".to_owned(), "fake-b".to_owned()])
    }

    async fn instance_types(&self) -> CloudResult<Vec<InstanceType>> {
        Ok(vec![InstanceType { name: "t.small".to_owned(), cpus: 1, memory_mib: 1024 }])
    }
}

#[async_trait]
impl Machines for FakeCloud {
    async fn create(&self, order: &MachineOrder) -> CloudResult<Instance> {
        let provider = self.provider.clone();
        self.change("create", |things, serial, now| {
            if let Some(have) = things.tokens.get(&order.token).and_then(|id| things.instances.get(id)) {
                return Ok(have.clone());
            }
            let id = InstanceId(format!("i-{serial:08x}"));
            let [.., high, low] = serial.to_be_bytes();
            let zone = if order.zone.is_empty() { "fake-a" } else { &order.zone };
            let address = |kind, address: String| Address { kind, address };
            let instance = Instance {
                id: id.clone(),
                provider_id: format!("{provider}:///{zone}/{id}"),
                name: order.name.clone(),
                addresses: vec![
                    address(AddressKind::InternalIP, Ipv4Addr::new(10, 200, high, low).to_string()),
                    address(AddressKind::Hostname, order.name.clone()),
                ],
                instance_type: order.instance_type.clone(),
                zone: zone.to_owned(),
                region: "fake".to_owned(),
                state: InstanceState::Running,
                pod_ranges: Vec::new(),
                tags: order.all_tags(),
                created: now,
            };
            things.tokens.insert(order.token.clone(), id.clone());
            things.instances.insert(id, instance.clone());
            Ok(instance)
        })
    }

    async fn list(&self, tags: &Tags) -> CloudResult<Vec<Instance>> {
        self.read("list", |things| {
            let carries = |i: &&Instance| tags.iter().all(|(key, value)| i.tags.get(key) == Some(value));
            things.instances.values().filter(carries).cloned().collect()
        })
    }

    async fn delete(&self, id: &InstanceId) -> CloudResult<()> {
        self.change("delete", |things, _, _| {
            if let Some(instance) = things.instances.get_mut(id) {
                instance.state = InstanceState::Gone;
            }
            things.routes.retain(|_, instance| instance != id);
            for volume in things.volumes.values_mut() {
                volume.attachment = volume.attachment.take().filter(|a| a.instance != *id);
            }
            Ok(())
        })
    }

    async fn start(&self, id: &InstanceId) -> CloudResult<()> {
        self.power("start", id, InstanceState::Running)
    }

    async fn stop(&self, id: &InstanceId) -> CloudResult<()> {
        self.power("stop", id, InstanceState::Stopped)
    }

    async fn reboot(&self, id: &InstanceId) -> CloudResult<()> {
        self.change("reboot", |things, _, _| match things.instances.get(id).map(|i| i.state) {
            None | Some(InstanceState::Gone) => Err(CloudError::NotFound(id.to_string())),
            Some(InstanceState::Stopped) => Err(CloudError::Conflict(format!("{id} is stopped"))),
            Some(_) => Ok(()),
        })
    }
}

#[async_trait]
impl Instances for FakeCloud {
    async fn observe(&self, cluster: &str) -> CloudResult<Vec<Instance>> {
        self.read("observe", |things| {
            let of_cluster = |i: &&Instance| i.tags.get(TAG_CLUSTER).is_some_and(|uid| uid == cluster);
            things.instances.values().filter(of_cluster).cloned().collect()
        })
    }

    async fn confirm(&self, ids: &[InstanceId]) -> CloudResult<BTreeMap<InstanceId, InstanceState>> {
        self.read("confirm", |things| {
            let state = |id| things.instances.get(id).map_or(InstanceState::Gone, |i| i.state);
            ids.iter().map(|id| (id.clone(), state(id))).collect()
        })
    }
}

#[async_trait]
impl Routes for FakeCloud {
    async fn routes(&self, cluster: &str) -> CloudResult<Vec<Route>> {
        self.read("routes", |things| {
            let route = |((_, destination), instance): (&(String, ipnet::IpNet), &InstanceId)| Route {
                instance: instance.clone(),
                destination: *destination,
            };
            things.routes.iter().filter(|((uid, _), _)| uid == cluster).map(route).collect()
        })
    }

    async fn ensure_route(&self, cluster: &str, route: &Route) -> CloudResult<()> {
        self.change("ensure_route", |things, _, _| {
            let live = things.instances.get(&route.instance).is_some_and(|i| i.state != InstanceState::Gone);
            if !live {
                return Err(CloudError::NotFound(route.instance.to_string()));
            }
            things.routes.insert((cluster.to_owned(), route.destination), route.instance.clone());
            Ok(())
        })
    }

    async fn delete_route(&self, cluster: &str, route: &Route) -> CloudResult<()> {
        self.change("delete_route", |things, _, _| {
            let key = (cluster.to_owned(), route.destination);
            if things.routes.get(&key) == Some(&route.instance) {
                things.routes.remove(&key);
            }
            Ok(())
        })
    }
}

#[async_trait]
impl LoadBalancers for FakeCloud {
    async fn balancers(&self, cluster: &str) -> CloudResult<Vec<Balancer>> {
        self.read("balancers", |things| {
            things.balancers.values().filter(|b| b.spec.owner.cluster == cluster).cloned().collect()
        })
    }

    async fn ensure_balancer(&self, spec: &BalancerSpec) -> CloudResult<Balancer> {
        self.change("ensure_balancer", |things, _, _| {
            let taken: BTreeSet<IpAddr> = things.balancers.values().flat_map(|b| b.addresses.iter().copied()).collect();
            let mut free =
                (1..=250).map(|n| IpAddr::V4(Ipv4Addr::new(198, 51, 100, n))).filter(|ip| !taken.contains(ip));
            let addresses = match things.balancers.get(&spec.owner) {
                Some(have) => have.addresses.clone(),
                None => {
                    let wished = spec.address.filter(|ip| !taken.contains(ip));
                    let exhausted = || CloudError::Exhausted("no public address is free".to_owned());
                    vec![wished.or_else(|| free.next()).ok_or_else(exhausted)?]
                }
            };
            let healthy = spec.targets.iter().filter(|id| things.instances.contains_key(id)).cloned().collect();
            let balancer = Balancer { spec: spec.clone(), addresses, hostnames: Vec::new(), healthy };
            things.balancers.insert(spec.owner.clone(), balancer.clone());
            Ok(balancer)
        })
    }

    async fn delete_balancer(&self, owner: &Owner) -> CloudResult<()> {
        self.change("delete_balancer", |things, _, _| {
            things.balancers.remove(owner);
            Ok(())
        })
    }
}

#[async_trait]
impl Volumes for FakeCloud {
    async fn volumes(&self, cluster: &str) -> CloudResult<Vec<Volume>> {
        self.read("volumes", |things| things.volumes.values().filter(|v| v.owner.cluster == cluster).cloned().collect())
    }

    async fn create_volume(&self, order: &VolumeOrder) -> CloudResult<Volume> {
        self.change("create_volume", |things, serial, _| {
            if let Some(have) = things.volumes.values().find(|v| v.owner == order.owner) {
                return if have.bytes == order.bytes {
                    Ok(have.clone())
                } else {
                    Err(CloudError::Conflict(format!("volume {} has another size", have.id)))
                };
            }
            let volume = Volume {
                id: VolumeId(format!("vol-{serial:08x}")),
                owner: order.owner.clone(),
                name: order.name.clone(),
                bytes: order.bytes,
                zone: if order.zone.is_empty() { "fake-a".to_owned() } else { order.zone.clone() },
                attachment: None,
            };
            things.volumes.insert(volume.id.clone(), volume.clone());
            Ok(volume)
        })
    }

    async fn delete_volume(&self, id: &VolumeId) -> CloudResult<()> {
        self.change("delete_volume", |things, _, _| {
            if things.volumes.get(id).is_some_and(|v| v.attachment.is_some()) {
                return Err(CloudError::Conflict(format!("{id} is attached")));
            }
            things.volumes.remove(id);
            Ok(())
        })
    }

    async fn attach_volume(&self, id: &VolumeId, instance: &InstanceId) -> CloudResult<String> {
        self.change("attach_volume", |things, _, _| {
            if things.instances.get(instance).is_none_or(|i| i.state == InstanceState::Gone) {
                return Err(CloudError::NotFound(instance.to_string()));
            }
            let volume = things.volumes.get_mut(id).ok_or_else(|| CloudError::NotFound(id.to_string()))?;
            match &volume.attachment {
                Some(have) if have.instance != *instance => {
                    return Err(CloudError::Conflict(format!("{id} is attached to {}", have.instance)));
                }
                _ => {}
            }
            let device = format!("/dev/disk/by-id/{id}");
            volume.attachment = Some(Attachment { instance: instance.clone(), device: device.clone() });
            Ok(device)
        })
    }

    async fn detach_volume(&self, id: &VolumeId, instance: &InstanceId) -> CloudResult<()> {
        self.change("detach_volume", |things, _, _| {
            if let Some(volume) = things.volumes.get_mut(id) {
                volume.attachment = volume.attachment.take().filter(|a| a.instance != *instance);
            }
            Ok(())
        })
    }

    async fn expand_volume(&self, id: &VolumeId, bytes: u64) -> CloudResult<u64> {
        self.change("expand_volume", |things, _, _| {
            let volume = things.volumes.get_mut(id).ok_or_else(|| CloudError::NotFound(id.to_string()))?;
            volume.bytes = volume.bytes.max(bytes);
            Ok(volume.bytes)
        })
    }
}
