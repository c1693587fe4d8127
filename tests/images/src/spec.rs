//! What an image shall hold, as plain data. The digest of this data is the key of the build cache.

use serde::Serialize;

use crate::tree::{Owner, Select};

/// An image: where it is named, what it holds, what it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ImageSpec {
    /// The full reference, registry included: `timonel.io/busybox:1`.
    pub reference: String,
    /// The layers, lowest first. A package of a lower layer is not repeated in a higher one.
    pub layers: Vec<LayerSpec>,
    /// What a container of this image runs by default.
    pub process: Process,
}

impl ImageSpec {
    /// The archive's file name: the last part of the reference with the tag, `busybox-1.tar`.
    #[must_use]
    pub fn archive_name(&self) -> String {
        let last = self.reference.rsplit('/').next().unwrap_or(&self.reference);
        format!("{}.tar", last.replace([':', '@'], "-"))
    }
}

/// One layer: packages with their dependencies, then files of ours over them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct LayerSpec {
    /// Debian packages, which bring their dependencies.
    pub packages: Vec<String>,
    /// Packages that are left out, with what only they depend on.
    pub without: Vec<String>,
    /// Which paths of the packages are taken.
    pub select: Select,
    /// Files that are laid over the packages' own.
    pub files: Vec<FileSpec>,
}

/// A file, folder or link of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileSpec {
    /// The path without a leading slash.
    pub path: String,
    /// What it is.
    pub kind: FileKind,
    /// The permission bits; links ignore them.
    pub mode: u32,
    /// Who owns it.
    pub owner: Owner,
}

/// What a `FileSpec` makes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum FileKind {
    /// A regular file with this text.
    Text(String),
    /// A folder.
    Directory,
    /// A symbolic link to this target.
    Link(String),
}

impl FileSpec {
    /// A file of root that everyone may read.
    #[must_use]
    pub fn text(path: &str, content: &str) -> Self {
        Self { path: path.to_owned(), kind: FileKind::Text(content.to_owned()), mode: 0o644, owner: Owner::ROOT }
    }

    /// A script of root that everyone may run.
    #[must_use]
    pub fn script(path: &str, content: &str) -> Self {
        Self { mode: 0o755, ..Self::text(path, content) }
    }

    /// A folder with its owner and mode.
    #[must_use]
    pub fn directory(path: &str, mode: u32, owner: Owner) -> Self {
        Self { path: path.to_owned(), kind: FileKind::Directory, mode, owner }
    }

    /// A symbolic link.
    #[must_use]
    pub fn link(path: &str, target: &str) -> Self {
        Self { path: path.to_owned(), kind: FileKind::Link(target.to_owned()), mode: 0o777, owner: Owner::ROOT }
    }
}

/// The process that a container runs unless the pod says otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Process {
    /// What is always run.
    pub entrypoint: Vec<String>,
    /// Arguments, which a pod replaces with `args`.
    pub command: Vec<String>,
    /// `NAME=value` lines; `PATH` is added when missing.
    pub environment: Vec<String>,
    /// `uid` or `uid:gid`, in figures so that `runAsNonRoot` can check it; empty for root.
    pub user: String,
    /// The working folder; empty for `/`.
    pub working_directory: String,
    /// The signal that asks it to end; empty for `SIGTERM`.
    pub stop_signal: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archive_names_come_from_the_last_part_of_the_reference() {
        for (reference, expected) in [
            ("registry.k8s.io/pause:3.10.2", "pause-3.10.2.tar"),
            ("timonel.io/busybox:1", "busybox-1.tar"),
            ("localhost:5000/shop/app:2", "app-2.tar"),
            ("plain", "plain.tar"),
        ] {
            let spec = ImageSpec { reference: reference.to_owned(), layers: Vec::new(), process: Process::default() };
            assert_eq!(spec.archive_name(), expected);
        }
    }
}
