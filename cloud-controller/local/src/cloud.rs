//! The cloud's side of the traits: records first, then effects.

use crate::{
    config::{RESERVED_ADDRESSES, nth},
    local::{LocalCloud, REGION},
    machine, network,
    process::ProcessId,
    records::{BalancerRecord, MachineRecord, Power, Records, RouteRecord, VolumeRecord},
    volume,
};
use async_trait::async_trait;
use ipnet::Ipv4Net;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};
use timonel_cloud_core::{
    Address, AddressKind, Attachment, Balancer, BalancerSpec, CloudError, CloudResult, Instance, InstanceId,
    InstanceState, InstanceType, Instances, LoadBalancers, MachineOrder, Machines, Metadata, Owner, Route, Routes,
    TAG_CLUSTER, Tags, Volume, VolumeId, VolumeOrder, Volumes,
};

const ZONES: [&str; 2] = ["local-a", "local-b"];
const TYPES: [(&str, u32, u64); 4] =
    [("t.small", 1, 1024), ("t.medium", 2, 2048), ("t.large", 2, 4096), ("t.xlarge", 4, 8192)];
const DEFAULT_TYPE: &str = "t.medium";
const DEFAULT_IMAGE: &str = "host";
const ID_BYTES: usize = 6;
/// How long a removed machine may take to end in order: it is not needed any more.
const REMOVAL_GRACE: Duration = Duration::ZERO;

impl LocalCloud {
    fn random_id(&self, prefix: &str) -> String {
        let mut bytes = [0; ID_BYTES];
        self.shared.entropy.fill(&mut bytes);
        format!("{prefix}-{}", hex::encode(bytes))
    }

    fn instance(&self, record: &MachineRecord) -> Instance {
        let address = |kind, address: String| Address { kind, address };
        Instance {
            id: record.id.clone(),
            provider_id: format!("local:///{}/{}", record.zone, record.id),
            name: record.order.name.clone(),
            addresses: vec![
                address(AddressKind::InternalIP, record.address.to_string()),
                address(AddressKind::Hostname, record.order.name.clone()),
            ],
            instance_type: record.order.instance_type.clone(),
            zone: record.zone.clone(),
            region: REGION.to_owned(),
            state: state(record),
            pod_ranges: Vec::new(),
            tags: record.order.all_tags(),
            created: record.created,
        }
    }

    /// A record for the order: the one it had, or a new one, on disk before anything is made.
    fn take_order(&self, order: &MachineOrder) -> CloudResult<MachineRecord> {
        let shared = &self.shared;
        let mut records = shared.records.lock();
        if let Some(have) = records.machines.values().find(|m| m.order.token == order.token) {
            return Ok(have.clone());
        }
        let mut order = order.clone();
        fill(&mut order.instance_type, DEFAULT_TYPE);
        fill(&mut order.image, DEFAULT_IMAGE);
        if !TYPES.iter().any(|(name, ..)| *name == order.instance_type) {
            return Err(CloudError::Invalid(format!("instance type {} is not offered", order.instance_type)));
        }
        let used = |zone: &str| records.machines.values().filter(|m| m.power != Power::Gone && m.zone == zone).count();
        let zone = match order.zone.as_str() {
            "" => ZONES.into_iter().min_by_key(|zone| used(zone)).unwrap_or(ZONES[0]).to_owned(),
            zone if ZONES.contains(&zone) => zone.to_owned(),
            zone => return Err(CloudError::Invalid(format!("there is no zone {zone}"))),
        };
        let live = records.machines.values().filter(|m| m.power != Power::Gone);
        let taken: BTreeSet<Ipv4Addr> = live.map(|m| m.address).collect();
        let record = MachineRecord {
            id: InstanceId(self.random_id("i")),
            zone,
            address: free(shared.config.machine_range, &taken, "machines")?,
            created: shared.clock.now(),
            power: Power::Ordered,
            process: None,
            gone: None,
            order,
        };
        shared.files.put_machine(&record)?;
        records.machines.insert(record.id.clone(), record.clone());
        Ok(record)
    }

    fn live(&self, id: &InstanceId) -> CloudResult<MachineRecord> {
        self.shared.machine(id).map_err(|_| CloudError::NotFound(id.to_string()))
    }

    fn is_off(&self, id: &InstanceId) -> bool {
        let records = self.shared.records.lock();
        records.machines.get(id).is_none_or(|m| matches!(state(m), InstanceState::Stopped | InstanceState::Gone))
    }

    fn balancer(&self, records: &Records, edge: &crate::edge::EdgeState, record: &BalancerRecord) -> Balancer {
        Balancer {
            spec: record.spec.clone(),
            addresses: vec![IpAddr::V4(record.address)],
            hostnames: Vec::new(),
            healthy: edge.healthy(records, record),
        }
    }

    fn volume(&self, record: &VolumeRecord) -> Volume {
        let attachment = |instance: &InstanceId| {
            let device = volume::device(&self.shared.config, instance, &record.id).display().to_string();
            Attachment { instance: instance.clone(), device }
        };
        Volume {
            id: record.id.clone(),
            owner: record.owner.clone(),
            name: record.name.clone(),
            bytes: record.bytes,
            zone: record.zone.clone(),
            attachment: record.attached.as_ref().map(attachment),
        }
    }

    fn volume_record(&self, id: &VolumeId) -> CloudResult<VolumeRecord> {
        let found = self.shared.records.lock().volumes.get(id).filter(|v| !v.deleting).cloned();
        found.ok_or_else(|| CloudError::NotFound(id.to_string()))
    }
}

fn fill(field: &mut String, default: &str) {
    if field.is_empty() {
        default.clone_into(field);
    }
}

fn state(record: &MachineRecord) -> InstanceState {
    match (record.power, record.process.as_ref().is_some_and(ProcessId::is_alive)) {
        (Power::Gone, _) => InstanceState::Gone,
        (Power::Ordered, _) => InstanceState::Pending,
        (Power::On, true) => InstanceState::Running,
        (Power::On | Power::Off, _) => InstanceState::Stopped,
    }
}

/// The lowest free address of a range; the first few are the cloud's own, the last is nobody's.
fn free(range: Ipv4Net, taken: &BTreeSet<Ipv4Addr>, what: &str) -> CloudResult<Ipv4Addr> {
    let size = 1_u64 << (32 - u32::from(range.prefix_len()));
    let last = u32::try_from(size - 1).unwrap_or(u32::MAX);
    let first = u32::try_from(RESERVED_ADDRESSES).unwrap_or(u32::MAX);
    let address = (first..last).map(|n| nth(range, n)).find(|address| !taken.contains(address));
    address.ok_or_else(|| CloudError::Exhausted(format!("{range} has no address left for {what}")))
}

#[async_trait]
impl Metadata for LocalCloud {
    fn provider(&self) -> &'static str {
        "local"
    }

    fn region(&self) -> &'static str {
        REGION
    }

    fn volumes_are_zonal(&self) -> bool {
        false
    }

    async fn zones(&self) -> CloudResult<Vec<String>> {
        Ok(ZONES.map(str::to_owned).into())
    }

    async fn instance_types(&self) -> CloudResult<Vec<InstanceType>> {
        let of = |(name, cpus, memory_mib): (&str, u32, u64)| InstanceType { name: name.to_owned(), cpus, memory_mib };
        let mut types: Vec<InstanceType> = TYPES.map(of).into();
        types.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(types)
    }
}

#[async_trait]
impl Machines for LocalCloud {
    async fn create(&self, order: &MachineOrder) -> CloudResult<Instance> {
        let record = self.take_order(order)?;
        if record.power != Power::Ordered {
            return Ok(self.instance(&record));
        }
        let lock = self.shared.lock_of(&record.id);
        let _held = lock.lock().await;
        let record = self.live(&record.id)?;
        let record =
            if record.power == Power::Ordered { machine::boot(&self.shared, &record.id).await? } else { record };
        Ok(self.instance(&record))
    }

    async fn list(&self, tags: &Tags) -> CloudResult<Vec<Instance>> {
        self.bury();
        let records = self.shared.records.lock();
        let all = records.machines.values().map(|record| self.instance(record));
        Ok(all.filter(|i| tags.iter().all(|(key, value)| i.tags.get(key) == Some(value))).collect())
    }

    async fn delete(&self, id: &InstanceId) -> CloudResult<()> {
        let lock = self.shared.lock_of(id);
        let _held = lock.lock().await;
        if !self.shared.records.lock().machines.contains_key(id) {
            return Ok(());
        }
        let now = self.shared.clock.now();
        let record = self.shared.update_machine(id, |record| {
            record.power = Power::Gone;
            record.gone = record.gone.or(Some(now));
        })?;
        machine::power_off(&self.shared, &record, REMOVAL_GRACE).await?;
        self.finish_removal(&record).await?;
        Ok(self.shared.apply_edge().await?)
    }

    async fn start(&self, id: &InstanceId) -> CloudResult<()> {
        let lock = self.shared.lock_of(id);
        let _held = lock.lock().await;
        self.live(id)?;
        machine::boot(&self.shared, id).await?;
        Ok(())
    }

    async fn stop(&self, id: &InstanceId) -> CloudResult<()> {
        let lock = self.shared.lock_of(id);
        let _held = lock.lock().await;
        self.live(id)?;
        let record = self.shared.update_machine(id, |record| record.power = Power::Off)?;
        machine::power_off(&self.shared, &record, self.shared.config.stop_grace).await?;
        Ok(self.shared.apply_edge().await?)
    }

    async fn reboot(&self, id: &InstanceId) -> CloudResult<()> {
        let lock = self.shared.lock_of(id);
        let _held = lock.lock().await;
        let record = self.live(id)?;
        if record.power == Power::Off {
            return Err(CloudError::Conflict(format!("{id} is stopped")));
        }
        machine::power_off(&self.shared, &record, self.shared.config.stop_grace).await?;
        machine::boot(&self.shared, id).await?;
        Ok(())
    }
}

#[async_trait]
impl Instances for LocalCloud {
    async fn observe(&self, cluster: &str) -> CloudResult<Vec<Instance>> {
        self.list(&[(TAG_CLUSTER.to_owned(), cluster.to_owned())].into()).await
    }

    async fn confirm(&self, ids: &[InstanceId]) -> CloudResult<BTreeMap<InstanceId, InstanceState>> {
        let records = self.shared.records.lock();
        Ok(ids.iter().map(|id| (id.clone(), records.machines.get(id).map_or(InstanceState::Gone, state))).collect())
    }
}

#[async_trait]
impl Routes for LocalCloud {
    async fn routes(&self, cluster: &str) -> CloudResult<Vec<Route>> {
        let records = self.shared.records.lock();
        Ok(records.routes.values().filter(|r| r.cluster == cluster).map(|r| r.route.clone()).collect())
    }

    async fn ensure_route(&self, cluster: &str, route: &Route) -> CloudResult<()> {
        let machine = self.live(&route.instance)?;
        let inside = |range: Ipv4Net| ipnet::IpNet::V4(range).contains(&route.destination);
        let config = &self.shared.config;
        if inside(config.machine_range) || inside(config.public_range) || route.destination.prefix_len() == 0 {
            return Err(CloudError::Invalid(format!("{} is not a range of pods", route.destination)));
        }
        let record = RouteRecord { cluster: cluster.to_owned(), route: route.clone() };
        {
            let mut records = self.shared.records.lock();
            let taken =
                records.routes.values().find(|r| r.route.destination == route.destination && r.cluster != cluster);
            if let Some(other) = taken {
                let text = format!("{} belongs to cluster {}", route.destination, other.cluster);
                return Err(CloudError::Conflict(text));
            }
            self.shared.files.put_route(&record)?;
            records.routes.insert((cluster.to_owned(), route.destination), record);
        }
        // A machine that is off has no link; booting it brings its routes.
        if state(&machine) == InstanceState::Running {
            network::add_route(config, route.destination, &machine).await?;
        }
        Ok(())
    }

    async fn delete_route(&self, cluster: &str, route: &Route) -> CloudResult<()> {
        let key = (cluster.to_owned(), route.destination);
        let same = self.shared.records.lock().routes.get(&key).is_some_and(|r| r.route == *route);
        if same {
            network::remove_route(&self.shared.config, route.destination).await?;
            self.shared.files.remove_route(cluster, route.destination)?;
            self.shared.records.lock().routes.remove(&key);
        }
        Ok(())
    }
}

#[async_trait]
impl LoadBalancers for LocalCloud {
    async fn balancers(&self, cluster: &str) -> CloudResult<Vec<Balancer>> {
        let edge = self.shared.edge.lock().await;
        let records = self.shared.records.lock();
        let ours = records.balancers.values().filter(|b| b.spec.owner.cluster == cluster);
        Ok(ours.map(|record| self.balancer(&records, &edge, record)).collect())
    }

    async fn ensure_balancer(&self, spec: &BalancerSpec) -> CloudResult<Balancer> {
        let record = {
            let mut records = self.shared.records.lock();
            let address = match records.balancers.get(&spec.owner) {
                Some(have) => have.address,
                None => {
                    let taken: BTreeSet<Ipv4Addr> = records.balancers.values().map(|b| b.address).collect();
                    let range = self.shared.config.public_range;
                    let wished = spec.address.and_then(|ip| match ip {
                        IpAddr::V4(ip) => (nth(range, 8)..=range.broadcast()).contains(&ip).then_some(ip),
                        IpAddr::V6(_) => None,
                    });
                    match (spec.address, wished) {
                        (Some(_), Some(ip)) if !taken.contains(&ip) => ip,
                        (Some(ip), _) => return Err(CloudError::Conflict(format!("{ip} cannot be had"))),
                        (None, _) => free(range, &taken, "load balancers")?,
                    }
                }
            };
            let record = BalancerRecord { spec: spec.clone(), address };
            self.shared.files.put_balancer(&record)?;
            records.balancers.insert(spec.owner.clone(), record.clone());
            record
        };
        self.shared.apply_edge().await?;
        self.shared.edge_changed.notify_one();
        let edge = self.shared.edge.lock().await;
        let records = self.shared.records.lock();
        Ok(self.balancer(&records, &edge, &record))
    }

    async fn delete_balancer(&self, owner: &Owner) -> CloudResult<()> {
        {
            let mut records = self.shared.records.lock();
            self.shared.files.remove_balancer(owner)?;
            records.balancers.remove(owner);
        }
        Ok(self.shared.apply_edge().await?)
    }
}

#[async_trait]
impl Volumes for LocalCloud {
    async fn volumes(&self, cluster: &str) -> CloudResult<Vec<Volume>> {
        let records = self.shared.records.lock();
        let ours = records.volumes.values().filter(|v| v.owner.cluster == cluster && !v.deleting);
        Ok(ours.map(|record| self.volume(record)).collect())
    }

    async fn create_volume(&self, order: &VolumeOrder) -> CloudResult<Volume> {
        let _one_at_a_time = self.shared.volumes.lock().await;
        let have = self.shared.records.lock().volumes.values().find(|v| v.owner == order.owner && !v.deleting).cloned();
        let record = match have {
            Some(have) if have.bytes == order.bytes => have,
            Some(have) => return Err(CloudError::Conflict(format!("volume {} has another size", have.id))),
            None => {
                let record = VolumeRecord {
                    id: VolumeId(self.random_id("vol")),
                    owner: order.owner.clone(),
                    name: order.name.clone(),
                    bytes: order.bytes,
                    zone: if order.zone.is_empty() { ZONES[0].to_owned() } else { order.zone.clone() },
                    attached: None,
                    deleting: false,
                };
                self.shared.files.put_volume(&record)?;
                self.shared.records.lock().volumes.insert(record.id.clone(), record.clone());
                record
            }
        };
        volume::make(&self.shared.config, &record.id)?;
        Ok(self.volume(&record))
    }

    async fn delete_volume(&self, id: &VolumeId) -> CloudResult<()> {
        let _one_at_a_time = self.shared.volumes.lock().await;
        {
            let mut records = self.shared.records.lock();
            let Some(mut record) = records.volumes.get(id).cloned() else { return Ok(()) };
            if let Some(instance) = &record.attached {
                return Err(CloudError::Conflict(format!("{id} is attached to {instance}")));
            }
            record.deleting = true;
            self.shared.files.put_volume(&record)?;
            records.volumes.insert(id.clone(), record);
        }
        Ok(self.finish_volume_removal(id)?)
    }

    async fn attach_volume(&self, id: &VolumeId, instance: &InstanceId) -> CloudResult<String> {
        let _one_at_a_time = self.shared.volumes.lock().await;
        let record = self.volume_record(id)?;
        self.live(instance)?;
        match &record.attached {
            Some(have) if have != instance => {
                return Err(CloudError::Conflict(format!("{id} is attached to {have}")));
            }
            Some(_) => {}
            None => self.set_attachment(id, Some(instance.clone()))?,
        }
        volume::make(&self.shared.config, id)?;
        volume::plug(&self.shared.config, instance, id)?;
        Ok(volume::device(&self.shared.config, instance, id).display().to_string())
    }

    async fn detach_volume(&self, id: &VolumeId, instance: &InstanceId) -> CloudResult<()> {
        let _one_at_a_time = self.shared.volumes.lock().await;
        let attached = self.volume_record(id).ok().and_then(|record| record.attached);
        if attached.as_ref() != Some(instance) {
            return Ok(());
        }
        if !volume::unplug(&self.shared.config, instance, id, self.is_off(instance))? {
            return Err(CloudError::Conflict(format!("{id} is in use on {instance}")));
        }
        Ok(self.set_attachment(id, None)?)
    }

    async fn expand_volume(&self, id: &VolumeId, bytes: u64) -> CloudResult<u64> {
        let _one_at_a_time = self.shared.volumes.lock().await;
        let mut record = self.volume_record(id)?;
        if bytes > record.bytes {
            record.bytes = bytes;
            self.shared.files.put_volume(&record)?;
            self.shared.records.lock().volumes.insert(id.clone(), record.clone());
        }
        Ok(record.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_given_lowest_first_until_there_are_none() {
        let range: Ipv4Net = "10.0.0.0/28".parse().unwrap();
        let mut taken = BTreeSet::new();
        while let Ok(address) = free(range, &taken, "tests") {
            assert!(taken.last().is_none_or(|last| *last < address));
            taken.insert(address);
        }
        let all: Vec<Ipv4Addr> = taken.into_iter().collect();
        assert_eq!(all.first(), Some(&Ipv4Addr::new(10, 0, 0, 8)));
        assert_eq!(all.last(), Some(&Ipv4Addr::new(10, 0, 0, 14)));
    }
}
