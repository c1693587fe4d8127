//! Reading the table of resources, and which kind has which type.

use std::collections::HashMap;

use super::{GroupResource, Gvk, Resource, Subresource, Verb};
use crate::Key;
use crate::schema::{SchemaBuilder, TableError, Tables, TypeId, rows};

/// The types of Kubernetes.
pub(super) const KUBERNETES: Tables = Tables {
    types: include_str!("../../tables/types.tsv"),
    fields: include_str!("../../tables/fields.tsv"),
    proto_only: include_str!("../../tables/proto-only.tsv"),
    shape: include_str!("../../tables/shape.tsv"),
    descriptions: include_str!("../../tables/descriptions.tsv"),
};

/// The resources of Kubernetes.
pub(super) const RESOURCES: &str = include_str!("../../tables/resources.tsv");

/// Kinds by what the table of types says they are the body of.
pub(super) fn kinds(
    types: &'static str,
    schema: &SchemaBuilder,
    kinds: &mut HashMap<Gvk, TypeId>,
) -> Result<(), TableError> {
    for row in rows("types", types, 5) {
        let row = row?;
        let Some(id) = schema.id(row[0]) else { continue };
        for gvk in row[4].split(',').filter(|text| !text.is_empty() && *text != "*") {
            let mut parts = gvk.rsplitn(3, '/');
            if let (Some(kind), Some(version)) = (parts.next(), parts.next()) {
                kinds.insert(Gvk::new(parts.next().unwrap_or(""), version, kind), id);
            }
        }
    }
    Ok(())
}

/// Resources in the order of the table.
pub(super) fn resources(text: &'static str, kinds: &HashMap<Gvk, TypeId>) -> Result<Vec<Resource>, TableError> {
    let mut resources = Vec::new();
    for row in rows("resources", text, 10) {
        let row = row?;
        let gvk = Gvk::new(row[0], row[1], row[3]);
        let body = *kinds.get(&gvk).ok_or_else(|| TableError::UnknownType(gvk.to_string()))?;
        let list_kind: Key = format!("{}List", row[3]).into();
        resources.push(Resource {
            group: Key::const_new(row[0]),
            version: Key::const_new(row[1]),
            plural: Key::const_new(row[2]),
            singular: Key::const_new(row[5]),
            kind: Key::const_new(row[3]),
            list_body: kinds.get(&Gvk { kind: list_kind.clone(), ..gvk.clone() }).copied(),
            list_kind,
            short_names: names(row[6]),
            categories: names(row[7]),
            namespaced: row[4] == "Namespaced",
            verbs: row[8].split(',').filter_map(Verb::parse).collect(),
            subresources: row[9]
                .split(';')
                .filter(|text| !text.is_empty())
                .filter_map(|text| subresource(text, &gvk, kinds))
                .collect(),
            body,
            storage: storage(row[0], row[2]),
            custom: false,
        });
    }
    Ok(resources)
}

fn names(text: &'static str) -> Vec<Key> {
    text.split(',').filter(|name| !name.is_empty()).map(Key::const_new).collect()
}

/// Events of `events.k8s.io` are the core's events under another name; all else is stored as itself.
fn storage(group: &'static str, plural: &'static str) -> GroupResource {
    let group = if (group, plural) == ("events.k8s.io", "events") { "" } else { group };
    GroupResource { group: Key::const_new(group), resource: Key::const_new(plural) }
}

/// `name(group/version/Kind:verb,verb)`; an empty version means the parent's group and version.
fn subresource(text: &'static str, parent: &Gvk, kinds: &HashMap<Gvk, TypeId>) -> Option<Subresource> {
    let (name, rest) = text.split_once('(')?;
    let (kind, verbs) = rest.strip_suffix(')')?.split_once(':')?;
    let mut parts = kind.splitn(3, '/');
    let (group, version, kind) = (parts.next()?, parts.next()?, parts.next()?);
    let gvk =
        if version.is_empty() { Gvk { kind: kind.into(), ..parent.clone() } } else { Gvk::new(group, version, kind) };
    Some(Subresource {
        name: Key::const_new(name),
        body: kinds.get(&gvk).copied(),
        gvk,
        verbs: verbs.split(',').filter_map(Verb::parse).collect(),
    })
}
