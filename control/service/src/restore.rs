//! A cluster out of a backup: first the whole archive is read and checked, then a new Cluster is made that nobody opens
//! yet, then its keys are put where there is nothing, then it is let go. Never changes the cluster that was backed up.

use crate::{
    admin::Admin,
    claim::{self, Claim, RESTORING},
    keys, layout,
    places::Place,
    secrets::SecretError,
};
use bytes::Bytes;
use http_body_util::BodyExt;
use kube::{
    Api, ResourceExt,
    api::{ListParams, PostParams},
};
use serde::{Deserialize, Serialize};
use std::{
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};
use timonel_apiserver::Body;
use timonel_fleet::{Cluster, ClusterSpec};
use timonel_store::{ArchiveError, ArchivePart, ArchiveReader, Importer, StoreError, TransferError};
use tokio::{
    fs,
    io::{AsyncReadExt, AsyncWriteExt},
};

/// What the names of archives start with that are being checked, in the data directory.
const SPOOL: &str = "restore-";
/// What tells two restores apart.
const CLAIM_LETTERS: usize = 12;
/// Read at once.
const PIECE_BYTES: usize = 256 << 10;
/// Only the owner may read what a backup holds.
const OWNER_ONLY: u32 = 0o600;

/// What a backup says of itself.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Backup {
    pub(crate) project: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) revision: u64,
    pub(crate) created: String,
    pub(crate) spec: ClusterSpec,
    /// The cluster's authorities and keys, sealed with the service's master key.
    pub(crate) keys: Option<Vec<u8>>,
}

/// Why there is no restored cluster.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RestoreError {
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error("the archive is no backup of a cluster")]
    Header(#[source] serde_json::Error),
    #[error("spooling the archive")]
    Spool(#[from] io::Error),
    #[error("receiving the archive")]
    Receive(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("fleet API")]
    Api(#[from] kube::Error),
    #[error(transparent)]
    Transfer(#[from] TransferError),
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error("the cluster being restored was changed or cleared away by another")]
    Lost,
}

impl From<StoreError> for RestoreError {
    fn from(error: StoreError) -> Self {
        Self::Transfer(error.into())
    }
}

/// Where an archive waits that is being checked.
pub(crate) fn spool(data: &Path, name: &str) -> PathBuf {
    data.join(format!("{SPOOL}{name}"))
}

/// Removes archives of restores that a server before this one did not end.
pub(crate) fn forget_spools(data: &Path) {
    let entries = std::fs::read_dir(data).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(SPOOL)) {
        if let Err(error) = std::fs::remove_file(entry.path()) {
            tracing::warn!(%error, path = %entry.path().display(), "the archive of a restore that did not end stays");
        }
    }
}

/// Takes an archive into `spool`, and checks all of it.
pub(crate) async fn take(mut body: Body, spool: &Path) -> Result<Backup, RestoreError> {
    let mut how = std::fs::OpenOptions::new();
    how.write(true).create_new(true).mode(OWNER_ONLY);
    let mut file = fs::OpenOptions::from(how).open(spool).await?;
    let (mut reader, mut header) = (ArchiveReader::default(), None);
    while let Some(frame) = body.frame().await {
        let Ok(piece) = frame.map_err(RestoreError::Receive)?.into_data() else { continue };
        file.write_all(&piece).await?;
        reader.feed(&piece);
        while let Some(part) = reader.part()? {
            if let ArchivePart::Header(found) = part {
                header = Some(serde_json::from_slice(&found).map_err(RestoreError::Header)?);
            }
        }
    }
    reader.finish()?;
    file.flush().await?;
    header.ok_or(RestoreError::Archive(ArchiveError::Form))
}

/// Makes `name` of a checked archive; returns its UID and how many keys it has.
pub(crate) async fn restore(
    admin: &Admin,
    project: &str,
    name: &str,
    keep_keys: bool,
    spool: &Path,
    backup: Backup,
) -> Result<(String, u64), RestoreError> {
    let clusters = Api::<Cluster>::namespaced(admin.fleet.clone(), project);
    let raw = &admin.places.first().raw;
    let claim = Claim::take(raw, admin.entropy.suffix(CLAIM_LETTERS)).await?;
    let mut cluster = Cluster::new(project, name, spec(admin, &backup).await?);
    cluster.annotations_mut().insert(RESTORING.into(), claim.name.clone());
    let created = clusters.create(&PostParams::default(), &cluster).await?;
    let uid = created.uid().unwrap_or_default();
    let filled = tokio::select! {
        filled = fill(admin, &uid, keep_keys, spool, &backup, &claim) => filled,
        lost = claim.keep(raw) => Err(lost.into()),
    };
    let done = match filled {
        Ok(count) => claim::let_go(&clusters, name, &claim).await.map(|()| count),
        Err(error) => Err(error),
    };
    let restored = match done {
        Ok(count) => {
            tracing::info!(project, cluster = name, keys = count, from = %backup.name, "restored");
            Ok((uid, count))
        }
        Err(error) => {
            // Nobody has opened it: what was put so far goes, and nothing else was there. What is left now the leader
            // clears away later, as nobody claims it.
            if let Err(left) = claim::clear_away(&admin.fleet, &admin.places, &admin.secrets, &created).await {
                tracing::warn!(%left, cluster = name, "a failed restore is cleared away later");
            }
            Err(error)
        }
    };
    claim.release(raw).await;
    restored
}

/// The ranges of the old cluster stay, as its objects name addresses of them; a pod range that another cluster has is
/// chosen anew.
async fn spec(admin: &Admin, backup: &Backup) -> Result<ClusterSpec, RestoreError> {
    let mut spec = backup.spec.clone();
    spec.control_plane.port = 0;
    let all = Api::<Cluster>::all(admin.fleet.clone()).list(&ListParams::default()).await?;
    let taken = |cluster: &Cluster| {
        let network = cluster.status.as_ref().map_or(&cluster.spec.network, |status| &status.network);
        network.pod_cidr == spec.network.pod_cidr
    };
    if all.items.iter().any(taken) {
        spec.network.pod_cidr.clear();
    }
    Ok(spec)
}

async fn fill(
    admin: &Admin,
    uid: &str,
    keep_keys: bool,
    spool: &Path,
    backup: &Backup,
    claim: &Claim,
) -> Result<u64, RestoreError> {
    let (from, to) = (layout::cluster(&backup.uid), layout::cluster(uid));
    // The claim lies in the first store: what is kept apart is cleared away with the rest if it is lost.
    let importer = |place: &Place| Importer::new(place.raw.clone());
    let mut importers: Vec<_> = admin.places.all().iter().map(importer).collect();
    importers[0] = Importer::guarded(admin.places.first().raw.clone(), claim.guard());
    let mut file = fs::File::open(spool).await?;
    let mut reader = ArchiveReader::default();
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let read = file.read(&mut piece).await?;
        if read == 0 {
            break;
        }
        reader.feed(&piece[..read]);
        while let Some(part) = reader.part()? {
            let ArchivePart::Record(key, stored) = part else { continue };
            let (old, new) = (join(&from, &key), join(&to, &key));
            let at = admin.places.route.of(&new);
            let value = match &admin.places.all()[at].sealed {
                Some(sealed) => sealed.move_value(&old, &new, &stored).await?,
                None => stored,
            };
            importers[at].put(new, value, None).await?;
        }
    }
    reader.finish()?;
    if let Some(sealed) = backup.keys.as_ref().filter(|_| keep_keys) {
        admin.secrets.put_sealed(&keys::name(&backup.uid), sealed, &keys::name(uid)).await?;
    }
    let mut count = 0;
    // The guarded one last: as long as it can be finished, nobody has cleared away the others' keys.
    for importer in importers.into_iter().rev() {
        count += importer.finish().await?;
    }
    Ok(count)
}

fn join(prefix: &str, key: &[u8]) -> Bytes {
    [prefix.as_bytes(), key].concat().into()
}
