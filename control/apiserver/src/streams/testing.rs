//! The node's side of streams, for tests.

use super::spdy::{Decoder, Encoder, Frame};
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// A kubelet that speaks SPDY: takes the streams, echoes stdin to stdout and ends with a status.
pub(super) async fn kubelet<T: AsyncRead + AsyncWrite + Unpin>(mut io: T, status: &'static [u8]) -> Vec<String> {
    let (mut decoder, mut encoder, mut buffer) = (Decoder::default(), Encoder::default(), BytesMut::new());
    let (mut kinds, mut seen) = (Vec::<(u32, String)>::new(), Vec::new());
    let id_of = |kinds: &[(u32, String)], name: &str| kinds.iter().find(|(_, kind)| kind == name).map(|(id, _)| *id);
    loop {
        let Some(frame) = decoder.decode(&mut buffer).unwrap() else {
            if io.read_buf(&mut buffer).await.unwrap() == 0 {
                return seen;
            }
            continue;
        };
        let mut out = BytesMut::new();
        let mut put = |frame| encoder.encode(&frame, &mut out).unwrap();
        match frame {
            Frame::SynStream { id, headers, .. } => {
                seen.push(format!("open {} {}", id, headers[0].1));
                kinds.push((id, headers[0].1.clone()));
                put(Frame::SynReply { id, fin: false, headers: vec![] });
                put(Frame::Ping(2));
            }
            Frame::Data { id, fin, data } => {
                let kind = kinds.iter().find(|(own, _)| *own == id).unwrap().1.clone();
                seen.push(format!("{kind} {} {fin}", String::from_utf8_lossy(&data)));
                if let Some(stdout) = id_of(&kinds, "stdout") {
                    put(Frame::Data { id: stdout, fin: false, data });
                }
                if fin {
                    for (id, kind) in &kinds {
                        let data = if kind == "error" { Bytes::from_static(status) } else { Bytes::new() };
                        put(Frame::Data { id: *id, fin: true, data });
                    }
                }
            }
            Frame::Ping(id) => assert_eq!(id, 2, "pings come back as they were"),
            other => panic!("{other:?}"),
        }
        if io.write_all(&out).await.is_err() {
            return seen;
        }
    }
}
