//! Forgets connection-tracking entries of backends that are gone. Only connectionless traffic needs it: a UDP
//! client that keeps its source port would be sent to the old backend for ever.

use crate::{Map, Program};
use std::collections::BTreeSet;
use tokio::process::Command;

/// Backends forgotten in one go; a larger change (a whole cluster drained) is left to the entries' own timeouts.
const MAX_FORGOTTEN: usize = 256;

/// `(virtual address, backend address)` of UDP backends that `new` has no more, and virtual addresses that were
/// without a backend before. Pure.
pub(crate) fn stale(old: &Program, new: &Program) -> BTreeSet<(String, Option<String>)> {
    let pairs = |program: &Program| -> BTreeSet<(String, String)> {
        let udp = program.of(Map::Endpoints).iter().filter(|(key, _)| key.contains(" . udp . "));
        udp.filter_map(|(key, value)| {
            Some((key.split(" . ").next()?.to_owned(), value.split(" . ").next()?.to_owned()))
        })
        .collect()
    };
    let (before, after) = (pairs(old), pairs(new));
    let gone = before.difference(&after).map(|(vip, backend)| (vip.clone(), Some(backend.clone())));
    let refused = old.of(Map::Refused).keys().filter(|key| key.contains(" . udp . "));
    let opened = refused.filter(|key| !new.of(Map::Refused).contains_key(*key));
    let opened = opened.filter_map(|key| Some((key.split(" . ").next()?.to_owned(), None)));
    gone.chain(opened).take(MAX_FORGOTTEN).collect()
}

/// Deletes the entries. A missing tool or entry is no error: the kernel's timeouts do the same later.
pub(crate) async fn forget(stale: &BTreeSet<(String, Option<String>)>) {
    for (vip, backend) in stale {
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

    fn with(endpoints: &[(&str, &str)], refused: &[&str]) -> Program {
        let mut program = Program::default();
        let endpoints = endpoints.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        program.elements.insert(Map::Endpoints, endpoints.collect());
        program.elements.insert(Map::Refused, refused.iter().map(|key| ((*key).to_owned(), String::new())).collect());
        program
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
