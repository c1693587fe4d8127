//! Cgroups of pods, on hierarchies of version 1 or 2: `ROOT/kubepods/[burstable|besteffort/]podUID`, with the pod's
//! limits. The runtime makes the containers' own below.

use crate::decide::names::PodId;
use crate::decide::resources::{CPU_PERIOD, Qos, pod_limit, pod_request, qos, quota, shares, weight};
use k8s_openapi::api::core::v1::Pod;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Version of the hierarchies below the mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    V1,
    V2,
}

/// Hierarchies of version 1 in which the pod's own cgroup is made; the runtime makes those of the others.
const LIMITED: [&str; 3] = ["cpu", "memory", "pids"];
/// Tries to remove a cgroup whose last process is still going away.
const REMOVE_TRIES: u32 = 20;
const REMOVE_PAUSE: Duration = Duration::from_millis(50);

/// The agent's part of the cgroup tree.
#[derive(Clone, Debug)]
pub(crate) struct Cgroups {
    mount: PathBuf,
    root: String,
    version: Version,
}

impl Cgroups {
    pub(crate) fn new(mount: &Path, root: &str) -> Self {
        let version = if mount.join("cgroup.controllers").exists() { Version::V2 } else { Version::V1 };
        Self { mount: mount.to_owned(), root: root.trim_end_matches('/').to_owned(), version }
    }

    /// Path of a pod's cgroup within each hierarchy.
    pub(crate) fn path(&self, pod: &Pod) -> String {
        format!("{}/pod{}", self.class(qos(pod)), PodId::of(pod).uid)
    }

    fn class(&self, class: Qos) -> String {
        match class {
            Qos::Guaranteed => format!("{}/kubepods", self.root),
            Qos::Burstable => format!("{}/kubepods/burstable", self.root),
            Qos::BestEffort => format!("{}/kubepods/besteffort", self.root),
        }
    }

    /// Makes the classes' cgroups.
    pub(crate) fn prepare(&self) -> io::Result<()> {
        for class in [Qos::Guaranteed, Qos::Burstable, Qos::BestEffort] {
            self.make(&self.class(class))?;
        }
        let least = self.folder("cpu", &self.class(Qos::BestEffort));
        self.set(&least, "cpu.shares", "cpu.weight", 2, weight(2));
        Ok(())
    }

    /// Makes a pod's cgroup with its limits.
    pub(crate) fn create(&self, pod: &Pod) -> io::Result<()> {
        let path = self.path(pod);
        self.make(&path)?;
        let cpu = self.folder("cpu", &path);
        let wanted = shares(pod_request(pod, "cpu"));
        self.set(&cpu, "cpu.shares", "cpu.weight", wanted, weight(wanted));
        let cap = pod_limit(pod, "cpu").map_or(0, quota);
        match self.version {
            Version::V1 => {
                put(&cpu.join("cpu.cfs_period_us"), CPU_PERIOD);
                put(&cpu.join("cpu.cfs_quota_us"), if cap > 0 { cap } else { -1 });
            }
            Version::V2 if cap > 0 => put(&cpu.join("cpu.max"), format!("{cap} {CPU_PERIOD}")),
            Version::V2 => put(&cpu.join("cpu.max"), format!("max {CPU_PERIOD}")),
        }
        if let Some(bytes) = pod_limit(pod, "memory") {
            let memory = self.folder("memory", &path);
            self.set(&memory, "memory.limit_in_bytes", "memory.max", bytes, bytes);
        }
        Ok(())
    }

    fn set(&self, folder: &Path, v1: &str, v2: &str, v1_value: i64, v2_value: i64) {
        match self.version {
            Version::V1 => put(&folder.join(v1), v1_value),
            Version::V2 => put(&folder.join(v2), v2_value),
        }
    }

    fn folder(&self, controller: &str, path: &str) -> PathBuf {
        let below = path.trim_start_matches('/');
        match self.version {
            Version::V1 => self.mount.join(controller).join(below),
            Version::V2 => self.mount.join(below),
        }
    }

    fn make(&self, path: &str) -> io::Result<()> {
        match self.version {
            Version::V1 => {
                for controller in LIMITED {
                    if self.mount.join(controller).exists() {
                        std::fs::create_dir_all(self.folder(controller, path))?;
                    }
                }
            }
            Version::V2 => {
                let mut at = self.mount.clone();
                for part in path.split('/').filter(|part| !part.is_empty()) {
                    // Controllers reach a child only when its parent hands them down.
                    for controller in ["+cpu", "+memory", "+pids", "+io", "+cpuset", "+hugetlb"] {
                        put(&at.join("cgroup.subtree_control"), controller);
                    }
                    at = at.join(part);
                    if !at.exists() {
                        std::fs::create_dir(&at)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Removes a pod's cgroup from every hierarchy, also those that the runtime made.
    pub(crate) async fn remove(&self, path: &str) {
        for attempt in 0..REMOVE_TRIES {
            if self.folders(path).iter().filter(|folder| folder.exists()).all(|folder| remove_tree(folder)) {
                return;
            }
            if attempt + 1 < REMOVE_TRIES {
                tokio::time::sleep(REMOVE_PAUSE).await;
            }
        }
        tracing::warn!(path, "cgroup is busy and stays for the next cleaning");
    }

    fn folders(&self, path: &str) -> Vec<PathBuf> {
        let below = path.trim_start_matches('/');
        if self.version == Version::V2 {
            return vec![self.mount.join(below)];
        }
        std::fs::read_dir(&self.mount).into_iter().flatten().flatten().map(|entry| entry.path().join(below)).collect()
    }

    /// UIDs of pods that have a cgroup, with its path.
    pub(crate) fn pods(&self) -> Vec<(String, String)> {
        let mut out = Vec::new();
        for class in [Qos::Guaranteed, Qos::Burstable, Qos::BestEffort] {
            let path = self.class(class);
            for folder in self.folders(&path) {
                for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                    let name = entry.file_name().to_string_lossy().into_owned();
                    if let Some(uid) = name.strip_prefix("pod") {
                        out.push((uid.to_owned(), format!("{path}/{name}")));
                    }
                }
            }
        }
        out.sort();
        out.dedup();
        out
    }

    /// Working set of memory in bytes below a path: usage less what the kernel can drop at once.
    pub(crate) fn memory(&self, path: &str) -> Option<u64> {
        let folder = self.folder("memory", path);
        let (usage, inactive) = match self.version {
            Version::V1 => ("memory.usage_in_bytes", "total_inactive_file"),
            Version::V2 => ("memory.current", "inactive_file"),
        };
        let used: u64 = std::fs::read_to_string(folder.join(usage)).ok()?.trim().parse().ok()?;
        let stat = std::fs::read_to_string(folder.join("memory.stat")).ok()?;
        let line = stat.lines().find_map(|line| line.strip_prefix(inactive)?.strip_prefix(' '));
        let idle = line.and_then(|value| value.trim().parse().ok()).unwrap_or(0);
        Some(used.saturating_sub(idle))
    }

    /// Nanoseconds of CPU used below a path.
    pub(crate) fn cpu_nanoseconds(&self, path: &str) -> Option<u64> {
        match self.version {
            Version::V1 => {
                let folder = self.mount.join("cpuacct").join(path.trim_start_matches('/'));
                std::fs::read_to_string(folder.join("cpuacct.usage")).ok()?.trim().parse().ok()
            }
            Version::V2 => {
                let stat = std::fs::read_to_string(self.folder("cpu", path).join("cpu.stat")).ok()?;
                let line = stat.lines().find_map(|line| line.strip_prefix("usage_usec "))?;
                line.trim().parse::<u64>().ok().map(|microseconds| microseconds * 1000)
            }
        }
    }
}

/// Writes a kernel file; a limit that this kernel does not have is no reason to refuse the pod.
#[allow(clippy::needless_pass_by_value, reason = "numbers and fresh strings: a reference would only add noise")]
fn put(path: &Path, value: impl std::fmt::Display) {
    if let Err(error) = std::fs::write(path, value.to_string()) {
        tracing::debug!(path = %path.display(), %error, "cgroup value not set");
    }
}

/// Removes a cgroup and those below it; true when it is gone.
fn remove_tree(folder: &Path) -> bool {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    std::fs::remove_dir(folder).is_ok() || !folder.exists()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(resources: &serde_json::Value) -> Pod {
        serde_json::from_value(
            json!({"metadata": {"uid": "u"}, "spec": {"containers": [{"name": "c", "resources": resources}]}}),
        )
        .expect("pod")
    }

    /// Ordinary files stand in for the kernel's: what is written where is what the test looks at.
    #[tokio::test]
    async fn a_pod_gets_its_place_and_limits_on_version_1() {
        let mount = tempfile::tempdir().expect("folder");
        for controller in LIMITED {
            std::fs::create_dir(mount.path().join(controller)).expect("made");
        }
        let cgroups = Cgroups::new(mount.path(), "/node1/");
        assert_eq!(cgroups.version, Version::V1);
        cgroups.prepare().expect("prepared");
        let full = pod(&json!({"limits": {"cpu": "500m", "memory": "64Mi"}}));
        assert_eq!(cgroups.path(&full), "/node1/kubepods/podu");
        cgroups.create(&full).expect("created");
        let read = |path: &str| std::fs::read_to_string(mount.path().join(path)).expect("file");
        assert_eq!(read("cpu/node1/kubepods/podu/cpu.shares"), "512");
        assert_eq!(read("cpu/node1/kubepods/podu/cpu.cfs_quota_us"), "50000");
        assert_eq!(read("memory/node1/kubepods/podu/memory.limit_in_bytes"), "67108864");
        assert_eq!(cgroups.pods(), [("u".to_owned(), "/node1/kubepods/podu".to_owned())]);
        assert_eq!(cgroups.path(&pod(&json!({}))), "/node1/kubepods/besteffort/podu");
    }

    #[test]
    fn version_2_has_one_tree() {
        let mount = tempfile::tempdir().expect("folder");
        std::fs::write(mount.path().join("cgroup.controllers"), "cpu memory").expect("written");
        let cgroups = Cgroups::new(mount.path(), "/");
        let some = pod(&json!({"requests": {"cpu": "1"}}));
        cgroups.create(&some).expect("created");
        let folder = mount.path().join("kubepods/burstable/podu");
        assert_eq!(std::fs::read_to_string(folder.join("cpu.weight")).expect("file"), "39");
        assert_eq!(std::fs::read_to_string(folder.join("cpu.max")).expect("file"), "max 100000");
    }
}
