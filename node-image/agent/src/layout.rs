//! Where a machine keeps what, all below one directory of its own. Pure.

use std::path::{Path, PathBuf};

/// Paths of a machine.
#[derive(Clone, Debug)]
pub(crate) struct Layout(PathBuf);

impl Layout {
    pub(crate) fn new(machine: &Path) -> Self {
        Self(machine.to_owned())
    }
    /// Settings, certificate and key of the node.
    pub(crate) fn state(&self) -> PathBuf {
        self.0.join("node")
    }
    pub(crate) fn containerd_root(&self) -> PathBuf {
        self.0.join("containerd/root")
    }
    pub(crate) fn containerd_state(&self) -> PathBuf {
        self.0.join("containerd/state")
    }
    pub(crate) fn containerd_config(&self) -> PathBuf {
        self.0.join("containerd/config.toml")
    }
    pub(crate) fn containerd_socket(&self) -> PathBuf {
        self.0.join("run/containerd.sock")
    }
    pub(crate) fn cni_config(&self) -> PathBuf {
        self.0.join("cni/net.d")
    }
    pub(crate) fn cni_state(&self) -> PathBuf {
        self.0.join("cni/state")
    }
    pub(crate) fn kubelet(&self) -> PathBuf {
        self.0.join("kubelet")
    }
    pub(crate) fn pod_logs(&self) -> PathBuf {
        self.0.join("logs/pods")
    }
    pub(crate) fn logs(&self) -> PathBuf {
        self.0.join("logs")
    }
    pub(crate) fn volumes(&self) -> PathBuf {
        self.0.join("volumes")
    }
    /// Every directory that must exist before anything starts.
    pub(crate) fn directories(&self) -> Vec<PathBuf> {
        vec![
            self.state(),
            self.containerd_root(),
            self.containerd_state(),
            self.0.join("run"),
            self.cni_config(),
            self.cni_state(),
            self.kubelet(),
            self.pod_logs(),
            self.volumes(),
        ]
    }
}
