//! Small rules that many kinds share, and short ways to read an object.

use crate::strategy::semantic_equal;
use crate::{FieldErrors, Path, Quantity, Value, names};

pub(super) const IMMUTABLE: &str = "field is immutable";
pub(super) const NEGATIVE: &str = "must be greater than or equal to 0";
pub(super) const NOT_POSITIVE: &str = "must be greater than 0";
pub(super) const NOT_WHOLE: &str = "must be an integer";

/// A rule for a name.
pub(super) type NameRule = fn(&str) -> Vec<String>;

/// The member at a path, unless absent or `null`.
pub(super) fn given<'a>(value: &'a Value, path: &[&str]) -> Option<&'a Value> {
    value.at(path).filter(|value| !value.is_null())
}

/// Text of a list's items.
pub(super) fn texts<'a>(value: &'a Value, path: &[&str]) -> Vec<&'a str> {
    value.list_at(path).iter().map(|item| item.as_str().unwrap_or("")).collect()
}

/// The entries of a map.
pub(super) fn entries<'a>(value: &'a Value, path: &[&str]) -> impl Iterator<Item = (&'a str, &'a Value)> {
    value.at(path).and_then(Value::as_object).into_iter().flat_map(|map| map.iter().map(|(k, v)| (k.as_str(), v)))
}

/// `new` must equal `old` at `path`.
pub(super) fn immutable(new: &Value, old: &Value, path: &[&str], errors: &mut FieldErrors) {
    if !semantic_equal(new.at(path), old.at(path)) {
        // What is gone is shown as the empty value of what it was.
        let shown = new.at(path).cloned().unwrap_or_else(|| match old.at(path) {
            Some(Value::String(_)) => "".into(),
            Some(Value::Int(_)) => 0.into(),
            Some(Value::Bool(_)) => false.into(),
            _ => Value::Null,
        });
        errors.invalid(&Path::new(&path.join(".")), shown, IMMUTABLE);
    }
}

pub(super) fn nonnegative(value: Option<i64>, path: &Path<'_>, errors: &mut FieldErrors) {
    if let Some(number) = value.filter(|number| *number < 0) {
        errors.invalid(path, number, NEGATIVE);
    }
}

/// A member that, when given, must not be negative.
pub(super) fn nonnegative_at(value: &Value, member: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    nonnegative(value.int_at(&[member]), &path.child(member), errors);
}

/// A member that must be given, one of `known`.
pub(super) fn one_of(value: &Value, member: &str, known: &[&str], path: &Path<'_>, errors: &mut FieldErrors) {
    match value.str_at(&[member]) {
        "" => errors.required(&path.child(member), ""),
        text if known.contains(&text) => {}
        text => errors.not_supported(&path.child(member), text, known),
    }
}

/// A member that, when given, must be one of `known`.
pub(super) fn maybe_one_of(value: &Value, member: &str, known: &[&str], path: &Path<'_>, errors: &mut FieldErrors) {
    if !value.str_at(&[member]).is_empty() {
        one_of(value, member, known, path, errors);
    }
}

/// A member that, when given and be it an empty text, must be one of `known`.
pub(super) fn known_if_given(value: &Value, member: &str, known: &[&str], path: &Path<'_>, errors: &mut FieldErrors) {
    if let Some(text) = given(value, &[member]).and_then(Value::as_str)
        && !known.contains(&text)
    {
        errors.not_supported(&path.child(member), text, known);
    }
}

/// A member that must be given and not empty.
pub(super) fn required<'a>(value: &'a Value, member: &str, path: &Path<'_>, errors: &mut FieldErrors) -> &'a str {
    let text = value.str_at(&[member]);
    if text.is_empty() {
        errors.required(&path.child(member), "");
    }
    text
}

/// A member that must be given and obey a rule.
pub(super) fn required_name(value: &Value, member: &str, rule: NameRule, path: &Path<'_>, errors: &mut FieldErrors) {
    let text = required(value, member, path, errors);
    if !text.is_empty() {
        errors.invalid_each(&path.child(member), text, rule(text));
    }
}

/// A member that, when given, must obey a rule.
pub(super) fn maybe_name(value: &Value, member: &str, rule: NameRule, path: &Path<'_>, errors: &mut FieldErrors) {
    let text = value.str_at(&[member]);
    if !text.is_empty() {
        errors.invalid_each(&path.child(member), text, rule(text));
    }
}

/// A member that, when given and be it an empty text, must obey a rule.
pub(super) fn name_if_given(value: &Value, member: &str, rule: NameRule, path: &Path<'_>, errors: &mut FieldErrors) {
    if let Some(text) = given(value, &[member]).and_then(Value::as_str) {
        errors.invalid_each(&path.child(member), text, rule(text));
    }
}

/// A port: a number, or the name of one.
pub(super) fn port_or_name(value: Option<&Value>, path: &Path<'_>, errors: &mut FieldErrors) {
    match value {
        Some(Value::String(name)) => errors.invalid_each(path, name, names::port_name(name)),
        other => {
            let number = other.and_then(Value::as_int).unwrap_or(0);
            for message in names::port_number(number) {
                errors.invalid(path, number, message);
            }
        }
    }
}

/// The number of a port.
pub(super) fn port(value: &Value, member: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    let number = value.int_at(&[member]).unwrap_or(0);
    for message in names::port_number(number) {
        errors.invalid(&path.child(member), number, message);
    }
}

/// Keys and values of labels.
pub(super) fn labels(labels: Option<&Value>, path: &Path<'_>, errors: &mut FieldErrors) {
    for (key, value) in labels.into_iter().flat_map(|labels| entries(labels, &[])) {
        errors.invalid_each(path, key, names::qualified_name(key));
        let value = value.as_str().unwrap_or("");
        errors.invalid_each(path, value, names::label_value(value));
    }
}

/// A `LabelSelector`.
pub(super) fn label_selector(selector: Option<&Value>, path: &Path<'_>, errors: &mut FieldErrors) {
    let Some(selector) = selector.filter(|selector| !selector.is_null()) else { return };
    labels(selector.get("matchLabels"), &path.child("matchLabels"), errors);
    let list = path.child("matchExpressions");
    for (at, expression) in selector.list_at(&["matchExpressions"]).iter().enumerate() {
        requirement(expression, &list.index(at), errors);
    }
}

fn requirement(expression: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let values = texts(expression, &["values"]);
    match expression.str_at(&["operator"]) {
        "In" | "NotIn" => {
            if values.is_empty() {
                let detail = "must be specified when `operator` is 'In' or 'NotIn'";
                errors.required(&path.child("values"), detail);
            }
        }
        "Exists" | "DoesNotExist" => {
            if !values.is_empty() {
                let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.forbidden(&path.child("values"), detail);
            }
        }
        other => errors.invalid(&path.child("operator"), other, "not a valid selector operator"),
    }
    let key = expression.str_at(&["key"]);
    errors.invalid_each(&path.child("key"), key, names::qualified_name(key));
    let list = path.child("values");
    for (at, value) in values.iter().enumerate() {
        errors.invalid_each(&list.index(at), value, names::label_value(value));
    }
}

/// Whether a `LabelSelector` has no requirement at all.
pub(super) fn selector_is_empty(selector: &Value) -> bool {
    selector.list_at(&["matchExpressions"]).is_empty() && entries(selector, &["matchLabels"]).next().is_none()
}

/// An amount; nothing when it cannot be read (the schema refuses that).
pub(super) fn quantity(value: &Value) -> Quantity {
    Quantity::from_value(value).unwrap_or_default()
}

/// A number or a percentage that must not be negative.
pub(super) fn int_or_percent(value: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    match value {
        Value::String(text) => {
            errors.invalid_each(path, text, names::percent(text));
        }
        other => nonnegative(other.as_int(), path, errors),
    }
}

/// The percentage of a text like `10%`.
pub(super) fn percentage(value: &Value) -> Option<i64> {
    value.as_str()?.strip_suffix('%')?.parse().ok()
}

/// Whether an address field of old accepts this text: it did before, or it is an address.
pub(super) fn legacy(text: &str, before: &[&str], rule: NameRule, path: &Path<'_>, errors: &mut FieldErrors) -> bool {
    if before.contains(&text) {
        return true;
    }
    let broken = rule(text);
    let fine = broken.is_empty();
    errors.invalid_each(path, text, broken);
    fine
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::{validate_create, validate_status_update, validate_update};
    use super::*;
    use crate::strategy::KindRef;
    use serde_json::Value as Json;

    /// What a table of cases says: change the base by an RFC 7386 patch and expect these messages.
    pub(crate) fn merged(base: &Json, patch: &Json) -> Json {
        let (Json::Object(base), Json::Object(patch)) = (base, patch) else { return patch.clone() };
        let mut out = base.clone();
        for (key, value) in patch {
            if value.is_null() {
                out.remove(key);
            } else {
                let merged = merged(out.get(key).unwrap_or(&Json::Null), value);
                out.insert(key.clone(), merged);
            }
        }
        Json::Object(out)
    }

    fn lines(errors: &FieldErrors) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    pub(crate) fn creates(kind: KindRef<'_>, base: &Json, cases: &[(Json, &[&str])]) {
        for (patch, expected) in cases {
            let object = Value::from(merged(base, patch));
            assert_eq!(lines(&validate_create(kind, &object)), *expected, "{patch}");
        }
    }

    pub(crate) fn updates(kind: KindRef<'_>, base: &Json, cases: &[(Json, &[&str])]) {
        let base = merged(base, &serde_json::json!({"metadata": {"resourceVersion": "1"}}));
        for (patch, expected) in cases {
            let (new, old) = (Value::from(merged(&base, patch)), Value::from(base.clone()));
            assert_eq!(lines(&validate_update(kind, &new, &old)), *expected, "{patch}");
        }
    }

    pub(crate) fn status_updates(kind: KindRef<'_>, base: &Json, cases: &[(Json, &[&str])]) {
        let base = merged(base, &serde_json::json!({"metadata": {"resourceVersion": "1"}}));
        for (patch, expected) in cases {
            let (new, old) = (Value::from(merged(&base, patch)), Value::from(base.clone()));
            assert_eq!(lines(&validate_status_update(kind, &new, &old)), *expected, "{patch}");
        }
    }

    #[test]
    fn selectors_are_judged() {
        let selector = Value::from(serde_json::json!({"matchExpressions": [
            {"key": "a", "operator": "In"},
            {"key": "a", "operator": "Exists", "values": ["b"]},
            {"key": "a", "operator": "Like"},
            {"key": "", "operator": "In", "values": ["ok"]},
        ]}));
        let mut errors = FieldErrors::new();
        label_selector(Some(&selector), &Path::new("s"), &mut errors);
        let got = lines(&errors);
        assert_eq!(
            got[..3],
            [
                "s.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
                "s.matchExpressions[1].values: Forbidden: may not be specified when `operator` is 'Exists' or \
                 'DoesNotExist'",
                "s.matchExpressions[2].operator: Invalid value: \"Like\": not a valid selector operator",
            ]
        );
        assert!(got[3].starts_with("s.matchExpressions[3].key: Invalid value: \"\": name part must be non-empty"));
    }
}
