//! `timonel-node`: everything a machine needs to be a node of a cluster.
//!
//! `supervise` is the machine's first process where no systemd runs (the local cloud): it keeps containerd and the
//! agent going. `run` is the agent: it joins, dials the tunnel, and runs kubelet, service proxy and DNS.

mod cni;
mod containerd;
mod identity;
mod images;
mod join;
mod layout;
mod run;
mod state;
mod supervise;
mod tls;
mod tunnel;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use timonel_runtime::{Telemetry, TelemetryConfig};

/// The node agent of Timonel.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// What to log, such as `info,timonel_kubelet=debug`.
    #[arg(long, env = "TIMONEL_LOG", default_value = "info", global = true)]
    log: String,
    /// Where to send traces (OTLP over HTTP), such as `http://127.0.0.1:4318`.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", global = true)]
    otlp_endpoint: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent: join the cluster, then kubelet, service proxy and DNS.
    Run(MachineArgs),
    /// Keep containerd and the agent running on a machine without systemd.
    Supervise(MachineArgs),
}

/// Where a machine keeps what.
#[derive(Clone, Debug, Args)]
pub(crate) struct MachineArgs {
    /// The machine's own directory.
    #[arg(long, env = "TIMONEL_MACHINE_DIR", default_value = "/var/lib/timonel-node")]
    machine_dir: PathBuf,
    /// Base URL of the instance metadata service.
    #[arg(long, env = "TIMONEL_METADATA", default_value = "http://169.254.169.254")]
    metadata: String,
    /// Parent of the pods' cgroups, below each hierarchy's root.
    #[arg(long, env = "TIMONEL_CGROUP_ROOT", default_value = "/")]
    cgroup_root: String,
    /// The container runtime.
    #[arg(long, env = "TIMONEL_CONTAINERD", default_value = "containerd")]
    containerd: PathBuf,
    /// Directory of the CNI plugins.
    #[arg(long, env = "TIMONEL_CNI_BIN", default_value = "/usr/lib/cni")]
    cni_bin: PathBuf,
    /// Directory of OCI archives to import at start.
    #[arg(long, env = "TIMONEL_IMAGES")]
    images: Option<PathBuf>,
    /// The disk is not the machine's own: how full others make it is no reason to evict pods or to remove images.
    #[arg(long, env = "TIMONEL_SHARED_DISK")]
    shared_disk: bool,
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .ok()
        .context("a TLS provider is installed already")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let config = TelemetryConfig {
            service: "timonel-node",
            filter: cli.log,
            otlp_endpoint: cli.otlp_endpoint,
            ..TelemetryConfig::default()
        };
        let telemetry = Telemetry::start(&config)?;
        let result = match cli.command {
            Command::Run(args) => run::run(&args).await,
            Command::Supervise(args) => supervise::supervise(&args).await,
        };
        telemetry.shutdown();
        result
    })
}
