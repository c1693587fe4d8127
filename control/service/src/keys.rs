//! The authorities and keys of a cluster, made once and kept sealed.

use crate::secrets::{SecretError, Secrets};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use timonel_pki::{Authority, ClusterPki, JwtError, KeyRing, PkiError, SigningKey, VerifyingKey};

/// Why a cluster has no keys.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Keeping or finding them failed.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// Making or reading an authority failed.
    #[error("authority")]
    Authority(#[from] PkiError),
    /// Making or reading a service-account key failed.
    #[error("service-account key")]
    Token(#[from] JwtError),
    /// The record is of another shape.
    #[error("stored keys of cluster {uid}")]
    Record {
        /// Which cluster.
        uid: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// What is sealed.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Record {
    cluster: Pair,
    front_proxy: Pair,
    signing_key: String,
    #[serde(default)]
    retired_keys: Vec<String>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Pair {
    certificate: String,
    key: String,
}

impl Pair {
    fn of(authority: &Authority) -> Self {
        Self { certificate: authority.cert_pem().to_owned(), key: authority.key_pem() }
    }

    fn load(&self) -> Result<Authority, PkiError> {
        Authority::load(&self.certificate, &self.key)
    }
}

/// Where the keys of a cluster lie.
pub(crate) fn name(uid: &str) -> String {
    format!("/secrets/keys/{uid}")
}

/// The keys of a cluster; made when there are none. Of several makers at once the first wins, for all.
///
/// # Errors
/// When they cannot be made, kept or read.
pub(crate) async fn load_or_create(secrets: &Secrets, uid: &str, now: Timestamp) -> Result<ClusterPki, KeyError> {
    let name = name(uid);
    let record = match secrets.get(&name).await? {
        Some(record) => record,
        None => {
            let pki = ClusterPki::create(now)?;
            let record = Record {
                cluster: Pair::of(&pki.cluster_ca),
                front_proxy: Pair::of(&pki.front_proxy_ca),
                signing_key: pki.keys.signing().to_pem(),
                retired_keys: Vec::new(),
            };
            let record =
                serde_json::to_vec(&record).map_err(|source| KeyError::Record { uid: uid.to_owned(), source })?;
            secrets.get_or_put(&name, &record).await?
        }
    };
    let record: Record =
        serde_json::from_slice(&record).map_err(|source| KeyError::Record { uid: uid.to_owned(), source })?;
    let retired = record.retired_keys.iter().map(|pem| VerifyingKey::from_pem(pem)).collect::<Result<_, _>>()?;
    Ok(ClusterPki {
        cluster_ca: record.cluster.load()?,
        front_proxy_ca: record.front_proxy.load()?,
        keys: KeyRing::new(SigningKey::from_pem(&record.signing_key)?, retired),
    })
}

/// A second ring of the same keys, for a part that wants to own one.
///
/// # Errors
/// When the TLS library fails.
pub(crate) fn copy(keys: &KeyRing) -> Result<KeyRing, KeyError> {
    let retired = keys.verifying().skip(1).cloned().collect();
    Ok(KeyRing::new(SigningKey::from_pem(&keys.signing().to_pem())?, retired))
}

/// Forgets the keys of a cluster that is gone.
///
/// # Errors
/// When the store fails.
pub(crate) async fn forget(secrets: &Secrets, uid: &str) -> Result<(), SecretError> {
    secrets.delete(&name(uid)).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use timonel_runtime::Clock;
    use timonel_store::MemoryStore;

    #[tokio::test]
    async fn keys_are_made_once_and_forgotten_for_good() {
        let clock = Clock::system();
        let secrets = Secrets::with_key(Arc::new(MemoryStore::new(clock.clone())), &[1; 32]).unwrap();
        let first = load_or_create(&secrets, "u", clock.now()).await.unwrap();
        let again = load_or_create(&secrets, "u", clock.now()).await.unwrap();
        assert_eq!(first.cluster_ca.cert_pem(), again.cluster_ca.cert_pem());
        assert_eq!(first.keys.signing().verifying().kid(), again.keys.signing().verifying().kid());
        forget(&secrets, "u").await.unwrap();
        let other = load_or_create(&secrets, "u", clock.now()).await.unwrap();
        assert_ne!(first.cluster_ca.cert_pem(), other.cluster_ca.cert_pem());
    }
}
