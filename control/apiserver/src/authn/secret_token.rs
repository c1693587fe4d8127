//! Tokens of service accounts that are kept in Secrets: what one says, whether it still holds, and the note of the day
//! on which it was last used (KEP 2799). They have no end of life but that of their Secret. Pure.

use super::{SERVICE_ACCOUNT_PREFIX, User, bootstrap::same};
use crate::admission::Lookup;
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use jiff::{Timestamp, tz::TimeZone};
use parking_lot::Mutex;
use serde::Deserialize;
use std::collections::BTreeSet;
use timonel_api::Value;
use tokio::sync::Notify;

/// `iss` of these tokens.
pub(super) const ISSUER: &str = "kubernetes/serviceaccount";
/// The label that says when a token was last used.
pub(crate) const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";
/// Uses that wait to be noted, at most; what is beyond is noted at the token's next use.
const MAX_WAITING: usize = 1024;

/// The claims of such a token.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct SecretClaims {
    #[serde(default)]
    sub: String,
    #[serde(default, rename = "kubernetes.io/serviceaccount/namespace")]
    namespace: String,
    #[serde(default, rename = "kubernetes.io/serviceaccount/secret.name")]
    secret: String,
    #[serde(default, rename = "kubernetes.io/serviceaccount/service-account.name")]
    account: String,
    #[serde(default, rename = "kubernetes.io/serviceaccount/service-account.uid")]
    uid: String,
}

impl SecretClaims {
    /// Checks the objects that the token stands for and notes its use; the signature was checked before.
    pub(super) fn verify(
        &self,
        token: &str,
        lookup: &dyn Lookup,
        uses: &TokenUses,
        now: Timestamp,
    ) -> Result<User, String> {
        let Self { namespace, secret, account, uid, .. } = self;
        let claims = [(&self.sub, "sub"), (namespace, "namespace"), (secret, "secretName")];
        let claims = claims.into_iter().chain([(account, "serviceAccountName"), (uid, "serviceAccountUID")]);
        if let Some((_, name)) = claims.into_iter().find(|(text, _)| text.is_empty()) {
            return Err(format!("{name} claim is missing"));
        }
        if self.sub != format!("{SERVICE_ACCOUNT_PREFIX}{namespace}:{account}") {
            return Err("sub claim is invalid".into());
        }
        let kept = lookup.get("", "secrets", namespace, secret).filter(|kept| !is_deleting(kept));
        let kept = kept.ok_or("Token has been invalidated")?;
        let copy = BASE64.decode(kept.str_at(&["data", "token"])).unwrap_or_default();
        if !same(&copy, token.as_bytes()) {
            return Err("Token does not match server's copy".into());
        }
        let found = lookup.get("", "serviceaccounts", namespace, account);
        let found = found.ok_or_else(|| format!("serviceaccounts {account:?} not found"))?;
        if is_deleting(&found) {
            return Err(format!("ServiceAccount {namespace}/{account} has been deleted"));
        }
        let known = found.str_at(&["metadata", "uid"]);
        if known != uid {
            return Err(format!("ServiceAccount UID ({known}) does not match claim ({uid})"));
        }
        uses.note(&kept, now);
        if !kept.str_at(&["metadata", "labels", INVALID_SINCE]).is_empty() {
            return Err(format!(
                "the token in secret {namespace}/{secret} for service account {namespace}/{account} has been marked \
                 invalid. Use tokens from the TokenRequest API or manually created secret-based tokens, or remove the \
                 '{INVALID_SINCE}' label from the secret to temporarily allow use of this token"
            ));
        }
        Ok(User::service_account(namespace, account, uid))
    }
}

fn is_deleting(object: &Value) -> bool {
    !object.str_at(&["metadata", "deletionTimestamp"]).is_empty()
}

/// A day as labels and the tracking map write it.
pub(crate) fn day(at: Timestamp) -> String {
    at.to_zoned(TimeZone::UTC).date().to_string()
}

/// A Secret whose token was used on a day that its label does not tell of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TokenUse {
    pub(crate) namespace: String,
    pub(crate) secret: String,
    pub(crate) uid: String,
}

/// Uses that are to be noted: requests add, one task in the background takes. A request never waits for it.
#[derive(Debug, Default)]
pub(crate) struct TokenUses {
    waiting: Mutex<BTreeSet<TokenUse>>,
    added: Notify,
}

impl TokenUses {
    fn note(&self, secret: &Value, now: Timestamp) {
        let noted = secret.str_at(&["metadata", "labels", LAST_USED]);
        // Another control machine whose clock is ahead may have written tomorrow's date.
        let tomorrow = now.saturating_add(jiff::SignedDuration::from_hours(24)).unwrap_or(now);
        if noted == day(now) || noted == day(tomorrow) {
            return;
        }
        let text = |field: &str| secret.str_at(&["metadata", field]).to_owned();
        let mut waiting = self.waiting.lock();
        let room = waiting.len() < MAX_WAITING;
        if room && waiting.insert(TokenUse { namespace: text("namespace"), secret: text("name"), uid: text("uid") }) {
            self.added.notify_one();
        }
    }

    /// What waits, once something does.
    pub(crate) async fn take(&self) -> BTreeSet<TokenUse> {
        loop {
            let waiting = std::mem::take(&mut *self.waiting.lock());
            if !waiting.is_empty() {
                return waiting;
            }
            self.added.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        admission::testing::Objects,
        authn::{Authenticator, AuthnConfig},
    };
    use serde_json::{Value as Json, json};
    use timonel_pki::{KeyRing, SigningKey};

    const AUDIENCE: &str = "https://kubernetes.default.svc";

    fn now() -> Timestamp {
        "2026-11-21T12:00:00Z".parse().unwrap()
    }

    fn authenticator() -> Authenticator {
        let config =
            AuthnConfig { issuers: vec![AUDIENCE.into()], audiences: vec![AUDIENCE.into()], ..AuthnConfig::default() };
        Authenticator::new(config, KeyRing::new(SigningKey::generate().unwrap(), vec![]))
    }

    fn claims() -> Json {
        json!({"iss": ISSUER, "sub": "system:serviceaccount:team:robot",
            "kubernetes.io/serviceaccount/namespace": "team", "kubernetes.io/serviceaccount/secret.name": "ci",
            "kubernetes.io/serviceaccount/service-account.name": "robot",
            "kubernetes.io/serviceaccount/service-account.uid": "u"})
    }

    /// The world of a good token, with changes merged into the Secret and into the account.
    fn world(token: &str, secret: &Json, account: &Json) -> Objects {
        let mut objects = Objects::default();
        let base = json!({"metadata": {"name": "ci", "namespace": "team", "uid": "s"}, "data": {"token": BASE64.encode(token)}});
        for (resource, mut object, change) in [
            ("secrets", base, secret),
            ("serviceaccounts", json!({"metadata": {"name": "robot", "namespace": "team", "uid": "u"}}), account),
        ] {
            for (key, value) in change.as_object().into_iter().flatten() {
                object["metadata"][key] = value.clone();
            }
            if !change.is_null() {
                objects.add("", resource, object);
            }
        }
        objects
    }

    #[test]
    fn a_token_is_good_while_its_secret_and_account_are() {
        let authenticator = authenticator();
        let token = authenticator.keys().signing().sign(&claims()).unwrap();
        let deleted = json!({"deletionTimestamp": "2026-11-21T12:00:00Z"});
        for (secret, account, refusal) in [
            (json!({}), json!({}), ""),
            (Json::Null, json!({}), "Token has been invalidated"),
            (deleted.clone(), json!({}), "Token has been invalidated"),
            (json!({}), Json::Null, "serviceaccounts \"robot\" not found"),
            (json!({}), deleted, "ServiceAccount team/robot has been deleted"),
            (json!({}), json!({"uid": "v"}), "ServiceAccount UID (v) does not match claim (u)"),
            (json!({"labels": {INVALID_SINCE: "2026-01-01"}}), json!({}), "has been marked invalid"),
        ] {
            let objects = world(&token, &secret, &account);
            let found = authenticator.authenticate_token(&token, &[AUDIENCE.to_owned()], &objects, now());
            match found {
                Ok(identity) => {
                    assert_eq!((identity.user.name.as_str(), refusal), ("system:serviceaccount:team:robot", ""));
                    assert_eq!(identity.audiences, [AUDIENCE]);
                }
                Err(error) => assert!(!refusal.is_empty() && error.0.contains(refusal), "{error} for {refusal:?}"),
            }
        }
        let objects = world("another", &json!({}), &json!({}));
        let found = authenticator.authenticate_token(&token, &[AUDIENCE.to_owned()], &objects, now());
        assert!(found.unwrap_err().0.contains("does not match server's copy"));
        let elsewhere = authenticator.authenticate_token(
            &token,
            &["vault".to_owned()],
            &world(&token, &json!({}), &json!({})),
            now(),
        );
        assert!(elsewhere.is_err(), "the token is for the API only");
    }

    #[test]
    fn claims_that_lack_something_are_refused() {
        let authenticator = authenticator();
        for (field, value, refusal) in [
            ("sub", "", "sub claim is missing"),
            ("sub", "system:serviceaccount:team:other", "sub claim is invalid"),
            ("kubernetes.io/serviceaccount/secret.name", "", "secretName claim is missing"),
            ("kubernetes.io/serviceaccount/service-account.uid", "", "serviceAccountUID claim is missing"),
            ("iss", "somebody", "invalid bearer token"),
        ] {
            let mut claims = claims();
            claims[field] = value.into();
            let token = authenticator.keys().signing().sign(&claims).unwrap();
            let objects = world(&token, &json!({}), &json!({}));
            let found = authenticator.authenticate_token(&token, &[AUDIENCE.to_owned()], &objects, now());
            assert!(found.unwrap_err().0.contains(refusal), "{field}");
        }
    }

    #[tokio::test]
    async fn a_use_is_noted_once_a_day() {
        let uses = TokenUses::default();
        let secret = |label: &str| {
            Value::from(
                json!({"metadata": {"name": "ci", "namespace": "team", "uid": "s", "labels": {LAST_USED: label}}}),
            )
        };
        for label in ["2026-11-21", "2026-11-22"] {
            uses.note(&secret(label), now());
        }
        assert!(uses.waiting.lock().is_empty());
        uses.note(&secret("2026-11-20"), now());
        uses.note(&secret(""), now());
        let taken = uses.take().await;
        let one = TokenUse { namespace: "team".into(), secret: "ci".into(), uid: "s".into() };
        assert_eq!(taken, [one].into());
    }
}
