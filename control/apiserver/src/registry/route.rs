//! Which operation a request about a resource asks for.

use super::{
    call::{Call, read_body},
    commit::cache_status,
    delete, patch, read, subresources,
    update::{self, Part},
    watch,
};
use crate::{body::Body, http};
use timonel_api::{Status, Verb};

/// Answers a request about a resource.
///
/// A change is refused for what the cache shows, and another machine may have written what it does not show yet. So a
/// refusal stands only if the cache had everything: else the request is looked at once more, with all that was
/// acknowledged to anyone before it came.
pub(crate) async fn serve(call: &Call<'_>, body: Body) -> Result<http::Answer, Status> {
    if !is_change(call) {
        return once(call, body).await;
    }
    let bytes = read_body(body).await?;
    let place = call.view.slot.place();
    let seen = place.delivered();
    match once(call, bytes.clone().into()).await {
        Err(refusal) if is_of_state(&refusal) => {
            let newest = place.wait_newest().await.map_err(cache_status)?;
            if newest > seen { once(call, bytes.into()).await } else { Err(refusal) }
        }
        answered => answered,
    }
}

/// Whether a request changes a stored object: all of it is in memory then, and may be looked at twice.
fn is_change(call: &Call<'_>) -> bool {
    let stream = matches!(&*call.info.subresource, "log" | "exec" | "attach" | "portforward" | "proxy");
    !stream && matches!(&*call.info.verb, "create" | "update" | "patch" | "delete")
}

/// Whether something is refused for what is there or is not: another state might allow it.
fn is_of_state(refusal: &Status) -> bool {
    matches!(refusal.code, 404 | 409 | 422)
}

async fn once(call: &Call<'_>, body: Body) -> Result<http::Answer, Status> {
    if call.info.subresource.is_empty() {
        return main(call, body).await;
    }
    let subresource = call.view.resource.subresource(&call.info.subresource).ok_or_else(Status::no_such_resource)?;
    match Part::of(&call.info.subresource) {
        Some(part) => {
            let verb = Verb::parse(&call.info.verb).filter(|verb| subresource.verbs.contains(verb));
            match verb.ok_or_else(Status::method_not_allowed)? {
                Verb::Get => read::get(call).await,
                Verb::Update => Box::pin(update::update(call, part, body)).await,
                Verb::Patch => Box::pin(patch::patch(call, part, body)).await,
                _ => Err(Status::method_not_allowed()),
            }
        }
        None => Box::pin(subresources::serve(call, body)).await,
    }
}

/// Tells clients of kinds that have a better successor.
fn warn_of_old(call: &Call<'_>) {
    match (call.view.group(), call.view.plural()) {
        ("", "componentstatuses") => call.warn("v1 ComponentStatus is deprecated in v1.19+"),
        ("", "endpoints") => {
            call.warn("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice");
        }
        _ => {}
    }
}

async fn main(call: &Call<'_>, body: Body) -> Result<http::Answer, Status> {
    let verb = Verb::parse(&call.info.verb).filter(|verb| call.view.resource.allows(*verb));
    let verb = verb.ok_or_else(Status::method_not_allowed)?;
    let by_name = matches!(verb, Verb::Get | Verb::Update | Verb::Patch | Verb::Delete);
    if by_name != call.info.is_named && verb != Verb::Watch {
        return Err(Status::method_not_allowed());
    }
    if call.view.resource.namespaced && call.info.namespace.is_empty() && (by_name || verb == Verb::Create) {
        return Err(Status::method_not_allowed());
    }
    warn_of_old(call);
    if let Some(answer) = subresources::read(call) {
        return answer;
    }
    match verb {
        Verb::Get => read::get(call).await,
        Verb::List => read::list(call).await,
        Verb::Watch => watch::watch(call).await,
        Verb::Create => Box::pin(subresources::create(call, body)).await,
        Verb::Update => Box::pin(update::update(call, Part::Main, body)).await,
        Verb::Patch => Box::pin(patch::patch(call, Part::Main, body)).await,
        Verb::Delete => Box::pin(delete::delete(call, body)).await,
        Verb::DeleteCollection => Box::pin(delete::delete_collection(call, body)).await,
    }
}
