//! A policy in force with the backends that carry its events away, and what is counted of them.

use super::{
    event::Event,
    log::LogFile,
    policy::{Level, Policy, Stage},
    queue::Queue,
    webhook::Sender,
};
use crate::{
    access::{AccessFiles, FileError, kubeconfig_target},
    webhook::WebhookClient,
};
use bytes::Bytes;
use jiff::Timestamp;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
};
use std::{sync::Arc, time::Duration};
use timonel_runtime::{Clock, Registry, Tasks};

pub use super::log::AuditLog;

/// What messages call the kubeconfig of the webhook.
pub(crate) const AUDIT_WEBHOOK: &str = "audit webhook";

/// Time for backends to carry away what they hold when they are replaced.
const DRAIN: Duration = Duration::from_secs(10);

/// How a cluster is audited.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditConfig {
    /// The policy, in upstream's form.
    pub policy: String,
    /// The log file, if there is one.
    pub log: Option<AuditLog>,
    /// The webhook, if there is one.
    pub webhook: Option<AuditWebhook>,
}

/// A server that takes events, many at once.
#[derive(Clone, PartialEq, Eq)]
pub struct AuditWebhook {
    /// A kubeconfig that says where it is.
    pub kubeconfig: String,
    /// Most events of one call; 0 is upstream's 400.
    pub max_batch: usize,
    /// How long a batch that is not full waits for more.
    pub max_wait: Duration,
    /// Time before a call that failed is made again; it grows with each attempt.
    pub initial_backoff: Duration,
}

impl std::fmt::Debug for AuditWebhook {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Kubeconfigs hold secrets.
        out.debug_struct("AuditWebhook").field("max_batch", &self.max_batch).finish_non_exhaustive()
    }
}

impl AuditWebhook {
    /// With upstream's figures.
    #[must_use]
    pub fn new(kubeconfig: String) -> Self {
        Self { kubeconfig, max_batch: 400, max_wait: Duration::from_secs(30), initial_backoff: Duration::from_secs(10) }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PluginLabels {
    plugin: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LevelLabels {
    level: &'static str,
}

/// What is counted, under upstream's names.
#[derive(Clone, Debug, Default)]
pub(crate) struct AuditMetrics {
    events: Counter,
    errors: Family<PluginLabels, Counter>,
    levels: Family<LevelLabels, Counter>,
}

impl AuditMetrics {
    pub(crate) fn register(registry: &Registry) -> Self {
        let new = Self::default();
        registry.register("apiserver_audit_event", "Audit events made", new.events.clone());
        registry.register("apiserver_audit_error", "Audit events that a backend lost", new.errors.clone());
        registry.register("apiserver_audit_level", "Requests by the level that the policy says", new.levels.clone());
        new
    }

    fn lost(&self, plugin: &'static str) -> Counter {
        self.errors.get_or_create(&PluginLabels { plugin }).clone()
    }
}

/// One backend's buffer.
#[derive(Debug)]
struct Backend {
    queue: Arc<Queue>,
    lost: Counter,
}

/// Auditing in force.
#[derive(Debug)]
pub(crate) struct Audit {
    pub(crate) policy: Policy,
    pub(crate) clock: Clock,
    backends: Vec<Backend>,
    metrics: AuditMetrics,
    tasks: Tasks,
}

impl Audit {
    /// Starts the backends of a configuration.
    ///
    /// # Errors
    /// When the policy or a kubeconfig cannot be used; nothing runs then.
    pub(crate) fn start(
        config: &AuditConfig,
        files: &AccessFiles,
        client: &Arc<WebhookClient>,
        clock: &Clock,
        metrics: &AuditMetrics,
        tasks: &Tasks,
    ) -> Result<Arc<Self>, FileError> {
        let policy = Policy::parse(&config.policy)?;
        let target = |webhook: &AuditWebhook| kubeconfig_target(AUDIT_WEBHOOK, &webhook.kubeconfig, files);
        let target = config.webhook.as_ref().map(target).transpose()?;
        let tasks = tasks.child("audit");
        let mut backends = Vec::new();
        let mut backend = |plugin| {
            let (queue, lost) = (Arc::new(Queue::default()), metrics.lost(plugin));
            backends.push(Backend { queue: queue.clone(), lost: lost.clone() });
            (queue, lost)
        };
        if let Some(log) = &config.log {
            let (queue, lost) = backend("log");
            let file = LogFile::new(log.clone(), clock.clone());
            tasks.spawn_draining("audit log", file.run(queue, tasks.token(), lost));
        }
        if let (Some(webhook), Some(target)) = (&config.webhook, target) {
            let (queue, lost) = backend("webhook");
            let sender = Sender::new(webhook, target, client.clone());
            tasks.spawn_draining("audit webhook", sender.run(queue, tasks.token(), lost));
        }
        Ok(Arc::new(Self { policy, clock: clock.clone(), backends, metrics: metrics.clone(), tasks }))
    }

    /// Counts a request by what the policy says of it.
    pub(super) fn judged(&self, level: Level) {
        self.metrics.levels.get_or_create(&LevelLabels { level: level.as_str() }).inc();
    }

    /// Hands an event to every backend; one without room loses it.
    pub(super) fn tell(&self, event: &Event, stage: Stage, at: Timestamp) {
        self.metrics.events.inc();
        let bytes = Bytes::from(event.encode(stage, at));
        for backend in self.backends.iter().filter(|backend| !backend.queue.push(bytes.clone())) {
            backend.lost.inc();
        }
    }

    /// Lets the backends carry away what they hold, and ends them.
    pub(crate) async fn stop(&self) {
        self.tasks.shutdown(DRAIN).await;
    }
}
