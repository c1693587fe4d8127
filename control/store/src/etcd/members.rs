//! Connections to an etcd's members, and calls with deadlines: which member is asked, when another one is, and when
//! to give up. Never decides what a failure means (that is `judge`).

use super::{
    config::{self, EtcdConfig, EtcdConfigError, EtcdMember, EtcdUser},
    judge::{NotConnected, Verdict, judge},
    pb,
};
use crate::types::StoreError;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use std::{
    future::Future,
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use timonel_runtime::Entropy;
use tokio::{io::AsyncRead, io::AsyncWrite, net::TcpStream, time::Instant};
use tokio_rustls::TlsConnector;
use tonic::{
    Request, Response, Status,
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint, Uri},
};

/// Time to make a connection.
const CONNECT: Duration = Duration::from_millis(700);
/// HTTP/2 pings on a connection in use; members refuse more than one in 5 s.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// First pause after every member has been asked in vain, in milliseconds; doubled up to the longest.
const FIRST_PAUSE_MS: u64 = 20;
const LONGEST_PAUSE_MS: u64 = 400;
/// Windows of HTTP/2 flow control: one slow answer does not hold up the others.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Longest message taken.
pub(super) const MAX_MESSAGE_BYTES: usize = 512 << 20;
/// Every attempt may take this many times as long as the one before, up to the longest.
const ATTEMPT_GROWTH: u32 = 2;
const LONGEST_ATTEMPT: Duration = Duration::from_secs(5);

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// One member: a connection for calls, and one of their own for watches, which never wait for each other.
#[derive(Clone, Debug)]
pub(super) struct Member {
    name: Arc<str>,
    pub(super) calls: Channel,
    pub(super) watches: Channel,
}

/// How a call ended that was not answered.
#[derive(Debug)]
pub(super) enum CallError {
    /// It had no effect.
    Failed(StoreError),
    /// It may have had its effect, or have it later.
    Unknown(String),
}

impl From<CallError> for StoreError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Failed(error) => error,
            CallError::Unknown(why) => Self::Unavailable(why),
        }
    }
}

/// All members of one etcd.
#[derive(Debug)]
pub(super) struct Members {
    members: Vec<Member>,
    /// The one that answers.
    current: AtomicUsize,
    user: Option<EtcdUser>,
    token: Mutex<Option<MetadataValue<Ascii>>>,
    attempt: Duration,
    deadline: Duration,
    entropy: Entropy,
}

impl Members {
    pub(super) fn new(config: &EtcdConfig) -> Result<Self, EtcdConfigError> {
        let tls = config.tls.as_ref().map(config::client_config).transpose()?.map(TlsConnector::from);
        let members = config.members.iter().map(|member| connect(member, tls.as_ref())).collect::<Result<_, _>>()?;
        Ok(Self {
            members,
            current: AtomicUsize::new(0),
            user: config.user.clone(),
            token: Mutex::new(None),
            attempt: config.attempt,
            deadline: config.deadline,
            entropy: config.entropy.clone(),
        })
    }

    /// The member to ask, and its place.
    pub(super) fn current(&self) -> (usize, &Member) {
        let at = self.current.load(Ordering::Relaxed) % self.members.len();
        (at, &self.members[at])
    }

    /// The member at `at` did not serve: the next calls go to another.
    pub(super) fn turn_from(&self, at: usize) {
        let next = (at + 1) % self.members.len();
        if self.current.compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed).is_ok() && next != at {
            tracing::info!(from = %self.members[at].name, to = %self.members[next].name, "another member of etcd is asked");
        }
    }

    /// How long one attempt may take at first.
    pub(super) fn attempt(&self) -> Duration {
        self.attempt
    }

    /// When a call that starts now must have ended.
    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.deadline
    }

    /// A call whose effect is the same however often it is done: asked of one member after the other.
    pub(super) async fn repeat<T, R: Clone, F>(
        &self,
        message: R,
        send: impl Fn(Channel, Request<R>) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let mut turn = Turn::new(self, self.deadline());
        loop {
            match turn.attempt(&message, &send).await {
                Ok(answer) => return Ok(answer),
                Err(Verdict::Failed(error)) => return Err(error),
                Err(Verdict::Again(why) | Verdict::Unknown(why) | Verdict::Authenticate(why)) => {
                    turn.next(why).await?;
                }
            }
        }
    }

    /// A call that is sent again only while it is known to have had no effect.
    pub(super) async fn once<T, R: Clone, F>(
        &self,
        message: R,
        until: Instant,
        send: impl Fn(Channel, Request<R>) -> F,
    ) -> Result<T, CallError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let mut turn = Turn::new(self, until);
        loop {
            match turn.attempt(&message, &send).await {
                Ok(answer) => return Ok(answer),
                Err(Verdict::Failed(error)) => return Err(CallError::Failed(error)),
                Err(Verdict::Unknown(why)) => {
                    turn.turn();
                    return Err(CallError::Unknown(why));
                }
                Err(Verdict::Again(why) | Verdict::Authenticate(why)) => {
                    turn.next(why).await.map_err(CallError::Failed)?;
                }
            }
        }
    }

    /// A request with the token, if this etcd has users.
    pub(super) async fn request<R>(&self, channel: &Channel, message: R) -> Result<Request<R>, Status> {
        let mut request = Request::new(message);
        if let Some(user) = &self.user {
            let known = self.token.lock().clone();
            let token = match known {
                Some(token) => token,
                None => self.authenticate(channel, user).await?,
            };
            request.metadata_mut().insert("token", token);
        }
        Ok(request)
    }

    async fn authenticate(&self, channel: &Channel, user: &EtcdUser) -> Result<MetadataValue<Ascii>, Status> {
        let message = pb::AuthenticateRequest { name: user.name.clone(), password: user.password.clone() };
        let answer = pb::auth_client::AuthClient::new(channel.clone()).authenticate(message).await?.into_inner();
        let token = MetadataValue::try_from(answer.token).map_err(|_| Status::internal("etcd's token is not text"))?;
        *self.token.lock() = Some(token.clone());
        Ok(token)
    }

    /// The token is no longer taken.
    pub(super) fn forget_token(&self) {
        self.token.lock().take();
    }
}

/// The attempts of one call.
struct Turn<'a> {
    members: &'a Members,
    at: usize,
    tried: usize,
    attempt: Duration,
    pause_ms: u64,
    until: Instant,
}

impl<'a> Turn<'a> {
    fn new(members: &'a Members, until: Instant) -> Self {
        let at = members.current().0;
        Self { members, at, tried: 0, attempt: members.attempt, pause_ms: FIRST_PAUSE_MS, until }
    }

    async fn attempt<T, R: Clone, F>(&self, message: &R, send: &impl Fn(Channel, Request<R>) -> F) -> Result<T, Verdict>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let channel = &self.members.members[self.at].calls;
        let time = self.attempt.min(self.until.saturating_duration_since(Instant::now()));
        let sent = async {
            let mut request = self.members.request(channel, message.clone()).await?;
            request.set_timeout(time);
            send(channel.clone(), request).await
        };
        match tokio::time::timeout(time, sent).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(judge(&status)),
            Err(_) => {
                Err(Verdict::Unknown(format!("no answer from {} in {time:?}", self.members.members[self.at].name)))
            }
        }
        .inspect_err(|verdict| {
            if matches!(verdict, Verdict::Authenticate(_)) {
                self.members.forget_token();
            }
        })
    }

    /// Goes on to another member.
    fn turn(&mut self) {
        self.members.turn_from(self.at);
        self.at = self.members.current().0;
    }

    /// Goes on to another member, after a pause when all have been tried.
    async fn next(&mut self, why: String) -> Result<(), StoreError> {
        self.turn();
        self.tried += 1;
        if self.tried.is_multiple_of(self.members.members.len()) {
            let pause = self.pause_ms / 2 + self.members.entropy.below(self.pause_ms);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            self.pause_ms = (self.pause_ms * 2).min(LONGEST_PAUSE_MS);
            self.attempt = (self.attempt * ATTEMPT_GROWTH).min(LONGEST_ATTEMPT);
        }
        if Instant::now() >= self.until { Err(StoreError::Unavailable(why)) } else { Ok(()) }
    }
}

fn connect(member: &EtcdMember, tls: Option<&TlsConnector>) -> Result<Member, EtcdConfigError> {
    let name = format!("{}:{}", member.host, member.port);
    let server = tls.map(|tls| Ok::<_, EtcdConfigError>((tls.clone(), config::server_name(member)?))).transpose()?;
    let channel = || {
        let (name, member, server) = (name.clone(), member.clone(), server.clone());
        let connector = tower::service_fn(move |_: Uri| {
            let (name, member, server) = (name.clone(), member.clone(), server.clone());
            async move {
                let dialled = tokio::time::timeout(CONNECT, dial(&member, server)).await;
                dialled
                    .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
                    .map_err(|source| NotConnected { member: name, source })
            }
        });
        endpoint().connect_with_connector_lazy(connector)
    };
    Ok(Member { calls: channel(), watches: channel(), name: name.clone().into() })
}

fn endpoint() -> Endpoint {
    // The authority is never resolved: the connector knows its member.
    Endpoint::from_static("http://etcd")
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
}

type Server = Option<(TlsConnector, rustls_pki_types::ServerName<'static>)>;

async fn dial(member: &EtcdMember, server: Server) -> io::Result<TokioIo<Box<dyn Io>>> {
    let stream = TcpStream::connect((member.host.as_str(), member.port)).await?;
    stream.set_nodelay(true)?;
    let stream: Box<dyn Io> = match server {
        None => Box::new(stream),
        Some((tls, name)) => Box::new(tls.connect(name, stream).await?),
    };
    Ok(TokioIo::new(stream))
}
