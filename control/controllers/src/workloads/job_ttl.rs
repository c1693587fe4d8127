//! Finished jobs go away after their time to live.

use super::job_outcome::terminal;
use crate::{
    common::objects::{after, deleting},
    framework::{Change, Controller, Key, Kind, Plan, Propagation, Target, View, Write},
};
use jiff::Timestamp;

/// Deletes jobs whose time is over.
#[derive(Debug)]
pub(crate) struct JobTimeToLive;

impl Controller for JobTimeToLive {
    fn name(&self) -> &'static str {
        "ttl-after-finished-controller"
    }

    fn reads(&self) -> &'static [Kind] {
        &[Kind::Job]
    }

    fn writes(&self) -> &'static [(&'static str, &'static str)] {
        &[("Job", "deleted after its time to live")]
    }

    fn keys(&self, _view: &View, change: &Change, keys: &mut Vec<Key>) {
        if change.new.is_some() {
            keys.push(Key::of(change.object().meta()));
        }
    }

    fn plan(&self, view: &View, key: &Key, now: Timestamp) -> Plan {
        let mut plan = Plan::none();
        let Some(job) = view.jobs.get(key).filter(|job| !deleting(&job.metadata)) else { return plan };
        let seconds = job.spec.as_ref().and_then(|spec| spec.ttl_seconds_after_finished);
        let ended = terminal(job).and_then(|condition| condition.last_transition_time.as_ref());
        let (Some(seconds), Some(ended)) = (seconds, ended) else { return plan };
        let due = after(ended.0, i64::from(seconds));
        if due > now {
            plan.look_again(due);
        } else {
            let target = Target::exact(Kind::Job, &job.metadata);
            plan.push(Write::Delete { target, propagation: Some(Propagation::Foreground), grace_seconds: None });
        }
        plan
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, lines, object};
    use serde_json::json;

    #[test]
    fn after_its_time_and_not_before() {
        let mut view = View::default();
        view.jobs.insert(object(json!({"metadata": {"name": "j", "namespace": "d"},
            "spec": {"ttlSecondsAfterFinished": 10, "template": {}},
            "status": {"conditions": [{"type": "Complete", "status": "True", "lastTransitionTime": "1970-01-01T00:01:40Z"}]}})));
        let plan = |now| JobTimeToLive.plan(&view, &Key::new("d", "j"), at(now));
        assert_eq!(plan(105).again, Some(at(110)));
        assert_eq!(lines(&plan(110)), ["delete Job d/j Foreground"]);
    }
}
