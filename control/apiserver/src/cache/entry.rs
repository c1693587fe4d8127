//! One object at one revision, shared by every reader; and one change of an object, shared by every watcher.

use super::stored::{Packed, StoredError};
use crate::http::{LIST_ITEM, put_varint};
use bytes::Bytes;
use parking_lot::Mutex;
use std::sync::{Arc, OnceLock};
use timonel_api::{Labels, Value};
use timonel_store::{KeyValue, Revision};

/// Room for a message that is being encoded; most are smaller.
const MESSAGE_BYTES: usize = 8 << 10;
/// Versions of one object that are kept beside the stored one.
const MAX_CONVERTED: usize = 4;

/// Versions beside the stored one, each with the number of what it was converted to.
type Conversions = Vec<(u32, Arc<Value>)>;

/// One object at one revision. Never decoded for reading: its text is joined into answers.
#[derive(Debug)]
pub(crate) struct Entry {
    key: Bytes,
    path_at: usize,
    pub(crate) revision: Revision,
    packed: Packed,
    /// The protobuf message as an item of a list: after a tag and its length.
    protobuf: OnceLock<Message>,
    decoded: OnceLock<Arc<Value>>,
    converted: OnceLock<Mutex<Conversions>>,
}

impl Entry {
    /// Of a key whose resource's own part ends at `path_at` (`NAMESPACE/NAME` or `NAME` follows).
    pub(crate) fn new(stored: &KeyValue, path_at: usize) -> Result<Self, StoredError> {
        Ok(Self {
            key: stored.key.clone(),
            path_at,
            revision: stored.mod_revision,
            packed: Packed::new(&stored.value, stored.mod_revision)?,
            protobuf: OnceLock::new(),
            decoded: OnceLock::new(),
            converted: OnceLock::new(),
        })
    }

    /// The same object as a later event shows it (a deletion, or leaving a selector).
    pub(crate) fn at_revision(&self, revision: Revision) -> Self {
        Self {
            key: self.key.clone(),
            path_at: self.path_at,
            revision,
            packed: self.packed.at_revision(revision),
            protobuf: OnceLock::new(),
            decoded: OnceLock::new(),
            converted: OnceLock::new(),
        }
    }

    /// The key in the store.
    pub(crate) fn key(&self) -> &Bytes {
        &self.key
    }

    /// `NAMESPACE/NAME`, or `NAME` for what belongs to the cluster.
    pub(crate) fn path(&self) -> &str {
        std::str::from_utf8(&self.key[self.path_at..]).unwrap_or("")
    }

    /// The object's name.
    pub(crate) fn name(&self) -> &str {
        let path = self.path();
        path.rsplit_once('/').map_or(path, |(_, name)| name)
    }

    /// The object's namespace; empty for what belongs to the cluster.
    pub(crate) fn namespace(&self) -> &str {
        self.path().rsplit_once('/').map_or("", |(namespace, _)| namespace)
    }

    /// `,{"metadata":…}`, see [`super::stored`].
    pub(crate) fn item_ref(&self) -> &[u8] {
        self.packed.item_ref()
    }

    /// The object as JSON without `apiVersion` and `kind`.
    pub(crate) fn text(&self) -> &[u8] {
        &self.packed.item_ref()[1..]
    }

    /// The protobuf message as an item of a list; empty until [`Self::protobuf`] made it.
    pub(crate) fn list_message(&self) -> &[u8] {
        self.protobuf.get().map_or(&[], |message| &message.bytes)
    }

    /// The object's members after `apiVersion` and `kind`: `"metadata":…}`.
    pub(crate) fn members(&self) -> &[u8] {
        &self.packed.item_ref()[super::stored::ITEM_START.len()..]
    }

    /// The protobuf message, made on first use by `encode` after the room that it is given.
    pub(crate) fn protobuf<E>(&self, encode: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<&[u8], E> {
        let message = match self.protobuf.get() {
            Some(known) => known,
            None => {
                let made = Message::made(encode)?;
                self.protobuf.get_or_init(|| made)
            }
        };
        Ok(&message.bytes[message.at..])
    }

    /// Whether it holds what `stored` holds.
    pub(crate) fn is(&self, stored: &[u8]) -> bool {
        self.packed.is(stored)
    }

    /// The selectable field at a place of the resource's table.
    pub(crate) fn field(&self, at: usize) -> &str {
        self.packed.fields().nth(at).unwrap_or("")
    }

    /// The form that an object of a custom kind is stored in.
    pub(crate) fn form(&self) -> &str {
        self.field(0)
    }

    /// What a webhook made of it for a view.
    pub(crate) fn converted(&self, view: u32) -> Option<Arc<Value>> {
        let known = self.converted.get()?.lock();
        known.iter().find(|(known, _)| *known == view).map(|(_, object)| object.clone())
    }

    /// Keeps what a webhook made of it for a view; the oldest makes room.
    pub(crate) fn keep_converted(&self, view: u32, object: Value) {
        let mut known = self.converted.get_or_init(Mutex::default).lock();
        known.retain(|(known, _)| *known != view);
        known.insert(0, (view, Arc::new(object)));
        known.truncate(MAX_CONVERTED);
    }

    /// The selectable field of that label, for objects of custom kinds.
    pub(crate) fn labelled(&self, label: &str) -> Option<&str> {
        let mut fields = self.packed.fields().skip(1);
        while let (Some(known), Some(value)) = (fields.next(), fields.next()) {
            if known == label {
                return Some(value);
            }
        }
        None
    }

    /// The object as a tree, with `resourceVersion`, without `apiVersion` and `kind`.
    pub(crate) fn decode(&self) -> Result<Value, StoredError> {
        self.packed.decode()
    }

    /// The same, decoded once and kept: for the few kinds that every request is judged by.
    pub(crate) fn decoded(&self) -> Arc<Value> {
        self.decoded.get_or_init(|| Arc::new(self.decode().unwrap_or_default())).clone()
    }

    /// The object's UID. Decodes: for those who ask seldom.
    pub(crate) fn uid(&self) -> String {
        self.decode().unwrap_or_default().str_at(&["metadata", "uid"]).to_owned()
    }

    /// Bytes held, roughly.
    pub(crate) fn size(&self) -> usize {
        size_of::<Self>() + self.key.len() + self.packed.size() + self.list_message().len()
    }
}

/// A protobuf message after the header that makes it an item of a list.
#[derive(Debug)]
struct Message {
    at: usize,
    bytes: Box<[u8]>,
}

impl Message {
    fn made<E>(encode: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<Self, E> {
        // The header is as long as the length it holds: room for the longest, closed up when it is known.
        const ROOM: usize = 11;
        let mut scratch = vec![0; ROOM];
        scratch.reserve(MESSAGE_BYTES);
        encode(&mut scratch)?;
        let mut head = Vec::with_capacity(ROOM);
        head.push(LIST_ITEM);
        put_varint(&mut head, scratch.len() - ROOM);
        let start = ROOM - head.len();
        scratch[start..ROOM].copy_from_slice(&head);
        // Kept as long as the object: as large as it is, not as large as it might have become.
        Ok(Self { at: head.len(), bytes: scratch[start..].into() })
    }
}

impl Labels for Entry {
    fn label(&self, key: &str) -> Option<&str> {
        self.packed.labels().find(|(name, _)| *name == key).map(|(_, value)| value)
    }
}

/// What a watcher is told about an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum ChangeKind {
    /// It is there now, or matches now.
    Added,
    /// It changed.
    Modified,
    /// It is gone, or matches no more.
    Deleted,
}

/// One change of one object. Its rendered forms are made once and shared by all watchers that want them.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) revision: Revision,
    /// The object before; `None` when it did not exist.
    pub(crate) previous: Option<Arc<Entry>>,
    /// The object after; of a deletion the last state under the deletion's revision.
    pub(crate) current: Arc<Entry>,
    pub(crate) is_deletion: bool,
    departed: OnceLock<Arc<Entry>>,
    frames: Mutex<Vec<(FrameKey, Bytes)>>,
}

/// Which rendering of a change: the watcher's view (a small number given by the HTTP layer) and the event's type.
pub(crate) type FrameKey = (u32, ChangeKind);

/// Renderings kept with one change; further views render for themselves.
const MAX_FRAMES: usize = 8;

impl Change {
    pub(super) fn new(previous: Option<Arc<Entry>>, current: Arc<Entry>, is_deletion: bool) -> Self {
        Self {
            revision: current.revision,
            previous,
            current,
            is_deletion,
            departed: OnceLock::new(),
            frames: Mutex::default(),
        }
    }

    /// What this change means to a watcher whose selector is `matches`; `None` when nothing.
    pub(crate) fn kind_for(&self, matches: impl Fn(&Entry) -> bool) -> Option<ChangeKind> {
        let before = self.previous.as_ref().is_some_and(|entry| matches(entry));
        let after = !self.is_deletion && matches(&self.current);
        match (before, after) {
            (false, false) => None,
            (false, true) => Some(ChangeKind::Added),
            (true, true) => Some(ChangeKind::Modified),
            (true, false) => Some(ChangeKind::Deleted),
        }
    }

    /// The object to show with `kind`: what leaves a selector shows its last matching state.
    pub(crate) fn shown(&self, kind: ChangeKind) -> &Arc<Entry> {
        match (&self.previous, kind) {
            (Some(previous), ChangeKind::Deleted) if !self.is_deletion => {
                self.departed.get_or_init(|| Arc::new(previous.at_revision(self.revision)))
            }
            _ => &self.current,
        }
    }

    /// The rendering `key`, made by `render` unless some watcher made it before.
    pub(crate) fn frame<E>(&self, key: FrameKey, render: impl FnOnce() -> Result<Bytes, E>) -> Result<Bytes, E> {
        let mut frames = self.frames.lock();
        if let Some((_, frame)) = frames.iter().find(|(known, _)| *known == key) {
            return Ok(frame.clone());
        }
        let frame = render()?;
        if frames.len() < MAX_FRAMES {
            frames.push((key, frame.clone()));
        }
        Ok(frame)
    }

    /// Bytes that this change alone keeps alive, roughly.
    pub(super) fn held(&self) -> usize {
        size_of::<Self>() + self.previous.as_ref().map_or(0, |entry| entry.size())
    }

    /// Drops the renderings; every live watcher has the change in its queue by then.
    pub(super) fn forget_frames(&self) {
        self.frames.lock().clear();
    }
}
