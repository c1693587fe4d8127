//! Credentials of a request to a user.

use super::{
    AUTHENTICATED_GROUP, User, bootstrap,
    claims::{CREDENTIAL_ID, Claims},
    secret_token::{self, SecretClaims, TokenUses},
};
use crate::admission::{AdmissionError, Lookup};
use arc_swap::ArcSwap;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value as Json, json};
use sha2::{Digest, Sha256};
use std::{collections::HashMap, sync::Arc};
use timonel_api::Value;
use timonel_pki::KeyRing;

/// Tokens whose signature is remembered, per half of the cache.
const CACHED_TOKENS: usize = 4096;

/// How a cluster authenticates.
#[derive(Clone, Debug, Default)]
pub struct AuthnConfig {
    /// `iss` of tokens, usually `https://kubernetes.default.svc.DOMAIN`. The first signs, all are accepted.
    pub issuers: Vec<String>,
    /// `aud` that the API server answers to; usually the issuer.
    pub audiences: Vec<String>,
    /// Tokens that are known without an object, as for the service's own components.
    pub static_tokens: Vec<(String, User)>,
    /// Whether requests without credentials are anonymous (or refused).
    pub anonymous: bool,
    /// Whether the token that pods receive is good for a year, with a warning after the hour that was asked for.
    pub extend_expiration: bool,
}

/// Who a request comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The user.
    pub user: User,
    /// Audiences of its token that were asked for.
    pub audiences: Vec<String>,
    /// An annotation for the audit event.
    pub stale_token: Option<String>,
}

/// The credentials are no good: answer 401.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unauthorized(pub String);

impl Unauthorized {
    /// As the client may see it: without the reason.
    #[must_use]
    pub fn to_error(&self) -> AdmissionError {
        AdmissionError::new(401, "Unauthorized", "Unauthorized")
    }
}

/// Authenticates the requests of one cluster.
#[derive(Debug)]
pub struct Authenticator {
    pub(super) config: AuthnConfig,
    keys: ArcSwap<KeyRing>,
    verified: Mutex<Verified>,
    uses: Arc<TokenUses>,
}

type Digest256 = [u8; 32];

/// What a token of ours says whose signature was good.
#[derive(Clone, Debug)]
enum Signed {
    /// Asked for through the API, for a while.
    Requested(Arc<Claims>),
    /// Kept in a Secret.
    Kept(Arc<SecretClaims>),
}

/// Claims of tokens whose signature was good, in two halves: when the younger is full the older is dropped.
#[derive(Debug, Default)]
struct Verified {
    younger: HashMap<Digest256, Signed>,
    older: HashMap<Digest256, Signed>,
}

impl Verified {
    fn get(&mut self, digest: &Digest256) -> Option<Signed> {
        if let Some(claims) = self.younger.get(digest) {
            return Some(claims.clone());
        }
        let claims = self.older.remove(digest)?;
        self.insert(*digest, claims.clone());
        Some(claims)
    }

    fn insert(&mut self, digest: Digest256, claims: Signed) {
        if self.younger.len() >= CACHED_TOKENS {
            self.older = std::mem::take(&mut self.younger);
        }
        self.younger.insert(digest, claims);
    }
}

impl Authenticator {
    /// With the cluster's service-account keys.
    #[must_use]
    pub fn new(config: AuthnConfig, keys: KeyRing) -> Self {
        Self { config, keys: ArcSwap::from_pointee(keys), verified: Mutex::default(), uses: Arc::default() }
    }

    /// Uses other keys from here on; what only the old ones verify is refused.
    pub fn set_keys(&self, keys: KeyRing) {
        self.keys.store(Arc::new(keys));
        *self.verified.lock() = Verified::default();
    }

    /// Uses of tokens that are to be noted in their Secrets.
    pub(crate) fn uses(&self) -> Arc<TokenUses> {
        self.uses.clone()
    }

    /// The keys in use.
    #[must_use]
    pub fn keys(&self) -> Arc<KeyRing> {
        self.keys.load_full()
    }

    /// Who a token stands for, if it is meant for one of `audiences`.
    ///
    /// # Errors
    /// When it is no good.
    pub fn authenticate_token(
        &self,
        token: &str,
        audiences: &[String],
        lookup: &dyn Lookup,
        now: Timestamp,
    ) -> Result<Identity, Unauthorized> {
        for (known, user) in &self.config.static_tokens {
            if bootstrap::same(known.as_bytes(), token.as_bytes()) {
                return Ok(Identity { audiences: audiences.to_vec(), ..authenticated(user.clone()) });
            }
        }
        if let Some(user) = bootstrap::authenticate(token, lookup, now) {
            return Ok(Identity { audiences: audiences.to_vec(), ..authenticated(user) });
        }
        let signed = self.signed(token).ok_or_else(|| Unauthorized("invalid bearer token".into()))?;
        let refused = |why: String| Unauthorized(format!("[invalid bearer token, {why}]"));
        // A token that is kept in a Secret names no audience: it is for the API server.
        let meant_for = match &signed {
            Signed::Requested(claims) => &claims.aud,
            Signed::Kept(_) => &self.config.audiences,
        };
        let common: Vec<String> = audiences.iter().filter(|audience| meant_for.contains(audience)).cloned().collect();
        if common.is_empty() {
            let (have, want) = (go_list(meant_for), go_list(audiences));
            return Err(refused(format!("token audiences {have} is invalid for the target audiences {want}")));
        }
        let (user, stale_token) = match &signed {
            Signed::Requested(claims) => (claims.verify(lookup, now).map_err(refused)?, claims.stale(now)),
            Signed::Kept(claims) => (claims.verify(token, lookup, &self.uses, now).map_err(refused)?, None),
        };
        Ok(Identity { audiences: common, stale_token, ..authenticated(user) })
    }

    /// The claims of a token of ours with a good signature.
    fn signed(&self, token: &str) -> Option<Signed> {
        let digest: Digest256 = Sha256::digest(token.as_bytes()).into();
        if let Some(claims) = self.verified.lock().get(&digest) {
            return Some(claims);
        }
        let claims = self.keys.load().verify(token).ok()?;
        let signed = if claims["iss"] == secret_token::ISSUER {
            Signed::Kept(Arc::new(serde_json::from_value(claims).ok()?))
        } else {
            Signed::Requested(Arc::new(serde_json::from_value(claims).ok()?))
        };
        if let Signed::Requested(claims) = &signed
            && !self.config.issuers.contains(&claims.iss)
        {
            return None;
        }
        self.verified.lock().insert(digest, signed.clone());
        Some(signed)
    }

    /// The token that a `TokenReview` asks about, and the audiences it should be for.
    ///
    /// # Errors
    /// 400 without a token.
    pub fn read_review(&self, review: &Value) -> Result<(String, Vec<String>), AdmissionError> {
        let token = review.str_at(&["spec", "token"]);
        if token.is_empty() {
            return Err(AdmissionError::bad_request("token is required for TokenReview in authentication"));
        }
        let asked: Vec<String> =
            review.list_at(&["spec", "audiences"]).iter().filter_map(Value::as_str).map(str::to_owned).collect();
        Ok((token.to_owned(), if asked.is_empty() { self.config.audiences.clone() } else { asked }))
    }

    /// Audiences that the API server answers to.
    #[must_use]
    pub fn audiences(&self) -> &[String] {
        &self.config.audiences
    }

    /// Issuers that only the cluster itself may be.
    #[must_use]
    pub fn issuers(&self) -> &[String] {
        &self.config.issuers
    }

    /// Whether requests without credentials are anonymous where no configuration says otherwise.
    #[must_use]
    pub fn allows_anonymous(&self) -> bool {
        self.config.anonymous
    }

    /// The document at `/.well-known/openid-configuration`. The keys are where the issuer is: whoever can check the
    /// issuer's word (a pod) can reach that name; `public_address` stands in for an issuer that is no URL.
    #[must_use]
    pub fn openid_configuration(&self, public_address: &str) -> Json {
        let issuer = self.config.issuers.first().filter(|issuer| issuer.starts_with("https://"));
        let base = issuer
            .map_or_else(|| format!("https://{public_address}"), |issuer| issuer.trim_end_matches('/').to_owned());
        let jwks_uri = format!("{base}/openid/v1/jwks");
        let keys = self.keys.load().jwks();
        let mut algorithms: Vec<&str> =
            keys["keys"].as_array().into_iter().flatten().filter_map(|key| key["alg"].as_str()).collect();
        algorithms.sort_unstable();
        algorithms.dedup();
        json!({
            "issuer": self.config.issuers.first(),
            "jwks_uri": jwks_uri,
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": algorithms,
        })
    }

    /// The document at `/openid/v1/jwks`.
    #[must_use]
    pub fn jwks(&self) -> Json {
        self.keys.load().jwks()
    }
}

/// Fills the status of a `TokenReview`.
pub fn answer_review(review: &mut Value, found: Result<Identity, Unauthorized>) {
    let status = match found {
        Ok(identity) => json!({
            "authenticated": true,
            "user": user_info(&identity.user),
            "audiences": identity.audiences,
        }),
        Err(error) => json!({"authenticated": false, "user": {}, "error": error.to_string()}),
    };
    review.set_at(&["status"], Value::from(status));
}

fn authenticated(user: User) -> Identity {
    Identity { user: user.with_group(AUTHENTICATED_GROUP), audiences: Vec::new(), stale_token: None }
}

/// The token of a header `Authorization`.
pub(crate) fn bearer(authorization: &str) -> Option<&str> {
    let (scheme, token) = authorization.trim().split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

fn go_list(list: &[String]) -> String {
    format!("[{}]", list.iter().map(|text| format!("{text:?}")).collect::<Vec<_>>().join(" "))
}

/// The user that a client certificate names: common name and organizations.
#[must_use]
pub fn user_of_certificate(der: &[u8]) -> Option<User> {
    let subject = timonel_pki::subject_of(der).ok()?;
    if subject.common_name.is_empty() {
        return None;
    }
    let digest: String = Sha256::digest(der).iter().map(|byte| format!("{byte:02x}")).collect();
    Some(User {
        name: subject.common_name,
        uid: subject.uid,
        groups: subject.organizations,
        extra: [(CREDENTIAL_ID.to_owned(), vec![format!("X509SHA256={digest}")])].into(),
    })
}

/// A user as `UserInfo`.
#[must_use]
pub fn user_info(user: &User) -> Json {
    let mut info = json!({"username": user.name});
    if !user.uid.is_empty() {
        info["uid"] = user.uid.as_str().into();
    }
    if !user.groups.is_empty() {
        info["groups"] = json!(user.groups);
    }
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    info
}

/// Fills the status of a `SelfSubjectReview`.
pub fn review_self(review: &mut Value, user: &User) {
    review.set_at(&["status", "userInfo"], Value::from(user_info(user)));
}
