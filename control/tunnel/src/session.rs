//! One multiplexed connection, either side: drives the multiplexer, opens streams, hands over those that the
//! peer opens, and finds out when the peer is dead.

use crate::header::{self, Answer, HeaderError, PREFIX_BYTES, Target};
use async_trait::async_trait;
use std::{
    fmt::{self, Debug, Formatter},
    future::poll_fn,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use timonel_runtime::{OnError, Tasks};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    sync::{Semaphore, mpsc, oneshot},
    time::timeout,
};
use tokio_util::{
    compat::{Compat, FuturesAsyncReadCompatExt, TokioAsyncReadCompatExt},
    sync::CancellationToken,
};
use yamux::{Connection, Mode};

/// Streams of one connection, both directions together.
const MAX_STREAMS: usize = 2048;
/// Requests to open a stream that wait for the multiplexer.
const OPEN_QUEUE: usize = 64;
/// A peer has this long to say where its stream goes, and to answer an open.
const HEADER_DEADLINE: Duration = Duration::from_secs(10);
/// How often each side shows that it lives.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(10);
/// A peer that showed nothing for so long is dead.
const DEAD_AFTER: Duration = Duration::from_secs(35);

/// Why there is no stream.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    /// The node has no connection.
    #[error("node {0:?} is not connected")]
    NotConnected(String),
    /// The connection ended.
    #[error("the tunnel connection is closed")]
    Closed,
    /// The other side did not answer in time.
    #[error("the other side of the tunnel did not answer in time")]
    TimedOut,
    /// The other side could not or would not.
    #[error("refused by the other side of the tunnel: {0}")]
    Refused(String),
    /// The multiplexer failed.
    #[error("tunnel connection")]
    Connection(#[source] yamux::ConnectionError),
    /// The stream's header made no sense.
    #[error("tunnel stream")]
    Header(#[source] HeaderError),
    /// The stream broke.
    #[error("tunnel stream")]
    Io(#[source] io::Error),
}

impl From<TunnelError> for io::Error {
    fn from(error: TunnelError) -> Self {
        let kind = match &error {
            TunnelError::NotConnected(_) | TunnelError::Closed => io::ErrorKind::NotConnected,
            TunnelError::TimedOut => io::ErrorKind::TimedOut,
            TunnelError::Refused(_) => io::ErrorKind::ConnectionRefused,
            TunnelError::Connection(_) => io::ErrorKind::ConnectionReset,
            TunnelError::Header(_) => io::ErrorKind::InvalidData,
            TunnelError::Io(source) => source.kind(),
        };
        Self::new(kind, error)
    }
}

/// One stream: bytes both ways, each way closed on its own.
pub struct TunnelStream(Compat<yamux::Stream>);

impl Debug for TunnelStream {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        out.write_str("TunnelStream")
    }
}

impl AsyncRead for TunnelStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for TunnelStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// A stream that the peer opened and that waits for an answer.
#[derive(Debug)]
pub struct Incoming {
    stream: TunnelStream,
}

impl Incoming {
    /// Tells the peer that the stream is connected.
    ///
    /// # Errors
    /// When the stream is gone.
    pub async fn accept(mut self) -> io::Result<TunnelStream> {
        self.stream.write_all(&header::encode_answer(&Answer::Accepted)).await?;
        self.stream.flush().await?;
        Ok(self.stream)
    }

    /// Tells the peer why not.
    ///
    /// # Errors
    /// When the stream is gone.
    pub async fn refuse(mut self, why: &str) -> io::Result<()> {
        self.stream.write_all(&header::encode_answer(&Answer::Refused(why.to_owned()))).await?;
        self.stream.shutdown().await
    }

    /// Connects the stream with what `connect` gives and copies both ways until both are done; refuses it with
    /// the error when `connect` fails.
    ///
    /// # Errors
    /// When copying fails.
    pub async fn forward<T: AsyncRead + AsyncWrite + Unpin>(
        self,
        connect: impl Future<Output = io::Result<T>> + Send,
    ) -> io::Result<()> {
        match connect.await {
            Ok(mut other) => {
                let mut stream = self.accept().await?;
                tokio::io::copy_bidirectional(&mut stream, &mut other).await.map(|_| ())
            }
            Err(error) => self.refuse(&error.to_string()).await,
        }
    }
}

/// Serves the streams that the peer opens.
#[async_trait]
pub trait StreamHandler: Send + Sync + 'static {
    /// Answers one stream of `peer` (the node's name on the server's side, empty on the node's) and serves it
    /// until it is done.
    ///
    /// # Errors
    /// Logged; the connection goes on.
    async fn handle(&self, peer: &str, target: Target, stream: Incoming) -> io::Result<()>;
}

type Opened = oneshot::Sender<Result<yamux::Stream, TunnelError>>;

/// A handle to one connection.
#[derive(Clone)]
pub(crate) struct Session {
    open: mpsc::Sender<Opened>,
    ended: CancellationToken,
}

impl Session {
    /// Starts to serve a connection in `tasks`.
    pub(crate) fn start<T>(io: T, mode: Mode, peer: &str, tasks: &Tasks, handler: Arc<dyn StreamHandler>) -> Self
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let mut config = yamux::Config::default();
        config
            .set_max_num_streams(MAX_STREAMS)
            .set_max_connection_receive_window(Some(MAX_STREAMS * yamux::DEFAULT_CREDIT as usize));
        let connection = Connection::new(io.compat(), config, mode);
        let (open, requests) = mpsc::channel(OPEN_QUEUE);
        // A child scope: its end takes every stream's task along.
        let scope = tasks.child("tunnel");
        let session = Self { open, ended: scope.token() };
        let (alive, first_sign) = oneshot::channel();
        let inbound = Inbound {
            peer: peer.into(),
            handler,
            tasks: scope.clone(),
            slots: Arc::new(Semaphore::new(MAX_STREAMS)),
            keep_alive: Arc::new(parking_lot::Mutex::new(Some(alive))),
        };
        let ended = scope.token();
        scope.spawn("connection", OnError::EndScope, async move {
            drive(connection, requests, inbound).await?;
            ended.cancel();
            Ok::<(), TunnelError>(())
        });
        let prober = session.clone();
        scope.spawn("keep-alive", OnError::EndScope, async move {
            let stream = match mode {
                Mode::Client => prober.open(&Target::KeepAlive).await?,
                Mode::Server => timeout(DEAD_AFTER, first_sign)
                    .await
                    .map_err(|_| TunnelError::TimedOut)?
                    .map_err(|_| TunnelError::Closed)?,
            };
            keep_alive(stream).await
        });
        session
    }

    /// Opens a stream.
    pub(crate) async fn open(&self, target: &Target) -> Result<TunnelStream, TunnelError> {
        let header = header::encode_open(target).map_err(TunnelError::Header)?;
        let work = async {
            let (opened, stream) = oneshot::channel();
            self.open.send(opened).await.map_err(|_| TunnelError::Closed)?;
            let mut stream = TunnelStream(stream.await.map_err(|_| TunnelError::Closed)??.compat());
            stream.write_all(&header).await.map_err(TunnelError::Io)?;
            stream.flush().await.map_err(TunnelError::Io)?;
            let (kind, body) = read_frame(&mut stream).await?;
            match header::decode_answer(kind, &body).map_err(TunnelError::Header)? {
                Answer::Accepted => Ok(stream),
                Answer::Refused(why) => Err(TunnelError::Refused(why)),
            }
        };
        let work = timeout(HEADER_DEADLINE, work);
        match self.ended.run_until_cancelled(work).await {
            None => Err(TunnelError::Closed),
            Some(Err(_)) => Err(TunnelError::TimedOut),
            Some(Ok(stream)) => stream,
        }
    }

    pub(crate) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    pub(crate) fn end(&self) {
        self.ended.cancel();
    }

    pub(crate) fn is_ended(&self) -> bool {
        self.ended.is_cancelled()
    }
}

/// The node's end of a tunnel.
pub struct TunnelClient(Session);

impl Debug for TunnelClient {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        out.write_str("TunnelClient")
    }
}

impl TunnelClient {
    /// Serves `io` in `tasks`; streams from the server go to `handler`.
    pub fn start<T>(io: T, tasks: &Tasks, handler: Arc<dyn StreamHandler>) -> Self
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        Self(Session::start(io, Mode::Client, "", tasks, handler))
    }

    /// Opens a stream to the server's side, such as [`Target::Api`].
    ///
    /// # Errors
    /// When the connection has ended or the server refuses.
    pub async fn open(&self, target: &Target) -> Result<TunnelStream, TunnelError> {
        self.0.open(target).await
    }

    /// Whether the connection has ended.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.0.is_ended()
    }

    /// Waits until the connection has ended, for whatever reason; dial again then.
    pub async fn ended(&self) {
        self.0.ended().await;
    }
}

impl Drop for TunnelClient {
    fn drop(&mut self) {
        self.0.end();
    }
}

struct Inbound {
    peer: Arc<str>,
    handler: Arc<dyn StreamHandler>,
    tasks: Tasks,
    slots: Arc<Semaphore>,
    keep_alive: Arc<parking_lot::Mutex<Option<oneshot::Sender<TunnelStream>>>>,
}

impl Inbound {
    /// Serves one stream in a task of its own; drops it (which resets it) beyond the bound.
    fn serve(&self, stream: yamux::Stream) {
        let Ok(slot) = self.slots.clone().try_acquire_owned() else { return };
        let (peer, handler, keep_alive) = (self.peer.clone(), self.handler.clone(), self.keep_alive.clone());
        self.tasks.spawn("stream", OnError::Log, async move {
            let _slot = slot;
            let mut stream = TunnelStream(stream.compat());
            let frame = timeout(HEADER_DEADLINE, read_frame(&mut stream)).await;
            let (kind, body) = frame.map_err(|_| TunnelError::TimedOut)??;
            match header::decode_open(kind, &body).map_err(TunnelError::Header)? {
                Target::KeepAlive => {
                    let sign = keep_alive.lock().take();
                    let stream = Incoming { stream }.accept().await.map_err(TunnelError::Io)?;
                    if let Some(sign) = sign {
                        // The receiver is gone only when the session has ended.
                        let _ = sign.send(stream);
                    }
                }
                target => {
                    let served = handler.handle(&peer, target, Incoming { stream }).await;
                    if let Err(error) = served {
                        tracing::debug!(peer = %peer, %error, "tunnel stream ended");
                    }
                }
            }
            Ok::<(), TunnelError>(())
        });
    }
}

/// Moves frames until the peer closes the connection; the multiplexer does nothing unless it is polled.
async fn drive<T>(
    mut connection: Connection<Compat<T>>,
    mut requests: mpsc::Receiver<Opened>,
    inbound: Inbound,
) -> Result<(), TunnelError>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut waiting: Option<Opened> = None;
    poll_fn(|cx| {
        loop {
            if waiting.is_none()
                && let Poll::Ready(Some(request)) = requests.poll_recv(cx)
            {
                waiting = Some(request);
            }
            if waiting.is_some()
                && let Poll::Ready(opened) = connection.poll_new_outbound(cx)
                && let Some(request) = waiting.take()
            {
                // Whoever asked may have given up.
                let _ = request.send(opened.map_err(TunnelError::Connection));
                continue;
            }
            match connection.poll_next_inbound(cx) {
                Poll::Ready(Some(Ok(stream))) => inbound.serve(stream),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(TunnelError::Connection(error))),
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await
}

/// Sends a sign of life in a fixed rhythm and fails when none comes back for too long.
async fn keep_alive(stream: TunnelStream) -> Result<(), TunnelError> {
    let (mut from, mut to) = tokio::io::split(stream);
    let send = async {
        loop {
            to.write_all(&[0]).await.map_err(TunnelError::Io)?;
            to.flush().await.map_err(TunnelError::Io)?;
            tokio::time::sleep(KEEP_ALIVE_EVERY).await;
        }
    };
    let receive = async {
        let mut signs = [0; 16];
        loop {
            match timeout(DEAD_AFTER, from.read(&mut signs)).await {
                Err(_) => return Err(TunnelError::TimedOut),
                Ok(Ok(0)) => return Err(TunnelError::Closed),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(TunnelError::Io(error)),
            }
        }
    };
    tokio::select! {
        ended = send => ended,
        ended = receive => ended,
    }
}

async fn read_frame(stream: &mut TunnelStream) -> Result<(u8, Vec<u8>), TunnelError> {
    let mut first = [0; PREFIX_BYTES];
    stream.read_exact(&mut first).await.map_err(TunnelError::Io)?;
    let (kind, length) = header::prefix(first).map_err(TunnelError::Header)?;
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.map_err(TunnelError::Io)?;
    Ok((kind, body))
}
