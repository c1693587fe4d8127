//! Forgets connection-tracking entries of backends that are gone. Only connectionless traffic needs it: a UDP
//! client that keeps its source port would be sent to the old backend for ever.

use crate::part::{Map, Part};
use std::collections::BTreeSet;
use tokio::process::Command;

/// Backends forgotten in one go; a larger change (a whole cluster drained) is left to the entries' own timeouts.
const MAX_FORGOTTEN: usize = 256;

/// `(virtual address, backend address)` of UDP backends that `new`, the same service, has no more, and virtual addresses
/// that were without a backend before. Pure.
pub(crate) fn stale(old: &Part, new: &Part) -> BTreeSet<(String, Option<String>)> {
    let after = pairs(new);
    let gone = pairs(old).into_iter().filter(|pair| !after.contains(pair));
    let gone = gone.map(|(vip, backend)| (vip.to_owned(), Some(backend.to_owned())));
    let refused: BTreeSet<_> = new.of(Map::Refused).collect();
    let opened = old.of(Map::Refused).filter(|one| is_udp(one.0) && !refused.contains(one));
    gone.chain(opened.map(|(key, _)| (first(key).to_owned(), None))).collect()
}

fn pairs(part: &Part) -> BTreeSet<(&str, &str)> {
    let udp = part.of(Map::Endpoints).filter(|(key, _)| is_udp(key));
    udp.map(|(key, backend)| (first(key), first(backend))).collect()
}

fn is_udp(key: &str) -> bool {
    key.contains(" . udp . ")
}

/// The address that a key or value begins with.
fn first(text: &str) -> &str {
    text.split(" . ").next().unwrap_or(text)
}

/// Deletes the entries. A missing tool or entry is no error: the kernel's timeouts do the same later.
pub(crate) async fn forget(stale: &BTreeSet<(String, Option<String>)>) {
    for (vip, backend) in stale.iter().take(MAX_FORGOTTEN) {
        let mut command = Command::new("conntrack");
        command.args(["-D", "-p", "udp", "--orig-dst", vip]);
        if let Some(backend) = backend {
            command.args(["--dst-nat", backend]);
        }
        if let Err(error) = command.output().await {
            tracing::debug!(%error, "conntrack could not be run");
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(endpoints: &[(&str, &str)], refused: &[&str]) -> Part {
        let endpoints = endpoints.iter().map(|(key, value)| ((Map::Endpoints, (*key).to_owned()), (*value).to_owned()));
        let refused = refused.iter().map(|key| ((Map::Refused, (*key).to_owned()), String::new()));
        Part { elements: endpoints.chain(refused).collect(), health: None }
    }

    #[test]
    fn only_udp_backends_that_went_are_stale() {
        let old = with(
            &[("10.96.0.1 . udp . 53 . 0", "10.1.0.1 . 53"), ("10.96.0.1 . tcp . 53 . 0", "10.1.0.1 . 53")],
            &["10.96.0.2 . udp . 53"],
        );
        let new = with(&[("10.96.0.1 . udp . 53 . 0", "10.1.0.2 . 53")], &[]);
        let expected = [("10.96.0.1".to_owned(), Some("10.1.0.1".to_owned())), ("10.96.0.2".to_owned(), None)];
        assert_eq!(stale(&old, &new), expected.into());
        assert!(stale(&new, &new).is_empty());
    }
}
