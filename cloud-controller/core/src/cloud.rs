//! The calls that the controllers make to a cloud, and no others.
//!
//! Every trait says what asking *again* and asking for something *not found* mean, because crashes and timeouts
//! make both ordinary. No method is called once per node while nothing changes.

use crate::{
    error::CloudResult,
    model::{
        Balancer, BalancerSpec, Instance, InstanceId, InstanceState, InstanceType, MachineOrder, Owner, Route, Tags,
        Volume, VolumeId, VolumeOrder,
    },
};
use async_trait::async_trait;
use std::{collections::BTreeMap, fmt::Debug};

/// What a cloud says about itself.
#[async_trait]
pub trait Metadata: Send + Sync + Debug {
    /// Name of the provider, the scheme of provider IDs (`local`, `aws`, `openstack`).
    fn provider(&self) -> &str;

    /// The region.
    fn region(&self) -> &str;

    /// Whether a volume can only be attached in its own zone.
    fn volumes_are_zonal(&self) -> bool;

    /// Zones, sorted.
    async fn zones(&self) -> CloudResult<Vec<String>>;

    /// Instance types, sorted by name.
    async fn instance_types(&self) -> CloudResult<Vec<InstanceType>>;
}

/// Ordering and removing machines.
#[async_trait]
pub trait Machines: Send + Sync + Debug {
    /// Orders an instance. Again with the same token: the same instance is returned, whatever else the order says.
    async fn create(&self, order: &MachineOrder) -> CloudResult<Instance>;

    /// Instances that carry all of `tags`, in one call. One that was removed is listed as `Gone` or not at all.
    async fn list(&self, tags: &Tags) -> CloudResult<Vec<Instance>>;

    /// Removes an instance for good. Again, or not found: success.
    async fn delete(&self, id: &InstanceId) -> CloudResult<()>;

    /// Powers on. Again: success. Not found or gone: `NotFound`.
    async fn start(&self, id: &InstanceId) -> CloudResult<()>;

    /// Powers off. Again: success. Not found or gone: `NotFound`.
    async fn stop(&self, id: &InstanceId) -> CloudResult<()>;

    /// Powers off and on. Again: another reboot. Not found or gone: `NotFound`; stopped: `Conflict`.
    async fn reboot(&self, id: &InstanceId) -> CloudResult<()>;
}

/// Looking at the instances of a cluster.
#[async_trait]
pub trait Instances: Send + Sync + Debug {
    /// Every instance of the cluster, in one call, found by its tags.
    async fn observe(&self, cluster: &str) -> CloudResult<Vec<Instance>>;

    /// State of the instances named, found by their IDs and not by tags: the second, independent look before a Node
    /// is deleted. Not found: `Gone`.
    async fn confirm(&self, ids: &[InstanceId]) -> CloudResult<BTreeMap<InstanceId, InstanceState>>;
}

/// Routes for pods.
#[async_trait]
pub trait Routes: Send + Sync + Debug {
    /// Every route of the cluster that we made, in one call.
    async fn routes(&self, cluster: &str) -> CloudResult<Vec<Route>>;

    /// Makes the route, taking over its destination from another instance. Again: success. Instance not found:
    /// `NotFound`.
    async fn ensure_route(&self, cluster: &str, route: &Route) -> CloudResult<()>;

    /// Removes the route if it still leads to that instance. Again, or not found: success.
    async fn delete_route(&self, cluster: &str, route: &Route) -> CloudResult<()>;
}

/// Load balancers.
#[async_trait]
pub trait LoadBalancers: Send + Sync + Debug {
    /// Every load balancer of the cluster, in one call.
    async fn balancers(&self, cluster: &str) -> CloudResult<Vec<Balancer>>;

    /// Makes or changes the load balancer of `spec.owner`. Again: success, and the address stays. A target not
    /// found is left out.
    async fn ensure_balancer(&self, spec: &BalancerSpec) -> CloudResult<Balancer>;

    /// Removes it and frees its address. Again, or not found: success.
    async fn delete_balancer(&self, owner: &Owner) -> CloudResult<()>;
}

/// Volumes.
#[async_trait]
pub trait Volumes: Send + Sync + Debug {
    /// Every volume of the cluster, in one call.
    async fn volumes(&self, cluster: &str) -> CloudResult<Vec<Volume>>;

    /// Makes a volume. Again for the same owner: the same volume; with another size: `Conflict`.
    async fn create_volume(&self, order: &VolumeOrder) -> CloudResult<Volume>;

    /// Removes a volume and its data. Attached: `Conflict`. Again, or not found: success.
    async fn delete_volume(&self, id: &VolumeId) -> CloudResult<()>;

    /// Plugs the volume into an instance and returns where it is found. Again: success. Plugged into another
    /// instance: `Conflict`, always. Volume or instance not found: `NotFound`.
    async fn attach_volume(&self, id: &VolumeId, instance: &InstanceId) -> CloudResult<String>;

    /// Unplugs. In use by the instance: `Conflict`. Not attached there, or not found: success. From an instance that
    /// is stopped or gone it always succeeds.
    async fn detach_volume(&self, id: &VolumeId, instance: &InstanceId) -> CloudResult<()>;

    /// Grows the volume to at least `bytes` and returns its size. Again, or smaller: success, unchanged.
    async fn expand_volume(&self, id: &VolumeId, bytes: u64) -> CloudResult<u64>;
}

/// All of it: what a cloud crate implements.
pub trait Cloud: Metadata + Machines + Instances + Routes + LoadBalancers + Volumes {}

impl<T: Metadata + Machines + Instances + Routes + LoadBalancers + Volumes> Cloud for T {}
