//! PATCH: three kinds of patches as changes of the object in the request's version.

use super::{
    call::{Call, check_kind, read_body},
    update::{self, Change, Part},
};
use crate::{body::Body, http, rules};
use bytes::Bytes;
use timonel_api::{Limits, PatchKind, Status, Value, apply_patch, decode_json_untyped};

const ACCEPTED: [&str; 3] =
    ["application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json"];

/// Answers PATCH.
pub(crate) async fn patch(call: &Call<'_>, part: Part, body: Body) -> Result<http::Answer, Status> {
    let kind = kind(call)?;
    call.field_validation()?;
    let bytes = read_body(body).await?;
    update::modify(call, part, &Patched { call, kind, bytes }).await
}

/// Server-side apply (`application/apply-patch+yaml`) has its place here; until it is served, clients learn that
/// from the answer.
fn kind(call: &Call<'_>) -> Result<PatchKind, Status> {
    let custom = call.view.resource.custom;
    let header = call.headers.get(::http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let kind = PatchKind::parse(header.split(';').next().unwrap_or("").trim());
    let kind = kind.filter(|kind| !custom || *kind != PatchKind::Strategic);
    kind.ok_or_else(|| Status::unsupported_media_type(if custom { &ACCEPTED[..2] } else { &ACCEPTED }))
}

struct Patched<'a> {
    call: &'a Call<'a>,
    kind: PatchKind,
    bytes: Bytes,
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
        Ok(new)
    }

    fn new_object(&self) -> Option<Value> {
        None
    }

    /// A patch that does not name a version itself may be applied to another one.
    fn retries(&self) -> bool {
        self.kind == PatchKind::Json
            || decode_json_untyped(&self.bytes, &Limits::default())
                .is_ok_and(|patch| patch.str_at(&["metadata", "resourceVersion"]).is_empty())
    }
}
