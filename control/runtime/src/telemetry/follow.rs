//! One trace over what an object goes through: the request that made it, the controllers and the scheduler that act
//! on it, the requests of the node that runs it.
//!
//! No object carries a trace: who writes one remembers, in this process and for a while, which trace its UID belongs
//! to; who acts on it later follows. A node's requests name the object, so its server finds the trace for them.

use opentelemetry::{
    Context,
    trace::{SpanContext, TraceContextExt},
};
use parking_lot::Mutex;
use std::{
    collections::{HashMap, VecDeque},
    sync::OnceLock,
    time::{Duration, Instant},
};
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// Objects that are remembered; the oldest go first.
const MOST_OBJECTS: usize = 16_384;
/// What happens to an object later than this after its last remembered write has another cause.
const PATIENCE: Duration = Duration::from_secs(600);

static FOLLOWED: OnceLock<Mutex<Followed>> = OnceLock::new();

#[derive(Debug, Default)]
struct Followed {
    traces: HashMap<String, (SpanContext, Instant)>,
    order: VecDeque<(String, Instant)>,
}

impl Followed {
    fn remember(&mut self, uid: &str, trace: SpanContext, now: Instant) {
        // What follows from a request keeps that request's time: a trace must end some day.
        if self.find(uid, now).is_some_and(|known| known.trace_id() == trace.trace_id()) {
            return;
        }
        self.traces.insert(uid.to_owned(), (trace, now));
        self.order.push_back((uid.to_owned(), now));
        while self.order.len() > MOST_OBJECTS {
            let Some((oldest, at)) = self.order.pop_front() else { return };
            // Remembered again since: a later place in the order holds it.
            if self.traces.get(&oldest).is_some_and(|(_, since)| *since == at) {
                self.traces.remove(&oldest);
            }
        }
    }

    fn find(&self, uid: &str, now: Instant) -> Option<SpanContext> {
        let (trace, since) = self.traces.get(uid)?;
        (now.duration_since(*since) < PATIENCE).then(|| trace.clone())
    }
}

pub(super) fn start() {
    FOLLOWED.get_or_init(Mutex::default);
}

/// Whether traces go anywhere: without that nobody need look for what to follow.
#[must_use]
pub fn traces_are_on() -> bool {
    FOLLOWED.get().is_some()
}

/// Remembers that what happens to the object belongs to the trace of `span`.
pub fn remember_trace(span: &tracing::Span, uid: &str) {
    let Some(followed) = FOLLOWED.get() else { return };
    let trace = span.context().span().span_context().clone();
    if trace.is_valid() && !uid.is_empty() {
        followed.lock().remember(uid, trace, Instant::now());
    }
}

/// Makes `span`, which must not have been entered, a part of the trace that the object belongs to, if it is known.
pub fn follow_trace(span: &tracing::Span, uid: &str) -> bool {
    let Some(followed) = FOLLOWED.get() else { return false };
    let found = followed.lock().find(uid, Instant::now());
    found.is_some_and(|trace| span.set_parent(Context::new().with_remote_span_context(trace)).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry::trace::{SpanId, TraceFlags, TraceId, TraceState};

    fn trace(number: u128) -> SpanContext {
        let (trace, span) = (TraceId::from(number), SpanId::from(7_u64));
        SpanContext::new(trace, span, TraceFlags::SAMPLED, true, TraceState::default())
    }

    #[test]
    fn an_object_is_followed_for_a_while() {
        let (mut followed, now) = (Followed::default(), Instant::now());
        followed.remember("a", trace(1), now);
        assert_eq!(followed.find("a", now).map(|found| found.trace_id()), Some(TraceId::from(1_u128)));
        assert_eq!(followed.find("b", now), None);
        assert_eq!(followed.find("a", now + PATIENCE), None);
    }

    #[test]
    fn the_oldest_are_forgotten_and_what_is_remembered_again_stays() {
        let (mut followed, now) = (Followed::default(), Instant::now());
        let at = |step: usize| now + Duration::from_micros(step as u64);
        followed.remember("first", trace(1), at(0));
        followed.remember("second", trace(2), at(1));
        followed.remember("first", trace(3), at(2));
        for number in 3..=MOST_OBJECTS {
            followed.remember(&number.to_string(), trace(9), at(number));
        }
        assert_eq!((followed.traces.len(), followed.order.len()), (MOST_OBJECTS, MOST_OBJECTS));
        followed.remember("one more", trace(9), at(MOST_OBJECTS + 1));
        assert_eq!(followed.find("second", now), None);
        assert_eq!(followed.find("first", now).map(|found| found.trace_id()), Some(TraceId::from(3_u128)));
    }
}
