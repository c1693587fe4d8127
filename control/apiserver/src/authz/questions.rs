//! Answers of authorizers outside this process, as facts that a decision can be made from.
//!
//! A decision is made at once, over what is known. What it would have to ask is remembered as open; whoever wants the
//! decision has the open questions asked and decides again, until none is left.

use super::Decision;
use crate::admission::Lookup;
use parking_lot::Mutex;
use std::sync::Arc;
use timonel_api::Value;

/// Questions of one request to authorizers outside.
const MAX_QUESTIONS: usize = 1_000;

/// A question to an authorizer, which is known by its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Question {
    pub(crate) authorizer: u64,
    /// The spec of a `SubjectAccessReview` as JSON.
    pub(crate) spec: Arc<str>,
}

/// What one request has asked, and was told.
#[derive(Debug, Default)]
pub(crate) struct Answers(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    known: Vec<(Question, Decision)>,
    open: Vec<Question>,
}

impl Answers {
    /// Takes the questions that are open.
    pub(crate) fn take_open(&self) -> Vec<Question> {
        std::mem::take(&mut self.0.lock().open)
    }

    /// Remembers an answer for as long as the request lasts.
    pub(crate) fn insert(&self, question: Question, decision: Decision) {
        self.0.lock().known.push((question, decision));
    }

    fn said(&self, authorizer: u64, spec: &str) -> Option<Decision> {
        let mut state = self.0.lock();
        let is = |question: &Question| question.authorizer == authorizer && &*question.spec == spec;
        if let Some((_, decision)) = state.known.iter().find(|(question, _)| is(question)) {
            return Some(decision.clone());
        }
        if state.known.len() + state.open.len() >= MAX_QUESTIONS {
            return Some(Decision::Deny("too many questions to authorizers".to_owned()));
        }
        if !state.open.iter().any(is) {
            state.open.push(Question { authorizer, spec: spec.into() });
        }
        None
    }
}

/// The cluster's objects with the answers of one request beside them.
pub(crate) struct Asking<'a> {
    pub(crate) objects: &'a dyn Lookup,
    pub(crate) answers: &'a Answers,
}

impl Lookup for Asking<'_> {
    fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
        self.objects.get(group, resource, namespace, name)
    }

    fn list(&self, group: &str, resource: &str, namespace: Option<&str>) -> Vec<Arc<Value>> {
        self.objects.list(group, resource, namespace)
    }

    fn generation(&self, group: &str, resource: &str) -> u64 {
        self.objects.generation(group, resource)
    }

    fn pods_of_node(&self, node: &str, namespace: &str) -> Vec<Arc<Value>> {
        self.objects.pods_of_node(node, namespace)
    }

    fn said(&self, authorizer: u64, question: &str) -> Option<Decision> {
        self.answers.said(authorizer, question)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::Objects;

    #[test]
    fn what_is_not_known_is_asked_once() {
        let (objects, answers) = (Objects::default(), Answers::default());
        let asking = Asking { objects: &objects, answers: &answers };
        assert_eq!([asking.said(1, "a"), asking.said(1, "a"), asking.said(2, "a")], [None, None, None]);
        let open = answers.take_open();
        assert_eq!(open.iter().map(|question| question.authorizer).collect::<Vec<_>>(), [1, 2]);
        answers.insert(open[0].clone(), Decision::Allow("yes".into()));
        assert_eq!(asking.said(1, "a"), Some(Decision::Allow("yes".into())));
        assert_eq!((asking.said(2, "a"), answers.take_open().len()), (None, 1));
        for number in 0..MAX_QUESTIONS {
            asking.said(3, &number.to_string());
        }
        assert!(matches!(asking.said(3, "one more"), Some(Decision::Deny(_))));
    }
}
