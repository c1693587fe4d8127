//! What clusters cost that nobody uses.

use super::Bench;
use crate::{peer::Side, record::Figures};
use std::time::Duration;

/// After the last creation: what starts once has started.
const CALM: Duration = Duration::from_secs(15);
/// How long idleness is watched.
const WATCHED: Duration = Duration::from_secs(30);

pub(super) async fn run(bench: &Bench, clusters: usize, figures: &mut Figures) -> anyhow::Result<()> {
    let service = bench.service()?;
    let fleet = service.start().await?;
    fleet.ready().await?;
    tokio::time::sleep(CALM / 5).await;
    let empty = fleet.usage();
    for number in 0..clusters {
        service.create_cluster(&fleet, &format!("idle-{number}")).await?;
    }
    tokio::time::sleep(CALM).await;
    let before = fleet.usage();
    tokio::time::sleep(WATCHED).await;
    let after = fleet.usage();
    let each = clusters as f64;
    let percent = (after.cpu - before.cpu) / WATCHED.as_secs_f64() * 100.0;
    if clusters >= 200 {
        figures.add(Side::Ours, "idle/200-clusters", "MB", after.resident);
        figures.add(Side::Ours, "idle/200-clusters", "% of a core", percent);
        return Ok(());
    }
    figures.add(Side::Ours, "idle/service", "MB", empty.resident);
    figures.add(Side::Ours, "idle/cluster", "MB", (after.resident - empty.resident) / each);
    figures.add(Side::Ours, "idle/cluster", "% of a core", percent / each);
    if let Some(upstream) = bench.upstream()? {
        let peer = upstream.start()?;
        peer.ready().await?;
        tokio::time::sleep(CALM).await;
        let before = peer.usage();
        tokio::time::sleep(WATCHED).await;
        let after = peer.usage();
        let percent = (after.cpu - before.cpu) / WATCHED.as_secs_f64() * 100.0;
        figures.add(Side::Upstream, "idle/cluster", "MB", after.resident);
        figures.add(Side::Upstream, "idle/cluster", "% of a core", percent);
    }
    Ok(())
}
