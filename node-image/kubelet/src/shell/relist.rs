//! Notices what happens to containers: the runtime's events where it offers them, and a list now and then in case
//! one was lost. Wakes workers; never decides.

use super::kubelet::{Kubelet, Shared};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use timonel_cri::events::TaskEvent;
use timonel_runtime::OnError;

/// Time between lists while events flow, and without.
const CALM: Duration = Duration::from_secs(10);
const BLIND: Duration = Duration::from_secs(1);
/// The runtime's own view may follow its events a little later.
const ECHOES: [Duration; 3] = [Duration::from_millis(25), Duration::from_millis(150), Duration::from_secs(1)];

pub(crate) fn run(shared: &Arc<Shared>) {
    let flowing = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (this, flag) = (shared.clone(), flowing.clone());
    shared.tasks.spawn("runtime events", OnError::Log, async move {
        loop {
            if let Err(error) = follow(&this, &flag).await {
                tracing::debug!(%error, "runtime events");
            }
            flag.store(false, std::sync::atomic::Ordering::Release);
            tokio::time::sleep(BLIND).await;
        }
        #[allow(unreachable_code, reason = "gives the block its error type")]
        Ok::<(), std::convert::Infallible>(())
    });
    let this = shared.clone();
    shared.tasks.spawn("relist", OnError::Log, async move {
        let mut known = BTreeMap::new();
        loop {
            relist(&this, &mut known).await;
            let calm = flowing.load(std::sync::atomic::Ordering::Acquire);
            tokio::time::sleep(if calm { CALM } else { BLIND }).await;
        }
        #[allow(unreachable_code, reason = "gives the block its error type")]
        Ok::<(), std::convert::Infallible>(())
    });
}

async fn follow(shared: &Arc<Shared>, flowing: &std::sync::atomic::AtomicBool) -> Result<(), FollowError> {
    // A runtime without this service refuses at once; silence means that there is nothing to tell.
    let subscribed = shared.runtime.subscribe();
    tokio::pin!(subscribed);
    let mut stream = match tokio::time::timeout(BLIND, &mut subscribed).await {
        Ok(answer) => answer?,
        Err(_) => {
            flowing.store(true, std::sync::atomic::Ordering::Release);
            subscribed.await?
        }
    };
    flowing.store(true, std::sync::atomic::Ordering::Release);
    while let Some(envelope) =
        stream.message().await.map_err(|status| FollowError::Stream(status.message().to_owned()))?
    {
        let Some(event) = envelope.event else { continue };
        let Ok(event) = <TaskEvent as prost::Message>::decode(event.value.as_slice()) else { continue };
        let Some(uid) = shared.owner(&event.container_id) else { continue };
        shared.wake(&uid);
        if envelope.topic != "/tasks/start" {
            let this = shared.clone();
            shared.tasks.spawn("echo", OnError::Log, async move {
                for pause in ECHOES {
                    tokio::time::sleep(pause).await;
                    this.wake(&uid);
                }
                Ok::<(), std::convert::Infallible>(())
            });
        }
    }
    Ok(())
}

#[derive(Debug, thiserror::Error)]
enum FollowError {
    #[error("subscribe")]
    Subscribe(#[from] super::runtime::RuntimeError),
    #[error("stream: {0}")]
    Stream(String),
}

/// State of everything by id, with the pod's UID.
type Known = BTreeMap<String, (i32, String)>;

async fn relist(shared: &Arc<Shared>, known: &mut Known) {
    let lists = tokio::try_join!(shared.runtime.sandboxes(None), shared.runtime.containers(None));
    let (sandboxes, containers) = match lists {
        Ok(lists) => lists,
        Err(error) => {
            tracing::debug!(%error, "relist");
            return;
        }
    };
    let uid = |labels: &std::collections::HashMap<String, String>| {
        labels.get(crate::decide::names::POD_UID).cloned().unwrap_or_default()
    };
    let mut fresh: Known = sandboxes.iter().map(|one| (one.id.clone(), (one.state, uid(&one.labels)))).collect();
    fresh.extend(containers.iter().map(|one| (one.id.clone(), (one.state, uid(&one.labels)))));
    let changed = fresh.iter().filter(|(id, state)| known.get(*id) != Some(*state));
    let gone = known.iter().filter(|(id, _)| !fresh.contains_key(*id));
    let mut pods: Vec<&String> = changed.chain(gone).map(|(_, (_, uid))| uid).collect();
    pods.sort();
    pods.dedup();
    let strangers = pods.iter().any(|uid| !uid.is_empty() && !shared.pods.lock().contains_key(*uid));
    pods.iter().for_each(|uid| shared.wake(uid));
    if strangers && shared.listed() {
        Kubelet::of(shared).adopt().await;
    }
    *known = fresh;
}
