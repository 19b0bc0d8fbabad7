//! Alerts and dashboard of `scripts/observability`, with a real Prometheus: in an outage the alerts
//! fire, and every query of the dashboard is valid.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use hookward_tests::ports::free_port;
use hookward_tests::private_api::call;
use hookward_tests::process::{Process, have, run};
use hookward_tests::wait::happens;
use serde_json::Value;
use tempfile::TempDir;

use super::programs::{off, serve};

const INSTALL: &str = "apt-get install prometheus";

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/observability")
}

fn promtool(args: &[&str]) {
    let output = Command::new("promtool")
        .args(args)
        .current_dir(scripts())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn the_rules_are_valid_and_fire_at_their_thresholds() {
    if !have("promtool", INSTALL) {
        return;
    }
    promtool(&["check", "rules", "rules.yml"]);
    promtool(&["test", "rules", "rules_test.yml"]);
}

/// Every metric in the rules and in the dashboard is in a README, whose tables other tests hold
/// against the programs.
#[test]
fn rules_and_dashboard_use_metrics_that_exist() {
    let readmes = concat!(
        include_str!("../../relay/README.md"),
        include_str!("../../agent/README.md")
    );
    for file in ["rules.yml", "dashboard.json"] {
        let text = std::fs::read_to_string(scripts().join(file)).unwrap();
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let metrics: std::collections::BTreeSet<_> =
            words.filter(|word| word.starts_with("hookward_")).collect();
        assert!(metrics.len() > 5);
        for metric in metrics {
            let metric = metric.strip_suffix("_bucket").unwrap_or(metric);
            assert!(
                readmes.contains(&format!("| `{metric}`")),
                "{metric} of {file}"
            );
        }
    }
}

/// A Prometheus with these scripts, whose alerts wait for a second instead of minutes.
struct Prometheus {
    _process: Process,
    address: SocketAddr,
}

impl Prometheus {
    fn start(dir: &Path, relay: SocketAddr, token: &Path) -> Self {
        let rules = std::fs::read_to_string(scripts().join("rules.yml")).unwrap();
        let rules: Vec<_> = rules
            .lines()
            .map(|line| match line.trim().strip_prefix("for: ") {
                Some(_) => "        for: 1s".to_owned(),
                None => line.to_owned(),
            })
            .collect();
        std::fs::write(dir.join("rules.yml"), rules.join("\n")).unwrap();

        let config = std::fs::read_to_string(scripts().join("prometheus.yml")).unwrap();
        let config = config
            .replace("15s", "1s")
            .replace(
                "/etc/prometheus/hookward-metrics-token",
                token.to_str().unwrap(),
            )
            .replace(
                "/etc/prometheus/hookward-agent-token",
                token.to_str().unwrap(),
            )
            .replace("127.0.0.1:4041", &relay.to_string());
        std::fs::write(dir.join("prometheus.yml"), config).unwrap();

        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let mut command = Command::new("prometheus");
        command
            .arg(format!(
                "--config.file={}",
                dir.join("prometheus.yml").display()
            ))
            .arg(format!(
                "--storage.tsdb.path={}",
                dir.join("tsdb").display()
            ))
            .arg(format!("--web.listen-address={address}"));
        let process = Process::spawn(command);
        happens("Prometheus is ready", || {
            std::net::TcpStream::connect(address).is_ok()
                && call(address, "GET", "/-/ready", &[]).status == 200
        });
        Self {
            _process: process,
            address,
        }
    }

    fn get(&self, path: &str) -> Value {
        // Prometheus sends long answers in chunks; 1.0 has none.
        let output = Command::new("curl")
            .args(["-s", "--http1.0", &format!("http://{}{path}", self.address)])
            .output()
            .unwrap();
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Returns the names of the alerts that fire.
    fn firing(&self) -> Vec<String> {
        let alerts = self.get("/api/v1/alerts");
        let alerts = alerts["data"]["alerts"].as_array().unwrap();
        let firing = alerts.iter().filter(|alert| alert["state"] == "firing");
        firing
            .map(|alert| alert["labels"]["alertname"].as_str().unwrap().to_owned())
            .collect()
    }

    fn waits_for(&self, alert: &str) {
        happens(alert, || self.firing().iter().any(|firing| firing == alert));
    }
}

#[tokio::test]
async fn an_outage_fires_the_alerts() {
    if !have("prometheus", INSTALL) {
        return;
    }
    off(|| {
        let dir = TempDir::new().unwrap();
        let (data, state) = (dir.path().join("data"), dir.path().join("state"));
        let state = state.to_str().unwrap();
        let listen = format!("127.0.0.1:{}", free_port());
        let admin = format!("127.0.0.1:{}", free_port());
        let mut relay = serve(
            &data,
            &listen,
            &["--tunnel-address", &listen, "--monitoring", &admin],
        );
        relay.event("ready");
        let token = relay.join_token();
        assert_eq!(
            run(
                "hookward",
                &["join", "-", "--state-dir", state],
                &[],
                &token
            )
            .code,
            Some(0)
        );
        let mut agent = Process::start(
            "hookward",
            &["http", "1", "--log-format", "json", "--state-dir", state],
            &[],
        );
        agent.event("ready");

        let prometheus = Prometheus::start(
            dir.path(),
            admin.parse().unwrap(),
            &data.join("metrics-token"),
        );
        let up = "/api/v1/query?query=hookward_relay_tunnel_online%20%3D%3D%201";
        happens("the relay is scraped", || {
            !prometheus.get(up)["data"]["result"]
                .as_array()
                .unwrap()
                .is_empty()
        });
        for healthy in [
            "HookwardRelayDown",
            "HookwardTunnelOffline",
            "HookwardAuditFailing",
            "HookwardCertificateExpiring",
        ] {
            assert!(
                !prometheus.firing().iter().any(|firing| firing == healthy),
                "{healthy}"
            );
        }

        // Every query of the dashboard is valid, with values for its variables.
        let dashboard: Value = serde_json::from_str(
            &std::fs::read_to_string(scripts().join("dashboard.json")).unwrap(),
        )
        .unwrap();
        let mut queries = 0;
        for target in dashboard["panels"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|panel| panel["targets"].as_array().unwrap())
        {
            let query = target["expr"].as_str().unwrap();
            let query = query
                .replace("$__rate_interval", "1m")
                .replace("$tunnel", ".*");
            let answer = Command::new("curl")
                .args([
                    "-s",
                    "--get",
                    "--data-urlencode",
                    &format!("query={query}"),
                    &format!("http://{}/api/v1/query", prometheus.address),
                ])
                .output()
                .unwrap();
            let answer: Value = serde_json::from_slice(&answer.stdout).unwrap();
            assert_eq!(answer["status"], "success", "{query}: {answer}");
            queries += 1;
        }
        assert!(queries > 15);

        // The agent dies, the audit log can't be written any more, then the relay dies.
        agent.signal("KILL");
        prometheus.waits_for("HookwardTunnelOffline");
        std::fs::remove_file(data.join("audit.log")).unwrap();
        std::fs::create_dir(data.join("audit.log")).unwrap();
        prometheus.waits_for("HookwardAuditFailing");
        relay.signal("KILL");
        prometheus.waits_for("HookwardRelayDown");
    })
    .await;
}
