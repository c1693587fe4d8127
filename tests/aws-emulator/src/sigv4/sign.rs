//! The signer: for tests, for probes of a running emulator, and for whoever scripts one.

use super::{Request, Scope, canonical::canonical, signature};
use crate::form::encode;
use jiff::Timestamp;

/// A key and its secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The identifier of the key.
    pub access_key: String,
    /// Its secret.
    pub secret_key: String,
    /// The token of a temporary key.
    pub session_token: Option<String>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Credentials").field("access_key", &self.access_key).finish_non_exhaustive()
    }
}

/// `now` as signatures write it.
pub(super) fn moment(now: Timestamp) -> String {
    now.strftime("%Y%m%dT%H%M%SZ").to_string()
}

fn scope(region: &str, service: &str, moment: &str) -> Scope {
    let date = moment.chars().take(8).collect();
    Scope { date, region: region.to_owned(), service: service.to_owned() }
}

/// Signs `request`, which has its `host` header: adds `x-amz-date`, the token's header and `authorization`.
pub fn sign(request: &mut Request, credentials: &Credentials, region: &str, service: &str, now: Timestamp) {
    let moment = moment(now);
    request.headers.push(("x-amz-date".to_owned(), moment.clone()));
    if let Some(token) = &credentials.session_token {
        request.headers.push(("x-amz-security-token".to_owned(), token.clone()));
    }
    let signed = signed_headers(request);
    let Some(canonical) = canonical(request, &signed, None) else { return };
    let scope = scope(region, service, &moment);
    let signature = signature(&credentials.secret_key, &scope, &moment, &canonical);
    let credential = format!("{}/{}", credentials.access_key, scope.text());
    let headers = signed.join(";");
    let value = format!("AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={headers}, Signature={signature}");
    request.headers.push(("authorization".to_owned(), value));
}

/// Signs `request` in its query string, good for `seconds`.
pub fn presign(
    request: &mut Request,
    credentials: &Credentials,
    region: &str,
    service: &str,
    seconds: u32,
    now: Timestamp,
) {
    let moment = moment(now);
    let scope = scope(region, service, &moment);
    let signed = signed_headers(request);
    let credential = format!("{}/{}", credentials.access_key, scope.text());
    let mut more = vec![
        ("X-Amz-Algorithm", "AWS4-HMAC-SHA256".to_owned()),
        ("X-Amz-Credential", credential),
        ("X-Amz-Date", moment.clone()),
        ("X-Amz-Expires", seconds.to_string()),
        ("X-Amz-SignedHeaders", signed.join(";")),
    ];
    if let Some(token) = &credentials.session_token {
        more.push(("X-Amz-Security-Token", token.clone()));
    }
    for (name, value) in more {
        let separator = if request.query.is_empty() { "" } else { "&" };
        request.query.push_str(&format!("{separator}{name}={}", encode(&value)));
    }
    let Some(canonical) = canonical(request, &signed, None) else { return };
    let signature = signature(&credentials.secret_key, &scope, &moment, &canonical);
    request.query.push_str(&format!("&X-Amz-Signature={signature}"));
}

fn signed_headers(request: &Request) -> Vec<String> {
    let mut names: Vec<String> = request.headers.iter().map(|(name, _)| name.clone()).collect();
    names.sort_unstable();
    names.dedup();
    names
}
