//! Identities of agents: limited, renewed, rotated, revoked; and a relay that changes its key.

use std::path::Path;
use std::time::{Duration, Instant};

use hookward_agent::{LinkSettings, RelayEndpoint, join};
use hookward_core::clock::{Clock, UnixMillis};
use hookward_core::secret::Secret;
use hookward_tests::application::{Application, Reply};
use hookward_tests::ports::free_port;
use hookward_tests::process::{Ended, Process, run};
use hookward_tests::sender::Edge;
use hookward_tests::stage::{PREFIX, Plan, Stage};
use hookward_tests::wait::{eventually, happens, within};
use hookward_tunnel::join_token::JoinToken;
use serde_json::Value;
use tempfile::TempDir;

use super::programs::{edge, off, serve};

/// A relay, and the directory of an agent that has joined it.
struct Site {
    data: TempDir,
    state: TempDir,
    listen: String,
    relay: Process,
    ready: Value,
}

impl Site {
    /// Starts a relay, and lets the agent `jira` with these limits join.
    fn start(limits: &[&str]) -> Self {
        let (data, state) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let listen = format!("127.0.0.1:{}", free_port());
        let (relay, ready) = serve_again(data.path(), &listen);
        let site = Self {
            data,
            state,
            listen,
            relay,
            ready,
        };
        site.join(limits);
        site
    }

    fn join(&self, limits: &[&str]) {
        let mut args = vec!["add", "jira"];
        args.extend(limits);
        let added = self.agent(&args);
        assert_eq!(added.code, Some(0), "{added:?}");
        let state = self.state.path().to_str().unwrap();
        let args = ["join", "-", "--replace", "--state-dir", state];
        let joined = run("hookward", &args, &[], &added.out);
        assert_eq!(joined.code, Some(0), "{joined:?}");
    }

    /// Runs `hookward-relay agent` beside the relay.
    fn agent(&self, args: &[&str]) -> Ended {
        let mut all = vec!["agent"];
        all.extend(args);
        all.extend(["--data-dir", self.data.path().to_str().unwrap()]);
        run("hookward-relay", &all, &[], "")
    }

    /// Starts the agent.
    fn http(&self, application: u16, more: &[&str]) -> Process {
        let port = application.to_string();
        let state = self.state.path().to_str().unwrap();
        let mut args = vec!["http", &port, "--no-token", "--inspect", "off"];
        args.extend(["--log-format", "json", "--state-dir", state]);
        args.extend(more);
        Process::start("hookward", &args, &[])
    }

    fn edge(&self, host: &str) -> Edge {
        edge(&self.ready, host)
    }

    fn credentials(&self) -> String {
        std::fs::read_to_string(self.state.path().join("agent.json")).unwrap()
    }

    /// Restarts the relay on its port.
    fn restart(&mut self, change: impl FnOnce(&Path)) {
        self.relay.signal("TERM");
        self.relay.wait();
        change(self.data.path());
        (self.relay, self.ready) = serve_again(self.data.path(), &self.listen);
    }
}

fn serve_again(data: &Path, listen: &str) -> (Process, Value) {
    let audit = data.join("audit.jsonl");
    let audit = ["--audit", audit.to_str().unwrap()];
    let flags = ["--tunnel-address", listen, "--admin", "off"];
    let mut relay = serve(data, listen, &[flags.as_slice(), &audit].concat());
    let ready = relay.event("ready");
    (relay, ready)
}

const IDENTITY: &str = "identity.pem";

const HOST: &str = "jira.hooks.example.test";

async fn status(edge: &Edge) -> u16 {
    edge.post(&format!("{PREFIX}/git"), &[], b"{}").await.status
}

/// Waits until the status is this one. The relay withdraws policies a moment after the sessions.
async fn settled(edge: &Edge, wanted: u16) -> u16 {
    within("the status", async {
        loop {
            match status(edge).await {
                found if found == wanted => return found,
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_revoked_agent_ends_and_may_join_again() {
    let application = Application::start(|_| Reply::ok("done")).await;
    let port = application.address.port();
    let (site, agent) = off(move || {
        let site = Site::start(&[]);
        let mut agent = site.http(port, &[]);
        agent.event("ready");
        (site, agent)
    })
    .await;
    assert_eq!(status(&site.edge(HOST)).await, 200);

    let site = off(move || {
        let mut agent = agent;
        let revoked = site.agent(&["revoke", "jira"]);
        let since = Instant::now();
        assert_eq!(revoked.code, Some(0), "{revoked:?}");
        assert_eq!(agent.wait(), Some(3));
        eprintln!("the session ended after {:?}", since.elapsed());
        let unknown = site.agent(&["revoke", "nobody"]);
        assert_eq!(unknown.code, Some(2), "{unknown:?}");
        site
    })
    .await;
    // It keeps its host, and nothing is stored under its policy.
    assert_eq!(settled(&site.edge(HOST), 503).await, 503);

    let (site, _agent) = off(move || {
        let mut refused = site.http(port, &[]);
        assert_eq!(refused.wait(), Some(3));
        site.join(&[]);
        let mut agent = site.http(port, &[]);
        agent.event("ready");
        (site, agent)
    })
    .await;
    assert_eq!(status(&site.edge(HOST)).await, 200);
}

#[tokio::test]
async fn an_agent_opens_only_what_it_was_given() {
    let application = Application::start(|_| Reply::ok("done")).await;
    let port = application.address.port();
    let (site, agent) = off(move || {
        let host = ["--host", HOST, "--path", "/rest/webhooks"];
        let site = Site::start(&[host.as_slice(), &["--delivery", "direct"]].concat());
        let own = ["--path", "/rest/webhooks/**"];

        let refused = |more: &[&str]| {
            let mut agent = site.http(port, more);
            (agent.wait(), agent.err().join("\n"))
        };
        let (code, text) = refused(&[own.as_slice(), &["--host", "other"]].concat());
        assert_eq!(code, Some(4), "{text}");
        assert!(text.contains("agent set jira --host jira.hooks"), "{text}");
        let (code, text) = refused(&["--path", "/rest/**"]);
        assert_eq!(code, Some(5), "{text}");
        assert!(
            text.contains("/rest/**") && text.contains("/rest/webhooks only"),
            "{text}"
        );
        let (code, text) = refused(&[own.as_slice(), &["--delivery", "queue"]].concat());
        assert_eq!(code, Some(5), "{text}");
        assert!(text.contains("direct only"), "{text}");

        let mut agent = site.http(port, &own);
        assert_eq!(agent.event("ready")["host"], HOST);
        (site, agent)
    })
    .await;
    let hook = site.edge(HOST).post("/rest/webhooks/1", &[], b"{}").await;
    assert_eq!(hook.status, 200);

    // The limits apply to an open tunnel.
    let (site, _agent) = off(move || {
        let mut agent = agent;
        let set = site.agent(&["set", "jira", "--host", "other.hooks.example.test"]);
        assert_eq!(set.code, Some(0), "{set:?}");
        assert_eq!(
            agent.nth_event("ready", 1)["host"],
            "other.hooks.example.test"
        );
        let list = site.agent(&["list"]);
        assert!(
            list.out.contains("hosts other.hooks.example.test"),
            "{list:?}"
        );
        assert!(list.out.contains("paths /rest/webhooks"), "{list:?}");

        let given = site.agent(&["add", "slack", "--host", "other.hooks.example.test"]);
        assert_eq!(given.code, Some(2), "{given:?}");
        assert!(given.err.contains("given to the agent jira"), "{given:?}");
        assert!(given.out.is_empty(), "{given:?}");
        (site, agent)
    })
    .await;
    let of = |host: &str| site.edge(host);
    let hook = |edge: Edge| async move { edge.post("/rest/webhooks/1", &[], b"{}").await.status };
    assert_eq!(hook(of("other.hooks.example.test")).await, 200);
    // The relay reads the hosts with an owner once in a while.
    within("the old host is unknown", async {
        while hook(of(HOST)).await != 404 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_rotated_credential_is_replaced_on_a_live_connection() {
    let application = Application::start(|_| Reply::ok("done")).await;
    let port = application.address.port();
    let (site, agent) = off(move || {
        let site = Site::start(&[]);
        let mut agent = site.http(port, &[]);
        agent.event("ready");
        let before = site.credentials();
        let rotated = site.agent(&["rotate", "jira", "--overlap", "1h"]);
        assert_eq!(rotated.code, Some(0), "{rotated:?}");
        assert!(
            rotated.out.contains("has replaced its credential"),
            "{rotated:?}"
        );
        happens("the agent stores another credential", || {
            let now = site.credentials();
            now != before && !now.contains("next")
        });
        (site, agent)
    })
    .await;
    assert_eq!(status(&site.edge(HOST)).await, 200);

    let (site, _agent) = off(move || {
        let mut agent = agent;
        assert_eq!(
            agent
                .out()
                .iter()
                .filter(|line| line.contains("relay_disconnected"))
                .count(),
            0
        );
        agent.signal("TERM");
        agent.wait();
        let mut agent = site.http(port, &[]);
        agent.event("ready");
        (site, agent)
    })
    .await;
    assert_eq!(status(&site.edge(HOST)).await, 200);
    let audit = site.data.path().join("audit.jsonl");
    eventually("the audit log has both acts", || {
        let audit = std::fs::read_to_string(&audit).unwrap();
        audit.contains("credential_rotated") && audit.contains("credential_renewed")
    })
    .await;
}

/// The agent runs for months, and its credential would have expired twice.
#[tokio::test]
async fn an_agent_renews_its_credential_before_it_expires() {
    let application = Application::start(|_| Reply::ok("done")).await;
    let clock = Clock::at(Clock::System.now());
    let plan = Plan {
        clock: clock.clone(),
        ..Plan::default()
    };
    let stage = Stage::start(application.address, plan).await;
    let set = [
        "agent",
        "set",
        "flexdeploy",
        "--expires",
        "90d",
        "--data-dir",
    ];
    let args = [set.as_slice(), &[stage.data_dir().to_str().unwrap()]].concat();
    let set = run("hookward-relay", &args, &[], "");
    assert_eq!(set.code, Some(0), "{set:?}");

    let expires = || {
        let agents = stage.relay().store().list_agents().unwrap();
        agents[0].expires.unwrap()
    };
    const DAY: Duration = Duration::from_secs(86_400);
    for _ in 0..3 {
        let before = expires();
        clock.pass(61 * DAY);
        eventually("the credential is renewed", || expires() > before).await;
    }
    assert!(expires() > UnixMillis(Clock::System.now().0 + 200 * 86_400_000));
    let answer = stage.edge.post(&format!("{PREFIX}/git"), &[], b"{}").await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn join_tokens_cannot_be_guessed_fast() {
    let (site, good) = off(|| {
        let site = Site::start(&[]);
        let added = site.agent(&["add", "slack"]);
        (site, JoinToken::parse(&added.out).unwrap())
    })
    .await;
    let attempt = |secret: Secret| {
        let relay = RelayEndpoint::new(good.relay.clone(), good.pin, Secret::generate().unwrap());
        async move {
            let joined = join(&relay, &LinkSettings::default(), secret).await;
            joined.map_err(|error| error.to_string())
        }
    };
    let mut delayed = Duration::ZERO;
    for _ in 0..11 {
        let since = Instant::now();
        let refused = attempt(Secret::generate().unwrap()).await.unwrap_err();
        assert!(refused.contains("used already"), "{refused}");
        delayed = since.elapsed();
    }
    // At ten a minute, the next one is due after six seconds at most.
    assert!(delayed > Duration::from_secs(1), "{delayed:?}");
    // Another user of the address is not locked out.
    assert_eq!(attempt(good.secret.clone()).await.as_deref(), Ok("slack"));

    let audit = site.data.path().join("audit.jsonl");
    eventually("the failures are in the audit log", || {
        std::fs::read_to_string(&audit)
            .unwrap()
            .contains("agent_failed")
    })
    .await;
}

#[tokio::test]
async fn a_changed_key_is_accepted_by_its_pin() {
    let application = Application::start(|_| Reply::ok("done")).await;
    let port = application.address.port();
    let (site, _agent) = off(move || {
        let mut site = Site::start(&[]);
        let old = site.ready["pin"].as_str().unwrap().to_owned();
        let other = TempDir::new().unwrap();
        hookward_relay::TunnelIdentity::load_or_make(other.path()).unwrap();
        site.restart(|data| {
            std::fs::copy(other.path().join(IDENTITY), data.join(IDENTITY)).unwrap();
        });
        let new = site.ready["pin"].as_str().unwrap().to_owned();
        assert_ne!(old, new);
        let state = site.state.path().to_str().unwrap().to_owned();
        let pin = |args: &[&str]| {
            let args = [&["pin"], args, &["--state-dir", &state]].concat();
            run("hookward", &args, &[], "")
        };

        let mut agent = site.http(port, &[]);
        agent.says(&format!("hookward pin add {new}"));
        drop(agent);
        assert_eq!(pin(&["remove", &old]).code, Some(2), "the only one");
        assert_eq!(pin(&["add", "sha256/x"]).code, Some(2));
        assert_eq!(pin(&["add", &new]).code, Some(0));
        let list = pin(&["list"]).out;
        assert_eq!(list, format!("{} {old} {new}", site.listen));

        // With both keys it finds both relays.
        let mut agent = site.http(port, &[]);
        agent.event("ready");
        drop(agent);
        assert_eq!(pin(&["remove", &old]).code, Some(0));
        let mut agent = site.http(port, &[]);
        agent.event("ready");
        (site, agent)
    })
    .await;
    assert_eq!(status(&site.edge(HOST)).await, 200);
}
