//! Ordinary HTTP: what passes arrives as sent, in both directions, and an abort is not an end.

use std::time::Duration;

use bytes::Bytes;
use hookward_agent::events::{Event, RequestResult};
use hookward_core::limits::MIB;
use hookward_tests::application::{Application, Input, Reply};
use hookward_tests::stage::{HOST, PREFIX, Plan, Stage, open_policy};
use hookward_tests::wait::{DEADLINE, eventually, within};
use hookward_tunnel::transport::Transport;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const HOOK: &str = "/flexdeploy/webhooks/v1/git/push";

over_all_transports! {
    names_values_order_and_body_arrive_as_sent
    kept_and_pipelined_connections_carry_many_requests
    answers_without_a_body_keep_their_heads
    chunks_and_announced_trailers_pass_both_ways
    a_sender_that_waits_for_100_gets_it
    bodies_stream_both_ways_without_waiting_for_their_end
    large_bodies_pass_in_both_directions
    http2_carries_bodies_trailers_and_cookies
    many_streams_of_one_http2_connection_are_judged_one_by_one
    a_sender_that_goes_away_is_gone_for_the_application_too
    an_aborted_response_is_never_taken_for_done
    a_silent_application_causes_504
    an_application_that_closes_idle_connections_causes_no_502
    websockets_open_on_routes_that_allow_them
    an_empty_chunked_body_is_a_body
    a_websocket_refusal_of_the_application_reaches_the_sender
    a_long_upload_is_not_a_slow_application
    a_websocket_full_in_one_direction_goes_on_in_the_other
}

async fn stage(
    over: Transport,
    script: impl Fn(&hookward_tests::application::Received) -> Reply + Send + Sync + 'static,
) -> (Application, Stage) {
    let application = Application::start(script).await;
    let stage = Stage::start(application.address, Plan::over(over)).await;
    (application, stage)
}

async fn names_values_order_and_body_arrive_as_sent(over: Transport) {
    let (application, stage) = stage(over, |_| Reply::ok("done")).await;
    let body = br#"{"a": "\u001b" }"#;
    let headers = [
        ("X-GitHub-Event", "push"),
        ("x-REPEATED", "1"),
        ("User-Agent", "GitHub-Hookshot/044aadd"),
        ("X-Repeated", "2, 3"),
        ("Content-Type", "application/json"),
        ("X-Latin", "caf\u{e9}"),
        ("x-repeated", ""),
    ];

    let answer = stage
        .edge
        .post(&format!("{HOOK}?b=%2e%2E&&a=1+1"), &headers, body)
        .await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "done"));

    let received = application.log.take().remove(0);
    assert_eq!(received.target, format!("{HOOK}?b=%2e%2E&&a=1+1"));
    assert_eq!(received.body, body);

    let names = received.names();
    for (name, _) in headers {
        assert!(names.contains(&name), "{name} in {names:?}");
    }

    assert_eq!(received.all("x-repeated"), ["1", "2, 3", ""]);
    assert_eq!(received.all("host"), [HOST]);
    assert_eq!(received.all("X-Forwarded-For"), ["127.0.0.1"]);
    assert_eq!(received.all("X-Forwarded-Proto"), ["https"]);
    assert_eq!(received.all("X-Forwarded-Host"), [HOST]);
    assert_eq!(received.all("hookward-request-id").len(), 1);
    assert_eq!(received.all("content-length"), [body.len().to_string()]);
}

async fn kept_and_pipelined_connections_carry_many_requests(over: Transport) {
    let (application, stage) = stage(over, |request| Reply::ok(&request.target)).await;
    let mut connection = stage.edge.http1().await;

    for n in 0..20 {
        connection
            .send("POST", &format!("{HOOK}/{n}"), HOST, &[("X-N", "1")], b"x")
            .await;
    }

    for n in 0..20 {
        assert_eq!(
            connection.answer("POST").await.text(),
            format!("{HOOK}/{n}")
        );
    }

    let names: Vec<_> = application
        .log
        .take()
        .iter()
        .map(|request| request.names().contains(&"X-N"))
        .collect();
    assert_eq!(names, [true; 20], "the spelling of every one of them");
    assert!(
        application.log.connections() <= 2,
        "the connection to the application is kept"
    );
}

async fn answers_without_a_body_keep_their_heads(over: Transport) {
    let (_application, stage) = stage(over, |request| {
        match request.target.rsplit('/').next().unwrap() {
            "204" => Reply::Raw(b"HTTP/1.1 204 No Content\r\nX-A: b\r\n\r\n".to_vec()),
            "304" => Reply::Raw(
                b"HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 7\r\n\r\n".to_vec(),
            ),
            _ => Reply::Full(200, vec![("ETag", "\"y\"".into())], b"seven b".to_vec()),
        }
    })
    .await;
    let mut connection = stage.edge.http1().await;

    for (method, target, status) in [
        ("GET", "204", 204),
        ("GET", "304", 304),
        ("HEAD", "head", 200),
        ("GET", "get", 200),
    ] {
        connection
            .send(method, &format!("{HOOK}/{target}"), HOST, &[], b"")
            .await;

        let answer = connection.answer(method).await;
        assert_eq!(answer.status, status, "{method} {target}");
        let body = if method == "GET" && status == 200 {
            "seven b"
        } else {
            ""
        };
        assert_eq!(answer.text(), body);

        if method == "HEAD" {
            assert_eq!(
                answer.header("content-length"),
                Some("7"),
                "as a GET would have had"
            );
        }
    }
}

async fn chunks_and_announced_trailers_pass_both_ways(over: Transport) {
    let (application, stage) = stage(over, |_| {
        Reply::Raw(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 6\r\nX-Secret: no\r\n\r\n"
                .to_vec(),
        )
    })
    .await;
    let mut connection = stage.edge.http1().await;
    let request = format!(
        "POST {HOOK} HTTP/1.1\r\nHost: {HOST}\r\nConnection: TE\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\
         Trailer: X-Check, Host\r\n\r\n5\r\nhello\r\n0\r\nX-Check: 42\r\nX-Other: no\r\nHost: evil\r\n\r\n"
    );
    connection.raw(request.as_bytes()).await;

    let answer = connection.answer("POST").await;
    assert!(answer.complete);
    assert_eq!(answer.text(), "abc");
    assert_eq!(
        answer
            .trailers
            .iter()
            .map(|(name, value)| (name.to_lowercase(), value.as_str()))
            .collect::<Vec<_>>(),
        [("x-sum".into(), "6")]
    );

    let received = application.log.take().remove(0);
    assert_eq!(received.body, b"hello");
    assert_eq!(
        received
            .trailers
            .iter()
            .map(|(name, value)| (name.to_lowercase(), value.as_str()))
            .collect::<Vec<_>>(),
        [("x-check".into(), "42")]
    );

    assert_eq!(received.header("te"), Some("trailers"));
}

async fn a_sender_that_waits_for_100_gets_it(over: Transport) {
    let (application, stage) = stage(over, |_| Reply::ok("")).await;
    let mut connection = stage.edge.http1().await;
    let head = format!(
        "POST {HOOK} HTTP/1.1\r\nHost: {HOST}\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
    );
    connection.raw(head.as_bytes()).await;
    assert_eq!(connection.head().await.unwrap().status, 100);
    connection.raw(b"hello").await;
    assert_eq!(connection.answer("POST").await.status, 200);

    assert_eq!(application.log.take()[0].body, b"hello");
    // A sender that the head checks refuse gets the response before the body.
    let head = head.replace(HOOK, "/admin");
    connection.raw(head.as_bytes()).await;
    assert_eq!(connection.head().await.unwrap().status, 404);
}

async fn bodies_stream_both_ways_without_waiting_for_their_end(over: Transport) {
    // The application responds to each piece as it arrives.
    let application = Application::raw(|stream| async move {
        let mut input = Input::new(stream);
        let _ = input.head().await;
        input
            .stream()
            .write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            .await
            .unwrap();

        loop {
            let Some(line) = input.until(b"\r\n").await else {
                return;
            };
            let size =
                usize::from_str_radix(std::str::from_utf8(&line).unwrap().trim(), 16).unwrap();
            if size == 0 {
                input.stream().write_all(b"0\r\n\r\n").await.unwrap();
                return;
            }

            let mut piece = input.exactly(size + 2).await.unwrap();
            let mut echo = line.clone();
            echo.append(&mut piece);
            input.stream().write_all(&echo).await.unwrap();
        }
    })
    .await;

    let stage = Stage::start(application.address, Plan::over(over)).await;
    let mut connection = stage.edge.http1().await;
    connection
        .raw(
            format!("POST {HOOK} HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
                .as_bytes(),
        )
        .await;
    assert_eq!(connection.head().await.unwrap().status, 200);

    assert_eq!(connection.until(b"one\r\n").await.unwrap(), b"3\r\none\r\n");
    connection.raw(b"3\r\ntwo\r\n").await;
    assert_eq!(connection.until(b"two\r\n").await.unwrap(), b"3\r\ntwo\r\n");
    connection.raw(b"0\r\n\r\n").await;
    assert!(connection.until(b"0\r\n\r\n").await.is_some());
}

async fn large_bodies_pass_in_both_directions(over: Transport) {
    let large: Vec<u8> = (0..30 * MIB).map(|n| (n % 251) as u8).collect();
    let expected = large.clone();
    let application = Application::start(move |request| {
        assert!(request.body == expected, "{} bytes", request.body.len());
        Reply::Full(200, Vec::new(), request.body.clone())
    })
    .await;
    let stage = Stage::start(application.address, Plan::over(over)).await;
    let mut connection = stage.edge.http1().await;
    let (mut reader, mut writer) = tokio::io::split(&mut connection.stream);

    let sending = async {
        let head = format!(
            "POST {HOOK} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            large.len()
        );
        writer.write_all(head.as_bytes()).await.unwrap();
        writer.write_all(&large).await.unwrap();
        writer.flush().await.unwrap();
    };

    let mut received = Vec::new();
    let receiving = reader.read_to_end(&mut received);
    let ((), read) = within("30 MiB there and back", async {
        tokio::join!(sending, receiving)
    })
    .await;
    read.unwrap();
    assert!(received.ends_with(&large[large.len() - 1000..]) && received.len() > large.len());
    assert_eq!(
        application.log.take()[0].all("content-length"),
        [large.len().to_string()]
    );
}

async fn http2_carries_bodies_trailers_and_cookies(over: Transport) {
    let (application, stage) = stage(over, |_| {
        Reply::Raw(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 6\r\n\r\n"
                .to_vec(),
        )
    })
    .await;
    let mut client = stage.edge.http2().await.ready().await.unwrap();

    let request = http::Request::post(format!("https://{HOST}{HOOK}?x=1"))
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .header("te", "trailers")
        .header("trailer", "x-check")
        .body(())
        .unwrap();
    let (answer, mut body) = client.send_request(request, false).unwrap();
    body.send_data(Bytes::from_static(b"hello"), false).unwrap();

    body.send_trailers(http::HeaderMap::from_iter([(
        "x-check".parse().unwrap(),
        "42".parse().unwrap(),
    )]))
    .unwrap();

    let answer = within("an answer", answer).await.unwrap();
    assert_eq!(answer.status(), 200);
    let mut incoming = answer.into_body();
    assert_eq!(incoming.data().await.unwrap().unwrap(), "abc");
    assert_eq!(incoming.trailers().await.unwrap().unwrap()["x-sum"], "6");

    let received = application.log.take().remove(0);
    assert_eq!(
        (received.target.as_str(), received.body.as_slice()),
        (&*format!("{HOOK}?x=1"), &b"hello"[..])
    );
    assert_eq!(received.all("cookie"), ["a=1; b=2"]);
    assert_eq!(received.all("host"), [HOST]);
    assert_eq!(received.trailers.len(), 1);
}

async fn many_streams_of_one_http2_connection_are_judged_one_by_one(over: Transport) {
    let (application, stage) = stage(over, |request| Reply::ok(&request.target)).await;
    let mut client = stage.edge.http2().await;
    let mut answers = Vec::new();

    for n in 0..60 {
        client = client.ready().await.unwrap();
        let target = if n % 3 == 0 {
            format!("/admin/{n}")
        } else {
            format!("{HOOK}/{n}")
        };
        let request = http::Request::get(format!("https://{HOST}{target}"))
            .body(())
            .unwrap();
        answers.push((n, client.send_request(request, true).unwrap().0));
    }

    for (n, answer) in answers {
        let answer = within("an answer", answer).await.unwrap();
        assert_eq!(answer.status(), if n % 3 == 0 { 404 } else { 200 }, "{n}");
    }

    assert_eq!(application.log.take().len(), 40);
}

async fn a_sender_that_goes_away_is_gone_for_the_application_too(over: Transport) {
    let (application, stage) = stage(over, |_| Reply::Silence).await;
    // In the middle of the body.
    let mut connection = stage.edge.http1().await;
    connection
        .raw(
            format!("POST {HOOK} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 200000\r\n\r\n")
                .as_bytes(),
        )
        .await;

    connection.raw(&[b'x'; 100_000]).await;
    eventually("the application sees the head", || {
        application.log.begun() == 1
    })
    .await;
    drop(connection);
    eventually("the application sees the break", || {
        application.log.broken() == 1
    })
    .await;

    assert!(application.log.complete().is_empty());
    // While the application works.
    let mut connection = stage.edge.http1().await;
    connection.send("POST", HOOK, HOST, &[], b"x").await;
    eventually("the application has the request", || {
        application.log.complete().len() == 1
    })
    .await;
    drop(connection);

    stage
        .reported(
            "the abort",
            |report| matches!(report, Event::Request(request) if matches!(request.outcome, RequestResult::Aborted)),
        )
        .await;
}

async fn an_aborted_response_is_never_taken_for_done(over: Transport) {
    let (_application, stage) = stage(over, |request| {
        match request.target.rsplit('/').next().unwrap() {
            "nothing" => Reply::RawThenCut(Vec::new()),
            "garbage" => Reply::RawThenCut(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()),
            "length" => {
                Reply::RawThenCut(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nhalf".to_vec())
            }
            _ => Reply::RawThenCut(
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n".to_vec(),
            ),
        }
    })
    .await;

    for target in ["nothing", "garbage"] {
        let answer = stage
            .edge
            .post(&format!("{HOOK}/{target}"), &[], b"x")
            .await;
        assert_eq!(
            (answer.status, answer.code()),
            (502, Some("upstream_error")),
            "{target}"
        );
    }

    for target in ["length", "chunks"] {
        let mut connection = stage.edge.http1().await;
        connection
            .send("POST", &format!("{HOOK}/{target}"), HOST, &[], b"x")
            .await;

        if let Some(answer) = connection.try_answer("POST").await {
            assert!(
                !answer.complete || answer.status == 502,
                "{target}: {answer:?}"
            );
        }

        let client = stage.edge.http2().await.ready().await.unwrap();
        let request = http::Request::get(format!("https://{HOST}{HOOK}/{target}"))
            .body(())
            .unwrap();
        let answer = { client }.send_request(request, true).unwrap().0;
        if let Ok(answer) = within("an answer", answer).await
            && answer.status() != 502
        {
            let mut body = answer.into_body();
            let mut broke = false;

            while let Some(data) = within("data", body.data()).await {
                match data {
                    Ok(data) => drop(body.flow_control().release_capacity(data.len())),
                    Err(_) => {
                        broke = true;
                        break;
                    }
                }
            }

            assert!(broke, "{target}: an HTTP/2 sender took it for complete");
        }
    }
}

async fn a_silent_application_causes_504(over: Transport) {
    let application = Application::start(|_| Reply::Silence).await;
    let mut policy = open_policy();
    policy.routes[0].answer_timeout_ms = 200;

    let stage = Stage::start(
        application.address,
        Plan {
            policy,
            ..Plan::over(over)
        },
    )
    .await;
    let answer = stage.edge.post(HOOK, &[], b"x").await;
    assert_eq!(
        (answer.status, answer.code()),
        (504, Some("upstream_timeout"))
    );
}

/// The application closes its connections after a second of silence. Requests arrive in bursts with
/// pauses of about that length, so that kept connections are used shortly before they close.
async fn an_application_that_closes_idle_connections_causes_no_502(over: Transport) {
    let idle = Duration::from_secs(1);
    let application = Application::with_idle_limit(|_| Reply::ok("ok"), Some(idle)).await;
    let stage = std::sync::Arc::new(Stage::start(application.address, Plan::over(over)).await);
    let senders: Vec<_> = (0..16_u64)
        .map(|n| {
            let stage = std::sync::Arc::clone(&stage);
            tokio::spawn(async move {
                let mut statuses = Vec::new();
                for round in 0..6_u64 {
                    let mut connection = stage.edge.http1().await;
                    for _ in 0..20 {
                        connection.send("POST", HOOK, HOST, &[], b"x").await;
                        statuses.push(connection.answer("POST").await.status);
                    }

                    tokio::time::sleep(
                        idle - Duration::from_millis(8)
                            + Duration::from_millis((n + round * 16) % 16),
                    )
                    .await;
                }

                statuses
            })
        })
        .collect();

    for sender in senders {
        let statuses = tokio::time::timeout(2 * DEADLINE, sender)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(statuses, vec![200; 120]);
    }

    assert_eq!(
        application.log.complete().len(),
        16 * 120,
        "and none was sent twice"
    );
}

async fn websockets_open_on_routes_that_allow_them(over: Transport) {
    let application = Application::raw(|stream| async move {
        let mut input = Input::new(stream);
        let Some(request) = input.head().await else { return };
        if request.header("upgrade") != Some("websocket") || request.header("connection") != Some("Upgrade") {
            let _ = input.stream().write_all(b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n").await;
            return;
        }

        let accept = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        input.stream().write_all(accept.as_bytes()).await.unwrap();

        while let Some(mut piece) = input.exactly(4).await {
            piece.reverse();
            input.stream().write_all(&piece).await.unwrap();
        }

        let _ = input.stream().shutdown().await;
    })
    .await;

    let upgrade = [
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    let closed = Stage::start(application.address, Plan::over(over)).await;
    assert_eq!(
        closed
            .edge
            .request("GET", PREFIX, &upgrade, b"")
            .await
            .status,
        426,
        "it arrives as a plain request"
    );

    let mut policy = open_policy();
    policy.routes[0].websocket = true;
    let stage = Stage::start(
        application.address,
        Plan {
            policy,
            ..Plan::over(over)
        },
    )
    .await;
    let mut connection = stage.edge.http1().await;
    connection.send("GET", PREFIX, HOST, &upgrade, b"").await;

    let answer = connection.answer("GET").await;
    assert_eq!(
        (answer.status, answer.header("sec-websocket-accept")),
        (101, Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="))
    );

    for _ in 0..3 {
        connection.raw(b"abcd").await;
        assert_eq!(connection.exactly(4).await, b"dcba");
    }

    connection.stream.shutdown().await.unwrap();
    assert_eq!(
        connection.rest().await,
        b"",
        "the application's end is ours"
    );

    // A request outside the policy opens no WebSocket either.
    assert_eq!(
        stage
            .edge
            .request("GET", "/admin", &upgrade, b"")
            .await
            .status,
        404
    );
}

async fn an_empty_chunked_body_is_a_body(over: Transport) {
    let (application, stage) = stage(over, |_| Reply::ok("")).await;
    let mut connection = stage.edge.http1().await;
    connection
        .raw(format!("POST {HOOK} HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n").as_bytes())
        .await;
    assert_eq!(connection.answer("POST").await.status, 200);
    assert!(application.log.take()[0].body.is_empty());
}

async fn a_websocket_refusal_of_the_application_reaches_the_sender(over: Transport) {
    let application = Application::start(|_| Reply::Full(403, Vec::new(), b"no".to_vec())).await;
    let mut policy = open_policy();
    policy.routes[0].websocket = true;

    let stage = Stage::start(
        application.address,
        Plan {
            policy,
            ..Plan::over(over)
        },
    )
    .await;

    let upgrade = [
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];

    for _ in 0..20 {
        let answer = stage.edge.request("GET", PREFIX, &upgrade, b"").await;
        assert_eq!(
            (answer.status, answer.text().as_str(), answer.code()),
            (403, "no", None)
        );
    }
}

/// The timeout for the response starts at the end of the request, so an upload may take longer.
async fn a_long_upload_is_not_a_slow_application(over: Transport) {
    let application =
        Application::start(|request| Reply::ok(&request.body.len().to_string())).await;
    let mut policy = open_policy();
    policy.routes[0].answer_timeout_ms = 200;

    let stage = Stage::start(
        application.address,
        Plan {
            policy,
            ..Plan::over(over)
        },
    )
    .await;
    let mut connection = stage.edge.http1().await;
    connection
        .raw(
            format!("POST {HOOK} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 600000\r\n\r\n")
                .as_bytes(),
        )
        .await;

    for _ in 0..6 {
        connection.raw(&[b'x'; 100_000]).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    assert_eq!(connection.answer("POST").await.text(), "600000");
}

/// An echo that does not read while it cannot write, and a sender that sends without reading:
/// neither direction may wait for the other.
async fn a_websocket_full_in_one_direction_goes_on_in_the_other(over: Transport) {
    const LOAD: usize = 16 * 1024 * 1024;

    let application = Application::raw(|stream| async move {
        let mut input = Input::new(stream);
        let Some(_) = input.head().await else { return };
        let accept =
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
        input.stream().write_all(accept.as_bytes()).await.unwrap();

        while let Some(piece) = input.exactly(16 * 1024).await {
            if input.stream().write_all(&piece).await.is_err() {
                return;
            }
        }
    })
    .await;

    let mut policy = open_policy();
    policy.routes[0].websocket = true;
    let stage = Stage::start(
        application.address,
        Plan {
            policy,
            ..Plan::over(over)
        },
    )
    .await;

    let upgrade = [
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    let mut connection = stage.edge.http1().await;
    connection.send("GET", PREFIX, HOST, &upgrade, b"").await;
    assert_eq!(connection.answer("GET").await.status, 101);

    let (mut reader, mut writer) = tokio::io::split(connection.stream);
    let sending = async {
        for _ in 0..LOAD / 65_536 {
            writer.write_all(&[b'x'; 65_536]).await.unwrap();
        }
        writer.flush().await.unwrap();
    };

    let receiving = async {
        let mut received = 0;
        let mut buffer = vec![0; 65_536];
        while received < LOAD {
            received += reader.read(&mut buffer).await.unwrap();
        }
    };

    within("all of it comes back", async {
        tokio::join!(sending, receiving)
    })
    .await;
}
