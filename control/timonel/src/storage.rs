//! Which store, and how it is opened.

use crate::cli::StoreArgs;
use anyhow::{Context, bail};
use serde::Deserialize;
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};
use timonel_runtime::{Entropy, Tasks};
use timonel_service::StoreOpener;
use timonel_store::{EmbeddedConfig, EmbeddedStore, EtcdConfig, EtcdStore, EtcdTls, EtcdUser, Store};

/// Directory of the embedded store within the data.
const FOLDER: &str = "store";

/// Files for etcd, as the configuration file names them.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct EtcdFiles {
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    user: Option<String>,
    password_file: Option<PathBuf>,
}

/// Where objects are kept.
#[derive(Clone, Debug)]
pub(crate) enum StoreChoice {
    /// In the data directory.
    Embedded,
    /// In an etcd.
    Etcd(Box<EtcdConfig>),
}

impl StoreChoice {
    /// What flags say, and where they say nothing the file; without both the embedded store.
    pub(crate) fn new(args: &StoreArgs, store: Option<&str>, files: &EtcdFiles) -> anyhow::Result<Self> {
        let address = args.store.as_deref().or(store).unwrap_or("embedded");
        if address == "embedded" {
            return Ok(Self::Embedded);
        }
        if !address.starts_with("etcd://") {
            bail!("store {address:?}: want \"embedded\" or \"etcd://HOST:PORT,.../PREFIX\"");
        }
        let mut config = EtcdConfig::parse(address, Entropy::system())?;
        let either = |flag: &Option<PathBuf>, file: &Option<PathBuf>| flag.clone().or_else(|| file.clone());
        if let Some(authorities) = either(&args.etcd_ca, &files.ca) {
            let client = match (either(&args.etcd_cert, &files.cert), either(&args.etcd_key, &files.key)) {
                (Some(chain), Some(key)) => Some((read(&chain)?, read(&key)?)),
                (None, None) => None,
                _ => bail!("etcd: a certificate needs its key, and a key its certificate"),
            };
            config.tls = Some(EtcdTls { authorities: read(&authorities)?, client });
        } else if args.etcd_cert.is_some() || files.cert.is_some() {
            bail!("etcd: a client certificate needs the members' authority too");
        }
        let user = args.etcd_user.clone().or_else(|| files.user.clone());
        if let (Some(name), Some(file)) = (user, either(&args.etcd_password_file, &files.password_file)) {
            config.user = Some(EtcdUser { name, password: read(&file)?.trim_end_matches('\n').to_owned() });
        }
        Ok(Self::Etcd(Box::new(config)))
    }

    /// The choice that `address` says, with the certificates and user of this one.
    fn other(&self, address: &str) -> anyhow::Result<EtcdConfig> {
        let mut config = EtcdConfig::parse(address, Entropy::system())?;
        if let Self::Etcd(own) = self {
            config.tls.clone_from(&own.tls);
            config.user.clone_from(&own.user);
        }
        Ok(config)
    }

    /// Opens it; an etcd's works for as long as `tasks` runs.
    pub(crate) async fn open(&self, data: &Path, tasks: &Tasks) -> anyhow::Result<Arc<dyn Store>> {
        Ok(match self {
            Self::Embedded => Arc::new(EmbeddedStore::open(data.join(FOLDER), EmbeddedConfig::default())?),
            Self::Etcd(config) => Arc::new(EtcdStore::open((**config).clone(), tasks).await?),
        })
    }
}

/// Opens the store that the server's is to move to.
#[derive(Debug)]
pub(crate) struct Opener {
    pub(crate) own: StoreChoice,
    pub(crate) tasks: Tasks,
}

#[async_trait::async_trait]
impl StoreOpener for Opener {
    async fn open(&self, address: &str) -> Result<Arc<dyn Store>, String> {
        let opened = async {
            if let Some(directory) = address.strip_prefix("embedded:") {
                fs::create_dir_all(directory).with_context(|| directory.to_owned())?;
                let store = EmbeddedStore::open(directory, EmbeddedConfig::default())?;
                return Ok::<Arc<dyn Store>, anyhow::Error>(Arc::new(store));
            }
            Ok(Arc::new(EtcdStore::open(self.own.other(address)?, &self.tasks).await?))
        };
        opened.await.map_err(|error| format!("{error:#}"))
    }
}

fn read(path: &Path) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_store() {
        let choose = |flag: Option<&str>, file: Option<&str>| {
            let args = StoreArgs { store: flag.map(Into::into), ..StoreArgs::default() };
            match StoreChoice::new(&args, file, &EtcdFiles::default()) {
                Ok(StoreChoice::Embedded) => "embedded".to_owned(),
                Ok(StoreChoice::Etcd(config)) => config.prefix,
                Err(error) => error.to_string(),
            }
        };
        assert_eq!(choose(None, None), "embedded");
        assert_eq!(choose(None, Some("etcd://a:1/b")), "/b");
        assert_eq!(choose(Some("embedded"), Some("etcd://a:1/b")), "embedded");
        assert!(choose(Some("etcd://a:x"), None).contains("port"));
        assert!(choose(Some("floppy"), None).contains("floppy"));
    }

    #[test]
    fn half_a_pair_is_refused() {
        let files = EtcdFiles { cert: Some("cert.pem".into()), ..EtcdFiles::default() };
        assert!(StoreChoice::new(&StoreArgs::default(), Some("etcd://a:1"), &files).is_err());
    }
}
