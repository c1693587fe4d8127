//! Many operations with some in flight: how long they took, each and all.

use futures::future::{join_all, try_join_all};
use std::{cell::RefCell, rc::Rc, time::Duration};
use tokio::time::Instant;

/// What a run of operations took.
#[derive(Debug, Default)]
pub(crate) struct Run {
    pub(crate) operations: usize,
    pub(crate) wall: Duration,
    latencies: Vec<Duration>,
}

impl Run {
    pub(crate) fn per_second(&self) -> f64 {
        self.operations as f64 / self.wall.as_secs_f64().max(f64::EPSILON)
    }

    /// Adds the operations of another run that came after it.
    pub(crate) fn join(&mut self, other: Self) {
        self.operations += other.operations;
        self.wall += other.wall;
        self.latencies.extend(other.latencies);
        self.latencies.sort_unstable();
    }

    /// Milliseconds within which `share` of the operations were done.
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        quantile(&self.latencies, share)
    }
}

/// Milliseconds at `share` (0 to 1) of sorted durations.
pub(crate) fn quantile(sorted: &[Duration], share: f64) -> f64 {
    let at = ((sorted.len() as f64 * share) as usize).min(sorted.len().saturating_sub(1));
    sorted.get(at).map_or(0.0, |duration| duration.as_secs_f64() * 1e3)
}

/// Runs `operation` for `0..count` with `in_flight` at a time; the first failure ends it.
pub(crate) async fn drive<F, Work>(count: usize, in_flight: usize, operation: F) -> anyhow::Result<Run>
where
    F: Fn(usize) -> Work,
    Work: Future<Output = anyhow::Result<()>>,
{
    let state = Rc::new(RefCell::new((0, Vec::with_capacity(count))));
    let started = Instant::now();
    let workers = (0..in_flight).map(|_| async {
        loop {
            let number = {
                let (next, _) = &mut *state.borrow_mut();
                *next += 1;
                *next - 1
            };
            if number >= count {
                return anyhow::Ok(());
            }
            let sent = Instant::now();
            operation(number).await?;
            state.borrow_mut().1.push(sent.elapsed());
        }
    });
    try_join_all(workers).await?;
    let wall = started.elapsed();
    let mut latencies = std::mem::take(&mut state.borrow_mut().1);
    latencies.sort_unstable();
    Ok(Run { operations: count, wall, latencies })
}

/// Waits for all of `work`; the first failure, if any.
pub(crate) async fn all<T>(
    work: impl IntoIterator<Item = impl Future<Output = anyhow::Result<T>>>,
) -> anyhow::Result<Vec<T>> {
    join_all(work).await.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[tokio::test]
    async fn everything_runs_once_with_no_more_in_flight_than_asked() {
        let (sum, now, most) = (Cell::new(0), Cell::new(0), Cell::new(0));
        let run = drive(100, 7, async |number| {
            now.set(now.get() + 1);
            most.set(most.get().max(now.get()));
            tokio::task::yield_now().await;
            sum.set(sum.get() + number);
            now.set(now.get() - 1);
            Ok(())
        });
        assert_eq!(run.await.unwrap().latencies.len(), 100);
        assert_eq!((sum.get(), most.get()), (4950, 7));
    }

    #[tokio::test]
    async fn a_failure_ends_it() {
        let run = drive(10, 2, async |number| if number == 3 { anyhow::bail!("broken") } else { Ok(()) });
        assert_eq!(run.await.unwrap_err().to_string(), "broken");
    }

    #[test]
    fn quantiles_of_few_and_many() {
        let sorted: Vec<_> = (1..=100).map(Duration::from_millis).collect();
        assert_eq!((quantile(&sorted, 0.5), quantile(&sorted, 0.99), quantile(&[], 0.5)), (51.0, 100.0, 0.0));
    }
}
