//! An independent judge of byte fidelity: Debian's package `webhook` (adnanh/webhook) as the
//! application. It accepts what the relay forwards by its own HMAC rules; altered requests never
//! reach it.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use data_encoding::HEXLOWER;
use hmac::{Hmac, KeyInit, Mac};
use hookward_tests::process::have;
use hookward_tests::sender::github_signature;
use hookward_tests::stage::{PREFIX, Plan, Stage, policy};
use hookward_tests::wait::{DEADLINE, eventually};
use sha1::Sha1;
use tempfile::TempDir;

const SECRET: &str = "shared with the provider";

/// The running program; killed when it is dropped.
struct Webhook(Child);

impl Drop for Webhook {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn hooks() -> String {
    let hook = |id: &str, kind: &str, header: &str| {
        serde_json::json!({
            "id": id,
            "execute-command": "/bin/true",
            "response-message": format!("judged by {kind}"),
            "trigger-rule-mismatch-http-response-code": 418,
            "trigger-rule": { "match": { "type": kind, "secret": SECRET, "parameter": { "source": "header", "name": header } } },
        })
    };

    serde_json::json!([
        hook("sha256", "payload-hmac-sha256", "X-Hub-Signature-256"),
        hook("sha1", "payload-hmac-sha1", "X-Hub-Signature"),
    ])
    .to_string()
}

#[tokio::test]
async fn what_passes_is_accepted_and_what_was_tampered_with_never_arrives() {
    if !have("webhook", "apt-get install webhook") {
        return;
    }

    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("hooks.json"), hooks()).unwrap();
    std::fs::write(dir.path().join("secret"), SECRET).unwrap();

    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let log = std::fs::File::create(dir.path().join("log")).unwrap();

    let child = Command::new("webhook")
        .args([
            "-ip",
            "127.0.0.1",
            "-port",
            &port.to_string(),
            "-urlprefix",
            PREFIX.trim_start_matches('/'),
            "-verbose",
            "-hooks",
        ])
        .arg(dir.path().join("hooks.json"))
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();

    let _webhook = Webhook(child);
    let since = Instant::now();

    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(since.elapsed() < DEADLINE, "webhook does not listen");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    let policy = policy(&format!(
        "[[route]]\npath = '{PREFIX}/**'\n[[route.accept]]\nverify = {{ provider = 'github', secret = 'file:{}' }}",
        dir.path().join("secret").display(),
    ));
    let stage = Stage::start(
        ([127, 0, 0, 1], port).into(),
        Plan {
            policy,
            ..Plan::default()
        },
    )
    .await;

    let bodies: [&[u8]; 5] = [
        b"{\"ref\":\"refs/heads/main\"}",
        b"{ \"ref\" : \"\\u001b\" }\r\n",
        "{\"name\":\"caf\u{e9} \u{1f680}\"}".as_bytes(),
        b"payload=%7B%22a%22%3A1%7D",
        &[b'7'; 100_000],
    ];
    for body in bodies {
        let sha256 = github_signature(SECRET, body);
        let sha1 = {
            let mut mac = Hmac::<Sha1>::new_from_slice(SECRET.as_bytes()).unwrap();
            mac.update(body);
            format!("sha1={}", HEXLOWER.encode(&mac.finalize().into_bytes()))
        };

        let headers = [
            ("Content-Type", "application/json"),
            ("X-GitHub-Event", "push"),
            ("X-Hub-Signature-256", &*sha256),
            ("X-Hub-Signature", &*sha1),
        ];

        for kind in ["sha256", "sha1"] {
            let answer = stage
                .edge
                .post(&format!("{PREFIX}/{kind}"), &headers, body)
                .await;
            assert_eq!(
                (answer.status, answer.text()),
                (200, format!("judged by payload-hmac-{kind}")),
                "{} bytes",
                body.len()
            );
        }

        let mut tampered = body.to_vec();
        tampered[0] ^= 1;
        assert_eq!(
            stage
                .edge
                .post(&format!("{PREFIX}/sha1"), &headers, &tampered)
                .await
                .status,
            403
        );
    }

    // Its own log counts the requests: the valid ones, and a last one that shows that the log is
    // complete.
    assert_eq!(
        stage
            .edge
            .post(
                &format!("{PREFIX}/last"),
                &[("X-Hub-Signature-256", &github_signature(SECRET, b"x"))],
                b"x"
            )
            .await
            .status,
        404
    );

    let log = || std::fs::read_to_string(dir.path().join("log")).unwrap();
    eventually("the last request is in the log", || log().contains("/last")).await;
    let seen = log()
        .lines()
        .filter(|line| line.contains("incoming HTTP POST request"))
        .count();
    assert_eq!(seen, 2 * bodies.len() + 1, "{}", log());
}
