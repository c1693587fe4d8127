//! From nothing to an API that answers, and from a running service to a further cluster.

use super::Bench;
use crate::{peer::Side, record::Figures};
use tokio::time::Instant;

/// Clusters that are created one after the other; the first warms up what all share.
const CLUSTERS: usize = 6;
const MILLISECONDS: f64 = 1e3;

pub(super) async fn run(bench: &Bench, figures: &mut Figures) -> anyhow::Result<()> {
    let service = bench.service()?;
    let started = Instant::now();
    let fleet = service.start().await?;
    fleet.ready().await?;
    figures.add(Side::Ours, "start/nothing-to-ready", "ms", started.elapsed().as_secs_f64() * MILLISECONDS);
    if let Some(upstream) = bench.upstream()? {
        let started = Instant::now();
        let peer = upstream.start()?;
        peer.ready().await?;
        figures.add(Side::Upstream, "start/nothing-to-ready", "ms", started.elapsed().as_secs_f64() * MILLISECONDS);
    }
    for number in 0..CLUSTERS {
        let started = Instant::now();
        service.create_cluster(&fleet, &format!("c{number}")).await?;
        if number > 0 {
            figures.add(Side::Ours, "start/further-cluster", "ms", started.elapsed().as_secs_f64() * MILLISECONDS);
        }
    }
    let started = Instant::now();
    drop(fleet);
    let again = service.start().await?;
    again.ready().await?;
    figures.add(Side::Ours, "start/again-with-clusters", "ms", started.elapsed().as_secs_f64() * MILLISECONDS);
    Ok(())
}
