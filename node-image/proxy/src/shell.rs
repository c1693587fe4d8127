//! Watches Services and EndpointSlices and keeps the kernel's table as `Table` says. Decides nothing.

use crate::{
    affinity, conntrack,
    health::HealthServers,
    nft,
    table::{Changes, Table},
    view::{Endpoint, NodeView, ServiceView},
    watched::Watched,
};
use ipnet::Ipv4Net;
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::Client;
use std::{
    collections::BTreeMap,
    net::{SocketAddr, SocketAddrV4},
    process::Stdio,
    sync::Arc,
    time::Duration,
};
use timonel_runtime::{OnError, Tasks, reflect};
use tokio::{io::AsyncWriteExt, process::Command, sync::Notify, time::Instant};

/// Changes that arrive together are applied together: shortest time between two transactions.
const SHORTEST_PERIOD: Duration = Duration::from_millis(20);
/// After a refused transaction the whole table is written again, this much later.
const RETRY: Duration = Duration::from_secs(1);
/// Longest time for the kernel to take a transaction.
const APPLY_TIMEOUT: Duration = Duration::from_secs(60);
/// Port on which upstream's proxy tells its health, which load balancers with policy `Cluster` ask.
const HEALTHZ_PORT: u16 = 10256;

/// The Service of the API server.
const API_SERVICE: &str = "default/kubernetes";

/// Services by `namespace/name`.
type Views = BTreeMap<String, Option<ServiceView>>;

/// How the proxy of a node is set up.
#[derive(Clone, Debug)]
pub struct ProxyConfig {
    /// The node.
    pub node: NodeView,
    /// Ranges of the cluster's pods: clients from there count as inside.
    pub pods: Vec<Ipv4Net>,
    /// Destinations that pods reach with their own address; empty never masquerades their traffic.
    pub direct: Vec<Ipv4Net>,
    /// Where this node reaches the API server; takes the place of the endpoints of `default/kubernetes`.
    pub api_server: Option<SocketAddrV4>,
    /// Services (`namespace/name`) that the node answers for itself, on its own addresses: no rule is made.
    pub own_services: Vec<String>,
    /// Whether to answer on port 10256 as upstream's proxy does.
    pub serve_healthz: bool,
}

/// What stops the proxy or makes it try again.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// `nft` could not be run.
    #[error("running nft")]
    Run(#[source] std::io::Error),
    /// `nft` refused a transaction.
    #[error("nft refused the rules: {0}")]
    Refused(String),
    /// `nft` took too long.
    #[error("nft did not finish within {} s", APPLY_TIMEOUT.as_secs())]
    Slow,
    /// A port could not be listened on.
    #[error("listening on {address}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Runs the proxy until `tasks` ends. The rules stay when it stops: traffic goes on while the node's agent restarts.
///
/// # Errors
/// When the health port cannot be had.
pub async fn run(client: Client, config: ProxyConfig, tasks: &Tasks) -> Result<(), ProxyError> {
    let changed = Arc::new(Notify::new());
    let services = reflect::<Service>(&client, tasks, &changed);
    let slices = reflect::<EndpointSlice>(&client, tasks, &changed);
    if services.wait_until_ready().await.is_err() || slices.wait_until_ready().await.is_err() {
        return Ok(()); // the scope ended first
    }
    if config.serve_healthz {
        let (alive, receive) = tokio::sync::watch::channel(1);
        crate::health::listen(HEALTHZ_PORT, receive, tasks).await?;
        tasks.spawn("healthz", OnError::Log, async move {
            alive.closed().await;
            Ok::<_, ProxyError>(())
        });
    }
    let mut health = HealthServers::new(tasks);
    let (mut watched, mut table) = (Watched::new(config.node.clone()), Table::new(config.node.clone()));
    let mut in_force = false;
    loop {
        let started = Instant::now();
        let changes = table.change(ours(watched.take(&services.state(), &slices.state()), &config));
        health.set(&table.health()).await;
        let script = match in_force {
            true => nft::render_changes(&changes),
            false => nft::render_full(&table, &config.pods, &config.direct),
        };
        let period = match feed(&script).await {
            Ok(()) => {
                forget(in_force, &changes).await;
                in_force = true;
                SHORTEST_PERIOD
            }
            Err(error) => {
                tracing::error!(%error, "service rules not applied; writing the whole table again");
                in_force = false;
                changed.notify_one();
                RETRY
            }
        };
        tokio::time::sleep_until(started + period).await;
        changed.notified().await;
    }
}

/// What of the services is this proxy's to serve, and where the API server is for this node.
fn ours(mut views: Views, config: &ProxyConfig) -> Views {
    for name in &config.own_services {
        if let Some(view) = views.get_mut(name) {
            *view = None;
        }
    }
    if let Some(address) = config.api_server {
        let api = views.get_mut(API_SERVICE).and_then(Option::as_mut);
        for port in api.into_iter().flat_map(|view| &mut view.ports) {
            port.endpoints = vec![Endpoint { address, local: false, ready: true }];
        }
    }
    views
}

/// Makes clients of backends that are gone choose anew. Rules that were just written whole say nothing of who is gone.
async fn forget(in_force: bool, changes: &Changes) {
    if in_force {
        forget_clients(changes).await;
        conntrack::forget(&changes.stale).await;
    }
}

/// Clients that stick to a backend which is gone choose anew. A failure costs them their own time-out.
async fn forget_clients(changes: &Changes) {
    if changes.gone.is_empty() {
        return;
    }
    let mut list = Command::new("nft");
    list.args(["-j", "list", "map"]).args(nft::TABLE.split(' ')).arg("clients").kill_on_drop(true);
    let listed = match tokio::time::timeout(APPLY_TIMEOUT, list.output()).await {
        Ok(Ok(output)) => output.stdout,
        Ok(Err(error)) => return tracing::debug!(%error, "clients cannot be listed"),
        Err(_) => return tracing::debug!("clients cannot be listed in time"),
    };
    let script = affinity::forget(&changes.gone, &listed);
    if !script.is_empty()
        && let Err(error) = feed(&script).await
    {
        tracing::debug!(%error, "clients not forgotten");
    }
}

async fn feed(script: &str) -> Result<(), ProxyError> {
    if script.is_empty() {
        return Ok(());
    }
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(ProxyError::Run)?;
    let mut stdin = child.stdin.take().expect("piped above");
    let work = async {
        stdin.write_all(script.as_bytes()).await?;
        drop(stdin);
        child.wait_with_output().await
    };
    let output =
        tokio::time::timeout(APPLY_TIMEOUT, work).await.map_err(|_| ProxyError::Slow)?.map_err(ProxyError::Run)?;
    if output.status.success() {
        return Ok(());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    Err(ProxyError::Refused(complaint.lines().take(3).collect::<Vec<_>>().join("; ")))
}
