//! Debian's package index and the choice of a package's dependencies. Pure: reads a stream, decides, never downloads.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead};

/// Why packages cannot be chosen.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// The index stream broke.
    #[error("reading the package index")]
    Read(#[source] io::Error),
    /// A package asked for is not in the index.
    #[error("the package {0} is not in the index of the configured sources")]
    Unknown(String),
    /// None of the alternatives of a dependency is in the index.
    #[error("{package} depends on {dependency}, which no package of the configured sources provides")]
    Unsatisfied {
        /// Who depends.
        package: String,
        /// The dependency as written.
        dependency: String,
    },
}

/// A package that can be downloaded.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version, epoch included.
    pub version: String,
    /// The architecture of its archive: the machine's, or `all`.
    pub architecture: String,
    /// The digest of its archive, in hex.
    pub sha256: String,
    /// The size of its archive in bytes.
    pub size: u64,
    /// What it needs: a list of alternatives each.
    depends: Vec<Vec<String>>,
}

impl Package {
    /// The name under which apt stores the archive.
    #[must_use]
    pub fn file_name(&self) -> String {
        format!("{}_{}_{}.deb", self.name, self.version.replace(':', "%3a"), self.architecture)
    }
}

/// All packages of the configured sources, one version each.
#[derive(Debug, Default)]
pub struct Index {
    packages: BTreeMap<String, Package>,
    /// Virtual name to the packages that provide it.
    providers: BTreeMap<String, BTreeSet<String>>,
}

impl Index {
    /// Reads the control paragraphs of `apt-cache dumpavail`. Of several versions the first counts, as apt lists the
    /// one it would install first.
    ///
    /// # Errors
    /// When the stream breaks.
    pub fn read(stream: impl BufRead) -> Result<Self, PackageError> {
        let mut index = Self::default();
        let mut package = Package::default();
        let mut provides = Vec::new();
        for line in stream.split(b'\n') {
            let line = line.map_err(PackageError::Read)?;
            let line = String::from_utf8_lossy(&line);
            if line.trim().is_empty() {
                index.add(std::mem::take(&mut package), std::mem::take(&mut provides));
                continue;
            }
            let Some((field, value)) = line.split_once(':') else { continue };
            let value = value.trim();
            match field {
                "Package" => value.clone_into(&mut package.name),
                "Version" => value.clone_into(&mut package.version),
                "Architecture" => value.clone_into(&mut package.architecture),
                "SHA256" => value.clone_into(&mut package.sha256),
                "Size" => package.size = value.parse().unwrap_or(0),
                "Depends" | "Pre-Depends" => package.depends.extend(relations(value)),
                "Provides" => provides = relations(value).into_iter().flatten().collect(),
                _ => {}
            }
        }
        index.add(package, provides);
        Ok(index)
    }

    fn add(&mut self, package: Package, provides: Vec<String>) {
        if package.name.is_empty() || self.packages.contains_key(&package.name) {
            return;
        }
        for name in provides {
            self.providers.entry(name).or_default().insert(package.name.clone());
        }
        self.packages.insert(package.name.clone(), package);
    }

    /// The packages asked for and all that they depend on, by name, without those in `without` and what only those
    /// need, and without those in `present`, which a lower layer holds.
    ///
    /// # Errors
    /// When a package or a dependency is not in the index.
    pub fn closure(
        &self,
        roots: &[String],
        without: &[String],
        present: &BTreeSet<String>,
    ) -> Result<Vec<&Package>, PackageError> {
        let skipped: BTreeSet<&str> = without.iter().chain(present).map(String::as_str).collect();
        let mut chosen: BTreeMap<&str, &Package> = BTreeMap::new();
        let mut open: Vec<&Package> = Vec::new();
        for root in roots {
            let package = self.packages.get(root).ok_or_else(|| PackageError::Unknown(root.clone()))?;
            if !skipped.contains(root.as_str()) && chosen.insert(&package.name, package).is_none() {
                open.push(package);
            }
        }
        while let Some(package) = open.pop() {
            for alternatives in &package.depends {
                let is_met = |name: &String| skipped.contains(name.as_str()) || chosen.contains_key(name.as_str());
                if alternatives.iter().any(is_met) {
                    continue;
                }
                let Some(next) = alternatives.iter().find_map(|name| self.resolve(name, &skipped)) else {
                    let dependency = alternatives.join(" | ");
                    return Err(PackageError::Unsatisfied { package: package.name.clone(), dependency });
                };
                if !skipped.contains(next.name.as_str()) && chosen.insert(&next.name, next).is_none() {
                    open.push(next);
                }
            }
        }
        Ok(chosen.into_values().collect())
    }

    /// The package of a name, or the first that provides it; one that is skipped anyway comes first.
    fn resolve(&self, name: &str, skipped: &BTreeSet<&str>) -> Option<&Package> {
        if let Some(package) = self.packages.get(name) {
            return Some(package);
        }
        let providers = self.providers.get(name)?;
        let chosen = providers.iter().find(|provider| skipped.contains(provider.as_str())).or(providers.first())?;
        self.packages.get(chosen)
    }
}

/// `a (>= 1) | b:any, c` as lists of names.
fn relations(value: &str) -> Vec<Vec<String>> {
    let name = |relation: &str| {
        let end = relation.find([' ', '(', '[', ':']).unwrap_or(relation.len());
        relation[..end].to_owned()
    };
    value
        .split(',')
        .map(|group| group.split('|').map(|one| name(one.trim())).filter(|name| !name.is_empty()).collect())
        .filter(|group: &Vec<String>| !group.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const INDEX: &str = "\
Package: shop
Version: 1:2.0-1
Architecture: amd64
Depends: libc (>= 2.3), mail-agent | postfix, helper:any
Pre-Depends: loader
Size: 12
SHA256: abc
Description: text with a
 continued line: yes

Package: libc
Version: 2.3
Architecture: amd64

Package: libc
Version: 2.2
Architecture: amd64

Package: exim
Architecture: amd64
Provides: mail-agent (= 1), other
Depends: libc

Package: helper
Architecture: all
Depends: perl

Package: perl
Architecture: amd64
Depends: helper, libc

Package: loader
Architecture: amd64

Package: broken
Architecture: amd64
Depends: nowhere | elsewhere";

    fn names(closure: &[&Package]) -> Vec<String> {
        closure.iter().map(|package| package.name.clone()).collect()
    }

    fn strings(words: &str) -> Vec<String> {
        words.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn closures() {
        let index = Index::read(INDEX.as_bytes()).unwrap();
        for (roots, without, present, expected) in [
            ("shop", "", "", "exim helper libc loader perl shop"),
            ("shop", "helper", "", "exim libc loader shop"),
            ("shop", "perl loader", "libc", "exim helper shop"),
            ("shop", "exim", "", "helper libc loader perl shop"),
            ("shop libc", "shop", "", "libc"),
            ("perl", "", "", "helper libc perl"),
        ] {
            let present = strings(present).into_iter().collect();
            let closure = index.closure(&strings(roots), &strings(without), &present).unwrap();
            assert_eq!(names(&closure), strings(expected), "{roots} without {without}");
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let index = Index::read(INDEX.as_bytes()).unwrap();
        let error = index.closure(&strings("ghost"), &[], &BTreeSet::new()).unwrap_err();
        assert_eq!(error.to_string(), "the package ghost is not in the index of the configured sources");
        let error = index.closure(&strings("broken"), &[], &BTreeSet::new()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "broken depends on nowhere | elsewhere, which no package of the configured sources provides"
        );
    }

    #[test]
    fn the_first_version_counts_and_epochs_are_quoted_in_file_names() {
        let index = Index::read(INDEX.as_bytes()).unwrap();
        assert_eq!(index.packages["libc"].version, "2.3");
        assert_eq!(index.packages["shop"].file_name(), "shop_1%3a2.0-1_amd64.deb");
        assert_eq!((index.packages["shop"].size, index.packages["shop"].sha256.as_str()), (12, "abc"));
    }
}
