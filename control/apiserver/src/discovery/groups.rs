//! Discovery: groups, versions and resources, in the plain and in the aggregated form.

use super::{Documents, plain, storage_version_hash, tagged};
use crate::{
    ApiServer,
    http::{Answer, Query, accept_ranges},
};
use ::http::HeaderMap;
use serde_json::{Map, Value as Json, json};
use timonel_api::{Resource, Scheme, Status, Subresource, Verb};

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
const AGGREGATED_BETA: &str = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";

/// The version of the aggregated form that the client prefers to the plain one.
pub(super) fn aggregated(headers: &HeaderMap) -> Option<&'static str> {
    accept_ranges(headers).iter().find_map(|range| {
        let json = range.kind == "application" && range.subtype == "json";
        match (range.parameter("as"), range.parameter("g"), range.parameter("v")) {
            ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2") if json => Some(Some("v2")),
            ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2beta1") if json => Some(Some("v2beta1")),
            ("", "", "") if range.media().is_some() => Some(None),
            _ => None,
        }
    })?
}

/// How the aggregated form of a version is called.
pub(super) fn aggregated_type(version: &str) -> &'static str {
    if version == "v2" { AGGREGATED } else { AGGREGATED_BETA }
}

fn aggregated_answer(
    documents: &Documents,
    headers: &HeaderMap,
    version: &'static str,
    core: bool,
) -> Result<Answer, Status> {
    let name = format!("aggregated/{version}/{core}");
    let document = documents.get(&name, |scheme| Some(aggregated_list(scheme, version, core)));
    document.map(|document| tagged(headers, aggregated_type(version), &document)).ok_or_else(Status::no_such_resource)
}

/// `/api`.
pub(super) fn core(
    server: &ApiServer,
    documents: &Documents,
    headers: &HeaderMap,
    query: &Query<'_>,
) -> Result<Answer, Status> {
    if let Some(version) = aggregated(headers) {
        return aggregated_answer(documents, headers, version, true);
    }
    let address = json!([{"clientCIDR": "0.0.0.0/0", "serverAddress": server.public_address}]);
    plain(headers, query, &json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": address}))
}

/// `/apis`.
pub(super) fn all(documents: &Documents, headers: &HeaderMap, query: &Query<'_>) -> Result<Answer, Status> {
    if let Some(version) = aggregated(headers) {
        return aggregated_answer(documents, headers, version, false);
    }
    let groups = documents.scheme.groups().iter().filter(|group| !group.name.is_empty());
    let groups: Vec<Json> = groups.map(|group| group_json(&documents.scheme, &group.name)).collect();
    plain(headers, query, &json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
}

/// `/apis/GROUP`.
pub(super) fn one(
    documents: &Documents,
    headers: &HeaderMap,
    query: &Query<'_>,
    group: &str,
) -> Result<Answer, Status> {
    if !documents.scheme.groups().iter().any(|known| known.name == group) || group.is_empty() {
        return Err(Status::no_such_resource());
    }
    let mut json = group_json(&documents.scheme, group);
    json["kind"] = "APIGroup".into();
    json["apiVersion"] = "v1".into();
    plain(headers, query, &json)
}

fn group_json(scheme: &Scheme, name: &str) -> Json {
    let versions = scheme.groups().iter().find(|group| group.name == name).map(|group| group.versions.as_slice());
    let version = |version: &str| json!({"groupVersion": timonel_api::api_version(name, version), "version": version});
    let versions: Vec<Json> = versions.unwrap_or_default().iter().map(|known| version(known)).collect();
    json!({"name": name, "preferredVersion": versions.first(), "versions": versions})
}

/// `/api/v1` and `/apis/GROUP/VERSION`.
pub(super) fn resources(
    documents: &Documents,
    headers: &HeaderMap,
    query: &Query<'_>,
    group: &str,
    version: &str,
) -> Result<Answer, Status> {
    let scheme = &documents.scheme;
    let mut listed: Vec<Json> = Vec::new();
    for resource in scheme.resources_of(group, version) {
        listed.push(resource_json(scheme, resource));
        listed.extend(resource.subresources.iter().map(|sub| subresource_json(resource, sub)));
    }
    if listed.is_empty() {
        return Err(Status::no_such_resource());
    }
    listed.sort_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
    let mut json = json!({
        "kind": "APIResourceList",
        "groupVersion": timonel_api::api_version(group, version),
        "resources": listed,
    });
    if !group.is_empty() {
        json["apiVersion"] = "v1".into();
    }
    plain(headers, query, &json)
}

fn verbs(verbs: &[Verb]) -> Json {
    let mut names: Vec<&str> = verbs.iter().map(|verb| verb.as_str()).collect();
    names.sort_unstable();
    names.into()
}

fn resource_json(scheme: &Scheme, resource: &Resource) -> Json {
    let mut json = json!({
        "name": resource.plural.as_str(),
        "singularName": resource.singular.as_str(),
        "namespaced": resource.namespaced,
        "kind": resource.kind.as_str(),
        "verbs": verbs(&resource.verbs),
    });
    names(&mut json, resource);
    if resource.allows(Verb::Watch)
        && let Some(storage) = scheme.storage_of(resource)
    {
        json["storageVersionHash"] = storage_version_hash(&storage.group, &storage.version, &storage.kind).into();
    }
    json
}

fn names(json: &mut Json, resource: &Resource) {
    for (field, list) in [("shortNames", &resource.short_names), ("categories", &resource.categories)] {
        if !list.is_empty() {
            json[field] = list.iter().map(|name| name.as_str()).collect::<Vec<_>>().into();
        }
    }
}

fn subresource_json(resource: &Resource, sub: &Subresource) -> Json {
    let mut json = json!({
        "name": format!("{}/{}", resource.plural, sub.name),
        "singularName": "",
        "namespaced": resource.namespaced,
        "kind": sub.gvk.kind.as_str(),
        "verbs": verbs(&sub.verbs),
    });
    if (&sub.gvk.group, &sub.gvk.version) != (&resource.group, &resource.version) {
        json["group"] = sub.gvk.group.as_str().into();
        json["version"] = sub.gvk.version.as_str().into();
    }
    json
}

pub(super) fn aggregated_list(scheme: &Scheme, version: &str, core: bool) -> Json {
    let groups = scheme.groups().iter().filter(|group| group.name.is_empty() == core);
    let items: Vec<Json> = groups
        .map(|group| {
            let versions: Vec<Json> =
                group.versions.iter().map(|v| aggregated_version(scheme, &group.name, v)).collect();
            let mut metadata = Map::new();
            metadata.insert("creationTimestamp".into(), Json::Null);
            if !core {
                metadata.insert("name".into(), group.name.as_str().into());
            }
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": format!("apidiscovery.k8s.io/{version}"),
        "metadata": {},
        "items": items,
    })
}

fn aggregated_version(scheme: &Scheme, group: &str, version: &str) -> Json {
    let mut resources: Vec<Json> =
        scheme.resources_of(group, version).map(|resource| aggregated_resource(resource)).collect();
    resources.sort_by(|a, b| a["resource"].as_str().cmp(&b["resource"].as_str()));
    json!({"version": version, "resources": resources, "freshness": "Current"})
}

fn aggregated_resource(resource: &Resource) -> Json {
    let kind = |group: &str, version: &str, kind: &str| {
        let own = group == resource.group && version == resource.version;
        if own {
            json!({"group": resource.group.as_str(), "version": resource.version.as_str(), "kind": kind})
        } else {
            json!({"group": group, "version": version, "kind": kind})
        }
    };
    let mut json = json!({
        "resource": resource.plural.as_str(),
        "responseKind": kind(&resource.group, &resource.version, &resource.kind),
        "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": resource.singular.as_str(),
        "verbs": verbs(&resource.verbs),
    });
    names(&mut json, resource);
    let subresources: Vec<Json> = resource
        .subresources
        .iter()
        .map(|sub| {
            let kind = kind(&sub.gvk.group, &sub.gvk.version, &sub.gvk.kind);
            json!({"subresource": sub.name.as_str(), "responseKind": kind, "verbs": verbs(&sub.verbs)})
        })
        .collect();
    if !subresources.is_empty() {
        json["subresources"] = subresources.into();
    }
    json
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_described_in_both_forms() {
        let scheme = Scheme::kubernetes();
        let pods = scheme.resource("", "v1", "pods").unwrap();
        let plain = resource_json(&scheme, pods);
        assert_eq!(plain["shortNames"], json!(["po"]));
        assert_eq!(plain["storageVersionHash"], "xPOwRZ+Yhw8=");
        let eviction = subresource_json(pods, pods.subresource("eviction").unwrap());
        assert_eq!((&eviction["group"], &eviction["kind"]), (&json!("policy"), &json!("Eviction")));
        let aggregated = aggregated_list(&scheme, "v2", true);
        let resources = aggregated["items"][0]["versions"][0]["resources"].as_array().unwrap();
        let pods = resources.iter().find(|resource| resource["resource"] == "pods").unwrap();
        assert_eq!(pods["responseKind"], json!({"group": "", "version": "v1", "kind": "Pod"}));
        assert!(pods["subresources"].as_array().unwrap().len() >= 9);
    }

    #[test]
    fn clients_say_which_form_they_want() {
        let header = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("accept", text.parse().unwrap());
            aggregated(&headers)
        };
        let kubectl = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,\
                       application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
        for (text, expected) in [
            (kubectl, Some("v2")),
            ("application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList", Some("v2beta1")),
            ("application/json", None),
            ("*/*", None),
        ] {
            assert_eq!(header(text), expected, "{text}");
        }
    }
}
