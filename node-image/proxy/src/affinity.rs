//! Clients that stick to a backend which is gone: the kernel remembers them until their time is over, so they are
//! forgotten as soon as the backend goes. What to forget is decided from two parts and the kernel's list; pure.

use crate::{
    nft::TABLE,
    part::{Map, Part},
};
use serde_json::Value;
use std::{collections::BTreeSet, fmt::Write as _};

/// Clients forgotten in one go; more wait for the next change or their own time.
const MAX_FORGOTTEN: usize = 10_000;

/// Clients that are forgotten by the kernel sooner than this are left to it.
const LEAST_SECONDS: u64 = 1;

/// `(mark, backend)` of `old` that `new`, the same service, has no more.
pub(crate) fn gone(old: &Part, new: &Part) -> BTreeSet<(String, String)> {
    let after = backends(new);
    backends(old).into_iter().filter(|pair| !after.contains(pair)).map(|(m, b)| (m.to_owned(), b.to_owned())).collect()
}

/// Backends with their marks, as texts of the maps.
fn backends(part: &Part) -> BTreeSet<(&str, &str)> {
    let backends = |(vip, mark)| part.backends(vip).map(move |backend| (mark, backend));
    part.of(Map::Affinity).flat_map(backends).collect()
}

/// The commands that forget clients of `gone` out of what `nft -j list map` printed; empty when there are none.
pub(crate) fn forget(gone: &BTreeSet<(String, String)>, listed: &[u8]) -> String {
    let listed: Value = serde_json::from_slice(listed).unwrap_or_default();
    let objects = listed["nftables"].as_array().into_iter().flatten();
    let elements = objects.filter_map(|object| object["map"]["elem"].as_array()).flatten();
    let mut out = String::new();
    for element in elements.filter_map(client).filter(|one| gone.contains(&(one.mark.clone(), one.backend.clone()))) {
        if out.is_empty() {
            // Writing to a String cannot fail.
            let _ = write!(out, "delete element {TABLE} clients {{ ");
        } else {
            out.push_str(", ");
        }
        let _ = write!(out, "{} . {}", element.address, element.mark);
        if out.len() > MAX_FORGOTTEN * 32 {
            break;
        }
    }
    if !out.is_empty() {
        out.push_str(" }\n");
    }
    out
}

struct Client {
    address: String,
    mark: String,
    backend: String,
}

/// `[{"elem": {"val": {"concat": [ADDRESS, MARK]}, "expires": SECONDS}}, {"concat": [ADDRESS, PORT]}]`
fn client(pair: &Value) -> Option<Client> {
    // One that is about to go by itself may be gone before the command is there, which would then do nothing at all.
    pair[0]["elem"]["expires"].as_u64().filter(|seconds| *seconds > LEAST_SECONDS)?;
    let key = &pair[0]["elem"]["val"]["concat"];
    let backend = &pair[1]["concat"];
    Some(Client {
        address: key[0].as_str()?.to_owned(),
        mark: format!("{:#010x}", key[1].as_u64()?),
        backend: format!("{} . {}", backend[0].as_str()?, backend[1].as_u64()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(backends: &[&str]) -> Part {
        let vip = "10.96.0.1 . tcp . 80";
        let numbers = backends.iter().enumerate().map(|(n, one)| (format!("{vip} . {n}"), (*one).to_owned()));
        let other = [(format!("{vip}80 . 0"), "10.1.0.9 . 80".to_owned())];
        let endpoints = numbers.chain(other).map(|(key, backend)| ((Map::Endpoints, key), backend));
        let mark = ((Map::Affinity, vip.to_owned()), "0x7f100002".to_owned());
        Part { elements: endpoints.chain([mark]).collect(), health: None }
    }

    #[test]
    fn only_backends_that_went_are_gone() {
        let (two, one) = (with(&["10.1.0.1 . 80", "10.1.0.2 . 80"]), with(&["10.1.0.2 . 80"]));
        let mark = "0x7f100002".to_owned();
        assert_eq!(gone(&two, &one), [(mark, "10.1.0.1 . 80".to_owned())].into());
        assert!(gone(&one, &two).is_empty());
        assert_eq!(gone(&two, &Part::default()).len(), 2, "without affinity nobody is remembered");
    }

    #[test]
    fn clients_of_what_is_gone_are_forgotten() {
        let listed = br#"{"nftables": [{"metainfo": {}}, {"map": {"name": "clients", "elem": [
            [{"elem": {"val": {"concat": ["10.1.0.5", 2131755010]}, "expires": 30}}, {"concat": ["10.1.0.1", 80]}],
            [{"elem": {"val": {"concat": ["10.1.0.6", 2131755010]}, "expires": 30}}, {"concat": ["10.1.0.2", 80]}],
            [{"elem": {"val": {"concat": ["10.1.0.7", 2131755011]}, "expires": 30}}, {"concat": ["10.1.0.1", 80]}]]}}]}"#;
        let gone = [("0x7f100002".to_owned(), "10.1.0.1 . 80".to_owned())].into();
        assert_eq!(forget(&gone, listed), "delete element ip timonel clients { 10.1.0.5 . 0x7f100002 }\n");
        assert_eq!(forget(&gone, b"nonsense"), "");
        assert_eq!(forget(&BTreeSet::new(), listed), "");
    }
}
