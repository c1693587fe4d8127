//! Limits of rate: token buckets for each region and family of actions, with the sizes that AWS documents.

use crate::table::{Action, Service};
use jiff::Timestamp;
use std::collections::BTreeMap;

/// A family of actions that share a bucket: its name, tokens at most, tokens a second.
type Family = (&'static str, f64, f64);

/// Actions with buckets of their own.
const OWN: [(&str, f64, f64); 22] = [
    ("RunInstances", 5.0, 2.0),
    ("TerminateInstances", 100.0, 5.0),
    ("StartInstances", 5.0, 2.0),
    ("StopInstances", 50.0, 5.0),
    ("CreateTags", 100.0, 10.0),
    ("DeleteTags", 100.0, 10.0),
    ("AttachVolume", 100.0, 5.0),
    ("DetachVolume", 100.0, 5.0),
    ("CreateVolume", 100.0, 5.0),
    ("DeleteVolume", 100.0, 5.0),
    ("ModifyVolume", 100.0, 5.0),
    ("CreateSnapshot", 100.0, 5.0),
    ("DeleteSnapshot", 100.0, 5.0),
    ("CreateRoute", 10.0, 4.0),
    ("ReplaceRoute", 10.0, 4.0),
    ("DeleteRoute", 10.0, 4.0),
    ("AuthorizeSecurityGroupIngress", 100.0, 5.0),
    ("RevokeSecurityGroupIngress", 100.0, 5.0),
    ("CreateNetworkInterface", 100.0, 5.0),
    ("CreateFleet", 50.0, 5.0),
    ("DescribeInstanceTypes", 50.0, 10.0),
    ("AssignPrivateIpAddresses", 100.0, 5.0),
];
/// New instances a region may order: tokens are instances.
const INSTANCES: Family = ("instances", 1000.0, 2.0);

fn family(action: &Action, narrowed: bool) -> Family {
    if let Some((name, size, refill)) = OWN.iter().find(|own| own.0 == action.name) {
        return (name, *size, *refill);
    }
    match (action.service, action.write, narrowed) {
        (Service::Ec2, false, true) => ("ec2 reads", 100.0, 20.0),
        (Service::Ec2, false, false) => ("ec2 wide reads", 50.0, 10.0),
        (Service::Ec2, true, _) => ("ec2 writes", 50.0, 5.0),
        (Service::Elb, false, _) => ("elb reads", 40.0, 10.0),
        (Service::Elb, true, _) => ("elb writes", 40.0, 5.0),
        (Service::Sts, _, _) => ("sts", 600.0, 600.0),
    }
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f64,
    at: Timestamp,
}

/// The buckets.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    buckets: BTreeMap<(String, &'static str), Bucket>,
}

impl Throttle {
    /// Whether the call may pass. `narrowed` says that a read has filters or a page size; `instances` how many a
    /// call orders.
    pub(crate) fn admit(
        &mut self,
        region: &str,
        action: &Action,
        narrowed: bool,
        instances: f64,
        now: Timestamp,
    ) -> bool {
        let take = |buckets: &mut BTreeMap<_, _>, (name, size, refill): Family, tokens: f64| {
            let bucket = buckets.entry((region.to_owned(), name)).or_insert(Bucket { tokens: size, at: now });
            let passed = now.duration_since(bucket.at).as_secs_f64().max(0.0);
            bucket.tokens = (bucket.tokens + passed * refill).min(size);
            bucket.at = now;
            let enough = bucket.tokens >= tokens;
            if enough {
                bucket.tokens -= tokens;
            }
            enough
        };
        take(&mut self.buckets, family(action, narrowed), 1.0)
            && (instances == 0.0 || take(&mut self.buckets, INSTANCES, instances))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::read;
    use jiff::SignedDuration;

    #[test]
    fn buckets_empty_and_fill() {
        let table = read(Service::Ec2);
        let mut throttle = Throttle::default();
        let start = Timestamp::UNIX_EPOCH;
        let run = &table["RunInstances"];
        let admitted = (0..10).filter(|_| throttle.admit("r", run, false, 1.0, start)).count();
        assert_eq!(admitted, 5);
        assert!(throttle.admit("other", run, false, 1.0, start), "regions are apart");
        assert!(throttle.admit("r", &table["DescribeTags"], true, 0.0, start), "families are apart");
        let later = start + SignedDuration::from_secs(1);
        assert_eq!((0..10).filter(|_| throttle.admit("r", run, false, 1.0, later)).count(), 2);
    }

    #[test]
    fn orders_of_instances_are_limited_too() {
        let table = read(Service::Ec2);
        let mut throttle = Throttle::default();
        assert!(throttle.admit("r", &table["RunInstances"], false, 999.0, Timestamp::UNIX_EPOCH));
        assert!(!throttle.admit("r", &table["RunInstances"], false, 2.0, Timestamp::UNIX_EPOCH));
    }
}
