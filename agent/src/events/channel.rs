//! Broadcast of events from the agent to its outputs. A slow output loses the oldest events, and
//! learns how many; requests never wait for it.

use super::{Event, RequestEvent, TimedEvent};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::{
    self,
    error::{RecvError, TryRecvError},
};

/// Number of events that the agent keeps for the slowest output.
const QUEUE_LENGTH: usize = 4096;

/// Observer that sees every event before the outputs do, and loses none.
pub trait EventObserver: Send + Sync {
    /// Observes the outcome of a request. Events of refusals are limited in number; this is not.
    fn request(&self, request: &RequestEvent);

    /// Observes an event other than a request.
    fn event(&self, event: &Event);
}

/// Sink of events. Emitting never waits.
#[derive(Clone)]
pub struct EventSink {
    sender: broadcast::Sender<TimedEvent>,
    observer: Option<Arc<dyn EventObserver>>,
}

/// Stream of the events since it was created.
pub struct EventStream {
    receiver: broadcast::Receiver<TimedEvent>,
    /// Number of events lost since [`EventStream::take_lost`].
    lost: u64,
}

/// Creates a sink of events, and its first stream.
#[must_use]
pub fn channel() -> (EventSink, EventStream) {
    new_channel(None)
}

/// Creates a sink whose events this observer sees, and its first stream.
#[must_use]
pub fn observed_channel(observer: Arc<dyn EventObserver>) -> (EventSink, EventStream) {
    new_channel(Some(observer))
}

fn new_channel(observer: Option<Arc<dyn EventObserver>>) -> (EventSink, EventStream) {
    let (sender, receiver) = broadcast::channel(QUEUE_LENGTH);
    let sink = EventSink { sender, observer };
    (sink, EventStream { receiver, lost: 0 })
}

impl EventSink {
    /// Emits an event that happened now.
    pub fn emit(&self, report: Event) {
        self.emit_at(Duration::ZERO, report);
    }

    /// Passes the outcome of a request to the observer. [`EventSink::emit`] shows it.
    pub(crate) fn observe(&self, request: &RequestEvent) {
        if let Some(observer) = &self.observer {
            observer.request(request);
        }
    }

    /// Emits an event that happened `ago`.
    pub fn emit_at(&self, ago: Duration, report: Event) {
        if let Some(observer) = &self.observer {
            observer.event(&report);
        }
        let stamped = TimedEvent::from(report);
        let at = stamped
            .at
            .checked_sub(ago.try_into().unwrap_or_default())
            .unwrap_or(stamped.at);
        let moment = stamped.moment.checked_sub(ago).unwrap_or(stamped.moment);

        // An error means that no output is left.
        let _ = self.sender.send(TimedEvent {
            at,
            moment,
            ..stamped
        });
    }

    /// Returns a stream of the events from now on.
    #[must_use]
    pub fn subscribe(&self) -> EventStream {
        EventStream {
            receiver: self.sender.subscribe(),
            lost: 0,
        }
    }
}

impl EventStream {
    /// Returns the next event, or `None` when all sinks are gone. Cancel-safe.
    pub async fn next(&mut self) -> Option<TimedEvent> {
        loop {
            match self.receiver.recv().await {
                Ok(event) => return Some(event),
                Err(RecvError::Lagged(lost)) => self.lost += lost,
                Err(RecvError::Closed) => return None,
            }
        }
    }

    /// Returns the next event; blocks the thread.
    pub fn wait(&mut self) -> Option<TimedEvent> {
        loop {
            match self.receiver.blocking_recv() {
                Ok(event) => return Some(event),
                Err(RecvError::Lagged(lost)) => self.lost += lost,
                Err(RecvError::Closed) => return None,
            }
        }
    }

    /// Returns an event that is queued already.
    pub fn try_next(&mut self) -> Option<TimedEvent> {
        loop {
            match self.receiver.try_recv() {
                Ok(event) => return Some(event),
                Err(TryRecvError::Lagged(lost)) => self.lost += lost,
                Err(TryRecvError::Empty | TryRecvError::Closed) => return None,
            }
        }
    }

    /// Returns `true` if all sinks are gone, and no event is waiting.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.receiver.is_closed() && self.receiver.is_empty()
    }

    /// Returns the number of events lost since the last call.
    #[must_use]
    pub const fn take_lost(&mut self) -> u64 {
        std::mem::replace(&mut self.lost, 0)
    }
}
