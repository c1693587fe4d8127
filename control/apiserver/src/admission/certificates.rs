//! Who may approve and sign certificate requests, for whom, and who may vouch for a signer's roots:
//! CertificateApproval, CertificateSigning, CertificateSubjectRestriction, ClusterTrustBundleAttest.

use super::{AdmissionError, AdmissionPlugin, AdmissionRequest, Lookup, Operation};
use crate::{
    authn::{MASTERS_GROUP, User},
    authz::{Attributes, Authorizer},
};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use std::sync::Arc;
use timonel_pki::CertificateRequest;

const GROUP: &str = "certificates.k8s.io";
const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";

/// The four rules.
#[derive(Debug)]
pub struct CertificateAdmission {
    authorizer: Arc<dyn Authorizer>,
}

impl CertificateAdmission {
    /// Asks `authorizer` who may `approve`, `sign` and `attest` for a signer.
    #[must_use]
    pub fn new(authorizer: Arc<dyn Authorizer>) -> Self {
        Self { authorizer }
    }

    /// Whether the user may act for the signer by name, or for all signers of its domain.
    fn may(&self, user: &User, verb: &str, signer: &str, lookup: &dyn Lookup) -> bool {
        let domain = signer.split_once('/').map(|(domain, _)| format!("{domain}/*"));
        [Some(signer.to_owned()), domain].into_iter().flatten().any(|name| {
            let attributes = Attributes { version: "*", ..Attributes::resource(verb, GROUP, "signers", "", &name) };
            self.authorizer.authorize(user, &attributes, lookup).is_allowed()
        })
    }

    /// A bundle's signer never changes, so the new object's counts.
    fn check_bundle(&self, request: &AdmissionRequest<'_>, lookup: &dyn Lookup) -> Result<(), AdmissionError> {
        let signer = request.object.str_at(&["spec", "signerName"]);
        let writes = matches!(request.operation, Operation::Create | Operation::Update);
        let same = request.old.is_some_and(|old| old.get("spec") == request.object.get("spec"));
        if !writes || signer.is_empty() || same || self.may(request.user, "attest", signer, lookup) {
            return Ok(());
        }
        Err(request.forbidden(&format!("user not permitted to attest for signerName {signer:?}")))
    }
}

impl AdmissionPlugin for CertificateAdmission {
    fn name(&self) -> &'static str {
        "Certificates"
    }

    fn validate(&self, request: &mut AdmissionRequest<'_>, lookup: &dyn Lookup) -> Result<(), AdmissionError> {
        if request.is(GROUP, "clustertrustbundles") {
            return self.check_bundle(request, lookup);
        }
        if !request.is_any(GROUP, "certificatesigningrequests") {
            return Ok(());
        }
        match (request.operation, request.subresource, request.old) {
            (Operation::Create, "", _) => check_subject(request),
            (Operation::Update, "approval", Some(old)) => {
                // The stored signer counts: the request cannot change it.
                let signer = old.str_at(&["spec", "signerName"]);
                if self.may(request.user, "approve", signer, lookup) {
                    return Ok(());
                }
                Err(request.forbidden(&format!("user not permitted to approve requests with signerName {signer:?}")))
            }
            (Operation::Update, "status", Some(old)) => {
                let changed = ["certificate", "conditions"]
                    .iter()
                    .any(|field| old.at(&["status", field]) != request.object.at(&["status", field]));
                let signer = old.str_at(&["spec", "signerName"]);
                if !changed || self.may(request.user, "sign", signer, lookup) {
                    return Ok(());
                }
                Err(request.forbidden(&format!("user not permitted to sign requests with signerName {signer:?}")))
            }
            _ => Ok(()),
        }
    }
}

fn check_subject(request: &AdmissionRequest<'_>) -> Result<(), AdmissionError> {
    if request.object.str_at(&["spec", "signerName"]) != CLIENT_SIGNER {
        return Ok(());
    }
    let parsed = BASE64
        .decode(request.object.str_at(&["spec", "request"]))
        .map_err(|error| error.to_string())
        .and_then(|pem| CertificateRequest::parse(&pem).map_err(|error| error.to_string()))
        .map_err(|why| request.forbidden(&format!("failed to parse CSR: {why}")))?;
    if parsed.subject.organizations.iter().any(|group| group == MASTERS_GROUP) {
        let why = format!("use of {CLIENT_SIGNER} signer with {MASTERS_GROUP} group is not allowed");
        return Err(request.forbidden(&why));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        admission::testing::{Objects, Write},
        authz::Decision,
    };
    use serde_json::json;
    use timonel_pki::{CertificateSubject, new_request};

    /// Lets `approver` approve for one signer and `signer` sign for a domain.
    #[derive(Debug)]
    struct Fixed;

    impl Authorizer for Fixed {
        fn authorize(&self, user: &User, of: &Attributes<'_>, _: &dyn Lookup) -> Decision {
            match (user.name.as_str(), of.verb, of.name) {
                ("approver", "approve", "a/b") | ("signer", "sign" | "attest", "a/*") => Decision::Allow(String::new()),
                _ => Decision::NoOpinion(String::new()),
            }
        }
    }

    #[test]
    fn approval_and_signing_are_rights_of_their_own() {
        let csr = |status| json!({"metadata": {"name": "c"}, "spec": {"signerName": "a/b"}, "status": status});
        for (user, subresource, status, allowed) in [
            ("approver", "approval", json!({}), true),
            ("signer", "approval", json!({}), false),
            ("signer", "status", json!({"certificate": "x"}), true),
            ("approver", "status", json!({"certificate": "x"}), false),
            ("approver", "status", json!({}), true),
            ("eve", "", json!({}), true),
        ] {
            let write = Write::update(GROUP, "certificatesigningrequests", csr(json!({})), csr(status));
            let done = write
                .on(subresource)
                .by(User::new(user, &[]))
                .run(&CertificateAdmission::new(Arc::new(Fixed)), &Objects::default());
            assert_eq!(done.is_ok(), allowed, "{user} {subresource}");
        }
    }

    #[test]
    fn nobody_asks_to_be_master() {
        for (group, signer, allowed) in [
            ("dev", CLIENT_SIGNER, true),
            (MASTERS_GROUP, CLIENT_SIGNER, false),
            (MASTERS_GROUP, "example.com/own", true),
        ] {
            let subject =
                CertificateSubject { common_name: "x".into(), organizations: vec![group.into()], ..Default::default() };
            let pem = BASE64.encode(new_request(&subject).unwrap().0);
            let csr = json!({"metadata": {"name": "c"}, "spec": {"signerName": signer, "request": pem}});
            let done = Write::create(GROUP, "certificatesigningrequests", csr)
                .run(&CertificateAdmission::new(Arc::new(Fixed)), &Objects::default());
            assert_eq!(done.is_ok(), allowed, "{group} {signer}");
        }
    }

    #[test]
    fn bundles_of_a_signer_need_its_attestation() {
        let admission = CertificateAdmission::new(Arc::new(Fixed));
        let bundle =
            |signer: &str| json!({"metadata": {"name": "b"}, "spec": {"signerName": signer, "trustBundle": "x"}});
        for (user, signer, allowed) in [("signer", "a/b", true), ("approver", "a/b", false), ("approver", "", true)] {
            let write = Write::create(GROUP, "clustertrustbundles", bundle(signer)).by(User::new(user, &[]));
            assert_eq!(write.run(&admission, &Objects::default()).is_ok(), allowed, "{user} {signer}");
        }
    }
}
