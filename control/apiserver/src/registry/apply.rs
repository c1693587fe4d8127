//! Server-side apply as one more change of an object; it may also create.

use super::{
    call::Call,
    owners::Owners,
    update::{self, Change},
};
use crate::rules;
use bytes::Bytes;
use timonel_api::{FieldValidation, Limits, Scheme, Status, Tracker, Value, coerce, decode_apply_patch, default_type};

/// The content type of an applied object.
pub(super) const CONTENT_TYPE: &str = "application/apply-patch+yaml";

/// An object to apply.
pub(super) struct Applied<'a> {
    call: &'a Call<'a>,
    owners: Owners<'a>,
    config: Value,
    force: bool,
    /// What in the body is there twice.
    twice: Option<String>,
}

impl<'a> Applied<'a> {
    pub(super) fn new(call: &'a Call<'a>, bytes: &Bytes) -> Result<Self, Status> {
        let (config, twice) = read(bytes)?;
        Ok(Self { call, owners: Owners::new(call)?, config, force: call.query.flag("force"), twice })
    }

    fn apply(&self, live: &Value) -> Result<Value, Status> {
        let new = self.owners.with(|tracker, manager| {
            applied(&self.call.view.scheme, tracker, live, &self.config, manager, self.force)
        })?;
        check_twice(self.call, self.twice.as_deref())?;
        Ok(new)
    }
}

/// Reads an applied object, and what in it is there twice.
pub(super) fn read(bytes: &Bytes) -> Result<(Value, Option<String>), Status> {
    decode_apply_patch(bytes, &Limits::default())
        .map_err(|error| Status::bad_request(format!("error decoding YAML: {error}")))
}

/// Refuses or warns about what is there twice, as the request wishes.
pub(super) fn check_twice(call: &Call<'_>, twice: Option<&str>) -> Result<(), Status> {
    let Some(twice) = twice else { return Ok(()) };
    match call.field_validation()? {
        FieldValidation::Ignore => {}
        FieldValidation::Warn => call.warn(twice.lines().last().unwrap_or_default().trim()),
        FieldValidation::Strict => return Err(Status::bad_request(format!("error strict decoding YAML: {twice}"))),
    }
    Ok(())
}

/// A live object with another applied, in form and defaulted.
pub(super) fn applied(
    scheme: &Scheme,
    tracker: &Tracker<'_>,
    live: &Value,
    config: &Value,
    manager: &str,
    force: bool,
) -> Result<Value, Status> {
    let new = tracker.apply(live, config, manager, force).map_err(|error| error.status())?;
    let decoded = coerce(scheme.schema(), tracker.ty, new, &Limits::default());
    let mut value = decoded.map_err(|error| tracker.cannot_convert(config, &error).status())?.value;
    default_type(scheme, tracker.ty, &mut value);
    Ok(value)
}

impl Change for Applied<'_> {
    fn change(&self, old: &Value) -> Result<Value, Status> {
        let mut new = self.apply(old)?;
        update::check_names(self.call, &mut new)?;
        Ok(new)
    }

    fn new_object(&self) -> Option<Result<Value, Status>> {
        let made = self.owners.with(|tracker, _| {
            let mut blank = tracker.blank();
            self.call.view.stamp(&mut blank);
            blank
        });
        Some(self.apply(&made).and_then(|mut new| {
            let uid = new.str_at(&["metadata", "uid"]);
            if !uid.is_empty() {
                let why =
                    format!("uid mismatch: the provided object specified uid {uid}, and no existing object was found");
                let view = &self.call.view;
                return Err(Status::conflict(view.group(), view.plural(), &self.call.info.name, &why));
            }
            update::check_names(self.call, &mut new)?;
            rules::apply_defaults(&self.call.view.scheme, &self.call.view.resource, &mut new);
            self.call.view.stamp(&mut new);
            Ok(new)
        }))
    }

    fn creates(&self) -> bool {
        true
    }

    fn retries(&self) -> bool {
        self.config.str_at(&["metadata", "resourceVersion"]).is_empty()
    }
}
