//! PATCH: three kinds of patches as changes of the object in the request's version.

use super::{
    call::{Call, read_body},
    update::{self, Change, Part},
};
use crate::{body::Body, http, rules};
use timonel_api::{Status, Value};

const JSON_PATCH: &str = "application/json-patch+json";
const MERGE_PATCH: &str = "application/merge-patch+json";
const STRATEGIC_PATCH: &str = "application/strategic-merge-patch+json";
const APPLY_PATCH: &str = "application/apply-patch+yaml";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Json,
    Merge,
    Strategic,
}

/// Answers PATCH.
pub(crate) async fn patch(call: &Call<'_>, part: Part, body: Body) -> Result<http::Answer, Status> {
    let format = format(call)?;
    call.field_validation()?;
    let patch = rules::Patch::parse(format.into(), &read_body(body).await?)?;
    update::modify(call, part, &Patched { call, patch }).await
}

fn format(call: &Call<'_>) -> Result<Format, Status> {
    let header = call.headers.get(::http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let all = if call.view.resource.custom {
        &[JSON_PATCH, MERGE_PATCH][..]
    } else {
        &[JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH][..]
    };
    match header.split(';').next().unwrap_or("").trim() {
        JSON_PATCH => Ok(Format::Json),
        MERGE_PATCH => Ok(Format::Merge),
        STRATEGIC_PATCH if !call.view.resource.custom => Ok(Format::Strategic),
        // Server-side apply has its place here; until it is served, clients learn it from this answer.
        APPLY_PATCH => Err(Status::unsupported_media_type(all)),
        _ => Err(Status::unsupported_media_type(all)),
    }
}

impl From<Format> for rules::PatchFormat {
    fn from(format: Format) -> Self {
        match format {
            Format::Json => Self::Json,
            Format::Merge => Self::Merge,
            Format::Strategic => Self::Strategic,
        }
    }
}

struct Patched<'a> {
    call: &'a Call<'a>,
    patch: rules::Patch,
}

impl Change for Patched<'_> {
    fn change(&self, old: &Value) -> Result<Value, Status> {
        let view = &self.call.view;
        let (mut new, warnings) = self.patch.apply(view, old, self.call.field_validation()?)?;
        warnings.into_iter().for_each(|warning| self.call.warn(warning));
        update::check_names(self.call, &mut new)?;
        rules::apply_defaults(&view.scheme, &view.resource, &mut new);
        Ok(new)
    }

    fn new_object(&self) -> Option<Value> {
        None
    }

    fn retries(&self) -> bool {
        !self.patch.names_version()
    }
}
