//! What this machine lacks for nodes of its own. The list of needs is data; looking is all that happens.

use crate::cli::{DoctorArgs, Format};
use serde::Serialize;
use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// A program that nodes of the local cloud need, and the Debian package that has it.
const PROGRAMS: [(&str, &str); 9] = [
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("runc", "runc"),
    ("nft", "nftables"),
    ("iptables", "iptables"),
    ("ip", "iproute2"),
    ("nsenter", "util-linux"),
    ("unshare", "util-linux"),
    ("conntrack", "conntrack"),
];
/// CNI plugins that nodes need.
const PLUGINS: [&str; 4] = ["bridge", "host-local", "loopback", "portmap"];
/// What the kernel must be able to do: what is asked of it, and the options of its build that bring it.
const KERNEL: [(&str, &[&str], &str); 3] = [
    ("network namespaces", &["unshare", "--net", "true"], "CONFIG_NET_NS"),
    ("mount namespaces", &["unshare", "--mount", "true"], "CONFIG_NAMESPACES"),
    ("packet rules", &["nft", "list", "tables"], "CONFIG_NF_TABLES, CONFIG_NF_TABLES_INET and CONFIG_NFT_NAT"),
];
/// Where Debian puts CNI plugins.
pub(crate) const CNI_BIN: &str = "/usr/lib/cni";
/// Where programs are looked for beside `PATH`.
const SYSTEM_FOLDERS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// One thing that was looked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// What.
    pub(crate) need: String,
    /// Whether it is there.
    pub(crate) found: bool,
    /// What to do when it is not.
    pub(crate) remedy: String,
}

/// Everything that the local cloud's nodes need.
pub(crate) fn findings() -> Vec<Finding> {
    let finding = |need: &str, found: bool, remedy: String| Finding { need: need.to_owned(), found, remedy };
    let root = rustix::process::geteuid().is_root();
    let mut findings = vec![
        finding("Linux", cfg!(target_os = "linux"), "nodes run on Linux only; control planes run here".to_owned()),
        finding("root", root, "run as root (sudo); without it only control planes run".to_owned()),
    ];
    for (program, package) in PROGRAMS {
        findings.push(finding(program, program_path(program).is_some(), format!("apt-get install {package}")));
    }
    for plugin in PLUGINS {
        let found = Path::new(CNI_BIN).join(plugin).is_file();
        findings.push(finding(
            &format!("CNI plugin {plugin}"),
            found,
            "apt-get install containernetworking-plugins".into(),
        ));
    }
    let cgroups =
        Path::new("/sys/fs/cgroup/cgroup.controllers").is_file() || Path::new("/sys/fs/cgroup/memory").is_dir();
    findings.push(finding("cgroups", cgroups, "mount the cgroup hierarchies below /sys/fs/cgroup".to_owned()));
    let filesystems = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    // Whoever is not root is refused whatever the kernel can do: that is said above.
    findings.extend(kernel(&filesystems, |command| !root || program_path(command[0]).is_none() || succeeds(command)));
    findings
}

/// What the kernel must bring, from its list of file systems and from `able`: whether a command succeeds.
fn kernel(filesystems: &str, able: impl Fn(&[&str]) -> bool) -> Vec<Finding> {
    let remedy = |options: &str| format!("boot a kernel that is built with {options}, or load its modules");
    let overlay = filesystems.lines().any(|line| line.split_whitespace().last() == Some("overlay"));
    let overlay = Finding {
        need: "kernel: overlay file system".into(),
        found: overlay,
        remedy: format!("modprobe overlay, or {}", remedy("CONFIG_OVERLAY_FS")),
    };
    let asked = KERNEL.iter().map(|(what, command, options)| Finding {
        need: format!("kernel: {what}"),
        found: able(command),
        remedy: remedy(options),
    });
    std::iter::once(overlay).chain(asked).collect()
}

/// Whether a command can be started and ends well; it says nothing to anybody.
fn succeeds(command: &[&str]) -> bool {
    let Some((program, args)) = command.split_first() else { return false };
    let program = program_path(program).unwrap_or_else(|| program.into());
    let mut started = Command::new(program);
    started.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    started.status().is_ok_and(|status| status.success())
}

/// Prints the findings; an error when something is missing.
pub(crate) fn run(args: &DoctorArgs) -> anyhow::Result<()> {
    let findings = findings();
    match args.output {
        Format::Json | Format::Yaml => println!("{}", serde_json::to_string_pretty(&findings)?),
        Format::Name => findings.iter().filter(|f| !f.found).for_each(|f| println!("{}", f.need)),
        Format::Table => {
            for finding in &findings {
                let (mark, remedy) = if finding.found { ("ok     ", "") } else { ("missing", finding.remedy.as_str()) };
                println!("{mark}  {:<24} {remedy}", finding.need);
            }
        }
    }
    let missing = findings.iter().filter(|finding| !finding.found).count();
    anyhow::ensure!(missing == 0, "{missing} of {} needs are missing", findings.len());
    Ok(())
}

/// Where a program is, on the path or where the system keeps its own.
pub(crate) fn program_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(SYSTEM_FOLDERS.iter().map(PathBuf::from));
    folders.map(|folder| folder.join(name)).find(|candidate| candidate.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_and_missing_ones_are_not() {
        assert!(program_path("sh").is_some());
        assert!(program_path("timonel-no-such-program").is_none());
    }

    #[test]
    fn what_the_kernel_lacks_is_named_with_the_way_out() {
        let listed = "nodev\tsysfs\nnodev\toverlay\n\text4\n";
        for (filesystems, refused, missing) in [
            (listed, "", None),
            ("nodev\tsysfs\n\text4\n", "", Some(("kernel: overlay file system", "CONFIG_OVERLAY_FS"))),
            (listed, "nft", Some(("kernel: packet rules", "CONFIG_NF_TABLES"))),
            (listed, "--net", Some(("kernel: network namespaces", "CONFIG_NET_NS"))),
        ] {
            let findings = kernel(filesystems, |command| !command.contains(&refused));
            let lacking: Vec<_> = findings.iter().filter(|finding| !finding.found).collect();
            assert_eq!(lacking.len(), usize::from(missing.is_some()), "{lacking:?}");
            if let (Some(lacking), Some((need, option))) = (lacking.first(), missing) {
                assert_eq!(lacking.need, need);
                assert!(lacking.remedy.contains(option), "{lacking:?}");
            }
        }
    }

    #[test]
    fn commands_tell_by_how_they_end() {
        assert!(succeeds(&["true"]));
        assert!(!succeeds(&["false"]));
        assert!(!succeeds(&["timonel-no-such-program"]));
    }

    #[test]
    fn every_missing_thing_has_a_remedy() {
        assert!(findings().iter().all(|finding| !finding.remedy.is_empty()));
    }
}
