//! Ordering instances: from a request and its launch template to instances with interfaces and disks.

use super::catalogue::InstanceType;
use super::model::{
    AttachState, Disk, Image, Instance, InstanceState, Interface, InterfaceAttachment, MetadataOptions, Spot, Tags,
    Volume, VolumeAttachment, VolumeState,
};
use super::{show, tags};
use crate::call::{Call, Outcome};
use crate::config::Config;
use crate::error::{AwsError, bad_value, refuse, refuse_with};
use crate::form::Tree;
use crate::iam::Verdict;
use crate::ids::Kind;
use crate::region::{Region, Timer};
use jiff::Timestamp;
use std::collections::BTreeMap;

/// The most instances of one call.
const MAX_ORDER: u32 = 10_000;

/// An order that can be carried out.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    spec: Tree,
    image: String,
    facts: Image,
    pub(super) kind: &'static InstanceType,
    pub(super) subnet: String,
    pub(super) zone: String,
    vpc: String,
    pub(super) spot: bool,
    groups: Vec<String>,
    profile: Option<String>,
    tags: BTreeMap<String, Tags>,
    token: Option<String>,
}

pub(super) fn run_instances(call: &mut Call<'_>) -> Outcome {
    let mut spec = call.form.clone();
    if let Some(template) = spec.take("LaunchTemplate") {
        spec.fill_from(&super::templates::data(call, &template)?);
    }
    let (least, most) = (counts(call)?.0, counts(call)?.1);
    let plan = plan(call, spec)?;
    let room = room(call, &plan, most);
    let count = match room {
        Err(error) => return Err(error),
        Ok(room) if room < least => return Err(room_error(call, &plan, room + 1)),
        Ok(room) => room.min(most),
    };
    let (reservation, ids) = launch(call.region, call.config, &plan, count, call.now)?;
    Ok(show::reservation(call.region, &reservation, &ids))
}

fn counts(call: &Call<'_>) -> Result<(u32, u32), AwsError> {
    let (least, most): (u32, u32) =
        (call.form.small("MinCount").unwrap_or(1), call.form.small("MaxCount").unwrap_or(1));
    if least > most || most > MAX_ORDER {
        return Err(bad_value(&least.to_string(), "MinCount"));
    }
    if most > 1 && call.form.has("PrivateIpAddress") {
        let message = "You may specify only one instance when you specify a private IP address.";
        return Err(refuse("InvalidParameterCombination", message));
    }
    Ok((least, most))
}

/// Checks what an order names, and fills in what it leaves open.
pub(super) fn plan(call: &Call<'_>, spec: Tree) -> Result<Plan, AwsError> {
    let region = &*call.region;
    let image = spec.text("ImageId").ok_or_else(|| missing("ImageId"))?.to_owned();
    let facts = region.images.get(&image).ok_or_else(|| Kind::Image.missing(&image))?.clone();
    let name = spec.text_or("InstanceType", "m5.large");
    let kind = InstanceType::named(name)
        .ok_or_else(|| refuse("InvalidParameterValue", format!("Invalid value '{name}' for InstanceType.")))?;
    if kind.architecture() != facts.architecture {
        let message = format!(
            "The architecture '{}' of the specified instance type does not match the architecture '{}' of the specified \
             AMI. Specify an instance type and an AMI that have matching architectures, and try again.",
            kind.architecture(),
            facts.architecture
        );
        return Err(refuse("InvalidParameterValue", message));
    }
    let subnet = subnet(region, &spec)?;
    let place = region.subnets.get(&subnet).ok_or_else(|| Kind::Subnet.missing(&subnet))?;
    if !kind.is_offered_in(&place.zone) {
        let message = format!(
            "Your requested instance type ({name}) is not supported in your requested Availability Zone ({}).",
            place.zone
        );
        return Err(refuse("Unsupported", message));
    }
    let groups = groups(region, &spec, &place.vpc, call.config)?;
    let profile = profile(call, &spec)?;
    let words = ["instance", "volume", "network-interface", "spot-instances-request"];
    Ok(Plan {
        image,
        facts,
        kind,
        zone: place.zone.clone(),
        vpc: place.vpc.clone(),
        subnet: subnet.clone(),
        spot: spec.text("InstanceMarketOptions.MarketType") == Some("spot"),
        groups,
        profile,
        tags: tags::given(&spec, &words, call.config)?,
        token: spec.text("ClientToken").map(str::to_owned),
        spec,
    })
}

fn missing(name: &str) -> AwsError {
    refuse("MissingParameter", format!("The request must contain the parameter {name}"))
}

fn subnet(region: &Region, spec: &Tree) -> Result<String, AwsError> {
    let first = spec.items("NetworkInterface").next();
    if first.is_some() && (spec.has("SubnetId") || spec.has("SecurityGroupId")) {
        let message = "Network interfaces and an instance-level subnet ID or security groups may not be specified on the \
                       same request";
        return Err(refuse("InvalidParameterCombination", message));
    }
    if let Some(attached) = first.and_then(|interface| interface.text("NetworkInterfaceId")) {
        let interface = region.interfaces.get(attached).ok_or_else(|| Kind::Interface.missing(attached))?;
        if interface.attachment.is_some() {
            return Err(in_use(attached));
        }
        return Ok(interface.subnet.clone());
    }
    if let Some(id) = first.and_then(|interface| interface.text("SubnetId")).or(spec.text("SubnetId")) {
        let subnet = region.subnets.get(id).ok_or_else(|| Kind::Subnet.missing(id))?;
        let zone = spec.text_or("Placement.AvailabilityZone", &subnet.zone);
        return if zone == subnet.zone { Ok(id.to_owned()) } else { Err(bad_value(zone, "availabilityZone")) };
    }
    let zone = spec.text("Placement.AvailabilityZone");
    if let Some(zone) = zone.filter(|zone| !region.zones().iter().any(|known| known == zone)) {
        return Err(refuse("InvalidParameterValue", format!("Invalid availability zone: [{zone}]")));
    }
    let fits = |subnet: &super::model::Subnet| subnet.default_for_zone && zone.is_none_or(|zone| zone == subnet.zone);
    let found = region.subnets.iter().filter(|(_, subnet)| fits(subnet)).min_by_key(|(_, subnet)| subnet.zone.clone());
    let none = || refuse("MissingInput", "No subnets found for the default VPC. Please specify a subnet.");
    found.map(|(id, _)| id.to_owned()).ok_or_else(none)
}

pub(super) fn in_use(interface: &str) -> AwsError {
    refuse("InvalidNetworkInterface.InUse", format!("Interface: [{interface}] in use."))
}

fn groups(region: &Region, spec: &Tree, vpc: &str, config: &Config) -> Result<Vec<String>, AwsError> {
    let first = spec.items("NetworkInterface").next();
    let mut given = first.map(|interface| interface.list("SecurityGroupId")).unwrap_or_default();
    given.extend(spec.list("SecurityGroupId"));
    region.groups_for_interface(&given, vpc, config)
}

/// The instance profile, which must exist and whose role the caller must be allowed to pass on.
fn profile(call: &Call<'_>, spec: &Tree) -> Result<Option<String>, AwsError> {
    let arn_of = |name: &str| format!("arn:aws:iam::{}:instance-profile/{name}", call.config.account);
    let (shown, name) = match (spec.text("IamInstanceProfile.Name"), spec.text("IamInstanceProfile.Arn")) {
        (None, None) => return Ok(None),
        (Some(name), _) => (name, name),
        (None, Some(arn)) => (arn, arn.rsplit_once('/').map_or("", |(_, name)| name)),
    };
    let role = call.iam.profiles.get(name).filter(|_| shown == name || shown == arn_of(name));
    let role = role.and_then(|role| call.iam.role(role)).ok_or_else(|| {
        let message = format!(
            "Value ({shown}) for parameter iamInstanceProfile.name is invalid. Invalid IAM Instance Profile name"
        );
        refuse("InvalidParameterValue", message)
    })?;
    if let Some(caller) = call.caller {
        let mut context = caller.context.clone();
        context.insert("iam:passedtoservice".to_owned(), vec!["ec2.amazonaws.com".to_owned()]);
        if caller.verdict("iam:PassRole", &role.arn, &context) != Verdict::Allowed {
            let message =
                format!("User: {} is not authorized to perform: iam:PassRole on resource: {}", caller.arn, role.arn);
            return Err(crate::access::denied(crate::table::Service::Ec2, &message));
        }
    }
    Ok(Some(arn_of(name)))
}

/// How many instances of a plan fit, at most `most`; the error of the tightest bound when none does.
pub(super) fn room(call: &Call<'_>, plan: &Plan, most: u32) -> Result<u32, AwsError> {
    let fits = (1..=most).rev().find(|count| short_of(call, plan, *count).is_none());
    fits.ok_or_else(|| room_error(call, plan, 1))
}

fn room_error(call: &Call<'_>, plan: &Plan, count: u32) -> AwsError {
    short_of(call, plan, count).unwrap_or_else(|| capacity_error(plan))
}

/// What `count` instances of the plan would lack.
fn short_of(call: &Call<'_>, plan: &Plan, count: u32) -> Option<AwsError> {
    let region = &*call.region;
    let key = (plan.kind.name.to_owned(), plan.zone.clone(), plan.spot);
    let lacks = region.capacity.get(&key).is_some_and(|left| *left < count);
    if lacks || region.closed_zones.contains(&plan.zone) {
        return Some(capacity_error(plan));
    }
    let quota = if plan.spot { call.config.quotas.spot_vcpus } else { call.config.quotas.vcpus };
    let wanted = region.vcpus[usize::from(plan.spot)] + u64::from(plan.kind.vcpus) * u64::from(count);
    if wanted > quota {
        return Some(match plan.spot {
            true => refuse("MaxSpotInstanceCountExceeded", "Max spot instance count exceeded"),
            false => refuse(
                "VcpuLimitExceeded",
                format!("You have requested more vCPU capacity than your current vCPU limit of {quota} allows."),
            ),
        });
    }
    let free = region.pools.get(&plan.subnet).map_or(0, super::model::Pool::free);
    let brings_interface = plan.spec.items("NetworkInterface").any(|interface| interface.has("NetworkInterfaceId"));
    if !brings_interface && free < usize::try_from(count).unwrap_or(usize::MAX) {
        let message =
            format!("The specified subnet does not have enough free addresses to satisfy the request: {}", plan.subnet);
        return Some(refuse("InsufficientFreeAddressesInSubnet", message));
    }
    None
}

fn capacity_error(plan: &Plan) -> AwsError {
    let message = format!(
        "We currently do not have sufficient {} capacity in the Availability Zone you requested ({}). Our system will be \
         working on provisioning additional capacity.",
        plan.kind.name, plan.zone
    );
    let code = "InsufficientInstanceCapacity";
    if plan.spot {
        refuse_with(500, code, "There is no Spot capacity available that matches your request.")
    } else {
        refuse_with(500, code, message)
    }
}

/// Carries a plan out. Whatever can be refused is refused before anything is made.
pub(super) fn launch(
    region: &mut Region,
    config: &Config,
    plan: &Plan,
    count: u32,
    now: Timestamp,
) -> Result<(String, Vec<String>), AwsError> {
    let reservation = region.id(Kind::Reservation);
    let mut ids = Vec::new();
    for index in 0..count {
        let id = region.id(Kind::Instance);
        let interfaces = add_interfaces(region, plan, &id, now)?;
        let disks = add_disks(region, plan, &id, now);
        let primary = interfaces.get(&0).and_then(|eni| region.interfaces.get(eni));
        let address = primary.and_then(|eni| eni.ipv4.first().copied());
        let address = address.ok_or_else(|| bad_value("", "NetworkInterface.DeviceIndex"))?;
        let instance = instance(region, plan, (&reservation, index, &id), (address, interfaces, disks), now);
        region.instances.insert(&id, instance, now);
        let when = region.after(now, config.timings.pending, Timer::Instance(id.clone()));
        region.instances.edit(&id, now).into_iter().for_each(|it| it.moves = Some(when));
        region.take_host(plan.kind, &plan.zone, plan.spot);
        region.tell_state(&id, InstanceState::Pending, now);
        ids.push(id);
    }
    Ok((reservation, ids))
}

fn instance(
    region: &mut Region,
    plan: &Plan,
    (reservation, launch_index, _): (&str, u32, &str),
    (private_address, interfaces, disks): (std::net::Ipv4Addr, BTreeMap<u8, String>, BTreeMap<String, Disk>),
    now: Timestamp,
) -> Instance {
    let spec = &plan.spec;
    let flag = |path: &str| spec.flag(path).unwrap_or(false);
    let spot = plan.spot.then(|| Spot { request: region.id(Kind::Spot), ..Spot::default() });
    Instance {
        reservation: reservation.to_owned(),
        launch_index,
        image: plan.image.clone(),
        kind: plan.kind.name.to_owned(),
        zone: plan.zone.clone(),
        subnet: plan.subnet.clone(),
        vpc: plan.vpc.clone(),
        state: InstanceState::Pending,
        moves: None,
        launched: now,
        began: now,
        private_address,
        interfaces,
        disks,
        root_device: plan.facts.root_device.clone(),
        key_name: spec.text("KeyName").map(str::to_owned),
        user_data: spec.text("UserData").map(str::to_owned),
        profile: plan.profile.clone(),
        metadata: MetadataOptions {
            tokens_required: spec.text("MetadataOptions.HttpTokens") == Some("required"),
            hop_limit: spec.small("MetadataOptions.HttpPutResponseHopLimit").unwrap_or(1),
            enabled: spec.text("MetadataOptions.HttpEndpoint") != Some("disabled"),
            ipv6: spec.text("MetadataOptions.HttpProtocolIpv6") == Some("enabled"),
            tags: spec.text("MetadataOptions.InstanceMetadataTags") == Some("enabled"),
        },
        source_dest_check: true,
        termination_protection: flag("DisableApiTermination"),
        stop_protection: flag("DisableApiStop"),
        terminate_on_shutdown: spec.text("InstanceInitiatedShutdownBehavior") == Some("terminate"),
        ebs_optimized: flag("EbsOptimized"),
        resource_name_host: spec.text("PrivateDnsNameOptions.HostnameType") == Some("resource-name"),
        spot,
        client_token: plan.token.clone(),
        reason: None,
        events: Vec::new(),
        impaired: (false, false),
        tags: plan.tags.get("instance").cloned().unwrap_or_default(),
    }
}

fn add_interfaces(
    region: &mut Region,
    plan: &Plan,
    instance: &str,
    now: Timestamp,
) -> Result<BTreeMap<u8, String>, AwsError> {
    let none = Tree::default();
    let specs: Vec<&Tree> = plan.spec.items("NetworkInterface").collect();
    let specs = if specs.is_empty() { vec![&none] } else { specs };
    let mut made = BTreeMap::new();
    for (position, spec) in specs.into_iter().enumerate() {
        let index = spec.small("DeviceIndex").or(u8::try_from(position).ok()).unwrap_or(0);
        let attachment = InterfaceAttachment {
            id: region.id(Kind::Attachment),
            instance: Some(instance.to_owned()),
            index,
            delete_on_termination: spec.flag("DeleteOnTermination").unwrap_or(!spec.has("NetworkInterfaceId")),
            at: now,
        };
        let id = match spec.text("NetworkInterfaceId") {
            Some(id) => id.to_owned(),
            None => add_interface(region, plan, spec, now)?,
        };
        let interface = region.interfaces.edit(&id, now).ok_or_else(|| Kind::Interface.missing(&id))?;
        if interface.attachment.is_some() {
            return Err(in_use(&id));
        }
        interface.attachment = Some(attachment);
        made.insert(index, id);
    }
    Ok(made)
}

fn add_interface(region: &mut Region, plan: &Plan, spec: &Tree, now: Timestamp) -> Result<String, AwsError> {
    let subnet_id = spec.text_or("SubnetId", &plan.subnet).to_owned();
    let subnet = region.subnets.get(&subnet_id).ok_or_else(|| Kind::Subnet.missing(&subnet_id))?.clone();
    let wanted =
        spec.text("PrivateIpAddress").or(plan.spec.text("PrivateIpAddress")).and_then(|text| text.parse().ok());
    let more = spec.small("SecondaryPrivateIpAddressCount").unwrap_or(0);
    let own6 = spec.small("Ipv6AddressCount").or(plan.spec.small("Ipv6AddressCount"));
    let more6 = own6.unwrap_or(u32::from(subnet.ipv6_on_creation));
    let (ipv4, ipv6) = region.take_addresses(&subnet_id, wanted, 1 + more, more6)?;
    let public =
        spec.flag("AssociatePublicIpAddress").unwrap_or(subnet.public_on_launch).then(|| region.public_address());
    let interface = Interface {
        vpc: subnet.vpc,
        zone: subnet.zone,
        description: spec.text_or("Description", "").to_owned(),
        mac: region.mac(),
        ipv4,
        ipv6,
        public,
        groups: plan.groups.clone(),
        source_dest_check: true,
        attachment: None,
        balancer: None,
        tags: plan.tags.get("network-interface").cloned().unwrap_or_default(),
        subnet: subnet_id,
    };
    let id = region.id(Kind::Interface);
    region.interfaces.insert(&id, interface, now);
    Ok(id)
}

fn add_disks(region: &mut Region, plan: &Plan, instance: &str, now: Timestamp) -> BTreeMap<String, Disk> {
    let mut wanted: BTreeMap<String, Tree> = BTreeMap::new();
    wanted.insert(plan.facts.root_device.clone(), Tree::default());
    for mapping in plan.spec.items("BlockDeviceMapping") {
        let device = mapping.text_or("DeviceName", "").to_owned();
        if mapping.has("NoDevice") {
            wanted.remove(&device);
        } else {
            wanted.insert(device, mapping.at("Ebs").cloned().unwrap_or_default());
        }
    }
    let mut disks = BTreeMap::new();
    for (device, spec) in wanted {
        let is_root = device == plan.facts.root_device;
        let otherwise = if is_root { plan.facts.root_size } else { 8 };
        let attached = VolumeAttachment { device: device.clone(), state: AttachState::Attached, at: now, moves: None };
        let volume = Volume {
            zone: plan.zone.clone(),
            shape: super::volumes::shape(&spec, "VolumeSize", otherwise),
            state: VolumeState::InUse,
            created: now,
            snapshot: spec.text("SnapshotId").map(str::to_owned).or(is_root.then(|| plan.facts.root_snapshot.clone())),
            encrypted: spec.flag("Encrypted").unwrap_or(false),
            key: spec.text("KmsKeyId").map(str::to_owned),
            attachments: BTreeMap::from([(instance.to_owned(), attached)]),
            modification: None,
            tags: plan.tags.get("volume").cloned().unwrap_or_default(),
        };
        let id = region.id(Kind::Volume);
        region.volumes.insert(&id, volume, now);
        let delete_on_termination = spec.flag("DeleteOnTermination").unwrap_or(true);
        disks.insert(device, Disk { volume: id, delete_on_termination });
    }
    disks
}
