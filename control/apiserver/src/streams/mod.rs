//! Long connections between clients and kubelets: exec, attach, port-forward, proxy.
//!
//! Moves bytes and translates protocols. Never authorizes, never looks up objects.

mod connector;
mod messages;
mod remote_command;
mod session;
mod spdy;
mod spdy_dictionary;
#[cfg(test)]
mod testing;
mod upgrade;
mod websocket;

pub use connector::{NodeConnector, NodeIo, NodeTarget};
pub use messages::serve_messages;
pub use remote_command::{CommandStreams, V4_PROTOCOL, V5_PROTOCOL};
pub(crate) use session::pass_upgrade;
pub use session::{StreamTarget, serve_upgrade};
pub use spdy::{Decoder as SpdyDecoder, Encoder as SpdyEncoder, Frame as SpdyFrame, Headers as SpdyHeaders, SpdyError};
pub use upgrade::{
    NodeError, SharedConnector, StreamBody, copy_both_ways, send_to_node, strip_hop_by_hop, wants_upgrade,
};
pub use websocket::offered_protocols;
