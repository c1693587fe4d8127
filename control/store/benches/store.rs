//! What the embedded store costs: writes per second and CPU per write with a real flush, ranges, watch fan-out.
//! Prints a table; nothing here is a test. `cargo bench -p timonel-store`; TMPDIR chooses the disk.

use bytes::Bytes;
use futures::{StreamExt, future::join_all};
use std::{sync::Arc, time::Instant};
use timonel_runtime::{OnError, Tasks};
use timonel_store::{EmbeddedConfig, EmbeddedStore, KeyRange, Op, RangeRequest, Store, StoreError, Txn};

const VALUE_BYTES: usize = 5000;

/// CPU time of this process so far, in seconds.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let read = |path: std::path::PathBuf| std::fs::read_to_string(path.join("schedstat")).unwrap_or(stat.clone());
    let nanoseconds = |text: String| text.split(' ').next().and_then(|part| part.parse::<f64>().ok()).unwrap_or(0.0);
    threads.map(|thread| nanoseconds(read(thread.path()))).sum::<f64>() / 1e9
}

fn put(key: String) -> Txn {
    let value = Bytes::from(vec![b'x'; VALUE_BYTES]);
    Txn { then: vec![Op::Put { key: key.into(), value, lease: None }], ..Txn::default() }
}

fn report(what: &str, operations: usize, started: Instant, before: f64) {
    let (wall, used) = (started.elapsed().as_secs_f64(), cpu() - before);
    let count = operations as f64;
    println!("{what:42} {:>10.0} /s {:>9.1} us CPU each", count / wall, used / count * 1e6);
}

async fn writes(tasks: &Tasks, store: &Arc<EmbeddedStore>, in_flight: usize, total: usize, what: &str) {
    let (started, before) = (Instant::now(), cpu());
    let done = (0..in_flight).map(|writer| {
        let (store, what) = (Arc::clone(store), what.to_owned());
        let (finished, wait) = tokio::sync::oneshot::channel::<()>();
        tasks.spawn("writer", OnError::EndScope, async move {
            for number in 0..total / in_flight {
                store.txn(put(format!("/{what}/{writer}/{number}"))).await?;
            }
            drop(finished);
            Ok::<_, StoreError>(())
        });
        wait
    });
    join_all(done.collect::<Vec<_>>()).await;
    report(&format!("{what}, 5 KB, {in_flight} in flight"), total, started, before);
}

async fn ranges(store: &EmbeddedStore, what: &str) {
    const TIMES: usize = 10;
    let (started, before) = (Instant::now(), cpu());
    for _ in 0..TIMES {
        let range = KeyRange::prefix("/create64/");
        let found = store.range(RangeRequest { range, revision: None, limit: 0 }).await.expect("it works").items.len();
        assert_eq!(found, 9984);
    }
    report(what, TIMES, started, before);
}

async fn fan_out(tasks: &Tasks, store: &Arc<EmbeddedStore>) {
    const WATCHERS: usize = 500;
    const WRITES: usize = 512;
    let mut waits = Vec::new();
    let start = store.revision().await.expect("it works");
    for _ in 0..WATCHERS {
        let mut watch = store.watch(KeyRange::prefix("/fan"), 0).await.expect("it works");
        let (finished, wait) = tokio::sync::oneshot::channel::<()>();
        tasks.spawn("watcher", OnError::EndScope, async move {
            let mut seen = 0;
            while seen < WRITES {
                seen += watch.next().await.ok_or(StoreError::Closed)??.events.len();
            }
            drop(finished);
            Ok::<_, StoreError>(())
        });
        waits.push(wait);
    }
    let (started, before) = (Instant::now(), cpu());
    writes(tasks, store, 64, WRITES, "fan").await;
    join_all(waits).await;
    assert_eq!(store.revision().await.expect("it works"), start + WRITES as u64);
    report("event to each of 500 watchers", WATCHERS * WRITES, started, before);
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = Arc::new(EmbeddedStore::open(directory.path(), EmbeddedConfig::default()).expect("a new store"));
    let tasks = Tasks::root("bench");
    writes(&tasks, &store, 1, 1000, "create1").await;
    writes(&tasks, &store, 64, 9984, "create64").await;
    writes(&tasks, &store, 64, 9984, "create64").await;
    writes(&tasks, &store, 1000, 20_000, "create1000").await;
    ranges(&store, "range of 10,000, 50 MB").await;
    fan_out(&tasks, &store).await;
    let (started, before) = (Instant::now(), cpu());
    store.close();
    drop(store);
    report("close", 1, started, before);
    let (started, before) = (Instant::now(), cpu());
    let store = EmbeddedStore::open(directory.path(), EmbeddedConfig::default()).expect("it opens again");
    report(&format!("open, {} MB", store.stored_bytes() >> 20), 1, started, before);
    ranges(&store, "range of 10,000, 50 MB, after opening").await;
    tasks.shutdown(std::time::Duration::from_secs(1)).await;
}
