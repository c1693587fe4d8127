//! What only a real etcd can show beside the shared suite: TLS with client certificates, users, a full quota, several
//! compactors, bounds of a stock server.

use super::{EtcdStore, EtcdTls, EtcdUser, compactor, testing::Server};
use crate::{
    Compare, KeyRange, Op, RangeRequest, Store, StoreError, Txn, suite,
    types::{Revision, WatchStream},
};
use futures::StreamExt;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};
use timonel_runtime::Tasks;

async fn open(server: &Server) -> (EtcdStore, Tasks) {
    let tasks = Tasks::root("test");
    (EtcdStore::open(server.config(), &tasks).await.unwrap(), tasks)
}

async fn event(watch: &mut WatchStream) -> Revision {
    let next = async {
        loop {
            let batch = watch.next().await.unwrap().unwrap();
            if !batch.events.is_empty() {
                return batch.revision;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), next).await.expect("the watch delivers")
}

/// An authority, and a certificate with key signed by it for both sides.
fn certificates() -> (String, String, String) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let leaf = params.signed_by(&key, &authority).unwrap();
    (authority.pem(), leaf.pem(), key.serialize_pem())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_with_certificates_on_both_sides() {
    let folder = tempfile::tempdir().unwrap();
    let (authority, certificate, key) = certificates();
    let mut flags = vec!["--client-cert-auth".to_owned()];
    let files = [("trusted-ca-file", &authority), ("cert-file", &certificate), ("key-file", &key)];
    for (name, pem) in files {
        let path = folder.path().join(name);
        std::fs::write(&path, pem).unwrap();
        flags.push(format!("--{name}={}", path.display()));
    }
    let server = Server::start_with("https", &flags);
    let tasks = Tasks::root("test");
    let mut config = server.config();
    config.tls = Some(EtcdTls { authorities: authority.clone(), client: Some((certificate, key)) });
    let store = EtcdStore::open(config.clone(), &tasks).await.unwrap();
    let mut watch = store.watch(KeyRange::all(), 0).await.unwrap();
    let written = suite::write(&store, vec![suite::put("a", "1")]).await.revision;
    assert_eq!(event(&mut watch).await, written);
    config.deadline = Duration::from_secs(1);
    config.tls = Some(EtcdTls { authorities: authority, client: None });
    assert!(EtcdStore::open(config.clone(), &tasks).await.is_err(), "without a certificate");
    config.tls = Some(EtcdTls { authorities: certificates().0, client: None });
    assert!(EtcdStore::open(config, &tasks).await.is_err(), "another authority");
}

/// A call of etcd's own HTTP gateway, for what the store never does itself.
fn gateway(port: u16, path: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let length = body.len();
    write!(stream, "POST /v3/{path} HTTP/1.0\r\nHost: etcd\r\nContent-Length: {length}\r\n\r\n{body}").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains(" 200 "), "{path}: {answer}");
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_and_their_tokens() {
    // Tokens soon end: the store gets itself new ones.
    let server = Server::start(&["--auth-token-ttl=1".to_owned()]);
    let (first, _tasks) = open(&server).await;
    suite::write(&first, vec![suite::put("a", "1")]).await;
    for (path, body) in [
        ("auth/user/add", r#"{"name": "root", "password": "secret"}"#),
        ("auth/role/add", r#"{"name": "root"}"#),
        ("auth/user/grant", r#"{"user": "root", "role": "root"}"#),
        ("auth/enable", "{}"),
    ] {
        gateway(server.port, path, body);
    }
    let tasks = Tasks::root("test");
    let mut config = server.config();
    config.user = Some(EtcdUser { name: "root".into(), password: "secret".into() });
    let store = EtcdStore::open(config.clone(), &tasks).await.unwrap();
    let mut watch = store.watch(KeyRange::all(), 0).await.unwrap();
    for _ in 0..2 {
        // Longer than a token lasts, the time that etcd takes to see it included.
        tokio::time::sleep(Duration::from_secs(3)).await;
        let written = suite::write(&store, vec![suite::put("a", "2")]).await.revision;
        assert_eq!(event(&mut watch).await, written);
    }
    config.user = Some(EtcdUser { name: "root".into(), password: "wrong".into() });
    config.deadline = Duration::from_secs(2);
    let refused = EtcdStore::open(config, &tasks).await.unwrap_err();
    let told = std::error::Error::source(&refused).map(ToString::to_string).unwrap_or_default();
    assert!(told.contains("authentication failed"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_quota_is_told_and_reads_go_on() {
    let server = Server::start(&["--quota-backend-bytes=16777216".to_owned()]);
    let (store, _tasks) = open(&server).await;
    let mut refused = None;
    for number in 0..200 {
        let value = vec![b'x'; 400_000].into();
        let then = vec![Op::Put { key: format!("k{number}").into(), value, lease: None }];
        if let Err(error) = store.txn(Txn { then, ..Txn::default() }).await {
            refused = Some(error);
            break;
        }
    }
    assert!(matches!(refused, Some(StoreError::NoSpace(_))), "{refused:?}");
    let found = store.range(RangeRequest { range: KeyRange::all(), revision: None, limit: 3 }).await.unwrap();
    assert_eq!(found.items.len(), 3);
    store.txn(Txn { then: vec![suite::delete("k0")], ..Txn::default() }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compactors_take_turns() {
    let server = Server::start(&[]);
    let ((one, _a), (two, _b)) = (open(&server).await, open(&server).await);
    let mut seen = [compactor::Seen::default(), compactor::Seen::default()];
    let mut old = Vec::new();
    for _ in 0..4 {
        old.push(suite::write(&one, vec![suite::put("a", "1")]).await.revision);
        for (store, seen) in [&one, &two].into_iter().zip(&mut seen) {
            *seen = compactor::look(&store.shared, *seen).await.unwrap();
        }
    }
    let request = |revision| RangeRequest { range: KeyRange::all(), revision: Some(revision), limit: 0 };
    let gone = two.range(request(old[0])).await;
    assert!(matches!(gone, Err(StoreError::Compacted { .. })), "{:?}", gone.map(|found| found.count));
    assert_eq!(two.range(request(old[3])).await.unwrap().count, 1, "the last interval stays");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_stores_and_a_stranger_in_one_etcd() {
    let server = Server::start(&[]);
    let tasks = Tasks::root("test");
    let mut config = server.config();
    let one = EtcdStore::open(config.clone(), &tasks).await.unwrap();
    config.prefix = "/test2".into();
    let two = EtcdStore::open(config, &tasks).await.unwrap();
    let mut watch = one.watch(KeyRange::all(), 0).await.unwrap();
    suite::write(&two, vec![suite::put("a", "other")]).await;
    gateway(server.port, "kv/put", r#"{"key": "L3JlZ2lzdHJ5L2E=", "value": "eA=="}"#);
    // What others write moves the revision, and is not seen.
    let newest = one.revision().await.unwrap();
    one.request_progress(KeyRange::all()).await.unwrap();
    assert!(suite::until(&mut watch, newest).await.is_empty());
    assert!(suite::read(&one, KeyRange::all(), None).await.is_empty());
    let compare = vec![Compare::ModRevision("a".into(), 0)];
    assert!(one.txn(Txn { compare, then: vec![suite::put("a", "own")], ..Txn::default() }).await.unwrap().succeeded);
    assert_eq!(suite::read(&two, KeyRange::all(), None).await[0].value, "other");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_from_long_ago_joins_what_only_etcd_remembers() {
    let server = Server::start(&[]);
    let (one, _a) = open(&server).await;
    let first = suite::write(&one, vec![suite::put("a", "1")]).await.revision;
    let mut written = vec![first];
    for number in 0..50 {
        let ops = vec![suite::put(&format!("k{number}"), "1"), suite::put("a", &number.to_string())];
        written.push(suite::write(&one, ops).await.revision);
    }
    // Another client has seen none of that.
    let (two, _b) = open(&server).await;
    let mut watch = two.watch(KeyRange::key("a"), first).await.unwrap();
    let last = suite::write(&one, vec![suite::put("a", "last")]).await.revision;
    let events = suite::until(&mut watch, last).await;
    let revisions: Vec<_> = events.iter().map(|event| event.current.mod_revision).collect();
    written.push(last);
    assert_eq!(revisions, written);
}
