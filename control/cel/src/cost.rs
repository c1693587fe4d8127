//! What a call has cost, in upstream's units; the figures are part of the API, since limits are.

use crate::extension::Extension;
use crate::library;
use crate::value::{Map, Val};

/// Reading a variable or a field.
pub(crate) const SELECT_COST: u64 = 1;
/// Making a list.
pub(crate) const LIST_COST: u64 = 10;
/// Making a map.
pub(crate) const MAP_COST: u64 = 30;
/// Making an object.
pub(crate) const STRUCT_COST: u64 = 40;
/// Walking over one character.
pub(crate) const TRAVERSAL: f64 = 0.1;
/// One character of a regular expression, applied to text of unit cost.
pub(crate) const REGEX: f64 = 0.25;
/// One question to the authorizer: two fit into one evaluation.
pub(crate) const CHECK_COST: u64 = 350_000;
/// Requirements of a selector, at most, for each of its characters.
pub(crate) const REQUIREMENTS_PER_CHAR: f64 = 0.5;
/// One requirement of a selector.
pub(crate) const REQUIREMENT: f64 = 50.0;

/// `size` times `factor`, rounded up.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "sizes are bounded by a request; the cast saturates"
)]
pub(crate) fn scaled(size: u64, factor: f64) -> u64 {
    if size == u64::MAX { u64::MAX } else { (size as f64 * factor).ceil() as u64 }
}

/// Functions that cost 1 whatever they are given.
pub(crate) const NOMINAL: [&str; 43] = [
    "add",
    "allowed",
    "asApproximateFloat",
    "asInteger",
    "compareTo",
    "error",
    "errored",
    "family",
    "format.named",
    "getEscapedPath",
    "getHost",
    "getHostname",
    "getPort",
    "getQuery",
    "getScheme",
    "group",
    "isGlobalUnicast",
    "isGreaterThan",
    "isInteger",
    "isLessThan",
    "isLinkLocalMulticast",
    "isLinkLocalUnicast",
    "isLoopback",
    "isUnspecified",
    "major",
    "masked",
    "minor",
    "name",
    "namespace",
    "patch",
    "path",
    "prefixLength",
    "reason",
    "resource",
    "serviceAccount",
    "sign",
    "size",
    "sub",
    "subresource",
    "type",
    "dyn",
    "bool",
    "uint",
];

/// Functions that walk once over their first argument's text.
pub(crate) const TRAVERSING: [&str; 13] = [
    "cidr",
    "isCIDR",
    "isIP",
    "isQuantity",
    "isSemver",
    "jsonpatch.escapeKey",
    "lowerAscii",
    "quantity",
    "semver",
    "substring",
    "trim",
    "upperAscii",
    "url",
];

/// What a call has cost; the target comes first among `args`.
pub(crate) fn of_call(name: &str, args: &[Val<'_>], result: &Val<'_>) -> u64 {
    let size = |at: usize| args.get(at).map_or(1, Val::cost_size);
    match name {
        "check" => CHECK_COST,
        "fieldSelector" | "labelSelector" => {
            LIST_COST + scaled(size(1), TRAVERSAL) + scaled(scaled(size(1), REQUIREMENTS_PER_CHAR), REQUIREMENT)
        }
        "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" => args.first().map_or(0, traversal),
        name if NOMINAL.contains(&name) => 1,
        name if TRAVERSING.contains(&name) => scaled(size(0), TRAVERSAL),
        "replace" | "split" | "ip.isCanonical" => scaled(size(0), 2.0 * TRAVERSAL),
        "join" => scaled(result.cost_size(), 2.0 * TRAVERSAL),
        "sets.contains" | "sets.intersects" => size(0).saturating_mul(size(1)).saturating_add(1),
        "sets.equivalent" => size(0).saturating_mul(size(1)).saturating_mul(2).saturating_add(1),
        "slice" | "lists.range" | "reverse" => list_call(result.cost_size(), 1.0),
        "flatten" => list_call(size(0), flatten_depth(args)),
        "distinct" | "sort" => args.first().map_or(0, self_compare),
        "@sortByAssociatedKeys" => args.get(1).map_or(0, self_compare),
        "matches" | "find" | "findAll" => {
            scaled(size(0).saturating_add(1), TRAVERSAL).saturating_mul(scaled(size(1), REGEX))
        }
        "ip" => match args {
            [Val::Extension(_)] => 1,
            _ => scaled(size(0), TRAVERSAL),
        },
        "containsIP" | "containsCIDR" => contains_address(name, args),
        "validate" => match args {
            [Val::Extension(format), text] => match &**format {
                Extension::Format(format) => validation(format, text),
                _ => 1,
            },
            _ => 1,
        },
        "startsWith" | "endsWith" | "format" | "strings.quote" => scaled(size(0), TRAVERSAL),
        "bytes" | "string" if matches!(args, [Val::String(_) | Val::Bytes(_)]) && changes(name, &args[0]) => {
            scaled(size(0), TRAVERSAL)
        }
        "contains" => scaled(size(0), TRAVERSAL).saturating_mul(scaled(size(1), TRAVERSAL)),
        "@in" => match args {
            [_, Val::List(list)] => list.len() as u64,
            _ => 1,
        },
        "_==_" | "_!=_" => match args {
            [Val::Extension(_), _] if name == "_==_" => 1,
            _ => scaled(size(0).min(size(1)), TRAVERSAL),
        },
        "_<_" | "_<=_" | "_>_" | "_>=_" if matches!(args, [Val::String(_) | Val::Bytes(_), _]) => {
            scaled(size(0).min(size(1)), TRAVERSAL)
        }
        "_+_" if matches!(args, [Val::String(_) | Val::Bytes(_), _]) => {
            scaled(size(0).saturating_add(size(1)), TRAVERSAL)
        }
        _ => 1,
    }
}

/// A call that makes a list.
#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
pub(crate) fn list_call(size: u64, factor: f64) -> u64 {
    ((size as f64 * factor) as u64).saturating_add(1 + LIST_COST)
}

#[expect(clippy::cast_precision_loss, reason = "a depth")]
fn flatten_depth(args: &[Val<'_>]) -> f64 {
    match args.get(1) {
        Some(Val::Int(depth)) => *depth as f64,
        _ => 1.0,
    }
}

/// Comparing every element of a list with every other one.
fn self_compare(list: &Val<'_>) -> u64 {
    let Val::List(list) = list else { return 1 };
    let text = matches!(list.get(0), Some(Ok(Val::String(_) | Val::Bytes(_))));
    let size = list.len() as u64;
    list_call(size.saturating_mul(size), if text { 2.0 + TRAVERSAL } else { 2.0 })
}

fn changes(name: &str, arg: &Val<'_>) -> bool {
    matches!((name, arg), ("bytes", Val::String(_)) | ("string", Val::Bytes(_)))
}

fn validation(format: &library::NamedFormat, text: &Val<'_>) -> u64 {
    scaled(text.cost_size().saturating_add(1), TRAVERSAL).saturating_mul(scaled(format.regex_size, REGEX))
}

fn contains_address(name: &str, args: &[Val<'_>]) -> u64 {
    let network = args.first().map_or(1, Val::cost_size);
    let mut cost = scaled(network * 2, TRAVERSAL);
    if name == "containsCIDR" {
        cost += scaled(network, TRAVERSAL) + 1;
    }
    match args.get(1) {
        Some(text @ Val::String(_)) => cost + scaled(text.cost_size(), TRAVERSAL),
        _ => cost,
    }
}

/// Walking over a whole value.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "bounded by a request"
)]
fn traversal(val: &Val<'_>) -> u64 {
    match val {
        Val::String(text) => (text.as_str().len() as f64 * TRAVERSAL) as u64,
        Val::Bytes(bytes) => (bytes.len() as f64 * TRAVERSAL) as u64,
        Val::List(list) => list.iter().map(|item| item.map_or(1, |item| traversal(&item))).sum(),
        Val::Map(map) => map_traversal(map),
        _ => 1,
    }
}

fn map_traversal(map: &Map<'_>) -> u64 {
    let member =
        |key: &Val<'_>| traversal(key) + map.get(key).map_or(0, |item| item.map_or(1, |item| traversal(&item)));
    map.keys().iter().map(member).sum()
}
