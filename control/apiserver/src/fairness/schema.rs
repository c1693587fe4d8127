//! Which flow a request belongs to. Pure.

use super::telling::Told;
use crate::{authn::User, authz::Attributes};
use http::HeaderValue;
use std::hash::{DefaultHasher, Hash, Hasher};
use timonel_api::Value;

const ALL: &str = "*";

/// What tells the flows of one schema apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    Nothing,
    User,
    Namespace,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Subject {
    User(String),
    Group(String),
    Account { namespace: String, name: String },
}

impl Subject {
    fn read(value: &Value) -> Option<Self> {
        let name = |part: &str| value.str_at(&[part, "name"]).to_owned();
        match value.str_at(&["kind"]) {
            "User" => Some(Self::User(name("user"))),
            "Group" => Some(Self::Group(name("group"))),
            "ServiceAccount" => Some(Self::Account {
                namespace: value.str_at(&["serviceAccount", "namespace"]).to_owned(),
                name: name("serviceAccount"),
            }),
            _ => None,
        }
    }

    fn matches(&self, user: &User) -> bool {
        match self {
            Self::User(name) => name == ALL || *name == user.name,
            Self::Group(name) => name == ALL || user.in_group(name),
            Self::Account { namespace, name } => user
                .as_service_account()
                .is_some_and(|(in_namespace, account)| in_namespace == namespace && (name == ALL || account == name)),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct ResourceRule {
    verbs: Vec<String>,
    groups: Vec<String>,
    resources: Vec<String>,
    namespaces: Vec<String>,
    cluster_scope: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct PathRule {
    verbs: Vec<String>,
    urls: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    subjects: Vec<Subject>,
    resources: Vec<ResourceRule>,
    paths: Vec<PathRule>,
}

fn texts(value: &Value, field: &str) -> Vec<String> {
    value.list_at(&[field]).iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|one| one == ALL || one == wanted)
}

impl ResourceRule {
    fn read(value: &Value) -> Self {
        Self {
            verbs: texts(value, "verbs"),
            groups: texts(value, "apiGroups"),
            resources: texts(value, "resources"),
            namespaces: texts(value, "namespaces"),
            cluster_scope: value.bool_at(&["clusterScope"]).unwrap_or(false),
        }
    }

    fn matches(&self, asked: &Attributes<'_>) -> bool {
        let resource = |known: &String| {
            known == ALL
                || match known.split_once('/') {
                    Some((resource, sub)) => resource == asked.resource && sub == asked.subresource,
                    None => known == asked.resource && asked.subresource.is_empty(),
                }
        };
        let within = match asked.namespace {
            "" => self.cluster_scope,
            namespace => has(&self.namespaces, namespace),
        };
        within && has(&self.verbs, asked.verb) && has(&self.groups, asked.group) && self.resources.iter().any(resource)
    }
}

impl PathRule {
    fn read(value: &Value) -> Self {
        Self { verbs: texts(value, "verbs"), urls: texts(value, "nonResourceURLs") }
    }

    fn matches(&self, asked: &Attributes<'_>) -> bool {
        let covers = |url: &String| match url.strip_suffix('*') {
            Some(prefix) => asked.path.starts_with(prefix),
            None => url == asked.path,
        };
        has(&self.verbs, asked.verb) && self.urls.iter().any(covers)
    }
}

/// A `FlowSchema` that leads to a level.
#[derive(Debug)]
pub(crate) struct Schema {
    pub(super) name: String,
    pub(super) precedence: i64,
    by: By,
    rules: Vec<Rule>,
    /// The level's place in the core.
    pub(super) level: usize,
    /// UIDs of schema and level, as answers tell them.
    pub(crate) marks: [HeaderValue; 2],
    pub(super) told: Told,
}

impl Schema {
    /// From the object; `level` is the place of the level that it names, and its UID.
    pub(super) fn read(object: &Value, level: usize, level_uid: &str, told: Told) -> Self {
        let rule = |value: &Value| Rule {
            subjects: value.list_at(&["subjects"]).iter().filter_map(Subject::read).collect(),
            resources: value.list_at(&["resourceRules"]).iter().map(ResourceRule::read).collect(),
            paths: value.list_at(&["nonResourceRules"]).iter().map(PathRule::read).collect(),
        };
        let by = match object.str_at(&["spec", "distinguisherMethod", "type"]) {
            "ByUser" => By::User,
            "ByNamespace" => By::Namespace,
            _ => By::Nothing,
        };
        let mark = |uid: &str| HeaderValue::from_str(uid).unwrap_or_else(|_| HeaderValue::from_static(""));
        Self {
            name: object.str_at(&["metadata", "name"]).to_owned(),
            precedence: object.int_at(&["spec", "matchingPrecedence"]).unwrap_or(1_000),
            by,
            rules: object.list_at(&["spec", "rules"]).iter().map(rule).collect(),
            level,
            marks: [mark(object.str_at(&["metadata", "uid"])), mark(level_uid)],
            told,
        }
    }

    /// Whether a request is one of the schema's.
    pub(super) fn matches(&self, user: &User, asked: &Attributes<'_>) -> bool {
        self.rules.iter().any(|rule| {
            let asked_for = if asked.path.is_empty() {
                rule.resources.iter().any(|rule| rule.matches(asked))
            } else {
                rule.paths.iter().any(|rule| rule.matches(asked))
            };
            asked_for && rule.subjects.iter().any(|subject| subject.matches(user))
        })
    }

    /// What tells the request's flow apart from the schema's others.
    pub(super) fn distinguisher<'a>(&self, user: &'a User, asked: &Attributes<'a>) -> &'a str {
        match self.by {
            By::Nothing => "",
            By::User => &user.name,
            By::Namespace => asked.namespace,
        }
    }

    /// The number of a request's flow.
    pub(super) fn flow(&self, user: &User, asked: &Attributes<'_>) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.name.hash(&mut hasher);
        self.distinguisher(user, asked).hash(&mut hasher);
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{Query, RequestInfo};
    use serde_json::json;

    fn schema(rule: &serde_json::Value) -> Schema {
        let object = json!({"metadata": {"name": "s", "uid": "u"}, "spec": {"matchingPrecedence": 5,
            "priorityLevelConfiguration": {"name": "p"}, "distinguisherMethod": {"type": "ByUser"}, "rules": [rule]}});
        Schema::read(&object.into(), 0, "v", Told::default())
    }

    #[test]
    fn subjects_resources_and_paths_match_as_upstream_says() {
        let everything = json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"],
            "clusterScope": true}]);
        let only = |verbs: &[&str], resources: &[&str], namespaces: &[&str], cluster: bool| {
            json!({"subjects": [{"kind": "Group", "group": {"name": "*"}}], "resourceRules": [{"verbs": verbs,
                "apiGroups": [""], "resources": resources, "namespaces": namespaces, "clusterScope": cluster}]})
        };
        let by = |subject: serde_json::Value| json!({"subjects": [subject], "resourceRules": everything});
        let path = |url: &str| {
            json!({"subjects": [{"kind": "User", "user": {"name": "*"}}],
                "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": [url]}]})
        };
        let pods = "/api/v1/namespaces/n/pods";
        for (rule, target, expected) in [
            (by(json!({"kind": "User", "user": {"name": "system:serviceaccount:n:a"}})), pods, true),
            (by(json!({"kind": "User", "user": {"name": "b"}})), pods, false),
            (by(json!({"kind": "Group", "group": {"name": "system:serviceaccounts"}})), pods, true),
            (by(json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": "n", "name": "*"}})), pods, true),
            (by(json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": "m", "name": "*"}})), pods, false),
            (by(json!({"kind": "Group", "group": {"name": "*"}})), "/healthz", false),
            (only(&["list"], &["pods"], &["n"], false), pods, true),
            (only(&["get"], &["pods"], &["n"], false), pods, false),
            (only(&["list"], &["pods"], &["m"], false), pods, false),
            (only(&["list"], &["pods"], &["*"], false), "/api/v1/pods", false),
            (only(&["list"], &["pods"], &[], true), "/api/v1/pods", true),
            (only(&["get"], &["pods"], &["n"], false), "/api/v1/namespaces/n/pods/p/status", false),
            (only(&["get"], &["pods/status"], &["n"], false), "/api/v1/namespaces/n/pods/p/status", true),
            (path("/healthz"), "/healthz", true),
            (path("/healthz"), "/healthz/ping", false),
            (path("/healthz/*"), "/healthz/ping", true),
            (path("*"), pods, false),
        ] {
            let user = User::service_account("n", "a", "u");
            let info = RequestInfo::parse(&::http::Method::GET, target, &Query::default());
            assert_eq!(schema(&rule).matches(&user, &info.attributes()), expected, "{target} {rule}");
        }
    }

    #[test]
    fn flows_are_told_apart_by_what_the_schema_says() {
        let schema = schema(&json!({}));
        let info = RequestInfo::parse(&::http::Method::GET, "/api/v1/pods", &Query::default());
        let flow = |name: &str| schema.flow(&User::new(name, &[]), &info.attributes());
        assert_eq!(flow("a"), flow("a"));
        assert_ne!(flow("a"), flow("b"));
        assert_eq!(schema.marks, ["u", "v"]);
    }
}
