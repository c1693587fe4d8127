//! A write as webhooks and policies see it: in any version of its resource, with its request described.

use crate::{
    admission::Operation,
    registry::{Call, View},
};
use std::{borrow::Cow, sync::Arc};
use timonel_api::{Gvk, Status, Value};

/// One write.
#[derive(Clone, Copy)]
pub(crate) struct Subject<'a> {
    pub(crate) call: &'a Call<'a>,
    pub(crate) operation: Operation,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    pub(crate) subresource: &'a str,
    /// In the storage version; of another kind for subresources that are one.
    pub(crate) object: Option<&'a Value>,
    pub(crate) old: Option<&'a Value>,
    pub(crate) options: &'a Value,
    pub(crate) dry_run: bool,
}

impl<'a> Subject<'a> {
    pub(crate) fn is_namespace_object(&self) -> bool {
        self.call.view.plural() == "namespaces" && self.call.view.group().is_empty()
    }

    /// The views of the same objects, that of the request first.
    pub(crate) fn equivalents(&self) -> impl Iterator<Item = Arc<View>> + use<'a> {
        let own = &self.call.view;
        let resources = self.call.server.resources.load_full();
        let others: Vec<Arc<View>> = own
            .scheme
            .resources()
            .iter()
            .filter(|resource| resource.storage == own.resource.storage)
            .filter(|resource| (&resource.group, &resource.version) != (&own.resource.group, &own.resource.version))
            .filter_map(|resource| resources.get(&resource.group, &resource.version, &resource.plural).cloned())
            .collect();
        std::iter::once(own.clone()).chain(others)
    }

    /// The kind of the object in a version: the resource's, or the subresource's own.
    pub(crate) fn kind_in(&self, view: &View) -> Gvk {
        match view.resource.subresource(self.subresource) {
            Some(sub) if !self.subresource.is_empty() => sub.gvk.clone(),
            _ => match self.object.filter(|object| !self.is_stored_kind(object)) {
                Some(other) if !other.str_at(&["kind"]).is_empty() => {
                    Gvk::of(other.str_at(&["apiVersion"]), other.str_at(&["kind"]))
                }
                _ => view.resource.gvk(),
            },
        }
    }

    fn is_stored_kind(&self, object: &Value) -> bool {
        let storage = &self.call.view.storage;
        object.str_at(&["kind"]) == storage.kind && object.str_at(&["apiVersion"]) == storage.api_version()
    }

    /// An object of this write in a version.
    pub(crate) fn in_version<'v>(&self, view: &View, object: &'v Value) -> Result<Cow<'v, Value>, Status> {
        let storage = &self.call.view.storage;
        let same = (&view.resource.group, &view.resource.version) == (&storage.group, &storage.version);
        if same || !self.is_stored_kind(object) {
            return Ok(Cow::Borrowed(object));
        }
        view.present(object.clone()).map(Cow::Owned)
    }

    /// The request's description: an `AdmissionRequest` without its objects.
    pub(crate) fn request(&self, uid: &str, view: &View) -> Value {
        let own = &self.call.view;
        let mut request = Value::object();
        request.set_at(&["uid"], uid);
        for (field, gvk) in [("kind", self.kind_in(view)), ("requestKind", self.kind_in(own))] {
            request.set_at(&[field, "group"], gvk.group.as_str());
            request.set_at(&[field, "version"], gvk.version.as_str());
            request.set_at(&[field, "kind"], gvk.kind.as_str());
        }
        for (field, resource) in [("resource", &view.resource), ("requestResource", &own.resource)] {
            request.set_at(&[field, "group"], resource.group.as_str());
            request.set_at(&[field, "version"], resource.version.as_str());
            request.set_at(&[field, "resource"], resource.plural.as_str());
        }
        for (field, text) in [
            ("subResource", self.subresource),
            ("requestSubResource", self.subresource),
            ("name", self.name),
            ("namespace", self.namespace),
        ] {
            if !text.is_empty() {
                request.set_at(&[field], text);
            }
        }
        request.set_at(&["operation"], self.operation.as_str());
        request.set_at(&["userInfo"], user_info(self.call.user));
        request.set_at(&["dryRun"], self.dry_run);
        request.set_at(&["options"], self.options.clone());
        request
    }
}

/// `authentication.k8s.io/v1 UserInfo`.
fn user_info(user: &crate::authn::User) -> Value {
    let texts = |list: &[String]| list.iter().map(|text| Value::from(text.as_str())).collect::<Vec<_>>();
    let mut info = Value::object();
    info.set_at(&["username"], user.name.as_str());
    if !user.uid.is_empty() {
        info.set_at(&["uid"], user.uid.as_str());
    }
    if !user.groups.is_empty() {
        info.set_at(&["groups"], texts(&user.groups));
    }
    for (key, values) in &user.extra {
        info.set_at(&["extra", key], texts(values));
    }
    info
}
