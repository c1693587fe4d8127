//! Claims and volumes in use are not removed under their users: a finalizer stays until nobody uses them.

use crate::{
    common::{
        objects::{deleting, has_finalizer, name, namespace, set_finalizer},
        pods::{finished, node},
    },
    framework::{Change, Controller, Key, Kind, Object, Plan, View},
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};

const CLAIM: &str = "kubernetes.io/pvc-protection";
const VOLUME: &str = "kubernetes.io/pv-protection";
const ATTRIBUTES_CLASS: &str = "kubernetes.io/vac-protection";

/// Protects claims that pods use.
#[derive(Debug)]
pub(crate) struct ClaimProtection;

/// Protects volumes that are bound.
#[derive(Debug)]
pub(crate) struct VolumeProtection;

/// Protects volume attributes classes that claims or volumes name.
#[derive(Debug)]
pub(crate) struct AttributesClassProtection;

/// The names of the claims that a pod uses, those of its own included.
pub(super) fn claims_of(pod: &Pod) -> impl Iterator<Item = String> + '_ {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(|volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(claim), _) => Some(claim.claim_name.clone()),
        (None, Some(_)) => Some(format!("{}-{}", name(&pod.metadata), volume.name)),
        (None, None) => None,
    })
}

impl Controller for ClaimProtection {
    fn name(&self) -> &'static str {
        "persistentvolumeclaim-protection-controller"
    }

    fn reads(&self) -> &'static [Kind] {
        &[Kind::PersistentVolumeClaim, Kind::Pod]
    }

    fn writes(&self) -> &'static [(&'static str, &'static str)] {
        &[("PersistentVolumeClaim", "metadata.finalizers[pvc-protection]")]
    }

    fn keys(&self, view: &View, change: &Change, keys: &mut Vec<Key>) {
        match change.object() {
            Object::PersistentVolumeClaim(claim) => keys.push(Key::of(&claim.metadata)),
            Object::Pod(pod) if change.new.is_none() || finished(pod) => {
                let claims = claims_of(pod).map(|claim| Key::new(namespace(&pod.metadata), &claim));
                keys.extend(claims.filter(|key| view.claims.get(key).is_some_and(|claim| deleting(&claim.metadata))));
            }
            _ => {}
        }
    }

    fn plan(&self, view: &View, key: &Key, _now: Timestamp) -> Plan {
        let Some(claim) = view.claims.get(key) else { return Plan::none() };
        let has = has_finalizer(&claim.metadata, CLAIM);
        if !deleting(&claim.metadata) {
            let missing = (!has).then(|| set_finalizer(Kind::PersistentVolumeClaim, &claim.metadata, CLAIM, true));
            return missing.into_iter().collect::<Vec<_>>().into();
        }
        // A pod that has no node will not start with a claim that is being deleted.
        let uses = |pod: &Pod| !finished(pod) && !node(pod).is_empty() && claims_of(pod).any(|claim| claim == key.name);
        if !has || view.pods.in_namespace(&key.namespace).any(|pod| uses(pod)) {
            return Plan::none();
        }
        vec![set_finalizer(Kind::PersistentVolumeClaim, &claim.metadata, CLAIM, false)].into()
    }
}

impl Controller for VolumeProtection {
    fn name(&self) -> &'static str {
        "persistentvolume-protection-controller"
    }

    fn reads(&self) -> &'static [Kind] {
        &[Kind::PersistentVolume]
    }

    fn writes(&self) -> &'static [(&'static str, &'static str)] {
        &[("PersistentVolume", "metadata.finalizers[pv-protection]")]
    }

    fn keys(&self, _view: &View, change: &Change, keys: &mut Vec<Key>) {
        keys.push(Key::of(change.object().meta()));
    }

    fn plan(&self, view: &View, key: &Key, _now: Timestamp) -> Plan {
        let Some(volume) = view.volumes.get(key) else { return Plan::none() };
        let has = has_finalizer(&volume.metadata, VOLUME);
        let bound = volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
        let present = !deleting(&volume.metadata);
        if (present && has) || (!present && (!has || bound)) {
            return Plan::none();
        }
        vec![set_finalizer(Kind::PersistentVolume, &volume.metadata, VOLUME, present)].into()
    }
}

/// The classes that a claim asks for, has, or is on the way to.
fn classes_of_claim(claim: &PersistentVolumeClaim) -> impl Iterator<Item = &str> {
    let wanted = claim.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.as_deref());
    let status = claim.status.as_ref();
    let current = status.and_then(|status| status.current_volume_attributes_class_name.as_deref());
    let target = status.and_then(|status| status.modify_volume_status.as_ref());
    let target = target.and_then(|modify| modify.target_volume_attributes_class_name.as_deref());
    [wanted, current, target].into_iter().flatten()
}

fn class_of_volume(volume: &PersistentVolume) -> Option<&str> {
    volume.spec.as_ref()?.volume_attributes_class_name.as_deref()
}

impl Controller for AttributesClassProtection {
    fn name(&self) -> &'static str {
        "volumeattributesclass-protection-controller"
    }

    fn reads(&self) -> &'static [Kind] {
        &[Kind::VolumeAttributesClass, Kind::PersistentVolumeClaim, Kind::PersistentVolume]
    }

    fn writes(&self) -> &'static [(&'static str, &'static str)] {
        &[("VolumeAttributesClass", "metadata.finalizers[vac-protection]")]
    }

    fn keys(&self, _view: &View, change: &Change, keys: &mut Vec<Key>) {
        for object in [&change.old, &change.new].into_iter().flatten() {
            match object {
                Object::VolumeAttributesClass(class) => keys.push(Key::of(&class.metadata)),
                Object::PersistentVolumeClaim(claim) => {
                    keys.extend(classes_of_claim(claim).map(|class| Key::new("", class)));
                }
                Object::PersistentVolume(volume) => {
                    keys.extend(class_of_volume(volume).map(|class| Key::new("", class)));
                }
                _ => {}
            }
        }
    }

    fn plan(&self, view: &View, key: &Key, _now: Timestamp) -> Plan {
        let Some(class) = view.attributes_classes.get(key) else { return Plan::none() };
        let has = has_finalizer(&class.metadata, ATTRIBUTES_CLASS);
        let present = !deleting(&class.metadata);
        let used = || {
            view.claims.all().any(|claim| classes_of_claim(claim).any(|class| class == key.name))
                || view.volumes.all().any(|volume| class_of_volume(volume) == Some(&key.name))
        };
        if (present && has) || (!present && (!has || used())) {
            return Plan::none();
        }
        vec![set_finalizer(Kind::VolumeAttributesClass, &class.metadata, ATTRIBUTES_CLASS, present)].into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, lines, object};
    use serde_json::{Value, json};

    fn check(meta: Value, pod: Option<Value>, expected: usize) {
        let mut view = View::default();
        let mut claim = json!({"metadata": {"name": "c", "namespace": "d", "uid": "c"}});
        for (key, value) in meta.as_object().into_iter().flatten() {
            claim["metadata"][key] = value.clone();
        }
        view.claims.insert(object(claim));
        if let Some(spec) = pod {
            view.pods.insert(object(
                json!({"metadata": {"name": "p", "namespace": "d"}, "spec": spec, "status": {"phase": "Running"}}),
            ));
        }
        assert_eq!(lines(&ClaimProtection.plan(&view, &Key::new("d", "c"), at(0))).len(), expected);
    }

    #[test]
    fn a_claim_stays_while_a_bound_pod_uses_it() {
        let leaving = json!({"deletionTimestamp": "1970-01-01T00:00:00Z", "finalizers": [CLAIM]});
        let volumes = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]);
        check(json!({}), None, 1);
        check(json!({"finalizers": [CLAIM]}), None, 0);
        check(leaving.clone(), None, 1);
        check(leaving.clone(), Some(json!({"containers": [], "nodeName": "n", "volumes": volumes})), 0);
        check(leaving, Some(json!({"containers": [], "volumes": volumes})), 1);
    }

    #[test]
    fn a_volume_stays_while_it_is_bound() {
        for (phase, expected) in [("Bound", 0), ("Released", 1)] {
            let mut view = View::default();
            view.volumes.insert(object(json!({"metadata": {"name": "v", "deletionTimestamp": "1970-01-01T00:00:00Z",
                "finalizers": [VOLUME]}, "status": {"phase": phase}})));
            assert_eq!(lines(&VolumeProtection.plan(&view, &Key::new("", "v"), at(0))).len(), expected);
        }
    }

    #[test]
    fn a_class_stays_while_claims_or_volumes_name_it() {
        let leaving =
            json!({"name": "a", "deletionTimestamp": "1970-01-01T00:00:00Z", "finalizers": [ATTRIBUTES_CLASS]});
        let spec = json!({"volumeAttributesClassName": "a"});
        let status = json!({"modifyVolumeStatus": {"status": "Pending", "targetVolumeAttributesClassName": "a"}});
        for (meta, claim, volume, expected) in [
            (json!({"name": "a"}), None, None, 1),
            (json!({"name": "a", "finalizers": [ATTRIBUTES_CLASS]}), None, None, 0),
            (leaving.clone(), None, None, 1),
            (leaving.clone(), Some(json!({"spec": &spec})), None, 0),
            (leaving.clone(), Some(json!({"status": status})), None, 0),
            (leaving.clone(), None, Some(json!({"spec": &spec})), 0),
            (leaving, Some(json!({"spec": {"volumeAttributesClassName": "b"}})), None, 1),
        ] {
            let mut view = View::default();
            view.attributes_classes.insert(object(json!({"metadata": meta, "driverName": "d"})));
            if let Some(mut claim) = claim {
                claim["metadata"] = json!({"name": "c", "namespace": "d"});
                view.claims.insert(object(claim));
            }
            if let Some(mut volume) = volume {
                volume["metadata"] = json!({"name": "v"});
                view.volumes.insert(object(volume));
            }
            let planned = lines(&AttributesClassProtection.plan(&view, &Key::new("", "a"), at(0)));
            assert_eq!(planned.len(), expected, "{planned:?}");
        }
    }
}
