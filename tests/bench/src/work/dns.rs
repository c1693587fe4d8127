//! Queries of the cluster's DNS over UDP, answered by a process of its own from a cluster with many services.

use super::{Bench, CONNECTIONS, IN_FLIGHT, NAMESPACE, prepare_namespace};
use crate::{
    client::Ask,
    drive::{all, drive},
    objects,
    ours::{context, free_port},
    peer::{Outcome, Peer, Side, until},
    process::Process,
    record::Figures,
};
use anyhow::Context;
use hickory_proto::{
    op::{Message, MessageType, OpCode, Query},
    rr::{Name, RecordType},
};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use std::{net::SocketAddr, path::Path, process::Command, time::Duration};
use timonel_dns::DnsConfig;
use timonel_runtime::Tasks;
use tokio::net::UdpSocket;

const SERVICES: usize = 1_000;
const QUERIES: usize = 200_000;
/// Clients, each with so many queries on their way.
const CLIENTS: usize = 4;
const BURST: usize = 32;
/// An answer that takes longer is lost.
const PATIENCE: Duration = Duration::from_secs(2);
const DOMAIN: &str = "cluster.local";

/// The process that is measured.
pub(crate) async fn serve(kubeconfig: &Path, context: &str, listen: SocketAddr) -> anyhow::Result<()> {
    let options = KubeConfigOptions { context: Some(context.to_owned()), ..KubeConfigOptions::default() };
    let config = Config::from_custom_kubeconfig(Kubeconfig::read_from(kubeconfig)?, &options).await?;
    let config_of_dns = DnsConfig { listen: vec![listen], domain: DOMAIN.to_owned(), upstream: Vec::new() };
    timonel_dns::run(Client::try_from(config)?, config_of_dns, &Tasks::root("dns")).await?;
    Ok(())
}

pub(super) async fn run(bench: &Bench, figures: &mut Figures) -> anyhow::Result<()> {
    let pair = bench.service()?;
    let fleet = pair.start().await?;
    fleet.ready().await?;
    let cluster = pair.create_cluster(&fleet, "dns").await?;
    let client = cluster.connect(CONNECTIONS).await?;
    prepare_namespace(&client, NAMESPACE).await?;
    let path = format!("/api/v1/namespaces/{NAMESPACE}/services");
    drive(SERVICES, IN_FLIGHT, async |number| {
        let service = objects::bytes(&objects::service(&format!("s{number}")));
        client.send(number, Ask::post(path.as_str(), service)).await.map(drop)
    })
    .await?;
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
    let mut command = Command::new(&bench.own);
    command.arg("dns").arg(pair.kubeconfig()).arg(context("dns")).arg(address.to_string());
    let server = Process::start(&mut command, &pair.data.with_extension("dns.log"))?;
    let dns = Peer::new(Side::Ours, cluster.target.clone(), vec![server]);
    until("the last service's name", || async {
        let asked = async { ask(&socket(address).await?, SERVICES - 1, 1).await };
        asked.await.map_err(Outcome::Again)
    })
    .await?;
    let before = dns.usage();
    let started = tokio::time::Instant::now();
    let clients = (0..CLIENTS).map(|client| async move {
        let socket = socket(address).await?;
        for burst in 0..QUERIES / CLIENTS / BURST {
            ask(&socket, client * 131 + burst, BURST).await?;
        }
        anyhow::Ok(())
    });
    all(clients).await?;
    let after = dns.usage();
    let wall = started.elapsed().as_secs_f64();
    figures.add(Side::Ours, "dns/queries", "/s per core", QUERIES as f64 / (after.cpu - before.cpu));
    figures.add(Side::Ours, "dns/queries", "/s", QUERIES as f64 / wall);
    figures.add(Side::Ours, "dns/queries", "MB", after.resident);
    Ok(())
}

async fn socket(address: SocketAddr) -> anyhow::Result<UdpSocket> {
    let socket = UdpSocket::bind("127.0.0.1:0").await?;
    socket.connect(address).await?;
    Ok(socket)
}

/// Sends a burst and waits for as many answers that name an address.
async fn ask(socket: &UdpSocket, turn: usize, burst: usize) -> anyhow::Result<()> {
    for number in 0..burst {
        socket.send(&query((turn + number) % SERVICES)?).await?;
    }
    let mut buffer = [0; 1232];
    for _ in 0..burst {
        let length = tokio::time::timeout(PATIENCE, socket.recv(&mut buffer)).await.context("no answer")??;
        // The number of answers is in the fourth pair of bytes: enough to know, and cheap.
        anyhow::ensure!(length > 12 && buffer[6..8] == [0, 1], "an answer without an address");
    }
    Ok(())
}

fn query(service: usize) -> anyhow::Result<Vec<u8>> {
    let mut message = Message::new(u16::try_from(service)?, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    let name = Name::from_ascii(format!("s{service}.{NAMESPACE}.svc.{DOMAIN}."))?;
    message.add_query(Query::query(name, RecordType::A));
    Ok(message.to_vec()?)
}
