//! Cluster DNS of a node: Services, headless endpoints and pods of the cluster, and forwarding of the rest.
//!
//! `zone` turns Services and EndpointSlices into names (pure), `answer` turns a query into an answer (pure),
//! `shell` watches, listens and forwards. Names follow the Kubernetes DNS specification 1.1.0.

mod answer;
mod forward;
mod shell;
mod zone;

pub use answer::{Outcome, answer};
pub use forward::Forwarder;
pub use shell::{DnsConfig, DnsError, run};
pub use zone::{Entry, Zone};
