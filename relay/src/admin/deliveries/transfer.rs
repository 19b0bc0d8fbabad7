//! Export of deliveries to a file, and import into another relay.
//!
//! An export is one JSON object a line. Without `complete`, it has the form of a single delivery,
//! without secrets. A complete export holds what was stored, and can be imported.

use std::collections::VecDeque;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use data_encoding::BASE64;
use futures_util::stream;
use hookward_gate::engine::{Grant, OrderingKey};
use hookward_observe::api::access::problem;
use hookward_observe::api::deliveries::FilterQuery;
use hookward_tunnel::protocol::head::ExchangeRequest;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::{DeliveriesApi, Requester, filter_of, view};
use crate::storage::StorageError;
use crate::storage::deliveries::{
    DeliveryDetail, DeliveryFilter, DeliveryRow, DeliveryStore, NewDelivery, Payload, StoreRefusal,
};

/// A delivery as a complete export holds it.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CompleteDelivery {
    /// Public id.
    id: Uuid,
    /// Public host of the tunnel.
    tunnel: String,
    /// Name of the route.
    route: String,
    /// Id of the provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    provider: Option<String>,
    /// Type of the event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    event: Option<String>,
    /// Hash of the ordering key; absent without an order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    order: Option<u64>,
    /// Head, as the tunnel carries it, in Base64.
    head: String,
    /// Grant of the gate.
    #[schema(value_type = Object)]
    grant: Grant,
    /// Body, in Base64.
    body: String,
}

/// Result of an import.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Imported {
    /// `false` if the relay has a delivery with this id already.
    pub is_new: bool,
}

/// Deliveries that match, newest first, one JSON object a line.
#[utoipa::path(get, path = "/api/v1/deliveries/export", params(FilterQuery), responses(
    (status = 200, body = String, content_type = "application/x-ndjson"),
    (status = 400, body = Object, content_type = "application/problem+json"),
))]
pub(super) async fn export(
    State(api): State<DeliveriesApi>,
    requester: Requester,
    Query(query): Query<FilterQuery>,
) -> Response {
    if query.rate.is_some() || query.before.is_some() || query.limit.is_some() {
        let detail = "rate, before and limit have no effect on an export";
        return problem(StatusCode::BAD_REQUEST, detail);
    }
    let complete = query.complete.unwrap_or_default();
    let filter = match filter_of(query, &requester) {
        Ok(filter) => filter,
        Err(response) => return *response,
    };
    // Content is personal data, so that each export has a record.
    let fields = json!({ "filter": filter.summary(), "complete": complete });
    let audit = api.observer.audit();
    requester.record(audit, "deliveries_exported", fields);

    let export = Export {
        store: api.deliveries.store().clone(),
        filter,
        complete,
        rows: VecDeque::new(),
        before: None,
        is_last: false,
    };
    let lines = stream::try_unfold(export, |mut export| async move {
        let line = export.next_line().await?;
        Ok::<_, StorageError>(line.map(|line| (line, export)))
    });
    let content_type = [(header::CONTENT_TYPE, "application/x-ndjson")];
    (content_type, Body::from_stream(lines)).into_response()
}

/// An export in progress.
struct Export {
    store: DeliveryStore,
    filter: DeliveryFilter,
    complete: bool,
    /// Deliveries of the page that are not exported yet.
    rows: VecDeque<DeliveryRow>,
    before: Option<i64>,
    is_last: bool,
}

impl Export {
    async fn next_line(&mut self) -> Result<Option<Bytes>, StorageError> {
        loop {
            let Some(row) = self.rows.pop_front() else {
                if self.is_last {
                    return Ok(None);
                }
                let page = self.store.page(self.filter.clone(), self.before, PAGE);
                let page = page.await?;
                self.is_last = !page.has_more;
                self.before = page.rows.last().map(|row| row.seq);
                self.rows = page.rows.into();
                self.rows.retain(|row| row.has_payload || !self.complete);
                continue;
            };

            // A delivery may end meanwhile.
            let Some(detail) = self.store.detail(row.id, None).await? else {
                continue;
            };
            let line = match self.complete {
                true => complete(detail).map(|delivery| json!(delivery)),
                false => Some(json!(view::content(detail))),
            };
            if let Some(line) = line {
                return Ok(Some(format!("{line}\n").into()));
            }
        }
    }
}

/// Returns what an import needs; `None` without a readable payload.
fn complete(detail: DeliveryDetail) -> Option<CompleteDelivery> {
    let (row, payload) = (detail.row, detail.payload?);
    Some(CompleteDelivery {
        id: row.id,
        tunnel: row.tunnel,
        route: row.route,
        provider: row.provider,
        event: row.event,
        order: detail.order,
        head: BASE64.encode(&payload.head),
        grant: serde_json::from_slice(&payload.grant).ok()?,
        body: BASE64.encode(&payload.body),
    })
}

/// Returns the route of the import, whose bodies are large.
pub(super) fn import_route() -> OpenApiRouter<DeliveriesApi> {
    OpenApiRouter::new()
        .routes(routes!(import))
        .layer(DefaultBodyLimit::max(IMPORT_BYTES))
}

/// Stores a delivery of a complete export, and delivers it.
#[utoipa::path(post, path = "/api/v1/deliveries/import", request_body = CompleteDelivery, responses(
    (status = 200, body = Imported),
    (status = 400, body = Object, content_type = "application/problem+json"),
    (status = 404, body = Object, content_type = "application/problem+json"),
    (status = 409, body = Object, content_type = "application/problem+json"),
    (status = 503, body = Object, content_type = "application/problem+json"),
))]
pub(super) async fn import(
    State(api): State<DeliveriesApi>,
    requester: Requester,
    body: Bytes,
) -> Response {
    if !api.deliveries.is_enabled() {
        let detail = "[delivery] enabled = false: this relay stores no webhooks";
        return problem(StatusCode::CONFLICT, detail);
    }
    let mistake = |detail: &str| problem(StatusCode::BAD_REQUEST, detail);
    let delivery: CompleteDelivery = match serde_json::from_slice(&body) {
        Ok(delivery) => delivery,
        Err(error) => {
            let detail = format!("this is no delivery of a complete export: {error}");
            return mistake(&detail);
        }
    };
    let (Ok(head), Ok(content)) = (
        BASE64.decode(delivery.head.as_bytes()),
        BASE64.decode(delivery.body.as_bytes()),
    ) else {
        return mistake("head or body is not in Base64");
    };
    let head = Bytes::from(head);
    if let Err(error) = ExchangeRequest::decode(head.clone()) {
        return mistake(&format!("head cannot be read: {error}"));
    }

    let endpoint = api.registry.find(&delivery.tunnel);
    let Some(owner) = endpoint.and_then(|endpoint| endpoint.owner) else {
        let detail = format!(
            "no agent has opened {} since the relay started: connect it first",
            delivery.tunnel
        );
        return problem(StatusCode::NOT_FOUND, &detail);
    };
    let fields = json!({ "delivery": delivery.id.to_string(), "tunnel": delivery.tunnel });
    let new = NewDelivery {
        id: delivery.id,
        tunnel: delivery.tunnel.into(),
        owner,
        route: delivery.route,
        provider: delivery.provider,
        event: delivery.event,
        order: delivery.order.map_or(OrderingKey::None, OrderingKey::Hash),
        payload: Payload {
            head,
            // A grant that was read from JSON can be written.
            grant: serde_json::to_vec(&delivery.grant)
                .unwrap_or_default()
                .into(),
            body: content.into(),
        },
        attempts: 0,
        due_in: Duration::ZERO,
    };
    match api.deliveries.accept(new, None).await {
        Ok(_) => {
            let audit = api.observer.audit();
            requester.record(audit, "delivery_imported", fields);
            Json(Imported { is_new: true }).into_response()
        }
        Err(StoreRefusal::Known) => Json(Imported { is_new: false }).into_response(),
        Err(refusal) => problem(StatusCode::SERVICE_UNAVAILABLE, &refusal.to_string()),
    }
}

/// Number of deliveries that an export reads at once.
const PAGE: usize = 200;

/// Maximum size of an imported delivery, in bytes: the largest body in Base64, and its head.
const IMPORT_BYTES: usize = 256 * 1024 * 1024;
