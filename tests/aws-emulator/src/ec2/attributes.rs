//! Attributes of instances: changed and read one by one.

use super::catalogue::InstanceType;
use super::model::{Instance, InstanceState};
use super::show;
use crate::call::{Call, Outcome};
use crate::error::{AwsError, refuse};
use crate::ids::Kind;
use crate::xml::{done, group, text, value};

/// Attributes that can only be changed while the instance is stopped.
const ONLY_STOPPED: [&str; 3] = ["InstanceType", "UserData", "EbsOptimized"];

pub(super) fn modify(call: &mut Call<'_>) -> Outcome {
    let id = call.must("InstanceId")?.to_owned();
    let names = [
        "SourceDestCheck",
        "DisableApiTermination",
        "DisableApiStop",
        "InstanceType",
        "InstanceInitiatedShutdownBehavior",
        "UserData",
        "GroupId",
        "EbsOptimized",
    ];
    let given: Vec<&str> = names.into_iter().filter(|name| call.form.has(name)).collect();
    if given.len() != 1 {
        let message = "Fields for multiple attribute types specified: exactly one can be modified at a time";
        return Err(refuse("InvalidParameterCombination", message));
    }
    let instance = call.region.instances.get(&id).ok_or_else(|| Kind::Instance.missing(&id))?;
    check(call, &id, instance, given[0])?;
    let groups = call.form.list("GroupId");
    let groups = if groups.is_empty() {
        None
    } else {
        Some(call.region.groups_for_interface(&groups, &instance.vpc, call.config)?)
    };
    let primary = instance.interfaces.get(&0).cloned().unwrap_or_default();
    let form = call.form;
    let instance = call.region.instances.edit(&id, call.now).ok_or_else(|| Kind::Instance.missing(&id))?;
    let flag = |name: &str, has: &mut bool| *has = form.flag(name).unwrap_or(*has);
    flag("SourceDestCheck.Value", &mut instance.source_dest_check);
    flag("DisableApiTermination.Value", &mut instance.termination_protection);
    flag("DisableApiStop.Value", &mut instance.stop_protection);
    flag("EbsOptimized.Value", &mut instance.ebs_optimized);
    instance.kind = form.text_or("InstanceType.Value", &instance.kind).to_owned();
    if let Some(behaviour) = form.text("InstanceInitiatedShutdownBehavior.Value") {
        instance.terminate_on_shutdown = behaviour == "terminate";
    }
    if let Some(data) = form.text("UserData.Value") {
        instance.user_data = Some(data.to_owned());
    }
    let source_dest_check = instance.source_dest_check;
    if let Some(interface) = call.region.interfaces.edit(&primary, call.now) {
        interface.source_dest_check = source_dest_check;
        interface.groups = groups.unwrap_or(std::mem::take(&mut interface.groups));
    }
    Ok(done())
}

fn check(call: &Call<'_>, id: &str, instance: &Instance, name: &str) -> Result<(), AwsError> {
    if instance.state.is_over() {
        let message = format!("The instance '{id}' is not in a valid state for this operation.");
        return Err(refuse("IncorrectInstanceState", message));
    }
    if ONLY_STOPPED.contains(&name) && instance.state != InstanceState::Stopped {
        return Err(refuse("IncorrectInstanceState", format!("The instance '{id}' is not in the 'stopped' state.")));
    }
    if name == "SourceDestCheck" && instance.interfaces.len() > 1 {
        let message = format!(
            "There are multiple interfaces attached to instance '{id}'. Please specify an interface ID for the operation instead."
        );
        return Err(refuse("InvalidInstanceID", message));
    }
    if let Some(kind) = call.form.text("InstanceType.Value").filter(|kind| InstanceType::named(kind).is_none()) {
        return Err(refuse("InvalidInstanceAttributeValue", format!("The instanceType '{kind}' is not valid.")));
    }
    Ok(())
}

pub(super) fn modify_metadata(call: &mut Call<'_>) -> Outcome {
    let id = call.must("InstanceId")?.to_owned();
    let form = call.form;
    let instance = call.region.instances.edit(&id, call.now).ok_or_else(|| Kind::Instance.missing(&id))?;
    if instance.state.is_over() {
        return Err(refuse("IncorrectInstanceState", format!("The instance '{id}' is not in a valid state.")));
    }
    let options = &mut instance.metadata;
    options.tokens_required = form.text("HttpTokens").map_or(options.tokens_required, |it| it == "required");
    options.hop_limit = form.small("HttpPutResponseHopLimit").unwrap_or(options.hop_limit);
    options.enabled = form.text("HttpEndpoint").map_or(options.enabled, |it| it == "enabled");
    options.ipv6 = form.text("HttpProtocolIpv6").map_or(options.ipv6, |it| it == "enabled");
    options.tags = form.text("InstanceMetadataTags").map_or(options.tags, |it| it == "enabled");
    let onoff = |on: bool| if on { "enabled" } else { "disabled" };
    let fields = show::metadata_fields(instance, onoff);
    Ok(vec![text("instanceId", id), group("instanceMetadataOptions", fields)])
}

pub(super) fn describe(call: &mut Call<'_>) -> Outcome {
    let id = call.must("InstanceId")?;
    let it = call.region.instances.seen(id, call.at).ok_or_else(|| Kind::Instance.missing(id))?;
    let attribute = match call.must("Attribute")? {
        "instanceType" => value("instanceType", &it.kind),
        "userData" => match &it.user_data {
            Some(data) => value("userData", data),
            None => group("userData", vec![]),
        },
        "disableApiTermination" => value("disableApiTermination", it.termination_protection),
        "disableApiStop" => value("disableApiStop", it.stop_protection),
        "instanceInitiatedShutdownBehavior" => {
            value("instanceInitiatedShutdownBehavior", if it.terminate_on_shutdown { "terminate" } else { "stop" })
        }
        "rootDeviceName" => value("rootDeviceName", &it.root_device),
        "sourceDestCheck" => value("sourceDestCheck", it.source_dest_check),
        "ebsOptimized" => value("ebsOptimized", it.ebs_optimized),
        _ => {
            let primary = it.interfaces.get(&0).and_then(|eni| call.region.interfaces.get(eni));
            show::group_set(call.region, &primary.map(|eni| eni.groups.clone()).unwrap_or_default())
        }
    };
    Ok(vec![text("instanceId", id), attribute])
}
