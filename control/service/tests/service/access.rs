//! Audit, authentication and authorization as a cluster's owner configures them, over real sockets.

use crate::support::{World, eventually};
use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Secret},
};
use kube::{
    Api, Client,
    api::{ListParams, PostParams},
    config::AuthInfo,
};
use serde_json::{Value as Json, json};
use timonel_fleet::{ClusterAccess, ClusterAudit, ClusterSpec};

const POLICY: &str = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n\
    - {level: Request, verbs: [create], resources: [{group: '', resources: [configmaps]}]}\n- {level: None}\n";
const ANONYMOUS: &str = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\n\
    anonymous: {enabled: true, conditions: [{path: /livez}]}\n";

fn lines(path: &std::path::Path) -> Vec<Json> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

async fn nobody(world: &World, path: &str) -> u16 {
    let mut config = world.config("demo").await;
    config.auth_info = AuthInfo::default();
    let client = Client::try_from(config).unwrap();
    let request = http::Request::get(path).body(Vec::new()).unwrap();
    match client.request_text(request).await {
        Ok(_) => 200,
        Err(kube::Error::Api(status)) => status.code,
        Err(error) => panic!("{error}"),
    }
}

async fn condition(world: &World, status: &str) -> String {
    let clusters = world.clusters();
    eventually("the access to be told", || async {
        let conditions = clusters.get("demo").await.ok()?.status?.conditions;
        let found = conditions.into_iter().find(|condition| condition.type_ == "AccessConfigured")?;
        (found.status == status).then_some(found.message)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clusters_owner_says_who_comes_in_and_what_is_written_down() {
    let world = World::start().await;
    let access = ClusterAccess {
        authentication: ANONYMOUS.into(),
        audit: Some(ClusterAudit { policy: POLICY.into(), ..ClusterAudit::default() }),
        ..ClusterAccess::default()
    };
    world.create("demo", ClusterSpec { access: Some(access), ..ClusterSpec::default() }).await;
    condition(&world, "True").await;
    assert_eq!((nobody(&world, "/livez").await, nobody(&world, "/version").await), (200, 401));
    let maps: Api<ConfigMap> = Api::namespaced(world.client("demo").await, "default");
    let map = ConfigMap {
        metadata: kube::api::ObjectMeta { name: Some("seen".into()), ..Default::default() },
        ..ConfigMap::default()
    };
    maps.create(&PostParams::default(), &map).await.unwrap();
    let log = world.data.path().join("audit/default/demo/audit.log");
    let told = eventually("the audit log", || async {
        lines(&log)
            .into_iter()
            .find(|event| event["objectRef"]["name"] == "seen" && event["stage"] == "ResponseComplete")
    })
    .await;
    assert_eq!((&told["level"], &told["requestObject"]["metadata"]["name"]), (&json!("Request"), &json!("seen")));
    assert_eq!(told["sourceIPs"], json!(["127.0.0.1"]));
    // Changed while it runs: a mistake changes nothing and is told, in upstream's words.
    world.patch("demo", json!({"spec": {"access": {"authentication": ANONYMOUS.replace("/livez", "/readyz")}}})).await;
    eventually("the other path", || async { (nobody(&world, "/readyz").await == 200).then_some(()) }).await;
    world.patch("demo", json!({"spec": {"access": {"audit": {"policy": POLICY.replace("None", "Loud")}}}})).await;
    let message = condition(&world, "False").await;
    assert!(message.contains("rules[1].level: Unsupported value: \"Loud\""), "{message}");
    assert_eq!(nobody(&world, "/readyz").await, 200);
    // Whoever starts again starts with it.
    world.patch("demo", json!({"spec": {"access": {"audit": {"policy": POLICY}}}})).await;
    condition(&world, "True").await;
    let world = world.restart(async {}).await;
    world.ready("demo").await;
    assert_eq!((nobody(&world, "/readyz").await, nobody(&world, "/livez").await), (200, 401));
    world.patch("demo", json!({"spec": {"access": null}})).await;
    eventually("the usual rules", || async { (nobody(&world, "/version").await == 200).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_come_from_a_secret_of_the_project() {
    let world = World::start().await;
    let access = ClusterAccess {
        token_webhook: "tokens.yaml".into(),
        files_secret: "demo-access".into(),
        ..ClusterAccess::default()
    };
    world.create("demo", ClusterSpec::default()).await;
    world.patch("demo", json!({"spec": {"access": access}})).await;
    let message = condition(&world, "False").await;
    assert_eq!(message, "spec.access.filesSecret: no secret \"demo-access\" in the project");
    // Nothing listens there: what it means for a token is 401, and for others nothing.
    let kubeconfig = "current-context: c\nclusters: [{name: k, cluster: {server: 'https://127.0.0.1:1'}}]\n\
        contexts: [{name: c, context: {cluster: k}}]\n";
    let secret = Secret {
        metadata: kube::api::ObjectMeta { name: Some("demo-access".into()), ..Default::default() },
        data: Some([("tokens.yaml".to_owned(), ByteString(kubeconfig.into()))].into()),
        ..Secret::default()
    };
    let secrets: Api<Secret> = Api::namespaced(world.service.fleet_client("masters"), "default");
    secrets.create(&PostParams::default(), &secret).await.unwrap();
    condition(&world, "True").await;
    let maps: Api<ConfigMap> = Api::all(world.client("demo").await);
    maps.list(&ListParams::default()).await.unwrap();
}
