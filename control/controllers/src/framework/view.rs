//! What the engine remembers between looks: answers to questions that only the server can settle, and the last
//! failure of each key. Bounded; never a source of truth for anything that the caches hold.

use super::kinds::{Key, Resource};
use jiff::Timestamp;
use std::collections::BTreeMap;

/// Answers kept at most; the oldest goes first.
const MAX_ANSWERS: usize = 4096;

/// Something only a live request can settle.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Question {
    /// Which uid lives at this place, if any?
    Uid {
        /// The resource.
        resource: Resource,
        /// Where.
        key: Key,
    },
    /// What does this ConfigMap say under a key?
    Data {
        /// Where it is.
        namespace: String,
        /// Its name.
        name: String,
        /// The key.
        key: String,
    },
    /// What is left in this namespace?
    Contents {
        /// The namespace.
        namespace: String,
    },
    /// How did it go to write every object of a resource anew, as it is?
    Migrated {
        /// For which order: its uid.
        order: String,
        /// API group.
        group: String,
        /// Resource.
        resource: String,
    },
    /// What do these pods use?
    Usage {
        /// Where they are.
        namespace: String,
        /// Which they are.
        selector: String,
    },
    /// Does the authorizer allow this?
    Allowed {
        /// Who asks.
        user: String,
        /// The asker's uid.
        uid: String,
        /// The asker's groups.
        groups: Vec<String>,
        /// API group.
        group: String,
        /// Resource.
        resource: String,
        /// Subresource.
        subresource: String,
        /// Verb.
        verb: String,
    },
}

/// What the containers of a pod use, in thousandths of each resource's unit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodUsage(BTreeMap<String, BTreeMap<String, i64>>);

impl PodUsage {
    /// Of one container and one resource.
    #[must_use]
    pub fn of(container: &str, resource: &str, milli: i64) -> Self {
        let mut usage = Self::default();
        usage.add(container, resource, milli);
        usage
    }

    /// Notes an amount.
    pub fn add(&mut self, container: &str, resource: &str, milli: i64) {
        self.0.entry(container.to_owned()).or_default().insert(resource.to_owned(), milli);
    }

    /// The amount of one container, or of all of them; none when any of these was not measured.
    #[must_use]
    pub fn amount(&self, resource: &str, container: Option<&str>) -> Option<i64> {
        let mut counted = self.0.iter().filter(|(name, _)| container.is_none_or(|wanted| wanted == *name)).peekable();
        counted.peek()?;
        counted.try_fold(0_i64, |sum, (_, amounts)| Some(sum.saturating_add(*amounts.get(resource)?)))
    }
}

/// What a kind still has in a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// The resource.
    pub resource: Resource,
    /// How many objects.
    pub count: usize,
    /// How many objects carry each finalizer.
    pub finalizers: BTreeMap<String, usize>,
}

/// Why the objects of a resource cannot be written anew; trying again as it is does not help.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotMigrated {
    /// The server offers no such resource.
    Unknown,
    /// It refused an object.
    Refused(String),
}

/// The answer to a [`Question`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The uid that lives there; none when nothing does.
    Uid(Option<String>),
    /// What it says; none without such a map or key.
    Data(Option<String>),
    /// Whether it is allowed.
    Allowed(bool),
    /// What each pod uses, or why that is not known.
    Usage(Result<BTreeMap<String, PodUsage>, String>),
    /// The version at which all objects were taken, or why that cannot be.
    Migrated(Result<String, NotMigrated>),
    /// What is left, and which groups could not be asked.
    Contents {
        /// Resources with objects left.
        left: Vec<Leftover>,
        /// Errors of discovery and of lists.
        errors: Vec<String>,
    },
}

/// The last failed attempt of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// `FailedCreate`, `FailedDelete` or `FailedUpdate`.
    pub reason: &'static str,
    /// The server's words.
    pub message: String,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Memory {
    answers: BTreeMap<Question, (Timestamp, Answer)>,
    failures: BTreeMap<(&'static str, Key), Failure>,
    heard: BTreeMap<String, Timestamp>,
    started: Option<Timestamp>,
}

impl Memory {
    /// The answer to `question`, if it was given at or after `since`.
    #[must_use]
    pub fn answer(&self, question: &Question, since: Timestamp) -> Option<&Answer> {
        self.answers.get(question).filter(|(at, _)| *at >= since).map(|(_, answer)| answer)
    }

    /// When `question` was answered last.
    #[must_use]
    pub fn answered_at(&self, question: &Question) -> Option<Timestamp> {
        self.answers.get(question).map(|(at, _)| *at)
    }

    /// The failure of `controller`'s last attempt at `key`, if it failed.
    #[must_use]
    pub fn failure(&self, controller: &'static str, key: &Key) -> Option<&Failure> {
        self.failures.get(&(controller, key.clone()))
    }

    /// When this process last heard of a node; at the earliest when it began to listen.
    #[must_use]
    pub fn heard(&self, node: &str) -> Timestamp {
        let heard = self.heard.get(node).copied();
        heard.max(self.started).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    /// Remembers when a node was heard of.
    pub fn hear(&mut self, node: &str, now: Timestamp) {
        self.heard.insert(node.to_owned(), now);
    }

    /// Forgets a node.
    pub fn forget(&mut self, node: &str) {
        self.heard.remove(node);
    }

    /// Remembers when this process began to listen.
    pub fn start(&mut self, now: Timestamp) {
        self.started = Some(now);
    }

    /// Remembers an answer.
    pub fn learn(&mut self, question: Question, now: Timestamp, answer: Answer) {
        if self.answers.len() >= MAX_ANSWERS
            && let Some(oldest) =
                self.answers.iter().min_by_key(|(_, (at, _))| *at).map(|(question, _)| question.clone())
        {
            self.answers.remove(&oldest);
        }
        self.answers.insert(question, (now, answer));
    }

    /// Remembers how `controller`'s attempt at `key` ended.
    pub fn attempted(&mut self, controller: &'static str, key: &Key, failure: Option<Failure>) {
        match failure {
            Some(failure) => self.failures.insert((controller, key.clone()), failure),
            None => self.failures.remove(&(controller, key.clone())),
        };
    }
}
