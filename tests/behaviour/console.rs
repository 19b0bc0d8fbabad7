//! The console: pages of the admin API that show the relay, and ask before they act.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;

use data_encoding::BASE64;
use hookward_tests::application::{Application, Reply};
use hookward_tests::private_api::{Response, call_with, get};
use hookward_tests::stage::{HOST, PREFIX};
use hookward_tests::wait::{DEADLINE, eventually, happens};

use super::admin::{Private, private};
use super::programs::off;

/// Sends a form as the console's own page does.
async fn post(private: &Private, path: &str, form: &str) -> Response {
    let (admin, path, form) = (private.admin, path.to_owned(), form.to_owned());
    let bearer = format!("Bearer {}", private.token);
    off(move || {
        let origin = format!("http://{admin}");
        let fields = [
            ("Authorization", bearer.as_str()),
            ("Origin", origin.as_str()),
            ("Content-Type", "application/x-www-form-urlencoded"),
            ("Accept", "text/html,*/*;q=0.8"),
        ];
        call_with(admin, "POST", &path, &fields, &form)
    })
    .await
}

/// The audit log has each of these acts, of the administrator.
async fn assert_recorded(private: &Private, acts: &[&'static str]) {
    let path = private.audit_log();
    let acts = acts.to_vec();
    off(move || {
        for act in acts {
            let is_recorded = |line: &str| {
                let record = serde_json::from_str::<serde_json::Value>(line).unwrap();
                record["event"] == act && record["actor"] == "admin API, token from 127.0.0.1"
            };
            happens(act, || {
                let log = std::fs::read_to_string(&path).unwrap();
                log.split_inclusive('\n')
                    .filter(|line| line.ends_with('\n'))
                    .any(is_recorded)
            });
        }
    })
    .await;
}

#[track_caller]
fn assert_shows(page: &Response, texts: &[&str]) {
    assert_eq!(page.status, 200, "{page:?}");
    for text in texts {
        assert!(
            page.body.contains(text),
            "{text} is missing in {}",
            page.body
        );
    }
}

#[tokio::test]
async fn the_console_shows_the_relay_and_asks_before_an_action() {
    let application = Application::start(|_| Reply::ok("fine")).await;
    let private = private(&application).await;
    private.stage.edge.post(PREFIX, &[], b"{}").await;
    private.stage.edge.get("/nothing").await;

    let stranger = private.call("GET", "/", &[]).await;
    assert_eq!(stranger.status, 401);
    let challenge = "www-authenticate: basic realm=\"hookward relay";
    assert!(stranger.head.contains(challenge), "{}", stranger.head);

    let page = private.get("/").await;
    let policy = "content-security-policy: default-src 'none'";
    assert!(page.head.contains(policy), "{}", page.head);
    let shown = [
        "flexdeploy",
        "online",
        "Requests since the start",
        "2 requests in the last hour",
        "Refusals by check, last hour",
        "Duration of forwarded requests",
        "max_connections",
        "Address sets",
        HOST,
    ];
    assert_shows(&page, &shown);

    let revoke = "/agents/flexdeploy/revoke";
    let question = private.get(revoke).await;
    assert_shows(&question, &["Revoke agent flexdeploy?"]);
    assert_eq!(private.get("/agents/other/revoke").await.status, 404);
    let agents = private.get("/api/v1/agents").await.json();
    assert_eq!(agents[0]["online"], true);

    let revoked = post(&private, revoke, "").await;
    assert_eq!(revoked.status, 303, "{revoked:?}");
    // As `agent revoke` does: without a credential, and with its hosts.
    let agent = &private.get("/api/v1/agents").await.json()[0];
    assert_eq!(agent["joined"], false, "{agent}");
    let page = private.get("/?revoked=flexdeploy").await;
    assert_shows(&page, &["Agent flexdeploy is revoked"]);
    let page = private.get("/?revoked=other").await;
    assert!(!page.body.contains("is revoked"), "{page:?}");

    // A page of an earlier run does not stop the relay.
    let earlier = post(&private, "/drain", "started_ms=1").await;
    assert_eq!(earlier.status, 409, "{earlier:?}");
    let question = private.get("/drain").await.body;
    let (_, started) = question.split_once("name=\"started_ms\" value=\"").unwrap();
    let (started, _) = started.split_once('"').unwrap();
    let stopping = post(&private, "/drain", &format!("started_ms={started}")).await;
    assert_eq!(stopping.status, 202, "{stopping:?}");
}

/// Other sites can lead a user to a page, and do nothing else. Errors are pages for browsers alone.
#[tokio::test]
async fn the_console_is_for_its_own_pages() {
    let application = Application::start(|_| Reply::ok("fine")).await;
    let private = private(&application).await;
    let password = format!("me:{}", private.token);
    let password = format!("Basic {}", BASE64.encode(password.as_bytes()));
    let known = ("Authorization", password.as_str());

    for foreign in [
        ("Origin", "https://evil.example"),
        ("Sec-Fetch-Site", "cross-site"),
    ] {
        for path in [
            "/agents/flexdeploy/revoke",
            "/drain",
            "/deliveries/redeliver",
            "/deliveries/pause",
            "/deliveries/00000000-0000-0000-0000-000000000000/drop",
        ] {
            let answer = private.call("POST", path, &[known, foreign]).await;
            assert_eq!(answer.status, 403, "{path} {foreign:?}");
        }
        let read = private
            .call("GET", "/audit/stream", &[known, foreign])
            .await;
        assert_eq!(read.status, 403, "{foreign:?}");
    }

    let link = [
        known,
        ("Sec-Fetch-Site", "cross-site"),
        ("Sec-Fetch-Mode", "navigate"),
        ("Sec-Fetch-Dest", "document"),
        ("Sec-Fetch-User", "?1"),
    ];
    for path in ["/", "/deliveries", "/audit"] {
        assert_eq!(private.call("GET", path, &link).await.status, 200, "{path}");
        let by_script = private.call("GET", path, &link[..4]).await;
        assert_eq!(by_script.status, 403, "{path}");
    }
    // Nothing on which the next click would act, and no API.
    for (method, path) in [
        ("POST", "/drain"),
        ("GET", "/drain"),
        ("GET", "/agents/flexdeploy/revoke"),
        ("GET", "/deliveries/redeliver"),
        ("GET", "/audit/stream"),
        ("GET", "/api/v1/agents"),
    ] {
        assert_eq!(
            private.call(method, path, &link).await.status,
            403,
            "{path}"
        );
    }
    let any = [known, ("Host", "0.0.0.0:4041")];
    assert_eq!(private.call("GET", "/", &any).await.status, 403);

    let html = ("Accept", "text/html,application/xhtml+xml");
    for (path, status) in [
        ("/agents/other/revoke", 404),
        ("/deliveries?state=lost", 400),
        ("/deliveries?before=x", 400),
        ("/deliveries/no-id", 400),
        ("/nothing", 404),
    ] {
        let page = private.call("GET", path, &[known, html]).await;
        assert_eq!(page.status, status, "{path}");
        assert!(page.body.contains("Back to the start page"), "{page:?}");
        assert_eq!(page.head.matches("cross-origin-opener-policy").count(), 1);
        assert_eq!(page.head.matches("content-security-policy").count(), 1);
        let text = private.call("GET", path, &[known]).await;
        assert!(!text.body.contains("<html"), "{text:?}");
    }
    let stranger = private.call("GET", "/", &[html]).await;
    assert_eq!(stranger.status, 401);
    assert!(stranger.body.contains("as password"), "{stranger:?}");
}

#[tokio::test]
async fn the_console_redelivers_and_drops() {
    let application = Application::start(|_| Reply::ok("fine")).await;
    let private = private(&application).await;
    assert_shows(
        &private.get("/deliveries").await,
        &["No webhooks are stored"],
    );

    let fields = [("X-GitHub-Event", "push"), ("X-Secret", "s3cr3t")];
    let body = b"{\"text\":\"<b>\xe2\x80\xae\",\"verification_token\":\"t0k3n\"}";
    let stored = private.stage.edge.post("/stored/a", &fields, body).await;
    assert_eq!(stored.status, 202);
    eventually("it is delivered", || application.log.complete().len() == 1).await;

    let listed = private.get("/api/v1/deliveries").await.json();
    let id = listed["deliveries"][0]["id"].as_str().unwrap().to_owned();
    let (admin, token, own_id) = (private.admin, private.token.clone(), id.clone());
    // The application has the webhook before the relay has its response.
    off(move || {
        let path = format!("/deliveries?state=delivered&tunnel={HOST}");
        let is_listed = || get(admin, &path, &token).body.contains(&own_id);
        happens("it is recorded", is_listed)
    })
    .await;

    let path = format!("/deliveries/{id}");
    let page = private.get(&path).await;
    let shown = [
        "delivered",
        "x-github-event",
        "(hidden)",
        "&#60;b&#62;⟨U+202E⟩",
    ];
    assert_shows(&page, &shown);
    for secret in ["s3cr3t", "t0k3n"] {
        assert!(!page.body.contains(secret), "{page:?}");
    }
    let lie = private.get(&format!("{path}?done=drop")).await;
    assert!(!lie.body.contains("has deleted"), "{lie:?}");
    let other = "/deliveries?tunnel=other.example";
    assert!(!private.get(other).await.body.contains(&id));

    let redeliver = format!("{path}/redeliver");
    let question = private.get(&redeliver).await;
    assert_shows(&question, &["Redeliver this webhook?", "once more"]);
    // The page on which it was pending is too old for this.
    let too_old = post(&private, &redeliver, "state=pending").await;
    let question = format!("location: /deliveries/{id}/redeliver\r\n");
    assert!(too_old.head.contains(&question), "{too_old:?}");
    let redelivered = post(&private, &redeliver, "state=delivered").await;
    assert_eq!(redelivered.status, 303, "{redelivered:?}");
    assert!(redelivered.head.contains("done=redeliver"));
    let notice = private.get(&format!("{path}?done=redeliver")).await;
    assert_shows(&notice, &["It is to be delivered again"]);
    eventually("it is delivered again", || {
        application.log.complete().len() == 2
    })
    .await;

    let drop = format!("{path}/drop");
    assert_shows(
        &private.get(&drop).await,
        &["Drop this delivery?", &id[..8]],
    );
    assert_eq!(post(&private, &drop, "").await.status, 303);
    let page = private.get(&path).await;
    assert_shows(&page, &["no longer has the content"]);
    assert!(!page.body.contains("/redeliver"), "{page:?}");
    for act in [&drop, &redeliver] {
        let again = post(&private, act, "state=delivered").await;
        assert_eq!(again.status, 409, "{again:?}");
        assert!(again.body.contains("The delivery has not changed"));
    }
    let acts = [
        "delivery_shown",
        "deliveries_redeliver_requested",
        "deliveries_redelivered",
        "deliveries_drop_requested",
        "deliveries_dropped",
    ];
    assert_recorded(&private, &acts).await;
    let unknown = "/deliveries/00000000-0000-0000-0000-000000000000";
    assert_eq!(private.get(unknown).await.status, 404);
    assert_eq!(
        post(&private, &format!("{unknown}/drop"), "").await.status,
        404
    );
}

#[tokio::test]
async fn the_console_pauses_a_tunnel_and_redelivers_its_dead_letters() {
    let application = Application::start(|_| Reply::ok("fine")).await;
    let private = private(&application).await;
    let form = format!("tunnel={HOST}");
    assert_eq!(post(&private, "/deliveries/pause", &form).await.status, 303);
    assert_eq!(
        post(&private, "/deliveries/pause", "tunnel=x").await.status,
        404
    );
    let list = format!("/deliveries?tunnel={HOST}");
    let page = private.get(&list).await;
    assert_shows(&page, &["paused", "Resume the attempts"]);

    private.stage.edge.post("/stored/a", &[], b"{}").await;
    let page = private.get(&list).await;
    assert_shows(&page, &["pending"]);
    assert_shows(&private.get("/").await, &["1 pending, 0 dead letters"]);
    assert!(application.log.complete().is_empty());
    assert_eq!(
        post(&private, "/deliveries/resume", &form).await.status,
        303
    );
    eventually("it is delivered", || application.log.complete().len() == 1).await;

    let question = private
        .get(&format!("/deliveries/redeliver?tunnel={HOST}"))
        .await;
    assert_shows(&question, &["Redeliver the dead letters?", HOST]);
    for mistake in ["", "tunnel=other.example", "tunel=x", "all_tunnels=false"] {
        let answer = post(&private, "/deliveries/redeliver", mistake).await;
        assert!([404, 422].contains(&answer.status), "{mistake}: {answer:?}");
    }
    let started = post(&private, "/deliveries/redeliver", &form).await;
    assert_eq!(started.status, 303);
    let (admin, token) = (private.admin, private.token.clone());
    off(move || {
        happens("the change is shown", || {
            let page = get(admin, "/deliveries", &token);
            page.body.contains("redeliver: 0 of 0 changed, ended")
        });
    })
    .await;

    let acts = [
        "deliveries_paused",
        "deliveries_resumed",
        "deliveries_redeliver_requested",
        "deliveries_redelivered",
    ];
    assert_recorded(&private, &acts).await;
}

#[tokio::test]
async fn the_console_follows_the_audit_log() {
    let application = Application::start(|_| Reply::ok("fine")).await;
    let private = private(&application).await;
    private.stage.edge.get("/%3Cb%3E").await;
    let (admin, token) = (private.admin, private.token.clone());
    let page = off(move || {
        let mut page = get(admin, "/audit?filter=REFUSED", &token);
        happens("the record is written", || {
            page = get(admin, "/audit?filter=REFUSED", &token);
            page.body.contains("/%3Cb%3E")
        });
        page
    })
    .await;
    assert_shows(&page, &["127.0.0.1", "audit.js"]);
    assert!(!page.body.contains("session_opened"), "{page:?}");
    let none = private.get("/audit?filter=nothing-like-it").await;
    assert_shows(&none, &["No record of the last 200 matches"]);

    // A new record arrives without another request, and the filter holds for it.
    let stream = follow(&private, "event:refused", None).await;
    private.stage.edge.post(PREFIX, &[], b"{}").await;
    let (mut stream, skipped) = read_until(stream, "event: position").await;
    assert!(!skipped.contains(">forwarded<"), "{skipped}");
    private.stage.edge.get("/later").await;
    let rows;
    (stream, rows) = read_until(stream, "/later").await;
    drop(stream);
    assert!(rows.contains("event: rows"), "{rows}");
    assert!(!rows.contains(">forwarded<"), "{rows}");

    // A page that reconnects gets what it missed, also if its number is of another run.
    for last in [0, 1_000_000] {
        let stream = follow(&private, "", Some(last)).await;
        let (_, rows) = read_until(stream, "/later").await;
        assert!(!rows.contains("did not follow"), "{rows}");
    }
}

/// Reads lines of a stream until one contains a text. Returns them.
async fn read_until(
    mut stream: BufReader<TcpStream>,
    text: &'static str,
) -> (BufReader<TcpStream>, String) {
    off(move || {
        let mut lines = String::new();
        while !lines.contains(text) {
            assert!(stream.read_line(&mut lines).unwrap() > 0, "{lines}");
        }
        (stream, lines)
    })
    .await
}

/// Opens the stream of the audit log, after the record with this number.
async fn follow(private: &Private, filter: &str, last: Option<u64>) -> BufReader<TcpStream> {
    let (admin, token) = (private.admin, private.token.clone());
    let last = last.map_or_else(String::new, |last| format!("Last-Event-ID: {last}\r\n"));
    let head = format!(
        "GET /audit/stream?filter={filter} HTTP/1.1\r\nHost: {admin}\r\n{last}\
         Authorization: Bearer {token}\r\n\r\n"
    );
    off(move || {
        let mut stream = TcpStream::connect(admin).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            assert!(stream.read_line(&mut line).unwrap() > 0);
        }
        stream
    })
    .await
}
