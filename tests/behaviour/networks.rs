//! Real programs on disturbed networks: an agent in a network namespace, continuous webhooks, a
//! fault, and its end. No accepted webhook is lost, none arrives twice, and the tunnel is back
//! within two seconds.
//!
//! Each case prints a row: `cargo test networks:: -- --nocapture`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hookward_agent::StateDir;
use hookward_tests::application::{Application, Reply};
use hookward_tests::network::Network;
use hookward_tests::process::Process;
use hookward_tests::proxy::Proxy;
use hookward_tests::sender::{Edge, Http1};
use hookward_tests::wait::{eventually, within};
use hookward_tunnel::transport::Transport;
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{interval, sleep, timeout};

use super::programs::{edge, off, serve, serve_at};

/// Interval of webhooks.
const EVERY: Duration = Duration::from_millis(50);
/// Timeout of senders.
const PATIENCE: Duration = Duration::from_secs(20);
/// Maximum time from the end of a fault until the tunnel is back.
const BACK: Duration = Duration::from_secs(2);
const HOST: &str = "flexdeploy.hooks.example.test";
const HOOK: &str = "/flexdeploy/webhooks/v1";

/// Relay and agent as programs, with the agent in its own network.
pub(super) struct Site {
    pub(super) network: Network,
    pub(super) application: Application,
    edge: Edge,
    ready: Value,
    pub(super) agent: Option<Process>,
    relay: Option<Process>,
    pub(super) dirs: [TempDir; 2],
}

impl Site {
    /// Starts a site. `before` may disturb the network, or set a proxy, before the agent joins.
    pub(super) async fn start(
        network: Network,
        before: impl FnOnce(&Network) -> Vec<(String, String)> + Send + 'static,
    ) -> Self {
        Self::over("auto", network, before).await
    }

    /// Starts a site with this `--transport`.
    async fn over(
        transport: &'static str,
        network: Network,
        before: impl FnOnce(&Network) -> Vec<(String, String)> + Send + 'static,
    ) -> Self {
        let application = Application::start_at((network.application(), 0).into(), |request| {
            Reply::ok(&request.target)
        })
        .await;
        let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap()];
        let (data, state) = (dirs[0].path().to_owned(), dirs[1].path().to_owned());
        let target = application.address.to_string();

        let (network, relay, agent, relay_ready, ready) = off(move || {
            let mut relay = serve_at(&data, network.relay());
            let relay_ready = relay.event("ready");
            let token = relay.join_token();
            let environment = before(&network);
            let environment: Vec<_> = environment
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str()))
                .collect();
            let state = state.to_str().unwrap();

            let joined = network.run(
                "hookward",
                &["join", "-", "--state-dir", state],
                &environment,
                &token,
            );
            assert_eq!(joined.code, Some(0), "{joined:?}");

            let own = [
                "--transport",
                transport,
                "--log-format",
                "json",
                "--state-dir",
                state,
            ];
            let args = [
                &["http", &target, "--no-token", "--delivery", "direct"][..],
                &own,
            ]
            .concat();
            let mut agent = network.start("hookward", &args, &environment);
            let ready = agent.event("ready");
            (network, relay, agent, relay_ready, ready)
        })
        .await;

        let edge = edge(&relay_ready, HOST);
        Self {
            network,
            application,
            edge,
            ready,
            agent: Some(agent),
            relay: Some(relay),
            dirs,
        }
    }

    fn transport(&self) -> &str {
        self.ready["transport"].as_str().unwrap()
    }
}

/// Results of webhooks.
#[derive(Default)]
struct Counts {
    sent: AtomicUsize,
    accepted: Mutex<Vec<String>>,
    server_error: AtomicUsize,
    unanswered: AtomicUsize,
    /// Number of 5xx responses by the relay's code.
    said: Mutex<BTreeMap<String, usize>>,
    other: AtomicUsize,
    /// Time of a mark, and of the last webhook sent after it that was accepted.
    back: Mutex<Option<(Instant, Option<Instant>)>>,
}

/// Webhooks at a steady rate, regardless of the responses.
struct Load {
    counts: Arc<Counts>,
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

impl Load {
    fn begin(edge: &Edge) -> Self {
        let (counts, stop) = (
            Arc::new(Counts::default()),
            Arc::new(AtomicBool::new(false)),
        );
        let (edge, counted, stopped) = (edge.clone(), Arc::clone(&counts), Arc::clone(&stop));

        let task = tokio::spawn(async move {
            let (mut tick, mut sending) = (interval(EVERY), JoinSet::new());
            while !stopped.load(Ordering::Relaxed) {
                tick.tick().await;
                let number = counted.sent.fetch_add(1, Ordering::Relaxed);
                sending.spawn(send(edge.clone(), Arc::clone(&counted), number));
            }
            while sending.join_next().await.is_some() {}
        });
        Self { counts, stop, task }
    }

    /// Starts to measure the time until a webhook is accepted.
    async fn mended(&self) {
        *self.counts.back.lock().await = Some((Instant::now(), None));
    }

    /// Waits until webhooks are accepted again.
    async fn back(&self) -> Duration {
        within("webhooks are accepted again", async {
            loop {
                if let Some((since, Some(at))) = *self.counts.back.lock().await {
                    return at.duration_since(since);
                }
                sleep(Duration::from_millis(5)).await;
            }
        })
        .await
    }

    /// Ends the load, prints the row, and checks the invariants.
    async fn end(
        self,
        case: &str,
        recovery: Option<Duration>,
        application: &Application,
    ) -> Arc<Counts> {
        self.stop.store(true, Ordering::Relaxed);
        let ended = timeout(PATIENCE * 2, self.task).await;
        ended.expect("the last webhook ends").unwrap();

        let counts = self.counts;
        let mut arrived: HashMap<String, usize> = HashMap::new();

        for received in application.log.take() {
            *arrived.entry(received.target).or_default() += 1;
        }

        let accepted = counts.accepted.lock().await;
        let lost = accepted
            .iter()
            .filter(|target| !arrived.contains_key(*target))
            .count();
        let twice = arrived.values().filter(|count| **count > 1).count();
        let recovery = recovery.map_or("-".to_owned(), |span| {
            format!("{:.2} s", span.as_secs_f64())
        });
        println!(
            "| {case} | {} | {} | {} | {} | {lost} | {recovery} |",
            counts.sent.load(Ordering::Relaxed),
            accepted.len(),
            counts.server_error.load(Ordering::Relaxed),
            counts.unanswered.load(Ordering::Relaxed),
        );

        for (said, count) in &*counts.said.lock().await {
            println!("  {count} times {said}");
        }

        assert_eq!(
            (lost, twice),
            (0, 0),
            "{case}: accepted and lost, arrived twice"
        );

        assert_eq!(
            counts.other.load(Ordering::Relaxed),
            0,
            "{case}: an outage is never a 4xx"
        );
        drop(accepted);

        counts
    }
}

async fn send(edge: Edge, counts: Arc<Counts>, number: usize) {
    let since = Instant::now();
    let target = format!("{HOOK}/{number}");
    let answered = timeout(PATIENCE, async {
        let stream = edge.tls(b"http/1.1", Some(HOST)).await.ok()?;
        let mut connection = Http1::new(stream);
        connection.send("POST", &target, HOST, &[], b"x").await;
        connection.try_answer("POST").await
    })
    .await;
    match answered {
        Ok(Some(answer)) if answer.status == 200 => {
            counts.accepted.lock().await.push(target);
            if let Some((mended, back @ None)) = &mut *counts.back.lock().await
                && since >= *mended
            {
                *back = Some(Instant::now());
            }
        }
        Ok(Some(answer)) if answer.status >= 500 => {
            counts.server_error.fetch_add(1, Ordering::Relaxed);
            let said = format!("{} {}", answer.status, answer.code().unwrap_or_default());
            *counts.said.lock().await.entry(said).or_default() += 1;
        }
        Ok(Some(_)) => drop(counts.other.fetch_add(1, Ordering::Relaxed)),
        Ok(None) | Err(_) => drop(counts.unanswered.fetch_add(1, Ordering::Relaxed)),
    }
}

fn nothing(_: &Network) -> Vec<(String, String)> {
    Vec::new()
}

#[tokio::test]
async fn udp_is_dropped_from_the_start() {
    without_udp("UDP dropped from the start", |network| {
        network.drop_packets("meta l4proto udp")
    })
    .await;
}

#[tokio::test]
async fn udp_is_rejected_from_the_start() {
    without_udp("UDP rejected from the start", |network| {
        network.reject_outgoing("meta l4proto udp")
    })
    .await;
}

async fn without_udp(name: &str, block: impl FnOnce(&Network) + Send + 'static) {
    let Some(network) = Network::new(None) else {
        return;
    };
    let since = Instant::now();
    let site = Site::start(network, |network| {
        block(network);
        Vec::new()
    })
    .await;

    let took = since.elapsed();
    assert_eq!(site.transport(), "tcp");
    let state = StateDir::open(Some(site.dirs[1].path())).unwrap();
    eventually("it is kept for the next start", || {
        state.last_transport() == Some(Transport::Tcp)
    })
    .await;

    let load = Load::begin(&site.edge);
    sleep(Duration::from_secs(3)).await;
    let counts = load.end(name, Some(took), &site.application).await;
    assert_eq!(
        counts.accepted.lock().await.len(),
        counts.sent.load(Ordering::Relaxed)
    );
}

#[tokio::test]
async fn udp_is_dropped_under_way_and_comes_back() {
    let Some(network) = Network::new(None) else {
        return;
    };
    let site = Site::start(network, nothing).await;
    assert_eq!(site.transport(), "quic");

    let load = Load::begin(&site.edge);
    sleep(Duration::from_secs(2)).await;
    site.network.drop_packets("meta l4proto udp");
    load.mended().await;

    let noticed = load.back().await;
    assert!(noticed < Duration::from_secs(15), "{noticed:?}");
    // Back over QUIC, without failing a request.
    site.network.mend();

    let before = load.counts.server_error.load(Ordering::Relaxed);
    let (agent, quic) = off({
        let mut agent = site.agent.unwrap();
        move || {
            let tcp = agent.nth_event("ready", 1);
            assert_eq!(tcp["transport"], "tcp");
            let quic = agent.nth_event("ready", 2);
            (agent, quic)
        }
    })
    .await;
    assert_eq!(quic["transport"], "quic");

    assert_eq!(
        load.counts.server_error.load(Ordering::Relaxed),
        before,
        "the move back failed no request"
    );

    load.end(
        "UDP dropped mid-flight (time to TCP)",
        Some(noticed),
        &site.application,
    )
    .await;
    drop(agent);
}

/// Loses or reorders this percentage of packets all the time, on a path of 100 ms.
async fn troubled(transport: &'static str, lost: u32, overtaken: u32) {
    let Some(network) = Network::new(Some((50, overtaken))) else {
        return;
    };
    let mut site = Site::over(transport, network, nothing).await;
    site.network
        .drop_packets(&format!("numgen random mod 100 < {lost}"));

    let load = Load::begin(&site.edge);
    sleep(Duration::from_secs(8)).await;
    let carried = site.transport();
    let case =
        format!("{lost} % loss and {overtaken} % out of order each way, 50 ms each way, {carried}");
    let counts = load.end(&case, None, &site.application).await;
    let accepted = counts.accepted.lock().await.len();
    assert_eq!(
        accepted,
        counts.sent.load(Ordering::Relaxed),
        "all are accepted"
    );

    drop(site.agent.take());
    println!("the link: {}", site.network.ceiling().unwrap());
}

#[tokio::test]
async fn two_percent_of_packets_are_lost() {
    troubled("auto", 2, 0).await;
}

#[tokio::test]
async fn ten_percent_of_packets_are_lost() {
    troubled("auto", 10, 0).await;
}

#[tokio::test]
async fn two_percent_are_lost_over_tcp() {
    troubled("tcp", 2, 0).await;
}

#[tokio::test]
async fn ten_percent_are_lost_over_tcp() {
    troubled("tcp", 10, 0).await;
}

#[tokio::test]
async fn packets_overtake_others() {
    troubled("auto", 0, 20).await;
}

#[tokio::test]
async fn a_partition_of_half_a_minute() {
    partition("auto", "partition of 30 s").await;
}

#[tokio::test]
async fn a_partition_of_half_a_minute_over_tcp() {
    partition("tcp", "partition of 30 s, tcp").await;
}

async fn partition(transport: &'static str, case: &str) {
    let Some(network) = Network::new(None) else {
        return;
    };
    let site = Site::over(transport, network, nothing).await;
    let load = Load::begin(&site.edge);

    sleep(Duration::from_secs(1)).await;
    site.network.drop_packets("");
    sleep(Duration::from_secs(30)).await;
    site.network.mend();
    load.mended().await;

    let back = load.back().await;
    load.end(case, Some(back), &site.application).await;
    assert!(back < BACK, "{back:?}");
}

/// QUIC connections move to the new address; TCP connections are dialed again.
#[tokio::test]
async fn the_agents_address_changes() {
    address_change("auto", "address change").await;
}

#[tokio::test]
async fn the_agents_address_changes_over_tcp() {
    address_change("tcp", "address change, tcp").await;
}

async fn address_change(transport: &'static str, case: &str) {
    let Some(network) = Network::new(None) else {
        return;
    };
    let mut site = Site::over(transport, network, nothing).await;
    let load = Load::begin(&site.edge);

    sleep(Duration::from_secs(1)).await;
    site.network.change_address();
    load.mended().await;

    let back = load.back().await;
    sleep(Duration::from_secs(2)).await;
    load.end(case, Some(back), &site.application).await;
    assert!(back < BACK, "{back:?}");
}

#[tokio::test]
async fn a_slow_line() {
    slow_line("auto").await;
}

#[tokio::test]
async fn a_slow_line_over_tcp() {
    slow_line("tcp").await;
}

/// Webhooks keep passing on a link of 2 Mbit/s that a large body occupies for four seconds.
async fn slow_line(transport: &'static str) {
    const BYTES: usize = 1_000_000;

    let Some(network) = Network::new(None) else {
        return;
    };
    let site = Site::over(transport, network, |network| {
        network.limit_rate("2mbit");
        Vec::new()
    })
    .await;
    let load = Load::begin(&site.edge);

    let since = Instant::now();
    let large = site
        .edge
        .post(&format!("{HOOK}/large"), &[], &vec![b'x'; BYTES])
        .await;
    assert_eq!(large.status, 200);

    let meanwhile = load.counts.accepted.lock().await.len();
    let speed = BYTES as f64 * 8.0 / 1e6 / since.elapsed().as_secs_f64();
    let case = format!(
        "a body at {speed:.1} of 2 Mbit/s, {meanwhile} meanwhile, {}",
        site.transport()
    );
    let counts = load.end(&case, None, &site.application).await;
    assert_eq!(
        counts.accepted.lock().await.len(),
        counts.sent.load(Ordering::Relaxed)
    );

    assert!(speed < 2.1, "the line is slow: {speed}");
    assert!(meanwhile > 0, "some pass while it is under way");
}

#[tokio::test]
async fn only_a_proxy_leads_out() {
    let Some(network) = Network::new(None) else {
        return;
    };
    let proxy = Proxy::start_at(network.relay(), "user:word").await;
    let port = proxy.address.port();
    let url = format!("http://user:word@{}", proxy.address);

    let site = Site::start(network, move |network| {
        network.drop_packets("meta l4proto udp");
        network.drop_outgoing(&format!("tcp dport != {port}"));
        vec![
            ("HTTPS_PROXY".to_owned(), url),
            ("NO_PROXY".to_owned(), String::new()),
            ("no_proxy".to_owned(), String::new()),
        ]
    })
    .await;
    assert_eq!(site.transport(), "tcp");

    let load = Load::begin(&site.edge);
    sleep(Duration::from_secs(3)).await;
    let counts = load
        .end("CONNECT proxy only", None, &site.application)
        .await;
    assert_eq!(
        counts.accepted.lock().await.len(),
        counts.sent.load(Ordering::Relaxed)
    );
}

#[tokio::test]
async fn packets_are_small() {
    let Some(network) = Network::new(None) else {
        return;
    };
    let site = Site::start(network, |network| {
        network.set_mtu(1280);
        Vec::new()
    })
    .await;
    assert_eq!(site.transport(), "quic");

    let load = Load::begin(&site.edge);
    sleep(Duration::from_secs(3)).await;
    let large = site
        .edge
        .post(&format!("{HOOK}/large"), &[], &vec![b'x'; 3_000_000])
        .await;
    assert_eq!(large.status, 200);

    let counts = load.end("MTU 1280", None, &site.application).await;
    assert_eq!(
        counts.accepted.lock().await.len(),
        counts.sent.load(Ordering::Relaxed)
    );
}

/// A suspended laptop: the agent's process stops for longer than the idle timeout.
#[tokio::test]
async fn a_sleeping_agent_wakes() {
    let Some(network) = Network::new(None) else {
        return;
    };
    let site = Site::start(network, nothing).await;
    let load = Load::begin(&site.edge);

    sleep(Duration::from_secs(1)).await;
    let agent = site.agent.as_ref().unwrap();
    agent.signal("STOP");
    sleep(Duration::from_secs(15)).await;
    agent.signal("CONT");
    load.mended().await;

    let back = load.back().await;
    load.end("agent asleep for 15 s", Some(back), &site.application)
        .await;
    assert!(back < BACK, "{back:?}");
}

#[tokio::test]
async fn an_agent_that_is_killed_and_started_again() {
    let Some(network) = Network::new(None) else {
        return;
    };
    let mut site = Site::start(network, nothing).await;
    let load = Load::begin(&site.edge);

    sleep(Duration::from_secs(1)).await;
    // A dropped process is killed.
    drop(site.agent.take());

    let (state, application) = (
        site.dirs[1].path().to_owned(),
        site.application.address.to_string(),
    );

    load.mended().await;
    let (network, agent) = off(move || {
        let args = [
            "http",
            &application,
            "--no-token",
            "--delivery",
            "direct",
            "--log-format",
            "json",
            "--state-dir",
            state.to_str().unwrap(),
        ];
        let mut agent = site.network.start("hookward", &args, &[]);
        agent.event("ready");

        (site.network, agent)
    })
    .await;

    let back = load.back().await;
    load.end(
        "agent killed and started again",
        Some(back),
        &site.application,
    )
    .await;
    assert!(back < BACK, "{back:?}");
    drop((agent, network));
}

#[tokio::test]
async fn a_relay_that_is_killed_and_started_again() {
    let Some(network) = Network::new(None) else {
        return;
    };
    let mut site = Site::start(network, nothing).await;
    let load = Load::begin(&site.edge);

    sleep(Duration::from_secs(1)).await;
    drop(site.relay.take());
    let (data, listen) = (
        site.dirs[0].path().to_owned(),
        site.edge.address.to_string(),
    );

    load.mended().await;
    let _relay = off(move || {
        let mut relay = serve(&data, &listen, &["--tunnel-address", &listen]);
        relay.event("ready");
        relay
    })
    .await;
    let back = load.back().await;

    load.end(
        "relay killed and started again",
        Some(back),
        &site.application,
    )
    .await;
    assert!(back < BACK, "{back:?}");
}
