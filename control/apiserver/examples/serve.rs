//! An API server by itself, over plain HTTP on loopback and in memory: to try clients by hand and to measure.
//!
//! `serve [PORT]`; whoever connects is the administrator.

use std::{net::SocketAddr, sync::Arc};
use timonel_apiserver::{ApiServer, Caller, Config, Connection, authn::AuthnConfig};
use timonel_pki::{KeyRing, SigningKey};
use timonel_runtime::{Clock, Entropy, OnError, Tasks};
use timonel_store::MemoryStore;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let port: u16 = std::env::args().nth(1).map_or(Ok(8080), |text| text.parse())?;
    let tasks = Tasks::root("example");
    let clock = Clock::system();
    let issuer = "https://kubernetes.default.svc.cluster.local".to_owned();
    let config = Config {
        scheme: timonel_api::Scheme::kubernetes(),
        store: Arc::new(MemoryStore::new(clock.clone())),
        prefix: "/example/".into(),
        clock,
        entropy: Entropy::system(),
        authentication: AuthnConfig {
            issuers: vec![issuer.clone()],
            audiences: vec![issuer],
            anonymous: true,
            ..AuthnConfig::default()
        },
        keys: KeyRing::new(SigningKey::generate()?, Vec::new()),
        service_ranges: vec!["10.96.0.0/16".parse()?],
        node_ports: Config::NODE_PORTS,
        advertise: Some("192.0.2.1:6443".parse()?),
        public_address: format!("127.0.0.1:{port}"),
        event_ttl_seconds: Config::EVENT_TTL_SECONDS,
        nodes: None,
        local_destinations: Vec::new(),
        front_proxy: None,
        apart: Vec::new(),
        health: Vec::new(),
    };
    let server = ApiServer::new(config, &tasks).await?;
    let listener = tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], port))).await?;
    println!("http://{}", listener.local_addr()?);
    loop {
        let (io, _) = listener.accept().await?;
        io.set_nodelay(true)?;
        let serving =
            server.clone().serve_connection(io, Connection::of(Caller::internal("admin"), false), tasks.token());
        tasks.spawn("connection", OnError::Log, serving);
    }
}
