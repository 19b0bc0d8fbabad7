//! Formats of a signature's time.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::{Rfc2822, Rfc3339};

/// Format of a time: a number of units since 1970, or a date.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TimeUnit {
    /// Seconds since 1970.
    #[serde(rename = "s")]
    Seconds,
    /// Milliseconds since 1970.
    #[serde(rename = "ms")]
    Milliseconds,
    /// Date and time with an offset (RFC 3339).
    #[serde(rename = "iso8601")]
    Iso8601,
    /// Date and time (ISO 8601) in UTC, without an offset. Without a separator after it, bytes
    /// could move to the next value.
    #[serde(rename = "iso8601-utc")]
    Iso8601Utc,
    /// HTTP date (RFC 9110 §5.6.7).
    #[serde(rename = "http-date")]
    HttpDate,
}

impl TimeUnit {
    /// Parses a time to seconds since 1970. Returns `None` for another format.
    #[must_use]
    pub(crate) fn seconds(self, text: &str) -> Option<u64> {
        let number = || {
            text.parse::<u64>()
                .ok()
                .filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
        };

        let unix = |date: OffsetDateTime| u64::try_from(date.unix_timestamp()).ok();
        match self {
            Self::Seconds => number(),
            Self::Milliseconds => number().map(|number| number / 1000),
            Self::Iso8601 => OffsetDateTime::parse(text, &Rfc3339).ok().and_then(unix),
            Self::Iso8601Utc => {
                let date = OffsetDateTime::parse(&format!("{text}Z"), &Rfc3339);
                date.or_else(|_| OffsetDateTime::parse(text, &Rfc3339))
                    .ok()
                    .and_then(unix)
            }
            Self::HttpDate => OffsetDateTime::parse(text, &Rfc2822).ok().and_then(unix),
        }
    }

    /// Formats a time.
    #[must_use]
    pub(crate) fn write(self, seconds: u64) -> String {
        let date = || {
            let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
            OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH)
        };

        match self {
            Self::Seconds => seconds.to_string(),
            Self::Milliseconds => format!("{seconds}000"),
            Self::Iso8601 => date().format(&Rfc3339).unwrap_or_default(),
            Self::Iso8601Utc => date()
                .format(&Rfc3339)
                .unwrap_or_default()
                .trim_end_matches('Z')
                .to_owned(),
            Self::HttpDate => date()
                .format(&Rfc2822)
                .unwrap_or_default()
                .replace("+0000", "GMT"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_their_unit_says() {
        let at = 1_700_000_000;
        for (unit, text, expected) in [
            (TimeUnit::Seconds, "1700000000", Some(at)),
            (TimeUnit::Seconds, "+1700000000", None),
            (TimeUnit::Seconds, "1700000000.5", None),
            (TimeUnit::Milliseconds, "1700000000999", Some(at)),
            (TimeUnit::Iso8601, "2023-11-14T22:13:20Z", Some(at)),
            (
                TimeUnit::Iso8601,
                "2023-11-14T22:13:20.123456789Z",
                Some(at),
            ),
            (TimeUnit::Iso8601, "2023-11-14T15:13:20-07:00", Some(at)),
            (TimeUnit::Iso8601, "2023-11-14T22:13:20.5", None),
            (TimeUnit::Iso8601Utc, "2023-11-14T22:13:20.5", Some(at)),
            (TimeUnit::Iso8601Utc, "2023-11-14T22:13:20Z", Some(at)),
            (TimeUnit::Iso8601, "1700000000", None),
            (TimeUnit::Iso8601, "1969-12-31T23:59:59Z", None),
            (TimeUnit::Iso8601, "", None),
            (
                TimeUnit::HttpDate,
                "Tue, 14 Nov 2023 22:13:20 GMT",
                Some(at),
            ),
            (TimeUnit::HttpDate, "1700000000", None),
        ] {
            assert_eq!(unit.seconds(text), expected, "{text}");
        }

        for unit in [
            TimeUnit::Seconds,
            TimeUnit::Milliseconds,
            TimeUnit::Iso8601,
            TimeUnit::Iso8601Utc,
            TimeUnit::HttpDate,
        ] {
            assert_eq!(unit.seconds(&unit.write(at)), Some(at));
        }
    }
}
