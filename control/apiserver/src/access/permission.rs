//! Whether a request may: the question to the cluster's authorizers, and the refusal in upstream's words.

use crate::{
    ApiServer,
    admission::Lookup,
    audit::Trail,
    authn::User,
    authz::{Answers, Asking, Attributes, Authorizer, Decision, forbidden_message},
};
use timonel_api::Status;

/// Rounds of questions to authorizers outside; each answer may lead to another question.
const MAX_ROUNDS: usize = 64;

impl ApiServer {
    /// Refuses what the user may not.
    pub(crate) async fn permit(
        &self,
        user: &User,
        attributes: &Attributes<'_>,
        trail: Option<&Trail>,
    ) -> Result<(), Status> {
        let decide = |lookup: &dyn Lookup| self.authorizer.authorize(user, attributes, lookup);
        let decision = self.settled(&Answers::default(), decide, || ()).await;
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

    /// What `decide` says once nothing that it asked of authorizers outside is open; before each further attempt
    /// `undo` takes back what the last one left. Without such authorizers `decide` runs once.
    pub(crate) async fn settled<T>(
        &self,
        answers: &Answers,
        mut decide: impl FnMut(&dyn Lookup) -> T,
        mut undo: impl FnMut(),
    ) -> T {
        let objects: &dyn Lookup = self.lookup.as_ref();
        if self.authorizer.chain.load().webhooks.is_empty() {
            return decide(objects);
        }
        for _ in 0..MAX_ROUNDS {
            let decided = decide(&Asking { objects, answers });
            let open = answers.take_open();
            if open.is_empty() {
                return decided;
            }
            undo();
            let chain = self.authorizer.chain.load_full();
            for question in open {
                let webhook = chain.webhooks.iter().find(|webhook| webhook.number == question.authorizer);
                let decision = match webhook {
                    Some(webhook) => Box::pin(webhook.ask(&question.spec)).await,
                    // It was replaced meanwhile; the next round asks its successor.
                    None => Decision::NoOpinion(String::new()),
                };
                answers.insert(question, decision);
            }
        }
        decide(&Asking { objects, answers })
    }
}
