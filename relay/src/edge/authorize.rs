//! Runs a request through its gates: the operator's baseline policy, if there is one, and the
//! tunnel's policy. Reads the body if a check needs it, fetches published keys, claims the
//! delivery. The result is a permit with the request to send, or a response of the relay itself.

mod body;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hookward_core::clock::Moment;
use hookward_core::fetched_keys::FetchedKeys;
use hookward_core::names::HostName;
use hookward_core::reason::Refusal;
use hookward_gate::engine::{
    AfterClaim, Decision, Evaluation, Gate, GateState, HeadVerdict, Permit, RouteSettings,
};
use hookward_gate::policy::DeliveryMode;
use hookward_gate::request::RequestHead;
use hookward_runtime::body_memory::MemoryCharge;
use hookward_runtime::offload::OffloadQueue;

use crate::body::request::{SenderBody, too_large};
use crate::edge::state::EdgeState;
use crate::forward::RequestBody;
use crate::observe::outcome::Verdict;
use crate::storage::agents::AgentId;
use crate::storage::deliveries::ClaimGuard;

/// A request while it passes the gates.
pub(crate) struct Authorizer<'c> {
    /// State that all requests share.
    pub edge: &'c EdgeState,
    pub head: RequestHead<'c>,
    pub host: &'c HostName,
    /// Client address.
    pub client: IpAddr,
    pub received: Moment,
    pub gate: &'c Arc<Gate>,
    /// State of the tunnel's gate.
    pub state: &'c Arc<GateState>,
    /// Queue for checks of the tunnel's large bodies.
    pub checks: &'c OffloadQueue,
    /// `true` if the request asks for a WebSocket.
    pub wants_upgrade: bool,
    /// `true` if no agent is connected.
    pub is_away: bool,
    /// Agent whose policy is in force.
    pub owner: AgentId,
    /// Announced length of the body.
    pub length: Option<u64>,
}

/// A request that passed.
pub(crate) struct Authorized {
    pub permit: Permit,
    /// Body to send.
    pub body: RequestBody,
    /// Keys that were fetched, for the agent's gate.
    pub keys: FetchedKeys,
    /// Claim on the delivery, confirmed when the application answers 2xx.
    pub claim: Option<ClaimGuard>,
}

/// Parts of a request that the checks have read, for an owner that captures refused ones.
#[derive(Default)]
pub(crate) struct Examined {
    /// Whole body; `None` if no check has read it.
    pub body: Option<Bytes>,
    /// Keys that were fetched.
    pub keys: FetchedKeys,
    /// Time in which the body was received.
    pub receiving: Duration,
}

/// The body, as far as it has been received.
enum ReceivedBody {
    Read(Bytes, MemoryCharge),
    Coming(SenderBody, MemoryCharge),
}

impl Authorizer<'_> {
    /// Decides about the request. `examined` becomes what the checks read of it.
    ///
    /// # Errors
    /// The verdict on a request that is not forwarded: the first refusal, a challenge, or a
    /// duplicate.
    pub(crate) async fn authorize(
        &self,
        mut body: SenderBody,
        mut charge: MemoryCharge,
        examined: &mut Examined,
    ) -> Result<Box<Authorized>, Verdict> {
        let baseline = match self.edge.baseline.gate() {
            Some(gate) => Some(
                self.head_of(&gate, &self.edge.baseline_state)
                    .map_err(by_baseline)?,
            ),
            None => None,
        };

        let sent = match baseline {
            Some(HeadVerdict::Decided(Decision::Answer(answer))) => {
                return Err(self.confirm(answer).await);
            }
            None | Some(HeadVerdict::Decided(_)) => ReceivedBody::Coming(body, charge),
            // The baseline policy finishes before the tunnel's gate counts the request against a
            // rate.
            Some(HeadVerdict::ReadBody(pending)) => {
                let whole = self
                    .whole(&mut body, pending.max_body(), &mut charge)
                    .await?;
                examined.body = Some(whole.clone());
                let mut keys = FetchedKeys::default();
                let decision = self
                    .body_of(pending, &whole, &self.edge.baseline_state, &mut keys)
                    .await;
                if let Decision::Answer(answer) = decision.map_err(by_baseline)? {
                    return Err(self.confirm(answer).await);
                }

                ReceivedBody::Read(whole, charge)
            }
        };

        let own = self.head_of(self.gate, self.state)?;
        self.check_room()?;
        let own = match own {
            HeadVerdict::Decided(decision) => {
                return self.decided(decision, sent, FetchedKeys::default()).await;
            }
            HeadVerdict::ReadBody(pending) => pending,
        };

        let since = Instant::now();
        let (whole, charge) = self.whole_of(sent, own.max_body()).await?;
        examined.receiving = since.elapsed();
        examined.body = Some(whole.clone());

        let mut keys = FetchedKeys::default();
        let decision = self.body_of(own, &whole, self.state, &mut keys).await;
        let decision = match decision {
            Ok(decision) => decision,
            Err(refusal) => {
                let diagnosed = self.diagnosed(refusal, &whole, &keys).await;
                examined.keys = keys;
                return Err(diagnosed.into());
            }
        };

        self.decided(decision, ReceivedBody::Read(whole, charge), keys)
            .await
    }

    /// Refuses a webhook that could not be stored, before its body is read.
    fn check_room(&self) -> Result<(), Verdict> {
        let settings = self.gate.settings_for(self.head);
        let delivery = settings.and_then(|settings| settings.delivery_of(self.head.method));
        let is_sure = match delivery.map(|delivery| delivery.mode) {
            Some(DeliveryMode::Queue) => true,
            Some(DeliveryMode::Fallback | DeliveryMode::Preset) => self.is_away,
            Some(DeliveryMode::Direct) | None => false,
        };

        let deliveries = &self.edge.deliveries;
        if !is_sure || !deliveries.is_enabled() {
            return Ok(());
        }
        let length = self.length.unwrap_or_default();
        match deliveries.refusal(self.host.as_str(), self.owner, length) {
            Some(refusal) => Err(Verdict::unstorable(refusal)),
            None => Ok(()),
        }
    }

    /// Returns the whole body. One of the gates may have read it already.
    async fn whole_of(
        &self,
        body: ReceivedBody,
        most: u64,
    ) -> Result<(Bytes, MemoryCharge), Refusal> {
        match body {
            ReceivedBody::Read(whole, charge) if whole.len() as u64 <= most => Ok((whole, charge)),
            ReceivedBody::Read(..) => Err(too_large(most)),
            ReceivedBody::Coming(mut body, mut charge) => {
                let whole = self.whole(&mut body, most, &mut charge).await?;
                Ok((whole, charge))
            }
        }
    }

    /// Reads the whole body, up to the maximum of the gate and of the relay.
    async fn whole(
        &self,
        body: &mut SenderBody,
        cap: u64,
        charge: &mut MemoryCharge,
    ) -> Result<Bytes, Refusal> {
        let cap = cap.min(self.edge.limits.max_body_bytes);
        body.read_whole(cap, self.edge.limits.body_read_timeout, charge)
            .await
    }

    /// Runs only the checks of the head, for a request that could not be forwarded anyway.
    ///
    /// # Errors
    /// The first refusal.
    pub(crate) fn check_head(&self) -> Result<(), Refusal> {
        if let Some(gate) = self.edge.baseline.gate() {
            self.head_of(&gate, &self.edge.baseline_state)
                .map_err(by_baseline)?;
        }
        self.head_of(self.gate, self.state).map(drop)
    }

    /// Returns `true` if the body must be read whole, because its webhook is stored or may be. A
    /// route with a queue stores every webhook; another one those of a known size that fits.
    fn must_store(&self, settings: &RouteSettings, length: Option<u64>) -> bool {
        let delivery = settings.delivery_of(self.head.method);
        let fits = length.is_some_and(|length| length <= settings.max_body);
        self.edge.deliveries.is_enabled()
            && match delivery.map(|delivery| delivery.mode) {
                Some(DeliveryMode::Queue) => true,
                Some(DeliveryMode::Fallback | DeliveryMode::Preset) => fits,
                Some(DeliveryMode::Direct) | None => false,
            }
    }

    /// Returns the circumstances for a gate with this state.
    fn evaluation<'s>(&self, state: &'s GateState) -> Evaluation<'s> {
        Evaluation::new(self.client, self.received, state)
    }

    fn head_of(&self, gate: &Arc<Gate>, state: &GateState) -> Result<HeadVerdict, Refusal> {
        let evaluation = self.evaluation(state);
        let verdict = gate.check_head(self.head, evaluation);
        verdict.inspect_err(|refusal| gate.note_refusal(refusal, evaluation))
    }

    /// Applies the decision of the tunnel's gate.
    async fn decided(
        &self,
        decision: Decision,
        sent: ReceivedBody,
        keys: FetchedKeys,
    ) -> Result<Box<Authorized>, Verdict> {
        let (permit, claim) = match decision {
            Decision::Forward(permit) => (permit, None),
            Decision::Answer(answer) | Decision::Pair(_, answer) => {
                return Err(self.confirm(answer).await);
            }
            Decision::Claim(pending) => {
                let (claimed, held) = self
                    .edge
                    .deliveries
                    .store()
                    .claim(self.host, &pending.claim)
                    .await;
                match pending.after_claim(claimed, self.evaluation(self.state))? {
                    AfterClaim::Acknowledge => return Err(Verdict::Duplicate),
                    AfterClaim::Forward(permit) => (permit, Some(held)),
                }
            }
        };

        let outgoing = match sent {
            _ if self.wants_upgrade && permit.settings().websocket => RequestBody::Upgrade,
            ReceivedBody::Read(bytes, charge) => RequestBody::Buffered(bytes, charge),
            ReceivedBody::Coming(mut rest, mut charge)
                if self.must_store(permit.settings(), rest.length()) =>
            {
                let most = permit.settings().max_body;
                let whole = self.whole(&mut rest, most, &mut charge).await?;
                RequestBody::Buffered(whole, charge)
            }
            ReceivedBody::Coming(mut rest, mut charge) => {
                let gathered = rest.gather(&mut charge).await?;
                if gathered.complete && gathered.trailers.is_none() {
                    RequestBody::Buffered(gathered.bytes, charge)
                } else {
                    RequestBody::Streaming(gathered, charge, Box::new(rest))
                }
            }
        };

        Ok(Box::new(Authorized {
            permit,
            body: outgoing,
            keys,
            claim,
        }))
    }
}

/// Marks a refusal as one of the operator's baseline policy, for the tunnel's owner.
fn by_baseline(refusal: Refusal) -> Refusal {
    Refusal {
        reason: format!("the relay's baseline policy: {}", refusal.reason),
        ..refusal
    }
}
