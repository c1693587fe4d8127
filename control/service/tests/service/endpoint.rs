//! Each cluster's own address.

use crate::support::{World, eventually};
use k8s_openapi::api::{
    core::v1::{Endpoints, Namespace, Service, ServiceAccount},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api,
    api::{DeleteParams, ListParams, ObjectMeta, PostParams},
};
use serde_json::json;
use std::time::Duration;
use timonel_fleet::{ClusterSpec, ControlPlane};
use tokio::net::TcpListener;

fn namespace(name: &str) -> Namespace {
    Namespace { metadata: ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() }, ..Namespace::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_cluster_has_its_own_and_keeps_it() {
    let world = World::start().await;
    let (a, b) = (world.create("a", ClusterSpec::default()).await, world.create("b", ClusterSpec::default()).await);
    assert_ne!(a.port, b.port);
    assert_eq!(a.endpoint, format!("https://127.0.0.1:{}", a.port));
    let listening: Vec<_> = a.conditions.iter().map(|c| (c.type_.as_str(), c.status.as_str())).collect();
    assert_eq!(listening, [("Ready", "True"), ("EndpointListening", "True")]);

    // An ordinary kubeconfig: an address, an authority, nothing special.
    let file = world.kubeconfig();
    let entry = file.clusters.iter().find(|entry| entry.name == "timonel-a").unwrap().cluster.clone().unwrap();
    assert_eq!((entry.server.as_deref(), entry.tls_server_name), (Some(a.endpoint.as_str()), None));
    let namespaces: Api<Namespace> = Api::all(world.client("a").await);
    namespaces.create(&PostParams::default(), &namespace("only-in-a")).await.unwrap();
    let others: Api<Namespace> = Api::all(world.client("b").await);
    assert!(others.get_opt("only-in-a").await.unwrap().is_none());

    let world = world.restart(async {}).await;
    assert_eq!(world.ready("a").await.port, a.port);
    // The status is from before; the port is open when the cluster is.
    eventually("the endpoint after the restart", || async {
        let namespaces: Api<Namespace> = Api::all(world.client("a").await);
        namespaces.get("only-in-a").await.ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_another_program_has_costs_only_that_endpoint() {
    let world = World::start().await;
    let (a, b) = (world.create("a", ClusterSpec::default()).await, world.create("b", ClusterSpec::default()).await);
    let held = std::sync::OnceLock::new();
    let world = world
        .restart(async {
            let port = u16::try_from(a.port).unwrap();
            let listener =
                eventually("the port to be let go", || async { TcpListener::bind(("127.0.0.1", port)).await.ok() });
            held.set(listener.await).unwrap();
        })
        .await;
    let clusters = world.clusters();
    let condition = |wanted: &'static str| {
        let clusters = clusters.clone();
        move || {
            let clusters = clusters.clone();
            async move {
                let status = clusters.get("a").await.ok()?.status?;
                let found = status.conditions.iter().find(|c| c.type_ == "EndpointListening")?.clone();
                (found.status == wanted).then_some((status, found))
            }
        }
    };
    let (status, told) = eventually("the condition", condition("False")).await;
    assert_eq!((told.reason.as_str(), status.port), ("PortInUse", a.port));
    assert!(told.message.contains(&a.port.to_string()) && told.message.contains("in use"), "{}", told.message);
    assert_eq!(world.ready("b").await.endpoint, b.endpoint, "the other cluster is untouched");
    // The kubeconfig goes on working, by name on the shared port.
    let namespaces: Api<Namespace> = Api::all(world.client("a").await);
    namespaces.list(&ListParams::default()).await.unwrap();
    drop(held);
    world.patch("a", json!({"metadata": {"labels": {"look": "again"}}})).await;
    let (status, _) = eventually("the port to be taken back", condition("True")).await;
    assert_eq!(status.endpoint, a.endpoint);
    let namespaces: Api<Namespace> = Api::all(world.client("a").await);
    namespaces.list(&ListParams::default()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_can_be_asked_for_and_changed() {
    let world = World::start().await;
    let free = || async { TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port() };
    let (first, second) = (free().await, free().await);
    let control_plane = ControlPlane { port: first.into(), ..ControlPlane::default() };
    let status = world.create("a", ClusterSpec { control_plane, ..ClusterSpec::default() }).await;
    assert_eq!(status.port, i32::from(first));
    world.patch("a", json!({"spec": {"controlPlane": {"port": second}}})).await;
    let wanted = format!("https://127.0.0.1:{second}");
    eventually("the other port", || async {
        let status = world.clusters().get("a").await.ok()?.status?;
        (status.endpoint == wanted).then_some(())
    })
    .await;
    Api::<Namespace>::all(world.client("a").await).list(&ListParams::default()).await.unwrap();
    eventually("the first port to be free", || async { TcpListener::bind(("127.0.0.1", first)).await.ok() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn controllers_and_scheduler_can_be_left_out_and_put_back() {
    let world = World::start().await;
    let control_plane = ControlPlane { without_controllers: true, without_scheduler: true, port: 0 };
    world.create("a", ClusterSpec { control_plane, ..ClusterSpec::default() }).await;
    let client = world.client("a").await;
    Api::all(client.clone()).create(&PostParams::default(), &namespace("n")).await.unwrap();
    let accounts: Api<ServiceAccount> = Api::namespaced(client, "n");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(accounts.get_opt("default").await.unwrap().is_none(), "a controller ran");
    world.patch("a", json!({"spec": {"controlPlane": {"withoutControllers": false}}})).await;
    eventually("the controllers' work", || async { accounts.get_opt("default").await.ok().flatten() }).await;
    world.patch("a", json!({"spec": {"controlPlane": {"withoutControllers": true}}})).await;
    eventually("the controllers to end", || async {
        let name = format!("n{}", world.clusters().get("a").await.ok()?.metadata.resource_version?);
        Api::all(world.client("a").await).create(&PostParams::default(), &namespace(&name)).await.ok()?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let accounts: Api<ServiceAccount> = Api::namespaced(world.client("a").await, &name);
        world.patch("a", json!({"metadata": {"labels": {"look": name}}})).await;
        accounts.get_opt("default").await.ok()?.is_none().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_kubernetes_is_put_back() {
    let world = World::start().await;
    world.create("a", ClusterSpec::default()).await;
    let client = world.client("a").await;
    let services: Api<Service> = Api::namespaced(client.clone(), "default");
    let endpoints: Api<Endpoints> = Api::namespaced(client.clone(), "default");
    let slices: Api<EndpointSlice> = Api::namespaced(client, "default");
    let first = endpoints.get("kubernetes").await.unwrap();
    let old = services.get("kubernetes").await.unwrap();
    services.delete("kubernetes", &DeleteParams::default()).await.unwrap();
    let back = eventually("the Service", || async { services.get_opt("kubernetes").await.ok().flatten() }).await;
    assert_eq!(back.spec.unwrap().cluster_ip, old.spec.unwrap().cluster_ip);
    let mut wrong = endpoints.get("kubernetes").await.unwrap();
    wrong.subsets = None;
    endpoints.replace("kubernetes", &PostParams::default(), &wrong).await.unwrap();
    eventually("the endpoints", || async {
        let now = endpoints.get("kubernetes").await.ok()?;
        (now.subsets == first.subsets).then_some(())
    })
    .await;
    let _ = slices.delete("kubernetes", &DeleteParams::default()).await;
    eventually("the slice", || async { slices.get_opt("kubernetes").await.ok().flatten() }).await;
    // Repair does not feed itself.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let version = || async { endpoints.get("kubernetes").await.unwrap().metadata.resource_version };
    let before = version().await;
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert_eq!(version().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kubeconfig_comes_from_the_service_to_those_who_may() {
    let world = World::start().await;
    let status = world.create("a", ClusterSpec::default()).await;
    let fleet = world.fleet().await;
    let ask = |client: kube::Client, path: &'static str| async move {
        client.request_text(http::Request::get(path).body(Vec::new()).unwrap()).await
    };
    let yaml = ask(fleet.clone(), "/timonel/v1/kubeconfig/default/a").await.unwrap();
    let file = kube::config::Kubeconfig::from_yaml(&yaml).unwrap();
    assert_eq!(file.current_context.as_deref(), Some("timonel-a"));
    let config = kube::Config::from_custom_kubeconfig(file, &Default::default()).await.unwrap();
    assert_eq!(config.cluster_url, format!("{}/", status.endpoint).parse::<http::Uri>().unwrap());
    let namespaces: Api<Namespace> = Api::all(kube::Client::try_from(config).unwrap());
    namespaces.get("default").await.unwrap();
    let refused = |error: kube::Error| match error {
        kube::Error::Api(status) => status.code,
        error => panic!("{error}"),
    };
    let missing = ask(fleet, "/timonel/v1/kubeconfig/default/none").await.unwrap_err();
    assert_eq!(refused(missing), 404);
    // Without a certificate nobody is known; in a cluster the path is nothing special.
    let mut config = world.config("a").await;
    config.auth_info = Default::default();
    config.accept_invalid_certs = true;
    config.cluster_url = format!("https://{}", world.shared()).parse().unwrap();
    let nobody = kube::Client::try_from(config).unwrap();
    assert!([401, 403].contains(&refused(ask(nobody, "/timonel/v1/kubeconfig/default/a").await.unwrap_err())));
    let inside = world.client("a").await;
    assert_eq!(refused(ask(inside, "/timonel/v1/kubeconfig/default/a").await.unwrap_err()), 404);
}
