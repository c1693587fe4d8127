//! Where requests wait: the shell around the core. A request that may run holds a [`Permit`]; giving it up starts
//! whoever is next.

use super::{
    core::{Arrival, Core, Refused, Running, Started},
    defaults::{self, Named},
    schema::Schema,
    share::{LevelSpec, SERVER_SEATS},
    telling::Telling,
    width,
};
use crate::{
    authn::User,
    http::{Answer, Query, RequestInfo},
};
use arc_swap::ArcSwap;
use http::header::RETRY_AFTER;
use parking_lot::Mutex;
use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};
use timonel_runtime::{Clock, Registry};
use tokio::sync::oneshot;

/// How long a request waits for its turn: a quarter of the time that it has in all, as upstream has it.
const QUEUE_WAIT: Duration = Duration::from_secs(15);

type Waiter = oneshot::Sender<Running>;

/// Shares one server out among the requests of its clients.
#[derive(Debug)]
pub(crate) struct Fairness {
    clock: Clock,
    /// In order of precedence.
    schemas: ArcSwap<Vec<Arc<Schema>>>,
    pub(super) core: Mutex<Core<Waiter>>,
    pub(super) telling: Telling,
    /// Whether the objects that every cluster has are there, and are kept from then on.
    pub(super) kept: AtomicBool,
    /// Whether a task writes them.
    pub(super) keeping: AtomicBool,
}

/// A request of a schema.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) schema: &'a Arc<Schema>,
    pub(crate) user: &'a User,
    pub(crate) info: &'a RequestInfo<'a>,
}

/// A place among those that run; given up when dropped.
#[derive(Debug)]
#[must_use]
pub(crate) struct Permit<'a> {
    fairness: &'a Fairness,
    schema: Arc<Schema>,
    running: Running,
    since: u64,
    /// Further work that the request caused, in seat-nanoseconds.
    more: f64,
}

impl Fairness {
    /// Without levels: everybody may run until there are some.
    pub(crate) fn new(clock: Clock, registry: &Registry) -> Self {
        let core = Mutex::new(Core::new(SERVER_SEATS));
        let (telling, kept, keeping) = (Telling::register(registry), AtomicBool::new(false), AtomicBool::new(false));
        Self { clock, schemas: ArcSwap::default(), core, telling, kept, keeping }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.clock.now().as_nanosecond()).unwrap_or(0)
    }

    /// From here on there are these levels and schemas, and the mandatory ones whatever the objects say.
    pub(super) fn configure(&self, levels: &Named, schemas: &Named) {
        let mandatory = |all: Vec<timonel_api::Value>, known: &Named| -> Vec<Arc<timonel_api::Value>> {
            let missing = all.into_iter().filter(|one| {
                let name = one.str_at(&["metadata", "name"]);
                matches!(name, "exempt" | "catch-all") && !known.contains_key(name)
            });
            missing.map(Arc::new).chain(known.values().cloned()).collect()
        };
        let specs: Vec<LevelSpec> =
            mandatory(defaults::levels(), levels).iter().map(|object| LevelSpec::read(object)).collect();
        let mut core = self.core.lock();
        let uids: Vec<(String, String)> = specs.iter().map(|spec| (spec.name.clone(), spec.uid.clone())).collect();
        let started = core.configure(specs, self.now());
        let mut leading: Vec<Arc<Schema>> = Vec::new();
        for object in mandatory(defaults::schemas(), schemas) {
            let level = object.str_at(&["spec", "priorityLevelConfiguration", "name"]);
            // One without a level matches nothing, until there is one.
            let Some(place) = core.place(level) else { continue };
            let uid = uids.iter().find(|(name, _)| name == level).map_or("", |(_, uid)| uid);
            let told = self.telling.of(level, object.str_at(&["metadata", "name"]));
            leading.push(Arc::new(Schema::read(&object, place, uid, told)));
        }
        leading.sort_by(|a, b| (a.precedence, &a.name).cmp(&(b.precedence, &b.name)));
        self.schemas.store(Arc::new(leading));
        self.wake(&mut core, started);
    }

    /// The schema of a request.
    pub(crate) fn classify(&self, user: &User, info: &RequestInfo<'_>) -> Option<Arc<Schema>> {
        let asked = info.attributes();
        let schemas = self.schemas.load();
        schemas.iter().find(|schema| schema.matches(user, &asked)).or_else(|| schemas.last()).cloned()
    }

    /// Waits for the request's turn.
    ///
    /// # Errors
    /// With the answer for the client, when there is no room even to wait or the turn does not come.
    pub(crate) async fn admit(
        &self,
        asked: Asked<'_>,
        query: &Query<'_>,
        objects: impl FnOnce() -> usize,
    ) -> Result<Permit<'_>, Answer> {
        let seats = width::seats(asked.info, query, objects);
        let (schema, since) = (asked.schema, self.now());
        let permit = |running, since| Permit { fairness: self, schema: schema.clone(), running, since, more: 0.0 };
        let mut turn = None;
        let arrival = self.core.lock().arrive(
            schema.level,
            schema.flow(asked.user, &asked.info.attributes()),
            seats,
            since,
            || {
                let (tell, told) = oneshot::channel();
                turn = Some(told);
                tell
            },
        );
        let refused = match arrival {
            Arrival::Runs(running) => {
                schema.told.dispatched.inc();
                return Ok(permit(running, since));
            }
            Arrival::Refused(Refused::QueueFull) => "queue-full",
            Arrival::Refused(Refused::ConcurrencyLimit) => "concurrency-limit",
            Arrival::Waits(ticket) => {
                let turn = turn.expect("whoever waits has left how to be told");
                let mut waiting = Waiting { fairness: self, schema, ticket, turn, over: false };
                let turn = tokio::time::timeout(QUEUE_WAIT, &mut waiting.turn).await;
                let running = turn.ok().and_then(Result::ok).or_else(|| waiting.withdraw(true));
                waiting.over = true;
                let now = self.now();
                let waited = Duration::from_nanos(now.saturating_sub(since)).as_secs_f64();
                if let Some(running) = running {
                    schema.told.waited.observe(waited);
                    schema.told.dispatched.inc();
                    return Ok(permit(running, now));
                }
                schema.told.waited_in_vain.observe(waited);
                "time-out"
            }
        };
        schema.told.reject(refused);
        Err(Answer::text(429, "Too many requests, please try again later.\n").with(RETRY_AFTER, "1"))
    }

    fn finish(&self, running: &Running, more: f64) {
        let mut core = self.core.lock();
        let started = core.finish(running, more, self.now());
        self.wake(&mut core, started);
    }

    /// Tells those who may run; the place of one who is gone goes to the next.
    fn wake(&self, core: &mut Core<Waiter>, mut started: Started<Waiter>) {
        while let Some((waiter, running)) = started.pop() {
            if let Err(running) = waiter.send(running) {
                started.extend(core.finish(&running, 0.0, self.now()));
            }
        }
    }

    /// Brings what metrics say up to date.
    pub(crate) fn tell(&self) {
        self.telling.look(&self.core.lock());
    }
}

/// A request in a queue; whoever goes away leaves it.
struct Waiting<'a> {
    fairness: &'a Fairness,
    schema: &'a Arc<Schema>,
    ticket: u64,
    turn: oneshot::Receiver<Running>,
    over: bool,
}

impl Waiting<'_> {
    /// Leaves the queue; the place that came in the same moment, if one did.
    fn withdraw(&mut self, timed_out: bool) -> Option<Running> {
        let now = self.fairness.now();
        let waited = self.fairness.core.lock().withdraw(self.schema.level, self.ticket, timed_out, now);
        if waited { None } else { self.turn.try_recv().ok() }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        self.schema.told.reject("cancelled");
        if let Some(running) = self.withdraw(false) {
            self.fairness.finish(&running, 0.0);
        }
    }
}

impl Permit<'_> {
    /// The request wrote something of which so many watches hear.
    pub(crate) fn told(&mut self, watches: usize) {
        self.more = width::telling(watches as u64);
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.fairness.finish(&self.running, self.more);
        let took = self.fairness.now().saturating_sub(self.since);
        self.schema.told.executed.observe(Duration::from_nanos(took).as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    fn fairness() -> Fairness {
        let fairness = Fairness::new(Clock::simulated(jiff::Timestamp::UNIX_EPOCH), &Registry::default());
        fairness.configure(&Named::new(), &Named::new());
        fairness
    }

    fn asked<'a>(schema: &'a Arc<Schema>, user: &'a User, info: &'a RequestInfo<'a>) -> Asked<'a> {
        Asked { schema, user, info }
    }

    #[tokio::test(start_paused = true)]
    async fn administrators_pass_and_others_are_told_to_come_again() {
        let fairness = fairness();
        let info = RequestInfo::parse(&::http::Method::GET, "/api/v1/nodes/x", &Query::default());
        let (admin, user) = (User::system("admin"), User::new("u", &["system:authenticated"]));
        let exempt = fairness.classify(&admin, &info).unwrap();
        let rest = fairness.classify(&user, &info).unwrap();
        assert_eq!((&*exempt.name, &*rest.name), ("exempt", "catch-all"));
        let query = Query::default();
        let mut held = Vec::new();
        for _ in 0..SERVER_SEATS {
            held.push(fairness.admit(asked(&rest, &user, &info), &query, || 0).await.unwrap());
        }
        let refused = fairness.admit(asked(&rest, &user, &info), &query, || 0).await.unwrap_err().finish(&[]);
        assert_eq!((refused.status().as_u16(), &refused.headers()["retry-after"]), (429, &"1".parse().unwrap()));
        assert!(fairness.admit(asked(&exempt, &admin, &info), &query, || 0).await.is_ok());
        held.pop();
        assert!(fairness.admit(asked(&rest, &user, &info), &query, || 0).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_queue_moves_on_whoever_leaves_it() {
        let fairness = fairness();
        let levels = defaults::levels().into_iter().map(|mut one| {
            // One seat for the level that queues, and none to borrow.
            let queues = one.str_at(&["metadata", "name"]) == "global-default";
            let part = if one.str_at(&["spec", "type"]) == "Exempt" { "exempt" } else { "limited" };
            one.set_at(&["spec", part, "nominalConcurrencyShares"], if queues { 1 } else { 600 });
            one.set_at(&["spec", part, "lendablePercent"], 0);
            one.set_at(&["spec", part, "borrowingLimitPercent"], 0);
            (one.str_at(&["metadata", "name"]).to_owned(), Arc::new(one))
        });
        let schemas =
            defaults::schemas().into_iter().map(|one| (one.str_at(&["metadata", "name"]).to_owned(), Arc::new(one)));
        fairness.configure(&levels.collect(), &schemas.collect());
        let info = RequestInfo::parse(&::http::Method::GET, "/api/v1/nodes/x", &Query::default());
        let user = User::new("u", &["system:authenticated"]);
        let schema = fairness.classify(&user, &info).unwrap();
        assert_eq!(schema.name, "global-default");
        let query = Query::default();
        let admit = || fairness.admit(asked(&schema, &user, &info), &query, || 0);
        let first = admit().await.unwrap();
        let (mut gone, mut second, mut third) = (Box::pin(admit()), Box::pin(admit()), Box::pin(admit()));
        assert!(gone.as_mut().now_or_never().is_none());
        assert!(second.as_mut().now_or_never().is_none() && third.as_mut().now_or_never().is_none());
        drop(gone);
        drop(first);
        let second = second.now_or_never().expect("its turn has come").unwrap();
        assert!(third.as_mut().now_or_never().is_none());
        let late = third.await;
        assert!(late.is_err(), "nobody waits for ever");
        drop(second);
        assert!(fairness.core.lock().levels.iter().all(|level| level.is_idle()));
        fairness.tell();
    }
}
