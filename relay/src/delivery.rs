//! Stored deliveries: webhooks that the gate has permitted, kept until the application accepts them.
//!
//! [`Deliveries`] stores a webhook, and starts a task for each tunnel with pending deliveries
//! ([`dispatcher`]). The task sends them to the agent ([`attempt`]) and decides what follows
//! ([`outcome`]); `room` bounds their memory; a circuit breaker ([`breaker`]) protects an application that is down or has just
//! returned.

pub(crate) mod attempt;
mod breaker;
mod by_hand;
mod dispatcher;
pub(crate) mod jobs;
pub(crate) mod outcome;
mod requester;
mod room;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hookward_core::clock::Clock;
use hookward_core::limits::Limits;
use hookward_gate::engine::OrderingKey;
use hookward_runtime::body_memory::BodyMemory;
use tokio::sync::mpsc::{Sender, channel};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) use self::attempt::retry_after;
pub(crate) use self::by_hand::ChangeResult;
use self::dispatcher::{Arrival, Dispatcher};
use self::jobs::Jobs;
pub(crate) use self::requester::Requester;
use self::room::Room;
use crate::forward::RequestIds;
use crate::observe::Observer;
use crate::sessions::registry::Registry;
use crate::settings::DeliverySettings;
use crate::storage::agents::AgentId;
use crate::storage::deliveries::{
    ClaimGuard, DeliveryStore, DueDelivery, NewDelivery, StoreRefusal, Stored,
};

/// Stored deliveries of all tunnels; clones share them.
#[derive(Clone)]
pub(crate) struct Deliveries(Arc<Shared>);

/// State that the tasks of all tunnels share.
pub(super) struct Shared {
    parts: DeliveryParts,
    room: Arc<Room>,
    // A std mutex: it guards a map of senders, and nothing waits while it is held.
    queues: Mutex<HashMap<Arc<str>, Sender<Arrival>>>,
    jobs: Jobs,
}

/// Parts of the relay that deliveries need.
pub(crate) struct DeliveryParts {
    pub store: DeliveryStore,
    pub registry: Registry,
    pub clock: Clock,
    pub limits: Limits,
    pub ids: RequestIds,
    pub observer: Arc<Observer>,
    pub settings: DeliverySettings,
    pub memory: BodyMemory,
    pub tasks: TaskTracker,
    /// Cancelled when the relay stops: attempts in progress end, and are made again later.
    pub stop: CancellationToken,
}

impl Deliveries {
    pub(crate) fn new(parts: DeliveryParts) -> Self {
        Self(Arc::new(Shared {
            parts,
            room: Room::new(),
            queues: Mutex::default(),
            jobs: Jobs::default(),
        }))
    }

    /// Starts the tasks of the tunnels with pending deliveries.
    pub(crate) fn resume(&self) {
        for tunnel in self.0.parts.store.tunnels_with_pending() {
            self.queue(&tunnel);
        }
    }

    /// Returns the store.
    pub(crate) fn store(&self) -> &DeliveryStore {
        &self.0.parts.store
    }

    /// Returns `true` if routes may store webhooks.
    pub(crate) fn is_enabled(&self) -> bool {
        self.0.parts.settings.enabled
    }

    /// Returns the reason why a webhook of this size would not be stored now.
    pub(crate) fn refusal(&self, tunnel: &str, owner: AgentId, bytes: u64) -> Option<StoreRefusal> {
        self.0.parts.store.refusal(tunnel, owner, bytes)
    }

    /// Stores a webhook, and has it delivered. Returns once it is on the disk.
    ///
    /// # Errors
    /// [`StoreRefusal`].
    pub(crate) async fn accept(
        &self,
        delivery: NewDelivery,
        claim: Option<ClaimGuard>,
    ) -> Result<DueDelivery, StoreRefusal> {
        let is_due = delivery.due_in.is_zero();
        // A request that is dropped during the commit may be stored all the same.
        let mut notice = Notice {
            queue: self.queue(&delivery.tunnel),
            arrival: Some(Arrival::Later),
        };
        let Stored { head, is_first } = self.0.parts.store.accept(delivery, claim).await?;
        if is_first && is_due {
            notice.arrival = Some(Arrival::Due(head));
        }
        Ok(head)
    }

    /// Takes over the first attempt of a webhook that was stored meanwhile. The attempt's end decides
    /// what follows.
    pub(crate) async fn take_over(
        &self,
        tunnel: &Arc<str>,
        head: DueDelivery,
        attempt: attempt::RunningAttempt,
    ) {
        // Without its queue the attempt is aborted, and another one follows after its time.
        let running = Arrival::Running(head, attempt);
        let queue = self.queue(tunnel);
        let _ = queue.send_timeout(running, HAND_OVER_TIMEOUT).await;
    }

    /// Returns `true` if a tunnel has pending deliveries.
    pub(crate) fn has_pending(&self, tunnel: &str) -> bool {
        self.0.parts.store.counts(Some(tunnel)).pending > 0
    }

    /// Returns `true` if a pending delivery has this place in the order, also if that is unknown.
    pub(crate) async fn is_waiting(&self, tunnel: &str, order: OrderingKey) -> bool {
        let is_waiting = self.0.parts.store.is_waiting(tunnel, order).await;
        is_waiting.unwrap_or_else(|error| {
            tracing::error!(%tunnel, %error, "deliveries cannot be read");
            true
        })
    }

    /// Returns the way to the task of a tunnel, which is started if necessary.
    fn queue(&self, tunnel: &Arc<str>) -> Sender<Arrival> {
        let mut queues = self.0.queues.lock().unwrap_or_else(PoisonError::into_inner);
        let live = queues.get(tunnel).filter(|sender| !sender.is_closed());
        if let Some(sender) = live {
            return sender.clone();
        }

        let (sender, arrivals) = channel(ARRIVALS);
        queues.insert(Arc::clone(tunnel), sender.clone());
        let dispatcher = Dispatcher::new(Arc::clone(&self.0), Arc::clone(tunnel));
        self.0.parts.tasks.spawn(dispatcher.run(arrivals));
        sender
    }
}

/// Guard that tells the task of a tunnel of a stored webhook when it is dropped.
struct Notice {
    queue: Sender<Arrival>,
    arrival: Option<Arrival>,
}

impl Drop for Notice {
    fn drop(&mut self) {
        if let Some(arrival) = self.arrival.take() {
            // A task that is busy finds the webhook in the store.
            let _ = self.queue.try_send(arrival);
        }
    }
}

/// Maximum number of arrivals that wait for the task of a tunnel.
const ARRIVALS: usize = 1024;

/// Maximum wait for the task of a tunnel to take over an attempt.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(1);
