//! Certificates from the settings: the relay names what senders would reject, and uses a renewed
//! certificate without a restart.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use hookward_core::clock::Clock;
use hookward_tests::process::{Ended, Process, run};
use hookward_tests::sender::{Edge, Http1};
use hookward_tests::wait::{happens, within};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd,
};
use rustls::RootCertStore;
use tempfile::TempDir;

const DOMAIN: &str = "hooks.example.test";

/// A certificate with its key, in files.
struct Brought {
    dir: TempDir,
    certificate: Certificate,
    key: KeyPair,
}

fn params(name: &str) -> CertificateParams {
    CertificateParams::new(vec![name.to_owned()]).unwrap()
}

impl Brought {
    fn self_signed(params: &CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self {
            dir: TempDir::new().unwrap(),
            certificate,
            key,
        }
    }

    /// Creates a certificate of an unknown authority. Returns the authority's certificate, too.
    fn issued() -> (Self, Certificate) {
        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority
            .distinguished_name
            .push(rcgen::DnType::CommonName, "Hookward test authority");

        let authority_key = KeyPair::generate().unwrap();
        let of_authority = authority.self_signed(&authority_key).unwrap();
        let key = KeyPair::generate().unwrap();
        let issuer = Issuer::new(authority, authority_key);
        let certificate = params(&format!("*.{DOMAIN}"))
            .signed_by(&key, &issuer)
            .unwrap();

        (
            Self {
                dir: TempDir::new().unwrap(),
                certificate,
                key,
            },
            of_authority,
        )
    }

    fn args(&self, chain: &[u8], key: &[u8]) -> (PathBuf, PathBuf) {
        let (chain_file, key_file) = (
            self.dir.path().join("chain.pem"),
            self.dir.path().join("key.pem"),
        );
        fs::write(&chain_file, chain).unwrap();
        fs::write(&key_file, key).unwrap();
        (chain_file, key_file)
    }

    fn start(&self, chain: &[u8], key: &[u8]) -> Ended {
        let (chain, key) = self.args(chain, key);
        start(self.dir.path(), &chain, &key)
    }

    fn own(&self) -> Ended {
        self.start(
            self.certificate.pem().as_bytes(),
            self.key.serialize_pem().as_bytes(),
        )
    }
}

/// Starts a relay with these files. Stops it at once if it serves.
fn start(dir: &Path, chain: &Path, key: &Path) -> Ended {
    let data = dir.join("data");
    let paths = [&data, chain, key].map(|path| path.to_str().unwrap());
    let args = [
        "serve",
        "--domain",
        DOMAIN,
        "--listen",
        "127.0.0.1:0",
        "--log-format",
        "json",
    ];

    let files = [
        "--data-dir",
        paths[0],
        "--certificate",
        paths[1],
        "--key",
        paths[2],
    ];
    let args = [&args[..], &files].concat();
    let relay = Process::start("hookward-relay", &args, &[]);
    while relay.out().is_empty() && relay.err().iter().all(|line| !line.contains("\"error\"")) {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }

    relay.signal("TERM");
    relay.end()
}

fn assert_warned(ended: &Ended, texts: &[&str]) {
    assert_eq!(ended.code, Some(0), "{ended:?}");
    for text in texts {
        assert!(ended.err.contains(text), "{text} in {ended:?}");
    }
}

fn assert_refused(ended: &Ended, texts: &[&str]) {
    assert_eq!(ended.code, Some(1), "{ended:?}");
    for text in texts {
        assert!(ended.err.contains(text), "{text} in {ended:?}");
    }
}

#[test]
fn a_certificate_that_fits_is_taken_without_a_word() {
    let (brought, authority) = Brought::issued();
    let key = brought.key.serialize_pem();
    let chain = [brought.certificate.pem(), authority.pem()].concat();
    // Editors on Windows write a byte order mark.
    let marked = ["\u{feff}", &chain].concat();
    for (chain, key) in [(&chain, &key), (&marked, &["\u{feff}", &key].concat())] {
        let ended = brought.start(chain.as_bytes(), key.as_bytes());
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(!ended.err.contains("chain.pem"), "{ended:?}");
    }
}

#[test]
fn what_senders_would_refuse_is_warned_of() {
    let mut expired = params(&format!("*.{DOMAIN}"));
    (expired.not_before, expired.not_after) =
        (date_time_ymd(2020, 1, 1), date_time_ymd(2020, 2, 1));
    assert_warned(
        &Brought::self_signed(&expired).own(),
        &["chain.pem", "certificate expired on", "renew it"],
    );

    let mut early = params(&format!("*.{DOMAIN}"));
    early.not_before = date_time_ymd(2999, 1, 1);
    assert_warned(
        &Brought::self_signed(&early).own(),
        &["chain.pem", "not valid before", "clock"],
    );

    // A wildcard matches one label (RFC 6125 §6.4.3).
    let other = Brought::self_signed(&params("*.example.test"));
    assert_warned(
        &other.own(),
        &[
            "chain.pem",
            "*.example.test",
            &format!("not for *.{DOMAIN}"),
        ],
    );

    let (leaf, _) = Brought::issued();
    assert_warned(
        &leaf.own(),
        &["chain.pem", "Hookward test authority", "fullchain.pem"],
    );
}

#[test]
fn what_no_sender_could_use_is_refused() {
    let (brought, authority) = Brought::issued();
    let (own, key) = (brought.certificate.pem(), brought.key.serialize_pem());
    let reversed = [authority.pem(), own.clone()].concat();
    assert_refused(
        &brought.start(reversed.as_bytes(), key.as_bytes()),
        &["chain.pem", "wrong order", "number 2"],
    );

    let other = KeyPair::generate().unwrap().serialize_pem();
    assert_refused(
        &brought.start(own.as_bytes(), other.as_bytes()),
        &["chain.pem", "key.pem", "is not the key"],
    );

    let encrypted = key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    assert_refused(
        &brought.start(own.as_bytes(), encrypted.as_bytes()),
        &["key.pem", "encrypted", "openssl pkey"],
    );

    let half = &own[..own.len() / 2];
    assert_refused(
        &brought.start(half.as_bytes(), key.as_bytes()),
        &["chain.pem", "cut off"],
    );
    assert_refused(
        &brought.start(brought.certificate.der(), key.as_bytes()),
        &["chain.pem", "PEM"],
    );

    assert_refused(
        &brought.start(b"", key.as_bytes()),
        &["chain.pem", "no certificate"],
    );
    assert_refused(
        &brought.start(own.as_bytes(), own.as_bytes()),
        &["key.pem", "no private key"],
    );
}

/// The relay replaces its own damaged files, and warns that clients must trust the new ones.
#[test]
fn a_damaged_self_signed_certificate_is_replaced() {
    let dir = TempDir::new().unwrap();
    let serve = || {
        let data = dir.path().to_str().unwrap();
        let args = [
            "serve",
            "--domain",
            DOMAIN,
            "--listen",
            "127.0.0.1:0",
            "--log-format",
            "json",
            "--data-dir",
            data,
        ];
        let mut relay = Process::start("hookward-relay", &args, &[]);

        relay.event("ready");
        relay.signal("TERM");
        relay.end()
    };
    serve();

    fs::write(dir.path().join("edge.pem"), "damaged").unwrap();
    assert_warned(
        &serve(),
        &["edge.pem", "made a new self-signed certificate"],
    );
    assert!(!serve().err.contains("edge.pem"));

    let listed = run(
        "hookward-relay",
        &["agent", "list", "--data-dir", dir.path().to_str().unwrap()],
        &[],
        "",
    );
    assert_eq!(listed.code, Some(0), "{listed:?}");
}

/// A running relay with certificate files that the test overwrites.
struct Renewed {
    process: Process,
    files: (PathBuf, PathBuf),
    address: SocketAddr,
    _dir: TempDir,
}

impl Renewed {
    fn start(first: &Brought) -> Self {
        let dir = TempDir::new().unwrap();
        let path = |name: &str| dir.path().join(name);
        let (chain, key) = (path("chain.pem"), path("key.pem"));
        fs::write(&chain, first.certificate.pem()).unwrap();
        fs::write(&key, first.key.serialize_pem()).unwrap();
        let data = path("data");
        let [data, chain_file, key_file] = [&data, &chain, &key].map(|path| path.to_str().unwrap());
        let args = [
            "serve",
            "--domain",
            DOMAIN,
            "--listen",
            "127.0.0.1:0",
            "--log-format",
            "json",
            "--data-dir",
            data,
            "--certificate",
            chain_file,
            "--key",
            key_file,
        ];

        let mut process = Process::start("hookward-relay", &args, &[]);
        let ready = process.event("ready");
        let address = ready["edge"].as_str().unwrap().parse().unwrap();
        Self {
            process,
            files: (chain, key),
            address,
            _dir: dir,
        }
    }

    /// Overwrites both files, as a program that renews certificates.
    fn write(&self, certificate: &Certificate, key: &KeyPair) {
        fs::write(&self.files.0, certificate.pem()).unwrap();
        fs::write(&self.files.1, key.serialize_pem()).unwrap();
    }

    /// Connects with this certificate as the only trusted one.
    async fn connect(&self, certificate: &Certificate, alpn: &[u8]) -> std::io::Result<Http1> {
        let mut roots = RootCertStore::empty();
        roots.add(certificate.der().clone()).unwrap();
        let edge = Edge {
            address: self.address,
            host: format!("jira.{DOMAIN}"),
            roots,
            clock: Clock::System,
        };
        edge.tls(alpn, Some(&edge.host)).await.map(Http1::new)
    }

    async fn presents(&self, certificate: &Certificate) -> bool {
        self.connect(certificate, b"http/1.1").await.is_ok()
    }

    fn reports(&self, text: &str) {
        happens(text, || {
            self.process.err().iter().any(|line| line.contains(text))
        });
    }
}

/// A renewal needs no restart, and drops no connection.
#[tokio::test]
async fn a_renewed_certificate_is_used_without_a_restart() {
    let names = params(&format!("*.{DOMAIN}"));
    let (first, second, third) = (
        Brought::self_signed(&names),
        Brought::self_signed(&names),
        Brought::self_signed(&names),
    );
    let relay = Renewed::start(&first);
    let mut kept = relay
        .connect(&first.certificate, b"http/1.1")
        .await
        .unwrap();
    assert!(!relay.presents(&second.certificate).await);

    // The files have not changed yet, so only the signal reloads them.
    relay.process.signal("HUP");
    relay.reports("certificate reloaded");

    relay.write(&second.certificate, &second.key);
    within("the relay presents the second certificate", async {
        while !relay.presents(&second.certificate).await {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(!relay.presents(&first.certificate).await);

    let host = format!("jira.{DOMAIN}");
    kept.send("GET", "/", &host, &[], b"").await;
    assert_eq!(kept.answer("GET").await.status, 404, "the connection stays");

    relay.write(&third.certificate, &third.key);
    within("the relay presents the third certificate", async {
        while !relay.presents(&third.certificate).await {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn the_old_certificate_stays_when_the_new_one_is_bad() {
    let names = params(&format!("*.{DOMAIN}"));
    let (good, other) = (Brought::self_signed(&names), Brought::self_signed(&names));
    let mut expired = params(&format!("*.{DOMAIN}"));
    (expired.not_before, expired.not_after) =
        (date_time_ymd(2020, 1, 1), date_time_ymd(2020, 2, 1));
    let expired = Brought::self_signed(&expired);
    let elsewhere = Brought::self_signed(&params("elsewhere.example"));

    let relay = Renewed::start(&good);
    for (certificate, key, reason) in [
        (
            &other.certificate,
            &good.key,
            "is not the key of this certificate",
        ),
        (&expired.certificate, &expired.key, "certificate expired on"),
        (
            &elsewhere.certificate,
            &elsewhere.key,
            "senders refuse it there",
        ),
    ] {
        relay.write(certificate, key);
        relay.reports(reason);
        relay.reports("the previous one stays in force");
        assert!(relay.presents(&good.certificate).await, "{reason}");
    }

    relay.write(&other.certificate, &other.key);
    relay.reports("certificate reloaded");
    assert!(relay.presents(&other.certificate).await);
}

/// A client that validates the domain (RFC 8737) must get no other certificate than a challenge's.
#[tokio::test]
async fn an_acme_server_gets_no_certificate_without_a_challenge() {
    let brought = Brought::self_signed(&params(&format!("*.{DOMAIN}")));
    let relay = Renewed::start(&brought);
    assert!(
        relay
            .connect(&brought.certificate, b"acme-tls/1")
            .await
            .is_err()
    );
    assert!(relay.presents(&brought.certificate).await);
}
