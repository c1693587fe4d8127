//! The configuration in force, and how it changes: the file is read again when it changes, a bad one is refused and the
//! old one stays.

use crate::{
    config::{Config, ConfigError, ProviderSpec, patterns_of},
    kms::Plugin,
    provider::{Providers, SealError},
};
use arc_swap::ArcSwap;
use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use timonel_runtime::{Entropy, OnError, Tasks};

/// How often the file is looked at.
const LOOK: Duration = Duration::from_secs(5);
/// Largest configuration taken.
const MAX_BYTES: u64 = 3 << 20;

/// Why encryption cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum EncryptionError {
    /// The file.
    #[error("encryption configuration {path}")]
    Read {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What it says.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A plugin that is to write does not answer.
    #[error(transparent)]
    Plugin(#[from] SealError),
}

/// A configuration at work.
struct Rules {
    config: Config,
    providers: BTreeMap<(String, String), Arc<Providers>>,
    plugins: BTreeMap<String, Arc<Plugin>>,
    /// Ends with these rules.
    tasks: Tasks,
}

/// Encryption at rest of one service.
pub struct Encryption {
    rules: ArcSwap<Rules>,
    entropy: Entropy,
    tasks: Tasks,
}

impl std::fmt::Debug for Encryption {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Encryption")
    }
}

impl Encryption {
    /// Encrypts as the file says, and follows it when it changes.
    ///
    /// # Errors
    /// When the file cannot be read or is not taken, or a plugin that is to write does not answer.
    pub async fn open(path: &Path, entropy: Entropy, tasks: &Tasks) -> Result<Arc<Self>, EncryptionError> {
        let encryption = Self::from_text(&read(path).await?, entropy, tasks).await?;
        let (followed, path) = (encryption.clone(), path.to_owned());
        tasks.spawn("encryption-configuration", OnError::Log, async move {
            loop {
                tokio::time::sleep(LOOK).await;
                if let Err(error) = followed.reload(&path).await {
                    tracing::error!(%error, "the encryption configuration is refused, the one before stays");
                }
            }
            #[allow(unreachable_code, reason = "names the type of the task's error")]
            Ok::<_, std::convert::Infallible>(())
        });
        Ok(encryption)
    }

    /// Encrypts as `text` says.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn from_text(text: &str, entropy: Entropy, tasks: &Tasks) -> Result<Arc<Self>, EncryptionError> {
        let rules = Rules::start(Config::parse(text)?, &entropy, tasks).await?;
        Ok(Arc::new(Self { rules: ArcSwap::from_pointee(rules), entropy, tasks: tasks.clone() }))
    }

    /// Reads the file again; whether it says something else.
    ///
    /// # Errors
    /// As [`Self::open`]; the configuration in force stays.
    pub async fn reload(&self, path: &Path) -> Result<bool, EncryptionError> {
        let config = Config::parse(&read(path).await?)?;
        if config == self.rules.load().config {
            return Ok(false);
        }
        let rules = Rules::start(config, &self.entropy, &self.tasks).await?;
        let before = self.rules.swap(Arc::new(rules));
        before.tasks.token().cancel();
        tracing::info!("the encryption configuration has changed");
        Ok(true)
    }

    /// Whether everything that is to be sealed can be.
    ///
    /// # Errors
    /// The plugin that cannot be used.
    pub fn check(&self) -> Result<(), SealError> {
        self.rules.load().plugins.values().try_for_each(|plugin| plugin.check())
    }

    /// Whether the configuration names key-management plugins.
    #[must_use]
    pub fn has_plugins(&self) -> bool {
        !self.rules.load().plugins.is_empty()
    }

    /// Asks every plugin for its state now, instead of at the next turn.
    ///
    /// # Errors
    /// The first that does not answer as it must.
    pub async fn look(&self) -> Result<(), SealError> {
        for plugin in self.rules.load_full().plugins.values() {
            plugin.look().await?;
        }
        Ok(())
    }

    /// How a resource is kept; `None` is in clear, whatever it is.
    pub(crate) fn providers(&self, group: &str, resource: &str) -> Option<Arc<Providers>> {
        let rules = self.rules.load();
        patterns_of(group, resource).iter().find_map(|pattern| rules.providers.get(pattern).cloned())
    }
}

impl Rules {
    async fn start(config: Config, entropy: &Entropy, parent: &Tasks) -> Result<Self, EncryptionError> {
        let tasks = parent.child("encryption");
        let mut plugins: BTreeMap<String, Arc<Plugin>> = BTreeMap::new();
        for spec in config.0.values().flatten() {
            let ProviderSpec::Kms(spec) = spec else { continue };
            if !plugins.contains_key(&spec.name) {
                let plugin = Plugin::new(spec.clone(), entropy.clone()).await;
                plugins.insert(spec.name.clone(), Arc::new(plugin));
            }
        }
        for specs in config.0.values() {
            // One that only reads may come up later.
            if let Some(ProviderSpec::Kms(first)) = specs.first() {
                plugins[&first.name].check()?;
            }
        }
        for plugin in plugins.values() {
            let plugin = plugin.clone();
            tasks.spawn("kms-plugin", OnError::Log, async move {
                plugin.run().await;
                Ok::<(), SealError>(())
            });
        }
        let providers = config.0.iter();
        let providers = providers.map(|(pattern, specs)| (pattern.clone(), Arc::new(Providers::new(specs, &plugins))));
        Ok(Self { providers: providers.collect(), config, plugins, tasks })
    }
}

async fn read(path: &Path) -> Result<String, EncryptionError> {
    let failed = |source| EncryptionError::Read { path: path.to_owned(), source };
    let length = tokio::fs::metadata(path).await.map_err(failed)?.len();
    if length > MAX_BYTES {
        return Err(failed(io::Error::from(io::ErrorKind::FileTooLarge)));
    }
    tokio::fs::read_to_string(path).await.map_err(failed)
}
