//! Status of all links for the user: the connected relays and their transports.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hookward_tunnel::transport::{PathStats, Session, Transport};

use crate::events::{Event, EventSink};
use crate::relay_link::{ConnectionError, OpenedTunnel};

/// Link: the relay's address and the link's number.
pub(crate) type LinkId = (String, usize);

/// Status of all links.
#[derive(Default)]
pub(crate) struct LinkStatus {
    // A std mutex: it guards small maps, and nothing waits while it is held.
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    open: BTreeMap<LinkId, Transport>,
    /// Sessions of open links, for measurements.
    sessions: BTreeMap<LinkId, Session>,
    /// Reported failures, and their time.
    events: BTreeMap<String, Instant>,
    /// Last failure of each transport, for each relay.
    failures: BTreeMap<(String, Transport), LinkFailure>,
    /// Relays that were reported as disconnected while others are connected.
    missing: BTreeSet<String>,
    /// Links whose relay reported that another instance serves the tunnels.
    elsewhere: BTreeSet<LinkId>,
    /// Links whose relay drains.
    leaving: BTreeSet<LinkId>,
}

/// An open link.
#[derive(Debug, Clone)]
pub(crate) struct LinkState {
    /// Address of the relay.
    pub relay: String,
    /// Number of the link.
    pub number: usize,
    pub transport: Transport,
    /// Measurements of the path, over QUIC.
    pub path: Option<PathStats>,
    /// `true` while another instance serves the tunnels.
    pub is_standby: bool,
    /// `true` while the relay drains.
    pub is_draining: bool,
}

/// Failure of an attempt over one transport.
struct LinkFailure {
    reason: String,
    refused: bool,
}

impl Inner {
    fn is_reached(&self, relay: &str) -> bool {
        self.open.keys().any(|(other, _)| other == relay)
    }

    /// Returns `true` if the link was open.
    fn close(&mut self, id: &LinkId) -> bool {
        self.forget(id);
        self.sessions.remove(id);
        self.open.remove(id).is_some()
    }

    /// Forgets what was reported for this link, so that its next connection reports it again.
    fn forget(&mut self, id: &LinkId) {
        self.elsewhere.remove(id);
        self.leaving.remove(id);
    }

    /// Describes this failure, together with the other transport's.
    fn summarize(&mut self, relay: &str, reason: &ConnectionError) -> String {
        let (transport, refused) = match reason {
            ConnectionError::Silent { transport, .. } => (*transport, false),
            ConnectionError::Connect { source, .. } => (
                Transport::Tcp,
                source.kind() == ErrorKind::ConnectionRefused,
            ),
            ConnectionError::Proxy { .. } | ConnectionError::NoRelay(_) => (Transport::Tcp, false),
            _ => {
                let reason = reason.to_string();
                return if reason.contains(relay) {
                    reason
                } else {
                    format!("the relay {relay}: {reason}")
                };
            }
        };

        self.failures.insert(
            (relay.to_owned(), transport),
            LinkFailure {
                reason: reason.to_string(),
                refused,
            },
        );

        let of = |transport| self.failures.get(&(relay.to_owned(), transport));
        match (of(Transport::Quic), of(Transport::Tcp)) {
            (Some(_), Some(tcp)) if tcp.refused => {
                format!(
                    "the relay {relay} does not answer over QUIC, and refuses connections over TCP: is it running?"
                )
            }
            (Some(quic), Some(tcp)) => format!("{}; and {}", quic.reason, tcp.reason),
            (one, other) => one
                .or(other)
                .map(|failure| failure.reason.clone())
                .unwrap_or_default(),
        }
    }
}

impl LinkStatus {
    /// Records that a link dials.
    pub(crate) fn dialing(&self, relay: &str, events: &EventSink) {
        if self.lock().open.is_empty() {
            events.emit(Event::Connecting {
                relay: relay.to_owned(),
            });
        }
    }

    /// Records an open link. Calls `tell` if the user must know: the relay or its transport has
    /// changed.
    pub(crate) fn open(
        &self,
        id: LinkId,
        transport: Transport,
        opened: &[OpenedTunnel],
        tell: &dyn Fn(OpenedTunnel),
    ) {
        let mut inner = self.lock();
        let changed = !inner
            .open
            .iter()
            .any(|((relay, _), by)| *relay == id.0 && *by == transport);

        inner.forget(&id);
        inner.missing.remove(&id.0);
        inner.open.insert(id.clone(), transport);
        inner.events.clear();
        inner.failures.retain(|(relay, _), _| *relay != id.0);
        drop(inner);

        if changed {
            opened.iter().cloned().for_each(tell);
        }
    }

    /// Returns the address of the first relay with an open link.
    pub(crate) fn first_connected(&self) -> Option<String> {
        let inner = self.lock();
        inner.open.keys().next().map(|(relay, _)| relay.clone())
    }

    /// Records the session of an open link.
    pub(crate) fn note_session(&self, id: LinkId, session: Session) {
        self.lock().sessions.insert(id, session);
    }

    /// Returns the open links.
    pub(crate) fn links(&self) -> Vec<LinkState> {
        let inner = self.lock();
        let state = |(id, transport): (&LinkId, &Transport)| LinkState {
            relay: id.0.clone(),
            number: id.1,
            transport: *transport,
            path: inner.sessions.get(id).and_then(Session::path_stats),
            is_standby: inner.elsewhere.contains(id),
            is_draining: inner.leaving.contains(id),
        };
        inner.open.iter().map(state).collect()
    }

    /// Records a closed link.
    pub(crate) fn closed(&self, id: &LinkId, reason: &ConnectionError, events: &EventSink) {
        let mut inner = self.lock();
        let leaving = inner.leaving.contains(id);
        let was_open = inner.close(id);
        let to_relay = inner
            .open
            .keys()
            .filter(|(relay, _)| *relay == id.0)
            .count();

        drop(inner);
        if !was_open || to_relay == 0 {
            self.failed(&id.0, reason, events);
        } else if !leaving {
            events.emit(Event::Note(format!(
                "lost a connection to {} ({reason}); {to_relay} more are open; dialing again",
                id.0
            )));
        }
    }

    /// Records that a link was given up.
    pub(crate) fn ended(&self, id: &LinkId) {
        self.lock().close(id);
    }

    /// Records a failed attempt. Reports it if no link to the relay is open, and not every time.
    pub(crate) fn failed(&self, relay: &str, reason: &ConnectionError, events: &EventSink) {
        let mut inner = self.lock();
        if inner.is_reached(relay) {
            return;
        }

        let reason = inner.summarize(relay, reason);
        if !inner.open.is_empty() {
            if inner.missing.insert(relay.to_owned()) {
                drop(inner);
                events.emit(Event::RelayDisconnected {
                    relay: relay.to_owned(),
                    reason,
                    permanent: false,
                });
            }

            return;
        }

        let now = Instant::now();
        inner
            .events
            .retain(|_, at| now.duration_since(*at) < REPEAT_INTERVAL);

        if inner.events.contains_key(&reason) || inner.events.len() >= MAX_FAILURES {
            return;
        }

        inner.events.insert(reason.clone(), now);
        drop(inner);
        events.emit(Event::Disconnected { reason });
    }

    /// Records that the relay drains. Each of its links calls this.
    pub(crate) fn set_draining(&self, id: &LinkId, events: &EventSink) {
        let relay = &id.0;
        let mut inner = self.lock();
        let known = is_of(&inner.leaving, relay);
        inner.leaving.insert(id.clone());
        drop(inner);

        if !known {
            events.emit(Event::Note(format!(
                "the relay {relay} is draining: it finishes requests in flight; dialing again"
            )));
        }
    }

    /// Records if another instance serves the tunnels. Each link of the relay calls this.
    pub(crate) fn set_standby(&self, id: &LinkId, stands_by: bool, events: &EventSink) {
        let relay = &id.0;
        let mut inner = self.lock();
        let before = is_of(&inner.elsewhere, relay);

        match stands_by {
            true => inner.elsewhere.insert(id.clone()),
            false => inner.elsewhere.remove(id),
        };

        let changed = before != is_of(&inner.elsewhere, relay);
        drop(inner);

        match (changed, stands_by) {
            (true, true) => events.emit(Event::Warning(format!(
                "another agent with the same credential has come to {relay} after this one, and gets the webhooks \
                 until it goes; with --pool on both they share them"
            ))),
            (true, false) => {
                events.emit(Event::Note(format!("this agent serves {relay} again")));
            }
            (false, _) => {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Time until the same failure is reported again.
const REPEAT_INTERVAL: Duration = Duration::from_secs(30);

/// Maximum number of remembered failures: two transports, some addresses of some relays.
const MAX_FAILURES: usize = 64;

/// Returns `true` if one of these links is one to this relay.
fn is_of(lines: &BTreeSet<LinkId>, relay: &str) -> bool {
    lines.iter().any(|(other, _)| other == relay)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events;

    fn silent(relay: &str, transport: Transport) -> ConnectionError {
        ConnectionError::Silent {
            address: relay.to_owned(),
            transport,
        }
    }

    fn messages(stream: &mut events::EventStream) -> Vec<String> {
        std::iter::from_fn(|| stream.try_next())
            .map(|report| crate::terminal::lines::text(&report.event, false))
            .collect()
    }

    #[test]
    fn each_failure_is_reported_once_and_a_missing_relay_by_name() {
        let (status, (events, mut stream)) = (LinkStatus::default(), events::channel());
        for _ in 0..3 {
            for transport in [Transport::Quic, Transport::Tcp] {
                status.failed("one:443", &silent("one:443", transport), &events);
            }
        }

        let two = messages(&mut stream);
        assert!(
            two.len() == 2 && two[1].contains("over QUIC; is UDP") && two[1].contains("over TCP;"),
            "{two:?}"
        );

        let source = ErrorKind::ConnectionRefused.into();
        let refused = ConnectionError::Connect {
            address: "one:443".to_owned(),
            source,
        };
        status.failed("one:443", &refused, &events);
        assert!(messages(&mut stream)[0].contains("is it running?"));

        let opened = OpenedTunnel {
            tunnel: 0,
            host: "h.example".to_owned(),
            port: 443,
            relay: "one:443".to_owned(),
            transport: Transport::Quic,
            stored_for: None,
        };

        let line = |relay: &str, number| (relay.to_owned(), number);
        let reports = std::cell::Cell::new(0);
        let tell = |_| reports.set(reports.get() + 1);

        for number in 0..2 {
            status.open(
                line("one:443", number),
                Transport::Quic,
                std::slice::from_ref(&opened),
                &tell,
            );
        }

        assert_eq!(reports.get(), 1);
        for _ in 0..2 {
            status.failed("two:443", &silent("two:443", Transport::Quic), &events);
        }

        let missing = messages(&mut stream);
        assert!(
            missing.len() == 1 && missing[0].contains("no connection to the relay two:443"),
            "{missing:?}"
        );

        let lost = || ConnectionError::Ended("over".to_owned());
        status.closed(&line("one:443", 0), &lost(), &events);
        assert!(
            messages(&mut stream)[0]
                .contains("lost a connection to one:443 (the tunnel's task ended: over); 1 more")
        );
        status.closed(&line("one:443", 1), &lost(), &events);

        let away = messages(&mut stream);
        assert!(
            away.len() == 1 && away[0].contains("the relay one:443: the tunnel's task ended"),
            "{away:?}"
        );
    }

    #[test]
    fn a_line_that_has_moved_from_a_relay_that_stops_is_lost_like_any_other() {
        let (status, (events, mut stream)) = (LinkStatus::default(), events::channel());
        let lines = [0, 1].map(|number| ("one:443".to_owned(), number));
        for line in &lines {
            status.open(line.clone(), Transport::Quic, &[], &|_| {});
        }

        for _ in 0..2 {
            lines
                .iter()
                .for_each(|line| status.set_draining(line, &events));
        }

        assert_eq!(messages(&mut stream).len(), 1);
        status.open(lines[0].clone(), Transport::Quic, &[], &|_| {});
        let lost = ConnectionError::Ended("over".to_owned());
        status.closed(&lines[0], &lost, &events);
        assert_eq!(
            messages(&mut stream).len(),
            1,
            "it is with another relay of that name"
        );

        status.open(lines[0].clone(), Transport::Quic, &[], &|_| {});
        status.closed(&lines[1], &lost, &events);
        assert_eq!(messages(&mut stream).len(), 0, "that was to be expected");
    }

    #[test]
    fn a_takeover_is_reported_once_for_each_relay() {
        let (status, (events, mut stream)) = (LinkStatus::default(), events::channel());
        for (line, stands_by) in [(0, false), (0, true), (1, true), (0, false), (1, false)] {
            status.set_standby(&("one:443".to_owned(), line), stands_by, &events);
        }

        let messages = messages(&mut stream);
        assert!(
            messages.len() == 2 && messages[0].contains("--pool") && messages[1].contains("serves"),
            "{messages:?}"
        );
    }
}
