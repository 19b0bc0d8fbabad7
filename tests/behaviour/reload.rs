//! Reload of a policy: no connection is dropped, and an invalid policy changes nothing.

use std::path::Path;

use hookward_gate::policy::Policy;
use hookward_tests::application::{Application, Reply};
use hookward_tests::process::{Process, run};
use hookward_tests::sender::{Http1, github_signature};
use hookward_tests::stage::{HOST, PREFIX, Plan, Stage, policy};
use hookward_tests::wait::{eventually, happens, within};

use super::programs::{edge, off};

fn tokened(token: &str) -> Policy {
    let dir = tempfile::TempDir::new().unwrap();
    std::fs::write(dir.path().join("token"), token).unwrap();
    policy(&format!(
        "[[route]]\npath = '{PREFIX}/**'\naccept.token = 'file:{}/token'",
        dir.path().display()
    ))
}

/// Sends on a kept connection.
async fn on(connection: &mut Http1, token: &str) -> u16 {
    connection
        .send("POST", &format!("{PREFIX}?token={token}"), HOST, &[], b"{}")
        .await;
    connection.answer("POST").await.status
}

#[tokio::test]
async fn another_policy_is_in_force_on_both_sides_and_no_connection_is_dropped() {
    let application = Application::start(|_| Reply::ok("")).await;
    let mut stage = Stage::start(
        application.address,
        Plan {
            policy: tokened("one"),
            ..Plan::default()
        },
    )
    .await;
    let mut kept = stage.edge.http1().await;
    assert_eq!(on(&mut kept, "one").await, 200);

    stage.replace_policy(tokened("two"));
    let in_force = |report: &hookward_agent::events::Event| matches!(report, hookward_agent::events::Event::Note(text) if text.contains("in force"));
    stage.reported("the relay has taken it", in_force).await;
    assert_eq!(on(&mut kept, "two").await, 200, "on the same connection");
    assert_eq!(on(&mut kept, "one").await, 403);
    assert_eq!(stage.tunnels_opened(), 1, "in the same session");
}

#[tokio::test]
async fn a_policy_beyond_the_operators_limits_leaves_the_old_one_in_force() {
    let application = Application::start(|_| Reply::ok("")).await;
    let limits = hookward_core::limits::Limits {
        policy_routes: 1,
        ..Default::default()
    };

    let mut stage = Stage::start(
        application.address,
        Plan {
            policy: tokened("one"),
            limits,
            ..Plan::default()
        },
    )
    .await;

    let mut wide = tokened("two");
    wide.routes.push(hookward_gate::policy::Route {
        name: "b".into(),
        paths: vec!["/b".into()],
        ..wide.routes[0].clone()
    });

    stage.replace_policy(wide);
    let kept = |report: &hookward_agent::events::Event| matches!(report, hookward_agent::events::Event::Warning(text) if text.contains("OLD ONE STAYS IN FORCE") && text.contains("policy_routes"));
    stage.reported("that it is not taken", kept).await;

    let mut connection = stage.edge.http1().await;
    assert_eq!(on(&mut connection, "one").await, 200);
    // Nor does it return with the next session.
    let opened = stage.tunnels_opened();

    stage.stop_relay().await;
    stage.start_relay().await;
    eventually("the agent is back", || stage.tunnels_opened() > opened).await;

    let mut connection = stage.edge.http1().await;
    assert_eq!(on(&mut connection, "one").await, 200);
    stage.replace_policy(tokened("three"));

    let in_force = |report: &hookward_agent::events::Event| matches!(report, hookward_agent::events::Event::Note(text) if text.contains("in force"));
    stage.reported("a good one is taken", in_force).await;
    assert_eq!(on(&mut connection, "three").await, 200);
}

#[tokio::test]
async fn a_thousand_broken_reloads_keep_the_last_good_one() {
    let application = Application::start(|_| Reply::ok("")).await;
    let stage = Stage::start(
        application.address,
        Plan {
            policy: tokened("one"),
            ..Plan::default()
        },
    )
    .await;
    let mut kept = stage.edge.http1().await;

    for n in 0..1000 {
        let mut broken = tokened("two");
        broken.routes[0].paths = vec!["no path".into()];
        assert!(stage.try_policy(&broken).is_err(), "{n}");
    }

    assert_eq!(on(&mut kept, "one").await, 200);
    assert_eq!(on(&mut kept, "two").await, 403);
}

/// Replaces a file atomically, as editors and configuration systems do.
fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(&new, path).unwrap();
}

#[test]
fn the_program_reads_its_policy_again_when_the_file_changes_and_by_sighup() {
    let dir = tempfile::TempDir::new().unwrap();
    let file = dir.path().join("policy.toml");
    let secret = dir.path().join("token");
    let at = |path: &Path| path.display().to_string();

    std::fs::write(&secret, "the-first-token").unwrap();
    let route = |path: &str| {
        format!(
            "[[route]]\npath = '{path}'\naccept.token = 'file:{}'\n",
            at(&secret)
        )
    };
    replace(&file, &route("/a"));

    let state = at(dir.path());
    let args = [
        "http",
        "1",
        "--local=127.0.0.1:0",
        "--state-dir",
        &state,
        "--log-format",
        "json",
        "--policy",
        &at(&file),
    ];
    let mut process = Process::start("hookward", &args, &[]);

    let ready = process.event("ready");
    let (edge, ca) = (
        ready["edge"].as_str().unwrap().to_owned(),
        ready["ca"].as_str().unwrap().to_owned(),
    );
    let port = edge.rsplit(':').next().unwrap().to_owned();

    let status = |path: &str, token: &str| {
        let url = format!("https://flexdeploy.localhost:{port}{path}?token={token}");
        let sent = run(
            "hookward",
            &[
                "send",
                &url,
                "--provider",
                "github",
                "--secret",
                "env:S",
                "--cacert",
                &ca,
            ],
            &[("S", "x")],
            "",
        );

        sent.out
            .lines()
            .next()
            .unwrap_or_default()
            .chars()
            .take(3)
            .collect::<String>()
    };

    // No application listens on port 1: a permitted webhook is stored.
    assert_eq!(
        (
            status("/a", "the-first-token").as_str(),
            status("/b", "the-first-token").as_str()
        ),
        ("202", "404")
    );
    replace(&file, &route("/b"));

    process.says("the new policy is in force");
    assert_eq!(
        (
            status("/a", "the-first-token").as_str(),
            status("/b", "the-first-token").as_str()
        ),
        ("404", "202")
    );
    replace(&file, "[[route]]\npath = 'nowhere'\n");

    process.says("THE OLD ONE STAYS IN FORCE");
    assert_eq!(status("/b", "the-first-token"), "202");
    // The secret's file changes, and the policy does not: SIGHUP reads it again.
    replace(&file, &route("/b"));
    std::fs::write(&secret, "the-second-token").unwrap();
    process.signal("HUP");
    happens("the new secret is known", || {
        status("/b", "the-second-token") == "202"
    });

    assert_eq!(status("/b", "the-first-token"), "403");
    process.signal("TERM");
    assert_eq!(process.wait(), Some(0));
}

/// Secrets of a vault's command and of systemd, which both change.
#[tokio::test]
async fn secrets_of_commands_and_of_systemd_are_read_again_on_sighup() {
    let application = Application::start(|_| Reply::ok("")).await;
    let dir = tempfile::TempDir::new().unwrap();
    let (vault, unit) = (dir.path().join("vault"), dir.path().join("unit"));
    std::fs::create_dir(&unit).unwrap();
    let of_vault = "the first secret of the vault";
    std::fs::write(&vault, of_vault).unwrap();
    std::fs::write(unit.join("github"), "the first secret of systemd").unwrap();

    let port = application.address.port().to_string();
    let (state, path) = (dir.path().to_owned(), vault.clone());
    let (agent, ready) = off(move || {
        let command = format!("github=cmd:cat {} | head -c 1000", path.display());
        let args = ["http", &port, "--local=127.0.0.1:0", "--log-format", "json"];
        let secrets = ["--verify", &command, "--verify", "github=systemd:github"];
        let rest = ["--inspect", "off", "--state-dir", state.to_str().unwrap()];
        let credentials = [("CREDENTIALS_DIRECTORY", unit.to_str().unwrap())];
        let args = [args.as_slice(), &secrets, &rest].concat();
        let mut agent = Process::start("hookward", &args, &credentials);
        let ready = agent.event("ready");
        (agent, ready)
    })
    .await;

    let edge = edge(&ready, "flexdeploy.localhost");
    let signed = |secret: &'static str| {
        let edge = &edge;
        async move {
            let signature = github_signature(secret, b"{}");
            let headers = [("x-hub-signature-256", signature.as_str())];
            edge.post(&format!("{PREFIX}/git"), &headers, b"{}")
                .await
                .status
        }
    };
    assert_eq!(signed("the first secret of the vault").await, 200);
    assert_eq!(signed("the first secret of systemd").await, 200);
    assert_eq!(signed("the second secret of the vault").await, 403);

    std::fs::write(&vault, "the second secret of the vault").unwrap();
    agent.signal("HUP");
    within("the second secret is in force", async {
        while signed("the second secret of the vault").await != 200 {}
    })
    .await;
    assert_eq!(signed("the first secret of the vault").await, 403);

    // A vault that fails changes nothing, and is named without its arguments.
    std::fs::remove_file(&vault).unwrap();
    std::fs::create_dir(&vault).unwrap();
    agent.signal("HUP");
    let mut agent = off(move || {
        let mut agent = agent;
        agent.says("OLD ONE STAYS IN FORCE");
        agent
    })
    .await;
    assert_eq!(signed("the second secret of the vault").await, 200);
    agent.says("cmd:cat…");
    let path = vault.display().to_string();
    assert!(!agent.out().join("\n").contains(&path));
}
