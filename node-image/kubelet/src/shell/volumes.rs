//! A pod's volumes on disk: made before its containers, refreshed while it runs, taken away after it.
//! `ROOT/pods/UID/volumes/PLUGIN/NAME`, as drivers and tools expect.

use super::csi::{Drivers, PluginError};
use super::objects::Objects;
use super::{atomic, mounts};
use crate::decide::env::{EnvError, Facts};
use crate::decide::files::{DEFAULT_MODE, Payload, config_map_files, downward_files, secret_files};
use crate::decide::names::PodId;
use crate::decide::quantity::units;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{
    EmptyDirVolumeSource, HostPathVolumeSource, Pod, ProjectedVolumeSource, ServiceAccount,
    ServiceAccountTokenProjection, Volume, VolumeProjection,
};
use kube::{Api, Client};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thiserror::Error;
use timonel_cri::cri::ImageSpec;
use timonel_runtime::{Clock, Entropy};

pub(crate) use super::persistent::Persistent;

/// Why a volume is not there; the text is part of an event.
#[derive(Debug, Error)]
pub(crate) enum VolumeError {
    #[error("{0}")]
    Source(String),
    #[error(transparent)]
    Field(#[from] EnvError),
    #[error("{what} {}: {source}", path.display())]
    Files {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("hostPath type check failed: {path} is not {expected}")]
    HostPath { path: String, expected: &'static str },
    #[error(transparent)]
    Api(#[from] kube::Error),
    #[error(transparent)]
    Plugin(#[from] PluginError),
}

/// Where a volume is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Place {
    /// A folder or file of the node.
    Path(PathBuf),
    /// An image that the runtime mounts.
    Image(Box<ImageSpec>),
}

/// A pod's volumes by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Mounted {
    pub(crate) places: BTreeMap<String, Place>,
    /// When a token must be renewed.
    pub(crate) refresh_at: Option<Timestamp>,
}

/// A token, and when to ask for the next one.
#[derive(Clone, Debug)]
struct Token {
    text: String,
    refresh_at: Timestamp,
}

/// Makes and removes volumes.
pub(crate) struct Volumes {
    client: Client,
    root: PathBuf,
    objects: Arc<Objects>,
    persistent: Persistent,
    clock: Clock,
    entropy: Entropy,
    /// By pod, account, audience and lifetime.
    tokens: Mutex<BTreeMap<(String, String), Token>>,
}

/// Mode of a token whose reader is known.
const TOKEN_MODE: i32 = 0o600;
/// Lifetime of a token that does not say.
const TOKEN_SECONDS: i64 = 3600;

impl Volumes {
    pub(crate) fn new(
        client: Client,
        root: &Path,
        objects: Arc<Objects>,
        drivers: Arc<Drivers>,
        node_name: &str,
        clock: Clock,
        entropy: Entropy,
    ) -> Self {
        let persistent = Persistent::new(client.clone(), root, drivers, node_name);
        Self { client, root: root.to_owned(), objects, persistent, clock, entropy, tokens: Mutex::default() }
    }

    pub(crate) fn pod_folder(&self, uid: &str) -> PathBuf {
        self.root.join("pods").join(uid)
    }

    fn folder(&self, uid: &str, plugin: &str, name: &str) -> PathBuf {
        self.pod_folder(uid).join("volumes").join(format!("kubernetes.io~{plugin}")).join(name)
    }

    /// Makes every volume of the pod, or brings it up to date. The error names the volume.
    pub(crate) async fn set_up(&self, pod: &Pod, facts: &Facts) -> Result<Mounted, (String, VolumeError)> {
        let mut out = Mounted::default();
        for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
            let made = self.one(pod, volume, facts, &mut out.refresh_at).await;
            let place = made.map_err(|error| (volume.name.clone(), error))?;
            out.places.insert(volume.name.clone(), place);
        }
        Ok(out)
    }

    async fn one(
        &self,
        pod: &Pod,
        volume: &Volume,
        facts: &Facts,
        refresh_at: &mut Option<Timestamp>,
    ) -> Result<Place, VolumeError> {
        let id = PodId::of(pod);
        let folder = |plugin: &str| self.folder(&id.uid, plugin, &volume.name);
        if let Some(source) = &volume.host_path {
            return host_path(source).map(Place::Path);
        }
        if let Some(source) = &volume.empty_dir {
            return empty_dir(&folder("empty-dir"), source, pod).map(Place::Path);
        }
        if let Some(source) = &volume.image {
            let image = source.reference.clone().unwrap_or_default();
            return Ok(Place::Image(Box::new(ImageSpec { image, ..ImageSpec::default() })));
        }
        if volume.persistent_volume_claim.is_some() || volume.csi.is_some() || volume.ephemeral.is_some() {
            let place = self.persistent.set_up(pod, volume, &self.pod_folder(&id.uid)).await?;
            return Ok(Place::Path(place));
        }
        let (plugin, payload) = self.payload(pod, volume, facts, refresh_at).await?;
        let at = folder(plugin);
        files("make the volume", &at, prepare(&at, plugin != "configmap"))?;
        let stamp = format!("{}.{}", self.clock.now().strftime("%Y_%m_%d_%H_%M_%S"), self.entropy.suffix(9));
        files("write the volume", &at, atomic::write(&at, &payload, &stamp, fs_group(pod)))?;
        Ok(Place::Path(at))
    }

    /// Folder name of the plugin and the files of a configuration volume.
    async fn payload(
        &self,
        pod: &Pod,
        volume: &Volume,
        facts: &Facts,
        refresh_at: &mut Option<Timestamp>,
    ) -> Result<(&'static str, Payload), VolumeError> {
        let id = PodId::of(pod);
        if let Some(source) = &volume.config_map {
            let map = self.objects.config_maps.get(&id.namespace, &source.name, &id.uid).await?;
            let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
            let optional = source.optional == Some(true);
            let files = config_map_files(map.as_deref(), &source.name, source.items.as_deref(), mode, optional);
            return Ok(("configmap", files.map_err(VolumeError::Source)?));
        }
        if let Some(source) = &volume.secret {
            let name = source.secret_name.clone().unwrap_or_default();
            let secret = self.objects.secrets.get(&id.namespace, &name, &id.uid).await?;
            let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
            let optional = source.optional == Some(true);
            let files = secret_files(secret.as_deref(), &name, source.items.as_deref(), mode, optional);
            return Ok(("secret", files.map_err(VolumeError::Source)?));
        }
        if let Some(source) = &volume.downward_api {
            let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
            let items = source.items.as_deref().unwrap_or_default();
            return Ok(("downward-api", downward_files(pod, items, mode, facts)?));
        }
        if let Some(source) = &volume.projected {
            return Ok(("projected", self.projected(pod, source, facts, refresh_at).await?));
        }
        Err(VolumeError::Source(format!("no volume plugin matched name: {}", volume.name)))
    }

    async fn projected(
        &self,
        pod: &Pod,
        source: &ProjectedVolumeSource,
        facts: &Facts,
        refresh_at: &mut Option<Timestamp>,
    ) -> Result<Payload, VolumeError> {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        let mut out = Payload::new();
        for part in source.sources.iter().flatten() {
            out.extend(self.projection(pod, part, mode, facts, refresh_at).await?);
        }
        Ok(out)
    }

    async fn projection(
        &self,
        pod: &Pod,
        part: &VolumeProjection,
        mode: i32,
        facts: &Facts,
        refresh_at: &mut Option<Timestamp>,
    ) -> Result<Payload, VolumeError> {
        let id = PodId::of(pod);
        if let Some(one) = &part.config_map {
            let map = self.objects.config_maps.get(&id.namespace, &one.name, &id.uid).await?;
            let optional = one.optional == Some(true);
            return config_map_files(map.as_deref(), &one.name, one.items.as_deref(), mode, optional)
                .map_err(VolumeError::Source);
        }
        if let Some(one) = &part.secret {
            let secret = self.objects.secrets.get(&id.namespace, &one.name, &id.uid).await?;
            let optional = one.optional == Some(true);
            return secret_files(secret.as_deref(), &one.name, one.items.as_deref(), mode, optional)
                .map_err(VolumeError::Source);
        }
        if let Some(one) = &part.downward_api {
            return Ok(downward_files(pod, one.items.as_deref().unwrap_or_default(), mode, facts)?);
        }
        if let Some(one) = &part.service_account_token {
            let token = self.token(pod, one).await?;
            *refresh_at = Some(refresh_at.map_or(token.refresh_at, |known| known.min(token.refresh_at)));
            let owner = common_user(pod);
            // Whoever is named as the reader is the only one.
            let mode = if owner.is_some() || fs_group(pod).is_some() { TOKEN_MODE } else { mode };
            let file = crate::decide::files::File {
                bytes: token.text.into_bytes(),
                mode: u32::try_from(mode).unwrap_or(0o644),
                owner,
            };
            return Ok([(one.path.clone(), file)].into());
        }
        Err(VolumeError::Source("a projected source of a kind that this node does not have".into()))
    }

    async fn token(&self, pod: &Pod, wanted: &ServiceAccountTokenProjection) -> Result<Token, VolumeError> {
        let id = PodId::of(pod);
        let account =
            pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone()).unwrap_or_else(|| "default".into());
        let seconds = wanted.expiration_seconds.unwrap_or(TOKEN_SECONDS);
        let audience = wanted.audience.clone().unwrap_or_default();
        let key = (id.uid.clone(), format!("{account}/{audience}/{seconds}"));
        let now = self.clock.now();
        let known = self.tokens.lock().get(&key).cloned();
        if let Some(known) = known.filter(|token| now < token.refresh_at) {
            return Ok(known);
        }
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: (!audience.is_empty()).then(|| vec![audience]),
                expiration_seconds: Some(seconds),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".into()),
                    kind: Some("Pod".into()),
                    name: Some(id.name.clone()),
                    uid: Some(id.uid.clone()),
                }),
            }),
            ..TokenRequest::default()
        };
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &id.namespace);
        let answer: TokenRequest =
            api.create_subresource("token", &account, &kube::api::PostParams::default(), &request).await?;
        let status = answer.status.and_then(|status| Some((status.token?, status.expiration_timestamp?.0)));
        let (text, expires) = status.ok_or_else(|| VolumeError::Source("a token request without an answer".into()))?;
        // A fifth of the lifetime is left for trying again.
        let life = expires.duration_since(now);
        let refresh_at = now.saturating_add(life * 4 / 5).unwrap_or(now);
        let token = Token { text, refresh_at: refresh_at.max(now + SignedDuration::from_secs(5)) };
        self.tokens.lock().insert(key, token.clone());
        Ok(token)
    }

    /// Takes all volumes of a pod away; `whole` also its folder.
    pub(crate) async fn tear_down(&self, uid: &str, whole: bool) -> Result<(), VolumeError> {
        self.tokens.lock().retain(|(pod, _), _| pod != uid);
        let folder = self.pod_folder(uid);
        if !folder.exists() {
            return Ok(());
        }
        self.persistent.tear_down(&folder).await?;
        files("unmount below", &folder, mounts::detach_below(&folder))?;
        for part in ["volume-subpaths", "volumes"] {
            let below = folder.join(part);
            if below.exists() {
                files("remove", &below, std::fs::remove_dir_all(&below))?;
            }
        }
        if whole {
            files("remove", &folder, std::fs::remove_dir_all(&folder))?;
        }
        Ok(())
    }

    /// UIDs of pods that have a folder.
    pub(crate) fn pods(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.root.join("pods")).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    /// Persistent volumes in use, as the node's status names them.
    pub(crate) fn in_use(&self) -> Vec<String> {
        self.persistent.in_use()
    }

    /// To be held over a report of [`Self::in_use`].
    pub(crate) async fn reporting(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.persistent.reporting().await
    }
}

impl std::fmt::Debug for Volumes {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Volumes").field("root", &self.root).finish_non_exhaustive()
    }
}

fn files<T>(what: &'static str, path: &Path, result: io::Result<T>) -> Result<T, VolumeError> {
    result.map_err(|source| VolumeError::Files { what, path: path.to_owned(), source })
}

/// The group that owns the pod's volumes.
pub(crate) fn fs_group(pod: &Pod) -> Option<u32> {
    let context = pod.spec.as_ref()?.security_context.as_ref()?;
    u32::try_from(context.fs_group?).ok()
}

/// The user as whom all containers of a pod run, if they agree.
fn common_user(pod: &Pod) -> Option<u32> {
    let spec = pod.spec.as_ref()?;
    let shared = spec.security_context.as_ref().and_then(|context| context.run_as_user);
    let mut users = spec
        .init_containers
        .iter()
        .flatten()
        .chain(&spec.containers)
        .map(|container| container.security_context.as_ref().and_then(|context| context.run_as_user).or(shared));
    let first = users.next()??;
    users.all(|user| user == Some(first)).then(|| u32::try_from(first).ok())?
}

/// A folder for files of the agent; secrets never reach a disk.
fn prepare(folder: &Path, in_memory: bool) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    if in_memory && !mounts::is_mounted(folder) {
        mounts::tmpfs(folder, None)?;
    }
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755))
}

fn empty_dir(folder: &Path, source: &EmptyDirVolumeSource, pod: &Pod) -> Result<PathBuf, VolumeError> {
    let fresh = !folder.exists();
    files("make", folder, std::fs::create_dir_all(folder))?;
    if source.medium.as_deref() == Some("Memory") && !mounts::is_mounted(folder) {
        let size = source.size_limit.as_ref().and_then(units);
        files("mount", folder, mounts::tmpfs(folder, size))?;
    }
    if fresh || source.medium.as_deref() == Some("Memory") {
        files("open up", folder, std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o777)))?;
        if let Some(group) = fs_group(pod) {
            files("own", folder, own(folder, group, 0o2777))?;
        }
    }
    Ok(folder.to_owned())
}

fn own(path: &Path, group: u32, mode: u32) -> io::Result<()> {
    std::os::unix::fs::lchown(path, None, Some(group))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

/// Gives a volume and all below to the pod's group, unless the root shows that it was done before and the pod
/// asks to trust that.
pub(crate) fn own_all(root: &Path, pod: &Pod) -> Result<(), VolumeError> {
    let Some(group) = fs_group(pod) else { return Ok(()) };
    let context = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let lazy = context.and_then(|context| context.fs_group_change_policy.as_deref()) == Some("OnRootMismatch");
    let meta = files("look at", root, std::fs::metadata(root))?;
    if lazy && meta.gid() == group && meta.mode() & 0o2070 == 0o2070 {
        return Ok(());
    }
    files("own", root, own_below(root, group))
}

fn own_below(path: &Path, group: u32) -> io::Result<()> {
    let meta = std::fs::symlink_metadata(path)?;
    if meta.is_symlink() {
        return Ok(());
    }
    if meta.is_dir() {
        for entry in std::fs::read_dir(path)? {
            own_below(&entry?.path(), group)?;
        }
        return own(path, group, meta.mode() | 0o2770);
    }
    own(path, group, meta.mode() | 0o660)
}

fn host_path(source: &HostPathVolumeSource) -> Result<PathBuf, VolumeError> {
    let path = PathBuf::from(&source.path);
    let kind = source.type_.as_deref().unwrap_or_default();
    if kind == "DirectoryOrCreate" && !path.exists() {
        files("make", &path, std::fs::create_dir_all(&path))?;
    }
    if kind == "FileOrCreate" && !path.exists() {
        files("make", &path, std::fs::write(&path, b""))?;
    }
    let found = std::fs::metadata(&path).map(|meta| meta.file_type());
    let is = |check: fn(&std::fs::FileType) -> bool| found.as_ref().is_ok_and(check);
    let (good, expected) = match kind {
        "Directory" | "DirectoryOrCreate" => (is(std::fs::FileType::is_dir), "a directory"),
        "File" | "FileOrCreate" => (is(std::fs::FileType::is_file), "a file"),
        "Socket" => (is(|kind| kind.is_socket()), "a socket file"),
        "CharDevice" => (is(|kind| kind.is_char_device()), "a character device"),
        "BlockDevice" => (is(|kind| kind.is_block_device()), "a block device"),
        _ => (true, ""),
    };
    if kind.is_empty() && found.is_err() {
        // The runtime would make it, but as whoever mounts it first.
        files("make", &path, std::fs::create_dir_all(&path))?;
    }
    if good { Ok(path) } else { Err(VolumeError::HostPath { path: source.path.clone(), expected }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_belongs_to_whom_all_containers_run_as() {
        for (pod, first, second, expected) in [
            (None, None, None, None),
            (Some(1000), None, None, Some(1000)),
            (Some(1000), Some(5), None, None),
            (None, Some(5), Some(5), Some(5)),
            (None, Some(5), None, None),
        ] {
            let context = |user: Option<i64>| serde_json::json!({"runAsUser": user});
            let spec = serde_json::json!({"spec": {"securityContext": context(pod), "containers": [
                {"name": "a", "securityContext": context(first)}, {"name": "b", "securityContext": context(second)}]}});
            let made: Pod = serde_json::from_value(spec).expect("pod");
            assert_eq!(common_user(&made), expected, "{pod:?} {first:?} {second:?}");
        }
    }

    #[test]
    fn host_paths_are_what_they_must_be() {
        let folder = tempfile::tempdir().expect("folder");
        std::fs::write(folder.path().join("file"), "").expect("written");
        for (name, kind, fine) in [
            ("file", "File", true),
            ("file", "Directory", false),
            ("none", "File", false),
            ("made", "DirectoryOrCreate", true),
            ("made", "File", false),
            ("made-file", "FileOrCreate", true),
            ("file", "Socket", false),
            ("any", "", true),
        ] {
            let path = folder.path().join(name).to_string_lossy().into_owned();
            let source = HostPathVolumeSource { path, type_: Some(kind.into()) };
            assert_eq!(host_path(&source).is_ok(), fine, "{name} {kind}");
        }
    }

    #[test]
    fn a_volume_belongs_to_the_pods_group() {
        let folder = tempfile::tempdir().expect("folder");
        std::fs::create_dir(folder.path().join("d")).expect("made");
        std::fs::write(folder.path().join("d/f"), "").expect("written");
        std::os::unix::fs::symlink("/etc/passwd", folder.path().join("link")).expect("link");
        let group = std::fs::metadata(folder.path()).expect("meta").gid();
        own_below(folder.path(), group).expect("owned");
        let mode = |name: &str| std::fs::metadata(folder.path().join(name)).expect("meta").mode() & 0o7777;
        assert_eq!(mode("d") & 0o2070, 0o2070);
        assert_eq!(mode("d/f") & 0o060, 0o060);
    }
}
