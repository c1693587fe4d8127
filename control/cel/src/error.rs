//! What is wrong with an expression, and with its evaluation.

use std::fmt;

/// An expression's text, with what messages need of it.
#[derive(Clone, Debug)]
pub(crate) struct Source(std::sync::Arc<str>);

impl Source {
    pub(crate) fn new(text: &str) -> Self {
        Self(text.into())
    }

    pub(crate) fn text(&self) -> &str {
        &self.0
    }

    /// Line from 1 and column from 0, in characters, of an offset in characters.
    fn position(&self, at: u32) -> (usize, usize) {
        let (mut line, mut column) = (1, 0);
        for c in self.0.chars().take(at as usize) {
            if c == '\n' {
                (line, column) = (line + 1, 0);
            } else {
                column += 1;
            }
        }
        (line, column)
    }
}

/// One fault of an expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompileError {
    /// What is wrong, without where.
    pub message: String,
    /// Line from 1; 0 when the fault has no place.
    pub line: usize,
    /// Column from 0, in characters.
    pub column: usize,
    snippet: String,
}

impl CompileError {
    pub(crate) fn bare(message: String) -> Self {
        Self { message, line: 0, column: 0, snippet: String::new() }
    }

    pub(crate) fn at(source: &Source, at: u32, message: String) -> Self {
        let (line, column) = source.position(at);
        Self::at_line(source, line, column, message)
    }

    pub(crate) fn at_line(source: &Source, line: usize, column: usize, message: String) -> Self {
        let snippet = source.text().lines().nth(line - 1).unwrap_or_default().replace('\t', " ");
        Self { message, line, column, snippet }
    }
}

impl fmt::Display for CompileError {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            return write!(to, "ERROR: <input>:1:1: {}", self.message);
        }
        write!(to, "ERROR: <input>:{}:{}: {}", self.line, self.column + 1, self.message)?;
        if self.snippet.is_empty() {
            return Ok(());
        }
        write!(to, "\n | {}\n | {}^", self.snippet, ".".repeat(self.column))
    }
}

/// Everything that is wrong with an expression, in order of place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct CompileErrors(Vec<CompileError>);

impl CompileErrors {
    /// Most faults that one message spells out.
    const MOST: usize = 100;

    pub(crate) fn new(mut errors: Vec<CompileError>) -> Self {
        errors.sort_by_key(|error| (error.line, error.column));
        Self(errors)
    }

    pub(crate) fn one(error: CompileError) -> Self {
        Self(vec![error])
    }

    /// The faults.
    #[must_use]
    pub fn errors(&self) -> &[CompileError] {
        &self.0
    }
}

impl fmt::Display for CompileErrors {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, error) in self.0.iter().take(Self::MOST).enumerate() {
            if at > 0 {
                to.write_str("\n")?;
            }
            error.fmt(to)?;
        }
        if self.0.len() > Self::MOST {
            write!(to, "\n{} more errors were truncated", self.0.len() - Self::MOST)?;
        }
        Ok(())
    }
}

/// Why an evaluation has no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    /// The expression costs more than it may.
    #[error("operation cancelled: actual cost limit exceeded")]
    CostLimit,
    /// The expression faults on this input.
    #[error("{0}")]
    Failed(String),
}

impl EvalError {
    /// A fault with this text.
    #[must_use]
    pub fn failed(text: impl Into<String>) -> Self {
        Self::Failed(text.into())
    }

    pub(crate) fn no_such_key(key: impl fmt::Display) -> Self {
        Self::Failed(format!("no such key: {key}"))
    }

    pub(crate) fn no_such_overload() -> Self {
        Self::Failed("no such overload".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_show_where_they_are() {
        let source = Source::new("a &&\n b.c");
        let error = CompileError::at(&source, 7, "undefined field 'c'".to_owned());
        assert_eq!(error.to_string(), "ERROR: <input>:2:3: undefined field 'c'\n |  b.c\n | ..^");
    }
}
