//! Upstream's control plane: etcd and kube-apiserver, kube-scheduler where a workload wants it.

use crate::{
    client::{Identity, Target},
    ours::free_port,
    peer::{Peer, Side},
    process::Process,
};
use anyhow::Context;
use jiff::SignedDuration;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};
use timonel_pki::{ClusterPki, ClusterPkiSpec, Credential, Kubeconfig, KubeconfigEntry};
use timonel_runtime::Clock;

/// Token of the one user; on loopback, in a folder of its own, for minutes.
const TOKEN: &str = "benchmark-administrator";
/// Certificates begin a little in the past, so that no second's difference matters.
const BACK: SignedDuration = SignedDuration::from_mins(5);

/// A data directory with upstream's servers.
#[derive(Clone, Debug)]
pub(crate) struct Upstream {
    programs: PathBuf,
    data: PathBuf,
    ports: Ports,
    authority: String,
}

#[derive(Clone, Copy, Debug)]
struct Ports {
    api: u16,
    etcd: u16,
    etcd_peers: u16,
    scheduler: u16,
}

impl Upstream {
    /// Writes what the servers need to find.
    pub(crate) fn prepare(programs: &Path, data: PathBuf) -> anyhow::Result<Self> {
        fs::create_dir_all(&data)?;
        let now = Clock::system().now().checked_sub(BACK)?;
        let pki = ClusterPki::create(now)?;
        let server = pki.api_server(&ClusterPkiSpec::default(), now)?;
        let file = |name: &str, text: &str| fs::write(data.join(name), text).with_context(|| name.to_owned());
        file("ca.crt", pki.cluster_ca.cert_pem())?;
        file("api.crt", &server.cert_pem)?;
        file("api.key", &server.key_pem)?;
        file("sa.key", &pki.keys.signing().to_pem())?;
        file("sa.pub", &pki.keys.signing().verifying().to_pem())?;
        file("tokens.csv", &format!("{TOKEN},admin,admin,\"system:masters\"\n"))?;
        let ports = Ports { api: free_port()?, etcd: free_port()?, etcd_peers: free_port()?, scheduler: free_port()? };
        let authority = pki.cluster_ca.cert_pem().to_owned();
        let mut kubeconfig = Kubeconfig::default();
        kubeconfig.set(&KubeconfigEntry {
            name: "upstream".into(),
            server: format!("https://127.0.0.1:{}", ports.api),
            ca_pem: authority.clone(),
            tls_server_name: None,
            credential: Credential::Token(TOKEN.into()),
            namespace: None,
        });
        file("kubeconfig", &kubeconfig.to_yaml()?)?;
        Ok(Self { programs: programs.to_owned(), data, ports, authority })
    }

    /// Starts etcd and kube-apiserver; they may not answer yet.
    pub(crate) fn start(&self) -> anyhow::Result<Peer> {
        let etcd = Process::start(&mut self.etcd(), &self.data.join("etcd.log"))?;
        let api = Process::start(&mut self.api_server(), &self.data.join("api.log"))?;
        let identity = Identity::Token(TOKEN.into());
        let address = ([127, 0, 0, 1], self.ports.api).into();
        let target = Target::new(address, "kubernetes", self.authority.as_bytes(), &identity)?;
        Ok(Peer::new(Side::Upstream, target, vec![etcd, api]))
    }

    /// Starts kube-scheduler beside them.
    pub(crate) fn start_scheduler(&self, peer: &Peer) -> anyhow::Result<()> {
        let mut command = Command::new(self.programs.join("kube-scheduler"));
        command.arg("--kubeconfig").arg(self.data.join("kubeconfig"));
        command.args(["--leader-elect=false", "--bind-address=127.0.0.1", "--v=0"]);
        command.arg(format!("--secure-port={}", self.ports.scheduler));
        command.arg("--authentication-kubeconfig").arg(self.data.join("kubeconfig"));
        command.arg("--authorization-kubeconfig").arg(self.data.join("kubeconfig"));
        peer.add(Process::start(&mut command, &self.data.join("scheduler.log"))?);
        Ok(())
    }

    fn etcd(&self) -> Command {
        let own = self.programs.join("etcd");
        let mut command = Command::new(if own.exists() { own } else { "etcd".into() });
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let (clients, peers) = (url(self.ports.etcd), url(self.ports.etcd_peers));
        command.arg("--data-dir").arg(self.data.join("etcd"));
        command.args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients]);
        command.args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers]);
        command.args(["--initial-cluster", &format!("default={peers}"), "--log-level", "error"]);
        // The default of 2 GB is enough for every workload here, and what upstream's own documents run with is more.
        command.args(["--quota-backend-bytes", "8589934592"]);
        command
    }

    fn api_server(&self) -> Command {
        let mut command = Command::new(self.programs.join("kube-apiserver"));
        let file = |name: &str| self.data.join(name).display().to_string();
        command.args([
            format!("--etcd-servers=http://127.0.0.1:{}", self.ports.etcd),
            format!("--secure-port={}", self.ports.api),
            "--bind-address=127.0.0.1".to_owned(),
            "--endpoint-reconciler-type=none".to_owned(),
            "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            "--authorization-mode=Node,RBAC".to_owned(),
            format!("--service-account-key-file={}", file("sa.pub")),
            format!("--service-account-signing-key-file={}", file("sa.key")),
            format!("--token-auth-file={}", file("tokens.csv")),
            format!("--client-ca-file={}", file("ca.crt")),
            format!("--tls-cert-file={}", file("api.crt")),
            format!("--tls-private-key-file={}", file("api.key")),
            format!("--cert-dir={}", file("certs")),
            "--v=0".to_owned(),
        ]);
        command
    }
}
