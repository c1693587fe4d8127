//! Load balancers: made, placed in subnets, attributed, removed.

use super::model::{Balancer, Place};
use super::{arn, attributes, show, tags};
use crate::call::{Call, Outcome};
use crate::ec2::{Interface, InterfaceAttachment};
use crate::error::{AwsError, refuse};
use crate::form::Tree;
use crate::ids::Kind;
use crate::region::{Region, Timer};
use crate::xml::{members, text};
use std::collections::BTreeMap;

pub(super) fn missing(arn: &str) -> AwsError {
    refuse("LoadBalancerNotFound", format!("Load balancer '{arn}' not found"))
}

/// A subnet that a call asks for, with its elastic address.
struct Wanted {
    zone: String,
    subnet: String,
    vpc: String,
    allocation: Option<String>,
    private: Option<std::net::Ipv4Addr>,
}

pub(super) fn create(call: &mut Call<'_>) -> Outcome {
    let tags = tags::given(call)?;
    let name = call.must("Name")?.to_owned();
    check_name(&name)?;
    let network = call.form.text("Type") == Some("network");
    let internal = call.form.text("Scheme") == Some("internal");
    let dualstack = call.form.text("IpAddressType") == Some("dualstack");
    let wanted = wanted(call, network)?;
    let vpc = wanted.first().map(|it| it.vpc.clone()).unwrap_or_default();
    let groups = groups(call, &vpc, network)?;
    let same = call.region.balancers.iter().find(|(_, it)| it.name == name);
    if let Some((there, it)) = same {
        let zones: Vec<&String> = it.places.values().map(|place| &place.subnet).collect();
        let alike = it.network == network
            && it.internal == internal
            && it.dualstack == dualstack
            && it.groups == groups
            && it.tags == tags
            && zones.len() == wanted.len()
            && wanted.iter().all(|want| zones.contains(&&want.subnet));
        if !alike {
            let message = format!("A load balancer with the same name '{name}' exists, but with different settings");
            return Err(refuse("DuplicateLoadBalancerName", message));
        }
        return Ok(vec![members("LoadBalancers", [show::balancer(call.region, there, it)])]);
    }
    let count = call.region.balancers.iter().filter(|(_, it)| it.network == network).count();
    let quotas = &call.config.quotas;
    let quota = if network { quotas.network_balancers } else { quotas.application_balancers };
    if count >= quota {
        return Err(refuse("TooManyLoadBalancers", "The maximum number of load balancers has been reached"));
    }
    let family = if network { "net" } else { "app" };
    let id = call.region.ids.hex(16);
    let arn = arn(call.region, &format!("loadbalancer/{family}/{name}/{id}"));
    let dns = dns(call.region, &name, &arn, network, internal);
    let balancer = Balancer {
        name,
        network,
        internal,
        dualstack,
        vpc,
        places: BTreeMap::new(),
        groups,
        created: call.now,
        active: false,
        dns,
        attributes: attributes::initial(&attributes::rows_of_balancer(network)),
        tags,
    };
    call.region.balancers.insert(&arn, balancer, call.now);
    place(call, &arn, wanted)?;
    call.region.after(call.now, call.config.timings.provisioning, Timer::Balancer(arn.clone()));
    let made = call.region.balancers.get(&arn).ok_or_else(|| missing(&arn))?;
    Ok(vec![members("LoadBalancers", [show::balancer(call.region, &arn, made)])])
}

pub(super) fn check_name(name: &str) -> Result<(), AwsError> {
    let good = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    if !good || name.starts_with('-') || name.ends_with('-') || name.starts_with("internal-") {
        let message =
            format!("The name '{name}' can only contain alphanumeric characters and hyphens, not at its ends");
        return Err(refuse("ValidationError", message));
    }
    Ok(())
}

fn dns(region: &mut Region, name: &str, arn: &str, network: bool, internal: bool) -> String {
    let prefix = if internal && !network { "internal-" } else { "" };
    if network {
        let id = arn.rsplit('/').next().unwrap_or_default();
        return format!("{name}-{id}.elb.{}.amazonaws.com", region.name);
    }
    let number = region.ids.number() % 10_000_000_000;
    format!("{prefix}{name}-{number}.{}.elb.amazonaws.com", region.name)
}

/// The subnets of a call, one for each zone, all of one network.
fn wanted(call: &Call<'_>, network: bool) -> Result<Vec<Wanted>, AwsError> {
    let form: &Tree = call.form;
    if form.has("Subnets") == form.has("SubnetMappings") {
        return Err(refuse("ValidationError", "You must specify either subnets or subnet mappings"));
    }
    let plain = form.list("Subnets").into_iter().map(|id| (id, None, None));
    let mapped = form.items("SubnetMappings").map(|it| {
        let private = it.text("PrivateIPv4Address").and_then(|ip| ip.parse().ok());
        (it.text_or("SubnetId", ""), it.text("AllocationId"), private)
    });
    let mut all: Vec<Wanted> = Vec::new();
    for (id, allocation, private) in plain.chain(mapped) {
        let subnet = call.region.subnets.get(id);
        let subnet = subnet.ok_or_else(|| refuse("SubnetNotFound", format!("The subnet ID '{id}' does not exist")))?;
        if all.iter().any(|it| it.zone == subnet.zone) {
            let message = format!(
                "A load balancer cannot be attached to multiple subnets in the same Availability Zone: {}",
                subnet.zone
            );
            return Err(refuse("InvalidConfigurationRequest", message));
        }
        if all.iter().any(|it| it.vpc != subnet.vpc) {
            return Err(refuse("InvalidConfigurationRequest", "All subnets must belong to the same VPC"));
        }
        if let Some(allocation) = allocation {
            check_allocation(call, allocation, network)?;
        }
        all.push(Wanted {
            zone: subnet.zone.clone(),
            subnet: id.to_owned(),
            vpc: subnet.vpc.clone(),
            allocation: allocation.map(str::to_owned),
            private,
        });
    }
    if !network && all.len() < 2 {
        let message = "At least two subnets in two different Availability Zones must be specified";
        return Err(refuse("ValidationError", message));
    }
    let internal = form.text("Scheme") == Some("internal");
    let open = |vpc: &str| call.region.gateways.iter().any(|(_, it)| it.vpc.as_deref() == Some(vpc));
    if let Some(bad) = all.iter().find(|it| !internal && form.has("Name") && !open(&it.vpc)) {
        return Err(refuse("InvalidSubnet", format!("VPC {} has no internet gateway", bad.vpc)));
    }
    Ok(all)
}

fn check_allocation(call: &Call<'_>, allocation: &str, network: bool) -> Result<(), AwsError> {
    if !network {
        return Err(refuse("InvalidConfigurationRequest", "Allocation IDs are for network load balancers only"));
    }
    let address = call.region.addresses.get(allocation);
    let missing = || refuse("AllocationIdNotFound", format!("The allocation IDs '{allocation}' do not exist"));
    if address.ok_or_else(missing)?.association.is_some() {
        return Err(refuse("ResourceInUse", format!("The allocation ID '{allocation}' is in use")));
    }
    Ok(())
}

fn groups(call: &Call<'_>, vpc: &str, network: bool) -> Result<Vec<String>, AwsError> {
    let given = call.form.list("SecurityGroups");
    if given.is_empty() && network {
        return Ok(Vec::new());
    }
    if given.len() > call.config.quotas.groups_per_balancer {
        return Err(refuse("InvalidConfigurationRequest", "Too many security groups"));
    }
    call.region.groups_for_interface(&given, vpc, call.config).map_err(|error| {
        let code =
            if error.code.ends_with("NotFound") { "InvalidSecurityGroup" } else { "InvalidConfigurationRequest" };
        refuse(code, error.message)
    })
}

/// Puts a load balancer into subnets: an interface for each zone.
fn place(call: &mut Call<'_>, arn: &str, wanted: Vec<Wanted>) -> Result<(), AwsError> {
    let balancer = call.region.balancers.get(arn).ok_or_else(|| missing(arn))?.clone();
    let mut places = BTreeMap::new();
    for want in wanted {
        if let Some(there) = balancer.places.get(&want.zone).filter(|it| it.subnet == want.subnet) {
            places.insert(want.zone, there.clone());
            continue;
        }
        let region = &mut *call.region;
        let (ipv4, _) = region.take_addresses(&want.subnet, want.private, 1, 0).map_err(|error| {
            refuse("InvalidSubnet", format!("Not enough IP space available in {}. {error}", want.subnet))
        })?;
        let attachment = InterfaceAttachment {
            id: format!("ela-attach-0{}", region.ids.hex(16)),
            instance: None,
            index: 1,
            delete_on_termination: false,
            at: call.now,
        };
        let resource = arn.splitn(6, ':').nth(5).unwrap_or_default().trim_start_matches("loadbalancer/");
        let interface = Interface {
            subnet: want.subnet.clone(),
            vpc: want.vpc,
            zone: want.zone.clone(),
            description: format!("ELB {resource}"),
            mac: region.mac(),
            ipv4,
            ipv6: Vec::new(),
            public: None,
            groups: balancer.groups.clone(),
            source_dest_check: false,
            attachment: Some(attachment),
            balancer: Some(arn.to_owned()),
            tags: BTreeMap::new(),
        };
        let public = !balancer.internal && want.allocation.is_none();
        let interface = Interface { public: public.then(|| region.public_address()), ..interface };
        let id = region.id(Kind::Interface);
        if let Some(allocation) = &want.allocation {
            region.associate(allocation, &id, interface.ipv4.first().copied(), call.now);
        }
        region.interfaces.insert(&id, interface, call.now);
        places.insert(want.zone, Place { subnet: want.subnet, interface: id, allocation: want.allocation });
    }
    let gone = balancer.places.into_values().filter(|it| !places.values().any(|there| there.interface == it.interface));
    gone.for_each(|it| call.region.let_interface_linger(call.config, &it.interface, call.now));
    call.region.balancers.edit(arn, call.now).into_iter().for_each(|it| it.places = places.clone());
    Ok(())
}

pub(super) fn delete(call: &mut Call<'_>) -> Outcome {
    let arn = call.must("LoadBalancerArn")?.to_owned();
    // One that is gone is as good as deleted.
    let Some(balancer) = call.region.balancers.get(&arn) else { return Ok(vec![]) };
    if balancer.attributes.get("deletion_protection.enabled").is_some_and(|it| it == "true") {
        let message = format!("Load balancer '{arn}' cannot be deleted because deletion protection is enabled");
        return Err(refuse("OperationNotPermitted", message));
    }
    let held: Vec<String> =
        call.region.listeners.iter().filter(|(_, it)| it.balancer == arn).map(|(id, _)| id.to_owned()).collect();
    for listener in held {
        call.region.drop_listener(call.config, &listener, call.now);
    }
    if let Some(balancer) = call.region.balancers.remove(&arn, call.now) {
        for place in balancer.places.into_values() {
            call.region.let_interface_linger(call.config, &place.interface, call.now);
        }
    }
    Ok(vec![])
}

pub(super) fn describe(call: &mut Call<'_>) -> Outcome {
    let region = &*call.region;
    let names = call.form.list("Names");
    if let Some(bad) = names.iter().find(|name| !region.balancers.all(call.at).any(|(_, it)| it.name == **name)) {
        return Err(refuse("LoadBalancerNotFound", format!("Load balancers '[{bad}]' not found")));
    }
    let named =
        |_: &crate::filters::Filters, _: &str, it: &Balancer| names.is_empty() || names.contains(&it.name.as_str());
    let (found, token) = call.describe(&region.balancers, "LoadBalancerArns", missing, named)?;
    let all = found.into_iter().map(|(arn, it)| show::balancer(region, arn, it));
    let mut answer = vec![members("LoadBalancers", all)];
    answer.extend(call.token(token));
    Ok(answer)
}

fn existing(call: &Call<'_>) -> Result<(String, Balancer), AwsError> {
    let arn = call.must("LoadBalancerArn")?;
    let found = call.region.balancers.seen(arn, call.at).ok_or_else(|| missing(arn))?;
    Ok((arn.to_owned(), found.clone()))
}

pub(super) fn set_subnets(call: &mut Call<'_>) -> Outcome {
    let (arn, balancer) = existing(call)?;
    let wanted = wanted(call, balancer.network)?;
    if wanted.iter().any(|it| it.vpc != balancer.vpc) {
        return Err(refuse("InvalidSubnet", "The subnets belong to another VPC than the load balancer"));
    }
    let moved = |want: &Wanted| balancer.places.get(&want.zone).is_some_and(|it| it.subnet != want.subnet);
    if balancer.network && wanted.iter().any(moved) {
        let message = "The subnet of an enabled Availability Zone of a network load balancer cannot be changed";
        return Err(refuse("InvalidConfigurationRequest", message));
    }
    place(call, &arn, wanted)?;
    let it = call.region.balancers.get(&arn).ok_or_else(|| missing(&arn))?;
    let zones = it.places.iter().map(|(zone, place)| {
        vec![text("ZoneName", zone), text("SubnetId", &place.subnet), members("LoadBalancerAddresses", [])]
    });
    let kind = text("IpAddressType", if it.dualstack { "dualstack" } else { "ipv4" });
    Ok(vec![members("AvailabilityZones", zones), kind])
}

pub(super) fn set_groups(call: &mut Call<'_>) -> Outcome {
    let (arn, balancer) = existing(call)?;
    if balancer.network && balancer.groups.is_empty() {
        let message = "Security groups cannot be set on a network load balancer that was created without one";
        return Err(refuse("InvalidConfigurationRequest", message));
    }
    let groups = groups(call, &balancer.vpc, balancer.network)?;
    for place in balancer.places.values() {
        let interface = call.region.interfaces.edit(&place.interface, call.now);
        interface.into_iter().for_each(|it| it.groups.clone_from(&groups));
    }
    call.region.balancers.edit(&arn, call.now).into_iter().for_each(|it| it.groups.clone_from(&groups));
    Ok(vec![crate::xml::member_texts("SecurityGroupIds", groups)])
}

pub(super) fn set_address_type(call: &mut Call<'_>) -> Outcome {
    let (arn, _) = existing(call)?;
    let kind = call.must("IpAddressType")?.to_owned();
    call.region.balancers.edit(&arn, call.now).into_iter().for_each(|it| it.dualstack = kind == "dualstack");
    Ok(vec![text("IpAddressType", kind)])
}

pub(super) fn describe_attributes(call: &mut Call<'_>) -> Outcome {
    Ok(vec![show::attributes(&existing(call)?.1.attributes)])
}

pub(super) fn modify_attributes(call: &mut Call<'_>) -> Outcome {
    let (arn, mut balancer) = existing(call)?;
    attributes::change(call.form, &attributes::rows_of_balancer(balancer.network), &mut balancer.attributes)?;
    let all = balancer.attributes;
    call.region.balancers.edit(&arn, call.now).into_iter().for_each(|it| it.attributes.clone_from(&all));
    Ok(vec![show::attributes(&all)])
}
