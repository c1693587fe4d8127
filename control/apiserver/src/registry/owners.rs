//! Who owns which fields after a write: the request's manager, and the object in the versions that entries speak of.

use super::{call::Call, view::View};
use timonel_api::{
    FieldErrors, Path, Resets, Status, Tracker, TypeId, Value, Versions, manager_from_user_agent, resets_of, strategy,
    validate_manager_name,
};

/// What a write's bookkeeping needs to know of its request.
#[derive(Debug)]
pub(super) struct Owners<'a> {
    call: &'a Call<'a>,
    resets: Resets,
    now: String,
    api_version: String,
    manager: String,
}

/// One view's object in its other versions.
struct Views<'a>(&'a View);

impl Versions for Views<'_> {
    fn convert(&self, object: &Value, api_version: &str) -> Option<(Value, TypeId)> {
        let view = self.0;
        let named = |wanted: &str| {
            view.scheme.views_of(&view.resource.storage).find(|other| other.api_version() == wanted).cloned()
        };
        let to = named(api_version)?;
        let from = named(object.str_at(&["apiVersion"])).unwrap_or_else(|| view.resource.clone());
        let mut converted = object.clone();
        timonel_api::convert(&mut converted, &from, &to).ok()?;
        converted.set_at(&["apiVersion"], to.api_version());
        Some((converted, to.body))
    }
}

impl<'a> Owners<'a> {
    /// # Errors
    /// A manager's name that cannot be one.
    pub(super) fn new(call: &'a Call<'a>) -> Result<Self, Status> {
        let resource = &call.view.resource;
        let status = resource.subresource("status").is_some();
        Ok(Self {
            resets: resets_of(&resource.group, &resource.kind, resource.custom, status, &call.info.subresource),
            now: strategy::timestamp(call.now),
            api_version: resource.api_version(),
            manager: manager(call)?,
            call,
        })
    }

    /// Runs bookkeeping for the request.
    pub(super) fn with<R>(&self, run: impl FnOnce(&Tracker<'_>, &str) -> R) -> R {
        let view = &self.call.view;
        let tracker = Tracker {
            schema: view.scheme.schema(),
            ty: view.resource.body,
            api_version: &self.api_version,
            kind: &view.resource.kind,
            subresource: &self.call.info.subresource,
            resets: &self.resets,
            versions: &Views(view),
            now: &self.now,
        };
        run(&tracker, &self.manager)
    }

    /// Writes into a new object, in the request's version, that its creator owns it.
    pub(super) fn create(&self, new: &mut Value) {
        self.with(|tracker, manager| tracker.create(new, manager));
    }

    /// Writes into a changed object, in the request's version, who owns what.
    pub(super) fn update(&self, old: &Value, new: &mut Value) {
        self.with(|tracker, manager| tracker.update(old, new, manager));
    }
}

/// The request's manager: given, or what the client calls itself.
pub(super) fn manager(call: &Call<'_>) -> Result<String, Status> {
    let given = call.query.get("fieldManager");
    let errors = validate_manager_name(given);
    if !errors.is_empty() {
        return Err(Status::invalid("meta.k8s.io", call.options_kind(), "", &errors));
    }
    if !given.is_empty() {
        return Ok(given.to_owned());
    }
    let agent = call.headers.get(::http::header::USER_AGENT).map(|value| String::from_utf8_lossy(value.as_bytes()));
    Ok(manager_from_user_agent(agent.as_deref().unwrap_or_default()))
}

/// Judges what a patch says about its manager.
pub(super) fn check_patch(call: &Call<'_>, applies: bool) -> Result<(), Status> {
    let mut errors = FieldErrors::new();
    if applies && call.query.get("fieldManager").is_empty() {
        errors.required(&Path::new("fieldManager"), "is required for apply patch");
    }
    if !applies && call.query.find("force").is_some() {
        errors.forbidden(&Path::new("force"), "may not be specified for non-apply patch");
    }
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid("meta.k8s.io", "PatchOptions", "", &errors)) }
}
