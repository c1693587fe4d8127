//! What one HTTP/2 connection writes, put together: everything that one turn of the connection produces goes to TLS
//! in one piece. Never holds bytes back beyond that turn.
//!
//! h2 flushes after every data frame, so each answer and each watched event would be a TLS record and a system call
//! of its own; with 500 watchers these were two thirds of what an event cost. The connection's owner therefore
//! polls it through [`corked`], which ignores those flushes and makes up for them when the turn is over.

use bytes::{Buf, BytesMut};
use parking_lot::Mutex;
use std::{
    future::poll_fn,
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that are put together at most: four TLS records whose sealed form is just what one segment of the loopback
/// device holds (65,483 bytes; each record adds 22). With 64 KiB every write ended in a segment of its own for the last
/// 141 bytes, and segments are what sending costs: a third of a watched event's time.
const MOST: usize = 65_483 - 4 * 22;
/// Room taken at first; most turns write one answer.
const FIRST: usize = 8 << 10;
/// Writes from this size on go through uncopied when nothing waits before them.
const LARGE: usize = 32 << 10;

#[derive(Debug)]
struct Inner<I> {
    io: I,
    /// Whether anything is held back at all: HTTP/1.1 has nothing to put together, and may be upgraded.
    holds: bool,
    /// Freed whenever it is empty: ten thousand idle connections hold nothing.
    waiting: BytesMut,
}

impl<I: AsyncWrite + Unpin> Inner<I> {
    fn drain(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.waiting.is_empty() {
            let written = ready!(Pin::new(&mut self.io).poll_write(context, &self.waiting))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.waiting.advance(written);
        }
        self.waiting = BytesMut::new();
        Poll::Ready(Ok(()))
    }

    /// Everything that waits, and what the layers below hold.
    fn settle(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.drain(context))?;
        Pin::new(&mut self.io).poll_flush(context)
    }

    /// Room for more; makes some when there is none.
    fn room(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.waiting.len() >= MOST {
            ready!(self.drain(context))?;
        }
        if self.waiting.capacity() == 0 {
            self.waiting.reserve(FIRST);
        }
        Poll::Ready(Ok(MOST - self.waiting.len()))
    }
}

/// The connection's end of the stream.
#[derive(Debug)]
pub(crate) struct Cork<I>(Arc<Mutex<Inner<I>>>);

/// The owner's end: lets what waits go.
#[derive(Debug)]
pub(crate) struct Corkscrew<I>(Arc<Mutex<Inner<I>>>);

impl<I> Cork<I> {
    /// Without `holds` every write and flush goes straight through.
    pub(crate) fn new(io: I, holds: bool) -> (Self, Corkscrew<I>) {
        let inner = Arc::new(Mutex::new(Inner { io, holds, waiting: BytesMut::new() }));
        (Self(inner.clone()), Corkscrew(inner))
    }
}

/// Runs `connection`, which writes to the [`Cork`] of `screw`; what a turn of it wrote goes out when the turn ends.
pub(crate) async fn corked<C, I, R, E>(mut connection: Pin<&mut C>, screw: &Corkscrew<I>) -> Result<R, E>
where
    C: Future<Output = Result<R, E>>,
    I: AsyncWrite + Unpin,
    E: From<io::Error>,
{
    poll_fn(|context| {
        let done = connection.as_mut().poll(context);
        match screw.0.lock().settle(context) {
            Poll::Ready(Err(error)) if done.is_pending() => Poll::Ready(Err(error.into())),
            _ => done,
        }
    })
    .await
}

impl<I: AsyncRead + Unpin> AsyncRead for Cork<I> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.lock().io).poll_read(context, into)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Cork<I> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.0.lock();
        if !inner.holds {
            return Pin::new(&mut inner.io).poll_write_vectored(context, pieces);
        }
        let mut room = ready!(inner.room(context))?;
        if inner.waiting.is_empty() && pieces.iter().map(|piece| piece.len()).sum::<usize>() >= LARGE {
            return Pin::new(&mut inner.io).poll_write_vectored(context, pieces);
        }
        let before = inner.waiting.len();
        for piece in pieces {
            let part = &piece[..piece.len().min(room)];
            inner.waiting.extend_from_slice(part);
            room -= part.len();
        }
        Poll::Ready(Ok(inner.waiting.len() - before))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.0.lock();
        if inner.holds { Poll::Ready(Ok(())) } else { Pin::new(&mut inner.io).poll_flush(context) }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.0.lock();
        ready!(inner.settle(context))?;
        Pin::new(&mut inner.io).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{
        FutureExt,
        future::{Either, select},
    };
    use std::{cell::Cell, pin::pin};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    #[tokio::test]
    async fn a_turns_writes_go_out_together_when_it_ends() {
        let (ours, mut theirs) = duplex(MOST);
        let (mut cork, screw) = Cork::new(ours, true);
        let mut turn = 0;
        let connection = poll_fn(|context| {
            turn += 1;
            let text: &[u8] = if turn == 1 { b"one" } else { b"two" };
            for _ in 0..2 {
                assert!(Pin::new(&mut cork).poll_write(context, text).is_ready());
                assert!(Pin::new(&mut cork).poll_flush(context).is_ready());
            }
            context.waker().wake_by_ref();
            if turn == 2 { Poll::Ready(io::Result::Ok(())) } else { Poll::Pending }
        });
        corked(pin!(connection), &screw).await.unwrap();
        let mut got = [0; 12];
        theirs.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"oneonetwotwo");
        assert_eq!(screw.0.lock().waiting.capacity(), 0, "nothing is held afterwards");
    }

    #[tokio::test]
    async fn a_reader_that_stops_stops_the_writer() {
        let (ours, mut theirs) = duplex(1 << 10);
        let (mut cork, screw) = Cork::new(ours, true);
        let (written, block) = (Cell::new(0), vec![7; MOST / 2]);
        let connection = async {
            loop {
                if let Err(error) = cork.write_all(&block).await {
                    break io::Result::<()>::Err(error);
                }
                written.set(written.get() + block.len());
            }
        };
        let connection = pin!(connection);
        let mut running = pin!(corked(connection, &screw));
        for _ in 0..100 {
            assert!(running.as_mut().now_or_never().is_none());
        }
        assert!(written.get() <= MOST + (1 << 10), "{}", written.get());
        let mut got = vec![0; MOST * 2];
        {
            let reading = pin!(theirs.read_exact(&mut got));
            let Either::Right(_) = select(running.as_mut(), reading).await else { panic!("it does not end") };
        }
        assert!(got.iter().all(|byte| *byte == 7));
        drop(theirs);
        assert!(running.await.is_err(), "the end of the reader ends it");
    }

    #[tokio::test]
    async fn nothing_is_held_where_nothing_is_to_be_held() {
        let (ours, mut theirs) = duplex(64);
        let (mut cork, _screw) = Cork::new(ours, false);
        cork.write_all(b"now").await.unwrap();
        let mut got = [0; 3];
        theirs.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"now");
    }

    #[tokio::test]
    async fn shutting_down_sends_what_waits() {
        let (ours, mut theirs) = duplex(64);
        let (mut cork, _screw) = Cork::new(ours, true);
        cork.write_all(b"last").await.unwrap();
        cork.shutdown().await.unwrap();
        let mut got = Vec::new();
        theirs.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"last");
    }
}
