//! The embedded engine on disks that fail: power lost at every single write and flush, a full disk, flipped
//! bits, a second process.

use super::{EmbeddedConfig, EmbeddedStore};
use crate::{
    KeyRange, KeyValue, Op, Store, StoreError, Txn,
    suite::{delete, put, read, until, write},
};
use parking_lot::Mutex;
use redb::{Database, StorageBackend};
use std::{io, sync::Arc, time::Duration};
use timonel_runtime::Entropy;

#[derive(Clone, Debug)]
enum Step {
    Write(u64, Vec<u8>),
    Length(u64),
}

/// A disk in memory that remembers what was not flushed.
#[derive(Clone, Debug, Default)]
struct FaultyDisk(Arc<Mutex<Image>>);

#[derive(Debug, Default)]
struct Image {
    flushed: Vec<u8>,
    pending: Vec<Step>,
    current: Vec<u8>,
    /// Steps until the power goes.
    left: Option<u64>,
    off: bool,
    capacity: Option<u64>,
}

impl Image {
    fn tick(&mut self) -> io::Result<()> {
        if self.off || self.left == Some(0) {
            self.off = true;
            return Err(io::Error::other("power is off"));
        }
        self.left = self.left.map(|left| left - 1);
        Ok(())
    }
}

fn apply(bytes: &mut Vec<u8>, step: &Step) {
    match step {
        Step::Length(length) => bytes.resize(usize::try_from(*length).unwrap(), 0),
        Step::Write(offset, data) => {
            let offset = usize::try_from(*offset).unwrap();
            let end = offset + data.len();
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[offset..end].copy_from_slice(data);
        }
    }
}

impl StorageBackend for FaultyDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().current.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let image = self.0.lock();
        if image.off {
            return Err(io::Error::other("power is off"));
        }
        let offset = usize::try_from(offset).unwrap();
        let found = image.current.get(offset..offset + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(found);
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut image = self.0.lock();
        image.tick()?;
        if image.capacity.is_some_and(|capacity| length > capacity) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        image.pending.push(Step::Length(length));
        apply(&mut image.current, &Step::Length(length));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut image = self.0.lock();
        image.tick()?;
        image.flushed = image.current.clone();
        image.pending.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut image = self.0.lock();
        image.tick()?;
        let step = Step::Write(offset, data.to_vec());
        apply(&mut image.current, &step);
        image.pending.push(step);
        Ok(())
    }
}

/// What may have reached the platter of what was not flushed.
#[derive(Clone, Copy, Debug)]
enum Survives {
    Nothing,
    All,
    Some(u64),
}

impl FaultyDisk {
    fn power_off_after(steps: u64) -> Self {
        let disk = Self::default();
        disk.0.lock().left = Some(steps);
        disk
    }

    /// The disk as the next start finds it.
    fn after_power_loss(&self, survives: Survives) -> Self {
        let image = self.0.lock();
        let mut bytes = image.flushed.clone();
        for (place, step) in image.pending.iter().enumerate() {
            match (survives, step) {
                (Survives::Nothing, _) => {}
                (Survives::All, step) => apply(&mut bytes, step),
                (Survives::Some(seed), Step::Write(offset, data)) => {
                    // Sectors survive one by one.
                    let chance = Entropy::seeded(seed * 10_000 + place as u64);
                    for (sector, part) in data.chunks(512).enumerate().filter(|_| chance.below(2) == 0) {
                        apply(&mut bytes, &Step::Write(offset + sector as u64 * 512, part.to_vec()));
                    }
                }
                (Survives::Some(_), step) => apply(&mut bytes, step),
            }
        }
        let image = Image { flushed: bytes.clone(), current: bytes, ..Image::default() };
        Self(Arc::new(Mutex::new(image)))
    }

    fn open(&self) -> Result<EmbeddedStore, StoreError> {
        let disk = self.clone();
        let config = EmbeddedConfig { tail_bytes: 4096, batch_wait: Duration::ZERO, ..EmbeddedConfig::default() };
        let opener = Box::new(move || Database::builder().set_cache_size(1 << 20).create_with_backend(disk.clone()));
        EmbeddedStore::start("faulty disk", opener, config, None)
    }
}

/// One step of the scenario, and what the keys are after it.
type Expected = Vec<(String, String)>;

fn scenario() -> Vec<(Vec<Op>, Expected)> {
    let mut state = std::collections::BTreeMap::new();
    let mut steps = Vec::new();
    for step in 0..14_u32 {
        let (a, b) = (format!("/{}", step % 5), format!("/twin/{}", step % 5));
        let value = format!("{step}-").repeat(1 + step as usize * 97 % 700);
        let ops = if step % 4 == 3 {
            let old = format!("/{}", (step + 2) % 5);
            let twin = format!("/twin/{}", (step + 2) % 5);
            state.remove(&old);
            state.remove(&twin);
            vec![delete(&old), delete(&twin)]
        } else {
            state.insert(a.clone(), value.clone());
            state.insert(b.clone(), value.clone());
            vec![put(&a, &value), put(&b, &value)]
        };
        steps.push((ops, state.clone().into_iter().collect()));
    }
    steps
}

fn plain(items: &[KeyValue]) -> Expected {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    items.iter().map(|item| (text(&item.key), text(&item.value))).collect()
}

/// Runs the scenario; how many steps were acknowledged, and whether all were.
async fn run(disk: &FaultyDisk) -> (usize, bool) {
    let Ok(store) = disk.open() else { return (0, false) };
    for (acknowledged, (then, _)) in scenario().into_iter().enumerate() {
        if store.txn(Txn { then, ..Txn::default() }).await.is_err() {
            return (acknowledged, false);
        }
        if acknowledged % 5 == 4 {
            // It may fail: then so does the next step.
            let _ = store.compact(acknowledged as u64).await;
        }
    }
    (scenario().len(), true)
}

#[tokio::test]
async fn power_loss_at_every_step_loses_nothing_acknowledged() {
    let scenario = scenario();
    for steps in 0.. {
        let disk = FaultyDisk::power_off_after(steps);
        let (acknowledged, complete) = run(&disk).await;
        for survives in [Survives::Nothing, Survives::All, Survives::Some(1), Survives::Some(2)] {
            let case = format!("power off after {steps} steps, {survives:?} of the rest survives");
            let after = disk.after_power_loss(survives);
            let store = match after.open() {
                Ok(store) => store,
                // Before the first acknowledgement the file may not even be one.
                Err(StoreError::Corrupt(_)) if acknowledged == 0 => continue,
                Err(error) => panic!("{case}: {error}"),
            };
            let found = plain(&read(&store, KeyRange::all(), None).await);
            let possible = acknowledged..=(acknowledged + 1).min(scenario.len());
            let at = |count: usize| if count == 0 { Vec::new() } else { scenario[count - 1].1.clone() };
            assert!(possible.clone().any(|count| found == at(count)), "{case}: {acknowledged} acknowledged");
            let revision = store.revision().await.unwrap();
            assert_eq!(write(&store, vec![put("/after", "1")]).await.revision, revision + 1, "{case}");
        }
        if complete {
            assert!(steps > 50, "the scenario is long enough to mean something");
            return;
        }
    }
}

#[tokio::test]
async fn a_full_disk_refuses_writes_serves_reads_and_recovers() {
    let disk = FaultyDisk::default();
    let store = disk.open().unwrap();
    write(&store, vec![put("/a", "1")]).await;
    let length = disk.0.lock().current.len() as u64;
    disk.0.lock().capacity = Some(length);
    let mut watch = store.watch(KeyRange::all(), 0).await.unwrap();
    let fill =
        |number: usize| Op::Put { key: format!("/fill/{number}").into(), value: vec![7; 1 << 20].into(), lease: None };
    let mut stored = 0;
    let refused = loop {
        match store.txn(Txn { then: vec![fill(stored)], ..Txn::default() }).await {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
        assert!(stored < 100, "the disk is never full");
    };
    assert!(matches!(refused, StoreError::NoSpace(_)), "{refused}");
    assert_eq!(read(&store, KeyRange::all(), None).await.len(), stored + 1, "still readable");
    disk.0.lock().capacity = None;
    let revision = write(&store, vec![put("/b", "1")]).await.revision;
    assert_eq!(revision, stored as u64 + 3);
    // The watcher was let go when the disk was read anew; it goes on from where it was.
    let mut last = 0;
    while let Some(Ok(batch)) = futures::StreamExt::next(&mut watch).await {
        last = batch.revision;
    }
    let mut again = store.watch(KeyRange::prefix("/b"), last + 1).await.unwrap();
    assert_eq!(until(&mut again, revision).await.len(), 1);
}

#[tokio::test]
async fn a_quota_leaves_deletion_and_compaction() {
    let directory = tempfile::tempdir().unwrap();
    let config = EmbeddedConfig { quota_bytes: 1000, ..EmbeddedConfig::default() };
    let store = EmbeddedStore::open(directory.path(), config).unwrap();
    write(&store, vec![put("/a", &"x".repeat(1500))]).await;
    let full = store.txn(Txn { then: vec![put("/b", "1")], ..Txn::default() }).await;
    assert!(matches!(full, Err(StoreError::NoSpace(_))));
    write(&store, vec![delete("/a")]).await;
    store.compact(3).await.unwrap();
    // The writer scrubs in its own time; a transaction follows on it.
    let patience = tokio::time::Instant::now() + Duration::from_secs(20);
    while store.txn(Txn { then: vec![put("/b", "1")], ..Txn::default() }).await.is_err() {
        assert!(tokio::time::Instant::now() < patience, "space is never given back");
    }
}

#[tokio::test]
async fn a_second_opener_is_told_who_has_it() {
    let directory = tempfile::tempdir().unwrap();
    let first = EmbeddedStore::open(directory.path(), EmbeddedConfig::default()).unwrap();
    let second = EmbeddedStore::open(directory.path(), EmbeddedConfig::default()).map(drop).unwrap_err();
    let path = directory.path().join("store.redb").display().to_string();
    assert!(second.to_string().contains(&path) && second.to_string().contains("another process"), "{second}");
    first.close();
    assert!(matches!(first.revision().await, Err(StoreError::Closed)));
    assert!(matches!(first.txn(Txn { then: vec![put("/a", "1")], ..Txn::default() }).await, Err(StoreError::Closed)));
    EmbeddedStore::open(directory.path(), EmbeddedConfig::default()).unwrap();
}

#[tokio::test]
async fn damaged_files_are_named_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    for damage in [&b""[..], b"not a store at all", &[0; 8192]] {
        std::fs::write(&path, damage).unwrap();
        let error = EmbeddedStore::open(directory.path(), EmbeddedConfig::default()).map(drop).unwrap_err();
        assert!(matches!(error, StoreError::Corrupt(_)), "{error}");
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), damage);
    }
}

#[tokio::test]
async fn leases_and_their_keys_survive_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let open = || EmbeddedStore::open(directory.path(), EmbeddedConfig::default()).unwrap();
    let store = open();
    let (short, long) = (store.grant_lease(1).await.unwrap(), store.grant_lease(3600).await.unwrap());
    let held = |name: &str, lease| Op::Put { key: name.to_owned().into(), value: "1".into(), lease: Some(lease) };
    write(&store, vec![held("/short", short), held("/long", long)]).await;
    drop(store);
    let store = open();
    let mut watch = store.watch(KeyRange::key("/short"), 0).await.unwrap();
    assert_eq!(store.keep_alive(long).await.unwrap(), 3600);
    assert_eq!(until(&mut watch, store.revision().await.unwrap() + 1).await.len(), 1, "it ends by itself");
    assert!(store.grant_lease(1).await.unwrap() > long, "identities do not come again");
    store.revoke_lease(long).await.unwrap();
    assert!(read(&store, KeyRange::all(), None).await.is_empty());
}

#[tokio::test]
async fn a_flipped_bit_is_never_served() {
    let disk = FaultyDisk::default();
    let store = disk.open().unwrap();
    for number in 0..60 {
        write(&store, vec![put(&format!("/{}", number % 40), &format!("value {number} ").repeat(30))]).await;
    }
    let truth = read(&store, KeyRange::all(), None).await;
    drop(store);
    let clean = disk.0.lock().flushed.clone();
    let used: Vec<usize> = (0..clean.len()).filter(|place| clean[*place] != 0).collect();
    let chance = Entropy::seeded(5);
    let mut noticed = 0;
    for round in 0..300 {
        // The header first, then anywhere.
        let place = if round < 100 { used[round] } else { used[chance.below(used.len() as u64) as usize] };
        let mut bytes = clean.clone();
        bytes[place] ^= 1 << chance.below(8);
        let image = Image { flushed: bytes.clone(), current: bytes, ..Image::default() };
        let Ok(store) = FaultyDisk(Arc::new(Mutex::new(image))).open() else {
            noticed += 1;
            continue;
        };
        for expected in &truth {
            let range = KeyRange::key(expected.key.clone());
            let request = crate::RangeRequest { range, revision: None, limit: 0 };
            match store.range(request).await {
                Ok(found) => assert_eq!(found.items, std::slice::from_ref(expected), "byte {place}"),
                Err(StoreError::Corrupt(_)) => noticed += 1,
                Err(error) => panic!("byte {place}: {error}"),
            }
        }
    }
    assert!(noticed > 100, "only {noticed} were noticed");
}
