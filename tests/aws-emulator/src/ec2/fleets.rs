//! Fleets that are filled at once: over types and zones, as far as there is capacity.

use super::launch::{self, Plan};
use super::{tags, templates};
use crate::call::{Call, Outcome};
use crate::error::{AwsError, refuse};
use crate::form::Tree;
use crate::ids::Kind;
use crate::xml::{Node, group, item_texts, items, text};

/// The most ways of one fleet.
const MAX_WAYS: usize = 300;

/// One way to get an instance: template and override.
struct Way {
    template: Tree,
    over: Tree,
    spec: Tree,
}

pub(super) fn create(call: &mut Call<'_>) -> Outcome {
    if call.form.text("Type") != Some("instant") {
        return Err(refuse("InvalidParameterValue", "Only fleets of type instant are supported."));
    }
    tags::given(call.form, &["fleet", "instance", "volume", "network-interface"], call.config)?;
    let ways = ways(call)?;
    let target = |name: &str| call.form.small::<u32>(&format!("TargetCapacitySpecification.{name}"));
    let total = target("TotalTargetCapacity").unwrap_or(0);
    let spot_first = call.form.text("TargetCapacitySpecification.DefaultTargetCapacityType") == Some("spot");
    let on_demand = target("OnDemandTargetCapacity").unwrap_or(if spot_first { 0 } else { total }).min(total);
    let spot = target("SpotTargetCapacity").unwrap_or(total - on_demand);
    if on_demand + spot > total {
        let message = "The sum of on-demand and spot target capacity exceeds the total target capacity";
        return Err(refuse("InvalidTargetCapacitySpecification", message));
    }
    let (mut made, mut faults) = (Vec::new(), Vec::new());
    for (count, market, options) in [(on_demand, "on-demand", "OnDemandOptions"), (spot, "spot", "SpotOptions")] {
        let least: u32 = call.form.small(&format!("{options}.MinTargetCapacity")).unwrap_or(0);
        fill(call, &ways, count, least, market, (&mut made, &mut faults))?;
    }
    let id = format!("{}{}", Kind::Fleet.prefix(), call.region.ids.uuid());
    Ok(vec![text("fleetId", id), items("errorSet", faults), items("fleetInstanceSet", made)])
}

fn ways(call: &Call<'_>) -> Result<Vec<Way>, AwsError> {
    let mut ways = Vec::new();
    for config in call.form.items("LaunchTemplateConfigs") {
        let template = config.at("LaunchTemplateSpecification").cloned().unwrap_or_default();
        let data = templates::data(call, &template)?;
        let none = Tree::default();
        let overrides: Vec<&Tree> = config.items("Overrides").collect();
        let overrides = if overrides.is_empty() { vec![&none] } else { overrides };
        for over in overrides {
            let mut spec = Tree::default();
            for name in ["InstanceType", "SubnetId", "ImageId"] {
                over.text(name).into_iter().for_each(|value| spec.set(name, value));
            }
            if let Some(zone) = over.text("AvailabilityZone") {
                spec.set("Placement.AvailabilityZone", zone);
            }
            spec.fill_from(&data);
            add_tags(call, &mut spec);
            ways.push(Way { template: template.clone(), over: over.clone(), spec });
        }
    }
    if ways.is_empty() || ways.len() > MAX_WAYS {
        return Err(refuse("InvalidParameterValue", "A fleet needs between 1 and 300 launch template overrides"));
    }
    let priority = |way: &Way| way.over.text("Priority").and_then(|it| it.parse::<f64>().ok()).unwrap_or(f64::MAX);
    if call.form.text("OnDemandOptions.AllocationStrategy") == Some("prioritized") {
        ways.sort_by(|a, b| priority(a).total_cmp(&priority(b)));
    }
    Ok(ways)
}

/// Tags that the fleet gives its instances go beside those of the template.
fn add_tags(call: &Call<'_>, spec: &mut Tree) {
    let mut place = spec.items("TagSpecification").count();
    for given in call.form.items("TagSpecification") {
        let kind = given.text_or("ResourceType", "");
        if kind == "fleet" {
            continue;
        }
        let there = spec.items("TagSpecification").position(|it| it.text("ResourceType") == Some(kind));
        let at = there.map_or_else(
            || {
                place += 1;
                place
            },
            |there| there + 1,
        );
        spec.set(&format!("TagSpecification.{at}.ResourceType"), kind);
        let has = spec.items("TagSpecification").nth(at - 1).map_or(0, |it| it.items("Tag").count());
        for (number, tag) in given.items("Tag").enumerate() {
            let path = format!("TagSpecification.{at}.Tag.{}", has + number + 1);
            spec.set(&format!("{path}.Key"), tag.text_or("Key", ""));
            spec.set(&format!("{path}.Value"), tag.text_or("Value", ""));
        }
    }
}

/// Gets `count` instances on one market, or none when fewer than `least` can be had.
fn fill(
    call: &mut Call<'_>,
    ways: &[Way],
    count: u32,
    least: u32,
    market: &'static str,
    (made, faults): (&mut Vec<Vec<Node>>, &mut Vec<Vec<Node>>),
) -> Result<(), AwsError> {
    let mut orders: Vec<(&Way, Plan, u32)> = Vec::new();
    let mut left = count;
    for way in ways {
        if left == 0 {
            break;
        }
        let mut spec = way.spec.clone();
        spec.set("InstanceMarketOptions.MarketType", market);
        let planned =
            launch::plan(call, spec).and_then(|plan| launch::room(call, &plan, left).map(|room| (plan, room)));
        match planned {
            Ok((plan, room)) => {
                // Two ways may draw on one pool: what an earlier one takes is not there for a later one.
                let taken: u32 = orders.iter().filter(|(_, it, _)| it.same_pool(&plan)).map(|it| it.2).sum();
                let room = room.saturating_sub(taken).min(left);
                left -= room;
                if room > 0 {
                    orders.push((way, plan, room));
                }
            }
            Err(error) => faults.push(fault(way, market, &error)),
        }
    }
    if count - left < least {
        return Ok(());
    }
    for (way, plan, room) in orders {
        let (_, ids) = launch::launch(call.region, call.config, &plan, room, call.now)?;
        let mut nodes = described(way, market);
        nodes.push(item_texts("instanceIds", ids));
        nodes.push(text("instanceType", plan.kind.name));
        made.push(nodes);
    }
    Ok(())
}

impl Plan {
    fn same_pool(&self, other: &Self) -> bool {
        self.kind == other.kind && self.zone == other.zone && self.spot == other.spot
    }
}

fn described(way: &Way, market: &str) -> Vec<Node> {
    let members = |tree: &Tree, names: &[(&str, &'static str)]| {
        names.iter().filter_map(|(asked, shown)| tree.text(asked).map(|value| text(shown, value))).collect::<Vec<_>>()
    };
    let template = members(
        &way.template,
        &[
            ("LaunchTemplateId", "launchTemplateId"),
            ("LaunchTemplateName", "launchTemplateName"),
            ("Version", "version"),
        ],
    );
    let over = members(
        &way.over,
        &[
            ("InstanceType", "instanceType"),
            ("SubnetId", "subnetId"),
            ("AvailabilityZone", "availabilityZone"),
            ("MaxPrice", "maxPrice"),
            ("Priority", "priority"),
            ("WeightedCapacity", "weightedCapacity"),
            ("ImageId", "imageId"),
        ],
    );
    let inner = vec![group("launchTemplateSpecification", template), group("overrides", over)];
    vec![group("launchTemplateAndOverrides", inner), text("lifecycle", market)]
}

fn fault(way: &Way, market: &str, error: &AwsError) -> Vec<Node> {
    let mut nodes = described(way, market);
    nodes.push(text("errorCode", error.code.clone()));
    nodes.push(text("errorMessage", &error.message));
    nodes
}
