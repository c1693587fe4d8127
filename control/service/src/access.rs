//! What a Cluster says of audit, authentication and authorization, as its API server takes it. Pure.

use k8s_openapi::api::core::v1::Secret;
use std::path::Path;
use timonel_apiserver::{AccessConfig, AccessFiles, AuditConfig, AuditLog, AuditWebhook, TokenWebhookConfig};
use timonel_fleet::{Cluster, ClusterAudit};

/// Folder of audit logs in the data directory.
const FOLDER: &str = "audit";
/// File of a cluster's log.
const FILE: &str = "audit.log";
/// Old log files that are kept where the spec does not say: nobody fills the disk by forgetting a figure.
const DEFAULT_BACKUPS: u32 = 10;

/// The configuration that a Cluster asks for; `secret` is the one that it names, `data` the service's directory.
pub(crate) fn wanted(cluster: &Cluster, secret: Option<&Secret>, data: &Path) -> Result<AccessConfig, String> {
    let Some(access) = &cluster.spec.access else { return Ok(AccessConfig::default()) };
    if !access.files_secret.is_empty() && secret.is_none() {
        return Err(format!("spec.access.filesSecret: no secret {:?} in the project", access.files_secret));
    }
    let files = files(secret)?;
    let text = |text: &str| Some(text.to_owned()).filter(|text| !text.trim().is_empty());
    let file = |field: &str, name: &str| -> Result<Option<String>, String> {
        if name.is_empty() {
            return Ok(None);
        }
        let missing = || format!("spec.access.{field}: no file {name:?} in the secret {:?}", access.files_secret);
        files.get(name).cloned().map(Some).ok_or_else(missing)
    };
    let audit = match &access.audit {
        Some(audit) => Some(AuditConfig {
            policy: audit.policy.clone(),
            log: (!audit.without_log).then(|| log(audit, cluster, data)),
            webhook: file("audit.webhook", &audit.webhook)?.map(AuditWebhook::new),
        }),
        None => None,
    };
    Ok(AccessConfig {
        audit,
        authentication: text(&access.authentication),
        authorization: text(&access.authorization),
        token_webhook: file("tokenWebhook", &access.token_webhook)?.map(TokenWebhookConfig::new),
        files,
    })
}

fn files(secret: Option<&Secret>) -> Result<AccessFiles, String> {
    let data = secret.and_then(|secret| secret.data.as_ref()).into_iter().flatten();
    data.map(|(name, bytes)| {
        let text = String::from_utf8(bytes.0.clone());
        Ok((name.clone(), text.map_err(|_| format!("spec.access.filesSecret: {name:?} is no text"))?))
    })
    .collect()
}

fn log(audit: &ClusterAudit, cluster: &Cluster, data: &Path) -> AuditLog {
    let meta = &cluster.metadata;
    let (project, name) = (meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default());
    let figure = |figure: i32| u32::try_from(figure).unwrap_or(0);
    AuditLog {
        path: data.join(FOLDER).join(project).join(name).join(FILE),
        max_age_days: figure(audit.log_max_age_days),
        max_backups: match figure(audit.log_max_backups) {
            0 => DEFAULT_BACKUPS,
            backups => backups,
        },
        max_size_mb: figure(audit.log_max_size_mb),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;
    use timonel_fleet::{ClusterAccess, ClusterSpec};

    #[test]
    fn a_spec_becomes_a_configuration() {
        let access = ClusterAccess {
            authentication: "a".into(),
            token_webhook: "token.yaml".into(),
            audit: Some(ClusterAudit { policy: "p".into(), log_max_size_mb: 5, ..ClusterAudit::default() }),
            files_secret: "files".into(),
            ..ClusterAccess::default()
        };
        let cluster = |access| Cluster::new("team", "c", ClusterSpec { access, ..ClusterSpec::default() });
        let secret = |name: &str, bytes: &[u8]| Secret {
            data: Some([(name.to_owned(), ByteString(bytes.to_vec()))].into()),
            ..Secret::default()
        };
        let good = secret("token.yaml", b"kubeconfig");
        let found = wanted(&cluster(Some(access.clone())), Some(&good), Path::new("/data")).unwrap();
        assert_eq!((found.authentication.as_deref(), found.authorization.as_deref()), (Some("a"), None));
        assert_eq!(found.token_webhook.unwrap().kubeconfig, "kubeconfig");
        let log = found.audit.unwrap().log.unwrap();
        assert_eq!(log.path, Path::new("/data/audit/team/c/audit.log"));
        assert_eq!((log.max_backups, log.max_size_mb, log.max_age_days), (10, 5, 0));
        assert_eq!(wanted(&cluster(None), None, Path::new("/data")).unwrap(), AccessConfig::default());
        for (secret, message) in [
            (None, "spec.access.filesSecret: no secret \"files\" in the project"),
            (Some(secret("x", b"y")), "spec.access.tokenWebhook: no file \"token.yaml\" in the secret \"files\""),
            (Some(secret("x", b"\xff")), "spec.access.filesSecret: \"x\" is no text"),
        ] {
            let refused = wanted(&cluster(Some(access.clone())), secret.as_ref(), Path::new("/data"));
            assert_eq!(refused.unwrap_err(), message);
        }
    }
}
