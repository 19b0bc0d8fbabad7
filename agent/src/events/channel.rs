//! The queue of events between the agent and its output.

use super::{Event, TimedEvent};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;

/// Maximum number of queued events; more are counted and dropped.
pub(super) const QUEUE_LENGTH: usize = 4096;

/// Sink of events. Emitting never waits: events beyond the queue are counted.
#[derive(Clone)]
pub struct EventSink {
    pub(super) sender: mpsc::Sender<TimedEvent>,
    pub(super) lost: Arc<AtomicU64>,
}

/// Stream of events.
pub struct EventStream {
    pub(super) receiver: mpsc::Receiver<TimedEvent>,
    pub(super) lost: Arc<AtomicU64>,
}

impl EventSink {
    /// Emits an event that happened now.
    pub fn emit(&self, report: Event) {
        self.emit_at(Duration::ZERO, report);
    }

    /// Emits an event that happened `ago`.
    pub fn emit_at(&self, ago: Duration, report: Event) {
        let stamped = TimedEvent::from(report);
        let at = stamped
            .at
            .checked_sub(ago.try_into().unwrap_or_default())
            .unwrap_or(stamped.at);
        let moment = stamped.moment.checked_sub(ago).unwrap_or(stamped.moment);

        if self
            .sender
            .try_send(TimedEvent {
                at,
                moment,
                ..stamped
            })
            .is_err()
        {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl EventStream {
    /// Returns the next event, or `None` when all sinks are gone.
    pub async fn next(&mut self) -> Option<TimedEvent> {
        self.receiver.recv().await
    }

    /// Returns the next event; blocks the thread.
    pub fn wait(&mut self) -> Option<TimedEvent> {
        self.receiver.blocking_recv()
    }

    /// Returns an event that is queued already.
    pub fn try_next(&mut self) -> Option<TimedEvent> {
        self.receiver.try_recv().ok()
    }

    /// Returns `true` if all sinks are gone, and no event is waiting.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.receiver.is_closed() && self.receiver.is_empty()
    }

    /// Returns the number of events lost since the last call.
    #[must_use]
    pub fn take_lost(&self) -> u64 {
        self.lost.swap(0, Ordering::Relaxed)
    }
}
