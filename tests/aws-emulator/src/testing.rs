//! What the tests of handlers share: an account, a time, and calls without signatures.

use crate::account::{Account, Delivery, Order};
use crate::config::Config;
use crate::error::AwsError;
use crate::form::pairs;
use crate::table::Service;
use crate::xml::Node;
use jiff::{SignedDuration, Timestamp};

/// The region of all tests.
pub(crate) const REGION: &str = "eu-central-1";

/// An account at a time.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) account: Account,
    pub(crate) now: Timestamp,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Reply(pub(crate) Vec<Node>);

impl Reply {
    /// The first text at `path`.
    pub(crate) fn get(&self, path: &str) -> String {
        self.all(path).into_iter().next().unwrap_or_else(|| panic!("no {path} in {:?}", self.0))
    }

    /// Every text at `path`.
    pub(crate) fn all(&self, path: &str) -> Vec<String> {
        let mut found = Vec::new();
        collect(&self.0, path, &mut found);
        found
    }
}

fn collect(nodes: &[Node], path: &str, found: &mut Vec<String>) {
    let (head, rest) = path.split_once('.').map_or((path, None), |(head, rest)| (head, Some(rest)));
    for node in nodes {
        match (node, rest) {
            (Node::Text(name, value), None) if name == head => found.push(value.clone()),
            (Node::Group(name, below), Some(rest)) if name == head => collect(below, rest, found),
            _ => {}
        }
    }
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(Config::default())
    }

    pub(crate) fn with(config: Config) -> Self {
        let now = "2026-11-21T12:00:00Z".parse().unwrap();
        Self { account: Account::new(config, now).unwrap(), now }
    }

    /// Lets time pass.
    pub(crate) fn wait(&mut self, milliseconds: i64) {
        self.now += SignedDuration::from_millis(milliseconds);
        self.account.advance(self.now);
    }

    /// A call of the administrator; how it would be delivered too.
    pub(crate) fn call(&mut self, service: Service, action: &str, form: &str) -> (Result<Reply, AwsError>, Delivery) {
        self.call_as("AKIAIOSFODNN7EXAMPLE", service, action, form)
    }

    pub(crate) fn call_as(
        &mut self,
        key: &str,
        service: Service,
        action: &str,
        form: &str,
    ) -> (Result<Reply, AwsError>, Delivery) {
        let order = Order {
            service,
            action: action.to_owned(),
            region: REGION.to_owned(),
            caller: self.account.iam.caller(key),
            pairs: pairs(form).unwrap(),
        };
        let (outcome, delivery) = self.account.perform(&order, self.now);
        (outcome.map(Reply), delivery)
    }

    /// A call of EC2 that must succeed.
    pub(crate) fn ec2(&mut self, action: &str, form: &str) -> Reply {
        self.call(Service::Ec2, action, form).0.unwrap_or_else(|error| panic!("{action} {form}: {error}"))
    }

    /// A call of ELB that must succeed.
    pub(crate) fn elb(&mut self, action: &str, form: &str) -> Reply {
        self.call(Service::Elb, action, form).0.unwrap_or_else(|error| panic!("{action} {form}: {error}"))
    }

    /// The code of a call's refusal, or `ok`.
    pub(crate) fn code(&mut self, service: Service, action: &str, form: &str) -> String {
        self.call(service, action, form).0.err().map_or("ok".to_owned(), |error| error.code.into_owned())
    }

    /// The first public image for x86.
    pub(crate) fn image(&mut self) -> String {
        self.ec2("DescribeImages", "Filter.1.Name=architecture&Filter.1.Value.1=x86_64").get("imagesSet.item.imageId")
    }

    /// The default subnet of a zone.
    pub(crate) fn subnet(&mut self, zone: &str) -> String {
        let form = format!("Filter.1.Name=availability-zone&Filter.1.Value.1={zone}");
        self.ec2("DescribeSubnets", &form).get("subnetSet.item.subnetId")
    }

    /// Runs instances, which are running when this returns.
    pub(crate) fn run(&mut self, count: u32, more: &str) -> Vec<String> {
        let form = format!("ImageId={}&MinCount={count}&MaxCount={count}&{more}", self.image());
        let ids = self.ec2("RunInstances", &form).all("instancesSet.item.instanceId");
        self.wait(3_000);
        ids
    }
}
