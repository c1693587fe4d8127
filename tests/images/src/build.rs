//! Builds images into a folder, through a cache that is keyed by what an image shall hold.
//!
//! A cached image stays until its specification changes or the cache is deleted: `up` run again must be quick and work
//! without a network, so newer packages are taken only with a new cache.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::catalogue::all_images;
use crate::debian::{Debian, DebianError};
use crate::layer::{Layer, sha256};
use crate::oci::{Architecture, Archive, ArchiveError, reference_in};
use crate::packages::{Index, Package};
use crate::spec::{ImageSpec, LayerSpec};
use crate::tree::{Tree, TreeError};

/// Raised when the way of building changes what comes out of an unchanged specification.
const RECIPE: &str = "1";

/// Why an image could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A folder or file of the cache or the output cannot be used.
    #[error("writing {path}")]
    Write {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Packages could not be had or read.
    #[error("packages for {reference}")]
    Packages {
        /// The image.
        reference: String,
        /// Why.
        #[source]
        source: DebianError,
    },
    /// A file of ours has a path that no image can hold.
    #[error("files of {reference}")]
    Files {
        /// The image.
        reference: String,
        /// Why.
        #[source]
        source: TreeError,
    },
    /// The tree could not be packed.
    #[error("packing {reference}")]
    Pack {
        /// The image.
        reference: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The archive just written cannot be read back.
    #[error("reading {path} back")]
    ReadBack {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: ArchiveError,
    },
    /// No image of ours has this name.
    #[error("no image is named {0}")]
    NoSuchImage(String),
}

/// What the build is doing, for whoever shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// The package index is being read.
    ReadingIndex,
    /// The package index is being fetched anew.
    Updating,
    /// Package archives are being downloaded.
    Downloading {
        /// How many.
        packages: usize,
        /// How large together.
        bytes: u64,
    },
    /// An image is being packed.
    Packing {
        /// Its reference.
        reference: String,
    },
    /// An image is in place.
    Finished(Built),
}

/// An image that is in place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// Its full reference.
    pub reference: String,
    /// The digest of its manifest.
    pub digest: String,
    /// The archive.
    pub path: PathBuf,
    /// The archive's size.
    pub bytes: u64,
    /// Whether the archive in the output folder was written by this call.
    pub changed: bool,
}

/// Builds every image of ours as `<name>.tar` in `out`, each written beside and renamed, and only when it changed.
///
/// # Errors
/// When packages cannot be had or a folder cannot be written.
pub fn build_all(out: &Path, cache: &Path, progress: &mut dyn FnMut(Progress)) -> Result<Vec<Built>, BuildError> {
    build(&all_images(), out, cache, progress)
}

/// Builds some of our images, by reference or by archive name without `.tar`.
///
/// # Errors
/// As `build_all`, and when a name is unknown.
pub fn build_named(
    names: &[String],
    out: &Path,
    cache: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<Vec<Built>, BuildError> {
    let find = |name: &String| crate::catalogue::image_named(name).ok_or_else(|| BuildError::NoSuchImage(name.clone()));
    let specs = names.iter().map(find).collect::<Result<Vec<_>, _>>()?;
    build(&specs, out, cache, progress)
}

/// Builds the images of these specifications.
///
/// # Errors
/// As `build_all`.
pub fn build(
    specs: &[ImageSpec],
    out: &Path,
    cache: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<Vec<Built>, BuildError> {
    let archives = cache.join("archives");
    for folder in [out, &archives] {
        fs::create_dir_all(folder).map_err(|source| BuildError::Write { path: folder.to_owned(), source })?;
    }
    let architecture = Debian::architecture().map_err(|source| no_packages(specs.first(), source))?;
    let cached = |spec: &ImageSpec| archives.join(format!("{}.tar", key(spec, &architecture)));
    let missing: Vec<&ImageSpec> = specs.iter().filter(|spec| !cached(spec).exists()).collect();
    if !missing.is_empty() {
        let mut work = Workshop::open(cache, &missing, architecture.clone(), progress)?;
        for spec in missing {
            progress(Progress::Packing { reference: spec.reference.clone() });
            let archive = work.assemble(spec)?;
            let path = cached(spec);
            write_beside(&path, |file| archive.write_to(file)).map_err(|source| BuildError::Write { path, source })?;
        }
    }
    let mut built = Vec::with_capacity(specs.len());
    for spec in specs {
        let one = publish(&cached(spec), &out.join(spec.archive_name()), spec)?;
        progress(Progress::Finished(one.clone()));
        built.push(one);
    }
    Ok(built)
}

fn no_packages(spec: Option<&ImageSpec>, source: DebianError) -> BuildError {
    let reference = spec.map_or_else(|| "the images".to_owned(), |spec| spec.reference.clone());
    BuildError::Packages { reference, source }
}

/// The name of a specification's image in the cache.
fn key(spec: &ImageSpec, architecture: &Architecture) -> String {
    let data = serde_json::to_string(spec).expect("a specification is plain data with text keys");
    let digest = sha256(format!("{RECIPE}\n{}\n{data}", architecture.0).as_bytes());
    digest.trim_start_matches("sha256:").to_owned()
}

/// Puts a cached archive into the output folder, unless it is there.
fn publish(cached: &Path, target: &Path, spec: &ImageSpec) -> Result<Built, BuildError> {
    let head = |path: &Path| -> Result<(String, u64), BuildError> {
        let unreadable = |source| BuildError::ReadBack { path: path.to_owned(), source };
        let file = File::open(path).map_err(|source| unreadable(ArchiveError::Read(source)))?;
        let bytes = file.metadata().map_err(|source| unreadable(ArchiveError::Read(source)))?.len();
        let (_, digest) = reference_in(file).map_err(unreadable)?;
        Ok((digest, bytes))
    };
    let (digest, bytes) = head(cached)?;
    let changed = !head(target).is_ok_and(|present| present == (digest.clone(), bytes));
    if changed {
        let copy = |file: &mut dyn Write| io::copy(&mut File::open(cached)?, file).map(drop);
        write_beside(target, copy).map_err(|source| BuildError::Write { path: target.to_owned(), source })?;
    }
    Ok(Built { reference: spec.reference.clone(), digest, path: target.to_owned(), bytes, changed })
}

/// Writes a file under another name and renames it, so that nobody sees half of it. The name beside does not end in
/// `.tar`: nodes take whatever does.
fn write_beside(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let beside = path.with_extension(format!("part-{}", std::process::id()));
    let attempt = || -> io::Result<()> {
        let mut file = BufWriter::with_capacity(1 << 20, File::create(&beside)?);
        write(&mut file)?;
        file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        fs::rename(&beside, path)
    };
    attempt().inspect_err(|_| drop(fs::remove_file(&beside)))
}

/// The package index, the downloaded archives, and the layers packed so far in one build.
struct Workshop {
    debian: Debian,
    index: Index,
    architecture: Architecture,
    layers: BTreeMap<String, Layer>,
}

impl Workshop {
    /// Reads the index and downloads what the images need. When the machine's index lacks a package, or names versions
    /// that the mirror has replaced, an index of our own is fetched and all is tried once more.
    fn open(
        cache: &Path,
        specs: &[&ImageSpec],
        architecture: Architecture,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self, BuildError> {
        let first = specs.first().copied();
        let mut debian = Debian::open(cache).map_err(|source| no_packages(first, source))?;
        loop {
            match Self::fetch(&debian, specs, progress) {
                Ok(index) => return Ok(Self { debian, index, architecture, layers: BTreeMap::new() }),
                Err(error) if debian.has_own_index() => return Err(error),
                Err(_) => {
                    progress(Progress::Updating);
                    debian.update().map_err(|source| no_packages(first, source))?;
                }
            }
        }
    }

    fn fetch(debian: &Debian, specs: &[&ImageSpec], progress: &mut dyn FnMut(Progress)) -> Result<Index, BuildError> {
        if specs.iter().all(|spec| spec.layers.iter().all(|layer| layer.packages.is_empty())) {
            return Ok(Index::default());
        }
        progress(Progress::ReadingIndex);
        let index = debian.index().map_err(|source| no_packages(specs.first().copied(), source))?;
        let mut wanted: BTreeSet<&Package> = BTreeSet::new();
        for spec in specs {
            wanted.extend(plan(&index, spec)?.into_iter().flatten());
        }
        let missing = debian.missing(&wanted.into_iter().collect::<Vec<_>>());
        if !missing.is_empty() {
            let bytes = missing.iter().map(|package| package.size).sum();
            progress(Progress::Downloading { packages: missing.len(), bytes });
        }
        debian.download(&missing).map_err(|source| no_packages(specs.first().copied(), source))?;
        Ok(index)
    }

    fn assemble(&mut self, spec: &ImageSpec) -> Result<Archive, BuildError> {
        let mut layers = Vec::with_capacity(spec.layers.len());
        for (layer, packages) in spec.layers.iter().zip(plan(&self.index, spec)?) {
            let key = format!("{layer:?} {packages:?}");
            let packed = match self.layers.get(&key) {
                Some(packed) => packed.clone(),
                None => {
                    let packed = pack(&self.debian, spec, layer, &packages)?;
                    self.layers.insert(key, packed.clone());
                    packed
                }
            };
            layers.push(packed);
        }
        Ok(Archive::assemble(spec, &self.architecture, layers))
    }
}

/// The packages of each layer, lowest first.
fn plan<'i>(index: &'i Index, spec: &ImageSpec) -> Result<Vec<Vec<&'i Package>>, BuildError> {
    let mut present = BTreeSet::new();
    let mut layers = Vec::with_capacity(spec.layers.len());
    for layer in &spec.layers {
        let packages = index
            .closure(&layer.packages, &layer.without, &present)
            .map_err(|source| no_packages(Some(spec), source.into()))?;
        present.extend(packages.iter().map(|package| package.name.clone()));
        layers.push(packages);
    }
    Ok(layers)
}

fn pack(debian: &Debian, spec: &ImageSpec, layer: &LayerSpec, packages: &[&Package]) -> Result<Layer, BuildError> {
    let mut tree = Tree::default();
    for package in packages {
        debian.unpack(package, &layer.select, &mut tree).map_err(|source| no_packages(Some(spec), source))?;
    }
    for file in &layer.files {
        tree.insert_spec(file).map_err(|source| BuildError::Files { reference: spec.reference.clone(), source })?;
    }
    Layer::pack(&tree).map_err(|source| BuildError::Pack { reference: spec.reference.clone(), source })
}
