//! What names, keys, addresses and other small texts may look like, with the messages clients know.
//!
//! Every `check` returns the broken rules, none when the text is fine. Never says where the text stands: that is
//! the caller's path.

mod address;
mod dns;
mod keys;

pub use address::{cidr, cidr_strict, endpoint_ip, ip, ip_strict, is_ipv6_cidr, parse_cidr_sloppy, parse_ip_sloppy};
pub use dns::{
    dns_label, dns_subdomain, dns_subdomain_underscore, dns1035_label, fqdn, mask_trailing_dash, wildcard_dns_subdomain,
};
pub use keys::{
    MAX_ANNOTATION_BYTES, c_identifier, config_key, env_var_name, env_var_name_relaxed, http_header_name, label_value,
    path_segment, percent, port_name, port_number, qualified_name,
};

/// `must be between LOW and HIGH, inclusive`.
#[must_use]
pub fn range_message(low: i64, high: i64) -> String {
    format!("must be between {low} and {high}, inclusive")
}

fn max_characters(max: usize) -> String {
    format!("must be no more than {max} characters")
}

fn max_bytes(max: usize) -> String {
    format!("must be no more than {max} bytes")
}

/// A rule, examples that keep it, and the expression that says it exactly.
fn pattern(rule: &str, expression: &str, examples: &[&str]) -> String {
    let mut text = rule.to_owned();
    if examples.is_empty() {
        text.push_str(" (regex used for validation is '");
    } else {
        text.push_str(" (e.g. ");
        for (at, example) in examples.iter().enumerate() {
            if at > 0 {
                text.push_str(" or ");
            }
            text.push('\'');
            text.push_str(example);
            text.push_str("', ");
        }
        text.push_str("regex used for validation is '");
    }
    text.push_str(expression);
    text.push_str("')");
    text
}
