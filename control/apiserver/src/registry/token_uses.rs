//! Notes in a token's Secret on which day it was last used. What a request waits for is never here.

use super::bootstrap::send;
use crate::{
    ApiServer,
    authn::{LAST_USED, TokenUse, TokenUses, day},
};
use serde_json::json;
use std::{
    convert::Infallible,
    sync::{Arc, Weak},
};
use timonel_api::{Status, Value};

const MERGE_PATCH: &str = "application/merge-patch+json";

/// Notes uses for as long as the server lives.
pub(crate) async fn note_token_uses(uses: Arc<TokenUses>, server: Weak<ApiServer>) -> Result<(), Infallible> {
    loop {
        let taken = uses.take().await;
        let Some(server) = server.upgrade() else { return Ok(()) };
        for used in taken {
            if let Err(error) = note(&server, &used).await {
                // The token's next use tries again.
                tracing::warn!(namespace = used.namespace, secret = used.secret, %error, "the use of a token is not noted");
            }
        }
    }
}

async fn note(server: &Arc<ApiServer>, used: &TokenUse) -> Result<(), Status> {
    let TokenUse { namespace, secret, uid } = used;
    let path = format!("/api/v1/namespaces/{namespace}/secrets/{secret}");
    let today = day(server.clock.now());
    let patch = Value::from(json!({"metadata": {"uid": uid, "labels": {LAST_USED: today}}}));
    // 404 and 409: the Secret is gone, or another bears its name.
    send(server, ["PATCH", &path, MERGE_PATCH], &patch, &[404, 409]).await?;
    Ok(())
}
