//! The seam to `timonel-api`: the calls that more than one module makes, in the form they need.

use crate::registry::{Part, View};
use bytes::{BufMut, Bytes, BytesMut};
use timonel_api::{
    FieldErrors, FieldValidation, Gvk, KindRef, Limits, Resource, Scheme, Status, TypeId, Value, decode_json_untyped,
};

/// Fills in what an object of a resource leaves out.
pub(crate) fn apply_defaults(scheme: &Scheme, resource: &Resource, object: &mut Value) {
    timonel_api::default_object(scheme, resource, object);
}

/// Judges a new object.
pub(crate) fn validate_create(kind: KindRef<'_>, object: &Value) -> FieldErrors {
    timonel_api::validate_create(kind, object)
}

/// Judges a changed object by the part that was changed.
pub(crate) fn validate_update(part: Part, kind: KindRef<'_>, new: &Value, old: &Value) -> FieldErrors {
    match part {
        Part::Status | Part::Approval => timonel_api::validate_status_update(kind, new, old),
        _ => timonel_api::validate_update(kind, new, old),
    }
}

/// The type of `DeleteOptions`.
pub(crate) fn delete_options_type(scheme: &Scheme) -> Option<TypeId> {
    scheme.type_of(&Gvk::new("", "v1", "DeleteOptions"))
}

/// An encoded object in its envelope.
pub(crate) fn seal(resource: &Resource, body: &[u8]) -> Bytes {
    timonel_api::seal(&resource.api_version(), &resource.kind, body).into()
}

/// Any object whose kind the scheme knows, as protobuf in its envelope.
pub(crate) fn to_protobuf(scheme: &Scheme, value: &Value) -> Option<Bytes> {
    let gvk = Gvk::of(value.str_at(&["apiVersion"]), value.str_at(&["kind"]));
    let ty = scheme.type_of(&gvk)?;
    Some(timonel_api::encode_proto(scheme.schema(), ty, value).into())
}

/// Any object as YAML.
pub(crate) fn to_yaml(value: &Value) -> Result<Bytes, Status> {
    serde_saphyr::to_string(value).map(Bytes::from).map_err(Status::internal)
}

fn put_varint(out: &mut BytesMut, mut number: usize) {
    while number >= 0x80 {
        out.put_u8((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.put_u8(number as u8);
}

/// A list in protobuf as pieces to be joined, from items that are encoded already; and its length.
pub(crate) fn protobuf_list(
    scheme: &Scheme,
    resource: &Resource,
    meta: &Value,
    items: Vec<Bytes>,
) -> (impl Iterator<Item = Bytes> + Send + 'static, u64) {
    let head = timonel_api::proto_list_head(scheme.schema(), meta);
    let mut headers = BytesMut::with_capacity(items.len() * 4);
    let headers: Vec<Bytes> = items
        .iter()
        .map(|item| {
            headers.put_u8(2 << 3 | 2);
            put_varint(&mut headers, item.len());
            headers.split().freeze()
        })
        .collect();
    let inner = head.len() + items.iter().chain(&headers).map(Bytes::len).sum::<usize>();
    // The envelope around an empty body ends in `raw` (empty), `contentEncoding` and `contentType`.
    let envelope = timonel_api::seal(&resource.api_version(), &resource.list_kind, b"");
    let (start, tail) = envelope.split_at(envelope.len() - 6);
    let mut first = BytesMut::from(start);
    first.put_u8(2 << 3 | 2);
    put_varint(&mut first, inner);
    first.extend_from_slice(&head);
    let tail = Bytes::copy_from_slice(&tail[2..]);
    let length = first.len() + inner - head.len() + tail.len();
    let body = headers.into_iter().zip(items).flat_map(|(header, item)| [header, item]);
    (std::iter::once(first.freeze()).chain(body).chain(std::iter::once(tail)), length as u64)
}

/// How a patch is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PatchFormat {
    Json,
    Merge,
    Strategic,
}

/// A parsed patch.
#[derive(Debug)]
pub(crate) struct Patch {
    format: PatchFormat,
    value: Value,
}

impl Patch {
    pub(crate) fn parse(format: PatchFormat, bytes: &[u8]) -> Result<Self, Status> {
        let value = decode_json_untyped(bytes, &Limits::default())
            .map_err(|error| Status::bad_request(format!("error decoding patch: {error}")))?;
        Ok(Self { format, value })
    }

    /// Whether the patch is tied to one version of the object.
    pub(crate) fn names_version(&self) -> bool {
        self.format != PatchFormat::Json && !self.value.str_at(&["metadata", "resourceVersion"]).is_empty()
    }

    /// The patched object and warnings.
    pub(crate) fn apply(
        &self,
        view: &View,
        old: &Value,
        validation: FieldValidation,
    ) -> Result<(Value, Vec<String>), Status> {
        let _ = (view, validation);
        let mut new = old.clone();
        merge(&mut new, &self.value);
        Ok((new, Vec::new()))
    }
}

fn merge(into: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *into = patch.clone();
        return;
    };
    let into = into.make_object();
    for (name, value) in patch.iter() {
        if value.is_null() {
            into.remove(name);
        } else {
            merge(into.entry(name), value);
        }
    }
}

/// How much of an object a table's rows carry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum IncludeObject {
    None,
    #[default]
    Metadata,
    Object,
}

/// From the query parameter.
pub(crate) fn include_object(text: &str) -> Result<IncludeObject, Status> {
    match text {
        "" | "Metadata" => Ok(IncludeObject::Metadata),
        "None" => Ok(IncludeObject::None),
        "Object" => Ok(IncludeObject::Object),
        _ => Err(Status::bad_request(format!("unrecognized includeObject value: {text:?}"))),
    }
}

/// Rows and columns of objects.
pub(crate) fn table(view: &View, rows: &[Value], include: IncludeObject, now: jiff::Timestamp) -> Value {
    let _ = (view, now);
    let column = |name: &str, format: &str| {
        let mut column = Value::object();
        for (field, text) in [("name", name), ("type", "string"), ("format", format), ("description", "")] {
            column.set_at(&[field], text);
        }
        column.set_at(&["priority"], 0);
        column
    };
    let mut table = Value::object();
    table.set_at(&["kind"], "Table");
    table.set_at(&["apiVersion"], "meta.k8s.io/v1");
    table.set_at(&["columnDefinitions"], vec![column("Name", "name"), column("Created At", "date")]);
    let rows: Vec<Value> = rows
        .iter()
        .map(|object| {
            let mut row = Value::object();
            let cell = |field| Value::from(object.str_at(&["metadata", field]));
            row.set_at(&["cells"], vec![cell("name"), cell("creationTimestamp")]);
            if let Some(object) = included(object, include) {
                row.set_at(&["object"], object);
            }
            row
        })
        .collect();
    table.set_at(&["rows"], rows);
    table
}

fn included(object: &Value, include: IncludeObject) -> Option<Value> {
    match include {
        IncludeObject::None => None,
        IncludeObject::Object => Some(object.clone()),
        IncludeObject::Metadata => {
            let mut partial = Value::object();
            partial.set_at(&["kind"], "PartialObjectMetadata");
            partial.set_at(&["apiVersion"], "meta.k8s.io/v1");
            partial.set_at(&["metadata"], object.get("metadata").cloned().unwrap_or_default());
            Some(partial)
        }
    }
}
