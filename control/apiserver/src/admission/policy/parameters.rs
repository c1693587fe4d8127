//! The objects that a binding passes to its policy as `params`.

use super::compiled::{Binding, Policy};
use crate::{admission::Lookup, admission::webhook::Subject};
use std::sync::Arc;
use timonel_api::{Gvk, LabelSelector, Value};

/// Parameters of one binding: one evaluation for each; `Null` for an evaluation without.
///
/// # Errors
/// Why the binding cannot be used, in upstream's words.
pub(crate) fn collect(
    policy: &Policy,
    binding: &Binding,
    subject: &Subject<'_>,
    lookup: &dyn Lookup,
) -> Result<Vec<Arc<Value>>, String> {
    let none = || Ok(vec![Arc::new(Value::Null)]);
    let Some((api_version, kind)) = &policy.param_kind else { return none() };
    let Some(wanted) = &binding.param_ref else { return none() };
    let gvk = Gvk::of(api_version, kind);
    let view = &subject.call.view;
    let resources = view.scheme.resources();
    let Some(resource) = resources.iter().find(|resource| resource.gvk() == gvk) else {
        return Err(format!("paramKind kind `&ParamKind{{APIVersion:{api_version},Kind:{kind},}}` not known"));
    };
    let asked = wanted.str_at(&["namespace"]);
    let namespace = match (resource.namespaced, asked, subject.namespace) {
        (false, "", _) => "",
        (false, _, _) => {
            return Err("paramRef.namespace must not be provided for a cluster-scoped `paramKind`".to_owned());
        }
        (true, "", "") => {
            return Err(
                "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources".to_owned()
            );
        }
        (true, "", own) => own,
        (true, asked, _) => asked,
    };
    let (group, plural) = (&resource.storage.group, &resource.storage.resource);
    let mut found: Vec<Arc<Value>> = match wanted.str_at(&["name"]) {
        "" => {
            let selector = LabelSelector::from_value(wanted.get("selector")).map_err(|error| error.to_string())?;
            let within = resource.namespaced.then_some(namespace);
            let all = lookup.list(group, plural, within);
            all.into_iter().filter(|object| selector.matches(&object.at(&["metadata", "labels"]))).collect()
        }
        name => lookup.get(group, plural, namespace, name).into_iter().collect(),
    };
    if found.is_empty() && wanted.str_at(&["parameterNotFoundAction"]) != "Allow" {
        return Err("no params found for policy binding with `Deny` parameterNotFoundAction".to_owned());
    }
    for object in &mut found {
        *object = Arc::new(stamped(object, api_version, kind));
    }
    Ok(found)
}

fn stamped(object: &Value, api_version: &str, kind: &str) -> Value {
    let mut object = object.clone();
    object.set_at(&["apiVersion"], api_version);
    object.set_at(&["kind"], kind);
    object
}
