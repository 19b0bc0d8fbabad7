//! The four protections of FlexDeploy's page, alone and combined, with independent judges of what
//! arrives.

use hookward_agent::events::{Event, RequestResult};
use hookward_core::reason::Check;
use hookward_gate::policy::Policy;
use hookward_tests::application::{Application, Reply, flexdeploy};
use hookward_tests::sender::github_signature;
use hookward_tests::stage::{HOST, PREFIX, Plan, Stage, policy};
use hookward_tests::wait::eventually;

const HOOK: &str = "/flexdeploy/webhooks/v1/git/push";
const SECRET: &str = "It's a Secret to Everybody";

type Headers<'h> = &'h [(&'h str, &'h str)];

/// Returns a policy whose secrets are in files that are deleted after it was read.
fn with_secrets(text: &str) -> Policy {
    let dir = tempfile::TempDir::new().unwrap();
    for (name, content) in [
        ("hub", SECRET),
        ("hub2", "the next one"),
        ("tok", "t0ken"),
        ("tok2", "n3xt"),
        ("slack", "slack"),
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

#[tokio::test]
async fn every_check_must_pass_and_the_first_that_fails_is_named_to_the_owner_only() {
    let application = Application::start(|_| Reply::ok("")).await;
    let stage = stage(
        &application,
        "[[route]]\npath = '/flexdeploy/webhooks/v1/**'\nmethods = ['POST']\n[[route.accept]]\n\
         allow_ips = ['127.0.0.0/8']\ntoken = 'file:DIR/tok'\nverify = { provider = 'github', secrets = ['file:DIR/hub2', 'file:DIR/hub'] }",
    )
    .await;
    let good = github_signature(SECRET, b"{}");
    let signed = [("X-Hub-Signature-256", good.as_str())];

    let bad = github_signature("guess", b"{}");
    let forged = [("X-Hub-Signature-256", bad.as_str())];
    let token = format!("{HOOK}?token=t0ken");
    let cases: [(&str, &str, Headers<'_>, u16, Option<Check>); 7] = [
        ("POST", &token, &signed, 200, None),
        ("POST", &token, &forged, 403, Some(Check::Signature)),
        ("POST", &token, &[], 403, Some(Check::Signature)),
        ("POST", HOOK, &signed, 403, Some(Check::Token)),
        (
            "POST",
            "/flexdeploy?token=t0ken",
            &signed,
            404,
            Some(Check::Path),
        ),
        ("PUT", &token, &signed, 405, Some(Check::Method)),
        (
            "POST",
            "/flexdeploy/webhooks/v1/../admin?token=t0ken",
            &signed,
            400,
            Some(Check::Syntax),
        ),
    ];

    for (method, target, headers, status, check) in cases {
        let answer = stage.edge.request(method, target, headers, b"{}").await;
        assert_eq!(answer.status, status, "{method} {target}");

        if let Some(check) = check {
            assert!(
                !answer.text().contains(check.as_str()) || status == 405,
                "the sender is not told: {}",
                answer.text()
            );

            let id = answer.header("hookward-request-id").unwrap().to_owned();
            stage
                .reported("the owner receives an event", |report| {
                    matches!(report, Event::Refused(refused) if refused.id == id && refused.check == check && refused.status == status)
                })
                .await;
        }
    }

    let received = application.log.take();
    assert_eq!(received.len(), 1);
    assert_eq!(received[0].target, HOOK, "the token is taken out");

    let reports = stage.reports.lock().unwrap();
    let paths: Vec<_> = reports
        .iter()
        .filter_map(|report| match report {
            Event::Refused(refused) => Some(refused.path.as_str()),
            _ => None,
        })
        .collect();
    assert!(
        paths.iter().all(|path| !path.contains("t0ken")),
        "no query on a screen: {paths:?}"
    );
}

#[tokio::test]
async fn alternatives_and_routes() {
    let application = Application::start(|_| Reply::ok("")).await;
    let stage = stage(
        &application,
        "[[route]]\npath = '/flexdeploy/webhooks/v1/git/**'\nmethods = ['POST']\n\
         [[route.accept]]\nverify = { provider = 'github', secret = 'file:DIR/hub' }\n\
         [[route.accept]]\nallow_ips = ['192.0.2.0/24']\n\
         [[route]]\npath = '/flexdeploy/webhooks/v1/*/token'\nkeep_token = true\n\
         [[route.accept]]\ntoken = { at = 'header:X-Token', secrets = ['file:DIR/tok', 'file:DIR/tok2'] }\n\
         [[route]]\npath = '/closed/**'\ndeny_ips = ['127.0.0.1']\n[[route.accept]]\ntoken = 'file:DIR/tok'",
    )
    .await;

    let signature = github_signature(SECRET, b"{}");
    let cases: [(&str, Headers<'_>, u16); 6] = [
        (HOOK, &[("X-Hub-Signature-256", &signature)], 200),
        (HOOK, &[], 403),
        (
            "/flexdeploy/webhooks/v1/x/token",
            &[("x-token", "n3xt")],
            200,
        ),
        (
            "/flexdeploy/webhooks/v1/x/token",
            &[("x-token", "t0ken"), ("X-Token", "t0ken")],
            403,
        ),
        (
            "/flexdeploy/webhooks/v1/x/y/token",
            &[("x-token", "t0ken")],
            404,
        ),
        ("/closed/a?token=t0ken", &[], 403),
    ];

    for (target, headers, status) in cases {
        assert_eq!(
            stage.edge.post(target, headers, b"{}").await.status,
            status,
            "{target} {headers:?}"
        );
    }

    assert_eq!(
        application.log.take()[1].header("x-token"),
        Some("n3xt"),
        "kept, because the route says so"
    );
}

#[tokio::test]
async fn observing_reports_checks_and_relaxes_nothing_else() {
    let application = Application::start(|_| Reply::ok("")).await;
    let until = {
        let day = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_secs()
            / 86_400
            + 2;
        civil(day as i64)
    };

    let stage = stage(
        &application,
        &format!(
            "[[route]]\npath = '/flexdeploy/webhooks/v1/**'\nmethods = ['POST']\nobserve_until = {until}\n[[route.accept]]\n\
             allow_ips = ['192.0.2.0/24']\ntoken = 'file:DIR/tok'\nverify = {{ provider = 'github', secret = 'file:DIR/hub' }}"
        ),
    )
    .await;
    assert_eq!(stage.edge.post(HOOK, &[], b"{}").await.status, 200);

    stage
        .reported(
            "the relay's view",
            |report| matches!(report, Event::Refused(refused) if refused.observed && refused.check == Check::Address),
        )
        .await;

    stage
        .reported("the agent's view", |report| {
            matches!(report, Event::Request(request) if matches!(&request.outcome, RequestResult::Answered { observed: Some((Check::Address, _)), .. }))
        })
        .await;

    for (method, target, status) in [
        ("PUT", HOOK, 405),
        ("POST", "/admin", 404),
        ("POST", "/flexdeploy/webhooks/v1/%2e%2e/x", 400),
    ] {
        assert_eq!(
            stage.edge.request(method, target, &[], b"{}").await.status,
            status,
            "{method} {target}"
        );
    }
}

/// Returns the date of a day since 1970 (Howard Hinnant's days algorithms).
fn civil(days: i64) -> String {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (day, month) = (
        doy - (153 * mp + 2) / 5 + 1,
        if mp < 10 { mp + 3 } else { mp - 9 },
    );

    format!(
        "{:04}-{month:02}-{day:02}",
        yoe + era * 400 + i64::from(month <= 2)
    )
}

#[tokio::test]
async fn a_flood_of_refusals_reaches_the_owner_as_counts() {
    let application = Application::start(|_| Reply::ok("")).await;
    let stage = Stage::start(application.address, Plan::default()).await;
    let mut connection = stage.edge.http1().await;

    const FLOOD: usize = 300;

    for _ in 0..FLOOD {
        connection.send("GET", "/admin\u{7e}", HOST, &[], b"").await;
        assert_eq!(connection.answer("GET").await.status, 404);
    }

    let count = || {
        let reports = stage.reports.lock().unwrap();
        let told = reports
            .iter()
            .filter(|report| matches!(report, Event::Refused(_)))
            .count();

        let counted: u64 = reports
            .iter()
            .filter_map(|report| match report {
                Event::RefusedSummary(counts) => Some(counts.iter().map(|(_, n)| n).sum::<u64>()),
                _ => None,
            })
            .sum();

        (told, counted as usize)
    };

    eventually("all are told or counted", || {
        let (told, counted) = count();
        told + counted == FLOOD
    })
    .await;

    assert!(
        count().1 > 0,
        "a flood is not told one by one: {:?}",
        count()
    );
}

/// A stand-in for FlexDeploy's webhook resource, which checks GitHub's signature over the raw body
/// itself, from headers by their exact names.
#[tokio::test]
async fn flexdeploys_own_match_script_accepts_what_arrives() {
    let application = Application::start(flexdeploy(SECRET)).await;
    let stage = stage(
        &application,
        "[[route]]\npath = '/flexdeploy/webhooks/v1/**'\n[[route.accept]]\nverify = { provider = 'github', secret = 'file:DIR/hub' }",
    )
    .await;

    for (body, sync, event, status) in [
        (&b"{\"ref\": \"x\"}"[..], false, "push", 202),
        (b"{\"ref\": \"x\"}", true, "push", 200),
        (b"{\"ref\": \"x\"}", true, "ping", 404),
        (b"{\"ref\": \"crash\"}", true, "push", 500),
        (
            "{\"ref\": \"caf\u{e9} \u{1f680}\"}\r\n".as_bytes(),
            true,
            "push",
            200,
        ),
    ] {
        let signature = github_signature(SECRET, body);
        let mut headers = vec![
            ("X-GitHub-Event", event),
            ("X-Hub-Signature-256", &signature),
        ];

        if sync {
            headers.push(("flex-sync-webhook", "true"));
        }

        assert_eq!(
            stage.edge.post(HOOK, &headers, body).await.status,
            status,
            "{sync} {event}"
        );
    }

    assert_eq!(
        stage.edge.get("/flexdeploy").await.status,
        404,
        "the application itself stays closed"
    );
}

#[tokio::test]
async fn ports_and_names_of_the_host() {
    let application = Application::start(|_| Reply::ok("")).await;
    let stage = Stage::start(application.address, Plan::default()).await;
    let port = stage.edge.address.port();
    let sni = Some(HOST);
    for (host, sni, status) in [
        (HOST.to_owned(), sni, 200),
        (HOST.to_uppercase(), sni, 200),
        (format!("{HOST}:{port}"), sni, 200),
        (format!("{HOST}:22"), sni, 400),
        (HOST.to_owned(), Some("other.example.test"), 421),
        (
            "other.example.test".to_owned(),
            Some("other.example.test"),
            404,
        ),
        (HOST.to_owned(), None, 200),
    ] {
        // A certificate for *.example.test covers all these names.
        let Ok(stream) = stage.edge.tls(b"http/1.1", sni).await else {
            panic!("{sni:?}")
        };
        let mut stream = stream;
        let request = format!("GET {PREFIX} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        tokio::io::AsyncWriteExt::write_all(&mut stream, request.as_bytes())
            .await
            .unwrap();

        let mut answer = Vec::new();
        let _ = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut answer).await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{host} {sni:?}: {answer}"
        );
    }
}

/// Some providers test if a wrong signature gets exactly 401 (Xero, Discord).
#[tokio::test]
async fn a_provider_that_wants_401_for_a_wrong_signature_gets_it() {
    let application = Application::start(|_| Reply::ok("")).await;
    for (provider, header, status) in [
        ("xero", "x-xero-signature", 401),
        ("shopify", "X-Shopify-Hmac-Sha256", 403),
    ] {
        let text = format!(
            "[[route]]\npath = '{PREFIX}/**'\n[[route.accept]]\nverify = {{ provider = '{provider}', secret = 'file:DIR/hub' }}"
        );
        let stage = stage(&application, &text).await;
        let answer = stage
            .edge
            .post(PREFIX, &[(header, "d3Jvbmc=")], b"{}")
            .await;
        assert_eq!(
            (answer.status, answer.code()),
            (status, Some("refused")),
            "{provider}"
        );

        assert_eq!(
            answer.header("www-authenticate").is_some(),
            status == 401,
            "RFC 9110 §15.5.2"
        );
        assert_eq!(answer.body.is_empty(), status == 401, "Xero wants no body");
    }

    assert!(application.log.complete().is_empty());
}

/// Some senders lose a response whose stream is reset after it (curl 7.88), so the relay reads a
/// small body to its end.
#[tokio::test]
async fn a_refusal_over_http2_reaches_curl() {
    if !hookward_tests::process::have("curl", "apt-get install curl") {
        return;
    }

    let application = Application::start(|_| Reply::ok("")).await;
    let stage = Stage::start(application.address, Plan::default()).await;
    let (url, to) = (
        format!("https://{HOST}:{}/admin", stage.edge.address.port()),
        stage.edge.address,
    );

    let ran = tokio::task::spawn_blocking(move || {
        let connect = format!("::{}:{}", to.ip(), to.port());
        let ask = [
            "-sk",
            "--http2",
            "--connect-to",
            &connect,
            "-o",
            "/dev/null",
            "-w",
            "%{http_code} %{http_version}",
        ];

        let once = || {
            std::process::Command::new("curl")
                .args(ask)
                .args(["-d", "{}", &url])
                .output()
                .unwrap()
        };

        (0..20)
            .map(|_| String::from_utf8(once().stdout).unwrap())
            .collect::<Vec<_>>()
    });
    assert_eq!(ran.await.unwrap(), vec!["404 2"; 20]);

    assert_eq!(application.log.begun(), 0);
}
