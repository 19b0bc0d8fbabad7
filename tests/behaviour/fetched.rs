//! Fetching by the relay: published keys, address lists, confirmations, from a server with real
//! TLS, and never from a URL that a sender or an agent chose.

use hookward_core::ip_sets::SetOrigin;
use hookward_core::reason::Check;
use hookward_gate::policy::Policy;
use hookward_gate::policy::{OnDuplicate, ReplayProtection};
use hookward_relay::FetchSettings;
use hookward_tests::application::{Application, Reply};
use hookward_tests::corpus::{bytes, fixture};
use hookward_tests::publisher::Publisher;
use hookward_tests::stage::{PREFIX, Plan, Stage, clock_at, policy};
use hookward_tests::wait::eventually;
use serde_json::Value;

const NOW: u64 = 1_700_000_000;
const SNS: &str = "sns.eu-west-1.amazonaws.com";

fn vector(id: &str) -> Value {
    let text = std::fs::read_to_string(fixture("vectors/made.json")).unwrap();
    let all: Value = serde_json::from_str(&text).unwrap();
    all["vectors"]
        .as_array()
        .unwrap()
        .iter()
        .find(|vector| vector["id"] == id)
        .unwrap()
        .clone()
}

async fn send(stage: &Stage, vector: &Value) -> u16 {
    let headers: Vec<_> = vector["headers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pair| (pair[0].as_str().unwrap(), pair[1].as_str().unwrap()))
        .collect();

    stage
        .edge
        .post(
            PREFIX,
            &headers,
            &bytes(vector["body_b64"].as_str().unwrap()),
        )
        .await
        .status
}

fn verifying(provider: &str, secret: Option<&str>, more: &str) -> Policy {
    let dir = tempfile::TempDir::new().unwrap();
    std::fs::write(dir.path().join("secret"), secret.unwrap_or("-")).unwrap();
    let secret = secret
        .map(|_| format!(", secret = 'file:{}/secret'", dir.path().display()))
        .unwrap_or_default();

    policy(&format!(
        "[[route]]\npath = '/**'\n[[route.accept]]\nverify = {{ provider = '{provider}'{secret}{more} }}"
    ))
}

#[tokio::test]
async fn a_certificate_that_the_message_names_is_fetched_once_and_both_gates_use_it() {
    let application = Application::start(|_| Reply::ok("")).await;
    let publisher = Publisher::start(&[SNS]).await;
    let good = vector("aws-sns-good");
    let topic = r#"{"topic_arn":"arn:aws:sns:eu-west-1:1:t"}"#;
    let plan = Plan {
        policy: verifying("aws_sns", Some(topic), ""),
        fetch: publisher.settings(),
        clock: clock_at(NOW),
        ..Plan::default()
    };
    let stage = Stage::start(application.address, plan).await;
    assert_eq!(
        send(&stage, &good).await,
        503,
        "there is none yet: the sender may try again"
    );

    let page = "/SimpleNotificationService-1.pem";
    assert_eq!(publisher.take_asked(), [page]);
    assert_eq!(send(&stage, &good).await, 503);
    assert_eq!(
        publisher.take_asked(),
        [""; 0],
        "a failure is not repeated for every request"
    );

    publisher.publish(page, 200, good["secret"]["certificate"].as_str().unwrap());
    let plan = Plan {
        policy: verifying("aws_sns", Some(topic), ""),
        fetch: publisher.settings(),
        clock: clock_at(NOW),
        ..Plan::default()
    };
    let stage = Stage::start(application.address, plan).await;

    for _ in 0..3 {
        assert_eq!(send(&stage, &good).await, 200);
    }

    assert_eq!(publisher.take_asked(), [page], "cached");
    assert_eq!(
        application.log.take().len(),
        3,
        "the agent's gate took the key, too"
    );

    let other = r#"{"topic_arn":"arn:aws:sns:eu-west-1:1:other"}"#;
    let plan = Plan {
        policy: verifying("aws_sns", Some(other), ""),
        fetch: publisher.settings(),
        clock: clock_at(NOW),
        ..Plan::default()
    };
    let stage = Stage::start(application.address, plan).await;
    assert_eq!(send(&stage, &good).await, 403, "another topic");
}

#[tokio::test]
async fn keys_come_from_the_providers_hosts_only() {
    let application = Application::start(|_| Reply::ok("")).await;
    let publisher = Publisher::start(&[
        SNS,
        "evil.example.com",
        "sns.eu-west-1.amazonaws.com.evil.example",
    ])
    .await;
    let good = vector("aws-sns-good");

    for page in ["/SimpleNotificationService-1.pem", "/other.pem"] {
        publisher.publish(page, 200, good["secret"]["certificate"].as_str().unwrap());
    }

    let topic = r#"{"topic_arn":"arn:aws:sns:eu-west-1:1:t"}"#;
    let plan = Plan {
        policy: verifying("aws_sns", Some(topic), ""),
        fetch: publisher.settings(),
        clock: clock_at(NOW),
        ..Plan::default()
    };
    let stage = Stage::start(application.address, plan).await;
    let body = String::from_utf8(bytes(good["body_b64"].as_str().unwrap())).unwrap();

    let url = format!("https://{SNS}/SimpleNotificationService-1.pem");
    assert!(body.contains(&url));

    for other in [
        "http://sns.eu-west-1.amazonaws.com/SimpleNotificationService-1.pem",
        "https://evil.example.com/SimpleNotificationService-1.pem",
        "https://sns.eu-west-1.amazonaws.com.evil.example/SimpleNotificationService-1.pem",
        "https://sns.eu-west-1.amazonaws.com@evil.example.com/SimpleNotificationService-1.pem",
        "https://sns.eu-west-1.amazonaws.com:8443/SimpleNotificationService-1.pem",
        "https://sns.eu-west-1.amazonaws.com/other.pem",
        "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-1.pem?again",
        "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-1.pem/../../other.pem",
        "https://127.0.0.1/SimpleNotificationService-1.pem",
        "file:///etc/passwd",
    ] {
        let answer = stage
            .edge
            .post(
                PREFIX,
                &[("Content-Type", "text/plain")],
                body.replace(&url, other).as_bytes(),
            )
            .await;
        assert_eq!(answer.status, 403, "{other}");
    }

    // Another topic: the key is not even requested.
    assert_eq!(
        stage
            .edge
            .post(PREFIX, &[], body.replace(":1:t", ":2:t").as_bytes())
            .await
            .status,
        403
    );

    assert_eq!(
        publisher.take_asked(),
        [""; 0],
        "no publisher was contacted"
    );
    // A name of the provider that resolves into this network.
    let private = FetchSettings {
        resolve: Default::default(),
        ..publisher.settings()
    };
    let fetcher = hookward_relay::Fetcher::new(private, std::time::Duration::from_secs(5)).unwrap();
    let error = fetcher
        .get(
            &hookward_core::url::HttpsUrl::parse("https://localhost.localdomain/").unwrap(),
            100,
        )
        .await
        .unwrap_err();

    let refused = error.to_string();
    assert!(
        refused.contains("not on the public internet") || refused.contains("can't be found"),
        "{refused}"
    );

    // Redirects are not followed.
    publisher.publish("/SimpleNotificationService-2.pem", 302, "");
    let redirected = body.replace("Service-1.pem", "Service-2.pem");
    assert_eq!(
        stage
            .edge
            .post(PREFIX, &[], redirected.as_bytes())
            .await
            .status,
        503
    );

    assert_eq!(publisher.take_asked(), ["/SimpleNotificationService-2.pem"]);
}

#[tokio::test]
async fn a_published_key_set_verifies_tokens() {
    let application = Application::start(|_| Reply::ok("")).await;
    let publisher = Publisher::start(&["www.googleapis.com"]).await;
    let good = vector("google-pubsub-push-good");
    publisher.publish(
        "/oauth2/v3/certs",
        200,
        good["secret"]["keys"].as_str().unwrap(),
    );

    let secret = r#"{"audience":"me","email":"push@example.iam.gserviceaccount.com"}"#;
    let plan = Plan {
        policy: verifying("google_pubsub_push", Some(secret), ""),
        fetch: publisher.settings(),
        clock: clock_at(NOW),
        ..Plan::default()
    };
    let stage = Stage::start(application.address, plan).await;
    assert_eq!(send(&stage, &good).await, 200);

    assert_eq!(
        send(&stage, &vector("google-pubsub-push-other-secret")).await,
        403
    );
    assert_eq!(publisher.take_asked(), ["/oauth2/v3/certs"]);
}

/// Such a token accompanies many deliveries within its hour, each of which is a separate delivery.
#[tokio::test]
async fn a_token_that_is_used_again_does_not_make_two_deliveries_one() {
    let application = Application::start(|_| Reply::ok("")).await;
    let publisher = Publisher::start(&["www.googleapis.com"]).await;
    let good = vector("google-pubsub-push-good");
    publisher.publish(
        "/oauth2/v3/certs",
        200,
        good["secret"]["keys"].as_str().unwrap(),
    );

    let secret = r#"{"audience":"me","email":"push@example.iam.gserviceaccount.com"}"#;
    let mut policy = verifying("google_pubsub_push", Some(secret), "");
    policy.routes[0].replay = Some(ReplayProtection {
        on_duplicate: OnDuplicate::Refuse,
        window_ms: 60_000,
    });

    let plan = Plan {
        policy,
        fetch: publisher.settings(),
        clock: clock_at(NOW),
        ..Plan::default()
    };
    let stage = Stage::start(application.address, plan).await;

    let token = good["headers"]
        .as_array()
        .unwrap()
        .iter()
        .find(|header| header[0] == "Authorization")
        .unwrap();

    let send = async |id: &str| {
        let body = format!(r#"{{"message":{{"messageId":"{id}"}}}}"#);
        stage
            .edge
            .post(
                PREFIX,
                &[("Authorization", token[1].as_str().unwrap())],
                body.as_bytes(),
            )
            .await
            .status
    };
    assert_eq!(send("1").await, 200);

    assert_eq!(send("2").await, 200);
    assert_eq!(send("1").await, 403);
    assert_eq!(application.log.take().len(), 2);
}

/// A custom scheme may only name hosts that the operator allows.
#[tokio::test]
async fn an_agent_does_not_choose_where_the_relay_goes() {
    let application = Application::start(|_| Reply::ok("")).await;
    let publisher = Publisher::start(&["keys.example.com"]).await;
    let good = vector("fusionauth-public-good");
    publisher.publish("/jwks", 200, good["secret"].as_str().unwrap());

    let text = "[[route]]\npath = '/**'\n[[route.accept]]\n\
                jwt = { at = 'header:X-FusionAuth-Signature-JWT', algs = ['RS256'], expires = false, jwks = 'https://keys.example.com/jwks' }";

    for (hosts, status) in [
        (vec![], 503),
        (vec!["keys.example.com"], 200),
        (vec!["*.other.example"], 503),
    ] {
        let hosts: Vec<_> = hosts
            .into_iter()
            .map(|host| hookward_core::url::HostPattern::parse(host).unwrap())
            .collect();
        let asked = usize::from(status == 200);
        let fetch = FetchSettings {
            hosts,
            ..publisher.settings()
        };

        let stage = Stage::start(
            application.address,
            Plan {
                policy: policy(text),
                fetch,
                clock: clock_at(NOW),
                ..Plan::default()
            },
        )
        .await;
        assert_eq!(send(&stage, &good).await, status);

        assert_eq!(publisher.take_asked().len(), asked);
    }
}

#[tokio::test]
async fn a_subscription_is_confirmed_only_after_a_valid_signature() {
    let application = Application::start(|_| Reply::ok("")).await;
    let publisher = Publisher::start(&[SNS]).await;
    let confirmations = std::fs::read_to_string(fixture("vectors/confirmations.json")).unwrap();
    let confirmations: Value = serde_json::from_str(&confirmations).unwrap();

    publisher.publish(
        "/SimpleNotificationService-1.pem",
        200,
        confirmations["certificate"].as_str().unwrap(),
    );

    publisher.publish(
        "/?Action=ConfirmSubscription&Token=t-1",
        200,
        "<ConfirmSubscriptionResponse/>",
    );

    let topic = r#"{"topic_arn":"arn:aws:sns:eu-west-1:1:t"}"#;
    let plan = Plan {
        policy: verifying("aws_sns", Some(topic), ", challenge = true"),
        fetch: publisher.settings(),
        clock: clock_at(NOW),
        ..Plan::default()
    };
    let stage = Stage::start(application.address, plan).await;

    let post = async |name: &str| {
        stage
            .edge
            .post(
                PREFIX,
                &[],
                confirmations[name].as_str().unwrap().as_bytes(),
            )
            .await
            .status
    };
    assert_eq!(post("forged").await, 403);

    assert_eq!(
        post("elsewhere").await,
        403,
        "signed by the provider's key, and leading elsewhere"
    );

    assert_eq!(
        publisher.take_asked(),
        ["/SimpleNotificationService-1.pem"],
        "nothing is confirmed"
    );
    assert_eq!(post("good").await, 200);
    assert_eq!(
        publisher.take_asked(),
        ["/?Action=ConfirmSubscription&Token=t-1"]
    );

    assert_eq!(application.log.begun(), 0);
}

#[tokio::test]
async fn named_sets_are_fetched_kept_and_shown_with_their_age() {
    let application = Application::start(|_| Reply::ok("")).await;
    let publisher = Publisher::start(&["api.buildkite.com"]).await;
    let text = "[[route]]\npath = '/**'\naccept.allow_ips = 'buildkite'";
    let proxies = vec!["127.0.0.1/32".parse().unwrap()];
    let plan = Plan {
        policy: policy(text),
        fetch: publisher.settings(),
        trusted_proxies: proxies,
        ..Plan::default()
    };
    let mut stage = Stage::start(application.address, plan).await;
    let sends = async |stage: &Stage, from: &str| {
        stage
            .edge
            .post(PREFIX, &[("X-Forwarded-For", from)], b"{}")
            .await
            .status
    };

    assert_eq!(
        sends(&stage, "203.0.113.9").await,
        403,
        "empty until its first refresh"
    );

    let empty = |report: &hookward_agent::events::Event| matches!(report, hookward_agent::events::Event::Refused(told) if told.check == Check::Address && told.reason.contains("empty until its first refresh"));
    stage.reported("that it is empty", empty).await;

    publisher.publish(
        "/v2/meta",
        200,
        r#"{"webhook_ips":["203.0.113.0/24","198.51.100.7"]}"#,
    );

    let opened = stage.tunnels_opened();
    stage.stop_relay().await;
    stage.start_relay().await;
    eventually("the agent is back", || stage.tunnels_opened() > opened).await;

    let is_read = |stage: &Stage| {
        matches!(
            stage
                .relay()
                .address_sets()
                .get("buildkite")
                .unwrap()
                .origin,
            SetOrigin::Fetched(_)
        )
    };
    eventually("the list is read", || is_read(&stage)).await;

    assert_eq!(sends(&stage, "203.0.113.9").await, 200);
    assert_eq!(sends(&stage, "198.51.100.7").await, 200);
    assert_eq!(sends(&stage, "198.51.100.8").await, 403);

    // Fetched lists survive a restart, and an unreadable list changes nothing.
    publisher.publish("/v2/meta", 200, "<html>maintenance</html>");
    let opened = stage.tunnels_opened();
    stage.stop_relay().await;
    stage.start_relay().await;
    assert!(is_read(&stage), "kept on disk");
    eventually("the agent is back", || stage.tunnels_opened() > opened).await;
    assert_eq!(sends(&stage, "203.0.113.9").await, 200);
}
