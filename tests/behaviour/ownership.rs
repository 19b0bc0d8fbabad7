//! Ownership of hosts: an added agent gets the host of its name, and an agent that loses a host
//! keeps its others.

use std::path::Path;

use hookward_tests::application::{Application, Reply};
use hookward_tests::ports::free_port;
use hookward_tests::process::{Ended, Process, run};
use hookward_tests::sender::Edge;
use hookward_tests::wait::happens;
use tempfile::TempDir;

use super::programs::{edge, off, serve};

const HOOK: &str = "/flexdeploy/webhooks/v1";

fn join(state: &Path, token: &str) {
    let joined = run(
        "hookward",
        &["join", "-", "--state-dir", state.to_str().unwrap()],
        &[],
        token,
    );
    assert_eq!(joined.code, Some(0), "{joined:?}");
}

fn add(data: &Path, name: &str) -> Ended {
    run(
        "hookward-relay",
        &["agent", "add", name, "--data-dir", data.to_str().unwrap()],
        &[],
        "",
    )
}

fn start(state: &Path, file: &Path) -> Process {
    let args = [
        "start",
        file.to_str().unwrap(),
        "--state-dir",
        state.to_str().unwrap(),
        "--log-format",
        "json",
    ];

    Process::start("hookward", &args, &[])
}

async fn status(edge: &Edge) -> u16 {
    edge.post(HOOK, &[], b"{}").await.status
}

#[tokio::test]
async fn an_agent_that_is_added_gets_the_host_of_its_name_and_the_other_keeps_its_others() {
    let application = Application::start(|_| Reply::ok("")).await;
    let (data, state, jira_state) = (
        TempDir::new().unwrap(),
        TempDir::new().unwrap(),
        TempDir::new().unwrap(),
    );
    let port = application.address.port();
    let policy = format!("[[route]]\npath = '{HOOK}/**'\n[[route.accept]]\nopen = true\n");
    std::fs::write(state.path().join("policy.toml"), policy).unwrap();

    let tunnel =
        |host: &str| format!("[[tunnel]]\napplication = {port}\npolicy = 'policy.toml'\n{host}\n");
    let file = state.path().join("hookward.toml");
    std::fs::write(&file, format!("{}{}", tunnel(""), tunnel("host = 'jira'"))).unwrap();

    let (data_dir, state_dir, tunnels) = (
        data.path().to_owned(),
        state.path().to_owned(),
        file.clone(),
    );

    let (mut relay, mut agent, ready) = off(move || {
        let listen = format!("127.0.0.1:{}", free_port());
        let mut relay = serve(&data_dir, &listen, &["--tunnel-address", &listen]);
        let ready = relay.event("ready");
        join(&state_dir, &relay.join_token());
        let mut agent = start(&state_dir, &tunnels);
        agent.nth_event("ready", 1);
        (relay, agent, ready)
    })
    .await;
    let own = edge(&ready, "flexdeploy.hooks.example.test");

    let jira = edge(&ready, "jira.hooks.example.test");
    assert_eq!((status(&own).await, status(&jira).await), (200, 200));

    let data_dir = data.path().to_owned();
    let (mut agent, token) = off(move || {
        let added = add(&data_dir, "jira");
        assert_eq!(added.code, Some(0), "{added:?}");
        assert!(
            added.err.contains("belonged to the agent flexdeploy"),
            "{added:?}"
        );
        agent.says("belongs to the agent jira now; the other tunnels stay open");

        (agent, added.out)
    })
    .await;

    assert_eq!(
        (status(&own).await, status(&jira).await),
        (200, 503),
        "an outage is never a 4xx"
    );

    // After a restart, too, the agent keeps the hosts that it may have.
    let state_dir = state.path().to_owned();
    let agent = off(move || {
        agent.signal("TERM");
        assert_eq!(agent.wait(), Some(0));
        let mut agent = start(&state_dir, &file);
        agent.event("ready");
        agent.says("belongs to the agent jira");
        agent
    })
    .await;

    assert_eq!((status(&own).await, status(&jira).await), (200, 503));

    let _jira = off(move || {
        join(jira_state.path(), &token);
        let args = [
            "http",
            &port.to_string(),
            "--no-token",
            "--log-format",
            "json",
            "--state-dir",
        ];
        let args = [&args[..], &[jira_state.path().to_str().unwrap()]].concat();
        let mut second = Process::start("hookward", &args, &[]);
        assert_eq!(second.event("ready")["host"], "jira.hooks.example.test");

        (second, jira_state)
    })
    .await;

    assert_eq!((status(&own).await, status(&jira).await), (200, 200));

    // If its only host is refused, the agent ends with the reason.
    let state_dir = state.path().to_owned();
    off(move || {
        drop(agent);
        let args = [
            "http",
            "1",
            "--host",
            "jira",
            "--no-token",
            "--log-format",
            "json",
            "--state-dir",
        ];

        let ended = run(
            "hookward",
            &[&args[..], &[state_dir.to_str().unwrap()]].concat(),
            &[],
            "",
        );
        assert_eq!(ended.code, Some(4), "{ended:?}");
        assert!(ended.err.contains("belongs to the agent jira"), "{ended:?}");

        for event in [
            "agent_added",
            "agent_joined",
            "policy in force",
            "anyone who knows the URL",
        ] {
            happens(event, || relay.err().join("\n").contains(event));
        }

        relay.signal("TERM");
        assert_eq!(relay.wait(), Some(0));
    })
    .await;
}
