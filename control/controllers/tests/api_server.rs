//! The controllers against the real API server over the in-memory store: what a cluster without nodes makes of
//! workloads when a stand-in for the kubelet says that pods run.

use http::{Method, Request};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use timonel_apiserver::{ApiServer, Caller, Config, InProcess, authn::AuthnConfig};
use timonel_controllers::{ControllersConfig, run};
use timonel_pki::{KeyRing, SigningKey};
use timonel_runtime::{Clock, Entropy, OnError, Tasks};
use timonel_store::{KeyRange, MemoryStore, RangeRequest, Store};

struct Cluster {
    client: kube::Client,
    store: Arc<MemoryStore>,
    tasks: Tasks,
}

impl Cluster {
    async fn start() -> Self {
        let tasks = Tasks::root("test");
        let clock = Clock::simulated("2026-01-01T00:00:00Z".parse().expect("a time"));
        let store = Arc::new(MemoryStore::new(clock.clone()));
        let issuer = "https://kubernetes.default.svc.cluster.local".to_owned();
        let config = Config {
            scheme: timonel_api::Scheme::kubernetes(),
            store: store.clone(),
            prefix: "/clusters/one/".into(),
            clock: clock.clone(),
            entropy: Entropy::seeded(7),
            authentication: AuthnConfig {
                issuers: vec![issuer.clone()],
                audiences: vec![issuer],
                anonymous: true,
                ..AuthnConfig::default()
            },
            keys: KeyRing::new(SigningKey::generate().expect("a key"), Vec::new()),
            service_ranges: vec!["10.96.0.0/24".parse().expect("a range")],
            node_ports: Config::NODE_PORTS,
            advertise: Some("192.0.2.1:6443".parse().expect("an address")),
            public_address: "api.example:443".to_owned(),
            event_ttl_seconds: Config::EVENT_TTL_SECONDS,
            nodes: None,
            local_destinations: Vec::new(),
            front_proxy: None,
            apart: Vec::new(),
            health: Vec::new(),
        };
        let server = ApiServer::new(config, &tasks).await.expect("the server starts");
        let client = |name| kube::Client::new(InProcess::new(Arc::clone(&server), Caller::internal(name)), "default");
        let (controllers, scope) = (client("kube-controller-manager"), tasks.clone());
        let config = ControllersConfig::new(clock, Entropy::seeded(1), "test", "PEM");
        tasks.spawn("controllers", OnError::EndScope, async move { run(controllers, config, &scope).await });
        let cluster = Self { client: client("admin"), store, tasks };
        cluster.settle().await;
        cluster
    }

    async fn settle(&self) {
        tokio::time::sleep(Duration::from_secs(15)).await;
    }

    async fn attempt(&self, method: Method, path: &str, content: &str, body: &Value) -> Result<Value, kube::Error> {
        let request = Request::builder().method(method).uri(path).header("content-type", content);
        let request = request.body(serde_json::to_vec(body).expect("JSON")).expect("a request");
        self.client.request::<Value>(request).await
    }

    async fn call(&self, method: Method, path: &str, content: &str, body: &Value) -> Value {
        self.attempt(method, path, content, body).await.unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    async fn post(&self, path: &str, body: Value) {
        self.call(Method::POST, path, "application/json", &body).await;
    }

    async fn patch(&self, path: &str, body: Value) {
        self.call(Method::PATCH, path, "application/merge-patch+json", &body).await;
    }

    async fn get(&self, path: &str) -> Value {
        self.call(Method::GET, path, "application/json", &Value::Null).await
    }

    async fn items(&self, path: &str) -> Vec<Value> {
        self.get(path).await["items"].as_array().cloned().unwrap_or_default()
    }

    /// Gives every running pod an address and readiness, and ends those whose name holds `ends`.
    async fn run_pods(&self, ends: &str) {
        for (at, pod) in self.items("/api/v1/pods").await.iter().enumerate() {
            let meta = &pod["metadata"];
            let (namespace, name) = (meta["namespace"].as_str().unwrap_or(""), meta["name"].as_str().unwrap_or(""));
            let ended = !ends.is_empty() && name.contains(ends);
            let ready = json!({"type": "Ready", "status": if ended {"False"} else {"True"}, "lastTransitionTime": "2026-01-01T00:00:00Z"});
            let status = json!({"phase": if ended {"Succeeded"} else {"Running"}, "conditions": [ready],
                "podIP": format!("10.1.0.{at}"), "podIPs": [{"ip": format!("10.1.0.{at}")}]});
            let path = format!("/api/v1/namespaces/{namespace}/pods/{name}/status");
            let patch = json!({"status": status});
            let done = self.attempt(Method::PATCH, &path, "application/merge-patch+json", &patch).await;
            // A rollout takes pods away while this goes through the list.
            let gone = |error: &kube::Error| matches!(error, kube::Error::Api(status) if status.code == 404);
            assert!(done.as_ref().is_ok() || done.as_ref().is_err_and(gone), "{path}: {done:?}");
        }
    }

    async fn end(self) {
        assert!(self.tasks.shutdown(Duration::from_secs(5)).await, "everything ends when told to");
    }
}

fn template(app: &str, restart: &str) -> Value {
    json!({"metadata": {"labels": {"app": app}}, "spec": {"restartPolicy": restart, "containers": [{"name": "c", "image": "v1"}]}})
}

fn workload(kind: &str, name: &str, extra: &Value) -> Value {
    let mut object = json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name},
        "spec": {"selector": {"matchLabels": {"app": name}}, "template": template(name, "Always")}});
    for (key, value) in extra.as_object().into_iter().flatten() {
        object["spec"][key] = value.clone();
    }
    object
}

const APPS: &str = "/apis/apps/v1/namespaces/default";
const CORE: &str = "/api/v1/namespaces/default";

#[tokio::test(start_paused = true)]
async fn workloads_converge() {
    let cluster = Cluster::start().await;
    assert_eq!(cluster.get(&format!("{CORE}/serviceaccounts/default")).await["metadata"]["name"], "default");
    assert_eq!(cluster.get(&format!("{CORE}/configmaps/kube-root-ca.crt")).await["data"]["ca.crt"], "PEM");
    cluster.post(&format!("{APPS}/deployments"), workload("Deployment", "web", &json!({"replicas": 3}))).await;
    let ordered = json!({"replicas": 2, "serviceName": "db", "volumeClaimTemplates": [{"metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}]});
    cluster.post(&format!("{APPS}/statefulsets"), workload("StatefulSet", "db", &ordered)).await;
    let job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "sum"},
        "spec": {"completions": 2, "parallelism": 2, "template": template("sum", "Never")}});
    cluster.post("/apis/batch/v1/namespaces/default/jobs", job).await;
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}});
    cluster.post(&format!("{CORE}/services"), service).await;
    for _ in 0..4 {
        cluster.settle().await;
        cluster.run_pods("sum-").await;
    }
    cluster.settle().await;

    let web = cluster.get(&format!("{APPS}/deployments/web")).await;
    assert_eq!(web["status"]["availableReplicas"], 3, "{}", web["status"]);
    assert_eq!(web["metadata"]["annotations"]["deployment.kubernetes.io/revision"], "1");
    let db = cluster.get(&format!("{APPS}/statefulsets/db")).await;
    assert_eq!(db["status"]["readyReplicas"], 2, "{}", db["status"]);
    assert_eq!(cluster.items(&format!("{CORE}/persistentvolumeclaims")).await.len(), 2);
    let sum = cluster.get("/apis/batch/v1/namespaces/default/jobs/sum").await;
    assert_eq!(sum["status"]["succeeded"], 2, "{}", sum["status"]);
    assert!(sum["status"]["completionTime"].is_string(), "{}", sum["status"]);
    let slices = cluster
        .items(
            "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?labelSelector=kubernetes.io/service-name=web",
        )
        .await;
    assert_eq!(slices[0]["endpoints"].as_array().map(Vec::len), Some(3), "{slices:?}");
    let endpoints = cluster.get(&format!("{CORE}/endpoints/web")).await;
    assert_eq!(endpoints["subsets"][0]["addresses"].as_array().map(Vec::len), Some(3));

    let image = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "v2"}]}}}});
    cluster.patch(&format!("{APPS}/deployments/web"), image).await;
    for _ in 0..8 {
        cluster.settle().await;
        cluster.run_pods("sum-").await;
    }
    cluster.settle().await;
    let web = cluster.get(&format!("{APPS}/deployments/web")).await;
    assert_eq!(
        (&web["status"]["updatedReplicas"], &web["status"]["replicas"]),
        (&json!(3), &json!(3)),
        "{}",
        web["status"]
    );
    assert_eq!(web["metadata"]["annotations"]["deployment.kubernetes.io/revision"], "2");
    cluster.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_deleted_takes_its_own_along() {
    let cluster = Cluster::start().await;
    let team = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}});
    cluster.post("/api/v1/namespaces", team).await;
    cluster.settle().await;
    cluster
        .post("/apis/apps/v1/namespaces/team/deployments", workload("Deployment", "web", &json!({"replicas": 2})))
        .await;
    cluster.post(&format!("{APPS}/deployments"), workload("Deployment", "web", &json!({"replicas": 2}))).await;
    cluster.settle().await;
    assert_eq!(cluster.items("/api/v1/pods").await.len(), 4);
    let options = json!({"propagationPolicy": "Foreground"});
    cluster.call(Method::DELETE, &format!("{APPS}/deployments/web"), "application/json", &options).await;
    cluster.call(Method::DELETE, "/api/v1/namespaces/team", "application/json", &json!({})).await;
    for _ in 0..4 {
        cluster.settle().await;
    }
    assert_eq!(cluster.items("/api/v1/pods").await, Vec::<Value>::new());
    assert_eq!(cluster.items("/apis/apps/v1/deployments").await, Vec::<Value>::new());
    let names: Vec<Value> = cluster
        .items("/api/v1/namespaces")
        .await
        .iter()
        .map(|namespace| namespace["metadata"]["name"].clone())
        .collect();
    assert!(!names.contains(&json!("team")), "{names:?}");
    cluster.end().await;
}

/// Versions in which the widgets lie in the store.
async fn stored_versions(cluster: &Cluster) -> Vec<String> {
    let range = KeyRange::prefix("/clusters/one/");
    let found = cluster.store.range(RangeRequest { range, revision: None, limit: 0 }).await.expect("a range");
    // Beside an object's JSON is said which version it is in.
    let widgets = found.items.iter().filter(|kv| String::from_utf8_lossy(&kv.key).contains("/example.com/widgets/"));
    let versions = widgets.map(|kv| if kv.value.windows(3).any(|bytes| bytes == b"v2 ") { "v2" } else { "v1" });
    versions.map(str::to_owned).collect()
}

#[tokio::test(start_paused = true)]
async fn objects_are_brought_to_the_newest_storage_version() {
    let cluster = Cluster::start().await;
    let version = |name: &str, storage: bool| {
        json!({"name": name, "served": true, "storage": storage, "schema": {"openAPIV3Schema": {
            "type": "object", "x-kubernetes-preserve-unknown-fields": true}}})
    };
    let names = json!({"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"});
    let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
        "names": names, "versions": [version("v1", true), version("v2", false)]}});
    cluster.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition).await;
    cluster.settle().await;
    for number in 0..3 {
        let widget = json!({"apiVersion": "example.com/v1", "kind": "Widget",
            "metadata": {"name": format!("w-{number}")}, "spec": {"size": number}});
        cluster.post("/apis/example.com/v1/namespaces/default/widgets", widget).await;
    }
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/widgets.example.com";
    cluster.patch(path, json!({"spec": {"versions": [version("v1", false), version("v2", true)]}})).await;
    cluster.settle().await;
    assert_eq!(stored_versions(&cluster).await, ["v1", "v1", "v1"]);
    let migrations = "/apis/storagemigration.k8s.io/v1beta1/storageversionmigrations";
    for (name, resource) in [("widgets", "widgets"), ("gadgets", "gadgets")] {
        let migration = json!({"apiVersion": "storagemigration.k8s.io/v1beta1", "kind": "StorageVersionMigration",
            "metadata": {"name": name}, "spec": {"resource": {"group": "example.com", "resource": resource}}});
        cluster.post(migrations, migration).await;
    }
    for _ in 0..6 {
        cluster.settle().await;
    }
    let ended = |migration: &Value| {
        let last = migration["status"]["conditions"].as_array().and_then(|all| all.last().cloned());
        last.unwrap_or_default()["type"].clone()
    };
    let widgets = cluster.get(&format!("{migrations}/widgets")).await;
    assert_eq!(ended(&widgets), "Succeeded", "{widgets}");
    assert_ne!(widgets["status"]["resourceVersion"], Value::Null);
    assert_eq!(ended(&cluster.get(&format!("{migrations}/gadgets")).await), "Failed");
    assert_eq!(stored_versions(&cluster).await, ["v2", "v2", "v2"]);
    let widget = cluster.get("/apis/example.com/v1/namespaces/default/widgets/w-2").await;
    assert_eq!(widget["spec"]["size"], 2);
    let managers = widget["metadata"]["managedFields"].as_array().map_or(0, Vec::len);
    assert_eq!(managers, 1, "whoever stores it anew owns nothing of it: {widget}");
    cluster.end().await;
}
