//! A real client without a socket, and a real connection.

use super::support::{config_map, world};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams},
};
use serde_json::json;
use timonel_apiserver::InProcess;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test(start_paused = true)]
async fn kube_works_without_a_socket() {
    let world = world().await;
    let client = Client::new(InProcess::new(world.server.clone(), world.caller.clone()), "default");
    let namespaces: Api<Namespace> = Api::all(client.clone());
    assert_eq!(namespaces.list(&ListParams::default()).await.unwrap().items.len(), 4);
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    let map: ConfigMap = serde_json::from_value(config_map("a", json!({"k": "v"}))).unwrap();
    let version = maps.create(&PostParams::default(), &map).await.unwrap().metadata.resource_version.unwrap();
    let patch = Patch::Merge(json!({"data": {"k": "w"}}));
    maps.patch("a", &PatchParams::default(), &patch).await.unwrap();
    maps.delete("a", &DeleteParams::default()).await.unwrap();
    let error = maps.get("a").await.unwrap_err();
    assert!(matches!(error, kube::Error::Api(status) if status.is_not_found()));
    let events: Vec<_> =
        maps.watch(&WatchParams::default(), &version).await.unwrap().take(2).try_collect().await.unwrap();
    assert!(matches!(&events[0], WatchEvent::Modified(map) if map.data.as_ref().unwrap()["k"] == "w"));
    assert!(matches!(&events[1], WatchEvent::Deleted(_)));
}

#[tokio::test]
async fn a_connection_speaks_http() {
    let world = world().await;
    let (mut client, served) = tokio::io::duplex(1 << 16);
    let serving = world.server.clone().serve_connection(
        served,
        timonel_apiserver::Connection::of(world.caller.clone(), false),
        world.tasks.token(),
    );
    let talking = async {
        client.write_all(b"GET /version HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut text = String::new();
        client.read_to_string(&mut text).await.unwrap();
        text
    };
    let (text, _) = tokio::join!(talking, serving);
    assert!(text.starts_with("HTTP/1.1 200 OK") && text.contains("\"minor\":\"36\""), "{text}");
}
