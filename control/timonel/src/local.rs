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
    time::Duration,
};
use timonel_cloud_controller::{CloudControllerConfig, FleetConfig};
use timonel_cloud_core::{Cloud, CloudError, InstanceState};
use timonel_cloud_local::{LocalCloud, LocalConfig, verify_identity};
use timonel_runtime::{Clock, Entropy, Tasks};
use timonel_service::{CloudTie, HostedCluster, IdentityVerifier, InstanceIdentity};

/// Name of the local cloud where none is given.
const DEFAULT_NAME: &str = "local";
/// The cloud's name in provider IDs and classes.
const PROVIDER: &str = "local";
/// Tag of the machines of this service.
const FLEET: &str = "fleet";
/// Between two looks at the machines while nothing happens.
const MACHINES_PERIOD: Duration = Duration::from_secs(2);
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
        "--shared-disk".into(),
    ];
    Ok(LocalConfig { machine_command: command.into(), ..placed(settings)? })
}

/// Where the local cloud of these settings is, which is all that it takes to be taken down. What is not set is as it
/// was when it came up.
pub(crate) fn placed(settings: &Settings) -> anyhow::Result<LocalConfig> {
    let folder = settings.data.join(FOLDER);
    let place = LocalCloud::place(&folder).context("the local cloud's record")?;
    let place = place.unwrap_or_else(|| LocalConfig::new(DEFAULT_NAME, &folder, Vec::new()).place());
    Ok(LocalConfig {
        public_range: settings.local_public.unwrap_or(place.public_range),
        machine_range: settings.local_machines.unwrap_or(place.machine_range),
        ..LocalConfig::new(settings.local_name.as_deref().unwrap_or(&place.name), folder, Vec::new())
    })
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
        let cloud =
            LocalCloud::open(config, clock.clone(), Entropy::system(), tasks).await.context("the local cloud")?;
        Ok(Arc::new(Self { cloud: Arc::new(cloud), clock }))
    }

    /// The host's address inside the cloud: there nodes reach the service.
    pub(crate) fn host_address(&self) -> std::net::Ipv4Addr {
        self.cloud.host_address()
    }

    /// Carries out the fleet's Machines.
    pub(crate) fn run_machines(&self, fleet: kube::Client, tasks: &Tasks) {
        let config = FleetConfig { fleet: FLEET.to_owned(), period: MACHINES_PERIOD };
        timonel_cloud_controller::run_machines(fleet, self.cloud.clone(), config, self.clock.clone(), tasks);
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
        let config = CloudControllerConfig::new(&cluster.uid, PROVIDER);
        timonel_cloud_controller::run(cluster.client, self.cloud.clone(), config, self.clock.clone(), &cluster.tasks);
    }

    async fn release(&self, cluster_uid: &str) -> Result<bool, String> {
        release(self.cloud.as_ref(), cluster_uid).await.map_err(|error| error.to_string())
    }
}

/// Asks the cloud to remove load balancers, routes and volumes of a cluster whose machines are gone; whether nothing
/// is left of it.
async fn release(cloud: &dyn Cloud, cluster: &str) -> Result<bool, CloudError> {
    for balancer in cloud.balancers(cluster).await? {
        cloud.delete_balancer(&balancer.spec.owner).await?;
    }
    for route in cloud.routes(cluster).await? {
        cloud.delete_route(cluster, &route).await?;
    }
    for volume in cloud.volumes(cluster).await? {
        if let Some(attachment) = &volume.attachment {
            cloud.detach_volume(&volume.id, &attachment.instance).await?;
        }
        cloud.delete_volume(&volume.id).await?;
    }
    let left = cloud.balancers(cluster).await?.len() + cloud.volumes(cluster).await?.len();
    let instances = cloud.observe(cluster).await?;
    // The cloud goes on listing an instance that is gone for a while.
    Ok(left == 0 && instances.iter().all(|instance| instance.state == InstanceState::Gone))
}
