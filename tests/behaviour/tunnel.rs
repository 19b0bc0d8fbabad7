//! The tunnel on networks that are not kind: it finds a way, loses connections and no webhooks, and comes back.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hookward_agent::connection::{LinkSettings, TransportMode};
use hookward_shared::transport::Transport;
use hookward_shared::transport::liveness::Liveness;
use hookward_tests::application::{Application, Reply};
use hookward_tests::link::Pass;
use hookward_tests::sender::Edge;
use hookward_tests::stage::{Plan, Stage};
use hookward_tests::wait::{eventually, within};
use tokio::task::JoinHandle;

const HOOK: &str = "/flexdeploy/webhooks/v1/git/push";
/// A tunnel that notices soon.
const QUICK: Duration = Duration::from_secs(2);

fn linked(transport: TransportMode) -> Plan {
    let liveness = Liveness::dead_after_silence_of(QUICK);
    let mut plan = Plan { linked: true, ..Plan::default() };
    plan.limits.tunnel_dead = QUICK;
    plan.link = LinkSettings { transport, liveness, probe_after: Some(QUICK), ..LinkSettings::default() };
    plan
}

/// Webhooks one after another, until they are ended; gives how they were answered.
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
    assert!(since.elapsed() < Duration::from_secs(3), "{:?}", since.elapsed());
    assert_eq!(stage.transports(), [Transport::Quic, Transport::Tcp]);
    let load = Load::begin(&stage.edge);
    stage.link().udp(Pass::All);
    eventually("QUIC carries the tunnel again", || stage.transports().last() == Some(&Transport::Quic)).await;
    // Both connections have moved, and the old ones are gone.
    eventually("both have moved", || stage.link().udp_flows() >= 2).await;
    let answers = load.end().await;
    assert_eq!(answers.keys().collect::<Vec<_>>(), [&200], "{answers:?}");
    assert!(answers[&200] > 20, "{answers:?}");
    assert_eq!(application.log.take().len(), answers[&200], "each arrived once");
}

#[tokio::test]
async fn udp_that_dies_under_way_is_noticed_and_gone_around() {
    let application = Application::start(|_| Reply::ok("")).await;
    let stage = Stage::start(application.address, linked(TransportMode::Auto)).await;
    assert_eq!(stage.edge.post(HOOK, &[], b"x").await.status, 200);
    stage.link().udp(Pass::Nothing);
    let since = Instant::now();
    eventually("TCP carries the tunnel", || stage.transports().last() == Some(&Transport::Tcp)).await;
    assert!(since.elapsed() < QUICK + Duration::from_secs(5), "{:?}", since.elapsed());
    assert_eq!(stage.edge.post(HOOK, &[], b"x").await.status, 200);
}

/// The relay does not know yet that the path is dead when it sends the request there.
#[tokio::test]
async fn a_connection_that_dies_takes_no_request_with_it() {
    let application = Application::start(|_| Reply::ok("")).await;
    let stage = Stage::start(application.address, linked(TransportMode::Only(Transport::Quic))).await;
    eventually("there are two connections", || stage.link().udp_flows() == 2).await;
    assert_eq!(stage.edge.post(HOOK, &[], b"x").await.status, 200);
    stage.link().silence_one_udp_flow();
    let edges: Vec<_> = (0..8).map(|_| stage.edge.clone()).collect();
    let sending = edges.into_iter().map(|edge| tokio::spawn(async move { edge.post(HOOK, &[], b"x").await.status }));
    for sent in sending.collect::<Vec<_>>() {
        assert_eq!(within("an answer", sent).await.unwrap(), 200);
    }
    assert_eq!(application.log.take().len(), 9, "each arrived once");
    eventually("the lost connection is there again", || stage.link().udp_flows() == 2).await;
}
