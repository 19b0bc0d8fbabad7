//! Steps of the loop, over a session in memory.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::inspector::policy::InspectedPolicy;
use crate::relay_link::context::OpenedTunnels;
use hookward_core::clock::Clock;
use hookward_core::limits::Limits;
use hookward_core::secret::Secret;
use hookward_gate::engine::{Gate, Side};
use hookward_gate::policy::{Policy, file};
use hookward_runtime::secrets::VettedSecrets;
use hookward_tunnel::protocol::control::Deadlines;
use hookward_tunnel::transport::identity::Pin;
use hookward_tunnel::transport::liveness::Liveness;
use hookward_tunnel::transport::{ControlStream, Session};
use tokio_util::task::TaskTracker;

use std::collections::BTreeMap;

use super::*;
use crate::events::{self, EventStream};
use crate::relay_link::active::Renewal;
use crate::relay_link::calls::PendingCalls;

use crate::exchange::{ExchangeHandler, PendingHeads, SessionTerms, TunnelBinding};
use crate::relay_link::dialer::{Dialed, Dialer};
use crate::relay_link::outbox::Outbox;
use crate::relay_link::status::LinkStatus;
use crate::relay_link::{LinkContext, LinkSettings, LinkTunnel, RelayEndpoint, RelayState};

/// A link that serves two tunnels, the relay's end of its control stream, and its events.
struct LinkStage {
    link: RelayLink,
    active: ActiveLink,
    relay: ControlStream,
    _session: Session,
    events: EventStream,
    policies: Vec<watch::Sender<Arc<PolicyOffer>>>,
}

fn offer() -> Arc<PolicyOffer> {
    let text = "[[route]]\npath = '/**'\n[[route.accept]]\nopen = true";
    let now = Clock::default().now();
    let policy: Policy = file::read("test", text, &VettedSecrets, now)
        .unwrap()
        .policy;
    let gate = Gate::compile(&policy, Side::Agent, now).unwrap();
    let inspected = InspectedPolicy::new(&policy, &[], now);
    Arc::new(PolicyOffer::new(policy, gate, inspected))
}

/// Both ends of a session over an in-memory pipe: the relay's and the agent's.
async fn pair(tasks: &TaskTracker) -> (Session, Session) {
    let (relay, agent) = tokio::io::duplex(64 * 1024);
    let (peer, liveness) = (([127, 0, 0, 1], 1).into(), Liveness::default());
    let (relay, agent) = tokio::join!(
        Session::over_tcp_at_relay(relay, peer, liveness, tasks),
        Session::over_tcp_at_agent(agent, peer, liveness, tasks),
    );
    (relay.unwrap(), agent.unwrap())
}

impl LinkStage {
    async fn new() -> Self {
        let (sink, events) = events::channel();
        let tasks = TaskTracker::new();
        let (mut policies, mut tunnels) = (Vec::new(), Vec::new());
        for name in ["jira", "slack"] {
            let (sender, wanted) = watch::channel(offer());
            let handler = Arc::new(ExchangeHandler::for_tests(sink.clone()));
            policies.push(sender);
            tunnels.push(LinkTunnel::new(Some(name.to_owned()), wanted, handler));
        }

        let shared = Arc::new(LinkContext {
            tunnels,
            link: LinkSettings {
                pool: true,
                ..LinkSettings::default()
            },
            events: sink,
            clock: Clock::default(),
            drain: Duration::from_secs(1),
            on_open: Box::new(|_| {}),
            on_transport: Box::new(|_| {}),
            instance: "test".to_owned(),
            generations: AtomicU64::new(1),
            status: LinkStatus::default(),
            opened: OpenedTunnels::default(),
            calls: BTreeMap::new(),
            state: None,
            heads: PendingHeads::default(),
            tasks: tasks.clone(),
        });
        let credential = Secret::generate().unwrap();
        let address = "relay.example:443".to_owned();
        let relay = RelayEndpoint::new(address, Pin::of_no_key(), credential);
        let dialer = Dialer::new(&relay, &shared.link, tasks.clone()).unwrap();
        let at = Arc::new(RelayState::new(
            relay,
            dialer,
            &shared.tunnels,
            Arc::default(),
            None,
        ));

        let hosts = shared.tunnels.iter().enumerate();
        let hosts = hosts.map(|(number, tunnel)| TunnelBinding {
            tunnel: number,
            host: format!("{}.example.com", tunnel.host.as_deref().unwrap()).into(),
            origin: "https://example.com".into(),
            gate: Arc::new(tunnel.wanted.borrow().tunnel_gate()),
            handler: Arc::clone(&tunnel.handler),
        });
        let (session, own) = pair(&tasks).await;
        let terms = SessionTerms::new(
            own.clone(),
            Deadlines::of(&Limits::default()),
            hosts.collect(),
            Arc::clone(&at.started),
            shared.heads.clone(),
        );

        let (relay, control) = tokio::join!(session.accept_control(), own.open_control());
        let (writer, reader) = control.unwrap().split();
        let active = ActiveLink {
            found: Dialed {
                session: own,
                address_offset: 0,
                addresses: 2,
                endpoint: None,
                local: None,
            },
            outbox: Outbox::new(writer),
            credential: at.credential.current().digest(),
            renewal: Renewal::None,
            reader,
            terms: Arc::new(terms),
            exchanges: TaskTracker::new(),
            since: Instant::now(),
            calls: PendingCalls::default(),
            pending_policy: None,
            relay_draining: false,
        };

        Self {
            link: RelayLink::new(at, shared, 0),
            active,
            relay: relay.unwrap(),
            _session: session,
            events,
            policies,
        }
    }

    fn serving(&mut self) -> ServingLoop<'_> {
        ServingLoop::new(&self.link, &mut self.active)
    }

    /// Returns the texts of the notes and warnings since the last call.
    fn notes(&mut self) -> Vec<String> {
        let mut texts = Vec::new();
        while let Some(event) = self.events.try_next() {
            if let Event::Note(text) | Event::Warning(text) = event.event {
                texts.push(text);
            }
        }
        texts
    }
}

fn goes_on(step: &Step) -> bool {
    matches!(step, ControlFlow::Continue(()))
}

#[tokio::test]
async fn a_new_policy_is_in_force_once_the_relay_accepts_it() {
    let mut stage = LinkStage::new().await;
    let new = offer();
    stage.policies[1].send(Arc::clone(&new)).unwrap();

    let mut serving = stage.serving();
    assert!(goes_on(&serving.on_policy_change(1, Arc::clone(&new))));
    assert!(serving.active.outbox.is_sending());
    let sent = serving.active.outbox.sent().await;
    assert!(goes_on(&serving.on_sent(sent)));
    assert!(serving.active.outbox.is_ready());

    let message: AgentMessage = stage.relay.receive(CONTROL_BYTES).await.unwrap();
    assert!(
        matches!(message, AgentMessage::Open { host: Some(host), .. } if host == "slack.example.com")
    );
    let gate = || stage.link.at.gates[1].current();
    assert!(
        !Arc::ptr_eq(&gate(), &new.gate),
        "not before the relay accepts"
    );

    let mut serving = ServingLoop::new(&stage.link, &mut stage.active);
    let opened = RelayMessage::Opened {
        host: "slack.example.com".to_owned(),
        port: 443,
        digest: Some("0000".to_owned()),
        stored_for_ms: None,
    };
    assert!(goes_on(&serving.on_message(Ok(opened))));
    assert!(Arc::ptr_eq(&gate(), &new.gate));
    assert!(stage.active.pending_policy.is_none());
    let notes = stage.notes();
    let has = |text: &str| notes.iter().any(|note| note.contains(text));
    assert!(has("the new policy of slack is in force"), "{notes:?}");
    assert!(
        has("another policy in force"),
        "its digest differs: {notes:?}"
    );
}

#[tokio::test]
async fn a_rejected_policy_leaves_the_old_one_in_force() {
    let mut stage = LinkStage::new().await;
    let (old, new) = (stage.link.at.gates[0].current(), offer());
    stage.policies[0].send(Arc::clone(&new)).unwrap();

    let mut serving = stage.serving();
    let _ = serving.on_policy_change(0, new);
    let rejected = RelayMessage::PolicyRejected {
        message: "no route".to_owned(),
    };
    assert!(goes_on(&serving.on_message(Ok(rejected))));
    assert!(Arc::ptr_eq(&stage.link.at.gates[0].current(), &old));
    assert!(stage.notes().iter().any(|note| note.contains("no route")));
}

#[tokio::test]
async fn losing_one_host_keeps_the_connection_and_losing_all_ends_it() {
    let mut stage = LinkStage::new().await;
    let mut serving = stage.serving();
    let lost = |host: &str| RelayMessage::HostLost {
        host: host.to_owned(),
        message: "it belongs to another agent".to_owned(),
    };

    assert!(goes_on(
        &serving.on_message(Ok(lost("unknown.example.com")))
    ));
    assert!(goes_on(&serving.on_message(Ok(lost("JIRA.example.com")))));
    let step = serving.on_message(Ok(lost("slack.example.com")));
    assert!(matches!(
        step,
        ControlFlow::Break(LinkEnd::Failed(ConnectionError::Refused {
            reason: RefusedReason::Host,
            ..
        }))
    ));
}

#[tokio::test]
async fn a_refusal_ends_the_connection_unless_it_is_about_a_host_of_several() {
    let mut stage = LinkStage::new().await;
    let mut serving = stage.serving();
    let refused = |reason| RelayMessage::Refused {
        reason,
        message: "no".to_owned(),
    };

    let _ = serving.on_policy_change(0, offer());
    assert!(goes_on(
        &serving.on_message(Ok(refused(RefusedReason::Host)))
    ));
    let step = serving.on_message(Ok(refused(RefusedReason::Credential)));
    assert!(matches!(
        step,
        ControlFlow::Break(LinkEnd::Failed(ConnectionError::Refused {
            reason: RefusedReason::Credential,
            ..
        }))
    ));
}

#[tokio::test]
async fn the_health_of_an_application_is_reported() {
    let mut stage = LinkStage::new().await;
    let mut serving = stage.serving();
    assert!(goes_on(&serving.on_health_change(0, true)));
    assert!(serving.applications[0].is_down);
    serving.active.outbox.sent().await.unwrap();

    let message: AgentMessage = stage.relay.receive(CONTROL_BYTES).await.unwrap();
    assert!(
        matches!(message, AgentMessage::UpstreamHealth { host, down: true } if host == "jira.example.com")
    );
}

#[tokio::test]
async fn a_failed_message_ends_the_connection() {
    let mut stage = LinkStage::new().await;
    let serving = stage.serving();
    let step = serving.on_sent(Err(StreamError::Aborted.into()));
    assert!(matches!(step, ControlFlow::Break(LinkEnd::Failed(_))));
    let step = serving.on_exchange(Err(SessionError::ClosedByPeer("bye".to_owned())));
    assert!(matches!(step, ControlFlow::Break(LinkEnd::Failed(_))));
}

#[tokio::test]
async fn a_draining_relay_starts_a_search_for_another() {
    let mut stage = LinkStage::new().await;
    let mut serving = stage.serving();
    assert!(goes_on(&serving.on_message(Ok(RelayMessage::Draining))));
    serving.follow_drain();
    assert!(serving.schedule.due().is_some(), "at once");

    assert!(goes_on(&serving.on_probe_due()));
    assert!(serving.probe.running.is_some() && serving.schedule.due().is_none());
    let step = serving.on_probe_ended(Err(StreamError::Aborted.into()), &CancellationToken::new());
    assert!(goes_on(&step) && serving.probe.running.is_none());
    assert!(serving.schedule.due().is_some(), "and again");
}

#[tokio::test]
async fn a_suspend_starts_a_search_and_cancels_an_obsolete_one() {
    let mut stage = LinkStage::new().await;
    let mut serving = stage.serving();
    assert!(goes_on(&serving.on_probe_due()));
    assert!(goes_on(&serving.on_check(false)) && serving.probe.running.is_some());
    assert!(goes_on(&serving.on_check(true)));
    assert!(serving.probe.running.is_none() && serving.schedule.due().is_some());
}

/// A relay that has got the greeting of a new connection may send requests over it.
#[tokio::test]
async fn the_agent_stops_after_a_connection_that_is_opening() {
    let mut stage = LinkStage::new().await;
    let mut serving = stage.serving();
    assert!(matches!(
        serving.on_stop(),
        ControlFlow::Break(LinkEnd::Stop)
    ));

    let (reached, receiver) = watch::channel(false);
    serving.probe.running = Some(Box::pin(std::future::pending()));
    serving.probe.reached = receiver;
    reached.send_replace(true);
    assert!(goes_on(&serving.on_stop()), "it ends first");
    assert!(goes_on(&serving.on_probe_reached()) && serving.probe.is_opening);
}

#[tokio::test]
async fn an_almost_open_connection_replaces_one_that_failed() {
    let mut other = LinkStage::new().await;
    let mut stage = LinkStage::new().await;
    let error = || ConnectionError::from(StreamError::Aborted);
    let end = stage.serving().on_failure(error()).await;
    assert!(matches!(end, LinkEnd::Failed(_)));

    let (reached, receiver) = watch::channel(true);
    let mut serving = stage.serving();
    let new = std::mem::replace(&mut other.active, LinkStage::new().await.active);
    serving.probe.running = Some(Box::pin(std::future::ready(Ok(new))));
    serving.probe.reached = receiver;
    assert!(matches!(
        serving.on_failure(error()).await,
        LinkEnd::Replaced(_)
    ));
    drop(reached);
    assert_eq!(other.link.at.addresses.load(Ordering::Relaxed), 1);
}
