//! The JSONPath that printer columns use: members, indices, wildcards, and filters that compare one member.
//!
//! Never recurses into descendants (`..`) and never slices.

use crate::Value;

/// The longest expression.
const MAX_STEPS: usize = 64;

/// A path that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid jsonPath {path:?}: {why}")]
pub struct JsonPathError {
    path: String,
    why: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Exists,
    Equal,
    NotEqual,
}

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Member(String),
    Index(i64),
    Every,
    Filter(Vec<Step>, Comparison, Value),
}

/// A compiled path.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonPath(Vec<Step>);

impl JsonPath {
    /// Reads `.status.conditions[?(@.type=="Ready")].status`.
    ///
    /// # Errors
    /// When the text is no such path.
    pub fn parse(text: &str) -> Result<Self, JsonPathError> {
        let inner = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')).unwrap_or(text);
        let inner = inner.strip_prefix('$').unwrap_or(inner);
        match steps(inner) {
            Ok(steps) => Ok(Self(steps)),
            Err(why) => Err(JsonPathError { path: text.to_owned(), why }),
        }
    }

    /// The first node it finds.
    #[must_use]
    pub fn first<'a>(&self, value: &'a Value) -> Option<&'a Value> {
        self.all(value).into_iter().next()
    }

    /// Every node it finds.
    #[must_use]
    pub fn all<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        find(&self.0, value)
    }
}

fn find<'a>(steps: &[Step], value: &'a Value) -> Vec<&'a Value> {
    let mut found = vec![value];
    for step in steps {
        found = found.into_iter().flat_map(|value| walk(step, value)).collect();
    }
    found
}

fn walk<'a>(step: &Step, value: &'a Value) -> Vec<&'a Value> {
    match (step, value) {
        (Step::Member(name), _) => value.get(name).into_iter().collect(),
        (Step::Index(at), Value::List(list)) => {
            let at = if *at < 0 {
                usize::try_from(-at).ok().and_then(|back| list.len().checked_sub(back))
            } else {
                usize::try_from(*at).ok()
            };
            at.and_then(|at| list.get(at)).into_iter().collect()
        }
        (Step::Every, Value::List(list)) => list.iter().collect(),
        (Step::Every, Value::Object(map)) => map.iter().map(|(_, value)| value).collect(),
        (Step::Filter(path, comparison, literal), Value::List(list)) => list
            .iter()
            .filter(|item| {
                let found = find(path, item);
                match comparison {
                    Comparison::Exists => !found.is_empty(),
                    Comparison::Equal => found.first() == Some(&literal),
                    Comparison::NotEqual => found.first().is_some_and(|found| *found != literal),
                }
            })
            .collect(),
        _ => Vec::new(),
    }
}

fn steps(text: &str) -> Result<Vec<Step>, &'static str> {
    let (mut steps, mut rest) = (Vec::new(), text);
    while !rest.is_empty() {
        if steps.len() == MAX_STEPS {
            return Err("too long");
        }
        if let Some(after) = rest.strip_prefix('[') {
            let end = closing(after).ok_or("missing ]")?;
            steps.push(bracket(&after[..end])?);
            rest = &after[end + 1..];
        } else {
            let after = rest.strip_prefix('.').unwrap_or(rest);
            if after.starts_with('.') {
                return Err("recursive descent is not supported");
            }
            let (name, after) = member(after);
            match name.as_str() {
                "" if !after.is_empty() && !after.starts_with('[') => return Err("empty member"),
                "" => {}
                "*" => steps.push(Step::Every),
                _ => steps.push(Step::Member(name)),
            }
            rest = after;
        }
    }
    Ok(steps)
}

/// A member's name; a backslash takes the next character as it is.
fn member(text: &str) -> (String, &str) {
    let mut name = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => name.extend(chars.next().map(|(_, c)| c)),
            '.' | '[' => return (name, &text[at..]),
            c => name.push(c),
        }
    }
    (name, "")
}

/// Where the bracket that is open closes, quotes and inner brackets aside.
fn closing(text: &str) -> Option<usize> {
    let (mut depth, mut quoted) = (0, None);
    for (at, c) in text.char_indices() {
        match (quoted, c) {
            (Some(quote), _) if c == quote => quoted = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quoted = Some(c),
            (None, '[') => depth += 1,
            (None, ']') if depth == 0 => return Some(at),
            (None, ']') => depth -= 1,
            _ => {}
        }
    }
    None
}

fn unquoted(text: &str) -> Option<&str> {
    let inner = |quote| text.strip_prefix(quote).and_then(|text: &str| text.strip_suffix(quote));
    inner('\'').or_else(|| inner('"'))
}

fn bracket(text: &str) -> Result<Step, &'static str> {
    let text = text.trim();
    if text == "*" {
        return Ok(Step::Every);
    }
    if let Some(name) = unquoted(text) {
        return Ok(Step::Member(name.replace("\\.", ".")));
    }
    if let Some(filter) = text.strip_prefix("?(").and_then(|text| text.strip_suffix(')')) {
        return filtered(filter.trim());
    }
    text.parse().map(Step::Index).map_err(|_| "not an index, a name or a filter")
}

fn filtered(text: &str) -> Result<Step, &'static str> {
    let text = text.strip_prefix('@').ok_or("a filter starts with @")?;
    let split = |sign: &str| text.split_once(sign).map(|(path, literal)| (path.trim(), literal.trim()));
    let (path, comparison, literal) = match (split("=="), split("!=")) {
        (Some((path, literal)), _) => (path, Comparison::Equal, literal),
        (None, Some((path, literal))) => (path, Comparison::NotEqual, literal),
        (None, None) => return Ok(Step::Filter(steps(text.trim())?, Comparison::Exists, Value::Null)),
    };
    let literal = match unquoted(literal) {
        Some(text) => Value::from(text),
        None => serde_json::from_str::<serde_json::Value>(literal).map(Value::from).map_err(|_| "not a literal")?,
    };
    Ok(Step::Filter(steps(path)?, comparison, literal))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_find_nodes() {
        let value = Value::from(json!({
            "a": {"b.c": 1, "list": [{"k": "x", "v": 1}, {"k": "y", "v": 2}]},
        }));
        for (path, expected) in [
            (".a['b.c']", json!([1])),
            (".a.b\\.c", json!([1])),
            (".a.list[0].v", json!([1])),
            (".a.list[-1].v", json!([2])),
            (".a.list[*].v", json!([1, 2])),
            (".a.list[?(@.k==\"y\")].v", json!([2])),
            ("{.a.list[?(@.k!='y')].v}", json!([1])),
            (".a.list[?(@.v==2)].k", json!(["y"])),
            (".a.none.x", json!([])),
        ] {
            let path = JsonPath::parse(path).unwrap();
            let found: Vec<Value> = path.all(&value).into_iter().cloned().collect();
            assert_eq!(serde_json::Value::from(&Value::from(found)), expected, "{path:?}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for path in ["..a", ".a[", ".a[x]", ".a[?(k==1)]", ".a[?(@.k==y)]"] {
            assert!(JsonPath::parse(path).is_err(), "{path}");
        }
    }
}
