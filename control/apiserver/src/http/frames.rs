//! Bodies that join pieces which are already encoded: long lists, and compression of them.

use crate::{
    body::{Body, BodyError},
    cache::Entry,
};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::{Compression, write::GzEncoder};
use http_body::{Frame, SizeHint};
use std::{
    collections::VecDeque,
    io::{IoSlice, Write},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

/// Tag of a list's items in protobuf: field 2, with a length.
pub(crate) const LIST_ITEM: u8 = 2 << 3 | 2;
/// Bytes of one frame of a long list.
const CHUNK: usize = 64 << 10;
/// Smaller pieces are copied together; the others go out as references.
const SMALL: usize = 1 << 10;
/// Answers from this size on are compressed when the client takes that.
pub(crate) const GZIP_FROM: u64 = 128 << 10;

/// A part of a long list. What the cache holds stays there until it is copied to be encrypted: a reference-counted slice
/// for each of ten thousand items took a tenth of a list's time, and chunks put together before a quarter of it.
#[derive(Debug)]
pub(crate) enum Piece {
    /// Bytes as they are.
    Bytes(Bytes),
    /// An object's text with its separator.
    Item(Arc<Entry>),
    /// An object's text without it: the first of a list.
    First(Arc<Entry>),
    /// An object's members after `apiVersion` and `kind`.
    Members(Arc<Entry>),
    /// An object's protobuf message, which it holds, as an item of a list.
    Message(Arc<Entry>),
}

impl Piece {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Item(entry) => entry.item_ref(),
            Self::First(entry) => &entry.item_ref()[1..],
            Self::Members(entry) => entry.members(),
            Self::Message(entry) => entry.list_message(),
        }
    }

    /// Bytes of it.
    pub(crate) fn len(&self) -> usize {
        self.bytes().len()
    }
}

/// A protobuf length.
pub(crate) fn put_varint(out: &mut impl BufMut, mut value: usize) {
    while value > 0x7f {
        out.put_u8(value as u8 & 0x7f | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// What one frame of an answer carries.
#[derive(Debug)]
pub(crate) enum Chunk {
    Bytes(Bytes),
    Rope(Rope),
}

/// Pieces one after another, joined by whoever copies them.
#[derive(Debug, Default)]
pub(crate) struct Rope {
    pieces: VecDeque<Piece>,
    /// Bytes of the first piece that are gone.
    gone: usize,
    left: usize,
}

impl Rope {
    fn push(&mut self, piece: Piece) {
        let length = piece.len();
        if length > 0 {
            self.left += length;
            self.pieces.push_back(piece);
        }
    }
}

impl Buf for Rope {
    fn remaining(&self) -> usize {
        self.left
    }

    fn chunk(&self) -> &[u8] {
        self.pieces.front().map_or(&[], |piece| &piece.bytes()[self.gone..])
    }

    fn chunks_vectored<'a>(&'a self, into: &mut [IoSlice<'a>]) -> usize {
        let mut gone = self.gone;
        for (slot, piece) in into.iter_mut().zip(&self.pieces) {
            *slot = IoSlice::new(&piece.bytes()[std::mem::take(&mut gone)..]);
        }
        into.len().min(self.pieces.len())
    }

    fn advance(&mut self, count: usize) {
        self.left -= count;
        self.gone += count;
        while let Some(first) = self.pieces.front().map(Piece::len).filter(|length| *length <= self.gone) {
            self.gone -= first;
            self.pieces.pop_front();
        }
    }
}

impl Buf for Chunk {
    fn remaining(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.remaining(),
            Self::Rope(rope) => rope.remaining(),
        }
    }

    fn chunk(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes.chunk(),
            Self::Rope(rope) => rope.chunk(),
        }
    }

    fn chunks_vectored<'a>(&'a self, into: &mut [IoSlice<'a>]) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.chunks_vectored(into),
            Self::Rope(rope) => rope.chunks_vectored(into),
        }
    }

    fn advance(&mut self, count: usize) {
        match self {
            Self::Bytes(bytes) => bytes.advance(count),
            Self::Rope(rope) => rope.advance(count),
        }
    }

    fn copy_to_bytes(&mut self, count: usize) -> Bytes {
        match self {
            Self::Bytes(bytes) => bytes.copy_to_bytes(count),
            Self::Rope(rope) => rope.copy_to_bytes(count),
        }
    }
}

/// Puts pieces together: small ones by copying.
#[derive(Debug, Default)]
pub(crate) struct Joiner {
    rope: Rope,
    small: BytesMut,
}

impl Joiner {
    /// Bytes put together.
    pub(crate) fn len(&self) -> usize {
        self.rope.left + self.small.len()
    }

    pub(crate) fn push(&mut self, piece: Piece) {
        if piece.len() < SMALL {
            self.small.extend_from_slice(piece.bytes());
            return;
        }
        self.rope.push(Piece::Bytes(self.small.split().freeze()));
        self.rope.push(piece);
    }

    pub(crate) fn finish(mut self) -> Rope {
        self.rope.push(Piece::Bytes(self.small.freeze()));
        self.rope
    }
}

/// A body made of pieces, with its exact length known from the start.
pub(crate) fn joined(pieces: impl Iterator<Item = Piece> + Send + 'static, length: u64) -> Body {
    Body::chunked(Joined { pieces: Box::new(pieces), left: length })
}

/// Pieces that are still to be sent.
struct Joined {
    pieces: Box<dyn Iterator<Item = Piece> + Send>,
    left: u64,
}

impl http_body::Body for Joined {
    type Data = Chunk;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Chunk>, BodyError>>> {
        let mut joiner = Joiner::default();
        while joiner.len() < CHUNK
            && let Some(piece) = self.pieces.next()
        {
            joiner.push(piece);
        }
        let rope = joiner.finish();
        self.left = if rope.left == 0 { 0 } else { self.left.saturating_sub(rope.left as u64) };
        Poll::Ready((rope.left > 0).then(|| Ok(Frame::data(Chunk::Rope(rope)))))
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
    use std::{future::poll_fn, io::Read};

    #[tokio::test]
    async fn pieces_are_joined_and_the_length_is_exact() {
        for sizes in [vec![], vec![10; 20_000], vec![5, CHUNK * 2, 0, SMALL, 3, SMALL + 3, 1, 1], vec![SMALL; 200]] {
            let text = |(at, size): (usize, &usize)| Bytes::from(vec![b'a' + (at % 26) as u8; *size]);
            let texts: Vec<Bytes> = sizes.iter().enumerate().map(text).collect();
            let whole = texts.concat();
            let pieces = || texts.clone().into_iter().map(Piece::Bytes);
            let body = joined(pieces(), whole.len() as u64);
            assert_eq!(body.size_hint().exact(), Some(whole.len() as u64));
            assert_eq!(crate::body::read(body, 1 << 20).await.unwrap(), whole);
            // Taken as a connection takes them, in vectored writes that end anywhere.
            let mut body = joined(pieces(), whole.len() as u64);
            let mut sent = Vec::new();
            while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_chunk(context)).await {
                let mut chunk = frame.unwrap().into_data().unwrap();
                assert!(chunk.remaining() > 0);
                while chunk.has_remaining() {
                    let mut slices = [IoSlice::new(&[]); 4];
                    let count = chunk.chunks_vectored(&mut slices);
                    let some: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.to_vec()).take(1_500).collect();
                    assert!(!some.is_empty() && chunk.chunk() == &slices[0][..]);
                    sent.extend_from_slice(&some);
                    chunk.advance(some.len());
                }
            }
            assert_eq!((sent == whole, body.is_end_stream()), (true, true));
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
