//! Bootstrap tokens: `[a-z0-9]{6}.[a-z0-9]{16}`, each a Secret in `kube-system`, for machines that join. Pure.

use super::User;
use crate::admission::Lookup;
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use jiff::Timestamp;
use timonel_api::Value;

const NAMESPACE: &str = "kube-system";
const SECRET_TYPE: &str = "bootstrap.kubernetes.io/token";
const DEFAULT_GROUP: &str = "system:bootstrappers";
const ID_LENGTH: usize = 6;
const SECRET_LENGTH: usize = 16;

/// The user of a bootstrap token; `None` when it is none, is unknown, expired or not for authentication.
pub(crate) fn authenticate(token: &str, lookup: &dyn Lookup, now: Timestamp) -> Option<User> {
    let (id, secret) = parse(token)?;
    let object = lookup.get("", "secrets", NAMESPACE, &format!("bootstrap-token-{id}"))?;
    let data = |key: &str| {
        let bytes = BASE64.decode(object.str_at(&["data", key])).ok()?;
        String::from_utf8(bytes).ok()
    };
    let good = object.str_at(&["type"]) == SECRET_TYPE
        && object.str_at(&["metadata", "deletionTimestamp"]).is_empty()
        && data("token-secret").is_some_and(|known| same(known.as_bytes(), secret.as_bytes()))
        && data("token-id").as_deref() == Some(id)
        && data("usage-bootstrap-authentication").as_deref() == Some("true")
        && !is_expired(&object, data("expiration"), now);
    if !good {
        return None;
    }
    let mut user = User::new(format!("system:bootstrap:{id}"), &[DEFAULT_GROUP]);
    for group in data("auth-extra-groups").unwrap_or_default().split(',').filter(|group| !group.is_empty()) {
        // Any other group would let a token make itself an administrator.
        if group.strip_prefix("system:bootstrappers:").is_none_or(str::is_empty) {
            return None;
        }
        user = user.with_group(group);
    }
    Some(user)
}

fn parse(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    (id.len() == ID_LENGTH && secret.len() == SECRET_LENGTH && plain(id) && plain(secret)).then_some((id, secret))
}

/// An expiry that cannot be read counts as passed.
fn is_expired(object: &Value, expiration: Option<String>, now: Timestamp) -> bool {
    let present = object.at(&["data", "expiration"]).is_some();
    present && expiration.and_then(|text| text.parse::<Timestamp>().ok()).is_none_or(|at| at <= now)
}

/// Compares without telling by its time where the difference is.
pub(crate) fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::Objects;
    use serde_json::json;

    #[test]
    fn only_good_tokens_authenticate() {
        let good = [
            ("token-id", "abcdef"),
            ("token-secret", "0123456789abcdef"),
            ("usage-bootstrap-authentication", "true"),
            ("expiration", "2026-11-22T00:00:00Z"),
        ];
        let groups = |user: Option<User>| user.map(|user| user.groups);
        let base = Some(vec![DEFAULT_GROUP.to_owned()]);
        let token = "abcdef.0123456789abcdef";
        for (change, token, expected) in [
            (("", ""), token, base),
            (("", ""), "abcdef.0123456789abcdeX", None),
            (("", ""), "abcdef.0123456789abcdee", None),
            (("", ""), "abcdeg.0123456789abcdef", None),
            (("expiration", "2026-11-20T00:00:00Z"), token, None),
            (("expiration", "soon"), token, None),
            (("usage-bootstrap-authentication", "false"), token, None),
            (("token-id", "other1"), token, None),
            (
                ("auth-extra-groups", "system:bootstrappers:w"),
                token,
                Some(vec![DEFAULT_GROUP.to_owned(), "system:bootstrappers:w".to_owned()]),
            ),
            (("auth-extra-groups", "system:masters"), token, None),
        ] {
            let mut secret =
                json!({"metadata": {"name": "bootstrap-token-abcdef", "namespace": NAMESPACE}, "type": SECRET_TYPE});
            for (key, value) in good.into_iter().chain([change]).filter(|(key, _)| !key.is_empty()) {
                secret["data"][key] = BASE64.encode(value).into();
            }
            let objects = Objects::default().with("", "secrets", secret);
            let now = "2026-11-21T00:00:00Z".parse().unwrap();
            assert_eq!(groups(authenticate(token, &objects, now)), expected, "{change:?} {token}");
        }
    }
}
