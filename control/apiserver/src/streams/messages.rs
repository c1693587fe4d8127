//! A one-way stream of bytes to a client in WebSocket messages: logs for those who cannot read a streaming body.

use super::{
    upgrade::StreamBody,
    websocket::{accept, broken, drain, normal_close, offered_protocols, server},
};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http::{Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use std::io;
use timonel_runtime::{OnError, Tasks};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::tungstenite::Message;

/// How bytes become messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Binary,
    Base64,
}

/// The protocol to speak of those that a client offers; one that offers none gets binary messages.
fn choose(offered: &[&str]) -> Option<(Form, String)> {
    let known = [("binary.k8s.io", Form::Binary), ("base64.binary.k8s.io", Form::Base64)];
    if offered.is_empty() {
        return Some((Form::Binary, String::new()));
    }
    let chosen = offered.iter().find_map(|name| known.iter().find(|(known, _)| known == name));
    chosen.map(|(name, form)| (*form, (*name).to_owned()))
}

/// Accepts a WebSocket handshake and sends `body` in messages, one for each chunk; `None` when `request` is no
/// handshake, or offers only protocols that are not for this.
pub fn serve_messages<B, T>(mut request: Request<T>, body: B, tasks: &Tasks) -> Option<Response<StreamBody>>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::fmt::Display + Send,
{
    let (form, protocol) = choose(&offered_protocols(request.headers())?)?;
    let answer = accept(request.headers(), &protocol)?;
    let on_client = hyper::upgrade::on(&mut request);
    tasks.spawn("message-stream", OnError::Log, async move {
        let client = TokioIo::new(on_client.await.map_err(io::Error::other)?);
        // A client that leaves is how such a stream ends, not a failure of the server.
        if let Err(error) = send(client, body, form).await {
            tracing::debug!(%error, "stream ended");
        }
        Ok::<(), io::Error>(())
    });
    let never = |never: std::convert::Infallible| -> hyper::Error { match never {} };
    Some(answer.map(|()| Box::pin(Empty::new().map_err(never)) as StreamBody))
}

async fn send<C, B>(client: C, mut body: B, form: Form) -> io::Result<()>
where
    C: AsyncRead + AsyncWrite + Unpin,
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let (mut sink, mut messages) = server(client).await.split();
    let outwards = async {
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| io::Error::other(error.to_string()))?;
            let Ok(bytes) = frame.into_data() else { continue };
            let message = match form {
                Form::Binary => Message::Binary(bytes),
                Form::Base64 => Message::text(BASE64.encode(&bytes)),
            };
            sink.send(message).await.map_err(broken)?;
        }
        sink.send(normal_close()).await.map_err(broken)
    };
    // What the client says means nothing; that it leaves does.
    let inwards = async { while let Some(Ok(_)) = messages.next().await {} };
    let ended = {
        tokio::pin!(outwards, inwards);
        tokio::select! {
            ended = &mut outwards => ended,
            () = &mut inwards => return Ok(()),
        }
    };
    drain(messages).await;
    ended
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::StreamBody as Chunks;
    use hyper::body::Frame;
    use std::convert::Infallible;
    use tokio_tungstenite::{WebSocketStream, tungstenite::protocol::Role};

    #[test]
    fn the_first_known_protocol_is_spoken() {
        for (offered, expected) in [
            (&[][..], Some((Form::Binary, ""))),
            (&["binary.k8s.io"], Some((Form::Binary, "binary.k8s.io"))),
            (&["x", "base64.binary.k8s.io", "binary.k8s.io"], Some((Form::Base64, "base64.binary.k8s.io"))),
            (&["v4.channel.k8s.io"], None),
        ] {
            assert_eq!(choose(offered), expected.map(|(form, name)| (form, name.to_owned())), "{offered:?}");
        }
    }

    async fn received(form: Form) -> Vec<String> {
        let (near, far) = tokio::io::duplex(1 << 12);
        let chunks =
            ["one\n", "two\n"].map(|text| Ok::<_, Infallible>(Frame::data(Bytes::from_static(text.as_bytes()))));
        let body = Chunks::new(futures::stream::iter(chunks));
        let client = async {
            let mut socket = WebSocketStream::from_raw_socket(near, Role::Client, None).await;
            let mut got = Vec::new();
            while let Some(Ok(message)) = socket.next().await {
                got.push(match message {
                    Message::Close(frame) => format!("close {}", frame.map_or(0, |frame| frame.code.into())),
                    Message::Binary(bytes) => format!("binary {}", String::from_utf8_lossy(&bytes)),
                    other => format!("text {other}"),
                });
            }
            got
        };
        let (sent, got) = tokio::join!(send(far, body, form), client);
        sent.unwrap();
        got
    }

    #[tokio::test]
    async fn every_chunk_is_a_message_and_the_end_is_normal() {
        assert_eq!(received(Form::Binary).await, ["binary one\n", "binary two\n", "close 1000"]);
        assert_eq!(received(Form::Base64).await, ["text b25lCg==", "text dHdvCg==", "close 1000"]);
    }
}
