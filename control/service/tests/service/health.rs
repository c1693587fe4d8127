//! What the health endpoints say of what the service depends on: key management.

use crate::support::World;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use kube::client::Body;
use timonel_encryption::Encryption;
use timonel_fleet::ClusterSpec;
use timonel_runtime::{Entropy, Tasks};

/// A plugin that opened what was sealed before, and does not answer; a key writes today.
const CONFIG: &str = "
apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
- resources: [secrets]
  providers:
  - aesgcm: {keys: [{name: one, secret: AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=}]}
  - kms: {apiVersion: v2, name: gone, endpoint: unix:///nonexistent/kms.sock, timeout: 1s}
";

async fn ask(world: &World, path: &str) -> (StatusCode, String) {
    let request = Request::get(path).body(Body::empty()).unwrap();
    let answer = world.client("a").await.send(request).await.unwrap();
    let status = answer.status();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8_lossy(&body).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_management_plugin_that_is_gone_is_told() {
    let tasks = Tasks::root("test");
    let encryption = Encryption::from_text(CONFIG, Entropy::system(), &tasks).await.unwrap();
    let world = World::with_encryption(encryption).await;
    world.create("a", ClusterSpec::default()).await;
    for endpoint in ["readyz", "livez", "healthz"] {
        let (status, told) = ask(&world, &format!("/{endpoint}")).await;
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
        assert!(told.contains("[-]kms-providers failed: reason withheld\n") && told.contains("[+]etcd ok\n"), "{told}");
        assert_eq!(ask(&world, &format!("/{endpoint}?exclude=kms-providers")).await.0, StatusCode::OK);
    }
    assert_eq!(ask(&world, "/readyz/kms-providers").await.0, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(ask(&world, "/readyz/etcd").await, (StatusCode::OK, "ok".to_owned()));
}
