//! Which resources the server offers: one preferred version each, those that can be listed, watched and deleted.

use super::kinds::Resource;
use kube::Client;
use serde_json::Value;
use std::collections::BTreeSet;

/// Groups whose objects come and go without owners worth following.
const IGNORED: &[(&str, &str)] = &[("", "events"), ("events.k8s.io", "events")];

/// Resources, and the groups that could not be asked.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) resources: Vec<Resource>,
    pub(crate) errors: Vec<String>,
}

/// Asks the server, in two requests where it knows aggregated discovery and one per group otherwise.
pub(crate) async fn discover(client: &Client) -> Result<Found, kube::Error> {
    if let (Ok(core), Ok(groups)) = (aggregated(client, "/api").await, aggregated(client, "/apis").await) {
        let mut found = Found::default();
        read_aggregated(&core, &mut found);
        read_aggregated(&groups, &mut found);
        if !found.resources.is_empty() {
            return Ok(found);
        }
    }
    plain(client).await
}

async fn aggregated(client: &Client, path: &str) -> Result<Value, kube::Error> {
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    let request = http::Request::get(path).header(http::header::ACCEPT, accept).body(Vec::new());
    client.request(request.map_err(kube::Error::HttpError)?).await
}

fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value[field].as_array().map_or(&[], Vec::as_slice)
}

fn usable(verbs: &[Value]) -> bool {
    ["list", "watch", "delete"].iter().all(|verb| verbs.iter().any(|have| have == verb))
}

fn read_aggregated(answer: &Value, found: &mut Found) {
    for group in list(answer, "items") {
        let group_name = group["metadata"]["name"].as_str().unwrap_or_default();
        let mut seen = BTreeSet::new();
        for version in list(group, "versions") {
            let name = version["version"].as_str().unwrap_or_default();
            let api_version = if group_name.is_empty() { name.to_owned() } else { format!("{group_name}/{name}") };
            if version["freshness"] == "Stale" {
                found.errors.push(format!("{api_version}: stale GroupVersion discovery"));
                continue;
            }
            for resource in list(version, "resources") {
                let plural = resource["resource"].as_str().unwrap_or_default();
                let ignored = IGNORED.contains(&(group_name, plural));
                if ignored || !usable(list(resource, "verbs")) || !seen.insert(plural.to_owned()) {
                    continue;
                }
                found.resources.push(Resource {
                    api_version: api_version.as_str().into(),
                    kind: resource["responseKind"]["kind"].as_str().unwrap_or_default().into(),
                    plural: plural.into(),
                    namespaced: resource["scope"] == "Namespaced",
                });
            }
        }
    }
}

async fn plain(client: &Client) -> Result<Found, kube::Error> {
    let mut found = Found::default();
    let core = client.list_core_api_resources("v1").await?;
    read_plain(&core, &mut BTreeSet::new(), &mut found);
    for group in client.list_api_groups().await?.groups {
        let mut seen = BTreeSet::new();
        let preferred = group.preferred_version.iter().map(|version| &version.group_version);
        let others = group.versions.iter().map(|version| &version.group_version);
        let mut asked = BTreeSet::new();
        for version in preferred.chain(others).filter(|version| asked.insert((*version).clone())) {
            match client.list_api_group_resources(version).await {
                Ok(resources) => read_plain(&resources, &mut seen, &mut found),
                Err(error) => found.errors.push(format!("{version}: {error}")),
            }
        }
    }
    Ok(found)
}

fn read_plain(
    answer: &k8s_openapi::apimachinery::pkg::apis::meta::v1::APIResourceList,
    seen: &mut BTreeSet<String>,
    found: &mut Found,
) {
    let group = answer.group_version.split_once('/').map_or("", |(group, _)| group);
    for resource in &answer.resources {
        let verbs = ["list", "watch", "delete"].iter().all(|verb| resource.verbs.iter().any(|have| have == verb));
        let ignored = resource.name.contains('/') || IGNORED.contains(&(group, resource.name.as_str()));
        if ignored || !verbs || !seen.insert(resource.name.clone()) {
            continue;
        }
        found.resources.push(Resource {
            api_version: answer.group_version.as_str().into(),
            kind: resource.kind.as_str().into(),
            plural: resource.name.as_str().into(),
            namespaced: resource.namespaced,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn one_version_of_each_usable_resource() {
        let verbs = json!(["list", "watch", "delete", "get"]);
        let answer = json!({"items": [
            {"metadata": {"name": "apps"}, "versions": [
                {"version": "v1", "resources": [
                    {"resource": "deployments", "responseKind": {"kind": "Deployment"}, "scope": "Namespaced", "verbs": verbs},
                    {"resource": "looks", "responseKind": {"kind": "Look"}, "scope": "Namespaced", "verbs": ["create"]}]},
                {"version": "v1beta1", "resources": [
                    {"resource": "deployments", "responseKind": {"kind": "Deployment"}, "scope": "Namespaced", "verbs": verbs}]}]},
            {"metadata": {"name": "events.k8s.io"}, "versions": [{"version": "v1", "resources": [
                {"resource": "events", "responseKind": {"kind": "Event"}, "scope": "Namespaced", "verbs": verbs}]}]},
            {"metadata": {"name": "metrics"}, "versions": [{"version": "v1", "freshness": "Stale", "resources": []}]}]});
        let mut found = Found::default();
        read_aggregated(&answer, &mut found);
        let names: Vec<_> = found.resources.iter().map(|resource| resource.path("ns", "x")).collect();
        assert_eq!(names, ["/apis/apps/v1/namespaces/ns/deployments/x"]);
        assert_eq!(found.errors, ["metrics/v1: stale GroupVersion discovery"]);
    }
}
