//! Operations: what a person may watch of a long action. Derived from the state of things, never from memory, so
//! that a restart loses nothing. Pure.

use super::{plan::Action, view::FleetView};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use timonel_fleet::{
    Cluster, ClusterPhase, NodePool, Operation, OperationPhase, OperationSpec, OperationStatus, OperationTarget, Step,
    StepPhase,
};

/// Characters of a UID that tell operations on namesakes apart.
const UID_PART: usize = 8;

pub(super) fn plan(view: &FleetView, now: Timestamp) -> Vec<Action> {
    let clusters = view.clusters.iter().map(|cluster| creation(cluster));
    let deletions = view.clusters.iter().filter_map(|cluster| deletion(cluster));
    let pools = view.pools.iter().filter_map(|pool| scaling(pool));
    let mut actions: Vec<_> =
        clusters.chain(deletions).chain(pools).filter_map(|wanted| reconcile(view, wanted, now)).collect();
    actions.extend(finished_deletions(view, now));
    actions
}

/// An operation as the state of its target implies it; times are filled in when it is compared with what is stored.
struct Wanted {
    operation: Operation,
    steps: Vec<Step>,
}

fn wanted(project: &str, action: &str, kind: &str, name: &str, uid: &str, suffix: &str, steps: Vec<Step>) -> Wanted {
    let part = &uid[..uid.len().min(UID_PART)];
    let target = OperationTarget { kind: kind.to_owned(), name: name.to_owned(), uid: uid.to_owned() };
    let verb = action.to_ascii_lowercase();
    let spec = OperationSpec { action: action.to_owned(), target };
    Wanted { operation: Operation::new(project, &format!("{verb}-{name}-{part}{suffix}"), spec), steps }
}

fn step(name: &str, phase: StepPhase, message: &str) -> Step {
    Step { name: name.to_owned(), phase, message: message.to_owned(), ..Step::default() }
}

fn creation(cluster: &Cluster) -> Wanted {
    let meta = &cluster.metadata;
    let status = cluster.status.clone().unwrap_or_default();
    let message = status.conditions.first().map_or("", |condition| condition.message.as_str());
    let reached = |done: bool| match status.phase {
        _ if done => StepPhase::Succeeded,
        ClusterPhase::Failed => StepPhase::Failed,
        _ => StepPhase::Running,
    };
    let network = reached(!status.network.pod_cidr.is_empty());
    let serving = match network {
        StepPhase::Succeeded => reached(status.phase == ClusterPhase::Ready || status.phase == ClusterPhase::Deleting),
        _ => StepPhase::Pending,
    };
    let steps = vec![
        step("choose address ranges", network, if network == StepPhase::Failed { message } else { "" }),
        step("make keys and start the API", serving, if serving == StepPhase::Succeeded { "" } else { message }),
    ];
    let (project, name) = (meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default());
    wanted(project, "CreateCluster", "Cluster", name, meta.uid.as_deref().unwrap_or_default(), "", steps)
}

fn deletion(cluster: &Cluster) -> Option<Wanted> {
    let meta = &cluster.metadata;
    meta.deletion_timestamp.as_ref()?;
    let message = cluster.status.iter().flat_map(|status| &status.conditions).next();
    let message = message.map_or("", |condition| condition.message.as_str());
    let steps = vec![step("remove machines, cloud objects and data", StepPhase::Running, message)];
    let (project, name) = (meta.namespace.as_deref()?, meta.name.as_deref()?);
    Some(wanted(project, "DeleteCluster", "Cluster", name, meta.uid.as_deref()?, "", steps))
}

/// One operation a generation of the pool: a new wish is a new operation.
fn scaling(pool: &NodePool) -> Option<Wanted> {
    let meta = &pool.metadata;
    let status = pool.status.as_ref()?;
    let (generation, ready) = (meta.generation?, status.conditions.first()?);
    if status.observed_generation != Some(generation) {
        return None;
    }
    let phase = if ready.status == "True" { StepPhase::Succeeded } else { StepPhase::Running };
    let steps = vec![step("bring machines to the wanted number", phase, &ready.message)];
    let (project, name) = (meta.namespace.as_deref()?, meta.name.as_deref()?);
    Some(wanted(project, "ScaleNodePool", "NodePool", name, meta.uid.as_deref()?, &format!("-{generation}"), steps))
}

/// A deletion is done when its cluster is gone.
fn finished_deletions(view: &FleetView, now: Timestamp) -> Vec<Action> {
    let gone = |operation: &&std::sync::Arc<Operation>| {
        let target = &operation.spec.target;
        let there = view.clusters.iter().any(|cluster| cluster.metadata.uid.as_ref() == Some(&target.uid));
        operation.spec.action == "DeleteCluster" && !there && !finished(operation)
    };
    let done = view.operations.iter().filter(gone).map(|operation| {
        let steps = vec![step("remove machines, cloud objects and data", StepPhase::Succeeded, "")];
        let mut operation = Operation::clone(operation);
        operation.status = Some(status(operation.status.as_ref(), steps, now));
        Action::OperationStatus(Box::new(operation))
    });
    done.collect()
}

fn finished(operation: &Operation) -> bool {
    let phase = operation.status.as_ref().map(|status| status.phase);
    matches!(phase, Some(OperationPhase::Succeeded | OperationPhase::Failed))
}

fn reconcile(view: &FleetView, wanted: Wanted, now: Timestamp) -> Option<Action> {
    let meta = &wanted.operation.metadata;
    let stored = view
        .operations
        .iter()
        .find(|stored| stored.metadata.name == meta.name && stored.metadata.namespace == meta.namespace);
    let Some(stored) = stored else {
        return Some(Action::CreateOperation(Box::new(wanted.operation)));
    };
    // What ended stays as it ended: a cluster that breaks later is not its creation undone.
    if stored.status.as_ref().is_some_and(|status| status.phase == OperationPhase::Succeeded) {
        return None;
    }
    let status = status(stored.status.as_ref(), wanted.steps, now);
    if stored.status.as_ref() == Some(&status) {
        return None;
    }
    let status = Some(status);
    Some(Action::OperationStatus(Box::new(Operation { status, ..Operation::clone(stored) })))
}

/// The status that `steps` make, with the times of steps that were already begun or ended.
fn status(old: Option<&OperationStatus>, mut steps: Vec<Step>, now: Timestamp) -> OperationStatus {
    for step in &mut steps {
        let before = old.and_then(|old| old.steps.iter().find(|before| before.name == step.name));
        let began = before.and_then(|before| before.started_at.clone());
        let ended = before.filter(|before| before.phase == step.phase).and_then(|before| before.finished_at.clone());
        step.started_at = (step.phase != StepPhase::Pending).then(|| began.unwrap_or(Time(now)));
        let over = matches!(step.phase, StepPhase::Succeeded | StepPhase::Failed);
        step.finished_at = over.then(|| ended.unwrap_or(Time(now)));
    }
    let phase = if steps.iter().any(|step| step.phase == StepPhase::Failed) {
        OperationPhase::Failed
    } else if steps.iter().all(|step| step.phase == StepPhase::Succeeded) {
        OperationPhase::Succeeded
    } else {
        OperationPhase::Running
    };
    OperationStatus { phase, steps }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use timonel_fleet::{ClusterNetwork, ClusterSpec, ClusterStatus};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn cluster(phase: ClusterPhase) -> Cluster {
        let mut cluster = Cluster::new("p", "c", ClusterSpec::default());
        cluster.metadata.uid = Some("0123456789".into());
        let network = ClusterNetwork { pod_cidr: "10.1.0.0/16".into(), ..ClusterNetwork::default() };
        cluster.status = Some(ClusterStatus { phase, network, ..ClusterStatus::default() });
        cluster
    }

    fn look(cluster: &Cluster, operation: Option<Operation>, second: i64) -> Option<Operation> {
        let view = FleetView {
            clusters: vec![Arc::new(cluster.clone())],
            operations: operation.into_iter().map(Arc::new).collect(),
            ..FleetView::default()
        };
        plan(&view, at(second)).into_iter().find_map(|action| match action {
            Action::CreateOperation(operation) | Action::OperationStatus(operation) => Some(*operation),
            _ => None,
        })
    }

    #[test]
    fn creation_is_recorded_followed_and_ended_once() {
        let making = cluster(ClusterPhase::Provisioning);
        let first = look(&making, None, 1).unwrap();
        assert_eq!(first.metadata.name.as_deref(), Some("createcluster-c-01234567"));
        let running = look(&making, Some(first), 2).unwrap();
        assert_eq!(running.status.as_ref().unwrap().phase, OperationPhase::Running);
        assert_eq!(look(&making, Some(running.clone()), 3), None);
        let done = look(&cluster(ClusterPhase::Ready), Some(running), 4).unwrap();
        let status = done.status.clone().unwrap();
        assert_eq!(status.phase, OperationPhase::Succeeded);
        assert_eq!(status.steps[1].started_at, Some(Time(at(2))));
        assert_eq!(status.steps[1].finished_at, Some(Time(at(4))));
        assert_eq!(look(&cluster(ClusterPhase::Failed), Some(done), 5), None);
    }

    #[test]
    fn a_deletion_ends_when_its_cluster_is_gone() {
        let spec = OperationSpec { action: "DeleteCluster".into(), ..OperationSpec::default() };
        let stored = Operation::new("p", "deletecluster-c-01234567", spec);
        let view = FleetView { operations: vec![Arc::new(stored)], ..FleetView::default() };
        let [Action::OperationStatus(done)] = &plan(&view, at(9))[..] else { panic!("not ended") };
        assert_eq!(done.status.as_ref().unwrap().phase, OperationPhase::Succeeded);
    }
}
