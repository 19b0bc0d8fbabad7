//! The shape of ngrok's agent API (ngrok.com/docs/agent/api), for scripts that wait for a URL, and
//! that read or repeat requests. Tunnels cannot be started or stopped by it.

mod requests;

pub(super) use self::requests::*;

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use hookward_observe::api::access::problem;
use serde_json::{Value, json};

use super::status::AgentView;
use crate::observe::ObservedTunnel;
use crate::observe::activity::TunnelActivity;

/// Version of ngrok whose shape this is. Scripts compare it with a minimum.
const NGROK_VERSION: &str = "3.9.0";

/// Tunnels, in the shape of ngrok.
#[utoipa::path(get, path = "/api/tunnels", responses((status = 200, body = Object)))]
pub(super) async fn tunnels(State(view): State<Arc<AgentView>>) -> Json<Value> {
    let tunnels = view.observer.tunnels();
    let tunnels: Vec<_> = tunnels
        .iter()
        .map(|(host, tunnel)| shape(&view, host, tunnel))
        .collect();
    Json(json!({ "tunnels": tunnels, "uri": "/api/tunnels" }))
}

/// One tunnel, in the shape of ngrok. Its name is the public host.
#[utoipa::path(get, path = "/api/tunnels/{name}", params(("name" = String, Path)), responses(
    (status = 200, body = Object),
    (status = 404, body = Object, content_type = "application/problem+json"),
))]
pub(super) async fn tunnel(
    State(view): State<Arc<AgentView>>,
    Path(name): Path<String>,
) -> Response {
    match view.observer.tunnels().get(&name) {
        Some(tunnel) => Json(shape(&view, &name, tunnel)).into_response(),
        None => problem(StatusCode::NOT_FOUND, "there is no tunnel of this name"),
    }
}

/// Endpoints, in the shape of ngrok's version 3.
#[utoipa::path(get, path = "/api/endpoints", responses((status = 200, body = Object)))]
pub(super) async fn endpoints(State(view): State<Arc<AgentView>>) -> Json<Value> {
    let tunnels = view.observer.tunnels();
    let endpoints = tunnels.iter().map(|(host, tunnel)| {
        json!({
            "name": host,
            "url": tunnel.base_url,
            "upstream": { "url": address(tunnel) },
            "metrics": metrics(&view, &tunnel.activity),
            "uri": format!("/api/endpoints/{host}"),
        })
    });
    let endpoints: Vec<_> = endpoints.collect();
    Json(json!({ "endpoints": endpoints, "uri": "/api/endpoints" }))
}

/// State of the agent, in the shape of ngrok.
#[utoipa::path(get, path = "/api/status", responses((status = 200, body = Object)))]
pub(super) async fn status(State(view): State<Arc<AgentView>>) -> Json<Value> {
    let legs: Vec<_> = view
        .links()
        .into_iter()
        .map(|link| {
            let latency = link.path.map_or(0.0, |path| path.rtt_ms);
            json!({ "region": link.relay, "latency": format!("{latency:.0}ms") })
        })
        .collect();
    let status = match legs.is_empty() {
        true => "reconnecting",
        false => "online",
    };
    Json(json!({
        "status": status,
        "agent_version": NGROK_VERSION,
        "session": { "legs": legs },
        "uri": "/api/status",
    }))
}

fn shape(view: &AgentView, host: &str, tunnel: &ObservedTunnel) -> Value {
    json!({
        "name": host,
        "ID": host,
        "uri": format!("/api/tunnels/{host}"),
        "public_url": tunnel.base_url,
        "proto": "https",
        "config": { "addr": address(tunnel), "inspect": view.inspector.is_some() },
        "metrics": metrics(view, &tunnel.activity),
    })
}

/// Returns the application as a URL.
fn address(tunnel: &ObservedTunnel) -> String {
    match tunnel.application.contains("://") {
        true => tunnel.application.clone(),
        false => format!("http://{}", tunnel.application),
    }
}

/// Returns counts, rates a second, and percentiles in nanoseconds. Webhooks have one request for each
/// connection in ngrok's sense.
fn metrics(view: &AgentView, activity: &TunnelActivity) -> Value {
    let nanos = |share| activity.percentile(share).as_nanos() as f64;
    let common = json!({
        "count": activity.requests(),
        "rate1": activity.rate(1),
        "rate5": activity.rate(5),
        "rate15": activity.rate(15),
        "p50": nanos(0.5),
        "p90": nanos(0.9),
        "p95": nanos(0.95),
        "p99": nanos(0.99),
    });
    let mut conns = common.clone();
    if let Some(conns) = conns.as_object_mut() {
        conns.insert("gauge".to_owned(), json!(view.in_flight.count()));
    }
    json!({ "conns": conns, "http": common })
}
