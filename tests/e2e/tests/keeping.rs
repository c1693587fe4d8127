//! What an operator does with a service's data, with the real programs: back up, restore under another name, be killed in
//! the middle of that, move everything between engines while clients read, encrypt, rotate keys and seal anew.

#![allow(clippy::disallowed_methods, reason = "a test's own threads, and waits for other processes")]

use anyhow::{Context, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use std::{
    fs,
    process::Stdio,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread::{scope, sleep},
    time::Duration,
};
use timonel_faults::Etcd;
use timonel_harness::{Door, Plane, eventually, http, kill};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const EVENTS: &str = "/api/v1/namespaces/default/events";
const JSON: &str = "application/json";
/// Objects that make a backup large enough to be interrupted in its restore.
const LARGE: usize = 60;
const LARGE_BYTES: usize = 400 << 10;

/// A plane and two etcds of a test's own, if this machine can.
fn world() -> Option<(Plane, [Etcd; 2])> {
    let plane = Plane::prepare().map_err(|lacking| eprintln!("skipped: {}", lacking.0)).ok()?;
    let etcd = || Etcd::start(1).map_err(|error| eprintln!("skipped: etcd: {error}")).ok();
    Some((plane, [etcd()?, etcd()?]))
}

fn restart(plane: &Plane) -> anyhow::Result<()> {
    plane.timonel(&["down"])?;
    plane.up("demo")
}

fn post(door: &Door, path: &str, object: &Value) -> anyhow::Result<Value> {
    let reply = door.ask("POST", path, JSON, object.to_string().as_bytes())?;
    ensure!(reply.status == 201, "{path}: {} {}", reply.status, reply.text());
    Ok(reply.json())
}

fn map(name: &str, value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"value": value}})
}

fn value(door: &Door, name: &str) -> anyhow::Result<String> {
    let reply = door.ask("GET", &format!("{MAPS}/{name}"), "", b"")?;
    ensure!(reply.status == 200, "{name}: {} {}", reply.status, reply.text());
    Ok(reply.json()["data"]["value"].as_str().unwrap_or_default().to_owned())
}

fn event(door: &Door, name: &str) -> anyhow::Result<()> {
    let about = json!({"kind": "ConfigMap", "namespace": "default", "name": "x"});
    let event = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": name}, "involvedObject": about});
    post(door, EVENTS, &event).map(drop)
}

/// Keys and values of an etcd under a prefix, by its JSON gateway.
fn stored(etcd: &Etcd, prefix: &str) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
    let mut end = prefix.as_bytes().to_vec();
    *end.last_mut().context("a prefix")? += 1;
    let ask = json!({"key": BASE64_STANDARD.encode(prefix), "range_end": BASE64_STANDARD.encode(end)}).to_string();
    let (status, body) = http("POST", &format!("http://127.0.0.1:{}/v3/kv/range", etcd.ports()[0]), Some(&ask))?;
    ensure!(status == 200, "{body}");
    let answer: Value = serde_json::from_str(&body)?;
    let decode = |item: &Value, field: &str| BASE64_STANDARD.decode(item[field].as_str().unwrap_or_default());
    let one = |item: &Value| Ok((String::from_utf8(decode(item, "key")?)?, decode(item, "value")?));
    answer["kvs"].as_array().into_iter().flatten().map(one).collect()
}

fn address(etcd: &Etcd, prefix: &str) -> String {
    format!("etcd://127.0.0.1:{}/{prefix}", etcd.ports()[0])
}

#[test]
fn a_cluster_is_copied_and_a_service_moves() {
    let Some((mut plane, [main, apart])) = world() else { return };
    plane.set("TIMONEL_STORE_OVERRIDES", &format!("/events#{}", address(&apart, "first")));
    plane.up("demo").expect("up");
    let door = plane.door("demo").expect("a way in");
    for number in 0..20 {
        post(&door, MAPS, &map(&format!("small-{number}"), &number.to_string())).expect("written");
    }
    event(&door, "told").expect("an event");
    let events = stored(&apart, "/first/").expect("keys");
    assert!(events.iter().any(|(key, _)| key.ends_with("/r/core/events/default/told")), "{events:?}");
    assert!(events.iter().all(|(key, _)| key.contains("/events/") || !key.contains("/r/")), "{events:?}");
    let listed = door.ask("GET", EVENTS, "", b"").expect("a list").json();
    assert!(listed["items"].to_string().contains("told"));
    copied(&plane, &door).expect("backup and restore");
    killed_in_the_middle(&plane, &door).expect("a restore that is killed");
    to_etcd(&mut plane, &main, &apart).expect("to etcd");
    to_embedded(&mut plane).expect("and back");
}

fn copied(plane: &Plane, door: &Door) -> anyhow::Result<()> {
    let file = plane.data().join("demo.backup");
    let file = file.to_str().context("a path")?;
    plane.timonel(&["cluster", "backup", "demo", "--file", file])?;
    let (again, text) = plane.try_timonel(&["cluster", "backup", "demo", "--file", file])?;
    ensure!(!again, "an existing file was overwritten: {text}");
    post(door, MAPS, &map("later", "1"))?;
    let (over, text) = plane.try_timonel(&["cluster", "restore", "demo", "--file", file])?;
    ensure!(!over && text.contains("demo"), "restored over what is there: {text}");
    plane.timonel(&["cluster", "restore", "copy", "--file", file])?;
    let copy = eventually("the copy serves", 60, || {
        let copy = plane.door("copy")?;
        value(&copy, "small-7").map(|value| (copy, value))
    })?;
    ensure!(copy.1 == "7");
    ensure!(value(&copy.0, "later").is_err(), "what came after the backup is not in it");
    post(&copy.0, MAPS, &map("only-here", "1"))?;
    ensure!(value(door, "only-here").is_err(), "the copy is a cluster of its own");
    event(&copy.0, "of-the-copy")?;
    plane.timonel(&["cluster", "delete", "copy", "--wait"]).map(drop)
}

/// The server is killed while it restores: the next one clears away what is left, and the name is free again.
fn killed_in_the_middle(plane: &Plane, door: &Door) -> anyhow::Result<()> {
    for number in 0..LARGE {
        post(door, MAPS, &map(&format!("large-{number}"), &"x".repeat(LARGE_BYTES)))?;
    }
    let file = plane.data().join("large.backup");
    let file = file.to_str().context("a path")?;
    plane.timonel(&["cluster", "backup", "demo", "--file", file])?;
    let mut restoring = plane.command(&["cluster", "restore", "half", "--file", file]);
    let mut restoring = restoring.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let fleet = plane.fleet()?;
    let path = "/apis/timonel.io/v1/namespaces/default/clusters/half";
    let half = loop {
        let reply = fleet.ask("GET", path, "", b"")?;
        if reply.status == 200 {
            break reply.json();
        }
        ensure!(restoring.try_wait()?.is_none(), "the restore ended before it was seen");
    };
    kill(plane.pid()?)?;
    ensure!(!restoring.wait()?.success(), "a restore whose server was killed succeeded");
    let claimed = half["metadata"]["annotations"]["timonel.io/restoring"].is_string();
    ensure!(claimed, "it was restored before the server was killed: {half}");
    plane.up("demo")?;
    eventually("the half-made cluster is cleared away", 90, || {
        let reply = plane.fleet()?.ask("GET", path, "", b"")?;
        ensure!(reply.status == 404, "{}", reply.text());
        Ok(())
    })?;
    plane.timonel(&["cluster", "restore", "half", "--file", file])?;
    eventually("the second restore serves", 60, || value(&plane.door("half")?, "large-3"))?;
    for number in 0..LARGE {
        door.ask("DELETE", &format!("{MAPS}/large-{number}"), "", b"")?;
    }
    plane.timonel(&["cluster", "delete", "half", "--wait"]).map(drop)
}

/// Writes and reads without a pause while the service moves: reads never fail, and what was acknowledged is there after.
fn moving(plane: &Plane, name: &str, args: &[&str]) -> anyhow::Result<u64> {
    let door = plane.door("demo")?;
    let (stop, written) = (AtomicBool::new(false), AtomicU64::new(0));
    let (moved, reads) = scope(|threads| {
        threads.spawn(|| {
            for number in 0.. {
                if stop.load(Ordering::Relaxed) || post(&door, MAPS, &map(&format!("{name}-{number}"), "1")).is_err() {
                    return;
                }
                written.store(number + 1, Ordering::Relaxed);
            }
        });
        let reads = threads.spawn(|| {
            let mut count = 0;
            while !stop.load(Ordering::Relaxed) {
                value(&door, "small-3")?;
                count += 1;
            }
            Ok::<u64, anyhow::Error>(count)
        });
        sleep(Duration::from_millis(300));
        let moved = plane.timonel(args);
        // Readers go on afterwards, and nobody writes any more.
        sleep(Duration::from_millis(300));
        stop.store(true, Ordering::Relaxed);
        (moved, reads.join().expect("a reader"))
    });
    eprintln!(
        "{}: {} reads, {} writes",
        moved?.trim(),
        reads.context("a read failed")?,
        written.load(Ordering::Relaxed)
    );
    let refused = door.ask("POST", MAPS, JSON, map("too-late", "1").to_string().as_bytes())?;
    ensure!(refused.status >= 500, "written to what has moved: {}", refused.status);
    Ok(written.load(Ordering::Relaxed))
}

/// Everything is there, and can be changed.
fn whole(plane: &Plane, name: &str, written: u64) -> anyhow::Result<()> {
    let door = plane.door("demo")?;
    for number in 0..20 {
        ensure!(value(&door, &format!("small-{number}"))? == number.to_string());
    }
    for number in 0..written {
        value(&door, &format!("{name}-{number}")).context("acknowledged")?;
    }
    let told = door.ask("GET", &format!("{EVENTS}/told"), "", b"")?;
    ensure!(told.status == 200, "the event has not moved along: {}", told.text());
    post(&door, MAPS, &map(&format!("after-{name}"), "1")).map(drop)
}

fn to_etcd(plane: &mut Plane, main: &Etcd, apart: &Etcd) -> anyhow::Result<()> {
    let (to, events) = (address(main, "whole"), format!("/events#{}", address(apart, "second")));
    let written = moving(plane, "to-etcd", &["store", "migrate", "--to", &to, "--to-overrides", &events])?;
    plane.set("TIMONEL_STORE", &to);
    plane.set("TIMONEL_STORE_OVERRIDES", &events);
    restart(plane)?;
    whole(plane, "to-etcd", written)?;
    let misplaced = |etcd: &Etcd, prefix: &str, apart: bool| {
        let of_another = |key: &str| key.contains("/r/") && key.contains("/r/core/events/") != apart;
        let all = stored(etcd, prefix)?;
        ensure!(all.iter().any(|(key, _)| key.contains("/r/")), "nothing lies under {prefix}");
        Ok(all.iter().any(|(key, _)| of_another(key)))
    };
    ensure!(!misplaced(main, "/whole/", false)?, "events lie in the first store");
    ensure!(!misplaced(apart, "/second/", true)?, "others lie with the events");
    Ok(())
}

fn to_embedded(plane: &mut Plane) -> anyhow::Result<()> {
    let to = format!("embedded:{}", plane.data().join("moved").display());
    let written = moving(plane, "to-embedded", &["store", "migrate", "--to", &to])?;
    plane.set("TIMONEL_STORE", &to);
    plane.set("TIMONEL_STORE_OVERRIDES", "");
    restart(plane)?;
    whole(plane, "to-embedded", written)
}

fn configuration(keys: &[(&str, u8)]) -> String {
    let key = |(name, byte): &(&str, u8)| json!({"name": name, "secret": BASE64_STANDARD.encode([*byte; 32])});
    let keys: Vec<Value> = keys.iter().map(key).collect();
    let provider = json!({"aesgcm": {"keys": keys}});
    let resources = json!([{"resources": ["secrets"], "providers": [provider, {"identity": {}}]}]);
    json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration", "resources": resources})
        .to_string()
}

/// How each of our secrets begins in the store.
fn sealed(etcd: &Etcd) -> anyhow::Result<Vec<String>> {
    let all = stored(etcd, "/sealed/")?;
    let ours = all.iter().filter(|(key, _)| key.contains("/r/core/secrets/default/ours-"));
    let start = |value: &Vec<u8>| String::from_utf8_lossy(&value[..value.len().min(32)]).into_owned();
    let found: Vec<String> = ours
        .map(|(_, value)| {
            ensure!(!value.windows(9).any(|part| part == b"cGxhaW50Z"), "in clear");
            Ok(start(value))
        })
        .collect::<anyhow::Result<_>>()?;
    Ok(found)
}

fn secret(door: &Door, name: &str) -> anyhow::Result<()> {
    let data = json!({"text": BASE64_STANDARD.encode(format!("plaintext of {name}"))});
    post(door, SECRETS, &json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": data}))
        .map(drop)
}

/// Every secret is read as it was written.
fn readable(door: &Door, count: u64) -> anyhow::Result<()> {
    for number in 0..count {
        let name = format!("ours-{number}");
        let reply = door.ask("GET", &format!("{SECRETS}/{name}"), "", b"")?;
        ensure!(
            reply.json()["data"]["text"] == BASE64_STANDARD.encode(format!("plaintext of {name}")),
            "{}",
            reply.text()
        );
    }
    Ok(())
}

#[test]
fn secrets_are_sealed_and_keys_rotate_while_the_service_runs() {
    let Some((mut plane, [etcd, _])) = world() else { return };
    plane.set("TIMONEL_STORE", &address(&etcd, "sealed"));
    plane.up("demo").expect("up");
    secret(&plane.door("demo").expect("a way in"), "ours-0").expect("in clear");
    assert!(sealed(&etcd).is_err(), "without a configuration it lies in clear");
    let path = plane.data().join("encryption.json");
    fs::write(&path, configuration(&[("one", 1)])).expect("a configuration");
    plane.set("TIMONEL_ENCRYPTION_PROVIDER_CONFIG", path.to_str().expect("a path"));
    restart(&plane).expect("with encryption");
    let door = plane.door("demo").expect("a way in");
    secret(&door, "ours-1").expect("sealed");
    readable(&door, 2).expect("old and new");
    let told = plane.timonel(&["store", "rewrite"]).expect("sealed anew");
    let all = sealed(&etcd).expect("nothing in clear");
    assert!(all.len() == 2 && all.iter().all(|start| start.starts_with("k8s:enc:aesgcm:v1:one:")), "{told} {all:?}");
    // A new key, while the service runs: it writes as soon as the file is read again, and the old one still reads.
    fs::write(&path, configuration(&[("two", 2), ("one", 1)])).expect("a new key");
    let mut written = 2;
    eventually("the new key writes", 30, || {
        secret(&door, &format!("ours-{written}"))?;
        written += 1;
        let all = sealed(&etcd)?;
        ensure!(all.iter().any(|start| start.starts_with("k8s:enc:aesgcm:v1:two:")), "{all:?}");
        Ok(())
    })
    .expect("followed");
    readable(&door, written).expect("both keys read");
    plane.timonel(&["store", "rewrite"]).expect("sealed anew");
    let all = sealed(&etcd).expect("nothing in clear");
    assert!(all.iter().all(|start| start.starts_with("k8s:enc:aesgcm:v1:two:")), "{all:?}");
    // The old key goes; nothing needs it.
    fs::write(&path, configuration(&[("two", 2)])).expect("without the old key");
    restart(&plane).expect("without the old key");
    readable(&plane.door("demo").expect("a way in"), written).expect("the new key reads all");
    let told = plane.timonel(&["store", "rewrite"]).expect("once more");
    assert!(told.starts_with("0 of "), "{told}");
}
