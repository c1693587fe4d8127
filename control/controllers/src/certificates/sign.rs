//! Has approved requests signed, where their form fits their signer.

use super::rules::{CLIENT, KUBELET_CLIENT, KUBELET_SERVING, LEGACY, condition, issued, may_be_signed};
use crate::framework::{Action, Change, Controller, Key, Kind, Object, Plan, View, Write};
use jiff::Timestamp;
use k8s_openapi::{
    api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition},
    apimachinery::pkg::apis::meta::v1::Time,
};
use timonel_pki::CertificateRequest;

/// Signs requests.
#[derive(Debug)]
pub(crate) struct RequestSigning;

impl Controller for RequestSigning {
    fn name(&self) -> &'static str {
        "certificatesigningrequest-signing-controller"
    }

    fn reads(&self) -> &'static [Kind] {
        &[Kind::CertificateSigningRequest]
    }

    fn writes(&self) -> &'static [(&'static str, &'static str)] {
        &[("CertificateSigningRequest", "status.certificate")]
    }

    fn keys(&self, _view: &View, change: &Change, keys: &mut Vec<Key>) {
        if change.new.is_some() {
            keys.push(Key::of(change.object().meta()));
        }
    }

    fn plan(&self, view: &View, key: &Key, now: Timestamp) -> Plan {
        let Some(request) = view.signing_requests.get(key) else { return Plan::none() };
        let ours = [CLIENT, KUBELET_CLIENT, KUBELET_SERVING, LEGACY].contains(&request.spec.signer_name.as_str());
        let approved = condition(request, "Approved").is_some() && condition(request, "Denied").is_none();
        if !ours || !approved || issued(request) || condition(request, "Failed").is_some() {
            return Plan::none();
        }
        match CertificateRequest::parse(&request.spec.request.0) {
            Ok(parsed) if may_be_signed(request, &parsed) => {
                vec![Write::Sign(Object::from((**request).clone())).into()].into()
            }
            Ok(_) => vec![failed(request, "the request does not have the form that its signer requires", now)].into(),
            Err(error) => vec![failed(request, &error.to_string(), now)].into(),
        }
    }
}

fn failed(request: &CertificateSigningRequest, message: &str, now: Timestamp) -> Action {
    let mut request = request.clone();
    request.status.get_or_insert_default().conditions.get_or_insert_default().push(
        CertificateSigningRequestCondition {
            type_: "Failed".to_owned(),
            status: "True".to_owned(),
            reason: Some("SignerValidationFailure".to_owned()),
            message: Some(message.to_owned()),
            last_update_time: Some(Time(now)),
            last_transition_time: Some(Time(now)),
        },
    );
    Action::update_status(request)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, lines, object};
    use k8s_openapi::ByteString;
    use serde_json::json;
    use timonel_pki::{CertificateSubject, new_request};

    fn check(signer: &str, names: &[&str], usages: &[&str], conditions: &[&str], expected: &[&str]) {
        let subject = CertificateSubject {
            common_name: "system:node:n1".to_owned(),
            organizations: vec!["system:nodes".to_owned()],
            dns_names: names.iter().map(|name| (*name).to_owned()).collect(),
            ..CertificateSubject::default()
        };
        let (pem, _key) = new_request(&subject).expect("a request");
        let conditions: Vec<_> = conditions.iter().map(|kind| json!({"type": kind, "status": "True"})).collect();
        let mut view = View::default();
        view.signing_requests.insert(object(json!({"metadata": {"name": "csr"}, "status": {"conditions": conditions},
            "spec": {"request": ByteString(pem.into_bytes()), "usages": usages, "signerName": signer, "username": "system:node:n1"}})));
        assert_eq!(lines(&RequestSigning.plan(&view, &Key::new("", "csr"), at(0))), expected);
    }

    #[test]
    fn approved_and_fit_or_refused() {
        let (sign, refuse) = (["sign CertificateSigningRequest csr"], ["status CertificateSigningRequest csr"]);
        check(KUBELET_CLIENT, &[], &["client auth"], &["Approved"], &sign);
        check(KUBELET_CLIENT, &[], &["client auth"], &[], &[]);
        check(KUBELET_CLIENT, &["n1"], &["client auth"], &["Approved"], &refuse);
        check(KUBELET_SERVING, &["n1"], &["server auth"], &["Approved"], &sign);
        check(KUBELET_SERVING, &[], &["server auth"], &["Approved"], &refuse);
        check(CLIENT, &[], &["client auth"], &["Approved"], &sign);
        check("example.org/x", &[], &["client auth"], &["Approved"], &[]);
        check(CLIENT, &[], &["client auth"], &["Approved", "Denied"], &[]);
    }
}
