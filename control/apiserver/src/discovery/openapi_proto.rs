//! OpenAPI version 2 in protobuf, as `openapi.v2.Document` lays it out: older clients, and `kubectl explain` when
//! told to use version 2, read no other form. Pure.
//!
//! The messages are tables of what a member is called in JSON, its number, and how it is written; what is in the
//! document and not in the tables is left out.

use serde_json::{Map, Value as Json};

/// How a member is written.
#[derive(Clone, Copy)]
enum Form {
    Text,
    Texts,
    Flag,
    Whole,
    Double,
    /// Any JSON, as text within a message.
    Any,
    Anys,
    /// A list of names within a message.
    Names,
    /// A message, behind messages whose only member it is.
    One(&'static [u32], &'static Message),
    Many(&'static Message),
    /// A message of named messages, each behind messages whose only member it is.
    Named(&'static [u32], &'static Message),
    /// A list of parameters, whose message depends on where they are.
    Parameters,
    /// A schema, or true or false.
    SchemaOrFlag,
}

/// A message: its members, and the number of its extensions (`x-...`).
struct Message {
    members: &'static [(&'static str, u32, Form)],
    extensions: u32,
    /// The number of named messages that members not listed are.
    rest: Option<(u32, &'static Message)>,
}

use Form::{Any, Anys, Double, Flag, Many, Named, Names, One, Parameters, SchemaOrFlag, Text, Texts, Whole};

static DOCUMENT: Message = Message {
    members: &[
        ("swagger", 1, Text),
        ("info", 2, One(&[], &INFO)),
        ("paths", 8, One(&[], &PATHS)),
        ("definitions", 9, Named(&[], &SCHEMA)),
    ],
    extensions: 16,
    rest: None,
};

static INFO: Message = Message { members: &[("title", 1, Text), ("version", 2, Text)], extensions: 7, rest: None };

static PATHS: Message = Message { members: &[], extensions: 1, rest: Some((2, &PATH)) };

static PATH: Message = Message {
    members: &[
        ("get", 2, One(&[], &OPERATION)),
        ("put", 3, One(&[], &OPERATION)),
        ("post", 4, One(&[], &OPERATION)),
        ("delete", 5, One(&[], &OPERATION)),
        ("options", 6, One(&[], &OPERATION)),
        ("head", 7, One(&[], &OPERATION)),
        ("patch", 8, One(&[], &OPERATION)),
        ("parameters", 9, Parameters),
    ],
    extensions: 10,
    rest: None,
};

static OPERATION: Message = Message {
    members: &[
        ("tags", 1, Texts),
        ("summary", 2, Text),
        ("description", 3, Text),
        ("operationId", 5, Text),
        ("produces", 6, Texts),
        ("consumes", 7, Texts),
        ("parameters", 8, Parameters),
        ("responses", 9, Named(&[1], &RESPONSE)),
        ("schemes", 10, Texts),
        ("deprecated", 11, Flag),
    ],
    extensions: 13,
    rest: None,
};

static RESPONSE: Message =
    Message { members: &[("description", 1, Text), ("schema", 2, One(&[1], &SCHEMA))], extensions: 5, rest: None };

static IN_BODY: Message = Message {
    members: &[
        ("description", 1, Text),
        ("name", 2, Text),
        ("in", 3, Text),
        ("required", 4, Flag),
        ("schema", 5, One(&[], &SCHEMA)),
    ],
    extensions: 6,
    rest: None,
};

static IN_QUERY: Message = Message {
    members: &[
        ("required", 1, Flag),
        ("in", 2, Text),
        ("description", 3, Text),
        ("name", 4, Text),
        ("type", 6, Text),
        ("format", 7, Text),
        ("uniqueItems", 20, Flag),
    ],
    extensions: 23,
    rest: None,
};

static IN_PATH: Message = Message {
    members: &[
        ("required", 1, Flag),
        ("in", 2, Text),
        ("description", 3, Text),
        ("name", 4, Text),
        ("type", 5, Text),
        ("format", 6, Text),
        ("uniqueItems", 19, Flag),
    ],
    extensions: 22,
    rest: None,
};

static SCHEMA: Message = Message {
    members: &[
        ("$ref", 1, Text),
        ("format", 2, Text),
        ("title", 3, Text),
        ("description", 4, Text),
        ("default", 5, Any),
        ("multipleOf", 6, Double),
        ("maximum", 7, Double),
        ("exclusiveMaximum", 8, Flag),
        ("minimum", 9, Double),
        ("exclusiveMinimum", 10, Flag),
        ("maxLength", 11, Whole),
        ("minLength", 12, Whole),
        ("pattern", 13, Text),
        ("maxItems", 14, Whole),
        ("minItems", 15, Whole),
        ("uniqueItems", 16, Flag),
        ("maxProperties", 17, Whole),
        ("minProperties", 18, Whole),
        ("required", 19, Texts),
        ("enum", 20, Anys),
        ("additionalProperties", 21, SchemaOrFlag),
        ("type", 22, Names),
        ("items", 23, One(&[1], &SCHEMA)),
        ("allOf", 24, Many(&SCHEMA)),
        ("properties", 25, Named(&[], &SCHEMA)),
        ("example", 30, Any),
    ],
    extensions: 31,
    rest: None,
};

/// A document of version 2, encoded.
pub(super) fn encode(document: &Json) -> Vec<u8> {
    document.as_object().map(|document| message(&DOCUMENT, document)).unwrap_or_default()
}

fn message(of: &Message, object: &Map<String, Json>) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in object.iter().filter(|(_, value)| !value.is_null()) {
        if name.starts_with("x-") {
            put(&mut out, of.extensions, &named(name, &any(value)));
        } else if let Some((_, number, form)) = of.members.iter().find(|(known, ..)| known == name) {
            member(&mut out, *number, *form, value);
        } else if let (Some((number, inner)), Some(value)) = (of.rest, value.as_object()) {
            put(&mut out, number, &named(name, &message(inner, value)));
        }
    }
    out
}

fn member(out: &mut Vec<u8>, number: u32, form: Form, value: &Json) {
    let list = || value.as_array().into_iter().flatten();
    match form {
        Text => value.as_str().into_iter().for_each(|text| put(out, number, text.as_bytes())),
        Texts => list().filter_map(Json::as_str).for_each(|text| put(out, number, text.as_bytes())),
        Flag => value.as_bool().into_iter().for_each(|flag| varint_member(out, number, u64::from(flag))),
        Whole => value.as_u64().into_iter().for_each(|whole| varint_member(out, number, whole)),
        Double => value.as_f64().into_iter().for_each(|double| {
            varint(out, u64::from(number << 3 | 1));
            out.extend_from_slice(&double.to_le_bytes());
        }),
        Any => put(out, number, &any(value)),
        Anys => list().for_each(|value| put(out, number, &any(value))),
        Names => {
            let mut names = Vec::new();
            let one = value.as_str().into_iter();
            one.chain(list().filter_map(Json::as_str)).for_each(|name| put(&mut names, 1, name.as_bytes()));
            put(out, number, &names);
        }
        One(behind, inner) => {
            value.as_object().into_iter().for_each(|object| put(out, number, &wrapped(behind, message(inner, object))));
        }
        Many(inner) => list().filter_map(Json::as_object).for_each(|object| put(out, number, &message(inner, object))),
        Named(behind, inner) => {
            let mut all = Vec::new();
            for (name, value) in value.as_object().into_iter().flatten() {
                let Some(value) = value.as_object() else { continue };
                put(&mut all, 1, &named(name, &wrapped(behind, message(inner, value))));
            }
            put(out, number, &all);
        }
        Parameters => list().filter_map(Json::as_object).for_each(|object| put(out, number, &parameter(object))),
        SchemaOrFlag => {
            let mut either = Vec::new();
            match value {
                Json::Bool(flag) => varint_member(&mut either, 2, u64::from(*flag)),
                Json::Object(object) => put(&mut either, 1, &message(&SCHEMA, object)),
                _ => {}
            }
            put(out, number, &either);
        }
    }
}

fn parameter(object: &Map<String, Json>) -> Vec<u8> {
    let (behind, of): (&[u32], _) = match object.get("in").and_then(Json::as_str) {
        Some("body") => (&[1, 1], &IN_BODY),
        Some("path") => (&[1, 2, 4], &IN_PATH),
        _ => (&[1, 2, 3], &IN_QUERY),
    };
    wrapped(behind, message(of, object))
}

/// A message as the only member of messages, the outermost first.
fn wrapped(behind: &[u32], inner: Vec<u8>) -> Vec<u8> {
    behind.iter().rev().fold(inner, |inner, number| {
        let mut outer = Vec::with_capacity(inner.len() + 8);
        put(&mut outer, *number, &inner);
        outer
    })
}

fn named(name: &str, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len() + value.len() + 12);
    put(&mut out, 1, name.as_bytes());
    put(&mut out, 2, value);
    out
}

/// JSON is YAML, which is what readers expect here.
fn any(value: &Json) -> Vec<u8> {
    let mut out = Vec::new();
    put(&mut out, 2, value.to_string().as_bytes());
    out
}

fn put(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    varint(out, u64::from(number << 3 | 2));
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn varint_member(out: &mut Vec<u8>, number: u32, value: u64) {
    varint(out, u64::from(number << 3));
    varint(out, value);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// What a reader sees: members of a message by number, with their bytes or numbers.
    fn read(mut bytes: &[u8]) -> Vec<(u32, Vec<u8>)> {
        fn number(bytes: &mut &[u8]) -> u64 {
            let mut value = 0;
            for shift in (0..).step_by(7) {
                let (first, rest) = bytes.split_first().unwrap();
                *bytes = rest;
                value |= u64::from(first & 0x7f) << shift;
                if first & 0x80 == 0 {
                    return value;
                }
            }
            value
        }
        let mut members = Vec::new();
        while !bytes.is_empty() {
            let key = number(&mut bytes);
            let length = match key & 7 {
                0 => {
                    members.push(((key >> 3) as u32, number(&mut bytes).to_le_bytes().to_vec()));
                    continue;
                }
                1 => 8,
                2 => number(&mut bytes) as usize,
                other => panic!("wire type {other}"),
            };
            let (value, rest) = bytes.split_at(length);
            bytes = rest;
            members.push(((key >> 3) as u32, value.to_vec()));
        }
        members
    }

    /// The bytes at a path of numbers; of repeated members the first.
    fn at(bytes: &[u8], path: &[u32]) -> Vec<u8> {
        path.iter().fold(bytes.to_vec(), |bytes, number| {
            read(&bytes).into_iter().find(|(known, _)| known == number).unwrap_or_else(|| panic!("{path:?}")).1
        })
    }

    #[test]
    fn members_are_where_readers_look() {
        let schema = json!({
            "type": "object", "description": "d", "required": ["a"], "default": {}, "enum": ["x"], "maximum": 1.5,
            "minLength": 300, "items": {"$ref": "#/r"}, "additionalProperties": {"type": "string"}, "not-known": 1,
            "properties": {"a": {"format": "int32", "nullable": null}}, "x-kubernetes-list-type": "map",
        });
        let document = encode(&json!({
            "swagger": "2.0",
            "info": {"title": "t", "version": "v"},
            "paths": {"/p": {
                "get": {"operationId": "o", "responses": {"200": {"description": "OK", "schema": {"$ref": "#/r"}}}},
                "parameters": [{"name": "n", "in": "path"}, {"name": "q", "in": "query"}, {"in": "body", "name": "b"}],
            }},
            "definitions": {"S": schema},
        }));
        let text = |path: &[u32]| String::from_utf8(at(&document, path)).unwrap();
        let cases: [(&[u32], &str); 17] = [
            (&[1], "2.0"),
            (&[2, 1], "t"),
            (&[8, 2, 1], "/p"),
            (&[8, 2, 2, 2, 5], "o"),
            (&[8, 2, 2, 2, 9, 1, 1], "200"),
            (&[8, 2, 2, 2, 9, 1, 2, 1, 1], "OK"),
            (&[8, 2, 2, 2, 9, 1, 2, 1, 2, 1, 1], "#/r"),
            (&[8, 2, 2, 9, 1, 2, 4, 4], "n"),
            (&[9, 1, 1], "S"),
            (&[9, 1, 2, 22, 1], "object"),
            (&[9, 1, 2, 4], "d"),
            (&[9, 1, 2, 19], "a"),
            (&[9, 1, 2, 5, 2], "{}"),
            (&[9, 1, 2, 20, 2], "\"x\""),
            (&[9, 1, 2, 23, 1, 1], "#/r"),
            (&[9, 1, 2, 21, 1, 22, 1], "string"),
            (&[9, 1, 2, 25, 1, 2, 2], "int32"),
        ];
        for (path, expected) in cases {
            assert_eq!(text(path), expected, "{path:?}");
        }
        assert_eq!(at(&document, &[9, 1, 2, 7]), 1.5f64.to_le_bytes());
        assert_eq!(at(&document, &[9, 1, 2, 12]), 300u64.to_le_bytes());
        assert_eq!(text(&[9, 1, 2, 31, 1]) + &text(&[9, 1, 2, 31, 2, 2]), "x-kubernetes-list-type\"map\"");
        let parameters: Vec<_> = read(&at(&document, &[8, 2, 2])).into_iter().filter(|(n, _)| *n == 9).collect();
        assert_eq!(at(&parameters[1].1, &[1, 2, 3, 4]), b"q");
        assert_eq!(at(&parameters[2].1, &[1, 1, 2]), b"b");
    }

    #[test]
    fn long_lengths_and_odd_documents() {
        let long = "x".repeat(300);
        assert_eq!(at(&encode(&json!({"info": {"title": long}})), &[2, 1]).len(), 300);
        for odd in [json!(null), json!([]), json!({"info": 3, "paths": {"/": 1}, "definitions": null})] {
            assert!(read(&encode(&odd)).len() <= 1, "{odd}");
        }
    }
}
