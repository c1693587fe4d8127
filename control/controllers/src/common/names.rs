//! Hashes and names that must come out the same after every restart.

use serde::Serialize;

/// Upstream's alphabet for name suffixes: no vowels, nothing that looks alike.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// FNV-1a over 32 bits.
pub(crate) fn fnv(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// A hash in the alphabet of name suffixes: each decimal digit becomes one letter.
pub(crate) fn safe_encode(hash: u32) -> String {
    hash.to_string().bytes().map(|digit| char::from(ALPHABET[usize::from(digit) % ALPHABET.len()])).collect()
}

/// The hash of `value` (its JSON, whose maps are ordered) and of how often it collided.
pub(crate) fn hash_of<T: Serialize>(value: &T, collisions: Option<i32>) -> String {
    let mut bytes = serde_json::to_vec(value).unwrap_or_default();
    if let Some(collisions) = collisions {
        bytes.extend(collisions.to_le_bytes());
    }
    safe_encode(fnv(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_the_same_for_ever() {
        assert_eq!(fnv(b""), 0x811c_9dc5);
        assert_eq!(fnv(b"foobar"), 0xbf9c_f968);
        assert_eq!(hash_of(&"x", None), hash_of(&"x", None));
        assert_ne!(hash_of(&"x", None), hash_of(&"x", Some(1)));
        assert!(hash_of(&"x", None).bytes().all(|byte| ALPHABET.contains(&byte)));
    }
}
