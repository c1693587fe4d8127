//! Approves the client certificates of kubelets whose requester the authorizer allows to have one.

use super::rules::{KUBELET_CLIENT, condition, is_kubelet_client, issued};
use crate::framework::{Action, Answer, Change, Controller, Key, Kind, Plan, Question, View, Write};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition},
    apimachinery::pkg::apis::meta::v1::Time,
};
use timonel_pki::CertificateRequest;

/// How old an authorizer's answer may be, and how soon a refused request is looked at again.
const FRESH: SignedDuration = SignedDuration::from_secs(30);
const RETRY: SignedDuration = SignedDuration::from_mins(2);

/// Approves requests.
#[derive(Debug)]
pub(crate) struct RequestApproval;

impl Controller for RequestApproval {
    fn name(&self) -> &'static str {
        "certificatesigningrequest-approving-controller"
    }

    fn reads(&self) -> &'static [Kind] {
        &[Kind::CertificateSigningRequest]
    }

    fn writes(&self) -> &'static [(&'static str, &'static str)] {
        &[("CertificateSigningRequest", "approval")]
    }

    fn keys(&self, _view: &View, change: &Change, keys: &mut Vec<Key>) {
        if change.new.is_some() {
            keys.push(Key::of(change.object().meta()));
        }
    }

    fn plan(&self, view: &View, key: &Key, now: Timestamp) -> Plan {
        let Some(request) = view.signing_requests.get(key) else { return Plan::none() };
        let decided = condition(request, "Approved").is_some() || condition(request, "Denied").is_some();
        if decided || issued(request) || request.spec.signer_name != KUBELET_CLIENT {
            return Plan::none();
        }
        let Ok(parsed) = CertificateRequest::parse(&request.spec.request.0) else { return Plan::none() };
        if !is_kubelet_client(request, &parsed) {
            return Plan::none();
        }
        let own = request.spec.username.as_deref() == Some(parsed.subject.common_name.as_str());
        let (subresource, message) = if own {
            ("selfnodeclient", "Auto approving self kubelet client certificate after SubjectAccessReview.")
        } else {
            ("nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview.")
        };
        let question = Question::Allowed {
            user: request.spec.username.clone().unwrap_or_default(),
            uid: request.spec.uid.clone().unwrap_or_default(),
            groups: request.spec.groups.clone().unwrap_or_default(),
            group: "certificates.k8s.io".to_owned(),
            resource: "certificatesigningrequests".to_owned(),
            subresource: subresource.to_owned(),
            verb: "create".to_owned(),
        };
        let since = now.saturating_sub(FRESH).unwrap_or(Timestamp::MIN);
        let mut plan = Plan::none();
        match view.memory.answer(&question, since) {
            Some(Answer::Allowed(true)) => plan.push(approved(request, message, now)),
            Some(_) => plan.look_again(now.saturating_add(RETRY).unwrap_or(Timestamp::MAX)),
            None => plan.push(Action::ask(question)),
        }
        plan
    }
}

fn approved(request: &CertificateSigningRequest, message: &str, now: Timestamp) -> Action {
    let mut request = request.clone();
    request.status.get_or_insert_default().conditions.get_or_insert_default().push(
        CertificateSigningRequestCondition {
            type_: "Approved".to_owned(),
            status: "True".to_owned(),
            reason: Some("AutoApproved".to_owned()),
            message: Some(message.to_owned()),
            last_update_time: Some(Time(now)),
            last_transition_time: None,
        },
    );
    Write::UpdateSubresource(request.into(), "approval").into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, object, outline};
    use k8s_openapi::ByteString;
    use serde_json::json;
    use timonel_pki::{CertificateSubject, new_request};

    fn view(organization: &str, usages: &[&str]) -> View {
        let subject = CertificateSubject {
            common_name: "system:node:n1".to_owned(),
            organizations: vec![organization.to_owned()],
            ..CertificateSubject::default()
        };
        let (pem, _key) = new_request(&subject).expect("a request");
        let request = ByteString(pem.into_bytes());
        let mut view = View::default();
        view.signing_requests
            .insert(object(json!({"metadata": {"name": "csr"}, "spec": {"request": request, "usages": usages,
            "signerName": KUBELET_CLIENT, "username": "system:bootstrap:x", "groups": ["system:bootstrappers"]}})));
        view
    }

    fn lines(view: &View) -> Vec<String> {
        let made = outline(&RequestApproval.plan(view, &Key::new("", "csr"), at(0)));
        made.into_iter().map(|made| made.line).collect()
    }

    #[test]
    fn the_authorizer_decides() {
        let usages = ["digital signature", "client auth"];
        let mut known = view("system:nodes", &usages);
        let asked = lines(&known);
        assert!(asked[0].contains("nodeclient") && !asked[0].contains("selfnodeclient"), "{asked:?}");
        let plan = RequestApproval.plan(&known, &Key::new("", "csr"), at(0));
        let Write::Ask(question) = plan.actions[0].write.clone() else { panic!("it asks first") };
        known.memory.learn(question.clone(), at(0), Answer::Allowed(false));
        assert_eq!(lines(&known).len(), 0);
        known.memory.learn(question, at(0), Answer::Allowed(true));
        assert_eq!(lines(&known), ["approval CertificateSigningRequest csr"]);
    }

    #[test]
    fn what_is_no_kubelets_is_left_to_people() {
        assert_eq!(lines(&view("system:masters", &["client auth"])).len(), 0);
        assert_eq!(lines(&view("system:nodes", &["server auth"])).len(), 0);
    }
}
