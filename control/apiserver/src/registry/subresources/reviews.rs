//! Questions that are answered and forgotten: who is this, may they.

use super::posted;
use crate::{
    admission::{AdmissionError, Operation},
    authn::{User, answer_review, review_self},
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
    match call.view.plural() {
        "tokenreviews" => review_token(call, &mut review).await,
        "selfsubjectreviews" => {
            review_self(&mut review, call.user);
            Ok(())
        }
        "selfsubjectrulesreviews" => {
            let chain = call.server.authorizer.chain.load();
            let rbac = chain.has_rbac.then_some(&*call.server.rbac);
            let others = [(chain.has_node, "node"), (!chain.webhooks.is_empty(), "webhook")];
            let silent = others.into_iter().filter(|(there, _)| *there).map(|(_, name)| name);
            review_rules(&mut review, call.user, rbac, &silent.collect::<Vec<_>>(), &call.lookup())
        }
        "selfsubjectaccessreviews" => access(call, &mut review, Some(call.user)).await,
        "localsubjectaccessreviews" => {
            let asked = review.str_at(&["spec", "resourceAttributes", "namespace"]);
            if asked != call.namespace() {
                return Err(Status::bad_request(format!(
                    "spec.resourceAttributes.namespace must match namespace: {}",
                    call.namespace()
                )));
            }
            access(call, &mut review, None).await
        }
        _ => access(call, &mut review, None).await,
    }
    .map_err(admission_status)?;
    Answer::value(201, &review, &call.view.scheme, &call.accept)
}

async fn review_token(call: &Call<'_>, review: &mut Value) -> Result<(), AdmissionError> {
    let (token, audiences) = call.server.authenticator.read_review(review)?;
    answer_review(review, Box::pin(call.server.identify(&token, &audiences)).await);
    Ok(())
}

async fn access(call: &Call<'_>, review: &mut Value, myself: Option<&User>) -> Result<(), AdmissionError> {
    let authorizer = call.server.authorizer.as_ref();
    call.settled(|| review_access(review, myself, authorizer, &call.lookup())).await
}
