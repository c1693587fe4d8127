//! Service-account keys: signing and verifying JSON web tokens, and publishing the keys that verify.

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
        RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey,
    },
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use rustls_pki_types::{PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer, pem::PemObject};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use x509_parser::{prelude::FromDer, public_key::PublicKey, x509::SubjectPublicKeyInfo};

/// Longest token that is looked at.
const MAX_TOKEN_BYTES: usize = 32 << 10;
/// An uncompressed P-256 point: one tag byte and two coordinates.
const P256_POINT_BYTES: usize = 65;

/// Why a token or key is not accepted.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum JwtError {
    /// Not a signed token at all.
    #[error("not a JSON web token")]
    Malformed,
    /// No known key made the signature.
    #[error("no key verifies the token's signature")]
    Signature,
    /// A key could not be generated, parsed or used.
    #[error("unusable key: {0}")]
    Key(&'static str),
}

/// A key that signs tokens (P-256).
pub struct SigningKey {
    pair: EcdsaKeyPair,
    pkcs8: Vec<u8>,
    verifying: VerifyingKey,
}

/// A key that verifies tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyingKey {
    spki_der: Vec<u8>,
    kid: String,
    material: Material,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Material {
    P256 { point: Vec<u8> },
    Rsa { pkcs1: Vec<u8>, modulus: Vec<u8>, exponent: Vec<u8> },
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("SigningKey").field("kid", &self.verifying.kid).finish_non_exhaustive()
    }
}

impl SigningKey {
    /// A new key.
    ///
    /// # Errors
    /// When the TLS library cannot make one.
    pub fn generate() -> Result<Self, JwtError> {
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
            .map_err(|_| JwtError::Key("cannot generate"))?;
        Self::from_pkcs8(pkcs8.as_ref())
    }

    /// From what [`Self::to_pem`] gave.
    ///
    /// # Errors
    /// When it is no PKCS#8 P-256 key.
    pub fn from_pem(pem: &str) -> Result<Self, JwtError> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| JwtError::Key("no PKCS#8 PEM"))?;
        Self::from_pkcs8(der.secret_pkcs8_der())
    }

    fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, JwtError> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8)
            .map_err(|_| JwtError::Key("not a P-256 key"))?;
        // Everything before the point is the same for every P-256 key (RFC 5480).
        const P256_SPKI_PREFIX: [u8; 26] = [
            0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48,
            0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
        ];
        let spki = [&P256_SPKI_PREFIX[..], pair.public_key().as_ref()].concat();
        let verifying = VerifyingKey::from_spki(&spki)?;
        Ok(Self { pair, pkcs8: pkcs8.to_vec(), verifying })
    }

    /// PKCS#8 PEM: a secret.
    #[must_use]
    pub fn to_pem(&self) -> String {
        pem("PRIVATE KEY", &self.pkcs8)
    }

    /// The key that verifies what this one signs.
    #[must_use]
    pub fn verifying(&self) -> &VerifyingKey {
        &self.verifying
    }

    /// A signed token with these claims.
    ///
    /// # Errors
    /// When the TLS library fails.
    pub fn sign(&self, claims: &Value) -> Result<String, JwtError> {
        let header = json!({"alg": "ES256", "kid": self.verifying.kid});
        let mut token = format!("{}.{}", BASE64.encode(header.to_string()), BASE64.encode(claims.to_string()));
        let signature =
            self.pair.sign(&SystemRandom::new(), token.as_bytes()).map_err(|_| JwtError::Key("cannot sign"))?;
        token.push('.');
        BASE64.encode_string(signature.as_ref(), &mut token);
        Ok(token)
    }
}

impl VerifyingKey {
    /// From a public key in PEM (`BEGIN PUBLIC KEY`), P-256 or RSA.
    ///
    /// # Errors
    /// When it is neither.
    pub fn from_pem(pem: &str) -> Result<Self, JwtError> {
        let der =
            SubjectPublicKeyInfoDer::from_pem_slice(pem.as_bytes()).map_err(|_| JwtError::Key("no public key PEM"))?;
        Self::from_spki(&der)
    }

    fn from_spki(spki_der: &[u8]) -> Result<Self, JwtError> {
        let (_, spki) =
            SubjectPublicKeyInfo::from_der(spki_der).map_err(|_| JwtError::Key("cannot parse public key"))?;
        let material = match spki.parsed().map_err(|_| JwtError::Key("cannot parse public key"))? {
            PublicKey::EC(point) if point.data().len() == P256_POINT_BYTES => {
                Material::P256 { point: point.data().to_vec() }
            }
            PublicKey::RSA(key) => Material::Rsa {
                pkcs1: spki.subject_public_key.data.to_vec(),
                modulus: trimmed(key.modulus),
                exponent: trimmed(key.exponent),
            },
            _ => return Err(JwtError::Key("neither P-256 nor RSA")),
        };
        Ok(Self { spki_der: spki_der.to_vec(), kid: BASE64.encode(Sha256::digest(spki_der)), material })
    }

    /// The key's name in token headers: a digest of the public key, as upstream names it.
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// Public key in PEM.
    #[must_use]
    pub fn to_pem(&self) -> String {
        pem("PUBLIC KEY", &self.spki_der)
    }

    fn algorithm(&self) -> &'static str {
        match self.material {
            Material::P256 { .. } => "ES256",
            Material::Rsa { .. } => "RS256",
        }
    }

    fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.material {
            Material::P256 { point } => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, signature)
            }
            Material::Rsa { pkcs1, .. } => {
                UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, pkcs1).verify(message, signature)
            }
        }
        .is_ok()
    }

    fn jwk(&self) -> Value {
        let mut key = json!({"use": "sig", "kid": self.kid, "alg": self.algorithm()});
        let members = match &self.material {
            Material::P256 { point } => {
                let (x, y) = point[1..].split_at(P256_POINT_BYTES / 2);
                vec![("kty", "EC".into()), ("crv", "P-256".into()), ("x", BASE64.encode(x)), ("y", BASE64.encode(y))]
            }
            Material::Rsa { modulus, exponent, .. } => {
                vec![("kty", "RSA".into()), ("n", BASE64.encode(modulus)), ("e", BASE64.encode(exponent))]
            }
        };
        for (name, value) in members {
            key[name] = value.into();
        }
        key
    }
}

fn trimmed(number: &[u8]) -> Vec<u8> {
    number.iter().copied().skip_while(|byte| *byte == 0).collect()
}

fn pem(label: &str, der: &[u8]) -> String {
    let body = base64::engine::general_purpose::STANDARD.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in body.as_bytes().chunks(64) {
        text.push_str(&String::from_utf8_lossy(line));
        text.push('\n');
    }
    text + "-----END " + label + "-----\n"
}

/// The keys of a cluster: one signs, several verify, so that keys can be replaced while old tokens live.
#[derive(Debug)]
pub struct KeyRing {
    signing: SigningKey,
    retired: Vec<VerifyingKey>,
}

impl KeyRing {
    /// A ring that signs with `signing` and still accepts what `retired` keys signed.
    #[must_use]
    pub fn new(signing: SigningKey, retired: Vec<VerifyingKey>) -> Self {
        Self { signing, retired }
    }

    /// The key that signs.
    #[must_use]
    pub fn signing(&self) -> &SigningKey {
        &self.signing
    }

    /// Every key that verifies, the signing one first.
    pub fn verifying(&self) -> impl Iterator<Item = &VerifyingKey> {
        std::iter::once(&self.signing.verifying).chain(&self.retired)
    }

    /// The ring after a rotation: `next` signs, everything so far still verifies up to `keep` retired keys.
    #[must_use]
    pub fn rotated(self, next: SigningKey, keep: usize) -> Self {
        let mut retired = vec![self.signing.verifying];
        retired.extend(self.retired);
        retired.truncate(keep);
        Self { signing: next, retired }
    }

    /// The JSON web key set of all verifying keys.
    #[must_use]
    pub fn jwks(&self) -> Value {
        json!({"keys": self.verifying().map(VerifyingKey::jwk).collect::<Vec<_>>()})
    }

    /// The claims of a token that one of the keys signed; says nothing about expiry or audience.
    ///
    /// # Errors
    /// [`JwtError::Malformed`], [`JwtError::Signature`].
    pub fn verify(&self, token: &str) -> Result<Value, JwtError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(JwtError::Malformed);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(JwtError::Malformed)?;
        let (header, claims) = signed.split_once('.').ok_or(JwtError::Malformed)?;
        let header = json_part(header)?;
        let signature = BASE64.decode(signature).map_err(|_| JwtError::Malformed)?;
        let kid = header.get("kid").and_then(Value::as_str);
        let verified = self
            .verifying()
            .filter(|key| kid.is_none_or(|kid| kid == key.kid))
            .filter(|key| header.get("alg").and_then(Value::as_str) == Some(key.algorithm()))
            .any(|key| key.verifies(signed.as_bytes(), &signature));
        if verified { json_part(claims) } else { Err(JwtError::Signature) }
    }
}

/// The claims of a token, whoever signed it: only to see whether it is meant for us.
pub(crate) fn json_part(part: &str) -> Result<Value, JwtError> {
    let bytes = BASE64.decode(part).map_err(|_| JwtError::Malformed)?;
    serde_json::from_slice(&bytes).map_err(|_| JwtError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_verified_by_its_ring_alone_and_across_rotation() {
        let ring = KeyRing::new(SigningKey::generate().unwrap(), vec![]);
        let claims = json!({"sub": "system:serviceaccount:a:b", "exp": 5});
        let token = ring.signing().sign(&claims).unwrap();
        assert_eq!(ring.verify(&token), Ok(claims.clone()));
        let other = KeyRing::new(SigningKey::generate().unwrap(), vec![]);
        assert_eq!(other.verify(&token), Err(JwtError::Signature));
        let ring = ring.rotated(SigningKey::generate().unwrap(), 1);
        assert_eq!(ring.verify(&token), Ok(claims));
        let ring = ring.rotated(SigningKey::generate().unwrap(), 1);
        assert_eq!(ring.verify(&token), Err(JwtError::Signature));
    }

    #[test]
    fn forgeries_are_refused() {
        let ring = KeyRing::new(SigningKey::generate().unwrap(), vec![]);
        let token = ring.signing().sign(&json!({"sub": "a"})).unwrap();
        let parts: Vec<&str> = token.split('.').collect();
        let none = BASE64.encode(r#"{"alg":"none"}"#);
        let claims = BASE64.encode(r#"{"sub":"b"}"#);
        for (forged, error) in [
            (format!("{}.{claims}.{}", parts[0], parts[2]), JwtError::Signature),
            (format!("{none}.{}.", parts[1]), JwtError::Signature),
            (format!("{none}.{}.{}", parts[1], parts[2]), JwtError::Signature),
            (format!("{}.{}", parts[0], parts[1]), JwtError::Malformed),
            ("a.b.c".into(), JwtError::Malformed),
            (String::new(), JwtError::Malformed),
            ("x".repeat(MAX_TOKEN_BYTES + 1), JwtError::Malformed),
        ] {
            assert_eq!(ring.verify(&forged), Err(error), "{forged}");
        }
    }

    #[test]
    fn keys_survive_storing() {
        let key = SigningKey::generate().unwrap();
        let loaded = SigningKey::from_pem(&key.to_pem()).unwrap();
        assert_eq!(loaded.verifying(), key.verifying());
        assert_eq!(&VerifyingKey::from_pem(&key.verifying().to_pem()).unwrap(), key.verifying());
        let jwks = KeyRing::new(key, vec![]).jwks();
        assert_eq!(jwks["keys"][0]["kty"], "EC");
        assert_eq!(jwks["keys"][0]["x"].as_str().unwrap().len(), 43);
    }
}
