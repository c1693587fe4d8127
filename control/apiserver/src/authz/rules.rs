//! Rules of roles: matching, covering, and their short text. Pure.

use super::Attributes;
use compact_str::CompactString;
use std::collections::BTreeMap;
use timonel_api::Value;

/// One rule of a role.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// Verbs, or `*`.
    pub verbs: Vec<CompactString>,
    /// API groups, or `*`.
    pub groups: Vec<CompactString>,
    /// `resource`, `resource/subresource`, `*/subresource` or `*`.
    pub resources: Vec<CompactString>,
    /// Names; none means all.
    pub names: Vec<CompactString>,
    /// Paths that are no resources; a final `*` matches any rest.
    pub urls: Vec<CompactString>,
}

fn has(set: &[CompactString], text: &str) -> bool {
    set.iter().any(|member| member == text)
}

fn has_or_star(set: &[CompactString], text: &str) -> bool {
    set.iter().any(|member| member == "*" || member == text)
}

fn texts(value: &Value, field: &str) -> Vec<CompactString> {
    value.list_at(&[field]).iter().filter_map(Value::as_str).map(CompactString::from).collect()
}

impl Rule {
    /// A rule about resources.
    #[must_use]
    pub fn resources(verbs: &[&str], group: &str, resources: &[&str]) -> Self {
        let list = |texts: &[&str]| texts.iter().map(|text| (*text).into()).collect();
        Self { verbs: list(verbs), groups: vec![group.into()], resources: list(resources), ..Self::default() }
    }

    /// From a `PolicyRule`.
    #[must_use]
    pub fn from_value(value: &Value) -> Self {
        Self {
            verbs: texts(value, "verbs"),
            groups: texts(value, "apiGroups"),
            resources: texts(value, "resources"),
            names: texts(value, "resourceNames"),
            urls: texts(value, "nonResourceURLs"),
        }
    }

    /// The rules of a role.
    #[must_use]
    pub fn all_of(role: &Value) -> Vec<Self> {
        role.list_at(&["rules"]).iter().map(Self::from_value).collect()
    }

    /// As a `PolicyRule`.
    #[must_use]
    pub fn to_value(&self) -> Value {
        let mut value = Value::object();
        for (field, list) in [
            ("verbs", &self.verbs),
            ("apiGroups", &self.groups),
            ("resources", &self.resources),
            ("resourceNames", &self.names),
            ("nonResourceURLs", &self.urls),
        ] {
            if !list.is_empty() || field == "verbs" {
                value.set_at(&[field], list.iter().cloned().map(Value::from).collect::<Vec<_>>());
            }
        }
        value
    }

    /// Whether it allows the action.
    #[must_use]
    pub fn allows(&self, attributes: &Attributes<'_>) -> bool {
        if !has_or_star(&self.verbs, attributes.verb) {
            return false;
        }
        if !attributes.is_resource() {
            return self.urls.iter().any(|url| url_covers(url, attributes.path));
        }
        has_or_star(&self.groups, attributes.group)
            && self.resources.iter().any(|rule| resource_matches(rule, attributes.resource, attributes.subresource))
            && (self.names.is_empty() || has(&self.names, attributes.name))
    }

    /// Splits into rules of one verb and one resource (and name) or URL each.
    fn breakdown(&self) -> Vec<Self> {
        let mut parts = Vec::new();
        for (group, resource) in self.groups.iter().flat_map(|group| self.resources.iter().map(move |r| (group, r))) {
            for verb in &self.verbs {
                let part = Self {
                    verbs: vec![verb.clone()],
                    groups: vec![group.clone()],
                    resources: vec![resource.clone()],
                    ..Self::default()
                };
                if self.names.is_empty() {
                    parts.push(part);
                } else {
                    parts.extend(self.names.iter().map(|name| Self { names: vec![name.clone()], ..part.clone() }));
                }
            }
        }
        for url in &self.urls {
            parts.extend(self.verbs.iter().map(|verb| Self {
                verbs: vec![verb.clone()],
                urls: vec![url.clone()],
                ..Self::default()
            }));
        }
        parts
    }

    /// Whether this rule allows all that `part`, a result of [`Self::breakdown`], allows.
    fn covers(&self, part: &Self) -> bool {
        let all = |set: &[CompactString], wanted: &[CompactString]| wanted.iter().all(|text| has(set, text));
        let star = |set: &[CompactString]| has(set, "*");
        let resource = |path: &CompactString| {
            has_or_star(&self.resources, path)
                || path.split_once('/').is_some_and(|(_, sub)| has(&self.resources, &format!("*/{sub}")))
        };
        (star(&self.verbs) || all(&self.verbs, &part.verbs))
            && (star(&self.groups) || all(&self.groups, &part.groups))
            && part.resources.iter().all(resource)
            && part.urls.iter().all(|url| self.urls.iter().any(|own| url_covers(own, url)))
            && (self.names.is_empty() || (!part.names.is_empty() && all(&self.names, &part.names)))
    }
}

/// As upstream's escalation message writes a rule.
impl std::fmt::Display for Rule {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts: Vec<String> = [
            ("APIGroups", &self.groups),
            ("Resources", &self.resources),
            ("NonResourceURLs", &self.urls),
            ("ResourceNames", &self.names),
            ("Verbs", &self.verbs),
        ]
        .into_iter()
        .filter(|(_, list)| !list.is_empty())
        .map(|(name, list)| format!("{name}:{}", quoted_list(list)))
        .collect();
        write!(out, "{{{}}}", parts.join(", "))
    }
}

/// `["a" "b"]`, as Go prints a list of quoted texts.
pub(crate) fn quoted_list<T: std::fmt::Debug>(list: &[T]) -> String {
    format!("[{}]", list.iter().map(|text| format!("{text:?}")).collect::<Vec<_>>().join(" "))
}

fn resource_matches(rule: &str, resource: &str, subresource: &str) -> bool {
    if rule == "*" {
        return true;
    }
    match rule.split_once('/') {
        None => subresource.is_empty() && rule == resource,
        Some((parent, sub)) => !subresource.is_empty() && sub == subresource && (parent == "*" || parent == resource),
    }
}

fn url_covers(own: &str, path: &str) -> bool {
    own == path || own.ends_with('*') && path.starts_with(own.trim_end_matches('*'))
}

/// The parts of `wanted` that `owned` does not cover, each of one verb and one resource or URL.
#[must_use]
pub fn uncovered(owned: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    wanted.iter().flat_map(Rule::breakdown).filter(|part| !owned.iter().any(|rule| rule.covers(part))).collect()
}

/// Joins rules that differ only in verbs.
#[must_use]
pub fn compacted(rules: Vec<Rule>) -> Vec<Rule> {
    let mut simple: BTreeMap<(CompactString, CompactString, Option<CompactString>), Rule> = BTreeMap::new();
    let mut rest = Vec::new();
    for rule in rules {
        if let ([group], [resource], [] | [_], []) =
            (&rule.groups[..], &rule.resources[..], &rule.names[..], &rule.urls[..])
        {
            let key = (group.clone(), resource.clone(), rule.names.first().cloned());
            match simple.entry(key) {
                std::collections::btree_map::Entry::Occupied(mut known) => known.get_mut().verbs.extend(rule.verbs),
                std::collections::btree_map::Entry::Vacant(free) => {
                    free.insert(rule);
                }
            }
        } else {
            rest.push(rule);
        }
    }
    rest.extend(simple.into_values());
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(verbs: &str, groups: &str, resources: &str, names: &str, urls: &str) -> Rule {
        let list = |text: &str| {
            text.split(',').filter(|t| !t.is_empty()).map(|t| if t == "core" { "" } else { t }.into()).collect()
        };
        Rule {
            verbs: list(verbs),
            groups: list(groups),
            resources: list(resources),
            names: list(names),
            urls: list(urls),
        }
    }

    #[test]
    fn rules_allow_what_they_say() {
        let get = |resource, subresource, name| Attributes {
            subresource,
            ..Attributes::resource("get", "", resource, "ns", name)
        };
        for (rule, attributes, allowed) in [
            (rule("get", "core", "pods", "", ""), get("pods", "", ""), true),
            (rule("*", "*", "*", "", ""), get("pods", "log", "a"), true),
            (rule("get", "core", "pods", "", ""), get("pods", "log", ""), false),
            (rule("get", "core", "pods/log", "", ""), get("pods", "log", ""), true),
            (rule("get", "core", "*/log", "", ""), get("pods", "log", ""), true),
            (rule("get", "core", "*/log", "", ""), get("pods", "", ""), false),
            (rule("get", "apps", "pods", "", ""), get("pods", "", ""), false),
            (rule("list", "core", "pods", "", ""), get("pods", "", ""), false),
            (rule("get", "core", "pods", "a,b", ""), get("pods", "", "b"), true),
            (rule("get", "core", "pods", "a,b", ""), get("pods", "", ""), false),
            (rule("get", "", "", "", "/healthz"), Attributes::path("get", "/healthz"), true),
            (rule("get", "", "", "", "/api/*"), Attributes::path("get", "/api/v1"), true),
            (rule("get", "", "", "", "/api/*"), Attributes::path("get", "/api"), false),
            (rule("get", "", "", "", "*"), Attributes::path("get", "/metrics"), true),
            (rule("get", "", "", "", "*"), get("pods", "", ""), false),
        ] {
            assert_eq!(rule.allows(&attributes), allowed, "{rule} {attributes:?}");
        }
    }

    #[test]
    fn covering() {
        for (owned, wanted, missing) in [
            (rule("*", "*", "*", "", ""), rule("get,list", "core,apps", "a,b/c", "n", ""), ""),
            (rule("get", "core", "a", "", ""), rule("get", "core", "a", "n", ""), ""),
            (
                rule("get", "core", "a", "n", ""),
                rule("get", "core", "a", "", ""),
                r#"{APIGroups:[""], Resources:["a"], Verbs:["get"]}"#,
            ),
            (rule("get", "core", "*/status", "", ""), rule("get", "core", "a/status", "", ""), ""),
            (
                rule("get", "core", "a", "", ""),
                rule("get,list,watch", "core", "a", "", ""),
                r#"{APIGroups:[""], Resources:["a"], Verbs:["list" "watch"]}"#,
            ),
            (rule("get", "", "", "", "/a/*"), rule("get", "", "", "", "/a/b"), ""),
            (
                rule("get", "", "", "", "/a/*"),
                rule("get", "", "", "", "*"),
                r#"{NonResourceURLs:["*"], Verbs:["get"]}"#,
            ),
        ] {
            let left: Vec<String> = compacted(uncovered(&[owned], &[wanted])).iter().map(ToString::to_string).collect();
            assert_eq!(left.join("\n"), missing);
        }
    }

    #[test]
    fn rules_survive_values() {
        let rule = rule("get", "core", "pods", "a", "");
        assert_eq!(Rule::from_value(&rule.to_value()), rule);
    }
}
