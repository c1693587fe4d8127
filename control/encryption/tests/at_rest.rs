//! Encryption at rest over a store in memory, with keys of the configuration and with a plugin that this test plays.

#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use bytes::Bytes;
use futures::StreamExt;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use parking_lot::Mutex;
use std::{path::Path, sync::Arc, time::Duration};
use timonel_encryption::{
    EncryptedStore, Encryption, Rewritten,
    v2::{
        self,
        key_management_service_server::{KeyManagementService, KeyManagementServiceServer},
    },
};
use timonel_runtime::{Clock, Entropy, OnError, Tasks};
use timonel_store::{Compare, KeyRange, KeyValue, MemoryStore, Op, OpResult, RangeRequest, Store, StoreError, Txn};
use tokio::net::UnixListener;
use tonic::{Request, Response, Status};

fn layout(key: &[u8]) -> Option<(&str, &str)> {
    let mut parts = std::str::from_utf8(key).ok()?.strip_prefix("/r/")?.split('/');
    Some((parts.next()?, parts.next()?))
}

fn config(entries: &str) -> String {
    format!("kind: EncryptionConfiguration\napiVersion: apiserver.config.k8s.io/v1\nresources:\n{entries}")
}

const ONE: &str = "aesgcm: {keys: [{name: one, secret: AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=}]}";
const TWO: &str = "aesgcm: {keys: [{name: two, secret: AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=}]}";
const CLEAR: &str = "identity: {}";

fn secrets(providers: &[&str]) -> String {
    let providers: String = providers.iter().map(|provider| format!("  - {provider}\n")).collect();
    config(&format!("- resources: [secrets]\n  providers:\n{providers}"))
}

struct World {
    raw: MemoryStore,
    store: EncryptedStore<MemoryStore>,
    encryption: Arc<Encryption>,
    tasks: Tasks,
}

async fn world(raw: MemoryStore, text: &str) -> World {
    let tasks = Tasks::root("test");
    let encryption = Encryption::from_text(text, Entropy::seeded(1), &tasks).await.unwrap();
    let store = EncryptedStore::new(raw.clone(), encryption.clone(), layout);
    World { raw, store, encryption, tasks }
}

fn memory() -> MemoryStore {
    MemoryStore::new(Clock::system())
}

async fn put(store: &impl Store, key: &'static str, value: &'static str) {
    let then = vec![Op::Put { key: key.into(), value: value.into(), lease: None }];
    store.txn(Txn { then, ..Txn::default() }).await.unwrap();
}

async fn all(store: &impl Store) -> Result<Vec<KeyValue>, StoreError> {
    Ok(store.range(RangeRequest { range: KeyRange::all(), revision: None, limit: 0 }).await?.items)
}

async fn value(store: &impl Store, key: &'static str) -> Bytes {
    store
        .range(RangeRequest { range: KeyRange::key(key), revision: None, limit: 1 })
        .await
        .unwrap()
        .items
        .remove(0)
        .value
}

fn holds(value: &[u8], text: &str) -> bool {
    value.windows(text.len()).any(|window| window == text.as_bytes())
}

#[tokio::test]
async fn only_what_is_named_is_sealed_and_readers_do_not_notice() {
    let World { raw, store, .. } = world(memory(), &secrets(&[ONE, CLEAR])).await;
    let mut watch = store.watch(KeyRange::all(), 0).await.unwrap();
    put(&store, "/r//secrets/a", "very secret").await;
    put(&store, "/r//configmaps/a", "in clear").await;
    put(&store, "/other", "in clear").await;
    assert!(value(&raw, "/r//secrets/a").await.starts_with(b"k8s:enc:aesgcm:v1:one:"));
    assert!(!all(&raw).await.unwrap().iter().any(|item| holds(&item.value, "very secret")));
    assert_eq!(value(&raw, "/r//configmaps/a").await, "in clear");
    assert_eq!(value(&store, "/r//secrets/a").await, "very secret");
    let swap = |from: &'static str, to: &'static str| Txn {
        compare: vec![Compare::Value("/r//secrets/a".into(), from.into())],
        then: vec![
            Op::Put { key: "/r//secrets/a".into(), value: to.into(), lease: None },
            Op::Get("/r//secrets/a".into()),
        ],
        ..Txn::default()
    };
    assert!(!store.txn(swap("other", "lost")).await.unwrap().succeeded);
    let swapped = store.txn(swap("very secret", "new secret")).await.unwrap();
    let [OpResult::Put(Some(before)), OpResult::Got(Some(after))] = &swapped.results[..] else { panic!("{swapped:?}") };
    assert_eq!((&before.value[..], &after.value[..]), (&b"very secret"[..], &b"new secret"[..]));
    let mut seen = Vec::new();
    while seen.len() < 4 {
        for event in watch.next().await.unwrap().unwrap().events {
            seen.push((event.current.value, event.previous.map(|previous| previous.value)));
        }
    }
    assert_eq!(seen[0], ("very secret".into(), None));
    assert_eq!(seen[3], ("new secret".into(), Some("very secret".into())));
}

#[tokio::test]
async fn keys_rotate_and_everything_is_sealed_anew() {
    let World { raw, store, .. } = world(memory(), &secrets(&[CLEAR])).await;
    for key in ["/r//secrets/a", "/r//secrets/b", "/r//configmaps/a"] {
        put(&store, key, "text").await;
    }
    let World { store, .. } = world(raw.clone(), &secrets(&[ONE, CLEAR])).await;
    put(&store, "/r//secrets/b", "text").await;
    let first = store.rewrite(KeyRange::all()).await.unwrap();
    assert_eq!(first, Rewritten { objects: 2, rewritten: 1 });
    let World { store, .. } = world(raw.clone(), &secrets(&[TWO, ONE])).await;
    assert_eq!(value(&store, "/r//secrets/a").await, "text");
    assert_eq!(store.rewrite(KeyRange::all()).await.unwrap(), Rewritten { objects: 2, rewritten: 2 });
    assert_eq!(store.rewrite(KeyRange::all()).await.unwrap(), Rewritten { objects: 2, rewritten: 0 });
    let World { store, .. } = world(raw, &secrets(&[TWO])).await;
    assert_eq!(all(&store).await.unwrap().len(), 3);
}

#[tokio::test]
async fn what_cannot_be_opened_is_named_and_never_served() {
    let World { raw, store, .. } = world(memory(), &secrets(&[ONE])).await;
    put(&store, "/r//secrets/a", "text").await;
    let moved = value(&raw, "/r//secrets/a").await;
    let then = vec![Op::Put { key: "/r//secrets/b".into(), value: moved.clone(), lease: None }];
    raw.txn(Txn { then, ..Txn::default() }).await.unwrap();
    let Err(StoreError::Corrupt(why)) = all(&store).await else { panic!("it was served") };
    assert!(why.starts_with("/r//secrets/b: "), "{why}");
    let carried = store.move_value(&"/r//secrets/a".into(), &"/r//secrets/b".into(), &moved).await.unwrap();
    let then = vec![Op::Put { key: "/r//secrets/b".into(), value: carried, lease: None }];
    raw.txn(Txn { then, ..Txn::default() }).await.unwrap();
    assert_eq!(value(&store, "/r//secrets/b").await, "text");
}

#[tokio::test]
async fn the_file_is_followed_and_a_bad_one_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("encryption.yaml");
    std::fs::write(&path, secrets(&[ONE, CLEAR])).unwrap();
    let tasks = Tasks::root("test");
    let encryption = Encryption::open(&path, Entropy::seeded(1), &tasks).await.unwrap();
    let store = EncryptedStore::new(memory(), encryption.clone(), layout);
    put(&store, "/r//secrets/a", "text").await;
    assert!(!encryption.reload(&path).await.unwrap());
    std::fs::write(&path, "kind: Other").unwrap();
    assert!(encryption.reload(&path).await.is_err());
    assert_eq!(value(&store, "/r//secrets/a").await, "text");
    std::fs::write(&path, secrets(&[TWO, ONE])).unwrap();
    assert!(encryption.reload(&path).await.unwrap());
    assert_eq!(store.rewrite(KeyRange::all()).await.unwrap().rewritten, 1);
}

/// A plugin that "encrypts" by turning bytes around and naming its key.
#[derive(Clone, Default)]
struct Plugin(Arc<Mutex<PluginState>>);

#[derive(Default)]
struct PluginState {
    key: u8,
    sick: bool,
    encrypted: u32,
    decrypted: u32,
}

impl Plugin {
    /// How often it encrypted and decrypted.
    fn asked(&self) -> (u32, u32) {
        let state = self.0.lock();
        (state.encrypted, state.decrypted)
    }

    fn turn(bytes: &[u8], key: u8) -> Vec<u8> {
        bytes.iter().map(|byte| byte ^ (0xa5 + key)).collect()
    }
}

#[tonic::async_trait]
impl KeyManagementService for Plugin {
    async fn status(&self, _: Request<v2::StatusRequest>) -> Result<Response<v2::StatusResponse>, Status> {
        let state = self.0.lock();
        let healthz = if state.sick { "no hardware" } else { "ok" };
        let key_id = format!("key-{}", state.key);
        Ok(Response::new(v2::StatusResponse { version: "v2".into(), healthz: healthz.into(), key_id }))
    }

    async fn encrypt(&self, request: Request<v2::EncryptRequest>) -> Result<Response<v2::EncryptResponse>, Status> {
        let mut state = self.0.lock();
        state.encrypted += 1;
        let annotations = [("version.example.com".to_owned(), vec![state.key])].into();
        let ciphertext = Self::turn(&request.into_inner().plaintext, state.key);
        Ok(Response::new(v2::EncryptResponse { ciphertext, key_id: format!("key-{}", state.key), annotations }))
    }

    async fn decrypt(&self, request: Request<v2::DecryptRequest>) -> Result<Response<v2::DecryptResponse>, Status> {
        let request = request.into_inner();
        let mut state = self.0.lock();
        state.decrypted += 1;
        let key = request.annotations["version.example.com"][0];
        if state.sick || request.key_id != format!("key-{key}") || request.uid.is_empty() {
            return Err(Status::internal("cannot"));
        }
        Ok(Response::new(v2::DecryptResponse { plaintext: Self::turn(&request.ciphertext, key) }))
    }
}

fn serve(plugin: Plugin, socket: &Path, tasks: &Tasks) {
    let listener = UnixListener::bind(socket).unwrap();
    let scope = tasks.child("connections");
    tasks.spawn("plugin", OnError::Log, async move {
        loop {
            let (stream, _) = listener.accept().await?;
            let service = TowerToHyperService::new(KeyManagementServiceServer::new(plugin.clone()));
            scope.spawn("connection", OnError::Log, async move {
                auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await
            });
        }
        #[allow(unreachable_code, reason = "names the type of the errors above")]
        Ok::<_, std::io::Error>(())
    });
}

#[tokio::test]
async fn a_plugin_keeps_the_key_of_keys() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("kms.sock");
    let (plugin, tasks) = (Plugin::default(), Tasks::root("plugin"));
    serve(plugin.clone(), &socket, &tasks);
    let kms = format!("kms: {{apiVersion: v2, name: vault, endpoint: 'unix://{}', timeout: 2s}}", socket.display());
    let text = secrets(&[&kms, CLEAR]);
    let first = world(memory(), &text).await;
    for key in ["/r//secrets/a", "/r//secrets/b", "/r//secrets/c"] {
        put(&first.store, key, "very secret").await;
    }
    let stored = value(&first.raw, "/r//secrets/a").await;
    assert!(stored.starts_with(b"k8s:enc:kms:v2:vault:") && !holds(&stored, "very secret"));
    assert_eq!(all(&first.store).await.unwrap().len(), 3);
    assert_eq!(plugin.asked(), (1, 0), "one seed, which is known");
    // Another control machine has a seed of its own, and asks for the first one's once.
    let second = world(first.raw.clone(), &text).await;
    assert_eq!(all(&second.store).await.unwrap().iter().filter(|item| item.value == "very secret").count(), 3);
    assert_eq!(plugin.asked(), (2, 1));
    assert_eq!(second.store.rewrite(KeyRange::all()).await.unwrap(), Rewritten { objects: 3, rewritten: 0 });
    // The plugin's key is rotated.
    plugin.0.lock().key = 1;
    second.encryption.look().await.unwrap();
    assert_eq!(second.store.rewrite(KeyRange::all()).await.unwrap(), Rewritten { objects: 3, rewritten: 3 });
    // It falls ill: what is known can be read, and sealed for a while.
    plugin.0.lock().sick = true;
    assert!(second.encryption.look().await.is_err());
    assert_eq!(value(&second.store, "/r//secrets/a").await, "very secret");
    put(&second.store, "/r//secrets/d", "very secret").await;
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(181)).await;
    let then = vec![Op::Put { key: "/r//secrets/e".into(), value: "text".into(), lease: None }];
    let refused = second.store.txn(Txn { then, ..Txn::default() }).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    tokio::time::resume();
    // A server that starts meanwhile says why it does not.
    let refused = Encryption::from_text(&text, Entropy::seeded(2), &tasks).await.unwrap_err();
    assert!(refused.to_string().contains("vault"), "{refused}");
    second.tasks.shutdown(Duration::from_secs(1)).await;
}
