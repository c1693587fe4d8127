//! The kinds that controllers read in full: one list, from which come the shared caches, the watches and the
//! sum type of objects. It never decides anything.

use super::{
    cache::{Cache, Update},
    graph::Graph,
    view::Memory,
};
use futures::{StreamExt, stream::BoxStream};
use k8s_openapi::{
    Metadata, Resource as _,
    api::{
        apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet},
        autoscaling::v2::HorizontalPodAutoscaler,
        batch::v1::{CronJob, Job},
        certificates::v1::CertificateSigningRequest,
        coordination::v1::Lease,
        core::v1::{
            ConfigMap, Endpoints, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, ReplicationController,
            ResourceQuota, Secret, Service, ServiceAccount,
        },
        discovery::v1::EndpointSlice,
        networking::v1::{IPAddress, ServiceCIDR},
        policy::v1::PodDisruptionBudget,
        rbac::v1::ClusterRole,
        resource::v1::{ResourceClaim, ResourceClaimTemplate},
        storage::v1::{CSIDriver, CSINode, StorageClass, VolumeAttachment, VolumeAttributesClass},
        storagemigration::v1beta1::StorageVersionMigration,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::runtime::{WatchStreamExt, watcher};
use std::{fmt, sync::Arc, time::Duration};

/// Namespace and name; the namespace is empty for cluster-scoped objects. For the garbage collector the name is a uid.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Namespace, or empty.
    pub namespace: String,
    /// Name within it.
    pub name: String,
}

impl Key {
    /// The key of `name` in `namespace`.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// The key that `meta` states.
    #[must_use]
    pub fn of(meta: &ObjectMeta) -> Self {
        Self { namespace: meta.namespace.clone().unwrap_or_default(), name: meta.name.clone().unwrap_or_default() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            out.write_str(&self.name)
        } else {
            write!(out, "{}/{}", self.namespace, self.name)
        }
    }
}

/// Where a resource lives in the API.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Resource {
    /// `apps/v1`, or `v1` for the core group.
    pub api_version: Arc<str>,
    /// `ReplicaSet`.
    pub kind: Arc<str>,
    /// `replicasets`.
    pub plural: Arc<str>,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
}

impl Resource {
    /// The API group; empty for the core group.
    #[must_use]
    pub fn group(&self) -> &str {
        self.api_version.split_once('/').map_or("", |(group, _)| group)
    }

    /// The URL path of one object, or of the collection where `name` is empty.
    #[must_use]
    pub fn path(&self, namespace: &str, name: &str) -> String {
        let root = if self.api_version.contains('/') { "/apis" } else { "/api" };
        let mut path = format!("{root}/{}", self.api_version);
        if self.namespaced && !namespace.is_empty() {
            path.push_str("/namespaces/");
            path.push_str(namespace);
        }
        path.push('/');
        path.push_str(&self.plural);
        if !name.is_empty() {
            path.push('/');
            path.push_str(name);
        }
        path
    }
}

/// What a watch reported, for one kind.
#[derive(Debug)]
pub enum Signal {
    /// A fresh list begins.
    Restarted,
    /// One object of the fresh list.
    Listed(Object),
    /// The fresh list is complete.
    Complete,
    /// Added or changed.
    Applied(Object),
    /// Deleted.
    Deleted(Object),
}

/// The watch of one kind.
pub(crate) type Watch = BoxStream<'static, (Kind, Result<Signal, watcher::Error>)>;

/// How much of a kind is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    /// Every object.
    All,
    /// The objects that match a field selector.
    Fields(&'static str),
    /// The objects of one namespace.
    Namespace(&'static str),
}

/// Doubles from a quarter of a second to half a minute; the same sequence every time.
struct WatchBackoff(Duration);

impl WatchBackoff {
    const FIRST: Duration = Duration::from_millis(250);
    const LONGEST: Duration = Duration::from_secs(30);
}

impl Iterator for WatchBackoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let wait = self.0;
        self.0 = (wait * 2).min(Self::LONGEST);
        Some(wait)
    }
}

impl kube::runtime::utils::Backoff for WatchBackoff {
    fn reset(&mut self) {
        self.0 = Self::FIRST;
    }
}

/// Waits between attempts of any watch.
pub(crate) fn watch_backoff() -> impl kube::runtime::utils::Backoff {
    WatchBackoff(WatchBackoff::FIRST)
}

/// Drops what no controller reads and what costs most memory.
fn slim(meta: &mut ObjectMeta) {
    meta.managed_fields = None;
}

macro_rules! kinds {
    ($($kind:ident $field:ident $scoped:literal $scope:expr, $index:expr;)*) => {
        /// A kind that controllers read in full.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind { $(#[allow(missing_docs)] $kind),* }

        /// An object of any of these kinds.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Object { $(#[allow(missing_docs)] $kind(Arc<$kind>)),* }

        /// What every controller of a cluster decides over: one shared cache per kind, and the engine's memory.
        #[derive(Debug)]
        pub struct View {
            $(#[allow(missing_docs)] pub $field: Cache<$kind>,)*
            /// Every object's owners, finalizers and state of deletion.
            pub graph: Graph,
            /// Answers to questions, failures of earlier attempts.
            pub memory: Memory,
        }

        impl Default for View {
            fn default() -> Self {
                Self { $($field: Cache::new($index),)* graph: Graph::default(), memory: Memory::default() }
            }
        }

        impl Kind {
            /// Every kind.
            pub const ALL: &'static [Self] = &[$(Self::$kind),*];

            /// Where the kind lives in the API.
            #[must_use]
            pub fn resource(self) -> Resource {
                match self { $(Self::$kind => Resource {
                    api_version: $kind::API_VERSION.into(), kind: $kind::KIND.into(),
                    plural: $kind::URL_PATH_SEGMENT.into(), namespaced: $scoped,
                }),* }
            }

            /// The kind that `api_version` and `kind` name.
            #[must_use]
            pub fn find(api_version: &str, kind: &str) -> Option<Self> {
                $(if kind == $kind::KIND && api_version == $kind::API_VERSION { return Some(Self::$kind); })*
                None
            }

            /// Whether the cache holds every object of the kind, so that the owner graph needs no watch of its own.
            #[must_use]
            pub fn complete(self) -> bool {
                match self { $(Self::$kind => $scope == Scope::All),* }
            }

            /// The watch that feeds the kind's cache.
            pub(crate) fn watch(self, client: &kube::Client) -> Watch {
                match self { $(Self::$kind => {
                    let (api, config) = match $scope {
                        Scope::Namespace(namespace) => scoped_api(client, namespace),
                        Scope::Fields(fields) => (kube::Api::<$kind>::all(client.clone()), watcher::Config::default().fields(fields)),
                        Scope::All => (kube::Api::<$kind>::all(client.clone()), watcher::Config::default()),
                    };
                    watcher(api, config).backoff(watch_backoff()).map(|event| {
                        let signal = event.map(|event| match event {
                            watcher::Event::Init => Signal::Restarted,
                            watcher::Event::InitApply(object) => Signal::Listed(Object::from(object)),
                            watcher::Event::InitDone => Signal::Complete,
                            watcher::Event::Apply(object) => Signal::Applied(Object::from(object)),
                            watcher::Event::Delete(object) => Signal::Deleted(Object::from(object)),
                        });
                        (Self::$kind, signal)
                    }).boxed()
                })* }
            }
        }

        $(impl From<$kind> for Object {
            fn from(mut object: $kind) -> Self {
                slim(object.metadata_mut());
                Self::$kind(Arc::new(object))
            }
        })*

        impl Object {
            /// Which kind it is.
            #[must_use]
            pub fn kind(&self) -> Kind {
                match self { $(Self::$kind(_) => Kind::$kind),* }
            }

            /// Its metadata.
            #[must_use]
            pub fn meta(&self) -> &ObjectMeta {
                match self { $(Self::$kind(object) => object.metadata()),* }
            }

            /// Its JSON, with `apiVersion` and `kind`.
            pub(crate) fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
                match self { $(Self::$kind(object) => serde_json::to_vec(&**object)),* }
            }

            /// An object of `kind` from its JSON.
            pub(crate) fn parse(kind: Kind, json: &str) -> Result<Self, serde_json::Error> {
                match kind { $(Kind::$kind => serde_json::from_str::<$kind>(json).map(Self::from)),* }
            }
        }

        impl View {
            /// Whether the first list of `kind` is complete.
            #[must_use]
            pub fn synced(&self, kind: Kind) -> bool {
                match kind { $(Kind::$kind => self.$field.synced()),* }
            }

            /// Takes in what a watch reported; returns what changed.
            pub fn take(&mut self, kind: Kind, signal: Signal) -> Vec<Change> {
                match kind { $(Kind::$kind => {
                    let updates = match signal {
                        Signal::Restarted => { self.$field.restart(); Vec::new() }
                        Signal::Complete => self.$field.complete(),
                        Signal::Listed(Object::$kind(object)) => { self.$field.list(object); Vec::new() }
                        Signal::Applied(Object::$kind(object)) => self.$field.apply(object).into_iter().collect(),
                        Signal::Deleted(Object::$kind(object)) => self.$field.delete(&object).into_iter().collect(),
                        _ => Vec::new(),
                    };
                    updates.into_iter().map(|Update { old, new }| Change { old: old.map(Object::$kind), new: new.map(Object::$kind) }).collect()
                })* }
            }

            /// Takes in the result of an own write, ahead of the watch.
            pub fn wrote(&mut self, object: Object) -> Option<Change> {
                match object { $(Object::$kind(object) => self.$field.wrote(object)
                    .map(|Update { old, new }| Change { old: old.map(Object::$kind), new: new.map(Object::$kind) })),* }
            }

            /// Takes in an own deletion (or the discovery that an object is gone), ahead of the watch.
            pub fn removed(&mut self, kind: Kind, key: &Key, uid: &str) -> Option<Change> {
                match kind { $(Kind::$kind => self.$field.removed(key, uid)
                    .map(|Update { old, new }| Change { old: old.map(Object::$kind), new: new.map(Object::$kind) })),* }
            }
        }
    };
}

fn scoped_api<K>(client: &kube::Client, namespace: &str) -> (kube::Api<K>, watcher::Config)
where
    K: kube::Resource<DynamicType: Default>,
{
    // `Api::all_with` plus a field selector keeps this one function for both scopes.
    (kube::Api::all(client.clone()), watcher::Config::default().fields(&format!("metadata.namespace={namespace}")))
}

/// A change of one object, as the caches saw it.
#[derive(Clone, Debug)]
pub struct Change {
    /// The object before; none when it is new.
    pub old: Option<Object>,
    /// The object after; none when it is gone.
    pub new: Option<Object>,
}

impl Change {
    /// The latest state known.
    #[must_use]
    pub fn object(&self) -> &Object {
        self.new.as_ref().or(self.old.as_ref()).expect("a change has an old or a new object")
    }

    /// Old and new, as far as they exist.
    pub fn sides(&self) -> impl Iterator<Item = &Object> {
        self.old.iter().chain(&self.new)
    }
}

fn node_of(pod: &Pod) -> Option<String> {
    pod.spec.as_ref()?.node_name.clone()
}

fn service_of(slice: &EndpointSlice) -> Option<String> {
    let name = slice.metadata.labels.as_ref()?.get("kubernetes.io/service-name")?;
    Some(format!("{}/{name}", slice.metadata.namespace.as_deref().unwrap_or_default()))
}

fn claim_of(volume: &PersistentVolume) -> Option<String> {
    let claim = volume.spec.as_ref()?.claim_ref.as_ref()?;
    Some(format!("{}/{}", claim.namespace.as_deref()?, claim.name.as_deref()?))
}

fn attached_node(attachment: &VolumeAttachment) -> Option<String> {
    Some(attachment.spec.node_name.clone())
}

fn token_account(secret: &Secret) -> Option<String> {
    let account = secret.metadata.annotations.as_ref()?.get("kubernetes.io/service-account.name")?;
    Some(format!("{}/{account}", secret.metadata.namespace.as_deref().unwrap_or_default()))
}

fn unindexed<K>(_: &K) -> Option<String> {
    None
}

/// Secrets of the types that controllers read: the common other types are left on the server.
const SECRET_FIELDS: &str =
    "type!=Opaque,type!=helm.sh/release.v1,type!=kubernetes.io/tls,type!=kubernetes.io/dockerconfigjson";

kinds! {
    Pod pods true Scope::All, node_of;
    ReplicationController replication_controllers true Scope::All, unindexed;
    ReplicaSet replica_sets true Scope::All, unindexed;
    Deployment deployments true Scope::All, unindexed;
    StatefulSet stateful_sets true Scope::All, unindexed;
    DaemonSet daemon_sets true Scope::All, unindexed;
    ControllerRevision controller_revisions true Scope::All, unindexed;
    Job jobs true Scope::All, unindexed;
    CronJob cron_jobs true Scope::All, unindexed;
    HorizontalPodAutoscaler autoscalers true Scope::All, unindexed;
    Service services true Scope::All, unindexed;
    Endpoints endpoints true Scope::All, unindexed;
    EndpointSlice endpoint_slices true Scope::All, service_of;
    Node nodes false Scope::All, unindexed;
    Lease leases true Scope::Namespace("kube-node-lease"), unindexed;
    Namespace namespaces false Scope::All, unindexed;
    ServiceAccount service_accounts true Scope::All, unindexed;
    ConfigMap config_maps true Scope::Fields("metadata.name=kube-root-ca.crt"), unindexed;
    Secret secrets true Scope::Fields(SECRET_FIELDS), token_account;
    PersistentVolume volumes false Scope::All, claim_of;
    PersistentVolumeClaim claims true Scope::All, unindexed;
    StorageClass storage_classes false Scope::All, unindexed;
    VolumeAttachment attachments false Scope::All, attached_node;
    VolumeAttributesClass attributes_classes false Scope::All, unindexed;
    CSIDriver csi_drivers false Scope::All, unindexed;
    CSINode csi_nodes false Scope::All, unindexed;
    ResourceQuota quotas true Scope::All, unindexed;
    PodDisruptionBudget budgets true Scope::All, unindexed;
    CertificateSigningRequest signing_requests false Scope::All, unindexed;
    ClusterRole cluster_roles false Scope::All, unindexed;
    ServiceCIDR service_cidrs false Scope::All, unindexed;
    IPAddress ip_addresses false Scope::All, unindexed;
    ResourceClaim resource_claims true Scope::All, unindexed;
    ResourceClaimTemplate resource_claim_templates true Scope::All, unindexed;
    StorageVersionMigration migrations false Scope::All, unindexed;
}
