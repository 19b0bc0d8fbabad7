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

/// Time of a renewal in the window that the server suggests (RFC 9773 §4.2), and before the last tenth
/// of the certificate's life.
pub(super) fn suggested_time(
    (start, end): (i64, i64),
    (not_before, not_after): (i64, i64),
    random: f64,
) -> i64 {
    let length = end.saturating_sub(start).max(0) as f64;
    let life = not_after.saturating_sub(not_before).max(0);
    let latest = not_after.saturating_sub(life / 10);
    start.saturating_add((length * random) as i64).min(latest)
}

/// Wait after failures in a row: 1, 4, 16 minutes and so on up to 8 hours, half of it random. A server
/// that limits the rate may demand more. With a certificate, the relay tries several times before the
/// end, which is `left` seconds away.
pub(super) fn retry_wait(
    failures: u32,
    server: Option<Duration>,
    left: Option<i64>,
    random: f64,
) -> Duration {
    let exponent = failures.saturating_sub(1).min(MAX_EXPONENT);
    let longest = (FIRST_WAIT * 4_u32.pow(exponent)).min(LONGEST_WAIT);
    let own = longest.mul_f64(0.5 + random / 2.0);
    let most = left.map_or(MAX_SERVER_WAIT, |left| {
        let left = u64::try_from(left).unwrap_or_default();
        Duration::from_secs(left / 8).max(FIRST_WAIT)
    });
    own.max(server.unwrap_or_default())
        .min(MAX_SERVER_WAIT.min(most))
}

/// Shortest time between two certificates of a name: a clock that is ahead, or a server whose
/// certificates end at once, must not cause an order a second.
pub(super) fn shortest_gap(not_before: i64, not_after: i64) -> Duration {
    let life = u64::try_from(not_after.saturating_sub(not_before)).unwrap_or_default();
    Duration::from_secs(life / 4).min(LONGEST_GAP)
}

/// Part of its life by which a certificate may be renewed earlier.
const JITTER_SHARE: i64 = 30;

/// Wait after the first failure.
const FIRST_WAIT: Duration = Duration::from_secs(60);

/// Longest wait of the relay's own. Let's Encrypt accepts 5 failures an hour for each name.
const LONGEST_WAIT: Duration = Duration::from_secs(8 * 3600);

/// Upper bound of [`shortest_gap`].
const LONGEST_GAP: Duration = Duration::from_secs(3600);

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
        let minutes = |failures| retry_wait(failures, None, None, 1.0).as_secs() / 60;
        assert_eq!(
            [1, 2, 3, 4, 5, 6, 99].map(minutes),
            [1, 4, 16, 64, 256, 480, 480]
        );
        assert_eq!(retry_wait(1, None, None, 0.0), FIRST_WAIT / 2);
        let server = Some(Duration::from_secs(3 * 86_400));
        let near_end = retry_wait(9, server, Some(8 * 3600), 1.0);
        assert_eq!(near_end, Duration::from_secs(3600));
        assert_eq!(retry_wait(9, server, Some(-5), 1.0), FIRST_WAIT);
        assert_eq!(
            retry_wait(1, server, None, 0.0),
            Duration::from_secs(3 * 86_400)
        );
    }

    #[test]
    fn a_suggestion_is_within_the_life() {
        let life = (0, 1000);
        assert_eq!(suggested_time((400, 600), life, 0.5), 500);
        assert_eq!(suggested_time((-400, -300), life, 0.0), -400);
        assert_eq!(suggested_time((1 << 40, 1 << 41), life, 0.5), 900);
        assert_eq!(shortest_gap(0, 1000), Duration::from_secs(250));
        assert_eq!(shortest_gap(0, 90 * 86_400), LONGEST_GAP);
    }
}
