//! Routes of the admin API. Their OpenAPI document is made from the same declarations.

use std::sync::Arc;

use axum::extract::{Extension, Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router, middleware};
use hookward_core::names::AgentName;
use hookward_observe::api::access::{self, Access, Caller, Guard, ProtectedPages, problem};
use hookward_observe::api::deliveries::Done;
use hookward_observe::metrics::{self, CONTENT_TYPE, ProcessSnapshot};
use hookward_pages::serve::show_errors;
use prometheus_client::registry::Registry;
use serde::Serialize;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::console::{self, CONSOLE};
use super::deliveries::{self, DeliveriesApi};
use super::events;
use super::metrics::RelaySnapshot;
use super::overview::Overview;
use super::status::{
    AddressSetStatus, AgentStatus, CertificateStatus, ClientStatus, ConnectionsStatus, LimitStatus,
    RefusalStatus, RelayStatus, SessionStatus, StorageStatus, TunnelStatus,
};
use crate::storage::StorageError;

/// State of the handlers.
#[derive(Clone)]
pub(super) struct RelayApi {
    overview: Arc<Overview>,
    registry: Arc<Registry>,
    /// Access to the reasons of health checks.
    known: Access,
}

impl RelayApi {
    fn deliveries(&self) -> DeliveriesApi {
        let edge = &self.overview.edge;
        DeliveriesApi {
            deliveries: edge.deliveries.clone(),
            registry: edge.registry.clone(),
            observer: Arc::clone(&edge.observer),
        }
    }
}

#[derive(OpenApi)]
#[openapi(info(
    title = "Hookward relay",
    description = "Private API of a Hookward relay. Requests over TCP carry the token of the file \
                   admin-token in the data directory: Authorization: Bearer TOKEN. The Unix socket \
                   admin.sock needs no token. /livez and /readyz answer without a token, and say no \
                   more than ok or not; /metrics takes the token of the file metrics-token, too."
))]
struct RelayDocument;

/// Routers of the listeners.
pub(super) struct Routers {
    /// The whole API, for loopback and the Unix socket.
    pub admin: Router,
    /// Health and metrics, for other machines.
    pub monitoring: Router,
}

/// Creates the routers.
pub(super) fn routers(overview: Arc<Overview>, guard: &Arc<Guard>) -> Routers {
    let mut registry = Registry::default();
    overview.edge.observer.metrics().register(&mut registry);
    metrics::register(&mut registry, RelaySnapshot(Arc::clone(&overview)));
    metrics::register(&mut registry, ProcessSnapshot::new(&overview.clock));
    let api = RelayApi {
        overview,
        registry: Arc::new(registry),
        known: Access::metrics(guard),
    };

    let (health, mut document) = OpenApiRouter::with_openapi(RelayDocument::openapi())
        .routes(routes!(livez))
        .routes(routes!(readyz))
        .split_for_parts();
    let (scrape, of_metrics) = OpenApiRouter::new()
        .routes(routes!(prometheus))
        .split_for_parts();
    let (private, of_private) = private_routes().split_for_parts();
    let (deliveries, of_deliveries) = deliveries::routes().split_for_parts();
    document.merge(of_metrics);
    document.merge(of_private);
    document.merge(of_deliveries);

    let document = Json(document);
    let private = private.route(
        "/api/v1/openapi.json",
        axum::routing::get(|| async move { document.clone() }),
    );
    let (health, scrape) = (
        health.with_state(api.clone()),
        scrape.with_state(api.clone()),
    );
    let deliveries = deliveries.with_state(api.deliveries());
    let pages = console::router().with_state(Arc::clone(&api.overview));
    let private = private.with_state(api).merge(deliveries);

    let protected = ProtectedPages {
        product: CONSOLE.product,
        links: CONSOLE.links,
    };
    let protect = |router: Router, access: Access| {
        router.layer(middleware::from_fn_with_state(access, access::check))
    };
    let open = Access::open(guard).under_any_name();
    let scraped = Access::metrics(guard).under_any_name();
    Routers {
        monitoring: protect(health.clone(), open).merge(protect(scrape.clone(), scraped)),
        admin: protect(health, Access::open(guard))
            .merge(protect(scrape, Access::metrics(guard)))
            .merge(protect(private, Access::full(guard)))
            .merge(protect(pages, Access::full(guard).for_pages(protected)))
            .fallback(|| async { problem(StatusCode::NOT_FOUND, "see /api/v1/openapi.json") })
            .layer(middleware::from_fn_with_state(&CONSOLE, show_errors)),
    }
}

fn private_routes() -> OpenApiRouter<RelayApi> {
    OpenApiRouter::new()
        .routes(routes!(status))
        .routes(routes!(agents))
        .routes(routes!(remove))
        .routes(routes!(sessions))
        .routes(routes!(tunnels))
        .routes(routes!(connections))
        .routes(routes!(refusals))
        .routes(routes!(clients))
        .routes(routes!(limits))
        .routes(routes!(certificates))
        .routes(routes!(address_sets))
        .routes(routes!(storage))
        .routes(routes!(event_stream))
        .routes(routes!(drain))
}

/// Liveness: always `ok` while the process runs.
#[utoipa::path(get, path = "/livez", responses((status = 200, body = String, content_type = "text/plain")))]
async fn livez() -> &'static str {
    "ok\n"
}

/// Readiness: `ok` while the relay accepts requests and its storage commits. With a token, reasons.
#[utoipa::path(get, path = "/readyz", responses(
    (status = 200, body = String, content_type = "text/plain"),
    (status = 503, body = String, content_type = "text/plain"),
))]
async fn readyz(
    State(api): State<RelayApi>,
    caller: Option<Extension<Caller>>,
    headers: HeaderMap,
) -> Response {
    let (is_ready, checks) = api.overview.health().await;
    let (status, word) = match is_ready {
        true => (StatusCode::OK, "ok\n"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
    };
    let caller = caller.map(|Extension(caller)| caller);
    if !api.known.is_known(caller.as_ref(), &headers) {
        return (status, word).into_response();
    }

    let mut text = String::from(word);
    for check in checks {
        let result = check.reason.as_deref().unwrap_or("ok");
        text.push_str(&format!("{}: {result}\n", check.name));
    }
    (status, text).into_response()
}

/// Metrics in the Prometheus text format.
#[utoipa::path(get, path = "/metrics", responses((status = 200, body = String, content_type = "text/plain")))]
async fn prometheus(State(api): State<RelayApi>) -> Response {
    // Reads files of /proc.
    let text = tokio::task::spawn_blocking(move || metrics::text(&api.registry)).await;
    match text {
        Ok(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Err(_) => problem(StatusCode::INTERNAL_SERVER_ERROR, "the relay is stopping"),
    }
}

/// State of the relay as a whole.
#[utoipa::path(get, path = "/api/v1/status", responses((status = 200, body = RelayStatus)))]
async fn status(State(api): State<RelayApi>) -> Response {
    answer(api.overview.status().await)
}

/// Agents, by name.
#[utoipa::path(get, path = "/api/v1/agents", responses((status = 200, body = Vec<AgentStatus>)))]
async fn agents(State(api): State<RelayApi>) -> Response {
    answer(api.overview.agents().await)
}

/// Removes an agent and frees its hosts. Its sessions end within seconds.
#[utoipa::path(delete, path = "/api/v1/agents/{name}", params(("name" = String, Path)), responses(
    (status = 200, body = Done),
    (status = 404, body = Object, content_type = "application/problem+json"),
))]
async fn remove(
    State(api): State<RelayApi>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Response {
    let unknown = || problem(StatusCode::NOT_FOUND, "there is no agent of this name");
    let Some(name) = AgentName::parse(&name) else {
        return unknown();
    };
    match api.overview.remove(&name, caller).await {
        Ok(true) => done(&format!(
            "agent {name} is removed; its sessions end within seconds"
        )),
        Ok(false) => unknown(),
        Err(error) => failed(&error),
    }
}

/// Sessions of agents, oldest first.
#[utoipa::path(get, path = "/api/v1/sessions", responses((status = 200, body = Vec<SessionStatus>)))]
async fn sessions(State(api): State<RelayApi>) -> Json<Vec<SessionStatus>> {
    Json(api.overview.sessions())
}

/// Tunnels with their policies, by host.
#[utoipa::path(get, path = "/api/v1/tunnels", responses((status = 200, body = Vec<TunnelStatus>)))]
async fn tunnels(State(api): State<RelayApi>) -> Response {
    answer(api.overview.tunnels().await)
}

/// Connections of senders.
#[utoipa::path(get, path = "/api/v1/connections", responses((status = 200, body = ConnectionsStatus)))]
async fn connections(State(api): State<RelayApi>) -> Json<ConnectionsStatus> {
    Json(api.overview.connections())
}

/// Refusals since the start, by check.
#[utoipa::path(get, path = "/api/v1/refusals", responses((status = 200, body = Vec<RefusalStatus>)))]
async fn refusals(State(api): State<RelayApi>) -> Json<Vec<RefusalStatus>> {
    Json(api.overview.refusals())
}

/// The most active clients of this minute and the one before.
#[utoipa::path(get, path = "/api/v1/clients", responses((status = 200, body = Vec<ClientStatus>)))]
async fn clients(State(api): State<RelayApi>) -> Json<Vec<ClientStatus>> {
    Json(api.overview.clients())
}

/// Limits with what is in use.
#[utoipa::path(get, path = "/api/v1/limits", responses((status = 200, body = Vec<LimitStatus>)))]
async fn limits(State(api): State<RelayApi>) -> Json<Vec<LimitStatus>> {
    Json(api.overview.read_system().await.0)
}

/// Certificates of the edge.
#[utoipa::path(get, path = "/api/v1/certificates", responses((status = 200, body = Vec<CertificateStatus>)))]
async fn certificates(State(api): State<RelayApi>) -> Json<Vec<CertificateStatus>> {
    Json(api.overview.certificates())
}

/// Named sets of client addresses.
#[utoipa::path(get, path = "/api/v1/address-sets", responses((status = 200, body = Vec<AddressSetStatus>)))]
async fn address_sets(State(api): State<RelayApi>) -> Json<Vec<AddressSetStatus>> {
    Json(api.overview.address_sets())
}

/// Databases.
#[utoipa::path(get, path = "/api/v1/storage", responses((status = 200, body = Vec<StorageStatus>)))]
async fn storage(State(api): State<RelayApi>) -> Json<Vec<StorageStatus>> {
    Json(api.overview.read_system().await.1)
}

/// Events from now on, as server-sent events: `request`, `agent_connected`, `agent_disconnected`, and
/// `lost` with the number of events that a slow reader lost.
#[utoipa::path(get, path = "/api/v1/events", responses((status = 200, body = String, content_type = "text/event-stream")))]
async fn event_stream(State(api): State<RelayApi>) -> Response {
    events::stream(api.overview.edge.observer.subscribe()).into_response()
}

/// Stops the relay in order, as SIGTERM does.
#[utoipa::path(post, path = "/api/v1/drain", responses((status = 202, body = Done)))]
async fn drain(State(api): State<RelayApi>, Extension(caller): Extension<Caller>) -> Response {
    api.overview.drain(caller);
    let mut response = done("the relay drains and stops");
    *response.status_mut() = StatusCode::ACCEPTED;
    response
}

pub(super) fn done(message: &str) -> Response {
    let message = message.to_owned();
    Json(Done { message }).into_response()
}

fn answer<T: Serialize>(result: Result<T, StorageError>) -> Response {
    match result {
        Ok(value) => Json(value).into_response(),
        Err(error) => failed(&error),
    }
}

pub(super) fn failed(error: &StorageError) -> Response {
    problem(StatusCode::SERVICE_UNAVAILABLE, &error.to_string())
}
