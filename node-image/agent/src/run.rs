//! The agent: joins, then keeps kubelet, service proxy, DNS and tunnel running until it is told to stop.

use crate::{
    MachineArgs, cni, images,
    join::join,
    layout::Layout,
    state::{self, Joined},
    supervise::end_on_signal,
    tunnel,
};
use anyhow::Context;
use futures::StreamExt;
use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::{Node, Taint};
use kube::{
    Api, Client,
    config::{AuthInfo, Cluster, KubeConfigOptions, Kubeconfig, NamedAuthInfo, NamedCluster, NamedContext},
    runtime::{WatchStreamExt, watcher},
};
use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};
use timonel_dns::DnsConfig;
use timonel_fleet::NodeSettings;
use timonel_kubelet::{ImageThresholds, Kubelet, KubeletConfig};
use timonel_proxy::{NodeView, ProxyConfig};
use timonel_runtime::{Clock, Entropy, OnError, Tasks, chain, replace_file};
use tokio::process::Command;

/// First wait before joining is tried again; doubles up to the longest.
const FIRST_WAIT: Duration = Duration::from_millis(250);
/// Longest such wait.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// Longest wait for the first of the images that the machine brings along.
const FIRST_IMAGE_PATIENCE: Duration = Duration::from_secs(15);
/// How often the age of the certificate is looked at.
const RENEWAL_LOOK: Duration = Duration::from_secs(600);
/// Per cent of a disk that the machine shares with others which must stay free: how full others make it is no reason to
/// evict pods, that nothing can be written any more is.
const SHARED_DISK_PERCENT: u64 = 1;
/// Time for everything to stop.
const GRACE: Duration = Duration::from_secs(8);
/// Service of the cluster's DNS; the node answers for it itself.
const DNS_SERVICE: &str = "kube-system/kube-dns";
/// Kernel settings without which a node carries no pod traffic.
const SETTINGS: [(&str, &str); 3] = [
    ("/proc/sys/net/ipv4/ip_forward", "1"),
    ("/proc/sys/net/bridge/bridge-nf-call-iptables", "1"),
    ("/proc/sys/net/ipv4/conf/all/rp_filter", "0"),
];

/// Runs until SIGTERM, SIGINT, or the moment for a fresh certificate; the supervisor starts it again then.
pub(crate) async fn run(args: &MachineArgs) -> anyhow::Result<()> {
    let tasks = Tasks::root("agent");
    end_on_signal(&tasks);
    let token = tasks.token();
    let done = token.run_until_cancelled(start(args, &tasks)).await;
    if let Some(Err(error)) = done {
        tasks.shutdown(GRACE).await;
        return Err(error);
    }
    token.cancelled().await;
    tasks.shutdown(GRACE).await;
    Ok(())
}

async fn start(args: &MachineArgs, tasks: &Tasks) -> anyhow::Result<()> {
    let layout = Layout::new(&args.machine_dir);
    for folder in layout.directories() {
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    }
    for (path, value) in SETTINGS {
        if let Err(error) = fs::write(path, value) {
            tracing::warn!(path, %error, "kernel setting cannot be made");
        }
    }
    let clock = Clock::system();
    let joined = match state::load(&layout) {
        Some(joined) => joined,
        None => join_until_in(args, &layout, &clock, tasks).await?,
    };
    let settings = joined.settings().clone();
    tracing::info!(node = %settings.name, server = %joined.server, "joined");
    let brought = args.images.as_ref().map(|images| images::import(images, &layout, tasks));
    let client = client(&joined).await?;
    let mut kubelet = kubelet_config(args, &layout, &joined, client.clone(), clock.clone())?;
    if let Some(mut brought) = brought {
        // Without the pods' own image, the smallest and so the first, no pod starts at all.
        if tokio::time::timeout(FIRST_IMAGE_PATIENCE, brought.changed()).await.is_err() {
            tracing::warn!("no image imported yet; going on");
        }
        kubelet.brought_images = brought;
    }
    let kubelet = Kubelet::new(kubelet, tasks).context("kubelet")?;
    let current = tunnel::keep(&joined, &kubelet.api(), tasks);
    let address: Ipv4Addr = joined.address.parse().context("the machine's address")?;
    let api = tunnel::serve_api(address, current, tasks).await.context("listening for pods' connections to the API")?;
    network(&client, &settings.name, &layout, tasks);
    let pods: Ipv4Net = settings.pod_cidr.parse().context("the cluster's pod range")?;
    let proxy = ProxyConfig {
        node: NodeView { name: settings.name.clone(), addresses: vec![address] },
        pods: vec![pods],
        direct: vec![pods],
        api_server: Some(api),
        own_services: vec![DNS_SERVICE.to_owned()],
        serve_healthz: true,
    };
    let (scope, to_api) = (tasks.child("proxy"), client.clone());
    tasks.spawn("proxy", OnError::EndScope, async move { timonel_proxy::run(to_api, proxy, &scope).await });
    dns(&settings, client, tasks).await?;
    renew(args, &layout, &joined, clock, tasks);
    kubelet.run();
    // Dropping it would end its scope; it lives as long as the agent.
    let token = tasks.token();
    tasks.spawn_draining("kubelet", async move {
        token.cancelled().await;
        drop(kubelet);
    });
    Ok(())
}

async fn join_until_in(args: &MachineArgs, layout: &Layout, clock: &Clock, tasks: &Tasks) -> anyhow::Result<Joined> {
    let mut wait = FIRST_WAIT;
    loop {
        match join(&args.metadata, clock.now(), tasks).await {
            Ok(joined) => {
                state::save(layout, &joined).context("keeping the node's state")?;
                return Ok(joined);
            }
            Err(error) => tracing::warn!(error = %chain(&error), "not joined; trying again"),
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

async fn client(joined: &Joined) -> anyhow::Result<Client> {
    use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
    let name = "timonel".to_owned();
    let file = Kubeconfig {
        clusters: vec![NamedCluster {
            name: name.clone(),
            cluster: Some(Cluster {
                server: Some(joined.server.clone()),
                tls_server_name: Some(joined.server_name.clone()),
                certificate_authority_data: Some(BASE64.encode(&joined.answer.authority)),
                ..Cluster::default()
            }),
            other: Default::default(),
        }],
        auth_infos: vec![NamedAuthInfo {
            name: name.clone(),
            auth_info: Some(AuthInfo {
                client_certificate_data: Some(BASE64.encode(&joined.answer.certificate)),
                client_key_data: Some(joined.key.clone().into_bytes()).map(|key| BASE64.encode(key).into()),
                ..AuthInfo::default()
            }),
            other: Default::default(),
        }],
        contexts: vec![NamedContext {
            name: name.clone(),
            context: Some(kube::config::Context {
                cluster: name.clone(),
                user: Some(name.clone()),
                ..Default::default()
            }),
            other: Default::default(),
        }],
        current_context: Some(name),
        ..Kubeconfig::default()
    };
    let config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
    Client::try_from(config).context("client for the cluster's API")
}

fn kubelet_config(
    args: &MachineArgs,
    layout: &Layout,
    joined: &Joined,
    client: Client,
    clock: Clock,
) -> anyhow::Result<KubeletConfig> {
    let settings = joined.settings();
    let endpoint = format!("unix://{}", layout.containerd_socket().display());
    let mut config = KubeletConfig::new(&settings.name, client, &endpoint);
    config.clock = clock;
    config.entropy = Entropy::system();
    config.root_dir = layout.kubelet();
    config.pod_logs_dir = layout.pod_logs();
    config.cgroup_root.clone_from(&args.cgroup_root);
    config.volumes_dir = layout.volumes();
    config.cluster_dns = vec![settings.dns_address.clone()];
    config.cluster_domain.clone_from(&settings.domain);
    config.node_ips = vec![joined.address.clone()];
    config.labels.clone_from(&settings.labels);
    config.taints = settings.taints.iter().map(|text| taint(text)).collect::<anyhow::Result<_>>()?;
    config.external_cloud = true;
    if args.shared_disk {
        config.eviction.disk_percent = SHARED_DISK_PERCENT;
        config.image_gc =
            ImageThresholds { high_percent: 100 - SHARED_DISK_PERCENT, low_percent: 100 - SHARED_DISK_PERCENT };
    }
    Ok(config)
}

/// `key=value:effect` or `key:effect`.
fn taint(text: &str) -> anyhow::Result<Taint> {
    let (pair, effect) = text.rsplit_once(':').with_context(|| format!("taint {text:?} has no effect"))?;
    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
    let value = (!value.is_empty()).then(|| value.to_owned());
    Ok(Taint { key: key.to_owned(), value, effect: effect.to_owned(), time_added: None })
}

/// Writes the pods' network as soon as the Node has its range, and again if that changes.
fn network(client: &Client, node: &str, layout: &Layout, tasks: &Tasks) {
    let only = watcher::Config::default().fields(&format!("metadata.name={node}"));
    let nodes = watcher(Api::<Node>::all(client.clone()), only).default_backoff().applied_objects();
    let (path, state) = (layout.cni_config().join(cni::FILE), layout.cni_state());
    tasks.spawn("pod network", OnError::EndScope, async move {
        let mut written = None;
        let mut nodes = std::pin::pin!(nodes);
        while let Some(node) = nodes.next().await {
            let Ok(node) = node else { continue };
            let range = node.spec.and_then(|spec| spec.pod_cidr).and_then(|range| range.parse::<Ipv4Net>().ok());
            if let Some(range) = range.filter(|range| written != Some(*range)) {
                replace_file(&path, &serde_json::to_vec_pretty(&cni::config(range, &state))?)?;
                written = Some(range);
            }
        }
        anyhow::Ok(())
    });
}

/// The node itself has the cluster's DNS address, so that no query leaves it.
async fn dns(settings: &NodeSettings, client: Client, tasks: &Tasks) -> anyhow::Result<()> {
    let address: Ipv4Addr = settings.dns_address.parse().context("address of the cluster's DNS")?;
    let own = format!("{address}/32");
    let status = Command::new("ip").args(["address", "replace", &own, "dev", "lo"]).status().await;
    anyhow::ensure!(status.context("running ip")?.success(), "{own} cannot be added to lo");
    let listen = vec![SocketAddr::from((address, 53))];
    let resolvers = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let config = DnsConfig {
        upstream: timonel_dns::Forwarder::servers_of(&resolvers, &listen),
        domain: settings.domain.clone(),
        listen,
    };
    let scope = tasks.child("dns");
    tasks.spawn("dns", OnError::EndScope, async move { timonel_dns::run(client, config, &scope).await });
    Ok(())
}

/// Joins again when two thirds of the certificate's life are over, then ends the agent for a start with the new one.
fn renew(args: &MachineArgs, layout: &Layout, joined: &Joined, clock: Clock, tasks: &Tasks) {
    let (metadata, layout, scope) = (args.metadata.clone(), layout.clone(), tasks.clone());
    let due = joined.at.saturating_add(jiff::SignedDuration::from_secs(joined.answer.renew_after_seconds.into()));
    tasks.spawn("certificate renewal", OnError::Log, async move {
        let due = due?;
        loop {
            tokio::time::sleep(RENEWAL_LOOK).await;
            if clock.now() < due {
                continue;
            }
            match join(&metadata, clock.now(), &scope).await {
                Ok(fresh) => {
                    state::save(&layout, &fresh)?;
                    tracing::info!("fresh certificate; starting again with it");
                    scope.token().cancel();
                    return anyhow::Ok(());
                }
                Err(error) => tracing::warn!(error = %chain(&error), "certificate not renewed; trying again"),
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taints_are_read() {
        let read = taint("a/b=c:NoSchedule").unwrap();
        assert_eq!((read.key.as_str(), read.value.as_deref(), read.effect.as_str()), ("a/b", Some("c"), "NoSchedule"));
        assert_eq!(taint("k:NoExecute").unwrap().value, None);
        assert!(taint("k").is_err());
    }
}
