//! Route tables and their routes; where a route's target is gone or down, it is a `blackhole`.

use super::model::{InstanceState, RouteTable, RouteTarget};
use super::vpcs::dependency;
use super::{show, tags};
use crate::call::{Call, Outcome};
use crate::error::{AwsError, refuse};
use crate::filters::{maybe, one};
use crate::ids::Kind;
use crate::region::Region;
use crate::xml::{Node, done, group, items, show as shown, text};
use std::collections::BTreeMap;

pub(super) fn create(call: &mut Call<'_>) -> Outcome {
    let tags = tags::of(call, Kind::RouteTable)?;
    let vpc_id = call.must("VpcId")?.to_owned();
    let vpc = call.region.vpcs.get(&vpc_id).ok_or_else(|| Kind::Vpc.missing(&vpc_id))?;
    if call.region.tables.iter().filter(|(_, it)| it.vpc == vpc_id).count() >= call.config.quotas.tables_per_vpc {
        return Err(refuse("RouteTableLimitExceeded", "The maximum number of route tables has been reached."));
    }
    let local = [Some(vpc.cidr.to_string()), vpc.cidr6.map(|net| net.to_string())];
    let routes = local.into_iter().flatten().map(|net| (net, RouteTarget::Local)).collect();
    let id = call.region.id(Kind::RouteTable);
    let table = RouteTable { vpc: vpc_id, routes, associations: BTreeMap::new(), tags };
    let answer = nodes(call.region, &id, &table);
    call.region.tables.insert(&id, table, call.now);
    Ok(vec![group("routeTable", answer)])
}

pub(super) fn delete(call: &mut Call<'_>) -> Outcome {
    let id = call.must("RouteTableId")?.to_owned();
    let table = call.region.tables.get(&id).ok_or_else(|| Kind::RouteTable.missing(&id))?;
    if !table.associations.is_empty() {
        return Err(dependency("routeTable", &id));
    }
    call.region.tables.remove(&id, call.now);
    Ok(done())
}

pub(super) fn associate(call: &mut Call<'_>) -> Outcome {
    let (id, subnet_id) = (call.must("RouteTableId")?.to_owned(), call.must("SubnetId")?.to_owned());
    let region = &mut *call.region;
    let subnet = region.subnets.get(&subnet_id).ok_or_else(|| Kind::Subnet.missing(&subnet_id))?;
    let table = region.tables.get(&id).ok_or_else(|| Kind::RouteTable.missing(&id))?;
    if table.vpc != subnet.vpc {
        let message = format!("Route table {id} and subnet {subnet_id} belong to different networks");
        return Err(refuse("InvalidParameterValue", message));
    }
    let linked = |it: &RouteTable| {
        it.associations.iter().find(|(_, subnet)| subnet.as_ref() == Some(&subnet_id)).map(|(id, _)| id.clone())
    };
    let held =
        region.tables.iter().find_map(|(other, it)| linked(it).map(|association| (other.to_owned(), association)));
    let association = match held {
        Some((other, association)) if other == id => association,
        Some(_) => {
            let message =
                format!("The specified association for route table {id} conflicts with an existing association");
            return Err(refuse("Resource.AlreadyAssociated", message));
        }
        None => {
            let association = region.id(Kind::TableAssociation);
            if let Some(table) = region.tables.edit(&id, call.now) {
                table.associations.insert(association.clone(), Some(subnet_id));
            }
            association
        }
    };
    let state = group("associationState", vec![text("state", "associated")]);
    Ok(vec![text("associationId", association), state])
}

pub(super) fn disassociate(call: &mut Call<'_>) -> Outcome {
    let id = call.must("AssociationId")?.to_owned();
    let region = &mut *call.region;
    let held = region.tables.iter().find(|(_, it)| it.associations.contains_key(&id));
    let (table, subnet) = held
        .map(|(table, it)| (table.to_owned(), it.associations.get(&id).cloned().flatten()))
        .ok_or_else(|| Kind::TableAssociation.missing(&id))?;
    if subnet.is_none() {
        let message = format!("cannot disassociate the main route table association {id}");
        return Err(refuse("InvalidParameterValue", message));
    }
    if let Some(table) = region.tables.edit(&table, call.now) {
        table.associations.remove(&id);
    }
    Ok(done())
}

pub(super) fn create_route(call: &mut Call<'_>) -> Outcome {
    let (id, destination, target) = route(call)?;
    let quota = call.config.quotas.routes_per_table;
    let table = call.region.tables.get(&id).ok_or_else(|| Kind::RouteTable.missing(&id))?;
    match table.routes.get(&destination) {
        // Asked again, word for word: done.
        Some(there) if *there == target => return Ok(done()),
        Some(_) => {
            let message = format!("The route identified by {destination} already exists.");
            return Err(refuse("RouteAlreadyExists", message));
        }
        None => {}
    }
    let family = |cidr: &str| cidr.contains(':');
    let used =
        table.routes.iter().filter(|(cidr, it)| **it != RouteTarget::Local && family(cidr) == family(&destination));
    if used.count() >= quota {
        let message = format!("The maximum number of routes has been reached in {id}.");
        return Err(refuse("RouteLimitExceeded", message));
    }
    if let Some(table) = call.region.tables.edit(&id, call.now) {
        table.routes.insert(destination, target);
    }
    Ok(done())
}

pub(super) fn replace_route(call: &mut Call<'_>) -> Outcome {
    let (id, destination, target) = route(call)?;
    let table = call.region.tables.get(&id).ok_or_else(|| Kind::RouteTable.missing(&id))?;
    match table.routes.get(&destination) {
        None => {
            let message =
                format!("There is no route defined for '{destination}' in the route table. Use CreateRoute instead.");
            return Err(refuse("InvalidParameterValue", message));
        }
        Some(RouteTarget::Local) => return Err(local_route(&destination)),
        Some(_) => {}
    }
    if let Some(table) = call.region.tables.edit(&id, call.now) {
        table.routes.insert(destination, target);
    }
    Ok(vec![])
}

pub(super) fn delete_route(call: &mut Call<'_>) -> Outcome {
    let (id, destination) = (call.must("RouteTableId")?.to_owned(), destination(call)?);
    let table = call.region.tables.get(&id).ok_or_else(|| Kind::RouteTable.missing(&id))?;
    match table.routes.get(&destination) {
        None => return Err(no_route(&id, &destination)),
        Some(RouteTarget::Local) => return Err(local_route(&destination)),
        Some(_) => {}
    }
    if let Some(table) = call.region.tables.edit(&id, call.now) {
        table.routes.remove(&destination);
    }
    Ok(vec![])
}

fn no_route(table: &str, destination: &str) -> AwsError {
    let message = format!("no route with destination-cidr-block {destination} in route table {table}");
    refuse("InvalidRoute.NotFound", message)
}

fn local_route(destination: &str) -> AwsError {
    refuse("InvalidParameterValue", format!("cannot change the local route {destination} in this way"))
}

fn destination(call: &Call<'_>) -> Result<String, AwsError> {
    let (v4, v6) = (call.form.text("DestinationCidrBlock"), call.form.text("DestinationIpv6CidrBlock"));
    let cidr = match (v4, v6) {
        (Some(_), Some(_)) => {
            return Err(refuse("InvalidParameterCombination", "Only one destination may be given"));
        }
        (None, None) => {
            return Err(refuse("MissingParameter", "The request must contain the parameter destinationCidrBlock"));
        }
        (v4, v6) => v4.or(v6).unwrap_or_default(),
    };
    let net: ipnet::IpNet = cidr.parse().map_err(|_| crate::error::bad_value(cidr, "destinationCidrBlock"))?;
    Ok(net.trunc().to_string())
}

/// Table, destination and target of a call.
fn route(call: &Call<'_>) -> Result<(String, String, RouteTarget), AwsError> {
    let id = call.must("RouteTableId")?.to_owned();
    let destination = destination(call)?;
    let region = &*call.region;
    let table = region.tables.get(&id).ok_or_else(|| Kind::RouteTable.missing(&id))?;
    let vpc = region.vpcs.get(&table.vpc).ok_or_else(|| Kind::Vpc.missing(&table.vpc))?;
    if vpc.cidr.to_string() == destination {
        return Err(refuse(
            "InvalidParameterValue",
            format!("The destination {destination} is that of the local route"),
        ));
    }
    let named = ["GatewayId", "InstanceId", "NetworkInterfaceId"].map(|name| call.form.text(name));
    let given: Vec<&str> = named.iter().copied().flatten().collect();
    if given.len() != 1 {
        let message = "The request must contain exactly one of gatewayId, networkInterfaceId, instanceId";
        let code = if given.is_empty() { "MissingParameter" } else { "InvalidParameterCombination" };
        return Err(refuse(code, message));
    }
    let target = match named {
        [Some(gateway), _, _] => {
            let it = region.gateways.get(gateway).ok_or_else(|| Kind::Gateway.missing(gateway))?;
            if it.vpc.as_ref() != Some(&table.vpc) {
                return Err(differ(&id, gateway));
            }
            RouteTarget::Gateway(gateway.to_owned())
        }
        [_, Some(instance), _] => {
            let it = region.instances.get(instance).ok_or_else(|| Kind::Instance.missing(instance))?;
            if it.interfaces.len() > 1 {
                let message = format!(
                    "There are multiple interfaces attached to instance '{instance}'. Please specify an interface ID for the operation instead."
                );
                return Err(refuse("InvalidInstanceID", message));
            }
            let ready =
                [InstanceState::Running, InstanceState::Pending, InstanceState::Stopped, InstanceState::Stopping];
            if !ready.contains(&it.state) {
                return Err(refuse(
                    "IncorrectInstanceState",
                    format!("The instance '{instance}' is not in a valid state for this operation."),
                ));
            }
            let interface = it.interfaces.get(&0).cloned().unwrap_or_default();
            return check_interface(region, &id, table, &interface).map(|target| (id.clone(), destination, target));
        }
        [_, _, Some(interface)] => check_interface(region, &id, table, interface)?,
        _ => return Err(differ(&id, "")),
    };
    Ok((id, destination, target))
}

fn check_interface(region: &Region, id: &str, table: &RouteTable, interface: &str) -> Result<RouteTarget, AwsError> {
    let it = region.interfaces.get(interface).ok_or_else(|| Kind::Interface.missing(interface))?;
    if it.vpc != table.vpc {
        return Err(differ(id, interface));
    }
    Ok(RouteTarget::Interface(interface.to_owned()))
}

fn differ(table: &str, target: &str) -> AwsError {
    refuse("InvalidParameterValue", format!("route table {table} and {target} belong to different networks"))
}

pub(super) fn describe(call: &mut Call<'_>) -> Outcome {
    let region = &*call.region;
    let missing = |id: &str| Kind::RouteTable.missing(id);
    let (found, token) = call.describe(&region.tables, "RouteTableId", missing, |filters, id, it| {
        filters.hold(&it.tags, |name| match name {
            "route-table-id" | "association.route-table-id" => one(id),
            "vpc-id" => one(&it.vpc),
            "owner-id" => one(&region.account),
            "association.main" => it.associations.values().map(|subnet| subnet.is_none().to_string()).collect(),
            "association.subnet-id" => it.associations.values().flatten().cloned().collect(),
            "association.route-table-association-id" => it.associations.keys().cloned().collect(),
            "route.destination-cidr-block" => it.routes.keys().cloned().collect(),
            "route.gateway-id" => it
                .routes
                .values()
                .flat_map(|target| match target {
                    RouteTarget::Gateway(gateway) => one(gateway),
                    RouteTarget::Local => one("local"),
                    RouteTarget::Interface(_) => Vec::new(),
                })
                .collect(),
            "route.instance-id" => {
                it.routes.values().flat_map(|target| maybe(region.instance_behind(target))).collect()
            }
            "route.state" => it.routes.values().map(|target| region.route_state(&it.vpc, target).to_owned()).collect(),
            _ => Vec::new(),
        })
    })?;
    let mut answer = vec![items("routeTableSet", found.into_iter().map(|(id, it)| nodes(region, id, it)))];
    answer.extend(call.token(token));
    Ok(answer)
}

fn nodes(region: &Region, id: &str, it: &RouteTable) -> Vec<Node> {
    let association = |(association, subnet): (&String, &Option<String>)| {
        let mut nodes = vec![
            text("routeTableAssociationId", association),
            text("routeTableId", id),
            shown("main", subnet.is_none()),
            group("associationState", vec![text("state", "associated")]),
        ];
        nodes.extend(subnet.as_ref().map(|subnet| text("subnetId", subnet)));
        nodes
    };
    vec![
        text("routeTableId", id),
        text("vpcId", &it.vpc),
        text("ownerId", &region.account),
        items("routeSet", it.routes.iter().map(|(cidr, target)| route_nodes(region, &it.vpc, cidr, target))),
        items("associationSet", it.associations.iter().map(association)),
        items("propagatingVgwSet", []),
        show::tags(&it.tags),
    ]
}

fn route_nodes(region: &Region, vpc: &str, cidr: &str, target: &RouteTarget) -> Vec<Node> {
    let name = if cidr.contains(':') { "destinationIpv6CidrBlock" } else { "destinationCidrBlock" };
    let origin = if *target == RouteTarget::Local { "CreateRouteTable" } else { "CreateRoute" };
    let mut nodes = vec![text(name, cidr), text("state", region.route_state(vpc, target)), text("origin", origin)];
    match target {
        RouteTarget::Local => nodes.push(text("gatewayId", "local")),
        RouteTarget::Gateway(gateway) => nodes.push(text("gatewayId", gateway)),
        RouteTarget::Interface(interface) => {
            nodes.push(text("networkInterfaceId", interface));
            if let Some(instance) = region.instance_behind(target) {
                nodes.push(text("instanceId", instance));
                nodes.push(text("instanceOwnerId", &region.account));
            }
        }
    }
    nodes
}

impl Region {
    fn instance_behind(&self, target: &RouteTarget) -> Option<&str> {
        let RouteTarget::Interface(id) = target else { return None };
        self.interfaces.get(id)?.attachment.as_ref()?.instance.as_deref()
    }

    /// A route is a black hole when its interface is gone, free, or its instance does not run.
    fn route_state(&self, vpc: &str, target: &RouteTarget) -> &'static str {
        let active = match target {
            RouteTarget::Local => true,
            RouteTarget::Gateway(id) => self.gateways.get(id).is_some_and(|it| it.vpc.as_deref() == Some(vpc)),
            RouteTarget::Interface(_) => self
                .instance_behind(target)
                .and_then(|id| self.instances.get(id))
                .is_some_and(|it| matches!(it.state, InstanceState::Running | InstanceState::Pending)),
        };
        if active { "active" } else { "blackhole" }
    }
}
