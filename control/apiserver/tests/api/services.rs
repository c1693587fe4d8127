//! Services: addresses and node ports are given once, kept and taken back.

use super::support::{World, world};
use serde_json::{Value as Json, json};
use std::collections::BTreeSet;

const SERVICES: &str = "/api/v1/namespaces/default/services";

fn service(name: &str, kind: &str) -> Json {
    json!({"metadata": {"name": name}, "spec": {"type": kind, "selector": {"a": "b"}, "ports": [{"port": 80}]}})
}

async fn taken(world: &World) -> BTreeSet<String> {
    let list = world.get("/apis/networking.k8s.io/v1/ipaddresses").await.expect(200);
    list["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(start_paused = true)]
async fn the_api_is_a_service_of_its_cluster() {
    let world = world().await;
    let service = world.get(&format!("{SERVICES}/kubernetes")).await.expect(200);
    assert_eq!(service["spec"]["clusterIP"], "10.96.0.1");
    let slice = world.get("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes").await.expect(200);
    assert_eq!(slice["endpoints"][0]["addresses"], json!(["192.0.2.1"]));
    assert_eq!(taken(&world).await, BTreeSet::from(["10.96.0.1".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn addresses_and_ports_are_given_kept_and_taken_back() {
    let world = world().await;
    let made = world.post(SERVICES, service("s", "NodePort")).await.expect(201);
    let address = made["spec"]["clusterIP"].as_str().unwrap().to_owned();
    let port = made["spec"]["ports"][0]["nodePort"].as_i64().unwrap();
    assert!((30_000..=30_009).contains(&port) && taken(&world).await.contains(&address));
    // A client that writes only its own fields keeps what the server gave.
    let path = format!("{SERVICES}/s");
    let put = world.put(&path, service("s", "NodePort")).await.expect(200);
    assert_eq!((&put["spec"]["clusterIP"], &put["spec"]["ports"][0]["nodePort"]), (&json!(address), &json!(port)));
    let inner = world.patch(&path, "merge", json!({"spec": {"type": "ClusterIP"}})).await.expect(200);
    assert_eq!((&inner["spec"]["clusterIP"], inner["spec"]["ports"][0].get("nodePort")), (&json!(address), None));
    let outer =
        world.patch(&path, "merge", json!({"spec": {"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]}}));
    outer.await.expect(200);
    let gone = json!({"spec": {"type": "ExternalName", "externalName": "example.com", "ports": null}});
    let external = world.patch(&path, "merge", gone).await.expect(200);
    assert_eq!(external["spec"].get("clusterIP"), None);
    assert!(!taken(&world).await.contains(&address));
    world
        .post(
            SERVICES,
            json!({"metadata": {"name": "t"}, "spec": {"type": "NodePort", "clusterIP": address,
        "ports": [{"port": 80, "nodePort": port}]}}),
        )
        .await
        .expect(201);
    world.delete(&format!("{SERVICES}/t"), Json::Null).await.expect(200);
    assert!(!taken(&world).await.contains(&address));
}

#[tokio::test(start_paused = true)]
async fn what_is_taken_is_refused() {
    let world = world().await;
    world
        .post(
            SERVICES,
            json!({"metadata": {"name": "a"}, "spec": {"type": "NodePort", "clusterIP": "10.96.0.40",
        "ports": [{"port": 80, "nodePort": 30_001}]}}),
        )
        .await
        .expect(201);
    for (spec, text) in [
        (json!({"clusterIP": "10.96.0.40", "ports": [{"port": 1}]}), "provided IP is already allocated"),
        (json!({"clusterIP": "10.97.0.1", "ports": [{"port": 1}]}), "not in the valid range"),
        (json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": 30_001}]}), "provided port is already allocated"),
        (
            json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": 80}]}),
            "provided port is not in the valid range",
        ),
    ] {
        let refused = world.post(SERVICES, json!({"metadata": {"name": "b"}, "spec": spec})).await;
        assert_eq!(refused.code, 422, "{}", refused.text);
        assert!(refused.message().contains(text), "{}", refused.message());
    }
    assert_eq!(taken(&world).await.len(), 2, "a refused service holds nothing");
}

#[tokio::test(start_paused = true)]
async fn headless_and_external_services_have_no_address() {
    let world = world().await;
    let headless = json!({"metadata": {"name": "h"}, "spec": {"clusterIP": "None", "selector": {"a": "b"}, "ports": [{"port": 1}]}});
    let made = world.post(SERVICES, headless).await.expect(201);
    assert_eq!((&made["spec"]["clusterIPs"], &made["spec"]["ipFamilies"]), (&json!(["None"]), &json!(["IPv4"])));
    let local = json!({"metadata": {"name": "l"}, "spec": {"type": "LoadBalancer", "externalTrafficPolicy": "Local",
        "selector": {"a": "b"}, "ports": [{"port": 53, "protocol": "UDP", "name": "u"}, {"port": 53, "protocol": "TCP", "name": "t"}]}});
    let made = world.post(SERVICES, local).await.expect(201);
    let ports = &made["spec"]["ports"];
    assert_eq!(ports[0]["nodePort"], ports[1]["nodePort"]);
    assert!(made["spec"]["healthCheckNodePort"].as_i64().is_some_and(|port| port != ports[0]["nodePort"]));
}

#[tokio::test(start_paused = true)]
async fn many_at_once_never_share() {
    let world = world().await;
    let made = (0..10).map(|n| {
        let world = &world;
        async move { world.post(SERVICES, service(&format!("s{n}"), "NodePort")).await.expect(201) }
    });
    let made = futures::future::join_all(made).await;
    let addresses: BTreeSet<_> = made.iter().map(|s| s["spec"]["clusterIP"].as_str().unwrap()).collect();
    let ports: BTreeSet<_> = made.iter().map(|s| s["spec"]["ports"][0]["nodePort"].as_i64().unwrap()).collect();
    assert_eq!((addresses.len(), ports.len()), (10, 10));
    let full = world.post(SERVICES, service("more", "NodePort")).await;
    assert_eq!(full.code, 500);
    assert!(full.message().contains("range is full"), "{}", full.message());
}
