//! The paths of OpenAPI documents: every operation on every resource, with the parameters that clients look
//! for. Pure.

use super::{
    openapi::{Dialect, kind_extension},
    schemas::Needed,
};
use serde_json::{Map, Value as Json, json};
use timonel_api::{Gvk, Resource, Scheme, TypeId, Verb};

const CREATE: &[&str] = &["dryRun", "fieldManager", "fieldValidation"];
const PATCH: &[&str] = &["dryRun", "fieldManager", "fieldValidation", "force"];
const DELETE: &[&str] = &["dryRun", "gracePeriodSeconds", "orphanDependents", "propagationPolicy"];
const LIST: &[&str] = &[
    "allowWatchBookmarks",
    "continue",
    "fieldSelector",
    "labelSelector",
    "limit",
    "resourceVersion",
    "resourceVersionMatch",
    "sendInitialEvents",
    "timeoutSeconds",
    "watch",
];

const PATCH_TYPES: [&str; 5] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
    "application/apply-patch+cbor",
];

/// Custom kinds have neither strategic merge nor a binary form.
const CUSTOM_PATCH_TYPES: [&str; 3] =
    ["application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml"];

/// The paths of one group and version.
pub(super) fn of(
    scheme: &Scheme,
    group: &str,
    version: &str,
    dialect: Dialect,
    needed: &mut Needed,
) -> Map<String, Json> {
    let mut paths = Map::new();
    let base = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
    for resource in scheme.resources_of(group, version) {
        let mut maker = Maker { scheme, resource, dialect, needed: &mut *needed };
        let plural = &resource.plural;
        let scoped = if resource.namespaced { format!("{base}/namespaces/{{namespace}}") } else { base.clone() };
        maker.collection(&mut paths, format!("{scoped}/{plural}"), resource.namespaced);
        if resource.namespaced && resource.allows(Verb::List) {
            let all = maker.operations(&[Verb::List], &resource.gvk(), Some(resource.body), true);
            paths.insert(format!("{base}/{plural}"), all);
        }
        let verbs: Vec<Verb> = item_verbs(&resource.verbs);
        if !verbs.is_empty() {
            let mut item = maker.operations(&verbs, &resource.gvk(), Some(resource.body), false);
            item["parameters"] = maker.in_path(true, resource.namespaced);
            paths.insert(format!("{scoped}/{plural}/{{name}}"), item);
        }
        for sub in &resource.subresources {
            let mut item = maker.operations(&sub.verbs, &sub.gvk, sub.body, false);
            item["parameters"] = maker.in_path(true, resource.namespaced);
            paths.insert(format!("{scoped}/{plural}/{{name}}/{}", sub.name), item);
        }
    }
    paths
}

fn item_verbs(verbs: &[Verb]) -> Vec<Verb> {
    let item = |verb: &&Verb| matches!(verb, Verb::Get | Verb::Update | Verb::Patch | Verb::Delete);
    verbs.iter().filter(item).copied().collect()
}

struct Maker<'a> {
    scheme: &'a Scheme,
    resource: &'a Resource,
    dialect: Dialect,
    needed: &'a mut Needed,
}

impl Maker<'_> {
    fn collection(&mut self, paths: &mut Map<String, Json>, path: String, namespaced: bool) {
        let on = |verb: &&Verb| matches!(verb, Verb::List | Verb::Create | Verb::DeleteCollection);
        let verbs: Vec<Verb> = self.resource.verbs.iter().filter(on).copied().collect();
        if verbs.is_empty() {
            return;
        }
        let mut item = self.operations(&verbs, &self.resource.gvk(), Some(self.resource.body), true);
        if namespaced {
            item["parameters"] = self.in_path(false, true);
        }
        paths.insert(path, item);
    }

    fn operations(&mut self, verbs: &[Verb], gvk: &Gvk, body: Option<TypeId>, collection: bool) -> Json {
        let mut item = Map::new();
        for verb in verbs {
            let (method, action, parameters) = match verb {
                Verb::Get if collection => continue,
                Verb::Get => ("get", "get", &[][..]),
                Verb::List => ("get", "list", LIST),
                Verb::Create => ("post", "post", CREATE),
                Verb::Update => ("put", "put", CREATE),
                Verb::Patch => ("patch", "patch", PATCH),
                Verb::Delete => ("delete", "delete", DELETE),
                Verb::DeleteCollection => ("delete", "deletecollection", DELETE),
                Verb::Watch => continue,
            };
            let answer = match verb {
                Verb::List => self.resource.list_body,
                _ => body,
            };
            let operation = self.operation(*verb, action, parameters, gvk, body, answer);
            item.insert(method.to_owned(), operation);
        }
        item.into()
    }

    fn operation(
        &mut self,
        verb: Verb,
        action: &str,
        parameters: &[&str],
        gvk: &Gvk,
        body: Option<TypeId>,
        answer: Option<TypeId>,
    ) -> Json {
        let mut parameters: Vec<Json> = parameters.iter().map(|name| self.parameter(name)).collect();
        let takes = match verb {
            Verb::Create | Verb::Update => body.map(|id| self.needed.reference(self.scheme, id, self.dialect)),
            Verb::Patch => Some(json!({"type": "object"})),
            _ => None,
        };
        let gives = answer.map(|id| self.needed.reference(self.scheme, id, self.dialect));
        let mut operation = json!({
            "operationId": self.operation_id(action, gvk),
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": kind_extension(&gvk.group, &gvk.version, &gvk.kind),
        });
        let types: &[&str] = match verb {
            Verb::Patch if self.resource.custom => &CUSTOM_PATCH_TYPES,
            Verb::Patch => &PATCH_TYPES,
            _ => &["*/*"],
        };
        match self.dialect {
            Dialect::V2 => {
                operation["consumes"] = types.into();
                operation["produces"] = if self.resource.custom {
                    json!(["application/json", "application/yaml"])
                } else {
                    json!(["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"])
                };
                if let Some(schema) = takes {
                    parameters.push(json!({"name": "body", "in": "body", "required": true, "schema": schema}));
                }
                operation["responses"] = json!({"200": {"description": "OK", "schema": gives}});
            }
            Dialect::V3 => {
                if let Some(schema) = takes {
                    let content: Map<String, Json> =
                        types.iter().map(|ty| ((*ty).to_owned(), json!({ "schema": schema }))).collect();
                    operation["requestBody"] = json!({"content": content, "required": true});
                }
                let schema = gives.map_or_else(|| json!({}), |schema| json!({"application/json": {"schema": schema}}));
                operation["responses"] = json!({"200": {"description": "OK", "content": schema}});
            }
        }
        if !parameters.is_empty() {
            operation["parameters"] = parameters.into();
        }
        operation
    }

    fn operation_id(&self, action: &str, gvk: &Gvk) -> String {
        let capital = |text: &str| {
            let mut chars = text.chars();
            chars.next().map(|first| first.to_uppercase().chain(chars).collect::<String>()).unwrap_or_default()
        };
        let group = self.resource.group.split('.').next().unwrap_or("");
        let group = if group.is_empty() { "core" } else { group };
        let verb = match action {
            "post" => "create",
            "put" => "replace",
            "get" => "read",
            "deletecollection" => "deleteCollection",
            other => other,
        };
        let scope = if self.resource.namespaced { "Namespaced" } else { "" };
        format!("{verb}{}{}{scope}{}", capital(group), capital(&self.resource.version), gvk.kind)
    }

    fn parameter(&self, name: &str) -> Json {
        let ty = match name {
            "allowWatchBookmarks" | "sendInitialEvents" | "watch" | "force" | "orphanDependents" => "boolean",
            "limit" | "timeoutSeconds" | "gracePeriodSeconds" => "integer",
            _ => "string",
        };
        self.typed(json!({"name": name, "in": "query"}), ty)
    }

    fn in_path(&self, named: bool, namespaced: bool) -> Json {
        let names = [("name", named), ("namespace", namespaced)];
        let listed = names.into_iter().filter(|(_, on)| *on);
        listed.map(|(name, _)| self.typed(json!({"name": name, "in": "path", "required": true}), "string")).collect()
    }

    fn typed(&self, mut parameter: Json, ty: &str) -> Json {
        match self.dialect {
            Dialect::V2 => parameter["type"] = ty.into(),
            Dialect::V3 => parameter["schema"] = json!({ "type": ty }),
        }
        parameter["uniqueItems"] = true.into();
        parameter
    }
}
