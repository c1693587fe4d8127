//! Controllers of volumes: binding, protection, attachment, claims of single pods.

mod attach;
mod binder;
mod choice;
mod ephemeral;
mod protection;
mod volume;

use crate::framework::Controller;

/// The controllers of this family.
pub(crate) fn controllers() -> Vec<Box<dyn Controller>> {
    vec![
        Box::new(binder::ClaimBinder),
        Box::new(volume::VolumeBinder),
        Box::new(protection::ClaimProtection),
        Box::new(protection::VolumeProtection),
        Box::new(protection::AttributesClassProtection),
        Box::new(ephemeral::EphemeralClaims),
        Box::new(attach::Attachments),
    ]
}
