//! Which store, and how it is opened.

use crate::cli::StoreArgs;
use anyhow::{Context, bail};
use serde::Deserialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};
use timonel_api::GroupResource;
use timonel_runtime::{Entropy, Tasks};
use timonel_service::{Apart, StoreOpener};
use timonel_store::{EmbeddedConfig, EmbeddedStore, EtcdConfig, EtcdStore, EtcdTls, EtcdUser, Store};

/// The store on this machine.
const EMBEDDED: &str = "embedded";
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
    /// On this machine: in a directory, or in the data directory.
    Embedded(Option<PathBuf>),
    /// In an etcd.
    Etcd(Box<EtcdConfig>),
}

/// Resources that are kept in a store of their own.
#[derive(Clone, Debug)]
pub(crate) struct Override {
    resource: GroupResource,
    store: StoreChoice,
    /// As it was given: those with the same address share a store.
    address: String,
}

impl StoreChoice {
    /// What flags say, and where they say nothing the file; without both the embedded store.
    pub(crate) fn new(args: &StoreArgs, store: Option<&str>, files: &EtcdFiles) -> anyhow::Result<Self> {
        let address = args.store.as_deref().or(store).unwrap_or(EMBEDDED);
        if let Some(embedded) = embedded(address) {
            return embedded;
        }
        if !address.starts_with("etcd://") {
            bail!("store {address:?}: want \"embedded\", \"embedded:DIRECTORY\" or \"etcd://HOST:PORT,.../PREFIX\"");
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
    fn other(&self, address: &str) -> anyhow::Result<Self> {
        if let Some(embedded) = embedded(address) {
            return embedded;
        }
        let mut config = EtcdConfig::parse(address, Entropy::system())?;
        if let Self::Etcd(own) = self {
            config.tls.clone_from(&own.tls);
            config.user.clone_from(&own.user);
        }
        Ok(Self::Etcd(Box::new(config)))
    }

    /// What `texts` say, each `GROUP/RESOURCE#ADDRESS` or several with `;` between; the core group is empty.
    pub(crate) fn overrides(&self, texts: &[String]) -> anyhow::Result<Vec<Override>> {
        let texts = texts.iter().flat_map(|text| text.split(';')).map(str::trim).filter(|text| !text.is_empty());
        texts.map(|text| self.one_override(text).with_context(|| format!("store override {text:?}"))).collect()
    }

    fn one_override(&self, text: &str) -> anyhow::Result<Override> {
        let parts = text.split_once('#').and_then(|(name, address)| Some((name.split_once('/')?, address)));
        let Some(((group, resource), address)) = parts else { bail!("want GROUP/RESOURCE#ADDRESS") };
        if resource.is_empty() || resource.contains('/') || group.contains('/') {
            bail!("want GROUP/RESOURCE, with an empty group for the core's");
        }
        let store = self.other(address)?;
        if matches!(store, Self::Embedded(None)) {
            bail!("an embedded store beside another needs a directory: embedded:DIRECTORY");
        }
        // The API gives events under two groups, and keeps them under one.
        let group = if (group, resource) == ("events.k8s.io", "events") { "" } else { group };
        let resource = GroupResource { group: group.into(), resource: resource.into() };
        Ok(Override { resource, store, address: address.to_owned() })
    }

    /// Opens it; an etcd's works for as long as `tasks` runs.
    pub(crate) async fn open(&self, data: &Path, tasks: &Tasks) -> anyhow::Result<Arc<dyn Store>> {
        Ok(match self {
            Self::Embedded(directory) => {
                let directory = directory.clone().unwrap_or_else(|| data.join(FOLDER));
                fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
                Arc::new(EmbeddedStore::open(directory, EmbeddedConfig::default())?)
            }
            Self::Etcd(config) => Arc::new(EtcdStore::open((**config).clone(), tasks).await?),
        })
    }
}

/// Opens what overrides say; those with the same address share a store.
pub(crate) async fn open_apart(overrides: &[Override], data: &Path, tasks: &Tasks) -> anyhow::Result<Vec<Apart>> {
    let mut by_address: BTreeMap<&str, (&StoreChoice, BTreeSet<GroupResource>)> = BTreeMap::new();
    for one in overrides {
        let entry = by_address.entry(&one.address).or_insert_with(|| (&one.store, BTreeSet::new()));
        if !entry.1.insert(one.resource.clone()) {
            bail!("store overrides name {}/{} twice", one.resource.group, one.resource.resource);
        }
    }
    let mut apart = Vec::new();
    for (address, (choice, resources)) in by_address {
        let store = choice.open(data, tasks).await.with_context(|| address.to_owned())?;
        apart.push(Apart { resources, store });
    }
    Ok(apart)
}

fn embedded(address: &str) -> Option<anyhow::Result<StoreChoice>> {
    if address == EMBEDDED {
        return Some(Ok(StoreChoice::Embedded(None)));
    }
    let directory = address.strip_prefix(EMBEDDED)?.strip_prefix(':')?;
    if directory.is_empty() {
        return Some(Err(anyhow::anyhow!("store {address:?}: want embedded:DIRECTORY")));
    }
    let absolute = std::path::absolute(directory).with_context(|| directory.to_owned());
    Some(absolute.map(|directory| StoreChoice::Embedded(Some(directory))))
}

/// Opens the stores that the server's are to move to.
#[derive(Debug)]
pub(crate) struct Opener {
    pub(crate) own: StoreChoice,
    pub(crate) data: PathBuf,
    pub(crate) tasks: Tasks,
}

#[async_trait::async_trait]
impl StoreOpener for Opener {
    async fn open(&self, address: &str) -> Result<Arc<dyn Store>, String> {
        let opened = async { self.own.other(address)?.open(&self.data, &self.tasks).await };
        opened.await.map_err(|error| format!("{error:#}"))
    }

    async fn open_apart(&self, overrides: &[String]) -> Result<Vec<Apart>, String> {
        let opened = async { open_apart(&self.own.overrides(overrides)?, &self.data, &self.tasks).await };
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
                Ok(StoreChoice::Embedded(None)) => "embedded".to_owned(),
                Ok(StoreChoice::Embedded(Some(directory))) => directory.display().to_string(),
                Ok(StoreChoice::Etcd(config)) => config.prefix,
                Err(error) => error.to_string(),
            }
        };
        assert_eq!(choose(None, None), "embedded");
        assert_eq!(choose(None, Some("etcd://a:1/b")), "/b");
        assert_eq!(choose(Some("embedded"), Some("etcd://a:1/b")), "embedded");
        assert_eq!(choose(Some("embedded:/a/b"), None), "/a/b");
        assert!(choose(Some("embedded:"), None).contains("DIRECTORY"));
        assert!(choose(Some("etcd://a:x"), None).contains("port"));
        assert!(choose(Some("floppy"), None).contains("floppy"));
    }

    #[test]
    fn half_a_pair_is_refused() {
        let files = EtcdFiles { cert: Some("cert.pem".into()), ..EtcdFiles::default() };
        assert!(StoreChoice::new(&StoreArgs::default(), Some("etcd://a:1"), &files).is_err());
    }

    #[test]
    fn what_is_kept_apart() {
        let own = StoreChoice::Embedded(None);
        let read = |text: &str| {
            own.overrides(&[text.to_owned()]).map(|all| {
                let name = |one: &Override| format!("{}/{}", one.resource.group, one.resource.resource);
                all.iter().map(|one| format!("{} {}", name(one), one.address)).collect::<Vec<_>>().join(", ")
            })
        };
        let cases = [
            ("/events#etcd://a:1,b:2/x", Some("/events etcd://a:1,b:2/x")),
            ("events.k8s.io/events#etcd://a:1", Some("/events etcd://a:1")),
            ("apps/deployments#etcd://a; /pods#embedded:/b;", Some("apps/deployments etcd://a, /pods embedded:/b")),
            ("", Some("")),
            ("/events", None),
            ("events#etcd://a", None),
            ("/#etcd://a", None),
            ("a/b/c#etcd://a", None),
            ("/events#embedded", None),
            ("/events#http://a", None),
        ];
        for (text, expected) in cases {
            assert_eq!(read(text).ok().as_deref(), expected, "{text}");
        }
    }
}
