//! The two programs as a user runs them: join, serve, signals, and every exit code.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use hookward_core::clock::Clock;
use hookward_core::limits::MIB;
use hookward_core::names::{AgentName, HostName};
use hookward_core::secret::Secret;
use hookward_relay::Store;
use hookward_tests::application::{Application, Reply};
use hookward_tests::h2_frames;
use hookward_tests::ports::{free_port, free_port_at};
use hookward_tests::process::{Process, have, program, run};
use hookward_tests::rogue;
use hookward_tests::sender::{Edge, github_signature};
use hookward_tests::stage::{PREFIX, roots};
use hookward_tests::wait::{DEADLINE, eventually, happens};
use hookward_tunnel::protocol::control::RefusedReason;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;

/// Runs blocking work outside of the test's runtime, on which the application runs.
pub(super) async fn off<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

pub(super) fn edge(ready: &Value, host: &str) -> Edge {
    let address: SocketAddr = ready["edge"].as_str().unwrap().parse().unwrap();
    Edge {
        address,
        host: host.to_owned(),
        roots: roots(Path::new(ready["ca"].as_str().unwrap())),
        clock: Clock::System,
    }
}

/// Returns path and query of the printed webhook URL.
pub(super) fn target(ready: &Value) -> String {
    let url = ready["url"].as_str().unwrap();
    let path = url.splitn(4, '/').nth(3).unwrap();
    format!("/{path}")
}

pub(super) fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn one_command_to_see_it_work() {
    let application = Application::start(|request| Reply::ok(&request.target)).await;
    let dir = TempDir::new().unwrap();
    let port = application.address.port().to_string();
    let state = dir.path().to_owned();
    let start = move || {
        let mut process = Process::start(
            "hookward",
            &[
                "http",
                &port,
                "--local=127.0.0.1:0",
                "--log-format",
                "json",
                "--webhook",
                "git/push",
                "--state-dir",
                state.to_str().unwrap(),
            ],
            &[],
        );

        let ready = process.event("ready");
        (process, ready)
    };
    let again = start.clone();

    let (process, ready) = off(start).await;
    assert_eq!(ready["host"], "flexdeploy.localhost");
    assert_eq!(ready["transport"], "quic");

    let url = ready["url"].as_str().unwrap();
    assert!(
        url.contains("/flexdeploy/webhooks/v1/git/push?token="),
        "{url}"
    );

    let edge_of = |ready: &Value| edge(ready, "flexdeploy.localhost");
    let good = edge_of(&ready).get(&target(&ready)).await;
    assert_eq!(
        (good.status, good.text().as_str()),
        (200, "/flexdeploy/webhooks/v1/git/push")
    );

    let token = target(&ready).split_once('?').unwrap().1.to_owned();
    assert_eq!(
        edge_of(&ready)
            .get(&format!("/flexdeploy?{token}"))
            .await
            .status,
        404
    );

    assert_eq!(
        edge_of(&ready)
            .get("/flexdeploy/webhooks/v1/git/push")
            .await
            .status,
        403
    );
    assert_eq!(application.log.take().len(), 1);

    // Every line is one object, and has no secret except the URL.
    let secret = token.trim_start_matches("token=").to_owned();
    let (process, lines) = off(move || {
        let mut process = process;
        process.event("request");
        let refused = [process.event("refused"), process.nth_event("refused", 1)];
        assert_eq!(
            [&refused[0]["check"], &refused[1]["check"]],
            ["path", "token"]
        );
        process.signal("TERM");
        assert_eq!(process.wait(), Some(0));

        let lines = process.out();
        (process, lines)
    })
    .await;

    for line in &lines {
        let object: Value = serde_json::from_str(line).unwrap();
        assert!(
            object["event"] == "ready" || !line.contains(&secret),
            "{line}"
        );
    }

    drop(process);

    // The token survives a restart, and --new-token replaces it.
    let (process, after) = off(again).await;
    assert_eq!(target(&after), target(&ready));
    drop(process);

    let state = dir.path().to_owned();
    let port = application.address.port().to_string();
    let (_process, renewed) = off(move || {
        let mut process = Process::start(
            "hookward",
            &[
                "http",
                &port,
                "--local=127.0.0.1:0",
                "--new-token",
                "--log-format",
                "json",
                "--webhook",
                "git/push",
                "--state-dir",
                state.to_str().unwrap(),
            ],
            &[],
        );

        let ready = process.event("ready");
        (process, ready)
    })
    .await;

    assert_ne!(target(&renewed), target(&ready));
    assert_eq!(edge_of(&renewed).get(&target(&ready)).await.status, 403);
    assert_eq!(edge_of(&renewed).get(&target(&renewed)).await.status, 200);

    for file in [
        "local/tokens.json",
        "local/url",
        "local/identity.pem",
        "local/edge-key.pem",
    ] {
        assert_eq!(mode(&dir.path().join(file)), 0o600, "{file}");
    }
}

/// Starts a relay process on ports that the system chooses.
pub(super) fn serve(data: &Path, listen: &str, more: &[&str]) -> Process {
    let mut args = vec![
        "serve",
        "--domain",
        "hooks.example.test",
        "--listen",
        listen,
        "--log-format",
        "json",
        "--data-dir",
        data.to_str().unwrap(),
    ];
    args.extend(more);

    Process::start("hookward-relay", &args, &[])
}

/// Starts a relay process at an address that agents in namespaces can reach.
pub(super) fn serve_at(data: &Path, address: std::net::Ipv4Addr) -> Process {
    let listen = format!("{address}:{}", free_port_at(address));
    serve(data, &listen, &["--tunnel-address", &listen])
}

#[tokio::test]
async fn the_real_thing() {
    let application = Application::start(|_| Reply::ok("done")).await;
    let (data, state, wrong) = (
        TempDir::new().unwrap(),
        TempDir::new().unwrap(),
        TempDir::new().unwrap(),
    );
    let (data_dir, state_dir) = (data.path().to_owned(), state.path().to_owned());
    let port = free_port();
    let listen = format!("127.0.0.1:{port}");

    let app = application.address.port().to_string();
    let environment = [
        ("GITHUB_SECRET", "canary-signing-secret"),
        ("HOOK_TOKEN", "canary-token"),
    ];

    let (relay, agent, relay_ready, ready) = off(move || {
        let mut relay = serve(&data_dir, &listen, &["--tunnel-address", &listen]);
        let relay_ready = relay.event("ready");
        let token = relay.join_token();
        let state = state_dir.to_str().unwrap();

        let joined = run(
            "hookward",
            &["join", "-", "--state-dir", state],
            &[],
            &format!("{token}\n"),
        );
        assert_eq!(joined.code, Some(0), "{joined:?}");
        assert_eq!(mode(&state_dir.join("agent.json")), 0o600);

        let again = run(
            "hookward",
            &["join", "-", "--state-dir", wrong.path().to_str().unwrap()],
            &[],
            &token,
        );
        assert_eq!(again.code, Some(3), "a token works once: {again:?}");

        let garbage = run(
            "hookward",
            &["join", "-", "--state-dir", wrong.path().to_str().unwrap()],
            &[],
            "hookward1.xyz",
        );
        assert_eq!(garbage.code, Some(2), "{garbage:?}");

        let mut agent = Process::start(
            "hookward",
            &[
                "http",
                &app,
                "--log-format",
                "json",
                "--state-dir",
                state,
                "--token",
                "env:HOOK_TOKEN",
                "--verify",
                "github=env:GITHUB_SECRET",
            ],
            &environment,
        );

        let ready = agent.event("ready");
        (relay, agent, relay_ready, ready)
    })
    .await;

    assert_eq!(ready["host"], "flexdeploy.hooks.example.test");
    assert_eq!(
        ready["url"],
        format!("https://flexdeploy.hooks.example.test:{port}/flexdeploy/webhooks/v1"),
        "the user's own token is not shown"
    );

    let edge = edge(&relay_ready, "flexdeploy.hooks.example.test");
    let signature = github_signature("canary-signing-secret", b"{}");
    let hook = "/flexdeploy/webhooks/v1/git/push?token=canary-token";
    let post = async |edge: &Edge| {
        edge.post(hook, &[("X-Hub-Signature-256", &signature)], b"{}")
            .await
    };
    assert_eq!(post(&edge).await.status, 200);

    assert_eq!(
        edge.post(hook, &[("X-Hub-Signature-256", "sha256=00")], b"{}")
            .await
            .status,
        403
    );

    // The agent is killed: 503; started again: back.
    let app = application.address.port().to_string();
    let state_dir = state.path().to_owned();
    let restart = move || {
        let mut agent = Process::start(
            "hookward",
            &[
                "http",
                &app,
                "--log-format",
                "json",
                "--state-dir",
                state_dir.to_str().unwrap(),
                "--token",
                "env:HOOK_TOKEN",
                "--verify",
                "github=env:GITHUB_SECRET",
            ],
            &[
                ("GITHUB_SECRET", "canary-signing-secret"),
                ("HOOK_TOKEN", "canary-token"),
            ],
        );

        agent.event("ready");
        agent
    };

    let agent = off(move || {
        agent.signal("KILL");
        drop(agent);
        restart()
    })
    .await;

    until_status(&edge, &post, 200).await;

    // The relay is killed and started again with the same data: no new join token, and the agent
    // reconnects.
    let data_dir = data.path().to_owned();
    let (relay, mut agent) = off(move || {
        let mut agent = agent;
        relay.signal("KILL");
        drop(relay);

        let listen = format!("127.0.0.1:{port}");
        let mut relay = serve(&data_dir, &listen, &["--tunnel-address", &listen]);
        relay.event("ready");
        agent.nth_event("ready", 1);
        assert!(
            !relay.out().iter().any(|line| line.contains("join_token")),
            "{:?}",
            relay.out()
        );

        (relay, agent)
    })
    .await;

    until_status(&edge, &post, 200).await;

    // The credential of the first agent is withdrawn: it stops with its own exit code.
    let data_dir = data.path().to_owned();
    off(move || {
        let data = data_dir.to_str().unwrap();
        let added = run(
            "hookward-relay",
            &["agent", "add", "second", "--data-dir", data],
            &[],
            "",
        );
        assert!(
            added.code == Some(0) && added.out.starts_with("hookward1."),
            "{added:?}"
        );

        let list = run(
            "hookward-relay",
            &["agent", "list", "--data-dir", data],
            &[],
            "",
        );
        assert!(
            list.out.contains("flexdeploy  online")
                && list.out.contains("flexdeploy.hooks.example.test")
                && list.out.contains("second      not joined"),
            "{list:?}"
        );

        let removed = run(
            "hookward-relay",
            &["agent", "remove", "flexdeploy", "--data-dir", data],
            &[],
            "",
        );
        assert_eq!(removed.code, Some(0), "{removed:?}");
        assert_eq!(agent.wait(), Some(3), "{:?}", agent.err());

        assert!(
            agent.err().iter().any(|line| line.contains("withdrawn")),
            "{:?}",
            agent.err()
        );

        // The second agent may not open the first one's host, nor a foreign one.
        let second = TempDir::new().unwrap();
        let state = second.path().to_str().unwrap();
        let file = second.path().join("token");
        std::fs::write(&file, &added.out).unwrap();

        let joined = run(
            "hookward",
            &["join", file.to_str().unwrap(), "--state-dir", state],
            &[],
            "",
        );
        assert_eq!(joined.code, Some(0), "{joined:?}");

        let foreign = run(
            "hookward",
            &[
                "http",
                "1",
                "--host",
                "elsewhere.example",
                "--log-format",
                "json",
                "--state-dir",
                state,
            ],
            &[],
            "",
        );

        assert_eq!(foreign.code, Some(4), "{foreign:?}");

        // SIGTERM stops the relay in order.
        let mut relay = relay;
        relay.signal("TERM");
        assert_eq!(relay.wait(), Some(0));

        let said = [
            relay.out().join("\n"),
            relay.err().join("\n"),
            agent.out().join("\n"),
            agent.err().join("\n"),
        ]
        .join("\n");

        for secret in ["canary-signing-secret", "canary-token"] {
            assert!(!said.contains(secret), "{secret} was printed");
        }

        for name in std::fs::read_dir(&data_dir).unwrap() {
            let path = name.unwrap().path();
            let content = std::fs::read(&path).unwrap();

            for secret in [&b"canary-signing-secret"[..], b"canary-token"] {
                assert!(
                    !content.windows(secret.len()).any(|window| window == secret),
                    "{} holds a secret",
                    path.display()
                );
            }
        }
    })
    .await;
}

async fn until_status(
    edge: &Edge,
    post: &impl AsyncFn(&Edge) -> hookward_tests::sender::Answer,
    status: u16,
) {
    let since = std::time::Instant::now();
    loop {
        let answer = post(edge).await;
        if answer.status == status {
            return;
        }

        assert!(
            answer.status == 503 && since.elapsed() < DEADLINE,
            "{answer:?}"
        );
    }
}

#[test]
fn wrong_command_lines_start_nothing_and_name_every_mistake() {
    let dir = TempDir::new().unwrap();
    let state = dir.path().to_str().unwrap();
    let policy = dir.path().join("policy.toml");
    std::fs::write(
        &policy,
        "[[route]]\npath = '/a'\nmetods = ['POST']\n[[route.accept]]\nallow_ips = ['any']\n",
    )
    .unwrap();

    let policy = policy.to_str().unwrap();
    let cases: [(&[&str], &[&str]); 12] = [
        (&["http"], &["<APPLICATION>"]),
        (&["http", "70000"], &["between 1 and 65535"]),
        (
            &["http", "8000", "--allow-everything"],
            &["--allow-everything"],
        ),
        (
            &[
                "http",
                "8000",
                "--allow-ip",
                "192.30.252.0/33",
                "--deny-ip",
                "any",
            ],
            &["192.30.252.0/33", "any"],
        ),
        (
            &[
                "http",
                "8000",
                "--token",
                "env:NOT_SET",
                "--verify",
                "github=hunter2",
            ],
            &["NOT_SET is not set", "never as itself"],
        ),
        (
            &["http", "8000", "--verify", "github=env:EMPTY"],
            &["env:EMPTY is empty"],
        ),
        (
            &["http", "8000", "--verify", "githup=env:SET"],
            &["no provider is called \"githup\"", "github"],
        ),
        (
            &["http", "8000", "--path", "/a/**/b", "--path", "x"],
            &["/a/**/b", "\"x\""],
        ),
        (
            &["http", "8000", "--policy", policy],
            &["policy.toml:3", "metods", "policy.toml:5", "\"any\""],
        ),
        (
            &["http", "8000", "--policy", policy, "--token", "env:SET"],
            &["--policy"],
        ),
        (
            &["http", "8000", "--policy", "/nowhere"],
            &["/nowhere", "can't be read"],
        ),
        (&["http", "8000"], &["hookward join"]),
    ];

    for (args, expected) in cases {
        let mut args = args.to_vec();
        args.extend(["--state-dir", state]);
        let ended = run("hookward", &args, &[("EMPTY", "\n"), ("SET", "x")], "");
        assert_eq!(ended.code, Some(2), "{args:?}: {ended:?}");

        for text in expected {
            assert!(ended.err.contains(text), "{text} in {}", ended.err);
        }

        assert!(
            !ended.err.contains("hunter2"),
            "a literal secret is not repeated"
        );
        assert!(ended.out.is_empty(), "nothing was started: {}", ended.out);
    }

    let settings = dir.path().join("relay.toml");
    std::fs::write(
        &settings,
        "listen = '443'\nspool = true\n[limits]\nmin_body_rate = 'fast'\n",
    )
    .unwrap();

    let cases: [(&[&str], &[&str]); 5] = [
        (&["serve"], &["domain: missing"]),
        (
            &["serve", "--config", settings.to_str().unwrap()],
            &["domain", "\"443\"", "relay.toml:2", "spool", "body_rate"],
        ),
        (
            &["serve", "--domain", "a b", "--trusted-proxy", "0.0.0.0/0"],
            &["\"a b\"", "0.0.0.0/0"],
        ),
        (
            &["serve", "--domain", "x.test", "--certificate", "/c.pem"],
            &["key: missing"],
        ),
        (&["agent", "add", "a_b", "--data-dir", state], &["a_b"]),
    ];

    for (args, expected) in cases {
        let ended = run("hookward-relay", args, &[], "");
        assert_eq!(ended.code, Some(2), "{args:?}: {ended:?}");
        for text in expected {
            assert!(ended.err.contains(text), "{text} in {}", ended.err);
        }
    }
}

#[test]
fn providers_are_listed_and_shown() {
    let list = run("hookward", &["providers"], &[], "");
    assert_eq!(list.code, Some(0), "{list:?}");
    let verifiable = list.out.lines().take_while(|line| !line.is_empty()).count();
    assert_eq!(verifiable, hookward_gate::providers::all().len());
    assert!(
        list.out.contains("docker_hub ") && list.out.contains("signs nothing"),
        "{}",
        list.out
    );

    assert!(list.out.contains("github "), "{}", list.out);
    let shown = run(
        "hookward",
        &["providers", "show", "bitbucket-server"],
        &[],
        "",
    );
    assert_eq!(shown.code, Some(0), "{shown:?}");

    for text in [
        "HMAC-SHA-256",
        "header:X-Hub-Signature: sha256=<hex>",
        "--verify bitbucket_dc=env:BITBUCKET_DC_SECRET",
    ] {
        assert!(shown.out.contains(text), "{text} in {}", shown.out);
    }

    let unknown = run("hookward", &["providers", "show", "githup"], &[], "");
    assert_eq!(unknown.code, Some(2), "{unknown:?}");
    assert!(
        unknown.err.contains("is it one of github"),
        "{}",
        unknown.err
    );
}

#[test]
fn a_log_filter_that_is_none_is_a_mistake() {
    let dir = TempDir::new().unwrap();
    let state = dir.path().to_str().unwrap();

    for (name, args) in [
        ("hookward", ["http", "8000", "--state-dir", state]),
        (
            "hookward-relay",
            ["serve", "--domain=x.test", "--data-dir", state],
        ),
    ] {
        let ended = run(name, &args, &[("HOOKWARD_LOG", "info,quinn=loud")], "");
        assert_eq!(ended.code, Some(2), "{ended:?}");
        assert!(ended.err.contains("HOOKWARD_LOG"), "{}", ended.err);
    }
}

#[test]
fn what_fails_later_has_exit_code_1() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let dir = TempDir::new().unwrap();
    let state = dir.path().to_str().unwrap();
    let ended = run(
        "hookward",
        &[
            "http",
            "8000",
            &format!("--local={address}"),
            "--state-dir",
            state,
        ],
        &[],
        "",
    );

    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.err.contains(&address), "{}", ended.err);
    let ended = run(
        "hookward-relay",
        &[
            "serve",
            "--domain",
            "x.test",
            "--listen",
            &address,
            "--data-dir",
            state,
        ],
        &[],
        "",
    );

    assert_eq!(ended.code, Some(1), "{ended:?}");
    let ended = run(
        "hookward-relay",
        &["agent", "add", "x", "--data-dir", "/nowhere"],
        &[],
        "",
    );
    assert_eq!(ended.code, Some(2), "{ended:?}");
}

#[test]
fn help_names_the_exit_codes() {
    for (name, args) in [
        ("hookward", vec!["http", "--help"]),
        ("hookward", vec!["--help"]),
        ("hookward-relay", vec!["serve", "--help"]),
    ] {
        let ended = run(name, &args, &[], "");
        assert!(
            ended.code == Some(0) && ended.out.contains("Exit codes:"),
            "{name} {args:?}"
        );
    }

    assert!(program("hookward").is_file());
}

/// Behind an undeclared proxy all senders count as one; the log names the flag, once.
#[tokio::test]
async fn an_undeclared_proxy_is_warned_of() {
    let dir = TempDir::new().unwrap();
    let data = dir.path().to_owned();
    let (relay, ready) = off(move || {
        let mut relay = serve(&data, "127.0.0.1:0", &[]);
        relay.event("ready");
        // The field is read only for known hosts.
        let name = AgentName::parse("flexdeploy").unwrap();
        let store = Store::open(&data.join("relay.db")).unwrap();
        let (token, credential) = (Secret::generate().unwrap(), Secret::generate().unwrap());
        store.add_agent(&name, &token, Clock::System.now()).unwrap();

        let agent = store
            .join(&token, &credential.digest(), Clock::System.now())
            .unwrap()
            .unwrap();

        store
            .claim_host(
                &HostName::parse("flexdeploy.hooks.example.test").unwrap(),
                Some(&name),
                agent.agent.id,
            )
            .unwrap();
        relay.signal("TERM");
        assert_eq!(relay.wait(), Some(0));

        let mut relay = serve(&data, "127.0.0.1:0", &[]);
        let ready = relay.event("ready");
        (relay, ready)
    })
    .await;

    let edge = edge(&ready, "flexdeploy.hooks.example.test");
    for _ in 0..3 {
        assert_eq!(
            edge.post(PREFIX, &[("X-Forwarded-For", "192.0.2.1")], b"{}")
                .await
                .status,
            503
        );
    }

    let warned = || {
        relay
            .err()
            .iter()
            .filter(|line| line.contains("--trusted-proxy 127.0.0.1"))
            .count()
    };
    eventually("the flag", || warned() == 1).await;
}

/// Beyond 20 lines a second, the relay's log counts the refused requests, and misses none.
#[tokio::test]
async fn a_flood_of_refusals_is_counted_in_the_log() {
    const REQUESTS: u64 = 2000;

    let dir = TempDir::new().unwrap();
    let data = dir.path().to_owned();
    let (relay, ready) = off(move || {
        let mut relay = serve(&data, "127.0.0.1:0", &[]);
        let ready = relay.event("ready");
        (relay, ready)
    })
    .await;
    let edge = edge(&ready, "nobody.hooks.example.test");

    let since = std::time::Instant::now();
    let mut connection = edge.http1().await;

    for _ in 0..REQUESTS {
        connection.send("GET", "/", &edge.host, &[], b"").await;
        assert_eq!(connection.answer("GET").await.status, 404);
    }

    let seconds = since.elapsed().as_secs() + 1;
    let counts = || {
        let lines: Vec<Value> = relay
            .err()
            .iter()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect();
        let single = lines
            .iter()
            .filter(|line| line["event"] == "refused")
            .count() as u64;

        let counted: u64 = lines
            .iter()
            .filter(|line| line["event"] == "more")
            .filter_map(|line| line["count"].as_u64())
            .sum();

        (single, counted)
    };

    eventually("every request is in the log", || {
        counts().0 + counts().1 == REQUESTS
    })
    .await;
    assert!(
        counts().0 <= 20 * (seconds + 1),
        "{:?} in {seconds} s",
        counts()
    );
}

/// A webhook that only the agent can check is a refusal in the relay's log, not a failure.
#[tokio::test]
async fn a_refusal_by_the_agent_is_no_failure_in_the_relays_log() {
    let (data, state) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (data_dir, state_dir) = (data.path().to_owned(), state.path().to_owned());

    let (relay, _agent, ready) = off(move || {
        let address = format!("127.0.0.1:{}", free_port());
        let mut relay = serve(&data_dir, &address, &["--tunnel-address", &address]);
        let ready = relay.event("ready");
        let state = state_dir.to_str().unwrap();
        let token = relay.join_token();
        let joined = run(
            "hookward",
            &["join", "-", "--state-dir", state],
            &[],
            &token,
        );
        assert_eq!(joined.code, Some(0), "{joined:?}");

        let mut agent = Process::start(
            "hookward",
            &[
                "http",
                "1",
                "--log-format",
                "json",
                "--state-dir",
                state,
                "--verify",
                "github=env:GITHUB_SECRET",
                "--secret-at-agent",
            ],
            &[("GITHUB_SECRET", "canary-signing-secret")],
        );
        agent.event("ready");
        (relay, agent, ready)
    })
    .await;

    let edge = edge(&ready, "flexdeploy.hooks.example.test");
    let forged = edge
        .post(
            "/flexdeploy/webhooks/v1/git/push",
            &[("X-Hub-Signature-256", "sha256=00")],
            b"{}",
        )
        .await;
    assert_eq!(forged.status, 403);

    let events = |event: &str| -> Vec<Value> {
        let lines = relay.err();
        let lines = lines
            .iter()
            .filter_map(|line| serde_json::from_str(line).ok());
        lines
            .filter(|line: &Value| line["event"] == event)
            .collect()
    };
    eventually("the refusal is in the log", || {
        events("refused")
            .iter()
            .any(|line| line["refused_by"] == "agent")
    })
    .await;
    assert_eq!(events("failed"), Vec::<Value>::new());
}

/// On a terminal, a line ends the token: users do not expect to press Ctrl-D.
#[test]
fn a_token_is_pasted_on_a_terminal() {
    let state = TempDir::new().unwrap();
    let mut script = Command::new("script");
    let command = format!(
        "{} join - --state-dir {}",
        program("hookward").display(),
        state.path().display()
    );
    script.args(["-qec", &command, "/dev/null"]);

    let mut process = Process::spawn(script);
    process.says("paste the join token, and press Enter");
    process.write("hookward1.incomplete\n");
    process.says("not a complete join token");
    assert_eq!(process.end().code, Some(2));
}

/// On a real terminal (by util-linux's `script`) of each size there is a screen. Keys filter the
/// requests and copy the URL, Ctrl-C ends the program, and a summary stays.
#[tokio::test]
async fn the_screen_on_a_terminal() {
    for (columns, rows) in [(50, 12), (80, 24), (120, 40)] {
        let application = Application::start(|_| Reply::ok("")).await;
        let dir = TempDir::new().unwrap();
        let command = format!(
            "stty cols {columns} rows {rows}; exec {} http {} --local=127.0.0.1:0 --webhook git/push --state-dir {}",
            program("hookward").display(),
            application.address.port(),
            dir.path().display()
        );

        off(move || {
            let mut script = Command::new("script");
            script
                .args(["-qec", &command, "/dev/null"])
                .env("TERM", "xterm");

            let mut process = Process::spawn(script);
            let mut shows = |keys: &str, text: &str| {
                process.write(keys);
                process.shows(rows, columns, text);
            };
            shows("", "online");
            shows("", "https://flexdeploy.localhost:");
            shows("", "No requests yet.");

            shows("/xyz", "filter: xyz_");
            shows("\r", "filter: xyz ");
            shows("p", "paused, 0 held back");
            shows("?", "filter: push status:5xx -event:ping");
            shows(" ", "paused, 0 held back");
            shows("c", "the webhook URL is copied");
            process.says("\u{1b}]52;c;");

            process.write("\u{3}");
            assert_eq!(process.wait(), Some(0), "{:?}", process.out());
            process.says("hookward: 0 requests in ");
        })
        .await;
    }
}

/// Many requests, a filter, details, sending again, an application that goes and returns, and another
/// size of the terminal.
#[tokio::test]
async fn the_screen_follows_requests_and_the_application() {
    for (columns, rows) in [(50, 12), (80, 24), (120, 40)] {
        let application = Application::start(|_| Reply::ok("fine")).await;
        let address = application.address;
        let dir = TempDir::new().unwrap();
        let tty = dir.path().join("tty");
        let command = format!(
            "tty > {}; stty cols {columns} rows {rows}; exec {} http {} --local=127.0.0.1:0 \
             --verify github=env:GITHUB_SECRET --inspect 127.0.0.1:0 --state-dir {}",
            tty.display(),
            program("hookward").display(),
            address.port(),
            dir.path().display()
        );
        let local = dir.path().join("local");
        let (mut process, edge) = off(move || {
            let mut script = Command::new("script");
            script
                .args(["-qec", &command, "/dev/null"])
                .env("TERM", "xterm")
                .env("GITHUB_SECRET", GITHUB_SECRET);
            let mut process = Process::spawn(script);
            process.shows(rows, columns, "online");
            let url = std::fs::read_to_string(local.join("url")).unwrap();
            let port = url.split(':').nth(2).unwrap().split('/').next().unwrap();
            let edge = Edge {
                address: ([127, 0, 0, 1], port.parse().unwrap()).into(),
                host: "flexdeploy.localhost".to_owned(),
                roots: roots(&local.join("edge.pem")),
                clock: Clock::System,
            };
            (process, edge)
        })
        .await;

        for number in 0..20 {
            let body = format!(r#"{{"number":{number}}}"#);
            let signature = github_signature(GITHUB_SECRET, body.as_bytes());
            let fields = [
                ("X-Hub-Signature-256", signature.as_str()),
                ("X-GitHub-Event", "push"),
            ];
            let path = format!("/flexdeploy/webhooks/v1/{number}");
            assert_eq!(edge.post(&path, &fields, body.as_bytes()).await.status, 200);
        }
        let refused = edge.post("/flexdeploy/webhooks/v1/bad", &[], b"{}").await;
        assert_eq!(refused.status, 403);

        let tty = std::fs::read_to_string(&tty).unwrap().trim().to_owned();
        let process = off(move || {
            let mut shows = |keys: &str, text: &str| {
                process.write(keys);
                process.shows(rows, columns, text);
            };
            shows("", "20 answered, 0 failed, 1 refused");
            shows("/v1/7", "filter: v1/7_");
            shows("\r", "v1/7 ");

            // Its checks, and the request once more.
            shows("\r", "Esc closes");
            shows("", "POST /flexdeploy/webhooks/v1/7");
            shows("\u{1b}[6~", "signature");
            shows("r", "sent again: the application answers 200");
            shows("x", "21 answered");

            // A term that only the history can answer, and a mistake.
            shows("\u{1b}", "? help");
            shows("/body::12}", "Enter searches");
            shows("\r", "v1/12 ");
            shows("\u{1b}", "? help");
            shows("/status:x", "is not a status");
            shows("\u{1b}", "? help");
            shows("/v1/7", "filter: v1/7_");
            shows("\r", "v1/7 ");
            process
        })
        .await;

        let received = application.log.complete();
        let again = received.last().unwrap();
        assert_eq!(again.target, "/flexdeploy/webhooks/v1/7");
        let signature = github_signature(GITHUB_SECRET, &again.body);
        assert_eq!(
            again.header("x-hub-signature-256"),
            Some(signature.as_str())
        );
        drop(application);

        let mut process = process;
        off(move || {
            process.shows(rows, columns, "is unreachable");
            let _again = std::net::TcpListener::bind(address).unwrap();
            process.no_longer_shows(rows, columns, "is unreachable");

            let resize = ["-F", &tty, "cols", "100", "rows", "30"];
            assert!(
                Command::new("stty")
                    .args(resize)
                    .status()
                    .unwrap()
                    .success()
            );
            process.shows(30, 100, "Lets in");
            process.shows(30, 100, "Esc clears it");
            let shown = process.screen(30, 100);
            assert_eq!(shown.matches("Webhook URL").count(), 1, "{shown}");
            assert_eq!(shown.matches("online").count(), 1, "{shown}");

            process.write("q");
            assert_eq!(process.wait(), Some(0), "{:?}", process.out());
            process.says("21 answered, 0 failed, 1 refused, 0 stored");
        })
        .await;
    }
}

/// A user who closes the terminal ends the agent, which must not go on unseen.
#[test]
fn the_end_of_the_terminal_ends_the_agent() {
    let dir = TempDir::new().unwrap();
    let pid = dir.path().join("pid");
    let mut script = Command::new("script");
    let command = format!(
        "echo $$ > {}; stty cols 80 rows 24; \
         exec {} http 1 --local=127.0.0.1:0 --inspect off --state-dir {}",
        pid.display(),
        program("hookward").display(),
        dir.path().display()
    );
    script
        .args(["-qec", &command, "/dev/null"])
        .env("TERM", "xterm");
    let mut process = Process::spawn(script);
    process.shows(24, 80, "online");
    let agent = std::fs::read_to_string(&pid).unwrap();
    let agent = Path::new("/proc").join(agent.trim());
    assert!(agent.exists());

    // The other end of the pseudo-terminal is gone with its program.
    process.signal("KILL");
    happens("the agent ends", || !agent.exists());
}

/// Secret of the webhooks on the screen.
const GITHUB_SECRET: &str = "a-secret-of-github-on-the-screen";

/// A dumb terminal gets lines, and `NO_COLOR` (no-color.org) removes colours from the screen.
#[test]
fn a_terminal_without_cursor_or_colours_gets_none() {
    const COLOUR: &str = "\u{1b}[38;";

    for (name, value, screen, colours) in [
        ("TERM", "dumb", false, false),
        ("NO_COLOR", "1", true, false),
        ("TERM", "xterm", true, true),
    ] {
        let dir = TempDir::new().unwrap();
        let mut script = Command::new("script");
        let command = format!(
            "stty cols 120 rows 30; exec {} http 1 --local=127.0.0.1:0 --state-dir {}",
            program("hookward").display(),
            dir.path().display()
        );
        script
            .args(["-qec", &command, "/dev/null"])
            .env("TERM", "xterm")
            .env_remove("NO_COLOR")
            .env(name, value);

        let mut process = Process::spawn(script);
        process.says(if screen { "online" } else { "ready: " });
        process.write("\u{3}");
        assert_eq!(process.wait(), Some(0), "{name}={value}");

        let out = process.out().join("\n");
        assert_eq!(out.contains("\u{1b}[?1049h"), screen, "{name}: {out:?}");
        assert_eq!(out.contains(COLOUR), colours, "{name}: {out:?}");
    }
}

/// The log waits for the screen to close. Ctrl-C shows what the stop waits for, and a second one
/// aborts the wait.
#[tokio::test]
async fn the_screen_is_not_written_over_and_a_second_ctrl_c_ends_at_once() {
    const ENTER_SCREEN: &str = "\u{1b}[?1049h";
    const LEAVE_SCREEN: &str = "\u{1b}[?1049l";

    let application = Application::start(|_| Reply::Silence).await;
    let dir = TempDir::new().unwrap();
    let command = format!(
        "stty cols 120 rows 30; exec {} http {} --local=127.0.0.1:0 --no-token --state-dir {}",
        program("hookward").display(),
        application.address.port(),
        dir.path().display()
    );

    let (mut process, url) = {
        let local = dir.path().join("local");
        off(move || {
            let mut script = Command::new("script");
            script
                .args(["-qec", &command, "/dev/null"])
                .env("TERM", "xterm")
                .env("HOOKWARD_LOG", "debug");

            let mut process = Process::spawn(script);
            process.says("online");
            (process, std::fs::read_to_string(local.join("url")).unwrap())
        })
        .await
    };

    let port: u16 = url
        .split(':')
        .nth(2)
        .unwrap()
        .split('/')
        .next()
        .unwrap()
        .parse()
        .unwrap();

    let edge = Edge {
        address: ([127, 0, 0, 1], port).into(),
        host: "flexdeploy.localhost".to_owned(),
        roots: roots(&dir.path().join("local/edge.pem")),
        clock: Clock::System,
    };
    let waiting = tokio::spawn(async move { edge.post(PREFIX, &[], b"{}").await });

    eventually("it is under way", || application.log.begun() == 1).await;
    off(move || {
        process.write("\u{3}");
        process.says("stopping: 1 request in flight");
        process.write("\u{3}");
        assert_eq!(process.wait(), Some(0));

        let out = || process.out().join("\n");
        // Another thread reads it, after the end of the program.
        let parts = || {
            Some((
                out().split_once(ENTER_SCREEN)?.1.to_owned(),
                out().rsplit_once(LEAVE_SCREEN)?.1.to_owned(),
            ))
        };

        happens("the log is written then", || {
            parts().is_some_and(|(_, after)| after.contains("DEBUG"))
        });

        let (screen, _) = parts().unwrap();
        let screen = screen.split(LEAVE_SCREEN).next().unwrap();
        // The wheel sends arrow keys while the screen is open.
        let wheel = ["\u{1b}[?1007h", "\u{1b}[?1007r"].map(|code| screen.find(code));
        assert!(wheel[0].is_some() && wheel[0] < wheel[1], "{screen}");
        assert!(
            !screen.contains("DEBUG") && !screen.contains("open files"),
            "{screen}"
        );
    })
    .await;

    waiting.abort();
}

/// If standard error is not a terminal, lines have no colours.
#[test]
fn a_log_in_a_file_has_no_colours() {
    let dir = TempDir::new().unwrap();
    let args = [
        "http",
        "1",
        "--local=127.0.0.1:0",
        "--state-dir",
        dir.path().to_str().unwrap(),
    ];
    let mut process = Process::start("hookward", &args, &[("HOOKWARD_LOG", "trace")]);
    process.says("ready: ");

    process.signal("TERM");
    assert_eq!(process.wait(), Some(0));
    let said = [process.out(), process.err()].concat().join("\n");
    assert!(said.contains("TRACE") && !said.contains('\u{1b}'), "{said}");
}

#[tokio::test]
async fn a_token_as_an_argument_works_and_is_warned_about() {
    let (data, state) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    off(move || {
        let listen = format!("127.0.0.1:{}", free_port());
        let mut relay = serve(
            data.path(),
            &listen,
            &[
                "--tunnel-address",
                &listen,
                "--reserve-host",
                "hooks.example.test=flexdeploy",
            ],
        );
        let token = relay.join_token();

        let state = state.path().to_str().unwrap();
        let joined = run("hookward", &["join", &token, "--state-dir", state], &[], "");
        assert_eq!(joined.code, Some(0), "{joined:?}");
        assert!(
            joined.err.contains("warning") && !joined.err.contains(&token),
            "{}",
            joined.err
        );

        // An exact host that the relay's settings reserve for the agent.
        let mut agent = Process::start(
            "hookward",
            &["http", "1", "--log-format", "json", "--state-dir", state],
            &[],
        );
        assert_eq!(agent.event("ready")["host"], "hooks.example.test");
    })
    .await;
}

/// Heads that are small on the wire and large in memory, held by unverified connections: 200
/// connections of 100 requests would need 400 MiB.
#[tokio::test]
async fn header_bombs_hold_next_to_nothing() {
    const MOST: u64 = 64;

    let folder = TempDir::new().unwrap();
    let at = folder.path().to_owned();
    let (relay, _agent, ready, events) = off(move || {
        let state = at.join("agent");
        std::fs::write(at.join("secret"), "a secret of some length").unwrap();
        let listen = format!("127.0.0.1:{}", free_port());
        let mut relay = serve(&at.join("relay"), &listen, &["--tunnel-address", &listen]);
        let ready = relay.event("ready");
        let token = relay.join_token();
        assert_eq!(
            run(
                "hookward",
                &["join", "-", "--state-dir", state.to_str().unwrap()],
                &[],
                &token
            )
            .code,
            Some(0)
        );

        let verify = format!("github=file:{}", at.join("secret").display());
        let state = state.to_str().unwrap();
        let args = [
            "http",
            "1",
            "--no-token",
            "--verify",
            &verify,
            "--log-format",
            "json",
            "--state-dir",
            state,
        ];

        let mut agent = Process::start("hookward", &args, &[]);
        let events = agent.event("ready");
        (relay, agent, ready, events)
    })
    .await;

    let edge = edge(&ready, events["host"].as_str().unwrap());
    let before = relay.memory("RssAnon") / MIB;

    for (fields, value) in [(100, 200), (900, 0)] {
        let bomb = h2_frames::bomb(&edge, PREFIX, 100, fields, value);
        let mut held = Vec::new();

        for _ in 0..200 {
            let mut stream = edge.tls(b"h2", Some(&edge.host)).await.unwrap();
            // A connection with too much data is closed while it sends.
            let _ = stream.write_all(&bomb).await;
            held.push(stream);
        }

        let mut most = 0;
        for _ in 0..100 {
            most = most.max(relay.memory("RssAnon") / MIB.saturating_sub(before));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }

        assert!(most <= MOST, "{fields} fields: {most} MiB");
    }

    assert_eq!(edge.get("/admin").await.status, 404, "when they are gone");
}

/// A relay that runs out of file descriptors keeps serving.
#[tokio::test]
async fn too_few_open_files_are_survived() {
    let data = TempDir::new().unwrap();
    let (relay, ready) = off(move || {
        let mut limited = Command::new("prlimit");
        limited.arg("--nofile=64:64").arg(program("hookward-relay"));
        limited.args([
            "serve",
            "--domain",
            "hooks.example.test",
            "--listen",
            "127.0.0.1:0",
            "--log-format",
            "json",
            "--data-dir",
        ]);

        limited.arg(data.path());
        let mut relay = Process::spawn(limited);
        let ready = relay.event("ready");
        assert_eq!(ready["open_files"], 64);

        ((relay, data), ready)
    })
    .await;

    let edge = edge(&ready, "hooks.example.test");
    let mut held = Vec::new();

    for _ in 0..100 {
        held.push(tokio::net::TcpStream::connect(edge.address).await.unwrap());
    }

    hookward_tests::wait::eventually("the relay says so", || {
        relay
            .0
            .err()
            .iter()
            .any(|line| line.contains("accept failed"))
    })
    .await;

    for _ in 0..10 {
        let answer = edge.get("/").await;
        assert_eq!((answer.status, answer.code()), (404, Some("not_found")));
    }

    drop(held);
}

/// A final refusal by the relay ends the agent, each reason with its own exit code.
#[tokio::test]
async fn a_refusal_by_the_relay_ends_the_agent() {
    for (reason, code) in [
        (RefusedReason::Credential, 3),
        (RefusedReason::Host, 4),
        (RefusedReason::Policy, 5),
    ] {
        let (dir, relay) = rogue::refusing(reason).await;
        let ended = off(move || {
            run(
                "hookward",
                &["http", "1", "--state-dir", dir.path().to_str().unwrap()],
                &[],
                "",
            )
        })
        .await;
        assert_eq!(ended.code, Some(code), "{ended:?}");

        assert!(ended.err.contains("refused by the test"), "{}", ended.err);
        relay.abort();
    }
}

/// The README's lines, with curl itself; only the ports are the test's.
#[tokio::test]
async fn the_readmes_lines() {
    if !have("curl", "apt-get install curl") {
        return;
    }

    let readme =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md"))
            .unwrap();
    let block = readme
        .split("```sh\n")
        .find(|block| block.starts_with("STATE="))
        .unwrap();
    let block = block.split("```").next().unwrap();
    let webhook = |request: &hookward_tests::application::Received| match request.target.as_str() {
        "/flexdeploy/webhooks/v1/push" => Reply::ok("the webhook arrived\n"),
        _ => Reply::ok("internal page\n"),
    };
    let application = Application::start(webhook).await;

    let home = TempDir::new().unwrap();
    let state = home.path().join("hookward");
    let port = application.address.port().to_string();
    let lines: Vec<String> = block.lines().map(str::to_owned).collect();
    let said = off(move || {
        let args = [
            "http",
            &port,
            "--local=127.0.0.1:0",
            "--log-format",
            "json",
            "--state-dir",
            state.to_str().unwrap(),
        ];
        let mut agent = Process::start("hookward", &args, &[]);
        let ready = agent.event("ready");
        let edge = ready["edge"]
            .as_str()
            .unwrap()
            .rsplit_once(':')
            .unwrap()
            .1
            .to_owned();

        let script = lines
            .join("\n")
            .replace(":8443", &format!(":{edge}"))
            .replace("curl ", "curl -sS ");
        let ran = Command::new("sh")
            .args(["-ec", &script])
            .env("XDG_STATE_HOME", home.path())
            .output()
            .unwrap();
        assert!(
            ran.status.success(),
            "{script}\n{}",
            String::from_utf8_lossy(&ran.stderr)
        );

        String::from_utf8(ran.stdout).unwrap()
    })
    .await;

    for text in [
        "the webhook arrived",
        "\"code\":\"not_found\"",
        "\"code\":\"refused\"",
    ] {
        assert_eq!(said.matches(text).count(), 1, "{text} in {said}");
    }

    assert_eq!(application.log.take().len(), 1);
}

/// Stop the application, send, start it again: the webhook arrives.
#[tokio::test]
async fn an_application_that_restarts_loses_no_webhook() {
    let application = Application::start(|_| Reply::ok("")).await;
    let (address, state) = (application.address, TempDir::new().unwrap());
    let target = address.port().to_string();
    let state_dir = state.path().to_str().unwrap().to_owned();
    let (mut agent, ready) = off(move || {
        let args = [
            "http",
            &target,
            "--no-token",
            "--local=127.0.0.1:0",
            "--log-format",
            "json",
            "--state-dir",
            &state_dir,
        ];
        let mut agent = Process::start("hookward", &args, &[]);
        let ready = agent.event("ready");
        agent.says("the relay stores webhooks for up to 3 d");
        (agent, ready)
    })
    .await;

    drop(application);
    let edge = edge(&ready, ready["host"].as_str().unwrap());
    let path = "/flexdeploy/webhooks/v1/push";
    let stored = edge.post(path, &[], b"{\"n\": 1}").await;
    assert_eq!(stored.status, 202, "{}", stored.text());

    let application = Application::start_at(address, |_| Reply::ok("")).await;
    eventually("the webhook arrives", || {
        application.log.complete().len() == 1
    })
    .await;
    assert_eq!(application.log.complete()[0].body, b"{\"n\": 1}");
    agent.signal("TERM");
    off(move || assert_eq!(agent.wait(), Some(0))).await;
}

/// Settings that a baseline policy cannot have: the relay reports them and does not start.
#[test]
fn a_baseline_policy_without_effect_is_refused_at_the_start() {
    let dir = TempDir::new().unwrap();
    let (state, baseline) = (dir.path().join("state"), dir.path().join("baseline.toml"));

    for (line, told) in [
        ("rate = '5/s'\naccept.open = true", "policy_rate"),
        ("accept.token = 'env:TOKEN'", "requires no token"),
        (
            "observe_until = 2020-01-01\naccept.allow_ips = '192.0.2.1'",
            "does not observe",
        ),
        (
            "replay = { on_duplicate = 'refuse' }\naccept.verify = { provider = 'github', secret = 'env:TOKEN' }",
            "replay",
        ),
    ] {
        std::fs::write(&baseline, format!("[[route]]\npath = '/**'\n{line}\n")).unwrap();
        let paths = [&state, &baseline].map(|path| path.to_str().unwrap());
        let args = [
            "serve",
            "--domain=x.test",
            "--listen=127.0.0.1:0",
            "--data-dir",
            paths[0],
            "--baseline-policy",
            paths[1],
        ];

        let ended = run(
            "hookward-relay",
            &args,
            &[("TOKEN", "a token of some length")],
            "",
        );
        assert_eq!(ended.code, Some(1), "{line}: {ended:?}");
        assert!(ended.err.contains(told), "{told} in {}", ended.err);
    }
}

/// Completions are valid for the shell, and each command has a man page.
#[test]
fn completions_and_man_pages_know_every_command() {
    for (name, command) in [("hookward", "http"), ("hookward-relay", "serve")] {
        let dir = TempDir::new().unwrap();
        let bash = run(name, &["completions", "bash"], &[], "");
        assert_eq!(bash.code, Some(0), "{bash:?}");
        assert!(bash.out.contains(command));
        let script = dir.path().join("completions");
        std::fs::write(&script, &bash.out).unwrap();
        let parsed = Command::new("bash").arg("-n").arg(&script).status();
        assert!(parsed.unwrap().success());

        let pages = dir.path().join("man1");
        let man = run(name, &["man", pages.to_str().unwrap()], &[], "");
        assert_eq!(man.code, Some(0), "{man:?}");
        let page = std::fs::read_to_string(pages.join(format!("{name}-{command}.1"))).unwrap();
        assert!(page.contains(".SH OPTIONS"), "{page}");
        let refused = run(name, &["man", script.to_str().unwrap()], &[], "");
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert!(refused.err.contains("completions: "), "{refused:?}");
    }
}

/// A container sets the environment, and no flags.
#[tokio::test]
async fn both_programs_run_from_the_environment() {
    let application = Application::start(|_| Reply::ok("done")).await;
    let (data, state) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let listen = format!("127.0.0.1:{}", free_port());
    let (data_dir, state_dir) = (data.path().to_owned(), state.path().to_owned());
    let port = application.address.port().to_string();
    let (relay, agent, ready) = off(move || {
        let wrong = [("HOOKWARD_PUBLIC_PORT", "any")];
        let refused = run("hookward-relay", &["serve"], &wrong, "");
        assert_eq!(refused.code, Some(2), "{refused:?}");
        assert!(refused.err.contains("HOOKWARD_PUBLIC_PORT"), "{refused:?}");
        let data = data_dir.to_str().unwrap();
        let of_relay = [
            ("HOOKWARD_DOMAIN", "other.test"),
            ("HOOKWARD_LISTEN", &listen),
            ("HOOKWARD_TUNNEL_ADDRESS", &listen),
            ("HOOKWARD_DATA_DIR", data),
            ("HOOKWARD_LOG_FORMAT", "json"),
            ("HOOKWARD_ADMIN", "off"),
        ];
        // The flag wins.
        let args = ["serve", "--domain", "hooks.example.test"];
        let mut relay = Process::start("hookward-relay", &args, &of_relay);
        let token = relay.join_token();
        let ready = relay.event("ready");
        let of_agent = [
            ("HOOKWARD_APPLICATION", port.as_str()),
            ("HOOKWARD_JOIN_TOKEN", &token),
            ("HOOKWARD_LOG_FORMAT", "json"),
            ("HOOKWARD_INSPECT", "off"),
            ("HOOKWARD_NO_TOKEN", "true"),
        ];
        // The harness removes the variable of the state directory.
        let args = ["http", "--state-dir", state_dir.to_str().unwrap()];
        let mut agent = Process::start("hookward", &args, &of_agent);
        agent.event("ready");
        (relay, agent, ready)
    })
    .await;
    let edge = edge(&ready, "flexdeploy.hooks.example.test");
    let answer = edge.post(&format!("{PREFIX}/git"), &[], b"{}").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    drop((relay, agent));
}
