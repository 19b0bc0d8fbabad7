//! Encoding of fields, lengths, keys and addresses.

use super::HeadError;
use crate::protocol::varint;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use hookward_core::fetched_keys::FetchedKeys;
use hookward_core::url::HttpsUrl;
use http::{HeaderMap, HeaderName, HeaderValue};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Maximum number of keys of one request: a policy rarely has two providers with published keys.
pub(super) const MAX_KEYS: u8 = 4;

pub(super) fn put_fields(
    buf: &mut BytesMut,
    headers: &HeaderMap,
    passes: impl Fn(&HeaderName) -> bool,
) {
    for (name, value) in headers {
        if passes(name) {
            put_bytes(buf, name.as_str().as_bytes());
            put_bytes(buf, value.as_bytes());
        }
    }
}

/// Decodes the remaining fields. Calls `each` with every name as written.
pub(super) fn get_fields(
    buf: &mut Bytes,
    usual: usize,
    mut each: impl FnMut(&[u8], &HeaderName),
) -> Result<HeaderMap, HeadError> {
    let mut headers = HeaderMap::with_capacity(usual);
    let mut last = Bytes::new();

    while buf.has_remaining() {
        let written = get_bytes(buf)?;
        let value = get_bytes(buf)?;
        let name = HeaderName::from_bytes(&written).map_err(|_| HeadError("field name"))?;
        let value = HeaderValue::from_maybe_shared(value).map_err(|_| HeadError("field value"))?;

        each(&written, &name);
        let again = headers
            .try_append(name, value)
            .map_err(|_| HeadError("too many fields"))?;

        // The map groups equal names, so names as written would no longer match their values.
        if again && !last.eq_ignore_ascii_case(&written) {
            return Err(HeadError("fields of one name stand apart"));
        }

        last = written;
    }

    Ok(headers)
}

pub(super) fn put_bytes(buf: &mut BytesMut, bytes: &[u8]) {
    varint::put(buf, bytes.len() as u64);
    buf.put_slice(bytes);
}

pub(super) fn get_bytes(buf: &mut Bytes) -> Result<Bytes, HeadError> {
    let length = varint::get_len(buf).ok_or(HeadError("length"))?;
    take(buf, length)
}

pub(super) fn take(buf: &mut Bytes, length: usize) -> Result<Bytes, HeadError> {
    if buf.len() < length {
        return Err(HeadError("it is cut short"));
    }
    Ok(buf.split_to(length))
}

/// Encodes an optional length: 0 for unknown, else the length plus one.
pub(super) fn put_length(buf: &mut BytesMut, length: Option<u64>) {
    varint::put(buf, length.map_or(0, |length| length.saturating_add(1)));
}

pub(super) fn get_length(buf: &mut Bytes) -> Result<Option<u64>, HeadError> {
    varint::get(buf)
        .map(|length| length.checked_sub(1))
        .ok_or(HeadError("body length"))
}

pub(super) fn put_keys(buf: &mut BytesMut, keys: &FetchedKeys) {
    let count = u8::try_from(keys.0.len()).unwrap_or(u8::MAX).min(MAX_KEYS);
    buf.put_u8(count);
    for (url, key) in keys.0.iter().take(usize::from(count)) {
        put_bytes(buf, url.to_string().as_bytes());
        put_bytes(buf, key);
    }
}

pub(super) fn get_keys(buf: &mut Bytes) -> Result<FetchedKeys, HeadError> {
    let count = take(buf, 1)?.get_u8();
    if count > MAX_KEYS {
        return Err(HeadError("keys"));
    }

    let mut keys = FetchedKeys::default();
    for _ in 0..count {
        let url = get_bytes(buf)?;
        let url = std::str::from_utf8(&url)
            .ok()
            .and_then(|text| HttpsUrl::parse(text).ok())
            .ok_or(HeadError("keys"))?;
        keys.0.insert(url, get_bytes(buf)?.as_ref().into());
    }

    Ok(keys)
}

pub(super) fn put_address(buf: &mut BytesMut, address: IpAddr) {
    match address {
        IpAddr::V4(v4) => put_bytes(buf, &v4.octets()),
        IpAddr::V6(v6) => put_bytes(buf, &v6.octets()),
    }
}

pub(super) fn get_address(buf: &mut Bytes) -> Result<IpAddr, HeadError> {
    let octets = get_bytes(buf)?;
    if let Ok(v4) = <[u8; 4]>::try_from(octets.as_ref()) {
        return Ok(IpAddr::V4(Ipv4Addr::from(v4)));
    }
    <[u8; 16]>::try_from(octets.as_ref())
        .map(|v6| IpAddr::V6(Ipv6Addr::from(v6)))
        .map_err(|_| HeadError("client address"))
}
