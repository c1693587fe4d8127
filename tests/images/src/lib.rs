//! Container images without a registry: OCI archives put together from Debian packages and files of our own.
//!
//! Owns the images that `up` hands to its nodes: the pod sandbox, a small shell image and the programs of the example
//! shop. The way of an image: a specification names packages and files; the package index is read once and the
//! dependencies are chosen by us (`packages`); the archives are downloaded by apt into a cache, read as tar streams
//! (`debian`), filtered into a file tree (`tree`), packed into layers with fixed times and order (`layer`), and wrapped
//! with a configuration and an index into one archive (`oci`). The same packages give the same digest.
//!
//! Never installs a package on this machine, never runs a maintainer script, never mounts or changes root, and needs no
//! privilege beyond writing its cache and its output folder.

mod build;
mod catalogue;
mod debian;
mod layer;
mod oci;
mod packages;
mod spec;
mod tree;

pub use build::{BuildError, Built, Progress, build, build_all, build_named};
pub use catalogue::{all_images, image_named};
pub use debian::DebianError;
pub use layer::Layer;
pub use oci::{Architecture, Archive, ArchiveError, reference_in};
pub use packages::{Index, Package, PackageError};
pub use spec::{FileKind, FileSpec, ImageSpec, LayerSpec, Process};
pub use tree::{Node, Owner, Select, Tree, TreeError};
