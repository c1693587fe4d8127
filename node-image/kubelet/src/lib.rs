//! The node agent's kubelet: runs the pods that the API binds to a node through a container runtime (CRI), tells the
//! API what became of them, and serves the kubelet API.
//!
//! `decide` makes every choice from values; `shell` observes and acts; `api` answers requests. The crate never sets
//! up the network (the caller writes the CNI configuration) and never decides who may connect to its API.

mod api;
mod config;
mod decide;
mod shell;

pub use api::KubeletApi;
pub use config::{BroughtImages, KUBERNETES_VERSION, KubeletConfig};
pub use decide::eviction::EvictionThresholds;
pub use decide::gc::ImageThresholds;
pub use decide::node::Reserved;
pub use shell::kubelet::{Kubelet, KubeletError};
