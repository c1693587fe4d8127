//! The service proxy of a node: ClusterIPs, node ports, external and load-balancer addresses as nftables.
//!
//! `watched` says which services a change concerns, `view` how they look, `part` which elements of a fixed, small set of
//! maps each has, `table` what that changes in the whole (all pure). `nft` writes it as text. `shell` watches the API
//! server and feeds `nft -f -`. The number of chains is a constant:
//! a service is a few map elements, never a chain, because the kernel's cost grows with the square of chains.
//! Never touches a table but its own, and never a network namespace but the one it runs in.

mod affinity;
mod conntrack;
mod health;
mod marks;
mod nft;
mod part;
mod shell;
mod table;
mod view;
mod watched;

pub use nft::{render_changes, render_full};
pub use shell::{ProxyConfig, ProxyError, run};
pub use table::{Changes, Table};
pub use view::{Endpoint, NodeView, PortView, Protocol, ServiceView};
pub use watched::Watched;
