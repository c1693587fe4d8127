//! The one executor: carries out a plan's actions in order and reports what came of them. It makes no choice.

use super::{
    action::{Action, Note, Tone, Write},
    discovery, events,
    http::{self as requests, Deleted, RequestError},
    kinds::{Key, Kind, Object},
    migrate,
    view::{Answer, Failure, Leftover, Question},
};
use crate::signing::{self, ClusterSigner};
use futures::{StreamExt, stream::FuturesUnordered};
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::json;
use std::{collections::BTreeMap, mem::discriminant, sync::Arc};
use timonel_runtime::{Clock, follow_trace, traces_are_on};

/// Requests of one plan under way at once.
const MAX_AT_ONCE: usize = 32;

/// What the executor needs of the world.
pub(crate) struct Executor {
    pub(crate) client: kube::Client,
    pub(crate) clock: Clock,
    pub(crate) signer: Option<Arc<dyn ClusterSigner>>,
    pub(crate) recorder: Mutex<events::Recorder>,
}

/// What an action did to the world.
#[derive(Debug)]
pub(crate) enum Effect {
    Wrote(Object),
    Removed(Kind, Key, String),
    RemovedUnknown(String),
    Learned(Question, Timestamp, Answer),
}

/// How a plan ended.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) effects: Vec<Effect>,
    pub(crate) failure: Option<Failure>,
    /// The failure is the view's lag, which the next look settles; nobody needs to hear of it.
    pub(crate) stale: bool,
}

impl Executor {
    /// Carries out `actions` for `controller`. After a failure only status writes still go out.
    pub(crate) async fn run(&self, controller: &'static str, actions: Vec<Action>) -> Outcome {
        let mut outcome = Outcome::default();
        let mut rest = actions.as_slice();
        while let Some(first) = rest.first() {
            let together = match first.write {
                Write::Create(_) | Write::Delete { .. } => {
                    rest.iter().take_while(|action| discriminant(&action.write) == discriminant(&first.write)).count()
                }
                _ => 1,
            };
            let (run, after) = rest.split_at(together);
            rest = after;
            if outcome.failure.is_none() || matches!(first.write, Write::UpdateStatus(_) | Write::Tell) {
                self.run_together(controller, run, &mut outcome).await;
            }
        }
        outcome
    }

    /// Sends a run of like actions in batches of 1, 2, 4, ... so that a refusal costs one request, not hundreds.
    async fn run_together(&self, controller: &'static str, run: &[Action], outcome: &mut Outcome) {
        let (mut rest, mut size) = (run, 1);
        while !rest.is_empty() && (outcome.failure.is_none() || run.len() == 1) {
            let (batch, after) = rest.split_at(size.min(rest.len()));
            rest = after;
            size = (size * 2).min(MAX_AT_ONCE);
            let mut pending: FuturesUnordered<_> =
                batch.iter().map(|action| async move { (action, self.perform(&action.write).await) }).collect();
            while let Some((action, result)) = pending.next().await {
                self.settle(controller, action, result, outcome).await;
            }
        }
    }

    async fn settle(
        &self,
        controller: &'static str,
        action: &Action,
        result: Result<Vec<Effect>, RequestError>,
        outcome: &mut Outcome,
    ) {
        match result {
            Ok(effects) => {
                if let Some(note) = &action.success {
                    let name = effects.iter().find_map(|effect| match effect {
                        Effect::Wrote(object) => object.meta().name.clone(),
                        _ => None,
                    });
                    self.tell(controller, note, name.as_deref().unwrap_or_default()).await;
                }
                outcome.effects.extend(effects);
            }
            Err(error) => {
                let stale = error.code() == 409 || error.code() == 404;
                if let Some(note) = &action.failure
                    && !stale
                    && !error.namespace_is_terminating()
                {
                    self.tell(controller, note, &error.to_string()).await;
                }
                tracing::debug!(controller, %error, "action failed");
                if error.code() == 404 {
                    outcome.effects.extend(vanished(&action.write));
                }
                outcome.stale = stale;
                outcome.failure.get_or_insert(Failure { reason: verb(&action.write), message: error.to_string() });
            }
        }
    }

    async fn perform(&self, write: &Write) -> Result<Vec<Effect>, RequestError> {
        let client = &self.client;
        match write {
            Write::Create(object) => Ok(vec![Effect::Wrote(requests::create(client, object).await?)]),
            Write::Update(object) => Ok(vec![Effect::Wrote(requests::replace(client, object, "").await?)]),
            Write::UpdateStatus(object) => Ok(vec![Effect::Wrote(requests::replace(client, object, "status").await?)]),
            Write::UpdateSubresource(object, name) => {
                Ok(vec![Effect::Wrote(requests::replace(client, object, name).await?)])
            }
            Write::Patch { target, subresource, patch } => {
                let json = requests::merge(client, target, subresource, patch).await?;
                Ok(requests::typed(&target.resource, &json).map(Effect::Wrote).into_iter().collect())
            }
            Write::Delete { target, propagation, grace_seconds } => {
                match requests::delete(client, target, *propagation, *grace_seconds).await {
                    Ok(Deleted::Waiting(json)) => {
                        Ok(requests::typed(&target.resource, &json).map(Effect::Wrote).into_iter().collect())
                    }
                    Ok(Deleted::Gone) => Ok(vanished(write)),
                    // Gone, or another object lives there: what was meant to go is gone.
                    Err(error) if error.code() == 404 => Ok(vanished(write)),
                    Err(error) => Err(error),
                }
            }
            Write::DeleteAll { resource, namespace } => match requests::delete_all(client, resource, namespace).await {
                Err(error) if error.code() == 404 || error.code() == 405 => Ok(Vec::new()),
                other => other.map(|()| Vec::new()),
            },
            Write::Ask(question) => self.ask(question).await,
            Write::Sign(object) => self.sign(object).await,
            Write::Tell => Ok(Vec::new()),
        }
    }

    async fn ask(&self, question: &Question) -> Result<Vec<Effect>, RequestError> {
        let asked = self.clock.now();
        let answer = match question {
            Question::Uid { resource, key } => Answer::Uid(requests::uid(&self.client, resource, key).await?),
            Question::Data { namespace, name, key } => {
                Answer::Data(requests::data(&self.client, namespace, name, key).await?)
            }
            Question::Usage { namespace, selector } => {
                let usage = requests::usage(&self.client, namespace, selector).await;
                Answer::Usage(usage.map_err(|error| {
                    format!(
                        "unable to get metrics for resource: unable to fetch metrics from resource metrics API: {error}"
                    )
                }))
            }
            Question::Migrated { group, resource, .. } => {
                Answer::Migrated(migrate::migrate(&self.client, group, resource).await?)
            }
            Question::Contents { namespace } => self.contents(namespace).await?,
            Question::Allowed { user, uid, groups, group, resource, subresource, verb } => {
                let asked = json!({"group": group, "resource": resource, "subresource": subresource, "verb": verb});
                let spec = json!({"user": user, "uid": uid, "groups": groups, "resourceAttributes": asked});
                Answer::Allowed(requests::allowed(&self.client, &spec).await?)
            }
        };
        Ok(vec![Effect::Learned(question.clone(), asked, answer)])
    }

    async fn contents(&self, namespace: &str) -> Result<Answer, RequestError> {
        let found = discovery::discover(&self.client).await?;
        let (mut left, mut errors) = (Vec::new(), found.errors);
        for resource in found.resources.into_iter().filter(|resource| resource.namespaced) {
            match requests::page(&self.client, &resource, namespace).await {
                Ok((items, beyond)) if !items.is_empty() => {
                    let mut finalizers = BTreeMap::new();
                    for item in &items {
                        for finalizer in item["metadata"]["finalizers"].as_array().into_iter().flatten() {
                            *finalizers.entry(finalizer.as_str().unwrap_or_default().to_owned()).or_insert(0) += 1;
                        }
                    }
                    left.push(Leftover { resource, count: items.len().saturating_add(beyond), finalizers });
                }
                Ok(_) => {}
                Err(error) if error.code() == 404 || error.code() == 405 => {}
                Err(error) => errors.push(format!("{}: {error}", resource.plural)),
            }
        }
        Ok(Answer::Contents { left, errors })
    }

    async fn sign(&self, object: &Object) -> Result<Vec<Effect>, RequestError> {
        let Some(signer) = self.signer.as_deref() else { return Ok(Vec::new()) };
        let (signed, subresource) = match object {
            Object::CertificateSigningRequest(request) => {
                let mut request = (**request).clone();
                signing::sign(&mut request, signer, self.clock.now()).await.map_err(RequestError::Signer)?;
                (Object::from(request), "status")
            }
            Object::Secret(secret) => {
                let mut secret = (**secret).clone();
                signing::sign_token(&mut secret, signer).await.map_err(RequestError::Signer)?;
                (Object::from(secret), "")
            }
            _ => return Ok(Vec::new()),
        };
        Ok(vec![Effect::Wrote(requests::replace(&self.client, &signed, subresource).await?)])
    }

    /// Records a note; that an event could not be stored is logged and otherwise forgotten.
    async fn tell(&self, controller: &'static str, note: &Note, insertion: &str) {
        let mut note = note.clone();
        note.message = note.message.replace("{}", insertion);
        let now = self.clock.now();
        let Some(send) = self.recorder.lock().record(controller, &note, now) else { return };
        let result = match send {
            events::Send::Create(event) => self.create_event(&event).await,
            events::Send::Count { namespace, name, count, at } => self.count_event(&namespace, &name, count, at).await,
        };
        if let Err(error) = result {
            tracing::debug!(controller, %error, bad = note.tone == Tone::Warning, "event not recorded");
        }
    }

    async fn create_event(&self, event: &k8s_openapi::api::core::v1::Event) -> Result<(), RequestError> {
        let path = format!("/api/v1/namespaces/{}/events", event.metadata.namespace.as_deref().unwrap_or("default"));
        self.send("POST", path, "application/json", serde_json::to_vec(event)?).await
    }

    async fn count_event(&self, namespace: &str, name: &str, count: i32, at: Timestamp) -> Result<(), RequestError> {
        let path = format!("/api/v1/namespaces/{namespace}/events/{name}");
        let at = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at);
        let patch = json!({"count": count, "lastTimestamp": at});
        self.send("PATCH", path, "application/merge-patch+json", serde_json::to_vec(&patch)?).await
    }

    async fn send(&self, method: &str, path: String, content: &str, body: Vec<u8>) -> Result<(), RequestError> {
        let builder = http::Request::builder().method(method).uri(path).header(http::header::CONTENT_TYPE, content);
        self.client.request_text(builder.body(body).map_err(RequestError::Build)?).await?;
        Ok(())
    }
}

/// The span of a plan: a part of the trace of the object that it acts on, or for which it makes another.
pub(super) fn span(controller: &'static str, actions: &[Action]) -> tracing::Span {
    if !traces_are_on() {
        return tracing::Span::none();
    }
    let span = tracing::info_span!("reconcile", controller);
    let _ = actions.iter().filter_map(|action| cause(&action.write)).any(|uid| follow_trace(&span, uid));
    span
}

/// The UID of the object that a write follows from.
fn cause(write: &Write) -> Option<&str> {
    match write {
        Write::Create(object) => {
            let owners = object.meta().owner_references.as_deref().unwrap_or_default();
            owners.iter().find(|owner| owner.controller == Some(true)).map(|owner| owner.uid.as_str())
        }
        Write::Update(object) | Write::UpdateStatus(object) | Write::UpdateSubresource(object, _) => {
            object.meta().uid.as_deref()
        }
        Write::Patch { target, .. } | Write::Delete { target, .. } => Some(&target.uid),
        _ => None,
    }
}

fn verb(write: &Write) -> &'static str {
    match write {
        Write::Create(_) => "FailedCreate",
        Write::Delete { .. } | Write::DeleteAll { .. } => "FailedDelete",
        _ => "FailedUpdate",
    }
}

/// What a write that found nothing teaches: its object does not exist.
fn vanished(write: &Write) -> Vec<Effect> {
    match write {
        Write::Update(object) | Write::UpdateStatus(object) | Write::UpdateSubresource(object, _) => {
            let uid = object.meta().uid.clone().unwrap_or_default();
            vec![Effect::Removed(object.kind(), Key::of(object.meta()), uid)]
        }
        Write::Patch { target, .. } | Write::Delete { target, .. } => {
            match Kind::find(&target.resource.api_version, &target.resource.kind) {
                Some(kind) => vec![Effect::Removed(kind, target.key.clone(), target.uid.clone())],
                None => vec![Effect::RemovedUnknown(target.uid.clone())],
            }
        }
        _ => Vec::new(),
    }
}
