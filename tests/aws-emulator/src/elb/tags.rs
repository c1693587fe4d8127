//! Tags of ELB's resources.

use crate::call::{Call, Outcome};
use crate::ec2::Tags;
use crate::error::{AwsError, refuse};
use crate::region::Region;
use crate::xml::{members, text};

/// The most resources whose tags one call reads.
const MAX_DESCRIBED: usize = 20;

/// Tags that a call gives.
pub(super) fn given(call: &Call<'_>) -> Result<Tags, AwsError> {
    let mut tags = Tags::new();
    for tag in call.form.items("Tags") {
        let key = tag.text_or("Key", "");
        if key.to_lowercase().starts_with("aws:") {
            return Err(refuse("ValidationError", format!("Tag keys starting with 'aws:' are reserved: {key}")));
        }
        if tags.insert(key.to_owned(), tag.text_or("Value", "").to_owned()).is_some() {
            return Err(refuse("DuplicateTagKeys", "Tag keys must be unique for a resource"));
        }
    }
    if tags.len() > call.config.quotas.tags {
        return Err(too_many());
    }
    Ok(tags)
}

fn too_many() -> AwsError {
    refuse("TooManyTags", "The maximum number of tags on a resource has been exceeded")
}

/// The complaint about a resource that is not there.
fn missing(arn: &str) -> AwsError {
    let code = match arn.splitn(6, ':').nth(5).and_then(|it| it.split('/').next()) {
        Some("loadbalancer") => "LoadBalancerNotFound",
        Some("targetgroup") => "TargetGroupNotFound",
        Some("listener") => "ListenerNotFound",
        _ => "RuleNotFound",
    };
    refuse(code, format!("'{arn}' not found"))
}

fn known(call: &Call<'_>) -> Result<Vec<String>, AwsError> {
    let arns = call.form.list("ResourceArns");
    match arns.iter().find(|arn| call.region.elb_tags(arn).is_none()) {
        Some(bad) => Err(missing(bad)),
        None => Ok(arns.into_iter().map(str::to_owned).collect()),
    }
}

pub(super) fn add(call: &mut Call<'_>) -> Outcome {
    let (arns, tags) = (known(call)?, given(call)?);
    for arn in &arns {
        let has = call.region.elb_tags(arn).cloned().unwrap_or_default();
        if has.len() + tags.keys().filter(|key| !has.contains_key(*key)).count() > call.config.quotas.tags {
            return Err(too_many());
        }
    }
    for arn in &arns {
        if let Some(has) = call.region.edit_elb_tags(arn, call.now) {
            has.extend(tags.clone());
        }
    }
    Ok(vec![])
}

pub(super) fn remove(call: &mut Call<'_>) -> Outcome {
    let arns = known(call)?;
    let keys: Vec<String> = call.form.list("TagKeys").into_iter().map(str::to_owned).collect();
    for arn in &arns {
        if let Some(has) = call.region.edit_elb_tags(arn, call.now) {
            has.retain(|key, _| !keys.contains(key));
        }
    }
    Ok(vec![])
}

pub(super) fn describe(call: &mut Call<'_>) -> Outcome {
    let arns = known(call)?;
    if arns.len() > MAX_DESCRIBED {
        let message = format!("The number of resource ARNs must not be greater than {MAX_DESCRIBED}");
        return Err(refuse("ValidationError", message));
    }
    let one = |arn: &String| {
        let tags = call.region.elb_tags(arn).cloned().unwrap_or_default();
        let tags = tags.into_iter().map(|(key, value)| vec![text("Key", key), text("Value", value)]);
        vec![text("ResourceArn", arn), members("Tags", tags)]
    };
    Ok(vec![members("TagDescriptions", arns.iter().map(one))])
}

impl Region {
    fn edit_elb_tags(&mut self, arn: &str, now: jiff::Timestamp) -> Option<&mut Tags> {
        let resource = arn.splitn(6, ':').nth(5)?;
        match resource.split('/').next()? {
            "loadbalancer" => self.balancers.edit(arn, now).map(|it| &mut it.tags),
            "targetgroup" => self.target_groups.edit(arn, now).map(|it| &mut it.tags),
            "listener" => self.listeners.edit(arn, now).map(|it| &mut it.tags),
            "listener-rule" => self.listener_rules.edit(arn, now).map(|it| &mut it.tags),
            _ => None,
        }
    }
}
