//! The shell around apt and dpkg: reads the package index, downloads archives into a cache, streams their files.
//!
//! Works with a state of its own, in which no package is installed, so that the choice depends on the sources alone and
//! the machine's own packages are neither read nor changed.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sha2::{Digest, Sha256};

use crate::oci::Architecture;
use crate::packages::{Index, Package, PackageError};
use crate::tree::{Select, Tree, TreeError};

/// How much of a program's complaint goes into an error.
const MAX_COMPLAINT_BYTES: usize = 600;

/// Why packages could not be read.
#[derive(Debug, thiserror::Error)]
pub enum DebianError {
    /// A program of Debian is missing or cannot be started.
    #[error("starting {program}: images are made from Debian packages and need apt and dpkg")]
    Start {
        /// The program.
        program: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A program failed.
    #[error("{program} failed: {complaint}")]
    Failed {
        /// The program.
        program: &'static str,
        /// The end of what it said.
        complaint: String,
    },
    /// The cache folder cannot be used.
    #[error("using the package cache {path}")]
    Cache {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A downloaded archive is not what the index says.
    #[error("{path} is not the archive that the package index describes; delete it and try again")]
    Digest {
        /// The archive.
        path: PathBuf,
    },
    /// The index does not have what is needed.
    #[error(transparent)]
    Packages(#[from] PackageError),
    /// A package's files do not fit into an image.
    #[error("unpacking {package}")]
    Files {
        /// The package.
        package: String,
        /// Why.
        #[source]
        source: TreeError,
    },
}

/// Which index is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lists {
    /// The machine's, as its last `apt-get update` left it.
    Machine,
    /// One of our own in the cache, fetched anew.
    Own,
}

/// apt with a state and a cache of its own.
#[derive(Debug)]
pub(crate) struct Debian {
    folder: PathBuf,
    lists: Lists,
}

impl Debian {
    /// Prepares the cache folder.
    pub(crate) fn open(cache: &Path) -> Result<Self, DebianError> {
        let folder = cache.join("packages");
        for part in ["archives/partial", "lists/partial", "pool"] {
            let path = folder.join(part);
            fs::create_dir_all(&path).map_err(|source| DebianError::Cache { path, source })?;
        }
        let status = folder.join("status");
        File::create(&status).map_err(|source| DebianError::Cache { path: status, source })?;
        Ok(Self { folder, lists: Lists::Machine })
    }

    /// The machine's architecture by Debian's name.
    pub(crate) fn architecture() -> Result<Architecture, DebianError> {
        let out = run("dpkg", Command::new("dpkg").arg("--print-architecture"))?;
        Ok(Architecture(String::from_utf8_lossy(&out).trim().to_owned()))
    }

    /// Fetches an index of our own, which later calls read instead of the machine's.
    pub(crate) fn update(&mut self) -> Result<(), DebianError> {
        self.lists = Lists::Own;
        run("apt-get", self.apt("apt-get").arg("update")).map(drop)
    }

    /// Whether the index is our own.
    pub(crate) fn has_own_index(&self) -> bool {
        self.lists == Lists::Own
    }

    /// Reads the whole index.
    pub(crate) fn index(&self) -> Result<Index, DebianError> {
        let mut child = self
            .apt("apt-cache")
            .arg("dumpavail")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|source| DebianError::Start { program: "apt-cache", source })?;
        let stdout = child.stdout.take().expect("standard output was piped above");
        let index = Index::read(BufReader::with_capacity(1 << 16, stdout));
        let status = child.wait().map_err(|source| DebianError::Start { program: "apt-cache", source })?;
        if !status.success() {
            return Err(DebianError::Failed { program: "apt-cache", complaint: status.to_string() });
        }
        Ok(index?)
    }

    /// The packages whose archives are not in the cache.
    pub(crate) fn missing<'p>(&self, packages: &[&'p Package]) -> Vec<&'p Package> {
        let is_missing = |package: &&&Package| {
            fs::metadata(self.archive(package)).map_or(true, |metadata| metadata.len() != package.size)
        };
        packages.iter().filter(is_missing).copied().collect()
    }

    /// Downloads archives, and checks that each is what the index says.
    pub(crate) fn download(&self, packages: &[&Package]) -> Result<(), DebianError> {
        if packages.is_empty() {
            return Ok(());
        }
        let wanted = packages.iter().map(|package| format!("{}={}", package.name, package.version));
        let mut command = self.apt("apt-get");
        command.arg("download").args(wanted).current_dir(self.folder.join("pool"));
        run("apt-get", &mut command)?;
        packages.iter().try_for_each(|package| self.check(package))
    }

    fn check(&self, package: &Package) -> Result<(), DebianError> {
        let path = self.archive(package);
        let read = || -> io::Result<String> {
            let mut hash = Sha256::new();
            let mut file = File::open(&path)?;
            let mut buffer = vec![0; 1 << 16];
            loop {
                match file.read(&mut buffer)? {
                    0 => return Ok(hex::encode(hash.finalize())),
                    length => hash.update(&buffer[..length]),
                }
            }
        };
        let digest = read().map_err(|source| DebianError::Cache { path: path.clone(), source })?;
        if digest == package.sha256 { Ok(()) } else { Err(DebianError::Digest { path }) }
    }

    /// Adds a package's files to a tree.
    pub(crate) fn unpack(&self, package: &Package, select: &Select, tree: &mut Tree) -> Result<(), DebianError> {
        let program = "dpkg-deb";
        let mut child = Command::new(program)
            .arg("--fsys-tarfile")
            .arg(self.archive(package))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|source| DebianError::Start { program, source })?;
        let stdout = child.stdout.take().expect("standard output was piped above");
        let mut stdout = BufReader::with_capacity(1 << 16, stdout);
        let read = tree.read_package(&mut stdout, select);
        // The end of a tar is padded; a closed pipe would look like a failure of dpkg-deb.
        let drained = io::copy(&mut stdout, &mut io::sink());
        let status = child.wait().map_err(|source| DebianError::Start { program, source })?;
        read.map_err(|source| DebianError::Files { package: package.name.clone(), source })?;
        match (status.success(), drained) {
            (true, Ok(_)) => Ok(()),
            (_, drained) => {
                let complaint = drained.map_or_else(|error| error.to_string(), |_| status.to_string());
                Err(DebianError::Failed { program, complaint: format!("{}: {complaint}", package.name) })
            }
        }
    }

    fn archive(&self, package: &Package) -> PathBuf {
        self.folder.join("pool").join(package.file_name())
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let mut option = |name: &str, value: &str| {
            command.arg("-o").arg(format!("{name}={value}"));
        };
        let inside = |part: &str| self.folder.join(part).display().to_string();
        option("Dir::State::status", &inside("status"));
        option("Dir::State::extended_states", &inside("extended_states"));
        option("Dir::Cache", &self.folder.display().to_string());
        option("APT::Sandbox::User", "root");
        option("Debug::NoLocking", "1");
        option("Acquire::Retries", "3");
        if self.lists == Lists::Own {
            option("Dir::State::lists", &inside("lists"));
        }
        command.arg("-qq").env("LC_ALL", "C").env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
        command
    }
}

/// Runs a program to its end and gives its output, or the end of its complaint.
fn run(program: &'static str, command: &mut Command) -> Result<Vec<u8>, DebianError> {
    let output = command.output().map_err(|source| DebianError::Start { program, source })?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let text = text.trim();
    let mut start = text.len().saturating_sub(MAX_COMPLAINT_BYTES);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    Err(DebianError::Failed { program, complaint: text[start..].to_owned() })
}
