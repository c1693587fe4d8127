//! A control plane under measurement: its processes and the way to its API.

use crate::{
    client::{Ask, Client, Target},
    process::{Process, Usage},
};
use anyhow::Context;
use std::{cell::RefCell, rc::Rc, time::Duration};
use tokio::time::Instant;

/// Whose control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    Ours,
    Upstream,
}

/// Between two looks while a server starts: small beside what is measured.
const LOOK: Duration = Duration::from_millis(1);
/// Longest wait for a server to start.
const START: Duration = Duration::from_secs(60);

/// Running servers that make up one control plane.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) side: Side,
    pub(crate) target: Target,
    processes: Rc<RefCell<Vec<Process>>>,
}

impl Peer {
    pub(crate) fn new(side: Side, target: Target, processes: Vec<Process>) -> Self {
        Self { side, target, processes: Rc::new(RefCell::new(processes)) }
    }

    /// The same processes, another API (a further cluster of them).
    pub(crate) fn with_target(&self, target: Target) -> Self {
        Self { target, ..self.clone() }
    }

    /// What its processes have used so far, and hold.
    pub(crate) fn usage(&self) -> Usage {
        let each = self.processes.borrow().iter().map(Process::usage).collect::<Vec<_>>();
        Usage { cpu: each.iter().map(|one| one.cpu).sum(), resident: each.iter().map(|one| one.resident).sum() }
    }

    pub(crate) fn add(&self, process: Process) {
        self.processes.borrow_mut().push(process);
    }

    /// Ends what was added last.
    pub(crate) fn end_last(&self) {
        self.processes.borrow_mut().pop();
    }

    pub(crate) fn kill(&self) -> anyhow::Result<()> {
        self.processes.borrow_mut().iter_mut().try_for_each(Process::kill)
    }

    pub(crate) async fn connect(&self, count: usize) -> anyhow::Result<Client> {
        self.target.connect(count).await
    }

    /// Waits until the API says that it is ready.
    pub(crate) async fn ready(&self) -> anyhow::Result<()> {
        until("ready", || async {
            self.processes.borrow_mut().iter_mut().try_for_each(Process::check).map_err(Outcome::Over)?;
            let asked = async { self.connect(1).await?.send(0, Ask::get("/readyz")).await };
            asked.await.map(drop).map_err(Outcome::Again)
        })
        .await
    }
}

/// Why a look was not the last.
pub(crate) enum Outcome {
    /// Not yet.
    Again(anyhow::Error),
    /// Never.
    Over(anyhow::Error),
}

/// Looks until `look` succeeds.
pub(crate) async fn until<T, Look>(what: &str, mut look: impl FnMut() -> Look) -> anyhow::Result<T>
where
    Look: Future<Output = Result<T, Outcome>>,
{
    let end = Instant::now() + START;
    loop {
        match look().await {
            Ok(found) => return Ok(found),
            Err(Outcome::Over(error)) => return Err(error),
            Err(Outcome::Again(error)) if Instant::now() > end => {
                return Err(error).with_context(|| format!("{what}: not within {} s", START.as_secs()));
            }
            Err(Outcome::Again(_)) => tokio::time::sleep(LOOK).await,
        }
    }
}
