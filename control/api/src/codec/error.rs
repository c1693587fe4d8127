//! What can be wrong with input, in the words upstream's clients know.

use std::fmt;

use crate::schema::FieldType;
use crate::{Schema, TypeId};

/// Findings kept per object, as upstream keeps them.
pub(crate) const MAX_FINDINGS: usize = 100;

/// What to do about unknown and duplicate fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldValidation {
    /// Drop them.
    Ignore,
    /// Drop them and say so.
    #[default]
    Warn,
    /// Refuse the request.
    Strict,
}

impl FieldValidation {
    /// From the query parameter; absent means [`FieldValidation::Warn`].
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "Ignore" => Some(Self::Ignore),
            "" | "Warn" => Some(Self::Warn),
            "Strict" => Some(Self::Strict),
            _ => None,
        }
    }
}

/// A member that does not belong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The type has no such member.
    Unknown(String),
    /// The member is there twice; the last one counts.
    Duplicate(String),
}

impl Finding {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &str {
        match self {
            Self::Unknown(path) | Self::Duplicate(path) => path,
        }
    }

    pub(crate) fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown(_))
    }
}

/// `unknown field "spec.foo"`.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(path) => write!(f, "unknown field {path:?}"),
            Self::Duplicate(path) => write!(f, "duplicate field {path:?}"),
        }
    }
}

/// Input that is no object of the expected type.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum DecodeError {
    /// More bytes than allowed.
    #[error("the request is too large: the limit is {limit} bytes")]
    TooLarge {
        /// The bound.
        limit: usize,
    },
    /// Objects and lists nested too deep.
    #[error("exceeded max depth of {limit}")]
    TooDeep {
        /// The bound.
        limit: usize,
    },
    /// Not JSON.
    #[error("{problem} at offset {offset}")]
    Syntax {
        /// What was met.
        problem: String,
        /// Where.
        offset: usize,
    },
    /// Not YAML.
    #[error("error converting YAML to JSON: {0}")]
    Yaml(String),
    /// A value of the wrong type.
    #[error("json: cannot unmarshal {found} into Go struct field {owner}.{path} of type {expected}")]
    Type {
        /// What was met: `string`, `number 1.5`, `object`.
        found: String,
        /// The type that has the field.
        owner: String,
        /// The field, from the root.
        path: String,
        /// The field's type, as Go names it.
        expected: String,
    },
    /// The body as a whole has the wrong type.
    #[error("json: cannot unmarshal {found} into Go value of type {expected}")]
    Root {
        /// What was met.
        found: String,
        /// The type expected.
        expected: String,
    },
    /// A scalar of the right type that does not read.
    #[error("{problem}")]
    Scalar {
        /// The field, from the root.
        path: String,
        /// Why it does not read.
        problem: String,
    },
    /// Unknown or duplicate fields where none are allowed.
    #[error("strict decoding error: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
    Strict(Vec<Finding>),
    /// Not the protobuf envelope.
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    NoEnvelope,
    /// Not protobuf.
    #[error("proto: {problem} at offset {offset}")]
    Proto {
        /// What was met.
        problem: &'static str,
        /// Where.
        offset: usize,
    },
    /// The envelope holds what this server does not read.
    #[error("unsupported content type or encoding in protobuf envelope: {0:?}")]
    Content(String),
}

/// Where the walk stands: frames live on the stack and are put into words only when needed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame<'a> {
    pub(crate) parent: Option<&'a Frame<'a>>,
    pub(crate) step: Step<'a>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Step<'a> {
    Root,
    /// A member of a struct of this type.
    Member(&'a str, TypeId),
    Key(&'a str),
    Index(usize),
}

pub(crate) const ROOT: Frame<'static> = Frame { parent: None, step: Step::Root };

impl<'a> Frame<'a> {
    pub(crate) fn then(&'a self, step: Step<'a>) -> Frame<'a> {
        Frame { parent: Some(self), step }
    }

    /// `spec.containers[0].name`.
    pub(crate) fn path(&self) -> String {
        let mut text = self.parent.map(Frame::path).unwrap_or_default();
        match self.step {
            Step::Root => {}
            Step::Member(name, _) | Step::Key(name) => {
                if !text.is_empty() {
                    text.push('.');
                }
                text.push_str(name);
            }
            Step::Index(at) => {
                text.push_str(&format!("[{at}]"));
            }
        }
        text
    }

    /// The path of a member below this frame.
    pub(crate) fn path_of(&self, name: &str) -> String {
        self.then(Step::Key(name)).path()
    }

    fn owner(&self) -> Option<TypeId> {
        match self.step {
            Step::Member(_, owner) => Some(owner),
            _ => self.parent.and_then(Frame::owner),
        }
    }

    /// The error of meeting `found` where `expected` should be.
    pub(crate) fn mismatch(&self, schema: &Schema, expected: &FieldType, found: impl Into<String>) -> DecodeError {
        let (found, expected) = (found.into(), go_type(schema, expected));
        match self.owner() {
            None => DecodeError::Root { found, expected },
            Some(owner) => {
                let path = self.dotted();
                DecodeError::Type { found, owner: schema.get(owner).short_name().to_owned(), path, expected }
            }
        }
    }

    /// Go leaves indices out of the field in its message.
    fn dotted(&self) -> String {
        let mut text = self.parent.map(Frame::dotted).unwrap_or_default();
        if let Step::Member(name, _) | Step::Key(name) = self.step {
            if !text.is_empty() {
                text.push('.');
            }
            text.push_str(name);
        }
        text
    }

    pub(crate) fn scalar(&self, problem: impl Into<String>) -> DecodeError {
        DecodeError::Scalar { path: self.path(), problem: problem.into() }
    }
}

/// A type as Go prints it.
fn go_type(schema: &Schema, ty: &FieldType) -> String {
    match ty {
        FieldType::Bool => "bool".into(),
        FieldType::Int32 => "int32".into(),
        FieldType::Int64 => "int64".into(),
        FieldType::Float => "float64".into(),
        FieldType::String => "string".into(),
        FieldType::Bytes => "[]uint8".into(),
        FieldType::Quantity => "resource.Quantity".into(),
        FieldType::IntOrString => "intstr.IntOrString".into(),
        FieldType::Time => "v1.Time".into(),
        FieldType::MicroTime => "v1.MicroTime".into(),
        FieldType::Duration => "v1.Duration".into(),
        FieldType::Any | FieldType::Json => "interface {}".into(),
        FieldType::RawExtension => "runtime.RawExtension".into(),
        FieldType::FieldsV1 => "v1.FieldsV1".into(),
        FieldType::SchemaOrList(_) => "v1.JSONSchemaPropsOrArray".into(),
        FieldType::SchemaOrBool(_) => "v1.JSONSchemaPropsOrBool".into(),
        FieldType::SchemaOrNames(_) => "v1.JSONSchemaPropsOrStringArray".into(),
        FieldType::Struct(id) => schema.get(*id).go_name().to_owned(),
        FieldType::List(inner) => format!("[]{}", go_type(schema, inner)),
        FieldType::Map(inner) => format!("map[string]{}", go_type(schema, inner)),
    }
}
