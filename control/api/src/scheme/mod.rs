//! The resources an API server serves: groups, versions, kinds, verbs, subresources, and which of them are
//! the same stored objects under several names.
//!
//! Never serves anything; whoever does asks here.

mod load;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, LazyLock, OnceLock};

use crate::defaulting::Plan;
use crate::schema::{Schema, SchemaBuilder, TableError, Tables, TypeId};
use crate::{Key, Value};

/// A kind with its group and version.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Gvk {
    /// The group, empty for the core.
    pub group: Key,
    /// The version.
    pub version: Key,
    /// The kind.
    pub kind: Key,
}

impl Gvk {
    /// From its three parts.
    #[must_use]
    pub fn new(group: &str, version: &str, kind: &str) -> Self {
        Self { group: group.into(), version: version.into(), kind: kind.into() }
    }

    /// From what an object says of itself: `apps/v1` and `Deployment`.
    #[must_use]
    pub fn of(api_version: &str, kind: &str) -> Self {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        Self::new(group, version, kind)
    }

    /// `group/version`, or the version alone for the core.
    #[must_use]
    pub fn api_version(&self) -> String {
        api_version(&self.group, &self.version)
    }
}

/// `group/version`, or the version alone for the core group.
#[must_use]
pub fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// `apps/v1, Kind=Deployment`, as upstream writes it in messages.
impl fmt::Display for Gvk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.group.is_empty() {
            write!(f, "/{}, Kind={}", self.version, self.kind)
        } else {
            write!(f, "{}/{}, Kind={}", self.group, self.version, self.kind)
        }
    }
}

/// A resource's group and plural name: what tells stored objects apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct GroupResource {
    /// The group, empty for the core.
    pub group: Key,
    /// The plural name.
    pub resource: Key,
}

/// `deployments.apps`, or `pods` for the core.
impl fmt::Display for GroupResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.resource)?;
        if self.group.is_empty() { Ok(()) } else { write!(f, ".{}", self.group) }
    }
}

/// What may be done with a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    /// `create`
    Create,
    /// `delete`
    Delete,
    /// `deletecollection`
    DeleteCollection,
    /// `get`
    Get,
    /// `list`
    List,
    /// `patch`
    Patch,
    /// `update`
    Update,
    /// `watch`
    Watch,
}

impl Verb {
    /// Every verb, in the order discovery lists them.
    pub const ALL: [Self; 8] = [
        Self::Create,
        Self::Delete,
        Self::DeleteCollection,
        Self::Get,
        Self::List,
        Self::Patch,
        Self::Update,
        Self::Watch,
    ];

    /// As discovery and authorization write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Delete => "delete",
            Self::DeleteCollection => "deletecollection",
            Self::Get => "get",
            Self::List => "list",
            Self::Patch => "patch",
            Self::Update => "update",
            Self::Watch => "watch",
        }
    }

    /// From its name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verb| verb.as_str() == text)
    }
}

/// A part of an object served under a path of its own.
#[derive(Clone, Debug)]
pub struct Subresource {
    /// Its name, such as `status`.
    pub name: Key,
    /// The kind it takes and gives.
    pub gvk: Gvk,
    /// What may be done with it.
    pub verbs: Vec<Verb>,
    /// The type of its body; `None` for kinds that exist as query parameters only.
    pub body: Option<TypeId>,
}

/// A served resource in one version.
#[derive(Clone, Debug)]
pub struct Resource {
    /// The group, empty for the core.
    pub group: Key,
    /// The version.
    pub version: Key,
    /// The plural name.
    pub plural: Key,
    /// The singular name.
    pub singular: Key,
    /// The kind of one object.
    pub kind: Key,
    /// The kind of a list of them.
    pub list_kind: Key,
    /// Short names for the command line.
    pub short_names: Vec<Key>,
    /// Categories, such as `all`.
    pub categories: Vec<Key>,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// What may be done with it.
    pub verbs: Vec<Verb>,
    /// Its parts.
    pub subresources: Vec<Subresource>,
    /// The type of one object.
    pub body: TypeId,
    /// The type of a list, where tables describe one.
    pub list_body: Option<TypeId>,
    /// Where its objects are stored: resources with the same value are views of the same objects.
    pub storage: GroupResource,
    /// Whether it comes from a custom resource definition.
    pub custom: bool,
}

impl Resource {
    /// `group/version`, or the version alone for the core.
    #[must_use]
    pub fn api_version(&self) -> String {
        api_version(&self.group, &self.version)
    }

    /// The kind with group and version.
    #[must_use]
    pub fn gvk(&self) -> Gvk {
        Gvk { group: self.group.clone(), version: self.version.clone(), kind: self.kind.clone() }
    }

    /// Group and plural name.
    #[must_use]
    pub fn group_resource(&self) -> GroupResource {
        GroupResource { group: self.group.clone(), resource: self.plural.clone() }
    }

    /// A part by name.
    #[must_use]
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|sub| sub.name == name)
    }

    /// Whether a verb is served.
    #[must_use]
    pub fn allows(&self, verb: Verb) -> bool {
        self.verbs.contains(&verb)
    }

    /// An object of this kind with `apiVersion` and `kind` set and nothing else.
    #[must_use]
    pub fn empty_object(&self) -> Value {
        let mut object = Value::object();
        object.set_at(&["apiVersion"], self.api_version());
        object.set_at(&["kind"], Value::String(self.kind.clone()));
        object
    }
}

/// A group with its versions, the preferred first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The name, empty for the core.
    pub name: Key,
    /// Versions in order of preference.
    pub versions: Vec<Key>,
}

/// All resources and all types of one API server. Cheap to share; a new one is made when custom resources
/// come or go.
#[derive(Debug, Default)]
pub struct Scheme {
    schema: Arc<Schema>,
    resources: Vec<Arc<Resource>>,
    groups: Vec<Group>,
    by_plural: HashMap<Gvk, usize>,
    by_kind: HashMap<Gvk, usize>,
    kinds: HashMap<Gvk, TypeId>,
    defaults: OnceLock<Plan>,
    base: Option<Arc<Scheme>>,
}

impl Scheme {
    /// The scheme of Kubernetes itself, made at first use.
    ///
    /// # Panics
    /// Never with the tables this crate is built with: a test reads them.
    #[must_use]
    pub fn kubernetes() -> Arc<Self> {
        static KUBERNETES: LazyLock<Arc<Scheme>> = LazyLock::new(Scheme::from_tables);
        KUBERNETES.clone()
    }

    /// The scheme of Kubernetes, read from its tables anew; [`Scheme::kubernetes`] keeps one. As upstream serves
    /// it by default: versions that are not stable are off, though their types are known. But for the migration of
    /// stored objects, which has no stable version yet, and without which a definition's old versions never end.
    ///
    /// # Panics
    /// Never with the tables this crate is built with: a test reads them.
    #[must_use]
    pub fn from_tables() -> Arc<Self> {
        let mut builder = Self::tables();
        builder.resources.retain(|one| is_stable(&one.version) || one.group.as_str() == MIGRATION_GROUP);
        builder.build()
    }

    /// The same with every version on, as upstream's `api/all=true`.
    ///
    /// # Panics
    /// Never with the tables this crate is built with: a test reads them.
    #[must_use]
    pub fn with_every_version() -> Arc<Self> {
        Self::tables().build()
    }

    fn tables() -> SchemeBuilder {
        let mut builder = Self::builder();
        builder.add_tables(&load::KUBERNETES, load::RESOURCES).expect("the built-in tables read, as a test shows");
        builder
    }

    /// A builder that starts from nothing.
    #[must_use]
    pub fn builder() -> SchemeBuilder {
        SchemeBuilder::default()
    }

    /// A builder that starts from what this scheme serves; type ids stay valid.
    #[must_use]
    pub fn extend(&self) -> SchemeBuilder {
        SchemeBuilder {
            schema: SchemaBuilder::extending(&self.schema),
            resources: self.resources.clone(),
            kinds: self.kinds.clone(),
            base: None,
        }
    }

    /// A builder of a scheme over this one: it lists its own resources only, and knows all types and kinds below.
    #[must_use]
    pub fn layer(self: &Arc<Self>) -> SchemeBuilder {
        SchemeBuilder { schema: SchemaBuilder::extending(&self.schema), base: Some(self.clone()), ..Default::default() }
    }

    /// What this scheme and definitions of custom resources serve together, for listings: the types of custom
    /// resources are those of their own schemes.
    #[must_use]
    pub fn listing(self: &Arc<Self>, custom: impl IntoIterator<Item = Arc<Resource>>) -> Arc<Scheme> {
        let mut builder = self.layer();
        builder.resources = self.resources.iter().cloned().chain(custom).collect();
        builder.build()
    }

    /// The scheme below, or this one.
    #[must_use]
    pub fn ground(self: &Arc<Self>) -> &Arc<Self> {
        self.base.as_ref().unwrap_or(self)
    }

    /// All types.
    #[must_use]
    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// What defaulting does for each type, worked out at first use.
    pub(crate) fn default_plan(&self) -> &Plan {
        match &self.base {
            Some(base) => base.default_plan(),
            None => self.defaults.get_or_init(|| Plan::of(&self.schema)),
        }
    }

    /// All resources, in the order discovery lists them.
    #[must_use]
    pub fn resources(&self) -> &[Arc<Resource>] {
        &self.resources
    }

    /// All groups, in the order discovery lists them.
    #[must_use]
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// The resources of one group and version.
    pub fn resources_of(&self, group: &str, version: &str) -> impl Iterator<Item = &Arc<Resource>> {
        self.resources.iter().filter(move |resource| resource.group == group && resource.version == version)
    }

    /// A resource by group, version and plural name.
    #[must_use]
    pub fn resource(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Resource>> {
        let own = self.by_plural.get(&Gvk::new(group, version, plural)).map(|at| &self.resources[*at]);
        own.or_else(|| self.base.as_ref()?.resource(group, version, plural))
    }

    /// A resource by kind.
    #[must_use]
    pub fn resource_of_kind(&self, gvk: &Gvk) -> Option<&Arc<Resource>> {
        let own = self.by_kind.get(gvk).map(|at| &self.resources[*at]);
        own.or_else(|| self.base.as_ref()?.resource_of_kind(gvk))
    }

    /// The type of a kind, whether it is a resource, a list, a subresource or a request of its own. The
    /// kinds every group has (`DeleteOptions` and its like) are found in any group.
    #[must_use]
    pub fn type_of(&self, gvk: &Gvk) -> Option<TypeId> {
        self.kinds
            .get(gvk)
            .copied()
            .or_else(|| self.base.as_ref()?.type_of(gvk))
            .or_else(|| self.schema.id(&format!("{META}{}", gvk.kind)).filter(|_| is_common(&gvk.kind)))
    }

    /// The resource whose version objects are stored in, for any view of them.
    #[must_use]
    pub fn storage_of(&self, resource: &Resource) -> Option<&Arc<Resource>> {
        self.resources.iter().find(|other| {
            other.storage == resource.storage
                && other.group == resource.storage.group
                && other.plural == resource.storage.resource
        })
    }

    /// All views of the objects stored under `storage`.
    pub fn views_of(&self, storage: &GroupResource) -> impl Iterator<Item = &Arc<Resource>> {
        let storage = storage.clone();
        self.resources.iter().filter(move |resource| resource.storage == storage)
    }
}

/// The group of StorageVersionMigration.
const MIGRATION_GROUP: &str = "storagemigration.k8s.io";

/// Whether a version is neither alpha nor beta.
fn is_stable(version: &str) -> bool {
    !version.contains("alpha") && !version.contains("beta")
}

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";

/// Kinds of `meta/v1` that every group serves under its own name.
fn is_common(kind: &str) -> bool {
    matches!(
        kind,
        "DeleteOptions"
            | "CreateOptions"
            | "UpdateOptions"
            | "PatchOptions"
            | "GetOptions"
            | "ListOptions"
            | "WatchEvent"
            | "Status"
            | "PartialObjectMetadata"
            | "PartialObjectMetadataList"
    )
}

/// Collects types and resources until [`SchemeBuilder::build`].
#[derive(Debug, Default)]
pub struct SchemeBuilder {
    schema: SchemaBuilder,
    resources: Vec<Arc<Resource>>,
    kinds: HashMap<Gvk, TypeId>,
    base: Option<Arc<Scheme>>,
}

impl SchemeBuilder {
    /// Adds the types and resources of further tables (the columns are those of the built-in tables).
    ///
    /// # Errors
    /// A table that does not read, or a resource without a type.
    pub fn add_tables(&mut self, tables: &Tables, resources: &'static str) -> Result<(), TableError> {
        self.schema.add_tables(tables)?;
        load::kinds(tables.types, &self.schema, &mut self.kinds)?;
        for resource in load::resources(resources, &self.kinds)? {
            self.add_resource(resource);
        }
        Ok(())
    }

    /// Types to add or fill, for what does not come from a table.
    pub fn schema(&mut self) -> &mut SchemaBuilder {
        &mut self.schema
    }

    /// Adds a resource, or replaces the one of the same group, version and plural name.
    pub fn add_resource(&mut self, resource: Resource) {
        self.kinds.insert(resource.gvk(), resource.body);
        if let Some(list) = resource.list_body {
            self.kinds.insert(Gvk { kind: resource.list_kind.clone(), ..resource.gvk() }, list);
        }
        let same = |other: &Arc<Resource>| {
            other.group == resource.group && other.version == resource.version && other.plural == resource.plural
        };
        let resource_at = self.resources.iter().position(same);
        match resource_at {
            Some(at) => self.resources[at] = Arc::new(resource),
            None => self.resources.push(Arc::new(resource)),
        }
    }

    /// Takes out the resources for which `gone` holds.
    pub fn remove_resources(&mut self, gone: impl Fn(&Resource) -> bool) {
        let kinds = &mut self.kinds;
        self.resources.retain(|resource| {
            let gone = gone(resource);
            if gone {
                kinds.remove(&resource.gvk());
            }
            !gone
        });
    }

    /// The finished scheme.
    #[must_use]
    pub fn build(self) -> Arc<Scheme> {
        let mut scheme = Scheme {
            schema: Arc::new(self.schema.build()),
            resources: self.resources,
            kinds: self.kinds,
            base: self.base,
            ..Scheme::default()
        };
        for (at, resource) in scheme.resources.iter().enumerate() {
            scheme.by_plural.insert(Gvk { kind: resource.plural.clone(), ..resource.gvk() }, at);
            scheme.by_kind.insert(resource.gvk(), at);
            match scheme.groups.iter_mut().find(|group| group.name == resource.group) {
                Some(group) if group.versions.contains(&resource.version) => {}
                Some(group) => group.versions.push(resource.version.clone()),
                None => {
                    scheme.groups.push(Group { name: resource.group.clone(), versions: vec![resource.version.clone()] })
                }
            }
        }
        Arc::new(scheme)
    }
}

#[cfg(test)]
mod tests;
