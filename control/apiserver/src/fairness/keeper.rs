//! Follows the objects of `flowcontrol.apiserver.k8s.io`, and writes those that are not as they should be.

use super::defaults::{GROUP, Named, SCHEMA, Write, plan};
use crate::{ApiServer, admission::Lookup, http::JSON, registry};
use std::sync::{Arc, atomic::Ordering};
use timonel_api::{GroupResource, Status, Value};
use timonel_runtime::OnError;

const LEVELS: &str = "prioritylevelconfigurations";
const SCHEMAS: &str = "flowschemas";
/// As whom the objects are written, by upstream's names: who keeps them, and who says how they are.
const PRODUCER: &str = "api-priority-and-fairness-config-producer-v1";
const CONSUMER: &str = "api-priority-and-fairness-config-consumer-v1";

fn named(server: &ApiServer, plural: &str) -> Named {
    let all = server.lookup.list(GROUP, plural, None).into_iter();
    all.map(|object| (object.str_at(&["metadata", "name"]).to_owned(), object)).collect()
}

/// Follows the objects from here on.
pub(crate) fn start(server: &Arc<ApiServer>) {
    for plural in [LEVELS, SCHEMAS] {
        let weak = Arc::downgrade(server);
        server.cache.listen(GroupResource { group: GROUP.into(), resource: plural.into() }, move || {
            if let Some(server) = weak.upgrade() {
                refresh(&server);
                look(&server);
            }
        });
    }
    refresh(server);
}

fn refresh(server: &ApiServer) {
    server.fairness.configure(&named(server, LEVELS), &named(server, SCHEMAS));
}

fn wanted(server: &ApiServer) -> Vec<Write> {
    plan(&named(server, LEVELS), &named(server, SCHEMAS), server.clock.now())
}

/// Writes what is not as it should be, and keeps it so from then on.
pub(crate) async fn settle(server: &Arc<ApiServer>) -> Result<(), Status> {
    server.fairness.kept.store(true, Ordering::Release);
    for write in wanted(server) {
        let collection = |object: &Value| {
            let plural = if object.str_at(&["kind"]) == SCHEMA { SCHEMAS } else { LEVELS };
            format!("/apis/{GROUP}/v1/{plural}")
        };
        let path = |object: &Value| format!("{}/{}", collection(object), object.str_at(&["metadata", "name"]));
        let (method, path, object) = match &write {
            Write::Create(object) => ("POST", format!("{}?fieldManager={PRODUCER}", collection(object)), object),
            Write::Update(object) => ("PUT", format!("{}?fieldManager={PRODUCER}", path(object)), object),
            Write::Status(object) => ("PUT", format!("{}/status?fieldManager={CONSUMER}", path(object)), object),
            Write::Delete(object) => ("DELETE", path(object), &Value::Null),
        };
        // Others write the same objects; what they did is heard of.
        registry::send_to_self(server, [method, &path, JSON], object, &[404, 409]).await?;
    }
    Ok(())
}

/// Has a task write what is not as it should be; there is one such task at a time.
fn look(server: &Arc<ApiServer>) {
    let fairness = &server.fairness;
    if !fairness.kept.load(Ordering::Acquire)
        || wanted(server).is_empty()
        || fairness.keeping.swap(true, Ordering::AcqRel)
    {
        return;
    }
    let weak = Arc::downgrade(server);
    server.tasks.spawn("objects of fairness", OnError::Log, async move {
        loop {
            let Some(server) = weak.upgrade() else { return Ok(()) };
            let done = settle(&server).await;
            let keeping = &server.fairness.keeping;
            keeping.store(false, Ordering::Release);
            // What changed while this worked was heard of by nobody else.
            if done.is_err() || wanted(&server).is_empty() || keeping.swap(true, Ordering::AcqRel) {
                return done;
            }
        }
    });
}
