//! exec and attach: the client's WebSocket channels to the kubelet's SPDY streams and back.
//!
//! [`Translation`] decides, frame by frame and message by message, without I/O; [`translate`] moves the bytes.

use super::{
    spdy::{Decoder, Encoder, Frame, SpdyError},
    websocket::{broken, drain, normal_close, server},
};
use bytes::{Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use serde_json::json;
use std::io;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::Mutex,
};
use tokio_tungstenite::tungstenite::Message;

/// Bytes read from the node at once.
const READ_BYTES: usize = 32 << 10;
/// In the channel byte of the protocol's fifth version: the rest names a channel that is closed.
const CLOSE_SIGNAL: u8 = 255;

/// The WebSocket protocol that says when a channel is closed.
pub const V5_PROTOCOL: &str = "v5.channel.k8s.io";
/// The same without half-close.
pub const V4_PROTOCOL: &str = "v4.channel.k8s.io";
/// What the kubelet's SPDY streams follow.
pub(super) const SPDY_PROTOCOL: &str = "v4.channel.k8s.io";

/// A channel, by its number in WebSocket messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Channel {
    Stdin = 0,
    Stdout = 1,
    Stderr = 2,
    Error = 3,
    Resize = 4,
}

impl Channel {
    fn name(self) -> &'static str {
        match self {
            Self::Stdin => "stdin",
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::Error => "error",
            Self::Resize => "resize",
        }
    }
}

/// The streams that a client asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CommandStreams {
    /// Input.
    pub stdin: bool,
    /// Output.
    pub stdout: bool,
    /// Errors; never with a terminal.
    pub stderr: bool,
    /// A terminal, which can be resized.
    pub tty: bool,
}

impl CommandStreams {
    /// In the order in which a SPDY client opens them.
    fn channels(self) -> Vec<Channel> {
        let wanted = [
            (Channel::Error, true),
            (Channel::Stdin, self.stdin),
            (Channel::Stdout, self.stdout),
            (Channel::Stderr, self.stderr && !self.tty),
            (Channel::Resize, self.tty),
        ];
        wanted.into_iter().filter(|(_, wanted)| *wanted).map(|(channel, _)| channel).collect()
    }

    /// From the `stdin`, `stdout`, `stderr` and `tty` parameters of a query: on when there, unless `false` or `0`.
    #[must_use]
    pub fn from_query(query: &str) -> Self {
        let on = |name: &str| {
            let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
            let value = pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value);
            value.is_some_and(|value| value != "0" && !value.eq_ignore_ascii_case("false"))
        };
        Self { stdin: on("stdin"), stdout: on("stdout"), stderr: on("stderr"), tty: on("tty") }
    }
}

/// What to do with a frame of the node.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Nothing,
    ToClient(Bytes),
    ToNode(Frame),
}

/// The state of one translated command.
#[derive(Debug)]
struct Translation {
    /// Stream ids are odd and in this order.
    open: Vec<(Channel, u32, bool)>,
    status: BytesMut,
}

/// More of an error stream than any status needs is dropped.
const MAX_STATUS_BYTES: usize = 64 << 10;

impl Translation {
    fn new(streams: CommandStreams) -> Self {
        let ids = (1..).step_by(2);
        let open = streams.channels().into_iter().zip(ids).map(|(channel, id)| (channel, id, true)).collect();
        Self { open, status: BytesMut::new() }
    }

    fn opening(&self) -> impl Iterator<Item = Frame> {
        self.open.iter().map(|(channel, id, _)| Frame::SynStream {
            id: *id,
            fin: false,
            headers: vec![("streamtype".to_owned(), channel.name().to_owned())],
        })
    }

    fn stream(&self, number: u8) -> Option<u32> {
        let input = |channel: Channel| matches!(channel, Channel::Stdin | Channel::Resize);
        self.open.iter().find(|(channel, ..)| *channel as u8 == number && input(*channel)).map(|(_, id, _)| *id)
    }

    /// A message of the client as a frame for the node.
    fn input(&self, mut message: Bytes) -> Option<Frame> {
        if message.is_empty() {
            return None;
        }
        let number = message.split_to(1)[0];
        if number == CLOSE_SIGNAL {
            let id = self.stream(*message.first()?)?;
            return Some(Frame::Data { id, fin: true, data: Bytes::new() });
        }
        let id = self.stream(number)?;
        (!message.is_empty()).then_some(Frame::Data { id, fin: false, data: message })
    }

    /// A frame of the node as a message for the client.
    fn output(&mut self, frame: Frame) -> Step {
        match frame {
            Frame::Ping(id) if id % 2 == 0 => Step::ToNode(Frame::Ping(id)),
            Frame::Data { id, fin, data } => {
                if fin {
                    self.ended(id);
                }
                match self.open.iter().find(|(_, own, _)| *own == id) {
                    Some((Channel::Error, ..)) => {
                        let room = MAX_STATUS_BYTES - self.status.len();
                        self.status.extend_from_slice(&data[..data.len().min(room)]);
                        Step::Nothing
                    }
                    Some((channel @ (Channel::Stdout | Channel::Stderr), ..)) if !data.is_empty() => {
                        Step::ToClient(message(*channel, &data))
                    }
                    _ => Step::Nothing,
                }
            }
            Frame::RstStream { id, .. }
            | Frame::SynReply { id, fin: true, .. }
            | Frame::Headers { id, fin: true, .. } => {
                self.ended(id);
                Step::Nothing
            }
            _ => Step::Nothing,
        }
    }

    fn ended(&mut self, id: u32) {
        if let Some((_, _, open)) = self.open.iter_mut().find(|(_, own, _)| *own == id) {
            *open = false;
        }
    }

    /// Whether the node has said all that it will.
    fn is_done(&self) -> bool {
        let output = |channel: Channel| matches!(channel, Channel::Error | Channel::Stdout | Channel::Stderr);
        !self.open.iter().any(|(channel, _, open)| *open && output(*channel))
    }

    /// The last message on the error channel: the command's status.
    fn status(&self) -> Bytes {
        if !self.status.is_empty() {
            return message(Channel::Error, &self.status);
        }
        if self.is_done() {
            let success = json!({"metadata": {}, "status": "Success"});
            return message(Channel::Error, success.to_string().as_bytes());
        }
        failure("connection to the node was lost")
    }
}

fn message(channel: Channel, data: &[u8]) -> Bytes {
    let mut message = BytesMut::with_capacity(data.len() + 1);
    message.extend_from_slice(&[channel as u8]);
    message.extend_from_slice(data);
    message.freeze()
}

/// The error channel's message for a command that could not be run.
fn failure(why: &str) -> Bytes {
    let text = format!("Internal error occurred: {why}");
    let status = json!({"metadata": {}, "status": "Failure", "message": text, "reason": "InternalError",
        "details": {"causes": [{"message": why}]}, "code": 500});
    message(Channel::Error, status.to_string().as_bytes())
}

/// Tells the client that there is no command to talk to, in the protocol's own way.
///
/// # Errors
/// When the client is gone.
pub(super) async fn refuse<C: AsyncRead + AsyncWrite + Unpin>(client: C, why: &str) -> io::Result<()> {
    let mut socket = server(client).await;
    socket.send(Message::Binary(failure(why))).await.map_err(broken)?;
    socket.send(normal_close()).await.map_err(broken)?;
    drain(socket).await;
    Ok(())
}

/// Serves one command: `client` speaks WebSocket, `node` SPDY, both already upgraded.
///
/// # Errors
/// When the client breaks, or the node does not speak SPDY.
pub(super) async fn translate<C, N>(client: C, node: N, streams: CommandStreams) -> io::Result<()>
where
    C: AsyncRead + AsyncWrite + Unpin,
    N: AsyncRead + AsyncWrite + Unpin,
{
    let translation = std::sync::Mutex::new(Translation::new(streams));
    let (mut sink, mut messages) = server(client).await.split();
    let (mut from_node, to_node) = tokio::io::split(node);
    let to_node = Mutex::new((to_node, Encoder::default()));
    let opening: Vec<Frame> = translation.lock().map_err(|_| io::ErrorKind::Other)?.opening().collect();
    write(&to_node, &opening).await?;
    // An empty message on the lowest channel of the server tells the client that the streams are there.
    let first = if streams.stdout { Channel::Stdout } else { Channel::Error };
    sink.send(Message::Binary(message(first, &[]))).await.map_err(broken)?;

    let inwards = async {
        while let Some(received) = messages.next().await {
            let bytes = match received.map_err(broken)? {
                Message::Binary(bytes) => bytes,
                // Some clients send what they have as text; it is the same bytes.
                Message::Text(text) => text.into(),
                Message::Close(_) => return Ok(()),
                _ => continue,
            };
            let frame = translation.lock().map_err(|_| io::ErrorKind::Other)?.input(bytes);
            if let Some(frame) = frame {
                // A command that has ended takes no more input; its status is still to come.
                let _ = write(&to_node, &[frame]).await;
            }
        }
        Ok::<(), io::Error>(())
    };
    let outwards = async {
        let (mut decoder, mut buffer) = (Decoder::default(), BytesMut::with_capacity(READ_BYTES));
        loop {
            while let Some(frame) = decoder.decode(&mut buffer).map_err(broken_spdy)? {
                let step = translation.lock().map_err(|_| io::ErrorKind::Other)?.output(frame);
                match step {
                    Step::Nothing => {}
                    Step::ToNode(frame) => write(&to_node, &[frame]).await?,
                    Step::ToClient(bytes) => sink.send(Message::Binary(bytes)).await.map_err(broken)?,
                }
            }
            if translation.lock().map_err(|_| io::ErrorKind::Other)?.is_done() {
                break;
            }
            buffer.reserve(READ_BYTES);
            if from_node.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
                break;
            }
        }
        let status = translation.lock().map_err(|_| io::ErrorKind::Other)?.status();
        sink.send(Message::Binary(status)).await.map_err(broken)?;
        sink.send(normal_close()).await.map_err(broken)
    };
    let ended = {
        tokio::pin!(inwards, outwards);
        tokio::select! {
            // The client has left: so does the command's connection.
            ended = &mut inwards => return ended,
            ended = &mut outwards => ended,
        }
    };
    drain(messages).await;
    ended
}

fn broken_spdy(error: SpdyError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

async fn write<W: AsyncWrite + Unpin>(to: &Mutex<(W, Encoder)>, frames: &[Frame]) -> io::Result<()> {
    let mut guard = to.lock().await;
    let (writer, encoder) = &mut *guard;
    let mut bytes = BytesMut::new();
    for frame in frames {
        encoder.encode(frame, &mut bytes).map_err(broken_spdy)?;
    }
    writer.write_all(&bytes).await?;
    writer.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::streams::testing::kubelet;
    use tokio_tungstenite::{WebSocketStream, tungstenite::protocol::Role};

    const ALL: CommandStreams = CommandStreams { stdin: true, stdout: true, stderr: true, tty: false };

    async fn run(streams: CommandStreams, send: &[&[u8]], status: &'static [u8]) -> (Vec<Vec<u8>>, Vec<String>, u16) {
        let (near, far) = tokio::io::duplex(1 << 16);
        let (node_side, node) = tokio::io::duplex(1 << 16);
        let client = async {
            let mut socket = WebSocketStream::from_raw_socket(near, Role::Client, None).await;
            for (at, bytes) in send.iter().enumerate() {
                // Either kind of message will do.
                let message = match std::str::from_utf8(bytes) {
                    Ok(text) if at == 0 => Message::text(text),
                    _ => Message::Binary(Bytes::copy_from_slice(bytes)),
                };
                socket.send(message).await.unwrap();
            }
            let mut got = Vec::new();
            loop {
                match socket.next().await.unwrap().unwrap() {
                    Message::Binary(bytes) => got.push(bytes.to_vec()),
                    Message::Close(frame) => return (got, u16::from(frame.unwrap().code)),
                    _ => {}
                }
            }
        };
        let (done, (got, code), seen) = tokio::join!(translate(far, node_side, streams), client, kubelet(node, status));
        done.unwrap();
        (got, seen, code)
    }

    #[tokio::test]
    async fn a_command_runs_and_ends_with_its_status() {
        let failed = br#"{"status":"Failure","reason":"NonZeroExitCode"}"#;
        let (got, seen, code) = run(ALL, &[b"\0hello", b"\xff\0"], failed).await;
        assert_eq!(
            seen,
            ["open 1 error", "open 3 stdin", "open 5 stdout", "open 7 stderr", "stdin hello false", "stdin  true"]
        );
        let status = [b"\x03".as_slice(), failed].concat();
        assert_eq!(got, [b"\x01".to_vec(), b"\x01hello".to_vec(), status]);
        assert_eq!(code, 1000);
    }

    #[tokio::test]
    async fn no_status_means_success() {
        let (got, _, code) = run(ALL, &[b"\xff\0"], b"").await;
        assert_eq!(got.last().unwrap(), b"\x03{\"metadata\":{},\"status\":\"Success\"}");
        assert_eq!(code, 1000);
    }

    #[tokio::test]
    async fn a_terminal_has_resizes_and_no_stderr() {
        let streams = CommandStreams { tty: true, ..ALL };
        let (_, seen, _) = run(streams, &[b"\x04{\"Width\":80}", b"\x02ignored", b"\xff\0"], b"").await;
        assert_eq!(
            seen,
            [
                "open 1 error",
                "open 3 stdin",
                "open 5 stdout",
                "open 7 resize",
                "resize {\"Width\":80} false",
                "stdin  true"
            ]
        );
    }

    #[tokio::test]
    async fn a_lost_node_is_told() {
        let (near, far) = tokio::io::duplex(1 << 16);
        let (node_side, node) = tokio::io::duplex(1 << 16);
        drop(node);
        let client = async {
            let mut socket = WebSocketStream::from_raw_socket(near, Role::Client, None).await;
            let mut got = Vec::new();
            while let Some(Ok(message)) = socket.next().await {
                got.push(message);
            }
            got
        };
        let (_, got) = tokio::join!(translate(far, node_side, CommandStreams { stdin: false, ..ALL }), client);
        assert!(got.is_empty() || got.iter().any(|message| message.to_text().is_ok_and(|text| text.contains("lost"))));
    }

    #[test]
    fn queries_name_streams() {
        for (query, expected) in [
            ("container=c&stdin=true&stdout=1&tty=true&command=sh", CommandStreams { stderr: false, tty: true, ..ALL }),
            ("stdout=true&stderr=true", CommandStreams { stdin: false, ..ALL }),
            ("stdin=false&stdout=0", CommandStreams::default()),
            ("stdin&stdout=yes&stderr=", ALL),
        ] {
            assert_eq!(CommandStreams::from_query(query), expected, "{query}");
        }
    }
}
