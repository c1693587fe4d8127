//! A clock that jumps. What must hold: who has a certificate is served all the time, watches go on, a token lives by
//! the clock (an old one ends early after a jump forward, a new one is good at once), and no pod is lost, because nodes
//! that renew their leases by the new time are well again before anybody would be evicted.

use crate::support::{World, eventually};
use futures::{StreamExt, TryStreamExt};
use jiff::SignedDuration;
use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenRequestSpec},
    coordination::v1::Lease,
    core::v1::{ConfigMap, Node, Pod, ServiceAccount},
};
use kube::{
    Api, Client, Config,
    api::{ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams},
    config::AuthInfo,
};
use serde_json::json;
use std::time::Duration;
use timonel_fleet::ClusterSpec;
use timonel_runtime::Clock;

const HOURS: i64 = 48;

/// A token of an account to which nothing was granted.
async fn token(client: &Client) -> String {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "default");
    let spec = TokenRequestSpec { expiration_seconds: Some(3_600), ..TokenRequestSpec::default() };
    let asked = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
    let made = accounts.create_token_request("t", &PostParams::default(), &asked).await.expect("a token");
    made.status.and_then(|status| status.token).expect("a token")
}

/// 403 for a token that is known, 401 for one that is not.
async fn answer_to(config: &Config, token: &str) -> u16 {
    let mut config = config.clone();
    config.auth_info = AuthInfo { token: Some(token.into()), ..AuthInfo::default() };
    let maps: Api<ConfigMap> = Api::default_namespaced(Client::try_from(config).unwrap());
    match maps.list(&ListParams::default()).await {
        Err(kube::Error::Api(status)) => status.code,
        other => panic!("{other:?}"),
    }
}

fn map(name: &str) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name}})).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_go_on_through_jumps_of_the_clock() {
    let (clock, shift) = Clock::shifted();
    let world = World::with_clock(clock).await;
    world.create("a", ClusterSpec::default()).await;
    let (config, client) = (world.config("a").await, world.client("a").await);
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "default");
    let account = serde_json::from_value(json!({"metadata": {"name": "t"}})).unwrap();
    accounts.create(&PostParams::default(), &account).await.unwrap();
    let old = token(&client).await;
    assert_eq!(answer_to(&config, &old).await, 403);
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let mut watch = maps.watch(&WatchParams::default(), "0").await.unwrap().boxed();
    for (jump, name) in [(HOURS, "forward"), (-HOURS, "back"), (0, "home")] {
        shift.set(SignedDuration::from_hours(jump));
        let made = maps.create(&PostParams::default(), &map(name)).await.unwrap();
        let seen = async {
            loop {
                match watch.try_next().await.unwrap().expect("the watch goes on") {
                    WatchEvent::Added(seen) if seen.metadata.uid == made.metadata.uid => return,
                    _ => {}
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(10), seen).await.expect(name);
        let fresh = token(&client).await;
        assert_eq!(answer_to(&config, &fresh).await, 403, "{name}: a fresh token is good");
        if jump > 0 {
            assert_eq!(answer_to(&config, &old).await, 401, "{name}: a token whose time is over");
        }
        assert_eq!(world.ready("a").await.phase, timonel_fleet::ClusterPhase::Ready);
    }
    assert_eq!(answer_to(&config, &old).await, 403, "its time is back");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_pod_is_lost_to_a_jump() {
    let (clock, shift) = Clock::shifted();
    let world = World::with_clock(clock.clone()).await;
    world.create("a", ClusterSpec::default()).await;
    let client = world.client("a").await;
    let nodes: Api<Node> = Api::all(client.clone());
    let node = serde_json::from_value(json!({"metadata": {"name": "n"}})).unwrap();
    nodes.create(&PostParams::default(), &node).await.unwrap();
    let leases: Api<Lease> = Api::namespaced(client.clone(), "kube-node-lease");
    // What a living kubelet says, over and over.
    let heartbeat = || async {
        let now = clock.now();
        let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady",
            "lastHeartbeatTime": format!("{now:.0}"), "lastTransitionTime": format!("{now:.0}")}]}});
        nodes.patch_status("n", &PatchParams::default(), &Patch::Strategic(ready)).await.unwrap();
        let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "n"},
            "spec": {"holderIdentity": "n", "leaseDurationSeconds": 40, "renewTime": format!("{now:.6}")}});
        let lease: Lease = serde_json::from_value(lease).unwrap();
        if leases.create(&PostParams::default(), &lease).await.is_err() {
            leases.patch("n", &PatchParams::default(), &Patch::Merge(&lease)).await.unwrap();
        }
    };
    let well = || async {
        heartbeat().await;
        let node = nodes.get("n").await.ok()?;
        let tainted = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten()).count();
        let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let ready = conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True");
        (ready && tainted == 0).then_some(())
    };
    eventually("the node to be well", well).await;
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let accounts: Api<ServiceAccount> = Api::default_namespaced(client);
    eventually("the account", || async { accounts.get_opt("default").await.ok().flatten() }).await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n",
        "containers": [{"name": "c", "image": "i"}]}});
    let made = pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    for jump in [HOURS, 0, -HOURS, 0] {
        shift.set(SignedDuration::from_hours(jump));
        // The controllers look while nobody has renewed by the new time.
        world.patch("a", json!({"metadata": {"labels": {"jump": format!("x{}", jump + HOURS)}}})).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        eventually("the node to be well again", well).await;
        let found = pods.get("p").await.expect("the pod is there");
        assert_eq!(
            (found.metadata.uid, found.metadata.deletion_timestamp),
            (made.metadata.uid.clone(), None),
            "{jump}"
        );
    }
}
