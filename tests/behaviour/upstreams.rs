//! Applications of every kind: over https, on a Unix socket, over HTTP/2; their Host values; and
//! reports of unreachable ones.

use hookward_agent::UpstreamArgs;
use hookward_agent::events::{Event, RequestResult};
use hookward_tests::application::{Application, Reply};
use hookward_tests::process::{Process, run};
use hookward_tests::stage::{HOST, PREFIX, Plan, Stage, policy};
use hookward_tests::upstream;
use serde_json::json;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;

use super::programs::{edge, off, target};

const HOOK: &str = "/flexdeploy/webhooks/v1/git/push";

fn args() -> UpstreamArgs {
    let (upstream_ca, upstream_host) = (None, "preserve".to_owned());
    UpstreamArgs {
        upstream_ca,
        upstream_insecure: false,
        upstream_http2: false,
        upstream_host,
    }
}

async fn stage(application: &str, args: &UpstreamArgs) -> Stage {
    let upstream = hookward_agent::application(application, args)
        .unwrap_or_else(|problems| panic!("{problems:?}"));
    Stage::start(
        ([127, 0, 0, 1], 1).into(),
        Plan {
            upstream: Some(upstream),
            ..Plan::default()
        },
    )
    .await
}

/// A certificate that an application has made for itself is trusted if exactly this one is given,
/// as with curl, whatever its CA flag. A wrong name is refused with the reason.
#[tokio::test]
async fn a_self_signed_certificate_that_is_given_is_trusted() {
    use rcgen::{BasicConstraints, IsCa};

    for is_ca in [
        IsCa::NoCa,
        IsCa::ExplicitNoCa,
        IsCa::Ca(BasicConstraints::Unconstrained),
    ] {
        let secure = upstream::over_tls_by(false, is_ca).await;
        let (ca, port) = (Some(secure.ca.clone()), secure.address.port());
        let given = UpstreamArgs {
            upstream_ca: ca,
            ..args()
        };
        let trusted = stage(&format!("https://localhost:{port}"), &given).await;
        assert_eq!(trusted.edge.post(HOOK, &[], b"x").await.status, 200);

        let other = stage(&format!("https://127.0.0.1:{port}"), &given).await;
        assert_eq!(other.edge.post(HOOK, &[], b"x").await.status, 502);
        let named = |report: &Event| matches!(report, Event::Application { message, .. } if message.contains("by a name that its certificate has"));
        other.reported("the name", named).await;

        // A different certificate is not trusted.
        let another = upstream::over_tls_by(false, IsCa::NoCa).await;
        let mistaken = UpstreamArgs {
            upstream_ca: Some(another.ca.clone()),
            ..args()
        };
        let untrusted = stage(&format!("https://localhost:{port}"), &mistaken).await;
        assert_eq!(untrusted.edge.post(HOOK, &[], b"x").await.status, 502);

        let (url, ca) = (
            format!("https://localhost:{port}/x"),
            secure.ca.display().to_string(),
        );
        let sent = off(move || {
            let args = [
                "send",
                &url,
                "--provider",
                "github",
                "--secret",
                "env:S",
                "--cacert",
                &ca,
            ];

            run("hookward", &args, &[("S", "x")], "")
        })
        .await;

        assert!(sent.out.starts_with("200"), "{sent:?}");
    }
}

#[tokio::test]
async fn https_is_verified_unless_the_user_says_otherwise() {
    let secure = upstream::over_tls(false).await;
    let url = format!("https://localhost:{}", secure.address.port());
    let unknown = stage(&url, &args()).await;
    let answer = unknown.edge.post(HOOK, &[], b"x").await;
    assert_eq!(
        (answer.status, answer.code()),
        (502, Some("upstream_unreachable"))
    );

    let unverified = |report: &Event| matches!(report, Event::Application { message, .. } if message.contains("--upstream-ca"));
    unknown.reported("the user hears why", unverified).await;

    let trusted = stage(
        &url,
        &UpstreamArgs {
            upstream_ca: Some(secure.ca.clone()),
            ..args()
        },
    )
    .await;

    for _ in 0..3 {
        let answer = trusted.edge.post(HOOK, &[], b"body").await;
        assert_eq!(
            (answer.status, answer.text()),
            (200, format!("HTTP/1.1 {HOST} {HOOK} body"))
        );
    }

    let insecure = stage(
        &url,
        &UpstreamArgs {
            upstream_insecure: true,
            ..args()
        },
    )
    .await;
    assert_eq!(insecure.edge.post(HOOK, &[], b"x").await.status, 200);

    // The right authority, and another name than the certificate's.
    let other = format!("https://127.0.0.1:{}", secure.address.port());
    let other = stage(
        &other,
        &UpstreamArgs {
            upstream_ca: Some(secure.ca.clone()),
            ..args()
        },
    )
    .await;
    assert_eq!(other.edge.post(HOOK, &[], b"x").await.status, 502);

    // And each addressed with the other's scheme.
    let mistaken = stage(&secure.address.to_string(), &args()).await;
    assert_eq!(mistaken.edge.post(HOOK, &[], b"x").await.status, 502);

    let broke = |report: &Event| matches!(report, Event::Request(request) if matches!(&request.outcome, RequestResult::Failed { reason, .. } if reason.contains("does it speak https? Then use https://")));
    mistaken.reported("that it may be https", broke).await;
    let plain = Application::raw(|mut stream| async move {
        let _ = stream
            .write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
            .await;
    })
    .await;

    let mistaken = stage(
        &format!("https://localhost:{}", plain.address.port()),
        &args(),
    )
    .await;
    let plain = |report: &Event| matches!(report, Event::Application { message, .. } if message.contains("without TLS?"));
    mistaken.reported("that it may be http", plain).await;
}

#[tokio::test]
async fn a_unix_socket() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("app.sock");
    upstream::on_unix_socket(&path);

    let stage = stage(&format!("unix:{}", path.display()), &args()).await;
    for _ in 0..3 {
        let answer = stage.edge.post(HOOK, &[], b"body").await;
        assert_eq!(
            (answer.status, answer.text()),
            (200, format!("HTTP/1.1 {HOST} {HOOK} body"))
        );
    }
}

#[tokio::test]
async fn http2_in_clear_text_and_over_tls() {
    let http2 = UpstreamArgs {
        upstream_http2: true,
        ..args()
    };
    let address = upstream::http2_in_clear_text().await;
    let clear = stage(&address.to_string(), &http2).await;
    let secure = upstream::over_tls(true).await;
    let url = format!("https://localhost:{}", secure.address.port());

    let over_tls = stage(
        &url,
        &UpstreamArgs {
            upstream_ca: Some(secure.ca.clone()),
            ..http2
        },
    )
    .await;
    for stage in [clear, over_tls] {
        let large = vec![b'x'; 300_000];
        for body in [&b""[..], b"body", &large] {
            let answer = stage.edge.post(HOOK, &[("X-Case", "1")], body).await;
            let expected = format!("HTTP/2.0 {HOST} {HOOK} {}", String::from_utf8_lossy(body));
            assert_eq!((answer.status, answer.text() == expected), (200, true));
        }
    }
}

#[tokio::test]
async fn what_host_says() {
    let application =
        Application::start(|request| Reply::ok(request.header("host").unwrap())).await;
    let address = application.address.to_string();

    for (host, expected) in [
        ("preserve", HOST),
        ("rewrite", &address),
        ("app.internal", "app.internal"),
    ] {
        let stage = stage(
            &address,
            &UpstreamArgs {
                upstream_host: host.to_owned(),
                ..args()
            },
        )
        .await;
        assert_eq!(
            stage.edge.post(HOOK, &[], b"x").await.text(),
            expected,
            "{host}"
        );

        assert_eq!(
            application.log.take()[0].header("x-forwarded-host"),
            Some(HOST)
        );
    }
}

#[tokio::test]
async fn an_unreachable_application_and_its_recovery_are_reported() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);

    let stage = stage(&address.to_string(), &args()).await;
    let down = |report: &Event| matches!(report, Event::Application { message, .. } if message.contains("is unreachable"));
    stage
        .reported("the agent reports it before the first webhook", down)
        .await;

    let _again = tokio::net::TcpListener::bind(address).await.unwrap();
    let back = |report: &Event| matches!(report, Event::Application { message, .. } if message.contains("now accepts connections"));
    stage.reported("the agent reports its return", back).await;
}

#[tokio::test]
async fn an_application_that_stops_while_idle_is_reported() {
    let application = Application::start(|_| Reply::ok("")).await;
    let stage = stage(&application.address.to_string(), &args()).await;
    assert_eq!(stage.edge.post(HOOK, &[], b"x").await.status, 200);
    drop(application);

    let down = |report: &Event| matches!(report, Event::Application { message, .. } if message.contains("is unreachable"));
    stage
        .reported("the agent reports it before the next webhook", down)
        .await;
}

#[tokio::test]
async fn an_unresponsive_application_and_its_recovery_are_reported() {
    let application = Application::start(|request| match request.target.ends_with("/hang") {
        true => Reply::Silence,
        false => Reply::ok(""),
    })
    .await;
    let policy = policy(&format!(
        "[[route]]\npath = '{PREFIX}/**'\nanswer_timeout = '1s'\n[[route.accept]]\nopen = true"
    ));

    let stage = Stage::start(
        application.address,
        Plan {
            policy,
            ..Plan::default()
        },
    )
    .await;

    for _ in 0..2 {
        assert_eq!(
            stage
                .edge
                .post(&format!("{HOOK}/hang"), &[], b"x")
                .await
                .status,
            504
        );
    }

    let silent = |report: &Event| matches!(report, Event::Application { message, .. } if message.contains("has not answered within 1 s"));
    stage.reported("the agent reports it", silent).await;
    let count = stage
        .reports
        .lock()
        .unwrap()
        .iter()
        .filter(|report| silent(report))
        .count();
    assert_eq!(count, 1, "once");

    assert_eq!(stage.edge.post(HOOK, &[], b"x").await.status, 200);
    let answers = |report: &Event| matches!(report, Event::Application { message, .. } if message.contains("is reachable again"));
    stage
        .reported("the agent reports its response", answers)
        .await;
}

#[tokio::test]
async fn an_unverified_certificate_is_warned_about_at_every_start() {
    let secure = upstream::over_tls(false).await;
    let url = format!("https://localhost:{}", secure.address.port());
    let dir = TempDir::new().unwrap();
    let state = dir.path().to_owned();

    off(move || {
        for _ in 0..2 {
            let state = state.to_str().unwrap();
            let local = [
                "--local=127.0.0.1:0",
                "--log-format",
                "json",
                "--state-dir",
                state,
            ];
            let args = [&["http", &url, "--upstream-insecure"][..], &local].concat();
            let mut process = Process::start("hookward", &args, &[]);
            let ready = process.event("ready");
            assert!(ready["url"].is_string(), "{ready}");

            let said = process.out().into_iter().chain(process.err());
            assert!(
                said.into_iter()
                    .any(|line| line.contains("certificate is not verified")),
                "it is warned about"
            );
        }
    })
    .await;
}

#[test]
fn mistakes_in_the_application_are_reported_at_startup() {
    let wrong = |application: &str, args: &UpstreamArgs| {
        hookward_agent::application(application, args)
            .err()
            .unwrap()
    };
    let insecure = UpstreamArgs {
        upstream_insecure: true,
        upstream_host: "a\nb".to_owned(),
        ..args()
    };
    assert_eq!(wrong("8000", &insecure).len(), 2, "both mistakes");

    let nowhere = UpstreamArgs {
        upstream_ca: Some("/nowhere".into()),
        ..args()
    };
    assert!(
        wrong("https://a", &nowhere)[0]
            .to_string()
            .contains("/nowhere")
    );
}

/// Two tunnels of one agent, from a file, each with its own host, policy and application.
#[tokio::test]
async fn several_tunnels_from_a_file() {
    let deploy = Application::start(|_| Reply::ok("deploy")).await;
    let chat = Application::start(|_| Reply::ok("chat")).await;
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("hookward.toml");
    let policy = "[[route]]\npath = '/chat/**'\n[[route.accept]]\ntoken = 'env:CHAT'\n";
    std::fs::write(dir.path().join("chat.toml"), policy).unwrap();

    let (one, two) = (deploy.address.port(), chat.address.port());
    let text = format!(
        "[[tunnel]]\napplication = '{one}'\nhost = 'deploy'\nwebhook = 'git/push'\n\n\
         [[tunnel]]\napplication = '{two}'\nhost = 'chat'\npolicy = 'chat.toml'\n"
    );
    std::fs::write(&file, text).unwrap();

    let state = dir.path().join("state");
    let (_process, ready) = off(move || {
        let (file, state) = (
            file.to_str().unwrap().to_owned(),
            state.to_str().unwrap().to_owned(),
        );
        let args = [
            "start",
            &file,
            "--local=127.0.0.1:0",
            "--log-format",
            "json",
            "--state-dir",
            &state,
        ];

        let mut process = Process::start("hookward", &args, &[("CHAT", "s3cret-and-more")]);
        let ready = [process.event("ready"), process.nth_event("ready", 1)];
        (process, ready)
    })
    .await;

    assert_eq!(
        json!([ready[0]["host"], ready[1]["host"]]),
        json!(["deploy.localhost", "chat.localhost"])
    );

    let (deploy_edge, chat_edge) = (
        edge(&ready[0], "deploy.localhost"),
        edge(&ready[1], "chat.localhost"),
    );
    assert_eq!(
        deploy_edge.post(&target(&ready[0]), &[], b"x").await.text(),
        "deploy"
    );

    assert_eq!(
        chat_edge
            .post("/chat/x?token=s3cret-and-more", &[], b"x")
            .await
            .text(),
        "chat"
    );

    assert_eq!(
        chat_edge.post(&target(&ready[0]), &[], b"x").await.status,
        404,
        "each has its own policy"
    );

    assert_eq!(
        deploy_edge
            .post("/chat/x?token=s3cret-and-more", &[], b"x")
            .await
            .status,
        404
    );
}

#[test]
fn every_mistake_of_a_file_is_reported() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("hookward.toml");
    let state = dir.path().join("state");
    let args = [
        "start",
        file.to_str().unwrap(),
        "--state-dir",
        state.to_str().unwrap(),
    ];

    let said = |text: &str| {
        std::fs::write(&file, text).unwrap();
        let ended = hookward_tests::process::run("hookward", &args, &[], "");
        assert_eq!(ended.code, Some(2), "{ended:?}");
        ended.err
    };
    let err = said(
        "[[tunnel]]\napplication = '8000'\nhosts = 'a'\n[[tunnel]]\npolicy = 'nowhere.toml'\n",
    );

    for text in [
        "hookward.toml:3",
        "hosts",
        "hookward.toml:4",
        "application is missing",
    ] {
        assert!(err.contains(text), "{text} in {err}");
    }

    let err = said(
        "[[tunnel]]\nhosts = 1\napplication = 8000\nhost = 'a'\n[[tunnel]]\napplication = 'nowhere.pem'\n",
    );

    for text in ["hookward.toml:2", "tunnel 2: "] {
        assert!(err.contains(text), "{text} in {err}");
    }

    assert_eq!(err.lines().count(), 2, "{err}");
    let policy = "[[route]]\npath = '/a'\naccept.token = 'env:HOOKWARD_NOWHERE'\n";
    std::fs::write(dir.path().join("policy.toml"), policy).unwrap();

    let err = said(
        "[[tunnel]]\napplication = '8000'\npolicy = 'policy.toml'\n\
         [[tunnel]]\napplication = 'https://localhost:1'\nhost = 'b'\nupstream_ca = 'nowhere.pem'\n",
    );
    assert_eq!(err.lines().count(), 2, "one line for each mistake: {err}");

    for text in [
        "tunnel 1: ",
        "HOOKWARD_NOWHERE is not set",
        "tunnel 2: upstream_ca: ",
        "nowhere.pem",
    ] {
        assert!(err.contains(text), "{text} in {err}");
    }

    let check =
        hookward_tests::process::run("hookward", &["check", file.to_str().unwrap()], &[], "");
    assert!(
        check.code == Some(2) && check.err.contains("`hookward start`"),
        "{check:?}"
    );
}
