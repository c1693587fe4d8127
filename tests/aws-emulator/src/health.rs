//! Health checks of targets as values: what shall be asked of whom, and what came of it. `probe` asks for real.

use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::time::Duration;

/// What a check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finding {
    /// All well.
    Healthy,
    /// No answer in time.
    Timeout,
    /// No connection.
    Refused,
    /// An answer with another status than expected.
    Status(u16),
}

/// How a check asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asks {
    /// Connects.
    Tcp,
    /// Gets a path over HTTP.
    Http,
    /// The same over TLS, whose certificate is not looked at.
    Https,
}

/// A check that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The target group's ARN.
    pub group: String,
    /// The target within it.
    pub target: String,
    /// Whom to ask.
    pub address: IpAddr,
    /// On which port.
    pub port: u16,
    /// How.
    pub asks: Asks,
    /// The path, for HTTP.
    pub path: String,
    /// Statuses that are well, as `200-399` or `200,202`.
    pub matcher: String,
    /// How long to wait.
    pub timeout: Duration,
}

/// Who asks targets how they are: a real network, or a test.
#[async_trait::async_trait]
pub trait Prober: Send + Sync + std::fmt::Debug {
    /// Makes one check.
    async fn probe(&self, probe: &Probe) -> Finding;
}

/// Whether `status` is one of `matcher`.
pub(crate) fn is_expected(matcher: &str, status: u16) -> bool {
    matcher.split(',').any(|part| match part.split_once('-') {
        Some((low, high)) => {
            low.parse().is_ok_and(|low: u16| low <= status) && high.parse().is_ok_and(|high: u16| status <= high)
        }
        None => part.parse() == Ok(status),
    })
}

/// Whether `matcher` is one of statuses within `low..=high`.
pub(crate) fn is_matcher(matcher: &str, low: u16, high: u16) -> bool {
    let good = |text: &str| text.parse::<u16>().is_ok_and(|status| (low..=high).contains(&status));
    matcher.split(',').all(|part| match part.split_once('-') {
        Some((from, to)) => good(from) && good(to),
        None => good(part),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matchers() {
        for (matcher, status, want) in
            [("200", 200, true), ("200", 201, false), ("200-399", 302, true), ("200,404", 404, true), ("x", 200, false)]
        {
            assert_eq!(is_expected(matcher, status), want, "{matcher} {status}");
        }
        assert!(is_matcher("200-299,301", 200, 499));
        assert!(!is_matcher("200-599", 200, 499));
        assert!(!is_matcher("ok", 200, 499));
    }
}
