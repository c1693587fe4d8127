//! The key that signs identity documents, and the certificate that others check them with.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair};
use aws_lc_rs::{encoding::AsDer, rsa::KeySize};
use base64::{Engine, engine::general_purpose::STANDARD};

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The key.
    #[error("generating the key of identity documents")]
    Key,
    /// The certificate.
    #[error("issuing the certificate of identity documents")]
    Certificate(#[from] rcgen::Error),
}

/// The signer of identity documents.
pub(crate) struct Signer {
    key: RsaKeyPair,
    certificate: String,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Signer").field("public_key", self.key.public_key()).finish_non_exhaustive()
    }
}

impl Signer {
    /// A fresh key with its certificate.
    pub(crate) fn generate() -> Result<Self, IdentityError> {
        let key = RsaKeyPair::generate(KeySize::Rsa2048).map_err(|_| IdentityError::Key)?;
        let pkcs8 = AsDer::<aws_lc_rs::encoding::Pkcs8V1Der<'_>>::as_der(&key).map_err(|_| IdentityError::Key)?;
        let pair = rcgen::KeyPair::try_from(pkcs8.as_ref().to_vec())?;
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "Amazon Web Services LLC");
        let certificate = params.self_signed(&pair)?.pem();
        Ok(Self { key, certificate })
    }

    /// The certificate, PEM.
    pub(crate) fn certificate(&self) -> &str {
        &self.certificate
    }

    /// The signature of a document: RSA over SHA-256, base64 in lines as AWS gives it.
    pub(crate) fn sign(&self, document: &str) -> Option<String> {
        let mut signature = vec![0; self.key.public_modulus_len()];
        self.key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), document.as_bytes(), &mut signature).ok()?;
        let text = STANDARD.encode(signature);
        let lines: Vec<&str> = (0..text.len()).step_by(64).map(|at| &text[at..text.len().min(at + 64)]).collect();
        Some(lines.join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};

    #[test]
    fn a_document_is_signed_by_the_key() {
        let signer = Signer::generate().unwrap();
        let signature = STANDARD.decode(signer.sign("{}").unwrap().replace('\n', "")).unwrap();
        let public = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, signer.key.public_key().as_ref());
        assert!(public.verify(b"{}", &signature).is_ok());
        assert!(public.verify(b"{ }", &signature).is_err());
        assert!(signer.certificate().starts_with("-----BEGIN CERTIFICATE-----"));
    }
}
