//! Chromium without a screen, driven by WebDriver (w3.org/TR/webdriver2).

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use fantoccini::elements::Element;
use fantoccini::wd::WebDriverCompatibleCommand;
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};
use url::{ParseError, Url};

use crate::process::{Process, have};
use crate::wait::DEADLINE;

/// A browser with one window.
pub struct Browser {
    pub page: Client,
    _driver: Process,
}

/// Appearance of the window.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    pub width: u32,
    pub height: u32,
    pub is_dark: bool,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            width: 1280,
            height: 900,
            is_dark: false,
        }
    }
}

/// Command beyond the WebDriver standard, which ChromeDriver has.
#[derive(Debug)]
struct Extension {
    path: &'static str,
    body: Value,
}

impl WebDriverCompatibleCommand for Extension {
    fn endpoint(&self, base: &Url, session: Option<&str>) -> Result<Url, ParseError> {
        base.join(&format!(
            "session/{}/{}",
            session.unwrap_or_default(),
            self.path
        ))
    }

    fn method_and_body(&self, _: &Url) -> (http::Method, Option<String>) {
        (http::Method::POST, Some(self.body.to_string()))
    }
}

impl Browser {
    /// Starts a browser. Returns `None` without Chromium, which CI must have.
    pub async fn start(window: Window) -> Option<Self> {
        const INSTALL: &str = "apt-get install chromium chromium-driver";
        if !have("chromedriver", INSTALL) || !have("chromium", INSTALL) {
            return None;
        }

        let starting = spawn_blocking(|| {
            let mut command = Command::new("chromedriver");
            command.arg("--port=0");
            let mut driver = Process::spawn(command);
            driver.says("started successfully on port ");
            let line = driver.out().join("\n");
            let port = line.split("successfully on port ").nth(1).unwrap();
            let port: String = port.chars().take_while(char::is_ascii_digit).collect();
            (driver, port)
        });
        let (driver, port) = starting.await.unwrap();

        let args = [
            "--headless=new",
            // The tests run in containers, often as root.
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--disable-gpu",
            "--hide-scrollbars",
        ];
        let capabilities = json!({
            "goog:chromeOptions": { "args": args },
            "goog:loggingPrefs": { "browser": "ALL" },
        });
        let Value::Object(capabilities) = capabilities else {
            unreachable!()
        };
        let page = ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities)
            .connect(&format!("http://127.0.0.1:{port}"))
            .await
            .expect("the browser starts");

        let browser = Self {
            page,
            _driver: driver,
        };
        let scheme = if window.is_dark { "dark" } else { "light" };
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        browser
            .devtools(
                "Emulation.setEmulatedMedia",
                json!({ "features": features }),
            )
            .await;
        browser.resize(window.width, window.height).await;
        Some(browser)
    }

    /// Sends a command of the Chrome DevTools Protocol.
    async fn devtools(&self, command: &str, parameters: Value) -> Value {
        let body = json!({ "cmd": command, "params": parameters });
        let path = "goog/cdp/execute";
        self.page.issue_cmd(Extension { path, body }).await.unwrap()
    }

    /// Changes the size of the window's content.
    pub async fn resize(&self, width: u32, height: u32) {
        let parameters = json!({
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500,
        });
        self.devtools("Emulation.setDeviceMetricsOverride", parameters)
            .await;
    }

    /// Opens a page.
    pub async fn open(&self, url: &str) {
        self.page.goto(url).await.unwrap();
    }

    /// Waits for an element.
    ///
    /// # Panics
    /// At the deadline, with the page.
    pub async fn find(&self, css: &str) -> Element {
        let since = Instant::now();
        loop {
            if let Ok(found) = self.page.find(Locator::Css(css)).await {
                return found;
            }
            if since.elapsed() > DEADLINE {
                let source = self.page.source().await.unwrap();
                panic!("there is no {css}:\n{source}");
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until the page has this text.
    ///
    /// # Panics
    /// At the deadline, with the text of the page.
    pub async fn shows(&self, text: &str) {
        let since = Instant::now();
        loop {
            let shown = self.text().await;
            if shown.contains(text) {
                return;
            }
            assert!(
                since.elapsed() < DEADLINE,
                "never showed {text:?}:\n{shown}"
            );
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Returns the visible text of the page.
    pub async fn text(&self) -> String {
        let text = self.run("return document.body?.innerText ?? ''").await;
        text.as_str().unwrap_or_default().to_owned()
    }

    /// Runs a script, and returns its result.
    pub async fn run(&self, script: &str) -> Value {
        // A page that is being loaded has no document to run it in.
        self.page
            .execute(script, Vec::new())
            .await
            .unwrap_or_default()
    }

    /// Presses a key on the focused element.
    pub async fn press(&self, key: &str) {
        for kind in ["keyDown", "keyUp"] {
            let text = if key.chars().count() == 1 { key } else { "" };
            let code = if key == "Enter" { 13 } else { 0 };
            let text = if key == "Enter" { "\r" } else { text };
            let parameters = json!({
                "type": kind, "key": key, "text": text, "windowsVirtualKeyCode": code,
            });
            self.devtools("Input.dispatchKeyEvent", parameters).await;
        }
    }

    /// Returns the errors in the browser's console: of scripts, and of the content security policy.
    pub async fn console_errors(&self) -> Vec<String> {
        let body = json!({ "type": "browser" });
        let log = self
            .page
            .issue_cmd(Extension {
                path: "se/log",
                body,
            })
            .await
            .unwrap();
        let entries = log.as_array().cloned().unwrap_or_default().into_iter();
        let errors = entries.filter(|entry| entry["level"] == "SEVERE");
        errors.map(|entry| entry["message"].to_string()).collect()
    }

    /// Returns the serious and critical findings of axe about the page.
    pub async fn accessibility_faults(&self, axe: &str) -> Vec<String> {
        self.page.execute(axe, Vec::new()).await.unwrap();
        let script = "const done = arguments[arguments.length - 1];
            axe.run(document).then((result) => done(result.violations));";
        let found = self.page.execute_async(script, Vec::new()).await.unwrap();
        let found = found.as_array().cloned().unwrap_or_default().into_iter();
        let serious =
            found.filter(|rule| rule["impact"] == "serious" || rule["impact"] == "critical");
        let faults = serious.map(|rule| {
            let nodes = rule["nodes"].as_array().unwrap().iter().take(3);
            let nodes: Vec<_> = nodes.map(|node| node["html"].to_string()).collect();
            format!("{}: {} {}", rule["id"], rule["help"], nodes.join(" | "))
        });
        faults.collect()
    }

    /// Writes a picture of the whole page.
    pub async fn picture(&self, path: &Path) {
        std::fs::write(path, self.page.screenshot().await.unwrap()).unwrap();
    }

    /// Ends the browser.
    pub async fn close(self) {
        self.page.close().await.unwrap();
    }
}

/// Returns the script of axe-core, which checks pages against the Web Content Accessibility
/// Guidelines. `None` if it is not there; CI fetches it.
pub fn axe() -> Option<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let path: PathBuf = root.join("target/tools/axe-core/package/axe.min.js");
    let script = std::fs::read_to_string(&path);
    if script.is_err() {
        assert!(
            std::env::var_os("CI").is_none(),
            "axe-core is missing in CI: {}",
            path.display()
        );
        println!(
            "skipped: there is no {} (.ci/run fetches it)",
            path.display()
        );
    }
    script.ok()
}
