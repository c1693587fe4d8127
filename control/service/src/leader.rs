//! Which control machine runs what must run once: the fleet's writes, and controllers, scheduler and cloud of every
//! cluster. All machines serve every API; one of them leads, by a Lease in the fleet.
//!
//! A leader that cannot renew stops before anyone else may take over. Time is measured by each machine's own monotonic
//! clock from when it saw the Lease change: clocks need not agree.

use crate::config::LeaderTimes;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Api, Client, api::PostParams};
use std::time::Duration;
use timonel_runtime::{Clock, Tasks};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

/// Where the Lease is.
const NAMESPACE: &str = "kube-system";
const NAME: &str = "timonel-control";
/// Time to let go of the Lease.
const DRAIN: Duration = Duration::from_secs(3);

/// Whether this machine leads.
#[derive(Clone, Debug)]
pub(crate) struct Leadership(watch::Receiver<bool>);

impl Leadership {
    /// The only machine there is.
    pub(crate) fn alone() -> Self {
        // The value stays what it is when the sender is gone.
        Self(watch::channel(true).1)
    }

    /// Takes part in the election for as long as `tasks` runs.
    pub(crate) fn elect(client: Client, identity: String, times: LeaderTimes, clock: Clock, tasks: &Tasks) -> Self {
        let (leads, seen) = watch::channel(false);
        let candidate = Candidate { api: Api::namespaced(client, NAMESPACE), identity, times, clock, leads };
        let stop = tasks.token();
        tasks.spawn_draining("leader-election", async move {
            stop.run_until_cancelled(candidate.run()).await;
            candidate.step_down().await;
        });
        Self(seen)
    }

    pub(crate) fn leads(&self) -> bool {
        *self.0.borrow()
    }

    /// As [`Self::leads`], and remembers it for [`Self::changed`].
    pub(crate) fn seen(&mut self) -> bool {
        *self.0.borrow_and_update()
    }

    /// Waits until it is otherwise than it was last seen.
    pub(crate) async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            // It will not change any more.
            std::future::pending::<()>().await;
        }
    }
}

/// Runs what must run once: `start` in a scope of its own whenever this machine leads, until it does not.
pub(crate) async fn while_leading(mut leadership: Leadership, tasks: &Tasks, start: impl Fn(&Tasks)) {
    loop {
        let scope = leadership.seen().then(|| tasks.child("leading"));
        scope.iter().for_each(&start);
        leadership.changed().await;
        if let Some(scope) = scope {
            scope.shutdown(DRAIN).await;
        }
    }
}

/// What to do at one look at the Lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Create,
    Renew,
    Take,
    Wait,
}

/// `unchanged`: for how long the Lease has been seen as it is.
fn decide(lease: Option<&LeaseSpec>, identity: &str, unchanged: Duration, times: LeaderTimes) -> Step {
    let Some(lease) = lease else { return Step::Create };
    match lease.holder_identity.as_deref().unwrap_or_default() {
        "" => Step::Take,
        holder if holder == identity => Step::Renew,
        _ if unchanged >= times.lease => Step::Take,
        _ => Step::Wait,
    }
}

struct Candidate {
    api: Api<Lease>,
    identity: String,
    times: LeaderTimes,
    clock: Clock,
    leads: watch::Sender<bool>,
}

impl Candidate {
    async fn run(&self) {
        let mut renewed = Instant::now();
        let mut seen = (String::new(), Instant::now());
        loop {
            let begun = Instant::now();
            match timeout(self.times.give_up, self.look(&mut seen)).await {
                Ok(Ok(true)) => {
                    renewed = begun;
                    self.set(true);
                }
                Ok(Ok(false)) => self.set(false),
                Ok(Err(error)) => tracing::debug!(%error, "leader election"),
                Err(_) => tracing::debug!("leader election: no answer"),
            }
            if renewed.elapsed() >= self.times.give_up {
                self.set(false);
            }
            let left = self.times.give_up.saturating_sub(renewed.elapsed());
            let pause = if *self.leads.borrow() { self.times.renew.min(left) } else { self.times.renew };
            tokio::time::sleep(pause).await;
        }
    }

    fn set(&self, leads: bool) {
        let changed = self.leads.send_if_modified(|now| std::mem::replace(now, leads) != leads);
        if changed {
            tracing::info!(identity = %self.identity, leads, "leadership of the control machines");
        }
    }

    /// One look, and what follows; whether this machine holds the Lease afterwards.
    async fn look(&self, seen: &mut (String, Instant)) -> Result<bool, kube::Error> {
        let found = self.api.get_opt(NAME).await?;
        let version = found.as_ref().and_then(|lease| lease.metadata.resource_version.clone()).unwrap_or_default();
        if version != seen.0 {
            *seen = (version, Instant::now());
        }
        let spec = found.as_ref().and_then(|lease| lease.spec.as_ref());
        let step = decide(
            found.as_ref().map(|_| spec.cloned().unwrap_or_default()).as_ref(),
            &self.identity,
            seen.1.elapsed(),
            self.times,
        );
        if step == Step::Wait {
            return Ok(false);
        }
        let lease = self.next(found, step);
        let written = match step {
            Step::Create => self.api.create(&PostParams::default(), &lease).await,
            _ => self.api.replace(NAME, &PostParams::default(), &lease).await,
        };
        match written {
            Ok(_) => Ok(true),
            // Another was faster: its version fences ours off.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn next(&self, found: Option<Lease>, step: Step) -> Lease {
        let mut lease = found.unwrap_or_else(|| Lease {
            metadata: ObjectMeta { name: Some(NAME.into()), ..ObjectMeta::default() },
            spec: None,
        });
        let spec = lease.spec.get_or_insert_default();
        let now = MicroTime(self.clock.now());
        if step != Step::Renew {
            spec.acquire_time = Some(now.clone());
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(-1) + 1);
        }
        spec.holder_identity = Some(self.identity.clone());
        spec.lease_duration_seconds = i32::try_from(self.times.lease.as_secs().max(1)).ok();
        spec.renew_time = Some(now);
        lease
    }

    /// Lets another machine lead at once.
    async fn step_down(&self) {
        if !*self.leads.borrow() {
            return;
        }
        self.set(false);
        let release = async {
            let mut lease = self.api.get(NAME).await?;
            if let Some(spec) =
                lease.spec.as_mut().filter(|spec| spec.holder_identity.as_deref() == Some(&*self.identity))
            {
                spec.holder_identity = None;
                self.api.replace(NAME, &PostParams::default(), &lease).await?;
            }
            Ok::<_, kube::Error>(())
        };
        // Without it the others wait until the Lease has run out.
        let _ = timeout(DRAIN, release).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use timonel_runtime::OnError;

    #[test]
    fn who_may_take_the_lease() {
        let times = LeaderTimes::default();
        let held = |holder: &str| Some(LeaseSpec { holder_identity: Some(holder.into()), ..LeaseSpec::default() });
        let (short, long) = (times.lease - Duration::from_millis(1), times.lease);
        let cases = [
            (None, short, Step::Create),
            (held("a"), short, Step::Renew),
            (held("a"), long, Step::Renew),
            (held("b"), short, Step::Wait),
            (held("b"), long, Step::Take),
            (held(""), short, Step::Take),
        ];
        for (lease, unchanged, expected) in cases {
            assert_eq!(decide(lease.as_ref(), "a", unchanged, times), expected, "{lease:?} {unchanged:?}");
        }
        assert!(times.renew < times.give_up && times.give_up < times.lease);
    }

    #[tokio::test]
    async fn what_must_run_once_runs_while_this_machine_leads() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        let (leads, seen) = watch::channel(false);
        let (started, stopped) = (watch::Sender::new(0), Arc::new(AtomicUsize::new(0)));
        let tasks = Tasks::root("test");
        let (inner, told, ended) = (tasks.clone(), started.clone(), stopped.clone());
        tasks.spawn("leading", OnError::Log, async move {
            let start = |scope: &Tasks| {
                told.send_modify(|count| *count += 1);
                let (token, ended) = (scope.token(), ended.clone());
                scope.spawn_draining("work", async move {
                    token.cancelled().await;
                    ended.fetch_add(1, Ordering::SeqCst);
                });
            };
            while_leading(Leadership(seen), &inner, start).await;
            Ok::<_, std::convert::Infallible>(())
        });
        let mut starts = started.subscribe();
        tokio::task::yield_now().await;
        assert_eq!(*starts.borrow(), 0, "another machine leads");
        for round in 1..=3 {
            leads.send_replace(true);
            starts.wait_for(|count| *count == round).await.unwrap();
            assert_eq!(stopped.load(Ordering::SeqCst), round - 1, "what ran before has ended");
            leads.send_replace(false);
            while stopped.load(Ordering::SeqCst) < round {
                tokio::task::yield_now().await;
            }
        }
    }

    #[tokio::test]
    async fn the_only_machine_always_leads() {
        use futures::FutureExt;
        let mut alone = Leadership::alone();
        assert!(alone.leads() && alone.seen());
        assert!(alone.changed().now_or_never().is_none());
    }
}
