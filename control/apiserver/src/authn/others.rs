//! Tokens that are not the cluster's own: those of other issuers, and those that only a webhook knows.

use super::{
    Identity, User,
    jwt::{Anonymous, Configuration, Issuer, Token, issuer_of},
    token_webhook::TokenWebhook,
};
use crate::webhook::WebhookClient;
use std::sync::Arc;
use timonel_runtime::Clock;

/// What is asked about tokens that the cluster does not know itself, in order.
#[derive(Debug, Default)]
pub(crate) struct OtherTokens {
    issuers: Vec<Issuer>,
    webhook: Option<TokenWebhook>,
    anonymous: Option<Anonymous>,
    /// The server's own audiences.
    audiences: Vec<String>,
}

impl OtherTokens {
    pub(crate) fn new(
        configuration: Configuration,
        webhook: Option<TokenWebhook>,
        audiences: &[String],
        client: &Arc<WebhookClient>,
        clock: &Clock,
    ) -> Self {
        let issuer = |config| Issuer::new(config, client.clone(), clock.clone());
        Self {
            issuers: configuration.issuers.into_iter().map(issuer).collect(),
            webhook,
            anonymous: configuration.anonymous,
            audiences: audiences.to_vec(),
        }
    }

    /// Whether one may come without credentials; `default` holds where nothing is configured.
    pub(crate) fn allows_anonymous(&self, path: &str, default: bool) -> bool {
        self.anonymous.as_ref().map_or(default, |anonymous| anonymous.may(path))
    }

    /// Whom a token stands for.
    ///
    /// # Errors
    /// What each of those who were asked found wrong.
    pub(crate) async fn authenticate(&self, text: &str, audiences: &[String]) -> Result<Identity, Vec<String>> {
        let mut wrong = Vec::new();
        if let Some(token) = Token::parse(text)
            && let Some(issuer) = self.issuers.iter().find(|issuer| issuer.url() == issuer_of(&token))
        {
            match issuer.authenticate(text, &token).await.and_then(|user| self.for_audiences(user, audiences)) {
                Ok(identity) => return Ok(identity),
                Err(why) => wrong.push(why),
            }
        }
        if let Some(webhook) = &self.webhook {
            match webhook.authenticate(text, audiences, &self.audiences).await {
                Ok(Some(identity)) => return Ok(identity),
                Ok(None) => {}
                Err(why) => wrong.push(why),
            }
        }
        Err(wrong)
    }

    /// Tokens of issuers are for this server, whatever their own audiences are called.
    fn for_audiences(&self, user: User, audiences: &[String]) -> Result<Identity, String> {
        let common: Vec<String> = audiences.iter().filter(|asked| self.audiences.contains(asked)).cloned().collect();
        if common.is_empty() {
            return Err(format!("unable to authenticate for audiences {audiences:?}"));
        }
        Ok(Identity { user, audiences: common, stale_token: None })
    }
}
