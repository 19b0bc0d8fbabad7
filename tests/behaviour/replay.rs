//! Duplicate deliveries: the cases of the corpus, and the three responses.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use hookward_agent::events::Event;
use hookward_core::clock::UnixMillis;
use hookward_core::limits::Limits;
use hookward_core::reason::Check;
use hookward_gate::policy::Policy;
use hookward_tests::application::{Application, Reply};
use hookward_tests::corpus::{bytes, cases};
use hookward_tests::sender::github_signature;
use hookward_tests::stage::{HOST, PREFIX, Plan, Stage, clock_at, policy};
use serde::Deserialize;

fn remembering(provider: &str, secret: &[u8], on_duplicate: &str) -> Policy {
    let dir = tempfile::TempDir::new().unwrap();
    std::fs::write(dir.path().join("secret"), secret).unwrap();
    policy(&format!(
        "[[route]]\npath = '{PREFIX}/**'\nreplay = {{ on_duplicate = '{on_duplicate}', window = '1h' }}\n\
         [[route.accept]]\nverify = {{ provider = '{provider}', secret = 'file:{}/secret' }}",
        dir.path().display(),
    ))
}

#[derive(Deserialize)]
struct Case {
    id: String,
    group: String,
    title: String,
    headers: Vec<(String, String)>,
    body_b64: String,
    secrets_b64: Vec<String>,
    now: u64,
}

/// Returns a stage for a case, whose application responds with this status.
async fn stage_of(
    case: &Case,
    on_duplicate: &str,
    limits: Limits,
) -> (Application, Arc<AtomicU16>, Stage) {
    let status = Arc::new(AtomicU16::new(200));
    let answers = Arc::clone(&status);
    let application = Application::start(move |_| {
        Reply::Full(answers.load(Ordering::SeqCst), Vec::new(), Vec::new())
    })
    .await;
    let policy = remembering("stripe", &bytes(&case.secrets_b64[0]), on_duplicate);

    let plan = Plan {
        policy,
        limits,
        clock: clock_at(case.now),
        ..Plan::default()
    };
    let stage = Stage::start(application.address, plan).await;
    (application, status, stage)
}

async fn send(stage: &Stage, case: &Case) -> u16 {
    let headers: Vec<_> = case
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();

    stage
        .edge
        .post(PREFIX, &headers, &bytes(&case.body_b64))
        .await
        .status
}

/// Returns another signed request with the same body: the case's key, a second later.
fn signed_later(case: &Case) -> (String, u64) {
    use hmac::{Hmac, KeyInit, Mac};

    let at = case.now + 1;
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(&bytes(&case.secrets_b64[0])).unwrap();
    mac.update(format!("{at}.").as_bytes());
    mac.update(&bytes(&case.body_b64));

    (
        format!(
            "t={at},v1={}",
            data_encoding::HEXLOWER.encode(&mac.finalize().into_bytes())
        ),
        at,
    )
}

#[tokio::test]
async fn the_corpus() {
    let mut judged = 0;
    for case in cases::<Case>("signature_attacks_dev")
        .into_iter()
        .filter(|case| case.group == "replay")
    {
        match case.title.as_str() {
            "same body, other id, valid signature" => {
                let (application, _, stage) = stage_of(&case, "refuse", Limits::default()).await;
                assert_eq!(send(&stage, &case).await, 200);
                let (header, _) = signed_later(&case);
                let answer = stage
                    .edge
                    .post(
                        PREFIX,
                        &[("Stripe-Signature", &header)],
                        &bytes(&case.body_b64),
                    )
                    .await;
                assert_eq!(answer.status, 200, "another delivery");

                assert_eq!(application.log.take().len(), 2);
            }
            "same request after the relay restarts, inside the tolerance" => {
                let (application, _, mut stage) =
                    stage_of(&case, "refuse", Limits::default()).await;
                assert_eq!(send(&stage, &case).await, 200);
                assert_eq!(send(&stage, &case).await, 403);

                let opened = stage.tunnels_opened();
                stage.stop_relay().await;
                stage.start_relay().await;
                hookward_tests::wait::eventually("the agent is back", || {
                    stage.tunnels_opened() > opened
                })
                .await;
                assert_eq!(send(&stage, &case).await, 403, "still remembered");
                assert_eq!(application.log.take().len(), 1);
            }
            "same request after the tolerance" => {
                let (application, _, stage) = stage_of(&case, "forward", Limits::default()).await;
                assert_eq!(send(&stage, &case).await, 200);
                stage.clock.set(UnixMillis((case.now + 301) * 1000));
                assert_eq!(send(&stage, &case).await, 403);
                assert_eq!(application.log.take().len(), 1);
            }
            "first try answered 503 (not stored), then again" => {
                let (application, status, stage) =
                    stage_of(&case, "refuse", Limits::default()).await;
                status.store(503, Ordering::SeqCst);
                assert_eq!(send(&stage, &case).await, 503);
                status.store(200, Ordering::SeqCst);
                assert_eq!(send(&stage, &case).await, 200, "the sender tries again");
                assert_eq!(send(&stage, &case).await, 403, "and now it was delivered");
                assert_eq!(application.log.take().len(), 2);
            }
            "first try stored but the answer lost (client cut), then again" => {
                let (application, _, stage) =
                    stage_of(&case, "acknowledge", Limits::default()).await;
                let headers: Vec<_> = case
                    .headers
                    .iter()
                    .map(|(name, value)| (name.as_str(), value.as_str()))
                    .collect();

                // The response is never read: the connection is dropped once the application has
                // responded.
                let mut connection = stage.edge.http1().await;
                connection
                    .send(
                        "POST",
                        PREFIX,
                        &stage.edge.host,
                        &headers,
                        &bytes(&case.body_b64),
                    )
                    .await;

                connection.head().await.unwrap();
                drop(connection);
                assert_eq!(send(&stage, &case).await, 200, "acknowledged");
                assert_eq!(application.log.take().len(), 1, "and not delivered twice");

                let acknowledged = |report: &Event| matches!(report, Event::Refused(told) if told.answered && told.check == Check::Replay);
                stage
                    .reported("the owner receives an event", acknowledged)
                    .await;
            }
            // The test writes a million rows into the file as fast as SQLite allows, and the relay
            // must still know the first.
            "1 000 000 distinct ids in the window, then the first again" => {
                let (application, _, mut stage) =
                    stage_of(&case, "refuse", Limits::default()).await;
                assert_eq!(send(&stage, &case).await, 200);
                stage.stop_relay().await;
                fill(&stage.deliveries(), 1_000_000, (case.now + 3600) * 1000);

                let opened = stage.tunnels_opened();
                stage.start_relay().await;
                hookward_tests::wait::eventually("the agent is back", || {
                    stage.tunnels_opened() > opened
                })
                .await;

                assert_eq!(
                    send(&stage, &case).await,
                    403,
                    "nothing is forgotten inside the window"
                );

                let (header, _) = signed_later(&case);
                let answer = stage
                    .edge
                    .post(
                        PREFIX,
                        &[("Stripe-Signature", &header)],
                        &bytes(&case.body_b64),
                    )
                    .await;
                assert_eq!(answer.status, 200, "and a new one passes");

                assert_eq!(application.log.take().len(), 2);
            }
            other => panic!("{}: {other}", case.id),
        }

        judged += 1;
    }

    assert_eq!(judged, 6);
}

fn fill(path: &std::path::Path, rows: u64, until_ms: u64) {
    let mut connection = rusqlite::Connection::open(path).unwrap();
    let transaction = connection.transaction().unwrap();

    {
        let mut insert = transaction
            .prepare("INSERT INTO claims VALUES (?1, ?2, ?3, 0)")
            .unwrap();

        for n in 0..rows {
            let mut key = [0_u8; 32];
            key[..8].copy_from_slice(&n.to_be_bytes());
            insert
                .execute(rusqlite::params![
                    key,
                    HOST,
                    i64::try_from(until_ms).unwrap()
                ])
                .unwrap();
        }
    }

    transaction.commit().unwrap();
}

#[tokio::test]
async fn full_deduplication_refuses_for_now_and_forgets_nothing() {
    let case = cases::<Case>("signature_attacks_dev")
        .into_iter()
        .find(|case| case.group == "replay")
        .unwrap();
    let (application, _, stage) = stage_of(
        &case,
        "refuse",
        Limits {
            max_tracked_deliveries: 1,
            ..Limits::default()
        },
    )
    .await;

    assert_eq!(send(&stage, &case).await, 200);
    let (header, _) = signed_later(&case);
    let answer = stage
        .edge
        .post(
            PREFIX,
            &[("Stripe-Signature", &header)],
            &bytes(&case.body_b64),
        )
        .await;
    assert_eq!(
        (answer.status, answer.code()),
        (503, Some("overloaded")),
        "an outage is never a 4xx"
    );

    assert!(answer.header("retry-after").is_some());
    assert_eq!(send(&stage, &case).await, 403);
    assert_eq!(application.log.take().len(), 1);
}

/// GitHub's signature does not cover the delivery id, so the signature identifies the delivery, and
/// a forged id changes nothing. Standard Webhooks signs its id.
#[tokio::test]
async fn what_identifies_a_delivery() {
    let application = Application::start(|_| Reply::ok("")).await;
    let stage = Stage::start(
        application.address,
        Plan {
            policy: remembering("github", b"secret", "forward"),
            ..Plan::default()
        },
    )
    .await;

    let signature = github_signature("secret", b"{}");
    for id in ["1", "2", "1"] {
        let headers = [
            ("X-Hub-Signature-256", signature.as_str()),
            ("X-GitHub-Delivery", id),
        ];
        assert_eq!(
            stage.edge.post(PREFIX, &headers, b"{}").await.status,
            200,
            "forwarded, and told"
        );
    }

    assert_eq!(application.log.take().len(), 3);
    let told = || {
        let reports = stage.reports.lock().unwrap();
        let is = |report: &&Event| matches!(report, Event::Refused(told) if told.check == Check::Replay && told.observed);
        reports.iter().filter(is).count()
    };
    hookward_tests::wait::eventually("the second and the third came before", || told() == 2).await;
}

/// A delivery id in the body is found there, even if a token is the only check.
#[tokio::test]
async fn an_id_in_the_body_is_remembered() {
    for (provider, header, body) in [
        ("okta", "Authorization", r#"{"eventId":"same-id"}"#),
        (
            "telegram",
            "X-Telegram-Bot-Api-Secret-Token",
            r#"{"update_id":17}"#,
        ),
    ] {
        let application = Application::start(|_| Reply::ok("")).await;
        let policy = remembering(provider, b"a-token-of-some-length", "refuse");
        let stage = Stage::start(
            application.address,
            Plan {
                policy,
                ..Plan::default()
            },
        )
        .await;

        let mut statuses = Vec::new();
        for _ in 0..3 {
            let headers = [
                (header, "a-token-of-some-length"),
                ("Content-Type", "application/json"),
            ];

            statuses.push(
                stage
                    .edge
                    .post(PREFIX, &headers, body.as_bytes())
                    .await
                    .status,
            );
        }

        assert_eq!(statuses, [200, 403, 403], "{provider}");
        assert_eq!(application.log.take().len(), 1, "{provider}");
    }
}

/// A signed text is one delivery, regardless of the accept rule that verified it.
#[tokio::test]
async fn another_accept_rule_makes_no_other_delivery() {
    let application = Application::start(|_| Reply::ok("")).await;
    let dir = tempfile::TempDir::new().unwrap();
    std::fs::write(dir.path().join("secret"), "secret").unwrap();

    let accept = |event: &str| {
        format!(
            "[[route.accept]]\nheaders = {{ X-GitHub-Event = '{event}' }}\n\
             verify = {{ provider = 'github', secret = 'file:{}/secret' }}\n",
            dir.path().display()
        )
    };

    let text = format!(
        "[[route]]\npath = '{PREFIX}/**'\nreplay = {{ on_duplicate = 'refuse' }}\n{}{}",
        accept("push"),
        accept("ping")
    );

    let stage = Stage::start(
        application.address,
        Plan {
            policy: policy(&text),
            ..Plan::default()
        },
    )
    .await;
    let signature = github_signature("secret", b"{}");

    for (event, status) in [("push", 200), ("push", 403), ("ping", 403)] {
        let headers = [
            ("X-GitHub-Event", event),
            ("X-Hub-Signature-256", signature.as_str()),
        ];
        assert_eq!(
            stage.edge.post(PREFIX, &headers, b"{}").await.status,
            status,
            "{event}"
        );
    }
}

/// Ids of different providers are independent, and so are numbers of different channels.
#[tokio::test]
async fn deliveries_of_two_providers_are_two() {
    use hmac::{Hmac, KeyInit, Mac};

    let application = Application::start(|_| Reply::ok("")).await;
    let dir = tempfile::TempDir::new().unwrap();
    std::fs::write(dir.path().join("secret"), "secret").unwrap();

    let verify = |provider: &str| {
        format!(
            "[[route.accept]]\nverify = {{ provider = '{provider}', secret = 'file:{}/secret' }}\n",
            dir.path().display()
        )
    };

    let text = format!(
        "[[route]]\npath = '{PREFIX}/**'\nreplay = {{ on_duplicate = 'acknowledge' }}\n{}{}",
        verify("vercel"),
        verify("intercom")
    );

    let stage = Stage::start(
        application.address,
        Plan {
            policy: policy(&text),
            ..Plan::default()
        },
    )
    .await;
    let (vercel, intercom) = (
        br#"{"id":"1001","of":"vercel"}"#,
        br#"{"id":"1001","of":"intercom"}"#,
    );

    let mut mac = Hmac::<sha1::Sha1>::new_from_slice(b"secret").unwrap();
    mac.update(vercel);
    let signature = data_encoding::HEXLOWER.encode(&mac.finalize().into_bytes());
    assert_eq!(
        stage
            .edge
            .post(PREFIX, &[("x-vercel-signature", &signature)], vercel)
            .await
            .status,
        200
    );

    let mut mac = Hmac::<sha1::Sha1>::new_from_slice(b"secret").unwrap();
    mac.update(intercom);
    let signature = format!(
        "sha1={}",
        data_encoding::HEXLOWER.encode(&mac.finalize().into_bytes())
    );

    for _ in 0..2 {
        assert_eq!(
            stage
                .edge
                .post(PREFIX, &[("X-Hub-Signature", &signature)], intercom)
                .await
                .status,
            200
        );
    }

    assert_eq!(application.log.take().len(), 2, "each once");
}

#[tokio::test]
async fn the_messages_of_two_google_channels_are_two() {
    let application = Application::start(|_| Reply::ok("")).await;
    let policy = remembering(
        "google_workspace_push",
        b"a-token-of-some-length",
        "acknowledge",
    );

    let stage = Stage::start(
        application.address,
        Plan {
            policy,
            ..Plan::default()
        },
    )
    .await;

    for (channel, number) in [("a", "2"), ("b", "2"), ("a", "2"), ("a", "3")] {
        let headers = [
            ("X-Goog-Channel-Token", "a-token-of-some-length"),
            ("X-Goog-Channel-ID", channel),
            ("X-Goog-Message-Number", number),
            ("X-Goog-Resource-State", "exists"),
        ];
        assert_eq!(
            stage.edge.post(PREFIX, &headers, b"").await.status,
            200,
            "{channel} {number}"
        );
    }

    assert_eq!(application.log.take().len(), 3);
}

/// Setting the clock by a day forgets no delivery, and remembers none for longer.
#[tokio::test]
async fn a_clock_that_is_set_forgets_no_delivery() {
    const DAY: u64 = 86_400;

    let application = Application::start(|_| Reply::ok("")).await;
    let plan = Plan {
        policy: remembering("github", b"secret", "refuse"),
        clock: clock_at(100 * DAY),
        ..Plan::default()
    };
    let stage = Stage::start(application.address, plan).await;
    let signature = github_signature("secret", b"{}");

    let send = async || {
        stage
            .edge
            .post(PREFIX, &[("X-Hub-Signature-256", &signature)], b"{}")
            .await
            .status
    };
    assert_eq!(send().await, 200);

    for day in [99, 101] {
        stage.clock.set(UnixMillis(day * DAY * 1000));
        assert_eq!(send().await, 403, "{day}");
    }

    stage.clock.pass(std::time::Duration::from_secs(3601));
    assert_eq!(send().await, 200, "an hour later");
}

/// One signature under two header names is one delivery: both schemes sign the id.
#[tokio::test]
async fn other_names_of_the_headers_make_no_other_delivery() {
    use hmac::{Hmac, KeyInit, Mac};

    let application = Application::start(|_| Reply::ok("")).await;
    let plan = Plan {
        policy: remembering("clerk", b"whsec_c2VjcmV0", "refuse"),
        clock: clock_at(1000),
        ..Plan::default()
    };
    let stage = Stage::start(application.address, plan).await;

    let send = async |prefix: &str, at: &str| {
        let mut mac = Hmac::<sha2::Sha256>::new_from_slice(b"secret").unwrap();
        mac.update(format!("msg_1.{at}.{{}}").as_bytes());
        let signature = format!(
            "v1,{}",
            data_encoding::BASE64.encode(&mac.finalize().into_bytes())
        );
        let names = ["id", "timestamp", "signature"].map(|name| format!("{prefix}-{name}"));

        let headers = [
            (names[0].as_str(), "msg_1"),
            (&names[1], at),
            (&names[2], &signature),
        ];

        stage.edge.post(PREFIX, &headers, b"{}").await.status
    };
    assert_eq!(send("svix", "1000").await, 200);

    assert_eq!(send("webhook", "1000").await, 403);
    assert_eq!(
        send("webhook", "1001").await,
        403,
        "sent once more by the provider"
    );
    assert_eq!(application.log.take().len(), 1);
}

/// During a rotation a provider signs with both secrets: each alone yields the same delivery.
#[tokio::test]
async fn another_secret_makes_no_other_delivery() {
    use hmac::{Hmac, KeyInit, Mac};

    let application = Application::start(|_| Reply::ok("")).await;
    let dir = tempfile::TempDir::new().unwrap();

    for name in ["old", "new"] {
        std::fs::write(dir.path().join(name), name).unwrap();
    }

    let text = format!(
        "[[route]]\npath = '{PREFIX}/**'\nreplay = {{ on_duplicate = 'refuse' }}\n[[route.accept]]\n\
         verify = {{ provider = 'stripe', secrets = ['file:{0}/new', 'file:{0}/old'] }}",
        dir.path().display(),
    );

    let plan = Plan {
        policy: policy(&text),
        clock: clock_at(1000),
        ..Plan::default()
    };
    let stage = Stage::start(application.address, plan).await;

    let send = async |secret: &[u8]| {
        let mut mac = Hmac::<sha2::Sha256>::new_from_slice(secret).unwrap();
        mac.update(b"1000.{}");
        let signature = format!(
            "t=1000,v1={}",
            data_encoding::HEXLOWER.encode(&mac.finalize().into_bytes())
        );

        stage
            .edge
            .post(PREFIX, &[("Stripe-Signature", &signature)], b"{}")
            .await
            .status
    };
    assert_eq!(send(b"old").await, 200);

    assert_eq!(send(b"new").await, 403);
    assert_eq!(application.log.take().len(), 1);
}
