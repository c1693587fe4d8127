//! The local cloud with real namespaces, rules, processes and mounts. Skips without root.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

mod world;

use jiff::Timestamp;
use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use timonel_cloud_core::{
    BalancerPort, BalancerSpec, CloudError, HealthCheck, Instance, InstanceState, Instances, LoadBalancers, Machines,
    Owner, Protocol, Route, Routes, VolumeOrder, Volumes,
    testing::{self, run_suite},
};
use timonel_cloud_local::{LocalCloud, LocalConfig, LocalError, verify_identity};
use timonel_runtime::Clock;
use world::{World, eventually, inside, machine, order};

const IDLE: &str = "sleep 1000000";
const SECOND: Duration = Duration::from_secs(1);

fn shell(script: &str) -> String {
    let output = Command::new("sh").args(["-c", script]).output().expect("sh");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What is left on this machine of a cloud's names.
fn traces(name: &str) -> String {
    shell(&format!(
        "ip netns | grep '^tm-{name}-'; ls -d /sys/fs/cgroup/*/tm-{name} 2>/dev/null; ip link | grep 'tmh{name}:'; \
         nft list tables | grep 'tm_{name}$'; ip route | grep 'tmh{name}'"
    ))
}

#[tokio::test(flavor = "multi_thread")]
async fn passes_the_suite_and_leaves_no_trace() {
    let Some(mut world) = World::new(IDLE) else { return };
    let cloud = world.open().await;
    let suite = testing::World {
        cluster: "cluster-uid".to_owned(),
        fleet: "fleet-uid".to_owned(),
        pod_range: format!("10.222.{}.0/24", world.slot()).parse().unwrap(),
    };
    run_suite(&cloud, &suite).await;
    machine(&cloud, "left").await;
    cloud.close().await;
    assert_eq!(LocalCloud::place(&world.config.data).unwrap(), Some(world.config.place()));
    let other = LocalConfig { name: "other".to_owned(), ..world.config.clone() };
    let error = LocalCloud::destroy_all(&other).await.expect_err("another cloud's").to_string();
    assert!(error.contains(&format!("{:?}", world.config.name)), "{error}");
    LocalCloud::destroy_all(&world.config).await.unwrap();
    assert_eq!(LocalCloud::place(&world.config.data).unwrap(), None);
    assert_eq!(traces(&world.config.name), "");
    assert!(!shell("cat /proc/self/mounts").contains(world.config.data.to_str().unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_of_somebody_else_is_refused_and_left_alone() {
    let (Some(mut first), Some(mut second)) = (World::new(IDLE), World::new(IDLE)) else { return };
    let cloud = first.open().await;
    second.config.machine_range = first.config.machine_range;
    let error = second.try_open().await.expect_err("the range is taken").to_string();
    assert!(error.contains("in use") && error.contains(&first.config.machine_range.to_string()), "{error}");
    let data = std::mem::replace(&mut second.config.data, first.config.data.clone());
    let error = second.try_open().await.expect_err("the data is in use");
    assert!(matches!(error, LocalError::InUse(_)), "{error}");
    second.config.data = data;
    second.config.machine_range = "10.223.0.0/24".parse().unwrap();
    drop(second);
    assert!(shell("ip route").contains(&format!("{} via", first.config.machine_range)));
    machine(&cloud, "works").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn boots_in_a_world_of_its_own_and_outlives_the_server() {
    let probe = "hostname > {dir}/root/name; cat /proc/self/cgroup > {dir}/root/cgroup; echo $PPID > {dir}/root/parent; \
                 mkdir /run/netns; echo hello from {name}; exec sleep 1000000";
    let Some(mut world) = World::new(probe) else { return };
    let clock = Clock::system();
    let cloud = world.open().await;
    let begun: Timestamp = clock.now();
    let first = machine(&cloud, "first").await;
    eprintln!("booted in {:#}", clock.now().duration_since(begun));
    let dir = cloud.machine_dir(&first.id);
    let read = |name: &str| fs::read_to_string(dir.join("root").join(name)).unwrap_or_default();
    let console = || fs::read_to_string(cloud.console(&first.id)).unwrap_or_default();
    eventually("the program runs", async || console().contains("hello from first")).await;
    assert_eq!(read("name").trim(), "first");
    assert_eq!(read("parent").trim(), "1", "its processes are numbered apart");
    assert!(read("cgroup").lines().all(|line| line.ends_with(":/") || line.ends_with(":/init")), "{}", read("cgroup"));
    assert!(dir.join("run/netns").exists(), "its /run is private");

    cloud.close().await;
    let cloud = world.open().await;
    let again = cloud.observe("cluster-uid").await.unwrap();
    assert_eq!(again, std::slice::from_ref(&first), "taken up as it was");
    cloud.stop(&first.id).await.unwrap();
    cloud.close().await;
    let cloud = world.open().await;
    assert_eq!(cloud.observe("cluster-uid").await.unwrap()[0].state, InstanceState::Stopped, "off stays off");
    cloud.start(&first.id).await.unwrap();
    cloud.close().await;
    LocalCloud::down(&world.config).await.unwrap();
    assert_eq!(traces(&world.config.name), "");
    let cloud = world.open().await;
    assert_eq!(cloud.observe("cluster-uid").await.unwrap(), [first], "it boots again after everything went down");
}

fn http(to: SocketAddr, request: &str) -> String {
    let mut answer = String::new();
    if let Ok(mut stream) = TcpStream::connect_timeout(&to, SECOND) {
        stream.set_read_timeout(Some(SECOND)).unwrap();
        let _ = stream.write_all(request.as_bytes());
        let _ = stream.read_to_string(&mut answer);
    }
    answer
}

fn metadata(method: &str, path: &str, header: &str) -> (String, String) {
    let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{header}\r\n");
    let answer = http(SocketAddr::from((Ipv4Addr::new(169, 254, 169, 254), 80)), &request);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    (head.split(' ').nth(1).unwrap_or_default().to_owned(), body.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_by_http_from_inside() {
    let Some(mut world) = World::new(IDLE) else { return };
    let cloud = world.open().await;
    let (first, second) = (machine(&cloud, "first").await, machine(&cloud, "second").await);
    let key = cloud.identity_public_key();
    let id = first.id.0.clone();
    let token = inside(&cloud.machine_namespace(&first.id), move || {
        let (status, token) = metadata("PUT", "/latest/api/token", "X-aws-ec2-metadata-token-ttl-seconds: 60\r\n");
        assert_eq!(status, "200");
        let header = format!("X-aws-ec2-metadata-token: {token}\r\n");
        let get = |path: &str| metadata("GET", path, &header);
        assert_eq!(metadata("GET", "/latest/meta-data/instance-id", "").0, "401");
        assert_eq!(
            metadata("GET", "/latest/meta-data/instance-id", &format!("{header}X-Forwarded-For: 1\r\n")).0,
            "403"
        );
        assert_eq!(get("/latest/meta-data/instance-id"), ("200".to_owned(), id.clone()));
        assert_eq!(get("/latest/user-data").1, "#user-data");
        assert_eq!(get("/latest/meta-data/tags/instance/Name").1, "first");
        let mac = fs::read_to_string("/proc/net/arp").is_ok().then(|| get("/latest/meta-data/mac").1).unwrap();
        assert_eq!(mac.len(), 17);
        let (document, signature) =
            (get("/latest/dynamic/instance-identity/document").1, get("/latest/dynamic/instance-identity/signature").1);
        assert_eq!(verify_identity(&document, &signature, &key).unwrap().instance_id, id);
        header
    })
    .join()
    .unwrap();
    let stolen = inside(&cloud.machine_namespace(&second.id), move || {
        metadata("GET", "/latest/meta-data/instance-id", &token).0
    });
    assert_eq!(stolen.join().unwrap(), "401", "a token is good for its machine only");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_is_a_hop_too_far_for_metadata_and_reaches_host_and_pods() {
    let Some(mut world) = World::new(IDLE) else { return };
    let cloud = world.open().await;
    let (first, second) = (machine(&cloud, "first").await, machine(&cloud, "second").await);
    let slot = world.slot();
    for (n, instance) in [(0, &first), (1, &second)] {
        let namespace = cloud.machine_namespace(&instance.id);
        let destination = format!("10.222.{slot}.{}/25", n * 128).parse().unwrap();
        cloud.ensure_route("cluster-uid", &Route { instance: instance.id.clone(), destination }).await.unwrap();
        let made = shell(&format!(
            "ip netns add tm-tst{slot}-pod{n} && ip -n {namespace} link add pod0 type veth peer name eth0 netns tm-tst{slot}-pod{n} && \
             ip -n {namespace} addr add 10.222.{slot}.{gw}/25 dev pod0 && ip -n {namespace} link set pod0 up && \
             ip -n tm-tst{slot}-pod{n} addr add 10.222.{slot}.{ip}/25 dev eth0 && ip -n tm-tst{slot}-pod{n} link set eth0 up && \
             ip -n tm-tst{slot}-pod{n} link set lo up && ip -n tm-tst{slot}-pod{n} route add default via 10.222.{slot}.{gw} && echo ok",
            gw = n * 128 + 1,
            ip = n * 128 + 2,
        ));
        assert_eq!(made, "ok\n");
    }
    let other = Ipv4Addr::new(10, 222, slot, 130);
    let listener = inside(&format!("tm-tst{slot}-pod1"), move || TcpListener::bind((other, 8080)).unwrap());
    let _listener = listener.join().unwrap();
    let host = TcpListener::bind((cloud.host_address(), 0)).unwrap();
    let server = host.local_addr().unwrap();
    let answers = inside(&format!("tm-tst{slot}-pod0"), move || {
        let reached = |to: SocketAddr| TcpStream::connect_timeout(&to, SECOND).is_ok();
        let token = metadata("PUT", "/latest/api/token", "X-aws-ec2-metadata-token-ttl-seconds: 60\r\n").0;
        (reached(SocketAddr::from((other, 8080))), reached(server), token)
    });
    assert_eq!(answers.join().unwrap(), (true, true, String::new()));
}

/// A listener inside a machine that answers with its name until told to stop.
struct Listener(Arc<AtomicBool>);

impl Listener {
    fn start(cloud: &LocalCloud, instance: &Instance, port: u16, answer: &str) -> Self {
        let (stop, answer) = (Arc::new(AtomicBool::new(false)), answer.to_owned());
        let (flag, name) = (Arc::clone(&stop), instance.name.clone());
        let (sent, ready) = std::sync::mpsc::sync_channel(1);
        drop(inside(&cloud.machine_namespace(&instance.id), move || {
            let listener = TcpListener::bind(("0.0.0.0", port)).unwrap();
            let datagrams = UdpSocket::bind(("0.0.0.0", port)).unwrap();
            listener.set_nonblocking(true).unwrap();
            datagrams.set_read_timeout(Some(Duration::from_millis(2))).unwrap();
            sent.send(()).unwrap();
            let mut buffer = [0; 64];
            while !flag.load(Ordering::Relaxed) {
                if let Ok((mut stream, peer)) = listener.accept() {
                    stream.set_nonblocking(false).unwrap();
                    stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
                    let _ = stream.read(&mut buffer);
                    let _ = stream.write_all(format!("{answer}{name} {}", peer.ip()).as_bytes());
                }
                if let Ok((_, peer)) = datagrams.recv_from(&mut buffer) {
                    let _ = datagrams.send_to(name.as_bytes(), peer);
                }
            }
        }));
        ready.recv().unwrap();
        Self(stop)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn balancer(targets: &[&Instance], health: HealthCheck) -> BalancerSpec {
    let port = |protocol, port, node_port| BalancerPort { protocol, port, node_port };
    BalancerSpec {
        owner: Owner::new("cluster-uid", "service-uid"),
        name: "ns/web".to_owned(),
        ports: vec![port(Protocol::Tcp, 80, 30_080), port(Protocol::Udp, 53, 30_080)],
        targets: targets.iter().map(|i| i.id.clone()).collect(),
        source_ranges: [].into(),
        health,
        fail_open: false,
        address: None,
    }
}

/// Who answers, of so many tries; `""` for nobody.
fn answers(to: SocketAddr, tries: usize) -> std::collections::BTreeSet<String> {
    (0..tries).map(|_| http(to, "x")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_balancer_forwards_and_drops_the_dead() {
    let Some(mut world) = World::new(IDLE) else { return };
    let cloud = world.open().await;
    let clock = Clock::system();
    let (first, second) = (machine(&cloud, "first").await, machine(&cloud, "second").await);
    let mut listeners = vec![Listener::start(&cloud, &first, 30_080, ""), Listener::start(&cloud, &second, 30_080, "")];
    let spec = balancer(&[&first, &second], HealthCheck::Tcp { port: 30_080 });
    let made = cloud.ensure_balancer(&spec).await.unwrap();
    let address = made.addresses[0];
    let web = SocketAddr::from((address, 80));
    let host = cloud.host_address();
    eventually("both answer", async || answers(web, 12).len() == 2).await;
    assert_eq!(
        answers(web, 24),
        [format!("first {host}"), format!("second {host}")].into(),
        "the source address stays"
    );
    assert_eq!(answers(SocketAddr::from((address, 81)), 1), [String::new()].into(), "no such port");

    // A datagram socket that talked to a target which dies must find the other.
    let socket = UdpSocket::bind((host, 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let ask = || {
        let mut buffer = [0; 64];
        socket.send_to(b"x", (address, 53)).unwrap();
        socket.recv(&mut buffer).map(|n| String::from_utf8_lossy(&buffer[..n]).into_owned()).unwrap_or_default()
    };
    let held = ask();
    assert!(["first", "second"].contains(&held.as_str()), "{held}");

    // Hairpin: a machine is its own load balancer's client.
    let inner = inside(&cloud.machine_namespace(&first.id), move || answers(web, 12));
    assert!(!inner.join().unwrap().contains(""), "replies return by the way they came");

    drop(listeners.remove(usize::from(held == "second")));
    let died = clock.now();
    eventually("the dead is out", async || !answers(web, 12).iter().any(|a| a.is_empty() || a.starts_with(&held)))
        .await;
    eprintln!("out after {:#}", clock.now().duration_since(died));
    eventually("datagrams find the living", async || {
        let other = ask();
        !other.is_empty() && other != held
    })
    .await;

    let living = if held == "first" { &second } else { &first };
    assert_eq!(cloud.balancers("cluster-uid").await.unwrap()[0].healthy, [living.id.clone()].into());
    cloud.stop(&living.id).await.unwrap();
    assert_eq!(answers(web, 1), [String::new()].into(), "nobody is left");
    cloud.delete_balancer(&spec.owner).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn source_ranges_and_answers_of_health_checks() {
    let Some(mut world) = World::new(IDLE) else { return };
    let cloud = world.open().await;
    let (first, second) = (machine(&cloud, "first").await, machine(&cloud, "second").await);
    let _serving = [Listener::start(&cloud, &first, 30_080, ""), Listener::start(&cloud, &second, 30_080, "")];
    let mut health = vec![
        Listener::start(&cloud, &first, 31_000, "HTTP/1.1 200 OK\r\n\r\n"),
        Listener::start(&cloud, &second, 31_000, "HTTP/1.1 503 No endpoints\r\n\r\n"),
    ];
    let mut spec = balancer(&[&first, &second], HealthCheck::Http { port: 31_000, path: "/healthz".to_owned() });
    let web = SocketAddr::from((cloud.ensure_balancer(&spec).await.unwrap().addresses[0], 80));
    let host = cloud.host_address();
    eventually("the one with endpoints answers", async || answers(web, 4) == [format!("first {host}")].into()).await;

    spec.source_ranges = ["192.0.2.0/24".parse().unwrap()].into();
    cloud.ensure_balancer(&spec).await.unwrap();
    assert_eq!(answers(web, 1), [String::new()].into(), "the host is not in the range");
    spec.source_ranges.insert(format!("{host}/32").parse().unwrap());
    cloud.ensure_balancer(&spec).await.unwrap();
    assert_eq!(answers(web, 4), [format!("first {host}")].into());
    let inner = inside(&cloud.machine_namespace(&second.id), move || answers(web, 1));
    assert_eq!(inner.join().unwrap(), [String::new()].into(), "a machine is not in the range");

    cloud.close().await;
    let cloud = world.open().await;
    assert_eq!(answers(web, 4), [format!("first {host}")].into(), "it serves on through a restart");
    assert_eq!(cloud.balancers("cluster-uid").await.unwrap()[0].spec, spec);

    let healthy = async || cloud.balancers("cluster-uid").await.unwrap()[0].healthy.clone();
    drop(health.remove(0));
    eventually("nobody is healthy", async || healthy().await.is_empty()).await;
    assert_eq!(answers(web, 4), [format!("first {host}")].into(), "whoever answers checks is away: it serves on");
    health.push(Listener::start(&cloud, &first, 31_000, "HTTP/1.1 503 No endpoints\r\n\r\n"));
    eventually("it says that it cannot", async || answers(web, 1) == [String::new()].into()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_appear_in_the_machine_and_stay_while_used() {
    let using = "while [ ! -e {dir}/root/go ]; do sleep 0.01; done; vol=$(ls {dir}/volumes); \
                 mkdir {dir}/root/use; mount --bind {dir}/volumes/$vol {dir}/root/use; echo precious > {dir}/root/use/row; \
                 touch {dir}/root/used; while [ ! -e {dir}/root/stop ]; do sleep 0.01; done; \
                 umount {dir}/root/use; touch {dir}/root/unused; sleep 1000000";
    let Some(mut world) = World::new(using) else { return };
    let cloud = world.open().await;
    let first = machine(&cloud, "first").await;
    let root = cloud.machine_dir(&first.id).join("root");
    let order = VolumeOrder {
        owner: Owner::new("cluster-uid", "claim"),
        name: "pvc".to_owned(),
        bytes: 1 << 20,
        zone: String::new(),
        parameters: [].into(),
    };
    let volume = cloud.create_volume(&order).await.unwrap();
    let device = cloud.attach_volume(&volume.id, &first.id).await.unwrap();
    fs::write(root.join("go"), "").unwrap();
    eventually("the machine uses it", async || root.join("used").exists()).await;
    assert_eq!(fs::read_to_string(Path::new(&device).join("row")).unwrap(), "precious\n");
    let refused = cloud.detach_volume(&volume.id, &first.id).await;
    assert!(matches!(refused, Err(CloudError::Conflict(_))), "{refused:?}");
    fs::write(root.join("stop"), "").unwrap();
    eventually("the machine lets go", async || root.join("unused").exists()).await;
    cloud.detach_volume(&volume.id, &first.id).await.unwrap();
    assert!(!Path::new(&device).exists());

    // Attached to a machine that is removed, the data stays.
    cloud.attach_volume(&volume.id, &first.id).await.unwrap();
    cloud.delete(&first.id).await.unwrap();
    assert_eq!(cloud.volumes("cluster-uid").await.unwrap()[0].attachment, None);
    let second = machine(&cloud, "second").await;
    let device = cloud.attach_volume(&volume.id, &second.id).await.unwrap();
    assert_eq!(fs::read_to_string(Path::new(&device).join("row")).unwrap(), "precious\n");
}

const CRASH: &str = "TIMONEL_TEST_CRASH";

/// Not a test of its own: the server that the next test kills.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_to_be_killed() {
    let Ok(data) = std::env::var(CRASH) else { return };
    let Some(mut world) = World::new(IDLE) else { return };
    let [wait, slot, data] = data.splitn(3, ' ').collect::<Vec<_>>().try_into().unwrap();
    world.config.name = format!("tst{slot}");
    world.config.data = data.into();
    world.config.public_range = format!("172.29.{slot}.0/24").parse().unwrap();
    world.config.machine_range = format!("10.221.{slot}.0/24").parse().unwrap();
    let cloud = world.open().await;
    fs::write(world.config.data.join("opened"), "").unwrap();
    for n in 0..100 {
        machine(&cloud, &format!("m{wait}-{n}")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_it_makes_machines_nothing_is_lost() {
    let Some(mut world) = World::new(IDLE) else { return };
    let (slot, name) = (world.slot(), world.config.name.clone());
    for wait in [5, 60, 140] {
        let mut server = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_server_to_be_killed"])
            .env(CRASH, format!("{wait} {slot} {}", world.config.data.display()))
            .spawn()
            .unwrap();
        let opened = world.config.data.join("opened");
        eventually("the server opens", async || opened.exists()).await;
        tokio::time::sleep(Duration::from_millis(wait)).await;
        server.kill().unwrap();
        server.wait().unwrap();
        fs::remove_file(&opened).unwrap();
        let cloud = world.open().await;
        let mut listed = cloud.observe("cluster-uid").await.unwrap();
        listed.retain(|instance| instance.state != InstanceState::Gone);
        assert!(listed.iter().all(|i| i.state == InstanceState::Running), "{listed:?}");
        let ids: std::collections::BTreeSet<String> = listed.iter().map(|i| i.id.0.clone()).collect();
        let made = shell(&format!("ip netns | sed -n 's/^tm-{name}-\\(i-[0-9a-f]*\\).*/\\1/p'"));
        assert_eq!(made.lines().map(str::to_owned).collect::<std::collections::BTreeSet<_>>(), ids);
        let groups = shell(&format!("ls -d /sys/fs/cgroup/pids/tm-{name}/i-* 2>/dev/null | sed 's#.*/##'"));
        assert!(groups.lines().all(|id| ids.contains(id)), "{groups}");
        // The same order again is the same machine.
        if let Some(have) = listed.iter().find(|i| i.name == format!("m{wait}-0")) {
            assert_eq!(cloud.create(&order(&have.name)).await.unwrap().id, have.id);
        }
        for instance in listed {
            cloud.delete(&instance.id).await.unwrap();
        }
        cloud.close().await;
    }
}
