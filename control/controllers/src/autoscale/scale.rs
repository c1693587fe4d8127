//! The autoscaler's look: target, metrics, proposal, limits, and what the status tells of them.
//!
//! What pods use comes as the answer to a question, so a decision only ever sees values. Metrics of objects and of
//! things outside the cluster need adapters that are asked in other APIs; they are told as not available.

use super::{
    decide::{Metric, TOLERANCE, Wanted, wanted},
    limits::{DOWN_STABILIZED, Situation, UP_STABILIZED, judge},
    status::{set, since},
};
use crate::{
    common::{
        objects::{after, deleting, generation, labels, namespace},
        selector::matches,
    },
    framework::{
        Action, Answer, Change, Controller, Key, Kind, Note, Object, Plan, PodUsage, Question, Target, Tone, View,
    },
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::{
        autoscaling::v2::{
            ContainerResourceMetricStatus, HPAScalingRules, HorizontalPodAutoscaler, HorizontalPodAutoscalerSpec,
            HorizontalPodAutoscalerStatus, MetricSpec, MetricStatus, MetricTarget, MetricValueStatus,
            ResourceMetricStatus,
        },
        core::v1::Pod,
    },
    apimachinery::pkg::{
        api::resource::Quantity as Text,
        apis::meta::v1::{LabelSelector, ObjectMeta, Time},
    },
};
use serde_json::json;
use std::collections::BTreeMap;
use timonel_api::{Format, Quantity};

/// Between two looks, and the age at which a measurement is too old.
const PERIOD_SECONDS: i64 = 15;

/// Keeps workloads at the size that their use asks for.
#[derive(Debug)]
pub(crate) struct Autoscalers;

impl Controller for Autoscalers {
    fn name(&self) -> &'static str {
        "horizontal-pod-autoscaler"
    }

    fn reads(&self) -> &'static [Kind] {
        &[
            Kind::HorizontalPodAutoscaler,
            Kind::Deployment,
            Kind::ReplicaSet,
            Kind::StatefulSet,
            Kind::ReplicationController,
            Kind::Pod,
        ]
    }

    fn writes(&self) -> &'static [(&'static str, &'static str)] {
        &[
            ("HorizontalPodAutoscaler", "status"),
            ("Deployment", "spec.replicas"),
            ("ReplicaSet", "spec.replicas of an autoscaled one"),
            ("StatefulSet", "spec.replicas"),
            ("ReplicationController", "spec.replicas"),
        ]
    }

    fn keys(&self, _view: &View, change: &Change, keys: &mut Vec<Key>) {
        // Everything else is looked at by the clock: it changes all the time.
        if let Object::HorizontalPodAutoscaler(scaler) = change.object() {
            keys.push(Key::of(&scaler.metadata));
        }
    }

    fn plan(&self, view: &View, key: &Key, now: Timestamp) -> Plan {
        let Some(scaler) = view.autoscalers.get(key).filter(|scaler| !deleting(&scaler.metadata)) else {
            return Plan::none();
        };
        let spec = &scaler.spec;
        let mut look = Look { view, scaler, spec, now, plan: Plan::none() };
        look.plan.look_again(after(now, PERIOD_SECONDS));
        look.run();
        look.plan
    }
}

/// What is scaled.
struct Scaled<'a> {
    kind: Kind,
    meta: &'a ObjectMeta,
    replicas: i32,
    running: i32,
    selector: LabelSelector,
}

fn scaled<'a>(view: &'a View, place: &str, spec: &HorizontalPodAutoscalerSpec) -> Option<Scaled<'a>> {
    let target = &spec.scale_target_ref;
    macro_rules! of {
        ($cache:ident, $kind:expr, $running:expr, $selector:expr) => {{
            let object = view.$cache.find(place, &target.name)?;
            let spec = object.spec.as_ref()?;
            let replicas = spec.replicas.unwrap_or(1);
            let running = object.status.as_ref().map_or(0, $running);
            Some(Scaled { kind: $kind, meta: &object.metadata, replicas, running, selector: $selector(spec) })
        }};
    }
    let version = target.api_version.as_deref().unwrap_or_default();
    match Kind::find(version, &target.kind)? {
        Kind::Deployment => {
            of!(
                deployments,
                Kind::Deployment,
                |s| s.replicas.unwrap_or(0),
                |s: &k8s_openapi::api::apps::v1::DeploymentSpec| s.selector.clone()
            )
        }
        Kind::ReplicaSet => {
            of!(replica_sets, Kind::ReplicaSet, |s| s.replicas, |s: &k8s_openapi::api::apps::v1::ReplicaSetSpec| s
                .selector
                .clone())
        }
        Kind::StatefulSet => {
            of!(stateful_sets, Kind::StatefulSet, |s| s.replicas, |s: &k8s_openapi::api::apps::v1::StatefulSetSpec| s
                .selector
                .clone())
        }
        Kind::ReplicationController => {
            of!(
                replication_controllers,
                Kind::ReplicationController,
                |s| s.replicas,
                |s: &k8s_openapi::api::core::v1::ReplicationControllerSpec| {
                    LabelSelector { match_labels: s.selector.clone(), match_expressions: None }
                }
            )
        }
        _ => None,
    }
}

struct Look<'a> {
    view: &'a View,
    scaler: &'a HorizontalPodAutoscaler,
    spec: &'a HorizontalPodAutoscalerSpec,
    now: Timestamp,
    plan: Plan,
}

/// What all metrics together say.
#[derive(Debug, Default)]
struct Proposal {
    replicas: Option<i32>,
    /// The metric that asks for most.
    by: String,
    statuses: Vec<MetricStatus>,
    /// Reason and message of what could not be measured.
    errors: Vec<(&'static str, String)>,
}

impl Look<'_> {
    fn run(&mut self) {
        let old = self.scaler.status.clone().unwrap_or_default();
        let mut status = old.clone();
        status.observed_generation = Some(generation(&self.scaler.metadata));
        let place = namespace(&self.scaler.metadata);
        match scaled(self.view, place, self.spec) {
            None => self.no_target(&mut status),
            Some(target) => {
                if !self.consider(&target, &mut status) {
                    return;
                }
            }
        }
        if status != old {
            let scaler = HorizontalPodAutoscaler { status: Some(status), ..self.scaler.clone() };
            self.plan.push(Action::update_status(scaler));
        }
    }

    fn note(&self, tone: Tone, reason: &'static str, message: impl Into<String>) -> Note {
        Note::about(Kind::HorizontalPodAutoscaler, &self.scaler.metadata, tone, reason, message)
    }

    fn tell(&mut self, tone: Tone, reason: &'static str, message: impl Into<String>) {
        let note = self.note(tone, reason, message);
        self.plan.push(Action::tell(note));
    }

    fn no_target(&mut self, status: &mut HorizontalPodAutoscalerStatus) {
        let target = &self.spec.scale_target_ref;
        let kind = format!("{}s", target.kind.to_lowercase());
        let group = target.api_version.as_deref().and_then(|version| version.split_once('/')).map(|(group, _)| group);
        let resource = group.map_or_else(|| kind.clone(), |group| format!("{kind}.{group}"));
        let why = format!("{resource} \"{}\" not found", target.name);
        let message = format!("the HPA controller was unable to get the target's current scale: {why}");
        set(status, "AbleToScale", false, "FailedGetScale", &message, self.now);
        self.tell(Tone::Warning, "FailedGetScale", why);
    }

    /// Decides for a target that exists; false when it must be asked first.
    fn consider(&mut self, target: &Scaled<'_>, status: &mut HorizontalPodAutoscalerStatus) -> bool {
        let (least, most) = (self.spec.min_replicas.unwrap_or(1), self.spec.max_replicas);
        status.current_replicas = Some(target.running);
        let current = target.replicas;
        if current == 0 && least != 0 {
            let text = "scaling is disabled since the replica count of the target is zero";
            set(status, "ScalingActive", false, "ScalingDisabled", text, self.now);
            status.desired_replicas = 0;
            return true;
        }
        if current > most || current < least {
            let (to, why) = if current > most {
                (most, "Current number of replicas above Spec.MaxReplicas")
            } else {
                (least, "Current number of replicas below Spec.MinReplicas")
            };
            self.scale(target, to, why, status);
            return true;
        }
        let Some(proposal) = self.propose(target) else { return false };
        status.current_metrics = (!proposal.statuses.is_empty()).then_some(proposal.statuses);
        let failed = !proposal.errors.is_empty();
        let count = self.metrics().len();
        let followed = proposal.replicas.filter(|replicas| !failed || *replicas >= current);
        if let (None, Some((reason, message))) = (followed, proposal.errors.first()) {
            let text = format!("the HPA was unable to compute the replica count: {message}");
            set(status, "ScalingActive", false, reason, &text, self.now);
            for (reason, message) in proposal.errors.clone() {
                self.tell(Tone::Warning, reason, message);
            }
            let summary = format!(
                "invalid metrics ({} invalid out of {count}), first error is: {message}",
                proposal.errors.len()
            );
            self.tell(Tone::Warning, "FailedComputeMetricsReplicas", summary);
            let able = ("SucceededGetScale", "the HPA controller was able to get the target's current scale");
            set(status, "AbleToScale", true, able.0, able.1, self.now);
            status.desired_replicas = current;
            return true;
        }
        let Some(replicas) = followed else { return true };
        let text = format!("the HPA was able to successfully calculate a replica count from {}", proposal.by);
        set(status, "ScalingActive", true, "ValidMetricFound", &text, self.now);
        self.follow(target, replicas, (least, most), &proposal.by, status);
        true
    }

    fn follow(
        &mut self,
        target: &Scaled<'_>,
        proposal: i32,
        (least, most): (i32, i32),
        by: &str,
        status: &mut HorizontalPodAutoscalerStatus,
    ) {
        let proposed = (since(status, "AbleToScale", UP_STABILIZED), since(status, "AbleToScale", DOWN_STABILIZED));
        let judged = judge(
            proposal,
            Situation {
                current: target.replicas,
                least,
                most,
                behavior: self.spec.behavior.as_ref(),
                scaled: status.last_scale_time.as_ref().map(|time| time.0),
                proposed,
                now: self.now,
            },
        );
        let (is, reason, text) = judged.limited;
        set(status, "ScalingLimited", is, reason, text, self.now);
        if judged.replicas == target.replicas {
            set(status, "AbleToScale", true, judged.able.0, judged.able.1, self.now);
            status.desired_replicas = judged.replicas;
            return;
        }
        let why = if judged.replicas > target.replicas {
            format!("{by} above target")
        } else {
            "All metrics below target".to_owned()
        };
        self.scale(target, judged.replicas, &why, status);
    }

    fn scale(&mut self, target: &Scaled<'_>, to: i32, why: &str, status: &mut HorizontalPodAutoscalerStatus) {
        let message = format!("New size: {to}; reason: {why}");
        let patch = Action::patch(Target::exact(target.kind, target.meta), json!({"spec": {"replicas": to}}))
            .on_success(self.note(Tone::Normal, "SuccessfulRescale", message.clone()))
            .on_failure(self.note(Tone::Warning, "FailedRescale", format!("{message}; error: {{}}")));
        self.plan.push(patch);
        let text = format!("the HPA controller was able to update the target scale to {to}");
        set(status, "AbleToScale", true, "SucceededRescale", &text, self.now);
        status.desired_replicas = to;
        status.last_scale_time = Some(Time(self.now));
    }

    fn metrics(&self) -> &[MetricSpec] {
        self.spec.metrics.as_deref().unwrap_or_default()
    }

    /// What the metrics ask for; nothing while their values are being asked for.
    fn propose(&mut self, target: &Scaled<'_>) -> Option<Proposal> {
        let usage = self.usage(target)?;
        let place = namespace(&self.scaler.metadata);
        let pods = self.view.pods.in_namespace(place);
        let pods: Vec<&Pod> = pods.map(|pod| &**pod).filter(|pod| selects(&target.selector, pod)).collect();
        let tolerance = self.tolerance();
        let mut proposal = Proposal::default();
        for spec in self.metrics() {
            let found = match resource_of(spec) {
                None => Err(not_available(spec)),
                Some((metric, goal)) => {
                    let found =
                        usage.clone().and_then(|usage| wanted(&pods, &usage, metric, goal, target.replicas, tolerance));
                    let reason = if metric.container.is_some() {
                        "FailedGetContainerResourceMetric"
                    } else {
                        "FailedGetResourceMetric"
                    };
                    found.map(|found| (metric, goal, found)).map_err(|why| (reason, failed(metric, goal, &why)))
                }
            };
            match found {
                Err(error) => proposal.errors.push(error),
                Ok((metric, goal, found)) => {
                    if proposal.replicas.is_none_or(|most| found.replicas > most) {
                        proposal.replicas = Some(found.replicas);
                        proposal.by = described(metric, goal);
                    }
                    proposal.statuses.push(shown(metric, &found));
                }
            }
        }
        Some(proposal)
    }

    fn tolerance(&self) -> (f64, f64) {
        let of = |rules: Option<&HPAScalingRules>| {
            let text = rules.and_then(|rules| rules.tolerance.as_ref());
            text.and_then(|text| text.0.parse::<Quantity>().ok()).map_or(TOLERANCE, |quantity| quantity.as_f64())
        };
        let behavior = self.spec.behavior.as_ref();
        (of(behavior.and_then(|b| b.scale_up.as_ref())), of(behavior.and_then(|b| b.scale_down.as_ref())))
    }

    /// What the pods use, or why that is not known; nothing while it is being asked.
    fn usage(&mut self, target: &Scaled<'_>) -> Option<Result<BTreeMap<String, PodUsage>, String>> {
        if self.metrics().iter().all(|spec| resource_of(spec).is_none()) {
            return Some(Ok(BTreeMap::new()));
        }
        let question = Question::Usage {
            namespace: namespace(&self.scaler.metadata).to_owned(),
            selector: selector_text(&target.selector),
        };
        let fresh = self.now.saturating_sub(SignedDuration::from_secs(PERIOD_SECONDS)).unwrap_or(Timestamp::MIN);
        match self.view.memory.answer(&question, fresh) {
            Some(Answer::Usage(usage)) => Some(usage.clone()),
            _ => {
                self.plan.push(Action::ask(question));
                None
            }
        }
    }
}

fn selects(selector: &LabelSelector, pod: &Pod) -> bool {
    matches(selector, labels(&pod.metadata))
}

fn resource_of(spec: &MetricSpec) -> Option<(Metric<'_>, &MetricTarget)> {
    if let Some(source) = &spec.resource {
        return Some((Metric { resource: &source.name, container: None }, &source.target));
    }
    let source = spec.container_resource.as_ref()?;
    Some((Metric { resource: &source.name, container: Some(&source.container) }, &source.target))
}

fn not_available(spec: &MetricSpec) -> (&'static str, String) {
    let (reason, api) = match spec.type_.as_str() {
        "External" => ("FailedGetExternalMetric", "external metrics API"),
        "Object" => ("FailedGetObjectMetric", "custom metrics API"),
        "Pods" => ("FailedGetPodsMetric", "custom metrics API"),
        _ => ("InvalidMetricSourceType", "any API"),
    };
    (reason, format!("unable to get metric: unable to fetch metrics from {api}: no adapter is installed"))
}

fn failed(metric: Metric<'_>, goal: &MetricTarget, why: &str) -> String {
    let what = if goal.average_utilization.is_some() { "utilization" } else { "usage" };
    format!("failed to get {} {what}: {why}", metric.resource)
}

fn described(metric: Metric<'_>, goal: &MetricTarget) -> String {
    let of = metric.container.map_or_else(String::new, |name| format!("container {name} "));
    let kind = if metric.container.is_some() { "container resource" } else { "resource" };
    if goal.average_utilization.is_some() {
        return format!("{} {of}{kind} utilization (percentage of request)", metric.resource);
    }
    format!("{} {of}{kind}", metric.resource)
}

fn shown(metric: Metric<'_>, found: &Wanted) -> MetricStatus {
    let average = if metric.resource == "memory" {
        Quantity::new(found.average_milli / 1000, Format::BinarySi)
    } else {
        Quantity::from_milli(found.average_milli)
    };
    let current = MetricValueStatus {
        average_utilization: found.utilization,
        average_value: Some(Text(average.to_string())),
        value: None,
    };
    let name = metric.resource.to_owned();
    match metric.container {
        None => MetricStatus {
            type_: "Resource".to_owned(),
            resource: Some(ResourceMetricStatus { name, current }),
            ..MetricStatus::default()
        },
        Some(container) => MetricStatus {
            type_: "ContainerResource".to_owned(),
            container_resource: Some(ContainerResourceMetricStatus { name, current, container: container.to_owned() }),
            ..MetricStatus::default()
        },
    }
}

/// A selector as a request's parameter.
fn selector_text(selector: &LabelSelector) -> String {
    let pairs = selector.match_labels.iter().flatten().map(|(key, value)| format!("{key}={value}"));
    let expressions = selector.match_expressions.iter().flatten().map(|one| {
        let values = one.values.as_deref().unwrap_or_default().join(",");
        match one.operator.as_str() {
            "In" => format!("{} in ({values})", one.key),
            "NotIn" => format!("{} notin ({values})", one.key),
            "DoesNotExist" => format!("!{}", one.key),
            _ => one.key.clone(),
        }
    });
    pairs.chain(expressions).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        framework::Write,
        testing::{Outline, at, object, outline},
    };
    use serde_json::Value;

    fn view(replicas: i32, status: Value) -> View {
        let mut view = View::default();
        view.autoscalers.insert(object(json!({
            "metadata": {"name": "web", "namespace": "d", "uid": "h", "generation": 1, "resourceVersion": "5"},
            "spec": {"maxReplicas": 10, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
                "metrics": [{"type": "Resource", "resource": {"name": "cpu",
                    "target": {"type": "Utilization", "averageUtilization": 50}}}]},
            "status": status})));
        view.deployments.insert(object(json!({
            "metadata": {"name": "web", "namespace": "d", "uid": "u", "resourceVersion": "3"},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": {}},
            "status": {"replicas": replicas}})));
        for number in 0..replicas {
            view.pods.insert(object(json!({
                "metadata": {"name": format!("p{number}"), "namespace": "d", "labels": {"app": "web"}},
                "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "100m"}}}]},
                "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}})));
        }
        view
    }

    fn learn(view: &mut View, usage: Result<i64, &str>) {
        let question = Question::Usage { namespace: "d".into(), selector: "app=web".into() };
        let pods = view
            .pods
            .in_namespace("d")
            .map(|pod| crate::common::objects::name(&pod.metadata).to_owned())
            .collect::<Vec<_>>();
        let usage = usage.map_err(str::to_owned);
        let all = usage.map(|used| pods.into_iter().map(|pod| (pod, PodUsage::of("c", "cpu", used))).collect());
        view.memory.learn(question, at(1000), Answer::Usage(all));
    }

    fn look(view: &View) -> Vec<Outline> {
        outline(&Autoscalers.plan(view, &Key::new("d", "web"), at(1001)))
    }

    fn condition(made: &[Outline], kind: &str) -> (String, String) {
        let status = &made.iter().find(|made| made.line.starts_with("status")).expect("a status").body["status"];
        let all = status["conditions"].as_array().unwrap();
        let one = all.iter().find(|one| one["type"] == kind).unwrap_or_else(|| panic!("no {kind}: {status}"));
        (one["status"].as_str().unwrap().to_owned(), one["reason"].as_str().unwrap().to_owned())
    }

    #[test]
    fn it_asks_before_it_decides() {
        let plan = Autoscalers.plan(&view(2, json!({})), &Key::new("d", "web"), at(1001));
        assert!(matches!(&plan.actions[..], [action] if matches!(action.write, Write::Ask(Question::Usage { .. }))));
        assert_eq!(plan.again, Some(at(1016)));
    }

    #[test]
    fn a_load_above_the_target_brings_more() {
        let mut view = view(2, json!({}));
        learn(&mut view, Ok(100));
        let made = look(&view);
        assert_eq!(made[0].line, "patch Deployment d/web");
        assert_eq!(made[0].body["spec"]["replicas"], 4);
        assert!(made[0].notes[0].contains("New size: 4; reason: cpu resource utilization"), "{:?}", made[0].notes);
        assert_eq!(condition(&made, "AbleToScale"), ("True".into(), "SucceededRescale".into()));
        let shown = &made[1].body["status"];
        assert_eq!(shown["currentMetrics"][0]["resource"]["current"]["averageUtilization"], 100);
        assert_eq!(shown["desiredReplicas"], 4);
    }

    #[test]
    fn fewer_come_after_the_window() {
        let mut fresh = view(4, json!({}));
        learn(&mut fresh, Ok(5));
        let made = look(&fresh);
        assert_eq!(made.len(), 1, "only a status: {made:?}");
        assert_eq!(condition(&made, "AbleToScale"), ("True".into(), "ScaleDownStabilized".into()));
        let waited = json!({"conditions": [{"type": "AbleToScale", "status": "True", "reason": "ScaleDownStabilized",
            "lastTransitionTime": "1970-01-01T00:10:00Z"}], "desiredReplicas": 4});
        let mut waited = view(4, waited);
        learn(&mut waited, Ok(5));
        assert_eq!(look(&waited)[0].body["spec"]["replicas"], 1);
    }

    #[test]
    fn without_metrics_it_says_so_and_leaves_the_size() {
        let mut view = view(2, json!({}));
        learn(&mut view, Err("unable to get metrics for resource cpu: no metrics API"));
        let made = look(&view);
        let notes: Vec<&str> = made.iter().flat_map(|made| &made.notes).map(String::as_str).collect();
        assert!(notes[0].starts_with("FailedGetResourceMetric failed to get cpu utilization: unable"), "{notes:?}");
        assert!(notes[1].starts_with("FailedComputeMetricsReplicas invalid metrics (1 invalid out of 1)"), "{notes:?}");
        assert_eq!(condition(&made, "ScalingActive"), ("False".into(), "FailedGetResourceMetric".into()));
        assert!(made.iter().all(|made| !made.line.starts_with("patch")));
    }

    #[test]
    fn bounds_need_no_metrics() {
        assert_eq!(look(&view(12, json!({})))[0].body["spec"]["replicas"], 10);
        let made = look(&view(0, json!({})));
        assert_eq!(condition(&made, "ScalingActive"), ("False".into(), "ScalingDisabled".into()));
        let mut lost = view(1, json!({}));
        lost.deployments = crate::framework::Cache::new(|_| None);
        let made = look(&lost);
        assert_eq!(condition(&made, "AbleToScale"), ("False".into(), "FailedGetScale".into()));
    }

    #[test]
    fn selectors_are_written_as_parameters() {
        let selector: LabelSelector = object(json!({"matchLabels": {"a": "b"}, "matchExpressions": [
            {"key": "c", "operator": "In", "values": ["d", "e"]}, {"key": "f", "operator": "DoesNotExist"}]}));
        assert_eq!(selector_text(&selector), "a=b,c in (d,e),!f");
    }
}
