//! Reload of a policy: no connection is dropped, and an invalid policy changes nothing.

use std::path::Path;

use hookward_gate::policy::Policy;
use hookward_tests::application::{Application, Reply};
use hookward_tests::process::{Process, run};
use hookward_tests::sender::Http1;
use hookward_tests::stage::{HOST, PREFIX, Plan, Stage, policy};
use hookward_tests::wait::{eventually, happens};

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
