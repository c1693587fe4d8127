//! Entry: configuration, the table of controllers, and the loop that runs them for one cluster.

use crate::metrics::Metrics;
use crate::{
    autoscale, certificates, cluster,
    framework::{Controller, Engine, Executor, Recorder, TwoWriters, check_writers},
    network, nodes,
    signing::ClusterSigner,
    storage, tokens, workloads,
};
use ipnet::IpNet;
use parking_lot::Mutex;
use std::{fmt, sync::Arc, time::Duration};
use timonel_runtime::{Clock, Entropy, Tasks};

/// The pod ranges that nodes get.
#[derive(Clone, Debug)]
pub struct NodeRanges {
    /// The cluster's pod ranges: one, or one of each family.
    pub cluster: Vec<IpNet>,
    /// Prefix length of a node's IPv4 range.
    pub mask_v4: u8,
    /// Prefix length of a node's IPv6 range.
    pub mask_v6: u8,
}

/// What a cluster's controllers need to know.
#[derive(Clone)]
pub struct ControllersConfig {
    /// The time.
    pub clock: Clock,
    /// Randomness (reserved for secrets that controllers generate).
    pub entropy: Entropy,
    /// Names the cluster in logs.
    pub cluster_name: String,
    /// What `kube-root-ca.crt` publishes in every namespace.
    pub cluster_ca_pem: String,
    /// Signs certificate requests and tokens; without it the one stay pending and the others empty.
    pub signers: Option<Arc<dyn ClusterSigner>>,
    /// A node that has not reported for this long is no longer ready.
    pub node_monitor_grace: Duration,
    /// Allocates pod ranges to nodes; none where something else does.
    pub node_ranges: Option<NodeRanges>,
    /// Run only what approves, signs and cleans certificate requests and what signs tokens: everything else runs
    /// elsewhere, but the keys are here.
    pub only_signing: bool,
    /// Finished pods kept before the oldest are removed.
    pub terminated_pod_threshold: usize,
    /// What tells of the work queues.
    pub metrics: Metrics,
}

impl ControllersConfig {
    /// Upstream's defaults, without signers and without pod ranges.
    #[must_use]
    pub fn new(clock: Clock, entropy: Entropy, cluster_name: &str, cluster_ca_pem: &str) -> Self {
        Self {
            clock,
            entropy,
            cluster_name: cluster_name.to_owned(),
            cluster_ca_pem: cluster_ca_pem.to_owned(),
            signers: None,
            node_monitor_grace: Duration::from_secs(50),
            node_ranges: None,
            only_signing: false,
            terminated_pod_threshold: 12_500,
            metrics: Metrics::default(),
        }
    }
}

impl fmt::Debug for ControllersConfig {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("ControllersConfig")
            .field("cluster_name", &self.cluster_name)
            .field("signers", &self.signers.is_some())
            .field("node_monitor_grace", &self.node_monitor_grace)
            .field("node_ranges", &self.node_ranges)
            .finish_non_exhaustive()
    }
}

/// Why the controllers of a cluster cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The table of controllers contradicts itself.
    #[error("controllers contradict one another")]
    Writers(#[from] TwoWriters),
}

/// Every controller, in the order of the table.
#[must_use]
pub fn controllers(config: &ControllersConfig) -> Vec<Box<dyn Controller>> {
    let signing = certificates::controllers(config).into_iter().chain(tokens::signing(config));
    if config.only_signing {
        return signing.collect();
    }
    let mut all = workloads::controllers();
    all.extend(autoscale::controllers());
    all.extend(cluster::controllers(config));
    all.extend(network::controllers());
    all.extend(nodes::controllers(config));
    all.extend(storage::controllers());
    all.extend(signing);
    all.extend(tokens::controllers());
    all
}

/// Runs a cluster's controllers until `tasks` ends.
///
/// # Errors
/// When two controllers claim the same field.
pub async fn run(client: kube::Client, config: ControllersConfig, tasks: &Tasks) -> Result<(), Error> {
    let controllers = controllers(&config);
    check_writers(&controllers)?;
    let executor = Executor {
        client,
        clock: config.clock.clone(),
        signer: config.signers.clone(),
        recorder: Mutex::new(Recorder::default()),
    };
    tracing::info!(cluster = %config.cluster_name, controllers = controllers.len(), "controllers start");
    Box::pin(Engine::new(executor, controllers, &config.metrics).run(tasks.token())).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{framework::print_graph, testing::at};

    #[tokio::test]
    async fn the_table_of_controllers_is_the_golden_one() {
        let mut config = ControllersConfig::new(Clock::simulated(at(0)), Entropy::seeded(1), "test", "PEM");
        config.signers = Some(Arc::new(NoSigner));
        config.node_ranges = Some(NodeRanges { cluster: Vec::new(), mask_v4: 24, mask_v6: 64 });
        let all = controllers(&config);
        assert!(check_writers(&all).is_ok());
        let golden = include_str!("graph.golden");
        let printed = print_graph(&all);
        assert!(printed == golden, "the table has changed; if that is meant, graph.golden becomes:\n{printed}");
    }

    #[test]
    fn two_writers_of_one_field_are_refused() {
        let twice = || -> Box<dyn Controller> { workloads::controllers().remove(0) };
        let refused = check_writers(&[twice(), twice()]).map_err(|error| error.to_string());
        let told = "replicaset-controller and replicaset-controller both write ReplicaSet status";
        assert_eq!(refused, Err(told.to_owned()));
    }

    struct NoSigner;

    #[async_trait::async_trait]
    impl ClusterSigner for NoSigner {
        async fn sign_certificate(&self, _request: crate::signing::SignRequest) -> Result<Vec<u8>, String> {
            Err("never asked".to_owned())
        }

        async fn sign_token(&self, _claims: &serde_json::Value) -> Result<String, String> {
            Err("never asked".to_owned())
        }
    }
}
