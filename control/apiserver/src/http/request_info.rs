//! What a request is about, from its method, path and query alone: upstream's rules for API paths. Pure.

use super::query::{Query, decode};
use crate::authz::Attributes;
use std::borrow::Cow;

/// A parsed request line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RequestInfo<'a> {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`; the method in lower
    /// case for what is no resource.
    pub(crate) verb: Cow<'a, str>,
    pub(crate) group: Cow<'a, str>,
    pub(crate) version: Cow<'a, str>,
    pub(crate) namespace: Cow<'a, str>,
    pub(crate) resource: Cow<'a, str>,
    pub(crate) subresource: Cow<'a, str>,
    pub(crate) name: Cow<'a, str>,
    /// Whether the path itself names an object (a selector that does is for authorization only).
    pub(crate) is_named: bool,
    /// What follows the subresource (`proxy`), with its leading slash, not decoded.
    pub(crate) rest: &'a str,
    pub(crate) path: &'a str,
    pub(crate) is_resource: bool,
    pub(crate) label_selector: Cow<'a, str>,
    pub(crate) field_selector: Cow<'a, str>,
}

/// Subresources of a namespace; any other third segment is a resource inside it.
const NAMESPACE_SUBRESOURCES: [&str; 2] = ["status", "finalize"];

impl<'a> RequestInfo<'a> {
    pub(crate) fn parse(method: &'a ::http::Method, path: &'a str, query: &Query<'_>) -> Self {
        let mut info = Self { verb: method.as_str().to_ascii_lowercase().into(), path, ..Self::default() };
        let Some((group, version, mut parts)) = api_prefix(path) else { return info };
        (info.group, info.version) = (group, version);
        info.is_resource = true;
        info.verb = match method.as_str() {
            "POST" => "create".into(),
            "GET" | "HEAD" => "get".into(),
            "PUT" => "update".into(),
            "PATCH" => "patch".into(),
            "DELETE" => "delete".into(),
            _ => "".into(),
        };
        if parts.first().is_some_and(|part| part.text == "watch") && parts.len() > 1 {
            info.verb = "watch".into();
            parts.remove(0);
        }
        info.resource_parts(&parts, path);
        info.collection(query);
        info
    }

    fn resource_parts(&mut self, parts: &[Part<'a>], path: &'a str) {
        let mut parts = parts;
        if let [first, namespace, rest @ ..] = parts
            && first.text == "namespaces"
        {
            self.namespace = decode(namespace.text, false);
            if rest.first().is_some_and(|third| !NAMESPACE_SUBRESOURCES.contains(&third.text)) {
                parts = rest;
            }
        }
        if let Some(resource) = parts.first() {
            self.resource = decode(resource.text, false);
        }
        if let Some(name) = parts.get(1) {
            self.name = decode(name.text, false);
            self.is_named = true;
        }
        if let Some(subresource) = parts.get(2) {
            self.subresource = decode(subresource.text, false);
            self.rest = &path[subresource.end..];
        }
    }

    /// A request without a name is about the collection; one whose field selector names one object is authorized
    /// as if it named it.
    fn collection(&mut self, query: &Query<'_>) {
        if !self.is_named {
            match &*self.verb {
                "get" => self.verb = if query.flag("watch") { "watch".into() } else { "list".into() },
                "delete" => self.verb = "deletecollection".into(),
                _ => {}
            }
        }
        if !matches!(&*self.verb, "list" | "watch" | "deletecollection") {
            return;
        }
        self.label_selector = query.get("labelSelector").to_owned().into();
        self.field_selector = query.get("fieldSelector").to_owned().into();
        if !self.is_named
            && let Some(name) = single_name(&self.field_selector).map(str::to_owned)
        {
            self.name = name.into();
        }
    }

    /// As authorization sees it.
    pub(crate) fn attributes(&self) -> Attributes<'_> {
        if !self.is_resource || self.resource.is_empty() {
            return Attributes::path(&self.verb, self.path);
        }
        Attributes {
            verb: &self.verb,
            group: &self.group,
            version: &self.version,
            resource: &self.resource,
            subresource: &self.subresource,
            namespace: &self.namespace,
            name: &self.name,
            path: "",
            label_selector: &self.label_selector,
            field_selector: &self.field_selector,
        }
    }
}

/// The name in a field selector that requires exactly one.
fn single_name(selector: &str) -> Option<&str> {
    let mut terms = selector.split(',').filter_map(|term| term.strip_prefix("metadata.name="));
    let name = terms.next()?;
    let name = name.strip_prefix('=').unwrap_or(name);
    let plain = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.:".contains(&byte));
    (plain && terms.next().is_none()).then_some(name)
}

#[derive(Clone, Copy)]
struct Part<'a> {
    text: &'a str,
    end: usize,
}

/// Group, version and what follows of `/api/v1/…` and `/apis/GROUP/VERSION/…`; `None` for every other path.
fn api_prefix(path: &str) -> Option<(Cow<'_, str>, Cow<'_, str>, Vec<Part<'_>>)> {
    let mut parts = split(path);
    match parts.first()?.text {
        "api" if parts.len() >= 3 => {
            let version = decode(parts[1].text, false);
            parts.drain(..2);
            Some(("".into(), version, parts))
        }
        "apis" if parts.len() >= 4 => {
            let (group, version) = (decode(parts[1].text, false), decode(parts[2].text, false));
            parts.drain(..3);
            Some((group, version, parts))
        }
        _ => None,
    }
}

fn split(path: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::with_capacity(8);
    let mut start = 0;
    for segment in path.split('/') {
        let end = start + segment.len();
        if !segment.is_empty() {
            parts.push(Part { text: segment, end });
        }
        start = end + 1;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::http::Method;

    fn line(method: &Method, target: &str) -> String {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let info = RequestInfo::parse(method, path, &Query::parse(query));
        format!(
            "{} {}/{} ns={} {} sub={} name={} rest={} {}",
            info.verb,
            info.group,
            info.version,
            info.namespace,
            info.resource,
            info.subresource,
            info.name,
            info.rest,
            info.is_resource
        )
    }

    #[test]
    fn paths_mean_what_upstream_says() {
        for (method, target, expected) in [
            (Method::GET, "/healthz", "get / ns=  sub= name= rest= false"),
            (Method::GET, "/api", "get / ns=  sub= name= rest= false"),
            (Method::GET, "/apis/apps/v1", "get / ns=  sub= name= rest= false"),
            (Method::GET, "/api/v1/pods", "list /v1 ns= pods sub= name= rest= true"),
            (Method::GET, "/api/v1/pods?watch=true", "watch /v1 ns= pods sub= name= rest= true"),
            (Method::GET, "/api/v1/namespaces", "list /v1 ns= namespaces sub= name= rest= true"),
            (Method::GET, "/api/v1/namespaces/x", "get /v1 ns=x namespaces sub= name=x rest= true"),
            (Method::PUT, "/api/v1/namespaces/x/finalize", "update /v1 ns=x namespaces sub=finalize name=x rest= true"),
            (Method::POST, "/api/v1/namespaces/x/pods", "create /v1 ns=x pods sub= name= rest= true"),
            (Method::DELETE, "/api/v1/namespaces/x/pods", "deletecollection /v1 ns=x pods sub= name= rest= true"),
            (
                Method::PATCH,
                "/apis/apps/v1/namespaces/x/deployments/d/scale",
                "patch apps/v1 ns=x deployments sub=scale name=d rest= true",
            ),
            (
                Method::GET,
                "/api/v1/namespaces/x/services/https:s:1/proxy/a%20b/c",
                "get /v1 ns=x services sub=proxy name=https:s:1 rest=/a%20b/c true",
            ),
            (
                Method::GET,
                "/api/v1/nodes?fieldSelector=metadata.name%3Dn1",
                "list /v1 ns= nodes sub= name=n1 rest= true",
            ),
            (Method::GET, "/api/v1/watch/namespaces/x/pods/p", "watch /v1 ns=x pods sub= name=p rest= true"),
        ] {
            assert_eq!(line(&method, target), expected, "{method} {target}");
        }
    }
}
