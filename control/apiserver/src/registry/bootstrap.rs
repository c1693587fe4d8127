//! The objects that every cluster starts with. Only what is missing is written, in one transaction each hundred.

use super::{commit::store_status, view::columns_of};
use crate::{ApiServer, cache::encode};
use timonel_api::{Status, Value, strategy};
use timonel_store::{Compare, Op, Store, Txn};

/// Objects written in one transaction.
const BATCH: usize = 60;

/// Namespaces of every cluster.
const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// Writes what is missing.
pub(crate) async fn bootstrap(server: &ApiServer) -> Result<(), Status> {
    let mut objects: Vec<Value> = NAMESPACES.iter().map(|name| namespace(name)).collect();
    objects.extend(priority_classes());
    install(server, objects).await
}

/// Stores those of `objects` that do not exist.
pub(crate) async fn install(server: &ApiServer, objects: Vec<Value>) -> Result<(), Status> {
    let now = server.clock.now();
    let resources = server.resources.load_full();
    let mut steps = Vec::new();
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
        strategy::prepare_create(view.kind(), &mut object, now);
        steps.push((key, encode(&object, &columns_of(&view.storage.storage))));
    }
    for batch in steps.chunks(BATCH) {
        let mut txn = Txn::default();
        for (key, value) in batch {
            txn.compare.push(Compare::ModRevision(key.clone(), 0));
            txn.then.push(Op::Put { key: key.clone(), value: value.clone(), lease: None });
        }
        let done = server.committer.store.txn(txn).await.map_err(store_status)?;
        // Another machine that starts the same cluster wrote the same.
        let _ = server.cache.wait_until(done.revision).await;
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
