//! Access reviews: may this user do that?

use super::{Attributes, Authorizer, Decision, Rbac};
use crate::{
    admission::{AdmissionError, Lookup},
    authn::User,
};
use serde_json::{Value as Json, json};
use timonel_api::Value;

/// Fills the status of a `SubjectAccessReview`, `LocalSubjectAccessReview` or `SelfSubjectAccessReview`;
/// `myself` is the requesting user for the last.
///
/// # Errors
/// 400 when the review names no user or no action.
pub fn review_access(
    review: &mut Value,
    myself: Option<&User>,
    authorizer: &dyn Authorizer,
    lookup: &dyn Lookup,
) -> Result<(), AdmissionError> {
    let spec = review.get("spec").cloned().unwrap_or_default();
    let user = match myself {
        Some(user) => user.clone(),
        None => subject(&spec)?,
    };
    let selectors = ["labelSelector", "fieldSelector"].map(|name| selector(spec.at(&["resourceAttributes", name])));
    let [Ok(labels) | Err(labels), Ok(fields) | Err(fields)] = &selectors;
    let attributes = attributes(&spec, labels, fields)?;
    let status = match authorizer.authorize(&user, &attributes, lookup) {
        Decision::Allow(reason) => json!({"allowed": true, "reason": reason}),
        Decision::Deny(reason) => json!({"allowed": false, "denied": true, "reason": reason}),
        Decision::NoOpinion(reason) => json!({"allowed": false, "reason": reason}),
    };
    let mut status = Value::from(status);
    if status.str_at(&["reason"]).is_empty() {
        status.remove_at(&["reason"]);
    }
    let errors: Vec<String> = ["labelSelector", "fieldSelector"]
        .iter()
        .zip(&selectors)
        .rev()
        .filter(|(_, parsed)| parsed.is_err())
        .map(|(name, _)| format!("spec.resourceAttributes.{name} ignored due to parse error"))
        .collect();
    if !errors.is_empty() {
        status.set_at(&["evaluationError"], errors.join("; "));
    }
    review.set_at(&["status"], status);
    Ok(())
}

fn subject(spec: &Value) -> Result<User, AdmissionError> {
    let texts = |value: &Value| -> Vec<String> {
        value.as_list().unwrap_or(&[]).iter().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let user = User {
        name: spec.str_at(&["user"]).to_owned(),
        uid: spec.str_at(&["uid"]).to_owned(),
        groups: spec.get("groups").map(texts).unwrap_or_default(),
        extra: spec
            .get("extra")
            .and_then(Value::as_object)
            .map(|extra| extra.iter().map(|(key, values)| (key.to_string(), texts(values))).collect())
            .unwrap_or_default(),
    };
    if user.name.is_empty() && user.groups.is_empty() {
        return Err(AdmissionError::bad_request("spec.user: at least one of user or group must be specified"));
    }
    Ok(user)
}

fn attributes<'a>(spec: &'a Value, labels: &'a str, fields: &'a str) -> Result<Attributes<'a>, AdmissionError> {
    let set = |name: &str| spec.get(name).filter(|value| !value.is_null());
    match (set("resourceAttributes"), set("nonResourceAttributes")) {
        (Some(of), None) => {
            let text = |name: &str| of.str_at(&[name]);
            let version = if text("version").is_empty() { "*" } else { text("version") };
            Ok(Attributes {
                verb: text("verb"),
                group: text("group"),
                version,
                resource: text("resource"),
                subresource: text("subresource"),
                namespace: text("namespace"),
                name: text("name"),
                path: "",
                label_selector: labels,
                field_selector: fields,
            })
        }
        (None, Some(of)) => Ok(Attributes::path(of.str_at(&["verb"]), of.str_at(&["path"]))),
        _ => Err(AdmissionError::bad_request(
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        )),
    }
}

/// The selector as text; `Err` with what could be understood when some of it could not.
fn selector(value: Option<&Value>) -> Result<String, String> {
    let Some(value) = value else { return Ok(String::new()) };
    let raw = value.str_at(&["rawSelector"]);
    if !raw.is_empty() {
        return Ok(raw.to_owned());
    }
    let (mut parts, mut bad) = (Vec::new(), false);
    for requirement in value.list_at(&["requirements"]) {
        let key = requirement.str_at(&["key"]);
        let values: Vec<&str> = requirement.list_at(&["values"]).iter().filter_map(Value::as_str).collect();
        match (requirement.str_at(&["operator"]), &values[..]) {
            ("In", [only]) => parts.push(format!("{key}={only}")),
            ("NotIn", [only]) => parts.push(format!("{key}!={only}")),
            ("In", [_, ..]) => parts.push(format!("{key} in ({})", values.join(","))),
            ("NotIn", [_, ..]) => parts.push(format!("{key} notin ({})", values.join(","))),
            ("Exists", []) => parts.push(key.to_owned()),
            ("DoesNotExist", []) => parts.push(format!("!{key}")),
            _ => bad = true,
        }
    }
    let text = parts.join(",");
    if bad { Err(text) } else { Ok(text) }
}

/// Fills the status of a `SelfSubjectRulesReview`: the rules of roles, where `rbac` is asked at all. `silent` are the
/// other authorizers that are asked, which cannot tell rules.
///
/// # Errors
/// 400 without a namespace.
pub fn review_rules(
    review: &mut Value,
    user: &User,
    rbac: Option<&Rbac>,
    silent: &[&str],
    lookup: &dyn Lookup,
) -> Result<(), AdmissionError> {
    let namespace = review.str_at(&["spec", "namespace"]);
    if namespace.is_empty() {
        return Err(AdmissionError::bad_request("no namespace on request"));
    }
    let (mut rules, mut errors) = rbac.map(|rbac| rbac.rules_for(user, namespace, lookup)).unwrap_or_default();
    if user.in_group(crate::authn::MASTERS_GROUP) {
        rules.insert(0, super::Rule::resources(&["*"], "*", &["*"]));
        let paths = super::Rule { verbs: vec!["*".into()], urls: vec!["*".into()], ..super::Rule::default() };
        rules.insert(1, paths);
    }
    let mut incomplete = false;
    // The node authorizer is silent about nodes alone: to others it has nothing to say.
    for name in silent.iter().filter(|name| **name != "node" || user.node_name().is_some()) {
        incomplete = true;
        errors.push(format!("{name} authorizer does not support user rule resolution"));
    }
    let of = |field: &str| -> Vec<Json> {
        rules
            .iter()
            .filter(|rule| if field == "resources" { !rule.resources.is_empty() } else { !rule.urls.is_empty() })
            .map(|rule| Json::from(&rule.to_value()))
            .collect()
    };
    let mut status =
        json!({"resourceRules": of("resources"), "nonResourceRules": of("urls"), "incomplete": incomplete});
    if !errors.is_empty() {
        status["evaluationError"] = errors.join(", ").into();
    }
    review.set_at(&["status"], Value::from(status));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::Objects;

    /// Allows whoever is called `good`, and says what it was asked.
    #[derive(Debug)]
    struct Good;

    impl Authorizer for Good {
        fn authorize(&self, user: &User, attributes: &Attributes<'_>, _: &dyn Lookup) -> Decision {
            let asked = format!("{} {} {}", attributes.verb, attributes.resource, attributes.field_selector);
            if user.name == "good" { Decision::Allow(asked) } else { Decision::NoOpinion(String::new()) }
        }
    }

    #[test]
    fn reviews_answer() {
        let get = json!({"verb": "get", "resource": "pods"});
        for (spec, status) in [
            (json!({"user": "good", "resourceAttributes": get}), json!({"allowed": true, "reason": "get pods "})),
            (json!({"user": "bad", "resourceAttributes": get}), json!({"allowed": false})),
            (
                json!({"user": "good", "resourceAttributes": {"verb": "list", "resource": "pods",
                    "fieldSelector": {"requirements": [{"key": "spec.nodeName", "operator": "In", "values": ["n"]}, {"key": "x", "operator": "Odd"}]}}}),
                json!({"allowed": true, "reason": "list pods spec.nodeName=n",
                    "evaluationError": "spec.resourceAttributes.fieldSelector ignored due to parse error"}),
            ),
        ] {
            let mut review = Value::from(json!({"spec": spec}));
            review_access(&mut review, None, &Good, &Objects::default()).unwrap();
            assert_eq!(Json::from(review.get("status").unwrap()), status);
        }
        for spec in [json!({"user": "x"}), json!({"resourceAttributes": get})] {
            let mut review = Value::from(json!({"spec": spec}));
            assert!(review_access(&mut review, None, &Good, &Objects::default()).is_err());
        }
        let mut mine = Value::from(json!({"spec": {"resourceAttributes": get}}));
        review_access(&mut mine, Some(&User::new("good", &[])), &Good, &Objects::default()).unwrap();
        assert_eq!(mine.bool_at(&["status", "allowed"]), Some(true));
    }

    #[test]
    fn rules_are_listed() {
        let mut review = Value::from(json!({"spec": {"namespace": "a"}}));
        review_rules(&mut review, &User::system("x"), Some(&Rbac::default()), &["node"], &Objects::default()).unwrap();
        assert_eq!(
            Json::from(review.get("status").unwrap()),
            json!({
                "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}],
                "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
                "incomplete": false
            })
        );
    }

    #[test]
    fn authorizers_that_cannot_tell_rules_are_named() {
        let node = User::new("system:node:n", &["system:nodes"]);
        for (user, silent, error) in [
            (&User::new("x", &[]), &["node"][..], None),
            (&node, &["node"], Some("node authorizer does not support user rule resolution")),
            (
                &User::new("x", &[]),
                &["node", "webhook"],
                Some("webhook authorizer does not support user rule resolution"),
            ),
        ] {
            let mut review = Value::from(json!({"spec": {"namespace": "a"}}));
            review_rules(&mut review, user, None, silent, &Objects::default()).unwrap();
            assert_eq!(review.bool_at(&["status", "incomplete"]), Some(error.is_some()));
            assert_eq!(review.str_at(&["status", "evaluationError"]), error.unwrap_or(""));
        }
    }
}
