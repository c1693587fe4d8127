//! The fleet's Machines and the cloud's instances: the same loop for one kind.

use crate::{config::FleetConfig, execute::Executor, watch::Watched};
use kube::{Api, Client};
use std::{convert::Infallible, sync::Arc, time::Duration};
use timonel_cloud_core::{Cloud, CloudError, MachineMemory, MachineView, fleet_tags, plan_machines};
use timonel_fleet::Machine;
use timonel_runtime::{Clock, OnError, Tasks};
use tokio::sync::Notify;

const SETTLE: Duration = Duration::from_millis(20);
const OBSERVE_AGAIN: Duration = Duration::from_secs(2);

/// Keeps an instance behind every Machine of the fleet that `client` speaks to, for as long as `tasks` live. Returns
/// at once.
pub fn run_machines(client: Client, cloud: Arc<dyn Cloud>, config: FleetConfig, clock: Clock, tasks: &Tasks) {
    let changed = Arc::new(Notify::new());
    let machines = Watched::begin(Api::all(client.clone()), tasks, &changed);
    let executor = Executor::new(client, Arc::clone(&cloud), &config.fleet, clock.clone(), "machine-controller");
    tasks.spawn("machine-controller", OnError::Log, async move {
        machines.ready().await;
        let mut memory = MachineMemory::default();
        loop {
            let pause = look(&machines, &executor, &*cloud, &config, &clock, &mut memory, &changed).await;
            tokio::select! {
                () = changed.notified() => tokio::time::sleep(SETTLE).await,
                () = tokio::time::sleep(pause) => {}
            }
        }
        #[expect(unreachable_code, reason = "names the error of a task that only ends with its scope")]
        Ok::<(), Infallible>(())
    });
}

async fn look(
    machines: &Watched<Machine>,
    executor: &Executor,
    cloud: &dyn Cloud,
    config: &FleetConfig,
    clock: &Clock,
    memory: &mut MachineMemory,
    changed: &Notify,
) -> Duration {
    let observed = clock.now();
    let instances = match cloud.list(&fleet_tags(&config.fleet)).await {
        Ok(instances) => instances,
        Err(error) => {
            tracing::warn!(%error, "the fleet's instances could not be listed");
            return OBSERVE_AGAIN;
        }
    };
    // Taken after the listing: an instance seen without its Machine is one whose Machine is gone.
    let machines = machines.all();
    let now = clock.now();
    let view = MachineView { fleet: &config.fleet, machines: &machines, instances: &instances, observed, now };
    let actions = plan_machines(&view, memory);
    let report = executor.execute(actions).await;
    for (uid, refusal) in report.orders {
        match refusal {
            // No answer says nothing: the order may have been taken.
            Some(CloudError::Unavailable(_) | CloudError::Throttled(_)) => {}
            Some(error) => drop(memory.refused.insert(uid, error)),
            None => drop(memory.refused.remove(&uid)),
        }
    }
    if !report.confirmed.is_empty() {
        memory.absences.confirm(&report.confirmed);
        changed.notify_one();
    }
    if report.changed_cloud {
        changed.notify_one();
    }
    let retry = executor.next_retry().and_then(|at| Duration::try_from(at.duration_since(clock.now())).ok());
    retry.map_or(config.period, |retry| retry.min(config.period))
}
