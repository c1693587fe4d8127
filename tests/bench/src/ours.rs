//! Our service: one process for every cluster.

use crate::{
    client::{Ask, Identity, Target},
    objects,
    peer::{Outcome, Peer, Side, until},
    process::Process,
};
use anyhow::{Context, bail};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde_json::{Value, json};
use std::{
    cell::RefCell,
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
};

/// The context of the fleet: an API server without scheduler and controllers beside it, as upstream's alone.
pub(crate) const FLEET: &str = "timonel";

/// A data directory with its server.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    program: PathBuf,
    pub(crate) data: PathBuf,
    port: u16,
}

impl Service {
    pub(crate) fn prepare(program: &Path, data: PathBuf) -> anyhow::Result<Self> {
        fs::create_dir_all(&data).with_context(|| data.display().to_string())?;
        Ok(Self { program: program.to_owned(), data, port: free_port()? })
    }

    /// Starts the server; it may not answer yet.
    pub(crate) async fn start(&self) -> anyhow::Result<Peer> {
        let mut command = Command::new(&self.program);
        command.args(["--log", "warn", "server", "--cloud", "none", "--data"]).arg(&self.data);
        command.args(["--listen", &format!("127.0.0.1:{}", self.port)]);
        command.env_remove("OTEL_EXPORTER_OTLP_ENDPOINT");
        let process = RefCell::new(Process::start(&mut command, &self.data.with_extension("log"))?);
        let target = until("kubeconfig", || async {
            process.borrow_mut().check().map_err(Outcome::Over)?;
            self.target(FLEET).map_err(Outcome::Again)
        });
        let target = target.await?;
        Ok(Peer::new(Side::Ours, target, vec![process.into_inner()]))
    }

    /// The way to one context of the administrator's kubeconfig.
    pub(crate) fn target(&self, context: &str) -> anyhow::Result<Target> {
        target(&self.kubeconfig(), context)
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.data.join("kubeconfig")
    }

    /// Creates a cluster and waits for its API's first answer.
    pub(crate) async fn create_cluster(&self, fleet: &Peer, name: &str) -> anyhow::Result<Peer> {
        let cluster = json!({"apiVersion": "timonel.io/v1", "kind": "Cluster", "metadata": {"name": name},
            "spec": {"version": "1.36"}});
        let client = fleet.connect(1).await?;
        let path = "/apis/timonel.io/v1/namespaces/default/clusters";
        client.send(0, Ask::post(path, objects::bytes(&cluster))).await?;
        let found = until("context", || async { self.target(&context(name)).map_err(Outcome::Again) }).await;
        let target = match found {
            Ok(target) => target,
            Err(error) => {
                let cluster = client.send(0, Ask::get(format!("{path}/{name}"))).await?;
                return Err(error).context(String::from_utf8_lossy(&cluster).into_owned());
            }
        };
        let peer = fleet.with_target(target);
        peer.ready().await?;
        Ok(peer)
    }
}

/// The context of a cluster.
pub(crate) fn context(cluster: &str) -> String {
    format!("timonel-{cluster}")
}

/// The way to the API that a context of a kubeconfig names.
pub(crate) fn target(kubeconfig: &Path, context: &str) -> anyhow::Result<Target> {
    let text = fs::read_to_string(kubeconfig)?;
    let config: Value = serde_saphyr::from_str(&text).context("kubeconfig")?;
    let cluster = named(&config["clusters"], context)?;
    let user = named(&config["users"], context)?;
    let (cluster, user) = (&cluster["cluster"], &user["user"]);
    let server = cluster["server"].as_str().unwrap_or_default();
    let address: SocketAddr = server.strip_prefix("https://").context("a server")?.parse().context("its address")?;
    let decoded = |value: &Value| BASE64.decode(value.as_str().unwrap_or_default()).context("base64");
    let (certificate, key) = (decoded(&user["client-certificate-data"])?, decoded(&user["client-key-data"])?);
    // A cluster with a port of its own is reached by its address alone.
    let host = address.ip().to_string();
    let name = cluster["tls-server-name"].as_str().unwrap_or(&host);
    let authority = decoded(&cluster["certificate-authority-data"])?;
    Target::new(address, name, &authority, &Identity::Certificate(certificate, key))
}

fn named<'a>(list: &'a Value, name: &str) -> anyhow::Result<&'a Value> {
    let Some(found) = list.as_array().into_iter().flatten().find(|entry| entry["name"] == name) else {
        bail!("no {name:?} in the kubeconfig");
    };
    Ok(found)
}

/// A port that nobody had a moment ago.
pub(crate) fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use timonel_pki::{ClusterPki, ClusterPkiSpec, Credential, Kubeconfig, KubeconfigEntry};

    #[test]
    fn a_context_leads_to_its_server() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let pki = ClusterPki::create(now).unwrap();
        let leaf = pki.admin(now).unwrap();
        let _ = pki.api_server(&ClusterPkiSpec::default(), now).unwrap();
        let mut config = Kubeconfig::default();
        config.set(&KubeconfigEntry {
            name: context("a"),
            server: "https://127.0.0.1:7".into(),
            ca_pem: pki.cluster_ca.cert_pem().into(),
            tls_server_name: Some("a.example".into()),
            credential: Credential::Certificate { cert_pem: leaf.cert_pem, key_pem: leaf.key_pem },
            namespace: None,
        });
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("kubeconfig");
        fs::write(&file, config.to_yaml().unwrap()).unwrap();
        assert_eq!(format!("{:?}", target(&file, "timonel-a").unwrap()), "Target(127.0.0.1:7)");
        assert!(target(&file, "timonel-b").is_err());
    }
}
