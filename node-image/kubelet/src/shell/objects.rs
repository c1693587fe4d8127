//! Config maps and secrets that pods of this node use: fetched at first use, then watched one by one until no pod
//! uses them, so that a change reaches its pods at once. Nothing else of a namespace is ever read.

use crate::decide::env::ServiceLink;
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, Resource};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};
use std::{fmt::Debug, sync::Arc};
use timonel_runtime::{OnError, Tasks};
use tokio::sync::Notify;

/// Namespace and name.
type Key = (String, String);
type OnChange = Arc<dyn Fn(&str) + Send + Sync>;

struct Entry<K> {
    value: Option<Arc<K>>,
    pods: BTreeSet<String>,
    watching: Tasks,
}

/// Objects of one kind in use.
pub(crate) struct Store<K> {
    client: Client,
    tasks: Tasks,
    entries: Arc<Mutex<BTreeMap<Key, Entry<K>>>>,
    on_change: OnChange,
}

impl<K> Store<K>
where
    K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    pub(crate) fn new(client: Client, tasks: Tasks, on_change: OnChange) -> Self {
        Self { client, tasks, entries: Arc::default(), on_change }
    }

    /// The object, or nothing when it does not exist; from then on the pod hears of changes.
    pub(crate) async fn get(&self, namespace: &str, name: &str, pod: &str) -> Result<Option<Arc<K>>, kube::Error> {
        let key = (namespace.to_owned(), name.to_owned());
        if let Some(entry) = self.entries.lock().get_mut(&key) {
            entry.pods.insert(pod.to_owned());
            if entry.value.is_some() {
                return Ok(entry.value.clone());
            }
        }
        let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
        let value = api.get_opt(name).await?.map(Arc::new);
        let mut entries = self.entries.lock();
        let entry = entries.entry(key.clone()).or_insert_with(|| {
            let watching = self.tasks.child(name);
            self.watch(&watching, api, key);
            Entry { value: None, pods: BTreeSet::new(), watching }
        });
        entry.pods.insert(pod.to_owned());
        if value.is_some() {
            entry.value.clone_from(&value);
        }
        Ok(value)
    }

    fn watch(&self, tasks: &Tasks, api: Api<K>, key: Key) {
        let (entries, on_change) = (self.entries.clone(), self.on_change.clone());
        let config = watcher::Config::default().fields(&format!("metadata.name={}", key.1));
        tasks.spawn("watch", OnError::Log, async move {
            let mut stream = watcher(api, config).default_backoff().boxed();
            while let Some(event) = stream.next().await {
                let value = match event {
                    Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object)) => Some(Arc::new(object)),
                    Ok(watcher::Event::Delete(_)) => None,
                    _ => continue,
                };
                let pods = update(&entries, &key, value);
                pods.iter().for_each(|pod| on_change(pod));
            }
            Ok::<(), kube::Error>(())
        });
    }

    /// A pod is gone; what nobody else uses is no longer watched.
    pub(crate) fn release(&self, pod: &str) {
        self.entries.lock().retain(|_, entry| {
            entry.pods.remove(pod);
            if entry.pods.is_empty() {
                entry.watching.token().cancel();
            }
            !entry.pods.is_empty()
        });
    }
}

/// Takes a watched version in; gives the pods to tell, none when it is known already.
fn update<K: Resource>(entries: &Mutex<BTreeMap<Key, Entry<K>>>, key: &Key, value: Option<Arc<K>>) -> Vec<String> {
    let mut entries = entries.lock();
    let Some(entry) = entries.get_mut(key) else { return Vec::new() };
    let version = |object: &Option<Arc<K>>| object.as_ref().and_then(|object| object.meta().resource_version.clone());
    if version(&entry.value) == version(&value) {
        return Vec::new();
    }
    entry.value = value;
    entry.pods.iter().cloned().collect()
}

/// Both kinds.
pub(crate) struct Objects {
    pub(crate) config_maps: Store<ConfigMap>,
    pub(crate) secrets: Store<Secret>,
}

impl Objects {
    pub(crate) fn new(client: &Client, tasks: &Tasks, on_change: OnChange) -> Self {
        Self {
            config_maps: Store::new(client.clone(), tasks.child("configmaps"), on_change.clone()),
            secrets: Store::new(client.clone(), tasks.child("secrets"), on_change),
        }
    }

    pub(crate) fn release(&self, pod: &str) {
        self.config_maps.release(pod);
        self.secrets.release(pod);
    }
}

/// Services as pods see them in their environment.
#[derive(Default)]
pub(crate) struct Services {
    links: Mutex<BTreeMap<Key, ServiceLink>>,
    synced: std::sync::atomic::AtomicBool,
    arrived: Notify,
}

/// Longest that a container's start waits for the first list of services.
const SYNC_LIMIT: std::time::Duration = std::time::Duration::from_secs(5);

impl Services {
    /// Follows all services until the scope ends.
    pub(crate) fn run(self: &Arc<Self>, client: Client, tasks: &Tasks) {
        let this = self.clone();
        tasks.spawn("services", OnError::Log, async move {
            let mut stream = watcher(Api::<Service>::all(client), watcher::Config::default()).default_backoff().boxed();
            let mut fresh = BTreeMap::new();
            while let Some(event) = stream.next().await {
                match event {
                    Ok(watcher::Event::Init) => fresh.clear(),
                    Ok(watcher::Event::InitApply(service)) => note(&mut fresh, &service, true),
                    Ok(watcher::Event::InitDone) => {
                        *this.links.lock() = std::mem::take(&mut fresh);
                        this.synced.store(true, std::sync::atomic::Ordering::Release);
                        this.arrived.notify_waiters();
                    }
                    Ok(watcher::Event::Apply(service)) => note(&mut this.links.lock(), &service, true),
                    Ok(watcher::Event::Delete(service)) => note(&mut this.links.lock(), &service, false),
                    Err(error) => tracing::debug!(%error, "watch of services"),
                }
            }
            Ok::<(), kube::Error>(())
        });
    }

    /// The services of a namespace and of `default`.
    pub(crate) async fn links(&self, namespace: &str) -> Vec<ServiceLink> {
        let arrived = self.arrived.notified();
        if !self.synced.load(std::sync::atomic::Ordering::Acquire) {
            let _ = tokio::time::timeout(SYNC_LIMIT, arrived).await;
        }
        let links = self.links.lock();
        let wanted = links.values().filter(|link| link.namespace == namespace || link.namespace == "default");
        wanted.cloned().collect()
    }
}

fn note(links: &mut BTreeMap<Key, ServiceLink>, service: &Service, present: bool) {
    let key =
        (service.metadata.namespace.clone().unwrap_or_default(), service.metadata.name.clone().unwrap_or_default());
    let spec = service.spec.clone().unwrap_or_default();
    let ip = spec.cluster_ip.filter(|ip| !ip.is_empty() && ip != "None");
    match ip.filter(|_| present) {
        None => {
            links.remove(&key);
        }
        Some(ip) => {
            let ports = spec.ports.unwrap_or_default().into_iter();
            let ports = ports
                .map(|port| (port.name.unwrap_or_default(), port.protocol.unwrap_or_else(|| "TCP".into()), port.port))
                .collect();
            links.insert(key.clone(), ServiceLink { namespace: key.0, name: key.1, ip, ports });
        }
    }
}
