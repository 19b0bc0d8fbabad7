//! The audit log: a record for each decision and each administrative act, in a chain that shows every
//! change, on a disk that strangers cannot fill.

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;

use hookward_observe::audit::{AuditSettings, FileSettings, OnFailure, SyslogTarget};
use hookward_tests::application::{Application, Reply};
use hookward_tests::ports::free_port;
use hookward_tests::process::{NAMESPACE, Process, have, program, run};
use hookward_tests::sender::github_signature;
use hookward_tests::stage::{HOST, PREFIX, Plan, Stage, policy, signed_policy};
use hookward_tests::wait::{eventually, happens};
use serde_json::Value;
use tempfile::TempDir;

use super::programs::{edge, off};

const SECRET: &str = "It's a Secret to Everybody";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

fn file(path: &Path) -> AuditSettings {
    AuditSettings {
        file: Some(FileSettings {
            path: path.to_owned(),
            rotate_size: 1 << 20,
            rotate_age: None,
            keep: 3,
            keep_for: None,
        }),
        ..AuditSettings::off()
    }
}

fn records(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn of_event(path: &Path, event: &str) -> Vec<Value> {
    let mut records = records(path);
    records.retain(|record| record["event"] == event);
    records
}

/// Runs `audit verify`, and returns its exit code and report.
fn verify(files: &[PathBuf], more: &[&str]) -> (Option<i32>, String) {
    let mut args = vec!["audit", "verify"];
    args.extend(files.iter().map(|path| path.to_str().unwrap()));
    args.extend(more);
    let ended = run("hookward-relay", &args, &[], "");
    (ended.code, ended.out + "\n" + &ended.err)
}

/// Starts a signed stage with this audit log.
async fn stage(application: &Application, audit: AuditSettings) -> Stage {
    let plan = Plan {
        policy: signed_policy("github", SECRET.as_bytes(), ""),
        audit,
        ..Plan::default()
    };
    Stage::start(application.address, plan).await
}

async fn send_signed(stage: &Stage) -> u16 {
    let signature = github_signature(SECRET, b"{\"canary\":\"in-the-body\"}");
    let traceparent = format!("00-{TRACE}-00f067aa0ba902b7-01");
    let fields = [
        ("X-Hub-Signature-256", signature.as_str()),
        ("traceparent", traceparent.as_str()),
        ("X-Canary", "canary-in-a-field"),
    ];
    let path = format!("{PREFIX}/git?token=canary-in-the-query");
    let answer = stage
        .edge
        .post(&path, &fields, b"{\"canary\":\"in-the-body\"}");
    answer.await.status
}

#[tokio::test]
async fn forwarded_and_refused_requests_have_records_without_secrets() {
    let application = Application::start(|_| Reply::ok("fine")).await;
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("audit.log");
    let mut stage = stage(&application, file(&path)).await;

    assert_eq!(send_signed(&stage).await, 200);
    stage
        .edge
        .post(PREFIX, &[("X-Hub-Signature-256", "sha256=00")], b"{}")
        .await;
    stage.edge.get("/admin\u{202e}?a=b").await;
    let received = application.log.take();
    stage.stop_agent().await;
    stage.stop_relay().await;

    let forwarded = &of_event(&path, "forwarded")[0];
    assert_eq!(forwarded["tunnel"], HOST);
    assert_eq!(forwarded["agent"], "flexdeploy");
    assert_eq!(forwarded["route"], format!("{PREFIX}/**"));
    assert_eq!(forwarded["path"], format!("{PREFIX}/git"));
    assert_eq!(
        forwarded["checks"],
        serde_json::json!(["path", "method", "signature"])
    );
    assert!(
        forwarded["secrets"][0]
            .as_str()
            .unwrap()
            .starts_with("file:")
    );
    assert_eq!(forwarded["trace"], TRACE);
    assert_eq!(
        (&forwarded["request_bytes"], &forwarded["response_bytes"]),
        (&24.into(), &4.into())
    );
    assert!(forwarded["ms"].is_u64() && forwarded["upstream_ms"].is_u64());
    assert_eq!(
        received[0].header("hookward-request-id"),
        forwarded["id"].as_str()
    );
    assert_eq!(
        received[0].header("traceparent"),
        Some(format!("00-{TRACE}-00f067aa0ba902b7-01").as_str())
    );

    let refused = of_event(&path, "refused");
    assert_eq!(refused[0]["check"], "signature");
    assert!(refused[0]["reason"].is_string() && refused[0]["client"] == "127.0.0.1");

    for event in [
        "started",
        "agent_added",
        "agent_connected",
        "policy_in_force",
        "agent_disconnected",
        "draining",
        "stopped",
    ] {
        assert!(
            !of_event(&path, event).is_empty(),
            "{event} in {:#?}",
            records(&path)
        );
    }
    let policy = &of_event(&path, "policy_in_force")[0];
    assert!(
        policy["policy"].is_string() && policy["lets_in"][0].as_str().unwrap().contains(PREFIX)
    );

    let text = std::fs::read_to_string(&path).unwrap();
    for canary in ["canary", SECRET, "\u{202e}"] {
        assert!(!text.contains(canary), "{canary} in {text}");
    }
    assert_eq!(verify(&[path], &[]).0, Some(0));
}

/// Rules quote values of the request and of the policy to the owner of the tunnel, and to no file.
#[tokio::test]
async fn reasons_in_records_have_no_values() {
    let application = Application::start(|_| Reply::ok("fine")).await;
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("audit.log");
    let rules = [
        "headers = { X-Key = ['canary-allowed'] }",
        "content_type = ['canary/allowed']",
        "body = { 'a.b' = ['canary-allowed'] }",
    ];
    let routes = rules.iter().enumerate().map(|(n, rule)| {
        format!("[[route]]\npath = '{PREFIX}/{n}'\n[[route.accept]]\nopen = true\n{rule}\n")
    });
    let plan = Plan {
        policy: policy(&routes.collect::<String>()),
        audit: file(&path),
        ..Plan::default()
    };
    let mut stage = Stage::start(application.address, plan).await;

    let fields = [("X-Key", "canary-sent"), ("Content-Type", "canary/sent")];
    for n in 0..rules.len() {
        let path = format!("{PREFIX}/{n}");
        let answer = stage
            .edge
            .post(&path, &fields, b"{\"a\":{\"b\":\"canary\"}}");
        assert_eq!(answer.await.status, 403, "{path}");
    }
    stage.stop_agent().await;
    stage.stop_relay().await;

    let refused = of_event(&path, "refused");
    let checks: Vec<_> = refused.iter().map(|record| &record["check"]).collect();
    assert_eq!(checks, ["header", "content-type", "body-rule"]);
    let text = refused.iter().map(Value::to_string).collect::<String>();
    assert!(!text.contains("canary"), "{text}");
}

#[tokio::test]
async fn a_flood_of_refusals_is_counted_exactly_and_hides_no_forwarded_request() {
    const REQUESTS: u64 = 1500;

    let application = Application::start(|_| Reply::ok("fine")).await;
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("audit.log");
    let mut stage = stage(&application, file(&path)).await;

    let mut sender = stage.edge.http1().await;
    for n in 0..REQUESTS {
        sender.send("GET", "/nothing", HOST, &[], b"").await;
        assert_eq!(sender.answer("GET").await.status, 404);
        if n % 500 == 0 {
            assert_eq!(send_signed(&stage).await, 200);
        }
    }
    stage.stop_agent().await;
    stage.stop_relay().await;

    let counted = of_event(&path, "counted");
    let count: u64 = counted
        .iter()
        .map(|record| record["count"].as_u64().unwrap())
        .sum();
    let single = of_event(&path, "refused").len() as u64;
    assert_eq!(single + count, REQUESTS);
    assert!(counted.iter().all(|record| record["of"] == "refused"
        && record["reason"] == "path"
        && record["client"] == "127.0.0.1"));
    let seconds: std::collections::BTreeSet<_> = counted
        .iter()
        .map(|record| record["second"].as_str().unwrap())
        .collect();
    assert_eq!(seconds.len(), counted.len(), "one line for each second");
    assert!(single <= 20 * (seconds.len() as u64 + 2), "{single} lines");
    assert_eq!(of_event(&path, "forwarded").len(), 3);
    assert_eq!(verify(&[path], &[]).0, Some(0));
}

/// An administrator changes agents beside a running relay, and somebody changes the log.
#[tokio::test]
async fn administrative_acts_are_recorded_and_a_changed_log_is_found() {
    let dir = TempDir::new().unwrap();
    off(move || {
        let data = dir.path().join("data");
        let data = data.to_str().unwrap();
        let serve = [
            "serve",
            "--domain",
            "hooks.example.test",
            "--listen",
            "127.0.0.1:0",
            "--log-format",
            "json",
            "--data-dir",
            data,
        ];
        let path = Path::new(data).join("audit.log");
        let mut relay = Process::start("hookward-relay", &serve, &[]);
        relay.event("ready");
        let agent = |command, name| {
            run(
                "hookward-relay",
                &["agent", command, name, "--data-dir", data],
                &[("SUDO_USER", "alice")],
                "",
            )
        };
        assert_eq!(agent("add", "jira").code, Some(0));
        assert_eq!(agent("remove", "jira").code, Some(0));
        happens("the acts have records", || {
            of_event(&path, "agent_removed").len() == 1
        });
        let added = of_event(&path, "agent_added");
        let actor = added[1]["actor"].as_str().unwrap();
        assert!(
            actor.contains("uid") && actor.contains("sudo user alice"),
            "{actor}"
        );

        // Killed, and changed while it does not run.
        relay.signal("KILL");
        relay.wait();
        assert_eq!(agent("add", "later").code, Some(0));
        let mut relay = Process::start("hookward-relay", &serve, &[]);
        relay.event("ready");
        let is_recorded = |act: &Value| act["agent"] == "later" && act["act"].is_u64();
        happens("the act before the start has a record", || {
            of_event(&path, "agent_added").iter().any(is_recorded)
        });
        relay.signal("TERM");
        assert_eq!(relay.wait(), Some(0));

        // As a shell expands `audit.log*`.
        let files = [path.clone(), Path::new(data).join("audit.log.head")];
        let (code, report) = verify(&files, &[]);
        assert_eq!(code, Some(0), "{report}");
        assert!(report.starts_with("intact: "), "{report}");
        let last = report
            .split("the last ")
            .nth(1)
            .unwrap()
            .split(' ')
            .next()
            .unwrap()
            .to_owned();
        assert!(
            relay.err().join("\n").contains(&last),
            "the log has the last head {last}"
        );
        assert_eq!(verify(&files, &["--last", &last]).0, Some(0));
        assert_eq!(verify(&files, &["--last", "x"]).0, Some(2));

        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replacen("sudo user alice", "sudo user bob", 1)).unwrap();
        let (code, report) = verify(&files, &["--format", "json"]);
        assert_eq!(code, Some(3));
        let json: Value = serde_json::from_str(report.lines().next().unwrap()).unwrap();
        assert!(
            json["flaws"][0]["reason"]
                .as_str()
                .unwrap()
                .contains("changed"),
            "{report}"
        );

        // Without the first lines.
        let later: Vec<_> = text.split_inclusive('\n').skip(3).collect();
        std::fs::write(&path, later.concat()).unwrap();
        let (code, report) = verify(&files, &[]);
        assert_eq!(code, Some(3));
        assert!(
            report.contains("records 1 to 3 are missing at the beginning"),
            "{report}"
        );
        assert_eq!(verify(&files, &["--from", "4"]).0, Some(0));

        // Without the last line: the head beside the file shows it, also to the relay at its start.
        let shorter: Vec<_> = text.lines().collect();
        let shorter = shorter[..shorter.len() - 1].join("\n") + "\n";
        std::fs::write(&path, shorter).unwrap();
        let (code, report) = verify(&files, &[]);
        assert_eq!(code, Some(3));
        assert!(report.contains("missing at the end"), "{report}");
        let mut relay = Process::start("hookward-relay", &serve, &[]);
        relay.event("ready");
        happens("the gap has a record", || {
            of_event(&path, "audit_gap").len() == 1
        });
    })
    .await;
}

/// logrotate renames the file and sends SIGHUP: the chain goes on in the new file.
#[tokio::test]
async fn logrotate_and_the_own_rotation_keep_the_chain() {
    if !have("logrotate", "apt-get install logrotate") {
        return;
    }
    let dir = TempDir::new().unwrap();
    off(move || {
        let data = dir.path().join("data");
        let path = dir.path().join("audit.log");
        let settings = dir.path().join("relay.toml");
        let text = format!("[audit]\nfile = '{}'\n[audit.rotate]\nsize = '64KiB'\n", path.display());
        std::fs::write(&settings, text).unwrap();
        let args = ["serve", "--domain", "hooks.example.test", "--listen", "127.0.0.1:0", "--log-format", "json", "--data-dir", data.to_str().unwrap(), "--config", settings.to_str().unwrap()];
        let mut relay = Process::start("hookward-relay", &args, &[]);
        relay.event("ready");
        happens("the first records", || !of_event(&path, "agent_added").is_empty());

        let config = dir.path().join("logrotate.conf");
        let rule = format!(
            "{} {{\n rotate 3\n nocompress\n create 0600\n postrotate\n kill -HUP {}\n endscript\n}}\n",
            path.display(),
            relay.id()
        );
        std::fs::write(&config, rule).unwrap();
        let mut logrotate = Command::new("logrotate");
        logrotate.arg("-f").arg("-s").arg(dir.path().join("state")).arg(&config);
        assert!(logrotate.status().unwrap().success());
        happens("the reload is in the new file", || of_event(&path, "reload").len() == 1);

        // Refusals until the relay rotates by itself.
        let ready = relay.event("ready");
        let address = ready["edge"].as_str().unwrap().to_owned();
        let ca = ready["ca"].as_str().unwrap().to_owned();
        let long = "x".repeat(180);
        happens("the file is rotated", || {
            let url = format!("https://{address}/{long}?[1-20]");
            let sent = Command::new("curl").args(["-s", "--cacert", &ca, "-k", "-o", "/dev/null", &url]).status();
            assert!(sent.unwrap().success());
            !of_event(&path, "audit_rotated").is_empty()
        });
        relay.signal("TERM");
        assert_eq!(relay.wait(), Some(0));

        let files: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path())
            .filter(|file| file.file_name().unwrap().to_str().unwrap().starts_with("audit.log") && file.extension().unwrap() != "head")
            .collect();
        assert_eq!(files.len(), 3, "{files:?}");
        let (code, report) = verify(&files, &[]);
        assert_eq!(code, Some(0), "{report}");
        assert!(report.contains("the first is number 1,"), "{report}");
    })
    .await;
}

/// On a full disk the relay refuses or counts, as its settings say. It recovers when there is room.
#[tokio::test]
async fn a_full_disk_refuses_or_counts() {
    for on_failure in ["refuse", "count"] {
        let application = Application::start(|_| Reply::ok("fine")).await;
        let dir = TempDir::new().unwrap();
        let disk = dir.path().join("disk");
        std::fs::create_dir(&disk).unwrap();
        let settings = dir.path().join("relay.toml");
        std::fs::write(
            &settings,
            format!(
                "[audit]\nfile = '{0}/audit.log'\non_failure = '{on_failure}'\n",
                disk.display()
            ),
        )
        .unwrap();

        // The relay and what fills the disk share a mount namespace.
        let script = format!(
            "mount -t tmpfs -o size=64k none {0} && head -c 50000 /dev/zero > {0}/fill; \
             {1} serve --domain hooks.example.test --listen 127.0.0.1:{3} --tunnel-address 127.0.0.1:{3} --log-format json --data-dir {2}/data --config {2}/relay.toml & \
             while read line; do eval \"$line\"; done; kill %1; wait",
            disk.display(),
            program("hookward-relay").display(),
            dir.path().display(),
            free_port(),
        );
        let mut command = Command::new("unshare");
        command.args(NAMESPACE).arg(&script);
        let state = TempDir::new().unwrap();
        let port = application.address.port().to_string();

        let (mut relay, agent, ready, edge_ready) = off(move || {
            let mut relay = Process::spawn(command);
            let ready = relay.event("ready");
            let token = relay.join_token();
            let state = state.path().to_str().unwrap().to_owned();
            let joined = run(
                "hookward",
                &["join", "-", "--state-dir", &state],
                &[],
                &token,
            );
            assert_eq!(joined.code, Some(0), "{joined:?}");
            let args = [
                "http",
                &port,
                "--path",
                "/**",
                "--no-token",
                "--log-format",
                "json",
                "--state-dir",
                &state,
            ];
            let mut agent = Process::start("hookward", &args, &[]);
            let opened = agent.event("ready");
            (relay, agent, ready, opened)
        })
        .await;

        let host = edge_ready["host"].as_str().unwrap();
        let edge = edge(&ready, host);
        let failing = || relay.err().join("\n").contains("audit_failing");
        let mut refused = 0;
        for _ in 0..2000 {
            let answer = edge.post("/x", &[], b"{}").await;
            match answer.status {
                200 => {}
                503 => {
                    assert_eq!(answer.code(), Some("audit_failing"));
                    refused += 1;
                }
                other => panic!("{other}"),
            }
            if failing() && (refused > 0 || on_failure == "count") {
                break;
            }
        }
        assert!(failing(), "{:?}", relay.err());
        assert_eq!(refused > 0, on_failure == "refuse");

        relay.write(&format!(": > {}/fill\n", disk.display()));
        let recovered = || relay.err().join("\n").contains("audit_recovered");
        eventually("the log works again", recovered).await;
        assert_eq!(edge.post("/x", &[], b"{}").await.status, 200);

        // The verification runs in the same namespace.
        relay.write(&format!(
            "sleep 2; {} audit verify {}/audit.log\n",
            program("hookward-relay").display(),
            disk.display()
        ));
        let out = || relay.out().join("\n");
        eventually("the log is intact", || out().contains("intact: ")).await;
        assert!(!out().contains("NOT INTACT"), "{}", out());
        drop(agent);
    }
}

#[tokio::test]
async fn records_go_to_syslog_and_standard_output() {
    let application = Application::start(|_| Reply::ok("fine")).await;
    let dir = TempDir::new().unwrap();
    let socket = dir.path().join("log");
    let local = UnixDatagram::bind(&socket).unwrap();
    let audit = AuditSettings {
        syslog: Some(SyslogTarget::Unix(socket)),
        ..AuditSettings::off()
    };
    let unix = stage(&application, audit).await;
    assert_eq!(send_signed(&unix).await, 200);
    let line = off(move || {
        let mut buffer = vec![0; 65536];
        loop {
            let length = local.recv(&mut buffer).unwrap();
            let line = String::from_utf8(buffer[..length].to_vec()).unwrap();
            if line.contains("\"event\":\"forwarded\"") {
                return line;
            }
        }
    })
    .await;
    // Facility authpriv (10), severity notice (5).
    assert!(
        line.starts_with("<85>1 ") && line.contains(" hookward-relay "),
        "{line}"
    );

    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let audit = AuditSettings {
        syslog: Some(SyslogTarget::Tcp(server.local_addr().unwrap().to_string())),
        ..AuditSettings::off()
    };
    let _tcp = stage(&application, audit).await;
    let lines = off(move || {
        let (stream, _) = server.accept().unwrap();
        BufReader::new(stream)
            .lines()
            .take(2)
            .map(Result::unwrap)
            .collect::<Vec<_>>()
    })
    .await;
    assert!(
        lines.iter().all(|line| line.starts_with("<85>1 ")),
        "{lines:?}"
    );
}

/// A syslog server that goes away stops the relay only if its settings say so.
#[tokio::test]
async fn a_lost_syslog_refuses_until_it_is_back() {
    let application = Application::start(|_| Reply::ok("fine")).await;
    let dir = TempDir::new().unwrap();
    let socket = dir.path().join("log");
    let local = UnixDatagram::bind(&socket).unwrap();
    let audit = AuditSettings {
        syslog: Some(SyslogTarget::Unix(socket.clone())),
        on_failure: OnFailure::Refuse,
        ..AuditSettings::off()
    };
    let stage = stage(&application, audit).await;
    drop(local);
    std::fs::remove_file(&socket).unwrap();

    let mut status = 200;
    while status == 200 {
        status = send_signed(&stage).await;
    }
    assert_eq!(status, 503);

    let _local = UnixDatagram::bind(&socket).unwrap();
    while status == 503 {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        status = send_signed(&stage).await;
    }
    assert_eq!(status, 200);
}
