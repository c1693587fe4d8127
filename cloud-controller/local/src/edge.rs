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
    /// Whose connections were forgotten, until they answer again.
    dead: Dead,
}

/// Targets that lead nowhere: (load balancer, target).
type Dead = BTreeSet<(Ipv4Addr, Ipv4Addr)>;

impl EdgeState {
    /// Targets of a load balancer that pass their checks.
    pub(crate) fn healthy(&self, records: &Records, balancer: &BalancerRecord) -> BTreeSet<InstanceId> {
        let found = running(records, balancer);
        let passes = |address: &Ipv4Addr| self.takes(balancer.address, &balancer.spec.health, *address);
        found.into_iter().filter(|(_, address)| passes(address)).map(|(id, _)| id).collect()
    }

    /// Whether a target passes its check. One that was not yet checked in this way stands as it stood: a change of the
    /// check is no reason to refuse anybody.
    fn takes(&self, balancer: Ipv4Addr, check: &HealthCheck, target: Ipv4Addr) -> bool {
        let stood = || {
            let before = self.applied.iter().flatten().find(|forwarding| forwarding.address == balancer);
            before.is_some_and(|forwarding| forwarding.targets.contains(&target))
        };
        self.book.of(&(target, check.clone())).map_or_else(stood, |health| health.healthy)
    }

    /// Of a load balancer without a healthy target, those that have its traffic and whose agent is merely away: what
    /// it set up there goes on serving without it.
    fn standing(&self, balancer: &BalancerRecord, all: &BTreeSet<Ipv4Addr>) -> BTreeSet<Ipv4Addr> {
        let check = &balancer.spec.health;
        let away = |target: &Ipv4Addr| self.book.of(&(*target, check.clone())).is_some_and(|health| health.away);
        let stood = self.applied.iter().flatten().find(|forwarding| forwarding.address == balancer.address);
        stood.map(|forwarding| forwarding.targets.intersection(all).copied().filter(away).collect()).unwrap_or_default()
    }

    /// Targets that do not answer at all, or whose machine does not run.
    fn dead(&self, records: &Records) -> Dead {
        let mut dead = Dead::new();
        for balancer in records.balancers.values() {
            let running = running(records, balancer);
            let known = |address: &Ipv4Addr| self.book.of(&(*address, balancer.spec.health.clone()));
            let silent = |address: &Ipv4Addr| known(address).is_some_and(|health| health.silent);
            let machines = balancer.spec.targets.iter().filter_map(|id| records.machines.get(id));
            let lost = machines
                .map(|machine| machine.address)
                .filter(|address| silent(address) || !running.iter().any(|(_, answering)| answering == address));
            dead.extend(lost.map(|address| (balancer.address, address)));
        }
        dead
    }

    fn forwardings(&self, records: &Records) -> Vec<Forwarding> {
        let forwarding = |balancer: &BalancerRecord| {
            let all: BTreeSet<Ipv4Addr> = running(records, balancer).into_iter().map(|(_, address)| address).collect();
            let passes = |address: &&Ipv4Addr| self.takes(balancer.address, &balancer.spec.health, **address);
            let healthy: BTreeSet<Ipv4Addr> = all.iter().filter(passes).copied().collect();
            let none = || if balancer.spec.fail_open { all.clone() } else { self.standing(balancer, &all) };
            Forwarding {
                address: balancer.address,
                ports: balancer.spec.ports.clone(),
                sources: balancer.spec.source_ranges.clone(),
                targets: if healthy.is_empty() { none() } else { healthy },
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
    let (wanted, dead) = {
        let records = shared.records.lock();
        (edge.forwardings(&records), edge.dead(&records))
    };
    let namespace = shared.config.edge();
    if edge.applied.as_ref() != Some(&wanted) {
        nft(Some(&namespace), &edge_elements(&wanted)).await?;
    }
    let before = edge.applied.replace(wanted.clone()).unwrap_or_default();
    let died: Dead = dead.difference(&edge.dead).copied().collect();
    edge.dead = dead;
    for arguments in stale(&before, &wanted, &died) {
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

/// Connections to forget when the rules change: all of load balancers that are gone and of targets that have just been
/// found dead, and datagrams of those that are out. Other connections of a target that is out are left to end.
fn stale(before: &[Forwarding], after: &[Forwarding], died: &Dead) -> Vec<Vec<String>> {
    let after: BTreeMap<Ipv4Addr, &Forwarding> = after.iter().map(|f| (f.address, f)).collect();
    let mut commands = BTreeSet::new();
    for old in before {
        let now = after.get(&old.address);
        for port in &old.ports {
            let out = old.targets.iter().filter(|target| !now.is_some_and(|f| f.targets.contains(*target)));
            let out = out.filter(|_| now.is_none() || forget_when_failing(port.protocol));
            let dead = died.iter().filter(|(address, _)| *address == old.address).map(|(_, target)| target);
            commands.extend(out.chain(dead).map(|target| forget(old.address, port, *target)));
        }
    }
    commands.into_iter().collect()
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
        let mut stream = match socket.connect(SocketAddr::from((*address, port))).await {
            Ok(stream) => stream,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => return Finding::Away,
            Err(_) => return Finding::Silent,
        };
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
    use crate::config::HealthSettings;
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
        let count = |before: &[u8], after: &[Forwarding], died: &[(Ipv4Addr, Ipv4Addr)]| {
            stale(&[forwarding(before)], after, &died.iter().copied().collect()).len()
        };
        assert_eq!(count(&[8, 9], &[forwarding(&[8, 9])], &[]), 0, "nothing changed");
        assert_eq!(count(&[8, 9], &[forwarding(&[8])], &[]), 1, "draining: datagrams only");
        assert_eq!(count(&[8, 9], &[forwarding(&[8])], &[(lb, gone)]), 2, "dead: everything");
        assert_eq!(count(&[8], &[forwarding(&[8])], &[(lb, gone)]), 2, "dead after it was out: everything");
        assert_eq!(count(&[8, 9], &[], &[]), 4, "the load balancer went");
    }

    #[test]
    fn a_changed_check_counts_when_it_was_made() {
        let (old, new) = (HealthCheck::Tcp { port: 1 }, HealthCheck::Tcp { port: 2 });
        let target = Ipv4Addr::new(10, 0, 0, 8);
        let known = forwarding(&[8]);
        let mut state = EdgeState { applied: Some(vec![known.clone()]), ..EdgeState::default() };
        let takes = |state: &EdgeState, check| state.takes(known.address, check, target);
        state.book.take(vec![((target, old.clone()), Finding::Passed)], HealthSettings::default());
        assert!(takes(&state, &old) && takes(&state, &new), "nobody has asked the new way yet");
        state.book.take(vec![((target, new.clone()), Finding::Refused)], HealthSettings::default());
        assert!(!takes(&state, &new), "the new check counts");
        let elsewhere = Ipv4Addr::new(172, 30, 0, 21);
        assert!(!state.takes(elsewhere, &old, target), "a new load balancer starts with nobody");
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
