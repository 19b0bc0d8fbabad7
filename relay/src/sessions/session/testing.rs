//! Sessions in memory, for unit tests.

use hookward_core::clock::{Clock, UnixMillis};
use hookward_core::names::AgentName;
use hookward_core::secret::Secret;
use hookward_tunnel::protocol::control::ConnectionId;
use hookward_tunnel::transport::liveness::Liveness;
use hookward_tunnel::transport::{ControlStream, Session};
use tokio_util::task::TaskTracker;

use super::SessionLoop;
use crate::sessions::AgentMessage;
use crate::sessions::active::SessionIdentity;
use crate::sessions::context::SessionContext;
use crate::sessions::handshake::Authenticated;

/// A relay, for sessions of the agent `jira`.
pub(crate) struct Stage {
    pub(crate) context: SessionContext,
    tasks: TaskTracker,
}

/// The agent's end of a session.
pub(crate) struct AgentEnd {
    pub(crate) session: Session,
    pub(crate) _control: ControlStream,
}

impl Stage {
    pub(crate) fn new() -> Self {
        Self {
            context: SessionContext::for_tests("hooks.example.com"),
            tasks: TaskTracker::new(),
        }
    }

    /// Opens a session over an in-memory pipe.
    pub(crate) async fn session(&self, instance: &str) -> (SessionLoop<'_>, AgentEnd) {
        let (secret, credential) = (Secret::generate().unwrap(), Secret::generate().unwrap());
        let name = AgentName::parse("jira").unwrap();
        let store = &self.context.store;
        store.add_agent(&name, &secret, UnixMillis(0)).unwrap();
        let agent = store.join(&secret, &credential.digest(), UnixMillis(0));
        let agent = agent.unwrap().unwrap();

        let (relay, other) = tokio::io::duplex(64 * 1024);
        let (peer, liveness) = (([127, 0, 0, 1], 1).into(), Liveness::default());
        let (session, other) = tokio::join!(
            Session::over_tcp_at_relay(relay, peer, liveness, &self.tasks),
            Session::over_tcp_at_agent(other, peer, liveness, &self.tasks),
        );
        let (session, other) = (session.unwrap(), other.unwrap());
        let (control, opened) = tokio::join!(session.accept_control(), other.open_control());
        let admitted = Authenticated {
            agent,
            credential: credential.digest(),
            identity: SessionIdentity {
                connection: ConnectionId {
                    instance: instance.to_owned(),
                    index: 0,
                    generation: 0,
                },
                is_pooled: false,
                replaces_lost: false,
            },
            control: control.unwrap(),
        };

        other.serve();
        let agent_end = AgentEnd {
            session: other,
            _control: opened.unwrap(),
        };
        (
            SessionLoop::new(session, admitted, &self.context),
            agent_end,
        )
    }
}

/// Returns the message that opens a host with an open policy.
pub(crate) fn open_message(host: &str) -> AgentMessage {
    let text = "[[route]]\npath = '/**'\n[[route.accept]]\nopen = true";
    let no_secrets = hookward_runtime::secrets::VettedSecrets;
    let now = Clock::default().now();
    let loaded = hookward_gate::policy::file::read("test", text, &no_secrets, now);
    AgentMessage::Open {
        host: Some(host.to_owned()),
        policy: loaded.unwrap().policy,
        revision: 0,
    }
}
