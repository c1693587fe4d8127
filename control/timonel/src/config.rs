//! The server's settings: file, then environment and flags over it, then defaults.

use crate::{
    access::AccessArgs,
    cli::{CloudChoice, DataArgs, PortRange, ServerArgs},
    storage::{EtcdFiles, Override, StoreChoice},
};
use anyhow::Context;
use ipnet::{IpNet, Ipv4Net};
use serde::Deserialize;
use std::{
    env, fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

/// The port that everybody expects of a Kubernetes API.
const DEFAULT_PORT: u16 = 6443;

/// The configuration file. An unknown key is an error that names it.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    data: Option<PathBuf>,
    #[serde(default)]
    listen: Vec<SocketAddr>,
    advertise: Option<String>,
    peer_endpoint: Option<String>,
    cluster_ports: Option<PortRange>,
    #[serde(default)]
    direct_nodes: Vec<IpNet>,
    #[serde(default)]
    local_destinations: Vec<IpNet>,
    store: Option<String>,
    #[serde(default)]
    store_overrides: Vec<String>,
    #[serde(default)]
    etcd: EtcdFiles,
    encryption_provider_config: Option<PathBuf>,
    #[serde(default)]
    access: AccessArgs,
    cloud: Option<CloudChoice>,
    local: Option<LocalFile>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct LocalFile {
    name: Option<String>,
    public_range: Option<Ipv4Net>,
    machine_range: Option<Ipv4Net>,
}

/// What the server runs with.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) data: PathBuf,
    pub(crate) listen: Vec<SocketAddr>,
    pub(crate) advertise: Option<String>,
    pub(crate) peer_endpoint: Option<String>,
    pub(crate) cluster_ports: Option<PortRange>,
    pub(crate) direct_nodes: Vec<IpNet>,
    pub(crate) local_destinations: Vec<IpNet>,
    pub(crate) store: StoreChoice,
    pub(crate) overrides: Vec<Override>,
    pub(crate) encryption: Option<PathBuf>,
    pub(crate) access: AccessArgs,
    pub(crate) cloud: Option<CloudChoice>,
    pub(crate) local_name: Option<String>,
    pub(crate) local_public: Option<Ipv4Net>,
    pub(crate) local_machines: Option<Ipv4Net>,
}

impl Settings {
    /// Reads the file, if there is one, and puts the flags over it.
    pub(crate) fn load(args: &ServerArgs) -> anyhow::Result<Self> {
        let file = args.config.as_deref().map(read).transpose()?.unwrap_or_default();
        Self::merge(args, file)
    }

    fn merge(args: &ServerArgs, file: File) -> anyhow::Result<Self> {
        let local = file.local.unwrap_or_default();
        let listen = either(&args.listen, file.listen);
        let listen =
            if listen.is_empty() { vec![SocketAddr::from((Ipv4Addr::LOCALHOST, DEFAULT_PORT))] } else { listen };
        let store = StoreChoice::new(&args.store, file.store.as_deref(), &file.etcd)?;
        let flags = &args.store.store_overrides;
        let overrides = store.overrides(if flags.is_empty() { &file.store_overrides } else { flags })?;
        let data = args.data.data.clone().or(file.data);
        let data = std::path::absolute(data.unwrap_or_else(default_data)).context("data directory")?;
        Ok(Self {
            data,
            listen,
            advertise: args.advertise.clone().or(file.advertise),
            peer_endpoint: args.peer_endpoint.clone().or(file.peer_endpoint),
            cluster_ports: args.cluster_ports.or(file.cluster_ports),
            direct_nodes: either(&args.direct_nodes, file.direct_nodes),
            local_destinations: either(&args.local_destinations, file.local_destinations),
            store,
            overrides,
            encryption: args.encryption_provider_config.clone().or(file.encryption_provider_config),
            access: if args.access == AccessArgs::default() { file.access } else { args.access.clone() },
            cloud: args.cloud.or(file.cloud),
            local_name: args.local_name.clone().or(local.name),
            local_public: args.local_public.or(local.public_range),
            local_machines: args.local_machines.or(local.machine_range),
        })
    }
}

/// What flags say, else what the file says.
fn either<T: Clone>(flags: &[T], file: Vec<T>) -> Vec<T> {
    if flags.is_empty() { file } else { flags.to_vec() }
}

/// The data directory of a client command.
pub(crate) fn data(args: &DataArgs) -> PathBuf {
    args.data.clone().unwrap_or_else(default_data)
}

fn read(path: &Path) -> anyhow::Result<File> {
    let text = fs::read_to_string(path).with_context(|| format!("configuration {}", path.display()))?;
    serde_saphyr::from_str(&text).with_context(|| format!("configuration {}", path.display()))
}

fn default_data() -> PathBuf {
    let home = env::var_os("HOME").filter(|_| !rustix::process::geteuid().is_root());
    home.map_or_else(|| PathBuf::from("/var/lib/timonel"), |home| PathBuf::from(home).join(".local/share/timonel"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::StoreArgs;

    fn file(yaml: &str) -> File {
        serde_saphyr::from_str(yaml).unwrap()
    }

    #[test]
    fn flags_win_over_the_file() {
        let file = || file("listen: ['127.0.0.1:1']\ncloud: none\nlocal: {name: a}");
        let from_file = Settings::merge(&ServerArgs::default(), file()).unwrap();
        assert_eq!(from_file.listen, ["127.0.0.1:1".parse().unwrap()]);
        assert_eq!(from_file.cloud, Some(CloudChoice::None));
        let args = ServerArgs { listen: vec!["127.0.0.1:2".parse().unwrap()], ..ServerArgs::default() };
        assert_eq!(Settings::merge(&args, file()).unwrap().listen, ["127.0.0.1:2".parse().unwrap()]);
    }

    #[test]
    fn an_unknown_key_is_named() {
        let error = serde_saphyr::from_str::<File>("lissten: []").unwrap_err().to_string();
        assert!(error.contains("lissten"), "{error}");
    }

    #[test]
    fn a_strange_store_is_refused() {
        let args = ServerArgs {
            store: StoreArgs { store: Some("floppy".into()), ..StoreArgs::default() },
            ..ServerArgs::default()
        };
        assert!(Settings::merge(&args, File::default()).is_err());
    }
}
