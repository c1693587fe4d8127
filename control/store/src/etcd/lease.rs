//! Leases of an etcd.

use super::{
    members::{CallError, Members},
    pb,
    wire::{lease, revision, signed},
};
use crate::types::{LeaseId, StoreError};
use futures::stream;
use pb::lease_client::LeaseClient;
use tonic::{Request, Response, Status, transport::Channel};

/// Makes a lease. One whose answer was lost ends by itself.
pub(super) async fn grant(members: &Members, ttl_seconds: u64) -> Result<LeaseId, StoreError> {
    let request = pb::LeaseGrantRequest { ttl: signed(ttl_seconds), id: 0 };
    let send = |channel, request| async move { LeaseClient::new(channel).lease_grant(request).await };
    members.repeat(request, send).await.map(|answer| lease(answer.id))
}

/// Starts a lease's time again.
pub(super) async fn keep_alive(members: &Members, id: LeaseId) -> Result<u64, StoreError> {
    let answer = members.repeat(pb::LeaseKeepAliveRequest { id: signed(id) }, keep_alive_once).await?;
    if answer.ttl <= 0 { Err(StoreError::NoLease) } else { Ok(revision(answer.ttl)) }
}

async fn keep_alive_once(
    channel: Channel,
    request: Request<pb::LeaseKeepAliveRequest>,
) -> Result<Response<pb::LeaseKeepAliveResponse>, Status> {
    let (metadata, extensions, message) = request.into_parts();
    let request = Request::from_parts(metadata, extensions, stream::iter([message]));
    let mut answers = LeaseClient::new(channel).lease_keep_alive(request).await?.into_inner();
    let answer = answers.message().await?.ok_or_else(|| Status::unavailable("no answer to a keep-alive"))?;
    Ok(Response::new(answer))
}

/// Ends a lease and deletes its keys.
pub(super) async fn revoke(members: &Members, id: LeaseId) -> Result<(), StoreError> {
    let until = members.deadline();
    let mut sent_before = false;
    loop {
        let request = pb::LeaseRevokeRequest { id: signed(id) };
        let send = |channel, request| async move { LeaseClient::new(channel).lease_revoke(request).await };
        match members.once(request, until, send).await {
            Ok(_) => return Ok(()),
            Err(CallError::Unknown(_)) if tokio::time::Instant::now() < until => sent_before = true,
            // Gone, by the attempt whose answer was lost.
            Err(CallError::Failed(StoreError::NoLease)) if sent_before => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}
