//! Forgetting history by age, by upstream's rule: all clients of an etcd meet at one key, whoever changes it first
//! after the interval compacts, and only to where the store was one interval ago.

use super::{
    pb,
    shared::Shared,
    wire::{header_revision, revision, signed},
};
use crate::types::{Revision, StoreError};
use pb::{compare, request_op, response_op};
use std::{sync::Arc, time::Duration};

/// Where compactors meet; upstream's name, at the root of the etcd: history is one for all of its clients.
const MEETING: &[u8] = b"compact_rev_key";

/// What one compactor remembers between two looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// Of the meeting key: its logical time.
    version: i64,
    /// The store's revision at the last look.
    revision: Revision,
}

/// Compacts every `interval` for as long as its task runs.
pub(super) async fn run(shared: Arc<Shared>, interval: Duration) {
    let mut seen = Seen::default();
    loop {
        tokio::time::sleep(interval).await;
        match look(&shared, seen).await {
            Ok(now) => seen = now,
            Err(error) => tracing::warn!(%error, "compacting etcd"),
        }
    }
}

pub(super) async fn look(shared: &Shared, seen: Seen) -> Result<Seen, StoreError> {
    let send = |channel, request| async move { pb::kv_client::KvClient::new(channel).txn(request).await };
    // Sent again after a lost answer it finds its own change, and leaves this interval to itself: no harm.
    let answer = shared.members.repeat(meeting(seen), send).await?;
    let now = Seen { version: version_after(seen, &answer), revision: header_revision(answer.header.as_ref()) };
    if answer.succeeded && seen.revision > 0 {
        match compact(shared, seen.revision).await {
            Ok(()) | Err(StoreError::Compacted { .. }) => {}
            Err(error) => return Err(error),
        }
        tracing::debug!(revision = seen.revision, "compacted etcd");
    }
    Ok(now)
}

/// Forgets history before `at`.
pub(super) async fn compact(shared: &Shared, at: Revision) -> Result<(), StoreError> {
    let request = pb::CompactionRequest { revision: signed(at), physical: false };
    let send = |channel, request| async move { pb::kv_client::KvClient::new(channel).compact(request).await };
    shared.members.repeat(request, send).await?;
    shared.recent.lock().forget(at);
    Ok(())
}

fn meeting(seen: Seen) -> pb::TxnRequest {
    let op = |request| vec![pb::RequestOp { request: Some(request) }];
    pb::TxnRequest {
        compare: vec![pb::Compare {
            result: compare::CompareResult::Equal as i32,
            target: compare::CompareTarget::Version as i32,
            key: MEETING.into(),
            target_union: Some(compare::TargetUnion::Version(seen.version)),
        }],
        success: op(request_op::Request::Put(pb::PutRequest {
            key: MEETING.into(),
            value: seen.revision.to_string().into(),
            ..pb::PutRequest::default()
        })),
        failure: op(request_op::Request::Range(pb::RangeRequest {
            key: MEETING.into(),
            ..pb::RangeRequest::default()
        })),
    }
}

fn version_after(seen: Seen, answer: &pb::TxnResponse) -> i64 {
    if answer.succeeded {
        return seen.version + 1;
    }
    match answer.responses.first().and_then(|response| response.response.as_ref()) {
        Some(response_op::Response::Range(found)) => found.kvs.first().map_or(0, |found| found.version),
        _ => 0,
    }
}

/// The first revision still there, as a failed read's answer does not tell it: a watch from the start does.
pub(super) async fn oldest(shared: &Shared) -> Revision {
    let asked = async {
        let (_requests, mut answers) = super::feed::start(shared, 1).await.ok()?;
        for _ in 0..2 {
            let answer = answers.message().await.ok()??;
            if answer.compact_revision > 0 {
                return Some(revision(answer.compact_revision));
            }
        }
        None
    };
    tokio::time::timeout(shared.members.attempt(), asked).await.ok().flatten().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compactor_learns_the_time_from_whoever_was_first() {
        let seen = Seen { version: 4, revision: 90 };
        let request = meeting(seen);
        assert_eq!(request.compare[0].target_union, Some(compare::TargetUnion::Version(4)));
        let won = pb::TxnResponse { succeeded: true, ..pb::TxnResponse::default() };
        assert_eq!(version_after(seen, &won), 5);
        let found = pb::KeyValue { version: 7, ..pb::KeyValue::default() };
        let range = pb::RangeResponse { kvs: vec![found], ..pb::RangeResponse::default() };
        let response = pb::ResponseOp { response: Some(response_op::Response::Range(range)) };
        let lost = pb::TxnResponse { responses: vec![response], ..pb::TxnResponse::default() };
        assert_eq!(version_after(seen, &lost), 7);
    }
}
