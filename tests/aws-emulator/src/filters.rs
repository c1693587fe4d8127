//! Filters of `Describe` calls: names that the tables allow, values with `*` and `?`.

use crate::ec2::Tags;
use crate::form::Tree;
use crate::iam::matches;

/// The filters of one call: all of them must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Filters(Vec<(String, Vec<String>)>);

impl Filters {
    pub(crate) fn of(form: &Tree) -> Self {
        let owned = |filter: &Tree| {
            let values = filter.list("Value").into_iter().map(str::to_owned).collect();
            (filter.text_or("Name", "").to_owned(), values)
        };
        Self(form.items("Filter").map(owned).collect())
    }

    /// Whether all hold for something with `tags`, whose values for a name are what `field` gives.
    pub(crate) fn hold(&self, tags: &Tags, field: impl Fn(&str) -> Vec<String>) -> bool {
        self.0.iter().all(|(name, wanted)| {
            let fits = |actual: &str| wanted.iter().any(|pattern| matches(pattern, actual));
            if let Some(key) = name.strip_prefix("tag:") {
                return tags.get(key).is_some_and(|value| fits(value));
            }
            if name == "tag-key" {
                return tags.keys().any(|key| fits(key));
            }
            field(name).iter().any(|actual| fits(actual))
        })
    }

    /// The values asked for one name, when they are plain: lets a search begin at an index.
    pub(crate) fn exact(&self, name: &str) -> Option<Vec<&str>> {
        let (_, values) =
            self.0.iter().find(|(it, values)| it == name && !values.iter().any(|v| v.contains(['*', '?'])))?;
        Some(values.iter().map(String::as_str).collect())
    }
}

/// One value, as `hold` wants it.
#[allow(clippy::needless_pass_by_value, reason = "so that callers need not borrow what they make")]
pub(crate) fn one(value: impl ToString) -> Vec<String> {
    vec![value.to_string()]
}

/// A value that may not be there.
#[allow(clippy::needless_pass_by_value, reason = "so that callers need not borrow what they make")]
pub(crate) fn maybe<T: ToString>(value: Option<T>) -> Vec<String> {
    value.iter().map(T::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::form::pairs;

    #[test]
    fn filters_hold() {
        let tags = Tags::from([("Name".to_owned(), "node-1".to_owned())]);
        for (form, want) in [
            ("", true),
            ("Filter.1.Name=tag:Name&Filter.1.Value.1=node-*", true),
            ("Filter.1.Name=tag:Name&Filter.1.Value.1=x&Filter.1.Value.2=node-?", true),
            ("Filter.1.Name=tag:Other&Filter.1.Value.1=*", false),
            ("Filter.1.Name=tag-key&Filter.1.Value.1=Name", true),
            ("Filter.1.Name=state&Filter.1.Value.1=on", true),
            ("Filter.1.Name=state&Filter.1.Value.1=on&Filter.2.Name=tag-key&Filter.2.Value.1=x", false),
            ("Filter.1.Name=state", false),
        ] {
            let filters = Filters::of(&Tree::from_pairs(&pairs(form).unwrap()).unwrap());
            let field = |name: &str| if name == "state" { one("on") } else { Vec::new() };
            assert_eq!(filters.hold(&tags, field), want, "{form}");
        }
        let filters = Filters::of(&Tree::from_pairs(&pairs("Filter.1.Name=a&Filter.1.Value.1=b").unwrap()).unwrap());
        assert_eq!(filters.exact("a"), Some(vec!["b"]));
        assert_eq!(filters.exact("c"), None);
    }
}
