//! What the cloud knows, on disk: one small file per object, replaced whole and synced, so that a crash at any
//! instruction leaves the old record or the new one. Records are written before the effect they announce.

use crate::{
    config::{LocalConfig, LocalPlace},
    error::LocalError,
    process::ProcessId,
};
use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};
use timonel_cloud_core::{BalancerSpec, InstanceId, MachineOrder, Owner, Route, VolumeId};

/// What a machine is meant to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Power {
    /// Ordered, and it has never run.
    Ordered,
    /// On.
    On,
    /// Off.
    Off,
    /// Removed; the record is a tombstone.
    Gone,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MachineRecord {
    pub(crate) id: InstanceId,
    pub(crate) order: MachineOrder,
    pub(crate) zone: String,
    pub(crate) address: Ipv4Addr,
    pub(crate) created: Timestamp,
    pub(crate) power: Power,
    pub(crate) process: Option<ProcessId>,
    pub(crate) gone: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BalancerRecord {
    pub(crate) spec: BalancerSpec,
    pub(crate) address: Ipv4Addr,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VolumeRecord {
    pub(crate) id: VolumeId,
    pub(crate) owner: Owner,
    pub(crate) name: String,
    pub(crate) bytes: u64,
    pub(crate) zone: String,
    pub(crate) attached: Option<InstanceId>,
    /// Being removed: its data may be gone in part.
    pub(crate) deleting: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RouteRecord {
    pub(crate) cluster: String,
    pub(crate) route: Route,
}

/// Everything, in memory; the files below are its copy.
#[derive(Clone, Debug, Default)]
pub(crate) struct Records {
    pub(crate) machines: BTreeMap<InstanceId, MachineRecord>,
    pub(crate) balancers: BTreeMap<Owner, BalancerRecord>,
    pub(crate) volumes: BTreeMap<VolumeId, VolumeRecord>,
    pub(crate) routes: BTreeMap<(String, IpNet), RouteRecord>,
}

/// The files.
#[derive(Debug)]
pub(crate) struct Files {
    root: PathBuf,
}

/// The file of the cloud's place, below its state directory.
const PLACE: &str = "cloud.json";
const KINDS: [&str; 4] = ["machines", "balancers", "volumes", "routes"];

impl Files {
    pub(crate) fn open(config: &LocalConfig) -> Result<Self, LocalError> {
        let root = config.state_dir();
        for kind in KINDS {
            let path = root.join(kind);
            fs::create_dir_all(&path).map_err(LocalError::io("making a directory", path))?;
        }
        Ok(Self { root })
    }

    pub(crate) fn load(&self) -> Result<Records, LocalError> {
        let machines = self.read_all::<MachineRecord>("machines")?;
        let balancers = self.read_all::<BalancerRecord>("balancers")?;
        let volumes = self.read_all::<VolumeRecord>("volumes")?;
        let routes = self.read_all::<RouteRecord>("routes")?;
        Ok(Records {
            machines: machines.into_iter().map(|r| (r.id.clone(), r)).collect(),
            balancers: balancers.into_iter().map(|r| (r.spec.owner.clone(), r)).collect(),
            volumes: volumes.into_iter().map(|r| (r.id.clone(), r)).collect(),
            routes: routes.into_iter().map(|r| ((r.cluster.clone(), r.route.destination), r)).collect(),
        })
    }

    fn read_all<T: DeserializeOwned>(&self, kind: &str) -> Result<Vec<T>, LocalError> {
        let dir = self.root.join(kind);
        let entries = fs::read_dir(&dir).map_err(LocalError::io("listing records", &dir))?;
        let mut records = Vec::new();
        for entry in entries {
            let path = entry.map_err(LocalError::io("listing records", &dir))?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                // What a crash left of a replacement that never took effect.
                let _ = fs::remove_file(&path);
                continue;
            }
            let bytes = fs::read(&path).map_err(LocalError::io("reading a record", &path))?;
            records.push(serde_json::from_slice(&bytes).map_err(|source| LocalError::Record { path, source })?);
        }
        Ok(records)
    }

    pub(crate) fn put_machine(&self, record: &MachineRecord) -> Result<(), LocalError> {
        self.put("machines", &record.id.0, record)
    }

    pub(crate) fn put_balancer(&self, record: &BalancerRecord) -> Result<(), LocalError> {
        self.put("balancers", &owner_key(&record.spec.owner), record)
    }

    pub(crate) fn put_volume(&self, record: &VolumeRecord) -> Result<(), LocalError> {
        self.put("volumes", &record.id.0, record)
    }

    pub(crate) fn put_route(&self, record: &RouteRecord) -> Result<(), LocalError> {
        self.put("routes", &route_key(&record.cluster, record.route.destination), record)
    }

    pub(crate) fn remove_machine(&self, id: &InstanceId) -> Result<(), LocalError> {
        self.remove("machines", &id.0)
    }

    pub(crate) fn remove_balancer(&self, owner: &Owner) -> Result<(), LocalError> {
        self.remove("balancers", &owner_key(owner))
    }

    pub(crate) fn remove_volume(&self, id: &VolumeId) -> Result<(), LocalError> {
        self.remove("volumes", &id.0)
    }

    pub(crate) fn remove_route(&self, cluster: &str, destination: IpNet) -> Result<(), LocalError> {
        self.remove("routes", &route_key(cluster, destination))
    }

    /// Writes down where this cloud is, before there is anything of it.
    ///
    /// # Errors
    /// When another one, of which something may be left, is there.
    pub(crate) fn claim(&self, config: &LocalConfig) -> Result<(), LocalError> {
        let wanted = config.place();
        match place(config)? {
            Some(found) if found == wanted => Ok(()),
            Some(found) => Err(other(config, &found)),
            None => {
                let path = self.root.join(PLACE);
                let record = |source| LocalError::Record { path: path.clone(), source };
                replace(&path, &serde_json::to_vec_pretty(&wanted).map_err(record)?, 0o644)
            }
        }
    }

    fn put(&self, kind: &str, key: &str, record: &impl Serialize) -> Result<(), LocalError> {
        let dir = self.root.join(kind);
        let path = dir.join(format!("{key}.json"));
        let bytes =
            serde_json::to_vec_pretty(record).map_err(|source| LocalError::Record { path: path.clone(), source })?;
        replace(&path, &bytes, 0o644)
    }

    fn remove(&self, kind: &str, key: &str) -> Result<(), LocalError> {
        let dir = self.root.join(kind);
        let path = dir.join(format!("{key}.json"));
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(LocalError::io("removing a record", path)(error))
            }
            _ => sync_dir(&dir),
        }
    }
}

/// Where the cloud of that data directory is, while something of it may be there.
pub(crate) fn place(config: &LocalConfig) -> Result<Option<LocalPlace>, LocalError> {
    let path = config.state_dir().join(PLACE);
    match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|source| LocalError::Record { path, source }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(LocalError::io("reading a record", path)(error)),
    }
}

/// Nothing of it is left.
pub(crate) fn leave(config: &LocalConfig) -> Result<(), LocalError> {
    let path = config.state_dir().join(PLACE);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(LocalError::io("removing a record", path)(error))
        }
        _ => Ok(()),
    }
}

/// Says what is there instead of what was asked for.
pub(crate) fn other(config: &LocalConfig, found: &LocalPlace) -> LocalError {
    let LocalPlace { name, public_range, machine_range } = found;
    LocalError::Config(format!(
        "{} holds the local cloud {name:?} (public range {public_range}, machines {machine_range}), not {:?}: use these, \
         or take it down with them first",
        config.data.display(),
        config.name
    ))
}

/// Replaces a file whole: written beside it, synced, renamed, the directory synced.
pub(crate) fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<(), LocalError> {
    use std::os::unix::fs::OpenOptionsExt;
    let beside = path.with_extension("new");
    let write = || {
        let mut file = File::options().write(true).create(true).truncate(true).mode(mode).open(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    write().map_err(LocalError::io("writing a record", path))?;
    path.parent().map_or(Ok(()), sync_dir)
}

fn sync_dir(dir: &Path) -> Result<(), LocalError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(LocalError::io("syncing a directory", dir))
}

fn owner_key(owner: &Owner) -> String {
    use sha2::{Digest, Sha256};
    let digest = Sha256::digest(format!("{}/{}", owner.cluster, owner.resource));
    hex::encode(&digest[..16])
}

fn route_key(cluster: &str, destination: IpNet) -> String {
    owner_key(&Owner::new(cluster, destination.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(id: &str) -> VolumeRecord {
        VolumeRecord {
            id: id.into(),
            owner: Owner::new("c", "r/../x"),
            name: "n".to_owned(),
            bytes: 1,
            zone: String::new(),
            attached: None,
            deleting: false,
        }
    }

    #[test]
    fn records_come_back_and_half_written_ones_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let config = LocalConfig::new("t", dir.path(), vec!["true".to_owned()]);
        let files = Files::open(&config).unwrap();
        files.put_volume(&volume("vol-1")).unwrap();
        files.put_volume(&volume("vol-2")).unwrap();
        files.remove_volume(&"vol-2".into()).unwrap();
        files.remove_volume(&"vol-2".into()).unwrap();
        let torn = config.state_dir().join("volumes/vol-3.new");
        fs::write(&torn, "{").unwrap();
        let records = Files::open(&config).unwrap().load().unwrap();
        assert_eq!(records.volumes.keys().map(|id| id.0.as_str()).collect::<Vec<_>>(), ["vol-1"]);
        assert!(!torn.exists());
    }

    #[test]
    fn a_damaged_record_is_named_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let config = LocalConfig::new("t", dir.path(), vec!["true".to_owned()]);
        let files = Files::open(&config).unwrap();
        let path = config.state_dir().join("volumes/vol-1.json");
        fs::write(&path, "garbage").unwrap();
        let error = files.load().unwrap_err();
        assert!(error.to_string().contains("vol-1.json"), "{error}");
        assert!(path.exists());
    }
}
