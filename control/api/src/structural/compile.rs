//! From a schema as JSON to nodes.

use super::node::{Additional, Limits, ListType, Node, Rule, ScalarType};
use super::pattern::Pattern;
use crate::{Key, Value, encode_json};

/// Levels of a schema; upstream's own bound on schemas comes from its cost, real ones have some twenty.
const MAX_DEPTH: usize = 64;

/// Why a schema does not compile.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// Levels beyond the bound.
    #[error("the schema is deeper than {MAX_DEPTH} levels")]
    TooDeep,
    /// A definition that defines nothing.
    #[error("the definition has no version")]
    NoVersion,
}

pub(super) fn root(schema: &Value) -> Result<Node, CompileError> {
    let mut root = node(schema, 0)?;
    prune_defaults(&mut root);
    Ok(root)
}

/// A short text that differs when schemas differ.
pub(super) fn fingerprint(schema: &Value) -> String {
    // FNV-1a over the canonical text: it names forms of stored objects, nothing hostile gains by a collision but
    // a stale default on its own objects.
    format!("{:016x}", fnv(0, &encode_json(schema)))
}

/// FNV-1a, going on from `hash`.
pub(crate) fn fnv(hash: u64, bytes: &[u8]) -> u64 {
    let start = hash ^ 0xcbf2_9ce4_8422_2325;
    bytes.iter().fold(start, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

fn truth(schema: &Value, name: &str) -> bool {
    schema.bool_at(&[name]) == Some(true)
}

fn node(schema: &Value, depth: usize) -> Result<Node, CompileError> {
    if depth > MAX_DEPTH {
        return Err(CompileError::TooDeep);
    }
    let mut properties = Vec::new();
    for (name, child) in schema.get("properties").and_then(Value::as_object).into_iter().flat_map(|map| map.iter()) {
        properties.push((name.clone(), node(child, depth + 1)?));
    }
    let ty = if truth(schema, "x-kubernetes-int-or-string") {
        Some(ScalarType::IntOrString)
    } else {
        ScalarType::parse(schema.str_at(&["type"]))
    };
    let mut made = Node {
        ty,
        nullable: truth(schema, "nullable"),
        preserve: truth(schema, "x-kubernetes-preserve-unknown-fields"),
        embedded: truth(schema, "x-kubernetes-embedded-resource"),
        properties,
        additional: match schema.get("additionalProperties") {
            Some(Value::Bool(true)) => Some(Additional::Any),
            Some(Value::Bool(false)) => Some(Additional::None),
            Some(object @ Value::Object(_)) => Some(Additional::Of(Box::new(node(object, depth + 1)?))),
            _ => None,
        },
        items: match schema.get("items") {
            Some(object @ Value::Object(_)) => Some(Box::new(node(object, depth + 1)?)),
            _ => None,
        },
        default: schema.get("default").filter(|value| !value.is_null()).cloned(),
        list: list(schema),
        atomic: schema.str_at(&["x-kubernetes-map-type"]) == "atomic",
        limits: limits(schema, ty, depth)?,
        rules: schema.list_at(&["x-kubernetes-validations"]).iter().map(rule).collect(),
        ..Node::default()
    };
    mark(&mut made);
    Ok(made)
}

/// What is below, so that walks that look for it need not enter.
fn mark(node: &mut Node) {
    let children = node.properties.iter().map(|(_, child)| child);
    let additional = match &node.additional {
        Some(Additional::Of(child)) => Some(&**child),
        _ => None,
    };
    let children: Vec<&Node> = children.chain(additional).chain(node.items.as_deref()).collect();
    node.lists_below = node.list != ListType::Atomic || children.iter().any(|child| child.lists_below);
    node.embedded_below = node.embedded || children.iter().any(|child| child.embedded_below);
    node.rules_below = !node.rules.is_empty() || children.iter().any(|child| child.rules_below);
}

fn list(schema: &Value) -> ListType {
    match schema.str_at(&["x-kubernetes-list-type"]) {
        "set" => ListType::Set,
        "map" => ListType::Map(names(schema, "x-kubernetes-list-map-keys")),
        _ => ListType::Atomic,
    }
}

fn names(schema: &Value, member: &str) -> Vec<Key> {
    schema.list_at(&[member]).iter().filter_map(Value::as_str).map(Key::from).collect()
}

fn rule(schema: &Value) -> Rule {
    let text = |name: &str| schema.str_at(&[name]).to_owned();
    Rule {
        rule: text("rule"),
        message: text("message"),
        message_expression: text("messageExpression"),
        reason: text("reason"),
        field_path: text("fieldPath"),
        optional_old_self: truth(schema, "optionalOldSelf"),
    }
}

fn number(schema: &Value, name: &str) -> Option<f64> {
    match schema.get(name)? {
        Value::Int(number) => Some(*number as f64),
        Value::Float(number) => Some(*number),
        _ => None,
    }
}

fn many(schema: &Value, name: &str, depth: usize) -> Result<Vec<Node>, CompileError> {
    schema.list_at(&[name]).iter().map(|one| node(one, depth + 1)).collect()
}

fn limits(schema: &Value, ty: Option<ScalarType>, depth: usize) -> Result<Option<Box<Limits>>, CompileError> {
    let bound = |name: &str, exclusive: &str| number(schema, name).map(|number| (number, truth(schema, exclusive)));
    let pattern = schema.str_at(&["pattern"]);
    let limits = Limits {
        format: super::formats::known(schema.str_at(&["format"]), ty).then(|| schema.str_at(&["format"]).to_owned()),
        minimum: bound("minimum", "exclusiveMinimum"),
        maximum: bound("maximum", "exclusiveMaximum"),
        multiple_of: number(schema, "multipleOf"),
        min_length: schema.int_at(&["minLength"]),
        max_length: schema.int_at(&["maxLength"]),
        pattern: (!pattern.is_empty()).then(|| Pattern::new(pattern)),
        min_items: schema.int_at(&["minItems"]),
        max_items: schema.int_at(&["maxItems"]),
        unique_items: truth(schema, "uniqueItems"),
        min_properties: schema.int_at(&["minProperties"]),
        max_properties: schema.int_at(&["maxProperties"]),
        allowed: schema.list_at(&["enum"]).to_vec(),
        required: names(schema, "required"),
        all_of: many(schema, "allOf", depth)?,
        any_of: many(schema, "anyOf", depth)?,
        one_of: many(schema, "oneOf", depth)?,
        not: match schema.get("not") {
            Some(object @ Value::Object(_)) => Some(Box::new(node(object, depth + 1)?)),
            _ => None,
        },
    };
    Ok((!is_idle(&limits)).then(|| Box::new(limits)))
}

fn is_idle(limits: &Limits) -> bool {
    let Limits { format, minimum, maximum, multiple_of, min_length, max_length, pattern, min_items, .. } = limits;
    let Limits { max_items, unique_items, min_properties, max_properties, allowed, required, .. } = limits;
    format.is_none()
        && minimum.is_none()
        && maximum.is_none()
        && multiple_of.is_none()
        && min_length.is_none()
        && max_length.is_none()
        && pattern.is_none()
        && min_items.is_none()
        && max_items.is_none()
        && !unique_items
        && min_properties.is_none()
        && max_properties.is_none()
        && allowed.is_empty()
        && required.is_empty()
        && limits.all_of.is_empty()
        && limits.any_of.is_empty()
        && limits.one_of.is_empty()
        && limits.not.is_none()
}

/// Defaults hold only what their own schema keeps.
fn prune_defaults(node: &mut Node) {
    for (_, child) in &mut node.properties {
        prune_defaults(child);
    }
    if let Some(Additional::Of(child)) = &mut node.additional {
        prune_defaults(child);
    }
    if let Some(child) = &mut node.items {
        prune_defaults(child);
    }
    if let Some(mut default) = node.default.take() {
        super::prune::prune(node, &mut default);
        node.default = Some(default);
    }
}
