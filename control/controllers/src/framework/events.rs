//! Events: which notes are worth a request. Equal notes are counted on one event, and one object cannot flood the
//! store. Pure; the executor sends what it returns.

use super::action::{Note, Tone};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
};

/// Notes that one object may have before they are held back.
const BURST: f64 = 25.0;
/// How fast the allowance of an object grows back.
const SECONDS_PER_NOTE: f64 = 300.0;
/// Equal notes are counted on one event for this long.
const SAME_EVENT: SignedDuration = SignedDuration::from_mins(10);
/// Notes and objects remembered at most.
const MAX_REMEMBERED: usize = 4096;

type Subject = (&'static str, String, String);

#[derive(Debug)]
struct Seen {
    name: String,
    last: Timestamp,
    count: i32,
}

/// What to send for a note.
#[derive(Debug, PartialEq)]
pub(crate) enum Send {
    /// A new event.
    Create(Box<Event>),
    /// The count and last time of an earlier one: namespace, name, count.
    Count { namespace: String, name: String, count: i32, at: Timestamp },
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    seen: BTreeMap<(Subject, Tone, &'static str, String), Seen>,
    allowance: BTreeMap<Subject, (f64, Timestamp)>,
}

impl Recorder {
    /// Decides about a note of `source`; none when the object has had too many.
    pub(crate) fn record(&mut self, source: &'static str, note: &Note, now: Timestamp) -> Option<Send> {
        let subject = subject(source, &note.regarding);
        if !self.allow(&subject, now) {
            return None;
        }
        let key = (subject, note.tone, note.reason, note.message.clone());
        if let Some(seen) = self.seen.get_mut(&key)
            && now.duration_since(seen.last) < SAME_EVENT
        {
            seen.count = seen.count.saturating_add(1);
            seen.last = now;
            let namespace = event_namespace(&note.regarding).to_owned();
            return Some(Send::Count { namespace, name: seen.name.clone(), count: seen.count, at: now });
        }
        if self.seen.len() >= MAX_REMEMBERED {
            self.seen.retain(|_, seen| now.duration_since(seen.last) < SAME_EVENT);
            if self.seen.len() >= MAX_REMEMBERED {
                self.seen.clear();
            }
        }
        let event = event(source, note, now);
        let name = event.metadata.name.clone().unwrap_or_default();
        self.seen.insert(key, Seen { name, last: now, count: 1 });
        Some(Send::Create(Box::new(event)))
    }

    fn allow(&mut self, subject: &Subject, now: Timestamp) -> bool {
        if self.allowance.len() >= MAX_REMEMBERED {
            self.allowance.clear();
        }
        let (left, at) = self.allowance.get(subject).copied().unwrap_or((BURST, now));
        let grown = left + now.duration_since(at).as_secs_f64() / SECONDS_PER_NOTE;
        let left = grown.min(BURST);
        let allowed = left >= 1.0;
        self.allowance.insert(subject.clone(), (if allowed { left - 1.0 } else { left }, now));
        allowed
    }
}

fn subject(source: &'static str, regarding: &ObjectReference) -> Subject {
    let kind = regarding.kind.clone().unwrap_or_default();
    let uid = regarding.uid.clone().or_else(|| regarding.name.clone()).unwrap_or_default();
    (source, kind, uid)
}

fn event_namespace(regarding: &ObjectReference) -> &str {
    regarding.namespace.as_deref().filter(|namespace| !namespace.is_empty()).unwrap_or("default")
}

fn event(source: &'static str, note: &Note, now: Timestamp) -> Event {
    let mut hasher = DefaultHasher::new();
    (source, note.reason, &note.message, &note.regarding.uid, now.as_nanosecond()).hash(&mut hasher);
    let name = format!("{}.{:016x}", note.regarding.name.as_deref().unwrap_or_default(), hasher.finish());
    let namespace = event_namespace(&note.regarding).to_owned();
    Event {
        metadata: ObjectMeta { name: Some(name), namespace: Some(namespace), ..ObjectMeta::default() },
        involved_object: note.regarding.clone(),
        reason: Some(note.reason.to_owned()),
        message: Some(note.message.clone()),
        type_: Some(if note.tone == Tone::Normal { "Normal" } else { "Warning" }.to_owned()),
        source: Some(EventSource { component: Some(source.to_owned()), host: None }),
        reporting_component: Some(source.to_owned()),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        count: Some(1),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(message: &str) -> Note {
        let regarding = ObjectReference {
            kind: Some("ReplicaSet".into()),
            namespace: Some("default".into()),
            name: Some("web".into()),
            uid: Some("1".into()),
            ..ObjectReference::default()
        };
        Note { regarding, tone: Tone::Normal, reason: "SuccessfulCreate", message: message.to_owned() }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).expect("in range")
    }

    #[test]
    fn equal_notes_are_counted_on_one_event() {
        let mut recorder = Recorder::default();
        let Some(Send::Create(event)) = recorder.record("replicaset-controller", &note("x"), at(0)) else {
            panic!("the first note makes an event")
        };
        let again = recorder.record("replicaset-controller", &note("x"), at(5));
        let name = event.metadata.name.expect("events have names");
        assert_eq!(again, Some(Send::Count { namespace: "default".into(), name, count: 2, at: at(5) }));
        assert!(matches!(recorder.record("replicaset-controller", &note("x"), at(2000)), Some(Send::Create(_))));
    }

    #[test]
    fn one_object_cannot_flood_the_store() {
        let mut recorder = Recorder::default();
        let sent = (0..100).filter(|n| recorder.record("c", &note(&n.to_string()), at(0)).is_some()).count();
        assert_eq!(sent, 25);
        assert!(recorder.record("c", &note("later"), at(301)).is_some());
    }
}
