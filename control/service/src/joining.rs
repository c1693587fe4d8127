//! Joining over HTTP: takes the request, finds the Machine, signs, records. Who may join is decided in `join`.

use crate::{
    join::{self, IdentityVerifier, InstanceIdentity, Refusal},
    tenant::Tenant,
};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use kube::{
    Api, Client,
    api::{ListParams, Patch, PatchParams},
    runtime::reflector::Store,
};
use std::{sync::Arc, time::Duration};
use timonel_apiserver::Body;
use timonel_fleet::{JoinAnswer, JoinRequest, Machine, NodePool};
use timonel_pki::{CertificateRequest, Usage, Validity};
use timonel_runtime::Clock;

/// Largest request to join.
const JOIN_BYTES: usize = 64 * 1024;
/// Time for such a request to arrive.
const JOIN_TIME: Duration = Duration::from_secs(10);
/// Life of a node's certificate.
const NODE_LIFE: jiff::SignedDuration = jiff::SignedDuration::from_hours(24 * 7);
/// When a node is to join again, seconds: two thirds of that.
const RENEW_AFTER: u32 = 7 * 24 * 3600 / 3 * 2;

/// Why there is no certificate, as it is told.
type Refused = (StatusCode, String);

#[allow(clippy::needless_pass_by_value, reason = "errors are handed over whole")]
fn bad(error: impl ToString) -> Refused {
    (StatusCode::BAD_REQUEST, error.to_string())
}

#[allow(clippy::needless_pass_by_value, reason = "errors are handed over whole")]
fn inner(error: impl ToString) -> Refused {
    (StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}

/// What joining needs.
#[derive(Clone)]
pub(crate) struct Joining {
    pub(crate) fleet: Client,
    pub(crate) machines: Store<Machine>,
    pub(crate) verifier: Option<Arc<dyn IdentityVerifier>>,
    pub(crate) clock: Clock,
}

impl std::fmt::Debug for Joining {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Joining").field("verifier", &self.verifier).finish()
    }
}

impl Joining {
    /// Answers a machine that wants to be a node.
    pub(crate) async fn answer(&self, tenant: &Tenant, request: Request<Body>) -> Response<Body> {
        let answer = self.join(tenant, request).await;
        let answer = answer.and_then(|answer| serde_json::to_vec(&answer).map_err(inner));
        let (status, kind, body) = match answer {
            Ok(body) => (StatusCode::OK, "application/json", Bytes::from(body)),
            Err((status, message)) => {
                tracing::warn!(cluster = %tenant.server_name, %status, %message, "join refused");
                (status, "text/plain", Bytes::from(message))
            }
        };
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = status;
        response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
        response
    }

    async fn join(&self, tenant: &Tenant, request: Request<Body>) -> Result<JoinAnswer, Refused> {
        if request.method() != Method::POST {
            return Err((StatusCode::METHOD_NOT_ALLOWED, "POST only".to_owned()));
        }
        let body = Limited::new(request.into_body(), JOIN_BYTES).collect();
        let body = tokio::time::timeout(JOIN_TIME, body).await.map_err(bad)?.map_err(bad)?;
        let asked: JoinRequest = serde_json::from_slice(&body.to_bytes()).map_err(bad)?;
        let verifier = self.verifier.as_ref().ok_or_else(|| inner("no cloud is configured"))?;
        let identity = verifier
            .verify(&asked.document, &asked.signature)
            .map_err(|why| (StatusCode::FORBIDDEN, Refusal::Identity(why).to_string()))?;
        let csr = CertificateRequest::parse(asked.request.as_bytes()).map_err(bad)?;
        let machine = self.machine(&identity, &csr, &tenant.uid).await?;
        let project = machine.metadata.namespace.clone().unwrap_or_default();
        let pools: Api<NodePool> = Api::namespaced(self.fleet.clone(), &project);
        let pool = pools.get_opt(&machine.spec.pool).await.map_err(inner)?;
        let validity = Validity::starting(self.clock.now(), NODE_LIFE);
        let ca = &tenant.pki.cluster_ca;
        let certificate = ca.sign(&csr, &[Usage::Client], validity).map_err(inner)?;
        let api: Api<Machine> = Api::namespaced(self.fleet.clone(), &project);
        let patch = serde_json::json!({"status": {"joinedInstance": identity.instance_id}});
        let name = machine.metadata.name.as_deref().unwrap_or_default();
        api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await.map_err(inner)?;
        tracing::info!(cluster = %tenant.server_name, machine = name, "joined");
        Ok(JoinAnswer {
            certificate,
            authority: ca.cert_pem().to_owned(),
            renew_after_seconds: RENEW_AFTER,
            node: join::settings(&machine, pool.as_ref(), &tenant.settings),
        })
    }

    /// The Machine that may join. The cache may not show yet what was ordered a moment ago: then the API is asked.
    async fn machine(
        &self,
        identity: &InstanceIdentity,
        csr: &CertificateRequest,
        cluster: &str,
    ) -> Result<Machine, Refused> {
        let known = self.machines.state();
        let decided = join::decide(identity, csr, cluster, known.iter().map(Arc::as_ref)).cloned();
        let decided = match decided {
            Err(Refusal::Unknown(_)) => {
                let api: Api<Machine> = Api::all(self.fleet.clone());
                let machines = api.list(&ListParams::default()).await.map_err(inner)?;
                join::decide(identity, csr, cluster, &machines.items).cloned()
            }
            decided => decided,
        };
        decided.map_err(|refusal| (StatusCode::FORBIDDEN, refusal.to_string()))
    }
}
