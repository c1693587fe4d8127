//! Attributes of load balancers, groups and listeners: which there are, and what they may be.

use crate::error::{AwsError, refuse};
use crate::form::Tree;
use std::collections::BTreeMap;

/// An attribute with its value from the start, and what it may be: words joined by `|`, or `low..high`, or anything.
type Row = (&'static str, &'static str, &'static str);

const BALANCER: [Row; 4] = [
    ("deletion_protection.enabled", "false", "true|false"),
    ("access_logs.s3.enabled", "false", "true|false"),
    ("access_logs.s3.bucket", "", "*"),
    ("access_logs.s3.prefix", "", "*"),
];
const NETWORK: [Row; 2] = [
    ("load_balancing.cross_zone.enabled", "false", "true|false"),
    (
        "dns_record.client_routing_policy",
        "any_availability_zone",
        "any_availability_zone|availability_zone_affinity|partial_availability_zone_affinity",
    ),
];
const APPLICATION: [Row; 12] = [
    ("load_balancing.cross_zone.enabled", "true", "true"),
    ("idle_timeout.timeout_seconds", "60", "1..4000"),
    ("client_keep_alive.seconds", "3600", "60..604800"),
    ("connection_logs.s3.enabled", "false", "true|false"),
    ("connection_logs.s3.bucket", "", "*"),
    ("connection_logs.s3.prefix", "", "*"),
    ("routing.http.desync_mitigation_mode", "defensive", "monitor|defensive|strictest"),
    ("routing.http.drop_invalid_header_fields.enabled", "false", "true|false"),
    ("routing.http.preserve_host_header.enabled", "false", "true|false"),
    ("routing.http.xff_header_processing.mode", "append", "append|preserve|remove"),
    ("routing.http2.enabled", "true", "true|false"),
    ("waf.fail_open.enabled", "false", "true|false"),
];
const GROUP: [Row; 4] = [
    ("deregistration_delay.timeout_seconds", "300", "0..3600"),
    ("stickiness.enabled", "false", "true|false"),
    (
        "load_balancing.cross_zone.enabled",
        "use_load_balancer_configuration",
        "true|false|use_load_balancer_configuration",
    ),
    ("target_group_health.dns_failover.minimum_healthy_targets.count", "1", "*"),
];
const GROUP_NETWORK: [Row; 5] = [
    ("proxy_protocol_v2.enabled", "false", "true|false"),
    ("preserve_client_ip.enabled", "true", "true|false"),
    ("deregistration_delay.connection_termination.enabled", "false", "true|false"),
    ("stickiness.type", "source_ip", "source_ip"),
    ("target_health_state.unhealthy.connection_termination.enabled", "true", "true|false"),
];
const GROUP_APPLICATION: [Row; 6] = [
    ("stickiness.type", "lb_cookie", "lb_cookie|app_cookie"),
    ("stickiness.lb_cookie.duration_seconds", "86400", "1..604800"),
    ("stickiness.app_cookie.cookie_name", "", "*"),
    ("stickiness.app_cookie.duration_seconds", "86400", "1..604800"),
    ("slow_start.duration_seconds", "0", "0..900"),
    ("load_balancing.algorithm.type", "round_robin", "round_robin|least_outstanding_requests|weighted_random"),
];
const LISTENER_TCP: [Row; 1] = [("tcp.idle_timeout.seconds", "350", "60..6000")];
const LISTENER_HTTP: [Row; 1] = [("routing.http.response.server.enabled", "true", "true|false")];

/// Attributes that something has.
pub(super) type Rows = Vec<Row>;

fn join(rows: &[&[Row]]) -> Rows {
    rows.concat()
}

pub(super) fn rows_of_balancer(network: bool) -> Rows {
    join(&[&BALANCER, if network { &NETWORK[..] } else { &APPLICATION[..] }])
}

pub(super) fn rows_of_group(protocol: &str) -> Rows {
    join(&[&GROUP, if protocol.starts_with("HTTP") { &GROUP_APPLICATION[..] } else { &GROUP_NETWORK[..] }])
}

pub(super) fn rows_of_listener(protocol: &str) -> Rows {
    match protocol {
        "TCP" => join(&[&LISTENER_TCP]),
        "HTTP" | "HTTPS" => join(&[&LISTENER_HTTP]),
        _ => Rows::new(),
    }
}

/// What they are from the start.
pub(super) fn initial(rows: &Rows) -> BTreeMap<String, String> {
    rows.iter().map(|row| (row.0.to_owned(), row.1.to_owned())).collect()
}

/// Those of a group; addresses of clients are kept from the start but for TCP and TLS to addresses.
pub(super) fn of_group(protocol: &str, by_ip: bool) -> BTreeMap<String, String> {
    let mut all = initial(&rows_of_group(protocol));
    if by_ip && ["TCP", "TLS"].contains(&protocol) {
        all.insert("preserve_client_ip.enabled".to_owned(), "false".to_owned());
    }
    all
}

/// Changes `has` as a call asks.
pub(super) fn change(form: &Tree, rows: &Rows, has: &mut BTreeMap<String, String>) -> Result<(), AwsError> {
    let mut all = has.clone();
    for asked in form.items("Attributes") {
        let (key, value) = (asked.text_or("Key", ""), asked.text_or("Value", ""));
        let row = rows.iter().find(|row| row.0 == key);
        let row = row.ok_or_else(|| refuse("ValidationError", format!("Attribute key '{key}' is not recognized")))?;
        if !is_good(row.2, value) {
            let message = format!("Attribute value '{value}' is not valid for '{key}'");
            return Err(refuse("InvalidConfigurationRequest", message));
        }
        all.insert(key.to_owned(), value.to_owned());
    }
    *has = all;
    Ok(())
}

fn is_good(rule: &str, value: &str) -> bool {
    match rule.split_once("..") {
        _ if rule == "*" => true,
        Some((low, high)) => {
            let bounds = low.parse::<u32>().ok().zip(high.parse::<u32>().ok());
            bounds.zip(value.parse::<u32>().ok()).is_some_and(|((low, high), value)| (low..=high).contains(&value))
        }
        None => rule.split('|').any(|word| word == value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::form::pairs;

    #[test]
    fn attributes_are_known_and_bounded() {
        for (network, key, value, want) in [
            (true, "load_balancing.cross_zone.enabled", "true", ""),
            (false, "load_balancing.cross_zone.enabled", "false", "InvalidConfigurationRequest"),
            (true, "idle_timeout.timeout_seconds", "60", "ValidationError"),
            (false, "idle_timeout.timeout_seconds", "4000", ""),
            (false, "idle_timeout.timeout_seconds", "4001", "InvalidConfigurationRequest"),
            (false, "colour", "red", "ValidationError"),
        ] {
            let form = format!("Attributes.member.1.Key={key}&Attributes.member.1.Value={value}");
            let form = Tree::from_pairs(&pairs(&form).unwrap()).unwrap();
            let got = change(&form, &rows_of_balancer(network), &mut BTreeMap::new())
                .err()
                .map(|error| error.code.into_owned());
            assert_eq!(got.unwrap_or_default(), want, "{key}={value}");
        }
        assert_eq!(of_group("TCP", true)["preserve_client_ip.enabled"], "false");
        assert_eq!(of_group("UDP", true)["preserve_client_ip.enabled"], "true");
    }
}
