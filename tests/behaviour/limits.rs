//! Deadlines, maximum sizes and budgets, set small by the relay's settings.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use hookward_core::limits::{KIB, Limits, MIB};
use hookward_runtime::body_memory::REQUEST_OVERHEAD;
use hookward_tests::application::{Application, Reply};
use hookward_tests::h2_frames;
use hookward_tests::initials::{Answers, Initials};
use hookward_tests::process::run;
use hookward_tests::sender::github_signature;
use hookward_tests::stage::{HOST, PREFIX, Plan, Stage, signed_policy};
use hookward_tests::wait::{eventually, within};
use hookward_tunnel::transport::Session;
use hookward_tunnel::transport::liveness::Liveness;
use hookward_tunnel::transport::quic::{self, RETRY_FROM};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::programs::{off, serve_at};

const SHORT: Duration = Duration::from_millis(300);

async fn stage(application: &Application, change: impl FnOnce(&mut Plan)) -> Stage {
    let mut plan = Plan::default();
    change(&mut plan);
    Stage::start(application.address, plan).await
}

#[tokio::test]
async fn silent_peers_are_cut_off() {
    let application = Application::start(|_| Reply::ok("")).await;
    let stage = stage(&application, |plan| {
        plan.limits.tls_handshake_timeout = SHORT;
        plan.limits.request_head_timeout = SHORT;
    })
    .await;

    // Before, during and after the TLS handshake, and in the middle of a head.
    let mut silent = TcpStream::connect(stage.edge.address).await.unwrap();
    let mut half = TcpStream::connect(stage.edge.address).await.unwrap();
    half.write_all(&[0x16, 0x03, 0x01, 0x01]).await.unwrap();

    let mut idle = stage.edge.http1().await;
    let mut slow = stage.edge.http1().await;
    slow.raw(b"POST / HTTP/1.1\r\nHo").await;
    within("the silent one is cut off", async {
        let _ = silent.read(&mut [0; 16]).await;
        let _ = half.read(&mut [0; 16]).await;
    })
    .await;

    assert!(
        idle.try_answer("POST")
            .await
            .is_none_or(|answer| answer.status == 408)
    );

    assert!(
        slow.try_answer("POST")
            .await
            .is_none_or(|answer| answer.status == 408)
    );
}

#[tokio::test]
async fn slow_bodies_get_408() {
    let application = Application::start(|_| Reply::ok("")).await;
    // Streamed: the rate counts. Read by a check: the total time counts, too.
    let streamed = stage(&application, |plan| plan.limits.body_rate_window = SHORT).await;
    let whole = stage(&application, |plan| {
        plan.policy = signed_policy("github", b"s", "");
        plan.limits.body_read_timeout = SHORT;
    })
    .await;
    for stage in [&streamed, &whole] {
        let mut connection = stage.edge.http1().await;
        connection
            .raw(
                format!(
                    "POST {PREFIX} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 100000\r\n\r\nabc"
                )
                .as_bytes(),
            )
            .await;

        let answer = connection.answer("POST").await;
        assert_eq!(
            (answer.status, answer.code()),
            (408, Some("request_timeout"))
        );
        assert_eq!(answer.header("connection"), Some("close"));
    }

    assert!(application.log.complete().is_empty());
}

#[tokio::test]
async fn large_heads_and_bodies_are_refused_with_their_own_codes() {
    let application = Application::start(|_| Reply::ok("")).await;
    let stage = stage(&application, |plan| {
        plan.policy = signed_policy("github", b"s", "");
        plan.limits.max_body_bytes = 1000;
    })
    .await;
    let large = "x".repeat(40_000);
    let fields: Vec<(String, String)> = (0..127)
        .map(|n| (format!("x-{n}"), "y".to_owned()))
        .collect();
    let fields: Vec<_> = fields
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();

    let many = stage.edge.request("GET", PREFIX, &fields, b"").await;
    assert_eq!(
        many.status, 403,
        "127 fields and Host are as many as may be"
    );

    let cases = [
        (
            stage
                .edge
                .request("GET", PREFIX, &[("x-large", &large)], b"")
                .await,
            431,
        ),
        (
            stage
                .edge
                .get(&format!("{PREFIX}?{}", "a".repeat(8200)))
                .await,
            414,
        ),
        (stage.edge.post(PREFIX, &[], &[b'x'; 1001]).await, 413),
        (
            stage
                .edge
                .request("POST", PREFIX, &[("Expect", "the-unexpected")], b"")
                .await,
            417,
        ),
    ];

    for (answer, status) in cases {
        assert_eq!(answer.status, status);
        assert!(answer.code().is_some() && answer.header("hookward-request-id").is_some());
    }

    // Without an announced length, the maximum applies as the bytes arrive.
    let mut connection = stage.edge.http1().await;
    connection
        .raw(
            format!("POST {PREFIX} HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n")
                .as_bytes(),
        )
        .await;
    connection
        .raw(format!("7d0\r\n{}\r\n0\r\n\r\n", "x".repeat(2000)).as_bytes())
        .await;

    assert_eq!(connection.answer("POST").await.status, 413);
}

#[tokio::test]
async fn connections_of_one_client_address_are_limited() {
    let application = Application::start(|_| Reply::ok("")).await;
    let stage = stage(&application, |plan| {
        plan.limits.max_connections_per_client = 3
    })
    .await;
    let mut held = Vec::new();

    for _ in 0..3 {
        held.push(stage.edge.http1().await);
    }

    assert!(
        within("a refusal", stage.edge.tls(b"http/1.1", Some(HOST)))
            .await
            .is_err(),
        "a fourth"
    );

    for connection in &mut held {
        connection.send("GET", PREFIX, HOST, &[], b"").await;
        assert_eq!(connection.answer("GET").await.status, 200);
    }

    drop(held);
    // The slots are free again once the relay has observed the ends.
    let mut again = None;
    within("a free place", async {
        while again.is_none() {
            again = stage.edge.tls(b"http/1.1", Some(HOST)).await.ok();
        }
    })
    .await;
}

#[tokio::test]
async fn trusted_proxies_are_not_counted() {
    let application = Application::start(|_| Reply::ok("")).await;
    let stage = stage(&application, |plan| {
        plan.limits.max_connections_per_client = 1;
        plan.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
    })
    .await;
    let mut held = Vec::new();

    for _ in 0..5 {
        held.push(stage.edge.http1().await);
    }

    let answer = stage
        .edge
        .request("GET", PREFIX, &[("X-Forwarded-For", "192.0.2.9")], b"")
        .await;
    assert_eq!(answer.status, 200);
    assert_eq!(
        application.log.take()[0].all("x-forwarded-for"),
        ["192.0.2.9"]
    );
}

#[tokio::test]
async fn no_client_address_can_use_up_the_memory_for_bodies() {
    let application = Application::start(|_| Reply::ok("")).await;
    let stage = stage(&application, |plan| {
        plan.policy = signed_policy("github", b"s", "");
        plan.limits.body_memory = 1_000_000;
        plan.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
    })
    .await;

    let begin = async |client: &str, held: usize| {
        let mut connection = stage.edge.http1().await;
        let head = format!(
            "POST {PREFIX} HTTP/1.1\r\nHost: {HOST}\r\nX-Forwarded-For: {client}\r\nContent-Length: 200000\r\n\r\n"
        );
        connection.raw(head.as_bytes()).await;
        connection.raw(&vec![b'x'; held]).await;
        connection
    };
    // One address, IPv6 by its /64, holds at most an eighth.
    let mut first = begin("2001:db8::1", 90_000).await;

    eventually("90,000 bytes are charged", || {
        stage.relay().buffered_bytes() == REQUEST_OVERHEAD + 90_000
    })
    .await;

    let mut same = begin("2001:db8::2", 90_000).await;
    let answer = same.answer("POST").await;
    assert_eq!((answer.status, answer.code()), (503, Some("overloaded")));

    // Others fill the rest; then the slowest is evicted for the next one.
    let mut others = Vec::new();

    for n in 0..7 {
        others.push(begin(&format!("192.0.2.{n}"), 99_000).await);
    }

    eventually("nearly all is charged", || {
        stage.relay().buffered_bytes()
            == REQUEST_OVERHEAD + 90_000 + 7 * (REQUEST_OVERHEAD + 99_000)
    })
    .await;

    let body = vec![b'y'; 95_000];
    let signature = github_signature("s", &body);
    let answer = stage
        .edge
        .post(
            PREFIX,
            &[
                ("X-Forwarded-For", "198.51.100.1"),
                ("X-Hub-Signature-256", &signature),
            ],
            &body,
        )
        .await;

    assert_eq!(answer.status, 200, "a good webhook finds room");
    let answer = first.answer("POST").await;
    assert_eq!(
        (answer.status, answer.code()),
        (503, Some("overloaded")),
        "the slowest had to go"
    );
    drop((first, others));
    eventually("everything is given back", || {
        stage.relay().buffered_bytes() == 0
    })
    .await;
}

#[tokio::test]
async fn a_sender_that_takes_nothing_or_next_to_nothing_is_cut_off() {
    let large = vec![b'x'; 32 * 1024 * 1024];
    let application =
        Application::start(move |_| Reply::Full(200, Vec::new(), large.clone())).await;
    let stage = stage(&application, |plan| plan.limits.write_timeout = SHORT).await;

    for taken in [0, 1] {
        let before = application.log.untaken();
        let mut connection = stage.edge.http1().await;
        connection.send("GET", PREFIX, HOST, &[], b"").await;
        assert_eq!(connection.head().await.unwrap().status, 200);
        within("the application hears of it", async {
            while application.log.untaken() == before {
                // Single bytes never free enough space for the kernel to let the relay write again.
                connection.exactly(taken).await;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;

        let rest = connection.rest().await;
        assert!(rest.len() < 32 * 1024 * 1024, "{}", rest.len());
    }
}

#[tokio::test]
async fn a_sender_that_reads_only_when_it_has_sent_all_still_gets_its_refusal() {
    let application = Application::start(|_| Reply::ok("")).await;
    let stage = stage(&application, |_| {}).await;
    let mut connection = stage.edge.http1().await;
    // More than all socket buffers hold: the relay reads it although the head was refused.
    let mut request = format!(
        "POST /admin HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {}\r\n\r\n",
        16 << 20
    )
    .into_bytes();
    request.resize(request.len() + (16 << 20), b'x');

    within("all of it is taken", connection.stream.write_all(&request))
        .await
        .unwrap();
    assert_eq!(connection.answer("POST").await.status, 404);
    assert!(application.log.complete().is_empty());
}

#[tokio::test]
async fn a_stalled_response_is_aborted() {
    let half = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf".to_vec();
    let application = Application::start(move |_| Reply::Raw(half.clone())).await;
    let stage = stage(&application, |plan| {
        plan.limits.response_idle_timeout = SHORT
    })
    .await;
    let mut connection = stage.edge.http1().await;
    connection.send("GET", PREFIX, HOST, &[], b"").await;

    let answer = connection.answer("GET").await;
    assert_eq!(
        (answer.status, answer.text().as_str(), answer.complete),
        (200, "half", false)
    );
}

#[tokio::test]
async fn an_idle_websocket_is_closed() {
    let switched =
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
            .to_vec();
    let application = Application::start(move |_| Reply::Raw(switched.clone())).await;
    let stage = stage(&application, |plan| {
        plan.policy.routes[0].websocket = true;
        plan.limits.upgrade_idle_timeout = SHORT;
    })
    .await;
    let mut connection = stage.edge.http1().await;
    connection
        .send(
            "GET",
            PREFIX,
            HOST,
            &[("Connection", "Upgrade"), ("Upgrade", "websocket")],
            b"",
        )
        .await;

    let since = Instant::now();
    assert_eq!(connection.answer("GET").await.status, 101);
    assert_eq!(connection.rest().await, b"");
    assert!(since.elapsed() >= SHORT, "not before its time");
}

/// Unverified connections lose their slots to new ones; verified ones keep them while a request is
/// in flight.
#[tokio::test]
async fn unverified_connections_are_evicted_when_all_slots_are_taken() {
    let application = Application::start(|request| match request.target.ends_with("/slow") {
        true => Reply::Silence,
        false => Reply::ok(""),
    })
    .await;
    let stage = stage(&application, |plan| plan.limits.max_connections = 3).await;
    let mut known = Vec::new();
    let mut strangers = Vec::new();

    for _ in 0..3 {
        let mut stranger = stage.edge.http1().await;
        stranger.send("GET", "/admin", HOST, &[], b"").await;
        assert_eq!(
            stranger.answer("GET").await.status,
            404,
            "a refused request verifies no connection"
        );
        strangers.push(stranger);
    }

    for mut stranger in strangers {
        let mut sender = stage.edge.http1().await;
        sender.send("GET", PREFIX, HOST, &[], b"").await;
        assert_eq!(sender.answer("GET").await.status, 200);
        known.push(sender);
        assert!(
            within("the oldest stranger's end", stranger.try_answer("GET"))
                .await
                .is_none()
        );
    }

    for sender in &mut known {
        sender
            .send("GET", &format!("{PREFIX}/slow"), HOST, &[], b"")
            .await;
    }

    eventually("all are under way", || application.log.begun() == 6).await;
    assert!(
        within("a refusal", stage.edge.tls(b"http/1.1", Some(HOST)))
            .await
            .is_err(),
        "all are in use"
    );
}

/// A chunked body of an unverified connection, which a check reads, is not charged as a head.
#[tokio::test]
async fn large_signed_bodies_in_chunks_pass_as_a_connections_first_request() {
    let application =
        Application::start(|request| Reply::ok(&request.body.len().to_string())).await;
    let stage = stage(&application, |plan| {
        plan.policy = signed_policy("github", b"s", "")
    })
    .await;

    for size in [75, 90, 200, 1000] {
        let body = vec![b'x'; size * 1024];
        let signature = github_signature("s", &body);
        let mut connection = stage.edge.http1().await;
        let head = format!(
            "POST {PREFIX} HTTP/1.1\r\nHost: {HOST}\r\nX-Hub-Signature-256: {signature}\r\n"
        );

        connection
            .raw(
                format!(
                    "{head}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n",
                    body.len()
                )
                .as_bytes(),
            )
            .await;

        connection.raw(&body).await;
        connection.raw(b"\r\n0\r\n\r\n").await;
        let answer = connection.answer("POST").await;
        assert_eq!(
            (answer.status, answer.text()),
            (200, body.len().to_string())
        );
    }
}

/// The relay discards a refused body while it arrives, and no longer.
#[tokio::test]
async fn a_refused_body_sent_byte_by_byte_is_cut_off() {
    let application = Application::start(|_| Reply::ok("")).await;
    let stage = stage(&application, |_| {}).await;
    let mut connection = stage.edge.http1().await;
    connection
        .raw(
            format!("POST /admin HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 9000000\r\n\r\n")
                .as_bytes(),
        )
        .await;

    assert_eq!(connection.answer("POST").await.status, 404);
    let since = Instant::now();

    while connection.stream.write_all(b"x").await.is_ok() {
        assert!(
            since.elapsed() < Duration::from_secs(20),
            "held for the time of one that sends"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Over both protocols the response arrives, and then the end.
#[tokio::test]
async fn slow_bodies_end_their_connections() {
    let application = Application::start(|_| Reply::ok("")).await;
    let stage = stage(&application, |plan| plan.limits.body_rate_window = SHORT).await;
    let mut connection = stage.edge.http1().await;
    connection
        .raw(
            format!("POST {PREFIX} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 9\r\n\r\n")
                .as_bytes(),
        )
        .await;

    assert_eq!(connection.answer("POST").await.status, 408);
    assert_eq!(within("its end", connection.rest()).await, b"");
    let mut client = stage.edge.http2().await.ready().await.unwrap();
    let request = http::Request::post(format!("https://{HOST}{PREFIX}"))
        .header("content-length", "9")
        .body(())
        .unwrap();
    let (answer, _body) = client.send_request(request, false).unwrap();
    assert_eq!(within("an answer", answer).await.unwrap().status(), 408);

    within("its end", async {
        while client.clone().ready().await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn an_agent_that_does_not_authenticate_is_cut_off() {
    let application = Application::start(|_| Reply::ok("")).await;
    let stage = stage(&application, |plan| {
        plan.limits.agent_handshake_timeout = SHORT
    })
    .await;
    let endpoint = quic::client(
        (Ipv4Addr::LOCALHOST, 0).into(),
        hookward_tunnel::transport::identity::Pins::new(stage.relay().pin(), None),
        Liveness::default(),
    )
    .unwrap();
    let connecting = endpoint
        .connect(stage.relay().tunnel_address(), quic::SERVER_NAME)
        .unwrap();
    let session = Session::over_quic(within("a handshake", connecting).await.unwrap());

    let since = Instant::now();
    within("the relay closes the session", session.closed()).await;
    assert!(
        since.elapsed() < Limits::default().agent_handshake_timeout,
        "by this relay's own bound"
    );

    assert_eq!(
        stage.edge.get(PREFIX).await.status,
        200,
        "the agent that is known stays"
    );
}

/// 100,000 first packets of handshakes that never continue, from many addresses, to a relay with
/// default settings. From the 64th on an address must prove itself, as an agent does. The relay
/// remembers nothing of the others, and drops those that came before in time.
#[tokio::test]
async fn a_hundred_thousand_first_packets_cost_next_to_nothing() {
    const SENT: usize = 100_000;
    const MOST: u64 = 32 * MIB;

    let data = TempDir::new().unwrap();
    let directory = data.path().to_owned();
    let (relay, answers, more, took) = off(move || {
        let mut relay = serve_at(&directory, Ipv4Addr::LOCALHOST);
        let ready = relay.event("ready");
        let state = TempDir::new().unwrap();
        let before = relay.memory("VmHWM");
        let mut initials = Initials::new(ready["edge"].as_str().unwrap().parse().unwrap(), 256);
        let (mut answers, since) = (Answers::default(), Instant::now());
        while answers.sent < SENT {
            initials.round(&mut answers);
        }

        let took = since.elapsed();
        let more = relay.memory("VmHWM") - before;
        // Among more of the same.
        let token = relay.join_token();
        let state = state.path().to_str().unwrap();

        let joined = run(
            "hookward",
            &["join", "-", "--transport", "quic", "--state-dir", state],
            &[],
            &token,
        );
        assert_eq!(joined.code, Some(0), "{joined:?}");

        (relay, answers, more, took)
    })
    .await;

    println!(
        "{answers:?} in {took:?}; the relay has {} KiB more",
        more / KIB
    );
    assert!(answers.retries > SENT * 9 / 10, "{answers:?}");
    assert!(answers.others >= RETRY_FROM, "{answers:?}");
    assert!(more <= MOST, "{} KiB", more / KIB);

    // Some are logged one by one, the others as counts.
    let let_go = || {
        let lines = relay
            .err()
            .into_iter()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(&line).ok());
        let of = |line: serde_json::Value| match (line["event"].as_str(), line["kind"].as_str()) {
            (Some("agent_failed"), Some("silent")) => 1,
            (Some("more"), Some("silent")) => {
                usize::try_from(line["count"].as_u64().unwrap()).unwrap()
            }
            _ => 0,
        };
        lines.map(of).sum::<usize>()
    };

    eventually("the half-open handshakes are let go", || {
        let_go() >= RETRY_FROM
    })
    .await;
}

/// The relay closes the connection of each flood after a thousand frames without progress. It stays
/// up, and the application gets next to nothing.
#[tokio::test]
async fn http2_floods_end_their_connections_only() {
    let application = Application::start(|_| Reply::ok("")).await;
    let stage = stage(&application, |_| {}).await;
    let floods = h2_frames::floods(&stage.edge);
    assert_eq!(floods.len(), 8);

    for (name, begin, repeat) in floods {
        // From an unverified connection, and from one whose first request has passed.
        for known in [false, true] {
            if known && !name.contains("reset") {
                continue;
            }

            let what = format!("{name}, known: {known}");
            assert!(
                h2_frames::is_cut_after(&stage.edge, &begin, &repeat, 1100, known).await,
                "{what}"
            );
            assert_eq!(stage.edge.get(PREFIX).await.status, 200, "after {what}");

            let reached = application
                .log
                .take()
                .iter()
                .filter(|request| request.method == "POST")
                .count();

            // One in a hundred, and the first, which is not reset.
            assert!(
                reached <= 12,
                "{what}: {reached} of 1100 reached the application"
            );
        }
    }

    // The frames of a busy client are no flood.
    for (name, begin, repeat) in h2_frames::floods(&stage.edge) {
        if matches!(name, "PING" | "SETTINGS" | "PRIORITY" | "WINDOW_UPDATE") {
            assert!(
                !h2_frames::is_cut_after(&stage.edge, &begin, &repeat, 500, false).await,
                "{name}"
            );
        }
    }
}

#[tokio::test]
async fn silent_http2_peers_are_cut_off() {
    let application = Application::start(|_| Reply::ok("")).await;
    let stage = stage(&application, |plan| {
        plan.limits.request_head_timeout = SHORT;
        plan.limits.http2_idle_timeout = SHORT;
    })
    .await;

    // Without a preface, with half of one, and with a complete one but no request.
    for bytes in [
        &b""[..],
        b"PRI * HT",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
    ] {
        let mut stream = stage.edge.tls(b"h2", Some(HOST)).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut rest = Vec::new();
        let _ = within("the silent one is cut off", stream.read_to_end(&mut rest)).await;
    }

    // An idle verified connection is closed when it has its response.
    let mut client = stage.edge.http2().await.ready().await.unwrap();
    let request = http::Request::get(format!("https://{HOST}{PREFIX}"))
        .body(())
        .unwrap();
    assert_eq!(
        client
            .send_request(request, true)
            .unwrap()
            .0
            .await
            .unwrap()
            .status(),
        200
    );

    within("the idle connection closes", async {
        while client.clone().ready().await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

/// An unverified peer whose window never opens for the refusal does not keep its connection for as
/// long as a silent application may take.
#[tokio::test]
async fn http2_peers_that_read_no_response_are_cut_off() {
    let application = Application::start(|_| Reply::ok("answered")).await;
    let stage = stage(&application, |plan| plan.limits.write_timeout = SHORT).await;

    for path in ["/admin", PREFIX] {
        let mut stream = stage.edge.tls(b"h2", Some(HOST)).await.unwrap();
        stream
            .write_all(&h2_frames::without_window(&stage.edge, path))
            .await
            .unwrap();
        let mut rest = Vec::new();
        let _ = within("it is cut off", stream.read_to_end(&mut rest)).await;
    }
}

/// A load balancer forwards connections unchanged, so they are unverified here, too.
#[tokio::test]
async fn unverified_connections_behind_the_proxy_protocol_are_evicted() {
    let application = Application::start(|_| Reply::ok("")).await;
    let stage = stage(&application, |plan| {
        plan.limits.max_connections = 2;
        plan.proxy_protocol = true;
        plan.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
    })
    .await;
    let mut held = Vec::new();

    for _ in 0..4 {
        let named = b"PROXY TCP4 192.0.2.9 127.0.0.1 1234 443\r\n";
        held.push(
            stage
                .edge
                .tls_behind(named, b"http/1.1", Some(HOST))
                .await
                .expect("the oldest one goes"),
        );
    }

    let mut rest = Vec::new();
    let _ = within("the end of the first", held[0].read_to_end(&mut rest)).await;
}

/// The largest body of the default limits, signed, from one address.
#[tokio::test]
async fn a_body_as_large_as_may_be_passes() {
    let application =
        Application::start(|request| Reply::ok(&request.body.len().to_string())).await;
    let stage = stage(&application, |plan| {
        plan.policy = signed_policy("github", b"s", "")
    })
    .await;
    let body = vec![b'x'; 25 * 1024 * 1024];
    let signature = github_signature("s", &body);
    let answer = stage
        .edge
        .post(PREFIX, &[("X-Hub-Signature-256", &signature)], &body)
        .await;
    assert_eq!(
        (answer.status, answer.text()),
        (200, body.len().to_string())
    );
}

#[tokio::test]
async fn requests_of_one_client_address_are_limited() {
    let application = Application::start(|_| Reply::Silence).await;
    let stage = stage(&application, |plan| plan.limits.max_requests_per_client = 3).await;
    let mut held = Vec::new();

    for _ in 0..3 {
        let mut connection = stage.edge.http1().await;
        connection.send("GET", PREFIX, HOST, &[], b"").await;
        held.push(connection);
    }

    eventually("three are under way", || {
        application.log.complete().len() == 3
    })
    .await;

    let answer = stage.edge.get(PREFIX).await;
    assert_eq!((answer.status, answer.code()), (503, Some("overloaded")));
    drop(held);
    within("places are free again", async {
        // A 404 needs no application.
        while stage.edge.get("/admin").await.status != 404 {}
    })
    .await;
}
