//! What every namespace has: the service account `default`, and the certificate authority of the API server.

use crate::{
    common::objects::{deleting, namespace},
    framework::{Action, Change, Controller, Key, Kind, Object, Plan, View},
};
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{ConfigMap, Namespace, ServiceAccount},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use std::{collections::BTreeMap, sync::Arc};

const ROOT_CA: &str = "kube-root-ca.crt";
const DESCRIPTION: (&str, &str) = (
    "kubernetes.io/description",
    "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the \
     internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.",
);

/// Creates the service account `default`.
#[derive(Debug)]
pub(crate) struct ServiceAccounts;

/// Publishes the API server's certificate authority.
#[derive(Debug)]
pub(crate) struct RootAuthority {
    pub(crate) pem: String,
}

/// The namespace at `key`, if it accepts new objects.
fn live<'a>(view: &'a View, key: &Key) -> Option<&'a Arc<Namespace>> {
    view.namespaces.get(key).filter(|namespace| !deleting(&namespace.metadata))
}

fn namespace_key(change: &Change, keys: &mut Vec<Key>) {
    let meta = change.object().meta();
    match change.object() {
        Object::Namespace(_) => keys.push(Key::of(meta)),
        _ => keys.push(Key::new("", namespace(meta))),
    }
}

fn named(namespace: &str, name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.to_owned()), namespace: Some(namespace.to_owned()), ..ObjectMeta::default() }
}

impl Controller for ServiceAccounts {
    fn name(&self) -> &'static str {
        "serviceaccount-controller"
    }

    fn reads(&self) -> &'static [Kind] {
        &[Kind::Namespace, Kind::ServiceAccount]
    }

    fn writes(&self) -> &'static [(&'static str, &'static str)] {
        &[("ServiceAccount", "created as default")]
    }

    fn keys(&self, _view: &View, change: &Change, keys: &mut Vec<Key>) {
        namespace_key(change, keys);
    }

    fn plan(&self, view: &View, key: &Key, _now: Timestamp) -> Plan {
        if live(view, key).is_none() || view.service_accounts.find(&key.name, "default").is_some() {
            return Plan::none();
        }
        vec![Action::create(ServiceAccount { metadata: named(&key.name, "default"), ..ServiceAccount::default() })]
            .into()
    }
}

impl Controller for RootAuthority {
    fn name(&self) -> &'static str {
        "root-ca-certificate-publisher"
    }

    fn reads(&self) -> &'static [Kind] {
        &[Kind::Namespace, Kind::ConfigMap]
    }

    fn writes(&self) -> &'static [(&'static str, &'static str)] {
        &[("ConfigMap", "kube-root-ca.crt")]
    }

    fn keys(&self, _view: &View, change: &Change, keys: &mut Vec<Key>) {
        namespace_key(change, keys);
    }

    fn plan(&self, view: &View, key: &Key, _now: Timestamp) -> Plan {
        if live(view, key).is_none() {
            return Plan::none();
        }
        let data = Some(BTreeMap::from([("ca.crt".to_owned(), self.pem.clone())]));
        let Some(known) = view.config_maps.find(&key.name, ROOT_CA) else {
            let mut metadata = named(&key.name, ROOT_CA);
            metadata.annotations = Some(BTreeMap::from([(DESCRIPTION.0.to_owned(), DESCRIPTION.1.to_owned())]));
            return vec![Action::create(ConfigMap { metadata, data, ..ConfigMap::default() })].into();
        };
        let described = known.metadata.annotations.as_ref().and_then(|all| all.get(DESCRIPTION.0)).is_some();
        if known.data == data && described {
            return Plan::none();
        }
        let mut map = (**known).clone();
        map.data = data;
        map.metadata.annotations.get_or_insert_default().insert(DESCRIPTION.0.to_owned(), DESCRIPTION.1.to_owned());
        vec![Action::update(map)].into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, lines, object};
    use serde_json::{Value, json};

    fn check(controller: &dyn Controller, namespace: Value, maps: &[Value], expected: &[&str]) {
        let mut view = View::default();
        view.namespaces.insert(object(namespace));
        for map in maps {
            view.config_maps.insert(object(map.clone()));
        }
        assert_eq!(lines(&controller.plan(&view, &Key::new("", "team"), at(0))), expected);
    }

    #[test]
    fn a_namespace_gets_its_account_and_authority() {
        let live = json!({"metadata": {"name": "team"}});
        let leaving = json!({"metadata": {"name": "team", "deletionTimestamp": "1970-01-01T00:00:00Z"}});
        let authority = RootAuthority { pem: "PEM".to_owned() };
        check(&ServiceAccounts, live.clone(), &[], &["create ServiceAccount team/default"]);
        check(&ServiceAccounts, leaving.clone(), &[], &[]);
        check(&authority, live.clone(), &[], &["create ConfigMap team/kube-root-ca.crt"]);
        check(&authority, leaving, &[], &[]);
        let map = |pem: &str| json!({"metadata": {"name": ROOT_CA, "namespace": "team", "annotations": {DESCRIPTION.0: "x"}}, "data": {"ca.crt": pem}});
        check(&authority, live.clone(), &[map("PEM")], &[]);
        check(&authority, live, &[map("old")], &["update ConfigMap team/kube-root-ca.crt"]);
    }
}
