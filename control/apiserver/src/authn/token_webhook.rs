//! Tokens that somebody else knows: a `TokenReview` posted to a webhook, its answer remembered for a while.

use super::{Identity, User};
use crate::{
    access::Remembered,
    webhook::{CallError, Exchange, WebhookClient, WebhookTarget, refusal},
};
use bytes::Bytes;
use http::{Method, StatusCode};
use jiff::SignedDuration;
use serde::Deserialize;
use serde_json::json;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use timonel_runtime::Clock;

/// Time for one call, attempts of a call, and the time between them, which grows.
const TIMEOUT: Duration = Duration::from_secs(10);
const ATTEMPTS: u32 = 3;
const BACKOFF: Duration = Duration::from_millis(500);
const GROWTH: f64 = 1.5;

/// Where tokens are reviewed, as a user configures it.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenWebhookConfig {
    /// A kubeconfig that says where it is.
    pub kubeconfig: String,
    /// How long a token that was good is not asked about again.
    pub success_ttl: Duration,
    /// How long one that was not is refused without asking.
    pub failure_ttl: Duration,
}

impl std::fmt::Debug for TokenWebhookConfig {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Kubeconfigs hold secrets.
        out.debug_struct("TokenWebhookConfig").field("success_ttl", &self.success_ttl).finish_non_exhaustive()
    }
}

impl TokenWebhookConfig {
    /// With upstream's times.
    #[must_use]
    pub fn new(kubeconfig: String) -> Self {
        let ttl = Duration::from_mins(2);
        Self { kubeconfig, success_ttl: ttl, failure_ttl: ttl }
    }
}

/// A webhook in force.
#[derive(Debug)]
pub(crate) struct TokenWebhook {
    config: TokenWebhookConfig,
    target: WebhookTarget,
    client: Arc<WebhookClient>,
    clock: Clock,
    known: Remembered<Option<Identity>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Review {
    status: Status,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    authenticated: bool,
    user: UserInfo,
    audiences: Vec<String>,
    error: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct UserInfo {
    username: String,
    uid: String,
    groups: Vec<String>,
    extra: BTreeMap<String, Vec<String>>,
}

impl TokenWebhook {
    pub(crate) fn new(
        config: TokenWebhookConfig,
        target: WebhookTarget,
        client: Arc<WebhookClient>,
        clock: Clock,
    ) -> Self {
        Self { config, target, client, clock, known: Remembered::default() }
    }

    /// Whom the webhook says a token stands for; `None` when it does not know it. `own` are the audiences of this
    /// server, which an answer without audiences speaks of.
    ///
    /// # Errors
    /// When the webhook cannot be asked, or says what is wrong with the token.
    pub(crate) async fn authenticate(
        &self,
        token: &str,
        audiences: &[String],
        own: &[String],
    ) -> Result<Option<Identity>, String> {
        let now = self.clock.now();
        let key = Remembered::<Option<Identity>>::key(token, audiences);
        if let Some(known) = self.known.get(&key, now) {
            return Ok(known);
        }
        let found = judge(self.review(token, audiences).await?, audiences, own)?;
        let lasts = if found.is_some() { self.config.success_ttl } else { self.config.failure_ttl };
        let lasts = SignedDuration::try_from(lasts).unwrap_or(SignedDuration::ZERO);
        self.known.insert(key, found.clone(), now, lasts);
        Ok(found)
    }

    async fn review(&self, token: &str, audiences: &[String]) -> Result<Review, String> {
        let review = json!({
            "kind": "TokenReview",
            "apiVersion": "authentication.k8s.io/v1",
            "metadata": {"creationTimestamp": null},
            "spec": {"token": token, "audiences": audiences},
            "status": {"user": {}},
        });
        let answer = post_json(&self.client, &self.target, review.to_string().into(), TIMEOUT).await;
        let answer = answer.map_err(|error| error.to_string())?;
        serde_json::from_slice(&answer).map_err(|error| format!("couldn't decode the review: {error}"))
    }
}

/// What an answer means; pure.
fn judge(review: Review, audiences: &[String], own: &[String]) -> Result<Option<Identity>, String> {
    let status = review.status;
    if !status.authenticated {
        return if status.error.is_empty() { Ok(None) } else { Err(status.error) };
    }
    let said = if status.audiences.is_empty() { own } else { &status.audiences };
    let common: Vec<String> = audiences.iter().filter(|audience| said.contains(audience)).cloned().collect();
    if common.is_empty() && !audiences.is_empty() {
        return Ok(None);
    }
    let UserInfo { username, uid, groups, extra } = status.user;
    let user = User { name: username, uid, groups, extra };
    Ok(Some(Identity { user, audiences: common, stale_token: None }))
}

/// Posts to a webhook, again when it could not be reached or was overloaded.
pub(crate) async fn post_json(
    client: &WebhookClient,
    target: &WebhookTarget,
    body: Bytes,
    timeout: Duration,
) -> Result<Bytes, CallError> {
    let mut wait = BACKOFF;
    for attempt in 1.. {
        let what = Exchange { method: Method::POST, body: body.clone(), user_agent: "kube-apiserver", timeout };
        let failed = match client.ask(target, what).await {
            Ok((code, answer)) if code.is_success() => return Ok(answer),
            Ok((code, answer)) => {
                let again = code == StatusCode::TOO_MANY_REQUESTS || code.is_server_error();
                let refused = CallError::Answer(refusal(code, &answer));
                if !again {
                    return Err(refused);
                }
                refused
            }
            Err(error) => error,
        };
        if attempt >= ATTEMPTS {
            return Err(failed);
        }
        tokio::time::sleep(wait).await;
        wait = wait.mul_f64(GROWTH);
    }
    Err(CallError::Config("no attempt was made".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_for_the_audiences_that_were_asked_for() {
        let own = ["api".to_owned()];
        let vault = ["vault".to_owned()];
        for (status, audiences, expected) in [
            (json!({"authenticated": true, "user": {"username": "u"}}), &own, Ok(Some("u [\"api\"]"))),
            (json!({"authenticated": true, "user": {"username": "u"}}), &vault, Ok(None)),
            (
                json!({"authenticated": true, "user": {"username": "u"}, "audiences": ["x", "vault"]}),
                &vault,
                Ok(Some("u [\"vault\"]")),
            ),
            (json!({"authenticated": false}), &own, Ok(None)),
            (json!({"authenticated": false, "error": "gone"}), &own, Err("gone")),
            (json!({}), &own, Ok(None)),
        ] {
            let review = serde_json::from_value(json!({"status": status})).unwrap();
            let found = judge(review, audiences, &own);
            let found = found.map(|found| found.map(|found| format!("{} {:?}", found.user.name, found.audiences)));
            assert_eq!(found, expected.map(|found| found.map(str::to_owned)).map_err(str::to_owned), "{status}");
        }
    }
}
