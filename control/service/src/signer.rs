//! Signs the certificate requests that the cluster's controllers approved and the tokens that they hand out, with the
//! cluster's authority and keys.

use async_trait::async_trait;
use jiff::SignedDuration;
use std::{sync::Arc, time::Duration};
use timonel_controllers::{ClusterSigner, SignRequest};
use timonel_pki::{CertificateRequest, ClusterPki, Usage, Validity};
use timonel_runtime::Clock;

/// Life of a certificate when the requester names none, and the longest it may name.
const LIFE: Duration = Duration::from_secs(365 * 24 * 3600);
/// Shortest life (the API's own bound).
const SHORTEST: Duration = Duration::from_secs(600);

/// The authorities of one cluster, as its controllers see them.
pub(crate) struct Signer {
    pub(crate) pki: Arc<ClusterPki>,
    pub(crate) clock: Clock,
}

#[async_trait]
impl ClusterSigner for Signer {
    async fn sign_certificate(&self, request: SignRequest) -> Result<Vec<u8>, String> {
        let parsed = CertificateRequest::parse(&request.request_pem).map_err(|error| error.to_string())?;
        let usages = usages(&request.usages);
        if usages.is_empty() {
            return Err("no usage that this signer knows was asked for".to_owned());
        }
        let life = request.duration.unwrap_or(LIFE).clamp(SHORTEST, LIFE);
        let life = SignedDuration::try_from(life).map_err(|error| error.to_string())?;
        let validity = Validity::starting(self.clock.now(), life);
        let cert = self.pki.cluster_ca.sign(&parsed, &usages, validity).map_err(|error| error.to_string())?;
        Ok(cert.into_bytes())
    }

    async fn sign_token(&self, claims: &serde_json::Value) -> Result<String, String> {
        self.pki.keys.signing().sign(claims).map_err(|error| error.to_string())
    }
}

fn usages(words: &[String]) -> Vec<Usage> {
    let mut usages = Vec::new();
    for word in words {
        match word.as_str() {
            "client auth" => usages.push(Usage::Client),
            "server auth" => usages.push(Usage::Server),
            _ => {} // key usages such as "digital signature" are in every certificate
        }
    }
    usages
}

#[cfg(test)]
mod tests {
    use super::*;
    use timonel_pki::{CertificateSubject, new_request, subject_of};

    #[tokio::test]
    async fn an_approved_request_is_signed_for_its_subject() {
        let clock = Clock::system();
        let pki = Arc::new(ClusterPki::create(clock.now()).unwrap());
        let subject = CertificateSubject { common_name: "jane".into(), ..CertificateSubject::default() };
        let (request, _) = new_request(&subject).unwrap();
        let ask = |usages: &[&str]| SignRequest {
            signer_name: "kubernetes.io/kube-apiserver-client".into(),
            request_pem: request.clone().into_bytes(),
            usages: usages.iter().map(|usage| (*usage).to_owned()).collect(),
            duration: None,
        };
        let signer = Signer { pki, clock };
        let pem = signer.sign_certificate(ask(&["client auth", "digital signature"])).await.unwrap();
        let der = rustls_pki_types::pem::PemObject::from_pem_slice(&pem);
        let der: rustls_pki_types::CertificateDer<'_> = der.unwrap();
        assert_eq!(subject_of(&der).unwrap().common_name, "jane");
        assert!(signer.sign_certificate(ask(&["digital signature"])).await.is_err());
    }
}
