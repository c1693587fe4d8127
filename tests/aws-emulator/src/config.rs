//! What an emulated account has from the start, and how it behaves: read once, changed only through the admin API.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Everything that can be chosen.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The account's number: twelve digits.
    pub account: String,
    /// What identifiers, lags and the like are drawn from.
    pub seed: u64,
    /// Regions that exist, each with zones `a`, `b`, `c` and a default network.
    pub regions: Vec<String>,
    /// Users with their keys.
    pub users: Vec<UserConfig>,
    /// Roles.
    pub roles: Vec<RoleConfig>,
    /// Instance profiles: name to role.
    pub profiles: BTreeMap<String, String>,
    /// Issuers of web identity tokens.
    pub issuers: Vec<IssuerConfig>,
    /// Certificates that listeners may use: ARN to domain.
    pub certificates: BTreeMap<String, String>,
    /// How long things take.
    pub timings: Timings,
    /// How many there may be.
    pub quotas: Quotas,
    /// The longest that a read may lag behind, in milliseconds; 0 for none.
    pub lag_ms: u64,
    /// Whether calls are limited in rate as AWS does.
    pub throttle: bool,
    /// Whether health checks are left to a prober outside the model; else targets answer as scripted.
    pub probe_outside: bool,
}

/// A user, its one access key and its policies.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserConfig {
    /// The user's name.
    pub name: String,
    /// The access key.
    pub access_key: String,
    /// Its secret.
    pub secret_key: String,
    /// Policy documents.
    #[serde(default)]
    pub policies: Vec<serde_json::Value>,
}

/// A role.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoleConfig {
    /// The role's name.
    pub name: String,
    /// Who may assume it: a policy document with principals.
    pub trust: serde_json::Value,
    /// What it may do.
    #[serde(default)]
    pub policies: Vec<serde_json::Value>,
    /// The longest session in seconds.
    #[serde(default = "hour")]
    pub max_session_seconds: i64,
}

/// An issuer of web identity tokens.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerConfig {
    /// The issuer as tokens name it.
    pub url: String,
    /// Audiences that are accepted.
    pub audiences: Vec<String>,
    /// Its public keys, as a JSON Web Key Set.
    pub keys: serde_json::Value,
}

fn hour() -> i64 {
    3600
}

/// Milliseconds that changes of state take.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Timings {
    pub pending: u64,
    pub checks: u64,
    pub stopping: u64,
    pub shutting_down: u64,
    pub terminated_shown: u64,
    pub volume_creating: u64,
    pub attaching: u64,
    pub detaching: u64,
    pub modifying: u64,
    pub optimizing: u64,
    pub modification_pause: u64,
    pub snapshot: u64,
    pub provisioning: u64,
    pub interfaces_linger: u64,
    pub registration: u64,
    pub spot_notice: u64,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            pending: 3_000,
            checks: 10_000,
            stopping: 3_000,
            shutting_down: 4_000,
            terminated_shown: 3_600_000,
            volume_creating: 1_000,
            attaching: 1_000,
            detaching: 1_000,
            modifying: 1_000,
            optimizing: 20_000,
            modification_pause: 6 * 3_600_000,
            snapshot: 3_000,
            provisioning: 5_000,
            interfaces_linger: 3_000,
            registration: 2_000,
            spot_notice: 120_000,
        }
    }
}

/// Limits as AWS sets them for a new account.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Quotas {
    pub vcpus: u64,
    pub spot_vcpus: u64,
    pub tags: usize,
    pub vpcs: usize,
    pub subnets_per_vpc: usize,
    pub tables_per_vpc: usize,
    pub routes_per_table: usize,
    pub groups_per_region: usize,
    pub rules_per_group: usize,
    pub groups_per_interface: usize,
    pub interfaces: usize,
    pub addresses: usize,
    pub gateways: usize,
    pub volumes: usize,
    pub snapshots: usize,
    pub launch_templates: usize,
    pub versions_per_template: usize,
    pub application_balancers: usize,
    pub network_balancers: usize,
    pub target_groups: usize,
    pub targets_per_group: usize,
    pub listeners_per_balancer: usize,
    pub rules_per_balancer: usize,
    pub certificates_per_balancer: usize,
    pub groups_per_balancer: usize,
    pub target_groups_per_balancer: usize,
}

impl Default for Quotas {
    fn default() -> Self {
        Self {
            vcpus: 100_000,
            spot_vcpus: 100_000,
            tags: 50,
            vpcs: 5,
            subnets_per_vpc: 200,
            tables_per_vpc: 200,
            routes_per_table: 50,
            groups_per_region: 2_500,
            rules_per_group: 60,
            groups_per_interface: 5,
            interfaces: 50_000,
            addresses: 5,
            gateways: 5,
            volumes: 100_000,
            snapshots: 100_000,
            launch_templates: 5_000,
            versions_per_template: 10_000,
            application_balancers: 50,
            network_balancers: 50,
            target_groups: 3_000,
            targets_per_group: 1_000,
            listeners_per_balancer: 50,
            rules_per_balancer: 100,
            certificates_per_balancer: 25,
            groups_per_balancer: 5,
            target_groups_per_balancer: 100,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            account: "123456789012".to_owned(),
            seed: 1,
            regions: vec!["eu-central-1".to_owned(), "us-east-1".to_owned()],
            users: vec![UserConfig {
                name: "admin".to_owned(),
                access_key: "AKIAIOSFODNN7EXAMPLE".to_owned(),
                secret_key: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_owned(),
                policies: vec![serde_json::json!({
                    "Version": "2012-10-17",
                    "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}],
                })],
            }],
            roles: Vec::new(),
            profiles: BTreeMap::new(),
            issuers: Vec::new(),
            certificates: BTreeMap::new(),
            timings: Timings::default(),
            quotas: Quotas::default(),
            lag_ms: 0,
            throttle: false,
            probe_outside: false,
        }
    }
}
