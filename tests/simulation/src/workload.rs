//! What the users of a simulated cluster do, drawn from the seed. They have a good connection: what is acknowledged to
//! them has to come true.

use crate::{chance::Chance, snapshot::Snapshot, trace::Trace};
use kube::Client;
use serde_json::{Value, json};

/// Most objects of a kind, so that everything fits onto the smallest cluster.
const MOST: [(&str, usize); 8] = [
    ("Namespace", 7),
    ("Deployment", 3),
    ("StatefulSet", 2),
    ("DaemonSet", 1),
    ("Job", 3),
    ("Service", 5),
    ("PodDisruptionBudget", 2),
    ("CronJob", 1),
];
/// Names of the namespaces that users make.
const NAMESPACES: [&str; 3] = ["default", "red", "blue"];

/// Somebody with kubectl.
#[derive(Clone)]
pub(crate) struct User {
    pub(crate) client: Client,
    pub(crate) chance: Chance,
    pub(crate) trace: Trace,
}

fn most(kind: &str) -> usize {
    MOST.iter().find(|(name, _)| *name == kind).map_or(0, |(_, most)| *most)
}

fn collection(kind: &str, namespace: &str) -> String {
    let (group, plural) = match kind {
        "Namespace" => return "/api/v1/namespaces".to_owned(),
        "Node" => return "/api/v1/nodes".to_owned(),
        "Deployment" => ("apis/apps/v1", "deployments"),
        "StatefulSet" => ("apis/apps/v1", "statefulsets"),
        "DaemonSet" => ("apis/apps/v1", "daemonsets"),
        "Job" => ("apis/batch/v1", "jobs"),
        "CronJob" => ("apis/batch/v1", "cronjobs"),
        "Service" => ("api/v1", "services"),
        "PodDisruptionBudget" => ("apis/policy/v1", "poddisruptionbudgets"),
        "PersistentVolumeClaim" => ("api/v1", "persistentvolumeclaims"),
        _ => ("api/v1", "pods"),
    };
    format!("/{group}/namespaces/{namespace}/{plural}")
}

impl User {
    /// Sends one request; refusals that races explain are ordinary, others are violations.
    pub(crate) async fn send(&self, method: &str, path: &str, content: &str, body: &Value) -> u16 {
        let request = http::Request::builder().method(method).uri(path).header(http::header::CONTENT_TYPE, content);
        let Ok(request) = request.body(body.to_string().into_bytes()) else { return 0 };
        match self.client.request_text(request).await {
            Ok(_) => 200,
            Err(kube::Error::Api(status)) => {
                self.trace.note(format!("user {method} {path}: {} {}", status.code, status.message));
                // 403: the namespace is being removed; 409: it exists, or changed; 429: a disruption budget.
                if !matches!(status.code, 403 | 404 | 409 | 429) {
                    self.trace.violated(format!("{method} {path} {body}: {} {}", status.code, status.message));
                }
                status.code
            }
            Err(error) => {
                self.trace.violated(format!("{method} {path}: {error}"));
                0
            }
        }
    }

    async fn post(&self, kind: &str, namespace: &str, object: &Value) {
        self.send("POST", &collection(kind, namespace), "application/json", object).await;
    }

    async fn merge(&self, path: &str, patch: &Value) {
        self.send("PATCH", path, "application/merge-patch+json", patch).await;
    }

    /// Does one thing.
    pub(crate) async fn act(&self, now: &Snapshot) {
        match self.chance.between(0, 15) {
            0 => self.namespace(now).await,
            1..=6 => self.create(now).await,
            7..=9 => self.change(now).await,
            10 | 11 => self.delete(now).await,
            12 => self.cordon(now).await,
            13 => self.evict(now).await,
            14 => self.delete_pod(now).await,
            _ => self.service_type(now).await,
        }
    }

    async fn namespace(&self, now: &Snapshot) {
        let Some(name) = self.chance.pick(&NAMESPACES[1..]) else { return };
        match now.get("Namespace", "", name) {
            None => self.post("Namespace", "", &json!({"metadata": {"name": name}})).await,
            Some(_) if self.chance.once_in(2) => {
                self.send("DELETE", &format!("/api/v1/namespaces/{name}"), "application/json", &json!({})).await;
            }
            Some(_) => {}
        }
    }

    /// A namespace that has its service account.
    fn place(&self, now: &Snapshot) -> Option<&'static str> {
        let name = *self.chance.pick(&NAMESPACES)?;
        now.get("ServiceAccount", name, "default").map(|_| name)
    }

    async fn create(&self, now: &Snapshot) {
        let kinds = [
            "Deployment",
            "Deployment",
            "StatefulSet",
            "DaemonSet",
            "Job",
            "Job",
            "Service",
            "Service",
            "PodDisruptionBudget",
        ];
        let (Some(kind), Some(namespace)) = (self.chance.pick(&kinds), self.place(now)) else { return };
        // Kinds that every namespace has some of by itself do not count.
        let have = now.of(kind).filter(|object| NAMESPACES.iter().any(|n| object["metadata"]["namespace"] == *n));
        if have.count() >= most(kind) {
            return;
        }
        let name = format!("{}-{}", kind.to_lowercase().get(..3).unwrap_or("any"), self.chance.between(0, 9));
        let object = self.object(kind, &name);
        self.post(kind, namespace, &object).await;
    }

    fn object(&self, kind: &str, name: &str) -> Value {
        let labels = json!({"app": name});
        let selector = json!({"matchLabels": labels});
        let spec = match kind {
            "Deployment" => {
                let strategy = match self.chance.between(0, 3) {
                    0 => json!({"type": "Recreate"}),
                    1 => json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}),
                    2 => json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}),
                    _ => json!({"type": "RollingUpdate"}),
                };
                json!({"replicas": self.chance.between(0, 4), "selector": selector, "strategy": strategy,
                    "template": self.template(name, "Always")})
            }
            "StatefulSet" => {
                let policy = if self.chance.once_in(2) { "Parallel" } else { "OrderedReady" };
                let claim = json!({"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"],
                    "resources": {"requests": {"storage": "1Gi"}}}});
                let claims = if self.chance.once_in(3) { json!([]) } else { json!([claim]) };
                let retention = if self.chance.once_in(2) { "Delete" } else { "Retain" };
                json!({"replicas": self.chance.between(0, 3), "selector": selector, "serviceName": name,
                    "podManagementPolicy": policy, "volumeClaimTemplates": claims,
                    "persistentVolumeClaimRetentionPolicy": {"whenDeleted": retention, "whenScaled": retention},
                    "template": self.template(name, "Always")})
            }
            "DaemonSet" => json!({"selector": selector, "template": self.template(name, "Always")}),
            "Job" => {
                let policy = if self.chance.once_in(2) { "Never" } else { "OnFailure" };
                let mode = if self.chance.once_in(2) { "Indexed" } else { "NonIndexed" };
                let mut spec = json!({"completions": self.chance.between(1, 4), "parallelism": self.chance.between(1, 2),
                    "backoffLimit": self.chance.between(0, 4), "completionMode": mode,
                    "template": self.template(name, policy)});
                if self.chance.once_in(3) {
                    spec["ttlSecondsAfterFinished"] = json!(self.chance.between(0, 60));
                }
                spec
            }
            "Service" => {
                let app = format!("dep-{}", self.chance.between(0, 9));
                let kind = self.chance.pick(&["LoadBalancer", "LoadBalancer", "NodePort", "ClusterIP"]);
                json!({"type": kind, "selector": {"app": app}, "ports": [{"port": 80, "targetPort": 8080}]})
            }
            _ => json!({"maxUnavailable": 1, "selector": selector}),
        };
        json!({"metadata": {"name": name}, "spec": spec})
    }

    fn template(&self, name: &str, policy: &str) -> Value {
        let requests = json!({"cpu": format!("{}m", self.chance.between(1, 3) * 100), "memory": "128Mi"});
        let mut spec = json!({"restartPolicy": policy, "terminationGracePeriodSeconds": self.chance.between(0, 30),
            "containers": [{"name": "main", "image": "app:1", "resources": {"requests": requests}}]});
        if self.chance.once_in(2) {
            let taint =
                |key: &str| json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 10});
            spec["tolerations"] =
                json!([taint("node.kubernetes.io/not-ready"), taint("node.kubernetes.io/unreachable")]);
        }
        json!({"metadata": {"labels": {"app": name}}, "spec": spec})
    }

    /// One of the users' objects of these kinds, with its path.
    fn some<'a>(&self, now: &'a Snapshot, kinds: &[&'static str]) -> Option<(&'static str, String, &'a Value)> {
        let ours = |object: &&Value| NAMESPACES.iter().any(|name| object["metadata"]["namespace"] == *name);
        let all: Vec<_> =
            kinds.iter().flat_map(|kind| now.of(kind).filter(ours).map(move |object| (*kind, object))).collect();
        let all: Vec<_> = all
            .into_iter()
            .filter(|(kind, object)| *kind != "Service" || object["metadata"]["name"] != "kubernetes")
            .collect();
        let (kind, object) = *self.chance.pick(&all)?;
        let meta = &object["metadata"];
        let path = collection(kind, meta["namespace"].as_str()?);
        Some((kind, format!("{path}/{}", meta["name"].as_str()?), object))
    }

    async fn change(&self, now: &Snapshot) {
        let Some((kind, path, _)) = self.some(now, &["Deployment", "StatefulSet", "DaemonSet"]) else { return };
        let image = json!({"spec": {"template": {"metadata": {"annotations": {
            "version": self.chance.between(1, 5).to_string()}}}}});
        let most = if kind == "StatefulSet" { 3 } else { 4 };
        let scale = json!({"spec": {"replicas": self.chance.between(0, most)}});
        match kind != "DaemonSet" && self.chance.once_in(2) {
            true if self.chance.once_in(2) => self.merge(&format!("{path}/scale"), &scale).await,
            true => self.merge(&path, &scale).await,
            false => self.merge(&path, &image).await,
        }
    }

    async fn delete(&self, now: &Snapshot) {
        let kinds = [
            "Deployment",
            "StatefulSet",
            "DaemonSet",
            "Job",
            "Service",
            "PodDisruptionBudget",
            "PersistentVolumeClaim",
        ];
        let Some((_, path, _)) = self.some(now, &kinds) else { return };
        let policy = self.chance.pick(&["Background", "Background", "Foreground", "Orphan"]);
        self.send("DELETE", &path, "application/json", &json!({"propagationPolicy": policy})).await;
    }

    async fn cordon(&self, now: &Snapshot) {
        let nodes: Vec<&Value> = now.of("Node").collect();
        let Some(node) = self.chance.pick(&nodes) else { return };
        let path = format!("/api/v1/nodes/{}", node["metadata"]["name"].as_str().unwrap_or_default());
        let off = node["spec"]["unschedulable"] != true && self.chance.once_in(2);
        self.merge(&path, &json!({"spec": {"unschedulable": off}})).await;
    }

    /// Makes every node schedulable.
    pub(crate) async fn uncordon(&self, now: &Snapshot) {
        for node in now.of("Node").filter(|node| node["spec"]["unschedulable"] == true) {
            let path = format!("/api/v1/nodes/{}", node["metadata"]["name"].as_str().unwrap_or_default());
            self.merge(&path, &json!({"spec": {"unschedulable": null}})).await;
        }
    }

    async fn evict(&self, now: &Snapshot) {
        let Some((_, path, pod)) = self.some(now, &["Pod"]) else { return };
        let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction",
            "metadata": {"name": pod["metadata"]["name"], "namespace": pod["metadata"]["namespace"]}});
        self.send("POST", &format!("{path}/eviction"), "application/json", &eviction).await;
    }

    async fn delete_pod(&self, now: &Snapshot) {
        let Some((_, path, _)) = self.some(now, &["Pod"]) else { return };
        self.send("DELETE", &path, "application/json", &json!({})).await;
    }

    async fn service_type(&self, now: &Snapshot) {
        let Some((_, path, _)) = self.some(now, &["Service"]) else { return };
        let kind = self.chance.pick(&["LoadBalancer", "ClusterIP", "NodePort"]);
        self.merge(&path, &json!({"spec": {"type": kind}})).await;
    }
}
