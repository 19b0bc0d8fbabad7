//! Certificates from the settings: the start names what senders would reject.

use std::fs;
use std::path::{Path, PathBuf};

use hookward_tests::process::{Ended, Process, run};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd,
};
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
