//! The Kubernetes API as data: kinds, schema tables and everything that walks them (codecs, defaulting,
//! pruning, patches, validation, printing).
//!
//! Pure: values in, values out. Never reads a clock, a file, a socket or a random number.

mod apply;
mod codec;
mod conversion;
mod defaulting;
pub mod definition;
mod fieldpath;
pub mod names;
mod patch;
mod quantity;
mod schema;
mod scheme;
mod selector;
mod status;
pub mod strategy;
mod structural;
pub mod table;
pub mod validation;
mod value;
mod warnings;

pub use apply::{
    ApplyError, Conflict, Element, FieldSet, FieldsError, MAX_MANAGER_NAME, OneVersion, Resets, Tracker, Versions,
    entries_of_scale, entries_problem, entries_with_scale, keep_times, manager_from_user_agent, merge_applied,
    resets_of, validate_manager_name,
};
pub use codec::{
    DecodeError, Decoded, Envelope, FieldValidation, Finding, Limits, coerce, decode_json, decode_json_object,
    decode_json_untyped, decode_proto, decode_proto_body, decode_yaml, decode_yaml_untyped, duration_nanos,
    encode_json, encode_json_into, encode_proto, encode_proto_body, encode_proto_list, encode_proto_watch_event, frame,
    is_proto, json_to_proto, peek_kind, proto_list_head, proto_list_item, seal,
};
pub use conversion::{ConversionError, convert};
pub use defaulting::{default_object, default_type};
pub use fieldpath::{FieldError, FieldErrorKind, FieldErrors, Path, quote};
pub use patch::{
    PatchError, PatchKind, apply_patch, decode_apply_patch, json_patch, merge_patch, strategic_merge_patch,
};
pub use quantity::{Format, Quantity, QuantityError, canonical_quantity};
pub use schema::{
    Field, FieldType, ListKind, PatchStrategy, Schema, SchemaBuilder, TableError, Tables, TypeDef, TypeId, fill_always,
    struct_of,
};
pub use scheme::{Group, GroupResource, Gvk, Resource, Scheme, SchemeBuilder, Subresource, Verb, api_version};
pub use selector::{
    FieldSelector, FieldSelectorError, LabelSelector, Labels, Operator, Requirement, SelectorError, field_label,
    field_value,
};
pub use status::{Status, StatusCause, StatusDetails, qualified};
pub use strategy::KindRef;
pub use structural::{Additional, CompileError, ListType, Node, Rule, ScalarType, Structural, ValueLimits};
pub use validation::{
    validate_create, validate_ephemeral_containers, validate_resize, validate_status_update, validate_update,
};
pub use value::{Key, Object, Value};
pub use warnings::{deletion_warning, warnings};
