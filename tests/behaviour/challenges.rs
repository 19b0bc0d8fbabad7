//! Providers' challenges, answered by the gate: every provider of the catalog that sends one,
//! requests that must not be answered, and pairing.

use hookward_agent::events::{Event, RequestResult};
use hookward_gate::policy::{Accept, Policy, Route, SecretAt, SignatureCheck};
use hookward_gate::providers;
use hookward_tests::application::{Application, Reply};
use hookward_tests::sender::Answer;
use hookward_tests::stage::{PREFIX, Plan, Stage, clock_at, policy};

const NOW: u64 = 1_700_000_000;
const KEY: &str = "a secret of the provider's";
/// Client id in Adobe Sign's format.
const CLIENT: &str = "CBJCHBCAABAA";

/// A challenge as a provider sends it, and the expected response.
struct SentChallenge {
    provider: &'static str,
    method: &'static str,
    query: &'static str,
    headers: &'static [(&'static str, &'static str)],
    body: &'static str,
    status: u16,
    answer: Expected,
}

enum Expected {
    Nothing,
    Text(&'static str),
    Json(&'static str),
    Header(&'static str, &'static str),
}

use Expected::{Header, Json, Nothing, Text};

const fn shake(
    provider: &'static str,
    method: &'static str,
    query: &'static str,
    answer: Expected,
) -> SentChallenge {
    SentChallenge {
        provider,
        method,
        query,
        headers: &[],
        body: "",
        status: 200,
        answer,
    }
}

const fn posted(provider: &'static str, body: &'static str, answer: Expected) -> SentChallenge {
    SentChallenge {
        provider,
        method: "POST",
        query: "",
        headers: &[],
        body,
        status: 200,
        answer,
    }
}

const fn with_header(
    provider: &'static str,
    method: &'static str,
    name: &'static [(&'static str, &'static str)],
    answer: Expected,
) -> SentChallenge {
    SentChallenge {
        provider,
        method,
        query: "",
        headers: name,
        body: "",
        status: 200,
        answer,
    }
}

/// Unsigned challenges. Digests by Python's hmac over the reflected text.
const UNSIGNED: [SentChallenge; 26] = [
    SentChallenge {
        headers: &[
            ("X-Event-Key", "diagnostics:ping"),
            ("Content-Type", "application/json"),
        ],
        ..posted("bitbucket_dc", r#"{"test":true}"#, Nothing)
    },
    SentChallenge {
        headers: &[("aeg-event-type", "SubscriptionValidation")],
        ..posted(
            "azure_event_grid",
            r#"[{"data":{"validationCode":"512d38b6-c7b8"}}]"#,
            Json(r#"{"validationResponse":"512d38b6-c7b8"}"#),
        )
    },
    with_header(
        "azure_event_grid",
        "OPTIONS",
        &[("WebHook-Request-Origin", "eventgrid.azure.net")],
        Header("WebHook-Allowed-Origin", "eventgrid.azure.net"),
    ),
    shake(
        "braintree",
        "GET",
        "bt_challenge=0123456789abcdef0123456789abcdef",
        Text("public_id|e0f4dc08ec02a2fb0e8b5eb4ccac9e8f42f7d2bb"),
    ),
    shake("dropbox", "GET", "challenge=abc123", Text("abc123")),
    shake(
        "facebook_messenger",
        "GET",
        "hub.mode=subscribe&hub.verify_token=v3rify&hub.challenge=1158201444",
        Text("1158201444"),
    ),
    SentChallenge {
        status: 204,
        ..shake("fitbit", "GET", "verify=v3rify", Nothing)
    },
    shake(
        "instagram",
        "GET",
        "hub.mode=subscribe&hub.verify_token=v3rify&hub.challenge=1158201444",
        Text("1158201444"),
    ),
    shake("intercom", "HEAD", "", Nothing),
    posted(
        "lark",
        r#"{"type":"url_verification","challenge":"ajls384kdjx98XX"}"#,
        Json(r#"{"challenge":"ajls384kdjx98XX"}"#),
    ),
    shake(
        "linkedin",
        "GET",
        "challengeCode=890e4665-4dfe-4ab1-b689-ed553bceeed0",
        Json(
            r#"{"challengeCode":"890e4665-4dfe-4ab1-b689-ed553bceeed0","challengeResponse":"LINKEDIN"}"#,
        ),
    ),
    shake("mandrill", "HEAD", "", Nothing),
    shake(
        "meta",
        "GET",
        "hub.mode=subscribe&hub.verify_token=v3rify&hub.challenge=1158201444",
        Text("1158201444"),
    ),
    posted(
        "monday",
        r#"{"challenge":"3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P"}"#,
        Json(r#"{"challenge":"3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P"}"#),
    ),
    shake(
        "ms_graph",
        "POST",
        "validationToken=Validation%3a+Testing+client+application",
        Text("Validation: Testing client application"),
    ),
    shake(
        "nylas",
        "GET",
        "challenge=bc609b38-c81f-47fb-a275-1d9bd61be968",
        Text("bc609b38-c81f-47fb-a275-1d9bd61be968"),
    ),
    with_header(
        "okta",
        "GET",
        &[("X-Okta-Verification-Challenge", "my verification challenge")],
        Json(r#"{"verification":"my verification challenge"}"#),
    ),
    shake("onfleet", "GET", "check=xyz", Text("xyz")),
    with_header(
        "ringcentral",
        "POST",
        &[("Validation-Token", "1a2b-3c")],
        Header("Validation-Token", "1a2b-3c"),
    ),
    with_header(
        "smartsheet",
        "POST",
        &[("Smartsheet-Hook-Challenge", "e8b2d9c6-1111")],
        Header("Smartsheet-Hook-Response", "e8b2d9c6-1111"),
    ),
    shake("surveymonkey", "HEAD", "", Nothing),
    shake("trello", "HEAD", "", Nothing),
    shake(
        "websub",
        "GET",
        "hub.mode=subscribe&hub.topic=https%3A%2F%2Fexample.com%2Ffeed&hub.challenge=abc",
        Text("abc"),
    ),
    shake(
        "whatsapp",
        "GET",
        "hub.mode=subscribe&hub.verify_token=v3rify&hub.challenge=1158201444",
        Text("1158201444"),
    ),
    with_header(
        "worldline",
        "GET",
        &[("X-GCS-Webhooks-Endpoint-Verification", "abc-1")],
        Text("abc-1"),
    ),
    shake(
        "x_twitter",
        "GET",
        "crc_token=challenge_string",
        Json(r#"{"response_token":"sha256=XTWITTER"}"#),
    ),
];

/// Returns the secret of a provider: its parts if it has several.
fn secret(provider: &str) -> String {
    match provider {
        "meta" | "facebook_messenger" | "instagram" | "whatsapp" | "fitbit" => {
            format!(r#"{{"secret":"{KEY}","verify_token":"v3rify"}}"#)
        }
        "websub" => format!(r#"{{"secret":"{KEY}","topic":"https://example.com/feed"}}"#),
        "braintree" => format!(r#"{{"public_key":"public_id","private_key":"{KEY}"}}"#),
        "onfleet" => "61".repeat(8),
        "adobe_sign" => CLIENT.to_owned(),
        _ => KEY.to_owned(),
    }
}

fn answering(provider: &str, more: &str) -> Policy {
    let dir = tempfile::TempDir::new().unwrap();
    std::fs::write(dir.path().join("secret"), secret(provider)).unwrap();
    std::fs::write(dir.path().join("token"), "t0ken").unwrap();

    policy(
        &format!(
            "[[route]]\npath = '{PREFIX}/**'\n[[route.accept]]\n{more}\n\
             verify = {{ provider = '{provider}', secret = 'file:DIR/secret', challenge = true }}"
        )
        .replace("DIR", &dir.path().display().to_string()),
    )
}

fn hmac(key: &[u8], text: &str) -> Vec<u8> {
    use hmac::{Hmac, KeyInit, Mac};
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(key).unwrap();
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

fn is_answered(shake: &SentChallenge, answer: &Answer) {
    let name = shake.provider;
    assert_eq!(answer.status, shake.status, "{name}: {}", answer.text());
    assert!(
        answer.header("hookward-error").is_none(),
        "{name}: {}",
        answer.text()
    );

    match &shake.answer {
        Nothing => assert!(answer.body.is_empty(), "{name}"),
        Header(header, value) => assert_eq!(answer.header(header), Some(*value), "{name}"),
        Text(text) => {
            let digest = sha1_of_braintree();
            let text = text.replace("e0f4dc08ec02a2fb0e8b5eb4ccac9e8f42f7d2bb", &digest);
            assert_eq!(answer.text(), text, "{name}");
            assert!(
                answer
                    .header("content-type")
                    .unwrap()
                    .starts_with("text/plain"),
                "{name}"
            );

            assert_eq!(
                answer.header("x-content-type-options"),
                Some("nosniff"),
                "{name}"
            );
        }
        Json(text) => {
            let code = "890e4665-4dfe-4ab1-b689-ed553bceeed0";
            let text = text
                .replace(
                    "LINKEDIN",
                    &data_encoding::HEXLOWER.encode(&hmac(KEY.as_bytes(), code)),
                )
                .replace(
                    "XTWITTER",
                    &data_encoding::BASE64.encode(&hmac(KEY.as_bytes(), "challenge_string")),
                );
            assert_eq!(answer.text(), text, "{name}");

            assert_eq!(
                answer.header("content-type"),
                Some("application/json"),
                "{name}"
            );
        }
    }
}

/// Returns HMAC-SHA-1 of the challenge, with the SHA-1 of the private key (braintree's
/// `util/crypto.py`).
fn sha1_of_braintree() -> String {
    use hmac::{Hmac, KeyInit, Mac};
    use sha1::{Digest, Sha1};
    let mut mac = Hmac::<Sha1>::new_from_slice(&Sha1::digest(KEY)).unwrap();
    mac.update(b"0123456789abcdef0123456789abcdef");
    data_encoding::HEXLOWER.encode(&mac.finalize().into_bytes())
}

#[tokio::test]
async fn every_unsigned_challenge_is_answered_without_the_application() {
    let application = Application::start(|_| Reply::ok("")).await;
    let mut providers_seen = std::collections::BTreeSet::new();

    for shake in &UNSIGNED {
        let plan = Plan {
            policy: answering(shake.provider, ""),
            clock: clock_at(NOW),
            ..Plan::default()
        };
        let stage = Stage::start(application.address, plan).await;

        let target = if shake.query.is_empty() {
            PREFIX.to_owned()
        } else {
            format!("{PREFIX}?{}", shake.query)
        };

        let answer = stage
            .edge
            .request(shake.method, &target, shake.headers, shake.body.as_bytes())
            .await;
        is_answered(shake, &answer);
        providers_seen.insert(shake.provider);
    }

    assert_eq!(
        application.log.begun(),
        0,
        "the application knows nothing of it"
    );

    let unsigned =
        |row: &&providers::Provider| row.challenges.iter().any(|c| !c.signed && c.pair.is_none());
    let all: std::collections::BTreeSet<_> = providers::all()
        .iter()
        .filter(unsigned)
        .map(|row| row.id.as_str())
        .collect();
    assert_eq!(providers_seen, all, "every row that has one");
}

#[tokio::test]
async fn signed_challenges_are_answered_only_with_a_valid_signature() {
    let application = Application::start(|_| Reply::ok("")).await;
    let sha256 = |text: &str| hmac(KEY.as_bytes(), text);
    let hex = |bytes: Vec<u8>| data_encoding::HEXLOWER.encode(&bytes);
    let base64 = |bytes: Vec<u8>| data_encoding::BASE64.encode(&bytes);
    let slack = r#"{"type":"url_verification","challenge":"3eZbrw1aBm2rZgRNFdxV"}"#;
    let zoom =
        r#"{"event":"endpoint.url_validation","payload":{"plainToken":"qgg8vlvZRS6UYooatFL8Aw"}}"#;
    let twitch = r#"{"challenge":"pogchamp-kappa-360noscope"}"#;
    let xero = r#"{"events":[],"firstEventSequence": 0,"lastEventSequence": 0}"#;

    let front = "{}";

    /// Provider, method, headers, body, and the body of the response.
    type Signed<'a> = (&'a str, &'a str, Vec<(&'a str, String)>, &'a str, String);

    let cases: Vec<Signed<'_>> = vec![
        (
            "slack",
            "POST",
            vec![
                ("X-Slack-Request-Timestamp", NOW.to_string()),
                (
                    "X-Slack-Signature",
                    format!("v0={}", hex(sha256(&format!("v0:{NOW}:{slack}")))),
                ),
            ],
            slack,
            "3eZbrw1aBm2rZgRNFdxV".to_owned(),
        ),
        (
            "zoom",
            "POST",
            vec![
                ("x-zm-request-timestamp", NOW.to_string()),
                (
                    "x-zm-signature",
                    format!("v0={}", hex(sha256(&format!("v0:{NOW}:{zoom}")))),
                ),
            ],
            zoom,
            format!(
                r#"{{"plainToken":"qgg8vlvZRS6UYooatFL8Aw","encryptedToken":"{}"}}"#,
                hex(sha256("qgg8vlvZRS6UYooatFL8Aw"))
            ),
        ),
        (
            "twitch",
            "POST",
            vec![
                ("Twitch-Eventsub-Message-Id", "m1".to_owned()),
                (
                    "Twitch-Eventsub-Message-Timestamp",
                    "2023-11-14T22:13:20Z".to_owned(),
                ),
                (
                    "Twitch-Eventsub-Message-Type",
                    "webhook_callback_verification".to_owned(),
                ),
                (
                    "Twitch-Eventsub-Message-Signature",
                    format!(
                        "sha256={}",
                        hex(sha256(&format!("m12023-11-14T22:13:20Z{twitch}")))
                    ),
                ),
            ],
            twitch,
            "pogchamp-kappa-360noscope".to_owned(),
        ),
        (
            "xero",
            "POST",
            vec![("x-xero-signature", base64(sha256(xero)))],
            xero,
            String::new(),
        ),
        (
            "front",
            "POST",
            vec![
                ("X-Front-Challenge", "c1".to_owned()),
                ("X-Front-Request-Timestamp", format!("{NOW}000")),
                (
                    "X-Front-Signature",
                    base64(sha256(&format!("{NOW}000:{front}"))),
                ),
            ],
            front,
            "c1".to_owned(),
        ),
        (
            "adobe_sign",
            "GET",
            vec![("X-AdobeSign-ClientId", CLIENT.to_owned())],
            "",
            String::new(),
        ),
    ];

    for (provider, method, headers, body, expected) in cases {
        for at_agent in [false, true] {
            let mut policy = answering(provider, "");
            if at_agent {
                policy.routes[0].accept[0].verify[0].secret_at = SecretAt::Agent;
            }

            let stage = Stage::start(
                application.address,
                Plan {
                    policy,
                    clock: clock_at(NOW),
                    ..Plan::default()
                },
            )
            .await;

            let pairs: Vec<_> = headers
                .iter()
                .map(|(name, value)| (*name, value.as_str()))
                .collect();
            let answer = stage
                .edge
                .request(method, PREFIX, &pairs, body.as_bytes())
                .await;
            assert_eq!(
                (answer.status, answer.text()),
                (200, expected.clone()),
                "{provider}, secret at the agent: {at_agent}"
            );

            if at_agent {
                let told = |report: &Event| matches!(report, Event::Request(request) if matches!(request.outcome, RequestResult::Challenge { status: 200 }));
                stage.reported("the agent has answered", told).await;
            }

            // The same without a valid signature.
            let forged: Vec<_> = pairs
                .iter()
                .map(|(name, value)| (*name, value.replace(CLIENT, "x").replace('=', "=0")))
                .collect();
            let forged: Vec<_> = forged
                .iter()
                .map(|(name, value)| (*name, value.as_str()))
                .collect();

            let answer = stage
                .edge
                .request(method, PREFIX, &forged, body.as_bytes())
                .await;
            let spoiled = stage
                .edge
                .request(method, PREFIX, &pairs, format!("{body} ").as_bytes())
                .await;

            assert!(
                [401, 403].contains(&answer.status),
                "{provider}: {}",
                answer.status
            );

            assert!(
                [401, 403].contains(&spoiled.status) || provider == "adobe_sign",
                "{provider}: {}",
                spoiled.status
            );
        }
    }

    assert_eq!(
        application.log.begun(),
        0,
        "the application knows nothing of it"
    );
}

#[tokio::test]
async fn discord_is_answered_by_its_public_key() {
    let vectors =
        std::fs::read_to_string(hookward_tests::corpus::fixture("vectors/handshakes.json"))
            .unwrap();
    let vectors: serde_json::Value = serde_json::from_str(&vectors).unwrap();
    let application = Application::start(|_| Reply::ok("")).await;

    for vector in vectors.as_array().unwrap() {
        let dir = tempfile::TempDir::new().unwrap();
        std::fs::write(dir.path().join("key"), vector["secret"].as_str().unwrap()).unwrap();
        let policy = policy(&format!(
            "[[route]]\npath = '{PREFIX}/**'\n[[route.accept]]\n\
             verify = {{ provider = 'discord', secret = 'file:{}/key', challenge = true }}",
            dir.path().display()
        ));

        let stage = Stage::start(
            application.address,
            Plan {
                policy,
                clock: clock_at(NOW),
                ..Plan::default()
            },
        )
        .await;

        let headers: Vec<_> = vector["headers"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(n, v)| (n.as_str(), v.as_str().unwrap()))
            .collect();

        let answer = stage
            .edge
            .post(
                PREFIX,
                &headers,
                vector["body"].as_str().unwrap().as_bytes(),
            )
            .await;
        assert_eq!(
            (u64::from(answer.status), answer.text().as_str()),
            (
                vector["status"].as_u64().unwrap(),
                vector["answer"].as_str().unwrap()
            )
        );
    }

    assert_eq!(application.log.begun(), 0);
}

/// A challenge that would sign an event with the key of events, or reflect markup, gets no
/// response.
#[tokio::test]
async fn nothing_is_signed_or_reflected_that_no_provider_sends() {
    let application = Application::start(|_| Reply::ok("")).await;
    let long = "a".repeat(600);

    for (provider, query) in [
        (
            "x_twitter",
            "crc_token=%7B%22for_user_id%22%3A1%7D".to_owned(),
        ),
        ("x_twitter", "crc_token=a&crc_token=b".to_owned()),
        ("x_twitter", format!("crc_token={long}")),
        ("x_twitter", "crc_token=".to_owned()),
        (
            "linkedin",
            "challengeCode=v0%3A1700000000%3A%7B%7D".to_owned(),
        ),
        (
            "braintree",
            "bt_challenge=PD94bWwgdmVyc2lvbj0iMS4wIj8".to_owned(),
        ),
        ("dropbox", "challenge=%3Cscript%3E".to_owned()),
        ("dropbox", format!("challenge={long}")),
        (
            "meta",
            "hub.mode=subscribe&hub.verify_token=wrong&hub.challenge=1".to_owned(),
        ),
        ("meta", "hub.mode=subscribe&hub.challenge=1".to_owned()),
        (
            "meta",
            "hub.mode=subscribe&hub.verify_token=v3rify&hub.challenge=%3Cb%3E".to_owned(),
        ),
        (
            "websub",
            "hub.topic=https%3A%2F%2Fevil.example%2F&hub.challenge=abc".to_owned(),
        ),
        ("fitbit", "verify=wrong".to_owned()),
    ] {
        let plan = Plan {
            policy: answering(provider, ""),
            clock: clock_at(NOW),
            ..Plan::default()
        };
        let stage = Stage::start(application.address, plan).await;
        let answer = stage.edge.get(&format!("{PREFIX}?{query}")).await;
        assert!(
            (400..500).contains(&answer.status),
            "{provider} {query}: {} {}",
            answer.status,
            answer.text()
        );

        assert_eq!(answer.code(), Some("refused"), "{provider} {query}");
    }

    assert_eq!(application.log.begun(), 0);
}

/// The gate refuses as an event what a challenge has signed, because it would be a forged webhook.
#[tokio::test]
async fn what_a_challenge_signs_is_no_event() {
    let application = Application::start(|_| Reply::ok("")).await;
    let plan = Plan {
        policy: answering("x_twitter", ""),
        clock: clock_at(NOW),
        ..Plan::default()
    };
    let stage = Stage::start(application.address, plan).await;

    for text in ["true", "17", "null", "abc"] {
        let answer = stage.edge.get(&format!("{PREFIX}?crc_token={text}")).await;
        let said: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        let signature = said["response_token"].as_str().unwrap();
        let headers = [("x-twitter-webhooks-signature", signature)];
        assert_eq!(
            stage
                .edge
                .post(PREFIX, &headers, text.as_bytes())
                .await
                .status,
            403,
            "{text}"
        );
    }

    let plan = Plan {
        policy: answering("braintree", ""),
        clock: clock_at(NOW),
        ..Plan::default()
    };
    let stage = Stage::start(application.address, plan).await;
    let challenge = "0123456789abcdef0123456789abcdef";

    let signature = stage
        .edge
        .get(&format!("{PREFIX}?bt_challenge={challenge}"))
        .await
        .text();
    let form = format!(
        "bt_signature={}&bt_payload={challenge}",
        signature.replace('|', "%7C")
    );
    let headers = [("Content-Type", "application/x-www-form-urlencoded")];
    assert_eq!(
        stage
            .edge
            .post(PREFIX, &headers, form.as_bytes())
            .await
            .status,
        403
    );

    assert_eq!(application.log.begun(), 0);
}

/// An event of X, signed.
fn event_of_x(body: &str) -> [(&'static str, String); 1] {
    let signature = data_encoding::BASE64.encode(&hmac(KEY.as_bytes(), body));
    [(
        "x-twitter-webhooks-signature",
        format!("sha256={signature}"),
    )]
}

/// Challenges, which anyone can send, use up nothing of the events' rate.
#[tokio::test]
async fn unsigned_challenges_use_up_no_rate() {
    let application = Application::start(|_| Reply::ok("")).await;
    let mut policy = answering("x_twitter", "");
    policy.rate = Some(hookward_core::rate::Rate::parse("2/m").unwrap());

    let stage = Stage::start(
        application.address,
        Plan {
            policy,
            clock: clock_at(NOW),
            ..Plan::default()
        },
    )
    .await;

    let mut statuses = std::collections::BTreeSet::new();
    for n in 0..25 {
        statuses.insert(
            stage
                .edge
                .get(&format!("{PREFIX}?crc_token=a{n}"))
                .await
                .status,
        );
    }

    assert!(
        statuses.contains(&200) && statuses.iter().all(|status| [200, 429].contains(status)),
        "{statuses:?}"
    );

    let body = r#"{"for_user_id":"1"}"#;
    let [(name, value)] = event_of_x(body);
    assert_eq!(
        stage
            .edge
            .post(PREFIX, &[(name, &value)], body.as_bytes())
            .await
            .status,
        200
    );
}

/// A challenge passes every check without a signature before it is answered.
#[tokio::test]
async fn headers_and_content_types_hold_for_challenges() {
    let application = Application::start(|_| Reply::ok("")).await;
    let gated = answering("x_twitter", "headers = { X-Gate = 'open' }");
    let stage = Stage::start(
        application.address,
        Plan {
            policy: gated,
            clock: clock_at(NOW),
            ..Plan::default()
        },
    )
    .await;

    let target = format!("{PREFIX}?crc_token=abc");
    assert_eq!(stage.edge.get(&target).await.status, 403);
    assert_eq!(
        stage
            .edge
            .request("GET", &target, &[("X-Gate", "open")], b"")
            .await
            .status,
        200
    );

    let typed = answering("lark", "content_type = 'application/json'");
    let stage = Stage::start(
        application.address,
        Plan {
            policy: typed,
            clock: clock_at(NOW),
            ..Plan::default()
        },
    )
    .await;

    let body = br#"{"type":"url_verification","challenge":"abc"}"#;
    let text = [("Content-Type", "text/plain")];
    assert_eq!(stage.edge.post(PREFIX, &text, body).await.status, 403);

    let json = [("Content-Type", "application/json")];
    assert_eq!(stage.edge.post(PREFIX, &json, body).await.status, 200);
    assert_eq!(application.log.begun(), 0);
}

/// The refusal of an unanswered challenge names it as one, with the difference.
#[tokio::test]
async fn an_unanswered_challenge_gives_the_reason() {
    let application = Application::start(|_| Reply::ok("")).await;
    let mut silent = answering("meta", "");
    silent.routes[0].accept[0].verify[0].challenge = false;

    let query = "hub.mode=subscribe&hub.challenge=1&hub.verify_token";
    for (policy, query, why) in [
        (
            answering("meta", ""),
            format!("{query}=wrong"),
            "query:hub.verify_token is not the part verify_token",
        ),
        (silent, format!("{query}=v3rify"), "--challenge"),
    ] {
        let stage = Stage::start(
            application.address,
            Plan {
                policy,
                clock: clock_at(NOW),
                ..Plan::default()
            },
        )
        .await;
        assert_eq!(
            stage.edge.get(&format!("{PREFIX}?{query}")).await.status,
            403
        );

        let named = |report: &Event| matches!(report, Event::Refused(refused) if refused.reason.contains(why));
        stage.reported(why, named).await;
    }
}

/// Bitbucket Data Center tests a connection with exactly this event and body, also without
/// `challenge`.
#[tokio::test]
async fn the_connection_test_of_bitbucket_is_answered_and_nothing_like_it() {
    let application = Application::start(|_| Reply::ok("")).await;
    let mut policy = answering("bitbucket_server", "");
    policy.routes[0].accept[0].verify[0].challenge = false;

    let stage = Stage::start(
        application.address,
        Plan {
            policy,
            ..Plan::default()
        },
    )
    .await;

    let send = async |event: &str, body: &str| {
        let headers = [("X-Event-Key", event), ("Content-Type", "application/json")];
        stage
            .edge
            .post(PREFIX, &headers, body.as_bytes())
            .await
            .status
    };
    assert_eq!(send("diagnostics:ping", r#"{"test":true}"#).await, 200);

    assert_eq!(
        send("diagnostics:ping", r#"{"test":true,"x":1}"#).await,
        403
    );
    assert_eq!(send("repo:refs_changed", r#"{"test":true}"#).await, 403);
    assert_eq!(application.log.begun(), 0, "it is never forwarded");
}

/// A challenge replaces only the signature; without `challenge` it is an ordinary request.
#[tokio::test]
async fn address_path_and_token_come_first() {
    let application = Application::start(|_| Reply::ok("")).await;
    let query = "challenge=abc123";
    let stage = Stage::start(
        application.address,
        Plan {
            policy: answering("dropbox", "token = 'file:DIR/token'"),
            ..Plan::default()
        },
    )
    .await;
    assert_eq!(
        stage.edge.get(&format!("{PREFIX}?{query}")).await.status,
        403
    );

    assert_eq!(
        stage
            .edge
            .get(&format!("{PREFIX}?{query}&token=t0ken"))
            .await
            .text(),
        "abc123"
    );

    assert_eq!(
        stage
            .edge
            .get(&format!("/other?{query}&token=t0ken"))
            .await
            .status,
        404
    );

    let denied = answering("dropbox", "allow_ips = '192.0.2.0/24'");
    let stage = Stage::start(
        application.address,
        Plan {
            policy: denied,
            ..Plan::default()
        },
    )
    .await;
    assert_eq!(
        stage.edge.get(&format!("{PREFIX}?{query}")).await.status,
        403
    );

    let mut silent = answering("dropbox", "");
    silent.routes[0].accept[0].verify[0].challenge = false;
    let stage = Stage::start(
        application.address,
        Plan {
            policy: silent,
            ..Plan::default()
        },
    )
    .await;
    assert_eq!(
        stage.edge.get(&format!("{PREFIX}?{query}")).await.status,
        403
    );

    assert_eq!(application.log.begun(), 0);
}

/// A secret from a provider is accepted only while pairing, and only there.
#[tokio::test]
async fn pairing() {
    let application = Application::start(|_| Reply::ok("")).await;
    let dir = tempfile::TempDir::new().unwrap();

    for (provider, headers, body, secret) in [
        (
            "asana",
            &[("X-Hook-Secret", "b537207f20cbfa02357cf448134da559")][..],
            "",
            "b537207f20cbfa02357cf448134da559",
        ),
        (
            "notion",
            &[],
            r#"{"verification_token":"secret_tMrlL1qK5vuQAh1b6cZGhFChZTSYJlce98V0pYn7yBl"}"#,
            "secret_tMrlL1qK5vuQAh1b6cZGhFChZTSYJlce98V0pYn7yBl",
        ),
    ] {
        let mut route = Route::new("pair", vec![format!("{PREFIX}/**")]);
        let verify = SignatureCheck {
            secret_at: SecretAt::Agent,
            pair: true,
            ..SignatureCheck::by(provider)
        };

        route.accept.push(Accept {
            verify: vec![verify],
            ..Accept::default()
        });

        let policy = Policy::new(vec![route]);
        let file = dir.path().join(provider);
        let plan = Plan {
            policy: policy.clone(),
            pairing: Some(file.clone()),
            ..Plan::default()
        };
        let stage = Stage::start(application.address, plan).await;
        let answer = stage.edge.post(PREFIX, headers, body.as_bytes()).await;
        assert_eq!(answer.status, 200, "{provider}");

        assert_eq!(
            answer.header("x-hook-secret"),
            headers.first().map(|(_, value)| *value),
            "{provider}: echoed"
        );

        assert_eq!(
            std::fs::read_to_string(&file).unwrap(),
            secret,
            "{provider}"
        );
        assert!(
            !answer.text().contains(secret),
            "{provider}: Notion's is not echoed"
        );

        assert_eq!(
            stage.edge.post(PREFIX, &[], b"{}").await.status,
            403,
            "{provider}: nothing else passes"
        );

        // Without pairing it is an unsigned request.
        let stage = Stage::start(
            application.address,
            Plan {
                policy: answering(provider, "").without_challenge(),
                ..Plan::default()
            },
        )
        .await;
        assert_eq!(
            stage
                .edge
                .post(PREFIX, headers, body.as_bytes())
                .await
                .status,
            403,
            "{provider}"
        );

        let stage = Stage::start(
            application.address,
            Plan {
                policy: answering(provider, ""),
                ..Plan::default()
            },
        )
        .await;
        assert_eq!(
            stage
                .edge
                .post(PREFIX, headers, body.as_bytes())
                .await
                .status,
            403,
            "{provider}: not by challenge"
        );
    }

    assert_eq!(application.log.begun(), 0);
}

trait WithoutChallenge {
    fn without_challenge(self) -> Self;
}

impl WithoutChallenge for Policy {
    fn without_challenge(mut self) -> Self {
        self.routes[0].accept[0].verify[0].challenge = false;
        self
    }
}
