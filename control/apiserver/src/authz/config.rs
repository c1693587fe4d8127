//! `AuthorizationConfiguration`: read, checked with upstream's messages, made a chain of authorizers.

use super::{
    Attributes, Authorizer, Decision, NodeAuthorizer, OpenPaths, Privileged, Rbac, Union,
    webhook::{CONDITIONS, FailurePolicy, WebhookAuthorizer, WebhookSettings},
};
use crate::{
    access::{AccessFiles, FileError, aggregate, decode_strict, find, kubeconfig_target},
    admission::{Condition, Lookup},
    authn::User,
    webhook::{WebhookClient, WebhookTarget},
};
use arc_swap::ArcSwap;
use jiff::SignedDuration;
use serde::Deserialize;
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use timonel_api::{FieldErrors, Path};
use timonel_cel::Type;
use timonel_runtime::Clock;

const VERSIONS: [&str; 3] =
    ["apiserver.config.k8s.io/v1", "apiserver.config.k8s.io/v1beta1", "apiserver.config.k8s.io/v1alpha1"];
const MAX_CONDITIONS: usize = 64;
const MAX_TIMEOUT: Duration = Duration::from_secs(30);
const DEFAULT_ALLOWED: &str = "5m";
const DEFAULT_REFUSED: &str = "30s";
const TYPES: [&str; 5] = ["AlwaysAllow", "AlwaysDeny", "Node", "RBAC", "Webhook"];

/// A cluster's authorizers in order.
#[derive(Debug)]
pub(crate) struct Chain {
    union: Union,
    /// Those that are asked over the network.
    pub(crate) webhooks: Vec<Arc<WebhookAuthorizer>>,
    pub(crate) has_rbac: bool,
    pub(crate) has_node: bool,
}

/// The chain in force, which can be replaced.
#[derive(Debug)]
pub(crate) struct Authorizers {
    rbac: Arc<Rbac>,
    pub(crate) chain: ArcSwap<Chain>,
}

impl Authorizers {
    /// Upstream's order where nothing is configured: nodes, then roles.
    pub(crate) fn new(rbac: Arc<Rbac>) -> Self {
        let chain = Chain::of(vec![Link::Node, Link::Rbac], &rbac);
        Self { rbac, chain: ArcSwap::from_pointee(chain) }
    }

    /// Reads and checks a configuration; without one it is the usual chain.
    ///
    /// # Errors
    /// With upstream's messages.
    pub(crate) fn read(
        &self,
        text: Option<&str>,
        files: &AccessFiles,
        client: &Arc<WebhookClient>,
        clock: &Clock,
    ) -> Result<Chain, FileError> {
        let Some(text) = text else { return Ok(Chain::of(vec![Link::Node, Link::Rbac], &self.rbac)) };
        let links = parse(text, files)?;
        let started = links.into_iter().map(|link| match link {
            Parsed::Webhook(settings) => {
                Link::Webhook(Arc::new(WebhookAuthorizer::new(*settings, client.clone(), clock.clone())))
            }
            Parsed::Node => Link::Node,
            Parsed::Rbac => Link::Rbac,
            Parsed::Always(decision) => Link::Always(decision),
        });
        Ok(Chain::of(started.collect(), &self.rbac))
    }
}

impl Authorizer for Authorizers {
    fn authorize(&self, user: &User, attributes: &Attributes<'_>, lookup: &dyn Lookup) -> Decision {
        self.chain.load().union.authorize(user, attributes, lookup)
    }
}

#[derive(Debug)]
enum Link {
    Node,
    Rbac,
    Webhook(Arc<WebhookAuthorizer>),
    Always(Decision),
}

/// The same before anything was started.
#[derive(Debug)]
enum Parsed {
    Node,
    Rbac,
    Webhook(Box<WebhookSettings>),
    Always(Decision),
}

/// Says the same to everyone.
#[derive(Debug)]
struct Always(Decision);

impl Authorizer for Always {
    fn authorize(&self, _: &User, _: &Attributes<'_>, _: &dyn Lookup) -> Decision {
        self.0.clone()
    }
}

impl Chain {
    fn of(links: Vec<Link>, rbac: &Arc<Rbac>) -> Self {
        let mut authorizers: Vec<Box<dyn Authorizer>> = vec![Box::new(Privileged), Box::new(OpenPaths)];
        let (mut webhooks, mut has_rbac, mut has_node) = (Vec::new(), false, false);
        for link in links {
            authorizers.push(match link {
                Link::Node => {
                    has_node = true;
                    Box::new(NodeAuthorizer::default())
                }
                Link::Rbac => {
                    has_rbac = true;
                    Box::new(rbac.clone())
                }
                Link::Webhook(webhook) => {
                    webhooks.push(webhook.clone());
                    Box::new(webhook)
                }
                Link::Always(decision) => Box::new(Always(decision)),
            });
        }
        Self { union: Union::new(authorizers), webhooks, has_rbac, has_node }
    }
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    authorizers: Vec<AuthorizerFile>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct AuthorizerFile {
    #[serde(rename = "type")]
    kind: String,
    name: String,
    webhook: Option<WebhookFile>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct WebhookFile {
    #[serde(rename = "authorizedTTL")]
    authorized_ttl: String,
    cache_authorized_requests: Option<bool>,
    #[serde(rename = "unauthorizedTTL")]
    unauthorized_ttl: String,
    cache_unauthorized_requests: Option<bool>,
    timeout: String,
    subject_access_review_version: String,
    match_condition_subject_access_review_version: String,
    failure_policy: String,
    connection_info: ConnectionFile,
    match_conditions: Vec<ConditionFile>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct ConnectionFile {
    #[serde(rename = "type")]
    kind: String,
    kube_config_file: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ConditionFile {
    expression: String,
}

/// Checks a configuration without starting anything.
pub(crate) fn check_authorization(text: &str, files: &AccessFiles) -> Result<(), FileError> {
    parse(text, files).map(drop)
}

/// The files that a configuration names, for whoever has to fetch them.
///
/// # Errors
/// When it is no configuration at all.
pub fn files_of_authorization(text: &str) -> Result<Vec<String>, FileError> {
    let file: File = decode_strict(text, &VERSIONS, "AuthorizationConfiguration")?;
    let webhooks = file.authorizers.into_iter().filter_map(|authorizer| authorizer.webhook);
    Ok(webhooks.filter_map(|webhook| webhook.connection_info.kube_config_file).collect())
}

fn parse(text: &str, files: &AccessFiles) -> Result<Vec<Parsed>, FileError> {
    let file: File = decode_strict(text, &VERSIONS, "AuthorizationConfiguration")?;
    let mut errors = FieldErrors::new();
    let root = Path::new("authorizers");
    if file.authorizers.is_empty() {
        errors.required(&root, "at least one authorization mode must be defined");
    }
    let (mut types, mut names, mut links) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
    for (at, entry) in file.authorizers.iter().enumerate() {
        let path = root.index(at);
        let kind = entry.kind.as_str();
        if kind.is_empty() {
            errors.required(&path.child("type"), "");
            continue;
        }
        if !TYPES.contains(&kind) {
            errors.not_supported(&path.child("type"), kind, &TYPES);
            continue;
        }
        if !types.insert(kind) && kind != "Webhook" {
            errors.duplicate(&path.child("type"), kind);
            continue;
        }
        check_name(&entry.name, &mut names, &path.child("name"), &mut errors);
        if kind != "Webhook" && entry.webhook.is_some() {
            errors.invalid(&path.child("webhook"), "non-null", "may only be specified when type=Webhook");
        }
        links.extend(match (kind, &entry.webhook) {
            ("Webhook", None) => {
                errors.required(&path.child("webhook"), "required when type=Webhook");
                None
            }
            ("Webhook", Some(webhook)) => {
                webhook.check(&entry.name, &path, files, &mut errors)?.map(|webhook| Parsed::Webhook(Box::new(webhook)))
            }
            ("Node", _) => Some(Parsed::Node),
            ("RBAC", _) => Some(Parsed::Rbac),
            ("AlwaysAllow", _) => Some(Parsed::Always(Decision::Allow(String::new()))),
            _ => Some(Parsed::Always(Decision::NoOpinion("Everything is forbidden.".to_owned()))),
        });
    }
    aggregate(&errors)?;
    Ok(links)
}

fn check_name<'n>(name: &'n str, names: &mut BTreeSet<&'n str>, path: &Path<'_>, errors: &mut FieldErrors) {
    let broken = timonel_api::names::dns_subdomain(name);
    if name.is_empty() {
        errors.required(path, "");
    } else if !names.insert(name) {
        errors.duplicate(path, name);
    } else if !broken.is_empty() {
        errors.invalid(path, name, format!("authorizer name is invalid: {}", broken.join(", ")));
    }
}

impl WebhookFile {
    /// The webhook; `None` when errors were found.
    fn check(
        &self,
        name: &str,
        path: &Path<'_>,
        files: &AccessFiles,
        errors: &mut FieldErrors,
    ) -> Result<Option<WebhookSettings>, FileError> {
        let before = errors.len();
        let timeout = duration(&self.timeout, "", &path.child("timeout"), errors);
        if !timeout.is_zero() && (timeout.is_negative() || timeout.unsigned_abs() > MAX_TIMEOUT) {
            errors.invalid(&path.child("timeout"), self.timeout.as_str(), "must be > 0s and <= 30s");
        }
        let mut ttl = |text: &str, default: &str, cached: Option<bool>, field: &str| {
            let ttl = duration(text, default, &path.child(field), errors);
            if ttl.is_negative() {
                errors.invalid(&path.child(field), text, "must be > 0s");
            }
            if cached.unwrap_or(true) { ttl } else { SignedDuration::ZERO }
        };
        let allowed_for = ttl(&self.authorized_ttl, DEFAULT_ALLOWED, self.cache_authorized_requests, "authorizedTTL");
        let refused_for =
            ttl(&self.unauthorized_ttl, DEFAULT_REFUSED, self.cache_unauthorized_requests, "unauthorizedTTL");
        let version = self.check_versions(path, errors);
        let on_failure = match self.failure_policy.as_str() {
            "Deny" => FailurePolicy::Deny,
            "" => {
                errors.required(&path.child("failurePolicy"), "");
                FailurePolicy::Deny
            }
            "NoOpinion" => FailurePolicy::NoOpinion,
            other => {
                errors.not_supported(&path.child("failurePolicy"), other, &["NoOpinion", "Deny"]);
                FailurePolicy::Deny
            }
        };
        let target = self.connection_info.target(&path.child("connectionInfo"), files, errors)?;
        let conditions = self.conditions(path, errors);
        let Some(target) = target.filter(|_| errors.len() == before) else { return Ok(None) };
        let timeout = timeout.unsigned_abs();
        let name = name.to_owned();
        Ok(Some(WebhookSettings { name, version, target, timeout, allowed_for, refused_for, on_failure, conditions }))
    }

    fn check_versions(&self, path: &Path<'_>, errors: &mut FieldErrors) -> &'static str {
        let of_conditions = path.child("matchConditionSubjectAccessReviewVersion");
        match self.match_condition_subject_access_review_version.as_str() {
            "" if self.match_conditions.is_empty() => {}
            "" => errors.required(&of_conditions, "required if match conditions are specified"),
            "v1" => {}
            other => errors.not_supported(&of_conditions, other, &["v1"]),
        }
        let path = path.child("subjectAccessReviewVersion");
        match self.subject_access_review_version.as_str() {
            "v1beta1" => return "v1beta1",
            "v1" => {}
            "" => errors.required(&path, ""),
            other => errors.not_supported(&path, other, &["v1", "v1beta1"]),
        }
        "v1"
    }

    fn conditions(&self, path: &Path<'_>, errors: &mut FieldErrors) -> Vec<Condition> {
        let path = path.child("matchConditions");
        if self.match_conditions.len() > MAX_CONDITIONS {
            errors.too_many(&path, self.match_conditions.len(), MAX_CONDITIONS);
            return Vec::new();
        }
        let (mut seen, mut conditions) = (BTreeSet::new(), Vec::new());
        for (at, condition) in self.match_conditions.iter().enumerate() {
            let item = path.index(at);
            let path = item.child("expression");
            let text = condition.expression.as_str();
            if text.trim().is_empty() {
                errors.required(&path, "");
                continue;
            }
            if !seen.insert(text) {
                errors.duplicate(&path, text);
                continue;
            }
            match timonel_cel::compile(text, &CONDITIONS) {
                Err(found) => errors.invalid(&path, text, format!("compilation failed: {found}")),
                Ok(program) if !program.result_type().is_exactly(&Type::Bool) => {
                    errors.invalid(&path, text, "must evaluate to bool");
                }
                Ok(program) => conditions.push(Condition { program: Ok(program) }),
            }
        }
        conditions
    }
}

impl ConnectionFile {
    fn target(
        &self,
        path: &Path<'_>,
        files: &AccessFiles,
        errors: &mut FieldErrors,
    ) -> Result<Option<WebhookTarget>, FileError> {
        let file = path.child("kubeConfigFile");
        match (self.kind.as_str(), self.kube_config_file.as_deref()) {
            ("KubeConfigFile", None | Some("")) => errors.required(&file, ""),
            ("KubeConfigFile", Some(name)) => {
                let missing = || FileError::Missing { field: file.to_string(), name: name.to_owned() };
                let text = find(files, name).ok_or_else(missing)?;
                return kubeconfig_target(&file.to_string(), text, files).map(Some);
            }
            ("", _) => errors.required(&path.child("type"), ""),
            // A control plane that runs in no cluster has no place of its own to ask.
            (other, _) => errors.not_supported(&path.child("type"), other, &["KubeConfigFile"]),
        }
        Ok(None)
    }
}

/// A Go duration; zero when it is missing or no duration.
fn duration(text: &str, default: &str, path: &Path<'_>, errors: &mut FieldErrors) -> SignedDuration {
    let text = if matches!(text, "" | "0" | "0s") { default } else { text };
    if text.is_empty() {
        errors.required(path, "");
        return SignedDuration::ZERO;
    }
    text.parse().unwrap_or_else(|_| {
        errors.invalid(path, text, format!("time: invalid duration {text:?}"));
        SignedDuration::ZERO
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\n";
    const HOOK: &str = "timeout: 3s, subjectAccessReviewVersion: v1, failurePolicy: Deny, \
                        connectionInfo: {type: KubeConfigFile, kubeConfigFile: hook}";

    fn found(body: &str) -> Result<Vec<Parsed>, String> {
        let kubeconfig = "current-context: c\nclusters: [{name: k, cluster: {server: 'https://h'}}]\n\
                          contexts: [{name: c, context: {cluster: k}}]";
        let files = AccessFiles::from([("hook".to_owned(), kubeconfig.to_owned())]);
        parse(&format!("{HEAD}{body}"), &files).map_err(|error| error.to_string())
    }

    fn hook(change: &str) -> String {
        let (name, value) = change.split_once(": ").unwrap_or(("", ""));
        let kept = HOOK
            .split(", ")
            .scan(false, |_, part| Some(part))
            .filter(|part| name.is_empty() || !part.starts_with(&format!("{name}:")));
        let mut parts: Vec<String> = Vec::new();
        for part in kept {
            // The connection has a comma of its own.
            if part.starts_with("kubeConfigFile") && name == "connectionInfo" {
                continue;
            }
            parts.push(part.to_owned());
        }
        if !value.is_empty() {
            parts.push(change.to_owned());
        }
        format!("authorizers: [{{type: Webhook, name: w, webhook: {{{}}}}}]", parts.join(", "))
    }

    #[test]
    fn a_chain_is_what_the_configuration_says() {
        let links = found(&format!(
            "authorizers:\n- {{type: Node, name: node}}\n- {{type: Webhook, name: a, webhook: {{{HOOK}}}}}\n\
             - {{type: RBAC, name: r}}\n- {{type: Webhook, name: b, webhook: {{{HOOK}, cacheAuthorizedRequests: false, unauthorizedTTL: 1m30s}}}}\n"
        ))
        .unwrap();
        let [Parsed::Node, Parsed::Webhook(first), Parsed::Rbac, Parsed::Webhook(second)] = &links[..] else {
            panic!("{links:?}")
        };
        assert_eq!(
            (first.allowed_for, first.refused_for),
            (SignedDuration::from_mins(5), SignedDuration::from_secs(30))
        );
        assert_eq!((second.allowed_for, second.refused_for), (SignedDuration::ZERO, SignedDuration::from_secs(90)));
        assert_eq!((first.timeout, first.on_failure), (Duration::from_secs(3), FailurePolicy::Deny));
        assert_eq!(files_of_authorization(&format!("{HEAD}{}", hook(""))).unwrap(), ["hook"]);
    }

    #[test]
    fn what_a_configuration_may_not_say_is_named_in_upstreams_words() {
        let at = "authorizers[0]";
        for (body, message) in [
            (
                "authorizers: []".to_owned(),
                "authorizers: Required value: at least one authorization mode must be defined".to_owned(),
            ),
            ("authorizers: [{name: x}]".into(), format!("{at}.type: Required value")),
            (
                "authorizers: [{type: ABAC, name: x}]".into(),
                format!(
                    "{at}.type: Unsupported value: \"ABAC\": supported values: \"AlwaysAllow\", \"AlwaysDeny\", \"Node\", \"RBAC\", \"Webhook\""
                ),
            ),
            (
                "authorizers: [{type: RBAC, name: x}, {type: RBAC, name: z}]".into(),
                "authorizers[1].type: Duplicate value: \"RBAC\"".into(),
            ),
            (
                "authorizers: [{type: Node, name: x}, {type: RBAC, name: x}]".into(),
                "authorizers[1].name: Duplicate value: \"x\"".into(),
            ),
            ("authorizers: [{type: RBAC}]".into(), format!("{at}.name: Required value")),
            (
                "authorizers: [{type: Webhook, name: x}]".into(),
                format!("{at}.webhook: Required value: required when type=Webhook"),
            ),
            (
                "authorizers: [{type: RBAC, name: x, webhook: {}}]".into(),
                format!("{at}.webhook: Invalid value: \"non-null\": may only be specified when type=Webhook"),
            ),
            (hook("timeout: 31s"), format!("{at}.timeout: Invalid value: \"31s\": must be > 0s and <= 30s")),
            (hook("timeout: soon"), format!("{at}.timeout: Invalid value: \"soon\": time: invalid duration \"soon\"")),
            (hook("timeout: ''"), format!("{at}.timeout: Required value")),
            (hook("authorizedTTL: -1s"), format!("{at}.authorizedTTL: Invalid value: \"-1s\": must be > 0s")),
            (
                hook("subjectAccessReviewVersion: v2"),
                format!(
                    "{at}.subjectAccessReviewVersion: Unsupported value: \"v2\": supported values: \"v1\", \"v1beta1\""
                ),
            ),
            (
                hook("failurePolicy: Ignore"),
                format!("{at}.failurePolicy: Unsupported value: \"Ignore\": supported values: \"NoOpinion\", \"Deny\""),
            ),
            (
                hook("matchConditions: [{expression: 'true'}]"),
                format!(
                    "{at}.matchConditionSubjectAccessReviewVersion: Required value: required if match conditions are specified"
                ),
            ),
            (hook("connectionInfo: {}"), format!("{at}.connectionInfo.type: Required value")),
            (
                hook("connectionInfo: {type: KubeConfigFile}"),
                format!("{at}.connectionInfo.kubeConfigFile: Required value"),
            ),
            (
                hook("connectionInfo: {type: KubeConfigFile, kubeConfigFile: none}"),
                format!("{at}.connectionInfo.kubeConfigFile: no file \"none\" was given"),
            ),
        ] {
            assert_eq!(found(&body).map(drop), Err(message), "{body}");
        }
        let condition = |text: &str| {
            hook(&format!(
                "matchConditionSubjectAccessReviewVersion: v1, matchConditions: [{{expression: \"{text}\"}}]"
            ))
        };
        for (text, words) in [
            ("request.user", Some("must evaluate to bool")),
            ("request.nobody == ''", Some("undefined field 'nobody'")),
            ("has(request.resourceAttributes) && request.resourceAttributes.namespace == 'x'", None),
            ("!('system:masters' in request.groups)", None),
        ] {
            let found = found(&condition(text));
            match words {
                Some(words) => assert!(found.as_ref().is_err_and(|why| why.contains(words)), "{found:?}"),
                None => assert!(found.is_ok(), "{found:?}"),
            }
        }
    }
}
