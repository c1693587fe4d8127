//! Conditions of policies: an operator, a key of the request's context, values.

use super::{pattern::matches, policy::Context};
use jiff::Timestamp;
use std::net::IpAddr;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Test {
    StringEquals,
    StringEqualsIgnoreCase,
    StringLike,
    NumericEquals,
    NumericLessThan,
    NumericLessThanEquals,
    DateLessThan,
    DateGreaterThan,
    Bool,
    IpAddress,
    Null,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Quantity {
    One,
    ForAll,
    ForAny,
}

/// One condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Condition {
    test: Test,
    negated: bool,
    quantity: Quantity,
    if_exists: bool,
    key: String,
    values: Vec<String>,
}

impl Condition {
    /// Reads the operator; `None` when there is none of that name.
    pub(super) fn parse(operator: &str, key: &str, values: Vec<String>) -> Option<Self> {
        let (quantity, rest) = match operator.split_once(':') {
            Some(("ForAllValues", rest)) => (Quantity::ForAll, rest),
            Some(("ForAnyValue", rest)) => (Quantity::ForAny, rest),
            Some(_) => return None,
            None => (Quantity::One, operator),
        };
        let (rest, if_exists) = rest.strip_suffix("IfExists").map_or((rest, false), |rest| (rest, true));
        let (test, negated) = match rest {
            "StringEquals" => (Test::StringEquals, false),
            "StringNotEquals" => (Test::StringEquals, true),
            "StringEqualsIgnoreCase" => (Test::StringEqualsIgnoreCase, false),
            "StringNotEqualsIgnoreCase" => (Test::StringEqualsIgnoreCase, true),
            "StringLike" | "ArnLike" | "ArnEquals" => (Test::StringLike, false),
            "StringNotLike" | "ArnNotLike" | "ArnNotEquals" => (Test::StringLike, true),
            "NumericEquals" => (Test::NumericEquals, false),
            "NumericNotEquals" => (Test::NumericEquals, true),
            "NumericLessThan" => (Test::NumericLessThan, false),
            "NumericGreaterThanEquals" => (Test::NumericLessThan, true),
            "NumericLessThanEquals" => (Test::NumericLessThanEquals, false),
            "NumericGreaterThan" => (Test::NumericLessThanEquals, true),
            "DateLessThan" => (Test::DateLessThan, false),
            "DateGreaterThanEquals" => (Test::DateLessThan, true),
            "DateGreaterThan" => (Test::DateGreaterThan, false),
            "DateLessThanEquals" => (Test::DateGreaterThan, true),
            "Bool" => (Test::Bool, false),
            "IpAddress" => (Test::IpAddress, false),
            "NotIpAddress" => (Test::IpAddress, true),
            "Null" => (Test::Null, false),
            _ => return None,
        };
        Some(Self { test, negated, quantity, if_exists, key: key.to_lowercase(), values })
    }

    /// Whether it holds in `context`.
    pub(super) fn holds(&self, context: &Context) -> bool {
        let found = context.get(&self.key);
        if self.test == Test::Null {
            let absent = found.is_none_or(Vec::is_empty);
            return self.values.iter().any(|value| value.eq_ignore_ascii_case("true") == absent);
        }
        let Some(found) = found.filter(|found| !found.is_empty()) else {
            // A negated test holds where there is nothing, and so does one for all values.
            return self.if_exists || self.negated || self.quantity == Quantity::ForAll;
        };
        let one = |actual: &String| {
            self.values.iter().any(|wanted| self.passes(&substitute(wanted, context), actual)) != self.negated
        };
        match self.quantity {
            Quantity::ForAll => found.iter().all(one),
            Quantity::One | Quantity::ForAny => found.iter().any(one),
        }
    }

    fn passes(&self, wanted: &str, actual: &str) -> bool {
        let numbers = || Some((actual.parse::<f64>().ok()?, wanted.parse::<f64>().ok()?));
        let dates = || Some((actual.parse::<Timestamp>().ok()?, wanted.parse::<Timestamp>().ok()?));
        match self.test {
            Test::StringEquals => wanted == actual,
            Test::StringEqualsIgnoreCase | Test::Bool => wanted.eq_ignore_ascii_case(actual),
            Test::StringLike => matches(wanted, actual),
            Test::NumericEquals => numbers().is_some_and(|(actual, wanted)| actual == wanted),
            Test::NumericLessThan => numbers().is_some_and(|(actual, wanted)| actual < wanted),
            Test::NumericLessThanEquals => numbers().is_some_and(|(actual, wanted)| actual <= wanted),
            Test::DateLessThan => dates().is_some_and(|(actual, wanted)| actual < wanted),
            Test::DateGreaterThan => dates().is_some_and(|(actual, wanted)| actual > wanted),
            Test::IpAddress => {
                let net = wanted.parse::<ipnet::IpNet>().ok().or_else(|| Some(wanted.parse::<IpAddr>().ok()?.into()));
                net.zip(actual.parse::<IpAddr>().ok()).is_some_and(|(net, address)| net.contains(&address))
            }
            Test::Null => false,
        }
    }
}

/// `${key}` becomes the key's value in the request.
pub(super) fn substitute(text: &str, context: &Context) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        out.push_str(before);
        let Some((key, behind)) = after.split_once('}') else {
            out.push_str("${");
            out.push_str(after);
            return out;
        };
        out.push_str(context.get(&key.to_lowercase()).and_then(|values| values.first()).map_or("", String::as_str));
        rest = behind;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context() -> Context {
        let pairs: [(&str, &[&str]); 6] = [
            ("aws:requesttag/team", &["a"]),
            ("aws:tagkeys", &["team", "cost"]),
            ("aws:sourceip", &["10.1.2.3"]),
            ("n", &["5"]),
            ("aws:currenttime", &["2026-11-21T00:00:00Z"]),
            ("aws:securetransport", &["true"]),
        ];
        let owned = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect();
        pairs.iter().map(|(key, values)| ((*key).to_owned(), owned(values))).collect()
    }

    #[test]
    fn operators_hold_or_do_not() {
        let cases: [(&str, &str, &[&str], bool); 24] = [
            ("StringEquals", "aws:RequestTag/team", &["b", "a"], true),
            ("StringEquals", "aws:RequestTag/team", &["A"], false),
            ("StringEqualsIgnoreCase", "aws:RequestTag/team", &["A"], true),
            ("StringNotEquals", "aws:RequestTag/team", &["a"], false),
            ("StringNotEquals", "aws:RequestTag/none", &["a"], true),
            ("StringEquals", "aws:RequestTag/none", &["a"], false),
            ("StringEqualsIfExists", "aws:RequestTag/none", &["a"], true),
            ("StringLike", "aws:RequestTag/team", &["*"], true),
            ("Null", "aws:RequestTag/team", &["false"], true),
            ("Null", "aws:RequestTag/none", &["false"], false),
            ("Null", "aws:RequestTag/none", &["true"], true),
            ("ForAllValues:StringEquals", "aws:TagKeys", &["team", "cost", "more"], true),
            ("ForAllValues:StringEquals", "aws:TagKeys", &["team"], false),
            ("ForAllValues:StringEquals", "none", &["team"], true),
            ("ForAnyValue:StringEquals", "aws:TagKeys", &["team"], true),
            ("ForAnyValue:StringEquals", "none", &["team"], false),
            ("IpAddress", "aws:SourceIp", &["10.0.0.0/8"], true),
            ("NotIpAddress", "aws:SourceIp", &["10.0.0.0/8"], false),
            ("NumericLessThan", "n", &["6"], true),
            ("NumericGreaterThan", "n", &["5"], false),
            ("NumericGreaterThanEquals", "n", &["5"], true),
            ("DateLessThan", "aws:CurrentTime", &["2027-01-01T00:00:00Z"], true),
            ("Bool", "aws:SecureTransport", &["true"], true),
            ("StringEquals", "aws:RequestTag/team", &["${aws:RequestTag/team}"], true),
        ];
        for (operator, key, values, want) in cases {
            let values: Vec<String> = values.iter().map(|value| (*value).to_owned()).collect();
            let condition = Condition::parse(operator, key, values).unwrap();
            assert_eq!(condition.holds(&context()), want, "{operator} {key}");
        }
        assert_eq!(Condition::parse("StringSounds", "k", vec![]), None);
    }
}
