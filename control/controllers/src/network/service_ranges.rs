//! Service address ranges: says that they are usable and lets one go only when no address of it is in use.

use crate::{
    common::objects::{deleting, has_finalizer, name, set_finalizer},
    framework::{Action, Change, Controller, Key, Kind, Object, Plan, View},
};
use ipnet::IpNet;
use jiff::Timestamp;
use k8s_openapi::{
    api::networking::v1::ServiceCIDR,
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
};
use std::net::IpAddr;

const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";

/// Keeps service ranges.
#[derive(Debug)]
pub(crate) struct ServiceRanges;

impl Controller for ServiceRanges {
    fn name(&self) -> &'static str {
        "service-cidr-controller"
    }

    fn reads(&self) -> &'static [Kind] {
        &[Kind::ServiceCIDR, Kind::IPAddress]
    }

    fn writes(&self) -> &'static [(&'static str, &'static str)] {
        &[("ServiceCIDR", "status.conditions"), ("ServiceCIDR", "metadata.finalizers")]
    }

    fn keys(&self, view: &View, change: &Change, keys: &mut Vec<Key>) {
        match change.object() {
            Object::ServiceCIDR(range) => keys.push(Key::of(&range.metadata)),
            // An address that goes may free a range that waits.
            _ if change.new.is_none() => {
                let waiting = view.service_cidrs.all().filter(|range| deleting(&range.metadata));
                keys.extend(waiting.map(|range| Key::of(&range.metadata)));
            }
            _ => {}
        }
    }

    fn plan(&self, view: &View, key: &Key, now: Timestamp) -> Plan {
        let Some(range) = view.service_cidrs.get(key) else { return Plan::none() };
        if !deleting(&range.metadata) {
            if !has_finalizer(&range.metadata, FINALIZER) {
                return vec![set_finalizer(Kind::ServiceCIDR, &range.metadata, FINALIZER, true)].into();
            }
            return ready(range, "True", "", "Kubernetes Service CIDR is ready", now);
        }
        if !has_finalizer(&range.metadata, FINALIZER) {
            return Plan::none();
        }
        let used = view.ip_addresses.all().filter_map(|address| name(&address.metadata).parse::<IpAddr>().ok()).any(
            |address| {
                networks(range).iter().any(|net| net.contains(&address)) && !covered_elsewhere(view, range, address)
            },
        );
        if used {
            let message = "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR";
            return ready(range, "False", "Terminating", message, now);
        }
        vec![set_finalizer(Kind::ServiceCIDR, &range.metadata, FINALIZER, false)].into()
    }
}

fn networks(range: &ServiceCIDR) -> Vec<IpNet> {
    let spec = range.spec.as_ref().and_then(|spec| spec.cidrs.as_ref());
    spec.into_iter().flatten().filter_map(|cidr| cidr.parse().ok()).collect()
}

/// Whether another range that stays holds the address as well.
fn covered_elsewhere(view: &View, range: &ServiceCIDR, address: IpAddr) -> bool {
    let others =
        view.service_cidrs.all().filter(|other| other.metadata.uid != range.metadata.uid && !deleting(&other.metadata));
    others.into_iter().any(|other| networks(other).iter().any(|net| net.contains(&address)))
}

fn ready(range: &ServiceCIDR, status: &str, reason: &str, message: &str, now: Timestamp) -> Plan {
    let mut new = range.clone();
    let conditions = new.status.get_or_insert_default().conditions.get_or_insert_default();
    if conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == status) {
        return Plan::none();
    }
    conditions.retain(|condition| condition.type_ != "Ready");
    conditions.push(Condition {
        type_: "Ready".to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        last_transition_time: Time(now),
        observed_generation: None,
    });
    vec![Action::update_status(new)].into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, lines, object};
    use serde_json::{Value, json};

    fn check(meta: Value, addresses: &[&str], expected: &[&str]) {
        let mut view = View::default();
        view.service_cidrs.insert(object(json!({"metadata": meta, "spec": {"cidrs": ["10.0.0.0/24"]}})));
        for address in addresses {
            view.ip_addresses.insert(object(
                json!({"metadata": {"name": address}, "spec": {"parentRef": {"name": "x", "resource": "services"}}}),
            ));
        }
        assert_eq!(lines(&ServiceRanges.plan(&view, &Key::new("", "r"), at(0))), expected);
    }

    #[test]
    fn a_range_lives_as_long_as_it_is_used() {
        let gone = "1970-01-01T00:00:00Z";
        check(json!({"name": "r"}), &[], &["patch ServiceCIDR r"]);
        check(json!({"name": "r", "finalizers": [FINALIZER]}), &[], &["status ServiceCIDR r"]);
        let leaving = json!({"name": "r", "finalizers": [FINALIZER], "deletionTimestamp": gone});
        check(leaving.clone(), &["10.0.0.5"], &["status ServiceCIDR r"]);
        check(leaving, &["10.9.0.5"], &["patch ServiceCIDR r"]);
    }
}
