//! What an etcd's answer means for the caller: whether a call took effect, may be sent again, or has failed. Pure.

use crate::types::StoreError;
use tonic::{Code, Status};

/// What to do after a failed attempt.
#[derive(Debug)]
pub(super) enum Verdict {
    /// It had no effect: send it again, to another member if there is one.
    Again(String),
    /// The same, with a fresh token.
    Authenticate(String),
    /// Nobody knows whether it had an effect.
    Unknown(String),
    /// It had no effect, and would have none again.
    Failed(StoreError),
}

/// The connection could not be made, hence nothing was sent.
#[derive(Debug, thiserror::Error)]
#[error("connecting to {member}")]
pub(super) struct NotConnected {
    pub(super) member: String,
    #[source]
    pub(super) source: std::io::Error,
}

/// Answers that say that a call was turned away before anything was done.
const TURNED_AWAY: [&str; 6] = [
    "too many requests",
    "no leader",
    "not leader",
    "not capable",
    "rpc not supported for learner",
    "revision of auth store is old",
];

/// Judges the failure of one attempt.
pub(super) fn judge(status: &Status) -> Verdict {
    if was_not_sent(status) {
        return Verdict::Again(chain(status));
    }
    let message = status.message();
    let text = || message.to_owned();
    let says = |what: &str| message.contains(what);
    if says("required revision has been compacted") {
        // Who asks fills in what etcd does not tell here.
        return Verdict::Failed(StoreError::Compacted { oldest: 0 });
    }
    if says("required revision is a future revision") {
        return Verdict::Failed(StoreError::Future { newest: 0 });
    }
    if says("requested lease not found") {
        return Verdict::Failed(StoreError::NoLease);
    }
    if says("database space exceeded") {
        let told = "etcd has raised its NOSPACE alarm: compact, defragment, raise its quota, then disarm the alarm";
        return Verdict::Failed(StoreError::NoSpace(told.into()));
    }
    if status.code() == Code::DataLoss || says("corrupt cluster") {
        return Verdict::Failed(StoreError::Corrupt(text()));
    }
    if says("invalid auth token") {
        return Verdict::Authenticate(text());
    }
    if says("permission denied") || says("authentication failed") || says("user name is empty") {
        return Verdict::Failed(StoreError::Unavailable(text()));
    }
    if TURNED_AWAY.iter().any(|what| says(what)) {
        return Verdict::Again(text());
    }
    if says("larger than max") {
        return Verdict::Failed(StoreError::Invalid(text()));
    }
    match status.code() {
        Code::InvalidArgument => Verdict::Failed(StoreError::Invalid(text())),
        // The message was too large to be sent or taken.
        Code::OutOfRange => Verdict::Failed(StoreError::Invalid(text())),
        Code::Unimplemented | Code::FailedPrecondition => Verdict::Failed(StoreError::Unavailable(text())),
        _ => Verdict::Unknown(chain(status)),
    }
}

fn was_not_sent(status: &Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if error.is::<NotConnected>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// A status with its causes, in one line.
fn chain(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        source = error.source();
    }
    text
}

/// What a member's version does right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Traits {
    /// It tells progress in the order of events, and not ahead of them.
    pub(super) orders_progress: bool,
    /// A watch from the very revision of a compaction has that revision's deletions.
    pub(super) keeps_deletions: bool,
}

impl Traits {
    pub(super) fn of(version: &str) -> Self {
        let mut numbers = version.split(['.', '-', '+']).map(|number| number.parse::<u32>().unwrap_or(0));
        let mut next = || numbers.next().unwrap_or(0);
        let version = (next(), next(), next());
        let since = |patches: [u32; 2]| match version {
            (3, minor, _) if minor < 4 => false,
            (3, 4, patch) => patch >= patches[0],
            (3, 5, patch) => patch >= patches[1],
            (major, ..) => major >= 3,
        };
        Self { orders_progress: since([25, 8]), keeps_deletions: since([33, 15]) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_answers_mean() {
        let cases = [
            (Code::ResourceExhausted, "etcdserver: too many requests", "again"),
            (Code::Unavailable, "etcdserver: no leader", "again"),
            (Code::Unavailable, "etcdserver: leader changed", "unknown"),
            (Code::Unavailable, "etcdserver: request timed out", "unknown"),
            (Code::Unavailable, "etcdserver: request timed out, possibly due to previous leader failure", "unknown"),
            (Code::Unavailable, "etcdserver: server stopped", "unknown"),
            (Code::Unknown, "transport error", "unknown"),
            (Code::Cancelled, "operation was canceled", "unknown"),
            (Code::Unauthenticated, "etcdserver: invalid auth token", "authenticate"),
            (Code::PermissionDenied, "etcdserver: permission denied", "unavailable"),
            (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded", "no space"),
            (Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted", "compacted"),
            (Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision", "future"),
            (Code::NotFound, "etcdserver: requested lease not found", "no lease"),
            (Code::InvalidArgument, "etcdserver: request is too large", "invalid"),
            (Code::InvalidArgument, "etcdserver: too many operations in txn request", "invalid"),
            (Code::ResourceExhausted, "grpc: received message larger than max (9 vs. 8)", "invalid"),
            (Code::DataLoss, "etcdserver: corrupt cluster", "corrupt"),
        ];
        for (code, message, expected) in cases {
            let found = match judge(&Status::new(code, message)) {
                Verdict::Again(_) => "again",
                Verdict::Authenticate(_) => "authenticate",
                Verdict::Unknown(_) => "unknown",
                Verdict::Failed(StoreError::Unavailable(_)) => "unavailable",
                Verdict::Failed(StoreError::NoSpace(_)) => "no space",
                Verdict::Failed(StoreError::Compacted { .. }) => "compacted",
                Verdict::Failed(StoreError::Future { .. }) => "future",
                Verdict::Failed(StoreError::NoLease) => "no lease",
                Verdict::Failed(StoreError::Invalid(_)) => "invalid",
                Verdict::Failed(StoreError::Corrupt(_)) => "corrupt",
                Verdict::Failed(_) => "other",
            };
            assert_eq!(found, expected, "{message}");
        }
    }

    #[test]
    fn a_connection_that_was_not_made_carried_nothing() {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let status = Status::from_error(Box::new(NotConnected { member: "a:1".into(), source: refused }));
        let Verdict::Again(why) = judge(&status) else { panic!("{status:?}") };
        assert!(why.contains("a:1") && why.contains("refused"), "{why}");
    }

    #[test]
    fn versions() {
        let cases = [
            ("3.3.10", false, false),
            ("3.4.23", false, false),
            ("3.4.25", true, false),
            ("3.4.34", true, true),
            ("3.5.7", false, false),
            ("3.5.8", true, false),
            ("3.5.30", true, true),
            ("3.6.0-rc.1", true, true),
            ("4.0.0", true, true),
            ("", false, false),
            ("x", false, false),
        ];
        for (version, orders_progress, keeps_deletions) in cases {
            assert_eq!(Traits::of(version), Traits { orders_progress, keeps_deletions }, "{version}");
        }
    }
}
