//! The WebSocket side: choosing a protocol, the handshake's answer, and bytes as binary messages.

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use std::{io, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        handshake::derive_accept_key,
        protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
    },
};

/// Largest message from a client; kubectl writes 32 KiB at once.
const MAX_MESSAGE_BYTES: usize = 4 << 20;
/// Bytes of one message to a client.
const MESSAGE_BYTES: usize = 32 << 10;

/// After a close the client has this long to take what is left and to answer.
const CLOSE_DEADLINE: Duration = Duration::from_secs(10);

/// The WebSocket protocols that a client offers, in its order; `None` when this is no WebSocket handshake.
#[must_use]
pub fn offered_protocols(headers: &HeaderMap) -> Option<Vec<&str>> {
    let upgrade = headers.get(header::UPGRADE)?.to_str().ok()?;
    if !upgrade.eq_ignore_ascii_case("websocket") || !headers.contains_key(header::SEC_WEBSOCKET_KEY) {
        return None;
    }
    let lists = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    Some(lists.flat_map(|list| list.split(',')).map(str::trim).filter(|name| !name.is_empty()).collect())
}

/// The 101 that accepts a handshake with a protocol (with none when it is empty); `None` without a key.
#[must_use]
pub(super) fn accept(headers: &HeaderMap, protocol: &str) -> Option<Response<()>> {
    let key = headers.get(header::SEC_WEBSOCKET_KEY)?;
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let answer = response.headers_mut();
    answer.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    answer.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    answer.insert(header::SEC_WEBSOCKET_ACCEPT, derive_accept_key(key.as_bytes()).parse().ok()?);
    if !protocol.is_empty() {
        answer.insert(header::SEC_WEBSOCKET_PROTOCOL, protocol.parse().ok()?);
    }
    Some(response)
}

/// The server's end of an upgraded connection.
pub(super) async fn server<T: AsyncRead + AsyncWrite + Unpin>(io: T) -> WebSocketStream<T> {
    let config =
        WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE_BYTES)).max_frame_size(Some(MAX_MESSAGE_BYTES));
    WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await
}

/// The orderly end; with any other code kubectl reports a failure.
pub(super) fn normal_close() -> Message {
    Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() }))
}

/// Reads until the client has answered the close: whoever hangs up earlier resets the connection, and what the
/// client has not read yet is lost.
pub(super) async fn drain<S>(mut messages: S)
where
    S: futures::Stream<Item = Result<Message, tokio_tungstenite::tungstenite::Error>> + Unpin,
{
    let until_end = async { while let Some(Ok(_)) = messages.next().await {} };
    // A client that never answers has had its time.
    let _ = timeout(CLOSE_DEADLINE, until_end).await;
}

pub(super) fn broken(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, error)
}

/// Carries a byte stream in binary messages: message boundaries mean nothing.
///
/// # Errors
/// When a side breaks.
pub(super) async fn carry_bytes<C, N>(client: C, node: N) -> io::Result<()>
where
    C: AsyncRead + AsyncWrite + Unpin,
    N: AsyncRead + AsyncWrite + Unpin,
{
    let (mut sink, mut messages) = server(client).await.split();
    let (mut from_node, mut to_node) = tokio::io::split(node);
    let inwards = async {
        while let Some(message) = messages.next().await {
            let bytes = match message.map_err(broken)? {
                Message::Binary(bytes) => bytes,
                Message::Text(text) => text.into(),
                Message::Close(_) => break,
                _ => continue,
            };
            to_node.write_all(&bytes).await?;
            to_node.flush().await?;
        }
        to_node.shutdown().await
    };
    let outwards = async {
        let mut buffer = vec![0; MESSAGE_BYTES];
        loop {
            let read = from_node.read(&mut buffer).await?;
            if read == 0 {
                break;
            }
            let bytes = Bytes::copy_from_slice(&buffer[..read]);
            sink.send(Message::Binary(bytes)).await.map_err(broken)?;
        }
        sink.send(normal_close()).await.map_err(broken)
    };
    let ended = {
        tokio::pin!(inwards, outwards);
        tokio::select! {
            ended = &mut outwards => ended,
            // The client has said all that it will; the node may still answer.
            ended = &mut inwards => match ended {
                Ok(()) => outwards.await,
                broken => broken,
            },
        }
    };
    drain(messages).await;
    ended
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handshakes() {
        let mut headers = HeaderMap::new();
        assert_eq!(offered_protocols(&headers), None);
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::SEC_WEBSOCKET_KEY, HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ=="));
        headers.append(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("a, b"));
        headers.append(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("c"));
        assert_eq!(offered_protocols(&headers), Some(vec!["a", "b", "c"]));
        let answer = accept(&headers, "b").unwrap();
        // The example of RFC 6455, section 1.3.
        assert_eq!(answer.headers()[header::SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(answer.headers()[header::SEC_WEBSOCKET_PROTOCOL], "b");
    }

    #[tokio::test]
    async fn bytes_are_carried_and_the_end_is_normal() {
        let (near, far) = tokio::io::duplex(1 << 16);
        let (node_side, mut node) = tokio::io::duplex(1 << 16);
        let client = async {
            let mut socket = WebSocketStream::from_raw_socket(near, Role::Client, None).await;
            socket.send(Message::Binary(Bytes::from_static(b"ab"))).await.unwrap();
            socket.send(Message::text("c")).await.unwrap();
            let mut got = Vec::new();
            loop {
                match socket.next().await.unwrap().unwrap() {
                    Message::Binary(bytes) => got.extend_from_slice(&bytes),
                    Message::Close(frame) => return (got, frame.unwrap().code),
                    _ => {}
                }
            }
        };
        let serve = async {
            let mut asked = [0; 3];
            node.read_exact(&mut asked).await.unwrap();
            node.write_all(&asked).await.unwrap();
            node.write_all(b"!").await.unwrap();
            node.shutdown().await.unwrap();
            node
        };
        let (carried, (got, code), _node) = tokio::join!(carry_bytes(far, node_side), client, serve);
        carried.unwrap();
        assert_eq!((got.as_slice(), code), (&b"abc!"[..], CloseCode::Normal));
    }
}
