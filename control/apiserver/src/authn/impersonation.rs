//! Acting as somebody else: the `Impersonate-*` headers.
//!
//! One may act as another in one of several ways, from the narrowest to the widest: as the node that one runs on, as
//! any node, as a service account, as another user, and last in the old way, which asks only for the right to be the
//! other. The narrow ways also ask for the right to do just this while being somebody else.

use super::{
    ANONYMOUS, AUTHENTICATED_GROUP, MASTERS_GROUP, NODE_USER_PREFIX, NODES_GROUP, UNAUTHENTICATED_GROUP, User,
};
use crate::{
    admission::{AdmissionError, Lookup},
    authz::{Attributes, Authorizer, forbidden},
};
use http::HeaderMap;
use std::collections::BTreeMap;

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA_PREFIX: &str = "impersonate-extra-";
const AUTHENTICATION: &str = "authentication.k8s.io";
/// The node that a service account's token belongs to, in its user's extra.
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
/// Which extra a requester has, where its values are not to matter.
const NODE_KEYS: &str = "authentication.kubernetes.io/associated-node-keys";
/// Groups, or values of extra, from which on the right to all of them is asked for first.
const MANY: usize = 4;

/// A way to act as somebody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    AssociatedNode,
    ArbitraryNode,
    ServiceAccount,
    UserInfo,
    Legacy,
}

impl Mode {
    const ALL: [Self; 5] =
        [Self::AssociatedNode, Self::ArbitraryNode, Self::ServiceAccount, Self::UserInfo, Self::Legacy];

    const fn verb(self) -> &'static str {
        match self {
            Self::AssociatedNode => "impersonate:associated-node",
            Self::ArbitraryNode => "impersonate:arbitrary-node",
            Self::ServiceAccount => "impersonate:serviceaccount",
            Self::UserInfo => "impersonate:user-info",
            Self::Legacy => "impersonate",
        }
    }

    fn is_constrained(self) -> bool {
        self != Self::Legacy
    }

    /// Whether one may be that user in this way at all.
    fn fits(self, wanted: &User, requester: &User) -> bool {
        let only_name = wanted.uid.is_empty() && wanted.groups.is_empty() && wanted.extra.is_empty();
        let node = node_of(&wanted.name);
        match self {
            Self::AssociatedNode => {
                let own = requester.extra.get(NODE_NAME).map(Vec::as_slice);
                only_name
                    && requester.as_service_account().is_some()
                    && node.is_some_and(|node| own.is_some_and(|own| own == [node]))
            }
            Self::ArbitraryNode => only_name && node.is_some(),
            Self::ServiceAccount => only_name && wanted.as_service_account().is_some(),
            Self::UserInfo => node.is_none() && wanted.as_service_account().is_none(),
            Self::Legacy => true,
        }
    }
}

/// The node that a user name means.
fn node_of(name: &str) -> Option<&str> {
    name.strip_prefix(NODE_USER_PREFIX).filter(|node| timonel_api::names::dns_subdomain(node).is_empty())
}

/// Somebody whom one acts as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Impersonated {
    /// The user.
    pub user: User,
    /// The verb of the narrow way that allowed it; empty for the old one.
    pub constraint: &'static str,
}

/// Whether headers ask to act as somebody else.
pub(crate) fn is_impersonating(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| name.as_str().starts_with("impersonate-"))
}

/// Whom the headers ask to act as, if `requester` may, for a request with these attributes; `None` without such
/// headers.
///
/// # Errors
/// 400 when there is no user to act as, 403 when one part of it is not allowed in any way.
pub fn impersonate(
    headers: &HeaderMap,
    requester: &User,
    attributes: &Attributes<'_>,
    authorizer: &dyn Authorizer,
    lookup: &dyn Lookup,
) -> Result<Option<Impersonated>, AdmissionError> {
    let Some(wanted) = wanted(headers)? else { return Ok(None) };
    let mut refused = None;
    for mode in Mode::ALL.into_iter().filter(|mode| mode.fits(&wanted, requester)) {
        match (Attempt { mode, requester, authorizer, lookup }).act(&wanted, attributes) {
            Ok(user) => {
                let constraint = if mode.is_constrained() { mode.verb() } else { "" };
                return Ok(Some(Impersonated { user, constraint }));
            }
            // What the narrowest way lacks is told: it is what one should have been given.
            Err(error) => refused = refused.or(Some(error)),
        }
    }
    Err(refused.unwrap_or_else(|| AdmissionError::internal("all impersonation modes failed")))
}

/// The user that headers ask for, as they say it.
fn wanted(headers: &HeaderMap) -> Result<Option<User>, AdmissionError> {
    let all = |name: &str| headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect::<Vec<_>>();
    let first = |name: &str| all(name).first().copied().unwrap_or("").to_owned();
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (key, value) in headers {
        if let (Some(key), Ok(value)) = (key.as_str().strip_prefix(EXTRA_PREFIX), value.to_str()) {
            extra.entry(unescape(key)).or_default().push(value.to_owned());
        }
    }
    let groups = all(GROUP).into_iter().map(str::to_owned).collect();
    let user = User { name: first(USER), uid: first(UID), groups, extra };
    if !user.name.is_empty() {
        return Ok(Some(user));
    }
    if user == User::default() {
        return Ok(None);
    }
    let words = |list: &[String]| list.iter().map(|text| format!("{text:?}")).collect::<Vec<_>>().join(", ");
    let groups = if user.groups.is_empty() { "(nil)".to_owned() } else { format!("{{{}}}", words(&user.groups)) };
    let extra = if user.extra.is_empty() {
        "(nil)".to_owned()
    } else {
        let entries = user.extra.iter().map(|(key, values)| format!("{key:?}:[]string{{{}}}", words(values)));
        format!("{{{}}}", entries.collect::<Vec<_>>().join(", "))
    };
    Err(AdmissionError::bad_request(format!(
        "requested &user.DefaultInfo{{Name:\"\", UID:{:?}, Groups:[]string{groups}, Extra:map[string][]string{extra}}} \
         without impersonating a user name",
        user.uid
    )))
}

/// One way being tried.
struct Attempt<'a> {
    mode: Mode,
    requester: &'a User,
    authorizer: &'a dyn Authorizer,
    lookup: &'a dyn Lookup,
}

impl Attempt<'_> {
    fn check(&self, attributes: &Attributes<'_>) -> Result<(), AdmissionError> {
        let mut asked;
        let requester = if self.mode == Mode::AssociatedNode {
            // That the node is the requester's own was seen; which node it is must not matter to anyone.
            asked = self.requester.clone();
            let keys = asked.extra.into_keys().collect();
            asked.extra = [(NODE_KEYS.to_owned(), keys)].into();
            &asked
        } else {
            self.requester
        };
        let decision = self.authorizer.authorize(requester, attributes, self.lookup);
        if decision.is_allowed() { Ok(()) } else { Err(forbidden(requester, attributes, decision.reason())) }
    }

    /// The right to be something: in the narrow ways all of it belongs to the group of authentication.
    fn being<'n>(&self, resource: &'n str, name: &'n str) -> Attributes<'n> {
        let group = match (self.mode, resource) {
            (Mode::Legacy, "users" | "groups" | "serviceaccounts") => "",
            _ => AUTHENTICATION,
        };
        Attributes { version: "v1", ..Attributes::resource(self.mode.verb(), group, resource, "", name) }
    }

    fn act(&self, wanted: &User, attributes: &Attributes<'_>) -> Result<User, AdmissionError> {
        if let Some(mode) = self.mode.verb().strip_prefix("impersonate:") {
            let verb = format!("impersonate-on:{mode}:{}", attributes.verb);
            self.check(&Attributes { verb: &verb, ..*attributes })?;
        }
        let mut user = wanted.clone();
        match (node_of(&wanted.name).filter(|_| self.mode.is_constrained()), wanted.as_service_account()) {
            (Some(node), _) => {
                user.groups = vec![NODES_GROUP.to_owned()];
                self.check(&self.being("nodes", if self.mode == Mode::AssociatedNode { "*" } else { node }))?;
            }
            (None, Some((namespace, account))) => {
                if wanted.groups.is_empty() {
                    user.groups = User::service_account(namespace, account, "").groups;
                }
                self.check(&Attributes { namespace, ..self.being("serviceaccounts", account) })?;
            }
            (None, None) => self.check(&self.being("users", &wanted.name))?,
        }
        if !wanted.uid.is_empty() {
            self.check(&self.being("uids", &wanted.uid))?;
        }
        self.check_groups(&wanted.groups)?;
        self.check_extra(&wanted.extra)?;
        Ok(with_standard_group(user))
    }

    fn check_groups(&self, groups: &[String]) -> Result<(), AdmissionError> {
        if self.mode.is_constrained() {
            for (group, why) in [
                ("", "impersonating the empty string group is not allowed"),
                (MASTERS_GROUP, "impersonating the system:masters group is not allowed"),
            ] {
                if groups.iter().any(|held| held == group) {
                    return Err(forbidden(self.requester, &self.being("groups", group), why));
                }
            }
            if groups.len() >= MANY && self.check(&self.being("groups", "*")).is_ok() {
                return Ok(());
            }
        }
        groups.iter().try_for_each(|group| self.check(&self.being("groups", group)))
    }

    fn check_extra(&self, extra: &BTreeMap<String, Vec<String>>) -> Result<(), AdmissionError> {
        if self.mode.is_constrained() && !extra.is_empty() {
            if let Some(why) = extra.iter().find_map(|(key, values)| wrong_extra(key, values)) {
                return Err(forbidden(self.requester, &self.being("userextras", ""), &why));
            }
            let many = extra.len() >= MANY || extra.values().map(Vec::len).sum::<usize>() >= MANY;
            if many && self.check(&Attributes { subresource: "*", ..self.being("userextras", "*") }).is_ok() {
                return Ok(());
            }
        }
        for (key, values) in extra {
            for value in values {
                self.check(&Attributes { subresource: key, ..self.being("userextras", value) })?;
            }
        }
        Ok(())
    }
}

/// Why extra may not be had in a narrow way.
fn wrong_extra(key: &str, values: &[String]) -> Option<String> {
    let domain = key.split_once('/').filter(|(domain, path)| !domain.is_empty() && !path.is_empty());
    if key.is_empty() {
        return Some("impersonating the empty string key in extra is not allowed".to_owned());
    }
    let Some((domain, _)) = domain else {
        return Some(format!(
            "impersonating an invalid key in extra is not allowed: extra.key: Invalid value: {key:?}: must be a \
             domain-prefixed path (such as \"acme.io/foo\")"
        ));
    };
    if let Some(why) = timonel_api::names::dns_subdomain(domain).first() {
        return Some(format!(
            "impersonating an invalid key in extra is not allowed: extra.key: Invalid value: {domain:?}: {why}"
        ));
    }
    if key.chars().any(char::is_uppercase) {
        return Some(format!("impersonating a non-lowercase key in extra is not allowed: {key:?}"));
    }
    let empty = values.iter().any(String::is_empty);
    empty.then(|| "impersonating the empty string value in extra is not allowed".to_owned())
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

    /// Allows what it lists as `verb group/resource/subresource namespace/name`, where `%` at the end is anything.
    #[derive(Debug)]
    struct Listed(&'static [&'static str]);

    impl Authorizer for Listed {
        fn authorize(&self, _: &User, of: &Attributes<'_>, _: &dyn Lookup) -> Decision {
            let asked = format!("{} {}/{} {}/{}", of.verb, of.group, of.combined_resource(), of.namespace, of.name);
            let allowed = self.0.iter().any(|known| match known.strip_suffix('%') {
                Some(start) => asked.starts_with(start),
                None => *known == asked,
            });
            if allowed { Decision::Allow(asked) } else { Decision::NoOpinion(String::new()) }
        }
    }

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            let name: http::HeaderName = name.parse().unwrap();
            map.append(name, value.parse().unwrap());
        }
        map
    }

    fn act(
        pairs: &[(&str, &str)],
        requester: &User,
        allowed: &'static [&'static str],
    ) -> Result<Option<Impersonated>, AdmissionError> {
        let list = Attributes { version: "v1", ..Attributes::resource("list", "", "pods", "ns", "") };
        impersonate(&headers(pairs), requester, &list, &Listed(allowed), &Objects::default())
    }

    const LEGACY: &[&str] = &["impersonate %"];

    #[test]
    fn headers_become_a_user() {
        for (pairs, expected) in [
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
        ] {
            assert_eq!(is_impersonating(&headers(pairs)), !pairs.is_empty());
            let got = act(pairs, &User::new("root", &[]), LEGACY);
            let got = got.map(|found| found.map(|found| found.user)).map_err(|error| error.code);
            assert_eq!(got, expected, "{pairs:?}");
        }
    }

    #[test]
    fn narrow_ways_are_enough_and_come_first() {
        let agent = || {
            let mut user = User::service_account("ns", "agent", "");
            user.extra.insert(NODE_NAME.to_owned(), vec!["n1".to_owned()]);
            user
        };
        let root = || User::new("root", &[]);
        let user_info = &[
            "impersonate-on:user-info:list /pods ns/",
            "impersonate:user-info authentication.k8s.io/users /bob",
            "impersonate:user-info authentication.k8s.io/groups /dev",
            "impersonate:user-info authentication.k8s.io/userextras/x.io/k /v",
        ][..];
        for (pairs, requester, allowed, expected) in [
            (
                &[("impersonate-user", "bob"), ("impersonate-group", "dev")][..],
                root(),
                user_info,
                Ok("impersonate:user-info"),
            ),
            (
                &[("impersonate-user", "bob"), ("impersonate-extra-x.io%2fk", "v")],
                root(),
                user_info,
                Ok("impersonate:user-info"),
            ),
            (
                &[("impersonate-user", "bob"), ("impersonate-group", "ops")],
                root(),
                user_info,
                Err("groups.authentication.k8s.io \"ops\" is forbidden"),
            ),
            (
                &[("impersonate-user", "bob"), ("impersonate-group", "system:masters")],
                root(),
                user_info,
                Err("impersonating the system:masters group is not allowed"),
            ),
            (
                &[("impersonate-user", "bob"), ("impersonate-extra-k", "v")],
                root(),
                user_info,
                Err("impersonating an invalid key in extra is not allowed"),
            ),
            // To be bob is one thing, to list pods as him another.
            (
                &[("impersonate-user", "bob")],
                root(),
                &["impersonate:user-info %"],
                Err("cannot impersonate-on:user-info:list resource \"pods\" in API group \"\" in the namespace \"ns\""),
            ),
            (
                &[("impersonate-user", "system:node:n1")],
                agent(),
                &[
                    "impersonate-on:associated-node:list /pods ns/",
                    "impersonate:associated-node authentication.k8s.io/nodes /*",
                ],
                Ok("impersonate:associated-node"),
            ),
            (
                &[("impersonate-user", "system:node:n2")],
                agent(),
                &[
                    "impersonate-on:associated-node:list /pods ns/",
                    "impersonate:associated-node authentication.k8s.io/nodes /*",
                ],
                Err("cannot impersonate-on:arbitrary-node:list"),
            ),
            (
                &[("impersonate-user", "system:node:n2")],
                root(),
                &[
                    "impersonate-on:arbitrary-node:list /pods ns/",
                    "impersonate:arbitrary-node authentication.k8s.io/nodes /n2",
                ],
                Ok("impersonate:arbitrary-node"),
            ),
            (
                &[("impersonate-user", "system:serviceaccount:a:b")],
                root(),
                &[
                    "impersonate-on:serviceaccount:list /pods ns/",
                    "impersonate:serviceaccount authentication.k8s.io/serviceaccounts a/b",
                ],
                Ok("impersonate:serviceaccount"),
            ),
            (&[("impersonate-user", "system:node:n1")], agent(), LEGACY, Ok("")),
        ] {
            let got = act(pairs, &requester, allowed);
            match (got, expected) {
                (Ok(Some(found)), Ok(constraint)) => assert_eq!(found.constraint, constraint, "{pairs:?}"),
                (Err(error), Err(words)) => assert!(error.message.contains(words), "{}", error.message),
                (got, _) => panic!("{pairs:?}: {got:?}"),
            }
        }
        let node = act(&[("impersonate-user", "system:node:n1")], &root(), &["impersonate-on:%", "impersonate:%"]);
        assert_eq!(node.unwrap().unwrap().user.groups, ["system:nodes", "system:authenticated"]);
    }

    #[test]
    fn many_groups_may_be_allowed_at_once() {
        let mut pairs = vec![("impersonate-user", "bob")];
        pairs.extend(["a", "b", "c", "d"].map(|group| ("impersonate-group", group)));
        let allowed: &[&str] = &[
            "impersonate-on:user-info:list /pods ns/",
            "impersonate:user-info authentication.k8s.io/users /bob",
            "impersonate:user-info authentication.k8s.io/groups /*",
        ];
        assert_eq!(act(&pairs, &User::new("root", &[]), allowed).unwrap().unwrap().constraint, "impersonate:user-info");
    }

    #[test]
    fn nobody_without_a_name_is_impersonated() {
        let error = act(&[("impersonate-group", "a")], &User::new("root", &[]), LEGACY).unwrap_err();
        assert_eq!(
            error.message,
            "requested &user.DefaultInfo{Name:\"\", UID:\"\", Groups:[]string{\"a\"}, Extra:map[string][]string(nil)} \
             without impersonating a user name"
        );
    }
}
