//! HTTP/2 by hand, so that `:path` may have bytes that no client library allows: a request with
//! literal, uncompressed header fields (RFC 7541 §6.2.2), and the status of its response.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::sender::Edge;
use crate::wait::within;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const DATA: u8 = 0;
const PRIORITY: u8 = 2;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

/// Reaction of the relay to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// A response with this status.
    Status(u16),
    /// A reset stream or a closed connection.
    Cut,
}

/// Sends a request without a body.
pub async fn request(edge: &Edge, method: &str, path: &[u8]) -> Taken {
    let mut stream = within("TLS handshake", edge.tls(b"h2", Some(&edge.host)))
        .await
        .unwrap();
    let block = block(edge, method, path);
    let mut bytes = PREFACE.to_vec();
    frame(&mut bytes, SETTINGS, 0, 0, &[]);

    // A block larger than a frame continues in CONTINUATION frames.
    let mut pieces = block.chunks(16_384).peekable();
    let mut kind = HEADERS;

    while let Some(piece) = pieces.next() {
        let last = pieces.peek().is_none();
        let flags =
            if kind == HEADERS { END_STREAM } else { 0 } | if last { END_HEADERS } else { 0 };
        frame(&mut bytes, kind, flags, 1, piece);
        kind = 9;
    }

    if stream.write_all(&bytes).await.is_err() {
        return Taken::Cut;
    }

    within("an HTTP/2 answer", async {
        loop {
            let mut head = [0; 9];
            if stream.read_exact(&mut head).await.is_err() {
                return Taken::Cut;
            }

            let length =
                usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            let mut payload = vec![0; length];
            if stream.read_exact(&mut payload).await.is_err() {
                return Taken::Cut;
            }

            let on_stream = head[8] == 1;
            match head[3] {
                HEADERS if on_stream => return Taken::Status(status(&payload)),
                RST_STREAM if on_stream => return Taken::Cut,
                GOAWAY => return Taken::Cut,
                SETTINGS if head[4] & ACK == 0 => {
                    let mut ack = Vec::new();
                    frame(&mut ack, SETTINGS, ACK, 0, &[]);
                    let _ = stream.write_all(&ack).await;
                }
                _ => {}
            }
        }
    })
    .await
}

/// Returns the eight floods: their first bytes, and the bytes to repeat.
pub fn floods(edge: &Edge) -> Vec<(&'static str, Vec<u8>, Repeat)> {
    let head = block(edge, "POST", b"/flexdeploy/webhooks/v1");
    let begun = |flags: u8| {
        let mut bytes = PREFACE.to_vec();
        frame(&mut bytes, SETTINGS, 0, 0, &[]);
        frame(&mut bytes, HEADERS, flags, 1, &head);
        bytes
    };

    let always = |kind: u8, flags: u8, stream: u32, payload: &'static [u8]| -> Repeat {
        Box::new(move |_| {
            let mut bytes = Vec::new();
            frame(&mut bytes, kind, flags, stream, payload);
            bytes
        })
    };

    let opened = head.clone();
    let resets: Repeat = Box::new(move |number| {
        let (mut bytes, stream) = (Vec::new(), 2 * number + 3);
        frame(
            &mut bytes,
            HEADERS,
            END_STREAM | END_HEADERS,
            stream,
            &opened,
        );
        frame(&mut bytes, RST_STREAM, 0, stream, &8_u32.to_be_bytes());

        bytes
    });

    let opened = head.clone();
    let made_to_reset: Repeat = Box::new(move |number| {
        let (mut bytes, stream) = (Vec::new(), 2 * number + 3);
        frame(&mut bytes, HEADERS, END_HEADERS, stream, &opened);
        // An increment of 0 is an error of the stream (RFC 9113 §6.9).
        frame(&mut bytes, WINDOW_UPDATE, 0, stream, &[0; 4]);
        bytes
    });

    vec![
        ("rapid reset", begun(END_HEADERS | END_STREAM), resets),
        (
            "made to reset",
            begun(END_HEADERS | END_STREAM),
            made_to_reset,
        ),
        ("CONTINUATION", begun(0), always(CONTINUATION, 0, 1, b"")),
        ("empty DATA", begun(END_HEADERS), always(DATA, 0, 1, b"")),
        ("PING", begun(END_HEADERS), always(PING, 0, 0, &[7; 8])),
        (
            "SETTINGS",
            begun(END_HEADERS),
            always(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100]),
        ),
        (
            "PRIORITY",
            begun(END_HEADERS),
            always(PRIORITY, 0, 3, &[0, 0, 0, 0, 1]),
        ),
        (
            "WINDOW_UPDATE",
            begun(END_HEADERS),
            always(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]),
        ),
    ]
}

/// Returns a request whose response body cannot be sent, because the client opens no window for it
/// (RFC 9113 §6.5.2).
pub fn without_window(edge: &Edge, path: &str) -> Vec<u8> {
    const INITIAL_WINDOW_SIZE: u8 = 4;

    let mut bytes = PREFACE.to_vec();
    frame(
        &mut bytes,
        SETTINGS,
        0,
        0,
        &[0, INITIAL_WINDOW_SIZE, 0, 0, 0, 0],
    );

    frame(
        &mut bytes,
        HEADERS,
        END_STREAM | END_HEADERS,
        1,
        &block(edge, "GET", path.as_bytes()),
    );

    bytes
}

/// Returns a header bomb: requests whose bodies never arrive, each with this number of fields of
/// this size. All but the first field are one byte on the wire, a reference to the first (RFC 7541
/// §6.1).
pub fn bomb(edge: &Edge, path: &str, requests: u32, fields: usize, value: usize) -> Vec<u8> {
    let mut bytes = PREFACE.to_vec();
    frame(&mut bytes, SETTINGS, 0, 0, &[]);

    for number in 0..requests {
        let mut head = block(edge, "POST", path.as_bytes());
        if number == 0 {
            head.push(0x40); // literal, to be indexed, new name
            string(&mut head, b"x");
            string(&mut head, &vec![b'v'; value]);
        }

        head.resize(head.len() + fields, 0xbe); // the newest of the dynamic table
        frame(&mut bytes, HEADERS, END_HEADERS, 2 * number + 1, &head);
    }

    bytes
}

/// Function that returns the next frames of a flood.
pub type Repeat = Box<dyn Fn(u32) -> Vec<u8>>;

/// Sends this number of frames of a flood. Returns `true` if the relay has closed the connection.
/// With `known`, the flood starts after the first response.
pub async fn is_cut_after(
    edge: &Edge,
    begin: &[u8],
    repeat: &Repeat,
    frames: u32,
    known: bool,
) -> bool {
    let mut stream = within("TLS handshake", edge.tls(b"h2", Some(&edge.host)))
        .await
        .unwrap();
    stream.write_all(begin).await.unwrap();

    let mut received = Vec::new();
    let answered = |received: &[u8]| {
        received
            .windows(6)
            .any(|it| it[0] == HEADERS && it[2..] == [0, 0, 0, 1])
    };

    while known && !answered(&received) {
        let mut buffer = [0; 16_384];
        let count = within("the first answer", stream.read(&mut buffer))
            .await
            .unwrap();
        assert!(count > 0, "the connection ended before the first answer");
        received.extend_from_slice(&buffer[..count]);
    }

    for number in 0..frames {
        if stream.write_all(&repeat(number)).await.is_err() {
            return true;
        }
    }

    // A reply to the last PING means that everything was read; a closed connection sends none.
    let mut ping = Vec::new();
    frame(&mut ping, PING, 0, 0, b"the last");

    if stream.write_all(&ping).await.is_err() || stream.flush().await.is_err() {
        return true;
    }

    within("an answer or an end", async {
        loop {
            let mut buffer = [0; 16_384];
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => return true,
                Ok(count) => received.extend_from_slice(&buffer[..count]),
            }

            if received.windows(8).any(|window| window == b"the last") {
                return false;
            }
        }
    })
    .await
}

/// Returns the head of a request without further fields.
fn block(edge: &Edge, method: &str, path: &[u8]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in [
        (&b":method"[..], method.as_bytes()),
        (b":scheme", b"https"),
        (b":authority", edge.host.as_bytes()),
        (b":path", path),
    ] {
        block.push(0); // literal, not indexed, new name
        string(&mut block, name);
        string(&mut block, value);
    }

    block
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    out.extend(&(payload.len() as u32).to_be_bytes()[1..]);
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
}

/// Encodes a string without Huffman coding (RFC 7541 §5.2).
fn string(out: &mut Vec<u8>, text: &[u8]) {
    let mut length = text.len();
    if length < 127 {
        out.push(length as u8);
    } else {
        out.push(127);
        length -= 127;
        while length >= 128 {
            out.push((length % 128) as u8 | 128);
            length /= 128;
        }
        out.push(length as u8);
    }

    out.extend(text);
}

/// Returns `:status`, the first field: indexed, or a literal value for the indexed name 8, with or
/// without Huffman coding of its three digits.
fn status(block: &[u8]) -> u16 {
    let mut block = block;
    // Dynamic table size updates (RFC 7541 §6.3) may precede it.
    while block[0] & 0xe0 == 0x20 {
        block = &block[1..];
    }

    match block[0] {
        byte @ 0x88..=0x8e => [200, 204, 206, 304, 400, 404, 500][usize::from(byte - 0x88)],
        0x08 | 0x18 | 0x48 => {
            let length = usize::from(block[1] & 0x7f);
            let value = &block[2..2 + length];
            if block[1] & 0x80 == 0 {
                std::str::from_utf8(value).unwrap().parse().unwrap()
            } else {
                huffman(value)
            }
        }
        other => panic!("an answer that does not begin with its status: {other:#x}"),
    }
}

/// Decodes three digits in Huffman code: 0 to 2 have five bits (0 to 2), 3 to 9 six (0x19 to 0x1f).
fn huffman(bytes: &[u8]) -> u16 {
    let mut bits = bytes
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |bit| u16::from(byte >> bit & 1)));
    let mut number = 0;

    for _ in 0..3 {
        let mut code = 0;
        for _ in 0..5 {
            code = code << 1 | bits.next().unwrap();
        }

        let digit = if code <= 2 {
            code
        } else {
            (code << 1 | bits.next().unwrap()) - 0x19 + 3
        };
        number = number * 10 + digit;
    }

    number
}
