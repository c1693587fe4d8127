//! Reading the tables: tab-separated text with one header line, written by the project's own generator, so a
//! malformed line is a mistake of ours and is reported with its number.

use std::collections::{HashMap, HashSet};

use super::build::{PendingInline, SchemaBuilder};
use super::{Field, FieldType, ListKind, PatchStrategy, TypeId};
use crate::{Key, Value};

/// Embedded messages nest this deep at most.
const MAX_INLINE_DEPTH: usize = 4;

const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";
const EXTENSIONS: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.";

/// Packages whose types the OpenAPI document leaves out but requests and answers carry.
const EXTRA_PACKAGES: [&str; 5] = [
    "io.k8s.api.core.v1.",
    "io.k8s.apimachinery.pkg.apis.meta.v1.",
    "io.k8s.api.apidiscovery.v2.",
    "io.k8s.api.admission.v1.",
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.Conversion",
];

/// The text of the tables that describe types. Empty text is an empty table.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tables {
    /// `type, kind_of, map_type, unions, gvk`.
    pub types: &'static str,
    /// `type, field, json_type, required, default, enum, proto_number, proto_type, list_type, list_map_keys,
    /// map_type, patch_strategy, patch_merge_key`.
    pub fields: &'static str,
    /// `type, field, proto_number, proto_type`: what protobuf has and JSON does not.
    pub proto_only: &'static str,
    /// `type, pointer, pointer_omitempty, omitempty, omitzero`: names of members, comma-separated. A member
    /// that is not listed is never left out. A type that is not listed at all has optional members only.
    pub shape: &'static str,
    /// `type, field, description`, sorted; see the module of descriptions for what types and fields may be.
    pub descriptions: &'static str,
}

/// A table that does not read.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// A line has too few columns or a number that is none.
    #[error("{table} table, line {line}: {problem}")]
    Line {
        /// Which table.
        table: &'static str,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A type is used but never described.
    #[error("type {0} is used in the tables but described nowhere")]
    UnknownType(String),
}

type ProtoRows = HashMap<&'static str, Vec<(&'static str, u32, &'static str)>>;

/// Rows of a table without its header, split into at least `columns` columns.
pub(crate) fn rows(
    table: &'static str,
    text: &'static str,
    columns: usize,
) -> impl Iterator<Item = Result<Vec<&'static str>, TableError>> {
    text.lines().enumerate().skip(1).filter(|(_, line)| !line.is_empty()).map(move |(at, line)| {
        let cells: Vec<&'static str> = line.split('\t').collect();
        if cells.len() < columns {
            return Err(TableError::Line { table, line: at + 1, problem: "too few columns" });
        }
        Ok(cells)
    })
}

fn number(table: &'static str, text: &str) -> Result<u32, TableError> {
    if text.is_empty() {
        return Ok(0);
    }
    text.parse().map_err(|_| TableError::Line { table, line: 0, problem: "protobuf number is no number" })
}

impl SchemaBuilder {
    /// Adds the types of `tables`.
    ///
    /// # Errors
    /// A line that does not read, or a type that is used and not described.
    pub fn add_tables(&mut self, tables: &Tables) -> Result<(), TableError> {
        if !tables.descriptions.is_empty() {
            self.descriptions.push(tables.descriptions);
        }
        let mut proto: ProtoRows = HashMap::new();
        for row in rows("proto-only", tables.proto_only, 4) {
            let row = row?;
            proto.entry(row[0]).or_default().push((row[1], number("proto-only", row[2])?, row[3]));
        }
        let shapes = read_shapes(tables.shape)?;
        let mut described = HashSet::new();
        for row in rows("types", tables.types, 3) {
            let row = row?;
            let id = self.declare(Key::const_new(row[0]));
            if let Some(ty) = self.type_mut(id) {
                ty.atomic = row[2] == "atomic";
                described.insert(row[0]);
            }
        }
        let mut extra: Vec<&'static str> = proto
            .keys()
            .copied()
            .filter(|name| EXTRA_PACKAGES.iter().any(|package| name.starts_with(package)))
            .collect();
        extra.sort_unstable();
        for name in extra {
            self.declare(Key::const_new(name));
        }
        self.add_fields(tables.fields, &shapes, &mut proto)?;
        let mut names: Vec<&'static str> = proto.keys().copied().collect();
        names.sort_unstable();
        for name in names {
            self.add_proto_only(name, &proto, &shapes, &described)?;
        }
        Ok(())
    }

    fn add_fields(&mut self, text: &'static str, shapes: &Shapes, proto: &mut ProtoRows) -> Result<(), TableError> {
        for row in rows("fields", text, 13) {
            let row = row?;
            let ty = self.field_type(row[2])?;
            let (pointer, mut omit_empty) = shapes.of(row[0], row[1]);
            if matches!(ty, FieldType::Time | FieldType::MicroTime) && !pointer {
                // Go leaves a time out for being zero, not for being empty.
                omit_empty = shapes.is_left_out_when_zero(row[0], row[1]);
            }
            let mut field = Field {
                name: Key::const_new(row[1]),
                ty,
                required: row[3] == "yes",
                default: (!row[4].is_empty())
                    .then(|| serde_json::from_str::<serde_json::Value>(row[4]).ok())
                    .flatten()
                    .map(Value::from),
                allowed: row[5].split(',').filter(|name| !name.is_empty()).map(Key::const_new).collect(),
                pointer,
                omit_empty,
                list: list_kind(row[8], row[9]),
                atomic: row[10] == "atomic",
                granular: row[10] == "granular",
                patch: patch_strategy(row[11], row[12]),
                proto: number("fields", row[6])?,
            };
            if field.proto == 0 {
                field.proto = take_renamed(proto, row[0], row[1]);
            }
            let id = self.declare(Key::const_new(row[0]));
            if let Some(ty) = self.type_mut(id) {
                ty.fields.push(field);
            }
        }
        Ok(())
    }

    /// Rows of the protobuf table for one type: the members of a type OpenAPI leaves out, or the messages
    /// embedded in one it has.
    fn add_proto_only(
        &mut self,
        name: &'static str,
        proto: &ProtoRows,
        shapes: &Shapes,
        described: &HashSet<&str>,
    ) -> Result<(), TableError> {
        let Some(id) = self.id(name) else { return Ok(()) };
        let Some(rows) = proto.get(name) else { return Ok(()) };
        if !described.contains(name) {
            for (member, number, ty) in rows {
                let (pointer, omit_empty) = shapes.of(name, member);
                let Some(ty) = self.proto_type(ty)? else { continue };
                let field = Field { pointer, omit_empty, proto: *number, ..Field::new(Key::const_new(member), ty) };
                if let Some(ty) = self.type_mut(id) {
                    ty.fields.push(field);
                }
            }
            let carries_kind = rows.iter().any(|(member, ..)| *member == "metadata")
                || name.ends_with("Options")
                || name.ends_with("Review");
            if let Some(ty) = self.type_mut(id).filter(|_| carries_kind) {
                ty.fields.push(Field::new("apiVersion", FieldType::String));
                ty.fields.push(Field::new("kind", FieldType::String));
            }
            return Ok(());
        }
        for (_, number, ty) in rows {
            if let Some(message) = message_name(ty).filter(|_| !ty.starts_with("repeated ")) {
                let members = self.members_of(&message, proto, 0);
                self.inline(id, *number, members);
            }
        }
        Ok(())
    }

    fn members_of(&mut self, message: &str, proto: &ProtoRows, depth: usize) -> Vec<PendingInline> {
        let mut members = Vec::new();
        if depth > MAX_INLINE_DEPTH {
            return members;
        }
        let described =
            self.id(message).and_then(|id| self.type_mut(id).map(|ty| ty.fields.clone())).unwrap_or_default();
        for field in &described {
            if field.proto > 0 {
                members.push(PendingInline::Member(field.proto, field.name.clone()));
            }
        }
        for (member, number, ty) in proto.get(message).map(Vec::as_slice).unwrap_or_default() {
            if described.iter().any(|field| field.name == *member) {
                continue;
            }
            members.push(PendingInline::Member(*number, Key::const_new(member)));
            let inner = message_name(ty).filter(|_| !ty.starts_with("repeated ") && !ty.starts_with("map<"));
            if let Some(inner) = inner.filter(|_| !described.is_empty() || message.ends_with("RuleWithOperations")) {
                members.pop();
                let nested = self.members_of(&inner, proto, depth + 1);
                members.push(PendingInline::Inner(*number, nested));
            }
        }
        members
    }

    fn field_type(&mut self, text: &'static str) -> Result<FieldType, TableError> {
        if let Some(inner) = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
            return Ok(FieldType::List(Box::new(self.field_type(inner)?)));
        }
        if let Some(inner) = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')) {
            return Ok(FieldType::Map(Box::new(self.field_type(inner)?)));
        }
        Ok(match text {
            "string" => FieldType::String,
            "boolean" => FieldType::Bool,
            "integer:int32" => FieldType::Int32,
            "integer:int64" | "integer" => FieldType::Int64,
            "number:double" | "number" => FieldType::Float,
            "string:byte" => FieldType::Bytes,
            "string:date-time" => FieldType::Time,
            "any" | "object" | "" => FieldType::Any,
            "any:int-or-string" => FieldType::IntOrString,
            name => self.named_type(Key::const_new(name)),
        })
    }

    fn named_type(&mut self, name: Key) -> FieldType {
        if name == QUANTITY {
            return FieldType::Quantity;
        }
        if let Some(short) = name.strip_prefix(META) {
            match short {
                "Time" => return FieldType::Time,
                "MicroTime" => return FieldType::MicroTime,
                "Duration" => return FieldType::Duration,
                "FieldsV1" => return FieldType::FieldsV1,
                _ => {}
            }
        }
        if let Some(short) = name.strip_prefix(EXTENSIONS) {
            let schema = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";
            match short {
                "JSON" => return FieldType::Json,
                "JSONSchemaPropsOrArray" => return FieldType::SchemaOrList(self.declare(schema)),
                "JSONSchemaPropsOrBool" => return FieldType::SchemaOrBool(self.declare(schema)),
                "JSONSchemaPropsOrStringArray" => return FieldType::SchemaOrNames(self.declare(schema)),
                _ => {}
            }
        }
        match name.as_str() {
            "io.k8s.apimachinery.pkg.runtime.RawExtension" => FieldType::RawExtension,
            "io.k8s.apimachinery.pkg.util.intstr.IntOrString" => FieldType::IntOrString,
            other if other.ends_with(".ExtraValue") => FieldType::List(Box::new(FieldType::String)),
            _ => FieldType::Struct(self.declare(name)),
        }
    }

    /// The type of a protobuf column; `None` for types no table describes.
    fn proto_type(&mut self, text: &'static str) -> Result<Option<FieldType>, TableError> {
        if let Some(inner) = text.strip_prefix("repeated ") {
            return Ok(self.proto_type(inner)?.map(|inner| FieldType::List(Box::new(inner))));
        }
        if let Some(inner) = text.strip_prefix("map<string,").and_then(|text| text.strip_suffix('>')) {
            return Ok(self.proto_type(inner)?.map(|inner| FieldType::Map(Box::new(inner))));
        }
        Ok(Some(match text {
            "string" => FieldType::String,
            "bool" => FieldType::Bool,
            "int32" => FieldType::Int32,
            "int64" => FieldType::Int64,
            "double" => FieldType::Float,
            "bytes" => FieldType::Bytes,
            name => {
                let Some(name) = message_name(name) else { return Ok(None) };
                self.named_type(name.into())
            }
        }))
    }
}

/// The OpenAPI name of a protobuf message: `.k8s.io.api.core.v1.Pod` is `io.k8s.api.core.v1.Pod`.
fn message_name(proto: &str) -> Option<String> {
    let path = proto.trim_start_matches("repeated ").trim_start_matches('.').strip_prefix("k8s.io.")?;
    Some(format!(
        "io.k8s.{}",
        path.replacen("apiextensions_apiserver", "apiextensions-apiserver", 1).replacen(
            "kube_aggregator",
            "kube-aggregator",
            1
        )
    ))
}

/// The protobuf number of a member whose protobuf name differs only in case or dashes, taken from the table.
fn take_renamed(proto: &mut ProtoRows, ty: &str, field: &str) -> u32 {
    let plain = |name: &str| name.replace(['-', '$'], "").to_lowercase();
    let Some(rows) = proto.get_mut(ty) else { return 0 };
    rows.iter().position(|(name, ..)| plain(name) == plain(field)).map_or(0, |at| rows.remove(at).1)
}

fn list_kind(kind: &str, keys: &'static str) -> ListKind {
    match kind {
        "map" => ListKind::Map(keys.split(',').filter(|key| !key.is_empty()).map(Key::const_new).collect()),
        "set" => ListKind::Set,
        _ => ListKind::Atomic,
    }
}

fn patch_strategy(strategy: &str, key: &'static str) -> PatchStrategy {
    PatchStrategy {
        merge: strategy.split(',').any(|part| part == "merge"),
        replace: strategy.split(',').any(|part| part == "replace"),
        retain_keys: strategy.split(',').any(|part| part == "retainKeys"),
        merge_key: (!key.is_empty()).then(|| Key::const_new(key)),
    }
}

/// Which members are behind pointers, and which are left out when zero.
struct Shapes(HashMap<&'static str, [&'static str; 4]>);

impl Shapes {
    fn is_left_out_when_zero(&self, ty: &str, field: &str) -> bool {
        self.0.get(ty).is_none_or(|columns| columns[3].split(',').any(|name| name == field))
    }

    fn of(&self, ty: &str, field: &str) -> (bool, bool) {
        let Some(columns) = self.0.get(ty) else { return (true, true) };
        let listed = |at: usize| columns[at].split(',').any(|name| name == field);
        if listed(0) {
            (true, false)
        } else if listed(1) {
            (true, true)
        } else if listed(2) {
            (false, true)
        } else {
            // A zero time is the only thing `omitzero` is used for, and a zero time is always absent here.
            (false, listed(3))
        }
    }
}

fn read_shapes(text: &'static str) -> Result<Shapes, TableError> {
    let mut shapes = HashMap::new();
    for row in rows("shape", text, 5) {
        let row = row?;
        shapes.insert(row[0], [row[1], row[2], row[3], row[4]]);
    }
    Ok(Shapes(shapes))
}

impl TypeId {
    /// The id as a number, for tables of one's own.
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}
