//! Plans for volumes, case by case.

use super::*;
use crate::{
    action::{Act, CloudCall, Kind},
    model::{Attachment, InstanceId, InstanceState, Owner, VolumeId},
};
use serde_json::Value;

const DRIVER: &str = "fake.csi.timonel.io";
const GIB: u64 = 1 << 30;

#[derive(Clone)]
struct World {
    zonal: bool,
    claims: Vec<Value>,
    persistent: Vec<Value>,
    classes: Vec<Value>,
    attachments: Vec<Value>,
    nodes: Vec<Value>,
    instances: Vec<Instance>,
    volumes: Vec<Volume>,
}

fn objects<T: serde::de::DeserializeOwned>(values: &[Value]) -> Vec<Arc<T>> {
    values.iter().map(|value| Arc::new(serde_json::from_value(value.clone()).unwrap())).collect()
}

fn instance(n: u8) -> Instance {
    Instance {
        id: InstanceId(format!("i-{n}")),
        provider_id: format!("fake:///a/i-{n}"),
        name: format!("node-{n}"),
        addresses: Vec::new(),
        instance_type: String::new(),
        zone: "a".to_owned(),
        region: String::new(),
        state: InstanceState::Running,
        pod_ranges: Vec::new(),
        tags: [].into(),
        created: Timestamp::UNIX_EPOCH,
    }
}

fn volume(attached: Option<u8>) -> Volume {
    let attachment =
        attached.map(|n| Attachment { instance: InstanceId(format!("i-{n}")), device: "/dev/x".to_owned() });
    Volume {
        id: VolumeId::from("vol-1"),
        owner: Owner::new("c", "claim-1"),
        name: "pvc-claim-1".to_owned(),
        bytes: GIB,
        zone: "a".to_owned(),
        attachment,
    }
}

fn node(n: u8) -> Value {
    json!({
        "metadata": { "name": format!("node-{n}"), "labels": { "topology.kubernetes.io/zone": "a" } },
        "spec": { "providerID": format!("fake:///a/i-{n}") },
    })
}

fn claim(size: &str) -> Value {
    json!({
        "metadata": {
            "name": "data", "namespace": "shop", "uid": "claim-1", "resourceVersion": "4",
            "annotations": { "volume.kubernetes.io/selected-node": "node-1" },
        },
        "spec": {
            "storageClassName": "standard", "accessModes": ["ReadWriteOnce"], "volumeMode": "Filesystem",
            "resources": { "requests": { "storage": size } },
        },
        "status": { "phase": "Pending" },
    })
}

fn attachment(n: u8, attached: bool) -> Value {
    json!({
        "metadata": {
            "name": format!("csi-{n}"), "uid": format!("va-{n}"), "resourceVersion": "4",
            "finalizers": ["external-attacher/fake-csi-timonel-io"],
        },
        "spec": { "attacher": DRIVER, "nodeName": format!("node-{n}"), "source": { "persistentVolumeName": "pvc-claim-1" } },
        "status": { "attached": attached },
    })
}

impl World {
    fn new() -> Self {
        Self {
            zonal: false,
            claims: Vec::new(),
            persistent: Vec::new(),
            classes: vec![json!(default_storage_class("standard", DRIVER))],
            attachments: Vec::new(),
            nodes: vec![node(1), node(2)],
            instances: vec![instance(1), instance(2)],
            volumes: Vec::new(),
        }
    }

    /// With a bound claim of 1 GiB and its volume.
    fn bound(attached: Option<u8>) -> Self {
        let mut world = Self::new();
        world.claims = vec![claim("1Gi")];
        world.volumes = vec![volume(attached)];
        let acts = world.plan();
        let [Act::Create { kind: Kind::PersistentVolume, object }, ..] = &acts[..] else { panic!("{acts:?}") };
        let mut persistent = object.clone();
        persistent["status"] = json!({ "phase": "Bound" });
        world.persistent = vec![persistent];
        world.claims[0]["spec"]["volumeName"] = "pvc-claim-1".into();
        world.claims[0]["status"] = json!({ "phase": "Bound", "capacity": { "storage": "1Gi" } });
        world
    }

    fn plan(&self) -> Vec<Act> {
        let config = StorageConfig { driver: DRIVER.to_owned(), zonal: self.zonal };
        let view = VolumeView {
            cluster: "c",
            config: &config,
            claims: &objects(&self.claims),
            persistent: &objects(&self.persistent),
            classes: &objects(&self.classes),
            attachments: &objects(&self.attachments),
            nodes: &objects(&self.nodes),
            instances: &self.instances,
            volumes: &self.volumes,
            now: Timestamp::UNIX_EPOCH,
        };
        plan_volumes(&view).into_iter().map(|action| action.act).collect()
    }

    fn call(&self) -> Option<CloudCall> {
        let mut calls = self.plan().into_iter().filter_map(|act| match act {
            Act::Cloud(call) => Some(call),
            _ => None,
        });
        let call = calls.next();
        assert_eq!(calls.next(), None);
        call
    }

    fn change(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }
}

#[test]
fn a_claim_waits_for_its_node_then_gets_a_volume_then_a_persistent_volume() {
    let mut world = World::new();
    world.claims = vec![claim("1.5Gi")];
    let Some(CloudCall::CreateVolume(order)) = world.call() else { panic!("{:?}", world.plan()) };
    assert_eq!((order.bytes, order.zone.as_str(), order.name.as_str()), (3 << 29, "a", "pvc-claim-1"));
    assert_eq!(order.owner, Owner::new("c", "claim-1"));
    let waiting = world.clone().change(|w| w.claims[0]["metadata"]["annotations"] = json!({}));
    assert_eq!(waiting.plan(), []);
    let node_gone = world.clone().change(|w| drop(w.nodes.remove(0)));
    assert!(matches!(&node_gone.plan()[..], [Act::Patch { .. }]), "the scheduler chooses again");
    for (what, zonal) in [("anywhere", false), ("in its zone", true)] {
        let mut world = world.clone().change(|w| w.volumes = vec![volume(None)]);
        world.zonal = zonal;
        let acts = world.plan();
        let [Act::Create { object, .. }, Act::Event { reason: "ProvisioningSucceeded", .. }] = &acts[..] else {
            panic!("{acts:?}")
        };
        assert_eq!(object["spec"]["csi"]["volumeHandle"], "vol-1");
        assert_eq!(object["spec"]["claimRef"]["uid"], "claim-1");
        assert_eq!(object["spec"]["capacity"]["storage"], "1Gi");
        assert_eq!(object["spec"]["nodeAffinity"].is_object(), zonal, "usable {what}");
    }
    assert_eq!(World::bound(None).plan(), [], "nothing is left to do");
}

#[test]
fn other_provisioners_claims_are_not_ours() {
    let mut world = World::new();
    world.claims = vec![claim("1Gi")];
    world.classes[0]["provisioner"] = "other".into();
    assert_eq!(world.plan(), []);
}

#[test]
fn a_released_volume_is_deleted_only_when_nobody_has_it() {
    let mut world = World::bound(None);
    world.claims.clear();
    world.persistent[0]["status"]["phase"] = "Released".into();
    assert_eq!(world.call(), Some(CloudCall::DeleteVolume(VolumeId::from("vol-1"))));
    let used = world.clone().change(|w| w.attachments = vec![attachment(1, true)]);
    assert!(!matches!(used.call(), Some(CloudCall::DeleteVolume(_))));
    let kept = world.clone().change(|w| w.persistent[0]["spec"]["persistentVolumeReclaimPolicy"] = "Retain".into());
    assert_eq!(kept.plan(), []);
    world.volumes.clear();
    assert_eq!(world.plan(), [Act::Delete]);
    world.persistent[0]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    let body = json!({ "metadata": { "finalizers": [] } });
    assert_eq!(world.plan(), [Act::Patch { status: false, body }]);
}

#[test]
fn growth_goes_volume_persistent_volume_claim() {
    let mut world = World::bound(None);
    world.claims[0]["spec"]["resources"]["requests"]["storage"] = "2Gi".into();
    assert_eq!(world.call(), Some(CloudCall::ExpandVolume(VolumeId::from("vol-1"), 2 * GIB)));
    let fixed = world.clone().change(|w| w.classes[0]["allowVolumeExpansion"] = false.into());
    assert_eq!(fixed.plan(), []);
    world.volumes[0].bytes = 2 * GIB;
    let body = json!({ "spec": { "capacity": { "storage": "2Gi" } } });
    assert_eq!(world.plan(), [Act::Patch { status: false, body }]);
    world.persistent[0]["spec"]["capacity"]["storage"] = "2Gi".into();
    let body = json!({ "status": { "capacity": { "storage": "2Gi" } } });
    assert_eq!(world.plan(), [Act::Patch { status: true, body }]);
    world.claims[0]["status"]["capacity"]["storage"] = "2Gi".into();
    assert_eq!(world.plan(), []);
}

#[test]
fn attaching() {
    let mut world = World::bound(None);
    world.attachments = vec![attachment(1, false)];
    let bare = world.clone().change(|w| w.attachments[0]["metadata"]["finalizers"] = json!([]));
    assert!(matches!(&bare.plan()[..], [Act::Patch { status: false, .. }]), "held before it is attached");
    let (id, first) = (VolumeId::from("vol-1"), InstanceId::from("i-1"));
    assert_eq!(world.call(), Some(CloudCall::AttachVolume(id, first)));
    world.volumes = vec![volume(Some(1))];
    let acts = world.plan();
    let [Act::Patch { status: true, body }] = &acts[..] else { panic!("{acts:?}") };
    assert_eq!(body["status"]["attached"], true);
    assert_eq!(body["status"]["attachmentMetadata"]["devicePath"], "/dev/x");
    world.attachments = vec![attachment(1, true)];
    assert_eq!(world.plan(), []);
}

#[test]
fn never_attached_twice() {
    let held = World::bound(Some(1)).change(|w| w.attachments = vec![attachment(1, true), attachment(2, false)]);
    let states = [InstanceState::Running, InstanceState::Stopped, InstanceState::Gone];
    for state in states {
        let world = held.clone().change(|w| w.instances[0].state = state);
        let acts = world.plan();
        assert!(!acts.iter().any(|act| matches!(act, Act::Cloud(_))), "{state:?}: {acts:?}");
        let shown =
            acts.iter().any(|a| matches!(a, Act::Patch { body, .. } if body["status"]["attachError"].is_object()));
        assert!(shown, "{state:?}: the reason is shown");
    }
    // The old attachment is on its way out: it is the one that detaches, and only then the new one attaches.
    let going = held.change(|w| w.attachments[0]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into());
    assert_eq!(going.call(), Some(CloudCall::DetachVolume(VolumeId::from("vol-1"), InstanceId::from("i-1"))));
    let free = going.change(|w| {
        w.volumes = vec![volume(None)];
        w.attachments.remove(0);
    });
    assert_eq!(free.call(), Some(CloudCall::AttachVolume(VolumeId::from("vol-1"), InstanceId::from("i-2"))));
}

#[test]
fn detaching() {
    let going = |attached| {
        World::bound(attached).change(|w| {
            w.attachments = vec![attachment(1, true)];
            w.attachments[0]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        })
    };
    let detach = Some(CloudCall::DetachVolume(VolumeId::from("vol-1"), InstanceId::from("i-1")));
    assert_eq!(going(Some(1)).call(), detach);
    let node_gone = going(Some(1)).change(|w| w.nodes = Vec::new());
    assert_eq!(node_gone.call(), detach, "the node's object went first");
    let instance_gone = node_gone.change(|w| w.instances = Vec::new());
    assert_eq!(instance_gone.call(), detach, "and the instance too");
    for (what, world) in [
        ("detached", going(None)),
        ("attached to another", going(Some(2))),
        ("the volume is gone", going(None).change(|w| w.volumes.clear())),
    ] {
        assert_eq!(world.call(), None, "{what}");
        assert!(matches!(&world.plan()[..], [Act::Patch { status: false, .. }]), "{what}: let go");
    }
}

#[test]
fn a_volume_that_an_old_listing_left_plugged_in_is_unplugged() {
    let world = World::bound(Some(1));
    assert!(matches!(world.call(), Some(CloudCall::DetachVolume(..))), "{:?}", world.plan());
}
