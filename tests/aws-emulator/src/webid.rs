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
