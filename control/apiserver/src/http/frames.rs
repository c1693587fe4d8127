//! Bodies that join pieces which are already encoded: long lists, and compression of them.

use crate::{
    body::{Body, BodyError},
    cache::Entry,
};
use bytes::{BufMut, Bytes, BytesMut};
use flate2::{Compression, write::GzEncoder};
use http_body::{Frame, SizeHint};
use std::{
    io::Write,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

/// Tag of a list's items in protobuf: field 2, with a length.
pub(crate) const LIST_ITEM: u8 = 2 << 3 | 2;
/// Small pieces are copied together up to this size; larger ones go out as they are.
const CHUNK: usize = 64 << 10;
/// A piece from this size on is not copied.
const LARGE: usize = 16 << 10;
/// Answers from this size on are compressed when the client takes that.
pub(crate) const GZIP_FROM: u64 = 128 << 10;

/// A part of a long list. What the cache holds stays there until it is copied into a chunk: a reference-counted slice
/// for each of ten thousand items took a tenth of a list's time.
#[derive(Debug)]
pub(crate) enum Piece {
    /// Bytes as they are.
    Bytes(Bytes),
    /// An object's text with its separator.
    Item(Arc<Entry>),
    /// An object's text without it: the first of a list.
    First(Arc<Entry>),
    /// An object's protobuf message, which it holds, as an item of a list.
    Message(Arc<Entry>),
    /// The same for a message that no object holds.
    Converted(Bytes),
}

impl Piece {
    fn body(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) | Self::Converted(bytes) => bytes,
            Self::Item(entry) => entry.item_ref(),
            Self::First(entry) => &entry.item_ref()[1..],
            Self::Message(entry) => entry.message(),
        }
    }

    fn is_message(&self) -> bool {
        matches!(self, Self::Message(_) | Self::Converted(_))
    }

    /// Bytes of it, its header included.
    pub(crate) fn len(&self) -> usize {
        let length = self.body().len();
        if self.is_message() { 1 + varint_length(length) + length } else { length }
    }

    fn put_header(&self, out: &mut BytesMut) {
        if self.is_message() {
            out.put_u8(LIST_ITEM);
            put_varint(out, self.body().len());
        }
    }

    /// Its body alone, not copied where that is possible.
    fn into_bytes(self) -> Bytes {
        match self {
            Self::Bytes(bytes) | Self::Converted(bytes) => bytes,
            Self::Item(entry) => entry.item(),
            Self::First(entry) => entry.item().slice(1..),
            Self::Message(entry) => Bytes::copy_from_slice(entry.message()),
        }
    }
}

/// A protobuf length.
pub(crate) fn put_varint(out: &mut BytesMut, mut value: usize) {
    while value > 0x7f {
        out.put_u8(value as u8 & 0x7f | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

fn varint_length(value: usize) -> usize {
    (usize::BITS - (value | 1).leading_zeros()).div_ceil(7) as usize
}

/// A body made of pieces, with its exact length known from the start.
pub(crate) fn joined(pieces: impl Iterator<Item = Piece> + Send + 'static, length: u64) -> Body {
    Body::new(Joined { pieces: Box::new(pieces), held: None, left: length })
}

struct Joined {
    pieces: Box<dyn Iterator<Item = Piece> + Send>,
    held: Option<Piece>,
    left: u64,
}

impl Joined {
    fn chunk(&mut self) -> Option<Bytes> {
        let mut chunk = BytesMut::new();
        while let Some(piece) = self.held.take().or_else(|| self.pieces.next()) {
            let is_large = piece.body().len() >= LARGE;
            if is_large && chunk.is_empty() && !piece.is_message() {
                return Some(piece.into_bytes());
            }
            if !chunk.is_empty() && chunk.len() + piece.len() > CHUNK {
                self.held = Some(piece);
                break;
            }
            if chunk.capacity() == 0 {
                chunk.reserve(CHUNK.min(usize::try_from(self.left).unwrap_or(CHUNK)));
            }
            piece.put_header(&mut chunk);
            if is_large {
                self.held = Some(Piece::Bytes(piece.into_bytes()));
                break;
            }
            chunk.extend_from_slice(piece.body());
        }
        (!chunk.is_empty()).then(|| chunk.freeze())
    }
}

impl http_body::Body for Joined {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let chunk = self.chunk();
        self.left = self.left.saturating_sub(chunk.as_ref().map_or(self.left, |chunk| chunk.len() as u64));
        Poll::Ready(chunk.map(|chunk| Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// The same body, compressed as it is read; its length is then unknown.
pub(crate) fn gzip(body: Body) -> Body {
    Body::new(Gzip { body, encoder: Some(GzEncoder::new(Vec::new(), Compression::fast())) })
}

/// Bytes at hand, compressed as far as it goes.
pub(crate) fn pack(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).ok()?;
    encoder.finish().ok()
}

struct Gzip {
    body: Body,
    encoder: Option<GzEncoder<Vec<u8>>>,
}

impl http_body::Body for Gzip {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        loop {
            let Some(encoder) = &mut this.encoder else { return Poll::Ready(None) };
            let out = match std::task::ready!(Pin::new(&mut this.body).poll_frame(context)) {
                Some(Ok(frame)) => {
                    let Ok(data) = frame.into_data() else { continue };
                    encoder.write_all(&data)?;
                    if encoder.get_ref().is_empty() {
                        continue;
                    }
                    std::mem::take(encoder.get_mut())
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => match this.encoder.take() {
                    Some(encoder) => encoder.finish()?,
                    None => return Poll::Ready(None),
                },
            };
            return Poll::Ready(Some(Ok(Frame::data(Bytes::from(out)))));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body::Body as _;
    use std::io::Read;

    #[tokio::test]
    async fn pieces_are_joined_and_the_length_is_exact() {
        for sizes in [vec![], vec![10; 20_000], vec![LARGE, 5, LARGE + 3, 1, 1]] {
            for make in [Piece::Bytes, Piece::Converted] {
                let pieces: Vec<Piece> = sizes.iter().map(|size| make(Bytes::from(vec![b'x'; *size]))).collect();
                let length: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
                let body = joined(pieces.into_iter(), length);
                assert_eq!(body.size_hint().exact(), Some(length));
                assert_eq!(crate::body::read(body, 1 << 20).await.unwrap().len() as u64, length);
            }
        }
    }

    #[test]
    fn lengths_are_as_long_as_they_say() {
        for value in [0, 1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152, usize::MAX] {
            let mut out = BytesMut::new();
            put_varint(&mut out, value);
            assert_eq!(out.len(), varint_length(value), "{value}");
        }
    }

    #[tokio::test]
    async fn gzip_comes_back() {
        let text = "abc".repeat(100_000);
        let packed = crate::body::read(gzip(text.clone().into()), 1 << 20).await.unwrap();
        assert!(packed.len() < text.len() / 10);
        let mut back = String::new();
        flate2::read::GzDecoder::new(&packed[..]).read_to_string(&mut back).unwrap();
        assert_eq!(back, text);
    }
}
