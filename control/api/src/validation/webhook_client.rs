//! Where a webhook is called: a URL, or a service of the cluster.

use super::check::given;
use crate::names;
use crate::{FieldErrors, Path, Value};

const FORM: &str = "; desired format: https://host[/path]";

/// Judges the client configuration of a webhook.
pub(super) fn client(config: Option<&Value>, path: &Path<'_>, errors: &mut FieldErrors) {
    let url = config.and_then(|config| given(config, &["url"]));
    let service = config.and_then(|config| given(config, &["service"]));
    match (url, service) {
        (Some(address), None) => url_rules(address.as_str().unwrap_or(""), &path.child("url"), errors),
        (None, Some(target)) => service_rules(target, &path.child("service"), errors),
        _ => errors.required(path, "exactly one of url or service is required"),
    }
}

/// The parts of a URL that rules speak of.
#[derive(Debug, PartialEq)]
struct Parts<'a> {
    scheme: &'a str,
    host: &'a str,
    user: Option<&'a str>,
    query: &'a str,
    fragment: &'a str,
}

/// Takes a URL apart the way clients of Kubernetes do; the error says why it is none.
fn parts(url: &str) -> Result<Parts<'_>, String> {
    let fail = |why: &str| Err(format!("parse {}: {why}", crate::quote(url)));
    if url.chars().any(|c| c.is_ascii_control()) {
        return fail("net/url: invalid control character in URL");
    }
    let (rest, fragment) = url.split_once('#').unwrap_or((url, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let scheme_end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.')));
    let (scheme, rest) = match scheme_end {
        Some(0) if rest.starts_with(':') => return fail("missing protocol scheme"),
        Some(end) if rest[end..].starts_with(':') && rest.starts_with(|c: char| c.is_ascii_alphabetic()) => {
            (&rest[..end], &rest[end + 1..])
        }
        _ => ("", rest),
    };
    if scheme.is_empty() && !rest.starts_with('/') && rest.split('/').next().is_some_and(|first| first.contains(':')) {
        return fail("first path segment in URL cannot contain colon");
    }
    let Some(authority) = rest.strip_prefix("//") else {
        return Ok(Parts { scheme, host: "", user: None, query, fragment });
    };
    let authority = authority.split('/').next().unwrap_or("");
    let (user, host) = match authority.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, authority),
    };
    let port = host.rsplit(']').next().and_then(|tail| tail.split_once(':')).map(|(_, port)| port);
    if let Some(port) = port.filter(|port| !port.bytes().all(|byte| byte.is_ascii_digit())) {
        return fail(&format!("invalid port {} after host", crate::quote(&format!(":{port}"))));
    }
    if let Some(bad) = host.chars().find(|c| matches!(c, ' ' | '^' | '{' | '}' | '|' | '\\' | '`')) {
        return fail(&format!("invalid character {} in host name", crate::quote(&bad.to_string())));
    }
    Ok(Parts { scheme, host, user, query, fragment })
}

fn url_rules(url: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    let parts = match parts(url) {
        Ok(parts) => parts,
        Err(why) => return errors.required(path, format!("url must be a valid URL: {why}{FORM}")),
    };
    let scheme = parts.scheme.to_ascii_lowercase();
    if scheme != "https" {
        errors.invalid(path, scheme, format!("'https' is the only allowed URL scheme{FORM}"));
    }
    if parts.host.is_empty() {
        errors.invalid(path, parts.host, format!("host must be specified{FORM}"));
    }
    if let Some(user) = parts.user {
        errors.invalid(path, user, "user information is not permitted in the URL");
    }
    if !parts.fragment.is_empty() {
        errors.invalid(path, parts.fragment, "fragments are not permitted in the URL");
    }
    if !parts.query.is_empty() {
        errors.invalid(path, parts.query, "query parameters are not permitted in the URL");
    }
}

fn service_rules(service: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    // Clients know it this way round: each of the two is reported at the place of the other.
    for (place, member) in [("name", "namespace"), ("namespace", "name")] {
        if service.str_at(&[member]).is_empty() {
            errors.required(&path.child(place), "");
        }
    }
    port(service, path, errors);
    let Some(target) = service.get("path").and_then(Value::as_str) else { return };
    let place = path.child("path");
    match target {
        "" | "/" => return,
        "//" => return errors.invalid(&place, target, "segment[0] may not be empty"),
        _ => {}
    }
    if !target.starts_with('/') {
        errors.invalid(&place, target, "must start with a '/'");
    }
    let mut steps = target.chars();
    steps.next();
    let steps = steps.as_str();
    for (at, step) in steps.strip_suffix('/').unwrap_or(steps).split('/').enumerate() {
        if step.is_empty() {
            errors.invalid(&place, target, format!("segment[{at}] may not be empty"));
        } else {
            let broken = names::dns_subdomain(step).into_iter().map(|why| format!("segment[{at}]: {why}")).collect();
            errors.invalid_each(&place, target, broken);
        }
    }
}

/// The port of a service that is called.
pub(super) fn port(service: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    if let Some(port) = service.int_at(&["port"]) {
        let broken = names::port_number(port);
        if !broken.is_empty() {
            errors.invalid(&path.child("port"), port, format!("port is not valid: {}", broken.join(", ")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value as Json, json};

    fn faults(config: Json) -> Vec<String> {
        let mut errors = FieldErrors::new();
        client(Some(&config.into()), &Path::new("c"), &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn addresses_are_judged() {
        let https = "'https' is the only allowed URL scheme; desired format: https://host[/path]";
        let host = "host must be specified; desired format: https://host[/path]";
        let form = "; desired format: https://host[/path]";
        for (url, expected) in [
            ("https://a.example:8443/x", vec![]),
            ("https://[::1]:443", vec![]),
            ("", vec![format!("c.url: Invalid value: \"\": {https}"), format!("c.url: Invalid value: \"\": {host}")]),
            ("http://h", vec![format!("c.url: Invalid value: \"http\": {https}")]),
            ("https://u@h", vec!["c.url: Invalid value: \"u\": user information is not permitted in the URL".into()]),
            (
                "https://h?q#f",
                vec![
                    "c.url: Invalid value: \"f\": fragments are not permitted in the URL".into(),
                    "c.url: Invalid value: \"q\": query parameters are not permitted in the URL".into(),
                ],
            ),
            (
                "https://h:p",
                vec![format!(
                    "c.url: Required value: url must be a valid URL: parse \"https://h:p\": invalid port \":p\" after \
                     host{form}"
                )],
            ),
            (
                ":x",
                vec![format!(
                    "c.url: Required value: url must be a valid URL: parse \":x\": missing protocol scheme{form}"
                )],
            ),
        ] {
            assert_eq!(faults(json!({ "url": url })), expected, "{url}");
        }
        assert_eq!(faults(json!({})), ["c: Required value: exactly one of url or service is required"]);
    }

    #[test]
    fn services_are_judged() {
        let with = |path: &str| faults(json!({"service": {"name": "s", "namespace": "n", "port": 443, "path": path}}));
        for fine in ["", "/", "/a", "/a/b/"] {
            assert_eq!(with(fine), Vec::<String>::new(), "{fine}");
        }
        assert_eq!(with("//"), ["c.service.path: Invalid value: \"//\": segment[0] may not be empty"]);
        assert_eq!(with("/a//b"), ["c.service.path: Invalid value: \"/a//b\": segment[1] may not be empty"]);
        assert_eq!(with("xa")[..1], ["c.service.path: Invalid value: \"xa\": must start with a '/'"]);
        assert_eq!(with("éa")[..1], ["c.service.path: Invalid value: \"éa\": must start with a '/'"]);
        assert!(with("/A")[0].starts_with("c.service.path: Invalid value: \"/A\": segment[0]: a lowercase RFC 1123"));
        assert_eq!(
            faults(json!({"service": {"name": "s", "port": 0}})),
            [
                "c.service.name: Required value",
                "c.service.port: Invalid value: 0: port is not valid: must be between 1 and 65535, inclusive"
            ]
        );
    }
}
