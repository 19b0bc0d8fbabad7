//! An agent with its inspector, as a program, before a recording application.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hookward_core::clock::Clock;
use tempfile::TempDir;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::application::{Application, Received, Reply};
use crate::private_api::{self, Response};
use crate::process::Process;
use crate::sender::{Edge, github_signature};
use crate::stage::roots;
use crate::wait::{DEADLINE, eventually};

/// Secret of the tunnel's GitHub webhooks.
pub const SECRET: &str = "a-secret-of-github-for-tests";

/// Public host of the tunnel.
pub const HOST: &str = "flexdeploy.localhost";

/// Path of the webhooks.
pub const PATH: &str = "/flexdeploy/webhooks/v1/git/push";

/// An agent with a relay in its own process.
pub struct InspectedAgent {
    process: Option<Process>,
    pub application: Application,
    dir: TempDir,
    args: Vec<String>,
    /// Address of the inspector.
    pub inspector: SocketAddr,
    /// Public HTTPS listener.
    pub edge: Edge,
}

impl InspectedAgent {
    /// Starts an agent that verifies GitHub's signature.
    pub async fn start(more: &[&str]) -> Self {
        Self::start_with(more, |_| Reply::ok(r#"{"done":true}"#)).await
    }

    pub async fn start_with(
        more: &[&str],
        script: impl Fn(&Received) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let application = Application::start(script).await;
        let dir = TempDir::new().unwrap();
        let port = application.address.port().to_string();
        let state = dir.path().to_str().unwrap();
        let args = [
            "http",
            &port,
            "--local=127.0.0.1:0",
            "--verify",
            "github=env:GITHUB_SECRET",
            "--log-format",
            "json",
            "--state-dir",
            state,
        ];
        let mut args: Vec<_> = args.iter().chain(more).map(ToString::to_string).collect();
        if !args.iter().any(|arg| arg == "--inspect") {
            args.extend(["--inspect".to_owned(), "127.0.0.1:0".to_owned()]);
        }
        let (process, inspector, edge) = run(args.clone()).await;
        Self {
            process: Some(process),
            application,
            dir,
            args,
            inspector,
            edge,
        }
    }

    /// Stops the agent, and starts it again with the same state.
    pub async fn restart(&mut self) {
        self.stop().await;
        let (process, inspector, edge) = run(self.args.clone()).await;
        (self.process, self.inspector, self.edge) = (Some(process), inspector, edge);
    }

    /// Stops the agent in order.
    pub async fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let code = spawn_blocking(move || {
                process.signal("TERM");
                process.wait()
            });
            assert_eq!(code.await.unwrap(), Some(0));
        }
    }

    /// Returns the file of the history.
    pub fn history(&self) -> PathBuf {
        self.dir.path().join("local/requests.db")
    }

    /// Returns the token of the private API.
    pub fn token(&self) -> String {
        let path = self.dir.path().join("local/api-token");
        std::fs::read_to_string(path).unwrap().trim().to_owned()
    }

    /// Sends a signed push event. Returns the status.
    pub async fn push(&self, body: &str) -> u16 {
        self.push_with(PATH, &[], body).await
    }

    pub async fn push_with(&self, target: &str, fields: &[(&str, &str)], body: &str) -> u16 {
        let signature = github_signature(SECRET, body.as_bytes());
        let own = [
            ("X-GitHub-Event", "push"),
            ("Content-Type", "application/json"),
            ("X-Hub-Signature-256", signature.as_str()),
        ];
        let fields: Vec<_> = own.iter().chain(fields).copied().collect();
        self.edge
            .post(target, &fields, body.as_bytes())
            .await
            .status
    }

    /// Calls the inspector.
    pub async fn call(
        &self,
        method: &str,
        path: &str,
        fields: &[(&str, &str)],
        body: &str,
    ) -> Response {
        let (address, method, path) = (self.inspector, method.to_owned(), path.to_owned());
        let fields = fields
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()));
        let (fields, body) = (fields.collect::<Vec<_>>(), body.to_owned());
        let calling = spawn_blocking(move || {
            let fields: Vec<_> = fields
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str()))
                .collect();
            private_api::call_with(address, &method, &path, &fields, &body)
        });
        calling.await.unwrap()
    }

    pub async fn get(&self, path: &str) -> Response {
        self.call("GET", path, &[], "").await
    }

    /// Submits a form as a browser does.
    pub async fn submit(&self, path: &str, fields: &[(&str, &str)]) -> Response {
        let escaped = |text: &str| {
            let bytes = text.bytes().map(|byte| match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
                _ => format!("%{byte:02X}"),
            });
            bytes.collect::<String>()
        };
        let pairs = fields
            .iter()
            .map(|(name, value)| format!("{name}={}", escaped(value)));
        let body = pairs.collect::<Vec<_>>().join("&");
        let origin = format!("http://{}", self.inspector);
        let fields = [
            ("Content-Type", "application/x-www-form-urlencoded"),
            ("Origin", origin.as_str()),
        ];
        self.call("POST", path, &fields, &body).await
    }

    /// Waits until the history has this number of requests.
    pub async fn keeps(&self, count: usize) {
        let since = Instant::now();
        loop {
            let kept = self.requests().await.len();
            if kept >= count {
                return;
            }
            assert!(
                since.elapsed() < DEADLINE,
                "{kept} of {count} requests are kept"
            );
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Returns the requests of the history, oldest first, as its export has them.
    pub async fn requests(&self) -> Vec<serde_json::Value> {
        let export = self.get("/export.jsonl").await;
        export
            .body
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// Waits until the application has got this number of requests, and returns them.
    pub async fn received(&self, count: usize) -> Vec<Received> {
        let log = self.application.log.clone();
        eventually("the application gets the requests", || {
            log.complete().len() >= count
        })
        .await;
        log.take()
    }
}

async fn run(args: Vec<String>) -> (Process, SocketAddr, Edge) {
    let starting = spawn_blocking(move || {
        let args: Vec<_> = args.iter().map(String::as_str).collect();
        let mut process = Process::start("hookward", &args, &[("GITHUB_SECRET", SECRET)]);
        let is_off = args.windows(2).any(|pair| pair == ["--inspect", "off"]);
        let address = match is_off {
            true => SocketAddr::from(([127, 0, 0, 1], 9)),
            false => process.event("api")["address"]
                .as_str()
                .unwrap()
                .parse()
                .unwrap(),
        };
        let ready = process.event("ready");
        let edge = Edge {
            address: ready["edge"].as_str().unwrap().parse().unwrap(),
            host: HOST.to_owned(),
            roots: roots(Path::new(ready["ca"].as_str().unwrap())),
            clock: Clock::System,
        };
        (process, address, edge)
    });
    starting.await.unwrap()
}
