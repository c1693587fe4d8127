//! Turns the watches of an API server into updates of the scheduler's state.

use crate::core::Update;
use futures::{Stream, StreamExt, stream::BoxStream};
use k8s_openapi::api::{
    core::v1::{Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod},
    policy::v1::PodDisruptionBudget,
    storage::v1::{CSINode, StorageClass},
};
use kube::{
    Api, Client, Resource, ResourceExt,
    runtime::watcher::{self, Event, watcher},
};
use serde::de::DeserializeOwned;
use std::{collections::BTreeSet, fmt::Debug, time::Duration};

/// Pause after a failed list or watch.
const RETRY: Duration = Duration::from_secs(1);
/// Objects of one page of a list.
const PAGE: u32 = 500;
/// Kinds that are watched.
pub(crate) const KINDS: usize = 8;

/// News from the API server.
#[derive(Debug)]
pub(crate) enum News {
    Update(Update),
    /// One more kind is known as a whole.
    Synced,
}

/// Everything that the scheduler has to know, as it changes.
pub(crate) fn news(client: &Client) -> BoxStream<'static, News> {
    let running = watcher::Config::default().fields("status.phase!=Succeeded,status.phase!=Failed").page_size(PAGE);
    let all = || watcher::Config::default().page_size(PAGE);
    let streams = [
        kind(Api::<Pod>::all(client.clone()), running, pod),
        kind(Api::<Node>::all(client.clone()), all(), |key, node: Option<Node>| Update::Node(key, node.map(Box::new))),
        kind(Api::<PersistentVolumeClaim>::all(client.clone()), all(), |key, claim: Option<PersistentVolumeClaim>| {
            Update::Claim(key, claim.map(Box::new))
        }),
        kind(Api::<PersistentVolume>::all(client.clone()), all(), |key, volume: Option<PersistentVolume>| {
            Update::Volume(key, volume.map(Box::new))
        }),
        kind(Api::<StorageClass>::all(client.clone()), all(), |key, class: Option<StorageClass>| {
            Update::Class(key, class.map(Box::new))
        }),
        kind(Api::<CSINode>::all(client.clone()), all(), |key, csi: Option<CSINode>| {
            Update::Csi(key, csi.map(Box::new))
        }),
        kind(Api::<Namespace>::all(client.clone()), all(), |key, namespace: Option<Namespace>| {
            Update::Namespace(key, namespace.map(Box::new))
        }),
        kind(Api::<PodDisruptionBudget>::all(client.clone()), all(), |key, budget: Option<PodDisruptionBudget>| {
            Update::Budget(key, budget.map(Box::new))
        }),
    ];
    let streams: [BoxStream<'static, News>; KINDS] = streams;
    futures::stream::select_all(streams).boxed()
}

fn pod(key: String, pod: Option<Pod>) -> Update {
    pod.map_or(Update::PodGone(key), |pod| Update::Pod(Box::new(pod)))
}

/// A pod's unique identity; of anything else `namespace/name`, or the name.
fn key<K: Resource<DynamicType = ()>>(object: &K) -> String {
    if K::kind(&()) == "Pod" {
        return object.meta().uid.clone().unwrap_or_default();
    }
    match object.namespace() {
        Some(namespace) => format!("{namespace}/{}", object.name_any()),
        None => object.name_any(),
    }
}

fn kind<K>(
    api: Api<K>,
    config: watcher::Config,
    update: impl Fn(String, Option<K>) -> Update + Send + 'static,
) -> BoxStream<'static, News>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let events = watcher(api, config).then(|event| async move {
        if let Err(error) = &event {
            tracing::warn!(kind = %K::kind(&()), %error, "cannot watch; trying again");
            tokio::time::sleep(RETRY).await;
        }
        event
    });
    flatten(events.filter_map(|event| std::future::ready(event.ok())), update).boxed()
}

/// Updates out of events; what a new list lacks is gone.
fn flatten<K: Resource<DynamicType = ()>>(
    events: impl Stream<Item = Event<K>>,
    update: impl Fn(String, Option<K>) -> Update,
) -> impl Stream<Item = News> {
    let (mut known, mut listed, mut synced) = (BTreeSet::new(), BTreeSet::new(), false);
    events.flat_map(move |event| {
        let mut news = Vec::new();
        match event {
            Event::Init => listed = BTreeSet::new(),
            Event::InitApply(object) => {
                let key = key(&object);
                listed.insert(key.clone());
                news.push(News::Update(update(key, Some(object))));
            }
            Event::InitDone => {
                for gone in known.difference(&listed) {
                    news.push(News::Update(update(String::clone(gone), None)));
                }
                known = std::mem::take(&mut listed);
                if !std::mem::replace(&mut synced, true) {
                    news.push(News::Synced);
                }
            }
            Event::Apply(object) => {
                let key = key(&object);
                known.insert(key.clone());
                news.push(News::Update(update(key, Some(object))));
            }
            Event::Delete(object) => {
                let key = key(&object);
                known.remove(&key);
                news.push(News::Update(update(key, None)));
            }
        }
        futures::stream::iter(news)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_a_new_list_lacks_is_gone() {
        let node = |name: &str| Node {
            metadata: kube::core::ObjectMeta { name: Some(name.into()), ..Default::default() },
            ..Node::default()
        };
        let events = vec![
            Event::Init,
            Event::InitApply(node("a")),
            Event::InitApply(node("b")),
            Event::InitDone,
            Event::Apply(node("c")),
            Event::Delete(node("a")),
            Event::Init,
            Event::InitApply(node("c")),
            Event::InitDone,
        ];
        let update = |key, node: Option<Node>| Update::Node(key, node.map(Box::new));
        let news: Vec<_> = flatten(futures::stream::iter(events), update).collect().await;
        let text: Vec<_> = news
            .iter()
            .map(|news| match news {
                News::Update(Update::Node(name, node)) => format!("{}{name}", if node.is_some() { '+' } else { '-' }),
                other => format!("{other:?}"),
            })
            .collect();
        assert_eq!(text, ["+a", "+b", "Synced", "+c", "-a", "+c", "-b"]);
    }
}
