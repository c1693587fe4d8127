//! Tokens of other issuers and of a webhook, against real servers on loopback.

use super::{
    remote::{Remote, remote},
    support::{Answer, World, world},
};
use parking_lot::Mutex;
use serde_json::{Value as Json, json};
use std::sync::Arc;
use timonel_apiserver::{AccessConfig, Caller, Peer, TokenWebhookConfig};
use timonel_pki::{KeyRing, SigningKey};

const REVIEWS: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
const TOKEN_REVIEWS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";

/// An issuer whose key can be changed.
struct Issuer {
    remote: Remote,
    key: Arc<Mutex<Arc<SigningKey>>>,
}

impl Issuer {
    async fn start(world: &World) -> Self {
        let key = Arc::new(Mutex::new(Arc::new(SigningKey::generate().unwrap())));
        let (held, port) = (key.clone(), Arc::new(Mutex::new(0)));
        let known = port.clone();
        let remote = remote(world, move |path, _| {
            let base = format!("https://localhost:{}", known.lock());
            let document = match path {
                "/.well-known/openid-configuration" => json!({"issuer": base, "jwks_uri": format!("{base}/keys")}),
                "/keys" => {
                    let copy = SigningKey::from_pem(&held.lock().to_pem()).unwrap();
                    KeyRing::new(copy, Vec::new()).jwks()
                }
                _ => return (404, String::new()),
            };
            (200, document.to_string())
        });
        let remote = remote.await;
        *port.lock() = remote.port;
        Self { remote, key }
    }

    fn sign(&self, mut claims: Json) -> String {
        if claims.get("iss").is_none() {
            claims["iss"] = self.remote.url().into();
        }
        self.key.lock().sign(&claims).unwrap()
    }

    fn rotate(&self) {
        *self.key.lock() = Arc::new(SigningKey::generate().unwrap());
    }

    /// As an entry of the configuration.
    fn entry(&self, rest: &str) -> String {
        let ca: String = self.remote.ca.lines().map(|line| format!("      {line}\n")).collect();
        format!(
            "- issuer:\n    url: {}\n    audiences: [timonel]\n    certificateAuthority: |\n{ca}{rest}",
            self.remote.url()
        )
    }
}

fn configuration(entries: &str) -> AccessConfig {
    let text = format!("apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\n{entries}");
    AccessConfig { authentication: Some(text), ..AccessConfig::default() }
}

async fn who(world: &World, token: &str) -> Answer {
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}).to_string();
    let header = format!("Bearer {token}");
    world.send("POST", REVIEWS, &[("authorization", &header), ("content-type", "application/json")], review).await
}

async fn from_outside() -> World {
    let mut world = world().await;
    world.caller = Caller::Peer(Peer::new(None, None));
    world
}

/// Seconds of the world's clock, which stands still.
const NOW: i64 = 1_793_527_200;

#[tokio::test]
async fn tokens_of_several_issuers_are_taken_as_configured() {
    let world = from_outside().await;
    let (first, second) = (Issuer::start(&world).await, Issuer::start(&world).await);
    let entries = format!(
        "jwt:\n{}{}",
        first.entry("  claimMappings:\n    username: {claim: sub, prefix: 'one:'}\n    groups: {claim: groups, prefix: ''}\n"),
        second.entry(
            "  claimMappings:\n    username: {expression: claims.user.name}\n    extra: [{key: x.io/team, valueExpression: claims.team}]\n  \
             claimValidationRules: [{expression: 'claims.exp - claims.iat <= 3600', message: lives too long}]\n  \
             userValidationRules: [{expression: \"!user.username.startsWith('system:')\", message: reserved}]\n"
        ),
    );
    world.server.configure(configuration(&entries)).await.unwrap();
    let alice = json!({"sub": "alice", "aud": "timonel", "exp": NOW + 60, "groups": ["dev"]});
    let info = who(&world, &first.sign(alice.clone())).await.expect(201)["status"]["userInfo"].clone();
    assert_eq!(info, json!({"username": "one:alice", "groups": ["dev", "system:authenticated"]}));
    let bob = |name: &str, life: i64| json!({"user": {"name": name}, "team": "red", "aud": ["x", "timonel"], "iat": NOW, "exp": NOW + life, "jti": "J"});
    let info = who(&world, &second.sign(bob("bob", 3600))).await.expect(201)["status"]["userInfo"].clone();
    assert_eq!(
        info,
        json!({"username": "bob", "groups": ["system:authenticated"],
            "extra": {"x.io/team": ["red"], "authentication.kubernetes.io/credential-id": ["JTI=J"]}})
    );
    let mut expired = alice.clone();
    expired["exp"] = (NOW - 1).into();
    let mut other = alice.clone();
    other["aud"] = "other".into();
    let mut stranger = alice.clone();
    stranger["iss"] = second.remote.url().into();
    for (what, token) in [
        ("expired", first.sign(expired)),
        ("for another audience", first.sign(other)),
        ("signed by another issuer", first.sign(stranger)),
        ("too long a life", second.sign(bob("bob", 3601))),
        ("a name that is reserved", second.sign(bob("system:masters", 60))),
        ("no token", "a.b.c".to_owned()),
    ] {
        assert_eq!(who(&world, &token).await.code, 401, "{what}");
    }
    // A token that was good is not looked at again, and keys are fetched once.
    who(&world, &first.sign(alice)).await.expect(201);
    let paths: Vec<String> = first.remote.asked().into_iter().map(|(path, ..)| path).collect();
    assert_eq!(paths, ["/.well-known/openid-configuration", "/keys"]);
}

#[tokio::test]
async fn keys_change_and_made_up_ones_are_not_looked_for_without_end() {
    let world = from_outside().await;
    let issuer = Issuer::start(&world).await;
    let entry = issuer.entry("  claimMappings: {username: {claim: sub, prefix: ''}}\n");
    world.server.configure(configuration(&format!("jwt:\n{entry}"))).await.unwrap();
    let claims = |name: &str| json!({"sub": name, "aud": "timonel", "exp": NOW + 60});
    who(&world, &issuer.sign(claims("a"))).await.expect(201);
    issuer.rotate();
    who(&world, &issuer.sign(claims("b"))).await.expect(201);
    let stranger = SigningKey::generate().unwrap();
    for name in ["c", "d", "e", "f"] {
        let mut forged = claims(name);
        forged["iss"] = issuer.remote.url().into();
        assert_eq!(who(&world, &stranger.sign(&forged).unwrap()).await.code, 401);
    }
    let fetched = issuer.remote.asked().into_iter().filter(|(path, ..)| path == "/keys").count();
    assert_eq!(fetched, 3);
    who(&world, &issuer.sign(claims("b"))).await.expect(201);
    // Taken out of the configuration, its tokens are no good at once.
    world.server.configure(AccessConfig::default()).await.unwrap();
    assert_eq!(who(&world, &issuer.sign(claims("b"))).await.code, 401);
}

#[tokio::test]
async fn an_issuer_that_is_gone_or_lies_harms_only_its_own() {
    let world = from_outside().await;
    let (good, liar) = (Issuer::start(&world).await, Issuer::start(&world).await);
    // Its documents name itself, not whom it claims to be.
    let lie = liar.remote.url().replace("localhost", "LOCALHOST");
    let entries = format!(
        "jwt:\n{}{}- issuer: {{url: 'https://127.0.0.1:1', audiences: [timonel]}}\n  claimMappings: {{username: {{claim: sub, prefix: ''}}}}\n",
        good.entry("  claimMappings: {username: {claim: sub, prefix: ''}}\n"),
        liar.entry("  claimMappings: {username: {claim: sub, prefix: ''}}\n").replace(&liar.remote.url(), &lie),
    );
    world.server.configure(configuration(&entries)).await.unwrap();
    let claims = |issuer: &str| json!({"iss": issuer, "sub": "a", "aud": "timonel", "exp": NOW + 60});
    assert_eq!(who(&world, &liar.sign(claims(&lie))).await.code, 401);
    assert_eq!(who(&world, &good.sign(claims("https://127.0.0.1:1"))).await.code, 401);
    who(&world, &good.sign(claims(&good.remote.url()))).await.expect(201);
}

#[tokio::test]
async fn the_nameless_come_where_they_may() {
    let world = from_outside().await;
    let text = "anonymous: {enabled: true, conditions: [{path: /livez}, {path: /readyz}]}\n";
    world.server.configure(configuration(text)).await.unwrap();
    for (path, code) in [("/livez", 200), ("/readyz", 200), ("/healthz", 401), ("/version", 401), ("/api/v1/pods", 401)]
    {
        assert_eq!(world.get(path).await.code, code, "{path}");
    }
    world.server.configure(configuration("anonymous: {enabled: false}\n")).await.unwrap();
    assert_eq!(world.get("/livez").await.code, 401);
    world.server.configure(AccessConfig::default()).await.unwrap();
    assert_eq!((world.get("/livez").await.code, world.get("/api/v1/pods").await.code), (200, 403));
}

#[tokio::test]
async fn a_webhook_knows_tokens_that_nobody_else_knows() {
    let mut world = from_outside().await;
    let hook = remote(&world, |path, review| {
        assert_eq!((path, &review["kind"]), ("/review", &json!("TokenReview")));
        let status = match review["spec"]["token"].as_str().unwrap() {
            "good" => {
                json!({"authenticated": true, "user": {"username": "carol", "uid": "3", "groups": ["g"], "extra": {"k": ["v"]}}})
            }
            "vault" => json!({"authenticated": true, "user": {"username": "v"}, "audiences": ["vault"]}),
            "broken" => return (500, "boom".to_owned()),
            _ => json!({"authenticated": false}),
        };
        (200, json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "status": status}).to_string())
    });
    let hook = hook.await;
    let webhook = TokenWebhookConfig::new(hook.kubeconfig("/review"));
    let config = AccessConfig { token_webhook: Some(webhook), ..AccessConfig::default() };
    world.server.configure(config).await.unwrap();
    for _ in 0..2 {
        let info = who(&world, "good").await.expect(201)["status"]["userInfo"].clone();
        let expected =
            json!({"username": "carol", "uid": "3", "groups": ["g", "system:authenticated"], "extra": {"k": ["v"]}});
        assert_eq!(info, expected);
        assert_eq!(who(&world, "unknown").await.code, 401);
    }
    assert_eq!(hook.asked().len(), 2, "each is asked about once");
    assert_eq!(hook.asked()[0].1, "Bearer hook-token");
    assert_eq!(who(&world, "broken").await.code, 401);
    world.caller = Caller::internal("admin");
    for (token, audiences, authenticated) in [("vault", json!(["vault"]), true), ("vault", json!([]), false)] {
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token, "audiences": audiences}});
        let answer = world.post(TOKEN_REVIEWS, review).await.expect(201);
        assert_eq!(answer["status"]["authenticated"].as_bool().unwrap_or_default(), authenticated, "{answer}");
    }
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": "broken"}});
    let answer = world.post(TOKEN_REVIEWS, review).await.expect(201);
    assert_eq!(
        answer["status"]["error"],
        "[invalid bearer token, an error on the server (\"boom\") has prevented the request from succeeding]"
    );
}
