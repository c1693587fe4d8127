//! A real etcd for tests: one process on loopback with a directory of its own, ended with its handle.

use super::{EtcdConfig, EtcdStore};
use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::Duration,
};
use timonel_runtime::{Entropy, Tasks};

/// Time for an etcd to start on a busy machine.
const START: Duration = Duration::from_secs(30);
/// Its bounds lie above the store's, so that the store's are met first.
const FLAGS: [&str; 4] = ["--max-txn-ops=4096", "--max-request-bytes=16777216", "--log-level=error", "--logger=zap"];

/// The program: `TIMONEL_ETCD`, or `etcd` of the path.
pub(crate) fn program() -> String {
    std::env::var("TIMONEL_ETCD").unwrap_or_else(|_| "etcd".to_owned())
}

/// A store over an etcd of its own.
#[derive(Debug)]
pub(crate) struct Alone {
    pub(crate) store: EtcdStore,
    tasks: Tasks,
    _server: Server,
}

#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    pub(crate) port: u16,
    _directory: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    pub(crate) fn start(flags: &[String]) -> Self {
        Self::start_with("http", flags)
    }

    /// `scheme` is how clients come.
    pub(crate) fn start_with(scheme: &str, flags: &[String]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let ports: Vec<_> = (0..2).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let [port, peer] = [0, 1].map(|at: usize| ports[at].local_addr().unwrap().port());
        drop(ports);
        let client = format!("{scheme}://127.0.0.1:{port}");
        let child = Command::new(program())
            .arg(format!("--data-dir={}", directory.path().display()))
            .arg(format!("--listen-client-urls={client}"))
            .arg(format!("--advertise-client-urls={client}"))
            .arg(format!("--listen-peer-urls=http://127.0.0.1:{peer}"))
            .arg(format!("--initial-advertise-peer-urls=http://127.0.0.1:{peer}"))
            .arg(format!("--initial-cluster=default=http://127.0.0.1:{peer}"))
            .args(FLAGS)
            .args(flags)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd of the Debian package etcd-server");
        Self { child, port, _directory: directory }
    }

    pub(crate) fn config(&self) -> EtcdConfig {
        let mut config = EtcdConfig::parse(&format!("etcd://127.0.0.1:{}/test", self.port), Entropy::system()).unwrap();
        config.compaction = Duration::ZERO;
        config.deadline = START;
        config
    }
}

impl Alone {
    pub(crate) async fn start() -> Self {
        let server = Server::start(&[]);
        let tasks = Tasks::root("test");
        let store = EtcdStore::open(server.config(), &tasks).await.unwrap();
        Self { store, tasks, _server: server }
    }

    /// Whether a watch may start at the very revision of a compaction.
    pub(crate) fn keeps_deletions(&self) -> bool {
        self.store.shared.traits.lock().keeps_deletions
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        self.tasks.token().cancel();
    }
}
