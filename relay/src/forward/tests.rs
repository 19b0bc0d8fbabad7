//! State that requests share must not assume one runtime: the relay will use every core.

use std::sync::mpsc::channel;

use bytes::Bytes;
use hookward_core::clock::Moment;
use hookward_core::fetched_keys::FetchedKeys;
use hookward_core::names::HostName;
use hookward_gate::engine::{Decision, Evaluation, HeadVerdict, RequestHead};
use hookward_runtime::body_memory::BodyMemory;
use hookward_tunnel::protocol::head::{ExchangeResponse, HeaderCase, RequestId, RequestMeta};
use http::{HeaderMap, Method};
use http_body_util::BodyExt as _;
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::edge::state::{ConnectionContext, EdgeState};
use crate::observe::Observer;
use crate::sessions::context::SessionContext;
use crate::sessions::session::tests::{AgentEnd, SessionStage};
use crate::storage::Store;
use crate::storage::deliveries::DeliveryStore;

const HOST: &str = "jira.hooks.example.com";

const fn is_shared<T: Send + Sync>() {}

/// Compiles only while all shared state may be used from every thread.
const _: () = {
    is_shared::<EdgeState>();
    is_shared::<ConnectionContext>();
    is_shared::<SessionContext>();
    is_shared::<ActiveSession>();
    is_shared::<Registry>();
    is_shared::<Store>();
    is_shared::<DeliveryStore>();
    is_shared::<Observer>();
};

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Answers every exchange with the name of this runtime's side.
async fn answer(agent: &AgentEnd) {
    while let Ok((writer, mut reader)) = agent.session.accept().await {
        reader.head().await.unwrap();
        let response = ExchangeResponse {
            status: StatusCode::OK,
            length: Some(5),
            headers: HeaderMap::new(),
        };
        let head = response.encode(|_| true);
        writer
            .whole(&head, Bytes::from_static(b"there"))
            .await
            .unwrap();
    }
}

fn request() -> ExchangeRequest {
    ExchangeRequest {
        meta: RequestMeta {
            id: RequestId([7; 16]),
            host: Bytes::from_static(HOST.as_bytes()),
            client: [192, 0, 2, 1].into(),
            keys: FetchedKeys::default(),
            delivery: None,
            timing: None,
        },
        method: Method::POST,
        target: Bytes::from_static(b"/hooks"),
        length: Some(2),
        trailers: false,
        upgrade: false,
        headers: HeaderMap::new(),
        header_case: HeaderCase::default(),
    }
}

/// Permits the request by the tunnel's gate, and forwards it.
async fn forward_one(registry: &Registry, limits: &Limits) -> Bytes {
    let request = request();
    let tunnel = registry
        .arrival(HOST, limits.reconnect_wait, |_| true)
        .await
        .unwrap();
    let head = RequestHead {
        method: &request.method,
        target: &request.target,
        headers: &request.headers,
        origin: &tunnel.origin,
    };
    let evaluation = Evaluation::new(request.meta.client, Moment::default(), &tunnel.state);
    let Ok(HeadVerdict::Decided(Decision::Forward(permit))) =
        tunnel.gate.unwrap().check_head(head, evaluation)
    else {
        panic!("not permitted")
    };

    let charge = BodyMemory::new(1024).begin(request.meta.client);
    let body = RequestBody::Buffered(Bytes::from_static(b"{}"), charge);
    let destination = Destination {
        host: HOST,
        owner: tunnel.owner.unwrap(),
    };
    let forwarded = forward(permit, registry, destination, &request, body, limits).await;
    let response = forwarded.unwrap().into_response();
    response.into_body().collect().await.unwrap().to_bytes()
}

#[test]
fn a_session_of_one_runtime_serves_requests_of_another() {
    let (send_registry, receive_registry) = channel();
    let ended = CancellationToken::new();
    let stop = ended.clone();

    let sessions = std::thread::spawn(move || {
        runtime().block_on(async {
            let stage = SessionStage::new();
            send_registry
                .send((stage.context.registry.clone(), stage.context.limits.clone()))
                .unwrap();
            let (mut session, agent) = stage.session("a").await;
            session.open_host("jira").await;
            tokio::select! {
                () = answer(&agent) => {}
                () = stop.cancelled() => {}
            }
        });
    });

    let (registry, limits) = receive_registry.recv().unwrap();
    registry.replace_known_hosts([(HostName::parse(HOST).unwrap(), None)].into());
    let requests: Vec<_> = (0..2)
        .map(|_| {
            let (registry, limits) = (registry.clone(), limits.clone());
            std::thread::spawn(move || {
                runtime().block_on(async {
                    for _ in 0..20 {
                        assert_eq!(forward_one(&registry, &limits).await, "there");
                    }
                });
            })
        })
        .collect();
    for thread in requests {
        thread.join().unwrap();
    }

    ended.cancel();
    sessions.join().unwrap();
}
