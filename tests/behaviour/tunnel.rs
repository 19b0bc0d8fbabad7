//! The tunnel on bad networks: it finds a path, loses connections but no webhooks, and recovers.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use hookward_agent::Proxies;
use hookward_agent::events::Event;
use hookward_agent::{LinkSettings, RelayEndpoint, TransportMode, join};
use hookward_core::clock::{Clock, UnixMillis};
use hookward_core::limits::{GREETING_BYTES, MIB};
use hookward_core::names::AgentName;
use hookward_core::secret::Secret;
use hookward_tests::application::{Application, Reply};
use hookward_tests::link::Pass;
use hookward_tests::proxy::Proxy;
use hookward_tests::rogue::AgentMessage;
use hookward_tests::sender::{Edge, Http1, github_signature};
use hookward_tests::stage::{Fleet, Plan, Stage, policy, signed_policy};
use hookward_tests::wait::{DEADLINE, eventually, within};
use hookward_tunnel::protocol::control::{ConnectionId, RefusedReason, RelayMessage};
use hookward_tunnel::transport::identity::{Pin, Pins};
use hookward_tunnel::transport::liveness::Liveness;
use hookward_tunnel::transport::{ControlStream, Session, Transport, quic};
use tokio::task::JoinHandle;

const HOOK: &str = "/flexdeploy/webhooks/v1/git/push";
/// Idle timeout of a tunnel that detects faults quickly.
const QUICK: Duration = Duration::from_secs(2);

fn linked(transport: TransportMode) -> Plan {
    let liveness = Liveness::with_idle_timeout(QUICK);
    let mut plan = Plan {
        linked: true,
        ..Plan::default()
    };
    plan.limits.tunnel_idle_timeout = QUICK;

    plan.link = LinkSettings {
        transport,
        liveness,
        probe_after: Some(QUICK),
        ..LinkSettings::default()
    };

    plan
}

/// Webhooks one after another until they are ended, with the responses.
struct Load {
    stop: Arc<AtomicBool>,
    sent: JoinHandle<HashMap<u16, usize>>,
}

impl Load {
    fn begin(edge: &Edge) -> Self {
        let (edge, stop) = (edge.clone(), Arc::new(AtomicBool::new(false)));
        let stopped = Arc::clone(&stop);
        let sent = tokio::spawn(async move {
            let mut answers = HashMap::new();
            while !stopped.load(Ordering::Relaxed) {
                let answer = edge.post(HOOK, &[], b"x").await;
                *answers.entry(answer.status).or_insert(0) += 1;
            }
            answers
        });
        Self { stop, sent }
    }

    async fn end(self) -> HashMap<u16, usize> {
        self.stop.store(true, Ordering::Relaxed);
        within("the last webhook", self.sent).await.unwrap()
    }
}

#[tokio::test]
async fn where_udp_is_blocked_tcp_carries_the_tunnel_and_quic_takes_over_when_it_can() {
    let application = Application::start(|_| Reply::ok("")).await;
    let mut stage = Stage::start(application.address, linked(TransportMode::Auto)).await;
    assert_eq!(stage.transports(), [Transport::Quic]);
    stage.stop_agent().await;
    stage.link().udp(Pass::Nothing);

    let since = Instant::now();
    stage.start_agent().await;
    assert!(
        since.elapsed() < Duration::from_secs(3),
        "{:?}",
        since.elapsed()
    );
    assert_eq!(stage.transports(), [Transport::Quic, Transport::Tcp]);

    let load = Load::begin(&stage.edge);
    stage.link().udp(Pass::All);
    eventually("QUIC carries the tunnel again", || {
        stage.transports().last() == Some(&Transport::Quic)
    })
    .await;

    // Both connections have moved, and the old ones are closed.
    eventually("both have moved", || stage.link().udp_flows() >= 2).await;
    let answers = load.end().await;
    assert_eq!(answers.keys().collect::<Vec<_>>(), [&200], "{answers:?}");
    assert!(answers[&200] > 20, "{answers:?}");

    assert_eq!(
        application.log.take().len(),
        answers[&200],
        "each arrived once"
    );
}

/// The first packets pass, and nothing after them.
#[tokio::test]
async fn a_blocked_quic_handshake_falls_back_to_tcp_within_three_seconds() {
    let application = Application::start(|_| Reply::ok("")).await;
    let mut stage = Stage::start(application.address, linked(TransportMode::Auto)).await;

    for datagrams in [1, 2, 3] {
        stage.stop_agent().await;
        stage.link().udp_lifetime(datagrams);
        let since = Instant::now();
        stage.start_agent().await;
        assert!(
            since.elapsed() < Duration::from_secs(3),
            "{datagrams} datagrams: {:?}",
            since.elapsed()
        );

        assert_eq!(
            stage.transports().last(),
            Some(&Transport::Tcp),
            "{datagrams} datagrams"
        );
        assert_eq!(stage.edge.post(HOOK, &[], b"x").await.status, 200);
    }
}

/// A firewall lets QUIC start and then inspects it, each time: QUIC is tried more and more rarely.
#[tokio::test]
async fn flows_that_fail_early_repeatedly_lose_no_accepted_request() {
    let application = Application::start(|_| Reply::ok("")).await;
    let mut stage = Stage::start(application.address, linked(TransportMode::Auto)).await;
    stage.stop_agent().await;
    stage.link().udp_lifetime(40);
    stage.start_agent().await;
    assert_eq!(stage.transports().last(), Some(&Transport::Quic));

    let before = stage.transports().len();
    let load = Load::begin(&stage.edge);
    let changes = |stage: &Stage, over| {
        stage
            .transports()
            .iter()
            .skip(before)
            .filter(|by| **by == over)
            .count()
    };

    eventually("it went to TCP, back, and to TCP again", || {
        changes(&stage, Transport::Tcp) >= 2
    })
    .await;

    let answers = load.end().await;
    let broken = answers.get(&502).copied().unwrap_or_default();
    assert_eq!(
        answers.values().sum::<usize>(),
        answers[&200] + broken,
        "{answers:?}"
    );

    // The application's response may have been in flight when the flow died, so the request is not
    // sent again.
    assert_eq!(
        application.log.take().len(),
        answers[&200] + broken,
        "each arrived once: {answers:?}"
    );
    assert!(
        broken <= stage.transports().len() * 2,
        "one for each connection that died, at most: {answers:?}"
    );
}

#[tokio::test]
async fn what_worked_the_last_time_is_tried_first() {
    let application = Application::start(|_| Reply::ok("")).await;
    let mut plan = linked(TransportMode::Auto);
    plan.link.last_transport = Some(Transport::Tcp);

    let stage = Stage::start(application.address, plan).await;
    assert_eq!(
        stage.transports().first(),
        Some(&Transport::Tcp),
        "although UDP is let through"
    );
    eventually("QUIC takes over", || {
        stage.transports().last() == Some(&Transport::Quic)
    })
    .await;
}

#[tokio::test]
async fn udp_that_dies_under_way_is_noticed_and_gone_around() {
    let application = Application::start(|_| Reply::ok("")).await;
    let stage = Stage::start(application.address, linked(TransportMode::Auto)).await;
    assert_eq!(stage.edge.post(HOOK, &[], b"x").await.status, 200);
    stage.link().udp(Pass::Nothing);

    let since = Instant::now();
    eventually("TCP carries the tunnel", || {
        stage.transports().last() == Some(&Transport::Tcp)
    })
    .await;

    assert!(
        since.elapsed() < QUICK + Duration::from_secs(5),
        "{:?}",
        since.elapsed()
    );
    assert_eq!(stage.edge.post(HOOK, &[], b"x").await.status, 200);
}

/// The machine was suspended for an hour, and the NAT on its path has forgotten it. The relay knows
/// that the connections are dead; the agent would notice much later, as would TCP.
#[tokio::test]
async fn after_a_suspend_the_agent_dials_again_before_the_idle_timeout() {
    let application = Application::start(|_| Reply::ok("")).await;
    let mut plan = linked(TransportMode::Only(Transport::Tcp));
    // Longer than any wait of this test.
    plan.link.liveness = Liveness::with_idle_timeout(DEADLINE * 4);

    let now = Clock::System.now();
    plan.clock = Clock::at(now);
    let stage = Stage::start(application.address, plan).await;
    let connections = || stage.link().tcp_connections.load(Ordering::Relaxed);
    eventually("there are two connections", || connections() == 2).await;
    assert_eq!(stage.edge.post(HOOK, &[], b"x").await.status, 200);
    stage.link().tcp(Pass::New);
    stage.clock.set(UnixMillis(now.0 + 3_600_000));
    eventually("both are connected again", || connections() == 4).await;

    assert_eq!(stage.edge.post(HOOK, &[], b"x").await.status, 200);
    assert_eq!(application.log.take().len(), 2, "each arrived once");
}

/// A NAT gives the agent's flows other ports: QUIC connections continue (RFC 9000 §9), and none is
/// dialed again.
#[tokio::test]
async fn connections_survive_a_nat_that_rebinds_their_ports() {
    let application = Application::start(|_| Reply::ok("")).await;
    let stage = Stage::start(
        application.address,
        linked(TransportMode::Only(Transport::Quic)),
    )
    .await;

    eventually("there are two connections", || {
        stage.link().udp_flows() == 2
    })
    .await;

    for _ in 0..3 {
        assert_eq!(stage.edge.post(HOOK, &[], b"x").await.status, 200);
        let before = stage.link().udp_carried();
        stage.link().rebind_udp().await;
        assert_eq!(stage.edge.post(HOOK, &[], b"x").await.status, 200);
        eventually("the agent's flows go on", || {
            stage.link().udp_carried() > before + 10
        })
        .await;
    }

    assert_eq!(stage.link().udp_flows(), 2, "the same two as before");
    assert_eq!(application.log.take().len(), 6, "each arrived once");
}

/// The relay does not know yet that the path is dead when it sends the request.
#[tokio::test]
async fn a_connection_that_dies_takes_no_request_with_it() {
    let application = Application::start(|_| Reply::ok("")).await;
    let stage = Stage::start(
        application.address,
        linked(TransportMode::Only(Transport::Quic)),
    )
    .await;

    eventually("there are two connections", || {
        stage.link().udp_flows() == 2
    })
    .await;

    for _ in 0..20 {
        assert_eq!(stage.edge.post(HOOK, &[], b"x").await.status, 200);
    }

    stage.link().silence_busiest_udp_flow();
    let edges: Vec<_> = (0..8).map(|_| stage.edge.clone()).collect();
    let sending = edges
        .into_iter()
        .map(|edge| tokio::spawn(async move { edge.post(HOOK, &[], b"x").await.status }));
    for sent in sending.collect::<Vec<_>>() {
        assert_eq!(within("an answer", sent).await.unwrap(), 200);
    }

    assert_eq!(application.log.take().len(), 28, "each arrived once");
    eventually("the lost connection is there again", || {
        stage.link().udp_flows() == 2
    })
    .await;
}

/// Large bodies that a check has read are kept until the application has them, too.
#[tokio::test]
async fn nor_a_large_signed_one() {
    let application = Application::start(|_| Reply::ok("")).await;
    let plan = Plan {
        policy: signed_policy("github", b"s", ""),
        ..linked(TransportMode::Only(Transport::Quic))
    };
    let stage = Stage::start(application.address, plan).await;

    eventually("there are two connections", || {
        stage.link().udp_flows() == 2
    })
    .await;

    let body: Arc<[u8]> = vec![b'x'; 300_000].into();
    let signature = github_signature("s", &body);
    assert_eq!(
        stage
            .edge
            .post(HOOK, &[("X-Hub-Signature-256", &signature)], &body)
            .await
            .status,
        200
    );

    stage.link().silence_busiest_udp_flow();
    let sending = (0..8).map(|_| {
        let (edge, body, signature) = (stage.edge.clone(), Arc::clone(&body), signature.clone());
        tokio::spawn(async move {
            edge.post(HOOK, &[("X-Hub-Signature-256", &signature)], &body)
                .await
                .status
        })
    });
    for sent in sending.collect::<Vec<_>>() {
        assert_eq!(within("an answer", sent).await.unwrap(), 200);
    }

    assert_eq!(application.log.take().len(), 9, "each arrived once");
}

/// Over TCP a connection that a NAT has forgotten stays open and silent.
#[tokio::test]
async fn a_tcp_connection_that_is_silent_is_noticed() {
    let application = Application::start(|_| Reply::ok("")).await;
    let stage = Stage::start(
        application.address,
        linked(TransportMode::Only(Transport::Tcp)),
    )
    .await;
    assert_eq!(stage.edge.post(HOOK, &[], b"x").await.status, 200);
    eventually("there are two connections", || {
        stage.link().tcp_connections.load(Ordering::Relaxed) == 2
    })
    .await;

    stage.link().tcp(Pass::New);
    eventually("both are connected again", || {
        stage.link().tcp_connections.load(Ordering::Relaxed) >= 4
    })
    .await;
    assert_eq!(stage.edge.post(HOOK, &[], b"x").await.status, 200);
}

/// A request that the application may have received is not sent again, and the sender gets an
/// error.
#[tokio::test]
async fn a_request_that_reached_the_application_is_never_sent_twice() {
    let application = Application::start(|_| Reply::Silence).await;
    let stage = Stage::start(
        application.address,
        linked(TransportMode::Only(Transport::Quic)),
    )
    .await;

    eventually("there are two connections", || {
        stage.link().udp_flows() == 2
    })
    .await;

    let edge = stage.edge.clone();
    let sent = tokio::spawn(async move { edge.post(HOOK, &[], b"x").await });
    eventually("the application has it", || application.log.begun() == 1).await;
    stage.link().udp(Pass::New);

    let answer = within("an answer", sent).await.unwrap();
    assert_eq!((answer.status, answer.code()), (502, Some("tunnel_error")));
    assert_eq!(application.log.begun(), 1);
}

#[tokio::test]
async fn agents_that_share_a_tunnel_share_its_load() {
    let busy = Application::start(|_| Reply::Silence).await;
    let idle = Application::start(|_| Reply::ok("second")).await;
    let link = LinkSettings {
        pool: true,
        ..LinkSettings::default()
    };

    let mut stage = Stage::start(
        busy.address,
        Plan {
            link,
            ..Plan::default()
        },
    )
    .await;
    let mut held = Vec::new();

    for number in 1..=3 {
        let mut connection = stage.edge.http1().await;
        connection
            .send("POST", HOOK, hookward_tests::stage::HOST, &[], b"x")
            .await;
        eventually("the first has it", || busy.log.begun() == number).await;
        held.push(connection);
    }

    let first = stage.start_second_agent(idle.address).await;
    // The first has three requests in flight, so the second gets the next ones.
    for _ in 0..10 {
        assert_eq!(stage.edge.post(HOOK, &[], b"x").await.text(), "second");
    }

    assert_eq!(busy.log.begun(), 3);
    drop(held);
    within("the first leaves", first.shutdown()).await;
    assert_eq!(stage.edge.post(HOOK, &[], b"x").await.text(), "second");
}

/// Pooling needs both: without it the newest agent has the tunnel, and the previous one when it
/// leaves.
#[tokio::test]
async fn an_agent_that_does_not_share_has_the_tunnel_alone() {
    let [before, newest] = [
        Application::start(|_| Reply::ok("before")).await,
        Application::start(|_| Reply::ok("newest")).await,
    ];
    let link = LinkSettings {
        pool: true,
        ..LinkSettings::default()
    };

    let mut stage = Stage::start(
        before.address,
        Plan {
            link,
            ..Plan::default()
        },
    )
    .await;
    stage.share(false);

    let first = stage.start_second_agent(newest.address).await;
    for _ in 0..10 {
        assert_eq!(stage.edge.post(HOOK, &[], b"x").await.text(), "newest");
    }

    stage.stop_agent().await;
    assert_eq!(stage.edge.post(HOOK, &[], b"x").await.text(), "before");
    within("the first leaves", first.shutdown()).await;
}

/// Each agent is tried once, over any connection, and the sender gets its error.
#[tokio::test]
async fn all_applications_down_is_502() {
    let free = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let link = LinkSettings {
        pool: true,
        ..LinkSettings::default()
    };

    let mut stage = Stage::start(
        free,
        Plan {
            link,
            ..Plan::default()
        },
    )
    .await;
    let _first = stage.start_second_agent(free).await;

    for _ in 0..5 {
        assert_eq!(
            stage.edge.post(HOOK, &[], b"x").await.code(),
            Some("upstream_unreachable")
        );
    }
}

#[tokio::test]
async fn requests_avoid_an_agent_whose_application_is_down() {
    let free = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let application = Application::start(|_| Reply::ok("second")).await;
    let link = LinkSettings {
        pool: true,
        ..LinkSettings::default()
    };

    let mut stage = Stage::start(
        free,
        Plan {
            link,
            ..Plan::default()
        },
    )
    .await;
    assert_eq!(
        stage.edge.post(HOOK, &[], b"x").await.code(),
        Some("upstream_unreachable")
    );

    let _first = stage.start_second_agent(application.address).await;
    for _ in 0..10 {
        let answer = stage.edge.post(HOOK, &[], b"x").await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "second"));
    }

    // A large body is sent once. The first agent reports that its application is down, and gets
    // none.
    let large = vec![b'x'; MIB as usize];
    let since = Instant::now();

    while stage.edge.post(HOOK, &[], &large).await.status != 200 {
        assert!(since.elapsed() < DEADLINE, "the first agent says nothing");
    }

    for _ in 0..5 {
        assert_eq!(stage.edge.post(HOOK, &[], &large).await.text(), "second");
    }

    let _back = Application::start_at(free, |_| Reply::ok("first")).await;
    let since = Instant::now();

    while stage.edge.post(HOOK, &[], &large).await.text() != "first" {
        assert!(
            since.elapsed() < DEADLINE,
            "and when it is back it says nothing either"
        );
    }
}

#[tokio::test]
async fn every_relay_can_serve_and_one_that_is_gone_is_not_missed() {
    let application = Application::start(|_| Reply::ok("")).await;
    let mut fleet = Fleet::start(2, application.address, Plan::default()).await;
    for relay in &fleet.relays {
        assert_eq!(relay.edge.post(HOOK, &[], b"x").await.status, 200);
    }

    fleet.stop(0).await;
    for _ in 0..5 {
        assert_eq!(fleet.relays[1].edge.post(HOOK, &[], b"x").await.status, 200);
    }

    let away = |report: &Event| matches!(report, Event::Disconnected { .. });
    assert!(
        !fleet.reports.lock().unwrap().iter().any(away),
        "one relay is there all the time"
    );

    let gone = fleet.relays[0].tunnel.to_string();
    let named =
        |report: &Event| matches!(report, Event::RelayDisconnected { relay, .. } if *relay == gone);
    eventually("the one that is gone is named", || {
        fleet.reports.lock().unwrap().iter().any(named)
    })
    .await;

    let again = fleet.opened_at();
    assert_eq!(again.len(), 2);
    fleet.stop_agent().await;
    assert_eq!(fleet.relays[1].edge.post(HOOK, &[], b"x").await.status, 503);
}

#[tokio::test]
async fn through_an_http_proxy_with_a_password() {
    let application = Application::start(|_| Reply::ok("")).await;
    let proxy = Proxy::start("user:p@ss").await;
    let mut plan = linked(TransportMode::Auto);
    plan.link.proxies = Proxies::all(&format!("http://user:p%40ss@{}", proxy.address), "");

    // The proxy is the only path, because UDP is blocked.
    let mut stage = Stage::blocked(application.address, plan).await;
    assert_eq!(stage.transports(), [Transport::Tcp]);
    assert_eq!(stage.edge.post(HOOK, &[], b"x").await.status, 200);

    let relay = stage.link().address;
    assert!(
        proxy
            .asked
            .lock()
            .unwrap()
            .iter()
            .all(|line| *line == format!("CONNECT {relay} HTTP/1.1"))
    );

    assert_eq!(
        stage.link().tcp_connections.load(Ordering::Relaxed),
        proxy.asked.lock().unwrap().len()
    );
    stage.stop_agent().await;
}

#[tokio::test]
async fn a_proxy_that_refuses_is_named_and_one_that_is_not_for_this_host_is_not_asked() {
    let proxy = Proxy::start("user:right").await;
    let (address, credential) = ("127.0.0.1:9".to_owned(), Secret::generate().unwrap());
    let relay = RelayEndpoint::new(address, pin(), credential);

    let link = |no: &str| LinkSettings {
        transport: TransportMode::Only(Transport::Tcp),
        proxies: Proxies::all(&format!("http://user:wrong@{}", proxy.address), no),
        ..LinkSettings::default()
    };

    let secret = || Secret::generate().unwrap();
    let error = join(&relay, &link(""), secret())
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("407")
            && error.contains(&proxy.address.to_string())
            && !error.contains("wrong"),
        "{error}"
    );

    assert_eq!(proxy.asked.lock().unwrap().len(), 1);
    let error = join(&relay, &link("127.0.0.0/8"), secret())
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("127.0.0.1:9"), "{error}");
    assert_eq!(proxy.asked.lock().unwrap().len(), 1, "not asked");
}

fn pin() -> Pin {
    let dir = tempfile::TempDir::new().unwrap();
    hookward_relay::TunnelIdentity::load_or_make(dir.path())
        .unwrap()
        .pin
}

/// Connections of an agent, made by hand.
struct ByHand {
    credential: Secret,
    endpoint: quinn::Endpoint,
    relay: SocketAddr,
    edge: Edge,
}

impl ByHand {
    async fn new(plan: Plan) -> (Stage, Self) {
        let stage = Stage::start(([127, 0, 0, 1], 1).into(), plan).await;
        let name = AgentName::parse("late").unwrap();
        let (join, credential) = (
            stage.relay().add_agent(&name).unwrap(),
            Secret::generate().unwrap(),
        );

        stage
            .relay()
            .store()
            .join(&join.secret, &credential.digest(), stage.clock.now())
            .unwrap()
            .unwrap();

        let endpoint = quic::client(
            (Ipv4Addr::LOCALHOST, 0).into(),
            Pins::new(stage.relay().pin(), None),
            Liveness::default(),
        )
        .unwrap();
        let (relay, edge) = (stage.relay().tunnel_address(), stage.edge.clone());

        (
            stage,
            Self {
                credential,
                endpoint,
                relay,
                edge,
            },
        )
    }

    /// Opens a connection of one instance.
    async fn connect(&self, line: Option<u32>) -> (Session, ControlStream) {
        self.connect_again(line, false).await
    }

    /// Opens a connection whose predecessor may be lost.
    async fn connect_again(&self, line: Option<u32>, lost: bool) -> (Session, ControlStream) {
        let connecting = self
            .endpoint
            .connect(self.relay, quic::SERVER_NAME)
            .unwrap();
        let session = Session::over_quic(within("a handshake", connecting).await.unwrap());
        let mut control = session.open_control().await.unwrap();
        static GENERATION: AtomicU32 = AtomicU32::new(1);

        let generation = GENERATION.fetch_add(1, Ordering::Relaxed);
        let connection = ConnectionId {
            instance: "one run".to_owned(),
            // Without a link of its own, a connection replaces no other.
            index: line.unwrap_or(1000 + generation),
            generation: generation.into(),
        };
        let version = String::new();
        let credential = self.credential.clone();

        control
            .send(&AgentMessage::Hello {
                credential,
                version,
                connection,
                pool: false,
                lost,
                time_ms: 0,
                captures_refused: false,
            })
            .await
            .unwrap();

        assert!(matches!(
            control.receive(GREETING_BYTES).await.unwrap(),
            RelayMessage::Welcome { .. }
        ));
        session.serve();

        (session, control)
    }

    /// Sends a request that waits for its response.
    async fn ask(&self, host: &str, path: &str) -> Http1 {
        let edge = Edge {
            host: format!("{host}.example.test"),
            ..self.edge.clone()
        };
        let mut waiting = edge.http1().await;
        waiting.send("GET", path, &edge.host, &[], b"").await;
        waiting
    }
}

async fn open_by_hand(control: &mut ControlStream, host: &str, path: &str, revision: u64) {
    let policy = policy(&format!(
        "[[route]]\npath = '{path}'\n[[route.accept]]\nopen = true"
    ));
    control
        .send(&AgentMessage::Open {
            host: Some(host.to_owned()),
            policy,
            revision,
        })
        .await
        .unwrap();

    assert!(matches!(
        control.receive(GREETING_BYTES).await.unwrap(),
        RelayMessage::Opened { .. }
    ));
}

/// The connections of one instance report two changes, and the older one arrives last.
#[tokio::test]
async fn a_policy_that_comes_late_does_not_replace_a_newer_one() {
    let (_stage, agent) = ByHand::new(Plan::default()).await;
    let mut connections = Vec::new();

    for (path, revision) in [("/newer", 2), ("/older", 1)] {
        let (session, mut control) = agent.connect(None).await;
        open_by_hand(&mut control, "late", path, revision).await;
        connections.push((session, control));
    }

    let edge = Edge {
        host: "late.example.test".to_owned(),
        ..agent.edge.clone()
    };
    assert_eq!(
        edge.get("/older").await.status,
        404,
        "the newer policy is in force"
    );

    // The other one would be forwarded: to an agent that does not respond.
    let _waiting = agent.ask("late", "/newer").await;
    let [(one, _), (other, _)] = &connections[..] else {
        panic!("two connections")
    };

    within("a request", async {
        tokio::select! { asked = one.accept() => asked.map(drop), asked = other.accept() => asked.map(drop) }
    })
    .await
    .unwrap();
}

/// Until it has opened all tunnels of its predecessor: the agent accepts no request over it before.
#[tokio::test]
async fn the_newer_connection_of_a_line_is_used_once_it_is_complete() {
    let (_stage, agent) = ByHand::new(Plan::default()).await;
    let (older, mut older_control) = agent.connect(Some(0)).await;
    open_by_hand(&mut older_control, "one", "/x", 1).await;
    open_by_hand(&mut older_control, "two", "/x", 1).await;

    let (newer, mut newer_control) = agent.connect(Some(0)).await;
    open_by_hand(&mut newer_control, "one", "/x", 1).await;
    let _first = agent.ask("one", "/x").await;
    within("a request for the older one", older.accept())
        .await
        .unwrap();
    open_by_hand(&mut newer_control, "two", "/x", 1).await;

    for host in ["one", "two"] {
        let _next = agent.ask(host, "/x").await;
        within("a request for the newer one", newer.accept())
            .await
            .unwrap();
    }

    // A connection of another link replaces none.
    let (other, mut other_control) = agent.connect(Some(1)).await;
    open_by_hand(&mut other_control, "one", "/x", 1).await;

    let _last = agent.ask("one", "/x").await;
    within("a request", async {
        tokio::select! {
            asked = newer.accept() => drop(asked.unwrap()),
            asked = other.accept() => drop(asked.unwrap()),
            asked = older.accept() => panic!("the older one has it: {}", asked.is_ok()),
        }
    })
    .await;
}

/// A draining relay accepts an agent that has lost its connection, for the last requests, and none
/// that only wants another one.
#[tokio::test]
async fn a_draining_relay_accepts_only_agents_that_lost_their_connection() {
    let mut plan = Plan::default();
    plan.limits.drain = DEADLINE;
    let (mut stage, agent) = ByHand::new(plan).await;
    let (session, mut control) = agent.connect(Some(0)).await;
    open_by_hand(&mut control, "one", "/x", 1).await;

    let _under_way = agent.ask("one", "/x").await;
    let _request = within("a request", session.accept()).await.unwrap();
    let stopping = tokio::spawn(async move { stage.stop_relay().await });
    let said = within(
        "the relay's word",
        control.receive::<RelayMessage>(GREETING_BYTES),
    )
    .await
    .unwrap();
    assert!(matches!(said, RelayMessage::Draining));

    let (_refused, mut control) = agent.connect_again(Some(0), false).await;
    let said = within("a refusal", control.receive::<RelayMessage>(GREETING_BYTES))
        .await
        .unwrap();
    assert!(matches!(
        said,
        RelayMessage::Refused {
            reason: RefusedReason::Unavailable,
            ..
        }
    ));

    let (taken, mut control) = agent.connect_again(Some(0), true).await;
    let policy = policy("[[route]]\npath = '/x'\n[[route.accept]]\nopen = true");
    control
        .send(&AgentMessage::Open {
            host: Some("one".to_owned()),
            policy,
            revision: 1,
        })
        .await
        .unwrap();

    let opened = within("the tunnel", async {
        // The relay's drain is announced here, too.
        loop {
            match control
                .receive::<RelayMessage>(GREETING_BYTES)
                .await
                .unwrap()
            {
                RelayMessage::Draining => {}
                RelayMessage::Opened { .. } => return true,
                _ => return false,
            }
        }
    });
    assert!(opened.await);

    session.close("lost");
    // The request in flight arrives again, because it is the same instance of the agent.
    within("the request again", taken.accept()).await.unwrap();
    taken.close("enough");
    within("the relay stops", stopping).await.unwrap();
}
