//! Acting as somebody else: the `Impersonate-*` headers.

use super::{ANONYMOUS, AUTHENTICATED_GROUP, UNAUTHENTICATED_GROUP, User};
use crate::{
    admission::{AdmissionError, Lookup},
    authz::{Attributes, Authorizer, forbidden},
};
use http::HeaderMap;

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA_PREFIX: &str = "impersonate-extra-";
const AUTHENTICATION: &str = "authentication.k8s.io";

/// Whom the headers ask to act as, if `requester` may; `None` without such headers.
///
/// # Errors
/// 400 when there is no user to act as, 403 when one part of it is not allowed.
pub fn impersonate(
    headers: &HeaderMap,
    requester: &User,
    authorizer: &dyn Authorizer,
    lookup: &dyn Lookup,
) -> Result<Option<User>, AdmissionError> {
    let all = |name: &str| headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect::<Vec<_>>();
    let name = all(USER).first().copied().unwrap_or("");
    let (groups, uid) = (all(GROUP), all(UID).first().copied().unwrap_or(""));
    let mut extra: Vec<(String, &str)> = headers
        .iter()
        .filter_map(|(key, value)| Some((unescape(key.as_str().strip_prefix(EXTRA_PREFIX)?), value.to_str().ok()?)))
        .collect();
    extra.sort_by(|a, b| a.0.cmp(&b.0));
    if name.is_empty() {
        if groups.is_empty() && uid.is_empty() && extra.is_empty() {
            return Ok(None);
        }
        return Err(AdmissionError::bad_request("requested groups, uid or extra without impersonating a user"));
    }
    let check = |attributes: Attributes<'_>| {
        let decision = authorizer.authorize(requester, &attributes, lookup);
        if decision.is_allowed() { Ok(()) } else { Err(forbidden(requester, &attributes, decision.reason())) }
    };
    let act = |group, resource, namespace, name| Attributes {
        version: "v1",
        ..Attributes::resource("impersonate", group, resource, namespace, name)
    };
    let mut user = User::new(name, &[]);
    let named = user.clone();
    if let Some((namespace, account)) = named.as_service_account() {
        check(act("", "serviceaccounts", namespace, account))?;
        if groups.is_empty() {
            user.groups = User::service_account(namespace, account, "").groups;
        }
    } else {
        check(act("", "users", "", name))?;
    }
    for group in &groups {
        check(act("", "groups", "", group))?;
        user.groups.push((*group).to_owned());
    }
    for (key, value) in &extra {
        check(Attributes { subresource: key, ..act(AUTHENTICATION, "userextras", "", value) })?;
        user.extra.entry(key.clone()).or_default().push((*value).to_owned());
    }
    if !uid.is_empty() {
        check(act(AUTHENTICATION, "uids", "", uid))?;
        uid.clone_into(&mut user.uid);
    }
    Ok(Some(with_standard_group(user)))
}

fn with_standard_group(user: User) -> User {
    if user.name == ANONYMOUS {
        user.with_group(UNAUTHENTICATED_GROUP)
    } else if user.in_group(UNAUTHENTICATED_GROUP) {
        user
    } else {
        user.with_group(AUTHENTICATED_GROUP)
    }
}

/// Decodes `%XX`; text that is not well formed stays as it is.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = tail.get(..2).and_then(|pair| std::str::from_utf8(pair).ok());
        let Some(byte) = digits.and_then(|pair| u8::from_str_radix(pair, 16).ok()) else { return text.to_owned() };
        bytes.push(byte);
        rest = &tail[2..];
    }
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{admission::testing::Objects, authz::Decision};

    /// Allows all but `nobody` and the group `no`.
    #[derive(Debug)]
    struct Picky;

    impl Authorizer for Picky {
        fn authorize(&self, _: &User, attributes: &Attributes<'_>, _: &dyn Lookup) -> Decision {
            if matches!(attributes.name, "nobody" | "no") {
                Decision::NoOpinion("".into())
            } else {
                Decision::Allow("".into())
            }
        }
    }

    #[test]
    fn headers_become_a_user() {
        for (headers, expected) in [
            (&[][..], Ok(None)),
            (&[("Impersonate-User", "bob")], Ok(Some(User::new("bob", &["system:authenticated"])))),
            (
                &[("Impersonate-User", "bob"), ("Impersonate-Group", "a"), ("Impersonate-Group", "b")],
                Ok(Some(User::new("bob", &["a", "b", "system:authenticated"]))),
            ),
            (
                &[("Impersonate-User", "system:serviceaccount:x:y")],
                Ok(Some(User::service_account("x", "y", "").with_group("system:authenticated"))),
            ),
            (
                &[("Impersonate-User", "system:anonymous")],
                Ok(Some(User::new("system:anonymous", &["system:unauthenticated"]))),
            ),
            (
                &[("Impersonate-User", "bob"), ("Impersonate-Uid", "u"), ("Impersonate-Extra-Acme.com%2fTeam", "t")],
                Ok(Some(User {
                    uid: "u".into(),
                    extra: [("acme.com/team".to_owned(), vec!["t".to_owned()])].into(),
                    ..User::new("bob", &["system:authenticated"])
                })),
            ),
            (&[("Impersonate-Group", "a")], Err(400)),
            (&[("Impersonate-User", "nobody")], Err(403)),
            (&[("Impersonate-User", "bob"), ("Impersonate-Group", "no")], Err(403)),
        ] {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                let name: http::HeaderName = name.parse().unwrap();
                map.append(name, value.parse().unwrap());
            }
            let got = impersonate(&map, &User::new("root", &[]), &Picky, &Objects::default());
            assert_eq!(got.map_err(|error| error.code), expected, "{headers:?}");
        }
    }

    #[test]
    fn a_refusal_names_the_impersonated() {
        let mut map = HeaderMap::new();
        map.insert(USER, "nobody".parse().unwrap());
        let error = impersonate(&map, &User::new("root", &[]), &Picky, &Objects::default()).unwrap_err();
        assert_eq!(
            error.message,
            r#"users "nobody" is forbidden: User "root" cannot impersonate resource "users" in API group "" at the cluster scope"#
        );
    }
}
