//! What happened, for those who listen: a host that stands behind an instance, and the event bus.

use crate::ledger::as_text;
use jiff::Timestamp;
use serde::Serialize;
use std::collections::VecDeque;

/// The most events that are kept for listeners.
const MAX_EVENTS: usize = 50_000;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
#[allow(missing_docs, reason = "the names say it")]
pub enum Event {
    /// An instance is in another state.
    InstanceState { instance: String, state: String },
    /// A spot instance will be taken away.
    SpotInterruption {
        instance: String,
        action: String,
        #[serde(serialize_with = "as_text")]
        ends: Timestamp,
    },
    /// A spot instance is likely to be taken away.
    Rebalance { instance: String },
    /// The provider plans something for an instance.
    Scheduled {
        instance: String,
        code: String,
        #[serde(serialize_with = "as_text")]
        not_before: Timestamp,
    },
    /// A volume is attached.
    VolumeAttached { volume: String, instance: String, device: String },
    /// A volume is not attached any more.
    VolumeDetached { volume: String, instance: String },
}

/// An event with its number and moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Happening {
    /// Its number, from 1.
    pub number: u64,
    /// When.
    #[serde(serialize_with = "as_text")]
    pub at: Timestamp,
    /// What.
    #[serde(flatten)]
    pub event: Event,
}

/// The events of a region, newest last.
#[derive(Debug, Default)]
pub(crate) struct Events {
    all: VecDeque<Happening>,
    count: u64,
}

impl Events {
    pub(crate) fn push(&mut self, at: Timestamp, event: Event) {
        self.count += 1;
        if self.all.len() >= MAX_EVENTS {
            self.all.pop_front();
        }
        self.all.push_back(Happening { number: self.count, at, event });
    }

    /// Events behind number `after`, at most `limit`.
    pub(crate) fn after(&self, after: u64, limit: usize) -> impl Iterator<Item = &Happening> {
        self.all.iter().skip_while(move |it| it.number <= after).take(limit)
    }
}
