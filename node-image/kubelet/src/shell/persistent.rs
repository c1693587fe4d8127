//! Persistent volumes: from a claim to its volume, through its driver, to a folder of the pod; and back, also after
//! a restart, from the note that lies beside each mount.

use super::csi::{Drivers, LOCAL_DRIVER, Publish};
use super::volumes::{VolumeError, own_all};
use crate::decide::names::PodId;
use crate::decide::selector;
use k8s_openapi::api::core::v1::{
    CSIPersistentVolumeSource, Node, PersistentVolume, PersistentVolumeClaim, Pod, Secret, SecretReference, Volume,
};
use k8s_openapi::api::storage::v1::{CSIDriver, VolumeAttachment};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// What undoing a mount needs to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct MountNote {
    driver_name: String,
    volume_handle: String,
    spec_vol_id: String,
    ephemeral: bool,
}

const NOTE: &str = "vol_data.json";
/// Looks at an attachment before the pod's own retry takes over.
const ATTACH_LOOKS: u32 = 40;
const ATTACH_PAUSE: Duration = Duration::from_millis(250);

/// Persistent volumes of this node's pods.
#[derive(Clone)]
pub(crate) struct Persistent {
    client: Client,
    root: PathBuf,
    drivers: Arc<Drivers>,
    node_name: String,
    /// Held by whoever reports the volumes in use, from reading the notes to the API's answer: an older report must not
    /// overtake a newer one.
    reports: Arc<tokio::sync::Mutex<()>>,
}

impl Persistent {
    pub(crate) fn new(client: Client, root: &Path, drivers: Arc<Drivers>, node_name: &str) -> Self {
        Self { client, root: root.to_owned(), drivers, node_name: node_name.to_owned(), reports: Arc::default() }
    }

    /// Makes the volume available and gives its place.
    pub(crate) async fn set_up(&self, pod: &Pod, volume: &Volume, folder: &Path) -> Result<PathBuf, VolumeError> {
        let id = PodId::of(pod);
        if let Some(inline) = &volume.csi {
            let handle = inline_handle(&id, &volume.name);
            let mut context = pod_context(pod);
            context.extend(inline.volume_attributes.clone().unwrap_or_default());
            let secrets = match &inline.node_publish_secret_ref {
                Some(name) => self.secret(&id.namespace, name.name.as_str()).await?,
                None => BTreeMap::new(),
            };
            let request = Publish {
                handle,
                read_only: inline.read_only == Some(true),
                fs_type: inline.fs_type.clone().unwrap_or_default(),
                access_mode: access_mode(&[]),
                volume_context: context,
                publish_secrets: secrets,
                ephemeral: true,
                ..Publish::default()
            };
            return self.publish(pod, &inline.driver, &volume.name, folder, request, false).await;
        }
        let claim_source = volume.persistent_volume_claim.as_ref();
        let claim = claim_source.map_or_else(|| format!("{}-{}", id.name, volume.name), |one| one.claim_name.clone());
        let read_only = claim_source.and_then(|source| source.read_only).unwrap_or(false);
        let persistent = self.bound(&id, &claim, volume.ephemeral.is_some()).await?;
        self.check_place(&persistent).await?;
        self.reach(pod, &persistent, folder, read_only).await
    }

    async fn bound(&self, id: &PodId, claim: &str, owned: bool) -> Result<PersistentVolume, VolumeError> {
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &id.namespace);
        let found = claims.get(claim).await?;
        let owner = found.metadata.owner_references.iter().flatten().any(|owner| owner.uid == id.uid);
        if owned && !owner {
            return Err(VolumeError::Source(format!(
                "PVC {}/{claim} was not created for pod {}",
                id.namespace, id.name
            )));
        }
        let name = found.spec.as_ref().and_then(|spec| spec.volume_name.clone()).filter(|name| !name.is_empty());
        let bound = found.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
        let Some(name) = name.filter(|_| bound) else {
            return Err(VolumeError::Source(format!("PVC {}/{claim} is not bound", id.namespace)));
        };
        Ok(Api::<PersistentVolume>::all(self.client.clone()).get(&name).await?)
    }

    async fn check_place(&self, persistent: &PersistentVolume) -> Result<(), VolumeError> {
        let affinity = persistent.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref());
        let Some(required) = affinity.and_then(|affinity| affinity.required.as_ref()) else { return Ok(()) };
        let node = Api::<Node>::all(self.client.clone()).get(&self.node_name).await?;
        if selector::matches(required, &node) {
            return Ok(());
        }
        let name = persistent.metadata.name.clone().unwrap_or_default();
        Err(VolumeError::Source(format!(
            "volume {name:?} cannot be used on this node: its node affinity does not match"
        )))
    }

    async fn reach(
        &self,
        pod: &Pod,
        persistent: &PersistentVolume,
        folder: &Path,
        read_only: bool,
    ) -> Result<PathBuf, VolumeError> {
        let name = persistent.metadata.name.clone().unwrap_or_default();
        let Some(spec) = &persistent.spec else { return Err(VolumeError::Source(format!("volume {name:?} is empty"))) };
        if let Some(source) = &spec.host_path {
            return Ok(PathBuf::from(&source.path));
        }
        if let Some(source) = &spec.local {
            let path = PathBuf::from(&source.path);
            own_all(&path, pod)?;
            return Ok(path);
        }
        let Some(source) = &spec.csi else {
            return Err(VolumeError::Source(format!("volume {name:?} is of a kind that this node does not have")));
        };
        let attachable = self.attachable(source).await?;
        let publish_context = if attachable { self.attached(source).await? } else { BTreeMap::new() };
        let modes = spec.access_modes.clone().unwrap_or_default();
        let request = Publish {
            handle: source.volume_handle.clone(),
            read_only: read_only || source.read_only == Some(true),
            fs_type: source.fs_type.clone().unwrap_or_default(),
            mount_flags: spec.mount_options.clone().unwrap_or_default(),
            access_mode: access_mode(&modes),
            publish_context,
            volume_context: source.volume_attributes.clone().unwrap_or_default(),
            publish_secrets: self.secret_of(source.node_publish_secret_ref.as_ref()).await?,
            stage_secrets: self.secret_of(source.node_stage_secret_ref.as_ref()).await?,
            staging: self.staging(&source.driver, &source.volume_handle),
            ..Publish::default()
        };
        self.publish(pod, &source.driver, &name, folder, request, attachable).await
    }

    fn staging(&self, driver: &str, handle: &str) -> PathBuf {
        let digest = hex(&Sha256::digest(handle.as_bytes()));
        self.root.join("plugins/kubernetes.io/csi").join(driver).join(digest).join("globalmount")
    }

    async fn publish(
        &self,
        pod: &Pod,
        driver: &str,
        name: &str,
        folder: &Path,
        mut request: Publish,
        attachable: bool,
    ) -> Result<PathBuf, VolumeError> {
        let plugin = self.drivers.get(driver)?;
        let base = folder.join("volumes/kubernetes.io~csi").join(name);
        request.target = base.join("mount");
        let note = MountNote {
            driver_name: driver.to_owned(),
            volume_handle: request.handle.clone(),
            spec_vol_id: name.to_owned(),
            ephemeral: request.ephemeral,
        };
        // Before the mount: what a crash leaves must be undone by someone who knows what it is.
        write_note(&base, &note).map_err(|source| VolumeError::Files {
            what: "note the mount",
            path: base.clone(),
            source,
        })?;
        let fresh = !super::mounts::is_mounted(&request.target);
        if fresh && attachable {
            self.announce(&unique_name(&note)).await?;
        }
        plugin.publish(&request).await?;
        if fresh && !request.read_only {
            own_all(&request.target, pod)?;
        }
        Ok(request.target)
    }

    /// Says that the volume is in use here, and mounts only what is attached after that was said: a detacher that
    /// looked before has taken the volume off the node's list by then, one that looks later leaves it alone.
    async fn announce(&self, volume: &str) -> Result<(), VolumeError> {
        let api: Api<Node> = Api::all(self.client.clone());
        let mut node = {
            let _one = self.reporting().await;
            let patch = Patch::Merge(serde_json::json!({"status": {"volumesInUse": self.in_use()}}));
            api.patch_status(&self.node_name, &PatchParams::default(), &patch).await?
        };
        for _ in 0..ATTACH_LOOKS {
            let attached = node.status.iter().flat_map(|status| status.volumes_attached.iter().flatten());
            if attached.into_iter().any(|one| one.name == volume) {
                return Ok(());
            }
            tokio::time::sleep(ATTACH_PAUSE).await;
            node = api.get(&self.node_name).await?;
        }
        Err(VolumeError::Source(format!("volume {volume:?} is not attached to this node")))
    }

    /// To be held over a report of [`Self::in_use`].
    pub(crate) async fn reporting(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.reports.lock().await
    }

    /// Whether the volume's driver wants it attached first.
    async fn attachable(&self, source: &CSIPersistentVolumeSource) -> Result<bool, VolumeError> {
        let driver = Api::<CSIDriver>::all(self.client.clone()).get_opt(&source.driver).await?;
        Ok(driver.map_or(source.driver != LOCAL_DRIVER, |one| one.spec.attach_required != Some(false)))
    }

    /// Waits until the volume is attached; gives what the attacher passes on.
    async fn attached(&self, source: &CSIPersistentVolumeSource) -> Result<BTreeMap<String, String>, VolumeError> {
        let name = attachment_name(&source.volume_handle, &source.driver, &self.node_name);
        let api: Api<VolumeAttachment> = Api::all(self.client.clone());
        for _ in 0..ATTACH_LOOKS {
            let found = api.get_opt(&name).await?.filter(|one| one.metadata.deletion_timestamp.is_none());
            if let Some(status) = found.and_then(|one| one.status) {
                if status.attached {
                    return Ok(status.attachment_metadata.unwrap_or_default());
                }
                if let Some(error) = status.attach_error.and_then(|error| error.message) {
                    return Err(VolumeError::Source(format!("attach: {error}")));
                }
            }
            tokio::time::sleep(ATTACH_PAUSE).await;
        }
        Err(VolumeError::Source(format!("volume attachment is being waited for (volume {:?})", source.volume_handle)))
    }

    async fn secret_of(&self, reference: Option<&SecretReference>) -> Result<BTreeMap<String, String>, VolumeError> {
        match reference {
            None => Ok(BTreeMap::new()),
            Some(one) => {
                let (namespace, name) =
                    (one.namespace.as_deref().unwrap_or_default(), one.name.as_deref().unwrap_or_default());
                self.secret(namespace, name).await
            }
        }
    }

    async fn secret(&self, namespace: &str, name: &str) -> Result<BTreeMap<String, String>, VolumeError> {
        let secret = Api::<Secret>::namespaced(self.client.clone(), namespace).get(name).await?;
        let data = secret.data.unwrap_or_default().into_iter();
        Ok(data.map(|(key, value)| (key, String::from_utf8_lossy(&value.0).into_owned())).collect())
    }

    /// Undoes the mounts of a pod's folder.
    pub(crate) async fn tear_down(&self, folder: &Path) -> Result<(), VolumeError> {
        for (base, note) in notes(folder) {
            let plugin = self.drivers.get(&note.driver_name)?;
            // Parts of the volume that containers got are mounts of their own, and go first.
            let _ = super::mounts::detach_below(&folder.join("volume-subpaths"));
            plugin.unpublish(&note.volume_handle, &base.join("mount")).await?;
            let _ = std::fs::remove_dir(base.join("mount"));
            let _ = std::fs::remove_file(base.join(NOTE));
            let shared = self
                .all_notes()
                .iter()
                .any(|(_, other)| other.driver_name == note.driver_name && other.volume_handle == note.volume_handle);
            if !shared && !note.ephemeral {
                plugin.unstage(&note.volume_handle, &self.staging(&note.driver_name, &note.volume_handle)).await?;
            }
        }
        Ok(())
    }

    fn all_notes(&self) -> Vec<(PathBuf, MountNote)> {
        let pods = std::fs::read_dir(self.root.join("pods")).into_iter().flatten().flatten();
        pods.flat_map(|pod| notes(&pod.path())).collect()
    }

    pub(crate) fn in_use(&self) -> Vec<String> {
        let notes = self.all_notes();
        let attached = notes.iter().filter(|(_, note)| !note.ephemeral);
        let mut names: Vec<String> = attached.map(|(_, note)| unique_name(note)).collect();
        names.sort();
        names.dedup();
        names
    }
}

/// The volume as the node's status names it.
fn unique_name(note: &MountNote) -> String {
    format!("kubernetes.io/csi/{}^{}", note.driver_name, note.volume_handle)
}

fn write_note(base: &Path, note: &MountNote) -> std::io::Result<()> {
    std::fs::create_dir_all(base)?;
    std::fs::write(base.join(NOTE), serde_json::to_vec(note)?)
}

fn notes(folder: &Path) -> Vec<(PathBuf, MountNote)> {
    let entries = std::fs::read_dir(folder.join("volumes/kubernetes.io~csi")).into_iter().flatten().flatten();
    let read = |base: PathBuf| {
        let bytes = std::fs::read(base.join(NOTE)).ok()?;
        Some((base, serde_json::from_slice(&bytes).ok()?))
    };
    entries.filter_map(|entry| read(entry.path())).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Name of the attachment that the control plane makes for a volume on a node.
fn attachment_name(handle: &str, driver: &str, node: &str) -> String {
    format!("csi-{}", hex(&Sha256::digest(format!("{handle}{driver}{node}").as_bytes())))
}

fn inline_handle(id: &PodId, volume: &str) -> String {
    let seed = format!("{}{}{}{volume}", id.namespace, id.name, id.uid);
    format!("csi-{}", hex(&Sha256::digest(seed.as_bytes())))
}

fn pod_context(pod: &Pod) -> BTreeMap<String, String> {
    let id = PodId::of(pod);
    let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone()).unwrap_or_default();
    [("pod.name", id.name), ("pod.namespace", id.namespace), ("pod.uid", id.uid), ("serviceAccount.name", account)]
        .map(|(key, value)| (format!("csi.storage.k8s.io/{key}"), value))
        .into_iter()
        .chain([("csi.storage.k8s.io/ephemeral".to_owned(), "true".to_owned())])
        .collect()
}

/// CSI's access mode for the API's.
fn access_mode(modes: &[String]) -> i32 {
    use timonel_cri::csi::volume_capability::access_mode::Mode;
    let has = |mode: &str| modes.iter().any(|one| one == mode);
    let mode = if has("ReadWriteMany") {
        Mode::MultiNodeMultiWriter
    } else if has("ReadOnlyMany") && !has("ReadWriteOnce") {
        Mode::MultiNodeReaderOnly
    } else {
        Mode::SingleNodeWriter
    };
    mode.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_survive_on_disk() {
        let root = tempfile::tempdir().expect("folder");
        let base = root.path().join("volumes/kubernetes.io~csi/pv1");
        let note = MountNote {
            driver_name: "d".into(),
            volume_handle: "h".into(),
            spec_vol_id: "pv1".into(),
            ephemeral: false,
        };
        write_note(&base, &note).expect("written");
        std::fs::create_dir_all(root.path().join("volumes/kubernetes.io~csi/broken")).expect("made");
        assert_eq!(notes(root.path()), [(base, note)]);
    }

    #[test]
    fn attachments_are_found_by_name() {
        let name = attachment_name("vol", "driver", "node");
        assert_eq!(name.len(), 4 + 64);
        assert_ne!(name, attachment_name("vol2", "driver", "node"));
    }

    #[test]
    fn access_modes() {
        for (modes, expected) in [
            (vec![], 1),
            (vec!["ReadWriteOnce"], 1),
            (vec!["ReadOnlyMany"], 3),
            (vec!["ReadWriteMany"], 5),
            (vec!["ReadWriteOnce", "ReadOnlyMany"], 1),
        ] {
            let modes: Vec<String> = modes.into_iter().map(str::to_owned).collect();
            assert_eq!(access_mode(&modes), expected, "{modes:?}");
        }
    }
}
