//! What there is: versions, health, metrics, discovery and OpenAPI.

use crate::{
    ApiServer,
    http::{Answer, Query, RequestInfo},
};
use timonel_api::Status;

/// Documents that are made once per scheme.
#[derive(Debug, Default)]
pub(crate) struct Documents {}

/// Answers a request about a path that is no resource.
pub(crate) fn serve(
    server: &ApiServer,
    parts: &http::request::Parts,
    query: &Query<'_>,
    info: &RequestInfo<'_>,
) -> Result<Answer, Status> {
    let _ = (parts, query);
    match info.path {
        "/healthz" | "/livez" | "/readyz" => Ok(Answer::text(200, "ok")),
        "/metrics" => Ok(Answer::text(200, server.metrics.text())),
        _ => Err(Status::no_such_resource()),
    }
}
