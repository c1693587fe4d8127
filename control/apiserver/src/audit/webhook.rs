//! The webhook backend: events in batches, not more often than agreed, again when it fails.

use super::{
    backend::AuditWebhook,
    event::list,
    queue::{Batch, Queue},
};
use crate::webhook::{CallError, Exchange, WebhookClient, WebhookTarget, refusal};
use bytes::Bytes;
use http::Method;
use prometheus_client::metrics::counter::Counter;
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Upstream's figures: calls a second on average and at once, attempts, how their distance grows, time for one.
const CALLS_PER_SECOND: f64 = 10.0;
const BURST: f64 = 15.0;
const ATTEMPTS: u32 = 5;
const GROWTH: f64 = 1.5;
const TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of one call.
const MAX_BYTES: usize = 10 << 20;
/// Events of one call where the user does not say.
const DEFAULT_EVENTS: usize = 400;

/// Sends what a queue holds.
pub(super) struct Sender {
    target: WebhookTarget,
    client: Arc<WebhookClient>,
    batch: Batch,
    backoff: Duration,
    throttle: Throttle,
}

impl Sender {
    pub(super) fn new(config: &AuditWebhook, target: WebhookTarget, client: Arc<WebhookClient>) -> Self {
        let events = if config.max_batch == 0 { DEFAULT_EVENTS } else { config.max_batch };
        Self {
            target,
            client,
            batch: Batch { events, bytes: MAX_BYTES, linger: config.max_wait },
            backoff: config.initial_backoff,
            throttle: Throttle { calls: BURST, at: None },
        }
    }

    /// Sends until `stop`, then what is left, without second attempts. What no attempt brought there is lost and
    /// counted.
    pub(super) async fn run(mut self, queue: Arc<Queue>, stop: CancellationToken, lost: Counter) {
        loop {
            let events = queue.take(self.batch, &stop).await;
            if events.is_empty() {
                return;
            }
            if let Err(error) = self.send(&events, &stop).await {
                lost.inc_by(events.len() as u64);
                tracing::error!(events = events.len(), %error, "audit webhook failed");
            }
        }
    }

    async fn send(&mut self, events: &[Bytes], stop: &CancellationToken) -> Result<(), CallError> {
        let body = Bytes::from(list(events));
        let mut wait = self.backoff;
        for attempt in 1.. {
            stop.run_until_cancelled(self.throttle.turn()).await;
            let failed = match self.post(body.clone()).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            if attempt >= ATTEMPTS || stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
                return Err(failed);
            }
            wait = wait.mul_f64(GROWTH);
        }
        Ok(())
    }

    async fn post(&self, body: Bytes) -> Result<(), CallError> {
        let what = Exchange { method: Method::POST, body, user_agent: "kube-apiserver", timeout: TIMEOUT };
        let (code, answer) = self.client.ask(&self.target, what).await?;
        if code.is_success() { Ok(()) } else { Err(CallError::Answer(refusal(code, &answer))) }
    }
}

/// A bucket of calls that fills with time.
struct Throttle {
    calls: f64,
    at: Option<Instant>,
}

impl Throttle {
    async fn turn(&mut self) {
        let now = Instant::now();
        let passed = self.at.map_or(Duration::ZERO, |at| now.duration_since(at));
        self.calls = (self.calls + passed.as_secs_f64() * CALLS_PER_SECOND).min(BURST) - 1.0;
        self.at = Some(now);
        if self.calls < 0.0 {
            tokio::time::sleep(Duration::from_secs_f64(-self.calls / CALLS_PER_SECOND)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn calls_come_as_often_as_agreed() {
        let started = Instant::now();
        let mut throttle = Throttle { calls: BURST, at: None };
        for _ in 0..15 {
            throttle.turn().await;
        }
        assert_eq!(started.elapsed(), Duration::ZERO);
        for _ in 0..20 {
            throttle.turn().await;
        }
        let took = started.elapsed();
        assert!(took >= Duration::from_millis(1990) && took < Duration::from_millis(2100), "{took:?}");
    }
}
