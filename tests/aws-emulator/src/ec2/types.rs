//! Instance types, where they are offered, what spot costs; regions and zones.

use super::catalogue::{InstanceType, TYPES};
use super::model::Tags;
use super::moment;
use crate::call::{Call, Outcome};
use crate::error::refuse;
use crate::filters::{Filters, one};
use crate::region::Region;
use crate::xml::{Node, group, item_texts, items, show, text};

pub(super) fn describe_types(call: &mut Call<'_>) -> Outcome {
    let wanted = call.form.list("InstanceType");
    let unknown: Vec<&str> = wanted.iter().copied().filter(|name| InstanceType::named(name).is_none()).collect();
    if !unknown.is_empty() {
        let message = format!("The following supplied instance types do not exist: [{}]", unknown.join(", "));
        return Err(refuse("InvalidInstanceType", message));
    }
    let filters = Filters::of(call.form);
    let none = Tags::new();
    let after = call.cursor()?;
    let mut all: Vec<&InstanceType> = TYPES
        .iter()
        .filter(|it| wanted.is_empty() || wanted.contains(&it.name))
        .filter(|it| it.name > after.as_str())
        .filter(|it| {
            filters.hold(&none, |name| match name {
                "instance-type" => one(it.name),
                "processor-info.supported-architecture" => one(it.architecture()),
                "vcpu-info.default-vcpus" => one(it.vcpus),
                "memory-info.size-in-mib" => one(it.memory_mib),
                "current-generation" => one(!it.name.starts_with("t2")),
                "supported-usage-class" => vec!["on-demand".to_owned(), "spot".to_owned()],
                "hypervisor" => one(if it.is_nitro() { "nitro" } else { "xen" }),
                "bare-metal" => one(false),
                _ => Vec::new(),
            })
        })
        .collect();
    all.sort_by_key(|it| it.name);
    let (page, token) = call.cut(all.into_iter(), |it| it.name.to_owned());
    let mut answer = vec![items("instanceTypeSet", page.into_iter().map(type_nodes))];
    answer.extend(call.token(token));
    Ok(answer)
}

fn type_nodes(it: &InstanceType) -> Vec<Node> {
    let cores = (it.vcpus / 2).max(1);
    let threads = if it.arm || it.vcpus == 1 { 1 } else { 2 };
    vec![
        text("instanceType", it.name),
        show("currentGeneration", !it.name.starts_with("t2")),
        show("freeTierEligible", it.name.ends_with(".micro")),
        item_texts("supportedUsageClasses", ["on-demand", "spot"]),
        item_texts("supportedRootDeviceTypes", ["ebs"]),
        item_texts("supportedVirtualizationTypes", ["hvm"]),
        show("bareMetal", false),
        text("hypervisor", if it.is_nitro() { "nitro" } else { "xen" }),
        group("processorInfo", vec![item_texts("supportedArchitectures", [it.architecture()])]),
        group(
            "vCpuInfo",
            vec![
                show("defaultVCpus", it.vcpus),
                show("defaultCores", if it.arm { it.vcpus } else { cores }),
                show("defaultThreadsPerCore", threads),
            ],
        ),
        group("memoryInfo", vec![show("sizeInMiB", it.memory_mib)]),
        show("instanceStorageSupported", false),
        group(
            "ebsInfo",
            vec![
                text("ebsOptimizedSupport", if it.is_nitro() { "default" } else { "unsupported" }),
                text("encryptionSupport", "supported"),
                text("nvmeSupport", if it.is_nitro() { "required" } else { "unsupported" }),
            ],
        ),
        group(
            "networkInfo",
            vec![
                text("networkPerformance", "Up to 10 Gigabit"),
                show("maximumNetworkInterfaces", it.interfaces),
                show("maximumNetworkCards", 1),
                show("defaultNetworkCardIndex", 0),
                show("ipv4AddressesPerInterface", it.addresses),
                show("ipv6AddressesPerInterface", it.addresses),
                show("ipv6Supported", true),
                text("enaSupport", if it.is_nitro() { "required" } else { "unsupported" }),
                show("efaSupported", false),
            ],
        ),
        show("hibernationSupported", false),
        show("burstablePerformanceSupported", it.name.starts_with('t')),
        show("dedicatedHostsSupported", false),
        show("autoRecoverySupported", true),
        item_texts("supportedBootModes", ["legacy-bios", "uefi"]),
    ]
}

pub(super) fn describe_offerings(call: &mut Call<'_>) -> Outcome {
    let filters = Filters::of(call.form);
    let none = Tags::new();
    let after = call.cursor()?;
    let by = call.form.text_or("LocationType", "region");
    let mut all: Vec<(&str, String)> = Vec::new();
    for kind in &TYPES {
        let zones: Vec<String> = call.region.zones().into_iter().filter(|zone| kind.is_offered_in(zone)).collect();
        let places = match by {
            "availability-zone" => zones,
            "availability-zone-id" => zones.iter().map(|zone| call.region.zone_id(zone)).collect(),
            _ => vec![call.region.name.clone()],
        };
        all.extend(places.into_iter().map(|place| (kind.name, place)));
    }
    all.sort();
    let key = |(kind, place): &(&str, String)| format!("{kind}\n{place}");
    let holds = |(kind, place): &(&str, String)| {
        filters.hold(&none, |name| match name {
            "instance-type" => one(kind),
            "location" => one(place),
            _ => Vec::new(),
        })
    };
    let (page, token) = call.cut(all.into_iter().filter(|it| key(it) > after && holds(it)), key);
    let one = |(kind, place)| vec![text("instanceType", kind), text("locationType", by), text("location", place)];
    let mut answer = vec![items("instanceTypeOfferingSet", page.into_iter().map(one))];
    answer.extend(call.token(token));
    Ok(answer)
}

pub(super) fn describe_prices(call: &mut Call<'_>) -> Outcome {
    let filters = Filters::of(call.form);
    let none = Tags::new();
    let after = call.cursor()?;
    let (kinds, zone) = (call.form.list("InstanceType"), call.form.text("AvailabilityZone"));
    let products = call.form.list("ProductDescription");
    let linux = products.is_empty() || products.iter().any(|it| it.starts_with("Linux/UNIX"));
    let mut all: Vec<(&InstanceType, String)> = Vec::new();
    for kind in TYPES.iter().filter(|it| linux && (kinds.is_empty() || kinds.contains(&it.name))) {
        let zones = call.region.zones().into_iter().filter(|it| zone.is_none_or(|zone| zone == it));
        all.extend(zones.filter(|zone| kind.is_offered_in(zone)).map(|zone| (kind, zone)));
    }
    let key = |(kind, zone): &(&InstanceType, String)| format!("{}\n{zone}", kind.name);
    all.sort_by_key(key);
    let holds = |(kind, zone): &(&InstanceType, String)| {
        filters.hold(&none, |name| match name {
            "instance-type" => one(kind.name),
            "availability-zone" => one(zone),
            "product-description" => one("Linux/UNIX"),
            _ => Vec::new(),
        })
    };
    let (page, token) = call.cut(all.into_iter().filter(|it| key(it) > after && holds(it)), key);
    let one = |(kind, zone): (&InstanceType, String)| {
        let price = kind.spot_price(&zone);
        vec![
            text("instanceType", kind.name),
            text("productDescription", "Linux/UNIX"),
            text("spotPrice", format!("0.{price:03}000")),
            text("timestamp", moment(call.now)),
            text("availabilityZone", zone),
        ]
    };
    let mut answer = vec![items("spotPriceHistorySet", page.into_iter().map(one))];
    answer.push(call.token(token).unwrap_or_else(|| text("nextToken", "")));
    Ok(answer)
}

pub(super) fn describe_regions(call: &mut Call<'_>) -> Outcome {
    let filters = Filters::of(call.form);
    let none = Tags::new();
    let wanted = call.form.list("RegionName");
    let endpoint = |name: &str| format!("ec2.{name}.amazonaws.com");
    if let Some(missing) = wanted.iter().find(|name| !call.config.regions.iter().any(|it| it == **name)) {
        return Err(refuse("InvalidParameterValue", format!("Invalid region provided: {missing}")));
    }
    let all = call.config.regions.iter().filter(|name| wanted.is_empty() || wanted.contains(&name.as_str()));
    let found = all.filter(|region| {
        filters.hold(&none, |name| match name {
            "region-name" => one(region),
            "endpoint" => one(endpoint(region)),
            "opt-in-status" => one("opt-in-not-required"),
            _ => Vec::new(),
        })
    });
    let facts = |name: &String| {
        let status = text("optInStatus", "opt-in-not-required");
        vec![text("regionName", name), text("regionEndpoint", endpoint(name)), status]
    };
    Ok(vec![items("regionInfo", found.map(facts))])
}

pub(super) fn describe_zones(call: &mut Call<'_>) -> Outcome {
    let region: &Region = call.region;
    let filters = Filters::of(call.form);
    let none = Tags::new();
    let (names, ids) = (call.form.list("ZoneName"), call.form.list("ZoneId"));
    if let Some(missing) = names.iter().find(|name| !region.zones().iter().any(|zone| zone == **name)) {
        return Err(refuse("InvalidParameterValue", format!("Invalid availability zone: [{missing}]")));
    }
    let found = region.zones().into_iter().filter(|zone| {
        let id = region.zone_id(zone);
        (names.is_empty() || names.contains(&zone.as_str()))
            && (ids.is_empty() || ids.contains(&id.as_str()))
            && filters.hold(&none, |name| match name {
                "zone-name" => one(zone),
                "zone-id" => one(&id),
                "state" => one("available"),
                "region-name" => one(&region.name),
                "zone-type" => one("availability-zone"),
                "opt-in-status" => one("opt-in-not-required"),
                _ => Vec::new(),
            })
    });
    let facts = |zone: String| {
        vec![
            text("zoneState", "available"),
            text("optInStatus", "opt-in-not-required"),
            items("messageSet", []),
            text("regionName", &region.name),
            text("zoneId", region.zone_id(&zone)),
            text("groupName", format!("{}-zg-1", region.name)),
            text("networkBorderGroup", &region.name),
            text("zoneType", "availability-zone"),
            text("zoneName", zone),
        ]
    };
    Ok(vec![items("availabilityZoneInfo", found.map(facts))])
}
