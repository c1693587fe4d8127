//! Plans for machines, case by case.

use super::*;
use crate::{
    cloud::{Instances, Machines},
    testing::{FakeCloud, Fault},
};
use serde_json::Value;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// A fleet of Machines and a cloud, and the executor between them.
struct Fleet {
    cloud: FakeCloud,
    machines: BTreeMap<String, Value>,
    memory: MachineMemory,
    now: i64,
    alarms: Vec<&'static str>,
}

impl Fleet {
    fn new(names: &[&str]) -> Self {
        let machine = |name: &&str| {
            let value = json!({
                "metadata": { "name": name, "namespace": "default", "uid": format!("uid-{name}"), "resourceVersion": "1" },
                "spec": { "cluster": "demo", "clusterUID": "c", "pool": "p", "userData": "u" },
            });
            ((*name).to_owned(), value)
        };
        let machines = names.iter().map(machine).collect();
        Self {
            cloud: FakeCloud::new("fake", at(0)),
            machines,
            memory: MachineMemory::default(),
            now: 0,
            alarms: vec![],
        }
    }

    async fn look(&mut self) {
        self.now += 5;
        self.cloud.advance(SignedDuration::from_secs(5));
        let Ok(instances) = self.cloud.list(&fleet_tags("f")).await else { return };
        let machines: Vec<Arc<Machine>> =
            self.machines.values().map(|value| Arc::new(serde_json::from_value(value.clone()).unwrap())).collect();
        let now = at(self.now);
        let view = MachineView { fleet: "f", machines: &machines, instances: &instances, observed: now, now };
        for action in plan_machines(&view, &mut self.memory) {
            self.execute(action).await;
        }
        let done = |value: &Value| {
            value["metadata"]["deletionTimestamp"].is_string() && value["metadata"]["finalizers"] == json!([])
        };
        self.machines.retain(|_, value| !done(value));
    }

    async fn execute(&mut self, action: Action) {
        match action.act {
            Act::Patch { body, .. } => {
                let into = self.machines.get_mut(&action.subject.name).unwrap();
                for part in ["metadata", "status"] {
                    for (key, value) in body[part].as_object().into_iter().flatten() {
                        into[part][key] = value.clone();
                    }
                }
            }
            Act::Confirm(ids) => {
                if let Ok(answers) = self.cloud.confirm(&ids).await {
                    self.memory.absences.confirm(&answers);
                }
            }
            Act::Alarm { reason, .. } => self.alarms.push(reason),
            Act::Cloud(CloudCall::CreateMachine(order)) => match self.cloud.create(&order).await {
                Err(error @ (CloudError::Exhausted(_) | CloudError::Invalid(_))) => {
                    self.memory.refused.insert(action.subject.uid, error);
                }
                _ => drop(self.memory.refused.remove(&action.subject.uid)),
            },
            Act::Cloud(CloudCall::DeleteMachine(id)) => drop(self.cloud.delete(&id).await),
            Act::Cloud(CloudCall::StartMachine(id)) => drop(self.cloud.start(&id).await),
            Act::Cloud(CloudCall::StopMachine(id)) => drop(self.cloud.stop(&id).await),
            other => panic!("{other:?}"),
        }
    }

    async fn looks(&mut self, times: usize) {
        for _ in 0..times {
            self.look().await;
        }
    }

    fn delete(&mut self, name: &str) {
        self.machines.get_mut(name).unwrap()["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    }

    fn phase(&self, name: &str) -> &str {
        self.machines[name]["status"]["phase"].as_str().unwrap_or_default()
    }

    fn id(&self, name: &str) -> InstanceId {
        InstanceId::from(self.machines[name]["status"]["instanceID"].as_str().unwrap())
    }

    async fn living(&self) -> usize {
        let all = self.cloud.list(&fleet_tags("f")).await.unwrap();
        all.iter().filter(|i| i.state != InstanceState::Gone).count()
    }
}

#[tokio::test]
async fn from_order_to_removal() {
    let mut fleet = Fleet::new(&["a"]);
    fleet.look().await;
    assert_eq!(fleet.machines["a"]["metadata"]["finalizers"], json!([FINALIZER_MACHINE]), "held before it is ordered");
    assert_eq!(fleet.living().await, 0);
    fleet.looks(2).await;
    assert_eq!((fleet.phase("a"), fleet.living().await), ("Booting", 1));
    assert_eq!(fleet.machines["a"]["status"]["addresses"][0]["type"], "InternalIP");
    fleet.machines.get_mut("a").unwrap()["status"]["joinedInstance"] = "x".into();
    fleet.look().await;
    assert_eq!(fleet.phase("a"), "Running");
    assert_eq!(fleet.machines["a"]["status"]["conditions"][0]["status"], "True");
    fleet.delete("a");
    fleet.looks(4).await;
    assert_eq!((fleet.machines.len(), fleet.living().await), (0, 0));
}

#[tokio::test]
async fn one_instance_whatever_the_cloud_answers() {
    let faults = [Fault::Unavailable, Fault::LostAnswer, Fault::Throttled];
    for (create, list) in [(0, Fault::Empty), (1, Fault::Empty), (1, Fault::Stale), (2, Fault::Unavailable)] {
        let mut fleet = Fleet::new(&["a", "b"]);
        for _ in 0..2 {
            fleet.cloud.script("create", faults[create]);
        }
        for _ in 0..5 {
            fleet.cloud.script("list", list);
        }
        fleet.looks(12).await;
        assert_eq!(fleet.living().await, 2, "{:?} {list:?}", faults[create]);
        assert_eq!((fleet.phase("a"), fleet.phase("b")), ("Booting", "Booting"));
    }
}

#[tokio::test]
async fn an_instance_that_dies_fails_its_machine_and_an_empty_listing_does_not() {
    let mut fleet = Fleet::new(&["a", "b", "c"]);
    fleet.looks(3).await;
    for _ in 0..10 {
        fleet.cloud.script("list", Fault::Empty);
    }
    fleet.looks(10).await;
    assert_eq!(fleet.alarms, ["MassDisappearance"]);
    assert_eq!(fleet.phase("a"), "Booting", "nothing is believed");
    let id = fleet.id("b");
    fleet.cloud.disturb(&id, None);
    fleet.looks(4).await;
    assert_eq!((fleet.phase("a"), fleet.phase("b")), ("Booting", "Failed"));
    assert_eq!(fleet.living().await, 2, "a Machine has one instance in its life");
}

#[tokio::test]
async fn power_is_kept_as_wanted() {
    let mut fleet = Fleet::new(&["a"]);
    fleet.looks(3).await;
    let id = fleet.id("a");
    let state = async |fleet: &Fleet| fleet.cloud.confirm(std::slice::from_ref(&id)).await.unwrap()[&id];
    fleet.cloud.stop(&id).await.unwrap();
    fleet.look().await;
    assert_eq!(state(&fleet).await, InstanceState::Running);
    fleet.machines.get_mut("a").unwrap()["metadata"]["annotations"] = json!({ ANNOTATION_POWER: "off" });
    fleet.looks(2).await;
    assert_eq!(state(&fleet).await, InstanceState::Stopped);
}

#[tokio::test]
async fn an_orphan_is_swept_and_a_lost_list_of_machines_is_an_alarm() {
    let mut fleet = Fleet::new(&["a", "b", "c", "d"]);
    fleet.looks(3).await;
    let lost = fleet.machines.remove("d").unwrap();
    fleet.looks(3).await;
    assert_eq!(fleet.living().await, 4, "too young to be an orphan");
    fleet.looks(12).await;
    assert_eq!(fleet.living().await, 3, "swept: {lost}");
    let machines = std::mem::take(&mut fleet.machines);
    fleet.looks(30).await;
    assert_eq!(fleet.living().await, 3, "a fleet is never swept");
    assert!(fleet.alarms.contains(&"MassOrphans"));
    fleet.machines = machines;
    fleet.looks(2).await;
    assert_eq!(fleet.living().await, 3);
}

#[test]
fn the_table() {
    use MachinePhase as P;
    let phases = [P::Pending, P::Provisioning, P::Booting, P::Running, P::Failed, P::Deleting];
    let seen = [
        Seen::Nothing,
        Seen::Absent,
        Seen::Pending,
        Seen::Running,
        Seen::Joined,
        Seen::Stopped,
        Seen::Gone,
        Seen::Refused,
    ];
    for phase in phases {
        for seen in seen {
            let (next, step) = transition(true, phase, seen);
            assert_eq!(next, P::Deleting, "{phase:?} {seen:?}");
            assert_ne!(step, MachineStep::Order, "what is deleted is never ordered");
            let nothing_left = matches!(seen, Seen::Nothing | Seen::Gone | Seen::Refused);
            assert_eq!(step == MachineStep::Release, nothing_left, "{phase:?} {seen:?}");
            let (_, step) = transition(false, phase, seen);
            let ordered = matches!(seen, Seen::Nothing | Seen::Refused);
            assert_eq!(step == MachineStep::Order, ordered, "{phase:?} {seen:?}");
            assert!(!matches!(step, MachineStep::Remove | MachineStep::Release), "what is kept is never removed");
        }
    }
}
