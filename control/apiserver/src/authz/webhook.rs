//! An authorizer outside this process: which questions go to it, in which form, and what its answers mean.

use super::{Attributes, Authorizer, Decision};
use crate::{
    access::Remembered,
    admission::{Condition, Lookup, Matched, holds},
    authn::{User, post_json},
    webhook::{WebhookClient, WebhookTarget},
};
use jiff::SignedDuration;
use serde::Deserialize;
use serde_json::{Value as Json, json};
use std::{
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use timonel_api::{LabelSelector, Operator, Value};
use timonel_cel::{Bindings, Environment, ObjectType, Type, Val};
use timonel_runtime::Clock;

/// Bytes of a question's attributes up to which its answer is remembered, so that nobody fills the memory.
const MAX_REMEMBERED: usize = 10_000;

/// Numbers by which authorizers are told apart, whatever configuration they come from.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// What is done where the webhook gives no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FailurePolicy {
    NoOpinion,
    Deny,
}

impl FailurePolicy {
    fn decision(self) -> Decision {
        match self {
            Self::NoOpinion => Decision::NoOpinion(String::new()),
            Self::Deny => Decision::Deny(String::new()),
        }
    }
}

/// How a webhook is asked.
#[derive(Debug)]
pub(super) struct WebhookSettings {
    pub(super) name: String,
    pub(super) version: &'static str,
    pub(super) target: WebhookTarget,
    pub(super) timeout: Duration,
    pub(super) allowed_for: SignedDuration,
    pub(super) refused_for: SignedDuration,
    pub(super) on_failure: FailurePolicy,
    pub(super) conditions: Vec<Condition>,
}

/// A webhook in a chain of authorizers.
#[derive(Debug)]
pub(crate) struct WebhookAuthorizer {
    pub(crate) number: u64,
    settings: WebhookSettings,
    client: Arc<WebhookClient>,
    clock: Clock,
    remembered: Remembered<Decision>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Review {
    status: Status,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    allowed: bool,
    denied: bool,
    reason: String,
}

fn object(name: &str, fields: Vec<(&str, Type)>) -> Type {
    Type::Object(ObjectType::new(name, fields.into_iter().map(|(name, ty)| (name.into(), ty))))
}

/// The type of the variable `request` of match conditions.
static REQUEST: LazyLock<Type> = LazyLock::new(|| {
    let texts = |names: &[&'static str]| names.iter().map(|name| (*name, Type::String)).collect::<Vec<_>>();
    let selector = |kind: &str| {
        let mut requirement = texts(&["key", "operator"]);
        requirement.push(("values", Type::list(Type::String)));
        let requirements = Type::list(object(&format!("kubernetes.{kind}SelectorRequirement"), requirement));
        let fields = vec![("rawSelector", Type::String), ("requirements", requirements)];
        object(&format!("kubernetes.{kind}SelectorAttributes"), fields)
    };
    let mut resource = texts(&["namespace", "verb", "group", "version", "resource", "subresource", "name"]);
    resource.push(("fieldSelector", selector("Field")));
    resource.push(("labelSelector", selector("Label")));
    let mut spec = texts(&["user", "uid"]);
    spec.push(("resourceAttributes", object("kubernetes.ResourceAttributes", resource)));
    spec.push(("nonResourceAttributes", object("kubernetes.NonResourceAttributes", texts(&["path", "verb"]))));
    spec.push(("groups", Type::list(Type::String)));
    spec.push(("extra", Type::map(Type::String, Type::list(Type::String))));
    object("kubernetes.SubjectAccessReviewSpec", spec)
});

/// The environment of match conditions.
pub(super) static CONDITIONS: LazyLock<Environment> =
    LazyLock::new(|| Environment::new().variable("request", REQUEST.clone()));

impl WebhookAuthorizer {
    pub(super) fn new(settings: WebhookSettings, client: Arc<WebhookClient>, clock: Clock) -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self { number, settings, client, clock, remembered: Remembered::default() }
    }

    /// Asks the webhook, unless it said so a moment ago.
    pub(crate) async fn ask(&self, spec: &str) -> Decision {
        let now = self.clock.now();
        let key = Remembered::<Decision>::key(spec, &[]);
        if let Some(known) = self.remembered.get(&key, now) {
            return known;
        }
        let version = self.settings.version;
        // The spec is JSON already.
        let body = format!(
            "{{\"kind\":\"SubjectAccessReview\",\"apiVersion\":\"authorization.k8s.io/{version}\",\
             \"metadata\":{{\"creationTimestamp\":null}},\"spec\":{spec},\"status\":{{\"allowed\":false}}}}"
        );
        let answer = post_json(&self.client, &self.settings.target, body.into(), self.settings.timeout).await;
        let review = answer.map_err(|error| error.to_string()).and_then(|bytes| {
            serde_json::from_slice::<Review>(&bytes).map_err(|error| format!("couldn't decode the review: {error}"))
        });
        match review {
            Ok(review) => {
                let decision = judge(review.status);
                if spec.len() <= MAX_REMEMBERED {
                    let allowed = decision.is_allowed();
                    let lasts = if allowed { self.settings.allowed_for } else { self.settings.refused_for };
                    self.remembered.insert(key, decision.clone(), now, lasts);
                }
                decision
            }
            Err(why) => {
                tracing::error!(authorizer = %self.settings.name, %why, "an authorizer could not be asked");
                self.settings.on_failure.decision()
            }
        }
    }
}

/// What an answer means; pure.
fn judge(status: Status) -> Decision {
    match (status.denied, status.allowed) {
        (true, _) => Decision::Deny(status.reason),
        (false, true) => Decision::Allow(status.reason),
        (false, false) => Decision::NoOpinion(status.reason),
    }
}

impl Authorizer for WebhookAuthorizer {
    fn authorize(&self, user: &User, attributes: &Attributes<'_>, lookup: &dyn Lookup) -> Decision {
        if !self.settings.conditions.is_empty() {
            let shown = Value::from(spec(user, attributes, true));
            let matched = match Val::typed(&shown, &REQUEST) {
                Ok(val) => holds(&self.settings.conditions, &Bindings::new().with("request", val)),
                Err(error) => Matched::Failed(error.to_string()),
            };
            match matched {
                Matched::Yes => {}
                Matched::No => return Decision::NoOpinion(String::new()),
                Matched::Failed(why) => {
                    tracing::warn!(authorizer = %self.settings.name, %why, "match conditions of an authorizer failed");
                    return self.settings.on_failure.decision();
                }
            }
        }
        let question = self.in_version(spec(user, attributes, false)).to_string();
        lookup.said(self.number, &question).unwrap_or_else(|| Decision::NoOpinion(String::new()))
    }
}

impl WebhookAuthorizer {
    /// The older version calls groups by one name less.
    fn in_version(&self, mut spec: Json) -> Json {
        if self.settings.version == "v1beta1"
            && let Some(groups) = spec.as_object_mut().and_then(|spec| spec.remove("groups"))
        {
            spec["group"] = groups;
        }
        spec
    }
}

/// The spec of a `SubjectAccessReview`; `whole` has empty texts too, as expressions expect them. Pure.
fn spec(user: &User, of: &Attributes<'_>, whole: bool) -> Json {
    let mut spec = json!({"user": user.name});
    let mut put = |name: &str, value: Json, empty: bool| {
        if whole || !empty {
            spec[name] = value;
        }
    };
    put("uid", json!(user.uid), user.uid.is_empty());
    put("groups", json!(user.groups), user.groups.is_empty());
    put("extra", json!(user.extra), user.extra.is_empty());
    if !of.is_resource() {
        put("nonResourceAttributes", json!({"path": of.path, "verb": of.verb}), false);
        return spec;
    }
    let mut resource = json!({});
    for (name, text) in [
        ("namespace", of.namespace),
        ("verb", of.verb),
        ("group", of.group),
        ("version", of.version),
        ("resource", of.resource),
        ("subresource", of.subresource),
        ("name", of.name),
    ] {
        if whole || !text.is_empty() {
            resource[name] = text.into();
        }
    }
    let selectors = [
        ("fieldSelector", field_requirements(of.field_selector)),
        ("labelSelector", label_requirements(of.label_selector)),
    ];
    for (name, requirements) in selectors.into_iter().filter(|(_, requirements)| !requirements.is_empty()) {
        resource[name] = json!({"requirements": requirements});
    }
    put("resourceAttributes", resource, false);
    spec
}

fn label_requirements(text: &str) -> Vec<Json> {
    let selector = LabelSelector::parse(text).unwrap_or_default();
    let shown = |requirement: &timonel_api::Requirement| {
        let operator = match requirement.operator() {
            Operator::In | Operator::Equals | Operator::DoubleEquals => "In",
            Operator::NotIn | Operator::NotEquals => "NotIn",
            Operator::Exists => "Exists",
            Operator::DoesNotExist => "DoesNotExist",
            // Left out: what is left is only as narrow or wider.
            Operator::GreaterThan | Operator::LessThan => return None,
        };
        let mut shown = json!({"key": requirement.key(), "operator": operator});
        let values: Vec<&str> = requirement.values().collect();
        if !values.is_empty() {
            shown["values"] = json!(values);
        }
        Some(shown)
    };
    selector.requirements().iter().filter_map(shown).collect()
}

fn field_requirements(text: &str) -> Vec<Json> {
    let term = |term: &str| {
        let ((key, value), operator) = term
            .split_once("!=")
            .map(|term| (term, "NotIn"))
            .or_else(|| term.split_once("==").or_else(|| term.split_once('=')).map(|term| (term, "In")))?;
        Some(json!({"key": key, "operator": operator, "values": [value]}))
    };
    text.split(',').filter_map(term).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_have_upstreams_form() {
        let mut user = User::new("jane", &["dev"]);
        user.extra.insert("k".into(), vec!["v".into()]);
        let list = Attributes {
            version: "v1",
            label_selector: "app in (b,a),!x,n>3",
            field_selector: "spec.nodeName=n,status.phase!=Failed",
            ..Attributes::resource("list", "", "pods", "ns", "")
        };
        assert_eq!(
            spec(&user, &list, false),
            json!({"user": "jane", "groups": ["dev"], "extra": {"k": ["v"]}, "resourceAttributes": {
                "namespace": "ns", "verb": "list", "version": "v1", "resource": "pods",
                "fieldSelector": {"requirements": [
                    {"key": "spec.nodeName", "operator": "In", "values": ["n"]},
                    {"key": "status.phase", "operator": "NotIn", "values": ["Failed"]}]},
                "labelSelector": {"requirements": [
                    {"key": "app", "operator": "In", "values": ["a", "b"]},
                    {"key": "x", "operator": "DoesNotExist"}]}}})
        );
        let path = spec(&User::new("x", &[]), &Attributes::path("get", "/version"), true);
        let expected = json!({"user": "x", "uid": "", "groups": [], "extra": {}, "nonResourceAttributes": {"path": "/version", "verb": "get"}});
        assert_eq!(path, expected);
    }

    #[test]
    fn answers_mean_what_they_say() {
        for (status, expected) in [
            (json!({"allowed": true, "reason": "r"}), Decision::Allow("r".into())),
            (json!({"allowed": false, "denied": true}), Decision::Deny("".into())),
            (json!({"allowed": true, "denied": true}), Decision::Deny("".into())),
            (json!({"allowed": false, "reason": "r"}), Decision::NoOpinion("r".into())),
            (json!({}), Decision::NoOpinion("".into())),
        ] {
            assert_eq!(judge(serde_json::from_value(status.clone()).unwrap()), expected, "{status}");
        }
    }
}
