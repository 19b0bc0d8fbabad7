//! Runs the agent's gate on a request, before and after its body is read.

use super::{Exchange, ExchangeError};
use bytes::Bytes;
use hookward_core::clock::Moment;
use hookward_core::limits::DOCTOR_BYTES;
use hookward_core::names::HostName;
use hookward_core::reason::{Check, Code, Refusal};
use hookward_core::secret::Secret;
use hookward_gate::engine::{Decision, Evaluation, Gate, PendingBody, Request, RequestHead};
use hookward_gate::inspection::Work;
use hookward_gate::providers::challenge::ChallengeResponse;
use hookward_gate::request::OwnedHead;
use hookward_runtime::body_memory::MemoryCharge;
use hookward_runtime::offload::{OFFLOAD_BYTES, QueueTimeout};
use hookward_tunnel::body_buffer::BodyBuffer;
use hookward_tunnel::protocol::head::{self, RequestMeta};
use hookward_tunnel::transport::MessageBody;
use http::header;
use http_body::Body as _;
use http_body_util::BodyExt as _;
use std::net::IpAddr;
use std::sync::Arc;
use tokio::time::timeout;

impl Exchange<'_> {
    /// Runs the checks of the body; for a large one on another thread.
    pub(super) async fn check_body(
        &self,
        pending: PendingBody,
        head: RequestHead<'_>,
        body: &Bytes,
        now: Moment,
        meta: &RequestMeta,
    ) -> Result<Result<Decision, Refusal>, ExchangeError> {
        let state = Arc::clone(&self.handler.state);
        let (client, keys) = (meta.client, &meta.keys);
        if body.len() <= OFFLOAD_BYTES {
            let evaluation = Evaluation::new(client, now, &state).with_keys(keys);
            return Ok(pending.check_body(head, body, evaluation));
        }

        let (head, body, keys) = (OwnedHead::from(head), body.clone(), keys.clone());
        let check = move || {
            let evaluation = Evaluation::new(client, now, &state).with_keys(&keys);
            pending.check_body(head.head(), &body, evaluation)
        };
        self.handler
            .offload
            .run(&self.handler.checks, check)
            .await
            .map_err(|QueueTimeout| {
                ExchangeError::Failed(Code::Overloaded, QueueTimeout.to_string())
            })
    }

    /// Adds to a signature refusal what would have made the signature match, unless recent
    /// diagnoses cost too much or no thread is free.
    pub(super) async fn diagnosed(
        &self,
        refusal: Refusal,
        gate: &Arc<Gate>,
        request: &head::ExchangeRequest,
        body: &Bytes,
        now: Moment,
    ) -> Refusal {
        let diagnoses = &self.handler.diagnoses;
        if refusal.check != Check::Signature || !diagnoses.has_room(now.steady) {
            return refusal;
        }

        let (method, target, headers) = (&request.method, &request.target, &request.headers);
        let head = OwnedHead::from(RequestHead {
            method,
            target,
            headers,
            origin: self.origin,
        });

        let (gate, body, meta) = (Arc::clone(gate), body.clone(), request.meta.clone());
        let state = Arc::clone(&self.handler.state);
        let work = Work::up_to(DOCTOR_BYTES);
        let (meter, clock) = (Arc::clone(diagnoses), self.handler.clock.clone());
        let diagnose = move || {
            let evaluation = Evaluation::new(meta.client, now, &state).with_keys(&meta.keys);
            let hints = gate.diagnose(&Request::new(head.head(), &body), evaluation, &work);
            // Before the await, so that an aborted request is charged, too.
            meter.spend(work.total(), clock.moment().steady);
            hints
        };

        let hints = self
            .handler
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

    /// Stores the secret that a provider sends, and answers its challenge.
    pub(super) fn pair(&self, secret: &Secret, answer: Box<ChallengeResponse>) -> ExchangeError {
        match self.handler.pairing.as_ref().map(|keep| keep(secret)) {
            Some(Ok(())) => ExchangeError::Challenge(answer),
            Some(Err(error)) => ExchangeError::Failed(
                Code::Overloaded,
                format!("the secret could not be kept: {error}"),
            ),
            None => Refusal::failed(Check::Signature, "no pairing is in progress").into(),
        }
    }

    /// Checks the host: the relay chooses the tunnel by it, and the application may choose a site
    /// by it.
    pub(super) fn check_host(&self, request: &head::ExchangeRequest) -> Result<(), Refusal> {
        let mut fields = request.headers.get_all(header::HOST).iter();
        let (field, more) = (fields.next(), fields.next());
        let name = field
            .and_then(|value| value.to_str().ok())
            .and_then(HostName::parse_authority);
        let fits = name.is_some_and(|(name, _)| name.as_str() == &**self.host) && more.is_none();
        if fits && request.meta.host.eq_ignore_ascii_case(self.host.as_bytes()) {
            return Ok(());
        }

        Err(Refusal::new(
            Check::Host,
            Code::Malformed,
            "the request is not for this tunnel's host",
        ))
    }

    /// Reads a body that a check needs, within the agent's body memory.
    pub(super) async fn read_whole(
        &self,
        body: Option<MessageBody>,
        cap: u64,
        client: IpAddr,
    ) -> Result<(Bytes, MemoryCharge), ExchangeError> {
        let mut charge = self.handler.body_memory.begin(client);
        let Some(mut body) = body else {
            return Ok((Bytes::new(), charge));
        };
        let too_large = || {
            Refusal::new(
                Check::BodySize,
                Code::BodyTooLarge,
                format!("the body has more than {cap} bytes"),
            )
        };

        if body.size_hint().exact().is_some_and(|length| length > cap) {
            return Err(too_large().into());
        }

        let reading = async {
            let mut pieces = BodyBuffer::expecting(body.size_hint().exact());
            while let Some(frame) = body.frame().await {
                let Ok(data) = frame.map_err(|_| ExchangeError::Aborted)?.into_data() else {
                    continue;
                };
                if pieces.len() as u64 + data.len() as u64 > cap {
                    return Err(ExchangeError::Refused(too_large()));
                }

                charge
                    .grow(data.len() as u64)
                    .map_err(|full| ExchangeError::Failed(Code::Overloaded, full.to_string()))?;
                pieces.add(data);
            }

            Ok(pieces.into_bytes())
        };

        match timeout(self.deadlines.body_read(), reading).await {
            Ok(read) => {
                charge.complete();
                Ok((read?, charge))
            }
            Err(_) => Err(Refusal::new(
                Check::Body,
                Code::RequestTimeout,
                "the body arrived too slowly",
            )
            .into()),
        }
    }
}
