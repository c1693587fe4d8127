//! `timonel-cloud-controller`: the cloud-controller as a process of its own, for any Kubernetes API server.

use anyhow::{Context, Result, bail};
use clap::Parser;
use ipnet::Ipv4Net;
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use std::{path::PathBuf, sync::Arc, time::Duration};
use timonel_cloud_controller::{CloudControllerConfig, run};
use timonel_cloud_core::{Cloud, MachineOrder, Machines, Owner};
use timonel_cloud_local::{LocalCloud, LocalConfig};
use timonel_runtime::{Clock, Entropy, Tasks, Telemetry, TelemetryConfig};

/// Time for work under way to end.
const DRAIN: Duration = Duration::from_secs(5);

/// Ties a Kubernetes cluster to its cloud: nodes, routes, load balancers, volumes.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Flags {
    /// kubeconfig of the cluster.
    #[arg(long, env = "KUBECONFIG")]
    kubeconfig: PathBuf,
    /// The cloud.
    #[arg(long, env = "TIMONEL_CLOUD", default_value = "local")]
    cloud: String,
    /// UID or name of the cluster, the tag on everything made for it.
    #[arg(long, env = "TIMONEL_CLUSTER")]
    cluster_name: String,
    /// Data directory of the local cloud.
    #[arg(long, env = "TIMONEL_DATA", default_value = "/var/lib/timonel/cloud")]
    data: PathBuf,
    /// Name of the local cloud on this machine.
    #[arg(long, env = "TIMONEL_LOCAL_NAME", default_value = "local")]
    local_name: String,
    /// Public range of the local cloud.
    #[arg(long, env = "TIMONEL_PUBLIC_RANGE", default_value = "172.30.201.0/24")]
    public_range: Ipv4Net,
    /// The local cloud's range for machines.
    #[arg(long, env = "TIMONEL_MACHINE_RANGE", default_value = "10.211.0.0/16")]
    machine_range: Ipv4Net,
    /// First program of a machine of the local cloud, run by `sh -c`.
    #[arg(long, env = "TIMONEL_MACHINE_COMMAND", default_value = "exec sleep 2147483647")]
    machine_command: String,
    /// A machine of the local cloud that is to exist; may be given several times.
    #[arg(long = "machine", value_name = "NAME")]
    machines: Vec<String>,
    /// Gives nodes without pod range one out of this.
    #[arg(long, env = "TIMONEL_POD_RANGE")]
    pod_range: Option<Ipv4Net>,
    /// Takes the local cloud off this machine, with all its data, and ends.
    #[arg(long)]
    destroy: bool,
    /// Filter of the log, such as `info,timonel_cloud_controller=debug`.
    #[arg(long, env = "TIMONEL_LOG", default_value = "info")]
    log: String,
}

#[tokio::main]
async fn main() -> Result<()> {
    let flags = Flags::parse();
    let filter = flags.log.clone();
    let telemetry = Telemetry::start(&TelemetryConfig {
        service: "timonel-cloud-controller",
        filter,
        ..TelemetryConfig::default()
    })?;
    let (clock, tasks) = (Clock::system(), Tasks::root("cloud-controller"));
    if flags.destroy {
        return Ok(LocalCloud::destroy_all(&local(&flags)).await?);
    }
    let cloud = open(&flags, &clock, &tasks).await?;
    let client = connect(&flags).await?;
    let mut config = CloudControllerConfig::new(&flags.cluster_name, cloud.provider());
    config.pod_ranges = flags.pod_range;
    run(client, cloud, config, clock, &tasks);
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        result = tokio::signal::ctrl_c() => result?,
        _ = terminate.recv() => {}
    }
    tasks.shutdown(DRAIN).await;
    telemetry.shutdown();
    Ok(())
}

async fn connect(flags: &Flags) -> Result<Client> {
    let path = &flags.kubeconfig;
    let kubeconfig = Kubeconfig::read_from(path).with_context(|| format!("reading {}", path.display()))?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

fn local(flags: &Flags) -> LocalConfig {
    let command = ["sh", "-c", &flags.machine_command].map(str::to_owned).into();
    let mut config = LocalConfig::new(&flags.local_name, flags.data.clone(), command);
    config.public_range = flags.public_range;
    config.machine_range = flags.machine_range;
    config
}

async fn open(flags: &Flags, clock: &Clock, tasks: &Tasks) -> Result<Arc<dyn Cloud>> {
    if flags.cloud != "local" {
        bail!("there is no cloud {:?}: want local", flags.cloud);
    }
    let cloud = LocalCloud::open(local(flags), clock.clone(), Entropy::system(), tasks).await?;
    for name in &flags.machines {
        let order = MachineOrder {
            token: format!("{}/{name}", flags.cluster_name),
            owner: Owner::new(flags.cluster_name.clone(), name.clone()),
            pool: String::new(),
            name: name.clone(),
            instance_type: String::new(),
            zone: String::new(),
            image: String::new(),
            user_data: String::new(),
            tags: [].into(),
        };
        let instance = cloud.create(&order).await.with_context(|| format!("ordering machine {name}"))?;
        tracing::info!(machine = name, id = %instance.id, namespace = cloud.machine_namespace(&instance.id), "running");
    }
    Ok(Arc::new(cloud))
}
