//! Watches that see nothing: what one more costs.

use super::{Bench, NAMESPACE, prepare_namespace};
use crate::{client::Ask, drive::all, peer::Side, record::Figures};
use std::time::Duration;

/// Streams of one connection: below every server's usual bound.
const PER_CONNECTION: usize = 100;
const CONNECTIONS: usize = 1_000;
/// Connections that are opened at a time.
const AT_A_TIME: usize = 20;
/// After the last watch: what starts once has started.
const CALM: Duration = Duration::from_secs(5);

pub(super) async fn idle(bench: &Bench, figures: &mut Figures) -> anyhow::Result<()> {
    let service = bench.service()?;
    let peer = service.start().await?;
    peer.ready().await?;
    let client = peer.connect(1).await?;
    prepare_namespace(&client, NAMESPACE).await?;
    let before = peer.usage();
    let mut open = Vec::new();
    for _ in 0..CONNECTIONS / AT_A_TIME {
        let client = peer.connect(AT_A_TIME).await?;
        let watches = (0..AT_A_TIME * PER_CONNECTION).map(|number| {
            let path = format!("/api/v1/namespaces/{NAMESPACE}/configmaps?watch=1&timeoutSeconds=3600");
            client.open(number, Ask::get(path))
        });
        open.push((all(watches).await?, client.clone()));
    }
    tokio::time::sleep(CALM).await;
    let after = peer.usage();
    let count = (CONNECTIONS * PER_CONNECTION) as f64;
    figures.add(Side::Ours, "watch/idle-100k", "MB", after.resident - before.resident);
    figures.add(Side::Ours, "watch/idle-100k", "us CPU", (after.cpu - before.cpu) / count * 1e6);
    drop(open);
    Ok(())
}
