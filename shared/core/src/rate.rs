//! Rates: a number of requests in a period, all of which may arrive at once (GCRA, the generic cell
//! rate algorithm, which needs one number per client and only the caller's `now`).

use crate::reason::Reason;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::clock::SteadyMillis;

/// Number of requests in a period, such as `100/s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rate {
    count: u32,
    span_ms: u64,
}

impl Rate {
    /// Parses `100/s`, `600/m`, `1000/h` or `5000/d`.
    ///
    /// # Errors
    /// A sentence with the correct syntax.
    pub fn parse(text: &str) -> Result<Self, Reason> {
        let wrong = || format!("{text:?} is not a rate such as 100/s, 600/m, 1000/h or 5000/d");
        let (count, unit) = text.split_once('/').ok_or_else(wrong)?;
        let count: u64 = count
            .parse()
            .ok()
            .filter(|count| *count > 0)
            .ok_or_else(wrong)?;
        let count = u32::try_from(count)
            .ok()
            .filter(|count| *count <= MAX_COUNT);
        let count = count.ok_or_else(|| format!("{text:?} is more than {MAX_COUNT} requests"))?;

        let (_, span_ms) = SPANS
            .into_iter()
            .find(|(name, _)| *name == unit)
            .ok_or_else(wrong)?;

        Ok(Self { count, span_ms })
    }

    /// Creates a rate of `count` requests a second.
    #[must_use]
    pub fn per_second(count: u32) -> Self {
        Self {
            count: count.clamp(1, MAX_COUNT),
            span_ms: 1000,
        }
    }

    /// Creates a rate of `count` requests a minute.
    #[must_use]
    pub fn per_minute(count: u32) -> Self {
        Self {
            count: count.clamp(1, MAX_COUNT),
            span_ms: 60_000,
        }
    }

    /// Returns the cost of one request, in microseconds.
    #[must_use]
    pub fn cost(self) -> u64 {
        self.span_ms * 1000 / u64::from(self.count)
    }

    /// Returns the requests a second, rounded up.
    #[must_use]
    pub fn per_second_limit(self) -> u64 {
        (u64::from(self.count) * 1000).div_ceil(self.span_ms)
    }

    /// Admits a request of a client. `spent_until` is the client's spent time, in microseconds of the
    /// same clock as `now`. Returns its new value.
    ///
    /// # Errors
    /// Milliseconds after which the next request is admitted.
    pub fn admit(self, spent_until: u64, now: SteadyMillis) -> Result<u64, u64> {
        let now = now.0.saturating_mul(1000);
        let span = self.span_ms * 1000;
        let spent = spent_until.max(now) + self.cost();
        let over = (spent - now).saturating_sub(span);
        if over > 0 {
            Err(over.div_ceil(1000))
        } else {
            Ok(spent)
        }
    }
}

/// Periods of a rate, in milliseconds.
const SPANS: [(&str, u64); 4] = [
    ("s", 1000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
];

/// Maximum count of a rate, with which the arithmetic stays exact.
const MAX_COUNT: u32 = 1_000_000;

/// Meter of bytes a second for one kind of work.
#[derive(Debug)]
pub struct ByteMeter {
    a_second: u64,
    /// Spent time of the meter, in microseconds of the clock.
    spent: AtomicU64,
}

impl ByteMeter {
    /// Creates a meter of this many bytes a second, with a burst of two seconds.
    #[must_use]
    pub const fn new(a_second: u64) -> Self {
        Self {
            a_second,
            spent: AtomicU64::new(0),
        }
    }

    /// Returns `true` if the meter has bytes left.
    #[must_use]
    pub fn has_room(&self, now: SteadyMillis) -> bool {
        self.spent.load(Ordering::Relaxed) <= now.0.saturating_mul(1000).saturating_add(1_000_000)
    }

    /// Counts processed bytes.
    pub fn spend(&self, bytes: u64, now: SteadyMillis) {
        let cost = bytes.saturating_mul(1_000_000) / self.a_second.max(1);
        let now = now.0.saturating_mul(1000);
        let update = |spent: u64| Some(spent.max(now).saturating_add(cost));
        // The closure always returns a value.
        let _ = self
            .spent
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, update);
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = SPANS
            .into_iter()
            .find(|(_, span)| *span == self.span_ms)
            .map_or("s", |(name, _)| name);
        write!(f, "{}/{unit}", self.count)
    }
}

impl TryFrom<String> for Rate {
    type Error = Reason;

    fn try_from(text: String) -> Result<Self, Reason> {
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
        let mut admitted = |at: u64| match rate.admit(spent, SteadyMillis(at)) {
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
        assert_eq!(
            (0..20).filter(|_| admitted(7000)).count(),
            10,
            "all of them"
        );
    }

    #[test]
    fn how_long_to_wait() {
        let rate = Rate::parse("1/m").unwrap();
        let spent = rate.admit(0, SteadyMillis(0)).unwrap();
        assert_eq!(rate.admit(spent, SteadyMillis(10_000)), Err(50_000));
        assert!(rate.admit(spent, SteadyMillis(60_000)).is_ok());
    }

    #[test]
    fn bytes_of_a_second() {
        let meter = ByteMeter::new(1000);
        meter.spend(500, SteadyMillis(0));
        assert!(meter.has_room(SteadyMillis(0)));
        meter.spend(2000, SteadyMillis(0));
        assert!(!meter.has_room(SteadyMillis(0)) && !meter.has_room(SteadyMillis(1000)));
        assert!(meter.has_room(SteadyMillis(1500)));
    }

    #[test]
    fn rates_are_read_or_refused() {
        for good in ["1/s", "600/m", "1000000/h", "5/d"] {
            assert_eq!(Rate::parse(good).unwrap().to_string(), good);
        }

        for bad in [
            "",
            "0/s",
            "10",
            "10/",
            "/s",
            "-1/s",
            "10/w",
            "1000001/s",
            "10 / s",
        ] {
            assert!(Rate::parse(bad).is_err(), "{bad}");
        }

        assert_eq!(Rate::parse("90/m").unwrap().per_second_limit(), 2);
    }
}
