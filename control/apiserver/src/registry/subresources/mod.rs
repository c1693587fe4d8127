//! Subresources that are kinds of their own, and resources that are not stored: bindings, evictions, scale,
//! tokens, reviews, and the ways to nodes.

mod binding;
mod components;
mod eviction;
mod reviews;
mod scale;
mod token;

use super::{
    call::{Call, read_body},
    create,
};
use crate::{
    admission::Operation,
    body::Body,
    http::{self, content},
};
use timonel_api::{Gvk, Status, Value};

/// Answers a request about a subresource that does not show the whole object.
pub(crate) async fn serve(call: &Call<'_>, body: Body) -> Result<http::Answer, Status> {
    match (&*call.info.subresource, &*call.info.verb) {
        ("binding", "create") => binding::bind(call, body).await,
        ("eviction", "create") => eviction::evict(call, body).await,
        ("token", "create") => token::token(call, body).await,
        ("scale", "get") => scale::get(call).await,
        ("scale", "update" | "patch") => scale::change(call, body).await,
        ("log" | "exec" | "attach" | "portforward" | "proxy", _) => crate::connect::serve(call, body).await,
        _ => Err(Status::method_not_allowed()),
    }
}

/// Answers POST to a collection: a new object, or a question that is answered and forgotten.
pub(crate) async fn create(call: &Call<'_>, body: Body) -> Result<http::Answer, Status> {
    match call.view.plural() {
        "bindings" => binding::bind(call, body).await,
        "tokenreviews"
        | "subjectaccessreviews"
        | "localsubjectaccessreviews"
        | "selfsubjectaccessreviews"
        | "selfsubjectrulesreviews"
        | "selfsubjectreviews"
            if matches!(call.view.group(), "authentication.k8s.io" | "authorization.k8s.io") =>
        {
            reviews::answer(call, body).await
        }
        _ => create::create(call, body).await,
    }
}

/// Whether a resource is not stored and has its own way to be read.
pub(crate) fn read(call: &Call<'_>) -> Option<Result<http::Answer, Status>> {
    (call.view.plural() == "componentstatuses" && call.view.group().is_empty()).then(|| components::answer(call))
}

/// The body of a subresource as an object of the subresource's kind, after the mutating half of admission.
async fn posted(call: &Call<'_>, body: Body, gvk: &Gvk) -> Result<Value, Status> {
    let bytes = read_body(body).await?;
    call.field_validation()?;
    let ty = call.view.scheme.type_of(gvk).ok_or_else(Status::no_such_resource)?;
    let mut value = call.decode(ty, &gvk.kind, content(call.headers)?, &bytes)?;
    super::call::check_kind(&value, &gvk.api_version(), &gvk.kind)?;
    let object = value.make_object();
    object.insert("apiVersion", gvk.api_version());
    object.insert("kind", Value::String(gvk.kind.clone()));
    timonel_api::default_type(&call.view.scheme, ty, &mut value);
    call.mutate(Operation::Create, &mut value, None).await?;
    Ok(value)
}

/// `Status` of a success, as POST to a subresource answers it.
fn created() -> http::Answer {
    let mut status = Status::success("", "", "", "");
    status.code = 201;
    status.details = None;
    http::Answer::success(&status)
}
