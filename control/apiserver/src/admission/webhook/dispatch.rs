//! Asking webhooks: mutating ones one after another, validating ones all at once.

use super::{
    configuration::Webhook,
    review,
    rules::{namespace_selected, object_selected},
    subject::Subject,
};
use crate::{
    admission::{
        Lookup,
        policy::{Matched, conditions_hold},
    },
    registry::View,
};
use bytes::Bytes;
use std::{collections::BTreeSet, sync::Arc};
use timonel_api::{Limits, Status, Value, decode_json, json_patch};

/// Kinds that decide about admission themselves: no webhook is asked about them, or nobody could repair one.
const EXEMPT: [&str; 6] = [
    "mutatingwebhookconfigurations",
    "validatingwebhookconfigurations",
    "validatingadmissionpolicies",
    "validatingadmissionpolicybindings",
    "mutatingadmissionpolicies",
    "mutatingadmissionpolicybindings",
];

/// Whether a write is about admission itself.
pub(crate) fn is_exempt(subject: &Subject<'_>) -> bool {
    let view = &subject.call.view;
    view.group() == "admissionregistration.k8s.io" && EXEMPT.contains(&view.plural())
}

/// Why a write is not let through, or how asking failed.
enum Fault {
    /// The webhook said no, or the write cannot be.
    Refused(Status),
    /// The webhook could not be asked.
    Failed(String),
}

/// What a webhook is asked about: the version it wants.
struct Invocation {
    webhook: Arc<Webhook>,
    view: Arc<View>,
}

/// The version in which a webhook is to be asked; `None` when it is not meant.
fn invocation(
    subject: &Subject<'_>,
    webhook: &Arc<Webhook>,
    lookup: &dyn Lookup,
) -> Result<Option<Invocation>, Status> {
    let own = &subject.call.view;
    let means = |view: &View| webhook.rules.iter().any(|rule| rule.means(subject, &view.resource));
    let view = if means(own) {
        Some(own.clone())
    } else if webhook.exact {
        None
    } else {
        subject.equivalents().skip(1).find(|view| means(view))
    };
    let Some(view) = view else { return Ok(None) };
    if !namespace_selected(&webhook.namespaces, subject, lookup) || !object_selected(&webhook.objects, subject) {
        return Ok(None);
    }
    match conditions_hold(&webhook.conditions, subject, &view, &Value::Null)? {
        Matched::Yes => Ok(Some(Invocation { webhook: webhook.clone(), view })),
        Matched::No => Ok(None),
        Matched::Failed(why) if webhook.fails_closed => {
            Err(Status::forbidden(own.group(), own.plural(), subject.name, &why))
        }
        Matched::Failed(_) => Ok(None),
    }
}

async fn ask(subject: &Subject<'_>, invocation: &Invocation, mutating: bool) -> Result<review::Answer, Fault> {
    let (webhook, view) = (&invocation.webhook, &invocation.view);
    if subject.dry_run && webhook.side_effects {
        let why = format!("admission webhook {:?} does not support dry run", webhook.name);
        return Err(Fault::Refused(Status::bad_request(why)));
    }
    let server = subject.call.server;
    let uid = server.entropy.uuid();
    let version = webhook.review_version.ok_or_else(|| {
        Fault::Failed(
            "could not create admission objects: webhook does not accept known AdmissionReview versions (v1, v1beta1)"
                .to_owned(),
        )
    })?;
    let target = webhook.target.as_ref().map_err(|why| Fault::Failed(format!("could not get REST client: {why}")))?;
    let shown = |object: Option<&Value>| -> Result<Option<Value>, Fault> {
        let object = object.filter(|object| !object.is_null());
        let shown = object.map(|object| subject.in_version(view, object)).transpose().map_err(Fault::Refused)?;
        Ok(shown.map(std::borrow::Cow::into_owned))
    };
    let (object, old) = (shown(subject.object)?, shown(subject.old)?);
    let body = review::encode(version, subject.request(&uid, view), object.as_ref(), old.as_ref());
    let bytes = server.webhooks.post(target, Bytes::from(body), webhook.timeout).await;
    let bytes = bytes.map_err(|error| Fault::Failed(format!("failed to call webhook: {error}")))?;
    let answer = review::decode(version, &bytes, &uid, mutating)
        .map_err(|why| Fault::Failed(format!("received invalid webhook response: {why}")))?;
    for warning in &answer.warnings {
        subject.call.warn(warning.as_str());
    }
    for (key, value) in &answer.annotations {
        subject.call.annotate(&format!("{}/{key}", webhook.name), value);
    }
    if answer.allowed { Ok(answer) } else { Err(Fault::Refused(review::refusal(&webhook.name, &answer.result))) }
}

/// What a fault means by the webhook's own policy: nothing, or a refusal.
fn judged(webhook: &Webhook, fault: Fault) -> Result<(), Status> {
    match fault {
        Fault::Refused(status) => Err(status),
        Fault::Failed(why) if webhook.fails_closed => {
            Err(Status::internal(format!("failed calling webhook {:?}: {why}", webhook.name)))
        }
        Fault::Failed(why) => {
            tracing::warn!(webhook = %webhook.name, %why, "a webhook could not be asked; its policy lets the write through");
            Ok(())
        }
    }
}

/// Asks every mutating webhook that a write matches. Returns the changed object, in the storage version, or `None`
/// when nothing changed. `again` runs the built-in rules over an object that webhooks changed.
pub(crate) async fn mutate(
    subject: Subject<'_>,
    again: impl Fn(&mut Value) -> Result<(), Status> + Send + Sync,
) -> Result<Option<Value>, Status> {
    let server = subject.call.server;
    let lookup: &dyn Lookup = server.lookup.as_ref();
    let webhooks = server.mutating_webhooks.webhooks(lookup);
    if webhooks.1.is_empty() || is_exempt(&subject) {
        return Ok(None);
    }
    let mut round = Round { subject, object: subject.object.cloned(), asked: BTreeSet::new(), due: BTreeSet::new() };
    round.run(&webhooks.1, false, lookup).await?;
    let Some(mut object) = round.changed() else { return Ok(None) };
    let before = object.clone();
    again(&mut object)?;
    if object != before {
        // What built-in rules changed, every webhook that wants to may see again.
        round.due = round.asked.clone();
    }
    round.object = Some(object);
    if !round.due.is_empty() {
        round.run(&webhooks.1, true, lookup).await?;
    }
    Ok(round.object)
}

/// One pass over the mutating webhooks and what it left.
struct Round<'a> {
    subject: Subject<'a>,
    object: Option<Value>,
    /// Webhooks that were asked and want to be asked again when something changes.
    asked: BTreeSet<usize>,
    /// Those of them for which something did change.
    due: BTreeSet<usize>,
}

impl Round<'_> {
    fn changed(&self) -> Option<Value> {
        if self.object.as_ref() == self.subject.object { None } else { self.object.clone() }
    }

    async fn run(&mut self, webhooks: &[Arc<Webhook>], again: bool, lookup: &dyn Lookup) -> Result<(), Status> {
        for (at, webhook) in webhooks.iter().enumerate() {
            if again && !self.due.contains(&at) {
                continue;
            }
            let held = self.object.clone();
            let subject = Subject { object: held.as_ref(), ..self.subject };
            let invocation = subject.call.settled(|| invocation(&subject, webhook, lookup)).await?;
            let Some(invocation) = invocation else { continue };
            let outcome = ask(&subject, &invocation, true).await;
            let patched = match outcome {
                Ok(answer) => patched(&subject, &invocation, &answer.patch)?,
                Err(fault) => {
                    judged(webhook, fault)?;
                    None
                }
            };
            if patched.is_some() && patched != held {
                self.due.extend(self.asked.iter().copied());
                self.object = patched;
            }
            if webhook.reinvoked {
                self.asked.insert(at);
            }
        }
        Ok(())
    }
}

/// Applies a webhook's patch to the object in the version it was shown; `None` without a patch.
fn patched(subject: &Subject<'_>, invocation: &Invocation, patch: &Value) -> Result<Option<Value>, Status> {
    if patch.as_list().is_none_or(<[Value]>::is_empty) {
        return Ok(None);
    }
    let view = &invocation.view;
    let Some(object) = subject.object.filter(|object| !object.is_null()) else {
        return Err(Status::internal(format!(
            "admission webhook {:?} attempted to modify the object, which is not supported for this operation",
            invocation.webhook.name
        )));
    };
    let shown = subject.in_version(view, object)?.into_owned();
    let new = json_patch(shown, patch, &Limits::default())
        .map_err(|error| Status::internal(crate::rules::patch_status(&error).message))?;
    read_back(subject, view, object, &new).map(Some)
}

/// A changed object, given in a version, as the kind has it and in the storage version: what was written is read as
/// from a client, what does not belong falls away, defaults are filled in.
pub(crate) fn read_back(subject: &Subject<'_>, view: &View, object: &Value, new: &Value) -> Result<Value, Status> {
    let converted = matches!(subject.in_version(view, object)?, std::borrow::Cow::Owned(_));
    let kind = subject.kind_in(view);
    let Some(ty) = view.scheme.type_of(&kind) else { return Ok(new.clone()) };
    let decoded = decode_json(view.scheme.schema(), ty, &timonel_api::encode_json(new), &Limits::default());
    let mut new = decoded.map_err(Status::internal)?.value;
    new.set_at(&["apiVersion"], kind.api_version());
    new.set_at(&["kind"], kind.kind.as_str());
    if kind == view.resource.gvk() {
        crate::rules::apply_defaults(&view.scheme, &view.resource, &mut new);
    } else {
        timonel_api::default_type(&view.scheme, ty, &mut new);
    }
    if converted { view.absorb(new) } else { Ok(new) }
}

/// Asks every validating webhook that a write matches, all at once.
pub(crate) async fn validate(subject: Subject<'_>) -> Result<(), Status> {
    let server = subject.call.server;
    let lookup: &dyn Lookup = server.lookup.as_ref();
    let webhooks = server.validating_webhooks.webhooks(lookup);
    if webhooks.1.is_empty() || is_exempt(&subject) {
        return Ok(());
    }
    let mut invocations = Vec::new();
    for webhook in &webhooks.1 {
        invocations.extend(subject.call.settled(|| invocation(&subject, webhook, lookup)).await?);
    }
    let asked = invocations.iter().map(|invocation| ask(&subject, invocation, false));
    let outcomes = futures::future::join_all(asked).await;
    for (invocation, outcome) in invocations.iter().zip(outcomes) {
        outcome.map(drop).or_else(|fault| judged(&invocation.webhook, fault))?;
    }
    Ok(())
}
