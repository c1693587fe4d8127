//! `pods/eviction`: a deletion that respects disruption budgets.

use super::{created, posted};
use crate::{
    admission::Operation,
    body::Body,
    cache::{Entry, Selection, Trigger, encode},
    http,
    registry::{
        call::Call,
        commit::Put,
        delete::{DeleteOptions, delete_named},
        view::View,
    },
};
use std::sync::Arc;
use timonel_api::{Gvk, LabelSelector, Status, Value, strategy};

/// Attempts when the budget changes in between.
const MAX_RACES: usize = 20;
/// Pods that a budget remembers as being disrupted.
const MAX_DISRUPTED: usize = 2_000;
const VIOLATES: &str = "Cannot evict pod as it would violate the pod's disruption budget.";

/// Answers POST of an `Eviction`.
pub(super) async fn evict(call: &Call<'_>, body: Body) -> Result<http::Answer, Status> {
    let mut eviction = posted(call, body, &Gvk::new("policy", "v1", "Eviction")).await?;
    let name = &*call.info.name;
    let asked = eviction.str_at(&["metadata", "name"]);
    if !asked.is_empty() && asked != name {
        return Err(Status::bad_request("name in URL does not match name in Eviction object"));
    }
    call.validate(Operation::Create, &mut eviction, None).await?;
    let mut options = DeleteOptions::default();
    options.read_value(eviction.get("deleteOptions").unwrap_or(&Value::Null));
    options.dry_run |= call.dry_run()?;
    let namespace = call.namespace();
    let entry = call.view.slot.get(namespace, name).ok_or_else(|| call.view.not_found(name))?;
    let pod = call.view.decode_stored(&entry)?;
    if !ignores_budgets(&pod) {
        charge(call, &pod, &entry, &mut options).await?;
    }
    if !options.dry_run {
        mark(call, &mut options).await?;
    }
    delete_named(call, namespace, name, &options).await?;
    Ok(created())
}

/// Says on the pod why it ends, before it ends: failure policies of jobs ask for it.
async fn mark(call: &Call<'_>, options: &mut DeleteOptions) -> Result<(), Status> {
    let name = &*call.info.name;
    for _ in 0..MAX_RACES {
        let entry = call.view.slot.get(call.namespace(), name).ok_or_else(|| call.view.not_found(name))?;
        if options.resource_version.as_ref().is_some_and(|asked| *asked != entry.revision.to_string()) {
            // The deletion says what is wrong.
            return Ok(());
        }
        let pod = disrupted(call.view.decode_stored(&entry)?, &strategy::timestamp(call.now));
        let put = Put {
            key: entry.key().clone(),
            based_on: entry.revision,
            value: encode(&pod, &call.view.columns),
            lease: None,
            beside: Vec::new(),
        };
        if let Some(written) = call.server.committer.put(&call.view, put).await? {
            if let Some(version) = &mut options.resource_version {
                *version = written.revision.to_string();
            }
            return Ok(());
        }
    }
    Err(Status::modified(call.view.group(), call.view.plural(), name))
}

/// The pod with the condition that says so; pure.
fn disrupted(mut pod: Value, now: &str) -> Value {
    let generation = pod.int_at(&["metadata", "generation"]).unwrap_or(0);
    let mut condition = Value::object();
    for (field, text) in [
        ("type", "DisruptionTarget"),
        ("status", "True"),
        ("lastTransitionTime", now),
        ("reason", "EvictionByEvictionAPI"),
        ("message", "Eviction API: evicting"),
    ] {
        condition.set_at(&[field], text);
    }
    condition.set_at(&["observedGeneration"], generation);
    let conditions = pod.entry_at(&["status", "conditions"]).make_list();
    match conditions.iter_mut().find(|known| known.str_at(&["type"]) == "DisruptionTarget") {
        Some(known) => *known = condition,
        None => conditions.push(condition),
    }
    pod
}

/// Pods that serve nobody are in no budget.
fn ignores_budgets(pod: &Value) -> bool {
    matches!(pod.str_at(&["status", "phase"]), "Succeeded" | "Failed" | "Pending")
        || !pod.str_at(&["metadata", "deletionTimestamp"]).is_empty()
}

/// Takes the disruption from the pod's budget.
async fn charge(call: &Call<'_>, pod: &Value, entry: &Entry, options: &mut DeleteOptions) -> Result<(), Status> {
    let resources = call.server.resources.load_full();
    let Some(budgets) = resources.get("policy", "v1", "poddisruptionbudgets") else { return Ok(()) };
    for _ in 0..MAX_RACES {
        let found = matching(budgets, entry)?;
        let (budget_entry, budget) = match &found[..] {
            [] => return Ok(()),
            [(entry, budget)] => (entry, budget),
            _ => {
                return Err(Status::internal(
                    "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
                ));
            }
        };
        let charged = match decide(budget, pod, &strategy::timestamp(call.now))? {
            Verdict::Free => {
                // Unhealthy now; if it becomes healthy before it is deleted, the budget counts after all.
                options.resource_version.get_or_insert_with(|| entry.revision.to_string());
                return Ok(());
            }
            Verdict::Charge(charged) if options.dry_run => {
                drop(charged);
                return Ok(());
            }
            Verdict::Charge(charged) => charged,
        };
        let put = Put {
            key: budget_entry.key().clone(),
            based_on: budget_entry.revision,
            value: encode(&charged, &budgets.columns),
            lease: None,
            beside: Vec::new(),
        };
        if call.server.committer.put(budgets, put).await?.is_some() {
            return Ok(());
        }
    }
    Err(Status::too_many_requests(VIOLATES, 10))
}

fn matching(budgets: &Arc<View>, pod: &Entry) -> Result<Vec<(Arc<Entry>, Value)>, Status> {
    let selection = Selection { trigger: Trigger::Namespace(pod.namespace().to_owned()), predicate: None };
    let mut found = Vec::new();
    for entry in budgets.slot.list(&selection) {
        let budget = budgets.decode_stored(&entry)?;
        let selector = LabelSelector::from_value(budget.at(&["spec", "selector"]));
        if selector.is_ok_and(|selector| selector.matches(pod)) {
            found.push((entry, budget));
        }
    }
    Ok(found)
}

#[derive(Debug, PartialEq)]
enum Verdict {
    /// The budget does not count this pod.
    Free,
    /// It does; this is the budget after.
    Charge(Value),
}

fn is_ready(pod: &Value) -> bool {
    let mut conditions = pod.list_at(&["status", "conditions"]).iter();
    conditions.any(|condition| condition.str_at(&["type"]) == "Ready" && condition.str_at(&["status"]) == "True")
}

/// Whether the budget has room; pure.
fn decide(budget: &Value, pod: &Value, now: &str) -> Result<Verdict, Status> {
    let name = budget.str_at(&["metadata", "name"]);
    let status = |field| budget.int_at(&["status", field]).unwrap_or(0);
    if !is_ready(pod) {
        let always = budget.str_at(&["spec", "unhealthyPodEvictionPolicy"]) == "AlwaysAllow";
        let healthy = status("currentHealthy") >= status("desiredHealthy") && status("desiredHealthy") > 0;
        if always || healthy {
            return Ok(Verdict::Free);
        }
    }
    let refused = |why: String| Status::too_many_requests(VIOLATES, 0).with_cause("DisruptionBudget", why, "");
    if status("observedGeneration") < budget.int_at(&["metadata", "generation"]).unwrap_or(0) {
        let why = format!("The disruption budget {name} is still being processed by the server.");
        return Err(refused(why).retry_after(10));
    }
    let allowed = status("disruptionsAllowed");
    if allowed < 0 {
        return Err(Status::forbidden("policy", "poddisruptionbudgets", name, "pdb disruptions allowed is negative"));
    }
    let disrupted = budget.at(&["status", "disruptedPods"]).and_then(Value::as_object).map_or(0, |pods| pods.len());
    if disrupted > MAX_DISRUPTED {
        let why = "DisruptedPods map too big - too many evictions not confirmed by PDB controller";
        return Err(Status::forbidden("policy", "poddisruptionbudgets", name, why));
    }
    if allowed == 0 {
        let (desired, current) = (status("desiredHealthy"), status("currentHealthy"));
        let why = format!("The disruption budget {name} needs {desired} healthy pods and has {current} currently");
        return Err(refused(why));
    }
    let mut charged = budget.clone();
    charged.set_at(&["status", "disruptionsAllowed"], allowed - 1);
    charged.set_at(&["status", "disruptedPods", pod.str_at(&["metadata", "name"])], now);
    Ok(Verdict::Charge(charged))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn budgets_decide() {
        let budget = |allowed: i64, seen: i64| -> Value {
            json!({"metadata": {"name": "b", "generation": 2}, "spec": {}, "status": {"observedGeneration": seen,
                "disruptionsAllowed": allowed, "desiredHealthy": 3, "currentHealthy": 3}})
            .into()
        };
        let ready: Value =
            json!({"metadata": {"name": "p"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}}).into();
        let sick: Value = json!({"metadata": {"name": "p"}}).into();
        let Verdict::Charge(charged) = decide(&budget(1, 2), &ready, "now").unwrap() else { panic!("not charged") };
        assert_eq!(charged.int_at(&["status", "disruptionsAllowed"]), Some(0));
        assert_eq!(charged.str_at(&["status", "disruptedPods", "p"]), "now");
        assert_eq!(decide(&budget(0, 2), &sick, "now").unwrap(), Verdict::Free);
        for (budget, why) in [(budget(0, 2), "needs 3 healthy pods and has 3"), (budget(1, 1), "still being processed")]
        {
            let refused = decide(&budget, &ready, "now").unwrap_err();
            assert_eq!(refused.code, 429);
            assert!(refused.details.unwrap().causes[0].message.contains(why));
        }
    }
}
