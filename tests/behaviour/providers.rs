//! Providers in the forms in which they really send, each signed by its own description.

use data_encoding::{BASE64, HEXLOWER};
use hmac::{Hmac, KeyInit, Mac};
use hookward_core::json::JsonPath;
use hookward_gate::policy::BodyRule;
use hookward_tests::application::{Application, Input, Reply};
use hookward_tests::sender::github_signature;
use hookward_tests::stage::{HOST, PREFIX, Plan, Stage, clock_at, policy, signed_policy};
use tokio::io::AsyncWriteExt;

const NOW: u64 = 1_700_000_000;
const FORM: (&str, &str) = ("Content-Type", "application/x-www-form-urlencoded");

fn sha256(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(key).unwrap();
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

async fn signed_stage(application: &Application, provider: &str, secret: &[u8]) -> Stage {
    let plan = Plan {
        policy: signed_policy(provider, secret, ""),
        clock: clock_at(NOW),
        ..Plan::default()
    };
    Stage::start(application.address, plan).await
}

/// Some senders use the secret `whsec_…` as text, and others decode it.
#[tokio::test]
async fn polar_with_either_reading_of_its_secret() {
    let application = Application::start(|_| Reply::ok("")).await;
    let secret = b"whsec_c2VjcmV0IG9mIHRoZSB0ZXN0";
    let stage = signed_stage(&application, "polar", secret).await;

    for (key, status) in [
        (&secret[..], 200),
        (b"secret of the test", 200),
        (b"another", 403),
    ] {
        let signature = format!(
            "v1,{}",
            BASE64.encode(&sha256(key, &format!("msg_1.{NOW}.{{}}")))
        );
        let headers = [
            ("webhook-id", "msg_1"),
            ("webhook-timestamp", &NOW.to_string()),
            ("webhook-signature", &signature),
        ];
        assert_eq!(
            stage.edge.post(PREFIX, &headers, b"{}").await.status,
            status
        );
    }
}

/// Gitea's relatives sign the field `payload` of a form, and not the form.
#[tokio::test]
async fn gogs_and_forgejo_in_their_forms() {
    let application = Application::start(|_| Reply::ok("")).await;
    for (provider, header) in [
        ("gogs", "X-Gogs-Signature"),
        ("forgejo", "X-Forgejo-Signature"),
        ("gitea", "X-Gitea-Signature"),
    ] {
        let stage = signed_stage(&application, provider, b"secret").await;
        let json = r#"{"ref":"refs/heads/main"}"#;
        let form = "payload=%7B%22ref%22%3A%22refs%2Fheads%2Fmain%22%7D";
        let signature = HEXLOWER.encode(&sha256(b"secret", json));
        let headers = [(header, signature.as_str()), FORM];
        assert_eq!(
            stage
                .edge
                .post(PREFIX, &headers, form.as_bytes())
                .await
                .status,
            200,
            "{provider}"
        );

        let as_json = [
            (header, signature.as_str()),
            ("Content-Type", "application/json"),
        ];
        assert_eq!(
            stage
                .edge
                .post(PREFIX, &as_json, json.as_bytes())
                .await
                .status,
            200,
            "{provider}"
        );

        // Names that PHP and others read as the signed one.
        for twin in [
            "+payload=evil",
            "payload%5B%5D=evil",
            "payload%00x=evil",
            "payload.=evil",
            "payload=evil",
        ] {
            let both = format!("{form}&{twin}");
            let status = stage
                .edge
                .post(PREFIX, &headers, both.as_bytes())
                .await
                .status;
            assert!(matches!(status, 400 | 403), "{provider} {twin}: {status}");
        }
    }
}

/// A rule for the body reads the JSON that GitHub sends in a form.
#[tokio::test]
async fn rules_about_the_body_read_githubs_form() {
    let application = Application::start(|_| Reply::ok("")).await;
    let more = " }\nbody = { ref = 'refs/heads/main' }\n#";
    let stage = {
        let policy = signed_policy("github", b"secret", more);
        Stage::start(
            application.address,
            Plan {
                policy,
                ..Plan::default()
            },
        )
        .await
    };

    for (branch, status) in [("main", 200), ("dev", 403)] {
        let form = format!("payload=%7B%22ref%22%3A%22refs%2Fheads%2F{branch}%22%7D");
        let signature = github_signature("secret", form.as_bytes());
        let headers = [("X-Hub-Signature-256", signature.as_str()), FORM];
        assert_eq!(
            stage
                .edge
                .post(PREFIX, &headers, form.as_bytes())
                .await
                .status,
            status,
            "{branch}"
        );
    }

    // A name that some readers treat as another spelling of the checked one.
    let body = "{\"ref\":\"refs/heads/main\",\"re\u{17f}\":1,\"\u{131}d\":1}";
    let signature = github_signature("secret", body.as_bytes());
    let headers = [
        ("X-Hub-Signature-256", signature.as_str()),
        ("Content-Type", "application/json"),
    ];
    assert_eq!(
        stage
            .edge
            .post(PREFIX, &headers, body.as_bytes())
            .await
            .status,
        200,
        "twins of other names are no matter"
    );
}

/// By the case rules of Java's maps, `ıd` equals `id`.
#[tokio::test]
async fn names_that_fold_into_a_checked_one_are_refused() {
    let application = Application::start(|_| Reply::ok("")).await;
    let text = format!("[[route]]\npath = '{PREFIX}/**'\n[[route.accept]]\nopen = true\n");
    let mut ruled = policy(&text);
    ruled.routes[0].accept[0].body.push(BodyRule {
        path: JsonPath::parse("id").unwrap(),
        allowed: vec!["good".to_owned()],
    });

    let stage = Stage::start(
        application.address,
        Plan {
            policy: ruled,
            ..Plan::default()
        },
    )
    .await;
    let json = [("Content-Type", "application/json")];
    assert_eq!(
        stage
            .edge
            .post(PREFIX, &json, br#"{"id":"good"}"#)
            .await
            .status,
        200
    );

    for twin in ["\u{131}d", "\u{130}d", "ID", "Id"] {
        let body = format!("{{\"id\":\"good\",\"{twin}\":\"evil\"}}");
        assert_eq!(
            stage.edge.post(PREFIX, &json, body.as_bytes()).await.status,
            403,
            "{twin}"
        );
    }
}

/// Adyen joins eight fields by colons; only the shop's own reference may contain one
/// (`hmacValidator.js`).
#[tokio::test]
async fn adyen_with_a_colon_in_the_shops_reference() {
    let application = Application::start(|_| Reply::ok("")).await;
    let stage = signed_stage(&application, "adyen_payments", b"736563726574").await;
    let body = |reference: &str, account: &str, signature: &str| {
        serde_json::json!({ "notificationItems": [{ "NotificationRequestItem": {
            "pspReference": "psp", "merchantAccountCode": account, "merchantReference": reference,
            "amount": { "value": 1000, "currency": "EUR" }, "eventCode": "AUTHORISATION", "success": "true",
            "additionalData": { "hmacSignature": signature },
        } }] })
        .to_string()
    };

    let json = [("Content-Type", "application/json")];
    let signature = BASE64.encode(&sha256(
        b"secret",
        "psp::shop:order:1:1000:EUR:AUTHORISATION:true",
    ));
    let whole = body("order:1", "shop", &signature);
    assert_eq!(
        stage
            .edge
            .post(PREFIX, &json, whole.as_bytes())
            .await
            .status,
        200
    );

    // The same text split elsewhere is another payment.
    let cut = body("1", "shop:order", &signature);
    assert_eq!(
        stage.edge.post(PREFIX, &json, cut.as_bytes()).await.status,
        403
    );
}

/// Twilio signs the URL of a WebSocket (twilio.com/docs/usage/security).
#[tokio::test]
async fn twilio_opens_websockets() {
    let application = Application::raw(|stream| async move {
        let mut input = Input::new(stream);
        let Some(request) = input.head().await else {
            return;
        };
        assert_eq!(request.header("upgrade"), Some("websocket"));

        let accept =
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
        input.stream().write_all(accept.as_bytes()).await.unwrap();

        while let Some(piece) = input.exactly(4).await {
            input.stream().write_all(&piece).await.unwrap();
        }
    })
    .await;

    let mut signed = signed_policy("twilio", b"a token of an account", "");
    signed.routes[0].websocket = true;
    let stage = Stage::start(
        application.address,
        Plan {
            policy: signed,
            ..Plan::default()
        },
    )
    .await;
    let port = stage.edge.address.port();

    let sign = |url: &str| {
        let mut mac = Hmac::<sha1::Sha1>::new_from_slice(b"a token of an account").unwrap();
        mac.update(url.as_bytes());
        BASE64.encode(&mac.finalize().into_bytes())
    };

    for (signature, status) in [
        (sign(&format!("https://{HOST}:{port}{PREFIX}")), 101),
        (sign("https://elsewhere"), 403),
    ] {
        let headers = [
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("X-Twilio-Signature", &signature),
        ];
        let mut connection = stage.edge.http1().await;
        connection.send("GET", PREFIX, HOST, &headers, b"").await;

        assert_eq!(connection.answer("GET").await.status, status);
        if status == 101 {
            connection.raw(b"ping").await;
            assert_eq!(connection.exactly(4).await, b"ping");
        }
    }
}

/// QuickNode signs nonce, time and body side by side: no digit can move across either border.
#[tokio::test]
async fn quicknodes_values_stay_where_they_are() {
    let application = Application::start(|_| Reply::ok("")).await;
    let stage = signed_stage(&application, "quicknode", b"a secret of some length").await;
    let signature = HEXLOWER.encode(&sha256(
        b"a secret of some length",
        "9f3ac71700000000{\"amount\":1}",
    ));

    for (nonce, at, body, status) in [
        ("9f3ac7", "1700000000", "{\"amount\":1}", 200),
        ("9f3ac", "7170000000", "0{\"amount\":1}", 403),
        ("9f3ac717", "00000000{", "\"amount\":1}", 403),
    ] {
        let headers = [
            ("X-QN-Nonce", nonce),
            ("X-QN-Timestamp", at),
            ("X-QN-Signature", &signature),
        ];
        assert_eq!(
            stage
                .edge
                .post(PREFIX, &headers, body.as_bytes())
                .await
                .status,
            status,
            "{nonce} {at} {body}"
        );
    }
}

/// Two adjacent tokens leave no trace in the target.
#[tokio::test]
async fn two_tokens_in_the_query_leave_no_question_mark() {
    let application = Application::start(|_| Reply::ok("")).await;
    let dir = tempfile::TempDir::new().unwrap();

    for name in ["one", "two"] {
        std::fs::write(dir.path().join(name), name).unwrap();
    }

    let accept = |name: &str| {
        format!(
            "[[route.accept]]\ntoken = {{ at = '{name}', secret = 'file:{}/{name}' }}\n",
            dir.path().display()
        )
    };

    let text = format!(
        "[[route]]\npath = '{PREFIX}/**'\n{}{}",
        accept("one"),
        accept("two")
    );

    let stage = Stage::start(
        application.address,
        Plan {
            policy: policy(&text),
            ..Plan::default()
        },
    )
    .await;

    for (query, left) in [
        ("?one=one&two=two", ""),
        ("?two=two&one=one", ""),
        ("?a=1&one=one&two=two", "?a=1"),
        ("?one=one&a=1&two=two", "?a=1"),
        ("?one=one&two=two&a=?", "?a=?"),
    ] {
        assert_eq!(
            stage
                .edge
                .post(&format!("{PREFIX}{query}"), &[], b"{}")
                .await
                .status,
            200,
            "{query}"
        );

        assert_eq!(
            application.log.take()[0].target,
            format!("{PREFIX}{left}"),
            "{query}"
        );
    }
}
