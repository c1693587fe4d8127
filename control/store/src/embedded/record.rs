//! How one change lies on disk: a small head (all but the value) and the value, each under a checksum, so that
//! a flipped bit is noticed and never served.
//!
//! Head, big-endian: format 1, checksum of position and the rest 4, kind 1, created 8, version 8, lease 8,
//! replaced revision 8 and place 4, value's length 4 and checksum 4, key.

use crate::{
    evaluate::{Change, deleted},
    index::{Position, Version},
    types::{Event, EventKind, KeyValue, LeaseId, Revision},
};
use bytes::{Buf, BufMut, Bytes};

/// The only format there is so far.
const FORMAT: u8 = 1;
const FIXED_BYTES: usize = 50;
const CHECKED_FROM: usize = 5;

/// Where a record lies: revision and place, so that order on disk is the order of history.
pub(super) type DiskKey = [u8; 12];

pub(super) fn disk_key((revision, place): Position) -> DiskKey {
    let mut key = [0; 12];
    key[..8].copy_from_slice(&revision.to_be_bytes());
    key[8..].copy_from_slice(&place.to_be_bytes());
    key
}

pub(super) fn position(key: &DiskKey) -> Position {
    let mut key = &key[..];
    (key.get_u64(), key.get_u32())
}

/// All of a change but its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) position: Position,
    pub(super) kind: EventKind,
    pub(super) create_revision: Revision,
    pub(super) version: u64,
    pub(super) lease: LeaseId,
    pub(super) replaces: Option<Position>,
    pub(super) value_bytes: u32,
    pub(super) value_checksum: u32,
    pub(super) key: Bytes,
}

impl Head {
    pub(super) fn of(change: &Change, place: u32) -> Self {
        let current = &change.event.current;
        Self {
            position: (current.mod_revision, place),
            kind: change.event.kind,
            create_revision: current.create_revision,
            version: current.version,
            lease: current.lease.unwrap_or(0),
            replaces: change.replaces,
            value_bytes: u32::try_from(current.value.len()).expect("a value has at most MAX_VALUE_BYTES"),
            value_checksum: crc32fast::hash(&current.value),
            key: current.key.clone(),
        }
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.clear();
        out.put_u8(FORMAT);
        out.put_u32(0);
        out.put_u8(match self.kind {
            EventKind::Put => 0,
            EventKind::Delete => 1,
        });
        out.put_u64(self.create_revision);
        out.put_u64(self.version);
        out.put_u64(self.lease);
        let (revision, place) = self.replaces.unwrap_or((0, 0));
        out.put_u64(revision);
        out.put_u32(place);
        out.put_u32(self.value_bytes);
        out.put_u32(self.value_checksum);
        out.put_slice(&self.key);
        let checksum = checksum(self.position, &out[CHECKED_FROM..]);
        out[1..CHECKED_FROM].copy_from_slice(&checksum.to_be_bytes());
    }

    /// What `encode` wrote; else why not.
    pub(super) fn decode(position: Position, bytes: &[u8]) -> Result<Self, &'static str> {
        if bytes.len() < FIXED_BYTES {
            return Err("head is too short");
        }
        let mut rest = bytes;
        if rest.get_u8() != FORMAT {
            return Err("unknown format of a record");
        }
        if rest.get_u32() != checksum(position, &bytes[CHECKED_FROM..]) {
            return Err("head has a wrong checksum");
        }
        let kind = match rest.get_u8() {
            0 => EventKind::Put,
            1 => EventKind::Delete,
            _ => return Err("unknown kind of change"),
        };
        let (create_revision, version, lease) = (rest.get_u64(), rest.get_u64(), rest.get_u64());
        let replaces = Some((rest.get_u64(), rest.get_u32())).filter(|(revision, _)| *revision != 0);
        let (value_bytes, value_checksum) = (rest.get_u32(), rest.get_u32());
        let key = Bytes::copy_from_slice(rest);
        Ok(Self { position, kind, create_revision, version, lease, replaces, value_bytes, value_checksum, key })
    }

    /// Bytes that this record takes, about.
    pub(super) fn weight(&self) -> u64 {
        record_weight(&self.key, self.value_bytes)
    }

    pub(super) fn stored(&self) -> Stored {
        Stored { bytes: self.value_bytes, checksum: self.value_checksum }
    }

    /// The version that the index keeps of it.
    pub(super) fn index_version(&self) -> Version<Stored> {
        Version {
            revision: self.position.0,
            place: self.position.1,
            deleted: self.kind == EventKind::Delete,
            create_revision: self.create_revision,
            version: self.version,
            lease: self.lease,
            value: self.stored(),
        }
    }

    /// The event that it was, given its value.
    pub(super) fn event(self, value: Bytes, previous: Option<KeyValue>) -> Event {
        let version = self.index_version();
        let current = match self.kind {
            EventKind::Put => version.key_value(self.key, value),
            EventKind::Delete => deleted(self.key, self.position.0),
        };
        Event { kind: self.kind, current, previous }
    }
}

/// Bytes that a record takes, about.
pub(super) fn record_weight(key: &[u8], value_bytes: u32) -> u64 {
    (FIXED_BYTES + key.len()) as u64 + u64::from(value_bytes)
}

/// What the index knows of a value on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) bytes: u32,
    pub(super) checksum: u32,
}

impl Stored {
    /// Whether `value` is what was written.
    pub(super) fn matches(self, value: &[u8]) -> bool {
        value.len() == self.bytes as usize && crc32fast::hash(value) == self.checksum
    }
}

fn checksum(position: Position, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&disk_key(position));
    hasher.update(bytes);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Head {
        Head {
            position: (7, 3),
            kind: EventKind::Put,
            create_revision: 5,
            version: 2,
            lease: 9,
            replaces: Some((6, 1)),
            value_bytes: 5,
            value_checksum: crc32fast::hash(b"value"),
            key: Bytes::from("/pods/a"),
        }
    }

    #[test]
    fn a_head_reads_back() {
        let mut bytes = Vec::new();
        for head in [sample(), Head { kind: EventKind::Delete, replaces: None, ..sample() }] {
            head.encode(&mut bytes);
            assert_eq!(Head::decode(head.position, &bytes), Ok(head));
        }
    }

    #[test]
    fn every_flipped_bit_and_every_other_place_is_noticed() {
        let mut bytes = Vec::new();
        sample().encode(&mut bytes);
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Head::decode((7, 3), &bytes).is_err(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        assert!(Head::decode((7, 4), &bytes).is_err());
        assert!(Head::decode((7, 3), &bytes[..FIXED_BYTES - 1]).is_err());
        assert!(sample().stored().matches(b"value") && !sample().stored().matches(b"valuf"));
    }

    #[test]
    fn keys_on_disk_sort_as_history_does() {
        let positions = [(1, 0), (1, 1), (1, 256), (2, 0), (256, 0), (65_536, 7)];
        assert!(positions.map(disk_key).is_sorted());
        assert_eq!(positions.map(|at| position(&disk_key(at))), positions);
    }
}
