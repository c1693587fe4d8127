//! Objects and lists as HTTP answers: the bytes of the cache where the client's form allows, else rendered.

use super::{call::Call, create::Written, delete::Deleted, read::Page, view::View};
use crate::{
    cache::Entry,
    http::{self, Answer, Media, Piece, Shape, joined},
    rules,
};
use bytes::Bytes;
use std::sync::Arc;
use timonel_api::{Status, Value, table::partial_metadata};

/// A stored object.
pub(crate) fn entry(call: &Call<'_>, entry: &Entry, code: u16) -> Result<Answer, Status> {
    let view = &call.view;
    match (call.accept.shape, call.accept.media) {
        (Shape::Whole, Media::Json) => Ok(Answer::json(code, view.json(entry)?, &call.accept)),
        (Shape::Whole, Media::Protobuf) => {
            let bytes = rules::seal(&view.resource, &view.protobuf(entry)?);
            Ok(Answer::bytes(code, http::PROTOBUF, bytes))
        }
        (Shape::Whole, Media::Yaml) => Answer::value(code, &view.decode(entry)?, &view.scheme, &call.accept),
        (Shape::Partial, _) => {
            Answer::value(code, &call.accept.versioned(view.partial(entry)?), &view.scheme, &call.accept)
        }
        (Shape::Table, _) => {
            let object = view.decode(entry)?;
            let meta = version_of(&object);
            table(call, &[object], meta, code)
        }
    }
}

/// An object that is not (or not as such) in the store, in the view's version.
pub(crate) fn value(call: &Call<'_>, value: &Value, code: u16) -> Result<Answer, Status> {
    match call.accept.shape {
        Shape::Table => table(call, std::slice::from_ref(value), version_of(value), code),
        Shape::Partial => {
            Answer::value(code, &call.accept.versioned(partial_metadata(value)), &call.view.scheme, &call.accept)
        }
        _ => Answer::value(code, value, &call.view.scheme, &call.accept),
    }
}

/// What a creation or a change gave.
pub(crate) async fn written(call: &Call<'_>, written: Written, code: u16) -> Result<Answer, Status> {
    match written {
        Written::Stored(stored) => {
            call.view.prepare(std::slice::from_ref(&stored)).await?;
            entry(call, &stored, code)
        }
        Written::DryRun(object) => value(call, &call.view.present(*object)?, code),
    }
}

/// Objects that are encoded between two turns of others.
const ENCODED_AT_ONCE: usize = 64;

/// Kinds whose deletion answers with the object; the others answer with a `Status`.
const RETURN_DELETED: [(&str, &str); 19] = [
    ("", "pods"),
    ("", "services"),
    ("", "namespaces"),
    ("", "serviceaccounts"),
    ("", "persistentvolumes"),
    ("", "persistentvolumeclaims"),
    ("", "podtemplates"),
    ("", "resourcequotas"),
    ("storage.k8s.io", "csidrivers"),
    ("storage.k8s.io", "csinodes"),
    ("storage.k8s.io", "storageclasses"),
    ("storage.k8s.io", "volumeattachments"),
    ("storage.k8s.io", "volumeattributesclasses"),
    ("resource.k8s.io", "resourceclaims"),
    ("resource.k8s.io", "resourceclaimtemplates"),
    ("resource.k8s.io", "resourceslices"),
    ("resource.k8s.io", "deviceclasses"),
    ("resource.k8s.io", "devicetaintrules"),
    ("resource.k8s.io", "resourcepoolstatusrequests"),
];

/// What a deletion left.
pub(crate) fn deleted(call: &Call<'_>, deleted: &Deleted, name: &str) -> Result<Answer, Status> {
    let view = &call.view;
    match deleted {
        Deleted::Marked(object) => value(call, object, 200),
        Deleted::Gone(object) if RETURN_DELETED.contains(&(view.group(), view.plural())) => value(call, object, 200),
        Deleted::Gone(object) => {
            let status = Status::success(view.group(), view.plural(), name, object.str_at(&["metadata", "uid"]));
            Ok(Answer::status(&status))
        }
    }
}

/// Makes the messages that a list in protobuf will join, giving other requests a turn now and then: for many objects
/// that nobody has read in protobuf before it is the longest part of all.
pub(crate) async fn encode_ahead(call: &Call<'_>, page: &Page) -> Result<(), Status> {
    if (call.accept.shape, call.accept.media) != (Shape::Whole, Media::Protobuf) || !call.view.shows_what_is_stored() {
        return Ok(());
    }
    for some in page.entries.chunks(ENCODED_AT_ONCE) {
        let mut fresh = false;
        for entry in some.iter().filter(|entry| entry.list_message().is_empty()) {
            call.view.protobuf(entry)?;
            fresh = true;
        }
        if fresh {
            tokio::task::yield_now().await;
        }
    }
    Ok(())
}

/// A list.
pub(crate) fn list(call: &Call<'_>, page: Page) -> Result<Answer, Status> {
    let view = &call.view;
    let answer = match (call.accept.shape, call.accept.media) {
        (Shape::Whole, Media::Json) if !call.accept.pretty => json_list(view, page)?,
        (Shape::Whole, Media::Protobuf) => protobuf_list(view, page)?,
        (Shape::Table, _) => {
            let rows = page.entries.iter().map(|entry| view.decode(entry)).collect::<Result<Vec<_>, _>>()?;
            table(call, &rows, list_meta(&page), 200)?
        }
        (shape, _) => {
            let items = page.entries.iter().map(|entry| match shape {
                Shape::Partial => view.partial(entry),
                _ => view.decode(entry).map(|mut item| {
                    if !view.resource.custom {
                        let object = item.make_object();
                        object.remove("apiVersion");
                        object.remove("kind");
                    }
                    item
                }),
            });
            let items = items.collect::<Result<Vec<_>, _>>()?;
            let (kind, version) = match shape {
                Shape::Partial => ("PartialObjectMetadataList".to_owned(), "meta.k8s.io/v1".to_owned()),
                _ => (view.resource.list_kind.to_string(), view.resource.api_version()),
            };
            let mut list = Value::object();
            list.set_at(&["kind"], kind);
            list.set_at(&["apiVersion"], version);
            list.set_at(&["metadata"], list_meta(&page));
            list.set_at(&["items"], items);
            Answer::value(200, &call.accept.versioned(list), &view.scheme, &call.accept)?
        }
    };
    Ok(answer.compressed_for(call.headers))
}

fn list_meta(page: &Page) -> Value {
    let mut meta = Value::object();
    meta.set_at(&["resourceVersion"], page.revision.to_string());
    if let Some(token) = &page.continuation {
        meta.set_at(&["continue"], token.as_str());
    }
    if let Some(remaining) = page.remaining {
        meta.set_at(&["remainingItemCount"], i64::try_from(remaining).unwrap_or(i64::MAX));
    }
    meta
}

/// The items' cached text, joined as it is sent.
fn json_list(view: &Arc<View>, page: Page) -> Result<Answer, Status> {
    let mut head = format!(
        "{{\"kind\":\"{}\",\"apiVersion\":\"{}\",\"metadata\":",
        view.resource.list_kind,
        view.resource.api_version()
    )
    .into_bytes();
    timonel_api::encode_json_into(&list_meta(&page), &mut head);
    head.extend_from_slice(b",\"items\":[");
    let (head, tail) = (Bytes::from(head), Bytes::from_static(b"]}\n"));
    let around = head.len() + tail.len();
    let (head, tail) = (Piece::Bytes(head), std::iter::once(Piece::Bytes(tail)));
    if view.shows_what_is_stored() && !view.resource.custom {
        let items = page.entries.iter().map(|entry| entry.item_ref().len()).sum::<usize>();
        let mut entries = page.entries.into_iter();
        // Every item starts with its separator; the first has none before it.
        let first = entries.next().map(Piece::First);
        let length = around + items - usize::from(first.is_some());
        let pieces = std::iter::once(head).chain(first).chain(entries.map(Piece::Item)).chain(tail);
        return Ok(Answer::body(200, http::JSON, joined(pieces, length as u64)));
    }
    let mut items = Vec::with_capacity(page.entries.len() * 2);
    for (at, entry) in page.entries.into_iter().enumerate() {
        view.item_json(entry, at == 0, &mut items)?;
    }
    let length = around + items.iter().map(Piece::len).sum::<usize>();
    let pieces = std::iter::once(head).chain(items).chain(tail);
    Ok(Answer::body(200, http::JSON, joined(pieces, length as u64)))
}

fn protobuf_list(view: &Arc<View>, page: Page) -> Result<Answer, Status> {
    let meta = list_meta(&page);
    if view.shows_what_is_stored() {
        // Encoded ahead; what is not is encoded here.
        let mut length = 0;
        for entry in &page.entries {
            view.protobuf(entry)?;
            length += entry.list_message().len();
        }
        let items = page.entries.into_iter().map(Piece::Message);
        let (pieces, length) = rules::protobuf_list(&view.scheme, &view.resource, &meta, items, length);
        return Ok(Answer::body(200, http::PROTOBUF, joined(pieces, length)));
    }
    let items = page.entries.iter().map(|entry| view.converted_protobuf(entry)).collect::<Result<Vec<Piece>, _>>()?;
    let length = items.iter().map(Piece::len).sum::<usize>();
    let (pieces, length) = rules::protobuf_list(&view.scheme, &view.resource, &meta, items.into_iter(), length);
    Ok(Answer::body(200, http::PROTOBUF, joined(pieces, length)))
}

fn table(call: &Call<'_>, objects: &[Value], meta: Value, code: u16) -> Result<Answer, Status> {
    let include = rules::include_object(call.query.get("includeObject"))?;
    let printer = call.view.printer();
    let rows = objects.iter().map(|object| printer.row(object, include, call.now)).collect();
    let table = call.accept.versioned(printer.table(rows, meta, true));
    Answer::value(code, &table, &call.view.scheme, &call.accept)
}

/// The metadata of a table of one object.
fn version_of(object: &Value) -> Value {
    let mut meta = Value::object();
    meta.set_at(&["resourceVersion"], object.str_at(&["metadata", "resourceVersion"]));
    meta
}
