//! What every engine must do: one list of checks, run against each of them.

use crate::{
    Compare, Event, EventKind, KeyRange, KeyValue, Lane, MAX_TXN_CHANGES, MAX_TXN_OPS, MAX_VALUE_BYTES, Op, OpResult,
    RangeRequest, Revision, Store, StoreError, Txn, TxnResult, WatchStream, delete_prefix,
};
use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use std::time::Duration;

/// Longest wait for something that must come.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn put(key: &str, value: &str) -> Op {
    Op::Put {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
        lease: None,
    }
}

pub(crate) fn delete(key: &str) -> Op {
    Op::Delete(Bytes::copy_from_slice(key.as_bytes()))
}

pub(crate) fn key(key: &str) -> Bytes {
    Bytes::copy_from_slice(key.as_bytes())
}

pub(crate) async fn write(store: &impl Store, then: Vec<Op>) -> TxnResult {
    store.txn(Txn { then, ..Txn::default() }).await.unwrap()
}

pub(crate) async fn read(store: &impl Store, range: KeyRange, revision: Option<Revision>) -> Vec<KeyValue> {
    store.range(RangeRequest { range, revision, limit: 0 }).await.unwrap().items
}

/// Keys and values, for short comparisons.
fn pairs(items: &[KeyValue]) -> Vec<String> {
    let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    items.iter().map(|item| format!("{}={}", text(&item.key), text(&item.value))).collect()
}

/// Every event until the watch is at `revision`.
pub(crate) async fn until(stream: &mut WatchStream, revision: Revision) -> Vec<Event> {
    let collect = async {
        let mut events = Vec::new();
        let mut last = 0;
        while last < revision {
            let batch = stream.next().await.expect("a watch goes on").unwrap();
            assert!(batch.revision >= last, "revisions of a watch do not fall");
            last = batch.revision;
            events.extend(batch.events);
        }
        events
    };
    tokio::time::timeout(PATIENCE, collect).await.expect("the watch delivers")
}

fn text(events: &[Event]) -> Vec<String> {
    let one = |event: &Event| {
        let key = String::from_utf8_lossy(&event.current.key);
        let previous = event.previous.as_ref().map(|previous| String::from_utf8_lossy(&previous.value).into_owned());
        let value = String::from_utf8_lossy(&event.current.value);
        let kind = if event.kind == EventKind::Put { "put" } else { "delete" };
        format!("{} {kind} {key}={value} was {}", event.current.mod_revision, previous.unwrap_or("-".into()))
    };
    events.iter().map(one).collect()
}

pub(crate) async fn revisions_and_versions(store: impl Store) {
    let start = store.revision().await.unwrap();
    assert_eq!(write(&store, vec![put("a", "1"), put("b", "1")]).await.revision, start + 1);
    let again = write(&store, vec![put("a", "2")]).await;
    assert_eq!(again.revision, start + 2);
    let OpResult::Put(Some(before)) = &again.results[0] else { panic!("{again:?}") };
    assert_eq!((&before.value[..], before.version, before.mod_revision), (&b"1"[..], 1, start + 1));
    let found = &read(&store, KeyRange::key("a"), None).await[0];
    assert_eq!((found.create_revision, found.mod_revision, found.version), (start + 1, start + 2, 2));
    assert_eq!(write(&store, vec![delete("absent")]).await.revision, start + 2, "nothing changed");
    write(&store, vec![delete("a")]).await;
    write(&store, vec![put("a", "3")]).await;
    let found = &read(&store, KeyRange::key("a"), None).await[0];
    assert_eq!((found.create_revision, found.mod_revision, found.version), (start + 4, start + 4, 1));
    assert_eq!(store.revision().await.unwrap(), start + 4);
}

pub(crate) async fn comparisons(store: impl Store) {
    let first = write(&store, vec![put("a", "1")]).await.revision;
    let cases = [
        (Compare::ModRevision(key("a"), first), true),
        (Compare::ModRevision(key("a"), first + 1), false),
        (Compare::ModRevision(key("a"), 0), false),
        (Compare::ModRevision(key("b"), 0), true),
        (Compare::ModRevision(key("b"), 1), false),
        (Compare::Value(key("a"), key("1")), true),
        (Compare::Value(key("a"), key("2")), false),
        (Compare::Value(key("b"), key("")), false),
    ];
    for (compare, holds) in cases {
        let name = format!("{compare:?}");
        let txn = Txn {
            compare: vec![Compare::ModRevision(key("a"), first), compare],
            then: vec![Op::Get(key("a"))],
            otherwise: vec![Op::Get(key("b"))],
            lane: Lane::Prompt,
        };
        let result = store.txn(txn).await.unwrap();
        assert_eq!(result.succeeded, holds, "{name}");
        let OpResult::Got(found) = &result.results[0] else { panic!("{result:?}") };
        assert_eq!(found.is_some(), holds, "{name}");
    }
    let stale = Txn {
        compare: vec![Compare::ModRevision(key("a"), 0)],
        then: vec![put("a", "lost")],
        otherwise: vec![put("b", "kept")],
        lane: Lane::Batched,
    };
    assert_eq!(store.txn(stale).await.unwrap().revision, first + 1);
    assert_eq!(pairs(&read(&store, KeyRange::all(), None).await), ["a=1", "b=kept"]);
}

pub(crate) async fn transactions_see_themselves(store: impl Store) {
    write(&store, vec![put("a", "1"), put("c", "1")]).await;
    let steps = vec![put("a", "2"), Op::Get(key("a")), delete("c"), Op::Get(key("c")), Op::Get(key("d"))];
    let result = write(&store, steps).await;
    let seen: Vec<_> = result
        .results
        .iter()
        .map(|result| match result {
            OpResult::Put(found) | OpResult::Got(found) => pairs(found.as_slice()).join(","),
            OpResult::Deleted(found) => pairs(found).join(","),
        })
        .collect();
    assert_eq!(seen, ["a=1", "a=2", "c=1", "", ""]);
    let range = write(&store, vec![put("b", "1"), put("bb", "1"), put("c", "1")]).await.revision;
    let gone = write(&store, vec![Op::DeleteRange(KeyRange::prefix("b")), put("a", "3")]).await;
    assert_eq!(gone.revision, range + 1);
    let OpResult::Deleted(found) = &gone.results[0] else { panic!("{gone:?}") };
    assert_eq!(pairs(found), ["b=1", "bb=1"]);
    assert_eq!(pairs(&read(&store, KeyRange::all(), None).await), ["a=3", "c=1"]);
}

pub(crate) async fn bounds(store: impl Store) {
    let value = |bytes: usize| Op::Put { key: key("a"), value: vec![7; bytes].into(), lease: None };
    write(&store, vec![value(MAX_VALUE_BYTES)]).await;
    assert_eq!(read(&store, KeyRange::key("a"), None).await[0].value.len(), MAX_VALUE_BYTES);
    let invalid = [
        vec![value(MAX_VALUE_BYTES + 1)],
        vec![put("", "1")],
        vec![put(&"k".repeat(5000), "1")],
        vec![put("a", "1"), put("a", "2")],
        vec![put("a", "1"), delete("a")],
        vec![put("a", "1"), Op::DeleteRange(KeyRange::all())],
        (0..=MAX_TXN_OPS).map(|number| put(&number.to_string(), "1")).collect(),
        (0..8)
            .map(|number| Op::Put { key: key(&format!("k{number}")), value: vec![1; 3 << 19].into(), lease: None })
            .collect(),
    ];
    let before = store.revision().await.unwrap();
    for (case, then) in invalid.into_iter().enumerate() {
        let answer = store.txn(Txn { then, ..Txn::default() }).await;
        assert!(matches!(answer, Err(StoreError::Invalid(_))), "case {case}: {:?}", answer.map(|_| ()));
    }
    assert_eq!(store.revision().await.unwrap(), before);
    assert!(read(&store, KeyRange::key("k1"), None).await.is_empty(), "nothing of a refused transaction remains");
}

pub(crate) async fn pages_and_past(store: impl Store) {
    let mut revisions = Vec::new();
    for number in 0..10 {
        revisions.push(write(&store, vec![put(&format!("/p/{number}"), "1")]).await.revision);
    }
    write(&store, vec![delete("/p/3"), put("/q", "1")]).await;
    let newest = store.revision().await.unwrap();
    let request = |limit, revision| RangeRequest { range: KeyRange::prefix("/p/"), revision, limit };
    let cases = [
        (0, None, 9, 9, false),
        (4, None, 4, 9, true),
        (9, None, 9, 9, false),
        (3, Some(revisions[4]), 3, 5, true),
        (0, Some(revisions[9]), 10, 10, false),
    ];
    for (limit, revision, items, count, more) in cases {
        let page = store.range(request(limit, revision)).await.unwrap();
        assert_eq!((page.items.len(), page.count, page.more), (items, count, more), "{limit} at {revision:?}");
        assert_eq!(page.revision, newest);
        assert!(page.items.is_sorted_by(|a, b| a.key < b.key));
    }
    let future = store.range(request(0, Some(newest + 1))).await;
    assert!(matches!(future, Err(StoreError::Future { newest: told }) if told == newest), "{future:?}");
}

pub(crate) async fn watch_joins_past_and_present(store: impl Store) {
    let first = write(&store, vec![put("/a/1", "x"), put("/b/1", "x")]).await.revision;
    write(&store, vec![put("/a/1", "y")]).await;
    let mut all = store.watch(KeyRange::all(), first).await.unwrap();
    let mut some = store.watch(KeyRange::prefix("/a/"), first + 1).await.unwrap();
    let mut next = store.watch(KeyRange::prefix("/a/"), 0).await.unwrap();
    let mut ahead = store.watch(KeyRange::all(), first + 3).await.unwrap();
    write(&store, vec![delete("/a/1"), put("/a/2", "x")]).await;
    let last = write(&store, vec![put("/a/2", "z")]).await.revision;
    let (one, two, three, four) = (first, first + 1, first + 2, first + 3);
    let present = [
        format!("{three} delete /a/1= was y"),
        format!("{three} put /a/2=x was -"),
        format!("{four} put /a/2=z was x"),
    ];
    let past =
        [format!("{one} put /a/1=x was -"), format!("{one} put /b/1=x was -"), format!("{two} put /a/1=y was x")];
    assert_eq!(text(&until(&mut all, last).await), [&past[..], &present[..]].concat());
    assert_eq!(text(&until(&mut some, last).await), [&past[2..], &present[..]].concat());
    assert_eq!(text(&until(&mut next, last).await), present);
    assert_eq!(text(&until(&mut ahead, last).await), present[2..]);
}

pub(crate) async fn watch_tells_progress(store: impl Store) {
    let mut quiet = store.watch(KeyRange::prefix("/quiet/"), 0).await.unwrap();
    let start = store.revision().await.unwrap();
    assert!(until(&mut quiet, start).await.is_empty());
    let busy = write(&store, vec![put("/busy", "1")]).await.revision;
    assert!(quiet.next().now_or_never().is_none(), "nothing to tell unasked");
    store.request_progress(KeyRange::prefix("/quiet/")).await.unwrap();
    assert!(until(&mut quiet, busy).await.is_empty());
}

pub(crate) async fn compaction(store: impl Store) {
    compaction_with(store, true).await;
}

/// `deletions`: a watch from the first revision left has that revision's deletions; else it is refused.
pub(crate) async fn compaction_with(store: impl Store, deletions: bool) {
    let first = write(&store, vec![put("a", "1"), put("b", "1")]).await.revision;
    write(&store, vec![put("a", "2")]).await;
    write(&store, vec![delete("b")]).await;
    let last = write(&store, vec![put("a", "3"), put("c", "1")]).await.revision;
    assert!(matches!(store.compact(last + 1).await, Err(StoreError::Future { .. })));
    store.compact(first + 2).await.unwrap();
    for again in [first, first + 2] {
        assert!(matches!(store.compact(again).await, Err(StoreError::Compacted { .. })));
    }
    let old = store.range(RangeRequest { range: KeyRange::all(), revision: Some(first + 1), limit: 0 }).await;
    assert!(matches!(old, Err(StoreError::Compacted { oldest }) if oldest == first + 2), "{old:?}");
    let old = store.watch(KeyRange::all(), first + 1).await.err();
    assert!(matches!(old, Some(StoreError::Compacted { .. })), "{old:?}");
    assert_eq!(pairs(&read(&store, KeyRange::all(), Some(first + 2)).await), ["a=2"]);
    assert_eq!(pairs(&read(&store, KeyRange::all(), None).await), ["a=3", "c=1"]);
    let from = if deletions { first + 2 } else { first + 3 };
    let edge = store.watch(KeyRange::all(), first + 2).await;
    assert!(deletions || matches!(edge, Err(StoreError::Compacted { .. })));
    let mut watch = store.watch(KeyRange::all(), from).await.unwrap();
    let (three, four) = (first + 2, first + 3);
    let expected =
        [format!("{three} delete b= was -"), format!("{four} put a=3 was 2"), format!("{four} put c=1 was -")];
    assert_eq!(text(&until(&mut watch, last).await), expected[usize::from(!deletions)..]);
    store.compact(last).await.unwrap();
    write(&store, vec![put("d", "1")]).await;
    assert_eq!(pairs(&read(&store, KeyRange::all(), Some(last)).await), ["a=3", "c=1"]);
}

pub(crate) async fn leases(store: impl Store) {
    let lease = store.grant_lease(3600).await.unwrap();
    let other = store.grant_lease(3600).await.unwrap();
    assert_ne!(lease, other);
    assert_eq!(store.keep_alive(lease).await.unwrap(), 3600);
    let with = |name: &str, lease| Op::Put { key: key(name), value: key("1"), lease };
    write(&store, vec![with("a", Some(lease)), with("b", Some(lease)), with("c", Some(lease))]).await;
    write(&store, vec![with("b", None), with("c", Some(other))]).await;
    assert_eq!(read(&store, KeyRange::key("c"), None).await[0].lease, Some(other));
    let unknown = store.txn(Txn { then: vec![with("d", Some(other + 1))], ..Txn::default() }).await;
    assert!(matches!(unknown, Err(StoreError::NoLease)));
    store.revoke_lease(lease).await.unwrap();
    assert_eq!(pairs(&read(&store, KeyRange::all(), None).await), ["b=1", "c=1"]);
    assert!(matches!(store.revoke_lease(lease).await, Err(StoreError::NoLease)));
    assert!(matches!(store.keep_alive(lease).await, Err(StoreError::NoLease)));
    assert!(matches!(store.grant_lease(0).await, Err(StoreError::Invalid(_))));
    write(&store, vec![delete("c")]).await;
    let before = store.revision().await.unwrap();
    store.revoke_lease(other).await.unwrap();
    assert_eq!(store.revision().await.unwrap(), before, "it had no key left");
}

pub(crate) async fn concurrent_writers_lose_nothing(store: impl Store) {
    const WRITERS: u64 = 32;
    const INCREMENTS: u64 = 8;
    let start = store.revision().await.unwrap();
    let increment = async || {
        for _ in 0..INCREMENTS {
            loop {
                let found = read(&store, KeyRange::key("n"), None).await.pop();
                let (revision, value) = found.map_or((0, 0), |found| {
                    (found.mod_revision, std::str::from_utf8(&found.value).unwrap().parse::<u64>().unwrap())
                });
                let compare = vec![Compare::ModRevision(key("n"), revision)];
                let then = vec![put("n", &(value + 1).to_string())];
                if store.txn(Txn { compare, then, ..Txn::default() }).await.unwrap().succeeded {
                    break;
                }
            }
        }
    };
    let mut watch = store.watch(KeyRange::all(), 0).await.unwrap();
    futures::future::join_all((0..WRITERS).map(|_| increment())).await;
    let last = start + WRITERS * INCREMENTS;
    assert_eq!(store.revision().await.unwrap(), last);
    let events = until(&mut watch, last).await;
    let revisions: Vec<_> = events.iter().map(|event| event.current.mod_revision).collect();
    assert_eq!(revisions, (start + 1..=last).collect::<Vec<_>>(), "each once and in order");
}

pub(crate) async fn whole_prefixes_go(store: impl Store) {
    let mut left = MAX_TXN_CHANGES + 500;
    while left > 0 {
        let now = left.min(MAX_TXN_OPS);
        write(&store, (left - now..left).map(|number| put(&format!("/gone/{number:06}"), "1")).collect()).await;
        left -= now;
    }
    write(&store, vec![put("/gonf", "1"), put("/gon", "1")]).await;
    assert_eq!(delete_prefix(&store, "/gone/").await.unwrap(), MAX_TXN_CHANGES as u64 + 500);
    assert_eq!(pairs(&read(&store, KeyRange::all(), None).await), ["/gon=1", "/gonf=1"]);
}

/// For engines that bound what a range may hold that is deleted at once.
pub(crate) async fn too_large_ranges_stay(store: impl Store) {
    for from in (0..=MAX_TXN_CHANGES).step_by(MAX_TXN_OPS) {
        write(&store, (from..from + MAX_TXN_OPS).map(|number| put(&format!("/{number:06}"), "1")).collect()).await;
    }
    let all = store.txn(Txn { then: vec![Op::DeleteRange(KeyRange::all())], ..Txn::default() }).await;
    assert!(matches!(all, Err(StoreError::Invalid(_))), "too many for one transaction");
}

/// Runs every check on a new store from `$make`.
macro_rules! conformance {
    ($name:ident, $make:expr, [$($check:ident),* $(,)?]) => {
        mod $name {
            $(
                #[tokio::test]
                async fn $check() {
                    $crate::suite::$check($make).await;
                }
            )*
        }
    };
    ($name:ident, $make:expr) => {
        $crate::suite::conformance!($name, $make, [
            revisions_and_versions, comparisons, transactions_see_themselves, bounds, pages_and_past,
            watch_joins_past_and_present, watch_tells_progress, leases, concurrent_writers_lose_nothing,
            whole_prefixes_go,
        ]);
    };
}
pub(crate) use conformance;

mod memory {
    use crate::{MemoryStore, prefixed};
    use timonel_runtime::Clock;

    fn new() -> MemoryStore {
        MemoryStore::new(Clock::system())
    }

    super::conformance!(whole, super::new());
    super::conformance!(compacted, super::new(), [compaction, too_large_ranges_stay]);
    super::conformance!(part, crate::prefixed(super::new(), "/clusters/a/"));

    #[tokio::test]
    async fn parts_do_not_meet() {
        let whole = new();
        let (a, b) = (prefixed(whole.clone(), "/a/"), prefixed(whole.clone(), "/b/"));
        super::write(&a, vec![super::put("x", "1")]).await;
        super::write(&b, vec![super::put("x", "2")]).await;
        assert_eq!(super::pairs(&super::read(&a, crate::KeyRange::all(), None).await), ["x=1"]);
        assert_eq!(super::pairs(&super::read(&whole, crate::KeyRange::all(), None).await), ["/a/x=1", "/b/x=2"]);
        assert_eq!(crate::delete_prefix(&b, "").await.unwrap(), 1);
        assert_eq!(super::pairs(&super::read(&whole, crate::KeyRange::all(), None).await), ["/a/x=1"]);
    }

    #[tokio::test]
    async fn leases_end_at_their_time() {
        use crate::Store;
        let store = new();
        let lease = store.grant_lease(10).await.unwrap();
        let held = crate::Op::Put { key: super::key("a"), value: super::key("1"), lease: Some(lease) };
        super::write(&store, vec![held]).await;
        let now = Clock::system().now();
        store.expire_leases(now).unwrap();
        assert_eq!(super::read(&store, crate::KeyRange::all(), None).await.len(), 1);
        store.expire_leases(now.saturating_add(jiff::SignedDuration::from_secs(11)).unwrap()).unwrap();
        assert!(super::read(&store, crate::KeyRange::all(), None).await.is_empty());
    }
}

mod embedded {
    use crate::{EmbeddedConfig, EmbeddedStore};

    /// A store whose directory is gone already: the open file lives as long as the store.
    fn new(tail_bytes: usize) -> EmbeddedStore {
        let directory = tempfile::tempdir().unwrap();
        let config = EmbeddedConfig { tail_bytes, ..EmbeddedConfig::default() };
        EmbeddedStore::open(directory.path(), config).unwrap()
    }

    super::conformance!(whole, super::new(1 << 20));
    super::conformance!(compacted, super::new(1 << 20), [compaction, too_large_ranges_stay]);
    super::conformance!(without_tail, super::new(0));
    super::conformance!(compacted_without_tail, super::new(0), [compaction]);
    super::conformance!(part, crate::prefixed(super::new(1 << 20), "/clusters/a/"));
}

mod etcd {
    use crate::etcd::testing::Alone;

    macro_rules! conformance {
        ($($check:ident),* $(,)?) => {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $check() {
                    let alone = Alone::start().await;
                    super::$check(alone.store.clone()).await;
                }
            )*
        };
    }

    conformance!(
        revisions_and_versions,
        comparisons,
        transactions_see_themselves,
        bounds,
        pages_and_past,
        watch_joins_past_and_present,
        watch_tells_progress,
        leases,
        concurrent_writers_lose_nothing,
        whole_prefixes_go,
    );

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn compaction() {
        let alone = Alone::start().await;
        // By then the feed knows the member's version.
        let first = super::write(&alone.store, vec![super::put("a", "0")]).await.revision;
        super::until(&mut crate::Store::watch(&alone.store, crate::KeyRange::all(), first).await.unwrap(), first).await;
        super::compaction_with(alone.store.clone(), alone.keeps_deletions()).await;
    }
}
