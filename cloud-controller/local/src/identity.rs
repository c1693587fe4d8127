//! Signed identity documents: how a machine proves which instance it is.

use crate::{error::LocalError, records::replace};
use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use std::{fs, path::Path};
use thiserror::Error;

/// Longest document that is looked at.
const DOCUMENT_BYTES: usize = 16 << 10;

/// What an instance is, in the words of EC2's identity document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IdentityDocument {
    /// Account.
    pub account_id: String,
    /// Zone.
    pub availability_zone: String,
    /// Image.
    pub image_id: String,
    /// The instance.
    pub instance_id: String,
    /// Instance type.
    pub instance_type: String,
    /// When it was ordered.
    pub pending_time: String,
    /// Its address.
    pub private_ip: String,
    /// Region.
    pub region: String,
    /// Version of the document's form.
    pub version: String,
}

/// Why a document is not believed.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum IdentityError {
    /// The signature is not base64.
    #[error("the signature is not base64")]
    Encoding,
    /// The signature is not this key's over this document.
    #[error("the signature does not match")]
    Signature,
    /// Signed, but no identity document.
    #[error("not an identity document: {0}")]
    Document(String),
}

/// Believes a document only if `signature` (base64) is `public_key`'s over exactly these bytes.
///
/// # Errors
/// When it is not, or what was signed is no identity document.
pub fn verify_identity(document: &str, signature: &str, public_key: &[u8]) -> Result<IdentityDocument, IdentityError> {
    if document.len() > DOCUMENT_BYTES {
        return Err(IdentityError::Document("too long".to_owned()));
    }
    let compact: String = signature.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    let signature = STANDARD.decode(compact).map_err(|_| IdentityError::Encoding)?;
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, public_key)
        .verify(document.as_bytes(), &signature)
        .map_err(|_| IdentityError::Signature)?;
    serde_json::from_str(document).map_err(|error| IdentityError::Document(error.to_string()))
}

/// The key of a cloud.
#[derive(Debug)]
pub(crate) struct Signer {
    key: EcdsaKeyPair,
}

impl Signer {
    /// The key in that file; made at first.
    pub(crate) fn open(path: &Path) -> Result<Self, LocalError> {
        let broken = |error: &dyn std::fmt::Display| LocalError::Key(format!("{}: {error}", path.display()));
        if !path.exists() {
            let made = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map_err(|e| broken(&e))?;
            let pkcs8 = made.to_pkcs8v1().map_err(|e| broken(&e))?;
            replace(path, pkcs8.as_ref(), 0o600)?;
        }
        let bytes = fs::read(path).map_err(LocalError::io("reading the identity key", path))?;
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &bytes).map_err(|e| broken(&e))?;
        Ok(Self { key })
    }

    pub(crate) fn public_key(&self) -> Vec<u8> {
        self.key.public_key().as_ref().to_vec()
    }

    /// Signature in base64.
    pub(crate) fn sign(&self, document: &str) -> Result<String, LocalError> {
        let signature = self.key.sign(&SystemRandom::new(), document.as_bytes());
        signature.map(|s| STANDARD.encode(s)).map_err(|error| LocalError::Key(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document() -> String {
        let document = IdentityDocument {
            account_id: "1".to_owned(),
            availability_zone: "local-a".to_owned(),
            image_id: "img".to_owned(),
            instance_id: "i-1".to_owned(),
            instance_type: "t.small".to_owned(),
            pending_time: "2026-01-01T00:00:00Z".to_owned(),
            private_ip: "10.0.0.9".to_owned(),
            region: "local".to_owned(),
            version: "2017-09-30".to_owned(),
        };
        serde_json::to_string(&document).unwrap()
    }

    #[test]
    fn only_the_very_document_is_believed() {
        let dir = tempfile::tempdir().unwrap();
        let signer = Signer::open(&dir.path().join("key")).unwrap();
        let again = Signer::open(&dir.path().join("key")).unwrap();
        let other = Signer::open(&dir.path().join("other")).unwrap();
        let (document, key) = (document(), signer.public_key());
        let signature = again.sign(&document).unwrap();
        assert_eq!(verify_identity(&document, &signature, &key).unwrap().instance_id, "i-1");
        let forged = document.replace("i-1", "i-2");
        assert_eq!(verify_identity(&forged, &signature, &key), Err(IdentityError::Signature));
        assert_eq!(verify_identity(&document, &signature, &other.public_key()), Err(IdentityError::Signature));
        assert_eq!(verify_identity(&document, "???", &key), Err(IdentityError::Encoding));
        let empty = signer.sign("{}").unwrap();
        assert!(matches!(verify_identity("{}", &empty, &key), Err(IdentityError::Document(_))));
    }

    #[test]
    fn the_key_is_nobody_elses() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        Signer::open(&path).unwrap();
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
