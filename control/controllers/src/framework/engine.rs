//! The loop of a cluster's controllers: one task that owns the caches, the queue, the timers and the attempts under
//! way. Nothing is locked and an idle cluster has nothing to poll but its watches.

use super::{
    action::Plan,
    controller::Controller,
    discovery,
    execute::{Effect, Executor, Outcome},
    kinds::{Change, Key, Kind, Object, Resource, Signal, View, Watch, watch_backoff},
    queue::{Item, Queue},
};
use crate::metrics::{Metrics, QueueMetrics};
use futures::{
    FutureExt, StreamExt,
    future::BoxFuture,
    stream::{self, AbortHandle, BoxStream, FuturesUnordered, SelectAll},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{
    api::{ApiResource, DynamicObject, PartialObjectMeta},
    runtime::{WatchStreamExt, watcher},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use timonel_runtime::Clock;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

/// Keys attempted at once.
const MAX_ATTEMPTS: usize = 64;
/// Keys planned in one turn of the loop.
const MAX_PLANS: usize = 256;
/// A resource that cannot be listed holds the garbage collector back no longer than this.
const LIST_PATIENCE: Duration = Duration::from_secs(30);
/// Watch events taken in before the queue is looked at.
const MAX_EVENTS: usize = 512;
/// How often the list of resources is read anew without a reason.
const REDISCOVER: Duration = Duration::from_secs(300);
/// How soon after a definition changed, or after a failure.
const REDISCOVER_SOON: Duration = Duration::from_secs(1);

type MetadataEvent = (Resource, Result<watcher::Event<PartialObjectMeta<DynamicObject>>, watcher::Error>);
type Attempt = BoxFuture<'static, (Item, Outcome)>;

enum Input {
    Typed(Box<(Kind, Result<Signal, watcher::Error>)>),
    Metadata(Box<MetadataEvent>),
}

/// The metadata watch of one resource that no cache holds in full.
struct MetadataWatch {
    stop: AbortHandle,
    listed: Option<BTreeSet<String>>,
    complete: bool,
    since: tokio::time::Instant,
}

/// See the module.
pub(crate) struct Engine {
    executor: Arc<Executor>,
    clock: Clock,
    controllers: Vec<Box<dyn Controller>>,
    listeners: BTreeMap<Kind, Vec<usize>>,
    view: View,
    queue: Queue,
    metrics: Vec<QueueMetrics>,
    inputs: SelectAll<BoxStream<'static, Input>>,
    attempts: FuturesUnordered<Attempt>,
    metadata: BTreeMap<Resource, MetadataWatch>,
    /// Keys of controllers whose caches are not complete.
    early: BTreeSet<Item>,
    rediscover_at: tokio::time::Instant,
}

impl Engine {
    pub(crate) fn new(executor: Executor, controllers: Vec<Box<dyn Controller>>, metrics: &Metrics) -> Self {
        let metrics: Vec<_> = controllers.iter().map(|controller| metrics.of(controller.name())).collect();
        let mut listeners: BTreeMap<Kind, Vec<usize>> = BTreeMap::new();
        for (index, controller) in controllers.iter().enumerate() {
            for kind in controller.reads() {
                listeners.entry(*kind).or_default().push(index);
            }
        }
        let mut inputs = SelectAll::new();
        let graph = controllers.iter().any(|controller| controller.follows_graph());
        for kind in Kind::ALL {
            if listeners.contains_key(kind) || (graph && kind.complete()) {
                inputs.push(typed_input(kind.watch(&executor.client)));
            }
        }
        let mut view = View::default();
        view.memory.start(executor.clock.now());
        Self {
            clock: executor.clock.clone(),
            executor: Arc::new(executor),
            controllers,
            listeners,
            view,
            queue: Queue::with_metrics(metrics.clone()),
            metrics,
            inputs,
            attempts: FuturesUnordered::new(),
            metadata: BTreeMap::new(),
            early: BTreeSet::new(),
            rediscover_at: tokio::time::Instant::now(),
        }
    }

    /// Runs until `token` is cancelled; attempts under way are finished first.
    pub(crate) async fn run(mut self, token: CancellationToken) {
        let mut discovery: Option<BoxFuture<'static, _>> = None;
        loop {
            let more = self.start_attempts();
            let deadline = self.next_deadline();
            tokio::select! {
                biased;
                () = token.cancelled() => break,
                Some((item, outcome)) = self.attempts.next(), if !self.attempts.is_empty() => self.finish(item, outcome),
                Some(input) = self.inputs.next(), if !self.inputs.is_empty() => self.take_inputs(input),
                found = settled(&mut discovery) => {
                    discovery = None;
                    self.discovered(found);
                }
                () = tokio::time::sleep_until(self.rediscover_at), if discovery.is_none() => {
                    let client = self.executor.client.clone();
                    discovery = Some(async move { discovery::discover(&client).await }.boxed());
                }
                () = sleep_until(deadline), if deadline.is_some() => self.queue.advance(self.clock.now()),
                () = tokio::task::yield_now(), if more => {}
            }
        }
        while let Some((item, outcome)) = self.attempts.next().await {
            self.finish(item, outcome);
        }
    }

    fn discovered(&mut self, found: Result<discovery::Found, kube::Error>) {
        match found {
            Ok(found) => {
                self.rediscover_at = tokio::time::Instant::now() + REDISCOVER;
                self.follow(&found.resources);
                self.view.graph.set_resources(found.resources);
            }
            Err(error) => {
                tracing::warn!(%error, "the server's list of resources cannot be read");
                self.rediscover_at = tokio::time::Instant::now() + REDISCOVER_SOON * 10;
            }
        }
        self.check_complete();
    }

    /// Starts and stops metadata watches so that they cover `resources`.
    fn follow(&mut self, resources: &[Resource]) {
        if !self.controllers.iter().any(|controller| controller.follows_graph()) {
            return;
        }
        let wanted: BTreeSet<&Resource> = resources
            .iter()
            .filter(|resource| !Kind::find(&resource.api_version, &resource.kind).is_some_and(Kind::complete))
            .collect();
        let gone: Vec<Resource> = self.metadata.keys().filter(|resource| !wanted.contains(resource)).cloned().collect();
        for resource in gone {
            if let Some(watch) = self.metadata.remove(&resource) {
                watch.stop.abort();
            }
            for uid in self.view.graph.known(&resource) {
                self.view.graph.remove(&uid);
            }
        }
        for resource in wanted {
            if !self.metadata.contains_key(resource) {
                let (input, stop) = metadata_input(&self.executor.client, resource);
                self.inputs.push(input);
                let since = tokio::time::Instant::now();
                self.metadata.insert(resource.clone(), MetadataWatch { stop, listed: None, complete: false, since });
                self.rediscover_at = self.rediscover_at.min(since + LIST_PATIENCE);
            }
        }
        self.touch_graph();
    }

    fn check_complete(&mut self) {
        let typed = Kind::ALL.iter().all(|kind| !kind.complete() || self.view.synced(*kind));
        let listed = self.metadata.values().all(|watch| watch.complete || watch.since.elapsed() >= LIST_PATIENCE);
        let complete = typed && !self.view.graph.resources().is_empty() && listed;
        self.view.graph.set_complete(complete);
        self.touch_graph();
    }

    fn take_inputs(&mut self, first: Input) {
        self.take_input(first);
        for _ in 1..MAX_EVENTS {
            match self.inputs.next().now_or_never() {
                Some(Some(input)) => self.take_input(input),
                _ => break,
            }
        }
        self.touch_graph();
    }

    fn take_input(&mut self, input: Input) {
        match input {
            Input::Typed(event) => {
                let (kind, signal) = *event;
                match signal {
                    Ok(signal) => self.take_signal(kind, signal),
                    Err(error) => {
                        tracing::debug!(?kind, %error, "watch failed; it starts again");
                        // A server that does not serve the kind has none of it.
                        if not_found(&error) {
                            self.take_signal(kind, Signal::Restarted);
                            self.take_signal(kind, Signal::Complete);
                        }
                    }
                }
            }
            Input::Metadata(event) => {
                let (resource, event) = *event;
                match event {
                    Ok(event) => self.take_metadata(&resource, event),
                    Err(error) => {
                        tracing::debug!(resource = %resource.plural, %error, "watch failed; it starts again");
                        if not_found(&error) {
                            self.rediscover_soon();
                        }
                    }
                }
            }
        }
    }

    fn take_signal(&mut self, kind: Kind, signal: Signal) {
        let completed = matches!(signal, Signal::Complete);
        for change in self.view.take(kind, signal) {
            self.changed(&change);
        }
        if completed {
            self.check_complete();
            self.release_early();
        }
    }

    fn take_metadata(&mut self, resource: &Resource, event: watcher::Event<PartialObjectMeta<DynamicObject>>) {
        let Some(watch) = self.metadata.get_mut(resource) else { return };
        match event {
            watcher::Event::Init => watch.listed = Some(BTreeSet::new()),
            watcher::Event::InitApply(object) => {
                if let (Some(listed), Some(uid)) = (&mut watch.listed, &object.metadata.uid) {
                    listed.insert(uid.clone());
                }
                self.view.graph.apply(resource, &object.metadata);
            }
            watcher::Event::InitDone => {
                let listed = watch.listed.take().unwrap_or_default();
                watch.complete = true;
                for uid in self.view.graph.known(resource).into_iter().filter(|uid| !listed.contains(uid)) {
                    self.view.graph.remove(&uid);
                }
                self.check_complete();
            }
            watcher::Event::Apply(object) => {
                self.view.graph.apply(resource, &object.metadata);
                self.definition_changed(resource);
            }
            watcher::Event::Delete(object) => {
                self.view.graph.remove(object.metadata.uid.as_deref().unwrap_or_default());
                self.definition_changed(resource);
            }
        }
    }

    fn definition_changed(&mut self, resource: &Resource) {
        if matches!(&*resource.plural, "customresourcedefinitions" | "apiservices") {
            self.rediscover_soon();
        }
    }

    fn rediscover_soon(&mut self) {
        self.rediscover_at = self.rediscover_at.min(tokio::time::Instant::now() + REDISCOVER_SOON);
    }

    fn changed(&mut self, change: &Change) {
        let kind = change.object().kind();
        if kind.complete() {
            match &change.new {
                Some(object) => {
                    if let Some(old) = change.old.as_ref().filter(|old| old.meta().uid != object.meta().uid) {
                        self.view.graph.remove(old.meta().uid.as_deref().unwrap_or_default());
                    }
                    self.view.graph.apply(&kind.resource(), object.meta());
                }
                None => self.view.graph.remove(change.object().meta().uid.as_deref().unwrap_or_default()),
            }
        }
        self.listen(change);
        let mut keys: Vec<Key> = Vec::new();
        for &index in self.listeners.get(&kind).into_iter().flatten() {
            self.controllers[index].keys(&self.view, change, &mut keys);
            for key in keys.drain(..) {
                self.queue.touch((index, key));
            }
        }
    }

    /// A renewed lease or a new heartbeat is a sign of life of its node.
    fn listen(&mut self, change: &Change) {
        let beat = |object: Option<&Object>| match object {
            Some(Object::Lease(lease)) => lease.spec.as_ref()?.renew_time.as_ref().map(|time| time.0),
            Some(Object::Node(node)) => {
                let conditions = node.status.as_ref()?.conditions.as_ref()?;
                conditions
                    .iter()
                    .filter_map(|condition| condition.last_heartbeat_time.as_ref())
                    .map(|time| time.0)
                    .max()
            }
            _ => None,
        };
        let name = change.object().meta().name.as_deref().unwrap_or_default();
        match (&change.new, change.object()) {
            (Some(new @ (Object::Lease(_) | Object::Node(_))), _) if beat(Some(new)) != beat(change.old.as_ref()) => {
                self.view.memory.hear(name, self.clock.now());
            }
            (None, Object::Node(_)) => self.view.memory.forget(name),
            _ => {}
        }
    }

    fn touch_graph(&mut self) {
        let dirty = self.view.graph.take_dirty();
        if dirty.is_empty() {
            return;
        }
        for (index, _) in self.controllers.iter().enumerate().filter(|(_, controller)| controller.follows_graph()) {
            for uid in &dirty {
                self.queue.touch((index, Key::new("", uid)));
            }
        }
    }

    /// Plans ready keys until enough attempts are under way; says whether it stopped only to let others run.
    fn start_attempts(&mut self) -> bool {
        for _ in 0..MAX_PLANS {
            if self.attempts.len() >= MAX_ATTEMPTS {
                return false;
            }
            let Some(item) = self.queue.next() else { return false };
            let controller = &self.controllers[item.0];
            let now = self.clock.now();
            if !controller.reads().iter().all(|kind| self.view.synced(*kind)) {
                self.queue.done(item.clone(), false, now);
                self.early.insert(item);
                continue;
            }
            let Plan { actions, again } = controller.plan(&self.view, &item.1, now);
            if let Some(at) = again {
                self.queue.touch_at(item.clone(), at);
            }
            if actions.is_empty() {
                self.view.memory.attempted(controller.name(), &item.1, None);
                self.queue.done(item, false, now);
                continue;
            }
            let (executor, name) = (Arc::clone(&self.executor), controller.name());
            let (span, metrics) = (super::execute::span(name, &actions), self.metrics[item.0].clone());
            let attempt = async move {
                let started = tokio::time::Instant::now();
                let outcome = executor.run(name, actions).instrument(span).await;
                metrics.worked(started.elapsed());
                (item, outcome)
            };
            self.attempts.push(attempt.boxed());
        }
        true
    }

    fn finish(&mut self, item: Item, outcome: Outcome) {
        let name = self.controllers[item.0].name();
        let mut learned = false;
        for effect in outcome.effects {
            let change = match effect {
                Effect::Wrote(object) => self.view.wrote(object),
                Effect::Removed(kind, key, uid) => {
                    if !kind.complete() {
                        self.view.graph.remove(&uid);
                    }
                    self.view.removed(kind, &key, &uid)
                }
                Effect::RemovedUnknown(uid) => {
                    self.view.graph.remove(&uid);
                    None
                }
                Effect::Learned(question, at, answer) => {
                    self.view.memory.learn(question, at, answer);
                    learned = true;
                    None
                }
            };
            if let Some(change) = change {
                self.changed(&change);
            }
        }
        let failed = outcome.failure.is_some();
        if !(failed && outcome.stale) {
            self.view.memory.attempted(name, &item.1, outcome.failure);
        }
        self.queue.done(item.clone(), failed, self.clock.now());
        if learned {
            self.queue.touch(item);
        }
        self.touch_graph();
    }

    fn release_early(&mut self) {
        for item in std::mem::take(&mut self.early) {
            self.queue.touch(item);
        }
    }

    fn next_deadline(&self) -> Option<tokio::time::Instant> {
        let wait = self.queue.next_deadline()?.duration_since(self.clock.now());
        Some(tokio::time::Instant::now() + Duration::try_from(wait).unwrap_or(Duration::ZERO))
    }
}

async fn settled<T>(future: &mut Option<BoxFuture<'static, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn not_found(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status)) => status.code == 404,
        _ => false,
    }
}

fn typed_input(watch: Watch) -> BoxStream<'static, Input> {
    watch.map(|event| Input::Typed(Box::new(event))).boxed()
}

fn metadata_input(client: &kube::Client, resource: &Resource) -> (BoxStream<'static, Input>, AbortHandle) {
    let (group, version) = resource.api_version.split_once('/').unwrap_or(("", &resource.api_version));
    let described = ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version: resource.api_version.to_string(),
        kind: resource.kind.to_string(),
        plural: resource.plural.to_string(),
    };
    let api: kube::Api<PartialObjectMeta<DynamicObject>> = kube::Api::all_with(client.clone(), &described);
    let resource = resource.clone();
    let events = watcher(api, watcher::Config::default()).backoff(watch_backoff()).map(move |mut event| {
        if let Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object)) = &mut event {
            slim(&mut object.metadata);
        }
        Input::Metadata(Box::new((resource.clone(), event)))
    });
    let (stream, stop) = stream::abortable(events);
    (stream.boxed(), stop)
}

fn slim(meta: &mut ObjectMeta) {
    meta.managed_fields = None;
    meta.annotations = None;
}
