//! Streaming, end to end: events, WebSockets, long responses, bodies larger than memory, slow
//! readers, and aborts. Over every transport.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hookward_agent::LinkSettings;
use hookward_core::limits::{MIB, TUNNEL_IDLE_TIMEOUT};
use hookward_tests::application::{Application, Input, Reply};
use hookward_tests::process::Process;
use hookward_tests::sender::Http1;
use hookward_tests::stage::{HOST, PREFIX, Plan, Stage, open_policy};
use hookward_tests::wait::{eventually, within};
use hookward_tunnel::transport::Transport;
use hookward_tunnel::transport::quic::{CONNECTION_WINDOW, STREAM_WINDOW};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_tungstenite::tungstenite::Message;

use super::programs::{edge, off};

const HOOK: &str = "/flexdeploy/webhooks/v1/git/push";

over_all_transports! {
    events_are_not_held_back
    websockets
    an_end_leaves_the_other_direction_open
    a_websocket_survives_the_start_of_the_drain
    a_websocket_ends_with_the_drain
    the_last_bytes_leave_a_full_socket
    slow_readers_do_not_delay_others
    stalled_readers_are_evicted
    a_request_in_flight_at_the_end_of_the_drain_gets_502
    slow_readers_that_are_gone_leave_nothing_behind
    an_abort_is_seen_on_the_other_side_within_a_second
    aborts_of_uploads_http2_and_websockets_are_seen_within_a_second
    an_answer_that_takes_its_time
}

/// Each event arrives before the application sends the next one.
async fn events_are_not_held_back(over: Transport) {
    let next = Arc::new(Notify::new());
    let of_application = Arc::clone(&next);
    let application = Application::raw(move |stream| {
        let next = Arc::clone(&of_application);
        async move {
            let mut input = Input::new(stream);
            let Some(_) = input.head().await else { return };
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
            input.stream().write_all(head.as_bytes()).await.unwrap();

            for number in 0..20 {
                next.notified().await;
                let event = format!("data: {number}\n\n");
                let chunk = format!("{:x}\r\n{event}\r\n", event.len());
                input.stream().write_all(chunk.as_bytes()).await.unwrap();
            }

            input.stream().write_all(b"0\r\n\r\n").await.unwrap();
        }
    })
    .await;

    let stage = Stage::start(application.address, Plan::over(over)).await;
    let mut connection = stage.edge.http1().await;
    connection
        .send("GET", HOOK, HOST, &[("Accept", "text/event-stream")], b"")
        .await;
    assert_eq!(connection.head().await.unwrap().status, 200);

    for number in 0..20 {
        next.notify_one();
        let event = within(
            "an event",
            connection.until(format!("data: {number}\n\n").as_bytes()),
        )
        .await;
        assert!(event.is_some(), "event {number}");
    }
}

async fn an_answer_that_takes_its_time(over: Transport) {
    let (asked, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let of_application = (Arc::clone(&asked), Arc::clone(&go));
    let application = Application::raw(move |stream| {
        let (asked, go) = of_application.clone();
        async move {
            let mut input = Input::new(stream);
            let Some(_) = input.head().await else { return };
            asked.notify_one();
            go.notified().await;

            let _ = input
                .stream()
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnews")
                .await;
        }
    })
    .await;

    let stage = Stage::start(application.address, Plan::over(over)).await;
    let mut connection = stage.edge.http1().await;
    connection.send("GET", HOOK, HOST, &[], b"").await;
    within("the application receives the request", asked.notified()).await;

    // Longer than the idle timeout of a silent connection.
    tokio::time::sleep(TUNNEL_IDLE_TIMEOUT + Duration::from_secs(1)).await;
    go.notify_one();
    assert_eq!(connection.answer("GET").await.text(), "news");
}

/// An application that echoes, with a library that checks its input.
async fn echo() -> std::net::SocketAddr {
    use futures_util::{SinkExt as _, StreamExt as _};

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else {
                    return;
                };
                while let Some(Ok(message)) = socket.next().await {
                    if matches!(message, Message::Text(_) | Message::Binary(_))
                        && socket.send(message).await.is_err()
                    {
                        return;
                    }
                }
            });
        }
    });

    address
}

/// Returns a masked client frame (RFC 6455 §5.2). `head` is the first byte: FIN, reserved bits,
/// opcode.
fn frame(head: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    let mut bytes = vec![head];

    match payload.len() {
        length @ 0..126 => bytes.push(0x80 | length as u8),
        length @ 126..65_536 => {
            bytes.push(0x80 | 126);
            bytes.extend((length as u16).to_be_bytes());
        }
        length => {
            bytes.push(0x80 | 127);
            bytes.extend((length as u64).to_be_bytes());
        }
    }

    bytes.extend(mask);
    bytes.extend(
        payload
            .iter()
            .zip(mask.iter().cycle())
            .map(|(byte, mask)| byte ^ mask),
    );

    bytes
}

/// Reads a frame of the server: its first byte and its payload.
async fn read_frame(connection: &mut Http1) -> (u8, Vec<u8>) {
    let head = connection.exactly(2).await;
    let length = match head[1] {
        126 => u64::from(u16::from_be_bytes(
            connection.exactly(2).await.try_into().unwrap(),
        )),
        127 => u64::from_be_bytes(connection.exactly(8).await.try_into().unwrap()),
        length => u64::from(length),
    };
    (head[0], connection.exactly(length as usize).await)
}

const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
const PONG: u8 = 0x8a;

fn close(code: u16, reason: &str) -> Vec<u8> {
    [&code.to_be_bytes()[..], reason.as_bytes()].concat()
}

/// Frames to send, and the expected heads and payloads.
type Exchange = (Vec<Vec<u8>>, Vec<(u8, Vec<u8>)>);

/// Returns the cases, modelled on the Autobahn test suite.
fn cases() -> Vec<(&'static str, Exchange)> {
    let text = |length: usize| vec![b'*'; length];
    let echoed = |head: u8, payload: Vec<u8>| (vec![frame(head, &payload)], vec![(head, payload)]);
    let mut cases = Vec::new();
    let mut add = |name, exchange: Exchange| cases.push((name, exchange));

    for (name, length) in [
        ("empty text", 0),
        ("text of 125", 125),
        ("text of 126", 126),
        ("text of 127", 127),
        ("text of 128", 128),
        ("text of 65535", 65_535),
        ("text of 65536", 65_536),
    ] {
        add(name, echoed(TEXT, text(length)));
    }

    add(
        "text that is not ASCII",
        echoed(TEXT, "Hellö-µ@ßöäüàá-UTF-8!! \u{1f980}".as_bytes().to_vec()),
    );

    for (name, length) in [
        ("empty binary", 0),
        ("binary of 125", 125),
        ("binary of 126", 126),
        ("binary of 65535", 65_535),
        ("binary of 65536", 65_536),
        ("binary of 1 MiB", 1 << 20),
        ("binary of 16 MiB", 16 << 20),
    ] {
        add(name, echoed(BINARY, (0..length).map(|n| n as u8).collect()));
    }

    add(
        "two fragments",
        (
            vec![frame(0x01, b"frag"), frame(0x80, b"ments")],
            vec![(TEXT, b"fragments".to_vec())],
        ),
    );

    add(
        "an empty fragment between two",
        (
            vec![frame(0x02, b"a"), frame(0x00, b""), frame(0x80, b"b")],
            vec![(BINARY, b"ab".to_vec())],
        ),
    );

    let mut pieces = vec![frame(0x01, b"x")];
    pieces.extend((0..98).map(|_| frame(0x00, b"x")));
    pieces.push(frame(0x80, b"x"));
    add(
        "a hundred fragments",
        (
            pieces,
            vec![(TEXT, text(100).iter().map(|_| b'x').collect())],
        ),
    );

    add("a ping", (vec![frame(PING, b"")], vec![(PONG, Vec::new())]));
    add(
        "a ping of 125",
        (vec![frame(PING, &text(125))], vec![(PONG, text(125))]),
    );

    add(
        "a ping between fragments",
        (
            vec![frame(0x01, b"a"), frame(PING, b"p"), frame(0x80, b"b")],
            vec![(PONG, b"p".to_vec()), (TEXT, b"ab".to_vec())],
        ),
    );

    add(
        "a pong that nobody asked for",
        (
            vec![frame(PONG, b"x"), frame(TEXT, b"y")],
            vec![(TEXT, b"y".to_vec())],
        ),
    );

    let pings = (0..10).map(|n: u8| frame(PING, &[n])).collect();
    add(
        "ten pings",
        (pings, (0..10).map(|n| (PONG, vec![n])).collect()),
    );

    for (name, code, reason) in [
        ("close 1000", 1000, ""),
        ("close 1001", 1001, "going"),
        ("close 3000", 3000, "x"),
        ("close 4999", 4999, ""),
    ] {
        add(
            name,
            (
                vec![frame(CLOSE, &close(code, reason))],
                vec![(CLOSE, close(code, reason))],
            ),
        );
    }

    add(
        "close without a code",
        (vec![frame(CLOSE, b"")], vec![(CLOSE, Vec::new())]),
    );
    add(
        "text and close at once",
        (
            vec![frame(TEXT, b"last"), frame(CLOSE, &close(1000, ""))],
            vec![(TEXT, b"last".to_vec()), (CLOSE, close(1000, ""))],
        ),
    );

    cases
}

async fn websockets(over: Transport) {
    let stage = Stage::start(echo().await, with_websockets(over)).await;
    let cases = cases();
    assert!(cases.len() >= 28, "{}", cases.len());

    for (name, (sent, back)) in cases {
        let mut connection = open(&stage).await;
        for frame in &sent {
            connection.raw(frame).await;
        }

        for (number, expected) in back.iter().enumerate() {
            let frame = within(name, read_frame(&mut connection)).await;
            assert!(
                frame == *expected,
                "{name}: frame {number} is {:x}, {} bytes",
                frame.0,
                frame.1.len()
            );
        }

        if back.last().is_some_and(|(head, _)| *head == CLOSE) {
            assert_eq!(connection.rest().await, b"", "{name}: the connection ends");
        }
    }

    // The result is the same byte by byte.
    let mut connection = open(&stage).await;

    for byte in frame(TEXT, b"chopped") {
        connection.raw(&[byte]).await;
    }

    assert_eq!(
        read_frame(&mut connection).await,
        (TEXT, b"chopped".to_vec())
    );

    // The application ends what it considers broken, and the sender learns of it.
    for (name, broken) in [
        ("a reserved bit", frame(0xc1, b"x")),
        ("an unknown opcode", frame(0x83, b"x")),
        ("a continuation of nothing", frame(0x80, b"x")),
        ("a ping in fragments", frame(0x09, b"x")),
        ("a ping of 126", frame(PING, &[b'x'; 126])),
        (
            "text that is no UTF-8",
            frame(TEXT, b"\xce\xba\xe1\xbd\xb9\xed\xa0\x80"),
        ),
    ] {
        let mut connection = open(&stage).await;
        connection.raw(&broken).await;
        let rest = within(name, connection.rest()).await;
        assert!(rest.is_empty() || rest[0] == CLOSE, "{name}: {rest:x?}");
    }
}

/// A side that has ended can still receive.
async fn an_end_leaves_the_other_direction_open(over: Transport) {
    let application = Application::raw(|stream| async move {
        let mut input = Input::new(stream);
        let Some(_) = input.head().await else { return };
        let switch = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        let _ = input.stream().write_all(switch).await;
        let mut heard = Vec::new();
        let _ = input.stream().read_to_end(&mut heard).await;
        let _ = input.stream().write_all(&[b"heard: ", &heard[..]].concat()).await;
    })
    .await;
    let stage = Stage::start(application.address, with_websockets(over)).await;
    let mut connection = open(&stage).await;
    connection.raw(b"my last word").await;

    connection.stream.shutdown().await.unwrap();
    assert_eq!(
        within("the answer", connection.rest()).await,
        b"heard: my last word"
    );
}

/// A WebSocket that is open when the relay starts to drain may finish.
async fn a_websocket_survives_the_start_of_the_drain(over: Transport) {
    let mut plan = with_websockets(over);
    plan.limits.drain = Duration::from_secs(600);
    let mut stage = Stage::start(echo().await, plan).await;
    let (mut connection, edge) = (open(&stage).await, stage.edge.clone());
    let conversation = async move {
        while edge.tls(b"http/1.1", Some(HOST)).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }

        connection.raw(&frame(TEXT, b"still there?")).await;
        assert_eq!(
            read_frame(&mut connection).await,
            (TEXT, b"still there?".to_vec())
        );
        connection.raw(&frame(CLOSE, &close(1001, ""))).await;
        assert_eq!(read_frame(&mut connection).await.0, CLOSE);
        assert_eq!(connection.rest().await, b"");
        drop(connection);
    };
    tokio::join!(
        stage.stop_relay(),
        within("the conversation's end", conversation)
    );
}

/// When the drain ends, the relay closes all WebSockets.
async fn a_websocket_ends_with_the_drain(over: Transport) {
    let mut plan = with_websockets(over);
    plan.limits.drain = Duration::from_millis(300);
    let mut stage = Stage::start(echo().await, plan).await;
    let mut connection = open(&stage).await;
    stage.stop_relay().await;
    assert_eq!(within("its end", connection.rest()).await, b"");
}

/// A sender without a response by then gets a 502, and is not cut off.
async fn a_request_in_flight_at_the_end_of_the_drain_gets_502(over: Transport) {
    let application = Application::start(|_| Reply::Silence).await;
    let mut plan = Plan::over(over);
    plan.limits.drain = Duration::from_millis(400);

    let mut stage = Stage::start(application.address, plan).await;
    let edge = stage.edge.clone();
    let waiting = tokio::spawn(async move { edge.post(HOOK, &[], b"x").await });
    eventually("the application has it", || application.log.begun() == 1).await;
    stage.stop_relay().await;

    let answer = within("an answer", waiting).await.unwrap();
    assert_eq!((answer.status, answer.code()), (502, Some("tunnel_error")));
}

/// TLS flushes what it buffers while the socket is full, even if nothing more is written.
async fn the_last_bytes_leave_a_full_socket(over: Transport) {
    const SAID: usize = 2 << 20;

    let application = Application::raw(|stream| async move {
        let mut input = Input::new(stream);
        let Some(_) = input.head().await else { return };
        let switch = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        let _ = input.stream().write_all(&[&switch[..], &vec![b'x'; SAID]].concat()).await;
        // It sends nothing more, and stays connected.
        let _ = input.stream().read_to_end(&mut Vec::new()).await;
    })
    .await;
    let stage = Stage::start(application.address, with_websockets(over)).await;
    let mut connection = open(&stage).await;

    let reading = async {
        for _ in 0..SAID / 8192 {
            connection.exactly(8192).await;
            // Slower than the data arrives, so that the socket stays full to the end.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    within("all of it", reading).await;
}

fn with_websockets(over: Transport) -> Plan {
    let mut policy = open_policy();
    policy.routes[0].websocket = true;
    Plan {
        policy,
        ..Plan::over(over)
    }
}

async fn open(stage: &Stage) -> Http1 {
    let upgrade = [
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    let mut connection = stage.edge.http1().await;
    connection.send("GET", PREFIX, HOST, &upgrade, b"").await;
    assert_eq!(connection.answer("GET").await.status, 101);

    connection
}

/// An application with a large response and a small one, behind one connection.
async fn large_and_small(over: Transport, adjust: impl FnOnce(&mut Plan)) -> (Application, Stage) {
    let application = Application::start(|request| match request.target.ends_with("/large") {
        true => Reply::Full(200, Vec::new(), vec![b'x'; 8 << 20]),
        false => Reply::ok("small"),
    })
    .await;
    let link = LinkSettings {
        connections: Some(1),
        ..Plan::over(over).link
    };

    let mut plan = Plan {
        link,
        ..Plan::over(over)
    };
    adjust(&mut plan);

    let stage = Stage::start(application.address, plan).await;
    (application, stage)
}

/// Many senders request a large response and read nothing of it; other webhooks pass.
async fn slow_readers_do_not_delay_others(over: Transport) {
    /// Number of stalled readers that are never evicted: half of the window of the agent's
    /// connection, less some room for others.
    const ROOM: u32 = CONNECTION_WINDOW / STREAM_WINDOW / 2 - 2;

    let (_application, stage) = large_and_small(over, |_| {}).await;
    let mut slow = Vec::new();

    for _ in 0..ROOM {
        let mut connection = stage.edge.http1().await;
        connection
            .send("GET", &format!("{PREFIX}/large"), HOST, &[], b"")
            .await;
        assert_eq!(connection.head().await.unwrap().status, 200);
        slow.push(connection);
    }

    let mut longest = Duration::ZERO;
    for _ in 0..50 {
        let since = Instant::now();
        assert_eq!(stage.edge.post(HOOK, &[], b"x").await.text(), "small");
        longest = longest.max(since.elapsed());
    }

    assert!(longest < Duration::from_secs(2), "{longest:?}");
    // The slow ones still get all of it.
    for connection in slow.iter_mut().take(3) {
        let body = within("a slow reader's answer", connection.exactly(8 << 20)).await;
        assert!(body.iter().all(|byte| *byte == b'x'));
    }
}

/// More of them than fit into a connection's window, and no deadline ends them: they are evicted
/// when others need the room.
async fn stalled_readers_are_evicted(over: Transport) {
    let (_application, stage) = large_and_small(over, |plan| {
        plan.limits.write_timeout = Duration::from_secs(600);
        plan.limits.response_idle_timeout = Duration::from_secs(600);
    })
    .await;
    let mut slow = Vec::new();

    for _ in 0..100 {
        let mut connection = stage.edge.http1().await;
        connection
            .send("GET", &format!("{PREFIX}/large"), HOST, &[], b"")
            .await;
        slow.push(connection);
    }

    let last = slow.last_mut().unwrap();
    assert_eq!(
        within("the last one's turn", last.head())
            .await
            .unwrap()
            .status,
        200
    );

    for _ in 0..10 {
        assert_eq!(
            within("a webhook", stage.edge.post(HOOK, &[], b"x"))
                .await
                .text(),
            "small"
        );
    }

    let whole = within(
        "the answer of one that reads after all",
        last.exactly(8 << 20),
    )
    .await;
    assert!(whole.iter().all(|byte| *byte == b'x'));

    let mut gave_way = false;
    for connection in &mut slow[..99] {
        let answer = within(
            "an answer, or what there is of it",
            connection.try_answer("GET"),
        )
        .await;
        gave_way = !answer.is_some_and(|answer| answer.complete);

        if gave_way {
            break;
        }
    }

    assert!(gave_way, "one of those that stood still");
}

/// More of them than fit into a connection's window: their room is free again when they are gone.
async fn slow_readers_that_are_gone_leave_nothing_behind(over: Transport) {
    let (_application, stage) = large_and_small(over, |_| {}).await;
    let mut slow = Vec::new();

    for _ in 0..150 {
        let mut connection = stage.edge.http1().await;
        connection
            .send("GET", &format!("{PREFIX}/large"), HOST, &[], b"")
            .await;
        slow.push(connection);
    }

    tokio::time::sleep(Duration::from_secs(2)).await;
    drop(slow);
    let since = Instant::now();

    for _ in 0..5 {
        assert_eq!(stage.edge.post(HOOK, &[], b"x").await.text(), "small");
    }

    assert!(
        since.elapsed() < Duration::from_secs(5),
        "{:?}",
        since.elapsed()
    );
}

async fn an_abort_is_seen_on_the_other_side_within_a_second(over: Transport) {
    // The sender disconnects: the application's connection ends.
    let (begun, ended) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let of_application = (Arc::clone(&begun), Arc::clone(&ended));
    let application = Application::raw(move |stream| {
        let (begun, ended) = of_application.clone();
        async move {
            let mut input = Input::new(stream);
            let Some(request) = input.head().await else {
                return;
            };
            if request.target.ends_with("/break") {
                let head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\npart";
                input.stream().write_all(head).await.unwrap();
                begun.notified().await;
                return;
            }

            begun.notify_one();
            let mut rest = Vec::new();
            let _ = input.stream().read_to_end(&mut rest).await;
            ended.notify_one();
        }
    })
    .await;

    let stage = Stage::start(application.address, Plan::over(over)).await;
    let mut connection = stage.edge.http1().await;
    connection.send("POST", HOOK, HOST, &[], b"x").await;
    within("the application has it", begun.notified()).await;

    let since = Instant::now();
    drop(connection);
    within("the application hears of it", ended.notified()).await;
    assert!(
        since.elapsed() < Duration::from_secs(1),
        "{:?}",
        since.elapsed()
    );

    // The application aborts: the sender's response is aborted, too.
    let mut connection = stage.edge.http1().await;
    connection
        .send("POST", &format!("{HOOK}/break"), HOST, &[], b"x")
        .await;
    assert_eq!(connection.head().await.unwrap().status, 200);
    assert_eq!(connection.exactly(4).await, b"part");

    let since = Instant::now();
    begun.notify_one();
    assert_eq!(
        within("the sender hears of it", connection.rest()).await,
        b""
    );

    assert!(
        since.elapsed() < Duration::from_secs(1),
        "{:?}",
        since.elapsed()
    );
}

async fn aborts_of_uploads_http2_and_websockets_are_seen_within_a_second(over: Transport) {
    let (begun, ended, cut) = (
        Arc::new(Notify::new()),
        Arc::new(Notify::new()),
        Arc::new(Notify::new()),
    );
    let of_application = (Arc::clone(&begun), Arc::clone(&ended), Arc::clone(&cut));

    let application = Application::raw(move |stream| {
        let (begun, ended, cut) = of_application.clone();
        async move {
            let mut input = Input::new(stream);
            let Some(request) = input.head().await else { return };
            if request.header("upgrade").is_some() {
                let head = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
                input.stream().write_all(head).await.unwrap();
            }

            begun.notify_one();
            let mut rest = Vec::new();
            tokio::select! {
                _ = input.stream().read_to_end(&mut rest) => ended.notify_one(),
                () = cut.notified() => {}
            }
        }
    })
    .await;

    let plan = with_websockets(over);
    let stage = Stage::start(application.address, plan).await;
    let heard = async |what: &str| {
        let since = Instant::now();
        within(what, ended.notified()).await;
        assert!(
            since.elapsed() < Duration::from_secs(1),
            "{what}: {:?}",
            since.elapsed()
        );
    };

    // In the middle of a streamed upload.
    let mut upload = stage.edge.http1().await;
    upload
        .raw(
            format!("POST {HOOK} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 2000000\r\n\r\n")
                .as_bytes(),
        )
        .await;
    upload.raw(&[b'x'; 100_000]).await;

    within("the upload is under way", begun.notified()).await;
    drop(upload);
    heard("an upload's abort").await;

    // One stream of an HTTP/2 connection; the others continue.
    let mut client = stage.edge.http2().await.ready().await.unwrap();
    let request = || {
        http::Request::post(format!("https://{HOST}{HOOK}"))
            .body(())
            .unwrap()
    };
    let (_kept, _) = client.send_request(request(), true).unwrap();

    within("one stream is under way", begun.notified()).await;
    let (_answer, mut sending) = client.send_request(request(), false).unwrap();
    sending.send_data(vec![b'x'; 10_000].into(), false).unwrap();
    within("the other is under way", begun.notified()).await;
    sending.send_reset(h2::Reason::CANCEL);
    heard("a stream's reset").await;
    drop(client);
    drop((_kept, _answer, sending));
    heard("the connection's end").await;

    // A WebSocket, closed by either side.
    let websocket = open(&stage).await;
    within("the WebSocket is open", begun.notified()).await;
    drop(websocket);
    heard("a WebSocket's end").await;

    let mut websocket = open(&stage).await;
    within("the WebSocket is open", begun.notified()).await;
    let since = Instant::now();
    cut.notify_one();
    assert_eq!(
        within("the sender hears of it", websocket.rest()).await,
        b""
    );

    assert!(
        since.elapsed() < Duration::from_secs(1),
        "{:?}",
        since.elapsed()
    );
}

/// A gibibyte in each direction through the real programs, which do not grow by it.
#[tokio::test]
async fn bodies_larger_than_memory() {
    const SIZE: u64 = 1 << 30;
    /// More than windows and buffers need, and far below the body.
    const MOST: u64 = 96 * MIB;

    let application = Application::raw(|stream| async move {
        let mut input = Input::new(stream);
        let Some(request) = input.head().await else {
            return;
        };
        let piece = vec![b'x'; 1 << 20];

        if request.method == "GET" {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n");
            input.stream().write_all(head.as_bytes()).await.unwrap();
            for _ in 0..SIZE >> 20 {
                if input.stream().write_all(&piece).await.is_err() {
                    return;
                }
            }
        } else {
            let mut left = SIZE - input.rest_of_buffer() as u64;
            let mut buffer = vec![0; 1 << 20];

            while left > 0 {
                left -= input.stream().read(&mut buffer).await.unwrap() as u64;
            }

            input
                .stream()
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone")
                .await
                .unwrap();
        }
    })
    .await;

    for transport in ["quic", "tcp"] {
        let dir = TempDir::new().unwrap();
        let (data, state) = (dir.path().join("relay"), dir.path().join("agent"));
        let target = application.address.to_string();
        let (relay, agent, ready) = off(move || {
            let mut relay = super::programs::serve_at(&data, std::net::Ipv4Addr::LOCALHOST);
            let ready = relay.event("ready");
            let token = relay.join_token();
            let state = state.to_str().unwrap();
            let joined = hookward_tests::process::run(
                "hookward",
                &["join", "-", "--state-dir", state],
                &[],
                &token,
            );
            assert_eq!(joined.code, Some(0), "{joined:?}");

            let args = [
                "http",
                &target,
                "--no-token",
                "--transport",
                transport,
                "--log-format",
                "json",
                "--state-dir",
                state,
            ];
            let mut agent = Process::start("hookward", &args, &[]);
            agent.event("ready");

            (relay, agent, ready)
        })
        .await;

        let edge = edge(&ready, "flexdeploy.hooks.example.test");
        let host = "flexdeploy.hooks.example.test";
        let (before_relay, before_agent) = (relay.memory("VmHWM"), agent.memory("VmHWM"));
        let mut connection = edge.http1().await;
        let head =
            format!("POST {PREFIX} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {SIZE}\r\n\r\n");
        connection.raw(head.as_bytes()).await;

        let piece = vec![b'x'; 1 << 20];
        for _ in 0..SIZE >> 20 {
            connection.raw(&piece).await;
        }

        assert_eq!(
            connection.answer("POST").await.text(),
            "done",
            "{transport}"
        );
        connection.send("GET", PREFIX, host, &[], b"").await;
        assert_eq!(connection.head().await.unwrap().status, 200);

        let mut received = connection.buffered() as u64;
        let mut buffer = vec![0; 1 << 20];

        while received < SIZE {
            let count = within("a piece", connection.stream.read(&mut buffer))
                .await
                .unwrap() as u64;
            assert!(count > 0, "{transport}: cut after {received}");
            received += count;
        }

        let (relay_grew, agent_grew) = (
            relay.memory("VmHWM") - before_relay,
            agent.memory("VmHWM") - before_agent,
        );
        println!(
            "{transport}: 1 GiB each way, relay +{} MiB, agent +{} MiB",
            relay_grew / MIB,
            agent_grew / MIB
        );

        assert!(
            relay_grew < MOST && agent_grew < MOST,
            "{transport}: {relay_grew} {agent_grew}"
        );
    }
}
