//! Names of RFC 1123 and RFC 1035. Never resolves one.

use super::{max_characters, pattern};

const LABEL_MAX: usize = 63;
const SUBDOMAIN_MAX: usize = 253;

const LABEL: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const LABEL_RULE: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must \
                          start and end with an alphanumeric character";
const SUBDOMAIN: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const SUBDOMAIN_RULE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or \
                              '.', and must start and end with an alphanumeric character";
const UNDERSCORE: &str = "_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*";
const UNDERSCORE_RULE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', \
                               '-' or '.', and must start and end with an alphanumeric character";
const RFC1035: &str = "[a-z]([-a-z0-9]*[a-z0-9])?";
const RFC1035_RULE: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an \
                            alphabetic character, and end with an alphanumeric character";
const WILDCARD: &str = "\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const WILDCARD_RULE: &str = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, \
                             which must consist of lower case alphanumeric characters, '-' or '.' and end with an \
                             alphanumeric character";

const fn is_alnum(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    matches!((bytes.first(), bytes.last()), (Some(first), Some(last)) if is_alnum(*first) && is_alnum(*last))
        && bytes.iter().all(|byte| is_alnum(*byte) || *byte == b'-')
}

fn is_label_underscore(text: &str) -> bool {
    let bytes = text.strip_prefix('_').unwrap_or(text).as_bytes();
    matches!((bytes.first(), bytes.last()), (Some(first), Some(last)) if is_alnum(*first) && is_alnum(*last))
        && bytes.iter().all(|byte| is_alnum(*byte) || matches!(byte, b'-' | b'_'))
}

fn is_subdomain(text: &str) -> bool {
    text.split('.').all(is_label)
}

/// An RFC 1123 label, as names of namespaces.
#[must_use]
pub fn dns_label(text: &str) -> Vec<String> {
    let mut broken = Vec::new();
    if text.len() > LABEL_MAX {
        broken.push(max_characters(LABEL_MAX));
    }
    if !is_label(text) {
        broken.push(if is_subdomain(text) {
            "must not contain dots".to_owned()
        } else {
            pattern(LABEL_RULE, LABEL, &["my-name", "123-abc"])
        });
    }
    broken
}

/// An RFC 1123 subdomain, as names of most objects.
#[must_use]
pub fn dns_subdomain(text: &str) -> Vec<String> {
    let mut broken = Vec::new();
    if text.len() > SUBDOMAIN_MAX {
        broken.push(max_characters(SUBDOMAIN_MAX));
    }
    if !is_subdomain(text) {
        broken.push(pattern(SUBDOMAIN_RULE, SUBDOMAIN, &["example.com"]));
    }
    broken
}

/// A subdomain whose labels may hold underscores, as DNS search paths.
#[must_use]
pub fn dns_subdomain_underscore(text: &str) -> Vec<String> {
    let mut broken = Vec::new();
    if text.len() > SUBDOMAIN_MAX {
        broken.push(max_characters(SUBDOMAIN_MAX));
    }
    if !text.split('.').all(is_label_underscore) {
        broken.push(pattern(UNDERSCORE_RULE, UNDERSCORE, &["example.com"]));
    }
    broken
}

/// An RFC 1035 label, as names of services.
#[must_use]
pub fn dns1035_label(text: &str) -> Vec<String> {
    let mut broken = Vec::new();
    if text.len() > LABEL_MAX {
        broken.push(max_characters(LABEL_MAX));
    }
    if !is_label(text) || !text.starts_with(|first: char| first.is_ascii_lowercase()) {
        broken.push(pattern(RFC1035_RULE, RFC1035, &["my-name", "abc-123"]));
    }
    broken
}

/// `*.` and a subdomain, as hosts of an Ingress.
#[must_use]
pub fn wildcard_dns_subdomain(text: &str) -> Vec<String> {
    let mut broken = Vec::new();
    if text.len() > SUBDOMAIN_MAX {
        broken.push(max_characters(SUBDOMAIN_MAX));
    }
    if !text.strip_prefix("*.").is_some_and(is_subdomain) {
        broken.push(pattern(WILDCARD_RULE, WILDCARD, &["*.example.com"]));
    }
    broken
}

/// A subdomain of at least `segments` segments; rules come back joined by commas, as upstream joins them.
#[must_use]
pub fn fqdn(text: &str, segments: usize) -> Vec<String> {
    let broken = dns_subdomain(text);
    if !broken.is_empty() {
        return vec![broken.join(",")];
    }
    if text.split('.').count() < segments {
        let words = if segments == 3 { "three" } else { "two" };
        return vec![format!("should be a domain with at least {words} segments separated by dots")];
    }
    Vec::new()
}

/// What a `generateName` prefix is judged by: a trailing dash stands for what is appended.
#[must_use]
pub fn mask_trailing_dash(prefix: &str) -> String {
    match prefix.strip_suffix('-') {
        Some(rest) if !rest.is_empty() => {
            let keep = rest.len() - rest.chars().next_back().map_or(0, char::len_utf8);
            format!("{}a", &rest[..keep])
        }
        _ => prefix.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Check = fn(&str) -> Vec<String>;

    #[test]
    fn names_are_judged() {
        let long_label = "a".repeat(64);
        let long_domain = ["a"; 128].join(".");
        let table: &[(Check, &str, &str)] = &[
            (dns_label, "a", ""),
            (dns_label, "1-a", ""),
            (dns_label, "a.b", "must not contain dots"),
            (
                dns_label,
                "A",
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start \
                 and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
                 '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
            ),
            (dns_label, &long_label, "must be no more than 63 characters"),
            (dns_subdomain, "a.b-c.d", ""),
            (dns_subdomain, &long_domain, "must be no more than 253 characters"),
            (
                dns_subdomain,
                "a..b",
                "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and \
                 must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
                 '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
            ),
            (dns_subdomain_underscore, "_sip._tcp.a", ""),
            (dns1035_label, "a-1", ""),
            (
                dns1035_label,
                "1a",
                "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic \
                 character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for \
                 validation is '[a-z]([-a-z0-9]*[a-z0-9])?')",
            ),
            (wildcard_dns_subdomain, "*.a.b", ""),
        ];
        for (check, text, message) in table {
            assert_eq!(check(text).join("; "), *message, "{text}");
        }
        assert_eq!(wildcard_dns_subdomain("*.*.a").len(), 1);
        assert_eq!(fqdn("a.b", 3), ["should be a domain with at least three segments separated by dots"]);
        assert!(fqdn("a.b.c", 3).is_empty());
    }

    #[test]
    fn a_prefix_may_end_in_a_dash() {
        for (prefix, masked) in [("abc-", "aba"), ("-", "-"), ("a--", "aa"), ("abc", "abc")] {
            assert_eq!(mask_trailing_dash(prefix), masked);
        }
    }
}
