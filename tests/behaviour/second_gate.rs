//! The agent's gate is real: behind a relay without a gate it alone refuses every case that its own
//! checks cover, and the application gets nothing.

use hookward_agent::{LinkSettings, RelayEndpoint, join};
use hookward_core::clock::Clock;
use hookward_gate::policy::Accept;
use hookward_tests::application::{Application, Reply};
use hookward_tests::corpus::{bytes, cases};
use hookward_tests::rogue::{Rogue, request};
use hookward_tests::sender::github_signature;
use hookward_tests::stage::{PREFIX, clock_at, open_policy, policy, signed_policy, token};
use hookward_tests::wait::{eventually, within};
use serde_json::Value;

#[tokio::test]
async fn paths_and_tokens() {
    let application = Application::start(|_| Reply::ok("reached")).await;
    let mut guarded = open_policy();
    guarded.routes[0].accept = vec![Accept {
        token: Some(token("s3cr3t-T0ken.~_42")),
        ..Accept::default()
    }];

    let open = Rogue::start(application.address, open_policy(), Clock::System).await;
    let guarded = Rogue::start(application.address, guarded, Clock::System).await;
    let mut refused = 0;

    for case in cases::<Value>("path_attacks_dev") {
        if case["expect"] != "deny" || case["level"] != "must" {
            continue;
        }

        let rogue = if case["rule"] == "path" {
            &open
        } else {
            &guarded
        };

        let target = bytes(case["target_b64"].as_str().unwrap());
        // The relay handles absolute targets; a tunnel carries paths, so the agent refuses anything
        // else.
        let outcome = rogue
            .send(request("POST", &target, &[], Some(0)), b"")
            .await;
        assert!(
            outcome.as_ref().is_err() || (400..500).contains(&outcome.as_ref().unwrap().0),
            "{case}: {outcome:?}"
        );

        assert_eq!(application.log.begun(), 0, "{case} reached the application");
        refused += 1;
    }

    assert!(refused > 150, "{refused}");
    let good = guarded.send(
        request(
            "POST",
            format!("{PREFIX}/x?token=s3cr3t-T0ken.~_42&a=1").as_bytes(),
            &[],
            Some(0),
        ),
        b"",
    );
    assert_eq!(good.await.unwrap().0, 200);

    assert_eq!(
        application.log.take()[0].target,
        format!("{PREFIX}/x?a=1"),
        "the token is taken out, and nothing else"
    );
}

#[tokio::test]
async fn signatures() {
    let application = Application::start(|_| Reply::ok("reached")).await;
    let mut refused = 0;

    for case in cases::<Value>("signature_attacks_dev") {
        let group = case["group"].as_str().unwrap();
        let secrets = case["secrets_b64"].as_array().unwrap();
        let Some(secret) = secrets
            .first()
            .and_then(Value::as_str)
            .map(bytes)
            .filter(|secret| !secret.is_empty())
        else {
            continue;
        };

        if !["github", "slack"].contains(&group)
            || case["expect"] != "reject"
            || case["level"] != "must"
        {
            continue;
        }

        let clock = clock_at(case["now"].as_u64().unwrap());
        // The agent uses its own clock, whatever the relay's time is.
        let rogue = Rogue::start(
            application.address,
            signed_policy(group, &secret, ""),
            clock,
        )
        .await;
        let headers: Vec<(String, String)> =
            serde_json::from_value(case["headers"].clone()).unwrap();

        let body = bytes(case["body_b64"].as_str().unwrap());
        let target = format!("{PREFIX}/x");
        let outcome = rogue
            .send(
                request("POST", target.as_bytes(), &headers, Some(body.len())),
                &body,
            )
            .await;
        assert!(
            matches!(outcome, Ok((400..=499, _)) | Err(())),
            "{case}: {outcome:?}"
        );

        assert_eq!(application.log.begun(), 0, "{case} reached the application");
        refused += 1;
    }

    assert!(refused > 20, "{refused}");
}

/// A policy with many addresses takes long on a slow link; here the relay reads none of it.
#[tokio::test]
async fn webhooks_pass_while_a_large_policy_is_sent() {
    let application = Application::start(|_| Reply::ok("reached")).await;
    let rogue = Rogue::start(application.address, open_policy(), Clock::System).await;
    // More than a stream's window.
    let ranges: Vec<_> = (0..99_000)
        .map(|number| format!("'2001:db8:abcd:{:x}:{:x}::/80'", number >> 8, number & 255))
        .collect();
    let (route, accept) = (
        format!("[[route]]\npath = '{PREFIX}/**'"),
        format!("allow_ips = [{}]", ranges.join(",")),
    );
    let large = policy(&format!("{route}\n[[route.accept]]\n{accept}"));

    rogue
        .agent
        .replace_policy(0, &large)
        .unwrap_or_else(|problems| panic!("{problems}"));

    // As many datagrams as the window allows.
    eventually("the policy is being sent", || {
        rogue.session.received() > 1000
    })
    .await;

    let target = format!("{PREFIX}/x");
    for _ in 0..20 {
        let answer = rogue
            .send(request("POST", target.as_bytes(), &[], Some(2)), b"{}")
            .await;
        assert_eq!(answer.unwrap(), (200, b"reached".to_vec()));
    }

    within("the agent stops all the same", rogue.agent.shutdown()).await;
}

#[tokio::test]
async fn a_secret_that_stays_on_the_agent_is_checked_there_and_never_sent() {
    let application = Application::start(|_| Reply::ok("reached")).await;
    let policy = signed_policy("github", b"canary", ", secret_at = 'agent'");
    let sent = serde_json::to_string(&policy.for_relay()).unwrap();
    assert!(
        !sent.contains(&data_encoding::BASE64.encode(b"canary")),
        "{sent}"
    );

    let rogue = Rogue::start(application.address, policy, Clock::System).await;
    let signature = |secret: &str| {
        vec![(
            "X-Hub-Signature-256".to_owned(),
            github_signature(secret, b"{}"),
        )]
    };

    let target = format!("{PREFIX}/x");
    let forged = rogue
        .send(
            request("POST", target.as_bytes(), &signature("guess"), Some(2)),
            b"{}",
        )
        .await;
    assert_eq!(forged.unwrap().0, 403);
    assert_eq!(application.log.begun(), 0);

    let genuine = rogue
        .send(
            request("POST", target.as_bytes(), &signature("canary"), Some(2)),
            b"{}",
        )
        .await;
    assert_eq!(genuine.unwrap().0, 200);
}

#[tokio::test]
async fn methods_sizes_websockets_and_headers() {
    let application = Application::start(|_| Reply::ok("reached")).await;
    let mut small = signed_policy("github", b"s", "");
    small.routes[0].methods = vec!["POST".to_owned()];
    small.routes[0].max_body = 10;

    let rogue = Rogue::start(application.address, small, Clock::System).await;
    let target = format!("{PREFIX}/x");
    let target = target.as_bytes();

    for (method, length, expected) in [("GET", 0, 405), ("CONNECT", 0, 405), ("POST", 11, 413)] {
        let body = vec![b'x'; length];
        let signature = vec![(
            "X-Hub-Signature-256".to_owned(),
            github_signature("s", &body),
        )];
        let outcome = rogue
            .send(request(method, target, &signature, Some(length)), &body)
            .await;
        assert_eq!(
            outcome.map(|(status, _)| status),
            Ok(expected),
            "{method} {length}"
        );
    }

    let mut upgrade = request("GET", target, &[], Some(0));
    upgrade.upgrade = true;
    let open = Rogue::start(application.address, open_policy(), Clock::System).await;
    assert_eq!(
        open.send(upgrade, b"").await.map(|(status, _)| status),
        Ok(400),
        "no route allows a WebSocket"
    );
    assert_eq!(application.log.begun(), 0);

    let smuggled = [
        ("X-Original-URL", "/admin"),
        ("X-Forwarded-For", "10.0.0.1"),
        ("Transfer-Encoding", "chunked"),
        ("Connection", "close"),
        ("hookward-request-id", "forged"),
        ("X_Forwarded_Proto", "http"),
    ];
    let headers: Vec<_> = smuggled
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec();
    assert_eq!(
        open.send(request("POST", target, &headers, Some(2)), b"{}")
            .await
            .unwrap()
            .0,
        200
    );

    let received = application.log.take().remove(0);
    assert_eq!(
        received.all("x-forwarded-for"),
        ["192.0.2.1"],
        "the relay's word, and only that"
    );

    for name in [
        "X-Original-URL",
        "Transfer-Encoding",
        "Connection",
        "X_Forwarded_Proto",
    ] {
        assert_eq!(received.header(name), None, "{name}");
    }

    assert_ne!(received.header("hookward-request-id"), Some("forged"));
}

#[tokio::test]
async fn a_broken_body_is_never_passed_on_as_a_complete_one() {
    let application = Application::start(|_| Reply::ok("reached")).await;
    let rogue = Rogue::start(application.address, open_policy(), Clock::System).await;
    let target = format!("{PREFIX}/x");

    for length in [None, Some(100_000)] {
        let begun = application.log.begun();
        let (mut writer, reader) = rogue
            .begin(request("POST", target.as_bytes(), &[], length))
            .await;
        writer.data(vec![b'x'; 50_000].into()).await.unwrap();

        let log = application.log.clone();
        hookward_tests::wait::eventually("the application sees the head", || log.begun() > begun)
            .await;
        drop((writer, reader)); // which resets the stream
        hookward_tests::wait::eventually("the application sees the break", || log.broken() > begun)
            .await;
        assert!(application.log.complete().is_empty());
    }

    // A body of another length than announced is an abort, too.
    let short = rogue
        .send(request("POST", target.as_bytes(), &[], Some(10)), b"123")
        .await;
    assert!(short.is_err() || short.unwrap().0 >= 400);
    assert!(application.log.complete().is_empty());
}

/// A wrong length in the head would make the application parse the next request's first bytes as
/// this one's body, and the rest as a request that no gate has seen.
#[tokio::test]
async fn a_false_length_smuggles_nothing() {
    // Responds as soon as it has the head, as a fast application may.
    let application = Application::start(|_| Reply::ok("")).await;
    let rogue = Rogue::start(application.address, open_policy(), Clock::System).await;
    let target = format!("{PREFIX}/a");

    for claimed in [1, 100, 235, 250, 274, 4096] {
        let lies = vec![("content-length".to_owned(), claimed.to_string())];
        let _ = rogue
            .send(request("POST", target.as_bytes(), &lies, Some(0)), b"")
            .await;
        let body = b"GET /admin/smuggled HTTP/1.1\r\nHost: x\r\n\r\n";

        let _ = rogue
            .send(
                request("POST", target.as_bytes(), &[], Some(body.len())),
                body,
            )
            .await;
    }

    let received = application.log.take();
    assert_eq!(received.len(), 12);
    assert!(
        received.iter().all(|request| request.target == target),
        "{received:?}"
    );
}

#[tokio::test]
async fn the_host_is_the_tunnels_own() {
    let application = Application::start(|_| Reply::ok("")).await;
    let rogue = Rogue::start(application.address, open_policy(), Clock::System).await;
    let foreign = |name: &str| {
        let mut request = request("POST", PREFIX.as_bytes(), &[], Some(0));
        request.headers.insert("host", name.parse().unwrap());
        request
    };

    let mut doubled = request("POST", PREFIX.as_bytes(), &[], Some(0));
    doubled
        .headers
        .append("host", "internal-admin.corp".parse().unwrap());

    for request in [
        foreign("internal-admin.corp:9999"),
        foreign("hooks.example.test:1@evil.example"),
        foreign("hooks.example.test:443/../x"),
        foreign("hooks.example.test:443, evil.example"),
        foreign("hooks.example.test:"),
        foreign("hooks.example.test:+443"),
        doubled,
    ] {
        assert_eq!(
            rogue.send(request, b"").await.map(|(status, _)| status),
            Ok(400)
        );
    }

    assert_eq!(application.log.begun(), 0);
    assert_eq!(
        rogue
            .send(foreign("HOOKS.example.test:8443"), b"")
            .await
            .map(|(status, _)| status),
        Ok(200)
    );
}

/// A relay that starts heads and ends none cannot fill the agent's memory: a bounded number per
/// connection is read, and others wait in the transport.
#[tokio::test]
async fn heads_that_do_not_end_are_bounded() {
    const PLACES: usize = 128;
    /// Start of a head frame (RFC 9114 §7.1, `protocol/frame.rs`): its type, and a length of 98,000
    /// in four bytes.
    const BEGIN: [u8; 5] = [1, 0x80, 0x01, 0x7e, 0xd0];

    let application = Application::start(|_| Reply::ok("")).await;
    let rogue = Rogue::start(application.address, open_policy(), Clock::System).await;
    let mut streams = Vec::new();

    for _ in 0..PLACES {
        let (mut send, receive) = rogue.connection.open_bi().await.unwrap();
        send.write_all(&BEGIN).await.unwrap();
        streams.push((send, receive));
    }

    let mut waiting =
        std::pin::pin!(rogue.send(request("POST", PREFIX.as_bytes(), &[], Some(0)), b""));
    let soon = tokio::time::timeout(std::time::Duration::from_millis(300), waiting.as_mut()).await;
    assert!(soon.is_err(), "no head is read beyond the bound");

    // Any end of one frees its slot.
    streams.pop().unwrap().0.reset(0_u32.into()).unwrap();
    assert_eq!(waiting.await.map(|(status, _)| status), Ok(200));
}

/// An agent that reaches a relay with another key than the joined one says so, and sends nothing.
#[tokio::test]
async fn a_relay_with_another_key_gets_no_data() {
    let (dir, relay) =
        hookward_tests::rogue::refusing(hookward_tunnel::protocol::control::RefusedReason::Host)
            .await;
    let other = tempfile::TempDir::new().unwrap();
    let pin = hookward_relay::TunnelIdentity::load_or_make(other.path())
        .unwrap()
        .pin;
    let state = hookward_agent::StateDir::open(Some(dir.path())).unwrap();
    let credential = state.credentials().unwrap().remove(0);

    let secret = hookward_core::secret::Secret::generate().unwrap();
    let at = |pin| RelayEndpoint::new(credential.relay.clone(), pin, secret.clone());

    let right = join(
        &at(credential.pin),
        &LinkSettings::default(),
        secret.clone(),
    )
    .await;
    assert!(!matches!(
        right,
        Err(hookward_agent::ConnectionError::WrongKey { .. })
    ));

    let wrong = join(&at(pin), &LinkSettings::default(), secret.clone()).await;
    assert!(
        matches!(wrong, Err(hookward_agent::ConnectionError::WrongKey { .. })),
        "{wrong:?}"
    );
    relay.abort();
}
