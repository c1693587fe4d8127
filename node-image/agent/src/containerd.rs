//! The configuration of the machine's container runtime, for containerd 1.6 to 2.1. Pure.

use crate::layout::Layout;
use std::path::Path;

/// The image of every pod's sandbox; the node brings it along.
pub(crate) const SANDBOX_IMAGE: &str = "registry.k8s.io/pause:3.10.2";

/// What the machine lacks, found out at start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// `oom_score_adj` cannot be lowered; containerd must not try.
    pub(crate) restrict_oom_score: bool,
}

/// The configuration file.
pub(crate) fn config(layout: &Layout, cni_bin: &Path, limits: Limits) -> String {
    format!(
        r#"version = 2
root = "{root}"
state = "{state}"
oom_score = 0
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.internal.v1.tracing"]

[grpc]
  address = "{socket}"

[ttrpc]
  address = "{socket}.ttrpc"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{SANDBOX_IMAGE}"
  restrict_oom_score_adj = {restrict}
  tolerate_missing_hugetlb_controller = true
  max_container_log_line_size = 262144
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"

  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{cni_bin}"
    conf_dir = "{cni_conf}"
    max_conf_num = 1

  [plugins."io.containerd.grpc.v1.cri".containerd]
    default_runtime_name = "runc"
    discard_unpacked_layers = true

    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"

      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
"#,
        root = layout.containerd_root().display(),
        state = layout.containerd_state().display(),
        socket = layout.containerd_socket().display(),
        cni_bin = cni_bin.display(),
        cni_conf = layout.cni_config().display(),
        restrict = limits.restrict_oom_score,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_lies_below_the_machine() {
        let layout = Layout::new(Path::new("/m"));
        let text = config(&layout, Path::new("/usr/lib/cni"), Limits { restrict_oom_score: true });
        for expected in [
            "root = \"/m/containerd/root\"",
            "address = \"/m/run/containerd.sock\"",
            "conf_dir = \"/m/cni/net.d\"",
            "restrict_oom_score_adj = true",
        ] {
            assert!(text.contains(expected), "{expected} in {text}");
        }
    }
}
