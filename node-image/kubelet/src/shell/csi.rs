//! Drivers of persistent volumes: the built-in one of the local cloud, and CSI drivers that register themselves
//! through a socket in the registration directory.

use super::mounts;
use async_trait::async_trait;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use timonel_cri::csi::{self, node_client::NodeClient, volume_capability as capability};
use timonel_cri::pluginregistration::{InfoRequest, RegistrationStatus, registration_client::RegistrationClient};
use timonel_runtime::{OnError, Tasks};
use tonic::transport::Channel;

/// The local cloud's driver: an attached volume is a directory of the machine.
pub(crate) const LOCAL_DRIVER: &str = "local.csi.timonel.io";
/// Limit of one call to a driver.
const CALL_LIMIT: Duration = Duration::from_mins(2);

/// Why a driver could not do its part.
#[derive(Debug, Error)]
pub(crate) enum PluginError {
    #[error("driver name {0} not found in the list of registered CSI drivers")]
    Unknown(String),
    #[error("volume {0:?} is not attached to this machine")]
    NotAttached(String),
    #[error("{what}: {}", path.display())]
    Files {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{call}: {}", status.message())]
    Call { call: &'static str, status: Box<tonic::Status> },
    #[error("{0}: no answer in time")]
    Timeout(&'static str),
    #[error("connect to the driver")]
    Connect(#[from] timonel_cri::ConnectError),
}

/// A volume to make available below a path.
#[derive(Clone, Debug, Default)]
pub(crate) struct Publish {
    pub(crate) handle: String,
    pub(crate) staging: PathBuf,
    pub(crate) target: PathBuf,
    pub(crate) read_only: bool,
    pub(crate) fs_type: String,
    pub(crate) mount_flags: Vec<String>,
    pub(crate) access_mode: i32,
    pub(crate) publish_context: BTreeMap<String, String>,
    pub(crate) volume_context: BTreeMap<String, String>,
    pub(crate) publish_secrets: BTreeMap<String, String>,
    pub(crate) stage_secrets: BTreeMap<String, String>,
    /// Inline in a pod: it is never staged.
    pub(crate) ephemeral: bool,
}

/// What a driver does on a node. Every call may be repeated.
#[async_trait]
pub(crate) trait VolumePlugin: Send + Sync + std::fmt::Debug {
    /// Makes the volume appear at its target.
    async fn publish(&self, request: &Publish) -> Result<(), PluginError>;
    /// Takes it away from a target.
    async fn unpublish(&self, handle: &str, target: &Path) -> Result<(), PluginError>;
    /// No pod of this node uses the volume any more.
    async fn unstage(&self, handle: &str, staging: &Path) -> Result<(), PluginError>;
}

/// The local cloud's volumes: directories, bind-mounted.
#[derive(Debug)]
pub(crate) struct LocalVolumes {
    pub(crate) folder: PathBuf,
}

#[async_trait]
impl VolumePlugin for LocalVolumes {
    async fn publish(&self, request: &Publish) -> Result<(), PluginError> {
        let handle = Path::new(&request.handle);
        let plain = handle.components().count() == 1 && handle.file_name().is_some();
        let source = self.folder.join(handle);
        if !plain || !source.is_dir() {
            return Err(PluginError::NotAttached(request.handle.clone()));
        }
        if mounts::is_mounted(&request.target) {
            return Ok(());
        }
        let files = |what| move |source| PluginError::Files { what, path: request.target.clone(), source };
        std::fs::create_dir_all(&request.target).map_err(files("make the target"))?;
        mounts::bind(&source, &request.target, request.read_only).map_err(files("mount the volume"))
    }

    async fn unpublish(&self, _handle: &str, target: &Path) -> Result<(), PluginError> {
        mounts::detach_below(target).map_err(|source| PluginError::Files {
            what: "unmount the volume",
            path: target.to_owned(),
            source,
        })
    }

    async fn unstage(&self, _handle: &str, _staging: &Path) -> Result<(), PluginError> {
        Ok(())
    }
}

/// A CSI driver's node service.
#[derive(Debug)]
struct CsiDriver {
    node: NodeClient<Channel>,
    stages: bool,
}

async fn limited<T>(
    call: &'static str,
    work: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, PluginError> {
    match tokio::time::timeout(CALL_LIMIT, work).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(PluginError::Call { call, status: Box::new(status) }),
        Err(_) => Err(PluginError::Timeout(call)),
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

impl CsiDriver {
    fn capability(request: &Publish) -> csi::VolumeCapability {
        csi::VolumeCapability {
            access_mode: Some(capability::AccessMode { mode: request.access_mode }),
            access_type: Some(capability::AccessType::Mount(capability::MountVolume {
                fs_type: request.fs_type.clone(),
                mount_flags: request.mount_flags.clone(),
                volume_mount_group: String::new(),
            })),
        }
    }

    async fn stage(&self, request: &Publish) -> Result<(), PluginError> {
        std::fs::create_dir_all(&request.staging).map_err(|source| PluginError::Files {
            what: "make the staging folder",
            path: request.staging.clone(),
            source,
        })?;
        let call = csi::NodeStageVolumeRequest {
            volume_id: request.handle.clone(),
            publish_context: request.publish_context.clone().into_iter().collect(),
            staging_target_path: text(&request.staging),
            volume_capability: Some(Self::capability(request)),
            secrets: request.stage_secrets.clone().into_iter().collect(),
            volume_context: request.volume_context.clone().into_iter().collect(),
        };
        limited("NodeStageVolume", self.node.clone().node_stage_volume(call)).await.map(|_| ())
    }
}

#[async_trait]
impl VolumePlugin for CsiDriver {
    async fn publish(&self, request: &Publish) -> Result<(), PluginError> {
        let staged = self.stages && !request.ephemeral;
        if staged {
            self.stage(request).await?;
        }
        if let Some(parent) = request.target.parent() {
            std::fs::create_dir_all(parent).map_err(|source| PluginError::Files {
                what: "make the target's parent",
                path: parent.to_owned(),
                source,
            })?;
        }
        let call = csi::NodePublishVolumeRequest {
            volume_id: request.handle.clone(),
            publish_context: request.publish_context.clone().into_iter().collect(),
            staging_target_path: if staged { text(&request.staging) } else { String::new() },
            target_path: text(&request.target),
            volume_capability: Some(Self::capability(request)),
            readonly: request.read_only,
            secrets: request.publish_secrets.clone().into_iter().collect(),
            volume_context: request.volume_context.clone().into_iter().collect(),
        };
        limited("NodePublishVolume", self.node.clone().node_publish_volume(call)).await.map(|_| ())
    }

    async fn unpublish(&self, handle: &str, target: &Path) -> Result<(), PluginError> {
        let call = csi::NodeUnpublishVolumeRequest { volume_id: handle.to_owned(), target_path: text(target) };
        limited("NodeUnpublishVolume", self.node.clone().node_unpublish_volume(call)).await.map(|_| ())
    }

    async fn unstage(&self, handle: &str, staging: &Path) -> Result<(), PluginError> {
        if !self.stages {
            return Ok(());
        }
        let call = csi::NodeUnstageVolumeRequest { volume_id: handle.to_owned(), staging_target_path: text(staging) };
        limited("NodeUnstageVolume", self.node.clone().node_unstage_volume(call)).await.map(|_| ())
    }
}

/// What the node tells the API of a driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DriverInfo {
    pub(crate) name: String,
    pub(crate) node_id: String,
    pub(crate) most_volumes: i64,
    pub(crate) topology: BTreeMap<String, String>,
}

/// A driver, and what the node tells of it.
type Driver = (Arc<dyn VolumePlugin>, DriverInfo);

/// Drivers by name.
#[derive(Debug)]
pub(crate) struct Drivers {
    folder: PathBuf,
    known: Mutex<BTreeMap<String, Driver>>,
    changed: tokio::sync::Notify,
}

/// How often the registration directory is looked at: drivers come and go rarely, and wait for an answer.
const SCAN_PERIOD: Duration = Duration::from_secs(2);

impl Drivers {
    pub(crate) fn new(root: &Path, volumes_dir: &Path, node_name: &str) -> Self {
        let local: Arc<dyn VolumePlugin> = Arc::new(LocalVolumes { folder: volumes_dir.to_owned() });
        let info = DriverInfo {
            name: LOCAL_DRIVER.into(),
            node_id: node_name.to_owned(),
            most_volumes: 0,
            topology: BTreeMap::new(),
        };
        Self {
            folder: root.join("plugins_registry"),
            known: Mutex::new([(LOCAL_DRIVER.to_owned(), (local, info))].into()),
            changed: tokio::sync::Notify::new(),
        }
    }

    pub(crate) fn get(&self, name: &str) -> Result<Arc<dyn VolumePlugin>, PluginError> {
        let known = self.known.lock().get(name).map(|(plugin, _)| plugin.clone());
        known.ok_or_else(|| PluginError::Unknown(name.to_owned()))
    }

    pub(crate) fn infos(&self) -> Vec<DriverInfo> {
        self.known.lock().values().map(|(_, info)| info.clone()).collect()
    }

    /// Waits until a driver came or went.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Follows the registration directory until the scope ends.
    pub(crate) fn run(self: &Arc<Self>, tasks: &Tasks) {
        let this = self.clone();
        tasks.spawn("plugins", OnError::Log, async move {
            std::fs::create_dir_all(&this.folder)?;
            let mut sockets: BTreeMap<PathBuf, String> = BTreeMap::new();
            loop {
                this.scan(&mut sockets).await;
                tokio::time::sleep(SCAN_PERIOD).await;
            }
            #[allow(unreachable_code, reason = "gives the block its error type")]
            Ok::<(), std::io::Error>(())
        });
    }

    async fn scan(&self, sockets: &mut BTreeMap<PathBuf, String>) {
        let entries = std::fs::read_dir(&self.folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let found: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|end| end == "sock")).collect();
        for path in &found {
            if sockets.contains_key(path) {
                continue;
            }
            match self.register(path).await {
                Ok(name) => {
                    tracing::info!(driver = %name, "driver registered");
                    sockets.insert(path.clone(), name);
                    self.changed.notify_one();
                }
                Err(error) => tracing::warn!(socket = %path.display(), %error, "driver not registered"),
            }
        }
        let gone: Vec<PathBuf> = sockets.keys().filter(|path| !found.contains(path)).cloned().collect();
        for path in gone {
            if let Some(name) = sockets.remove(&path) {
                self.known.lock().remove(&name);
                self.changed.notify_one();
            }
        }
    }

    async fn register(&self, socket: &Path) -> Result<String, PluginError> {
        let mut registration = RegistrationClient::new(timonel_cri::connect(&text(socket)).await?);
        let info = limited("GetInfo", registration.get_info(InfoRequest {})).await?;
        let outcome = self.connect(&info.r#type, &info.name, &info.endpoint).await;
        let status = RegistrationStatus {
            plugin_registered: outcome.is_ok(),
            error: outcome.as_ref().err().map(ToString::to_string).unwrap_or_default(),
        };
        limited("NotifyRegistrationStatus", registration.notify_registration_status(status)).await?;
        outcome.map(|()| info.name)
    }

    async fn connect(&self, kind: &str, name: &str, endpoint: &str) -> Result<(), PluginError> {
        if kind != "CSIPlugin" {
            return Err(PluginError::Unknown(format!("{name} ({kind})")));
        }
        let mut node = NodeClient::new(timonel_cri::connect(endpoint).await?);
        let info = limited("NodeGetInfo", node.node_get_info(csi::NodeGetInfoRequest {})).await?;
        let abilities =
            limited("NodeGetCapabilities", node.node_get_capabilities(csi::NodeGetCapabilitiesRequest {})).await?;
        use csi::node_service_capability as ability;
        let stages = abilities.capabilities.iter().any(|one| {
            matches!(&one.r#type, Some(ability::Type::Rpc(rpc)) if rpc.r#type() == ability::rpc::Type::StageUnstageVolume)
        });
        let shown = DriverInfo {
            name: name.to_owned(),
            node_id: info.node_id,
            most_volumes: info.max_volumes_per_node,
            topology: info.accessible_topology.unwrap_or_default().segments.into_iter().collect(),
        };
        let plugin: Arc<dyn VolumePlugin> = Arc::new(CsiDriver { node, stages });
        self.known.lock().insert(name.to_owned(), (plugin, shown));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn local_volumes_must_be_attached_and_stay_in_their_folder() {
        let world = tempfile::tempdir().expect("folder");
        std::fs::create_dir_all(world.path().join("volumes")).expect("made");
        std::fs::create_dir_all(world.path().join("secret")).expect("made");
        let plugin = LocalVolumes { folder: world.path().join("volumes") };
        for handle in ["vol-1", "../secret", "/etc", "", "."] {
            let request = Publish { handle: handle.into(), target: world.path().join("target"), ..Publish::default() };
            let error = plugin.publish(&request).await.expect_err(handle);
            assert!(matches!(error, PluginError::NotAttached(_)), "{error}");
        }
    }

    #[test]
    fn unknown_drivers_are_named() {
        let drivers = Drivers::new(Path::new("/r"), Path::new("/v"), "n");
        assert!(drivers.get(LOCAL_DRIVER).is_ok());
        assert!(drivers.get("ebs.csi.aws.com").expect_err("unknown").to_string().contains("ebs.csi.aws.com"));
        assert_eq!(drivers.infos()[0].node_id, "n");
    }
}
