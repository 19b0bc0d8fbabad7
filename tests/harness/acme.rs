//! An ACME server: Pebble of Debian, with its rejected nonces, and a DNS server that knows every
//! name as 127.0.0.1.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use hookward_core::clock::Clock;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::ports::free_port;
use crate::process::{Process, have};
use crate::sender::Edge;
use crate::stage::roots;
use crate::wait::DEADLINE;

/// What a server does.
#[derive(Clone, Copy)]
pub struct AcmePlan {
    /// Ports on which it validates names.
    pub tls_port: u16,
    pub http_port: u16,
    /// Life of its certificates.
    pub validity: Duration,
    /// `true` to demand the account [`EXTERNAL_ACCOUNT`].
    pub needs_external_account: bool,
}

/// Id and key of an account elsewhere.
pub const EXTERNAL_ACCOUNT: (&str, &str) = (
    "kid-1",
    "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W",
);

/// A running ACME server.
pub struct AcmeServer {
    dir: TempDir,
    pebble: Mutex<Option<Process>>,
    _dns: Process,
    dns_port: u16,
    port: u16,
    management: u16,
    dns_management: u16,
    /// Gateway in front of it, with its port.
    gateway: Option<(Process, u16)>,
}

impl AcmeServer {
    /// Returns `true` if the programs are there.
    pub fn is_available() -> bool {
        have("pebble", "apt-get install pebble")
    }

    pub fn start(plan: AcmePlan) -> Self {
        let dir = TempDir::new().unwrap();
        let [port, management, dns_port, dns_management] = [(); 4].map(|()| free_port());
        make_certificate(&dir);
        let config = json!({ "pebble": {
            "listenAddress": format!("127.0.0.1:{port}"),
            "managementListenAddress": format!("127.0.0.1:{management}"),
            "certificate": dir.path().join("server.pem"),
            "privateKey": dir.path().join("server-key.pem"),
            "httpPort": plan.http_port,
            "tlsPort": plan.tls_port,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": plan.needs_external_account,
            "externalAccountMACKeys": { EXTERNAL_ACCOUNT.0: EXTERNAL_ACCOUNT.1 },
            "certificateValidityPeriod": plan.validity.as_secs(),
        }});
        fs::write(dir.path().join("config.json"), config.to_string()).unwrap();

        let mut dns = Command::new("pebble-challtestsrv");
        dns.args(["-defaultIPv4", "127.0.0.1", "-defaultIPv6", ""])
            .args(["-http01", "", "-https01", "", "-tlsalpn01", ""])
            .args(["-dns01", &format!("127.0.0.1:{dns_port}")])
            .args(["-management", &format!("127.0.0.1:{dns_management}")]);
        let server = Self {
            dir,
            pebble: Mutex::new(None),
            _dns: Process::spawn(dns),
            dns_port,
            port,
            management,
            dns_management,
            gateway: None,
        };
        server.resume();
        server
    }

    /// Starts the server again, without what it knew before.
    pub fn resume(&self) {
        let mut pebble = Command::new("pebble");
        pebble
            .arg("-config")
            .arg(self.dir.path().join("config.json"))
            .args(["-dnsserver", &format!("127.0.0.1:{}", self.dns_port)])
            .env("PEBBLE_VA_NOSLEEP", "1");
        *self.pebble.lock().unwrap() = Some(Process::spawn(pebble));
        let since = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", self.management)).is_err() {
            assert!(since.elapsed() < DEADLINE, "Pebble does not start");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends the server.
    pub fn stop(&self) {
        *self.pebble.lock().unwrap() = None;
    }

    pub fn directory(&self) -> String {
        let gateway = self.gateway.as_ref().map(|(_, port)| *port);
        format!("https://localhost:{}/dir", gateway.unwrap_or(self.port))
    }

    /// Puts a gateway in front of the server, which gives [`AcmeServer::answer`]'s answers.
    #[must_use]
    pub fn behind_a_gateway(mut self) -> Self {
        let port = free_port();
        self.answer(&json!([]));
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("harness/acme_gateway.py");
        let mut gateway = Command::new("python3");
        gateway.arg(script).arg(self.dir.path());
        gateway.args([port.to_string(), self.port.to_string()]);
        let gateway = Process::spawn(gateway);
        let since = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(since.elapsed() < DEADLINE, "the gateway does not start");
            std::thread::sleep(Duration::from_millis(10));
        }
        self.gateway = Some((gateway, port));
        self
    }

    /// Returns the errors of the gateway.
    pub fn gateway_errors(&self) -> String {
        let gateway = self.gateway.as_ref();
        gateway.map_or(String::new(), |(gateway, _)| gateway.err().join("\n"))
    }

    /// Sets the answers of the gateway, as its script documents them.
    pub fn answer(&self, answers: &Value) {
        let (path, new) = (
            self.dir.path().join("answers.json"),
            self.dir.path().join("new.json"),
        );
        fs::write(&new, answers.to_string()).unwrap();
        fs::rename(new, path).unwrap();
    }

    /// Writes a command that edits the records of the DNS server.
    pub fn dns_hook(&self) -> PathBuf {
        let path = self.dir.path().join("dns-hook");
        let script = format!(
            "#!/usr/bin/env python3\n\
             import json, sys, urllib.request\n\
             verb, name, value = sys.argv[1:]\n\
             path = {{'add': 'set-txt', 'remove': 'clear-txt'}}[verb]\n\
             data = json.dumps({{'host': name + '.', 'value': value}}).encode()\n\
             urllib.request.urlopen('http://127.0.0.1:{}/' + path, data, 10)\n",
            self.dns_management
        );
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    /// Returns the certificate of the server's own authority.
    pub fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// Returns a store that trusts the certificates that the server issues.
    pub async fn issued_roots(&self) -> RootCertStore {
        let management = Edge {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, self.management)),
            host: "localhost".to_owned(),
            roots: roots(&self.ca()),
            clock: Clock::System,
        };
        let answer = management.get("/roots/0").await;
        let mut issued = RootCertStore::empty();
        let root = CertificateDer::from_pem_slice(answer.text().as_bytes());
        issued.add(root.unwrap()).unwrap();
        issued
    }
}

fn make_certificate(dir: &TempDir) {
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // OpenSSL takes a certificate with the name of its issuer for a self-signed one.
    let name = "authority of the ACME server";
    ca.distinguished_name.push(DnType::CommonName, name);
    let ca_key = KeyPair::generate().unwrap();
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let issuer = Issuer::new(ca, ca_key);

    let key = KeyPair::generate().unwrap();
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let server = CertificateParams::new(names).unwrap();
    let server = server.signed_by(&key, &issuer).unwrap();
    for (name, text) in [
        ("ca.pem", ca_pem),
        ("server.pem", server.pem()),
        ("server-key.pem", key.serialize_pem()),
    ] {
        fs::write(dir.path().join(name), text).unwrap();
    }
}
