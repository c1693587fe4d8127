//! What a caller tells the agent.

use crate::decide::eviction::EvictionThresholds;
use crate::decide::gc::ImageThresholds;
use crate::decide::node::Reserved;
use k8s_openapi::api::core::v1::Taint;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};
use timonel_runtime::{Clock, Entropy};
use tokio::sync::watch;

/// Version of Kubernetes whose node behaviour this is.
pub const KUBERNETES_VERSION: &str = "v1.36.2";

/// Everything that the agent needs to know before it runs.
#[derive(Clone)]
pub struct KubeletConfig {
    /// Name of the Node object.
    pub node_name: String,
    /// Client with the node's own identity.
    pub client: kube::Client,
    /// The only clock.
    pub clock: Clock,
    /// The only source of randomness.
    pub entropy: Entropy,
    /// Socket of the container runtime: `unix:///run/containerd/containerd.sock`.
    pub runtime_endpoint: String,
    /// Pods' directories, volumes and plugins.
    pub root_dir: PathBuf,
    /// Pods' logs; one directory per agent on a machine.
    pub pod_logs_dir: PathBuf,
    /// Parent of the pods' cgroups, `/` or `/node1`; one per agent on a machine.
    pub cgroup_root: String,
    /// Where the cgroup hierarchies are mounted; v1 or v2 is found out.
    pub cgroup_mount: PathBuf,
    /// Where the local cloud shows attached volumes, one directory per handle.
    pub volumes_dir: PathBuf,
    /// Addresses of the cluster's DNS.
    pub cluster_dns: Vec<String>,
    /// Domain of the cluster.
    pub cluster_domain: String,
    /// The node's resolver settings, for pods that want the node's DNS.
    pub resolver_path: PathBuf,
    /// The node's addresses, the primary one first.
    pub node_ips: Vec<String>,
    /// Labels beside the standard ones.
    pub labels: BTreeMap<String, String>,
    /// Taints at registration.
    pub taints: Vec<Taint>,
    /// `spec.providerID` at registration.
    pub provider_id: Option<String>,
    /// A cloud controller initialises the node: it registers tainted, and that controller writes its addresses.
    pub external_cloud: bool,
    /// Most pods.
    pub max_pods: u32,
    /// Port of the kubelet API that the Node announces; 0 announces none.
    pub port: u16,
    /// Kept back from pods.
    pub reserved: Reserved,
    /// When to evict.
    pub eviction: EvictionThresholds,
    /// When to remove images.
    pub image_gc: ImageThresholds,
    /// Images that the machine brings along.
    pub brought_images: watch::Receiver<BroughtImages>,
    /// Largest log file before rotation, in bytes.
    pub log_max_bytes: u64,
    /// Log files kept per container.
    pub log_max_files: usize,
}

/// Images that the machine brings along: no registry may have them, so they are never removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BroughtImages {
    /// Whether some are still being made available: one that is missing may be among them, and is waited for before it
    /// is pulled.
    pub coming: bool,
    /// Names of those that are there.
    pub names: BTreeSet<String>,
}

impl KubeletConfig {
    /// Defaults of a dedicated machine.
    #[must_use]
    pub fn new(node_name: &str, client: kube::Client, runtime_endpoint: &str) -> Self {
        Self {
            node_name: node_name.to_owned(),
            client,
            clock: Clock::system(),
            entropy: Entropy::system(),
            runtime_endpoint: runtime_endpoint.to_owned(),
            root_dir: "/var/lib/kubelet".into(),
            pod_logs_dir: "/var/log/pods".into(),
            cgroup_root: "/".into(),
            cgroup_mount: "/sys/fs/cgroup".into(),
            volumes_dir: "/var/lib/timonel/volumes".into(),
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".into(),
            resolver_path: "/etc/resolv.conf".into(),
            node_ips: Vec::new(),
            labels: BTreeMap::new(),
            taints: Vec::new(),
            provider_id: None,
            external_cloud: false,
            max_pods: 110,
            port: 10250,
            reserved: Reserved::default(),
            eviction: EvictionThresholds::default(),
            image_gc: ImageThresholds::default(),
            brought_images: watch::channel(BroughtImages::default()).1,
            log_max_bytes: 10 << 20,
            log_max_files: 5,
        }
    }
}

impl std::fmt::Debug for KubeletConfig {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("KubeletConfig")
            .field("node_name", &self.node_name)
            .field("runtime_endpoint", &self.runtime_endpoint)
            .field("root_dir", &self.root_dir)
            .finish_non_exhaustive()
    }
}
