//! The forms that values of parameters may have.

use super::Service;
use crate::error::{AwsError, refuse};
use crate::ids::Kind;
use base64::Engine;

/// What a value must look like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// Any text of at most so many characters.
    Any(usize),
    /// The same, but not empty.
    Text(usize),
    Int(i64, i64),
    Decimal,
    Flag,
    /// An EC2 identifier; policies see it as what the call acts on when `true`.
    Id(Kind, bool),
    /// An ARN whose resource begins with one of the words (joined by `|`); likewise.
    Arn(String, bool),
    Cidr4,
    Cidr6,
    Ip4,
    Ip6,
    /// Base64 of at most so many bytes.
    Base64(usize),
    One(Vec<String>),
    /// A token of idempotency.
    Token,
    Time,
}

impl Rule {
    /// Reads a rule from the words of a table's line.
    pub(super) fn parse(words: &[&str]) -> Option<Self> {
        Some(match words {
            ["any"] => Self::Any(4096),
            ["any", most] => Self::Any(most.parse().ok()?),
            ["text"] => Self::Text(255),
            ["text", most] => Self::Text(most.parse().ok()?),
            ["int", low, high] => Self::Int(low.parse().ok()?, high.parse().ok()?),
            ["decimal"] => Self::Decimal,
            ["flag"] => Self::Flag,
            ["id", kind] => Self::Id(Kind::named(kind)?, true),
            ["ref", kind] => Self::Id(Kind::named(kind)?, false),
            ["arn", word] => Self::Arn((*word).to_owned(), true),
            ["arnref", word] => Self::Arn((*word).to_owned(), false),
            ["cidr4"] => Self::Cidr4,
            ["cidr6"] => Self::Cidr6,
            ["ip4"] => Self::Ip4,
            ["ip6"] => Self::Ip6,
            ["base64", most] => Self::Base64(most.parse().ok()?),
            ["one", words @ ..] if !words.is_empty() => Self::One(words.iter().map(|it| (*it).to_owned()).collect()),
            ["token"] => Self::Token,
            ["time"] => Self::Time,
            _ => return None,
        })
    }

    /// Whether a value names something that the call acts on.
    pub(crate) fn names_resource(&self) -> bool {
        matches!(self, Self::Id(_, true) | Self::Arn(_, true))
    }

    /// Holds `value` of the parameter `name` to the rule.
    pub(super) fn check(&self, service: Service, name: &str, value: &str) -> Result<(), AwsError> {
        let bad = |why: &str| {
            let message = match service {
                Service::Ec2 => format!("Value ({value}) for parameter {name} is invalid. {why}"),
                _ => format!(
                    "1 validation error detected: Value '{value}' at '{name}' failed to satisfy constraint: {why}"
                ),
            };
            Err(service.complain("InvalidParameterValue", message))
        };
        let good = match self {
            Self::Any(most) => value.chars().count() <= *most,
            Self::Text(most) => !value.is_empty() && value.chars().count() <= *most,
            Self::Int(low, high) => {
                let number = value.parse::<i64>();
                return match number {
                    Ok(number) if number < *low => {
                        bad(&format!("Member must have value greater than or equal to {low}"))
                    }
                    Ok(number) if number > *high => {
                        bad(&format!("Member must have value less than or equal to {high}"))
                    }
                    Ok(_) => Ok(()),
                    Err(_) => bad("Expected an integer."),
                };
            }
            Self::Decimal => value.parse::<f64>().is_ok_and(f64::is_finite),
            Self::Flag => value.eq_ignore_ascii_case("true") || value.eq_ignore_ascii_case("false"),
            Self::Id(kind, _) => return kind.check(value),
            Self::Arn(words, _) => {
                let resource = value.splitn(6, ':').nth(5);
                let starts = |resource: &str| words.split('|').any(|word| resource.starts_with(&format!("{word}/")));
                if value.starts_with("arn:aws") && resource.is_some_and(starts) {
                    return Ok(());
                }
                let what = words.split('|').next().unwrap_or_default();
                return Err(refuse("ValidationError", format!("'{value}' is not a valid {what} ARN")));
            }
            Self::Cidr4 => return check_cidr(value, value.parse::<ipnet::Ipv4Net>().ok().map(|net| net.prefix_len())),
            Self::Cidr6 => return check_cidr(value, value.parse::<ipnet::Ipv6Net>().ok().map(|net| net.prefix_len())),
            Self::Ip4 => value.parse::<std::net::Ipv4Addr>().is_ok(),
            Self::Ip6 => value.parse::<std::net::Ipv6Addr>().is_ok(),
            Self::Base64(most) => {
                let bytes = base64::engine::general_purpose::STANDARD.decode(value);
                match bytes {
                    Err(_) => return Err(refuse("InvalidUserData.Malformed", "Invalid BASE64 encoding of user data.")),
                    Ok(bytes) => bytes.len() <= *most,
                }
            }
            Self::One(words) => {
                if words.iter().any(|word| word == value) {
                    return Ok(());
                }
                return bad(&format!("Member must satisfy enum value set: [{}]", words.join(", ")));
            }
            Self::Token => !value.is_empty() && value.len() <= 64 && value.is_ascii(),
            Self::Time => value.parse::<jiff::Timestamp>().is_ok(),
        };
        if good { Ok(()) } else { bad("It has not the form that is expected.") }
    }
}

fn check_cidr(value: &str, length: Option<u8>) -> Result<(), AwsError> {
    match length {
        Some(_) => Ok(()),
        None => Err(refuse("InvalidParameterValue", format!("CIDR block {value} is malformed"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_hold_values() {
        for (rule, value, good) in [
            ("int 5 1000", "5", true),
            ("int 5 1000", "1001", false),
            ("int 5 1000", "five", false),
            ("flag", "true", true),
            ("flag", "1", false),
            ("id vol", "vol-0123456789abcdef0", true),
            ("id vol", "i-0123456789abcdef0", false),
            ("cidr4", "10.0.0.0/8", true),
            ("cidr4", "10.0.0.0", false),
            ("cidr6", "fd00::/64", true),
            ("cidr6", "10.0.0.0/8", false),
            ("ip4", "10.0.0.1", true),
            ("base64 3", "YWJj", true),
            ("base64 2", "YWJj", false),
            ("base64 9", "%", false),
            ("one a b", "b", true),
            ("one a b", "c", false),
            ("token", "", false),
            ("time", "2026-11-21T00:00:00Z", true),
            ("decimal", "1.5", true),
            ("decimal", "inf", false),
            ("arn loadbalancer", "arn:aws:elasticloadbalancing:r:1:loadbalancer/net/a/b", true),
            ("arn loadbalancer", "arn:aws:elasticloadbalancing:r:1:targetgroup/a/b", false),
            ("text 3", "", false),
            ("any 3", "", true),
            ("any 3", "abcd", false),
        ] {
            let words: Vec<_> = rule.split(' ').collect();
            let got = Rule::parse(&words).unwrap().check(Service::Ec2, "P", value);
            assert_eq!(got.is_ok(), good, "{rule}: {value}");
        }
        assert_eq!(Rule::parse(&["colour"]), None);
    }
}
