//! Rolling restarts of the real programs by SIGTERM, under load: no request fails. Senders try the
//! next relay only if a connection is refused; a reset, an end without a response and a 5xx count
//! as failures.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use hookward_tests::application::{Application, Reply};
use hookward_tests::ports::free_port;
use hookward_tests::process::{Process, run};
use hookward_tests::sender::{Edge, Http1};
use hookward_tests::wait::{eventually, within};
use hookward_tunnel::transport::Transport;
use http::Request;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::client::TlsStream;

use super::programs::{edge, off, serve};

const HOST: &str = "flexdeploy.hooks.example.test";
const HOOK: &str = "/flexdeploy/webhooks/v1";
/// Delay of the application for every eighth webhook, which is in flight when the program is
/// stopped.
const SLOWLY: Duration = Duration::from_millis(300);

/// Use of connections by a sender.
#[derive(Debug, Clone, Copy)]
enum Sender {
    /// One for each request.
    Fresh,
    /// HTTP/1.1, kept until the relay announces its close.
    Kept,
    /// HTTP/2, kept until the relay sends GOAWAY.
    Multiplexed,
}

/// Senders of all kinds, which try the relays in turn.
struct Load {
    stop: Arc<AtomicBool>,
    good: Arc<AtomicUsize>,
    senders: Vec<(Sender, JoinHandle<Vec<String>>)>,
}

impl Load {
    fn begin(edges: &[Edge]) -> Self {
        let (stop, good) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicUsize::new(0)),
        );
        let begin = |(first, kind): (usize, Sender)| {
            let (edges, stop, good) = (edges.to_vec(), Arc::clone(&stop), Arc::clone(&good));
            let sending = async move {
                let mut failed = Vec::new();
                let (mut kept, mut multiplexed) = (None, None);

                while !stop.load(Ordering::Relaxed) {
                    let sent = match kind {
                        Sender::Fresh => over_http1(&edges, first, &mut None).await,
                        Sender::Kept => over_http1(&edges, first, &mut kept).await,
                        Sender::Multiplexed => over_http2(&edges, first, &mut multiplexed).await,
                    };
                    match sent {
                        Ok(200) => drop(good.fetch_add(1, Ordering::Relaxed)),
                        other => failed.push(format!("{other:?}")),
                    }
                }

                failed
            };
            (kind, tokio::spawn(sending))
        };

        let kinds = [Sender::Fresh, Sender::Kept, Sender::Multiplexed];
        let senders = (0..2)
            .flat_map(|first| kinds.map(|kind| (first, kind)))
            .map(begin)
            .collect();

        Self {
            stop,
            good,
            senders,
        }
    }

    /// Waits until this number of further webhooks got 200.
    async fn good(&self, more: usize) {
        let before = self.good.load(Ordering::Relaxed);
        eventually("webhooks pass", || {
            self.good.load(Ordering::Relaxed) >= before + more
        })
        .await;
    }

    /// Ends the load. No webhook may have failed. Returns the number of webhooks.
    async fn end(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        for (kind, sending) in self.senders {
            let failed = within("the last webhook", sending).await.unwrap();
            assert!(
                failed.is_empty(),
                "{kind:?}: {} failed, the first {:?}",
                failed.len(),
                failed.first()
            );
        }

        self.good.load(Ordering::Relaxed)
    }
}

/// Returns a connection to the first relay that does not refuse it.
async fn connect(
    edges: &[Edge],
    first: usize,
    alpn: &[u8],
) -> Result<TlsStream<TcpStream>, String> {
    for edge in edges.iter().cycle().skip(first).take(edges.len()) {
        match within("a handshake", edge.tls(alpn, Some(HOST))).await {
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {}
            other => return other.map_err(|error| error.to_string()),
        }
    }
    Err("all relays refuse connections".to_owned())
}

async fn over_http1(edges: &[Edge], first: usize, kept: &mut Option<Http1>) -> Result<u16, String> {
    let mut connection = match kept.take() {
        Some(connection) => connection,
        None => Http1::new(connect(edges, first, b"http/1.1").await?),
    };
    connection.send("POST", HOOK, HOST, &[], b"x").await;

    let answer = connection.try_answer("POST").await.ok_or("no answer")?;
    if answer.header("connection") != Some("close") {
        *kept = Some(connection);
    }

    Ok(answer.status)
}

type Http2 = h2::client::SendRequest<bytes::Bytes>;

async fn over_http2(edges: &[Edge], first: usize, kept: &mut Option<Http2>) -> Result<u16, String> {
    let ready = match kept.take() {
        // A GOAWAY is no failure.
        Some(client) => client.ready().await.ok(),
        None => None,
    };

    let mut client = match ready {
        Some(client) => client,
        None => {
            let stream = connect(edges, first, b"h2").await?;
            let (client, connection) = h2::client::handshake(stream)
                .await
                .map_err(|error| error.to_string())?;

            tokio::spawn(async move {
                let _ = connection.await;
            });

            client.ready().await.map_err(|error| error.to_string())?
        }
    };

    let request = Request::post(format!("https://{HOST}{HOOK}"))
        .body(())
        .unwrap();
    let (answer, _) = client
        .send_request(request, true)
        .map_err(|error| error.to_string())?;
    let answer = within("an answer", answer)
        .await
        .map_err(|error| error.to_string())?;

    *kept = Some(client);
    Ok(answer.status().as_u16())
}

async fn application() -> Application {
    let count = AtomicUsize::new(0);
    Application::start(move |_| {
        let slow = count.fetch_add(1, Ordering::Relaxed).is_multiple_of(8);
        if slow {
            Reply::Later(SLOWLY)
        } else {
            Reply::ok("")
        }
    })
    .await
}

/// Starts a relay process. Returns the process, its edge and a join token, if the data directory is
/// new.
fn start_relay(data: &Path, listen: &str) -> (Process, Edge, Option<String>) {
    let mut relay = serve(data, listen, &["--tunnel-address", listen]);
    let ready = relay.event("ready");
    let token = relay.out().iter().find_map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).ok()?;
        std::fs::read_to_string(line["file"].as_str()?).ok()
    });
    (relay, edge(&ready, HOST), token)
}

fn join(state: &Path, token: &str) {
    let joined = run(
        "hookward",
        &["join", "-", "--state-dir", state.to_str().unwrap()],
        &[],
        token,
    );
    assert_eq!(joined.code, Some(0), "{joined:?}");
}

fn start_agent(application: &str, state: &Path, more: &[&str]) -> Process {
    let state = state.to_str().unwrap();
    let mut args = vec![
        "http",
        application,
        "--no-token",
        "--log-format",
        "json",
        "--state-dir",
        state,
    ];
    args.extend(more);

    Process::start("hookward", &args, &[])
}

/// Stops a program, and waits for its end.
async fn end(program: Process) {
    let ended = off(move || {
        program.signal("TERM");
        program.end()
    })
    .await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

over_all_transports! {
    relays_are_restarted_one_after_the_other
}

async fn relays_are_restarted_one_after_the_other(transport: Transport) {
    let application = application().await;
    let dirs: [TempDir; 3] = std::array::from_fn(|_| TempDir::new().unwrap());
    let paths = dirs.each_ref().map(|dir| dir.path().to_owned());
    let listen: [String; 2] = std::array::from_fn(|_| format!("127.0.0.1:{}", free_port()));
    let target = application.address.to_string();

    let start = {
        let (listen, paths) = (listen.clone(), paths.clone());
        move || {
            let (relays, edges): (Vec<_>, Vec<_>) = listen
                .iter()
                .zip(&paths)
                .map(|(listen, data)| {
                    let (relay, edge, token) = start_relay(data, listen);
                    join(&paths[2], &token.unwrap());
                    (Some(relay), edge)
                })
                .unzip();

            let carried = transport.to_string();
            let mut agent = start_agent(
                &target,
                &paths[2],
                &["--transport", &carried, "--connections", "3"],
            );

            // Both relays have the tunnel.
            let opened = [agent.nth_event("ready", 0), agent.nth_event("ready", 1)];
            assert!(
                opened
                    .iter()
                    .all(|ready| ready["transport"] == carried.as_str()),
                "{opened:?}"
            );

            (relays, edges, agent)
        }
    };
    let (mut relays, edges, agent) = off(start).await;

    let load = Load::begin(&edges);
    for number in [0, 1, 0] {
        load.good(30).await;
        end(relays[number].take().unwrap()).await;
        load.good(10).await;

        let (listen, data) = (listen[number].clone(), paths[number].clone());
        let (relay, edge, _) = off(move || start_relay(&data, &listen)).await;
        relays[number] = Some(relay);
        // The request waits for the agent, which reconnects.
        assert_eq!(edge.post(HOOK, &[], b"x").await.status, 200);
    }

    let passed = load.end().await;
    // One more at each of the three restarts.
    assert_eq!(
        application.log.take().len(),
        passed + 3,
        "each arrived once"
    );
    end(agent).await;
}

#[tokio::test]
async fn agents_that_share_a_tunnel_are_restarted_one_after_the_other() {
    let application = application().await;
    let (data, state) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (data_dir, state_dir) = (data.path().to_owned(), state.path().to_owned());
    let target = application.address.to_string();
    let start = move || {
        let mut agent = start_agent(&target, &state_dir, &["--pool", "--idle-timeout", "5"]);
        agent.event("ready");
        agent
    };

    let of_relay = state.path().to_owned();
    let (relay, edge) = off(move || {
        let (relay, edge, token) = start_relay(&data_dir, &format!("127.0.0.1:{}", free_port()));
        join(&of_relay, &token.unwrap());
        (relay, edge)
    })
    .await;
    let mut agents = [off(start.clone()).await, off(start.clone()).await];
    let load = Load::begin(&[edge]);

    for agent in &mut agents {
        load.good(30).await;
        let old = std::mem::replace(agent, off(start.clone()).await);
        end(old).await;
    }

    load.good(30).await;
    let passed = load.end().await;
    assert_eq!(application.log.take().len(), passed, "each arrived once");

    for agent in agents {
        end(agent).await;
    }

    end(relay).await;
}
