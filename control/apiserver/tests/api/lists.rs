//! Lists: selectors, pages, versions, shapes.

use super::support::{MAPS, PODS, World, config_map, pod, world};
use serde_json::{Value as Json, json};
use timonel_store::Store;

fn names(list: &Json) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].as_str().unwrap()).collect()
}

async fn with_maps(count: usize) -> World {
    let world = world().await;
    for n in 0..count {
        let mut map = config_map(&format!("m{n}"), json!({"k": n.to_string()}));
        map["metadata"]["labels"] = json!({"parity": if n % 2 == 0 { "even" } else { "odd" }});
        world.post(MAPS, map).await.expect(201);
    }
    world
}

#[tokio::test(start_paused = true)]
async fn selectors_narrow_a_list() {
    let world = with_maps(5).await;
    for (query, expected) in [
        ("", vec!["m0", "m1", "m2", "m3", "m4"]),
        ("?labelSelector=parity%3Dodd", vec!["m1", "m3"]),
        ("?labelSelector=parity%20in%20(odd)%2C!x", vec!["m1", "m3"]),
        ("?fieldSelector=metadata.name%3Dm2", vec!["m2"]),
        ("?fieldSelector=metadata.name!%3Dm2&labelSelector=parity%3Deven", vec!["m0", "m4"]),
        ("?labelSelector=nothing", vec![]),
    ] {
        let list = world.get(&format!("{MAPS}{query}")).await.expect(200);
        assert_eq!(names(&list), expected, "{query}");
        assert_eq!(
            (list["kind"].as_str(), list["items"].get(0).and_then(|i| i.get("kind"))),
            (Some("ConfigMapList"), None)
        );
    }
    let everywhere = world.get("/api/v1/configmaps?labelSelector=parity").await.expect(200);
    assert_eq!(names(&everywhere).len(), 5);
    for query in ["?labelSelector=a%3Db%3Dc", "?fieldSelector=data.k%3D1"] {
        assert_eq!(world.get(&format!("{MAPS}{query}")).await.code, 400, "{query}");
    }
}

#[tokio::test(start_paused = true)]
async fn pods_are_found_by_node() {
    let world = world().await;
    for (name, node) in [("a", "n1"), ("b", "n2"), ("c", "n1")] {
        let mut pod = pod(name);
        pod["spec"]["nodeName"] = json!(node);
        world.post(PODS, pod).await.expect(201);
    }
    let list = world.get("/api/v1/pods?fieldSelector=spec.nodeName%3Dn1").await.expect(200);
    assert_eq!(names(&list), ["a", "c"]);
    let list = world.get("/api/v1/namespaces/kube-system/pods?fieldSelector=spec.nodeName%3Dn1").await.expect(200);
    assert!(names(&list).is_empty());
    let list = world.get("/api/v1/pods?fieldSelector=spec.nodeName%3Dn2,status.phase%3DPending").await.expect(200);
    assert_eq!(names(&list), ["b"]);
}

#[tokio::test(start_paused = true)]
async fn pages_show_one_snapshot() {
    let world = with_maps(5).await;
    let first = world.get(&format!("{MAPS}?limit=2")).await.expect(200);
    assert_eq!((names(&first), &first["metadata"]["remainingItemCount"]), (vec!["m0", "m1"], &json!(3)));
    world.delete(&format!("{MAPS}/m3"), Json::Null).await.expect(200);
    world.post(MAPS, config_map("m25", json!({}))).await.expect(201);
    let token = first["metadata"]["continue"].as_str().unwrap();
    let second = world.get(&format!("{MAPS}?limit=2&continue={token}")).await.expect(200);
    assert_eq!(names(&second), ["m2", "m3"]);
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let token = second["metadata"]["continue"].as_str().unwrap();
    let third = world.get(&format!("{MAPS}?limit=2&continue={token}")).await.expect(200);
    assert_eq!((names(&third), third["metadata"].get("continue")), (vec!["m4"], None));
}

#[tokio::test(start_paused = true)]
async fn a_page_whose_snapshot_is_gone_says_how_to_go_on() {
    let world = with_maps(4).await;
    let first = world.get(&format!("{MAPS}?limit=1")).await.expect(200);
    world.delete(&format!("{MAPS}/m2"), Json::Null).await.expect(200);
    world.store.compact(world.store.revision().await.unwrap()).await.unwrap();
    let token = first["metadata"]["continue"].as_str().unwrap();
    let gone = world.get(&format!("{MAPS}?limit=1&continue={token}")).await;
    let json = gone.json();
    assert_eq!((gone.code, json["reason"].as_str()), (410, Some("Expired")));
    let token = json["metadata"]["continue"].as_str().unwrap();
    let rest = world.get(&format!("{MAPS}?continue={token}")).await.expect(200);
    assert_eq!(names(&rest), ["m1", "m3"]);
    assert_eq!(world.get(&format!("{MAPS}?continue=x")).await.code, 400);
    let both = world.get(&format!("{MAPS}?resourceVersion=5&continue={token}")).await;
    assert_eq!(both.code, 400);
}

#[tokio::test(start_paused = true)]
async fn versions_ask_for_the_past_or_the_future() {
    let world = with_maps(2).await;
    let now: u64 = world.get(MAPS).await.expect(200)["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    world.delete(&format!("{MAPS}/m0"), Json::Null).await.expect(200);
    for (query, code, count) in [
        (format!("?resourceVersion={now}&resourceVersionMatch=Exact"), 200, 2),
        (format!("?resourceVersion={now}&resourceVersionMatch=NotOlderThan"), 200, 1),
        (format!("?resourceVersion={now}&limit=5"), 200, 2),
        ("?resourceVersion=0&limit=1".to_owned(), 200, 1),
        (format!("?resourceVersion={}", now + 1000), 504, 0),
        (format!("?resourceVersion={}&resourceVersionMatch=Exact", now + 1000), 504, 0),
        ("?resourceVersionMatch=Exact".to_owned(), 422, 0),
    ] {
        let answer = world.get(&format!("{MAPS}{query}")).await;
        assert_eq!(answer.code, code, "{query}: {}", answer.text);
        if code == 200 {
            assert_eq!(names(&answer.json()).len(), count, "{query}");
        } else if code == 504 {
            assert_eq!(answer.json()["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn shapes_and_encodings() {
    let world = with_maps(2).await;
    let get = async |accept: &str| world.send("GET", MAPS, &[("accept", accept)], "").await;
    let table = get("application/json;as=Table;v=v1;g=meta.k8s.io").await.expect(200);
    assert_eq!(table["kind"], "Table");
    assert_eq!(table["rows"].as_array().unwrap().len(), 2);
    assert_eq!(table["rows"][0]["cells"][0], "m0");
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let partial = get("application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io").await.expect(200);
    assert_eq!(partial["kind"], "PartialObjectMetadataList");
    assert_eq!(partial["items"][0].get("data"), None);
    let pretty = world.get(&format!("{MAPS}?pretty=true")).await;
    assert!(pretty.text.contains("\n  \"items\": [") && names(&pretty.json()).len() == 2, "{}", pretty.text);
    let proto = world.raw("GET", MAPS, &[("accept", "application/vnd.kubernetes.protobuf")], "".into()).await;
    let bytes = http_body_util::BodyExt::collect(proto.into_body()).await.unwrap().to_bytes();
    let scheme = timonel_api::Scheme::kubernetes();
    let list = scheme.resource("", "v1", "configmaps").unwrap().list_body.unwrap();
    let value = timonel_api::decode_proto(scheme.schema(), list, &bytes, &timonel_api::Limits::default()).unwrap();
    assert_eq!(value.list_at(&["items"])[1].str_at(&["data", "k"]), "1");
    assert_eq!(value.str_at(&["kind"]), "ConfigMapList");
}

#[tokio::test(start_paused = true)]
async fn big_lists_are_compressed_for_who_takes_that() {
    let world = world().await;
    for n in 0..3 {
        world.post(MAPS, config_map(&format!("m{n}"), json!({"k": "x".repeat(100_000)}))).await.expect(201);
    }
    let plain = world.get(MAPS).await;
    let packed = world.send("GET", MAPS, &[("accept-encoding", "gzip")], "").await;
    assert_eq!(packed.headers["content-encoding"], "gzip");
    assert!(packed.text.len() < plain.text.len() / 10);
    assert!(plain.headers.get("content-encoding").is_none());
}

#[tokio::test(start_paused = true)]
async fn discovery_and_documents() {
    let world = world().await;
    for (path, code, text) in [
        ("/api", 200, "\"versions\":[\"v1\"]"),
        ("/apis", 200, "\"groupVersion\":\"apps/v1\""),
        ("/apis/apps", 200, "\"kind\":\"APIGroup\""),
        ("/apis/apps/v1", 200, "\"name\":\"deployments/scale\""),
        ("/api/v1", 200, "\"name\":\"pods/eviction\""),
        ("/apis/nonsense", 404, "NotFound"),
        ("/apis/apps/v7", 404, "NotFound"),
        ("/version", 200, "\"minor\":\"36\""),
        ("/healthz", 200, "ok"),
        ("/readyz?verbose", 200, "[+]etcd ok\n"),
        ("/livez/ping", 200, "ok"),
        ("/livez/nonsense", 404, "NotFound"),
        ("/openapi/v3", 200, "/openapi/v3/apis/apps/v1?hash="),
        ("/openapi/v3/apis/apps/v1", 200, "io.k8s.api.apps.v1.Deployment"),
        ("/openapi/v2", 200, "\"swagger\":\"2.0\""),
        ("/openid/v1/jwks", 200, "\"keys\""),
        ("/metrics", 200, "apiserver_request_total"),
        ("/", 200, "/apis/apps/v1"),
    ] {
        let answer = world.get(path).await;
        assert_eq!(answer.code, code, "{path}: {}", answer.text);
        assert!(answer.text.contains(text), "{path}: {}", &answer.text[..answer.text.len().min(500)]);
    }
}
