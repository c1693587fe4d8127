//! Tokens of other issuers: upstream's `AuthenticationConfiguration`.
//!
//! What a configuration says, how a token is judged and whom its claims stand for is decided over values; the one
//! thing that reaches out is the [`Issuer`] that fetches its keys.

mod claims;
mod config;
mod issuer;
mod keys;
mod mapping;
mod token;

pub(crate) use config::{Anonymous, Configuration};
pub(crate) use issuer::Issuer;
pub(crate) use token::{Token, issuer_of};

#[cfg(test)]
mod tests {
    use super::{Configuration, Token, issuer_of, keys, keys::testing::Signer};
    use serde_json::json;

    #[test]
    fn hostile_tokens_and_key_sets_are_only_refused() {
        let signer = Signer::curve("P-256");
        let set = json!({"keys": [signer.public("k"), Signer::curve("P-521").public("")]}).to_string();
        let good = keys::parse(set.as_bytes()).unwrap();
        let claims = json!({"iss": "https://i", "sub": "a", "aud": ["x"], "exp": 4_000_000_000_i64, "nbf": 1.5, "groups": ["g"]});
        let text = signer.token("ES256", "k", &claims);
        timonel_fuzz::run(&[text.as_bytes()], |bytes| {
            let Some(token) = std::str::from_utf8(bytes).ok().and_then(Token::parse) else { return };
            let _ = issuer_of(&token);
            assert!(!token.is_signed_by(&good) || bytes == text.as_bytes(), "{}", bytes.escape_ascii());
        });
        timonel_fuzz::run(&[set.as_bytes()], |bytes| {
            let Ok(keys) = keys::parse(bytes) else { return };
            let _ = Token::parse(&text).unwrap().is_signed_by(&keys);
        });
        let configuration = Configuration::parse(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\njwt:\n\
             - issuer: {url: 'https://i', audiences: [x]}\n  claimMappings: {username: {expression: claims.sub}, \
             groups: {expression: 'claims.groups.map(g, g + claims.sub)'}, uid: {claim: id}}\n",
            &[],
        )
        .unwrap();
        let text = json!({"sub": "a", "groups": ["g", "h"], "id": "7"}).to_string();
        timonel_fuzz::run(&[text.as_bytes()], |bytes| {
            let decoded = timonel_api::decode_json_untyped(bytes, &timonel_api::Limits::default());
            if let Ok(claims) = decoded {
                drop(configuration.issuers[0].mapping.user(&claims));
            }
        });
    }
}
