//! What a server says of one group and version, in the aggregated form of discovery. Pure.

use serde_json::{Value as Json, json};

/// A group and version in a list of the aggregated form.
pub(super) fn version_of(list: &Json, group: &str, version: &str) -> Option<Json> {
    let groups = list["items"].as_array()?.iter();
    let mut own = groups.filter(|item| item["metadata"]["name"].as_str() == Some(group));
    own.find_map(|item| item["versions"].as_array()?.iter().find(|one| one["version"] == version).cloned())
}

/// The same from a list of the plain form: subresources are listed beside their resources there.
pub(super) fn from_resource_list(list: &Json, group: &str, version: &str) -> Json {
    let listed = list["resources"].as_array().map(Vec::as_slice).unwrap_or_default();
    let name = |entry: &Json| entry["name"].as_str().unwrap_or("").to_owned();
    let kind = |entry: &Json| {
        let own = |field: &str, default: &str| {
            entry[field].as_str().filter(|text| !text.is_empty()).unwrap_or(default).to_owned()
        };
        json!({"group": own("group", group), "version": own("version", version), "kind": entry["kind"]})
    };
    let mut resources = Vec::new();
    for entry in listed.iter().filter(|entry| !name(entry).contains('/')) {
        let mut resource = json!({
            "resource": name(entry),
            "responseKind": kind(entry),
            "scope": if entry["namespaced"] == true { "Namespaced" } else { "Cluster" },
            "singularResource": entry["singularName"].as_str().unwrap_or(""),
            "verbs": entry["verbs"],
        });
        for field in ["shortNames", "categories"] {
            if entry[field].is_array() {
                resource[field] = entry[field].clone();
            }
        }
        let prefix = format!("{}/", name(entry));
        let subresources = listed.iter().filter_map(|sub| {
            let own = name(sub).strip_prefix(&prefix)?.to_owned();
            Some(json!({"subresource": own, "responseKind": kind(sub), "verbs": sub["verbs"]}))
        });
        let subresources: Vec<Json> = subresources.collect();
        if !subresources.is_empty() {
            resource["subresources"] = subresources.into();
        }
        resources.push(resource);
    }
    json!({ "version": version, "resources": resources })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_say_the_same() {
        let plain = json!({"groupVersion": "a.b/v1", "resources": [
            {"name": "things", "singularName": "thing", "namespaced": true, "kind": "Thing", "verbs": ["get"], "shortNames": ["t"]},
            {"name": "things/scale", "singularName": "", "namespaced": true, "group": "autoscaling", "version": "v1",
                "kind": "Scale", "verbs": ["get"]}]});
        let converted = from_resource_list(&plain, "a.b", "v1");
        let expected = json!({"version": "v1", "resources": [{
            "resource": "things", "singularResource": "thing", "scope": "Namespaced", "verbs": ["get"], "shortNames": ["t"],
            "responseKind": {"group": "a.b", "version": "v1", "kind": "Thing"},
            "subresources": [{"subresource": "scale", "verbs": ["get"],
                "responseKind": {"group": "autoscaling", "version": "v1", "kind": "Scale"}}]}]});
        assert_eq!(converted, expected);
        let list = json!({"items": [{"metadata": {"name": "x"}, "versions": [{"version": "v1"}]},
            {"metadata": {"name": "a.b"}, "versions": [expected]}]});
        assert_eq!(version_of(&list, "a.b", "v1"), Some(expected));
        assert_eq!(version_of(&list, "a.b", "v2"), None);
    }
}
