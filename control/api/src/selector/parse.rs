//! The text form of label selectors.

use compact_str::CompactString;

use super::labels::{Operator, Requirement, SelectorError};
use crate::fieldpath::{FieldErrors, Path};
use crate::names;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    Symbol(&'static str),
    /// A run of symbols that means nothing.
    Garbage(&'a str),
    End,
}

impl Token<'_> {
    fn text(&self) -> String {
        match self {
            Token::Word(text) => (*text).to_owned(),
            Token::Symbol(text) => (*text).to_owned(),
            Token::Garbage(text) => format!("error expected: keyword found '{text}'"),
            Token::End => String::new(),
        }
    }
}

const SYMBOLS: [&str; 9] = ["==", "!=", "=", "!", "(", ")", ",", ">", "<"];

fn is_symbol(c: char) -> bool {
    matches!(c, '=' | '!' | '(' | ')' | ',' | '>' | '<')
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

struct Parser<'a> {
    rest: &'a str,
    next: Token<'a>,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Self {
        let mut parser = Self { rest: text, next: Token::End };
        parser.next = parser.lex();
        parser
    }

    fn lex(&mut self) -> Token<'a> {
        self.rest = self.rest.trim_start_matches(is_space);
        let Some(first) = self.rest.chars().next() else { return Token::End };
        if is_symbol(first) {
            if let Some(symbol) = SYMBOLS.iter().find(|symbol| self.rest.starts_with(**symbol)) {
                self.rest = &self.rest[symbol.len()..];
                return Token::Symbol(symbol);
            }
            let length = self.rest.find(|c| !is_symbol(c)).unwrap_or(self.rest.len());
            let (garbage, rest) = self.rest.split_at(length);
            self.rest = rest;
            return Token::Garbage(garbage);
        }
        let length = self.rest.find(|c| is_symbol(c) || is_space(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(length);
        self.rest = rest;
        Token::Word(word)
    }

    fn take(&mut self) -> Token<'a> {
        let after = self.lex();
        std::mem::replace(&mut self.next, after)
    }

    fn ends_requirement(&self) -> bool {
        matches!(self.next, Token::End | Token::Symbol(","))
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let mut first = self.take();
        let absent = first == Token::Symbol("!");
        if absent {
            first = self.take();
        }
        let Token::Word(key) = first else { return Err(format!("found '{}', expected: identifier", first.text())) };
        let broken = names::qualified_name(key);
        if !broken.is_empty() {
            let mut errors = FieldErrors::new();
            errors.invalid(&Path::root(), key, broken.join("; "));
            return Err(errors.message());
        }
        let (operator, values) = if absent {
            (Operator::DoesNotExist, Vec::new())
        } else if self.ends_requirement() {
            (Operator::Exists, Vec::new())
        } else {
            self.comparison()?
        };
        Requirement::new(key, operator, values).map_err(|error| error.0)
    }

    fn comparison(&mut self) -> Result<(Operator, Vec<CompactString>), String> {
        let token = self.take();
        let operator = match token {
            Token::Word("in") => return Ok((Operator::In, self.set()?)),
            Token::Word("notin") => return Ok((Operator::NotIn, self.set()?)),
            Token::Symbol("=") => Operator::Equals,
            Token::Symbol("==") => Operator::DoubleEquals,
            Token::Symbol("!=") => Operator::NotEquals,
            Token::Symbol(">") => Operator::GreaterThan,
            Token::Symbol("<") => Operator::LessThan,
            _ => return Err(format!("found '{}', expected: in, notin, =, ==, !=, gt, lt", token.text())),
        };
        if self.ends_requirement() {
            return Ok((operator, vec![CompactString::default()]));
        }
        match self.take() {
            Token::Word(value) => Ok((operator, vec![value.into()])),
            other => Err(format!("found '{}', expected: identifier", other.text())),
        }
    }

    /// `(a,b)`; an empty place between commas is an empty value.
    fn set(&mut self) -> Result<Vec<CompactString>, String> {
        let open = self.take();
        if open != Token::Symbol("(") {
            return Err(format!("found '{}' expected: '('", open.text()));
        }
        if !matches!(self.next, Token::Word(_) | Token::Symbol("," | ")")) {
            return Err(format!("found '{}', expected: ',', ')' or identifier", self.next.text()));
        }
        let mut values = Vec::new();
        loop {
            if let Token::Word(value) = self.next {
                values.push(value.into());
                self.take();
            } else {
                values.push(CompactString::default());
            }
            match self.take() {
                Token::Symbol(",") => {}
                Token::Symbol(")") => return Ok(values),
                other => return Err(format!("found '{}', expected: ',' or ')'", other.text())),
            }
        }
    }
}

/// Reads a whole selector.
pub(super) fn selector(text: &str) -> Result<Vec<Requirement>, SelectorError> {
    let mut parser = Parser::new(text);
    let mut requirements = Vec::new();
    loop {
        match parser.next {
            Token::End => return Ok(requirements),
            Token::Word(_) | Token::Symbol("!") => {
                let requirement = parser.requirement();
                requirements
                    .push(requirement.map_err(|why| SelectorError(format!("unable to parse requirement: {why}")))?);
            }
            other => {
                let found = other.text();
                return Err(SelectorError(format!("found '{found}', expected: !, identifier, or 'end of string'")));
            }
        }
        match parser.take() {
            Token::End => return Ok(requirements),
            Token::Symbol(",") => {
                if !matches!(parser.next, Token::Word(_) | Token::Symbol("!")) {
                    let found = parser.next.text();
                    return Err(SelectorError(format!("found '{found}', expected: identifier after ','")));
                }
            }
            other => {
                let found = other.text();
                return Err(SelectorError(format!("found '{found}', expected: ',' or 'end of string'")));
            }
        }
    }
}
