//! Exchange frames: the same frames for every split of the bytes; decoded heads encode and decode
//! alike.
#![no_main]

use bytes::Bytes;
use hookward_tunnel::protocol::frame::{Decoder, Frame};
use hookward_tunnel::protocol::head::{ExchangeReply, ExchangeRequest, decode_trailers};
use libfuzzer_sys::fuzz_target;

/// Content of a stream, with its data joined.
#[derive(Debug, PartialEq)]
struct Heard {
    heads: Vec<Bytes>,
    data: Vec<u8>,
    ended: bool,
    broken: bool,
}

fn hear(chunks: impl Iterator<Item = Bytes>) -> Heard {
    let mut decoder = Decoder::default();
    let mut heard = Heard {
        heads: Vec::new(),
        data: Vec::new(),
        ended: false,
        broken: false,
    };

    for chunk in chunks {
        decoder.push(chunk);
        loop {
            match decoder.next_frame() {
                Ok(Some(Frame::Data(data))) => heard.data.extend_from_slice(&data),
                Ok(Some(Frame::Head(payload) | Frame::Trailers(payload))) => {
                    heard.heads.push(payload)
                }
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => {
                    heard.broken = true;
                    return heard;
                }
            }
        }
    }

    heard.ended = decoder.is_ended();
    heard
}

fuzz_target!(|data: &[u8]| {
    let Some(([cut, ..], stream)) = data.split_at_checked(1) else {
        return;
    };
    let whole = hear(std::iter::once(Bytes::copy_from_slice(stream)));
    let cut = usize::from(*cut).max(1);
    let pieces = hear(stream.chunks(cut).map(Bytes::copy_from_slice));
    assert_eq!(whole, pieces);
    for head in &whole.heads {
        if let Ok(decoded) = ExchangeRequest::decode(head.clone()) {
            let again = ExchangeRequest::decode(decoded.encode(|_| true).freeze())
                .expect("it reads what it wrote");
            assert_eq!(
                (again.method, again.target, again.meta),
                (decoded.method, decoded.target, decoded.meta)
            );
            assert_eq!(again.headers, decoded.headers);
        }
        match ExchangeReply::decode(head.clone()) {
            Ok(ExchangeReply::Response(decoded)) => {
                let again = ExchangeReply::decode(decoded.encode(|_| true).freeze());
                assert_eq!(again, Ok(ExchangeReply::Response(decoded)));
            }
            Ok(ExchangeReply::Failure(decoded)) => {
                let again = ExchangeReply::decode(decoded.encode().freeze());
                assert_eq!(again, Ok(ExchangeReply::Failure(decoded)));
            }
            Err(_) => {}
        }
        let _ = decode_trailers(head.clone());
    }
});
