//! Loop of a link while one connection serves: exchanges, control messages, policy changes, and the
//! search for a better connection.

use std::ops::ControlFlow;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use data_encoding::HEXLOWER;
use hookward_core::limits::CONTROL_BYTES;
use hookward_runtime::interval::every;
use hookward_tunnel::protocol::control::{RefusedReason, RelayMessage};
use hookward_tunnel::transport::{MessageReader, MessageWriter, SessionError, StreamError};
use tokio::sync::watch;
use tokio::time::{sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::wait::{first, is_reached, of, other_than};
use super::{ProbeFuture, RelayLink};
use crate::events::Event;
use crate::relay_link::active::{ActiveLink, DRAIN_TIMEOUT, Renewal, take};
use crate::relay_link::backoff::jitter;
use crate::relay_link::calls::{RelayAnswer, RelayCall};
use crate::relay_link::failover::ProbeSchedule;
use crate::relay_link::handshake::open_message;
use crate::relay_link::policy_sync::{Applied, PolicyOffer};
use crate::relay_link::suspend::SuspendDetector;
use crate::relay_link::{AgentMessage, ConnectionError, kept, refused, report_refusals};
use crate::upstream::health::HealthStatus;

/// End of a connection.
pub(super) enum LinkEnd {
    /// The connection failed, or the relay closed it.
    Failed(ConnectionError),
    /// The agent stops.
    Stop,
    /// A better connection serves already.
    Replaced(Box<ActiveLink>),
}

/// Outcome of a step.
type Step = ControlFlow<LinkEnd>;

/// Loop of one connection. Each arm of [`ServingLoop::run`] calls one method, which returns a
/// [`Step`].
pub(super) struct ServingLoop<'l> {
    link: &'l RelayLink,
    active: &'l mut ActiveLink,
    schedule: ProbeSchedule,
    probe: Probe,
    applications: Vec<ReportedHealth>,
    suspend: SuspendDetector,
}

/// Health of a tunnel's application, as the relay knows it and as it is.
struct ReportedHealth {
    /// `true` if the relay was notified that the application is unreachable.
    is_down: bool,
    health: watch::Receiver<HealthStatus>,
}

/// Search for a better connection in progress.
struct Probe {
    running: Option<ProbeFuture>,
    /// `true` once the relay has responded on the new connection.
    reached: watch::Receiver<bool>,
    /// `true` once the loop has noticed that. A connection that opens tunnels is dropped only after a
    /// suspend, because the relay may have sent requests over it.
    is_opening: bool,
}

impl Probe {
    fn idle() -> Self {
        Self {
            running: None,
            reached: watch::channel(false).1,
            is_opening: false,
        }
    }

    fn is_reached(&self) -> bool {
        self.running.is_some() && *self.reached.borrow()
    }

    fn cancel(&mut self) {
        (self.running, self.is_opening) = (None, false);
    }
}

impl<'l> ServingLoop<'l> {
    pub(super) fn new(link: &'l RelayLink, active: &'l mut ActiveLink) -> Self {
        let (at, shared) = (&link.at, &link.shared);
        let found = &active.found;
        let schedule = ProbeSchedule::new(
            at.dialer.could_be_better(found),
            found.address_offset,
            found.addresses,
            link.probe_in,
            tokio::time::Instant::now(),
        );

        // Other agents of a pool take the requests, and stored webhooks wait.
        let applications = shared
            .tunnels
            .iter()
            .map(|tunnel| ReportedHealth {
                is_down: false,
                health: tunnel.handler.pool.health_status(),
            })
            .collect();

        Self {
            link,
            active,
            schedule,
            probe: Probe::idle(),
            applications,
            suspend: SuspendDetector::new(Instant::now(), shared.clock.now()),
        }
    }

    /// Serves until the connection ends.
    pub(super) async fn run(mut self, stop: &CancellationToken) -> LinkEnd {
        let mut checks = every(SUSPEND_CHECK);
        let mut stopped_for_long = pin!(async {
            stop.cancelled().await;
            sleep(DRAIN_TIMEOUT).await;
        });

        loop {
            let can_send = self.active.outbox.is_ready();
            let is_sending = self.active.outbox.is_sending();
            let renews = matches!(self.active.renewal, Renewal::Requested(_));
            let due = self.schedule.due().filter(|_| self.probe.running.is_none());
            let (at, active) = (&self.link.at, &mut *self.active);
            let policies = at.policies.iter().enumerate().map(|(number, policies)| {
                let is_open = active.terms.at(number).is_some() && !at.is_without_host(number);
                // Boxed, because `select_all` moves the futures.
                Box::pin(async move {
                    if is_open {
                        policies.changed().await
                    } else {
                        std::future::pending().await
                    }
                })
            });
            let health = self
                .applications
                .iter_mut()
                .map(|reported| Box::pin(other_than(reported.is_down, &mut reported.health)));

            let step = tokio::select! {
                exchange = active.found.session.accept() => self.on_exchange(exchange),
                message = active.reader.receive(CONTROL_BYTES) => self.on_message(message),
                (number, offer) = first(policies), if can_send && active.pending_policy.is_none() => {
                    self.on_policy_change(number, offer)
                }
                (number, down) = first(health), if can_send => self.on_health_change(number, down),
                call = at.calls.next(), if can_send => self.on_call(call),
                () = std::future::ready(()), if can_send && renews => self.send_renewal(),
                sent = active.outbox.sent() => self.on_sent(sent),
                () = sleep_until(due.unwrap_or_else(tokio::time::Instant::now)), if due.is_some() => {
                    self.on_probe_due()
                }
                () = is_reached(&mut self.probe.reached), if self.probe.running.is_some() && !self.probe.is_opening => {
                    self.on_probe_reached()
                }
                found = of(&mut self.probe.running) => self.on_probe_ended(found, stop),
                _ = checks.tick() => {
                    let now = self.link.shared.clock.now();
                    let was_suspended = self.suspend.was_suspended(Instant::now(), now);
                    self.on_check(was_suspended)
                }
                () = stop.cancelled(), if !is_sending && !self.probe.is_opening => self.on_stop(),
                () = &mut stopped_for_long => ControlFlow::Break(LinkEnd::Stop),
            };

            match step {
                ControlFlow::Continue(()) => self.follow_drain(),
                ControlFlow::Break(LinkEnd::Failed(error)) => return self.on_failure(error).await,
                ControlFlow::Break(end) => return end,
            }
        }
    }

    /// Runs an exchange in its own task.
    fn on_exchange(&self, exchange: Result<(MessageWriter, MessageReader), SessionError>) -> Step {
        match exchange {
            Ok(exchange) => {
                take(exchange, &self.active.terms, &self.active.exchanges);
                ControlFlow::Continue(())
            }
            Err(error) => failed(error),
        }
    }

    /// Offers a new policy to the relay.
    fn on_policy_change(&mut self, number: usize, offer: Arc<PolicyOffer>) -> Step {
        let host = self.active.terms.at(number).map(|at| at.host.to_string());
        let message = open_message(host, &offer);
        self.active.pending_policy = Some((number, offer));
        self.send(message);
        ControlFlow::Continue(())
    }

    /// Reports the health of an application.
    fn on_health_change(&mut self, number: usize, down: bool) -> Step {
        if let Some(reported) = self.applications.get_mut(number) {
            reported.is_down = down;
        }
        let host = self.active.terms.at(number).map(|at| at.host.to_string());
        self.send(AgentMessage::UpstreamHealth {
            host: host.unwrap_or_default(),
            down,
        });
        ControlFlow::Continue(())
    }

    /// Sends a call of the relay's API.
    fn on_call(&mut self, call: RelayCall) -> Step {
        let message = self.active.calls.begin(call);
        self.send(message);
        ControlFlow::Continue(())
    }

    fn send_renewal(&mut self) -> Step {
        if let Renewal::Requested(next) = &self.active.renewal {
            let next = next.clone();
            self.send(AgentMessage::Renew {
                credential_digest: HEXLOWER.encode(next.as_bytes()),
            });
            self.active.renewal = Renewal::Sent(next);
        }
        ControlFlow::Continue(())
    }

    /// Uses the renewed credential, which the relay has stored.
    fn on_renewed(&mut self) {
        let Renewal::Sent(renewed) = std::mem::replace(&mut self.active.renewal, Renewal::None)
        else {
            return;
        };
        let (at, events) = (&self.link.at, &self.link.shared.events);
        if let Err(error) = at.credential.replace(&renewed) {
            events.emit(Event::Warning(format!(
                "the new credential at {} is stored beside the old one only: {error}",
                at.relay.address
            )));
        }
        tracing::info!(relay = %at.relay.address, "credential renewed");
        self.active.credential = renewed;
    }

    /// Begins to send a message.
    fn send(&mut self, message: AgentMessage) {
        let silent = ConnectionError::Silent {
            address: self.link.at.relay.address.clone(),
            transport: self.active.found.session.transport(),
        };
        self.active.outbox.send(message, silent);
    }

    fn on_sent(&self, sent: Result<(), ConnectionError>) -> Step {
        match sent {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => failed(error),
        }
    }

    /// Begins a search for another connection.
    fn on_probe_due(&mut self) -> Step {
        let (sender, reached) = watch::channel(false);
        let offset = self.active.found.address_offset;
        let wanted = self.schedule.begin();
        self.probe = Probe {
            running: Some(self.link.probe(wanted, offset, sender)),
            reached,
            is_opening: false,
        };
        ControlFlow::Continue(())
    }

    const fn on_probe_reached(&mut self) -> Step {
        self.probe.is_opening = true;
        ControlFlow::Continue(())
    }

    /// Moves to the new connection, or schedules the next search.
    fn on_probe_ended(
        &mut self,
        found: Result<ActiveLink, ConnectionError>,
        stop: &CancellationToken,
    ) -> Step {
        self.probe.cancel();
        let now = tokio::time::Instant::now();

        match found {
            // The agent would have to leave it again at once.
            Ok(leaving) if leaving.relay_draining && !self.active.relay_draining => {
                self.link.retire(leaving, stop);
                self.schedule.failed(now, jitter());
                ControlFlow::Continue(())
            }
            Ok(better) => ControlFlow::Break(LinkEnd::Replaced(Box::new(better))),
            Err(error) => {
                tracing::debug!(%error, schedule = ?self.schedule, "probe found no better connection");
                self.schedule.failed(now, jitter());
                ControlFlow::Continue(())
            }
        }
    }

    /// Checks the connection after a suspend, or when the machine lost its address.
    fn on_check(&mut self, was_suspended: bool) -> Step {
        let is_settled = self.active.since.elapsed() > ADDRESS_CHECK;
        let lost_address = is_settled && self.active.found.lost_its_address();
        let now = tokio::time::Instant::now();
        if (was_suspended || lost_address) && self.schedule.revalidate(now) {
            self.probe.cancel();
        }
        ControlFlow::Continue(())
    }

    /// Stops, unless a new connection has just reached its relay: it then ends first.
    fn on_stop(&mut self) -> Step {
        self.probe.is_opening = self.probe.is_reached();
        match self.probe.is_opening {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(LinkEnd::Stop),
        }
    }

    /// Searches for another relay once this one drains.
    fn follow_drain(&mut self) {
        let now = tokio::time::Instant::now();
        if self.active.relay_draining
            && self.schedule.leave_relay(now)
            && !*self.probe.reached.borrow()
        {
            self.probe.cancel();
        }
    }

    /// Ends a failed connection. An almost open one is better than a new attempt.
    async fn on_failure(mut self, error: ConnectionError) -> LinkEnd {
        if self.probe.is_reached()
            && !error.is_final()
            && let Ok(Ok(new)) = timeout(OPENING_GRACE, of(&mut self.probe.running)).await
        {
            return LinkEnd::Replaced(Box::new(new));
        }

        LinkEnd::Failed(error)
    }

    /// Handles a message of the relay.
    fn on_message(&mut self, message: Result<RelayMessage, StreamError>) -> Step {
        let message = match message {
            Ok(message) => message,
            Err(error) => return failed(error),
        };

        let (shared, id) = (&self.link.shared, &self.link.id);
        let events = &shared.events;
        match message {
            RelayMessage::Opened { digest, .. } => self.on_opened(digest.as_deref()),
            RelayMessage::PolicyRejected { message } => self.on_policy_rejected(&message),
            RelayMessage::HostLost { host, message } => {
                let hosts = &self.active.terms.hosts;
                let lost = hosts.iter().find(|at| host.eq_ignore_ascii_case(&at.host));
                match lost.map(|lost| lost.tunnel) {
                    Some(tunnel) => return self.lose_host(tunnel, &message),
                    None => return ControlFlow::Continue(()),
                }
            }
            RelayMessage::Refused {
                reason: RefusedReason::Credential,
                ..
            } if self.link.at.credential.fall_back(&self.active.credential) => {
                return failed(ConnectionError::CredentialReplaced);
            }
            RelayMessage::Refused { reason, message } => {
                let pending = match reason {
                    RefusedReason::Host => self.active.pending_policy.take(),
                    _ => None,
                };
                match pending {
                    Some((number, _)) => return self.lose_host(number, &message),
                    None => return failed(refused(reason, &message)),
                }
            }
            RelayMessage::Refusals { requests, counts } => {
                report_refusals(events, &self.active.terms.hosts, requests, counts);
            }
            RelayMessage::Called { id, status, body } => {
                self.active.calls.answered(id, RelayAnswer { status, body });
            }
            RelayMessage::RenewCredential => self.active.request_renewal(&self.link.at, events),
            RelayMessage::Renewed => self.on_renewed(),
            RelayMessage::Draining => {
                self.active.relay_draining = true;
                shared.status.set_draining(id, events);
            }
            RelayMessage::Standby { standby } => shared.status.set_standby(id, standby, events),
            _ => {}
        }

        ControlFlow::Continue(())
    }

    /// Puts the pending policy in force, which the relay has accepted.
    fn on_opened(&mut self, digest: Option<&str>) {
        let Some((number, offer)) = self.active.pending_policy.take() else {
            return;
        };

        let (at, shared) = (&self.link.at, &self.link.shared);
        offer.compare_digest(digest, &at.relay.address, &shared.events);
        let policies = at.policies.get(number);
        let applied = policies.map_or(Applied::Stale, |policies| policies.accept(&offer));
        if applied != Applied::Stale
            && let Some(gate) = at.gates.get(number)
        {
            offer.put_in_force(gate, shared.clock.now());
        }

        if applied == Applied::New {
            let several = shared.tunnels.len() > 1;
            let tunnel = shared.tunnels.get(number).filter(|_| several);
            let host = tunnel.and_then(|tunnel| tunnel.host.as_ref());
            let of = host.map(|host| format!(" of {host}")).unwrap_or_default();
            shared.events.emit(Event::Note(format!(
                "the new policy{of} is in force at {} (digest {})",
                self.link.id.0, offer.digest
            )));
        }
    }

    /// Keeps the previous policy, because the relay rejected the pending one.
    fn on_policy_rejected(&mut self, message: &str) {
        let Some((number, offer)) = self.active.pending_policy.take() else {
            return;
        };

        let policies = self.link.at.policies.get(number);
        if let Some(policies) = policies.filter(|policies| !policies.is_refused(&offer)) {
            policies.refuse(&offer);
            self.link.shared.events.emit(kept(message));
        }
    }

    /// Continues without the host of a tunnel. Ends the connection if it has no other tunnel.
    fn lose_host(&self, tunnel: usize, message: &str) -> Step {
        let at = &self.link.at;
        at.note_host_refused(tunnel, message, &self.link.shared);

        let mut hosts = self.active.terms.hosts.iter();
        match hosts.all(|host| at.is_without_host(host.tunnel)) {
            true => failed(refused(RefusedReason::Host, message)),
            false => ControlFlow::Continue(()),
        }
    }
}

fn failed(error: impl Into<ConnectionError>) -> Step {
    ControlFlow::Break(LinkEnd::Failed(error.into()))
}

/// Delay before the local address is checked again, because addresses change while a network is set
/// up.
const ADDRESS_CHECK: Duration = Duration::from_secs(2);

/// Time for an almost open connection to become ready after the current one failed.
const OPENING_GRACE: Duration = Duration::from_secs(1);

/// Interval of checks for a suspend and a lost address.
const SUSPEND_CHECK: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
