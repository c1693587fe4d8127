//! Objects of one kind kept by a watch, for parts that look at everything again whenever something changed. Decides
//! nothing and filters nothing.

use crate::{OnError, Tasks};
use futures::{StreamExt, TryStreamExt};
use kube::{
    Api, Client, Resource,
    runtime::{
        WatchStreamExt,
        reflector::{self, Store, reflector},
        watcher,
    },
};
use serde::de::DeserializeOwned;
use std::{convert::Infallible, fmt::Debug, sync::Arc};
use tokio::sync::Notify;

/// Watches a kind in all namespaces for as long as `tasks` live; every change says so through `changed`. A watch that
/// breaks backs off and goes on, and what was last known stays.
pub fn reflect<K>(client: &Client, tasks: &Tasks, changed: &Arc<Notify>) -> Store<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let (reader, writer) = reflector::store();
    let watch = watcher(Api::<K>::all(client.clone()), watcher::Config::default()).default_backoff();
    let changed = Arc::clone(changed);
    tasks.spawn(&K::plural(&()), OnError::EndScope, async move {
        let mut events = reflector(writer, watch).boxed();
        loop {
            match events.try_next().await {
                Ok(Some(_)) => changed.notify_one(),
                Ok(None) => return Ok::<_, Infallible>(()),
                Err(error) => tracing::debug!(%error, "watch interrupted"),
            }
        }
    });
    reader
}
