//! Heads of an exchange: binary, with names as written, in order.
//!
//! A field is `length, name, length, value`. The decoder returns slices of the frame.

mod delivery;
mod fields;
mod header_case;

use std::net::IpAddr;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, Method, StatusCode};

pub use self::delivery::DeliveryMeta;
use self::fields::{
    get_address, get_bytes, get_fields, get_keys, get_length, put_address, put_bytes, put_fields,
    put_keys, put_length, take,
};
pub use self::header_case::{HeaderCase, HeaderCaseBuilder};
use hookward_core::fetched_keys::FetchedKeys;
use hookward_core::reason::Code;

/// Id of a request, for both sides and the sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestId(pub [u8; 16]);

impl RequestId {
    /// Calls a function with the id in hexadecimal digits.
    fn with_digits<T>(self, use_digits: impl FnOnce(&str) -> T) -> T {
        let mut digits = [0; 32];
        data_encoding::HEXLOWER.encode_mut(&self.0, &mut digits);
        // Digits are ASCII.
        use_digits(std::str::from_utf8(&digits).unwrap_or_default())
    }
}

impl std::fmt::Display for RequestId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.with_digits(|digits| f.write_str(digits))
    }
}

impl serde::Serialize for RequestId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.with_digits(|digits| serializer.serialize_str(digits))
    }
}

/// Facts about a request that the relay adds for the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestMeta {
    /// Id of the request.
    pub id: RequestId,
    /// Public host, which names the tunnel.
    pub host: Bytes,
    /// Client address.
    pub client: IpAddr,
    /// Public keys that the relay fetched for this request.
    pub keys: FetchedKeys,
    /// Delivery that this request is an attempt of, on a route that stores webhooks.
    pub delivery: Option<DeliveryMeta>,
    /// Durations at the relay, for an agent that shows them.
    pub timing: Option<RelayTiming>,
}

/// Durations of a request at the relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelayTiming {
    /// Time to receive the body that checks read, in microseconds.
    pub receive_us: u32,
    /// Time of all else until the request is sent to an agent, in microseconds.
    pub gate_us: u32,
}

/// Head of a request in the tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExchangeRequest {
    /// Facts that the relay adds.
    pub meta: RequestMeta,
    /// Method of the request.
    pub method: Method,
    /// Path and query, as sent.
    pub target: Bytes,
    /// Length of the body, if known.
    pub length: Option<u64>,
    /// `true` if the sender accepts trailers.
    pub trailers: bool,
    /// `true` if the sender requests a WebSocket.
    pub upgrade: bool,
    /// Header fields.
    pub headers: HeaderMap,
    /// Names as written, in the order of `headers`; empty if all are lower case.
    pub header_case: HeaderCase,
}

/// Response of the agent: the application's head, or a failure that the relay words for the sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExchangeReply {
    /// Response of the application.
    Response(ExchangeResponse),
    /// Failure of the application, or refusal of the agent's gate.
    Failure(ExchangeFailure),
}

/// Head of the application's response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExchangeResponse {
    /// Status of the response.
    pub status: StatusCode,
    /// Length of the body, if known.
    pub length: Option<u64>,
    /// Header fields of the response.
    pub headers: HeaderMap,
}

/// Reason why there is no response of the application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExchangeFailure {
    /// Stable code of the failure.
    pub code: Code,
    /// Status, if it differs from the code's own.
    pub status: StatusCode,
}

/// A malformed head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed head: {0}")]
pub struct HeadError(pub(crate) &'static str);

impl ExchangeRequest {
    /// Encodes the head with the fields that `passes` accepts.
    #[must_use]
    pub fn encode(&self, passes: impl Fn(&HeaderName) -> bool) -> BytesMut {
        let mut buf = BytesMut::with_capacity(1024);
        buf.put_slice(&self.meta.id.0);
        put_bytes(&mut buf, &self.meta.host);
        put_address(&mut buf, self.meta.client);
        put_bytes(&mut buf, self.method.as_str().as_bytes());
        put_bytes(&mut buf, &self.target);
        put_length(&mut buf, self.length);

        let with_keys = !self.meta.keys.0.is_empty();
        buf.put_u8(
            (u8::from(self.trailers) * FLAG_TRAILERS)
                | (u8::from(self.upgrade) * FLAG_UPGRADE)
                | (u8::from(with_keys) * FLAG_KEYS)
                | (u8::from(self.meta.delivery.is_some()) * FLAG_DELIVERY)
                | (u8::from(self.meta.timing.is_some()) * FLAG_TIMING),
        );

        if with_keys {
            put_keys(&mut buf, &self.meta.keys);
        }
        if let Some(delivery) = &self.meta.delivery {
            delivery.put(&mut buf);
        }
        if let Some(timing) = &self.meta.timing {
            buf.put_u32(timing.receive_us);
            buf.put_u32(timing.gate_us);
        }

        let mut spelled = self.header_case.names();
        for (name, value) in &self.headers {
            let written = spelled.next();
            if passes(name) {
                put_bytes(&mut buf, written.unwrap_or(name.as_str().as_bytes()));
                put_bytes(&mut buf, value.as_bytes());
            }
        }

        buf
    }

    /// Returns a copy without the durations at the relay.
    #[must_use]
    pub fn without_timing(&self) -> Self {
        let mut copy = self.clone();
        copy.meta.timing = None;
        copy
    }

    /// Decodes a head.
    ///
    /// # Errors
    /// If it is malformed.
    pub fn decode(mut buf: Bytes) -> Result<Self, HeadError> {
        let id = take(&mut buf, 16)?;
        let id = RequestId(id.as_ref().try_into().map_err(|_| HeadError("id"))?);
        let host = get_bytes(&mut buf)?;
        let client = get_address(&mut buf)?;
        let method = Method::from_bytes(&get_bytes(&mut buf)?).map_err(|_| HeadError("method"))?;
        let target = get_bytes(&mut buf)?;
        let length = get_length(&mut buf)?;
        let flags = take(&mut buf, 1)?.get_u8();
        let keys = if flags & FLAG_KEYS == 0 {
            FetchedKeys::default()
        } else {
            get_keys(&mut buf)?
        };
        let delivery = match flags & FLAG_DELIVERY {
            0 => None,
            _ => Some(DeliveryMeta::get(&mut buf)?),
        };
        let timing = match flags & FLAG_TIMING {
            0 => None,
            _ => {
                let mut encoded = take(&mut buf, 8)?;
                Some(RelayTiming {
                    receive_us: encoded.get_u32(),
                    gate_us: encoded.get_u32(),
                })
            }
        };

        // The map iterates in the order of insertion if equal names are adjacent, and the encoder
        // writes them so.
        let mut spelling = HeaderCaseBuilder::new();
        let headers = get_fields(&mut buf, REQUEST_FIELDS, |written, name| {
            spelling.add(written, name)
        })?;

        Ok(Self {
            meta: RequestMeta {
                id,
                host,
                client,
                keys,
                delivery,
                timing,
            },
            method,
            target,
            length,
            trailers: flags & FLAG_TRAILERS != 0,
            upgrade: flags & FLAG_UPGRADE != 0,
            headers,
            header_case: spelling.finish(),
        })
    }
}

/// Flag: the sender accepts trailers.
const FLAG_TRAILERS: u8 = 1;

/// Flag: the request asks for a WebSocket.
const FLAG_UPGRADE: u8 = 2;

/// Flag: public keys follow the flags.
const FLAG_KEYS: u8 = 4;

/// Flag: a delivery follows the keys. The relay sets it only for tunnels whose agent has sent a
/// policy that stores webhooks.
const FLAG_DELIVERY: u8 = 8;

/// Flag: durations follow the delivery. The relay sets it only for agents that capture requests.
const FLAG_TIMING: u8 = 16;

/// Initial capacity of the map, which most requests and responses do not exceed.
const REQUEST_FIELDS: usize = 24;

impl ExchangeResponse {
    /// Encodes the head of a response with the fields that `passes` accepts.
    #[must_use]
    pub fn encode(&self, passes: impl Fn(&HeaderName) -> bool) -> BytesMut {
        let mut buf = BytesMut::with_capacity(512);
        buf.put_u8(KIND_RESPONSE);
        buf.put_u16(self.status.as_u16());
        put_length(&mut buf, self.length);
        put_fields(&mut buf, &self.headers, passes);
        buf
    }
}

const KIND_RESPONSE: u8 = 1;

impl ExchangeFailure {
    /// Encodes the head of a failure.
    #[must_use]
    pub fn encode(&self) -> BytesMut {
        let mut buf = BytesMut::with_capacity(64);
        buf.put_u8(KIND_FAILURE);
        buf.put_u16(self.status.as_u16());
        put_bytes(&mut buf, self.code.as_str().as_bytes());
        buf
    }
}

const KIND_FAILURE: u8 = 2;

impl ExchangeReply {
    /// Decodes the head of a response.
    ///
    /// # Errors
    /// If it is malformed.
    pub fn decode(mut buf: Bytes) -> Result<Self, HeadError> {
        let kind = take(&mut buf, 1)?.get_u8();
        let status =
            StatusCode::from_u16(take(&mut buf, 2)?.get_u16()).map_err(|_| HeadError("status"))?;

        match kind {
            KIND_RESPONSE => {
                let length = get_length(&mut buf)?;
                let headers = get_fields(&mut buf, RESPONSE_FIELDS, |_, _| {})?;
                Ok(Self::Response(ExchangeResponse {
                    status,
                    length,
                    headers,
                }))
            }
            KIND_FAILURE => {
                let text = get_bytes(&mut buf)?;
                let text = std::str::from_utf8(&text).map_err(|_| HeadError("code"))?;
                let text = serde::de::value::StrDeserializer::<serde::de::value::Error>::new(text);
                let code = serde::Deserialize::deserialize(text).map_err(|_| HeadError("code"))?;
                Ok(Self::Failure(ExchangeFailure { code, status }))
            }
            _ => Err(HeadError("kind")),
        }
    }
}

const RESPONSE_FIELDS: usize = 12;

/// Encodes trailers with the fields that `passes` accepts.
#[must_use]
pub fn encode_trailers(trailers: &HeaderMap, passes: impl Fn(&HeaderName) -> bool) -> BytesMut {
    let mut buf = BytesMut::new();
    put_fields(&mut buf, trailers, passes);
    buf
}

/// Decodes trailers.
///
/// # Errors
/// If they are malformed.
pub fn decode_trailers(mut buf: Bytes) -> Result<HeaderMap, HeadError> {
    get_fields(&mut buf, 0, |_, _| {})
}

#[cfg(test)]
mod tests {
    use hookward_core::clock::UnixMillis;
    use hookward_core::url::HttpsUrl;
    use uuid::Uuid;

    use super::*;

    fn request() -> ExchangeRequest {
        let mut headers = HeaderMap::new();
        headers.append("x-github-event", "push".parse().unwrap());
        headers.append("x-a", "1".parse().unwrap());
        headers.append("x-a", "2".parse().unwrap());

        ExchangeRequest {
            meta: RequestMeta {
                id: RequestId([7; 16]),
                host: Bytes::from_static(b"h.example"),
                client: "2001:db8::1".parse().unwrap(),
                keys: FetchedKeys(
                    [(
                        HttpsUrl::parse("https://k.example/").unwrap(),
                        b"pem".as_slice().into(),
                    )]
                    .into(),
                ),
                delivery: Some(DeliveryMeta {
                    id: Uuid::from_bytes([9; 16]),
                    attempt: 3,
                    redelivered: 1,
                    received: Some(UnixMillis(1_700_000_000_000)),
                    epoch: 7,
                }),
                timing: Some(RelayTiming {
                    receive_us: 1500,
                    gate_us: 70,
                }),
            },
            method: Method::POST,
            target: Bytes::from_static(b"/a?b"),
            length: Some(0),
            trailers: true,
            upgrade: false,
            headers,
            header_case: HeaderCase("X-GitHub-Event\nX-A\nx-a\n".into()),
        }
    }

    #[test]
    fn round_trip() {
        let request = request();
        assert_eq!(
            ExchangeRequest::decode(request.encode(|_| true).freeze()).unwrap(),
            request
        );

        let response = ExchangeResponse {
            status: StatusCode::CREATED,
            length: None,
            headers: request.headers,
        };
        assert_eq!(
            ExchangeReply::decode(response.encode(|_| true).freeze()).unwrap(),
            ExchangeReply::Response(response)
        );

        let failure = ExchangeFailure {
            code: Code::UpstreamTimeout,
            status: StatusCode::GATEWAY_TIMEOUT,
        };
        assert_eq!(
            ExchangeReply::decode(failure.encode().freeze()).unwrap(),
            ExchangeReply::Failure(failure)
        );
    }

    #[test]
    fn fields_of_one_name_stand_together() {
        let trailers = |names: &[&str]| {
            let mut buf = BytesMut::new();
            for name in names {
                put_bytes(&mut buf, name.as_bytes());
                put_bytes(&mut buf, b"1");
            }
            decode_trailers(buf.freeze())
        };
        assert!(trailers(&["p", "P", "x"]).is_ok());

        assert!(trailers(&["p", "x", "P"]).is_err());
    }

    #[test]
    fn a_left_out_field_takes_its_spelling_along() {
        let encoded = request().encode(|name| name != "x-github-event").freeze();
        let decoded = ExchangeRequest::decode(encoded).unwrap();
        assert_eq!(decoded.header_case, HeaderCase("X-A\nx-a\n".into()));
    }

    #[test]
    fn cut_or_changed_bytes_are_an_error_and_no_panic() {
        let whole = request().encode(|_| true).freeze();
        for cut in 0..whole.len() {
            let _ = ExchangeRequest::decode(whole.slice(..cut));
            let _ = ExchangeReply::decode(whole.slice(cut..));
            for bit in 0..8 {
                let mut changed = whole.to_vec();
                changed[cut] ^= 1 << bit;
                let _ = ExchangeRequest::decode(changed.into());
            }
        }
    }
}
