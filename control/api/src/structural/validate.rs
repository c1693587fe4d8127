//! Judging values by a schema, in upstream's order and words.
//!
//! Upstream counts how many checks of an alternative passed and shows the problems of the one that came closest;
//! the counting here follows it. A valid object costs no allocation.

use std::fmt::{self, Write as _};

use super::node::{Additional, Limits, ListType, Node, ScalarType};
use super::{formats, lists};
use crate::{FieldError, FieldErrorKind, FieldErrors, Value, quote};

/// Where the walk stands; put into words only when something is wrong.
#[derive(Clone, Copy)]
enum Place<'p> {
    Root(&'p str),
    Member(&'p Place<'p>, &'p str),
    /// A member that the schema does not list: upstream writes a dot even at the root.
    Extra(&'p Place<'p>, &'p str),
    Index(&'p Place<'p>, usize),
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root(name) => out.write_str(name),
            Self::Member(Place::Root(""), name) => out.write_str(name),
            Self::Member(parent, name) | Self::Extra(parent, name) => write!(out, "{parent}.{name}"),
            Self::Index(parent, at) => write!(out, "{parent}[{at}]"),
        }
    }
}

/// One problem; its text tells it apart from others.
struct Problem {
    text: String,
    error: FieldError,
}

/// Judges `value`; `base` is the member of the object that it is, when not the whole.
pub(super) fn run(node: &Node, value: &Value, old: Option<&Value>, base: Option<&str>, errors: &mut FieldErrors) {
    let mut judge = Judge::default();
    judge.ratcheted(node, value, old, &Place::Root(""));
    for Problem { mut error, .. } in judge.problems {
        if let Some(base) = base {
            error.field = match error.field.as_str() {
                "<nil>" => base.to_owned(),
                field => format!("{base}.{field}"),
            };
        }
        errors.push(error);
    }
}

#[derive(Default)]
struct Judge {
    problems: Vec<Problem>,
    passed: u32,
}

impl Judge {
    fn push(&mut self, problem: Problem) {
        if !self.problems.iter().any(|known| known.text == problem.text) {
            self.problems.push(problem);
        }
    }

    fn merge(&mut self, other: Self) {
        self.passed += other.passed;
        other.problems.into_iter().for_each(|problem| self.push(problem));
    }

    fn add(
        &mut self,
        kind: FieldErrorKind,
        place: &Place<'_>,
        value: Option<Value>,
        text: String,
        detail: Option<&str>,
    ) {
        let field = place.to_string();
        let field = field.strip_prefix('.').map(str::to_owned).unwrap_or(field);
        let field = if field.is_empty() { "<nil>".to_owned() } else { field };
        let detail = detail.map_or_else(|| text.clone(), str::to_owned);
        self.push(Problem { text, error: FieldError { kind, field, value, detail } });
    }

    /// `PLACE in body WORDS`, with the value shown.
    fn invalid(&mut self, place: &Place<'_>, value: Value, words: fmt::Arguments<'_>) {
        self.add(FieldErrorKind::Invalid, place, Some(value), format!("{place} in body {words}"), None);
    }

    /// Problems without a place of their own.
    fn general(&mut self, text: String) {
        let error = FieldError {
            kind: FieldErrorKind::Invalid,
            field: "<nil>".into(),
            value: Some("".into()),
            detail: text.clone(),
        };
        self.push(Problem { text, error });
    }

    /// Judges one node, and forgives what was wrong already and is the same.
    fn ratcheted(&mut self, node: &Node, value: &Value, old: Option<&Value>, place: &Place<'_>) {
        let known = self.problems.len();
        self.node(node, value, old, place);
        if self.problems.len() > known && old.is_some_and(|old| old == value) {
            self.problems.truncate(known);
        }
    }

    fn node(&mut self, node: &Node, value: &Value, old: Option<&Value>, place: &Place<'_>) {
        if value.is_null() {
            self.type_of(node, value, place);
            if let Some(limits) = &node.limits {
                self.allowed(limits, value, place);
            }
            return;
        }
        let format = node.limits.as_ref().and_then(|limits| limits.format.as_deref());
        if node.ty.is_some() || format.is_some() {
            self.type_of(node, value, place);
            self.passed += 1;
        }
        let limits = node.limits.as_deref();
        if let Some(limits) = limits {
            self.alternatives(limits, value, old, place);
        } else {
            self.passed += 1;
        }
        self.passed += 1;
        match value {
            Value::String(text) => {
                if let Some(limits) = limits {
                    self.text(limits, text, place);
                }
                self.passed += 1;
            }
            Value::Int(_) | Value::Float(_) => {
                self.number(node, limits, value, place);
                self.passed += 2;
            }
            Value::List(list) => {
                self.list(node, limits, list, old, place);
                self.passed += 2;
            }
            _ => {}
        }
        if let Some(limits) = limits {
            self.allowed(limits, value, place);
        }
        self.passed += 1;
        if let Value::Object(object) = value {
            self.object(node, limits, object, old, place);
            self.passed += 1;
        }
        self.passed += 1;
    }

    fn type_of(&mut self, node: &Node, value: &Value, place: &Place<'_>) {
        let Some(wanted) = node.ty else {
            self.passed += 1;
            return;
        };
        let found = match value {
            Value::Null if node.nullable => return self.passed += 1,
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Int(_) => "integer",
            Value::Float(_) => "number",
            Value::String(_) => "string",
            Value::List(_) => "array",
            Value::Object(_) | Value::Raw(_) => "object",
        };
        let whole = || matches!(value, Value::Float(number) if number.fract() == 0.0);
        let fits = match wanted {
            ScalarType::Integer => found == "integer" || whole(),
            ScalarType::Number => matches!(found, "integer" | "number"),
            ScalarType::IntOrString => matches!(found, "integer" | "string") || whole(),
            other => found == other.as_str(),
        };
        if fits {
            return self.passed += 1;
        }
        let words = format!("{place} in body must be of type {}: {}", wanted.as_str(), quote(found));
        self.add(FieldErrorKind::TypeInvalid, place, Some(found.into()), words, None);
    }

    fn allowed(&mut self, limits: &Limits, value: &Value, place: &Place<'_>) {
        if limits.allowed.is_empty() || limits.allowed.iter().any(|one| same(one, value)) {
            return;
        }
        let names: Vec<String> =
            limits.allowed.iter().map(|one| one.as_str().map_or_else(|| quote(&json(one)), quote)).collect();
        let words = format!("{place} in body should be one of {names:?}");
        let detail = format!("supported values: {}", names.join(", "));
        self.add(FieldErrorKind::NotSupported, place, Some(value.clone()), words, Some(&detail));
    }

    /// Upstream shows the first broken rule of text only.
    fn text(&mut self, limits: &Limits, text: &str, place: &Place<'_>) {
        if limits.min_length.is_some() || limits.max_length.is_some() {
            let length = i64::try_from(text.chars().count()).unwrap_or(i64::MAX);
            if let Some(max) = limits.max_length.filter(|max| length > *max) {
                let words = format!("{place} in body should be at most {max} chars long");
                let unit = if max == 1 { "byte" } else { "bytes" };
                let detail = format!("may not be more than {max} {unit}");
                return self.add(FieldErrorKind::TooLong, place, None, words, Some(&detail));
            }
            if let Some(min) = limits.min_length.filter(|min| length < *min) {
                return self.invalid(place, text.into(), format_args!("should be at least {min} chars long"));
            }
        }
        if let Some(pattern) = &limits.pattern {
            match pattern.matches(text) {
                Ok(true) => {}
                Ok(false) => {
                    self.invalid(place, text.into(), format_args!("should match '{}'", pattern.as_str()));
                }
                Err(problem) => self.invalid(
                    place,
                    text.into(),
                    format_args!("should match '{}, but pattern is invalid: {problem}'", pattern.as_str()),
                ),
            }
        }
        if let Some(format) = limits.format.as_deref().filter(|format| !formats::matches(format, text)) {
            let words = format!("{place} in body must be of type {format}: {}", quote(text));
            self.add(FieldErrorKind::TypeInvalid, place, Some(text.into()), words, None);
        }
    }

    fn number(&mut self, node: &Node, limits: Option<&Limits>, value: &Value, place: &Place<'_>) {
        if node.ty == Some(ScalarType::Integer) {
            let format = limits.and_then(|limits| limits.format.as_deref()).unwrap_or("");
            let fits = match value {
                Value::Int(number) => format != "int32" || i32::try_from(*number).is_ok(),
                Value::Float(number) => number.fract() == 0.0 && number.abs() < 9.3e18,
                _ => true,
            };
            if !fits {
                let named =
                    if format.is_empty() { "(default format)".to_owned() } else { format!("with format {format}") };
                self.general(format!("Checked value must be of type integer {named} in {place}"));
            }
        }
        let Some(limits) = limits else { return };
        if let Some(factor) = limits.multiple_of {
            self.multiple(factor, value, place);
        }
        if let Some((max, exclusive)) = limits.maximum {
            let (over, shown) = match value {
                Value::Int(number) => (compare(*number, max as i64, exclusive), (max as i64).to_string()),
                other => (compare(float(other), max, exclusive), go_float(max)),
            };
            if over {
                let or_equal = if exclusive { "" } else { " or equal to" };
                let words = format!("should be less than{or_equal} {shown}");
                self.invalid(place, value.clone(), format_args!("{words}"));
            }
        }
        if let Some((min, exclusive)) = limits.minimum {
            let (under, shown) = match value {
                Value::Int(number) => (compare(min as i64, *number, exclusive), (min as i64).to_string()),
                other => (compare(min, float(other), exclusive), go_float(min)),
            };
            if under {
                let or_equal = if exclusive { "" } else { " or equal to" };
                let words = format!("should be greater than{or_equal} {shown}");
                self.invalid(place, value.clone(), format_args!("{words}"));
            }
        }
    }

    fn multiple(&mut self, factor: f64, value: &Value, place: &Place<'_>) {
        let (fits, shown) = match value {
            Value::Int(number) if factor as i64 > 0 => (number % (factor as i64) == 0, (factor as i64).to_string()),
            other => {
                let number = float(other);
                let times = if factor < 1.0 { 1.0 / factor * number } else { number / factor };
                ((times - times.round()).abs() < 1e-9, go_float(factor))
            }
        };
        if !fits {
            self.invalid(place, value.clone(), format_args!("should be a multiple of {shown}"));
        }
    }

    fn list(&mut self, node: &Node, limits: Option<&Limits>, list: &[Value], old: Option<&Value>, place: &Place<'_>) {
        if let Some(items) = &node.items {
            let before = old.and_then(Value::as_list);
            for (at, item) in list.iter().enumerate() {
                let before = before.and_then(|before| match &node.list {
                    ListType::Map(keys) => lists::correlated(keys, item, before),
                    _ => None,
                });
                self.ratcheted(items, item, before, &Place::Index(place, at));
            }
        }
        let Some(limits) = limits else { return };
        let count = i64::try_from(list.len()).unwrap_or(i64::MAX);
        if let Some(min) = limits.min_items.filter(|min| count < *min) {
            self.invalid(place, count.into(), format_args!("should have at least {min} items"));
        }
        if let Some(max) = limits.max_items.filter(|max| count > *max) {
            let words = format!("{place} in body should have at most {max} items");
            self.too_many(place, count, max, words);
        }
        if limits.unique_items && list.iter().enumerate().any(|(at, item)| list[..at].contains(item)) {
            self.invalid(place, "".into(), format_args!("shouldn't contain duplicates"));
        }
    }

    fn too_many(&mut self, place: &Place<'_>, count: i64, max: i64, words: String) {
        let unit = if max == 1 { "item" } else { "items" };
        let detail = format!("must have at most {max} {unit}");
        self.add(FieldErrorKind::TooMany, place, Some(count.into()), words, Some(&detail));
    }

    fn object(
        &mut self,
        node: &Node,
        limits: Option<&Limits>,
        object: &crate::Object,
        old: Option<&Value>,
        place: &Place<'_>,
    ) {
        let count = i64::try_from(object.len()).unwrap_or(i64::MAX);
        if let Some(min) = limits.and_then(|limits| limits.min_properties).filter(|min| count < *min) {
            self.invalid(place, count.into(), format_args!("should have at least {min} properties"));
        }
        if let Some(max) = limits.and_then(|limits| limits.max_properties).filter(|max| count > *max) {
            let words = format!("{place} in body should have at most {max} properties");
            self.too_many(place, count, max, words);
        }
        let old = if node.atomic { None } else { old };
        let before = |name: &str| old.and_then(|old| old.get(name));
        let at_root = matches!(place, Place::Root(""));
        for (name, member) in object.iter() {
            if let Some(child) = node.property(name) {
                // The envelope of the whole object does not ratchet.
                let envelope = at_root && super::prune::is_envelope(name);
                let before = before(name).filter(|_| !envelope);
                self.ratcheted(child, member, before, &Place::Member(place, name));
                continue;
            }
            match &node.additional {
                Some(Additional::Of(child)) => {
                    self.ratcheted(child, member, before(name), &Place::Extra(place, name));
                }
                Some(Additional::None) => {
                    let words = format!("{place}.{name} in body is a forbidden property");
                    self.add(FieldErrorKind::Invalid, place, Some(name.as_str().into()), words, None);
                }
                _ => {}
            }
        }
        for name in limits.map_or(&[][..], |limits| &limits.required) {
            if !object.contains(name) {
                let place = Place::Extra(place, name);
                self.add(FieldErrorKind::Required, &place, None, format!("{place} in body is required"), Some(""));
            }
        }
    }

    /// `anyOf`, `oneOf`, `allOf`, `not`.
    fn alternatives(&mut self, limits: &Limits, value: &Value, old: Option<&Value>, place: &Place<'_>) {
        let judged = |node: &Node| {
            let mut judge = Self::default();
            judge.node(node, value, old, place);
            judge
        };
        let quoted = || {
            let mut text = String::new();
            let _ = write!(text, "{place}");
            quote(&text)
        };
        if !limits.any_of.is_empty() {
            self.any_of(&limits.any_of, judged, quoted);
        }
        if !limits.one_of.is_empty() {
            self.one_of(&limits.one_of, judged, quoted);
        }
        if !limits.all_of.is_empty() {
            let mut good = 0;
            for node in &limits.all_of {
                let judge = judged(node);
                good += usize::from(judge.problems.is_empty());
                self.merge(judge);
            }
            if good != limits.all_of.len() {
                let more = if good == 0 { ". None validated" } else { "" };
                self.general(format!("{} must validate all the schemas (allOf){more}", quoted()));
            }
        }
        if limits.not.as_ref().is_some_and(|node| judged(node).problems.is_empty()) {
            self.general(format!("{} must not validate the schema (not)", quoted()));
        }
        self.passed += 1;
    }

    fn any_of(&mut self, nodes: &[Node], judged: impl Fn(&Node) -> Self, quoted: impl Fn() -> String) {
        let mut best: Option<Self> = None;
        for node in nodes {
            let judge = judged(node);
            if judge.problems.is_empty() {
                return self.merge(judge);
            }
            if best.as_ref().is_none_or(|best| judge.passed > best.passed) {
                best = Some(judge);
            }
        }
        self.general(format!("{} must validate at least one schema (anyOf)", quoted()));
        if let Some(best) = best {
            self.merge(best);
        }
    }

    fn one_of(&mut self, nodes: &[Node], judged: impl Fn(&Node) -> Self, quoted: impl Fn() -> String) {
        let (mut good, mut first, mut best): (usize, Option<Self>, Option<Self>) = (0, None, None);
        for node in nodes {
            let judge = judged(node);
            if judge.problems.is_empty() {
                good += 1;
                best = None;
                first.get_or_insert(judge);
            } else if good == 0 && best.as_ref().is_none_or(|best| judge.passed > best.passed) {
                best = Some(judge);
            }
        }
        if let Some(first) = first.filter(|_| good == 1) {
            return self.merge(first);
        }
        let more = if good == 0 { "Found none valid".to_owned() } else { format!("Found {good} valid alternatives") };
        self.general(format!("{} must validate one and only one schema (oneOf). {more}", quoted()));
        if let Some(best) = best {
            self.merge(best);
        }
    }
}

/// Whether `left` is over `right`, or as much where that is excluded.
fn compare<T: PartialOrd + Copy>(left: T, right: T, exclusive: bool) -> bool {
    if exclusive { left >= right } else { left > right }
}

fn float(value: &Value) -> f64 {
    match value {
        Value::Int(number) => *number as f64,
        Value::Float(number) => *number,
        _ => 0.0,
    }
}

/// Equal values; numbers by what they count.
fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Int(_) | Value::Float(_), Value::Int(_) | Value::Float(_)) => float(one) == float(other),
        _ => one == other,
    }
}

fn json(value: &Value) -> String {
    String::from_utf8_lossy(&crate::encode_json(value)).into_owned()
}

/// A number as Go's `%v` writes it.
fn go_float(number: f64) -> String {
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..6).contains(&exponent) {
        return format!("{number}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}
