//! Writes that admission wants committed together with the object: quota usage.

use super::commit::Beside;
use crate::{ApiServer, admission::PairedWrite, cache::encode};
use timonel_api::{GroupResource, Status};
use timonel_store::{Compare, Op};

/// The store's steps for admission's paired writes; each is refused unless its object is still the one that
/// admission saw.
pub(crate) fn steps(server: &ApiServer, paired: Vec<PairedWrite>) -> Result<Vec<Beside>, Status> {
    paired.into_iter().map(|write| step(server, &write)).collect()
}

fn step(server: &ApiServer, write: &PairedWrite) -> Result<Beside, Status> {
    let resource = GroupResource { group: write.group.into(), resource: write.resource.into() };
    let slot = server.cache.slot(&resource);
    let revision = write
        .object
        .str_at(&["metadata", "resourceVersion"])
        .parse()
        .map_err(|_| Status::internal("a paired write without a resource version"))?;
    let key = slot.key(&write.namespace, &write.name);
    let value = encode(&write.object, &super::view::columns_of(&resource));
    Ok(Beside { compare: Some(Compare::ModRevision(key.clone(), revision)), op: Op::Put { key, value, lease: None } })
}
