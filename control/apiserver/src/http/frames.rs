//! Bodies that join pieces which are already encoded: long lists, and compression of them.

use crate::body::{Body, BodyError};
use bytes::{Bytes, BytesMut};
use flate2::{Compression, write::GzEncoder};
use http_body::{Frame, SizeHint};
use std::{
    io::Write,
    pin::Pin,
    task::{Context, Poll},
};

/// Small pieces are copied together up to this size; larger ones go out as they are.
const CHUNK: usize = 64 << 10;
/// A piece from this size on is not copied.
const LARGE: usize = 16 << 10;
/// Answers from this size on are compressed when the client takes that.
pub(crate) const GZIP_FROM: u64 = 128 << 10;

/// A body made of pieces, with its exact length known from the start.
pub(crate) fn joined(pieces: impl Iterator<Item = Bytes> + Send + 'static, length: u64) -> Body {
    Body::new(Joined { pieces: Box::new(pieces), held: None, left: length })
}

struct Joined {
    pieces: Box<dyn Iterator<Item = Bytes> + Send>,
    held: Option<Bytes>,
    left: u64,
}

impl Joined {
    fn chunk(&mut self) -> Option<Bytes> {
        let first = self.held.take().or_else(|| self.pieces.next())?;
        if first.len() >= LARGE {
            return Some(first);
        }
        let mut chunk = BytesMut::with_capacity(CHUNK);
        chunk.extend_from_slice(&first);
        for piece in self.pieces.by_ref() {
            if piece.len() >= LARGE || chunk.len() + piece.len() > CHUNK {
                self.held = Some(piece);
                break;
            }
            chunk.extend_from_slice(&piece);
        }
        Some(chunk.freeze())
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
            let pieces: Vec<Bytes> = sizes.iter().map(|size| Bytes::from(vec![b'x'; *size])).collect();
            let length: u64 = sizes.iter().map(|size| *size as u64).sum();
            let body = joined(pieces.into_iter(), length);
            assert_eq!(body.size_hint().exact(), Some(length));
            assert_eq!(crate::body::read(body, 1 << 20).await.unwrap().len() as u64, length);
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
