//! The command line's words. Decides nothing.

use crate::access::AccessArgs;
use clap::{ArgAction, Args, CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use std::{net::SocketAddr, path::PathBuf};

/// A managed Kubernetes service that you run yourself.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// What to log, such as `info,timonel_store=debug`.
    #[arg(long, env = "TIMONEL_LOG", global = true)]
    pub(crate) log: Option<String>,
    /// Log as JSON, one object a line.
    #[arg(long, env = "TIMONEL_LOG_JSON", global = true)]
    pub(crate) log_json: bool,
    /// Where to send traces (OTLP over HTTP), such as `http://127.0.0.1:4318`.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", global = true)]
    pub(crate) otlp_endpoint: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the service.
    Server(ServerArgs),
    /// From nothing to a cluster with nodes: start the service, create a cluster, wait until it serves.
    Up(UpArgs),
    /// Stop everything that `up` started; data stays.
    Down(DownArgs),
    /// Say what this machine lacks.
    Doctor(DoctorArgs),
    /// Hosted clusters.
    Cluster(ClusterArgs),
    /// The store of the running service.
    Store(KeepingArgs),
    /// Node pools: machines of one shape for a cluster.
    Nodepool(PoolArgs),
    /// Machines.
    Machine(MachineArgs),
    /// Long actions with their steps.
    Operation(OperationArgs),
    /// Print a completion script for a shell.
    Completion {
        /// Which shell.
        shell: Shell,
    },
}

/// Where the data is.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct DataArgs {
    /// Directory of all data. [default: /var/lib/timonel, without root ~/.local/share/timonel]
    #[arg(long, env = "TIMONEL_DATA", global = true)]
    pub(crate) data: Option<PathBuf>,
}

#[derive(Clone, Debug, Default, Args)]
pub(crate) struct ServerArgs {
    /// Configuration file (YAML); flags win over it.
    #[arg(long, env = "TIMONEL_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// Address of the one TLS port; may be given several times. [default: 127.0.0.1:6443]
    #[arg(long, env = "TIMONEL_LISTEN", value_delimiter = ',')]
    pub(crate) listen: Vec<SocketAddr>,
    /// Host name or address by which clients and nodes elsewhere reach this service: it goes into endpoints,
    /// kubeconfigs and certificates. [default: the first address listened on]
    #[arg(long, env = "TIMONEL_ADVERTISE")]
    pub(crate) advertise: Option<String>,
    /// `HOST:PORT` by which the other control machines of one etcd reach this one. [default: the first address listened
    /// on, unless that is every address]
    #[arg(long, env = "TIMONEL_PEER_ENDPOINT")]
    pub(crate) peer_endpoint: Option<String>,
    /// Ports from which each cluster gets one of its own, `FIRST-LAST`. [default: 20000-29999]
    #[arg(long, env = "TIMONEL_CLUSTER_PORTS")]
    pub(crate) cluster_ports: Option<PortRange>,
    /// Ranges in which nodes without a tunnel (upstream's kubelet) may be dialled, and their pods.
    #[arg(long, env = "TIMONEL_DIRECT_NODES", value_delimiter = ',')]
    pub(crate) direct_nodes: Vec<ipnet::IpNet>,
    /// Loopback and link-local ranges of this machine at which clusters may have webhooks, token issuers and extension
    /// API servers called; none by default, for whoever configures a cluster chooses the address.
    #[arg(long, env = "TIMONEL_LOCAL_DESTINATIONS", value_delimiter = ',')]
    pub(crate) local_destinations: Vec<ipnet::IpNet>,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    /// Which resources lie encrypted in the store, and how: a file with upstream's `EncryptionConfiguration`. It is
    /// followed when it changes.
    #[arg(long, env = "TIMONEL_ENCRYPTION_PROVIDER_CONFIG")]
    pub(crate) encryption_provider_config: Option<PathBuf>,
    /// Audit, authentication and authorization of the fleet's own API. The files are followed when they change.
    #[command(flatten)]
    pub(crate) access: AccessArgs,
    /// The cloud that nodes come from: `local`, or `none` for control planes alone.
    /// [default: local where this machine can, else none]
    #[arg(long, env = "TIMONEL_CLOUD")]
    pub(crate) cloud: Option<CloudChoice>,
    /// Name of the local cloud: part of every network namespace's name.
    #[arg(long, env = "TIMONEL_LOCAL_NAME")]
    pub(crate) local_name: Option<String>,
    /// Public address range of the local cloud.
    #[arg(long, env = "TIMONEL_LOCAL_PUBLIC")]
    pub(crate) local_public: Option<ipnet::Ipv4Net>,
    /// Address range of the local cloud's machines.
    #[arg(long, env = "TIMONEL_LOCAL_MACHINES")]
    pub(crate) local_machines: Option<ipnet::Ipv4Net>,
}

/// Ports, `FIRST-LAST`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct PortRange {
    pub(crate) first: u16,
    pub(crate) last: u16,
}

impl std::str::FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let ports = text.split_once('-').and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
        match ports {
            Some((first, last)) if first > 0 && first <= last => Ok(Self { first, last }),
            _ => Err(format!("{text:?} is not FIRST-LAST of ports between 1 and 65535")),
        }
    }
}

impl TryFrom<String> for PortRange {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl std::fmt::Display for PortRange {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}-{}", self.first, self.last)
    }
}

/// Where objects are kept.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct StoreArgs {
    /// `embedded`, `embedded:DIRECTORY`, or `etcd://HOST:PORT,.../PREFIX`: any number of control machines may share one, with the same
    /// `master.key` in their data directories.
    #[arg(long, env = "TIMONEL_STORE")]
    pub(crate) store: Option<String>,
    /// Objects of a resource that lie in another store: `GROUP/RESOURCE#STORE`, such as
    /// `/events#etcd://HOST:PORT,.../PREFIX` (the core group is empty); may be given several times, or several with `;`
    /// between. The other store is reached with the same certificates and user.
    #[arg(long, env = "TIMONEL_STORE_OVERRIDES", value_delimiter = ';')]
    pub(crate) store_overrides: Vec<String>,
    /// Certificate of the authority of etcd's members (PEM file): TLS.
    #[arg(long, env = "TIMONEL_ETCD_CA")]
    pub(crate) etcd_ca: Option<PathBuf>,
    /// Certificate that etcd knows this program by (PEM file).
    #[arg(long, env = "TIMONEL_ETCD_CERT", requires = "etcd_key")]
    pub(crate) etcd_cert: Option<PathBuf>,
    /// Its key (PEM file).
    #[arg(long, env = "TIMONEL_ETCD_KEY", requires = "etcd_cert")]
    pub(crate) etcd_key: Option<PathBuf>,
    /// User of etcd's own authentication.
    #[arg(long, env = "TIMONEL_ETCD_USER", requires = "etcd_password_file")]
    pub(crate) etcd_user: Option<String>,
    /// File with the user's password.
    #[arg(long, env = "TIMONEL_ETCD_PASSWORD_FILE", requires = "etcd_user")]
    pub(crate) etcd_password_file: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum CloudChoice {
    Local,
    None,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct UpArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// Name of the cluster.
    #[arg(long, default_value = "demo")]
    pub(crate) cluster: String,
    /// How many nodes.
    #[arg(long, default_value_t = 2)]
    pub(crate) nodes: i32,
    /// A manifest to apply, whose `LoadBalancer` Service is waited for; may be given several times.
    #[arg(long)]
    pub(crate) apply: Vec<PathBuf>,
    /// Longest wait for each step, seconds.
    #[arg(long, default_value_t = 300)]
    pub(crate) timeout: u64,
    /// How to print the result.
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Format,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct DownArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// Delete all data too: clusters, volumes, keys.
    #[arg(long)]
    pub(crate) purge: bool,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct DoctorArgs {
    /// How to print the findings.
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Format,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Table,
    /// The objects as JSON.
    Json,
    /// The objects as YAML.
    Yaml,
    /// Names only.
    Name,
}

/// How to reach the fleet, and how to print.
#[derive(Clone, Debug, Args)]
pub(crate) struct FleetArgs {
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// Project (namespace of the fleet).
    #[arg(short, long, env = "TIMONEL_PROJECT", default_value = "default", global = true)]
    pub(crate) project: String,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t, global = true)]
    pub(crate) output: Format,
    /// Wait until it is done, as `kubectl delete` does; `--wait=false` returns as soon as it is asked for.
    #[arg(long, global = true, action = ArgAction::Set, default_value_t = true, default_missing_value = "true",
          num_args = 0..=1, require_equals = true)]
    pub(crate) wait: bool,
    /// Longest wait, seconds.
    #[arg(long, default_value_t = 300, global = true)]
    pub(crate) timeout: u64,
    /// Have the service check it without doing it.
    #[arg(long, global = true)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ClusterArgs {
    #[command(flatten)]
    pub(crate) fleet: FleetArgs,
    #[command(subcommand)]
    pub(crate) verb: ClusterVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ClusterVerb {
    /// Create a cluster.
    Create {
        /// Its name.
        name: String,
        /// Kubernetes version, `major.minor`.
        #[arg(long, default_value = "1.36")]
        kubernetes_version: String,
        /// Nodes of a first pool, called `default`.
        #[arg(long, default_value_t = 0)]
        nodes: i32,
        /// Range of pods; chosen when left out.
        #[arg(long, default_value = "")]
        pod_cidr: String,
        /// Range of services.
        #[arg(long, default_value = "")]
        service_cidr: String,
        #[command(flatten)]
        control_plane: ControlPlaneArgs,
        #[command(flatten)]
        access: Box<AccessArgs>,
    },
    /// Change who a cluster's users are, what they may and what is written down of it: files in kube-apiserver's
    /// formats. What is not given is taken away.
    Access {
        /// Its name.
        name: String,
        #[command(flatten)]
        access: Box<AccessArgs>,
    },
    /// List clusters.
    List,
    /// Show a cluster.
    Get {
        /// Its name.
        name: String,
    },
    /// Delete a cluster with its machines, cloud objects and data.
    Delete {
        /// Its name.
        name: String,
    },
    /// Print a kubeconfig for a cluster.
    Kubeconfig {
        /// Its name.
        name: String,
    },
    /// Write everything that a cluster has in the store, as of one moment, into a file. The cluster runs on.
    Backup {
        /// Its name.
        name: String,
        /// The file; it must not exist. What it holds is as secret as the cluster.
        #[arg(long)]
        file: PathBuf,
    },
    /// Make a new cluster of a backup. The file is checked first, and nothing that exists is touched.
    Restore {
        /// Name of the new cluster.
        name: String,
        /// The file.
        #[arg(long)]
        file: PathBuf,
        /// Give it the authorities and keys of the old cluster: its kubeconfigs, tokens and nodes stay good. Without it
        /// the new cluster trusts nothing of the old one's.
        #[arg(long)]
        keep_keys: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct KeepingArgs {
    #[command(flatten)]
    pub(crate) data: DataArgs,
    #[command(subcommand)]
    pub(crate) verb: KeepingVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeepingVerb {
    /// Copy all clusters into another, empty store, while readers go on. The server then writes no more: start it again
    /// with the new `--store`.
    Migrate {
        /// The other store: `etcd://HOST:PORT,.../PREFIX` or `embedded:DIRECTORY`, as the server reaches it, with the
        /// server's certificates for etcd.
        #[arg(long)]
        to: String,
        /// Objects of a resource that go to a store of their own, `GROUP/RESOURCE#STORE`, as `--store-overrides` says it.
        /// Without any, what the server keeps apart comes together.
        #[arg(long, value_delimiter = ';')]
        to_overrides: Vec<String>,
    },
    /// Seal every object anew that lies in the store otherwise than the encryption configuration says today.
    Rewrite,
}

/// How the control plane is run.
#[derive(Clone, Debug, Args)]
pub(crate) struct ControlPlaneArgs {
    /// Leave out the controllers: run a controller manager of your own against the API.
    #[arg(long)]
    pub(crate) without_controllers: bool,
    /// Leave out the scheduler: run one of your own.
    #[arg(long)]
    pub(crate) without_scheduler: bool,
    /// Port of the cluster's own endpoint; chosen when left out.
    #[arg(long, default_value_t = 0)]
    pub(crate) port: u16,
}

#[derive(Debug, Args)]
pub(crate) struct PoolArgs {
    #[command(flatten)]
    pub(crate) fleet: FleetArgs,
    #[command(subcommand)]
    pub(crate) verb: PoolVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PoolVerb {
    /// Create a pool.
    Create {
        /// Its name.
        name: String,
        /// Its cluster.
        #[arg(long)]
        cluster: String,
        /// How many machines.
        #[arg(long, default_value_t = 1)]
        replicas: i32,
        /// Instance type, in the cloud's words.
        #[arg(long, default_value = "")]
        instance_type: String,
        /// Zones to spread over.
        #[arg(long, value_delimiter = ',')]
        zones: Vec<String>,
    },
    /// List pools.
    List,
    /// Change how many machines a pool has.
    Scale {
        /// Its name.
        name: String,
        /// How many machines.
        #[arg(long)]
        replicas: i32,
    },
    /// Delete a pool with its machines.
    Delete {
        /// Its name.
        name: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct MachineArgs {
    #[command(flatten)]
    pub(crate) fleet: FleetArgs,
    #[command(subcommand)]
    pub(crate) verb: MachineVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum MachineVerb {
    /// List machines.
    List,
    /// Show a machine.
    Get {
        /// Its name.
        name: String,
    },
    /// Print the log of a machine's serial console (local cloud).
    Console {
        /// Its name.
        name: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct OperationArgs {
    #[command(flatten)]
    pub(crate) fleet: FleetArgs,
    #[command(subcommand)]
    pub(crate) verb: OperationVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum OperationVerb {
    /// List operations.
    List,
    /// Show an operation.
    Get {
        /// Its name.
        name: String,
    },
    /// Wait until an operation has ended.
    Wait {
        /// Its name.
        name: String,
    },
}

/// Prints a completion script.
pub(crate) fn completion(shell: Shell) {
    clap_complete::generate(shell, &mut Cli::command(), "timonel", &mut std::io::stdout());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_is_asked_for_is_waited_for_unless_told_otherwise() {
        for (flag, expected) in [("", true), ("--wait", true), ("--wait=true", true), ("--wait=false", false)] {
            let words = ["timonel", "cluster", "create", "a", flag];
            let cli = Cli::try_parse_from(words.into_iter().filter(|word| !word.is_empty())).unwrap();
            let Command::Cluster(args) = cli.command else { panic!("{flag}") };
            assert_eq!(args.fleet.wait, expected, "{flag}");
        }
    }

    #[test]
    fn ranges_of_ports_are_read_strictly() {
        for (text, expected) in
            [("1-2", Some((1, 2))), ("7-7", Some((7, 7))), ("0-2", None), ("3-2", None), ("1-70000", None)]
        {
            let range = text.parse::<PortRange>().ok();
            assert_eq!(range.map(|range| (range.first, range.last)), expected, "{text}");
        }
    }
}
