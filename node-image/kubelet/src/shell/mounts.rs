//! Mounts: bind, tmpfs, and undoing everything below a folder.

use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind_recursive, mount_remount, unmount};
use std::io;
use std::path::{Path, PathBuf};

/// Mounts `source` at `target`, which exists.
pub(crate) fn bind(source: &Path, target: &Path, read_only: bool) -> io::Result<()> {
    mount_bind_recursive(source, target)?;
    if read_only {
        mount_remount(target, MountFlags::BIND | MountFlags::RDONLY, "")?;
    }
    Ok(())
}

/// Memory as a file system, of at most `bytes` (half of the machine's memory when not given).
pub(crate) fn tmpfs(target: &Path, bytes: Option<i64>) -> io::Result<()> {
    let options = bytes.filter(|bytes| *bytes > 0).map(|bytes| format!("size={bytes}")).unwrap_or_default();
    let options = std::ffi::CString::new(options)?;
    mount("tmpfs", target, "tmpfs", MountFlags::empty(), options.as_c_str())?;
    Ok(())
}

pub(crate) fn detach(target: &Path) -> io::Result<()> {
    Ok(unmount(target, UnmountFlags::DETACH)?)
}

/// Whether something is mounted exactly there.
pub(crate) fn is_mounted(target: &Path) -> bool {
    points().iter().any(|point| point == target)
}

/// Undoes every mount at or below `folder`, the innermost first.
pub(crate) fn detach_below(folder: &Path) -> io::Result<()> {
    let mut below: Vec<PathBuf> = points().into_iter().filter(|point| point.starts_with(folder)).collect();
    below.sort_by_key(|point| std::cmp::Reverse(point.components().count()));
    below.iter().try_for_each(|point| detach(point))
}

fn points() -> Vec<PathBuf> {
    parse(&std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default())
}

/// Mount points of a `mountinfo`; the kernel writes blanks as `\040`.
fn parse(text: &str) -> Vec<PathBuf> {
    let unescape =
        |raw: &str| raw.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\");
    text.lines().filter_map(|line| line.split(' ').nth(4)).map(|raw| PathBuf::from(unescape(raw))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_unescaped() {
        let text = "36 35 98:0 / /mnt/a\\040b rw - ext3 /dev/root rw\n37 35 0:5 / /proc rw - proc proc rw\nbroken\n";
        assert_eq!(parse(text), [PathBuf::from("/mnt/a b"), PathBuf::from("/proc")]);
        assert!(is_mounted(Path::new("/proc")));
        assert!(!is_mounted(Path::new("/proc/nothing")));
    }
}
