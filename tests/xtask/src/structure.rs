//! Holds the crate graph to its layers, and the map to what exists.

use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use std::{collections::BTreeMap, path::Path, process::Command};

/// Crates from the bottom up. A crate may use what stands in a lower layer, never its own or a higher one.
const LAYERS: [&[&str]; 7] = [
    &[
        "timonel-runtime",
        "timonel-api",
        "timonel-fleet",
        "timonel-cri",
        "timonel-pki",
        "timonel-images",
        "timonel-fuzz",
        "timonel-faults",
    ],
    &["timonel-store", "timonel-tunnel", "timonel-cloud-core", "timonel-cel"],
    &[
        "timonel-apiserver",
        "timonel-encryption",
        "timonel-scheduler",
        "timonel-controllers",
        "timonel-kubelet",
        "timonel-proxy",
        "timonel-dns",
        "timonel-cloud-local",
    ],
    &["timonel-service", "timonel-cloud-controller"],
    &["timonel", "timonel-node"],
    &["timonel-harness", "timonel-aws-emulator"],
    &["timonel-e2e", "timonel-simulation", "timonel-bench", "xtask"],
];
/// Crates that no other may bring in: one TLS backend, no copyleft.
const BANNED: [&str; 4] = ["ring", "openssl-sys", "native-tls", "rustables"];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    path: Option<String>,
    kind: Option<String>,
}

/// Checks everything of this module.
pub(crate) fn check() -> anyhow::Result<()> {
    let output = Command::new("cargo").args(["metadata", "--no-deps", "--format-version", "1"]).output()?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Metadata = serde_json::from_slice(&output.stdout).context("cargo metadata")?;
    let mut faults = layer_faults(&metadata.packages);
    let map = std::fs::read_to_string("ARCHITECTURE.md").context("ARCHITECTURE.md")?;
    faults.extend(map_faults(&map, |path| Path::new(path).exists()));
    let tree = ["tree", "--workspace", "--edges", "normal,build", "--prefix", "none", "--format", "{p}"];
    let tree = Command::new("cargo").args(tree).output()?;
    ensure!(tree.status.success(), "cargo tree: {}", String::from_utf8_lossy(&tree.stderr));
    faults.extend(ban_faults(&String::from_utf8_lossy(&tree.stdout)));
    if !faults.is_empty() {
        bail!("structure:\n  {}", faults.join("\n  "));
    }
    Ok(())
}

fn layer_faults(packages: &[Package]) -> Vec<String> {
    let layers: BTreeMap<&str, usize> =
        LAYERS.iter().enumerate().flat_map(|(layer, names)| names.iter().map(move |name| (*name, layer))).collect();
    let mut faults = Vec::new();
    for package in packages {
        let Some(own) = layers.get(package.name.as_str()) else {
            faults.push(format!("{} stands in no layer", package.name));
            continue;
        };
        // Tests may use anything: cargo itself keeps them out of what is shipped.
        let used = package.dependencies.iter().filter(|d| d.path.is_some() && d.kind.as_deref() != Some("dev"));
        for dependency in used {
            if layers.get(dependency.name.as_str()).is_none_or(|layer| layer >= own) {
                faults.push(format!("{} uses {}, which is not below it", package.name, dependency.name));
            }
        }
    }
    faults
}

/// Paths in backticks that look like folders of this repository must exist.
fn map_faults(map: &str, exists: impl Fn(&str) -> bool) -> Vec<String> {
    let mut faults = Vec::new();
    let lines = map.lines().count();
    if lines > 400 {
        faults.push(format!("ARCHITECTURE.md has {lines} lines; 400 is the bound"));
    }
    for word in map.split('`').skip(1).step_by(2) {
        let first = word.split('/').next().unwrap_or_default();
        let ours = ["control", "cloud-controller", "node-image", "tests", "terraform", "examples"].contains(&first);
        if ours && word.contains('/') && !word.contains(' ') && !exists(word.trim_end_matches('/')) {
            faults.push(format!("ARCHITECTURE.md names {word}, which does not exist"));
        }
    }
    faults
}

/// `tree` has one `name version` a line: what is really built, not what a lock file may mention.
fn ban_faults(tree: &str) -> Vec<String> {
    let names: std::collections::BTreeSet<_> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    let banned = BANNED.iter().filter(|name| names.contains(**name));
    banned.map(|name| format!("{name} is built, which deny.toml bans")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, uses: &[(&str, Option<&str>)]) -> Package {
        let dependency = |(name, kind): &(&str, Option<&str>)| Dependency {
            name: (*name).to_owned(),
            path: Some(String::new()),
            kind: kind.map(str::to_owned),
        };
        Package { name: name.to_owned(), dependencies: uses.iter().map(dependency).collect() }
    }

    #[test]
    fn a_crate_uses_lower_layers_only() {
        let good = [package("timonel-store", &[("timonel-runtime", None), ("timonel-apiserver", Some("dev"))])];
        assert_eq!(layer_faults(&good), Vec::<String>::new());
        let bad = [package("timonel-store", &[("timonel-tunnel", None)]), package("stray", &[])];
        assert_eq!(layer_faults(&bad).len(), 2);
    }

    #[test]
    fn the_map_names_what_exists() {
        let faults = map_faults("`control/api` and `control/nowhere` and `cargo xtask`", |path| path == "control/api");
        assert_eq!(faults, ["ARCHITECTURE.md names control/nowhere, which does not exist"]);
    }

    #[test]
    fn banned_crates_are_found() {
        assert_eq!(ban_faults("ring v0.17.0\nrings v1.0.0\nring v0.17.0 (*)\n").len(), 1);
    }
}
