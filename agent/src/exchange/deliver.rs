//! Attempts of deliveries: permits a stored webhook again, and sends each delivery once.

use std::sync::Arc;
use std::time::Duration;

use hookward_core::clock::{Moment, UnixMillis};
use hookward_core::reason::{Code, Refusal};
use hookward_gate::engine::{CLOCK_TOLERANCE_MS, Evaluation, Grant, Permit, Request, RequestHead};
use hookward_gate::request::OwnedHead;
use hookward_runtime::offload::OFFLOAD_BYTES;
use hookward_tunnel::protocol::head::{DeliveryMeta, ExchangeRequest};
use hookward_tunnel::transport::MessageBody;
use http_body_util::Full;
use tokio::sync::oneshot;

use super::delivery_log::{Begun, DeliveryInProgress};
use super::tunnel_gate::GateHistory;
use super::{Exchange, ExchangeError, PermitFacts, ResponseSent};
use crate::upstream::UpstreamBody;

/// An attempt to deliver a stored webhook.
pub(super) struct StoredAttempt {
    pub delivery: DeliveryMeta,
    /// Time of receipt, as the relay states it.
    pub received: UnixMillis,
    pub gates: Arc<GateHistory>,
    pub now: Moment,
}

impl Exchange<'_> {
    /// Begins the delivery that a request is an attempt of.
    ///
    /// # Errors
    /// The application has accepted it, or is still busy with it.
    pub(super) async fn begin(
        &self,
        request: &ExchangeRequest,
        patience: Duration,
    ) -> Result<Option<DeliveryInProgress>, ExchangeError> {
        let Some(delivery) = request.meta.delivery else {
            return Ok(None);
        };
        let is_stored = delivery.received.is_some();
        let begun =
            self.handler
                .deliveries
                .begin((delivery.id, delivery.redelivered), is_stored, patience);
        match begun.await {
            Begun::New(begun) => Ok(Some(begun)),
            Begun::Completed(status) => Err(ExchangeError::Completed(status)),
            Begun::Busy => Err(ExchangeError::Failed(
                Code::TunnelError,
                "an earlier attempt of the delivery is still in progress".to_owned(),
            )),
        }
    }

    /// Sends a stored webhook to the application. The attempt goes on when the relay is lost, so
    /// that its result is known when the relay returns.
    pub(super) async fn deliver(
        &self,
        attempt: StoredAttempt,
        request: ExchangeRequest,
        body: Option<MessageBody>,
    ) -> Result<ResponseSent, ExchangeError> {
        let StoredAttempt {
            delivery,
            received,
            gates,
            now,
        } = attempt;
        if !self.started.admits_epoch(self.host, delivery.epoch) {
            return Err(ExchangeError::Failed(
                Code::TunnelError,
                "another relay owns the delivery by now".to_owned(),
            ));
        }

        if received.0 > now.wall.0.saturating_add(CLOCK_TOLERANCE_MS) {
            // The relay tries again until the clocks agree.
            return Err(ExchangeError::Failed(
                Code::TunnelError,
                "the time of receipt lies in the future: does the relay's clock agree with this one?"
                    .to_owned(),
            ));
        }

        let head = RequestHead {
            method: &request.method,
            target: &request.target,
            headers: &request.headers,
            origin: self.origin,
        };
        let most = gates
            .current
            .settings_for(head)
            .map_or(0, |settings| settings.max_body);
        let key = (delivery.id, delivery.redelivered);
        if let Some(status) = self.handler.deliveries.completed(key).await {
            return Err(ExchangeError::Completed(status));
        }
        let (whole, held) = self.read_whole(body, most, request.meta.client).await?;
        self.tap.whole_request(&whole);

        let owned = OwnedHead::from(head);
        let state = Arc::clone(&self.handler.state);
        let (meta, content) = (request.meta.clone(), whole.clone());
        let is_requested = self.handler.deliveries.is_requested(delivery.id);
        let check = move || {
            let request = Request::new(owned.head(), &content);
            let evaluation = Evaluation::new(meta.client, now, &state).with_keys(&meta.keys);
            let grant = Grant {
                is_requested,
                ..Grant::unproven(&request, received)
            };
            let (gate, retired) = (&gates.current, &gates.retired);
            gate.permit_again(&request, &grant, evaluation, retired)
        };
        let permit = match whole.len() <= OFFLOAD_BYTES {
            true => check()?,
            false => self.offloaded(check).await??,
        };

        // After the gate, so that a hostile relay cannot fill the log.
        let begun = self.begin(&request, self.deadlines.body_idle()).await?;
        self.tap.permitted();
        let facts = PermitFacts::of(&permit);
        let (result, answered) = oneshot::channel();
        let (handler, deadlines) = (Arc::clone(self.handler), self.deadlines);
        self.handler.tasks.spawn(async move {
            let client = request.meta.client;
            let body = UpstreamBody::Whole(Full::new(whole));
            let asked = handler.ask(deadlines, &permit, request, body).await;
            if let Ok((response, _)) = &asked
                && response.status().is_success()
            {
                if let Some(begun) = begun {
                    begun.complete(response.status().as_u16()).await;
                }
                // A relay must not present the content as another delivery.
                let now = handler.clock.moment();
                permit.note_processed(Evaluation::new(client, now, &handler.state));
            }
            drop(held);
            // The relay may be lost; the log has the result.
            let _ = result.send(asked);
        });

        let (response, connection) = answered.await.map_err(|_| ExchangeError::Aborted)??;
        Ok(facts.with_response(response, connection))
    }

    async fn offloaded(
        &self,
        check: impl FnOnce() -> Result<Permit, Refusal> + Send + 'static,
    ) -> Result<Result<Permit, Refusal>, ExchangeError> {
        let checked = self.handler.offload.run(&self.handler.checks, check).await;
        checked.map_err(|timeout| ExchangeError::Failed(Code::Overloaded, timeout.to_string()))
    }
}
