//! Measures the machine: processors, memory, disk, identity, and what the kernel lets the agent do.

use crate::config::KUBERNETES_VERSION;
use crate::decide::eviction::Free;
use crate::decide::node::Machine;
use k8s_openapi::api::core::v1::NodeSystemInfo;
use std::collections::BTreeMap;
use std::path::Path;

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// A value of `/proc/meminfo`, in bytes.
fn meminfo(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    line.trim().trim_end_matches("kB").trim().parse::<u64>().ok().map(|kibibytes| kibibytes * 1024)
}

/// Upstream's name of the processor's architecture.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn os_image() -> String {
    let text = read("/etc/os-release");
    let line = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    line.map_or_else(|| "Linux".to_owned(), |name| name.trim_matches('"').to_owned())
}

fn huge_pages() -> BTreeMap<String, u64> {
    let entries = std::fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten();
    let sizes = entries.filter_map(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        let kibibytes: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        let count: u64 = std::fs::read_to_string(entry.path().join("nr_hugepages")).ok()?.trim().parse().ok()?;
        let shown = if kibibytes.is_multiple_of(1 << 20) {
            format!("{}Gi", kibibytes >> 20)
        } else {
            format!("{}Mi", kibibytes >> 10)
        };
        Some((format!("hugepages-{shown}"), count * kibibytes * 1024))
    });
    sizes.collect()
}

/// The machine with its runtime's version, as the node's status shows it.
pub(crate) fn measure(root: &Path, runtime_version: &str) -> Machine {
    let memory = read("/proc/meminfo");
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let machine_id = read("/etc/machine-id");
    let boot_id = read("/proc/sys/kernel/random/boot_id");
    let uuid = read("/sys/class/dmi/id/product_uuid");
    Machine {
        milli_cpu: i64::try_from(cpus * 1000).unwrap_or(1000),
        memory_bytes: meminfo(&memory, "MemTotal").unwrap_or(0),
        disk_bytes: disk(root).0,
        hugepages: huge_pages(),
        info: NodeSystemInfo {
            architecture: architecture().to_owned(),
            boot_id,
            container_runtime_version: runtime_version.to_owned(),
            kernel_version: read("/proc/sys/kernel/osrelease"),
            kube_proxy_version: String::new(),
            kubelet_version: KUBERNETES_VERSION.to_owned(),
            system_uuid: if uuid.is_empty() { machine_id.clone() } else { uuid },
            machine_id,
            operating_system: "linux".to_owned(),
            os_image: os_image(),
            swap: None,
        },
    }
}

/// Total and free bytes of the file system below a path. What the file system keeps for itself, or a quota denies,
/// counts for neither, as `df` shows it.
pub(crate) fn disk(path: &Path) -> (u64, u64) {
    rustix::fs::statvfs(path).map_or((0, 0), |stat| {
        let used = stat.f_blocks.saturating_sub(stat.f_bfree);
        ((used + stat.f_bavail) * stat.f_frsize, stat.f_bavail * stat.f_frsize)
    })
}

/// What is free at this moment.
pub(crate) fn free(root: &Path) -> Free {
    let (disk_total, disk_bytes) = disk(root);
    let number = |path| read(path).parse::<u64>().ok();
    let most = number("/proc/sys/kernel/pid_max").unwrap_or(u64::MAX);
    let used =
        read("/proc/loadavg").split(' ').nth(3).and_then(|pair| pair.split('/').nth(1)?.parse().ok()).unwrap_or(0);
    Free {
        memory_bytes: meminfo(&read("/proc/meminfo"), "MemAvailable").unwrap_or(u64::MAX),
        disk_bytes,
        disk_total,
        pids: most.saturating_sub(used),
    }
}

/// Whether OOM scores may be lowered: without that right a container that asks for it would not start.
pub(crate) fn may_lower_oom_score() -> bool {
    let status = read("/proc/self/status");
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
    const SYS_RESOURCE: u32 = 24;
    bits >> SYS_RESOURCE & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_is_in_bytes() {
        let text = "MemTotal:        2048 kB\nMemAvailable:  1 kB\n";
        assert_eq!(meminfo(text, "MemTotal"), Some(2 << 20));
        assert_eq!(meminfo(text, "MemAvailable"), Some(1024));
        assert_eq!(meminfo(text, "SwapTotal"), None);
    }

    #[test]
    fn this_machine_has_something() {
        let machine = measure(Path::new("/"), "containerd://1");
        assert!(machine.milli_cpu >= 1000 && machine.memory_bytes > 0 && machine.disk_bytes > 0);
        assert!(free(Path::new("/")).memory_bytes > 0);
    }
}
