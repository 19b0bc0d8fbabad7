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
use tokio::time::sleep;
use uuid::Uuid;

use crate::delivery::attempt::{EndedAttempt, end_of};
use crate::edge::state::EdgeState;
use crate::forward::{self, ForwardError, Forwarded, RequestBody};
use crate::observe::outcome::{StoredWebhook, Verdict};
use crate::storage::agents::AgentId;
use crate::storage::deliveries::{ClaimGuard, NewDelivery, Payload};

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
                let (record, id) = (permit.record(), Uuid::now_v7());
                let delivery = self.new_delivery(&record, id, body);
                let stored = self.edge.deliveries.accept(delivery, claim).await;
                stored.map_err(Verdict::unstorable)?;
                let reason = "the route stores every webhook".to_owned();
                Err(Verdict::Stored(StoredWebhook {
                    delivery: id,
                    is_fallback: false,
                    reason,
                }))
            }
            (
                Some(DeliveryMode::Fallback | DeliveryMode::Preset),
                RequestBody::Buffered(body, charge),
            ) if is_enabled => {
                let fallback = Fallback::new(&mut self, &permit, body.clone(), claim);
                let sending = self.send(permit, RequestBody::Buffered(body, charge));
                fallback.run(sending).await
            }
            (_, outgoing) => {
                let edge = Arc::clone(&self.edge);
                let sending = self.send(permit, outgoing);
                let forwarded = unless_stopping(&edge, sending).await?;
                confirm(claim, &forwarded).await;
                Ok(forwarded)
            }
        }
    }

    /// Sends the request. Boxed, because only forwarding needs its size, not a request that waits
    /// for a verdict.
    fn send(self, permit: Permit, outgoing: RequestBody) -> Sending {
        Box::pin(async move {
            let Self {
                edge,
                host,
                request,
                ..
            } = self;
            forward::forward(
                permit,
                &edge.registry,
                &host,
                request,
                outgoing,
                &edge.limits,
            )
            .await
        })
    }

    /// Returns the webhook to store.
    fn new_delivery(&self, record: &PermitRecord, id: Uuid, body: Bytes) -> NewDelivery {
        let request = &self.request;
        let head = RequestHead {
            method: &request.method,
            target: &request.target,
            headers: &request.headers,
            origin: &self.origin,
        };
        let whole = Request::new(head, &body);
        let grant = record.grant(&whole, self.received);
        let facts = record.delivery_facts(&whole);

        NewDelivery {
            id,
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
}

/// A request whose webhook is stored if no response comes.
struct Fallback {
    /// The request without its attempt.
    kept: Delivering,
    record: PermitRecord,
    delivery: Delivery,
    id: Uuid,
    body: Bytes,
    claim: Option<ClaimGuard>,
    /// Time without a response after which the webhook is stored.
    after: Duration,
    /// Time after which the attempt has ended.
    longest: Duration,
}

impl Fallback {
    /// Marks the request as the first attempt of a delivery.
    fn new(
        delivering: &mut Delivering,
        permit: &Permit,
        body: Bytes,
        claim: Option<ClaimGuard>,
    ) -> Self {
        let kept = Delivering {
            edge: Arc::clone(&delivering.edge),
            host: Arc::clone(&delivering.host),
            origin: Arc::clone(&delivering.origin),
            owner: delivering.owner,
            received: delivering.received,
            request: delivering.request.clone(),
        };
        let id = Uuid::now_v7();
        delivering.request.meta.delivery = Some(DeliveryMeta {
            id,
            attempt: 1,
            redelivered: 0,
            received: None,
            epoch: 0,
        });

        let settings = permit.settings();
        let record = permit.record();
        let delivery = settings.delivery.clone();
        Self {
            after: record.fallback_after(),
            record,
            delivery: delivery.unwrap_or_else(|| Delivery::new(DeliveryMode::Fallback)),
            id,
            body,
            claim,
            longest: settings.answer_timeout + kept.edge.limits.response_margin + RESERVE,
            kept,
        }
    }

    async fn run(mut self, mut sending: Sending) -> Result<Forwarded, Verdict> {
        let edge = Arc::clone(&self.kept.edge);
        let sent = tokio::select! {
            biased;
            sent = &mut sending => sent,
            () = edge.last_call.cancelled() => Err(ForwardError::Stopping),
            () = sleep(self.after) => match self.store_running(sending).await {
                Ok(verdict) => return Err(verdict),
                // The sender waits for the application, as without a store.
                Err(sending) => unless_stopping(&edge, sending).await,
            },
        };

        let reason = match &sent {
            Ok(forwarded)
                if self
                    .delivery
                    .falls_back(forwarded.response.status().as_u16()) =>
            {
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

        let mut delivery = self.kept.new_delivery(&self.record, self.id, self.body);
        let is_attempt = !matches!(sent, Err(ForwardError::Offline(_) | ForwardError::NoStream));
        if is_attempt {
            (delivery.attempts, delivery.due_in) = (1, NEXT_ATTEMPT);
        }
        match edge.deliveries.accept(delivery, self.claim).await {
            Ok(_) => Err(stored_as(self.id, &reason)),
            // The sender gets what it would get without a store.
            Err(refusal) => {
                edge.observer.not_stored(&self.kept.host, &refusal);
                Ok(sent?)
            }
        }
    }

    /// Stores the webhook while its attempt goes on, whose end decides what follows. Returns the
    /// attempt if the webhook cannot be stored.
    async fn store_running(&mut self, sending: Sending) -> Result<Verdict, Sending> {
        let edge = &self.kept.edge;
        let mut delivery = self
            .kept
            .new_delivery(&self.record, self.id, self.body.clone());
        (delivery.attempts, delivery.due_in) = (1, self.longest);
        if let Some(refusal) = edge
            .deliveries
            .refusal(&self.kept.host, delivery.payload.bytes() as u64)
        {
            edge.observer.not_stored(&self.kept.host, &refusal);
            return Err(sending);
        }

        let (settings, started) = (self.delivery.clone(), tokio::time::Instant::now());
        let running = Box::pin(async move {
            let end = end_of(sending.await).await;
            EndedAttempt {
                end,
                delivery: settings,
                number: 1,
                took: started.elapsed(),
            }
        });
        let stored = edge
            .deliveries
            .accept_running(delivery, self.claim.take(), running)
            .await;
        Ok(match stored {
            Ok(_) => {
                let seconds = self.after.as_secs_f64();
                stored_as(self.id, &format!("no response within {seconds} s"))
            }
            Err(refusal) => Verdict::unstorable(refusal),
        })
    }
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

/// Wait before the second attempt.
const NEXT_ATTEMPT: Duration = Duration::from_secs(1);

/// Time that an attempt may take beyond its deadlines.
const RESERVE: Duration = Duration::from_secs(30);
