//! One link to a relay: dials, greets, serves, and dials again. When a better connection is
//! available, the link moves to it without losing a request: the new connection serves before the
//! old one drains.

mod wait;

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::relay_link::AgentMessage;
use hookward_core::limits::CONTROL_BYTES;
use hookward_tunnel::protocol::control::{RefusedReason, RelayMessage};
use hookward_tunnel::transport::{ControlWriter, Session, Transport};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use self::wait::{first, is_reached, of, other_than};
use crate::events::Event;
use crate::exchange::SessionTerms;
use crate::relay_link::active::{ActiveLink, DRAIN_TIMEOUT, take};
use crate::relay_link::backoff::{Backoff, jitter};
use crate::relay_link::dialer::Dialed;
use crate::relay_link::failover::{ProbeReason, ProbeSchedule};
use crate::relay_link::handshake::{self, Handshake, Welcomed, greet, open_message};
use crate::relay_link::policy_sync::{Applied, PolicyOffer};
use crate::relay_link::status::LinkId;
use crate::relay_link::suspend::SuspendDetector;
use crate::relay_link::{ConnectionError, LinkContext, RelayState, kept, refused, report_refusals};

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

/// End of a connection.
enum LinkEnd {
    /// The connection failed, or the relay closed it.
    Failed(ConnectionError),
    /// The agent stops.
    Stop,
    /// A better connection serves already.
    Replaced(Box<ActiveLink>),
}

/// Search for a better connection.
type ProbeFuture<'l> =
    Pin<Box<dyn Future<Output = Result<ActiveLink, ConnectionError>> + Send + 'l>>;

/// Message that is being sent; resolves to the control stream.
type SendFuture<'l> =
    Pin<Box<dyn Future<Output = (&'l mut ControlWriter, Result<(), ConnectionError>)> + Send + 'l>>;

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
            match self.serve(&mut serving, stop).await {
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
                    // It ends with its last exchange, however long that takes, or with the program.
                    let (shared, stop) = (Arc::clone(&self.shared), stop.clone());
                    self.shared
                        .tasks
                        .spawn(async move { old.retire(&shared, stop).await });
                }
            }
        }
    }

    async fn serve(&self, serving: &mut ActiveLink, stop: &CancellationToken) -> LinkEnd {
        let ActiveLink {
            found,
            control,
            terms,
            exchanges,
            since,
            pending_policy,
            control_poisoned,
            relay_draining,
        } = serving;

        let (writer, reader) = control.halves();
        let (mut writer, mut saying): (_, Option<SendFuture<'_>>) = (Some(writer), None);
        let mut look = interval(SUSPEND_CHECK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);

        let clock = &self.shared.clock;
        let mut awake = SuspendDetector::new(Instant::now(), clock.now());
        // A connection that opens tunnels is dropped only after a suspend, because the relay may
        // have sent requests over it.
        let (mut reached, mut is_opening) = (watch::channel(false).1, false);
        let mut probing: Option<ProbeFuture<'_>> = None;
        let better = self.at.dialer.could_be_better(found);
        let now = tokio::time::Instant::now;
        let mut search = ProbeSchedule::new(
            better,
            found.address_offset,
            found.addresses,
            self.probe_in,
            now(),
        );

        // Only matters if other agents could take the requests.
        let tunnels = self.shared.tunnels.iter().filter(|_| self.shared.link.pool);
        let mut applications: Vec<_> = tunnels
            .map(|tunnel| (false, tunnel.handler.pool.health_status()))
            .collect();
        let mut stopped_for_long = pin!(async {
            stop.cancelled().await;
            sleep(DRAIN_TIMEOUT).await;
        });

        loop {
            let policies = self
                .at
                .policies
                .iter()
                .enumerate()
                .map(|(number, policies)| {
                    let is_open = terms.at(number).is_some() && !self.at.is_without_host(number);
                    // Boxed, because `select_all` moves the futures.
                    Box::pin(async move {
                        if is_open {
                            policies.changed().await
                        } else {
                            std::future::pending().await
                        }
                    })
                });

            let changes = applications
                .iter_mut()
                .map(|(said, events)| Box::pin(other_than(*said, events)));
            let outcome = tokio::select! {
                exchange = found.session.accept() => match exchange {
                    Ok(exchange) => {
                        take(exchange, terms, exchanges);
                        Ok(())
                    }
                    Err(error) => Err(error.into()),
                },
                message = reader.receive(CONTROL_BYTES) => match message {
                    Ok(message) => self.on_message(message, terms, pending_policy, relay_draining),
                    Err(error) => Err(error.into()),
                },
                (number, offer) = first(policies), if pending_policy.is_none() && writer.is_some() && !*control_poisoned => {
                    let host = terms.at(number).map(|at| at.host.to_string());
                    let message = open_message(host, &offer);
                    *pending_policy = Some((number, offer));
                    saying = writer.take().map(|writer| self.send(writer, message, found.session.transport()));
                    Ok(())
                }
                (number, down) = first(changes), if writer.is_some() && !*control_poisoned => {
                    applications.get_mut(number).into_iter().for_each(|(said, _)| *said = down);
                    let host = terms.at(number).map(|at| at.host.to_string()).unwrap_or_default();
                    let message = AgentMessage::UpstreamHealth { host, down };
                    saying = writer.take().map(|writer| self.send(writer, message, found.session.transport()));
                    Ok(())
                }
                (free, said) = of(&mut saying) => {
                    (saying, writer) = (None, Some(free));
                    *control_poisoned |= said.is_err();
                    said
                }
                () = sleep_until(search.due().unwrap_or_else(now)), if search.due().is_some() && probing.is_none() => {
                    let says;
                    (says, reached) = watch::channel(false);
                    probing = Some(Box::pin(self.probe(search.begin(), found.address_offset, says)));
                    Ok(())
                }
                () = is_reached(&mut reached), if probing.is_some() && !is_opening => {
                    is_opening = true;
                    Ok(())
                }
                new = of(&mut probing) => {
                    (probing, is_opening) = (None, false);
                    match new {
                        // The agent would have to leave it again at once.
                        Ok(leaving) if leaving.relay_draining && !*relay_draining => {
                            let (shared, stop) = (Arc::clone(&self.shared), stop.clone());
                            self.shared.tasks.spawn(async move { leaving.retire(&shared, stop).await });
                            search.failed(now(), jitter());
                            Ok(())
                        }
                        Ok(better) => {
                            *control_poisoned |= saying.is_some();
                            return LinkEnd::Replaced(Box::new(better));
                        }
                        Err(error) => {
                            tracing::debug!(%error, ?search, "probe found no better connection");
                            search.failed(now(), jitter());
                            Ok(())
                        }
                    }
                }
                _ = look.tick() => {
                    let slept = awake.was_suspended(Instant::now(), clock.now());
                    let lost = since.elapsed() > ADDRESS_CHECK && found.lost_its_address();
                    if (slept || lost) && search.revalidate(now()) {
                        (probing, is_opening) = (None, false);
                    }
                    Ok(())
                }
                () = stop.cancelled(), if saying.is_none() && !is_opening => {
                    // It may have got there at this moment.
                    is_opening = probing.is_some() && *reached.borrow();
                    if !is_opening {
                        return LinkEnd::Stop;
                    }
                    Ok(())
                }
                () = &mut stopped_for_long => {
                    *control_poisoned |= saying.is_some();
                    return LinkEnd::Stop;
                }
            };

            if let Err(error) = outcome {
                // An almost open connection is better than a new attempt.
                let is_opening = probing.is_some() && *reached.borrow();
                if is_opening
                    && !error.is_final()
                    && let Ok(Ok(new)) = timeout(OPENING_GRACE, of(&mut probing)).await
                {
                    *control_poisoned |= saying.is_some();
                    return LinkEnd::Replaced(Box::new(new));
                }

                return LinkEnd::Failed(error);
            }

            if *relay_draining && search.leave_relay(now()) && !*reached.borrow() {
                probing = None;
            }
        }
    }

    /// Opens another connection while this one serves. Sets `reached` when its relay responds.
    async fn probe(
        &self,
        wanted: ProbeReason,
        place: usize,
        reached: watch::Sender<bool>,
    ) -> Result<ActiveLink, ConnectionError> {
        let (dialler, greeting) = (&self.at.dialer, self.greeting(false));
        let (found, greeted) = match wanted {
            ProbeReason::Upgrade if place == 0 => dialler.probe(self.slot, greeting).await?,
            ProbeReason::Upgrade => dialler.once(self.slot, 0, greeting).await?,
            ProbeReason::Revalidate(place) | ProbeReason::RelayDraining(place) => {
                dialler.once(self.slot, place, greeting).await?
            }
        };

        reached.send_replace(true);
        self.open(found, greeted).await
    }

    /// Sends a message to the relay. A policy may have 3 MiB, and the link may be slow.
    fn send<'l>(
        &'l self,
        writer: &'l mut ControlWriter,
        message: AgentMessage,
        transport: Transport,
    ) -> SendFuture<'l> {
        Box::pin(async move {
            let said = match timeout(POLICY, writer.send(&message)).await {
                Ok(sent) => sent.map_err(ConnectionError::from),
                Err(_) => Err(ConnectionError::Silent {
                    address: self.at.relay.address.clone(),
                    transport,
                }),
            };
            (writer, said)
        })
    }

    /// Continues without the host of a tunnel.
    ///
    /// # Errors
    /// The refusal, if this connection has no other tunnel.
    fn lose_host(
        &self,
        tunnel: usize,
        message: &str,
        terms: &SessionTerms,
    ) -> Result<(), ConnectionError> {
        self.at.note_host_refused(tunnel, message, &self.shared);
        match terms
            .hosts
            .iter()
            .all(|at| self.at.is_without_host(at.tunnel))
        {
            true => Err(refused(RefusedReason::Host, message)),
            false => Ok(()),
        }
    }

    fn on_message(
        &self,
        message: RelayMessage,
        terms: &SessionTerms,
        pending_policy: &mut Option<(usize, Arc<PolicyOffer>)>,
        relay_draining: &mut bool,
    ) -> Result<(), ConnectionError> {
        let events = &self.shared.events;
        match message {
            RelayMessage::Opened { .. } => {
                let Some((number, offer)) = pending_policy.take() else {
                    return Ok(());
                };
                let (gate, policies) = (self.at.gates.get(number), self.at.policies.get(number));
                let taken = policies.map_or(Applied::Stale, |policies| policies.accept(&offer));
                if let Some(gate) = gate.filter(|_| taken != Applied::Stale) {
                    gate.store(Arc::clone(&offer.gate));
                }

                if taken == Applied::New {
                    let several = self.shared.tunnels.len() > 1;
                    let host = self
                        .shared
                        .tunnels
                        .get(number)
                        .and_then(|tunnel| tunnel.host.as_ref());
                    let of = host
                        .filter(|_| several)
                        .map(|host| format!(" of {host}"))
                        .unwrap_or_default();
                    events.emit(Event::Note(format!(
                        "the new policy{of} is in force at {}",
                        self.id.0
                    )));
                }
            }
            RelayMessage::PolicyRejected { message } => {
                let Some((number, offer)) = pending_policy.take() else {
                    return Ok(());
                };
                if let Some(policies) = self
                    .at
                    .policies
                    .get(number)
                    .filter(|policies| !policies.is_refused(&offer))
                {
                    policies.refuse(&offer);
                    events.emit(kept(&message));
                }
            }
            RelayMessage::HostLost { host, message } => {
                let lost = terms
                    .hosts
                    .iter()
                    .find(|at| host.eq_ignore_ascii_case(&at.host));
                if let Some(lost) = lost {
                    self.lose_host(lost.tunnel, &message, terms)?;
                }
            }
            RelayMessage::Refused {
                reason: RefusedReason::Host,
                message,
            } if pending_policy.is_some() => {
                let Some((number, _)) = pending_policy.take() else {
                    return Ok(());
                };
                self.lose_host(number, &message, terms)?;
            }
            RelayMessage::Refused { reason, message } => return Err(refused(reason, &message)),
            RelayMessage::Refusals { requests, counts } => {
                report_refusals(events, requests, counts)
            }
            RelayMessage::Draining => {
                *relay_draining = true;
                self.shared.status.set_draining(&self.id, events);
            }
            RelayMessage::Standby { standby } => {
                self.shared.status.set_standby(&self.id, standby, events)
            }
            _ => {}
        }

        Ok(())
    }
}

/// Timeout for sending a new policy while the old one is in force: 3 MiB over 42 kbit/s.
const POLICY: Duration = Duration::from_secs(600);

/// Time after which a connection counts as working, so that the next failure starts a new outage.
const SETTLED_AFTER: Duration = Duration::from_secs(10);

/// Time until the first search for a better connection, and maximum pause between later ones.
const PROBE_FIRST: Duration = Duration::from_secs(15);

const MAX_PROBE_PAUSE: Duration = Duration::from_secs(600);

/// Delay before the local address is checked again, because addresses change while a network is set
/// up.
const ADDRESS_CHECK: Duration = Duration::from_secs(2);

/// Time for an almost open connection to become ready after the current one failed.
const OPENING_GRACE: Duration = Duration::from_secs(1);

/// Interval of checks for a suspend and a lost address.
const SUSPEND_CHECK: Duration = Duration::from_secs(1);
