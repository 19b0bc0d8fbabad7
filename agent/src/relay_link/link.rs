//! One link to a relay: dials, greets, serves, and dials again. When a better connection is
//! available, the link moves to it without losing a request: the new connection serves before the
//! old one drains.

mod serving;
mod wait;

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hookward_tunnel::transport::{Session, Transport};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::serving::{LinkEnd, ServingLoop};
use crate::relay_link::active::ActiveLink;
use crate::relay_link::backoff::Backoff;
use crate::relay_link::dialer::Dialed;
use crate::relay_link::failover::ProbeReason;
use crate::relay_link::handshake::{self, Handshake, Welcomed, greet};
use crate::relay_link::status::LinkId;
use crate::relay_link::{ConnectionError, LinkContext, RelayState};

pub(crate) struct RelayLink {
    at: Arc<RelayState>,
    shared: Arc<LinkContext>,
    slot: usize,
    id: LinkId,
    /// Time until the next search for a better connection.
    probe_in: Duration,
    /// Number of QUIC connections in a row that failed early.
    early_failures: u32,
}

/// Search for a better connection.
type ProbeFuture = Pin<Box<dyn Future<Output = Result<ActiveLink, ConnectionError>> + Send>>;

impl RelayLink {
    /// Creates the link of this number to the relay.
    #[must_use]
    pub(crate) fn new(at: Arc<RelayState>, shared: Arc<LinkContext>, slot: usize) -> Self {
        let id = (at.relay.address.clone(), slot);
        let probe_in = shared.link.probe_after.unwrap_or(PROBE_FIRST);
        Self {
            at,
            shared,
            slot,
            id,
            probe_in,
            early_failures: 0,
        }
    }

    /// Keeps a connection until `stop` is cancelled.
    ///
    /// # Errors
    /// The relay's refusal, if dialing again cannot help.
    pub(crate) async fn keep(mut self, stop: CancellationToken) -> Result<(), ConnectionError> {
        let ended = self.run(&stop).await;
        self.shared.status.ended(&self.id);
        ended
    }

    async fn run(&mut self, stop: &CancellationToken) -> Result<(), ConnectionError> {
        let mut schedule = Backoff::new(Instant::now());
        loop {
            self.shared
                .status
                .dialing(&self.at.relay.address, &self.shared.events);

            let opening = async {
                let (found, greeted) = self.dial(&mut schedule).await?;
                self.open(found, greeted).await
            };
            let opened = tokio::select! {
                opened = opening => opened,
                () = stop.cancelled() => return Ok(()),
            };
            let since = Instant::now();

            let ended = match opened {
                Ok(serving) => self.serve_until_end(serving, stop).await,
                Err(error) => Err(error),
            };
            match ended {
                Ok(()) => return Ok(()),
                Err(error) if error.is_final() => return Err(error),
                Err(error) => {
                    self.shared
                        .status
                        .closed(&self.id, &error, &self.shared.events);
                    if since.elapsed() >= SETTLED_AFTER {
                        // The connection worked until now, so a new outage starts here.
                        schedule = Backoff::new(Instant::now());
                    }
                }
            }
        }
    }

    async fn dial(&self, schedule: &mut Backoff) -> Result<(Dialed, Welcomed), ConnectionError> {
        let failed = |error: &ConnectionError| {
            self.shared
                .status
                .failed(&self.id.0, error, &self.shared.events)
        };

        self.at
            .dialer
            .connect(self.slot, schedule, self.greeting(true), &failed)
            .await
    }

    /// Returns the first message of this link's connections; the previous one may be `lost`.
    fn greeting(
        &self,
        lost: bool,
    ) -> impl Fn(Session) -> Handshake + Clone + Send + Sync + 'static {
        let (at, shared, slot) = (Arc::clone(&self.at), Arc::clone(&self.shared), self.slot);
        move |session| {
            Box::pin(greet(
                session,
                Arc::clone(&at),
                Arc::clone(&shared),
                slot,
                lost,
            ))
        }
    }

    async fn open(&self, found: Dialed, greeted: Welcomed) -> Result<ActiveLink, ConnectionError> {
        handshake::open(&self.at, &self.shared, &self.id, found, greeted).await
    }

    /// Serves until the connection fails, and moves to better ones. Returns `Ok` when the agent
    /// stops.
    async fn serve_until_end(
        &mut self,
        mut serving: ActiveLink,
        stop: &CancellationToken,
    ) -> Result<(), ConnectionError> {
        // A path that has outlived several timeouts is reliable.
        let proved = self.shared.link.liveness.idle_timeout() * 3;

        loop {
            match ServingLoop::new(self, &mut serving).run(stop).await {
                LinkEnd::Stop => {
                    serving.retire(&self.shared, stop.clone()).await;
                    return Ok(());
                }
                LinkEnd::Failed(error) => {
                    let quic = serving.found.session.transport() == Transport::Quic;
                    let died = !serving.relay_draining && !error.is_final();
                    if quic && died && serving.since.elapsed() < proved {
                        // The path passed the handshake and lost what followed.
                        self.at.dialer.prefer(Transport::Tcp);
                        if self.early_failures > 0 {
                            self.probe_in = (self.probe_in * 2).min(MAX_PROBE_PAUSE);
                        }
                        self.early_failures += 1;
                    } else {
                        self.early_failures = 0;
                        self.probe_in = self.shared.link.probe_after.unwrap_or(PROBE_FIRST);
                    }

                    self.at.dialer.reset_sockets(self.slot);
                    serving.found.session.close("broken");
                    return Err(error);
                }
                LinkEnd::Replaced(new) => {
                    let old = std::mem::replace(&mut serving, *new);
                    self.retire(old, stop);
                }
            }
        }
    }

    /// Opens another connection while one serves. Sets `reached` when its relay responds.
    fn probe(
        &self,
        wanted: ProbeReason,
        offset: usize,
        reached: watch::Sender<bool>,
    ) -> ProbeFuture {
        let (at, shared) = (Arc::clone(&self.at), Arc::clone(&self.shared));
        let (slot, id, greeting) = (self.slot, self.id.clone(), self.greeting(false));
        Box::pin(async move {
            let dialer = &at.dialer;
            let (found, greeted) = match wanted {
                ProbeReason::Upgrade if offset == 0 => dialer.probe(slot, greeting).await?,
                ProbeReason::Upgrade => dialer.once(slot, 0, greeting).await?,
                ProbeReason::Revalidate(offset) | ProbeReason::RelayDraining(offset) => {
                    dialer.once(slot, offset, greeting).await?
                }
            };

            reached.send_replace(true);
            handshake::open(&at, &shared, &id, found, greeted).await
        })
    }

    /// Drains a connection in its own task. It ends with its last exchange, however long that takes,
    /// or with the program.
    fn retire(&self, old: ActiveLink, stop: &CancellationToken) {
        let (shared, stop) = (Arc::clone(&self.shared), stop.clone());
        self.shared
            .tasks
            .spawn(async move { old.retire(&shared, stop).await });
    }
}

/// Time after which a connection counts as working, so that the next failure starts a new outage.
const SETTLED_AFTER: Duration = Duration::from_secs(10);

/// Time until the first search for a better connection, and maximum pause between later ones.
const PROBE_FIRST: Duration = Duration::from_secs(15);

const MAX_PROBE_PAUSE: Duration = Duration::from_secs(600);
