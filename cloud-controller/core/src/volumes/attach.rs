//! VolumeAttachments: plug in, unplug, and never twice.

use super::{Index, VolumeView, handle};
use crate::{
    action::{Action, CloudCall, Kind, Subject},
    model::{Instance, InstanceState, Volume, VolumeId},
    nodes::instance_of,
    objects::{has_finalizer, with_finalizer, without_finalizer},
};
use k8s_openapi::{api::storage::v1::VolumeAttachment, apimachinery::pkg::apis::meta::v1::Time};
use serde_json::json;

/// What we look at for one attachment.
#[derive(Clone, Copy, Debug)]
struct Look<'a> {
    view: &'a VolumeView<'a>,
    index: &'a Index<'a>,
    attachment: &'a VolumeAttachment,
}

/// Every attachment that names our driver.
pub(super) fn plan_attachments(view: &VolumeView<'_>, index: &Index<'_>) -> Vec<Action> {
    let ours = view.attachments.iter().filter(|a| a.spec.attacher == view.config.driver);
    ours.filter_map(|attachment| {
        let look = Look { view, index, attachment };
        if attachment.metadata.deletion_timestamp.is_some() { look.detach() } else { look.attach() }
    })
    .collect()
}

impl<'a> Look<'a> {
    fn subject(&self) -> Subject {
        Subject::of(Kind::VolumeAttachment, &self.attachment.metadata)
    }

    fn finalizer(&self) -> String {
        format!("external-attacher/{}", self.view.config.driver.replace('.', "-"))
    }

    fn volume(&self) -> Result<&'a Volume, String> {
        let name = self.attachment.spec.source.persistent_volume_name.as_deref();
        let name = name.ok_or("only persistent volumes can be attached")?;
        let persistent = self.index.persistent.get(name).ok_or_else(|| format!("no PersistentVolume {name}"))?;
        let id = handle(self.view.config, persistent).ok_or_else(|| format!("{name} is not of this driver"))?;
        self.index.by_handle.get(id).copied().ok_or_else(|| format!("the cloud has no volume {id}"))
    }

    /// The instance of the attachment's node; found by name if the Node is gone already.
    fn instance(&self) -> Option<&'a Instance> {
        let name = self.attachment.spec.node_name.as_str();
        match self.index.nodes.get(name) {
            Some(node) => instance_of(node, self.view.instances),
            None => self.view.instances.iter().find(|i| i.name == name && i.state != InstanceState::Gone),
        }
    }

    /// Whether another attachment, not on its way out, claims the volume for the instance that has it.
    fn claimed_elsewhere(&self) -> bool {
        let source = &self.attachment.spec.source.persistent_volume_name;
        self.view.attachments.iter().any(|other| {
            other.metadata.uid != self.attachment.metadata.uid
                && other.spec.source.persistent_volume_name == *source
                && other.status.as_ref().is_some_and(|status| status.attached)
        })
    }

    fn attach(&self) -> Option<Action> {
        let (subject, finalizer) = (self.subject(), self.finalizer());
        if !has_finalizer(&self.attachment.metadata, &finalizer) {
            let finalizers = with_finalizer(&self.attachment.metadata, &finalizer);
            return Some(subject.patch(json!({ "metadata": { "finalizers": finalizers } })));
        }
        let volume = match self.volume() {
            Ok(volume) => volume,
            Err(message) => return self.show_error(&subject, &message),
        };
        let Some(instance) = self.instance().filter(|i| i.state != InstanceState::Gone) else {
            return self.show_error(&subject, &format!("node {} has no instance", self.attachment.spec.node_name));
        };
        match &volume.attachment {
            None => Some(subject.call(CloudCall::AttachVolume(volume.id.clone(), instance.id.clone()))),
            Some(have) if have.instance == instance.id => {
                let shown = self.attachment.status.as_ref().is_some_and(|status| status.attached);
                (!shown).then(|| {
                    let metadata = json!({ "devicePath": have.device });
                    let status = json!({ "attached": true, "attachmentMetadata": metadata, "attachError": null });
                    subject.patch_status(&status)
                })
            }
            // Nobody claims it there: what a crash left. The cloud refuses while it is in use.
            Some(have) if !self.claimed_elsewhere() => {
                Some(subject.call(CloudCall::DetachVolume(volume.id.clone(), have.instance.clone())))
            }
            Some(have) => self.show_error(&subject, &format!("the volume is attached to instance {}", have.instance)),
        }
    }

    fn detach(&self) -> Option<Action> {
        let (subject, finalizer) = (self.subject(), self.finalizer());
        if !has_finalizer(&self.attachment.metadata, &finalizer) {
            return None;
        }
        let attached = self.volume().ok().and_then(|volume| Some((volume, volume.attachment.as_ref()?)));
        if let Some((volume, have)) = attached {
            let known = self.instance();
            let elsewhere = known.is_some_and(|i| i.id != have.instance) || self.claimed_elsewhere();
            if !elsewhere {
                let id: VolumeId = volume.id.clone();
                return Some(subject.call(CloudCall::DetachVolume(id, have.instance.clone())));
            }
        }
        let finalizers = without_finalizer(&self.attachment.metadata, &finalizer);
        Some(subject.patch(json!({ "metadata": { "finalizers": finalizers } })))
    }

    fn show_error(&self, subject: &Subject, message: &str) -> Option<Action> {
        let status = self.attachment.status.as_ref();
        let shown = status.and_then(|s| s.attach_error.as_ref()).and_then(|e| e.message.as_deref());
        (shown != Some(message)).then(|| {
            let error = json!({ "time": Time(self.view.now), "message": message });
            subject.patch_status(&json!({ "attached": false, "attachError": error }))
        })
    }
}
