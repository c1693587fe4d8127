//! The objects that every cluster starts with. Only what is missing is written, in one transaction each hundred.

use super::{commit::store_status, service_plan, view::columns_of};
use crate::{
    ApiServer, Body, Caller, aggregation,
    authz::{BootstrapAction, plan_bootstrap},
    cache::{Place, encode},
    fairness,
    http::JSON,
};
use ::http::{HeaderValue, Method, Request, header::CONTENT_TYPE};
use bytes::Bytes;
use ipnet::IpNet;
use serde_json::json;
use std::{net::SocketAddr, sync::Arc};
use timonel_api::{Status, Value, Verb, strategy};
use timonel_store::{Compare, Op, Store, Txn};

/// Bytes of a refusal that are told.
const MAX_ERROR: usize = 64 << 10;
/// Objects written in one transaction.
const BATCH: usize = 60;

/// Namespaces of every cluster.
const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// Writes what is missing, and what lacks something of the default roles.
pub(crate) async fn bootstrap(server: &Arc<ApiServer>, advertise: Option<SocketAddr>) -> Result<(), Status> {
    let mut objects: Vec<Value> = NAMESPACES.iter().map(|name| namespace(name)).collect();
    objects.extend(priority_classes());
    objects.extend(service_range(&server.services.ranges));
    objects.extend(fairness::default_objects(server.clock.now()));
    objects.extend(aggregation::built_in(server.resources.load().base()));
    objects.push(token_tracking(server.clock.now()));
    let mut updates = Vec::new();
    for write in plan_bootstrap(server.lookup.as_ref()) {
        match write.action {
            BootstrapAction::Create(object) => objects.push(object),
            BootstrapAction::Update(object) => updates.push((Verb::Update, object)),
            BootstrapAction::Replace(object) => updates.push((Verb::Delete, object)),
        }
    }
    install(server, objects).await?;
    for (verb, object) in updates {
        repair(server, verb, &object).await?;
    }
    aggregation::settle(server, true).await?;
    fairness::settle(server).await?;
    if let Some(address) = advertise
        && let Err(error) = publish(server, address).await
    {
        // The API works without; only pods do not find it under its usual name.
        tracing::warn!(%error, %address, "the Service kubernetes cannot be published");
    }
    Ok(())
}

/// Changes a default role as a client would, so that all rules hold. A binding cannot refer to another role:
/// then it is deleted and made again.
async fn repair(server: &Arc<ApiServer>, verb: Verb, object: &Value) -> Result<(), Status> {
    let (kind, namespace) = (object.str_at(&["kind"]), object.str_at(&["metadata", "namespace"]));
    let scope = if namespace.is_empty() { String::new() } else { format!("namespaces/{namespace}/") };
    let plural = format!("{}s", kind.to_ascii_lowercase());
    let collection = format!("/apis/rbac.authorization.k8s.io/v1/{scope}{plural}");
    let path = format!("{collection}/{}", object.str_at(&["metadata", "name"]));
    if verb == Verb::Delete {
        send(server, ["DELETE", &path, JSON], &Value::Null, &[404]).await?;
        send(server, ["POST", &collection, JSON], object, &[409]).await?;
    } else {
        send(server, ["PUT", &path, JSON], object, &[409]).await?;
    }
    Ok(())
}

/// The Service by which pods find this API, and its endpoint: made when missing, and the endpoint as it should be.
pub(crate) async fn publish(server: &Arc<ApiServer>, address: SocketAddr) -> Result<(), Status> {
    let Some(first) = server.services.ranges.first().map(|range| service_plan::nth(range, 1)) else { return Ok(()) };
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kubernetes", "namespace": "default",
            "labels": {"component": "apiserver", "provider": "kubernetes"}},
        "spec": {"type": "ClusterIP", "clusterIP": first.to_string(), "sessionAffinity": "None",
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": address.port()}]},
    });
    let endpoints = json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {"name": "kubernetes", "namespace": "default",
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        "subsets": [{"addresses": [{"ip": address.ip().to_string()}],
            "ports": [{"name": "https", "port": address.port(), "protocol": "TCP"}]}],
    });
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "kubernetes", "namespace": "default",
            "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": if address.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{"addresses": [address.ip().to_string()], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": address.port(), "protocol": "TCP"}],
    });
    for (collection, object, follows) in [
        ("/api/v1/namespaces/default/services", service, false),
        ("/api/v1/namespaces/default/endpoints", endpoints, true),
        ("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", slice, true),
    ] {
        let object = Value::from(object);
        let path = format!("{collection}/kubernetes");
        let found = send(server, ["GET", &path, JSON], &Value::Null, &[404]).await?;
        if found == 404 {
            send(server, ["POST", collection, JSON], &object, &[409]).await?;
        } else if follows {
            send(server, ["PATCH", &path, "application/merge-patch+json"], &object, &[]).await?;
        }
    }
    Ok(())
}

/// A request of the server to itself; codes in `fine` are as good as a success.
pub(crate) async fn send(
    server: &Arc<ApiServer>,
    [method, path, ty]: [&str; 3],
    body: &Value,
    fine: &[u16],
) -> Result<u16, Status> {
    let body = if body.is_null() { Body::empty() } else { timonel_api::encode_json(body).into() };
    let mut request = Request::new(body);
    *request.method_mut() = Method::from_bytes(method.as_bytes()).unwrap_or_default();
    *request.uri_mut() = path.parse().map_err(|_| Status::internal(format!("{path} is no path")))?;
    request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_str(ty).map_err(Status::internal)?);
    let response = Box::pin(server.call(request, Caller::internal("apiserver"))).await;
    let code = response.status().as_u16();
    if response.status().is_success() || fine.contains(&code) {
        return Ok(code);
    }
    let text = crate::body::read(response.into_body(), MAX_ERROR).await.unwrap_or_default();
    Err(Status::internal(format!("{method} {path}: {}", String::from_utf8_lossy(&text))))
}

/// Keys and values to be stored in one transaction.
type Step = Vec<(Bytes, Bytes)>;

/// Stores those of `objects` that do not exist.
async fn install(server: &ApiServer, objects: Vec<Value>) -> Result<(), Status> {
    let now = server.clock.now();
    let resources = server.resources.load_full();
    // By place: what lies in two places cannot be one transaction.
    let mut steps: Vec<(Arc<Place>, Step)> = Vec::new();
    for mut object in objects {
        let gvk = timonel_api::Gvk::of(object.str_at(&["apiVersion"]), object.str_at(&["kind"]));
        let found = resources.scheme().resource_of_kind(&gvk);
        let Some(view) = found.and_then(|found| resources.get(&found.group, &found.version, &found.plural)) else {
            continue;
        };
        let key = view.slot.key(object.str_at(&["metadata", "namespace"]), object.str_at(&["metadata", "name"]));
        if view.slot.get_key(&key).is_some() {
            continue;
        }
        timonel_api::default_object(&view.scheme, &view.resource, &mut object);
        let mut object = view.absorb(object)?;
        strategy::fill_system_fields(&mut object, &server.entropy.uuid(), now);
        // What a server's part would find out about the object is known here.
        let status = object.remove_at(&["status"]);
        strategy::prepare_create(view.kind(), &mut object, now);
        if let Some(status) = status {
            object.set_at(&["status"], status);
        }
        let step = (key, encode(&object, &columns_of(&view.storage.storage)));
        let place = view.slot.place();
        match steps.iter_mut().find(|(known, _)| Arc::ptr_eq(known, place)) {
            Some((_, steps)) => steps.push(step),
            None => steps.push((place.clone(), vec![step])),
        }
    }
    for (place, steps) in steps {
        for batch in steps.chunks(BATCH) {
            let mut txn = Txn::default();
            for (key, value) in batch {
                txn.compare.push(Compare::ModRevision(key.clone(), 0));
                txn.then.push(Op::Put { key: key.clone(), value: value.clone(), lease: None });
            }
            let done = place.store().txn(txn).await.map_err(store_status)?;
            // Another machine that starts the same cluster wrote the same.
            let _ = place.wait_until(done.revision).await;
        }
    }
    Ok(())
}

fn object(api_version: &str, kind: &str, name: &str) -> Value {
    let mut object = Value::object();
    object.set_at(&["apiVersion"], api_version);
    object.set_at(&["kind"], kind);
    object.set_at(&["metadata", "name"], name);
    object
}

fn namespace(name: &str) -> Value {
    let mut namespace = object("v1", "Namespace", name);
    namespace.set_at(&["metadata", "labels", "kubernetes.io/metadata.name"], name);
    namespace
}

/// Since when the use of tokens that are kept in Secrets is noted: the controller that throws unused ones away asks.
fn token_tracking(now: jiff::Timestamp) -> Value {
    let name = "kube-apiserver-legacy-service-account-token-tracking";
    Value::from(json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"since": crate::authn::day(now)},
        "metadata": {"name": name, "namespace": "kube-system"}}))
}

fn priority_classes() -> [Value; 2] {
    [
        ("system-node-critical", 2_000_001_000_i64, "Used for system critical pods that must not be moved from their current node."),
        (
            "system-cluster-critical",
            2_000_000_000,
            "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
        ),
    ]
    .map(|(name, value, description)| {
        let mut class = object("scheduling.k8s.io/v1", "PriorityClass", name);
        class.set_at(&["value"], value);
        class.set_at(&["description"], description);
        class
    })
}

/// The object that names the ranges of Services' addresses.
fn service_range(ranges: &[IpNet]) -> Option<Value> {
    if ranges.is_empty() {
        return None;
    }
    let mut object = object("networking.k8s.io/v1", "ServiceCIDR", "kubernetes");
    let ranges: Vec<Value> = ranges.iter().map(|range| Value::from(range.to_string())).collect();
    object.set_at(&["spec", "cidrs"], ranges);
    Some(object)
}
