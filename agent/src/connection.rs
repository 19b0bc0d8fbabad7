//! The tunnel to the relay: dialled, kept, and opened again with jittered backoff when it breaks.
//!
//! The task that runs here owns the session, and through its tracker every exchange. It ends when it
//! is told to stop, or when the relay says something that dialling again will not change.

pub mod policies;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use data_encoding::HEXLOWER;
use hookward_shared::limits::{CONTROL_BYTES, GREETING_BYTES};
use hookward_shared::names::{HostName, origin_of};
use hookward_shared::protocol::control::{FromAgent, FromRelay, RefusedReason, RefusedRequest};
use hookward_shared::secret::Secret;
use hookward_shared::text::printable;
use hookward_shared::transport::identity::Pin;
use hookward_shared::transport::quic::{self, EndpointError, SERVER_NAME};
use hookward_shared::transport::{ControlStream, MessageReader, MessageWriter, Session, SessionError, StreamError};
use quinn::Endpoint;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::policies::{Offer, Policies};
use crate::replay::{Replay, Terms};
use crate::report::{Report, Reporter};

/// For finding the relay's address, the handshake and the greeting, each.
const PATIENCE: Duration = Duration::from_secs(10);
/// The first pause before dialling again.
const BACKOFF_FIRST: Duration = Duration::from_millis(500);
/// The longest.
const BACKOFF_MOST: Duration = Duration::from_secs(30);
/// A session that lasted this long was a good one: the backoff begins anew.
const GOOD_SESSION: Duration = Duration::from_secs(10);
/// For the relay to acknowledge that the agent leaves.
const LEAVE: Duration = Duration::from_secs(2);

/// Where the relay is, and who the agent is to it.
#[derive(Clone)]
pub struct Relay {
    /// Host and port.
    pub address: String,
    /// Its key.
    pub pin: Pin,
    /// The agent's credential.
    pub credential: Secret,
}

/// The tunnel that the relay opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// The public host.
    pub host: String,
    /// The port of the public URL.
    pub port: u16,
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The relay's name has no address.
    #[error("the relay {address} can't be found: {source}")]
    Resolve {
        /// Its address as written.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// The UDP socket.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// The relay does not answer.
    #[error("the relay {0} does not answer; is UDP let through to it?")]
    Silent(String),
    /// Somebody else answers at the relay's address.
    #[error(
        "whoever answers at {0} is not the relay that this agent has joined: its key is another. If the relay was \
         set up anew, join it again with a new token; if not, somebody is in between"
    )]
    WrongKey(String),
    /// The connection could not be made, or broke.
    #[error("{0}")]
    Session(#[from] SessionError),
    /// The control stream broke.
    #[error("{0}")]
    Stream(#[from] StreamError),
    /// The task that keeps the tunnel is gone, by a mistake of this program.
    #[error("the tunnel's task ended: {0}")]
    Ended(String),
    /// The relay said no.
    #[error("the relay refused: {message}")]
    Refused {
        /// Why.
        reason: RefusedReason,
        /// Why, in words.
        message: String,
    },
}

impl ConnectionError {
    /// Whether dialling again could help.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        matches!(self, Self::Refused { reason, .. } if !matches!(reason, RefusedReason::Unavailable | RefusedReason::Other))
    }
}

/// Exchanges the secret of a join token for this credential. Gives the agent's name.
///
/// # Errors
/// [`ConnectionError`].
pub async fn join(address: &str, pin: Pin, secret: Secret, credential: &Secret) -> Result<String, ConnectionError> {
    let (endpoint, session) = dial(address, pin).await?;
    let credential_digest = HEXLOWER.encode(credential.digest().as_bytes());
    let asked = async {
        let mut control = session.open_control().await?;
        control.send(&FromAgent::Join { secret, credential_digest }).await?;
        match control.receive(GREETING_BYTES).await? {
            FromRelay::Joined { agent } => Ok(agent),
            other => Err(unexpected(other)),
        }
    };
    let joined = timeout(PATIENCE, asked).await.unwrap_or_else(|_| Err(ConnectionError::Silent(address.to_owned())));
    session.close("joined");
    let _ = timeout(PATIENCE, endpoint.wait_idle()).await;
    joined
}

async fn dial(address: &str, pin: Pin) -> Result<(Endpoint, Session), ConnectionError> {
    let resolve = |source| ConnectionError::Resolve { address: address.to_owned(), source };
    let found = match timeout(PATIENCE, tokio::net::lookup_host(address)).await {
        Ok(found) => found.map_err(resolve)?,
        Err(_) => return Err(resolve(io::ErrorKind::TimedOut.into())),
    };
    let mut last = resolve(io::Error::other("its name has no address"));
    for target in found {
        let local: SocketAddr =
            if target.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
        // An address that can't be used (no IPv6 here, say) does not keep the next from being tried.
        last = match dial_one(target, local, pin, address).await {
            Ok(dialled) => return Ok(dialled),
            Err(error) => error,
        };
    }
    Err(last)
}

async fn dial_one(
    target: SocketAddr,
    local: SocketAddr,
    pin: Pin,
    address: &str,
) -> Result<(Endpoint, Session), ConnectionError> {
    let endpoint = quic::client(local, pin)?;
    let connecting = endpoint
        .connect(target, SERVER_NAME)
        .map_err(|error| ConnectionError::Session(SessionError::Lost(error.to_string())))?;
    match timeout(PATIENCE, connecting).await {
        Ok(Ok(connection)) => Ok((endpoint, Session::new(connection))),
        Ok(Err(error)) if quic::is_wrong_key(&error) => Err(ConnectionError::WrongKey(address.to_owned())),
        Ok(Err(error)) => Err(ConnectionError::Session(error.into())),
        Err(_) => Err(ConnectionError::Silent(address.to_owned())),
    }
}

/// What one session needs.
pub struct Connector {
    /// The relay.
    pub relay: Relay,
    /// The public host to ask for.
    pub host: Option<String>,
    /// The policies; a new one may come at any time.
    pub policies: Policies,
    /// What handles exchanges.
    pub replay: Arc<Replay>,
    /// Where to say what happens.
    pub reporter: Reporter,
    /// Owns the exchanges.
    pub exchanges: TaskTracker,
    /// For exchanges to end when the agent is stopped.
    pub drain: Duration,
    /// Called when a tunnel is open.
    pub on_open: Box<dyn Fn(Opened) + Send + Sync>,
}

impl Connector {
    /// Keeps a session open until `stop` is cancelled.
    ///
    /// # Errors
    /// What the relay said, when dialling again will not change it.
    pub async fn run(self, stop: CancellationToken) -> Result<(), ConnectionError> {
        let mut failures = 0_u32;
        loop {
            self.reporter.say(Report::Connecting { relay: self.relay.address.clone() });
            let (mut opened, offer) = (None, self.policies.best());
            let why = match self.session(&stop, &offer, &mut opened).await {
                Ok(()) => return Ok(()),
                // A new policy that the relay does not take: the tunnel goes on with the one before.
                Err(ConnectionError::Refused { reason: RefusedReason::Policy, message })
                    if self.policies.refuse(&offer) =>
                {
                    self.reporter.say(kept(&message));
                    continue;
                }
                Err(error) if error.is_final() => return Err(error),
                Err(error) => error.to_string(),
            };
            // Counted from the tunnel's opening: a relay that is silent is asked ever more rarely.
            let good = opened.is_some_and(|at: Instant| at.elapsed() >= GOOD_SESSION);
            let again_in = backoff(if good { 0 } else { failures });
            failures = if good { 1 } else { failures.saturating_add(1) };
            self.reporter.say(Report::Away { why, again_in });
            tokio::select! {
                () = sleep(again_in) => {}
                () = stop.cancelled() => return Ok(()),
            }
        }
    }

    /// One session, from dialling to its end. `Ok` when it was ended on purpose.
    async fn session(
        &self,
        stop: &CancellationToken,
        offer: &Arc<Offer>,
        at: &mut Option<Instant>,
    ) -> Result<(), ConnectionError> {
        let opening = async {
            let (endpoint, session) = dial(&self.relay.address, self.relay.pin).await?;
            let greeted = timeout(PATIENCE, self.greet(&session, offer))
                .await
                .unwrap_or_else(|_| Err(ConnectionError::Silent(self.relay.address.clone())))?;
            Ok::<_, ConnectionError>((endpoint, session, greeted))
        };
        let (endpoint, session, (control, terms)) = tokio::select! {
            opened = opening => opened?,
            () = stop.cancelled() => return Ok(()),
        };
        *at = Some(Instant::now());
        let ended = self.serve(&session, control, terms, stop).await;
        session.close("the agent is stopping");
        let _ = timeout(LEAVE, endpoint.wait_idle()).await;
        ended
    }

    /// The relay has this policy now: so has this side's gate.
    fn accept(&self, offer: &Arc<Offer>) {
        self.replay.gate.set(Arc::clone(&offer.gate));
        self.policies.accept(offer);
    }

    async fn greet(&self, session: &Session, offer: &Arc<Offer>) -> Result<(ControlStream, Terms), ConnectionError> {
        let mut control = session.open_control().await?;
        let version = env!("CARGO_PKG_VERSION").to_owned();
        control.send(&FromAgent::Hello { credential: self.relay.credential.clone(), version }).await?;
        let deadlines = match control.receive(GREETING_BYTES).await? {
            FromRelay::Welcome { agent, version, deadlines } => {
                tracing::debug!(agent = printable(&agent), version = printable(&version), "welcome");
                deadlines
            }
            other => return Err(unexpected(other)),
        };
        control.send(&FromAgent::Open { host: self.host.clone(), policy: offer.policy.clone() }).await?;
        match control.receive(GREETING_BYTES).await? {
            FromRelay::Opened { host, port } => {
                let host = HostName::parse(&host)
                    .ok_or_else(|| StreamError::Protocol("the relay opened something that is no host".to_owned()))?;
                let origin = origin_of(host.as_str(), port);
                let terms = Terms { deadlines, host: host.as_str().into(), origin: origin.into() };
                self.accept(offer);
                (self.on_open)(Opened { host: host.to_string(), port });
                Ok((control, terms))
            }
            other => Err(unexpected(other)),
        }
    }

    async fn serve(
        &self,
        session: &Session,
        mut control: ControlStream,
        terms: Terms,
        stop: &CancellationToken,
    ) -> Result<(), ConnectionError> {
        // The policy that the relay has been asked for, until it has answered.
        let mut asked: Option<Arc<Offer>> = None;
        loop {
            tokio::select! {
                exchange = session.accept() => self.take(exchange?, terms.clone()),
                message = control.receive(CONTROL_BYTES) => match (message?, asked.take()) {
                    (FromRelay::Opened { .. }, Some(offer)) => {
                        self.accept(&offer);
                        self.reporter.say(Report::Note("the new policy is in force".to_owned()));
                    }
                    (FromRelay::Kept { message }, Some(offer)) => {
                        self.policies.refuse(&offer);
                        self.reporter.say(kept(&message));
                    }
                    (message, before) => {
                        asked = before;
                        self.hear(message)?;
                    }
                },
                offer = self.policies.changed(), if asked.is_none() => {
                    let host = Some(terms.host.to_string());
                    control.send(&FromAgent::Open { host, policy: offer.policy.clone() }).await?;
                    asked = Some(offer);
                }
                () = stop.cancelled() => break,
            }
        }
        // In order: the relay sends nothing more, what is under way ends, then the session.
        let leaving = async {
            control.send(&FromAgent::Leave).await?;
            loop {
                tokio::select! {
                    exchange = session.accept() => self.take(exchange?, terms.clone()),
                    message = control.receive::<FromRelay>(CONTROL_BYTES) => {
                        if let FromRelay::Left = message? {
                            return Ok::<_, ConnectionError>(());
                        }
                    }
                }
            }
        };
        let _ = timeout(LEAVE, leaving).await;
        self.exchanges.close();
        let _ = timeout(self.drain, self.exchanges.wait()).await;
        Ok(())
    }

    fn take(&self, (writer, reader): (MessageWriter, MessageReader), terms: Terms) {
        let replay = Arc::clone(&self.replay);
        // In a box: the runtime moves what it is given several times before it runs.
        self.exchanges.spawn(Box::pin(async move { replay.exchange(writer, reader, terms).await }));
    }

    fn hear(&self, message: FromRelay) -> Result<(), ConnectionError> {
        match message {
            FromRelay::Refusals { told, counted } => {
                for refused in told {
                    self.reporter.say(Report::Refused(Box::new(printable_fields(refused))));
                }
                if !counted.is_empty() {
                    self.reporter.say(Report::Counted(counted));
                }
                Ok(())
            }
            FromRelay::Refused { reason, message } => Err(refused(reason, &message)),
            _ => Ok(()),
        }
    }
}

fn kept(message: &str) -> Report {
    Report::Warning(format!(
        "the relay does not take the new policy; THE OLD ONE STAYS IN FORCE: {}",
        printable(message)
    ))
}

fn unexpected(message: FromRelay) -> ConnectionError {
    match message {
        FromRelay::Refused { reason, message } => refused(reason, &message),
        _ => StreamError::Protocol("the relay answered something else than was asked".to_owned()).into(),
    }
}

fn refused(reason: RefusedReason, message: &str) -> ConnectionError {
    ConnectionError::Refused { reason, message: printable(message) }
}

/// The relay has escaped what strangers sent; a relay that was taken over may not have.
fn printable_fields(refused: RefusedRequest) -> RefusedRequest {
    RefusedRequest {
        id: printable(&refused.id),
        host: printable(&refused.host),
        method: printable(&refused.method),
        path: printable(&refused.path),
        client: printable(&refused.client),
        why: printable(&refused.why),
        ..refused
    }
}

/// Full jitter: anything up to a bound that doubles, so that a relay that restarts is not met by all
/// its agents at once. The first attempt comes soon.
fn backoff(failures: u32) -> Duration {
    let bound = BACKOFF_FIRST.saturating_mul(2_u32.saturating_pow(failures.min(16))).min(BACKOFF_MOST);
    let mut bytes = [0; 4];
    let share = match getrandom::fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX),
        Err(_) => 1.0,
    };
    bound.mul_f64(share)
}
