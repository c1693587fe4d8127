//! The body of requests and answers: memory, a stream, or nothing. Never parsed here.

use crate::http::Chunk;
use bytes::{Buf, Bytes};
use http_body::{Frame, SizeHint};
use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

/// What a body that is read from elsewhere may fail with.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

type Boxed<D> = Pin<Box<dyn http_body::Body<Data = D, Error = BodyError> + Send>>;

/// A body in memory or a stream of pieces.
pub struct Body(Inner);

enum Inner {
    Full(Option<Bytes>),
    Chunks(Boxed<Chunk>),
    Stream(Boxed<Bytes>),
}

impl Body {
    /// Nothing.
    #[must_use]
    pub const fn empty() -> Self {
        Self(Inner::Full(None))
    }

    /// Whether it comes in pieces that are not there yet.
    pub(crate) const fn is_stream(&self) -> bool {
        !matches!(self.0, Inner::Full(_))
    }

    /// Whose frames may be pieces that the cache holds.
    pub(crate) fn chunked(body: impl http_body::Body<Data = Chunk, Error = BodyError> + Send + 'static) -> Self {
        Self(Inner::Chunks(Box::pin(body)))
    }

    /// The next frame as a connection sends it: pieces are joined where they are encrypted.
    pub(crate) fn poll_chunk(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Chunk>, BodyError>>> {
        if let Inner::Chunks(body) = &mut self.0 {
            return body.as_mut().poll_frame(context);
        }
        let frame = std::task::ready!(http_body::Body::poll_frame(self, context));
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(Chunk::Bytes))))
    }

    /// Any other body.
    pub fn new<B>(body: B) -> Self
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BodyError>,
    {
        Self(Inner::Stream(Box::pin(http_body_util::BodyExt::map_err(body, Into::into))))
    }

    /// The same body; `kept` is dropped with it, after its end or when nobody wants the rest.
    pub(crate) fn keeping(self, kept: impl Send + Unpin + 'static) -> Self {
        Self::new(Keeping { inner: self, _kept: kept })
    }
}

struct Keeping<K> {
    inner: Body,
    _kept: K,
}

impl<K: Unpin> http_body::Body for Keeping<K> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.inner).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Default for Body {
    fn default() -> Self {
        Self::empty()
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self(Inner::Full((!bytes.is_empty()).then_some(bytes)))
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Bytes::from(text).into()
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Bytes::from_static(text.as_bytes()).into()
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Inner::Full(bytes) => write!(out, "Body({} bytes)", bytes.as_ref().map_or(0, Bytes::len)),
            Inner::Chunks(_) | Inner::Stream(_) => out.write_str("Body(stream)"),
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.0 {
            Inner::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Inner::Chunks(body) => {
                let frame = std::task::ready!(body.as_mut().poll_frame(context));
                let joined = |mut chunk: Chunk| chunk.copy_to_bytes(chunk.remaining());
                Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(joined))))
            }
            Inner::Stream(body) => body.as_mut().poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Inner::Full(bytes) => bytes.is_none(),
            Inner::Chunks(body) => body.is_end_stream(),
            Inner::Stream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Inner::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Inner::Chunks(body) => body.size_hint(),
            Inner::Stream(body) => body.size_hint(),
        }
    }
}

/// Why a body was not read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// It is larger than allowed.
    #[error("limit is {0}")]
    TooLarge(usize),
    /// The peer broke off.
    #[error("reading the body")]
    Broken(#[source] BodyError),
}

/// Reads a whole body of at most `bound` bytes.
pub(crate) async fn read(mut body: Body, bound: usize) -> Result<Bytes, ReadError> {
    use http_body_util::BodyExt;
    let mut first: Option<Bytes> = None;
    let mut rest: Option<Vec<u8>> = None;
    let mut length = 0;
    // A body that says it is too large is not read at all.
    if http_body::Body::size_hint(&body).lower() > bound as u64 {
        return Err(ReadError::TooLarge(bound));
    }
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(ReadError::Broken)?.into_data() else { continue };
        length += data.len();
        if length > bound {
            return Err(ReadError::TooLarge(bound));
        }
        match (&mut rest, &mut first) {
            (Some(rest), _) => rest.extend_from_slice(&data),
            (None, Some(one)) => rest = Some([&one[..], &data[..]].concat()),
            (None, None) => first = Some(data),
        }
    }
    Ok(rest.map(Bytes::from).or(first).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_body_is_read_up_to_its_bound() {
        let pieces = || {
            let frames = ["ab", "cd", "e"].map(|text| Ok::<_, BodyError>(Frame::data(Bytes::from(text))));
            Body::new(http_body_util::StreamBody::new(futures::stream::iter(frames)))
        };
        assert_eq!(read(pieces(), 5).await.unwrap(), "abcde");
        assert!(matches!(read(pieces(), 4).await, Err(ReadError::TooLarge(4))));
        assert_eq!(read("xyz".into(), 3).await.unwrap(), "xyz");
        assert_eq!(read(Body::empty(), 0).await.unwrap(), "");
    }
}
