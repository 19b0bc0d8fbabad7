//! Senders and their mistakes: the edge's response to each, and its report to the tunnel's owner.

use std::time::{Duration, Instant};

use hookward_agent::UpstreamArgs;
use hookward_agent::events::Event;
use hookward_core::limits::Limits;
use hookward_gate::policy::HeaderRule;
use hookward_tests::application::{Application, Reply};
use hookward_tests::sender::github_signature;
use hookward_tests::stage::{HOST, PREFIX, Plan, Stage, open_policy, policy};
use hookward_tests::wait::{eventually, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn open_stage() -> (Application, Stage) {
    let application = Application::start(|_| Reply::ok("")).await;
    let stage = Stage::start(application.address, Plan::default()).await;
    (application, stage)
}

/// Waits until the owner gets a refusal with this text.
async fn told(stage: &Stage, text: &str) {
    let told =
        |report: &Event| matches!(report, Event::Refused(refused) if refused.reason.contains(text));
    stage.reported(text, told).await;
}

#[tokio::test]
async fn an_empty_expect_asks_for_nothing() {
    let (application, stage) = open_stage().await;
    assert_eq!(
        stage
            .edge
            .post(PREFIX, &[("Expect", "")], b"x")
            .await
            .status,
        200
    );

    assert_eq!(
        stage
            .edge
            .post(PREFIX, &[("Expect", "more")], b"x")
            .await
            .status,
        417
    );

    let mut client = stage.edge.http2().await.ready().await.unwrap();
    let request = http::Request::post(format!("https://{HOST}{PREFIX}"))
        .header("expect", "")
        .body(())
        .unwrap();
    let (answer, _) = client.send_request(request, true).unwrap();
    assert_eq!(within("an answer", answer).await.unwrap().status(), 200);
    assert_eq!(application.log.take().len(), 2);
}

/// RFC 9110 §8.6: a method that defines a meaning for a body has a length, even 0.
#[tokio::test]
async fn a_post_without_a_body_has_the_length_0() {
    let (application, stage) = open_stage().await;
    for method in ["POST", "PUT", "PATCH", "DELETE", "GET"] {
        let mut client = stage.edge.http2().await.ready().await.unwrap();
        let request = http::Request::builder()
            .method(method)
            .uri(format!("https://{HOST}{PREFIX}"))
            .body(())
            .unwrap();
        let (answer, _) = client.send_request(request, true).unwrap();
        assert_eq!(within("an answer", answer).await.unwrap().status(), 200);

        let received = application.log.take().remove(0);
        let expected = matches!(method, "POST" | "PUT" | "PATCH").then_some("0");
        assert_eq!(received.header("content-length"), expected, "{method}");
    }
}

#[tokio::test]
async fn the_application_gets_the_public_host_with_its_port() {
    for rewrite in [false, true] {
        let application = Application::start(|_| Reply::ok("")).await;
        let upstream_host = if rewrite { "rewrite" } else { "preserve" }.to_owned();
        let args = UpstreamArgs {
            upstream_ca: None,
            upstream_insecure: false,
            upstream_http2: false,
            upstream_host,
        };
        let upstream = hookward_agent::application(&application.address.to_string(), &args)
            .unwrap_or_else(|_| panic!("flags"));

        let stage = Stage::start(
            application.address,
            Plan {
                upstream: Some(upstream),
                ..Plan::default()
            },
        )
        .await;
        let port = stage.edge.address.port();
        for (host, port) in [
            (HOST.to_owned(), "443".to_owned()),
            (format!("{HOST}:{port}"), port.to_string()),
        ] {
            let mut connection = stage.edge.http1().await;
            let forged = [
                ("X-Forwarded-Host", "evil.example"),
                ("X-Forwarded-Port", "1"),
            ];
            connection.send("POST", PREFIX, &host, &forged, b"{}").await;
            assert_eq!(connection.answer("POST").await.status, 200);

            let received = application.log.take().remove(0);
            assert_eq!(received.all("x-forwarded-host"), [host.as_str()]);
            assert_eq!(received.all("x-forwarded-port"), [port.as_str()]);
            assert_eq!(received.all("x-forwarded-proto"), ["https"]);

            let application = application.address.to_string();
            assert_eq!(
                received.all("host"),
                [if rewrite {
                    application.as_str()
                } else {
                    host.as_str()
                }]
            );
        }
    }
}

#[tokio::test]
async fn a_port_that_is_not_public_is_named_to_the_owner() {
    let (_application, stage) = open_stage().await;
    let mut connection = stage.edge.http1().await;
    connection
        .send("POST", PREFIX, &format!("{HOST}:9443"), &[], b"{}")
        .await;
    assert_eq!(connection.answer("POST").await.status, 400);
    told(&stage, "--public-port 9443").await;
}

/// A response may have as many fields as a request, and an oversized head is named.
#[tokio::test]
async fn a_response_may_have_as_many_fields_as_a_request() {
    let application = Application::start(|request| {
        let count: usize = request.header("x-count").unwrap().parse().unwrap();
        let fields = (0..count).map(|n| ("X-Field", n.to_string())).collect();
        Reply::Full(200, fields, Vec::new())
    })
    .await;
    let stage = Stage::start(application.address, Plan::default()).await;
    let answer = stage.edge.post(PREFIX, &[("X-Count", "121")], b"{}").await;
    assert_eq!(answer.status, 200);

    assert_eq!(
        answer
            .headers
            .iter()
            .filter(|(name, _)| name.eq_ignore_ascii_case("x-field"))
            .count(),
        121
    );

    assert_eq!(
        stage
            .edge
            .post(PREFIX, &[("X-Count", "200")], b"{}")
            .await
            .status,
        502
    );

    let named = |report: &Event| format!("{report:?}").contains("128 fields");
    stage.reported("what is too large", named).await;
}

#[tokio::test]
async fn a_target_with_a_fragment_is_refused_and_not_cut() {
    let (application, stage) = open_stage().await;
    for target in [
        format!("{PREFIX}#/../admin"),
        format!("{PREFIX}?a=1#b"),
        format!("{PREFIX}#"),
    ] {
        assert_eq!(
            stage.edge.post(&target, &[], b"{}").await.status,
            400,
            "{target}"
        );
    }

    assert_eq!(
        stage
            .edge
            .post(&format!("{PREFIX}?a=%23b"), &[], b"{}")
            .await
            .status,
        200
    );

    // After a chunked body, and on a kept connection, too.
    let mut connection = stage.edge.http1().await;
    let chunked = format!(
        "POST {PREFIX} HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n"
    );
    connection.raw(chunked.as_bytes()).await;
    assert_eq!(connection.answer("POST").await.status, 200);
    connection
        .send("POST", &format!("{PREFIX}#x"), HOST, &[], b"{}")
        .await;

    assert_eq!(connection.answer("POST").await.status, 400);
    assert_eq!(application.log.take().len(), 2);
}

#[tokio::test]
async fn a_request_for_http_is_none_over_tls() {
    let (application, stage) = open_stage().await;
    let mut client = stage.edge.http2().await.ready().await.unwrap();
    let request = http::Request::post(format!("http://{HOST}{PREFIX}"))
        .body(())
        .unwrap();
    let (answer, _) = client.send_request(request, true).unwrap();
    assert_eq!(within("an answer", answer).await.unwrap().status(), 400);
    assert_eq!(application.log.begun(), 0);
}

#[tokio::test]
async fn http_on_the_https_port_is_refused_and_reported() {
    let (application, stage) = open_stage().await;
    let mut stream = TcpStream::connect(stage.edge.address).await.unwrap();
    let request = format!(
        "POST {PREFIX}?token=secret HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 2\r\n\r\n{{}}"
    );
    stream.write_all(request.as_bytes()).await.unwrap();

    let mut answer = String::new();
    within("the end", stream.read_to_string(&mut answer))
        .await
        .unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(
        answer.contains("https_only") && answer.contains("Use https"),
        "{answer}"
    );

    told(&stage, "write https:// at the sender").await;
    assert_eq!(application.log.begun(), 0);
    // A connection without data is no request.
    let mut silent = TcpStream::connect(stage.edge.address).await.unwrap();
    silent.write_all(b"GET / HTTP/1.1\r\nHost: ").await.unwrap();

    let mut nothing = Vec::new();
    within("it is cut off", silent.read_to_end(&mut nothing))
        .await
        .unwrap();
}

/// A CGI gateway reads `X-GitHub-Event` and `X_GitHub_Event` as one name, so the second would be
/// unchecked.
#[tokio::test]
async fn a_second_spelling_of_a_checked_field_is_refused() {
    let application = Application::start(|_| Reply::ok("")).await;
    let text = format!("[[route]]\npath = '{PREFIX}/**'\n[[route.accept]]\nopen = true\n");
    let mut ruled = policy(&text);
    ruled.routes[0].accept[0].headers.push(HeaderRule {
        name: http::HeaderName::from_static("x-github-event"),
        allowed: vec!["push".to_owned()],
    });

    let stage = Stage::start(
        application.address,
        Plan {
            policy: ruled,
            ..Plan::default()
        },
    )
    .await;
    let event = ("X-GitHub-Event", "push");
    assert_eq!(stage.edge.post(PREFIX, &[event], b"{}").await.status, 200);

    for twin in ["X_GitHub_Event", "x-github_event"] {
        assert_eq!(
            stage
                .edge
                .post(PREFIX, &[event, (twin, "deployment")], b"{}")
                .await
                .status,
            400,
            "{twin}"
        );
    }

    assert_eq!(application.log.take().len(), 1);
}

#[tokio::test]
async fn claims_of_the_sender_do_not_reach_the_application() {
    let (application, stage) = open_stage().await;
    let claims = [
        "X-Accel-Redirect",
        "X-Sendfile",
        "X-Http-Destinationurl",
        "Base-Url",
        "Destination",
        "X-WebAuth-User",
        "X-Remote-User",
        "X-Envoy-Original-Path",
    ];
    let headers: Vec<_> = claims.iter().map(|name| (*name, "evil")).collect();
    assert_eq!(stage.edge.post(PREFIX, &headers, b"{}").await.status, 200);

    let received = application.log.take().remove(0);
    for claim in claims {
        assert_eq!(received.header(claim), None, "{claim}");
    }

    // With two signatures, the application could look at either.
    let (right, wrong) = (
        github_signature("secret", b"{}"),
        github_signature("other", b"{}"),
    );
    let two = [
        ("X-Hub-Signature-256", right.as_str()),
        ("X-Hub-Signature-256", wrong.as_str()),
    ];
    assert_eq!(stage.edge.post(PREFIX, &two, b"{}").await.status, 400);
}

#[tokio::test]
async fn a_refused_websocket_is_reported_to_the_owner() {
    let (application, stage) = open_stage().await;
    let upgrade = [
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    assert_eq!(
        stage
            .edge
            .request("GET", PREFIX, &upgrade, b"")
            .await
            .status,
        200
    );

    let hint = |report: &Event| matches!(report, Event::Refused(hint) if hint.note && hint.reason.contains("--websocket"));
    stage.reported("the flag", hint).await;
    assert_eq!(application.log.take().len(), 1);
}

/// Jenkins escapes the slashes of branch names.
#[tokio::test]
async fn encoded_slashes_pass_where_the_route_says_so() {
    let application = Application::start(|_| Reply::ok("")).await;
    let target = format!("{PREFIX}/job/release%2F1/build");
    let closed = Stage::start(application.address, Plan::default()).await;
    assert_eq!(closed.edge.post(&target, &[], b"{}").await.status, 400);

    let mut open = open_policy();
    open.routes[0].encoded_slashes = true;
    let stage = Stage::start(
        application.address,
        Plan {
            policy: open,
            ..Plan::default()
        },
    )
    .await;
    assert_eq!(stage.edge.post(&target, &[], b"{}").await.status, 200);

    assert_eq!(application.log.take()[0].target, target, "untouched");
    for bad in [
        "/a%2F..%2Fb",
        "/a%2F/b",
        "/%2F",
        "/a%5Cb",
        "/a%2f%2e%2e%2fb",
        "/a%252Fb",
    ] {
        assert_eq!(
            stage
                .edge
                .post(&format!("{PREFIX}{bad}"), &[], b"{}")
                .await
                .status,
            400,
            "{bad}"
        );
    }
}

/// A wide route with escaped slashes opens no stricter route, whose path an application would see
/// after decoding.
#[tokio::test]
async fn escaped_slashes_lead_to_no_other_route() {
    let application = Application::start(|_| Reply::ok("")).await;
    let text = "[[route]]\npath = '/admin/**'\n[[route.accept]]\nallow_ips = '192.0.2.1'\n\
                [[route]]\npath = '/**'\nencoded_slashes = true\n[[route.accept]]\nopen = true\n";
    let stage = Stage::start(
        application.address,
        Plan {
            policy: policy(text),
            ..Plan::default()
        },
    )
    .await;

    for (target, status) in [
        ("/admin/x", 403),
        ("/admin%2Fx", 400),
        ("/a%2Fdmin", 200),
        ("/job/a%2fb", 200),
    ] {
        assert_eq!(
            stage.edge.post(target, &[], b"{}").await.status,
            status,
            "{target}"
        );
    }
}

/// Characters that some encodings turn into a delimiter, and invisible ones.
#[tokio::test]
async fn lookalikes_of_delimiters_are_refused_and_letters_are_not() {
    let (application, stage) = open_stage().await;
    for bad in [
        "..%e2%88%95admin",
        "..%e2%81%84admin",
        "..%e2%88%96admin",
        "..%e2%a7%b5admin",
        "%e3%80%82%e3%80%82",
        "%ef%bd%a1",
        "a%e2%80%a8b",
        "a%cd%8fb",
        "a%e1%85%9fb",
        "a%e3%85%a4b",
        "..%c2%a0",
        "..%e3%80%80",
        "%e2%80%83x",
    ] {
        assert_eq!(
            stage
                .edge
                .post(&format!("{PREFIX}/{bad}"), &[], b"{}")
                .await
                .status,
            400,
            "{bad}"
        );
    }

    assert_eq!(application.log.begun(), 0);
    for good in ["caf%C3%A9", "%C4%8D", "%E6%97%A5%E6%9C%AC"] {
        assert_eq!(
            stage
                .edge
                .post(&format!("{PREFIX}/{good}"), &[], b"{}")
                .await
                .status,
            200,
            "{good}"
        );
    }
}

/// Refused requests do not keep an unverified connection open.
#[tokio::test]
async fn refused_requests_keep_no_connection_for_ever() {
    let application = Application::start(|_| Reply::ok("")).await;
    let limits = Limits {
        unverified_lifetime: Duration::from_millis(400),
        ..Limits::default()
    };

    let stage = Stage::start(
        application.address,
        Plan {
            limits,
            ..Plan::default()
        },
    )
    .await;
    let since = Instant::now();

    let mut connection = stage.edge.http1().await;
    loop {
        connection.send("GET", "/nowhere", HOST, &[], b"").await;
        let Some(answer) = connection.try_answer("GET").await else {
            break;
        };
        assert_eq!(answer.status, 404);

        if answer.header("connection") == Some("close") {
            break;
        }

        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    assert!(since.elapsed() >= Duration::from_millis(400));
    let mut client = stage.edge.http2().await;
    eventually("over HTTP/2, too", || {
        let request = http::Request::get(format!("https://{HOST}/nowhere"))
            .body(())
            .unwrap();
        client.send_request(request, true).is_err()
    })
    .await;
}

#[tokio::test]
async fn clients_that_send_a_password_only_on_request_pass() {
    let application = Application::start(|_| Reply::ok("")).await;
    let dir = tempfile::TempDir::new().unwrap();
    std::fs::write(dir.path().join("user"), "joe:a password").unwrap();

    let text = format!(
        "[[route]]\npath = '{PREFIX}/**'\n[[route.accept]]\nbasic = 'file:{0}/user'\n[[route.accept]]\nallow_ips = '192.0.2.1'",
        dir.path().display()
    );
    let stage = Stage::start(
        application.address,
        Plan {
            policy: policy(&text),
            ..Plan::default()
        },
    )
    .await;
    let answer = stage.edge.post(PREFIX, &[], b"{}").await;

    assert_eq!(answer.status, 401);
    assert_eq!(
        answer.header("www-authenticate"),
        Some("Basic realm=\"Hookward\", charset=\"UTF-8\"")
    );

    let joe = [("Authorization", "Basic am9lOmEgcGFzc3dvcmQ=")];
    assert_eq!(stage.edge.post(PREFIX, &joe, b"{}").await.status, 200);
}
