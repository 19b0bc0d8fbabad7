//! Commands on stored webhooks, on the real programs: of the administrator, and of an agent for its
//! own tunnels.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hookward_core::clock::Clock;
use hookward_tests::application::{Application, Reply};
use hookward_tests::ports::free_port;
use hookward_tests::process::{Ended, Process, run};
use hookward_tests::sender::{Edge, github_signature};
use hookward_tests::stage::{PREFIX, roots};
use hookward_tests::wait::{eventually, happens};
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Handle;

use super::programs::{mode, off, serve};

/// Secret of GitHub's signatures.
const SECRET: &str = "the secret of the test";

/// A relay and its agents in a directory.
struct Site {
    dir: TempDir,
    relay: Process,
    listen: SocketAddr,
}

impl Site {
    fn start() -> Self {
        Self::with_policy(&format!(
            "[[route]]\npath = '{PREFIX}/**'\ndelivery = 'queue'\n[[route.accept]]\nopen = true"
        ))
    }

    fn with_policy(policy: &str) -> Self {
        let dir = TempDir::new().unwrap();
        std::fs::write(dir.path().join("policy.toml"), policy).unwrap();
        let settings = dir.path().join("relay.toml");
        std::fs::write(&settings, "[delivery]\nkeep_done = '1h'\n").unwrap();
        let listen = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let address = listen.to_string();
        let data = dir.path().join("data");
        let mut relay = serve(
            &data,
            &address,
            &[
                "--tunnel-address",
                &address,
                "--config",
                settings.to_str().unwrap(),
            ],
        );
        relay.event("ready");
        Self { dir, relay, listen }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    /// Starts an agent with a token. Returns it with its event `ready`.
    fn agent(&self, name: &str, token: &str, port: u16) -> (Process, Value) {
        let (state, policy) = (self.path(name), self.path("policy.toml"));
        let joined = run(
            "hookward",
            &["join", "-", "--state-dir", &state],
            &[],
            token,
        );
        assert_eq!(joined.code, Some(0), "{joined:?}");
        let port = port.to_string();
        let args = [
            "http",
            &port,
            "--policy",
            &policy,
            "--inspect",
            "off",
            "--log-format",
            "json",
            "--state-dir",
            &state,
        ];
        let mut agent = Process::start("hookward", &args, &[("DELIVERY_SECRET", SECRET)]);
        let ready = agent.event("ready");
        (agent, ready)
    }

    fn first_agent(&mut self, port: u16) -> (Process, Value) {
        let token = self.relay.join_token();
        self.agent("flexdeploy", &token, port)
    }

    fn edge(&self, ready: &Value) -> Edge {
        Edge {
            address: self.listen,
            host: ready["host"].as_str().unwrap().to_owned(),
            roots: roots(&self.dir.path().join("data/edge.pem")),
            clock: Clock::System,
        }
    }

    /// Sends webhooks from a blocking thread. Returns the ids of their deliveries.
    fn send(&self, ready: &Value, bodies: &[&str]) -> Vec<String> {
        let (edge, runtime) = (self.edge(ready), Handle::current());
        let target = format!("{PREFIX}/one");
        let ids = bodies.iter().map(|body| {
            let headers = [
                ("authorization", "Bearer canary".to_owned()),
                (
                    "x-hub-signature-256",
                    github_signature(SECRET, body.as_bytes()),
                ),
            ];
            let headers = headers
                .each_ref()
                .map(|(name, value)| (*name, value.as_str()));
            let answer = runtime.block_on(edge.post(&target, &headers, body.as_bytes()));
            assert_eq!(answer.status, 202, "{}", answer.text());
            answer.header("hookward-delivery-id").unwrap().to_owned()
        });
        ids.collect()
    }

    /// Runs a command of the relay.
    fn admin(&self, args: &[&str]) -> Ended {
        let data = self.path("data");
        run(
            "hookward-relay",
            &[args, &["--data-dir", &data]].concat(),
            &[],
            "",
        )
    }

    /// Runs a command of an agent.
    fn own(&self, agent: &str, args: &[&str]) -> Ended {
        let state = self.path(agent);
        run(
            "hookward",
            &[args, &["--state-dir", &state]].concat(),
            &[],
            "",
        )
    }
}

fn list(ended: &Ended) -> Vec<Value> {
    assert_eq!(ended.code, Some(0), "{ended:?}");
    serde_json::from_str(&ended.out).unwrap()
}

#[tokio::test]
async fn an_agent_manages_the_webhooks_of_its_own_tunnels() {
    let is_fixed = Arc::new(AtomicBool::new(false));
    let of_script = Arc::clone(&is_fixed);
    let application = Application::start(move |_| match of_script.load(Ordering::SeqCst) {
        true => Reply::ok(""),
        false => Reply::Full(404, Vec::new(), b"no such job".to_vec()),
    })
    .await;
    let (port, log) = (application.address.port(), application.log.clone());
    off(move || {
        let mut site = Site::start();
        let (_agent, ready) = site.first_agent(port);
        let added = site.admin(&["agent", "add", "other"]);
        let (_other, other_ready) = site.agent("other", added.out.trim(), port);
        let ids = site.send(&ready, &["first", "second"]);
        let others = site.send(&other_ready, &["of the other"]);
        let dead = ["deliveries", "list", "--state", "dead", "--format", "json"];
        happens("all are given up", || list(&site.admin(&dead)).len() == 3);

        let seen = list(&site.own("flexdeploy", &dead));
        let mut seen: Vec<_> = seen.iter().map(|row| row["id"].as_str().unwrap()).collect();
        seen.reverse();
        assert_eq!(seen, ids);
        let shown = site.own("flexdeploy", &["deliveries", "show", &ids[0]]);
        assert!(
            shown.out.contains("first") && shown.out.contains("no such job"),
            "{shown:?}"
        );
        assert!(!shown.out.contains("canary"), "{shown:?}");

        // What belongs to another agent is not visible, and cannot be changed.
        let foreign = site.own("flexdeploy", &["deliveries", "show", &others[0]]);
        assert_eq!(foreign.code, Some(1), "{foreign:?}");
        let dropped = site.own("flexdeploy", &["deliveries", "drop", &others[0]]);
        assert!(dropped.out.contains("0 of 0"), "{dropped:?}");
        let host = other_ready["host"].as_str().unwrap();
        let paused = site.own("flexdeploy", &["deliveries", "pause", host]);
        assert_eq!(paused.code, Some(1), "{paused:?}");
        assert!(
            paused.err.contains("no tunnel with this host"),
            "{paused:?}"
        );

        is_fixed.store(true, Ordering::SeqCst);
        let again = site.own(
            "flexdeploy",
            &["deliveries", "redeliver", "--state", "dead"],
        );
        assert!(again.out.contains("2 of 2"), "{again:?}");
        happens("they are delivered", || {
            list(&site.own("flexdeploy", &dead)).is_empty()
        });
        assert_eq!(list(&site.admin(&dead)).len(), 1);

        // Every change names its agent in the audit log.
        let audit = std::fs::read_to_string(site.path("data/audit.log")).unwrap();
        let requested = audit.lines().filter(|line| {
            line.contains("deliveries_redeliver_requested") && line.contains("agent flexdeploy")
        });
        assert_eq!(requested.count(), 1, "{audit}");

        let none = site.own("nobody", &["deliveries", "list"]);
        assert_eq!(none.code, Some(1), "{none:?}");
        assert!(
            none.err.contains("no agent with this state directory"),
            "{none:?}"
        );
    })
    .await;
    assert_eq!(log.complete().len(), 5);
}

/// A complete export moves webhooks to another relay; a plain one holds no secrets.
#[tokio::test]
async fn deliveries_move_to_another_relay() {
    let application = Application::start(|_| Reply::ok("")).await;
    let port = application.address.port();
    off(move || {
        let mut old = Site::start();
        let (_agent, ready) = old.first_agent(port);
        let host = ready["host"].as_str().unwrap();
        assert_eq!(old.admin(&["deliveries", "pause", host]).code, Some(0));
        let ids = old.send(&ready, &["first", "second"]);

        let plain = old.path("plain.jsonl");
        let exported = old.admin(&["deliveries", "export", &plain]);
        assert_eq!(exported.code, Some(0), "{exported:?}");
        let text = std::fs::read_to_string(&plain).unwrap();
        assert!(
            text.contains("second") && !text.contains("canary"),
            "{text}"
        );
        assert_eq!(mode(Path::new(&plain)), 0o600);
        let twice = old.admin(&["deliveries", "export", &plain]);
        assert_eq!(twice.code, Some(1), "{twice:?}");

        let complete = old.path("complete.jsonl");
        let pending = [
            "deliveries",
            "export",
            "--complete",
            "--state",
            "pending",
            &complete,
        ];
        assert_eq!(old.admin(&pending).code, Some(0));

        let mut new = Site::start();
        let early = new.admin(&["deliveries", "import", &complete]);
        assert_eq!(early.code, Some(1), "{early:?}");
        assert!(
            early.err.contains("complete.jsonl:2: no agent has opened"),
            "{early:?}"
        );
        let (_agent, _) = new.first_agent(port);
        let refused = new.admin(&["deliveries", "import", &plain]);
        assert!(
            refused.err.contains("no delivery of a complete export"),
            "{refused:?}"
        );

        let imported = new.admin(&["deliveries", "import", &complete]);
        assert_eq!(imported.code, Some(0), "{imported:?}");
        let again = new.admin(&["deliveries", "import", &complete]);
        assert!(again.out.contains("2 were stored already"), "{again:?}");
        let all = [
            "deliveries",
            "list",
            "--state",
            "delivered",
            "--format",
            "json",
        ];
        happens("they are delivered", || list(&new.admin(&all)).len() == 2);
        // In the order of their receipt: the list has the newest first.
        let rows = list(&new.admin(&all));
        let moved: Vec<_> = rows.iter().map(|row| row["id"].as_str().unwrap()).collect();
        assert_eq!(moved, [&ids[1], &ids[0]]);
    })
    .await;
    eventually("both are there", || application.log.complete().len() == 2).await;
    let received = application.log.complete();
    let tokens: Vec<_> = received
        .iter()
        .map(|one| one.header("authorization"))
        .collect();
    assert_eq!(tokens, [Some("Bearer canary"); 2]);
}

/// A route with replay protection refuses a webhook that the application has accepted, also from the
/// relay. Only the agent's user may request it again.
#[tokio::test]
async fn only_the_agents_user_repeats_a_protected_webhook() {
    let application = Application::start(|_| Reply::ok("")).await;
    let (port, log) = (application.address.port(), application.log.clone());
    off(move || {
        let mut site = Site::with_policy(&format!(
            "[[route]]\npath = '{PREFIX}/**'\ndelivery = 'queue'\nreplay = {{ on_duplicate = 'refuse', window = '1h' }}\n\
             [[route.accept]]\nverify = {{ provider = 'github', secret = 'env:DELIVERY_SECRET' }}"
        ));
        let (_agent, ready) = site.first_agent(port);
        let id = site.send(&ready, &["once"]).remove(0);
        let listed = |state| {
            let list_of = ["deliveries", "list", "--state", state, "--format", "json"];
            list(&site.admin(&list_of)).len()
        };
        happens("it is delivered", || listed("delivered") == 1);

        site.admin(&["deliveries", "redeliver", &id]);
        happens("the agent refuses it", || listed("dead") == 1);
        let again = site.own("flexdeploy", &["deliveries", "redeliver", &id]);
        assert!(again.out.contains("1 of 1"), "{again:?}");
        happens("it is delivered again", || listed("delivered") == 1);
        site.admin(&["deliveries", "redeliver", &id]);
        happens("the agent refuses it", || listed("dead") == 1);
    })
    .await;
    assert_eq!(log.complete().len(), 2);
}
