//! Webhook configurations made ready: parsed once per change, in the order in which they are asked.

use super::rules::{ResourceRule, selector_of};
use crate::{
    admission::{Lookup, policy::Condition},
    webhook::WebhookTarget,
};
use arc_swap::ArcSwapOption;
use std::{sync::Arc, time::Duration};
use timonel_api::{LabelSelector, Value};

const GROUP: &str = "admissionregistration.k8s.io";
/// What a webhook has when its configuration names none.
const DEFAULT_TIMEOUT_SECONDS: i64 = 10;
const MAX_TIMEOUT_SECONDS: i64 = 30;

/// One webhook.
#[derive(Debug)]
pub(super) struct Webhook {
    pub(super) name: String,
    pub(super) target: Result<WebhookTarget, String>,
    pub(super) rules: Vec<ResourceRule>,
    pub(super) exact: bool,
    pub(super) namespaces: LabelSelector,
    pub(super) objects: LabelSelector,
    pub(super) conditions: Vec<Condition>,
    /// Whether a write is refused when the webhook cannot be asked.
    pub(super) fails_closed: bool,
    pub(super) timeout: Duration,
    pub(super) side_effects: bool,
    pub(super) reinvoked: bool,
    /// Version of `AdmissionReview` that it takes.
    pub(super) review_version: Option<&'static str>,
}

/// The webhooks of one kind of configuration.
#[derive(Debug)]
pub(crate) struct WebhookIndex {
    resource: &'static str,
    ready: ArcSwapOption<(u64, Vec<Arc<Webhook>>)>,
}

impl WebhookIndex {
    /// For `mutatingwebhookconfigurations` or `validatingwebhookconfigurations`.
    pub(crate) const fn new(resource: &'static str) -> Self {
        Self { resource, ready: ArcSwapOption::const_empty() }
    }

    /// Whether there are none: the case of most clusters, which costs a write nothing.
    pub(crate) fn is_empty(&self, lookup: &dyn Lookup) -> bool {
        self.webhooks(lookup).1.is_empty()
    }

    /// All webhooks, by name of their configuration and place in it.
    pub(super) fn webhooks(&self, lookup: &dyn Lookup) -> Arc<(u64, Vec<Arc<Webhook>>)> {
        let generation = lookup.generation(GROUP, self.resource);
        if let Some(ready) = self.ready.load_full().filter(|ready| ready.0 == generation) {
            return ready;
        }
        let configurations = lookup.list(GROUP, self.resource, None);
        let webhooks = configurations.iter().flat_map(|configuration| configuration.list_at(&["webhooks"]));
        let ready = Arc::new((generation, webhooks.map(|webhook| Arc::new(parse(webhook))).collect()));
        self.ready.store(Some(ready.clone()));
        ready
    }
}

fn parse(webhook: &Value) -> Webhook {
    let seconds = webhook.int_at(&["timeoutSeconds"]).unwrap_or(DEFAULT_TIMEOUT_SECONDS).clamp(1, MAX_TIMEOUT_SECONDS);
    let versions = webhook.list_at(&["admissionReviewVersions"]);
    let known = versions.iter().filter_map(Value::as_str).find_map(|version| match version {
        "v1" => Some("v1"),
        "v1beta1" => Some("v1beta1"),
        _ => None,
    });
    let none = Value::Null;
    Webhook {
        name: webhook.str_at(&["name"]).to_owned(),
        target: WebhookTarget::parse(webhook.get("clientConfig").unwrap_or(&none)).map_err(|error| error.to_string()),
        rules: webhook.list_at(&["rules"]).iter().map(ResourceRule::parse).collect(),
        exact: webhook.str_at(&["matchPolicy"]) == "Exact",
        namespaces: selector_of(webhook.get("namespaceSelector")),
        objects: selector_of(webhook.get("objectSelector")),
        conditions: Condition::parse_all(webhook.list_at(&["matchConditions"])),
        fails_closed: webhook.str_at(&["failurePolicy"]) != "Ignore",
        timeout: Duration::from_secs(u64::try_from(seconds).unwrap_or(1)),
        side_effects: !matches!(webhook.str_at(&["sideEffects"]), "None" | "NoneOnDryRun"),
        reinvoked: webhook.str_at(&["reinvocationPolicy"]) == "IfNeeded",
        review_version: known,
    }
}
