//! Gives the Secrets of type `kubernetes.io/service-account-token` that people make their token, and removes those
//! whose account is gone.

use super::{ACCOUNT_NAME, ACCOUNT_UID, TOKEN_TYPE, holds_token};
use crate::{
    common::objects::{annotation, name, namespace, uid},
    framework::{Action, Answer, Change, Controller, Key, Kind, Object, Plan, Question, Target, View, Write},
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    ByteString,
    api::core::v1::{Secret, ServiceAccount},
};
use std::sync::Arc;

/// How old an answer of the server about an account may be.
const FRESH: SignedDuration = SignedDuration::from_secs(10);

/// Fills Secrets with tokens.
#[derive(Debug)]
pub(crate) struct TokenFilling {
    /// What `ca.crt` holds.
    pub(crate) authority: String,
}

impl Controller for TokenFilling {
    fn name(&self) -> &'static str {
        "serviceaccount-token-controller"
    }

    fn reads(&self) -> &'static [Kind] {
        &[Kind::Secret, Kind::ServiceAccount]
    }

    fn writes(&self) -> &'static [(&'static str, &'static str)] {
        &[("Secret", "data of a service account's token"), ("Secret", "deleted with its service account")]
    }

    fn keys(&self, view: &View, change: &Change, keys: &mut Vec<Key>) {
        match change.object() {
            Object::Secret(secret) if holds_token(secret) && change.new.is_some() => {
                keys.push(Key::of(&secret.metadata));
            }
            Object::ServiceAccount(account) => {
                let index = format!("{}/{}", namespace(&account.metadata), name(&account.metadata));
                keys.extend(view.secrets.indexed(&index).map(|secret| Key::of(&secret.metadata)));
            }
            _ => {}
        }
    }

    fn plan(&self, view: &View, key: &Key, now: Timestamp) -> Plan {
        let Some(secret) = view.secrets.get(key).filter(|secret| holds_token(secret)) else { return Plan::none() };
        if secret.metadata.deletion_timestamp.is_some() {
            return Plan::none();
        }
        match account(view, secret, now) {
            Standing::Found(account) => self.fill(secret, account),
            Standing::Gone => vec![Action::delete(Target::of(Kind::Secret, &secret.metadata))].into(),
            Standing::Unknown(question) => vec![Action::ask(question)].into(),
            Standing::NotSeenYet | Standing::Nobody => Plan::none(),
        }
    }
}

enum Standing<'a> {
    Found(&'a ServiceAccount),
    Gone,
    /// Only the server knows: the cache may be behind the Secret.
    Unknown(Question),
    /// The server knows it; the cache will, and that is a change of its own.
    NotSeenYet,
    /// No account is named.
    Nobody,
}

fn account<'a>(view: &'a View, secret: &Secret, now: Timestamp) -> Standing<'a> {
    let Some(wanted) = annotation(&secret.metadata, ACCOUNT_NAME).filter(|name| !name.is_empty()) else {
        return Standing::Nobody;
    };
    let stated = annotation(&secret.metadata, ACCOUNT_UID).unwrap_or_default();
    let fits = |found: &str| stated.is_empty() || stated == found;
    let place = Key::new(namespace(&secret.metadata), wanted);
    if let Some(found) = view.service_accounts.get(&place).filter(|found| fits(uid(&found.metadata))) {
        return Standing::Found(found);
    }
    let question = Question::Uid { resource: Kind::ServiceAccount.resource(), key: place };
    match view.memory.answer(&question, now.saturating_sub(FRESH).unwrap_or(Timestamp::MIN)) {
        Some(Answer::Uid(Some(found))) if fits(found) => Standing::NotSeenYet,
        Some(_) => Standing::Gone,
        None => Standing::Unknown(question),
    }
}

impl TokenFilling {
    fn fill(&self, secret: &Arc<Secret>, account: &ServiceAccount) -> Plan {
        let data = |key: &str| secret.data.as_ref().and_then(|data| data.get(key)).map(|bytes| bytes.0.as_slice());
        let lacks_token = data("token").is_none_or(<[u8]>::is_empty);
        let lacks_place = data("namespace").is_none_or(<[u8]>::is_empty);
        let lacks_authority = !self.authority.is_empty() && data("ca.crt") != Some(self.authority.as_bytes());
        if !(lacks_token || lacks_place || lacks_authority) {
            return Plan::none();
        }
        let mut filled = (**secret).clone();
        let data = filled.data.get_or_insert_default();
        if lacks_authority {
            data.insert("ca.crt".to_owned(), ByteString(self.authority.clone().into_bytes()));
        }
        if lacks_place {
            data.insert("namespace".to_owned(), ByteString(namespace(&account.metadata).into()));
        }
        let annotations = filled.metadata.annotations.get_or_insert_default();
        annotations.insert(ACCOUNT_NAME.to_owned(), name(&account.metadata).to_owned());
        annotations.insert(ACCOUNT_UID.to_owned(), uid(&account.metadata).to_owned());
        let write = if lacks_token { Write::Sign(Object::from(filled)) } else { Write::Update(Object::from(filled)) };
        vec![Action::from(write)].into()
    }
}

/// What the token of a Secret says, once the Secret names its account: no end of life, no audience.
pub(crate) fn claims(secret: &Secret) -> Option<serde_json::Value> {
    let meta = &secret.metadata;
    let (account, id) = (annotation(meta, ACCOUNT_NAME)?, annotation(meta, ACCOUNT_UID)?);
    (secret.type_.as_deref() == Some(TOKEN_TYPE)).then(|| {
        serde_json::json!({
            "iss": "kubernetes/serviceaccount",
            "kubernetes.io/serviceaccount/namespace": namespace(meta),
            "kubernetes.io/serviceaccount/secret.name": name(meta),
            "kubernetes.io/serviceaccount/service-account.name": account,
            "kubernetes.io/serviceaccount/service-account.uid": id,
            "sub": format!("system:serviceaccount:{}:{account}", namespace(meta)),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, lines, object, outline};
    use serde_json::{Value, json};

    fn secret(data: Value, uid: &str) -> Secret {
        object(json!({"type": TOKEN_TYPE, "data": data, "metadata": {"name": "ci", "namespace": "team",
            "uid": "s", "annotations": {ACCOUNT_NAME: "robot", ACCOUNT_UID: uid}}}))
    }

    fn view(secret: Secret, account: Option<&str>) -> View {
        let mut view = View::default();
        view.secrets.insert(secret);
        if let Some(uid) = account {
            let account = json!({"metadata": {"name": "robot", "namespace": "team", "uid": uid}});
            view.service_accounts.insert(object(account));
        }
        view
    }

    fn plan(view: &View) -> Plan {
        TokenFilling { authority: "PEM".to_owned() }.plan(view, &Key::new("team", "ci"), at(100))
    }

    #[test]
    fn a_secret_without_a_token_gets_one() {
        let plan = plan(&view(secret(json!({}), ""), Some("u")));
        assert_eq!(lines(&plan), ["sign Secret team/ci"]);
        let Write::Sign(Object::Secret(filled)) = &plan.actions[0].write else { panic!("a Secret is signed") };
        let data = filled.data.as_ref().unwrap();
        assert_eq!((data["ca.crt"].0.as_slice(), data["namespace"].0.as_slice()), (&b"PEM"[..], &b"team"[..]));
        let claims = claims(filled).unwrap();
        assert_eq!(claims["sub"], "system:serviceaccount:team:robot");
        assert_eq!(claims["kubernetes.io/serviceaccount/service-account.uid"], "u");
    }

    #[test]
    fn what_is_complete_stays_and_what_lacks_a_part_gets_that_part() {
        let (token, place, ca) = ("dG9rZW4=", "dGVhbQ==", "UEVN");
        let whole = json!({"token": token, "namespace": place, "ca.crt": ca});
        assert_eq!(plan(&view(secret(whole, "u"), Some("u"))), Plan::none());
        let old = json!({"token": token, "namespace": place, "ca.crt": "b2xk"});
        let plan = plan(&view(secret(old, "u"), Some("u")));
        assert_eq!(lines(&plan), ["update Secret team/ci"]);
        assert_eq!(outline(&plan)[0].body["data"], json!({"token": token, "namespace": place, "ca.crt": ca}));
    }

    #[test]
    fn a_secret_whose_account_is_gone_goes_once_the_server_says_so() {
        let question = || Question::Uid { resource: Kind::ServiceAccount.resource(), key: Key::new("team", "robot") };
        let mut view = view(secret(json!({}), "u"), Some("another"));
        assert_eq!(plan(&view).actions, [Action::ask(question())]);
        view.memory.learn(question(), at(95), Answer::Uid(Some("u".to_owned())));
        assert_eq!(plan(&view), Plan::none());
        view.memory.learn(question(), at(95), Answer::Uid(Some("another".to_owned())));
        assert_eq!(lines(&plan(&view)), ["delete Secret team/ci"]);
        view.memory.learn(question(), at(95), Answer::Uid(None));
        assert_eq!(lines(&plan(&view)), ["delete Secret team/ci"]);
    }

    #[test]
    fn changes_of_an_account_concern_its_secrets() {
        let view = view(secret(json!({}), ""), None);
        let gone = object::<ServiceAccount>(json!({"metadata": {"name": "robot", "namespace": "team"}}));
        let mut keys = Vec::new();
        let controller = TokenFilling { authority: String::new() };
        controller.keys(&view, &Change { old: Some(Object::from(gone)), new: None }, &mut keys);
        assert_eq!(keys, [Key::new("team", "ci")]);
    }
}
