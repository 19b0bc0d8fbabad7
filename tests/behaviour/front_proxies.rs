//! The recipes of relay/README.md for servers in front of a relay, with the real programs.

use std::path::{Path, PathBuf};
use std::process::Command;

use hookward_tests::application::{Application, Reply};
use hookward_tests::ports::free_port;
use hookward_tests::process::{Process, have, run};
use hookward_tests::sender::github_signature;
use hookward_tests::stage::PREFIX;
use hookward_tests::wait::happens;
use rcgen::{CertificateParams, KeyPair};
use serde_json::Value;
use tempfile::TempDir;

use super::programs::{off, serve};

/// A relay behind a proxy, and the ports of both.
struct Front {
    dir: TempDir,
    relay_port: u16,
    port: u16,
}

/// Address of the sender, which is not the proxy's.
const SENDER: &str = "127.0.0.9";

const HOST: &str = "flexdeploy.hooks.example.test";

impl Front {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let key = KeyPair::generate().unwrap();
        let names = ["hooks.example.test", "*.hooks.example.test"].map(str::to_owned);
        let certificate = CertificateParams::new(names)
            .unwrap()
            .self_signed(&key)
            .unwrap();
        std::fs::write(dir.path().join("hooks.pem"), certificate.pem()).unwrap();
        std::fs::write(dir.path().join("hooks-key.pem"), key.serialize_pem()).unwrap();
        Self {
            dir,
            relay_port: free_port(),
            port: free_port(),
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts the relay. Returns its first join token.
    fn relay(&self, tunnel_port: u16, more: &[&str]) -> (Process, String) {
        let (listen, port) = (
            format!("127.0.0.1:{}", self.relay_port),
            self.port.to_string(),
        );
        // A name, because an address would be that of the relay's own UDP port.
        let tunnel = format!("localhost:{tunnel_port}");
        let flags = ["--public-port", &port, "--tunnel-address", &tunnel];
        let rest = ["--trusted-proxy", "127.0.0.1", "--admin", "off"];
        let args = [flags.as_slice(), &rest, more].concat();
        let mut relay = serve(&self.file("relay"), &listen, &args);
        let token = relay.join_token();
        relay.event("ready");
        (relay, token)
    }

    /// Returns a recipe of the README with the ports and files of the test.
    fn recipe(&self, language: &str, number: usize) -> String {
        let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../relay/README.md");
        let readme = std::fs::read_to_string(readme).unwrap();
        let fence = format!("```{language}\n");
        let block = readme.split(&fence).nth(number).unwrap();
        let text = block.split("```").next().unwrap();
        let at = format!("127.0.0.1:{}", self.port);
        let file = |name: &str| self.file(name).display().to_string();
        text.replace("listen 443", &format!("listen {at}"))
            .replace("bind :443", &format!("bind {at}"))
            .replace(
                "https://*.hooks.example.com",
                &format!("https://*.hooks.example.com:{}", self.port),
            )
            .replace("127.0.0.1:8443", &format!("127.0.0.1:{}", self.relay_port))
            .replace("hooks.example.com", "hooks.example.test")
            .replace("/etc/nginx/hooks", &file("hooks"))
            .replace("/etc/caddy/hooks", &file("hooks"))
            .replace("/var/lib/hookward/edge.pem", &file("relay/edge.pem"))
            .replace("/etc/caddy/relay.pem", &file("relay/edge.pem"))
    }

    fn nginx(&self, recipe: &str) -> Process {
        let dir = self.dir.path().display();
        let text = format!(
            "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\npid {dir}/nginx.pid;\n\
             error_log stderr;\nuser root;\nevents {{}}\n{recipe}"
        );
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let temporary = temporary.map(|kind| format!("{kind}_temp_path {dir}/{kind};\n"));
        let text = text.replace(
            "http {",
            &format!("http {{\naccess_log off;\n{}", temporary.concat()),
        );
        std::fs::write(self.file("nginx.conf"), text).unwrap();
        let mut nginx = Command::new("nginx");
        nginx
            .arg("-c")
            .arg(self.file("nginx.conf"))
            .arg("-p")
            .arg(self.dir.path());
        nginx.args(["-e", "stderr", "-g", "daemon off;"]);
        self.started(nginx)
    }

    fn started(&self, command: Command) -> Process {
        let process = Process::spawn(command);
        happens("the proxy listens", || {
            std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok()
        });
        process
    }

    /// Starts the agent, and waits for the tunnel.
    fn agent(&self, token: &str, application: u16, transport: &str) -> (Process, Value) {
        let (port, state) = (application.to_string(), self.file("agent"));
        let args = ["http", &port, "--verify", "github=env:GITHUB_SECRET"];
        let output = [
            "--log-format",
            "json",
            "--inspect",
            "off",
            "--transport",
            transport,
        ];
        let state = ["--state-dir", state.to_str().unwrap()];
        let args = [args.as_slice(), &output, &state].concat();
        let variables = [("HOOKWARD_JOIN_TOKEN", token), ("GITHUB_SECRET", SECRET)];
        let mut agent = Process::start("hookward", &args, &variables);
        let ready = agent.event("ready");
        (agent, ready)
    }

    /// Sends a signed webhook through the proxy. Returns the status.
    fn send(&self, ca: &str) -> String {
        let body = "{\"ref\": \"refs/heads/main\"}";
        let signature = github_signature(SECRET, body.as_bytes());
        let (port, ca) = (self.port, self.file(ca));
        let url = format!("https://{HOST}:{port}{PREFIX}/git");
        let mut curl = Command::new("curl");
        curl.args([
            "-sS",
            "--interface",
            SENDER,
            "--cacert",
            ca.to_str().unwrap(),
        ])
        .args(["--resolve", &format!("{HOST}:{port}:127.0.0.1")])
        .args(["-o", "/dev/null", "-w", "%{http_code}", "-d", body])
        .args(["-H", "Content-Type: application/json"])
        .args(["-H", &format!("X-Hub-Signature-256: {signature}"), &url]);
        let sent = curl.output().unwrap();
        format!(
            "{}{}",
            String::from_utf8_lossy(&sent.stdout),
            String::from_utf8_lossy(&sent.stderr)
        )
    }
}

const SECRET: &str = "a secret of some length";

/// Starts relay, proxy and agent, and sends a webhook, which arrives with the sender's address.
async fn arrives(
    program: &'static str,
    package: &str,
    transport: &'static str,
    relay_flags: &'static [&'static str],
    start: fn(&Front) -> Process,
) {
    if !have(program, &format!("apt-get install {package}"))
        || !have("curl", "apt-get install curl")
    {
        return;
    }
    let application = Application::start(|_| Reply::ok("")).await;
    let port = application.address.port();
    let passes_tls = relay_flags.contains(&"--proxy-protocol");
    off(move || {
        let front = Front::new();
        let tunnel = if passes_tls {
            front.port
        } else {
            front.relay_port
        };
        let (relay, token) = front.relay(tunnel, relay_flags);
        let proxy = start(&front);
        let (agent, ready) = front.agent(&token, port, transport);
        assert_eq!(ready["transport"], transport, "{ready}");
        let ca = if passes_tls {
            "relay/edge.pem"
        } else {
            "hooks.pem"
        };
        let status = front.send(ca);
        assert_eq!(status, "200", "{:?}\n{:?}", proxy.err(), relay.err());
        drop((relay, proxy, agent));
    })
    .await;
    let received = application.log.take();
    assert_eq!(received.len(), 1);
    assert_eq!(received[0].all("x-forwarded-for"), [SENDER]);
}

#[tokio::test]
async fn nginx_terminates_tls() {
    let start = |front: &Front| {
        let recipe = front.recipe("nginx", 1);
        front.nginx(&format!("http {{\n{recipe}}}\n"))
    };
    arrives("nginx", "nginx-light", "quic", &[], start).await;
}

#[tokio::test]
async fn nginx_passes_tls_and_quic_through() {
    for transport in ["quic", "tcp"] {
        let start = |front: &Front| front.nginx(&front.recipe("nginx", 2));
        arrives(
            "nginx",
            "libnginx-mod-stream",
            transport,
            &["--proxy-protocol"],
            start,
        )
        .await;
    }
}

#[tokio::test]
async fn haproxy_passes_tls_through() {
    let start = |front: &Front| {
        let file = front.file("haproxy.cfg");
        std::fs::write(&file, front.recipe("haproxy", 1)).unwrap();
        let mut haproxy = Command::new("haproxy");
        haproxy.arg("-f").arg(file).arg("-db");
        front.started(haproxy)
    };
    arrives("haproxy", "haproxy", "tcp", &["--proxy-protocol"], start).await;
}

#[tokio::test]
async fn caddy_terminates_tls() {
    let start = |front: &Front| {
        let file = front.file("Caddyfile");
        // Neither its own API nor port 80 is free.
        let options = "{\n\tadmin off\n\tauto_https disable_redirects\n}\n";
        std::fs::write(&file, options.to_owned() + &front.recipe("caddyfile", 1)).unwrap();
        let mut caddy = Command::new("caddy");
        caddy
            .args(["run", "--adapter", "caddyfile", "--config"])
            .arg(file);
        caddy
            .env("HOME", front.dir.path())
            .env("XDG_DATA_HOME", front.dir.path());
        front.started(caddy)
    };
    arrives("caddy", "caddy", "quic", &[], start).await;
}

/// A load balancer that hides its clients: one private address for all.
#[tokio::test]
async fn one_private_address_for_all_requests_is_warned_of() {
    if !have("curl", "apt-get install curl") {
        return;
    }
    off(|| {
        let dir = TempDir::new().unwrap();
        let listen = format!("127.0.0.1:{}", free_port());
        let flags = ["--tunnel-address", &listen, "--admin", "off"];
        let mut relay = serve(dir.path(), &listen, &flags);
        relay.event("ready");
        let token = std::fs::read_to_string(dir.path().join("first-join-token")).unwrap();
        let state = dir.path().join("agent");
        let args = ["join", "-", "--state-dir", state.to_str().unwrap()];
        assert_eq!(run("hookward", &args, &[], &token).code, Some(0));
        let url = format!(
            "https://{HOST}:{}/[1-250]",
            listen.rsplit_once(':').unwrap().1
        );
        let resolve = format!(
            "{HOST}:{}",
            listen.replacen("127.0.0.1:", "", 1) + ":127.0.0.1"
        );
        let ca = dir.path().join("edge.pem");
        let send = || {
            let sent = Command::new("curl")
                .args(["-sSZ", "-o", "/dev/null", "--cacert", ca.to_str().unwrap()])
                .args(["--resolve", &resolve, &url])
                .status()
                .unwrap();
            assert!(sent.success());
        };
        let warnings = || {
            let lines = relay.err();
            lines
                .iter()
                .filter(|line| line.contains("--trusted-proxy 127.0.0.1"))
                .count()
        };
        // The relay reads the hosts with an owner once in a while, and counts their requests only.
        happens("the warning", || {
            send();
            warnings() > 0
        });
        send();
        assert_eq!(warnings(), 1);
    })
    .await;
}
