//! Stored webhooks of the agent's tunnels: the same methods as in the relay's API, which answers them.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Extension, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use hookward_observe::api::access::{Caller, problem};
use hookward_observe::audit::Actor;
use serde_json::json;
use uuid::Uuid;

use super::status::AgentView;

/// Returns the routes, for the paths that the relay lets an agent call.
pub(super) fn router<S>() -> Router<S>
where
    S: Clone + Send + Sync + 'static,
    Arc<AgentView>: axum::extract::FromRef<S>,
{
    Router::new()
        .route("/api/v1/deliveries", get(call))
        .route("/api/v1/deliveries/{id}", get(call))
        .route("/api/v1/deliveries/redeliver", post(call))
        .route("/api/v1/deliveries/drop", post(call))
        .route("/api/v1/deliveries/pause", post(call))
        .route("/api/v1/deliveries/resume", post(call))
        .route("/api/v1/delivery-jobs", get(call))
}

/// Passes a request on to the first relay that serves the tunnels.
async fn call(
    State(view): State<Arc<AgentView>>,
    Extension(caller): Extension<Caller>,
    method: Method,
    uri: Uri,
) -> Response {
    let context = view.context.upgrade();
    let calls = context.as_ref().and_then(|context| {
        let relay = context.status.first_connected()?;
        context.calls.get(&relay).cloned()
    });
    let (Some(calls), Some(context)) = (calls, context) else {
        let detail = "no relay is connected; its stored webhooks cannot be seen";
        return problem(StatusCode::SERVICE_UNAVAILABLE, detail);
    };

    let path = uri.path_and_query().map_or("", |path| path.as_str());
    if method != Method::GET {
        // The query may hold a secret that the user searches for.
        let details = json!({ "path": uri.path() });
        let audit = view.observer.audit();
        audit.act("deliveries_change_requested", Actor::api(caller), details);
    }
    // Before the call, because the attempt may come before its answer. All tunnels share one log.
    let log = context
        .tunnels
        .first()
        .map(|tunnel| &tunnel.handler.deliveries);
    let requested = redelivered(&uri).zip(log);
    if let Some((id, log)) = &requested {
        log.request_again(*id);
    }
    match calls.call(method.as_str(), path).await {
        Ok(answer) => {
            if answer.status != StatusCode::ACCEPTED.as_u16()
                && let Some((id, log)) = &requested
            {
                log.forget_request(*id);
            }
            let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::BAD_GATEWAY);
            let content_type = [(header::CONTENT_TYPE, "application/json")];
            (status, content_type, answer.body).into_response()
        }
        Err(error) => problem(StatusCode::BAD_GATEWAY, &error.to_string()),
    }
}

/// Returns the id of a single delivery that the user requests again. The agent then sends it whatever
/// its age, and even if the application has accepted it.
fn redelivered(uri: &Uri) -> Option<Uuid> {
    let is_redelivery = uri.path() == "/api/v1/deliveries/redeliver";
    let query = uri.query().filter(|_| is_redelivery)?;
    let mut fields = query.split('&').filter_map(|field| field.split_once('='));
    let (_, id) = fields.find(|(name, _)| *name == "id")?;
    Uuid::parse_str(id).ok()
}
