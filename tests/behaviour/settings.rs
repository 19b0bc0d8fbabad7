//! Settings files of both programs: checked, shown, described by a schema, reread on SIGHUP, and
//! written from a file of ngrok.

use std::path::Path;

use hookward_tests::application::{Application, Reply};
use hookward_tests::ports::free_port;
use hookward_tests::process::{Process, have, run};
use hookward_tests::sender::github_signature;
use hookward_tests::wait::happens;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::programs::{edge, mode, off};

fn text_of(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Returns the schema that a program prints, compiled.
fn schema(program: &str) -> jsonschema::Validator {
    let printed = run(program, &["config", "schema"], &[], "");
    assert_eq!(printed.code, Some(0), "{printed:?}");
    let schema: Value = serde_json::from_str(&printed.out).unwrap();
    jsonschema::meta::validate(&schema).unwrap();
    jsonschema::validator_for(&schema).unwrap()
}

fn as_json(text: &str) -> Value {
    serde_json::to_value(toml::from_str::<toml::Table>(text).unwrap()).unwrap()
}

#[test]
fn examples_are_valid_and_schemas_find_mistakes() {
    for (program, mistakes) in [
        (
            "hookward-relay",
            vec![
                json!({ "domian": "hooks.example.com" }),
                json!({ "limits": { "drain": "10" } }),
                json!({ "proxy_protocol": "yes" }),
                json!({ "acme": { "external_account": { "secret": "x" } } }),
            ],
        ),
        (
            "hookward",
            vec![
                json!({ "tunnel": [{ "application": 8000, "hots": "jira" }] }),
                json!({ "tunnel": 8000 }),
            ],
        ),
    ] {
        let schema = schema(program);
        let example = run(program, &["config", "example"], &[], "").out;
        assert!(schema.is_valid(&as_json(&example)), "{example}");
        for mistake in mistakes {
            assert!(!schema.is_valid(&mistake), "{mistake}");
        }
    }
    let variables = json!({ "public_port": "${PORT}", "limits": { "drain": "10s" }, "hosts": { "a.test": "a" } });
    assert!(schema("hookward-relay").is_valid(&variables));
}

#[test]
fn the_relays_settings_are_checked_and_shown_with_their_origin() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("relay.toml");
    let text = "domain = 'hooks.example.test'\nlisten = '127.0.0.1:${PORT}'\n\
                limits.profile = '4GiB'\nacme = { email = 'a@example.test', external_account = { id = 'x', key = 'cmd:pass show a-key' } }\n";
    std::fs::write(&file, text).unwrap();
    let config = |command: &str, more: &[&str]| {
        let args = [&["config", command, "--config", text_of(&file)], more].concat();
        let variables = [("PORT", "8443"), ("HOOKWARD_DATA_DIR", "/srv/hookward")];
        run("hookward-relay", &args, &variables, "")
    };
    let shown = config("show", &["--public-port", "9", "--format", "json"]);
    assert_eq!(shown.code, Some(0), "{shown:?}");
    assert!(!shown.out.contains("a-key"), "{shown:?}");
    let rows: Value = serde_json::from_str(&shown.out).unwrap();
    let of = |key: &str| {
        let mut rows = rows.as_array().unwrap().iter();
        let row = rows.find(|row| row["key"] == key).unwrap();
        (
            row["value"].as_str().unwrap(),
            row["origin"].as_str().unwrap(),
        )
    };
    let line = |number: u32| format!("{}:{number}", file.display());
    assert_eq!(of("public_port"), ("9", "--public-port"));
    assert_eq!(of("data_dir"), ("/srv/hookward", "HOOKWARD_DATA_DIR"));
    assert_eq!(of("listen"), ("'127.0.0.1:8443'", line(2).as_str()));
    assert_eq!(
        of("acme.external_account.key"),
        ("cmd:pass…c3c7", line(4).as_str())
    );
    assert_eq!(of("limits.max_connections"), ("32768", "limits.profile"));
    assert_eq!(of("limits.drain"), ("\"10s\"", "default"));

    assert_eq!(config("check", &[]).code, Some(0));
    let wrong = config(
        "check",
        &["--baseline-policy", "none.toml", "--listen", "x"],
    );
    assert_eq!(wrong.code, Some(2), "{wrong:?}");
    std::fs::write(&file, "domain = 'a.test'\ntunel_address = 'x:1'").unwrap();
    let wrong = config("check", &[]);
    assert!(
        wrong.err.contains("did you mean \"tunnel_address\""),
        "{wrong:?}"
    );
    std::fs::write(&file, "domain = 'a.test'").unwrap();
    let wrong = config(
        "check",
        &["--certificate", "none.pem", "--key", "none-key.pem"],
    );
    assert_eq!(wrong.code, Some(2), "{wrong:?}");
    assert!(wrong.err.contains("none.pem"), "{wrong:?}");
}

#[tokio::test]
async fn a_hangup_changes_what_it_can_and_names_the_rest() {
    let dir = TempDir::new().unwrap();
    let (data, state) = (dir.path().join("data"), dir.path().join("state"));
    let file = dir.path().join("relay.toml");
    let listen = format!("127.0.0.1:{}", free_port());
    let settings = |more: &str| {
        format!(
            "domain = 'hooks.example.test'\nlisten = '{listen}'\ntunnel_address = '{listen}'\nadmin.listen = 'off'\n{more}"
        )
    };
    std::fs::write(&file, settings("")).unwrap();
    let application = Application::start(|_| Reply::ok("")).await;
    let port = application.address.port().to_string();
    let reserved = settings("limits.drain = '3s'\nhosts = { 'hooks.example.test' = 'flexdeploy' }");
    off(move || {
        let args = [
            "serve",
            "--config",
            text_of(&file),
            "--data-dir",
            text_of(&data),
        ];
        let args = [args.as_slice(), &["--log-format", "json"]].concat();
        let mut relay = Process::start("hookward-relay", &args, &[]);
        let token = relay.join_token();
        relay.event("ready");

        std::fs::write(&file, "domain = 'hooks.example.test'\nlimitz = 1").unwrap();
        relay.signal("HUP");
        let log = |relay: &Process, text: &str| relay.err().join("\n").contains(text);
        happens("a mistake is refused", || log(&relay, "settings_refused"));
        std::fs::write(&file, reserved).unwrap();
        relay.signal("HUP");
        happens("the rest is named", || {
            log(&relay, "\"keys\":\"limits.drain\"")
        });
        happens("the hosts change", || log(&relay, "settings_loaded"));

        let args = ["http", &port, "--log-format", "json", "--inspect", "off"];
        let args = [args.as_slice(), &["--state-dir", text_of(&state)]].concat();
        let variables = [("HOOKWARD_JOIN_TOKEN", token.as_str())];
        let mut agent = Process::start("hookward", &args, &variables);
        assert_eq!(agent.event("ready")["host"], "hooks.example.test");
    })
    .await;
}

#[tokio::test]
async fn a_file_of_ngrok_becomes_tunnels_that_verify() {
    let application = Application::start(|_| Reply::ok("")).await;
    let dir = TempDir::new().unwrap();
    let ngrok = dir.path().join("ngrok.yml");
    let text = "version: 3\nagent: { authtoken: x }\nendpoints:\n  - name: hooks\n    url: https://flexdeploy.ngrok.app\n    \
                upstream: { url: 1 }\n    traffic_policy:\n      on_http_request:\n        - actions:\n            \
                - { type: verify-webhook, config: { provider: github, secret: a secret of some length } }\n            \
                - { type: add-headers, config: { headers: { x: y } } }\n";
    std::fs::write(&ngrok, text).unwrap();
    let (out, port) = (
        dir.path().join("out"),
        application.address.port().to_string(),
    );
    let (agent, ready) = off(move || {
        let refused = run("hookward", &["start", text_of(&ngrok)], &[], "");
        assert_eq!(refused.code, Some(2), "{refused:?}");
        assert!(refused.err.contains("import-ngrok"), "{refused:?}");

        let import = ["import-ngrok", text_of(&ngrok), "--out", text_of(&out)];
        let imported = run("hookward", &import, &[], "");
        assert_eq!(imported.code, Some(0), "{imported:?}");
        assert!(
            imported
                .out
                .contains("not carried over: hooks: add-headers"),
            "{imported:?}"
        );
        assert!(
            !imported.out.contains("a secret of some length"),
            "{imported:?}"
        );
        assert_eq!(mode(&out.join("hooks.github1.secret")), 0o600);
        let again = run("hookward", &import, &[], "");
        assert_eq!(again.code, Some(2), "{again:?}");

        let file = out.join("hookward.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        let text = text.replace(
            "application = \"1\"",
            "application = \"${APPLICATION_PORT}\"",
        );
        std::fs::write(&file, text).unwrap();
        let variables = [("APPLICATION_PORT", port.as_str())];
        let state = ["--state-dir", text_of(&out)];
        let check = ["config", "check", text_of(&file)];
        let unset = run("hookward", &[check.as_slice(), &state].concat(), &[], "");
        assert!(
            unset.err.contains("APPLICATION_PORT is not set"),
            "{unset:?}"
        );
        let checked = run(
            "hookward",
            &[check.as_slice(), &state].concat(),
            &variables,
            "",
        );
        assert_eq!(checked.code, Some(0), "{checked:?}");
        let show = ["config", "show", text_of(&file)];
        let shown = run(
            "hookward",
            &[show.as_slice(), &state].concat(),
            &variables,
            "",
        );
        assert!(shown.out.contains("hookward.toml:2"), "{shown:?}");

        let start = [
            "start",
            text_of(&file),
            "--local=127.0.0.1:0",
            "--inspect",
            "off",
        ];
        let args = [start.as_slice(), &["--log-format", "json"], &state].concat();
        let mut agent = Process::start("hookward", &args, &variables);
        let ready = agent.event("ready");
        (agent, ready)
    })
    .await;

    let edge = edge(&ready, "flexdeploy.localhost");
    let signature = github_signature("a secret of some length", b"{}");
    let headers = [("x-hub-signature-256", signature.as_str())];
    assert_eq!(edge.post("/any", &headers, b"{}").await.status, 200);
    assert_eq!(edge.post("/any", &[], b"{}").await.status, 403);
    drop(agent);
}

/// The printed lines for curl and Python work.
#[tokio::test]
async fn the_steps_of_trust_work() {
    if !have("curl", "apt-get install curl") || !have("python3", "apt-get install python3") {
        return;
    }
    let application = Application::start(|_| Reply::ok("")).await;
    let (dir, port) = (
        TempDir::new().unwrap(),
        application.address.port().to_string(),
    );
    off(move || {
        let state = ["--state-dir", text_of(dir.path())];
        let missing = run(
            "hookward",
            &[["trust"].as_slice(), &state].concat(),
            &[],
            "",
        );
        assert_eq!(missing.code, Some(2), "{missing:?}");

        let args = ["http", &port, "--local=127.0.0.1:0", "--log-format", "json"];
        let args = [args.as_slice(), &["--inspect", "off"], &state].concat();
        let mut agent = Process::start("hookward", &args, &[]);
        let ready = agent.event("ready");
        let edge = ready["edge"].as_str().unwrap();
        let steps = run(
            "hookward",
            &[["trust"].as_slice(), &state].concat(),
            &[],
            "",
        )
        .out;
        let line = |start: &str| {
            let mut lines = steps.lines().map(str::trim);
            lines
                .find(|line| line.starts_with(start))
                .unwrap()
                .to_owned()
        };
        let (host, port) = ("flexdeploy.localhost", edge.rsplit_once(':').unwrap().1);
        let script = format!(
            "{} --resolve {host}:{port}:127.0.0.1 -sS -o /dev/null\n{}\n\
             python3 -c \"import socket, ssl; ssl.create_default_context().wrap_socket(\
             socket.create_connection(('127.0.0.1', {port})), server_hostname='{host}')\"",
            line("curl --cacert").replace(":8443", &format!(":{port}")),
            line("export REQUESTS_CA_BUNDLE"),
        );
        let ran = std::process::Command::new("sh")
            .args(["-ec", &script])
            .output()
            .unwrap();
        assert!(
            ran.status.success(),
            "{script}\n{}",
            String::from_utf8_lossy(&ran.stderr)
        );
    })
    .await;
}
