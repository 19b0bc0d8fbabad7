//! `hookward diagnose` names every obstacle, with the request for the network team.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use hookward_agent::{Credential, StateDir};
use hookward_core::clock::{Clock, UnixMillis};
use hookward_core::names::AgentName;
use hookward_core::secret::Secret;
use hookward_tests::application::{Application, Reply};
use hookward_tests::network::Network;
use hookward_tests::process::{Ended, run};
use hookward_tests::proxy::{Kind, Proxy};
use hookward_tests::stage::{Plan, Stage};
use serde_json::Value;
use tempfile::TempDir;

use super::networks::Site;
use super::programs::off;

const QUIC: &str = "QUIC handshake, key";
const TLS: &str = "TLS handshake, key";
/// A name that no resolver knows (RFC 6761 §6.4).
const NOWHERE: &str = "relay.invalid";

/// Findings of `hookward diagnose`.
struct Found {
    code: Option<i32>,
    report: Value,
}

impl Found {
    fn of(ended: &Ended) -> Self {
        let report =
            serde_json::from_str(&ended.out).unwrap_or_else(|error| panic!("{error}: {ended:?}"));
        Self {
            code: ended.code,
            report,
        }
    }

    fn steps(&self) -> HashMap<&str, (&str, &str)> {
        fn text<'s>(step: &'s Value, name: &str) -> &'s str {
            step[name].as_str().unwrap()
        }

        let steps = self.report["steps"].as_array().unwrap().iter();
        steps
            .map(|step| {
                (
                    text(step, "step"),
                    (text(step, "outcome"), text(step, "reason")),
                )
            })
            .collect()
    }

    /// Asserts the outcomes of steps.
    fn assert(&self, outcomes: &[(&str, &str)]) {
        let steps = self.steps();
        for (step, outcome) in outcomes {
            assert_eq!(steps[step].0, *outcome, "{step}: {}", self.report);
        }
    }

    /// Asserts that the reason of a step contains this text.
    fn assert_says(&self, step: &str, text: &str) {
        assert!(
            self.steps()[step].1.contains(text),
            "{step}: {}",
            self.report
        );
    }

    fn asks(&self) -> Vec<&str> {
        self.list("requests")
    }

    fn list(&self, name: &str) -> Vec<&str> {
        self.report[name]
            .as_array()
            .unwrap()
            .iter()
            .map(|ask| ask.as_str().unwrap())
            .collect()
    }
}

/// Returns an address without a listener.
fn free() -> SocketAddr {
    std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .unwrap()
        .local_addr()
        .unwrap()
}

/// A relay, and the state of an agent that has joined it.
struct Joined {
    stage: Stage,
    state: TempDir,
    credential: Credential,
}

impl Joined {
    async fn new(plan: Plan) -> Self {
        let stage = Stage::start((Ipv4Addr::LOCALHOST, 1).into(), plan).await;
        let name = AgentName::parse("diagnosed").unwrap();
        let (join, secret) = (
            stage.relay().add_agent(&name).unwrap(),
            Secret::generate().unwrap(),
        );

        stage
            .relay()
            .store()
            .join(&join.secret, &secret.digest(), stage.clock.now())
            .unwrap()
            .unwrap();

        let (relay, pin) = (
            stage.relay().tunnel_address().to_string(),
            stage.relay().pin(),
        );
        let credential = Credential::new(relay, pin, name.to_string(), secret);

        let joined = Self {
            stage,
            state: TempDir::new().unwrap(),
            credential,
        };
        joined.keep(joined.credential.clone());

        joined
    }

    fn keep(&self, credential: Credential) {
        StateDir::open(Some(self.state.path()))
            .unwrap()
            .keep_credential(credential, true)
            .unwrap();
    }

    /// Names the relay by a name that this machine cannot resolve. Returns the name with its port.
    fn by_name(&self) -> String {
        let relay = format!("{NOWHERE}:{}", self.stage.relay().tunnel_address().port());
        self.keep(Credential {
            relay: relay.clone(),
            ..self.credential.clone()
        });
        relay
    }

    async fn run(&self, args: &[&str], environment: &[(&str, &str)]) -> Ended {
        let own = |text: &&str| (*text).to_owned();
        let mut all: Vec<String> = args.iter().map(own).collect();
        all.extend([
            "--state-dir".to_owned(),
            self.state.path().to_str().unwrap().to_owned(),
        ]);

        let environment: Vec<_> = environment
            .iter()
            .map(|(name, value)| (own(name), own(value)))
            .collect();

        off(move || {
            let args: Vec<_> = all.iter().map(String::as_str).collect();
            let environment: Vec<_> = environment
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str()))
                .collect();
            run("hookward", &args, &environment, "")
        })
        .await
    }

    async fn diagnose(&self, environment: &[(&str, &str)]) -> Found {
        Found::of(
            &self
                .run(&["diagnose", "--format", "json"], environment)
                .await,
        )
    }
}

#[tokio::test]
async fn the_table_is_for_people() {
    let joined = Joined::new(Plan::default()).await;
    let application = Application::start(|_| Reply::ok("")).await;
    let address = application.address.to_string();
    let ended = joined.run(&["diagnose", &address], &[]).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");

    let relay = &joined.credential.relay;
    let mut lines = ended.out.lines();
    assert_eq!(lines.next(), Some(relay.as_str()));

    for step in [
        "DNS",
        "UDP",
        QUIC,
        "TCP",
        "proxy",
        TLS,
        "credential",
        "clock",
    ] {
        let line = lines.next().unwrap();
        let outcome = if step == "proxy" { "-" } else { "ok" };
        assert!(
            line.starts_with(&format!("  {step:<20} {outcome:<7} ")),
            "{line}"
        );
    }

    assert_eq!(lines.next(), Some("Here"));
    assert!(
        lines
            .next()
            .unwrap()
            .starts_with("  application          ok "),
        "{}",
        ended.out
    );

    assert!(
        ended.out.ends_with("\nEverything is open."),
        "{}",
        ended.out
    );

    drop(application);
    let ended = joined.run(&["diagnose", &address], &[]).await;
    assert_eq!(ended.code, Some(1), "the application is down: {ended:?}");
    assert!(
        ended.out.contains("\n  application          FAILED "),
        "{}",
        ended.out
    );

    assert!(
        ended.out.ends_with("\nSomething is in the way; see above."),
        "{}",
        ended.out
    );
}

#[tokio::test]
async fn an_unresolvable_name() {
    let joined = Joined::new(Plan::default()).await;
    let relay = joined.by_name();
    let found = joined.diagnose(&[]).await;
    assert_eq!(found.code, Some(1));
    found.assert(&[
        ("DNS", "failed"),
        ("UDP", "skipped"),
        ("TCP", "skipped"),
        ("credential", "skipped"),
    ]);

    assert!(
        found.asks()[0].contains("DNS") && found.asks()[0].contains(&relay),
        "{}",
        found.report
    );
}

#[tokio::test]
async fn a_name_that_only_the_proxy_knows() {
    let joined = Joined::new(Plan::default()).await;
    let relay = joined.by_name();
    let knows: Option<(String, SocketAddr)> =
        Some((relay.clone(), joined.stage.relay().tunnel_address()));
    let plain = Proxy::of_kind(
        Ipv4Addr::LOCALHOST,
        Kind {
            knows: knows.clone(),
            ..Kind::default()
        },
    )
    .await;

    let secure = Proxy::of_kind(
        Ipv4Addr::LOCALHOST,
        Kind {
            knows,
            tls: true,
            ..Kind::default()
        },
    )
    .await;
    let trusting = secure.ca.to_str().unwrap();

    let url = format!("http://{}", plain.address);
    let secure_url = format!("https://localhost:{}", secure.address.port());

    for environment in [
        vec![("HTTPS_PROXY", url.as_str())],
        vec![("ALL_PROXY", &url)],
        vec![("HTTPS_PROXY", &secure_url), ("SSL_CERT_FILE", trusting)],
    ] {
        let found = joined.diagnose(&environment).await;
        assert_eq!(found.code, Some(0), "{environment:?}: {}", found.report);
        found.assert(&[
            ("DNS", "warning"),
            ("proxy", "ok"),
            (TLS, "ok"),
            ("credential", "ok"),
        ]);
        assert_eq!(found.asks(), Vec::<&str>::new());
    }

    assert!(
        secure
            .asked
            .lock()
            .unwrap()
            .iter()
            .all(|line| *line == format!("CONNECT {relay} HTTP/1.1"))
    );

    let found = joined.diagnose(&[("HTTPS_PROXY", &secure_url)]).await;
    assert_eq!(
        found.code,
        Some(1),
        "no authority issued its certificate: {}",
        found.report
    );
    found.assert(&[("proxy", "failed"), ("credential", "skipped")]);
    found.assert_says("proxy", "certificate");
}

#[tokio::test]
async fn a_proxy_that_is_out_of_order() {
    let joined = Joined::new(Plan::default()).await;
    let dead = format!("http://{}", free());
    let found = joined.diagnose(&[("HTTPS_PROXY", &dead)]).await;
    assert_eq!(found.code, Some(0), "QUIC goes straight: {}", found.report);
    found.assert(&[
        (QUIC, "ok"),
        ("TCP", "ok"),
        ("proxy", "warning"),
        (TLS, "warning"),
    ]);

    let mend = found.list("remedies");
    assert!(
        mend.len() == 1 && mend[0].contains("NO_PROXY") && mend[0].contains("HTTPS_PROXY"),
        "{}",
        found.report
    );

    assert_eq!(
        found.asks(),
        Vec::<&str>::new(),
        "no network team can help there"
    );
}

#[tokio::test]
async fn a_relay_that_does_not_run_and_another_one_that_does() {
    let joined = Joined::new(Plan::default()).await;
    let relay = free().to_string();
    joined.keep(Credential {
        relay: relay.clone(),
        ..joined.credential.clone()
    });

    let found = joined.diagnose(&[]).await;
    assert_eq!(found.code, Some(1));
    let mend = found.list("remedies");
    assert!(
        mend.len() == 1 && mend[0].contains(&format!("is the relay {relay} running")),
        "{}",
        found.report
    );
    assert_eq!(found.asks(), Vec::<&str>::new());

    let state = StateDir::open(Some(joined.state.path())).unwrap();
    state
        .keep_credential(joined.credential.clone(), false)
        .unwrap();

    let ended = joined.run(&["diagnose"], &[]).await;
    assert_eq!(ended.code, Some(1));
    let end = format!(
        "A tunnel can be opened to {}, and none to {relay}; see above.",
        joined.credential.relay
    );
    assert!(ended.out.ends_with(&end), "{}", ended.out);
}

#[tokio::test]
async fn before_there_is_a_relay() {
    let joined = Joined {
        state: TempDir::new().unwrap(),
        ..Joined::new(Plan::default()).await
    };
    let ended = joined.run(&["diagnose"], &[]).await;
    assert_eq!(ended.code, Some(2));
    assert!(
        ended.err.contains("hookward join") && !ended.err.contains("--local"),
        "{ended:?}"
    );
}

#[tokio::test]
async fn a_proxy_that_intercepts_tls_is_detected() {
    let joined = Joined::new(Plan::default()).await;
    // Most accept the protocols that the client names; some know only their own.
    for (alpn, says) in [
        (&b""[..], "its key differs"),
        (b"http/1.1", "is not a relay"),
    ] {
        let kind = Kind {
            intercepts: Some(alpn),
            ..Kind::default()
        };
        let proxy = Proxy::of_kind(Ipv4Addr::LOCALHOST, kind).await;
        let found = joined
            .diagnose(&[("HTTPS_PROXY", &format!("http://{}", proxy.address))])
            .await;

        // QUIC takes the direct path.
        assert_eq!(found.code, Some(0), "{}", found.report);
        found.assert(&[
            ("proxy", "ok"),
            (TLS, "failed"),
            (QUIC, "ok"),
            ("credential", "ok"),
        ]);
        found.assert_says(TLS, says);

        assert!(
            found
                .asks()
                .iter()
                .any(|ask| ask.contains("certificates of its own")),
            "{}",
            found.report
        );
    }
}

#[tokio::test]
async fn another_relay_at_the_same_address() {
    let (joined, other) = (
        Joined::new(Plan::default()).await,
        Joined::new(Plan::default()).await,
    );
    joined.keep(Credential {
        relay: other.credential.relay.clone(),
        ..joined.credential.clone()
    });

    let found = joined.diagnose(&[]).await;
    assert_eq!(found.code, Some(1));
    found.assert(&[
        ("UDP", "ok"),
        ("TCP", "ok"),
        (QUIC, "failed"),
        (TLS, "failed"),
        ("credential", "skipped"),
    ]);

    found.assert_says(QUIC, "its key differs");
    assert!(
        found.list("remedies")[0].contains("join it again"),
        "{}",
        found.report
    );
    assert_eq!(found.asks(), Vec::<&str>::new());
}

#[tokio::test]
async fn a_credential_that_was_withdrawn() {
    let joined = Joined::new(Plan::default()).await;
    let name = AgentName::parse(&joined.credential.agent).unwrap();
    assert!(
        joined
            .stage
            .relay()
            .store()
            .remove_agent(&name, Clock::System.now())
            .unwrap()
    );
    let found = joined.diagnose(&[]).await;
    assert_eq!(found.code, Some(1));
    found.assert(&[(QUIC, "ok"), (TLS, "ok"), ("credential", "failed")]);
}

#[tokio::test]
async fn clocks_that_differ() {
    let ahead = Clock::at(UnixMillis(Clock::System.now().0 + 3_600_000));
    let joined = Joined::new(Plan {
        clock: ahead,
        ..Plan::default()
    })
    .await;
    let found = joined.diagnose(&[]).await;
    assert_eq!(
        found.code,
        Some(0),
        "signatures with a time may fail, and the tunnel opens: {}",
        found.report
    );

    found.assert(&[("credential", "ok"), ("clock", "warning")]);
    let apart: u64 = found.steps()["clock"]
        .1
        .split(' ')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert!((3500..=3600).contains(&apart), "{apart}");
}

#[tokio::test]
async fn what_a_network_drops() {
    let Some(network) = Network::new(None) else {
        return;
    };
    let mut site = Site::start(network, |_| Vec::new()).await;
    drop(site.agent.take());

    let (state, application): (PathBuf, _) = (
        site.dirs[1].path().to_owned(),
        site.application.address.to_string(),
    );

    off(move || {
        let network = site.network;
        let args = [
            "diagnose",
            &application,
            "--format",
            "json",
            "--state-dir",
            state.to_str().unwrap(),
        ];

        let diagnose = |code: i32| {
            let found = Found::of(&network.run("hookward", &args, &[], ""));
            assert_eq!(found.code, Some(code), "{}", found.report);
            found
        };

        let relay = network.relay().to_string();
        let open = diagnose(0);

        for step in [
            "DNS",
            "UDP",
            QUIC,
            "TCP",
            TLS,
            "credential",
            "clock",
            "application",
        ] {
            open.assert(&[(step, "ok")]);
        }

        assert_eq!(open.asks(), Vec::<&str>::new());

        // Datagrams of QUIC version 1 (the second to fifth byte of a long header), and no others.
        network.drop_packets("meta l4proto udp @th,72,32 0x00000001");

        let inspected = diagnose(0);
        inspected.assert(&[
            ("UDP", "ok"),
            (QUIC, "warning"),
            (TLS, "ok"),
            ("credential", "ok"),
        ]);

        assert!(
            inspected.asks()[0].contains("inspects it"),
            "{}",
            inspected.report
        );

        network.drop_packets("meta l4proto udp");
        let blocked = diagnose(0);
        blocked.assert(&[("UDP", "warning"), (QUIC, "warning"), ("credential", "ok")]);
        assert!(
            blocked.asks()[0].contains("UDP") && blocked.asks()[0].contains(&relay),
            "{}",
            blocked.report
        );

        network.drop_packets("");
        let nothing = diagnose(1);
        nothing.assert(&[("TCP", "failed"), ("application", "ok")]);
        assert_eq!(nothing.asks().len(), 2, "{}", nothing.report);
    })
    .await;
}

/// Before an agent joins, the path to a relay can be tested by its address.
#[tokio::test]
async fn a_relay_is_tried_before_it_is_joined() {
    let stage = Stage::start((Ipv4Addr::LOCALHOST, 1).into(), Plan::default()).await;
    let diagnose = async |relay: String| {
        off(move || {
            let state = TempDir::new().unwrap();
            let args = [
                "diagnose",
                "--format",
                "json",
                "--relay",
                &relay,
                "--state-dir",
                state.path().to_str().unwrap(),
            ];

            run("hookward", &args, &[], "")
        })
        .await
    };
    let found = Found::of(&diagnose(stage.relay().tunnel_address().to_string()).await);

    assert_eq!(found.code, Some(0), "{}", found.report);
    found.assert(&[
        ("DNS", "ok"),
        ("UDP", "ok"),
        (QUIC, "ok"),
        ("credential", "skipped"),
    ]);
    found.assert_says("credential", "hookward join");

    let missed = Found::of(&diagnose(free().to_string()).await);
    assert_eq!(missed.code, Some(1), "{}", missed.report);

    for wrong in ["relay", "relay:0", "https://relay:443", ":443"] {
        assert_eq!(diagnose(wrong.to_owned()).await.code, Some(2), "{wrong}");
    }
}

/// A middlebox that terminates TLS knows no TLS 1.3, or not the tunnel's protocol; the error names
/// it instead of a TLS alert.
#[tokio::test]
async fn a_join_through_something_that_ends_tls_says_so() {
    use std::sync::Arc;

    use hookward_tunnel::join_token::JoinToken;
    use hookward_tunnel::transport::identity::{Pin, crypto_provider};
    use rustls::ServerConfig;
    use tokio_rustls::TlsAcceptor;

    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["localhost".to_owned()])
        .unwrap()
        .self_signed(&key)
        .unwrap();

    let config = ServerConfig::builder_with_provider(crypto_provider())
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            rustls_pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        )
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let relay = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = acceptor.accept(stream).await;
        }
    });

    let token = JoinToken {
        relay,
        pin: Pin::of_no_key(),
        secret: Secret::generate().unwrap(),
    }
    .to_text();

    let ended = off(move || {
        let state = TempDir::new().unwrap();
        let args = [
            "join",
            "-",
            "--transport",
            "tcp",
            "--state-dir",
            state.path().to_str().unwrap(),
        ];

        run("hookward", &args, &[], &token)
    })
    .await;

    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(
        ended.err.contains("opens TLS") && !ended.err.contains("ProtocolVersion"),
        "{ended:?}"
    );
}
