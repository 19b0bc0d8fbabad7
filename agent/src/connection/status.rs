//! What the lines do, summed up for the user: which relays are reached, and by what.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hookward_shared::transport::Transport;

use super::{ConnectionError, Opened};
use crate::report::{Report, Reporter};

/// The same failure is told again after this.
const AGAIN: Duration = Duration::from_secs(30);
/// Failures that are remembered: attempts over two transports, to some addresses of some relays.
const FAILURES: usize = 64;

/// Which line: the relay's address and the line's number.
pub type LineId = (String, usize);

/// What the lines do.
#[derive(Default)]
pub struct Status {
    // A std mutex: it guards small maps, and nothing waits while it is held.
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    open: BTreeMap<LineId, Transport>,
    /// Failures that were told, and when.
    told: BTreeMap<String, Instant>,
    /// Relays of which was told that no connection to them is open, while there is one to another.
    missing: BTreeSet<String>,
    /// Relays at which another run of the agent's program has the tunnels.
    elsewhere: BTreeSet<String>,
}

impl Inner {
    fn is_reached(&self, relay: &str) -> bool {
        self.open.keys().any(|(other, _)| other == relay)
    }

    /// Whether it was open.
    fn close(&mut self, id: &LineId) -> bool {
        let was_open = self.open.remove(id).is_some();
        if !self.is_reached(&id.0) {
            // The relay says anew who has the tunnels.
            self.elsewhere.remove(&id.0);
        }
        was_open
    }
}

impl Status {
    /// A line is being dialled.
    pub fn dialling(&self, relay: &str, reporter: &Reporter) {
        if self.lock().open.is_empty() {
            reporter.say(Report::Connecting { relay: relay.to_owned() });
        }
    }

    /// A line is open. `tell` is called for what the user has to hear again: the relay, or what carries it, is
    /// another than before.
    pub fn open(&self, id: LineId, transport: Transport, opened: &[Opened], tell: &dyn Fn(Opened)) {
        let mut inner = self.lock();
        let news = !inner.open.iter().any(|((relay, _), by)| *relay == id.0 && *by == transport);
        inner.missing.remove(&id.0);
        inner.open.insert(id, transport);
        inner.told.clear();
        drop(inner);
        if news {
            opened.iter().cloned().for_each(tell);
        }
    }

    /// A line is gone.
    pub fn closed(&self, id: &LineId, why: &ConnectionError, reporter: &Reporter) {
        let mut inner = self.lock();
        let was_open = inner.close(id);
        let to_relay = inner.open.keys().filter(|(relay, _)| *relay == id.0).count();
        drop(inner);
        if was_open && to_relay > 0 {
            reporter.say(Report::Note(format!(
                "a connection to {} was lost ({why}); {to_relay} more carry on, and it is dialled again",
                id.0
            )));
        } else {
            self.failed(&id.0, why, reporter);
        }
    }

    /// A line is given up.
    pub fn ended(&self, id: &LineId) {
        self.lock().close(id);
    }

    /// An attempt to reach this relay failed. It is told where no line to it is open, and not every time.
    pub fn failed(&self, relay: &str, why: &ConnectionError, reporter: &Reporter) {
        let mut inner = self.lock();
        if inner.is_reached(relay) {
            return;
        }
        let why = why.to_string();
        let why = if why.contains(relay) { why } else { format!("the relay {relay}: {why}") };
        if !inner.open.is_empty() {
            if inner.missing.insert(relay.to_owned()) {
                drop(inner);
                reporter.say(Report::Warning(format!(
                    "no connection to the relay {relay} ({why}): webhooks that reach it get 503. Other relays carry \
                     on, and it is dialled again"
                )));
            }
            return;
        }
        let now = Instant::now();
        inner.told.retain(|_, at| now.duration_since(*at) < AGAIN);
        if inner.told.contains_key(&why) || inner.told.len() >= FAILURES {
            return;
        }
        inner.told.insert(why.clone(), now);
        drop(inner);
        reporter.say(Report::Away { why });
    }

    /// The relay says whether another run of the agent's program has the tunnels. Each of its lines tells it.
    pub fn stands_by(&self, relay: &str, stands_by: bool, reporter: &Reporter) {
        let mut inner = self.lock();
        let news = match stands_by {
            true => inner.elsewhere.insert(relay.to_owned()),
            false => inner.elsewhere.remove(relay),
        };
        drop(inner);
        match (news, stands_by) {
            (true, true) => reporter.say(Report::Warning(format!(
                "another agent with the same credential has come to {relay} after this one, and gets the webhooks \
                 until it goes; with --pool on both they share them"
            ))),
            (true, false) => {
                reporter.say(Report::Note(format!("the other agent has gone: webhooks of {relay} come here again")));
            }
            (false, _) => {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report;

    fn silent(relay: &str, transport: Transport) -> ConnectionError {
        ConnectionError::Silent { address: relay.to_owned(), transport }
    }

    fn said(reports: &mut report::Reports) -> Vec<String> {
        std::iter::from_fn(|| reports.next_at_once()).map(|report| crate::terminal::lines::text(&report)).collect()
    }

    #[test]
    fn each_failure_is_told_once_and_a_relay_that_is_missing_beside_others_by_its_name() {
        let (status, (reporter, mut reports)) = (Status::default(), report::channel());
        for _ in 0..3 {
            for transport in [Transport::Quic, Transport::Tcp] {
                status.failed("one:443", &silent("one:443", transport), &reporter);
            }
        }
        assert_eq!(said(&mut reports).len(), 2, "one of each transport");
        let opened = Opened {
            tunnel: 0,
            host: "h.example".to_owned(),
            port: 443,
            relay: "one:443".to_owned(),
            transport: Transport::Quic,
        };
        let line = |relay: &str, number| (relay.to_owned(), number);
        let told = std::cell::Cell::new(0);
        let tell = |_| told.set(told.get() + 1);
        for number in 0..2 {
            status.open(line("one:443", number), Transport::Quic, std::slice::from_ref(&opened), &tell);
        }
        assert_eq!(told.get(), 1);
        for _ in 0..2 {
            status.failed("two:443", &silent("two:443", Transport::Quic), &reporter);
        }
        let missing = said(&mut reports);
        assert!(missing.len() == 1 && missing[0].contains("no connection to the relay two:443"), "{missing:?}");
        let lost = || ConnectionError::Ended("over".to_owned());
        status.closed(&line("one:443", 0), &lost(), &reporter);
        assert!(
            said(&mut reports)[0].contains("a connection to one:443 was lost (the tunnel's task ended: over); 1 more")
        );
        status.closed(&line("one:443", 1), &lost(), &reporter);
        let away = said(&mut reports);
        assert!(away.len() == 1 && away[0].contains("the relay one:443: the tunnel's task ended"), "{away:?}");
    }

    #[test]
    fn that_another_agent_has_the_tunnels_is_told_once_for_each_relay() {
        let (status, (reporter, mut reports)) = (Status::default(), report::channel());
        for stands_by in [false, true, true, false, false] {
            status.stands_by("one:443", stands_by, &reporter);
        }
        let said = said(&mut reports);
        assert!(said.len() == 2 && said[0].contains("--pool") && said[1].contains("come here again"), "{said:?}");
    }
}
