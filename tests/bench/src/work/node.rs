//! Pods on a real node of the local cloud: how long until one runs, beside what the container runtime itself takes for
//! one, and what the agent costs at thirty of them. Needs root, the programs and the images, as the whole tests do.

use super::lines;
use crate::{
    client::{Ask, Client},
    objects, ours,
    peer::Side,
    process,
    record::Figures,
};
use anyhow::{Context, anyhow};
use serde_json::{Value, json};
use std::{path::Path, time::Duration};
use timonel_cri::cri::{self, runtime_service_client::RuntimeServiceClient};
use timonel_harness::{Part, World};
use tokio::time::Instant;

/// Tells this world from those of tests.
const WORLD: u8 = 40;
/// The image of every pod: a shell, small.
const IMAGE: &str = "timonel.io/busybox:1";
const PODS: &str = "/api/v1/namespaces/default/pods";
/// Starts that are timed, in turn with the runtime's own.
const STARTS: usize = 7;
/// Pods at which the agent is measured.
const RUNNING: usize = 30;
/// Longest wait for one pod.
const PATIENCE: Duration = Duration::from_secs(120);
/// After the last start, and how long the agent is watched.
const CALM: Duration = Duration::from_secs(20);
const WATCHED: Duration = Duration::from_secs(30);

pub(super) async fn run(figures: &mut Figures) -> anyhow::Result<()> {
    let world = World::prepare(WORLD).map_err(|lacking| anyhow!(lacking.0))?;
    world.timonel(&["up", "--nodes", "1", "--timeout", "240"])?;
    let target = ours::target(&world.data().join("kubeconfig"), &ours::context("demo"))?;
    let client = target.connect(2).await?;
    let nodes: Value = serde_json::from_slice(&client.send(0, Ask::get("/api/v1/nodes")).await?)?;
    let node = nodes["items"][0]["metadata"]["name"].as_str().context("a node")?;
    let processes = world.processes(Part::Agent)?;
    let (machine, agent) = processes.first_key_value().context("an agent")?;
    let socket = world.data().join("local/machines").join(machine);
    let socket = find(&socket, "containerd.sock", 4).context("the runtime's socket")?;
    // The first one of each finds cold caches.
    for number in 0..=STARTS {
        let raw = runtime_alone(&socket, number).await?;
        let ours = start(&client, node, &format!("timed-{number}")).await?;
        if number > 0 {
            figures.add(Side::Ours, "node/runtime-alone", "ms", raw.as_secs_f64() * 1e3);
            figures.add(Side::Ours, "node/pod-start", "ms", ours.as_secs_f64() * 1e3);
            figures.add(
                Side::Ours,
                "node/pod-start",
                "ms beyond the runtime",
                (ours.as_secs_f64() - raw.as_secs_f64()) * 1e3,
            );
        }
    }
    for number in STARTS + 1..RUNNING {
        start(&client, node, &format!("timed-{number}")).await?;
    }
    tokio::time::sleep(CALM).await;
    let before = process::usage(*agent);
    tokio::time::sleep(WATCHED).await;
    let after = process::usage(*agent);
    figures.add(Side::Ours, "node/agent-30-pods", "MB", after.resident);
    figures.add(
        Side::Ours,
        "node/agent-30-pods",
        "% of a core",
        (after.cpu - before.cpu) / WATCHED.as_secs_f64() * 100.0,
    );
    Ok(())
}

/// A file of that name in a folder or a few levels below.
fn find(folder: &Path, name: &str, levels: u32) -> Option<std::path::PathBuf> {
    let here = folder.join(name);
    if here.exists() {
        return Some(here);
    }
    let levels = levels.checked_sub(1)?;
    let folders = std::fs::read_dir(folder).ok()?.filter_map(Result::ok).filter(|entry| entry.path().is_dir());
    folders.filter_map(|entry| find(&entry.path(), name, levels)).next()
}

/// A pod that is bound already: from its creation to the API's word that it runs.
async fn start(client: &Client, node: &str, name: &str) -> anyhow::Result<Duration> {
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"nodeName": node, "terminationGracePeriodSeconds": 0, "automountServiceAccountToken": false,
            "containers": [{"name": "main", "image": IMAGE, "imagePullPolicy": "IfNotPresent",
                "command": ["/bin/sleep", "100000"]}]}});
    let started = Instant::now();
    client.send(0, Ask::post(PODS, objects::bytes(&pod))).await?;
    let watch = Ask::get(format!("{PODS}?watch=1&fieldSelector=metadata.name%3D{name}&resourceVersion=0"));
    let answer = client.open(1, watch).await?;
    let running = lines(answer.into_body(), |line| {
        let event: Value = serde_json::from_slice(line).unwrap_or_default();
        event["object"]["status"]["phase"] != "Running"
    });
    tokio::time::timeout(PATIENCE, running).await.with_context(|| format!("{name} does not run"))??;
    Ok(started.elapsed())
}

/// What the runtime takes for sandbox, creation and start, with the same network and image.
async fn runtime_alone(socket: &Path, number: usize) -> anyhow::Result<Duration> {
    let channel = timonel_cri::connect(&format!("unix://{}", socket.display())).await?;
    let mut runtime = RuntimeServiceClient::new(channel);
    let name = format!("raw-{number}");
    let sandbox = cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: name.clone(),
            uid: name.clone(),
            namespace: "raw".into(),
            attempt: 0,
        }),
        hostname: name.clone(),
        linux: Some(cri::LinuxPodSandboxConfig { cgroup_parent: format!("/tm-{name}"), ..Default::default() }),
        ..Default::default()
    };
    let config = cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name, attempt: 0 }),
        image: Some(cri::ImageSpec { image: IMAGE.into(), ..Default::default() }),
        command: ["/bin/sleep", "1000"].map(str::to_owned).into(),
        linux: Some(cri::LinuxContainerConfig::default()),
        ..Default::default()
    };
    let started = Instant::now();
    let made = cri::RunPodSandboxRequest { config: Some(sandbox.clone()), runtime_handler: String::new() };
    let id = runtime.run_pod_sandbox(made).await.context("sandbox")?.into_inner().pod_sandbox_id;
    let create =
        cri::CreateContainerRequest { pod_sandbox_id: id.clone(), config: Some(config), sandbox_config: Some(sandbox) };
    let made = runtime.create_container(create).await.context("container")?.into_inner().container_id;
    runtime.start_container(cri::StartContainerRequest { container_id: made }).await.context("start")?;
    let took = started.elapsed();
    runtime.stop_pod_sandbox(cri::StopPodSandboxRequest { pod_sandbox_id: id.clone() }).await.context("stop")?;
    runtime.remove_pod_sandbox(cri::RemovePodSandboxRequest { pod_sandbox_id: id }).await.context("removal")?;
    Ok(took)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_found_a_few_levels_down() {
        let folder = tempfile::tempdir().unwrap();
        let below = folder.path().join("m/run");
        std::fs::create_dir_all(&below).unwrap();
        std::fs::write(below.join("x.sock"), "").unwrap();
        assert_eq!(find(folder.path(), "x.sock", 2), Some(below.join("x.sock")));
        assert_eq!(find(folder.path(), "x.sock", 1), None);
        assert_eq!(find(folder.path(), "y.sock", 2), None);
    }
}
