//! Three real members on loopback, each behind a relay between it and its clients. Everything ends with its handle.

use rustix::process::{Pid, Signal, kill_process};
use std::{
    net::TcpListener as StdListener,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};
use timonel_runtime::{Entropy, OnError, Tasks};
use timonel_store::EtcdConfig;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf, tcp::OwnedWriteHalf},
    sync::watch,
};

pub(crate) const MEMBERS: usize = 3;
const RELAY_BYTES: usize = 64 << 10;

/// What a relay does with what passes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Open,
    /// Keeps everything until it opens again, as a partition does that heals.
    Held,
    /// Ends every connection, refuses new ones.
    Cut,
}

pub(crate) struct Member {
    child: Option<Child>,
    arguments: Vec<String>,
    way: watch::Sender<Way>,
}

impl Member {
    pub(crate) fn start(&mut self) {
        let program = std::env::var("TIMONEL_ETCD").unwrap_or_else(|_| "etcd".to_owned());
        let child = Command::new(program).args(&self.arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        self.child = Some(child.expect("etcd of the Debian package etcd-server"));
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        if let Some(pid) = self.child.as_ref().and_then(|child| Pid::from_raw(child.id() as i32)) {
            let _ = kill_process(pid, signal);
        }
    }

    pub(crate) fn relay(&self, way: Way) {
        self.way.send_replace(way);
    }
}

pub(crate) struct Cluster {
    pub(crate) members: Vec<Member>,
    ports: Vec<u16>,
    _directory: tempfile::TempDir,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.members.iter_mut().for_each(Member::kill);
    }
}

fn free_ports(count: usize) -> Vec<u16> {
    let listeners: Vec<_> = (0..count).map(|_| StdListener::bind("127.0.0.1:0").unwrap()).collect();
    listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
}

impl Cluster {
    pub(crate) async fn start(tasks: &Tasks) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let ports = free_ports(2 * MEMBERS);
        let (clients, peers) = ports.split_at(MEMBERS);
        let all: Vec<_> = peers.iter().enumerate().map(|(at, port)| format!("m{at}=http://127.0.0.1:{port}")).collect();
        let mut members = Vec::new();
        let mut relays = Vec::new();
        for at in 0..MEMBERS {
            let (client, peer) = (clients[at], peers[at]);
            let arguments = vec![
                format!("--name=m{at}"),
                format!("--data-dir={}", directory.path().join(format!("m{at}")).display()),
                format!("--listen-client-urls=http://127.0.0.1:{client}"),
                format!("--advertise-client-urls=http://127.0.0.1:{client}"),
                format!("--listen-peer-urls=http://127.0.0.1:{peer}"),
                format!("--initial-advertise-peer-urls=http://127.0.0.1:{peer}"),
                format!("--initial-cluster={}", all.join(",")),
                "--heartbeat-interval=50".into(),
                "--election-timeout=500".into(),
                "--pre-vote".into(),
                "--logger=zap".into(),
                "--log-level=error".into(),
            ];
            let (way, ways) = watch::channel(Way::Open);
            relays.push(relay(client, ways, tasks).await);
            let mut member = Member { child: None, arguments, way };
            member.start();
            members.push(member);
        }
        Self { members, ports: relays, _directory: directory }
    }

    /// How a client reaches the members, beginning with the one at `first`.
    pub(crate) fn config(&self, first: usize, entropy: Entropy) -> EtcdConfig {
        let members: Vec<_> =
            (0..MEMBERS).map(|at| format!("127.0.0.1:{}", self.ports[(first + at) % MEMBERS])).collect();
        let mut config = EtcdConfig::parse(&format!("etcd://{}/faults", members.join(",")), entropy).unwrap();
        config.deadline = Duration::from_secs(20);
        config
    }
}

/// Relays connections to `port`; returns the port where it listens.
async fn relay(port: u16, ways: watch::Receiver<Way>, tasks: &Tasks) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = listener.local_addr().unwrap().port();
    let scope = tasks.child("relay");
    tasks.spawn("relay", OnError::Log, async move {
        loop {
            let (near, _) = listener.accept().await?;
            if *ways.borrow() == Way::Cut {
                continue;
            }
            let ways = ways.clone();
            scope.spawn("relayed", OnError::Log, async move {
                // A member that is down shows to its client as a connection that ends.
                if let Ok(far) = TcpStream::connect(("127.0.0.1", port)).await {
                    between(near, far, ways).await;
                }
                Ok::<_, std::io::Error>(())
            });
        }
        #[allow(unreachable_code, reason = "names the type of the errors above")]
        Ok::<_, std::io::Error>(())
    });
    own
}

async fn between(near: TcpStream, far: TcpStream, mut ways: watch::Receiver<Way>) {
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    let held = Arc::new(ways.clone());
    tokio::select! {
        () = pass(near_in, far_out, (*held).clone()) => {}
        () = pass(far_in, near_out, (*held).clone()) => {}
        _ = ways.wait_for(|way| *way == Way::Cut) => {}
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut ways: watch::Receiver<Way>) {
    let mut buffer = vec![0; RELAY_BYTES];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if ways.wait_for(|way| *way == Way::Open).await.is_err() || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
