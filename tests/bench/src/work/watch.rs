//! Watches that see nothing: what one more costs.

use super::{Bench, NAMESPACE, prepare_namespace};
use crate::{client::Ask, drive::all, peer::Side, record::Figures};
use std::time::Duration;

/// One cluster may have 20,000 watches: they are spread.
const CLUSTERS: usize = 10;
/// Streams of one connection: below every server's usual bound.
const PER_CONNECTION: usize = 100;
/// Connections to each cluster.
const CONNECTIONS: usize = 100;
/// Connections that are opened at a time.
const AT_A_TIME: usize = 20;
/// After the last watch: what starts once has started.
const CALM: Duration = Duration::from_secs(5);

pub(super) async fn idle(bench: &Bench, figures: &mut Figures) -> anyhow::Result<()> {
    let service = bench.service()?;
    let peer = service.start().await?;
    peer.ready().await?;
    let mut clusters = Vec::new();
    for number in 0..CLUSTERS {
        let cluster = service.create_cluster(&peer, &format!("watched-{number}")).await?;
        prepare_namespace(&cluster.connect(1).await?, NAMESPACE).await?;
        clusters.push(cluster);
    }
    tokio::time::sleep(CALM).await;
    let before = peer.usage();
    let mut open = Vec::new();
    for cluster in &clusters {
        for _ in 0..CONNECTIONS / AT_A_TIME {
            let client = cluster.connect(AT_A_TIME).await?;
            let watches = (0..AT_A_TIME * PER_CONNECTION).map(|number| {
                let path = format!("/api/v1/namespaces/{NAMESPACE}/configmaps?watch=1&timeoutSeconds=3600");
                let client = &client;
                async move {
                    let answer = client.open(number, Ask::get(path)).await?;
                    anyhow::ensure!(answer.status().is_success(), "a watch was refused: {}", answer.status());
                    Ok(answer)
                }
            });
            open.push((all(watches).await?, client.clone()));
        }
    }
    tokio::time::sleep(CALM).await;
    let after = peer.usage();
    let count = (CLUSTERS * CONNECTIONS * PER_CONNECTION) as f64;
    figures.add(Side::Ours, "watch/idle-100k", "MB", after.resident - before.resident);
    figures.add(Side::Ours, "watch/idle-100k", "us CPU", (after.cpu - before.cpu) / count * 1e6);
    drop(open);
    Ok(())
}
