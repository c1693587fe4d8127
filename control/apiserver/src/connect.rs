//! Requests that go on to a node: logs, exec, attach, port-forward, proxy.

use crate::{body::Body, http, registry::Call};
use timonel_api::Status;

/// Answers a request that goes on to a node.
pub(crate) async fn serve(call: &Call<'_>, body: Body) -> Result<http::Answer, Status> {
    let _ = (call, body);
    Err(Status::service_unavailable("no way to nodes"))
}
