//! The same walk as the JSON decoder's over a tree that is there already: what YAML and patches produce.

use super::error::{Frame, MAX_FINDINGS, ROOT, Step};
use super::{DecodeError, Decoded, Finding, Limits, scalar};
use crate::schema::{FieldType, TypeDef};
use crate::structural::{Mode, child_of, is_envelope};
use crate::{Object, Schema, TypeId, Value};

/// Brings a tree into the form its type has: checked, pruned, canonical.
///
/// # Errors
/// A value of the wrong type, a scalar that does not read, too much depth.
pub fn coerce(schema: &Schema, ty: TypeId, value: Value, limits: &Limits) -> Result<Decoded, DecodeError> {
    let mut walk = Walk { schema, findings: Vec::new(), depth: limits.depth, limit: limits.depth };
    let value = walk.node(&FieldType::Struct(ty), value, &ROOT)?.unwrap_or_default();
    if value.is_null() {
        return Err(ROOT.mismatch(schema, &FieldType::Struct(ty), "null"));
    }
    Ok(Decoded { value, findings: walk.findings })
}

struct Walk<'s> {
    schema: &'s Schema,
    findings: Vec<Finding>,
    depth: usize,
    limit: usize,
}

fn found(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(_) => "bool".into(),
        Value::Int(number) => format!("number {number}"),
        Value::Float(number) => format!("number {number}"),
        Value::String(_) => "string".into(),
        Value::List(_) => "array".into(),
        Value::Object(_) | Value::Raw(_) => "object".into(),
    }
}

impl Walk<'_> {
    fn enter(&mut self) -> Result<(), DecodeError> {
        self.depth = self.depth.checked_sub(1).ok_or(DecodeError::TooDeep { limit: self.limit })?;
        Ok(())
    }

    fn node(&mut self, ty: &FieldType, value: Value, frame: &Frame<'_>) -> Result<Option<Value>, DecodeError> {
        Ok(Some(match (ty, value) {
            (_, Value::Null) => return Ok(None),
            (FieldType::Struct(id), value @ Value::Object(_)) if self.schema.get(*id).structural.is_some() => {
                let ty = self.schema.get(*id);
                let Some(structural) = &ty.structural else { return Ok(Some(value)) };
                let meta = ty.field("metadata").map_or(&FieldType::Any, |field| &field.ty);
                self.led(Mode::of(structural.root()), meta, true, value, frame)?
            }
            (FieldType::Struct(id), Value::Object(object)) => {
                self.enter()?;
                let made = self.object(*id, object, frame)?;
                self.depth += 1;
                Value::Object(made)
            }
            (FieldType::List(inner), Value::List(list)) => {
                self.enter()?;
                let mut made = Vec::with_capacity(list.len());
                for (at, item) in list.into_iter().enumerate() {
                    let item = self.node(inner, item, &frame.then(Step::Index(at)))?;
                    made.push(item.unwrap_or_else(|| scalar::zero(inner)));
                }
                self.depth += 1;
                Value::List(made)
            }
            (FieldType::Map(inner), Value::Object(object)) => {
                self.enter()?;
                let mut made = Object::with_capacity(object.len());
                for (key, member) in object {
                    let member = self.node(inner, member, &frame.then(Step::Key(&key)))?;
                    made.insert(key, member.unwrap_or_else(|| scalar::zero(inner)));
                }
                self.depth += 1;
                Value::Object(made)
            }
            (FieldType::SchemaOrList(id), Value::List(list)) => {
                let list = self.node(&FieldType::List(Box::new(FieldType::Struct(*id))), Value::List(list), frame)?;
                list.unwrap_or_default()
            }
            (FieldType::SchemaOrBool(_), value @ Value::Bool(_)) => value,
            (FieldType::SchemaOrNames(_), Value::List(list)) => {
                let list = self.node(&FieldType::List(Box::new(FieldType::String)), Value::List(list), frame)?;
                list.unwrap_or_default()
            }
            (
                FieldType::SchemaOrList(id) | FieldType::SchemaOrBool(id) | FieldType::SchemaOrNames(id),
                value @ Value::Object(_),
            ) => return self.node(&FieldType::Struct(*id), value, frame),
            (FieldType::FieldsV1, value @ Value::Object(_)) => scalar::raw(&value),
            (FieldType::Any | FieldType::RawExtension | FieldType::FieldsV1 | FieldType::Json, value) => value,
            (ty, value) => return self.scalar(ty, value, frame),
        }))
    }

    /// As the JSON decoder's walk of the same name.
    fn led(
        &mut self,
        mode: Mode<'_>,
        meta: &FieldType,
        embedded: bool,
        value: Value,
        frame: &Frame<'_>,
    ) -> Result<Value, DecodeError> {
        if matches!(mode, Mode::Keep) {
            return Ok(value);
        }
        match value {
            Value::Object(object) => {
                self.enter()?;
                let mut members = Vec::with_capacity(object.len());
                for (key, member) in object {
                    let step = frame.then(Step::Key(&key));
                    let member = if embedded && is_envelope(&key) {
                        let ty = if key == "metadata" { meta } else { &FieldType::String };
                        self.node(ty, member, &step)?
                    } else if let Some(child) = child_of(mode, &key) {
                        Some(self.led(child, meta, child.is_embedded(), member, &step)?)
                    } else {
                        if self.findings.len() < MAX_FINDINGS {
                            self.findings.push(Finding::Unknown(frame.path_of(&key)));
                        }
                        None
                    };
                    members.extend(member.map(|member| (key, member)));
                }
                self.depth += 1;
                Ok(Value::Object(Object::from_sorted(members)))
            }
            Value::List(list) => {
                self.enter()?;
                let inner = mode.items();
                let items = list.into_iter().enumerate();
                let items = items
                    .map(|(at, item)| self.led(inner, meta, inner.is_embedded(), item, &frame.then(Step::Index(at))));
                let items = items.collect::<Result<Vec<Value>, DecodeError>>()?;
                self.depth += 1;
                Ok(Value::List(items))
            }
            other => Ok(other),
        }
    }

    fn scalar(&self, ty: &FieldType, value: Value, frame: &Frame<'_>) -> Result<Option<Value>, DecodeError> {
        let in_frame = |problem: String| frame.scalar(problem);
        Ok(Some(match (ty, value) {
            (FieldType::Bool, value @ Value::Bool(_))
            | (FieldType::String | FieldType::IntOrString | FieldType::Duration, value @ Value::String(_))
            | (FieldType::Int64, value @ Value::Int(_)) => value,
            (FieldType::Int32 | FieldType::IntOrString, Value::Int(number)) if i32::try_from(number).is_ok() => {
                Value::Int(number)
            }
            (FieldType::Int64 | FieldType::Int32, Value::Float(number))
                if matches!(scalar::float(number), Value::Int(_)) =>
            {
                return self.scalar(ty, scalar::float(number), frame);
            }
            (FieldType::Float, Value::Int(number)) => Value::Int(number),
            (FieldType::Float, Value::Float(number)) => scalar::float(number),
            (FieldType::Bytes, Value::String(text)) => Value::String(scalar::base64_text(&text).map_err(in_frame)?),
            (FieldType::Quantity, Value::String(text)) => Value::String(scalar::quantity(&text).map_err(in_frame)?),
            (FieldType::Quantity, Value::Int(number)) => {
                Value::String(scalar::quantity(&number.to_string()).map_err(in_frame)?)
            }
            (FieldType::Quantity, Value::Float(number)) => {
                Value::String(scalar::quantity(&number.to_string()).map_err(in_frame)?)
            }
            (FieldType::Time, Value::String(text)) => return scalar::time(&text).map_err(in_frame),
            (FieldType::MicroTime, Value::String(text)) => return scalar::micro_time(&text).map_err(in_frame),
            (ty, value) => return Err(frame.mismatch(self.schema, ty, found(&value))),
        }))
    }

    fn object(&mut self, id: TypeId, object: Object, frame: &Frame<'_>) -> Result<Object, DecodeError> {
        let schema = self.schema;
        let ty: &TypeDef = schema.get(id);
        let mut members = Vec::with_capacity(object.len() + ty.always.len());
        for (key, member) in object {
            let Some(field) = ty.field(&key) else {
                if ty.preserve_unknown {
                    members.push((key, member));
                } else if self.findings.len() < MAX_FINDINGS {
                    self.findings.push(Finding::Unknown(frame.path_of(&key)));
                }
                continue;
            };
            let step = frame.then(Step::Member(&field.name, id));
            if let Some(member) = self.node(&field.ty, member, &step)?
                && !scalar::is_left_out(field, &member)
            {
                members.push((key, member));
            }
        }
        let mut object = Object::from_members(members);
        for (at, zero) in &ty.always {
            let name = &ty.fields[usize::from(*at)].name;
            if !object.contains(name) {
                object.insert(name.clone(), zero.clone());
            }
        }
        Ok(object)
    }
}
