//! Outages are 5xx with a code, never 4xx, and end by themselves.

use hookward_agent::events::Event;
use hookward_agent::{LinkSettings, RelayEndpoint, join};
use std::sync::Arc;

use hookward_core::clock::Clock;
use hookward_core::names::{AgentName, HostName};
use hookward_core::secret::Secret;
use hookward_tests::application::{Application, Input, Reply};
use hookward_tests::sender::{Answer, Edge, Http1};
use hookward_tests::stage::{HOST, Plan, Stage};
use hookward_tests::wait::{DEADLINE, eventually, within};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::sync::Notify;

const HOOK: &str = "/flexdeploy/webhooks/v1/git/push";

/// Sends requests until the response has this status.
async fn until(edge: &Edge, status: u16) -> Answer {
    let since = std::time::Instant::now();
    loop {
        let answer = edge.post(HOOK, &[], b"x").await;
        if answer.status == status {
            return answer;
        }
        assert!(since.elapsed() < DEADLINE, "never {status}, but {answer:?}");
    }
}

#[tokio::test]
async fn application_down() {
    let free = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let stage = Stage::start(free, Plan::default()).await;
    let answer = stage.edge.post(HOOK, &[], b"x").await;
    assert_eq!(
        (answer.status, answer.code()),
        (502, Some("upstream_unreachable"))
    );

    assert_eq!(
        answer.header("content-type"),
        Some("application/problem+json")
    );
    assert!(answer.header("hookward-request-id").is_some());

    assert_eq!(
        stage.edge.get("/admin").await.status,
        404,
        "the gate decides first"
    );
}

#[tokio::test]
async fn agent_away_and_back() {
    let application = Application::start(|_| Reply::ok("")).await;
    let mut stage = Stage::start(application.address, Plan::default()).await;
    assert_eq!(stage.edge.post(HOOK, &[], b"x").await.status, 200);
    stage.stop_agent().await;

    let answer = stage.edge.post(HOOK, &[], b"x").await;
    assert_eq!((answer.status, answer.code()), (503, Some("agent_offline")));
    assert!(answer.header("retry-after").is_some());
    assert_eq!(
        stage.edge.get("/admin").await.status,
        404,
        "an unauthenticated sender learns nothing from an outage"
    );
    stage.start_agent().await;

    assert_eq!(stage.edge.post(HOOK, &[], b"x").await.status, 200);
}

#[tokio::test]
async fn the_relay_restarts_and_the_agent_comes_back_by_itself() {
    let application = Application::start(|_| Reply::ok("")).await;
    let mut stage = Stage::start(application.address, Plan::default()).await;
    let opened = stage.tunnels_opened();
    stage.stop_relay().await;
    stage
        .reported("the agent notices", |report| {
            matches!(report, Event::Disconnected { .. })
        })
        .await;

    stage.start_relay().await;
    eventually("the tunnel opens again", || stage.tunnels_opened() > opened).await;
    assert_eq!(until(&stage.edge, 200).await.status, 200);
}

#[tokio::test]
async fn a_host_that_was_given_is_503_right_after_a_restart_and_others_are_404() {
    let application = Application::start(|_| Reply::ok("")).await;
    let mut stage = Stage::start(application.address, Plan::default()).await;
    stage.stop_agent().await;
    stage.stop_relay().await;
    stage.start_relay().await;

    let answer = stage.edge.post(HOOK, &[], b"x").await;
    assert_eq!((answer.status, answer.code()), (503, Some("agent_offline")));
    let mut stranger = stage.edge.clone();
    stranger.host = "example.test".to_owned();

    let answer = stranger.post(HOOK, &[], b"x").await;
    assert_eq!((answer.status, answer.code()), (404, Some("not_found")));
}

#[tokio::test]
async fn the_host_of_an_agent_that_has_joined_and_never_came_is_503() {
    let stage = Stage::start(([127, 0, 0, 1], 1).into(), Plan::default()).await;
    let mut edge = stage.edge.clone();
    edge.host = "new.example.test".to_owned();
    assert_eq!(edge.post(HOOK, &[], b"x").await.status, 404);

    let token = stage
        .relay()
        .add_agent(&AgentName::parse("new").unwrap())
        .unwrap();
    let address = stage.relay().tunnel_address().to_string();
    let relay = RelayEndpoint::new(address, token.pin, Secret::generate().unwrap());

    assert_eq!(
        join(&relay, &LinkSettings::default(), token.secret)
            .await
            .unwrap(),
        "new"
    );
    until(&edge, 503).await;
}

#[tokio::test]
async fn hosts_of_an_agent_removed_while_disconnected_are_free() {
    let stage = Stage::start(([127, 0, 0, 1], 1).into(), Plan::default()).await;
    let (name, host) = (
        AgentName::parse("gone").unwrap(),
        HostName::parse("gone.example.test").unwrap(),
    );
    let join = stage.relay().add_agent(&name).unwrap();
    let store = stage.relay().store();
    let credential = Secret::generate().unwrap().digest();

    store
        .join(&join.secret, &credential, stage.clock.now())
        .unwrap()
        .unwrap();

    let found = store.authenticate(&credential, stage.clock.now()).unwrap();
    let agent = found.known().unwrap().agent;
    store.claim_host(&host, None, agent.id).unwrap();
    let mut edge = stage.edge.clone();
    edge.host = host.to_string();
    until(&edge, 503).await;
    assert!(store.remove_agent(&name, Clock::System.now()).unwrap());
    until(&edge, 404).await;
}

#[tokio::test]
async fn the_newest_session_takes_over_at_once() {
    let application = Application::start(|_| Reply::ok("")).await;
    let mut stage = Stage::start(application.address, Plan::default()).await;
    let mut connection = stage.edge.http1().await;
    // A second agent with the same identity, while the first is still connected.
    stage.start_agent().await;

    for _ in 0..10 {
        connection.send("POST", HOOK, HOST, &[], b"x").await;
        assert_eq!(connection.answer("POST").await.status, 200);
    }

    let other =
        |report: &Event| matches!(report, Event::Warning(text) if text.contains("another agent"));
    stage.reported("the first hears of it", other).await;
    stage.stop_agent().await;

    let answer = stage.edge.post(HOOK, &[], b"x").await;
    assert_eq!(
        answer.status, 200,
        "the one before, which is still there, serves again"
    );

    let again = |report: &Event| matches!(report, Event::Note(text) if text.contains("again"));
    stage.reported("and that it has them again", again).await;
}

#[tokio::test]
async fn an_orderly_stop_finishes_requests_in_flight() {
    let (seen, finish) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let of_application = (Arc::clone(&seen), Arc::clone(&finish));
    let application = Application::raw(move |stream| {
        let (seen, finish) = of_application.clone();
        async move {
            let mut input = Input::new(stream);
            let Some(mut request) = input.head().await else {
                return;
            };
            let _ = input.body(&mut request).await;

            if request.target == HOOK {
                seen.notify_one();
                finish.notified().await;
            }

            let done = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone";
            let _ = input.stream().write_all(done).await;
        }
    })
    .await;

    for relay in [false, true] {
        let mut stage = Stage::start(application.address, Plan::default()).await;
        let edge = stage.edge.clone();
        let mut connection = edge.http1().await;
        connection.send("POST", HOOK, HOST, &[], b"x").await;
        within("the application has the request", seen.notified()).await;

        let stop = async {
            if relay {
                stage.stop_relay().await
            } else {
                stage.stop_agent().await
            }
        };

        // The application responds only after the stop has begun, so that no new request is
        // accepted.
        let begun = async {
            while let Ok(stream) = edge.tls(b"http/1.1", Some(HOST)).await {
                let mut other = Http1::new(stream);
                other
                    .send("POST", &format!("{HOOK}/probe"), HOST, &[], b"x")
                    .await;

                if other
                    .try_answer("POST")
                    .await
                    .is_none_or(|answer| answer.status == 503)
                {
                    break;
                }
            }

            finish.notify_one();
        };
        within("the stop", async { tokio::join!(stop, begun) }).await;

        assert_eq!(
            connection.answer("POST").await.text(),
            "done",
            "relay: {relay}"
        );
    }
}
