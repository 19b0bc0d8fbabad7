//! Page of one stored delivery with its content, and the acts on it.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Extension, Form, Path, Query, State};
use axum::response::{Html, Redirect};
use hookward_observe::api::access::Caller;
use hookward_observe::api::deliveries::{DeliveryContent, DeliveryStatus};
use hookward_observe::audit::Actor;
use hookward_pages::text::{bytes, date_time, visible};
use serde::Deserialize;
use uuid::Uuid;

use super::confirmation::ConfirmationPage;
use super::deliveries::{class_of, event_of, result_of};
use super::{ConsoleError, DELIVERIES, page};
use crate::admin::deliveries::content;
use crate::admin::overview::Overview;
use crate::delivery::{ChangeResult, Requester};
use crate::storage::deliveries::{Change, DeliveryFilter, DeliveryState};

/// The page.
#[derive(Template)]
#[template(path = "delivery.html")]
struct DeliveryDetailPage {
    /// Result of an act.
    notice: Option<&'static str>,
    id: Uuid,
    state: String,
    class: &'static str,
    /// `true` while it can be delivered.
    has_content: bool,
    facts: Vec<(&'static str, String)>,
    request: Option<MessageText>,
    response: Option<MessageText>,
}

/// A request or a response.
struct MessageText {
    start_line: String,
    fields: Vec<(String, String)>,
    body: String,
    /// Size of the whole body; `None` if it is not known.
    size: Option<String>,
}

impl DeliveryDetailPage {
    fn new(content: DeliveryContent, notice: Option<&'static str>) -> Self {
        let text = |text: &str| visible(text).into_owned();
        let request = content.request.map(|request| MessageText {
            start_line: text(&format!(
                "{} {} from {}",
                request.method, request.path, request.client
            )),
            fields: request
                .headers
                .iter()
                .map(|(name, value)| (text(name), text(value)))
                .collect(),
            body: text(&request.body),
            size: Some(bytes(request.body_bytes)),
        });
        let response = content.response.map(|response| MessageText {
            start_line: text(&response.head),
            fields: Vec::new(),
            body: text(&response.body),
            size: None,
        });
        let delivery = content.delivery;
        Self {
            notice,
            id: delivery.id,
            class: class_of(&delivery),
            has_content: delivery.has_content,
            facts: facts(&delivery),
            state: delivery.state,
            request,
            response,
        }
    }
}

fn facts(delivery: &DeliveryStatus) -> Vec<(&'static str, String)> {
    let mut facts = vec![
        ("Webhook", event_of(delivery)),
        ("Tunnel", delivery.tunnel.clone()),
        ("Route", visible(&delivery.route).into_owned()),
        ("Received or redelivered", date_time(delivery.received_ms)),
        ("Attempts and result", result_of(delivery)),
    ];
    facts.extend(delivery.ended_ms.map(|at| ("Ended", date_time(at))));
    facts
}

/// Result of an act, which a page shows.
#[derive(Deserialize)]
pub(super) struct ActQuery {
    #[serde(rename = "done", default)]
    act: String,
}

pub(super) async fn show(
    State(overview): State<Arc<Overview>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<Uuid>,
    Query(query): Query<ActQuery>,
) -> Result<Html<String>, ConsoleError> {
    let requester = Requester::administrator(Actor::api(caller));
    let edge = &overview.edge;
    let content = content(&edge.deliveries, &edge.observer, &requester, id).await?;
    let content = content.ok_or(ConsoleError::NoDelivery)?;
    // A link may name an act that nobody has done.
    let delivery = &content.delivery;
    let notice = match query.act.as_str() {
        "redeliver" if delivery.redelivered > 0 => Some("It is to be delivered again."),
        "drop" if !delivery.has_content => {
            Some("The relay has deleted its content, and makes no further attempt.")
        }
        _ => None,
    };
    page(
        "Delivery",
        DELIVERIES,
        &DeliveryDetailPage::new(content, notice),
    )
}

/// Returns a delivery without its content.
async fn find(overview: &Overview, id: Uuid) -> Result<DeliveryStatus, ConsoleError> {
    let filter = DeliveryFilter {
        id: Some(id),
        ..DeliveryFilter::default()
    };
    let found = overview
        .edge
        .deliveries
        .store()
        .page(filter, None, 1)
        .await?;
    let row = found.rows.into_iter().next();
    row.map(DeliveryStatus::from)
        .ok_or(ConsoleError::NoDelivery)
}

/// Asks before a webhook is redelivered that the application has accepted.
pub(super) async fn confirm_redeliver(
    State(overview): State<Arc<Overview>>,
    Path(id): Path<Uuid>,
) -> Result<Html<String>, ConsoleError> {
    let delivery = find(&overview, id).await?;
    let confirmation = ConfirmationPage {
        question: "Redeliver this webhook?".to_owned(),
        consequence: match delivery.state.as_str() {
            "delivered" => "The application has accepted it, and gets it once more.",
            _ => "The relay sends it to the application now.",
        }
        .to_owned(),
        facts: facts(&delivery),
        fields: vec![("state", delivery.state.clone())],
        action: format!("/deliveries/{id}/redeliver"),
        button: "Redeliver",
        back: format!("/deliveries/{id}"),
    };
    page("Redeliver", DELIVERIES, &confirmation)
}

/// State of a delivery that the user saw.
#[derive(Deserialize)]
pub(super) struct SeenForm {
    state: String,
}

/// Makes a new attempt. A webhook that was delivered meanwhile needs a question first.
pub(super) async fn redeliver(
    State(overview): State<Arc<Overview>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<Uuid>,
    Form(form): Form<SeenForm>,
) -> Result<Redirect, ConsoleError> {
    let delivered = DeliveryState::Delivered.as_str();
    if form.state != delivered && find(&overview, id).await?.state == delivered {
        return Ok(Redirect::to(&format!("/deliveries/{id}/redeliver")));
    }
    change(&overview, id, Change::Redeliver, caller).await?;
    Ok(Redirect::to(&format!("/deliveries/{id}?done=redeliver")))
}

/// Asks before a delivery is dropped.
pub(super) async fn confirm_drop(
    State(overview): State<Arc<Overview>>,
    Path(id): Path<Uuid>,
) -> Result<Html<String>, ConsoleError> {
    let delivery = find(&overview, id).await?;
    let confirmation = ConfirmationPage {
        question: "Drop this delivery?".to_owned(),
        consequence: match delivery.state.as_str() {
            "pending" => {
                "The application has not accepted it. The relay deletes its content and makes no \
                 further attempt."
            }
            _ => "The relay deletes its content, so that it cannot be redelivered.",
        }
        .to_owned(),
        facts: facts(&delivery),
        action: format!("/deliveries/{id}/drop"),
        button: "Drop",
        back: format!("/deliveries/{id}"),
        ..ConfirmationPage::default()
    };
    page("Drop", DELIVERIES, &confirmation)
}

/// Deletes the content of a delivery.
pub(super) async fn drop(
    State(overview): State<Arc<Overview>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<Uuid>,
) -> Result<Redirect, ConsoleError> {
    change(&overview, id, Change::Drop, caller).await?;
    // The row is deleted, too, once it is older than the history.
    match find(&overview, id).await {
        Ok(_) => Ok(Redirect::to(&format!("/deliveries/{id}?done=drop"))),
        Err(ConsoleError::NoDelivery) => Ok(Redirect::to(DELIVERIES)),
        Err(error) => Err(error),
    }
}

async fn change(
    overview: &Overview,
    id: Uuid,
    change: Change,
    caller: Caller,
) -> Result<(), ConsoleError> {
    let requester = Requester::administrator(Actor::api(caller));
    let deliveries = &overview.edge.deliveries;
    match deliveries.change_one(id, change, requester).await? {
        ChangeResult::Changed => Ok(()),
        ChangeResult::Unchanged => Err(ConsoleError::Unchanged),
        ChangeResult::NotFound => Err(ConsoleError::NoDelivery),
    }
}
