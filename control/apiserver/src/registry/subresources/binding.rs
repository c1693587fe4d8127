//! `pods/binding` (and `bindings`): the scheduler's decision becomes the pod's node.

use super::{created, posted};
use crate::{
    admission::Operation,
    body::Body,
    cache::encode,
    http,
    registry::{call::Call, commit::Put, view::View},
};
use std::sync::Arc;
use timonel_api::{FieldErrors, Gvk, Path, Status, Value, strategy};

/// Attempts when the pod changes in between.
const MAX_RACES: usize = 24;

/// Answers POST of a `Binding`.
pub(super) async fn bind(call: &Call<'_>, body: Body) -> Result<http::Answer, Status> {
    let mut binding = posted(call, body, &Gvk::new("", "v1", "Binding")).await?;
    let asked = binding.str_at(&["metadata", "name"]).to_owned();
    let name = if call.info.is_named { call.info.name.to_string() } else { asked.clone() };
    if call.info.is_named && !asked.is_empty() && asked != name {
        return Err(Status::bad_request("name in URL does not match name in Binding object"));
    }
    call.validate(Operation::Create, &mut binding, None).await?;
    check(&binding, &name)?;
    let resources = call.server.resources.load_full();
    let pods = resources.get("", "v1", "pods").ok_or_else(Status::no_such_resource)?;
    for _ in 0..MAX_RACES {
        if attempt(call, pods, &name, &binding).await? {
            return Ok(created());
        }
    }
    Err(Status::modified("", "pods", &name))
}

fn check(binding: &Value, name: &str) -> Result<(), Status> {
    let mut errors = FieldErrors::new();
    let kind = binding.str_at(&["target", "kind"]);
    if !matches!(kind, "" | "Node") {
        errors.not_supported(&Path::new("target").child("kind"), kind, &["Node", "<empty>"]);
    }
    if binding.str_at(&["target", "name"]).is_empty() {
        errors.required(&Path::new("target").child("name"), "");
    }
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid("", "Binding", name, &errors)) }
}

async fn attempt(call: &Call<'_>, pods: &Arc<View>, name: &str, binding: &Value) -> Result<bool, Status> {
    let entry = pods.slot.get(&call.info.namespace, name).ok_or_else(|| Status::not_found("", "pods", name))?;
    let old = pods.decode_stored(&entry)?;
    let new = bound(&old, name, binding, &strategy::timestamp(call.now))?;
    if call.dry_run()? {
        return Ok(true);
    }
    let put = Put {
        key: entry.key().clone(),
        based_on: entry.revision,
        value: encode(&new, &pods.columns),
        lease: None,
        beside: Vec::new(),
    };
    Ok(call.server.committer.put(pods, put).await?.is_some())
}

/// The pod on its node; pure.
fn bound(pod: &Value, name: &str, binding: &Value, now: &str) -> Result<Value, Status> {
    let conflict = |why: &str| Status::conflict("", "pods/binding", name, why);
    let uid = binding.str_at(&["metadata", "uid"]);
    if !uid.is_empty() && uid != pod.str_at(&["metadata", "uid"]) {
        let found = pod.str_at(&["metadata", "uid"]);
        return Err(conflict(&format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {found}")));
    }
    if !pod.str_at(&["metadata", "deletionTimestamp"]).is_empty() {
        return Err(conflict(&format!("pod {name} is being deleted, cannot be assigned to a host")));
    }
    let node = pod.str_at(&["spec", "nodeName"]);
    if !node.is_empty() {
        return Err(conflict(&format!("pod {name} is already assigned to node \"{node}\"")));
    }
    if !pod.list_at(&["spec", "schedulingGates"]).is_empty() {
        return Err(conflict(&format!("pod {name} has non-empty .spec.schedulingGates")));
    }
    let mut pod = pod.clone();
    pod.set_at(&["spec", "nodeName"], binding.str_at(&["target", "name"]));
    for part in ["annotations", "labels"] {
        for (key, value) in
            binding.at(&["metadata", part]).and_then(Value::as_object).into_iter().flat_map(|o| o.iter())
        {
            pod.set_at(&["metadata", part, key], value.clone());
        }
    }
    let mut condition = Value::object();
    for (field, text) in [("type", "PodScheduled"), ("status", "True"), ("lastTransitionTime", now)] {
        condition.set_at(&[field], text);
    }
    condition.set_at(&["lastProbeTime"], Value::Null);
    let conditions = pod.entry_at(&["status", "conditions"]).make_list();
    match conditions.iter_mut().find(|known| known.str_at(&["type"]) == "PodScheduled") {
        Some(known) if known.str_at(&["status"]) == "True" => {}
        Some(known) => *known = condition,
        None => conditions.push(condition),
    }
    // Where it was to go once room is made does not matter any more.
    pod.remove_at(&["status", "nominatedNodeName"]);
    Ok(pod)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_is_bound_once() {
        let binding = json!({"metadata": {"annotations": {"a": "b"}}, "target": {"kind": "Node", "name": "n1"}}).into();
        let free: Value = json!({"metadata": {"uid": "u"}, "spec": {}}).into();
        let pod = bound(&free, "p", &binding, "now").unwrap();
        assert_eq!(pod.str_at(&["spec", "nodeName"]), "n1");
        assert_eq!(pod.str_at(&["metadata", "annotations", "a"]), "b");
        assert_eq!(pod.list_at(&["status", "conditions"])[0].str_at(&["type"]), "PodScheduled");
        for (pod, why) in [
            (json!({"spec": {"nodeName": "x"}}), "already assigned to node \"x\""),
            (json!({"metadata": {"deletionTimestamp": "t"}}), "is being deleted"),
            (json!({"spec": {"schedulingGates": [{"name": "g"}]}}), "schedulingGates"),
        ] {
            let refused = bound(&pod.into(), "p", &binding, "now").unwrap_err();
            assert!(refused.code == 409 && refused.message.contains(why), "{refused}");
        }
    }
}
