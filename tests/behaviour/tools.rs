//! The tools of the agent's program as a user runs them: `check`, `explain` with its signature
//! doctor, `send`, `providers` and `pair`.

use std::collections::{BTreeMap, BTreeSet};

use data_encoding::{BASE64, BASE64URL_NOPAD, HEXLOWER};
use hookward_gate::providers;
use hookward_tests::application::{Application, Reply};
use hookward_tests::corpus::{bytes, fixture};
use hookward_tests::process::{Ended, Process, run};
use hookward_tests::sender::github_signature;
use hookward_tests::stage::PREFIX;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::corpora::{Vector, vectors};
use super::programs::{edge, mode, off, target};

const NOW: u64 = 1_700_000_000;
const KEY: &str = "shared with the provider";
const URL: &str = "https://hooks.example.test/flexdeploy/webhooks/v1/git/push";

/// Folder of a test.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    /// Writes a file and returns its path.
    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        std::fs::write(self.path(name), content).unwrap();
        self.path(name)
    }
}

/// Runs `hookward`.
fn hookward(args: &[&str], environment: &[(&str, &str)], input: &str) -> Ended {
    run("hookward", args, environment, input)
}

/// Asserts that the command line is rejected, with these texts.
fn assert_wrong(args: &[&str], environment: &[(&str, &str)], texts: &[&str]) {
    let ended = hookward(args, environment, "");
    assert_eq!(ended.code, Some(2), "{args:?}: {ended:?}");
    assert!(ended.out.is_empty(), "{args:?}: {}", ended.out);

    for text in texts {
        assert!(
            ended.err.contains(text),
            "{args:?}: {text} in {}",
            ended.err
        );
    }
}

/// Returns a request as bytes on the wire.
fn raw(method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut text = format!("{method} {target} HTTP/1.1\r\n");
    if !headers
        .iter()
        .any(|(name, _)| name.eq_ignore_ascii_case("host"))
    {
        text.push_str("Host: hooks.example.test\r\n");
    }

    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }

    text.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
    [text.as_bytes(), body].concat()
}

/// HMAC-SHA-256 in hex.
fn hex(key: &str, message: &str) -> String {
    github_signature(key, message.as_bytes())
        .trim_start_matches("sha256=")
        .to_owned()
}

/// The same in base64.
fn base64(key: &str, message: &str) -> String {
    BASE64.encode(&HEXLOWER.decode(hex(key, message).as_bytes()).unwrap())
}

/// Runs `explain` with JSON output. Exit code and verdict must agree.
fn explain(args: &[&str], environment: &[(&str, &str)], input: &str) -> Value {
    let args = [&["explain", "--format", "json"], args].concat();
    let ended = hookward(&args, environment, input);
    let said: Value =
        serde_json::from_str(&ended.out).unwrap_or_else(|_| panic!("{args:?}: {ended:?}"));
    let code = match said["verdict"].as_str() {
        Some("allow") => 0,
        Some("refuse") => 1,
        other => panic!("{other:?}"),
    };
    assert_eq!(ended.code, Some(code), "{args:?}: {ended:?}");

    said
}

/// Explains the request of a vector at its own time, with this body.
fn explain_vector(folder: &Folder, vector: &Vector, body: &[u8]) -> Value {
    let secret = folder.file(&format!("{}.secret", vector.id), vector.secret());
    let target = vector.path.as_deref().unwrap_or(PREFIX);
    let headers: Vec<_> = vector
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let request = folder.file(
        &format!("{}.http", vector.id),
        raw(&vector.method, target, &headers, body),
    );

    let verify = format!("{}=file:{secret}", vector.provider);
    let (url, now) = (
        vector.url.clone().unwrap_or_else(|| URL.to_owned()),
        vector.now.to_string(),
    );
    let peer = "192.0.2.1";

    let args = [
        "--verify",
        &verify,
        "--path",
        "/**",
        "--request",
        &request,
        "--url",
        &url,
        "--peer",
        peer,
    ];

    explain(&[&args[..], &["--now", &now]].concat(), &[], "")
}

#[test]
fn a_valid_policy_is_reported_as_valid() {
    let folder = Folder::new();
    let good = folder.file(
        "good.toml",
        "[[route]]\npath = '/a/**'\n[[route.accept]]\nverify = { provider = 'github', secret = 'env:KEY' }\n\
         [[route]]\npath = '/b'\n[[route.accept]]\nopen = true\n",
    );
    for args in [&["check", "--policy", &good][..], &["check", &good]] {
        let ended = hookward(args, &[("KEY", "a secret of some length\n")], "");
        assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""), "{ended:?}");

        for text in [
            "can be used: 2 routes",
            "note: env:KEY: the trailing newline",
            "warning:",
        ] {
            assert!(ended.out.contains(text), "{text} in {}", ended.out);
        }
    }

    let flags = hookward(
        &["check", "--verify", "github=env:KEY", "--path", "/a"],
        &[("KEY", "a secret of some length")],
        "",
    );
    assert!(
        flags.code == Some(0) && flags.out.ends_with("can be used: 1 route"),
        "{flags:?}"
    );
}

#[test]
fn every_mistake_of_a_policy_has_its_line_and_column_in_one_run() {
    let folder = Folder::new();
    let policy = folder.file(
        "bad.toml",
        r#"rate = "fast"
[[route]]
path = "/a/**"
metods = ["POST"]
max_body = "lots"
[[route.accept]]
allow_ips = ["192.0.2.1/24", "everybody"]
[[route.accept]]
verify = { provider = "githup", secret = "env:KEY" }
[[route.accept]]
verify = { provider = "docker_hub", secret = "env:KEY" }
[[route.accept]]
verify = { provider = "slack", secret = "hunter2" }
[[route.accept]]
token = "env:NOT_SET"
[[route]]
path = "/b"
methods = ["CONNECT"]
[[route.accept]]
open = true
[[route]]
path = "c"
[[route.accept]]
open = true
"#,
    );

    let ended = hookward(&["check", "--policy", &policy], &[("KEY", "x")], "");
    assert_eq!((ended.code, ended.out.as_str()), (Some(2), ""), "{ended:?}");

    for (place, text) in [
        ("1:8", "fast"),
        ("4:1", "metods"),
        ("5:12", "max_body"),
        ("7:13", "192.0.2.0/24"),
        ("7:13", "everybody"),
        ("9:10", "is it one of github"),
        ("11:10", "Docker Hub can't be verified"),
        ("13:41", "never as itself"),
        ("15:9", "NOT_SET is not set"),
        ("18:11", "CONNECT"),
        ("22:8", "must begin with a slash"),
    ] {
        let said = ended
            .err
            .lines()
            .any(|line| line.contains(&format!("bad.toml:{place}: ")) && line.contains(text));
        assert!(said, "{place} {text} in {}", ended.err);
    }

    assert!(
        !ended.err.contains("hunter2"),
        "a literal secret is not repeated"
    );
}

#[test]
fn a_file_that_is_no_toml_has_the_place_where_it_breaks() {
    let folder = Folder::new();
    for (text, place) in [
        ("[[route]]\npath = '/a\n", "2:"),
        (
            "[[route]]\npath = '/a'\n[[route.accept]\nopen = true\n",
            "3:",
        ),
        ("[[route]]\npath '/a'\n", "2:"),
        ("[[route]]\npath = '/a'\npath = '/b'\n", "3:1"),
    ] {
        let policy = folder.file("broken.toml", text);
        assert_wrong(
            &["check", "--policy", &policy],
            &[],
            &[&format!("broken.toml:{place}")],
        );
    }

    assert_wrong(
        &["check", "--policy", "/nowhere"],
        &[],
        &["/nowhere", "can't be read"],
    );
}

#[test]
fn published_vectors_are_explained_as_they_were_published() {
    let folder = Folder::new();
    let vectors = vectors("dev_vectors");
    assert_eq!(vectors.len(), 15, "all of them");

    for vector in vectors {
        let said = explain_vector(&folder, &vector, &bytes(&vector.body_b64));
        let expected = if vector.expect == "accept" {
            "allow"
        } else {
            "refuse"
        };
        assert_eq!(said["verdict"], expected, "{}: {said}", vector.id);

        assert!(
            vector.expect == "accept" || said["check"] == "signature",
            "{}: {said}",
            vector.id
        );
    }
}

#[test]
fn a_request_is_read_from_standard_input_a_file_or_flags() {
    let folder = Folder::new();
    let signature = github_signature(KEY, b"{}");
    let request = raw(
        "POST",
        PREFIX,
        &[("X-Hub-Signature-256", &signature)],
        b"{}",
    );
    let (file, body) = (folder.file("request", &request), folder.file("body", "{}"));

    let (field, data) = (
        format!("x-hub-signature-256: {signature}"),
        format!("@{body}"),
    );
    let request = String::from_utf8(request).unwrap();

    for (args, input) in [
        (&["--request", &file][..], ""),
        (&["--request", "-"], request.as_str()),
        (&["--url", URL, "-H", &field, "--data", "{}"], ""),
        (&["--url", URL, "-H", &field, "--data", &data], ""),
        (
            &["--url", URL, "-H", &field, "--data", "@-", "-X", "PUT"],
            "{}",
        ),
    ] {
        let args = [args, &["--verify", "github=env:KEY"]].concat();
        let said = explain(&args, &[("KEY", KEY)], input);
        assert_eq!(
            (&said["verdict"], &said["secrets"][0]),
            (&"allow".into(), &"env:KEY".into()),
            "{args:?}: {said}"
        );
        assert!(!said.to_string().contains(KEY), "the secret is not said");
    }

    let other = explain(
        &[
            "--url",
            URL,
            "-H",
            &field,
            "-d",
            "{ }",
            "--verify",
            "github=env:KEY",
        ],
        &[("KEY", KEY)],
        "",
    );

    assert_eq!(other["check"], "signature", "{other}");
}

/// Every check that a route can have, in the order of the gate.
const EVERY_CHECK: [&str; 22] = [
    "--method",
    "POST",
    "--client-rate",
    "50/s",
    "--allow-ip",
    "192.0.2.0/24",
    "--token",
    "env:TOKEN",
    "--content-type",
    "application/json",
    "--verify",
    "github=env:KEY",
    "--require-body",
    "ref=refs/heads/main",
    "--on-duplicate",
    "refuse",
    "--rate",
    "200/s",
    "--url",
    "https://hooks.example.test/flexdeploy/webhooks/v1/git/push?token=t0ken",
    "--peer",
    "192.0.2.1",
];

#[test]
fn the_verdict_of_every_check_is_listed_in_order() {
    let environment = [("TOKEN", "t0ken"), ("KEY", KEY)];
    let body = r#"{"ref":"refs/heads/main"}"#;
    let field = format!(
        "X-Hub-Signature-256: {}",
        github_signature(KEY, body.as_bytes())
    );

    let rest = [
        "-d",
        body,
        "-H",
        "Content-Type: application/json",
        "-H",
        &field,
    ];
    let args = [&["explain"], &EVERY_CHECK[..], &rest].concat();
    let ended = hookward(&args, &environment, "");
    assert_eq!(ended.code, Some(0), "{ended:?}");

    let expected = [
        ("pass", "syntax"),
        ("relay only", "client-rate"),
        ("pass", "path"),
        ("pass", "method"),
        ("pass", "body-size"),
        ("pass", "address"),
        ("pass", "token"),
        ("pass", "content-type"),
        ("pass", "signature"),
        ("pass", "body-rule"),
        ("relay only", "replay"),
        ("relay only", "rate"),
    ];

    let checks: Vec<&str> = ended
        .out
        .lines()
        .skip_while(|line| *line != "checks:")
        .skip(1)
        .collect();

    for (index, (outcome, check)) in expected.iter().enumerate() {
        let words: Vec<_> = checks[index].split_whitespace().collect();
        let wanted: Vec<_> = outcome.split(' ').chain([*check]).collect();
        assert_eq!(words[..wanted.len()], wanted, "{}", ended.out);
    }

    assert!(
        checks[expected.len()..]
            .iter()
            .all(|line| line.starts_with("note:")),
        "{}",
        ended.out
    );

    assert!(
        ended.out.starts_with("allow: ") && ended.out.contains("right, by env:KEY"),
        "{}",
        ended.out
    );

    let json = explain(&[&EVERY_CHECK[..], &rest].concat(), &environment, "");
    let steps: Vec<_> = json["checks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| step["check"].as_str().unwrap())
        .collect();
    assert_eq!(steps, expected.map(|(_, check)| check), "{json}");

    // A refusal names the first check that refused, and the result of every other check.
    let ended = hookward(
        &[&["explain"], &EVERY_CHECK[..], &["-d", "{}"]].concat(),
        &environment,
        "",
    );
    assert_eq!(ended.code, Some(1), "{ended:?}");

    assert!(
        ended.out.starts_with("refuse by content-type: "),
        "{}",
        ended.out
    );
    assert_eq!(ended.out.matches("  REFUSE ").count(), 3, "{}", ended.out);
}

#[test]
fn a_refused_request_names_its_check_and_the_reason() {
    let environment = [("TOKEN", "t0ken"), ("KEY", KEY)];
    let cases: [(&str, &[&str], &str); 11] = [
        (
            "syntax",
            &[
                "--url",
                "https://h.example/flexdeploy/webhooks/v1/%2e%2e/admin",
            ],
            "",
        ),
        ("path", &["--url", "https://h.example/admin"], "no route"),
        (
            "method",
            &["--url", URL, "--method", "POST", "-X", "PUT"],
            "not this method",
        ),
        (
            "address",
            &["--url", URL, "--allow-ip", "198.51.100.0/24"],
            "192.0.2.1",
        ),
        (
            "address",
            &["--url", URL, "--deny-ip", "192.0.2.0/24"],
            "192.0.2.1",
        ),
        ("token", &["--url", URL, "--token", "env:TOKEN"], "missing"),
        (
            "token",
            &[
                "--url",
                &format!("{URL}?token=other"),
                "--token",
                "env:TOKEN",
            ],
            "",
        ),
        (
            "content-type",
            &[
                "--url",
                URL,
                "--content-type",
                "application/json",
                "-d",
                "x",
            ],
            "content-type",
        ),
        (
            "header",
            &["--url", URL, "--require-header", "X-GitHub-Event=push"],
            "x-github-event",
        ),
        (
            "body-rule",
            &["--url", URL, "--require-body", "ref=main", "-d", "{}"],
            "ref",
        ),
        (
            "signature",
            &["--url", URL, "--verify", "github=env:KEY", "-d", "{}"],
            "X-Hub-Signature-256",
        ),
    ];

    for (check, args, reason) in cases {
        // If the case requires nothing else, anyone may send.
        let guarded = args
            .iter()
            .any(|arg| matches!(*arg, "--allow-ip" | "--token" | "--verify"));
        let open: &[&str] = if guarded { &[] } else { &["--no-token"] };

        let said = explain(
            &[args, open, &["--peer", "192.0.2.1"]].concat(),
            &environment,
            "",
        );
        assert_eq!(
            (&said["verdict"], &said["check"]),
            (&"refuse".into(), &check.into()),
            "{args:?}: {said}"
        );

        let why = said["reason"].as_str().unwrap();
        assert!(
            !why.is_empty() && why.to_lowercase().contains(&reason.to_lowercase()),
            "{args:?}: {said}"
        );

        let refusing = said["checks"].as_array().unwrap().iter().any(|step| {
            step["check"] == check
                && step["outcome"] == "refuse"
                && step["reason"] == said["reason"]
        });
        assert!(refusing, "{args:?}: {said}");

        assert!(
            said["status"]
                .as_u64()
                .is_some_and(|status| (400..500).contains(&status)),
            "{said}"
        );
    }

    // What the relay could not parse is refused, too.
    for input in [
        "",
        "hello",
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nab",
    ] {
        let said = explain(
            &["--request", "-", "--verify", "github=env:KEY"],
            &environment,
            input,
        );
        assert_eq!(
            (&said["check"], &said["status"]),
            (&"syntax".into(), &400.into()),
            "{input:?}: {said}"
        );
    }
}

#[test]
fn a_call_of_explain_that_is_wrong_says_what() {
    let folder = Folder::new();
    let (state, policy) = (
        folder.path("state"),
        folder.file("p.toml", "[[route]]\npath = '/a'\nmetods = []\n"),
    );

    let cases: [(&[&str], &[&str]); 11] = [
        (&["--verify", "github=env:KEY"], &["--url"]),
        (
            &["--url", "h/a", "--verify", "github=env:KEY"],
            &["\"h/a\" is not a URL"],
        ),
        (
            &["--url", URL, "--verify", "githup=env:KEY"],
            &["githup", "is it one of github"],
        ),
        (
            &["--url", URL, "--verify", "github=env:NOT_SET"],
            &["NOT_SET is not set"],
        ),
        (
            &[
                "--url",
                URL,
                "--verify",
                "github=env:KEY",
                "--peer",
                "nobody",
            ],
            &["--peer"],
        ),
        (
            &["--url", URL, "--verify", "github=env:KEY", "--now", "today"],
            &["--now"],
        ),
        (
            &["--url", URL, "--verify", "github=env:KEY", "-H", "nothing"],
            &["nothing", "NAME: VALUE"],
        ),
        (
            &[
                "--url",
                URL,
                "--verify",
                "github=env:KEY",
                "-d",
                "@/nowhere",
            ],
            &["/nowhere"],
        ),
        (
            &["--request", "/nowhere", "--verify", "github=env:KEY"],
            &["/nowhere"],
        ),
        (
            &["--url", URL, "--policy", &policy],
            &["p.toml:3:1", "metods"],
        ),
        (&["--url", URL], &["there is no token yet"]),
    ];

    for (args, texts) in cases {
        assert_wrong(
            &[&["explain", "--state-dir", &state], args].concat(),
            &[("KEY", KEY)],
            texts,
        );
    }
}

/// A valid signature that covers nothing of the body, or a part of it, is described as such.
#[test]
fn explain_does_not_overstate_the_coverage_of_a_signature() {
    let folder = Folder::new();
    let made: BTreeMap<_, _> = vectors("made")
        .into_iter()
        .map(|vector| (vector.id.clone(), vector))
        .collect();

    for (id, covers) in [
        ("github-good", "the whole body is signed"),
        ("mailgun-good", "a part of the body is signed"),
        ("adyen-payments-good", "a part of the body is signed"),
        ("mercadopago-good", "nothing of the body is signed"),
        ("gitlab_token-good", "nothing of the body is signed"),
        ("ms-graph-good", "nothing of the body is signed"),
    ] {
        let (vector, whole) = (&made[id], covers.contains("whole"));
        let body = bytes(&vector.body_b64);
        let said = explain_vector(&folder, vector, &body);
        assert_eq!(said["verdict"], "allow", "{id}: {said}");

        let text = said.to_string();
        assert!(
            text.contains(covers) && (whole || !text.contains("whole body")),
            "{id}: {said}"
        );

        let notes = said["notes"].to_string();
        let warned = ["does not cover the body", "every byte of the body"]
            .iter()
            .any(|text| notes.contains(text));
        assert_eq!(warned, !whole, "{id}: {notes}");

        // And it is true: another member of the body passes, or does not.
        let forged = match body.strip_prefix(b"{") {
            Some(rest) => [&br#"{"forged":"yes","#[..], rest].concat(),
            None => b"forged".to_vec(),
        };
        let said = explain_vector(&folder, vector, &forged);
        assert_eq!(said["verdict"] == "allow", !whole, "{id}: {said}");
    }
}

/// A received delivery, and the policy's knowledge.
struct Delivery<'d> {
    provider: &'d str,
    /// The secret as configured here.
    kept: &'d [u8],
    url: &'d str,
    headers: &'d [(&'d str, &'d str)],
    body: &'d str,
    more: &'d [&'d str],
}

const DELIVERY: Delivery<'static> = Delivery {
    provider: "github",
    kept: KEY.as_bytes(),
    url: URL,
    headers: &[],
    body: "{}",
    more: &[],
};

impl Delivery<'_> {
    fn explain(&self, folder: &Folder) -> Value {
        let verify = format!("{}=file:{}", self.provider, folder.file("kept", self.kept));
        let target = format!("/{}", self.url.splitn(4, '/').nth(3).unwrap());
        let request = folder.file(
            "request",
            raw("POST", &target, self.headers, self.body.as_bytes()),
        );
        let now = NOW.to_string();

        let args = [
            "--verify",
            &verify,
            "--path",
            "/**",
            "--request",
            &request,
            "--url",
            self.url,
            "--now",
            &now,
        ];
        let said = explain(&[&args, self.more].concat(), &[], "");

        assert!(
            !said.to_string().contains(KEY),
            "a secret is not said: {said}"
        );

        said
    }

    /// Returns the doctor's hints on a wrong signature.
    fn hints(&self, folder: &Folder) -> String {
        let said = self.explain(folder);
        assert_eq!(said["check"], "signature", "{said}");
        let hints = said["hints"].as_array().cloned().unwrap_or_default();

        hints
            .iter()
            .map(|hint| hint.as_str().unwrap())
            .collect::<Vec<_>>()
            .join("\n")
    }

    fn assert_hint(&self, hint: &str) {
        let hints = self.hints(&Folder::new());
        assert!(hints.contains(hint), "{hint} in {hints:?}");
    }
}

#[test]
fn the_doctor_knows_a_secret_that_was_copied_wrong() {
    for (signed_with, kept, hint) in [
        ("key\n", "key", "a newline behind it"),
        ("key", "a2V5", "decoded as base64"),
        ("key", "6b6579", "decoded as hex"),
        ("a2V5", "key", "encoded as base64"),
        ("key", " key ", "without the space around it"),
    ] {
        let signature = github_signature(signed_with, b"{}");
        let headers = [("X-Hub-Signature-256", signature.as_str())];
        Delivery {
            kept: kept.as_bytes(),
            headers: &headers,
            ..DELIVERY
        }
        .assert_hint(hint);
    }

    // One newline at the end belongs to the file, not to the secret.
    let signature = github_signature("key", b"{}");
    let headers = [("X-Hub-Signature-256", signature.as_str())];
    let said = Delivery {
        kept: b"key\n",
        headers: &headers,
        ..DELIVERY
    }
    .explain(&Folder::new());
    assert!(
        said["verdict"] == "allow" && said["hints"].is_null(),
        "{said}"
    );

    // Without a cause, no hint is invented.
    assert_eq!(
        Delivery {
            kept: b"other",
            headers: &headers,
            ..DELIVERY
        }
        .hints(&Folder::new()),
        ""
    );
}

#[test]
fn the_doctor_recognises_a_reserialized_body() {
    for (signed, arrived, hint) in [
        ("{\"a\":1}", "{\"a\":1}\n", "without the newline at its end"),
        ("{\"a\":1}\n", "{\"a\":1}", "with a newline at its end"),
        (
            "{\"a\":1,\"b\":\"x, y\"}",
            "{ \"a\": 1,\n \"b\": \"x, y\" }",
            "as JSON without spaces",
        ),
        (
            "{\"a\": 1, \"b\": 2}",
            "{\"a\":1,\"b\":2}",
            "with a space behind each comma and colon",
        ),
        ("{\n  \"a\": 1\n}", "{\"a\":1}", "as indented JSON"),
        (
            "{\"a\":\"caf\\u00e9\"}",
            "{\"a\":\"caf\u{e9}\"}",
            "with other letters than ASCII escaped",
        ),
        ("{}", "\u{feff}{}", "without the byte order mark"),
    ] {
        let signature = github_signature(KEY, signed.as_bytes());
        let headers = [("X-Hub-Signature-256", signature.as_str())];
        Delivery {
            headers: &headers,
            body: arrived,
            ..DELIVERY
        }
        .assert_hint(hint);
    }
}

#[test]
fn the_doctor_knows_the_old_header_and_another_provider() {
    let old = [(
        "X-Hub-Signature",
        "sha1=0123456789abcdef0123456789abcdef01234567",
    )];

    Delivery {
        headers: &old,
        ..DELIVERY
    }
    .assert_hint("X-Hub-Signature (SHA-1)");

    let (signature, now) = (
        format!("v0={}", hex(KEY, &format!("v0:{NOW}:{{}}"))),
        NOW.to_string(),
    );
    let slack = [
        ("X-Slack-Signature", signature.as_str()),
        ("X-Slack-Request-Timestamp", &now),
    ];

    Delivery {
        headers: &slack,
        ..DELIVERY
    }
    .assert_hint("provider = \"slack\"");

    Delivery {
        headers: &slack,
        kept: b"other",
        ..DELIVERY
    }
    .assert_hint("is slack the provider?");
}

#[test]
fn the_secret_that_was_right_is_named() {
    let folder = Folder::new();
    let next = folder.file("next", "the next secret");
    let signature = github_signature("the next secret", b"{}");
    let headers = [("X-Hub-Signature-256", signature.as_str())];

    // During a rotation, two secrets of one provider are valid.
    let also = ["--verify", &format!("github=file:{next}")];
    let said = Delivery {
        headers: &headers,
        more: &also,
        ..DELIVERY
    }
    .explain(&folder);
    assert_eq!(
        said["secrets"],
        serde_json::json!([format!("file:{next}")]),
        "{said}"
    );

    // A secret of another provider's check is not used, but named.
    let elsewhere = ["--verify", &format!("slack=file:{next}")];
    let hints = Delivery {
        headers: &headers,
        more: &elsewhere,
        ..DELIVERY
    }
    .hints(&folder);
    assert!(
        hints.contains(&format!("another secret of this policy, file:{next}")),
        "{hints}"
    );
}

#[test]
fn the_doctor_says_by_how_much_a_clock_is_wrong() {
    let folder = Folder::new();
    for (at, hint) in [
        (NOW - 3600, "3600 s ahead of"),
        (NOW + 1801, "1801 s behind"),
    ] {
        let (signature, at) = (
            format!("v0={}", hex(KEY, &format!("v0:{at}:{{}}"))),
            at.to_string(),
        );
        let headers = [
            ("X-Slack-Signature", signature.as_str()),
            ("X-Slack-Request-Timestamp", &at),
        ];

        let delivery = Delivery {
            provider: "slack",
            headers: &headers,
            ..DELIVERY
        };
        delivery.assert_hint(hint);

        // An old request of another sender has more wrong with it than its time.
        assert_eq!(
            Delivery {
                kept: b"other",
                ..delivery
            }
            .hints(&folder),
            ""
        );
    }
}

#[test]
fn the_doctor_knows_the_url_that_was_signed() {
    let folder = Folder::new();
    for (signed, arrived, hint) in [
        (
            "http://h.example/in",
            "https://h.example/in",
            "http instead of https",
        ),
        (
            "https://inner.example/in",
            "https://h.example/in",
            "the host of the request",
        ),
        (
            "https://h.example/in",
            "https://h.example:8443/in",
            "without the port",
        ),
        (
            "https://h.example:443/in",
            "https://h.example/in",
            "with the port 443",
        ),
        (
            "https://h.example/in/",
            "https://h.example/in",
            "one slash more or less",
        ),
        (
            "https://h.example/in?a=1",
            "https://h.example/in/?a=1",
            "one slash more or less",
        ),
    ] {
        let signature = base64(KEY, &format!("{signed}{{}}"));
        let headers = [
            ("Host", "inner.example"),
            ("x-square-hmacsha256-signature", signature.as_str()),
        ];

        let delivery = Delivery {
            provider: "square",
            headers: &headers,
            url: arrived,
            ..DELIVERY
        };
        delivery.assert_hint(hint);

        // Following the hint makes the signature match.
        if let Some((_, origin)) = delivery.hints(&folder).split_once("origin = \"https") {
            let origin = format!("https{origin}");
            let origin = origin.split('"').next().unwrap();
            let said = Delivery {
                more: &["--origin", origin],
                ..delivery
            }
            .explain(&folder);
            assert_eq!(said["verdict"], "allow", "{hint}: {said}");
        }
    }
}

#[tokio::test]
async fn a_test_webhook_passes_a_real_gate() {
    let application = Application::start(|_| Reply::ok("it arrived")).await;
    let folder = Folder::new();
    let port = application.address.port().to_string();
    off(move || {
        let state = folder.path("state");
        let args = [
            "http",
            &port,
            "--local=127.0.0.1:0",
            "--log-format",
            "json",
            "--state-dir",
            &state,
        ];

        let verify = ["--webhook", "git/push", "--verify", "github=env:KEY"];
        let mut agent = Process::start("hookward", &[&args[..], &verify].concat(), &[("KEY", KEY)]);
        let ready = agent.event("ready");
        let (url, ca) = (
            ready["url"].as_str().unwrap(),
            ready["ca"].as_str().unwrap(),
        );
        let data = format!(
            "@{}",
            folder.file("body", "{ \"ref\" : \"caf\u{e9}\" }\r\n")
        );

        let send = [
            "send",
            "--provider",
            "github",
            "--secret",
            "env:KEY",
            "--cacert",
            ca,
        ];

        let file = [
            &send[..],
            &["-H", "X-GitHub-Event: push", "--data", &data, url],
        ]
        .concat();
        let ended = hookward(&file, &[("KEY", KEY)], "");
        assert_eq!(
            (ended.code, ended.out.as_str()),
            (Some(0), "200 OK\nit arrived"),
            "{ended:?}"
        );

        let ended = hookward(
            &[&send[..], &["--data", "@-", url]].concat(),
            &[("KEY", KEY)],
            "from standard input\n",
        );
        assert_eq!(ended.code, Some(0), "{ended:?}");

        let ended = hookward(&file, &[("KEY", "another secret")], "");
        assert!(
            ended.code == Some(1) && ended.out.starts_with("403 "),
            "{ended:?}"
        );
    })
    .await;

    let received = application.log.take();
    let bodies: Vec<_> = received
        .iter()
        .map(|request| String::from_utf8_lossy(&request.body))
        .collect();
    assert_eq!(
        bodies,
        ["{ \"ref\" : \"caf\u{e9}\" }\r\n", "from standard input\n"]
    );

    assert_eq!(received[0].header("x-github-event"), Some("push"));
    assert_eq!(received[0].header("content-type"), Some("application/json"));
}

/// Signs with `send` and has the result explained.
fn assert_signed_right(provider: &str, signing: &str, checking: &str, data: &str) {
    let send = [
        "send",
        "--dry-run",
        "--provider",
        provider,
        "--secret",
        "env:KEY",
        "--data",
        data,
        URL,
    ];
    let signed = hookward(&send, &[("KEY", signing)], "");
    assert_eq!(signed.code, Some(0), "{provider}: {signed:?}");

    let verify = format!("{provider}=env:KEY");
    let args = ["--verify", &verify, "--request", "-", "--url", URL];
    let said = explain(&args, &[("KEY", checking)], &signed.out);
    assert_eq!(
        said["verdict"], "allow",
        "{provider}: {} {said}",
        signed.out
    );
}

#[test]
fn what_send_would_send_is_allowed_by_explain() {
    for (provider, secret) in [
        ("github", KEY),
        ("gitlab_token", KEY),
        ("shopify", KEY),
        ("slack", KEY),
        ("square", KEY),
        ("stripe", KEY),
        ("svix", "whsec_c2hhcmVkIHdpdGggdGhlIHByb3ZpZGVy"),
        // JSON Web Tokens, whose claims cover the body or the URL.
        ("atlassian_connect", KEY),
        ("livekit", KEY),
        ("messagebird", KEY),
        ("upstash_qstash", KEY),
        // The signature is in the body: in JSON, in the items of a batch, in a form.
        ("mailgun", KEY),
        ("ms_graph", KEY),
        ("kofi", KEY),
        ("transloadit", KEY),
    ] {
        assert_signed_right(provider, secret, secret, r#"{"ref":"refs/heads/main"}"#);
    }
}

#[test]
fn a_private_key_signs_where_the_provider_has_one() {
    let ed25519 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let ecdsa = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let spki = rcgen::PublicKeyData::subject_public_key_info(&ecdsa);
    let (x, y) = ecdsa.public_key_raw()[1..].split_at(32);
    let (x, y) = (BASE64URL_NOPAD.encode(x), BASE64URL_NOPAD.encode(y));
    let jwks = json!({ "keys": [{ "kty": "EC", "crv": "P-256", "x": x, "y": y }] }).to_string();

    for (provider, private, public) in [
        (
            "discord",
            ed25519.serialize_pem(),
            HEXLOWER.encode(ed25519.public_key_raw()),
        ),
        ("sendgrid", ecdsa.serialize_pem(), BASE64.encode(&spki)),
        ("plaid", ecdsa.serialize_pem(), jwks),
    ] {
        assert_signed_right(provider, &private, &public, r#"{"type":"test"}"#);
        // The key that verifies cannot sign, and the error names the required one.
        let args = [
            "send",
            "--dry-run",
            "--provider",
            provider,
            "--secret",
            "env:KEY",
            URL,
        ];
        assert_wrong(&args, &[("KEY", &public)], &["private key", "PEM"]);
    }
}

/// DNS does not know the relay yet.
#[tokio::test]
async fn a_webhook_is_sent_to_another_address_than_the_urls() {
    let application = Application::start(|_| Reply::ok("")).await;
    let address = application.address.to_string();
    off(move || {
        let send = ["send", "--provider", "github", "--secret", "env:KEY"];
        let to = ["--connect-to", &address, "http://hooks.example.invalid/in"];
        let ended = hookward(&[send.as_slice(), &to].concat(), &[("KEY", KEY)], "");
        assert_eq!(ended.code, Some(0), "{ended:?}");
    })
    .await;
    let request = application.log.take().remove(0);
    assert_eq!(request.all("host"), ["hooks.example.invalid"]);
}

/// An RSA signature is long, and arrives completely.
#[tokio::test]
async fn an_rsa_signature_arrives_whole() {
    let application = Application::start(|_| Reply::ok("")).await;
    let made = vectors("made")
        .into_iter()
        .find(|vector| vector.id == "highlevel-good")
        .unwrap();
    let private = std::fs::read_to_string(fixture("vectors/rsa-provider.pem")).unwrap();
    let url = format!("http://{}/in", application.address);

    off(move || {
        let send = [
            "send",
            "--provider",
            "highlevel",
            "--secret",
            "env:KEY",
            "-d",
            "{}",
            &url,
        ];
        let ended = hookward(&send, &[("KEY", &private)], "");
        assert_eq!(ended.code, Some(0), "{ended:?}");
    })
    .await;

    let request = application.log.take().remove(0);
    let headers: Vec<_> = request
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let headers: Vec<_> = headers
        .into_iter()
        .filter(|(name, _)| !name.eq_ignore_ascii_case("content-length"))
        .collect();

    let folder = Folder::new();
    let file = folder.file(
        "request",
        raw(&request.method, &request.target, &headers, &request.body),
    );

    let args = [
        "--verify",
        "highlevel=env:KEY",
        "--path",
        "/in",
        "--request",
        &file,
    ];
    let said = explain(&args, &[("KEY", &made.secret())], "");
    assert_eq!(said["verdict"], "allow", "{said}");
}

#[test]
fn a_call_of_send_that_is_wrong_says_what() {
    let cases: [(&[&str], &str); 8] = [
        (
            &["--provider", "githup", "--secret", "env:KEY", URL],
            "is it one of github",
        ),
        (
            &["--provider", "docker_hub", "--secret", "env:KEY", URL],
            "can't be verified",
        ),
        (
            &["--provider", "github", "--secret", "hunter2", URL],
            "never as itself",
        ),
        (
            &[
                "--provider",
                "github",
                "--secret",
                "env:KEY",
                "hooks.example.test/a",
            ],
            "is not a URL",
        ),
        (
            &[
                "--provider",
                "github",
                "--secret",
                "env:KEY",
                "-d",
                "@/nowhere",
                URL,
            ],
            "/nowhere",
        ),
        (
            &[
                "--provider",
                "github",
                "--secret",
                "env:KEY",
                "-X",
                "PO ST",
                URL,
            ],
            "is not a method",
        ),
        (
            &[
                "--provider",
                "lever",
                "--secret",
                "env:KEY",
                "-d",
                "no JSON",
                URL,
            ],
            "not JSON",
        ),
        (
            &["--provider", "fireblocks", "--secret", "env:KEY", URL],
            "private key",
        ),
    ];

    for (args, text) in cases {
        assert_wrong(
            &[&["send", "--dry-run"], args].concat(),
            &[("KEY", KEY)],
            &[text],
        );
    }

    // A peer that accepts the connection and sends nothing has not responded.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let closing = std::thread::spawn(move || drop(silent.accept()));
    let args = [
        "send",
        "--provider",
        "github",
        "--secret",
        "env:KEY",
        &format!("http://{address}/"),
    ];
    let ended = hookward(&args, &[("KEY", KEY)], "");

    assert!(
        ended.code == Some(1) && ended.err.contains(&address.to_string()),
        "{ended:?}"
    );
    closing.join().unwrap();
}

/// Returns the output of `providers show` for every provider, by id.
fn shown() -> BTreeMap<&'static str, String> {
    let rows = providers::all();
    std::thread::scope(|scope| {
        let work: Vec<_> = rows
            .chunks(rows.len().div_ceil(4))
            .map(|rows| {
                scope.spawn(|| {
                    let show =
                        |id: &'static str| (id, hookward(&["providers", "show", id], &[], ""));
                    rows.iter().map(|row| show(&row.id)).collect::<Vec<_>>()
                })
            })
            .collect();
        let all = work.into_iter().flat_map(|work| work.join().unwrap());

        all.map(|(id, ended)| {
            assert_eq!(ended.code, Some(0), "{id}: {ended:?}");
            (id, ended.out)
        })
        .collect()
    })
}

#[test]
fn what_is_shown_of_every_provider_can_be_pasted() {
    let mut secrets = BTreeMap::new();
    for vector in vectors("made")
        .into_iter()
        .filter(|vector| vector.expect == "accept" && vector.variant.is_none())
    {
        let secret = vector.secret();
        secrets.entry(vector.provider).or_insert(secret);
    }

    let folder = Folder::new();
    let mut environment = Vec::new();
    let mut routes = Vec::new();

    for (id, text) in shown() {
        let snippet = text.split_once("In a policy file:\n").unwrap().1;
        let flags = text
            .lines()
            .find_map(|line| line.strip_prefix("  --verify "))
            .unwrap();
        let flag = flags.split(' ').next().unwrap();

        assert_eq!(
            flags.ends_with(" --challenge"),
            snippet.contains("challenge = true"),
            "{text}"
        );

        let variable = flag.split_once("=env:").map(|(_, name)| name.to_owned());
        assert!(
            variable
                .as_ref()
                .is_none_or(|name| snippet.contains(&format!("\"env:{name}\""))),
            "{text}"
        );
        environment.extend(variable.map(|name| (name, secrets[id].clone())));
        routes.push((
            format!("[[route]]\npath = '/{id}'\n{snippet}\n"),
            flags.to_owned(),
        ));
    }

    let names: BTreeSet<_> = environment.iter().map(|(name, _)| name).collect();
    assert_eq!(
        names.len(),
        environment.len(),
        "no two providers name the same variable"
    );

    let environment: Vec<_> = environment
        .iter()
        .map(|(name, secret)| (name.as_str(), secret.as_str()))
        .collect();

    // As many routes as a policy may have.
    for routes in routes.chunks(hookward_core::limits::ROUTES) {
        let policy = folder.file(
            "policy.toml",
            routes
                .iter()
                .map(|(route, _)| route.as_str())
                .collect::<String>(),
        );
        let ended = hookward(&["check", "--policy", &policy], &environment, "");
        assert!(
            ended.code == Some(0) && ended.out.contains(&format!("{} routes", routes.len())),
            "{ended:?}"
        );

        for (_, flag) in routes.iter().step_by(8) {
            let args: Vec<_> = ["check", "--verify"]
                .into_iter()
                .chain(flag.split(' '))
                .collect();
            let ended = hookward(&args, &environment, "");
            assert_eq!(ended.code, Some(0), "{flag}: {ended:?}");
        }
    }
}

#[test]
fn a_provider_is_shown_with_all_that_its_owner_enters() {
    let ended = hookward(&["providers", "show", "github"], &[], "");
    assert_eq!(ended.code, Some(0), "{ended:?}");

    for text in [
        "Payload URL",
        "text, used as it is",
        "header:X-Hub-Signature-256: sha256=<hex>",
        "(the whole body)",
        "header:X-GitHub-Delivery",
        "header:X-GitHub-Event",
        "answer within 10 s",
        "--allow-ip github",
        "--verify github=env:GITHUB_SECRET",
        "verify = { provider = \"github\", secret = \"env:GITHUB_SECRET\" }",
    ] {
        assert!(ended.out.contains(text), "{text} in {}", ended.out);
    }
}

#[test]
fn a_provider_that_can_not_be_shown_is_an_error_that_helps() {
    for (name, texts) in [
        (
            "docker_hub",
            &["Docker Hub can't be verified", "signs nothing"][..],
        ),
        ("docker-hub", &["Docker Hub can't be verified"]),
        ("shopfy", &["is it one of shopify", "`hookward providers`"]),
        ("strpe", &["stripe"]),
        ("zzzzzz", &["no provider is called", "`hookward providers`"]),
    ] {
        assert_wrong(&["providers", "show", name], &[], texts);
    }

    let list = hookward(&["providers"], &[], "");
    for row in providers::unverifiable() {
        let line = list
            .out
            .lines()
            .find(|line| line.split_whitespace().next() == Some(&row.id));
        assert!(
            line.is_some_and(|line| line.contains(&row.reason)),
            "{}",
            row.id
        );
    }
}

#[tokio::test]
async fn a_secret_sent_in_a_challenge_is_stored() {
    let told = "b537207f20cbfa02357cf448134da559";
    for (provider, headers, body) in [
        ("asana", &[("X-Hook-Secret", told)][..], String::new()),
        (
            "notion",
            &[("Content-Type", "application/json")],
            format!(r#"{{"verification_token":"{told}"}}"#),
        ),
    ] {
        let folder = Folder::new();
        let (file, state) = (folder.path("secret"), folder.path("state"));
        let args = [
            "pair",
            provider,
            "--secret-file",
            &file,
            "--local=127.0.0.1:0",
            "--log-format",
            "json",
        ];

        let (mut pairing, ready) = {
            let args = [&args[..], &["--state-dir", &state]].concat();
            let args: Vec<String> = args.into_iter().map(str::to_owned).collect();
            off(move || {
                let args: Vec<&str> = args.iter().map(String::as_str).collect();
                let mut pairing = Process::start("hookward", &args, &[]);
                let ready = pairing.event("ready");
                (pairing, ready)
            })
            .await
        };
        let edge = edge(&ready, ready["host"].as_str().unwrap());

        // Anything else does not end it.
        assert_eq!(
            edge.post(&target(&ready), &[], b"{}").await.status,
            403,
            "{provider}"
        );

        let answer = edge.post(&target(&ready), headers, body.as_bytes()).await;
        assert_eq!(answer.status, 200, "{provider}: {answer:?}");
        let echoed = answer.header("x-hook-secret");
        assert_eq!(echoed, (provider == "asana").then_some(told), "{provider}");

        let said = off(move || {
            assert_eq!(pairing.wait(), Some(0), "{:?}", pairing.err());
            [pairing.out(), pairing.err()].concat().join("\n")
        })
        .await;

        assert_eq!(std::fs::read_to_string(&file).unwrap(), told, "{provider}");
        assert_eq!(
            mode(folder.0.path().join("secret").as_path()),
            0o600,
            "{provider}"
        );

        let next = format!("--verify {provider}=file:{file}");
        assert!(
            said.contains(&next) && !said.contains(told),
            "{provider}: {said}"
        );

        // A secret is never overwritten.
        assert_wrong(
            &[
                "pair",
                provider,
                "--secret-file",
                &file,
                "--state-dir",
                &state,
            ],
            &[],
            &["exists; `hookward pair` never overwrites a secret"],
        );
    }
}

#[test]
fn pairing_is_for_providers_that_tell_their_secret() {
    let folder = Folder::new();
    let (file, state) = (folder.path("secret"), folder.path("state"));

    for (provider, text) in [
        ("github", "does not send its secret in a challenge"),
        ("asanna", "is it one of asana"),
        ("docker_hub", "can't be verified"),
    ] {
        assert_wrong(
            &[
                "pair",
                provider,
                "--secret-file",
                &file,
                "--state-dir",
                &state,
            ],
            &[],
            &[text],
        );
    }
}

#[test]
fn placeholders_are_refused_and_short_secrets_cause_a_note() {
    for (value, text) in [
        ("x", "has 1 bytes"),
        ("hunter2", "has 7 bytes"),
        ("undefined", "holds no secret"),
        ("Change-Me", "holds no secret"),
        ("your-secret-here", "holds no secret"),
        ("${GITHUB_SECRET}", "holds no secret"),
        ("xxxxxxxxxxxxxxxx", "one repeated letter"),
    ] {
        for flag in [&["--verify", "github=env:X"][..], &["--token", "env:X"]] {
            let args = [&["check", "--path", "/a"][..], flag].concat();
            assert_wrong(&args, &[("X", value)], &["env:X", text]);
        }
    }

    for (value, note) in [
        ("only-12-long", "has 12 bytes only"),
        ("\"a secret of some length\"", "is in quotes"),
        ("\u{feff}a secret of some length", "byte order mark"),
        ("ghp_0123456789abcdef", "looks like an API key of GitHub"),
        (
            "a secret of some length ",
            "a space or a line end around it",
        ),
        ("a secret of some length", ""),
    ] {
        let ended = hookward(
            &["check", "--path", "/a", "--verify", "github=env:X"],
            &[("X", value)],
            "",
        );
        assert_eq!(ended.code, Some(0), "{ended:?}");

        assert_eq!(
            ended.out.contains("note: env:X"),
            !note.is_empty(),
            "{ended:?}"
        );
        assert!(ended.out.contains(note), "{note} in {ended:?}");
    }

    let folder = Folder::new();
    let utf16: Vec<u8> = "\u{feff}a secret of some length"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    let file = folder.file("utf16", utf16);

    let ended = hookward(
        &[
            "check",
            "--path",
            "/a",
            "--verify",
            &format!("github=file:{file}"),
        ],
        &[],
        "",
    );
    assert!(ended.out.contains("is UTF-16"), "{ended:?}");
}

#[test]
fn a_secret_that_slipped_into_the_command_line_is_not_repeated() {
    for flag in ["--token", "--basic"] {
        let ended = hookward(
            &["check", "--path", "/a", flag, "env:hunter2-and!more"],
            &[],
            "",
        );
        assert_eq!(ended.code, Some(2), "{ended:?}");
        assert!(
            ended.err.contains("without a $") && !ended.err.contains("hunter2"),
            "{ended:?}"
        );
    }
}

#[test]
fn a_file_at_home_is_found() {
    let folder = Folder::new();
    folder.file("hook-secret", "a secret of some length");
    let home = folder.0.path().to_str().unwrap();
    let args = [
        "check",
        "--path",
        "/a",
        "--verify",
        "github=file:~/hook-secret",
    ];
    let ended = hookward(&args, &[("HOME", home)], "");
    assert_eq!(ended.code, Some(0), "{ended:?}");

    let gone = hookward(&args, &[("HOME", "/nowhere")], "");
    assert!(
        gone.code == Some(2) && gone.err.contains("~/hook-secret"),
        "{gone:?}"
    );
}

/// Describes what a policy allows, from flags as people write them.
#[test]
fn check_describes_what_a_policy_allows() {
    let secret = [("X", "a secret of some length")];
    let said = |more: &[&str]| {
        let ended = hookward(
            &[&["check", "--path", "/hooks/**"], more].concat(),
            &secret,
            "",
        );
        assert_eq!(ended.code, Some(0), "{more:?}: {ended:?}");
        ended.out
    };

    let lists = said(&[
        "--allow-ip",
        "1.1.1.1,2.2.2.2",
        "--allow-ip",
        "GitHub",
        "--method",
        "post,Put",
    ]);
    assert!(
        lists.contains("POST, PUT on /hooks/**: from github, 1.1.1.1/32, 2.2.2.2/32"),
        "{lists}"
    );

    let signed = said(&["--verify", "github=env:X", "--token", "env:X"]);
    assert!(
        signed
            .contains("with a token in ?token= (env:X), with a valid signature of GitHub (env:X)"),
        "{signed}"
    );
    assert!(!signed.contains("warning"), "{signed}");

    let open = said(&["--no-token"]);
    assert!(
        open.contains("every method but CONNECT and TRACE on /hooks/**: anyone who knows the URL")
            && open.contains("warning"),
        "{open}"
    );

    let all = said(&["--allow-ip", "0.0.0.0/0", "--no-token"]);
    assert!(
        all.contains("anyone who knows the URL, from 0.0.0.0/0") && all.contains("is open"),
        "{all}"
    );

    let everything = hookward(&["check", "--path", "/**", "--token", "env:X"], &secret, "");
    assert!(
        everything.out.contains("warning") && everything.out.contains("the whole application"),
        "{everything:?}"
    );

    let minted = said(&[]);
    assert!(
        minted.contains("with a token in ?token= (the created token)"),
        "{minted}"
    );
}

/// With several providers on one path, the reason is about the one that the request resembles.
#[test]
fn the_closest_rule_gives_the_reason() {
    let folder = Folder::new();
    let secret = folder.file("secret", "a secret of some length");
    let flags: Vec<String> = ["github", "slack", "bitbucket_server"]
        .iter()
        .map(|id| format!("--verify={id}=file:{secret}"))
        .collect();
    let signature = format!("sha256={}", hex("another secret", "{}"));
    let headers = [
        ("X-Hub-Signature", signature.as_str()),
        ("X-Event-Key", "repo:refs_changed"),
    ];
    let request = folder.file("request", raw("POST", "/hooks", &headers, b"{}"));

    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let said = explain(
        &[
            &["--path", "/hooks", "--request", &request, "--url", URL],
            &flags[..],
        ]
        .concat(),
        &[],
        "",
    );
    let reason = said["reason"].as_str().unwrap();
    assert!(
        reason.starts_with("Bitbucket Data Center and Server: "),
        "{said}"
    );

    assert!(reason.contains("another accept rule: GitHub"), "{said}");
}

#[test]
fn reasons_name_what_would_have_been_right() {
    let folder = Folder::new();
    let secret = [("X", "a-token-of-some-length")];
    let reason = |flags: &[&str], target: &str, headers: &[(&str, &str)]| {
        let request = folder.file("request", raw("POST", target, headers, b"{}"));
        let said = explain(
            &[&["--request", &request, "--url", URL], flags].concat(),
            &secret,
            "",
        );
        said["reason"].as_str().unwrap().to_owned()
    };

    let token = ["--path", "/hooks", "--token", "header:Authorization=env:X"];
    let word = reason(
        &token,
        "/hooks",
        &[("Authorization", "Bearer a-token-of-some-length")],
    );
    assert!(word.contains("right but for \"Bearer\""), "{word}");

    let outside = reason(&token, "/elsewhere", &[]);
    assert!(
        outside.contains("/hooks") && outside.contains("--path"),
        "{outside}"
    );

    let ahead = NOW + 4000;
    let (signature, at) = (
        format!(
            "v0={}",
            hex("a-token-of-some-length", &format!("v0:{ahead}:{{}}"))
        ),
        ahead.to_string(),
    );
    let signed = [
        ("X-Slack-Signature", signature.as_str()),
        ("X-Slack-Request-Timestamp", &at),
    ];

    let now = NOW.to_string();
    let slack = ["--path", "/hooks", "--verify", "slack=env:X", "--now", &now];
    let future = reason(&slack, "/hooks", &signed);
    assert!(
        future.contains("4000 s in the future") && future.contains("clocks"),
        "{future}"
    );

    assert_wrong(
        &["check", "--verify", "netbox=env:X"],
        &secret,
        &["netbox", "scheme"],
    );
}

/// The doctor also names what altered a secret.
#[test]
fn the_doctor_knows_secrets_that_were_altered() {
    let signature = github_signature(KEY, b"{}");
    let headers = [("X-Hub-Signature-256", signature.as_str())];
    let utf16: Vec<u8> = format!("\u{feff}{KEY}")
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();

    for (kept, hint) in [
        (format!("\"{KEY}\"").into_bytes(), "quotes"),
        (format!("\u{feff}{KEY}").into_bytes(), "byte order mark"),
        (utf16, "UTF-16"),
        (b"ghp_0123456789abcdef".to_vec(), "API key of GitHub"),
    ] {
        Delivery {
            kept: &kept,
            headers: &headers,
            ..DELIVERY
        }
        .assert_hint(hint);
    }
}

/// GetStream signs the body before it compresses it; the relay decompresses nothing.
#[test]
fn a_body_compressed_after_signing_is_named() {
    /// Python's gzip of the body that is signed below.
    const PACKED: &[u8] = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03\xab\x56\x2a\xa9\x2c\x48\x55\xb2\x52\xca\x4d\x2d\x2e\x4e\x4c\x4f\xd5\xcb\x4b\x2d\x57\xaa\x05\x00\xd5\x13\x48\xca\x16\x00\x00\x00";

    let folder = Folder::new();
    let secret = folder.file("secret", KEY);
    let signature = hex(KEY, "{\"type\":\"message.new\"}");
    let headers = [
        ("X-Signature", signature.as_str()),
        ("Content-Encoding", "gzip"),
        ("X-Api-Key", "k"),
    ];
    let request = folder.file("request", raw("POST", "/hooks", &headers, PACKED));

    let verify = format!("getstream=file:{secret}");
    let said = explain(
        &[
            "--path",
            "/hooks",
            "--verify",
            &verify,
            "--request",
            &request,
            "--url",
            URL,
        ],
        &[],
        "",
    );

    let told = format!("{} {}", said["reason"], said["hints"]);
    assert!(told.contains("unpack"), "{said}");
}

/// The digest of a policy depends on its meaning, and not on its form or its secrets.
#[test]
fn a_policy_has_the_same_digest_in_every_form() {
    let digest = |args: &[&str], key: &str| {
        let ended = hookward(&[&["check"], args].concat(), &[("KEY", key)], "");
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let line = ended.out.lines().find(|line| line.starts_with("digest"));
        line.expect("a digest").to_owned()
    };
    let folder = Folder::new();

    let flags = [
        "--path",
        "/a/**",
        "--method",
        "post",
        "--verify",
        "github=env:KEY",
    ];
    let own = digest(&flags, "one secret of the test");
    assert_eq!(own, digest(&flags, "another secret of the test"));

    let tables = folder.file(
        "tables.toml",
        "[[route]]\npath = ['/a/**']\nmethods = ['POST']\n[[route.accept]]\n\
         verify = { provider = 'github', secret = 'env:KEY' }",
    );
    let inline = folder.file(
        "inline.toml",
        "# the same in another form\nroute = [ { accept = [ { verify = [ { secrets = [\"env:KEY\"], provider = \
         \"github\" } ] } ], methods = [\"POST\"], path = \"/a/**\" } ]",
    );
    for path in [&tables, &inline] {
        assert_eq!(own, digest(&["--policy", path], "one secret of the test"));
    }

    let other = [
        "--path",
        "/b/**",
        "--method",
        "post",
        "--verify",
        "github=env:KEY",
    ];
    assert_ne!(own, digest(&other, "one secret of the test"));
}
