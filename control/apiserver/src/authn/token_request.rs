//! Minting service-account tokens: the `token` subresource of service accounts.

use super::{
    Authenticator, SERVICE_ACCOUNT_PREFIX,
    claims::{Claims, Kubernetes, Reference},
};
use crate::admission::{AdmissionError, Lookup};
use jiff::{SignedDuration, Timestamp};
use std::sync::Arc;
use timonel_api::Value;

/// Life of a token when the request does not say.
const DEFAULT_SECONDS: i64 = 3600;
/// Shortest life.
const MIN_SECONDS: i64 = 600;
/// Longest life that may be asked for.
const MAX_SECONDS: i64 = 1 << 32;
/// The odd life that admission asks for in pods; only such tokens are extended.
pub(crate) const POD_TOKEN_SECONDS: i64 = 3607;
/// Life of an extended token.
const EXTENDED_SECONDS: i64 = 365 * 24 * 3600;

const GROUP: &str = "authentication.k8s.io";

/// A `TokenRequest` that was read and defaulted; [`Self::mint`] finishes it, after validating admission.
#[derive(Debug)]
pub struct TokenGrant {
    request: Value,
    claims: Claims,
    seconds: i64,
    now: Timestamp,
}

struct Bound {
    pod: Option<Reference>,
    node: Option<Reference>,
    secret: Option<Reference>,
}

impl Authenticator {
    /// Reads a `TokenRequest` for a service account. `id` names the token (a random UUID).
    ///
    /// # Errors
    /// As upstream: names or uids that do not match, a life out of bounds, an object that cannot be bound.
    pub fn request_token(
        &self,
        mut request: Value,
        [namespace, name]: [&str; 2],
        id: String,
        lookup: &dyn Lookup,
        now: Timestamp,
    ) -> Result<TokenGrant, AdmissionError> {
        for (field, own, what) in [("name", name, "name"), ("namespace", namespace, "namespace")] {
            let stated = request.str_at(&["metadata", field]);
            if !stated.is_empty() && stated != own {
                let why = format!("must match the service account {what} if specified");
                return Err(invalid(name, &format!("metadata.{field}"), &format!("{stated:?}"), &why));
            }
        }
        let account = lookup
            .get("", "serviceaccounts", namespace, name)
            .ok_or_else(|| AdmissionError::not_found("", "serviceaccounts", name))?;
        let uid = account.str_at(&["metadata", "uid"]).to_owned();
        let stated = request.str_at(&["metadata", "uid"]);
        if !stated.is_empty() && stated != uid {
            let why = format!(
                "the UID in the token request ({stated}) does not match the UID of the service account ({uid})"
            );
            return Err(AdmissionError::conflict(GROUP, "TokenRequest", name, &why));
        }
        let audiences = self.default_request(&mut request, [namespace, name, &uid], now);
        let seconds = request.int_at(&["spec", "expirationSeconds"]).unwrap_or(DEFAULT_SECONDS);
        check_seconds(seconds)?;
        let bound = bound(&request, [namespace, name], lookup)?;
        let extend = self.config.extend_expiration
            && bound.pod.is_some()
            && seconds == POD_TOKEN_SECONDS
            && audiences.iter().all(|audience| self.config.audiences.contains(audience));
        let issued = now.as_second();
        let claims = Claims {
            aud: audiences,
            exp: issued + if extend { EXTENDED_SECONDS } else { seconds },
            iat: issued,
            iss: self.config.issuers.first().cloned().unwrap_or_default(),
            jti: id,
            nbf: issued,
            sub: format!("{SERVICE_ACCOUNT_PREFIX}{namespace}:{name}"),
            kubernetes: Kubernetes {
                namespace: namespace.to_owned(),
                node: bound.node,
                pod: bound.pod,
                secret: bound.secret,
                serviceaccount: Reference { name: name.to_owned(), uid },
                warnafter: extend.then_some(issued + seconds),
            },
        };
        Ok(TokenGrant { request, claims, seconds, now })
    }

    fn default_request(&self, request: &mut Value, [namespace, name, uid]: [&str; 3], now: Timestamp) -> Vec<String> {
        let stated: Vec<String> =
            request.list_at(&["spec", "audiences"]).iter().filter_map(Value::as_str).map(str::to_owned).collect();
        let audiences = if stated.is_empty() { self.config.audiences.clone() } else { stated };
        request
            .set_at(&["spec", "audiences"], audiences.iter().map(|text| text.as_str().into()).collect::<Vec<Value>>());
        if request.int_at(&["spec", "expirationSeconds"]).is_none() {
            request.set_at(&["spec", "expirationSeconds"], DEFAULT_SECONDS);
        }
        for (field, value) in [("namespace", namespace), ("name", name), ("uid", uid)] {
            request.set_at(&["metadata", field], value);
        }
        request.set_at(&["metadata", "creationTimestamp"], rfc3339(now));
        request.remove_at(&["status"]);
        audiences
    }
}

impl TokenGrant {
    /// The request as defaulted, for validating admission.
    #[must_use]
    pub fn request(&self) -> &Value {
        &self.request
    }

    /// Signs the token and fills the status.
    ///
    /// # Errors
    /// 500 when the key cannot sign.
    pub fn mint(mut self, authenticator: &Authenticator) -> Result<Value, AdmissionError> {
        let failed = |why: String| AdmissionError::internal(&format!("failed to generate token: {why}"));
        let claims = serde_json::to_value(&self.claims).map_err(|error| failed(error.to_string()))?;
        let token = authenticator.keys().signing().sign(&claims).map_err(|error| failed(error.to_string()))?;
        let expires = self.now.saturating_add(SignedDuration::from_secs(self.seconds)).unwrap_or(Timestamp::MAX);
        self.request.set_at(&["status", "token"], token);
        self.request.set_at(&["status", "expirationTimestamp"], rfc3339(expires));
        Ok(self.request)
    }
}

/// A time to the second, as the API writes it.
fn rfc3339(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn check_seconds(seconds: i64) -> Result<(), AdmissionError> {
    let refuse = |why: &str| Err(invalid("", "spec.expirationSeconds", &seconds.to_string(), why));
    match seconds {
        ..MIN_SECONDS => refuse("may not specify a duration less than 10 minutes"),
        MIN_SECONDS..=MAX_SECONDS => Ok(()),
        _ => refuse("may not specify a duration larger than 2^32 seconds"),
    }
}

fn invalid(name: &str, field: &str, value: &str, why: &str) -> AdmissionError {
    let cause = format!("Invalid value: {value}: {why}");
    let message = format!("TokenRequest.{GROUP} {name:?} is invalid: {field}: {cause}");
    AdmissionError::new(422, "Invalid", message).about(GROUP, "TokenRequest", name).with_cause(
        "FieldValueInvalid",
        cause,
        field,
    )
}

fn reference(object: &Value) -> Reference {
    let text = |field: &str| object.str_at(&["metadata", field]).to_owned();
    Reference { name: text("name"), uid: text("uid") }
}

fn bound(request: &Value, [namespace, account]: [&str; 2], lookup: &dyn Lookup) -> Result<Bound, AdmissionError> {
    let mut bound = Bound { pod: None, node: None, secret: None };
    let Some(of) = request.at(&["spec", "boundObjectRef"]).filter(|of| !of.is_null()) else { return Ok(bound) };
    let (kind, version, name) = (of.str_at(&["kind"]), of.str_at(&["apiVersion"]), of.str_at(&["name"]));
    let find = |resource: &str, namespace: &str| -> Result<Arc<Value>, AdmissionError> {
        lookup.get("", resource, namespace, name).ok_or_else(|| AdmissionError::not_found("", resource, name))
    };
    let found = match (version, kind) {
        ("v1", "Pod") => {
            let pod = find("pods", namespace)?;
            if pod.str_at(&["spec", "serviceAccountName"]) != account {
                return Err(AdmissionError::bad_request(format!(
                    "cannot bind token for serviceaccount {account:?} to pod running with different serviceaccount name."
                )));
            }
            let node = pod.str_at(&["spec", "nodeName"]);
            if !node.is_empty() {
                let known = lookup.get("", "nodes", "", node);
                bound.node = Some(
                    known.as_deref().map_or_else(|| Reference { name: node.to_owned(), uid: String::new() }, reference),
                );
            }
            bound.pod = Some(reference(&pod));
            pod
        }
        ("v1", "Node") => {
            let node = find("nodes", "")?;
            bound.node = Some(reference(&node));
            node
        }
        ("v1", "Secret") => {
            let secret = find("secrets", namespace)?;
            bound.secret = Some(reference(&secret));
            secret
        }
        _ => {
            let (group, version) = version.split_once('/').unwrap_or(("", version));
            let why = format!("cannot bind token to object of type {group}/{version}, Kind={kind}");
            return Err(AdmissionError::bad_request(why));
        }
    };
    let (stated, uid) = (of.str_at(&["uid"]), found.str_at(&["metadata", "uid"]));
    if !stated.is_empty() && stated != uid {
        let why = format!(
            "the UID in the bound object reference ({stated}) does not match the UID in record. The object might have been deleted and then recreated"
        );
        return Err(AdmissionError::conflict("", kind, name, &why));
    }
    Ok(bound)
}

#[cfg(test)]
#[allow(clippy::needless_pass_by_value, reason = "tables of literals read better without references")]
mod tests {
    use super::*;
    use crate::{
        admission::testing::Objects,
        authn::{AuthnConfig, User},
    };
    use serde_json::{Value as Json, json};
    use timonel_pki::{KeyRing, SigningKey};

    const ISSUER: &str = "https://kubernetes.default.svc";

    fn now() -> Timestamp {
        "2026-11-21T12:00:00Z".parse().unwrap()
    }

    fn authenticator() -> Authenticator {
        let config = AuthnConfig {
            issuers: vec![ISSUER.into()],
            audiences: vec![ISSUER.into()],
            static_tokens: vec![("secret-token".into(), User::new("admin", &["system:masters"]))],
            anonymous: true,
            extend_expiration: true,
        };
        Authenticator::new(config, KeyRing::new(SigningKey::generate().unwrap(), vec![]))
    }

    fn world() -> Objects {
        let named = |name: &str| json!({"metadata": {"name": name, "namespace": "ns", "uid": format!("{name}-uid")}});
        let mut pod = named("pod");
        pod["spec"] = json!({"serviceAccountName": "sa", "nodeName": "node"});
        Objects::default()
            .with("", "serviceaccounts", named("sa"))
            .with("", "pods", pod)
            .with("", "secrets", named("secret"))
            .with("", "nodes", json!({"metadata": {"name": "node", "uid": "node-uid"}}))
    }

    fn ask(authenticator: &Authenticator, spec: Json, objects: &Objects) -> Result<Value, AdmissionError> {
        let request = Value::from(json!({"spec": spec}));
        authenticator.request_token(request, ["ns", "sa"], "id".into(), objects, now())?.mint(authenticator)
    }

    fn bind(kind: &str, name: &str) -> Json {
        json!({"boundObjectRef": {"apiVersion": "v1", "kind": kind, "name": name}})
    }

    #[test]
    fn a_pods_token_authenticates_until_the_pod_is_gone() {
        let (authenticator, mut objects) = (authenticator(), world());
        let answer = ask(&authenticator, bind("Pod", "pod"), &objects).unwrap();
        assert_eq!(answer.str_at(&["status", "expirationTimestamp"]), "2026-11-21T13:00:00Z");
        let token = answer.str_at(&["status", "token"]);
        let later = |seconds: i64| now() + SignedDuration::from_secs(seconds);
        let try_at = |objects: &Objects, at| authenticator.authenticate_token(token, &[ISSUER.into()], objects, at);
        let identity = try_at(&objects, now()).unwrap();
        assert_eq!(identity.user.name, "system:serviceaccount:ns:sa");
        assert_eq!(
            identity.user.groups,
            ["system:serviceaccounts", "system:serviceaccounts:ns", "system:authenticated"]
        );
        for (key, value) in [
            ("pod-name", "pod"),
            ("pod-uid", "pod-uid"),
            ("node-name", "node"),
            ("node-uid", "node-uid"),
            ("credential-id", "JTI=id"),
        ] {
            assert_eq!(identity.user.extra[&format!("authentication.kubernetes.io/{key}")], [value]);
        }
        try_at(&objects, later(3600)).unwrap();
        assert!(try_at(&objects, later(3661)).unwrap_err().0.contains("expired"));
        assert!(try_at(&objects, later(-61)).unwrap_err().0.contains("not valid yet"));
        objects.add("", "pods", json!({"metadata": {"name": "pod", "namespace": "ns", "uid": "another"}}));
        assert!(try_at(&objects, now()).unwrap_err().0.contains("does not match service account pod ref claim"));
        objects.add("", "serviceaccounts", json!({"metadata": {"name": "sa", "namespace": "ns", "uid": "another"}}));
        assert!(try_at(&objects, now()).unwrap_err().0.contains("service account UID"));
    }

    #[test]
    fn the_token_of_pods_is_extended() {
        let (authenticator, objects) = (authenticator(), world());
        let mut spec = bind("Pod", "pod");
        spec["expirationSeconds"] = POD_TOKEN_SECONDS.into();
        let answer = ask(&authenticator, spec, &objects).unwrap();
        assert_eq!(answer.str_at(&["status", "expirationTimestamp"]), "2026-11-21T13:00:07Z");
        let at = now() + SignedDuration::from_hours(24);
        let token = answer.str_at(&["status", "token"]);
        let identity = authenticator.authenticate_token(token, &[ISSUER.into()], &objects, at).unwrap();
        assert_eq!(
            identity.stale_token.as_deref(),
            Some("subject: system:serviceaccount:ns:sa, seconds after warning threshold: 82793")
        );
    }

    #[test]
    fn requests_are_checked() {
        let (authenticator, objects) = (authenticator(), world());
        for (spec, refusal) in [
            (json!({}), ""),
            (bind("Secret", "secret"), ""),
            (bind("Node", "node"), ""),
            (
                json!({"expirationSeconds": 599}),
                "TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid value: 599: may not specify a duration less than 10 minutes",
            ),
            (
                json!({"expirationSeconds": 4_294_967_297_i64}),
                "TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid value: 4294967297: may not specify a duration larger than 2^32 seconds",
            ),
            (bind("Pod", "none"), "pods \"none\" not found"),
            (bind("ConfigMap", "x"), "cannot bind token to object of type /v1, Kind=ConfigMap"),
        ] {
            let refused = ask(&authenticator, spec, &objects).err().map(|error| error.message).unwrap_or_default();
            assert_eq!(refused, refusal);
        }
        let missing = authenticator.request_token(Value::object(), ["ns", "x"], String::new(), &objects, now());
        assert_eq!(missing.unwrap_err().message, "serviceaccounts \"x\" not found");
    }

    #[test]
    fn reviews_tell_audiences_apart() {
        let (authenticator, objects) = (authenticator(), world());
        let answer = ask(&authenticator, json!({"audiences": ["vault"]}), &objects).unwrap();
        let token = answer.str_at(&["status", "token"]);
        for (audiences, authenticated) in
            [(json!([]), false), (json!(["vault", "other"]), true), (json!(["other"]), false)]
        {
            let mut review = Value::from(json!({"spec": {"token": token, "audiences": audiences}}));
            let (token, audiences) = authenticator.read_review(&review).unwrap();
            let found = authenticator.authenticate_token(&token, &audiences, &objects, now());
            crate::authn::answer_review(&mut review, found);
            assert_eq!(review.bool_at(&["status", "authenticated"]), Some(authenticated), "{review:?}");
            if authenticated {
                assert_eq!(review.list_at(&["status", "audiences"]), [Value::from("vault")]);
                assert_eq!(review.str_at(&["status", "user", "username"]), "system:serviceaccount:ns:sa");
            }
        }
    }

    #[test]
    fn credentials_decide_who_one_is() {
        let (authenticator, objects) = (authenticator(), world());
        for (header, expected) in [
            ("Bearer secret-token", Some(Ok("admin".to_owned()))),
            ("bearer  secret-token ", Some(Ok("admin".to_owned()))),
            ("Bearer nonsense", Some(Err(()))),
            ("Bearer ", None),
            ("Basic abc", None),
        ] {
            let found = crate::authn::bearer(header).map(|token| {
                let identity = authenticator.authenticate_token(token, &[ISSUER.into()], &objects, now());
                identity.map(|found| found.user.name).map_err(|_| ())
            });
            assert_eq!(found, expected, "{header}");
        }
        let authority =
            timonel_pki::Authority::create("ca", timonel_pki::Validity::starting(now(), SignedDuration::from_hours(1)))
                .unwrap();
        let spec = timonel_pki::ClientSpec { common_name: "alice".into(), organizations: vec!["dev".into()] };
        let leaf = authority
            .issue_client(&spec, timonel_pki::Validity::starting(now(), SignedDuration::from_hours(1)))
            .unwrap();
        let user = super::super::user_of_certificate(&leaf.rustls().unwrap().0.remove(0)).unwrap();
        assert_eq!((user.name.as_str(), &user.groups[..]), ("alice", &["dev".to_owned()][..]));
    }

    #[test]
    fn other_keys_end_the_life_of_tokens() {
        let (authenticator, objects) = (authenticator(), world());
        let answer = ask(&authenticator, json!({}), &objects).unwrap();
        let token = answer.str_at(&["status", "token"]);
        let ask = || authenticator.authenticate_token(token, &[ISSUER.into()], &objects, now());
        ask().unwrap();
        authenticator.set_keys(KeyRing::new(SigningKey::generate().unwrap(), vec![]));
        assert!(ask().is_err());
    }
}
