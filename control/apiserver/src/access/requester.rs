//! Who makes a request: authentication, the beginning of its audit trail, acting as somebody else.

use crate::{
    ApiServer,
    admission::Lookup,
    audit::{AUDIT_ID, Asked, Told, Trail, audit_id},
    authn::{self, AUTHENTICATED_GROUP, Identity, Unauthorized, User, impersonate, is_impersonating},
    authz::Answers,
    config::Caller,
    registry,
};
use http::{HeaderMap, header::AUTHORIZATION};
use std::sync::Arc;
use timonel_api::Status;

impl ApiServer {
    /// The name of a request in the audit log: the client's, or a new one. Parts of this process are not told one
    /// unless they are audited.
    pub(crate) fn audit_id(&self, headers: &HeaderMap, caller: &Caller) -> String {
        let named = headers.get(AUDIT_ID).and_then(|id| id.to_str().ok()).filter(|id| !id.is_empty());
        match (named, caller) {
            (Some(id), _) => id.to_owned(),
            (None, Caller::Internal(_)) if self.access.audit.load().is_none() => String::new(),
            (None, _) => audit_id(&self.entropy),
        }
    }

    /// The user of a request: who the connection or the token says, or whom that user may act as. From here on the
    /// request is audited.
    pub(crate) async fn requester(&self, asked: Asked<'_>, caller: &Caller, told: &Told) -> Result<Arc<User>, Status> {
        let headers = &asked.parts.headers;
        let user = match caller {
            Caller::Internal(user) => Ok((user.clone(), None)),
            Caller::Peer(peer) => match peer.user() {
                Some(user) => Ok((user, None)),
                None => {
                    // Large, and seldom: most requests come with a certificate or from this process.
                    let identity = Box::pin(self.by_token(headers, asked.info.path)).await;
                    identity.map(|identity| (Arc::new(identity.user), identity.stale_token))
                }
            },
        };
        let audit = self.access.audit.load_full();
        let begin = |user| audit.as_ref().and_then(|audit| Trail::begin(audit, asked, user));
        let (user, stale_token) = user.map_err(|error| {
            tracing::debug!(%error, "not authenticated");
            if let Some(trail) = begin(None) {
                trail.unauthenticated(headers, false);
            }
            Status::unauthorized("Unauthorized")
        })?;
        if let Some(trail) = begin(Some(&user)) {
            if let Some(stale) = &stale_token {
                trail.annotate("authentication.k8s.io/stale-token", stale);
            }
            // Set once for each request, right here.
            let _ = told.trail.set(trail);
        }
        let attributes = asked.info.attributes();
        let act = |lookup: &dyn Lookup| impersonate(headers, &user, &attributes, self.authorizer.as_ref(), lookup);
        let other = if is_impersonating(headers) {
            let acted = Box::pin(self.settled(&Answers::default(), act, || ())).await;
            acted.map_err(registry::admission_status)?
        } else {
            None
        };
        let Some(other) = other else { return Ok(user) };
        if let Some(trail) = told.trail.get() {
            trail.impersonated(&other.user, other.constraint);
        }
        Ok(Arc::new(other.user))
    }

    /// Who makes a request whose connection names nobody.
    async fn by_token(&self, headers: &HeaderMap, path: &str) -> Result<Identity, Unauthorized> {
        let header = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        if let Some(token) = header.and_then(authn::bearer) {
            return self.identify(token, self.authenticator.audiences()).await;
        }
        if self.access.tokens.load().allows_anonymous(path, self.authenticator.allows_anonymous()) {
            return Ok(Identity { user: User::anonymous(), audiences: Vec::new(), stale_token: None });
        }
        Err(Unauthorized("no credentials".to_owned()))
    }

    /// Whom a token stands for, for some audiences: the cluster's own tokens are known here, others are asked about.
    pub(crate) async fn identify(&self, token: &str, audiences: &[String]) -> Result<Identity, Unauthorized> {
        let lookup: &dyn Lookup = self.lookup.as_ref();
        let own = match self.authenticator.authenticate_token(token, audiences, lookup, self.clock.now()) {
            Ok(identity) => return Ok(identity),
            Err(why) => why,
        };
        let others = self.access.tokens.load_full();
        match others.authenticate(token, audiences).await {
            Ok(mut identity) => {
                identity.user = identity.user.with_group(AUTHENTICATED_GROUP);
                Ok(identity)
            }
            Err(wrong) if wrong.is_empty() => Err(own),
            Err(wrong) => {
                let first = own.0.trim_start_matches('[').trim_end_matches(']');
                Err(Unauthorized(format!("[{first}, {}]", wrong.join(", "))))
            }
        }
    }
}
