//! Trace ids of W3C Trace Context (www.w3.org/TR/trace-context).

use std::fmt;

/// Id of a distributed trace: 32 lower-case hexadecimal digits, not all zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceId([u8; DIGITS]);

const DIGITS: usize = 32;

impl TraceId {
    /// Parses the value of a `traceparent` field: `VERSION-TRACE-PARENT-FLAGS`. Returns `None` for a
    /// malformed value, which is then no trace.
    #[must_use]
    pub fn from_traceparent(value: &[u8]) -> Option<Self> {
        const VERSION: usize = 2;
        const PARENT: usize = 16;

        let mut parts = value.splitn(4, |byte| *byte == b'-');
        let (version, trace, parent) = (parts.next()?, parts.next()?, parts.next()?);
        parts.next()?;
        let is_hex = |part: &[u8], length| {
            part.len() == length
                && part
                    .iter()
                    .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        };

        let is_valid = is_hex(version, VERSION)
            && version != b"ff"
            && is_hex(trace, DIGITS)
            && is_hex(parent, PARENT)
            && trace.iter().any(|byte| *byte != b'0');
        trace.try_into().ok().filter(|_| is_valid).map(Self)
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.0).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_specification() {
        let value = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let trace = TraceId::from_traceparent(value).unwrap();
        assert_eq!(trace.to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");

        for bad in [
            &b"00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01"[..],
            b"00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            b"ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            b"00-\n-x-01",
            b"",
        ] {
            assert_eq!(TraceId::from_traceparent(bad), None);
        }
    }
}
