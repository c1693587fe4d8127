//! One issuer of tokens: its keys, fetched through OpenID discovery when they are needed, and its judgement.

use super::{
    config::IssuerConfig,
    keys::{Freshness, Key, parse},
    token::Token,
};
use crate::{
    access::{Remembered, TOKEN_TTL},
    authn::User,
    webhook::{CallError, Credentials, Exchange, WebhookClient, WebhookTarget, refusal},
};
use arc_swap::ArcSwap;
use bytes::Bytes;
use http::Method;
use jiff::Timestamp;
use serde::Deserialize;
use std::{sync::Arc, time::Duration};
use timonel_runtime::Clock;
use tokio::sync::Mutex;

const WELL_KNOWN: &str = "/.well-known/openid-configuration";
/// Time for one document of an issuer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// An issuer in force.
#[derive(Debug)]
pub(crate) struct Issuer {
    config: IssuerConfig,
    client: Arc<WebhookClient>,
    clock: Clock,
    keys: ArcSwap<Vec<Key>>,
    /// Whoever holds it fetches; the others wait for what it finds.
    source: Mutex<Source>,
    known: Remembered<User>,
}

#[derive(Debug, Default)]
struct Source {
    freshness: Freshness,
    keys_url: Option<String>,
    /// Why the last fetch failed.
    failed: Option<String>,
}

#[derive(Deserialize)]
struct Discovery {
    #[serde(default)]
    issuer: String,
    #[serde(default)]
    jwks_uri: String,
}

impl Issuer {
    pub(crate) fn new(config: IssuerConfig, client: Arc<WebhookClient>, clock: Clock) -> Self {
        let (keys, source, known) = (ArcSwap::default(), Mutex::default(), Remembered::default());
        Self { config, client, clock, keys, source, known }
    }

    /// The `iss` of its tokens.
    pub(crate) fn url(&self) -> &str {
        &self.config.url
    }

    /// The user of a token of this issuer.
    ///
    /// # Errors
    /// Why it is no good.
    pub(crate) async fn authenticate(&self, text: &str, token: &Token<'_>) -> Result<User, String> {
        let now = self.clock.now();
        let digest = Remembered::<User>::key(text, &[]);
        if let Some(user) = self.known.get(&digest, now) {
            return Ok(user);
        }
        // What costs least is looked at first: nobody has keys fetched with a token that is old or for others.
        token.check(&self.config.url, &self.config.audiences, now)?;
        self.check_signature(token, now).await?;
        let user = self.config.mapping.user(&token.claims)?;
        self.known.insert(digest, user.clone(), now, TOKEN_TTL);
        Ok(user)
    }

    async fn check_signature(&self, token: &Token<'_>, now: Timestamp) -> Result<(), String> {
        let mut keys = self.keys.load_full();
        let old = self.source.lock().await.freshness.is_old(now);
        if old {
            keys = self.newer_than(&keys, now).await?;
        }
        if token.is_signed_by(&keys) {
            return Ok(());
        }
        // A key that is not known yet, perhaps.
        if !old && token.is_signed_by(&self.newer_than(&keys, now).await?) {
            return Ok(());
        }
        Err("oidc: verify token: failed to verify signature: failed to verify id token signature".to_owned())
    }

    /// Keys fetched after those at hand, or these where no more may be fetched for now.
    async fn newer_than(&self, held: &Arc<Vec<Key>>, now: Timestamp) -> Result<Arc<Vec<Key>>, String> {
        let mut source = self.source.lock().await;
        let current = self.keys.load_full();
        if !Arc::ptr_eq(&current, held) {
            return Ok(current);
        }
        if source.freshness.may_fetch(now) {
            match self.fetch(&mut source).await {
                Ok(keys) => {
                    source.freshness.fetched(now);
                    source.failed = None;
                    self.keys.store(Arc::new(keys));
                }
                Err(why) => {
                    tracing::warn!(issuer = %self.config.url, %why, "keys of an issuer not fetched");
                    // Its place may have changed.
                    source.keys_url = None;
                    source.failed = Some(why);
                }
            }
        }
        match &source.failed {
            // Keys that served so far go on doing so while the issuer cannot be asked.
            Some(why) if current.is_empty() => Err(format!("oidc: authenticator not initialized: {why}")),
            _ => Ok(self.keys.load_full()),
        }
    }

    async fn fetch(&self, source: &mut Source) -> Result<Vec<Key>, String> {
        let keys_url = match &source.keys_url {
            Some(url) => url.clone(),
            None => self.discover().await?,
        };
        let keys = parse(&self.get(&keys_url).await?)?;
        source.keys_url = Some(keys_url);
        Ok(keys)
    }

    async fn discover(&self) -> Result<String, String> {
        let own = || format!("{}{WELL_KNOWN}", self.config.url.trim_end_matches('/'));
        let url = self.config.discovery_url.clone().unwrap_or_else(own);
        let document: Discovery = serde_json::from_slice(&self.get(&url).await?)
            .map_err(|error| format!("oidc: failed to decode provider discovery object: {error}"))?;
        if document.issuer != self.config.url {
            return Err(format!(
                "oidc: issuer did not match the issuer returned by provider, expected {:?} got {:?}",
                self.config.url, document.issuer
            ));
        }
        if !document.jwks_uri.starts_with("https://") {
            return Err(format!("provider did not return a JWKS URL with https: {:?}", document.jwks_uri));
        }
        Ok(document.jwks_uri)
    }

    async fn get(&self, url: &str) -> Result<Bytes, String> {
        let target = WebhookTarget::of_server(url, self.config.authorities.clone(), Credentials::default());
        let what = Exchange { method: Method::GET, body: Bytes::new(), user_agent: "kube-apiserver", timeout: TIMEOUT };
        let answered = match target {
            Ok(target) => self.client.ask(&target, what).await,
            Err(error) => Err(error),
        };
        let answered = answered.and_then(|(code, body)| {
            if code.is_success() {
                Ok(body)
            } else {
                Err(CallError::Answer(format!("{code}: {}", refusal(code, &body))))
            }
        });
        answered.map_err(|error| error.to_string())
    }
}
