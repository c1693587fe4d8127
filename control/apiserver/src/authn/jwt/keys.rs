//! Public keys of an issuer, and when they are fetched again. Pure.

use aws_lc_rs::signature::{
    self, ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384,
    RSA_PSS_2048_8192_SHA512, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

/// Keys of one issuer.
const MAX_KEYS: usize = 256;
/// Age at which keys are looked up again although they serve: an issuer takes back a key by no longer naming it.
const MAX_AGE: SignedDuration = SignedDuration::from_hours(1);
/// Fetches at once, and how long it takes until one more is allowed: whoever sends tokens with made-up key names
/// must not have the issuer asked for each.
const BURST: i64 = 3;
const REFILL: SignedDuration = SignedDuration::from_secs(10);
/// Tag of an uncompressed point of a curve.
const UNCOMPRESSED: u8 = 4;

/// One public key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    pub(super) id: String,
    /// The one algorithm it is for; empty for any of its kind.
    algorithm: String,
    material: Material,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Material {
    Rsa { modulus: Vec<u8>, exponent: Vec<u8> },
    Curve { name: &'static str, point: Vec<u8> },
}

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<serde_json::Value>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Jwk {
    kty: String,
    #[serde(rename = "use")]
    purpose: String,
    kid: String,
    alg: String,
    crv: String,
    n: String,
    e: String,
    x: String,
    y: String,
}

/// The keys of a key set document; those that cannot be used are passed over.
pub(super) fn parse(document: &[u8]) -> Result<Vec<Key>, String> {
    let set: KeySet = serde_json::from_slice(document).map_err(|error| format!("failed to decode keys: {error}"))?;
    Ok(set.keys.into_iter().take(MAX_KEYS).filter_map(Key::of).collect())
}

/// A curve with its algorithm and the bytes of a coordinate.
const CURVES: [(&str, &str, usize); 3] = [("P-256", "ES256", 32), ("P-384", "ES384", 48), ("P-521", "ES512", 66)];

impl Key {
    fn of(jwk: serde_json::Value) -> Option<Self> {
        let jwk: Jwk = serde_json::from_value(jwk).ok()?;
        if !matches!(jwk.purpose.as_str(), "" | "sig") {
            return None;
        }
        let bytes = |text: &str| BASE64.decode(text.trim_end_matches('=')).ok().filter(|bytes| !bytes.is_empty());
        let material = match jwk.kty.as_str() {
            "RSA" => Material::Rsa { modulus: bytes(&jwk.n)?, exponent: bytes(&jwk.e)? },
            "EC" => {
                let (name, _, length) = CURVES.into_iter().find(|(name, ..)| *name == jwk.crv)?;
                let (x, y) = (bytes(&jwk.x)?, bytes(&jwk.y)?);
                if x.len() != length || y.len() != length {
                    return None;
                }
                Material::Curve { name, point: [&[UNCOMPRESSED][..], &x, &y].concat() }
            }
            _ => return None,
        };
        Some(Self { id: jwk.kid, algorithm: jwk.alg, material })
    }

    /// Whether it made the signature by an algorithm that fits it.
    pub(super) fn verifies(&self, algorithm: &str, message: &[u8], signature: &[u8]) -> bool {
        if !self.algorithm.is_empty() && self.algorithm != algorithm {
            return false;
        }
        match &self.material {
            Material::Rsa { modulus, exponent } => {
                let Some(parameters) = rsa(algorithm) else { return false };
                let key = RsaPublicKeyComponents { n: trimmed(modulus), e: trimmed(exponent) };
                key.verify(parameters, message, signature).is_ok()
            }
            Material::Curve { name, point } => {
                let fits = CURVES.iter().any(|(curve, own, _)| curve == name && *own == algorithm);
                let parameters: &dyn signature::VerificationAlgorithm = match *name {
                    "P-256" => &ECDSA_P256_SHA256_FIXED,
                    "P-384" => &ECDSA_P384_SHA384_FIXED,
                    _ => &ECDSA_P521_SHA512_FIXED,
                };
                fits && UnparsedPublicKey::new(parameters, point).verify(message, signature).is_ok()
            }
        }
    }
}

fn rsa(algorithm: &str) -> Option<&'static RsaParameters> {
    Some(match algorithm {
        "RS256" => &RSA_PKCS1_2048_8192_SHA256,
        "RS384" => &RSA_PKCS1_2048_8192_SHA384,
        "RS512" => &RSA_PKCS1_2048_8192_SHA512,
        "PS256" => &RSA_PSS_2048_8192_SHA256,
        "PS384" => &RSA_PSS_2048_8192_SHA384,
        "PS512" => &RSA_PSS_2048_8192_SHA512,
        _ => return None,
    })
}

/// A number without leading zeros.
fn trimmed(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}

/// When keys were fetched, and how often they still may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Freshness {
    fetched: Option<Timestamp>,
    /// By when all of the burst is allowed again.
    full_at: Option<Timestamp>,
}

impl Freshness {
    /// Whether keys that serve are old enough to be looked up again.
    pub(super) fn is_old(&self, now: Timestamp) -> bool {
        self.fetched.is_none_or(|fetched| now.duration_since(fetched) >= MAX_AGE)
    }

    /// Takes one of the allowed fetches, if there is one.
    pub(super) fn may_fetch(&mut self, now: Timestamp) -> bool {
        let full_at = self.full_at.unwrap_or(now).max(now);
        let owed = full_at.duration_since(now);
        if owed.as_secs() > REFILL.as_secs() * (BURST - 1) {
            return false;
        }
        self.full_at = full_at.checked_add(REFILL).ok();
        true
    }

    pub(super) fn fetched(&mut self, now: Timestamp) {
        self.fetched = Some(now);
    }
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;
    use aws_lc_rs::{
        rand::SystemRandom,
        rsa::{KeyPair as RsaKeyPair, KeySize},
        signature::{
            ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING,
            EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA512, RSA_PSS_SHA384, RsaEncoding,
        },
    };
    use serde_json::{Value as Json, json};

    /// A private key of an issuer.
    pub(in crate::authn::jwt) enum Signer {
        Rsa(RsaKeyPair),
        Curve(EcdsaKeyPair, usize),
    }

    impl Signer {
        pub(in crate::authn::jwt) fn rsa() -> Self {
            Self::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap())
        }

        pub(in crate::authn::jwt) fn curve(name: &str) -> Self {
            let at = CURVES.iter().position(|(curve, ..)| *curve == name).unwrap();
            let parameters =
                [&ECDSA_P256_SHA256_FIXED_SIGNING, &ECDSA_P384_SHA384_FIXED_SIGNING, &ECDSA_P521_SHA512_FIXED_SIGNING]
                    [at];
            Self::Curve(EcdsaKeyPair::generate(parameters).unwrap(), at)
        }

        pub(in crate::authn::jwt) fn public(&self, id: &str) -> Json {
            match self {
                Self::Rsa(pair) => {
                    let key = pair.public_key();
                    let n = BASE64.encode(key.modulus().big_endian_without_leading_zero());
                    let e = BASE64.encode(key.exponent().big_endian_without_leading_zero());
                    json!({"kty": "RSA", "kid": id, "use": "sig", "n": n, "e": e})
                }
                Self::Curve(pair, at) => {
                    let (x, y) = pair.public_key().as_ref()[1..].split_at(CURVES[*at].2);
                    json!({"kty": "EC", "kid": id, "crv": CURVES[*at].0, "x": BASE64.encode(x), "y": BASE64.encode(y)})
                }
            }
        }

        pub(in crate::authn::jwt) fn token(&self, algorithm: &str, id: &str, claims: &Json) -> String {
            let header = json!({"alg": algorithm, "kid": id, "typ": "JWT"});
            let signed = format!("{}.{}", BASE64.encode(header.to_string()), BASE64.encode(claims.to_string()));
            let signature = match self {
                Self::Rsa(pair) => {
                    let encoding: &dyn RsaEncoding = match algorithm {
                        "RS512" => &RSA_PKCS1_SHA512,
                        "PS384" => &RSA_PSS_SHA384,
                        _ => &RSA_PKCS1_SHA256,
                    };
                    let mut bytes = vec![0; pair.public_modulus_len()];
                    pair.sign(encoding, &SystemRandom::new(), signed.as_bytes(), &mut bytes).unwrap();
                    bytes
                }
                Self::Curve(pair, _) => pair.sign(&SystemRandom::new(), signed.as_bytes()).unwrap().as_ref().to_vec(),
            };
            format!("{signed}.{}", BASE64.encode(signature))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{testing::Signer, *};
    use crate::authn::jwt::token::Token;
    use serde_json::json;

    #[test]
    fn every_algorithm_is_verified_by_its_own_keys_alone() {
        let (rsa, p256, p384, p521) =
            (Signer::rsa(), Signer::curve("P-256"), Signer::curve("P-384"), Signer::curve("P-521"));
        let set = json!({"keys": [rsa.public("r"), p256.public("a"), p384.public("b"), p521.public("c"),
            {"kty": "oct", "k": "AAAA"}, {"kty": "RSA", "use": "enc", "n": "AQAB", "e": "AQAB"}, 7]});
        let keys = parse(set.to_string().as_bytes()).unwrap();
        assert_eq!(keys.len(), 4);
        let claims = json!({"iss": "i"});
        for (signer, algorithm, id, expected) in [
            (&rsa, "RS256", "r", true),
            (&rsa, "RS512", "r", true),
            (&rsa, "PS384", "r", true),
            (&p256, "ES256", "a", true),
            (&p384, "ES384", "b", true),
            (&p521, "ES512", "c", true),
            (&p256, "ES256", "", true),
            (&p256, "ES256", "b", false),
            (&p256, "RS256", "a", false),
            (&rsa, "HS256", "r", false),
            (&rsa, "none", "r", false),
            (&Signer::rsa(), "RS256", "r", false),
        ] {
            let text = signer.token(algorithm, id, &claims);
            assert_eq!(Token::parse(&text).unwrap().is_signed_by(&keys), expected, "{algorithm} {id}");
        }
        let mut one = rsa.public("r");
        one["alg"] = "RS512".into();
        let keys = parse(json!({"keys": [one]}).to_string().as_bytes()).unwrap();
        assert!(!Token::parse(&rsa.token("RS256", "r", &claims)).unwrap().is_signed_by(&keys));
        assert!(parse(b"[]").is_err() && parse(b"{}").is_err());
    }

    #[test]
    fn keys_are_fetched_again_but_not_for_everyone() {
        let now: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
        let mut freshness = Freshness::default();
        assert!(freshness.is_old(now));
        assert_eq!([0; 5].map(|_| freshness.may_fetch(now)), [true, true, true, false, false]);
        freshness.fetched(now);
        assert!(!freshness.is_old(now + SignedDuration::from_mins(59)) && freshness.is_old(now + MAX_AGE));
        let later = now + REFILL;
        assert_eq!([0; 2].map(|_| freshness.may_fetch(later)), [true, false]);
    }
}
