//! PodSecurity: namespaces say by labels which level of the Pod Security Standards they enforce, audit and warn
//! about.

use super::{
    AdmissionError, AdmissionPlugin, AdmissionRequest, Lookup, Operation,
    pod_security_checks::{Level, Minor, describe, violations},
};
use std::collections::BTreeMap;
use timonel_api::Value;

const LABEL_PREFIX: &str = "pod-security.kubernetes.io/";
/// Subresources of pods that are not pods.
const IGNORED: [&str; 8] = ["exec", "attach", "binding", "eviction", "log", "portforward", "proxy", "status"];
/// Pods that a namespace's update is checked against at most, and warnings that come of it.
const MAX_PODS: usize = 3000;
const MAX_WARNINGS: usize = 100;

/// See the module.
#[derive(Debug, Default)]
pub struct PodSecurity;

/// A level at a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Standard {
    level: Level,
    minor: Minor,
}

impl std::fmt::Display for Standard {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let level = match self.level {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        };
        match self.minor {
            None => write!(out, "{level}:latest"),
            Some(minor) => write!(out, "{level}:v1.{minor}"),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Policy {
    enforce: Standard,
    audit: Standard,
    warn: Standard,
}

/// A label that makes no sense: its name, its value, why.
type LabelError = (String, String, &'static str);

fn parse_level(text: &str) -> Option<Level> {
    match text {
        "privileged" => Some(Level::Privileged),
        "baseline" => Some(Level::Baseline),
        "restricted" => Some(Level::Restricted),
        _ => None,
    }
}

fn parse_version(text: &str) -> Option<Minor> {
    if text == "latest" {
        return Some(None);
    }
    let digits = text.strip_prefix("v1.")?;
    let plain = digits == "0" || !digits.starts_with('0') && digits.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| digits.parse().ok()).flatten().map(Some)
}

fn policy(namespace: &Value) -> (Policy, Vec<LabelError>) {
    let mut errors = Vec::new();
    let label = |mode: &str| {
        let name = format!("{LABEL_PREFIX}{mode}");
        let value = namespace.at(&["metadata", "labels", &name]).and_then(Value::as_str).map(str::to_owned);
        (name, value)
    };
    // A level that cannot be read counts as the strictest where it refuses, as the laxest where it only tells.
    let mut standard = |mode: &str, otherwise: Level| {
        let ((name, level), (version_name, version)) = (label(mode), label(&format!("{mode}-version")));
        let (mut parsed, mut minor) = (Level::Privileged, None);
        if let Some(level) = &level {
            parsed = parse_level(level).unwrap_or_else(|| {
                errors.push((name, level.clone(), "must be one of privileged, baseline, restricted"));
                otherwise
            });
        }
        if let Some(version) = &version {
            minor = parse_version(version).unwrap_or_else(|| {
                errors.push((version_name, version.clone(), "must be \"latest\" or \"v1.x\""));
                None
            });
        }
        (Standard { level: parsed, minor }, level.is_some(), version.is_some())
    };
    let (enforce, enforced, _) = standard("enforce", Level::Restricted);
    let (audit, ..) = standard("audit", Level::Privileged);
    let (mut warn, warns, warn_version) = standard("warn", Level::Privileged);
    let readable = !errors.iter().any(|(name, ..)| *name == format!("{LABEL_PREFIX}enforce"));
    if enforced && readable && !warns && enforce.level > warn.level {
        warn.level = enforce.level;
        if !warn_version {
            warn.minor = enforce.minor;
        }
    }
    (Policy { enforce, audit, warn }, errors)
}

fn evaluate(standard: Standard, metadata: &Value, spec: &Value) -> Option<String> {
    let found = violations(standard.level, standard.minor, metadata, spec);
    (!found.is_empty()).then(|| describe(&found))
}

/// The pod template of a resource that makes pods.
fn template_of<'a>(request: &'a AdmissionRequest<'_>) -> Option<&'a Value> {
    let path: &[&str] = match (request.group, request.resource) {
        ("apps", "deployments" | "replicasets" | "statefulsets" | "daemonsets")
        | ("batch", "jobs")
        | ("", "replicationcontrollers") => &["spec", "template"],
        ("batch", "cronjobs") => &["spec", "jobTemplate", "spec", "template"],
        ("", "podtemplates") => &["template"],
        _ => return None,
    };
    request.object.at(path)
}

impl AdmissionPlugin for PodSecurity {
    fn name(&self) -> &'static str {
        "PodSecurity"
    }

    fn validate(&self, request: &mut AdmissionRequest<'_>, lookup: &dyn Lookup) -> Result<(), AdmissionError> {
        if !matches!(request.operation, Operation::Create | Operation::Update) {
            return Ok(());
        }
        if request.is("", "namespaces") {
            return check_namespace(request, lookup);
        }
        let is_pod = request.is_any("", "pods") && !IGNORED.contains(&request.subresource);
        let template = if request.subresource.is_empty() { template_of(request).cloned() } else { None };
        if !is_pod && template.is_none() {
            return Ok(());
        }
        let Some(namespace) = lookup.get("", "namespaces", "", request.namespace) else {
            let name = request.namespace;
            return if is_pod {
                Err(AdmissionError::internal(&format!("failed to lookup namespace {name:?}")))
            } else {
                Ok(())
            };
        };
        let (policy, errors) = policy(&namespace);
        let all = [policy.enforce, policy.audit, policy.warn];
        if errors.is_empty() && all.iter().all(|standard| standard.level == Level::Privileged) {
            return Ok(());
        }
        if is_pod && request.old.is_some_and(|old| !is_significant(request.object, old)) {
            return Ok(());
        }
        judge(request, &policy, &errors, template.as_ref())
    }
}

fn judge(
    request: &mut AdmissionRequest<'_>,
    policy: &Policy,
    errors: &[LabelError],
    template: Option<&Value>,
) -> Result<(), AdmissionError> {
    let enforced = template.is_none();
    let pod = template.unwrap_or(request.object);
    let null = Value::Null;
    let (metadata, spec) = (pod.get("metadata").unwrap_or(&null), pod.get("spec").unwrap_or(&null));
    let refused = if enforced { evaluate(policy.enforce, metadata, spec) } else { None };
    let (audited, warned) = (evaluate(policy.audit, metadata, spec), evaluate(policy.warn, metadata, spec));
    let mut note = |key: &str, text: String| {
        request.audit.insert(format!("{LABEL_PREFIX}{key}"), text);
    };
    if let Some((label, value, why)) = errors.first() {
        note("error", format!("Failed to parse policy: {label}: Invalid value: {value:?}: {why}"));
    }
    if enforced {
        note("enforce-policy", policy.enforce.to_string());
    }
    if let Some(found) = audited {
        note("audit-violations", format!("would violate PodSecurity \"{}\": {found}", policy.audit));
    }
    if let Some(found) = refused {
        let why = format!("violates PodSecurity \"{}\": {found}", policy.enforce);
        return Err(request.forbidden(&why));
    }
    if let Some(found) = warned {
        request.warn(format!("would violate PodSecurity \"{}\": {found}", policy.warn));
    }
    Ok(())
}

/// Whether an update can change what the standards say about a pod: most updates cannot.
fn is_significant(pod: &Value, old: &Value) -> bool {
    let lists = ["containers", "initContainers", "ephemeralContainers"];
    let images = |pod: &Value| -> Vec<String> {
        lists
            .iter()
            .flat_map(|list| pod.list_at(&["spec", list]))
            .map(|container| format!("{} {}", container.str_at(&["name"]), container.str_at(&["image"])))
            .collect()
    };
    let profiles = |pod: &Value| -> Vec<(String, Value)> {
        let annotations = pod.at(&["metadata", "annotations"]).and_then(Value::as_object);
        let members = annotations.into_iter().flat_map(|object| object.iter());
        let relevant = |key: &str| key.contains("seccomp.security.alpha") || key.contains("apparmor.security.beta");
        members.filter(|(key, _)| relevant(key)).map(|(key, value)| (key.to_string(), value.clone())).collect()
    };
    images(pod) != images(old) || profiles(pod) != profiles(old)
}

fn check_namespace(request: &mut AdmissionRequest<'_>, lookup: &dyn Lookup) -> Result<(), AdmissionError> {
    let (new, errors) = policy(request.object);
    let (old, old_errors) = request.old.map(policy).unzip();
    let name = request.display_name().to_owned();
    if !errors.is_empty() && old_errors.is_none_or(|old| old != errors) {
        return Err(invalid_labels(&name, &errors));
    }
    let Some(old) = old else { return Ok(()) };
    let relaxed = new.enforce.minor == old.enforce.minor && new.enforce.level <= old.enforce.level;
    if new.enforce == old.enforce || new.enforce.level == Level::Privileged || relaxed {
        return Ok(());
    }
    for warning in existing_violations(&name, new.enforce, lookup) {
        request.warn(warning);
    }
    Ok(())
}

fn invalid_labels(name: &str, errors: &[LabelError]) -> AdmissionError {
    let text = |(label, value, why): &LabelError| {
        (format!("metadata.labels[{label}]"), format!("Invalid value: {value:?}: {why}"))
    };
    let all: Vec<(String, String)> = errors.iter().map(text).collect();
    let lines: Vec<String> = all.iter().map(|(field, why)| format!("{field}: {why}")).collect();
    let list = if let [only] = &lines[..] { only.clone() } else { format!("[{}]", lines.join(", ")) };
    let message = format!("Namespace {name:?} is invalid: {list}");
    let error = AdmissionError::new(422, "Invalid", message).about("", "Namespace", name);
    all.into_iter().fold(error, |error, (field, why)| error.with_cause("FieldValueInvalid", why, field))
}

fn existing_violations(namespace: &str, enforce: Standard, lookup: &dyn Lookup) -> Vec<String> {
    let pods = lookup.list("", "pods", Some(namespace));
    let null = Value::Null;
    let mut by_reason: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for pod in pods.iter().take(MAX_PODS) {
        let (metadata, spec) = (pod.get("metadata").unwrap_or(&null), pod.get("spec").unwrap_or(&null));
        let found = violations(enforce.level, enforce.minor, metadata, spec);
        if !found.is_empty() {
            let reasons: Vec<&str> = found.iter().map(|violation| violation.reason.as_str()).collect();
            by_reason.entry(reasons.join(", ")).or_default().push(pod.str_at(&["metadata", "name"]).to_owned());
        }
    }
    if by_reason.is_empty() {
        return Vec::new();
    }
    let mut lines: Vec<String> = by_reason
        .into_iter()
        .map(|(reasons, names)| match names.len() {
            1 => format!("{}: {reasons}", names[0]),
            2 => format!("{} (and 1 other pod): {reasons}", names[0]),
            many => format!("{} (and {} other pods): {reasons}", names[0], many - 1),
        })
        .collect();
    lines.sort();
    lines.truncate(MAX_WARNINGS);
    let head =
        format!("existing pods in namespace {namespace:?} violate the new PodSecurity enforce level \"{enforce}\"");
    lines.insert(0, head);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::{Objects, Write};
    use serde_json::{Value as Json, json};

    fn namespace(labels: &[(&str, &str)]) -> Json {
        let labels: BTreeMap<String, &str> =
            labels.iter().map(|(mode, value)| (format!("{LABEL_PREFIX}{mode}"), *value)).collect();
        json!({"metadata": {"name": "ns", "labels": labels}})
    }

    fn world(labels: &[(&str, &str)]) -> Objects {
        Objects::default().with("", "namespaces", namespace(labels))
    }

    fn pod() -> Json {
        json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": {"hostNetwork": true, "containers": [{"name": "c", "image": "i"}]}})
    }

    #[test]
    fn namespaces_decide_about_pods() {
        const DETAIL: &str = "host namespaces (hostNetwork=true)";
        for (labels, refusal, warning) in [
            (&[][..], "", ""),
            (&[("enforce", "privileged")], "", ""),
            (&[("enforce", "baseline")], "violates PodSecurity \"baseline:latest\"", ""),
            (&[("enforce", "baseline"), ("enforce-version", "v1.30")], "violates PodSecurity \"baseline:v1.30\"", ""),
            (&[("warn", "baseline")], "", "would violate PodSecurity \"baseline:latest\""),
            (&[("audit", "baseline")], "", ""),
        ] {
            let done = Write::create("", "pods", pod()).run(&PodSecurity, &world(labels));
            match done {
                Err(error) => assert_eq!(error.message, format!("pods \"p\" is forbidden: {refusal}: {DETAIL}")),
                Ok(outcome) => {
                    assert_eq!(refusal, "", "{labels:?}");
                    let expected = if warning.is_empty() { vec![] } else { vec![format!("{warning}: {DETAIL}")] };
                    assert_eq!(outcome.warnings, expected);
                    let audited = outcome.audit.contains_key(&format!("{LABEL_PREFIX}audit-violations"));
                    assert_eq!(audited, labels.iter().any(|(mode, _)| *mode == "audit"));
                }
            }
        }
    }

    #[test]
    fn templates_are_warned_about_only() {
        let mut template = pod();
        template["metadata"] = json!({});
        let deployment = json!({"metadata": {"name": "d", "namespace": "ns"}, "spec": {"template": template}});
        let outcome = Write::create("apps", "deployments", deployment)
            .run(&PodSecurity, &world(&[("enforce", "baseline")]))
            .unwrap();
        assert_eq!(
            outcome.warnings,
            ["would violate PodSecurity \"baseline:latest\": host namespaces (hostNetwork=true)"]
        );
    }

    #[test]
    fn updates_that_change_nothing_of_note_pass() {
        let objects = world(&[("enforce", "baseline")]);
        let mut labelled = pod();
        labelled["metadata"]["labels"] = json!({"a": "b"});
        Write::update("", "pods", pod(), labelled).run(&PodSecurity, &objects).unwrap();
        let mut other = pod();
        other["spec"]["containers"][0]["image"] = "other".into();
        assert!(Write::update("", "pods", pod(), other).run(&PodSecurity, &objects).is_err());
        Write::update("", "pods", pod(), pod()).on("status").run(&PodSecurity, &objects).unwrap();
    }

    #[test]
    fn namespace_labels_are_checked_and_existing_pods_told() {
        let bad = Write::create("", "namespaces", namespace(&[("enforce", "strict"), ("warn-version", "v2")]));
        let error = bad.run(&PodSecurity, &Objects::default()).unwrap_err();
        assert_eq!(
            error.message,
            "Namespace \"ns\" is invalid: [metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"strict\": must be one of privileged, baseline, restricted, metadata.labels[pod-security.kubernetes.io/warn-version]: Invalid value: \"v2\": must be \"latest\" or \"v1.x\"]"
        );
        let objects = world(&[]).with("", "pods", pod());
        let tighter = Write::update("", "namespaces", namespace(&[]), namespace(&[("enforce", "baseline")]));
        assert_eq!(
            tighter.run(&PodSecurity, &objects).unwrap().warnings,
            [
                "existing pods in namespace \"ns\" violate the new PodSecurity enforce level \"baseline:latest\"",
                "p: host namespaces"
            ]
        );
    }
}
