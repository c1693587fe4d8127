//! What a stream starts with: where it wants to go, and the answer. Pure.
//!
//! Both are frames: version, kind, length (big endian), body. A peer of a later version may send kinds that
//! this one refuses by name rather than misread.

use serde::{Deserialize, Serialize};

/// The version of this framing.
const VERSION: u8 = 1;
/// Version, kind and length.
pub(crate) const PREFIX_BYTES: usize = 4;
/// Largest body of a frame.
pub(crate) const MAX_BODY_BYTES: usize = 1024;

const KIND_OPEN: u8 = 1;
const KIND_ACCEPTED: u8 = 2;
const KIND_REFUSED: u8 = 3;

/// Where a stream goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Target {
    /// The node's kubelet API.
    Kubelet,
    /// An address as the node reaches it.
    Tcp {
        /// IP address or name.
        host: String,
        /// TCP port.
        port: u16,
    },
    /// The cluster's API, from the node's side.
    Api,
    /// Between control machines: what a node is asked, by way of the machine that has its tunnel.
    Node {
        /// UID of the cluster.
        cluster: String,
        /// Name of the node.
        node: String,
        /// What it is asked.
        target: Box<Target>,
    },
    /// Liveness of the connection itself; never leaves this crate.
    #[doc(hidden)]
    KeepAlive,
}

/// The answer to an opened stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Accepted,
    Refused(String),
}

/// Why a stream's first bytes make no sense.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum HeaderError {
    /// The peer speaks another version.
    #[error("stream header has version {0}, not 1")]
    Version(u8),
    /// A kind that does not belong here.
    #[error("unexpected stream header of kind {0}")]
    Kind(u8),
    /// Larger than a header can be.
    #[error("stream header of {0} bytes")]
    TooLong(usize),
    /// The body does not parse.
    #[error("malformed stream header")]
    Malformed,
}

/// A frame's kind and how many bytes of body follow.
pub(crate) fn prefix(bytes: [u8; PREFIX_BYTES]) -> Result<(u8, usize), HeaderError> {
    let [version, kind, high, low] = bytes;
    let length = usize::from(u16::from_be_bytes([high, low]));
    match (version, length) {
        (VERSION, 0..=MAX_BODY_BYTES) => Ok((kind, length)),
        (VERSION, _) => Err(HeaderError::TooLong(length)),
        _ => Err(HeaderError::Version(version)),
    }
}

fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let body = &body[..body.len().min(MAX_BODY_BYTES)];
    let length = u16::try_from(body.len()).expect("bodies are cut to MAX_BODY_BYTES");
    [&[VERSION, kind][..], &length.to_be_bytes(), body].concat()
}

/// The first bytes of a stream to `target`.
///
/// # Errors
/// When the target's name is too long.
pub(crate) fn encode_open(target: &Target) -> Result<Vec<u8>, HeaderError> {
    let body = serde_json::to_vec(target).map_err(|_| HeaderError::Malformed)?;
    if body.len() > MAX_BODY_BYTES { Err(HeaderError::TooLong(body.len())) } else { Ok(frame(KIND_OPEN, &body)) }
}

pub(crate) fn encode_answer(answer: &Answer) -> Vec<u8> {
    match answer {
        Answer::Accepted => frame(KIND_ACCEPTED, &[]),
        Answer::Refused(why) => frame(KIND_REFUSED, why.as_bytes()),
    }
}

pub(crate) fn decode_open(kind: u8, body: &[u8]) -> Result<Target, HeaderError> {
    match kind {
        KIND_OPEN => serde_json::from_slice(body).map_err(|_| HeaderError::Malformed),
        other => Err(HeaderError::Kind(other)),
    }
}

pub(crate) fn decode_answer(kind: u8, body: &[u8]) -> Result<Answer, HeaderError> {
    match kind {
        KIND_ACCEPTED => Ok(Answer::Accepted),
        KIND_REFUSED => Ok(Answer::Refused(String::from_utf8_lossy(body).into_owned())),
        other => Err(HeaderError::Kind(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(bytes: &[u8]) -> (u8, &[u8]) {
        let (kind, length) = prefix(bytes[..PREFIX_BYTES].try_into().unwrap()).unwrap();
        assert_eq!(length, bytes.len() - PREFIX_BYTES);
        (kind, &bytes[PREFIX_BYTES..])
    }

    #[test]
    fn headers_survive_the_wire() {
        let tcp = Target::Tcp { host: "10.1.2.3".into(), port: 80 };
        let node = Target::Node { cluster: "c-1".into(), node: "n-1".into(), target: Box::new(tcp.clone()) };
        for target in [Target::Kubelet, Target::Api, Target::KeepAlive, tcp, node] {
            let bytes = encode_open(&target).unwrap();
            let (kind, body) = split(&bytes);
            assert_eq!(decode_open(kind, body), Ok(target));
            assert_eq!(decode_answer(kind, body), Err(HeaderError::Kind(KIND_OPEN)));
        }
        for answer in [Answer::Accepted, Answer::Refused("no route".into())] {
            let bytes = encode_answer(&answer);
            let (kind, body) = split(&bytes);
            assert_eq!(decode_answer(kind, body), Ok(answer));
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let long = Target::Tcp { host: "x".repeat(2000), port: 1 };
        assert!(matches!(encode_open(&long), Err(HeaderError::TooLong(_))));
        assert_eq!(prefix([2, 1, 0, 0]), Err(HeaderError::Version(2)));
        assert_eq!(prefix([1, 1, 0xff, 0xff]), Err(HeaderError::TooLong(0xffff)));
        let cut = encode_answer(&Answer::Refused("x".repeat(5000)));
        assert_eq!(cut.len(), PREFIX_BYTES + MAX_BODY_BYTES);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(first in any::<[u8; PREFIX_BYTES]>(), body in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok((kind, _)) = prefix(first) {
                let _ = decode_open(kind, &body);
                let _ = decode_answer(kind, &body);
            }
        }
    }
}
