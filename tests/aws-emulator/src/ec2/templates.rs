//! Launch templates and their versions.

use super::model::{Tags, Template, TemplateVersion};
use super::{moment, show, tags};
use crate::call::{Call, Outcome};
use crate::error::{AwsError, refuse};
use crate::filters::{Filters, one};
use crate::form::Tree;
use crate::ids::Kind;
use crate::xml::{Node, group, items, show as shown, text};
use std::collections::BTreeMap;

pub(super) fn create(call: &mut Call<'_>) -> Outcome {
    let tags = tags::of(call, Kind::LaunchTemplate)?;
    let name = call.must("LaunchTemplateName")?.to_owned();
    let good = |c: char| c.is_ascii_alphanumeric() || "()./_-".contains(c);
    if name.len() < 3 || !name.chars().all(good) {
        return Err(refuse("InvalidLaunchTemplateName.MalformedException", format!("'{name}' is not a valid name")));
    }
    if call.region.templates.iter().any(|(_, it)| it.name == name) {
        return Err(refuse("InvalidLaunchTemplateName.AlreadyExistsException", "Launch template name already in use."));
    }
    if call.region.templates.len() >= call.config.quotas.launch_templates {
        return Err(refuse("LaunchTemplateLimitExceeded", "The maximum number of launch templates has been reached."));
    }
    let version = version(call, None)?;
    let template = Template {
        name,
        created: call.now,
        default_version: 1,
        latest: 1,
        versions: BTreeMap::from([(1, version)]),
        tags,
    };
    let id = call.region.id(Kind::LaunchTemplate);
    let answer = vec![group("launchTemplate", nodes(call, &id, &template))];
    call.region.templates.insert(&id, template, call.now);
    Ok(answer)
}

fn version(call: &Call<'_>, source: Option<&Tree>) -> Result<TemplateVersion, AwsError> {
    let mut data = call.form.at("LaunchTemplateData").cloned().unwrap_or_default();
    if data == Tree::default() {
        return Err(refuse("MissingParameter", "The request must contain the parameter LaunchTemplateData"));
    }
    if let Some(source) = source {
        data.fill_from(source);
    }
    tags::given(&data, &["instance", "volume", "network-interface", "spot-instances-request"], call.config)?;
    let description = call.form.text("VersionDescription").map(str::to_owned);
    Ok(TemplateVersion { description, created: call.now, data })
}

/// The template that a call names by identifier or by name.
fn named(call: &Call<'_>, form: &Tree) -> Result<String, AwsError> {
    match (form.text("LaunchTemplateId"), form.text("LaunchTemplateName")) {
        (Some(id), None) => {
            call.region.templates.get(id).map(|_| id.to_owned()).ok_or_else(|| Kind::LaunchTemplate.missing(id))
        }
        (None, Some(name)) => {
            let found = call.region.templates.iter().find(|(_, it)| it.name == name).map(|(id, _)| id.to_owned());
            found.ok_or_else(|| missing_name(name))
        }
        _ => Err(refuse("InvalidParameterCombination", "Give either the launch template's ID or its name")),
    }
}

fn missing_name(name: &str) -> AwsError {
    let message = format!("At least one of the launch templates specified in the request does not exist: {name}");
    refuse("InvalidLaunchTemplateName.NotFoundException", message)
}

fn number(template: &Template, version: &str) -> Result<u64, AwsError> {
    let number = match version {
        "$Latest" => Some(template.latest),
        "$Default" => Some(template.default_version),
        plain => plain.parse().ok(),
    };
    let missing = || {
        let message = format!("Could not find launch template version {version}");
        refuse("InvalidLaunchTemplateId.VersionNotFound", message)
    };
    number.filter(|number| template.versions.contains_key(number)).ok_or_else(missing)
}

/// What a template says, as a launch names it.
pub(super) fn data(call: &Call<'_>, spec: &Tree) -> Result<Tree, AwsError> {
    let id = named(call, spec)?;
    let template = call.region.templates.get(&id).ok_or_else(|| Kind::LaunchTemplate.missing(&id))?;
    let number = number(template, spec.text_or("Version", "$Default"))?;
    Ok(template.versions.get(&number).map(|version| version.data.clone()).unwrap_or_default())
}

pub(super) fn create_version(call: &mut Call<'_>) -> Outcome {
    let id = named(call, call.form)?;
    let template = call.region.templates.get(&id).ok_or_else(|| Kind::LaunchTemplate.missing(&id))?;
    if template.versions.len() >= call.config.quotas.versions_per_template {
        return Err(refuse("LaunchTemplateVersionLimitExceeded", "The maximum number of versions has been reached."));
    }
    let source = match call.form.text("SourceVersion") {
        None => None,
        Some(source) => template.versions.get(&number(template, source)?).map(|it| it.data.clone()),
    };
    let version = version(call, source.as_ref())?;
    let template = call.region.templates.edit(&id, call.now).ok_or_else(|| Kind::LaunchTemplate.missing(&id))?;
    template.latest += 1;
    template.versions.insert(template.latest, version);
    let (latest, template) = (template.latest, template.clone());
    Ok(vec![group("launchTemplateVersion", version_nodes(call, &id, &template, latest))])
}

pub(super) fn modify(call: &mut Call<'_>) -> Outcome {
    let id = named(call, call.form)?;
    let template = call.region.templates.get(&id).ok_or_else(|| Kind::LaunchTemplate.missing(&id))?;
    let default = number(template, call.must("SetDefaultVersion")?)?;
    let template = call.region.templates.edit(&id, call.now).ok_or_else(|| Kind::LaunchTemplate.missing(&id))?;
    template.default_version = default;
    let template = template.clone();
    Ok(vec![group("launchTemplate", nodes(call, &id, &template))])
}

pub(super) fn delete(call: &mut Call<'_>) -> Outcome {
    let id = named(call, call.form)?;
    let template = call.region.templates.remove(&id, call.now).ok_or_else(|| Kind::LaunchTemplate.missing(&id))?;
    Ok(vec![group("launchTemplate", nodes(call, &id, &template))])
}

pub(super) fn delete_versions(call: &mut Call<'_>) -> Outcome {
    let id = named(call, call.form)?;
    let wanted: Vec<String> = call.form.list("LaunchTemplateVersion").into_iter().map(str::to_owned).collect();
    let template = call.region.templates.edit(&id, call.now).ok_or_else(|| Kind::LaunchTemplate.missing(&id))?;
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for version in wanted {
        let facts = vec![
            text("launchTemplateId", &id),
            text("launchTemplateName", &template.name),
            text("versionNumber", &version),
        ];
        let number = version.parse::<u64>().ok().filter(|number| template.versions.contains_key(number));
        let fault = match number {
            None => Some(("launchTemplateVersionDoesNotExist", "The launch template version does not exist")),
            Some(number) if number == template.default_version => {
                Some(("unexpectedError", "The default version of a launch template cannot be deleted"))
            }
            Some(number) => {
                template.versions.remove(&number);
                None
            }
        };
        match fault {
            None => good.push(facts),
            Some((code, message)) => {
                let error = group("responseError", vec![text("code", code), text("message", message)]);
                bad.push(facts.into_iter().chain([error]).collect());
            }
        }
    }
    Ok(vec![
        items("successfullyDeletedLaunchTemplateVersionSet", good),
        items("unsuccessfullyDeletedLaunchTemplateVersionSet", bad),
    ])
}

pub(super) fn describe(call: &mut Call<'_>) -> Outcome {
    let names = call.form.list("LaunchTemplateName");
    let templates = &call.region.templates;
    if let Some(missing) = names.iter().find(|name| !templates.all(call.at).any(|(_, it)| it.name == **name)) {
        return Err(missing_name(missing));
    }
    let holds = |filters: &Filters, _: &str, it: &Template| {
        (names.is_empty() || names.contains(&it.name.as_str()))
            && filters.hold(&it.tags, |name| match name {
                "launch-template-name" => one(&it.name),
                "create-time" => one(moment(it.created)),
                _ => Vec::new(),
            })
    };
    let missing = |id: &str| Kind::LaunchTemplate.missing(id);
    let (found, token) = call.describe(templates, "LaunchTemplateId", missing, holds)?;
    let mut answer = vec![items("launchTemplates", found.into_iter().map(|(id, it)| nodes(call, id, it)))];
    answer.extend(call.token(token));
    Ok(answer)
}

pub(super) fn describe_versions(call: &mut Call<'_>) -> Outcome {
    let wanted = call.form.list("LaunchTemplateVersion");
    let one_template = call.form.has("LaunchTemplateId") || call.form.has("LaunchTemplateName");
    let ids = if one_template {
        vec![named(call, call.form)?]
    } else if wanted.iter().all(|it| it.starts_with('$')) && !wanted.is_empty() {
        call.region.templates.all(call.at).map(|(id, _)| id.to_owned()).collect()
    } else {
        return Err(refuse("MissingParameter", "The request must contain the launch template's ID or name"));
    };
    let (filters, none, after) = (Filters::of(call.form), Tags::new(), call.cursor()?);
    let bound = |name: &str| call.form.text(name).and_then(|it| it.parse::<u64>().ok());
    let (least, most) = (bound("MinVersion").unwrap_or(0), bound("MaxVersion").unwrap_or(u64::MAX));
    let mut all = Vec::new();
    for id in &ids {
        let Some(template) = call.region.templates.seen(id, call.at) else { continue };
        let mut numbers: Vec<u64> = Vec::new();
        for version in &wanted {
            numbers.push(number(template, version)?);
        }
        if wanted.is_empty() {
            numbers.extend(template.versions.keys().filter(|number| (least..=most).contains(*number)));
        }
        for number in numbers {
            let Some(version) = template.versions.get(&number) else { continue };
            let key = format!("{id}\n{number:020}");
            let holds = filters.hold(&none, |name| match name {
                "image-id" => one(version.data.text_or("ImageId", "")),
                "instance-type" => one(version.data.text_or("InstanceType", "")),
                "is-default-version" => one(number == template.default_version),
                "create-time" => one(moment(version.created)),
                _ => Vec::new(),
            });
            if holds && key > after {
                all.push((key, id.as_str(), template, number));
            }
        }
    }
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all.dedup_by(|a, b| a.0 == b.0);
    let (page, token) = call.cut(all.into_iter(), |it| it.0.clone());
    let versions = page.into_iter().map(|(_, id, template, number)| version_nodes(call, id, template, number));
    let mut answer = vec![items("launchTemplateVersionSet", versions)];
    answer.extend(call.token(token));
    Ok(answer)
}

fn nodes(call: &Call<'_>, id: &str, it: &Template) -> Vec<Node> {
    vec![
        text("launchTemplateId", id),
        text("launchTemplateName", &it.name),
        text("createTime", moment(it.created)),
        text("createdBy", call.caller.map_or("", |caller| &caller.arn)),
        shown("defaultVersionNumber", it.default_version),
        shown("latestVersionNumber", it.latest),
        show::tags(&it.tags),
    ]
}

fn version_nodes(call: &Call<'_>, id: &str, it: &Template, number: u64) -> Vec<Node> {
    let Some(version) = it.versions.get(&number) else { return Vec::new() };
    let mut nodes = vec![
        text("launchTemplateId", id),
        text("launchTemplateName", &it.name),
        shown("versionNumber", number),
        text("createTime", moment(version.created)),
        text("createdBy", call.caller.map_or("", |caller| &caller.arn)),
        shown("defaultVersion", number == it.default_version),
        group("launchTemplateData", super::template_data::nodes(&version.data)),
    ];
    nodes.extend(version.description.as_ref().map(|it| text("versionDescription", it)));
    nodes
}
