//! A service's change to rules in force, with many services: what the node's proxy computes, and `nft`'s part of it,
//! in a network namespace of its own.

use crate::{objects, peer::Side, record::Figures};
use anyhow::{Context, ensure};
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use std::{net::Ipv4Addr, process::Stdio, sync::Arc};
use timonel_proxy::{NodeView, Table, Watched, render_changes, render_full};
use tokio::{io::AsyncWriteExt, process::Command, time::Instant};

const SERVICES: usize = 10_000;
const CHANGES: usize = 20;

/// A network namespace that ends with this value.
struct Namespace(String);

impl Namespace {
    fn make(name: String) -> anyhow::Result<Self> {
        let status = std::process::Command::new("ip").args(["netns", "add", &name]).status().context("ip")?;
        ensure!(status.success(), "ip netns add {name}: {status} (this needs root)");
        Ok(Self(name))
    }

    async fn nft(&self, script: &str) -> anyhow::Result<()> {
        let mut child = Command::new("nsenter")
            .args([&format!("--net=/run/netns/{}", self.0), "nft", "-f", "-"])
            .stdin(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("nft")?;
        let mut stdin = child.stdin.take().context("stdin")?;
        stdin.write_all(script.as_bytes()).await?;
        drop(stdin);
        let status = child.wait().await?;
        ensure!(status.success(), "nft: {status}");
        Ok(())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // What is left of a failure here shows in `ip netns`.
        let _ = std::process::Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

pub(super) async fn run(round: u16, figures: &mut Figures) -> anyhow::Result<()> {
    let namespace = Namespace::make(format!("tm-bench-{}-{round}", std::process::id()))?;
    let node = NodeView { name: objects::node_name(0), addresses: vec![Ipv4Addr::new(10, 0, 0, 1)] };
    let services = (0..SERVICES).map(service).collect::<anyhow::Result<Vec<_>>>()?;
    let mut slices = (0..SERVICES).map(|number| slice(number, number)).collect::<anyhow::Result<Vec<_>>>()?;
    let (mut watched, mut table) = (Watched::new(node.clone()), Table::new(node));
    let started = Instant::now();
    table.change(watched.take(&services, &slices));
    namespace.nft(&render_full(&table, &[], &[])).await?;
    figures.add(Side::Ours, "proxy/load", "ms", started.elapsed().as_secs_f64() * 1e3);
    for change in 0..CHANGES {
        slices[change * 37] = slice(change * 37, SERVICES + change)?;
        let started = Instant::now();
        let script = render_changes(&table.change(watched.take(&services, &slices)));
        figures.add(Side::Ours, "proxy/change", "ms computing", started.elapsed().as_secs_f64() * 1e3);
        ensure!(!script.is_empty(), "a change changes nothing");
        namespace.nft(&script).await?;
        figures.add(Side::Ours, "proxy/change", "ms", started.elapsed().as_secs_f64() * 1e3);
    }
    Ok(())
}

fn service(number: usize) -> anyhow::Result<Arc<Service>> {
    let mut value = objects::service(&format!("s{number}"));
    value["metadata"]["namespace"] = "bench".into();
    value["spec"]["clusterIP"] = format!("10.96.{}.{}", number / 256, number % 256).into();
    value["spec"]["clusterIPs"] = serde_json::json!([value["spec"]["clusterIP"]]);
    value["spec"]["type"] = "ClusterIP".into();
    Ok(Arc::new(serde_json::from_value(value)?))
}

/// The slice of a service with backends that `seed` tells apart.
fn slice(number: usize, seed: usize) -> anyhow::Result<Arc<EndpointSlice>> {
    let mut value = objects::slice(&format!("s{number}"), seed);
    value["metadata"]["namespace"] = "bench".into();
    Ok(Arc::new(serde_json::from_value(value)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_seed_is_another_table() {
        let node = NodeView { name: objects::node_name(0), addresses: Vec::new() };
        let services = [service(7).unwrap()];
        let (mut watched, mut table) = (Watched::new(node.clone()), Table::new(node));
        let mut of = |seed| render_changes(&table.change(watched.take(&services, &[slice(7, seed).unwrap()])));
        assert!(!of(1).is_empty());
        assert!(!of(2).is_empty());
    }
}
