//! Field names as identifiers: what JSON allows and the expression language does not is spelled in
//! words between double underscores.

use std::borrow::Cow;

/// Words of the language that no identifier may be.
const RESERVED: [&str; 21] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "false",
    "for",
    "function",
    "if",
    "import",
    "in",
    "let",
    "loop",
    "namespace",
    "null",
    "package",
    "return",
    "true",
    "var",
    "void",
    "while",
];

/// How an expression spells a field of this name; `None` when it cannot.
#[must_use]
pub fn escape(name: &str) -> Option<Cow<'_, str>> {
    if name.is_empty() || name.starts_with(|first: char| first.is_ascii_digit()) {
        return None;
    }
    if RESERVED.binary_search(&name).is_ok() {
        return Some(Cow::Owned(format!("__{name}__")));
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.chars().all(plain) && !name.contains("__") {
        return Some(Cow::Borrowed(name));
    }
    let mut escaped = String::with_capacity(name.len() + 16);
    let mut rest = name;
    while let Some(first) = rest.chars().next() {
        let (word, taken) = match first {
            '_' if rest.starts_with("__") => ("__underscores__", 2),
            '.' => ("__dot__", 1),
            '-' => ("__dash__", 1),
            '/' => ("__slash__", 1),
            c if plain(c) => {
                escaped.push(c);
                ("", 1)
            }
            _ => return None,
        };
        escaped.push_str(word);
        rest = &rest[taken..];
    }
    Some(Cow::Owned(escaped))
}

/// The field that an expression spells so; `None` when nothing is spelled so.
#[must_use]
pub fn unescape(escaped: &str) -> Option<Cow<'_, str>> {
    if !escaped.contains("__") {
        return Some(Cow::Borrowed(escaped));
    }
    let mut name = String::with_capacity(escaped.len());
    let mut rest = escaped;
    while let Some(at) = rest.find("__") {
        name.push_str(&rest[..at]);
        let word = &rest[at + 2..];
        let Some(end) = word.find("__").filter(|end| *end > 0 && !word[..*end].contains('_')) else {
            name.push_str("__");
            rest = word;
            continue;
        };
        match &word[..end] {
            "underscores" => name.push_str("__"),
            "dot" => name.push('.'),
            "dash" => name.push('-'),
            "slash" => name.push('/'),
            reserved if RESERVED.binary_search(&reserved).is_ok() => {
                return (reserved.len() + 4 == escaped.len()).then(|| Cow::Owned(reserved.to_owned()));
            }
            _ => return None,
        }
        rest = &word[end + 2..];
    }
    name.push_str(rest);
    Some(Cow::Owned(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back() {
        for (name, escaped) in [
            ("a", Some("a")),
            ("namespace", Some("__namespace__")),
            ("a-b.c/d", Some("a__dash__b__dot__c__slash__d")),
            ("a__b", Some("a__underscores__b")),
            ("_a_", Some("_a_")),
            ("1a", None),
            ("", None),
            ("a b", None),
            ("ü", None),
        ] {
            assert_eq!(escape(name).as_deref(), escaped, "{name}");
            if let Some(escaped) = escaped {
                assert_eq!(unescape(escaped).as_deref(), Some(name), "{escaped}");
            }
        }
        assert_eq!(unescape("__nothing__"), None);
        assert_eq!(unescape("a__namespace__"), None);
    }
}
