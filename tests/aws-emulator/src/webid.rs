//! Tokens of web identity: their signature against the issuer's keys, their audience and their times.

use crate::config::IssuerConfig;
use crate::error::{AwsError, refuse};
use jiff::Timestamp;
use jsonwebtoken::{DecodingKey, Validation, decode, decode_header, jwk::JwkSet};
use serde::Deserialize;

/// What a good token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WebIdentity {
    pub(crate) issuer: String,
    pub(crate) subject: String,
    pub(crate) audience: String,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: Audience,
    exp: i64,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

/// Checks `token` against `issuers`.
pub(crate) fn verify(issuers: &[IssuerConfig], token: &str, now: Timestamp) -> Result<WebIdentity, AwsError> {
    let bad = |why: &str| refuse("InvalidIdentityToken", why);
    let header = decode_header(token).map_err(|_| bad("The ID Token provided is not a valid JWT."))?;
    let mut last = bad("No OpenIDConnect provider found in your account");
    for issuer in issuers {
        let set: JwkSet = serde_json::from_value(issuer.keys.clone())
            .map_err(|_| bad("Couldn't retrieve verification key from your identity provider"))?;
        for jwk in &set.keys {
            if header.kid.is_some() && jwk.common.key_id != header.kid {
                continue;
            }
            let Ok(key) = DecodingKey::from_jwk(jwk) else { continue };
            let mut validation = Validation::new(header.alg);
            // Times are held to our own clock below.
            validation.validate_exp = false;
            validation.validate_aud = false;
            validation.set_issuer(&[&issuer.url]);
            match decode::<Claims>(token, &key, &validation) {
                Ok(token) => return hold(issuer, token.claims, now),
                Err(_) => last = bad("The ID Token's signature or issuer is not that of a provider of the account"),
            }
        }
    }
    Err(last)
}

fn hold(issuer: &IssuerConfig, claims: Claims, now: Timestamp) -> Result<WebIdentity, AwsError> {
    if claims.exp <= now.as_second() {
        return Err(refuse("ExpiredTokenException", "Token expired"));
    }
    let audiences = match claims.aud {
        Audience::One(one) => vec![one],
        Audience::Several(several) => several,
    };
    let audience = audiences.into_iter().find(|audience| issuer.audiences.contains(audience));
    let audience = audience.ok_or_else(|| refuse("InvalidIdentityToken", "Incorrect token audience"))?;
    Ok(WebIdentity { issuer: claims.iss, subject: claims.sub, audience })
}

#[cfg(test)]
mod tests {
    use super::*;
    use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
    use serde_json::json;

    fn token(secret: &str, claims: &serde_json::Value) -> String {
        encode(&Header::new(Algorithm::HS256), claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
    }

    #[test]
    fn tokens_are_held_to_issuer_audience_and_time() {
        let keys = json!({"keys": [{"kty": "oct", "alg": "HS256", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0"}]});
        let url = "https://issuer.example".to_owned();
        let issuers = [IssuerConfig { url, audiences: vec!["sts.amazonaws.com".to_owned()], keys }];
        let now = Timestamp::from_second(1_000).unwrap();
        let (good, bad) = ("secret-secret-secret-secret", "another-another-another-anot");
        for (secret, issuer, audience, ends, want) in [
            (good, "https://issuer.example", json!("sts.amazonaws.com"), 1_001, "ok"),
            (good, "https://issuer.example", json!(["x", "sts.amazonaws.com"]), 1_001, "ok"),
            (good, "https://issuer.example", json!("x"), 1_001, "InvalidIdentityToken"),
            (good, "https://issuer.example", json!("sts.amazonaws.com"), 1_000, "ExpiredTokenException"),
            (good, "https://other.example", json!("sts.amazonaws.com"), 1_001, "InvalidIdentityToken"),
            (bad, "https://issuer.example", json!("sts.amazonaws.com"), 1_001, "InvalidIdentityToken"),
        ] {
            let token = token(secret, &json!({"iss": issuer, "sub": "s", "aud": audience, "exp": ends}));
            let got = verify(&issuers, &token, now).err().map_or("ok".to_owned(), |error| error.code.into_owned());
            assert_eq!(got, want, "{issuer} {audience} {ends}");
        }
        assert!(verify(&issuers, "not a token", now).is_err());
    }
}
