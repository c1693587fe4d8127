//! PATCH: three kinds of patches, and apply, as changes of the object in the request's version.

use super::{
    apply,
    call::{Call, check_kind, read_body},
    owners::{self, Owners},
    update::{self, Change, Part},
};
use crate::{body::Body, http, rules};
use bytes::Bytes;
use timonel_api::{Limits, PatchKind, Status, Value, apply_patch, decode_json_untyped};

const ACCEPTED: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    apply::CONTENT_TYPE,
];
/// The same for custom resources, whose lists have no merge keys.
const ACCEPTED_CUSTOM: [&str; 3] = ["application/json-patch+json", "application/merge-patch+json", apply::CONTENT_TYPE];

/// Answers PATCH.
pub(crate) async fn patch(call: &Call<'_>, part: Part, body: Body) -> Result<http::Answer, Status> {
    let form = form(call, call.view.resource.custom)?;
    owners::check_patch(call, form == Form::Apply)?;
    call.field_validation()?;
    let bytes = read_body(body).await?;
    if let Some(trail) = call.trail {
        trail.request_patch(&bytes);
    }
    match form {
        Form::Apply => update::modify(call, part, &apply::Applied::new(call, &bytes)?).await,
        Form::Patch(kind) => {
            update::modify(call, part, &Patched { call, kind, bytes, owners: Owners::new(call)? }).await
        }
    }
}

/// What a body of PATCH is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Patch(PatchKind),
    Apply,
}

/// What the request says its body is.
pub(super) fn form(call: &Call<'_>, custom: bool) -> Result<Form, Status> {
    let header = call.headers.get(::http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let name = header.split(';').next().unwrap_or("").trim();
    if name == apply::CONTENT_TYPE {
        return Ok(Form::Apply);
    }
    let kind = PatchKind::parse(name).filter(|kind| !custom || *kind != PatchKind::Strategic);
    let accepted: &[&str] = if custom { &ACCEPTED_CUSTOM } else { &ACCEPTED };
    kind.map(Form::Patch).ok_or_else(|| Status::unsupported_media_type(accepted))
}

struct Patched<'a> {
    call: &'a Call<'a>,
    kind: PatchKind,
    bytes: Bytes,
    owners: Owners<'a>,
}

impl Change for Patched<'_> {
    fn change(&self, old: &Value) -> Result<Value, Status> {
        let view = &self.call.view;
        let validation = self.call.field_validation()?;
        let (scheme, ty, limits) = (&view.scheme, view.resource.body, Limits::default());
        let patched = apply_patch(scheme, ty, old.clone(), self.kind, &self.bytes, validation, &limits);
        let (mut new, warnings) = patched.map_err(|error| rules::patch_status(&error))?;
        warnings.into_iter().for_each(|warning| self.call.warn(warning));
        check_kind(&new, &view.resource.api_version(), &view.resource.kind)?;
        update::check_names(self.call, &mut new)?;
        self.owners.update(old, &mut new);
        Ok(new)
    }

    fn new_object(&self) -> Option<Result<Value, Status>> {
        None
    }

    /// A patch that does not name a version itself may be applied to another one.
    fn retries(&self) -> bool {
        self.kind == PatchKind::Json
            || decode_json_untyped(&self.bytes, &Limits::default())
                .is_ok_and(|patch| patch.str_at(&["metadata", "resourceVersion"]).is_empty())
    }
}
