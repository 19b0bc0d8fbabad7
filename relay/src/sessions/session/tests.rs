//! Steps of the loop, over sessions in memory.

use std::collections::HashMap;

use hookward_core::address::AddressSet;
use hookward_core::clock::{Clock, UnixMillis};
use hookward_core::limits::Limits;
use hookward_core::names::AgentName;
use hookward_core::secret::Secret;
use hookward_observe::audit::AuditLog;
use hookward_tunnel::protocol::control::ConnectionId;
use hookward_tunnel::transport::liveness::Liveness;
use hookward_tunnel::transport::{ControlStream, Session};
use tokio_util::task::TaskTracker;

use super::review::{Review, refuse_credential};
use super::*;
use crate::fetch::ip_sets::IpSetUpdater;
use crate::observe::Observer;
use crate::sessions::AgentMessage;
use crate::sessions::active::SessionIdentity;
use crate::sessions::context::{PoliciesInForce, SessionContext};
use crate::sessions::failed_joins::FailedJoins;
use crate::sessions::handshake::Authenticated;
use crate::storage::Store;
use crate::storage::agents::AgentId;

/// A relay, for sessions of the agent `jira`.
pub(crate) struct SessionStage {
    pub(crate) context: SessionContext,
    tasks: TaskTracker,
}

impl SessionLoop<'_> {
    /// Opens a host of the agent.
    pub(crate) async fn open_host(&mut self, host: &str) {
        assert!(self.on_message(open_message(host)).await.is_continue());
    }
}

/// The agent's end of a session.
pub(crate) struct AgentEnd {
    pub(crate) session: Session,
    pub(crate) _control: ControlStream,
}

impl SessionStage {
    pub(crate) fn new() -> Self {
        Self {
            context: context("hooks.example.com"),
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
        let agent = agent.unwrap().unwrap().agent;

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
            scope: AgentScope::default(),
            credential: credential.digest(),
            identity: SessionIdentity {
                connection: ConnectionId {
                    instance: instance.to_owned(),
                    index: 0,
                    generation: 0,
                },
                is_pooled: false,
                connected: UnixMillis(0),
                clock_offset_ms: None,
                version: "1.0".to_owned(),
                replaces_lost: false,
                captures_refused: false,
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

/// Creates the context of a relay for this domain, with a store in memory.
fn context(domain: &str) -> SessionContext {
    let (store, clock) = (Store::in_memory().unwrap(), Clock::default());
    SessionContext {
        registry: Registry::default(),
        agents_revision: tokio::sync::watch::channel(0).1,
        failed_joins: FailedJoins::default(),
        ip_sets: IpSetUpdater::load(&store),
        store,
        limits: Limits::default(),
        stored_for: None,
        deliveries_api: axum::Router::new(),
        domain: HostName::parse(domain).unwrap(),
        reserved_hosts: Arc::default(),
        public_port: 443,
        trusted_proxies: AddressSet::default(),
        in_force: PoliciesInForce::default(),
        observer: Arc::new(Observer::new(clock.clone(), AuditLog::off(clock.clone()))),
        clock,
    }
}

#[tokio::test]
async fn an_opened_host_is_recorded_and_a_refused_one_ends_nothing() {
    let stage = SessionStage::new();
    let (mut session, _agent) = stage.session("a").await;
    let step = session.on_message(open_message("jira")).await;
    assert!(matches!(
        step,
        ControlFlow::Continue(Some(RelayMessage::Opened { .. }))
    ));
    assert_eq!(session.opened.len(), 1);

    let step = session.on_message(open_message("a host")).await;
    assert!(matches!(
        step,
        ControlFlow::Continue(Some(RelayMessage::Refused {
            reason: RefusedReason::Host,
            ..
        }))
    ));
    assert_eq!(session.opened.len(), 1);
}

#[tokio::test]
async fn a_policy_that_cannot_be_used_ends_the_session() {
    let stage = SessionStage::new();
    let (mut session, _agent) = stage.session("a").await;
    let refused = OpenRefused(RefusedReason::Policy, "no route".to_owned());
    let ControlFlow::Break(end) = session.on_opened(Err(refused)) else {
        panic!("the session goes on")
    };
    assert_eq!(end.reason, "no route");
    assert!(end.refusal.is_some(), "the agent gets the reason");
}

#[tokio::test]
async fn an_agent_that_drains_gets_no_requests_and_ends_when_idle() {
    let stage = SessionStage::new();
    let (mut session, _agent) = stage.session("a").await;
    let _ = session.on_message(open_message("jira")).await;
    let step = session.on_message(AgentMessage::Drain).await;
    assert!(matches!(
        step,
        ControlFlow::Continue(Some(RelayMessage::DrainAck))
    ));
    assert_eq!(session.state, SessionState::Draining);
    let tunnel = stage.context.registry.find("jira.hooks.example.com");
    assert!(tunnel.unwrap().is_away());

    assert!(matches!(session.on_idle(), ControlFlow::Break(end) if end.reason == "the agent left"));
}

#[tokio::test]
async fn a_withdrawn_credential_ends_the_session_and_a_failing_store_does_not() {
    let stage = SessionStage::new();
    let (mut session, _agent) = stage.session("a").await;
    assert!(matches!(
        session.on_review(None),
        ControlFlow::Continue(None)
    ));
    let review = session.review().await;
    assert!(matches!(
        session.on_review(review),
        ControlFlow::Continue(None)
    ));

    let name = AgentName::parse("jira").unwrap();
    assert!(
        stage
            .context
            .store
            .remove_agent(&name, UnixMillis(0))
            .unwrap()
    );
    let review = session.review().await;
    let ControlFlow::Break(end) = session.on_review(review) else {
        panic!("the session goes on")
    };
    assert!(matches!(
        end.refusal,
        Some(RelayMessage::Refused {
            reason: RefusedReason::Credential,
            ..
        })
    ));
}

#[tokio::test]
async fn a_host_that_moved_to_another_agent_is_withdrawn() {
    let stage = SessionStage::new();
    let (mut session, _agent) = stage.session("a").await;
    let _ = session.on_message(open_message("jira")).await;
    let host = HostName::parse("jira.hooks.example.com").unwrap();
    let review = session.review().await.unwrap();
    let lost = vec![(host, "other".to_owned())];
    let step = session.on_review(Some(Review { lost, ..review }));
    assert!(matches!(step, ControlFlow::Continue(None)));
    assert!(matches!(
        session.outgoing.pop_front(),
        Some(RelayMessage::HostLost { message, .. }) if message.contains("other")
    ));
    assert!(session.opened.is_empty());
}

#[tokio::test]
async fn silence_is_noted_and_ends_with_the_next_byte() {
    let stage = SessionStage::new();
    let (mut session, _agent) = stage.session("a").await;
    let (received, start) = session.received;
    let quiet = stage.context.liveness().quiet_after();

    let _ = session.on_check(received, start + quiet + Duration::from_millis(1));
    assert!(session.live.is_silent());
    let _ = session.on_check(received + 1, start + quiet * 2);
    assert!(!session.live.is_silent());
}

#[tokio::test]
async fn a_newer_instance_puts_a_session_on_standby_until_it_leaves() {
    let stage = SessionStage::new();
    let (mut old, _agent) = stage.session("old").await;
    let _ = old.on_message(open_message("jira")).await;
    let (received, now) = old.received;
    assert!(matches!(
        old.on_check(received, now),
        ControlFlow::Continue(None)
    ));

    let (mut new, _agent) = stage.session("new").await;
    let _ = new.on_message(open_message("jira")).await;
    let step = old.on_check(received, now);
    assert!(matches!(
        step,
        ControlFlow::Continue(Some(RelayMessage::Standby { standby: true }))
    ));
    assert_eq!(old.state, SessionState::Standby);

    let _ = new.on_message(AgentMessage::Drain).await;
    let step = old.on_check(received, now);
    assert!(matches!(
        step,
        ControlFlow::Continue(Some(RelayMessage::Standby { standby: false }))
    ));
    assert_eq!(old.state, SessionState::Active);
}

#[tokio::test]
async fn the_end_of_the_relay_is_announced_once_and_then_ends_the_session() {
    let stage = SessionStage::new();
    let (mut session, _agent) = stage.session("a").await;
    assert!(matches!(
        session.on_relay_drain(),
        ControlFlow::Continue(Some(RelayMessage::Draining))
    ));
    assert!(session.is_drain_announced);
    assert!(
        matches!(session.on_stop(), ControlFlow::Break(end) if end.reason == "the relay is stopping")
    );
}

#[tokio::test]
async fn a_broken_control_stream_ends_the_session_with_its_cause() {
    let stage = SessionStage::new();
    let (session, agent) = stage.session("a").await;
    let broken = StreamError::Protocol("no JSON".to_owned());
    let step = session.on_control_lost(broken).await;
    assert!(matches!(step, ControlFlow::Break(end) if end.reason == "no JSON"));
    drop(agent);
}

/// A hostile agent must not carry a policy over from a session before its limits.
#[tokio::test]
async fn a_policy_is_not_passed_on_to_a_session_with_other_limits() {
    let stage = SessionStage::new();
    let host = "jira.hooks.example.com";
    let gate = || stage.context.registry.find(host).unwrap().gate.unwrap();
    let AgentMessage::Open { policy, .. } = open_message("jira") else {
        panic!("no open")
    };
    let (mut before, _agent) = stage.session("a").await;
    let wide = AgentMessage::Open {
        host: Some("jira".to_owned()),
        policy: policy.clone(),
        revision: 1 << 62,
    };
    assert!(before.on_message(wide).await.is_continue());
    let wide = gate();

    let (mut after, _agent) = stage.session("a").await;
    after.scope.paths = vec!["/other".to_owned()];
    let mut narrow = policy;
    narrow.routes[0].paths = vec!["/other/**".to_owned()];
    let narrow = AgentMessage::Open {
        host: Some("jira".to_owned()),
        policy: narrow,
        revision: 0,
    };
    assert!(after.on_message(narrow).await.is_continue());
    assert!(!Arc::ptr_eq(&wide, &gate()));

    // Nor does the old session give its policy back, or the tunnel keep it.
    let narrow = gate();
    assert!(before.on_message(open_message("jira")).await.is_continue());
    stage.context.registry.leave(&before.live);
    assert!(Arc::ptr_eq(&narrow, &gate()));
    stage.context.registry.leave(&after.live);
    let scope = after.scope.clone();
    let id = after.live.agent.id;
    stage.context.registry.review_scopes(&[(id, scope)].into());
    assert!(stage.context.registry.find(host).unwrap().gate.is_some());
    stage.context.registry.review_scopes(&HashMap::new());
    assert!(
        stage.context.registry.find(host).unwrap().gate.is_none(),
        "revoked"
    );
}

#[tokio::test]
async fn a_revoked_agent_that_reads_nothing_gets_no_request() {
    let stage = SessionStage::new();
    let (mut session, _agent) = stage.session("a").await;
    session.open_host("jira").await;
    let registry = &stage.context.registry;
    assert!(!registry.find("jira.hooks.example.com").unwrap().is_away());
    let ControlFlow::Break(end) = refuse_credential("withdrawn") else {
        panic!("the session goes on")
    };
    // Polled once: it waits for the agent.
    let mut ending = pin!(session.end(end));
    assert!(futures_util::poll!(&mut ending).is_pending());
    assert!(registry.find("jira.hooks.example.com").unwrap().is_away());
}

#[tokio::test]
async fn a_credential_is_renewed_when_the_relay_requests_it() {
    let stage = SessionStage::new();
    let (mut session, _agent) = stage.session("a").await;
    let digest = || data_encoding::HEXLOWER.encode(Secret::generate().unwrap().digest().as_bytes());
    let renew = || AgentMessage::Renew {
        credential_digest: digest(),
    };
    let name = AgentName::parse("jira").unwrap();
    let store = &stage.context.store;
    let rotate = || store.rotate_credentials(&name, 3_600_000, stage.context.clock.now());
    for _ in 0..2 {
        rotate().unwrap();
        let review = session.review().await;
        let step = session.on_review(review);
        assert!(matches!(
            step,
            ControlFlow::Continue(Some(RelayMessage::RenewCredential))
        ));
        let review = session.review().await;
        let step = session.on_review(review);
        assert!(matches!(step, ControlFlow::Continue(None)), "once a minute");
        let step = session.on_message(renew()).await;
        assert!(matches!(
            step,
            ControlFlow::Continue(Some(RelayMessage::Renewed))
        ));
    }
    assert_eq!(store.list_agents().unwrap()[0].credentials, 3);
    assert!(
        session.on_message(renew()).await.is_break(),
        "not requested"
    );
    let broken = AgentMessage::Renew {
        credential_digest: "x".to_owned(),
    };
    assert!(session.on_message(broken).await.is_break());
}

#[tokio::test]
async fn a_host_that_the_settings_gave_is_withdrawn_with_them() {
    let stage = SessionStage::new();
    let (mut session, _agent) = stage.session("a").await;
    let (name, host) = (
        AgentName::parse("jira").unwrap(),
        HostName::parse("outside.example.org").unwrap(),
    );
    let reserved = |owner: Option<&AgentName>| {
        let hosts = owner.map(|owner| (host.clone(), owner.clone()));
        stage
            .context
            .reserved_hosts
            .store(Arc::new(hosts.into_iter().collect()));
    };
    reserved(Some(&name));
    session.open_host(host.as_str()).await;
    session.open_host("jira").await;
    let review = session.review().await;
    let _ = session.on_review(review);
    assert!(session.outgoing.is_empty());

    reserved(None);
    let review = session.review().await;
    let _ = session.on_review(review);
    assert_eq!(session.outgoing.len(), 1);
    assert_eq!(session.opened.len(), 1, "the other stays");
}

/// Webhooks that are stored for an agent that has lost its host would reach no application.
#[tokio::test]
async fn a_host_that_moves_while_its_agent_is_away_keeps_no_policy() {
    let stage = SessionStage::new();
    let (mut session, _agent) = stage.session("a").await;
    session.open_host("jira").await;
    let registry = &stage.context.registry;
    let host = HostName::parse("jira.hooks.example.com").unwrap();
    let (own, other) = (session.live.agent.id, AgentId::for_tests(7));
    let has_policy = || registry.find(host.as_str()).unwrap().gate.is_some();
    let owned_by = |owner| registry.replace_known_hosts([(host.clone(), Some(owner))].into());

    owned_by(other);
    assert!(has_policy(), "the session loses it by itself");
    registry.leave(&session.live);
    owned_by(own);
    assert!(has_policy());
    owned_by(other);
    assert!(!has_policy());
}
