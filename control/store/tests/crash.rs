//! A real process on a real disk, killed at random moments: what it acknowledged is there afterwards.

#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use bytes::Bytes;
use futures::{StreamExt, stream::FuturesUnordered};
use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};
use timonel_runtime::Entropy;
use timonel_store::{EmbeddedConfig, EmbeddedStore, EventKind, KeyRange, Lane, Op, RangeRequest, Store, Txn};

const DIRECTORY: &str = "TIMONEL_STORE_CRASH_DIRECTORY";
const WRITERS: u64 = 16;
const ROUNDS: u64 = 12;

fn config() -> EmbeddedConfig {
    let history = None;
    EmbeddedConfig { tail_bytes: 64 << 10, batch_wait: Duration::from_millis(2), history, ..EmbeddedConfig::default() }
}

fn twin(kind: &str, writer: u64, value: &str) -> Op {
    Op::Put { key: format!("/{kind}/{writer}").into(), value: Bytes::copy_from_slice(value.as_bytes()), lease: None }
}

async fn write_without_end(store: &EmbeddedStore, writer: u64, round: &str) -> ! {
    for count in 0_u64.. {
        let value = format!("{round}:{count}:{}", "x".repeat((count * 131 % 3000) as usize));
        let lane = if writer.is_multiple_of(4) { Lane::Batched } else { Lane::Prompt };
        let then = vec![twin("left", writer, &value), twin("right", writer, &value)];
        let revision = store.txn(Txn { then, lane, ..Txn::default() }).await.expect("the disk works").revision;
        let mut out = std::io::stdout().lock();
        writeln!(out, "\nack {writer} {revision} {count}").expect("the parent reads");
        out.flush().expect("the parent reads");
    }
    unreachable!("it is killed before")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the process that the test below starts and kills"]
async fn child_writes_until_killed() {
    let directory = std::env::var(DIRECTORY).expect("started by the test below");
    let store = EmbeddedStore::open(&directory, config()).unwrap();
    let round = store.revision().await.unwrap().to_string();
    let mut writers: FuturesUnordered<_> =
        (0..WRITERS).map(|writer| write_without_end(&store, writer, &round)).collect();
    writers.next().await;
}

/// Runs a child until it has acknowledged some writes, kills it, returns what it acknowledged: revision by writer.
fn run_and_kill(directory: &Path, acknowledgements: u64) -> BTreeMap<u64, u64> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_writes_until_killed", "--ignored", "--nocapture"])
        .env(DIRECTORY, directory)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut newest = BTreeMap::new();
    let mut seen = 0;
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for line in lines.map_while(Result::ok) {
        let parts: Vec<_> = line.split(' ').collect();
        // The last line may be cut short by the kill: only complete ones count.
        let ["ack", writer, revision, _count] = parts[..] else { continue };
        newest.insert(writer.parse().unwrap(), revision.parse().unwrap());
        seen += 1;
        if seen == acknowledgements {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    assert!(seen >= acknowledgements, "the child ended by itself after {seen}");
    newest
}

#[tokio::test]
async fn a_killed_process_loses_nothing_that_it_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let chance = Entropy::seeded(11);
    for round in 0..ROUNDS {
        let acknowledged = run_and_kill(directory.path(), 1 + chance.below(400));
        let store = EmbeddedStore::open(directory.path(), config()).unwrap();
        let newest = store.revision().await.unwrap();
        let all = RangeRequest { range: KeyRange::all(), revision: None, limit: 0 };
        let items: BTreeMap<_, _> =
            store.range(all).await.unwrap().items.into_iter().map(|item| (item.key.clone(), item)).collect();
        for (writer, revision) in acknowledged {
            let [left, right] = ["left", "right"].map(|kind| &items[format!("/{kind}/{writer}").as_bytes()]);
            assert!(left.mod_revision >= revision, "round {round}: {} of {revision}", left.mod_revision);
            assert_eq!((left.mod_revision, &left.value), (right.mod_revision, &right.value), "half a transaction");
        }
        check_history(&store, newest).await;
    }
}

/// Every revision is there, with both of its changes.
async fn check_history(store: &EmbeddedStore, newest: u64) {
    let mut watch = store.watch(KeyRange::all(), 1).await.unwrap();
    let mut events = Vec::new();
    let mut at = 0;
    while at < newest {
        let batch = watch.next().await.unwrap().unwrap();
        at = batch.revision;
        events.extend(batch.events);
    }
    assert_eq!(events.len() as u64, 2 * (newest - 1));
    for (pair, revision) in events.chunks(2).zip(2..) {
        assert!(pair.iter().all(|event| event.kind == EventKind::Put && event.current.mod_revision == revision));
        assert_eq!(pair[0].current.value, pair[1].current.value);
    }
}
