//! Volumes of pods and where containers mount them.

use std::collections::{BTreeMap, BTreeSet};

use super::super::check::{given, maybe_one_of, quantity, required};
use super::env::downward_file;
use crate::names;
use crate::{FieldErrors, Path, Value};

const MAX_MODE: i64 = 0o777;
const MIN_TOKEN_SECONDS: i64 = 600;
const MAX_TOKEN_SECONDS: i64 = 1 << 32;
const HOST_PATH_TYPES: [&str; 8] =
    ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];

/// Sources in the order in which a second one is found to be one too many, with the members each needs.
const SOURCES: [(&str, &[&str]); 30] = [
    ("emptyDir", &[]),
    ("hostPath", &["path"]),
    ("gitRepo", &["repository"]),
    ("gcePersistentDisk", &["pdName"]),
    ("awsElasticBlockStore", &["volumeID"]),
    ("secret", &["secretName"]),
    ("nfs", &["server", "path"]),
    ("iscsi", &["targetPortal", "iqn"]),
    ("glusterfs", &["endpoints", "path"]),
    ("flocker", &[]),
    ("persistentVolumeClaim", &["claimName"]),
    ("rbd", &["image"]),
    ("cinder", &["volumeID"]),
    ("cephfs", &[]),
    ("quobyte", &["registry", "volume"]),
    ("downwardAPI", &[]),
    ("fc", &[]),
    ("flexVolume", &["driver"]),
    ("configMap", &["name"]),
    ("azureFile", &["secretName", "shareName"]),
    ("vsphereVolume", &["volumePath"]),
    ("photonPersistentDisk", &["pdID"]),
    ("portworxVolume", &["volumeID"]),
    ("azureDisk", &["diskName", "diskURI"]),
    ("storageos", &[]),
    ("projected", &[]),
    ("scaleIO", &["gateway", "system"]),
    ("csi", &[]),
    ("ephemeral", &[]),
    ("image", &[]),
];

/// Whether a volume is as it should be: others are not there for the containers that mount them.
pub(super) fn is_sound(volume: &Value, pod: &str) -> bool {
    let (mut errors, name) = (FieldErrors::new(), volume.str_at(&["name"]));
    source(volume, pod, &Path::root(), &mut errors);
    errors.is_empty() && !name.is_empty() && names::dns_label(name).is_empty()
}

pub(super) fn volumes(volumes: &[Value], pod: &str, list: &Path<'_>, errors: &mut FieldErrors) {
    let mut seen = BTreeSet::new();
    for (at, volume) in volumes.iter().enumerate() {
        let path = list.index(at);
        let name = volume.str_at(&["name"]);
        source(volume, pod, &path, errors);
        if name.is_empty() {
            errors.required(&path.child("name"), "");
        } else {
            errors.invalid_each(&path.child("name"), name, names::dns_label(name));
        }
        if !seen.insert(name) {
            errors.duplicate(&path.child("name"), name);
        }
        let claim = volume.str_at(&["persistentVolumeClaim", "claimName"]);
        let created = |other: &&Value| {
            given(other, &["ephemeral"]).is_some() && format!("{pod}-{}", other.str_at(&["name"])) == claim
        };
        if !claim.is_empty() && !pod.is_empty() && volumes.iter().any(|other| created(&other)) {
            let detail = "must not reference a PVC that gets created for an ephemeral volume";
            errors.invalid(&path.child("persistentVolumeClaim.claimName"), claim, detail);
        }
    }
}

fn source(volume: &Value, pod: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    let mut found = false;
    for (kind, needed) in SOURCES {
        let Some(source) = given(volume, &[kind]) else { continue };
        let path = path.child(kind);
        if found {
            errors.forbidden(&path, "may not specify more than 1 volume type");
            continue;
        }
        found = true;
        for member in needed {
            required(source, member, &path, errors);
        }
        details(kind, source, &path, errors);
    }
    if !found {
        errors.required(path, "must specify a volume type");
    }
    let name = volume.str_at(&["name"]);
    if given(volume, &["ephemeral"]).is_some() && !pod.is_empty() && !name.is_empty() {
        let claim = format!("{pod}-{name}");
        for rule in names::dns_subdomain(&claim) {
            errors.invalid(&path.child("name"), name, format!("PVC name {}: {rule}", crate::quote(&claim)));
        }
    }
}

fn details(kind: &str, source: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    match kind {
        "emptyDir" if source.get("sizeLimit").is_some_and(|limit| quantity(limit).signum() < 0) => {
            errors.forbidden(&path.child("sizeLimit"), "SizeLimit field must be a valid resource quantity");
        }
        "hostPath" => host_path(source, path, errors),
        "nfs" if !source.str_at(&["path"]).starts_with('/') => {
            errors.invalid(&path.child("path"), source.str_at(&["path"]), "must be an absolute path");
        }
        "secret" | "configMap" => {
            mode(source, "defaultMode", path, errors);
            keys(source, &path.child("items"), errors);
        }
        "downwardAPI" => {
            mode(source, "defaultMode", path, errors);
            for file in source.list_at(&["items"]) {
                downward_file(file, path, errors);
            }
        }
        "projected" => projected(source, path, errors),
        "csi" => {
            csi_driver(source.str_at(&["driver"]), &path.child("driver"), errors);
            if let Some(reference) = given(source, &["nodePublishSecretRef"]) {
                let message = "name must be set";
                if reference.str_at(&["name"]).is_empty() {
                    errors.required(&path.child("nodePublishSecretRef.name"), message);
                }
            }
        }
        "ephemeral" => match given(source, &["volumeClaimTemplate"]) {
            None => errors.required(&path.child("volumeClaimTemplate"), ""),
            Some(template) => {
                let path = path.child("volumeClaimTemplate");
                super::super::volumes::claim_spec(template.get("spec"), &path.child("spec"), errors);
            }
        },
        "image" => maybe_one_of(source, "pullPolicy", &["Always", "IfNotPresent", "Never"], path, errors),
        _ => {}
    }
}

/// The name of a CSI driver.
pub(in super::super) fn csi_driver(name: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    const MAX: usize = 63;
    if name.is_empty() {
        errors.required(path, "");
    }
    if name.len() > MAX {
        errors.too_long(path, MAX);
    }
    let lower = name.to_lowercase();
    errors.invalid_each(path, name, if name.is_empty() { Vec::new() } else { names::dns_subdomain(&lower) });
}

/// A path on the node.
pub(in super::super) fn host_path(source: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let text = source.str_at(&["path"]);
    no_steps_back(text, &path.child("path"), errors);
    let kind = source.str_at(&["type"]);
    if !HOST_PATH_TYPES.contains(&kind) {
        errors.not_supported(&path.child("type"), kind, &HOST_PATH_TYPES);
    }
}

pub(super) fn mode(value: &Value, member: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    if let Some(mode) = value.int_at(&[member]).filter(|mode| !(0..=MAX_MODE).contains(mode)) {
        let detail = "must be a number between 0 and 0777 (octal), both inclusive";
        errors.invalid(&path.child(member), mode, detail);
    }
}

fn no_steps_back(text: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    if text.split('/').any(|part| part == "..") {
        errors.invalid(path, text, "must not contain '..'");
    }
}

fn descending(text: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    if text.starts_with('/') {
        errors.invalid(path, text, "must be a relative path");
    }
    no_steps_back(text, path, errors);
}

/// A relative path below a volume that does not look like the volume's own bookkeeping.
pub(in super::super) fn local_path(text: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    descending(text, path, errors);
    if text.starts_with("..") && !text.starts_with("../") {
        errors.invalid(path, text, "must not start with '..'");
    }
}

fn keys(source: &Value, list: &Path<'_>, errors: &mut FieldErrors) {
    for (at, item) in source.list_at(&["items"]).iter().enumerate() {
        let path = list.index(at);
        required(item, "key", &path, errors);
        let file = required(item, "path", &path, errors);
        local_path(file, &path.child("path"), errors);
        mode(item, "mode", &path, errors);
    }
}

fn projected(volume: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    mode(volume, "defaultMode", path, errors);
    let mut files = BTreeSet::new();
    let list = path.child("sources");
    for (at, source) in volume.list_at(&["sources"]).iter().enumerate() {
        let source_path = list.index(at);
        let mut count = 0;
        for kind in ["secret", "configMap", "downwardAPI"] {
            let Some(one) = given(source, &[kind]) else { continue };
            count += 1;
            let own = source_path.child(kind);
            if kind == "downwardAPI" {
                one.list_at(&["items"]).iter().for_each(|file| downward_file(file, &own, errors));
            } else {
                required(one, "name", &own, errors);
                keys(one, &own.child("items"), errors);
            }
            for file in one.list_at(&["items"]).iter().map(|item| item.str_at(&["path"])) {
                if !file.is_empty() && !files.insert(file) {
                    let shown = if kind == "downwardAPI" { file } else { one.str_at(&["name"]) };
                    errors.invalid(path, shown, "conflicting duplicate paths");
                }
            }
        }
        if let Some(token) = given(source, &["serviceAccountToken"]) {
            count += 1;
            projected_token(token, path, &source_path.child("serviceAccountToken"), errors);
        }
        for kind in ["clusterTrustBundle", "podCertificate"] {
            if given(source, &[kind]).is_some() {
                count += 1;
            }
        }
        if count > 1 {
            errors.forbidden(&source_path, "may not specify more than 1 volume type per source");
        }
    }
}

fn projected_token(token: &Value, volume: &Path<'_>, path: &Path<'_>, errors: &mut FieldErrors) {
    let seconds = token.int_at(&["expirationSeconds"]).unwrap_or(0);
    let place = path.child("expirationSeconds");
    if seconds < MIN_TOKEN_SECONDS {
        errors.invalid(&place, seconds, "may not specify a duration less than 10 minutes");
    }
    if seconds > MAX_TOKEN_SECONDS {
        errors.invalid(&place, seconds, "may not specify a duration larger than 2^32 seconds");
    }
    let file = token.str_at(&["path"]);
    if file.is_empty() {
        errors.required(&volume.child("path"), "");
    } else {
        local_path(file, &volume.child("path"), errors);
    }
}

pub(super) fn mounts(container: &Value, volumes: &[Value], path: &Path<'_>, errors: &mut FieldErrors) {
    let pairs = |list: &str, member: &str| -> BTreeMap<String, String> {
        let pair = |one: &Value| (one.str_at(&["name"]).to_owned(), one.str_at(&[member]).to_owned());
        container.list_at(&[list]).iter().map(pair).collect()
    };
    let devices = pairs("volumeDevices", "devicePath");
    let exists = |name: &str| volumes.iter().find(|volume| volume.str_at(&["name"]) == name);
    let list = path.child("volumeMounts");
    let mut places = BTreeSet::new();
    for (at, mount) in container.list_at(&["volumeMounts"]).iter().enumerate() {
        let path = list.index(at);
        let (name, place) = (mount.str_at(&["name"]), mount.str_at(&["mountPath"]));
        required(mount, "name", &path, errors);
        if exists(name).is_none() {
            errors.not_found(&path.child("name"), name);
        }
        required(mount, "mountPath", &path, errors);
        if !places.insert(place) {
            errors.invalid(&path.child("mountPath"), place, "must be unique");
        }
        if devices.contains_key(name) {
            errors.invalid(&path.child("name"), name, "must not already exist in volumeDevices");
        }
        if devices.values().any(|device| device == place) {
            let detail = "must not already exist as a path in volumeDevices";
            errors.invalid(&path.child("mountPath"), place, detail);
        }
        mount_options(mount, container, &path, &list, errors);
    }
    let mounts = pairs("volumeMounts", "mountPath");
    block_devices(container, &mounts, exists, &path.child("volumeDevices"), errors);
}

fn mount_options(mount: &Value, container: &Value, path: &Path<'_>, list: &Path<'_>, errors: &mut FieldErrors) {
    let (below, expression) = (mount.str_at(&["subPath"]), mount.str_at(&["subPathExpr"]));
    descending(below, &list.child("subPath"), errors);
    if !expression.is_empty() {
        if !below.is_empty() {
            let detail = "subPathExpr and subPath are mutually exclusive";
            errors.invalid(&path.child("subPathExpr"), expression, detail);
        }
        descending(expression, &list.child("subPathExpr"), errors);
    }
    const PROPAGATIONS: [&str; 3] = ["Bidirectional", "HostToContainer", "None"];
    maybe_one_of(mount, "mountPropagation", &PROPAGATIONS, list, errors);
    let privileged = container.bool_at(&["securityContext", "privileged"]) == Some(true);
    let propagation = mount.str_at(&["mountPropagation"]);
    if propagation == "Bidirectional" && !privileged {
        let detail = "Bidirectional mount propagation is available only to privileged containers";
        errors.forbidden(&list.child("mountPropagation"), detail);
    }
    let recursive = list.child("recursiveReadOnly");
    maybe_one_of(mount, "recursiveReadOnly", &["Disabled", "Enabled", "IfPossible"], list, errors);
    if matches!(mount.str_at(&["recursiveReadOnly"]), "Enabled" | "IfPossible") {
        if mount.bool_at(&["readOnly"]) != Some(true) {
            errors.forbidden(&recursive, "may only be specified when readOnly is true");
        }
        if !matches!(propagation, "" | "None") {
            errors.forbidden(&recursive, "may only be specified when mountPropagation is None or not specified");
        }
    }
}

fn block_devices<'a>(
    container: &Value,
    mounts: &BTreeMap<String, String>,
    exists: impl Fn(&str) -> Option<&'a Value>,
    list: &Path<'_>,
    errors: &mut FieldErrors,
) {
    let (mut names, mut places) = (BTreeSet::new(), BTreeSet::new());
    for (at, device) in container.list_at(&["volumeDevices"]).iter().enumerate() {
        let path = list.index(at);
        let name = required(device, "name", &path, errors);
        if !name.is_empty() && !names.insert(name) {
            errors.invalid(&path.child("name"), name, "must be unique");
        }
        match exists(name) {
            None => errors.not_found(&path.child("name"), name),
            Some(volume) if ["persistentVolumeClaim", "ephemeral"].iter().all(|k| given(volume, &[k]).is_none()) => {
                let detail = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                errors.invalid(&path.child("name"), name, detail);
            }
            Some(_) => {}
        }
        let place = required(device, "devicePath", &path, errors);
        if !places.insert(place) {
            errors.invalid(&path.child("devicePath"), place, "must be unique");
        }
        if place.split('/').any(|part| part == "..") {
            errors.invalid(&path.child("devicePath"), place, "can not contain backsteps ('..')");
        }
        if mounts.contains_key(name) {
            errors.invalid(&path.child("name"), name, "must not already exist in volumeMounts");
        }
        if mounts.values().any(|mount| mount == place) {
            errors.invalid(&path.child("devicePath"), place, "must not already exist as a path in volumeMounts");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::check::tests::{creates, merged};
    use super::super::tests::{POD, base, spec, with};
    use serde_json::{Value as Json, json};

    #[test]
    fn volumes_are_judged() {
        let one = |volume: Json| spec(json!({"volumes": [merged(&json!({"name": "v"}), &volume)]}));
        creates(
            POD,
            &base(),
            &[
                (one(json!({"emptyDir": {}})), &[]),
                (one(json!({})), &["spec.volumes[0]: Required value: must specify a volume type"]),
                (
                    one(json!({"emptyDir": {}, "hostPath": {"path": "/a"}})),
                    &["spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type"],
                ),
                (one(json!({"secret": {}})), &["spec.volumes[0].secret.secretName: Required value"]),
                (
                    one(
                        json!({"configMap": {"name": "c", "defaultMode": 1024, "items": [{"key": "k", "path": "../x"}]}}),
                    ),
                    &[
                        "spec.volumes[0].configMap.defaultMode: Invalid value: 1024: must be a number between 0 and 0777 \
                     (octal), both inclusive",
                        "spec.volumes[0].configMap.items[0].path: Invalid value: \"../x\": must not contain '..'",
                    ],
                ),
                (
                    one(json!({"hostPath": {"path": "/a", "type": "Pipe"}})),
                    &[
                        "spec.volumes[0].hostPath.type: Unsupported value: \"Pipe\": supported values: \"\", \"BlockDevice\", \
                   \"CharDevice\", \"Directory\", \"DirectoryOrCreate\", \"File\", \"FileOrCreate\", \"Socket\"",
                    ],
                ),
                (
                    one(
                        json!({"projected": {"sources": [{"serviceAccountToken": {"path": "t", "expirationSeconds": 1}}]}}),
                    ),
                    &[
                        "spec.volumes[0].projected.sources[0].serviceAccountToken.expirationSeconds: Invalid value: 1: may \
                   not specify a duration less than 10 minutes",
                    ],
                ),
                (
                    spec(json!({"volumes": [{"name": "v", "emptyDir": {}}, {"name": "v", "emptyDir": {}}]})),
                    &["spec.volumes[1].name: Duplicate value: \"v\""],
                ),
                (
                    with(json!({"volumeMounts": [{"name": "x", "mountPath": "/a"}]})),
                    &["spec.containers[0].volumeMounts[0].name: Not found: \"x\""],
                ),
                (
                    merged(
                        &one(json!({"emptyDir": {}})),
                        &with(json!({"volumeMounts": [{"name": "v", "mountPath": "/a"},
                        {"name": "v", "mountPath": "/a", "mountPropagation": "Bidirectional"}]})),
                    ),
                    &[
                        "spec.containers[0].volumeMounts[1].mountPath: Invalid value: \"/a\": must be unique",
                        "spec.containers[0].volumeMounts.mountPropagation: Forbidden: Bidirectional mount propagation is \
                     available only to privileged containers",
                    ],
                ),
            ],
        );
    }
}
