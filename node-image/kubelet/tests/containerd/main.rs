//! The agent with a real containerd, in namespaces of its own, against an API in memory.

mod fake_api;
mod world;

use fake_api::FakeApi;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use timonel_cri::cri::{self, runtime_service_client::RuntimeServiceClient};
use timonel_kubelet::{Kubelet, KubeletConfig};
use timonel_runtime::Tasks;
use world::{IMAGE, World};

const NODE: &str = "n1";

#[test]
fn pods_live_on_a_real_runtime() {
    world::inside("inner_pods");
}

fn agent(world: &World, api: &FakeApi) -> (Kubelet, Tasks) {
    let tasks = Tasks::root("test");
    let mut config = KubeletConfig::new(NODE, api.client(), &world.socket());
    config.root_dir = world.path("kubelet");
    config.pod_logs_dir = world.path("logs");
    config.cgroup_root.clone_from(&world.cgroup_root);
    config.volumes_dir = world.path("volumes");
    config.node_ips = vec!["10.99.0.1".into()];
    config.cluster_dns = vec!["10.96.0.10".into()];
    let kubelet = Kubelet::new(config, &tasks).expect("agent");
    kubelet.run();
    (kubelet, tasks)
}

fn pod(name: &str, spec: &Value) -> Value {
    let mut full = json!({"nodeName": NODE, "serviceAccountName": "default", "terminationGracePeriodSeconds": 1});
    full.as_object_mut().expect("map").extend(spec.as_object().expect("map").clone());
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default", "labels": {"app": name}},
        "spec": full, "status": {"phase": "Pending"}})
}

fn container(name: &str, script: &str) -> Value {
    json!({"name": name, "image": IMAGE, "imagePullPolicy": "IfNotPresent", "command": ["/bin/sh", "-c", script]})
}

fn with(mut base: Value, more: &Value) -> Value {
    base.as_object_mut().expect("map").extend(more.as_object().expect("map").clone());
    base
}

fn phase(pod: Option<&Value>) -> String {
    pod.and_then(|pod| pod["status"]["phase"].as_str()).unwrap_or("gone").to_owned()
}

async fn reaches(api: &FakeApi, name: &str, wanted: &str) -> Value {
    api.wait("pods", name, |pod| (phase(pod) == wanted).then(|| pod.cloned().unwrap_or_default())).await
}

fn condition(pod: &Value, kind: &str) -> bool {
    pod["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|one| one["type"] == kind && one["status"] == "True")
}

fn restarts(pod: &Value) -> u64 {
    pod["status"]["containerStatuses"][0]["restartCount"].as_u64().unwrap_or(0)
}

/// One answer of the kubelet API over a connection in memory.
async fn ask(kubelet: &Kubelet, method: &str, path: &str) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let (mut ours, theirs) = tokio::io::duplex(1 << 16);
    let api = kubelet.api();
    let request = format!("{method} {path} HTTP/1.1\r\nhost: n\r\nconnection: close\r\n\r\n");
    let talk = async {
        ours.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        ours.read_to_string(&mut answer).await.expect("read");
        answer
    };
    let (served, answer) = tokio::join!(api.serve(theirs), talk);
    served.expect("served");
    answer
}

/// What the runtime itself takes for sandbox, create and start, with the same network.
async fn raw_start(world: &World, number: u32) -> Duration {
    let channel = timonel_cri::connect(&world.socket()).await.expect("runtime");
    let mut runtime = RuntimeServiceClient::new(channel);
    let name = format!("raw-{number}");
    let sandbox = cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: name.clone(),
            uid: name.clone(),
            namespace: "raw".into(),
            attempt: 0,
        }),
        hostname: name.clone(),
        linux: Some(cri::LinuxPodSandboxConfig {
            cgroup_parent: format!("{}/raw", world.cgroup_root),
            ..Default::default()
        }),
        ..Default::default()
    };
    let config = cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name, attempt: 0 }),
        image: Some(cri::ImageSpec { image: IMAGE.into(), ..Default::default() }),
        command: ["/bin/sleep", "1000"].map(str::to_owned).into(),
        linux: Some(cri::LinuxContainerConfig::default()),
        ..Default::default()
    };
    let began = Instant::now();
    let made = cri::RunPodSandboxRequest { config: Some(sandbox.clone()), runtime_handler: String::new() };
    let id = runtime.run_pod_sandbox(made).await.expect("sandbox").into_inner().pod_sandbox_id;
    let create =
        cri::CreateContainerRequest { pod_sandbox_id: id.clone(), config: Some(config), sandbox_config: Some(sandbox) };
    let made = runtime.create_container(create).await.expect("container").into_inner().container_id;
    runtime.start_container(cri::StartContainerRequest { container_id: made }).await.expect("started");
    let took = began.elapsed();
    runtime.stop_pod_sandbox(cri::StopPodSandboxRequest { pod_sandbox_id: id.clone() }).await.expect("stopped");
    runtime.remove_pod_sandbox(cri::RemovePodSandboxRequest { pod_sandbox_id: id }).await.expect("removed");
    took
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "runs in namespaces that pods_live_on_a_real_runtime makes"]
async fn inner_pods() {
    let Some(mut world) = World::new() else {
        println!("skipped: not in namespaces of its own");
        return;
    };
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().init();
    let api = FakeApi::new();
    prepare(&api);
    let (kubelet, tasks) = agent(&world, &api);
    api.wait("nodes", NODE, |node| node.filter(|node| condition(node, "Ready")).map(|_| ())).await;

    start_times(&world, &api).await;
    features(&kubelet, &api).await;
    crashes(&api).await;
    jobs(&api).await;

    api.put("pods", pod("stays", &json!({"containers": [container("a", "echo hello; sleep 1000")]})));
    let before = reaches(&api, "stays", "Running").await;
    assert!(tasks.shutdown(Duration::from_secs(5)).await, "the agent stops in time");
    let (kubelet, tasks) = agent(&world, &api);
    api.put("pods", pod("after", &json!({"containers": [container("a", "sleep 1000")]})));
    reaches(&api, "after", "Running").await;
    let after = api.get("pods", "default", "stays").expect("pod");
    let id = |pod: &Value| pod["status"]["containerStatuses"][0]["containerID"].clone();
    assert_eq!((id(&after), restarts(&after)), (id(&before), 0), "a restart of the agent restarts nothing");

    world.kill_containerd();
    kubelet.check_node();
    api.wait("nodes", NODE, |node| node.filter(|node| !condition(node, "Ready")).map(|_| ())).await;
    world.start_containerd();
    api.wait("nodes", NODE, |node| node.filter(|node| condition(node, "Ready")).map(|_| ())).await;
    let answer = ask(&kubelet, "GET", "/containerLogs/default/stays/a").await;
    assert!(answer.ends_with("hello\n\r\n0\r\n\r\n"), "{answer}");
    assert_eq!(restarts(&api.get("pods", "default", "stays").expect("pod")), 0);

    for name in ["stays", "after"] {
        api.delete_pod("default", name, 1);
        api.wait("pods", name, |pod| pod.is_none().then_some(())).await;
    }
    let left: Vec<_> =
        std::fs::read_dir(world.path("kubelet/pods")).expect("folder").flatten().map(|one| one.path()).collect();
    assert!(left.is_empty(), "folders left: {left:?}");
    assert!(tasks.shutdown(Duration::from_secs(5)).await);
}

fn prepare(api: &FakeApi) {
    let named = |name: &str, more: Value| with(json!({"metadata": {"name": name, "namespace": "default"}}), &more);
    api.put(
        "services",
        named("kubernetes", json!({"spec": {"clusterIP": "10.96.0.1", "ports": [{"name": "https", "port": 443}]}})),
    );
    api.put("configmaps", named("settings", json!({"data": {"color": "red"}})));
    api.put("secrets", named("keys", json!({"data": {"key": "c2VjcmV0"}})));
}

async fn start_times(world: &World, api: &FakeApi) {
    let (mut raw, mut ours) = (Vec::new(), Vec::new());
    for number in 0..5 {
        raw.push(raw_start(world, number).await);
        let name = format!("timed-{number}");
        let began = Instant::now();
        api.put("pods", pod(&name, &json!({"containers": [container("a", "sleep 1000")]})));
        reaches(api, &name, "Running").await;
        ours.push(began.elapsed());
        api.delete_pod("default", &name, 0);
        api.wait("pods", &name, |pod| pod.is_none().then_some(())).await;
    }
    raw.sort();
    ours.sort();
    println!("median of 5: runtime alone {:?}, pod accepted to running {:?}", raw[2], ours[2]);
}

async fn features(kubelet: &Kubelet, api: &FakeApi) {
    let script = "cat /config/color /secret/key /all/token /all/name /scratch/sub/from-init; echo; echo $COLOR $IP $KUBERNETES_SERVICE_HOST; \
                  id -u; cat /etc/hosts; echo done > /dev/termination-log; sleep 1000";
    let main = with(
        container("main", script),
        &json!({
            "env": [
                {"name": "COLOR", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "color"}}},
                {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            ],
            "resources": {"limits": {"cpu": "500m", "memory": "64Mi"}},
            "securityContext": {"runAsUser": 1000, "runAsNonRoot": true, "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true},
            "readinessProbe": {"exec": {"command": ["/bin/cat", "/scratch/from-init"]}, "periodSeconds": 1},
            "volumeMounts": [
                {"name": "config", "mountPath": "/config"}, {"name": "secret", "mountPath": "/secret"},
                {"name": "all", "mountPath": "/all"}, {"name": "scratch", "mountPath": "/scratch/sub"},
                {"name": "scratch", "mountPath": "/scratch"},
            ],
        }),
    );
    let init = with(
        container("init", "echo from-init > /scratch/from-init"),
        &json!({"volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}]}),
    );
    let spec = json!({
        "initContainers": [init],
        "containers": [main],
        "securityContext": {"fsGroup": 2000},
        "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["alias"]}],
        "volumes": [
            {"name": "config", "configMap": {"name": "settings"}},
            {"name": "secret", "secret": {"secretName": "keys"}},
            {"name": "scratch", "emptyDir": {"medium": "Memory"}},
            {"name": "all", "projected": {"sources": [
                {"serviceAccountToken": {"path": "token"}},
                {"downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}},
            ]}},
        ],
    });
    api.put("pods", pod("full", &spec));
    let ready = api.wait("pods", "full", |pod| pod.filter(|pod| condition(pod, "Ready")).cloned()).await;
    let ip = ready["status"]["podIP"].as_str().expect("address").to_owned();
    assert_eq!(ready["status"]["qosClass"], "Burstable");
    let log = ask(kubelet, "GET", "/containerLogs/default/full/main").await;
    for part in ["redsecreta-tokenfullfrom-init", &format!("red {ip} 10.96.0.1"), "\n1000\n", "1.2.3.4\talias"] {
        assert!(log.contains(part), "{part:?} in {log}");
    }
    let ran = ask(kubelet, "POST", "/run/default/full/main?cmd=cat+/config/color").await;
    assert!(ran.ends_with("red"), "{ran}");
    let settings = json!({"metadata": {"name": "settings", "namespace": "default"}, "data": {"color": "blue"}});
    api.put("configmaps", settings);
    let changed = async {
        while !ask(kubelet, "POST", "/run/default/full/main?cmd=cat+/config/color").await.ends_with("blue") {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), changed).await.expect("the volume follows its config map");
    let summary = ask(kubelet, "GET", "/stats/summary").await;
    assert!(summary.contains("\"name\":\"main\""), "{summary}");
    api.delete_pod("default", "full", 1);
    api.wait("pods", "full", |pod| pod.is_none().then_some(())).await;
}

async fn crashes(api: &FakeApi) {
    let spec = json!({"containers": [container("a", "echo last words > /dev/termination-log; exit 3")]});
    api.put("pods", pod("crashes", &spec));
    let waits = |pod: Option<&Value>| {
        let one = &pod?["status"]["containerStatuses"][0];
        (one["state"]["waiting"]["reason"] == "CrashLoopBackOff").then(|| one.clone())
    };
    let one = api.wait("pods", "crashes", waits).await;
    let last = &one["lastState"]["terminated"];
    assert_eq!((last["exitCode"].as_i64(), last["message"].as_str()), (Some(3), Some("last words\n")));
    assert_eq!(one["restartCount"], 1);
    let missing = json!({"containers": [with(container("a", "true"), &json!({"envFrom": [{"configMapRef": {"name": "none"}}]}))]});
    api.put("pods", pod("missing", &missing));
    let configured = |pod: Option<&Value>| {
        let waiting = &pod?["status"]["containerStatuses"][0]["state"]["waiting"];
        (waiting["reason"] == "CreateContainerConfigError").then(|| waiting["message"].clone())
    };
    assert_eq!(api.wait("pods", "missing", configured).await, json!("configmap \"none\" not found"));
    for name in ["crashes", "missing"] {
        api.delete_pod("default", name, 0);
        api.wait("pods", name, |pod| pod.is_none().then_some(())).await;
    }
}

async fn jobs(api: &FakeApi) {
    let once = |code: &str| json!({"restartPolicy": "Never", "containers": [container("a", &format!("exit {code}"))]});
    for (name, code, wanted) in [("good", "0", "Succeeded"), ("bad", "7", "Failed")] {
        api.put("pods", pod(name, &once(code)));
        reaches(api, name, wanted).await;
        api.delete_pod("default", name, 0);
        api.wait("pods", name, |pod| pod.is_none().then_some(())).await;
    }
    let picky = json!({"nodeSelector": {"none": "such"}, "containers": [container("a", "true")]});
    api.put("pods", pod("picky", &picky));
    let refused = reaches(api, "picky", "Failed").await;
    assert_eq!(refused["status"]["reason"], "NodeAffinity");
    api.delete_pod("default", "picky", 0);
    api.wait("pods", "picky", |pod| pod.is_none().then_some(())).await;
}
