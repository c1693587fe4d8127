//! What tests of faults share: the members of an etcd as processes that can be hurt, and the check of a recorded
//! history. Knows nothing of Timonel.

mod etcd;
mod history;

pub use etcd::{Etcd, free_ports};
pub use history::{Call, Kind, State, check};
