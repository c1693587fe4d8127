//! Secrets at rest: authorities and keys of clusters lie in the store sealed with a master key that does not.
//!
//! AES-256-GCM with a random nonce per record; the record's key in the store is authenticated with it, so that a
//! record cannot be moved to another cluster.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use bytes::Bytes;
use std::{
    fs::{self, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};
use timonel_store::{Compare, KeyRange, Op, RangeRequest, Store, StoreError, Txn};

/// Bytes of the master key.
const KEY_BYTES: usize = 32;
/// Owner may read and write, nobody else.
const OWNER_ONLY: u32 = 0o600;

/// Why a secret cannot be had or kept.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The master key's file.
    #[error("master key {path}")]
    KeyFile {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file holds something else.
    #[error("master key {path} has {bytes} bytes, not {KEY_BYTES}; restore it from a backup, it cannot be made again")]
    KeyLength {
        /// Where.
        path: PathBuf,
        /// How many.
        bytes: usize,
    },
    /// The TLS library failed.
    #[error("sealing")]
    Seal,
    /// The record was sealed with another key, or is damaged.
    #[error("secret {name} cannot be opened: it was sealed with another master key, or is damaged")]
    Open {
        /// Which.
        name: String,
    },
    /// The store failed.
    #[error("secret {name} in the store")]
    Store {
        /// Which.
        name: String,
        /// Why.
        #[source]
        source: StoreError,
    },
}

/// Sealed records in a store.
#[derive(Clone)]
pub struct Secrets {
    store: Arc<dyn Store>,
    key: Arc<LessSafeKey>,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Secrets")
    }
}

impl Secrets {
    /// Seals with the key in `path`, which is made when there is none.
    ///
    /// # Errors
    /// When the file cannot be read or made, or holds something else.
    pub fn open(store: Arc<dyn Store>, path: &Path) -> Result<Self, SecretError> {
        Self::with_key(store, &master_key(path)?)
    }

    /// Seals with `key`, 32 bytes.
    ///
    /// # Errors
    /// When the key has another length.
    pub fn with_key(store: Arc<dyn Store>, key: &[u8]) -> Result<Self, SecretError> {
        let key = UnboundKey::new(&AES_256_GCM, key).map_err(|_| SecretError::Seal)?;
        Ok(Self { store, key: Arc::new(LessSafeKey::new(key)) })
    }

    /// The record `name`.
    ///
    /// # Errors
    /// When it cannot be opened, or the store fails.
    pub async fn get(&self, name: &str) -> Result<Option<Vec<u8>>, SecretError> {
        let request = RangeRequest { range: KeyRange::key(name.as_bytes().to_vec()), revision: None, limit: 1 };
        let found = self.store.range(request).await.map_err(|source| failed(name, source))?;
        found.items.first().map(|item| self.unseal(name, &item.value)).transpose()
    }

    /// Keeps `secret` under `name` unless there is one already; returns what is there then.
    ///
    /// # Errors
    /// When sealing or the store fails.
    pub async fn get_or_put(&self, name: &str, secret: &[u8]) -> Result<Vec<u8>, SecretError> {
        let key = Bytes::copy_from_slice(name.as_bytes());
        let value = self.seal(name, secret)?;
        let txn = Txn {
            compare: vec![Compare::ModRevision(key.clone(), 0)],
            then: vec![Op::Put { key, value, lease: None }],
            ..Txn::default()
        };
        let done = self.store.txn(txn).await.map_err(|source| failed(name, source))?;
        if done.succeeded {
            return Ok(secret.to_vec());
        }
        self.get(name).await?.ok_or_else(|| SecretError::Open { name: name.to_owned() })
    }

    /// The record `name` as it lies in the store, for a backup.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn sealed(&self, name: &str) -> Result<Option<Vec<u8>>, SecretError> {
        let request = RangeRequest { range: KeyRange::key(name.as_bytes().to_vec()), revision: None, limit: 1 };
        let found = self.store.range(request).await.map_err(|source| failed(name, source))?;
        Ok(found.items.first().map(|item| item.value.to_vec()))
    }

    /// Keeps under `name` what was sealed as `before`, unless there is something.
    ///
    /// # Errors
    /// When it cannot be opened, or the store fails.
    pub async fn put_sealed(&self, before: &str, sealed: &[u8], name: &str) -> Result<(), SecretError> {
        let secret = self.unseal(before, sealed)?;
        self.get_or_put(name, &secret).await.map(drop)
    }

    /// Forgets a record.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn delete(&self, name: &str) -> Result<(), SecretError> {
        let key = Bytes::copy_from_slice(name.as_bytes());
        let txn = Txn { then: vec![Op::Delete(key)], ..Txn::default() };
        self.store.txn(txn).await.map(drop).map_err(|source| failed(name, source))
    }

    fn seal(&self, name: &str, secret: &[u8]) -> Result<Bytes, SecretError> {
        let mut nonce = [0; NONCE_LEN];
        aws_lc_rs::rand::fill(&mut nonce).map_err(|_| SecretError::Seal)?;
        let mut sealed = secret.to_vec();
        self.key
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(name.as_bytes()), &mut sealed)
            .map_err(|_| SecretError::Seal)?;
        Ok([&nonce[..], &sealed].concat().into())
    }

    fn unseal(&self, name: &str, record: &[u8]) -> Result<Vec<u8>, SecretError> {
        let bad = || SecretError::Open { name: name.to_owned() };
        let (nonce, sealed) = record.split_at_checked(NONCE_LEN).ok_or_else(bad)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| bad())?;
        let mut sealed = sealed.to_vec();
        let secret = self.key.open_in_place(nonce, Aad::from(name.as_bytes()), &mut sealed).map_err(|_| bad())?;
        Ok(secret.to_vec())
    }
}

fn failed(name: &str, source: StoreError) -> SecretError {
    SecretError::Store { name: name.to_owned(), source }
}

fn master_key(path: &Path) -> Result<Vec<u8>, SecretError> {
    let failed = |source| SecretError::KeyFile { path: path.to_owned(), source };
    let mut key = vec![0; KEY_BYTES];
    match OpenOptions::new().write(true).create_new(true).mode(OWNER_ONLY).open(path) {
        Ok(mut file) => {
            aws_lc_rs::rand::fill(&mut key).map_err(|_| SecretError::Seal)?;
            file.write_all(&key).and_then(|()| file.sync_all()).map_err(failed)?;
            let folder = path.parent().unwrap_or(Path::new("."));
            fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            key.clear();
            let file = fs::File::open(path).map_err(failed)?;
            file.take(KEY_BYTES as u64 + 1).read_to_end(&mut key).map_err(failed)?;
        }
        Err(error) => return Err(failed(error)),
    }
    if key.len() == KEY_BYTES {
        Ok(key)
    } else {
        Err(SecretError::KeyLength { path: path.to_owned(), bytes: key.len() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use timonel_runtime::Clock;
    use timonel_store::MemoryStore;

    fn store() -> Arc<dyn Store> {
        Arc::new(MemoryStore::new(Clock::system()))
    }

    #[tokio::test]
    async fn the_first_secret_of_a_name_stays() {
        let secrets = Secrets::with_key(store(), &[7; 32]).unwrap();
        assert_eq!(secrets.get_or_put("a", b"one").await.unwrap(), b"one");
        assert_eq!(secrets.get_or_put("a", b"two").await.unwrap(), b"one");
        secrets.delete("a").await.unwrap();
        assert_eq!(secrets.get("a").await.unwrap(), None);
    }

    #[tokio::test]
    async fn nothing_lies_in_the_store_in_clear_and_another_key_opens_nothing() {
        let store = store();
        Secrets::with_key(Arc::clone(&store), &[7; 32]).unwrap().get_or_put("a", b"very secret").await.unwrap();
        let all = RangeRequest { range: KeyRange::prefix(&b"a"[..]), revision: None, limit: 0 };
        let stored = store.range(all).await.unwrap().items.remove(0).value;
        assert!(!stored.windows(11).any(|window| window == b"very secret"));
        let other = Secrets::with_key(store, &[8; 32]).unwrap();
        assert!(matches!(other.get("a").await, Err(SecretError::Open { .. })));
    }

    #[test]
    fn the_master_key_is_made_once_and_a_short_one_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("master.key");
        let key = master_key(&path).unwrap();
        assert_eq!(master_key(&path).unwrap(), key);
        fs::write(&path, b"short").unwrap();
        assert!(matches!(master_key(&path), Err(SecretError::KeyLength { bytes: 5, .. })));
    }
}
