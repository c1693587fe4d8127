//! Regular expressions as schemas write them, in Go's dialect.
//!
//! The two dialects share their roots; where they differ, the text is rewritten. Compiled on first use: real
//! schemas have hundreds of patterns of which an object meets few.

use std::sync::OnceLock;

use regex::Regex;

/// Bytes of a compiled expression; Go has no such bound, but a tenant must not take the process's memory.
const MAX_COMPILED: usize = 4 << 20;

/// A pattern.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: String,
    compiled: OnceLock<Result<Regex, String>>,
}

impl Pattern {
    /// From its text.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self { text: text.to_owned(), compiled: OnceLock::new() }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether text matches somewhere.
    ///
    /// # Errors
    /// Why the pattern is none.
    pub fn matches(&self, text: &str) -> Result<bool, &str> {
        self.regex().map(|regex| regex.is_match(text))
    }

    fn regex(&self) -> Result<&Regex, &str> {
        let compile = || {
            let built = regex::RegexBuilder::new(&translate(&self.text)).size_limit(MAX_COMPILED).build();
            built.map_err(|error| error.to_string())
        };
        self.compiled.get_or_init(compile).as_ref().map_err(String::as_str)
    }

    /// What is wrong with the pattern, if anything.
    #[must_use]
    pub fn problem(&self) -> Option<&str> {
        self.regex().err()
    }
}

/// What is wrong with a pattern, if anything.
pub(crate) fn problem_of_pattern(text: &str) -> Option<String> {
    Pattern::new(text).problem().map(str::to_owned)
}

/// Go's dialect in the words of the crate: ASCII classes, literal braces, brackets within classes.
fn translate(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len() + 16);
    let (mut at, mut class, mut class_start) = (0, false, 0);
    while at < chars.len() {
        let c = chars[at];
        match c {
            '\\' => {
                let Some(next) = chars.get(at + 1) else {
                    out.push('\\');
                    break;
                };
                out.push_str(&escape(*next, class));
                at += 2;
                continue;
            }
            '[' if !class => {
                class = true;
                class_start = at;
                out.push('[');
                if chars.get(at + 1) == Some(&'^') {
                    out.push('^');
                    at += 1;
                    class_start = at;
                }
            }
            '[' if chars.get(at + 1) == Some(&':') => {
                // A POSIX class goes over whole.
                let end = chars[at..].iter().position(|c| *c == ']').map_or(chars.len(), |end| at + end + 1);
                out.extend(&chars[at..end]);
                at = end;
                continue;
            }
            '[' => out.push_str("\\["),
            ']' if class && at == class_start + 1 => out.push_str("\\]"),
            ']' if class => {
                class = false;
                out.push(']');
            }
            '&' | '~' if class => out.extend(['\\', c]),
            '-' if class && chars.get(at + 1) == Some(&'-') => out.push_str("\\-"),
            '{' if !class && !is_repetition(&chars[at..]) => out.push_str("\\{"),
            '}' if !class && !closes_repetition(&chars[..at]) => out.push_str("\\}"),
            c => out.push(c),
        }
        at += 1;
    }
    out
}

fn escape(c: char, class: bool) -> String {
    let bare = match c {
        'd' => Some("0-9"),
        'w' => Some("0-9A-Za-z_"),
        's' => Some("\\t\\n\\x0C\\r "),
        _ => None,
    };
    match (c, bare, class) {
        (_, Some(set), true) => set.to_owned(),
        (_, Some(set), false) => format!("[{set}]"),
        ('D', ..) => "[^0-9]".to_owned(),
        ('W', ..) => "[^0-9A-Za-z_]".to_owned(),
        ('S', ..) => "[^\\t\\n\\x0C\\r ]".to_owned(),
        ('b' | 'B', _, false) => format!("(?-u:\\{c})"),
        ('Q' | 'E' | 'C', ..) => String::new(),
        ('_' | '<' | '>' | '"' | '\'' | '/' | ' ' | '@' | ',' | ';' | '=' | '%' | '!' | ':', ..) => c.to_string(),
        _ => format!("\\{c}"),
    }
}

/// `{2}`, `{2,}`, `{2,3}` at the start of `chars`.
fn is_repetition(chars: &[char]) -> bool {
    let Some(end) = chars.iter().position(|c| *c == '}') else { return false };
    let inner: String = chars[1..end].iter().collect();
    let (from, to) = inner.split_once(',').unwrap_or((&inner, ""));
    let digits = |text: &str| text.chars().all(|c| c.is_ascii_digit());
    !from.is_empty() && digits(from) && digits(to)
}

/// Whether a `}` that follows `chars` ends a repetition.
fn closes_repetition(chars: &[char]) -> bool {
    let Some(open) = chars.iter().rposition(|c| *c == '{') else { return false };
    let mut whole: Vec<char> = chars[open..].to_vec();
    whole.push('}');
    is_repetition(&whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gos_dialect_is_understood() {
        for (pattern, text, expected) in [
            ("^[a-z]+$", "abc", true),
            (r"^\d+$", "12", true),
            (r"^\d+$", "\u{664}", false),
            (r"^[\w.-]+$", "a_b-c.d", true),
            (r"^\w$", "\u{e9}", false),
            ("[[]", "[", true),
            ("[^[]", "[", false),
            ("^[]a]+$", "]a", true),
            ("^a{2}$", "aa", true),
            ("^a{,2}$", "a{,2}", true),
            (r"^\$\{x\}$", "${x}", true),
            ("^{x}$", "{x}", true),
            (r"^a\/b$", "a/b", true),
            ("^[[:alpha:]]+$", "abC", true),
            ("^[a&&b]+$", "a&b", true),
            ("^((0|([1-9][0-9]*))(h|m|s))+$", "5m10s", true),
            (r"^(\*|(?:[a-z]|[a-z][a-z0-9\-]*))$", "a-b", true),
        ] {
            assert_eq!(Pattern::new(pattern).matches(text), Ok(expected), "{pattern} {text}");
        }
        assert!(Pattern::new("(").problem().is_some());
        assert!(Pattern::new("(?!x)").problem().is_some(), "no look-around in either dialect");
    }
}
