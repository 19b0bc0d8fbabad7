//! Whether the application takes connections and answers: said when it stops, and when it does
//! again.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::application::Application;
use crate::events::{Event, EventSink};
use hookward_core::limits::UPSTREAM_CONNECT_TIMEOUT;

/// Last reported health.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HealthStatus {
    /// Nothing, or that it is well.
    Healthy,
    /// The application accepts no connection.
    Unreachable,
    /// The application does not answer.
    Unresponsive,
}

/// Health of the application.
pub(crate) struct UpstreamHealth {
    reported: watch::Sender<HealthStatus>,
    /// `true` if it has accepted a connection or answered since the last check.
    met: AtomicBool,
    answers: AtomicU64,
    fell: Notify,
    events: EventSink,
}

impl UpstreamHealth {
    /// Nothing is known yet.
    #[must_use]
    pub(crate) fn new(reporter: EventSink) -> Self {
        let (told, _) = watch::channel(HealthStatus::Healthy);
        Self {
            reported: told,
            met: AtomicBool::new(false),
            answers: AtomicU64::new(0),
            fell: Notify::new(),
            events: reporter,
        }
    }

    /// A connection was made, or failed for this reason.
    pub(crate) fn connected(&self, application: &Application, failure: Option<&str>) {
        let Some(reason) = failure else {
            self.met.store(true, Ordering::Relaxed);
            // One that does not answer takes connections, too: it is well only when it answers.
            if self.change(HealthStatus::Unreachable, HealthStatus::Healthy) {
                self.events.emit(Event::Note(format!(
                    "the application at {application} takes connections now"
                )));
            }

            return;
        };

        if self.report(HealthStatus::Unreachable) {
            let what = format!(
                "the application at {application} is unreachable ({reason}); webhooks get 502"
            );
            self.events.emit(Event::Warning(what));
            self.fell.notify_one();
        }
    }

    pub(crate) fn answered(&self, application: &Application) {
        self.met.store(true, Ordering::Relaxed);
        self.answers.fetch_add(1, Ordering::Relaxed);
        if !self.is(HealthStatus::Healthy) && self.report(HealthStatus::Healthy) {
            self.events.emit(Event::Note(format!(
                "the application at {application} is reachable again"
            )));
        }
    }

    /// Returns the last reported health, and its changes.
    pub(crate) fn told(&self) -> watch::Receiver<HealthStatus> {
        self.reported.subscribe()
    }

    /// Answers so far: for who begins to wait for one.
    pub(crate) fn answers(&self) -> u64 {
        self.answers.load(Ordering::Relaxed)
    }

    /// Records a timeout, with the number of responses when the wait began. One slow resource
    /// beside others is no failure.
    pub(crate) fn silent(&self, application: &Application, patience: Duration, answers: u64) {
        if self.answers() == answers
            && self.change(HealthStatus::Healthy, HealthStatus::Unresponsive)
        {
            let what = format!(
                "the application at {application} has not answered within {} s; webhooks get 504",
                patience.as_secs_f64()
            );
            self.events.emit(Event::Warning(what));
        }
    }

    /// Asks at the start, while the application is down, and when nothing was heard of it for a
    /// while, until `stop` is cancelled.
    pub(crate) async fn watch(&self, application: &Application, stop: &CancellationToken) {
        loop {
            if !self.met.swap(false, Ordering::Relaxed) {
                let connecting = timeout(UPSTREAM_CONNECT_TIMEOUT, application.connect());
                let connected = tokio::select! {
                    connected = connecting => connected,
                    () = stop.cancelled() => return,
                };
                let failure = match connected {
                    Ok(connected) => connected.err().map(|error| error.to_string()),
                    Err(_) => Some("no answer".to_owned()),
                };
                self.connected(application, failure.as_deref());

                // This was no sign of life of its own.
                self.met.store(false, Ordering::Relaxed);
            }

            let next = async {
                if self.is(HealthStatus::Unreachable) {
                    sleep(RETRY_INTERVAL).await;
                } else {
                    let _ = timeout(IDLE, self.fell.notified()).await;
                }
            };
            tokio::select! {
                () = next => {}
                () = stop.cancelled() => return,
            }
        }
    }

    fn is(&self, told: HealthStatus) -> bool {
        *self.reported.borrow() == told
    }

    /// Returns `true` if the health was `from` until now.
    fn change(&self, from: HealthStatus, to: HealthStatus) -> bool {
        self.reported
            .send_if_modified(|told| *told == from && std::mem::replace(told, to) != to)
    }

    /// Returns `true` if the health changed.
    fn report(&self, told: HealthStatus) -> bool {
        self.reported
            .send_if_modified(|before| std::mem::replace(before, told) != told)
    }
}

/// Interval of tests of an unreachable application.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Idle time after which an application is tested, so that its end is reported before the next
/// webhook.
const IDLE: Duration = Duration::from_secs(10);
