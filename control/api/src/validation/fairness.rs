//! Priority and fairness: which requests belong together, and how much they get.

use super::check::{given, texts};
use crate::names;
use crate::{FieldErrors, Path, Value};

const VERBS: [&str; 9] = ["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];
const ALL: &str = "*";

fn listed(value: &Value, member: &str) -> Value {
    value.get(member).cloned().unwrap_or_default()
}

pub(super) fn flow_schema(object: &Value, errors: &mut FieldErrors) {
    const MAX_PRECEDENCE: i64 = 10_000;
    let path = Path::new("spec");
    let precedence = object.int_at(&["spec", "matchingPrecedence"]).unwrap_or(0);
    let place = path.child("matchingPrecedence");
    if precedence <= 0 {
        errors.invalid(&place, precedence, "must be a positive value");
    }
    if precedence > MAX_PRECEDENCE {
        errors.invalid(&place, precedence, format!("must not be greater than {MAX_PRECEDENCE}"));
    }
    if precedence == 1 && object.str_at(&["metadata", "name"]) != "exempt" {
        errors.invalid(&place, precedence, "only the schema named 'exempt' may have matchingPrecedence 1");
    }
    if let Some(method) = given(object, &["spec", "distinguisherMethod"])
        && !matches!(method.str_at(&["type"]), "ByNamespace" | "ByUser")
    {
        let place = path.child("distinguisherMethod.type");
        let mut shown = Value::object();
        shown.set_at(&["Type"], method.str_at(&["type"]));
        errors.not_supported(&place, shown, &["ByNamespace", "ByUser"]);
    }
    let level = object.str_at(&["spec", "priorityLevelConfiguration", "name"]);
    let place = path.child("priorityLevelConfiguration.name");
    if level.is_empty() {
        errors.required(&place, "must reference a priority level");
    } else {
        errors.invalid_each(&place, level, names::dns_subdomain(level));
    }
    let list = path.child("rules");
    for (at, rule) in object.list_at(&["spec", "rules"]).iter().enumerate() {
        policy_rule(rule, &list.index(at), errors);
    }
}

fn policy_rule(rule: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let subjects = rule.list_at(&["subjects"]);
    let list = path.child("subjects");
    if subjects.is_empty() {
        errors.required(&list, "subjects must contain at least one value");
    }
    for (at, item) in subjects.iter().enumerate() {
        subject(item, &list.index(at), errors);
    }
    if rule.list_at(&["resourceRules"]).is_empty() && rule.list_at(&["nonResourceRules"]).is_empty() {
        errors.required(path, "at least one of resourceRules and nonResourceRules has to be non-empty");
    }
    let list = path.child("resourceRules");
    for (at, item) in rule.list_at(&["resourceRules"]).iter().enumerate() {
        resource_rule(item, &list.index(at), errors);
    }
    let list = path.child("nonResourceRules");
    for (at, item) in rule.list_at(&["nonResourceRules"]).iter().enumerate() {
        other_rule(item, &list.index(at), errors);
    }
}

fn subject(subject: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let kinds = [("ServiceAccount", "serviceAccount"), ("User", "user"), ("Group", "group")];
    let kind = subject.str_at(&["kind"]);
    let Some((_, own)) = kinds.iter().find(|(known, _)| *known == kind) else {
        return errors.not_supported(&path.child("kind"), kind, &["Group", "ServiceAccount", "User"]);
    };
    let place = path.child(own);
    match given(subject, &[own]) {
        None => errors.required(&place, format!("{own} is required when subject kind is '{kind}'")),
        Some(who) => named(who, kind, &place, errors),
    }
    for (other, member) in kinds.iter().filter(|(other, _)| *other != kind) {
        if given(subject, &[member]).is_some() {
            errors.forbidden(&path.child(member), format!("{member} is forbidden when subject kind is not '{other}'"));
        }
    }
}

fn named(who: &Value, kind: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    let name = who.str_at(&["name"]);
    if name.is_empty() {
        errors.required(&path.child("name"), "");
    } else if kind == "ServiceAccount" && name != ALL {
        errors.invalid_each(&path.child("name"), name, names::dns_subdomain(name));
    }
    if kind == "ServiceAccount" {
        let namespace = who.str_at(&["namespace"]);
        if namespace.is_empty() {
            errors.required(&path.child("namespace"), "must specify namespace for service account");
        } else {
            errors.invalid_each(&path.child("namespace"), namespace, names::dns_label(namespace));
        }
    }
}

fn verbs(rule: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let (verbs, place) = (texts(rule, &["verbs"]), path.child("verbs"));
    if verbs.is_empty() {
        errors.required(&place, "verbs must contain at least one value");
    } else if verbs.contains(&ALL) {
        if verbs.len() > 1 {
            errors.invalid(&place, listed(rule, "verbs"), "if '*' is present, must not specify other verbs");
        }
    } else if verbs.iter().any(|verb| !VERBS.contains(verb)) {
        errors.not_supported(&place, listed(rule, "verbs"), &VERBS);
    }
}

fn resource_rule(rule: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    verbs(rule, path, errors);
    for (member, one, many) in [("apiGroups", "api group", "api groups"), ("resources", "resource", "resources")] {
        let (all, place) = (texts(rule, &[member]), path.child(member));
        if all.is_empty() {
            errors.required(&place, format!("resource rules must supply at least one {one}"));
        } else if all.len() > 1 && all.contains(&ALL) {
            errors.invalid(&place, listed(rule, member), format!("if '*' is present, must not specify other {many}"));
        }
    }
    let (namespaces, place) = (texts(rule, &["namespaces"]), path.child("namespaces"));
    if namespaces.is_empty() && rule.bool_at(&["clusterScope"]) != Some(true) {
        let detail = "resource rules that are not cluster scoped must supply at least one namespace";
        errors.required(&place, detail);
    } else if namespaces.contains(&ALL) {
        if namespaces.len() > 1 {
            let detail = "if '*' is present, must not specify other namespaces";
            errors.invalid(&place, listed(rule, "namespaces"), detail);
        }
    } else {
        for (at, namespace) in namespaces.iter().enumerate() {
            for problem in names::dns_label(namespace) {
                let detail = format!("each member of this list must be '*' or a DNS-1123 label; {problem}");
                errors.invalid(&place.index(at), *namespace, detail);
            }
        }
    }
}

fn other_rule(rule: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    verbs(rule, path, errors);
    let (urls, place) = (texts(rule, &["nonResourceURLs"]), path.child("nonResourceURLs"));
    if urls.is_empty() {
        errors.required(&place, "nonResourceURLs must contain at least one value");
    } else if urls.contains(&ALL) {
        if urls.len() > 1 {
            let detail = "if '*' is present, must not specify other non-resource URLs";
            errors.invalid(&place, listed(rule, "nonResourceURLs"), detail);
        }
    } else {
        for (at, url) in urls.iter().enumerate() {
            if let Some(problem) = url_problem(url) {
                errors.invalid(&place.index(at), *url, problem);
            }
        }
    }
}

fn url_problem(url: &str) -> Option<&'static str> {
    let stars = url.matches('*').count();
    match url {
        "" => Some("must not be empty"),
        "/" => None,
        _ if !url.starts_with('/') => Some("must start with slash"),
        _ if url.contains(' ') => Some("must not contain white-space"),
        _ if url.contains("//") => Some("must not contain double slash"),
        _ if stars > 1 || (stars == 1 && !url.ends_with("/*")) => Some("wildcard can only do suffix matching"),
        _ => None,
    }
}

pub(super) fn priority_level(object: &Value, errors: &mut FieldErrors) {
    let (path, empty) = (Path::new("spec"), Value::object());
    let spec = object.get("spec").unwrap_or(&empty);
    let kind = spec.str_at(&["type"]);
    let has = |member: &str| given(spec, &[member]);
    if (object.str_at(&["metadata", "name"]) == "exempt") != (kind == "Exempt") {
        errors.invalid(&path.child("type"), kind, "must be 'Exempt' if and only if `name` is 'exempt'");
    }
    match kind {
        "Exempt" => {
            if has("limited").is_some() {
                errors.forbidden(&path.child("limited"), "must be nil if the type is not Limited");
            }
            if let Some(exempt) = has("exempt") {
                shares(exempt, &path.child("exempt"), errors);
                lendable(exempt, &path.child("exempt"), errors);
            }
        }
        "Limited" => {
            if has("exempt").is_some() {
                errors.forbidden(&path.child("exempt"), "must be nil if the type is Limited");
            }
            match has("limited") {
                None => errors.required(&path.child("limited"), "must not be empty when type is Limited"),
                Some(limited) => self::limited(limited, &path.child("limited"), errors),
            }
        }
        _ => errors.not_supported(&path.child("type"), kind, &["Exempt", "Limited"]),
    }
}

fn shares(level: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    if let Some(number) = level.int_at(&["nominalConcurrencyShares"]).filter(|number| *number < 0) {
        errors.invalid(&path.child("nominalConcurrencyShares"), number, "must be a non-negative integer");
    }
}

fn lendable(level: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    if let Some(percent) = level.int_at(&["lendablePercent"]).filter(|percent| !(0..=100).contains(percent)) {
        errors.invalid(&path.child("lendablePercent"), percent, "must be between 0 and 100, inclusive");
    }
}

fn limited(limited: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    shares(limited, path, errors);
    let empty = Value::object();
    let response = limited.get("limitResponse").unwrap_or(&empty);
    let place = path.child("limitResponse");
    let queuing = given(response, &["queuing"]);
    match (response.str_at(&["type"]), queuing) {
        ("Reject", Some(_)) => {
            errors.forbidden(&place.child("queuing"), "must be nil if limited.limitResponse.type is not Limited");
        }
        ("Reject", None) => {}
        ("Queue", None) => {
            errors.required(&place.child("queuing"), "must not be empty if limited.limitResponse.type is Limited");
        }
        ("Queue", Some(queuing)) => queues(queuing, &place.child("queuing"), errors),
        (other, _) => errors.not_supported(&place.child("type"), other, &["Queue", "Reject"]),
    }
    lendable(limited, path, errors);
    if let Some(percent) = limited.int_at(&["borrowingLimitPercent"]).filter(|percent| *percent < 0) {
        errors.invalid(&path.child("borrowingLimitPercent"), percent, "if specified, must be a non-negative integer");
    }
}

fn queues(queuing: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    const MAX_QUEUES: i64 = 10_000_000;
    const MAX_BITS: i64 = 60;
    let number = |member: &str| queuing.int_at(&[member]).unwrap_or(0);
    let (length, queues, hand) = (number("queueLengthLimit"), number("queues"), number("handSize"));
    if length <= 0 {
        errors.invalid(&path.child("queueLengthLimit"), length, "must be positive");
    }
    if queues <= 0 {
        errors.invalid(&path.child("queues"), queues, "must be positive");
    } else if queues > MAX_QUEUES {
        errors.invalid(&path.child("queues"), queues, format!("must not be greater than {MAX_QUEUES}"));
    }
    let place = path.child("handSize");
    if hand <= 0 {
        errors.invalid(&place, hand, "must be positive");
    } else if hand > queues {
        errors.invalid(&place, hand, format!("should not be greater than queues ({queues})"));
    } else if entropy_bits(queues, hand) > MAX_BITS {
        let detail = format!(
            "required entropy bits of deckSize {queues} and handSize {hand} should not be greater than {MAX_BITS}"
        );
        errors.invalid(&place, hand, detail);
    }
}

/// Bits that dealing a hand without repetition takes.
fn entropy_bits(deck: i64, hand: i64) -> i64 {
    #[expect(clippy::cast_precision_loss, reason = "queues are counted in millions")]
    let bits = (deck as f64).log2() * (hand as f64);
    #[expect(clippy::cast_possible_truncation, reason = "a few hundred at most matter")]
    let bits = bits.ceil() as i64;
    bits
}

#[cfg(test)]
mod tests {
    use super::super::check::tests::creates;
    use crate::strategy::KindRef;
    use serde_json::json;

    #[test]
    fn schemas_and_levels() {
        let schema = json!({"metadata": {"name": "s"}, "spec": {"matchingPrecedence": 5,
            "priorityLevelConfiguration": {"name": "p"}}});
        let rule = |subject: serde_json::Value| {
            json!({"spec": {"rules": [{"subjects": [subject],
                "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/x"]}]}]}})
        };
        creates(
            KindRef::builtin("flowcontrol.apiserver.k8s.io", "FlowSchema", false),
            &schema,
            &[
                (json!({}), &[]),
                (rule(json!({"kind": "User", "user": {"name": "u"}})), &[]),
                (
                    rule(json!({"kind": "User", "group": {"name": "u"}})),
                    &[
                        "spec.rules[0].subjects[0].user: Required value: user is required when subject kind is 'User'",
                        "spec.rules[0].subjects[0].group: Forbidden: group is forbidden when subject kind is not 'Group'",
                    ],
                ),
            ],
        );
        let level = json!({"metadata": {"name": "l"}, "spec": {"type": "Limited",
            "limited": {"limitResponse": {"type": "Reject"}}}});
        creates(
            KindRef::builtin("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration", false),
            &level,
            &[
                (json!({}), &[]),
                (
                    json!({"spec": {"limited": {"limitResponse": {"type": "Queue"}}}}),
                    &[
                        "spec.limited.limitResponse.queuing: Required value: must not be empty if limited.limitResponse.type is Limited",
                    ],
                ),
            ],
        );
    }
}
