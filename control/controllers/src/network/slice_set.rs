//! The slices of one service: packs the wanted endpoints into as few changes of as few slices as it can. Pure.

use crate::{
    common::objects::label,
    framework::{Action, Kind, Target},
};
use k8s_openapi::{
    api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use std::{collections::BTreeMap, sync::Arc};

/// Endpoints in one slice at most.
const MAX_ENDPOINTS: usize = 100;
pub(super) const SERVICE: &str = "kubernetes.io/service-name";
pub(super) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";

/// Which slice an endpoint may be in: address family, and ports (as text, so that they can be ordered).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Group {
    pub(super) family: &'static str,
    ports: String,
}

/// What the slices should hold.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    groups: BTreeMap<Group, (Vec<EndpointPort>, Vec<Endpoint>)>,
}

impl Wanted {
    /// Adds an endpoint.
    pub(super) fn add(&mut self, family: &'static str, ports: &[EndpointPort], endpoint: Endpoint) {
        self.group(family, ports).push(endpoint);
    }

    /// Makes sure that a slice exists even without endpoints.
    pub(super) fn group(&mut self, family: &'static str, ports: &[EndpointPort]) -> &mut Vec<Endpoint> {
        let group = Group { family, ports: text(ports) };
        &mut self.groups.entry(group).or_insert_with(|| (ports.to_vec(), Vec::new())).1
    }

    /// The families that have any slice.
    pub(super) fn has(&self, family: &str) -> bool {
        self.groups.keys().any(|group| group.family == family)
    }
}

/// What all slices of a service share.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) namespace: String,
    pub(super) service: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) owner: OwnerReference,
}

fn text(ports: &[EndpointPort]) -> String {
    let mut lines: Vec<String> = ports.iter().map(|port| serde_json::to_string(port).unwrap_or_default()).collect();
    lines.sort();
    lines.join(";")
}

fn identity(endpoint: &Endpoint) -> String {
    let target = endpoint.target_ref.as_ref().and_then(|target| target.uid.clone()).unwrap_or_default();
    format!("{target}/{}", endpoint.addresses.first().map(String::as_str).unwrap_or_default())
}

/// The actions that turn `present` into `wanted`.
pub(super) fn reconcile(frame: &Frame, present: &[&Arc<EndpointSlice>], wanted: Wanted) -> Vec<Action> {
    let mut actions = Vec::new();
    let mut by_group: BTreeMap<Group, Vec<&Arc<EndpointSlice>>> = BTreeMap::new();
    let families: Vec<&'static str> = vec!["IPv4", "IPv6", "FQDN"];
    for slice in present {
        let family = families.iter().find(|family| **family == slice.address_type).copied().unwrap_or("FQDN");
        let group = Group { family, ports: text(slice.ports.as_deref().unwrap_or_default()) };
        if wanted.groups.contains_key(&group) {
            by_group.entry(group).or_default().push(slice);
        } else {
            actions.push(Action::delete(Target::of(Kind::EndpointSlice, &slice.metadata)));
        }
    }
    for (group, (ports, endpoints)) in wanted.groups {
        let slices = by_group.remove(&group).unwrap_or_default();
        pack(frame, group.family, &ports, endpoints, &slices, &mut actions);
    }
    // New slices first: nobody must see a service without the endpoints that merely move.
    actions.sort_by_key(|action| matches!(action.write, crate::framework::Write::Delete { .. }));
    actions
}

fn pack(
    frame: &Frame,
    family: &str,
    ports: &[EndpointPort],
    endpoints: Vec<Endpoint>,
    slices: &[&Arc<EndpointSlice>],
    actions: &mut Vec<Action>,
) {
    let mut wanted: BTreeMap<String, Endpoint> =
        endpoints.into_iter().map(|endpoint| (identity(&endpoint), endpoint)).collect();
    let mut kept: Vec<Vec<Endpoint>> = Vec::new();
    for slice in slices {
        let stay = slice.endpoints.iter().flatten().filter_map(|endpoint| wanted.remove(&identity(endpoint)));
        kept.push(stay.take(MAX_ENDPOINTS).collect());
    }
    let mut fresh: Vec<Endpoint> = wanted.into_values().collect();
    // Fill slices that change anyway, fullest first, then any with room.
    let mut order: Vec<usize> = (0..slices.len()).collect();
    order.sort_by_key(|at| {
        let changes = slices[*at].endpoints.as_ref().map_or(0, Vec::len) != kept[*at].len();
        (!changes, MAX_ENDPOINTS - kept[*at].len().min(MAX_ENDPOINTS))
    });
    for at in order {
        let room = MAX_ENDPOINTS.saturating_sub(kept[at].len()).min(fresh.len());
        kept[at].extend(fresh.drain(..room));
    }
    let mut placeholder = kept.iter().all(Vec::is_empty) && fresh.is_empty();
    for (slice, endpoints) in slices.iter().zip(kept) {
        if endpoints.is_empty() && !std::mem::take(&mut placeholder) {
            actions.push(Action::delete(Target::of(Kind::EndpointSlice, &slice.metadata)));
            continue;
        }
        let mut new = (***slice).clone();
        new.metadata.labels = Some(frame.labels.clone());
        let mut annotations = new.metadata.annotations.take().unwrap_or_default();
        annotations.extend(frame.annotations.clone());
        new.metadata.annotations = Some(annotations).filter(|annotations| !annotations.is_empty());
        let same = slice.endpoints.as_deref().unwrap_or_default() == endpoints
            && new.metadata.labels == slice.metadata.labels
            && new.metadata.annotations == slice.metadata.annotations;
        if !same {
            new.endpoints = Some(endpoints);
            actions.push(Action::update(new));
        }
    }
    if placeholder {
        actions.push(Action::create(slice(frame, family, ports, Vec::new())));
    }
    while !fresh.is_empty() {
        let part = fresh.drain(..fresh.len().min(MAX_ENDPOINTS)).collect();
        actions.push(Action::create(slice(frame, family, ports, part)));
    }
}

fn slice(frame: &Frame, family: &str, ports: &[EndpointPort], endpoints: Vec<Endpoint>) -> EndpointSlice {
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", frame.service)),
            namespace: Some(frame.namespace.clone()),
            labels: Some(frame.labels.clone()),
            annotations: Some(frame.annotations.clone()).filter(|annotations| !annotations.is_empty()),
            owner_references: Some(vec![frame.owner.clone()]),
            ..ObjectMeta::default()
        },
        address_type: family.to_owned(),
        endpoints: Some(endpoints),
        ports: Some(ports.to_vec()),
    }
}

/// The slices that `manager` keeps for a service.
pub(super) fn managed<'a>(
    slices: impl Iterator<Item = &'a Arc<EndpointSlice>>,
    manager: &str,
) -> Vec<&'a Arc<EndpointSlice>> {
    slices.filter(|slice| label(&slice.metadata, MANAGED_BY) == Some(manager)).collect()
}
