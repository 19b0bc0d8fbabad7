//! Health of the application: reports when it becomes unreachable or unresponsive, and when it
//! recovers.

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
    /// Healthy, or not yet known.
    Healthy,
    /// The application accepts no connection.
    Unreachable,
    /// The application does not respond.
    Unresponsive,
}

/// Health of the application.
pub(crate) struct UpstreamHealth {
    reported: watch::Sender<HealthStatus>,
    /// `true` if it has accepted a connection or responded since the last check.
    met: AtomicBool,
    answers: AtomicU64,
    fell: Notify,
    events: EventSink,
}

impl UpstreamHealth {
    /// Creates the health of an application, not yet known.
    #[must_use]
    pub(crate) fn new(events: EventSink) -> Self {
        let (status, _) = watch::channel(HealthStatus::Healthy);
        Self {
            reported: status,
            met: AtomicBool::new(false),
            answers: AtomicU64::new(0),
            fell: Notify::new(),
            events,
        }
    }

    /// Records a connection, or the reason of its failure.
    pub(crate) fn connected(&self, application: &Application, failure: Option<&str>) {
        let Some(reason) = failure else {
            self.met.store(true, Ordering::Relaxed);
            // An unresponsive application accepts connections, too: only a response makes it
            // healthy.
            if self.change(HealthStatus::Unreachable, HealthStatus::Healthy) {
                self.emit(
                    application,
                    true,
                    format!("the application at {application} now accepts connections"),
                );
            }

            return;
        };

        if self.report(HealthStatus::Unreachable) {
            let what = format!(
                "the application at {application} is unreachable ({reason}); webhooks that the relay does not store get 502"
            );
            self.emit(application, false, what);
            self.fell.notify_one();
        }
    }

    pub(crate) fn answered(&self, application: &Application) {
        self.met.store(true, Ordering::Relaxed);
        self.answers.fetch_add(1, Ordering::Relaxed);
        if !self.is(HealthStatus::Healthy) && self.report(HealthStatus::Healthy) {
            self.emit(
                application,
                true,
                format!("the application at {application} is reachable again"),
            );
        }
    }

    /// Returns the last reported health, and its changes.
    pub(crate) fn events(&self) -> watch::Receiver<HealthStatus> {
        self.reported.subscribe()
    }

    /// Returns the number of responses so far, for a wait that starts now.
    pub(crate) fn answers(&self) -> u64 {
        self.answers.load(Ordering::Relaxed)
    }

    /// Records a timeout, with the number of responses when the wait started. One slow resource
    /// beside others is no failure.
    pub(crate) fn silent(&self, application: &Application, patience: Duration, answers: u64) {
        if self.answers() == answers
            && self.change(HealthStatus::Healthy, HealthStatus::Unresponsive)
        {
            let what = format!(
                "the application at {application} has not answered within {} s; webhooks that the relay does not store get 504",
                patience.as_secs_f64()
            );
            self.emit(application, false, what);
        }
    }

    /// Tests the application at the start, while it is unreachable, and after an idle time, until
    /// `stop` is cancelled.
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
                    Err(_) => Some("no response".to_owned()),
                };
                self.connected(application, failure.as_deref());

                // The test itself is no sign of life.
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

    fn emit(&self, application: &Application, is_healthy: bool, message: String) {
        self.events.emit(Event::Application {
            application: application.to_string(),
            is_healthy,
            message,
        });
    }

    fn is(&self, events: HealthStatus) -> bool {
        *self.reported.borrow() == events
    }

    /// Changes the health from `from`. Returns `true` if it was `from`.
    fn change(&self, from: HealthStatus, to: HealthStatus) -> bool {
        self.reported
            .send_if_modified(|events| *events == from && std::mem::replace(events, to) != to)
    }

    /// Sets the health. Returns `true` if it changed.
    fn report(&self, events: HealthStatus) -> bool {
        self.reported
            .send_if_modified(|before| std::mem::replace(before, events) != events)
    }
}

/// Interval of tests of an unreachable application.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Idle time after which an application is tested, so that its end is reported before the next
/// webhook.
const IDLE: Duration = Duration::from_secs(10);
