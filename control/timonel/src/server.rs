//! `timonel server`: opens the store and the cloud, starts the service, and stops in order.

use crate::{
    cli::{CloudChoice, ServerArgs},
    config::Settings,
    doctor,
    local::{self, Local},
    storage::{Opener, StoreChoice, open_apart},
};
use anyhow::{Context, bail};
use std::{fs, net::SocketAddr, os::unix::fs::PermissionsExt, path::Path, sync::Arc, time::Duration};
use timonel_encryption::Encryption;
use timonel_runtime::{Clock, Entropy, Tasks};
use timonel_service::{CloudTie, IdentityVerifier, LeaderTimes, Service, ServiceConfig};
use timonel_store::{Store, StoreError};
use tokio::signal::unix::{SignalKind, signal};

/// Time for what outlives the service itself to stop.
const DRAIN: Duration = Duration::from_secs(5);
/// Only the owner may look into the data directory.
const OWNER_ONLY: u32 = 0o700;
/// Longest wait for a store that another process holds, and the time between two tries.
const STORE_PATIENCE: Duration = Duration::from_secs(15);
const STORE_LOOK: Duration = Duration::from_millis(200);
/// The fleet's own audit log, in the data directory.
const AUDIT_LOG: &str = "audit/fleet.log";
/// File that says which process serves a data directory.
pub(crate) const PID_FILE: &str = "server.pid";

/// Runs until SIGTERM or SIGINT.
pub(crate) async fn run(args: &ServerArgs) -> anyhow::Result<()> {
    let settings = Settings::load(args)?;
    make_data(&settings.data)?;
    raise_descriptors();
    // A third of a start is reading the tables of kinds: meanwhile the disk makes or reads the store.
    let reading_tables = tokio::task::spawn_blocking(timonel_api::Scheme::kubernetes);
    let tasks = Tasks::root("timonel");
    let clock = Clock::system();
    let store = open_when_free(&settings, &tasks).await?;
    let apart = open_apart(&settings.overrides, &settings.data, &tasks).await?;
    let encryption = match &settings.encryption {
        Some(path) => Some(Encryption::open(path, Entropy::system(), &tasks).await?),
        None => None,
    };
    let election = matches!(settings.store, StoreChoice::Etcd(_)).then(LeaderTimes::default);
    fs::write(settings.data.join(PID_FILE), std::process::id().to_string()).context("pid file")?;
    let cloud = open_cloud(&settings, &clock, &tasks).await?;
    let mut listen = settings.listen.clone();
    let mut node_endpoint = String::new();
    if let Some(cloud) = &cloud {
        let port = listen.first().map_or(0, SocketAddr::port);
        let inside = SocketAddr::from((cloud.host_address(), port));
        if !listen.iter().any(|address| address.ip().is_unspecified() && address.port() == port) {
            listen.push(inside);
        }
        node_endpoint = inside.to_string();
    }
    let audit_log = settings.data.join(AUDIT_LOG);
    drop(reading_tables.await.context("tables of kinds")?);
    let service = Service::start(
        ServiceConfig {
            store,
            apart,
            election,
            encryption,
            opener: Some(Arc::new(Opener {
                own: settings.store.clone(),
                data: settings.data.clone(),
                tasks: tasks.clone(),
            })),
            fleet_access: settings.access.load(&audit_log)?,
            data: settings.data.clone(),
            public_endpoint: public_endpoint(&settings, &listen),
            listen,
            cluster_ports: settings
                .cluster_ports
                .map_or(ServiceConfig::CLUSTER_PORTS, |ports| ports.first..=ports.last),
            direct_nodes: settings.direct_nodes.clone(),
            local_destinations: settings.local_destinations.clone(),
            node_endpoint,
            peer_endpoint: settings.peer_endpoint.clone().unwrap_or_default(),
            clock,
            entropy: Entropy::system(),
            verifier: cloud.clone().map(|cloud| cloud as Arc<dyn IdentityVerifier>),
            cloud: cloud.clone().map(|cloud| cloud as Arc<dyn CloudTie>),
        },
        &tasks,
    )
    .await?;
    let service = Arc::new(service);
    settings.access.clone().follow(audit_log, service.clone(), &tasks);
    if let Some(cloud) = &cloud {
        let (cloud, fleet) = (cloud.clone(), service.fleet_client("cloud-controller-manager"));
        // Two control machines that order machines for one fleet would order twice.
        service.while_leading(move |scope| cloud.run_machines(fleet.clone(), scope));
    }
    for address in service.addresses() {
        tracing::info!(%address, data = %settings.data.display(), "serving");
    }
    until_told_to_stop().await?;
    tracing::info!("stopping");
    service.stop().await;
    tasks.shutdown(DRAIN).await;
    // Another start may have written its own already.
    let _ = fs::remove_file(settings.data.join(PID_FILE));
    Ok(())
}

/// `host:port` of what is advertised; empty when nothing is.
fn public_endpoint(settings: &Settings, listen: &[SocketAddr]) -> String {
    let port = listen.first().map_or(0, SocketAddr::port);
    let host = settings.advertise.as_deref().unwrap_or_default();
    match host.parse::<std::net::IpAddr>() {
        _ if host.is_empty() => String::new(),
        Ok(address) => SocketAddr::new(address, port).to_string(),
        Err(_) => format!("{host}:{port}"),
    }
}

/// As many descriptors as this process may have: every connection is one.
fn raise_descriptors() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the number of open files stays limited");
    }
}

fn make_data(data: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(data).with_context(|| format!("making {}", data.display()))?;
    fs::set_permissions(data, fs::Permissions::from_mode(OWNER_ONLY))
        .with_context(|| format!("{} must belong to the user that runs the server", data.display()))
}

/// A predecessor that was killed a moment ago may still hold the store.
async fn open_when_free(settings: &Settings, tasks: &Tasks) -> anyhow::Result<Arc<dyn Store>> {
    let end = tokio::time::Instant::now() + STORE_PATIENCE;
    loop {
        match settings.store.open(&settings.data, tasks).await {
            Err(error)
                if matches!(error.downcast_ref(), Some(StoreError::Unavailable(_)))
                    && tokio::time::Instant::now() < end =>
            {
                tokio::time::sleep(STORE_LOOK).await;
            }
            opened => return opened,
        }
    }
}

/// The cloud that was asked for; without a wish the local one where this machine can.
async fn open_cloud(settings: &Settings, clock: &Clock, tasks: &Tasks) -> anyhow::Result<Option<Arc<Local>>> {
    // Looking takes three processes, so nobody looks for what is not wanted.
    if settings.cloud == Some(CloudChoice::None) {
        return Ok(None);
    }
    let missing: Vec<_> = doctor::findings().into_iter().filter(|finding| !finding.found).collect();
    let names: Vec<_> = missing.iter().map(|finding| finding.need.as_str()).collect();
    match settings.cloud {
        Some(CloudChoice::Local) if !missing.is_empty() => {
            bail!("the local cloud lacks {}; `timonel doctor` says what to do", names.join(", "))
        }
        None if !missing.is_empty() => {
            tracing::warn!(lacking = names.join(", "), "no local cloud: control planes only");
            return Ok(None);
        }
        _ => {}
    }
    Local::open(local::config(settings)?, clock.clone(), tasks).await.map(Some)
}

async fn until_told_to_stop() -> anyhow::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
