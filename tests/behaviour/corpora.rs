//! Hostile requests of the corpora, each with its expected verdict, through a real relay and agent
//! to a recording application.

use hookward_core::address::parse_network;
use hookward_gate::policy::{Accept, Policy, Route};
use hookward_tests::application::{Application, Reply};
use hookward_tests::corpus::{Score, bytes, cases};
use hookward_tests::h2_frames::{self, Taken};
use hookward_tests::sender::{Answer, Edge};
use hookward_tests::stage::{PREFIX, Plan, Stage, clock_at, open_policy, policy, token};
use hookward_tests::wait::within;
use serde::Deserialize;

#[derive(Deserialize)]
struct PathCase {
    id: String,
    rule: String,
    target_b64: String,
    expect: String,
    level: String,
    also_ok: Option<String>,
    forward_as_b64: Option<String>,
    proto: Vec<String>,
}

/// Result of a request: the status of its response, if any, and the forwarded requests.
struct Outcome {
    status: Option<u16>,
    forwarded: Vec<String>,
}

impl PathCase {
    fn judge(&self, outcome: &Outcome) -> Result<(), String> {
        let denied = outcome.forwarded.is_empty()
            && outcome
                .status
                .is_none_or(|status| (400..500).contains(&status));
        let wanted = self
            .forward_as_b64
            .as_deref()
            .map(|text| String::from_utf8_lossy(&bytes(text)).into_owned());
        let passed = outcome.status == Some(200)
            && outcome.forwarded.len() == 1
            && wanted.is_none_or(|wanted| outcome.forwarded[0] == wanted);

        let fits = |verdict: &str| match verdict {
            "deny" => denied,
            "pass" => passed,
            // A fragment, which hyper drops.
            "pass_without_fragment" => {
                outcome.forwarded.len() == 1 && !outcome.forwarded[0].contains('#')
            }
            other => panic!("unknown verdict {other}"),
        };
        if fits(&self.expect) || self.also_ok.as_deref().is_some_and(fits) {
            return Ok(());
        }

        Err(format!(
            "expected {}, got {:?}, forwarded {:?}",
            self.expect, outcome.status, outcome.forwarded
        ))
    }
}

#[tokio::test]
async fn path_attacks() {
    let application = Application::start(|_| Reply::ok("")).await;
    let mut guarded = open_policy();
    guarded.routes[0].keep_token = true;
    guarded.routes[0].accept = vec![Accept {
        token: Some(token("s3cr3t-T0ken.~_42")),
        ..Accept::default()
    }];

    let open = Stage::start(application.address, Plan::default()).await;
    let guarded = Stage::start(
        application.address,
        Plan {
            policy: guarded,
            ..Plan::default()
        },
    )
    .await;

    let mut score = Score::default();
    for case in cases::<PathCase>("path_attacks_dev") {
        let stage = if case.rule == "path" { &open } else { &guarded };
        let target = bytes(&case.target_b64);

        for method in ["GET", "POST"] {
            for proto in &case.proto {
                let status = match proto.as_str() {
                    "h1" => over_http1(&stage.edge, method, &target).await,
                    "h2" => match h2_frames::request(&stage.edge, method, &target).await {
                        Taken::Status(status) => Some(status),
                        Taken::Cut => None,
                    },
                    other => panic!("unknown protocol {other}"),
                };

                let forwarded = application
                    .log
                    .take()
                    .into_iter()
                    .map(|request| request.target)
                    .collect();
                let outcome = case.judge(&Outcome { status, forwarded });

                score.note(
                    &format!("{} {proto} {method}", case.id),
                    &case.level,
                    outcome,
                );
            }
        }
    }

    score.finish("path attacks");
}

async fn over_http1(edge: &Edge, method: &str, target: &[u8]) -> Option<u16> {
    let mut connection = edge.http1().await;
    let mut bytes = format!("{method} ").into_bytes();
    bytes.extend(target);
    bytes.extend(
        format!(
            " HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
            edge.host
        )
        .as_bytes(),
    );

    connection.raw(&bytes).await;
    connection
        .try_answer(method)
        .await
        .map(|answer| answer.status)
}

#[derive(Deserialize)]
struct SmugglingCase {
    id: String,
    raw_b64: String,
    expect: String,
    level: String,
    also_ok: Option<String>,
    #[serde(default)]
    origin_requests: usize,
    max_origin_requests: usize,
    origin_body_b64: Option<String>,
    #[serde(default)]
    must_close: bool,
}

impl SmugglingCase {
    fn judge(
        &self,
        targets: &[String],
        bodies: &[Vec<u8>],
        statuses: &[u16],
        closed: bool,
    ) -> Result<(), String> {
        if let Some(target) = targets.iter().find(|target| target.contains("smuggled")) {
            return Err(format!("smuggled {target}"));
        }

        let refused = statuses.last().is_none_or(|status| *status >= 400);
        let most = if self.also_ok.is_some() {
            self.max_origin_requests
        } else {
            0
        };
        let reject = targets.len() <= most && refused && (closed || !self.must_close);
        let body_fits = self
            .origin_body_b64
            .as_ref()
            .is_none_or(|text| bodies.first() == Some(&bytes(text)));

        let fits = |verdict: &str| match verdict {
            "forward" => targets.len() == self.origin_requests && body_fits,
            "reject" => reject,
            "forward_one" => targets.len() == 1,
            "forward_one_by_te_then_close" => targets.len() == 1 && closed,
            "hang_until_header_timeout" => targets.is_empty() && closed,
            other => panic!("unknown verdict {other}"),
        };
        if fits(&self.expect) || self.also_ok.as_deref().is_some_and(fits) {
            return Ok(());
        }

        Err(format!(
            "expected {}, forwarded {targets:?}, answered {statuses:?}, closed {closed}",
            self.expect
        ))
    }
}

#[tokio::test]
async fn smuggling() {
    let application = Application::start(|_| Reply::ok("")).await;
    let mut plan = Plan::default();
    // The relay's own deadlines, only shorter, because silence is a verdict, too.
    plan.limits.request_head_timeout = std::time::Duration::from_millis(300);
    plan.limits.body_rate_window = std::time::Duration::from_millis(300);

    let stage = Stage::start(application.address, plan).await;
    let mut score = Score::default();

    for case in cases::<SmugglingCase>("smuggling_dev") {
        let raw = bytes(&case.raw_b64);
        let mut connection = stage.edge.http1().await;
        connection.raw(&raw).await;

        // The relay closes at once, with its response (which then says so), or after its deadline
        // for a next head.
        let mut statuses = Vec::new();
        let mut closes = true;

        while let Some(answer) = within(&case.id, connection.try_answer("POST")).await {
            statuses.push(answer.status);
            closes = answer.header("connection") == Some("close");
        }

        let received = application.log.take();
        let targets: Vec<_> = received
            .iter()
            .map(|request| request.target.clone())
            .collect();
        let bodies: Vec<_> = received
            .iter()
            .map(|request| request.body.clone())
            .collect();

        score.note(
            &case.id,
            &case.level,
            case.judge(&targets, &bodies, &statuses, closes),
        );
    }

    score.finish("smuggling");
}

#[derive(Deserialize)]
struct AddressCase {
    id: String,
    group: String,
    expect: String,
    peer: String,
    allow: Vec<String>,
    deny: Vec<String>,
    trusted_proxies: Vec<String>,
    headers: Vec<(String, String)>,
    level: String,
}

/// This machine cannot have the peer of a case. So the test's own address is a trusted proxy that
/// reports the peer as its last hop, and the relay evaluates the rest of the chain as if the peer
/// had connected.
#[tokio::test]
async fn address_attacks() {
    let application = Application::start(|_| Reply::ok("")).await;
    let mut score = Score::default();
    for case in cases::<AddressCase>("ip_attacks_dev") {
        let outcome = judge_address(&case, &application).await;
        score.note(&case.id, &case.level, outcome);
    }
    score.finish("address attacks");
}

async fn judge_address(case: &AddressCase, application: &Application) -> Result<(), String> {
    let parse = |texts: &[String]| {
        texts
            .iter()
            .map(|text| parse_network(text))
            .collect::<Result<Vec<_>, _>>()
    };

    let (allow, deny) = match (parse(&case.allow), parse(&case.deny)) {
        (Ok(allow), Ok(deny)) => (allow, deny),
        _ if case.expect.starts_with("refuse") => return Ok(()),
        (allow, deny) => return Err(format!("refused {allow:?} {deny:?}")),
    };

    let mut route = Route::new("test", vec![format!("{PREFIX}/**")]);
    let open = allow.is_empty() && case.group != "rule-parsing";
    route.deny_ips = deny.into();
    route.accept.push(Accept {
        open,
        allow_ips: (!open).then_some(allow.into()),
        ..Accept::default()
    });

    let policy = Policy::new(vec![route]);
    // A whole family is no check, so real rules have a token beside it; here the rule is open.
    let whole_family = case.allow.iter().any(|text| text.ends_with("/0"));
    let mut policy = policy;
    policy.routes[0].accept[0].open |= whole_family;

    let mistakes = policy.errors(hookward_core::clock::Clock::System.now());
    if !mistakes.is_empty() {
        let refusing = case.expect.contains("refuse");
        return if refusing {
            Ok(())
        } else {
            Err(format!("{mistakes:?}"))
        };
    }

    let mut trusted = parse(&case.trusted_proxies)?;
    trusted.push("127.0.0.1/32".parse().unwrap());
    let stage = Stage::start(
        application.address,
        Plan {
            policy,
            trusted_proxies: trusted,
            ..Plan::default()
        },
    )
    .await;

    let mut headers: Vec<(&str, &str)> = case
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    headers.push(("X-Forwarded-For", &case.peer));

    let answer = stage.edge.request("GET", PREFIX, &headers, b"").await;
    let forwarded = application.log.take().len();
    let (allowed, denied) = (
        forwarded == 1 && answer.status == 200,
        forwarded == 0 && answer.status < 500,
    );

    let fits = match case.expect.as_str() {
        "allow" => allowed,
        "deny" => denied,
        // Accepted as another, unambiguous rule, which must not allow this peer by accident.
        other if other.starts_with("accept") => allowed || denied,
        other if other.contains("refuse") => denied && other.contains("canonicalise"),
        other => panic!("unknown verdict {other}"),
    };

    if fits {
        Ok(())
    } else {
        Err(format!(
            "expected {}, got {} with {forwarded} forwarded",
            case.expect, answer.status
        ))
    }
}

#[derive(Deserialize)]
struct HeaderCase {
    id: String,
    group: String,
    request_headers: Vec<(String, String)>,
    origin_must_have: Vec<(String, String)>,
    origin_must_not_have: Vec<String>,
    level: String,
    expect: String,
}

#[tokio::test]
async fn header_attacks() {
    let application = Application::start(|_| Reply::ok("")).await;
    let stage = Stage::start(application.address, Plan::default()).await;
    let mut score = Score::default();

    for case in cases::<HeaderCase>("header_attacks_dev") {
        if case.group == "inspector" {
            continue;
        }

        // The corpus writes our header prefix as `X-Relay`.
        let ours = |text: &str| match case.group.as_str() {
            "own-headers" => text
                .replace("X-Relay", "hookward")
                .replace("X_Relay", "hookward")
                .replace("x-relay", "hookward"),
            _ => text.to_owned(),
        };

        let mut text = format!("POST {PREFIX}/t HTTP/1.1\r\n");
        if !(case.group == "duplicates"
            && case.request_headers.iter().any(|(name, _)| name == "Host"))
        {
            text.push_str(&format!("Host: {}\r\n", stage.edge.host));
        }

        for (name, value) in &case.request_headers {
            text.push_str(&format!("{}: {value}\r\n", ours(name)));
        }

        text.push_str("Content-Length: 0\r\n\r\n");
        let mut connection = stage.edge.http1().await;
        connection.raw(text.as_bytes()).await;

        let answer = connection.answer("POST").await;
        score.note(
            &case.id,
            &case.level,
            judge_header(&case, &answer, &application, ours),
        );
    }

    score.finish("header attacks");
}

fn judge_header(
    case: &HeaderCase,
    answer: &Answer,
    application: &Application,
    ours: impl Fn(&str) -> String,
) -> Result<(), String> {
    let received = application.log.take();
    if answer.status == 400 && received.is_empty() {
        return Ok(());
    }

    if case.expect == "400" || answer.status != 200 || received.len() != 1 {
        return Err(format!(
            "expected {}, got {} with {} forwarded",
            case.expect,
            answer.status,
            received.len()
        ));
    }

    let request = &received[0];
    for (name, value) in &case.origin_must_have {
        let value = if value == "<socket peer>" {
            "127.0.0.1"
        } else {
            value
        };
        if request.all(name) != [value] {
            return Err(format!("{name} is {:?}", request.all(name)));
        }
    }

    for forbidden in &case.origin_must_not_have {
        let forbidden = ours(forbidden);
        let (name, value) = forbidden
            .split_once(':')
            .map_or((forbidden.as_str(), None), |(n, v)| (n, Some(v.trim())));
        let found = request.all(name);
        if value.map_or(!found.is_empty(), |value| found.contains(&value)) {
            return Err(format!("{name} reached the application: {found:?}"));
        }
    }

    Ok(())
}

#[derive(Deserialize)]
struct SignatureCase {
    id: String,
    group: String,
    expect: String,
    level: String,
    headers: Vec<(String, String)>,
    body_b64: String,
    secrets_b64: Vec<String>,
    now: u64,
}

#[tokio::test]
async fn signature_attacks() {
    let application = Application::start(|_| Reply::ok("")).await;
    let mut score = Score::default();

    for case in cases::<SignatureCase>("signature_attacks_dev") {
        // replay.rs covers replay, with several requests.
        if hookward_gate::providers::find(&case.group).is_none() {
            continue;
        }
        let outcome = judge_signature(&case, &application).await;
        score.note(&case.id, &case.level, outcome);
    }

    score.finish("signature attacks");
}

async fn judge_signature(case: &SignatureCase, application: &Application) -> Result<(), String> {
    let dir = tempfile::TempDir::new().unwrap();
    let mut sources = Vec::new();

    for (index, secret) in case.secrets_b64.iter().enumerate() {
        let path = dir.path().join(index.to_string());
        // A Standard Webhooks secret is written as its base64.
        let secret = if case.group == "standard-webhooks" {
            secret.clone().into_bytes()
        } else {
            bytes(secret)
        };
        std::fs::write(&path, secret).unwrap();
        sources.push(format!("'file:{}'", path.display()));
    }

    let text = format!(
        "[[route]]\npath = '{PREFIX}/**'\n[[route.accept]]\nverify = {{ provider = '{}', secrets = [{}] }}",
        case.group,
        sources.join(", "),
    );
    let clock = clock_at(case.now);

    let loaded = hookward_gate::policy::file::read(
        "p",
        &text,
        &hookward_runtime::secrets::ProcessSecrets,
        clock.now(),
    );
    let policy = match loaded {
        Ok(loaded) => loaded.policy,
        // No secret, or an empty one: refused before the start.
        Err(_) if case.expect == "reject" => return Ok(()),
        Err(problems) => return Err(problems.to_string()),
    };

    let stage = Stage::start(
        application.address,
        Plan {
            policy,
            clock,
            ..Plan::default()
        },
    )
    .await;

    let headers: Vec<_> = case
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();

    let answer = stage
        .edge
        .post(
            &format!("{PREFIX}/github"),
            &headers,
            &bytes(&case.body_b64),
        )
        .await;
    let received = application.log.take();

    let fits = match case.expect.as_str() {
        "accept" => {
            answer.status == 200 && received.len() == 1 && received[0].body == bytes(&case.body_b64)
        }
        // 400: the bytes are not HTTP, such as a NUL in a value.
        _ => received.is_empty() && [400, 401, 403].contains(&answer.status),
    };

    if fits {
        Ok(())
    } else {
        Err(format!(
            "expected {}, got {} with {} forwarded",
            case.expect,
            answer.status,
            received.len()
        ))
    }
}

#[derive(Deserialize)]
struct Vectors {
    vectors: Vec<Vector>,
}

#[derive(Deserialize)]
pub(super) struct Vector {
    pub(super) id: String,
    pub(super) provider: String,
    /// Variant of the provider, if it is not the default.
    #[serde(default)]
    pub(super) variant: Option<String>,
    pub(super) method: String,
    /// Public URL as registered at the provider.
    #[serde(default)]
    pub(super) url: Option<String>,
    /// Request target.
    #[serde(default)]
    pub(super) path: Option<String>,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body_b64: String,
    secret: serde_json::Value,
    pub(super) now: u64,
    pub(super) expect: String,
}

/// Requests from the providers' own documentation, each at its own time.
#[tokio::test]
async fn published_vectors() {
    let score = judge_vectors("dev_vectors").await;
    assert_eq!(score.cases, 15, "all of them");
    score.finish("published vectors");
}

/// Requests of every provider of the catalog, signed by another program (`scripts/make-vectors`).
#[tokio::test]
async fn made_vectors() {
    let score = judge_vectors("made").await;
    assert!(
        score.cases >= 4 * hookward_gate::providers::all().len(),
        "every provider has its vectors"
    );
    score.finish("made vectors");
}

/// Returns the vectors of a file.
pub(super) fn vectors(file: &str) -> Vec<Vector> {
    let text = std::fs::read_to_string(hookward_tests::corpus::fixture(&format!(
        "vectors/{file}.json"
    )))
    .unwrap();
    serde_json::from_str::<Vectors>(&text).unwrap().vectors
}

async fn judge_vectors(file: &str) -> Score {
    let application = Application::start(|_| Reply::ok("")).await;
    let mut score = Score::default();
    // One stage serves all vectors of a provider with the same time.
    let mut last = None;

    for vector in vectors(file) {
        assert!(
            hookward_gate::providers::find(&vector.provider).is_some(),
            "{}",
            vector.provider
        );

        let key = (
            vector.provider.clone(),
            vector.variant.clone(),
            vector.secret(),
            vector.origin(),
            vector.now,
        );
        let stage = match last.take() {
            Some((of, stage)) if of == key => stage,
            _ => stage_for(&application, &vector).await,
        };

        let headers: Vec<_> = vector
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        let target = vector.path.as_deref().unwrap_or(PREFIX);
        let answer = stage
            .edge
            .request(&vector.method, target, &headers, &bytes(&vector.body_b64))
            .await;
        let accepted = answer.status == 200 && application.log.take().len() == 1;
        let outcome = if accepted == (vector.expect == "accept") {
            Ok(())
        } else {
            let why = stage
                .reports
                .lock()
                .unwrap()
                .last()
                .map(|report| hookward_agent::event_text(report, false));

            Err(format!(
                "{}: expected {}, got {}: {why:?}",
                vector.provider, vector.expect, answer.status
            ))
        };
        score.note(&vector.id, "must", outcome);

        last = Some((key, stage));
    }

    score
}

impl Vector {
    /// Returns the secret's text; several parts form a JSON object.
    pub(super) fn secret(&self) -> String {
        match &self.secret {
            serde_json::Value::String(text) => text.clone(),
            object => object.to_string(),
        }
    }

    /// Returns the origin of the URL.
    fn origin(&self) -> Option<String> {
        let url = self.url.as_deref()?;
        Some(url.strip_suffix(self.path.as_deref()?).unwrap().to_owned())
    }
}

/// Returns a stage whose only route verifies the vector's provider, at the vector's time.
async fn stage_for(application: &Application, vector: &Vector) -> Stage {
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("secret");
    std::fs::write(&path, vector.secret()).unwrap();

    let row = hookward_gate::providers::find(&vector.provider).unwrap();
    let schemes = row.pinned(vector.variant.as_deref()).unwrap();
    let signs_url = schemes
        .iter()
        .any(hookward_gate::providers::Scheme::signs_url);

    let origin = vector
        .origin()
        .filter(|_| signs_url)
        .map(|origin| format!(", origin = '{origin}'"))
        .unwrap_or_default();

    let variant = vector
        .variant
        .as_ref()
        .map(|name| format!(", variant = '{name}'"))
        .unwrap_or_default();
    let policy = policy(&format!(
        "[[route]]\npath = '/**'\n[[route.accept]]\nverify = {{ provider = '{}', secret = 'file:{}'{variant}{origin} }}",
        vector.provider,
        path.display(),
    ));

    Stage::start(
        application.address,
        Plan {
            policy,
            clock: clock_at(vector.now),
            ..Plan::default()
        },
    )
    .await
}
