//! Claims of devices, their templates, classes and slices.

use std::collections::BTreeSet;

use super::check::{IMMUTABLE, entries, given, labels, required_name, texts};
use crate::names;
use crate::strategy::semantic_equal;
use crate::{FieldErrors, Path, Value};

/// Requests, constraints, configurations and selectors of a claim, at most of each.
const MAX_ITEMS: usize = 32;
/// Alternatives of one request, at most.
const MAX_ALTERNATIVES: usize = 8;
const MAX_DEVICES: usize = 128;
const MAX_POOL_NAME: usize = 253;
const MAX_DRIVER_NAME: usize = 63;
const MAX_DOMAIN: usize = 63;
const MAX_ID: usize = 32;
const MAX_ATTRIBUTE_TEXT: usize = 64;
const REFERENCE: &str =
    "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";

pub(super) fn claim(object: &Value, errors: &mut FieldErrors) {
    devices(object.at(&["spec", "devices"]).unwrap_or(&Value::Null), &Path::new("spec.devices"), errors);
}

pub(super) fn claim_template(object: &Value, errors: &mut FieldErrors) {
    labels(object.at(&["spec", "metadata", "labels"]), &Path::new("spec.metadata.labels"), errors);
    devices(object.at(&["spec", "spec", "devices"]).unwrap_or(&Value::Null), &Path::new("spec.spec.devices"), errors);
}

/// What a claim or a template asks for never changes.
pub(super) fn spec_stays(new: &Value, old: &Value, errors: &mut FieldErrors) {
    if !semantic_equal(new.get("spec"), old.get("spec")) {
        errors.invalid(&Path::new("spec"), new.get("spec").cloned().unwrap_or_default(), IMMUTABLE);
    }
}

fn too_many(list: &[Value], most: usize, path: &Path<'_>, errors: &mut FieldErrors) -> bool {
    if list.len() > most {
        errors.too_many(path, list.len(), most);
    }
    list.len() > most
}

/// Judges items and refuses those whose key was there before.
fn set<'a>(
    list: &'a [Value],
    most: usize,
    path: &Path<'_>,
    errors: &mut FieldErrors,
    key: impl Fn(&'a Value) -> &'a str,
    judge: impl Fn(&Value, &Path<'_>, &mut FieldErrors),
) {
    if too_many(list, most, path, errors) {
        return;
    }
    for (at, item) in list.iter().enumerate() {
        judge(item, &path.index(at), errors);
    }
    let mut seen = BTreeSet::new();
    for (at, item) in list.iter().enumerate() {
        if !seen.insert(key(item)) {
            errors.duplicate(&path.index(at), key(item));
        }
    }
}

fn devices(claim: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let requests = claim.list_at(&["requests"]);
    let mut names: BTreeSet<String> = BTreeSet::new();
    for request in requests {
        let name = request.str_at(&["name"]);
        names.insert(name.to_owned());
        names
            .extend(request.list_at(&["firstAvailable"]).iter().map(|sub| format!("{name}/{}", sub.str_at(&["name"]))));
    }
    set(requests, MAX_ITEMS, &path.child("requests"), errors, |item| item.str_at(&["name"]), request);
    let references = |item: &Value, path: &Path<'_>, errors: &mut FieldErrors| {
        set(
            item.list_at(&["requests"]),
            MAX_ITEMS,
            &path.child("requests"),
            errors,
            |name| name.as_str().unwrap_or(""),
            |name, path, errors| reference(name.as_str().unwrap_or(""), &names, path, errors),
        );
    };
    let constraints = claim.list_at(&["constraints"]);
    let list = path.child("constraints");
    if !too_many(constraints, MAX_ITEMS, &list, errors) {
        for (at, constraint) in constraints.iter().enumerate() {
            references(constraint, &list.index(at), errors);
            attribute(constraint, &list.index(at), errors);
        }
    }
    let configs = claim.list_at(&["config"]);
    let list = path.child("config");
    if !too_many(configs, MAX_ITEMS, &list, errors) {
        for (at, config) in configs.iter().enumerate() {
            references(config, &list.index(at), errors);
            opaque(config, &list.index(at), errors);
        }
    }
}

fn reference(name: &str, known: &BTreeSet<String>, path: &Path<'_>, errors: &mut FieldErrors) {
    if name.matches('/').count() > 1 {
        return errors.invalid(path, name, REFERENCE);
    }
    for part in name.split('/') {
        errors.invalid_each(path, part, names::dns_label(part));
    }
    if !known.contains(name) {
        errors.invalid(path, name, REFERENCE);
    }
}

fn attribute(constraint: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    for member in ["matchAttribute", "distinctAttribute"] {
        if let Some(name) = given(constraint, &[member]).and_then(Value::as_str) {
            let path = path.child(member);
            qualified(name, &path, errors);
            if !name.contains('/') {
                let detail = "a fully qualified name must be a domain and a name separated by a slash";
                errors.invalid(&path, name, detail);
            }
            return;
        }
    }
    let detail = "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set";
    errors.required(path, detail);
}

/// A name of an attribute or a capacity, with or without a domain.
fn qualified(name: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    if name.is_empty() {
        return errors.invalid_each(path, name, names::c_identifier(name));
    }
    let parts: Vec<&str> = name.split('/').collect();
    let id = |text: &str, errors: &mut FieldErrors| {
        if text.is_empty() {
            errors.required(path, "the name must not be empty");
        } else {
            if text.len() > MAX_ID {
                errors.too_long(path, MAX_ID);
            }
            errors.invalid_each(path, text, names::c_identifier(text));
        }
    };
    match parts[..] {
        [name] => id(name, errors),
        [domain, name] => {
            if domain.is_empty() {
                errors.required(path, "the domain must not be empty");
            } else {
                if domain.len() > MAX_DOMAIN {
                    errors.too_long(path, MAX_DOMAIN);
                }
                errors.invalid_each(path, domain, names::dns_subdomain(domain));
            }
            id(name, errors);
        }
        _ => errors.invalid(path, name, "must consist of a domain and a name separated by a slash"),
    }
}

fn driver(name: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    if name.is_empty() {
        return errors.required(path, "");
    }
    if name.len() > MAX_DRIVER_NAME {
        errors.too_long(path, MAX_DRIVER_NAME);
    }
    errors.invalid_each(path, name, names::dns_subdomain(&name.to_lowercase()));
}

fn opaque(config: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let path = path.child("opaque");
    let Some(opaque) = given(config, &["opaque"]) else {
        return errors.required(&path, "");
    };
    driver(opaque.str_at(&["driver"]), &path.child("driver"), errors);
    match given(opaque, &["parameters"]) {
        None => errors.required(&path.child("parameters"), ""),
        Some(Value::Object(_)) => {}
        Some(_) => errors.invalid(&path.child("parameters"), "<value omitted>", "must be a valid JSON object"),
    }
}

fn request(request: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let name = request.str_at(&["name"]);
    errors.invalid_each(&path.child("name"), name, names::dns_label(name));
    let several = request.list_at(&["firstAvailable"]);
    match (given(request, &["exactly"]), several.is_empty()) {
        (None, true) => errors.required(path, "exactly one of `exactly` or `firstAvailable` is required"),
        (Some(_), false) => {
            let detail = "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set";
            errors.invalid(path, Value::Null, detail);
        }
        (Some(exactly), true) => wish(exactly, &path.child("exactly"), errors),
        (None, false) => {
            let key = |item: &'_ Value| item.str_at(&["name"]).to_owned();
            let list = path.child("firstAvailable");
            if too_many(several, MAX_ALTERNATIVES, &list, errors) {
                return;
            }
            let mut seen = BTreeSet::new();
            for (at, item) in several.iter().enumerate() {
                let path = list.index(at);
                let name = item.str_at(&["name"]);
                errors.invalid_each(&path.child("name"), name, names::dns_label(name));
                wish(item, &path, errors);
                if !seen.insert(key(item)) {
                    errors.duplicate(&path, name);
                }
            }
        }
    }
}

/// What devices a request wants.
fn wish(wish: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    required_name(wish, "deviceClassName", names::dns_subdomain, path, errors);
    selectors(wish, path, errors);
    let count = wish.int_at(&["count"]).unwrap_or(0);
    match wish.str_at(&["allocationMode"]) {
        "All" if count != 0 => {
            errors.invalid(&path.child("count"), count, "must not be specified when allocationMode is 'All'");
        }
        "ExactCount" if count <= 0 => errors.invalid(&path.child("count"), count, "must be greater than zero"),
        "All" | "ExactCount" => {}
        mode => errors.not_supported(&path.child("allocationMode"), mode, &["All", "ExactCount"]),
    }
    let list = path.child("tolerations");
    for (at, toleration) in wish.list_at(&["tolerations"]).iter().enumerate() {
        tolerates(toleration, &list.index(at), errors);
    }
}

fn tolerates(toleration: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let (key, value) = (toleration.str_at(&["key"]), toleration.str_at(&["value"]));
    if !key.is_empty() {
        errors.invalid_each(&path.child("key"), key, names::qualified_name(key));
    }
    match toleration.str_at(&["operator"]) {
        "Exists" if !value.is_empty() => {
            errors.invalid(&path.child("value"), value, "must be empty for operator `Exists`");
        }
        "Exists" => {}
        "Equal" => errors.invalid_each(&path.child("value"), value, names::label_value(value)),
        "" => errors.required(&path.child("operator"), ""),
        other => errors.not_supported(&path.child("operator"), other, &["Equal", "Exists"]),
    }
    let effect = toleration.str_at(&["effect"]);
    if !matches!(effect, "" | "NoExecute" | "NoSchedule" | "None") {
        errors.not_supported(&path.child("effect"), effect, &["NoExecute", "NoSchedule", "None"]);
    }
}

fn selectors(owner: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let list = path.child("selectors");
    let all = owner.list_at(&["selectors"]);
    if too_many(all, MAX_ITEMS, &list, errors) {
        return;
    }
    for (at, selector) in all.iter().enumerate() {
        if given(selector, &["cel"]).is_none() {
            errors.required(&list.index(at).child("cel"), "");
        }
    }
}

pub(super) fn class(object: &Value, errors: &mut FieldErrors) {
    let (path, empty) = (Path::new("spec"), Value::object());
    let spec = object.get("spec").unwrap_or(&empty);
    selectors(spec, &path, errors);
    let list = path.child("config");
    for (at, config) in spec.list_at(&["config"]).iter().enumerate() {
        opaque(config, &list.index(at), errors);
    }
}

pub(super) fn slice(object: &Value, errors: &mut FieldErrors) {
    judge_slice(object, None, errors);
}

pub(super) fn slice_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    judge_slice(new, Some(old), errors);
}

fn judge_slice(object: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
    let (path, empty) = (Path::new("spec"), Value::object());
    let spec = object.get("spec").unwrap_or(&empty);
    driver(spec.str_at(&["driver"]), &path.child("driver"), errors);
    pool(spec.get("pool").unwrap_or(&empty), &path.child("pool"), errors);
    if let Some(old) = old {
        for (member, place) in [(&["spec", "pool", "name"][..], "pool.name"), (&["spec", "driver"], "driver")] {
            if object.str_at(member) != old.str_at(member) {
                errors.invalid(&path.child(place), object.str_at(member), IMMUTABLE);
            }
        }
        if !semantic_equal(spec.get("nodeName"), old.at(&["spec", "nodeName"])) {
            errors.invalid(&path.child("nodeName"), spec.get("nodeName").cloned().unwrap_or_default(), IMMUTABLE);
        }
    }
    place(spec, &path, errors);
    if given(spec, &["sharedCounters"]).is_some() && given(spec, &["devices"]).is_some() {
        errors.invalid(&path, "", "only one of `sharedCounters` or `devices` is allowed");
    }
    let key = |device: &'_ Value| device.str_at(&["name"]).to_owned();
    let (all, list) = (spec.list_at(&["devices"]), path.child("devices"));
    if too_many(all, MAX_DEVICES, &list, errors) {
        return;
    }
    let mut seen = BTreeSet::new();
    for (at, item) in all.iter().enumerate() {
        device(item, &list.index(at), errors);
        if !seen.insert(key(item)) {
            errors.duplicate(&list.index(at), key(item));
        }
    }
}

fn pool(pool: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let name = pool.str_at(&["name"]);
    if name.is_empty() {
        errors.required(&path.child("name"), "");
    } else {
        if name.len() > MAX_POOL_NAME {
            errors.too_long(&path.child("name"), MAX_POOL_NAME);
        }
        for part in name.split('/') {
            errors.invalid_each(&path.child("name"), part, names::dns_subdomain(part));
        }
    }
    let count = pool.int_at(&["resourceSliceCount"]).unwrap_or(0);
    if count <= 0 {
        errors.invalid(&path.child("resourceSliceCount"), count, "must be greater than zero");
    }
    if let Some(number) = pool.int_at(&["generation"]).filter(|number| *number < 0) {
        errors.invalid(&path.child("generation"), number, "must be greater than or equal to zero");
    }
}

/// Which nodes can use the devices: exactly one way to say it.
fn place(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    const ONE: &str = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    let mut ways = Vec::new();
    match given(spec, &["nodeName"]).and_then(Value::as_str) {
        Some("") => {
            errors.invalid(&path.child("nodeName"), "", "must be either unset or set to a non-empty string");
        }
        Some(name) => {
            ways.push("`nodeName`");
            errors.invalid_each(&path.child("nodeName"), name, names::dns_subdomain(name));
        }
        None => {}
    }
    if given(spec, &["nodeSelector"]).is_some() {
        ways.push("`nodeSelector`");
    }
    for (member, way) in [("allNodes", "`allNodes`"), ("perDeviceNodeSelection", "`perDeviceNodeSelection`")] {
        match spec.bool_at(&[member]) {
            Some(true) => ways.push(way),
            Some(false) => errors.invalid(&path.child(member), false, "must be either unset or set to true"),
            None => {}
        }
    }
    match ways.len() {
        0 => errors.required(path, ONE),
        1 => {}
        _ => errors.invalid(path, format!("{{{}}}", ways.join(", ")), format!("{ONE}, but multiple fields are set")),
    }
}

fn device(device: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let name = device.str_at(&["name"]);
    errors.invalid_each(&path.child("name"), name, names::dns_label(name));
    let list = path.child("attributes");
    for (name, attribute) in entries(device, &["attributes"]) {
        let path = list.key(name);
        qualified(name, &path, errors);
        let values = ["int", "bool", "string", "version"];
        match values.iter().filter(|value| given(attribute, &[value]).is_some()).count() {
            1 => {}
            0 => errors.invalid(&path, "", "exactly one value must be specified"),
            _ => errors.invalid(&path, attribute.clone(), "exactly one value must be specified"),
        }
        let text = attribute.str_at(&["string"]);
        if text.len() > MAX_ATTRIBUTE_TEXT {
            errors.too_long(&path.child("string"), MAX_ATTRIBUTE_TEXT);
        }
    }
    let list = path.child("capacity");
    for (name, _) in entries(device, &["capacity"]) {
        qualified(name, &list.key(name), errors);
    }
    let _ = texts(device, &["bindingConditions"]);
}

#[cfg(test)]
mod tests {
    use super::super::check::tests::{creates, updates};
    use crate::strategy::KindRef;
    use serde_json::json;

    #[test]
    fn claims() {
        let kind = KindRef::builtin("resource.k8s.io", "ResourceClaim", true);
        let requests = |requests: serde_json::Value| json!({"spec": {"devices": {"requests": requests}}});
        let base = json!({"metadata": {"name": "c", "namespace": "n"}});
        creates(
            kind,
            &base,
            &[
                (json!({}), &[]),
                (
                    requests(json!([{"name": "r"}])),
                    &[
                        "spec.devices.requests[0]: Required value: exactly one of `exactly` or `firstAvailable` is required",
                    ],
                ),
                (
                    requests(
                        json!([{"name": "r", "exactly": {"deviceClassName": "c", "allocationMode": "All", "count": 1}}]),
                    ),
                    &[
                        "spec.devices.requests[0].exactly.count: Invalid value: 1: must not be specified when allocationMode is 'All'",
                    ],
                ),
                (
                    requests(json!([{"name": "r", "exactly": {"allocationMode": "ExactCount", "count": 1}}])),
                    &["spec.devices.requests[0].exactly.deviceClassName: Required value"],
                ),
            ],
        );
        let changed = requests(json!([]));
        updates(kind, &base, &[(json!({}), &[]), (changed, &[])]);
    }
}
