//! JSON to protobuf in one pass, the schema at hand: no tree in between. For objects that we wrote ourselves; what
//! is no JSON of the type is an error, or left out as [`super::encode_proto_body`] leaves it out. Never checks more.
//!
//! A list of ten thousand pods that nobody had read in protobuf before took 25 us a pod through a tree, most of it
//! for nodes that lived for a few microseconds.

use super::error::ROOT;
use super::json_decode::Parser;
use super::proto_encode::Writer;
use super::wire::{put_bytes, put_message, put_number};
use super::{DecodeError, Limits};
use crate::schema::{Field, FieldType, Inline, TypeDef};
use crate::{Schema, TypeId};

/// Appends the protobuf message, without its envelope, of an object of type `ty` that is at hand as JSON.
///
/// # Errors
/// What is no JSON, or nested deeper than `limits` allow.
pub fn json_to_proto(
    schema: &Schema,
    ty: TypeId,
    json: &[u8],
    limits: &Limits,
    out: &mut Vec<u8>,
) -> Result<(), DecodeError> {
    let text = std::str::from_utf8(json)
        .map_err(|error| DecodeError::Syntax { problem: "no UTF-8".into(), offset: error.valid_up_to() })?;
    Transcoder { parser: Parser::new(schema, text, limits), schema }.object(schema.get(ty), out)
}

/// A member of a message that JSON flattens into its parent: its position among the fields, and its text.
type Flattened<'t> = (u16, &'t str);

struct Transcoder<'s, 't> {
    parser: Parser<'s, 't>,
    schema: &'s Schema,
}

impl<'s, 't> Transcoder<'s, 't> {
    fn object(&mut self, ty: &'s TypeDef, out: &mut Vec<u8>) -> Result<(), DecodeError> {
        if self.next_byte() != Some(b'{') {
            return self.parser.skip(&ROOT);
        }
        self.parser.enter()?;
        let (mut first, mut at) = (true, 0);
        let mut flattened: Vec<Flattened<'t>> = Vec::new();
        while let Some(key) = self.parser.lex.next_key(&mut first)? {
            // Both sides are in order of name, so one walk finds nearly every member's field.
            while ty.fields.get(at).is_some_and(|field| *field.name < *key) {
                at += 1;
            }
            let here = ty.fields.get(at).is_some_and(|field| *field.name == *key).then_some(at);
            match here.or_else(|| ty.position(&key)) {
                Some(found) if ty.fields[found].proto > 0 => {
                    let field = &ty.fields[found];
                    self.member(field, field.proto, out)?;
                }
                Some(found) if !ty.inlines.is_empty() => {
                    flattened.push((u16::try_from(found).unwrap_or(u16::MAX), self.text()?));
                }
                _ => self.parser.skip(&ROOT)?,
            }
        }
        self.parser.leave();
        ty.inlines.iter().try_for_each(|inline| self.inline(ty, inline, &flattened, out))
    }

    fn inline(
        &self,
        ty: &'s TypeDef,
        inline: &'s Inline,
        flattened: &[Flattened<'t>],
        out: &mut Vec<u8>,
    ) -> Result<(), DecodeError> {
        put_message(inline.number, out, |out| {
            for (number, at) in &inline.members {
                let Some((_, text)) = flattened.iter().find(|(position, _)| position == at) else { continue };
                let mut inner = Self { parser: self.parser.within(text), schema: self.schema };
                inner.member(&ty.fields[usize::from(*at)], *number, out)?;
            }
            inline.inner.iter().try_for_each(|inner| self.inline(ty, inner, flattened, out))
        })
    }

    fn member(&mut self, field: &'s Field, number: u32, out: &mut Vec<u8>) -> Result<(), DecodeError> {
        match (&field.ty, self.next_byte()) {
            (_, Some(b'n')) => self.parser.skip(&ROOT),
            (FieldType::List(inner), Some(b'[')) => self.items(|this| this.single(inner, number, out)),
            (FieldType::Map(inner), Some(b'{')) => self.map(inner, number, out),
            (ty, _) => self.single(ty, number, out),
        }
    }

    fn items(&mut self, mut each: impl FnMut(&mut Self) -> Result<(), DecodeError>) -> Result<(), DecodeError> {
        self.parser.enter()?;
        let mut first = true;
        while self.parser.lex.next_item(&mut first)? {
            each(self)?;
        }
        self.parser.leave();
        Ok(())
    }

    fn map(&mut self, inner: &'s FieldType, number: u32, out: &mut Vec<u8>) -> Result<(), DecodeError> {
        self.parser.enter()?;
        let mut first = true;
        while let Some(key) = self.parser.lex.next_key(&mut first)? {
            put_message(number, out, |out| {
                put_bytes(1, key.as_bytes(), out);
                match inner {
                    // A list as a map's value is a message of one list.
                    FieldType::List(element) => put_message(2, out, |out| match self.next_byte() {
                        Some(b'[') => self.items(|this| this.single(element, 1, out)),
                        _ => self.parser.skip(&ROOT),
                    }),
                    inner => self.single(inner, 2, out),
                }
            })?;
        }
        self.parser.leave();
        Ok(())
    }

    fn single(&mut self, ty: &'s FieldType, number: u32, out: &mut Vec<u8>) -> Result<(), DecodeError> {
        match (ty, self.next_byte()) {
            (FieldType::String, Some(b'"')) => put_bytes(number, self.parser.lex.text()?.as_bytes(), out),
            (FieldType::Quantity, Some(b'"')) => {
                let text = self.parser.lex.text()?;
                put_message(number, out, |out| put_bytes(1, text.as_bytes(), out));
            }
            (FieldType::Bool, Some(first @ (b't' | b'f'))) => {
                self.parser.skip(&ROOT)?;
                put_number(number, u64::from(first == b't'), out);
            }
            (FieldType::Struct(id), Some(b'{')) => {
                let ty = self.schema.get(*id);
                put_message(number, out, |out| self.object(ty, out))?;
            }
            (FieldType::FieldsV1, Some(b'{')) => {
                let text = self.text()?;
                put_message(number, out, |out| put_bytes(1, text.as_bytes(), out));
            }
            // What is seldom, or means more in protobuf than its text: the encoder of trees knows how.
            (ty, _) => {
                let value = self.parser.any(&ROOT, false)?;
                Writer { schema: self.schema }.single(ty, number, &value, out);
            }
        }
        Ok(())
    }

    fn next_byte(&mut self) -> Option<u8> {
        self.parser.lex.space();
        self.parser.lex.byte()
    }

    /// The next value as it stands.
    fn text(&mut self) -> Result<&'t str, DecodeError> {
        self.parser.lex.space();
        let from = self.parser.lex.offset();
        self.parser.skip(&ROOT)?;
        Ok(self.parser.lex.since(from))
    }
}
