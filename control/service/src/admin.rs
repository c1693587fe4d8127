//! What the operator asks of the service as a whole, beside the fleet's API: backup and restore of a cluster, moving
//! the store, sealing it anew. Who may is decided by the fleet's own authorization, by path and verb.

use crate::{
    config::StoreOpener,
    keys, layout,
    places::{Places, Route},
    restore::{self, Backup, RestoreError},
    secrets::{SecretError, Secrets},
    tenant::Tenant,
};
use bytes::Bytes;
use futures::TryStreamExt;
use http::{Method, Request, Response, StatusCode, header, request::Parts};
use http_body::Frame;
use http_body_util::{BodyExt, Limited, StreamBody};
use kube::{Api, Client};
use serde::Deserialize;
use std::{path::PathBuf, sync::Arc};
use timonel_apiserver::{Body, Caller};
use timonel_fleet::Cluster;
use timonel_runtime::{Clock, Entropy};
use timonel_store::{Targets, TransferError, export, migrate};

/// What every path of this module starts with.
pub(crate) const PREFIX: &str = "/timonel/v1/";
/// Largest small request.
const SMALL_BYTES: usize = 64 << 10;

/// Why something was not done, as it is told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AdminError {
    #[error("{0}")]
    Refused(StatusCode, String),
    #[error(transparent)]
    Api(#[from] kube::Error),
    #[error(transparent)]
    Transfer(#[from] TransferError),
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error(transparent)]
    Restore(#[from] RestoreError),
}

impl AdminError {
    fn status(&self) -> StatusCode {
        let code = |code: u16| StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        match self {
            Self::Refused(status, _) => *status,
            Self::Api(kube::Error::Api(status)) => code(status.code),
            Self::Transfer(TransferError::Occupied(_)) | Self::Restore(RestoreError::Transfer(_)) => {
                StatusCode::CONFLICT
            }
            Self::Restore(RestoreError::Archive(_) | RestoreError::Header(_)) => StatusCode::BAD_REQUEST,
            Self::Restore(RestoreError::Api(kube::Error::Api(status))) => code(status.code),
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

#[allow(clippy::needless_pass_by_value, reason = "errors are handed over whole")]
fn refused<T>(status: StatusCode, why: impl ToString) -> Result<T, AdminError> {
    Err(AdminError::Refused(status, why.to_string()))
}

/// What the operator's requests need.
#[derive(Clone)]
pub(crate) struct Admin {
    pub(crate) fleet: Client,
    pub(crate) places: Places,
    pub(crate) secrets: Secrets,
    pub(crate) opener: Option<Arc<dyn StoreOpener>>,
    pub(crate) data: PathBuf,
    pub(crate) clock: Clock,
    pub(crate) entropy: Entropy,
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Admin")
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Migrate {
    to: String,
    /// Resources that are to be kept apart there, each `GROUP/RESOURCE#ADDRESS`.
    #[serde(default)]
    overrides: Vec<String>,
}

impl Admin {
    /// Answers a request whose path starts with [`PREFIX`].
    pub(crate) async fn answer(&self, fleet: &Tenant, caller: Caller, request: Request<Body>) -> Response<Body> {
        let (asked, body) = request.into_parts();
        let answer = match self.allowed(fleet, caller, &asked).await {
            Ok(()) => self.route(&asked, body).await,
            Err(error) => Err(error),
        };
        answer.unwrap_or_else(|error| {
            let mut message = error.to_string();
            let mut source = std::error::Error::source(&error);
            while let Some(cause) = source {
                message = format!("{message}: {cause}");
                source = cause.source();
            }
            tracing::warn!(path = asked.uri.path(), method = %asked.method, %message, "not done");
            let mut response = Response::new(Body::from(message));
            *response.status_mut() = error.status();
            response
        })
    }

    /// Asks the fleet's API whether the caller may, as if it were a path of its own.
    async fn allowed(&self, fleet: &Tenant, caller: Caller, request: &Parts) -> Result<(), AdminError> {
        let verb = request.method.as_str().to_ascii_lowercase();
        let review = serde_json::json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"nonResourceAttributes": {"path": request.uri.path(), "verb": verb}},
        });
        let mut asked = Request::post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews")
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(token) = request.headers.get(header::AUTHORIZATION) {
            asked = asked.header(header::AUTHORIZATION, token);
        }
        let asked = asked.body(Body::from(review.to_string()));
        let asked = asked.or_else(|error| refused(StatusCode::BAD_REQUEST, error))?;
        let answer = fleet.api.call(asked, caller).await;
        let status = answer.status();
        if !status.is_success() {
            return refused(status, "who is asking is not known or may not ask");
        }
        let body = Limited::new(answer.into_body(), SMALL_BYTES).collect().await;
        let body = body.or_else(|error| refused(StatusCode::INTERNAL_SERVER_ERROR, error))?.to_bytes();
        let review: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        if review["status"]["allowed"] == serde_json::Value::Bool(true) {
            return Ok(());
        }
        refused(StatusCode::FORBIDDEN, format!("{verb} {} is not allowed", request.uri.path()))
    }

    async fn route(&self, request: &Parts, body: Body) -> Result<Response<Body>, AdminError> {
        let parts: Vec<&str> = request.uri.path().strip_prefix(PREFIX).unwrap_or_default().split('/').collect();
        match (&request.method, &parts[..]) {
            (&Method::GET, ["projects", project, "clusters", name, "backup"]) => self.backup(project, name).await,
            (&Method::POST, ["projects", project, "clusters", name, "restore"]) => {
                let keep_keys = request.uri.query() == Some("keepKeys=true");
                let restored = self.restore(project, name, keep_keys, body).await?;
                Ok(json(&serde_json::json!({"uid": restored.0, "keys": restored.1})))
            }
            (&Method::POST, ["store", "rewrite"]) => self.rewrite().await,
            (&Method::POST, ["store", "migrate"]) => self.migrate(body).await,
            _ => refused(StatusCode::NOT_FOUND, "no such path"),
        }
    }

    async fn backup(&self, project: &str, name: &str) -> Result<Response<Body>, AdminError> {
        let cluster = Api::<Cluster>::namespaced(self.fleet.clone(), project).get(name).await?;
        let uid = cluster.metadata.uid.clone().unwrap_or_default();
        let sources = self.places.sources().await.map_err(TransferError::from)?;
        let revision = sources.first().map_or(0, |source| source.revision);
        let mut spec = cluster.spec;
        spec.network = cluster.status.map(|status| status.network).unwrap_or(spec.network);
        let header = Backup {
            project: project.to_owned(),
            name: name.to_owned(),
            uid: uid.clone(),
            revision,
            created: self.clock.now().to_string(),
            spec,
            keys: self.secrets.sealed(&keys::name(&uid)).await?,
        };
        let header = serde_json::to_vec(&header).or_else(|error| refused(StatusCode::INTERNAL_SERVER_ERROR, error))?;
        let parts = export(sources, layout::cluster(&uid).into(), &header);
        let body = StreamBody::new(Box::pin(parts.map_ok(Frame::data)));
        let mut response = Response::new(Body::new(body));
        let kind = header::HeaderValue::from_static("application/octet-stream");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        tracing::info!(project, cluster = name, revision, "backup");
        Ok(response)
    }

    /// Returns the new cluster's UID and how many keys it has.
    async fn restore(
        &self,
        project: &str,
        name: &str,
        keep_keys: bool,
        body: Body,
    ) -> Result<(String, u64), AdminError> {
        let spool = restore::spool(&self.data, &self.entropy.suffix(12));
        let taken = match restore::take(body, &spool).await {
            Ok(header) => restore::restore(self, project, name, keep_keys, &spool, header).await,
            Err(error) => Err(error),
        };
        // It holds nothing that the caller does not have.
        let _ = tokio::fs::remove_file(&spool).await;
        Ok(taken?)
    }

    async fn rewrite(&self) -> Result<Response<Body>, AdminError> {
        let Some(done) = self.places.rewrite().await.map_err(TransferError::from)? else {
            return refused(StatusCode::CONFLICT, "no encryption is configured: --encryption-provider-config");
        };
        tracing::info!(objects = done.objects, rewritten = done.rewritten, "sealed anew");
        Ok(json(&serde_json::json!({"objects": done.objects, "rewritten": done.rewritten})))
    }

    async fn migrate(&self, body: Body) -> Result<Response<Body>, AdminError> {
        let body = Limited::new(body, SMALL_BYTES).collect().await;
        let body = body.or_else(|error| refused(StatusCode::BAD_REQUEST, error))?.to_bytes();
        let asked: Migrate = serde_json::from_slice(&body).or_else(|error| refused(StatusCode::BAD_REQUEST, error))?;
        let Some(opener) = &self.opener else {
            return refused(StatusCode::CONFLICT, "no other store can be opened here");
        };
        let bad = |why: String| AdminError::Refused(StatusCode::BAD_REQUEST, why);
        let mut stores = vec![opener.open(&asked.to).await.map_err(bad)?];
        let apart = opener.open_apart(&asked.overrides).await.map_err(bad)?;
        let route = Route::new(&apart).map_err(|error| bad(error.to_string()))?;
        stores.extend(apart.into_iter().map(|apart| apart.store));
        let targets = Targets { stores, route: Arc::new(move |key| route.of(key)) };
        let moved = migrate(&self.places.moving(), &targets).await?;
        tracing::warn!(
            keys = moved.keys,
            to = asked.to,
            "the store has moved: this server reads on, and writes no more"
        );
        Ok(json(&serde_json::json!({"keys": moved.keys})))
    }
}

fn json(value: &serde_json::Value) -> Response<Body> {
    let mut response = Response::new(Body::from(Bytes::from(value.to_string())));
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}
