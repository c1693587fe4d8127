//! Frames of streams from anybody who may connect.

use bytes::BytesMut;
use timonel_apiserver::streams::{SpdyDecoder, SpdyEncoder, SpdyFrame, SpdyHeaders};

#[test]
fn spdy_frames() {
    let headers = || -> SpdyHeaders { vec![("streamtype".to_owned(), "stdout".to_owned())] };
    let mut encoder = SpdyEncoder::default();
    let mut good = BytesMut::new();
    for frame in [
        SpdyFrame::SynStream { id: 1, headers: headers(), fin: false },
        SpdyFrame::SynReply { id: 1, headers: headers(), fin: false },
        SpdyFrame::Ping(1),
    ] {
        encoder.encode(&frame, &mut good).unwrap();
    }
    assert!(
        timonel_fuzz::run(&[&good], |bytes| {
            let (mut decoder, mut bytes) = (SpdyDecoder::default(), BytesMut::from(bytes));
            let mut before = bytes.len() + 1;
            while let Ok(Some(_)) = decoder.decode(&mut bytes) {
                assert!(bytes.len() < before, "a frame of no bytes would come for ever");
                before = bytes.len();
            }
        }) > 1000
    );
}
