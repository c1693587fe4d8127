//! The service proxy of a node: ClusterIPs, node ports, external and load-balancer addresses as nftables.
//!
//! `program` decides (pure): Services and EndpointSlices in, elements of a fixed, small set of maps out. `nft`
//! writes them as text. `shell` watches the API server and feeds `nft -f -`. The number of chains is a constant:
//! a service is a few map elements, never a chain, because the kernel's cost grows with the square of chains.
//! Never touches a table but its own, and never a network namespace but the one it runs in.

mod affinity;
mod conntrack;
mod health;
mod nft;
mod program;
mod shell;
mod view;

pub use nft::{Elements, TABLE, render_changes, render_full};
pub use program::{MAX_SLOTS, Map, Program, program};
pub use shell::{ProxyConfig, ProxyError, run};
pub use view::{Endpoint, NodeView, PortView, Protocol, ServiceView, view_services};
