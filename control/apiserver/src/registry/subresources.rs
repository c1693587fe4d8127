//! Subresources that are kinds of their own, and resources that are not stored: bindings, evictions, scale,
//! tokens, reviews.

use super::{call::Call, route::create_main};
use crate::{body::Body, http};
use timonel_api::Status;

/// Answers a request about a subresource that does not show the whole object.
pub(crate) async fn serve(call: &Call<'_>, body: Body) -> Result<http::Answer, Status> {
    let _ = body;
    match &*call.info.subresource {
        _ => Err(Status::no_such_resource()),
    }
}

/// Answers POST to a collection.
pub(crate) async fn create(call: &Call<'_>, body: Body) -> Result<http::Answer, Status> {
    create_main(call, body).await
}
