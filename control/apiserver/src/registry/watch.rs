//! WATCH: changes as a stream of framed events.
//!
//! A watch never waits for a slow client: its queue is bounded, and a client that falls behind is let go and
//! lists again.

use super::{
    call::Call,
    commit::cache_status,
    list_options::{Freshness, ListOptions},
    read::selectors,
    view::{View, event_type},
};
use crate::{
    body::{Body, BodyError},
    cache::{Change, ChangeKind, ChangeStream, Entry, Place, Predicate, WatchStart},
    http::{self, Accept, Chunk, Joiner, Piece, Shape},
    rules,
};
use bytes::Bytes;
use http_body::Frame;
use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use timonel_api::{
    Status, Value,
    table::{IncludeObject, partial_metadata},
};
use tokio::time::{Instant, Sleep};

/// How long a watch lasts when the client does not say: between once and twice this.
const MIN_TIMEOUT: Duration = Duration::from_secs(1800);
/// How often a quiet watch tells how far it is.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// Events that are there already go out in one frame up to about this size: what a frame costs in HTTP/2 is more than
/// what its bytes do.
const JOINED_BYTES: usize = 16 << 10;
/// Marks the bookmark that ends the initial events.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// Answers WATCH.
pub(crate) async fn watch(call: &Call<'_>) -> Result<http::Answer, Status> {
    let options = ListOptions::parse(call.query, true)?;
    let selectors = selectors(call)?;
    let place = call.view.slot.place();
    let send_initial = options.send_initial_events;
    let freshness = options.freshness()?;
    let start = match (freshness, send_initial) {
        (Freshness::Newest, _) => {
            place.wait_newest().await.map_err(cache_status)?;
            WatchStart::Now
        }
        (Freshness::Any, _) => WatchStart::Now,
        (Freshness::NotOlderThan(revision) | Freshness::Exact(revision), Some(true)) => {
            place.wait_until(revision).await.map_err(cache_status)?;
            WatchStart::Now
        }
        (Freshness::NotOlderThan(revision) | Freshness::Exact(revision), _) => WatchStart::After(revision),
    };
    let rendering = Rendering {
        view: call.view.clone(),
        accept: call.accept,
        include: rules::include_object(call.query.get("includeObject"))?,
        now: call.now,
    };
    let (initial, stream) = match call.view.slot.watch(&selectors.selection, start) {
        Ok(started) => started,
        Err(too_old) => return refused(&rendering, &Status::expired(too_old.to_string())),
    };
    let mut initial = initial;
    selectors.settle(&call.view, &mut initial).await?;
    call.view.prepare(&initial).await?;
    // Without `sendInitialEvents` a watch from "now" replays what is there, as upstream's does; with `false` it
    // does not.
    let initial = if send_initial == Some(false) { Vec::new() } else { initial };
    let timeout = options.timeout_seconds.map(Duration::from_secs).filter(|timeout| !timeout.is_zero());
    let timeout = timeout.unwrap_or_else(|| {
        MIN_TIMEOUT + Duration::from_millis(call.server.entropy.below(MIN_TIMEOUT.as_millis() as u64))
    });
    let now = Instant::now();
    let end_at = now + timeout;
    // Without bookmarks nothing is to ring before the end: a hundred thousand idle watches would each wake every minute.
    let bookmark_at = if options.allow_bookmarks { now + BOOKMARK_EVERY } else { end_at };
    let body = WatchBody {
        key: rendering.view.rendering(&rendering.accept),
        rendering,
        initial: Some(initial.into_iter()),
        announce_end: send_initial == Some(true),
        bookmarks: options.allow_bookmarks,
        bookmark_at,
        end_at,
        timer: Box::pin(tokio::time::sleep_until(end_at.min(bookmark_at))),
        stream: Some(stream),
        place: place.clone(),
        columns_sent: false,
        converting: None,
        late: selectors.selection.predicate.filter(|_| selectors.is_late),
        _running: call.server.metrics.long_running(call.info),
    };
    Ok(http::Answer::body(200, call.accept.media.stream_type(), Body::chunked(body)))
}

/// A watch that ends at once with an error event.
fn refused(rendering: &Rendering, status: &Status) -> Result<http::Answer, Status> {
    let frame = rendering.view.event_value(&rendering.accept, "ERROR", &status.to_value())?;
    Ok(http::Answer::bytes(200, rendering.accept.media.stream_type(), frame))
}

#[derive(Debug)]
struct Rendering {
    view: Arc<View>,
    accept: Accept,
    include: IncludeObject,
    now: jiff::Timestamp,
}

impl Rendering {
    fn event(&self, kind: ChangeKind, entry: &Entry, with_columns: bool) -> Result<Bytes, Status> {
        if self.accept.shape != Shape::Table {
            return self.view.event(&self.accept, kind, entry);
        }
        let row = self.view.printer().row(&self.view.decode(entry)?, self.include, self.now);
        self.view.event_value(&self.accept, event_type(kind), &self.table(vec![row], entry.revision, with_columns))
    }

    fn table(&self, rows: Vec<Value>, revision: u64, with_columns: bool) -> Value {
        let mut meta = Value::object();
        meta.set_at(&["resourceVersion"], revision.to_string());
        self.accept.versioned(self.view.printer().table(rows, meta, with_columns))
    }

    fn bookmark(&self, revision: u64, ends_initial: bool) -> Result<Bytes, Status> {
        let mut object = Value::object();
        self.view.stamp(&mut object);
        object.set_at(&["metadata", "resourceVersion"], revision.to_string());
        object.set_at(&["metadata", "creationTimestamp"], Value::Null);
        if ends_initial {
            object.set_at(&["metadata", "annotations", INITIAL_EVENTS_END], "true");
        }
        let object = match self.accept.shape {
            Shape::Whole => object,
            Shape::Partial => self.accept.versioned(partial_metadata(&object)),
            Shape::Table => {
                let row = self.view.printer().row(&object, self.include, self.now);
                self.table(vec![row], revision, false)
            }
        };
        self.view.event_value(&self.accept, "BOOKMARK", &object)
    }
}

/// A change that waits for its conversion, which says what it is to this watch.
struct Converting {
    change: Arc<Change>,
    work: Pin<Box<dyn Future<Output = Result<Option<ChangeKind>, Status>> + Send>>,
}

/// Converts what a change shows; selectors that judge converted objects judge it anew.
async fn convert(
    view: Arc<View>,
    change: Arc<Change>,
    kind: ChangeKind,
    late: Option<Predicate>,
) -> Result<Option<ChangeKind>, Status> {
    let mut kind = Some(kind);
    if let Some(matches) = late {
        let both: Vec<_> = change.previous.iter().chain([&change.current]).cloned().collect();
        view.prepare(&both).await?;
        kind = change.kind_for(|entry| matches(entry));
    }
    if let Some(kind) = kind {
        view.prepare(std::slice::from_ref(change.shown(kind))).await?;
    }
    Ok(kind)
}

/// The stream of one watch.
struct WatchBody {
    rendering: Rendering,
    key: u32,
    /// What was there at the start; gone, and its memory with it, once it has been sent.
    initial: Option<std::vec::IntoIter<Arc<Entry>>>,
    announce_end: bool,
    bookmarks: bool,
    bookmark_at: Instant,
    end_at: Instant,
    /// Rings for whichever comes first.
    timer: Pin<Box<Sleep>>,
    stream: Option<ChangeStream>,
    place: Arc<Place>,
    columns_sent: bool,
    /// A change that a webhook converts before it can be shown.
    converting: Option<Converting>,
    /// Selectors that judge objects after their conversion.
    late: Option<Predicate>,
    _running: crate::metrics::LongRunning,
}

impl WatchBody {
    fn change(&mut self, change: &Change, kind: ChangeKind) -> Result<Bytes, Status> {
        let entry = change.shown(kind);
        if self.rendering.accept.shape == Shape::Table {
            let with_columns = !std::mem::replace(&mut self.columns_sent, true);
            return self.rendering.event(kind, entry, with_columns);
        }
        change.frame((self.key, kind), || self.rendering.event(kind, entry, false))
    }

    /// Ends the watch, with an error event when something broke.
    fn end(&mut self, status: Option<&Status>) -> Option<Bytes> {
        self.stream = None;
        let status = status?;
        self.rendering.view.event_value(&self.rendering.accept, "ERROR", &status.to_value()).ok()
    }

    fn poll_bytes(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        loop {
            if self.stream.is_none() {
                return Poll::Ready(None);
            }
            if let Some(converting) = &mut self.converting {
                let done = std::task::ready!(converting.work.as_mut().poll(context));
                let Some(Converting { change, .. }) = self.converting.take() else { return Poll::Ready(None) };
                let frame = match done {
                    // After its conversion it is nothing to this watch.
                    Ok(None) => continue,
                    Ok(Some(kind)) => self.change(&change, kind),
                    Err(status) => Err(status),
                };
                return Poll::Ready(frame.map_or_else(|status| self.end(Some(&status)), Some));
            }
            let next = self.poll_next(context);
            if self.converting.is_none() {
                return next;
            }
        }
    }

    /// What comes next, unless a change is to be converted first.
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if let Some(entry) = self.initial.as_mut().and_then(Iterator::next) {
            let with_columns = !std::mem::replace(&mut self.columns_sent, true);
            let frame = self.rendering.event(ChangeKind::Added, &entry, with_columns);
            return Poll::Ready(frame.map_or_else(|status| self.end(Some(&status)), Some));
        }
        self.initial = None;
        // Everything up to this revision is queued before the cache says so: if the queue is empty after
        // reading it, all of it has been delivered.
        let delivered = self.place.delivered();
        let next = self.stream.as_mut().map(|stream| stream.poll_next(context));
        match next {
            Some(Poll::Ready(Ok((change, kind))))
                if self.late.is_some() || !self.rendering.view.is_ready(change.shown(kind)) =>
            {
                let work = convert(self.rendering.view.clone(), change.clone(), kind, self.late.clone());
                self.converting = Some(Converting { change, work: Box::pin(work) });
                return Poll::Pending;
            }
            Some(Poll::Ready(Ok((change, kind)))) if !self.announce_end => {
                let frame = self.change(&change, kind);
                return Poll::Ready(frame.map_or_else(|status| self.end(Some(&status)), Some));
            }
            Some(Poll::Ready(Ok((change, kind)))) => {
                // A change right at the start: the announcement goes first, with the revision before it.
                self.announce_end = false;
                let announcement = self.rendering.bookmark(change.revision.saturating_sub(1), true);
                let frame = announcement
                    .and_then(|bookmark| Ok(Bytes::from([&bookmark[..], &self.change(&change, kind)?[..]].concat())));
                return Poll::Ready(frame.map_or_else(|status| self.end(Some(&status)), Some));
            }
            Some(Poll::Ready(Err(_))) | None => {
                self.end(None);
                return Poll::Ready(None);
            }
            Some(Poll::Pending) => {}
        }
        if std::mem::take(&mut self.announce_end) {
            let frame = self.rendering.bookmark(delivered, true);
            return Poll::Ready(frame.map_or_else(|status| self.end(Some(&status)), Some));
        }
        while self.timer.as_mut().poll(context).is_ready() {
            let now = Instant::now();
            if now >= self.end_at {
                self.end(None);
                return Poll::Ready(None);
            }
            let due = self.bookmarks && now >= self.bookmark_at;
            if due {
                self.bookmark_at = now + BOOKMARK_EVERY;
            }
            let next = self.end_at.min(self.bookmark_at);
            self.timer.as_mut().reset(next);
            if due {
                let frame = self.rendering.bookmark(delivered, false);
                return Poll::Ready(frame.map_or_else(|status| self.end(Some(&status)), Some));
            }
        }
        Poll::Pending
    }
}

impl http_body::Body for WatchBody {
    type Data = Chunk;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Chunk>, BodyError>>> {
        let Some(first) = std::task::ready!(self.poll_bytes(context)) else { return Poll::Ready(None) };
        let (mut joined, mut length) = (None, first.len());
        // What an end leaves behind is found by the next poll.
        while length < JOINED_BYTES
            && let Poll::Ready(Some(next)) = self.poll_bytes(context)
        {
            length += next.len();
            let joiner = joined.get_or_insert_with(|| {
                let mut joiner = Joiner::default();
                joiner.push(Piece::Bytes(first.clone()));
                joiner
            });
            joiner.push(Piece::Bytes(next));
        }
        let chunk = joined.map_or(Chunk::Bytes(first), |joiner: Joiner| Chunk::Rope(joiner.finish()));
        Poll::Ready(Some(Ok(Frame::data(chunk))))
    }
}
