//! Rates: so many requests in a span of time, with the whole of it as a burst (GCRA, the generic cell
//! rate algorithm: one number a source is enough, and no clock but the caller's `now`).

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::clock::UnixMillis;

/// The spans that a rate may have, in milliseconds.
const SPANS: [(&str, u64); 4] = [("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
/// Most requests of a rate: more is no rate, and the arithmetic stays exact.
const MOST: u32 = 1_000_000;

/// So many requests in a span of time, such as `100/s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rate {
    count: u32,
    span_ms: u64,
}

impl Rate {
    /// Reads `100/s`, `600/m`, `1000/h` or `5000/d`.
    ///
    /// # Errors
    /// A sentence that says what to write.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no rate such as 100/s, 600/m, 1000/h or 5000/d");
        let (count, unit) = text.split_once('/').ok_or_else(wrong)?;
        let count: u64 = count.parse().ok().filter(|count| *count > 0).ok_or_else(wrong)?;
        let count = u32::try_from(count).ok().filter(|count| *count <= MOST);
        let count = count.ok_or_else(|| format!("{text:?} is more than {MOST} requests"))?;
        let (_, span_ms) = SPANS.into_iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
        Ok(Self { count, span_ms })
    }

    /// So many requests a second.
    #[must_use]
    pub fn per_second(count: u32) -> Self {
        Self { count: count.clamp(1, MOST), span_ms: 1000 }
    }

    /// Requests a second, rounded up.
    #[must_use]
    pub fn a_second(self) -> u64 {
        (u64::from(self.count) * 1000).div_ceil(self.span_ms)
    }

    /// Judges one more request of a source. `spent_until` is what the source has used up, in microseconds
    /// since 1970; the new value comes back.
    ///
    /// # Errors
    /// Milliseconds after which the next one passes.
    pub fn admit(self, spent_until: u64, now: UnixMillis) -> Result<u64, u64> {
        let now = now.0.saturating_mul(1000);
        let span = self.span_ms * 1000;
        let cost = span / u64::from(self.count);
        let spent = spent_until.max(now) + cost;
        let over = (spent - now).saturating_sub(span);
        if over > 0 { Err(over.div_ceil(1000)) } else { Ok(spent) }
    }
}

/// Counts one kind of work against a rate.
#[derive(Debug, Default)]
pub struct Meter(AtomicU64);

impl Meter {
    /// Whether the work may be done now.
    pub fn admit(&self, rate: Rate, now: UnixMillis) -> bool {
        let admitted = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |spent| rate.admit(spent, now).ok());
        admitted.is_ok()
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = SPANS.into_iter().find(|(_, span)| *span == self.span_ms).map_or("s", |(name, _)| name);
        write!(f, "{}/{unit}", self.count)
    }
}

impl TryFrom<String> for Rate {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text)
    }
}

impl From<Rate> for String {
    fn from(rate: Rate) -> Self {
        rate.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_the_rate() {
        let rate = Rate::parse("10/s").unwrap();
        let mut spent = 0;
        let mut admitted = |at: u64| match rate.admit(spent, UnixMillis(at)) {
            Ok(next) => {
                spent = next;
                true
            }
            Err(_) => false,
        };
        assert_eq!((0..20).filter(|_| admitted(5000)).count(), 10);
        assert!(!admitted(5050), "half of one");
        assert!(admitted(5100), "one");
        assert!(!admitted(5100));
        assert_eq!((0..20).filter(|_| admitted(7000)).count(), 10, "all of them");
    }

    #[test]
    fn how_long_to_wait() {
        let rate = Rate::parse("1/m").unwrap();
        let spent = rate.admit(0, UnixMillis(0)).unwrap();
        assert_eq!(rate.admit(spent, UnixMillis(10_000)), Err(50_000));
        assert!(rate.admit(spent, UnixMillis(60_000)).is_ok());
    }

    #[test]
    fn rates_are_read_or_refused() {
        for good in ["1/s", "600/m", "1000000/h", "5/d"] {
            assert_eq!(Rate::parse(good).unwrap().to_string(), good);
        }
        for bad in ["", "0/s", "10", "10/", "/s", "-1/s", "10/w", "1000001/s", "10 / s"] {
            assert!(Rate::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(Rate::parse("90/m").unwrap().a_second(), 2);
    }
}
