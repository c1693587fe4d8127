//! What is in force, and how something else is put in its place.

use super::{AccessFiles, FileError};
use crate::{
    ApiServer,
    audit::{Audit, AuditConfig, AuditMetrics},
};
use arc_swap::ArcSwapOption;
use std::sync::Arc;
use tokio::sync::Mutex;

/// A cluster's configuration of audit, authentication and authorization.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessConfig {
    /// How it is audited; without it not at all.
    pub audit: Option<AuditConfig>,
    /// What the files name.
    pub files: AccessFiles,
}

/// What is in force.
#[derive(Debug)]
pub(crate) struct Access {
    pub(crate) audit: ArcSwapOption<Audit>,
    pub(crate) audit_metrics: AuditMetrics,
    /// The configuration that all this comes from; who holds it changes it.
    current: Mutex<AccessConfig>,
}

impl Access {
    pub(crate) fn new(audit_metrics: AuditMetrics) -> Self {
        Self { audit: ArcSwapOption::const_empty(), audit_metrics, current: Mutex::default() }
    }
}

impl ApiServer {
    /// Puts a configuration in force, from the next request on.
    ///
    /// # Errors
    /// What is wrong with it, in upstream's words; what was in force stays.
    pub async fn configure(&self, config: AccessConfig) -> Result<(), FileError> {
        let mut current = self.access.current.lock().await;
        if *current == config {
            return Ok(());
        }
        let files_changed = current.files != config.files;
        let audit =
            if files_changed || current.audit != config.audit { Some(self.start_audit(&config)?) } else { None };
        if let Some(audit) = audit {
            let before = self.access.audit.swap(audit);
            if let Some(before) = before {
                before.stop().await;
            }
        }
        *current = config;
        Ok(())
    }

    fn start_audit(&self, config: &AccessConfig) -> Result<Option<Arc<Audit>>, FileError> {
        let Some(audit) = &config.audit else { return Ok(None) };
        let metrics = &self.access.audit_metrics;
        Audit::start(audit, &config.files, &self.webhooks, &self.clock, metrics, &self.tasks).map(Some)
    }
}
