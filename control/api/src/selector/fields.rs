//! Field selectors: the few fields of each kind that a list or watch may filter by.

use std::borrow::Cow;
use std::fmt;

use compact_str::CompactString;

use crate::Value;
use crate::fieldpath::quote;

/// Why a field selector is none: the message is for the client, under code 400.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FieldSelectorError(String);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Term {
    label: CompactString,
    value: CompactString,
    negated: bool,
}

/// All terms must hold; without any, everything matches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    kind: CompactString,
    terms: Vec<Term>,
}

const OBJECT_NAMES: &[&str] = &["metadata.name", "metadata.namespace"];
const POD: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "spec.hostNetwork",
    "status.phase",
    "status.podIP",
    "status.podIPs",
    "status.nominatedNodeName",
];
const EVENT: &[&str] = &[
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.apiVersion",
    "involvedObject.resourceVersion",
    "involvedObject.fieldPath",
    "reason",
    "reportingComponent",
    "source",
    "type",
    "metadata.namespace",
    "metadata.name",
];

/// The fields of a kind beyond what every kind has; `None` when it has no list of its own.
fn known_labels(group: &str, kind: &str) -> Option<&'static [&'static str]> {
    Some(match (group, kind) {
        ("", "Pod") => POD,
        ("", "Node") => &["metadata.name", "spec.unschedulable"],
        ("", "ReplicationController") => &["metadata.name", "metadata.namespace", "status.replicas"],
        ("", "Event") => EVENT,
        ("", "Namespace") => &["status.phase", "metadata.name"],
        ("", "Secret") => &["type", "metadata.namespace", "metadata.name"],
        ("", "Service") => &["metadata.namespace", "metadata.name", "spec.clusterIP", "spec.type"],
        ("batch", "Job") => &["metadata.name", "metadata.namespace", "status.successful"],
        ("certificates.k8s.io", "CertificateSigningRequest" | "ClusterTrustBundle") => {
            &["metadata.name", "spec.signerName"]
        }
        ("certificates.k8s.io", "PodCertificateRequest") => {
            &["metadata.name", "metadata.namespace", "spec.signerName", "spec.podName", "spec.nodeName"]
        }
        ("resource.k8s.io", "ResourceSlice") => &["metadata.name", "spec.nodeName", "spec.driver"],
        _ => return None,
    })
}

/// Events of `events.k8s.io` have other names for the same fields.
fn events_alias(label: &str) -> Option<CompactString> {
    Some(match label {
        "reason" | "type" | "metadata.namespace" | "metadata.name" => label.into(),
        "reportingController" => "reportingComponent".into(),
        _ => {
            let field = label.strip_prefix("regarding.")?;
            let label = format!("involvedObject.{field}");
            EVENT.contains(&label.as_str()).then(|| label.into())?
        }
    })
}

/// The stored name of a field that requests may select by; `extra` are those a custom resource declares.
///
/// # Errors
/// When the kind has no such field to select by.
pub fn field_label(
    group: &str,
    version: &str,
    kind: &str,
    label: &str,
    extra: &[&str],
) -> Result<CompactString, FieldSelectorError> {
    if group == "events.k8s.io" && kind == "Event" {
        return events_alias(label).ok_or_else(|| FieldSelectorError(format!("field label not supported: {label}")));
    }
    if group.is_empty() && kind == "Pod" && label == "spec.host" {
        return Ok("spec.nodeName".into());
    }
    let known = known_labels(group, kind);
    if known.unwrap_or(OBJECT_NAMES).contains(&label) || extra.contains(&label) {
        return Ok(label.into());
    }
    let message = match (known, kind) {
        (Some(_), "Job") => format!("field label {} not supported for Job", quote(label)),
        (Some(_), "ResourceSlice") => format!("field label not supported for {group}/{version}, Kind={kind}: {label}"),
        (Some(_), _) => format!("field label not supported: {label}"),
        (None, _) if extra.is_empty() => {
            format!("{} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"", quote(label))
        }
        (None, _) => format!("field label not supported: {label}"),
    };
    Err(FieldSelectorError(message))
}

/// What an object has in a field that may be selected by, as text.
#[must_use]
pub fn field_value<'a>(kind: &str, label: &str, object: &'a Value) -> Cow<'a, str> {
    let truth = |truth: bool| Cow::Borrowed(if truth { "true" } else { "false" });
    match (kind, label) {
        ("Pod", "status.podIP") => match object.list_at(&["status", "podIPs"]).first() {
            Some(first) => Cow::Borrowed(first.str_at(&["ip"])),
            None => Cow::Borrowed(object.str_at(&["status", "podIP"])),
        },
        ("Pod", "spec.hostNetwork") => truth(object.bool_at(&["spec", "hostNetwork"]).unwrap_or(false)),
        ("Node", "spec.unschedulable") => truth(object.bool_at(&["spec", "unschedulable"]).unwrap_or(false)),
        ("Job", "status.successful") => number(object.at(&["status", "succeeded"])),
        ("Event", "reportingComponent") => {
            let core = object.str_at(&["reportingComponent"]);
            Cow::Borrowed(if core.is_empty() { object.str_at(&["reportingController"]) } else { core })
        }
        ("Event", "source") => {
            let source = [["source", "component"], ["deprecatedSource", "component"]];
            let source = source.iter().map(|path| object.str_at(path)).find(|text| !text.is_empty());
            Cow::Borrowed(source.unwrap_or_else(|| object.str_at(&["reportingComponent"])))
        }
        ("Event", label) if label.starts_with("involvedObject.") => {
            let field = label.trim_start_matches("involvedObject.");
            let regarding = object.get("involvedObject").or_else(|| object.get("regarding"));
            Cow::Borrowed(regarding.map_or("", |regarding| regarding.str_at(&[field])))
        }
        (_, "status.replicas") => number(object.at(&["status", "replicas"])),
        _ => {
            let node = label.split('.').try_fold(object, |node, member| node.get(member));
            match node {
                Some(Value::String(text)) => Cow::Borrowed(text.as_str()),
                Some(Value::Int(number)) => Cow::Owned(number.to_string()),
                Some(Value::Bool(value)) => truth(*value),
                _ => Cow::Borrowed(""),
            }
        }
    }
}

fn number(value: Option<&Value>) -> Cow<'static, str> {
    match value.and_then(Value::as_int) {
        None | Some(0) => Cow::Borrowed("0"),
        Some(number) => Cow::Owned(number.to_string()),
    }
}

fn unescape(text: &str) -> Result<CompactString, FieldSelectorError> {
    let mut out = CompactString::default();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => out.push(c),
                other => {
                    let sequence: String = std::iter::once('\\').chain(other).collect();
                    let message = format!("invalid field selector: invalid escape sequence: {sequence}");
                    return Err(FieldSelectorError(message));
                }
            },
            ',' | '=' => {
                let message = format!("invalid field selector: unescaped character in value: {}", c as u32);
                return Err(FieldSelectorError(message));
            }
            c => out.push(c),
        }
    }
    Ok(out)
}

fn split_terms(text: &str) -> Vec<&str> {
    let (mut terms, mut start, mut escaped) = (Vec::new(), 0, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                terms.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms.sort_unstable();
    terms.retain(|term| !term.is_empty());
    terms
}

fn split_term(term: &str) -> Option<(&str, bool, &str)> {
    let at = term.find(['=', '!']).filter(|at| term[*at..].starts_with('=') || term[*at..].starts_with("!="));
    let at = at.or_else(|| [term.find("!="), term.find('=')].into_iter().flatten().min())?;
    let (label, rest) = term.split_at(at);
    let negated = rest.starts_with('!');
    let value = rest.strip_prefix("!=").or_else(|| rest.strip_prefix("==")).or_else(|| rest.strip_prefix('='))?;
    Some((label, negated, value))
}

impl FieldSelector {
    /// Matches every object.
    #[must_use]
    pub const fn everything() -> Self {
        Self { kind: CompactString::const_new(""), terms: Vec::new() }
    }

    /// Reads `metadata.name=a,status.phase!=Running` for a kind; `extra` are the fields a custom resource declares.
    ///
    /// # Errors
    /// With upstream's words, for a 400.
    pub fn parse(
        text: &str,
        group: &str,
        version: &str,
        kind: &str,
        extra: &[&str],
    ) -> Result<Self, FieldSelectorError> {
        let mut terms = Vec::new();
        for term in split_terms(text) {
            let (label, negated, value) = split_term(term)
                .ok_or_else(|| FieldSelectorError(format!("invalid selector: '{text}'; can't understand '{term}'")))?;
            let value = unescape(value)?;
            if label.is_empty() && value.is_empty() {
                continue;
            }
            terms.push(Term { label: field_label(group, version, kind, label, extra)?, value, negated });
        }
        Ok(Self { kind: kind.into(), terms })
    }

    /// Whether an object is meant.
    #[must_use]
    pub fn matches(&self, object: &Value) -> bool {
        self.matches_with(|label| field_value(&self.kind, label, object))
    }

    /// Whether an object is meant whose fields `value_of` knows, as those kept beside encoded bytes.
    pub fn matches_with<'a>(&self, value_of: impl Fn(&str) -> Cow<'a, str>) -> bool {
        self.terms.iter().all(|term| (value_of(&term.label) == term.value.as_str()) != term.negated)
    }

    /// Whether every object is meant.
    #[must_use]
    pub const fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }

    /// The value a field must have exactly, if the selector says one.
    #[must_use]
    pub fn exact(&self, label: &str) -> Option<&str> {
        self.terms.iter().find(|term| !term.negated && term.label == label).map(|term| term.value.as_str())
    }

    /// The fields it looks at.
    pub fn labels(&self) -> impl Iterator<Item = &str> {
        self.terms.iter().map(|term| term.label.as_str())
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, term) in self.terms.iter().enumerate() {
            let sign = if term.negated { "!=" } else { "=" };
            let value = term.value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=");
            write!(f, "{}{}{sign}{value}", if at > 0 { "," } else { "" }, term.label)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Value {
        serde_json::json!({
            "metadata": {"name": "a", "namespace": "n"},
            "spec": {"nodeName": "node-1", "hostNetwork": true},
            "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}]},
        })
        .into()
    }

    #[test]
    fn pods_are_selected() {
        for (text, expected) in [
            ("", true),
            ("metadata.name=a", true),
            ("metadata.name==b", false),
            ("metadata.name!=b,spec.nodeName=node-1", true),
            ("spec.host=node-1", true),
            ("status.podIP=10.0.0.1", true),
            ("spec.hostNetwork=true", true),
            ("status.nominatedNodeName=", true),
        ] {
            let selector = FieldSelector::parse(text, "", "v1", "Pod", &[]).unwrap();
            assert_eq!(selector.matches(&pod()), expected, "{text}");
        }
        let selector = FieldSelector::parse("metadata.name=a", "", "v1", "Pod", &[]).unwrap();
        assert_eq!((selector.exact("metadata.name"), selector.to_string().as_str()), (Some("a"), "metadata.name=a"));
    }

    #[test]
    fn other_kinds_have_their_fields() {
        let event: Value = serde_json::json!({"involvedObject": {"name": "x"}, "source": {"component": "c"}}).into();
        for (group, kind, text, object, expected) in [
            ("", "Event", "involvedObject.name=x,source=c", &event, true),
            ("events.k8s.io", "Event", "regarding.name=x", &event, true),
            ("batch", "Job", "status.successful=0", &event, true),
            ("", "Node", "spec.unschedulable=false", &event, true),
            ("example.com", "Custom", "spec.color=", &event, true),
        ] {
            let selector = FieldSelector::parse(text, group, "v1", kind, &["spec.color"]).unwrap();
            assert_eq!(selector.matches(object), expected, "{text}");
        }
    }

    #[test]
    fn errors_read_like_upstream() {
        for (group, kind, text, message) in [
            ("", "Pod", "foo=bar", "field label not supported: foo"),
            ("batch", "Job", "foo=bar", "field label \"foo\" not supported for Job"),
            (
                "apps",
                "Deployment",
                "foo=bar",
                "\"foo\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
            ),
            ("", "Pod", "foo", "invalid selector: 'foo'; can't understand 'foo'"),
            ("", "Pod", "metadata.name=a\\b", "invalid field selector: invalid escape sequence: \\b"),
            ("", "Pod", "metadata.name=a=b", "invalid field selector: unescaped character in value: 61"),
        ] {
            let error = FieldSelector::parse(text, group, "v1", kind, &[]).unwrap_err();
            assert_eq!(error.to_string(), message);
        }
    }
}
