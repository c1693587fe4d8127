//! `kill -9` with many objects: how long until the API serves again, and that the last acknowledged one is there.

use super::{Bench, CONNECTIONS, IN_FLIGHT, NAMESPACE, prepare_namespace};
use crate::{client::Ask, drive::drive, objects, peer::Side, record::Figures};
use tokio::time::Instant;

const OBJECTS: usize = 100_000;

pub(super) async fn run(bench: &Bench, figures: &mut Figures) -> anyhow::Result<()> {
    let service = bench.service()?;
    let peer = service.start().await?;
    peer.ready().await?;
    let client = peer.connect(CONNECTIONS).await?;
    prepare_namespace(&client, NAMESPACE).await?;
    let path = format!("/api/v1/namespaces/{NAMESPACE}/configmaps");
    drive(OBJECTS, IN_FLIGHT, async |number| {
        let object = objects::config_map(&format!("c{number}"));
        client.send(number, Ask::post(path.as_str(), object)).await.map(drop)
    })
    .await?;
    peer.kill()?;
    let started = Instant::now();
    let peer = service.start().await?;
    peer.ready().await?;
    let client = peer.connect(1).await?;
    client.send(0, Ask::get(format!("{path}/c{}", OBJECTS - 1))).await?;
    figures.add(Side::Ours, "crash/serving-again", "ms", started.elapsed().as_secs_f64() * 1e3);
    figures.add(Side::Ours, "crash/serving-again", "MB", peer.usage().resident);
    Ok(())
}
