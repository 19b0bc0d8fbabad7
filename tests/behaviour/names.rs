//! Several relays with one name and the same data, each with its own address. Real programs; the
//! agent is in a network namespace whose hosts file has the name.

use std::path::Path;
use std::sync::Arc;

use hookward_tests::application::{Application, Reply};
use hookward_tests::network::Network;
use hookward_tests::ports::free_port_at;
use hookward_tests::process::Process;
use hookward_tests::sender::Edge;
use hookward_tests::wait::{eventually, within};
use hookward_tunnel::transport::Transport;
use tempfile::TempDir;
use tokio::sync::Notify;

use super::programs::{edge, off, serve};

const HOST: &str = "flexdeploy.hooks.example.test";
const HOOK: &str = "/flexdeploy/webhooks/v1";
const NAME: &str = "relays.example.test";

/// Two relays that are one to agents.
struct Pair {
    network: Network,
    listen: [String; 2],
    dirs: [TempDir; 2],
    state: TempDir,
}

impl Pair {
    /// Joins the agent with the first, and gives the second a copy of its data.
    fn new() -> Option<Self> {
        let network = Network::new(None)?;
        network.name_relays(NAME);
        let port = free_port_at(network.relay());
        let listen =
            [network.relay(), network.second_relay()].map(|address| format!("{address}:{port}"));
        let dirs: [TempDir; 2] = std::array::from_fn(|_| TempDir::new().unwrap());
        let state = TempDir::new().unwrap();

        let pair = Self {
            network,
            listen,
            dirs,
            state,
        };
        let (mut first, _) = pair.relay(0);
        let token = first.join_token();

        let joining = [
            "join",
            "-",
            "--state-dir",
            pair.state.path().to_str().unwrap(),
        ];
        let joined = pair.network.run("hookward", &joining, &[], &token);
        assert_eq!(joined.code, Some(0), "{joined:?}");
        first.signal("TERM");

        assert_eq!(first.end().code, Some(0));
        copy(pair.dirs[0].path(), pair.dirs[1].path());
        Some(pair)
    }

    fn relay(&self, number: usize) -> (Process, Edge) {
        let port = self.listen[number].rsplit_once(':').unwrap().1;
        let tunnel = format!("{NAME}:{port}");
        let mut relay = serve(
            self.dirs[number].path(),
            &self.listen[number],
            &["--tunnel-address", &tunnel],
        );
        let ready = relay.event("ready");
        (relay, edge(&ready, HOST))
    }

    fn agent(&self, application: &str, over: Transport, more: &[&str]) -> Process {
        let (state, over) = (self.state.path().to_str().unwrap(), over.to_string());
        let mut args = vec![
            "http",
            application,
            "--no-token",
            "--log-format",
            "json",
            "--state-dir",
            state,
        ];
        args.extend(["--transport", &over]);

        args.extend(more);
        let mut agent = self.network.start("hookward", &args, &[]);
        agent.event("ready");

        agent
    }
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// Returns the number of agent connections that have opened the tunnel at this relay.
fn connected(relay: &Process) -> usize {
    relay
        .err()
        .iter()
        .filter(|line| line.contains("tunnel open"))
        .count()
}

over_all_transports! {
    every_address_has_connections_and_one_that_is_lost_gets_them_back
    a_relay_that_is_about_to_stop_sends_its_agents_to_the_other_one
}

async fn every_address_has_connections_and_one_that_is_lost_gets_them_back(over: Transport) {
    let Some(pair) = off(Pair::new).await else {
        return;
    };
    let application =
        Application::start_at((pair.network.application(), 0).into(), |_| Reply::ok("")).await;
    let target = application.address.to_string();
    let pair = Arc::new(pair);
    let starting = Arc::clone(&pair);

    let ((first, first_edge), (second, second_edge), _agent) = off(move || {
        (
            starting.relay(0),
            starting.relay(1),
            starting.agent(&target, over, &[]),
        )
    })
    .await;

    eventually("both have two", || {
        (connected(&first), connected(&second)) == (2, 2)
    })
    .await;

    for edge in [&first_edge, &second_edge] {
        assert_eq!(edge.post(HOOK, &[], b"x").await.status, 200);
    }

    // Killed.
    drop(second);
    eventually("all go to the other one", || connected(&first) >= 4).await;
    assert_eq!(first_edge.post(HOOK, &[], b"x").await.status, 200);

    let starting = Arc::clone(&pair);
    let (second, second_edge) = off(move || starting.relay(1)).await;
    eventually("it has them again", || connected(&second) >= 2).await;

    for edge in [&first_edge, &second_edge] {
        assert_eq!(edge.post(HOOK, &[], b"x").await.status, 200);
    }
}

async fn a_relay_that_is_about_to_stop_sends_its_agents_to_the_other_one(over: Transport) {
    let Some(pair) = off(Pair::new).await else {
        return;
    };
    let finish = Arc::new(Notify::new());
    let finished = Arc::clone(&finish);

    let application =
        Application::start_at((pair.network.application(), 0).into(), move |request| {
            if request.target.ends_with("/slow") {
                Reply::When(Arc::clone(&finished))
            } else {
                Reply::ok("")
            }
        })
        .await;
    let target = application.address.to_string();

    let ((first, first_edge), (second, second_edge), _agent) = off(move || {
        let (first, second) = (pair.relay(0), pair.relay(1));
        let agent = pair.agent(&target, over, &["--connections", "1"]);
        (first, second, (agent, pair))
    })
    .await;
    eventually("the first has it", || connected(&first) == 1).await;
    assert_eq!(connected(&second), 0);

    let slow = tokio::spawn(async move {
        first_edge
            .post(&format!("{HOOK}/slow"), &[], b"x")
            .await
            .status
    });

    eventually("it is under way", || application.log.begun() == 1).await;
    first.signal("TERM");
    eventually("the agent goes to the other one", || {
        connected(&second) == 1
    })
    .await;
    assert_eq!(second_edge.post(HOOK, &[], b"x").await.status, 200);
    assert!(!slow.is_finished(), "the first relay is there yet");
    finish.notify_one();

    assert_eq!(within("an answer", slow).await.unwrap(), 200);
    assert_eq!(off(move || first.end()).await.code, Some(0));
    assert_eq!(second_edge.post(HOOK, &[], b"x").await.status, 200);
}
