//! What a decision may ask for. Every write carries its fence: a resource version, a uid, or a name that only it uses.

use super::{
    kinds::{Key, Kind, Object, Resource},
    view::Question,
};
use jiff::Timestamp;
use k8s_openapi::{api::core::v1::ObjectReference, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use serde_json::Value;

/// One object, addressed and fenced.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// Its resource.
    pub resource: Resource,
    /// Where it lives.
    pub key: Key,
    /// Which object is meant, whatever lives there later.
    pub uid: String,
    /// The version that the decision was made on; empty when any will do.
    pub resource_version: String,
}

impl Target {
    /// The object that `meta` describes, at any version.
    #[must_use]
    pub fn of(kind: Kind, meta: &ObjectMeta) -> Self {
        Self {
            resource: kind.resource(),
            key: Key::of(meta),
            uid: meta.uid.clone().unwrap_or_default(),
            resource_version: String::new(),
        }
    }

    /// The object that `meta` describes, at exactly that version.
    #[must_use]
    pub fn exact(kind: Kind, meta: &ObjectMeta) -> Self {
        Self { resource_version: meta.resource_version.clone().unwrap_or_default(), ..Self::of(kind, meta) }
    }
}

/// What becomes of dependents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// They follow later.
    Background,
    /// They go first.
    Foreground,
    /// They stay.
    Orphan,
}

impl Propagation {
    /// The API's word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Background => "Background",
            Self::Foreground => "Foreground",
            Self::Orphan => "Orphan",
        }
    }
}

/// One request to the server.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// Creates; the name (or the server's choice from `generateName`) is the fence.
    Create(Object),
    /// Replaces, fenced by the object's resource version.
    Update(Object),
    /// Replaces the status, fenced by the object's resource version.
    UpdateStatus(Object),
    /// Replaces another subresource, fenced by the object's resource version.
    UpdateSubresource(Object, &'static str),
    /// Merges into the object (or a subresource), fenced by uid and, if the target has one, by version.
    Patch {
        /// What.
        target: Target,
        /// `status` or empty.
        subresource: &'static str,
        /// The merge patch, without the fence.
        patch: Value,
    },
    /// Deletes, fenced by uid and, if the target has one, by version.
    Delete {
        /// What.
        target: Target,
        /// What becomes of dependents; the kind's default if none.
        propagation: Option<Propagation>,
        /// Seconds of grace; the object's own if none.
        grace_seconds: Option<u32>,
    },
    /// Deletes every object of a resource in a namespace that is being deleted.
    DeleteAll {
        /// Which.
        resource: Resource,
        /// Where.
        namespace: String,
    },
    /// Asks; the next look finds the answer.
    Ask(Question),
    /// Signs what a certificate request or a token's Secret asks for and stores it there, fenced by the object's
    /// resource version.
    Sign(Object),
    /// Nothing but the note.
    Tell,
}

/// Whether a note is good or bad news.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tone {
    /// `Normal`.
    Normal,
    /// `Warning`.
    Warning,
}

/// An event to record; `{}` in the message stands for the written object's name, or for the server's error.
#[derive(Clone, Debug, PartialEq)]
pub struct Note {
    /// The object it is about.
    pub regarding: ObjectReference,
    /// Its tone.
    pub tone: Tone,
    /// Its reason, in upstream's words.
    pub reason: &'static str,
    /// Its message, in upstream's words.
    pub message: String,
}

impl Note {
    /// A note about `object`.
    #[must_use]
    pub fn about(kind: Kind, meta: &ObjectMeta, tone: Tone, reason: &'static str, message: impl Into<String>) -> Self {
        Self { regarding: reference(kind, meta), tone, reason, message: message.into() }
    }
}

/// A reference to the object that `meta` describes.
#[must_use]
pub fn reference(kind: Kind, meta: &ObjectMeta) -> ObjectReference {
    let resource = kind.resource();
    ObjectReference {
        api_version: Some(resource.api_version.to_string()),
        kind: Some(resource.kind.to_string()),
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path: None,
    }
}

/// One write and the notes that go with it.
#[derive(Clone, Debug, PartialEq)]
pub struct Action {
    /// The write.
    pub write: Write,
    /// Recorded when it succeeds.
    pub success: Option<Note>,
    /// Recorded when it fails.
    pub failure: Option<Note>,
}

impl From<Write> for Action {
    fn from(write: Write) -> Self {
        Self { write, success: None, failure: None }
    }
}

impl Action {
    /// Creates `object`.
    #[must_use]
    pub fn create(object: impl Into<Object>) -> Self {
        Write::Create(object.into()).into()
    }

    /// Replaces `object`.
    #[must_use]
    pub fn update(object: impl Into<Object>) -> Self {
        Write::Update(object.into()).into()
    }

    /// Replaces the status of `object`.
    #[must_use]
    pub fn update_status(object: impl Into<Object>) -> Self {
        Write::UpdateStatus(object.into()).into()
    }

    /// Merges `patch` into `target`.
    #[must_use]
    pub fn patch(target: Target, patch: Value) -> Self {
        Write::Patch { target, subresource: "", patch }.into()
    }

    /// Merges `patch` into the status of `target`.
    #[must_use]
    pub fn patch_status(target: Target, patch: Value) -> Self {
        Write::Patch { target, subresource: "status", patch }.into()
    }

    /// Deletes `target` with its own grace and the kind's default propagation.
    #[must_use]
    pub fn delete(target: Target) -> Self {
        Write::Delete { target, propagation: None, grace_seconds: None }.into()
    }

    /// Only records `note`.
    #[must_use]
    pub fn tell(note: Note) -> Self {
        Self { write: Write::Tell, success: Some(note), failure: None }
    }

    /// Asks `question`.
    #[must_use]
    pub fn ask(question: Question) -> Self {
        Write::Ask(question).into()
    }

    /// Adds the note for success.
    #[must_use]
    pub fn on_success(mut self, note: Note) -> Self {
        self.success = Some(note);
        self
    }

    /// Adds the note for failure.
    #[must_use]
    pub fn on_failure(mut self, note: Note) -> Self {
        self.failure = Some(note);
        self
    }
}

/// A decision: what to do, in order, and when to look again without being told.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// In order; a run of creations or deletions of one kind may go out together.
    pub actions: Vec<Action>,
    /// When to look again at the latest.
    pub again: Option<Timestamp>,
}

impl Plan {
    /// Nothing to do.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Asks for a look at `at` or earlier.
    pub fn look_again(&mut self, at: Timestamp) {
        self.again = Some(self.again.map_or(at, |known| known.min(at)));
    }

    /// Adds an action.
    pub fn push(&mut self, action: impl Into<Action>) {
        self.actions.push(action.into());
    }
}

impl From<Vec<Action>> for Plan {
    fn from(actions: Vec<Action>) -> Self {
        Self { actions, again: None }
    }
}
