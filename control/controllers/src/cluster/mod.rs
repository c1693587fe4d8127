//! Controllers of a cluster's frame: namespaces, service accounts, owners, roles, quotas.

mod disruption;
mod garbage;
mod migration;
mod namespace;
mod namespace_defaults;
mod quota;
mod roles;

use crate::{framework::Controller, run::ControllersConfig};

/// The controllers of this family.
pub(crate) fn controllers(config: &ControllersConfig) -> Vec<Box<dyn Controller>> {
    vec![
        Box::new(namespace::Namespaces),
        Box::new(namespace_defaults::ServiceAccounts),
        Box::new(namespace_defaults::RootAuthority { pem: config.cluster_ca_pem.clone() }),
        Box::new(garbage::GarbageCollector),
        Box::new(disruption::Budgets),
        Box::new(quota::Quotas),
        Box::new(roles::RoleAggregation),
        Box::new(migration::StorageVersionMigrations),
    ]
}
