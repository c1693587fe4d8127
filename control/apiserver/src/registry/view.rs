//! One served resource in one version: how its stored objects look to clients of that version.
//!
//! Objects are stored once, in the storage version. Versions that differ only in name share the cached text;
//! the others convert. Never reads or writes the store.

use crate::cache::{ChangeKind, Columns, Entry, Slot};
use crate::custom::Custom;
use crate::http::{Accept, LIST_ITEM, Media, Piece, Shape, put_varint};
use bytes::Bytes;
use std::{
    borrow::Cow,
    sync::{Arc, OnceLock},
};
use timonel_api::{
    GroupResource, KindRef, Limits, Resource, Scheme, Status, Value,
    table::{Printer, partial_metadata},
};

/// A resource in one version, ready to be served.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) resource: Arc<Resource>,
    pub(crate) storage: Arc<Resource>,
    pub(crate) slot: Arc<Slot>,
    pub(crate) scheme: Arc<Scheme>,
    pub(crate) columns: Columns,
    /// `"kind":"Pod","apiVersion":"v1",`
    head: Bytes,
    /// Tells the renderings of this version apart from those of others of the same objects.
    id: u32,
    converts: bool,
    printer: OnceLock<Printer>,
    pub(crate) custom: Option<Custom>,
}

/// Room for a message that is being encoded; most are smaller.
const PROTOBUF_BYTES: usize = 8 << 10;
/// Bounds of what is stored: the store itself bounds its values.
const STORED: Limits = Limits { bytes: usize::MAX, depth: 400 };

/// What is kept beside the objects of a resource for field selectors.
pub(crate) fn columns_of(resource: &GroupResource) -> Columns {
    let (kind, labels): (_, &'static [&'static str]) = match (resource.group.as_str(), resource.resource.as_str()) {
        ("", "pods") => (
            "Pod",
            &[
                "spec.nodeName",
                "spec.restartPolicy",
                "spec.schedulerName",
                "spec.serviceAccountName",
                "spec.hostNetwork",
                "status.phase",
                "status.podIP",
                "status.podIPs",
                "status.nominatedNodeName",
            ],
        ),
        ("", "nodes") => ("Node", &["spec.unschedulable"]),
        ("", "replicationcontrollers") => ("ReplicationController", &["status.replicas"]),
        ("apps", "replicasets") => ("ReplicaSet", &["status.replicas"]),
        ("", "events") => (
            "Event",
            &[
                "involvedObject.kind",
                "involvedObject.namespace",
                "involvedObject.name",
                "involvedObject.uid",
                "involvedObject.apiVersion",
                "involvedObject.resourceVersion",
                "involvedObject.fieldPath",
                "reason",
                "reportingComponent",
                "source",
                "type",
            ],
        ),
        ("", "namespaces") => ("Namespace", &["status.phase"]),
        ("", "secrets") => ("Secret", &["type"]),
        ("", "services") => ("Service", &["spec.clusterIP", "spec.type"]),
        ("batch", "jobs") => ("Job", &["status.successful"]),
        ("certificates.k8s.io", "certificatesigningrequests") => ("CertificateSigningRequest", &["spec.signerName"]),
        ("certificates.k8s.io", "clustertrustbundles") => ("ClusterTrustBundle", &["spec.signerName"]),
        ("certificates.k8s.io", "podcertificaterequests") => {
            ("PodCertificateRequest", &["spec.signerName", "spec.podName", "spec.nodeName"])
        }
        ("resource.k8s.io", "resourceslices") => ("ResourceSlice", &["spec.nodeName", "spec.driver"]),
        _ => ("", &[]),
    };
    Columns::builtin(kind, labels)
}

/// The selectable field by which watches of a resource are indexed: kubelets watch the pods of their node.
pub(crate) const INDEXED: &str = "spec.nodeName";

/// Its place among the columns.
pub(crate) fn index_field(resource: &GroupResource) -> Option<usize> {
    let pods = resource.group.is_empty() && resource.resource == "pods";
    match columns_of(resource) {
        Columns::Builtin { labels, .. } if pods => labels.iter().position(|label| *label == INDEXED),
        _ => None,
    }
}

impl View {
    pub(crate) fn new(scheme: &Arc<Scheme>, resource: &Arc<Resource>, slot: Arc<Slot>, id: u32) -> Self {
        let storage = scheme.storage_of(resource).unwrap_or(resource).clone();
        let head = format!("\"kind\":\"{}\",\"apiVersion\":\"{}\",", resource.kind, resource.api_version());
        Self {
            converts: (&storage.group, &storage.version) != (&resource.group, &resource.version),
            printer: OnceLock::new(),
            columns: columns_of(&resource.storage),
            resource: resource.clone(),
            storage,
            slot,
            scheme: scheme.clone(),
            head: head.into(),
            id,
            custom: None,
        }
    }

    /// A version of a custom resource. Its objects are judged in this version, not in the stored one.
    pub(crate) fn custom(custom: Custom, slot: Arc<Slot>, id: u32) -> Self {
        let resource = custom.version().resource.clone();
        let mut view = Self::new(&custom.definition.scheme.clone(), &resource, slot, id);
        view.storage = resource;
        view.converts = false;
        view.columns = custom.columns.clone();
        view.custom = Some(custom);
        view
    }

    /// Whether a cached object can be shown as it is.
    fn is_plain(&self, entry: &Entry) -> bool {
        match &self.custom {
            None => !self.converts,
            Some(custom) => custom.form == entry.form(),
        }
    }

    /// Fields that selectors may name beyond those of every kind.
    pub(crate) fn selectable(&self) -> Vec<&str> {
        let fields = self.custom.iter().flat_map(|custom| custom.version().selectable.iter());
        fields.map(|field| field.as_str()).collect()
    }

    /// The kind as rules about objects know it: objects are judged in their storage version.
    pub(crate) fn kind(&self) -> KindRef<'_> {
        kind_ref(&self.storage)
    }

    /// The group that messages name.
    pub(crate) fn group(&self) -> &str {
        &self.resource.group
    }

    /// The plural that messages name.
    pub(crate) fn plural(&self) -> &str {
        &self.resource.plural
    }

    /// The singular that messages name.
    pub(crate) fn singular(&self) -> &str {
        &self.resource.singular
    }

    pub(crate) fn not_found(&self, name: &str) -> Status {
        Status::not_found(self.group(), self.plural(), name)
    }

    /// Distinguishes renderings: version, media type and shape.
    pub(crate) fn rendering(&self, accept: &Accept) -> u32 {
        self.id << 8 | (accept.media as u32) << 4 | u32::from(accept.beta) << 3 | accept.shape as u32
    }

    /// Makes a stored object one of this version.
    pub(crate) fn present(&self, mut stored: Value) -> Result<Value, Status> {
        if self.converts {
            timonel_api::convert(&mut stored, &self.storage, &self.resource).map_err(Status::internal)?;
        }
        self.stamp(&mut stored);
        Ok(stored)
    }

    /// What [`Self::decode_stored`] gave, as an object of this version; a copy only where they differ.
    pub(crate) fn shown<'a>(&self, stored: &'a Value) -> Result<Cow<'a, Value>, Status> {
        if self.converts { self.present(stored.clone()).map(Cow::Owned) } else { Ok(Cow::Borrowed(stored)) }
    }

    /// Writes this version's `apiVersion` and `kind` into an object.
    pub(crate) fn stamp(&self, object: &mut Value) {
        let object = object.make_object();
        object.insert("apiVersion", self.resource.api_version());
        object.insert("kind", Value::String(self.resource.kind.clone()));
    }

    /// Makes an object of this version one to store.
    pub(crate) fn absorb(&self, mut object: Value) -> Result<Value, Status> {
        if self.converts {
            timonel_api::convert(&mut object, &self.resource, &self.storage).map_err(Status::internal)?;
        }
        let stored = object.make_object();
        stored.insert("apiVersion", self.storage.api_version());
        stored.insert("kind", Value::String(self.storage.kind.clone()));
        Ok(object)
    }

    /// A cached object as a tree in the storage version, with `apiVersion` and `kind`.
    pub(crate) fn decode_stored(&self, entry: &Entry) -> Result<Value, Status> {
        let mut value = self.read(entry)?;
        let object = value.make_object();
        object.insert("apiVersion", self.storage.api_version());
        object.insert("kind", Value::String(self.storage.kind.clone()));
        Ok(value)
    }

    /// A cached object as a tree of this version.
    pub(crate) fn decode(&self, entry: &Entry) -> Result<Value, Status> {
        self.present(self.read(entry)?)
    }

    /// Whether an object can be shown without asking a webhook.
    pub(crate) fn is_ready(&self, entry: &Entry) -> bool {
        let converts = self.custom.as_ref().is_some_and(|custom| custom.converts(entry.form()));
        !converts || entry.converted(self.id).is_some()
    }

    /// A selectable field of an object that is ready, as this version has it.
    pub(crate) fn field<'e>(&self, entry: &'e Entry, label: &str) -> Cow<'e, str> {
        match label {
            "metadata.name" => Cow::Borrowed(entry.name()),
            "metadata.namespace" => Cow::Borrowed(entry.namespace()),
            _ => match entry.converted(self.id) {
                Some(object) => Cow::Owned(self.columns.read(&object, label)),
                None => self.columns.value(entry, label),
            },
        }
    }

    /// Has a webhook convert what cannot be shown otherwise; the entries keep the result.
    pub(crate) async fn prepare(&self, entries: &[Arc<Entry>]) -> Result<(), Status> {
        let Some(custom) = &self.custom else { return Ok(()) };
        let waiting: Vec<&Arc<Entry>> = entries.iter().filter(|entry| !self.is_ready(entry)).collect();
        if waiting.is_empty() {
            return Ok(());
        }
        let objects = waiting.iter().map(|entry| Ok((entry.decode().map_err(Status::internal)?, entry.form())));
        let converted = custom.convert(objects.collect::<Result<_, Status>>()?).await?;
        for (entry, object) in waiting.into_iter().zip(converted) {
            entry.keep_converted(self.id, object);
        }
        Ok(())
    }

    /// A cached object as a tree; one of a custom kind in the form of this version.
    fn read(&self, entry: &Entry) -> Result<Value, Status> {
        if self.custom.as_ref().is_some_and(|custom| custom.converts(entry.form())) {
            let converted = entry.converted(self.id).map(|object| Value::clone(&object));
            return converted.ok_or_else(|| Status::internal("an object was read before it was converted"));
        }
        let mut value = entry.decode().map_err(Status::internal)?;
        if let Some(custom) = self.custom.as_ref().filter(|_| !self.is_plain(entry)) {
            custom.normalize(&mut value, entry.form());
        }
        Ok(value)
    }

    /// One object as JSON.
    pub(crate) fn json(&self, entry: &Entry) -> Result<Bytes, Status> {
        if !self.is_plain(entry) {
            return Ok(timonel_api::encode_json(&self.decode(entry)?).into());
        }
        Ok([b"{", &self.head[..], entry.members()].concat().into())
    }

    /// Whether every object is shown as it is stored, so that lists join what the cache holds.
    pub(crate) fn shows_what_is_stored(&self) -> bool {
        self.custom.is_none() && !self.converts
    }

    /// One item of a list as JSON, after a comma unless it is the first; items of built-in kinds carry no `apiVersion`
    /// and `kind`, as upstream's.
    pub(crate) fn item_json(&self, entry: Arc<Entry>, first: bool, into: &mut Vec<Piece>) -> Result<(), Status> {
        let start: &[u8] = if first { b"{" } else { b",{" };
        match (self.is_plain(&entry), self.resource.custom) {
            (true, true) => {
                into.push(Piece::Bytes([start, &self.head[..]].concat().into()));
                into.push(Piece::Members(entry));
            }
            (true, false) => into.push(if first { Piece::First(entry) } else { Piece::Item(entry) }),
            (false, custom) => {
                let mut value = self.decode(&entry)?;
                if !custom {
                    let object = value.make_object();
                    object.remove("apiVersion");
                    object.remove("kind");
                }
                let mut out = start[..start.len() - 1].to_vec();
                timonel_api::encode_json_into(&value, &mut out);
                into.push(Piece::Bytes(out.into()));
            }
        }
        Ok(())
    }

    /// One item of a list in protobuf, of an object that is not shown as it is stored.
    pub(crate) fn converted_protobuf(&self, entry: &Entry) -> Result<Piece, Status> {
        let message = self.converted(entry)?;
        let mut item = Vec::with_capacity(message.len() + 11);
        item.push(LIST_ITEM);
        put_varint(&mut item, message.len());
        item.extend_from_slice(&message);
        Ok(Piece::Bytes(item.into()))
    }

    /// One object's protobuf message, without the envelope.
    pub(crate) fn protobuf<'e>(&self, entry: &'e Entry) -> Result<Cow<'e, [u8]>, Status> {
        if !self.shows_what_is_stored() {
            return self.converted(entry).map(Cow::Owned);
        }
        let (schema, ty) = (self.scheme.schema(), self.resource.body);
        // What the cache holds goes straight from JSON to protobuf; it is ours, so nothing in it needs to be judged.
        let encode = |out: &mut Vec<u8>| timonel_api::json_to_proto(schema, ty, entry.text(), &STORED, out);
        entry.protobuf(encode).map(Cow::Borrowed).map_err(Status::internal)
    }

    fn converted(&self, entry: &Entry) -> Result<Vec<u8>, Status> {
        let mut out = Vec::with_capacity(PROTOBUF_BYTES);
        timonel_api::encode_proto_body(self.scheme.schema(), self.resource.body, &self.decode(entry)?, &mut out);
        Ok(out)
    }

    /// The metadata of an object alone, as `PartialObjectMetadata`.
    pub(crate) fn partial(&self, entry: &Entry) -> Result<Value, Status> {
        Ok(partial_metadata(&self.decode(entry)?))
    }

    /// How objects are shown as rows.
    pub(crate) fn printer(&self) -> &Printer {
        if let Some(custom) = &self.custom {
            return &custom.version().printer;
        }
        self.printer.get_or_init(|| Printer::builtin(&self.resource.group, &self.resource.kind))
    }

    /// One event of a watch, framed for its stream; `shape` must not be a table.
    pub(crate) fn event(&self, accept: &Accept, kind: ChangeKind, entry: &Entry) -> Result<Bytes, Status> {
        let name = event_type(kind);
        match (accept.shape, accept.media) {
            (Shape::Whole, Media::Protobuf) => {
                let object = crate::rules::seal(&self.resource, &self.protobuf(entry)?);
                Ok(timonel_api::encode_proto_watch_event(name, &object).into())
            }
            (Shape::Whole, _) if self.is_plain(entry) => {
                let parts = [b"{\"type\":\"", name.as_bytes(), b"\",\"object\":{", &self.head, entry.members(), b"}\n"];
                Ok(parts.concat().into())
            }
            (Shape::Whole, _) => Ok(event_json(name, &self.json(entry)?)),
            (_, _) => self.event_value(accept, name, &accept.versioned(self.partial(entry)?)),
        }
    }

    /// One event of a watch around any object.
    pub(crate) fn event_value(&self, accept: &Accept, name: &str, object: &Value) -> Result<Bytes, Status> {
        if accept.media == Media::Protobuf {
            let object = crate::rules::to_protobuf(&self.scheme, object).ok_or_else(crate::http::not_acceptable)?;
            return Ok(timonel_api::encode_proto_watch_event(name, &object).into());
        }
        Ok(event_json(name, &timonel_api::encode_json(object)))
    }
}

fn event_json(name: &str, object: &[u8]) -> Bytes {
    [b"{\"type\":\"", name.as_bytes(), b"\",\"object\":", object, b"}\n"].concat().into()
}

/// A resource as rules about objects know it.
pub(crate) fn kind_ref(resource: &Resource) -> KindRef<'_> {
    KindRef {
        group: &resource.group,
        kind: &resource.kind,
        namespaced: resource.namespaced,
        status: resource.subresource("status").is_some(),
        custom: resource.custom,
    }
}

/// The name of a watch event.
pub(crate) const fn event_type(kind: ChangeKind) -> &'static str {
    match kind {
        ChangeKind::Added => "ADDED",
        ChangeKind::Modified => "MODIFIED",
        ChangeKind::Deleted => "DELETED",
    }
}
