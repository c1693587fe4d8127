//! One list of what this server and others serve: the order of groups, discovery, OpenAPI. Pure.

use serde_json::{Map, Value as Json, json};
use std::{cmp::Reverse, collections::BTreeMap};
use timonel_api::definition::version_order;

/// A group and version, and where it stands among the others.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Placed {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) group_priority: i64,
    pub(crate) version_priority: i64,
    /// What the server that answers says of it, when that is another one.
    pub(crate) remote: Option<Json>,
}

/// Groups in order, each with its versions in order: as upstream orders them, by priority, then by name.
fn ordered(mut placed: Vec<Placed>) -> Vec<(String, Vec<Placed>)> {
    placed.sort_by_cached_key(|one| (Reverse(one.group_priority), format!("{}.{}", one.version, one.group)));
    let mut groups: Vec<(String, Vec<Placed>)> = Vec::new();
    for one in placed {
        match groups.iter_mut().find(|(group, _)| *group == one.group) {
            Some((_, versions)) => versions.push(one),
            None => groups.push((one.group.clone(), vec![one])),
        }
    }
    for (_, versions) in &mut groups {
        versions.sort_by_cached_key(|one| (Reverse(one.version_priority), Reverse(version_order(&one.version))));
    }
    groups
}

/// The groups of `/apis` in the plain form.
pub(crate) fn plain_groups(placed: Vec<Placed>) -> Vec<Json> {
    let group = |(name, versions): (String, Vec<Placed>)| {
        let version = |one: &Placed| json!({"groupVersion": format!("{name}/{}", one.version), "version": one.version});
        let versions: Vec<Json> = versions.iter().map(version).collect();
        json!({"name": name, "preferredVersion": versions.first(), "versions": versions})
    };
    ordered(placed).into_iter().map(group).collect()
}

/// The items of `/apis` in the aggregated form; `local` are this server's own.
pub(crate) fn aggregated_items(placed: Vec<Placed>, local: &[Json]) -> Vec<Json> {
    let mut own: BTreeMap<(&str, &str), &Json> = BTreeMap::new();
    for item in local {
        let group = item["metadata"]["name"].as_str().unwrap_or("");
        for version in item["versions"].as_array().into_iter().flatten() {
            own.insert((group, version["version"].as_str().unwrap_or("")), version);
        }
    }
    let item = |(name, versions): (String, Vec<Placed>)| {
        let version = |one: Placed| {
            let own = own.get(&(one.group.as_str(), one.version.as_str())).map(|own| (*own).clone());
            one.remote.or(own)
        };
        let versions: Vec<Json> = versions.into_iter().filter_map(version).collect();
        let metadata = json!({"name": name, "creationTimestamp": null});
        (!versions.is_empty()).then(|| json!({"metadata": metadata, "versions": versions}))
    };
    ordered(placed).into_iter().filter_map(item).collect()
}

/// What version 2 of OpenAPI says of a group in the document of the server that answers for it.
pub(crate) fn own_openapi(mut document: Json, group: &str) -> Json {
    let prefix = format!("/apis/{group}/");
    let mut paths = take(&mut document, "paths");
    paths.retain(|path, _| path.starts_with(&prefix));
    let mut all = take(&mut document, "definitions");
    let mut needed = Map::new();
    let mut open: Vec<String> = Vec::new();
    paths.values().for_each(|path| references(path, &mut open));
    // Ends, since every name is taken out of what there is.
    while let Some(name) = open.pop() {
        if let Some(definition) = all.remove(&name) {
            references(&definition, &mut open);
            needed.insert(name, definition);
        }
    }
    json!({ "paths": paths, "definitions": needed })
}

fn take(document: &mut Json, name: &str) -> Map<String, Json> {
    match document.get_mut(name).map(Json::take) {
        Some(Json::Object(members)) => members,
        _ => Map::new(),
    }
}

const REFERENCE: &str = "#/definitions/";

fn references(node: &Json, found: &mut Vec<String>) {
    match node {
        Json::Object(members) => {
            let name = members.get("$ref").and_then(Json::as_str).and_then(|text| text.strip_prefix(REFERENCE));
            found.extend(name.map(str::to_owned));
            members.values().for_each(|child| references(child, found));
        }
        Json::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

fn rename(node: &mut Json, names: &BTreeMap<String, String>) {
    match node {
        Json::Object(members) => {
            if let Some(Json::String(text)) = members.get_mut("$ref")
                && let Some(new) = text.strip_prefix(REFERENCE).and_then(|name| names.get(name))
            {
                *text = format!("{REFERENCE}{new}");
            }
            members.values_mut().for_each(|child| rename(child, names));
        }
        Json::Array(items) => items.iter_mut().for_each(|item| rename(item, names)),
        _ => {}
    }
}

/// Adds what another server says to this server's document. A definition that both have differently is taken under
/// another name; of a path that both have this server's stays.
pub(crate) fn join_openapi(document: &mut Json, mut other: Json) {
    let theirs = take(&mut other, "definitions");
    let mut names = BTreeMap::new();
    for (name, definition) in &theirs {
        let known = |name: &str| document["definitions"].get(name);
        if known(name).is_none_or(|known| known == definition) {
            continue;
        }
        let free = (2..).map(|number| format!("{name}_v{number}"));
        names.extend(free.into_iter().find(|free| known(free).is_none()).map(|free| (name.clone(), free)));
    }
    for (name, mut definition) in theirs {
        rename(&mut definition, &names);
        let name = names.get(&name).cloned().unwrap_or(name);
        document["definitions"][name] = definition;
    }
    for (path, mut item) in take(&mut other, "paths") {
        if document["paths"].get(&path).is_none() {
            rename(&mut item, &names);
            document["paths"][path] = item;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placed(group: &str, version: &str, priorities: (i64, i64), remote: Option<Json>) -> Placed {
        let (group_priority, version_priority) = priorities;
        Placed { group: group.into(), version: version.into(), group_priority, version_priority, remote }
    }

    #[test]
    fn groups_stand_by_priority_and_versions_too() {
        let all = vec![
            placed("b.example", "v1", (1_000, 100), None),
            placed("apps", "v1", (17_800, 15), None),
            placed("a.example", "v1beta1", (1_000, 100), None),
            placed("a.example", "v1", (1_000, 100), None),
            placed("z.example", "v1", (2_000, 10), Some(json!({"version": "v1", "resources": [1]}))),
            placed("z.example", "v2alpha1", (500, 20), None),
        ];
        let names = |groups: Vec<Json>| -> Vec<String> {
            let name = |group: &Json| {
                let versions: Vec<&str> =
                    group["versions"].as_array().unwrap().iter().map(|v| v["version"].as_str().unwrap()).collect();
                let name = group["name"].as_str().or(group["metadata"]["name"].as_str()).unwrap();
                format!("{name} {}", versions.join(","))
            };
            groups.iter().map(name).collect()
        };
        let expected = ["apps v1", "z.example v2alpha1,v1", "a.example v1,v1beta1", "b.example v1"];
        assert_eq!(names(plain_groups(all.clone())), expected);
        let local = |group: &str, versions: &[&str]| {
            let versions: Vec<Json> = versions.iter().map(|version| json!({"version": version})).collect();
            json!({"metadata": {"name": group}, "versions": versions})
        };
        let local = [local("apps", &["v1"]), local("a.example", &["v1"]), local("z.example", &["v1"])];
        let items = aggregated_items(all, &local);
        assert_eq!(names(items.clone()), ["apps v1", "z.example v1", "a.example v1"]);
        assert_eq!(items[1]["versions"][0]["resources"], json!([1]), "who answers says what there is");
    }

    #[test]
    fn documents_of_others_join_without_changing_what_there_is() {
        let reference = |name: &str| json!({"$ref": format!("#/definitions/{name}")});
        let theirs = json!({
            "paths": {"/apis/a.b/v1/things": {"get": reference("Thing")}, "/version": {"get": reference("Info")}},
            "definitions": {"Thing": {"properties": {"meta": reference("Meta"), "same": reference("Same")}},
                "Meta": {"type": "array", "items": reference("Meta")}, "Same": {"type": "string"}, "Info": {}},
        });
        let own = own_openapi(theirs, "a.b");
        assert_eq!(own["paths"].as_object().unwrap().len(), 1);
        assert!(own["definitions"].get("Info").is_none());
        let mut document =
            json!({"paths": {"/x": {}}, "definitions": {"Meta": {"type": "object"}, "Same": {"type": "string"}}});
        join_openapi(&mut document, own);
        assert_eq!(document["definitions"]["Meta"], json!({"type": "object"}));
        assert_eq!(document["definitions"]["Meta_v2"]["items"], reference("Meta_v2"));
        assert_eq!(
            document["definitions"]["Thing"]["properties"],
            json!({"meta": reference("Meta_v2"), "same": reference("Same")})
        );
        assert!(document["paths"].get("/x").is_some() && document["paths"].get("/apis/a.b/v1/things").is_some());
    }
}
