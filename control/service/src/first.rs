//! The objects that every hosted cluster starts with beyond upstream's defaults. The Service `kubernetes` and what
//! extension API servers trust are put back whenever somebody changes them.

use crate::tenant::TenantError;
use futures::{StreamExt, stream};
use k8s_openapi::{
    api::{
        core::v1::{ConfigMap, Endpoints, Service, ServicePort, ServiceSpec},
        discovery::v1::EndpointSlice,
        rbac::v1::{ClusterRoleBinding, RoleRef, Subject},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client, Resource,
    api::PostParams,
    runtime::{WatchStreamExt, watcher},
};
use serde::{Serialize, de::DeserializeOwned};
use std::{fmt::Debug, sync::Arc, time::Duration};
use timonel_apiserver::ApiServer;
use timonel_pki::ClusterPki;
use timonel_runtime::{OnError, Tasks};

/// Shortest time between two repairs.
const REPAIR_PAUSE: Duration = Duration::from_secs(1);

/// Where servers beside the API read whom to trust.
const TRUST: &str = "extension-apiserver-authentication";

/// Makes those that are not there.
pub(crate) async fn objects(client: &Client, dns_address: &str, pki: &ClusterPki) -> Result<(), TenantError> {
    keep_trust(client, &trust(pki)).await?;
    ensure(&Api::all(client.clone()), &proxiers(), "ClusterRoleBinding timonel:node-proxiers").await?;
    let services: Api<Service> = Api::namespaced(client.clone(), "kube-system");
    ensure(&services, &dns(dns_address), "Service kube-system/kube-dns").await
}

/// What servers beside the API need to know whom to trust: controller managers, schedulers and extension API servers
/// read it at their start.
fn trust(pki: &ClusterPki) -> ConfigMap {
    let data = [
        ("client-ca-file", pki.cluster_ca.cert_pem()),
        ("requestheader-client-ca-file", pki.front_proxy_ca.cert_pem()),
        ("requestheader-allowed-names", r#"["front-proxy-client"]"#),
        ("requestheader-username-headers", r#"["X-Remote-User"]"#),
        ("requestheader-uid-headers", r#"["X-Remote-Uid"]"#),
        ("requestheader-group-headers", r#"["X-Remote-Group"]"#),
        ("requestheader-extra-headers-prefix", r#"["X-Remote-Extra-"]"#),
    ];
    ConfigMap {
        metadata: ObjectMeta { name: Some(TRUST.to_owned()), ..ObjectMeta::default() },
        data: Some(data.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
        ..ConfigMap::default()
    }
}

/// Writes what is to be trusted, when it is not there or says something else; what others added stays.
async fn keep_trust(client: &Client, wanted: &ConfigMap) -> Result<(), TenantError> {
    const WHAT: &str = "ConfigMap kube-system/extension-apiserver-authentication";
    let failed = |source| TenantError::Bootstrap { what: WHAT, source: Box::new(source) };
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "kube-system");
    ensure(&maps, wanted, WHAT).await?;
    let Some(mut found) = maps.get_opt(TRUST).await.map_err(failed)? else { return Ok(()) };
    let data = found.data.get_or_insert_default();
    let wanted = wanted.data.iter().flatten();
    let missing: Vec<_> = wanted.filter(|(key, value)| data.get(*key) != Some(value)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    data.extend(missing.into_iter().map(|(key, value)| (key.clone(), value.clone())));
    match maps.replace(TRUST, &PostParams::default(), &found).await {
        Ok(_) => Ok(()),
        // Whoever was faster is heard of.
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        Err(source) => Err(failed(source)),
    }
}

/// Nodes run service proxy and DNS under their own identity, so they may read what these read.
fn proxiers() -> ClusterRoleBinding {
    ClusterRoleBinding {
        metadata: ObjectMeta { name: Some("timonel:node-proxiers".to_owned()), ..ObjectMeta::default() },
        role_ref: RoleRef {
            api_group: Some("rbac.authorization.k8s.io".to_owned()),
            kind: "ClusterRole".to_owned(),
            name: "system:node-proxier".to_owned(),
        },
        subjects: Some(vec![Subject {
            api_group: Some("rbac.authorization.k8s.io".to_owned()),
            kind: "Group".to_owned(),
            name: "system:nodes".to_owned(),
            namespace: None,
        }]),
    }
}

/// The Service of the cluster's DNS; the nodes themselves answer on its address.
fn dns(address: &str) -> Service {
    let port = |name: &str, protocol: &str| ServicePort {
        name: Some(name.to_owned()),
        protocol: Some(protocol.to_owned()),
        port: 53,
        ..ServicePort::default()
    };
    let labels =
        [("k8s-app", "kube-dns"), ("kubernetes.io/cluster-service", "true"), ("kubernetes.io/name", "CoreDNS")];
    Service {
        metadata: ObjectMeta {
            name: Some("kube-dns".to_owned()),
            labels: Some(labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into()),
            ..ObjectMeta::default()
        },
        spec: Some(ServiceSpec {
            cluster_ip: Some(address.to_owned()),
            ports: Some(vec![port("dns", "UDP"), port("dns-tcp", "TCP")]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// Makes an object that is not there; what an earlier start has made, and somebody may have changed, stays.
async fn ensure<K>(api: &Api<K>, object: &K, what: &'static str) -> Result<(), TenantError>
where
    K: Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned,
{
    let failed = |source| TenantError::Bootstrap { what, source: Box::new(source) };
    let name = object.meta().name.as_deref().unwrap_or_default();
    if api.get_opt(name).await.map_err(failed)?.is_some() {
        return Ok(());
    }
    match api.create(&PostParams::default(), object).await {
        Ok(_) => Ok(()),
        // Another control machine was faster.
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        Err(source) => Err(failed(source)),
    }
}

/// Puts the Service `kubernetes`, its endpoints and what is to be trusted back when somebody changes or deletes them.
pub(crate) fn keep(api: &Arc<ApiServer>, client: &Client, pki: &ClusterPki, tasks: &Tasks) {
    let (api, client, trust) = (Arc::downgrade(api), client.clone(), trust(pki));
    tasks.spawn("objects that are kept", OnError::Log, async move {
        let mut news = stream::select_all([
            changes::<Service>(&client, "default", "kubernetes"),
            changes::<Endpoints>(&client, "default", "kubernetes"),
            changes::<EndpointSlice>(&client, "default", "kubernetes"),
            changes::<ConfigMap>(&client, "kube-system", TRUST),
        ]);
        while news.next().await.is_some() {
            let Some(api) = api.upgrade() else { break };
            if let Err(error) = api.publish().await {
                tracing::warn!(%error, "the Service kubernetes is not as it should be");
            }
            if let Err(error) = keep_trust(&client, &trust).await {
                tracing::warn!(%error, "extension API servers do not find whom to trust");
            }
            drop(api);
            tokio::time::sleep(REPAIR_PAUSE).await;
        }
        Ok::<_, std::convert::Infallible>(())
    });
}

fn changes<K>(client: &Client, namespace: &str, name: &str) -> stream::BoxStream<'static, ()>
where
    K: Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + 'static,
{
    let objects: Api<K> = Api::namespaced(client.clone(), namespace);
    let only = watcher::Config::default().fields(&format!("metadata.name={name}"));
    // Between init and its end nothing has changed yet.
    let told = |event| async move {
        matches!(event, Ok(watcher::Event::Apply(_) | watcher::Event::Delete(_) | watcher::Event::InitDone))
            .then_some(())
    };
    watcher(objects, only).default_backoff().filter_map(told).boxed()
}
