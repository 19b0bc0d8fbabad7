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
use crate::relay_link::calls::RelayCalls;

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
    let target = uri.path_and_query().map_or("", |target| target.as_str());
    let answer = match method == Method::GET {
        true => view.call_relay(method.as_str(), target).await,
        false => view.change_at_relay(method.as_str(), target, caller).await,
    };
    match answer {
        Ok((status, body)) => {
            let content_type = [(header::CONTENT_TYPE, "application/json")];
            (status, content_type, body).into_response()
        }
        Err(reason) => problem(StatusCode::SERVICE_UNAVAILABLE, &reason),
    }
}

impl AgentView {
    /// Returns the calls of the first relay that serves the tunnels.
    fn connected_relay(&self) -> Result<Arc<RelayCalls>, String> {
        let context = self.context.upgrade();
        let calls = context.and_then(|context| {
            let relay = context.status.first_connected()?;
            context.calls.get(&relay).cloned()
        });
        calls.ok_or_else(|| "no relay is connected; its stored webhooks cannot be seen".to_owned())
    }

    /// Calls a method of the API of the first relay that serves the tunnels.
    ///
    /// # Errors
    /// The reason, for the user.
    pub(super) async fn call_relay(
        &self,
        method: &str,
        target: &str,
    ) -> Result<(StatusCode, String), String> {
        call_by(&*self.connected_relay()?, method, target).await
    }

    /// Changes deliveries at that relay.
    ///
    /// # Errors
    /// The reason, for the user.
    pub(super) async fn change_at_relay(
        &self,
        method: &str,
        target: &str,
        caller: Caller,
    ) -> Result<(StatusCode, String), String> {
        let relay = self.connected_relay()?;
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        // The query may hold a secret that the user searches for.
        let details = json!({ "path": path });
        let audit = self.observer.audit();
        audit.act("deliveries_change_requested", Actor::api(caller), details);

        // Before the call, because the attempt may come before its answer. All tunnels share one log.
        let context = self.context.upgrade();
        let tunnel = context.as_ref().and_then(|context| context.tunnels.first());
        let log = tunnel.map(|tunnel| &tunnel.handler.deliveries);
        let requested = redelivered(path, query).zip(log);
        if let Some((id, log)) = &requested {
            log.request_again(*id);
        }
        let answer = call_by(&relay, method, target).await;
        if let (Ok((status, _)), Some((id, log))) = (&answer, &requested)
            && *status != StatusCode::ACCEPTED
        {
            log.forget_request(*id);
        }
        answer
    }
}

async fn call_by(
    relay: &RelayCalls,
    method: &str,
    target: &str,
) -> Result<(StatusCode, String), String> {
    let answer = relay.call(method, target).await;
    let answer = answer.map_err(|error| error.to_string())?;
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::BAD_GATEWAY);
    Ok((status, answer.body))
}

/// Returns the id of a single delivery that the user requests again. The agent then sends it whatever
/// its age, and even if the application has accepted it.
fn redelivered(path: &str, query: &str) -> Option<Uuid> {
    if path != "/api/v1/deliveries/redeliver" {
        return None;
    }
    let mut fields = query.split('&').filter_map(|field| field.split_once('='));
    let (_, id) = fields.find(|(name, _)| *name == "id")?;
    Uuid::parse_str(id).ok()
}
