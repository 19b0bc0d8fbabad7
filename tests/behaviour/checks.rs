//! Checks beyond the four protections: Basic authentication, JSON Web Tokens, custom schemes, rules
//! for headers and bodies, rates, lockout, the baseline policy and its limits, and client
//! addresses.

use std::io::Write as _;
use std::time::Duration;

use hookward_agent::events::{Event, RequestResult};
use hookward_core::clock::{Clock, UnixMillis};
use hookward_core::limits::Limits;
use hookward_core::reason::Check;
use hookward_gate::policy::Policy;
use hookward_relay::ForwardedField;
use hookward_tests::application::{Application, Reply};
use hookward_tests::sender::hs256;
use hookward_tests::sender::{Http1, github_signature};
use hookward_tests::stage::{HOST, PREFIX, Plan, Stage, policy};
use hookward_tests::wait::{eventually, within};

const SECRET: &str = "It's a Secret to Everybody";

/// Returns a policy whose secrets are in files that are deleted after it was read.
fn with_secrets(text: &str) -> Policy {
    let dir = tempfile::TempDir::new().unwrap();
    for (name, content) in [
        ("hub", SECRET),
        ("user", "user:pass"),
        ("tok", "t0ken"),
        ("jwt", "a secret of the issuer"),
    ] {
        std::fs::write(dir.path().join(name), content).unwrap();
    }

    policy(&text.replace("DIR", &dir.path().display().to_string()))
}

async fn stage(application: &Application, text: &str) -> Stage {
    Stage::start(
        application.address,
        Plan {
            policy: with_secrets(text),
            ..Plan::default()
        },
    )
    .await
}

async fn status(stage: &Stage, headers: &[(&str, &str)], body: &[u8]) -> u16 {
    stage.edge.post(PREFIX, headers, body).await.status
}

fn refused_by(stage: &Stage) -> Vec<Check> {
    let reports = stage.reports.lock().unwrap();
    let check = |report: &Event| match report {
        Event::Refused(refused) if !refused.observed => Some(refused.check),
        _ => None,
    };
    reports.iter().filter_map(check).collect()
}

#[tokio::test]
async fn basic_authentication_is_checked_and_taken_out() {
    let application = Application::start(|_| Reply::ok("")).await;
    let text =
        format!("[[route]]\npath = '{PREFIX}/**'\n[[route.accept]]\nbasic = 'file:DIR/user'");
    let stage = stage(&application, &text).await;
    assert_eq!(
        status(&stage, &[("Authorization", "Basic dXNlcjpwYXNz")], b"{}").await,
        200
    );

    assert_eq!(
        application.log.take()[0].header("authorization"),
        None,
        "the application does not see it"
    );

    for wrong in [
        &[][..],
        &[("Authorization", "Basic dXNlcjpvdGhlcg==")],
        &[("Authorization", "Bearer dXNlcjpwYXNz")],
    ] {
        let answer = stage.edge.post(PREFIX, wrong, b"{}").await;
        assert_eq!(answer.status, 401, "{wrong:?}");
        // Clients such as `curl --anyauth` send credentials only after that (RFC 7617 §2).
        let asked = answer.header("www-authenticate");
        assert_eq!(
            asked,
            Some("Basic realm=\"Hookward\", charset=\"UTF-8\""),
            "{wrong:?}"
        );
        let problem: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(problem["status"], 401, "{wrong:?}");
    }

    assert!(application.log.take().is_empty());
}

#[tokio::test]
async fn a_json_web_token_that_says_what_it_must() {
    let application = Application::start(|_| Reply::ok("")).await;
    let text = format!(
        "[[route]]\npath = '{PREFIX}/**'\n[[route.accept]]\n\
         jwt = {{ algs = ['HS256'], secret = 'file:DIR/jwt', iss = 'me', aud = 'hookward' }}"
    );

    let plan = Plan {
        policy: with_secrets(&text),
        clock: Clock::at(UnixMillis(1_700_000_000_000)),
        ..Plan::default()
    };
    let stage = Stage::start(application.address, plan).await;

    // Made with Python: header {"alg":"HS256","typ":"JWT"}, hmac over header.payload.
    for (payload, fits) in [
        (r#"{"iss":"me","aud":"hookward","exp":1700000060}"#, true),
        (
            r#"{"iss":"me","aud":["other","hookward"],"exp":1700000060}"#,
            true,
        ),
        (r#"{"iss":"you","aud":"hookward","exp":1700000060}"#, false),
        (r#"{"iss":"me","aud":"other","exp":1700000060}"#, false),
        (r#"{"iss":"me","aud":"hookward","exp":1699999990}"#, false),
        (
            r#"{"iss":"me","aud":"hookward","exp":1700000060,"nbf":1700000060}"#,
            false,
        ),
        (r#"{"iss":"me","aud":"hookward"}"#, false),
    ] {
        let bearer = format!("Bearer {}", hs256(payload, b"a secret of the issuer"));
        let expected = if fits { 200 } else { 403 };
        assert_eq!(
            status(&stage, &[("Authorization", &bearer)], b"{}").await,
            expected,
            "{payload}"
        );
    }

    let payload = r#"{"iss":"me","aud":"hookward","exp":1700000060}"#;
    let encoded = data_encoding::BASE64URL_NOPAD.encode(payload.as_bytes());

    for forged in [
        format!("Bearer {}", hs256(payload, b"another secret")),
        format!("Bearer eyJhbGciOiJub25lIn0.{encoded}."),
        format!("Bearer {}x", hs256(payload, b"a secret of the issuer")),
        hs256(payload, b"a secret of the issuer"),
    ] {
        assert_eq!(
            status(&stage, &[("Authorization", &forged)], b"{}").await,
            403,
            "{forged}"
        );
    }
}

#[tokio::test]
async fn a_scheme_of_ones_own_needs_no_release() {
    let application = Application::start(|_| Reply::ok("")).await;
    let text = format!(
        "[[route]]\npath = '{PREFIX}/**'\n[[route.accept]]\n[route.accept.verify]\nsecret = 'file:DIR/hub'\n\
         [route.accept.verify.scheme]\nalg = 'hmac-sha256'\n\
         sig = {{ at = 'header:X-Mine', enc = 'hex', prefix = 'v7=' }}\nmsg = '{{header:X-Id}}|{{body}}'"
    );
    let stage = stage(&application, &text).await;
    let signed = github_signature(SECRET, b"7|{}").replace("sha256=", "v7=");
    assert_eq!(
        status(&stage, &[("X-Id", "7"), ("X-Mine", &signed)], b"{}").await,
        200
    );

    assert_eq!(
        status(&stage, &[("X-Id", "8"), ("X-Mine", &signed)], b"{}").await,
        403
    );
    assert_eq!(
        status(&stage, &[("X-Id", "7"), ("X-Mine", &signed)], b"{ }").await,
        403
    );

    let wide = github_signature(SECRET, b"7|8|{}").replace("sha256=", "v7=");
    assert_eq!(
        status(&stage, &[("X-Id", "7|8"), ("X-Mine", &wide)], b"{}").await,
        403,
        "it could be cut in two ways"
    );
}

#[tokio::test]
async fn rules_about_headers_and_the_body() {
    let application = Application::start(|_| Reply::ok("")).await;
    let text = format!(
        "[[route]]\npath = '{PREFIX}/**'\n[[route.accept]]\nverify = {{ provider = 'github', secret = 'file:DIR/hub' }}\n\
         content_type = 'application/json'\nheaders = {{ X-GitHub-Event = ['push', 'ping'] }}\n\
         body = {{ ref = 'refs/heads/main', 'repository.private' = true }}"
    );
    let stage = stage(&application, &text).await;
    let body = br#"{"ref":"refs/heads/main","repository":{"private":true}}"#;
    let send = async |kind: &str, event: &str, body: &[u8]| {
        let signature = github_signature(SECRET, body);
        status(
            &stage,
            &[
                ("Content-Type", kind),
                ("X-GitHub-Event", event),
                ("X-Hub-Signature-256", &signature),
            ],
            body,
        )
        .await
    };
    assert_eq!(
        send("application/json; charset=utf-8", "push", body).await,
        200
    );

    assert_eq!(send("application/json", "ping", body).await, 200);
    assert_eq!(send("text/plain", "push", body).await, 403);
    assert_eq!(send("application/json", "release", body).await, 403);

    for other in [
        &br#"{"ref":"refs/heads/dev","repository":{"private":true}}"#[..],
        br#"{"ref":"refs/heads/main","repository":{"private":false}}"#,
        br#"{"ref":"refs/heads/main","repository":{"private":true},"ref":"refs/heads/dev"}"#,
        br#"{"ref":"refs/heads/main","REF":"refs/heads/dev","repository":{"private":true}}"#,
        br#"{"ref":["refs/heads/main"],"repository":{"private":true}}"#,
        b"ref=refs/heads/main",
        b"",
    ] {
        assert_eq!(
            send("application/json", "push", other).await,
            403,
            "{}",
            String::from_utf8_lossy(other)
        );
    }

    eventually("the owner knows which", || refused_by(&stage).len() == 9).await;
    let found = refused_by(&stage);
    assert_eq!(
        found
            .iter()
            .filter(|check| **check == Check::BodyRule)
            .count(),
        7,
        "{found:?}"
    );

    assert!(
        found.contains(&Check::ContentType) && found.contains(&Check::Header),
        "{found:?}"
    );
}

#[tokio::test]
async fn which_secret_was_right_is_reported_by_its_name() {
    let application = Application::start(|_| Reply::ok("")).await;
    let dir = tempfile::TempDir::new().unwrap();
    std::fs::write(dir.path().join("old"), "the old one").unwrap();
    std::fs::write(dir.path().join("new"), "the new one").unwrap();

    let at = dir.path().display();
    let text = format!(
        "[[route]]\npath = '{PREFIX}/**'\n[[route.accept]]\n\
         verify = {{ provider = 'github', secrets = ['file:{at}/new', 'file:{at}/old'] }}"
    );

    let stage = Stage::start(
        application.address,
        Plan {
            policy: policy(&text),
            ..Plan::default()
        },
    )
    .await;
    let signature = github_signature("the old one", b"{}");
    assert_eq!(
        status(&stage, &[("X-Hub-Signature-256", &signature)], b"{}").await,
        200
    );

    let name = format!("file:{at}/old");
    stage
        .reported("the name", |report| {
            matches!(report, Event::Request(request)
                if matches!(&request.outcome, RequestResult::Answered { secrets, .. } if *secrets == [name.as_str()]))
        })
        .await;
}

#[tokio::test]
async fn rates_of_a_client_a_route_and_the_tunnel() {
    let application = Application::start(|_| Reply::ok("")).await;
    let text = format!(
        "client_rate = '4/m'\nrate = '3/m'\n[[route]]\npath = '{PREFIX}/a/**'\nrate = '2/m'\naccept.token = 'file:DIR/tok'\n\
         [[route]]\npath = '{PREFIX}/b/**'\naccept.token = 'file:DIR/tok'"
    );
    let clock = Clock::at(UnixMillis(1_700_000_000_000));
    let proxies = vec!["127.0.0.1/32".parse().unwrap()];

    let plan = Plan {
        policy: with_secrets(&text),
        clock,
        trusted_proxies: proxies,
        ..Plan::default()
    };
    let stage = Stage::start(application.address, plan).await;

    let send = async |from: &str, path: &str, token: &str| {
        let target = format!("{PREFIX}/{path}?token={token}");
        stage
            .edge
            .post(&target, &[("X-Forwarded-For", from)], b"{}")
            .await
    };

    // Unknown senders use up only their own rate, not the route's and the tunnel's.
    for n in 0..4 {
        assert_eq!(send("198.51.100.1", "a", "wrong").await.status, 403, "{n}");
    }

    let limited = send("198.51.100.1", "a", "wrong").await;
    assert_eq!(
        (limited.status, limited.code()),
        (429, Some("rate_limited"))
    );
    assert_eq!(limited.header("retry-after"), Some("15"), "four a minute");
    assert_eq!(send("192.0.2.1", "a", "t0ken").await.status, 200);
    assert_eq!(send("192.0.2.2", "a", "t0ken").await.status, 200);

    assert_eq!(
        send("192.0.2.3", "a", "t0ken").await.status,
        429,
        "the route's rate"
    );

    assert_eq!(
        send("192.0.2.4", "b", "t0ken").await.status,
        200,
        "another route"
    );

    assert_eq!(
        send("192.0.2.5", "b", "t0ken").await.status,
        429,
        "the tunnel's rate"
    );
    stage.clock.pass(Duration::from_secs(60));

    assert_eq!(
        send("192.0.2.3", "a", "t0ken").await.status,
        200,
        "a minute later"
    );

    for n in 0..3 {
        assert_eq!(send("2001:db8::1", "a", "wrong").await.status, 403, "{n}");
    }

    assert_eq!(send("2001:db8::ffff", "a", "wrong").await.status, 403);
    assert_eq!(
        send("2001:db8::2", "a", "wrong").await.status,
        429,
        "one customer's /64 is one client"
    );
    assert_eq!(application.log.take().len(), 4);
}

#[tokio::test]
async fn failures_lock_out_an_address_but_no_good_sender() {
    let application = Application::start(|_| Reply::ok("")).await;
    let text = format!(
        "lockout = {{ failures = 3, within = '1m', for = '5m' }}\n[[route]]\npath = '{PREFIX}/**'\n\
         [[route.accept]]\nallow_ips = ['192.0.2.0/24']\nverify = {{ provider = 'github', secret = 'file:DIR/hub' }}\n\
         [[route.accept]]\ntoken = 'file:DIR/tok'"
    );
    let clock = Clock::at(UnixMillis(1_700_000_000_000));
    let proxies = vec!["127.0.0.1/32".parse().unwrap()];

    let plan = Plan {
        policy: with_secrets(&text),
        clock,
        trusted_proxies: proxies,
        ..Plan::default()
    };
    let stage = Stage::start(application.address, plan).await;

    let send = async |from: Option<&str>, token: &str| {
        let from: Vec<_> = from
            .map(|from| ("X-Forwarded-For", from))
            .into_iter()
            .collect();

        stage
            .edge
            .post(&format!("{PREFIX}?token={token}"), &from, b"{}")
            .await
            .status
    };

    for stranger in [Some("198.51.100.1"), Some("192.0.2.7"), None] {
        for _ in 0..4 {
            send(stranger, "wrong").await;
        }
    }

    assert_eq!(
        send(Some("198.51.100.1"), "t0ken").await,
        429,
        "locked out, even with the right token"
    );

    assert_eq!(
        send(Some("192.0.2.7"), "t0ken").await,
        200,
        "an address that a route allows is never locked out"
    );
    assert_eq!(send(None, "t0ken").await, 200, "nor is a trusted proxy");

    assert_eq!(
        send(Some("198.51.100.2"), "t0ken").await,
        200,
        "nor is anybody else"
    );
    stage.clock.pass(Duration::from_secs(301));

    assert_eq!(
        send(Some("198.51.100.1"), "t0ken").await,
        200,
        "it lasts minutes"
    );
}

/// Rates and lockouts use monotonic time: setting the clock by a day changes neither.
#[tokio::test]
async fn a_clock_that_is_set_opens_and_closes_nothing() {
    const DAY_MS: u64 = 86_400_000;
    const BEGIN: UnixMillis = UnixMillis(1_700_000_000_000);

    let application = Application::start(|_| Reply::ok("")).await;
    let text = format!(
        "client_rate = '5/m'\nlockout = {{ failures = 3, within = '1m', for = '5m' }}\n[[route]]\npath = '{PREFIX}/**'\n\
         rate = '2/m'\naccept.token = 'file:DIR/tok'"
    );

    for set_to in [BEGIN.0 - DAY_MS, BEGIN.0 + DAY_MS] {
        let proxies = vec!["127.0.0.1/32".parse().unwrap()];
        let plan = Plan {
            policy: with_secrets(&text),
            clock: Clock::at(BEGIN),
            trusted_proxies: proxies,
            ..Plan::default()
        };
        let stage = Stage::start(application.address, plan).await;

        let send = async |from: &str, token: &str| {
            stage
                .edge
                .post(
                    &format!("{PREFIX}?token={token}"),
                    &[("X-Forwarded-For", from)],
                    b"{}",
                )
                .await
                .status
        };
        assert_eq!(send("192.0.2.1", "t0ken").await, 200);

        for _ in 0..3 {
            assert_eq!(send("198.51.100.1", "wrong").await, 403);
        }

        assert_eq!(send("198.51.100.1", "t0ken").await, 429, "locked out");
        stage.clock.set(UnixMillis(set_to));
        assert_eq!(send("198.51.100.1", "t0ken").await, 429, "still locked out");
        assert_eq!(
            send("192.0.2.2", "t0ken").await,
            200,
            "the rate has one left"
        );
        assert_eq!(send("192.0.2.3", "t0ken").await, 429, "and no more");

        stage.clock.pass(Duration::from_secs(301));
        assert_eq!(
            send("198.51.100.1", "t0ken").await,
            200,
            "five minutes later"
        );
    }
}

/// A locked-out client learns nothing about a token beside a signature, not even from `100
/// Continue`.
#[tokio::test]
async fn a_lockout_hides_whether_a_token_is_right() {
    let application = Application::start(|_| Reply::ok("")).await;
    let text = format!(
        "lockout = {{ failures = 3, within = '1m', for = '5m' }}\n[[route]]\npath = '{PREFIX}/**'\n[[route.accept]]\n\
         token = 'file:DIR/tok'\nverify = {{ provider = 'github', secret = 'file:DIR/hub' }}"
    );

    let stage = Stage::start(
        application.address,
        Plan {
            policy: with_secrets(&text),
            ..Plan::default()
        },
    )
    .await;

    for _ in 0..3 {
        assert_eq!(
            stage
                .edge
                .post(&format!("{PREFIX}?token=wrong"), &[], b"{}")
                .await
                .status,
            403
        );
    }

    let mut begun = Vec::new();
    for token in ["wrong", "t0ken"] {
        let mut connection = stage.edge.http1().await;
        let head = format!(
            "POST {PREFIX}?token={token} HTTP/1.1\r\nHost: {HOST}\r\nX-Hub-Signature-256: sha256={}\r\n\
             Content-Length: 2\r\nExpect: 100-continue\r\n\r\n",
            "0".repeat(64)
        );
        connection.raw(head.as_bytes()).await;
        begun.push(connection.head().await.unwrap().status);
        connection.raw(b"{}").await;

        assert_eq!(connection.answer("POST").await.status, 429, "{token}");
    }

    assert_eq!(begun, [100, 100]);
    let right = github_signature(SECRET, b"{}");
    let signed = [("X-Hub-Signature-256", right.as_str())];
    assert_eq!(
        stage
            .edge
            .post(&format!("{PREFIX}?token=t0ken"), &signed, b"{}")
            .await
            .status,
        200
    );
}

/// Other customers of a provider send from its addresses; their failures do not lock the provider
/// out.
#[tokio::test]
async fn a_right_signature_passes_a_lockout() {
    let application = Application::start(|_| Reply::ok("")).await;
    let text = format!(
        "lockout = {{ failures = 3, within = '1m', for = '5m' }}\n[[route]]\npath = '{PREFIX}/**'\n\
         accept.verify = {{ provider = 'github', secret = 'file:DIR/hub' }}"
    );

    let stage = Stage::start(
        application.address,
        Plan {
            policy: with_secrets(&text),
            ..Plan::default()
        },
    )
    .await;
    let wrong = github_signature("another customer's", b"{}");

    for _ in 0..3 {
        assert_eq!(
            status(&stage, &[("X-Hub-Signature-256", &wrong)], b"{}").await,
            403
        );
    }

    assert_eq!(
        status(&stage, &[("X-Hub-Signature-256", &wrong)], b"{}").await,
        429,
        "locked out"
    );

    let right = github_signature(SECRET, b"{}");
    assert_eq!(
        status(&stage, &[("X-Hub-Signature-256", &right)], b"{}").await,
        200
    );
}

#[tokio::test]
async fn the_baseline_policy_is_what_no_tunnel_relaxes() {
    let application = Application::start(|_| Reply::ok("")).await;
    let dir = tempfile::TempDir::new().unwrap();
    let baseline = dir.path().join("baseline.toml");
    let write = |text: &str| {
        let mut file = std::fs::File::create(dir.path().join("new")).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        std::fs::rename(dir.path().join("new"), &baseline).unwrap();
    };

    let allowing = |range: &str| {
        format!("[[route]]\npath = '{PREFIX}/**'\nmethods = ['POST']\naccept.allow_ips = '{range}'")
    };
    write(&allowing("127.0.0.0/8"));

    let text = "[[route]]\npath = '/**'\naccept.open = true";
    let plan = Plan {
        policy: policy(text),
        baseline: Some(baseline.clone()),
        ..Plan::default()
    };
    let stage = Stage::start(application.address, plan).await;
    assert_eq!(status(&stage, &[], b"{}").await, 200);

    assert_eq!(
        stage.edge.post("/admin", &[], b"{}").await.status,
        404,
        "the tunnel would open it"
    );
    assert_eq!(stage.edge.get(PREFIX).await.status, 405);

    // An invalid baseline policy leaves the old one in force; the next valid one replaces it.
    write("[[route]]\npath = 'nowhere'\n");
    write(&allowing("192.0.2.0/24"));

    let mut refused = false;
    while !refused {
        refused = within("the new baseline policy", status(&stage, &[], b"{}")).await == 403;
    }

    let of_baseline = |report: &Event| matches!(report, Event::Refused(refused) if refused.reason.starts_with("the relay's baseline policy: "));
    stage.reported("whose refusal it is", of_baseline).await;
}

#[tokio::test]
async fn the_operators_limits_are_named_to_the_agent() {
    use hookward_tests::stage;

    let policy = with_secrets(&format!(
        "rate = '50/s'\n[[route]]\npath = '{PREFIX}/**'\nmax_body = '20MiB'\nanswer_timeout = '120s'\n\
         accept.allow_ips = ['192.0.2.0/24', '198.51.100.0/24']\n[[route]]\npath = '/b'\naccept.token = 'file:DIR/tok'"
    ));
    let limits = Limits {
        policy_routes: 1,
        policy_ranges: 1,
        policy_body: 1 << 20,
        policy_answer_timeout: std::time::Duration::from_secs(60),
        policy_rate: 10,
        ..Limits::default()
    };

    let message = stage::refused(Plan {
        policy,
        limits,
        ..Plan::default()
    })
    .await;

    for limit in [
        "policy_routes",
        "policy_ranges",
        "policy_body",
        "policy_answer_timeout",
        "policy_rate",
    ] {
        assert!(message.contains(limit), "{limit} in {message}");
    }
}

#[tokio::test]
async fn a_lower_rate_of_the_operators_holds_for_every_tunnel() {
    let application = Application::start(|_| Reply::ok("")).await;
    let limits = Limits {
        policy_rate: 2,
        ..Limits::default()
    };
    let clock = Clock::at(UnixMillis(1_700_000_000_000));

    let stage = Stage::start(
        application.address,
        Plan {
            limits,
            clock,
            ..Plan::default()
        },
    )
    .await;

    let mut statuses = Vec::new();
    for _ in 0..3 {
        statuses.push(status(&stage, &[], b"{}").await);
    }

    assert_eq!(statuses, [200, 200, 429]);
}

#[tokio::test]
async fn the_field_of_the_proxies_is_the_one_that_is_set_and_no_other() {
    let application = Application::start(|_| Reply::ok("")).await;
    let text = format!("[[route]]\npath = '{PREFIX}/**'\naccept.allow_ips = '192.0.2.1'");
    let (forwarded, proxies) = (
        ForwardedField::Forwarded,
        vec!["127.0.0.1/32".parse().unwrap()],
    );

    let plan = Plan {
        policy: policy(&text),
        forwarded,
        trusted_proxies: proxies,
        ..Plan::default()
    };
    let stage = Stage::start(application.address, plan).await;

    for (headers, expected) in [
        (&[("Forwarded", "for=192.0.2.1;proto=https")][..], 200),
        (&[("Forwarded", "for=198.51.100.1, for=192.0.2.1")], 200),
        (&[("Forwarded", "for=192.0.2.1, for=198.51.100.1")], 403),
        (&[("Forwarded", "for=unknown")], 400),
        (&[("X-Forwarded-For", "192.0.2.1")], 403),
        (&[], 403),
    ] {
        assert_eq!(
            status(&stage, headers, b"{}").await,
            expected,
            "{headers:?}"
        );
    }
}

#[tokio::test]
async fn the_proxy_protocol_of_trusted_proxies() {
    let application = Application::start(|_| Reply::ok("")).await;
    let text = format!("[[route]]\npath = '{PREFIX}/**'\naccept.allow_ips = '192.0.2.1'");
    let proxies = vec!["127.0.0.1/32".parse().unwrap()];
    let plan = Plan {
        policy: policy(&text),
        proxy_protocol: true,
        trusted_proxies: proxies,
        ..Plan::default()
    };
    let stage = Stage::start(application.address, plan).await;

    let v2 = |source: [u8; 4]| {
        let addresses = [&source[..], &[127, 0, 0, 1, 0x30, 0x39, 1, 0xbb]].concat();
        [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"[..], &addresses].concat()
    };

    for (header, expected) in [
        (
            b"PROXY TCP4 192.0.2.1 127.0.0.1 12345 443\r\n".to_vec(),
            Some(200),
        ),
        (
            b"PROXY TCP4 198.51.100.1 127.0.0.1 12345 443\r\n".to_vec(),
            Some(403),
        ),
        (v2([192, 0, 2, 1]), Some(200)),
        (v2([198, 51, 100, 1]), Some(403)),
        (b"PROXY UNKNOWN\r\n".to_vec(), Some(403)),
        (b"\r\n\r\n\0\r\nQUIT\n\x20\x00\0\0".to_vec(), Some(403)),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x00\0\0".to_vec(), Some(403)),
        (b"".to_vec(), None),
        (b"PROXY nonsense\r\n".to_vec(), None),
    ] {
        let name = String::from_utf8_lossy(&header).into_owned();
        let taken = within(
            "an answer",
            stage.edge.tls_behind(&header, b"http/1.1", Some(HOST)),
        )
        .await;
        let answered = match taken {
            Ok(stream) => {
                let mut connection = Http1::new(stream);
                // The sender's claim is never read, because this proxy speaks no HTTP.
                let claim = [
                    ("X-Forwarded-For", "192.0.2.1"),
                    ("Forwarded", "for=192.0.2.1"),
                ];
                connection.send("POST", PREFIX, HOST, &claim, b"{}").await;

                connection
                    .try_answer("POST")
                    .await
                    .map(|answer| answer.status)
            }
            Err(_) => None,
        };
        assert_eq!(answered, expected, "{name:?}");
    }
}
