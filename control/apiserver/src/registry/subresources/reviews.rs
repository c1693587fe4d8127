//! Questions that are answered and forgotten: who is this, may they.

use super::posted;
use crate::{
    admission::{AdmissionError, Lookup, Operation},
    authn::{answer_review, review_self},
    authz::{review_access, review_rules},
    body::Body,
    http::{Answer, Shape, not_acceptable},
    registry::call::{Call, admission_status},
};
use timonel_api::{Status, Value};

/// Answers POST of a review. A review is no stored object, so it has neither rows nor metadata to show alone.
pub(super) async fn answer(call: &Call<'_>, body: Body) -> Result<Answer, Status> {
    if call.accept.shape != Shape::Whole {
        return Err(not_acceptable());
    }
    let mut review = posted(call, body, &call.view.resource.gvk()).await?;
    call.validate(Operation::Create, &mut review, None).await?;
    let server = call.server;
    let lookup: &dyn Lookup = server.lookup.as_ref();
    let authorizer = server.authorizer.as_ref();
    match call.view.plural() {
        "tokenreviews" => review_token(call, &mut review).await,
        "selfsubjectreviews" => {
            review_self(&mut review, call.user);
            Ok(())
        }
        "selfsubjectrulesreviews" => review_rules(&mut review, call.user, &server.rbac, lookup),
        "selfsubjectaccessreviews" => review_access(&mut review, Some(call.user), authorizer, lookup),
        "localsubjectaccessreviews" => {
            let asked = review.str_at(&["spec", "resourceAttributes", "namespace"]);
            if asked != call.namespace() {
                return Err(Status::bad_request(format!(
                    "spec.resourceAttributes.namespace must match namespace: {}",
                    call.namespace()
                )));
            }
            review_access(&mut review, None, authorizer, lookup)
        }
        _ => review_access(&mut review, None, authorizer, lookup),
    }
    .map_err(admission_status)?;
    Answer::value(201, &review, &call.view.scheme, &call.accept)
}

async fn review_token(call: &Call<'_>, review: &mut Value) -> Result<(), AdmissionError> {
    let (token, audiences) = call.server.authenticator.read_review(review)?;
    answer_review(review, Box::pin(call.server.identify(&token, &audiences)).await);
    Ok(())
}
