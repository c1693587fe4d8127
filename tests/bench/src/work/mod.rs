//! The workloads, and what they share.

mod api;
mod core;
mod crash;
mod dns;
mod idle;
mod isolation;
mod node;
mod proxy;
mod scale;
mod schedule;
mod start;
mod watch;

pub(crate) use dns::serve as dns_server;
pub(crate) use isolation::flood;

use crate::{
    client::{Ask, Client},
    objects,
    ours::Service,
    peer::{Peer, Side},
    process::Usage,
    record::Figures,
    upstream::Upstream,
};
use std::{
    cell::Cell,
    path::PathBuf,
    time::{Duration, Instant},
};

/// What a server does right after the last answer belongs to the work too.
const SETTLE: Duration = Duration::from_millis(200);
/// The namespace of the workloads.
pub(crate) const NAMESPACE: &str = "bench";
/// Requests in flight.
pub(crate) const IN_FLIGHT: usize = 64;
/// Connections that carry them.
pub(crate) const CONNECTIONS: usize = 4;

/// One thing to measure; its figures have its name or begin with it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    /// Takes seconds, needs nothing special.
    pub(crate) quick: bool,
}

const fn quick(name: &'static str) -> Workload {
    Workload { name, quick: true }
}

const fn slow(name: &'static str) -> Workload {
    Workload { name, quick: false }
}

/// Everything, in the order in which it runs.
pub(crate) const WORKLOADS: [Workload; 16] = [
    quick("start"),
    quick("api"),
    quick("schedule/core"),
    slow("schedule/1000-nodes"),
    slow("schedule/5000-nodes"),
    slow("isolation"),
    slow("idle/cluster"),
    slow("idle/200-clusters"),
    slow("crash/serving-again"),
    slow("watch/idle-100k"),
    slow("scale/objects"),
    slow("scale/watchers"),
    slow("custom/100k"),
    slow("node/pods"),
    slow("dns/queries"),
    slow("proxy/change"),
];

/// Where and with what the workloads run.
#[derive(Debug)]
pub(crate) struct Bench {
    timonel: PathBuf,
    upstream: Option<PathBuf>,
    scratch: PathBuf,
    /// This program, for parts that run as processes of their own.
    own: PathBuf,
    started: Instant,
    folders: Cell<u32>,
}

/// Servers of one workload; they end with it.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) peers: Vec<Peer>,
    pub(crate) service: Service,
    pub(crate) upstream: Option<Upstream>,
}

impl Pair {
    pub(crate) fn ours(&self) -> &Peer {
        &self.peers[0]
    }
}

impl Bench {
    pub(crate) fn new(timonel: PathBuf, upstream: Option<PathBuf>, scratch: PathBuf, own: PathBuf) -> Self {
        Self { timonel, upstream, scratch, own, started: Instant::now(), folders: Cell::new(0) }
    }

    /// Runs one workload once.
    pub(crate) async fn run(&self, workload: &Workload, round: u16, figures: &mut Figures) -> anyhow::Result<()> {
        match workload.name {
            "start" => start::run(self, figures).await,
            "api" => api::run(self, figures).await,
            "schedule/core" => core::run(figures),
            "schedule/1000-nodes" => schedule::run(self, 1_000, workload.name, figures).await,
            "schedule/5000-nodes" => schedule::run(self, 5_000, workload.name, figures).await,
            "isolation" => isolation::run(self, figures).await,
            "idle/cluster" => idle::run(self, 50, figures).await,
            "idle/200-clusters" => idle::run(self, 200, figures).await,
            "crash/serving-again" => crash::run(self, figures).await,
            "watch/idle-100k" => watch::idle(self, figures).await,
            "scale/objects" => scale::objects(self, figures).await,
            "scale/watchers" => scale::watchers(self, figures).await,
            "custom/100k" => scale::custom(self, figures).await,
            "node/pods" => Box::pin(node::run(figures)).await,
            "dns/queries" => dns::run(self, figures).await,
            "proxy/change" => proxy::run(round, figures).await,
            other => anyhow::bail!("no workload {other:?}"),
        }
    }

    fn folder(&self, name: &str) -> PathBuf {
        self.folders.set(self.folders.get() + 1);
        self.scratch.join(format!("{name}-{}", self.folders.get()))
    }

    /// A data directory of ours.
    fn service(&self) -> anyhow::Result<Service> {
        Service::prepare(&self.timonel, self.folder("ours"))
    }

    fn upstream(&self) -> anyhow::Result<Option<Upstream>> {
        let programs = self.upstream.as_deref();
        programs.map(|programs| Upstream::prepare(programs, self.folder("upstream"))).transpose()
    }

    /// Our service, and upstream's control plane where it was asked for; both answer.
    async fn pair(&self) -> anyhow::Result<Pair> {
        let service = self.service()?;
        let mut peers = vec![service.start().await?];
        let upstream = self.upstream()?;
        if let Some(upstream) = &upstream {
            peers.push(upstream.start()?);
        }
        for peer in &peers {
            peer.ready().await?;
        }
        Ok(Pair { peers, service, upstream })
    }

    /// Microseconds since this program began: what senders write and receivers subtract.
    fn clock(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

/// Makes the namespace and its account, which a controller would make.
async fn prepare_namespace(client: &Client, name: &str) -> anyhow::Result<()> {
    client.send(0, Ask::post("/api/v1/namespaces", objects::namespace(name))).await?;
    let path = format!("/api/v1/namespaces/{name}/serviceaccounts");
    // In a whole cluster the controller is faster than we are, or not.
    let _ = client.send(0, Ask::post(path, objects::service_account())).await;
    Ok(())
}

/// Runs `work` and tells what the peer's processes used for it.
async fn measured<T>(peer: &Peer, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<(T, Usage)> {
    let before = peer.usage();
    let done = work.await?;
    tokio::time::sleep(SETTLE).await;
    let after = peer.usage();
    Ok((done, Usage { cpu: after.cpu - before.cpu, resident: after.resident }))
}

/// Reads lines of a watch as they come until `seen` says that it was enough.
async fn lines(mut body: hyper::body::Incoming, mut seen: impl FnMut(&[u8]) -> bool) -> anyhow::Result<()> {
    use http_body_util::BodyExt;
    let mut rest: Vec<u8> = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame?;
        let Some(mut data) = frame.data_ref().map(|data| &data[..]) else { continue };
        // A search byte by byte took a quarter of the client's time, which it shares the machine's with the server.
        while let Some(end) = memchr::memchr(b'\n', data) {
            let (line, after) = data.split_at(end + 1);
            data = after;
            let go_on = if rest.is_empty() {
                seen(line)
            } else {
                rest.extend_from_slice(line);
                let go_on = seen(&rest);
                rest.clear();
                go_on
            };
            if !go_on {
                return Ok(());
            }
        }
        rest.extend_from_slice(data);
    }
    anyhow::bail!("the watch ended early")
}

/// Adds a run's figures: CPU each, rate and latency.
fn add_run(figures: &mut Figures, side: Side, workload: &str, (run, usage): &(crate::drive::Run, Usage)) {
    figures.add(side, workload, "us CPU", usage.cpu / run.operations as f64 * 1e6);
    figures.add(side, workload, "/s", run.per_second());
    figures.add(side, workload, "ms p50", run.quantile(0.5));
    figures.add(side, workload, "ms p99", run.quantile(0.99));
}
