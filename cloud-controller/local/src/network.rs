//! The virtual network: an edge and a router as network namespaces, machines as hosts behind the router.
//!
//! Machines have /32 addresses on links of their own and the router checks reverse paths, so that no machine can speak
//! with another's address. Everything is made idempotently: after a crash, making it again completes it.

use crate::{
    command::{ip, nft, run},
    config::{LocalConfig, namespace_path},
    error::LocalError,
    namespace::sysctl,
    records::MachineRecord,
    rules,
};
use ipnet::IpNet;
use sha2::{Digest, Sha256};
use std::{fs, net::Ipv4Addr, path::PathBuf};
use timonel_cloud_core::InstanceId;

/// Where machines find the metadata service.
pub(crate) const METADATA_ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

/// Interface of a machine's link on the router's side.
fn router_interface(machine: &MachineRecord) -> String {
    format!("m{}", machine.id.0.trim_start_matches("i-"))
}

async fn add_namespace(name: &str) -> Result<(), LocalError> {
    if namespace_path(name).exists() {
        return Ok(());
    }
    run(&["ip", "netns", "add", name], "").await.map(drop)
}

async fn has_interface(namespace: &str, interface: &str) -> bool {
    run(&["ip", "-n", namespace, "link", "show", interface], "").await.is_ok()
}

/// Refuses ranges that somebody else's routes on this host lead to.
pub(crate) async fn check_ranges(config: &LocalConfig) -> Result<(), LocalError> {
    let ours = format!("dev {} ", config.host_interface());
    for range in [config.public_range.trunc(), config.machine_range.trunc()] {
        let routes = run(&["ip", "-4", "route", "show", "root", &range.to_string()], "").await?;
        if let Some(taken) = routes.lines().find(|line| !format!("{line} ").contains(&ours)) {
            return Err(LocalError::Config(format!(
                "the range {range} is in use on this machine ({}): configure another",
                taken.trim()
            )));
        }
    }
    Ok(())
}

/// Makes edge and router, as far as they are not there.
pub(crate) async fn ensure(config: &LocalConfig) -> Result<(), LocalError> {
    let (edge, router) = (config.edge(), config.router());
    add_namespace(&edge).await?;
    add_namespace(&router).await?;
    let host = config.host_interface();
    if !has_interface(&edge, "host0").await {
        ip(None, &format!("link add {host} type veth peer name host0 netns {edge}\n")).await?;
    }
    if !has_interface(&edge, "inner0").await {
        ip(None, &format!("link add inner0 netns {edge} type veth peer name edge0 netns {router}\n")).await?;
    }
    let (public, machines) = (config.public_range.trunc(), config.machine_range.trunc());
    let (host_address, outer, inner, gateway) =
        (config.host_address(), config.edge_address(), config.edge_inner_address(), config.gateway());
    ip(
        None,
        &format!(
            "address replace {host_address}/32 dev {host}\nlink set {host} up\nroute replace {outer}/32 dev {host}\n\
             route replace {public} via {outer} dev {host} onlink\n\
             route replace {machines} via {outer} dev {host} onlink\n"
        ),
    )
    .await?;
    ip(
        Some(&edge),
        &format!(
            "link set lo up\naddress replace {outer}/32 dev host0\nlink set host0 up\n\
             route replace {host_address}/32 dev host0\nroute replace default via {host_address} dev host0 onlink\n\
             address replace {inner}/32 dev inner0\nlink set inner0 up\nroute replace {gateway}/32 dev inner0\n\
             route replace {machines} via {gateway} dev inner0 onlink\nroute replace unreachable {public}\n"
        ),
    )
    .await?;
    ip(
        Some(&router),
        &format!(
            "link set lo up\naddress replace {METADATA_ADDRESS}/32 dev lo\naddress replace {gateway}/32 dev edge0\n\
             link set edge0 up\nroute replace {inner}/32 dev edge0\n\
             route replace default via {inner} dev edge0 onlink\nroute replace unreachable {machines}\n"
        ),
    )
    .await?;
    sysctl(&edge, &[("ipv4/ip_forward", "1"), ("ipv4/conf/all/rp_filter", "0")])?;
    sysctl(&router, &[("ipv4/ip_forward", "1"), ("ipv4/conf/all/rp_filter", "1")])?;
    nft(Some(&edge), &rules::edge_skeleton(config.machine_range)).await?;
    if config.egress { egress(config).await } else { Ok(()) }
}

/// Makes a machine's namespace and link.
pub(crate) async fn plug(config: &LocalConfig, machine: &MachineRecord) -> Result<(), LocalError> {
    let (namespace, router) = (config.machine_namespace(&machine.id), config.router());
    let (link, gateway, address) = (router_interface(machine), config.gateway(), machine.address);
    let mac = mac(&machine.id);
    add_namespace(&namespace).await?;
    if !has_interface(&namespace, "eth0").await {
        ip(None, &format!("link add {link} netns {router} type veth peer name eth0 netns {namespace}\n")).await?;
    }
    ip(
        Some(&router),
        &format!(
            "address replace {gateway}/32 dev {link}\nlink set {link} up\nroute replace {address}/32 dev {link}\n"
        ),
    )
    .await?;
    ip(
        Some(&namespace),
        &format!(
            "link set lo up\nlink set eth0 address {mac}\naddress replace {address}/32 dev eth0\n\
             link set eth0 up\nroute replace {gateway}/32 dev eth0\nroute replace default via {gateway} dev eth0 onlink\n"
        ),
    )
    .await?;
    sysctl(&router, &[(&format!("ipv4/conf/{link}/rp_filter"), "1")])?;
    sysctl(&namespace, &[("ipv4/ip_forward", "1")])
}

/// Removes a machine's namespace; its link and the routes through it go with it.
pub(crate) async fn unplug(config: &LocalConfig, machine: &MachineRecord) -> Result<(), LocalError> {
    let (namespace, link) = (config.machine_namespace(&machine.id), router_interface(machine));
    if has_interface(&config.router(), &link).await {
        // A namespace that a process keeps open outlives its name: the link must not.
        ip(Some(&config.router()), &format!("link del {link}\n")).await?;
    }
    if namespace_path(&namespace).exists() {
        run(&["ip", "netns", "del", &namespace], "").await?;
    }
    Ok(())
}

/// The MAC address of a machine's interface: locally administered, and the same at every boot.
pub(crate) fn mac(id: &InstanceId) -> String {
    let digest = Sha256::digest(id.0.as_bytes());
    let octets: Vec<String> = digest[..5].iter().map(|octet| format!("{octet:02x}")).collect();
    format!("02:{}", octets.join(":"))
}

/// Leads a pod range to a machine.
pub(crate) async fn add_route(config: &LocalConfig, to: IpNet, machine: &MachineRecord) -> Result<(), LocalError> {
    let (link, address, gateway) = (router_interface(machine), machine.address, config.gateway());
    ip(Some(&config.router()), &format!("route replace {to} via {address} dev {link} onlink\n")).await?;
    ip(Some(&config.edge()), &format!("route replace {to} via {gateway} dev inner0 onlink\n")).await
}

/// Forgets a pod range.
pub(crate) async fn remove_route(config: &LocalConfig, to: IpNet) -> Result<(), LocalError> {
    let to = to.to_string();
    for namespace in [config.router(), config.edge()] {
        let found = run(&["ip", "-n", &namespace, "route", "show", "exact", &to], "").await?;
        if !found.trim().is_empty() {
            run(&["ip", "-n", &namespace, "route", "del", &to], "").await?;
        }
    }
    Ok(())
}

/// Where the host's forwarding, as it was before, is remembered.
fn forwarding_memo(config: &LocalConfig) -> PathBuf {
    config.state_dir().join("host-forwarding")
}

/// Lets machines reach what the host reaches, if the host has a default route. Nobody outside gets in.
async fn egress(config: &LocalConfig) -> Result<(), LocalError> {
    let routes = run(&["ip", "route", "show", "default"], "").await?;
    let Some(device) = routes.split_whitespace().skip_while(|word| *word != "dev").nth(1) else { return Ok(()) };
    let switch = PathBuf::from(format!("/proc/sys/net/ipv4/conf/{device}/forwarding"));
    let was = fs::read_to_string(&switch).map_err(LocalError::io("reading a kernel parameter", &switch))?;
    let memo = forwarding_memo(config);
    if !memo.exists() {
        fs::write(&memo, format!("{device} {}", was.trim())).map_err(LocalError::io("writing a record", &memo))?;
    }
    nft(None, &rules::host_table(config, device)).await?;
    for interface in [device, &config.host_interface()] {
        let path = format!("/proc/sys/net/ipv4/conf/{interface}/forwarding");
        fs::write(&path, "1").map_err(LocalError::io("setting a kernel parameter", &path))?;
    }
    Ok(())
}

/// Takes back everything that this cloud did to the network, found by its names, whatever the records say.
pub(crate) async fn remove_all(config: &LocalConfig) -> Result<(), LocalError> {
    let prefix = config.namespace_prefix();
    for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(&prefix) {
            run(&["ip", "netns", "del", &name], "").await?;
        }
    }
    let host = config.host_interface();
    if fs::exists(format!("/sys/class/net/{host}")).unwrap_or(false) {
        // It goes with the edge, a moment later; whoever is first is right.
        let _ = run(&["ip", "link", "del", &host], "").await;
    }
    let memo = forwarding_memo(config);
    let Ok(text) = fs::read_to_string(&memo) else { return Ok(()) };
    let table = config.host_table();
    nft(None, &format!("table ip {table} {{ }}\ndelete table ip {table}\n")).await?;
    let others = run(&["nft", "list", "tables"], "").await?.lines().any(|line| line.starts_with("table ip tm_"));
    if let (Some((device, "0")), false) = (text.trim().split_once(' '), others) {
        let path = format!("/proc/sys/net/ipv4/conf/{device}/forwarding");
        fs::write(&path, "0").map_err(LocalError::io("setting a kernel parameter", &path))?;
    }
    fs::remove_file(&memo).map_err(LocalError::io("removing a record", memo))
}
