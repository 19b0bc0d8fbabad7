//! Authenticates an agent, under one deadline: by a join, which ends the connection, or by a hello
//! with a known credential.

use std::net::IpAddr;
use std::time::Duration;

use crate::sessions::AgentMessage;
use data_encoding::HEXLOWER;
use hookward_core::limits::GREETING_BYTES;
use hookward_core::secret::{Secret, SecretDigest};
use hookward_core::text::printable;
use hookward_tunnel::protocol::control::{Deadlines, RefusedReason, RelayMessage};
use hookward_tunnel::transport::{ControlStream, Session, SessionError, StreamError};

use crate::sessions::active::SessionIdentity;
use crate::sessions::context::SessionContext;
use crate::storage::StorageError;
use crate::storage::agents::{Agent, AgentScope, Authentication, KnownAgent};
use crate::storage::hosts::HostClaim;
use tokio::time::sleep;

/// An authenticated agent.
pub(crate) struct Authenticated {
    /// Agent of the session.
    pub agent: Agent,
    /// Limits of the tunnels that the agent may open.
    pub scope: AgentScope,
    /// Digest of the credential, which the session checks regularly.
    pub credential: SecretDigest,
    /// Identity of the session.
    pub identity: SessionIdentity,
    /// Stream of control messages.
    pub control: ControlStream,
}

/// Reason why a connection did not become a session.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    /// The connection was a completed join.
    #[error("agent {0} joined")]
    Joined(String),
    /// The agent was refused.
    #[error("refused an agent: {0}")]
    Refused(String),
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The stream failed, or the peer is not an agent.
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error(transparent)]
    Store(#[from] StorageError),
}

/// Reads the greeting of a client and answers it. The caller sets the deadline.
///
/// # Errors
/// [`HandshakeError`] for everything but the hello of a known agent.
pub(crate) async fn authenticate(
    session: &Session,
    host: &SessionContext,
    client: IpAddr,
) -> Result<Authenticated, HandshakeError> {
    let store = &host.store;
    let mut control = session.accept_control().await?;
    match control.receive(GREETING_BYTES).await? {
        AgentMessage::Hello {
            credential,
            version,
            connection,
            pool,
            lost,
            time_ms,
            captures_refused,
        } => {
            let digest = credential.digest();
            let wanted = digest.clone();
            let now = host.clock.now();
            let found = store.run(move |store| store.authenticate(&wanted, now));
            let KnownAgent { agent, scope, .. } = match found.await? {
                Authentication::Known(known) => known,
                Authentication::Expired(_) => {
                    return refuse(control, RefusedReason::Credential, EXPIRED).await;
                }
                Authentication::Unknown => {
                    return refuse(control, RefusedReason::Credential, UNKNOWN).await;
                }
            };
            control.send(&welcome(&agent, host)).await?;

            let identity = SessionIdentity {
                connected: now,
                // The time that the message took counts as a part of it.
                clock_offset_ms: (time_ms > 0).then(|| offset(now.0, time_ms)),
                connection,
                is_pooled: pool,
                version: printable(&version).chars().take(VERSION_CHARS).collect(),
                replaces_lost: lost,
                captures_refused,
            };

            Ok(Authenticated {
                agent,
                scope,
                credential: digest,
                identity,
                control,
            })
        }
        AgentMessage::Join {
            secret,
            credential_digest,
        } => join(control, host, client, secret, &credential_digest).await,
        AgentMessage::Open { .. }
        | AgentMessage::UpstreamHealth { .. }
        | AgentMessage::Call { .. }
        | AgentMessage::Renew { .. }
        | AgentMessage::Drain
        | AgentMessage::Unknown => Err(StreamError::Protocol(
            "the first message is neither hello nor join".to_owned(),
        )
        .into()),
    }
}

/// Refusal of an unknown credential.
const UNKNOWN: &str = "this relay does not know the agent's credential; it may have been withdrawn. \
                       Ask for a new join token (hookward-relay agent add NAME) and run hookward join";

/// Refusal of an expired credential.
pub(super) const EXPIRED: &str = "the agent's credential has expired: the agent was away when it had to renew it. \
                                  Ask for a new join token (hookward-relay agent add NAME) and run hookward join";

/// Returns how far another clock is ahead of this one, in milliseconds.
fn offset(own: u64, other: u64) -> i64 {
    let ahead = i128::from(other) - i128::from(own);
    i64::try_from(ahead).unwrap_or_default()
}

/// Maximum length of an agent's version to keep, in characters.
const VERSION_CHARS: usize = 40;

fn welcome(agent: &Agent, host: &SessionContext) -> RelayMessage {
    RelayMessage::Welcome {
        agent: agent.name.to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        deadlines: Deadlines::of(&host.limits),
        time_ms: host.clock.now().0,
        outlives_refused_hosts: true,
    }
}

async fn join(
    mut control: ControlStream,
    host: &SessionContext,
    client: IpAddr,
    secret: Secret,
    credential: &str,
) -> Result<Authenticated, HandshakeError> {
    let Some(digest) = parse_digest(credential) else {
        return Err(
            StreamError::Protocol("a join without a credential's digest".to_owned()).into(),
        );
    };

    let now = host.clock.now();
    match host
        .store
        .run(move |store| store.join(&secret, &digest, now))
        .await?
    {
        Some(KnownAgent { agent, scope, .. }) => {
            keep_host(&agent, &scope, host).await;
            control
                .send(&RelayMessage::Joined {
                    agent: agent.name.to_string(),
                })
                .await?;
            control.finish().await;

            Err(HandshakeError::Joined(agent.name.to_string()))
        }
        None => {
            let steady = host.clock.moment().steady;
            // The answer is late, and the connection keeps one of the client's few slots. A valid token
            // does not wait, because others may share the address.
            if let Some((wait_ms, _slot)) = host.failed_joins.note(client, steady) {
                sleep(Duration::from_millis(wait_ms).min(LONGEST_DELAY)).await;
            }
            let message = "this join token was used already, replaced by a newer one, or is older than 24 hours; \
                           make another with hookward-relay agent add NAME";
            refuse(control, RefusedReason::JoinToken, message).await
        }
    }
}

/// Longest delay of an answer: shorter than the deadline of the handshake.
const LONGEST_DELAY: Duration = Duration::from_secs(6);

/// Parses the digest of a credential, in hex.
pub(super) fn parse_digest(text: &str) -> Option<SecretDigest> {
    let bytes = HEXLOWER.decode(text.as_bytes()).ok()?;
    SecretDigest::from_stored(&bytes)
}

/// Reserves the host of the agent's name, which answers 503 until the agent connects. This also
/// holds on every relay that gets a copy of the state.
async fn keep_host(agent: &Agent, scope: &AgentScope, host: &SessionContext) {
    let own = host.host_of(&agent.name, scope);
    if host.reserved_hosts.load().contains_key(&own) {
        return;
    }

    let (wanted, of_name, id) = (own.clone(), own.agent_below(&host.domain), agent.id);
    // The join succeeded: its token is used, and the agent claims the host again when it connects.
    match host
        .store
        .run(move |store| store.claim_host(&wanted, of_name.as_ref(), id))
        .await
    {
        Ok(HostClaim::Owned) => {}
        Ok(claim) => {
            tracing::warn!(agent = %agent.name, host = %own, ?claim, "another agent owns the host with this agent's name")
        }
        Err(error) => tracing::error!(%error, "state file could not be written"),
    }
}

async fn refuse<T>(
    mut control: ControlStream,
    reason: RefusedReason,
    message: &str,
) -> Result<T, HandshakeError> {
    control
        .send(&RelayMessage::Refused {
            reason,
            message: message.to_owned(),
        })
        .await?;
    control.finish().await;

    Err(HandshakeError::Refused(message.to_owned()))
}
