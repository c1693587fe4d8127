//! A file tree packed as one layer: tar with fixed times and order, compressed with gzip. Pure.

use std::io::{self, Write};

use flate2::{Compression, GzBuilder};
use sha2::{Digest, Sha256};

use crate::tree::{Node, Owner, Tree};

/// Fast compression: images are read on the machine that makes them, so that time counts more than size.
const LEVEL: u32 = 1;

/// A packed layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// `sha256:…` of the compressed bytes: the name of the blob.
    pub digest: String,
    /// `sha256:…` of the plain tar: the name of the layer in the image's configuration.
    pub diff_id: String,
    /// The compressed bytes.
    pub bytes: Vec<u8>,
}

impl Layer {
    /// Packs the tree. Equal trees give equal bytes.
    ///
    /// # Errors
    /// When a path cannot be written as tar.
    pub fn pack(tree: &Tree) -> io::Result<Self> {
        let gzip = GzBuilder::new().mtime(0).write(Vec::new(), Compression::new(LEVEL));
        let mut builder = tar::Builder::new(Hashing { inner: gzip, hash: Sha256::new() });
        for (path, node) in tree.iter() {
            append(&mut builder, path, node)?;
        }
        let Hashing { inner, hash } = builder.into_inner()?;
        let bytes = inner.finish()?;
        Ok(Self { digest: sha256(&bytes), diff_id: format!("sha256:{}", hex::encode(hash.finalize())), bytes })
    }
}

/// `sha256:…` of some bytes.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

fn append(builder: &mut tar::Builder<impl Write>, path: &str, node: &Node) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_mtime(0);
    match node {
        Node::Directory { mode, owner } => {
            fill(&mut header, tar::EntryType::Directory, *mode, *owner, 0);
            builder.append_data(&mut header, format!("{path}/"), io::empty())
        }
        Node::File { mode, owner, content } => {
            fill(&mut header, tar::EntryType::Regular, *mode, *owner, content.len() as u64);
            builder.append_data(&mut header, path, &content[..])
        }
        Node::Link { target } => {
            fill(&mut header, tar::EntryType::Symlink, 0o777, Owner::ROOT, 0);
            builder.append_link(&mut header, path, target)
        }
    }
}

fn fill(header: &mut tar::Header, kind: tar::EntryType, mode: u32, owner: Owner, size: u64) {
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(owner.uid.into());
    header.set_gid(owner.gid.into());
    header.set_size(size);
}

/// Hashes what passes through.
struct Hashing<W> {
    inner: W,
    hash: Sha256,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::spec::FileSpec;

    fn tree(files: &[FileSpec]) -> Tree {
        let mut tree = Tree::default();
        for file in files {
            tree.insert_spec(file).unwrap();
        }
        tree
    }

    fn sample() -> Vec<FileSpec> {
        vec![
            FileSpec::script("usr/bin/run", "#!/bin/sh\n"),
            FileSpec::link("usr/bin/alias", "run"),
            FileSpec::directory("var/lib/data", 0o700, Owner { uid: 999, gid: 999 }),
            FileSpec::text(&format!("usr/share/{}/{}", "d".repeat(90), "f".repeat(90)), "long"),
        ]
    }

    #[test]
    fn the_order_of_insertion_does_not_change_the_digest() {
        let forward = Layer::pack(&tree(&sample())).unwrap();
        let mut files = sample();
        files.reverse();
        let backward = Layer::pack(&tree(&files)).unwrap();
        assert_eq!(forward, backward);
        files[0] = FileSpec::text("usr/bin/run", "#!/bin/sh\n");
        assert_ne!(Layer::pack(&tree(&files)).unwrap().digest, forward.digest, "content and mode count");
    }

    #[test]
    fn a_layer_reads_back_as_the_tree_it_was_packed_from() {
        let layer = Layer::pack(&tree(&sample())).unwrap();
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(layer.bytes.as_slice()).read_to_end(&mut plain).unwrap();
        assert_eq!(layer.diff_id, sha256(&plain));
        assert_eq!(layer.digest, sha256(&layer.bytes));
        let mut seen = Vec::new();
        for entry in tar::Archive::new(plain.as_slice()).entries().unwrap() {
            let entry = entry.unwrap();
            let header = entry.header();
            assert_eq!(header.mtime().unwrap(), 0);
            seen.push((
                entry.path().unwrap().to_string_lossy().chars().take(20).collect::<String>(),
                header.mode().unwrap(),
                header.uid().unwrap(),
            ));
        }
        let expected = [
            ("usr/", 0o755, 0),
            ("usr/bin/", 0o755, 0),
            ("usr/bin/alias", 0o777, 0),
            ("usr/bin/run", 0o755, 0),
            ("usr/share/", 0o755, 0),
            ("usr/share/dddddddddd", 0o755, 0),
            ("usr/share/dddddddddd", 0o644, 0),
            ("var/", 0o755, 0),
            ("var/lib/", 0o755, 0),
            ("var/lib/data/", 0o700, 999),
        ];
        let seen: Vec<(&str, u32, u64)> = seen.iter().map(|(path, mode, uid)| (path.as_str(), *mode, *uid)).collect();
        assert_eq!(seen, expected);
    }
}
