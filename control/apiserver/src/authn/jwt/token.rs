//! A JSON web token: its parts, its signature, its times and audiences. Pure.

use super::keys::Key;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use timonel_api::{Limits, Value, decode_json_untyped};

/// Bytes of a token.
const MAX_TOKEN: usize = 32 << 10;
/// By how much the clock of an issuer may be ahead.
const NOT_BEFORE_LEEWAY: SignedDuration = SignedDuration::from_mins(5);

/// A token taken apart; nothing of it is trusted yet.
#[derive(Clone, Debug)]
pub(crate) struct Token<'a> {
    pub(super) algorithm: String,
    pub(super) key: String,
    pub(super) claims: Value,
    signed: &'a str,
    signature: Vec<u8>,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: String,
}

impl<'a> Token<'a> {
    pub(crate) fn parse(text: &'a str) -> Option<Self> {
        if text.len() > MAX_TOKEN {
            return None;
        }
        let (signed, signature) = text.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        if claims.contains('.') {
            return None;
        }
        let header: Header = serde_json::from_slice(&BASE64.decode(header).ok()?).ok()?;
        let claims = decode_json_untyped(&BASE64.decode(claims).ok()?, &Limits::default()).ok()?;
        claims.as_object()?;
        let signature = BASE64.decode(signature).ok()?;
        Some(Self { algorithm: header.alg, key: header.kid, claims, signed, signature })
    }

    /// Whether one of the keys made the signature. Keys that have a name are asked only by it.
    pub(super) fn is_signed_by(&self, keys: &[Key]) -> bool {
        let named = |key: &&Key| self.key.is_empty() || key.id.is_empty() || key.id == self.key;
        keys.iter().filter(named).any(|key| key.verifies(&self.algorithm, self.signed.as_bytes(), &self.signature))
    }

    /// Checks issuer, audiences and times, as upstream's library words what is wrong.
    pub(super) fn check(&self, issuer: &str, audiences: &[String], now: Timestamp) -> Result<(), String> {
        let found = issuer_of_claims(&self.claims);
        if found != issuer {
            return Err(format!(
                "oidc: verify token: oidc: id token issued by a different provider, expected {issuer:?} got {found:?}"
            ));
        }
        let own = audiences_of(&self.claims);
        if !own.iter().any(|audience| audiences.contains(audience)) {
            let got = own.iter().map(|audience| format!("{audience:?}")).collect::<Vec<_>>().join(" ");
            let want = audiences.iter().map(|audience| format!("{audience:?}")).collect::<Vec<_>>().join(" ");
            return Err(format!("oidc: verify token: oidc: expected audience in [{want}] got [{got}]"));
        }
        let seconds = |name: &str| match self.claims.get(name) {
            Some(Value::Int(seconds)) => Some(*seconds),
            Some(Value::Float(seconds)) => Some(*seconds as i64),
            _ => None,
        };
        let expires = seconds("exp").unwrap_or(0);
        if now.as_second() > expires {
            return Err(format!("oidc: verify token: oidc: token is expired (Token Expiry: {})", shown(expires)));
        }
        let early = now.as_second().saturating_add(NOT_BEFORE_LEEWAY.as_secs());
        match seconds("nbf").filter(|from| early < *from) {
            Some(from) => Err(format!(
                "oidc: verify token: oidc: current time {now} before the nbf (not before) time: {}",
                shown(from)
            )),
            None => Ok(()),
        }
    }
}

fn shown(seconds: i64) -> String {
    Timestamp::from_second(seconds).map_or_else(|_| seconds.to_string(), |at| at.to_string())
}

fn audiences_of(claims: &Value) -> Vec<String> {
    match claims.get("aud") {
        Some(Value::String(one)) => vec![one.to_string()],
        Some(Value::List(many)) => many.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}

/// Google's tokens name it without the scheme.
fn issuer_of_claims(claims: &Value) -> &str {
    match claims.str_at(&["iss"]) {
        "accounts.google.com" => "https://accounts.google.com",
        issuer => issuer,
    }
}

/// Who a token says that it is from, whether that is true or not.
pub(crate) fn issuer_of<'t>(token: &'t Token<'_>) -> &'t str {
    issuer_of_claims(&token.claims)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value as Json, json};

    fn text(header: &Json, claims: &Json) -> String {
        format!("{}.{}.{}", BASE64.encode(header.to_string()), BASE64.encode(claims.to_string()), BASE64.encode("sig"))
    }

    #[test]
    fn only_tokens_are_taken_apart() {
        let good = text(&json!({"alg": "RS256", "kid": "k"}), &json!({"iss": "i"}));
        let token = Token::parse(&good).unwrap();
        assert_eq!((token.algorithm.as_str(), token.key.as_str(), issuer_of(&token)), ("RS256", "k", "i"));
        let no_object = text(&json!({"alg": "RS256"}), &json!([1]));
        let no_algorithm = text(&json!({"kid": "k"}), &json!({}));
        let four = format!("{good}.x");
        let long = "x".repeat(MAX_TOKEN + 1);
        for bad in ["", "a.b", "a.b.c", "...", &no_object, &no_algorithm, &four, &long, "{\"payload\": \"x\"}"] {
            assert!(Token::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn issuer_audience_and_times_must_fit() {
        let now: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
        let at = |seconds: i64| now.as_second() + seconds;
        for (claims, expected) in [
            (json!({"iss": "https://i", "aud": "a", "exp": at(1)}), None),
            (json!({"iss": "https://i", "aud": ["x", "b"], "exp": at(0), "nbf": at(299)}), None),
            (json!({"iss": "https://i", "aud": ["x", "b"], "exp": at(0) as f64}), None),
            (json!({"iss": "https://j", "aud": "a", "exp": at(1)}), Some("issued by a different provider")),
            (
                json!({"iss": "https://i", "aud": "c", "exp": at(1)}),
                Some("expected audience in [\"a\" \"b\"] got [\"c\"]"),
            ),
            (json!({"iss": "https://i", "exp": at(1)}), Some("got []")),
            (
                json!({"iss": "https://i", "aud": "a", "exp": at(-1)}),
                Some("token is expired (Token Expiry: 2026-11-21T11:59:59Z)"),
            ),
            (json!({"iss": "https://i", "aud": "a"}), Some("token is expired")),
            (
                json!({"iss": "https://i", "aud": "a", "exp": at(900), "nbf": at(400)}),
                Some("before the nbf (not before) time"),
            ),
        ] {
            let text = text(&json!({"alg": "ES256"}), &claims);
            let checked = Token::parse(&text).unwrap().check("https://i", &["a".into(), "b".into()], now);
            match expected {
                None => checked.unwrap(),
                Some(words) => assert!(checked.clone().unwrap_err().contains(words), "{checked:?}"),
            }
        }
    }
}
