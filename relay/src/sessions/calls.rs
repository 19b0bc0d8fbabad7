//! Calls of an agent to the relay's API. An agent sees and changes its own deliveries only.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hookward_tunnel::protocol::control::RelayMessage;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::delivery::Requester;

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
            let detail = "too many calls of this agent are in progress";
            return Some(called(id, failure(StatusCode::TOO_MANY_REQUESTS, detail)));
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
                    Err(error) => failure(StatusCode::BAD_REQUEST, &error.to_string()),
                }
            };
            let slow = |_| failure(StatusCode::GATEWAY_TIMEOUT, "the store takes too long");
            let answer = timeout(CALL_TIMEOUT, answering).await;
            called(id, answer.unwrap_or_else(slow))
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
    match Limited::new(body, ANSWER_BYTES).collect().await {
        Ok(body) => {
            let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
            (parts.status, body)
        }
        Err(_) => {
            let detail = "the answer is too large: request fewer deliveries";
            failure(StatusCode::PAYLOAD_TOO_LARGE, detail)
        }
    }
}

fn failure(status: StatusCode, detail: &str) -> (StatusCode, String) {
    (status, json!({ "detail": detail }).to_string())
}

fn called(id: u64, (status, body): (StatusCode, String)) -> RelayMessage {
    RelayMessage::Called {
        id,
        status: status.as_u16(),
        body,
    }
}

/// Maximum number of calls of one session at the same time. An agent has few sessions, and the store
/// answers few queries at once.
const MAX_CALLS: usize = 2;

/// Maximum size of an answer, in bytes: it shares the control stream with other messages.
const ANSWER_BYTES: usize = 512 * 1024;

/// Maximum time of a call: a query of the store takes up to 7 s, and the agent waits for 9 s.
const CALL_TIMEOUT: Duration = Duration::from_secs(8);
