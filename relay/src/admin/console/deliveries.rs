//! Pages of stored deliveries: the list, redelivery and dropping.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Extension, Path, Query, State};
use axum::response::{Html, Redirect};
use hookward_observe::api::access::Caller;
use hookward_observe::api::deliveries::DeliveryStatus;
use hookward_observe::audit::Actor;
use hookward_pages::text::{bytes, date_time, visible};
use serde::Deserialize;
use uuid::Uuid;

use super::page::Confirmation;
use super::{PageError, page};
use crate::admin::overview::Overview;
use crate::delivery::Requester;
use crate::storage::deliveries::{Change, DeliveryFilter, DeliveryState};

/// Maximum number of deliveries on a page.
const ROWS: usize = 100;

/// Deliveries changed a second: a page changes one.
const RATE: u64 = 1;

/// Part of the list.
#[derive(Deserialize)]
pub(super) struct ListQuery {
    state: Option<String>,
    /// Number of the delivery before which the page begins.
    before: Option<i64>,
}

/// The list.
#[derive(Template)]
#[template(path = "deliveries.html")]
struct DeliveriesPage {
    /// Name of the state to which the list is limited; empty for all.
    state: String,
    states: [&'static str; 4],
    rows: Vec<Row>,
    older: Option<i64>,
}

/// A line of the list.
struct Row {
    id: Uuid,
    received: String,
    tunnel: String,
    route: String,
    event: String,
    state: String,
    class: &'static str,
    result: String,
    /// `true` while it can be delivered.
    has_content: bool,
}

impl From<DeliveryStatus> for Row {
    fn from(delivery: DeliveryStatus) -> Self {
        let event = [delivery.provider, delivery.event];
        let event: Vec<_> = event.into_iter().flatten().collect();
        let last = match (delivery.last_error, delivery.last_status) {
            (Some(error), _) => Some(visible(&error).into_owned()),
            (None, Some(status)) => Some(format!("status {status}")),
            (None, None) => None,
        };
        let next = delivery
            .next_attempt_ms
            .map(|at| format!("next attempt {}", date_time(at)));
        let again = delivery.redelivered;
        let result = [
            Some(format!("attempts: {}", delivery.attempts)),
            (again > 0).then(|| format!("redelivered by hand: {again}")),
            last,
            next,
            Some(bytes(delivery.bytes)),
        ];
        let result: Vec<_> = result.into_iter().flatten().collect();
        Self {
            id: delivery.id,
            received: date_time(delivery.received_ms),
            tunnel: delivery.tunnel,
            route: delivery.route,
            event: visible(&event.join(" ")).into_owned(),
            class: match delivery.state.as_str() {
                "delivered" => "good",
                "dead" => "bad",
                _ => "warn",
            },
            state: delivery.state,
            result: result.join(" · "),
            has_content: delivery.has_content,
        }
    }
}

/// Returns the list, newest first.
pub(super) async fn list(
    State(overview): State<Arc<Overview>>,
    Query(query): Query<ListQuery>,
) -> Result<Html<String>, PageError> {
    let state = query.state.unwrap_or_default();
    let known = DeliveryState::ALL
        .into_iter()
        .find(|known| known.as_str() == state);
    if known.is_none() && !state.is_empty() {
        return Err(PageError::NoState);
    }

    let filter = DeliveryFilter {
        state: known,
        ..DeliveryFilter::default()
    };
    let store = overview.edge.deliveries.store();
    let found = store.page(filter, query.before, ROWS).await?;
    let last = found.rows.last().map(|row| row.seq);
    let content = DeliveriesPage {
        state,
        states: DeliveryState::ALL.map(DeliveryState::as_str),
        older: last.filter(|_| found.has_more),
        rows: found
            .rows
            .into_iter()
            .map(|row| Row::from(DeliveryStatus::from(row)))
            .collect(),
    };
    page(super::DELIVERIES, &content)
}

/// Starts a new attempt.
pub(super) async fn redeliver(
    State(overview): State<Arc<Overview>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<Uuid>,
) -> Result<Redirect, PageError> {
    change(&overview, id, Change::Redeliver, caller)
}

/// Asks before a delivery is dropped.
pub(super) async fn confirm_drop(Path(id): Path<Uuid>) -> Result<Html<String>, PageError> {
    let confirmation = Confirmation {
        question: "Drop this delivery?".to_owned(),
        consequence: format!("The relay deletes the content of {id} and makes no further attempt."),
        action: format!("/deliveries/{id}/drop"),
        button: "Drop".to_owned(),
        back: "/deliveries",
    };
    page("Drop", &confirmation)
}

/// Deletes the content of a delivery.
pub(super) async fn drop(
    State(overview): State<Arc<Overview>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<Uuid>,
) -> Result<Redirect, PageError> {
    change(&overview, id, Change::Drop, caller)
}

fn change(
    overview: &Overview,
    id: Uuid,
    change: Change,
    caller: Caller,
) -> Result<Redirect, PageError> {
    let filter = DeliveryFilter {
        id: Some(id),
        ..DeliveryFilter::default()
    };
    let requester = Requester::administrator(Actor::api(caller));
    let job = overview
        .edge
        .deliveries
        .change(filter, change, RATE, requester);
    match job {
        Some(_) => Ok(Redirect::to("/deliveries")),
        None => Err(PageError::Busy),
    }
}
