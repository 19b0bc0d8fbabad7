//! One outcome for each request: every request that ends gives one event, in order.

use hookward_core::limits::Limits;
use hookward_relay::{RelayEvent, RelayEventKind, RequestRecord, Subscription, SubscriptionItem};
use hookward_tests::application::{Application, Reply};
use hookward_tests::sender::github_signature;
use hookward_tests::stage::{HOST, PREFIX, Plan, Stage, policy, signed_policy};
use hookward_tests::wait::within;

const SECRET: &str = "It's a Secret to Everybody";

async fn next(events: &mut Subscription) -> std::sync::Arc<RelayEvent> {
    match within("the relay publishes an event", events.next()).await {
        Some(SubscriptionItem::Event(event)) => event,
        other => panic!("no event: {other:?}"),
    }
}

/// Returns the next event of a request.
async fn next_request(events: &mut Subscription) -> RequestRecord {
    loop {
        if let RelayEventKind::Request(record) = &next(events).await.kind {
            return (**record).clone();
        }
    }
}

#[tokio::test]
async fn every_request_has_one_outcome() {
    let application = Application::start(|_| Reply::ok("fine")).await;
    let stage = Stage::start(
        application.address,
        Plan {
            policy: signed_policy("github", SECRET.as_bytes(), ""),
            ..Plan::default()
        },
    )
    .await;
    let mut events = stage.relay().subscribe();

    let signature = github_signature(SECRET, b"{}");
    let signed = [("X-Hub-Signature-256", signature.as_str())];
    let answer = stage
        .edge
        .post(&format!("{PREFIX}?token=x"), &signed, b"{}")
        .await;
    assert_eq!(answer.status, 200);
    let record = next_request(&mut events).await;
    let received = application.log.take();
    assert_eq!(
        received[0].header("hookward-request-id"),
        Some(record.id.as_str())
    );
    assert_eq!((record.event, record.status), ("forwarded", Some(200)));
    assert_eq!((record.host.as_str(), record.path.as_str()), (HOST, PREFIX));
    assert_eq!(record.request_bytes, Some(2));
    assert_eq!(record.response_bytes, Some(4));
    assert_eq!(record.attempts, Some(1));
    assert!(record.upstream_ms.is_some_and(|ms| ms <= record.ms));

    let answer = stage.edge.post(PREFIX, &[], b"{}").await;
    let record = next_request(&mut events).await;
    assert_eq!(
        answer.header("hookward-request-id"),
        Some(record.id.as_str())
    );
    assert_eq!((record.event, record.status), ("refused", Some(403)));
    assert_eq!(
        (record.check, record.code),
        (Some("signature"), Some("refused"))
    );
    assert!(record.reason.is_some() && record.attempts.is_none());

    let answer = stage.edge.get("/admin").await;
    let record = next_request(&mut events).await;
    assert_eq!(answer.status, 404);
    assert_eq!((record.event, record.check), ("refused", Some("path")));
}

#[tokio::test]
async fn failures_and_senders_that_leave_have_an_outcome() {
    let application = Application::start(|received| match received.target.as_str() {
        "/hang" => Reply::Silence,
        _ => Reply::RawThenCut(Vec::new()),
    })
    .await;
    let stage = Stage::start(
        application.address,
        Plan {
            policy: policy("[[route]]\npath = '/**'\n[[route.accept]]\nopen = true"),
            limits: Limits::default(),
            ..Plan::default()
        },
    )
    .await;
    let mut events = stage.relay().subscribe();

    let answer = stage.edge.post("/broken", &[], b"{}").await;
    let record = next_request(&mut events).await;
    assert_eq!(answer.status, 502);
    assert_eq!((record.event, record.status), ("failed", Some(502)));
    assert_eq!((record.check, record.code), (Some("tunnel"), answer.code()));

    let mut sender = stage.edge.http1().await;
    sender.send("POST", "/hang", HOST, &[], b"{}").await;
    within("the application gets the request", async {
        while application.log.begun() < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    drop(sender);
    let record = next_request(&mut events).await;
    assert_eq!((record.event, record.status), ("aborted", None));
}

#[tokio::test]
async fn events_are_in_order_with_the_relays_time() {
    let application = Application::start(|_| Reply::ok("")).await;
    let mut stage = Stage::start(application.address, Plan::default()).await;
    let mut events = stage.relay().subscribe();

    stage.edge.get("/admin").await;
    stage.stop_agent().await;
    let (refused, left) = (next(&mut events).await, next(&mut events).await);
    assert!(matches!(refused.kind, RelayEventKind::Request(_)));
    assert!(
        matches!(&left.kind, RelayEventKind::AgentDisconnected { agent, .. } if !agent.is_empty())
    );
    assert_eq!(left.stamp.order, refused.stamp.order + 1);
    assert!(left.stamp.at >= refused.stamp.at && refused.stamp.at.0 > 0);
}
