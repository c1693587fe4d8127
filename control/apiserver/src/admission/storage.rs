//! Defaults and guards of storage and ingress: DefaultStorageClass, StorageObjectInUseProtection,
//! PersistentVolumeClaimResize, DefaultIngressClass.

use super::{AdmissionError, AdmissionPlugin, AdmissionRequest, Lookup, Operation, resources::resource_list};
use jiff::Timestamp;
use std::{cmp::Reverse, sync::Arc};
use timonel_api::Value;

const STORAGE: &str = "storage.k8s.io";
const NETWORKING: &str = "networking.k8s.io";
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";
const INGRESS_CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";

/// The newest of the classes that an annotation marks as default, and of several as new the first by name.
fn newest_default(classes: Vec<Arc<Value>>, annotations: &[&str]) -> Option<Arc<Value>> {
    let created = |class: &Value| class.str_at(&["metadata", "creationTimestamp"]).parse::<Timestamp>().ok();
    classes
        .into_iter()
        .filter(|class| annotations.iter().any(|name| class.str_at(&["metadata", "annotations", name]) == "true"))
        .min_by_key(|class| (Reverse(created(class)), class.str_at(&["metadata", "name"]).to_owned()))
}

/// DefaultStorageClass: a claim without a class gets the default one.
#[derive(Debug, Default)]
pub struct DefaultStorageClass;

impl AdmissionPlugin for DefaultStorageClass {
    fn name(&self) -> &'static str {
        "DefaultStorageClass"
    }

    fn mutate(&self, request: &mut AdmissionRequest<'_>, lookup: &dyn Lookup) -> Result<(), AdmissionError> {
        if !request.is("", "persistentvolumeclaims") || request.operation != Operation::Create {
            return Ok(());
        }
        // The empty class is a choice: no class.
        let chosen = request.object.at(&["spec", "storageClassName"]).is_some_and(|class| !class.is_null())
            || request.object.at(&["metadata", "annotations", CLASS_ANNOTATION]).is_some();
        if chosen {
            return Ok(());
        }
        let marks = ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
        if let Some(class) = newest_default(lookup.list(STORAGE, "storageclasses", None), &marks) {
            request.object.set_at(&["spec", "storageClassName"], class.str_at(&["metadata", "name"]));
        }
        Ok(())
    }
}

/// StorageObjectInUseProtection: claims and volumes stay while they are used.
#[derive(Debug, Default)]
pub struct StorageObjectInUseProtection;

impl AdmissionPlugin for StorageObjectInUseProtection {
    fn name(&self) -> &'static str {
        "StorageObjectInUseProtection"
    }

    fn mutate(&self, request: &mut AdmissionRequest<'_>, _: &dyn Lookup) -> Result<(), AdmissionError> {
        if request.operation != Operation::Create || !request.subresource.is_empty() {
            return Ok(());
        }
        let finalizer = match (request.group, request.resource) {
            ("", "persistentvolumeclaims") => "kubernetes.io/pvc-protection",
            ("", "persistentvolumes") => "kubernetes.io/pv-protection",
            (STORAGE, "volumeattributesclasses") => "kubernetes.io/vac-protection",
            _ => return Ok(()),
        };
        let finalizers = request.object.entry_at(&["metadata", "finalizers"]).make_list();
        if !finalizers.iter().any(|known| known.as_str() == Some(finalizer)) {
            finalizers.push(finalizer.into());
        }
        Ok(())
    }
}

/// PersistentVolumeClaimResize: only what can grow is asked to.
#[derive(Debug, Default)]
pub struct PersistentVolumeClaimResize;

impl AdmissionPlugin for PersistentVolumeClaimResize {
    fn name(&self) -> &'static str {
        "PersistentVolumeClaimResize"
    }

    fn validate(&self, request: &mut AdmissionRequest<'_>, lookup: &dyn Lookup) -> Result<(), AdmissionError> {
        if !request.is("", "persistentvolumeclaims") || request.operation != Operation::Update {
            return Ok(());
        }
        let Some(old) = request.old else { return Ok(()) };
        let size = |claim: &Value| resource_list(claim.at(&["spec", "resources", "requests"])).remove("storage");
        if size(request.object) <= size(old) {
            return Ok(());
        }
        if old.str_at(&["status", "phase"]) != "Bound" {
            return Err(request.forbidden("Only bound persistent volume claims can be expanded"));
        }
        let (class, before) = (class_of(request.object), class_of(old));
        let allowed = !class.is_empty()
            && class == before
            && lookup
                .get(STORAGE, "storageclasses", "", class)
                .is_some_and(|class| class.bool_at(&["allowVolumeExpansion"]) == Some(true));
        if allowed {
            return Ok(());
        }
        Err(request.forbidden("only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize"))
    }
}

fn class_of(claim: &Value) -> &str {
    match claim.str_at(&["metadata", "annotations", CLASS_ANNOTATION]) {
        "" => claim.str_at(&["spec", "storageClassName"]),
        annotated => annotated,
    }
}

/// DefaultIngressClass: an Ingress without a class gets the default one.
#[derive(Debug, Default)]
pub struct DefaultIngressClass;

impl AdmissionPlugin for DefaultIngressClass {
    fn name(&self) -> &'static str {
        "DefaultIngressClass"
    }

    fn mutate(&self, request: &mut AdmissionRequest<'_>, lookup: &dyn Lookup) -> Result<(), AdmissionError> {
        if !request.is(NETWORKING, "ingresses") || request.operation != Operation::Create {
            return Ok(());
        }
        let chosen = request.object.at(&["spec", "ingressClassName"]).is_some_and(|class| !class.is_null())
            || request.object.at(&["metadata", "annotations", INGRESS_CLASS_ANNOTATION]).is_some();
        let classes = lookup.list(NETWORKING, "ingressclasses", None);
        let default = newest_default(classes, &["ingressclass.kubernetes.io/is-default-class"]);
        if let (false, Some(class)) = (chosen, default) {
            request.object.set_at(&["spec", "ingressClassName"], class.str_at(&["metadata", "name"]));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::{Objects, Write};
    use serde_json::json;

    fn world() -> Objects {
        let class = |name: &str, created: &str, default: &str| {
            json!({"metadata": {"name": name, "creationTimestamp": created, "annotations": {
                "storageclass.kubernetes.io/is-default-class": default, "ingressclass.kubernetes.io/is-default-class": default}}, "allowVolumeExpansion": name == "new"})
        };
        let mut objects = Objects::default();
        for class in [
            class("old", "2026-01-01T00:00:00Z", "true"),
            class("new", "2026-02-01T00:00:00Z", "true"),
            class("other", "2026-03-01T00:00:00Z", "false"),
        ] {
            objects.add(STORAGE, "storageclasses", class.clone());
            objects.add(NETWORKING, "ingressclasses", class);
        }
        objects
    }

    #[test]
    fn the_newest_default_class_is_taken() {
        for (spec, class) in [
            (json!({}), json!("new")),
            (json!({"storageClassName": "", "ingressClassName": ""}), json!("")),
            (json!({"storageClassName": "x", "ingressClassName": "x"}), json!("x")),
        ] {
            let object = json!({"metadata": {"name": "c", "namespace": "ns"}, "spec": spec});
            let claim = Write::create("", "persistentvolumeclaims", object.clone());
            let claim = claim.run(&DefaultStorageClass, &world()).unwrap().object;
            assert_eq!(claim["spec"]["storageClassName"], class);
            let ingress = Write::create(NETWORKING, "ingresses", object).run(&DefaultIngressClass, &world()).unwrap();
            assert_eq!(ingress.object["spec"]["ingressClassName"], class);
        }
    }

    #[test]
    fn storage_is_protected() {
        for (group, resource, finalizers) in [
            ("", "persistentvolumeclaims", json!(["kubernetes.io/pvc-protection"])),
            ("", "persistentvolumes", json!(["kubernetes.io/pv-protection"])),
            ("", "pods", json!(null)),
        ] {
            let write = Write::create(group, resource, json!({"metadata": {"name": "x"}}));
            let made = write.run(&StorageObjectInUseProtection, &world()).unwrap().object;
            assert_eq!(made["metadata"]["finalizers"], finalizers);
        }
    }

    #[test]
    fn claims_grow_only_where_they_can() {
        let claim = |size: &str, class: &str, phase: &str| json!({"metadata": {"name": "c", "namespace": "ns"}, "spec": {"storageClassName": class, "resources": {"requests": {"storage": size}}}, "status": {"phase": phase}});
        for (size, class, phase, allowed) in [
            ("2Gi", "new", "Bound", true),
            ("1Gi", "old", "Pending", true),
            ("1024Mi", "old", "Pending", true),
            ("2Gi", "old", "Bound", false),
            ("2Gi", "new", "Pending", false),
        ] {
            let write =
                Write::update("", "persistentvolumeclaims", claim("1Gi", class, phase), claim(size, class, phase));
            assert_eq!(write.run(&PersistentVolumeClaimResize, &world()).is_ok(), allowed, "{size} {class} {phase}");
        }
    }
}
