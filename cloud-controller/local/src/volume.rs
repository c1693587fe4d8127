//! Volumes as directories, plugged into a machine as a mount that appears in its mount namespace while it runs.

use crate::{cgroup, config::LocalConfig, error::LocalError};
use rustix::{
    io::Errno,
    mount::{MountPropagationFlags, UnmountFlags, mount_bind, mount_change, unmount},
};
use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};
use timonel_cloud_core::{InstanceId, VolumeId};

/// What a line of `mountinfo` says: device, root within it, mount point.
type Mount = (String, PathBuf, PathBuf);

fn mounts(of: &str) -> Vec<Mount> {
    let text = fs::read_to_string(format!("/proc/{of}/mountinfo")).unwrap_or_default();
    let mount = |line: &str| {
        let mut fields = line.split(' ').skip(2);
        Some((fields.next()?.to_owned(), unescape(fields.next()?), unescape(fields.next()?)))
    };
    text.lines().filter_map(mount).collect()
}

/// Spaces and the like are octal in `mountinfo`.
fn unescape(field: &str) -> PathBuf {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(field.to_owned(), |text, (code, plain)| text.replace(code, plain))
        .into()
}

/// Mount points of this process strictly below `dir`, deepest first.
pub(crate) fn mounts_below(dir: &Path) -> Result<Vec<PathBuf>, LocalError> {
    let dir = match dir.canonicalize() {
        Ok(dir) => dir,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(LocalError::io("resolving", dir)(error)),
    };
    let all = mounts("self").into_iter().map(|(_, _, point)| point);
    let mut below: Vec<PathBuf> = all.filter(|point| point.starts_with(&dir) && *point != dir).collect();
    below.sort_by_key(|point| std::cmp::Reverse(point.components().count()));
    Ok(below)
}

fn is_mount(path: &Path) -> bool {
    mounts("self").iter().any(|(_, _, point)| point == path)
}

/// Makes the machines' directory a mount whose later mounts appear in machines too.
pub(crate) fn share_machines(config: &LocalConfig) -> Result<(), LocalError> {
    let dir = config.machines_dir();
    fs::create_dir_all(&dir).map_err(LocalError::io("making a directory", &dir))?;
    if !is_mount(&dir) {
        mount_bind(&dir, &dir).map_err(LocalError::errno("mounting", &dir))?;
    }
    mount_change(&dir, MountPropagationFlags::SHARED).map_err(LocalError::errno("sharing a mount", dir))
}

/// Takes every mount of the machines' directory back.
pub(crate) fn unmount_all(config: &LocalConfig) -> Result<(), LocalError> {
    let dir = config.machines_dir();
    let mut points = mounts_below(&dir)?;
    points.extend(is_mount(&dir).then_some(dir));
    for point in points {
        unmount(&point, UnmountFlags::DETACH).map_err(LocalError::errno("unmounting", point))?;
    }
    Ok(())
}

fn data(config: &LocalConfig, id: &VolumeId) -> PathBuf {
    config.volumes_dir().join(&id.0)
}

/// Where a machine finds a volume.
pub(crate) fn device(config: &LocalConfig, instance: &InstanceId, id: &VolumeId) -> PathBuf {
    config.machine_dir(instance).join("volumes").join(&id.0)
}

/// Makes the volume's directory, open to whoever it is mounted for (nobody else gets there).
pub(crate) fn make(config: &LocalConfig, id: &VolumeId) -> Result<(), LocalError> {
    let path = data(config, id);
    let open = || {
        fs::create_dir_all(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777))
    };
    open().map_err(LocalError::io("making a volume", &path))
}

/// Removes the volume and its data.
pub(crate) fn erase(config: &LocalConfig, id: &VolumeId) -> Result<(), LocalError> {
    let path = data(config, id);
    match fs::remove_dir_all(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(LocalError::io("removing a volume", path)(error))
        }
        _ => Ok(()),
    }
}

/// Plugs in; again is success.
pub(crate) fn plug(config: &LocalConfig, instance: &InstanceId, id: &VolumeId) -> Result<(), LocalError> {
    let point = device(config, instance, id);
    fs::create_dir_all(&point).map_err(LocalError::io("making a directory", &point))?;
    if is_mount(&point) {
        return Ok(());
    }
    mount_bind(data(config, id), &point).map_err(LocalError::errno("mounting a volume", point))
}

/// Unplugs; `false` if the machine uses it. A machine that is `off` uses nothing.
pub(crate) fn unplug(
    config: &LocalConfig,
    instance: &InstanceId,
    id: &VolumeId,
    off: bool,
) -> Result<bool, LocalError> {
    let point = device(config, instance, id);
    if is_mount(&point) {
        if !off && in_use(config, instance, &point) {
            return Ok(false);
        }
        let flags = if off { UnmountFlags::DETACH } else { UnmountFlags::empty() };
        match unmount(&point, flags) {
            Err(Errno::BUSY) => return Ok(false),
            result => result.map_err(LocalError::errno("unmounting a volume", &point))?,
        }
    }
    match fs::remove_dir(&point) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(LocalError::io("removing a mount point", point)(error))
        }
        _ => Ok(true),
    }
}

/// Whether any process of the machine sees the volume mounted anywhere but where it was plugged in.
fn in_use(config: &LocalConfig, instance: &InstanceId, point: &Path) -> bool {
    let Some((device, root, _)) = mounts("self").into_iter().find(|(_, _, at)| at == point) else { return false };
    let group = Path::new(&config.cgroup()).join(&instance.0);
    let mut seen = BTreeSet::new();
    let mut namespaces = cgroup::processes(&group).into_iter().filter(|pid| {
        let namespace = fs::read_link(format!("/proc/{pid}/ns/mnt")).unwrap_or_default();
        seen.insert(namespace)
    });
    let is_use = |(at_device, at_root, at): &Mount| *at_device == device && at_root.starts_with(&root) && at != point;
    namespaces.any(|pid| mounts(&pid.to_string()).iter().any(is_use))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_is_read() {
        assert_eq!(unescape("/a\\040b\\134c"), PathBuf::from("/a b\\c"));
        assert!(mounts("self").iter().any(|(_, _, point)| point == Path::new("/")));
        assert!(!is_mount(Path::new("/nothing/here")));
    }
}
