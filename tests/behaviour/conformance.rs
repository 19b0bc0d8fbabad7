//! HTTP/2 conformance (RFC 9113) by an independent suite: the relay does no worse than hyper alone.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::Command;

use hookward_core::clock::Clock;
use hookward_tests::application::{Application, Reply};
use hookward_tests::process::have;
use hookward_tests::sender::Edge;
use hookward_tests::stage::{Plan, Stage, roots};
use hookward_tests::upstream;
use hookward_tests::wait::within;
use tokio::io::copy_bidirectional;
use tokio::net::TcpListener;

use super::programs::off;

/// Maximum number of runs of the suite.
const RUNS: usize = 20;

/// Connects the suite, which speaks HTTP/2 in clear text, to a server that speaks it over TLS.
async fn wrapped(edge: Edge) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let edge = edge.clone();
            tokio::spawn(async move {
                if let Ok(mut tls) = edge.tls(b"h2", Some(&edge.host)).await {
                    let _ = copy_bidirectional(&mut stream, &mut tls).await;
                }
            });
        }
    });

    address
}

/// Returns the number of cases, and the failed ones.
async fn failures(address: SocketAddr) -> (usize, BTreeSet<String>) {
    let run = move || {
        Command::new("httpwg")
            .args(["-a", &address.to_string()])
            .output()
            .unwrap()
    };
    let ended = within("the suite", off(run)).await;
    let said = String::from_utf8_lossy(&ended.stdout).into_owned()
        + &String::from_utf8_lossy(&ended.stderr);

    let after = |mark: &'static str| {
        let said = &said;
        said.lines()
            .filter_map(move |line| line.split_once(mark))
            .map(|(_, rest)| rest.trim().to_owned())
    };
    let failed: BTreeSet<_> = after("Test failed: ").collect();

    // "Passed 88/107 tests", in colours.
    let counts = after("Passed ")
        .next()
        .unwrap_or_else(|| panic!("no end: {said}"));
    let count = counts
        .split_once('/')
        .unwrap()
        .1
        .split(|c: char| !c.is_ascii_digit())
        .next()
        .unwrap()
        .parse()
        .unwrap();

    (count, failed)
}

#[tokio::test]
async fn http2_is_no_worse_than_that_of_hyper_alone() {
    if !have("httpwg", "cargo install httpwg-cli --locked") {
        return;
    }

    let application = Application::start(|_| Reply::ok("done")).await;
    let stage = Stage::start(application.address, Plan::default()).await;
    let hyper_alone = upstream::over_tls(true).await;
    let (address, roots) = (hyper_alone.address, roots(&hyper_alone.ca));
    let hyper = wrapped(Edge {
        address,
        host: "localhost".to_owned(),
        roots,
        clock: Clock::System,
    })
    .await;

    let ours = wrapped(stage.edge.clone()).await;
    let (count, mut failed_by_hyper) = failures(hyper).await;
    let (_, mut failed_by_us) = failures(ours).await;
    assert!(count > 100, "{count}");

    // Some cases depend on whether the response is faster than the next frame, for both servers
    // alike; a case that passes once can pass.
    for _ in 1..RUNS {
        if failed_by_us.is_subset(&failed_by_hyper) {
            break;
        }
        failed_by_hyper.extend(failures(hyper).await.1);
        let of_ours = failures(ours).await.1;
        failed_by_us.retain(|case| of_ours.contains(case));
    }

    println!(
        "hyper alone fails {} of {count}: {failed_by_hyper:#?}",
        failed_by_hyper.len()
    );
    println!(
        "the relay fails {} of {count}: {failed_by_us:#?}",
        failed_by_us.len()
    );

    let only_ours: Vec<_> = failed_by_us.difference(&failed_by_hyper).collect();
    assert!(only_ours.is_empty(), "only the relay: {only_ours:#?}");
}
