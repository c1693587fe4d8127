//! Ties the service to the built-in local cloud: its machines, the cloud-controller of each cluster, identities.

use crate::{
    config::Settings,
    doctor::{self, CNI_BIN},
};
use anyhow::Context;
use async_trait::async_trait;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};
use timonel_cloud_controller::{CloudControllerConfig, MachinesConfig};
use timonel_cloud_local::{LocalCloud, LocalConfig, verify_identity};
use timonel_runtime::{Clock, Entropy, OnError, Tasks};
use timonel_service::{CloudTie, HostedCluster, IdentityVerifier, InstanceIdentity};

/// Name of the local cloud where none is given.
const DEFAULT_NAME: &str = "local";
/// Folder of the local cloud below the data directory.
const FOLDER: &str = "local";
/// Folder of OCI archives that every node imports.
pub(crate) const IMAGES: &str = "images";

/// Configuration of the local cloud for these settings.
pub(crate) fn config(settings: &Settings) -> anyhow::Result<LocalConfig> {
    let agent = agent()?;
    let images = settings.data.join(IMAGES);
    let containerd = doctor::program_path("containerd").context("containerd is not installed")?;
    let command = [
        agent.display().to_string(),
        "supervise".into(),
        "--machine-dir".into(),
        "{dir}".into(),
        "--images".into(),
        images.display().to_string(),
        "--containerd".into(),
        containerd.display().to_string(),
        "--cni-bin".into(),
        CNI_BIN.into(),
    ];
    let name = settings.local_name.as_deref().unwrap_or(DEFAULT_NAME);
    let mut config = LocalConfig::new(name, settings.data.join(FOLDER), command.into());
    if let Some(range) = settings.local_public {
        config.public_range = range;
    }
    if let Some(range) = settings.local_machines {
        config.machine_range = range;
    }
    Ok(config)
}

/// The node's program, beside this one.
fn agent() -> anyhow::Result<PathBuf> {
    let agent = std::env::current_exe().context("finding this program")?.with_file_name("timonel-node");
    anyhow::ensure!(agent.is_file(), "{} is missing: install it beside this program", agent.display());
    Ok(agent)
}

/// Where the log of an instance's serial console is.
pub(crate) fn console(data: &Path, instance: &str) -> PathBuf {
    data.join(FOLDER).join("machines").join(instance).join("logs/console.log")
}

/// The local cloud, opened.
#[derive(Debug)]
pub(crate) struct Local {
    cloud: Arc<LocalCloud>,
    clock: Clock,
}

impl Local {
    /// Opens the cloud; its own work and the machines' order run in `tasks`.
    pub(crate) async fn open(config: LocalConfig, clock: Clock, tasks: &Tasks) -> anyhow::Result<Arc<Self>> {
        let cloud = LocalCloud::open(config, clock.clone(), Entropy::system(), tasks).await.context("the local cloud")?;
        Ok(Arc::new(Self { cloud: Arc::new(cloud), clock }))
    }

    /// The host's address inside the cloud: there nodes reach the service.
    pub(crate) fn host_address(&self) -> std::net::Ipv4Addr {
        self.cloud.host_address()
    }

    /// Carries out the fleet's Machines.
    pub(crate) fn run_machines(&self, fleet: kube::Client, tasks: &Tasks) {
        let config = MachinesConfig::new(self.clock.clone());
        let (cloud, scope) = (self.cloud.clone(), tasks.child("machines"));
        tasks.spawn("machines", OnError::Log, async move {
            timonel_cloud_controller::run_machines(fleet, cloud, config, &scope).await
        });
    }
}

impl IdentityVerifier for Local {
    fn verify(&self, document: &str, signature: &str) -> Result<InstanceIdentity, String> {
        let verified = verify_identity(document, signature, &self.cloud.identity_public_key());
        let document = verified.map_err(|error| error.to_string())?;
        Ok(InstanceIdentity { instance_id: document.instance_id })
    }
}

#[async_trait]
impl CloudTie for Local {
    async fn attach(&self, cluster: HostedCluster) {
        let config = CloudControllerConfig::new(&cluster.uid, self.clock.clone());
        let (cloud, scope) = (self.cloud.clone(), cluster.tasks.clone());
        cluster.tasks.spawn("cloud-controller", OnError::Log, async move {
            timonel_cloud_controller::run(cluster.client, cloud, config, &scope).await
        });
    }

    async fn release(&self, cluster_uid: &str) -> Result<bool, String> {
        timonel_cloud_controller::release(self.cloud.as_ref(), cluster_uid).await.map_err(|error| error.to_string())
    }
}
