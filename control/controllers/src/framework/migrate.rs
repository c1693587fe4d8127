//! Writes every object of a resource anew, as it is, so that all lie in the resource's newest storage version. It never
//! changes what an object says.

use super::{
    discovery,
    http::{self as requests, RequestError},
    kinds::Resource,
    view::NotMigrated,
};
use futures::{StreamExt, TryStreamExt, stream};
use kube::Client;

/// Field manager of the writes.
pub(crate) const MANAGER: &str = "storage-version-migrator-controller";
/// Objects written at once.
const AT_ONCE: usize = 8;

/// Does it; gives the version at which the objects were taken.
///
/// # Errors
/// What is worth another try: the server is busy, or not there.
pub(crate) async fn migrate(
    client: &Client,
    group: &str,
    resource: &str,
) -> Result<Result<String, NotMigrated>, RequestError> {
    let found = discovery::discover(client).await?.resources;
    let meant = |one: &Resource| one.group() == group && &*one.plural == resource;
    let Some(resource) = found.into_iter().find(meant) else { return Ok(Err(NotMigrated::Unknown)) };
    let (mut token, mut version) = (String::new(), None);
    loop {
        let mut list = requests::metadata(client, &resource, "", &token).await?;
        let told = |field: &str| list["metadata"][field].as_str().unwrap_or_default().to_owned();
        let (taken, next) = (told("resourceVersion"), told("continue"));
        let written = stream::iter(requests::items(&mut list))
            .map(|item| touch(client, &resource, item))
            .buffer_unordered(AT_ONCE)
            .try_filter_map(async |refused| Ok(refused))
            .try_collect::<Vec<_>>()
            .await?;
        if let Some(refused) = written.into_iter().next() {
            return Ok(Err(NotMigrated::Refused(refused)));
        }
        version.get_or_insert(taken);
        if next.is_empty() {
            return Ok(Ok(version.unwrap_or_default()));
        }
        token = next;
    }
}

/// Writes one object; what the server refused it with, when another try would not help.
async fn touch(client: &Client, resource: &Resource, item: serde_json::Value) -> Result<Option<String>, RequestError> {
    match requests::touch(client, resource, &item["metadata"], MANAGER).await {
        Ok(()) => Ok(None),
        // Whoever was faster has written it anew, or there is nothing left to write.
        Err(error) if matches!(error.code(), 404 | 409) => Ok(None),
        Err(error) if matches!(error.code(), 0 | 429 | 500..) => Err(error),
        Err(error) => Ok(Some(error.to_string())),
    }
}
