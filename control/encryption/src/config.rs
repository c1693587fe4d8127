//! Upstream's `EncryptionConfiguration`: its form, its rules, and which of its entries a resource falls under. Pure.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::Duration,
};

/// Time for one call to a plugin unless the configuration says otherwise.
const KMS_TIMEOUT: Duration = Duration::from_secs(3);

/// Why a configuration is not taken.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not YAML of this form.
    #[error("EncryptionConfiguration: {0}")]
    Form(String),
    /// A rule is broken.
    #[error("{path}: {why}")]
    Rule {
        /// Where.
        path: String,
        /// Which.
        why: String,
    },
}

fn rule(path: impl Into<String>, why: impl Into<String>) -> ConfigError {
    ConfigError::Rule { path: path.into(), why: why.into() }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    #[serde(default)]
    resources: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    providers: Vec<ProviderEntry>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
struct ProviderEntry {
    aesgcm: Option<Keys>,
    aescbc: Option<Keys>,
    secretbox: Option<Keys>,
    identity: Option<Identity>,
    kms: Option<Kms>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Identity {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    #[serde(default)]
    keys: Vec<Key>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Key {
    #[serde(default)]
    name: String,
    #[serde(default)]
    secret: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Kms {
    #[serde(rename = "apiVersion", default)]
    api_version: String,
    #[serde(default)]
    name: String,
    // Seeds are shared by many objects: there is nothing to bound. Taken, as upstream does for version 2, and unused.
    #[serde(rename = "cachesize", default)]
    cache_size: Option<i32>,
    #[serde(default)]
    endpoint: String,
    #[serde(default)]
    timeout: Option<String>,
}

/// One provider of an entry.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum ProviderSpec {
    Identity,
    AesGcm { name: String, key: Vec<u8> },
    Kms(KmsSpec),
}

/// A plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KmsSpec {
    pub(crate) name: String,
    pub(crate) socket: PathBuf,
    pub(crate) timeout: Duration,
}

/// A group and a resource; either may be `*`.
pub(crate) type Pattern = (String, String);

/// The providers of every pattern, in order: the first writes, all read.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Config(pub(crate) BTreeMap<Pattern, Vec<ProviderSpec>>);

impl Config {
    pub(crate) fn parse(text: &str) -> Result<Self, ConfigError> {
        let file: File = serde_saphyr::from_str(text).map_err(|error| ConfigError::Form(error.to_string()))?;
        if file.kind != "EncryptionConfiguration"
            || !matches!(file.api_version.as_str(), "apiserver.config.k8s.io/v1" | "v1")
        {
            let why = format!("{} of {} is another kind", file.kind, file.api_version);
            return Err(ConfigError::Form(why));
        }
        if file.resources.is_empty() {
            return Err(rule("resources", "at least one resources is required"));
        }
        let mut config = Self::default();
        let mut plugins = BTreeSet::new();
        for (at, entry) in file.resources.iter().enumerate() {
            let path = format!("resources[{at}]");
            let patterns = patterns(&entry.resources, &format!("{path}.resources"))?;
            let providers = providers(&entry.providers, &format!("{path}.providers"), &mut plugins)?;
            for pattern in patterns {
                config.check_not_masked(&pattern)?;
                config.0.entry(pattern).or_default().extend(providers.iter().cloned());
            }
        }
        Ok(config)
    }

    fn check_not_masked(&self, pattern: &Pattern) -> Result<(), ConfigError> {
        let (group, resource) = pattern;
        let masks = [("*".to_owned(), "*".to_owned()), (group.clone(), "*".to_owned())];
        for mask in masks {
            if self.0.contains_key(&mask) {
                let why = format!("resource {resource}.{group} is masked by the earlier rule {}.{}", mask.1, mask.0);
                return Err(rule("resources", why));
            }
        }
        Ok(())
    }
}

/// The patterns under which a resource may stand, narrowest first.
pub(crate) fn patterns_of(group: &str, resource: &str) -> [Pattern; 3] {
    let owned = |group: &str, resource: &str| (group.to_owned(), resource.to_owned());
    [owned(group, resource), owned(group, "*"), owned("*", "*")]
}

fn patterns(names: &[String], path: &str) -> Result<Vec<Pattern>, ConfigError> {
    if names.is_empty() {
        return Err(rule(path, "at least one resources is required"));
    }
    let mut patterns: Vec<Pattern> = Vec::new();
    for (at, name) in names.iter().enumerate() {
        let refuse = |why: &str| Err(rule(format!("{path}[{at}]"), format!("{name:?}: {why}")));
        if name.chars().any(char::is_uppercase) {
            return refuse("resource name should not contain capital letters");
        }
        if name == "*" {
            return refuse("use '*.' to encrypt all the resources from core API group or *.* to encrypt all resources");
        }
        if matches!(name.as_str(), "apiserveripinfo" | "serviceipallocations" | "servicenodeportallocations") {
            return refuse("resources which do not have REST API/s cannot be encrypted");
        }
        let (resource, group) = name.split_once('.').unwrap_or((name, ""));
        match (group, resource) {
            ("events.k8s.io", _) => {
                return refuse("objects are stored using the 'events' API group in etcd. Use 'events' instead");
            }
            ("extensions", _) => {
                return refuse("'extensions' group has been removed and cannot be used for encryption");
            }
            ("*", resource) if resource != "*" => {
                return refuse("encrypting the same resource across groups is not supported");
            }
            _ => {}
        }
        let pattern = (group.to_owned(), resource.to_owned());
        if patterns.contains(&pattern) {
            return refuse("the same resource cannot be specified multiple times");
        }
        let everything = |pattern: &Pattern| pattern.0 == "*";
        let overlaps = |other: &Pattern| {
            everything(other) || everything(&pattern) || (other.0 == pattern.0 && (other.1 == "*" || pattern.1 == "*"))
        };
        if patterns.iter().any(overlaps) {
            return refuse(
                "using overlapping resources in the same resource list is not allowed as they will be masked",
            );
        }
        patterns.push(pattern);
    }
    Ok(patterns)
}

fn providers(
    entries: &[ProviderEntry],
    path: &str,
    plugins: &mut BTreeSet<String>,
) -> Result<Vec<ProviderSpec>, ConfigError> {
    if entries.is_empty() {
        return Err(rule(path, "at least one providers is required"));
    }
    let mut specs = Vec::new();
    for (at, entry) in entries.iter().enumerate() {
        let path = format!("{path}[{at}]");
        let given = [
            entry.aesgcm.is_some(),
            entry.aescbc.is_some(),
            entry.secretbox.is_some(),
            entry.identity.is_some(),
            entry.kms.is_some(),
        ];
        match given.into_iter().filter(|given| *given).count() {
            1 => {}
            0 => {
                return Err(rule(
                    path,
                    "provider does not contain any of the expected providers: KMS, AESGCM, Identity",
                ));
            }
            _ => {
                let why =
                    "more than one provider specified in a single element, should split into different list elements";
                return Err(rule(path, why));
            }
        }
        if entry.aescbc.is_some() || entry.secretbox.is_some() {
            return Err(rule(path, "aescbc and secretbox are not offered: use aesgcm or kms"));
        }
        if let Some(keys) = &entry.aesgcm {
            specs.extend(aes_keys(&keys.keys, &format!("{path}.aesgcm.keys"))?);
        } else if let Some(kms) = &entry.kms {
            specs.push(ProviderSpec::Kms(plugin(kms, &format!("{path}.kms"), plugins)?));
        } else {
            specs.push(ProviderSpec::Identity);
        }
    }
    Ok(specs)
}

fn aes_keys(keys: &[Key], path: &str) -> Result<Vec<ProviderSpec>, ConfigError> {
    if keys.is_empty() {
        return Err(rule(path, "at least one keys is required"));
    }
    let one = |(at, key): (usize, &Key)| {
        let path = format!("{path}[{at}]");
        if key.name.is_empty() || key.name.contains(':') {
            return Err(rule(format!("{path}.name"), "name is a mandatory field for a key, without ':'"));
        }
        // What is wrong is said without the secret.
        let secret = STANDARD.decode(&key.secret);
        let secret = secret.map_err(|_| rule(format!("{path}.secret"), "secrets must be base64 encoded"))?;
        if crate::gcm::key(&secret).is_none() {
            let why = format!("secret is not of the expected length, got {}, expected one of [16 24 32]", secret.len());
            return Err(rule(format!("{path}.secret"), why));
        }
        Ok(ProviderSpec::AesGcm { name: key.name.clone(), key: secret })
    };
    keys.iter().enumerate().map(one).collect()
}

fn plugin(kms: &Kms, path: &str, names: &mut BTreeSet<String>) -> Result<KmsSpec, ConfigError> {
    if kms.api_version != "v2" {
        return Err(rule(
            format!("{path}.apiVersion"),
            format!("unsupported apiVersion {:?} for KMS provider, only v2 is", kms.api_version),
        ));
    }
    if kms.name.is_empty() || kms.name.contains(':') {
        let why = format!("invalid KMS provider name {:?}, must not be empty nor contain ':'", kms.name);
        return Err(rule(format!("{path}.name"), why));
    }
    if !names.insert(kms.name.clone()) {
        let why = format!("duplicate KMS provider name {}, names must be unique", kms.name);
        return Err(rule(format!("{path}.name"), why));
    }
    if kms.cache_size.is_some() {
        return Err(rule(format!("{path}.cachesize"), "cachesize is not supported in v2"));
    }
    let socket = kms.endpoint.strip_prefix("unix://").map(Path::new).filter(|path| path.is_absolute());
    let Some(socket) = socket else {
        let why = format!("invalid endpoint {:?} for kms provider: only unix:///path is supported", kms.endpoint);
        return Err(rule(format!("{path}.endpoint"), why));
    };
    let timeout = match &kms.timeout {
        None => KMS_TIMEOUT,
        Some(text) => {
            duration(text).ok_or_else(|| rule(format!("{path}.timeout"), "timeout should be a positive value"))?
        }
    };
    Ok(KmsSpec { name: kms.name.clone(), socket: socket.to_owned(), timeout })
}

/// `3s`, `500ms`, `1m30s`: as Go writes durations, without fractions.
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit())?;
        let number: u32 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|letter: char| letter.is_ascii_digit()).unwrap_or(rest.len());
        let one = match &rest[..unit] {
            "ms" => Duration::from_millis(1),
            "s" => Duration::from_secs(1),
            "m" => Duration::from_secs(60),
            "h" => Duration::from_secs(3600),
            _ => return None,
        };
        total = total.checked_add(one.checked_mul(number)?)?;
        rest = &rest[unit..];
    }
    (total > Duration::ZERO).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(resources: &str) -> Result<Config, ConfigError> {
        Config::parse(&format!(
            "kind: EncryptionConfiguration\napiVersion: apiserver.config.k8s.io/v1\nresources:\n{resources}"
        ))
    }

    const KEY: &str = "aesgcm: {keys: [{name: a, secret: c2VjcmV0IGlzIHNlY3VyZQ==}]}";

    #[test]
    fn a_configuration_as_upstreams_documentation_shows_it() {
        let config = parse(&format!(
            "- resources: [events]\n  providers: [identity: {{}}]\n\
             - resources: [secrets, pandas.awesome.bears.example]\n  providers:\n  - {KEY}\n  - identity: {{}}\n\
             - resources: ['*.apps']\n  providers:\n  - kms: {{apiVersion: v2, name: p, endpoint: 'unix:///run/p.sock', timeout: 1m30s}}\n\
             - resources: ['*.*']\n  providers:\n  - {KEY}\n"
        ))
        .unwrap();
        let find = |group: &str, resource: &str| {
            let found = patterns_of(group, resource).into_iter().find_map(|pattern| config.0.get(&pattern)).unwrap();
            let name = |spec: &ProviderSpec| match spec {
                ProviderSpec::Identity => "identity".to_owned(),
                ProviderSpec::AesGcm { name, key } => format!("{name}/{}", key.len()),
                ProviderSpec::Kms(kms) => format!("{}:{:?}", kms.name, kms.timeout),
            };
            found.iter().map(name).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(find("", "events"), "identity");
        assert_eq!(find("", "secrets"), "a/16 identity");
        assert_eq!(find("awesome.bears.example", "pandas"), "a/16 identity");
        assert_eq!(find("apps", "deployments"), "p:90s");
        assert_eq!(find("", "configmaps"), "a/16");
    }

    #[test]
    fn what_is_refused_and_why() {
        let with =
            |resources: &str, provider: &str| format!("- resources: [{resources}]\n  providers:\n  - {provider}\n");
        let kms = |fields: &str| format!("kms: {{{fields}}}");
        let cases = [
            (String::new(), "null"),
            (with("", KEY), "at least one resources"),
            ("- resources: [secrets]\n  providers: []\n".into(), "at least one providers"),
            (with("Secrets", KEY), "capital letters"),
            (with("'*'", KEY), "use '*.'"),
            (with("secrets, secrets", KEY), "multiple times"),
            (with("secrets, '*.'", KEY), "overlapping"),
            (with("'*.*', deployments.apps", KEY), "overlapping"),
            (with("events.events.k8s.io", KEY), "Use 'events'"),
            (with("'secrets.*'", KEY), "across groups"),
            (with("secrets", "{}"), "any of the expected"),
            (with("secrets", &format!("{KEY}\n    identity: {{}}")), "more than one provider"),
            (with("secrets", "aesgcm: {keys: []}"), "at least one keys"),
            (with("secrets", "aesgcm: {keys: [{name: a, secret: '!'}]}"), "base64"),
            (with("secrets", "aesgcm: {keys: [{name: a, secret: YQ==}]}"), "got 1, expected"),
            (with("secrets", "aescbc: {keys: [{name: a, secret: YQ==}]}"), "not offered"),
            (with("secrets", &kms("apiVersion: v1, name: a, endpoint: 'unix:///a'")), "only v2"),
            (with("secrets", &kms("apiVersion: v2, name: 'a:b', endpoint: 'unix:///a'")), "must not"),
            (with("secrets", &kms("apiVersion: v2, name: a, endpoint: 'tcp://a:1'")), "only unix"),
            (with("secrets", &kms("apiVersion: v2, name: a, endpoint: 'unix:///a', timeout: 0s")), "positive"),
            (with("secrets", &kms("apiVersion: v2, name: a, endpoint: 'unix:///a', cachesize: 5")), "cachesize"),
            (with("secrets", &kms("apiVersion: v2, name: a, endpoint: 'unix:///a', more: 5")), "more"),
            (with("'*.apps'", KEY) + &with("deployments.apps", KEY), "masked"),
            (with("'*.*'", KEY) + &with("secrets", KEY), "masked"),
        ];
        for (text, expected) in cases {
            let told = parse(&text).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(told.contains(expected) || (expected == "null" && !told.is_empty()), "{text}\n{told}");
            assert!(!told.contains("c2Vj"), "no secret in a message");
        }
    }

    #[test]
    fn durations() {
        let cases =
            [("3s", Some(3000)), ("500ms", Some(500)), ("1m30s", Some(90_000)), ("0s", None), ("x", None), ("3", None)];
        for (text, expected) in cases {
            assert_eq!(duration(text), expected.map(Duration::from_millis), "{text}");
        }
    }
}
