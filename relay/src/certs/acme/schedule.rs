//! Times of renewals and retries. Pure: times and random numbers come in, times come out.

use std::time::Duration;

/// Time at which a certificate is renewed, in seconds since 1970: two thirds of its life, less a
/// part that spreads renewals. `random` is from 0 to 1.
pub(super) fn renewal_time(not_before: i64, not_after: i64, random: f64) -> i64 {
    let life = not_after.saturating_sub(not_before).max(0);
    let jitter = (life / JITTER_SHARE) as f64 * random;
    not_before
        .saturating_add(life / 3 * 2)
        .saturating_sub(jitter as i64)
}

/// Time of a renewal in the window that the server suggests (RFC 9773 §4.2).
pub(super) fn suggested_time(start: i64, end: i64, random: f64) -> i64 {
    let length = end.saturating_sub(start).max(0) as f64;
    start.saturating_add((length * random) as i64)
}

/// Wait after failures in a row: 1, 4, 16 minutes and so on up to 8 hours, the half of it random. A
/// server that limits the rate may demand more.
pub(super) fn retry_wait(failures: u32, server: Option<Duration>, random: f64) -> Duration {
    let exponent = failures.saturating_sub(1).min(MAX_EXPONENT);
    let longest = (FIRST_WAIT * 4_u32.pow(exponent)).min(LONGEST_WAIT);
    let own = longest.mul_f64(0.5 + random / 2.0);
    own.max(server.unwrap_or_default()).min(MAX_SERVER_WAIT)
}

/// Part of its life by which a certificate may be renewed earlier.
const JITTER_SHARE: i64 = 30;

/// Wait after the first failure.
const FIRST_WAIT: Duration = Duration::from_secs(60);

/// Longest wait of the relay's own. Let's Encrypt accepts 5 failures an hour for each name.
const LONGEST_WAIT: Duration = Duration::from_secs(8 * 3600);

/// Longest wait that the server may demand: its limits are by the week.
const MAX_SERVER_WAIT: Duration = Duration::from_secs(7 * 86_400);

/// Exponent beyond which waits are the longest.
const MAX_EXPONENT: u32 = 6;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renewal_is_at_two_thirds_of_life() {
        const DAY: i64 = 86_400;
        assert_eq!(renewal_time(0, 90 * DAY, 0.0), 60 * DAY);
        assert_eq!(renewal_time(0, 90 * DAY, 1.0), 57 * DAY);
        assert_eq!(renewal_time(0, 6 * DAY, 0.0), 4 * DAY);
        assert_eq!(renewal_time(10, 5, 1.0), 10);
    }

    #[test]
    fn retries_wait_longer_and_longer() {
        let minutes = |failures| retry_wait(failures, None, 1.0).as_secs() / 60;
        assert_eq!(
            [1, 2, 3, 4, 5, 6, 99].map(minutes),
            [1, 4, 16, 64, 256, 480, 480]
        );
        assert_eq!(retry_wait(1, None, 0.0), FIRST_WAIT / 2);
        let server = Some(Duration::from_secs(3 * 86_400));
        assert_eq!(retry_wait(1, server, 0.0), Duration::from_secs(3 * 86_400));
    }
}
