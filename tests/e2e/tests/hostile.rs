//! Bad days at the API's port, against a real server process: what is too large, too deep, malformed, too slow or too
//! much gets the right answer and costs a bounded amount of memory, and whoever is decent is served meanwhile.

#![allow(clippy::disallowed_methods, reason = "a test joins the threads that it starts, and these may wait")]

use anyhow::{Context, ensure};
use std::{
    net::TcpStream,
    time::{Duration, Instant},
};
use timonel_harness::{Door, Plane};

/// Method, path, content type and body; status and reason.
type Case<'a> = (&'a str, &'a str, &'a str, &'a [u8], u16, &'a str);

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const JSON: &str = "application/json";
const MIB: usize = 1 << 20;
/// Bytes that nobody should have to send.
const HUGE: usize = 100 * MIB;
/// Memory that all of it may cost for a moment, KiB.
const HUGE_COST: u64 = 96 << 10;
/// Connections that are opened and not used; of those, so many finish a TLS handshake.
const IDLE: usize = 10_000;
const SHAKEN: usize = 2_500;
/// Memory that they may cost, KiB.
const IDLE_COST: u64 = 700 << 10;
/// Time in which a decent client is served beside all that.
const DECENT: Duration = Duration::from_secs(10);
/// Time after which somebody slow is cut off.
const SLOW: Duration = Duration::from_secs(90);

fn plane() -> Option<(Plane, Door)> {
    let plane = match Plane::prepare() {
        Ok(plane) => plane,
        Err(lacking) => {
            eprintln!("skipped: {}", lacking.0);
            return None;
        }
    };
    plane.up("a").expect("up");
    let door = plane.door("a").expect("a");
    Some((plane, door))
}

fn decent(door: &Door) -> anyhow::Result<()> {
    let started = Instant::now();
    let reply = door.ask("GET", "/api/v1/namespaces", "", b"")?;
    ensure!(reply.status == 200, "{}: {}", reply.status, reply.text());
    ensure!(started.elapsed() < DECENT, "{:?}", started.elapsed());
    Ok(())
}

#[test]
fn too_large_too_deep_and_malformed() {
    let Some((plane, door)) = plane() else { return };
    too_large(&plane, &door).expect("too large");
    malformed(&door).expect("malformed");
    decent(&door).expect("decent");
}

fn too_large(plane: &Plane, door: &Door) -> anyhow::Result<()> {
    let before = plane.memory()?;
    // Said beforehand: refused unread.
    let mut line = door.open()?;
    let head = format!("POST {MAPS} HTTP/1.1\r\nhost: x\r\ncontent-type: {JSON}\r\ncontent-length: {HUGE}\r\n\r\n");
    line.send(head.as_bytes())?;
    let reply = line.reply().context("said")?;
    ensure!(reply.status == 413 && reply.json()["reason"] == "RequestEntityTooLarge", "{}", reply.text());
    // Not said: refused when it is too much. The server may hang up before all of it is sent.
    let mut lines = Vec::new();
    for _ in 0..8 {
        let mut line = door.open()?;
        let head =
            format!("POST {MAPS} HTTP/1.1\r\nhost: x\r\ncontent-type: {JSON}\r\ntransfer-encoding: chunked\r\n\r\n");
        line.send(head.as_bytes())?;
        let chunk = [format!("{MIB:x}\r\n").as_bytes(), &vec![b'['; MIB], b"\r\n"].concat();
        let sent = (0..HUGE / MIB).take_while(|_| line.send(&chunk).is_ok()).count();
        ensure!(sent < HUGE / MIB, "all of it was taken");
        // Who goes on sending may find the connection cut before he reads why.
        if let Ok(reply) = line.reply() {
            ensure!(reply.status == 413, "after {sent} MiB: {} {}", reply.status, reply.text());
        }
        lines.push(line);
    }
    let cost = plane.memory()?.saturating_sub(before);
    eprintln!("bodies of {} MiB cost {} MiB", HUGE / MIB, cost >> 10);
    ensure!(cost < HUGE_COST, "{} MiB", cost >> 10);
    Ok(())
}

fn malformed(door: &Door) -> anyhow::Result<()> {
    let deep = [&br#"{"apiVersion":"v1","kind":"ConfigMap","data":"#[..], &vec![b'['; MIB]].concat();
    let deep_map = r#"{"a":"#.repeat(200_000).into_bytes();
    let truncated = br#"{"apiVersion":"v1","kind":"ConfigMap","#;
    let protobuf = "application/vnd.kubernetes.protobuf";
    let made = door.ask("POST", MAPS, JSON, br#"{"metadata":{"name":"m"},"data":{"k":"v"}}"#)?;
    ensure!(made.status == 201, "{}", made.text());
    let one = format!("{MAPS}/m");
    let patch = |kind: &str| format!("application/{kind}-patch+json");
    let (json_patch, merge, strategic) = (patch("json"), patch("merge"), patch("strategic-merge"));
    let cases: &[Case<'_>] = &[
        ("POST", MAPS, JSON, &deep, 400, "BadRequest"),
        ("POST", MAPS, JSON, &deep_map, 400, "BadRequest"),
        ("POST", MAPS, JSON, truncated, 400, "BadRequest"),
        ("POST", MAPS, JSON, b"\xff\xfe{}", 400, "BadRequest"),
        ("POST", MAPS, JSON, b"[]", 400, "BadRequest"),
        ("POST", MAPS, JSON, b"", 400, "BadRequest"),
        ("POST", MAPS, JSON, br#"{"kind":"Pod","apiVersion":"v1"}"#, 400, "BadRequest"),
        ("POST", MAPS, protobuf, b"k8s\0\xff\xff\xff\xff\xff", 400, "BadRequest"),
        ("POST", MAPS, protobuf, b"not protobuf at all", 400, "BadRequest"),
        ("POST", MAPS, "application/x-unheard-of", b"{}", 415, "UnsupportedMediaType"),
        ("PATCH", &one, &merge, b"{", 400, "BadRequest"),
        ("PATCH", &one, &merge, &deep_map, 400, "BadRequest"),
        ("PATCH", &one, &strategic, b"[1,", 400, "BadRequest"),
        ("PATCH", &one, &json_patch, br#"{"op":"add"}"#, 400, "BadRequest"),
        ("PATCH", &one, &json_patch, br#"[{"op":"jump","path":"/data"}]"#, 422, "Invalid"),
        ("PATCH", &one, &json_patch, br#"[{"op":"remove","path":"/data/none"}]"#, 422, "Invalid"),
        ("PATCH", &one, JSON, b"{}", 415, "UnsupportedMediaType"),
    ];
    let mut wrong = Vec::new();
    for (method, path, kind, body, status, reason) in cases {
        let name = format!("{method} {kind} {:?}", String::from_utf8_lossy(&body[..body.len().min(40)]));
        let reply = door.ask(method, path, kind, body).with_context(|| name.clone())?;
        let found = reply.json();
        if reply.status != *status || found["kind"] != "Status" || found["reason"] != *reason {
            wrong.push(format!("{name}: {} {}", reply.status, &reply.text()[..reply.body.len().min(300)]));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    let after = door.ask("GET", &one, "", b"")?;
    ensure!(after.json()["data"]["k"] == "v", "{}", after.text());
    Ok(())
}

#[test]
fn a_byte_a_second() {
    let Some((_plane, door)) = plane() else { return };
    let head = format!("POST {MAPS} HTTP/1.1\r\nhost: x\r\ncontent-type: {JSON}\r\ncontent-length: 4096\r\n\r\n");
    let slow = |prefix: &'static str, head: String| {
        let door = door.clone();
        std::thread::spawn(move || {
            let mut line = door.open()?;
            let started = Instant::now();
            line.send(head.as_bytes())?;
            while started.elapsed() < SLOW {
                // Cut off, with or without an answer: either way it is over.
                if line.send(b"x").is_err() {
                    return Ok(started.elapsed());
                }
                std::thread::sleep(Duration::from_secs(1));
            }
            anyhow::bail!("{prefix}: still going on after {SLOW:?}")
        })
    };
    let heads: Vec<_> = (0..20).map(|_| slow("head", "GET /api/v1/na".to_owned())).collect();
    let bodies: Vec<_> = (0..80).map(|_| slow("body", head.clone())).collect();
    for _ in 0..5 {
        decent(&door).expect("decent beside slow ones");
        std::thread::sleep(Duration::from_secs(1));
    }
    for (name, threads) in [("heads", heads), ("bodies", bodies)] {
        let times: Vec<Duration> =
            threads.into_iter().map(|thread| thread.join().expect("a thread").expect(name)).collect();
        eprintln!("{name}: cut off after at most {:?}", times.iter().max().expect("some"));
    }
    decent(&door).expect("decent afterwards");
}

#[test]
fn ten_thousand_idle_connections() {
    let Some((plane, door)) = plane() else { return };
    let before = plane.memory().expect("memory");
    let quarter = |_| {
        let door = door.clone();
        std::thread::spawn(move || {
            let (mut silent, mut shaken) = (Vec::new(), Vec::new());
            for n in 0..IDLE / 4 {
                if n % (IDLE / SHAKEN) == 0 {
                    shaken.extend(door.open());
                } else {
                    silent.extend(TcpStream::connect_timeout(&door.address, DECENT));
                }
            }
            (silent, shaken)
        })
    };
    let threads: Vec<_> = (0..4).map(quarter).collect();
    let held: Vec<_> = threads.into_iter().map(|thread| thread.join().expect("a thread")).collect();
    let (silent, shaken) = held.iter().fold((0, 0), |sum, (a, b)| (sum.0 + a.len(), sum.1 + b.len()));
    for _ in 0..5 {
        decent(&door).expect("decent beside idle ones");
    }
    let cost = plane.memory().expect("memory").saturating_sub(before);
    eprintln!("{silent} silent and {shaken} idle connections cost {} MiB", cost >> 10);
    assert!(silent + shaken > IDLE * 9 / 10, "{silent} {shaken}");
    assert!(cost < IDLE_COST, "{} MiB", cost >> 10);
}
