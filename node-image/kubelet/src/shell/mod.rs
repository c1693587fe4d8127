//! The thin shells around the decisions: the runtime's calls, files and mounts, the API's objects, and the workers
//! that look, decide and act.

pub(crate) mod atomic;
pub(crate) mod cgroups;
pub(crate) mod csi;
pub(crate) mod events;
pub(crate) mod exec;
pub(crate) mod gc;
pub(crate) mod hooks;
pub(crate) mod images;
pub(crate) mod kubelet;
pub(crate) mod logs;
pub(crate) mod machine;
pub(crate) mod mounts;
pub(crate) mod node;
pub(crate) mod objects;
pub(crate) mod persistent;
pub(crate) mod probes;
pub(crate) mod relist;
pub(crate) mod runtime;
pub(crate) mod statuses;
pub(crate) mod subpath;
pub(crate) mod volumes;
pub(crate) mod worker;
