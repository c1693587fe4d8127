//! A machine's own part of every cgroup hierarchy, of version 1 or 2.

use crate::error::LocalError;
use rustix::process::{Pid, Signal, kill_process};
use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

/// Looks for processes that still end; each waits a little longer than nothing.
const KILL_ROUNDS: u32 = 200;
const KILL_PAUSE: Duration = Duration::from_millis(10);

/// Mount points of every hierarchy, from this process's mounts.
pub(crate) fn hierarchies() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let found = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (path, kind) = (fields.next()?, fields.next()?);
        (matches!(kind, "cgroup" | "cgroup2") && path.starts_with("/sys/fs/cgroup")).then(|| PathBuf::from(path))
    });
    found.collect::<BTreeSet<_>>().into_iter().collect()
}

/// Makes `group` in every hierarchy and returns the directories.
pub(crate) fn make(group: &Path) -> Result<Vec<PathBuf>, LocalError> {
    let mut made = Vec::new();
    for root in hierarchies() {
        let mut path = root.clone();
        for part in group.components() {
            let parent = path.clone();
            path.push(part);
            fs::create_dir_all(&path).map_err(LocalError::io("making a cgroup", &path))?;
            inherit_cpuset(&parent, &path);
        }
        made.push(path);
    }
    Ok(made)
}

/// Version 1 gives a new cpuset no processors, and nothing can join it until it has some.
fn inherit_cpuset(parent: &Path, child: &Path) {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let empty = fs::read_to_string(child.join(file)).is_ok_and(|text| text.trim().is_empty());
        if let (true, Ok(value)) = (empty && child.join("cgroup.clone_children").exists(), fs::read(parent.join(file)))
        {
            let _ = fs::write(child.join(file), value);
        }
    }
}

/// Processes below `group`, in any hierarchy.
pub(crate) fn processes(group: &Path) -> BTreeSet<i32> {
    let mut found = BTreeSet::new();
    for root in hierarchies() {
        for dir in tree(&root.join(group)) {
            let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
            found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
        }
    }
    found
}

/// Kills every process below `group` and removes it from every hierarchy.
pub(crate) async fn remove(group: &Path) -> Result<(), LocalError> {
    for _ in 0..KILL_ROUNDS {
        let left = processes(group);
        for pid in left.iter().filter_map(|pid| Pid::from_raw(*pid)) {
            let _ = kill_process(pid, Signal::KILL);
        }
        if left.is_empty() && hierarchies().iter().all(|root| remove_tree(&root.join(group)).is_ok()) {
            return Ok(());
        }
        tokio::time::sleep(KILL_PAUSE).await;
    }
    let busy = io::Error::other("processes of it do not end");
    Err(LocalError::io("removing a cgroup", group)(busy))
}

/// A directory and all below, deepest last.
fn tree(root: &Path) -> Vec<PathBuf> {
    let mut all = if root.is_dir() { vec![root.to_owned()] } else { Vec::new() };
    let mut next = 0;
    while next < all.len() {
        let below = fs::read_dir(&all[next]).into_iter().flatten().flatten();
        let below: Vec<PathBuf> =
            below.filter(|e| e.file_type().is_ok_and(|kind| kind.is_dir())).map(|e| e.path()).collect();
        all.extend(below);
        next += 1;
    }
    all
}

fn remove_tree(root: &Path) -> io::Result<()> {
    for dir in tree(root).into_iter().rev() {
        match fs::remove_dir(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
