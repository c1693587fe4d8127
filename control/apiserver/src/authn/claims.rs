//! What a service-account token says, and whether that still holds. Pure.

use super::{SERVICE_ACCOUNT_PREFIX, User};
use crate::admission::Lookup;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use timonel_api::Value;

/// Clocks may differ by this much.
pub(crate) const LEEWAY: SignedDuration = SignedDuration::from_mins(1);

/// The token that a credential came from, in a user's extra.
pub(crate) const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
const NODE_UID: &str = "authentication.kubernetes.io/node-uid";

/// The claims of a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claims {
    #[serde(default, deserialize_with = "one_or_many")]
    pub(crate) aud: Vec<String>,
    pub(crate) exp: i64,
    #[serde(default)]
    pub(crate) iat: i64,
    pub(crate) iss: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) jti: String,
    #[serde(default)]
    pub(crate) nbf: i64,
    pub(crate) sub: String,
    #[serde(rename = "kubernetes.io")]
    pub(crate) kubernetes: Kubernetes,
}

/// The claims that are Kubernetes' own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kubernetes {
    pub(crate) namespace: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) node: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pod: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) secret: Option<Reference>,
    pub(crate) serviceaccount: Reference,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) warnafter: Option<i64>,
}

/// An object by name and uid.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reference {
    pub(crate) name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) uid: String,
}

fn one_or_many<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Audience {
        One(String),
        Many(Vec<String>),
    }
    Ok(match Audience::deserialize(from)? {
        Audience::One(one) => vec![one],
        Audience::Many(many) => many,
    })
}

/// Whether an object was marked deleted long enough ago that its tokens are dead.
fn is_deleted(object: &Value, now: Timestamp) -> bool {
    object
        .str_at(&["metadata", "deletionTimestamp"])
        .parse::<Timestamp>()
        .is_ok_and(|at| at < now.saturating_sub(LEEWAY).unwrap_or(Timestamp::MIN))
}

impl Claims {
    /// Checks times and the objects that the token stands for; what the signature and audience are, others check.
    pub(crate) fn verify(&self, lookup: &dyn Lookup, now: Timestamp) -> Result<User, String> {
        let (seconds, leeway) = (now.as_second(), LEEWAY.as_secs());
        if seconds.saturating_sub(leeway) > self.exp {
            return Err("service account token has expired".into());
        }
        if seconds.saturating_add(leeway) < self.nbf {
            return Err("service account token is not valid yet".into());
        }
        if seconds.saturating_add(leeway) < self.iat {
            return Err("service account token is issued in the future".into());
        }
        let of = &self.kubernetes;
        let (namespace, account) = (&of.namespace, &of.serviceaccount);
        if self.sub != format!("{SERVICE_ACCOUNT_PREFIX}{namespace}:{}", account.name) {
            return Err("sub claim does not match the service account".into());
        }
        let found = lookup
            .get("", "serviceaccounts", namespace, &account.name)
            .ok_or_else(|| format!("serviceaccounts {:?} not found", account.name))?;
        let uid = found.str_at(&["metadata", "uid"]);
        if uid != account.uid {
            return Err(format!("service account UID ({uid}) does not match claim ({})", account.uid));
        }
        if is_deleted(&found, now) {
            return Err(format!("service account {namespace}/{} has been deleted", account.name));
        }
        let bound = [
            ("secret", "secrets", namespace.as_str(), of.secret.as_ref()),
            ("pod", "pods", namespace.as_str(), of.pod.as_ref()),
            // The node of a token that is bound to a pod is only information.
            ("node", "nodes", "", of.node.as_ref().filter(|_| of.pod.is_none())),
        ];
        for (kind, resource, namespace, reference) in bound {
            if let Some(reference) = reference {
                verify_bound(kind, lookup.get("", resource, namespace, &reference.name).as_deref(), reference, now)?;
            }
        }
        Ok(self.user())
    }

    /// The user that the token stands for.
    fn user(&self) -> User {
        let of = &self.kubernetes;
        let mut user = User::service_account(&of.namespace, &of.serviceaccount.name, &of.serviceaccount.uid);
        let mut add = |key: &str, value: &str| {
            if !value.is_empty() {
                user.extra.insert(key.to_owned(), vec![value.to_owned()]);
            }
        };
        if !self.jti.is_empty() {
            add(CREDENTIAL_ID, &format!("JTI={}", self.jti));
        }
        for (reference, name, uid) in [(&of.pod, POD_NAME, POD_UID), (&of.node, NODE_NAME, NODE_UID)] {
            if let Some(reference) = reference {
                add(name, &reference.name);
                add(uid, &reference.uid);
            }
        }
        user
    }

    /// The audit annotation of a token that is used beyond the life that was asked for.
    pub(crate) fn stale(&self, now: Timestamp) -> Option<String> {
        let over = now.as_second() - self.kubernetes.warnafter?;
        (over > 0).then(|| format!("subject: {}, seconds after warning threshold: {over}", self.sub))
    }
}

fn verify_bound(kind: &str, found: Option<&Value>, claim: &Reference, now: Timestamp) -> Result<(), String> {
    let gone = "service account token has been invalidated";
    let found = found.ok_or(gone)?;
    let uid = found.str_at(&["metadata", "uid"]);
    if uid != claim.uid {
        return Err(format!("{kind} UID ({uid}) does not match service account {kind} ref claim ({})", claim.uid));
    }
    if is_deleted(found, now) { Err(gone.into()) } else { Ok(()) }
}
