//! What the local cloud is told, and the names and places that follow from it.

use crate::error::LocalError;
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::Duration,
};
use timonel_cloud_core::InstanceId;

/// Longest name: interface names have 15 characters, three of which are ours.
const NAME_CHARACTERS: usize = 12;
/// Addresses at the start of each range that the cloud keeps for itself.
pub(crate) const RESERVED_ADDRESSES: usize = 8;

/// How targets of load balancers are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthSettings {
    /// Time between checks of one target.
    pub interval: Duration,
    /// Time that a check may take.
    pub timeout: Duration,
    /// Failed checks in a row until a target is out; one that passes brings it back.
    pub threshold: u32,
    /// Checks in a row without any answer until a target's connections are taken for dead and forgotten. More than it
    /// takes to be out: a busy machine answers late, and what it serves goes on.
    pub silence: u32,
}

impl Default for HealthSettings {
    fn default() -> Self {
        Self { interval: Duration::from_millis(300), timeout: Duration::from_secs(1), threshold: 2, silence: 6 }
    }
}

/// What a local cloud's traces on this machine are named and numbered by. It is written down while there are any.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalPlace {
    /// [`LocalConfig::name`].
    pub name: String,
    /// [`LocalConfig::public_range`].
    pub public_range: Ipv4Net,
    /// [`LocalConfig::machine_range`].
    pub machine_range: Ipv4Net,
}

/// Configuration of a local cloud.
#[derive(Clone, Debug)]
pub struct LocalConfig {
    /// Name, part of every name on this machine: lower-case letters and digits, at most 12.
    pub name: String,
    /// Where everything lies.
    pub data: PathBuf,
    /// Public range: load balancers get addresses of it, the host has the first, the edge the second.
    pub public_range: Ipv4Net,
    /// Range of the machines.
    pub machine_range: Ipv4Net,
    /// First program of every machine. `{dir}`, `{id}` and `{name}` are replaced in each argument.
    pub machine_command: Vec<String>,
    /// Environment of that program, beside `PATH`.
    pub machine_environment: Vec<(String, String)>,
    /// Checks of load balancers' targets.
    pub health: HealthSettings,
    /// Hops that answers of the metadata service may travel: 1 keeps pods away from it.
    pub metadata_hop_limit: u32,
    /// How long a machine may take to power off in order.
    pub stop_grace: Duration,
    /// Whether machines reach what the host reaches, through the host's default route if it has one.
    pub egress: bool,
    /// Account number in identity documents.
    pub account: String,
}

impl LocalConfig {
    /// A cloud of that name under that directory, with the default ranges.
    #[must_use]
    pub fn new(name: &str, data: impl Into<PathBuf>, machine_command: Vec<String>) -> Self {
        Self {
            name: name.to_owned(),
            data: data.into(),
            public_range: Ipv4Net::new_assert(Ipv4Addr::new(172, 30, 200, 0), 24),
            machine_range: Ipv4Net::new_assert(Ipv4Addr::new(10, 210, 0, 0), 16),
            machine_command,
            machine_environment: Vec::new(),
            health: HealthSettings::default(),
            metadata_hop_limit: 1,
            stop_grace: Duration::from_secs(3),
            egress: true,
            account: "000000000000".to_owned(),
        }
    }

    /// The host's address inside the cloud: where machines and pods reach what listens on the host.
    #[must_use]
    pub fn host_address(&self) -> Ipv4Addr {
        nth(self.public_range, 1)
    }

    /// What this machine is told apart by.
    #[must_use]
    pub fn place(&self) -> LocalPlace {
        LocalPlace { name: self.name.clone(), public_range: self.public_range, machine_range: self.machine_range }
    }

    /// Refuses what cannot work.
    pub(crate) fn check(&self) -> Result<(), LocalError> {
        if self.machine_command.is_empty() {
            return Err(LocalError::Config("machines have no program to start".to_owned()));
        }
        self.check_place()
    }

    /// Refuses what cannot be anywhere on this machine.
    pub(crate) fn check_place(&self) -> Result<(), LocalError> {
        let config = |text: String| Err(LocalError::Config(text));
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        if self.name.is_empty() || self.name.len() > NAME_CHARACTERS || !self.name.chars().all(plain) {
            return config(format!("name {:?}: want 1 to {NAME_CHARACTERS} lower-case letters or digits", self.name));
        }
        if self.public_range.prefix_len() > 27 || self.machine_range.prefix_len() > 27 {
            return config("ranges must hold at least 32 addresses".to_owned());
        }
        if self.public_range.contains(&self.machine_range) || self.machine_range.contains(&self.public_range) {
            return config("the public range and the machines' range overlap".to_owned());
        }
        if !self.data.is_absolute() || ["/run", "/proc", "/sys", "/dev"].iter().any(|d| self.data.starts_with(d)) {
            return config(format!("{} must be absolute and on a disk", self.data.display()));
        }
        Ok(())
    }

    pub(crate) fn edge_address(&self) -> Ipv4Addr {
        nth(self.public_range, 2)
    }

    /// The machines' gateway, on the router.
    pub(crate) fn gateway(&self) -> Ipv4Addr {
        nth(self.machine_range, 1)
    }

    /// The edge's address towards the router.
    pub(crate) fn edge_inner_address(&self) -> Ipv4Addr {
        nth(self.machine_range, 2)
    }

    pub(crate) fn router(&self) -> String {
        format!("tm-{}-router", self.name)
    }

    pub(crate) fn edge(&self) -> String {
        format!("tm-{}-edge", self.name)
    }

    /// Prefix of every network namespace of this cloud.
    pub(crate) fn namespace_prefix(&self) -> String {
        format!("tm-{}-", self.name)
    }

    pub(crate) fn machine_namespace(&self, id: &InstanceId) -> String {
        format!("tm-{}-{id}", self.name)
    }

    pub(crate) fn host_interface(&self) -> String {
        format!("tmh{}", self.name)
    }

    pub(crate) fn host_table(&self) -> String {
        format!("tm_{}", self.name)
    }

    pub(crate) fn cgroup(&self) -> String {
        format!("tm-{}", self.name)
    }

    pub(crate) fn machines_dir(&self) -> PathBuf {
        self.data.join("machines")
    }

    pub(crate) fn machine_dir(&self, id: &InstanceId) -> PathBuf {
        self.machines_dir().join(&id.0)
    }

    pub(crate) fn volumes_dir(&self) -> PathBuf {
        self.data.join("volumes")
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        self.data.join("state")
    }
}

/// The `n`th address of a range.
pub(crate) fn nth(range: Ipv4Net, n: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(range.network()).saturating_add(n))
}

/// Where a network namespace is named.
pub(crate) fn namespace_path(name: &str) -> PathBuf {
    Path::new("/run/netns").join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_work_is_refused() {
        type Change = fn(&mut LocalConfig);
        let good = || LocalConfig::new("demo", "/var/lib/x", vec!["true".to_owned()]);
        good().check().unwrap();
        let bad: [(&str, Change); 6] = [
            ("name", |c| c.name = "a-b".to_owned()),
            ("name", |c| c.name = "abcdefghijklm".to_owned()),
            ("overlap", |c| c.public_range = "10.210.5.0/24".parse().unwrap()),
            ("32", |c| c.public_range = "10.9.5.0/30".parse().unwrap()),
            ("absolute", |c| c.data = "/run/x".into()),
            ("program", |c| c.machine_command.clear()),
        ];
        for (word, change) in bad {
            let mut config = good();
            change(&mut config);
            let error = config.check().unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
