//! Two control machines on one etcd: both serve every cluster, one of them runs what must run once, and when it goes
//! the other takes over.

#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use async_trait::async_trait;
use base64::{Engine, prelude::BASE64_STANDARD as BASE64};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use k8s_openapi::api::{
    certificates::v1::CertificateSigningRequest,
    core::v1::{ConfigMap, Namespace, Node, ServiceAccount},
};
use kube::{
    Api, Client, Config,
    api::{DeleteParams, ObjectMeta, PostParams},
    client::Body,
    config::{KubeConfigOptions, Kubeconfig},
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use serde_json::{Value, json};
use std::{
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};
use timonel_fleet::{Cluster, ClusterPhase, ClusterSpec, TUNNEL_ALPN};
use timonel_runtime::{Clock, Entropy, Tasks};
use timonel_service::{LeaderTimes, Service, ServiceConfig};
use timonel_store::{EtcdConfig, EtcdStore, KeyRange, RangeRequest, Store};
use timonel_tunnel::{Incoming, StreamHandler, Target, TunnelClient};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_rustls::TlsConnector;

const PATIENCE: Duration = Duration::from_secs(120);
const TIMES: LeaderTimes =
    LeaderTimes { renew: Duration::from_millis(500), give_up: Duration::from_secs(4), lease: Duration::from_secs(6) };

struct Etcd {
    child: Child,
    port: u16,
    _directory: tempfile::TempDir,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn etcd() -> Etcd {
    let directory = tempfile::tempdir().unwrap();
    let listeners: Vec<_> = (0..2).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let ports: Vec<_> = listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect();
    drop(listeners);
    let url = |at: usize| format!("http://127.0.0.1:{}", ports[at]);
    let child = Command::new(std::env::var("TIMONEL_ETCD").unwrap_or_else(|_| "etcd".to_owned()))
        .arg(format!("--data-dir={}", directory.path().display()))
        .args([format!("--listen-client-urls={}", url(0)), format!("--advertise-client-urls={}", url(0))])
        .args([format!("--listen-peer-urls={}", url(1)), format!("--initial-advertise-peer-urls={}", url(1))])
        .arg(format!("--initial-cluster=default={}", url(1)))
        .args(["--logger=zap", "--log-level=error"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("etcd of the Debian package etcd-server");
    Etcd { child, port: ports[0], _directory: directory }
}

struct Machine {
    service: Service,
    store: EtcdStore,
    data: tempfile::TempDir,
    tasks: Tasks,
}

async fn machine(etcd: &Etcd, address: &str) -> Machine {
    let data = tempfile::tempdir().unwrap();
    // The operator gives every machine the same master key.
    std::fs::write(data.path().join("master.key"), [7; 32]).unwrap();
    let tasks = Tasks::root("machine");
    let mut config = EtcdConfig::parse(&format!("etcd://127.0.0.1:{}", etcd.port), Entropy::system()).unwrap();
    config.deadline = PATIENCE;
    let store = EtcdStore::open(config, &tasks).await.unwrap();
    let config = ServiceConfig {
        store: Arc::new(store.clone()),
        apart: Vec::new(),
        election: Some(TIMES),
        encryption: None,
        opener: None,
        cluster_ports: ServiceConfig::CLUSTER_PORTS,
        direct_nodes: Vec::new(),
        local_destinations: vec!["127.0.0.0/8".parse().unwrap()],
        fleet_access: timonel_service::AccessConfig::default(),
        data: data.path().to_owned(),
        listen: vec![format!("{address}:0").parse().unwrap()],
        node_endpoint: String::new(),
        peer_endpoint: String::new(),
        public_endpoint: String::new(),
        clock: Clock::system(),
        entropy: Entropy::system(),
        verifier: None,
        cloud: None,
    };
    let service = Service::start(config, &tasks).await.unwrap();
    Machine { service, store, data, tasks }
}

/// A client of the cluster through a machine's own port, once that machine serves it.
async fn client(data: &Path, cluster: &str) -> Client {
    let open = async {
        loop {
            let file = Kubeconfig::read_from(data.join("kubeconfig"));
            let options =
                KubeConfigOptions { context: Some(format!("timonel-{cluster}")), ..KubeConfigOptions::default() };
            if let Ok(file) = file
                && let Ok(config) = Config::from_custom_kubeconfig(file, &options).await
            {
                return Client::try_from(config).unwrap();
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, open).await.expect("the machine serves the cluster")
}

async fn until<F: Future<Output = bool>>(what: &str, look: impl Fn() -> F) {
    let looks = async {
        while !look().await {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, looks).await.unwrap_or_else(|_| panic!("{what}"));
}

/// Controllers run somewhere: a new namespace gets its service account.
async fn controllers_run(client: &Client, namespace: &str) {
    let object = Namespace {
        metadata: ObjectMeta { name: Some(namespace.into()), ..ObjectMeta::default() },
        ..Namespace::default()
    };
    Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &object).await.unwrap();
    let accounts = Api::<ServiceAccount>::namespaced(client.clone(), namespace);
    until("controllers run", || async { accounts.get_opt("default").await.is_ok_and(|found| found.is_some()) }).await;
}

/// A client of the fleet through a machine's port.
async fn patient(data: &Path) -> Client {
    let file = Kubeconfig::read_from(data.join("kubeconfig")).unwrap();
    let options = KubeConfigOptions { context: Some("timonel".into()), ..KubeConfigOptions::default() };
    Client::try_from(Config::from_custom_kubeconfig(file, &options).await.unwrap()).unwrap()
}

async fn send(client: &Client, request: Request<Body>) -> (StatusCode, Bytes) {
    let answer = client.send(request).await.unwrap();
    let status = answer.status();
    (status, answer.into_body().collect().await.unwrap().to_bytes())
}

/// The cluster goes into an archive while it runs, and out of it under another name.
async fn backed_up_and_restored(fleet: &Client, machine: &Machine) {
    let path = |name: &str, what: &str| format!("/timonel/v1/projects/default/clusters/{name}/{what}");
    let taken = send(fleet, Request::get(path("demo", "backup")).body(Body::empty()).unwrap()).await;
    assert_eq!(taken.0, StatusCode::OK);
    let upload = |name: &str, archive: Vec<u8>| Request::post(path(name, "restore")).body(Body::from(archive)).unwrap();
    let mut damaged = taken.1.to_vec();
    damaged[taken.1.len() / 2] ^= 1;
    assert_eq!(send(fleet, upload("copy", damaged)).await.0, StatusCode::BAD_REQUEST);
    assert_eq!(send(fleet, upload("copy", taken.1[..taken.1.len() - 9].to_vec())).await.0, StatusCode::BAD_REQUEST);
    assert_eq!(send(fleet, upload("demo", taken.1.to_vec())).await.0, StatusCode::CONFLICT, "it is there");
    let (status, told) = send(fleet, upload("copy", taken.1.to_vec())).await;
    assert_eq!(status, StatusCode::OK, "{told:?}");
    let copy = client(machine.data.path(), "copy").await;
    let config_map = Api::<ConfigMap>::default_namespaced(copy.clone()).get("written-7").await.unwrap();
    assert_eq!(config_map.metadata.name.as_deref(), Some("written-7"));
    controllers_run(&copy, "restored").await;
}

/// A kubelet that says which node it is of.
struct Kubelet(&'static str);

#[async_trait]
impl StreamHandler for Kubelet {
    async fn handle(&self, _: &str, target: Target, stream: Incoming) -> std::io::Result<()> {
        assert_eq!(target, Target::Kubelet);
        let mut stream = stream.accept().await?;
        let mut request = [0; 4096];
        assert!(stream.read(&mut request).await? > 0);
        let answer =
            format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{}", self.0.len(), self.0);
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await
    }
}

/// The identity of a node, which the cluster signs, and its authority, in PEM.
async fn identity(client: &Client, machine: &Machine, node: &str) -> (String, String, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut request = rcgen::CertificateParams::default();
    request.distinguished_name.push(rcgen::DnType::CommonName, format!("system:node:{node}"));
    let request = request.serialize_request(&key).unwrap().pem().unwrap();
    let csr = json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": node},
        "spec": {"signerName": "kubernetes.io/kube-apiserver-client", "usages": ["client auth"],
            "request": BASE64.encode(request)}});
    let path = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let send = |request: http::request::Builder, body: Value| {
        let request = request.header("content-type", "application/json").body(body.to_string().into_bytes()).unwrap();
        client.request::<Value>(request)
    };
    let mut csr = send(Request::post(path), csr).await.unwrap();
    csr["status"] = json!({"conditions": [{"type": "Approved", "status": "True", "reason": "Test"}]});
    send(Request::put(format!("{path}/{node}/approval")), csr).await.unwrap();
    let get = || async { send(Request::get(format!("{path}/{node}")), Value::Null).await.unwrap() };
    until("the certificate", || async { get().await["status"]["certificate"].is_string() }).await;
    let certificate = BASE64.decode(get().await["status"]["certificate"].as_str().unwrap()).unwrap();
    let file = Kubeconfig::read_from(machine.data.path().join("kubeconfig")).unwrap();
    let cluster = file.clusters.into_iter().find(|one| one.name == "timonel-demo").unwrap().cluster.unwrap();
    let authority = BASE64.decode(cluster.certificate_authority_data.unwrap()).unwrap();
    (String::from_utf8(certificate).unwrap(), key.serialize_pem(), String::from_utf8(authority).unwrap())
}

/// A node's tunnel to a machine.
async fn tunnel(client: &Client, machine: &Machine, node: &'static str) -> TunnelClient {
    let (certificate, key, authority) = identity(client, machine, node).await;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.as_bytes()).unwrap()).unwrap();
    let chain = CertificateDer::pem_slice_iter(certificate.as_bytes()).map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let config = rustls::ClientConfig::builder().with_root_certificates(roots);
    let mut config = config.with_client_auth_cert(chain, key).unwrap();
    config.alpn_protocols = vec![TUNNEL_ALPN.as_bytes().to_vec()];
    let file = Kubeconfig::read_from(machine.data.path().join("kubeconfig")).unwrap();
    let cluster = file.clusters.into_iter().find(|one| one.name == "timonel-demo").unwrap().cluster.unwrap();
    let server: http::Uri = cluster.server.unwrap().parse().unwrap();
    let stream = TcpStream::connect((server.host().unwrap(), server.port_u16().unwrap())).await.unwrap();
    let name = cluster.tls_server_name.unwrap_or_else(|| server.host().unwrap().to_owned());
    let stream =
        TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(name).unwrap(), stream).await.unwrap();
    TunnelClient::start(stream, &machine.tasks, Arc::new(Kubelet(node)))
}

/// Whichever machine a node is connected to, its kubelet answers through either; when it moves, too.
async fn a_node_is_reached_from_both(machines: [(&Machine, &Client); 2]) {
    let [first, second] = machines;
    let meta = ObjectMeta { name: Some("n-1".into()), ..ObjectMeta::default() };
    let node = Node { metadata: meta, ..Node::default() };
    Api::<Node>::all(first.1.clone()).create(&PostParams::default(), &node).await.unwrap();
    let ask = async |client: &Client| {
        let path = "/api/v1/nodes/n-1/proxy/healthz";
        client.request_text(Request::get(path).body(Vec::new()).unwrap()).await
    };
    let nobody = ask(first.1).await.unwrap_err().to_string();
    assert!(nobody.contains("not connected"), "{nobody}");
    let here = tunnel(first.1, first.0, "n-1").await;
    for (_, client) in [first, second] {
        until("the node answers", || async { ask(client).await.is_ok_and(|text| text == "n-1") }).await;
    }
    drop(here);
    let identity = Api::<CertificateSigningRequest>::all(first.1.clone());
    identity.delete("n-1", &DeleteParams::default()).await.unwrap();
    let _there = tunnel(second.1, second.0, "n-1").await;
    for (_, client) in [first, second] {
        until("the node answers elsewhere", || async { ask(client).await.is_ok_and(|text| text == "n-1") }).await;
    }
    Api::<Node>::all(first.1.clone()).delete("n-1", &DeleteParams::default()).await.unwrap();
}

fn step(start: &tokio::time::Instant, what: &str) {
    println!("{:?}: {what}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_serve_and_one_leads() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let etcd = etcd();
    let start = tokio::time::Instant::now();
    // Each has an address of its own, as two machines do: clusters have the same port on all of them.
    let (first, second) = tokio::join!(machine(&etcd, "127.0.0.1"), machine(&etcd, "127.0.0.2"));
    let fleet = Api::<Cluster>::namespaced(first.service.fleet_client("masters"), "default");
    let spec = ClusterSpec { version: "1.36".into(), ..ClusterSpec::default() };
    fleet.create(&PostParams::default(), &Cluster::new("default", "demo", spec)).await.unwrap();
    until("the cluster is ready", || async {
        let phase = fleet.get("demo").await.ok().and_then(|cluster| cluster.status).map(|status| status.phase);
        phase == Some(ClusterPhase::Ready)
    })
    .await;
    let (one, two) = (client(first.data.path(), "demo").await, client(second.data.path(), "demo").await);
    for number in 0..20 {
        let name = format!("written-{number}");
        let metadata = ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() };
        let object = ConfigMap { metadata, ..ConfigMap::default() };
        let (here, there) = if number % 2 == 0 { (&one, &two) } else { (&two, &one) };
        Api::<ConfigMap>::default_namespaced(here.clone()).create(&PostParams::default(), &object).await.unwrap();
        // What one machine acknowledged the other shows, at once.
        Api::<ConfigMap>::default_namespaced(there.clone()).get(&name).await.unwrap();
    }
    controllers_run(&two, "before").await;
    step(&start, "both serve");
    a_node_is_reached_from_both([(&first, &one), (&second, &two)]).await;
    step(&start, "a node of one is reached from both");
    let fleet_client = patient(second.data.path()).await;
    backed_up_and_restored(&fleet_client, &second).await;
    step(&start, "restored");
    // Whoever leads, the other goes on alone; and it leads when the leader goes.
    assert!(first.service.stop().await);
    first.tasks.shutdown(Duration::from_secs(5)).await;
    step(&start, "the first has stopped");
    controllers_run(&two, "after").await;
    step(&start, "the second leads");
    let fleet = Api::<Cluster>::namespaced(second.service.fleet_client("masters"), "default");
    let uid = fleet.get("demo").await.unwrap().metadata.uid.unwrap();
    fleet.delete("demo", &DeleteParams::default()).await.unwrap();
    until("the cluster is gone", || async { fleet.get_opt("demo").await.is_ok_and(|found| found.is_none()) }).await;
    step(&start, "the cluster is gone");
    let left = RangeRequest { range: KeyRange::prefix(format!("/clusters/{uid}/")), revision: None, limit: 0 };
    assert_eq!(second.store.range(left).await.unwrap().count, 0);
    second.service.stop().await;
    second.tasks.shutdown(Duration::from_secs(5)).await;
}
