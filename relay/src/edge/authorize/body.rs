//! Reads the body for the checks that need it, and runs them.

use super::Authorizer;
use crate::observe::outcome::Verdict;
use bytes::Bytes;
use hookward_core::fetched_keys::FetchedKeys;
use hookward_core::limits::DOCTOR_BYTES;
use hookward_core::reason::{Check, Code, Refusal};
use hookward_gate::engine::{Decision, Evaluation, GateState, PendingBody, Request};
use hookward_gate::inspection::Work;
use hookward_gate::providers::challenge::ChallengeResponse;
use hookward_gate::request::{OwnedHead, RequestHead};
use hookward_runtime::offload::{OFFLOAD_BYTES, QueueTimeout};
use std::sync::Arc;

impl Authorizer<'_> {
    pub(super) async fn body_of(
        &self,
        mut pending: PendingBody,
        body: &Bytes,
        state: &Arc<GateState>,
        keys: &mut FetchedKeys,
    ) -> Result<Decision, Refusal> {
        if pending.may_want_keys() {
            let wanted;
            (pending, wanted) = self
                .check(body, move |head, body| {
                    let wanted = pending.wanted_keys(head, body);
                    (pending, wanted)
                })
                .await?;

            if !wanted.is_empty() {
                *keys = self
                    .edge
                    .keys
                    .get(&wanted, self.edge.limits.fetch_timeout)
                    .await;
            }
        }

        let gate = pending.gate();
        let (client, now) = (self.client, self.received);
        let (of_check, fetched) = (Arc::clone(state), keys.clone());
        let check = move |head: RequestHead<'_>, body: &[u8]| {
            let evaluation = Evaluation::new(client, now, &of_check).with_keys(&fetched);
            pending.check_body(head, body, evaluation)
        };
        let decision = self.check(body, check).await?;
        decision.inspect_err(|refusal| gate.note_refusal(refusal, self.evaluation(state)))
    }

    /// Runs a check of the body; of a large body on another thread.
    pub(super) async fn check<T: Send + 'static>(
        &self,
        body: &Bytes,
        check: impl FnOnce(RequestHead<'_>, &[u8]) -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        if body.len() <= OFFLOAD_BYTES {
            return Ok(check(self.head, body));
        }

        let (head, body) = (OwnedHead::from(self.head), body.clone());
        let checked = self
            .edge
            .offload
            .run(self.checks, move || check(head.head(), &body))
            .await;

        checked.map_err(|QueueTimeout| {
            Refusal::new(Check::Body, Code::Overloaded, QueueTimeout.to_string())
        })
    }

    /// Returns the verdict on a challenge. Some challenges are confirmed by fetching a URL of the
    /// provider.
    pub(super) async fn confirm(&self, answer: Box<ChallengeResponse>) -> Verdict {
        /// Maximum size of the confirmation's response, in bytes. Its content is ignored.
        const CONFIRMATION_BYTES: usize = 64 * 1024;

        if let Some(url) = &answer.confirm {
            // Boxed, because it is rare and large: otherwise every request that waits for its body
            // would reserve its size.
            let fetching = Box::pin(self.edge.fetcher.get(url, CONFIRMATION_BYTES));
            if let Err(error) = fetching.await {
                let reason = format!("the subscription could not be confirmed: {error}");
                return Refusal::new(Check::Signature, Code::Overloaded, reason).into();
            }
        }

        Verdict::Challenge(answer)
    }

    /// Adds to a signature refusal what would have made the signature match, for the tunnel's
    /// owner. Skipped when recent diagnoses cost too much CPU time, or no thread is free.
    pub(super) async fn diagnosed(
        &self,
        refusal: Refusal,
        body: &Bytes,
        keys: &FetchedKeys,
    ) -> Refusal {
        let diagnoses = &self.edge.diagnoses;
        if refusal.check != Check::Signature || !diagnoses.has_room(self.received.steady) {
            return refusal;
        }

        let (gate, head, body, keys) = (
            Arc::clone(self.gate),
            OwnedHead::from(self.head),
            body.clone(),
            keys.clone(),
        );
        let (client, now, state) = (self.client, self.received, Arc::clone(self.state));
        let work = Work::up_to(DOCTOR_BYTES);
        let (meter, clock) = (Arc::clone(diagnoses), self.edge.clock.clone());

        let diagnose = move || {
            let evaluation = Evaluation::new(client, now, &state).with_keys(&keys);
            let hints = gate.diagnose(&Request::new(head.head(), &body), evaluation, &work);
            // Before the await, so that a sender that disconnects is charged, too.
            meter.spend(work.total(), clock.moment().steady);
            hints
        };

        let hints = self
            .edge
            .offload
            .run_at_once(diagnose)
            .await
            .unwrap_or_default();
        match hints.first() {
            Some(hint) => Refusal {
                reason: format!("{}; {hint}", refusal.reason),
                ..refusal
            },
            None => refusal,
        }
    }
}
