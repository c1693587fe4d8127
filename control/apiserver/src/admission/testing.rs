//! A cluster's objects for tests.

use super::{AdmissionError, AdmissionPlugin, AdmissionRequest, Lookup, Operation};
use crate::authn::User;
use std::{collections::BTreeMap, sync::Arc};
use timonel_api::Value;
use timonel_runtime::Entropy;

type Place = (String, String, String, String);

/// Objects by group, resource, namespace and name.
#[derive(Debug, Default)]
pub(crate) struct Objects {
    objects: BTreeMap<Place, Arc<Value>>,
    generation: u64,
}

impl Objects {
    pub(crate) fn add(&mut self, group: &str, resource: &str, object: serde_json::Value) {
        let object = Value::from(object);
        let text = |path: &str| object.str_at(&["metadata", path]).to_owned();
        let place = (group.to_owned(), resource.to_owned(), text("namespace"), text("name"));
        self.objects.insert(place, Arc::new(object));
        self.generation += 1;
    }

    pub(crate) fn with(mut self, group: &str, resource: &str, object: serde_json::Value) -> Self {
        self.add(group, resource, object);
        self
    }
}

impl Lookup for Objects {
    fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
        self.objects.get(&(group.into(), resource.into(), namespace.into(), name.into())).cloned()
    }

    fn list(&self, group: &str, resource: &str, namespace: Option<&str>) -> Vec<Arc<Value>> {
        self.objects
            .iter()
            .filter(|((g, r, n, _), _)| g == group && r == resource && namespace.is_none_or(|wanted| wanted == n))
            .map(|(_, object)| object.clone())
            .collect()
    }

    fn generation(&self, _: &str, _: &str) -> u64 {
        self.generation
    }
}

/// What a plugin made of a write.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) object: serde_json::Value,
    pub(crate) warnings: Vec<String>,
    pub(crate) paired: Vec<super::PairedWrite>,
    pub(crate) audit: BTreeMap<String, String>,
}

/// A write for tests; `Null` for no old object.
pub(crate) struct Write<'a> {
    pub(crate) operation: Operation,
    pub(crate) group: &'a str,
    pub(crate) resource: &'a str,
    pub(crate) subresource: &'a str,
    pub(crate) user: User,
    pub(crate) old: serde_json::Value,
    pub(crate) object: serde_json::Value,
}

impl<'a> Write<'a> {
    pub(crate) fn create(group: &'a str, resource: &'a str, object: serde_json::Value) -> Self {
        let (user, old) = (User::new("alice", &[]), serde_json::Value::Null);
        Self { operation: Operation::Create, group, resource, subresource: "", user, old, object }
    }

    pub(crate) fn update(group: &'a str, resource: &'a str, old: serde_json::Value, object: serde_json::Value) -> Self {
        Self { operation: Operation::Update, old, ..Self::create(group, resource, object) }
    }

    pub(crate) fn delete(group: &'a str, resource: &'a str, old: serde_json::Value) -> Self {
        Self { operation: Operation::Delete, old, ..Self::create(group, resource, serde_json::Value::Null) }
    }

    pub(crate) fn by(self, user: User) -> Self {
        Self { user, ..self }
    }

    pub(crate) fn on(self, subresource: &'a str) -> Self {
        Self { subresource, ..self }
    }

    /// Runs one plugin, mutation then validation.
    pub(crate) fn run(self, plugin: &dyn AdmissionPlugin, lookup: &dyn Lookup) -> Result<Outcome, AdmissionError> {
        let old = Value::from(self.old);
        let mut object = Value::from(self.object);
        let named = if object.is_null() { &old } else { &object };
        let (namespace, name) =
            (named.str_at(&["metadata", "namespace"]).to_owned(), named.str_at(&["metadata", "name"]).to_owned());
        let entropy = Entropy::seeded(1);
        let mut request = AdmissionRequest {
            operation: self.operation,
            group: self.group,
            version: "v1",
            resource: self.resource,
            subresource: self.subresource,
            kind: "",
            namespace: &namespace,
            name: &name,
            user: &self.user,
            old: (!old.is_null()).then_some(&old),
            object: &mut object,
            options: &Value::Null,
            dry_run: false,
            now: "2026-11-21T12:00:00Z".parse().expect("a constant"),
            entropy: &entropy,
            warnings: Vec::new(),
            audit: BTreeMap::new(),
            paired: Vec::new(),
        };
        plugin.mutate(&mut request, lookup)?;
        plugin.validate(&mut request, lookup)?;
        let AdmissionRequest { warnings, paired, audit, .. } = request;
        Ok(Outcome { object: (&object).into(), warnings, paired, audit })
    }
}
