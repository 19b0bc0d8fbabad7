//! Page of stored deliveries, and acts on many of them: redelivery of dead letters, pause and resume.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Extension, Form, Query, State};
use axum::response::{Html, Redirect};
use hookward_observe::api::access::Caller;
use hookward_observe::api::deliveries::{DeliveryStatus, JobStatus};
use hookward_observe::audit::Actor;
use hookward_pages::text::{bytes, counted, date_time, visible};
use serde::Deserialize;
use uuid::Uuid;

use super::confirmation::ConfirmationPage;
use super::{ConsoleError, DELIVERIES, page};
use crate::admin::overview::Overview;
use crate::delivery::Requester;
use crate::storage::deliveries::{Change, DeliveryFilter, DeliveryState};

/// Maximum number of deliveries on a page.
const ROWS: usize = 100;

/// Number of jobs that a page shows.
const JOBS: usize = 3;

/// Dead letters that are redelivered a second: the default of the API.
const RATE: u64 = 50;

/// Part of the list.
#[derive(Deserialize, Default)]
pub(super) struct DeliveryListQuery {
    #[serde(default)]
    state: String,
    #[serde(default)]
    tunnel: String,
    /// Number of the delivery before which the page begins.
    before: Option<i64>,
}

impl DeliveryListQuery {
    fn filter(&self) -> Result<DeliveryFilter, ConsoleError> {
        let mut known = DeliveryState::ALL.into_iter();
        let state = match self.state.as_str() {
            "" => None,
            name => Some(
                known
                    .find(|known| known.as_str() == name)
                    .ok_or(ConsoleError::NoState)?,
            ),
        };
        Ok(DeliveryFilter {
            state,
            tunnel: Some(self.tunnel.clone()).filter(|tunnel| !tunnel.is_empty()),
            ..DeliveryFilter::default()
        })
    }
}

/// Returns the path of the list with these conditions.
fn list_of(tunnel: &str, state: &str) -> String {
    let conditions = [("tunnel", tunnel), ("state", state)];
    let conditions = conditions
        .into_iter()
        .filter(|(_, value)| !value.is_empty());
    match serde_urlencoded::to_string(conditions.collect::<Vec<_>>()) {
        Ok(query) if !query.is_empty() => format!("{DELIVERIES}?{query}"),
        _ => DELIVERIES.to_owned(),
    }
}

/// The list.
#[derive(Template)]
#[template(path = "deliveries.html")]
struct DeliveriesPage {
    /// Name of the state to which the list is limited; empty for all.
    state: String,
    /// Host to which the list is limited; empty for all.
    tunnel: String,
    /// `true` if the attempts of the tunnel are paused.
    is_paused: bool,
    states: [&'static str; 4],
    rows: Vec<DeliveryListItem>,
    /// Number before which the next page begins.
    older: Option<i64>,
    /// Changes of many deliveries, the newest first.
    jobs: Vec<String>,
}

impl DeliveriesPage {
    fn list(&self, state: &str) -> String {
        list_of(&self.tunnel, state)
    }

    fn list_of_tunnel(&self, tunnel: &str) -> String {
        list_of(tunnel, &self.state)
    }

    fn all_tunnels(&self) -> String {
        list_of("", &self.state)
    }

    /// Returns the path of the question before all dead letters of the list are redelivered.
    fn redelivery(&self) -> String {
        list_of(&self.tunnel, "").replacen(DELIVERIES, "/deliveries/redeliver", 1)
    }

    fn next(&self, before: &i64) -> String {
        let list = self.list(&self.state);
        let separator = if list.contains('?') { '&' } else { '?' };
        format!("{list}{separator}before={before}")
    }
}

/// A line of the list.
struct DeliveryListItem {
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

impl From<DeliveryStatus> for DeliveryListItem {
    fn from(delivery: DeliveryStatus) -> Self {
        Self {
            id: delivery.id,
            received: date_time(delivery.received_ms),
            event: event_of(&delivery),
            class: class_of(&delivery),
            result: result_of(&delivery),
            tunnel: delivery.tunnel,
            route: delivery.route,
            state: delivery.state,
            has_content: delivery.has_content,
        }
    }
}

/// Returns provider and event of a delivery.
pub(super) fn event_of(delivery: &DeliveryStatus) -> String {
    let event = [delivery.provider.as_deref(), delivery.event.as_deref()];
    let event: Vec<_> = event.into_iter().flatten().collect();
    visible(&event.join(" ")).into_owned()
}

/// Returns the class of a state: its colour, which is never its only sign.
pub(super) fn class_of(delivery: &DeliveryStatus) -> &'static str {
    match delivery.state.as_str() {
        "delivered" => "good",
        "dead" => "bad",
        _ => "warn",
    }
}

/// Returns the attempts of a delivery in words.
pub(super) fn result_of(delivery: &DeliveryStatus) -> String {
    let last = match (&delivery.last_error, delivery.last_status) {
        (Some(error), _) => Some(visible(error).into_owned()),
        (None, Some(status)) => Some(format!("status {status}")),
        (None, None) => None,
    };
    let next = delivery.next_attempt_ms;
    let again = delivery.redelivered;
    let result = [
        Some(counted(u64::from(delivery.attempts), "attempt")),
        (again > 0).then(|| format!("redelivered by hand: {again}")),
        last,
        next.map(|at| format!("next attempt {}", date_time(at))),
        Some(bytes(delivery.bytes)),
    ];
    let result: Vec<_> = result.into_iter().flatten().collect();
    result.join(" · ")
}

/// Returns a change of many deliveries in words.
fn job_in_words(job: &JobStatus) -> String {
    let state = match (job.has_ended, &job.failure) {
        (false, _) => "in progress".to_owned(),
        (true, None) => "ended".to_owned(),
        (true, Some(failure)) => format!("failed: {}", visible(failure)),
    };
    let (change, changed) = (&job.change, job.changed);
    format!("{change}: {changed} of {} changed, {state}", job.matched)
}

/// Returns the list, newest first.
pub(super) async fn list(
    State(overview): State<Arc<Overview>>,
    Query(query): Query<DeliveryListQuery>,
) -> Result<Html<String>, ConsoleError> {
    let filter = query.filter()?;
    let deliveries = &overview.edge.deliveries;
    let store = deliveries.store();
    let found = store.page(filter, query.before, ROWS).await?;
    let last = found.rows.last().map(|row| row.seq);
    let jobs = deliveries.jobs();
    let jobs = jobs.iter().rev().take(JOBS);
    let content = DeliveriesPage {
        is_paused: store.is_paused(&query.tunnel),
        state: query.state,
        tunnel: query.tunnel,
        states: DeliveryState::ALL.map(DeliveryState::as_str),
        older: last.filter(|_| found.has_more),
        rows: found
            .rows
            .into_iter()
            .map(|row| DeliveryListItem::from(DeliveryStatus::from(row)))
            .collect(),
        jobs: jobs
            .map(|job| job_in_words(&JobStatus::from(&**job)))
            .collect(),
    };
    page("Deliveries", DELIVERIES, &content)
}

/// Tunnel whose deliveries an act is about; empty for all.
#[derive(Deserialize)]
pub(super) struct TunnelForm {
    #[serde(default)]
    tunnel: String,
}

/// Asks before all dead letters are redelivered.
pub(super) async fn confirm_redeliver(
    Query(form): Query<TunnelForm>,
) -> Result<Html<String>, ConsoleError> {
    let of = match form.tunnel.as_str() {
        "" => "all tunnels",
        tunnel => tunnel,
    };
    let confirmation = ConfirmationPage {
        question: "Redeliver the dead letters?".to_owned(),
        consequence: format!(
            "The relay sends every dead letter of {of} to its application again, up to {RATE} a second."
        ),
        action: "/deliveries/redeliver".to_owned(),
        back: list_of(&form.tunnel, DeliveryState::Dead.as_str()),
        fields: vec![("tunnel", form.tunnel)],
        button: "Redeliver",
        ..ConfirmationPage::default()
    };
    page("Redeliver", DELIVERIES, &confirmation)
}

/// Redelivers all dead letters in the background.
pub(super) async fn redeliver(
    State(overview): State<Arc<Overview>>,
    Extension(caller): Extension<Caller>,
    Form(form): Form<TunnelForm>,
) -> Result<Redirect, ConsoleError> {
    let query = DeliveryListQuery {
        state: DeliveryState::Dead.as_str().to_owned(),
        tunnel: form.tunnel.clone(),
        before: None,
    };
    let requester = Requester::administrator(Actor::api(caller));
    let deliveries = &overview.edge.deliveries;
    match deliveries.change(query.filter()?, Change::Redeliver, RATE, requester) {
        Some(_) => Ok(Redirect::to(&list_of(&form.tunnel, ""))),
        None => Err(ConsoleError::Busy),
    }
}

/// Stops the attempts of a tunnel.
pub(super) async fn pause(
    State(overview): State<Arc<Overview>>,
    Extension(caller): Extension<Caller>,
    Form(form): Form<TunnelForm>,
) -> Result<Redirect, ConsoleError> {
    set_paused(&overview, form, true, caller).await
}

/// Makes the attempts of a tunnel again.
pub(super) async fn resume(
    State(overview): State<Arc<Overview>>,
    Extension(caller): Extension<Caller>,
    Form(form): Form<TunnelForm>,
) -> Result<Redirect, ConsoleError> {
    set_paused(&overview, form, false, caller).await
}

async fn set_paused(
    overview: &Overview,
    form: TunnelForm,
    is_paused: bool,
    caller: Caller,
) -> Result<Redirect, ConsoleError> {
    let known = overview.edge.registry.find(&form.tunnel);
    if known.is_none() {
        return Err(ConsoleError::NoTunnel);
    }
    let requester = Requester::administrator(Actor::api(caller));
    let deliveries = &overview.edge.deliveries;
    deliveries.pause(&form.tunnel, is_paused, requester).await?;
    Ok(Redirect::to(&list_of(&form.tunnel, "")))
}
