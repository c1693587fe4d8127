//! Bad days of the whole: an update while the public uses it, and parts that are killed without a word in the middle of
//! their work. Everything converges, in bounded time, and nothing that was acknowledged is lost.

use anyhow::{Context, ensure};
use std::{collections::BTreeMap, fs};
use timonel_harness::{Load, Part, World, eventually, http, kill};

/// Seconds that anything may take on a machine that does other things too.
const PATIENCE: u64 = 180;
const CLUSTER: &str = "demo";
const MANIFEST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/shop/shop.yaml");
/// What the public asks for.
const PAGES: [&str; 3] = ["/app1/orders", "/app2/products", "/app3"];

#[test]
fn bad_days() {
    let world = match World::prepare(3) {
        Ok(world) => world,
        Err(lacking) => {
            eprintln!("skipped: {}", lacking.0);
            return;
        }
    };
    let address = killed_during_up(&world).expect("parts killed during up");
    updated_under_load(&world, &address).expect("an update under load");
    agent_killed(&world, &address).expect("an agent killed");
    containerd_killed(&world, &address).expect("a containerd killed");
    server_killed_during_an_update(&world, &address).expect("the server killed during an update");
    for (part, round) in [(Part::Agent, "agent"), (Part::Containerd, "containerd")] {
        part_killed_during_an_update(&world, &address, part, round).expect("a node's part killed during an update");
    }
    let server = || {
        world.kill_server()?;
        world.timonel(&["up", "--cluster", CLUSTER, "--nodes", "2", "--timeout", "120"]).map(drop)
    };
    let strikes: [&dyn Fn() -> anyhow::Result<()>; 3] =
        [&server, &|| kill_one(&world, Part::Agent).map(drop), &|| kill_one(&world, Part::Containerd).map(drop)];
    for strike in strikes {
        killed_during_a_balancers_change(&world, strike).expect("something killed during a load balancer's change");
    }
}

fn kubectl(world: &World, args: &[&str]) -> anyhow::Result<String> {
    world.kubectl(CLUSTER, args)
}

fn shop(world: &World, args: &[&str]) -> anyhow::Result<String> {
    kubectl(world, &[&["--namespace", "shop"], args].concat())
}

fn up(world: &World) -> anyhow::Result<String> {
    let args = ["up", "--cluster", CLUSTER, "--nodes", "2", "--apply", MANIFEST, "--timeout", "240", "-o", "json"];
    let printed: serde_json::Value = serde_json::from_str(&world.timonel(&args)?).context("what up printed")?;
    Ok(printed["publicAddresses"][0].as_str().context("no public address")?.to_owned())
}

/// The first `up` loses its server as soon as there is a machine, then an agent and a containerd; the second finds
/// whatever is there and completes it.
fn killed_during_up(world: &World) -> anyhow::Result<String> {
    let args = ["up", "--cluster", CLUSTER, "--nodes", "2", "--apply", MANIFEST, "--timeout", "20"];
    let mut first = world.timonel_started(&args)?;
    let machines = eventually("a machine", PATIENCE, || {
        let machines = world.processes(Part::Containerd)?;
        ensure!(!machines.is_empty(), "none yet");
        Ok(machines)
    })?;
    world.kill_server()?;
    for (machine, pid) in machines {
        kill(pid).with_context(|| machine)?;
    }
    // It fails or not: what counts is what the next one makes of it.
    first.wait()?;
    let mut second = world.timonel_started(&args)?;
    let agents = eventually("an agent", PATIENCE, || {
        let agents = world.processes(Part::Agent)?;
        ensure!(!agents.is_empty(), "none yet");
        Ok(agents)
    })?;
    for pid in agents.into_values() {
        // One that ended by itself meanwhile is as dead as it would be.
        let _ = kill(pid);
    }
    second.wait()?;
    let address = up(world)?;
    answers(&address)?;
    let nodes = kubectl(world, &["get", "nodes", "-o", "name"])?;
    ensure!(nodes.lines().count() == 2, "more machines than were asked for: {nodes}");
    Ok(address)
}

fn answers(address: &str) -> anyhow::Result<()> {
    for page in PAGES {
        eventually(page, PATIENCE, || {
            let (status, body) = http("GET", &format!("http://{address}{page}"), None)?;
            ensure!(status == 200, "{page}: {status} {body}");
            Ok(())
        })?;
    }
    Ok(())
}

fn updated(world: &World, deployments: &[&str]) -> anyhow::Result<()> {
    for name in deployments {
        shop(world, &["rollout", "status", &format!("deployment/{name}"), "--timeout", "180s"])?;
    }
    // Those that were replaced are still saying good-bye.
    eventually("old pods are gone", PATIENCE, || {
        let pods = shop(world, &["get", "pods"])?;
        ensure!(!pods.contains("Terminating"), "{pods}");
        Ok(())
    })
}

/// Every program on the way is replaced, under both traffic policies, and no request fails.
fn updated_under_load(world: &World, address: &str) -> anyhow::Result<()> {
    for policy in ["Cluster", "Local"] {
        let patch = format!(r#"{{"spec": {{"externalTrafficPolicy": "{policy}"}}}}"#);
        shop(world, &["patch", "service", "shop", "--patch", &patch])?;
        answers(address)?;
        let load = Load::start(address, &PAGES)?;
        for name in ["app1", "app2", "app3"] {
            shop(world, &["set", "env", &format!("deployment/{name}"), &format!("ROUND={policy}")])?;
        }
        updated(world, &["app1", "app2", "app3"])?;
        shop(world, &["rollout", "restart", "deployment/varnish"])?;
        updated(world, &["varnish"])?;
        let tally = load.stop();
        eprintln!("policy {policy}: {} requests, {} failed", tally.answered, tally.failed);
        ensure!(tally.failed == 0, "policy {policy}: {tally:#?}\n{}", events(world));
        ensure!(tally.answered > 500, "only {} requests: no test of anything", tally.answered);
    }
    Ok(())
}

/// What happened in the shop, for whoever reads why a test failed.
fn events(world: &World) -> String {
    shop(world, &["get", "events", "--sort-by", ".lastTimestamp"]).unwrap_or_else(|error| format!("{error:#}"))
}

/// Containers of the shop with how often each was restarted: what must not change.
fn containers(world: &World) -> anyhow::Result<BTreeMap<String, String>> {
    let path = "jsonpath={range .items[*]}{.metadata.uid}={.status.containerStatuses[0].containerID} \
                {.status.containerStatuses[0].restartCount}{\"\\n\"}{end}";
    let printed = shop(world, &["get", "pods", "-o", path])?;
    let pairs = printed.lines().filter_map(|line| line.split_once('='));
    Ok(pairs.map(|(uid, state)| (uid.to_owned(), state.to_owned())).collect())
}

/// Kills one machine's part; which machine it was, and the process.
fn kill_one(world: &World, part: Part) -> anyhow::Result<(String, i32)> {
    let (machine, pid) = world.processes(part)?.into_iter().next().context("no machine")?;
    kill(pid)?;
    Ok((machine, pid))
}

/// Kills one machine's part; returns when it runs again and the node does work again.
fn kill_and_wait(world: &World, part: Part) -> anyhow::Result<()> {
    let (machine, before) = kill_one(world, part)?;
    eventually("the supervisor starts it again", PATIENCE, || {
        let now = world.processes(part)?.get(&machine).copied().context("not running")?;
        ensure!(now != before, "still the old one");
        Ok(())
    })?;
    let run = |name: &str, node: &str| {
        let overrides = format!(r#"{{"spec": {{"nodeName": "{node}"}}}}"#);
        let run = ["run", name, "--image", "timonel.io/busybox:1", "--restart", "Never", "--overrides", &overrides];
        kubectl(world, &[&run[..], &["--", "sh", "-c", "echo done"]].concat())
    };
    let nodes = kubectl(world, &["get", "nodes", "-o", "jsonpath={.items[*].metadata.name}"])?;
    for (number, node) in nodes.split(' ').enumerate() {
        let name = format!("after-{number}");
        run(&name, node)?;
        let wait = ["wait", "--for", "jsonpath={.status.phase}=Succeeded", "--timeout", "120s"];
        kubectl(world, &[&wait[..], &[&format!("pod/{name}")]].concat())?;
        let said = eventually("its log", PATIENCE, || kubectl(world, &["logs", &name]))?;
        ensure!(said == "done\n", "{said:?}");
        kubectl(world, &["delete", "pod", &name, "--now"])?;
    }
    let ready = kubectl(world, &["get", "nodes"])?;
    ensure!(ready.matches(" Ready ").count() == 2, "{ready}");
    Ok(())
}

/// While an agent is away its pods go on serving; it comes back and restarts none of them.
fn agent_killed(world: &World, address: &str) -> anyhow::Result<()> {
    let before = containers(world)?;
    let load = Load::start(address, &PAGES)?;
    kill_and_wait(world, Part::Agent)?;
    let tally = load.stop();
    ensure!(tally.failed == 0, "{tally:#?}\n{}", events(world));
    let after = containers(world)?;
    ensure!(before == after, "containers changed: {before:#?} {after:#?}");
    Ok(())
}

fn containerd_killed(world: &World, address: &str) -> anyhow::Result<()> {
    let before = containers(world)?;
    let load = Load::start(address, &PAGES)?;
    kill_and_wait(world, Part::Containerd)?;
    let tally = load.stop();
    ensure!(tally.failed == 0, "{tally:#?}\n{}", events(world));
    let after = containers(world)?;
    ensure!(before == after, "containers changed: {before:#?} {after:#?}");
    Ok(())
}

/// Orders and objects that were acknowledged before the server is killed are there afterwards, and the update ends.
fn server_killed_during_an_update(world: &World, address: &str) -> anyhow::Result<()> {
    shop(world, &["set", "env", "deployment/app1", "deployment/app2", "ROUND=killed"])?;
    let mut orders = Vec::new();
    for number in 0..10 {
        kubectl(world, &["create", "configmap", &format!("kept-{number}"), "--from-literal", "a=b"])?;
        let item = format!("order-{number}");
        let body = format!(r#"{{"item": "{item}"}}"#);
        let (status, _) = http("POST", &format!("http://{address}/app1/orders"), Some(&body))?;
        if status == 201 {
            orders.push(item);
        }
    }
    world.kill_server()?;
    up(world)?;
    updated(world, &["app1", "app2", "app3", "varnish"])?;
    let kept = kubectl(world, &["get", "configmaps", "-o", "name"])?;
    ensure!(kept.matches("/kept-").count() == 10, "{kept}");
    ensure!(!orders.is_empty(), "no order was taken at all");
    eventually("orders", PATIENCE, || {
        let (_, shown) = http("GET", &format!("http://{address}/app1/orders"), None)?;
        let lost: Vec<_> = orders.iter().filter(|item| !shown.contains(*item)).collect();
        ensure!(lost.is_empty(), "lost: {lost:?} of {shown}");
        Ok(())
    })?;
    let sets = shop(
        world,
        &["get", "replicasets", "-o", "jsonpath={range .items[?(@.spec.replicas>0)]}{.metadata.name} {end}"],
    )?;
    ensure!(sets.split_whitespace().count() == 5, "one replica set of each deployment has pods: {sets}");
    Ok(())
}

/// A node's part dies while its pods are being replaced: it comes back and the update ends.
fn part_killed_during_an_update(world: &World, address: &str, part: Part, round: &str) -> anyhow::Result<()> {
    shop(world, &["set", "env", "deployment/app1", "deployment/app2", &format!("ROUND={round}")])?;
    kill_one(world, part)?;
    updated(world, &["app1", "app2"])?;
    answers(address)
}

/// A load balancer is ordered, changed and given back, and each time something is killed at once.
fn killed_during_a_balancers_change(world: &World, strike: &dyn Fn() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let manifest = world.data().join("second.yaml");
    fs::write(&manifest, SECOND)?;
    kubectl(world, &["apply", "--filename", &manifest.to_string_lossy()])?;
    strike()?;
    let address = eventually("an address", PATIENCE, || {
        let path = "jsonpath={.status.loadBalancer.ingress[0].ip}";
        let address = shop(world, &["get", "service", "second", "-o", path])?;
        ensure!(!address.is_empty(), "none yet");
        Ok(address)
    })?;
    let on = |port: u16| {
        let (status, _) = http("GET", &format!("http://{address}:{port}/app2/products"), None)?;
        ensure!(status == 200, "{status}");
        Ok(())
    };
    eventually("it answers", PATIENCE, || on(81))?;
    let patch = r#"[{"op": "replace", "path": "/spec/ports/0/port", "value": 82}]"#;
    shop(world, &["patch", "service", "second", "--type", "json", "--patch", patch])?;
    strike()?;
    eventually("it answers on its other port", PATIENCE, || on(82))?;
    ensure!(on(81).is_err(), "the old port still answers");
    shop(world, &["delete", "service", "second", "--wait=false"])?;
    strike()?;
    eventually("the service is gone", PATIENCE, || {
        let services = shop(world, &["get", "services", "-o", "name"])?;
        ensure!(!services.contains("second"), "{services}");
        Ok(())
    })?;
    ensure!(on(82).is_err(), "the load balancer is left over");
    Ok(())
}

const SECOND: &str = "
apiVersion: v1
kind: Service
metadata: {name: second, namespace: shop}
spec:
  type: LoadBalancer
  selector: {app.kubernetes.io/name: varnish}
  ports: [{name: http, port: 81, targetPort: http}]
";
