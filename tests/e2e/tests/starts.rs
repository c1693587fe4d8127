//! Starts that cannot succeed, or must not do anything twice: each says what is in the way and what to do, and none
//! touches data.

use anyhow::{Context, ensure};
use std::{collections::BTreeMap, fs, net::TcpListener, os::unix::process::CommandExt, path::Path, process::Command};
use timonel_harness::Plane;

/// A user who may nothing.
const NOBODY: u32 = 65_534;

fn plane() -> Option<Plane> {
    Plane::prepare().map_err(|lacking| eprintln!("skipped: {}", lacking.0)).ok()
}

/// Fails, and says every word of `words`.
fn refused(plane: &Plane, args: &[&str], words: &[&str]) -> anyhow::Result<String> {
    let (success, text) = plane.try_timonel(args)?;
    ensure!(!success, "{args:?} succeeded: {text}");
    for word in words {
        ensure!(text.contains(word), "{args:?} does not say {word:?}: {text}");
    }
    Ok(text)
}

#[test]
fn a_port_in_use() {
    let Some(plane) = plane() else { return };
    let held = TcpListener::bind(("127.0.0.1", plane.port())).expect("held");
    let port = plane.port().to_string();
    refused(&plane, &["up", "--nodes", "0"], &["step \"service\" failed", &port, "another program has it"])
        .expect("told");
    drop(held);
    plane.up("demo").expect("up, once the port is free");
}

#[test]
fn a_second_start() {
    let Some(plane) = plane() else { return };
    plane.up("demo").expect("up");
    let (pid, first) = (plane.pid().expect("pid"), kubeconfig(&plane));
    plane.up("demo").expect("up again");
    assert_eq!((plane.pid().expect("pid"), kubeconfig(&plane)), (pid, first), "a second up changes nothing");
    // A second server is told to go away, and the first one goes on.
    refused(&plane, &["server", "--listen", "127.0.0.1:0"], &["in use by another process"]).expect("told");
    assert_eq!(plane.pid().expect("pid"), pid);
    let reply = plane.door("demo").and_then(|door| door.ask("GET", "/readyz", "", b"")).expect("an answer");
    assert_eq!(reply.status, 200);
    let down = plane.timonel(&["down"]).expect("down");
    plane.timonel(&["down"]).expect("down again");
    assert!(down.contains("stopped"), "{down}");
}

fn kubeconfig(plane: &Plane) -> String {
    fs::read_to_string(plane.data().join("kubeconfig")).expect("a kubeconfig")
}

/// Every file below a folder, the server's log apart.
fn files(folder: &Path) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name().is_some_and(|name| name != "server.log" && name != "server.pid") {
                found.insert(path.display().to_string(), fs::read(&path)?);
            }
        }
    }
    Ok(found)
}

#[test]
fn a_corrupt_data_directory() {
    let Some(plane) = plane() else { return };
    plane.up("demo").expect("up");
    plane.timonel(&["down"]).expect("down");
    let whole = files(plane.data()).expect("files");
    let stores: Vec<&String> = whole.keys().filter(|name| name.contains("/store")).collect();
    assert!(!stores.is_empty(), "{:?}", whole.keys());
    // Damage in the middle, a file cut short, and a master key of somebody else.
    for (name, damage) in [("store", Damage::Middle), ("store", Damage::Cut), ("master.key", Damage::Other)] {
        damaged(&plane, &whole, name, damage).with_context(|| format!("{name} {damage:?}")).expect("told");
    }
    plane.up("demo").expect("up, with everything as it was");
}

#[derive(Clone, Copy, Debug)]
enum Damage {
    Middle,
    Cut,
    Other,
}

fn damaged(plane: &Plane, whole: &BTreeMap<String, Vec<u8>>, name: &str, damage: Damage) -> anyhow::Result<()> {
    let matches = |path: &&String| path.starts_with(&plane.data().join(name).display().to_string());
    let path = whole.keys().filter(matches).max_by_key(|path| whole[*path].len()).context("no such file")?;
    let mut content = whole[path].clone();
    let middle = content.len() / 2;
    match damage {
        Damage::Middle => content.iter_mut().skip(middle / 8).for_each(|byte| *byte = !*byte),
        Damage::Cut => content.truncate(middle),
        Damage::Other => content.iter_mut().for_each(|byte| *byte ^= 0x55),
    }
    fs::write(path, &content)?;
    let text = refused(plane, &["up", "--nodes", "0"], &["step \"service\" failed"])?;
    eprintln!("{name} {damage:?}: {}", text.lines().next_back().unwrap_or_default());
    ensure!(!text.contains("panicked"), "{text}");
    ensure!(text.contains("store") || text.contains("key") || text.contains("data"), "the cause is not named: {text}");
    ensure!(fs::read(path)? == content, "the damaged file was written to");
    fs::write(path, &whole[path])?;
    Ok(())
}

#[test]
fn without_root() {
    let Some(plane) = plane() else { return };
    if !is_root() {
        plane.up("demo").expect("control planes need no root");
        return;
    }
    let built = std::env::var_os("TIMONEL_BIN").map(|bin| Path::new(&bin).join("timonel")).expect("prepared");
    let home = tempfile::tempdir().expect("a folder");
    // Where it was built may be closed to others.
    let program = home.path().join("timonel");
    fs::copy(built, &program).expect("a copy of the program");
    std::os::unix::fs::chown(home.path(), Some(NOBODY), Some(NOBODY)).expect("chown");
    let run = |args: &[&str], cloud: &str| {
        let mut command = Command::new(&program);
        command.args(args).uid(NOBODY).gid(NOBODY).env("TIMONEL_DATA", home.path().join("data"));
        command.env("TIMONEL_CLOUD", cloud).env("TIMONEL_LISTEN", format!("127.0.0.1:{}", plane.port()));
        let output = command.current_dir("/").output().expect("runs");
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        (output.status.success(), text)
    };
    let (success, text) = run(&["up", "--nodes", "0"], "local");
    assert!(!success && text.contains("root") && text.contains("timonel doctor"), "{text}");
    let (success, text) = run(&["up", "--nodes", "0"], "none");
    let (stopped, down) = run(&["down", "--purge"], "none");
    assert!(success && stopped, "{text}{down}");
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}
