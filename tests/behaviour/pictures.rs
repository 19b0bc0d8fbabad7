//! Pictures of the documents: the agent's screen, the inspector and the relay's console.
//! `scripts/screenshots` draws them.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use hookward_core::clock::Clock;
use hookward_tests::application::{Application, Reply};
use hookward_tests::browser::{Browser, Window};
use hookward_tests::process::{Process, program};
use hookward_tests::sender::{Edge, github_signature};
use hookward_tests::stage::{PREFIX, roots};
use tempfile::TempDir;

use super::admin;
use super::programs::off;

const SECRET: &str = "a-secret-of-github-for-pictures";

const HOOKS: &str = "/flexdeploy/webhooks/v1";

/// Size of the terminal.
const ROWS: u16 = 30;
const COLUMNS: u16 = 112;

fn picture(name: &str) -> PathBuf {
    picture_of("agent", name)
}

fn picture_of(program: &str, name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../{program}/images"));
    std::fs::create_dir_all(&dir).unwrap();
    dir.join(name)
}

/// An agent on a terminal, before an application that works for some paths.
struct Terminal {
    process: Process,
    edge: Edge,
    inspector: String,
    _application: Application,
    _dir: TempDir,
}

impl Terminal {
    async fn start() -> Self {
        let application =
            Application::start(|request| match request.target.ends_with("rollback") {
                true => Reply::Full(
                    500,
                    Vec::new(),
                    br#"{"error":"no release to go back to"}"#.to_vec(),
                ),
                false => Reply::Full(
                    202,
                    vec![("Content-Type", "application/json".to_owned())],
                    br#"{"request":4711,"state":"queued"}"#.to_vec(),
                ),
            })
            .await;
        let dir = TempDir::new().unwrap();
        let command = format!(
            "stty cols {COLUMNS} rows {ROWS}; exec {} http {} --local=127.0.0.1:8443 --webhook git/push \
             --verify github=env:GITHUB_SECRET --inspect 127.0.0.1:4040 --state-dir {}",
            program("hookward").display(),
            application.address.port(),
            dir.path().display()
        );
        let local = dir.path().join("local");
        let (process, edge) = off(move || {
            let mut script = Command::new("script");
            script
                .args(["-qec", &command, "/dev/null"])
                .env("TERM", "xterm-256color")
                .env("GITHUB_SECRET", SECRET);
            let mut process = Process::spawn(script);
            process.shows(ROWS, COLUMNS, "online");
            let edge = Edge {
                address: ([127, 0, 0, 1], 8443).into(),
                host: "flexdeploy.localhost".to_owned(),
                roots: roots(&local.join("edge.pem")),
                clock: Clock::System,
            };
            (process, edge)
        })
        .await;
        Self {
            process,
            edge,
            inspector: "http://127.0.0.1:4040".to_owned(),
            _application: application,
            _dir: dir,
        }
    }

    async fn send(&self, event: &str, path: &str, secret: &str, body: &str) {
        let signature = github_signature(secret, body.as_bytes());
        let fields = [
            ("Content-Type", "application/json"),
            ("User-Agent", "GitHub-Hookshot/044aadd"),
            ("X-GitHub-Event", event),
            ("X-Hub-Signature-256", signature.as_str()),
        ];
        let path = format!("{HOOKS}{path}");
        self.edge.post(&path, &fields, body.as_bytes()).await;
    }

    /// Sends what a day brings.
    async fn send_all(&self) {
        let push = r#"{"ref":"refs/heads/main","repository":{"id":186853002,"full_name":"acme/shop","private":true},"pusher":{"name":"emma"},"commits":[{"id":"6113728f","message":"Ship the new cart","modified":["cart.rs"]}]}"#;
        let review = r#"{"action":"opened","number":42,"repository":{"full_name":"acme/shop"}}"#;
        self.send(
            "ping",
            "/git/push",
            SECRET,
            r#"{"zen":"Keep it logically awesome."}"#,
        )
        .await;
        self.send("push", "/git/push", SECRET, push).await;
        self.send("pull_request", "/git/review", SECRET, review)
            .await;
        self.send("push", "/git/push", SECRET, push).await;
        self.send(
            "deployment",
            "/git/rollback",
            SECRET,
            r#"{"deployment":{"id":7}}"#,
        )
        .await;
        self.edge.post("/admin/login", &[], b"user=admin").await;
        self.send("push", "/git/push", "the-secret-of-last-year", push)
            .await;
        self.send("push", "/git/push", SECRET, push).await;
    }
}

#[tokio::test]
#[ignore = "draws pictures; scripts/screenshots runs it"]
async fn pictures_of_the_documents() {
    let mut terminal = Terminal::start().await;
    terminal.send_all().await;
    let light = Browser::start(Window {
        height: 760,
        ..Window::default()
    })
    .await;
    let dark = Browser::start(Window {
        is_dark: true,
        height: 760,
        ..Window::default()
    })
    .await;
    let (light, dark) = (light.unwrap(), dark.unwrap());

    let url = terminal.inspector.clone();
    light.open(&url).await;
    light.shows("live").await;
    light.shows("github deployment").await;
    light.picture(&picture("inspector-list.png")).await;
    dark.open(&url).await;
    dark.shows("live").await;
    dark.picture(&picture("inspector-dark.png")).await;

    light.open(&format!("{url}/requests/2")).await;
    light.shows("acme/shop").await;
    light.resize(1280, 1000).await;
    light.picture(&picture("inspector-request.png")).await;
    light.open(&format!("{url}/?filter=check:signature")).await;
    light
        .find("#requests a.request")
        .await
        .click()
        .await
        .unwrap();
    light.shows("refuses").await;
    light.resize(1280, 760).await;
    light.picture(&picture("inspector-refusal.png")).await;

    let screen = off(move || {
        terminal.process.shows(ROWS, COLUMNS, "github deployment");
        let screen = html(&terminal.process);
        terminal.process.write("q");
        terminal.process.wait();
        screen
    })
    .await;
    let file = TempDir::new().unwrap();
    let page = file.path().join("screen.html");
    std::fs::write(&page, screen).unwrap();
    light.open(&format!("file://{}", page.display())).await;
    light.resize(1000, 600).await;
    light.picture(&picture("screen.png")).await;

    light.close().await;
    dark.close().await;
}

#[tokio::test]
#[ignore = "draws a picture; scripts/screenshots runs it"]
async fn picture_of_the_console() {
    let application = Application::start(|_| Reply::ok("fine")).await;
    let relay = admin::private(&application).await;
    for path in [PREFIX, PREFIX, PREFIX, "/admin/login", "/.env"] {
        relay.stage.edge.post(path, &[], b"{}").await;
    }

    let window = Window {
        height: 1000,
        ..Window::default()
    };
    let browser = Browser::start(window).await.unwrap();
    let home = format!("http://me:{}@{}/", relay.token, relay.admin);
    browser.open(&home).await;
    browser.find("#agents").await;
    browser.picture(&picture_of("relay", "console.png")).await;
    browser.close().await;
}

/// Returns what the terminal shows, as a page.
fn html(process: &Process) -> String {
    let terminal = process.terminal(ROWS, COLUMNS);
    let screen = terminal.screen();
    let mut page = String::from(
        "<!doctype html><meta charset=utf-8><style>body{margin:0;background:#16181d}\
         pre{margin:0;padding:14px 18px;color:#d7dae0;font:13.5px/1.36 monospace}\
         .c1{color:#ff7b72}.c2{color:#7ee787}.c3{color:#e3b341}.b{font-weight:bold;color:#fff}\
         .d{color:#8b929e}.i{background:#d7dae0;color:#16181d}</style><pre>",
    );
    for row in 0..ROWS {
        for column in 0..COLUMNS {
            let Some(cell) = screen.cell(row, column) else {
                continue;
            };
            let mut class = match cell.fgcolor() {
                vt100::Color::Idx(color @ 1..=3) => format!("c{color} "),
                _ => String::new(),
            };
            for (is_set, name) in [(cell.bold(), "b"), (cell.dim(), "d"), (cell.inverse(), "i")] {
                if is_set {
                    class.push_str(name);
                    class.push(' ');
                }
            }
            let text = match cell.contents() {
                "" => " ",
                text => text,
            };
            let text = text.replace('&', "&amp;").replace('<', "&lt;");
            write!(page, "<span class=\"{}\">{text}</span>", class.trim()).unwrap();
        }
        page.push('\n');
    }
    page
}
