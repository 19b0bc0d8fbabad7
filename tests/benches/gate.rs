//! Cost of the gate: nanoseconds for each check, and the signature's throughput beside the bare
//! `hmac` crate with the same bytes.
//!
//!     cargo bench -p hookward-tests --bench gate

use std::hint::black_box;
use std::net::IpAddr;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use hmac::{Hmac, KeyInit, Mac};
use hookward_core::address::AddressSet;
use hookward_core::clock::UnixMillis;
use hookward_core::fetched_keys::FetchedKeys;
use hookward_core::json::JsonPath;
use hookward_core::path::PathPattern;
use hookward_core::secret::{Secret, SecretDigest};
use hookward_core::syntax::EscapedSlashes;
use hookward_gate::engine::{
    Evaluation, Gate, GateState, HeadVerdict, RequestHead, Side, syntax, token,
};
use hookward_gate::policy::{Policy, TokenCheck, TokenLocation, file};
use hookward_gate::providers::{SecretShape, SignatureVerifier};
use hookward_gate::request::Request;
use hookward_runtime::secrets::ProcessSecrets;
use hookward_tests::sender::github_signature;
use http::{HeaderMap, Method};
use ipnet::{IpNet, Ipv4Net};
use sha2::Sha256;

const NOW: UnixMillis = UnixMillis(1_700_000_000_000);
const KEY: &str = "a key of the usual length, thirty";
const TARGET: &[u8] = b"/flexdeploy/webhooks/v1/git?token=t0ken&run=7";
const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7));

/// Returns a GitHub push of about this size.
fn body(bytes: usize) -> Vec<u8> {
    let mut body = br#"{"ref":"refs/heads/main","commits":[""#.to_vec();
    body.resize(bytes.saturating_sub(3).max(body.len()), b'x');
    body.extend(b"\"]}");
    body
}

fn headers(body: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(
        "x-hub-signature-256",
        github_signature(KEY, body).parse().unwrap(),
    );
    headers.insert("x-github-event", "push".parse().unwrap());
    headers.insert("content-type", "application/json".parse().unwrap());
    headers.insert("user-agent", "GitHub-Hookshot/0000000".parse().unwrap());

    headers
}

/// Returns a policy with all four protections.
fn policy() -> Policy {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("key"), KEY).unwrap();
    std::fs::write(dir.path().join("token"), "t0ken").unwrap();

    let text = format!(
        "[[route]]\npath = '/flexdeploy/webhooks/v1/**'\nmethods = ['POST']\n[[route.accept]]\n\
         allow_ips = ['192.0.2.0/24']\ntoken = 'file:{0}/token'\nverify = {{ provider = 'github', secret = 'file:{0}/key' }}",
        dir.path().display(),
    );
    match file::read("bench", &text, &ProcessSecrets, NOW) {
        Ok(loaded) => loaded.policy,
        Err(problems) => panic!("{problems}"),
    }
}

fn single_checks(c: &mut Criterion) {
    let mut group = c.benchmark_group("check");
    let headers = headers(b"{}");
    group.bench_function("syntax", |b| {
        b.iter(|| {
            syntax::check(
                black_box(TARGET),
                black_box(&headers),
                EscapedSlashes::Refused,
            )
        })
    });

    let path = PathPattern::parse("/flexdeploy/webhooks/v1/**").unwrap();
    group.bench_function("path", |b| {
        b.iter(|| path.matches(black_box(b"/flexdeploy/webhooks/v1/git"), false))
    });

    for count in [10_u32, 10_000] {
        // Every second range, so that none merges with its neighbour.
        let range = |n: u32| IpNet::V4(Ipv4Net::new((0x0a00_0000 + n * 512).into(), 24).unwrap());
        let set = AddressSet::new(&(0..count).map(range).collect::<Vec<_>>());
        let address = IpAddr::V4((0x0a00_0000 + count / 3 * 512 + 5).into());
        assert!(set.contains(address));

        group.bench_with_input(
            BenchmarkId::new("address, ranges", count),
            &set,
            |b, set| {
                b.iter(|| set.contains(black_box(address)));
            },
        );
    }

    let check = TokenCheck::new(
        TokenLocation::parse("token").unwrap(),
        &[("env:TOKEN", SecretDigest::of(b"t0ken"))],
    );

    group.bench_function("token", |b| {
        b.iter(|| token::check(&check, black_box(TARGET), &headers).is_ok())
    });

    let (rule, document) = (JsonPath::parse("ref").unwrap(), body(8192));
    group.bench_function("body rule, 8 KiB", |b| {
        b.iter(|| rule.single(black_box(&document)))
    });
    group.finish();
}

fn signature(c: &mut Criterion) {
    let mut group = c.benchmark_group("signature");
    let schemes = hookward_gate::policy::SignatureCheck::by("github")
        .schemes()
        .unwrap();
    let secrets = [Secret::new(KEY.as_bytes().to_vec()).unwrap()];
    let keyed = SignatureVerifier::new(&schemes, &SecretShape::default(), &secrets, None).unwrap();
    let none = FetchedKeys::default();
    let bare = Hmac::<Sha256>::new_from_slice(KEY.as_bytes()).unwrap();

    for size in [256, 8192, 1 << 20] {
        let body = body(size);
        let headers = headers(&body);
        let head = RequestHead {
            method: &Method::POST,
            target: TARGET,
            headers: &headers,
            origin: "https://h.test",
        };

        let digest = data_encoding::HEXLOWER
            .decode(&github_signature(KEY, &body).as_bytes()[7..])
            .unwrap();
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_with_input(BenchmarkId::new("gate", size), &body, |b, body| {
            b.iter(|| {
                keyed
                    .verify(&Request::new(head, black_box(body)), &none, NOW)
                    .is_ok()
            });
        });

        group.bench_with_input(BenchmarkId::new("bare hmac", size), &body, |b, body| {
            b.iter(|| {
                let mut mac = bare.clone();
                mac.update(black_box(body));
                mac.verify_slice(&digest).is_ok()
            });
        });
    }

    group.finish();
}

fn whole(c: &mut Criterion) {
    let mut group = c.benchmark_group("whole gate");
    let gate = Arc::new(Gate::compile(&policy(), Side::Relay, NOW).unwrap());
    let state = GateState::default();

    for size in [256, 8192] {
        let body = body(size);
        let headers = headers(&body);
        let head = RequestHead {
            method: &Method::POST,
            target: TARGET,
            headers: &headers,
            origin: "https://h.test",
        };

        group.bench_with_input(BenchmarkId::new("allowed", size), &body, |b, body| {
            b.iter(
                || match gate.check_head(head, Evaluation::new(CLIENT, NOW, &state)) {
                    Ok(HeadVerdict::ReadBody(pending)) => pending
                        .check_body(head, body, Evaluation::new(CLIENT, NOW, &state))
                        .is_ok(),
                    _ => panic!("it needs the body"),
                },
            );
        });
    }

    let (headers, stranger) = (headers(b""), IpAddr::from([198, 51, 100, 1]));
    let head = RequestHead {
        method: &Method::POST,
        target: TARGET,
        headers: &headers,
        origin: "https://h.test",
    };

    group.bench_function("refused by address", |b| {
        b.iter(|| {
            gate.check_head(head, Evaluation::new(stranger, NOW, &state))
                .is_err()
        })
    });
    group.finish();
}

criterion_group!(benches, single_checks, signature, whole);
criterion_main!(benches);
