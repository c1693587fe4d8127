//! IP addresses and ranges. Readers are generous, as objects stored long ago may hold leading zeros; rules are
//! not. Never resolves a host name.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const NOT_AN_IP: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
const NOT_A_CIDR: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";

fn parse_ipv4_sloppy(text: &str) -> Option<Ipv4Addr> {
    let mut octets = [0_u8; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let part = parts.next()?;
        if part.is_empty() || part.len() > 9 || !part.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        *octet = part.parse::<u32>().ok()?.try_into().ok()?;
    }
    parts.next().is_none().then(|| Ipv4Addr::from(octets))
}

/// An address as old fields read it: leading zeros are decimal, an IPv4-mapped address is the IPv4 one.
#[must_use]
pub fn parse_ip_sloppy(text: &str) -> Option<IpAddr> {
    if !text.contains(':') {
        return parse_ipv4_sloppy(text).map(IpAddr::V4);
    }
    text.parse::<Ipv6Addr>().ok().map(|v6| v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4))
}

/// An address and a prefix length as old fields read them.
#[must_use]
pub fn parse_cidr_sloppy(text: &str) -> Option<(IpAddr, u8)> {
    let (address, length) = text.split_once('/')?;
    if length.is_empty() || length.len() > 4 || !length.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let length: u32 = length.parse().ok()?;
    let ip = parse_ip_sloppy(address)?;
    let written_as_v6 = address.contains(':');
    let max = if written_as_v6 { 128 } else { 32 };
    (length <= max).then(|| (ip, u8::try_from(length).unwrap_or(u8::MAX)))
}

/// Whether a valid range is of IPv6.
#[must_use]
pub fn is_ipv6_cidr(text: &str) -> bool {
    matches!(parse_cidr_sloppy(text), Some((IpAddr::V6(_), _)))
}

/// An address in an old field: canonical or not, but no address that programs read differently.
#[must_use]
pub fn ip(text: &str) -> Vec<String> {
    if parse_ip_sloppy(text).is_none() {
        return vec![NOT_AN_IP.to_owned()];
    }
    match text.parse::<IpAddr>() {
        Err(_) => vec!["must not have leading 0s".to_owned()],
        Ok(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_some() => {
            vec!["must not be an IPv4-mapped IPv6 address".to_owned()]
        }
        Ok(_) => Vec::new(),
    }
}

/// An address in a new field: canonical too.
#[must_use]
pub fn ip_strict(text: &str) -> Vec<String> {
    let broken = ip(text);
    let canonical = parse_ip_sloppy(text).map(|ip| ip.to_string()).unwrap_or_default();
    if !broken.is_empty() || canonical == text {
        return broken;
    }
    vec![format!("must be in canonical form (\"{canonical}\")")]
}

/// A range in an old field: canonical or not, but none that programs read differently.
#[must_use]
pub fn cidr(text: &str) -> Vec<String> {
    if parse_cidr_sloppy(text).is_none() {
        return vec![NOT_A_CIDR.to_owned()];
    }
    let leading_zero = text.rsplit_once('/').is_some_and(|(_, length)| length.len() > 1 && length.starts_with('0'));
    let Some(net) = text.parse::<ipnet::IpNet>().ok().filter(|_| !leading_zero) else {
        return vec!["must not have leading 0s in IP or prefix length".to_owned()];
    };
    if matches!(net.addr(), IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()) {
        return vec!["must not have an IPv4-mapped IPv6 address".to_owned()];
    }
    if net.addr() != net.network() {
        return vec!["must not have bits set beyond the prefix length".to_owned()];
    }
    Vec::new()
}

/// A range in a new field: canonical too.
#[must_use]
pub fn cidr_strict(text: &str) -> Vec<String> {
    let broken = cidr(text);
    let canonical = text.parse::<ipnet::IpNet>().map(|net| net.to_string()).unwrap_or_default();
    if !broken.is_empty() || canonical == text {
        return broken;
    }
    vec![format!("must be in canonical form (\"{canonical}\")")]
}

/// An address that a Service may send to: not unspecified, loopback, link-local.
#[must_use]
pub fn endpoint_ip(text: &str) -> Vec<String> {
    let mut broken = Vec::new();
    let Some(address) = parse_ip_sloppy(text) else { return vec![NOT_AN_IP.to_owned()] };
    if address.is_unspecified() {
        broken.push(format!("may not be unspecified ({text})"));
    }
    if address.is_loopback() {
        broken.push("may not be in the loopback range (127.0.0.0/8, ::1/128)".to_owned());
    }
    let (link_local, link_local_multicast) = match address {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), v6.segments()[0] & 0xff0f == 0xff02),
    };
    if link_local {
        broken.push("may not be in the link-local range (169.254.0.0/16, fe80::/10)".to_owned());
    }
    if link_local_multicast {
        broken.push("may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".to_owned());
    }
    broken
}

#[cfg(test)]
mod tests {
    use super::*;

    type Check = fn(&str) -> Vec<String>;

    #[test]
    fn addresses_are_judged() {
        let table: &[(Check, &str, &str)] = &[
            (ip, "10.0.0.1", ""),
            (ip, "2001:DB8::1", ""),
            (ip, "010.0.0.1", "must not have leading 0s"),
            (ip, "::ffff:1.2.3.4", "must not be an IPv4-mapped IPv6 address"),
            (ip, "10.0.0", NOT_AN_IP),
            (ip, "256.0.0.1", NOT_AN_IP),
            (ip_strict, "010.0.0.1", "must not have leading 0s"),
            (ip_strict, "::ffff:1.2.3.4", "must not be an IPv4-mapped IPv6 address"),
            (ip_strict, "2001:DB8::1", "must be in canonical form (\"2001:db8::1\")"),
            (cidr, "10.0.0.0/8", ""),
            (cidr, "10.0.0.1/8", "must not have bits set beyond the prefix length"),
            (cidr, "10.0.0.1", NOT_A_CIDR),
            (cidr, "10.0.0.1/33", NOT_A_CIDR),
            (cidr_strict, "10.0.0.1/8", "must not have bits set beyond the prefix length"),
            (cidr_strict, "10.0.0.0/08", "must not have leading 0s in IP or prefix length"),
            (cidr_strict, "2001:db8::/64", ""),
            (endpoint_ip, "127.0.0.1", "may not be in the loopback range (127.0.0.0/8, ::1/128)"),
            (endpoint_ip, "0.0.0.0", "may not be unspecified (0.0.0.0)"),
            (endpoint_ip, "169.254.1.1", "may not be in the link-local range (169.254.0.0/16, fe80::/10)"),
            (endpoint_ip, "10.1.2.3", ""),
        ];
        for (check, text, message) in table {
            assert_eq!(check(text).join("; "), *message, "{text}");
        }
    }
}
