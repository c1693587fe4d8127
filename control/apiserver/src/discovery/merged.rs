//! Discovery and OpenAPI of a cluster whose API other servers share in: what is local joined with what they say.

use super::{Document, Documents, groups, openapi, plain, tagged};
use crate::{
    ApiServer,
    aggregation::{Placed, Routes, aggregated_items, join_openapi, local_priorities, plain_groups},
    http::{Answer, JSON, Query},
    registry::Resources,
};
use ::http::HeaderMap;
use parking_lot::Mutex;
use serde_json::{Value as Json, json};
use std::{collections::BTreeMap, sync::Arc};
use timonel_api::Status;

/// Documents as they were made for one state of what is served.
#[derive(Debug, Default)]
pub(crate) struct Merged(Mutex<Made>);

#[derive(Debug, Default)]
struct Made {
    state: Option<(Arc<Documents>, Arc<Routes>, u64)>,
    documents: BTreeMap<String, Document>,
}

impl Merged {
    fn get(
        &self,
        server: &ApiServer,
        documents: &Arc<Documents>,
        routes: &Arc<Routes>,
        name: &str,
        make: impl FnOnce() -> Option<Document>,
    ) -> Result<Document, Status> {
        let generation = server.aggregation.generation();
        {
            let mut made = self.0.lock();
            let same = made.state.as_ref().is_some_and(|(known, on, at)| {
                Arc::ptr_eq(known, documents) && Arc::ptr_eq(on, routes) && *at == generation
            });
            if !same {
                *made =
                    Made { state: Some((documents.clone(), routes.clone(), generation)), documents: BTreeMap::new() };
            }
            if let Some(known) = made.documents.get(name) {
                return Ok(known.clone());
            }
        }
        let document = make().ok_or_else(Status::no_such_resource)?;
        self.0.lock().documents.insert(name.to_owned(), document.clone());
        Ok(document)
    }
}

/// Every group and version, those of other servers too.
fn placed(documents: &Documents, routes: &Routes) -> Vec<Placed> {
    let mut all: BTreeMap<(String, String), Placed> = BTreeMap::new();
    for group in documents.scheme.groups().iter().filter(|group| !group.name.is_empty()) {
        for version in &group.versions {
            let (group_priority, version_priority) = local_priorities(&group.name, version);
            let (group, version) = (group.name.to_string(), version.to_string());
            let one = Placed {
                group: group.clone(),
                version: version.clone(),
                group_priority,
                version_priority,
                remote: None,
            };
            all.insert((group, version), one);
        }
    }
    for registered in routes.all() {
        let key = (registered.group.to_string(), registered.version.to_string());
        if let Some(known) = all.get_mut(&key) {
            known.group_priority = registered.group_priority;
            known.version_priority = registered.version_priority;
        }
        if let Some(remote) = routes.get(&registered.group, &registered.version) {
            let said = remote.said();
            let mut version = said.discovery.unwrap_or_else(|| json!({}));
            version["version"] = registered.version.as_str().into();
            version["freshness"] = if said.fresh { "Current" } else { "Stale" }.into();
            all.insert(
                key,
                Placed {
                    group: registered.group.to_string(),
                    version: registered.version.to_string(),
                    group_priority: registered.group_priority,
                    version_priority: registered.version_priority,
                    remote: Some(version),
                },
            );
        }
    }
    all.into_values().collect()
}

/// `/apis`.
pub(super) fn all(
    server: &ApiServer,
    documents: &Arc<Documents>,
    routes: &Arc<Routes>,
    headers: &HeaderMap,
    query: &Query<'_>,
) -> Result<Answer, Status> {
    let Some(version) = groups::aggregated(headers) else {
        let groups = plain_groups(placed(documents, routes));
        return plain(headers, query, &json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}));
    };
    let document = server.merged.get(server, documents, routes, &format!("aggregated/{version}"), || {
        let mut list = groups::aggregated_list(&documents.scheme, version, false);
        let local: Vec<Json> = list["items"].as_array_mut().map(std::mem::take).unwrap_or_default();
        list["items"] = aggregated_items(placed(documents, routes), &local).into();
        Some(Document::new(&list))
    })?;
    Ok(tagged(headers, groups::aggregated_type(version), &document))
}

/// `/apis/GROUP`.
pub(super) fn one(
    documents: &Documents,
    routes: &Routes,
    headers: &HeaderMap,
    query: &Query<'_>,
    group: &str,
) -> Result<Answer, Status> {
    let own = placed(documents, routes).into_iter().filter(|one| one.group == group).collect();
    let mut json = plain_groups(own).pop().ok_or_else(Status::no_such_resource)?;
    json["kind"] = "APIGroup".into();
    json["apiVersion"] = "v1".into();
    plain(headers, query, &json)
}

/// `/openapi/v2`.
pub(super) fn openapi_v2(
    server: &ApiServer,
    resources: &Resources,
    routes: &Arc<Routes>,
    headers: &HeaderMap,
) -> Result<Answer, Status> {
    let content_type = openapi::v2_type_of(headers)?;
    let name = format!("openapi/v2 {content_type}");
    let document = server.merged.get(server, resources.documents(), routes, &name, || {
        let mut document = openapi::everything(resources);
        for said in routes.remotes().filter_map(|remote| remote.said().openapi_v2) {
            join_openapi(&mut document, Json::clone(&said));
        }
        Some(openapi::v2_document(&document, content_type))
    })?;
    Ok(tagged(headers, content_type, &document))
}

/// `/openapi/v3`.
pub(super) fn openapi_v3(
    server: &ApiServer,
    resources: &Resources,
    routes: &Arc<Routes>,
    headers: &HeaderMap,
) -> Result<Answer, Status> {
    let document = server.merged.get(server, resources.documents(), routes, "openapi/v3", || {
        let mut index = openapi::v3_listing(resources)?;
        for remote in routes.remotes() {
            let path = format!("apis/{}/{}", remote.registered.group, remote.registered.version);
            match remote.said().openapi_v3 {
                Some(url) => index["paths"][path] = json!({ "serverRelativeURL": url }),
                None => drop(index["paths"].as_object_mut().and_then(|paths| paths.remove(&path))),
            }
        }
        Some(Document::new(&index))
    })?;
    Ok(tagged(headers, JSON, &document))
}
