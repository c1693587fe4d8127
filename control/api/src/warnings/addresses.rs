//! Addresses and ranges that are written in a way that others may read differently.

use crate::names::{parse_cidr_sloppy, parse_ip_sloppy};
use std::net::{IpAddr, Ipv6Addr};

fn is_mapped(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some())
}

/// Tells about an address.
pub(super) fn ip(path: &str, text: &str, out: &mut Vec<String>) {
    let Some(read) = parse_ip_sloppy(text) else { return };
    match text.parse::<IpAddr>() {
        Ok(strict) if !is_mapped(strict) => {
            if strict.is_ipv6() && strict.to_string() != text {
                out.push(format!(
                    "{path}: IPv6 address {text:?} should be in RFC 5952 canonical format ({:?})",
                    strict.to_string()
                ));
            }
        }
        _ => out.push(format!("{path}: non-standard IP address {text:?} is invalid: use {:?}", read.to_string())),
    }
}

/// An address without the bits behind a prefix.
fn masked(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length.min(32))).unwrap_or(0);
            IpAddr::V4((u32::from(v4) & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length.min(128))).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from(u128::from(v6) & mask))
        }
    }
}

/// Tells about a range.
pub(super) fn cidr(path: &str, text: &str, out: &mut Vec<String>) {
    let Some((address, length)) = parse_cidr_sloppy(text) else { return };
    let strict = text.split_once('/').and_then(|(address, _)| address.parse::<IpAddr>().ok());
    let mapped = strict.is_some_and(is_mapped);
    // A mapped address counts its prefix from where IPv4 begins.
    let length = if mapped { length.saturating_sub(96) } else { length };
    let (base, full) = (masked(address, length), if address.is_ipv4() { 32 } else { 128 });
    let network = format!("{base}/{length}");
    let before = out.len();
    if base != address {
        out.push(format!(
            "{path}: CIDR value {text:?} is ambiguous in this context (should be {network:?} or {:?}?)",
            format!("{address}/{full}")
        ));
    }
    let plain_length = text.split_once('/').is_some_and(|(_, length)| !(length.starts_with('0') && length.len() > 1));
    let strict = strict.filter(|_| !mapped && plain_length);
    match strict {
        None => out.push(format!("{path}: non-standard CIDR value {text:?} is invalid: use {network:?}")),
        Some(strict) => {
            let canonical = format!("{strict}/{length}");
            if out.len() == before && strict.is_ipv6() && canonical != text {
                out.push(format!(
                    "{path}: IPv6 CIDR value {text:?} should be in RFC 5952 canonical format ({canonical:?})"
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_addresses_are_told_with_how_to_write_them() {
        for (text, expected) in [
            ("10.0.0.1", None),
            ("10.0.0.01", Some("p: non-standard IP address \"10.0.0.01\" is invalid: use \"10.0.0.1\"")),
            ("::ffff:1.2.3.4", Some("p: non-standard IP address \"::ffff:1.2.3.4\" is invalid: use \"1.2.3.4\"")),
            (
                "2001:DB8::1",
                Some("p: IPv6 address \"2001:DB8::1\" should be in RFC 5952 canonical format (\"2001:db8::1\")"),
            ),
            ("2001:db8::1", None),
            ("nonsense", None),
        ] {
            let mut out = Vec::new();
            ip("p", text, &mut out);
            assert_eq!(out.first().map(String::as_str), expected, "{text}");
        }
        for (text, expected) in [
            ("10.0.0.0/8", None),
            ("2001:db8::/32", None),
            ("010.0.0.0/8", Some("p: non-standard CIDR value \"010.0.0.0/8\" is invalid: use \"10.0.0.0/8\"")),
            (
                "2001:db8:0::/32",
                Some(
                    "p: IPv6 CIDR value \"2001:db8:0::/32\" should be in RFC 5952 canonical format (\"2001:db8::/32\")",
                ),
            ),
        ] {
            let mut out = Vec::new();
            cidr("p", text, &mut out);
            assert_eq!(out.first().map(String::as_str), expected, "{text}");
        }
    }
}
