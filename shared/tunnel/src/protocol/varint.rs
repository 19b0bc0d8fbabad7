//! Variable-length integers (RFC 9000 §16).

use bytes::{Buf, BufMut};

/// Largest value.
pub const MAX: u64 = (1 << 62) - 1;

/// Encodes a number. Truncates values above [`MAX`]; no length comes near.
pub(crate) fn put(buf: &mut impl BufMut, value: u64) {
    match value {
        0..=0x3f => buf.put_u8(value as u8),
        0x40..=0x3fff => buf.put_u16(value as u16 | 0x4000),
        0x4000..=0x3fff_ffff => buf.put_u32(value as u32 | 0x8000_0000),
        _ => buf.put_u64(value.min(MAX) | 0xc000_0000_0000_0000),
    }
}

/// Decodes a number. Returns `None`, without consuming bytes, if the buffer is too short.
pub(crate) fn get(buf: &mut impl Buf) -> Option<u64> {
    let first = *buf.chunk().first()?;
    let length = 1_usize << (first >> 6);
    if buf.remaining() < length {
        return None;
    }

    Some(match length {
        1 => u64::from(buf.get_u8()),
        2 => u64::from(buf.get_u16() & 0x3fff),
        4 => u64::from(buf.get_u32() & 0x3fff_ffff),
        _ => buf.get_u64() & MAX,
    })
}

/// Decodes a length that must fit into memory.
pub(crate) fn get_len(buf: &mut impl Buf) -> Option<usize> {
    get(buf).and_then(|value| usize::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_at_the_borders() {
        for value in [0, 0x3f, 0x40, 0x3fff, 0x4000, 0x3fff_ffff, 0x4000_0000, MAX] {
            let mut buf = Vec::new();
            put(&mut buf, value);
            for cut in 0..buf.len() {
                assert_eq!(get(&mut &buf[..cut]), None);
            }
            assert_eq!(get(&mut buf.as_slice()), Some(value));
        }
    }
}
