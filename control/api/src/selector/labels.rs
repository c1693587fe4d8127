//! Label selectors in compiled form.

use std::collections::BTreeMap;
use std::fmt;

use compact_str::CompactString;

use super::parse;
use crate::fieldpath::{FieldErrors, Path, quote};
use crate::{Object, Value, names};

/// Why a selector is none: the message is for the client, under code 400.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectorError(pub(super) String);

/// Anything labels can be looked up in.
pub trait Labels {
    /// The value of a label.
    fn label(&self, key: &str) -> Option<&str>;
}

impl Labels for Object {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Value::as_str)
    }
}

impl Labels for Value {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Self::as_str)
    }
}

impl<L: Labels> Labels for Option<L> {
    fn label(&self, key: &str) -> Option<&str> {
        self.as_ref().and_then(|labels| labels.label(key))
    }
}

impl<L: Labels + ?Sized> Labels for &L {
    fn label(&self, key: &str) -> Option<&str> {
        (**self).label(key)
    }
}

impl Labels for BTreeMap<String, String> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).map(String::as_str)
    }
}

impl<K: AsRef<str>, V: AsRef<str>> Labels for [(K, V)] {
    fn label(&self, key: &str) -> Option<&str> {
        self.iter().find(|(name, _)| name.as_ref() == key).map(|(_, value)| value.as_ref())
    }
}

/// How a requirement compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// `key in (a,b)`.
    In,
    /// `key notin (a,b)`.
    NotIn,
    /// `key=a`.
    Equals,
    /// `key==a`.
    DoubleEquals,
    /// `key!=a`.
    NotEquals,
    /// `key`.
    Exists,
    /// `!key`.
    DoesNotExist,
    /// `key>1`.
    GreaterThan,
    /// `key<1`.
    LessThan,
}

/// One condition on one label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    key: CompactString,
    operator: Operator,
    /// Sorted, each once.
    values: Vec<CompactString>,
    /// The number of `GreaterThan` and `LessThan`.
    bound: i64,
}

impl Requirement {
    /// Checks key and values.
    ///
    /// # Errors
    /// When the key is no label key, a value no label value, or their number does not fit the operator.
    pub fn new(key: &str, operator: Operator, mut values: Vec<CompactString>) -> Result<Self, SelectorError> {
        values.sort();
        values.dedup();
        let mut errors = FieldErrors::new();
        let broken = names::qualified_name(key);
        if !broken.is_empty() {
            errors.invalid(&Path::new("key"), key, broken.join("; "));
        }
        let path = Path::new("values");
        let list = || values.iter().map(|value| Value::from(value.as_str())).collect::<Vec<_>>();
        let mut bound = 0;
        match operator {
            Operator::In | Operator::NotIn if values.is_empty() => {
                errors.invalid(&path, list(), "for 'in', 'notin' operators, values set can't be empty");
            }
            Operator::Equals | Operator::DoubleEquals | Operator::NotEquals if values.len() != 1 => {
                errors.invalid(&path, list(), "exact-match compatibility requires one single value");
            }
            Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
                errors.invalid(&path, list(), "values set must be empty for exists and does not exist");
            }
            Operator::GreaterThan | Operator::LessThan => match values.as_slice() {
                [one] => match one.parse() {
                    Ok(number) => bound = number,
                    Err(_) => errors.invalid(
                        &path.index(0),
                        one.as_str(),
                        "for 'Gt', 'Lt' operators, the value must be an integer",
                    ),
                },
                _ => errors.invalid(&path, list(), "for 'Gt', 'Lt' operators, exactly one value is required"),
            },
            _ => {}
        }
        for (at, value) in values.iter().enumerate() {
            let broken = names::label_value(value);
            if !broken.is_empty() {
                errors.invalid(&path.index(at).key(key), value.as_str(), broken.join("; "));
            }
        }
        if errors.is_empty() {
            return Ok(Self { key: key.into(), operator, values, bound });
        }
        Err(SelectorError(errors.message()))
    }

    /// The label.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// How it compares.
    #[must_use]
    pub const fn operator(&self) -> Operator {
        self.operator
    }

    /// What it compares with, sorted.
    pub fn values(&self) -> impl Iterator<Item = &str> {
        self.values.iter().map(CompactString::as_str)
    }

    /// Whether an object with these labels fulfils it.
    #[must_use]
    pub fn matches(&self, labels: &(impl Labels + ?Sized)) -> bool {
        let value = labels.label(&self.key);
        let has = |value: &str| self.values.iter().any(|known| known == value);
        let number = || value.and_then(|value| value.parse::<i64>().ok());
        match self.operator {
            Operator::In | Operator::Equals | Operator::DoubleEquals => value.is_some_and(has),
            Operator::NotIn | Operator::NotEquals => !value.is_some_and(has),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan => number().is_some_and(|number| number > self.bound),
            Operator::LessThan => number().is_some_and(|number| number < self.bound),
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.operator {
            Operator::DoesNotExist => return write!(f, "!{}", self.key),
            Operator::Exists => return f.write_str(&self.key),
            Operator::In => return write!(f, "{} in ({})", self.key, self.values.join(",")),
            Operator::NotIn => return write!(f, "{} notin ({})", self.key, self.values.join(",")),
            Operator::Equals => "=",
            Operator::DoubleEquals => "==",
            Operator::NotEquals => "!=",
            Operator::GreaterThan => ">",
            Operator::LessThan => "<",
        };
        write!(f, "{}{sign}{}", self.key, self.values.join(","))
    }
}

/// All requirements must hold; without any, everything matches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

impl LabelSelector {
    /// Matches every object.
    #[must_use]
    pub const fn everything() -> Self {
        Self { requirements: Vec::new(), nothing: false }
    }

    /// Matches no object.
    #[must_use]
    pub const fn nothing() -> Self {
        Self { requirements: Vec::new(), nothing: true }
    }

    /// From requirements that were checked.
    #[must_use]
    pub fn new(mut requirements: Vec<Requirement>) -> Self {
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Self { requirements, nothing: false }
    }

    /// Reads `a=b,c in (d,e),!f`.
    ///
    /// # Errors
    /// With upstream's words, for a 400.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        parse::selector(text).map(Self::new)
    }

    /// From a `LabelSelector` object; none matches nothing, an empty one everything.
    ///
    /// # Errors
    /// When a key, operator or value is not valid.
    pub fn from_value(selector: Option<&Value>) -> Result<Self, SelectorError> {
        let Some(selector) = selector.filter(|selector| !selector.is_null()) else { return Ok(Self::nothing()) };
        let mut requirements = Vec::new();
        if let Some(labels) = selector.get("matchLabels").and_then(Value::as_object) {
            for (key, value) in labels.iter() {
                let value = value.as_str().unwrap_or("").into();
                requirements.push(Requirement::new(key, Operator::Equals, vec![value])?);
            }
        }
        for expression in selector.list_at(&["matchExpressions"]) {
            let operator = match expression.str_at(&["operator"]) {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => {
                    return Err(SelectorError(format!("{} is not a valid label selector operator", quote(other))));
                }
            };
            let values = expression.list_at(&["values"]).iter().filter_map(Value::as_str).map(Into::into).collect();
            requirements.push(Requirement::new(expression.str_at(&["key"]), operator, values)?);
        }
        Ok(Self::new(requirements))
    }

    /// From a plain map, as selectors of Services and ReplicationControllers: every label must be equal.
    #[must_use]
    pub fn from_map(labels: Option<&Value>) -> Self {
        let requirement = |(key, value): (&CompactString, &Value)| Requirement {
            key: key.clone(),
            operator: Operator::Equals,
            values: vec![value.as_str().unwrap_or("").into()],
            bound: 0,
        };
        let labels = labels.and_then(Value::as_object);
        Self::new(labels.map(|labels| labels.iter().map(requirement).collect()).unwrap_or_default())
    }

    /// Whether an object with these labels is meant.
    #[must_use]
    pub fn matches(&self, labels: &(impl Labels + ?Sized)) -> bool {
        !self.nothing && self.requirements.iter().all(|requirement| requirement.matches(labels))
    }

    /// Whether every object is meant.
    #[must_use]
    pub const fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    /// Whether no object is meant.
    #[must_use]
    pub const fn is_nothing(&self) -> bool {
        self.nothing
    }

    /// The requirements, sorted by key.
    #[must_use]
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, requirement) in self.requirements.iter().enumerate() {
            if at > 0 {
                f.write_str(",")?;
            }
            write!(f, "{requirement}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Value {
        Value::Object(pairs.iter().map(|(key, value)| ((*key).into(), Value::from(*value))).collect())
    }

    #[test]
    fn selectors_match() {
        let object = labels(&[("a", "1"), ("b", "x"), ("e", "")]);
        let table = [
            ("", true),
            ("a", true),
            ("!a", false),
            ("c", false),
            ("!c", true),
            ("a=1", true),
            ("a==1,b=x", true),
            ("a=1,b=y", false),
            ("b!=y", true),
            ("c!=y", true),
            ("b in (x,y)", true),
            ("b notin (x)", false),
            ("c notin (x)", true),
            ("a>0", true),
            ("a<1", false),
            ("b>0", false),
            ("e=", true),
            ("e in ()", true),
            ("in in (in)", false),
            ("a , b = x", true),
        ];
        for (text, expected) in table {
            let selector = LabelSelector::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(selector.matches(&object), expected, "{text}");
        }
        assert!(!LabelSelector::nothing().matches(&object));
    }

    #[test]
    fn selectors_print_sorted() {
        for (text, printed) in
            [("b in (y,x),a", "a,b in (x,y)"), ("!c", "!c"), ("x>1", "x>1"), ("a notin (b)", "a notin (b)")]
        {
            assert_eq!(LabelSelector::parse(text).unwrap().to_string(), printed);
        }
    }

    #[test]
    fn errors_read_like_upstream() {
        let table = [
            ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
            ("a,", "found '', expected: identifier after ','"),
            ("=a", "found '=', expected: !, identifier, or 'end of string'"),
            ("a in x", "unable to parse requirement: found 'x' expected: '('"),
            ("a=1 b", "found 'b', expected: ',' or 'end of string'"),
            (
                "a>x",
                "unable to parse requirement: values[0]: Invalid value: \"x\": for 'Gt', 'Lt' operators, the value must \
                 be an integer",
            ),
        ];
        for (text, message) in table {
            assert_eq!(LabelSelector::parse(text).unwrap_err().to_string(), message, "{text}");
        }
        let error = LabelSelector::parse("a=-").unwrap_err().to_string();
        assert!(
            error.starts_with("unable to parse requirement: values[0][a]: Invalid value: \"-\": a valid label"),
            "{error}"
        );
        let error = LabelSelector::parse("-=a").unwrap_err().to_string();
        assert!(error.starts_with("unable to parse requirement: <nil>: Invalid value: \"-\": name part"), "{error}");
    }

    #[test]
    fn objects_compile() {
        let json = serde_json::json!({
            "matchLabels": {"a": "1"},
            "matchExpressions": [{"key": "b", "operator": "NotIn", "values": ["x", "y"]}, {"key": "c", "operator": "Exists"}],
        });
        let selector = LabelSelector::from_value(Some(&json.into())).unwrap();
        assert_eq!(selector.to_string(), "a=1,b notin (x,y),c");
        assert!(LabelSelector::from_value(None).unwrap().is_nothing());
        assert!(LabelSelector::from_value(Some(&Value::object())).unwrap().is_everything());
        let bad = serde_json::json!({"matchExpressions": [{"key": "b", "operator": "Like"}]});
        assert_eq!(
            LabelSelector::from_value(Some(&bad.into())).unwrap_err().to_string(),
            "\"Like\" is not a valid label selector operator"
        );
        assert!(LabelSelector::from_map(Some(&labels(&[("a", "b")]))).matches(&labels(&[("a", "b"), ("c", "d")])));
    }
}
