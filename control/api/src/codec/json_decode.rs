//! JSON to [`Value`] in one pass, the schema at hand: no tree in between, members land in their final order.

use super::error::{Frame, MAX_FINDINGS, ROOT, Step};
use super::json_lex::Lexer;
use super::{DecodeError, Decoded, Finding, Limits, scalar};
use crate::schema::{FieldType, TypeDef};
use crate::structural::{Mode, child_of, is_envelope};
use crate::{Key, Object, Schema, TypeId, Value};

/// Decodes an object of type `ty`.
///
/// # Errors
/// What is no JSON, too large, too deep, or of another type.
pub fn decode_json(schema: &Schema, ty: TypeId, bytes: &[u8], limits: &Limits) -> Result<Decoded, DecodeError> {
    let text = utf8(bytes, limits)?;
    let mut parser = Parser::new(schema, &text, limits);
    let expected = FieldType::Struct(ty);
    let value = parser.value(&expected, &ROOT)?;
    parser.lex.end()?;
    let value = value.ok_or_else(|| ROOT.mismatch(schema, &expected, "null"))?;
    let mut findings = parser.findings;
    if schema.get(ty).structural.is_some() {
        // Upstream finds them in two walks of which the second sorts.
        findings.sort_by(|a, b| (a.is_unknown(), a.path()).cmp(&(b.is_unknown(), b.path())));
    }
    Ok(Decoded { value, findings })
}

/// Decodes any JSON.
///
/// # Errors
/// What is no JSON, too large or too deep.
pub fn decode_json_untyped(bytes: &[u8], limits: &Limits) -> Result<Value, DecodeError> {
    let text = utf8(bytes, limits)?;
    let schema = Schema::default();
    let mut parser = Parser::new(&schema, &text, limits);
    let value = parser.any(&ROOT, false)?;
    parser.lex.end()?;
    Ok(value)
}

/// Decodes the JSON of an object whose type does not matter; sets of owned fields (`metadata.managedFields`) stay
/// text.
///
/// # Errors
/// What is no JSON object, too large or too deep.
pub fn decode_json_object(bytes: &[u8], limits: &Limits) -> Result<Value, DecodeError> {
    let text = utf8(bytes, limits)?;
    let schema = Schema::default();
    let mut parser = Parser::new(&schema, &text, limits);
    parser.text_at = Some(&["metadata", "managedFields", "fieldsV1"]);
    let value = parser.any(&ROOT, false)?;
    parser.lex.end()?;
    Ok(value)
}

/// Decodes any JSON and says which members are there twice.
pub(crate) fn decode_json_findings(bytes: &[u8], limits: &Limits) -> Result<(Value, Vec<Finding>), DecodeError> {
    let text = utf8(bytes, limits)?;
    let schema = Schema::default();
    let mut parser = Parser::new(&schema, &text, limits);
    let value = parser.any(&ROOT, true)?;
    parser.lex.end()?;
    Ok((value, parser.findings))
}

/// `apiVersion` and `kind` of a JSON object, read without decoding the rest into a tree that is kept.
///
/// # Errors
/// What is no JSON object, too large or too deep.
pub fn peek_kind(bytes: &[u8], limits: &Limits) -> Result<(String, String), DecodeError> {
    let text = utf8(bytes, limits)?;
    let schema = Schema::default();
    let mut parser = Parser::new(&schema, &text, limits);
    parser.lex.space();
    let (mut api_version, mut kind) = (String::new(), String::new());
    if parser.lex.byte() != Some(b'{') {
        let found = parser.any(&ROOT, false)?;
        return Err(DecodeError::Root { found: name_of(&found).into(), expected: "struct".into() });
    }
    parser.enter()?;
    let mut first = true;
    while let Some(key) = parser.lex.next_key(&mut first)? {
        parser.lex.space();
        match (&*key, parser.lex.byte()) {
            ("apiVersion", Some(b'"')) => api_version = parser.lex.string()?.into_string(),
            ("kind", Some(b'"')) => kind = parser.lex.string()?.into_string(),
            _ => drop(parser.any(&ROOT, false)?),
        }
        if !api_version.is_empty() && !kind.is_empty() {
            break;
        }
    }
    Ok((api_version, kind))
}

fn name_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Int(_) | Value::Float(_) => "number",
        Value::String(_) => "string",
        Value::List(_) => "array",
        Value::Object(_) | Value::Raw(_) => "object",
    }
}

/// Input as text; what is no UTF-8 is replaced, as Go does.
fn utf8<'b>(bytes: &'b [u8], limits: &Limits) -> Result<std::borrow::Cow<'b, str>, DecodeError> {
    if bytes.len() > limits.bytes {
        return Err(DecodeError::TooLarge { limit: limits.bytes });
    }
    // The lossy way looks at each byte; this one at eight and more.
    Ok(std::str::from_utf8(bytes).map_or_else(|_| String::from_utf8_lossy(bytes), Into::into))
}

/// Members seen of a struct, by position.
struct Seen(u128);

impl Seen {
    /// Marks a position; whether it was marked before. Positions beyond the bitmap are looked for by hand.
    fn mark(&mut self, at: usize, members: &[(u16, Key, Value)]) -> bool {
        let Some(bit) = u32::try_from(at).ok().and_then(|at| 1_u128.checked_shl(at)) else {
            return members.iter().any(|(other, ..)| usize::from(*other) == at);
        };
        let seen = self.0 & bit != 0;
        self.0 |= bit;
        seen
    }

    fn has(&self, at: usize, members: &[(u16, Key, Value)]) -> bool {
        Self(self.0).mark(at, members)
    }
}

pub(super) struct Parser<'s, 't> {
    schema: &'s Schema,
    pub(super) lex: Lexer<'t>,
    depth: usize,
    limit: usize,
    findings: Vec<Finding>,
    /// Members and elements of everything open, in one place each, so that each object allocates once.
    members: Vec<(u16, Key, Value)>,
    items: Vec<Value>,
    /// Members that lead, through lists, to one that stays text; those already behind are cut off.
    text_at: Option<&'static [&'static str]>,
}

impl<'s, 't> Parser<'s, 't> {
    pub(super) fn new(schema: &'s Schema, text: &'t str, limits: &Limits) -> Self {
        Self {
            schema,
            lex: Lexer::new(text),
            depth: limits.depth,
            limit: limits.depth,
            findings: Vec::new(),
            members: Vec::new(),
            items: Vec::new(),
            text_at: None,
        }
    }

    /// A parser of a part of the text, as deep in it as this one is.
    pub(super) fn within(&self, text: &'t str) -> Self {
        let mut inner = Self::new(self.schema, text, &Limits { bytes: usize::MAX, depth: self.limit });
        inner.depth = self.depth;
        inner
    }

    /// A value as text: looked at, but not kept as a tree.
    fn raw(&mut self, frame: &Frame<'_>) -> Result<Value, DecodeError> {
        self.lex.space();
        let from = self.lex.offset();
        self.skip(frame)?;
        Ok(Value::Raw(self.lex.since(from).into()))
    }

    /// Steps over a value.
    pub(super) fn skip(&mut self, frame: &Frame<'_>) -> Result<(), DecodeError> {
        self.lex.space();
        match self.lex.byte() {
            Some(b'{') => {
                self.enter()?;
                let mut first = true;
                while self.lex.next_key(&mut first)?.is_some() {
                    self.skip(frame)?;
                }
                self.leave();
                Ok(())
            }
            Some(b'[') => {
                self.enter()?;
                let mut first = true;
                while self.lex.next_item(&mut first)? {
                    self.skip(frame)?;
                }
                self.leave();
                Ok(())
            }
            Some(b'"') => self.lex.text().map(drop),
            _ => self.any(frame, false).map(drop),
        }
    }

    /// A member of an object that is decoded without a type, or its text.
    fn any_member(&mut self, key: &str, frame: &Frame<'_>, note_duplicates: bool) -> Result<Value, DecodeError> {
        let outer = self.text_at.take();
        match outer.and_then(<[_]>::split_first) {
            Some((name, rest)) if *name == key => {
                if rest.is_empty() {
                    self.lex.space();
                }
                let value = if rest.is_empty() && self.lex.byte() == Some(b'{') {
                    self.raw(frame)
                } else {
                    self.text_at = Some(rest);
                    self.any(frame, note_duplicates)
                };
                self.text_at = outer;
                value
            }
            _ => {
                let value = self.any(frame, note_duplicates);
                self.text_at = outer;
                value
            }
        }
    }

    pub(super) fn enter(&mut self) -> Result<(), DecodeError> {
        self.lex.skip();
        self.depth = self.depth.checked_sub(1).ok_or(DecodeError::TooDeep { limit: self.limit })?;
        Ok(())
    }

    pub(super) fn leave(&mut self) {
        self.depth += 1;
    }

    fn finding(&mut self, finding: Finding) {
        if self.findings.len() < MAX_FINDINGS && !self.findings.contains(&finding) {
            self.findings.push(finding);
        }
    }

    /// A value of a type; `None` for null.
    fn value(&mut self, ty: &FieldType, frame: &Frame<'_>) -> Result<Option<Value>, DecodeError> {
        self.lex.space();
        match (self.lex.byte(), ty) {
            (Some(b'n'), _) => {
                self.lex.word("null")?;
                Ok(None)
            }
            (_, FieldType::Any) => self.any(frame, true).map(Some),
            (Some(b'{'), FieldType::FieldsV1) => self.raw(frame).map(Some),
            (_, FieldType::RawExtension | FieldType::FieldsV1 | FieldType::Json) => self.any(frame, false).map(Some),
            (
                Some(b'{'),
                FieldType::Struct(id)
                | FieldType::SchemaOrList(id)
                | FieldType::SchemaOrBool(id)
                | FieldType::SchemaOrNames(id),
            ) => self.object(*id, frame).map(Some),
            (Some(b'{'), FieldType::Map(inner)) => self.map(inner, frame).map(Some),
            (Some(b'['), FieldType::List(inner)) => self.list(inner, frame).map(Some),
            (Some(b'['), FieldType::SchemaOrList(id)) => self.list(&FieldType::Struct(*id), frame).map(Some),
            (Some(b'['), FieldType::SchemaOrNames(_)) => self.list(&FieldType::String, frame).map(Some),
            (Some(b'"'), _) => self.text_value(ty, frame),
            (Some(b't' | b'f'), FieldType::Bool | FieldType::SchemaOrBool(_)) => self.lex.boolean().map(Some),
            (Some(b'-' | b'0'..=b'9'), _) => self.number_value(ty, frame).map(Some),
            (Some(b't' | b'f' | b'{' | b'['), _) => {
                let found = self.any(frame, false)?;
                Err(frame.mismatch(self.schema, ty, name_of(&found)))
            }
            _ => Err(self.lex.unexpected("looking for beginning of value")),
        }
    }

    fn text_value(&mut self, ty: &FieldType, frame: &Frame<'_>) -> Result<Option<Value>, DecodeError> {
        let text = self.lex.string()?;
        match ty {
            FieldType::String | FieldType::IntOrString | FieldType::Duration => Ok(Some(Value::String(text))),
            FieldType::Bytes => scalar::base64_text(&text).map(|text| Some(Value::String(text))),
            FieldType::Quantity => scalar::quantity(&text).map(|text| Some(Value::String(text))),
            FieldType::Time => scalar::time(&text),
            FieldType::MicroTime => scalar::micro_time(&text),
            _ => return Err(frame.mismatch(self.schema, ty, "string")),
        }
        .map_err(|problem| frame.scalar(problem))
    }

    fn number_value(&mut self, ty: &FieldType, frame: &Frame<'_>) -> Result<Value, DecodeError> {
        let text = self.lex.number()?;
        let mismatch = || frame.mismatch(self.schema, ty, format!("number {text}"));
        match ty {
            FieldType::Int64 => text.parse().map(Value::Int).map_err(|_| mismatch()),
            FieldType::Int32 | FieldType::IntOrString => {
                text.parse::<i32>().map(|number| Value::Int(number.into())).map_err(|_| mismatch())
            }
            FieldType::Float => match text.parse::<f64>() {
                Ok(number) if number.is_finite() => Ok(scalar::float(number)),
                _ => Err(mismatch()),
            },
            FieldType::Quantity => scalar::quantity(text).map(Value::String).map_err(|problem| frame.scalar(problem)),
            _ => Err(frame.mismatch(self.schema, ty, "number")),
        }
    }

    /// Anything, as it is.
    pub(super) fn any(&mut self, frame: &Frame<'_>, note_duplicates: bool) -> Result<Value, DecodeError> {
        self.lex.space();
        match self.lex.byte() {
            Some(b'{') => {
                self.enter()?;
                let start = self.members.len();
                let mut first = true;
                while let Some(key) = self.lex.next_key(&mut first)? {
                    let member = self.any_member(&key, &frame.then(Step::Key(&key)), note_duplicates)?;
                    self.members.push((0, key.into(), member));
                }
                self.leave();
                Ok(self.close_named(start, frame, note_duplicates))
            }
            Some(b'[') => {
                self.enter()?;
                let start = self.items.len();
                let mut first = true;
                while self.lex.next_item(&mut first)? {
                    let step = frame.then(Step::Index(self.items.len() - start));
                    let item = self.any(&step, note_duplicates)?;
                    self.items.push(item);
                }
                self.leave();
                Ok(Value::List(self.items.drain(start..).collect()))
            }
            Some(b'"') => self.lex.string().map(Value::String),
            Some(b't' | b'f') => self.lex.boolean(),
            Some(b'n') => self.lex.word("null").map(|()| Value::Null),
            Some(b'-' | b'0'..=b'9') => {
                let text = self.lex.number()?;
                if let Ok(number) = text.parse::<i64>() {
                    return Ok(Value::Int(number));
                }
                match text.parse::<f64>() {
                    Ok(number) if number.is_finite() => Ok(Value::Float(number)),
                    _ => Err(DecodeError::Root { found: format!("number {text}"), expected: "float64".into() }),
                }
            }
            _ => Err(self.lex.unexpected("looking for beginning of value")),
        }
    }

    fn map(&mut self, inner: &FieldType, frame: &Frame<'_>) -> Result<Value, DecodeError> {
        self.enter()?;
        let start = self.members.len();
        let mut first = true;
        while let Some(key) = self.lex.next_key(&mut first)? {
            let member = self.value(inner, &frame.then(Step::Key(&key)))?;
            self.members.push((0, key.into(), member.unwrap_or_else(|| scalar::zero(inner))));
        }
        self.leave();
        Ok(self.close_named(start, frame, true))
    }

    /// Ends an object whose members are known by name only.
    fn close_named(&mut self, start: usize, frame: &Frame<'_>, note_duplicates: bool) -> Value {
        let open = &mut self.members[start..];
        if !open.is_sorted_by(|a, b| a.1 < b.1) {
            open.sort_by(|a, b| a.1.cmp(&b.1));
            let twice: Vec<Key> =
                open.windows(2).filter(|pair| pair[0].1 == pair[1].1).map(|pair| pair[0].1.clone()).collect();
            if note_duplicates {
                for key in twice {
                    self.finding(Finding::Duplicate(frame.path_of(&key)));
                }
            }
        }
        Value::Object(Object::from_members(self.members.drain(start..).map(|(_, key, member)| (key, member)).collect()))
    }

    fn list(&mut self, inner: &FieldType, frame: &Frame<'_>) -> Result<Value, DecodeError> {
        self.enter()?;
        let start = self.items.len();
        let mut first = true;
        while self.lex.next_item(&mut first)? {
            let step = frame.then(Step::Index(self.items.len() - start));
            let item = self.value(inner, &step)?;
            self.items.push(item.unwrap_or_else(|| scalar::zero(inner)));
        }
        self.leave();
        Ok(Value::List(self.items.drain(start..).collect()))
    }

    fn object(&mut self, id: TypeId, frame: &Frame<'_>) -> Result<Value, DecodeError> {
        let schema = self.schema;
        let ty = schema.get(id);
        if let Some(structural) = &ty.structural {
            let meta = ty.field("metadata").map_or(&FieldType::Any, |field| &field.ty);
            return self.led(Mode::of(structural.root()), meta, true, frame);
        }
        self.enter()?;
        let start = self.members.len();
        let mut seen = Seen(0);
        let (mut first, mut named, mut duplicates) = (true, false, false);
        while let Some(key) = self.lex.next_key(&mut first)? {
            let Some(at) = ty.position(&key) else {
                let member = self.any(&frame.then(Step::Key(&key)), ty.preserve_unknown)?;
                if ty.preserve_unknown {
                    named = true;
                    self.members.push((u16::MAX, key.into(), member));
                } else {
                    self.finding(Finding::Unknown(frame.path_of(&key)));
                }
                continue;
            };
            let field = &ty.fields[at];
            let position = u16::try_from(at).expect("a type has at most hundreds of fields");
            if seen.mark(at, &self.members[start..]) {
                duplicates = true;
                self.finding(Finding::Duplicate(frame.path_of(&key)));
                let mut open = 0;
                self.members.retain(|(other, ..)| {
                    open += 1;
                    open <= start || *other != position
                });
            }
            if let Some(member) = self.value(&field.ty, &frame.then(Step::Member(&field.name, id)))?
                && !scalar::is_left_out(field, &member)
            {
                self.members.push((position, field.name.clone(), member));
            }
        }
        self.leave();
        Ok(self.close_struct(ty, start, &seen, named || duplicates))
    }

    /// A value led by the schema of a custom kind: only the envelope has to have the right types, the rest is
    /// judged later, when all that is wrong can be told at once.
    fn led(
        &mut self,
        mode: Mode<'_>,
        meta: &FieldType,
        embedded: bool,
        frame: &Frame<'_>,
    ) -> Result<Value, DecodeError> {
        self.lex.space();
        match (self.lex.byte(), mode) {
            (Some(b'{'), Mode::By { .. } | Mode::Empty) => {
                self.enter()?;
                let start = self.members.len();
                let mut first = true;
                while let Some(key) = self.lex.next_key(&mut first)? {
                    let step = frame.then(Step::Key(&key));
                    let member = if embedded && is_envelope(&key) {
                        let ty = if &*key == "metadata" { meta } else { &FieldType::String };
                        self.value(ty, &step)?
                    } else if let Some(child) = child_of(mode, &key) {
                        Some(self.led(child, meta, child.is_embedded(), &step)?)
                    } else {
                        self.any(&step, false)?;
                        self.finding(Finding::Unknown(frame.path_of(&key)));
                        None
                    };
                    if let Some(member) = member {
                        self.members.push((0, key.into(), member));
                    }
                }
                self.leave();
                Ok(self.close_named(start, frame, true))
            }
            (Some(b'['), Mode::By { .. } | Mode::Empty) => {
                self.enter()?;
                let start = self.items.len();
                let mut first = true;
                let inner = mode.items();
                while self.lex.next_item(&mut first)? {
                    let step = frame.then(Step::Index(self.items.len() - start));
                    let item = self.led(inner, meta, inner.is_embedded(), &step)?;
                    self.items.push(item);
                }
                self.leave();
                Ok(Value::List(self.items.drain(start..).collect()))
            }
            _ => self.any(frame, true),
        }
    }

    fn close_struct(&mut self, ty: &TypeDef, start: usize, seen: &Seen, by_name: bool) -> Value {
        for (at, zero) in &ty.always {
            // A member that was null counts as absent, so the members decide; the bitmap only saves the look.
            let position = usize::from(*at);
            if !seen.has(position, &self.members[start..])
                || !self.members[start..].iter().any(|(other, ..)| other == at)
            {
                self.members.push((*at, ty.fields[position].name.clone(), zero.clone()));
            }
        }
        if by_name {
            let members = self.members.drain(start..).map(|(_, key, member)| (key, member)).collect();
            return Value::Object(Object::from_members(members));
        }
        let open = &mut self.members[start..];
        if !open.is_sorted_by_key(|(at, ..)| *at) {
            open.sort_unstable_by_key(|(at, ..)| *at);
        }
        Value::Object(Object::from_sorted(self.members.drain(start..).map(|(_, key, member)| (key, member)).collect()))
    }
}
