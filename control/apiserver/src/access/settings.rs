//! What is in force, and how something else is put in its place.

use super::{AccessFiles, FileError, kubeconfig_target};
use crate::{
    ApiServer,
    audit::{AUDIT_WEBHOOK, Audit, AuditConfig, AuditMetrics, Policy},
    authn::{AuthenticationConfiguration, OtherTokens, TokenWebhook, TokenWebhookConfig},
    authz::check_authorization,
};
use arc_swap::{ArcSwap, ArcSwapOption};
use std::sync::Arc;
use tokio::sync::Mutex;

/// What messages call the kubeconfig of the token webhook.
const TOKEN_WEBHOOK: &str = "authentication token webhook";

/// A cluster's configuration of audit, authentication and authorization.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct AccessConfig {
    /// How it is audited; without it not at all.
    pub audit: Option<AuditConfig>,
    /// Issuers whose tokens it takes, and who may come without: upstream's `AuthenticationConfiguration`.
    pub authentication: Option<String>,
    /// Who is asked about tokens that nobody else knows.
    pub token_webhook: Option<TokenWebhookConfig>,
    /// Who is asked whether one may, in order: upstream's `AuthorizationConfiguration`; without it nodes and roles.
    pub authorization: Option<String>,
    /// What the files name.
    pub files: AccessFiles,
}

impl std::fmt::Debug for AccessConfig {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Files hold secrets.
        let files: Vec<&String> = self.files.keys().collect();
        out.debug_struct("AccessConfig").field("audit", &self.audit).field("files", &files).finish_non_exhaustive()
    }
}

impl AccessConfig {
    /// Checks everything without putting it in force; `own` are issuers that only the cluster itself may be.
    ///
    /// # Errors
    /// What is wrong with it, in upstream's words.
    pub fn check(&self, own: &[String]) -> Result<(), FileError> {
        if let Some(text) = &self.authentication {
            AuthenticationConfiguration::parse(text, own)?;
        }
        if let Some(text) = &self.authorization {
            check_authorization(text, &self.files)?;
        }
        if let Some(webhook) = &self.token_webhook {
            kubeconfig_target(TOKEN_WEBHOOK, &webhook.kubeconfig, &self.files)?;
        }
        if let Some(audit) = &self.audit {
            Policy::parse(&audit.policy)?;
            if let Some(webhook) = &audit.webhook {
                kubeconfig_target(AUDIT_WEBHOOK, &webhook.kubeconfig, &self.files)?;
            }
        }
        Ok(())
    }
}

/// What is in force.
#[derive(Debug)]
pub(crate) struct Access {
    pub(crate) audit: ArcSwapOption<Audit>,
    pub(crate) tokens: ArcSwap<OtherTokens>,
    audit_metrics: AuditMetrics,
    /// The configuration that all this comes from; who holds it changes it.
    current: Mutex<AccessConfig>,
}

impl Access {
    pub(crate) fn new(audit_metrics: AuditMetrics) -> Self {
        Self {
            audit: ArcSwapOption::const_empty(),
            tokens: ArcSwap::default(),
            audit_metrics,
            current: Mutex::default(),
        }
    }
}

impl ApiServer {
    /// Puts a configuration in force, from the next request on.
    ///
    /// # Errors
    /// What is wrong with it, in upstream's words; what was in force stays.
    pub async fn configure(&self, config: AccessConfig) -> Result<(), FileError> {
        let mut current = self.access.current.lock().await;
        let files = current.files != config.files;
        let tokens =
            (files || current.authentication != config.authentication || current.token_webhook != config.token_webhook)
                .then(|| self.other_tokens(&config))
                .transpose()?;
        let chain = (files || current.authorization != config.authorization)
            .then(|| {
                let text = config.authorization.as_deref();
                self.authorizer.read(text, &config.files, &self.webhooks, &self.clock)
            })
            .transpose()?;
        // Last, for it starts what must not run for nothing.
        let audit = (files || current.audit != config.audit).then(|| self.start_audit(&config)).transpose()?;
        if let Some(tokens) = tokens {
            self.access.tokens.store(Arc::new(tokens));
        }
        if let Some(chain) = chain {
            self.authorizer.chain.store(Arc::new(chain));
        }
        if let Some(audit) = audit
            && let Some(before) = self.access.audit.swap(audit)
        {
            before.stop().await;
        }
        *current = config;
        Ok(())
    }

    fn start_audit(&self, config: &AccessConfig) -> Result<Option<Arc<Audit>>, FileError> {
        let Some(audit) = &config.audit else { return Ok(None) };
        let metrics = &self.access.audit_metrics;
        Audit::start(audit, &config.files, &self.webhooks, &self.clock, metrics, &self.tasks).map(Some)
    }

    fn other_tokens(&self, config: &AccessConfig) -> Result<OtherTokens, FileError> {
        let issuers = self.authenticator.issuers();
        let parsed = config.authentication.as_ref().map(|text| AuthenticationConfiguration::parse(text, issuers));
        let webhook = config.token_webhook.as_ref().map(|webhook| {
            let target = kubeconfig_target(TOKEN_WEBHOOK, &webhook.kubeconfig, &config.files)?;
            Ok(TokenWebhook::new(webhook.clone(), target, self.webhooks.clone(), self.clock.clone()))
        });
        let (parsed, webhook) = (parsed.transpose()?.unwrap_or_default(), webhook.transpose()?);
        Ok(OtherTokens::new(parsed, webhook, self.authenticator.audiences(), &self.webhooks, &self.clock))
    }
}
