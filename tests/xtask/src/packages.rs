//! Debian packages that building, nodes and tests need; installs what is missing.

use crate::up::run;
use anyhow::{Context, bail};
use std::{path::Path, process::Command};

/// Program (or file) and the package that brings it.
const NEEDS: [(&str, &str); 12] = [
    ("cc", "gcc"),
    ("containerd", "containerd"),
    ("runc", "runc"),
    ("nft", "nftables"),
    ("iptables", "iptables"),
    ("ip", "iproute2"),
    ("nsenter", "util-linux"),
    ("conntrack", "conntrack"),
    ("/usr/lib/cni/bridge", "containernetworking-plugins"),
    ("curl", "curl"),
    ("etcd", "etcd-server"),
    ("kubectl", "kubernetes-client"),
];
/// Where programs are looked for beside `PATH`.
const SYSTEM_FOLDERS: [&str; 4] = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/bin"];

/// Installs what is missing; says so when it cannot.
pub(crate) fn ensure() -> anyhow::Result<()> {
    let mut missing: Vec<&str> = NEEDS.iter().filter(|(need, _)| !present(need)).map(|(_, package)| *package).collect();
    missing.dedup();
    if missing.is_empty() {
        return Ok(());
    }
    if !present("apt-get") {
        bail!("missing: {}; install these packages (their Debian names)", missing.join(", "));
    }
    eprintln!("installing {}", missing.join(", "));
    // The lists may be old or absent; what is installed already needs none.
    run(Command::new("apt-get").args(["update", "-qq"])).context("apt-get update")?;
    let mut install = Command::new("apt-get");
    install.env("DEBIAN_FRONTEND", "noninteractive").args(["install", "-y", "-qq", "--no-install-recommends"]);
    run(install.args(&missing)).with_context(|| format!("apt-get install {} (as root?)", missing.join(" ")))
}

fn present(need: &str) -> bool {
    if need.starts_with('/') {
        return Path::new(need).exists();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(SYSTEM_FOLDERS.iter().map(Into::into));
    folders.into_iter().any(|folder| folder.join(need).is_file())
}
