//! PersistentVolumes, claims, storage classes, CSI objects.

use std::collections::BTreeSet;

use super::check::{
    self, NOT_POSITIVE, entries, given, immutable, label_selector, maybe_name, maybe_one_of, quantity, required_name,
    texts,
};
use super::pod::{host_path, node_selector};
use crate::names;
use crate::strategy::semantic_equal;
use crate::{FieldErrors, Path, Value};

const MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
const VOLUME_MODES: [&str; 2] = ["Block", "Filesystem"];
const SOURCES: [(&str, &[&str]); 22] = [
    ("hostPath", &["path"]),
    ("gcePersistentDisk", &["pdName"]),
    ("awsElasticBlockStore", &["volumeID"]),
    ("glusterfs", &["endpoints", "path"]),
    ("flocker", &[]),
    ("nfs", &["server", "path"]),
    ("rbd", &["image"]),
    ("quobyte", &["registry", "volume"]),
    ("cephfs", &[]),
    ("iscsi", &["targetPortal", "iqn"]),
    ("cinder", &["volumeID"]),
    ("fc", &[]),
    ("flexVolume", &["driver"]),
    ("azureFile", &["secretName", "shareName"]),
    ("vsphereVolume", &["volumePath"]),
    ("photonPersistentDisk", &["pdID"]),
    ("portworxVolume", &["volumeID"]),
    ("azureDisk", &["diskName", "diskURI"]),
    ("scaleIO", &["gateway", "system"]),
    ("local", &["path"]),
    ("storageos", &[]),
    ("csi", &["volumeHandle"]),
];
const MAX_PARAMETERS: usize = 512;
const MAX_PARAMETER_BYTES: usize = 256 * 1024;

fn access_modes(spec: &Value, detail: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    let (modes, path) = (texts(spec, &["accessModes"]), path.child("accessModes"));
    if modes.is_empty() {
        errors.required(&path, detail);
    }
    for mode in modes.iter().filter(|mode| !MODES.contains(mode)) {
        errors.not_supported(&path, *mode, &MODES);
    }
    let single = |mode: &&str| *mode == "ReadWriteOncePod";
    if modes.iter().any(single) && modes.iter().any(|mode| !single(mode) && MODES.contains(mode)) {
        errors.forbidden(&path, "may not use ReadWriteOncePod with other access modes");
    }
}

fn positive(value: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    if quantity(value).signum() <= 0 {
        errors.invalid(path, value.clone(), NOT_POSITIVE);
    }
}

pub(super) fn volume(object: &Value, errors: &mut FieldErrors) {
    let path = Path::new("spec");
    let empty = Value::object();
    let spec = object.get("spec").unwrap_or(&empty);
    access_modes(spec, "", &path, errors);
    let capacity = path.child("capacity");
    if entries(spec, &["capacity"]).next().is_none() {
        errors.required(&capacity, "");
    }
    if spec.at(&["capacity", "storage"]).is_none() || entries(spec, &["capacity"]).count() > 1 {
        errors.not_supported(&capacity, spec.get("capacity").cloned().unwrap_or_default(), &["storage"]);
    }
    for (name, value) in entries(spec, &["capacity"]) {
        positive(value, &capacity.key(name), errors);
    }
    maybe_one_of(spec, "persistentVolumeReclaimPolicy", &["Delete", "Recycle", "Retain"], &path, errors);
    let affinity = given(spec, &["nodeAffinity"]);
    if let Some(affinity) = affinity {
        match given(affinity, &["required"]) {
            Some(required) => node_selector(required, &path.child("nodeAffinity.required"), errors),
            None => errors.required(&path.child("nodeAffinity.required"), "must specify required node constraints"),
        }
    }
    source(spec, affinity.is_some(), &path, errors);
    if given(spec, &["hostPath"]).is_some()
        && spec.str_at(&["hostPath", "path"]) == "/"
        && spec.str_at(&["persistentVolumeReclaimPolicy"]) == "Recycle"
    {
        let detail = "may not be 'recycle' for a hostPath mount of '/'";
        errors.forbidden(&path.child("persistentVolumeReclaimPolicy"), detail);
    }
    for member in ["storageClassName", "volumeAttributesClassName"] {
        maybe_name(spec, member, names::dns_subdomain, &path, errors);
    }
    check::known_if_given(spec, "volumeMode", &VOLUME_MODES, &path, errors);
}

fn source(spec: &Value, has_affinity: bool, path: &Path<'_>, errors: &mut FieldErrors) {
    let mut found = false;
    for (kind, needed) in SOURCES {
        let Some(source) = given(spec, &[kind]) else { continue };
        let own = path.child(kind);
        if found {
            errors.forbidden(&own, "may not specify more than 1 volume type");
            continue;
        }
        found = true;
        for member in needed {
            check::required(source, member, &own, errors);
        }
        match kind {
            "hostPath" => host_path(source, &own, errors),
            "nfs" if !source.str_at(&["path"]).starts_with('/') => {
                errors.invalid(&own.child("path"), source.str_at(&["path"]), "must be an absolute path");
            }
            "local" if !has_affinity => {
                let place = path.child("nodeAffinity");
                errors.required(&place, "Local volume requires node affinity");
            }
            "csi" => csi(source, &own, errors),
            _ => {}
        }
    }
    if !found {
        errors.required(path, "must specify a volume type");
    }
}

fn csi(source: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    driver_name(source.str_at(&["driver"]), &path.child("driver"), errors);
    for member in
        ["controllerPublishSecretRef", "controllerExpandSecretRef", "nodePublishSecretRef", "nodeExpandSecretRef"]
    {
        let Some(secret) = given(source, &[member]) else { continue };
        let path = path.child(member);
        required_name(secret, "name", names::dns_subdomain, &path, errors);
        required_name(secret, "namespace", names::dns_label, &path, errors);
    }
}

fn driver_name(name: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    const MAX: usize = 63;
    if name.is_empty() {
        return errors.required(path, "");
    }
    if name.len() > MAX {
        errors.too_long(path, MAX);
    }
    errors.invalid_each(path, name, names::dns_subdomain(&name.to_lowercase()));
}

pub(super) fn volume_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    volume(new, errors);
    let sources = |object: &Value| {
        let mut source = Value::object();
        for (kind, _) in SOURCES {
            if let Some(value) = given(object, &["spec", kind]) {
                source.set_at(&[kind], value.clone());
            }
        }
        source
    };
    let (mut after, before) = (sources(new), sources(old));
    if before.at(&["csi", "controllerExpandSecretRef"]).is_none() && before.at(&["csi"]).is_some() {
        after.remove_at(&["csi", "controllerExpandSecretRef"]);
    }
    if !semantic_equal(Some(&after), Some(&before)) {
        let detail = "spec.persistentvolumesource is immutable after creation\n";
        errors.forbidden(&Path::new("spec.persistentvolumesource"), detail);
    }
    let mode = ["spec", "volumeMode"];
    if new.str_at(&mode) != old.str_at(&mode) {
        errors.invalid(&Path::new("volumeMode"), new.str_at(&mode), check::IMMUTABLE);
    }
    let affinity = ["spec", "nodeAffinity"];
    if old.at(&affinity).is_some() && !semantic_equal(new.at(&affinity), old.at(&affinity)) {
        let shown = new.at(&affinity).cloned().unwrap_or_default();
        errors.invalid(&Path::new("nodeAffinity"), shown, check::IMMUTABLE);
    }
    let class = ["spec", "volumeAttributesClassName"];
    if given(old, &class).is_some() && given(new, &class).is_none() {
        let detail = "update from non-nil value to nil is forbidden";
        errors.forbidden(&Path::new("spec.volumeAttributesClassName"), detail);
    }
}

/// `spec` of a claim, of a claim template, of an ephemeral volume.
pub(super) fn claim_spec(spec: Option<&Value>, path: &Path<'_>, errors: &mut FieldErrors) {
    let empty = Value::object();
    let spec = spec.unwrap_or(&empty);
    access_modes(spec, "at least 1 access mode is required", path, errors);
    label_selector(spec.get("selector"), &path.child("selector"), errors);
    let resources = path.child("resources");
    match spec.at(&["resources", "requests", "storage"]) {
        Some(value) => positive(value, &resources.key("storage"), errors),
        None => errors.required(&resources.key("storage"), ""),
    }
    for member in ["storageClassName", "volumeAttributesClassName"] {
        maybe_name(spec, member, names::dns_subdomain, path, errors);
    }
    check::known_if_given(spec, "volumeMode", &VOLUME_MODES, path, errors);
    for member in ["dataSource", "dataSourceRef"] {
        if let Some(source) = given(spec, &[member]) {
            data_source(source, &path.child(member), errors);
        }
    }
    let (source, reference) = (given(spec, &["dataSource"]), given(spec, &["dataSourceRef"]));
    if let (Some(source), Some(reference)) = (source, reference) {
        if !reference.str_at(&["namespace"]).is_empty() {
            let detail = "may not be specified when dataSourceRef.namespace is specified";
            errors.invalid(path, source.clone(), detail);
        } else if !semantic_equal(Some(source), Some(reference)) {
            errors.invalid(path, source.clone(), "must match dataSourceRef");
        }
    }
}

fn data_source(source: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    check::required(source, "name", path, errors);
    let kind = check::required(source, "kind", path, errors);
    let group = source.str_at(&["apiGroup"]);
    if group.is_empty() && kind != "PersistentVolumeClaim" {
        errors.invalid(path, kind, "must be 'PersistentVolumeClaim' when referencing the default apiGroup");
    }
    maybe_name(source, "apiGroup", names::dns_subdomain, path, errors);
}

pub(super) fn claim(object: &Value, errors: &mut FieldErrors) {
    claim_spec(object.get("spec"), &Path::new("spec"), errors);
}

pub(super) fn claim_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    claim(new, errors);
    let (storage, class) = (["spec", "resources", "requests", "storage"], ["spec", "storageClassName"]);
    let bound = new.str_at(&["status", "phase"]) == "Bound";
    let mut after = new.clone();
    let mut put_back = |path: &[&str]| match old.at(path) {
        Some(value) => after.set_at(path, value.clone()),
        None => {
            after.remove_at(path);
        }
    };
    if old.str_at(&["spec", "volumeName"]).is_empty() {
        put_back(&["spec", "volumeName"]);
    }
    if given(old, &class).is_none() {
        put_back(&class);
    }
    if bound {
        put_back(&storage);
        put_back(&["spec", "volumeAttributesClassName"]);
    }
    if !semantic_equal(after.get("spec"), old.get("spec")) {
        let detail = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n";
        errors.forbidden(&Path::new("spec"), detail);
    }
    let size = |object: &Value, path: &[&str]| object.at(path).map(quantity).unwrap_or_default();
    if size(new, &storage) < size(old, &storage) && size(new, &storage) <= size(old, &["status", "capacity", "storage"])
    {
        errors.forbidden(&Path::new("spec.resources.requests.storage"), "field can not be less than status.capacity");
    }
    let mode = ["spec", "volumeMode"];
    if new.str_at(&mode) != old.str_at(&mode) {
        errors.invalid(&Path::new("volumeMode"), new.str_at(&mode), check::IMMUTABLE);
    }
}

pub(super) fn class(object: &Value, errors: &mut FieldErrors) {
    let provisioner = object.str_at(&["provisioner"]);
    let path = Path::new("provisioner");
    if provisioner.is_empty() {
        errors.required(&path, "");
    } else {
        let name = provisioner.to_lowercase();
        errors.invalid_each(&path, &name, names::qualified_name(&name));
    }
    parameters(object, errors);
    maybe_one_of(object, "reclaimPolicy", &["Delete", "Retain"], &Path::root(), errors);
    if given(object, &["volumeBindingMode"]).is_none() {
        errors.required(&Path::new("volumeBindingMode"), "");
    }
    check::known_if_given(object, "volumeBindingMode", &["Immediate", "WaitForFirstConsumer"], &Path::root(), errors);
    topologies(object, errors);
}

fn parameters(object: &Value, errors: &mut FieldErrors) {
    let path = Path::new("parameters");
    let count = entries(object, &["parameters"]).count();
    if count > MAX_PARAMETERS {
        errors.too_long(&path, MAX_PARAMETERS);
    }
    let mut size = 0;
    for (key, value) in entries(object, &["parameters"]) {
        if key.is_empty() {
            errors.invalid(&path, key, "field can not be empty.");
        }
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > MAX_PARAMETER_BYTES {
        errors.too_long(&path, MAX_PARAMETER_BYTES);
    }
}

fn topologies(object: &Value, errors: &mut FieldErrors) {
    let list = Path::new("allowedTopologies");
    let terms = object.list_at(&["allowedTopologies"]);
    for (at, term) in terms.iter().enumerate() {
        let path = list.index(at);
        let list = path.child("matchLabelExpressions");
        let mut seen = BTreeSet::new();
        for (at, expression) in term.list_at(&["matchLabelExpressions"]).iter().enumerate() {
            let path = list.index(at);
            let values = texts(expression, &["values"]);
            if values.is_empty() {
                errors.required(&path.child("values"), "");
            }
            for (at, value) in values.iter().enumerate().filter(|(at, value)| values[..*at].contains(value)) {
                errors.duplicate(&path.child("values").index(at), *value);
            }
            let key = expression.str_at(&["key"]);
            errors.invalid_each(&path.child("key"), key, names::qualified_name(key));
            if !seen.insert(key) {
                errors.duplicate(&path.child("key"), key);
            }
        }
        // A term without expressions counts as said already.
        let same = terms[..at].iter().any(|before| semantic_equal(Some(before), Some(term)));
        if same || term.list_at(&["matchLabelExpressions"]).is_empty() {
            errors.duplicate(&list, "");
        }
    }
}

pub(super) fn class_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    class(new, errors);
    for member in ["parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"] {
        immutable(new, old, &[member], errors);
    }
}

pub(super) fn attributes_class(object: &Value, errors: &mut FieldErrors) {
    let path = Path::new("driverName");
    let driver = object.str_at(&["driverName"]);
    if driver.is_empty() {
        errors.required(&path, "");
    } else {
        let name = driver.to_lowercase();
        errors.invalid_each(&path, &name, names::qualified_name(&name));
    }
    if entries(object, &["parameters"]).next().is_none() {
        errors.required(&Path::new("parameters"), "must contain at least one key/value pair");
    }
    parameters(object, errors);
}

pub(super) fn attributes_class_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    for member in ["driverName", "parameters"] {
        if !semantic_equal(new.get(member), old.get(member)) {
            errors.forbidden(&Path::new(member), format!("updates to {member} are forbidden."));
        }
    }
    attributes_class(new, errors);
}

pub(super) fn capacity(object: &Value, errors: &mut FieldErrors) {
    label_selector(object.get("nodeTopology"), &Path::new("nodeTopology"), errors);
    let class = object.str_at(&["storageClassName"]);
    errors.invalid_each(&Path::new("storageClassName"), class, names::dns_subdomain(class));
    if let Some(amount) = given(object, &["capacity"]).filter(|amount| quantity(amount).signum() < 0) {
        errors.invalid(&Path::new("capacity"), amount.clone(), check::NEGATIVE);
    }
}

pub(super) fn attachment(object: &Value, errors: &mut FieldErrors) {
    let path = Path::new("spec");
    driver_name(object.str_at(&["spec", "attacher"]), &path.child("attacher"), errors);
    let node = object.str_at(&["spec", "nodeName"]);
    let source = ["spec", "source"];
    let given = |member: &str| given(object, &[source[0], source[1], member]).is_some();
    match (given("persistentVolumeName"), given("inlineVolumeSpec")) {
        (false, false) => errors
            .required(&path.child("source"), "must specify exactly one of inlineVolumeSpec and persistentVolumeName"),
        (true, true) => errors
            .forbidden(&path.child("source"), "must specify exactly one of inlineVolumeSpec and persistentVolumeName"),
        _ => {}
    }
    let place = path.child("source.persistentVolumeName");
    let volume = object.at(&source).and_then(|source| source.get("persistentVolumeName")).and_then(Value::as_str);
    if volume == Some("") && !given("inlineVolumeSpec") {
        errors.required(&place, "must specify non empty persistentVolumeName");
    }
    errors.invalid_each(&path.child("nodeName"), node, names::dns_subdomain(node));
    if let Some(volume) = volume {
        errors.invalid_each(&place, volume, names::dns_subdomain(volume));
    }
}

pub(super) fn attachment_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    attachment(new, errors);
    if !semantic_equal(new.get("spec"), old.get("spec")) {
        errors.invalid(&Path::new("spec"), new.get("spec").cloned().unwrap_or_default(), check::IMMUTABLE);
    }
}

pub(super) fn csi_node(object: &Value, errors: &mut FieldErrors) {
    let list = Path::new("spec.drivers");
    let mut seen = BTreeSet::new();
    for (at, driver) in object.list_at(&["spec", "drivers"]).iter().enumerate() {
        let path = list.index(at);
        let name = driver.str_at(&["name"]);
        driver_name(name, &path.child("name"), errors);
        if !seen.insert(name) {
            errors.duplicate(&path.child("name"), name);
        }
        let id = check::required(driver, "nodeID", &path, errors);
        if id.len() > MAX_NODE_ID {
            errors.invalid(&path.child("nodeID"), id, format!("must be {MAX_NODE_ID} characters or less"));
        }
        check::nonnegative(driver.int_at(&["allocatable", "count"]), &path.child("allocatable.count"), errors);
        let mut keys = BTreeSet::new();
        for key in texts(driver, &["topologyKeys"]) {
            if key.is_empty() {
                errors.required(&path, key);
            }
            if !keys.insert(key) {
                errors.duplicate(&path, key);
            }
            errors.invalid_each(&path, key, names::qualified_name(key));
        }
    }
}

/// What a driver says of a node stays, but for how many volumes fit.
pub(super) fn csi_node_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    csi_node(new, errors);
    let drivers = |object: &Value| object.list_at(&["spec", "drivers"]).to_vec();
    for before in drivers(old) {
        for mut after in drivers(new) {
            let mut before = before.clone();
            before.remove_at(&["allocatable"]);
            after.remove_at(&["allocatable"]);
            let same_name = before.str_at(&["name"]) == after.str_at(&["name"]);
            if same_name && !semantic_equal(Some(&before), Some(&after)) {
                errors.invalid(&Path::new("spec.drivers"), after, check::IMMUTABLE);
            }
        }
    }
}

pub(super) fn csi_driver_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    csi_driver(new, errors);
    let path = Path::new("spec");
    for (member, place) in [("attachRequired", "attachedRequired"), ("volumeLifecycleModes", "volumeLifecycleModes")] {
        if !semantic_equal(new.at(&["spec", member]), old.at(&["spec", member])) {
            let shown = new.at(&["spec", member]).cloned().unwrap_or_default();
            errors.invalid(&path.child(place), shown, check::IMMUTABLE);
        }
    }
}

/// The shortest period in which a driver says anew how many volumes fit.
const MIN_UPDATE_SECONDS: i64 = 10;
/// Bytes of the name that a driver gives a node.
const MAX_NODE_ID: usize = 256;
/// The shortest life of a token that a driver asks for.
const MIN_TOKEN_SECONDS: i64 = 600;

pub(super) fn csi_driver(object: &Value, errors: &mut FieldErrors) {
    let (path, empty) = (Path::new("spec"), Value::object());
    let spec = object.get("spec").unwrap_or(&empty);
    for member in ["attachRequired", "podInfoOnMount", "storageCapacity"] {
        if given(spec, &[member]).is_none() {
            errors.required(&path.child(member), "");
        }
    }
    check::known_if_given(spec, "fsGroupPolicy", &["File", "None", "ReadWriteOnceWithFSType"], &path, errors);
    if let Some(seconds) = spec.int_at(&["nodeAllocatableUpdatePeriodSeconds"]).filter(|s| *s < MIN_UPDATE_SECONDS) {
        let detail = format!("must be greater than or equal to {MIN_UPDATE_SECONDS} seconds");
        errors.invalid(&path.child("nodeAllocatableUpdatePeriodSeconds"), seconds, detail);
    }
    for mode in texts(spec, &["volumeLifecycleModes"]) {
        if !matches!(mode, "Persistent" | "Ephemeral") {
            errors.not_supported(&path.child("volumeLifecycleModes"), mode, &["Persistent", "Ephemeral"]);
        }
    }
    let list = path.child("tokenRequests");
    let mut seen = BTreeSet::new();
    for (at, request) in spec.list_at(&["tokenRequests"]).iter().enumerate() {
        if !seen.insert(request.str_at(&["audience"])) {
            errors.duplicate(&list.index(at).child("audience"), request.str_at(&["audience"]));
            continue;
        }
        let Some(seconds) = request.int_at(&["expirationSeconds"]) else { continue };
        let place = list.index(at);
        if seconds < MIN_TOKEN_SECONDS {
            let detail = "may not specify a duration less than 10 minutes";
            errors.invalid(&place.child("expirationSeconds"), seconds, detail);
        }
        if seconds > 1 << 32 {
            let detail = "may not specify a duration larger than 2^32 seconds";
            errors.invalid(&place.child("expirationSeconds"), seconds, detail);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::tests::{creates, updates};
    use crate::strategy::KindRef;
    use serde_json::{Value as Json, json};

    #[test]
    fn volumes() {
        let kind = KindRef::builtin("", "PersistentVolume", false);
        let base = json!({"metadata": {"name": "v"}, "spec": {
            "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/a"},
            "persistentVolumeReclaimPolicy": "Retain", "volumeMode": "Filesystem"}});
        let spec = |spec: Json| json!({"spec": spec});
        creates(
            kind,
            &base,
            &[
                (json!({}), &[]),
                (spec(json!({"accessModes": []})), &["spec.accessModes: Required value"]),
                (
                    spec(json!({"capacity": {"storage": "0"}})),
                    &["spec.capacity[storage]: Invalid value: \"0\": must be greater than 0"],
                ),
                (spec(json!({"hostPath": null})), &["spec: Required value: must specify a volume type"]),
                (
                    spec(json!({"hostPath": null, "local": {"path": "/x"}})),
                    &["spec.nodeAffinity: Required value: Local volume requires node affinity"],
                ),
                (
                    spec(json!({"accessModes": ["ReadWriteOnce", "ReadWriteOncePod"]})),
                    &["spec.accessModes: Forbidden: may not use ReadWriteOncePod with other access modes"],
                ),
            ],
        );
        updates(
            kind,
            &base,
            &[
                (spec(json!({"capacity": {"storage": "2Gi"}})), &[]),
                (
                    spec(json!({"hostPath": {"path": "/b"}})),
                    &[
                        "spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation\n",
                    ],
                ),
            ],
        );
    }

    #[test]
    fn claims() {
        let kind = KindRef::builtin("", "PersistentVolumeClaim", true);
        let base = json!({"metadata": {"name": "c", "namespace": "n"}, "spec": {
            "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}}, "volumeMode": "Filesystem",
            "storageClassName": "s"}});
        let spec = |spec: Json| json!({"spec": spec});
        let size = |size: &str| spec(json!({"resources": {"requests": {"storage": size}}}));
        creates(
            kind,
            &base,
            &[
                (json!({}), &[]),
                (spec(json!({"resources": null})), &["spec.resources[storage]: Required value"]),
                (
                    spec(json!({"dataSource": {"kind": "X", "name": "y"}})),
                    &[
                        "spec.dataSource: Invalid value: \"X\": must be 'PersistentVolumeClaim' when referencing the default \
                   apiGroup",
                    ],
                ),
            ],
        );
        let fixed = "spec: Forbidden: spec is immutable after creation except resources.requests and \
                     volumeAttributesClassName for bound claims\n";
        updates(
            kind,
            &base,
            &[
                (spec(json!({"volumeName": "v"})), &[]),
                (size("3Gi"), &[fixed]),
                (spec(json!({"storageClassName": "t"})), &[fixed]),
            ],
        );
        let mut bound = base;
        bound["status"] = json!({"phase": "Bound", "capacity": {"storage": "2Gi"}});
        updates(
            kind,
            &bound,
            &[
                (size("3Gi"), &[]),
                (
                    size("1Gi"),
                    &["spec.resources.requests.storage: Forbidden: field can not be less than status.capacity"],
                ),
            ],
        );
    }

    #[test]
    fn classes_and_drivers() {
        let kind = KindRef::builtin("storage.k8s.io", "StorageClass", false);
        let base = json!({"metadata": {"name": "s"}, "provisioner": "a.b/c", "volumeBindingMode": "Immediate"});
        creates(kind, &base, &[(json!({}), &[]), (json!({"provisioner": ""}), &["provisioner: Required value"])]);
        let forbidden = "provisioner: Invalid value: \"x\": field is immutable";
        updates(kind, &base, &[(json!({"provisioner": "x"}), &[forbidden])]);
        let kind = KindRef::builtin("storage.k8s.io", "VolumeAttachment", false);
        let base = json!({"metadata": {"name": "a"}, "spec": {"attacher": "d", "nodeName": "n",
            "source": {"persistentVolumeName": "p"}}});
        creates(
            kind,
            &base,
            &[
                (json!({}), &[]),
                (
                    json!({"spec": {"source": null}}),
                    &[
                        "spec.source: Required value: must specify exactly one of inlineVolumeSpec and persistentVolumeName",
                    ],
                ),
            ],
        );
    }
}
