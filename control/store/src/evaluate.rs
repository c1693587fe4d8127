//! What a transaction does to the newest state: comparisons, answers, changes. Pure but for `load`, through
//! which an engine fetches the values that it does not hold in memory.

use crate::{
    index::{Index, Position, Version},
    leases::Leases,
    types::{
        Compare, Event, EventKind, KeyRange, KeyValue, LeaseId, Op, OpResult, Revision, StoreError, Txn, TxnResult,
    },
};
use bytes::Bytes;
use std::collections::BTreeMap;

/// Longest key, in bytes.
pub const MAX_KEY_BYTES: usize = 4 << 10;
/// Longest value, in bytes.
pub const MAX_VALUE_BYTES: usize = 3 << 19;
/// Most comparisons and steps of one transaction.
pub const MAX_TXN_OPS: usize = 1024;
/// Most bytes that one transaction may set.
pub const MAX_TXN_BYTES: usize = 8 << 20;
/// Most keys that one transaction may change: a larger range is deleted in steps.
pub const MAX_TXN_CHANGES: usize = 4096;

/// One change of a committed transaction.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) event: Event,
    /// Where the version before it stands, if the key existed.
    pub(crate) replaces: Option<Position>,
}

/// What a transaction answers and changes.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) result: TxnResult,
    pub(crate) changes: Vec<Change>,
}

/// Fetches the value of a version.
pub(crate) trait Load<V> {
    fn load(&self, version: &Version<V>) -> Result<Bytes, StoreError>;
}

/// The bounds that need no state.
pub(crate) fn check_bounds(txn: &Txn) -> Result<(), StoreError> {
    let invalid = |what: String| Err(StoreError::Invalid(what));
    for count in [txn.compare.len(), txn.then.len(), txn.otherwise.len()] {
        if count > MAX_TXN_OPS {
            return invalid(format!("{count} steps in one transaction, the most is {MAX_TXN_OPS}"));
        }
    }
    let compared = txn.compare.iter().map(|compare| match compare {
        Compare::ModRevision(key, _) | Compare::Value(key, _) => key,
    });
    let mut bytes = 0;
    let steps = || txn.then.iter().chain(&txn.otherwise);
    let stepped = steps().filter_map(|op| match op {
        Op::Put { key, .. } | Op::Delete(key) | Op::Get(key) => Some(key),
        Op::DeleteRange(_) => None,
    });
    for key in compared.chain(stepped) {
        if key.is_empty() || key.len() > MAX_KEY_BYTES {
            return invalid(format!("key of {} bytes, allowed are 1 to {MAX_KEY_BYTES}", key.len()));
        }
    }
    for op in steps() {
        let Op::Put { value, key, .. } = op else { continue };
        bytes += value.len() + key.len();
        if value.len() > MAX_VALUE_BYTES {
            return invalid(format!("value of {} bytes, the most is {MAX_VALUE_BYTES}", value.len()));
        }
    }
    if bytes > MAX_TXN_BYTES {
        return invalid(format!("transaction of {bytes} bytes, the most is {MAX_TXN_BYTES}"));
    }
    Ok(())
}

/// Evaluates `txn` on the newest state; its changes, if any, belong to `newest + 1`.
pub(crate) fn evaluate<V>(
    index: &Index<V>,
    leases: &Leases,
    load: &impl Load<V>,
    newest: Revision,
    txn: &Txn,
) -> Result<Outcome, StoreError> {
    let mut run = Run { index, leases, load, newest, changes: Vec::new(), touched: BTreeMap::new() };
    let mut succeeded = true;
    for compare in &txn.compare {
        succeeded = succeeded && run.holds(compare)?;
    }
    let steps = if succeeded { &txn.then } else { &txn.otherwise };
    let results = steps.iter().map(|op| run.step(op)).collect::<Result<Vec<_>, _>>()?;
    let revision = if run.changes.is_empty() { newest } else { newest + 1 };
    Ok(Outcome { result: TxnResult { succeeded, revision, results }, changes: run.changes })
}

struct Run<'a, V, L> {
    index: &'a Index<V>,
    leases: &'a Leases,
    load: &'a L,
    newest: Revision,
    changes: Vec<Change>,
    /// Keys changed so far, with their place in `changes`.
    touched: BTreeMap<Bytes, usize>,
}

impl<V, L: Load<V>> Run<'_, V, L> {
    fn holds(&self, compare: &Compare) -> Result<bool, StoreError> {
        Ok(match compare {
            Compare::ModRevision(key, revision) => {
                self.index.at(key, self.newest).map_or(0, |version| version.revision) == *revision
            }
            Compare::Value(key, value) => match self.index.at(key, self.newest) {
                Some(version) => self.load.load(version)? == *value,
                None => false,
            },
        })
    }

    fn step(&mut self, op: &Op) -> Result<OpResult, StoreError> {
        match op {
            Op::Put { key, value, lease } => self.put(key, value, *lease).map(OpResult::Put),
            Op::Delete(key) => Ok(OpResult::Deleted(self.delete(key)?.into_iter().collect())),
            Op::DeleteRange(range) => self.delete_range(range).map(OpResult::Deleted),
            Op::Get(key) => self.get(key).map(OpResult::Got),
        }
    }

    fn stored(&self, key: &Bytes) -> Result<Option<(KeyValue, Position)>, StoreError> {
        let Some(version) = self.index.at(key, self.newest) else { return Ok(None) };
        let value = self.load.load(version)?;
        Ok(Some((version.key_value(key.clone(), value), version.position())))
    }

    fn get(&self, key: &Bytes) -> Result<Option<KeyValue>, StoreError> {
        match self.touched.get(key).map(|place| &self.changes[*place].event) {
            Some(event) => Ok((event.kind == EventKind::Put).then(|| event.current.clone())),
            None => Ok(self.stored(key)?.map(|(found, _)| found)),
        }
    }

    fn put(&mut self, key: &Bytes, value: &Bytes, lease: Option<LeaseId>) -> Result<Option<KeyValue>, StoreError> {
        if lease.is_some_and(|lease| !self.leases.contains(lease)) {
            return Err(StoreError::NoLease);
        }
        let (previous, replaces) = self.stored(key)?.unzip();
        let revision = self.newest + 1;
        let current = KeyValue {
            key: key.clone(),
            value: value.clone(),
            create_revision: previous.as_ref().map_or(revision, |before| before.create_revision),
            mod_revision: revision,
            version: previous.as_ref().map_or(1, |before| before.version + 1),
            lease,
        };
        self.change(Event { kind: EventKind::Put, current, previous: previous.clone() }, replaces)?;
        Ok(previous)
    }

    fn delete(&mut self, key: &Bytes) -> Result<Option<KeyValue>, StoreError> {
        self.check_untouched(&KeyRange::key(key.clone()))?;
        let Some((previous, position)) = self.stored(key)? else { return Ok(None) };
        let current = deleted(key.clone(), self.newest + 1);
        self.change(Event { kind: EventKind::Delete, current, previous: Some(previous.clone()) }, Some(position))?;
        Ok(Some(previous))
    }

    fn delete_range(&mut self, range: &KeyRange) -> Result<Vec<KeyValue>, StoreError> {
        self.check_untouched(range)?;
        let keys: Vec<Bytes> =
            self.index.range(range, self.newest).take(MAX_TXN_CHANGES + 1).map(|(key, _)| key.clone()).collect();
        let mut gone = Vec::with_capacity(keys.len());
        for key in &keys {
            gone.extend(self.delete(key)?);
        }
        Ok(gone)
    }

    fn check_untouched(&self, range: &KeyRange) -> Result<(), StoreError> {
        match self.touched.range::<Bytes, _>(&range.start..).next() {
            Some((key, _)) if range.contains(key) => {
                Err(StoreError::Invalid("a key may be changed only once in a transaction".into()))
            }
            _ => Ok(()),
        }
    }

    fn change(&mut self, event: Event, replaces: Option<Position>) -> Result<(), StoreError> {
        if self.changes.len() == MAX_TXN_CHANGES {
            return Err(StoreError::Invalid(format!("transaction changes more than {MAX_TXN_CHANGES} keys")));
        }
        self.check_untouched(&KeyRange::key(event.current.key.clone()))?;
        self.touched.insert(event.current.key.clone(), self.changes.len());
        self.changes.push(Change { event, replaces });
        Ok(())
    }
}

/// How a deletion looks in an event.
pub(crate) fn deleted(key: Bytes, revision: Revision) -> KeyValue {
    KeyValue { key, value: Bytes::new(), create_revision: 0, mod_revision: revision, version: 0, lease: None }
}

impl Change {
    /// The version that this change adds at `place` of its revision.
    pub(crate) fn version<V>(&self, place: usize, value: V) -> Version<V> {
        let current = &self.event.current;
        Version {
            revision: current.mod_revision,
            place: u32::try_from(place).expect("a transaction has at most MAX_TXN_CHANGES changes"),
            deleted: self.event.kind == EventKind::Delete,
            create_revision: current.create_revision,
            version: current.version,
            lease: current.lease.unwrap_or(0),
            value,
        }
    }
}
