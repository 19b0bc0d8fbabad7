//! Sends a permitted request to the application, or stores its webhook, as the route says.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hookward_core::clock::UnixMillis;
use hookward_core::reason::Code;
use hookward_gate::engine::{Permit, PermitRecord, Request, RequestHead};
use hookward_gate::policy::{Delivery, DeliveryMode};
use hookward_tunnel::protocol::head::{DeliveryMeta, ExchangeRequest};
use http::StatusCode;
use time::OffsetDateTime;
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use crate::delivery::attempt::{EndedAttempt, end_of, retry_after};
use crate::delivery::outcome::LONGEST_WAIT;
use crate::edge::state::EdgeState;
use crate::forward::{self, Destination, ForwardError, Forwarded, RequestBody};
use crate::observe::outcome::{StoredWebhook, Verdict};
use crate::storage::agents::AgentId;
use crate::storage::deliveries::{ClaimGuard, NewDelivery, Payload, StoreRefusal};

/// A permitted request on its way.
pub(super) struct Delivering {
    pub edge: Arc<EdgeState>,
    /// Public host of the tunnel.
    pub host: Arc<str>,
    /// Origin of its public URL.
    pub origin: Arc<str>,
    /// Agent whose policy has permitted the request.
    pub owner: AgentId,
    /// Time of receipt.
    pub received: UnixMillis,
    pub request: ExchangeRequest,
}

type Sending = Pin<Box<dyn Future<Output = Result<Forwarded, ForwardError>> + Send>>;

impl Delivering {
    /// Sends or stores the request. Confirms the claim if the sender gets a 2xx.
    ///
    /// # Errors
    /// The verdict on a request that gets no response of the application.
    pub(super) async fn run(
        mut self,
        permit: Permit,
        outgoing: RequestBody,
        claim: Option<ClaimGuard>,
    ) -> Result<Forwarded, Verdict> {
        let delivery = permit.settings().delivery_of(&self.request.method);
        let mode = delivery.map(|delivery| delivery.mode);
        let is_enabled = self.edge.deliveries.is_enabled();
        match (mode, outgoing) {
            (Some(DeliveryMode::Queue), RequestBody::Buffered(body, _)) if is_enabled => {
                let delivery = self.new_delivery(&permit.record(), body);
                let reason = "the route stores every webhook";
                Err(self.store(delivery, claim, reason).await)
            }
            (
                Some(DeliveryMode::Fallback | DeliveryMode::Preset),
                RequestBody::Buffered(body, charge),
            ) if is_enabled => {
                // The request is the first attempt of a delivery that may be stored.
                self.request.meta.delivery = Some(DeliveryMeta {
                    id: self.delivery_id(),
                    attempt: 1,
                    redelivered: 0,
                    received: None,
                    epoch: 0,
                });
                let kept = Arc::new(self);
                let fallback = Fallback {
                    record: permit.record(),
                    body: body.clone(),
                    claim,
                    kept: Arc::clone(&kept),
                };
                let sending = kept.send(permit, RequestBody::Buffered(body, charge));
                fallback.run(sending).await
            }
            (_, outgoing) => {
                let edge = Arc::clone(&self.edge);
                let sending = Arc::new(self).send(permit, outgoing);
                let forwarded = unless_stopping(&edge, sending).await?;
                confirm(claim, &forwarded).await;
                Ok(forwarded)
            }
        }
    }

    /// Sends the request. Boxed, because only forwarding needs its size, not a request that waits
    /// for a verdict.
    fn send(self: Arc<Self>, permit: Permit, outgoing: RequestBody) -> Sending {
        Box::pin(async move {
            let (edge, request) = (&self.edge, &self.request);
            let (registry, limits) = (&edge.registry, &edge.limits);
            let destination = Destination {
                host: &self.host,
                owner: self.owner,
            };
            forward::forward(permit, registry, destination, request, outgoing, limits).await
        })
    }

    /// Returns the public id of the delivery. Its random part is that of the request's id.
    fn delivery_id(&self) -> Uuid {
        let [_, _, _, _, _, _, random @ ..] = self.request.meta.id.0;
        uuid::Builder::from_unix_timestamp_millis(self.received.0, &random).into_uuid()
    }

    fn head(&self) -> RequestHead<'_> {
        RequestHead {
            method: &self.request.method,
            target: &self.request.target,
            headers: &self.request.headers,
            origin: &self.origin,
        }
    }

    /// Returns the webhook to store.
    fn new_delivery(&self, record: &PermitRecord, body: Bytes) -> NewDelivery {
        let request = &self.request;
        let whole = Request::new(self.head(), &body);
        let grant = record.grant(&whole, self.received);
        let facts = record.delivery_facts(&whole);

        NewDelivery {
            id: self.delivery_id(),
            tunnel: Arc::clone(&self.host),
            owner: self.owner,
            route: grant.settings.name.clone(),
            provider: facts.provider,
            event: facts.event,
            order: facts.order,
            payload: Payload {
                head: request.encode(|_| true).freeze(),
                // A grant has only text, numbers and bytes, which JSON can represent.
                grant: serde_json::to_vec(&grant).unwrap_or_default().into(),
                body,
            },
            attempts: 0,
            due_in: Duration::ZERO,
        }
    }

    /// Stores a webhook without an attempt.
    async fn store(
        &self,
        delivery: NewDelivery,
        claim: Option<ClaimGuard>,
        reason: &str,
    ) -> Verdict {
        let id = delivery.id;
        match self.edge.deliveries.accept(delivery, claim).await {
            Ok(_) => Verdict::Stored(StoredWebhook {
                delivery: id,
                is_fallback: false,
                reason: reason.to_owned(),
            }),
            Err(refusal) => Verdict::unstorable(refusal),
        }
    }
}

/// A request whose webhook is stored if no response comes.
struct Fallback {
    kept: Arc<Delivering>,
    record: PermitRecord,
    body: Bytes,
    claim: Option<ClaimGuard>,
}

impl Fallback {
    async fn run(mut self, mut sending: Sending) -> Result<Forwarded, Verdict> {
        let edge = Arc::clone(&self.kept.edge);
        if self.is_behind_another().await {
            drop(sending);
            let delivery = self.kept.new_delivery(&self.record, self.body);
            let reason = "an older webhook with its ordering key is stored";
            return Err(self.kept.store(delivery, self.claim, reason).await);
        }

        let after = self.record.fallback_after();
        let sent = tokio::select! {
            biased;
            sent = &mut sending => sent,
            () = edge.last_call.cancelled() => Err(ForwardError::Stopping),
            () = sleep(after) => match self.store_running(sending, after).await {
                Ok(verdict) => return Err(verdict),
                // The sender waits for the application, as without a store.
                Err(sending) => unless_stopping(&edge, sending).await,
            },
        };

        let reason = match &sent {
            Ok(forwarded) if self.falls_back(forwarded.response.status()) => {
                format!(
                    "the application answered {}",
                    forwarded.response.status().as_u16()
                )
            }
            Err(error) if is_outage(error) => error.to_string(),
            Ok(_) | Err(_) => {
                let forwarded = sent?;
                confirm(self.claim.take(), &forwarded).await;
                return Ok(forwarded);
            }
        };

        let mut delivery = self.kept.new_delivery(&self.record, self.body);
        let id = delivery.id;
        let is_attempt = !matches!(sent, Err(ForwardError::Offline(_) | ForwardError::NoStream));
        if is_attempt {
            (delivery.attempts, delivery.due_in) = (1, next_attempt(&sent));
        }
        match edge.deliveries.accept(delivery, self.claim).await {
            // A commit that took too long may have stored it.
            Ok(_) | Err(StoreRefusal::Known) => Err(stored_as(id, &reason)),
            // The sender gets what it would get without a store.
            Err(refusal) => {
                edge.observer.not_stored(&self.kept.host, &refusal);
                Ok(sent?)
            }
        }
    }

    /// Returns `true` if an older webhook with the same ordering key waits, which this one must not
    /// overtake.
    async fn is_behind_another(&self) -> bool {
        let (kept, deliveries) = (&self.kept, &self.kept.edge.deliveries);
        if !self.record.is_ordered() || !deliveries.has_pending(&kept.host) {
            return false;
        }
        let order = {
            let whole = Request::new(kept.head(), &self.body);
            self.record.delivery_facts(&whole).order
        };
        let waiting = deliveries.is_waiting(&kept.host, order);
        // The provider's limit leaves a second beside the wait for the application.
        timeout(ORDER_TIMEOUT, waiting).await.unwrap_or(true)
    }

    fn falls_back(&self, status: StatusCode) -> bool {
        let delivery = self.record.delivery();
        delivery.is_some_and(|delivery| delivery.falls_back(status.as_u16()))
    }

    /// Stores the webhook while its attempt goes on, whose end decides what follows. Returns the
    /// attempt if the webhook cannot be stored.
    async fn store_running(
        &mut self,
        sending: Sending,
        after: Duration,
    ) -> Result<Verdict, Sending> {
        let edge = &self.kept.edge;
        let mut delivery = self.kept.new_delivery(&self.record, self.body.clone());
        let id = delivery.id;
        let longest = self.record.answer_timeout() + edge.limits.response_margin + RESERVE;
        (delivery.attempts, delivery.due_in) = (1, longest);
        let bytes = delivery.payload.bytes() as u64;
        let (host, owner) = (&self.kept.host, self.kept.owner);
        if let Some(refusal) = edge.deliveries.refusal(host, owner, bytes) {
            // The claim stays, because the attempt goes on.
            edge.observer.not_stored(host, &refusal);
            return Err(sending);
        }
        let head = match edge.deliveries.accept(delivery, self.claim.take()).await {
            Ok(head) => head,
            Err(refusal) => {
                edge.observer.not_stored(&self.kept.host, &refusal);
                return Err(sending);
            }
        };

        let (settings, started) = (self.record.delivery().cloned(), Instant::now());
        let running = Box::pin(async move {
            EndedAttempt {
                end: end_of(sending.await).await,
                delivery: settings.unwrap_or_else(|| Delivery::new(DeliveryMode::Fallback)),
                number: 1,
                took: after + started.elapsed(),
            }
        });
        edge.deliveries
            .take_over(&self.kept.host, head, running)
            .await;
        let seconds = after.as_secs_f64();
        Ok(stored_as(id, &format!("no response within {seconds} s")))
    }
}

/// Returns the wait before the second attempt.
fn next_attempt(sent: &Result<Forwarded, ForwardError>) -> Duration {
    let headers = sent
        .as_ref()
        .ok()
        .map(|forwarded| forwarded.response.headers());
    let named = headers.and_then(|headers| retry_after(headers, OffsetDateTime::now_utc()));
    named.map_or(NEXT_ATTEMPT, |wait| wait.clamp(NEXT_ATTEMPT, LONGEST_WAIT))
}

/// Returns `true` if the webhook may be stored after this error: the sender is not responsible.
fn is_outage(error: &ForwardError) -> bool {
    matches!(
        error.code(),
        Code::AgentOffline
            | Code::Overloaded
            | Code::TunnelError
            | Code::UpstreamUnreachable
            | Code::UpstreamError
            | Code::UpstreamTimeout
    ) && !matches!(error, ForwardError::Body(_))
}

/// Runs a request until the relay stops.
async fn unless_stopping(edge: &EdgeState, sending: Sending) -> Result<Forwarded, ForwardError> {
    tokio::select! {
        biased;
        sent = sending => sent,
        () = edge.last_call.cancelled() => Err(ForwardError::Stopping),
    }
}

/// Confirms the claim on a delivery that was answered 2xx.
async fn confirm(claim: Option<ClaimGuard>, forwarded: &Forwarded) {
    if let Some(claim) = claim.filter(|_| forwarded.response.status().is_success()) {
        claim.confirm().await;
    }
}

fn stored_as(delivery: Uuid, reason: &str) -> Verdict {
    Verdict::Stored(StoredWebhook {
        delivery,
        is_fallback: true,
        reason: format!("stored, and delivered later: {reason}"),
    })
}

/// Wait before the second attempt, unless the response names a longer one.
const NEXT_ATTEMPT: Duration = Duration::from_secs(1);

/// Time that an attempt may take beyond its deadlines.
const RESERVE: Duration = Duration::from_secs(30);

/// Time to find out if an older webhook waits; one that is not known to wait is stored.
const ORDER_TIMEOUT: Duration = Duration::from_millis(500);
