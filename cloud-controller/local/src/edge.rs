//! Load balancers at work: checks targets from inside the edge, and keeps the edge's rules at what they found.

use crate::{
    command::{nft, run},
    config::LocalConfig,
    error::LocalError,
    health::{Finding, HealthBook, Probe},
    local::Shared,
    namespace::inside,
    records::{BalancerRecord, Records},
    rules::{Forwarding, edge_elements, forget, forget_when_failing},
};
use futures::{StreamExt, stream};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr, TcpStream as StdStream},
    sync::Arc,
};
use timonel_cloud_core::{HealthCheck, InstanceId};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
};

/// Checks under way at once.
const CHECKS_AT_ONCE: usize = 64;
/// Bytes of an answer that are read: the status line is all that matters.
const ANSWER_BYTES: usize = 32;

/// What the edge does at a moment.
#[derive(Debug, Default)]
pub(crate) struct EdgeState {
    book: HealthBook,
    applied: Option<Vec<Forwarding>>,
}

impl EdgeState {
    /// Targets of a load balancer that pass their checks.
    pub(crate) fn healthy(&self, records: &Records, balancer: &BalancerRecord) -> BTreeSet<InstanceId> {
        let found = running(records, balancer);
        let passes = |address: &Ipv4Addr| self.book.of(&(*address, balancer.spec.health.clone())).healthy;
        found.into_iter().filter(|(_, address)| passes(address)).map(|(id, _)| id).collect()
    }

    /// Connections to these were better forgotten: (load balancer, target).
    fn silent(&self, records: &Records) -> BTreeSet<(Ipv4Addr, Ipv4Addr)> {
        let mut silent = BTreeSet::new();
        for balancer in records.balancers.values() {
            let down =
                |(_, address): &(InstanceId, Ipv4Addr)| self.book.of(&(*address, balancer.spec.health.clone())).silent;
            silent.extend(running(records, balancer).into_iter().filter(down).map(|(_, a)| (balancer.address, a)));
        }
        silent
    }

    fn forwardings(&self, records: &Records) -> Vec<Forwarding> {
        let forwarding = |balancer: &BalancerRecord| {
            let all: BTreeSet<Ipv4Addr> = running(records, balancer).into_iter().map(|(_, address)| address).collect();
            let passes = |address: &&Ipv4Addr| self.book.of(&(**address, balancer.spec.health.clone())).healthy;
            let healthy: BTreeSet<Ipv4Addr> = all.iter().filter(passes).copied().collect();
            Forwarding {
                address: balancer.address,
                ports: balancer.spec.ports.clone(),
                sources: balancer.spec.source_ranges.clone(),
                targets: if healthy.is_empty() && balancer.spec.fail_open { all } else { healthy },
            }
        };
        records.balancers.values().map(forwarding).collect()
    }
}

/// Targets whose machine runs, with their addresses.
fn running(records: &Records, balancer: &BalancerRecord) -> Vec<(InstanceId, Ipv4Addr)> {
    let machines = balancer.spec.targets.iter().filter_map(|id| records.machines.get(id));
    let runs = machines.filter(|m| m.process.as_ref().is_some_and(crate::process::ProcessId::is_alive));
    runs.map(|machine| (machine.id.clone(), machine.address)).collect()
}

/// Checks all targets, for ever.
pub(crate) async fn run_checks(shared: Arc<Shared>) -> Result<(), Infallible> {
    let mut ticks = tokio::time::interval(shared.config.health.interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shared.edge_changed.notified() => {}
        }
        if let Err(error) = check_once(&shared).await {
            tracing::error!(%error, "the edge's rules could not be changed; trying again");
        }
    }
}

/// Checks every target once and brings the rules to what was found. Rules that an earlier process left stay in force
/// until its successor knows better.
pub(crate) async fn check_once(shared: &Shared) -> Result<(), LocalError> {
    let probes: BTreeSet<Probe> = {
        let records = shared.records.lock();
        let of = |b: &BalancerRecord| {
            let check = b.spec.health.clone();
            running(&records, b).into_iter().map(move |(_, address)| (address, check.clone())).collect::<Vec<_>>()
        };
        records.balancers.values().flat_map(of).collect()
    };
    let config = &shared.config;
    let findings = stream::iter(probes)
        .map(|probe| async move {
            let finding = check(config, &probe).await;
            (probe, finding)
        })
        .buffer_unordered(CHECKS_AT_ONCE)
        .collect()
        .await;
    let mut edge = shared.edge.lock().await;
    edge.book.take(findings, config.health);
    apply(shared, &mut edge).await
}

/// Brings the edge's rules to what records and findings ask for, if they differ.
pub(crate) async fn apply(shared: &Shared, edge: &mut EdgeState) -> Result<(), LocalError> {
    let (wanted, silent) = {
        let records = shared.records.lock();
        (edge.forwardings(&records), edge.silent(&records))
    };
    if edge.applied.as_ref() == Some(&wanted) {
        return Ok(());
    }
    let namespace = shared.config.edge();
    nft(Some(&namespace), &edge_elements(&wanted)).await?;
    let before = edge.applied.replace(wanted.clone()).unwrap_or_default();
    for arguments in stale(&before, &wanted, &silent) {
        let net = format!("--net=/run/netns/{namespace}");
        let mut command = vec!["nsenter", &net, "conntrack"];
        command.extend(arguments.iter().map(String::as_str));
        // It answers with an error when there was nothing to forget.
        if let Err(error) = run(&command, "").await {
            tracing::debug!(%error, "no connections to forget");
        }
    }
    Ok(())
}

/// Connections to forget when the rules change: all of targets that are gone or silent, and datagrams of those that
/// only fail their checks. Connections of a target that drains are left to end.
fn stale(before: &[Forwarding], after: &[Forwarding], silent: &BTreeSet<(Ipv4Addr, Ipv4Addr)>) -> Vec<Vec<String>> {
    let after: BTreeMap<Ipv4Addr, &Forwarding> = after.iter().map(|f| (f.address, f)).collect();
    let mut commands = Vec::new();
    for old in before {
        let now = after.get(&old.address);
        for target in &old.targets {
            let kept = now.is_some_and(|f| f.targets.contains(target));
            for port in old.ports.iter().filter(|_| !kept) {
                let dead = now.is_none() || silent.contains(&(old.address, *target));
                if dead || forget_when_failing(port.protocol) {
                    commands.push(forget(old.address, port, *target));
                }
            }
        }
    }
    commands
}

async fn check(config: &LocalConfig, (address, check): &Probe) -> Finding {
    let attempt = async {
        let (port, path) = match check {
            HealthCheck::Tcp { port } => (*port, None),
            HealthCheck::Http { port, path } => (*port, Some(path)),
        };
        let socket = inside(&config.edge(), || {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            Ok(socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?)
        });
        let Ok(socket) = socket else { return Finding::Silent };
        let socket = TcpSocket::from_std_stream(StdStream::from(socket));
        let Ok(mut stream) = socket.connect(SocketAddr::from((*address, port))).await else { return Finding::Silent };
        let Some(path) = path else { return Finding::Passed };
        let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        let mut answer = [0; ANSWER_BYTES];
        if stream.write_all(request.as_bytes()).await.is_err() {
            return Finding::Silent;
        }
        match stream.read(&mut answer).await {
            Ok(length) if passes(&answer[..length]) => Finding::Passed,
            Ok(1..) => Finding::Refused,
            _ => Finding::Silent,
        }
    };
    tokio::time::timeout(config.health.timeout, attempt).await.unwrap_or(Finding::Silent)
}

/// Whether an answer begins with a 2xx status line.
fn passes(answer: &[u8]) -> bool {
    answer.starts_with(b"HTTP/1.") && answer.get(8..10) == Some(b" 2")
}

#[cfg(test)]
mod tests {
    use super::*;
    use timonel_cloud_core::{BalancerPort, Protocol};

    fn forwarding(targets: &[u8]) -> Forwarding {
        let port = |protocol, port| BalancerPort { protocol, port, node_port: 30_000 };
        Forwarding {
            address: Ipv4Addr::new(172, 30, 0, 20),
            ports: vec![port(Protocol::Tcp, 80), port(Protocol::Udp, 53)],
            sources: BTreeSet::new(),
            targets: targets.iter().map(|n| Ipv4Addr::new(10, 0, 0, *n)).collect(),
        }
    }

    #[test]
    fn what_is_forgotten() {
        let (lb, gone) = (Ipv4Addr::new(172, 30, 0, 20), Ipv4Addr::new(10, 0, 0, 9));
        let count = |after: &[Forwarding], silent: &[(Ipv4Addr, Ipv4Addr)]| {
            stale(&[forwarding(&[8, 9])], after, &silent.iter().copied().collect()).len()
        };
        assert_eq!(count(&[forwarding(&[8, 9])], &[]), 0, "nothing changed");
        assert_eq!(count(&[forwarding(&[8])], &[]), 1, "draining: datagrams only");
        assert_eq!(count(&[forwarding(&[8])], &[(lb, gone)]), 2, "dead: everything");
        assert_eq!(count(&[], &[]), 4, "the load balancer went");
    }

    #[test]
    fn status_lines() {
        for (answer, passed) in [
            ("HTTP/1.1 200 OK", true),
            ("HTTP/1.0 204 No Content", true),
            ("HTTP/1.1 503 Service Unavailable", false),
            ("HTTP/1.1", false),
            ("SSH-2.0-x 2", false),
        ] {
            assert_eq!(passes(answer.as_bytes()), passed, "{answer}");
        }
    }
}
