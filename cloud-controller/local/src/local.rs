//! The cloud itself: opening, taking up what an earlier process left, closing, and removing every trace.

use crate::{
    cgroup,
    config::{LocalConfig, LocalPlace},
    edge::{self, EdgeState},
    error::LocalError,
    identity::Signer,
    imds, machine, network,
    records::{self, Files, MachineRecord, Power, Records},
    volume,
};
use aws_lc_rs::hmac;
use futures::{StreamExt, stream};
use ipnet::IpNet;
use jiff::SignedDuration;
use parking_lot::Mutex;
use rustix::fs::{FlockOperation, flock};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use timonel_cloud_core::{InstanceId, VolumeId};
use timonel_runtime::{Clock, Entropy, OnError, Tasks};
use tokio::sync::Notify;

const LOCK_TRIES: u32 = 40;
const LOCK_PAUSE: Duration = Duration::from_millis(50);
const IDENTITY_KEY: &str = "identity.key";
/// The one region.
pub(crate) const REGION: &str = "local";
/// Programs without which nothing works, with the packages that have them.
const PROGRAMS: [(&str, &str); 6] = [
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("nsenter", "util-linux"),
    ("unshare", "util-linux"),
    ("setsid", "util-linux"),
    ("conntrack", "conntrack"),
];
/// Machines that are booted at once after a restart.
const BOOTS_AT_ONCE: usize = 4;
/// How long a removed machine is still listed as gone.
const TOMBSTONE: SignedDuration = SignedDuration::from_mins(10);

/// What every part shares.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: LocalConfig,
    pub(crate) clock: Clock,
    pub(crate) entropy: Entropy,
    pub(crate) tasks: Tasks,
    pub(crate) files: Files,
    pub(crate) records: Mutex<Records>,
    pub(crate) edge: tokio::sync::Mutex<EdgeState>,
    pub(crate) edge_changed: Notify,
    pub(crate) signer: Signer,
    pub(crate) token_key: hmac::Key,
    /// Volumes change one at a time: exclusive attachment is checked and done as one.
    pub(crate) volumes: tokio::sync::Mutex<()>,
    locks: Mutex<BTreeMap<InstanceId, Arc<tokio::sync::Mutex<()>>>>,
    _data_lock: File,
}

impl Shared {
    /// A machine's record; gone or unknown is an error.
    pub(crate) fn machine(&self, id: &InstanceId) -> Result<MachineRecord, LocalError> {
        let found = self.records.lock().machines.get(id).filter(|m| m.power != Power::Gone).cloned();
        found.ok_or_else(|| LocalError::Missing(format!("no machine {id}")))
    }

    /// Changes a machine's record, on disk first.
    pub(crate) fn update_machine(
        &self,
        id: &InstanceId,
        change: impl FnOnce(&mut MachineRecord),
    ) -> Result<MachineRecord, LocalError> {
        let mut records = self.records.lock();
        let missing = || LocalError::Missing(format!("no machine {id}"));
        let mut record = records.machines.get(id).cloned().ok_or_else(missing)?;
        change(&mut record);
        self.files.put_machine(&record)?;
        records.machines.insert(id.clone(), record.clone());
        Ok(record)
    }

    /// The lock under which a machine's power changes.
    pub(crate) fn lock_of(&self, id: &InstanceId) -> Arc<tokio::sync::Mutex<()>> {
        Arc::clone(self.locks.lock().entry(id.clone()).or_default())
    }

    pub(crate) fn routes_to(&self, id: &InstanceId) -> Vec<IpNet> {
        let records = self.records.lock();
        records.routes.values().filter(|r| r.route.instance == *id).map(|r| r.route.destination).collect()
    }

    pub(crate) fn volumes_of(&self, id: &InstanceId) -> Vec<VolumeId> {
        let records = self.records.lock();
        records.volumes.values().filter(|v| v.attached.as_ref() == Some(id)).map(|v| v.id.clone()).collect()
    }

    /// Brings the edge to the records at once.
    pub(crate) async fn apply_edge(&self) -> Result<(), LocalError> {
        let mut edge = self.edge.lock().await;
        edge::apply(self, &mut edge).await
    }
}

/// The built-in cloud.
#[derive(Clone, Debug)]
pub struct LocalCloud {
    pub(crate) shared: Arc<Shared>,
}

impl LocalCloud {
    /// Opens the cloud: makes what is missing of its network, takes up machines that run, boots those that should, and
    /// finishes what a crash left half done. Its work goes on under `tasks`; machines outlive them.
    ///
    /// # Errors
    /// When the machine lacks something (the error says what and which package has it), another process has the data
    /// directory, or a record is damaged.
    pub async fn open(
        mut config: LocalConfig,
        clock: Clock,
        entropy: Entropy,
        tasks: &Tasks,
    ) -> Result<Self, LocalError> {
        config.check()?;
        check_machine()?;
        fs::create_dir_all(&config.data).map_err(LocalError::io("making the data directory", &config.data))?;
        config.data = config.data.canonicalize().map_err(LocalError::io("resolving", &config.data))?;
        let data_lock = lock(&config.data).await?;
        let files = Files::open(&config)?;
        network::check_ranges(&config).await?;
        files.claim(&config)?;
        let records = files.load()?;
        let signer = Signer::open(&config.data.join(IDENTITY_KEY))?;
        machine::write_programs(&config)?;
        volume::share_machines(&config)?;
        network::ensure(&config).await?;
        let shared = Arc::new(Shared {
            token_key: imds::token_key(&entropy),
            tasks: tasks.child("local-cloud"),
            records: Mutex::new(records),
            edge: tokio::sync::Mutex::default(),
            edge_changed: Notify::new(),
            volumes: tokio::sync::Mutex::default(),
            locks: Mutex::default(),
            _data_lock: data_lock,
            config,
            clock,
            entropy,
            files,
            signer,
        });
        let cloud = Self { shared };
        let listener = imds::listen(&cloud.shared.config)?;
        let shared = &cloud.shared;
        shared.tasks.spawn("metadata", OnError::EndScope, imds::serve(Arc::clone(shared), listener));
        cloud.take_up().await;
        shared.tasks.spawn("load balancers", OnError::EndScope, edge::run_checks(Arc::clone(shared)));
        Ok(cloud)
    }

    /// Brings every recorded thing to what its record says. What fails is logged and left to its owner to ask for again.
    async fn take_up(&self) {
        let shared = &self.shared;
        let machines: Vec<MachineRecord> = shared.records.lock().machines.values().cloned().collect();
        stream::iter(machines)
            .for_each_concurrent(BOOTS_AT_ONCE, |record| async move {
                let lock = shared.lock_of(&record.id);
                let _held = lock.lock().await;
                let result = match record.power {
                    Power::Ordered | Power::On => machine::boot(shared, &record.id).await.map(drop),
                    Power::Off => machine::power_off(shared, &record, Duration::ZERO).await,
                    Power::Gone => self.finish_removal(&record).await,
                };
                if let Err(error) = result {
                    tracing::error!(machine = %record.id, %error, "a machine could not be taken up");
                }
            })
            .await;
        let unfinished: Vec<VolumeId> =
            shared.records.lock().volumes.values().filter(|v| v.deleting).map(|v| v.id.clone()).collect();
        for id in unfinished {
            if let Err(error) = self.finish_volume_removal(&id) {
                tracing::error!(volume = %id, %error, "a volume could not be removed");
            }
        }
        if let Err(error) = edge::check_once(shared).await {
            tracing::error!(%error, "the edge's rules could not be restored; trying again");
        }
    }

    /// Everything of a machine whose record says that it is gone.
    pub(crate) async fn finish_removal(&self, record: &MachineRecord) -> Result<(), LocalError> {
        let shared = &self.shared;
        machine::power_off(shared, record, Duration::ZERO).await?;
        for destination in shared.routes_to(&record.id) {
            network::remove_route(&shared.config, destination).await?;
            let mut records = shared.records.lock();
            let key = records
                .routes
                .iter()
                .find(|(_, r)| r.route.destination == destination && r.route.instance == record.id);
            if let Some(key) = key.map(|(key, _)| key.clone()) {
                shared.files.remove_route(&key.0, key.1)?;
                records.routes.remove(&key);
            }
        }
        let _one_at_a_time = shared.volumes.lock().await;
        for id in shared.volumes_of(&record.id) {
            volume::unplug(&shared.config, &record.id, &id, true)?;
            self.set_attachment(&id, None)?;
        }
        machine::erase(&shared.config, &record.id)
    }

    /// Records where a volume is attached.
    pub(crate) fn set_attachment(&self, id: &VolumeId, to: Option<InstanceId>) -> Result<(), LocalError> {
        let mut records = self.shared.records.lock();
        let missing = || LocalError::Missing(format!("no volume {id}"));
        let mut record = records.volumes.get(id).cloned().ok_or_else(missing)?;
        record.attached = to;
        self.shared.files.put_volume(&record)?;
        records.volumes.insert(id.clone(), record);
        Ok(())
    }

    /// Removes the data of a volume whose record says so, then the record.
    pub(crate) fn finish_volume_removal(&self, id: &VolumeId) -> Result<(), LocalError> {
        volume::erase(&self.shared.config, id)?;
        self.shared.files.remove_volume(id)?;
        self.shared.records.lock().volumes.remove(id);
        Ok(())
    }

    /// Forgets machines that have been gone for long.
    pub(crate) fn bury(&self) {
        let shared = &self.shared;
        let now = shared.clock.now();
        let mut records = shared.records.lock();
        let old = |m: &&MachineRecord| {
            let erased = !shared.config.machine_dir(&m.id).exists();
            erased && m.gone.is_some_and(|at| now.duration_since(at) > TOMBSTONE)
        };
        let ids: Vec<InstanceId> = records.machines.values().filter(old).map(|m| m.id.clone()).collect();
        for id in ids {
            match shared.files.remove_machine(&id) {
                Ok(()) => drop(records.machines.remove(&id)),
                Err(error) => tracing::warn!(machine = %id, %error, "a tombstone could not be removed"),
            }
            shared.locks.lock().remove(&id);
        }
    }

    /// The host's address inside the cloud: machines and pods reach there what listens on it.
    #[must_use]
    pub fn host_address(&self) -> Ipv4Addr {
        self.shared.config.host_address()
    }

    /// Public key of identity documents, for [`crate::verify_identity`].
    #[must_use]
    pub fn identity_public_key(&self) -> Vec<u8> {
        self.shared.signer.public_key()
    }

    /// The serial console's log of a machine.
    #[must_use]
    pub fn console(&self, id: &InstanceId) -> PathBuf {
        self.shared.config.machine_dir(id).join("logs/console.log")
    }

    /// A machine's own directory, which its first program gets as `{dir}`.
    #[must_use]
    pub fn machine_dir(&self, id: &InstanceId) -> PathBuf {
        self.shared.config.machine_dir(id)
    }

    /// Name of a machine's network namespace, for tools that look inside.
    #[must_use]
    pub fn machine_namespace(&self, id: &InstanceId) -> String {
        self.shared.config.machine_namespace(id)
    }

    /// Stops our own work and lets machines run on, as a crash would; the next [`Self::open`] takes them up.
    pub async fn close(self) {
        const DEADLINE: Duration = Duration::from_secs(5);
        self.shared.tasks.shutdown(DEADLINE).await;
    }

    /// Takes the whole cloud off this machine: no process, namespace, rule, mount or cgroup is left. Records, volumes
    /// and the machines' directories stay; opening it again boots everything. Call it with no cloud of that
    /// configuration open.
    ///
    /// # Errors
    /// When something resists; calling it again goes on.
    pub async fn down(config: &LocalConfig) -> Result<(), LocalError> {
        config.check_place()?;
        let mut config = config.clone();
        if let Ok(data) = config.data.canonicalize() {
            config.data = data;
            let _held = lock(&config.data).await?;
            return Self::take_down(&config).await;
        }
        Self::take_down(&config).await
    }

    async fn take_down(config: &LocalConfig) -> Result<(), LocalError> {
        if let Some(found) = records::place(config)?.filter(|found| *found != config.place()) {
            return Err(records::other(config, &found));
        }
        cgroup::remove(Path::new(&config.cgroup())).await?;
        volume::unmount_all(config)?;
        network::remove_all(config).await?;
        records::leave(config)
    }

    /// Where the cloud of that data directory is on this machine, if anything of it may be there: its name and ranges
    /// stay until it is taken down.
    ///
    /// # Errors
    /// When what was written down cannot be read.
    pub fn place(data: &Path) -> Result<Option<LocalPlace>, LocalError> {
        records::place(&LocalConfig::new("", data, Vec::new()))
    }

    /// [`Self::down`], and removes all data, volumes included.
    ///
    /// # Errors
    /// When something resists; calling it again goes on.
    pub async fn destroy_all(config: &LocalConfig) -> Result<(), LocalError> {
        Self::down(config).await?;
        let config = LocalConfig { data: config.data.canonicalize().unwrap_or(config.data.clone()), ..config.clone() };
        for dir in [config.machines_dir(), config.volumes_dir(), config.state_dir()] {
            if let Some(left) = volume::mounts_below(&dir)?.first() {
                let busy = std::io::Error::other("something is mounted there");
                return Err(LocalError::io("removing data", left.clone())(busy));
            }
            match fs::remove_dir_all(&dir) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(LocalError::io("removing data", dir)(error));
                }
                _ => {}
            }
        }
        for name in [IDENTITY_KEY, machine::ENTER_FILE, machine::BOOT_FILE] {
            let path = config.data.join(name);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(LocalError::io("removing data", path)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn check_machine() -> Result<(), LocalError> {
    if !rustix::process::geteuid().is_root() {
        return Err(LocalError::Missing("the local cloud's machines need root".to_owned()));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places: Vec<PathBuf> = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]).collect();
    for (program, package) in PROGRAMS {
        if !places.iter().any(|place| place.join(program).exists()) {
            return Err(LocalError::Missing(format!("the program {program} is missing (Debian package {package})")));
        }
    }
    Ok(())
}

/// Locks the data directory. Patient for a moment: a process that was killed lets go only when the children that it
/// was just starting do.
async fn lock(data: &Path) -> Result<File, LocalError> {
    let path = data.join("lock");
    let file = File::create(&path).map_err(LocalError::io("opening", &path))?;
    for _ in 0..LOCK_TRIES {
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            return Ok(file);
        }
        tokio::time::sleep(LOCK_PAUSE).await;
    }
    Err(LocalError::InUse(data.to_owned()))
}
