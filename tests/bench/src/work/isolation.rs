//! Two clusters of one service, one of them flooded: what its neighbour's writes take.

use super::{Bench, NAMESPACE, prepare_namespace};
use crate::{
    client::{Ask, Client},
    drive::{Run, all, drive},
    objects,
    ours::{context, target},
    peer::Side,
    process::Process,
    record::Figures,
};
use anyhow::Context;
use std::{path::Path, process::Command, time::Duration};

/// Writes of the quiet cluster, one after another, and the pause between two.
const WRITES: usize = 400;
const PAUSE: Duration = Duration::from_millis(10);
/// The flood: requests in flight over connections, and what each of them is.
const FLOODING: usize = 512;
const FLOODING_CONNECTIONS: usize = 32;
/// Every so many requests of the flood is a list of everything.
const LIST_EVERY: usize = 50;
/// Before the flood is measured against.
const RISE: Duration = Duration::from_secs(3);
/// Ends a flood that nobody ends.
const LONGEST: Duration = Duration::from_secs(120);

pub(super) async fn run(bench: &Bench, figures: &mut Figures) -> anyhow::Result<()> {
    let service = bench.service()?;
    let fleet = service.start().await?;
    fleet.ready().await?;
    let quiet = service.create_cluster(&fleet, "quiet").await?;
    let noisy = service.create_cluster(&fleet, "noisy").await?;
    let client = quiet.connect(1).await?;
    prepare_namespace(&client, NAMESPACE).await?;
    prepare_namespace(&noisy.connect(1).await?, NAMESPACE).await?;
    let calm = writes(&client, "calm").await?;
    let mut command = Command::new(&bench.own);
    command.arg("flood").arg(service.kubeconfig()).arg(context("noisy"));
    let mut flood = Process::start(&mut command, &service.data.with_extension("flood.log"))?;
    tokio::time::sleep(RISE).await;
    let loud = writes(&client, "loud").await;
    flood.check().context("the flood")?;
    flood.kill()?;
    let loud = loud?;
    figures.add(Side::Ours, "isolation/calm", "ms p50", calm.quantile(0.5));
    figures.add(Side::Ours, "isolation/calm", "ms p99", calm.quantile(0.99));
    figures.add(Side::Ours, "isolation/flooded", "ms p50", loud.quantile(0.5));
    figures.add(Side::Ours, "isolation/flooded", "ms p99", loud.quantile(0.99));
    Ok(())
}

async fn writes(client: &Client, prefix: &str) -> anyhow::Result<Run> {
    let path = format!("/api/v1/namespaces/{NAMESPACE}/pods");
    let mut run = Run::default();
    for number in 0..WRITES {
        tokio::time::sleep(PAUSE).await;
        // Alone in flight: what is measured is the server's time, not a queue of the client's.
        let one = drive(1, 1, async |_| {
            let pod = objects::pod(&format!("{prefix}{number}"), 0);
            client.send(0, Ask::post(path.as_str(), pod)).await.map(drop)
        });
        run.join(one.await?);
    }
    Ok(run)
}

/// Floods a cluster until killed: creations and, now and then, lists of everything.
pub(crate) async fn flood(kubeconfig: &Path, cluster: &str) -> anyhow::Result<()> {
    let client = target(kubeconfig, cluster)?.connect(FLOODING_CONNECTIONS).await?;
    let path = format!("/api/v1/namespaces/{NAMESPACE}/pods");
    let work = (0..FLOODING).map(|sender| {
        let (client, path) = (client.clone(), path.clone());
        async move {
            for number in 0_usize.. {
                // Refusals are part of it.
                if (sender + number) % LIST_EVERY == 0 {
                    let _ = client.drain(sender, Ask::get(format!("{path}?limit=2000"))).await;
                } else {
                    let pod = objects::pod(&format!("f{sender}-{number}"), 0);
                    let _ = client.send(sender, Ask::post(path.as_str(), pod)).await;
                }
            }
            anyhow::Ok(())
        }
    });
    let flood = all(work);
    match tokio::time::timeout(LONGEST, flood).await {
        Ok(ended) => ended.map(drop),
        Err(_) => Ok(()),
    }
}
