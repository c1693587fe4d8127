//! From what pods use to how many are needed. Pure arithmetic over amounts in thousandths.

use crate::common::{
    objects::{deleting, name},
    pods::{condition, ready},
};
use crate::framework::PodUsage;
use k8s_openapi::api::{
    autoscaling::v2::MetricTarget,
    core::v1::{Container, Pod},
};
use std::collections::BTreeMap;
use timonel_api::Quantity;

/// Usage may differ from its target by this part of it before anything is done.
pub(super) const TOLERANCE: f64 = 0.1;

/// What one resource metric asks for.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Wanted {
    pub(super) replicas: i32,
    /// Per cent of what the pods request; only for targets of utilization.
    pub(super) utilization: Option<i32>,
    /// Thousandths per pod.
    pub(super) average_milli: i64,
}

/// The metric: a resource, of all containers or of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Metric<'a> {
    pub(super) resource: &'a str,
    pub(super) container: Option<&'a str>,
}

/// What a pod may use, in thousandths.
type PerPod<'a> = Box<dyn Fn(&Pod) -> Result<i64, String> + 'a>;

/// Pods, told apart by what is known of them.
#[derive(Debug, Default)]
struct Groups<'a> {
    measured: Vec<(&'a Pod, i64)>,
    missing: Vec<&'a Pod>,
    unready: Vec<&'a Pod>,
}

fn group<'a>(pods: &[&'a Pod], usage: &BTreeMap<String, PodUsage>, metric: Metric<'_>) -> Groups<'a> {
    let mut groups = Groups::default();
    for pod in pods {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        if deleting(&pod.metadata) || phase == Some("Failed") {
            continue;
        }
        let amount = usage.get(name(&pod.metadata)).and_then(|usage| usage.amount(metric.resource, metric.container));
        let began = condition(pod, "Ready").is_some();
        match amount {
            _ if phase == Some("Pending") => groups.unready.push(pod),
            None => groups.missing.push(pod),
            // What a pod uses while it starts says nothing of the load.
            Some(_) if metric.resource == "cpu" && !(began && ready(pod)) => groups.unready.push(pod),
            Some(amount) => groups.measured.push((pod, amount)),
        }
    }
    groups
}

/// What a pod's containers request of the metric's resource; the error names what does not.
fn request(pod: &Pod, metric: Metric<'_>) -> Result<i64, String> {
    let spec = pod.spec.as_ref();
    let sidecars = spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
    let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let all = spec.iter().flat_map(|spec| &spec.containers).chain(sidecars);
    let counted = |container: &&Container| metric.container.is_none_or(|name| container.name == name);
    let mut sum = 0_i64;
    for container in all.filter(counted) {
        let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
        let text = requests.and_then(|requests| requests.get(metric.resource));
        let amount = text.and_then(|text| text.0.parse::<Quantity>().ok());
        let Some(amount) = amount else {
            let pod = name(&pod.metadata);
            return Err(format!(
                "missing request for {} in container {} of Pod {pod}",
                metric.resource, container.name
            ));
        };
        sum = sum.saturating_add(amount.milli_value());
    }
    Ok(sum)
}

#[allow(clippy::cast_precision_loss, reason = "ratios of amounts need no more than a double's precision")]
fn ratio(part: i64, whole: i64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

#[allow(clippy::cast_possible_truncation, reason = "clamped to the range of the type")]
fn ceiling(value: f64) -> i32 {
    value.ceil().clamp(0.0, f64::from(i32::MAX)) as i32
}

/// How many replicas a resource metric asks for, when `current` are wanted at this moment.
///
/// # Errors
/// Why it cannot be said, in the words of the condition.
pub(super) fn wanted(
    pods: &[&Pod],
    usage: &BTreeMap<String, PodUsage>,
    metric: Metric<'_>,
    target: &MetricTarget,
    current: i32,
    tolerance: (f64, f64),
) -> Result<Wanted, String> {
    let groups = group(pods, usage, metric);
    if groups.measured.is_empty() {
        return Err("did not receive metrics for targeted pods (pods might be unready)".into());
    }
    let per_pod: PerPod<'_> = match (target.average_utilization, &target.average_value) {
        (Some(percent), _) => Box::new(move |pod| Ok(request(pod, metric)?.saturating_mul(i64::from(percent)) / 100)),
        (None, Some(value)) => {
            let milli = value.0.parse::<Quantity>().map_err(|error| error.to_string())?.milli_value();
            Box::new(move |_| Ok(milli))
        }
        (None, None) => return Err("invalid target: neither a utilization nor an average value was set".into()),
    };
    let goal = |list: &[&Pod]| -> Result<i64, String> {
        list.iter().try_fold(0_i64, |sum, pod| Ok(sum.saturating_add(per_pod(pod)?)))
    };
    let known: Vec<&Pod> = groups.measured.iter().map(|(pod, _)| *pod).collect();
    let used: i64 = groups.measured.iter().map(|(_, amount)| amount).sum();
    let measured = groups.measured.len();
    let first = ratio(used, goal(&known)?);
    let within = |ratio: f64| ratio <= 1.0 + tolerance.0 && ratio >= 1.0 - tolerance.1;
    let count = |n: usize| f64::from(i32::try_from(n).unwrap_or(i32::MAX));
    let replicas = if groups.missing.is_empty() && (groups.unready.is_empty() || first <= 1.0) {
        if within(first) { current } else { ceiling(first * count(measured)) }
    } else {
        // Those of whom nothing is known are taken to use nothing when more are asked for, and all of their share when
        // fewer are: neither may tip the scale.
        let (mut all_used, mut all_goal) = (used, goal(&known)?);
        let mut number = measured;
        let missing = goal(&groups.missing)?;
        all_goal = all_goal.saturating_add(missing);
        number += groups.missing.len();
        if first < 1.0 {
            all_used = all_used.saturating_add(missing);
        } else {
            all_goal = all_goal.saturating_add(goal(&groups.unready)?);
            number += groups.unready.len();
        }
        let second = ratio(all_used, all_goal);
        let turned = (first < 1.0) != (second < 1.0);
        let asked = ceiling(second * count(number));
        let against = (second < 1.0 && asked > current) || (second > 1.0 && asked < current);
        if within(second) || turned || against { current } else { asked }
    };
    let requested = target
        .average_utilization
        .map(|_| groups.measured.iter().try_fold(0_i64, |sum, (pod, _)| Ok::<_, String>(sum + request(pod, metric)?)));
    let utilization = requested.transpose()?.map(|requested| percent(used, requested));
    let average_milli = used / i64::try_from(measured).unwrap_or(1);
    Ok(Wanted { replicas, utilization, average_milli })
}

fn percent(part: i64, whole: i64) -> i32 {
    let value = if whole == 0 { 0 } else { i128::from(part) * 100 / i128::from(whole) };
    i32::try_from(value).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::object;
    use serde_json::json;

    const CPU: Metric<'static> = Metric { resource: "cpu", container: None };

    fn pod(number: usize, state: &str) -> Pod {
        let (phase, ready) = match state {
            "unready" => ("Running", "False"),
            "pending" => ("Pending", "False"),
            "failed" => ("Failed", "False"),
            _ => ("Running", "True"),
        };
        object(json!({"metadata": {"name": format!("p{number}"), "namespace": "d"},
            "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "100m"}}}]},
            "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready}]}}))
    }

    /// Pods by state, each with its usage in thousandths (none: not measured).
    fn check(pods: &[(&str, Option<i64>)], percent: i32, expected: Result<i32, &str>) {
        let all: Vec<Pod> = pods.iter().enumerate().map(|(number, (state, _))| pod(number, state)).collect();
        let all: Vec<&Pod> = all.iter().collect();
        let usage = pods
            .iter()
            .enumerate()
            .filter_map(|(number, (_, used))| Some((format!("p{number}"), PodUsage::of("c", "cpu", (*used)?))));
        let target = MetricTarget { average_utilization: Some(percent), ..MetricTarget::default() };
        let current = i32::try_from(pods.len()).unwrap();
        let found = wanted(&all, &usage.collect(), CPU, &target, current, (TOLERANCE, TOLERANCE));
        assert_eq!(found.map(|wanted| wanted.replicas), expected.map_err(str::to_owned));
    }

    #[test]
    fn utilization() {
        let ok = "ready";
        check(&[(ok, Some(100)), (ok, Some(100))], 50, Ok(4));
        check(&[(ok, Some(50)), (ok, Some(54))], 50, Ok(2));
        check(&[(ok, Some(10)), (ok, Some(10)), (ok, Some(10)), (ok, Some(10))], 40, Ok(1));
        check(&[(ok, Some(0)), (ok, Some(0))], 50, Ok(0));
    }

    #[test]
    fn pods_of_whom_little_is_known_do_not_tip_the_scale() {
        let ok = "ready";
        // Two at twice their share would need four; the starting one counts as using nothing.
        check(&[(ok, Some(100)), (ok, Some(100)), ("unready", Some(100))], 50, Ok(4));
        check(&[(ok, Some(60)), ("pending", None)], 50, Ok(2));
        check(&[(ok, Some(10)), (ok, None)], 50, Ok(2));
        check(&[(ok, Some(60)), ("failed", Some(0))], 50, Ok(2));
    }

    #[test]
    fn what_cannot_be_said_is_told() {
        check(&[("pending", None)], 50, Err("did not receive metrics for targeted pods (pods might be unready)"));
        let mut bare = pod(0, "ready");
        bare.spec.as_mut().unwrap().containers[0].resources = None;
        let usage = [("p0".to_owned(), PodUsage::of("c", "cpu", 1))].into();
        let target = MetricTarget { average_utilization: Some(50), ..MetricTarget::default() };
        let error = wanted(&[&bare], &usage, CPU, &target, 1, (0.1, 0.1)).unwrap_err();
        assert_eq!(error, "missing request for cpu in container c of Pod p0");
    }

    #[test]
    fn an_average_value_needs_no_request() {
        let mut bare = pod(0, "ready");
        bare.spec.as_mut().unwrap().containers[0].resources = None;
        let usage = [("p0".to_owned(), PodUsage::of("c", "cpu", 300))].into();
        let value = serde_json::from_value(json!("100m")).unwrap();
        let target = MetricTarget { average_value: Some(value), ..MetricTarget::default() };
        let found = wanted(&[&bare], &usage, CPU, &target, 1, (0.1, 0.1)).unwrap();
        assert_eq!(found, Wanted { replicas: 3, utilization: None, average_milli: 300 });
    }
}
