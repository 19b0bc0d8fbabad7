//! The private APIs: state, health and metrics for those who have the token, and nothing for others.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use hookward_gate::policy::{Delivery, DeliveryMode, Route};
use hookward_observe::audit::{AuditSettings, FileSettings};
use hookward_relay::{AdminListen, AdminSettings};
use hookward_tests::application::{Application, Reply};
use hookward_tests::ports::free_port;
use hookward_tests::private_api::{Response, call, get};
use hookward_tests::process::{NAMESPACE, Process, have, run};
use hookward_tests::stage::{HOST, PREFIX, Plan, Stage, open_policy};
use hookward_tests::wait::{DEADLINE, eventually, happens};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::programs::{edge, off, serve};

const ANY: SocketAddr = SocketAddr::V4(std::net::SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));

/// A relay with an admin API, and an agent.
pub(super) struct Private {
    pub(super) stage: Stage,
    pub(super) admin: SocketAddr,
    monitoring: SocketAddr,
    pub(super) token: String,
    metrics_token: String,
    dir: TempDir,
}

pub(super) async fn private(application: &Application) -> Private {
    let dir = TempDir::new().unwrap();
    let audit = AuditSettings {
        file: Some(FileSettings {
            path: dir.path().join("audit.log"),
            rotate_size: 1 << 20,
            rotate_age: None,
            keep: 3,
            keep_for: None,
        }),
        ..AuditSettings::off()
    };
    let admin = AdminSettings {
        listen: AdminListen::At(ANY),
        socket: true,
        monitoring: Some(ANY),
    };
    let mut policy = open_policy();
    let mut stored = Route {
        delivery: Some(Delivery::new(DeliveryMode::Queue)),
        ..Route::new("stored", vec!["/stored/**".to_owned()])
    };
    stored.accept.clone_from(&policy.routes[0].accept);
    policy.routes.push(stored);
    let mut plan = Plan {
        policy,
        admin,
        audit,
        ..Plan::default()
    };
    // Delivered webhooks can be redelivered.
    plan.delivery.keep_done = Duration::from_secs(3600);
    let stage = Stage::start(application.address, plan).await;
    let addresses = stage.relay().admin_addresses();
    let token = |name: &str| std::fs::read_to_string(stage.data_dir().join(name)).unwrap();
    Private {
        admin: addresses.admin.unwrap(),
        monitoring: addresses.monitoring.unwrap(),
        token: token("admin-token"),
        metrics_token: token("metrics-token"),
        stage,
        dir,
    }
}

impl Private {
    /// Returns the path of the audit log.
    pub(super) fn audit_log(&self) -> PathBuf {
        self.dir.path().join("audit.log")
    }

    /// Returns a resource for the token of everything.
    pub(super) async fn get(&self, path: &str) -> Response {
        let (admin, path, token) = (self.admin, path.to_owned(), self.token.clone());
        off(move || get(admin, &path, &token)).await
    }

    pub(super) async fn call(&self, method: &str, path: &str, fields: &[(&str, &str)]) -> Response {
        let (admin, method, path) = (self.admin, method.to_owned(), path.to_owned());
        let fields: Vec<_> = fields
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect();
        off(move || {
            let fields: Vec<_> = fields
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str()))
                .collect();
            call(admin, &method, &path, &fields)
        })
        .await
    }
}

/// Returns the JSON schema of a response in an OpenAPI document, with the document's components.
fn schema(document: &Value, path: &str, method: &str, status: &str) -> Value {
    let content = &document["paths"][path][method]["responses"][status]["content"];
    let mut schema = content["application/json"]["schema"].clone();
    schema["components"] = document["components"].clone();
    schema
}

/// Every operation of the document answers as it says, and no operation is missing.
#[tokio::test]
async fn the_openapi_document_describes_the_relays_answers() {
    let application = Application::start(|_| Reply::ok("fine")).await;
    let private = private(&application).await;
    private.stage.edge.post(PREFIX, &[], b"{}").await;
    private.stage.edge.get("/nothing").await;

    let document = private.get("/api/v1/openapi.json").await.json();
    let paths = document["paths"].as_object().unwrap();
    assert!(paths.len() >= 16, "{:?}", paths.keys().collect::<Vec<_>>());
    let mut checked = 0;
    for (path, operations) in paths {
        if operations["get"].is_null() || path == "/api/v1/events" || path.contains('{') {
            continue;
        }
        let answer = private.get(path).await;
        assert_eq!(answer.status, 200, "{path} {answer:?}");
        let schema = schema(&document, path, "get", "200");
        if schema["components"].is_null() || schema.as_object().unwrap().len() == 1 {
            continue;
        }
        let validator = jsonschema::validator_for(&schema).unwrap();
        let json = answer.json();
        let errors: Vec<_> = validator
            .iter_errors(&json)
            .map(|error| error.to_string())
            .collect();
        assert!(errors.is_empty(), "{path}: {errors:?} in {json}");
        checked += 1;
    }
    assert!(checked >= 11, "{checked} answers have a schema");
}

#[tokio::test]
async fn the_state_of_the_relay() {
    let application = Application::start(|_| Reply::ok("fine")).await;
    let private = private(&application).await;
    assert_eq!(
        private.stage.edge.post(PREFIX, &[], b"{}").await.status,
        200
    );
    assert_eq!(private.stage.edge.get("/nothing").await.status, 404);

    let status = private.get("/api/v1/status").await.json();
    assert_eq!(status["is_ready"], true);
    assert_eq!(status["requests"]["forwarded"], 1);
    assert_eq!(status["requests"]["refused"], 1);
    let agent = &status["agents"][0];
    assert_eq!(
        (&agent["name"], &agent["online"]),
        (&json!("flexdeploy"), &json!(true))
    );
    assert!(
        agent["rtt_ms"].is_f64() && agent["version"].is_string(),
        "{agent}"
    );
    assert!(
        agent["clock_offset_ms"].as_i64().unwrap().abs() < 60_000,
        "{agent}"
    );

    let tunnel = private.get("/api/v1/tunnels").await.json()[0].clone();
    assert_eq!(
        (&tunnel["host"], &tunnel["agent"]),
        (&json!(HOST), &json!("flexdeploy"))
    );
    assert!(
        tunnel["lets_in"][0].as_str().unwrap().contains(PREFIX),
        "{tunnel}"
    );
    let refusals = private.get("/api/v1/refusals").await.json();
    let by_path = refusals
        .as_array()
        .unwrap()
        .iter()
        .find(|refusal| refusal["check"] == "path");
    assert_eq!(by_path.unwrap()["count"], 1);
    let client = private.get("/api/v1/clients").await.json()[0].clone();
    assert_eq!(
        client,
        json!({ "client": "127.0.0.1", "requests": 2, "refused": 1 })
    );
    let session = private.get("/api/v1/sessions").await.json()[0].clone();
    assert!(
        session["path"]["congestion_window_bytes"].as_u64().unwrap() > 0,
        "{session}"
    );
}

#[tokio::test]
async fn nothing_is_told_without_the_token() {
    let application = Application::start(|_| Reply::ok("fine")).await;
    let private = private(&application).await;
    let document = private.get("/api/v1/openapi.json").await.json();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for method in operations.as_object().unwrap().keys() {
            let method = method.to_uppercase();
            let path = path.replace("{name}", "flexdeploy");
            let answer = private.call(&method, &path, &[]).await;
            let is_health = path == "/livez" || path == "/readyz";
            assert_eq!(
                answer.status,
                if is_health { 200 } else { 401 },
                "{method} {path}"
            );
            if is_health {
                assert_eq!(answer.body, "ok\n");
            }

            // The token for metrics opens nothing else.
            let bearer = format!("Bearer {}", private.metrics_token);
            let answer = private
                .call(&method, &path, &[("Authorization", &bearer)])
                .await;
            let is_open = is_health || path == "/metrics";
            assert_eq!(
                answer.status,
                if is_open { 200 } else { 401 },
                "{method} {path}"
            );
        }
    }

    let agent = private.get("/api/v1/agents").await.json()[0].clone();
    assert_eq!(
        agent["online"], true,
        "nobody without the token has revoked it"
    );
    for bad in [
        "Bearer ",
        "Bearer x",
        "Basic x",
        &format!("Bearer {}x", private.token),
    ] {
        let answer = private
            .call("GET", "/api/v1/status", &[("Authorization", bad)])
            .await;
        assert_eq!(answer.status, 401, "{bad}");
    }

    let path = private.audit_log();
    let is_refused = |line: &str| line.contains("api_refused") && line.contains("DELETE");
    eventually("the refused call has a record", || {
        let audit = std::fs::read_to_string(&path).unwrap();
        audit.lines().any(is_refused)
    })
    .await;
}

/// Strangers that open every connection, and read nothing.
#[tokio::test]
async fn connections_without_a_token_do_not_lock_administrators_out() {
    let application = Application::start(|_| Reply::ok("fine")).await;
    let private = private(&application).await;
    let (admin, bearer) = (private.admin, format!("Bearer {}", private.token));
    off(move || {
        let open = |fields: &str| {
            let mut stream = TcpStream::connect(admin).unwrap();
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            let head = format!("GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n");
            stream.write_all(head.as_bytes()).unwrap();
            stream
        };
        let mut known = open(&format!("Authorization: {bearer}\r\n"));
        let mut first = [0; 15];
        known.read_exact(&mut first).unwrap();
        assert_eq!(&first, b"HTTP/1.1 200 OK");

        let strangers: Vec<_> = (0..200).map(|_| open("")).collect();
        let answer = call(admin, "GET", "/livez", &[]);
        assert_eq!(answer.status, 200, "{answer:?}");
        drop(strangers);

        // The connection with the token was not evicted: it gets the events.
        let mut rest = Vec::new();
        call(
            admin,
            "DELETE",
            "/api/v1/agents/flexdeploy",
            &[("Authorization", &bearer)],
        );
        while !String::from_utf8_lossy(&rest).contains("agent_disconnected") {
            let mut more = [0; 4096];
            let count = known.read(&mut more).unwrap();
            assert!(count > 0, "{}", String::from_utf8_lossy(&rest));
            rest.extend_from_slice(&more[..count]);
        }
    })
    .await;
}

/// A page in the administrator's browser reaches the port, but not the API.
#[tokio::test]
async fn foreign_pages_are_refused_even_with_the_token() {
    let application = Application::start(|_| Reply::ok("fine")).await;
    let private = private(&application).await;
    let bearer = format!("Bearer {}", private.token);
    let port = private.admin.port();
    let rebinding = format!("attacker.example:{port}");
    for fields in [
        [("Host", rebinding.as_str()), ("Accept", "*/*")],
        [("Origin", "https://attacker.example"), ("Accept", "*/*")],
        [("Origin", "null"), ("Accept", "*/*")],
        [("Sec-Fetch-Site", "cross-site"), ("Accept", "*/*")],
    ] {
        let fields = [&fields[..], &[("Authorization", &bearer)]].concat();
        let answer = private.call("POST", "/api/v1/drain", &fields).await;
        assert_eq!(answer.status, 403, "{fields:?}");
        let answer = private.call("GET", "/livez", &fields).await;
        assert_eq!(answer.status, 403, "{fields:?}");
    }
    assert_eq!(
        private.stage.edge.post(PREFIX, &[], b"{}").await.status,
        200,
        "it still runs"
    );
}

/// Another machine gets health and metrics under any name, and no more.
#[tokio::test]
async fn the_monitoring_listener_has_only_health_and_metrics() {
    let application = Application::start(|_| Reply::ok("fine")).await;
    let private = private(&application).await;
    let (address, token, metrics) = (
        private.monitoring,
        private.token.clone(),
        private.metrics_token.clone(),
    );
    off(move || {
        let named = [("Host", "relay.internal:4042")];
        assert_eq!(call(address, "GET", "/livez", &named).status, 200);
        assert_eq!(call(address, "GET", "/readyz", &named).body, "ok\n");
        assert_eq!(call(address, "GET", "/metrics", &named).status, 401);
        assert_eq!(get(address, "/metrics", &metrics).status, 200);
        assert_eq!(get(address, "/api/v1/status", &token).status, 404);
        let reasons = get(address, "/readyz", &metrics).body;
        assert!(
            reasons.contains("storage: ok") && reasons.contains("accept: ok"),
            "{reasons}"
        );
    })
    .await;
}

#[tokio::test]
async fn events_arrive_and_a_revoked_agent_leaves() {
    let application = Application::start(|_| Reply::ok("fine")).await;
    let private = private(&application).await;
    let data = private.stage.data_dir().to_owned();
    let mut curl = Command::new("curl");
    curl.args(["-sN", "--unix-socket"])
        .arg(data.join("admin.sock"))
        .arg("http://localhost/api/v1/events");
    let events = Process::spawn(curl);
    let received = || events.out().join("\n");

    // The subscription begins at some moment after the start of curl.
    let mut sent = 0;
    while !received().contains("event: request") {
        sent += 1;
        assert!(sent < 3000, "no event: {}", received());
        assert_eq!(
            private
                .stage
                .edge
                .post(&format!("{PREFIX}?token=x"), &[], b"{}")
                .await
                .status,
            200
        );
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let line = received()
        .lines()
        .find(|line| line.starts_with("data: "))
        .unwrap()
        .to_owned();
    let event: Value = serde_json::from_str(line.trim_start_matches("data: ")).unwrap();
    assert_eq!(
        (&event["verdict"], &event["path"]),
        (&json!("forwarded"), &json!(PREFIX))
    );

    let bearer = format!("Bearer {}", private.token);
    let fields = [("Authorization", bearer.as_str())];
    let unknown = private
        .call("DELETE", "/api/v1/agents/nobody", &fields)
        .await;
    assert_eq!(unknown.status, 404);
    let removed = private
        .call("DELETE", "/api/v1/agents/flexdeploy", &fields)
        .await;
    assert_eq!(removed.status, 200, "{removed:?}");
    eventually("the session ends", || {
        received().contains("event: agent_disconnected")
    })
    .await;
}

/// Requests of strangers, with any host, path and method, make no new series.
#[tokio::test]
async fn strangers_create_no_series() {
    let application = Application::start(|_| Reply::ok("fine")).await;
    let private = private(&application).await;
    let series = |text: &str| -> BTreeSet<String> {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines
            .map(|line| line.rsplit_once(' ').unwrap().0.to_owned())
            .collect()
    };
    let stranger = |n: usize| {
        let edge = &private.stage.edge;
        async move {
            let mut sender = edge.http1().await;
            let host = format!("h{n}.example.test");
            let host = if n.is_multiple_of(2) {
                host.as_str()
            } else {
                HOST
            };
            sender
                .send(
                    &format!("M{n}"),
                    &format!("/p{n}?q{n}"),
                    host,
                    &[("X-N", "1")],
                    b"",
                )
                .await;
            sender.answer("GET").await;
        }
    };
    for n in 0..10 {
        stranger(n).await;
    }
    let before = series(&private.get("/metrics").await.body);
    for n in 10..150 {
        stranger(n).await;
    }
    let after = series(&private.get("/metrics").await.body);
    let new: Vec<_> = after.difference(&before).collect();
    assert!(new.is_empty(), "{new:?}");
}

/// A bound of a list that a change ignored would delete everything.
#[tokio::test]
async fn a_change_of_deliveries_refuses_bounds_of_lists() {
    let application = Application::start(|_| Reply::ok("")).await;
    let private = private(&application).await;
    let authorization = format!("Bearer {}", private.token.trim());
    let fields = [("authorization", authorization.as_str())];
    for (method, query, status) in [
        ("POST", "drop?state=dead&limit=10", 400),
        ("POST", "redeliver?state=dead&before=7", 400),
        ("POST", "drop", 400),
        ("POST", "drop?state=dead", 202),
    ] {
        let path = format!("/api/v1/deliveries/{query}");
        let answer = private.call(method, &path, &fields).await;
        assert_eq!(answer.status, status, "{query}: {answer:?}");
    }
    assert_eq!(private.get("/api/v1/deliveries?rate=1").await.status, 400);
    assert_eq!(private.get("/api/v1/deliveries?limit=1").await.status, 200);
}

/// Promtool finds no fault, and the README has each metric with its type and labels.
#[tokio::test]
async fn metrics_are_conventional_and_documented() {
    let application = Application::start(|_| Reply::ok("fine")).await;
    let private = private(&application).await;
    private.stage.edge.post(PREFIX, &[], b"{\"size\":1}").await;
    private.stage.edge.get("/nothing").await;
    private.stage.edge.post("/stored/one", &[], b"{}").await;
    eventually("it is delivered", || application.log.complete().len() == 2).await;
    let relay = private.get("/metrics").await.body;
    check_metrics(&relay);
    documented(
        &relay,
        include_str!("../../relay/README.md"),
        "hookward_relay_",
    );
}

fn check_metrics(text: &str) {
    if !have("promtool", "apt-get install prometheus") {
        return;
    }
    let mut command = Command::new("promtool");
    command.args(["check", "metrics"]);
    let mut promtool = Process::spawn(command);
    promtool.write(text);
    promtool.close_input();
    let ended = promtool.end();
    assert_eq!(
        (ended.code, ended.out.as_str(), ended.err.as_str()),
        (Some(0), "", ""),
        "{text}"
    );
}

/// Compares the metrics of a scrape with the table of a README, in both directions.
fn documented(text: &str, readme: &str, prefix: &str) {
    let mut scraped = BTreeSet::new();
    for line in text.lines().filter(|line| line.starts_with("# TYPE ")) {
        let mut words = line.split(' ').skip(2);
        let (name, kind) = (words.next().unwrap(), words.next().unwrap());
        if !name.starts_with(prefix) {
            continue;
        }
        let sample = text.lines().find(|line| {
            !line.starts_with('#')
                && line
                    .split(['{', ' '])
                    .next()
                    .is_some_and(|own| own == name || own.strip_suffix("_count") == Some(name))
        });
        let labels = sample.and_then(|line| Some(line.split_once('{')?.1.split_once('}')?.0));
        let labels = labels.map(|labels| {
            let names = labels
                .split("\",")
                .map(|label| label.split('=').next().unwrap());
            names.collect::<Vec<_>>().join(", ")
        });
        scraped.insert((name.to_owned(), kind.to_owned(), labels.unwrap_or_default()));
    }

    let rows = readme
        .lines()
        .filter(|line| line.starts_with(&format!("| `{prefix}")));
    let table: BTreeSet<_> = rows
        .map(|row| {
            let cells: Vec<_> = row
                .split('|')
                .map(|cell| cell.trim().replace('`', ""))
                .collect();
            (cells[1].clone(), cells[2].clone(), cells[3].clone())
        })
        .collect();
    let missing: Vec<_> = scraped.difference(&table).collect();
    assert!(missing.is_empty(), "not in the README: {missing:#?}");
    let names: BTreeSet<_> = scraped.iter().map(|(name, ..)| name).collect();
    // Metrics of what this relay does not have, such as address sets, are in the code.
    let code = concat!(
        include_str!("../../relay/src/admin/metrics.rs"),
        include_str!("../../agent/src/api/metrics.rs")
    );
    for (name, ..) in &table {
        let registered = name.strip_suffix("_total").unwrap_or(name);
        assert!(
            names.contains(name) || code.contains(&format!("\"{registered}\"")),
            "{name} is not a metric"
        );
    }
}

/// What an administrator types.
#[tokio::test]
async fn status_and_agents_from_the_command_line() {
    let dir = TempDir::new().unwrap();
    let application = Application::start(|_| Reply::ok("fine")).await;
    let port = application.address.port().to_string();
    off(move || {
        let (data, state) = (dir.path().join("data"), dir.path().join("state"));
        let (data_text, state_text) = (data.to_str().unwrap(), state.to_str().unwrap());
        let listen = format!("127.0.0.1:{}", free_port());
        let mut relay = serve(&data, &listen, &["--tunnel-address", &listen]);
        relay.event("ready");
        let token = relay.join_token();
        assert_eq!(
            run(
                "hookward",
                &["join", "-", "--state-dir", state_text],
                &[],
                &token
            )
            .code,
            Some(0)
        );
        let none = run("hookward", &["status", "--state-dir", state_text], &[], "");
        assert_eq!(none.code, Some(1), "{none:?}");

        // `hookward status` needs no port.
        let args = [
            "http",
            &port,
            "--inspect",
            "off",
            "--log-format",
            "json",
            "--state-dir",
            state_text,
        ];
        let mut agent = Process::start("hookward", &args, &[]);
        agent.event("ready");
        let admin = |args: &[&str]| {
            run(
                "hookward-relay",
                &[args, &["--data-dir", data_text]].concat(),
                &[],
                "",
            )
        };
        let list = admin(&["agent", "list"]);
        for expected in [
            "AGENT",
            "flexdeploy",
            "online",
            "quic",
            "127.0.0.1:",
            " ms",
            env!("CARGO_PKG_VERSION"),
        ] {
            assert!(list.out.contains(expected), "{expected} in {list:?}");
        }
        let status = admin(&["status"]);
        for expected in [
            "ready",
            "hooks.example.test",
            "flexdeploy",
            "body_memory",
            "expires in",
            "relay.db",
            "last ",
        ] {
            assert!(status.out.contains(expected), "{expected} in {status:?}");
        }
        let status: Value =
            serde_json::from_str(&admin(&["status", "--format", "json"]).out).unwrap();
        assert_eq!(status["agents"][0]["online"], true);
        let own = run("hookward", &["status", "--state-dir", state_text], &[], "");
        for expected in [
            "ready",
            "over quic",
            "https://flexdeploy.hooks.example.test",
            "healthy",
        ] {
            assert!(own.out.contains(expected), "{expected} in {own:?}");
        }
        assert!(!own.out.contains("token="), "{own:?}");

        // An agent that was killed leaves its socket.
        agent.signal("KILL");
        agent.wait();
        let none = run("hookward", &["status", "--state-dir", state_text], &[], "");
        assert_eq!(none.code, Some(1), "{none:?}");
        let mut agent = Process::start("hookward", &args, &[]);
        agent.event("ready");

        // An agent that left is known with the time.
        agent.signal("TERM");
        assert_eq!(agent.wait(), Some(0));
        happens("the agent is offline", || {
            admin(&["agent", "list"]).out.contains("offline")
        });
        assert!(admin(&["agent", "list"]).out.contains(" ago"));

        // Stopped through the API, as by a deployment tool.
        let drained = Command::new("curl")
            .args(["-s", "-X", "POST", "--unix-socket"])
            .arg(data.join("admin.sock"))
            .arg("http://localhost/api/v1/drain")
            .status();
        assert!(drained.unwrap().success());
        assert_eq!(relay.wait(), Some(0));
        let stopped = admin(&["status"]);
        assert_eq!(stopped.code, Some(1));
        assert!(stopped.err.contains("no relay is running"), "{stopped:?}");
        let list = admin(&["agent", "list", "--format", "json"]);
        let list: Value = serde_json::from_str(&list.out).unwrap();
        assert_eq!(list[0]["online"], false);
        assert!(list[0]["last_seen_ms"].is_u64(), "{list}");
    })
    .await;
}

/// A full disk: the relay says that it is not ready, and recovers.
#[tokio::test]
async fn a_relay_whose_storage_fails_is_not_ready() {
    if !have("unshare", "apt-get install util-linux") {
        return;
    }
    off(|| {
        let dir = TempDir::new().unwrap();
        let data = dir.path().join("data");
        std::fs::create_dir(&data).unwrap();
        let script = format!(
            "mount -t tmpfs -o size=2m none {0} && \
             {1} serve --domain x.test --listen 127.0.0.1:0 --admin 127.0.0.1:0 --audit off --log-format json --data-dir {0} & \
             while read line; do eval \"$line\"; done; kill %1; wait",
            data.display(),
            hookward_tests::process::program("hookward-relay").display(),
        );
        let mut command = Command::new("unshare");
        command.args(NAMESPACE).arg(&script);
        let mut relay = Process::spawn(command);
        let admin: SocketAddr = relay.event("ready")["admin"].as_str().unwrap().parse().unwrap();
        assert_eq!(call(admin, "GET", "/readyz", &[]).status, 200);

        let (data, token) = (data.display(), dir.path().join("token"));
        relay.write(&format!("cp {data}/admin-token {}; head -c 4M /dev/zero >{data}/fill\n", token.display()));
        happens("it is not ready", || call(admin, "GET", "/readyz", &[]).status == 503);
        let answer = call(admin, "GET", "/readyz", &[]);
        assert_eq!(answer.body, "not ready\n", "strangers learn no reason");
        let token = std::fs::read_to_string(token).unwrap();
        let answer = get(admin, "/readyz", &token);
        assert!(answer.body.contains("relay.db") && !answer.body.contains("storage: ok"), "{answer:?}");
        assert_eq!(call(admin, "GET", "/livez", &[]).status, 200);

        relay.write(&format!("rm {data}/fill\n"));
        happens("it is ready again", || call(admin, "GET", "/readyz", &[]).status == 200);
    })
    .await;
}

/// Scripts written for ngrok read the URL, and nothing secret.
#[tokio::test]
async fn the_agents_api_has_ngroks_shape() {
    let application = Application::start(|_| Reply::ok("fine")).await;
    let port = application.address.port().to_string();
    let dir = TempDir::new().unwrap();
    let state = dir.path().to_owned();
    let start = move || {
        let args = [
            "http",
            &port,
            "--local=127.0.0.1:0",
            "--inspect",
            "127.0.0.1:0",
            "--log-format",
            "json",
            "--state-dir",
            state.to_str().unwrap(),
        ];
        let mut agent = Process::start("hookward", &args, &[]);
        let address: SocketAddr = agent.event("api")["address"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap();
        let ready = agent.event("ready");
        (agent, address, ready)
    };
    let (agent, address, ready) = off(start).await;
    let path = super::programs::target(&ready);
    assert_eq!(
        edge(&ready, "flexdeploy.localhost").get(&path).await.status,
        200
    );

    let token = std::fs::read_to_string(dir.path().join("local/api-token")).unwrap();
    off(move || {
        let tunnels = call(address, "GET", "/api/tunnels", &[]).json();
        let tunnel = &tunnels["tunnels"][0];
        assert_eq!(tunnel["public_url"], ready["base_url"]);
        assert_eq!(
            (&tunnel["proto"], &tunnel["metrics"]["http"]["count"]),
            (&json!("https"), &json!(1))
        );
        assert!(
            tunnel["config"]["addr"]
                .as_str()
                .unwrap()
                .starts_with("http://localhost:")
        );
        let one = call(address, "GET", tunnel["uri"].as_str().unwrap(), &[]).json();
        assert_eq!(one["name"], tunnel["name"]);
        assert_eq!(
            call(address, "GET", "/api/tunnels/nothing", &[]).status,
            404
        );
        let status = call(address, "GET", "/api/status", &[]).json();
        assert_eq!(status["status"], "online");
        assert!(
            status["session"]["legs"][0]["latency"]
                .as_str()
                .unwrap()
                .ends_with("ms")
        );
        assert_eq!(
            call(address, "GET", "/readyz?application=true", &[]).body,
            "ok\n"
        );

        // The token of the webhook URL is on the screen only.
        let secret = ready["url"]
            .as_str()
            .unwrap()
            .split("token=")
            .nth(1)
            .unwrap();
        assert!(!tunnels.to_string().contains(secret));
        let rebinding = [("Host", "attacker.example")];
        assert_eq!(call(address, "GET", "/api/tunnels", &rebinding).status, 403);
        for private in ["/metrics", "/api/v1/status", "/api/v1/openapi.json"] {
            assert_eq!(call(address, "GET", private, &[]).status, 401, "{private}");
        }

        let metrics = get(address, "/metrics", &token).body;
        check_metrics(&metrics);
        documented(
            &metrics,
            include_str!("../../agent/README.md"),
            "hookward_agent_",
        );
        let document = get(address, "/api/v1/openapi.json", &token).json();
        let schema = schema(&document, "/api/v1/status", "get", "200");
        let state = get(address, "/api/v1/status", &token).json();
        assert!(jsonschema::is_valid(&schema, &state), "{state}");
        drop(agent);
    })
    .await;
}

/// Returns `true` if a client that was written for ngrok's API is available, which CI has.
pub(super) fn has_client_of_ngrok() -> bool {
    let import = Command::new("python3")
        .args(["-c", "import pyngrok"])
        .output();
    let is_installed = import.is_ok_and(|output| output.status.success());
    if !is_installed {
        assert!(
            std::env::var_os("CI").is_none(),
            "pyngrok is missing in CI: pip install pyngrok"
        );
        println!("skipped: pyngrok is not installed (pip install pyngrok)");
    }
    is_installed
}

/// A script of ngrok's users, with a client that was written for ngrok.
#[test]
fn a_client_of_ngrok_reads_the_tunnels() {
    if !has_client_of_ngrok() {
        return;
    }
    let dir = TempDir::new().unwrap();
    let args = [
        "http",
        "1",
        "--local=127.0.0.1:0",
        "--inspect",
        "127.0.0.1:0",
        "--log-format",
        "json",
        "--state-dir",
        dir.path().to_str().unwrap(),
    ];
    let mut agent = Process::start("hookward", &args, &[]);
    let api = format!("http://{}", agent.event("api")["address"].as_str().unwrap());
    let url = agent.event("ready")["base_url"]
        .as_str()
        .unwrap()
        .to_owned();
    let script = "
import sys
from pyngrok import agent, conf, ngrok
api = sys.argv[1]
tunnels = [ngrok.NgrokTunnel(data, conf.PyngrokConfig(), api) for data in ngrok.api_request(f'{api}/api/tunnels')['tunnels']]
endpoints = [ngrok.NgrokTunnel(data, conf.PyngrokConfig(), api) for data in ngrok.api_request(f'{api}/api/endpoints')['endpoints']]
assert tunnels[0].public_url == endpoints[0].public_url, (tunnels, endpoints)
assert agent.NgrokAgent(ngrok.api_request(f'{api}/api/status')).status == 'online'
print(tunnels[0].public_url)
";
    let output = Command::new("python3")
        .args(["-c", script, &api])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), url);
}

/// One schema of the log on both programs, in a file that logrotate may rename.
#[test]
fn logs_have_one_schema() {
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name);
    let (log, state) = (path("agent.log"), path("state"));
    let args = [
        "http",
        "1",
        "--local=127.0.0.1:0",
        "--log",
        log.to_str().unwrap(),
        "--log-format",
        "json",
        "--state-dir",
        state.to_str().unwrap(),
    ];
    let mut agent = Process::start("hookward", &args, &[]);
    let ready = agent.event("ready");
    agent.signal("TERM");
    assert_eq!(agent.wait(), Some(0));

    let log_file = path("relay.log");
    let args = ["--log", log_file.to_str().unwrap()];
    let mut relay = serve(&path("data"), "127.0.0.1:0", &args);
    let relay_ready = relay.event("ready");
    relay.signal("TERM");
    assert_eq!(relay.wait(), Some(0));
    assert!(relay.err().is_empty(), "{:?}", relay.err());

    let lines = |path: &Path| -> Vec<Value> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    let (of_agent, of_relay) = (lines(&log), lines(&log_file));
    assert!(
        of_agent.iter().any(|line| line["event"] == "ready"),
        "{of_agent:?}"
    );
    assert!(
        of_relay.iter().any(|line| line["event"] == "audit_head"),
        "{of_relay:?}"
    );
    for line in of_agent
        .iter()
        .chain(&of_relay)
        .chain([&ready, &relay_ready])
    {
        let time = line["time"].as_str().unwrap();
        assert!(time.len() == 24 && time.ends_with('Z'), "{line}");
        assert!(
            ["error", "warn", "info", "debug"].contains(&line["level"].as_str().unwrap()),
            "{line}"
        );
        assert!(line["event"].is_string(), "{line}");
    }
}
