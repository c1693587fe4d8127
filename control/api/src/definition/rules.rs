//! The rules that a definition must keep: names, versions, columns, subresources, conversion.

use std::collections::BTreeSet;

use super::schema_rules;
use super::status::{APPROVAL, approval, is_established, is_protected};
use crate::strategy::semantic_equal;
use crate::{FieldErrors, Path, Value, names};

/// Selectable fields of one version.
const MAX_SELECTABLE: usize = 8;
/// Bytes of a deprecation warning.
const MAX_WARNING: usize = 256;
const COLUMN_TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
const COLUMN_FORMATS: [&str; 8] = ["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];

fn given<'a>(value: &'a Value, path: &[&str]) -> Option<&'a Value> {
    value.at(path).filter(|value| !value.is_null())
}

fn texts<'a>(value: &'a Value, member: &str) -> Vec<&'a str> {
    value.list_at(&[member]).iter().map(|item| item.as_str().unwrap_or("")).collect()
}

/// Judges a definition; with `old`, what has been there is judged more mildly where upstream does.
pub(crate) fn validate(object: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
    let (path, empty) = (Path::new("spec"), Value::object());
    let spec = object.get("spec").unwrap_or(&empty);
    let group = spec.str_at(&["group"]);
    let place = path.child("group");
    let broken = names::dns_subdomain(group);
    if group.is_empty() {
        errors.required(&place, "");
    } else if !broken.is_empty() {
        errors.invalid(&place, group, broken.join(","));
    } else if !group.contains('.') {
        errors.invalid(&place, group, "should be a domain with at least one dot");
    }
    match spec.str_at(&["scope"]) {
        "" => errors.required(&path.child("scope"), ""),
        "Cluster" | "Namespaced" => {}
        other => errors.not_supported(&path.child("scope"), other, &["Cluster", "Namespaced"]),
    }
    let shared = Shared::of(spec);
    versions(spec, old, &shared, &path, errors);
    let place = path.child("names");
    for member in ["plural", "singular", "kind", "listKind"] {
        if spec.str_at(&["names", member]).is_empty() {
            errors.required(&place.child(member), "");
        }
    }
    declared_names(spec.get("names").unwrap_or(&empty), &place, errors);
    shared_parts(spec, old, &shared, &path, errors);
    conversion(spec, &path.child("conversion"), errors);
    if let Some(old) = old {
        fixed(object, old, errors);
    }
    stored_versions(object, errors);
    approved(object, old, errors);
    let kept = old.is_some_and(|old| old.bool_at(&["spec", "preserveUnknownFields"]) == Some(true));
    if spec.bool_at(&["preserveUnknownFields"]) == Some(true) && !kept {
        let detail =
            "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        errors.invalid(&path.child("preserveUnknownFields"), true, detail);
    }
}

fn fixed(object: &Value, old: &Value, errors: &mut FieldErrors) {
    let mut immutable = |members: &[&str]| {
        if !semantic_equal(object.at(members), old.at(members)) {
            let shown = object.at(members).cloned().unwrap_or_default();
            errors.invalid(&Path::new(&members.join(".")), shown, "field is immutable");
        }
    };
    if is_established(old) {
        immutable(&["spec", "scope"]);
        immutable(&["spec", "names", "kind"]);
    }
    immutable(&["spec", "group"]);
    immutable(&["spec", "names", "plural"]);
}

/// What all versions have in common. It is judged once, and reported at the places that a definition of the first
/// generation had for it; clients know those.
struct Shared {
    schema: bool,
    subresources: bool,
    columns: bool,
    selectable: bool,
}

impl Shared {
    fn of(spec: &Value) -> Self {
        let versions = spec.list_at(&["versions"]);
        let same = |member: &str| versions.iter().all(|one| semantic_equal(one.get(member), versions[0].get(member)));
        Self {
            schema: same("schema"),
            subresources: same("subresources"),
            columns: same("additionalPrinterColumns"),
            selectable: same("selectableFields"),
        }
    }
}

/// The version of the same name in the definition before.
fn before<'a>(old: Option<&'a Value>, name: &str) -> Option<&'a Value> {
    old?.list_at(&["spec", "versions"]).iter().find(|other| other.str_at(&["name"]) == name)
}

/// What was accepted once stays accepted: schemas are judged when they change.
fn schema_stays(version: &Value, old: Option<&Value>) -> bool {
    const SCHEMA: [&str; 2] = ["schema", "openAPIV3Schema"];
    before(old, version.str_at(&["name"])).is_some_and(|before| before.at(&SCHEMA) == version.at(&SCHEMA))
}

fn has_status(version: &Value) -> bool {
    given(version, &["subresources", "status"]).is_some()
}

fn versions(spec: &Value, old: Option<&Value>, shared: &Shared, path: &Path<'_>, errors: &mut FieldErrors) {
    let list = path.child("versions");
    let declared = spec.list_at(&["versions"]);
    for (at, _) in declared.iter().enumerate().filter(|(_, one)| given(one, &["schema", "openAPIV3Schema"]).is_none()) {
        errors.required(&list.index(at).child("schema.openAPIV3Schema"), "");
    }
    let mut seen = BTreeSet::new();
    let mut unique = true;
    for (at, one) in declared.iter().enumerate() {
        let path = list.index(at);
        let name = one.str_at(&["name"]);
        unique &= seen.insert(name);
        let broken = names::dns1035_label(name);
        if !broken.is_empty() {
            errors.invalid(&path.child("name"), name, broken.join(","));
        }
        version(one, old, shared, &path, errors);
    }
    let shown = || spec.get("versions").cloned().unwrap_or_default();
    if !unique {
        errors.invalid(&list, shown(), "must contain unique version names");
    }
    if declared.iter().filter(|one| one.bool_at(&["storage"]) == Some(true)).count() != 1 {
        errors.invalid(&list, shown(), "must have exactly one version marked as storage version");
    }
    let first = declared.first().map_or("", |version| version.str_at(&["name"]));
    let broken = names::dns1035_label(first);
    if !first.is_empty() && !broken.is_empty() {
        errors.invalid(&path.child("version"), first, broken.join(","));
    }
}

fn deprecation(version: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let Some(warning) = version.get("deprecationWarning").and_then(Value::as_str) else { return };
    let place = path.child("deprecationWarning");
    if version.bool_at(&["deprecated"]) != Some(true) {
        return errors.invalid(&place, warning, "can only be set for deprecated versions");
    }
    if warning.len() > MAX_WARNING {
        errors.invalid(&place, warning, format!("must be <= {MAX_WARNING} characters long"));
    }
    if warning.is_empty() {
        errors.invalid(&place, warning, "must not be an empty string");
    }
    if let Some((at, _)) = warning.char_indices().find(|(_, c)| c.is_control()) {
        let detail =
            format!("must only contain printable UTF-8 characters; non-printable character found at index {at}");
        errors.invalid(&place, warning, detail);
    }
}

/// What one version has of its own.
fn version(version: &Value, old: Option<&Value>, shared: &Shared, path: &Path<'_>, errors: &mut FieldErrors) {
    deprecation(version, path, errors);
    let schema = given(version, &["schema", "openAPIV3Schema"]).filter(|_| !shared.schema);
    if let Some(schema) = schema.filter(|_| !schema_stays(version, old)) {
        schema_rules::validate(schema, &path.child("schema.openAPIV3Schema"), has_status(version), errors);
    }
    if !shared.subresources {
        scale_paths(version, path, errors);
    }
    if !shared.columns {
        columns(version, path, errors);
    }
    if !shared.selectable && !version.list_at(&["selectableFields"]).is_empty() {
        let list = path.child("selectableFields");
        match schema {
            Some(schema) => selectable(version, schema, &list, errors),
            None => errors.invalid(&list, "", "may only be set when `version.schema.openAPIV3Schema` is not included"),
        }
    }
}

/// What all versions have in common.
fn shared_parts(spec: &Value, old: Option<&Value>, shared: &Shared, path: &Path<'_>, errors: &mut FieldErrors) {
    let declared = spec.list_at(&["versions"]);
    let Some(first) = declared.first() else { return };
    let schema = given(first, &["schema", "openAPIV3Schema"]).filter(|_| shared.schema);
    if let Some(schema) = schema.filter(|_| !declared.iter().all(|version| schema_stays(version, old))) {
        let status = declared.iter().any(has_status);
        schema_rules::validate(schema, &path.child("validation.openAPIV3Schema"), status, errors);
    }
    if shared.subresources {
        scale_paths(first, path, errors);
    }
    if shared.columns {
        columns(first, path, errors);
    }
    if shared.selectable && !first.list_at(&["selectableFields"]).is_empty() {
        let list = path.child("selectableFields");
        match schema {
            Some(schema) => selectable(first, schema, &list, errors),
            None => errors.invalid(&list, "", "may only be set when validations.schema is included"),
        }
    }
}

fn simple_path(text: &str, path: &Path<'_>, errors: &mut FieldErrors) -> bool {
    if !text.starts_with('.') {
        errors.invalid(path, text, "must be a simple json path starting with .");
        return false;
    }
    true
}

fn scale_paths(version: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let Some(scale) = given(version, &["subresources", "scale"]) else { return };
    let path = path.child("subresources");
    for (member, roots, needed) in [
        ("specReplicasPath", &[".spec."][..], true),
        ("statusReplicasPath", &[".status."], true),
        ("labelSelectorPath", &[".spec.", ".status."], false),
    ] {
        let joined = format!("scale.{member}");
        let place = path.child(&joined);
        let text = scale.str_at(&[member]);
        if text.is_empty() {
            if needed {
                errors.required(&place, "");
            }
        } else if simple_path(text, &place, errors) && !roots.iter().any(|root| text.starts_with(root)) {
            let under = match roots {
                [one] => one.trim_end_matches('.').to_owned(),
                _ => "either .spec or .status".to_owned(),
            };
            errors.invalid(&place, text, format!("should be a json path under {under}"));
        }
    }
}

fn columns(version: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let list = path.child("additionalPrinterColumns");
    for (at, one) in version.list_at(&["additionalPrinterColumns"]).iter().enumerate() {
        column(one, &list.index(at), errors);
    }
}

fn column(column: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    if column.str_at(&["name"]).is_empty() {
        errors.required(&path.child("name"), "");
    }
    let (kind, format, json_path) =
        (column.str_at(&["type"]), column.str_at(&["format"]), column.str_at(&["jsonPath"]));
    let known = || format!("must be one of {}", COLUMN_TYPES.join(","));
    if kind.is_empty() {
        errors.required(&path.child("type"), known());
    } else if !COLUMN_TYPES.contains(&kind) {
        errors.invalid(&path.child("type"), kind, known());
    }
    if !format.is_empty() && !COLUMN_FORMATS.contains(&format) {
        errors.invalid(&path.child("format"), format, format!("must be one of {}", COLUMN_FORMATS.join(",")));
    }
    if json_path.is_empty() {
        errors.required(&path.child("JSONPath"), "");
    } else {
        simple_path(json_path, &path.child("JSONPath"), errors);
    }
}

fn selectable(version: &Value, schema: &Value, list: &Path<'_>, errors: &mut FieldErrors) {
    let mut seen = BTreeSet::new();
    for (at, field) in version.list_at(&["selectableFields"]).iter().enumerate() {
        let path = list.index(at);
        let place = path.child("jsonPath");
        let text = field.str_at(&["jsonPath"]);
        if text.is_empty() {
            errors.required(&place, "");
            continue;
        }
        let members: Vec<&str> = text.trim_start_matches('.').split('.').collect();
        let mut node = Some(schema);
        for member in &members {
            node = node.and_then(|node| node.at(&["properties", member]));
        }
        let Some(node) = node.filter(|_| text.starts_with('.') && !text.contains(['[', ']'])) else {
            errors.invalid(&place, text, "is an invalid path: does not refer to a valid field");
            continue;
        };
        if members.first() == Some(&"metadata") {
            errors.invalid(&place, text, "must not point to fields in metadata");
        }
        if !matches!(node.str_at(&["type"]), "string" | "boolean" | "integer") {
            let detail = "must point to a field of type string, boolean or integer. Enum string fields and strings with \
                          formats are allowed.";
            errors.invalid(&place, text, detail);
        }
        if !seen.insert(text) {
            errors.duplicate(&place, text);
        }
    }
    if seen.len() > MAX_SELECTABLE {
        errors.too_many(list, seen.len(), MAX_SELECTABLE);
    }
}

fn declared_names(all: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    for member in ["plural", "singular"] {
        let name = all.str_at(&[member]);
        let broken = names::dns1035_label(name);
        if !name.is_empty() && !broken.is_empty() {
            errors.invalid(&path.child(member), name, broken.join(","));
        }
    }
    for member in ["kind", "listKind"] {
        let name = all.str_at(&[member]);
        let broken = names::dns1035_label(&name.to_lowercase());
        if !name.is_empty() && !broken.is_empty() {
            let detail = format!("may have mixed case, but should otherwise match: {}", broken.join(","));
            errors.invalid(&path.child(member), name, detail);
        }
    }
    let lists = |member: &str, errors: &mut FieldErrors| {
        let list = path.child(member);
        for (at, name) in texts(all, member).into_iter().enumerate() {
            let broken = names::dns1035_label(name);
            if !broken.is_empty() {
                errors.invalid(&list.index(at), name, broken.join(","));
            }
        }
    };
    lists("shortNames", errors);
    let kind = all.str_at(&["kind"]);
    if !kind.is_empty() && kind == all.str_at(&["listKind"]) {
        errors.invalid(&path.child("listKind"), kind, "kind and listKind may not be the same");
    }
    lists("categories", errors);
}

fn conversion(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let Some(conversion) = given(spec, &["conversion"]) else { return };
    let strategy = conversion.str_at(&["strategy"]);
    match strategy {
        "" => errors.required(&path.child("strategy"), ""),
        "None" | "Webhook" => {}
        other => errors.not_supported(&path.child("strategy"), other, &["None", "Webhook"]),
    }
    let client = path.child("webhookClientConfig");
    let reviews = path.child("conversionReviewVersions");
    let webhook = given(conversion, &["webhook"]);
    if strategy != "Webhook" {
        if webhook.is_some() {
            errors.forbidden(&client, "should not be set when strategy is not set to Webhook");
        }
        return;
    }
    match webhook.and_then(|webhook| given(webhook, &["clientConfig"])) {
        None => errors.required(&client, "required when strategy is set to Webhook"),
        Some(config) => crate::validation::webhook_client(config, &client, errors),
    }
    let versions = webhook.map(|webhook| texts(webhook, "conversionReviewVersions")).unwrap_or_default();
    if versions.is_empty() {
        return errors.required(&reviews, "");
    }
    let mut seen = BTreeSet::new();
    for (at, version) in versions.iter().enumerate() {
        if !seen.insert(version) {
            errors.invalid(&reviews.index(at), *version, "duplicate version");
            continue;
        }
        errors.invalid_each(&reviews.index(at), version, names::dns1035_label(version));
    }
    if !versions.iter().any(|version| matches!(*version, "v1" | "v1beta1")) {
        let shown = webhook.and_then(|webhook| webhook.get("conversionReviewVersions")).cloned().unwrap_or_default();
        errors.invalid(&reviews, shown, "must include at least one of v1, v1beta1");
    }
}

fn stored_versions(object: &Value, errors: &mut FieldErrors) {
    let list = Path::new("status.storedVersions");
    let mut stored = object.at(&["status"]).map(|status| texts(status, "storedVersions")).unwrap_or_default();
    let shown = || object.at(&["status", "storedVersions"]).cloned().unwrap_or_default();
    if stored.is_empty() {
        return errors.invalid(&list, shown(), "must have at least one stored version");
    }
    let declared = object.list_at(&["spec", "versions"]);
    let all = stored.clone();
    for version in declared {
        let name = version.str_at(&["name"]);
        if !stored.contains(&name) && version.bool_at(&["storage"]) == Some(true) {
            errors.invalid(&list, shown(), format!("must have the storage version {name}"));
        }
        // A name counts once: a second version of it finds none stored.
        stored.retain(|one| *one != name);
    }
    for (at, name) in all.iter().enumerate() {
        if stored.contains(name) {
            let detail = format!(
                "missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions \
                 until a storage migration ensures no data remains persisted in {name} and removes {name} from \
                 status.storedVersions"
            );
            errors.invalid(&list.index(at), *name, detail);
        }
    }
}

fn approved(object: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
    if !is_protected(object.str_at(&["spec", "group"])) {
        return;
    }
    let state = |object: &Value| approval(object.str_at(&["metadata", "annotations", APPROVAL]));
    let (_, reason, message) = state(object);
    if old.is_some_and(|old| state(old).1 == reason) {
        return;
    }
    let annotations = Path::new("metadata.annotations");
    let place = annotations.key(APPROVAL);
    match reason {
        "MissingAnnotation" => errors.required(&place, message),
        "InvalidAnnotation" => {
            errors.invalid(&place, object.str_at(&["metadata", "annotations", APPROVAL]), message);
        }
        _ => {}
    }
}
