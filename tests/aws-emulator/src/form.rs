//! Parameters of a call: percent-coding, and the flat form as a tree. What is allowed is `table`'s to say.

use crate::error::{AwsError, refuse};
use std::collections::BTreeMap;

/// The most parameters of one call.
const MAX_PARAMETERS: usize = 20_000;
/// The deepest nesting of one parameter's name.
const MAX_DEPTH: usize = 10;

/// Pairs of a form or a query string, decoded, in their order.
pub(crate) fn pairs(text: &str) -> Result<Vec<(String, String)>, AwsError> {
    let pairs: Vec<_> = text
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| Some((decode(name)?, decode(value)?)))
        .collect::<Option<_>>()
        .ok_or_else(|| refuse("MalformedQueryString", "The query string contains a syntax error."))?;
    if pairs.len() > MAX_PARAMETERS {
        return Err(refuse("MalformedQueryString", "The request has too many parameters."));
    }
    Ok(pairs)
}

/// Text without its percent-coding; `None` when that is broken.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                u8::try_from(digit(rest.next())? * 16 + digit(rest.next())?).ok()?
            }
            plain => plain,
        });
    }
    String::from_utf8(bytes).ok()
}

/// Percent-codes as signatures want it: all but letters, digits and `-_.~`.
pub(crate) fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// Parameters as a tree: `Filter.1.Name` is the member `Name` of the first item of `Filter`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tree {
    value: Option<String>,
    members: BTreeMap<String, Tree>,
    items: BTreeMap<u32, Tree>,
}

impl Tree {
    /// The tree of `pairs`. The `member` level of the query services is left out, so that both styles read alike.
    pub(crate) fn from_pairs(pairs: &[(String, String)]) -> Result<Self, AwsError> {
        let mut root = Self::default();
        for (name, value) in pairs {
            if name.split('.').count() > MAX_DEPTH {
                return Err(refuse("UnknownParameter", format!("The parameter {name} is not recognized")));
            }
            let mut at = &mut root;
            for step in name.split('.').filter(|step| *step != "member") {
                at = match step.parse::<u32>() {
                    Ok(index) => at.items.entry(index).or_default(),
                    Err(_) => at.members.entry(step.to_owned()).or_default(),
                };
            }
            if at.value.replace(value.clone()).is_some() {
                return Err(refuse("InvalidParameterCombination", format!("The parameter {name} occurs twice")));
            }
        }
        Ok(root)
    }

    /// The node at `path`, names joined by dots.
    pub(crate) fn at(&self, path: &str) -> Option<&Self> {
        path.split('.').try_fold(self, |tree, step| tree.members.get(step))
    }

    /// This node's own value.
    pub(crate) fn own(&self) -> Option<&str> {
        self.value.as_deref()
    }

    /// The value at `path`.
    pub(crate) fn text(&self, path: &str) -> Option<&str> {
        self.at(path)?.own()
    }

    /// The value at `path`, or nothing.
    pub(crate) fn text_or<'a>(&'a self, path: &str, otherwise: &'a str) -> &'a str {
        self.text(path).unwrap_or(otherwise)
    }

    /// The number at `path`, which the table checked.
    pub(crate) fn number(&self, path: &str) -> Option<i64> {
        self.text(path)?.parse().ok()
    }

    /// The number at `path` when it fits.
    pub(crate) fn small<T: TryFrom<i64>>(&self, path: &str) -> Option<T> {
        T::try_from(self.number(path)?).ok()
    }

    /// The truth at `path`, which the table checked.
    pub(crate) fn flag(&self, path: &str) -> Option<bool> {
        self.text(path).map(|text| text.eq_ignore_ascii_case("true"))
    }

    /// The items at `path`, in the order of their numbers.
    pub(crate) fn items(&self, path: &str) -> impl Iterator<Item = &Self> {
        self.at(path).into_iter().flat_map(|tree| tree.items.values())
    }

    /// The values of the items at `path`.
    pub(crate) fn list(&self, path: &str) -> Vec<&str> {
        self.items(path).filter_map(Self::own).collect()
    }

    /// Whether there is anything at `path`.
    pub(crate) fn has(&self, path: &str) -> bool {
        self.at(path).is_some()
    }

    /// Keeps the first half (rounded up) of the items at `path`; whether that left any out.
    pub(crate) fn halve(&mut self, path: &str) -> bool {
        let Some(tree) = path.split('.').try_fold(self, |tree, step| tree.members.get_mut(step)) else { return false };
        let keep: Vec<u32> = tree.items.keys().copied().take(tree.items.len().div_ceil(2)).collect();
        let halved = keep.len() < tree.items.len();
        tree.items.retain(|index, _| keep.contains(index));
        halved
    }

    /// Copies what `other` has and this has not: a launch template under a request. Lists are taken whole.
    pub(crate) fn fill_from(&mut self, other: &Self) {
        if self.value.is_none() && self.members.is_empty() && self.items.is_empty() {
            *self = other.clone();
            return;
        }
        for (name, theirs) in &other.members {
            self.members.entry(name.clone()).or_default().fill_from(theirs);
        }
    }

    /// Sets the value at `path`.
    pub(crate) fn set(&mut self, path: &str, value: &str) {
        let mut at = self;
        for step in path.split('.') {
            at = match step.parse::<u32>() {
                Ok(index) => at.items.entry(index).or_default(),
                Err(_) => at.members.entry(step.to_owned()).or_default(),
            };
        }
        at.value = Some(value.to_owned());
    }

    /// Takes what stands at the top-level name `name` out.
    pub(crate) fn take(&mut self, name: &str) -> Option<Self> {
        self.members.remove(name)
    }

    /// The members with their names.
    pub(crate) fn named(&self) -> impl Iterator<Item = (&str, &Self)> {
        self.members.iter().map(|(name, below)| (name.as_str(), below))
    }

    /// The items in the order of their numbers.
    pub(crate) fn numbered(&self) -> impl Iterator<Item = &Self> {
        self.items.values()
    }

    /// Visits every value with its name as on the wire (without `member`).
    pub(crate) fn visit(&self, name: &str, see: &mut dyn FnMut(&str, &str)) {
        if let Some(value) = &self.value {
            see(name, value);
        }
        let below = |step: &str| if name.is_empty() { step.to_owned() } else { format!("{name}.{step}") };
        for (index, item) in &self.items {
            item.visit(&below(&index.to_string()), see);
        }
        for (step, member) in &self.members {
            member.visit(&below(step), see);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(form: &str) -> Tree {
        Tree::from_pairs(&pairs(form).unwrap()).unwrap()
    }

    #[test]
    fn a_form_becomes_a_tree() {
        let tree = tree("Filter.2.Value.1=b&Filter.10.Value.1=c&Filter.1.Name=a%2Fb+c&Tags.member.1.Key=k&Size=10");
        let names: Vec<_> = tree.items("Filter").map(|filter| filter.text_or("Name", "-")).collect();
        assert_eq!(names, ["a/b c", "-", "-"]);
        assert_eq!(tree.items("Tags").next().unwrap().text("Key"), Some("k"));
        assert_eq!(tree.number("Size"), Some(10));
        let mut seen = Vec::new();
        tree.visit("", &mut |name, value| seen.push(format!("{name}={value}")));
        assert_eq!(
            seen,
            ["Filter.1.Name=a/b c", "Filter.2.Value.1=b", "Filter.10.Value.1=c", "Size=10", "Tags.1.Key=k"]
        );
    }

    #[test]
    fn broken_forms_are_refused() {
        for (form, code) in [("a=%zz", "MalformedQueryString"), ("a=%ff", "MalformedQueryString")] {
            assert_eq!(pairs(form).unwrap_err().code, code, "{form}");
        }
        let twice = Tree::from_pairs(&pairs("a=1&a=2").unwrap());
        assert_eq!(twice.unwrap_err().code, "InvalidParameterCombination");
        assert!(Tree::from_pairs(&[("a.b.c.d.e.f.g.h.i.j.k".into(), String::new())]).is_err());
    }

    #[test]
    fn a_template_fills_what_a_request_leaves_open() {
        let mut request = tree("InstanceType=m5.large&SecurityGroupId.1=sg-1");
        request
            .fill_from(&tree("InstanceType=t3.micro&SecurityGroupId.1=sg-2&SecurityGroupId.2=sg-3&Placement.Zone=a"));
        assert_eq!(request, tree("InstanceType=m5.large&SecurityGroupId.1=sg-1&Placement.Zone=a"));
    }

    #[test]
    fn a_list_can_be_halved() {
        let mut tree = tree("R.1=a&R.2=b&R.3=c");
        assert!(tree.halve("R"));
        assert_eq!(tree.list("R"), ["a", "b"]);
        assert!(!Tree::default().halve("R"));
    }

    #[test]
    fn percent_coding_is_that_of_signatures() {
        assert_eq!(encode("a b/c~d*é"), "a%20b%2Fc~d%2A%C3%A9");
    }
}
