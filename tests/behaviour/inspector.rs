//! The inspector over HTTP: what it keeps, what it hides, and what it sends again.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;

use data_encoding::BASE64;
use hookward_tests::application::Reply;
use hookward_tests::inspector::{InspectedAgent, PATH, SECRET};
use hookward_tests::process::{have, run};
use hookward_tests::sender::github_signature;
use hookward_tests::wait::DEADLINE;
use serde_json::Value;

use super::programs::{mode, off};

/// Returns the raw bytes of the history's files.
fn stored(agent: &InspectedAgent) -> Vec<u8> {
    let path = agent.history();
    let mut bytes = std::fs::read(&path).unwrap();
    let log = path.with_extension("db-wal");
    bytes.extend(std::fs::read(log).unwrap_or_default());
    bytes
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes
        .windows(text.len())
        .any(|window| window == text.as_bytes())
}

#[tokio::test]
async fn requests_are_kept_without_secrets() {
    let mut agent = InspectedAgent::start_with(&["--redact", "Customer-Id"], |_| {
        let cookie = ("Set-Cookie", "session=cookie-of-the-application".to_owned());
        Reply::Full(
            200,
            vec![cookie],
            br#"{"access_token":"token-of-the-application"}"#.to_vec(),
        )
    })
    .await;
    let body = format!(
        r#"{{"ref":"refs/heads/main","customer-id":"customer-in-json","nested":{{"password":"password-in-json"}},"echo":"{SECRET}"}}"#
    );
    let fields = [
        ("Authorization", "Bearer credentials-of-the-sender"),
        ("Cookie", "a=cookie-of-the-sender"),
        ("X-Api-Key", "key-of-the-sender"),
        ("Customer-Id", "customer-in-a-field"),
    ];
    let target = format!("{PATH}?access_token=token-in-the-query&kept=visible-in-the-query");
    assert_eq!(agent.push_with(&target, &fields, &body).await, 200);
    agent.keeps(1).await;

    // The application gets everything.
    let received = agent.received(1).await;
    assert_eq!(received[0].body, body.as_bytes());
    assert_eq!(received[0].header("cookie"), Some("a=cookie-of-the-sender"));

    let html = agent.get("/requests/1").await.body;
    for phase in [
        "Relay: gate",
        "Tunnel round trip, about",
        "Agent: gate",
        "Application",
    ] {
        assert!(html.contains(phase), "{phase} is missing in {html}");
    }
    let bytes = stored(&agent);
    for secret in [
        "credentials-of-the-sender",
        "cookie-of-the-sender",
        "key-of-the-sender",
        "customer-in-json",
        "customer-in-a-field",
        "token-in-the-query",
        "password-in-json",
        SECRET,
        "cookie-of-the-application",
        "token-of-the-application",
    ] {
        assert!(!contains(&bytes, secret), "{secret} is in the file");
        assert!(!html.contains(secret), "{secret} is on the page");
    }
    for kept in ["refs/heads/main", "visible-in-the-query", "[redacted]"] {
        assert!(contains(&bytes, kept), "{kept} is not in the file");
    }
    assert_eq!(mode(&agent.history()), 0o600);

    // It survives a restart.
    agent.restart().await;
    let requests = agent.requests().await;
    let summary = &requests[0]["summary"];
    assert_eq!(summary["verdict"], "forwarded");
    assert_eq!(
        (&summary["provider"], &summary["event"]),
        (&"github".into(), &"push".into())
    );
    assert_eq!(requests[0]["explanation"]["verdict"], "allow");
}

#[tokio::test]
async fn a_refusal_is_explained_check_by_check() {
    let agent = InspectedAgent::start(&[]).await;
    let signature = github_signature("another-secret-of-github", b"{}");
    let fields = [
        ("X-Hub-Signature-256", signature.as_str()),
        ("X-GitHub-Event", "push"),
    ];
    assert_eq!(agent.edge.post(PATH, &fields, b"{}").await.status, 403);
    assert_eq!(agent.edge.post("/admin", &[], b"{}").await.status, 404);
    agent.keeps(2).await;

    let requests = agent.requests().await;
    let refused = &requests[0];
    assert_eq!(refused["summary"]["by"], "relay");
    assert_eq!(refused["summary"]["check"], "signature");
    assert_eq!(refused["request"]["body"], "{}");
    let checks = refused["explanation"]["checks"].as_array().unwrap();
    let outcome = |name: &str| {
        let step = checks.iter().find(|step| step["check"] == name);
        step.map(|step| step["outcome"].as_str().unwrap().to_owned())
    };
    assert_eq!(outcome("path").as_deref(), Some("pass"));
    assert_eq!(outcome("signature").as_deref(), Some("refuse"));
    let html = agent.get("/requests/1").await.body;
    assert!(html.contains("another secret"), "{html}");
    for advice in [
        "To let such a request pass",
        "Let GitHub sign it.",
        "hookward send --provider github --secret env:GITHUB_SECRET --cacert",
    ] {
        assert!(html.contains(advice), "{advice} is missing in {html}");
    }

    // The download is what `hookward explain` reads.
    let raw = agent.get("/requests/1/raw").await.body;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("request.http");
    std::fs::write(&file, raw).unwrap();
    let explained = off(move || {
        let args = [
            "explain",
            "--verify",
            "github=env:S",
            "--request",
            file.to_str().unwrap(),
        ];
        run("hookward", &args, &[("S", "another-secret-of-github")], "")
    })
    .await;
    assert!(explained.out.starts_with("allow"), "{explained:?}");
}

#[tokio::test]
async fn strangers_payloads_can_be_left_out() {
    let agent = InspectedAgent::start(&["--capture-refused", "off"]).await;
    assert_eq!(
        agent
            .edge
            .post(PATH, &[], b"payload-of-a-stranger")
            .await
            .status,
        403
    );
    assert_eq!(agent.push("{}").await, 200);
    agent.keeps(1).await;
    let requests = agent.requests().await;
    assert_eq!(requests.len(), 1, "{requests:?}");
    assert!(!contains(&stored(&agent), "payload-of-a-stranger"));
}

#[tokio::test]
async fn nothing_is_kept_without_the_inspector() {
    let agent = InspectedAgent::start(&["--inspect", "off"]).await;
    assert_eq!(agent.push("{}").await, 200);
    assert!(!agent.history().exists());
}

#[tokio::test]
async fn a_request_is_sent_again_with_a_new_signature() {
    let agent = InspectedAgent::start(&[]).await;
    assert_eq!(agent.push(r#"{"ref":"refs/heads/main"}"#).await, 200);
    agent.keeps(1).await;
    agent.received(1).await;

    // As it was.
    let sent = agent.submit("/requests/1/send", &[("sign", "on")]).await;
    assert_eq!(sent.status, 303, "{sent:?}");
    assert!(
        sent.head.contains("location: /requests/2?sent=true"),
        "{}",
        sent.head
    );
    let received = agent.received(1).await;
    let signature = github_signature(SECRET, &received[0].body);
    assert_eq!(
        received[0].header("x-hub-signature-256"),
        Some(signature.as_str())
    );
    assert_eq!(received[0].header("x-github-event"), Some("push"));

    // Edited: browsers send line breaks as CR LF.
    let edited = [
        ("edited", "on"),
        ("sign", "on"),
        ("method", "POST"),
        ("target", "/flexdeploy/webhooks/v1/git/other?x=1"),
        (
            "fields",
            "X-GitHub-Event: ping\r\nContent-Type: application/json\r\nX-New: ü",
        ),
        ("body", "{\r\n  \"zen\": \"edited\"\r\n}"),
    ];
    let sent = agent.submit("/requests/1/send", &edited).await;
    assert_eq!(sent.status, 303, "{sent:?}");
    let received = agent.received(1).await;
    assert_eq!(received[0].target, "/flexdeploy/webhooks/v1/git/other?x=1");
    assert_eq!(received[0].body, b"{\n  \"zen\": \"edited\"\n}");
    assert_eq!(received[0].header("x-github-event"), Some("ping"));
    let signature = github_signature(SECRET, &received[0].body);
    assert_eq!(
        received[0].header("x-hub-signature-256"),
        Some(signature.as_str())
    );

    agent.keeps(3).await;
    let requests = agent.requests().await;
    assert_eq!(requests[2]["summary"]["source"], "again");
    assert_eq!(requests[2]["summary"]["again_of"], 1);
    let outcome = requests[2]["explanation"]["verdict"].as_str();
    assert_eq!(outcome, Some("allow"), "{:?}", requests[2]);

    // Within the policy only, and with an explanation beside the form.
    let outside = [("edited", "on"), ("target", "/admin")];
    let refused = agent.submit("/requests/1/send", &outside).await;
    assert_eq!(refused.status, 422);
    assert!(
        refused.body.contains("refuses it by path"),
        "{}",
        refused.body
    );
    for (field, value) in [
        ("method", "PO ST"),
        ("fields", "no field"),
        ("target", "http://x/"),
    ] {
        let refused = agent
            .submit("/requests/1/send", &[("edited", "on"), (field, value)])
            .await;
        assert_eq!(refused.status, 422, "{field}");
    }
    assert_eq!(agent.application.log.complete().len(), 0);
    let html = agent.get("/requests/1/edit").await.body;
    assert!(!html.contains(SECRET));
}

#[tokio::test]
async fn a_refused_request_passes_when_it_is_signed_anew() {
    let agent = InspectedAgent::start(&[]).await;
    let fields = [
        ("X-GitHub-Event", "push"),
        ("Content-Type", "application/json"),
    ];
    assert_eq!(agent.edge.post(PATH, &fields, b"{}").await.status, 403);
    agent.keeps(1).await;
    assert_eq!(
        agent
            .submit("/requests/1/send", &[("sign", "on")])
            .await
            .status,
        303
    );
    let received = agent.received(1).await;
    let signature = github_signature(SECRET, b"{}");
    assert_eq!(
        received[0].header("x-hub-signature-256"),
        Some(signature.as_str())
    );
}

#[tokio::test]
async fn a_sample_event_tries_a_route() {
    let agent = InspectedAgent::start(&[]).await;
    let html = agent.get("/samples").await.body;
    assert!(html.contains("Providers of your routes"), "{html}");
    let html = agent
        .get("/samples/edit?provider=github&event=push")
        .await
        .body;
    assert!(html.contains("/flexdeploy/webhooks/v1/test"), "{html}");

    let form = [
        ("tunnel", "flexdeploy.localhost"),
        ("method", "POST"),
        ("target", "/flexdeploy/webhooks/v1/test"),
        ("fields", "X-GitHub-Event: push"),
        ("body", "{}"),
        ("sign", "on"),
    ];
    let sent = agent.submit("/samples/send", &form).await;
    assert_eq!(sent.status, 303, "{sent:?}");
    let received = agent.received(1).await;
    let signature = github_signature(SECRET, b"{}");
    assert_eq!(
        received[0].header("x-hub-signature-256"),
        Some(signature.as_str())
    );
    agent.keeps(1).await;
    assert_eq!(agent.requests().await[0]["summary"]["source"], "sample");
}

#[tokio::test]
async fn the_list_is_filtered() {
    let agent = InspectedAgent::start_with(&[], |request| match request.target.ends_with("fail") {
        true => Reply::Full(500, Vec::new(), b"broken".to_vec()),
        false => Reply::ok("fine"),
    })
    .await;
    agent.push(r#"{"ref":"refs/heads/main"}"#).await;
    agent
        .push_with(
            "/flexdeploy/webhooks/v1/fail",
            &[],
            r#"{"ref":"refs/heads/other"}"#,
        )
        .await;
    agent
        .edge
        .post(PATH, &[("X-Custom", "100%_sure")], b"{}")
        .await;
    agent.keeps(3).await;

    for (filter, expected) in [
        ("", vec![3, 2, 1]),
        ("status:5xx", vec![2]),
        ("status:%3C500 -verdict:refused", vec![1]),
        ("verdict:refused", vec![3]),
        ("check:signature", vec![3]),
        ("body:refs/heads/main", vec![1]),
        ("heads", vec![2, 1]),
        ("header:x-custom=100%25_", vec![3]),
        ("header:x-custom=100%25x", vec![]),
        ("path:fail provider:github", vec![2]),
        ("event:push", vec![2, 1]),
        ("since:1h", vec![3, 2, 1]),
        ("until:1h", vec![]),
    ] {
        let path = format!("/requests/rows?filter={}", filter.replace(' ', "+"));
        let html = agent.get(&path).await.body;
        let numbers: Vec<u32> = html
            .split("data-number=\"")
            .skip(1)
            .map(|rest| rest.split('"').next().unwrap().parse().unwrap())
            .collect();
        assert_eq!(numbers, expected, "{filter}");
    }
    let html = agent.get("/?filter=statsu:500").await.body;
    assert!(html.contains("there is no key"), "{html}");
}

#[tokio::test]
async fn an_open_page_gets_new_requests() {
    let agent = InspectedAgent::start(&[]).await;
    let address = agent.inspector;
    let (opened, is_open) = tokio::sync::oneshot::channel();
    let reading = off(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let head =
            format!("GET /requests/stream?filter=event:push HTTP/1.1\r\nHost: {address}\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let (mut text, mut piece) = (String::new(), [0; 4096]);
        let mut opened = Some(opened);
        while !text.contains("data-number") {
            let read = stream.read(&mut piece).unwrap();
            assert!(read > 0, "{text}");
            text.push_str(&String::from_utf8_lossy(&piece[..read]));
            if text.contains("text/event-stream")
                && let Some(opened) = opened.take()
            {
                opened.send(()).unwrap();
            }
        }
        text
    });
    let sending = async {
        is_open.await.unwrap();
        agent.edge.post(PATH, &[], b"{}").await;
        assert_eq!(agent.push("{}").await, 200);
    };
    let (text, ()) = tokio::join!(reading, sending);
    assert!(text.contains("event: rows"), "{text}");
    assert!(
        text.contains("forwarded") && !text.contains("refused"),
        "{text}"
    );
}

#[tokio::test]
async fn other_sites_cannot_use_the_pages() {
    let agent = InspectedAgent::start(&[]).await;
    agent.push("{}").await;
    agent.keeps(1).await;
    agent.received(1).await;

    for path in [
        "/",
        "/requests/1",
        "/requests/rows",
        "/requests/stream",
        "/export.har",
        "/api/requests/http",
    ] {
        let rebound = agent
            .call("GET", path, &[("Host", "evil.example:4040")], "")
            .await;
        assert_eq!(rebound.status, 403, "{path}");
        let cross = [("Sec-Fetch-Site", "cross-site")];
        assert_eq!(
            agent.call("GET", path, &cross, "").await.status,
            403,
            "{path}"
        );
    }
    let form = ("Content-Type", "application/x-www-form-urlencoded");
    for path in ["/requests/1/send", "/requests/clear", "/samples/send"] {
        let foreign = [("Origin", "https://evil.example"), form];
        assert_eq!(
            agent.call("POST", path, &foreign, "sign=on").await.status,
            403,
            "{path}"
        );
        let opaque = [("Origin", "null"), form];
        assert_eq!(
            agent.call("POST", path, &opaque, "sign=on").await.status,
            403,
            "{path}"
        );
    }
    let foreign = [("Origin", "https://evil.example")];
    assert_eq!(
        agent
            .call("DELETE", "/api/requests/http", &foreign, "")
            .await
            .status,
        403
    );
    assert_eq!(agent.application.log.complete().len(), 0);

    let page = agent.get("/requests/1").await;
    assert!(
        page.head.contains("default-src 'none'; script-src 'self'"),
        "{}",
        page.head
    );
    assert!(
        page.head.contains("frame-ancestors 'none'"),
        "{}",
        page.head
    );
    for inline in ["<script>", "onclick=", "style=\"", "javascript:"] {
        assert!(!page.body.contains(inline), "{inline}");
    }
    // The private API needs its token.
    assert_eq!(agent.get("/api/v1/requests").await.status, 401);
}

#[tokio::test]
async fn the_history_is_exported_and_deleted() {
    let agent = InspectedAgent::start(&[]).await;
    agent.push(r#"{"a":"é"}"#).await;
    agent.edge.post(PATH, &[], b"{}").await;
    agent.keeps(2).await;

    let har: Value = agent.get("/export.har").await.json();
    let entries = har["log"]["entries"].as_array().unwrap();
    assert_eq!((entries.len(), &har["log"]["version"]), (2, &"1.2".into()));
    assert_eq!(entries[0]["request"]["postData"]["text"], r#"{"a":"é"}"#);
    assert_eq!(entries[0]["response"]["status"], 200);
    assert_eq!(entries[1]["response"]["status"], 403);

    let token = format!("Bearer {}", agent.token());
    let auth = [
        ("Authorization", token.as_str()),
        ("Content-Type", "application/json"),
    ];
    let listed = agent
        .call("GET", "/api/v1/requests?limit=1", &auth, "")
        .await
        .json();
    assert_eq!(listed["requests"][0]["number"], 2);
    assert_eq!(listed["next"], 2);
    let one = agent
        .call("GET", "/api/v1/requests/1", &auth, "")
        .await
        .json();
    assert_eq!(one["response"]["body"], r#"{"done":true}"#);
    let sent = agent
        .call("POST", "/api/v1/requests/1/send", &auth, r#"{"body":"{}"}"#)
        .await;
    assert_eq!(sent.json()["status"], 200, "{sent:?}");
    assert_eq!(sent.json()["signed_by"][0], "GitHub");

    let deleted = agent.call("DELETE", "/api/v1/requests", &auth, "").await;
    assert_eq!(deleted.status, 200, "{deleted:?}");
    assert!(agent.requests().await.is_empty());
    assert_eq!(agent.get("/requests/1").await.status, 404);
}

/// Requests in ngrok's shape, by a client that was written for ngrok.
#[tokio::test]
async fn a_client_of_ngrok_reads_and_repeats_requests() {
    if !super::admin::has_client_of_ngrok() {
        return;
    }
    let agent = InspectedAgent::start(&[]).await;
    agent.push(r#"{"ref":"refs/heads/main"}"#).await;
    agent.keeps(1).await;
    agent.received(1).await;

    let script = "
import base64, sys
from pyngrok import ngrok
api = sys.argv[1]
requests = ngrok.api_request(f'{api}/api/requests/http', method='GET', params={'limit': 10})['requests']
one = ngrok.api_request(f'{api}{requests[0][\"uri\"]}')
assert one == requests[0], one
assert one['request']['method'] == 'POST' and one['response']['status_code'] == 200, one
assert b'refs/heads/main' in base64.b64decode(one['request']['raw']), one
ngrok.api_request(f'{api}/api/requests/http', method='POST', data={'id': one['id']})
assert len(ngrok.api_request(f'{api}/api/requests/http')['requests']) == 2
ngrok.api_request(f'{api}/api/requests/http', method='DELETE')
print(len(ngrok.api_request(f'{api}/api/requests/http')['requests']))
";
    let api = format!("http://{}", agent.inspector);
    let output = off(move || {
        Command::new("python3")
            .args(["-c", script, &api])
            .output()
            .unwrap()
    })
    .await;
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "0");
    assert_eq!(
        agent.received(1).await[0].body,
        br#"{"ref":"refs/heads/main"}"#
    );
}

/// Other users of the machine need the token: a loopback address is open to all of them.
#[tokio::test]
async fn other_users_of_the_machine_need_the_token() {
    let is_root = std::fs::read_to_string("/proc/self/status")
        .unwrap()
        .lines()
        .any(|line| {
            line.split_whitespace()
                .collect::<Vec<_>>()
                .starts_with(&["Uid:", "0"])
        });
    if !is_root
        || !have("setpriv", "apt-get install util-linux")
        || !have("curl", "apt-get install curl")
    {
        println!("skipped: only root can become another user");
        return;
    }

    let agent = InspectedAgent::start(&[]).await;
    let (url, token) = (format!("http://{}/", agent.inspector), agent.token());
    let status = |token: Option<String>| {
        let url = url.clone();
        off(move || {
            let mut curl = Command::new("setpriv");
            curl.args(["--reuid=65534", "--regid=65534", "--clear-groups", "curl"]);
            curl.args(["-s", "-o", "/dev/null", "-w", "%{http_code}"]);
            if let Some(token) = token {
                curl.args(["-u", &format!("me:{token}")]);
            }
            let output = curl.arg(&url).output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        })
    };
    assert_eq!(status(None).await, "401");
    assert_eq!(status(Some(token)).await, "200");
    assert_eq!(status(Some("wrong".to_owned())).await, "401");
    assert_eq!(agent.get("/").await.status, 200, "the own user needs none");
}

/// On an address that other machines reach, everything needs the token.
#[tokio::test]
async fn another_address_needs_the_token() {
    let agent = InspectedAgent::start(&["--inspect", "0.0.0.0:0"]).await;
    for path in [
        "/",
        "/requests/1",
        "/assets/list.js",
        "/api/requests/http",
        "/export.har",
    ] {
        let refused = agent.get(path).await;
        assert_eq!(refused.status, 401, "{path}");
        assert!(
            refused.head.contains("www-authenticate: basic"),
            "{}",
            refused.head
        );
    }
    let basic = format!(
        "Basic {}",
        BASE64.encode(format!("hookward:{}", agent.token()).as_bytes())
    );
    let auth = [("Authorization", basic.as_str())];
    assert_eq!(agent.call("GET", "/", &auth, "").await.status, 200);
    let foreign = [
        ("Authorization", basic.as_str()),
        ("Origin", "https://evil.example"),
    ];
    assert_eq!(
        agent
            .call("POST", "/requests/clear", &foreign, "")
            .await
            .status,
        403
    );
}
