//! Which operation a request about a resource asks for.

use super::{
    call::Call,
    delete, patch, read, subresources,
    update::{self, Part},
    watch,
};
use crate::{body::Body, http};
use timonel_api::{Status, Verb};

/// Answers a request about a resource.
pub(crate) async fn serve(call: &Call<'_>, body: Body) -> Result<http::Answer, Status> {
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
