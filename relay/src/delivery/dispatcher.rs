//! The dispatcher of one tunnel: takes due deliveries from the store, and makes attempts.
//!
//! The dispatcher runs a bounded number of attempts at once, and one of each lane. A lane is the
//! place of an ordering key, or of a single delivery without one. The dispatcher knows a bounded part
//! of the store, and reads more when it has none left.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::Receiver;
use tokio::task::{Id, JoinSet};
use tokio::time::sleep_until;

use super::Shared;
use super::attempt::{EndedAttempt, RunningAttempt, attempt};
use super::breaker::Breaker;
use super::outcome::Circumstances;
use crate::storage::StorageError;
use crate::storage::deliveries::{DueDelivery, Lease, Outcome};

/// Something new for the task of a tunnel.
pub(super) enum Arrival {
    /// A delivery was stored, and its turn has come.
    Due(DueDelivery),
    /// A delivery was stored behind another one.
    Later,
    /// A delivery was stored while its first attempt is in progress.
    Running(DueDelivery, RunningAttempt),
}

/// Task that delivers one tunnel's stored webhooks.
pub(super) struct Dispatcher {
    shared: Arc<Shared>,
    tunnel: Arc<str>,
    lease: Option<Lease>,
    /// Deliveries whose turn has come, oldest first.
    ready: VecDeque<DueDelivery>,
    /// Number of deliveries of each lane in `ready` and in progress. It is 1, except where late
    /// fallbacks run at the same time.
    lanes: HashMap<i64, u32>,
    /// `true` if the store may have more due deliveries than `ready`.
    has_more: bool,
    /// Time at which the store has the next due delivery.
    next_at: Option<Instant>,
    breaker: Breaker,
    /// Time of the last wake, and whether another one follows.
    woken: (Option<Instant>, bool),
    /// `true` while an agent is connected whose application accepts connections.
    is_available: bool,
}

/// End of an attempt.
enum Attempted {
    Ended(EndedAttempt),
    /// The delivery was dropped meanwhile.
    Dropped,
    /// The payload cannot be read now.
    Unreadable,
}

/// End of an attempt that was recorded.
#[derive(Default)]
struct Settled {
    /// Next delivery of the lane, if it is due.
    next: Option<DueDelivery>,
    /// Time until the lane is due again, after a failure.
    due_in: Option<Duration>,
}

/// Tasks for deliveries. They end with it.
struct Tasks<T> {
    tasks: JoinSet<T>,
    deliveries: HashMap<Id, DueDelivery>,
}

impl<T: Send + 'static> Tasks<T> {
    fn new() -> Self {
        Self {
            tasks: JoinSet::new(),
            deliveries: HashMap::new(),
        }
    }

    fn len(&self) -> usize {
        self.tasks.len()
    }

    fn spawn(&mut self, head: DueDelivery, task: impl Future<Output = T> + Send + 'static) {
        let id = self.tasks.spawn(task).id();
        self.deliveries.insert(id, head);
    }

    /// Waits for the end of a task; without tasks, for ever. The result is `None` after a panic.
    /// Cancel-safe.
    async fn next(&mut self) -> (DueDelivery, Option<T>) {
        loop {
            let (id, result) = match self.tasks.join_next_with_id().await {
                Some(Ok((id, result))) => (id, Some(result)),
                Some(Err(error)) => {
                    tracing::error!(%error, "an attempt has failed; another one follows");
                    (error.id(), None)
                }
                None => pending().await,
            };
            if let Some(head) = self.deliveries.remove(&id) {
                return (head, result);
            }
        }
    }
}

impl Dispatcher {
    pub(super) fn new(shared: Arc<Shared>, tunnel: Arc<str>) -> Self {
        let concurrency = shared.parts.settings.concurrency;
        Self {
            shared,
            tunnel,
            lease: None,
            ready: VecDeque::new(),
            lanes: HashMap::new(),
            has_more: true,
            next_at: None,
            breaker: Breaker::new(concurrency),
            woken: (None, false),
            is_available: false,
        }
    }

    /// Runs until the relay stops.
    pub(super) async fn run(mut self, mut arrivals: Receiver<Arrival>) {
        let stop = self.shared.parts.stop.clone();
        let mut changes = self.shared.parts.registry.changes();
        let (mut attempts, mut settling) = (Tasks::new(), Tasks::new());
        loop {
            changes.borrow_and_update();
            self.note_availability().await;
            let failed = self
                .start_attempts(&mut attempts, settling.len())
                .await
                .err();
            if let Some(error) = failed {
                tracing::error!(tunnel = %self.tunnel, %error, "deliveries cannot be read");
            }

            let wake_at = self.wake_at(attempts.len());
            tokio::select! {
                () = stop.cancelled() => break,
                (head, attempted) = attempts.next() => self.attempted(head, attempted, &mut settling).await,
                (head, settled) = settling.next() => self.settled(head, settled.unwrap_or_default()),
                arrival = arrivals.recv() => match arrival {
                    Some(arrival) => self.arrived(arrival, &mut attempts),
                    None => break,
                },
                Ok(()) = changes.changed() => {}
                () = sleep_or_never(wake_at) => (self.has_more, self.next_at) = (true, None),
            }
        }
    }

    /// Takes ownership once, and starts as many attempts as are allowed now.
    async fn start_attempts(
        &mut self,
        attempts: &mut Tasks<Attempted>,
        settling: usize,
    ) -> Result<(), StorageError> {
        let lease = match self.lease {
            Some(lease) => lease,
            None => {
                let lease = self.shared.parts.store.lease(&self.tunnel).await?;
                *self.lease.insert(lease)
            }
        };
        if !self.is_available || self.shared.parts.store.is_paused(&self.tunnel) {
            return Ok(());
        }

        while attempts.len() < self.allowed(attempts.len())
            && settling + attempts.len() < MAX_SETTLING
        {
            let Some(head) = self.next_head().await? else {
                break;
            };
            let Some(share) = self.shared.room.share(head.owner, head.bytes) else {
                self.ready.push_front(head);
                break;
            };
            attempts.spawn(head, share.run(self.attempt(lease, head)));
        }
        Ok(())
    }

    /// Returns the number of attempts that may be in progress. Direct requests come first: a busy
    /// tunnel gets one attempt at a time.
    fn allowed(&self, running: usize) -> usize {
        let allowed = self.breaker.allowed(Instant::now());
        let live = self.shared.parts.registry.find(&self.tunnel);
        let busy = live.as_ref().and_then(|tunnel| tunnel.select(|_| true));
        let direct = busy.map_or(0, |session| session.in_flight().saturating_sub(running));
        match direct >= BUSY_REQUESTS {
            true => allowed.min(1),
            false => allowed,
        }
    }

    async fn next_head(&mut self) -> Result<Option<DueDelivery>, StorageError> {
        let is_due = |at: &mut Instant| *at <= Instant::now();
        if self.ready.is_empty() && (self.has_more || self.next_at.as_mut().is_some_and(is_due)) {
            let most = READY_DELIVERIES + self.lanes.len();
            let due = self.shared.parts.store.heads(&self.tunnel, most).await?;
            self.has_more = due.has_more;
            self.next_at = due.next_in.map(|wait| Instant::now() + wait);
            for head in due.heads {
                self.push(head);
            }
        }
        Ok(self.ready.pop_front())
    }

    fn push(&mut self, head: DueDelivery) {
        if let Entry::Vacant(lane) = self.lanes.entry(head.lane) {
            lane.insert(1);
            self.ready.push_back(head);
        }
    }

    fn arrived(&mut self, arrival: Arrival, attempts: &mut Tasks<Attempted>) {
        match arrival {
            Arrival::Due(head) if !self.has_more && self.ready.len() < READY_DELIVERIES => {
                self.push(head);
            }
            Arrival::Due(_) | Arrival::Later => self.has_more = true,
            Arrival::Running(head, attempt) => {
                *self.lanes.entry(head.lane).or_default() += 1;
                attempts.spawn(head, async move { Attempted::Ended(attempt.await) });
            }
        }
    }

    fn attempt(
        &self,
        lease: Lease,
        head: DueDelivery,
    ) -> impl Future<Output = Attempted> + Send + 'static {
        let (shared, tunnel) = (Arc::clone(&self.shared), Arc::clone(&self.tunnel));
        async move {
            match attempt(&shared, &tunnel, lease, head).await {
                Ok(Some(ended)) => Attempted::Ended(ended),
                Ok(None) => Attempted::Dropped,
                Err(error) => {
                    tracing::error!(%tunnel, id = %head.id, %error, "a delivery cannot be read");
                    Attempted::Unreadable
                }
            }
        }
    }

    /// Records the end of an attempt in a task of its own, so that the next attempt does not wait for
    /// the disk. The lane stays taken until then.
    async fn attempted(
        &mut self,
        head: DueDelivery,
        attempted: Option<Attempted>,
        settling: &mut Tasks<Settled>,
    ) {
        match attempted {
            Some(Attempted::Ended(ended)) => {
                match ended.end.is_outage() {
                    Some(true) => self.breaker.failed(Instant::now()),
                    Some(false) => {
                        let was_down = self.breaker.succeeded();
                        if was_down {
                            self.wake().await;
                        }
                    }
                    None => {}
                }
                let (shared, tunnel, lease) = (
                    Arc::clone(&self.shared),
                    Arc::clone(&self.tunnel),
                    self.lease,
                );
                settling.spawn(head, async move {
                    settle(&shared, &tunnel, lease, head, ended).await
                });
            }
            Some(Attempted::Dropped) => self.settled(head, Settled::default()),
            Some(Attempted::Unreadable) | None => {
                let again = Settled {
                    due_in: Some(READ_RETRY),
                    ..Settled::default()
                };
                self.settled(head, again);
            }
        }
    }

    fn settled(&mut self, head: DueDelivery, settled: Settled) {
        let count = self.lanes.entry(head.lane).or_default();
        *count = count.saturating_sub(1);
        let is_free = *count == 0;
        if is_free {
            self.lanes.remove(&head.lane);
        }
        match settled.next {
            Some(next) if is_free => self.push(next),
            // Another delivery of the lane is in progress; the store is read after its end.
            Some(_) => self.has_more = true,
            None => {}
        }
        if let Some(wait) = settled.due_in {
            let at = Instant::now() + wait;
            self.next_at = Some(self.next_at.map_or(at, |next| next.min(at)));
        }
    }

    /// Tries at once when the agent or the application has returned.
    async fn note_availability(&mut self) {
        let endpoint = self.shared.parts.registry.find(&self.tunnel);
        let is_available = endpoint.is_some_and(|endpoint| endpoint.is_available());
        if is_available && !self.is_available {
            self.breaker.probe_now(Instant::now());
            self.wake().await;
        }
        self.is_available = is_available;
        if self.wake_again_at().is_some_and(|at| at <= Instant::now()) {
            self.wake().await;
        }
    }

    /// Makes the deliveries due whose attempts ended without a response, at once or after the pause
    /// that an agent needs whose application comes and goes.
    async fn wake(&mut self) {
        let now = Instant::now();
        let (last, _) = self.woken;
        let is_early = last.is_some_and(|last| now.duration_since(last) < WAKE_PAUSE);
        self.woken = match is_early {
            true => (last, true),
            false => {
                if let Err(error) = self.shared.parts.store.wake(&self.tunnel).await {
                    tracing::warn!(tunnel = %self.tunnel, %error, "deliveries wait for their next time");
                }
                self.has_more = true;
                (Some(now), false)
            }
        };
    }

    /// Returns the time of a wake that was put off.
    fn wake_again_at(&self) -> Option<Instant> {
        match self.woken {
            (Some(last), true) => Some(last + WAKE_PAUSE),
            _ => None,
        }
    }

    /// Returns the time at which something may be due without a further event.
    fn wake_at(&self, running: usize) -> Option<Instant> {
        if !self.is_available || self.shared.parts.store.counts(Some(&self.tunnel)).pending == 0 {
            return None;
        }

        let now = Instant::now();
        // A time that is past needs an event: something else holds the attempts back.
        let is_ahead = |at: &Instant| *at > now;
        let probe = self.breaker.probe_at().filter(|_| running == 0);
        let probe = probe.filter(is_ahead);
        let next = self.next_at.filter(|_| self.ready.is_empty());
        let next = next.filter(is_ahead);
        [probe, next, self.wake_again_at(), Some(now + POLL_INTERVAL)]
            .into_iter()
            .flatten()
            .map(|at| at.max(now + SHORTEST_WAIT))
            .min()
    }
}

/// Decides what follows the attempt, and records it.
async fn settle(
    shared: &Shared,
    tunnel: &Arc<str>,
    lease: Option<Lease>,
    head: DueDelivery,
    ended: EndedAttempt,
) -> Settled {
    let in_policy = Duration::from_millis(ended.delivery.max_age_ms);
    let circumstances = Circumstances {
        attempt: ended.number,
        age: shared.parts.store.age(&head),
        max_age: in_policy.min(shared.parts.settings.max_age),
        random: random(),
    };
    let outcome = ended.end.decide(&ended.delivery, circumstances);
    let due_in = match &outcome {
        Outcome::Retry { after, .. } => Some(*after),
        _ => None,
    };
    shared
        .parts
        .observer
        .delivery(tunnel, &head, ended.number, ended.took, &outcome);

    let Some(lease) = lease else {
        return Settled::default();
    };
    let next = match shared
        .parts
        .store
        .settle(tunnel, lease, head, outcome)
        .await
    {
        Ok(next) => next,
        Err(error) => {
            tracing::error!(%tunnel, id = %head.id, %error, "the end of an attempt is not yet on disk");
            None
        }
    };
    Settled { next, due_in }
}

/// Returns a random number from 0 to 1.
fn random() -> f64 {
    let mut bytes = [0; 4];
    // Without a random number, the wait is the longest.
    match getrandom::fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX),
        Err(_) => 1.0,
    }
}

async fn sleep_or_never(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at.into()).await,
        None => pending().await,
    }
}

/// Maximum number of attempts in progress, and of those whose end waits for the disk: as many ends
/// are in one commit.
const MAX_SETTLING: usize = 512;

/// Number of due deliveries that a tunnel's task knows.
const READY_DELIVERIES: usize = 1000;

/// Number of direct requests in progress from which stored deliveries go one by one.
const BUSY_REQUESTS: usize = 4;

/// Pause between two wakes: each costs a commit.
const WAKE_PAUSE: Duration = Duration::from_secs(1);

/// Interval at which the store is read without an event.
const POLL_INTERVAL: Duration = Duration::from_secs(5);

/// Shortest wait of the task, so that it never spins.
const SHORTEST_WAIT: Duration = Duration::from_millis(5);

/// Wait after a payload could not be read.
const READ_RETRY: Duration = Duration::from_secs(5);
