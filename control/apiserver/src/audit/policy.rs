//! The audit policy: the first rule that a request matches says how much of it is told. Pure.

use crate::{
    access::{FileError, aggregate, decode_lenient},
    authn::User,
    authz::Attributes,
};
use serde::Deserialize;
use timonel_api::{FieldErrors, Path, Value};

/// How much an event tells. Each level tells what those before it tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Level {
    #[default]
    None,
    Metadata,
    Request,
    RequestResponse,
}

impl Level {
    const ALL: [Self; 4] = [Self::None, Self::Metadata, Self::Request, Self::RequestResponse];

    /// Upstream's word.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Metadata => "Metadata",
            Self::Request => "Request",
            Self::RequestResponse => "RequestResponse",
        }
    }
}

/// When in a request's life an event is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    RequestReceived,
    ResponseStarted,
    ResponseComplete,
    Panic,
}

impl Stage {
    const ALL: [Self; 4] = [Self::RequestReceived, Self::ResponseStarted, Self::ResponseComplete, Self::Panic];

    /// Upstream's word.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::RequestReceived => "RequestReceived",
            Self::ResponseStarted => "ResponseStarted",
            Self::ResponseComplete => "ResponseComplete",
            Self::Panic => "Panic",
        }
    }
}

/// A set of stages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stages(u8);

impl Stages {
    fn of(names: &[String]) -> Self {
        let bits = Stage::ALL.iter().filter(|stage| names.iter().any(|name| name == stage.as_str()));
        Self(bits.fold(0, |set, stage| set | 1 << *stage as u8))
    }

    pub(crate) const fn has(self, stage: Stage) -> bool {
        self.0 & (1 << stage as u8) != 0
    }
}

/// What the policy says about one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) level: Level,
    pub(crate) omitted: Stages,
    pub(crate) omit_managed_fields: bool,
}

/// A policy that was checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    rules: Vec<(PolicyRule, Verdict)>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PolicyFile {
    rules: Vec<PolicyRule>,
    omit_stages: Vec<String>,
    omit_managed_fields: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PolicyRule {
    level: String,
    users: Vec<String>,
    user_groups: Vec<String>,
    verbs: Vec<String>,
    resources: Vec<GroupResources>,
    namespaces: Vec<String>,
    #[serde(rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
    omit_stages: Vec<String>,
    omit_managed_fields: Option<bool>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct GroupResources {
    group: String,
    resources: Vec<String>,
    resource_names: Vec<String>,
}

impl Policy {
    /// Reads and checks a policy file, YAML or JSON.
    ///
    /// # Errors
    /// With upstream's messages when it is none, or says what it may not.
    pub fn parse(text: &str) -> Result<Self, FileError> {
        let file: PolicyFile = decode_lenient(text, "audit.k8s.io/v1", "Policy")?;
        let mut errors = FieldErrors::new();
        check_stages(&file.omit_stages, &Path::new("omitStages"), &mut errors);
        let rules = Path::new("rules");
        for (at, rule) in file.rules.iter().enumerate() {
            rule.check(&rules.index(at), &mut errors);
        }
        aggregate(&errors)?;
        if file.rules.is_empty() {
            return Err(FileError::Invalid("loaded illegal policy with 0 rules".to_owned()));
        }
        let everywhere = Stages::of(&file.omit_stages);
        let judged = |rule: PolicyRule| {
            let level = Level::ALL.into_iter().find(|level| level.as_str() == rule.level).unwrap_or_default();
            let omitted = Stages(everywhere.0 | Stages::of(&rule.omit_stages).0);
            let omit_managed_fields = rule.omit_managed_fields.unwrap_or(file.omit_managed_fields);
            (rule, Verdict { level, omitted, omit_managed_fields })
        };
        Ok(Self { rules: file.rules.into_iter().map(judged).collect() })
    }

    /// What is to be told of a request; `user` is absent when authentication failed.
    pub(crate) fn judge(&self, user: Option<&User>, attributes: &Attributes<'_>) -> Verdict {
        let rule = self.rules.iter().find(|(rule, _)| rule.matches(user, attributes));
        rule.map(|(_, verdict)| *verdict).unwrap_or_default()
    }
}

impl PolicyRule {
    fn matches(&self, user: Option<&User>, attributes: &Attributes<'_>) -> bool {
        let lists = |list: &[String], word: &str| list.is_empty() || list.iter().any(|known| known == word);
        let of_user = match user {
            Some(user) => {
                lists(&self.users, &user.name)
                    && (self.user_groups.is_empty() || self.user_groups.iter().any(|group| user.in_group(group)))
            }
            None => self.users.is_empty() && self.user_groups.is_empty(),
        };
        if !of_user || !lists(&self.verbs, attributes.verb) {
            return false;
        }
        if !self.namespaces.is_empty() || !self.resources.is_empty() {
            return attributes.is_resource()
                && lists(&self.namespaces, attributes.namespace)
                && (self.resources.is_empty() || self.resources.iter().any(|entry| entry.matches(attributes)));
        }
        self.non_resource_urls.is_empty()
            || !attributes.is_resource()
                && self.non_resource_urls.iter().any(|spec| path_matches(attributes.path, spec))
    }

    fn check(&self, path: &Path<'_>, errors: &mut FieldErrors) {
        match self.level.as_str() {
            "" => errors.required(&path.child("level"), ""),
            level if Level::ALL.iter().all(|known| known.as_str() != level) => {
                errors.not_supported(&path.child("level"), level, &Level::ALL.map(Level::as_str));
            }
            _ => {}
        }
        let urls = path.child("nonResourceURLs");
        for (at, url) in self.non_resource_urls.iter().enumerate().filter(|(_, url)| *url != "*") {
            if !url.starts_with('/') {
                let why = "non-resource URL rules must begin with a '/' character";
                errors.invalid(&urls.index(at), url.as_str(), why);
            }
            let mut rest = url.chars();
            rest.next_back();
            if rest.as_str().contains('*') {
                let why = "non-resource URL wildcards '*' must be the final character of the rule";
                errors.invalid(&urls.index(at), url.as_str(), why);
            }
        }
        for entry in &self.resources {
            entry.check(&path.child("resources"), errors);
        }
        check_stages(&self.omit_stages, &path.child("omitStages"), errors);
        let on_resources = !self.resources.is_empty() || !self.namespaces.is_empty();
        if on_resources && !self.non_resource_urls.is_empty() {
            let shown: Vec<Value> = self.non_resource_urls.iter().map(|url| url.as_str().into()).collect();
            errors.invalid(&urls, shown, "rules cannot apply to both regular resources and non-resource URLs");
        }
    }
}

impl GroupResources {
    fn matches(&self, attributes: &Attributes<'_>) -> bool {
        if self.group != "*" && self.group != attributes.group {
            return false;
        }
        if self.resources.is_empty() {
            return true;
        }
        let named = self.resource_names.is_empty() || self.resource_names.iter().any(|name| name == attributes.name);
        named && self.resources.iter().any(|spec| resource_matches(attributes, spec))
    }

    fn check(&self, path: &Path<'_>, errors: &mut FieldErrors) {
        if !self.group.is_empty() && self.group != "*" {
            let problems = timonel_api::names::dns_subdomain(&self.group);
            if !problems.is_empty() {
                errors.invalid(&path.child("group"), self.group.as_str(), problems.join(","));
            }
        }
        if !self.resource_names.is_empty() && self.resources.is_empty() {
            let shown: Vec<Value> = self.resource_names.iter().map(|name| name.as_str().into()).collect();
            errors.invalid(&path.child("resourceNames"), shown, "using resourceNames requires at least one resource");
        }
    }
}

fn resource_matches(attributes: &Attributes<'_>, spec: &str) -> bool {
    if spec == "*" {
        return true;
    }
    match spec.split_once('/') {
        None => attributes.subresource.is_empty() && spec == attributes.resource,
        Some(("*", subresource)) if !attributes.subresource.is_empty() && subresource == attributes.subresource => true,
        Some((resource, "*")) => resource == attributes.resource,
        Some((resource, subresource)) => resource == attributes.resource && subresource == attributes.subresource,
    }
}

fn path_matches(path: &str, spec: &str) -> bool {
    spec == "*" || spec == path || spec.ends_with('*') && path.starts_with(spec.trim_end_matches('*'))
}

fn check_stages(stages: &[String], path: &Path<'_>, errors: &mut FieldErrors) {
    let known = Stage::ALL.map(Stage::as_str);
    for (at, stage) in stages.iter().enumerate().filter(|(_, stage)| !known.contains(&stage.as_str())) {
        errors.invalid(&path.index(at), stage.as_str(), format!("allowed stages are {}", known.join(",")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
omitManagedFields: true
rules:
- {level: None, users: ["system:kube-proxy"], verbs: [watch], resources: [{group: "", resources: [endpoints]}]}
- {level: None, userGroups: ["system:nodes"], nonResourceURLs: ["/healthz*"]}
- {level: RequestResponse, resources: [{group: "", resources: ["pods/*"], resourceNames: [special]}], omitManagedFields: false}
- {level: Request, resources: [{group: "*", resources: ["*/scale"]}], omitStages: [ResponseComplete]}
- {level: Metadata, namespaces: [""], resources: [{group: "rbac.authorization.k8s.io"}]}
- {level: Request, namespaces: [secret-place]}
- {level: None, resources: [{group: "", resources: [pods]}]}
- {level: Metadata}
"#;

    #[test]
    fn the_first_rule_that_matches_decides() {
        let policy = Policy::parse(FULL).unwrap();
        let nobody = User::new("u", &[]);
        let node = User::new("n", &["system:nodes"]);
        let proxy = User::new("system:kube-proxy", &[]);
        let of = |verb, group, resource, namespace, name| Attributes::resource(verb, group, resource, namespace, name);
        let sub = |subresource, attributes| Attributes { subresource, ..attributes };
        for (user, attributes, level, omits) in [
            (Some(&proxy), of("watch", "", "endpoints", "", ""), Level::None, true),
            (Some(&proxy), of("list", "", "endpoints", "", ""), Level::Metadata, true),
            (Some(&node), Attributes::path("get", "/healthz/etcd"), Level::None, true),
            (Some(&nobody), Attributes::path("get", "/healthz/etcd"), Level::Metadata, true),
            (None, Attributes::path("get", "/healthz/etcd"), Level::Metadata, true),
            (Some(&nobody), sub("log", of("get", "", "pods", "x", "special")), Level::RequestResponse, false),
            (Some(&nobody), of("get", "", "pods", "x", "special"), Level::RequestResponse, false),
            (Some(&nobody), sub("log", of("get", "", "pods", "x", "other")), Level::Metadata, true),
            (Some(&nobody), sub("scale", of("update", "apps", "deployments", "x", "d")), Level::Request, true),
            (Some(&nobody), of("get", "rbac.authorization.k8s.io", "clusterroles", "", "c"), Level::Metadata, true),
            (Some(&nobody), of("get", "", "secrets", "secret-place", "s"), Level::Request, true),
            (Some(&nobody), of("get", "", "pods", "x", "y"), Level::None, true),
        ] {
            let verdict = policy.judge(user, &attributes);
            assert_eq!((verdict.level, verdict.omit_managed_fields), (level, omits), "{user:?} {attributes:?}");
            assert!(verdict.omitted.has(Stage::RequestReceived) && !verdict.omitted.has(Stage::Panic));
        }
        let scale = sub("scale", of("update", "apps", "deployments", "x", "d"));
        assert!(policy.judge(None, &scale).omitted.has(Stage::ResponseComplete));
    }

    #[test]
    fn what_a_policy_may_not_say_is_named_in_upstreams_words() {
        for (rules, message) in [
            ("rules: [{}]", "rules[0].level: Required value"),
            (
                "rules: [{level: Loud}]",
                "rules[0].level: Unsupported value: \"Loud\": supported values: \"None\", \"Metadata\", \"Request\", \"RequestResponse\"",
            ),
            (
                "rules: [{level: None, nonResourceURLs: [healthz]}]",
                "rules[0].nonResourceURLs[0]: Invalid value: \"healthz\": non-resource URL rules must begin with a '/' character",
            ),
            (
                "rules: [{level: None, nonResourceURLs: [\"/a*b\"]}]",
                "rules[0].nonResourceURLs[0]: Invalid value: \"/a*b\": non-resource URL wildcards '*' must be the final character of the rule",
            ),
            (
                "rules: [{level: None, nonResourceURLs: [\"/a\"], namespaces: [x]}]",
                "rules[0].nonResourceURLs: Invalid value: [\"/a\"]: rules cannot apply to both regular resources and non-resource URLs",
            ),
            (
                "rules: [{level: None, resources: [{resourceNames: [x]}]}]",
                "rules[0].resources.resourceNames: Invalid value: [\"x\"]: using resourceNames requires at least one resource",
            ),
            (
                "omitStages: [Sometimes]\nrules: [{level: None}, {}]",
                "[omitStages[0]: Invalid value: \"Sometimes\": allowed stages are RequestReceived,ResponseStarted,ResponseComplete,Panic, rules[1].level: Required value]",
            ),
            ("rules: []", "loaded illegal policy with 0 rules"),
        ] {
            let text = format!("apiVersion: audit.k8s.io/v1\nkind: Policy\n{rules}");
            assert_eq!(Policy::parse(&text).unwrap_err().to_string(), message);
        }
        let group = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: None, resources: [{group: \"a/v1\"}]}]";
        assert!(Policy::parse(group).unwrap_err().to_string().starts_with("rules[0].resources.group: Invalid value"));
        assert!(Policy::parse("kind: Policy\nrules: [{level: None}]").is_err());
    }
}
