//! The scheduler at work: follows an API server, decides, carries out. All decisions are `core`'s.

use crate::{
    actions::{ActionError, Actor},
    core::{Decision, Scheduler, Update},
    metrics::{Attempt, Metrics},
    pod::PodInfo,
    volumes::VolumeStep,
    watch::{KINDS, News, news},
};
use futures::StreamExt;
use jiff::{SignedDuration, Timestamp};
use kube::Client;
use std::{collections::BTreeMap, convert::Infallible, sync::Arc, time::Duration};
use timonel_runtime::{Clock, Entropy, OnError, Tasks, follow_trace, traces_are_on};
use tokio::{sync::mpsc, time::Instant};
use tracing::{Instrument, Span};

/// Updates taken in at once before it is decided again.
const UPDATES_AT_ONCE: usize = 256;
/// Decisions made at once before updates are taken in again.
const DECISIONS_AT_ONCE: usize = 32;
/// Most reports on their way: with more, deciding pauses.
const MOST_REPORTS: usize = 64;
/// How long a pod's volumes may take.
const VOLUMES_DEADLINE: SignedDuration = SignedDuration::from_mins(10);
/// How often pods that have waited for long get another chance, and overdue volumes are noticed.
const REFRESH: Duration = Duration::from_secs(30);

/// How the scheduler behaves.
#[derive(Clone, Debug)]
pub struct SchedulerConfig {
    /// Time.
    pub clock: Clock,
    /// Chance: decides between equal nodes.
    pub entropy: Entropy,
    /// The scheduler names that pods may ask for.
    pub profiles: Vec<String>,
    /// Most bindings on their way.
    pub most_bindings: usize,
    /// Names this process in events.
    pub instance: String,
    /// What tells of decisions and of pods that wait.
    pub metrics: Metrics,
}

impl SchedulerConfig {
    /// The default scheduler.
    #[must_use]
    pub fn new(clock: Clock, entropy: Entropy) -> Self {
        let profiles = vec!["default-scheduler".to_owned()];
        Self {
            clock,
            entropy,
            profiles,
            most_bindings: 128,
            instance: "timonel-scheduler".to_owned(),
            metrics: Metrics::default(),
        }
    }
}

/// Why the scheduler ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its watches ended, which they never do while it runs.
    #[error("the watches of the API server ended")]
    WatchesEnded,
}

/// How something that was started ended.
#[derive(Debug)]
enum Done {
    Bound { uid: String, result: Result<(), ActionError> },
    Volumes { pod: Arc<PodInfo>, node: String, result: Result<(), ActionError> },
    Reported(Result<(), ActionError>),
}

/// Schedules until the scope of `tasks` ends.
///
/// # Errors
/// [`Error::WatchesEnded`]; a failing API server is not an error, it is tried again.
pub async fn run(client: Client, config: SchedulerConfig, tasks: &Tasks) -> Result<(), Error> {
    let most = config.most_bindings + MOST_REPORTS;
    let (done, mut finished) = mpsc::channel(most);
    let mut updates = news(&client).ready_chunks(UPDATES_AT_ONCE);
    let mut shell = Shell {
        scheduler: Scheduler::new(config.profiles.iter().cloned()),
        actor: Actor { client, instance: config.instance.clone() },
        config,
        tasks: tasks.child("scheduler"),
        done,
        unknown_kinds: KINDS,
        bindings: 0,
        reports: 0,
        volumes: BTreeMap::new(),
    };
    let token = shell.tasks.token();
    let mut refresh = tokio::time::interval(REFRESH);
    loop {
        let pause = shell.pause();
        tokio::select! {
            biased;
            () = token.cancelled() => return Ok(()),
            Some(done) = finished.recv() => shell.finished(done),
            chunk = updates.next() => shell.take_in(chunk.ok_or(Error::WatchesEnded)?),
            _ = refresh.tick() => shell.refresh(),
            () = tokio::time::sleep(pause.unwrap_or_default()), if pause.is_some() => {}
        }
        shell.decide();
    }
}

struct Shell {
    scheduler: Scheduler,
    actor: Actor,
    config: SchedulerConfig,
    tasks: Tasks,
    done: mpsc::Sender<Done>,
    /// Kinds of which not everything is known: before that, nothing is decided.
    unknown_kinds: usize,
    bindings: usize,
    reports: usize,
    /// Pods that wait for their volumes, with their node and until when.
    volumes: BTreeMap<String, (Arc<PodInfo>, String, Timestamp)>,
}

impl Shell {
    fn now(&self) -> Timestamp {
        self.config.clock.now()
    }

    fn may_decide(&self) -> bool {
        self.unknown_kinds == 0 && self.bindings < self.config.most_bindings && self.reports < MOST_REPORTS
    }

    /// How long there is nothing to decide; `None` until something happens.
    fn pause(&self) -> Option<Duration> {
        if !self.may_decide() {
            return None;
        }
        let now = self.now();
        let next = self.scheduler.next_at(now)?;
        Some(Duration::try_from(next.duration_since(now)).unwrap_or_default())
    }

    fn take_in(&mut self, chunk: Vec<News>) {
        let now = self.now();
        let mut volumes = false;
        for news in chunk {
            match news {
                News::Synced => self.unknown_kinds -= 1,
                News::Update(update) => {
                    volumes |= matches!(update, Update::Claim(..) | Update::Volume(..));
                    self.scheduler.update(update, now);
                }
            }
        }
        if volumes {
            self.bind_those_with_volumes();
        }
    }

    fn decide(&mut self) {
        for _ in 0..DECISIONS_AT_ONCE {
            if !self.may_decide() {
                return;
            }
            let chance = self.config.entropy.below(u64::MAX);
            let now = self.now();
            let started = Instant::now();
            let decision = self.scheduler.decide(now, chance);
            let attempt = match &decision {
                Some(Decision::Bind { .. }) => Some(Attempt::Scheduled),
                Some(Decision::Report { .. }) => Some(Attempt::Unschedulable),
                None => None,
            };
            if let Some(attempt) = attempt {
                self.config.metrics.attempted(attempt, started.elapsed());
            }
            match decision {
                None => return,
                Some(Decision::Bind { pod, node, steps }) if steps.is_empty() => self.bind(pod, node),
                Some(Decision::Bind { pod, node, steps }) => self.prepare_volumes(pod, node, steps),
                Some(Decision::Report { pod, message, preemption, denominate }) => {
                    let actor = self.actor.clone();
                    self.report(async move {
                        if let Some(preemption) = &preemption {
                            actor.preempt(&pod, preemption, now).await?;
                        }
                        let promised = preemption.as_ref().map(|preemption| preemption.node.as_str());
                        actor.report(&pod, &message, promised.or(denominate.then_some("")), now).await
                    });
                }
            }
        }
    }

    fn start(&self, name: &str, work: impl Future<Output = Done> + Send + 'static) {
        let done = self.done.clone();
        self.tasks.spawn(name, OnError::Log, async move {
            // Nobody listens only when the scheduler has ended.
            let _ = done.send(work.await).await;
            Ok::<(), Infallible>(())
        });
    }

    fn bind(&mut self, pod: Arc<PodInfo>, node: String) {
        self.bindings += 1;
        let (actor, now) = (self.actor.clone(), self.now());
        self.start("bind", async move {
            let result = actor.bind(&pod, &node, now).instrument(span(&pod)).await;
            Done::Bound { uid: pod.uid.clone(), result }
        });
    }

    fn prepare_volumes(&mut self, pod: Arc<PodInfo>, node: String, steps: Vec<VolumeStep>) {
        self.bindings += 1;
        let actor = self.actor.clone();
        self.start("prepare-volumes", async move {
            let result = actor.volumes(&steps).await;
            Done::Volumes { pod, node, result }
        });
    }

    fn report(&mut self, work: impl Future<Output = Result<(), ActionError>> + Send + 'static) {
        self.reports += 1;
        self.start("report", async move { Done::Reported(work.await) });
    }

    fn finished(&mut self, done: Done) {
        let now = self.now();
        match done {
            Done::Bound { uid, result } => {
                self.bindings -= 1;
                // An event that could not be recorded does not undo the binding.
                let bound = matches!(result, Ok(()) | Err(ActionError::Event(_)));
                log(result);
                self.scheduler.bound(&uid, bound, now);
            }
            Done::Volumes { pod, node, result: Ok(()) } => {
                self.bindings -= 1;
                let until = now.saturating_add(VOLUMES_DEADLINE).unwrap_or(Timestamp::MAX);
                self.volumes.insert(pod.uid.clone(), (pod, node, until));
                self.bind_those_with_volumes();
            }
            Done::Volumes { pod, result, .. } => {
                self.bindings -= 1;
                log(result);
                self.scheduler.bound(&pod.uid, false, now);
            }
            Done::Reported(result) => {
                self.reports -= 1;
                log(result);
            }
        }
    }

    fn bind_those_with_volumes(&mut self) {
        let ready = self.volumes.values().filter(|(pod, ..)| self.scheduler.volumes_bound(pod));
        let ready: Vec<_> = ready.map(|(pod, ..)| pod.uid.clone()).collect();
        for uid in ready {
            if let Some((pod, node, _)) = self.volumes.remove(&uid) {
                self.bind(pod, node);
            }
        }
    }

    fn refresh(&mut self) {
        let now = self.now();
        self.scheduler.refresh(now);
        // Only here: counting walks over every pod that waits.
        self.config.metrics.pending(self.scheduler.queue().lengths());
        let overdue = self.volumes.values().filter(|(_, _, until)| *until <= now);
        let overdue: Vec<_> = overdue.map(|(pod, ..)| pod.uid.clone()).collect();
        for uid in overdue {
            tracing::warn!(pod = %uid, "its volumes took too long");
            self.volumes.remove(&uid);
            self.scheduler.bound(&uid, false, now);
        }
    }
}

/// The span of a binding: a part of the trace that the pod belongs to.
fn span(pod: &PodInfo) -> Span {
    if !traces_are_on() {
        return Span::none();
    }
    let span = tracing::info_span!("schedule", pod = %pod.uid);
    follow_trace(&span, &pod.uid);
    span
}

fn log(result: Result<(), ActionError>) {
    if let Err(error) = result {
        let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        tracing::warn!(%error, cause, "a decision could not be carried out");
    }
}
