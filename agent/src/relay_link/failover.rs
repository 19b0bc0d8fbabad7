//! Schedule and purpose of searches for another connection while one is in use.

use std::time::Duration;

use tokio::time::Instant;

/// Reason to search for another connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProbeReason {
    /// To use QUIC, or the preferred address.
    Upgrade,
    /// To replace a connection that may be dead, because the machine was suspended or lost its
    /// address. Starts at the address of this position.
    Revalidate(usize),
    /// To leave a draining relay, for the address at this position.
    RelayDraining(usize),
}

/// Schedule of searches during one connection.
#[derive(Debug)]
pub(crate) struct ProbeSchedule {
    reason: ProbeReason,
    due: Option<Instant>,
    /// Number of failed searches for the current purpose.
    failed: u32,
    /// Time until the next search for a better connection.
    pause: Duration,
    /// `true` if a better connection is possible.
    better: bool,
    /// Position of its address after the preferred one, and the number of addresses.
    place: usize,
    addresses: usize,
}

impl ProbeSchedule {
    /// Creates the schedule for a connection to the address at this position. Searches for a better one
    /// after `pause`, if one is possible; earlier if this is not the preferred address.
    pub(crate) fn new(
        better: bool,
        place: usize,
        addresses: usize,
        pause: Duration,
        now: Instant,
    ) -> Self {
        let mut search = Self {
            reason: ProbeReason::Upgrade,
            due: None,
            failed: 0,
            pause,
            better,
            place,
            addresses,
        };
        search.want_better(now);

        search
    }

    fn want_better(&mut self, now: Instant) {
        (self.reason, self.failed) = (ProbeReason::Upgrade, 0);
        let pause = if self.place > 0 {
            PREFERRED_RETRY.min(self.pause)
        } else {
            self.pause
        };
        self.due = self.better.then(|| now + pause);
    }

    /// Returns the time of the next search.
    pub(crate) const fn due(&self) -> Option<Instant> {
        self.due
    }

    pub(crate) fn begin(&mut self) -> ProbeReason {
        self.due = None;
        self.reason
    }

    /// Notes that the connection may be dead. Returns `true` if this is new; a search in progress
    /// is then obsolete.
    pub(crate) fn revalidate(&mut self, now: Instant) -> bool {
        let is_new = self.reason == ProbeReason::Upgrade;
        if is_new {
            (self.reason, self.failed, self.due) =
                (ProbeReason::Revalidate(self.place), 0, Some(now));
        }
        is_new
    }

    /// Notes that the relay drains. Returns `true` if this is new, as above.
    pub(crate) fn leave_relay(&mut self, now: Instant) -> bool {
        let is_new = !matches!(self.reason, ProbeReason::RelayDraining(_));
        if is_new {
            (self.reason, self.failed, self.due) =
                (ProbeReason::RelayDraining(self.place + 1), 0, Some(now));
        }
        is_new
    }

    /// Notes a failed search. `jitter` is from 0.5 to 1, because all agents of a relay search at
    /// once.
    pub(crate) fn failed(&mut self, now: Instant, jitter: f64) {
        if self.due.is_some() {
            // The purpose has changed meanwhile.
            return;
        }

        self.failed = self.failed.saturating_add(1);
        let pause = match self.reason {
            ProbeReason::RelayDraining(place) => {
                self.reason = ProbeReason::RelayDraining(place + 1);
                let rounds = self.failed / u32::try_from(self.addresses).unwrap_or(u32::MAX).max(1);
                FIRST_PAUSE.mul_f64(jitter) * 2_u32.pow(rounds.min(ROUNDS))
            }
            ProbeReason::Revalidate(place) if self.failed < REVALIDATE_INTERVAL => {
                self.reason = ProbeReason::Revalidate(if place == 0 { self.place } else { 0 });
                FIRST_PAUSE
            }
            ProbeReason::Revalidate(_) => return self.want_better(now),
            ProbeReason::Upgrade if self.place > 0 && self.failed < PREFERRED_RETRIES => {
                PREFERRED_RETRY
            }
            ProbeReason::Upgrade => {
                self.pause = (self.pause * 2).min(MAX_PAUSE);
                self.pause
            }
        };
        self.due = Some(now + pause);
    }
}

/// Maximum pause between searches for a better connection.
const MAX_PAUSE: Duration = Duration::from_secs(600);

/// First pause of an urgent search: a draining relay ends within `drain` (10 s).
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// Number of rounds over all addresses of a draining relay, after each of which the pause doubles.
const ROUNDS: u32 = 3;

/// Number of searches each second after a suspend, or after the machine lost its address: a network
/// returns within seconds, or the connection is closed by then.
const REVALIDATE_INTERVAL: u32 = 10;

/// Pause before the preferred address is dialed again by a connection to another one. Senders there
/// wait 3 s for an agent (`reconnect_wait`).
const PREFERRED_RETRY: Duration = Duration::from_secs(2);

/// Number of such attempts. After them the cause is no restart, and the usual schedule applies.
const PREFERRED_RETRIES: u32 = 30;

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_secs(15);

    /// Returns the time in seconds and the purpose of each search; each fails at once.
    fn tried(search: &mut ProbeSchedule, begin: Instant, count: usize) -> Vec<(u64, ProbeReason)> {
        let mut tried = Vec::new();
        while let Some(due) = search.due().filter(|_| tried.len() < count) {
            tried.push((due.duration_since(begin).as_secs(), search.begin()));
            search.failed(due, 1.0);
        }
        tried
    }

    #[test]
    fn a_better_one_is_looked_for_more_and_more_rarely() {
        let now = Instant::now();
        let mut search = ProbeSchedule::new(true, 0, 2, PAUSE, now);
        let times: Vec<_> = tried(&mut search, now, 8)
            .into_iter()
            .map(|(at, _)| at)
            .collect();
        assert_eq!(times, [15, 45, 105, 225, 465, 945, 1545, 2145]);

        assert_eq!(
            ProbeSchedule::new(false, 0, 2, PAUSE, now).due(),
            None,
            "the best there is"
        );
    }

    #[test]
    fn the_wanted_address_is_tried_every_two_seconds_for_a_minute() {
        let now = Instant::now();
        let mut search = ProbeSchedule::new(true, 1, 2, PAUSE, now);
        let times: Vec<_> = tried(&mut search, now, 32)
            .into_iter()
            .map(|(at, _)| at)
            .collect();
        assert_eq!(times[..3], [2, 4, 6]);
        assert_eq!(times[29..], [60, 90, 150]);
    }

    #[test]
    fn after_sleep_it_is_tried_every_second_and_then_as_before() {
        let now = Instant::now();
        let mut search = ProbeSchedule::new(true, 0, 2, PAUSE, now);
        assert!(search.revalidate(now) && !search.revalidate(now));

        let all = tried(&mut search, now, 11);
        assert!(
            all[..10]
                .iter()
                .all(|(_, wanted)| *wanted == ProbeReason::Revalidate(0))
        );
        assert_eq!(
            (all[0].0, all[9].0, all[10]),
            (0, 9, (24, ProbeReason::Upgrade))
        );

        let mut best = ProbeSchedule::new(false, 0, 2, PAUSE, now);
        best.revalidate(now);
        assert_eq!(
            tried(&mut best, now, 20).len(),
            10,
            "then there is nothing better to look for"
        );

        let mut away = ProbeSchedule::new(true, 1, 2, PAUSE, now);
        away.revalidate(now);
        let wanted: Vec<_> = tried(&mut away, now, 3)
            .into_iter()
            .map(|(_, wanted)| wanted)
            .collect();
        assert_eq!(
            wanted,
            [
                ProbeReason::Revalidate(1),
                ProbeReason::Revalidate(0),
                ProbeReason::Revalidate(1)
            ],
            "the address in use first"
        );
    }

    #[test]
    fn a_relay_that_leaves_is_left_for_the_next_address_and_the_next() {
        let now = Instant::now();
        let mut search = ProbeSchedule::new(false, 1, 3, PAUSE, now);
        assert!(search.leave_relay(now) && !search.leave_relay(now) && !search.revalidate(now));

        let all = tried(&mut search, now, 3);
        assert_eq!(
            all,
            [
                (0, ProbeReason::RelayDraining(2)),
                (1, ProbeReason::RelayDraining(3)),
                (2, ProbeReason::RelayDraining(4))
            ]
        );

        let mut alone = ProbeSchedule::new(false, 0, 1, PAUSE, now);
        alone.leave_relay(now);
        let times: Vec<_> = tried(&mut alone, now, 6)
            .into_iter()
            .map(|(at, _)| at)
            .collect();
        assert_eq!(
            times,
            [0, 2, 6, 14, 22, 30],
            "probes of the only address become rarer"
        );
    }
}
