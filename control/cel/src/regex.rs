//! Regular expressions: RE2's syntax, as upstream has it, on an engine of linear time.

use std::sync::Arc;

use crate::error::EvalError;

/// Most memory that one compiled expression may take.
const COMPILED_LIMIT_BYTES: usize = 2 * 1024 * 1024;

/// A compiled expression and its source.
#[derive(Debug)]
pub struct Pattern {
    source: Arc<str>,
    compiled: regex::Regex,
}

impl Pattern {
    pub(crate) fn compile(source: &str) -> Result<Self, EvalError> {
        let compiled = regex::RegexBuilder::new(&translate(source)).size_limit(COMPILED_LIMIT_BYTES).build();
        let compiled = compiled.map_err(|error| {
            let last = error.to_string();
            let last = last.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            EvalError::failed(format!("error parsing regexp: {last}: `{source}`"))
        })?;
        Ok(Self { source: source.into(), compiled })
    }

    pub(crate) fn source(&self) -> &str {
        &self.source
    }

    pub(crate) fn regex(&self) -> &regex::Regex {
        &self.compiled
    }
}

/// RE2's `\d`, `\w`, `\s` and `\b` mean ASCII, and its character classes do not nest.
fn translate(source: &str) -> String {
    let mut out = String::with_capacity(source.len() + 16);
    let mut chars = source.chars().peekable();
    let mut in_class = false;
    let mut class_start = false;
    while let Some(c) = chars.next() {
        let starts = std::mem::take(&mut class_start);
        match c {
            '\\' => match chars.next() {
                Some('d') => out.push_str("[0-9]"),
                Some('D') => out.push_str("[^0-9]"),
                Some('w') => out.push_str("[0-9A-Za-z_]"),
                Some('W') => out.push_str("[^0-9A-Za-z_]"),
                Some('s') => out.push_str("[\\t\\n\\x0C\\r\\x20]"),
                Some('S') => out.push_str("[^\\t\\n\\x0C\\r\\x20]"),
                Some(b @ ('b' | 'B')) if !in_class => {
                    out.push_str(if b == 'b' { "(?-u:\\b)" } else { "(?-u:\\B)" });
                }
                Some('Q') if !in_class => quote(&mut chars, &mut out),
                Some(other) => {
                    out.push('\\');
                    out.push(other);
                }
                None => out.push('\\'),
            },
            '[' if !in_class => {
                in_class = true;
                class_start = true;
                out.push('[');
                if chars.peek() == Some(&'^') {
                    chars.next();
                    out.push('^');
                }
            }
            '[' if chars.peek() == Some(&':') => posix(&mut chars, &mut out),
            '[' => out.push_str("\\["),
            // The first bracket of a class stands for itself.
            ']' if in_class && starts => out.push_str("\\]"),
            ']' if in_class => {
                in_class = false;
                out.push(']');
            }
            '&' | '~' if in_class => {
                out.push('\\');
                out.push(c);
            }
            c => out.push(c),
        }
    }
    out
}

fn quote(chars: &mut std::iter::Peekable<std::str::Chars<'_>>, out: &mut String) {
    while let Some(c) = chars.next() {
        if c == '\\' && chars.peek() == Some(&'E') {
            chars.next();
            return;
        }
        out.push_str(&regex::escape(c.encode_utf8(&mut [0; 4])));
    }
}

fn posix(chars: &mut std::iter::Peekable<std::str::Chars<'_>>, out: &mut String) {
    out.push('[');
    for c in chars.by_ref() {
        out.push(c);
        if c == ']' {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_those_of_re2() {
        for (pattern, text, found) in [
            (r"^\d+$", "12", true),
            (r"^\d$", "٣", false),
            (r"^[\w.-]+$", "a_b.c-d", true),
            (r"^[]a]+$", "]a", true),
            (r"^[a[]+$", "[a", true),
            (r"^[[:alpha:]]+$", "ab", true),
            (r"^[a&&b]+$", "&ab", true),
            (r"^\Qa.b\E$", "a.b", true),
            (r"^\Qa.b\E$", "axb", false),
            (r"\bfoo\b", "a foo b", true),
            (r"^\pL+$", "äb", true),
            (r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "a-b", true),
        ] {
            let pattern = Pattern::compile(pattern).expect("compiles");
            assert_eq!(pattern.regex().is_match(text), found, "{} {text}", pattern.source());
        }
        assert!(Pattern::compile("a(").is_err());
        assert!(Pattern::compile("(a{1000}){1000}").is_err(), "bounded");
    }
}
