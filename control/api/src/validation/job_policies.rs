//! What a Job makes of failed and of successful pods.

use std::collections::BTreeSet;

use super::check::{NEGATIVE, given};
use crate::names;
use crate::{FieldErrors, Path, Value};

const MAX_RULES: usize = 20;
const MAX_PATTERNS: usize = 20;
const MAX_CODES: usize = 255;
const MAX_INDEXES_TEXT: usize = 64 * 1024;

/// Choices as Go prints a list of texts.
fn choices(known: &[&str]) -> String {
    let quoted: Vec<String> = known.iter().map(|name| format!("{name:?}")).collect();
    format!("valid values: [{}]", quoted.join(" "))
}

fn chosen(value: &Value, member: &str, known: &[&str], path: &Path<'_>, errors: &mut FieldErrors) {
    match value.str_at(&[member]) {
        "" => errors.required(&path.child(member), choices(known)),
        text if known.contains(&text) => {}
        text => errors.not_supported(&path.child(member), text, known),
    }
}

pub(super) fn failure_policy(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let rules = spec.list_at(&["podFailurePolicy", "rules"]);
    let list = path.child("rules");
    if rules.len() > MAX_RULES {
        errors.too_many(&list, rules.len(), MAX_RULES);
    }
    let containers: Vec<&str> = ["containers", "initContainers"]
        .iter()
        .flat_map(|list| spec.list_at(&["template", "spec", list]))
        .map(|container| container.str_at(&["name"]))
        .collect();
    for (at, rule) in rules.iter().enumerate() {
        failure_rule(spec, rule, &containers, &list.index(at), errors);
    }
}

fn failure_rule(spec: &Value, rule: &Value, containers: &[&str], path: &Path<'_>, errors: &mut FieldErrors) {
    if rule.str_at(&["action"]) == "FailIndex" {
        if given(spec, &["backoffLimitPerIndex"]).is_none() {
            errors.invalid(&path.child("action"), "FailIndex", "requires the backoffLimitPerIndex to be set");
        }
    } else {
        chosen(rule, "action", &["Count", "FailIndex", "FailJob", "Ignore"], path, errors);
    }
    let codes = given(rule, &["onExitCodes"]);
    if let Some(codes) = codes {
        exit_codes(codes, containers, &path.child("onExitCodes"), errors);
    }
    let conditions = rule.list_at(&["onPodConditions"]);
    let list = path.child("onPodConditions");
    if conditions.len() > MAX_PATTERNS {
        errors.too_many(&list, conditions.len(), MAX_PATTERNS);
    }
    for (at, condition) in conditions.iter().enumerate() {
        let name = condition.str_at(&["type"]);
        errors.invalid_each(&list.index(at).child("type"), name, names::qualified_name(name));
        chosen(condition, "status", &["False", "True", "Unknown"], &list.index(at), errors);
    }
    match (codes.is_some(), conditions.is_empty()) {
        (true, false) => {
            errors.invalid_unshown(path, "specifying both OnExitCodes and OnPodConditions is not supported");
        }
        (false, true) => {
            errors.invalid_unshown(path, "specifying one of OnExitCodes and OnPodConditions is required");
        }
        _ => {}
    }
}

fn exit_codes(codes: &Value, containers: &[&str], path: &Path<'_>, errors: &mut FieldErrors) {
    chosen(codes, "operator", &["In", "NotIn"], path, errors);
    if let Some(name) = given(codes, &["containerName"]).and_then(Value::as_str)
        && !containers.contains(&name)
    {
        let detail = "must be one of the container or initContainer names in the pod template";
        errors.invalid(&path.child("containerName"), name, detail);
    }
    let (values, list) = (codes.list_at(&["values"]), path.child("values"));
    if values.is_empty() {
        errors.invalid(&list, codes.get("values").cloned().unwrap_or_default(), "at least one value is required");
    } else if values.len() > MAX_CODES {
        errors.too_many(&list, values.len(), MAX_CODES);
    }
    let numbers: Vec<i64> = values.iter().map(|value| value.as_int().unwrap_or(0)).collect();
    let mut seen = BTreeSet::new();
    for (at, number) in numbers.iter().enumerate() {
        if codes.str_at(&["operator"]) == "In" && *number == 0 {
            errors.invalid(&list.index(at), 0, "must not be 0 for the In operator");
        }
        if !seen.insert(*number) {
            errors.duplicate(&list.index(at), *number);
        }
    }
    if !numbers.is_sorted() {
        errors.invalid(&list, Value::List(values.to_vec()), "must be ordered");
    }
}

pub(super) fn success_policy(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let Some(policy) = given(spec, &["successPolicy"]) else { return };
    let (rules, list) = (policy.list_at(&["rules"]), path.child("rules"));
    if rules.is_empty() {
        errors.required(&list, "at least one rules must be specified when the successPolicy is specified");
    }
    if rules.len() > MAX_RULES {
        errors.too_many(&list, rules.len(), MAX_RULES);
    }
    let completions = spec.int_at(&["completions"]).unwrap_or(0);
    for (at, rule) in rules.iter().enumerate() {
        success_rule(rule, completions, &list.index(at), errors);
    }
}

fn success_rule(rule: &Value, completions: i64, path: &Path<'_>, errors: &mut FieldErrors) {
    let indexes = given(rule, &["succeededIndexes"]).and_then(Value::as_str);
    let count = rule.int_at(&["succeededCount"]);
    if indexes.is_none() && count.is_none() {
        errors.required(path, "at least one of succeededCount or succeededIndexes must be specified");
    }
    let mut total = 0;
    if let Some(indexes) = indexes {
        let place = path.child("succeededIndexes");
        if indexes.len() > MAX_INDEXES_TEXT {
            errors.too_long(&place, MAX_INDEXES_TEXT);
        }
        match count_indexes(indexes, completions) {
            Ok(number) => total = number,
            Err(problem) => errors.invalid(&place, indexes, format!("error parsing succeededIndexes: {problem}")),
        }
    }
    let Some(count) = count else { return };
    let place = path.child("succeededCount");
    if count < 0 {
        errors.invalid(&place, count, NEGATIVE);
    }
    if count > completions {
        let detail = format!("must be less than or equal to {completions} (the number of specified completions)");
        errors.invalid(&place, count, detail);
    }
    if indexes.is_some() && count > total {
        let detail = format!(
            "must be less than or equal to {total} (the number of indexes in the specified succeededIndexes field)"
        );
        errors.invalid(&place, count, detail);
    }
}

/// How many indexes a text like `0-2,5` names.
fn count_indexes(text: &str, completions: i64) -> Result<i64, String> {
    let mut total = 0;
    let mut last: Option<i64> = None;
    for part in text.split(',').filter(|_| !text.is_empty()) {
        let limits: Vec<&str> = part.split('-').collect();
        if limits.len() > 2 {
            return Err(format!(
                "the fragment {part:?} violates the requirement that an index interval can have at most two parts separated by '-'"
            ));
        }
        let index = |text: &str| {
            let number: i64 =
                text.parse().map_err(|_| format!("cannot convert string to integer for index: {text:?}"))?;
            if number >= completions { Err(format!("too large index: {text:?}")) } else { Ok(number) }
        };
        let first = index(limits[0])?;
        let end = limits.get(1).map_or(Ok(first), |text| index(text))?;
        if limits.len() > 1 && first >= end {
            return Err(format!("non-increasing order, previous: {first}, current: {end}"));
        }
        if let Some(last) = last.filter(|last| *last >= first) {
            return Err(format!("non-increasing order, previous: {last}, current: {first}"));
        }
        total += end - first + 1;
        last = Some(end);
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_are_counted() {
        for (text, completions, expected) in [
            ("", 3, Ok(0)),
            ("0-2,5", 6, Ok(4)),
            ("0", 0, Err("too large index: \"0\"")),
            ("a", 3, Err("cannot convert string to integer for index: \"a\"")),
            ("2,1", 3, Err("non-increasing order, previous: 2, current: 1")),
            ("1-1", 3, Err("non-increasing order, previous: 1, current: 1")),
        ] {
            assert_eq!(count_indexes(text, completions), expected.map_err(str::to_owned), "{text}");
        }
    }
}
