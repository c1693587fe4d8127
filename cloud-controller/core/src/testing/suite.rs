//! What every cloud must do, as one suite: what "again" and "not found" mean, and that nothing lacks its owner.

use crate::{
    cloud::Cloud,
    error::CloudError,
    model::{
        BalancerPort, BalancerSpec, HealthCheck, Instance, InstanceId, InstanceState, MachineOrder, Owner, Protocol,
        Route, TAG_CLUSTER, TAG_FLEET, TAG_RESOURCE, VolumeId, VolumeOrder,
    },
};
use ipnet::IpNet;
use std::collections::BTreeMap;

/// Names that a run of the suite uses in the cloud.
#[derive(Clone, Debug)]
pub struct World {
    /// UID of the cluster.
    pub cluster: String,
    /// UID of the fleet.
    pub fleet: String,
    /// A range that the cloud may route to an instance.
    pub pod_range: IpNet,
}

/// Runs the suite. Leaves nothing behind.
///
/// # Panics
/// When the cloud breaks a promise of the traits.
pub async fn run_suite(cloud: &dyn Cloud, world: &World) {
    let (first, second) = machines(cloud, world).await;
    routes(cloud, world, &first, &second).await;
    balancers(cloud, world, &first, &second).await;
    volumes(cloud, world, &first, &second).await;
    removal(cloud, world, [first, second]).await;
}

fn order(world: &World, name: &str) -> MachineOrder {
    MachineOrder {
        token: format!("token-{name}"),
        owner: Owner::new(world.cluster.clone(), format!("uid-{name}")),
        pool: "pool".to_owned(),
        name: name.to_owned(),
        instance_type: "t.small".to_owned(),
        zone: String::new(),
        image: String::new(),
        user_data: "hello".to_owned(),
        tags: [(TAG_FLEET.to_owned(), world.fleet.clone())].into(),
    }
}

async fn machines(cloud: &dyn Cloud, world: &World) -> (InstanceId, InstanceId) {
    let first = cloud.create(&order(world, "suite-a")).await.expect("the first machine");
    let second = cloud.create(&order(world, "suite-b")).await.expect("the second machine");
    let again = cloud.create(&order(world, "suite-a")).await.expect("an order repeated");
    assert_eq!(again.id, first.id, "the same token gives the same instance");
    assert_ne!(first.id, second.id);
    assert_ne!(first.internal_ip().expect("an address"), second.internal_ip().expect("an address"));
    assert!(first.provider_id.starts_with(&format!("{}://", cloud.provider())), "{}", first.provider_id);
    let observed = cloud.observe(&world.cluster).await.expect("observing");
    let all: BTreeMap<_, _> = observed.into_iter().map(|i| (i.id.clone(), i)).collect();
    for (id, resource) in [(&first.id, "uid-suite-a"), (&second.id, "uid-suite-b")] {
        let instance: &Instance = &all[id];
        assert_eq!(instance.tags[TAG_RESOURCE], resource);
        assert_eq!(instance.tags[TAG_CLUSTER], world.cluster);
    }
    let tags = [(TAG_FLEET.to_owned(), world.fleet.clone())].into();
    assert_eq!(cloud.list(&tags).await.expect("listing").len(), 2);
    assert!(cloud.observe("another cluster").await.expect("observing").is_empty());

    cloud.stop(&first.id).await.expect("stopping");
    cloud.stop(&first.id).await.expect("stopping again");
    assert_eq!(state(cloud, &first.id).await, InstanceState::Stopped);
    assert!(matches!(cloud.reboot(&first.id).await, Err(CloudError::Conflict(_))));
    cloud.start(&first.id).await.expect("starting");
    cloud.start(&first.id).await.expect("starting again");
    assert_eq!(state(cloud, &first.id).await, InstanceState::Running);
    cloud.reboot(&first.id).await.expect("rebooting");
    let nobody = InstanceId::from("i-ffffffff");
    assert!(matches!(cloud.start(&nobody).await, Err(CloudError::NotFound(_))));
    assert!(matches!(cloud.stop(&nobody).await, Err(CloudError::NotFound(_))));
    cloud.delete(&nobody).await.expect("deleting what is not there");
    assert_eq!(state(cloud, &nobody).await, InstanceState::Gone);
    (first.id, second.id)
}

async fn state(cloud: &dyn Cloud, id: &InstanceId) -> InstanceState {
    cloud.confirm(std::slice::from_ref(id)).await.expect("confirming")[id]
}

async fn routes(cloud: &dyn Cloud, world: &World, first: &InstanceId, second: &InstanceId) {
    let route = |instance: &InstanceId| Route { instance: instance.clone(), destination: world.pod_range };
    cloud.ensure_route(&world.cluster, &route(first)).await.expect("a route");
    cloud.ensure_route(&world.cluster, &route(first)).await.expect("a route again");
    cloud.ensure_route(&world.cluster, &route(second)).await.expect("taking a route over");
    assert_eq!(cloud.routes(&world.cluster).await.expect("routes"), [route(second)]);
    cloud.delete_route(&world.cluster, &route(first)).await.expect("a route that leads elsewhere");
    assert_eq!(cloud.routes(&world.cluster).await.expect("routes").len(), 1, "only the route named is deleted");
    cloud.delete_route(&world.cluster, &route(second)).await.expect("deleting");
    cloud.delete_route(&world.cluster, &route(second)).await.expect("deleting again");
    assert!(cloud.routes(&world.cluster).await.expect("routes").is_empty());
    let nobody = route(&InstanceId::from("i-ffffffff"));
    assert!(matches!(cloud.ensure_route(&world.cluster, &nobody).await, Err(CloudError::NotFound(_))));
}

fn balancer(world: &World, resource: &str, targets: &[&InstanceId]) -> BalancerSpec {
    BalancerSpec {
        owner: Owner::new(world.cluster.clone(), resource),
        name: format!("suite/{resource}"),
        ports: vec![BalancerPort { protocol: Protocol::Tcp, port: 80, node_port: 30_080 }],
        targets: targets.iter().map(|id| (*id).clone()).collect(),
        source_ranges: [].into(),
        health: HealthCheck::Tcp { port: 30_080 },
        fail_open: false,
        address: None,
    }
}

async fn balancers(cloud: &dyn Cloud, world: &World, first: &InstanceId, second: &InstanceId) {
    let one = cloud.ensure_balancer(&balancer(world, "lb-1", &[first])).await.expect("a load balancer");
    let two = cloud.ensure_balancer(&balancer(world, "lb-2", &[first])).await.expect("another");
    assert_ne!(one.addresses, two.addresses, "an address belongs to one");
    let changed = cloud.ensure_balancer(&balancer(world, "lb-1", &[first, second])).await.expect("changing");
    assert_eq!(changed.addresses, one.addresses, "the address stays");
    let listed = cloud.balancers(&world.cluster).await.expect("load balancers");
    let listed = listed.iter().find(|b| b.spec.owner.resource == "lb-1").expect("it is listed");
    assert_eq!(listed.spec, balancer(world, "lb-1", &[first, second]), "what was asked is what is listed");
    let nobody = InstanceId::from("i-ffffffff");
    cloud.ensure_balancer(&balancer(world, "lb-2", &[first, &nobody])).await.expect("a target not found is left out");
    for resource in ["lb-1", "lb-2", "lb-1"] {
        let owner = Owner::new(world.cluster.clone(), resource);
        cloud.delete_balancer(&owner).await.expect("deleting, and again");
    }
    assert!(cloud.balancers(&world.cluster).await.expect("load balancers").is_empty());
}

async fn volumes(cloud: &dyn Cloud, world: &World, first: &InstanceId, second: &InstanceId) {
    const MIB: u64 = 1 << 20;
    let order = |bytes| VolumeOrder {
        owner: Owner::new(world.cluster.clone(), "claim-1"),
        name: "pvc-claim-1".to_owned(),
        bytes,
        zone: String::new(),
        parameters: BTreeMap::new(),
    };
    let volume = cloud.create_volume(&order(MIB)).await.expect("a volume");
    assert_eq!(cloud.create_volume(&order(MIB)).await.expect("again").id, volume.id);
    assert!(matches!(cloud.create_volume(&order(2 * MIB)).await, Err(CloudError::Conflict(_))));
    let device = cloud.attach_volume(&volume.id, first).await.expect("attaching");
    assert_eq!(cloud.attach_volume(&volume.id, first).await.expect("attaching again"), device);
    assert!(matches!(cloud.attach_volume(&volume.id, second).await, Err(CloudError::Conflict(_))), "exclusive");
    assert!(matches!(cloud.delete_volume(&volume.id).await, Err(CloudError::Conflict(_))), "it is attached");
    let listed = cloud.volumes(&world.cluster).await.expect("volumes");
    let attachment = listed[0].attachment.clone().expect("attached");
    assert_eq!((attachment.instance, attachment.device), (first.clone(), device));
    cloud.detach_volume(&volume.id, second).await.expect("detaching where it is not");
    assert!(cloud.volumes(&world.cluster).await.expect("volumes")[0].attachment.is_some());
    cloud.stop(first).await.expect("stopping");
    assert!(matches!(cloud.attach_volume(&volume.id, second).await, Err(CloudError::Conflict(_))), "still exclusive");
    cloud.detach_volume(&volume.id, first).await.expect("detaching from a stopped instance");
    cloud.detach_volume(&volume.id, first).await.expect("detaching again");
    cloud.start(first).await.expect("starting");
    cloud.attach_volume(&volume.id, second).await.expect("attaching elsewhere");
    assert_eq!(cloud.expand_volume(&volume.id, 3 * MIB).await.expect("growing"), 3 * MIB);
    assert_eq!(cloud.expand_volume(&volume.id, MIB).await.expect("not shrinking"), 3 * MIB);
    cloud.detach_volume(&volume.id, second).await.expect("detaching");
    cloud.delete_volume(&volume.id).await.expect("deleting");
    cloud.delete_volume(&volume.id).await.expect("deleting again");
    let nothing = VolumeId::from("vol-ffffffff");
    assert!(matches!(cloud.attach_volume(&nothing, first).await, Err(CloudError::NotFound(_))));
    assert!(cloud.volumes(&world.cluster).await.expect("volumes").is_empty());
}

async fn removal(cloud: &dyn Cloud, world: &World, ids: [InstanceId; 2]) {
    for id in &ids {
        cloud.delete(id).await.expect("deleting");
        cloud.delete(id).await.expect("deleting again");
        assert_eq!(state(cloud, id).await, InstanceState::Gone);
    }
    let left = cloud.observe(&world.cluster).await.expect("observing");
    assert!(left.iter().all(|i| i.state == InstanceState::Gone), "gone, listed as such or not at all");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeCloud;
    use jiff::Timestamp;

    #[tokio::test]
    async fn the_fake_passes() {
        let world = World {
            cluster: "cluster-uid".to_owned(),
            fleet: "fleet-uid".to_owned(),
            pod_range: "10.64.7.0/24".parse().unwrap(),
        };
        run_suite(&FakeCloud::new("fake", Timestamp::UNIX_EPOCH), &world).await;
    }
}
