//! The whole path with real parts, as a person would walk it: `up` with the example application, stock kubectl, a lost
//! database pod, a killed server, a second cluster, `down`.

use anyhow::{Context, ensure};
use timonel_harness::{World, eventually, http};

/// Seconds that anything may take on a machine that does other things too.
const PATIENCE: u64 = 180;

#[test]
fn from_nothing_to_an_application_and_back() {
    let world = match World::prepare(1) {
        Ok(world) => world,
        Err(lacking) => {
            eprintln!("skipped: {}", lacking.0);
            return;
        }
    };
    let address = up(&world).expect("up");
    application(&address).expect("the application answers");
    kubectl(&world).expect("kubectl");
    database_loses_no_row(&world, &address).expect("database");
    server_killed(&world, &address).expect("server killed");
    second_cluster(&world).expect("second cluster");
    down(&world).expect("down");
}

fn up(world: &World) -> anyhow::Result<String> {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/shop/shop.yaml");
    let args = ["up", "--apply", manifest, "--timeout", "240", "-o", "json"];
    let printed: serde_json::Value = serde_json::from_str(&world.timonel(&args)?).context("what up printed")?;
    let address = printed["publicAddresses"][0].as_str().context("no public address")?;
    // A second `up` finds everything and changes nothing.
    let again: serde_json::Value = serde_json::from_str(&world.timonel(&args)?)?;
    ensure!(again == printed, "{again} is not {printed}");
    Ok(address.to_owned())
}

fn application(address: &str) -> anyhow::Result<()> {
    for page in ["app1", "app2", "app3"] {
        eventually(page, PATIENCE, || {
            let (status, body) = http("GET", &format!("http://{address}/{page}"), None)?;
            ensure!(status == 200, "{page}: {status} {body}");
            Ok(())
        })?;
    }
    Ok(())
}

fn kubectl(world: &World) -> anyhow::Result<()> {
    let nodes = world.kubectl("demo", &["get", "nodes", "-o", "wide"])?;
    ensure!(nodes.matches(" Ready ").count() == 2, "{nodes}");
    let run = ["run", "probe", "--image", "timonel.io/busybox:1", "--restart", "Never", "--"];
    world.kubectl("demo", &[&run[..], &["sh", "-c", "echo hello; sleep 3600"]].concat())?;
    world.kubectl("demo", &["wait", "--for", "condition=Ready", "pod/probe", "--timeout", "120s"])?;
    let logs = eventually("logs", PATIENCE, || {
        let logs = world.kubectl("demo", &["logs", "probe"])?;
        ensure!(logs.contains("hello"), "logs: {logs:?}");
        Ok(logs)
    })?;
    ensure!(logs == "hello\n", "{logs:?}");
    let answer = world.kubectl("demo", &["exec", "probe", "--", "sh", "-c", "echo inside"])?;
    ensure!(answer == "inside\n", "{answer:?}");
    let lookup = ["exec", "probe", "--", "nslookup", "kubernetes.default.svc.cluster.local"];
    let answer = world.kubectl("demo", &lookup)?;
    ensure!(answer.contains("10.96.0.1"), "{answer}");
    let described = world.kubectl("demo", &["describe", "pod", "probe"])?;
    ensure!(described.contains("Scheduled") && described.contains("Started"), "{described}");
    world.kubectl("demo", &["delete", "pod", "probe", "--grace-period", "1"])?;
    Ok(())
}

fn database_loses_no_row(world: &World, address: &str) -> anyhow::Result<()> {
    let orders = format!("http://{address}/app1/orders");
    let (status, body) = http("POST", &orders, Some(r#"{"item": "helm"}"#))?;
    ensure!((200..300).contains(&status), "order: {status} {body}");
    let before =
        world.kubectl("demo", &["-n", "shop", "get", "pod", "postgres-0", "-o", "jsonpath={.metadata.uid}"])?;
    world.kubectl("demo", &["-n", "shop", "delete", "pod", "postgres-0", "--wait=false"])?;
    eventually("another database pod", PATIENCE, || {
        let path = "jsonpath={.metadata.uid} {.status.conditions[?(@.type=='Ready')].status}";
        let after = world.kubectl("demo", &["-n", "shop", "get", "pod", "postgres-0", "-o", path])?;
        ensure!(after.ends_with(" True") && !after.starts_with(&before), "{after}");
        Ok(())
    })?;
    eventually("the order is still there", PATIENCE, || {
        let (status, body) = http("GET", &orders, None)?;
        ensure!(status == 200 && body.contains("helm"), "{status} {body}");
        Ok(())
    })
}

/// While the server is away the application goes on; afterwards everything is as it was.
fn server_killed(world: &World, address: &str) -> anyhow::Result<()> {
    let pods = |world: &World| world.kubectl("demo", &["-n", "shop", "get", "pods", "-o", "jsonpath={..metadata.uid}"]);
    let before = pods(world)?;
    world.kill_server()?;
    for _ in 0..5 {
        application(address)?;
    }
    world.timonel(&["up", "--timeout", "120"])?;
    let mut before: Vec<_> = before.split(' ').map(str::to_owned).collect();
    let mut after: Vec<_> = pods(world)?.split(' ').map(str::to_owned).collect();
    before.sort();
    after.sort();
    ensure!(before == after, "pods changed: {before:?} {after:?}");
    eventually("logs after the restart", PATIENCE, || {
        world.kubectl("demo", &["-n", "shop", "logs", "postgres-0", "--tail", "1"])
    })?;
    application(address)
}

fn second_cluster(world: &World) -> anyhow::Result<()> {
    world.timonel(&["cluster", "create", "second"])?;
    let namespaces = world.kubectl("second", &["get", "namespaces", "-o", "name"])?;
    ensure!(namespaces.contains("kube-system") && !namespaces.contains("shop"), "{namespaces}");
    world.timonel(&["cluster", "delete", "second", "--wait"])?;
    let listed = world.timonel(&["cluster", "list", "-o", "name"])?;
    ensure!(listed.trim() == "demo", "{listed}");
    Ok(())
}

fn down(world: &World) -> anyhow::Result<()> {
    ensure!(!world.namespaces()?.is_empty(), "no namespaces while it runs?");
    world.timonel(&["down", "--purge"])?;
    let left = world.namespaces()?;
    ensure!(left.is_empty(), "left: {left:?}");
    Ok(())
}
