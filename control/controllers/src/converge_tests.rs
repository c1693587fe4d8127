//! Whole loops against an API server in memory, on one thread with paused time: what controllers make of a cluster
//! when nobody but them acts.

use crate::{
    framework::Kind,
    run::{ControllersConfig, run},
    testing::{at, fake_api::FakeApi},
};
use serde_json::{Value, json};
use std::time::Duration;
use timonel_runtime::{Clock, Entropy, OnError, Tasks};

struct Cluster {
    api: FakeApi,
    tasks: Tasks,
}

impl Cluster {
    fn start() -> Self {
        let clock = Clock::simulated(at(1_000_000));
        let api = FakeApi::new(clock.clone());
        let tasks = Tasks::root("test");
        let config = ControllersConfig::new(clock, Entropy::seeded(1), "test", "PEM");
        let (client, scope) = (api.client(), tasks.clone());
        tasks.spawn("controllers", OnError::EndScope, async move { run(client, config, &scope).await });
        api.put(Kind::Namespace, json!({"metadata": {"name": "default"}, "spec": {"finalizers": ["kubernetes"]}}));
        Self { api, tasks }
    }

    /// Lets time pass; paused time jumps ahead whenever nothing else can happen.
    async fn settle(&self) {
        tokio::time::sleep(Duration::from_secs(20)).await;
    }

    /// Makes every pod ready, as a kubelet would.
    fn run_pods(&self) {
        for pod in self.api.list(Kind::Pod) {
            let meta = &pod["metadata"];
            let (namespace, name) =
                (meta["namespace"].as_str().unwrap_or_default(), meta["name"].as_str().unwrap_or_default());
            let ready = json!({"type": "Ready", "status": "True", "lastTransitionTime": "1970-01-12T00:00:00Z"});
            self.api.patch(Kind::Pod, namespace, name, &json!({"status": {"phase": "Running", "conditions": [ready]}}));
        }
    }

    async fn end(self) {
        assert!(self.tasks.shutdown(Duration::from_secs(5)).await, "the loop ends when told to");
    }
}

fn deployment(replicas: i32, image: &str) -> Value {
    json!({"metadata": {"name": "web", "namespace": "default"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "progressDeadlineSeconds": 600,
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]}}}})
}

fn images(cluster: &Cluster) -> Vec<String> {
    let pods = cluster.api.list(Kind::Pod);
    let mut images: Vec<_> =
        pods.iter().map(|pod| pod["spec"]["containers"][0]["image"].as_str().unwrap_or_default().to_owned()).collect();
    images.sort();
    images
}

#[tokio::test(start_paused = true)]
async fn a_deployment_rolls_out_and_forward_and_goes() {
    let cluster = Cluster::start();
    cluster.api.put(Kind::Deployment, deployment(3, "v1"));
    cluster.settle().await;
    assert_eq!(images(&cluster), ["v1", "v1", "v1"]);
    cluster.run_pods();
    cluster.settle().await;
    let found = cluster.api.get(Kind::Deployment, "default", "web").expect("it exists");
    assert_eq!(found["status"]["availableReplicas"], 3);
    assert_eq!(found["metadata"]["annotations"]["deployment.kubernetes.io/revision"], "1");
    let conditions = found["status"]["conditions"].as_array().expect("conditions");
    let reasons: Vec<_> = conditions.iter().map(|condition| condition["reason"].as_str().unwrap_or_default()).collect();
    assert!(
        reasons.contains(&"MinimumReplicasAvailable") && reasons.contains(&"NewReplicaSetAvailable"),
        "{reasons:?}"
    );

    let image = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "v2"}]}}}});
    cluster.api.patch(Kind::Deployment, "default", "web", &image);
    for _ in 0..10 {
        cluster.settle().await;
        let available = cluster.api.list(Kind::Pod).iter().filter(|pod| pod["status"]["phase"] == "Running").count();
        assert!(available >= 3, "25 % of 3 rounds down: none may be missing");
        assert!(images(&cluster).len() <= 4, "25 % of 3 rounds up: one may be too many");
        cluster.run_pods();
    }
    assert_eq!(images(&cluster), ["v2", "v2", "v2"]);
    assert_eq!(cluster.api.list(Kind::ReplicaSet).len(), 2, "the old one is kept for going back");

    cluster.api.delete(Kind::Deployment, "default", "web");
    cluster.settle().await;
    assert_eq!(cluster.api.list(Kind::ReplicaSet).len(), 0);
    assert_eq!(cluster.api.list(Kind::Pod).len(), 0);
    let events = cluster.api.events();
    assert!(events.iter().any(|event| event.starts_with("ScalingReplicaSet Scaled up replica set web-")), "{events:?}");
    assert!(events.iter().any(|event| event.starts_with("SuccessfulCreate Created pod: web-")), "{events:?}");
    cluster.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_namespace_has_its_defaults_and_ends_empty() {
    let cluster = Cluster::start();
    cluster.settle().await;
    let accounts = cluster.api.list(Kind::ServiceAccount);
    assert_eq!(accounts[0]["metadata"]["name"], "default");
    assert_eq!(cluster.api.list(Kind::ConfigMap)[0]["data"]["ca.crt"], "PEM");
    cluster.api.put(Kind::Deployment, deployment(2, "v1"));
    cluster.settle().await;
    cluster.api.delete(Kind::Namespace, "", "default");
    for _ in 0..3 {
        cluster.settle().await;
    }
    assert_eq!(cluster.api.list(Kind::Pod), Vec::<Value>::new());
    assert_eq!(cluster.api.list(Kind::Namespace), Vec::<Value>::new());
    cluster.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_reported_and_overcome() {
    let cluster = Cluster::start();
    cluster.api.refuse(Kind::Pod, Some("exceeded quota"));
    cluster.api.put(Kind::Deployment, deployment(1, "v1"));
    cluster.settle().await;
    let found = cluster.api.get(Kind::Deployment, "default", "web").expect("it exists");
    assert!(found["status"]["conditions"].to_string().contains("exceeded quota"), "{}", found["status"]);
    cluster.api.refuse(Kind::Pod, None);
    for _ in 0..6 {
        cluster.settle().await;
    }
    assert_eq!(images(&cluster), ["v1"]);
    let found = cluster.api.get(Kind::Deployment, "default", "web").expect("it exists");
    assert!(!found["status"]["conditions"].to_string().contains("exceeded quota"));
    cluster.end().await;
}
