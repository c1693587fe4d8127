//! `timonel up` and `timonel down`: from nothing to a serving cluster and back. Every step looks first and does only
//! what is missing, so that `up` can be run again at any point.

use crate::{
    cli::{DownArgs, Format, UpArgs},
    client,
    config::Settings,
    local,
    progress::Step,
    server::PID_FILE,
};
use anyhow::{Context, bail};
use k8s_openapi::api::{
    apps::v1::{Deployment, StatefulSet},
    core::v1::{Node, Service},
};
use kube::{
    Api, Client,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use serde_json::json;
use std::{
    cell::RefCell,
    fs::{self, OpenOptions},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};
use timonel_cloud_local::LocalCloud;
use timonel_fleet::{Cluster, ClusterPhase, ClusterSpec, NodePool, NodePoolSpec};

/// The project of everything that `up` makes.
const PROJECT: &str = "default";
/// Seconds for the server to answer.
const SERVER_SECONDS: u64 = 30;
/// Seconds for the server to stop.
const STOP_SECONDS: u64 = 30;

/// Brings everything up and prints how to use it.
pub(crate) async fn up(args: &UpArgs) -> anyhow::Result<()> {
    let settings = Settings::load(&args.server)?;
    fs::create_dir_all(settings.data.join(local::IMAGES)).context("data directory")?;
    let data = settings.data.as_path();
    start_server(args, &settings).await.context("step \"service\" failed")?;
    let fleet = client::fleet(data).await?;
    create_cluster(&fleet, args).await.context("step \"cluster\" failed")?;
    let context = timonel_service::context(PROJECT, &args.cluster);
    let cluster = client::connect(data, &context).await?;
    if args.nodes > 0 {
        create_nodes(&fleet, &cluster, args).await.context("step \"nodes\" failed")?;
    }
    let mut addresses = Vec::new();
    for manifest in &args.apply {
        addresses.extend(apply(data, &context, &cluster, manifest, args).await.context("step \"application\" failed")?);
    }
    let kubeconfig = data.join("kubeconfig");
    let result = json!({"kubeconfig": kubeconfig, "contexts": [context, "timonel"], "publicAddresses": addresses});
    match args.output {
        Format::Json | Format::Yaml => println!("{}", serde_json::to_string_pretty(&result)?),
        Format::Name => addresses.iter().for_each(|address| println!("{address}")),
        Format::Table => {
            println!("\nexport KUBECONFIG={}", kubeconfig.display());
            println!("kubectl --context {context} get nodes -o wide");
            for address in &addresses {
                println!("application: http://{address}/");
            }
        }
    }
    Ok(())
}

/// Whether the process of the pid file runs and is ours.
fn running(data: &Path) -> Option<rustix::process::Pid> {
    let pid: i32 = fs::read_to_string(data.join(PID_FILE)).ok()?.trim().parse().ok()?;
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let ours = command.split(|byte| *byte == 0).any(|word| word == b"server");
    rustix::process::Pid::from_raw(pid).filter(|_| ours)
}

async fn start_server(args: &UpArgs, settings: &Settings) -> anyhow::Result<()> {
    let mut step = Step::begin("service");
    let data = settings.data.as_path();
    let child: RefCell<Option<Child>> = RefCell::new(None);
    let look = || async {
        if running(data).is_none() {
            let mut child = child.borrow_mut();
            match child.as_mut().map(Child::try_wait) {
                // One that was there a moment ago may have been about to end.
                None => *child = Some(spawn_server(args, data)?),
                Some(Ok(Some(_))) => {
                    let told = format!("the server ended; the end of {}:\n{}", log_path(data).display(), log_end(data));
                    return Err(client::Ending::Stopped(told).into());
                }
                // On its way: it has not got its name yet.
                Some(_) => {}
            }
        }
        let fleet = client::fleet(data).await?;
        fleet.apiserver_version().await?;
        Ok(Ok::<_, String>(()))
    };
    client::wait("the service to answer", SERVER_SECONDS, |state| step.note(state), look).await?;
    step.done("");
    Ok(())
}

fn log_path(data: &Path) -> std::path::PathBuf {
    data.join("server.log")
}

fn log_end(data: &Path) -> String {
    let log = fs::read_to_string(log_path(data)).unwrap_or_default();
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(5)..].join("\n")
}

/// Starts the server in a session of its own, so that it outlives this command and its terminal.
fn spawn_server(args: &UpArgs, data: &Path) -> anyhow::Result<Child> {
    let log = OpenOptions::new().create(true).append(true).open(log_path(data)).context("server log")?;
    let mut command = Command::new(std::env::current_exe().context("finding this program")?);
    command.arg("server").arg("--data").arg(data);
    let server = &args.server;
    let path = |path: &Option<std::path::PathBuf>| path.as_ref().map(|path| path.display().to_string());
    if let Some(path) = &server.config {
        command.arg("--config").arg(path);
    }
    for address in &server.listen {
        command.arg("--listen").arg(address.to_string());
    }
    for range in &server.direct_nodes {
        command.arg("--direct-nodes").arg(range.to_string());
    }
    for range in &server.local_destinations {
        command.arg("--local-destinations").arg(range.to_string());
    }
    for one in &server.store.store_overrides {
        command.arg("--store-overrides").arg(one);
    }
    for (flag, value) in [
        ("--store", server.store.store.clone()),
        ("--etcd-ca", path(&server.store.etcd_ca)),
        ("--etcd-cert", path(&server.store.etcd_cert)),
        ("--etcd-key", path(&server.store.etcd_key)),
        ("--etcd-user", server.store.etcd_user.clone()),
        ("--etcd-password-file", path(&server.store.etcd_password_file)),
        ("--encryption-provider-config", path(&server.encryption_provider_config)),
        ("--advertise", server.advertise.clone()),
        ("--peer-endpoint", server.peer_endpoint.clone()),
        ("--cluster-ports", server.cluster_ports.map(|range| range.to_string())),
        ("--local-name", server.local_name.clone()),
        ("--local-public", server.local_public.map(|range| range.to_string())),
        ("--local-machines", server.local_machines.map(|range| range.to_string())),
        ("--cloud", server.cloud.map(|cloud| format!("{cloud:?}").to_lowercase())),
    ] {
        if let Some(value) = value {
            command.arg(flag).arg(value);
        }
    }
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
    let child = command.spawn().context("starting the server")?;
    // The server writes the same; until then this is where to look for it.
    fs::write(data.join(PID_FILE), child.id().to_string()).context("pid file")?;
    Ok(child)
}

async fn create_cluster(fleet: &Client, args: &UpArgs) -> anyhow::Result<()> {
    let mut step = Step::begin(&format!("cluster {:?}", args.cluster));
    let clusters: Api<Cluster> = Api::namespaced(fleet.clone(), PROJECT);
    if clusters.get_opt(&args.cluster).await?.is_none() {
        let spec = ClusterSpec { version: "1.36".into(), cloud: "local".into(), ..ClusterSpec::default() };
        clusters.create(&PostParams::default(), &Cluster::new(PROJECT, &args.cluster, spec)).await?;
    }
    let look = || async {
        let status = clusters.get(&args.cluster).await?.status.unwrap_or_default();
        let message = status.conditions.first().map_or("accepted", |ready| ready.message.as_str()).to_owned();
        Ok(if status.phase == ClusterPhase::Ready { Ok(()) } else { Err(message) })
    };
    client::wait("the cluster to be ready", args.timeout, |state| step.note(state), look).await?;
    step.done("");
    Ok(())
}

async fn create_nodes(fleet: &Client, cluster: &Client, args: &UpArgs) -> anyhow::Result<()> {
    let mut step = Step::begin(&format!("{} nodes", args.nodes));
    let pools: Api<NodePool> = Api::namespaced(fleet.clone(), PROJECT);
    let name = format!("{}-default", args.cluster);
    match pools.get_opt(&name).await? {
        None => {
            let spec = NodePoolSpec { cluster: args.cluster.clone(), replicas: args.nodes, ..NodePoolSpec::default() };
            pools.create(&PostParams::default(), &NodePool::new(PROJECT, &name, spec)).await?;
        }
        Some(pool) if pool.spec.replicas != args.nodes => {
            let patch = Patch::Merge(json!({"spec": {"replicas": args.nodes}}));
            pools.patch(&name, &PatchParams::default(), &patch).await?;
        }
        Some(_) => {}
    }
    let nodes: Api<Node> = Api::all(cluster.clone());
    let look = || async {
        let nodes = nodes.list(&ListParams::default()).await?.items;
        let ready = nodes.iter().filter(|node| is_ready(node)).count();
        let wanted = usize::try_from(args.nodes).unwrap_or_default();
        let state = format!("{} of {wanted} registered, {ready} ready", nodes.len());
        Ok(if ready >= wanted { Ok(()) } else { Err(state) })
    };
    client::wait("the nodes to be ready", args.timeout, |state| step.note(state), look).await?;
    step.done("");
    Ok(())
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let tainted =
        node.spec.iter().flat_map(|spec| spec.taints.iter().flatten()).any(|taint| taint.effect != "PreferNoSchedule");
    !tainted && conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Applies a manifest with kubectl, waits for its deployments and the address of its load balancers.
async fn apply(
    data: &Path,
    context: &str,
    cluster: &Client,
    manifest: &Path,
    args: &UpArgs,
) -> anyhow::Result<Vec<String>> {
    let mut step = Step::begin(&format!("application {}", manifest.display()));
    let output = tokio::process::Command::new("kubectl")
        .arg("--kubeconfig")
        .arg(data.join("kubeconfig"))
        .args(["--context", context, "apply", "-f"])
        .arg(manifest)
        .output()
        .await
        .context("running kubectl")?;
    if !output.status.success() {
        bail!("kubectl apply: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let services: Api<Service> = Api::all(cluster.clone());
    let look = || async {
        let all = services.list(&ListParams::default()).await?.items;
        let balanced = all
            .iter()
            .filter(|service| service.spec.as_ref().and_then(|spec| spec.type_.as_deref()) == Some("LoadBalancer"));
        let addresses: Vec<Option<String>> = balanced.map(public_address).collect();
        let pending = addresses.iter().filter(|address| address.is_none()).count();
        if pending > 0 {
            return Ok(Err(format!("{pending} load balancers have no address yet")));
        }
        if let Some(waiting) = unready(cluster).await? {
            return Ok(Err(waiting));
        }
        let addresses: Vec<String> = addresses.into_iter().flatten().collect();
        for address in &addresses {
            if tokio::net::TcpStream::connect(address).await.is_err() {
                return Ok(Err(format!("{address} does not answer yet")));
            }
        }
        Ok(Ok(addresses))
    };
    let addresses = client::wait("the application to answer", args.timeout, |state| step.note(state), look).await?;
    step.done(&addresses.join(", "));
    Ok(addresses)
}

/// The first Deployment or StatefulSet whose replicas are not all ready.
async fn unready(cluster: &Client) -> anyhow::Result<Option<String>> {
    let deployments = Api::<Deployment>::all(cluster.clone()).list(&ListParams::default()).await?.items;
    let sets = Api::<StatefulSet>::all(cluster.clone()).list(&ListParams::default()).await?.items;
    let deployments = deployments.into_iter().map(|deployment| {
        let ready = deployment.status.and_then(|status| status.ready_replicas);
        (deployment.metadata.name, deployment.spec.and_then(|spec| spec.replicas), ready)
    });
    let sets = sets.into_iter().map(|set| {
        let ready = set.status.and_then(|status| status.ready_replicas);
        (set.metadata.name, set.spec.and_then(|spec| spec.replicas), ready)
    });
    let mut behind = deployments.chain(sets).filter_map(|(name, wanted, ready)| {
        let (wanted, ready) = (wanted.unwrap_or(1), ready.unwrap_or(0));
        (ready < wanted).then(|| format!("{}: {ready} of {wanted} ready", name.unwrap_or_default()))
    });
    Ok(behind.next())
}

/// `address:port` of a load balancer's first port.
fn public_address(service: &Service) -> Option<String> {
    let ingress = service.status.as_ref()?.load_balancer.as_ref()?.ingress.as_ref()?.first()?;
    let port = service.spec.as_ref()?.ports.as_ref()?.first()?.port;
    Some(format!("{}:{port}", ingress.ip.as_ref()?))
}

/// Stops the server and takes the local cloud off this machine.
pub(crate) async fn down(args: &DownArgs) -> anyhow::Result<()> {
    let settings = Settings::load(&args.server)?;
    let data = settings.data.as_path();
    let step = Step::begin("service");
    if let Some(pid) = running(data) {
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).context("asking the server to stop")?;
        let gone = || async { Ok(if running(data).is_none() { Ok(()) } else { Err("stopping".to_owned()) }) };
        if client::wait("the server to stop", STOP_SECONDS, |_| {}, gone).await.is_err() {
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).context("killing the server")?;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
    step.done("stopped");
    let config = local::placed(&settings)?;
    if config.data.exists() {
        let step = Step::begin("local cloud");
        if args.purge {
            LocalCloud::destroy_all(&config).await.context("removing the local cloud")?;
        } else {
            LocalCloud::down(&config).await.context("taking down the local cloud")?;
        }
        step.done("gone");
    }
    if args.purge && data.exists() {
        fs::remove_dir_all(data).with_context(|| format!("removing {}", data.display()))?;
    }
    Ok(())
}
