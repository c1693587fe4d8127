//! CustomResourceDefinitions: what one declares, compiled; its status; and the rules a definition must keep.
//!
//! Pure: a definition comes as a [`Value`] and becomes resources, types and printers. Never serves anything.

mod rules;
mod schema_rules;
mod status;

use std::sync::Arc;

pub(crate) use rules::validate;
pub use status::{
    CLEANUP_FINALIZER, InstanceRemoval, condition, is_established, is_terminating, mark_terminating,
    prepare_definition, release, settle,
};

use crate::structural::{fnv, type_name};
use crate::table::Printer;
use crate::{
    CompileError, Gvk, Key, Limits, Resource, Scheme, Structural, Subresource, Value, Verb, decode_json_untyped,
    encode_json, scheme::GroupResource,
};

/// What a definition declares, ready to be served.
#[derive(Debug)]
pub struct Definition {
    /// The definition's name: `plural.group`.
    pub name: Key,
    /// What it was compiled from, see [`identity`].
    pub identity: u64,
    /// All versions, served or not, in the order of discovery.
    pub versions: Vec<Version>,
    /// The place of the version that objects are stored in.
    pub storage: usize,
    /// How objects of one version become those of another.
    pub conversion: Conversion,
    /// Whether objects are being removed.
    pub terminating: bool,
    /// The types and resources of all versions, over those of Kubernetes.
    pub scheme: Arc<Scheme>,
}

/// How objects of one version become those of another.
#[derive(Clone, Debug, PartialEq)]
pub enum Conversion {
    /// Only `apiVersion` changes.
    None,
    /// A webhook converts.
    Webhook {
        /// Where it is: `clientConfig` of the definition.
        client: Value,
        /// Versions of `ConversionReview` that it takes, in order of preference.
        reviews: Vec<Key>,
    },
}

/// One version of a definition.
#[derive(Debug)]
pub struct Version {
    /// The resource as it is served.
    pub resource: Arc<Resource>,
    /// Whether it is served.
    pub served: bool,
    /// The compiled schema.
    pub structural: Arc<Structural>,
    /// The schema as declared, as JSON: read again where it is told.
    declared: Box<[u8]>,
    /// How objects are shown as rows.
    pub printer: Printer,
    /// Where the number of replicas is, when there is a `scale` subresource.
    pub scale: Option<ScalePaths>,
    /// Paths of fields that selectors may name.
    pub selectable: Vec<Key>,
    /// The warning that every answer carries, when the version is deprecated.
    pub warning: Option<String>,
}

/// Where `scale` reads and writes; paths without the leading dot, split at dots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScalePaths {
    /// The wish.
    pub spec_replicas: Vec<Key>,
    /// What there is.
    pub status_replicas: Vec<Key>,
    /// A label selector as text.
    pub selector: Vec<Key>,
}

impl Version {
    /// The schema as declared.
    #[must_use]
    pub fn schema(&self) -> Value {
        decode_json_untyped(&self.declared, &Limits { bytes: usize::MAX, ..Limits::default() }).unwrap_or_default()
    }
}

impl Definition {
    /// Compiles a definition; names are those that it was accepted with.
    ///
    /// # Errors
    /// A schema that does not compile.
    pub fn compile(base: &Arc<Scheme>, crd: &Value) -> Result<Self, CompileError> {
        let mut declared: Vec<&Value> = crd.list_at(&["spec", "versions"]).iter().collect();
        declared.sort_by_key(|version| std::cmp::Reverse(version_order(version.str_at(&["name"]))));
        if declared.is_empty() {
            return Err(CompileError::NoVersion);
        }
        let terminating = is_terminating(crd);
        let mut builder = base.layer();
        let mut compiled = Vec::with_capacity(declared.len());
        for version in &declared {
            let empty = Value::object();
            let schema = version.at(&["schema", "openAPIV3Schema"]).unwrap_or(&empty);
            let structural = Arc::new(Structural::compile(schema)?);
            let resource = resource(crd, version, terminating);
            let name = type_name(&resource.group, &resource.version, &resource.kind);
            let (body, list) = structural.declare(builder.schema(), &name);
            let resource = Resource { body, list_body: Some(list), ..resource };
            builder.add_resource(resource.clone());
            compiled.push((Arc::new(resource), structural, encode_json(schema).into_boxed_slice()));
        }
        let versions = compiled.into_iter().zip(&declared).map(|((resource, structural, declared), version)| Version {
            warning: warning(&resource, version),
            resource,
            structural,
            declared,
            served: version.bool_at(&["served"]) == Some(true),
            printer: Printer::custom(version.list_at(&["additionalPrinterColumns"]))
                .unwrap_or_else(|_| Printer::custom(&[]).expect("the default columns read")),
            scale: version.at(&["subresources", "scale"]).filter(|scale| !scale.is_null()).map(scale_paths),
            selectable: selectable(version),
        });
        Ok(Self {
            name: crd.str_at(&["metadata", "name"]).into(),
            identity: identity(crd),
            versions: versions.collect(),
            storage: declared.iter().position(|version| version.bool_at(&["storage"]) == Some(true)).unwrap_or(0),
            conversion: conversion(crd),
            terminating,
            scheme: builder.build(),
        })
    }

    /// The version that objects are stored in.
    ///
    /// # Panics
    /// Never: a definition has a version.
    #[must_use]
    pub fn stored(&self) -> &Version {
        &self.versions[self.storage]
    }

    /// A version by name.
    #[must_use]
    pub fn version(&self, name: &str) -> Option<&Version> {
        self.versions.iter().find(|version| version.resource.version == name)
    }

    /// The versions that are served, in the order of discovery.
    pub fn served(&self) -> impl Iterator<Item = &Version> {
        self.versions.iter().filter(|version| version.served)
    }

    /// Paths of selectable fields of any version, each once.
    #[must_use]
    pub fn selectable(&self) -> Vec<Key> {
        let mut paths: Vec<Key> = self.versions.iter().flat_map(|version| version.selectable.iter().cloned()).collect();
        paths.sort();
        paths.dedup();
        paths
    }
}

fn names(crd: &Value) -> &Value {
    let accepted = crd.at(&["status", "acceptedNames"]).filter(|names| !names.str_at(&["plural"]).is_empty());
    accepted.or_else(|| crd.at(&["spec", "names"])).unwrap_or(&Value::Null)
}

fn keys(names: &Value, member: &str) -> Vec<Key> {
    names.list_at(&[member]).iter().filter_map(Value::as_str).map(Key::from).collect()
}

fn resource(crd: &Value, version: &Value, terminating: bool) -> Resource {
    const ALL: [Verb; 8] = [
        Verb::Delete,
        Verb::DeleteCollection,
        Verb::Get,
        Verb::List,
        Verb::Patch,
        Verb::Create,
        Verb::Update,
        Verb::Watch,
    ];
    let names = names(crd);
    let text = |member: &str| Key::from(names.str_at(&[member]));
    let (group, kind, plural) = (Key::from(crd.str_at(&["spec", "group"])), text("kind"), text("plural"));
    let given = |member: &str, default: String| match names.str_at(&[member]) {
        "" => Key::from(default),
        name => Key::from(name),
    };
    // What ends takes no new objects and no changes.
    let ends = |verb: &Verb| !terminating || !matches!(verb, Verb::Patch | Verb::Create | Verb::Update);
    let name = Key::from(version.str_at(&["name"]));
    let own = Gvk { group: group.clone(), version: name.clone(), kind: kind.clone() };
    Resource {
        singular: given("singular", kind.to_lowercase().into_string()),
        list_kind: given("listKind", format!("{kind}List")),
        short_names: keys(names, "shortNames"),
        categories: keys(names, "categories"),
        namespaced: crd.str_at(&["spec", "scope"]) == "Namespaced",
        verbs: ALL.into_iter().filter(ends).collect(),
        subresources: subresources(version, &own),
        body: crate::TypeId(0),
        list_body: None,
        storage: GroupResource { group: group.clone(), resource: plural.clone() },
        custom: true,
        version: name,
        group,
        plural,
        kind,
    }
}

fn subresources(version: &Value, own: &Gvk) -> Vec<Subresource> {
    let has = |name: &str| version.at(&["subresources", name]).is_some_and(|sub| !sub.is_null());
    let part = |name: &str, gvk: Gvk| Subresource {
        name: name.into(),
        gvk,
        verbs: vec![Verb::Get, Verb::Patch, Verb::Update],
        body: None,
    };
    let mut parts = Vec::new();
    if has("status") {
        parts.push(part("status", own.clone()));
    }
    if has("scale") {
        parts.push(part("scale", Gvk::new("autoscaling", "v1", "Scale")));
    }
    parts
}

fn warning(resource: &Resource, version: &Value) -> Option<String> {
    if version.bool_at(&["deprecated"]) != Some(true) {
        return None;
    }
    Some(match version.str_at(&["deprecationWarning"]) {
        "" => format!("{} {} is deprecated", resource.api_version(), resource.kind),
        text => text.to_owned(),
    })
}

fn scale_paths(scale: &Value) -> ScalePaths {
    let path = |member: &str| -> Vec<Key> {
        let text = scale.str_at(&[member]);
        text.trim_start_matches('.').split('.').filter(|part| !part.is_empty()).map(Key::from).collect()
    };
    ScalePaths {
        spec_replicas: path("specReplicasPath"),
        status_replicas: path("statusReplicasPath"),
        selector: path("labelSelectorPath"),
    }
}

fn selectable(version: &Value) -> Vec<Key> {
    let fields = version.list_at(&["selectableFields"]).iter();
    fields.map(|field| field.str_at(&["jsonPath"]).trim_start_matches('.').into()).collect()
}

fn conversion(crd: &Value) -> Conversion {
    if crd.str_at(&["spec", "conversion", "strategy"]) != "Webhook" {
        return Conversion::None;
    }
    let webhook = crd.at(&["spec", "conversion", "webhook"]).unwrap_or(&Value::Null);
    Conversion::Webhook {
        client: webhook.get("clientConfig").cloned().unwrap_or_default(),
        reviews: keys(webhook, "conversionReviewVersions"),
    }
}

/// What orders versions in discovery: released before beta before alpha, newer before older.
#[must_use]
pub fn version_order(version: &str) -> (u8, u64, u64, std::cmp::Reverse<Key>) {
    let parsed = || {
        let rest = version.strip_prefix('v')?;
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let major: u64 = rest[..digits].parse().ok()?;
        if rest.starts_with('0') {
            return None;
        }
        let (stage, minor) = match &rest[digits..] {
            "" => return Some((3, major, 0)),
            tail if tail.starts_with("beta") => (2, &tail[4..]),
            tail if tail.starts_with("alpha") => (1, &tail[5..]),
            _ => return None,
        };
        Some((stage, major, minor.parse().ok().filter(|minor| *minor > 0)?))
    };
    let (stage, major, minor) = parsed().unwrap_or((0, 0, 0));
    (stage, major, minor, std::cmp::Reverse(version.into()))
}

/// A number that changes with whatever a definition compiles from: a change of labels or conditions leaves it.
#[must_use]
pub fn identity(crd: &Value) -> u64 {
    let empty = Value::Null;
    let parts = [crd.get("spec"), crd.at(&["status", "acceptedNames"]), crd.at(&["metadata", "uid"])];
    let mut hash = fnv(0, &[u8::from(is_terminating(crd))]);
    for part in parts {
        hash = fnv(hash, &encode_json(part.unwrap_or(&empty)));
    }
    hash
}

/// What others need to know of a definition: all but its schemas, which are large.
#[must_use]
pub fn brief(crd: &Value) -> Value {
    let mut brief = Value::object();
    for path in [
        &["metadata", "name"][..],
        &["metadata", "deletionTimestamp"],
        &["metadata", "finalizers"],
        &["spec", "group"],
        &["spec", "names"],
        &["status"],
    ] {
        if let Some(value) = crd.at(path) {
            brief.set_at(path, value.clone());
        }
    }
    let versions = crd.list_at(&["spec", "versions"]).iter().map(|version| {
        let mut brief = Value::object();
        for name in ["name", "served", "storage"] {
            brief.set_at(&[name], version.get(name).cloned().unwrap_or_default());
        }
        brief
    });
    brief.set_at(&["spec", "versions"], versions.collect::<Vec<Value>>());
    brief
}

#[cfg(test)]
mod tests;
