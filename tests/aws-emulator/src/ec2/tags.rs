//! Tags: given on creation, set, removed, listed; and their limits.

use super::model::{TAGGED, Tags};
use crate::call::{Call, Outcome};
use crate::config::Config;
use crate::error::{AwsError, refuse};
use crate::filters::{Filters, one};
use crate::form::Tree;
use crate::ids::Kind;
use crate::region::Region;
use crate::shelf::At;
use crate::xml::{done, items, text};
use std::collections::BTreeMap;

/// The longest key and value of a tag, in characters.
const MAX_KEY: usize = 128;
const MAX_VALUE: usize = 256;

/// Tags of a call's `TagSpecification`, by kind of resource; only `kinds` are allowed.
pub(crate) fn given(form: &Tree, kinds: &[&str], config: &Config) -> Result<BTreeMap<String, Tags>, AwsError> {
    let mut all = BTreeMap::new();
    for spec in form.items("TagSpecification") {
        let kind = spec.text_or("ResourceType", "");
        if !kinds.contains(&kind) {
            let message = format!("'{kind}' is not a valid taggable resource type for this operation.");
            return Err(refuse("InvalidParameterValue", message));
        }
        let tags = read(spec.items("Tag"), config)?;
        if all.insert(kind.to_owned(), tags).is_some() {
            return Err(refuse(
                "InvalidParameterValue",
                format!("Tag specification resource type '{kind}' occurs twice."),
            ));
        }
    }
    Ok(all)
}

/// The tags of the only kind that a call makes.
pub(crate) fn of(call: &Call<'_>, kind: Kind) -> Result<Tags, AwsError> {
    Ok(given(call.form, &[kind.word()], call.config)?.remove(kind.word()).unwrap_or_default())
}

/// Reads a list of keys and values.
fn read<'a>(list: impl Iterator<Item = &'a Tree>, config: &Config) -> Result<Tags, AwsError> {
    let mut tags = Tags::new();
    for tag in list {
        let (key, value) = (tag.text_or("Key", ""), tag.text_or("Value", ""));
        check(key, value)?;
        if tags.insert(key.to_owned(), value.to_owned()).is_some() {
            return Err(refuse("InvalidParameterValue", format!("Duplicate tag key '{key}' specified.")));
        }
    }
    if tags.len() > config.quotas.tags {
        return Err(too_many(config));
    }
    Ok(tags)
}

fn check(key: &str, value: &str) -> Result<(), AwsError> {
    let wrong = |why: String| Err(refuse("InvalidParameterValue", why));
    if key.is_empty() {
        return wrong("Tag key cannot be empty".to_owned());
    }
    if key.to_lowercase().starts_with("aws:") {
        return wrong("Tag keys starting with 'aws:' are reserved for internal use".to_owned());
    }
    if key.chars().count() > MAX_KEY {
        return wrong(format!("Tag key exceeds the maximum length of {MAX_KEY} characters"));
    }
    if value.chars().count() > MAX_VALUE {
        return wrong(format!("Tag value exceeds the maximum length of {MAX_VALUE} characters"));
    }
    Ok(())
}

fn too_many(config: &Config) -> AwsError {
    refuse("TagLimitExceeded", format!("More than {} tags specified", config.quotas.tags))
}

/// The resources of a call, each of which must exist.
fn resources(call: &Call<'_>) -> Result<Vec<String>, AwsError> {
    let ids = call.form.list("ResourceId");
    for id in &ids {
        let kind = Kind::of(id).filter(|kind| TAGGED.contains(kind));
        let kind = kind.ok_or_else(|| refuse("InvalidID", format!("The ID '{id}' is not valid")))?;
        kind.check(id)?;
        if call.region.tags_of(id).is_none() {
            return Err(kind.missing(id));
        }
    }
    Ok(ids.into_iter().map(str::to_owned).collect())
}

pub(super) fn create_tags(call: &mut Call<'_>) -> Outcome {
    let ids = resources(call)?;
    let tags = read(call.form.items("Tag"), call.config)?;
    if tags.is_empty() {
        return Err(refuse("MissingParameter", "The request must contain the parameter Tag"));
    }
    for id in &ids {
        let has = call.region.tags_of(id).cloned().unwrap_or_default();
        let more = tags.keys().filter(|key| !has.contains_key(*key)).count();
        if has.len() + more > call.config.quotas.tags {
            return Err(too_many(call.config));
        }
    }
    for id in &ids {
        if let Some(has) = call.region.edit_tags(id, call.now) {
            has.extend(tags.clone());
        }
    }
    Ok(done())
}

pub(super) fn delete_tags(call: &mut Call<'_>) -> Outcome {
    let ids = resources(call)?;
    let wanted: Vec<(String, Option<String>)> = call
        .form
        .items("Tag")
        .map(|tag| (tag.text_or("Key", "").to_owned(), tag.text("Value").map(str::to_owned)))
        .collect();
    for id in &ids {
        let Some(has) = call.region.edit_tags(id, call.now) else { continue };
        if wanted.is_empty() {
            has.retain(|key, _| key.starts_with("aws:"));
        }
        for (key, value) in &wanted {
            if value.as_ref().is_none_or(|value| has.get(key) == Some(value)) {
                has.remove(key);
            }
        }
    }
    Ok(done())
}

pub(super) fn describe_tags(call: &mut Call<'_>) -> Outcome {
    let filters = Filters::of(call.form);
    let after = call.cursor()?;
    let mut all: Vec<(String, &'static str, String, String)> = Vec::new();
    for (kind, id, tags) in call.region.all_tags(call.at, filters.exact("resource-id").as_deref()) {
        call.looked_at.set(call.looked_at.get() + 1);
        for (key, value) in tags {
            let field = |name: &str| match name {
                "key" => one(key),
                "value" => one(value),
                "resource-id" => one(id),
                "resource-type" => one(kind.word()),
                _ => Vec::new(),
            };
            let name = format!("{id}\n{key}");
            if name > after && filters.hold(tags, field) {
                all.push((id.to_owned(), kind.word(), key.clone(), value.clone()));
            }
        }
    }
    all.sort();
    let (page, token) = call.cut(all.into_iter(), |(id, _, key, _)| format!("{id}\n{key}"));
    let one = |(id, kind, key, value)| {
        vec![text("resourceId", id), text("resourceType", kind), text("key", key), text("value", value)]
    };
    let mut answer = vec![items("tagSet", page.into_iter().map(one))];
    answer.extend(call.token(token));
    Ok(answer)
}

impl Region {
    /// Everything with tags that a read sees; only what has one of `ids`, when they are given.
    fn all_tags(&self, at: At, ids: Option<&[&str]>) -> Vec<(Kind, &str, &Tags)> {
        let mut all = Vec::new();
        macro_rules! collect {
            ($($kind:ident $shelf:ident),*) => {$(
                match ids {
                    Some(ids) => all.extend(
                        ids.iter()
                            .filter_map(|id| self.$shelf.seen_entry(id, at))
                            .map(|(id, thing)| (Kind::$kind, id, &thing.tags)),
                    ),
                    None => all.extend(self.$shelf.all(at).map(|(id, thing)| (Kind::$kind, id, &thing.tags))),
                }
            )*};
        }
        collect!(
            Address addresses, Gateway gateways, Group groups, Image images, Instance instances, Interface interfaces,
            LaunchTemplate templates, RouteTable tables, Snapshot snapshots, Subnet subnets, Volume volumes, Vpc vpcs
        );
        all
    }
}
