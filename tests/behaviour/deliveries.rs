//! Stored deliveries: an outage of application, agent or relay loses no webhook that was answered
//! 2xx, and delivers each once.

use std::net::SocketAddr;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::Duration;

use hookward_core::clock::UnixMillis;
use hookward_gate::policy::Policy;
use hookward_tests::application::{Application, Received, Reply};
use hookward_tests::ports::free_port;
use hookward_tests::process::{Ended, Process, have, program, run};
use hookward_tests::sender::{Answer, Edge, github_signature};
use hookward_tests::stage::{HOST, PREFIX, Plan, Stage, clock_at, policy, signed_policy};
use hookward_tests::wait::{DEADLINE, eventually};
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::Notify;

use super::programs::{edge, mode, off};

/// Returns a policy whose deliveries are stored.
fn stored(delivery: &str) -> Policy {
    policy(&format!(
        "[[route]]\npath = '{PREFIX}/**'\ndelivery = {delivery}\n[[route.accept]]\nopen = true"
    ))
}

fn plan(delivery: &str) -> Plan {
    Plan {
        policy: stored(delivery),
        ..Plan::default()
    }
}

async fn post(stage: &Stage, body: &str) -> Answer {
    let target = format!("{PREFIX}/one");
    stage.edge.post(&target, &[], body.as_bytes()).await
}

fn bodies(received: &[Received]) -> Vec<String> {
    let text = |received: &Received| String::from_utf8(received.body.clone()).unwrap();
    received.iter().map(text).collect()
}

#[tokio::test]
async fn a_queue_answers_at_once_and_delivers_byte_for_byte() {
    let application = Application::start(|_| Reply::ok("done")).await;
    let stage = Stage::start(application.address, plan("'queue'")).await;
    let headers = [("X-Odd-Case", "Kept"), ("x-twice", "1"), ("x-twice", "2")];
    let target = format!("{PREFIX}/one?a=%2F&b");
    let answer = stage.edge.post(&target, &headers, b"{\"n\": 1}").await;
    assert_eq!(answer.status, 202, "{}", answer.text());
    let id = answer.header("hookward-delivery-id").unwrap().to_owned();

    eventually("the webhook is delivered", || {
        application.log.complete().len() == 1
    })
    .await;
    let received = &application.log.complete()[0];
    assert_eq!(received.target, target);
    assert_eq!(received.body, b"{\"n\": 1}");
    assert_eq!(received.header("X-Odd-Case"), Some("Kept"));
    assert!(
        received.names().contains(&"X-Odd-Case"),
        "{:?}",
        received.names()
    );
    assert_eq!(received.all("x-twice"), ["1", "2"]);
    assert_eq!(received.header("hookward-delivery-id"), Some(id.as_str()));
    assert_eq!(received.header("hookward-attempt"), Some("1"));
}

#[tokio::test]
async fn a_queue_stores_while_the_agent_is_offline_and_after_a_restart() {
    let application = Application::start(|_| Reply::ok("")).await;
    let mut stage = Stage::start(application.address, plan("'queue'")).await;
    stage.stop_agent().await;
    for n in 0..20 {
        assert_eq!(post(&stage, &n.to_string()).await.status, 202);
    }
    assert_eq!(application.log.begun(), 0);

    stage.stop_relay().await;
    stage.start_relay().await;
    stage.start_agent().await;
    eventually("all are delivered", || {
        application.log.complete().len() == 20
    })
    .await;
    let mut all = bodies(&application.log.complete());
    all.sort_by_key(|body| body.parse::<u32>().unwrap());
    let expected: Vec<_> = (0..20).map(|n| n.to_string()).collect();
    assert_eq!(all, expected);
}

/// Without an outage, the sender gets the application's own response.
#[tokio::test]
async fn a_fallback_is_direct_while_the_application_responds() {
    let application = Application::start(|_| {
        Reply::Full(
            404,
            vec![("x-own", "yes".to_owned())],
            b"no such hook".to_vec(),
        )
    })
    .await;
    let stage = Stage::start(application.address, plan("'fallback'")).await;
    let answer = post(&stage, "x").await;
    assert_eq!(
        (answer.status, answer.text().as_str()),
        (404, "no such hook")
    );
    assert_eq!(answer.header("x-own"), Some("yes"));
    assert_eq!(answer.header("hookward-delivery-id"), None);
    assert_eq!(application.log.complete().len(), 1);
}

#[tokio::test]
async fn a_fallback_stores_while_the_application_is_down() {
    let application = Application::start(|_| Reply::ok("")).await;
    let address = application.address;
    let stage = Stage::start(address, plan("'fallback'")).await;
    drop(application);
    let answer = post(&stage, "during the restart").await;
    assert_eq!(answer.status, 202, "{}", answer.text());
    let id = answer.header("hookward-delivery-id").unwrap().to_owned();

    let application = Application::start_at(address, |_| Reply::ok("")).await;
    eventually("the webhook is delivered", || {
        application.log.complete().len() == 1
    })
    .await;
    let received = &application.log.complete()[0];
    assert_eq!(received.header("hookward-delivery-id"), Some(id.as_str()));
    assert_eq!(received.body, b"during the restart");
}

#[tokio::test]
async fn a_fallback_stores_after_503_and_tries_again() {
    let status = Arc::new(AtomicU16::new(503));
    let of_script = Arc::clone(&status);
    let application = Application::start(move |_| {
        Reply::Full(of_script.load(Ordering::SeqCst), Vec::new(), Vec::new())
    })
    .await;
    let stage = Stage::start(application.address, plan("'fallback'")).await;
    assert_eq!(post(&stage, "x").await.status, 202);
    status.store(200, Ordering::SeqCst);
    eventually("a second attempt", || application.log.complete().len() >= 2).await;
    let attempts: Vec<_> = application.log.complete();
    assert_eq!(attempts[0].header("hookward-attempt"), Some("1"));
    assert_eq!(attempts[1].header("hookward-attempt"), Some("2"));
    let id = |n: usize| attempts[n].header("hookward-delivery-id");
    assert_eq!(id(0), id(1));
}

/// The slow attempt itself settles the delivery: there is no second one.
#[tokio::test]
async fn a_slow_application_gets_a_webhook_once() {
    let answers = Arc::new(Notify::new());
    let of_script = Arc::clone(&answers);
    let application = Application::start(move |_| Reply::When(Arc::clone(&of_script))).await;
    let delivery = "{ mode = 'fallback', fallback_after = '200ms' }";
    let stage = Stage::start(application.address, plan(delivery)).await;
    let answer = post(&stage, "slow").await;
    assert_eq!(answer.status, 202);
    assert_eq!(application.log.begun(), 1);

    answers.notify_one();
    eventually("the delivery is settled", || {
        stage.relay().pending_deliveries() == 0
    })
    .await;
    assert_eq!(application.log.begun(), 1);
}

#[tokio::test]
async fn a_refused_webhook_is_a_dead_letter_and_a_later_one_passes() {
    let application = Application::start(|received: &Received| match received.body == b"bad" {
        true => Reply::Full(422, Vec::new(), b"what is this?".to_vec()),
        false => Reply::ok(""),
    })
    .await;
    let delivery = "{ mode = 'queue', order = 'tunnel' }";
    let stage = Stage::start(application.address, plan(delivery)).await;
    for body in ["bad", "good"] {
        assert_eq!(post(&stage, body).await.status, 202);
    }
    eventually("both have ended", || {
        stage.relay().pending_deliveries() == 0
    })
    .await;
    assert_eq!(bodies(&application.log.complete()), ["bad", "good"]);
    assert_eq!(stage.relay().dead_letters(), 1);
}

/// Deliveries with one key keep their order through failures; others overtake them.
#[tokio::test]
async fn a_failing_webhook_blocks_its_own_key_only() {
    let fails = Arc::new(AtomicBool::new(true));
    let of_script = Arc::clone(&fails);
    let application = Application::start(move |received: &Received| {
        let is_first = received.body == br#"{"key": "a", "n": 0}"#;
        match is_first && of_script.load(Ordering::SeqCst) {
            true => Reply::Full(500, Vec::new(), Vec::new()),
            false => Reply::ok(""),
        }
    })
    .await;
    let delivery = "{ mode = 'queue', order = 'json:key' }";
    let stage = Stage::start(application.address, plan(delivery)).await;
    for n in 0..3 {
        for key in ["a", "b"] {
            let body = format!(r#"{{"key": "{key}", "n": {n}}}"#);
            assert_eq!(post(&stage, &body).await.status, 202);
        }
    }

    let of_key = |key: &str| -> Vec<String> {
        let own = format!(r#""key": "{key}""#);
        let all = bodies(&application.log.complete());
        all.into_iter().filter(|body| body.contains(&own)).collect()
    };
    eventually("the other key is delivered", || of_key("b").len() == 3).await;
    assert!(
        of_key("a").iter().all(|body| body.contains(r#""n": 0"#)),
        "{:?}",
        of_key("a")
    );
    assert!(of_key("b").is_sorted());

    fails.store(false, Ordering::SeqCst);
    eventually("all are delivered", || {
        stage.relay().pending_deliveries() == 0
    })
    .await;
    let mut a = of_key("a");
    assert!(a.is_sorted(), "{a:?}");
    a.dedup();
    assert_eq!(a.len(), 3);
}

/// The relay is stopped while the application works on a webhook. Its second attempt gets the result
/// of the first from the agent.
#[tokio::test]
async fn a_restarted_relay_repeats_no_webhook() {
    let answers = Arc::new(Notify::new());
    let of_script = Arc::clone(&answers);
    let application = Application::start(move |_| Reply::When(Arc::clone(&of_script))).await;
    let mut stage = Stage::start(application.address, plan("'queue'")).await;
    assert_eq!(post(&stage, "once").await.status, 202);
    eventually("the attempt begins", || application.log.begun() == 1).await;

    stage.stop_relay().await;
    answers.notify_one();
    stage.start_relay().await;
    eventually("the delivery is settled", || {
        stage.relay().pending_deliveries() == 0
    })
    .await;
    assert_eq!(application.log.begun(), 1);
}

/// The agent verifies the signature of a stored webhook again, at the time of its receipt.
#[tokio::test]
async fn a_signed_webhook_passes_both_gates_later() {
    let application = Application::start(|_| Reply::ok("")).await;
    let mut signed = signed_policy("github", b"It's a Secret", "");
    signed.routes[0].delivery = stored("'queue'").routes[0].delivery.clone();
    let plan = Plan {
        policy: signed,
        ..Plan::default()
    };
    let mut stage = Stage::start(application.address, plan).await;
    stage.stop_agent().await;

    let target = format!("{PREFIX}/one");
    let signature = github_signature("It's a Secret", b"{}");
    let good = [("x-hub-signature-256", signature.as_str())];
    assert_eq!(stage.edge.post(&target, &good, b"{}").await.status, 202);
    assert_eq!(stage.edge.post(&target, &good, b"{} ").await.status, 403);
    assert_eq!(
        stage.relay().pending_deliveries(),
        1,
        "what is refused is never stored"
    );

    stage.start_agent().await;
    eventually("it is delivered", || application.log.complete().len() == 1).await;
    assert_eq!(application.log.complete()[0].body, b"{}");
}

/// A webhook that is larger than the route's maximum is only forwarded, and the sender learns why.
#[tokio::test]
async fn a_body_that_does_not_fit_stays_direct() {
    let application = Application::start(|_| Reply::ok("")).await;
    let small = format!(
        "[[route]]\npath = '{PREFIX}/**'\nmax_body = '1KiB'\ndelivery = 'fallback'\n[[route.accept]]\nopen = true"
    );
    let plan = Plan {
        policy: policy(&small),
        ..Plan::default()
    };
    let stage = Stage::start(application.address, plan).await;
    let large = "x".repeat(200_000);
    let answer = post(&stage, &large).await;
    assert_eq!(
        (answer.status, answer.header("hookward-not-storable")),
        (200, Some("body-too-large"))
    );
}

/// A relay whose settings store nothing refuses a policy that relies on it, and the agent says why.
#[tokio::test]
async fn an_operator_can_forbid_storing() {
    let application = Application::start(|_| Reply::ok("")).await;
    let mut forbidden = plan("'direct'");
    forbidden.delivery.enabled = false;
    let stage = Stage::start(application.address, forbidden).await;
    stage.try_policy(&stored("'queue'")).unwrap();
    stage
        .reported("the refusal", |event| {
            format!("{event:?}").contains("[delivery] enabled")
        })
        .await;
}

/// A full store answers 503 with Retry-After, and a fallback the application's own failure.
#[tokio::test]
async fn a_full_store_refuses_before_the_body_is_read() {
    let application = Application::start(|_| Reply::ok("")).await;
    let mut small = plan("'queue'");
    small.delivery.max_count = 4;
    let mut stage = Stage::start(application.address, small).await;
    stage.stop_agent().await;
    assert_eq!(post(&stage, "1").await.status, 202);
    assert_eq!(post(&stage, "2").await.status, 202);
    // The body never comes.
    let mut sender = stage.edge.http1().await;
    let host = &stage.edge.host;
    let head = format!("POST {PREFIX}/one HTTP/1.1\r\nhost: {host}\r\ncontent-length: 1\r\n\r\n");
    sender.raw(head.as_bytes()).await;
    let full = sender.answer("POST").await;
    assert_eq!(
        (full.status, full.code()),
        (503, Some("storage_unavailable"))
    );
    assert!(full.header("retry-after").is_some());

    stage.start_agent().await;
    eventually("it drains", || stage.relay().pending_deliveries() == 0).await;
    assert_eq!(post(&stage, "3").await.status, 202);
}

/// Deliveries stop waiting when the agent returns, not after their next wait.
#[tokio::test]
async fn a_returning_agent_gets_what_waited() {
    let application = Application::start(|_| Reply::ok("")).await;
    let mut stage = Stage::start(application.address, plan("'fallback'")).await;
    stage.stop_agent().await;
    assert_eq!(post(&stage, "offline").await.status, 202);
    stage.start_agent().await;
    eventually("it is delivered", || application.log.complete().len() == 1).await;
}

/// Deliveries whose next attempt is an hour away are due when the application returns.
#[tokio::test]
async fn a_returning_application_gets_what_waited() {
    let application = Application::start(|_| Reply::ok("")).await;
    let address = application.address;
    let stage = Stage::start(address, plan("'queue'")).await;
    drop(application);
    for n in 0..3 {
        assert_eq!(post(&stage, &n.to_string()).await.status, 202);
    }
    let file = rusqlite::Connection::open(stage.data_dir().join("deliveries.db")).unwrap();
    file.busy_timeout(DEADLINE).unwrap();
    let failed = "SELECT count(*) FROM deliveries WHERE last_error IS NOT NULL";
    eventually("an attempt has failed", || {
        let count = file.query_row(failed, [], |row| row.get::<_, i64>(0));
        count.unwrap() > 0
    })
    .await;
    file.execute("UPDATE lanes SET due_ms = due_ms + 3600000", [])
        .unwrap();

    let application = Application::start_at(address, |_| Reply::ok("")).await;
    eventually("all are delivered", || {
        application.log.complete().len() == 3
    })
    .await;
}

/// Runs a command of the relay on the stage's data directory.
async fn command(stage: &Stage, args: &[&str]) -> Ended {
    let dir = stage.data_dir().to_str().unwrap().to_owned();
    let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
    off(move || {
        let all: Vec<&str> = args
            .iter()
            .map(String::as_str)
            .chain(["--data-dir", &dir])
            .collect();
        run("hookward-relay", &all, &[], "")
    })
    .await
}

/// Dead letters can be listed, read, delivered again and deleted.
#[tokio::test]
async fn an_administrator_redelivers_dead_letters() {
    let is_fixed = Arc::new(AtomicBool::new(false));
    let of_script = Arc::clone(&is_fixed);
    let application = Application::start(move |_| match of_script.load(Ordering::SeqCst) {
        true => Reply::ok(""),
        false => Reply::Full(
            404,
            vec![("x-why", "no job".to_owned())],
            b"no such job".to_vec(),
        ),
    })
    .await;
    let mut plan = plan("'queue'");
    plan.admin.socket = true;
    let stage = Stage::start(application.address, plan).await;
    let mut ids = Vec::new();
    for body in ["first", "second", "third"] {
        let answer = stage
            .edge
            .post(
                &format!("{PREFIX}/one"),
                &[("authorization", "Bearer canary")],
                body.as_bytes(),
            )
            .await;
        ids.push(answer.header("hookward-delivery-id").unwrap().to_owned());
    }
    eventually("all are given up", || stage.relay().dead_letters() == 3).await;

    let listed = command(&stage, &["deliveries", "list", "--state", "dead"]).await;
    assert_eq!(listed.code, Some(0), "{listed:?}");
    assert!(ids.iter().all(|id| listed.out.contains(id)), "{listed:?}");
    assert!(
        listed.out.contains("the application answered 404"),
        "{listed:?}"
    );

    let by_text = ["deliveries", "list", "--text", "second", "--format", "json"];
    let found: serde_json::Value =
        serde_json::from_str(&command(&stage, &by_text).await.out).unwrap();
    assert_eq!(found.as_array().unwrap().len(), 1);
    assert_eq!(found[0]["id"], ids[1].as_str());

    let shown = command(&stage, &["deliveries", "show", &ids[0]]).await;
    for expected in ["first", "no such job", "x-why: no job", "(hidden)"] {
        assert!(shown.out.contains(expected), "{expected}: {shown:?}");
    }
    assert!(!shown.out.contains("canary"), "{shown:?}");

    let dropped = command(&stage, &["deliveries", "drop", &ids[2]]).await;
    assert!(dropped.out.contains("1 of 1"), "{dropped:?}");
    assert_eq!(stage.relay().dead_letters(), 2);

    is_fixed.store(true, Ordering::SeqCst);
    let again = command(&stage, &["deliveries", "redeliver", "--state", "dead"]).await;
    assert!(again.out.contains("2 of 2"), "{again:?}");
    eventually("both are delivered", || {
        stage.relay().pending_deliveries() == 0 && stage.relay().dead_letters() == 0
    })
    .await;
    assert_eq!(application.log.complete().len(), 5);

    let none = command(&stage, &["deliveries", "redeliver"]).await;
    assert_eq!(none.code, Some(1), "{none:?}");
    assert!(none.err.contains("at least one condition"), "{none:?}");
}

#[tokio::test]
async fn a_paused_tunnel_stores_and_delivers_later() {
    let application = Application::start(|_| Reply::ok("")).await;
    let mut plan = plan("'queue'");
    plan.admin.socket = true;
    let stage = Stage::start(application.address, plan).await;
    assert_eq!(post(&stage, "before").await.status, 202);
    eventually("it is delivered", || application.log.complete().len() == 1).await;

    let paused = command(&stage, &["deliveries", "pause", HOST]).await;
    assert_eq!(paused.code, Some(0), "{paused:?}");
    assert_eq!(post(&stage, "during").await.status, 202);
    let listed = command(&stage, &["deliveries", "list", "--state", "pending"]).await;
    assert_eq!(listed.out.lines().count(), 2, "{listed:?}");
    assert_eq!(application.log.complete().len(), 1);

    command(&stage, &["deliveries", "resume", HOST]).await;
    eventually("it is delivered", || application.log.complete().len() == 2).await;
    let unknown = command(&stage, &["deliveries", "pause", "other.example.test"]).await;
    assert_eq!(unknown.code, Some(1), "{unknown:?}");
}

/// The databases are checked and copied while the relay runs; the copy serves another relay.
#[tokio::test]
async fn a_backup_holds_what_is_pending() {
    let application = Application::start(|_| Reply::ok("")).await;
    let mut stage = Stage::start(application.address, plan("'queue'")).await;
    stage.stop_agent().await;
    assert_eq!(post(&stage, "kept").await.status, 202);

    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("copy");
    let copied = command(&stage, &["storage", "backup", copy.to_str().unwrap()]).await;
    assert_eq!(copied.code, Some(0), "{copied:?}");
    let checked = command(&stage, &["storage", "check"]).await;
    assert_eq!(checked.out.matches("intact").count(), 2, "{checked:?}");

    let db = rusqlite::Connection::open(copy.join("deliveries.db")).unwrap();
    let body = "SELECT body FROM payloads";
    let body: Vec<u8> = db.query_row(body, [], |row| row.get(0)).unwrap();
    assert_eq!(body, b"kept");
    for file in ["deliveries.db", "relay.db", "identity.pem"] {
        assert_eq!(mode(&copy.join(file)), 0o600, "{file}");
    }

    let again = command(&stage, &["storage", "backup", copy.to_str().unwrap()]).await;
    assert_eq!(
        again.code,
        Some(1),
        "a backup overwrites nothing: {again:?}"
    );
    let shrunk = command(&stage, &["storage", "vacuum"]).await;
    assert_eq!(shrunk.code, Some(0), "{shrunk:?}");
}

/// A host that moved to another agent takes no webhook of its previous owner along.
#[tokio::test]
async fn another_agent_gets_no_stored_webhook() {
    let application = Application::start(|_| Reply::ok("")).await;
    let mut stage = Stage::start(application.address, plan("'queue'")).await;
    stage.stop_agent().await;
    assert_eq!(post(&stage, "of the first owner").await.status, 202);
    stage.start_other_owner().await;
    eventually("it is given up", || stage.relay().dead_letters() == 1).await;
    assert_eq!(application.log.begun(), 0);
}

/// Runs a script on the programs of this build. Returns its output.
fn script(name: &str, args: &[&str]) -> String {
    let programs = program("hookward-relay").parent().unwrap();
    assert!(program("hookward").starts_with(programs));
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../scripts")
        .join(name);
    let ran = Command::new(path)
        .args(args)
        .arg("--programs")
        .arg(programs)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    let failed = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{said}\n{failed}");
    said
}

/// Relay, agent and application are killed at random under load.
#[test]
fn ten_kills_lose_no_webhook() {
    if have("python3", "apt-get install python3") {
        let said = script("crash", &["--kills", "10", "--webhooks", "1000"]);
        assert!(
            said.contains("no webhook that was answered 2xx is lost"),
            "{said}"
        );
    }
}

/// The power fails below the relay's disk, an ext4 file system.
#[test]
fn ten_power_cuts_lose_no_acknowledged_webhook() {
    let is_root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    if !is_root {
        println!("skipped: mounting a disk needs root");
        return;
    }
    if have("python3", "apt-get install python3")
        && have("mkfs.ext4", "apt-get install e2fsprogs")
        && have("mount", "apt-get install mount")
    {
        let said = script("power-cuts", &["--cuts", "10"]);
        assert!(said.contains("no acknowledged webhook is lost"), "{said}");
    }
}

/// Real programs, whose route stores every webhook.
struct Programs {
    relay: Process,
    /// Command line of the relay.
    line: Vec<String>,
    _agent: Process,
    edge: Edge,
    _state: TempDir,
}

impl Programs {
    /// Starts them. `prefix` is the beginning of the relay's command line.
    async fn start(prefix: &[&str], data: &Path, application: SocketAddr) -> Self {
        let state = TempDir::new().unwrap();
        let policy = state.path().join("policy.toml");
        let queue = "[[route]]\npath = '/**'\ndelivery = 'queue'\n[[route.accept]]\nopen = true";
        std::fs::write(&policy, queue).unwrap();

        let listen = format!("127.0.0.1:{}", free_port());
        let program = program("hookward-relay").to_str().unwrap();
        let mut line: Vec<String> = prefix.iter().map(|part| (*part).to_owned()).collect();
        let serve = [
            program,
            "serve",
            "--domain",
            "hooks.example.test",
            "--listen",
            &listen,
            "--tunnel-address",
            &listen,
            "--admin",
            "off",
            "--audit",
            "off",
            "--log-format",
            "json",
            "--data-dir",
            data.to_str().unwrap(),
        ];
        line.extend(serve.map(str::to_owned));
        let token = data.join("first-join-token").to_str().unwrap().to_owned();
        let state_dir = state.path().to_str().unwrap().to_owned();
        let (relay, ready) = Self::start_relay(line.clone()).await;
        let agent = off(move || {
            let joined = run(
                "hookward",
                &["join", &token, "--state-dir", &state_dir],
                &[],
                "",
            );
            assert_eq!(joined.code, Some(0), "{joined:?}");
            let target = application.port().to_string();
            let args = [
                "http",
                &target,
                "--policy",
                policy.to_str().unwrap(),
                "--state-dir",
                &state_dir,
                "--log-format",
                "json",
                "--inspect",
                "off",
            ];
            let mut agent = Process::start("hookward", &args, &[]);
            agent.event("ready");
            agent
        })
        .await;
        Self {
            relay,
            line,
            _agent: agent,
            edge: edge(&ready, "flexdeploy.hooks.example.test"),
            _state: state,
        }
    }

    async fn start_relay(line: Vec<String>) -> (Process, Value) {
        off(move || {
            let mut command = Command::new(&line[0]);
            command.args(&line[1..]);
            let mut relay = Process::spawn(command);
            let ready = relay.event("ready");
            (relay, ready)
        })
        .await
    }

    async fn restart_relay(self) -> Self {
        let Self { relay, line, .. } = self;
        off(move || {
            relay.signal("TERM");
            relay.end();
        })
        .await;
        let (relay, _) = Self::start_relay(line.clone()).await;
        Self {
            relay,
            line,
            ..self
        }
    }
}

/// While flushes fail, the relay acknowledges nothing; afterwards it goes on, and what it has
/// acknowledged is on the disk.
#[tokio::test]
async fn failing_flushes_are_never_acknowledged() {
    if !have("fiu-run", "apt-get install fiu-utils") {
        return;
    }
    let application = Application::start(|_| Reply::ok("")).await;
    let data = TempDir::new().unwrap();
    let dir = data.path().join("relay");
    let programs =
        Programs::start(&["fiu-run", "-x", "-f", "/tmp"], &dir, application.address).await;
    let Programs { relay, edge, .. } = &programs;
    assert_eq!(edge.post("/before", &[], b"1").await.status, 202);
    eventually("it is delivered", || application.log.complete().len() == 1).await;

    inject(relay, "enable name=posix/io/sync/*");
    for n in 0..5 {
        let refused = edge.post("/during", &[], n.to_string().as_bytes()).await;
        assert_eq!(
            (refused.status, refused.code()),
            (503, Some("storage_unavailable")),
            "{n}"
        );
    }
    inject(relay, "disable name=posix/io/sync/*");

    accepts_again(edge, "/after", b"2").await;
    eventually("it is delivered", || {
        let complete = application.log.complete();
        complete.iter().any(|received| received.target == "/after")
    })
    .await;
}

/// Sends a command to the fault injection of a program that fiu-run has started.
fn inject(program: &Process, command: &str) {
    let done = Command::new("fiu-ctrl")
        .args(["-f", "/tmp", "-c", command, &program.id().to_string()])
        .output()
        .unwrap();
    assert!(done.status.success(), "{done:?}");
}

/// Sends webhooks until the relay stores one.
async fn accepts_again(edge: &Edge, target: &str, body: &[u8]) {
    let since = std::time::Instant::now();
    while edge.post(target, &[], body).await.status != 202 {
        assert!(since.elapsed() < DEADLINE, "it does not accept again");
    }
}

/// A file system that became read-only takes no webhook, and what is stored is delivered once.
#[tokio::test]
async fn a_read_only_disk_refuses_and_delivers() {
    if !have("fiu-run", "apt-get install fiu-utils") {
        return;
    }
    let answers = Arc::new(Notify::new());
    let of_script = Arc::clone(&answers);
    let application = Application::start(move |_| Reply::When(Arc::clone(&of_script))).await;
    let data = TempDir::new().unwrap();
    let dir = data.path().join("relay");
    let programs =
        Programs::start(&["fiu-run", "-x", "-f", "/tmp"], &dir, application.address).await;
    let Programs { relay, edge, .. } = &programs;
    for n in 0..20 {
        let target = format!("/{n}");
        assert_eq!(edge.post(&target, &[], b"x").await.status, 202);
    }
    eventually("attempts are in progress", || application.log.begun() == 8).await;

    inject(
        relay,
        &format!("enable name=posix/io/rw/pwrite,failinfo={EROFS}"),
    );
    let refused = edge.post("/during", &[], b"x").await;
    assert_eq!(
        (refused.status, refused.code()),
        (503, Some("storage_unavailable"))
    );
    assert!(refused.header("retry-after").is_some());
    for begun in 9..=20 {
        answers.notify_one();
        eventually("the next attempt begins", || {
            application.log.begun() == begun
        })
        .await;
    }
    (0..8).for_each(|_| answers.notify_one());

    inject(relay, "disable name=posix/io/rw/pwrite");
    accepts_again(edge, "/after", b"x").await;
    answers.notify_one();
    eventually("the next one is delivered", || {
        application.log.complete().len() == 21
    })
    .await;
    let mut targets: Vec<_> = application.log.complete();
    targets.dedup_by(|one, other| one.target == other.target);
    assert_eq!(targets.len(), 21);
}

/// Error code of the system for a file system that is read-only (errno(3)).
const EROFS: u32 = 30;

/// A file that is damaged in operation ends the storing, and a restart begins a new one.
#[tokio::test]
async fn a_file_damaged_in_operation_is_set_aside_at_the_restart() {
    let is_up = Arc::new(AtomicBool::new(false));
    let of_script = Arc::clone(&is_up);
    let application = Application::start(move |_| match of_script.load(Ordering::SeqCst) {
        true => Reply::ok(""),
        false => Reply::Full(503, Vec::new(), Vec::new()),
    })
    .await;
    let data = TempDir::new().unwrap();
    let dir = data.path().join("relay");
    let programs = Programs::start(&["nice", "-n", "0"], &dir, application.address).await;
    let body = vec![b'x'; 1_000_000];
    for _ in 0..40 {
        let stored = programs.edge.post("/stored", &[], &body).await;
        assert_eq!(stored.status, 202);
    }
    for name in ["deliveries.db", "deliveries.db-wal"] {
        let file = std::fs::File::options()
            .write(true)
            .open(dir.join(name))
            .unwrap();
        let length = file.metadata().unwrap().len();
        let garbage = vec![0xa5; usize::try_from(length).unwrap()];
        file.write_all_at(&garbage, 0).unwrap();
    }

    let since = std::time::Instant::now();
    let refused = loop {
        let answer = programs.edge.post("/one", &[], &body).await;
        if answer.status != 202 {
            break answer;
        }
        assert!(since.elapsed() < DEADLINE, "the damage is not noticed");
    };
    assert_eq!(
        (refused.status, refused.code()),
        (503, Some("storage_unavailable"))
    );

    is_up.store(true, Ordering::SeqCst);
    let programs = programs.restart_relay().await;
    accepts_again(&programs.edge, "/again", b"x").await;
    eventually("it is delivered", || {
        let complete = application.log.complete();
        complete.iter().any(|received| received.target == "/again")
    })
    .await;
    let names = std::fs::read_dir(&dir).unwrap();
    let mut names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(names.any(|name| name.starts_with("deliveries.db.damaged-")));
}

/// On a disk that fills up, the relay refuses before it fails, delivers what it has, and accepts again.
#[tokio::test]
async fn a_full_disk_refuses_and_drains() {
    let is_root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    if !is_root || !have("mount", "apt-get install mount") {
        println!("skipped: mounting a disk needs root");
        return;
    }
    let disk = SmallDisk::mount();
    let is_up = Arc::new(AtomicBool::new(false));
    let of_script = Arc::clone(&is_up);
    let application = Application::start(move |_| match of_script.load(Ordering::SeqCst) {
        true => Reply::ok(""),
        false => Reply::Full(503, Vec::new(), Vec::new()),
    })
    .await;
    let dir = disk.dir.path().join("relay");
    let programs = Programs::start(&["nice", "-n", "0"], &dir, application.address).await;
    let body = vec![b'x'; 1_000_000];

    let (mut stored, mut refused) = (0, None);
    while refused.is_none() && stored < 1000 {
        let answer = programs.edge.post("/one", &[], &body).await;
        match answer.status {
            202 => stored += 1,
            _ => refused = Some(answer),
        }
    }
    let refused = refused.unwrap();
    assert_eq!(
        (refused.status, refused.code()),
        (503, Some("storage_unavailable"))
    );
    assert!(refused.header("retry-after").is_some());
    assert!(stored > 5, "{stored}");

    is_up.store(true, Ordering::SeqCst);
    eventually("all that was acknowledged is delivered", || {
        application.log.complete().len() >= stored
    })
    .await;
    accepts_again(&programs.edge, "/one", &body).await;
    drop(programs);
}

/// A disk of a few MiB in memory.
struct SmallDisk {
    dir: TempDir,
}

impl SmallDisk {
    fn mount() -> Self {
        let dir = TempDir::new().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=120m", "tmpfs"])
            .arg(dir.path())
            .status()
            .unwrap();
        assert!(mounted.success());
        Self { dir }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount")
            .arg("--lazy")
            .arg(self.dir.path())
            .status();
    }
}

/// A secret that was in force at the receipt vouches for a stored webhook after its rotation.
#[tokio::test]
async fn a_rotated_secret_does_not_strand_what_is_stored() {
    let application = Application::start(|_| Reply::ok("")).await;
    let signed = |secret: &[u8]| {
        let mut signed = signed_policy("github", secret, "");
        signed.routes[0].delivery = stored("'queue'").routes[0].delivery.clone();
        signed
    };
    let mut plan = plan("'queue'");
    plan.policy = signed(b"the old secret");
    plan.admin.socket = true;
    let mut stage = Stage::start(application.address, plan).await;
    assert_eq!(
        command(&stage, &["deliveries", "pause", HOST]).await.code,
        Some(0)
    );
    let signature = github_signature("the old secret", b"{}");
    let fields = [("x-hub-signature-256", signature.as_str())];
    let target = format!("{PREFIX}/one");
    assert_eq!(stage.edge.post(&target, &fields, b"{}").await.status, 202);

    stage.replace_policy(signed(b"the new secret"));
    stage
        .reported("the new policy", |event| {
            format!("{event:?}").contains("new policy")
        })
        .await;
    assert_eq!(stage.edge.post(&target, &fields, b"{}").await.status, 403);
    command(&stage, &["deliveries", "resume", HOST]).await;
    eventually("it is delivered", || application.log.complete().len() == 1).await;
}

/// A webhook that the new policy does not permit is a dead letter.
#[tokio::test]
async fn a_stored_webhook_must_pass_the_policy_in_force() {
    let application = Application::start(|_| Reply::ok("")).await;
    let mut plan = plan("'queue'");
    plan.admin.socket = true;
    let mut stage = Stage::start(application.address, plan).await;
    command(&stage, &["deliveries", "pause", HOST]).await;
    assert_eq!(post(&stage, "x").await.status, 202);
    let narrower = format!(
        "[[route]]\npath = '{PREFIX}/other'\ndelivery = 'queue'\n[[route.accept]]\nopen = true"
    );
    stage.replace_policy(policy(&narrower));
    stage
        .reported("the new policy", |event| {
            format!("{event:?}").contains("new policy")
        })
        .await;
    command(&stage, &["deliveries", "resume", HOST]).await;
    eventually("it is given up", || stage.relay().dead_letters() == 1).await;
    let listed = command(&stage, &["deliveries", "list"]).await;
    assert!(listed.out.contains("policy_changed"), "{listed:?}");
    assert_eq!(application.log.begun(), 0);
}

/// Webhooks with one key arrive in their order, although attempts fail and relay and agent restart.
#[tokio::test]
async fn order_holds_through_failures_and_restarts() {
    let seen = Arc::new(std::sync::Mutex::new(Vec::<String>::new()));
    let (of_script, count) = (Arc::clone(&seen), Arc::new(AtomicU16::new(0)));
    let application = Application::start(move |received: &Received| {
        if count.fetch_add(1, Ordering::SeqCst) % 5 == 4 {
            return Reply::Full(503, vec![("retry-after", "1".to_owned())], Vec::new());
        }
        let body = String::from_utf8(received.body.clone()).unwrap();
        of_script.lock().unwrap().push(body);
        Reply::ok("")
    })
    .await;
    let delivery = "{ mode = 'queue', order = 'header:x-key' }";
    let mut stage = Stage::start(application.address, plan(delivery)).await;
    let target = format!("{PREFIX}/one");
    for n in 0..40 {
        let (key, body) = ((n % 4).to_string(), format!("{:03}", n));
        let sent = stage
            .edge
            .post(&target, &[("x-key", &key)], body.as_bytes())
            .await;
        assert_eq!(sent.status, 202);
        if n == 15 {
            stage.stop_relay().await;
            stage.start_relay().await;
            eventually("the agent is back", || {
                stage.relay().pending_deliveries() == 0
            })
            .await;
        }
        if n == 30 {
            stage.stop_agent().await;
            stage.start_agent().await;
        }
    }
    eventually("all are delivered", || {
        stage.relay().pending_deliveries() == 0
    })
    .await;
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 40);
    for key in 0..4 {
        let own = seen
            .iter()
            .filter(|body| body.parse::<u32>().unwrap() % 4 == key);
        assert!(own.is_sorted(), "{seen:?}");
    }
}

/// A webhook does not overtake a stored one with its ordering key, though the application responds.
#[tokio::test]
async fn a_fallback_keeps_the_order_of_its_key() {
    let is_up = Arc::new(AtomicBool::new(false));
    let of_script = Arc::clone(&is_up);
    let application = Application::start(move |received: &Received| {
        let is_held = received.header("x-key") == Some("a") && !of_script.load(Ordering::SeqCst);
        match is_held {
            true => Reply::Full(503, vec![("retry-after", "1".to_owned())], Vec::new()),
            false => Reply::ok(""),
        }
    })
    .await;
    let delivery = "{ mode = 'fallback', order = 'header:x-key' }";
    let stage = Stage::start(application.address, plan(delivery)).await;
    let target = format!("{PREFIX}/one");
    let send = |key: &'static str, body: &'static str| {
        let (edge, target) = (&stage.edge, &target);
        async move { edge.post(target, &[("x-key", key)], body.as_bytes()).await }
    };
    assert_eq!(send("a", "a1").await.status, 202);
    assert_eq!(send("a", "a2").await.status, 202, "behind a1");
    assert_eq!(send("b", "b1").await.status, 200, "of another key");
    is_up.store(true, Ordering::SeqCst);

    eventually("all are delivered", || {
        stage.relay().pending_deliveries() == 0
    })
    .await;
    assert_eq!(send("a", "a3").await.status, 200);
    let mut of_key = application.log.complete();
    of_key.retain(|received| received.header("x-key") == Some("a"));
    let mut bodies = bodies(&of_key);
    bodies.dedup();
    assert_eq!(bodies, ["a1", "a2", "a3"]);
}

/// A wall clock that jumps by a day, and is set right again, loses nothing.
#[tokio::test]
async fn a_clock_that_jumps_loses_nothing() {
    const DAY: u64 = 86_400_000;
    for wrong in [DAY, 3 * DAY] {
        let is_up = Arc::new(AtomicBool::new(false));
        let of_script = Arc::clone(&is_up);
        let application = Application::start(move |_| match of_script.load(Ordering::SeqCst) {
            true => Reply::ok(""),
            false => Reply::Full(503, Vec::new(), Vec::new()),
        })
        .await;
        let mut plan = plan("'queue'");
        plan.clock = clock_at(2 * DAY / 1000);
        let stage = Stage::start(application.address, plan).await;
        assert_eq!(post(&stage, "x").await.status, 202);
        eventually("the first attempt", || application.log.begun() >= 1).await;

        let right = stage.clock.now();
        stage.clock.set(UnixMillis(wrong));
        for _ in 0..60 {
            // The store's own time goes on, as real time does.
            stage.clock.pass(Duration::from_secs(1));
            tokio::task::yield_now().await;
        }
        stage.clock.set(right);
        is_up.store(true, Ordering::SeqCst);
        eventually("it is delivered", || {
            stage.clock.pass(Duration::from_secs(1));
            stage.relay().pending_deliveries() == 0
        })
        .await;
        assert_eq!(stage.relay().dead_letters(), 0, "{wrong}");
        assert_eq!(application.log.complete().last().unwrap().body, b"x");
    }
}

/// A provider may send the same content twice, such as by its button "Redeliver".
#[tokio::test]
async fn equal_webhooks_are_both_delivered() {
    let application = Application::start(|_| Reply::ok("")).await;
    let mut signed = signed_policy("github", b"It's a Secret", "");
    signed.routes[0].delivery = stored("'queue'").routes[0].delivery.clone();
    let plan = Plan {
        policy: signed,
        ..Plan::default()
    };
    let stage = Stage::start(application.address, plan).await;
    let signature = github_signature("It's a Secret", b"{}");
    let fields = [("x-hub-signature-256", signature.as_str())];
    for _ in 0..3 {
        let target = format!("{PREFIX}/one");
        assert_eq!(stage.edge.post(&target, &fields, b"{}").await.status, 202);
    }
    eventually("all are delivered", || {
        application.log.complete().len() == 3
    })
    .await;
    eventually("all are settled", || {
        stage.relay().pending_deliveries() == 0
    })
    .await;
    assert_eq!(stage.relay().dead_letters(), 0);
}

/// A redelivery by hand reaches the application again, although it has accepted the webhook.
#[tokio::test]
async fn a_delivered_webhook_can_be_delivered_again() {
    let application = Application::start(|_| Reply::ok("")).await;
    let mut plan = plan("'queue'");
    plan.admin.socket = true;
    plan.delivery.keep_done = Duration::from_secs(3600);
    let stage = Stage::start(application.address, plan).await;
    let answer = post(&stage, "again").await;
    let id = answer.header("hookward-delivery-id").unwrap().to_owned();
    eventually("it is delivered", || {
        stage.relay().pending_deliveries() == 0
    })
    .await;

    for times in 2..4 {
        let again = command(&stage, &["deliveries", "redeliver", &id]).await;
        assert!(again.out.contains("1 of 1"), "{again:?}");
        eventually("it is delivered again", || {
            application.log.complete().len() == times
        })
        .await;
        eventually("it is settled", || stage.relay().pending_deliveries() == 0).await;
    }
    let last = application.log.complete().pop().unwrap();
    assert_eq!(last.header("hookward-delivery-id"), Some(id.as_str()));
    assert_eq!(last.header("hookward-attempt"), Some("3"));
}

/// `concurrency` bounds the attempts that an application gets at the same time.
#[tokio::test]
async fn an_application_gets_as_many_attempts_as_the_relay_allows() {
    let answers = Arc::new(Notify::new());
    let of_script = Arc::clone(&answers);
    let application = Application::start(move |_| Reply::When(Arc::clone(&of_script))).await;
    let mut plan = plan("'queue'");
    plan.delivery.concurrency = 2;
    let stage = Stage::start(application.address, plan).await;
    for n in 0..6 {
        assert_eq!(post(&stage, &n.to_string()).await.status, 202);
    }

    for done in 1..=6 {
        answers.notify_one();
        eventually("one more is settled", || {
            stage.relay().pending_deliveries() == 6 - done
        })
        .await;
        let begun = application.log.begun();
        assert!(begun <= done as usize + 2, "{begun} after {done}");
    }
}

/// A sender that leaves during the commit has lost its answer, and not its webhook.
#[tokio::test]
async fn a_webhook_whose_sender_leaves_is_delivered() {
    let application = Application::start(|_| Reply::ok("")).await;
    let stage = Stage::start(application.address, plan("'queue'")).await;
    for n in 0..20 {
        let mut sender = stage.edge.http1().await;
        let body = format!("left {n}");
        let head = format!(
            "POST {PREFIX}/one HTTP/1.1\r\nhost: {}\r\ncontent-length: {}\r\n\r\n{body}",
            stage.edge.host,
            body.len()
        );
        sender.raw(head.as_bytes()).await;
        drop(sender);
    }
    // Whatever was stored is delivered, without a further event.
    eventually("nothing is left", || {
        stage.relay().pending_deliveries() == 0
    })
    .await;
    assert_eq!(stage.relay().dead_letters(), 0);
}
