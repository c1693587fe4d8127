//! The cache over a store in memory: what was written is seen once, in order, by whom it concerns.

use super::*;
use bytes::Bytes;
use proptest::prelude::*;
use serde_json::json;
use std::{future::poll_fn, sync::Arc, task::Poll, time::Duration};
use timonel_api::{GroupResource, Value};
use timonel_runtime::{Clock, Tasks};
use timonel_store::{MemoryStore, Op, Store, Txn};

const PODS: Columns = Columns::builtin("Pod", &["spec.nodeName"]);

struct World {
    store: Arc<MemoryStore>,
    pods: Arc<Slot>,
    tasks: Tasks,
}

fn pods() -> GroupResource {
    GroupResource { group: "".into(), resource: "pods".into() }
}

async fn world() -> World {
    let store = Arc::new(MemoryStore::new(Clock::simulated("2026-11-01T10:00:00Z".parse().unwrap())));
    over(store).await
}

async fn over(store: Arc<MemoryStore>) -> World {
    let tasks = Tasks::root("test");
    let index = |resource: &GroupResource| (*resource == pods()).then_some(0);
    let cache = Cache::start(store.clone(), &[], "/c/".into(), index, &tasks).await.unwrap();
    World { pods: cache.slot(&pods()), store, tasks }
}

fn pod(node: &str, label: &str) -> Value {
    json!({"metadata": {"labels": {"l": label}}, "spec": {"nodeName": node}}).into()
}

impl World {
    async fn write(&self, op: Op) -> u64 {
        let revision = self.store.txn(Txn { then: vec![op], ..Txn::default() }).await.unwrap().revision;
        self.pods.place().wait_newest().await.unwrap();
        revision
    }

    async fn put(&self, name: &str, node: &str, label: &str) -> u64 {
        let (key, value) = (self.pods.key("ns", name), encode(&pod(node, label), &PODS));
        self.write(Op::Put { key, value, lease: None }).await
    }

    async fn delete(&self, name: &str) -> u64 {
        self.write(Op::Delete(self.pods.key("ns", name))).await
    }

    fn names(&self, selection: &Selection) -> Vec<String> {
        self.pods.list(selection).iter().map(|entry| entry.name().to_owned()).collect()
    }
}

fn labelled(label: &'static str) -> Option<Predicate> {
    Some(Arc::new(move |entry: &Entry| timonel_api::Labels::label(entry, "l") == Some(label)))
}

/// What a watch has to tell by now.
async fn told(stream: &mut ChangeStream) -> Vec<String> {
    let mut events = Vec::new();
    poll_fn(|context| {
        loop {
            match stream.poll_next(context) {
                Poll::Ready(Ok((change, kind))) => {
                    let shown = change.shown(kind);
                    assert_eq!(shown.revision, change.revision);
                    events.push(format!("{kind:?} {}", shown.name()));
                }
                Poll::Ready(Err(end)) => {
                    events.push(format!("{end:?}"));
                    return Poll::Ready(());
                }
                Poll::Pending => return Poll::Ready(()),
            }
        }
    })
    .await;
    events
}

#[tokio::test(start_paused = true)]
async fn what_was_there_before_and_what_comes_is_seen() {
    let world = world().await;
    world.put("a", "n1", "x").await;
    let again = over(world.store.clone()).await;
    assert_eq!(again.names(&Selection::all()), ["a"]);
    let revision = again.put("b", "n2", "x").await;
    assert_eq!(again.names(&Selection::all()), ["a", "b"]);
    let entry = again.pods.get("ns", "b").unwrap();
    assert_eq!((entry.revision, entry.namespace(), entry.path()), (revision, "ns", "ns/b"));
    assert_eq!(entry.decoded().str_at(&["metadata", "resourceVersion"]), revision.to_string());
    assert_eq!(again.pods.place().delivered(), revision);
}

#[tokio::test(start_paused = true)]
async fn selections_are_parts() {
    let world = world().await;
    for (name, node, label) in [("a", "n1", "x"), ("b", "n2", "y"), ("c", "n1", "y")] {
        world.put(name, node, label).await;
    }
    let select = |trigger, predicate| world.names(&Selection { trigger, predicate });
    for (trigger, predicate, expected) in [
        (Trigger::All, None, vec!["a", "b", "c"]),
        (Trigger::All, labelled("y"), vec!["b", "c"]),
        (Trigger::Namespace("ns".into()), None, vec!["a", "b", "c"]),
        (Trigger::Namespace("n".into()), None, vec![]),
        (Trigger::Path("ns/b".into()), None, vec!["b"]),
        (Trigger::Path("ns/b".into()), labelled("x"), vec![]),
        (Trigger::Indexed("n1".into()), None, vec!["a", "c"]),
    ] {
        assert_eq!(select(trigger, predicate), expected);
    }
    world.put("a", "n2", "x").await;
    world.delete("c").await;
    assert!(select(Trigger::Indexed("n1".into()), None).is_empty());
    assert_eq!(select(Trigger::Indexed("n2".into()), None), ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn a_watcher_hears_what_concerns_it() {
    let world = world().await;
    let watch = |trigger, predicate| world.pods.watch(&Selection { trigger, predicate }, WatchStart::Now).unwrap().1;
    let mut all = watch(Trigger::All, None);
    let mut on_node = watch(Trigger::Indexed("n1".into()), Some(Arc::new(|entry: &Entry| entry.field(0) == "n1")));
    let mut one = watch(Trigger::Path("ns/b".into()), None);
    let mut labels = watch(Trigger::Namespace("ns".into()), labelled("x"));
    world.put("a", "n1", "x").await;
    world.put("a", "n2", "x").await;
    world.put("b", "n1", "y").await;
    world.put("a", "n2", "y").await;
    world.delete("b").await;
    assert_eq!(told(&mut all).await, ["Added a", "Modified a", "Added b", "Modified a", "Deleted b"]);
    assert_eq!(told(&mut on_node).await, ["Added a", "Deleted a", "Added b", "Deleted b"]);
    assert_eq!(told(&mut one).await, ["Added b", "Deleted b"]);
    assert_eq!(told(&mut labels).await, ["Added a", "Modified a", "Deleted a"]);
    drop((all, on_node, one, labels));
    assert!(!world.pods.is_watched(), "a watch that is dropped is forgotten");
}

#[tokio::test(start_paused = true)]
async fn a_watch_may_start_in_the_past() {
    let world = world().await;
    let first = world.put("a", "n1", "x").await;
    world.put("b", "n1", "x").await;
    world.delete("a").await;
    let selection = Selection::all();
    let (none, mut stream) = world.pods.watch(&selection, WatchStart::After(first)).unwrap();
    assert!(none.is_empty());
    assert_eq!(told(&mut stream).await, ["Added b", "Deleted a"]);
    let restarted = over(world.store.clone()).await;
    let refused = restarted.pods.watch(&selection, WatchStart::After(first)).unwrap_err();
    assert!(refused.to_string().starts_with("too old resource version: "), "{refused}");
    assert!(restarted.tasks.shutdown(Duration::from_secs(1)).await);
    assert_eq!(told(&mut restarted.pods.watch(&selection, WatchStart::Now).unwrap().1).await, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_slow_watcher_is_let_go_and_others_are_not() {
    let world = world().await;
    let selection = Selection::all();
    let (_, mut slow) = world.pods.watch(&selection, WatchStart::Now).unwrap();
    let (_, mut quick) = world.pods.watch(&selection, WatchStart::Now).unwrap();
    let mut heard = 0;
    for n in 0..2_100 {
        world.put("a", "n1", &n.to_string()).await;
        heard += told(&mut quick).await.len();
    }
    assert_eq!(heard, 2_100);
    assert_eq!(told(&mut slow).await.last().unwrap(), "TooSlow");
}

#[tokio::test(start_paused = true)]
async fn writes_of_others_do_not_hold_a_read_up() {
    let world = world().await;
    let op = Op::Put { key: Bytes::from("/other/x"), value: Bytes::from("1"), lease: None };
    let revision = world.write(op).await;
    assert!(world.pods.place().delivered() >= revision);
    let behind = world.pods.place().wait_until(revision + 5).await.unwrap_err();
    assert!(matches!(behind, CacheError::Behind { .. }), "{behind}");
}

proptest! {
    /// A watcher that applies what it hears has what a list shows.
    #[test]
    fn a_watcher_follows_the_list(steps in proptest::collection::vec((0u8..4, 0u8..3, 0u8..3, any::<bool>()), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let world = world().await;
            let selection = Selection { trigger: Trigger::All, predicate: labelled("1") };
            let (_, mut stream) = world.pods.watch(&selection, WatchStart::Now).unwrap();
            let mut followed = std::collections::BTreeSet::new();
            for (name, node, label, delete) in steps {
                let name = format!("p{name}");
                if delete {
                    world.delete(&name).await;
                } else {
                    world.put(&name, &format!("n{node}"), &label.to_string()).await;
                }
                for event in told(&mut stream).await {
                    let (kind, name) = event.split_once(' ').unwrap();
                    let was_new = if kind == "Deleted" { followed.remove(name) } else { followed.insert(name.to_owned()) };
                    assert_eq!(was_new, kind != "Modified", "{event}");
                }
                assert_eq!(followed.iter().cloned().collect::<Vec<_>>(), world.names(&selection));
            }
        });
    }
}
