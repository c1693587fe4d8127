//! The compiled form of one schema node. Plain data.

use super::pattern::Pattern;
use crate::{Key, Value};

/// The JSON types a value may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScalarType {
    /// An object.
    Object,
    /// A list.
    Array,
    /// Text.
    String,
    /// A whole number.
    Integer,
    /// A number.
    Number,
    /// `true` or `false`.
    Boolean,
    /// A whole number or text (`x-kubernetes-int-or-string`).
    IntOrString,
}

impl ScalarType {
    /// From the schema's `type`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "object" => Self::Object,
            "array" => Self::Array,
            "string" => Self::String,
            "integer" => Self::Integer,
            "number" => Self::Number,
            "boolean" => Self::Boolean,
            _ => return None,
        })
    }

    /// The word in schemas and messages.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::Array => "array",
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
            Self::IntOrString => "integer,string",
        }
    }
}

/// How items of a list relate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ListType {
    /// One value as a whole.
    #[default]
    Atomic,
    /// No item twice.
    Set,
    /// Items are told apart by these members.
    Map(Vec<Key>),
}

/// What may stand in an object beside its properties.
#[derive(Debug)]
pub enum Additional {
    /// Anything that is no object (`additionalProperties: true`).
    Any,
    /// Nothing (`additionalProperties: false`, within value validation only).
    None,
    /// Values of this schema.
    Of(Box<Node>),
}

/// One rule in CEL (`x-kubernetes-validations`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// The expression.
    pub rule: String,
    /// The message of a refusal.
    pub message: String,
    /// An expression that makes the message.
    pub message_expression: String,
    /// The cause in the refusal: `FieldValueInvalid` and its like.
    pub reason: String,
    /// The field that the refusal names, below the rule's own.
    pub field_path: String,
    /// Whether `oldSelf` may be absent.
    pub optional_old_self: bool,
}

/// Rules about a value beyond its type.
#[derive(Debug, Default)]
pub struct Limits {
    /// A known format, as the schema writes it.
    pub format: Option<String>,
    /// The least number, and whether it is itself excluded.
    pub minimum: Option<(f64, bool)>,
    /// The greatest number, and whether it is itself excluded.
    pub maximum: Option<(f64, bool)>,
    /// The number divides by this.
    pub multiple_of: Option<f64>,
    /// Characters at least.
    pub min_length: Option<i64>,
    /// Characters at most.
    pub max_length: Option<i64>,
    /// A regular expression that text must match somewhere.
    pub pattern: Option<Pattern>,
    /// Items at least.
    pub min_items: Option<i64>,
    /// Items at most.
    pub max_items: Option<i64>,
    /// No item twice.
    pub unique_items: bool,
    /// Members at least.
    pub min_properties: Option<i64>,
    /// Members at most.
    pub max_properties: Option<i64>,
    /// The values allowed; empty when any.
    pub allowed: Vec<Value>,
    /// Members that must be there.
    pub required: Vec<Key>,
    /// All of these hold.
    pub all_of: Vec<Node>,
    /// Any of these holds.
    pub any_of: Vec<Node>,
    /// Exactly one of these holds.
    pub one_of: Vec<Node>,
    /// This does not hold.
    pub not: Option<Box<Node>>,
}

/// One node of a schema.
#[derive(Debug, Default)]
pub struct Node {
    /// The type; `None` when any.
    pub ty: Option<ScalarType>,
    /// Whether null is a value.
    pub nullable: bool,
    /// Whether what the schema does not list is kept.
    pub preserve: bool,
    /// Whether the object is one with `apiVersion`, `kind` and `metadata`.
    pub embedded: bool,
    /// Members by name, sorted.
    pub properties: Vec<(Key, Node)>,
    /// What may stand beside them.
    pub additional: Option<Additional>,
    /// Items of a list.
    pub items: Option<Box<Node>>,
    /// What stands for an absent value.
    pub default: Option<Value>,
    /// How items relate.
    pub list: ListType,
    /// Whether the object is owned as a whole under server-side apply.
    pub atomic: bool,
    /// Rules about the value.
    pub limits: Option<Box<Limits>>,
    /// Rules in CEL.
    pub rules: Vec<Rule>,
    /// Whether lists with rules about their items are here or below.
    pub(super) lists_below: bool,
    /// Whether embedded objects are here or below.
    pub(super) embedded_below: bool,
    /// Whether rules in CEL are here or below.
    pub(super) rules_below: bool,
}

impl Node {
    /// The schema of a member.
    #[must_use]
    pub fn property(&self, name: &str) -> Option<&Self> {
        let at = self.properties.binary_search_by(|(key, _)| key.as_str().cmp(name)).ok()?;
        Some(&self.properties[at].1)
    }

    /// The schema of a member, listed or not.
    #[must_use]
    pub fn member(&self, name: &str) -> Option<&Self> {
        self.property(name).or_else(|| self.additional_node())
    }

    /// The schema of members that are not listed.
    #[must_use]
    pub fn additional_node(&self) -> Option<&Self> {
        match &self.additional {
            Some(Additional::Of(node)) => Some(node),
            _ => None,
        }
    }

    /// Whether any rule in CEL is here or below.
    #[must_use]
    pub fn has_rules(&self) -> bool {
        self.rules_below
    }
}
