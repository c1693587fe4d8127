//! Part of a volume as a mount of its own, such that a container that can write to the volume cannot make the agent
//! mount anything outside of it: the path is opened beneath the volume, and the open file is what gets mounted.

use super::mounts;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Component, Path, PathBuf};

/// Opens `path` below `volume`; folders that are missing are made.
fn open_beneath(volume: &Path, path: &Path) -> io::Result<OwnedFd> {
    if path.components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "subPath leaves the volume"));
    }
    let root = openat(CWD, volume, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let open = |path: &Path| {
        let how = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        openat2(&root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), how)
    };
    match open(path) {
        Err(rustix::io::Errno::NOENT) => make(volume, path)?,
        other => return Ok(other?),
    }
    Ok(open(path)?)
}

fn make(volume: &Path, path: &Path) -> io::Result<()> {
    let mut at = openat(CWD, volume, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let mode = Mode::from_raw_mode(std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(volume)?) & 0o7777);
    for part in path.components() {
        let Component::Normal(name) = part else { continue };
        match mkdirat(&at, name, mode) {
            Ok(()) => {
                let made = openat(
                    &at,
                    name,
                    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                    Mode::empty(),
                )?;
                // The process' own mask may have taken bits away that the volume has.
                rustix::fs::fchmod(&made, mode)?;
            }
            Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let how = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        at = openat2(&at, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), how)?;
    }
    Ok(())
}

/// Mounts `path` of a volume at `target` and gives that place back.
pub(crate) fn mount(volume: &Path, path: &str, target: &Path) -> io::Result<PathBuf> {
    let file = open_beneath(volume, Path::new(path))?;
    let source = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let folder = std::fs::metadata(&source)?.is_dir();
    if mounts::is_mounted(target) {
        mounts::detach(target)?;
    }
    if let Some(parent) = target.parent() {
        std::fs::create_dir_all(parent)?;
    }
    if folder {
        std::fs::create_dir_all(target)?;
    } else if !target.exists() {
        std::fs::write(target, b"")?;
    }
    mounts::bind(&source, target, false)?;
    Ok(target.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leaves_the_volume_is_refused() {
        let world = tempfile::tempdir().expect("folder");
        let volume = world.path().join("volume");
        std::fs::create_dir_all(volume.join("in")).expect("made");
        std::fs::write(world.path().join("secret"), "x").expect("written");
        std::os::unix::fs::symlink("../secret", volume.join("out")).expect("link");
        std::os::unix::fs::symlink("/etc", volume.join("etc")).expect("link");
        std::os::unix::fs::symlink("in", volume.join("alias")).expect("link");
        for (path, allowed) in [
            ("in", true),
            ("alias", true),
            ("new/deep", true),
            ("out", false),
            ("etc", false),
            ("../secret", false),
            ("/etc", false),
            ("etc/new", false),
        ] {
            assert_eq!(open_beneath(&volume, Path::new(path)).is_ok(), allowed, "{path}");
        }
        assert!(volume.join("new/deep").is_dir());
    }
}
