//! The administrator's kubeconfig: one context per cluster, in one file that only its owner may read.

use crate::tenant::Tenant;
use parking_lot::Mutex;
use std::{
    fs, io,
    path::{Path, PathBuf},
};
use timonel_pki::{Credential, Kubeconfig, KubeconfigEntry, PkiError};
use timonel_runtime::{Clock, replace_file};

/// The project whose clusters need no longer context name.
const DEFAULT_PROJECT: &str = "default";

/// Why the kubeconfig was not written.
#[derive(Debug, thiserror::Error)]
pub enum KubeconfigError {
    /// The file.
    #[error("kubeconfig {path}")]
    File {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A certificate or the YAML.
    #[error("kubeconfig")]
    Content(#[from] PkiError),
}

/// The file, written whole each time.
#[derive(Debug)]
pub(crate) struct AdminKubeconfig {
    path: PathBuf,
    server: String,
    clock: Clock,
    writing: Mutex<()>,
}

impl AdminKubeconfig {
    pub(crate) fn new(data: &Path, server: &str, clock: Clock) -> Self {
        Self { path: data.join("kubeconfig"), server: server.to_owned(), clock, writing: Mutex::new(()) }
    }

    /// Adds or renews the context of the fleet.
    pub(crate) fn put_fleet(&self, fleet: &Tenant) -> Result<(), KubeconfigError> {
        self.put_as(fleet, "timonel", None)
    }

    /// Adds or renews a cluster's context: with its own endpoint, or by its name on the shared port.
    pub(crate) fn put(
        &self,
        tenant: &Tenant,
        project: &str,
        name: &str,
        own: Option<&str>,
    ) -> Result<(), KubeconfigError> {
        self.put_as(tenant, &context(project, name), own)
    }

    /// Takes a cluster's context out.
    pub(crate) fn remove(&self, project: &str, name: &str) -> Result<(), KubeconfigError> {
        self.change(|file| file.remove(&context(project, name)))
    }

    fn put_as(&self, tenant: &Tenant, context: &str, own: Option<&str>) -> Result<(), KubeconfigError> {
        let entry = entry(tenant, context, own.unwrap_or(&self.server), own.is_some(), self.clock.now())?;
        self.change(|file| file.set(&entry))
    }

    fn change(&self, change: impl FnOnce(&mut Kubeconfig)) -> Result<(), KubeconfigError> {
        let _one_at_a_time = self.writing.lock();
        let failed = |source| KubeconfigError::File { path: self.path.clone(), source };
        let old = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(failed(error)),
        };
        let mut file = Kubeconfig::parse(&old)?;
        change(&mut file);
        replace_file(&self.path, file.to_yaml()?.as_bytes()).map_err(failed)
    }
}

/// A way into a cluster with a fresh certificate of its administrator. On its `own` endpoint it needs no name.
fn entry(
    tenant: &Tenant,
    context: &str,
    server: &str,
    own: bool,
    now: jiff::Timestamp,
) -> Result<KubeconfigEntry, PkiError> {
    let admin = tenant.pki.admin(now)?;
    Ok(KubeconfigEntry {
        name: context.to_owned(),
        server: server.to_owned(),
        ca_pem: tenant.pki.cluster_ca.cert_pem().to_owned(),
        tls_server_name: (!own).then(|| tenant.server_name.clone()),
        credential: Credential::Certificate { cert_pem: admin.cert_pem, key_pem: admin.key_pem },
        namespace: None,
    })
}

/// A kubeconfig with that one context.
pub(crate) fn single(
    tenant: &Tenant,
    context: &str,
    server: &str,
    own: bool,
    now: jiff::Timestamp,
) -> Result<String, PkiError> {
    let mut file = Kubeconfig::parse("")?;
    file.set(&entry(tenant, context, server, own, now)?);
    file.set_current(context);
    file.to_yaml()
}

/// Name of a cluster's context.
#[must_use]
pub fn context(project: &str, name: &str) -> String {
    if project == DEFAULT_PROJECT { format!("timonel-{name}") } else { format!("timonel-{project}-{name}") }
}
