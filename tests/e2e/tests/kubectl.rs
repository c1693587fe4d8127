//! Stock kubectl against real nodes: what a person does all day, through the tunnel, with both of the protocols in
//! which kubectl can speak to a container.

use anyhow::{Context, ensure};
use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Stdio},
};
use timonel_harness::{World, eventually, finish};

/// Seconds that anything may take on a machine that does other things too.
const PATIENCE: u64 = 120;
const CLUSTER: &str = "demo";
const IMAGE: &str = "timonel.io/busybox:1";

#[test]
fn a_day_with_kubectl() {
    let world = match World::prepare(2) {
        Ok(world) => world,
        Err(lacking) => {
            eprintln!("skipped: {}", lacking.0);
            return;
        }
    };
    world.timonel(&["up", "--cluster", CLUSTER, "--nodes", "2", "--timeout", "240"]).expect("up");
    web(&world).expect("a web server");
    for websockets in [true, false] {
        copy(&world, websockets).expect("cp");
        commands(&world, websockets).expect("exec, attach, run");
        forward(&world, websockets).expect("port-forward");
    }
    debug(&world).expect("debug");
    logs(&world).expect("logs");
    rotated_logs(&world).expect("logs that are rotated");
    deployments(&world).expect("deployments");
    nodes(&world).expect("nodes");
}

/// kubectl that speaks WebSocket to containers, or SPDY.
fn speaking(world: &World, websockets: bool) -> Command {
    let mut command = world.kubectl_command(CLUSTER);
    let value = websockets.to_string();
    command.env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", &value).env("KUBECTL_PORT_FORWARD_WEBSOCKETS", &value);
    command
}

fn kubectl(world: &World, args: &[&str]) -> anyhow::Result<String> {
    world.kubectl(CLUSTER, args)
}

fn web(world: &World) -> anyhow::Result<()> {
    let script = "mkdir -p /www; echo page > /www/index.html; exec httpd -f -p 8080 -h /www";
    let run = ["run", "web", "--image", IMAGE, "--port", "8080", "--expose", "--", "sh", "-c", script];
    kubectl(world, &run)?;
    kubectl(world, &["wait", "--for", "condition=Ready", "pod/web", "--timeout", "120s"])?;
    Ok(())
}

fn copy(world: &World, websockets: bool) -> anyhow::Result<()> {
    let folder = world.data().join(format!("copy-{websockets}"));
    fs::create_dir_all(folder.join("sub"))?;
    // Bytes of every value, more than any window or message takes at once.
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    fs::write(folder.join("big"), &bytes)?;
    fs::write(folder.join("sub/small"), "small")?;
    let (inside, back) = (format!("web:/tmp/copy-{websockets}"), world.data().join(format!("back-{websockets}")));
    finish(speaking(world, websockets).arg("cp").arg(&folder).arg(&inside))?;
    finish(speaking(world, websockets).arg("cp").arg(&inside).arg(&back))?;
    ensure!(fs::read(back.join("big"))? == bytes, "the file is another");
    ensure!(fs::read_to_string(back.join("sub/small"))? == "small");
    Ok(())
}

/// Runs kubectl with `input`; its exit code and what it printed.
fn with_input(command: &mut Command, input: &str) -> anyhow::Result<(Option<i32>, String)> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn()?;
    child.stdin.take().context("input")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    Ok((output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned()))
}

/// Runs kubectl on a terminal of 33 lines and 101 columns.
fn on_terminal(command: &Command) -> anyhow::Result<String> {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let quoted = words.map(|word| format!("'{}'", word.to_string_lossy().replace('\'', r"'\''")));
    let line = format!("stty rows 33 cols 101; {}", quoted.collect::<Vec<_>>().join(" "));
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &line, "/dev/null"]).stdin(Stdio::null());
    script.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    finish(&mut script)
}

fn commands(world: &World, websockets: bool) -> anyhow::Result<()> {
    let exec = |args: &[&str]| {
        let mut command = speaking(world, websockets);
        command.arg("exec").args(args);
        command
    };
    let text = "a line of some length\n".repeat(20_000);
    let (code, counted) = with_input(&mut exec(&["-i", "web", "--", "wc", "-c"]), &text)?;
    ensure!((code, counted.trim()) == (Some(0), &*text.len().to_string()), "{code:?} {counted}");
    let (code, _) = with_input(&mut exec(&["web", "--", "sh", "-c", "exit 7"]), "")?;
    ensure!(code == Some(7), "exit code {code:?}");
    // The size follows the start: the command waits for it.
    let size = on_terminal(&exec(&["-it", "web", "--", "sh", "-c", "sleep 1; tty; stty size"]))?;
    ensure!(size.contains("/dev/pts/0") && size.contains("33 101"), "terminal: {size}");
    let name = format!("run-{websockets}");
    let mut run = speaking(world, websockets);
    run.args(["run", &name, "--rm", "-i", "--image", IMAGE, "--restart", "Never", "--", "sh"]);
    let (code, said) = with_input(&mut run, "sleep 1; echo over; exit 3\n")?;
    ensure!(code == Some(3) && said.contains("over"), "{code:?} {said}");
    let left = kubectl(world, &["get", "pods", "-o", "name"])?;
    ensure!(!left.contains(&name), "{left}");
    let name = format!("attach-{websockets}");
    kubectl(world, &["run", &name, "-i", "--attach=false", "--image", IMAGE, "--restart", "Never", "--", "sh"])?;
    kubectl(world, &["wait", "--for", "condition=Ready", &format!("pod/{name}"), "--timeout", "60s"])?;
    let (_, said) =
        with_input(speaking(world, websockets).args(["attach", "-i", &name]), "echo here; sleep 1; exit\n")?;
    ensure!(said.contains("here"), "{said}");
    kubectl(world, &["delete", "pod", &name, "--now"])?;
    Ok(())
}

fn forward(world: &World, websockets: bool) -> anyhow::Result<()> {
    for target in ["pod/web", "service/web"] {
        let log = world.data().join("forward.log");
        let file = fs::File::create(&log)?;
        let mut command = speaking(world, websockets);
        command.args(["port-forward", target, ":8080"]).stdout(file.try_clone()?).stderr(file);
        let mut child = command.spawn()?;
        let asked = eventually(target, PATIENCE, || {
            let said = fs::read_to_string(&log)?;
            let port = said.split("127.0.0.1:").nth(1).and_then(|rest| rest.split(' ').next()).context(said.clone())?;
            // Several connections one after the other share the forwarding.
            for _ in 0..5 {
                let (status, body) = timonel_harness::http("GET", &format!("http://127.0.0.1:{port}/"), None)?;
                ensure!(status == 200 && body == "page\n", "{status} {body}");
            }
            Ok(())
        });
        child.kill()?;
        child.wait()?;
        asked?;
    }
    Ok(())
}

fn debug(world: &World) -> anyhow::Result<()> {
    let args = ["debug", "-it", "web", "--image", IMAGE, "--target", "web", "-c", "looker", "--"];
    let mut command = world.kubectl_command(CLUSTER);
    // Whoever attaches comes after the start, and sees what is said from then on.
    command.args(args).args(["sh", "-c", "sleep 3; ps; sleep 1"]);
    let said = on_terminal(&command)?;
    ensure!(said.contains("httpd"), "the target's processes are seen: {said}");
    Ok(())
}

fn logs(world: &World) -> anyhow::Result<()> {
    let script = "for i in 1 2 3 4 5; do echo $i; sleep 1; done; exit 0";
    kubectl(world, &["run", "teller", "--image", IMAGE, "--restart", "Never", "--", "sh", "-c", script])?;
    kubectl(world, &["wait", "--for", "condition=Ready", "pod/teller", "--timeout", "60s"])?;
    let all = kubectl(world, &["logs", "-f", "teller"])?;
    ensure!(all == "1\n2\n3\n4\n5\n", "followed to the end: {all:?}");
    let last = kubectl(world, &["logs", "teller", "--tail", "2", "--timestamps"])?;
    let good = last.lines().count() == 2 && last.lines().all(|line| line.starts_with("20") && line.contains("Z "));
    ensure!(good, "{last}");
    ensure!(kubectl(world, &["logs", "teller", "--since-time", "2199-01-01T00:00:00Z"])?.is_empty());
    ensure!(kubectl(world, &["logs", "teller", "--since", "1h", "--limit-bytes", "3"])? == "1\n2");
    let script = "echo attempt; sleep 1; exit 1";
    kubectl(world, &["run", "faller", "--image", IMAGE, "--", "sh", "-c", script])?;
    let previous = eventually("a previous log", PATIENCE, || kubectl(world, &["logs", "faller", "--previous"]))?;
    ensure!(previous == "attempt\n", "{previous}");
    eventually("the back-off is shown", PATIENCE, || {
        let shown = kubectl(world, &["get", "pod", "faller"])?;
        ensure!(shown.contains("CrashLoopBackOff"), "{shown}");
        Ok(())
    })?;
    kubectl(world, &["delete", "pod", "teller", "faller", "--now"])?;
    Ok(())
}

/// More than one file holds: whoever follows sees every line, in order, across the change.
fn rotated_logs(world: &World) -> anyhow::Result<()> {
    let script = r#"i=0; while [ $i -lt 20 ]; do
        awk -v a=$((i * 15000)) 'BEGIN {
            for (n = a + 1; n <= a + 15000; n++) printf "%06d an entry of the log of a program that says a lot\n", n }'
        i=$((i + 1)); sleep 1
        done"#;
    kubectl(world, &["run", "talker", "--image", IMAGE, "--restart", "Never", "--", "sh", "-c", script])?;
    kubectl(world, &["wait", "--for", "condition=Ready", "pod/talker", "--timeout", "60s"])?;
    let all = kubectl(world, &["logs", "-f", "talker"])?;
    let gap = all.lines().zip(1..).find(|(line, number)| !line.starts_with(&format!("{number:06} ")));
    ensure!(gap.is_none() && all.lines().count() == 300_000, "{} lines; first gap {gap:?}", all.lines().count());
    let left = kubectl(world, &["logs", "talker"])?;
    ensure!(left.lines().count() < 300_000, "it was never rotated");
    kubectl(world, &["delete", "pod", "talker", "--now"])?;
    Ok(())
}

fn deployments(world: &World) -> anyhow::Result<()> {
    let status = || kubectl(world, &["rollout", "status", "deployment/d", "--timeout", "120s"]);
    kubectl(world, &["create", "deployment", "d", "--image", IMAGE, "--replicas", "2", "--", "sleep", "3600"])?;
    status()?;
    kubectl(
        world,
        &[
            "patch",
            "deployment",
            "d",
            "-p",
            r#"{"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 1}}}}"#,
        ],
    )?;
    status()?;
    kubectl(world, &["set", "env", "deployment/d", "ROUND=2"])?;
    status()?;
    let history = kubectl(world, &["rollout", "history", "deployment/d"])?;
    ensure!(["1 ", "2 ", "3 "].iter().all(|revision| history.contains(revision)), "{history}");
    kubectl(world, &["rollout", "undo", "deployment/d"])?;
    status()?;
    let env = kubectl(world, &["get", "deployment", "d", "-o", "jsonpath={..env}"])?;
    ensure!(env.is_empty(), "undone, yet {env}");
    kubectl(world, &["rollout", "restart", "deployment/d"])?;
    status()?;
    kubectl(world, &["scale", "deployment/d", "--replicas", "3"])?;
    kubectl(world, &["wait", "--for", "jsonpath={.status.readyReplicas}=3", "deployment/d", "--timeout", "60s"])?;
    kubectl(world, &["label", "deployment", "d", "tier=front"])?;
    let mut edit = world.kubectl_command(CLUSTER);
    edit.env("EDITOR", "sed -i -e s/tier:.front/tier:\\ back/").args(["edit", "deployment", "d"]);
    finish(&mut edit)?;
    let labels = kubectl(world, &["get", "deployment", "d", "--show-labels"])?;
    ensure!(labels.contains("tier=back"), "{labels}");
    let manifest = world.data().join("d.yaml");
    let shown = kubectl(world, &["get", "deployment", "d", "-o", "yaml"])?;
    fs::write(&manifest, shown.replace("replicas: 3", "replicas: 4"))?;
    let (code, told) = diff(world, &manifest)?;
    ensure!(code == Some(1) && told.contains("+  replicas: 4"), "{code:?} {told}");
    kubectl(world, &["delete", "deployment", "d", "--timeout", "60s"])?;
    for (question, answer) in [
        (&["auth", "can-i", "create", "pods"][..], "yes"),
        (&["auth", "can-i", "create", "pods", "--as", "somebody"], "no"),
    ] {
        let (_, said) = with_input(world.kubectl_command(CLUSTER).args(question), "")?;
        ensure!(said.trim() == answer, "{question:?}: {said}");
    }
    Ok(())
}

fn diff(world: &World, manifest: &Path) -> anyhow::Result<(Option<i32>, String)> {
    with_input(world.kubectl_command(CLUSTER).args(["diff", "-f"]).arg(manifest), "")
}

fn nodes(world: &World) -> anyhow::Result<()> {
    kubectl(world, &["create", "deployment", "moved", "--image", IMAGE, "--replicas", "4", "--", "sleep", "3600"])?;
    kubectl(world, &["rollout", "status", "deployment/moved", "--timeout", "60s"])?;
    let names = kubectl(world, &["get", "nodes", "-o", "jsonpath={.items[*].metadata.name}"])?;
    let node = names.split(' ').next().context("no node")?;
    kubectl(world, &["cordon", node])?;
    let drain = ["drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout", "120s"];
    kubectl(world, &drain)?;
    let selector = format!("spec.nodeName={node}");
    let left = kubectl(world, &["get", "pods", "--field-selector", &selector, "-o", "name"])?;
    ensure!(left.is_empty(), "still there: {left}");
    kubectl(world, &["uncordon", node])?;
    let states = kubectl(world, &["get", "nodes"])?;
    ensure!(!states.contains("SchedulingDisabled"), "{states}");
    kubectl(world, &["delete", "deployment", "moved", "--timeout", "60s"])?;
    Ok(())
}
