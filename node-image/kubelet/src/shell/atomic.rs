//! Files of a configuration volume, replaced as a whole: a reader sees all of the old ones or all of the new ones.
//!
//! The files lie in a folder named by a time stamp; `..data` points at it; each visible name points into `..data`.
//! Swapping that one link is the only step that readers can notice.

use crate::decide::files::{File, Payload};
use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Component, Path};

const DATA: &str = "..data";
const DATA_NEXT: &str = "..data_tmp";

/// Brings the folder to `payload`; `stamp` names the new version. Returns whether anything changed.
pub(crate) fn write(folder: &Path, payload: &Payload, stamp: &str, group: Option<u32>) -> io::Result<bool> {
    check(payload)?;
    let old = std::fs::read_link(folder.join(DATA)).ok();
    if let Some(old) = &old
        && same(&folder.join(old), payload)
    {
        return Ok(false);
    }
    let version = format!("..{stamp}");
    let target = folder.join(&version);
    for (path, file) in payload {
        put(&target.join(path), file, group)?;
    }
    std::fs::create_dir_all(&target)?;
    std::fs::set_permissions(&target, std::fs::Permissions::from_mode(0o755))?;
    let next = folder.join(DATA_NEXT);
    let _ = std::fs::remove_file(&next);
    symlink(&version, &next)?;
    std::fs::rename(&next, folder.join(DATA))?;
    link_names(folder, payload)?;
    if let Some(old) = old.filter(|old| old.as_os_str() != version.as_str()) {
        let _ = std::fs::remove_dir_all(folder.join(old));
    }
    Ok(true)
}

fn check(payload: &Payload) -> io::Result<()> {
    for path in payload.keys() {
        let plain = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
        if !plain || path.is_empty() || path.starts_with("..") {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("invalid path {path:?}")));
        }
    }
    Ok(())
}

fn put(path: &Path, file: &File, group: Option<u32>) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    std::fs::write(path, &file.bytes)?;
    // A pod's group may read what its owner may read.
    let mode = if group.is_some() { file.mode | (file.mode & 0o400) >> 3 } else { file.mode };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    if group.is_some() || file.owner.is_some() {
        std::os::unix::fs::chown(path, file.owner, group)?;
    }
    Ok(())
}

fn same(folder: &Path, payload: &Payload) -> bool {
    let mut found = BTreeSet::new();
    list(folder, folder, &mut found);
    found.iter().map(String::as_str).eq(payload.keys().map(String::as_str))
        && payload.iter().all(|(path, file)| {
            let full = folder.join(path);
            let mode = std::fs::metadata(&full).map(|meta| meta.permissions().mode() & 0o777);
            mode.is_ok_and(|mode| mode & !0o040 == file.mode & !0o040)
                && std::fs::read(&full).is_ok_and(|bytes| bytes == file.bytes)
        })
}

fn list(root: &Path, folder: &Path, out: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            list(root, &path, out);
        } else if let Ok(below) = path.strip_prefix(root) {
            out.insert(below.to_string_lossy().into_owned());
        }
    }
}

fn link_names(folder: &Path, payload: &Payload) -> io::Result<()> {
    let wanted: BTreeSet<&str> = payload.keys().filter_map(|path| path.split('/').next()).collect();
    for name in &wanted {
        let link = folder.join(name);
        if std::fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(DATA).join(name), &link)?;
        }
    }
    for entry in std::fs::read_dir(folder)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with("..") && !wanted.contains(name.as_str()) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        files
            .iter()
            .map(|(path, text)| {
                ((*path).to_owned(), File { bytes: text.as_bytes().to_vec(), mode: 0o644, owner: None })
            })
            .collect()
    }

    fn visible(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(folder)
            .expect("folder")
            .map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn versions_follow_one_another() {
        let folder = tempfile::tempdir().expect("folder");
        let at = folder.path();
        let first = payload(&[("a", "1"), ("d/b", "2")]);
        assert!(write(at, &first, "1", None).expect("written"));
        assert_eq!(std::fs::read_to_string(at.join("a")).expect("a"), "1");
        assert_eq!(std::fs::read_to_string(at.join("d/b")).expect("b"), "2");
        assert!(!write(at, &first, "2", None).expect("unchanged"));
        assert!(write(at, &payload(&[("a", "3"), ("c", "4")]), "3", None).expect("written"));
        assert_eq!(std::fs::read_to_string(at.join("a")).expect("a"), "3");
        assert_eq!(visible(at), ["..3", "..data", "a", "c"]);
    }

    #[test]
    fn modes_are_set_and_a_changed_mode_is_a_change() {
        let folder = tempfile::tempdir().expect("folder");
        let mut files = payload(&[("a", "1")]);
        assert!(write(folder.path(), &files, "1", None).expect("written"));
        files.get_mut("a").expect("a").mode = 0o400;
        assert!(write(folder.path(), &files, "2", None).expect("written"));
        let mode = std::fs::metadata(folder.path().join("a")).expect("a").permissions().mode();
        assert_eq!(mode & 0o777, 0o400);
    }

    #[test]
    fn an_empty_volume_is_a_version_too() {
        let folder = tempfile::tempdir().expect("folder");
        assert!(write(folder.path(), &Payload::new(), "1", None).expect("written"));
        assert_eq!(visible(folder.path()), ["..1", "..data"]);
    }

    #[test]
    fn paths_stay_inside() {
        let folder = tempfile::tempdir().expect("folder");
        for path in ["../x", "/x", "a/../../x", "..data", ""] {
            assert!(write(folder.path(), &payload(&[(path, "1")]), "1", None).is_err(), "{path}");
        }
    }
}
