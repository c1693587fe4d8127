//! A local cloud of its own for each test: name, ranges and data that nobody else has, and nothing left afterwards.

use jiff::Timestamp;
use rustix::{
    fs::{FlockOperation, flock},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};
use std::{fs::File, os::fd::AsFd, time::Duration};
use timonel_cloud_core::{Instance, MachineOrder, Machines, Owner, TAG_FLEET};
use timonel_cloud_local::{LocalCloud, LocalConfig, LocalError};
use timonel_runtime::{Clock, Entropy, Tasks};

const SLOTS: u8 = 60;

/// The world of one test.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) config: LocalConfig,
    tasks: Option<Tasks>,
    slot: u8,
    _lock: File,
    _dir: tempfile::TempDir,
}

impl World {
    /// `None`, with the reason printed, without root.
    pub(crate) fn new(machine: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: network namespaces need root");
            return None;
        }
        let (slot, lock) = (0..SLOTS)
            .find_map(|slot| {
                let file = File::create(std::env::temp_dir().join(format!("tm-test-slot-{slot}"))).ok()?;
                flock(&file, FlockOperation::NonBlockingLockExclusive).ok()?;
                Some((slot, file))
            })
            .expect("a free slot");
        let dir = tempfile::tempdir().expect("a directory");
        let command = ["sh", "-c", machine].map(str::to_owned).into();
        let mut config = LocalConfig::new(&format!("tst{slot}"), dir.path().join("data"), command);
        config.public_range = format!("172.29.{slot}.0/24").parse().expect("a range");
        config.machine_range = format!("10.221.{slot}.0/24").parse().expect("a range");
        config.stop_grace = Duration::from_secs(2);
        config.egress = false;
        Some(Self { config, tasks: None, slot, _lock: lock, _dir: dir })
    }

    pub(crate) fn slot(&self) -> u8 {
        self.slot
    }

    pub(crate) async fn open(&mut self) -> LocalCloud {
        self.try_open().await.expect("the cloud opens")
    }

    pub(crate) async fn try_open(&mut self) -> Result<LocalCloud, LocalError> {
        let tasks = Tasks::root("test");
        self.tasks = Some(tasks.clone());
        LocalCloud::open(self.config.clone(), Clock::system(), Entropy::system(), &tasks).await
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(tasks) = &self.tasks {
            tasks.token().cancel();
        }
        let config = self.config.clone();
        let clean = std::thread::Builder::new().spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                for _ in 0..100 {
                    match LocalCloud::destroy_all(&config).await {
                        Ok(()) => return,
                        Err(error) => eprintln!("cleaning: {error}"),
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            });
        });
        if let Ok(thread) = clean {
            let _ = thread.join();
        }
    }
}

/// An order for a machine.
pub(crate) fn order(name: &str) -> MachineOrder {
    MachineOrder {
        token: format!("token-{name}"),
        owner: Owner::new("cluster-uid", format!("uid-{name}")),
        pool: "pool".to_owned(),
        name: name.to_owned(),
        instance_type: "t.small".to_owned(),
        zone: String::new(),
        image: String::new(),
        user_data: "#user-data".to_owned(),
        tags: [(TAG_FLEET.to_owned(), "fleet-uid".to_owned())].into(),
    }
}

pub(crate) async fn machine(cloud: &LocalCloud, name: &str) -> Instance {
    cloud.create(&order(name)).await.expect("a machine")
}

/// Runs `work` on a thread inside a network namespace.
pub(crate) fn inside<T: Send + 'static>(
    namespace: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> std::thread::JoinHandle<T> {
    let file = File::open(format!("/run/netns/{namespace}")).expect("the namespace");
    std::thread::Builder::new()
        .spawn(move || {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).expect("entering");
            work()
        })
        .expect("a thread")
}

/// Asks again until it is so, or gives up after ten seconds.
pub(crate) async fn eventually(what: &str, mut check: impl AsyncFnMut() -> bool) {
    let clock = Clock::system();
    let start: Timestamp = clock.now();
    while !check().await {
        assert!(clock.now().duration_since(start).as_secs() < 10, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
