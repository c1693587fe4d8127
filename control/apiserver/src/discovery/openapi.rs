//! OpenAPI documents: version 2 as a whole, version 3 per group and version.

use super::{Documents, custom, openapi_proto, paths, schemas, tagged};
use crate::{
    http::{Answer, JSON, Query, accept_ranges},
    registry::Resources,
};
use ::http::{HeaderMap, header};
use serde_json::{Map, Value as Json, json};
use timonel_api::{Scheme, Status};

/// What one of the two versions of OpenAPI calls the same things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    V2,
    V3,
}

impl Dialect {
    pub(super) const fn reference(self) -> &'static str {
        match self {
            Self::V2 => "#/definitions/",
            Self::V3 => "#/components/schemas/",
        }
    }
}

/// Version 2 in protobuf, as clients name it and as it is called in answers.
const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
const PROTOBUF_NAMES: [&str; 2] =
    ["com.github.proto-openapi.spec.v2@v1.0+protobuf", "com.github.proto-openapi.spec.v2.v1.0+protobuf"];

/// `/openapi/v2`.
pub(super) fn v2(resources: &Resources, headers: &HeaderMap) -> Result<Answer, Status> {
    let content_type = v2_type_of(headers)?;
    let name = if content_type == PROTOBUF { "openapi/v2+protobuf" } else { "openapi/v2" };
    let made = |_: &Scheme| Some(v2_document(&everything(resources), content_type));
    let document = resources.documents().get_as(name, made);
    document.map(|document| tagged(headers, content_type, &document)).ok_or_else(Status::no_such_resource)
}

/// The form of version 2 that an answer has.
pub(super) fn v2_type_of(headers: &HeaderMap) -> Result<&'static str, Status> {
    v2_type(headers).ok_or_else(|| Status::not_acceptable(&[JSON, PROTOBUF]))
}

/// A document of version 2 in one of its forms.
pub(super) fn v2_document(document: &Json, content_type: &str) -> super::Document {
    if content_type == PROTOBUF {
        return super::Document::of_bytes(openapi_proto::encode(document));
    }
    super::Document::new(document)
}

/// The document of all groups in version 2, those of custom kinds included.
pub(super) fn everything(resources: &Resources) -> Json {
    let mut document = whole(resources.base());
    for (group, version) in custom::groups(resources).keys() {
        let (paths, definitions) = custom::parts(resources, group, version, Dialect::V2);
        for (name, more) in [("paths", paths), ("definitions", definitions)] {
            for (key, value) in more {
                // What both define is the same; the built-in one stays.
                if document[name].get(&key).is_none() {
                    document[name][key] = value;
                }
            }
        }
    }
    document
}

/// The document of all built-in groups in version 2.
fn whole(scheme: &Scheme) -> Json {
    let mut needed = schemas::Needed::default();
    let mut listed = Map::new();
    for group in scheme.groups() {
        for version in &group.versions {
            listed.extend(paths::of(scheme, &group.name, version, Dialect::V2, &mut needed));
        }
    }
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": super::GIT_VERSION},
        "paths": listed,
        "definitions": schemas::all(scheme, needed, Dialect::V2),
    })
}

/// The form of version 2 that the client wants most among those there are.
fn v2_type(headers: &HeaderMap) -> Option<&'static str> {
    let ranges = accept_ranges(headers);
    if ranges.is_empty() {
        return Some(JSON);
    }
    ranges.iter().find_map(|range| match (range.kind, range.subtype) {
        ("*", "*") | ("application", "*" | "json") => Some(JSON),
        ("application", name) if PROTOBUF_NAMES.contains(&name) => Some(PROTOBUF),
        (_, name) => name.ends_with("+json").then_some(JSON),
    })
}

fn group_path(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

fn group_document(documents: &Documents, group: &str, version: &str) -> Option<super::Document> {
    documents.get(&format!("openapi/v3/{group}/{version}"), |scheme: &Scheme| {
        scheme.resources_of(group, version).next()?;
        let mut needed = schemas::Needed::default();
        let listed = paths::of(scheme, group, version, Dialect::V3, &mut needed);
        Some(json!({
            "openapi": "3.0.0",
            "info": {"title": "Kubernetes", "version": super::GIT_VERSION},
            "paths": listed,
            "components": {"schemas": schemas::all(scheme, needed, Dialect::V3)},
        }))
    })
}

/// `/openapi/v3`: where the documents are.
pub(super) fn v3_index(resources: &Resources, headers: &HeaderMap) -> Result<Answer, Status> {
    let document = resources.documents().get("openapi/v3", |_| v3_listing(resources));
    document.map(|document| tagged(headers, JSON, &document)).ok_or_else(Status::no_such_resource)
}

/// Where the documents of version 3 are.
pub(super) fn v3_listing(resources: &Resources) -> Option<Json> {
    let base = Documents::of(resources.base());
    let mut listed = Map::new();
    let mut list = |group: &str, version: &str, tag: &str| {
        let path = group_path(group, version);
        let url = format!("/openapi/v3/{path}?hash={tag}");
        listed.insert(path, json!({ "serverRelativeURL": url }));
    };
    for group in base.scheme.groups() {
        for version in &group.versions {
            list(&group.name, version, &group_document(&base, &group.name, version)?.tag);
        }
    }
    for ((group, version), tag) in custom::groups(resources) {
        list(&group, &version, &tag);
    }
    Some(json!({ "paths": listed }))
}

fn any_document(resources: &Resources, group: &str, version: &str) -> Option<super::Document> {
    let groups = custom::groups(resources);
    let Some(tag) = groups.get(&(group.to_owned(), version.to_owned())) else {
        return group_document(&Documents::of(resources.base()), group, version);
    };
    let document = resources.documents().get(&format!("openapi/v3/{group}/{version}"), |_| {
        let (listed, defined) = custom::parts(resources, group, version, Dialect::V3);
        Some(json!({
            "openapi": "3.0.0",
            "info": {"title": "Kubernetes CRD Swagger", "version": "v0.1.0"},
            "paths": listed,
            "components": {"schemas": defined},
        }))
    })?;
    Some(super::Document { tag: tag.clone(), ..document })
}

/// `/openapi/v3/apis/GROUP/VERSION`; a client that names the hash may keep what it gets.
pub(super) fn v3_group(
    resources: &Resources,
    headers: &HeaderMap,
    query: &Query<'_>,
    path: &str,
) -> Result<Answer, Status> {
    let segments: Vec<&str> = path.split('/').collect();
    let document = match segments[..] {
        ["api", version] => any_document(resources, "", version),
        ["apis", group, version] => any_document(resources, group, version),
        _ => None,
    };
    let document = document.ok_or_else(Status::no_such_resource)?;
    match query.find("hash") {
        None => Ok(tagged(headers, JSON, &document)),
        Some(hash) if hash == document.tag => {
            Ok(tagged(headers, JSON, &document).with(header::CACHE_CONTROL, "public, immutable, max-age=31536000"))
        }
        Some(_) => {
            let url = format!("/openapi/v3/{path}?hash={}", document.tag);
            Ok(Answer::text(301, "").with(header::LOCATION, &url))
        }
    }
}

/// The extension that names kinds.
pub(super) fn kind_extension(group: &str, version: &str, kind: &str) -> Json {
    json!({"group": group, "version": version, "kind": kind})
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of all OpenAPI documents of a scheme as they are kept.
    const MAX_KEPT: usize = 1 << 20;

    fn json(document: &super::super::Document) -> Json {
        serde_json::from_slice(&document.plain()).unwrap()
    }

    #[test]
    fn a_group_document_has_what_kubectl_looks_for() {
        let documents = Documents::of(&Scheme::kubernetes());
        let apps = json(&group_document(&documents, "apps", "v1").unwrap());
        let patch = &apps["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
        assert_eq!(patch["x-kubernetes-group-version-kind"], kind_extension("apps", "v1", "Deployment"));
        let names: Vec<_> =
            patch["parameters"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap()).collect();
        assert!(names.contains(&"fieldValidation") && names.contains(&"dryRun"), "{names:?}");
        let schemas = &apps["components"]["schemas"];
        let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
        assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
        assert_eq!(containers["x-kubernetes-list-type"], "map");
        assert_eq!(
            schemas["io.k8s.api.apps.v1.Deployment"]["x-kubernetes-group-version-kind"],
            json!([kind_extension("apps", "v1", "Deployment")])
        );
        assert!(schemas.get("io.k8s.api.core.v1.Node").is_none(), "only what the group needs");
    }

    #[test]
    fn every_reference_is_defined() {
        let documents = Documents::of(&Scheme::kubernetes());
        for group in documents.scheme.groups() {
            for version in &group.versions {
                let text = group_document(&documents, &group.name, version).unwrap();
                let json = json(&text);
                let text = String::from_utf8(text.plain().to_vec()).unwrap();
                for reference in text.split("\"#/components/schemas/").skip(1) {
                    let name = reference.split('"').next().unwrap();
                    assert!(json["components"]["schemas"].get(name).is_some(), "{}/{version}: {name}", group.name);
                }
            }
        }
    }

    /// Names in a set of schemas that say nothing about themselves.
    fn undescribed(schemas: &Json) -> Vec<String> {
        let silent = |schema: &Json| schema["description"].as_str().is_none_or(str::is_empty);
        let mut missing = Vec::new();
        for (name, schema) in schemas.as_object().unwrap() {
            missing.extend(silent(schema).then(|| name.clone()));
            let properties = schema["properties"].as_object().into_iter().flatten();
            missing.extend(properties.filter(|(_, field)| silent(field)).map(|(field, _)| format!("{name} {field}")));
        }
        missing
    }

    #[test]
    fn every_schema_and_field_is_described() {
        let documents = Documents::of(&Scheme::kubernetes());
        let two = v2(&Resources::listed(&documents.scheme), &HeaderMap::new()).unwrap();
        assert_eq!(two.finish(&[]).status(), 200);
        let kept = documents.get("openapi/v2", |_| None).unwrap();
        let two = json(&kept);
        assert_eq!(undescribed(&two["definitions"]), [""; 0]);
        let mut size = kept.size();
        for group in documents.scheme.groups() {
            for version in &group.versions {
                let document = group_document(&documents, &group.name, version).unwrap();
                assert_eq!(undescribed(&json(&document)["components"]["schemas"]), [""; 0], "{}", group.name);
                size += document.size();
            }
        }
        assert!(size < MAX_KEPT, "{size} bytes of documents are kept for a scheme");
    }

    #[test]
    fn a_reference_with_a_description_is_wrapped_in_version_3_only() {
        let documents = Documents::of(&Scheme::kubernetes());
        let three = json(&group_document(&documents, "", "v1").unwrap());
        let affinity = &three["components"]["schemas"]["io.k8s.api.core.v1.PodSpec"]["properties"]["affinity"];
        assert_eq!(affinity["allOf"], json!([{"$ref": "#/components/schemas/io.k8s.api.core.v1.Affinity"}]));
        assert!(affinity["description"].is_string() && affinity["$ref"].is_null());
        v2(&Resources::listed(&documents.scheme), &HeaderMap::new()).unwrap();
        let two = json(&documents.get("openapi/v2", |_| None).unwrap());
        let affinity = &two["definitions"]["io.k8s.api.core.v1.PodSpec"]["properties"]["affinity"];
        assert_eq!(affinity["$ref"], "#/definitions/io.k8s.api.core.v1.Affinity");
        assert!(affinity["description"].is_string());
    }

    #[test]
    fn version_2_comes_in_the_form_most_wanted() {
        let pb = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
        let cases = [
            ("", Some(JSON)),
            ("*/*", Some(JSON)),
            ("application/json", Some(JSON)),
            (pb, Some(PROTOBUF)),
            (PROTOBUF, Some(PROTOBUF)),
            (&format!("application/json;q=0.5, {pb}"), Some(PROTOBUF)),
            ("text/html, application/*;q=0.1", Some(JSON)),
            ("application/yaml", None),
        ];
        for (accept, expected) in cases {
            let mut headers = HeaderMap::new();
            if !accept.is_empty() {
                headers.insert(header::ACCEPT, accept.parse().unwrap());
            }
            assert_eq!(v2_type(&headers), expected, "{accept}");
        }
        let documents = Documents::of(&Scheme::kubernetes());
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, pb.parse().unwrap());
        let answer = v2(&Resources::listed(&documents.scheme), &headers).unwrap().finish(&[]);
        assert_eq!(answer.headers()[header::CONTENT_TYPE], PROTOBUF);
        let kept = documents.get("openapi/v2+protobuf", |_| None).unwrap();
        let plain = kept.plain();
        assert!(plain.windows(5).any(|bytes| bytes == b"\n\x032.0") && plain.len() > MAX_KEPT / 2);
    }
}
