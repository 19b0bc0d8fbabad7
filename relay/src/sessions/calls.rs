//! Calls of an agent to the relay's API. An agent sees and changes its own deliveries only.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hookward_observe::api::access::problem;
use hookward_tunnel::protocol::control::RelayMessage;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::admin::deliveries::Requester;

/// Calls of one session that are in progress. They end with the session.
pub(super) struct Calls {
    router: Router,
    requester: Requester,
    running: JoinSet<RelayMessage>,
}

impl Calls {
    pub(super) fn new(router: Router, requester: Requester) -> Self {
        Self {
            router,
            requester,
            running: JoinSet::new(),
        }
    }

    /// Begins a call. Returns the answer if there are too many.
    pub(super) fn begin(&mut self, id: u64, method: &str, path: &str) -> Option<RelayMessage> {
        if self.running.len() >= MAX_CALLS {
            let body = r#"{"detail": "too many calls of this agent are in progress"}"#;
            return Some(called(id, StatusCode::TOO_MANY_REQUESTS, body.to_owned()));
        }

        let request = Request::builder()
            .method(method)
            .uri(path)
            .extension(self.requester.clone())
            .body(Body::empty());
        let router = self.router.clone();
        self.running.spawn(async move {
            let answering = async {
                match request {
                    Ok(request) => answer(router, request).await,
                    Err(error) => (StatusCode::BAD_REQUEST, error.to_string()),
                }
            };
            let slow = |_| (StatusCode::GATEWAY_TIMEOUT, String::new());
            let (status, body) = timeout(CALL_TIMEOUT, answering).await.unwrap_or_else(slow);
            called(id, status, body)
        });
        None
    }

    /// Waits for the next answer; without calls, for ever. Cancel-safe.
    pub(super) async fn next(&mut self) -> RelayMessage {
        loop {
            match self.running.join_next().await {
                Some(Ok(message)) => return message,
                Some(Err(error)) => tracing::error!(%error, "a call of an agent has failed"),
                None => std::future::pending().await,
            }
        }
    }
}

async fn answer(router: Router, request: Request<Body>) -> (StatusCode, String) {
    let response = match TowerToHyperService::new(router).call(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    };
    let (parts, body) = response.into_parts();
    let (status, body) = match Limited::new(body, ANSWER_BYTES).collect().await {
        Ok(body) => (parts.status, body.to_bytes()),
        Err(_) => {
            let detail = "the answer is too large: request fewer deliveries";
            let response = problem(StatusCode::PAYLOAD_TOO_LARGE, detail);
            let body = response.into_body().collect().await;
            let body = body.map(|body| body.to_bytes()).unwrap_or_default();
            (StatusCode::PAYLOAD_TOO_LARGE, body)
        }
    };
    (status, String::from_utf8_lossy(&body).into_owned())
}

fn called(id: u64, status: StatusCode, body: String) -> RelayMessage {
    RelayMessage::Called {
        id,
        status: status.as_u16(),
        body,
    }
}

/// Maximum number of calls of one session at the same time.
const MAX_CALLS: usize = 4;

/// Maximum size of an answer, in bytes: half of a control message, because JSON escapes it.
const ANSWER_BYTES: usize = 2 * 1024 * 1024;

/// Maximum time of a call: a query of the store has 10 s.
const CALL_TIMEOUT: Duration = Duration::from_secs(12);
