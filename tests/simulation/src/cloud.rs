//! The fake cloud behind a bad line: calls take time and misbehave while the weather is bad.

use crate::{chance::Chance, client::Network, trace::Trace};
use async_trait::async_trait;
use std::{collections::BTreeMap, sync::Arc};
use timonel_cloud_core::{
    Balancer, BalancerSpec, CloudResult, Instance, InstanceId, InstanceState, InstanceType, Instances, LoadBalancers,
    MachineOrder, Machines, Metadata, Owner, Route, Routes, Tags, Volume, VolumeId, VolumeOrder, Volumes,
    testing::{FakeCloud, Fault},
};

/// The cloud as the cloud controller meets it; the checks look at the fake itself.
#[derive(Clone, Debug)]
pub(crate) struct StormyCloud {
    pub(crate) fake: Arc<FakeCloud>,
    pub(crate) network: Network,
    pub(crate) chance: Chance,
    pub(crate) trace: Trace,
}

/// What a call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sort {
    Listing,
    Question,
    Change,
}

impl StormyCloud {
    /// Waits as a call takes, and perhaps scripts a fault for the call that follows at once.
    async fn before(&self, call: &'static str, sort: Sort) {
        let stormy = self.network.storms();
        let time = if stormy { self.chance.millis(5, 400) } else { self.chance.millis(5, 40) };
        tokio::time::sleep(time).await;
        let fault = match (stormy, self.chance.between(0, 59), sort) {
            (true, 0 | 1, _) => Some(Fault::Unavailable),
            (true, 2, _) => Some(Fault::Throttled),
            (true, 3..=6, Sort::Change) => Some(Fault::LostAnswer),
            (true, 3, Sort::Listing) => Some(Fault::Empty),
            (true, 4..=6, Sort::Listing) => Some(Fault::Stale),
            _ => None,
        };
        if let Some(fault) = fault {
            self.fake.script(call, fault);
        }
        if fault.is_some() || sort == Sort::Change {
            self.trace.note(format!("cloud {call} {fault:?}"));
        }
    }
}

macro_rules! through {
    ($trait:ident { $($sort:ident $call:ident($($arg:ident: $type:ty),*) -> $answer:ty;)* }) => {
        #[async_trait]
        impl $trait for StormyCloud {
            $(async fn $call(&self, $($arg: $type),*) -> CloudResult<$answer> {
                self.before(stringify!($call), Sort::$sort).await;
                $trait::$call(&*self.fake, $($arg),*).await
            })*
        }
    };
}

#[async_trait]
impl Metadata for StormyCloud {
    fn provider(&self) -> &str {
        self.fake.provider()
    }

    fn region(&self) -> &str {
        self.fake.region()
    }

    fn volumes_are_zonal(&self) -> bool {
        self.fake.volumes_are_zonal()
    }

    async fn zones(&self) -> CloudResult<Vec<String>> {
        self.fake.zones().await
    }

    async fn instance_types(&self) -> CloudResult<Vec<InstanceType>> {
        self.fake.instance_types().await
    }
}

through!(Machines {
    Change create(order: &MachineOrder) -> Instance;
    Listing list(tags: &Tags) -> Vec<Instance>;
    Change delete(id: &InstanceId) -> ();
    Change start(id: &InstanceId) -> ();
    Change stop(id: &InstanceId) -> ();
    Change reboot(id: &InstanceId) -> ();
});

through!(Instances {
    Listing observe(cluster: &str) -> Vec<Instance>;
    Question confirm(ids: &[InstanceId]) -> BTreeMap<InstanceId, InstanceState>;
});

through!(Routes {
    Listing routes(cluster: &str) -> Vec<Route>;
    Change ensure_route(cluster: &str, route: &Route) -> ();
    Change delete_route(cluster: &str, route: &Route) -> ();
});

through!(LoadBalancers {
    Listing balancers(cluster: &str) -> Vec<Balancer>;
    Change ensure_balancer(spec: &BalancerSpec) -> Balancer;
    Change delete_balancer(owner: &Owner) -> ();
});

through!(Volumes {
    Listing volumes(cluster: &str) -> Vec<Volume>;
    Change create_volume(order: &VolumeOrder) -> Volume;
    Change delete_volume(id: &VolumeId) -> ();
    Change attach_volume(id: &VolumeId, instance: &InstanceId) -> String;
    Change detach_volume(id: &VolumeId, instance: &InstanceId) -> ();
    Change expand_volume(id: &VolumeId, bytes: u64) -> u64;
});
