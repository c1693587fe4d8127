//! `AuthenticationConfiguration`: read, checked with upstream's messages, compiled. Pure.

use super::mapping::{Mapping, Rule};
use crate::access::{FileError, aggregate, decode_strict};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde::Deserialize;
use std::collections::BTreeSet;
use timonel_api::{FieldErrors, Path, Value};

const VERSIONS: [&str; 3] =
    ["apiserver.config.k8s.io/v1", "apiserver.config.k8s.io/v1beta1", "apiserver.config.k8s.io/v1alpha1"];
/// Issuers of one cluster.
const MAX_ISSUERS: usize = 64;
const MATCH_ANY: &str = "MatchAny";

/// A configuration that was checked.
#[derive(Debug, Default)]
pub(crate) struct Configuration {
    pub(crate) issuers: Vec<IssuerConfig>,
    pub(crate) anonymous: Option<Anonymous>,
}

/// One issuer.
#[derive(Debug)]
pub(crate) struct IssuerConfig {
    pub(super) url: String,
    /// Where its keys are found, if not at its own well-known place.
    pub(super) discovery_url: Option<String>,
    /// Authorities in PEM; empty for the system's.
    pub(super) authorities: Vec<u8>,
    pub(super) audiences: Vec<String>,
    pub(super) mapping: Mapping,
}

/// Who may come without credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Anonymous {
    enabled: bool,
    /// Paths on which they may; none is any.
    paths: Vec<String>,
}

impl Anonymous {
    pub(crate) fn may(&self, path: &str) -> bool {
        self.enabled && (self.paths.is_empty() || self.paths.iter().any(|known| known == path))
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct File {
    jwt: Vec<JwtAuthenticator>,
    anonymous: Option<AnonymousFile>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct AnonymousFile {
    enabled: bool,
    conditions: Vec<PathCondition>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct PathCondition {
    path: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct JwtAuthenticator {
    issuer: IssuerFile,
    claim_validation_rules: Vec<ClaimRule>,
    claim_mappings: ClaimMappings,
    user_validation_rules: Vec<UserRule>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct IssuerFile {
    url: String,
    #[serde(rename = "discoveryURL")]
    discovery_url: Option<String>,
    certificate_authority: String,
    audiences: Vec<String>,
    audience_match_policy: String,
    egress_selector_type: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct ClaimRule {
    claim: String,
    required_value: String,
    expression: String,
    message: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ClaimMappings {
    username: Prefixed,
    groups: Prefixed,
    uid: ClaimOrExpression,
    extra: Vec<ExtraMapping>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Prefixed {
    claim: String,
    prefix: Option<String>,
    expression: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ClaimOrExpression {
    claim: String,
    expression: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct ExtraMapping {
    key: String,
    value_expression: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct UserRule {
    expression: String,
    message: String,
}

impl Configuration {
    /// Reads and checks a file; `own` are issuers that only the cluster itself may be.
    ///
    /// # Errors
    /// With upstream's messages.
    pub(crate) fn parse(text: &str, own: &[String]) -> Result<Self, FileError> {
        let file: File = decode_strict(text, &VERSIONS, "AuthenticationConfiguration")?;
        let mut errors = FieldErrors::new();
        let root = Path::new("jwt");
        let mut issuers = Vec::new();
        if file.jwt.len() > MAX_ISSUERS {
            errors.too_many(&root, file.jwt.len(), MAX_ISSUERS);
            aggregate(&errors)?;
            return Ok(Self::default());
        }
        let (mut urls, mut discovered) = (BTreeSet::new(), BTreeSet::new());
        for (at, jwt) in file.jwt.iter().enumerate() {
            let path = root.index(at);
            issuers.push(jwt.check(&path, own, &mut errors));
            if !urls.insert(&jwt.issuer.url) {
                errors.duplicate(&path.child("issuer.url"), jwt.issuer.url.as_str());
            }
            if let Some(url) = jwt.issuer.discovery_url.as_ref().filter(|url| !url.is_empty())
                && !discovered.insert(url)
            {
                errors.duplicate(&path.child("issuer.discoveryURL"), url.as_str());
            }
        }
        if let Some(anonymous) = &file.anonymous
            && !anonymous.enabled
            && !anonymous.conditions.is_empty()
        {
            let shown: Vec<Value> = anonymous
                .conditions
                .iter()
                .map(|condition| serde_json::json!({"Path": condition.path}).into())
                .collect();
            let why = "enabled should be set to true when conditions are defined";
            errors.invalid(&Path::new("anonymous.conditions"), shown, why);
        }
        aggregate(&errors)?;
        let anonymous = file.anonymous.map(|anonymous| Anonymous {
            enabled: anonymous.enabled,
            paths: anonymous.conditions.into_iter().map(|condition| condition.path).collect(),
        });
        Ok(Self { issuers, anonymous })
    }
}

impl JwtAuthenticator {
    fn check(&self, path: &Path<'_>, own: &[String], errors: &mut FieldErrors) -> IssuerConfig {
        self.issuer.check(&path.child("issuer"), own, errors);
        let mut mapping = Mapping::default();
        self.check_claim_rules(&path.child("claimValidationRules"), &mut mapping, errors);
        self.claim_mappings.check(&path.child("claimMappings"), &mut mapping, errors);
        let rules = path.child("userValidationRules");
        let mut seen = BTreeSet::new();
        for (at, rule) in self.user_validation_rules.iter().enumerate() {
            let item = rules.index(at);
            let path = item.child("expression");
            if rule.expression.is_empty() {
                errors.required(&path, "");
            } else if !seen.insert(&rule.expression) {
                errors.duplicate(&path, rule.expression.as_str());
            } else if let Some(rule) = Rule::of_user(&rule.expression, &rule.message, &path, errors) {
                mapping.user_rules.push(rule);
            }
        }
        IssuerConfig {
            url: self.issuer.url.clone(),
            discovery_url: self.issuer.discovery_url.clone().filter(|url| !url.is_empty()),
            authorities: self.issuer.certificate_authority.clone().into_bytes(),
            audiences: self.issuer.audiences.clone(),
            mapping,
        }
    }

    fn check_claim_rules(&self, path: &Path<'_>, mapping: &mut Mapping, errors: &mut FieldErrors) {
        let (mut claims, mut expressions) = (BTreeSet::new(), BTreeSet::new());
        for (at, rule) in self.claim_validation_rules.iter().enumerate() {
            let path = path.index(at);
            match (rule.claim.as_str(), rule.expression.as_str()) {
                ("", "") => errors.required(&path, "claim or expression is required"),
                (claim, "") => {
                    if !rule.message.is_empty() {
                        let why = "may not be specified when claim is set";
                        errors.invalid(&path.child("message"), rule.message.as_str(), why);
                    }
                    if !claims.insert(claim) {
                        errors.duplicate(&path.child("claim"), claim);
                    }
                    mapping.required.push((claim.to_owned(), rule.required_value.clone()));
                }
                ("", expression) => {
                    if !rule.required_value.is_empty() {
                        let why = "may not be specified when expression is set";
                        errors.invalid(&path.child("requiredValue"), rule.required_value.as_str(), why);
                    }
                    let path = path.child("expression");
                    if !expressions.insert(expression) {
                        errors.duplicate(&path, expression);
                    } else if let Some(rule) = Rule::of_claims(expression, &rule.message, &path, errors) {
                        mapping.claim_rules.push(rule);
                    }
                }
                (claim, _) => errors.invalid(&path, claim, "claim and expression can't both be set"),
            }
        }
    }
}

impl IssuerFile {
    fn check(&self, path: &Path<'_>, own: &[String], errors: &mut FieldErrors) {
        if self.url.is_empty() {
            errors.required(&path.child("url"), "");
        } else {
            check_url(&self.url, own, &path.child("url"), errors);
        }
        if let Some(discovery) = self.discovery_url.as_deref().filter(|url| !url.is_empty()) {
            let path = path.child("discoveryURL");
            if !self.url.is_empty() && self.url.trim_end_matches('/') == discovery.trim_end_matches('/') {
                errors.invalid(&path, discovery, "discoveryURL must be different from URL");
            }
            check_url(discovery, &[], &path, errors);
        }
        self.check_audiences(path, errors);
        if !self.certificate_authority.is_empty() {
            let certificates = CertificateDer::pem_slice_iter(self.certificate_authority.as_bytes());
            if certificates.flatten().next().is_none() {
                let why = "data does not contain any valid RSA or ECDSA certificates";
                errors.invalid(&path.child("certificateAuthority"), "<omitted>", why);
            }
        }
        if !matches!(self.egress_selector_type.as_str(), "" | "controlplane" | "cluster") {
            let why = "egress selector must be either controlplane or cluster";
            errors.invalid(&path.child("egressSelectorType"), self.egress_selector_type.as_str(), why);
        }
    }

    fn check_audiences(&self, path: &Path<'_>, errors: &mut FieldErrors) {
        let (audiences, policy) = (path.child("audiences"), path.child("audienceMatchPolicy"));
        if self.audiences.is_empty() {
            errors.required(&audiences, format!("at least one {audiences} is required"));
            return;
        }
        let mut seen = BTreeSet::new();
        for (at, audience) in self.audiences.iter().enumerate() {
            if audience.is_empty() {
                errors.required(&audiences.index(at), "");
            }
            if !seen.insert(audience) {
                errors.duplicate(&audiences.index(at), audience.as_str());
            }
        }
        let stated = self.audience_match_policy.as_str();
        if self.audiences.len() > 1 && stated != MATCH_ANY {
            errors.invalid(&policy, stated, "audienceMatchPolicy must be MatchAny for multiple audiences");
        } else if self.audiences.len() == 1 && !matches!(stated, "" | MATCH_ANY) {
            errors.invalid(&policy, stated, "audienceMatchPolicy must be empty or MatchAny for single audience");
        }
    }
}

fn check_url(url: &str, own: &[String], path: &Path<'_>, errors: &mut FieldErrors) {
    if own.iter().any(|issuer| issuer == url) {
        let why = format!("URL must not overlap with disallowed issuers: [{}]", own.join(" "));
        errors.invalid(path, url, why);
    }
    let (before, fragment) = url.split_once('#').unwrap_or((url, ""));
    let (before, query) = before.split_once('?').unwrap_or((before, ""));
    let (scheme, rest) = before.split_once("://").unwrap_or(("", before));
    let authority = rest.split('/').next().unwrap_or("");
    if scheme != "https" {
        errors.invalid(path, url, "URL scheme must be https");
    } else if before.parse::<http::Uri>().is_err() {
        errors.invalid(path, url, format!("parse {url:?}: invalid URL"));
    }
    if authority.contains('@') {
        errors.invalid(path, url, "URL must not contain a username or password");
    }
    if !query.is_empty() {
        errors.invalid(path, url, "URL must not contain a query");
    }
    if !fragment.is_empty() {
        errors.invalid(path, url, "URL must not contain a fragment");
    }
}

impl ClaimMappings {
    fn check(&self, path: &Path<'_>, mapping: &mut Mapping, errors: &mut FieldErrors) {
        mapping.username = self.username.check(&path.child("username"), true, errors);
        mapping.groups = self.groups.check(&path.child("groups"), false, errors);
        let uid = path.child("uid");
        mapping.uid = match (self.uid.claim.as_str(), self.uid.expression.as_str()) {
            ("", "") => None,
            (claim, "") => Some(Rule::claim(claim, "")),
            ("", expression) => Rule::value(expression, &uid.child("expression"), errors),
            _ => {
                errors.invalid(&uid, "", "claim and expression can't both be set");
                None
            }
        };
        let mut seen = BTreeSet::new();
        for (at, extra) in self.extra.iter().enumerate() {
            let list = path.child("extra");
            let path = list.index(at);
            check_key(&extra.key, &path.child("key"), errors);
            let value = path.child("valueExpression");
            if !seen.insert(&extra.key) {
                errors.duplicate(&path.child("key"), extra.key.as_str());
            } else if extra.value_expression.is_empty() {
                errors.required(&value, "");
            } else if let Some(rule) = Rule::value(&extra.value_expression, &value, errors) {
                mapping.extra.push((extra.key.clone(), rule));
            }
        }
        if mapping.trusts_unverified_email() {
            let why = "claims.email_verified must be used in claimMappings.username.expression or claimMappings.extra[*].valueExpression or claimValidationRules[*].expression when claims.email is used in claimMappings.username.expression";
            errors.invalid(&path.child("username.expression"), self.username.expression.as_str(), why);
        }
    }
}

impl Prefixed {
    fn check(&self, path: &Path<'_>, required: bool, errors: &mut FieldErrors) -> Option<Rule> {
        match (self.claim.as_str(), self.expression.as_str()) {
            ("", "") => {
                if required {
                    errors.required(path, "claim or expression is required");
                }
                None
            }
            ("", expression) => {
                if let Some(prefix) = &self.prefix {
                    errors.invalid(
                        &path.child("prefix"),
                        prefix.as_str(),
                        "may not be specified when expression is set",
                    );
                }
                Rule::value(expression, &path.child("expression"), errors)
            }
            (claim, "") => {
                let Some(prefix) = &self.prefix else {
                    let why =
                        "prefix is required when claim is set. It can be set to an empty string to disable prefixing";
                    errors.required(&path.child("prefix"), why);
                    return None;
                };
                Some(Rule::claim(claim, prefix))
            }
            _ => {
                errors.invalid(path, "", "claim and expression can't both be set");
                None
            }
        }
    }
}

/// A key of extra: a path with the domain of whoever means something by it, which is not Kubernetes.
fn check_key(key: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    match key.split_once('/') {
        _ if key.is_empty() => errors.required(path, ""),
        Some((domain, rest)) if !domain.is_empty() && !rest.is_empty() => {
            errors.invalid_each(path, domain, timonel_api::names::dns_subdomain(domain));
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&byte);
            if !rest.bytes().all(plain) {
                let why = "Invalid path (regex used for validation is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')";
                errors.invalid(path, rest, why);
            }
        }
        _ => errors.invalid(path, key, "must be a domain-prefixed path (such as \"acme.io/foo\")"),
    }
    if key.chars().any(char::is_uppercase) {
        errors.invalid(path, key, "must be lowercase");
    }
    let domain = key.split_once('/').map_or("", |(domain, _)| domain);
    let reserved = ["kubernetes.io", "k8s.io"]
        .iter()
        .any(|own| domain.strip_suffix(own).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')));
    if reserved {
        errors.invalid(path, key, "k8s.io, kubernetes.io and their subdomains are reserved for Kubernetes use");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\n";

    fn found(body: &str) -> String {
        let own = ["https://kubernetes.default.svc".to_owned()];
        Configuration::parse(&format!("{HEAD}{body}"), &own).map_or_else(|error| error.to_string(), |_| String::new())
    }

    /// One issuer, with a part of it replaced.
    fn one(part: &str) -> String {
        let mut parts = vec![
            ("issuer", "{url: 'https://i', audiences: [a]}"),
            ("claimMappings", "{username: {claim: sub, prefix: 'i:'}}"),
        ];
        let (name, value) = part.split_once(": ").unwrap_or(("", ""));
        parts.retain(|(held, _)| *held != name);
        if !name.is_empty() {
            parts.push((name, value));
        }
        let body: Vec<String> = parts.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        format!("jwt: [{{{}}}]", body.join(", "))
    }

    #[test]
    fn what_a_configuration_may_not_say_is_named_in_upstreams_words() {
        for (part, message) in [
            ("", ""),
            ("issuer: {audiences: [a]}", "jwt[0].issuer.url: Required value"),
            (
                "issuer: {url: 'http://i', audiences: [a]}",
                "jwt[0].issuer.url: Invalid value: \"http://i\": URL scheme must be https",
            ),
            (
                "issuer: {url: 'https://u:p@i?q#f', audiences: [a]}",
                "[jwt[0].issuer.url: Invalid value: \"https://u:p@i?q#f\": URL must not contain a username or password, jwt[0].issuer.url: Invalid value: \"https://u:p@i?q#f\": URL must not contain a query, jwt[0].issuer.url: Invalid value: \"https://u:p@i?q#f\": URL must not contain a fragment]",
            ),
            (
                "issuer: {url: 'https://kubernetes.default.svc', audiences: [a]}",
                "jwt[0].issuer.url: Invalid value: \"https://kubernetes.default.svc\": URL must not overlap with disallowed issuers: [https://kubernetes.default.svc]",
            ),
            (
                "issuer: {url: 'https://i', discoveryURL: 'https://i/', audiences: [a]}",
                "jwt[0].issuer.discoveryURL: Invalid value: \"https://i/\": discoveryURL must be different from URL",
            ),
            (
                "issuer: {url: 'https://i'}",
                "jwt[0].issuer.audiences: Required value: at least one jwt[0].issuer.audiences is required",
            ),
            (
                "issuer: {url: 'https://i', audiences: [a, a]}",
                "[jwt[0].issuer.audiences[1]: Duplicate value: \"a\", jwt[0].issuer.audienceMatchPolicy: Invalid value: \"\": audienceMatchPolicy must be MatchAny for multiple audiences]",
            ),
            (
                "issuer: {url: 'https://i', audiences: [a], certificateAuthority: x}",
                "jwt[0].issuer.certificateAuthority: Invalid value: \"<omitted>\": data does not contain any valid RSA or ECDSA certificates",
            ),
            ("claimMappings: {}", "jwt[0].claimMappings.username: Required value: claim or expression is required"),
            (
                "claimMappings: {username: {claim: sub}}",
                "jwt[0].claimMappings.username.prefix: Required value: prefix is required when claim is set. It can be set to an empty string to disable prefixing",
            ),
            (
                "claimMappings: {username: {claim: sub, expression: x}}",
                "jwt[0].claimMappings.username: Invalid value: \"\": claim and expression can't both be set",
            ),
            (
                "claimMappings: {username: {expression: claims.email}}",
                "jwt[0].claimMappings.username.expression: Invalid value: \"claims.email\": claims.email_verified must be used in claimMappings.username.expression or claimMappings.extra[*].valueExpression or claimValidationRules[*].expression when claims.email is used in claimMappings.username.expression",
            ),
            (
                "claimMappings: {username: {expression: 'claims.?email_verified.orValue(true) ? claims.email : \"\"'}}",
                "",
            ),
            (
                "claimMappings: {username: {expression: claims.sub}, extra: [{key: Foo, valueExpression: claims.x}, {key: a.k8s.io/b}]}",
                "[jwt[0].claimMappings.extra[0].key: Invalid value: \"Foo\": must be a domain-prefixed path (such as \"acme.io/foo\"), jwt[0].claimMappings.extra[0].key: Invalid value: \"Foo\": must be lowercase, jwt[0].claimMappings.extra[1].key: Invalid value: \"a.k8s.io/b\": k8s.io, kubernetes.io and their subdomains are reserved for Kubernetes use, jwt[0].claimMappings.extra[1].valueExpression: Required value]",
            ),
            (
                "claimValidationRules: [{}]",
                "jwt[0].claimValidationRules[0]: Required value: claim or expression is required",
            ),
            (
                "claimValidationRules: [{claim: a, requiredValue: b, message: c}]",
                "jwt[0].claimValidationRules[0].message: Invalid value: \"c\": may not be specified when claim is set",
            ),
            (
                "claimValidationRules: [{expression: claims.sub}]",
                "jwt[0].claimValidationRules[0].expression: Invalid value: \"claims.sub\": must evaluate to bool",
            ),
            ("userValidationRules: [{message: x}]", "jwt[0].userValidationRules[0].expression: Required value"),
            ("userValidationRules: [{expression: \"!user.username.startsWith('system:')\", message: x}]", ""),
        ] {
            assert_eq!(found(&one(part)), message, "{part}");
        }
        let wrong = found(&one("userValidationRules: [{expression: user.none == ''}]"));
        assert!(wrong.contains("compilation failed") && wrong.contains("undefined field 'none'"), "{wrong}");
        assert!(found(&one("userValidationRule: []")).contains("unknown field `userValidationRule`"));
        assert_eq!(found("anonymous: {enabled: true, conditions: [{path: /livez}]}"), "");
        assert!(
            found("anonymous: {enabled: false, conditions: [{path: /livez}]}")
                .starts_with("anonymous.conditions: Invalid value")
        );
        let twice = one("").replace("jwt: [", "").replace(']', "");
        assert!(!twice.is_empty());
    }

    #[test]
    fn the_nameless_may_come_where_it_says() {
        let parse = |body: &str| Configuration::parse(&format!("{HEAD}{body}"), &[]).unwrap().anonymous;
        assert_eq!(parse("jwt: []"), None);
        let some = parse("anonymous: {enabled: true, conditions: [{path: /livez}]}").unwrap();
        assert!(some.may("/livez") && !some.may("/livez/x") && !some.may("/api"));
        assert!(parse("anonymous: {enabled: true}").unwrap().may("/api"));
        assert!(!parse("anonymous: {enabled: false}").unwrap().may("/livez"));
    }
}
