//! Every call with who made it, what it asked and what came of it.

use jiff::Timestamp;
use serde::Serialize;
use std::collections::{BTreeMap, VecDeque};

/// The most calls that are remembered in full; counts go on.
const MAX_ENTRIES: usize = 100_000;
/// Parameters whose values are not kept.
const SECRETS: [&str; 4] = ["UserData", "WebIdentityToken", "ClientSecret", "SAMLAssertion"];

/// A call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Its number, from 1.
    pub number: u64,
    /// When it came.
    #[serde(serialize_with = "as_text")]
    pub at: Timestamp,
    /// The service in signatures' words.
    pub service: String,
    /// The region.
    pub region: String,
    /// The action.
    pub action: String,
    /// The caller's ARN, when known.
    pub caller: String,
    /// Their access key.
    pub access_key: String,
    /// Parameters as on the wire, without what is secret.
    pub parameters: Vec<(String, String)>,
    /// `ok`, or the code of the refusal.
    pub outcome: String,
    /// The scripted fault that met it.
    pub fault: Option<String>,
    /// How many objects were looked at: the work, free of any clock.
    pub looked_at: u64,
    /// Whether the action took effect although the caller may not have learned it.
    pub took_effect: bool,
}

/// Moments go out as text.
pub(crate) fn as_text<S: serde::Serializer>(at: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(at)
}

/// All calls.
#[derive(Debug, Default)]
pub struct Ledger {
    entries: VecDeque<Entry>,
    count: u64,
    counts: BTreeMap<(String, String), u64>,
}

impl Ledger {
    /// Takes a call in, giving it its number.
    pub(crate) fn push(&mut self, mut entry: Entry) {
        self.count += 1;
        entry.number = self.count;
        for (name, value) in &mut entry.parameters {
            if SECRETS.iter().any(|secret| name.ends_with(secret)) {
                *value = format!("({} bytes)", value.len());
            }
        }
        *self.counts.entry((entry.action.clone(), entry.outcome.clone())).or_default() += 1;
        if self.entries.len() >= MAX_ENTRIES {
            self.entries.pop_front();
        }
        self.entries.push_back(entry);
    }

    /// Calls behind number `after`, at most `limit`.
    pub fn after(&self, after: u64, limit: usize) -> impl Iterator<Item = &Entry> {
        self.entries.iter().skip_while(move |entry| entry.number <= after).take(limit)
    }

    /// The number of all calls so far.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// How often each action ended how.
    #[must_use]
    pub fn counts(&self) -> &BTreeMap<(String, String), u64> {
        &self.counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_numbered_counted_and_keep_no_secrets() {
        let mut ledger = Ledger::default();
        let entry = Entry {
            number: 0,
            at: Timestamp::UNIX_EPOCH,
            service: "ec2".into(),
            region: "r".into(),
            action: "RunInstances".into(),
            caller: "c".into(),
            access_key: "k".into(),
            parameters: vec![("LaunchTemplateData.UserData".into(), "secret".into()), ("A".into(), "b".into())],
            outcome: "ok".into(),
            fault: None,
            looked_at: 0,
            took_effect: true,
        };
        ledger.push(entry.clone());
        ledger.push(entry);
        let seen: Vec<_> = ledger.after(1, 10).collect();
        assert_eq!(seen.len(), 1);
        assert_eq!(seen[0].parameters[0].1, "(6 bytes)");
        assert_eq!(ledger.counts()[&("RunInstances".to_owned(), "ok".to_owned())], 2);
    }
}
