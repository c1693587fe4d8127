//! SPDY/3.1 frames: bytes to frames and back. A pure state machine; its only state is the two header
//! compressors, which by the protocol live as long as the connection.
//!
//! Kubelets and container runtimes speak SPDY for exec, attach and port-forward, without its flow control:
//! neither side sends window updates, so a connection's back-pressure is TCP's. Never does I/O.

use super::spdy_dictionary::dictionary;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

const VERSION: u16 = 3;
const CONTROL_BIT: u16 = 0x8000;
const HEAD_BYTES: usize = 8;
const FLAG_FIN: u8 = 1;
const STREAM_ID_MASK: u32 = 0x7fff_ffff;
/// Largest frame that is accepted; peers write at most a few tens of kilobytes at once.
const MAX_FRAME_BYTES: usize = 1 << 20;
/// Largest header block after decompression.
const MAX_HEADER_BYTES: usize = 64 << 10;
/// Most headers of one block.
const MAX_HEADERS: usize = 128;
/// Most settings of one frame.
const MAX_SETTINGS: usize = 64;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;

/// Names in lower case; several values of a name are separate entries.
pub type Headers = Vec<(String, String)>;

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Opens a stream.
    SynStream {
        /// Odd from the client, even from the server.
        id: u32,
        /// The sender will send nothing on it.
        fin: bool,
        /// Its headers.
        headers: Headers,
    },
    /// Accepts a stream.
    SynReply {
        /// Stream.
        id: u32,
        /// The sender will send nothing on it.
        fin: bool,
        /// Its headers.
        headers: Headers,
    },
    /// Ends a stream at once.
    RstStream {
        /// Stream.
        id: u32,
        /// Why.
        status: u32,
    },
    /// Settings: id and value.
    Settings(Vec<(u32, u32)>),
    /// To be sent back as it is.
    Ping(u32),
    /// No further streams.
    GoAway {
        /// The last stream that was accepted.
        last: u32,
        /// Why.
        status: u32,
    },
    /// Further headers of a stream.
    Headers {
        /// Stream.
        id: u32,
        /// The sender will send nothing more on it.
        fin: bool,
        /// Headers.
        headers: Headers,
    },
    /// More room to send; of no meaning here.
    WindowUpdate {
        /// Stream.
        id: u32,
        /// Bytes.
        delta: u32,
    },
    /// Bytes of a stream.
    Data {
        /// Stream.
        id: u32,
        /// The sender will send nothing more on it.
        fin: bool,
        /// Bytes.
        data: Bytes,
    },
}

/// Why bytes are no frames; the connection cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpdyError {
    /// Another version.
    #[error("SPDY version {0} instead of 3")]
    Version(u16),
    /// A frame or header block is too large.
    #[error("SPDY frame too large")]
    TooLarge,
    /// The frame's content makes no sense.
    #[error("malformed SPDY frame")]
    Malformed,
    /// The header block cannot be decompressed.
    #[error("SPDY header compression")]
    Compression,
}

/// Bytes to frames.
#[derive(Debug)]
pub struct Decoder {
    inflate: Decompress,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { inflate: Decompress::new(true) }
    }
}

impl Decoder {
    /// Takes the next frame out of `bytes`; `None` when there is not yet a whole one. Unknown control frames are
    /// skipped, as the protocol asks.
    ///
    /// # Errors
    /// The connection is broken then.
    pub fn decode(&mut self, bytes: &mut BytesMut) -> Result<Option<Frame>, SpdyError> {
        loop {
            if bytes.len() < HEAD_BYTES {
                return Ok(None);
            }
            let mut head = &bytes[..HEAD_BYTES];
            let (first, flags_and_length) = (head.get_u32(), head.get_u32());
            let (flags, length) = ((flags_and_length >> 24) as u8, (flags_and_length & 0x00ff_ffff) as usize);
            if length > MAX_FRAME_BYTES {
                return Err(SpdyError::TooLarge);
            }
            if bytes.len() < HEAD_BYTES + length {
                bytes.reserve(HEAD_BYTES + length - bytes.len());
                return Ok(None);
            }
            bytes.advance(HEAD_BYTES);
            let body = bytes.split_to(length).freeze();
            let fin = flags & FLAG_FIN != 0;
            let version = (first >> 16) as u16;
            if version & CONTROL_BIT == 0 {
                return Ok(Some(Frame::Data { id: first & STREAM_ID_MASK, fin, data: body }));
            }
            if version & !CONTROL_BIT != VERSION {
                return Err(SpdyError::Version(version & !CONTROL_BIT));
            }
            if let Some(frame) = self.control((first & 0xffff) as u16, fin, body)? {
                return Ok(Some(frame));
            }
        }
    }

    fn control(&mut self, kind: u16, fin: bool, mut body: Bytes) -> Result<Option<Frame>, SpdyError> {
        let number = |body: &mut Bytes| {
            if body.len() < 4 { Err(SpdyError::Malformed) } else { Ok(body.get_u32()) }
        };
        let frame = match kind {
            SYN_STREAM => {
                let id = number(&mut body)? & STREAM_ID_MASK;
                let _associated = number(&mut body)?;
                if body.len() < 2 {
                    return Err(SpdyError::Malformed);
                }
                body.advance(2);
                Frame::SynStream { id, fin, headers: self.headers(&body)? }
            }
            SYN_REPLY => {
                let id = number(&mut body)? & STREAM_ID_MASK;
                Frame::SynReply { id, fin, headers: self.headers(&body)? }
            }
            HEADERS => {
                let id = number(&mut body)? & STREAM_ID_MASK;
                Frame::Headers { id, fin, headers: self.headers(&body)? }
            }
            RST_STREAM => Frame::RstStream { id: number(&mut body)? & STREAM_ID_MASK, status: number(&mut body)? },
            PING => Frame::Ping(number(&mut body)?),
            GOAWAY => Frame::GoAway { last: number(&mut body)? & STREAM_ID_MASK, status: number(&mut body)? },
            WINDOW_UPDATE => Frame::WindowUpdate {
                id: number(&mut body)? & STREAM_ID_MASK,
                delta: number(&mut body)? & STREAM_ID_MASK,
            },
            SETTINGS => {
                let count = number(&mut body)? as usize;
                if count > MAX_SETTINGS {
                    return Err(SpdyError::TooLarge);
                }
                let pair = |body: &mut Bytes| Ok((number(body)? & 0x00ff_ffff, number(body)?));
                Frame::Settings((0..count).map(|_| pair(&mut body)).collect::<Result<_, _>>()?)
            }
            _ => return Ok(None),
        };
        Ok(Some(frame))
    }

    fn headers(&mut self, block: &[u8]) -> Result<Headers, SpdyError> {
        let plain = self.inflate(block)?;
        let mut rest = &plain[..];
        let text = |rest: &mut &[u8]| -> Result<String, SpdyError> {
            let length = take_u32(rest)? as usize;
            if rest.len() < length {
                return Err(SpdyError::Malformed);
            }
            let (text, tail) = rest.split_at(length);
            *rest = tail;
            String::from_utf8(text.to_vec()).map_err(|_| SpdyError::Malformed)
        };
        let count = take_u32(&mut rest)? as usize;
        if count > MAX_HEADERS {
            return Err(SpdyError::TooLarge);
        }
        let mut headers = Headers::new();
        for _ in 0..count {
            let (name, values) = (text(&mut rest)?, text(&mut rest)?);
            headers.extend(values.split('\0').map(|value| (name.clone(), value.to_owned())));
            if headers.len() > MAX_HEADERS {
                return Err(SpdyError::TooLarge);
            }
        }
        Ok(headers)
    }

    fn inflate(&mut self, mut block: &[u8]) -> Result<Vec<u8>, SpdyError> {
        let mut plain = Vec::with_capacity(4096);
        loop {
            let before = (self.inflate.total_in(), self.inflate.total_out());
            let result = self.inflate.decompress_vec(block, &mut plain, FlushDecompress::Sync);
            let consumed = usize::try_from(self.inflate.total_in() - before.0).map_err(|_| SpdyError::Compression)?;
            block = &block[consumed..];
            match result {
                Err(error) if error.needs_dictionary().is_some() => {
                    self.inflate.set_dictionary(dictionary()).map_err(|_| SpdyError::Compression)?;
                    continue;
                }
                Err(_) | Ok(Status::StreamEnd) => return Err(SpdyError::Compression),
                Ok(Status::Ok | Status::BufError) => {}
            }
            if plain.len() > MAX_HEADER_BYTES {
                return Err(SpdyError::TooLarge);
            }
            let full = plain.len() == plain.capacity();
            if full {
                plain.reserve(4096);
            } else if block.is_empty() {
                return Ok(plain);
            } else if (self.inflate.total_in(), self.inflate.total_out()) == before {
                return Err(SpdyError::Compression);
            }
        }
    }
}

fn take_u32(rest: &mut &[u8]) -> Result<u32, SpdyError> {
    if rest.len() < 4 { Err(SpdyError::Malformed) } else { Ok(rest.get_u32()) }
}

/// Frames to bytes.
#[derive(Debug)]
pub struct Encoder {
    deflate: Compress,
}

impl Default for Encoder {
    fn default() -> Self {
        let mut deflate = Compress::new(Compression::fast(), true);
        deflate.set_dictionary(dictionary()).expect("a fresh zlib stream takes a dictionary");
        Self { deflate }
    }
}

impl Encoder {
    /// Appends a frame to `out`.
    ///
    /// # Errors
    /// When the frame is too large to be written.
    pub fn encode(&mut self, frame: &Frame, out: &mut BytesMut) -> Result<(), SpdyError> {
        let mut body = BytesMut::new();
        let (kind, fin) = match frame {
            Frame::Data { id, fin, data } => {
                if data.len() > MAX_FRAME_BYTES {
                    return Err(SpdyError::TooLarge);
                }
                put_head(out, id & STREAM_ID_MASK, *fin, data.len());
                out.extend_from_slice(data);
                return Ok(());
            }
            Frame::SynStream { id, fin, headers } => {
                body.put_u32(*id);
                body.put_u32(0);
                body.put_u16(0);
                self.headers(headers, &mut body)?;
                (SYN_STREAM, *fin)
            }
            Frame::SynReply { id, fin, headers } => {
                body.put_u32(*id);
                self.headers(headers, &mut body)?;
                (SYN_REPLY, *fin)
            }
            Frame::Headers { id, fin, headers } => {
                body.put_u32(*id);
                self.headers(headers, &mut body)?;
                (HEADERS, *fin)
            }
            Frame::RstStream { id, status } => {
                body.put_u32(*id);
                body.put_u32(*status);
                (RST_STREAM, false)
            }
            Frame::Ping(id) => {
                body.put_u32(*id);
                (PING, false)
            }
            Frame::GoAway { last, status } => {
                body.put_u32(*last);
                body.put_u32(*status);
                (GOAWAY, false)
            }
            Frame::WindowUpdate { id, delta } => {
                body.put_u32(*id);
                body.put_u32(*delta);
                (WINDOW_UPDATE, false)
            }
            Frame::Settings(settings) => {
                body.put_u32(u32::try_from(settings.len()).map_err(|_| SpdyError::TooLarge)?);
                for (id, value) in settings {
                    body.put_u32(*id);
                    body.put_u32(*value);
                }
                (SETTINGS, false)
            }
        };
        if body.len() > MAX_FRAME_BYTES {
            return Err(SpdyError::TooLarge);
        }
        put_head(out, u32::from(CONTROL_BIT | VERSION) << 16 | u32::from(kind), fin, body.len());
        out.extend_from_slice(&body);
        Ok(())
    }

    fn headers(&mut self, headers: &Headers, out: &mut BytesMut) -> Result<(), SpdyError> {
        if headers.len() > MAX_HEADERS {
            return Err(SpdyError::TooLarge);
        }
        let mut grouped: Vec<(&str, String)> = Vec::new();
        for (name, value) in headers {
            match grouped.iter_mut().find(|(known, _)| known == name) {
                Some((_, values)) => {
                    values.push('\0');
                    values.push_str(value);
                }
                None => grouped.push((name, value.clone())),
            }
        }
        let mut plain = BytesMut::new();
        let length = |text: &str| u32::try_from(text.len()).map_err(|_| SpdyError::TooLarge);
        plain.put_u32(u32::try_from(grouped.len()).map_err(|_| SpdyError::TooLarge)?);
        for (name, values) in &grouped {
            for text in [name, values.as_str()] {
                plain.put_u32(length(text)?);
                plain.extend_from_slice(text.as_bytes());
            }
        }
        if plain.len() > MAX_HEADER_BYTES {
            return Err(SpdyError::TooLarge);
        }
        self.deflate(&plain, out)
    }

    fn deflate(&mut self, mut plain: &[u8], out: &mut BytesMut) -> Result<(), SpdyError> {
        let mut packed = Vec::with_capacity(plain.len() + 64);
        loop {
            let before = self.deflate.total_in();
            self.deflate.compress_vec(plain, &mut packed, FlushCompress::Sync).map_err(|_| SpdyError::Compression)?;
            let consumed = usize::try_from(self.deflate.total_in() - before).map_err(|_| SpdyError::Compression)?;
            plain = &plain[consumed..];
            if plain.is_empty() && packed.len() < packed.capacity() {
                out.extend_from_slice(&packed);
                return Ok(());
            }
            packed.reserve(1024);
        }
    }
}

fn put_head(out: &mut BytesMut, first: u32, fin: bool, length: usize) {
    out.reserve(HEAD_BYTES + length);
    out.put_u32(first);
    let length = u32::try_from(length).expect("lengths are checked against MAX_FRAME_BYTES");
    out.put_u32(u32::from(fin) << 24 | length);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn headers() -> impl Strategy<Value = Headers> {
        let name = "[a-z-]{1,12}";
        proptest::collection::btree_map(name, "[ -~]{0,40}", 0..6).prop_map(|map| map.into_iter().collect())
    }

    fn frame() -> impl Strategy<Value = Frame> {
        let id = || 0..=STREAM_ID_MASK;
        prop_oneof![
            (id(), any::<bool>(), headers()).prop_map(|(id, fin, headers)| Frame::SynStream { id, fin, headers }),
            (id(), any::<bool>(), headers()).prop_map(|(id, fin, headers)| Frame::SynReply { id, fin, headers }),
            (id(), any::<bool>(), headers()).prop_map(|(id, fin, headers)| Frame::Headers { id, fin, headers }),
            (id(), any::<u32>()).prop_map(|(id, status)| Frame::RstStream { id, status }),
            any::<u32>().prop_map(Frame::Ping),
            (id(), any::<u32>()).prop_map(|(last, status)| Frame::GoAway { last, status }),
            (id(), id()).prop_map(|(id, delta)| Frame::WindowUpdate { id, delta }),
            proptest::collection::vec((0..=0x00ff_ffff_u32, any::<u32>()), 0..4).prop_map(Frame::Settings),
            (id(), any::<bool>(), proptest::collection::vec(any::<u8>(), 0..600))
                .prop_map(|(id, fin, data)| Frame::Data { id, fin, data: data.into() }),
        ]
    }

    proptest! {
        #[test]
        fn frames_survive_any_cut_of_the_wire(frames in proptest::collection::vec(frame(), 0..12), cut in 1_usize..50) {
            let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
            let mut wire = BytesMut::new();
            for frame in &frames {
                encoder.encode(frame, &mut wire).unwrap();
            }
            let (mut buffer, mut seen) = (BytesMut::new(), Vec::new());
            for part in wire.chunks(cut) {
                buffer.extend_from_slice(part);
                while let Some(frame) = decoder.decode(&mut buffer).unwrap() {
                    seen.push(frame);
                }
            }
            prop_assert_eq!(seen, frames);
            prop_assert!(buffer.is_empty());
        }

        #[test]
        fn garbage_never_panics_nor_loops(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            let mut decoder = Decoder::default();
            for _ in 0..100 {
                if !matches!(decoder.decode(&mut buffer), Ok(Some(_))) {
                    break;
                }
            }
        }

        #[test]
        fn damaged_frames_never_panic(frame in frame(), at in any::<usize>(), bit in 0_u8..8) {
            let mut wire = BytesMut::new();
            Encoder::default().encode(&frame, &mut wire).unwrap();
            let at = at % wire.len();
            wire[at] ^= 1 << bit;
            let mut decoder = Decoder::default();
            let _ = decoder.decode(&mut wire);
        }
    }

    #[test]
    fn large_header_blocks_are_kept_whole() {
        let headers: Headers = (0..100).map(|n| (format!("name-{n}"), format!("{n}").repeat(200))).collect();
        let frame = Frame::SynStream { id: 1, fin: false, headers };
        let mut wire = BytesMut::new();
        Encoder::default().encode(&frame, &mut wire).unwrap();
        assert_eq!(Decoder::default().decode(&mut wire), Ok(Some(frame)));
    }

    #[test]
    fn a_known_frame_is_written_as_the_protocol_says() {
        let mut wire = BytesMut::new();
        let mut encoder = Encoder::default();
        encoder.encode(&Frame::Ping(7), &mut wire).unwrap();
        encoder.encode(&Frame::Data { id: 1, fin: true, data: Bytes::from_static(b"hi") }, &mut wire).unwrap();
        assert_eq!(&wire[..], b"\x80\x03\x00\x06\x00\x00\x00\x04\x00\x00\x00\x07\x00\x00\x00\x01\x01\x00\x00\x02hi");
    }

    #[test]
    fn bounds_hold() {
        let mut huge = BytesMut::from(&[0, 0, 0, 1, 0, 0xff, 0xff, 0xff][..]);
        assert_eq!(Decoder::default().decode(&mut huge), Err(SpdyError::TooLarge));
        let mut old = BytesMut::from(&[0x80, 2, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1][..]);
        assert_eq!(Decoder::default().decode(&mut old), Err(SpdyError::Version(2)));
        // A block that inflates to far more than a header block may hold.
        let mut bomb = Compress::new(Compression::best(), true);
        bomb.set_dictionary(dictionary()).unwrap();
        let mut packed = Vec::with_capacity(1 << 16);
        bomb.compress_vec(&vec![0; 8 << 20], &mut packed, FlushCompress::Sync).unwrap();
        let mut wire = BytesMut::new();
        put_head(&mut wire, 0x8003_0002, false, packed.len() + 4);
        wire.put_u32(1);
        wire.extend_from_slice(&packed);
        assert_eq!(Decoder::default().decode(&mut wire), Err(SpdyError::TooLarge));
    }
}
