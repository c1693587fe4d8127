//! `serviceaccounts/token`: a token for a service account, bound to what asks for it.

use super::posted;
use crate::{
    admission::{Lookup, Operation},
    body::Body,
    http::Answer,
    registry::call::{Call, admission_status},
};
use timonel_api::{Gvk, Status};

/// Answers POST of a `TokenRequest`.
pub(super) async fn token(call: &Call<'_>, body: Body) -> Result<Answer, Status> {
    let request = posted(call, body, &Gvk::new("authentication.k8s.io", "v1", "TokenRequest")).await?;
    let lookup: &dyn Lookup = call.server.lookup.as_ref();
    let (account, id) = ([call.namespace(), &*call.info.name], call.server.entropy.uuid());
    let authenticator = &call.server.authenticator;
    let grant = authenticator.request_token(request, account, id, lookup, call.now).map_err(admission_status)?;
    call.validate(Operation::Create, &mut grant.request().clone(), None).await?;
    let answer = grant.mint(authenticator).map_err(admission_status)?;
    Answer::value(201, &answer, &call.view.scheme, &call.accept)
}
