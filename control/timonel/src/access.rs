//! Audit, authentication and authorization by files in upstream's formats: of the fleet by flags of the server, which
//! follows the files, and of a cluster by flags of the commands, which send them.

use anyhow::Context;
use clap::Args;
use k8s_openapi::{ByteString, api::core::v1::Secret};
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use timonel_fleet::{ClusterAccess, ClusterAudit};
use timonel_runtime::{OnError, Tasks};
use timonel_service::{
    AccessConfig, AccessFiles, AuditConfig, AuditLog, AuditWebhook, Service, TokenWebhookConfig, files_of_authorization,
};

/// Between two looks at the files.
const LOOK: Duration = Duration::from_secs(10);
/// Old log files that are kept where nobody says.
const BACKUPS: u32 = 10;
/// Keys of a cluster's Secret.
const TOKEN_WEBHOOK: &str = "token-webhook.yaml";
const AUDIT_WEBHOOK: &str = "audit-webhook.yaml";

/// Flags that kube-apiserver has under the same names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(crate) struct AccessArgs {
    /// Identity providers, and who may come without credentials: a file with an `AuthenticationConfiguration`.
    #[arg(long, env = "TIMONEL_AUTHENTICATION_CONFIG")]
    pub(crate) authentication_config: Option<PathBuf>,
    /// Who is asked about tokens that nobody else knows: a kubeconfig file.
    #[arg(long, env = "TIMONEL_AUTHENTICATION_TOKEN_WEBHOOK_CONFIG_FILE")]
    pub(crate) authentication_token_webhook_config_file: Option<PathBuf>,
    /// Who is asked whether one may, in order: a file with an `AuthorizationConfiguration`.
    #[arg(long, env = "TIMONEL_AUTHORIZATION_CONFIG")]
    pub(crate) authorization_config: Option<PathBuf>,
    /// What is written down of requests: a file with an audit `Policy`.
    #[arg(long, env = "TIMONEL_AUDIT_POLICY_FILE")]
    pub(crate) audit_policy_file: Option<PathBuf>,
    /// Where audit events are sent: a kubeconfig file.
    #[arg(long, env = "TIMONEL_AUDIT_WEBHOOK_CONFIG_FILE", requires = "audit_policy_file")]
    pub(crate) audit_webhook_config_file: Option<PathBuf>,
    /// Days that old audit logs are kept; 0 keeps them as long as there are few.
    #[arg(long, env = "TIMONEL_AUDIT_LOG_MAXAGE", default_value_t = 0)]
    pub(crate) audit_log_maxage: u32,
    /// Old audit logs that are kept; 0 is 10.
    #[arg(long, env = "TIMONEL_AUDIT_LOG_MAXBACKUP", default_value_t = 0)]
    pub(crate) audit_log_maxbackup: u32,
    /// Megabytes at which an audit log is put aside; 0 is 100.
    #[arg(long, env = "TIMONEL_AUDIT_LOG_MAXSIZE", default_value_t = 0)]
    pub(crate) audit_log_maxsize: u32,
}

fn read(path: &Path) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| path.display().to_string())
}

fn read_some(path: Option<&PathBuf>) -> anyhow::Result<Option<String>> {
    path.map(|path| read(path)).transpose()
}

impl AccessArgs {
    fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Files that the authorization configuration names, by those names.
    fn files(&self, authorization: Option<&str>) -> anyhow::Result<AccessFiles> {
        let Some(text) = authorization else { return Ok(AccessFiles::new()) };
        let names = files_of_authorization(text).context("authorization configuration")?;
        names.into_iter().map(|name| Ok((name.clone(), read(Path::new(&name))?))).collect()
    }

    /// The fleet's configuration, from the files as they are.
    pub(crate) fn load(&self, log: &Path) -> anyhow::Result<AccessConfig> {
        let authorization = read_some(self.authorization_config.as_ref())?;
        let audit = match read_some(self.audit_policy_file.as_ref())? {
            Some(policy) => Some(AuditConfig {
                policy,
                log: Some(AuditLog {
                    path: log.to_owned(),
                    max_age_days: self.audit_log_maxage,
                    max_backups: if self.audit_log_maxbackup == 0 { BACKUPS } else { self.audit_log_maxbackup },
                    max_size_mb: self.audit_log_maxsize,
                }),
                webhook: read_some(self.audit_webhook_config_file.as_ref())?.map(AuditWebhook::new),
            }),
            None => None,
        };
        Ok(AccessConfig {
            audit,
            authentication: read_some(self.authentication_config.as_ref())?,
            token_webhook: read_some(self.authentication_token_webhook_config_file.as_ref())?
                .map(TokenWebhookConfig::new),
            files: self.files(authorization.as_deref())?,
            authorization,
        })
    }

    /// What a Cluster says of it, and the Secret with the files that this names; `None` without any flag.
    pub(crate) fn of_cluster(&self, cluster: &str) -> anyhow::Result<Option<(ClusterAccess, Option<Secret>)>> {
        if self.is_none() {
            return Ok(None);
        }
        let authorization = read_some(self.authorization_config.as_ref())?;
        let mut files: BTreeMap<String, String> = BTreeMap::new();
        for (name, text) in self.files(authorization.as_deref())? {
            // Keys of a Secret have no slashes; the service looks for the last part of a name too.
            let key = name.rsplit('/').next().unwrap_or(&name).to_owned();
            anyhow::ensure!(
                files.insert(key, text).is_none(),
                "two files of the authorization are called alike: {name}"
            );
        }
        let mut webhook = |path: Option<&PathBuf>, key: &str| -> anyhow::Result<String> {
            let Some(text) = read_some(path)? else { return Ok(String::new()) };
            files.insert(key.to_owned(), text);
            Ok(key.to_owned())
        };
        let token_webhook = webhook(self.authentication_token_webhook_config_file.as_ref(), TOKEN_WEBHOOK)?;
        let audit_webhook = webhook(self.audit_webhook_config_file.as_ref(), AUDIT_WEBHOOK)?;
        let figure = |figure: u32| i32::try_from(figure).unwrap_or(i32::MAX);
        let audit = read_some(self.audit_policy_file.as_ref())?.map(|policy| ClusterAudit {
            policy,
            webhook: audit_webhook,
            without_log: false,
            log_max_age_days: figure(self.audit_log_maxage),
            log_max_backups: figure(self.audit_log_maxbackup),
            log_max_size_mb: figure(self.audit_log_maxsize),
        });
        let secret = (!files.is_empty()).then(|| {
            let mut secret = Secret::default();
            secret.metadata.name = Some(format!("{cluster}-access"));
            secret.data = Some(files.into_iter().map(|(name, text)| (name, ByteString(text.into_bytes()))).collect());
            secret
        });
        let access = ClusterAccess {
            authentication: read_some(self.authentication_config.as_ref())?.unwrap_or_default(),
            authorization: authorization.unwrap_or_default(),
            token_webhook,
            audit,
            files_secret: secret.as_ref().and_then(|secret| secret.metadata.name.clone()).unwrap_or_default(),
        };
        Ok(Some((access, secret)))
    }

    /// Follows the files of the fleet as they change. What cannot be used is told, and what was in force stays.
    pub(crate) fn follow(self, log: PathBuf, service: Arc<Service>, tasks: &Tasks) {
        if self.is_none() {
            return;
        }
        let stop = tasks.token();
        tasks.spawn("fleet access", OnError::Log, async move {
            while !stop.is_cancelled() {
                tokio::time::sleep(LOOK).await;
                let found = match self.load(&log) {
                    Ok(config) => service.configure_fleet(config).await.map_err(Into::into),
                    Err(error) => Err(error),
                };
                if let Err(error) = found {
                    tracing::error!(error = format!("{error:#}"), "access of the fleet not changed");
                }
            }
            Ok::<(), std::convert::Infallible>(())
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_become_a_clusters_access_and_its_secret() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let hook = file("hook.yaml", "kubeconfig of the authorizer");
        let authorization = format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\nauthorizers:\n\
             - {{type: Webhook, name: w, webhook: {{connectionInfo: {{type: KubeConfigFile, kubeConfigFile: {}}}}}}}\n",
            hook.display()
        );
        let args = AccessArgs {
            authorization_config: Some(file("authz.yaml", &authorization)),
            authentication_config: Some(file("authn.yaml", "authn")),
            authentication_token_webhook_config_file: Some(file("tokens.yaml", "kubeconfig of tokens")),
            audit_policy_file: Some(file("policy.yaml", "policy")),
            audit_log_maxsize: 7,
            ..AccessArgs::default()
        };
        let (access, secret) = args.of_cluster("demo").unwrap().unwrap();
        let secret = secret.unwrap();
        assert_eq!((access.files_secret.as_str(), access.token_webhook.as_str()), ("demo-access", TOKEN_WEBHOOK));
        assert_eq!((access.authentication.as_str(), access.authorization), ("authn", authorization));
        assert_eq!(access.audit.unwrap().log_max_size_mb, 7);
        let data = secret.data.unwrap();
        assert_eq!(data.keys().collect::<Vec<_>>(), ["hook.yaml", TOKEN_WEBHOOK]);
        let fleet = args.load(Path::new("/log")).unwrap();
        assert_eq!(fleet.files[&hook.display().to_string()], "kubeconfig of the authorizer");
        assert_eq!(fleet.audit.unwrap().log.unwrap().max_backups, BACKUPS);
        assert!(AccessArgs::default().of_cluster("demo").unwrap().is_none());
        let missing = AccessArgs { audit_policy_file: Some("/none/policy.yaml".into()), ..AccessArgs::default() };
        assert!(format!("{:#}", missing.load(Path::new("/log")).unwrap_err()).contains("/none/policy.yaml"));
    }
}
