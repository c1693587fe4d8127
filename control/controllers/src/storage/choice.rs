//! Which volume suits a claim. Pure.

use crate::{
    common::{
        objects::{annotation, deleting, labels, name, uid},
        selector::matches,
    },
    framework::View,
};
use k8s_openapi::{
    api::core::v1::{PersistentVolume, PersistentVolumeClaim},
    apimachinery::pkg::api::resource,
};
use std::{cmp::Ordering, sync::Arc};
use timonel_api::Quantity;

const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

fn quantity(text: Option<&resource::Quantity>) -> Quantity {
    text.and_then(|text| text.0.parse().ok()).unwrap_or_else(|| Quantity::from(0))
}

/// The claim's class; none when it asks for no dynamic volume.
pub(super) fn class_of_claim(claim: &PersistentVolumeClaim) -> &str {
    let stated = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref());
    annotation(&claim.metadata, BETA_CLASS).or(stated).unwrap_or_default()
}

fn class_of_volume(volume: &PersistentVolume) -> &str {
    let stated = volume.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref());
    annotation(&volume.metadata, BETA_CLASS).or(stated).unwrap_or_default()
}

/// Whether the volume is reserved for this very claim.
pub(super) fn reserved_for(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    reference.is_some_and(|reference| {
        reference.name == claim.metadata.name
            && reference.namespace == claim.metadata.namespace
            && reference.uid.as_deref().is_none_or(|wanted| wanted.is_empty() || wanted == uid(&claim.metadata))
    })
}

/// Whether the volume has what the claim asks for.
fn suits(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let (Some(offer), Some(wish)) = (&volume.spec, &claim.spec) else { return false };
    let request = wish.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    let wanted = quantity(request.and_then(|request| request.get("storage")));
    let mode = |mode: &Option<String>| mode.clone().unwrap_or_else(|| "Filesystem".to_owned());
    let offered_modes = offer.access_modes.clone().unwrap_or_default();
    !deleting(&volume.metadata)
        && mode(&offer.volume_mode) == mode(&wish.volume_mode)
        && capacity(volume) >= wanted
        && wish.access_modes.iter().flatten().all(|mode| offered_modes.contains(mode))
}

/// A volume's size.
pub(super) fn capacity(volume: &PersistentVolume) -> Quantity {
    let capacity = volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref());
    quantity(capacity.and_then(|capacity| capacity.get("storage")))
}

/// The volume for a claim: one reserved for it, else the smallest free one that suits.
pub(super) fn choose<'a>(view: &'a View, claim: &PersistentVolumeClaim) -> Option<&'a Arc<PersistentVolume>> {
    let key = format!("{}/{}", claim.metadata.namespace.as_deref().unwrap_or_default(), name(&claim.metadata));
    let reserved = view.volumes.indexed(&key).find(|volume| reserved_for(volume, claim) && suits(volume, claim));
    if reserved.is_some() {
        return reserved;
    }
    let selector = claim.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let free = view.volumes.all().filter(|volume| {
        let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
        volume.spec.as_ref().is_some_and(|spec| spec.claim_ref.is_none())
            && phase == Some("Available")
            && class_of_volume(volume) == class_of_claim(claim)
            && selector.is_none_or(|selector| matches(selector, labels(&volume.metadata)))
            && suits(volume, claim)
    });
    free.min_by(|a, b| {
        let by_size = capacity(a).partial_cmp(&capacity(b)).unwrap_or(Ordering::Equal);
        by_size.then_with(|| name(&a.metadata).cmp(name(&b.metadata)))
    })
}
