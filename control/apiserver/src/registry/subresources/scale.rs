//! `scale`: the number of replicas of anything that has some.

use crate::{
    body::Body,
    http::{Answer, content},
    registry::{
        apply,
        call::{Call, check_kind, read_body},
        create::Written,
        owners,
        patch::{self, Form},
        update::{self, Change, Part},
    },
    rules,
};
use bytes::Bytes;
use timonel_api::{
    FieldErrors, Gvk, Key, LabelSelector, Limits, Object, OneVersion, PatchKind, Path, Resets, Status, Tracker, TypeId,
    Value, apply_patch, definition::ScalePaths, entries_of_scale, entries_with_scale, strategy,
};

fn scale_type(call: &Call<'_>) -> Result<(Gvk, TypeId), Status> {
    let subresource = call.view.resource.subresource("scale").ok_or_else(Status::no_such_resource)?;
    let gvk = Gvk::new("autoscaling", "v1", "Scale");
    Ok((gvk.clone(), subresource.body.or_else(|| call.view.scheme.type_of(&gvk)).ok_or_else(Status::no_such_resource)?))
}

/// Answers GET.
pub(super) async fn get(call: &Call<'_>) -> Result<Answer, Status> {
    let name = &*call.info.name;
    let entry = call.view.slot.get(call.namespace(), name).ok_or_else(|| call.view.not_found(name))?;
    call.view.prepare(std::slice::from_ref(&entry)).await?;
    Answer::value(200, &shown(call, &call.view.decode(&entry)?)?, &call.view.scheme, &call.accept)
}

/// The `Scale` of an object of the call's kind.
fn shown(call: &Call<'_>, object: &Value) -> Result<Value, Status> {
    match call.view.custom.as_ref().and_then(|custom| custom.version().scale.as_ref()) {
        Some(paths) => custom_scale(paths, object),
        None => Ok(scale_of(object)),
    }
}

/// Answers PUT and PATCH.
pub(super) async fn change(call: &Call<'_>, body: Body) -> Result<Answer, Status> {
    let bytes = read_body(body).await?;
    let (gvk, ty) = scale_type(call)?;
    call.field_validation()?;
    let wish = if call.info.verb == "update" {
        let value = call.decode(ty, "Scale", content(call.headers)?, &bytes)?;
        check_kind(&value, &gvk.api_version(), "Scale")?;
        let named = value.str_at(&["metadata", "name"]);
        if !named.is_empty() && named != &*call.info.name {
            return Err(Status::bad_request(format!(
                "the name of the object ({named}) does not match the name on the URL ({})",
                call.info.name
            )));
        }
        Wish::Whole(value)
    } else {
        let form = patch::form(call, false)?;
        owners::check_patch(call, form == Form::Apply)?;
        match form {
            Form::Patch(kind) => Wish::Patch(kind, bytes),
            Form::Apply => {
                let (config, twice) = apply::read(&bytes)?;
                apply::check_twice(call, twice.as_deref())?;
                Wish::Apply(config)
            }
        }
    };
    let (written, _) =
        update::modify_object(call, Part::Main, &Scaled { call, ty, wish, manager: owners::manager(call)? }).await?;
    let object = match written {
        Written::Stored(entry) => {
            call.view.prepare(std::slice::from_ref(&entry)).await?;
            call.view.decode(&entry)?
        }
        Written::DryRun(object) => call.view.present(*object)?,
    };
    Answer::value(200, &shown(call, &object)?, &call.view.scheme, &call.accept)
}

enum Wish {
    Whole(Value),
    Patch(PatchKind, Bytes),
    Apply(Value),
}

struct Scaled<'a> {
    call: &'a Call<'a>,
    ty: TypeId,
    wish: Wish,
    manager: String,
}

/// Where a kind's versions have the number of replicas.
fn replicas_path(call: &Call<'_>, api_version: &str) -> Option<Vec<String>> {
    let view = &call.view;
    if let Some(custom) = &view.custom {
        let versions = custom.definition.versions.iter();
        let version = versions.clone().find(|version| version.resource.api_version() == api_version)?;
        return version.scale.as_ref().map(|paths| paths.spec_replicas.iter().map(ToString::to_string).collect());
    }
    view.scheme.views_of(&view.resource.storage).find(|other| other.api_version() == api_version)?;
    Some(vec!["spec".into(), "replicas".into()])
}

impl Scaled<'_> {
    /// The new scale, with the entries of its owners.
    fn scale(&self, old: &Value) -> Result<Value, Status> {
        let (call, limits) = (self.call, Limits::default());
        let scheme = &call.view.scheme;
        let mut live = shown(call, old)?;
        if let Some(entries) = entries_of_scale(old, &|version| replicas_path(call, version)) {
            live.set_at(&["metadata", "managedFields"], entries);
        }
        let now = strategy::timestamp(call.now);
        let tracker = Tracker {
            schema: scheme.schema(),
            ty: self.ty,
            api_version: "autoscaling/v1",
            kind: "Scale",
            subresource: "scale",
            resets: &Resets::None,
            versions: &OneVersion,
            now: &now,
        };
        let mut scale = match &self.wish {
            Wish::Whole(scale) => scale.clone(),
            Wish::Patch(kind, patch) => {
                let validation = call.field_validation()?;
                let patched = apply_patch(scheme, self.ty, live.clone(), *kind, patch, validation, &limits);
                patched.map_err(|error| rules::patch_status(&error))?.0
            }
            Wish::Apply(config) => {
                let force = call.query.flag("force");
                return apply::applied(scheme, &tracker, &live, config, &self.manager, force);
            }
        };
        tracker.update(&live, &mut scale, &self.manager);
        Ok(scale)
    }
}

impl Change for Scaled<'_> {
    fn change(&self, old: &Value) -> Result<Value, Status> {
        let scale = self.scale(old)?;
        check(&scale)?;
        let mut new = old.clone();
        let replicas = scale.int_at(&["spec", "replicas"]).unwrap_or(0);
        match self.call.view.custom.as_ref().and_then(|custom| custom.version().scale.as_ref()) {
            Some(paths) => new.set_at(&texts(&paths.spec_replicas), replicas),
            None => new.set_at(&["spec", "replicas"], replicas),
        }
        let api_version = self.call.view.resource.api_version();
        match entries_with_scale(old, &scale, &api_version, &|version| replicas_path(self.call, version)) {
            Some(entries) => new.set_at(&["metadata", "managedFields"], entries),
            None => drop(new.remove_at(&["metadata", "managedFields"])),
        }
        for field in ["resourceVersion", "uid"] {
            let asked = scale.str_at(&["metadata", field]);
            if asked.is_empty() {
                new.remove_at(&["metadata", field]);
            } else {
                new.set_at(&["metadata", field], asked);
            }
        }
        Ok(new)
    }

    fn new_object(&self) -> Option<Result<Value, Status>> {
        None
    }

    fn retries(&self) -> bool {
        match &self.wish {
            Wish::Whole(scale) => scale.str_at(&["metadata", "resourceVersion"]).is_empty(),
            Wish::Patch(..) => true,
            Wish::Apply(config) => config.str_at(&["metadata", "resourceVersion"]).is_empty(),
        }
    }
}

fn check(scale: &Value) -> Result<(), Status> {
    let replicas = scale.int_at(&["spec", "replicas"]).unwrap_or(0);
    if replicas >= 0 {
        return Ok(());
    }
    let mut errors = FieldErrors::new();
    let path = Path::new("spec");
    errors.invalid(&path.child("replicas"), Value::Int(replicas), "must be greater than or equal to 0");
    Err(Status::invalid("autoscaling", "Scale", scale.str_at(&["metadata", "name"]), &errors))
}

fn texts(path: &[Key]) -> Vec<&str> {
    path.iter().map(Key::as_str).collect()
}

/// The `Scale` of an object whose kind says where its numbers are; pure.
fn custom_scale(paths: &ScalePaths, object: &Value) -> Result<Value, Status> {
    let mut scale = bare_scale(object);
    let Some(replicas) = object.int_at(&texts(&paths.spec_replicas)) else {
        let path = paths.spec_replicas.join(".");
        return Err(Status::internal(format!("the spec replicas field \".{path}\" does not exist")));
    };
    if replicas != 0 {
        scale.set_at(&["spec", "replicas"], replicas);
    }
    scale.set_at(&["status", "replicas"], object.int_at(&texts(&paths.status_replicas)).unwrap_or(0));
    let selector = if paths.selector.is_empty() { "" } else { object.str_at(&texts(&paths.selector)) };
    if !selector.is_empty() {
        scale.set_at(&["status", "selector"], selector);
    }
    Ok(scale)
}

fn bare_scale(object: &Value) -> Value {
    let mut scale = Value::object();
    scale.set_at(&["apiVersion"], "autoscaling/v1");
    scale.set_at(&["kind"], "Scale");
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object.at(&["metadata", field]) {
            scale.set_at(&["metadata", field], value.clone());
        }
    }
    scale.set_at(&["spec"], Object::new());
    scale
}

/// The `Scale` of an object of a built-in kind; pure.
fn scale_of(object: &Value) -> Value {
    let mut scale = bare_scale(object);
    if let Some(replicas) = object.int_at(&["spec", "replicas"]).filter(|replicas| *replicas != 0) {
        scale.set_at(&["spec", "replicas"], replicas);
    }
    scale.set_at(&["status", "replicas"], object.int_at(&["status", "replicas"]).unwrap_or(0));
    let selector = object.at(&["spec", "selector"]);
    let text = if object.str_at(&["kind"]) == "ReplicationController" {
        LabelSelector::from_map(selector).to_string()
    } else {
        LabelSelector::from_value(selector).map(|selector| selector.to_string()).unwrap_or_default()
    };
    if !text.is_empty() {
        scale.set_at(&["status", "selector"], text);
    }
    scale
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_scale_tells_wish_state_and_selector() {
        let deployment: Value = json!({
            "kind": "Deployment", "metadata": {"name": "d", "uid": "u", "resourceVersion": "5", "labels": {"x": "y"}},
            "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "a"}}}, "status": {"replicas": 2},
        })
        .into();
        assert_eq!(
            serde_json::Value::from(&scale_of(&deployment)),
            json!({"apiVersion": "autoscaling/v1", "kind": "Scale",
                "metadata": {"name": "d", "uid": "u", "resourceVersion": "5"},
                "spec": {"replicas": 3}, "status": {"replicas": 2, "selector": "app=a"}})
        );
        assert_eq!(check(&json!({"spec": {"replicas": -1}}).into()).unwrap_err().code, 422);
    }
}
