//! What anybody may send who may connect: frames of streams, tokens; and what a cluster's owner may configure.

#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use bytes::BytesMut;
use timonel_apiserver::{
    AccessConfig, AuditConfig, TokenWebhookConfig,
    admission::Lookup,
    authn::{Authenticator, AuthnConfig},
    streams::{SpdyDecoder, SpdyEncoder, SpdyFrame, SpdyHeaders},
};
use timonel_pki::{KeyRing, SigningKey};

#[test]
fn spdy_frames() {
    let headers = || -> SpdyHeaders { vec![("streamtype".to_owned(), "stdout".to_owned())] };
    let mut encoder = SpdyEncoder::default();
    let mut good = BytesMut::new();
    for frame in [
        SpdyFrame::SynStream { id: 1, headers: headers(), fin: false },
        SpdyFrame::SynReply { id: 1, headers: headers(), fin: false },
        SpdyFrame::Ping(1),
    ] {
        encoder.encode(&frame, &mut good).unwrap();
    }
    assert!(
        timonel_fuzz::run(&[&good], |bytes| {
            let (mut decoder, mut bytes) = (SpdyDecoder::default(), BytesMut::from(bytes));
            let mut before = bytes.len() + 1;
            while let Ok(Some(_)) = decoder.decode(&mut bytes) {
                assert!(bytes.len() < before, "a frame of no bytes would come for ever");
                before = bytes.len();
            }
        }) > 1000
    );
}

/// A cluster with one service account.
struct Cluster(std::sync::Arc<timonel_api::Value>);

impl Lookup for Cluster {
    fn get(&self, _: &str, resource: &str, _: &str, name: &str) -> Option<std::sync::Arc<timonel_api::Value>> {
        (resource == "serviceaccounts" && name == "sa").then(|| self.0.clone())
    }

    fn list(&self, _: &str, _: &str, _: Option<&str>) -> Vec<std::sync::Arc<timonel_api::Value>> {
        Vec::new()
    }

    fn generation(&self, _: &str, _: &str) -> u64 {
        0
    }
}

#[test]
fn bearer_tokens() {
    let issuer = "https://kubernetes.default.svc".to_owned();
    let config =
        AuthnConfig { issuers: vec![issuer.clone()], audiences: vec![issuer.clone()], ..AuthnConfig::default() };
    let authenticator = Authenticator::new(config, KeyRing::new(SigningKey::generate().unwrap(), Vec::new()));
    let account = serde_json::json!({"metadata": {"name": "sa", "namespace": "ns", "uid": "u"}});
    let cluster = Cluster(std::sync::Arc::new(account.into()));
    let now = "2026-11-21T12:00:00Z".parse().unwrap();
    let grant = authenticator.request_token(timonel_api::Value::object(), ["ns", "sa"], "id".into(), &cluster, now);
    let answer = grant.unwrap().mint(&authenticator).unwrap();
    let good = answer.str_at(&["status", "token"]).to_owned();
    let try_it = |token: &str| authenticator.authenticate_token(token, std::slice::from_ref(&issuer), &cluster, now);
    assert!(try_it(&good).is_ok());
    let corpus: [&[u8]; 3] = [good.as_bytes(), b"abcdef.0123456789abcdef", b"eyJhbGciOiJub25lIn0.e30."];
    timonel_fuzz::run(&corpus, |bytes| {
        let Ok(token) = std::str::from_utf8(bytes) else { return };
        // Whatever is changed of a token, it is none any more.
        assert!(token == good || try_it(token).is_err(), "{token}");
    });
}

#[test]
fn access_configurations() {
    let policy = "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules:\n\
        - {level: Request, users: [a], resources: [{group: '*', resources: ['*/scale'], resourceNames: [x]}]}\n\
        - {level: None, nonResourceURLs: ['/healthz*']}\n";
    let authentication = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\njwt:\n\
        - issuer: {url: 'https://i', discoveryURL: 'https://d', audiences: [a, b], audienceMatchPolicy: MatchAny}\n  \
        claimMappings: {username: {expression: \"claims.sub + '@' + claims.?org.orValue('none')\"}, \
        groups: {claim: groups, prefix: ''}, extra: [{key: x.io/y, valueExpression: claims.z}]}\n  \
        claimValidationRules: [{expression: 'claims.exp - claims.iat < 3600'}]\n  \
        userValidationRules: [{expression: 'user.groups.all(g, g.size() < 10)'}]\nanonymous: {enabled: true}\n";
    let authorization = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\nauthorizers:\n\
        - {type: RBAC, name: r}\n- type: Webhook\n  name: w\n  webhook: {timeout: 3s, authorizedTTL: 5m, \
        subjectAccessReviewVersion: v1, matchConditionSubjectAccessReviewVersion: v1, failurePolicy: Deny, \
        connectionInfo: {type: KubeConfigFile, kubeConfigFile: k}, \
        matchConditions: [{expression: \"request.resourceAttributes.namespace != 'x'\"}]}\n";
    let kubeconfig = "current-context: c\nclusters: [{name: k, cluster: {server: 'https://h', \
        certificate-authority-data: YQ==}}]\nusers: [{name: u, user: {token: t}}]\n\
        contexts: [{name: c, context: {cluster: k, user: u}}]\n";
    let whole = |texts: [&str; 4]| AccessConfig {
        audit: Some(AuditConfig { policy: texts[0].to_owned(), ..AuditConfig::default() }),
        authentication: Some(texts[1].to_owned()),
        authorization: Some(texts[2].to_owned()),
        token_webhook: Some(TokenWebhookConfig::new(texts[3].to_owned())),
        files: [("k".to_owned(), kubeconfig.to_owned())].into(),
    };
    let good = [policy, authentication, authorization, kubeconfig];
    whole(good).check(&[]).unwrap();
    for (at, text) in good.into_iter().enumerate() {
        timonel_fuzz::run(&[text.as_bytes()], |bytes| {
            let Ok(changed) = std::str::from_utf8(bytes) else { return };
            let none = AccessConfig { files: whole(good).files, ..AccessConfig::default() };
            let one = whole([changed; 4]);
            // Refused or taken, never worse.
            drop(match at {
                0 => AccessConfig { audit: one.audit, ..none }.check(&[]),
                1 => AccessConfig { authentication: one.authentication, ..none }.check(&[]),
                2 => AccessConfig { authorization: one.authorization, ..none }.check(&[]),
                _ => AccessConfig { token_webhook: one.token_webhook, ..none }.check(&[]),
            });
        });
    }
}
