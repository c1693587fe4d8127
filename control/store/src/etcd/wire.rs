//! Between the store's vocabulary and etcd's messages: keys gain and lose the prefix here. Pure.

use super::pb;
use crate::types::{
    Compare, Event, EventKind, KeyRange, KeyValue, LeaseId, Op, OpResult, Revision, StoreError, Txn, TxnResult,
};
use bytes::Bytes;
use pb::{compare, request_op, response_op};

/// How etcd writes "no upper bound".
const UNBOUNDED: &[u8] = &[0];

/// The names of a store's keys within an etcd.
#[derive(Clone, Debug)]
pub(super) struct Names {
    /// Before every key of the store.
    prefix: Bytes,
    /// A key outside the store's own, changed to close a time.
    pub(super) fence: Bytes,
    /// A key outside the store's own, changed to see how far a watch is.
    pub(super) mark: Bytes,
    /// All keys of the store, and the fences and marks of all its clients.
    pub(super) watched: KeyRange,
}

impl Names {
    /// `client` tells the clients of one store apart.
    pub(super) fn new(prefix: &str, client: &str) -> Self {
        let prefix = prefix.trim_end_matches('/');
        // `.` comes right before `/`: one range holds both.
        let fences = format!("{prefix}.fence/");
        let keys = KeyRange::prefix(format!("{prefix}/"));
        Self {
            prefix: keys.start.clone(),
            fence: format!("{fences}{client}").into(),
            mark: format!("{fences}{client}.mark").into(),
            watched: KeyRange { start: fences.into(), end: keys.end },
        }
    }

    /// The store's key as etcd's.
    pub(super) fn outer(&self, key: &[u8]) -> Bytes {
        [&self.prefix[..], key].concat().into()
    }

    /// etcd's key as the store's; `None` for fences and the like.
    pub(super) fn inner(&self, key: &Bytes) -> Option<Bytes> {
        key.starts_with(&self.prefix).then(|| key.slice(self.prefix.len()..))
    }

    /// A range of the store, as start and end of etcd's.
    pub(super) fn outer_range(&self, range: &KeyRange) -> (Bytes, Bytes) {
        let end = if range.end.is_empty() { self.watched.end.clone() } else { self.outer(&range.end) };
        (self.outer(&range.start), etcd_end(end))
    }

    /// A key and value that etcd sent, if it is the store's.
    pub(super) fn key_value(&self, found: pb::KeyValue) -> Option<KeyValue> {
        Some(KeyValue {
            key: self.inner(&found.key)?,
            value: found.value,
            create_revision: revision(found.create_revision),
            mod_revision: revision(found.mod_revision),
            version: revision(found.version),
            lease: (found.lease != 0).then(|| lease(found.lease)),
        })
    }

    /// A change that etcd sent, if it is the store's.
    pub(super) fn event(&self, event: pb::Event) -> Option<Event> {
        let kind = if event.r#type == pb::event::EventType::Delete as i32 { EventKind::Delete } else { EventKind::Put };
        let mut current = self.key_value(event.kv?)?;
        if kind == EventKind::Delete {
            current = crate::evaluate::deleted(current.key, current.mod_revision);
        }
        Some(Event { kind, current, previous: event.prev_kv.and_then(|found| self.key_value(found)) })
    }

    /// A transaction that holds only while the fence is as of `epoch`; without one where nothing can change.
    pub(super) fn txn(&self, txn: &Txn, epoch: Revision) -> pb::TxnRequest {
        let ops = |ops: &[Op]| ops.iter().map(|op| self.op(op)).collect::<Vec<_>>();
        let mut own = pb::TxnRequest {
            compare: txn.compare.iter().map(|compare| self.compare(compare)).collect(),
            success: ops(&txn.then),
            failure: ops(&txn.otherwise),
        };
        match form(txn) {
            Form::Plain => own,
            Form::Flat => {
                own.compare.push(is_at(self.fence.clone(), epoch));
                own.failure.insert(0, get(self.fence.clone()));
                own
            }
            Form::Nested => pb::TxnRequest {
                compare: vec![is_at(self.fence.clone(), epoch)],
                success: vec![pb::RequestOp { request: Some(request_op::Request::Txn(own)) }],
                failure: vec![get(self.fence.clone())],
            },
        }
    }

    fn op(&self, op: &Op) -> pb::RequestOp {
        let request = match op {
            Op::Put { key, value, lease } => request_op::Request::Put(pb::PutRequest {
                key: self.outer(key),
                value: value.clone(),
                lease: lease.map_or(0, signed),
                prev_kv: true,
            }),
            Op::Delete(key) => request_op::Request::DeleteRange(pb::DeleteRangeRequest {
                key: self.outer(key),
                range_end: Bytes::new(),
                prev_kv: true,
            }),
            Op::DeleteRange(range) => {
                let (key, range_end) = self.outer_range(range);
                request_op::Request::DeleteRange(pb::DeleteRangeRequest { key, range_end, prev_kv: true })
            }
            Op::Get(key) => return get(self.outer(key)),
        };
        pb::RequestOp { request: Some(request) }
    }

    fn compare(&self, compare: &Compare) -> pb::Compare {
        match compare {
            Compare::ModRevision(key, revision) => is_at(self.outer(key), *revision),
            Compare::Value(key, value) => pb::Compare {
                result: compare::CompareResult::Equal as i32,
                target: compare::CompareTarget::Value as i32,
                key: self.outer(key),
                target_union: Some(compare::TargetUnion::Value(value.clone())),
            },
        }
    }

    /// What a transaction sent in `epoch` answered; the fence's revision when that turned it away.
    pub(super) fn txn_result(
        &self,
        txn: &Txn,
        epoch: Revision,
        answer: pb::TxnResponse,
    ) -> Result<Answered, StoreError> {
        let newest = header_revision(answer.header.as_ref());
        let form = form(txn);
        if form == Form::Plain || (form == Form::Flat && answer.succeeded) {
            return self.results(answer.succeeded, newest, answer.responses).map(Answered::Done);
        }
        let mut responses = answer.responses.into_iter();
        match responses.next().and_then(|response| response.response) {
            Some(response_op::Response::Txn(own)) if answer.succeeded => {
                self.results(own.succeeded, newest, own.responses).map(Answered::Done)
            }
            Some(response_op::Response::Range(fence)) => {
                let fence = fence.kvs.first().map_or(0, |found| revision(found.mod_revision));
                if form == Form::Nested || fence != epoch {
                    return Ok(Answered::Fenced(fence));
                }
                self.results(false, newest, responses.collect()).map(Answered::Done)
            }
            _ => Err(malformed()),
        }
    }

    fn results(
        &self,
        succeeded: bool,
        newest: Revision,
        answers: Vec<pb::ResponseOp>,
    ) -> Result<TxnResult, StoreError> {
        let results = answers.into_iter().map(|answer| self.op_result(answer)).collect::<Result<_, _>>()?;
        Ok(TxnResult { succeeded, revision: newest, results })
    }

    fn op_result(&self, answer: pb::ResponseOp) -> Result<OpResult, StoreError> {
        match answer.response {
            Some(response_op::Response::Put(put)) => {
                Ok(OpResult::Put(put.prev_kv.and_then(|found| self.key_value(found))))
            }
            Some(response_op::Response::DeleteRange(gone)) => {
                Ok(OpResult::Deleted(gone.prev_kvs.into_iter().filter_map(|found| self.key_value(found)).collect()))
            }
            Some(response_op::Response::Range(found)) => {
                Ok(OpResult::Got(found.kvs.into_iter().next().and_then(|found| self.key_value(found))))
            }
            _ => Err(malformed()),
        }
    }
}

/// What became of a transaction that etcd answered.
#[derive(Debug)]
pub(super) enum Answered {
    /// It was evaluated.
    Done(TxnResult),
    /// It was turned away, because the fence is at this revision.
    Fenced(Revision),
}

/// How a transaction is put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// As it is: it changes nothing.
    Plain,
    /// With the fence among its comparisons: what is done when they fail reads only, so it may be done when the fence
    /// fails too. etcd counts what it sets against its quota.
    Flat,
    /// Within another one. etcd does not count such changes, so this is for what cannot be put otherwise.
    Nested,
}

fn form(txn: &Txn) -> Form {
    let reads = |ops: &[Op]| ops.iter().all(|op| matches!(op, Op::Get(_)));
    match (reads(&txn.then), reads(&txn.otherwise)) {
        (true, true) => Form::Plain,
        (false, true) => Form::Flat,
        (_, false) => Form::Nested,
    }
}

fn malformed() -> StoreError {
    StoreError::Unavailable("etcd's answer does not fit the transaction".into())
}

/// Whether a transaction changes nothing in either case.
pub(super) fn is_read_only(txn: &Txn) -> bool {
    form(txn) == Form::Plain
}

/// Refuses a transaction that changes a key twice, as etcd would in part only.
pub(super) fn check_once(txn: &Txn) -> Result<(), StoreError> {
    for branch in [&txn.then, &txn.otherwise] {
        let mut keys: Vec<&Bytes> = branch
            .iter()
            .filter_map(|op| match op {
                Op::Put { key, .. } | Op::Delete(key) => Some(key),
                Op::DeleteRange(_) | Op::Get(_) => None,
            })
            .collect();
        keys.sort_unstable();
        let twice = keys.windows(2).any(|pair| pair[0] == pair[1]);
        let ranged = branch.iter().any(|op| match op {
            Op::DeleteRange(range) => keys.iter().any(|key| range.contains(key)),
            _ => false,
        });
        if twice || ranged {
            return Err(StoreError::Invalid("a key may be changed only once in a transaction".into()));
        }
    }
    Ok(())
}

fn is_at(key: Bytes, at: Revision) -> pb::Compare {
    pb::Compare {
        result: compare::CompareResult::Equal as i32,
        target: compare::CompareTarget::Mod as i32,
        key,
        target_union: Some(compare::TargetUnion::ModRevision(signed(at))),
    }
}

fn get(key: Bytes) -> pb::RequestOp {
    pb::RequestOp { request: Some(request_op::Request::Range(pb::RangeRequest { key, ..pb::RangeRequest::default() })) }
}

/// An end as etcd writes it.
pub(super) fn etcd_end(end: Bytes) -> Bytes {
    if end.is_empty() { Bytes::from_static(UNBOUNDED) } else { end }
}

pub(super) fn revision(found: i64) -> Revision {
    u64::try_from(found).unwrap_or(0)
}

pub(super) fn signed(revision: u64) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}

/// Identities of leases use all bits: etcd's are positive, yet nothing is lost otherwise.
pub(super) fn lease(found: i64) -> LeaseId {
    revision(found)
}

pub(super) fn header_revision(header: Option<&pb::ResponseHeader>) -> Revision {
    header.map_or(0, |header| revision(header.revision))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        Names::new("/timonel", "c1")
    }

    #[test]
    fn keys_gain_and_lose_the_prefix() {
        let names = names();
        assert_eq!(names.outer(b"a/b"), &b"/timonel/a/b"[..]);
        assert_eq!(names.inner(&Bytes::from_static(b"/timonel/a/b")).as_deref(), Some(&b"a/b"[..]));
        assert_eq!(names.inner(&names.fence), None);
        for key in [&names.fence, &names.mark, &names.outer(b"x"), &names.outer(b"\xff")] {
            assert!(names.watched.contains(key), "{key:?}");
        }
        assert!(!names.watched.contains(b"/timonel0") && !names.watched.contains(b"/timonel-2/x"));
        let (start, end) = names.outer_range(&KeyRange::all());
        assert_eq!((&start[..], &end[..]), (&b"/timonel/"[..], &b"/timonel0"[..]));
        let whole = Names::new("", "c1");
        assert_eq!(whole.outer(b"registry/x"), &b"/registry/x"[..]);
    }

    #[test]
    fn only_what_can_change_something_is_fenced() {
        let put = Op::Put { key: "a".into(), value: "1".into(), lease: None };
        let reads = Txn { then: vec![Op::Get("a".into())], ..Txn::default() };
        assert!(names().txn(&reads, 7).compare.is_empty());
        let flat = names().txn(&Txn { then: vec![put.clone()], ..Txn::default() }, 7);
        assert_eq!((flat.compare, flat.success.len(), flat.failure.len()), (vec![is_at(names().fence, 7)], 1, 1));
        let nested = names().txn(&Txn { otherwise: vec![put], ..Txn::default() }, 7);
        assert_eq!((nested.compare, nested.success.len()), (vec![is_at(names().fence, 7)], 1));
    }

    #[test]
    fn a_failed_comparison_is_told_from_a_raised_fence() {
        let put = Op::Put { key: "a".into(), value: "1".into(), lease: None };
        let compare = vec![Compare::ModRevision("a".into(), 3)];
        let txn = Txn { compare, then: vec![put], otherwise: vec![Op::Get("a".into())], ..Txn::default() };
        let range = |revisions: &[i64]| {
            let one = |revision: &i64| pb::KeyValue { mod_revision: *revision, ..pb::KeyValue::default() };
            let kvs = revisions.iter().map(one).collect();
            let range = pb::RangeResponse { kvs, ..pb::RangeResponse::default() };
            pb::ResponseOp { response: Some(response_op::Response::Range(range)) }
        };
        for (fence, epoch, fenced) in
            [(&[][..], 0, false), (&[7], 0, true), (&[7], 7, false), (&[], 7, true), (&[9], 7, true)]
        {
            let answer = pb::TxnResponse { responses: vec![range(fence), range(&[])], ..pb::TxnResponse::default() };
            match names().txn_result(&txn, epoch, answer).unwrap() {
                Answered::Done(result) => assert!(!fenced && !result.succeeded && result.results.len() == 1),
                Answered::Fenced(_) => assert!(fenced, "{fence:?} {epoch}"),
            }
        }
    }

    #[test]
    fn a_key_is_changed_once() {
        let put = |key: &'static str| Op::Put { key: key.into(), value: "1".into(), lease: None };
        let gone = |key: &'static str| Op::Delete(key.into());
        let cases = [
            (vec![put("a"), put("b")], true),
            (vec![put("a"), put("a")], false),
            (vec![gone("a"), gone("a")], false),
            (vec![put("a"), gone("a")], false),
            (vec![put("ab"), Op::DeleteRange(KeyRange::prefix("a"))], false),
            (vec![put("b"), Op::DeleteRange(KeyRange::prefix("a"))], true),
            (vec![put("a"), Op::Get("a".into())], true),
        ];
        for (then, good) in cases {
            assert_eq!(check_once(&Txn { then: then.clone(), ..Txn::default() }).is_ok(), good, "{then:?}");
        }
    }

    #[test]
    fn events_of_others_and_of_fences_are_not_the_stores() {
        let event = |key: &'static str, kind: pb::event::EventType| pb::Event {
            r#type: kind as i32,
            kv: Some(pb::KeyValue { key: key.into(), mod_revision: 5, version: 9, ..pb::KeyValue::default() }),
            prev_kv: None,
        };
        let names = names();
        assert!(names.event(event("/timonel.fence/c1", pb::event::EventType::Put)).is_none());
        assert!(names.event(event("/timonel.zzz", pb::event::EventType::Put)).is_none());
        let gone = names.event(event("/timonel/a", pb::event::EventType::Delete)).unwrap();
        assert_eq!((gone.kind, gone.current.version, gone.current.mod_revision), (EventKind::Delete, 0, 5));
    }
}
