//! Whether a request may: the question to the cluster's authorizers, and the refusal in upstream's words.

use crate::{
    ApiServer,
    admission::Lookup,
    audit::Trail,
    authn::User,
    authz::{Attributes, Authorizer, forbidden_message},
};
use timonel_api::Status;

impl ApiServer {
    /// Refuses what the user may not.
    pub(crate) async fn permit(
        &self,
        user: &User,
        attributes: &Attributes<'_>,
        trail: Option<&Trail>,
    ) -> Result<(), Status> {
        let decision = self.authorizer.authorize(user, attributes, self.lookup.as_ref() as &dyn Lookup);
        if let Some(trail) = trail {
            trail.annotate("authorization.k8s.io/decision", if decision.is_allowed() { "allow" } else { "forbid" });
            trail.annotate("authorization.k8s.io/reason", decision.reason());
        }
        if decision.is_allowed() {
            return Ok(());
        }
        let message = forbidden_message(user, attributes, decision.reason());
        Err(Status::forbidden(attributes.group, attributes.resource, attributes.name, &message))
    }
}
