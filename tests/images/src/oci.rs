//! An image as one OCI archive: layout, index, manifest, configuration and layers in a tar. Pure but for the writer it
//! is given.

use std::io::{self, Read, Write};

use serde_json::{Value, json};

use crate::layer::{Layer, sha256};
use crate::spec::{ImageSpec, Process};

const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// Images carry no time of building, so that the same content has the same digest.
const CREATED: &str = "1970-01-01T00:00:00Z";
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The name containerd gives to the image on import.
const IMAGE_NAME: &str = "io.containerd.image.name";
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// How many entries at the head of an archive are searched for the index, and how long it may be.
const MAX_HEAD_ENTRIES: usize = 2;
const MAX_INDEX_BYTES: u64 = 64 * 1024;

/// Why an archive cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The tar cannot be read.
    #[error("reading the image archive")]
    Read(#[source] io::Error),
    /// The index is not where our archives have it, or is not JSON.
    #[error("the archive does not begin with an OCI layout and index")]
    NoIndex,
    /// The index names no image.
    #[error("the archive's index names no image")]
    NoManifest,
}

/// The kind of machine that the programs run on, by Debian's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Architecture(pub String);

impl Architecture {
    /// OCI's name and variant; Debian's own name where both agree.
    fn platform(&self) -> Value {
        match self.0.as_str() {
            "armhf" => json!({"architecture": "arm", "os": "linux", "variant": "v7"}),
            "arm64" => json!({"architecture": "arm64", "os": "linux", "variant": "v8"}),
            "i386" => json!({"architecture": "386", "os": "linux"}),
            "ppc64el" => json!({"architecture": "ppc64le", "os": "linux"}),
            other => json!({"architecture": other, "os": "linux"}),
        }
    }
}

/// A whole image, ready to be written.
#[derive(Debug, Clone)]
pub struct Archive {
    /// `sha256:…` of the manifest: the image's digest.
    pub digest: String,
    /// Path in the archive and bytes, in the order in which they are written.
    files: Vec<(String, Vec<u8>)>,
}

impl Archive {
    /// Wraps layers into an image.
    #[must_use]
    pub fn assemble(spec: &ImageSpec, architecture: &Architecture, layers: Vec<Layer>) -> Self {
        let config = config_of(&spec.process, architecture, &layers).to_string().into_bytes();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": descriptor(CONFIG_TYPE, &sha256(&config), config.len()),
            "layers": layers.iter().map(|layer| descriptor(LAYER_TYPE, &layer.digest, layer.bytes.len())).collect::<Vec<_>>(),
        })
        .to_string()
        .into_bytes();
        let digest = sha256(&manifest);
        let mut entry = descriptor(MANIFEST_TYPE, &digest, manifest.len());
        entry["platform"] = architecture.platform();
        entry["annotations"] = json!({IMAGE_NAME: spec.reference, REF_NAME: spec.reference});
        let index = json!({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [entry]});
        let mut files = vec![
            ("oci-layout".to_owned(), json!({"imageLayoutVersion": "1.0.0"}).to_string().into_bytes()),
            ("index.json".to_owned(), index.to_string().into_bytes()),
            (blob_path(&digest), manifest),
            (blob_path(&sha256(&config)), config),
        ];
        for layer in layers {
            let path = blob_path(&layer.digest);
            if files.iter().all(|(present, _)| *present != path) {
                files.push((path, layer.bytes));
            }
        }
        Self { digest, files }
    }

    /// Writes the archive. Equal archives give equal bytes.
    ///
    /// # Errors
    /// When the writer fails.
    pub fn write_to(&self, writer: impl Write) -> io::Result<()> {
        let mut builder = tar::Builder::new(writer);
        for (path, bytes) in &self.files {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o644);
            header.set_size(bytes.len() as u64);
            header.set_mtime(0);
            builder.append_data(&mut header, path, bytes.as_slice())?;
        }
        builder.into_inner()?.flush()
    }
}

/// The reference and the digest of the image in an archive of ours, from its first blocks.
///
/// # Errors
/// When it is not such an archive.
pub fn reference_in(archive: impl Read) -> Result<(String, String), ArchiveError> {
    let mut archive = tar::Archive::new(archive);
    for entry in archive.entries().map_err(ArchiveError::Read)?.take(MAX_HEAD_ENTRIES) {
        let entry = entry.map_err(ArchiveError::Read)?;
        if entry.path_bytes().as_ref() != b"index.json" {
            continue;
        }
        let index: Value = serde_json::from_reader(entry.take(MAX_INDEX_BYTES)).map_err(|_| ArchiveError::NoIndex)?;
        let manifest = &index["manifests"][0];
        let text = |value: &Value| value.as_str().map(str::to_owned).ok_or(ArchiveError::NoManifest);
        return Ok((text(&manifest["annotations"][IMAGE_NAME])?, text(&manifest["digest"])?));
    }
    Err(ArchiveError::NoIndex)
}

fn config_of(process: &Process, architecture: &Architecture, layers: &[Layer]) -> Value {
    let mut environment = process.environment.clone();
    if !environment.iter().any(|line| line.starts_with("PATH=")) {
        environment.insert(0, DEFAULT_PATH.to_owned());
    }
    let mut run = json!({"Env": environment});
    let texts =
        [("User", &process.user), ("WorkingDir", &process.working_directory), ("StopSignal", &process.stop_signal)];
    for (name, value) in texts {
        if !value.is_empty() {
            run[name] = json!(value);
        }
    }
    for (name, values) in [("Entrypoint", &process.entrypoint), ("Cmd", &process.command)] {
        if !values.is_empty() {
            run[name] = json!(values);
        }
    }
    let mut config = architecture.platform();
    config["created"] = json!(CREATED);
    config["config"] = run;
    config["rootfs"] =
        json!({"type": "layers", "diff_ids": layers.iter().map(|layer| layer.diff_id.as_str()).collect::<Vec<_>>()});
    config["history"] = layers.iter().map(|_| json!({"created": CREATED, "created_by": "timonel-images"})).collect();
    config
}

fn descriptor(media_type: &str, digest: &str, size: usize) -> Value {
    json!({"mediaType": media_type, "digest": digest, "size": size})
}

fn blob_path(digest: &str) -> String {
    format!("blobs/{}", digest.replace(':', "/"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::spec::FileSpec;
    use crate::tree::Tree;

    fn spec() -> ImageSpec {
        ImageSpec {
            reference: "timonel.io/sample:1".to_owned(),
            layers: Vec::new(),
            process: Process {
                entrypoint: vec!["/run".to_owned()],
                user: "999:999".to_owned(),
                stop_signal: "SIGINT".to_owned(),
                ..Process::default()
            },
        }
    }

    fn layer(text: &str) -> Layer {
        let mut tree = Tree::default();
        tree.insert_spec(&FileSpec::script("run", text)).unwrap();
        Layer::pack(&tree).unwrap()
    }

    fn written(archive: &Archive) -> Vec<u8> {
        let mut bytes = Vec::new();
        archive.write_to(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn every_blob_is_named_by_its_digest_and_every_descriptor_leads_to_one() {
        let architecture = Architecture("amd64".to_owned());
        let archive = Archive::assemble(&spec(), &architecture, vec![layer("a"), layer("b")]);
        let bytes = written(&archive);
        let mut files = BTreeMap::new();
        for entry in tar::Archive::new(bytes.as_slice()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().to_string_lossy().into_owned();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            if let Some(digest) = path.strip_prefix("blobs/sha256/") {
                assert_eq!(sha256(&content), format!("sha256:{digest}"));
            }
            files.insert(path, content);
        }
        let index: Value = serde_json::from_slice(&files["index.json"]).unwrap();
        assert_eq!(index["manifests"][0]["platform"], json!({"architecture": "amd64", "os": "linux"}));
        let blob = |descriptor: &Value| {
            let content = &files[&blob_path(descriptor["digest"].as_str().unwrap())];
            assert_eq!(descriptor["size"], content.len());
            content
        };
        let manifest: Value = serde_json::from_slice(blob(&index["manifests"][0])).unwrap();
        let config: Value = serde_json::from_slice(blob(&manifest["config"])).unwrap();
        assert_eq!(
            config["config"],
            json!({
                "Env": [DEFAULT_PATH], "User": "999:999", "StopSignal": "SIGINT", "Entrypoint": ["/run"],
            })
        );
        let layers = manifest["layers"].as_array().unwrap();
        assert_eq!(layers.len(), 2);
        for (descriptor, diff_id) in layers.iter().zip(config["rootfs"]["diff_ids"].as_array().unwrap()) {
            let mut plain = Vec::new();
            flate2::read::GzDecoder::new(blob(descriptor).as_slice()).read_to_end(&mut plain).unwrap();
            assert_eq!(diff_id, &sha256(&plain));
        }
    }

    #[test]
    fn the_head_of_an_archive_tells_its_name_and_digest() {
        let architecture = Architecture("amd64".to_owned());
        let archive = Archive::assemble(&spec(), &architecture, vec![layer("a")]);
        let bytes = written(&archive);
        assert_eq!(reference_in(bytes.as_slice()).unwrap(), ("timonel.io/sample:1".to_owned(), archive.digest));
        assert_eq!(bytes, written(&Archive::assemble(&spec(), &architecture, vec![layer("a")])), "same bytes again");
        assert!(matches!(reference_in(&b""[..]), Err(ArchiveError::NoIndex)));
        assert!(matches!(reference_in(&[7; 1024][..]), Err(ArchiveError::Read(_))));
    }

    #[test]
    fn two_equal_layers_are_stored_once() {
        let archive = Archive::assemble(&spec(), &Architecture("arm64".to_owned()), vec![layer("a"), layer("a")]);
        assert_eq!(archive.files.len(), 5);
    }
}
