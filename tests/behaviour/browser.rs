//! The inspector in a browser: live, explained, by keyboard, in the dark, on a phone, and harmless.

use hookward_tests::application::{Application, Reply};
use hookward_tests::browser::{Browser, Window, axe};
use hookward_tests::inspector::{InspectedAgent, PATH, SECRET};
use hookward_tests::sender::github_signature;
use tokio::time::Instant;

use super::admin;

#[tokio::test]
async fn a_request_is_seen_understood_and_sent_again() {
    let Some(browser) = Browser::start(Window::default()).await else {
        return;
    };
    let agent = InspectedAgent::start(&[]).await;
    let url = format!("http://{}", agent.inspector);

    // An empty list teaches the next command.
    browser.open(&url).await;
    browser.shows("No requests yet").await;
    browser.shows("hookward send").await;
    browser.shows("live").await;

    // It appears without loading the page again.
    let sent = Instant::now();
    assert_eq!(
        agent
            .push(r#"{"ref":"refs/heads/main","repository":{"full_name":"acme/shop"}}"#)
            .await,
        200
    );
    browser.find("#requests a.request").await;
    println!("visible after {} ms", sent.elapsed().as_millis());
    browser.shows("github push").await;

    // By keyboard: the newest request, then its page.
    let signature = github_signature("another-secret-of-github", b"{}");
    let fields = [
        ("X-Hub-Signature-256", signature.as_str()),
        ("X-GitHub-Event", "push"),
    ];
    assert_eq!(agent.edge.post(PATH, &fields, b"{}").await.status, 403);
    browser.shows("the signature does not match").await;
    browser.press("j").await;
    browser.press("j").await;
    browser.press("k").await;
    browser.press("Enter").await;
    browser.shows("refuses").await;
    let text = browser.text().await;
    for part in [
        "signature",
        "another secret",
        "the route \"/flexdeploy/webhooks/v1/**\" has this path",
        "Client address",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }

    // The rule of the other request, and its tree.
    browser.open(&format!("{url}/requests/1")).await;
    browser
        .shows("--require-body 'repository.full_name=acme/shop'")
        .await;
    browser.shows("full_name").await;
    browser.find("details[open] summary").await;

    // Sent again by its key.
    agent.received(1).await;
    browser.press("r").await;
    browser
        .shows("Sent to the application, with a new signature as GitHub makes it")
        .await;
    let received = agent.received(1).await;
    let signature = github_signature(SECRET, &received[0].body);
    assert_eq!(
        received[0].header("x-hub-signature-256"),
        Some(signature.as_str())
    );

    // Edited, and signed anew.
    browser.find("#edit").await.click().await.unwrap();
    let body = browser.find("#body").await;
    body.clear().await.unwrap();
    body.send_keys("{\n\"ref\": \"edited\"\n}").await.unwrap();
    browser
        .find("form button.main-action")
        .await
        .click()
        .await
        .unwrap();
    browser.shows("Sent to the application").await;
    let received = agent.received(1).await;
    assert_eq!(received[0].body, b"{\n\"ref\": \"edited\"\n}");
    let signature = github_signature(SECRET, &received[0].body);
    assert_eq!(
        received[0].header("x-hub-signature-256"),
        Some(signature.as_str())
    );

    // A filter.
    browser
        .open(&format!("{url}/?filter=verdict:refused"))
        .await;
    browser.shows("the signature does not match").await;
    let rows = browser
        .run("return document.querySelectorAll('#requests li').length")
        .await;
    assert_eq!(rows, 1);

    // The next request of the filtered list, and back to it.
    browser
        .open(&format!("{url}/?filter=verdict:forwarded"))
        .await;
    browser.press("j").await;
    browser.press("Enter").await;
    browser.shows("Requests with verdict:forwarded").await;
    browser.press("j").await;
    browser.find("#newer").await;
    browser.press("j").await;
    browser.shows("/git/push").await;
    browser.press("Escape").await;
    browser.find("#filter[value='verdict:forwarded']").await;

    // The webhook URL can be copied, and times are local.
    let button = "return document.querySelector('#url-0 + button').hidden";
    assert_eq!(browser.run(button).await, false);
    let zone = "return document.querySelector('[data-zone]').textContent";
    assert_eq!(browser.run(zone).await, "Time");

    assert_eq!(browser.console_errors().await, Vec::<String>::new());
    browser.close().await;
}

#[tokio::test]
async fn a_sample_event_is_sent_from_the_browser() {
    let Some(browser) = Browser::start(Window::default()).await else {
        return;
    };
    let agent = InspectedAgent::start(&[]).await;
    browser
        .open(&format!("http://{}/samples", agent.inspector))
        .await;
    browser.shows("Providers of your routes").await;
    browser
        .find("a[href*='github'][href*='pull_request']")
        .await
        .click()
        .await
        .unwrap();
    browser
        .find("form button.main-action")
        .await
        .click()
        .await
        .unwrap();
    browser.shows("Sent to the application").await;
    let received = agent.received(1).await;
    assert_eq!(received[0].header("x-github-event"), Some("pull_request"));
    let signature = github_signature(SECRET, &received[0].body);
    assert_eq!(
        received[0].header("x-hub-signature-256"),
        Some(signature.as_str())
    );
    assert_eq!(browser.console_errors().await, Vec::<String>::new());
    browser.close().await;
}

/// A screen in light and dark, and a phone.
const WINDOWS: [Window; 3] = [
    Window {
        width: 1280,
        height: 900,
        is_dark: false,
    },
    Window {
        width: 1280,
        height: 900,
        is_dark: true,
    },
    Window {
        width: 390,
        height: 800,
        is_dark: false,
    },
];

async fn click(browser: &Browser, css: &str) {
    browser.find(css).await.click().await.unwrap();
}

/// Checks accessibility, width and colours of the page that the browser shows.
async fn check_page(browser: &Browser, axe: &str, window: Window) {
    let page = browser.page.current_url().await.unwrap();
    let faults = browser.accessibility_faults(axe).await;
    assert!(faults.is_empty(), "{page} {window:?}: {faults:#?}");
    let width = browser
        .run("return document.documentElement.scrollWidth")
        .await;
    assert!(
        width.as_u64().unwrap() <= window.width.into(),
        "{page} {window:?}: {width}"
    );
    let back = browser
        .run("return getComputedStyle(document.body).backgroundColor")
        .await;
    assert_eq!(back == "rgb(18, 22, 29)", window.is_dark, "{page} {back}");
}

/// axe finds nothing serious on any page, in both colour schemes, and nothing is wider than a phone.
#[tokio::test]
async fn pages_are_accessible_in_light_dark_and_on_a_phone() {
    let Some(axe) = axe() else { return };
    let agent = InspectedAgent::start(&[]).await;
    agent
        .push(r#"{"ref":"refs/heads/main","list":[1,{"deep":null}]}"#)
        .await;
    agent
        .edge
        .post(
            PATH,
            &[("Content-Type", "application/x-www-form-urlencoded")],
            b"a=b&c=d",
        )
        .await;
    agent.keeps(2).await;

    for window in WINDOWS {
        let Some(browser) = Browser::start(window).await else {
            return;
        };
        for path in [
            "/",
            "/?filter=nothing-matches",
            "/requests/1",
            "/requests/2",
            "/requests/1/edit",
            "/samples",
        ] {
            browser
                .open(&format!("http://{}{path}", agent.inspector))
                .await;
            browser.find("main").await;
            check_page(&browser, &axe, window).await;
        }
        browser.close().await;
    }
}

/// The relay's console is as accessible.
#[tokio::test]
async fn the_console_is_accessible() {
    let Some(axe) = axe() else { return };
    let application = Application::start(|_| Reply::ok("fine")).await;
    let relay = admin::private(&application).await;
    let home = format!("http://me:{}@{}/", relay.token, relay.admin);
    relay.stage.edge.post("/stored/a", &[], b"{}").await;

    for window in WINDOWS {
        let Some(browser) = Browser::start(window).await else {
            return;
        };
        browser.open(&home).await;
        browser.find("#agents").await;
        check_page(&browser, &axe, window).await;
        click(&browser, "nav a[href='/deliveries']").await;
        browser.find("form[action$='/redeliver']").await;
        check_page(&browser, &axe, window).await;
        click(&browser, "form a[href$='/drop']").await;
        browser.find("form[action$='/drop']").await;
        check_page(&browser, &axe, window).await;
        click(&browser, "form[action$='/drop'] a").await;
        browser.find("#request").await;
        check_page(&browser, &axe, window).await;
        click(&browser, "nav a[href='/audit']").await;
        browser.find("#records summary").await;
        check_page(&browser, &axe, window).await;
        browser.open(&format!("{home}nothing")).await;
        browser.shows("Back to the start page").await;
        check_page(&browser, &axe, window).await;
        browser.close().await;
    }
}

/// New records of the audit log arrive, until the user pauses them.
#[tokio::test]
async fn the_console_follows_the_audit_log() {
    let Some(browser) = Browser::start(Window::default()).await else {
        return;
    };
    let application = Application::start(|_| Reply::ok("fine")).await;
    let relay = admin::private(&application).await;
    let home = format!("http://me:{}@{}/", relay.token, relay.admin);
    browser.open(&format!("{home}audit")).await;
    browser.shows("live, ").await;
    relay.stage.edge.get("/first").await;
    browser.shows("/first").await;
    let foreign = "return document.querySelectorAll('#records b').length";
    relay.stage.edge.get("/%3Cb%3Ebold").await;
    browser.shows("/%3Cb%3Ebold").await;
    assert_eq!(browser.run(foreign).await, 0);

    click(&browser, "#pause").await;
    browser.shows("paused").await;
    relay.stage.edge.get("/while-paused").await;
    click(&browser, "#pause").await;
    browser.shows("/while-paused").await;
    browser.close().await;
}

/// The state on the page is fresh without a reload, while the user does nothing.
#[tokio::test]
async fn the_console_refreshes_its_state() {
    let Some(browser) = Browser::start(Window::default()).await else {
        return;
    };
    let application = Application::start(|_| Reply::ok("fine")).await;
    let relay = admin::private(&application).await;
    let home = format!("http://me:{}@{}/", relay.token, relay.admin);
    browser.open(&home).await;
    browser.shows("No refusals.").await;
    relay.stage.edge.get("/nothing").await;
    browser.shows("up to 1 a minute").await;
    let rows = "return document.querySelectorAll('.over-time rect').length";
    assert_eq!(browser.run(rows).await, 1);

    // A webhook appears in the list.
    click(&browser, "nav a[href='/deliveries']").await;
    browser.shows("No webhooks are stored.").await;
    relay.stage.edge.post("/stored/a", &[], b"{}").await;
    browser.shows("1 attempt").await;
    browser.close().await;
}

#[tokio::test]
async fn the_console_asks_before_it_revokes() {
    let application = Application::start(|_| Reply::ok("fine")).await;
    let relay = admin::private(&application).await;
    let home = format!("http://me:{}@{}/", relay.token, relay.admin);
    let Some(browser) = Browser::start(Window::default()).await else {
        return;
    };
    browser.open(&home).await;
    click(&browser, "a[href='/agents/flexdeploy/revoke']").await;
    click(&browser, "main a[href='/']").await;
    click(&browser, "a[href='/agents/flexdeploy/revoke']").await;
    click(&browser, "form[action='/agents/flexdeploy/revoke'] button").await;
    browser.shows("Agent flexdeploy is revoked").await;
    browser.close().await;
}

#[tokio::test]
async fn hostile_content_is_shown_and_harmless() {
    let Some(browser) = Browser::start(Window::default()).await else {
        return;
    };
    let agent = InspectedAgent::start_with(&[], |_| {
        let html = b"<!doctype html><script>document.title = 'owned'</script>".to_vec();
        Reply::Full(200, vec![("Content-Type", "text/html".to_owned())], html)
    })
    .await;
    let hostile =
        "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>";
    let body = format!(
        r#"{{"html":"{}","bidi":"\u202eabc","ansi":"\u001b[31m","nul":"\u0000","</pre>":1}}"#,
        hostile.replace('"', "\\\"")
    );
    let long = "x".repeat(30_000);
    let fields = [
        ("X-Hostile", hostile),
        ("X-Long", long.as_str()),
        ("X-GitHub-Event", "<b>push</b>"),
    ];
    assert_eq!(agent.push_with(PATH, &fields, &body).await, 200);
    agent
        .edge
        .post("/%3Cscript%3Ealert(1)%3C/script%3E", &[], b"\x1b[31m\0\xff")
        .await;
    agent.keeps(2).await;

    for path in ["/", "/requests/1", "/requests/2", "/requests/1/edit"] {
        browser
            .open(&format!("http://{}{path}", agent.inspector))
            .await;
        browser.find("main").await;
        let title = browser.page.title().await.unwrap();
        assert!(!title.contains("owned"), "{path}");
        let foreign = browser
            .run("return document.querySelectorAll('main img, main script, main b').length")
            .await;
        assert_eq!(foreign, 0, "{path}");
        assert_eq!(
            browser.console_errors().await,
            Vec::<String>::new(),
            "{path}"
        );
    }
    browser
        .open(&format!("http://{}/requests/1", agent.inspector))
        .await;
    browser.shows("⟨U+202E⟩abc").await;
    browser.shows("⟨U+001B⟩[31m").await;
    browser
        .shows("<script>document.title='owned'</script>")
        .await;

    // A page of another site reaches nothing: not by a form, not by fetch, not in a frame.
    let attack = format!(
        "data:text/html,<form id=f method=post action='http://{0}/requests/1/send'></form>\
         <iframe src='http://{0}/'></iframe><script>fetch('http://{0}/requests/clear',{{method:'POST',mode:'no-cors'}});\
         setTimeout(()=>document.getElementById('f').submit(),300)</script>",
        agent.inspector
    );
    agent.received(1).await;
    browser.open(&attack).await;
    browser.shows("CSRF").await;
    assert!(agent.application.log.complete().is_empty());
    assert_eq!(agent.requests().await.len(), 2);
    browser.close().await;
}

/// Everything that a browser loads for the inspector, with 100 rows on the list.
#[tokio::test]
async fn pages_are_light() {
    let agent = InspectedAgent::start(&[]).await;
    for _ in 0..100 {
        agent.push("{}").await;
    }
    agent.keeps(100).await;
    let mut total = 0;
    for path in [
        "/",
        "/requests/1",
        "/assets/style.css",
        "/assets/icon.svg",
        "/assets/list.js",
        "/assets/request.js",
    ] {
        let response = agent.get(path).await;
        assert_eq!(response.status, 200, "{path}");
        println!("{path}: {} bytes", response.body.len());
        total += response.body.len();
    }
    assert!(total < 150_000, "{total} bytes");
}
