//! Stored deliveries in the admin API. An agent reaches the same methods over its tunnel, for its
//! own tunnels only ([`agent_router`]).

mod transfer;
mod view;

use std::sync::Arc;

use axum::extract::{FromRequestParts, Path, Query, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse as _, Response};
use axum::{Json, Router};
use hookward_core::clock::UnixMillis;
use hookward_observe::api::access::{Caller, problem};
use hookward_observe::api::deliveries::{
    DeliveryContent, DeliveryPage, DeliveryStatus, Done, FilterQuery, JobStatus, TunnelQuery,
};
use hookward_observe::audit::Actor;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::api::{done, failed};
use crate::delivery::{Deliveries, Requester};
use crate::observe::Observer;
use crate::sessions::Registry;
use crate::storage::StorageError;
use crate::storage::agents::AgentId;
use crate::storage::deliveries::{Change, DeliveryFilter, DeliveryState};

pub(crate) use self::transfer::Imported;

/// State of the handlers.
#[derive(Clone)]
pub(crate) struct DeliveriesApi {
    pub deliveries: Deliveries,
    pub registry: Registry,
    pub observer: Arc<Observer>,
}

impl<S: Sync> FromRequestParts<S> for Requester {
    type Rejection = StatusCode;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, StatusCode> {
        let named = parts.extensions.get::<Self>().cloned();
        let admin = || {
            let caller = parts.extensions.get::<Caller>()?;
            Some(Self::administrator(Actor::api(*caller)))
        };
        named.or_else(admin).ok_or(StatusCode::FORBIDDEN)
    }
}

/// Returns the methods for administrators.
pub(super) fn routes() -> OpenApiRouter<DeliveriesApi> {
    shared_routes()
        .routes(routes!(transfer::export))
        .merge(transfer::import_route())
}

/// Returns the methods that an agent has, too. Each request must have a [`Requester`].
pub(crate) fn agent_router(api: DeliveriesApi) -> Router {
    let (router, _) = shared_routes().split_for_parts();
    router.with_state(api)
}

fn shared_routes() -> OpenApiRouter<DeliveriesApi> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(redeliver))
        .routes(routes!(drop))
        .routes(routes!(pause))
        .routes(routes!(resume))
        .routes(routes!(jobs))
        .routes(routes!(show))
}

fn filter_of(query: FilterQuery, requester: &Requester) -> Result<DeliveryFilter, Box<Response>> {
    let state = match query.state.as_deref() {
        None => None,
        Some(name) => {
            let state = DeliveryState::parse(name);
            let unknown = || Box::new(problem(StatusCode::BAD_REQUEST, STATES));
            Some(state.ok_or_else(unknown)?)
        }
    };
    let texts = [
        &query.tunnel,
        &query.route,
        &query.provider,
        &query.event,
        &query.text,
    ];
    if texts
        .into_iter()
        .flatten()
        .any(|text| text.len() > CONDITION_BYTES)
    {
        let detail = format!("a condition has more than {CONDITION_BYTES} bytes");
        return Err(Box::new(problem(StatusCode::BAD_REQUEST, &detail)));
    }
    Ok(DeliveryFilter {
        owner: requester.owner(),
        id: query.id,
        tunnel: query.tunnel,
        route: query.route,
        provider: query.provider,
        event: query.event,
        state,
        since: query.since_ms.map(UnixMillis),
        until: query.until_ms.map(UnixMillis),
        text: query.text,
    })
}

/// Stored deliveries that match, newest first.
#[utoipa::path(get, path = "/api/v1/deliveries", params(FilterQuery), responses(
    (status = 200, body = DeliveryPage),
    (status = 400, body = Object, content_type = "application/problem+json"),
))]
pub(super) async fn list(
    State(api): State<DeliveriesApi>,
    requester: Requester,
    Query(query): Query<FilterQuery>,
) -> Response {
    if query.rate.is_some() || query.complete.is_some() {
        let detail = "rate and complete have no effect on a list";
        return problem(StatusCode::BAD_REQUEST, detail);
    }
    // An answer to an agent travels over its control stream.
    let longest = if requester.owner().is_some() {
        PAGE
    } else {
        LONGEST_PAGE
    };
    let (before, most) = (query.before, query.limit.unwrap_or(PAGE).min(longest));
    let filter = match filter_of(query, &requester) {
        Ok(filter) => filter,
        Err(response) => return *response,
    };
    match api.deliveries.store().page(filter, before, most).await {
        Ok(page) => {
            let next = page.rows.last().map(|row| row.seq);
            Json(DeliveryPage {
                next: next.filter(|_| page.has_more),
                deliveries: page.rows.into_iter().map(DeliveryStatus::from).collect(),
            })
            .into_response()
        }
        Err(error) => failed(&error),
    }
}

/// One stored delivery with its content, without secrets.
#[utoipa::path(get, path = "/api/v1/deliveries/{id}", params(("id" = Uuid, Path)), responses(
    (status = 200, body = DeliveryContent),
    (status = 404, body = Object, content_type = "application/problem+json"),
))]
pub(super) async fn show(
    State(api): State<DeliveriesApi>,
    requester: Requester,
    Path(id): Path<Uuid>,
) -> Response {
    match content(&api.deliveries, &api.observer, &requester, id).await {
        Ok(Some(content)) => Json(content).into_response(),
        Ok(None) => problem(StatusCode::NOT_FOUND, "there is no delivery with this id"),
        Err(error) => failed(&error),
    }
}

/// Returns a delivery with its content, without secrets; `None` if there is none with this id. Content
/// is personal data, so that each look at it has a record.
pub(super) async fn content(
    deliveries: &Deliveries,
    observer: &Observer,
    requester: &Requester,
    id: Uuid,
) -> Result<Option<DeliveryContent>, StorageError> {
    let detail = deliveries.store().detail(id, requester.owner()).await?;
    if detail.is_some() {
        let fields = serde_json::json!({ "delivery": id.to_string() });
        requester.record(observer.audit(), "delivery_shown", fields);
    }
    Ok(detail.map(view::content))
}

/// Makes a new attempt of every delivery that matches, in the background.
#[utoipa::path(post, path = "/api/v1/deliveries/redeliver", params(FilterQuery), responses(
    (status = 202, body = JobStatus),
    (status = 400, body = Object, content_type = "application/problem+json"),
))]
pub(super) async fn redeliver(
    State(api): State<DeliveriesApi>,
    requester: Requester,
    Query(query): Query<FilterQuery>,
) -> Response {
    start(&api, query, Change::Redeliver, requester)
}

/// Deletes the content of every delivery that matches, in the background.
#[utoipa::path(post, path = "/api/v1/deliveries/drop", params(FilterQuery), responses(
    (status = 202, body = JobStatus),
    (status = 400, body = Object, content_type = "application/problem+json"),
))]
pub(super) async fn drop(
    State(api): State<DeliveriesApi>,
    requester: Requester,
    Query(query): Query<FilterQuery>,
) -> Response {
    start(&api, query, Change::Drop, requester)
}

fn start(
    api: &DeliveriesApi,
    query: FilterQuery,
    change: Change,
    requester: Requester,
) -> Response {
    if query.before.is_some() || query.limit.is_some() || query.complete.is_some() {
        // They bound a list. A change of "the first ten" would be one of all.
        let detail = "before, limit and complete have no effect on a change; name conditions";
        return problem(StatusCode::BAD_REQUEST, detail);
    }
    let rate = query.rate.unwrap_or(RATE).max(1);
    let filter = match filter_of(query, &requester) {
        Ok(filter) => filter,
        Err(response) => return *response,
    };
    if !filter.has_condition() {
        let detail = "name at least one condition, such as state=dead";
        return problem(StatusCode::BAD_REQUEST, detail);
    }

    match api.deliveries.change(filter, change, rate, requester) {
        Some(job) => (StatusCode::ACCEPTED, Json(JobStatus::from(&*job))).into_response(),
        None => problem(
            StatusCode::SERVICE_UNAVAILABLE,
            "too many changes are in progress: wait until one has ended",
        ),
    }
}

/// Changes of deliveries in the background, oldest first.
#[utoipa::path(get, path = "/api/v1/delivery-jobs", responses((status = 200, body = Vec<JobStatus>)))]
pub(super) async fn jobs(
    State(api): State<DeliveriesApi>,
    requester: Requester,
) -> Json<Vec<JobStatus>> {
    let jobs = api.deliveries.jobs();
    let visible = jobs.iter().filter(|job| match requester.owner() {
        Some(_) => job.owner == requester.owner(),
        None => true,
    });
    Json(visible.map(|job| JobStatus::from(&**job)).collect())
}

/// Stops the attempts of a tunnel's stored deliveries. Webhooks are still stored.
#[utoipa::path(post, path = "/api/v1/deliveries/pause", params(TunnelQuery), responses((status = 200, body = Done)))]
pub(super) async fn pause(
    State(api): State<DeliveriesApi>,
    requester: Requester,
    Query(query): Query<TunnelQuery>,
) -> Response {
    set_paused(&api, &query.tunnel, true, requester).await
}

/// Makes the attempts of a tunnel's stored deliveries again.
#[utoipa::path(post, path = "/api/v1/deliveries/resume", params(TunnelQuery), responses((status = 200, body = Done)))]
pub(super) async fn resume(
    State(api): State<DeliveriesApi>,
    requester: Requester,
    Query(query): Query<TunnelQuery>,
) -> Response {
    set_paused(&api, &query.tunnel, false, requester).await
}

async fn set_paused(
    api: &DeliveriesApi,
    tunnel: &str,
    paused: bool,
    requester: Requester,
) -> Response {
    let endpoint = api.registry.find(tunnel);
    let is_visible = |owner: Option<AgentId>| owner.is_some_and(|owner| requester.sees(owner));
    if !endpoint.is_some_and(|endpoint| requester.owner().is_none() || is_visible(endpoint.owner)) {
        return problem(StatusCode::NOT_FOUND, "there is no tunnel with this host");
    }
    match api.deliveries.pause(tunnel, paused, requester).await {
        Ok(()) => done(&match paused {
            true => format!("{tunnel}: stored webhooks wait until they are resumed"),
            false => format!("{tunnel}: stored webhooks are delivered"),
        }),
        Err(error) => failed(&error),
    }
}

/// Message about a state that does not exist.
pub(super) const STATES: &str = "state is pending, delivered, dead or dropped";

/// Number of deliveries in a page.
const PAGE: usize = 100;

/// Maximum number of deliveries in a page.
const LONGEST_PAGE: usize = 1000;

/// Number of changes a second, unless the request names another one.
pub(super) const RATE: u64 = 50;

/// Maximum length of a condition, in bytes: the cost of a search for text grows with it.
pub(super) const CONDITION_BYTES: usize = 256;
