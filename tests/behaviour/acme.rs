//! Certificates from an ACME server (Pebble): issued, kept, renewed, and never for a name that
//! nobody owns.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hookward_core::clock::Clock;
use hookward_tests::acme::{AcmePlan, AcmeServer, EXTERNAL_ACCOUNT};
use hookward_tests::application::{Application, Reply};
use hookward_tests::ports::free_port;
use hookward_tests::process::{Process, run};
use hookward_tests::sender::{Edge, github_signature};
use hookward_tests::stage::PREFIX;
use hookward_tests::wait::{DEADLINE, happens};
use rustls::RootCertStore;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;

use super::programs::{mode, off, serve};

const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// A relay whose certificates come from Pebble, and its ports.
struct Site {
    acme: AcmeServer,
    data: TempDir,
    port: u16,
    http_port: u16,
}

impl Site {
    /// Creates a site whose ACME server gives other answers, too.
    fn with_answers(answers: &Value) -> Arc<Self> {
        let (port, http_port) = (free_port(), free_port());
        let acme = AcmeServer::start(AcmePlan {
            tls_port: port,
            http_port,
            validity: YEAR,
            needs_external_account: false,
        });
        let acme = acme.behind_a_gateway();
        acme.answer(answers);
        Arc::new(Self {
            acme,
            data: TempDir::new().unwrap(),
            port,
            http_port,
        })
    }

    fn audit(&self) -> String {
        std::fs::read_to_string(self.data.path().join("audit.log")).unwrap_or_default()
    }

    fn new(change: impl FnOnce(&mut AcmePlan)) -> Arc<Self> {
        let (port, http_port) = (free_port(), free_port());
        let mut plan = AcmePlan {
            tls_port: port,
            http_port,
            validity: YEAR,
            needs_external_account: false,
        };
        change(&mut plan);
        Arc::new(Self {
            acme: AcmeServer::start(plan),
            data: TempDir::new().unwrap(),
            port,
            http_port,
        })
    }

    fn start(&self, more: &[&str]) -> Process {
        let (listen, ca) = (format!("127.0.0.1:{}", self.port), self.acme.ca());
        let directory = self.acme.directory();
        let mut args = vec!["--acme", "admin@example.test"];
        args.extend(["--acme-directory", &directory]);
        args.extend(["--acme-ca", ca.to_str().unwrap()]);
        args.extend(["--tunnel-address", &listen, "--admin", "off"]);
        args.extend(more);
        let mut relay = serve(self.data.path(), &listen, &args);
        relay.event("ready");
        relay
    }

    fn edge(&self, host: &str, roots: &RootCertStore) -> Edge {
        Edge {
            address: SocketAddr::from(([127, 0, 0, 1], self.port)),
            host: host.to_owned(),
            roots: roots.clone(),
            clock: Clock::System,
        }
    }

    async fn status(&self) -> Value {
        let data = self.data.path().to_str().unwrap().to_owned();
        let ended = off(move || {
            let args = ["status", "--format", "json", "--data-dir", &data];
            run("hookward-relay", &args, &[], "")
        })
        .await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        serde_json::from_str(&ended.out).unwrap()
    }
}

/// Starts Pebble and a relay.
async fn running(
    has_http: bool,
    change: impl FnOnce(&mut AcmePlan) + Send + 'static,
) -> (Arc<Site>, Process) {
    off(move || {
        let site = Site::new(change);
        let http = format!("127.0.0.1:{}", site.http_port);
        let relay = match has_http {
            true => site.start(&["--http-listen", &http]),
            false => site.start(&[]),
        };
        (site, relay)
    })
    .await
}

/// Waits until a sender trusts the certificate of this host.
async fn trusted(edge: &Edge) {
    let since = Instant::now();
    while edge.tls(b"http/1.1", Some(&edge.host)).await.is_err() {
        assert!(
            since.elapsed() < DEADLINE,
            "{} has no certificate",
            edge.host
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn start_agent(site: &Site, state: &Path, port: u16, more: &[&str]) -> Process {
    let token = std::fs::read_to_string(site.data.path().join("first-join-token")).unwrap();
    let (state, port) = (state.to_str().unwrap(), port.to_string());
    let mut args = vec!["http", &port, "--state-dir", state, "--log-format", "json"];
    args.extend(["--inspect", "off", "--verify", "github=env:GITHUB_SECRET"]);
    args.push("--no-token");
    args.extend(more);
    let mut agent = Process::start(
        "hookward",
        &args,
        &[("GITHUB_SECRET", SECRET), ("HOOKWARD_JOIN_TOKEN", &token)],
    );
    agent.event("ready");
    agent
}

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// One command on the relay, one beside the application, and a signed webhook arrives over a
/// verified certificate. A restart needs no ACME server.
#[tokio::test]
async fn a_signed_webhook_arrives_over_an_issued_certificate() {
    if !AcmeServer::is_available() {
        return;
    }
    let application = Application::start(|_| Reply::ok("done")).await;
    let state = TempDir::new().unwrap();
    let (site, relay) = running(false, |_| {}).await;
    let roots = site.acme.issued_roots().await;
    trusted(&site.edge("hooks.example.test", &roots)).await;

    let (port, dir) = (application.address.port(), state.path().to_owned());
    let of_agent = Arc::clone(&site);
    let _agent = off(move || start_agent(&of_agent, &dir, port, &[])).await;
    let edge = site.edge("flexdeploy.hooks.example.test", &roots);
    trusted(&edge).await;
    let signature = github_signature(SECRET, b"{}");
    let headers = [
        ("X-Hub-Signature-256", signature.as_str()),
        ("X-GitHub-Event", "push"),
    ];
    let answer = edge.post(&format!("{PREFIX}/git"), &headers, b"{}").await;
    assert_eq!(answer.status, 200, "{}", answer.text());

    // A name without an owner gets the certificate of another name, which no sender accepts.
    let stranger = site.edge("stranger.hooks.example.test", &roots);
    assert!(
        stranger
            .tls(b"http/1.1", Some(&stranger.host))
            .await
            .is_err()
    );
    let status = site.status().await;
    let names = status["certificates"].as_array().unwrap().iter();
    let names: Vec<_> = names.map(|one| one["names"][0].as_str().unwrap()).collect();
    assert_eq!(
        names,
        ["flexdeploy.hooks.example.test", "hooks.example.test"]
    );

    for entry in walk(&site.data.path().join("acme")) {
        assert_eq!(mode(&entry) & 0o077, 0, "{}", entry.display());
    }

    site.acme.stop();
    drop(relay);
    let again = Arc::clone(&site);
    let _relay = off(move || again.start(&[])).await;
    let kept = site.edge("hooks.example.test", &roots);
    assert!(kept.tls(b"http/1.1", Some(&kept.host)).await.is_ok());
}

fn walk(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let all = paths.flat_map(|path| match path.is_dir() {
        true => walk(&path),
        false => vec![path],
    });
    all.collect()
}

/// The previous certificate stays while the server is down, and the failure is visible.
#[tokio::test]
async fn a_renewal_waits_for_the_server_and_says_so() {
    if !AcmeServer::is_available() {
        return;
    }
    let (site, _relay) = running(false, |plan| plan.validity = Duration::from_secs(30)).await;
    let roots = site.acme.issued_roots().await;
    let edge = site.edge("hooks.example.test", &roots);
    trusted(&edge).await;
    site.acme.stop();

    let first = serial(&edge).await;
    let since = Instant::now();
    let failed = loop {
        let status = site.status().await;
        let certificate = status["certificates"][0].clone();
        if certificate["failures"] == 1 {
            break certificate;
        }
        assert!(since.elapsed() < 2 * DEADLINE, "{status}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    assert!(
        failed["last_error"].as_str().unwrap().contains("localhost"),
        "{failed}"
    );
    assert_eq!(serial(&edge).await, first);
}

async fn serial(edge: &Edge) -> Vec<u8> {
    let stream = edge.tls(b"http/1.1", Some(&edge.host)).await.unwrap();
    let chain = stream.get_ref().1.peer_certificates().unwrap();
    chain[0].to_vec()
}

/// A server that has lost its accounts gets a new one, and renews.
#[tokio::test]
async fn a_lost_account_is_created_again() {
    if !AcmeServer::is_available() {
        return;
    }
    let (site, _relay) = running(false, |plan| plan.validity = Duration::from_secs(30)).await;
    let roots = site.acme.issued_roots().await;
    trusted(&site.edge("hooks.example.test", &roots)).await;

    let again = Arc::clone(&site);
    off(move || {
        again.acme.stop();
        again.acme.resume();
    })
    .await;
    // It has a new root, too.
    let roots = site.acme.issued_roots().await;
    trusted(&site.edge("hooks.example.test", &roots)).await;
}

/// Names are proved on the port for HTTP where that of the edge is not reachable.
#[tokio::test]
async fn names_are_proved_over_http_where_tls_fails() {
    if !AcmeServer::is_available() {
        return;
    }
    let (site, _relay) = running(true, |plan| plan.tls_port = free_port()).await;
    let roots = site.acme.issued_roots().await;
    trusted(&site.edge("hooks.example.test", &roots)).await;
}

/// A DNS hook gives one wildcard certificate for all hosts, from a server that knows its customers.
#[tokio::test]
async fn a_dns_hook_gives_a_wildcard_certificate() {
    if !AcmeServer::is_available() {
        return;
    }
    let (site, _relay) = off(|| {
        let site = Site::new(|plan| plan.needs_external_account = true);
        let (config, key) = (
            site.data.path().join("relay.toml"),
            site.data.path().join("eab"),
        );
        std::fs::write(&key, EXTERNAL_ACCOUNT.1).unwrap();
        let settings = format!(
            "[acme]\ndns_hook = [{:?}]\n[acme.external_account]\nid = {:?}\nkey = 'file:{}'\n",
            site.acme.dns_hook(),
            EXTERNAL_ACCOUNT.0,
            key.display()
        );
        std::fs::write(&config, settings).unwrap();
        let relay = site.start(&["--config", config.to_str().unwrap()]);
        (site, relay)
    })
    .await;
    let roots = site.acme.issued_roots().await;
    trusted(&site.edge("hooks.example.test", &roots)).await;
    trusted(&site.edge("any.hooks.example.test", &roots)).await;
}

/// The port for HTTP refuses all but challenges, as clear text on the port of the edge is refused.
#[tokio::test]
async fn the_http_port_answers_challenges_and_forwards_nothing() {
    if !AcmeServer::is_available() {
        return;
    }
    let (site, _relay) = running(true, |_| {}).await;
    let ask = |head: &'static str| {
        let address = ("127.0.0.1", site.http_port);
        async move {
            let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut text = String::new();
            tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut text)
                .await
                .unwrap();
            text
        }
    };
    for head in [
        "GET /x?y HTTP/1.1\r\nHost: hooks.example.test\r\n\r\n",
        "POST /x HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n\r\n",
        "GET /.well-known/acme-challenge/x HTTP/1.1\r\nHost: a.test\r\n\r\n",
    ] {
        let refused = ask(head).await;
        assert!(refused.starts_with("HTTP/1.1 400"), "{refused}");
        assert!(refused.contains("hookward-error: https_only"), "{refused}");
        assert!(refused.contains("hookward-request-id: "), "{refused}");
    }
}

/// A problem document of the server (RFC 8555 §6.7).
fn problem(status: u16, kind: &str) -> Value {
    let kind = format!("urn:ietf:params:acme:error:{kind}");
    json!({ "type": kind, "status": status, "detail": "as the test wants" })
}

#[tokio::test]
async fn a_rate_limit_is_obeyed_for_a_week_at_most() {
    if !AcmeServer::is_available() {
        return;
    }
    off(|| {
        let two_months = (60 * 86_400).to_string();
        let site = Site::with_answers(&json!([{
            "method": "POST", "path": "/order-plz", "status": 429,
            "headers": { "Retry-After": two_months }, "body": problem(429, "rateLimited"),
        }]));
        let _relay = site.start(&[]);
        happens("the failure is recorded", || {
            site.audit().contains("certificate_failed")
        });
        let audit = site.audit();
        let failed = audit
            .lines()
            .find(|line| line.contains("certificate_failed"));
        let record: Value = serde_json::from_str(failed.unwrap()).unwrap();
        let errors = site.acme.gateway_errors();
        assert_eq!(record["retry_s"], 7 * 86_400, "{record} {errors}");
        assert!(
            record["reason"].as_str().unwrap().contains("rateLimited"),
            "{record}"
        );
    })
    .await;
}

#[tokio::test]
async fn a_deactivated_account_is_replaced() {
    if !AcmeServer::is_available() {
        return;
    }
    off(|| {
        let site = Site::with_answers(&json!([{
            "method": "POST", "path": "/order-plz", "status": 401, "times": 1,
            "body": problem(401, "unauthorized"),
        }]));
        let _relay = site.start(&[]);
        happens("a certificate is issued", || {
            site.audit().contains("certificate_issued")
        });
        let audit = site.audit();
        assert_eq!(audit.matches("acme_account_created").count(), 2, "{audit}");
        assert!(!audit.contains("certificate_failed"), "{audit}");
    })
    .await;
}

/// The server revokes certificates tomorrow, and suggests a renewal now (RFC 9773).
#[tokio::test]
async fn a_renewal_that_the_server_suggests_is_early() {
    if !AcmeServer::is_available() {
        return;
    }
    off(|| {
        let window = |start: &str, end: &str| json!({ "start": start, "end": end });
        let suggestion = |window: Value| {
            json!([{
                "method": "GET", "path": "/renewal-info", "status": 200,
                "headers": { "Retry-After": "21600" }, "body": { "suggestedWindow": window },
            }])
        };
        let far = suggestion(window("2090-01-01T00:00:00Z", "2090-01-02T00:00:00Z"));
        let site = Site::with_answers(&far);
        let mut relay = site.start(&[]);
        let issued = |count: usize| site.audit().matches("certificate_issued").count() == count;
        happens("a certificate is issued", || issued(1));
        relay.signal("TERM");
        relay.wait();

        let past = suggestion(window("2020-01-01T00:00:00Z", "2020-01-02T00:00:00Z"));
        site.acme.answer(&past);
        let _relay = site.start(&[]);
        happens("it is renewed", || issued(2));
    })
    .await;
}

/// An agent that is removed takes its host along.
#[tokio::test]
async fn a_removed_host_loses_its_certificate() {
    if !AcmeServer::is_available() {
        return;
    }
    let application = Application::start(|_| Reply::ok("done")).await;
    let (site, _relay) = running(false, |_| {}).await;
    let (of_agent, state) = (Arc::clone(&site), TempDir::new().unwrap());
    let port = application.address.port();
    let path = state.path().to_owned();
    let _agent = off(move || start_agent(&of_agent, &path, port, &[])).await;
    let roots = site.acme.issued_roots().await;
    let host = site.edge("flexdeploy.hooks.example.test", &roots);
    trusted(&host).await;

    let data = site.data.path().to_str().unwrap().to_owned();
    off(move || {
        let args = ["agent", "remove", "flexdeploy", "--data-dir", &data];
        assert_eq!(run("hookward-relay", &args, &[], "").code, Some(0));
    })
    .await;
    let since = Instant::now();
    while host.tls(b"http/1.1", Some(&host.host)).await.is_ok() {
        assert!(since.elapsed() < DEADLINE, "it has a certificate still");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    trusted(&site.edge("hooks.example.test", &roots)).await;
}
