//! Tokens that are kept in Secrets: filled in, good for requests, noted when used, gone with their account or when
//! their time is over.

use crate::support::{World, eventually};
use jiff::SignedDuration;
use k8s_openapi::{
    ByteString,
    api::{
        authentication::v1::SelfSubjectReview,
        core::v1::{ConfigMap, Secret, ServiceAccount},
    },
};
use kube::{
    Api, Client, Config,
    api::{DeleteParams, PostParams},
    config::AuthInfo,
};
use serde_json::json;
use timonel_fleet::ClusterSpec;
use timonel_runtime::Clock;

const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";

async fn make<T>(api: &Api<T>, object: serde_json::Value)
where
    T: Clone + std::fmt::Debug + serde::Serialize + serde::de::DeserializeOwned,
{
    let object: T = serde_json::from_value(object).unwrap();
    api.create(&PostParams::default(), &object).await.unwrap();
}

/// The user that the API takes the bearer of a token for.
async fn whoami(config: &Config, token: &[u8]) -> Result<String, u16> {
    let mut config = config.clone();
    let token = String::from_utf8(token.to_vec()).unwrap();
    config.auth_info = AuthInfo { token: Some(token.into()), ..AuthInfo::default() };
    let reviews: Api<SelfSubjectReview> = Api::all(Client::try_from(config).unwrap());
    match reviews.create(&PostParams::default(), &SelfSubjectReview::default()).await {
        Ok(review) => Ok(review.status.unwrap().user_info.unwrap().username.unwrap()),
        Err(kube::Error::Api(status)) => Err(status.code),
        Err(other) => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_token_lives_as_long_as_its_account() {
    let world = World::start().await;
    world.create("a", ClusterSpec::default()).await;
    let (config, client) = (world.config("a").await, world.client("a").await);
    let (secrets, accounts): (Api<Secret>, Api<ServiceAccount>) =
        (Api::default_namespaced(client.clone()), Api::default_namespaced(client.clone()));
    make(&accounts, json!({"metadata": {"name": "robot"}})).await;
    make(
        &secrets,
        json!({"type": "kubernetes.io/service-account-token",
        "metadata": {"name": "ci", "annotations": {"kubernetes.io/service-account.name": "robot"}}}),
    )
    .await;
    let filled = eventually("the token", || async {
        let data = secrets.get("ci").await.ok()?.data?;
        (data.len() == 3).then_some(data)
    })
    .await;
    assert_eq!(filled["namespace"].0, b"default");
    assert!(filled["ca.crt"].0.starts_with(b"-----BEGIN CERTIFICATE-----"));
    assert_eq!(whoami(&config, &filled["token"].0).await, Ok("system:serviceaccount:default:robot".into()));
    eventually("the use to be noted", || async { secrets.get("ci").await.ok()?.metadata.labels?.remove(LAST_USED) })
        .await;
    let maps: Api<ConfigMap> = Api::namespaced(client, "kube-system");
    let tracking = maps.get("kube-apiserver-legacy-service-account-token-tracking").await.unwrap();
    assert!(tracking.data.unwrap().contains_key("since"));

    accounts.delete("robot", &DeleteParams::default()).await.unwrap();
    eventually("the Secret to go", || async {
        secrets.get_opt("ci").await.ok().and_then(|found| found.is_none().then_some(()))
    })
    .await;
    assert_eq!(whoami(&config, &filled["token"].0).await, Err(401));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_bootstrap_token_goes() {
    let (clock, shift) = Clock::shifted();
    let world = World::with_clock(clock.clone()).await;
    world.create("a", ClusterSpec::default()).await;
    let (config, client) = (world.config("a").await, world.client("a").await);
    let secrets: Api<Secret> = Api::namespaced(client, "kube-system");
    let expiration = clock.now() + SignedDuration::from_hours(24);
    let data = |values: &[(&str, &str)]| {
        values.iter().map(|(key, value)| ((*key).to_owned(), ByteString((*value).into()))).collect()
    };
    let mut secret: Secret = serde_json::from_value(json!({"type": "bootstrap.kubernetes.io/token",
        "metadata": {"name": "bootstrap-token-abcdef"}}))
    .unwrap();
    secret.data = Some(data(&[
        ("token-id", "abcdef"),
        ("token-secret", "0123456789abcdef"),
        ("usage-bootstrap-authentication", "true"),
        ("expiration", &format!("{expiration:.0}")),
    ]));
    secrets.create(&PostParams::default(), &secret).await.unwrap();
    assert_eq!(whoami(&config, b"abcdef.0123456789abcdef").await, Ok("system:bootstrap:abcdef".into()));
    shift.set(SignedDuration::from_hours(25));
    assert_eq!(whoami(&config, b"abcdef.0123456789abcdef").await, Err(401));
    eventually("the Secret to go", || async {
        secrets.get_opt("bootstrap-token-abcdef").await.ok().and_then(|found| found.is_none().then_some(()))
    })
    .await;
}
