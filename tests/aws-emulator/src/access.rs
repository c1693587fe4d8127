//! Which permissions a call needs: action, resource and context of each, derived from the table of its action.

use crate::error::{AwsError, refuse_with};
use crate::form::Tree;
use crate::iam::{Caller, Context, Verdict};
use crate::ids::Kind;
use crate::region::Region;
use crate::table::{Action, Rule, Service};
use jiff::Timestamp;

/// One permission.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Need {
    action: String,
    resource: String,
    context: Context,
}

/// Whether `caller` may make the call.
pub(crate) fn permit(
    region: &Region,
    caller: &Caller,
    action: &Action,
    form: &Tree,
    now: Timestamp,
) -> Result<(), AwsError> {
    for need in needs(region, action, form) {
        let mut context = caller.context.clone();
        let mut put = |key: &str, value: String| context.insert(key.to_owned(), vec![value]);
        put("aws:requestedregion", region.name.clone());
        put("ec2:region", region.name.clone());
        put("aws:currenttime", now.to_string());
        put("aws:securetransport", "false".to_owned());
        context.extend(need.context);
        let verdict = caller.verdict(&need.action, &need.resource, &context);
        if verdict != Verdict::Allowed {
            let why = match verdict {
                Verdict::Denied => "with an explicit deny in an identity-based policy".to_owned(),
                _ => format!("because no identity-based policy allows the {} action", need.action),
            };
            let message = format!(
                "User: {} is not authorized to perform: {} on resource: {} {why}",
                caller.arn, need.action, need.resource
            );
            return Err(denied(action.service, &message));
        }
    }
    Ok(())
}

/// The refusal of a service to one who may not.
pub(crate) fn denied(service: Service, message: &str) -> AwsError {
    match service {
        Service::Ec2 => {
            let message = format!("You are not authorized to perform this operation. {message}");
            refuse_with(403, "UnauthorizedOperation", message)
        }
        _ => refuse_with(403, "AccessDenied", message),
    }
}

fn needs(region: &Region, action: &Action, form: &Tree) -> Vec<Need> {
    let name = format!("{}:{}", action.service.word(), action.name);
    match action.service {
        // Nobody can be forbidden the one, and the other asks the role's trust.
        Service::Sts => Vec::new(),
        _ if !action.write => vec![Need { action: name, resource: "*".to_owned(), context: Context::new() }],
        Service::Ec2 => ec2_needs(region, action, form, &name),
        Service::Elb => elb_needs(region, action, form, &name),
    }
}

fn ec2_needs(region: &Region, action: &Action, form: &Tree, name: &str) -> Vec<Need> {
    let mut needs: Vec<Need> = action
        .resources(form)
        .into_iter()
        .filter_map(|(rule, id)| match rule {
            Rule::Id(kind, _) => Some((*kind, id)),
            _ => None,
        })
        .map(|(kind, id)| existing(region, name, kind, &id))
        .collect();
    if action.name.ends_with("Tags") {
        let given = tag_context(form.items("Tag"));
        for id in form.list("ResourceId") {
            if let Some(kind) = Kind::of(id) {
                let mut need = existing(region, name, kind, id);
                need.context.extend(given.clone());
                needs.push(need);
            }
        }
    }
    if let Some(kind) = action.creates_kind() {
        needs.push(created(region, name, kind, form));
    }
    if action.name == "RunInstances" {
        needs.extend(launch_needs(region, name, form));
    }
    for spec in form.items("TagSpecification") {
        if let Some(kind) = spec.text("ResourceType").and_then(Kind::named) {
            let mut need = created(region, "ec2:CreateTags", kind, form);
            need.context.insert("ec2:createaction".to_owned(), vec![action.name.clone()]);
            needs.push(need);
        }
    }
    if needs.is_empty() {
        needs.push(Need { action: name.to_owned(), resource: "*".to_owned(), context: Context::new() });
    }
    needs
}

/// RunInstances needs a permission for everything it uses.
fn launch_needs(region: &Region, name: &str, form: &Tree) -> Vec<Need> {
    let mut needs = Vec::new();
    for kind in [Kind::Volume, Kind::Interface] {
        needs.push(created(region, name, kind, form));
    }
    let used = [
        (Kind::Image, form.text("ImageId").into_iter().collect()),
        (Kind::Subnet, form.text("SubnetId").into_iter().collect()),
        (Kind::Group, form.list("SecurityGroupId")),
        (Kind::LaunchTemplate, form.text("LaunchTemplate.LaunchTemplateId").into_iter().collect::<Vec<_>>()),
    ];
    for (kind, ids) in used {
        needs.extend(ids.into_iter().map(|id| existing(region, name, kind, id)));
    }
    if let Some(kind) = form.text("InstanceType") {
        for need in &mut needs {
            need.context.insert("ec2:instancetype".to_owned(), vec![kind.to_owned()]);
        }
    }
    needs
}

fn existing(region: &Region, name: &str, kind: Kind, id: &str) -> Need {
    let mut context = Context::new();
    for (key, value) in region.tags_of(id).into_iter().flatten() {
        for prefix in ["aws:resourcetag", "ec2:resourcetag"] {
            context.insert(format!("{prefix}/{}", key.to_lowercase()), vec![value.clone()]);
        }
    }
    Need { action: name.to_owned(), resource: region.ec2_arn(kind, id), context }
}

fn created(region: &Region, name: &str, kind: Kind, form: &Tree) -> Need {
    let specs = form.items("TagSpecification").filter(|spec| spec.text("ResourceType") == Some(kind.word()));
    let context = tag_context(specs.flat_map(|spec| spec.items("Tag")));
    Need { action: name.to_owned(), resource: region.ec2_arn(kind, "*"), context }
}

/// What a call says of the tags it sets.
fn tag_context<'a>(tags: impl Iterator<Item = &'a Tree>) -> Context {
    let mut context = Context::new();
    for tag in tags {
        let key = tag.text_or("Key", "");
        context.insert(format!("aws:requesttag/{}", key.to_lowercase()), vec![tag.text_or("Value", "").to_owned()]);
        context.entry("aws:tagkeys".to_owned()).or_default().push(key.to_owned());
    }
    context
}

fn elb_needs(region: &Region, action: &Action, form: &Tree, name: &str) -> Vec<Need> {
    let given = tag_context(form.items("Tags"));
    let mut needs = Vec::new();
    for (_, arn) in action.resources(form) {
        let mut context = Context::new();
        for (key, value) in region.tags_of(&arn).into_iter().flatten() {
            for prefix in ["aws:resourcetag", "elasticloadbalancing:resourcetag"] {
                context.insert(format!("{prefix}/{}", key.to_lowercase()), vec![value.clone()]);
            }
        }
        if action.name.ends_with("Tags") {
            context.extend(given.clone());
            let keys: Vec<String> = form.list("TagKeys").into_iter().map(str::to_owned).collect();
            if !keys.is_empty() {
                context.insert("aws:tagkeys".to_owned(), keys);
            }
        }
        needs.push(Need { action: name.to_owned(), resource: arn, context });
    }
    if let Some(kind) = &action.creates {
        let resource = made_arn(region, kind, form);
        needs.push(Need { action: name.to_owned(), resource: resource.clone(), context: given.clone() });
        if form.has("Tags") {
            let mut context = given;
            context.insert("elasticloadbalancing:createaction".to_owned(), vec![action.name.clone()]);
            needs.push(Need { action: "elasticloadbalancing:AddTags".to_owned(), resource, context });
        }
    }
    needs
}

/// The ARN of what an ELB call makes, with `*` for what is not known before.
fn made_arn(region: &Region, kind: &str, form: &Tree) -> String {
    let name = form.text_or("Name", "*");
    let below = |arn: &str, word: &str, parent: &str| format!("{}/*", arn.replacen(parent, word, 1));
    match kind {
        "loadbalancer" => {
            let family = if form.text("Type") == Some("network") { "net" } else { "app" };
            crate::elb::arn(region, &format!("loadbalancer/{family}/{name}/*"))
        }
        "listener" => below(form.text_or("LoadBalancerArn", "*"), ":listener/", ":loadbalancer/"),
        "listener-rule" => below(form.text_or("ListenerArn", "*"), ":listener-rule/", ":listener/"),
        _ => crate::elb::arn(region, &format!("{kind}/{name}/*")),
    }
}
