//! Objects of one kind, kept by a watch; every change says "look again" and nothing more.

use futures::{StreamExt, TryStreamExt};
use kube::{
    Api, Resource,
    runtime::{
        WatchStreamExt,
        reflector::{self, Store},
        utils::Backoff,
        watcher,
    },
};
use serde::de::DeserializeOwned;
use std::{convert::Infallible, fmt::Debug, future::ready, sync::Arc, time::Duration};
use timonel_runtime::{OnError, Tasks};
use tokio::sync::Notify;

/// Pauses after a failed watch. Without jitter: chance would be a source of its own, and each cluster's watches fail
/// at their own times.
const FIRST_RETRY: Duration = Duration::from_millis(800);
const LONGEST_RETRY: Duration = Duration::from_secs(30);
/// Objects asked for at once.
const PAGE: u32 = 500;

/// The next pause after a failure.
#[derive(Debug)]
struct Retry(Duration);

impl Iterator for Retry {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = self.0;
        self.0 = (pause * 2).min(LONGEST_RETRY);
        Some(pause)
    }
}

impl Backoff for Retry {
    fn reset(&mut self) {
        self.0 = FIRST_RETRY;
    }
}

/// A kind's objects.
pub(crate) struct Watched<K: Resource<DynamicType = ()> + 'static>(Store<K>);

impl<K> Watched<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    /// Begins to watch, for as long as `tasks` live.
    pub(crate) fn begin(api: Api<K>, tasks: &Tasks, changed: &Arc<Notify>) -> Self {
        let (store, writer) = reflector::store();
        let changed = Arc::clone(changed);
        let stream = watcher(api, watcher::Config::default().page_size(PAGE))
            .backoff(Retry(FIRST_RETRY))
            .modify(|object| object.meta_mut().managed_fields = None)
            .reflect(writer);
        let name = format!("watch {}", K::plural(&()));
        tasks.spawn(&name, OnError::Log, async move {
            let each = |event: Result<watcher::Event<K>, watcher::Error>| {
                match event {
                    Ok(_) => changed.notify_one(),
                    Err(error) => tracing::debug!(kind = %K::kind(&()), %error, "watch interrupted"),
                }
                ready(())
            };
            stream.into_stream().for_each(each).await;
            Ok::<(), Infallible>(())
        });
        Self(store)
    }

    /// Waits for the first complete list.
    pub(crate) async fn ready(&self) {
        if self.0.wait_until_ready().await.is_err() {
            // The watch ended with its scope, and so does whoever waits here.
            std::future::pending::<()>().await;
        }
    }

    /// The objects, sorted by namespace and name.
    pub(crate) fn all(&self) -> Vec<Arc<K>> {
        let mut all = self.0.state();
        all.sort_by(|a, b| (&a.meta().namespace, &a.meta().name).cmp(&(&b.meta().namespace, &b.meta().name)));
        all
    }
}
