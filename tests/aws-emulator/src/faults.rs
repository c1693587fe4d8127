//! Scripted faults: which calls they meet, what they do, how often and how long.

use crate::iam::matches;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// The most rules at a time.
const MAX_RULES: usize = 1_000;

/// What happens to a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Effect {
    /// Refused as too many.
    Throttle,
    /// Refused as not allowed.
    Deny,
    /// An error before anything took effect.
    ErrorBefore {
        /// The code; `InternalError` for a 500.
        code: String,
        /// The status.
        status: u16,
    },
    /// The same after it took effect.
    ErrorAfter {
        /// The code.
        code: String,
        /// The status.
        status: u16,
    },
    /// No answer, and no effect.
    TimeoutBefore,
    /// No answer, but the effect.
    TimeoutAfter,
    /// The connection ends without an answer after the effect.
    DropAfter,
    /// Half of the action's list takes effect, then an error 500; all of it where the action has no list.
    Half,
    /// Reads answer as of the moment when the rule was made.
    Stale,
    /// Reads answer that there is nothing.
    Empty,
}

/// Which calls a fault meets. What is left open meets all; patterns have `*` and `?`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// A name, for the ledger and for taking it back.
    pub name: String,
    /// The action's name.
    #[serde(default)]
    pub action: Option<String>,
    /// The caller's ARN.
    #[serde(default)]
    pub caller: Option<String>,
    /// The region.
    #[serde(default)]
    pub region: Option<String>,
    /// A parameter on the wire and its value.
    #[serde(default)]
    pub parameter: Option<(String, String)>,
    /// How many calls pass before.
    #[serde(default)]
    pub skip: u32,
    /// How many calls it meets; without end when left open.
    #[serde(default)]
    pub times: Option<u32>,
    /// How long it lasts, from when it is made.
    #[serde(default)]
    pub seconds: Option<u32>,
    /// What it does.
    pub effect: Effect,
}

/// A call as faults look at it.
#[derive(Debug)]
pub(crate) struct Subject<'a> {
    pub(crate) action: &'a str,
    pub(crate) caller: &'a str,
    pub(crate) region: &'a str,
    pub(crate) write: bool,
    pub(crate) parameters: &'a [(String, String)],
}

/// A rule that meets a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Met {
    pub(crate) name: String,
    pub(crate) effect: Effect,
    pub(crate) since: Timestamp,
}

#[derive(Debug)]
struct Armed {
    rule: Rule,
    since: Timestamp,
}

/// The rules in force.
#[derive(Debug, Default)]
pub struct Faults {
    rules: Vec<Armed>,
}

impl Faults {
    /// Puts a rule in force; one of the same name is replaced. `false` when there are too many.
    pub fn arm(&mut self, rule: Rule, now: Timestamp) -> bool {
        self.disarm(&rule.name);
        let room = self.rules.len() < MAX_RULES;
        if room {
            self.rules.push(Armed { rule, since: now });
        }
        room
    }

    /// Takes a rule back; whether there was one.
    pub fn disarm(&mut self, name: &str) -> bool {
        let before = self.rules.len();
        self.rules.retain(|armed| armed.rule.name != name);
        before != self.rules.len()
    }

    /// Takes all back.
    pub fn clear(&mut self) {
        self.rules.clear();
    }

    /// The rules in force with what is left of them.
    pub fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.rules.iter().map(|armed| &armed.rule)
    }

    /// The first rule that meets this call, which uses it up by one.
    pub(crate) fn meet(&mut self, subject: &Subject<'_>, now: Timestamp) -> Option<Met> {
        self.rules.retain(|armed| !armed.is_over(now));
        for armed in &mut self.rules {
            if !armed.rule.is_about(subject) {
                continue;
            }
            if armed.rule.skip > 0 {
                armed.rule.skip -= 1;
                continue;
            }
            if let Some(times) = &mut armed.rule.times {
                *times -= 1;
            }
            return Some(Met { name: armed.rule.name.clone(), effect: armed.rule.effect.clone(), since: armed.since });
        }
        None
    }
}

impl Armed {
    fn is_over(&self, now: Timestamp) -> bool {
        let late = |seconds: u32| now.duration_since(self.since) >= SignedDuration::from_secs(i64::from(seconds));
        self.rule.times == Some(0) || self.rule.seconds.is_some_and(late)
    }
}

impl Rule {
    fn is_about(&self, subject: &Subject<'_>) -> bool {
        let fits = |pattern: &Option<String>, text: &str| pattern.as_ref().is_none_or(|it| matches(it, text));
        let has = |(name, value): &(String, String)| {
            subject.parameters.iter().any(|(given, text)| matches(name, given) && matches(value, text))
        };
        let lies = matches!(self.effect, Effect::Stale | Effect::Empty);
        fits(&self.action, subject.action)
            && fits(&self.caller, subject.caller)
            && fits(&self.region, subject.region)
            && self.parameter.as_ref().is_none_or(has)
            && !(lies && subject.write)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(action: &str) -> Subject<'_> {
        Subject { action, caller: "arn:c", region: "r", write: !action.starts_with("Describe"), parameters: &[] }
    }

    fn rule(text: &str) -> Rule {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn rules_meet_their_calls_as_often_as_they_say() {
        let mut faults = Faults::default();
        let start = Timestamp::UNIX_EPOCH;
        let text = r#"{"name":"a","action":"Create*","skip":1,"times":2,"effect":{"do":"throttle"}}"#;
        assert!(faults.arm(rule(text), start));
        let met: Vec<bool> = ["DescribeTags", "CreateTags", "CreateTags", "CreateVolume", "CreateTags"]
            .map(|action| faults.meet(&subject(action), start).is_some())
            .to_vec();
        assert_eq!(met, [false, false, true, true, false]);
        assert_eq!(faults.rules().count(), 0, "a rule that is used up is gone");
    }

    #[test]
    fn rules_end_and_lies_are_for_reads() {
        let mut faults = Faults::default();
        let start = Timestamp::UNIX_EPOCH;
        faults.arm(rule(r#"{"name":"a","seconds":10,"effect":{"do":"empty"}}"#), start);
        let later = start + SignedDuration::from_secs(9);
        assert!(faults.meet(&subject("CreateTags"), later).is_none());
        assert!(faults.meet(&subject("DescribeTags"), later).is_some());
        assert!(faults.meet(&subject("DescribeTags"), start + SignedDuration::from_secs(10)).is_none());
        assert!(!faults.disarm("a"));
    }
}
