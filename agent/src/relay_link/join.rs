//! Exchanges a join token for a credential.

use super::dialer::Dialer;
use super::error::ConnectionError;
use super::{AgentMessage, LinkSettings, RelayEndpoint, unexpected};
use data_encoding::HEXLOWER;
use hookward_core::limits::GREETING_BYTES;
use hookward_core::names::AgentName;
use hookward_core::secret::Secret;
use hookward_tunnel::protocol::control::RelayMessage;
use std::time::Duration;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

/// Timeout for the relay's response to a join.
pub(super) const JOIN: Duration = Duration::from_secs(10);

/// Timeout for the end of a join's connection.
pub(super) const JOINED: Duration = Duration::from_secs(2);

/// Exchanges the secret of a join token for this credential. Returns the agent's name.
///
/// # Errors
/// [`ConnectionError`].
pub async fn join(
    relay: &RelayEndpoint,
    link: &LinkSettings,
    secret: Secret,
) -> Result<String, ConnectionError> {
    let tasks = TaskTracker::new();
    let dialer = Dialer::new(relay, link, tasks.clone())?;
    // The transports race without the token, because two requests must not both use it.
    let (found, ()) = dialer.connect_once(|_| async { Ok(()) }).await?;
    let credential_digest = HEXLOWER.encode(relay.credential.digest().as_bytes());

    let asking = async {
        let mut control = found.session.open_control().await?;
        control
            .send(&AgentMessage::Join {
                secret,
                credential_digest,
            })
            .await?;

        match control.receive(GREETING_BYTES).await? {
            RelayMessage::Joined { agent } if AgentName::parse(&agent).is_some() => Ok(agent),
            other => Err(unexpected(other)),
        }
    };

    let (address, transport) = (relay.address.clone(), found.session.transport());
    let joined = timeout(JOIN, asking)
        .await
        .unwrap_or(Err(ConnectionError::Silent { address, transport }));
    found.session.close("joined");

    if let Some(endpoint) = found.endpoint {
        let _ = timeout(JOINED, endpoint.wait_idle()).await;
    }

    joined
}
