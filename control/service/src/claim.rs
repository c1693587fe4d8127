//! Who restores a cluster: a claim in the store, bound to a lease that ends with its holder. As long as it is there the
//! half-made cluster is somebody's; without it nobody comes back for it, and the leader clears it away. Every write of
//! a restore holds only while its claim does, so that one that was thought dead changes nothing any more.

use crate::{keys, layout, places::Places, restore::RestoreError, secrets::Secrets};
use bytes::Bytes;
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, PostParams, Preconditions},
};
use std::time::Duration;
use timonel_fleet::Cluster;
use timonel_store::{Compare, KeyRange, LeaseId, Op, RangeRequest, Store, StoreError, Txn};

/// On a Cluster whose data is being put in place: whose claim it is. Nobody opens such a cluster.
pub(crate) const RESTORING: &str = "timonel.io/restoring";
/// In place of a claim: the half-made cluster is being cleared away.
const ABANDONED: &str = "abandoned";
/// Where claims are in the store.
const CLAIMS: &str = "/restores/";
/// A claim outlives its holder for so long.
const CLAIM_SECONDS: u64 = 30;
/// How often a holder says that it lives.
const KEEP: Duration = Duration::from_secs(5);
/// How often a change of a Cluster that others change is tried.
const TRIES: usize = 8;

/// A claim that is held.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) name: String,
    lease: LeaseId,
    revision: u64,
}

fn key(name: &str) -> Bytes {
    format!("{CLAIMS}{name}").into()
}

impl Claim {
    /// Takes a claim of a name that nobody else has.
    pub(crate) async fn take(store: &impl Store, name: String) -> Result<Self, StoreError> {
        let lease = store.grant_lease(CLAIM_SECONDS).await?;
        let (key, value) = (key(&name), Bytes::new());
        let put = Op::Put { key: key.clone(), value, lease: Some(lease) };
        let compare = vec![Compare::ModRevision(key, 0)];
        let taken = store.txn(Txn { compare, then: vec![put], ..Txn::default() }).await?;
        if !taken.succeeded {
            return Err(StoreError::Unavailable(format!("claim {name} is taken")));
        }
        Ok(Self { name, lease, revision: taken.revision })
    }

    /// What every write of the restore is bound to.
    pub(crate) fn guard(&self) -> Compare {
        Compare::ModRevision(key(&self.name), self.revision)
    }

    /// Keeps the claim for as long as it is polled; ends when it is lost.
    pub(crate) async fn keep(&self, store: &impl Store) -> StoreError {
        loop {
            tokio::time::sleep(KEEP).await;
            match store.keep_alive(self.lease).await {
                Ok(_) | Err(StoreError::Unavailable(_)) => {}
                Err(lost) => return lost,
            }
        }
    }

    /// Gives it back; by itself it would end a little later.
    pub(crate) async fn release(self, store: &impl Store) {
        if let Err(error) = store.revoke_lease(self.lease).await {
            tracing::debug!(%error, claim = self.name, "a claim ends by itself");
        }
    }
}

/// Whether a cluster's data is still being put in place.
pub(crate) fn is_restoring(cluster: &Cluster) -> bool {
    cluster.annotations().contains_key(RESTORING)
}

/// Whether nobody comes back for a cluster whose data is being put in place.
pub(crate) async fn is_abandoned(store: &impl Store, cluster: &Cluster) -> Result<bool, StoreError> {
    let Some(claim) = cluster.annotations().get(RESTORING) else { return Ok(false) };
    let request = RangeRequest { range: KeyRange::key(key(claim)), revision: None, limit: 1 };
    Ok(claim == ABANDONED || store.range(request).await?.items.is_empty())
}

/// All data is in place: from here on the cluster is like any other.
///
/// # Errors
/// When it is no longer the claim's.
pub(crate) async fn let_go(clusters: &Api<Cluster>, name: &str, claim: &Claim) -> Result<(), RestoreError> {
    let ours = |cluster: &Cluster| cluster.annotations().get(RESTORING) == Some(&claim.name);
    change(clusters, name, ours, |cluster| drop(cluster.annotations_mut().remove(RESTORING))).await
}

/// Clears away what a restore has made that nobody comes back for.
///
/// # Errors
/// When it cannot be done now: it is done again.
pub(crate) async fn clear_away(
    fleet: &Client,
    places: &Places,
    secrets: &Secrets,
    cluster: &Cluster,
) -> Result<(), RestoreError> {
    let (project, name, uid) =
        (cluster.namespace().unwrap_or_default(), cluster.name_any(), cluster.uid().unwrap_or_default());
    let clusters = Api::<Cluster>::namespaced(fleet.clone(), &project);
    let own = cluster.clone();
    let still = move |found: &Cluster| {
        let value = found.annotations().get(RESTORING);
        found.uid() == own.uid()
            && value.is_some_and(|value| value == ABANDONED || own.annotations().get(RESTORING) == Some(value))
    };
    // First of all it is marked: whoever holds the claim after all cannot let it go from here on.
    change(&clusters, &name, still, |cluster| {
        cluster.annotations_mut().insert(RESTORING.to_owned(), ABANDONED.to_owned());
    })
    .await?;
    places.delete_prefix(&layout::cluster(&uid)).await?;
    keys::forget(secrets, &uid).await?;
    let preconditions = Preconditions { uid: Some(uid), resource_version: None };
    let how = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::background() };
    clusters.delete(&name, &how).await?;
    tracing::warn!(project, cluster = name, "a restore that did not end has been cleared away");
    Ok(())
}

/// Changes a Cluster fenced by its version, if it `may` be.
async fn change(
    clusters: &Api<Cluster>,
    name: &str,
    may: impl Fn(&Cluster) -> bool,
    how: impl Fn(&mut Cluster),
) -> Result<(), RestoreError> {
    for _ in 0..TRIES {
        let mut cluster = clusters.get(name).await?;
        if !may(&cluster) {
            break;
        }
        how(&mut cluster);
        match clusters.replace(name, &PostParams::default(), &cluster).await {
            Ok(_) => return Ok(()),
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(RestoreError::Lost)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use timonel_fleet::ClusterSpec;
    use timonel_runtime::Clock;
    use timonel_store::MemoryStore;

    #[tokio::test]
    async fn a_claim_is_one_holders_and_what_nobody_claims_is_abandoned() {
        let store = Arc::new(MemoryStore::new(Clock::system()));
        let claim = Claim::take(&store, "one".into()).await.unwrap();
        assert!(Claim::take(&store, "one".into()).await.is_err());
        let mut cluster = Cluster::new("default", "a", ClusterSpec::default());
        assert!(!is_restoring(&cluster) && !is_abandoned(&store, &cluster).await.unwrap());
        for (value, abandoned) in [("one", false), ("two", true), (ABANDONED, true), ("2026-11-21T00:00:00Z", true)] {
            cluster.annotations_mut().insert(RESTORING.into(), value.into());
            assert!(is_restoring(&cluster));
            assert_eq!(is_abandoned(&store, &cluster).await.unwrap(), abandoned, "{value}");
        }
        let write = |store: &Arc<MemoryStore>, claim: &Claim| {
            let put = Op::Put { key: "/x".into(), value: Bytes::new(), lease: None };
            let (store, compare) = (store.clone(), vec![claim.guard()]);
            async move { store.txn(Txn { compare, then: vec![put], ..Txn::default() }).await.unwrap().succeeded }
        };
        assert!(write(&store, &claim).await);
        store.revoke_lease(claim.lease).await.unwrap();
        assert!(!write(&store, &claim).await, "a lost claim writes nothing");
        assert!(matches!(claim.keep(&store).await, StoreError::NoLease));
    }
}
