//! A root folder in memory: paths in order, with mode, owner and content.
//!
//! Owns the merge of packages into one tree (with Debian's merged `/usr`) and the choice of paths. Pure: never reads or
//! writes a file.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;

use serde::Serialize;

use crate::spec::{FileKind, FileSpec};

/// The largest file that a package may bring. A bound against a corrupt archive, far above any real program.
const MAX_FILE_BYTES: u64 = 512 * 1024 * 1024;
/// How many hard links in a row are followed.
const MAX_LINK_HOPS: usize = 8;
/// The top folders that are links into `/usr` on a Debian system, while packages may still name them.
const MERGED: [&str; 4] = ["bin", "lib", "lib64", "sbin"];

/// Why a package's content does not fit into the tree.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// The stream is not a readable tar archive.
    #[error("reading a package's files")]
    Read(#[source] std::io::Error),
    /// A path leaves the root folder or is not UTF-8.
    #[error("the path {0:?} is not a plain relative path")]
    Path(String),
    /// A kind of entry that an image of ours never needs.
    #[error("{path} is neither file, folder nor link")]
    Kind {
        /// The entry.
        path: String,
    },
    /// A hard link to something that the archive does not hold.
    #[error("{path} is a hard link to {target}, which is missing")]
    HardLink {
        /// The link.
        path: String,
        /// What it names.
        target: String,
    },
    /// A file above the bound.
    #[error("{path} has {size} bytes, more than any program should")]
    TooLarge {
        /// The file.
        path: String,
        /// Its size.
        size: u64,
    },
}

/// Who owns an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Owner {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

impl Owner {
    /// The superuser.
    pub const ROOT: Self = Self { uid: 0, gid: 0 };
}

/// One entry of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A folder.
    Directory {
        /// Permission bits.
        mode: u32,
        /// Who owns it.
        owner: Owner,
    },
    /// A regular file.
    File {
        /// Permission bits.
        mode: u32,
        /// Who owns it.
        owner: Owner,
        /// Its bytes, shared between hard links.
        content: Arc<[u8]>,
    },
    /// A symbolic link.
    Link {
        /// Where it points, as written.
        target: String,
    },
}

/// Which paths of a package are taken: those under `keep` (everything when it is empty) but not under `drop`.
/// Copyright files are always taken: an image is a copy of the program and has to carry them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Select {
    /// Path prefixes that are taken; empty takes all.
    pub keep: Vec<String>,
    /// Path prefixes that are left out; `*` stands for any one part.
    pub drop: Vec<String>,
}

/// What no container reads: manuals, translations, and hooks for package tools.
const NEVER: [&str; 9] = [
    "etc/init.d",
    "usr/lib/systemd",
    "usr/share/bug",
    "usr/share/doc",
    "usr/share/info",
    "usr/share/lintian",
    "usr/share/locale",
    "usr/share/man",
    "usr/share/readline",
];

impl Select {
    /// Whether this path of a package goes into the tree.
    #[must_use]
    pub fn takes(&self, path: &str) -> bool {
        if path.starts_with("usr/share/doc/") && path.ends_with("/copyright") {
            return true;
        }
        if NEVER.into_iter().any(|prefix| is_under(path, prefix))
            || self.drop.iter().any(|prefix| is_under(path, prefix))
        {
            return false;
        }
        self.keep.is_empty() || self.keep.iter().any(|prefix| is_under(path, prefix))
    }
}

/// Whether the path begins with the parts of the prefix, in which `*` is any one part.
fn is_under(path: &str, prefix: &str) -> bool {
    let mut parts = path.split('/');
    prefix.split('/').all(|wanted| parts.next().is_some_and(|part| wanted == "*" || wanted == part))
}

/// A root folder: path without a leading slash to entry, in the order of the paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    nodes: BTreeMap<String, Node>,
}

impl Tree {
    /// The entries in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.nodes.iter().map(|(path, node)| (path.as_str(), node))
    }

    /// The entry at a path.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<&Node> {
        self.nodes.get(path)
    }

    /// Puts an entry in, over what was there, and makes the folders above it.
    ///
    /// # Errors
    /// When the path is absolute, empty or leaves the root.
    pub fn insert(&mut self, path: &str, node: Node) -> Result<(), TreeError> {
        let path = merged(&clean(path)?);
        let mut above = path.as_str();
        while let Some((parent, _)) = above.rsplit_once('/') {
            self.nodes.entry(parent.to_owned()).or_insert(Node::Directory { mode: 0o755, owner: Owner::ROOT });
            above = parent;
        }
        self.nodes.insert(path, node);
        Ok(())
    }

    /// Adds a file, folder or link of ours.
    ///
    /// # Errors
    /// When its path is not a plain relative path.
    pub fn insert_spec(&mut self, file: &FileSpec) -> Result<(), TreeError> {
        let node = match &file.kind {
            FileKind::Text(text) => {
                Node::File { mode: file.mode, owner: file.owner, content: Arc::from(text.as_bytes()) }
            }
            FileKind::Directory => Node::Directory { mode: file.mode, owner: file.owner },
            FileKind::Link(target) => Node::Link { target: target.clone() },
        };
        self.insert(&file.path, node)
    }

    /// Reads the files of a package from its tar stream.
    ///
    /// # Errors
    /// When the stream cannot be read or holds what an image must not hold.
    pub fn read_package(&mut self, stream: impl Read, select: &Select) -> Result<(), TreeError> {
        let mut archive = tar::Archive::new(stream);
        let mut hard_links = Vec::new();
        // Hard links may name files that the selection leaves out, so that all content is seen before the choice.
        let mut contents: BTreeMap<String, Node> = BTreeMap::new();
        for entry in archive.entries().map_err(TreeError::Read)? {
            let mut entry = entry.map_err(TreeError::Read)?;
            let raw = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            if matches!(raw.as_str(), "." | "./" | "/") {
                continue;
            }
            let path = merged(&clean(&raw)?);
            let node = match read_entry(&mut entry, &path)? {
                Entry::Node(node) => node,
                Entry::HardLink(target) => {
                    hard_links.push((path, target));
                    continue;
                }
            };
            contents.insert(path, node);
        }
        for (path, target) in hard_links {
            let node = follow(&contents, &target)
                .ok_or_else(|| TreeError::HardLink { path: path.clone(), target: target.clone() })?;
            contents.insert(path, node);
        }
        for (path, node) in contents {
            // Folders come with the files in them unless they are empty and asked for.
            if !select.takes(&path) {
                continue;
            }
            if MERGED.contains(&path.as_str())
                || (self.nodes.contains_key(&path) && matches!(node, Node::Directory { .. }))
            {
                continue;
            }
            self.insert(&path, node)?;
        }
        Ok(())
    }
}

enum Entry {
    Node(Node),
    HardLink(String),
}

fn read_entry(entry: &mut tar::Entry<'_, impl Read>, path: &str) -> Result<Entry, TreeError> {
    let header = entry.header();
    let mode = header.mode().map_err(TreeError::Read)? & 0o7777;
    let owner = Owner {
        uid: u32::try_from(header.uid().map_err(TreeError::Read)?).unwrap_or(0),
        gid: u32::try_from(header.gid().map_err(TreeError::Read)?).unwrap_or(0),
    };
    let kind = header.entry_type();
    let target = |entry: &tar::Entry<'_, _>| {
        entry
            .link_name_bytes()
            .and_then(|name| String::from_utf8(name.into_owned()).ok())
            .ok_or_else(|| TreeError::Path(path.to_owned()))
    };
    match kind {
        tar::EntryType::Directory => Ok(Entry::Node(Node::Directory { mode, owner })),
        tar::EntryType::Symlink => Ok(Entry::Node(Node::Link { target: target(entry)? })),
        tar::EntryType::Link => Ok(Entry::HardLink(merged(&clean(&target(entry)?)?))),
        tar::EntryType::Regular | tar::EntryType::Continuous => {
            let size = entry.size();
            if size > MAX_FILE_BYTES {
                return Err(TreeError::TooLarge { path: path.to_owned(), size });
            }
            let mut content = Vec::new();
            entry.read_to_end(&mut content).map_err(TreeError::Read)?;
            Ok(Entry::Node(Node::File { mode, owner, content: Arc::from(content) }))
        }
        _ => Err(TreeError::Kind { path: path.to_owned() }),
    }
}

fn follow(contents: &BTreeMap<String, Node>, target: &str) -> Option<Node> {
    let mut target = target.to_owned();
    for _ in 0..MAX_LINK_HOPS {
        match contents.get(&target)? {
            Node::File { .. } => return contents.get(&target).cloned(),
            Node::Link { target: next } => target = merged(&clean(next).ok()?),
            Node::Directory { .. } => return None,
        }
    }
    None
}

/// The path without `./` and a final slash; an error when it could leave the root.
fn clean(path: &str) -> Result<String, TreeError> {
    let trimmed = path.trim_start_matches("./").trim_end_matches('/');
    let is_plain = !trimmed.is_empty()
        && !trimmed.starts_with('/')
        && trimmed.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
    if is_plain { Ok(trimmed.to_owned()) } else { Err(TreeError::Path(path.to_owned())) }
}

/// The path with merged top folders moved under `usr`; the folders themselves stay, as the links that they are.
fn merged(path: &str) -> String {
    match path.split_once('/') {
        Some((top, _)) if MERGED.contains(&top) => format!("usr/{path}"),
        _ => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(content: &str) -> Node {
        Node::File { mode: 0o755, owner: Owner::ROOT, content: Arc::from(content.as_bytes()) }
    }

    fn entry(kind: tar::EntryType, size: u64, link: Option<&str>) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(size);
        if let Some(link) = link {
            header.set_link_name(link).unwrap();
        }
        header
    }

    fn archive(entries: &[(&str, tar::EntryType, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, kind, text) in entries {
            let is_link = matches!(kind, tar::EntryType::Symlink | tar::EntryType::Link);
            let (content, link) = if is_link { ("", Some(*text)) } else { (*text, None) };
            let mut header = entry(*kind, content.len() as u64, link);
            builder.append_data(&mut header, path, content.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn a_package_is_read_with_merged_folders_hard_links_and_selection() {
        use tar::EntryType::{Directory, Link, Regular, Symlink};
        let bytes = archive(&[
            ("./bin", Directory, ""),
            ("./bin/tool", Regular, "program"),
            ("./lib64/ld.so", Symlink, "/lib/ld-2.so"),
            ("./usr/bin/alias", Link, "./bin/tool"),
            ("./usr/share/doc/tool/copyright", Regular, "licence"),
            ("./usr/share/doc/tool/README", Regular, "long"),
            ("./usr/share/man/man1/tool.1", Regular, "manual"),
            ("./usr/share/extra/x", Regular, "unwanted"),
        ]);
        let mut tree = Tree::default();
        let select = Select { keep: Vec::new(), drop: vec!["usr/share/extra".to_owned()] };
        tree.read_package(bytes.as_slice(), &select).unwrap();
        tree.insert_spec(&FileSpec::link("bin", "usr/bin")).unwrap();
        let paths: Vec<&str> = tree.iter().map(|(path, _)| path).collect();
        assert_eq!(
            paths,
            [
                "bin",
                "usr",
                "usr/bin",
                "usr/bin/alias",
                "usr/bin/tool",
                "usr/lib64",
                "usr/lib64/ld.so",
                "usr/share",
                "usr/share/doc",
                "usr/share/doc/tool",
                "usr/share/doc/tool/copyright",
            ]
        );
        assert_eq!(tree.get("usr/bin/alias"), Some(&file("program")));
        assert_eq!(tree.get("bin"), Some(&Node::Link { target: "usr/bin".to_owned() }));
    }

    #[test]
    fn what_an_image_must_not_hold_is_refused() {
        use tar::EntryType::{Char, Link};
        let mut tree = Tree::default();
        let device = archive(&[("./dev/null", Char, "")]);
        assert!(matches!(tree.read_package(device.as_slice(), &Select::default()), Err(TreeError::Kind { .. })));
        let dangling = archive(&[("./usr/bin/a", Link, "./usr/bin/b")]);
        assert!(matches!(tree.read_package(dangling.as_slice(), &Select::default()), Err(TreeError::HardLink { .. })));
        for path in ["/etc/passwd", "../x", "a/../../b", "", "a//b"] {
            assert!(matches!(tree.insert(path, file("")), Err(TreeError::Path(_))), "{path}");
        }
    }

    #[test]
    fn selection_by_prefix_of_whole_names() {
        let select = Select {
            keep: vec!["usr/bin".to_owned()],
            drop: vec!["usr/bin/gone".to_owned(), "usr/bin/*/x".to_owned()],
        };
        for (path, expected) in [
            ("usr/bin/tool", true),
            ("usr/bin", true),
            ("usr/binary", false),
            ("usr/bin/gone", false),
            ("usr/bin/gone2", true),
            ("usr/bin/a/x/y", false),
            ("usr/bin/a/y", true),
            ("usr/share/doc/x/copyright", true),
            ("usr/share/doc/x/changelog", false),
        ] {
            assert_eq!(select.takes(path), expected, "{path}");
        }
    }
}
