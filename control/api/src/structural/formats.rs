//! The formats of text that upstream checks; others are taken as they come.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use base64::{Engine, engine::general_purpose::STANDARD};
use regex::Regex;

use super::node::ScalarType;

const TEXT: [&str; 26] = [
    "bsonobjectid",
    "uri",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "cidr",
    "mac",
    "uuid",
    "uuid3",
    "uuid4",
    "uuid5",
    "isbn",
    "isbn10",
    "isbn13",
    "creditcard",
    "ssn",
    "hexcolor",
    "rgbcolor",
    "byte",
    "password",
    "date",
    "duration",
    "datetime",
    "k8sshortname",
    "k8slongname",
];

/// Whether a format of a type is one that is checked.
pub(super) fn known(format: &str, ty: Option<ScalarType>) -> bool {
    match ty {
        _ if format.is_empty() => false,
        None | Some(ScalarType::String) => TEXT.contains(&format.replace('-', "").as_str()),
        Some(ScalarType::Integer) => matches!(format, "int32" | "int64"),
        Some(ScalarType::Number) => matches!(format, "float" | "double"),
        Some(_) => false,
    }
}

fn matched(pattern: &'static LazyLock<Regex>, text: &str) -> bool {
    pattern.is_match(text)
}

macro_rules! pattern {
    ($name:ident, $text:expr) => {
        static $name: LazyLock<Regex> = LazyLock::new(|| Regex::new($text).expect("the pattern is a constant"));
    };
}

pattern!(UUID, r"(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?([0-9a-f])[0-9a-f]{3}-?([0-9a-f])[0-9a-f]{3}-?[0-9a-f]{12}$");
pattern!(TIME, r"^([0-9]{2}):([0-9]{2}):([0-9]{2})(.[0-9]+)?(z|([+-][0-9]{2}:[0-9]{2}))$");
pattern!(HEX_COLOR, r"^#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})$");
pattern!(
    RGB_COLOR,
    r"^rgb\(\s*(0|[1-9][0-9]?|1[0-9]?[0-9]?|2[0-4][0-9]|25[0-5])\s*,\s*(0|[1-9][0-9]?|1[0-9]?[0-9]?|2[0-4][0-9]|25[0-5])\s*,\s*(0|[1-9][0-9]?|1[0-9]?[0-9]?|2[0-4][0-9]|25[0-5])\s*\)$"
);
pattern!(SSN, r"^[0-9]{3}[- ]?[0-9]{2}[- ]?[0-9]{4}$");
pattern!(DURATION_PART, r"([0-9]+)\s*([A-Za-z\u{b5}]+)");
pattern!(GO_DURATION, r"^[-+]?(0|(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|\u{b5}s|\u{3bc}s|ms|s|m|h))+)$");
pattern!(SCHEME, r"^[A-Za-z][A-Za-z0-9+.-]*:");
pattern!(SHORT_NAME, r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$");
pattern!(LONG_NAME, r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$");

/// Whether text is of a known format.
pub(super) fn matches(format: &str, text: &str) -> bool {
    match format.replace('-', "").as_str() {
        "bsonobjectid" => text.len() == 24 && text.bytes().all(|byte| byte.is_ascii_hexdigit()),
        "uri" => uri(text),
        "email" => email(text),
        "hostname" => hostname(text),
        "ipv4" => ipv4(text),
        "ipv6" => text.contains(':') && address(text),
        "cidr" => cidr(text),
        "mac" => mac(text),
        "uuid" => matched(&UUID, text),
        "uuid3" => uuid(text, "3", None),
        "uuid4" => uuid(text, "4", Some("89abAB")),
        "uuid5" => uuid(text, "5", Some("89abAB")),
        "isbn" => isbn10(text) || isbn13(text),
        "isbn10" => isbn10(text),
        "isbn13" => isbn13(text),
        "creditcard" => credit_card(text),
        "ssn" => matched(&SSN, text),
        "hexcolor" => matched(&HEX_COLOR, text),
        "rgbcolor" => matched(&RGB_COLOR, text),
        "byte" => !text.is_empty() && STANDARD.decode(text).is_ok(),
        "date" => date(text),
        "duration" => duration(text),
        "datetime" => date_time(text),
        "k8sshortname" => text.len() <= 63 && matched(&SHORT_NAME, text),
        "k8slongname" => text.len() <= 253 && matched(&LONG_NAME, text),
        _ => true,
    }
}

fn uuid(text: &str, version: &str, variants: Option<&str>) -> bool {
    UUID.captures(text).is_some_and(|found| {
        let variant = found.get(2).map_or("", |part| part.as_str());
        &found[1] == version && variants.is_none_or(|variants| variants.contains(variant))
    })
}

/// Decimal octets, leading zeros allowed as upstream's old parser allowed them.
fn ipv4(text: &str) -> bool {
    let parts: Vec<&str> = text.split('.').collect();
    let octet = |part: &&str| {
        (1..=9).contains(&part.len())
            && part.bytes().all(|byte| byte.is_ascii_digit())
            && part.parse::<u32>().is_ok_and(|number| number < 256)
    };
    parts.len() == 4 && parts.iter().all(octet)
}

fn address(text: &str) -> bool {
    ipv4(text) || text.parse::<Ipv6Addr>().is_ok()
}

fn cidr(text: &str) -> bool {
    let Some((host, length)) = text.split_once('/') else { return false };
    let most = if ipv4(host) || host.parse::<Ipv4Addr>().is_ok() { 32 } else { 128 };
    let digits = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
    address(host) && digits && length.parse::<u8>().is_ok_and(|length| length <= most)
}

fn mac(text: &str) -> bool {
    let pairs = |separator: char| {
        let parts: Vec<&str> = text.split(separator).collect();
        matches!(parts.len(), 6 | 8 | 20) && parts.iter().all(|part| hex(part, 2))
    };
    let dotted = || {
        let parts: Vec<&str> = text.split('.').collect();
        matches!(parts.len(), 3 | 4 | 10) && parts.iter().all(|part| hex(part, 4))
    };
    pairs(':') || pairs('-') || dotted()
}

fn hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn uri(text: &str) -> bool {
    let absolute = text.starts_with('/') || matched(&SCHEME, text);
    let clean = !text.bytes().any(|byte| byte < 0x20 || byte == 0x7f);
    let host = text.split_once("://").map_or("", |(_, rest)| rest.split(['/', '?', '#']).next().unwrap_or(""));
    let port = match host.rsplit_once(':') {
        Some((_, port)) if !host.ends_with(']') => port.bytes().all(|byte| byte.is_ascii_digit()),
        _ => true,
    };
    let escaped = text
        .match_indices('%')
        .all(|(at, _)| text.as_bytes().get(at + 1..at + 3).is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit)));
    absolute && clean && port && escaped && !host.contains([' ', '<', '>', '"'])
}

fn email(text: &str) -> bool {
    let text = text.trim();
    let bare = match text.strip_suffix('>').and_then(|rest| rest.rsplit_once('<')) {
        Some((_, bare)) => bare,
        None => text,
    };
    let Some((local, domain)) = bare.rsplit_once('@') else { return false };
    let atom = |c: char| c.is_alphanumeric() || "!#$%&'*+-/=?^_`{|}~.".contains(c) || !c.is_ascii();
    let quoted = local.len() > 1 && local.starts_with('"') && local.ends_with('"');
    let dots = |part: &str| !part.starts_with('.') && !part.ends_with('.') && !part.contains("..");
    let literal = domain.starts_with('[') && domain.ends_with(']');
    !local.is_empty()
        && (quoted || (local.chars().all(atom) && dots(local)))
        && !domain.is_empty()
        && (literal || (domain.chars().all(atom) && dots(domain)))
}

fn hostname(text: &str) -> bool {
    let labels: Vec<&str> = text.split('.').collect();
    let good = |label: &&str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(|c| c == '-' || c.is_alphanumeric())
    };
    let last = labels.last().copied().unwrap_or("");
    let top = labels.len() == 1 || (last.chars().count() >= 2 && last.chars().all(char::is_alphabetic));
    text.len() <= 255 && labels.iter().all(good) && top
}

fn date(text: &str) -> bool {
    text.len() == 10 && text.is_ascii() && text.parse::<jiff::civil::Date>().is_ok()
}

fn date_time(text: &str) -> bool {
    let lower = text.to_lowercase();
    let Some((day, time)) = lower.split_once('t') else { return false };
    let Some(found) = TIME.captures(time) else { return false };
    date(day) && &found[1] <= "23" && &found[2] <= "59" && &found[3] <= "59"
}

fn duration(text: &str) -> bool {
    const UNITS: [&[&str]; 8] = [
        &["ns", "nano"],
        &["us", "\u{b5}s", "micro"],
        &["ms", "milli"],
        &["s", "sec"],
        &["m", "min"],
        &["h", "hr", "hour"],
        &["d", "day"],
        &["w", "wk", "week"],
    ];
    let unit = |text: &str| {
        let text = text.to_lowercase();
        UNITS.iter().any(|names| {
            let last = names.last().copied().unwrap_or("");
            names.contains(&text.as_str()) || text.starts_with(last)
        })
    };
    matched(&GO_DURATION, text) || DURATION_PART.captures_iter(text).any(|part| unit(&part[2]))
}

fn digits_of(text: &str) -> Vec<u32> {
    text.chars().filter(|c| !matches!(c, '-' | ' ')).map(|c| c.to_digit(10).unwrap_or(99)).collect()
}

fn isbn10(text: &str) -> bool {
    let bare: String = text.chars().filter(|c| !matches!(c, '-' | ' ')).collect();
    if bare.len() != 10 || !bare.is_ascii() {
        return false;
    }
    let digit = |(at, c): (usize, char)| match c {
        'X' if at == 9 => Some(10),
        c => c.to_digit(10),
    };
    let digits: Option<Vec<u32>> = bare.chars().enumerate().map(digit).collect();
    digits.is_some_and(|digits| digits.iter().zip(1..).map(|(digit, at)| digit * at).sum::<u32>() % 11 == 0)
}

fn isbn13(text: &str) -> bool {
    let digits = digits_of(text);
    digits.len() == 13
        && digits.iter().all(|digit| *digit < 10)
        && digits.iter().enumerate().map(|(at, digit)| digit * if at % 2 == 0 { 1 } else { 3 }).sum::<u32>() % 10 == 0
}

fn credit_card(text: &str) -> bool {
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(10)).collect();
    let luhn = digits.iter().rev().enumerate().map(|(at, digit)| match (at % 2, digit * 2) {
        (0, _) => *digit,
        (_, twice) if twice > 9 => twice - 9,
        (_, twice) => twice,
    });
    (13..=19).contains(&digits.len()) && luhn.sum::<u32>() % 10 == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_take_what_upstream_takes() {
        for (format, good, bad) in [
            ("date-time", "2026-01-02T03:04:05Z", "2026-01-02"),
            ("datetime", "2026-01-02T03:04:05.5+01:00", "2026-13-02T03:04:05Z"),
            ("date", "2026-01-02", "2026-1-2"),
            ("duration", "5m", "soon"),
            ("duration", "22 ns", ""),
            ("ipv4", "10.0.0.1", "10.0.0.256"),
            ("ipv6", "fe80::1", "10.0.0.1"),
            ("cidr", "10.0.0.0/8", "10.0.0.0"),
            ("uuid", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "a0eebc99"),
            ("uuid4", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "a0eebc99-9c0b-3ef8-bb6d-6bb9bd380a11"),
            ("byte", "aGk=", "a"),
            ("email", "a@b.example", "a.b"),
            ("hostname", "a.example.org", "a_b"),
            ("uri", "https://a.example/x?y=z", "a b"),
            ("mac", "01:23:45:67:89:ab", "01:23"),
            ("hexcolor", "#fff", "#ffff"),
            ("rgbcolor", "rgb(1,2,255)", "rgb(1,2,256)"),
            ("isbn10", "0321751043", "0321751044"),
            ("isbn13", "978-0321751041", "978-0321751042"),
            ("ssn", "123-45-6789", "12-345"),
            ("k8s-short-name", "a-b", "a.b"),
            ("k8s-long-name", "a.b-c", "A"),
            ("bsonobjectid", "507f1f77bcf86cd799439011", "507f"),
        ] {
            assert!(known(format, Some(ScalarType::String)), "{format}");
            assert!(matches(format, good), "{format} {good}");
            assert!(!matches(format, bad), "{format} {bad}");
        }
        assert!(matches("password", "anything") && !known("colour", None) && known("int32", Some(ScalarType::Integer)));
    }
}
