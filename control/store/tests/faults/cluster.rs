//! Three real members on loopback, each behind a relay between it and its clients. Everything ends with its handle.

use rustix::process::Signal;
use std::{sync::Arc, time::Duration};
use timonel_faults::Etcd;
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

pub(crate) struct Cluster {
    etcd: Etcd,
    /// Ports of the relays, and what each does.
    ports: Vec<u16>,
    ways: Vec<watch::Sender<Way>>,
}

impl Cluster {
    pub(crate) async fn start(tasks: &Tasks) -> Self {
        let etcd = Etcd::start(MEMBERS).expect("etcd of the Debian package etcd-server");
        let (mut ports, mut ways) = (Vec::new(), Vec::new());
        for port in etcd.ports() {
            let (way, told) = watch::channel(Way::Open);
            ports.push(relay(port, told, tasks).await);
            ways.push(way);
        }
        Self { etcd, ports, ways }
    }

    pub(crate) fn restart(&mut self, at: usize) {
        self.etcd.restart(at).unwrap();
    }

    pub(crate) fn kill(&mut self, at: usize) {
        self.etcd.kill(at);
    }

    pub(crate) fn signal(&self, at: usize, signal: Signal) {
        self.etcd.signal(at, signal);
    }

    pub(crate) fn relay(&self, at: usize, way: Way) {
        self.ways[at].send_replace(way);
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
