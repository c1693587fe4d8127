//! The shell of one cluster against a fake API and a fake cloud: what it asks of either.

use super::*;
use crate::{FleetConfig, fake_api::FakeApi, run_machines};
use serde_json::Value;
use timonel_cloud_core::{
    InstanceId, InstanceState, Instances, LoadBalancers, MachineOrder, Machines, Owner, Routes, Volumes,
    testing::{FakeCloud, Fault},
};

const NODES: &str = "/api/v1/nodes";
const SERVICES: &str = "/api/v1/services/shop";
const CLAIMS: &str = "/api/v1/persistentvolumeclaims/shop";
const ATTACHMENTS: &str = "/apis/storage.k8s.io/v1/volumeattachments";
const MACHINES: &str = "/apis/timonel.io/v1/machines/default";

/// A cluster and its cloud, on paused time.
struct World {
    api: FakeApi,
    cloud: Arc<FakeCloud>,
    tasks: Tasks,
}

impl World {
    async fn new(machines: &[&str]) -> Self {
        let clock = Clock::simulated(Timestamp::UNIX_EPOCH);
        let cloud = Arc::new(FakeCloud::new("fake", clock.now()));
        for name in machines {
            let order = MachineOrder {
                token: (*name).to_owned(),
                owner: Owner::new("c", *name),
                pool: "p".to_owned(),
                name: (*name).to_owned(),
                instance_type: "t.small".to_owned(),
                zone: "fake-a".to_owned(),
                image: String::new(),
                user_data: String::new(),
                tags: [].into(),
            };
            cloud.create(&order).await.unwrap();
        }
        let (api, tasks) = (FakeApi::new(), Tasks::root("test"));
        let mut config = CloudControllerConfig::new("c", "fake");
        config.pod_ranges = Some("10.64.0.0/16".parse().unwrap());
        run(api.client(), Arc::clone(&cloud) as Arc<dyn Cloud>, config, clock, &tasks);
        let world = Self { api, cloud, tasks };
        for name in machines {
            world.join(name);
        }
        world
    }

    fn join(&self, name: &str) {
        let taint =
            json!([{ "key": timonel_cloud_core::TAINT_UNINITIALIZED, "value": "true", "effect": "NoSchedule" }]);
        let status = json!({ "conditions": [{ "type": "Ready", "status": "True" }] });
        self.api.create(NODES, json!({ "metadata": { "name": name }, "spec": { "taints": taint }, "status": status }));
    }

    fn node(&self, name: &str) -> Option<Value> {
        self.api.get(&format!("{NODES}/{name}"))
    }

    fn id(&self, name: &str) -> InstanceId {
        let node = self.node(name).unwrap();
        InstanceId::from(node["spec"]["providerID"].as_str().unwrap().rsplit('/').next().unwrap())
    }

    async fn until(&self, what: &str, mut check: impl AsyncFnMut() -> bool) {
        for _ in 0..3000 {
            if check().await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("never: {what}");
    }

    async fn initialised(&self, name: &str) {
        self.until("the node is initialised", async || {
            let Some(node) = self.node(name) else { return false };
            node["spec"]["taints"].is_null() && node["status"]["conditions"][1]["status"] == "False"
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn nodes_come_and_go() {
    let world = World::new(&["n1", "n2", "n3"]).await;
    for name in ["n1", "n2", "n3"] {
        world.initialised(name).await;
    }
    let node = world.node("n1").unwrap();
    assert_eq!(node["metadata"]["labels"]["topology.kubernetes.io/zone"], "fake-a");
    assert_eq!(node["status"]["addresses"][1]["address"], "n1");
    assert_eq!(world.cloud.routes("c").await.unwrap().len(), 3);

    // Nothing is called but one observation a period while nothing happens.
    let before = world.cloud.calls();
    tokio::time::sleep(Duration::from_secs(300)).await;
    for (call, count) in world.cloud.calls() {
        let more = count - before.get(call).copied().unwrap_or(0);
        assert!(more <= 11, "{call} was called {more} times in five minutes");
    }

    // One that dies goes; the others stay through listings that show nobody.
    let id = world.id("n2");
    world.cloud.disturb(&id, None);
    let unready = json!({ "status": { "conditions": [{ "type": "Ready", "status": "Unknown" }] } });
    world.api.patch(&format!("{NODES}/n2"), &unready);
    world.until("the node of the dead goes", async || world.node("n2").is_none()).await;
    world.until("its route too", async || world.cloud.routes("c").await.unwrap().len() == 2).await;
    for name in ["n1", "n3"] {
        world.api.patch(&format!("{NODES}/{name}"), &unready);
    }
    for _ in 0..20 {
        world.cloud.script("observe", Fault::Empty);
    }
    tokio::time::sleep(Duration::from_secs(1200)).await;
    assert!(world.node("n1").is_some() && world.node("n3").is_some());
    assert!(world.api.reasons().iter().any(|reason| reason == "MassDisappearance"));
    let id = world.id("n1");
    world.cloud.stop(&id).await.unwrap();
    world
        .until("the taint of one without power", async || {
            world.node("n1").unwrap()["spec"]["taints"][0]["key"] == timonel_cloud_core::TAINT_SHUTDOWN
        })
        .await;
    assert!(world.tasks.shutdown(Duration::from_secs(1)).await);
}

#[tokio::test(start_paused = true)]
async fn a_load_balancer_from_wish_to_removal_through_faults() {
    let world = World::new(&["n1", "n2"]).await;
    world.initialised("n1").await;
    world.initialised("n2").await;
    world.cloud.script("ensure_balancer", Fault::LostAnswer);
    world.cloud.script("ensure_balancer", Fault::Throttled);
    world.cloud.script("balancers", Fault::Unavailable);
    let spec = json!({ "type": "LoadBalancer", "ports": [{ "port": 80, "nodePort": 30080 }] });
    world.api.create(SERVICES, json!({ "metadata": { "name": "web", "namespace": "shop" }, "spec": spec }));
    let path = format!("{SERVICES}/web");
    world
        .until("an address", async || {
            world.api.get(&path).unwrap()["status"]["loadBalancer"]["ingress"][0]["ip"].is_string()
        })
        .await;
    let made = world.cloud.balancers("c").await.unwrap();
    assert_eq!((made.len(), made[0].spec.targets.len()), (1, 2));
    for reason in ["EnsuringLoadBalancer", "SyncLoadBalancerFailed"] {
        assert!(world.api.reasons().iter().any(|have| have == reason), "{reason}: {:?}", world.api.reasons());
    }

    // A node that leaves the load balancers leaves them at once.
    let excluded =
        json!({ "metadata": { "labels": { "node.kubernetes.io/exclude-from-external-load-balancers": "" } } });
    world.api.patch(&format!("{NODES}/n1"), &excluded);
    world
        .until("one target is left", async || world.cloud.balancers("c").await.unwrap()[0].spec.targets.len() == 1)
        .await;

    assert!(world.api.reasons().iter().any(|have| have == "UpdatedLoadBalancer"));
    world.cloud.script("delete_balancer", Fault::Unavailable);
    world.api.delete(&path);
    assert!(world.api.get(&path).is_some(), "held by the finalizer");
    world.until("the service goes", async || world.api.get(&path).is_none()).await;
    assert_eq!(world.cloud.balancers("c").await.unwrap(), []);
}

#[tokio::test(start_paused = true)]
async fn a_volume_moves_with_its_data_from_one_node_to_another() {
    let world = World::new(&["n1", "n2"]).await;
    world.initialised("n1").await;
    world.initialised("n2").await;
    let metadata = json!({
        "name": "data", "namespace": "shop", "annotations": { "volume.kubernetes.io/selected-node": "n1" },
    });
    let spec = json!({
        "storageClassName": "standard", "accessModes": ["ReadWriteOnce"],
        "resources": { "requests": { "storage": "1Gi" } },
    });
    world.cloud.script("create_volume", Fault::LostAnswer);
    world.api.create(CLAIMS, json!({ "metadata": metadata, "spec": spec, "status": { "phase": "Pending" } }));
    let pv = "/api/v1/persistentvolumes/pvc-uid-data";
    world.until("a persistent volume", async || world.api.get(pv).is_some()).await;
    assert_eq!(world.cloud.volumes("c").await.unwrap().len(), 1, "the lost answer made no second volume");

    let attach = |name: &str, node: &str| {
        let spec = json!({
            "attacher": "fake.csi.timonel.io", "nodeName": node,
            "source": { "persistentVolumeName": "pvc-uid-data" },
        });
        world.api.create(ATTACHMENTS, json!({ "metadata": { "name": name }, "spec": spec }));
    };
    let attached =
        |name: &str| world.api.get(&format!("{ATTACHMENTS}/{name}")).is_some_and(|a| a["status"]["attached"] == true);
    attach("a1", "n1");
    world.until("attached", async || attached("a1")).await;
    attach("a2", "n2");
    // The first node dies without a word: its volume stays with it.
    world.cloud.disturb(&world.id("n1"), Some(InstanceState::Stopped));
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(attached("a1") && !attached("a2"), "never twice");
    world.api.delete(&format!("{ATTACHMENTS}/a1"));
    world.until("attached to the other", async || attached("a2")).await;
    let volumes = world.cloud.volumes("c").await.unwrap();
    assert_eq!(volumes[0].attachment.as_ref().unwrap().instance, world.id("n2"));
}

#[tokio::test(start_paused = true)]
async fn machines_get_instances_and_take_them_along() {
    let clock = Clock::simulated(Timestamp::UNIX_EPOCH);
    let cloud = Arc::new(FakeCloud::new("fake", clock.now()));
    let (api, tasks) = (FakeApi::new(), Tasks::root("test"));
    let config = FleetConfig { fleet: "f".to_owned(), period: Duration::from_secs(5) };
    cloud.script("create", Fault::LostAnswer);
    cloud.script("list", Fault::Throttled);
    run_machines(api.client(), Arc::clone(&cloud) as Arc<dyn Cloud>, config, clock, &tasks);
    let spec = json!({ "cluster": "demo", "clusterUID": "c", "pool": "p", "userData": "u" });
    for name in ["m1", "m2"] {
        let metadata = json!({ "name": name, "namespace": "default" });
        api.create(
            MACHINES,
            json!({
                "apiVersion": "timonel.io/v1", "kind": "Machine", "metadata": metadata, "spec": spec,
            }),
        );
    }
    let wait = async |what: &str, check: &dyn Fn() -> bool| {
        for _ in 0..3000 {
            if check() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("never: {what}");
    };
    let phase = |name: &str| {
        let machine = api.get(&format!("{MACHINES}/{name}"));
        machine.map(|m| m["status"]["phase"].as_str().unwrap_or_default().to_owned())
    };
    wait("both boot", &|| ["m1", "m2"].map(phase).iter().all(|p| p.as_deref() == Some("Booting"))).await;
    assert_eq!(cloud.observe("c").await.unwrap().len(), 2);
    let machine = api.get(&format!("{MACHINES}/m1")).unwrap();
    assert_eq!(machine["status"]["providerID"].as_str().map(|id| id.starts_with("fake://")), Some(true));
    api.delete(&format!("{MACHINES}/m1"));
    wait("the machine goes", &|| phase("m1").is_none()).await;
    let living: Vec<String> = cloud
        .observe("c")
        .await
        .unwrap()
        .into_iter()
        .filter(|i| i.state == InstanceState::Running)
        .map(|i| i.name)
        .collect();
    assert_eq!(living, ["m2"]);
}
