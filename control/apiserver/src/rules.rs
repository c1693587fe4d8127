//! The seam to `timonel-api`: the calls that more than one module makes, in the form they need.

use crate::{
    http::{LIST_ITEM, Piece, put_varint},
    registry::{Part, View},
};
use bytes::{BufMut, Bytes, BytesMut};
use timonel_api::{
    FieldErrors, Gvk, KindRef, PatchError, Resource, Scheme, Status, TypeId, Value, table::IncludeObject,
};

/// Fills in what an object of a resource leaves out.
pub(crate) fn apply_defaults(scheme: &Scheme, resource: &Resource, object: &mut Value) {
    timonel_api::default_object(scheme, resource, object);
}

/// The kind whose rules hold: an event is judged by the group that it came through, and stored as the other's.
fn judged_as(view: &View) -> KindRef<'_> {
    let kind = view.kind();
    if kind.kind == "Event" && !kind.custom { KindRef { group: view.group(), ..kind } } else { kind }
}

/// Judges a new object.
pub(crate) fn validate_create(view: &View, object: &Value, mut warn: impl FnMut(String)) -> FieldErrors {
    let mut errors = timonel_api::validate_create(judged_as(view), object);
    if let Some(custom) = &view.custom {
        custom.validate_create(object, &mut errors).into_iter().for_each(&mut warn);
    } else if errors.is_empty() && crate::custom::is_definition(view) {
        crate::custom::check_rules(object, None, &mut errors);
    }
    if errors.is_empty() {
        timonel_api::warnings(view.kind(), object, None).into_iter().for_each(warn);
    }
    errors
}

/// Judges a changed object by the part that was changed.
pub(crate) fn validate_update(
    part: Part,
    view: &View,
    new: &Value,
    old: &Value,
    warn: impl FnMut(String),
) -> FieldErrors {
    let kind = view.kind();
    if let Some(custom) = &view.custom {
        let mut errors = timonel_api::validate_update(kind, new, old);
        custom.validate_update(part, new, old, &mut errors).into_iter().for_each(warn);
        return errors;
    }
    let errors = judge_update(part, view, new, old);
    if part == Part::Main && errors.is_empty() {
        timonel_api::warnings(kind, new, Some(old)).into_iter().for_each(warn);
    }
    errors
}

fn judge_update(part: Part, view: &View, new: &Value, old: &Value) -> FieldErrors {
    let kind = view.kind();
    if part == Part::Main && crate::custom::is_definition(view) {
        let mut errors = timonel_api::validate_update(kind, new, old);
        if errors.is_empty() {
            crate::custom::check_rules(new, Some(old), &mut errors);
        }
        return errors;
    }
    match part {
        Part::Status | Part::Approval => timonel_api::validate_status_update(kind, new, old),
        Part::Resize => timonel_api::validate_resize(new, old),
        Part::EphemeralContainers => timonel_api::validate_ephemeral_containers(new, old),
        _ => timonel_api::validate_update(judged_as(view), new, old),
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

/// A list in protobuf as pieces to be joined, from `items` of together `bytes` that are encoded already, each with its
/// header; and its length.
pub(crate) fn protobuf_list(
    scheme: &Scheme,
    resource: &Resource,
    meta: &Value,
    items: impl Iterator<Item = Piece> + Send + 'static,
    bytes: usize,
) -> (impl Iterator<Item = Piece> + Send + 'static, u64) {
    let head = timonel_api::proto_list_head(scheme.schema(), meta);
    let inner = head.len() + bytes;
    // The envelope around an empty body ends in `raw` (empty), `contentEncoding` and `contentType`.
    let envelope = timonel_api::seal(&resource.api_version(), &resource.list_kind, b"");
    let (start, tail) = envelope.split_at(envelope.len() - 6);
    let mut first = BytesMut::from(start);
    first.put_u8(LIST_ITEM);
    put_varint(&mut first, inner);
    first.extend_from_slice(&head);
    let tail = Bytes::copy_from_slice(&tail[2..]);
    let length = first.len() + bytes + tail.len();
    let (first, last) = (Piece::Bytes(first.freeze()), Piece::Bytes(tail));
    (std::iter::once(first).chain(items).chain(std::iter::once(last)), length as u64)
}

/// How much of an object a table's rows carry, from the query parameter.
pub(crate) fn include_object(text: &str) -> Result<IncludeObject, Status> {
    IncludeObject::parse(text).ok_or_else(|| Status::bad_request(format!("unrecognized includeObject value: {text:?}")))
}

/// What a client is told about its patch.
pub(crate) fn patch_status(error: &PatchError) -> Status {
    let mut status = Status::bad_request(error.to_string());
    match error {
        PatchError::BadRequest(_) | PatchError::Invalid(_) => {}
        PatchError::TooManyOperations(_) => {
            return Status::request_entity_too_large(&error.to_string());
        }
        PatchError::Unprocessable(_) => {
            status.code = 422;
            status.reason = "Invalid".into();
        }
    }
    status
}
