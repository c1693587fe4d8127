//! Between bytes and [`Value`]: JSON, YAML and protobuf, all led by the schema.
//!
//! Decoding checks types, drops what the schema does not know (and says so), brings scalars into canonical
//! form, and leaves the object as upstream's typed decoder would: zero values that Go leaves out are absent,
//! those that Go always writes are present. So the same object has the same [`Value`] whichever way it came.
//! Never validates meaning, never defaults.

mod coerce;
mod error;
mod json_decode;
mod json_encode;
mod json_lex;
mod proto_decode;
mod proto_encode;
mod scalar;
mod transcode;
mod wire;
mod yaml;

pub use coerce::coerce;
pub use error::{DecodeError, FieldValidation, Finding};
pub(crate) use json_decode::decode_json_findings;
pub use json_decode::{decode_json, decode_json_object, decode_json_untyped, peek_kind};
pub use json_encode::{encode_json, encode_json_into};
pub use proto_decode::{Envelope, decode_proto, decode_proto_body, is_proto};
pub use proto_encode::{
    encode_proto, encode_proto_body, encode_proto_list, encode_proto_watch_event, frame, proto_list_head,
    proto_list_item, seal,
};
pub use scalar::duration_nanos;
pub use transcode::json_to_proto;
pub(crate) use yaml::decode_yaml_lenient;
pub use yaml::{decode_yaml, decode_yaml_untyped};

use crate::Value;

/// Bounds of one decoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of input.
    pub bytes: usize,
    /// Objects and lists within one another.
    pub depth: usize,
}

impl Default for Limits {
    /// Upstream's bound on a request's body, and a depth that no real object reaches.
    fn default() -> Self {
        Self { bytes: 3 * 1024 * 1024, depth: 200 }
    }
}

/// A decoded object, and what in the input did not belong there.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decoded {
    /// The object, pruned.
    pub value: Value,
    /// Unknown and duplicate fields, in the order met; at most [`error::MAX_FINDINGS`].
    pub findings: Vec<Finding>,
}

impl Decoded {
    /// What a request with this `fieldValidation` gets: the object with warnings, or an error.
    ///
    /// # Errors
    /// With [`FieldValidation::Strict`], when there are findings.
    pub fn checked(self, validation: FieldValidation) -> Result<(Value, Vec<String>), DecodeError> {
        match validation {
            FieldValidation::Ignore => Ok((self.value, Vec::new())),
            FieldValidation::Warn => Ok((self.value, self.findings.iter().map(ToString::to_string).collect())),
            FieldValidation::Strict if self.findings.is_empty() => Ok((self.value, Vec::new())),
            FieldValidation::Strict => Err(DecodeError::Strict(self.findings)),
        }
    }
}

#[cfg(test)]
mod proto_tests;
#[cfg(test)]
mod tests;
