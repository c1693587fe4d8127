//! The providers of one resource: the first seals, whichever fits opens.

use crate::{config::ProviderSpec, gcm, kms::Plugin};
use aws_lc_rs::aead::LessSafeKey;
use bytes::Bytes;
use std::{collections::BTreeMap, sync::Arc};

/// What every value starts with that is not in clear.
const SEALED: &[u8] = b"k8s:enc:";

/// Why a value cannot be sealed or opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// No provider of the resource knows the value's form.
    #[error("no matching prefix found: no provider of this resource has sealed it")]
    NoProvider,
    /// Sealed with another key or in another place, or damaged.
    #[error("it does not open: sealed with another key, moved, or damaged")]
    Damaged,
    /// The plugin cannot be used.
    #[error("KMS plugin {name}: {why}")]
    Plugin {
        /// Which.
        name: String,
        /// Why.
        why: String,
    },
    /// The TLS library failed.
    #[error("sealing")]
    Sealing,
}

enum How {
    Clear,
    AesGcm(LessSafeKey),
    Plugin(Arc<Plugin>),
}

/// One way to keep a value.
struct Provider {
    prefix: Vec<u8>,
    how: How,
}

/// All ways in which a resource's values may be kept.
pub(crate) struct Providers(Vec<Provider>);

impl Providers {
    /// `plugins` has every plugin that `specs` name.
    pub(crate) fn new(specs: &[ProviderSpec], plugins: &BTreeMap<String, Arc<Plugin>>) -> Self {
        let one = |spec: &ProviderSpec| {
            let (prefix, how) = match spec {
                ProviderSpec::Identity => (Vec::new(), How::Clear),
                ProviderSpec::AesGcm { name, key } => {
                    (format!("k8s:enc:aesgcm:v1:{name}:").into_bytes(), How::AesGcm(gcm::key(key)?))
                }
                ProviderSpec::Kms(spec) => {
                    let plugin = plugins.get(&spec.name)?.clone();
                    (format!("k8s:enc:kms:v2:{}:", spec.name).into_bytes(), How::Plugin(plugin))
                }
            };
            Some(Provider { prefix, how })
        };
        Self(specs.iter().filter_map(one).collect())
    }

    /// Seals `plain` for `place`.
    pub(crate) fn seal(&self, place: &[u8], plain: &Bytes) -> Result<Bytes, SealError> {
        let first = self.0.first().ok_or(SealError::NoProvider)?;
        let mut out = first.prefix.clone();
        match &first.how {
            How::Clear => return Ok(plain.clone()),
            How::AesGcm(key) => gcm::seal(key, place, plain, &mut out).map_err(|_| SealError::Sealing)?,
            How::Plugin(plugin) => plugin.seal(place, plain, &mut out)?,
        }
        Ok(out.into())
    }

    /// Opens what lies at `place`; whether it would be sealed otherwise today.
    pub(crate) async fn open(&self, place: &[u8], stored: &Bytes) -> Result<(Bytes, bool), SealError> {
        let mut failed = SealError::NoProvider;
        for (at, provider) in self.0.iter().enumerate() {
            let fits = match provider.how {
                How::Clear => !stored.starts_with(SEALED),
                _ => stored.starts_with(&provider.prefix),
            };
            if !fits {
                continue;
            }
            let sealed = stored.slice(provider.prefix.len()..);
            let opened = match &provider.how {
                How::Clear => Ok((stored.clone(), false)),
                How::AesGcm(key) => {
                    gcm::open(key, place, &sealed).map(|plain| (plain.into(), false)).map_err(|_| SealError::Damaged)
                }
                How::Plugin(plugin) => plugin.open(place, &sealed).await,
            };
            match opened {
                Ok((plain, stale)) => return Ok((plain, stale || at > 0)),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn aes(name: &str, byte: u8) -> ProviderSpec {
        ProviderSpec::AesGcm { name: name.into(), key: vec![byte; 32] }
    }

    fn providers(specs: &[ProviderSpec]) -> Providers {
        Providers::new(specs, &BTreeMap::new())
    }

    #[tokio::test]
    async fn keys_rotate() {
        let plain = Bytes::from_static(b"secret");
        let old = providers(&[aes("one", 1), ProviderSpec::Identity]);
        let new = providers(&[aes("two", 2), aes("one", 1), ProviderSpec::Identity]);
        let sealed = old.seal(b"/a", &plain).unwrap();
        assert!(sealed.starts_with(b"k8s:enc:aesgcm:v1:one:"));
        assert_eq!(old.open(b"/a", &sealed).await, Ok((plain.clone(), false)));
        assert_eq!(new.open(b"/a", &sealed).await, Ok((plain.clone(), true)));
        let again = new.seal(b"/a", &plain).unwrap();
        assert_eq!(new.open(b"/a", &again).await, Ok((plain.clone(), false)));
        assert_eq!(old.open(b"/a", &again).await, Err(SealError::NoProvider));
        assert_eq!(new.open(b"/a", &plain).await, Ok((plain.clone(), true)), "in clear from before");
    }

    #[tokio::test]
    async fn what_does_not_open_is_never_served() {
        let sealed = providers(&[aes("one", 1)]).seal(b"/a", &Bytes::from_static(b"secret")).unwrap();
        let other = providers(&[aes("one", 9), ProviderSpec::Identity]);
        assert_eq!(other.open(b"/a", &sealed).await, Err(SealError::Damaged));
        assert_eq!(providers(&[ProviderSpec::Identity]).open(b"/a", &sealed).await, Err(SealError::NoProvider));
        assert_eq!(providers(&[aes("one", 1)]).open(b"/b", &sealed).await, Err(SealError::Damaged));
    }
}
