//! Server-side apply against what upstream 1.36.2 answered to the same requests (`apply_cases.jsonl`): code, object,
//! entries of owners, refusals, and whether the resource version changed.
//!
//! A line starts a sequence or is one step of it. `answer` is a merge patch of the sequence's last object; what
//! differs between runs (identifiers, times, addresses) is `*` in both.

use super::support::{World, world};
use serde_json::{Map, Value as Json, json};

/// Members whose values are not the same twice.
const VOLATILE: [&str; 8] = [
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "deletionTimestamp",
    "clusterIP",
    "clusterIPs",
    "nodePort",
    "healthCheckNodePort",
];
const TIMES: [&str; 3] = ["lastTransitionTime", "lastPhaseTransitionTime", "lastUpdateTime"];

fn merged(target: &mut Json, patch: &Json) {
    let Some(patch) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (name, value) in patch {
        if value.is_null() {
            target.as_object_mut().unwrap().remove(name);
        } else {
            merged(&mut target[name], value);
        }
    }
}

/// An answer without what differs between runs; entries by owner.
fn plain(value: &Json) -> Json {
    match value {
        Json::Object(members) => {
            let member = |(name, value): (&String, &Json)| {
                let plain = match name.as_str() {
                    "managedFields" => owners(value),
                    name if TIMES.contains(&name) && value.is_string() => json!("*"),
                    name if VOLATILE.contains(&name) && !value.is_object() => json!("*"),
                    _ => plain(value),
                };
                (name.clone(), plain)
            };
            let mut plain: Map<String, Json> =
                members.iter().filter(|(_, value)| !value.is_null()).map(member).collect();
            if let Some(Json::Array(causes)) = plain.get_mut("causes") {
                causes.sort_by_key(Json::to_string);
            }
            Json::Object(plain)
        }
        Json::Array(items) => items.iter().map(plain).collect(),
        Json::String(text) => Json::String(without_uids(text)),
        other => other.clone(),
    }
}

fn owners(entries: &Json) -> Json {
    let mut owners = Map::new();
    for entry in entries.as_array().into_iter().flatten() {
        let text = |name: &str| entry[name].as_str().unwrap_or("").to_owned();
        let owner = [text("manager"), text("operation"), text("apiVersion"), text("subresource")].join("|");
        let mut kept = json!({"fieldsV1": entry["fieldsV1"]});
        if entry["time"].is_string() {
            kept["time"] = json!("*");
        }
        owners.insert(owner, kept);
    }
    Json::Object(owners)
}

fn without_uids(text: &str) -> String {
    let uid = |part: &str| {
        part.len() == 36
            && part.bytes().enumerate().all(|(at, byte)| match at {
                8 | 13 | 18 | 23 => byte == b'-',
                _ => byte.is_ascii_hexdigit(),
            })
    };
    let words = text.split_inclusive(|c: char| !(c.is_ascii_hexdigit() || c == '-'));
    words
        .map(|word| {
            let end = word.len()
                - word.chars().last().map_or(0, |c| if c.is_ascii_hexdigit() || c == '-' { 0 } else { c.len_utf8() });
            if uid(&word[..end]) { format!("UID{}", &word[end..]) } else { word.to_owned() }
        })
        .collect()
}

/// Several conflicts come in any order from upstream.
fn sorted_message(refusal: &mut Json) {
    let text = refusal["message"].as_str().unwrap_or("").to_owned();
    if text.starts_with("Apply failed with") && text.contains('\n') {
        let mut lines: Vec<&str> = text.split_once(": ").map_or(&*text, |(_, rest)| rest).split('\n').collect();
        lines.sort_unstable();
        refusal["message"] = json!(lines.join("\n"));
    }
}

fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

async fn send(world: &World, step: &Json, body: &Json) -> super::support::Answer {
    let path = step["path"].as_str().unwrap();
    let mut query: Vec<String> = Vec::new();
    if let Some(manager) = step["manager"].as_str().filter(|manager| !manager.is_empty()) {
        query.push(format!("fieldManager={}", encoded(manager)));
    }
    query.extend(step["force"].as_bool().map(|_| "force=true".to_owned()));
    query.extend(step["dry"].as_bool().map(|_| "dryRun=All".to_owned()));
    query.extend(step["query"].as_str().map(str::to_owned));
    let joint = if path.contains('?') { '&' } else { '?' };
    let full = if query.is_empty() { path.to_owned() } else { format!("{path}{joint}{}", query.join("&")) };
    let (method, kind) = match step["verb"].as_str().unwrap() {
        "apply" => ("PATCH", "application/apply-patch+yaml"),
        "merge" => ("PATCH", "application/merge-patch+json"),
        "strategic" => ("PATCH", "application/strategic-merge-patch+json"),
        "json" => ("PATCH", "application/json-patch+json"),
        "post" => ("POST", "application/json"),
        "put" => ("PUT", "application/json"),
        "delete" => ("DELETE", "application/json"),
        _ => ("GET", "application/json"),
    };
    let text = match (method, body) {
        ("GET" | "DELETE", _) => String::new(),
        ("PUT", change) => {
            let found = world.get(path).await;
            let mut object = if found.code == 200 { found.json() } else { json!({}) };
            merged(&mut object, change);
            object.to_string()
        }
        (_, Json::String(text)) => text.clone(),
        (_, body) => body.to_string(),
    };
    let agent = step["agent"].as_str().unwrap_or("runner/1").to_owned();
    let mut headers = vec![("content-type", kind)];
    if !agent.is_empty() {
        headers.push(("user-agent", &*agent));
    }
    world.send(method, &full, &headers, text).await
}

async fn prepared() -> World {
    let world = world().await;
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ssa"}});
    world.post("/api/v1/namespaces", namespace).await.expect(201);
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"},
        "automountServiceAccountToken": false});
    world.post("/api/v1/namespaces/ssa/serviceaccounts", account).await.expect(201);
    world
        .post("/api/v1/nodes", json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}}))
        .await
        .expect(201);
    let room = json!({"cpu": "8", "memory": "16Gi", "pods": "100"});
    let status = json!({"status": {"capacity": room, "allocatable": room}});
    world.patch("/api/v1/nodes/n1/status", "merge", status).await.expect(200);
    world
}

#[tokio::test(start_paused = true)]
async fn as_upstream_answers() {
    let world = prepared().await;
    let (mut sequence, mut expected, mut body, mut version) = (String::new(), json!({}), Json::Null, Json::Null);
    let mut wrong = Vec::new();
    let mut steps = 0;
    for (at, line) in include_str!("apply_cases.jsonl").lines().enumerate() {
        let step: Json = serde_json::from_str(line).unwrap();
        if let Some(name) = step["sequence"].as_str() {
            (sequence, expected, version) = (name.to_owned(), json!({}), Json::Null);
            continue;
        }
        steps += 1;
        if step["again"].is_null() {
            body = step["body"].clone();
        }
        let answer = send(&world, &step, &body).await;
        let mut problem = |what: &str, theirs: String, ours: String| {
            wrong.push(format!("{sequence}, line {}: {what}\n  upstream {theirs}\n  ours     {ours}", at + 1));
        };
        if answer.code != step["code"] {
            problem("code", step["code"].to_string(), format!("{} {}", answer.code, answer.text));
        }
        if step["verb"] == "delete" {
            continue;
        }
        let got = answer.json();
        if answer.code < 400 && step["verb"] != "get" && got["metadata"]["resourceVersion"].is_string() {
            let same = got["metadata"]["resourceVersion"] == version;
            version = got["metadata"]["resourceVersion"].clone();
            if step["same"].as_bool().is_some_and(|theirs| theirs != same) {
                problem("resource version kept", step["same"].to_string(), same.to_string());
            }
        }
        let got = plain(&got);
        if step["refusal"].is_object() {
            let mut refusal: Json = json!({});
            for name in ["message", "reason", "details"] {
                if !got[name].is_null() {
                    refusal[name] = got[name].clone();
                }
            }
            sorted_message(&mut refusal);
            if refusal != step["refusal"] {
                problem("refusal", step["refusal"].to_string(), refusal.to_string());
            }
        } else {
            merged(&mut expected, &step["answer"]);
            if got != expected {
                problem("object", expected.to_string(), got.to_string());
            }
        }
    }
    assert!(steps > 1000, "{steps} steps");
    assert!(wrong.is_empty(), "{} differences\n{}", wrong.len(), wrong[..wrong.len().min(5)].join("\n"));
}
