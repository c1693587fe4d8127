//! Files that the agent writes for pods: `/etc/hosts`, the resolver's settings, and the content of configuration
//! volumes (config maps, secrets, downward API).

use super::env::{EnvError, Facts, downward_field, downward_resource};
use super::model::container_named;
use k8s_openapi::api::core::v1::{ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, Secret};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use timonel_cri::cri::DnsConfig;

/// Most search domains and their length, as the C library and the API accept.
const MOST_SEARCHES: usize = 32;
const MOST_SERVERS: usize = 3;

/// One file of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) bytes: Vec<u8>,
    pub(crate) mode: u32,
    /// User that it belongs to; root when not given.
    pub(crate) owner: Option<u32>,
}

/// Files by path below the volume.
pub(crate) type Payload = BTreeMap<String, File>;

/// The hosts file of a pod with its own network.
pub(crate) fn hosts(pod: &Pod, ips: &[String], domain: &str) -> String {
    let mut out = String::from("# Kubernetes-managed hosts file.\n");
    out.push_str("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\n");
    out.push_str("fe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n");
    let host = hostname(pod);
    let full = full_name(pod, domain);
    for ip in ips {
        let _ = match &full {
            Some(full) => writeln!(out, "{ip}\t{full}\t{host}"),
            None => writeln!(out, "{ip}\t{host}"),
        };
    }
    out.push_str(&aliases(pod));
    out
}

/// The hosts file of a pod on the node's network: the node's own, with the pod's aliases.
pub(crate) fn host_network_hosts(pod: &Pod, node_hosts: &str) -> String {
    format!("# Kubernetes-managed hosts file (host network).\n{node_hosts}{}", aliases(pod))
}

fn aliases(pod: &Pod) -> String {
    let list = pod.spec.iter().flat_map(|spec| spec.host_aliases.iter().flatten());
    let mut out = String::new();
    for alias in list {
        if out.is_empty() {
            out.push_str("\n# Entries added by HostAliases.\n");
        }
        let _ = writeln!(out, "{}\t{}", alias.ip, alias.hostnames.clone().unwrap_or_default().join("\t"));
    }
    out
}

/// Longest host name that Linux takes.
const LONGEST_HOSTNAME: usize = 63;

/// The pod's host name: its own choice, or its name cut to what fits.
pub(crate) fn hostname(pod: &Pod) -> String {
    let spec = pod.spec.as_ref();
    if let Some(own) = spec.and_then(|spec| spec.hostname_override.clone()).filter(|name| !name.is_empty()) {
        return own;
    }
    let chosen = spec.and_then(|spec| spec.hostname.clone()).filter(|name| !name.is_empty());
    let name = chosen.or_else(|| pod.metadata.name.clone()).unwrap_or_default();
    let cut: String = name.chars().take(LONGEST_HOSTNAME).collect();
    cut.trim_end_matches(['-', '.']).to_owned()
}

fn full_name(pod: &Pod, domain: &str) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    if spec.hostname_override.is_some() {
        return None;
    }
    let subdomain = spec.subdomain.as_deref().filter(|name| !name.is_empty())?;
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    Some(format!("{}.{subdomain}.{namespace}.svc.{domain}", hostname(pod)))
}

/// The host name that the sandbox gets: the full name when the pod asks for it, none on the node's own network.
pub(crate) fn sandbox_hostname(pod: &Pod, domain: &str) -> String {
    let spec = pod.spec.as_ref();
    if spec.and_then(|spec| spec.host_network).unwrap_or(false) && spec.is_some_and(|s| s.hostname_override.is_none()) {
        return String::new();
    }
    let full = spec.and_then(|spec| spec.set_hostname_as_fqdn).unwrap_or(false);
    if full { full_name(pod, domain).unwrap_or_else(|| hostname(pod)) } else { hostname(pod) }
}

/// A parsed `resolv.conf`.
pub(crate) fn parse_resolver(text: &str) -> DnsConfig {
    let mut config = DnsConfig::default();
    for line in text.lines() {
        let mut words = line.split(['#', ';']).next().unwrap_or_default().split_whitespace();
        match words.next() {
            Some("nameserver") => config.servers.extend(words.next().map(str::to_owned)),
            Some("search") => config.searches = words.filter(|word| *word != ".").map(str::to_owned).collect(),
            Some("options") => config.options = words.map(str::to_owned).collect(),
            _ => {}
        }
    }
    config
}

/// The resolver's settings for a pod by its DNS policy.
pub(crate) fn resolver(pod: &Pod, cluster_dns: &[String], domain: &str, host: &DnsConfig) -> DnsConfig {
    let spec = pod.spec.as_ref();
    let policy = spec.and_then(|spec| spec.dns_policy.as_deref()).unwrap_or("ClusterFirst");
    let host_network = spec.and_then(|spec| spec.host_network).unwrap_or(false);
    let cluster = match policy {
        "ClusterFirst" => !host_network,
        "ClusterFirstWithHostNet" => true,
        _ => false,
    };
    let mut config = if policy == "None" {
        DnsConfig::default()
    } else if cluster && !cluster_dns.is_empty() {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let own = [format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.to_owned()];
        DnsConfig {
            servers: cluster_dns.to_vec(),
            searches: own.into_iter().chain(host.searches.iter().cloned()).collect(),
            options: vec!["ndots:5".into()],
        }
    } else {
        host.clone()
    };
    if let Some(own) = spec.and_then(|spec| spec.dns_config.as_ref()) {
        config.servers.extend(own.nameservers.iter().flatten().cloned());
        config.searches.extend(own.searches.iter().flatten().cloned());
        for option in own.options.iter().flatten() {
            let name = option.name.as_deref().unwrap_or_default();
            config.options.retain(|known| known.split(':').next() != Some(name));
            config.options.push(match &option.value {
                Some(value) if !value.is_empty() => format!("{name}:{value}"),
                _ => name.to_owned(),
            });
        }
    }
    dedup(&mut config.servers);
    dedup(&mut config.searches);
    config.servers.truncate(MOST_SERVERS);
    config.searches.truncate(MOST_SEARCHES);
    config
}

fn dedup(list: &mut Vec<String>) {
    let mut seen = std::collections::BTreeSet::new();
    list.retain(|one| seen.insert(one.clone()));
}

/// Mode of files unless the volume says otherwise.
pub(crate) const DEFAULT_MODE: i32 = 0o644;

fn mode(own: Option<i32>, default: i32) -> u32 {
    u32::try_from(own.unwrap_or(default)).unwrap_or(0o644) & 0o777
}

/// Picks the keys that a volume asks for. The error names what is missing.
fn pick(
    data: &BTreeMap<String, Vec<u8>>,
    items: Option<&[KeyToPath]>,
    default: i32,
    optional: bool,
) -> Result<Payload, String> {
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        let all = data
            .iter()
            .map(|(key, bytes)| (key.clone(), File { bytes: bytes.clone(), mode: mode(None, default), owner: None }));
        return Ok(all.collect());
    };
    let mut out = Payload::new();
    for item in items {
        match data.get(&item.key) {
            Some(bytes) => {
                out.insert(
                    item.path.clone(),
                    File { bytes: bytes.clone(), mode: mode(item.mode, default), owner: None },
                );
            }
            None if optional => {}
            None => return Err(format!("references non-existent config key: {}", item.key)),
        }
    }
    Ok(out)
}

/// The files of a config map; `None` stands for one that does not exist.
pub(crate) fn config_map_files(
    map: Option<&ConfigMap>,
    name: &str,
    items: Option<&[KeyToPath]>,
    default: i32,
    optional: bool,
) -> Result<Payload, String> {
    let Some(map) = map else {
        return if optional { Ok(Payload::new()) } else { Err(format!("configmap {name:?} not found")) };
    };
    let text = map.data.iter().flatten().map(|(key, value)| (key.clone(), value.clone().into_bytes()));
    let binary = map.binary_data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone()));
    pick(&text.chain(binary).collect(), items, default, optional)
}

/// The files of a secret; `None` stands for one that does not exist.
pub(crate) fn secret_files(
    secret: Option<&Secret>,
    name: &str,
    items: Option<&[KeyToPath]>,
    default: i32,
    optional: bool,
) -> Result<Payload, String> {
    let Some(secret) = secret else {
        return if optional { Ok(Payload::new()) } else { Err(format!("secret {name:?} not found")) };
    };
    let data = secret.data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone())).collect();
    pick(&data, items, default, optional)
}

/// The files of a downward API volume.
pub(crate) fn downward_files(
    pod: &Pod,
    files: &[DownwardAPIVolumeFile],
    default: i32,
    facts: &Facts,
) -> Result<Payload, EnvError> {
    let mut out = Payload::new();
    for file in files {
        let value = if let Some(field) = &file.field_ref {
            downward_field(pod, &field.field_path, facts)?
        } else if let Some(resource) = &file.resource_field_ref {
            let name = resource.container_name.clone().unwrap_or_default();
            let (_, container) = container_named(pod, &name).ok_or(EnvError::NoContainer(name))?;
            downward_resource(pod, &container, resource, facts)?
        } else {
            continue;
        };
        out.insert(file.path.clone(), File { bytes: value.into_bytes(), mode: mode(file.mode, default), owner: None });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(spec: &Value) -> Pod {
        let mut full = json!({"containers": [{"name": "c"}]});
        full.as_object_mut().expect("map").extend(spec.as_object().expect("map").clone());
        serde_json::from_value(json!({"metadata": {"name": "web-0", "namespace": "ns"}, "spec": full})).expect("pod")
    }

    #[test]
    fn names() {
        let long = "a".repeat(62) + "-bc";
        for (spec, host, sandbox) in [
            (json!({}), "web-0", "web-0"),
            (json!({"hostname": "h", "subdomain": "s"}), "h", "h"),
            (json!({"hostname": "h", "subdomain": "s", "setHostnameAsFQDN": true}), "h", "h.s.ns.svc.cluster.local"),
            (json!({"hostNetwork": true}), "web-0", ""),
            (json!({"hostname": long}), &"a".repeat(62), &"a".repeat(62)),
        ] {
            assert_eq!(hostname(&pod(&spec)), host, "{spec}");
            assert_eq!(sandbox_hostname(&pod(&spec), "cluster.local"), sandbox, "{spec}");
        }
    }

    #[test]
    fn hosts_file_has_the_pod_and_its_aliases() {
        let spec = json!({"subdomain": "db", "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a", "b"]}]});
        let text = hosts(&pod(&spec), &["10.0.0.2".into()], "cluster.local");
        assert!(text.contains("10.0.0.2\tweb-0.db.ns.svc.cluster.local\tweb-0\n"), "{text}");
        assert!(text.ends_with("# Entries added by HostAliases.\n1.2.3.4\ta\tb\n"), "{text}");
    }

    #[test]
    fn resolver_by_policy() {
        let host = parse_resolver("nameserver 8.8.8.8 # x\nsearch corp . lab\noptions ndots:1 rotate\n");
        let cluster = ["10.96.0.10".to_owned()];
        for (spec, servers, first, options) in [
            (json!({}), "10.96.0.10", "ns.svc.cluster.local", "ndots:5"),
            (json!({"dnsPolicy": "Default"}), "8.8.8.8", "corp", "ndots:1,rotate"),
            (json!({"hostNetwork": true}), "8.8.8.8", "corp", "ndots:1,rotate"),
            (
                json!({"hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"}),
                "10.96.0.10",
                "ns.svc.cluster.local",
                "ndots:5",
            ),
            (
                json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"], "searches": ["x"], "options": [{"name": "edns0"}]}}),
                "1.1.1.1",
                "x",
                "edns0",
            ),
            (
                json!({"dnsConfig": {"options": [{"name": "ndots", "value": "2"}]}}),
                "10.96.0.10",
                "ns.svc.cluster.local",
                "ndots:2",
            ),
        ] {
            let got = resolver(&pod(&spec), &cluster, "cluster.local", &host);
            assert_eq!(got.servers.join(","), servers, "{spec}");
            assert_eq!(got.searches.first().map(String::as_str), Some(first), "{spec}");
            assert_eq!(got.options.join(","), options, "{spec}");
        }
    }

    #[test]
    fn payloads() {
        let map: ConfigMap =
            serde_json::from_value(json!({"data": {"a": "1"}, "binaryData": {"b": "Mg=="}})).expect("map");
        let all = config_map_files(Some(&map), "m", None, 0o600, false).expect("files");
        assert_eq!(all.keys().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(all["b"], File { bytes: b"2".to_vec(), mode: 0o600, owner: None });
        let items: Vec<KeyToPath> =
            serde_json::from_value(json!([{"key": "a", "path": "x/y", "mode": 0o400}])).expect("items");
        let picked = config_map_files(Some(&map), "m", Some(&items), 0o644, false).expect("files");
        assert_eq!(picked["x/y"].mode, 0o400);
        assert_eq!(config_map_files(None, "m", None, 0o644, false), Err("configmap \"m\" not found".into()));
        assert_eq!(config_map_files(None, "m", None, 0o644, true), Ok(Payload::new()));
        let wrong: Vec<KeyToPath> = serde_json::from_value(json!([{"key": "z", "path": "z"}])).expect("items");
        assert!(config_map_files(Some(&map), "m", Some(&wrong), 0o644, false).is_err());
        assert_eq!(config_map_files(Some(&map), "m", Some(&wrong), 0o644, true), Ok(Payload::new()));
    }

    #[test]
    fn downward_volume() {
        let files: Vec<DownwardAPIVolumeFile> = serde_json::from_value(json!([
            {"path": "name", "fieldRef": {"fieldPath": "metadata.name"}},
            {"path": "cpu", "resourceFieldRef": {"containerName": "c", "resource": "limits.cpu"}},
        ]))
        .expect("files");
        let facts = Facts { allocatable: [("cpu".to_owned(), 4000)].into(), ..Facts::default() };
        let got = downward_files(&pod(&json!({})), &files, 0o644, &facts).expect("files");
        assert_eq!(got["name"].bytes, b"web-0");
        assert_eq!(got["cpu"].bytes, b"4");
    }
}
