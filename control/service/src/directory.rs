//! The clusters that this process serves.

use crate::tenant::Tenant;
use arc_swap::ArcSwap;
use std::{collections::BTreeMap, sync::Arc};

/// The clusters by server name. Connections to the shared port under any other name reach the fleet.
#[derive(Clone, Debug)]
pub(crate) struct Directory {
    tenants: Arc<ArcSwap<BTreeMap<String, Arc<Tenant>>>>,
    fleet: Arc<Tenant>,
}

impl Directory {
    pub(crate) fn new(fleet: Arc<Tenant>) -> Self {
        Self { tenants: Arc::default(), fleet }
    }

    pub(crate) fn insert(&self, tenant: &Arc<Tenant>) {
        self.tenants.rcu(|known| {
            let mut known = BTreeMap::clone(known);
            known.insert(tenant.server_name.clone(), tenant.clone());
            known
        });
    }

    pub(crate) fn remove(&self, uid: &str) -> Option<Arc<Tenant>> {
        let found = self.by_uid(uid)?;
        self.tenants.rcu(|known| {
            let mut known = BTreeMap::clone(known);
            known.remove(&found.server_name);
            known
        });
        Some(found)
    }

    pub(crate) fn by_uid(&self, uid: &str) -> Option<Arc<Tenant>> {
        self.tenants.load().values().find(|tenant| tenant.uid == uid).cloned()
    }

    /// Every cluster but the fleet.
    pub(crate) fn all(&self) -> Vec<Arc<Tenant>> {
        self.tenants.load().values().cloned().collect()
    }

    pub(crate) fn by_name(&self, server_name: &str) -> Option<Arc<Tenant>> {
        self.tenants.load().get(server_name).cloned()
    }

    pub(crate) fn fleet(&self) -> &Arc<Tenant> {
        &self.fleet
    }

    /// Whom a connection to the shared port means.
    pub(crate) fn find(&self, server_name: Option<&str>) -> Arc<Tenant> {
        server_name.and_then(|name| self.by_name(name)).unwrap_or_else(|| self.fleet.clone())
    }
}
