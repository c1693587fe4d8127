//! Volumes: plugins that are gone, fractions of bytes, files in one another's place.

use super::selectors;
use crate::{Quantity, Value};

/// Kinds of volumes of pods that are deprecated or gone.
const POD_PLUGINS: [(&str, &str); 9] = [
    ("photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
    ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
];

/// The same of persistent volumes, in upstream's order.
const VOLUME_PLUGINS: [(&str, &str); 6] = [
    ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("storageos", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
];

/// How upstream's messages call a kind of volume.
fn shown(plugin: &str) -> &str {
    if plugin == "storageos" { "storageOS" } else { plugin }
}

fn given(object: &Value, field: &str) -> bool {
    object.get(field).is_some_and(|value| !value.is_null())
}

/// Tells about an amount of bytes that is no whole number.
pub(super) fn fraction(amounts: Option<&Value>, resource: &str, path: &str, out: &mut Vec<String>) {
    let amount = amounts.and_then(|amounts| amounts.get(resource)).and_then(|value| Quantity::from_value(value).ok());
    let Some(amount) = amount.filter(|amount| amount.milli_value() % 1_000 != 0) else { return };
    let amount = amount.to_string();
    out.push(format!("{path}[{resource}]: fractional byte value {amount:?} is invalid, must be an integer"));
}

/// The spec of a claim.
pub(super) fn claim_spec(spec: Option<&Value>, path: &str, out: &mut Vec<String>) {
    for part in ["requests", "limits"] {
        let amounts = spec.and_then(|spec| spec.at(&["resources", part]));
        fraction(amounts, "storage", &format!("{path}.resources.{part}"), out);
    }
}

/// A claim.
pub(super) fn claim(object: &Value, out: &mut Vec<String>) {
    annotations(object, &VOLUME_ANNOTATIONS[..1], out);
    claim_spec(object.get("spec"), "spec", out);
}

const VOLUME_ANNOTATIONS: [(&str, &str); 2] = [
    ("volume.beta.kubernetes.io/storage-class", "deprecated since v1.8; use \"storageClassName\" attribute instead"),
    ("volume.beta.kubernetes.io/mount-options", "deprecated since v1.31; use \"mountOptions\" attribute instead"),
];

fn annotations(object: &Value, known: &[(&str, &str)], out: &mut Vec<String>) {
    let there = known.iter().filter(|(name, _)| object.at(&["metadata", "annotations", name]).is_some());
    out.extend(there.map(|(name, message)| format!("metadata.annotations[{name}]: {message}")));
}

/// A persistent volume.
pub(super) fn volume(object: &Value, out: &mut Vec<String>) {
    annotations(object, &VOLUME_ANNOTATIONS, out);
    let Some(spec) = object.get("spec") else { return };
    if spec.str_at(&["persistentVolumeReclaimPolicy"]) == "Recycle" {
        out.push(
            "spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended \
             approach is to use dynamic provisioning."
                .to_owned(),
        );
    }
    let terms = spec.list_at(&["nodeAffinity", "required", "nodeSelectorTerms"]);
    for (at, term) in terms.iter().enumerate() {
        selectors::term(term, &format!("spec.nodeAffinity.required.nodeSelectorTerms[{at}]"), false, out);
    }
    let plugins = VOLUME_PLUGINS.iter().filter(|(plugin, _)| given(spec, plugin));
    out.extend(plugins.map(|(plugin, message)| format!("spec.{}: {message}", shown(plugin))));
}

/// The volumes of a pod.
pub(super) fn of_pod(volumes: &[Value], path: &str, out: &mut Vec<String>) {
    for (at, volume) in volumes.iter().enumerate() {
        let path = format!("{path}[{at}]");
        let plugins = POD_PLUGINS.iter().filter(|(plugin, _)| given(volume, plugin));
        out.extend(plugins.map(|(plugin, message)| format!("{path}.{}: {message}", shown(plugin))));
        if let Some(template) = volume.at(&["ephemeral", "volumeClaimTemplate"]).filter(|value| !value.is_null()) {
            claim_spec(template.get("spec"), &format!("{path}.ephemeral.volumeClaimTemplate.spec"), out);
        }
    }
    volumes.iter().for_each(|volume| overlaps(volume, out));
}

/// A file of a volume, and where it comes from.
#[derive(Clone, PartialEq, Eq)]
struct File {
    path: String,
    source: String,
}

impl File {
    fn shown(&self) -> String {
        if self.source.is_empty() { format!("{:?}", self.path) } else { format!("{:?} ({})", self.path, self.source) }
    }
}

fn files(items: &[Value], source: &str) -> Vec<File> {
    let file = |item: &Value| File {
        path: item.str_at(&["path"]).trim_end_matches('/').to_owned(),
        source: source.to_owned(),
    };
    items.iter().map(file).collect()
}

fn collide(a: &File, b: &File) -> bool {
    let within = |a: &str, b: &str| format!("{a}/").starts_with(&format!("{b}/"));
    !a.path.is_empty() && !b.path.is_empty() && (within(&a.path, &b.path) || within(&b.path, &a.path))
}

fn overlaps(volume: &Value, out: &mut Vec<String>) {
    let name = volume.str_at(&["name"]);
    let mut look = |all: Vec<File>, known: &mut Vec<File>, what: &str| {
        for file in all {
            for other in known.iter().filter(|other| collide(other, &file)) {
                let (file, other) = (file.shown(), other.shown());
                out.push(format!("volume {name:?} ({what}): overlapping paths: {file} with {other}"));
            }
            known.push(file);
        }
    };
    for (kind, field, shown) in [("configMap", "name", "ConfigMap"), ("secret", "secretName", "Secret")] {
        if let Some(source) = volume.get(kind) {
            let what = format!("{shown} {:?}", source.str_at(&[field]));
            look(files(source.list_at(&["items"]), ""), &mut Vec::new(), &what);
        }
    }
    look(files(volume.list_at(&["downwardAPI", "items"]), ""), &mut Vec::new(), "DownwardAPI");
    let mut known = Vec::new();
    for source in volume.list_at(&["projected", "sources"]) {
        look(projected(source), &mut known, "Projected");
    }
    let empty =
        |source: &Value| source.as_object().is_none_or(|members| members.iter().all(|(_, value)| value.is_null()));
    let empty = volume.list_at(&["projected", "sources"]).iter().filter(|source| empty(source));
    out.extend(empty.map(|_| format!("volume {name:?} (Projected) has no sources provided")));
}

fn projected(source: &Value) -> Vec<File> {
    for (kind, shown) in [("configMap", "ConfigMap"), ("secret", "Secret")] {
        if let Some(part) = source.get(kind).filter(|part| !part.is_null()) {
            return files(part.list_at(&["items"]), &format!("{shown} {:?}", part.str_at(&["name"])));
        }
    }
    if given(source, "downwardAPI") {
        return files(source.list_at(&["downwardAPI", "items"]), "DownwardAPI");
    }
    let file = |path: &str, source: String| {
        let path = path.trim_end_matches('/').to_owned();
        if path.is_empty() { Vec::new() } else { vec![File { path, source }] }
    };
    if let Some(token) = source.get("serviceAccountToken").filter(|part| !part.is_null()) {
        return file(token.str_at(&["path"]), "ServiceAccountToken".to_owned());
    }
    if let Some(bundle) = source.get("clusterTrustBundle").filter(|part| !part.is_null()) {
        let name = if given(bundle, "name") { "name" } else { "signerName" };
        return file(bundle.str_at(&["path"]), format!("ClusterTrustBundle {:?}", bundle.str_at(&[name])));
    }
    let certificate = source.get("podCertificate").filter(|part| !part.is_null());
    let parts = [
        ("certificateChainPath", "PodCertificate chain"),
        ("keyPath", "PodCertificate key"),
        ("credentialBundlePath", "PodCertificate credential bundle"),
    ];
    let path = |field: &str| certificate.map_or("", |certificate| certificate.str_at(&[field]));
    parts.into_iter().flat_map(|(field, shown)| file(path(field), shown.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn volumes_are_told_about() {
        let volumes: Vec<Value> = [
            json!({"name": "a", "gitRepo": {}}),
            json!({"name": "b", "configMap": {"name": "c", "items": [{"path": "x"}, {"path": "x/y"}, {"path": "xy"}]}}),
            json!({"name": "c", "projected": {"sources": [{}, {"secret": {"name": "s", "items": [{"path": "token"}]}},
                {"serviceAccountToken": {"path": "token"}}]}}),
            json!({"name": "d", "ephemeral": {"volumeClaimTemplate": {"spec": {"resources": {"requests": {"storage": "100m"}}}}}}),
        ]
        .map(Value::from)
        .into();
        let mut out = Vec::new();
        of_pod(&volumes, "spec.volumes", &mut out);
        assert_eq!(
            out,
            [
                "spec.volumes[0].gitRepo: deprecated in v1.11, and disabled by default in v1.33+",
                "spec.volumes[3].ephemeral.volumeClaimTemplate.spec.resources.requests[storage]: fractional byte value \"100m\" is invalid, must be an integer",
                "volume \"b\" (ConfigMap \"c\"): overlapping paths: \"x/y\" with \"x\"",
                "volume \"c\" (Projected): overlapping paths: \"token\" (ServiceAccountToken) with \"token\" (Secret \"s\")",
                "volume \"c\" (Projected) has no sources provided",
            ]
        );
        let mut out = Vec::new();
        let object = json!({"metadata": {"annotations": {"volume.beta.kubernetes.io/mount-options": "x"}},
            "spec": {"persistentVolumeReclaimPolicy": "Recycle", "rbd": {}}});
        volume(&object.into(), &mut out);
        assert_eq!(out.len(), 3, "{out:?}");
        assert_eq!(out[2], "spec.rbd: deprecated in v1.28, non-functional in v1.31+");
    }
}
