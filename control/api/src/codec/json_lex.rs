//! JSON's words: white space, names, numbers, strings. Knows neither types nor depth.

use super::DecodeError;
use crate::{Key, Value};

/// A member's name as it stands in the text, or made from escapes.
#[derive(Debug)]
pub(super) enum Name<'t> {
    Plain(&'t str),
    Made(Key),
}

impl std::ops::Deref for Name<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Self::Plain(text) => text,
            Self::Made(text) => text,
        }
    }
}

impl From<Name<'_>> for Key {
    fn from(name: Name<'_>) -> Self {
        match name {
            Name::Plain(text) => Key::new(text),
            Name::Made(text) => text,
        }
    }
}

/// Reads one word after another.
#[derive(Debug)]
pub(super) struct Lexer<'t> {
    text: &'t str,
    bytes: &'t [u8],
    at: usize,
}

impl<'t> Lexer<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { text, bytes: text.as_bytes(), at: 0 }
    }

    /// How far the text is read.
    pub(super) fn offset(&self) -> usize {
        self.at
    }

    /// The text from an earlier offset to here.
    pub(super) fn since(&self, from: usize) -> &'t str {
        &self.text[from..self.at]
    }

    /// Steps over a byte that was looked at.
    pub(super) fn skip(&mut self) {
        self.at += 1;
    }

    pub(super) fn byte(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    pub(super) fn space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.byte() {
            self.at += 1;
        }
    }

    pub(super) fn unexpected(&self, looking_for: &str) -> DecodeError {
        let problem = self.text.get(self.at..).and_then(|rest| rest.chars().next()).map_or_else(
            || "unexpected end of JSON input".to_owned(),
            |c| format!("invalid character {c:?} {looking_for}"),
        );
        DecodeError::Syntax { problem, offset: self.at }
    }

    pub(super) fn end(&mut self) -> Result<(), DecodeError> {
        self.space();
        if self.at < self.bytes.len() { Err(self.unexpected("after top-level value")) } else { Ok(()) }
    }

    /// Steps to the next member's value and returns its name, or past the end of the object.
    pub(super) fn next_key(&mut self, first: &mut bool) -> Result<Option<Name<'t>>, DecodeError> {
        self.space();
        match (self.byte(), *first) {
            (Some(b'}'), _) => {
                self.at += 1;
                return Ok(None);
            }
            (Some(b','), false) => {
                self.at += 1;
                self.space();
            }
            (_, true) => {}
            _ => return Err(self.unexpected("after object key:value pair")),
        }
        *first = false;
        if self.byte() != Some(b'"') {
            return Err(self.unexpected("looking for beginning of object key string"));
        }
        let key = self.text()?;
        self.space();
        if self.byte() != Some(b':') {
            return Err(self.unexpected("after object key"));
        }
        self.at += 1;
        Ok(Some(key))
    }

    /// Steps to the next element, or past the end of the list.
    pub(super) fn next_item(&mut self, first: &mut bool) -> Result<bool, DecodeError> {
        self.space();
        match (self.byte(), *first) {
            (Some(b']'), _) => {
                self.at += 1;
                Ok(false)
            }
            (Some(b','), false) => {
                self.at += 1;
                self.space();
                if self.byte() == Some(b']') {
                    Err(self.unexpected("looking for beginning of value"))
                } else {
                    Ok(true)
                }
            }
            (_, true) => {
                *first = false;
                Ok(true)
            }
            _ => Err(self.unexpected("after array element")),
        }
    }

    pub(super) fn word(&mut self, word: &str) -> Result<(), DecodeError> {
        for expected in word.bytes() {
            if self.byte() != Some(expected) {
                return Err(self.unexpected("in literal"));
            }
            self.at += 1;
        }
        Ok(())
    }

    pub(super) fn boolean(&mut self) -> Result<Value, DecodeError> {
        let truth = self.byte() == Some(b't');
        self.word(if truth { "true" } else { "false" })?;
        Ok(Value::Bool(truth))
    }

    fn digits(&mut self) -> Result<(), DecodeError> {
        let start = self.at;
        while self.byte().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at == start { Err(self.unexpected("in numeric literal")) } else { Ok(()) }
    }

    pub(super) fn number(&mut self) -> Result<&'t str, DecodeError> {
        let start = self.at;
        if self.byte() == Some(b'-') {
            self.at += 1;
        }
        if self.byte() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.byte() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.byte() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.byte() {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(&self.text[start..self.at])
    }

    pub(super) fn string(&mut self) -> Result<Key, DecodeError> {
        Ok(match self.text()? {
            Name::Plain(text) => Key::new(text),
            Name::Made(text) => text,
        })
    }

    /// A string, borrowed where it has no escapes.
    pub(super) fn text(&mut self) -> Result<Name<'t>, DecodeError> {
        self.at += 1;
        let start = self.at;
        while let Some(byte) = self.byte() {
            match byte {
                b'"' => {
                    let text = &self.text[start..self.at];
                    self.at += 1;
                    return Ok(Name::Plain(text));
                }
                b'\\' => return self.escaped(start).map(Name::Made),
                0..0x20 => return Err(self.unexpected("in string literal")),
                _ => self.at += 1,
            }
        }
        Err(self.unexpected("in string literal"))
    }

    fn escaped(&mut self, start: usize) -> Result<Key, DecodeError> {
        let mut out = String::from(&self.text[start..self.at]);
        let mut plain = self.at;
        while let Some(byte) = self.byte() {
            match byte {
                b'"' => {
                    out.push_str(&self.text[plain..self.at]);
                    self.at += 1;
                    return Ok(out.into());
                }
                b'\\' => {
                    out.push_str(&self.text[plain..self.at]);
                    self.at += 1;
                    let c = self.escape()?;
                    out.push(c);
                    plain = self.at;
                }
                0..0x20 => return Err(self.unexpected("in string literal")),
                _ => self.at += 1,
            }
        }
        Err(self.unexpected("in string literal"))
    }

    fn escape(&mut self) -> Result<char, DecodeError> {
        let c = match self.byte() {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.unicode(),
            _ => return Err(self.unexpected("in string escape code")),
        };
        self.at += 1;
        Ok(c)
    }

    /// `\u` with four digits; halves of a pair are joined, a lone half becomes the replacement character.
    fn unicode(&mut self) -> Result<char, DecodeError> {
        let high = self.four_hex()?;
        if !(0xD800..0xDC00).contains(&high) {
            return Ok(char::from_u32(high).unwrap_or(char::REPLACEMENT_CHARACTER));
        }
        if self.bytes.get(self.at..self.at + 2) != Some(b"\\u") {
            return Ok(char::REPLACEMENT_CHARACTER);
        }
        let back = self.at;
        self.at += 1;
        let low = self.four_hex()?;
        if !(0xDC00..0xE000).contains(&low) {
            self.at = back;
            return Ok(char::REPLACEMENT_CHARACTER);
        }
        Ok(char::from_u32(0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00)).unwrap_or(char::REPLACEMENT_CHARACTER))
    }

    fn four_hex(&mut self) -> Result<u32, DecodeError> {
        self.at += 1;
        let mut code = 0;
        for _ in 0..4 {
            let digit = self.byte().and_then(|byte| char::from(byte).to_digit(16));
            let Some(digit) = digit else { return Err(self.unexpected("in \\u hexadecimal character escape")) };
            code = code * 16 + digit;
            self.at += 1;
        }
        Ok(code)
    }
}
