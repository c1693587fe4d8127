//! `meta.k8s.io/v1 Table`: how `kubectl get` shows objects, with upstream's columns for built-in kinds and
//! JSONPath columns for custom ones.
//!
//! Never lists and never sorts; `now` is an argument because ages are relative.

mod cluster;
mod columns;
mod duration;
mod jsonpath;
mod network;
mod pods;
mod read;
mod storage;
mod workloads;

use compact_str::CompactString;
use jiff::Timestamp;

pub use duration::{human_duration, short_duration};
pub use jsonpath::{JsonPath, JsonPathError};

use crate::{Object, Value};

/// One column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// The header.
    pub name: CompactString,
    /// `string`, `integer`, `number`, `boolean` or `date`.
    pub kind: CompactString,
    /// A refinement of the type, `name` for the object's name.
    pub format: CompactString,
    /// For people.
    pub description: CompactString,
    /// 0 is always shown, more only in wide output.
    pub priority: i64,
}

/// What each row carries beside its cells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IncludeObject {
    /// Nothing.
    None,
    /// The metadata, as `PartialObjectMetadata`.
    #[default]
    Metadata,
    /// The whole object.
    Object,
}

impl IncludeObject {
    /// From the query parameter `includeObject`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "" | "Metadata" => Some(Self::Metadata),
            "None" => Some(Self::None),
            "Object" => Some(Self::Object),
            _ => None,
        }
    }
}

type Cells = fn(&Value, Timestamp) -> Vec<Value>;

#[derive(Clone, Debug)]
enum Rows {
    BuiltIn(Cells),
    Custom(Vec<(JsonPath, CompactString)>),
}

/// Shows objects of one kind.
#[derive(Clone, Debug)]
pub struct Printer {
    columns: Vec<Column>,
    rows: Rows,
}

impl Printer {
    /// For a kind that every cluster has; kinds without columns of their own show name and creation time.
    #[must_use]
    pub fn builtin(group: &str, kind: &str) -> Self {
        let (columns, cells) = columns::of(group, kind);
        Self { columns: columns::parse(columns), rows: Rows::BuiltIn(cells) }
    }

    /// For a kind declared with `additionalPrinterColumns` (name, type, format, description, priority, jsonPath);
    /// without any, the age is shown.
    ///
    /// # Errors
    /// When a JSONPath cannot be read.
    pub fn custom(declared: &[Value]) -> Result<Self, JsonPathError> {
        let mut columns = columns::parse("Name");
        let mut paths = Vec::with_capacity(declared.len());
        for column in declared {
            let text = |member: &str| CompactString::from(column.str_at(&[member]));
            paths.push((JsonPath::parse(column.str_at(&["jsonPath"]))?, text("type")));
            columns.push(Column {
                name: text("name"),
                kind: text("type"),
                format: text("format"),
                description: text("description"),
                priority: column.int_at(&["priority"]).unwrap_or(0),
            });
        }
        if declared.is_empty() {
            columns.extend(columns::parse("Age@"));
            paths.push((JsonPath::parse(".metadata.creationTimestamp")?, CompactString::const_new("date")));
        }
        Ok(Self { columns, rows: Rows::Custom(paths) })
    }

    /// The columns.
    #[must_use]
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// The cells of one object, one for each column.
    #[must_use]
    pub fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        match &self.rows {
            Rows::BuiltIn(cells) => cells(object, now),
            Rows::Custom(paths) => {
                let name = Value::from(object.str_at(&["metadata", "name"]));
                let cell = |(path, kind): &(JsonPath, CompactString)| custom_cell(path.first(object), kind, now);
                std::iter::once(name).chain(paths.iter().map(cell)).collect()
            }
        }
    }

    /// One row of the table.
    #[must_use]
    pub fn row(&self, object: &Value, include: IncludeObject, now: Timestamp) -> Value {
        let mut row = Object::with_capacity(3);
        row.insert("cells", self.cells(object, now));
        if let Some(condition) = finished(object) {
            row.insert("conditions", vec![condition]);
        }
        match include {
            IncludeObject::None => {}
            IncludeObject::Metadata => {
                row.insert("object", partial_metadata(object));
            }
            IncludeObject::Object => {
                row.insert("object", object.clone());
            }
        }
        row.into()
    }

    /// The table around rows; `metadata` is that of the list. A watch leaves out the headers after its first event.
    #[must_use]
    pub fn table(&self, rows: Vec<Value>, metadata: Value, headers: bool) -> Value {
        let mut table = Object::with_capacity(5);
        table.insert("kind", "Table");
        table.insert("apiVersion", "meta.k8s.io/v1");
        table.insert("metadata", metadata);
        let columns = || Value::List(self.columns.iter().map(Column::to_value).collect());
        table.insert("columnDefinitions", if headers { columns() } else { Value::Null });
        table.insert("rows", rows);
        table.into()
    }
}

impl Column {
    fn to_value(&self) -> Value {
        let mut column = Object::with_capacity(5);
        column.insert("name", self.name.clone());
        column.insert("type", self.kind.clone());
        column.insert("format", self.format.clone());
        column.insert("description", self.description.clone());
        column.insert("priority", self.priority);
        column.into()
    }
}

/// `PartialObjectMetadata` of an object.
#[must_use]
pub fn partial_metadata(object: &Value) -> Value {
    let mut partial = Object::with_capacity(3);
    partial.insert("kind", "PartialObjectMetadata");
    partial.insert("apiVersion", "meta.k8s.io/v1");
    partial.insert("metadata", object.get("metadata").cloned().unwrap_or_else(Value::object));
    partial.into()
}

/// A pod that ended is marked, so that clients can leave it out.
fn finished(object: &Value) -> Option<Value> {
    if object.str_at(&["kind"]) != "Pod" {
        return None;
    }
    let (reason, message) = match object.str_at(&["status", "phase"]) {
        "Succeeded" => ("Succeeded", "The pod has completed successfully."),
        "Failed" => ("Failed", "The pod failed."),
        _ => return None,
    };
    let mut condition = Object::with_capacity(4);
    condition.insert("type", "Completed");
    condition.insert("status", "True");
    condition.insert("reason", reason);
    condition.insert("message", message);
    Some(condition.into())
}

fn custom_cell(value: Option<&Value>, kind: &str, now: Timestamp) -> Value {
    match (kind, value) {
        (_, None | Some(Value::Null)) => Value::Null,
        ("date", Some(Value::String(text))) => Value::from(read::since(text, now)),
        ("integer", Some(Value::Float(number))) => Value::Int(*number as i64),
        ("integer" | "number", Some(value @ (Value::Int(_) | Value::Float(_)))) => value.clone(),
        ("boolean", Some(value @ Value::Bool(_))) => value.clone(),
        ("string", Some(value @ Value::String(_))) => value.clone(),
        ("string", Some(value)) => Value::from(serde_json::to_string(value).unwrap_or_default()),
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn custom_columns_follow_their_paths() {
        let columns = json!([
            {"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"},
            {"name": "Size", "type": "integer", "jsonPath": ".spec.size", "priority": 1},
            {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
            {"name": "Gone", "type": "string", "jsonPath": ".spec.none"},
        ]);
        let columns = Value::from(columns);
        let printer = Printer::custom(columns.as_list().unwrap()).unwrap();
        assert_eq!(
            printer.columns().iter().map(|c| c.name.as_str()).collect::<Vec<_>>(),
            ["Name", "Ready", "Size", "Age", "Gone"]
        );
        let object = Value::from(json!({
            "metadata": {"name": "a", "creationTimestamp": "1970-01-01T00:00:00Z"},
            "spec": {"size": 3}, "status": {"conditions": [{"type": "Other"}, {"type": "Ready", "status": "True"}]},
        }));
        let now = Timestamp::from_second(90).unwrap();
        let cells = serde_json::Value::from(&Value::from(printer.cells(&object, now)));
        assert_eq!(cells, json!(["a", "True", 3, "90s", null]));
        let plain = Printer::custom(&[]).unwrap();
        let cells = serde_json::Value::from(&Value::from(plain.cells(&object, now)));
        assert_eq!(cells, json!(["a", "90s"]));
    }

    #[test]
    fn a_table_has_columns_and_rows() {
        let printer = Printer::builtin("", "ConfigMap");
        let object = Value::from(json!({"kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "v"}}));
        let row = printer.row(&object, IncludeObject::Metadata, Timestamp::UNIX_EPOCH);
        let table = serde_json::Value::from(&printer.table(vec![row], Value::object(), true));
        assert_eq!(table["columnDefinitions"][1]["name"], "Data");
        assert_eq!(table["rows"][0]["cells"], json!(["a", 1, "<unknown>"]));
        assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    }

    #[test]
    fn cells_and_columns_agree_for_every_kind() {
        for line in include_str!("../tables/resources.tsv").lines().skip(1) {
            let mut fields = line.split('\t');
            let (group, kind) = (fields.next().unwrap(), fields.nth(2).unwrap());
            let printer = Printer::builtin(group, kind);
            let cells = printer.cells(&Value::object(), Timestamp::UNIX_EPOCH);
            assert_eq!(cells.len(), printer.columns().len(), "{group} {kind}");
        }
    }
}
