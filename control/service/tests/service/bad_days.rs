//! Peers that misbehave at the port.

use crate::support::World;
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, api::ListParams};
use std::{io::ErrorKind, time::Duration};
use timonel_fleet::ClusterSpec;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// More than a listener keeps of those that say nothing.
const SILENT: usize = 1_200;

async fn connect(port: i32) -> TcpStream {
    TcpStream::connect(("127.0.0.1", u16::try_from(port).unwrap())).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_say_nothing_keep_nobody_out() {
    let world = World::start().await;
    let status = world.create("a", ClusterSpec::default()).await;
    let mut silent = Vec::with_capacity(SILENT);
    for _ in 0..SILENT {
        silent.push(connect(status.port).await);
    }
    let namespaces: Api<Namespace> = Api::all(world.client("a").await);
    timeout(Duration::from_secs(10), namespaces.list(&ListParams::default())).await.expect("in time").unwrap();
    // The first to come was the first to go.
    let mut rest = Vec::new();
    let ended = timeout(Duration::from_secs(30), silent[0].read_to_end(&mut rest)).await.expect("ended");
    assert!(ended.is_ok_and(|read| read == 0) || rest.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_tls_ends_at_once() {
    let world = World::start().await;
    let status = world.create("a", ClusterSpec::default()).await;
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0x16, 3, 1, 0xff, 0xff], &[0; 4096]] {
        let mut stream = connect(status.port).await;
        // The other side may be gone before all is written.
        let _ = stream.write_all(garbage).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        match timeout(Duration::from_secs(15), stream.read_to_end(&mut answer)).await.expect("ended") {
            Ok(_) => assert!(answer.len() < 64, "{answer:?}"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
    }
}
