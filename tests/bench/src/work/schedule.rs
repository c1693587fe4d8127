//! Pods from creation to a node, end to end: API server, store and scheduler (ours with every controller besides).

use super::{Bench, CONNECTIONS, IN_FLIGHT, NAMESPACE, lines, measured, prepare_namespace};
use crate::{
    client::{Ask, Client},
    drive::drive,
    objects,
    peer::Side,
    record::Figures,
};
use anyhow::Context;
use futures::future::try_join;
use std::time::Duration;
use tokio::time::Instant;

const PODS: usize = 5_000;
const PODS_IN_FLIGHT: usize = 32;
/// Longest wait for the last binding.
const BINDING: Duration = Duration::from_secs(180);
/// After the nodes are there: what looks at nodes has looked.
const NODES_SEEN: Duration = Duration::from_secs(2);

pub(super) async fn run(bench: &Bench, nodes: usize, name: &str, figures: &mut Figures) -> anyhow::Result<()> {
    let pair = bench.pair().await?;
    let mut peers = vec![pair.service.create_cluster(pair.ours(), "bench").await?];
    if let (Some(upstream), Some(peer)) = (&pair.upstream, pair.peers.get(1)) {
        upstream.start_scheduler(peer)?;
        peers.push(peer.clone());
    }
    for peer in &peers {
        let client = peer.connect(CONNECTIONS).await?;
        prepare_namespace(&client, NAMESPACE).await?;
        make_nodes(&client, nodes).await?;
        tokio::time::sleep(NODES_SEEN).await;
        let path = format!("/api/v1/namespaces/{NAMESPACE}/pods");
        let started = Instant::now();
        let work = try_join(
            drive(PODS, PODS_IN_FLIGHT, async |number| {
                let pod = objects::pod(&format!("s{number}"), 0);
                client.send(number, Ask::post(path.as_str(), pod)).await.map(drop)
            }),
            bound(&client, &path),
        );
        let ((_, wall), usage) = measured(peer, async { work.await.map(|(run, ())| (run, started.elapsed())) }).await?;
        figures.add(peer.side, name, "us CPU", usage.cpu / PODS as f64 * 1e6);
        figures.add(peer.side, name, "/s", PODS as f64 / wall.as_secs_f64());
        figures.add(peer.side, name, "MB", usage.resident);
        if peer.side == Side::Upstream {
            peer.end_last();
        }
    }
    Ok(())
}

/// Waits until every pod has a node.
async fn bound(client: &Client, path: &str) -> anyhow::Result<()> {
    let ask = Ask::get(format!("{path}?watch=1&fieldSelector=spec.nodeName!%3D&resourceVersion=0&timeoutSeconds=1800"));
    let answer = client.open(0, ask).await?;
    let mut left = PODS;
    let work = lines(answer.into_body(), |line| {
        left -= usize::from(line.starts_with(br#"{"type":"ADDED"#));
        left > 0
    });
    let done = tokio::time::timeout(BINDING, work).await;
    done.with_context(|| format!("{left} pods have no node after {} s", BINDING.as_secs()))?
}

async fn make_nodes(client: &Client, count: usize) -> anyhow::Result<()> {
    drive(count, IN_FLIGHT / 2, async |number| {
        client.send(number, Ask::post("/api/v1/nodes", objects::node(number))).await?;
        let path = format!("/api/v1/nodes/{}", objects::node_name(number));
        client.send(number, Ask::merge(format!("{path}/status"), objects::node_status())).await?;
        // Admission taints a new node not-ready; not every side has a controller that takes the taint away.
        client.send(number, Ask::merge(path, r#"{"spec":{"taints":null}}"#)).await.map(drop)
    })
    .await
    .map(drop)
}
