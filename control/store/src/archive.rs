//! The form of a backup: a header that the writer chose, keys with values, an end that says how many, with a checksum
//! over each part and one over all. Pure; what is cut, changed or goes on after its end is told apart from what is whole.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use sha2::{Digest, Sha256};

/// What every archive starts with; the number is the form's.
const MAGIC: &[u8; 8] = b"TMLARC1\n";
/// Kinds of parts.
const HEADER: u8 = 1;
const RECORD: u8 = 2;
const END: u8 = 3;
/// Length and checksum before each part.
const FRAME_BYTES: usize = 8;
/// Longest part: a key and a value, with room.
const MAX_PART_BYTES: usize = 4 << 20;

/// Why an archive cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArchiveError {
    /// Something else.
    #[error("not an archive of this form")]
    Form,
    /// A checksum does not fit, or a part makes no sense.
    #[error("the archive is damaged in its part {0}")]
    Damaged(u64),
    /// It ends too early.
    #[error("the archive is cut off after its part {0}")]
    Cut(u64),
}

/// Makes an archive, part by part.
#[derive(Debug)]
pub struct ArchiveWriter {
    digest: Sha256,
    records: u64,
}

impl ArchiveWriter {
    /// Begins one; returns its first bytes.
    #[must_use]
    pub fn begin(header: &[u8]) -> (Self, Bytes) {
        let mut writer = Self { digest: Sha256::new(), records: 0 };
        let mut out = BytesMut::from(&MAGIC[..]);
        writer.digest.update(MAGIC);
        out.put(writer.part(HEADER, &[header]));
        (writer, out.freeze())
    }

    /// Adds a key with its value.
    pub fn record(&mut self, key: &[u8], value: &[u8]) -> Bytes {
        self.records += 1;
        let length = u32::try_from(key.len()).unwrap_or(u32::MAX).to_le_bytes();
        self.part(RECORD, &[&length, key, value])
    }

    /// Ends it; returns its last bytes.
    #[must_use]
    pub fn end(mut self) -> Bytes {
        let records = self.records.to_le_bytes();
        let digest = self.digest.clone().finalize();
        self.part(END, &[&records, &digest])
    }

    fn part(&mut self, kind: u8, pieces: &[&[u8]]) -> Bytes {
        let length = 1 + pieces.iter().map(|piece| piece.len()).sum::<usize>();
        let mut out = BytesMut::with_capacity(FRAME_BYTES + length);
        out.put_u32_le(u32::try_from(length).unwrap_or(u32::MAX));
        out.put_u32_le(0);
        out.put_u8(kind);
        pieces.iter().for_each(|piece| out.put_slice(piece));
        let checksum = crc32fast::hash(&out[FRAME_BYTES..]);
        out[4..FRAME_BYTES].copy_from_slice(&checksum.to_le_bytes());
        self.digest.update(&out);
        out.freeze()
    }
}

/// A part of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ArchivePart {
    /// What the writer said of it.
    Header(Bytes),
    /// A key and its value.
    Record(Bytes, Bytes),
    /// The end; nothing follows.
    End {
        /// How many records there were.
        records: u64,
    },
}

/// Reads an archive from pieces as they come.
#[derive(Debug)]
pub struct ArchiveReader {
    buffer: BytesMut,
    digest: Sha256,
    begun: bool,
    parts: u64,
    records: u64,
    ended: bool,
}

impl Default for ArchiveReader {
    fn default() -> Self {
        Self { buffer: BytesMut::new(), digest: Sha256::new(), begun: false, parts: 0, records: 0, ended: false }
    }
}

impl ArchiveReader {
    /// Takes the next piece.
    pub fn feed(&mut self, piece: &[u8]) {
        self.buffer.extend_from_slice(piece);
    }

    /// The next part, if it is there as a whole.
    ///
    /// # Errors
    /// When it is damaged, or no archive.
    pub fn part(&mut self) -> Result<Option<ArchivePart>, ArchiveError> {
        if !self.begun {
            if self.buffer.len() < MAGIC.len() {
                return if MAGIC.starts_with(&self.buffer) { Ok(None) } else { Err(ArchiveError::Form) };
            }
            if self.buffer.split_to(MAGIC.len()) != MAGIC[..] {
                return Err(ArchiveError::Form);
            }
            self.digest.update(MAGIC);
            self.begun = true;
        }
        if self.ended {
            return if self.buffer.is_empty() { Ok(None) } else { Err(ArchiveError::Damaged(self.parts)) };
        }
        let Some(mut frame) = self.buffer.get(..FRAME_BYTES) else { return Ok(None) };
        let (length, checksum) = (frame.get_u32_le() as usize, frame.get_u32_le());
        if length == 0 || length > MAX_PART_BYTES {
            return Err(ArchiveError::Damaged(self.parts));
        }
        if self.buffer.len() < FRAME_BYTES + length {
            return Ok(None);
        }
        let whole = self.buffer.split_to(FRAME_BYTES + length).freeze();
        let part = self.decode(&whole, checksum).ok_or(ArchiveError::Damaged(self.parts))?;
        self.digest.update(&whole);
        self.parts += 1;
        Ok(Some(part))
    }

    fn decode(&mut self, whole: &Bytes, checksum: u32) -> Option<ArchivePart> {
        let mut part = whole.slice(FRAME_BYTES..);
        if crc32fast::hash(&part) != checksum {
            return None;
        }
        let kind = part.get_u8();
        // The header is the first part, and nothing else is.
        if (kind == HEADER) != (self.parts == 0) {
            return None;
        }
        match kind {
            HEADER => Some(ArchivePart::Header(part)),
            RECORD if part.len() >= 4 => {
                let key = part.get_u32_le() as usize;
                (key <= part.len()).then(|| {
                    self.records += 1;
                    ArchivePart::Record(part.split_to(key), part)
                })
            }
            END if part.len() == 40 => {
                let records = part.get_u64_le();
                let digest = self.digest.clone().finalize();
                self.ended = true;
                (records == self.records && part[..] == digest[..]).then_some(ArchivePart::End { records })
            }
            _ => None,
        }
    }

    /// Whether all has come, once no further piece will.
    ///
    /// # Errors
    /// When it has not.
    pub fn finish(&self) -> Result<(), ArchiveError> {
        if self.ended && self.buffer.is_empty() { Ok(()) } else { Err(ArchiveError::Cut(self.parts)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive() -> Vec<u8> {
        let (mut writer, mut out) = {
            let (writer, first) = ArchiveWriter::begin(b"about");
            (writer, first.to_vec())
        };
        out.extend(writer.record(b"a", b"1"));
        out.extend(writer.record(b"b", b""));
        out.extend(writer.end());
        out
    }

    fn read(bytes: &[u8], piece: usize) -> Result<Vec<ArchivePart>, ArchiveError> {
        let (mut reader, mut parts) = (ArchiveReader::default(), Vec::new());
        for piece in bytes.chunks(piece) {
            reader.feed(piece);
            while let Some(part) = reader.part()? {
                parts.push(part);
            }
        }
        reader.finish().map(|()| parts)
    }

    #[test]
    fn what_is_written_is_read_in_any_pieces() {
        let expected = [
            ArchivePart::Header("about".into()),
            ArchivePart::Record("a".into(), "1".into()),
            ArchivePart::Record("b".into(), "".into()),
            ArchivePart::End { records: 2 },
        ];
        for piece in [1, 3, 7, 1000] {
            assert_eq!(read(&archive(), piece).unwrap(), expected);
        }
    }

    #[test]
    fn every_changed_bit_and_every_cut_is_found() {
        let whole = archive();
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 4;
            assert!(read(&changed, 1000).is_err(), "byte {at}");
            assert!(read(&whole[..at], 1000).is_err() || at == 0 && read(&[], 1).is_err(), "cut at {at}");
        }
        assert!(read(&[&whole[..], b"x"].concat(), 1000).is_err(), "goes on after its end");
    }

    #[test]
    fn parts_of_another_archive_do_not_fit() {
        let (mut writer, first) = ArchiveWriter::begin(b"about");
        let one = writer.record(b"a", b"1");
        let other = ArchiveWriter::begin(b"about").0.record(b"a", b"2");
        let end = writer.end();
        assert!(read(&[&first[..], &one, &end].concat(), 9).is_ok());
        assert!(read(&[&first[..], &other, &end].concat(), 9).is_err());
    }
}
