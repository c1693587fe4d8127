//! A key-management plugin, version 2: it keeps the key that encrypts our seed; every object gets a key of its own from
//! the seed. The plugin is asked when the seed changes and when an unknown one is met, never for each object.

use crate::{
    config::KmsSpec,
    gcm::{self, SEED_BYTES, Seed},
    provider::SealError,
    v2::{self, EncryptedDekSourceType, EncryptedObject, key_management_service_client::KeyManagementServiceClient},
};
use arc_swap::ArcSwapOption;
use aws_lc_rs::aead::LessSafeKey;
use bytes::Bytes;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use prost::Message;
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, VecDeque},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use timonel_runtime::Entropy;
use tokio::{net::UnixStream, time::Instant};
use tonic::transport::{Channel, Endpoint, Uri};

/// How often the plugin is asked for its state; sooner while it does not answer.
const POLL: Duration = Duration::from_secs(60);
const POLL_FAILED: Duration = Duration::from_secs(10);
/// For so long after the plugin's last answer objects are still sealed.
const SEAL_WITHOUT_ANSWER: Duration = Duration::from_secs(180);
/// Bounds of what a plugin may answer.
const KEY_ID_BYTES: usize = 1 << 10;
const SOURCE_BYTES: usize = 1 << 10;
const ANNOTATION_BYTES: usize = 32 << 10;
/// Most opened seeds kept.
const MAX_OPENED: usize = 1_000;

/// What a plugin's ciphertext holds.
enum Source {
    Seed(Seed),
    Key(LessSafeKey),
}

impl Source {
    fn open(&self, place: &[u8], stored: &[u8]) -> Result<Vec<u8>, aws_lc_rs::error::Unspecified> {
        match self {
            Self::Seed(seed) => seed.open(place, stored),
            Self::Key(key) => gcm::open(key, place, stored),
        }
    }
}

/// The seed that objects are sealed with, as its record says it.
struct Writer {
    source: Arc<Source>,
    record: EncryptedObject,
}

/// Opened seeds, in the order in which they came.
#[derive(Default)]
struct Opened {
    by_record: BTreeMap<[u8; 32], Arc<Source>>,
    order: VecDeque<[u8; 32]>,
}

/// A plugin in use.
pub(crate) struct Plugin {
    spec: KmsSpec,
    client: KeyManagementServiceClient<Channel>,
    entropy: Entropy,
    writer: ArcSwapOption<Writer>,
    /// Until when objects may be sealed.
    good_until: Mutex<Option<Instant>>,
    opened: Mutex<Opened>,
}

impl Plugin {
    /// A plugin that has been asked once, in vain or not.
    pub(crate) async fn new(spec: KmsSpec, entropy: Entropy) -> Self {
        let socket = spec.socket.clone();
        // The authority is never resolved: the connector knows its socket.
        let channel = Endpoint::from_static("http://kms")
            .connect_with_connector_lazy(tower::service_fn(move |_: Uri| dial(socket.clone())));
        let client = KeyManagementServiceClient::new(channel);
        let (writer, good_until, opened) = (ArcSwapOption::empty(), Mutex::default(), Mutex::default());
        let plugin = Self { spec, client, entropy, writer, good_until, opened };
        let _ = plugin.look().await;
        plugin
    }

    /// Looks after the plugin for as long as its task runs.
    pub(crate) async fn run(self: Arc<Self>) {
        loop {
            let good = self.check().is_ok();
            tokio::time::sleep(if good { POLL } else { POLL_FAILED }).await;
            let _ = self.look().await;
        }
    }

    /// Whether objects can be sealed.
    pub(crate) fn check(&self) -> Result<(), SealError> {
        match *self.good_until.lock() {
            Some(until) if Instant::now() < until => Ok(()),
            Some(_) => Err(self.failed("it has not answered for too long, nothing is sealed with it")),
            None => Err(self.failed("it has not answered yet")),
        }
    }

    fn failed(&self, why: impl Into<String>) -> SealError {
        SealError::Plugin { name: self.spec.name.clone(), why: why.into() }
    }

    /// Asks for the plugin's state, and makes a new seed when its key is another one.
    pub(crate) async fn look(&self) -> Result<(), SealError> {
        let looked = self.refresh().await;
        match &looked {
            Ok(()) => *self.good_until.lock() = Some(Instant::now() + SEAL_WITHOUT_ANSWER),
            Err(error) => tracing::warn!(%error, "key management"),
        }
        looked
    }

    async fn refresh(&self) -> Result<(), SealError> {
        let status = self.call(async |mut client| client.status(v2::StatusRequest {}).await).await?;
        if !matches!(status.version.as_str(), "v2" | "v2beta1") {
            return Err(self.failed(format!("it speaks version {:?}, not v2", status.version)));
        }
        if status.healthz != "ok" {
            return Err(self.failed(format!("it is not well: {}", status.healthz)));
        }
        self.check_key_id(&status.key_id)?;
        if self.writer.load().as_ref().is_some_and(|writer| writer.record.key_id == status.key_id) {
            return Ok(());
        }
        let seed: [u8; SEED_BYTES] = gcm::random().map_err(|_| SealError::Sealing)?;
        let request = v2::EncryptRequest { plaintext: seed.to_vec(), uid: self.entropy.uuid() };
        let answer = self.call(async |mut client| client.encrypt(request).await).await?;
        if answer.key_id != status.key_id {
            return Err(self.failed("it encrypts with another key than its status says"));
        }
        let record = EncryptedObject {
            encrypted_data: Vec::new(),
            key_id: answer.key_id,
            encrypted_dek_source: answer.ciphertext,
            annotations: answer.annotations,
            encrypted_dek_source_type: EncryptedDekSourceType::HkdfSha256XnonceAesGcmSeed.into(),
        };
        self.check_record(&record)?;
        let source = Arc::new(Source::Seed(Seed::new(&seed).ok_or(SealError::Sealing)?));
        self.opened.lock().insert(digest(&record), source.clone());
        tracing::info!(plugin = %self.spec.name, "a new seed for encryption at rest");
        self.writer.store(Some(Arc::new(Writer { source, record })));
        Ok(())
    }

    async fn call<T>(
        &self,
        ask: impl AsyncFnOnce(KeyManagementServiceClient<Channel>) -> Result<tonic::Response<T>, tonic::Status>,
    ) -> Result<T, SealError> {
        match tokio::time::timeout(self.spec.timeout, ask(self.client.clone())).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(self.failed(status.message())),
            Err(_) => Err(self.failed(format!("no answer in {:?}", self.spec.timeout))),
        }
    }

    /// Seals `plain` for `place`.
    pub(crate) fn seal(&self, place: &[u8], plain: &[u8], out: &mut Vec<u8>) -> Result<(), SealError> {
        self.check()?;
        let writer = self.writer.load();
        let Some(Writer { source, record }) = writer.as_deref() else { return Err(self.failed("it has no seed")) };
        let Source::Seed(seed) = &**source else { return Err(SealError::Sealing) };
        let encrypted_data = seed.seal(place, plain).map_err(|_| SealError::Sealing)?;
        let record = EncryptedObject { encrypted_data, ..record.clone() };
        out.extend_from_slice(&record.encode_to_vec());
        Ok(())
    }

    /// Opens what lies at `place`; whether it would be sealed otherwise today.
    pub(crate) async fn open(&self, place: &[u8], stored: &[u8]) -> Result<(Bytes, bool), SealError> {
        let record = EncryptedObject::decode(stored).map_err(|_| SealError::Damaged)?;
        self.check_record(&record).map_err(|_| SealError::Damaged)?;
        let digest = digest(&record);
        let known = self.opened.lock().by_record.get(&digest).cloned();
        let source = match known {
            Some(source) => source,
            None => {
                let source = self.ask(&record).await?;
                self.opened.lock().insert(digest, source.clone());
                source
            }
        };
        let plain = source.open(place, &record.encrypted_data).map_err(|_| SealError::Damaged)?;
        let writer = self.writer.load();
        let current = writer.as_ref().is_some_and(|writer| {
            writer.record.key_id == record.key_id
                && writer.record.encrypted_dek_source_type == record.encrypted_dek_source_type
        });
        Ok((plain.into(), !current))
    }

    async fn ask(&self, record: &EncryptedObject) -> Result<Arc<Source>, SealError> {
        let request = v2::DecryptRequest {
            ciphertext: record.encrypted_dek_source.clone(),
            uid: self.entropy.uuid(),
            key_id: record.key_id.clone(),
            annotations: record.annotations.clone(),
        };
        let answer = self.call(async |mut client| client.decrypt(request).await).await?;
        let source = match record.encrypted_dek_source_type() {
            EncryptedDekSourceType::AesGcmKey => gcm::key(&answer.plaintext).map(Source::Key),
            EncryptedDekSourceType::HkdfSha256XnonceAesGcmSeed => Seed::new(&answer.plaintext).map(Source::Seed),
        };
        source.map(Arc::new).ok_or_else(|| self.failed("what it decrypted is no key"))
    }

    fn check_key_id(&self, key_id: &str) -> Result<(), SealError> {
        if key_id.is_empty() || key_id.len() > KEY_ID_BYTES {
            return Err(
                self.failed(format!("its key's name has {} bytes, allowed are 1 to {KEY_ID_BYTES}", key_id.len()))
            );
        }
        Ok(())
    }

    fn check_record(&self, record: &EncryptedObject) -> Result<(), SealError> {
        self.check_key_id(&record.key_id)?;
        let source = record.encrypted_dek_source.len();
        if source == 0 || source > SOURCE_BYTES {
            return Err(self.failed(format!("an encrypted seed has {source} bytes, allowed are 1 to {SOURCE_BYTES}")));
        }
        let annotations: usize = record.annotations.iter().map(|(key, value)| key.len() + value.len()).sum();
        if annotations > ANNOTATION_BYTES {
            return Err(self.failed(format!("annotations of {annotations} bytes, the most is {ANNOTATION_BYTES}")));
        }
        let qualified = |name: &String| name.contains('.') && name.split('.').all(|label| !label.is_empty());
        if let Some(name) = record.annotations.keys().find(|name| !qualified(name)) {
            return Err(self.failed(format!("annotation {name:?} is not a fully qualified domain name")));
        }
        EncryptedDekSourceType::try_from(record.encrypted_dek_source_type)
            .map(drop)
            .map_err(|_| self.failed("unknown type of encrypted seed"))
    }
}

impl Opened {
    fn insert(&mut self, digest: [u8; 32], source: Arc<Source>) {
        if self.by_record.insert(digest, source).is_none() {
            self.order.push_back(digest);
        }
        while self.order.len() > MAX_OPENED {
            let oldest = self.order.pop_front();
            oldest.and_then(|oldest| self.by_record.remove(&oldest));
        }
    }
}

/// What tells one encrypted seed from another: everything that the plugin is asked with.
fn digest(record: &EncryptedObject) -> [u8; 32] {
    let asked = EncryptedObject { encrypted_data: Vec::new(), ..record.clone() };
    Sha256::digest(asked.encode_to_vec()).into()
}

async fn dial(socket: PathBuf) -> std::io::Result<TokioIo<UnixStream>> {
    Ok(TokioIo::new(UnixStream::connect(socket).await?))
}
