//! Page of stored deliveries, and acts on many of them: redelivery of dead letters, pause and resume.

use std::borrow::Cow;
use std::sync::Arc;

use askama::Template;
use axum::extract::{Extension, Form, Query, State};
use axum::response::{Html, Redirect};
use hookward_observe::api::access::Caller;
use hookward_observe::api::deliveries::{DeliveryStatus, JobStatus};
use hookward_observe::audit::Actor;
use hookward_pages::site::path_with;
use hookward_pages::text::{bytes, clock, counted, date_time, day_and_minute, visible};
use serde::Deserialize;
use uuid::Uuid;

use super::confirmation::ConfirmationPage;
use super::{ConsoleError, DELIVERIES, live_page, page};
use crate::admin::deliveries::{CONDITION_BYTES, RATE};
use crate::admin::overview::Overview;
use crate::delivery::Requester;
use crate::storage::deliveries::{Change, DeliveryFilter, DeliveryState};

/// Maximum number of deliveries on a page.
const ROWS: usize = 100;

/// Number of jobs that a page shows.
const JOBS: usize = 3;

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
        let state = match self.state.as_str() {
            "" => None,
            name => Some(DeliveryState::parse(name).ok_or(ConsoleError::NoState)?),
        };
        if self.tunnel.len() > CONDITION_BYTES {
            return Err(ConsoleError::NoTunnel);
        }
        Ok(DeliveryFilter {
            state,
            tunnel: Some(self.tunnel.clone()).filter(|tunnel| !tunnel.is_empty()),
            ..DeliveryFilter::default()
        })
    }
}

/// Returns `true` for hosts of tunnels, and of those that have stored webhooks.
fn is_known(overview: &Overview, tunnel: &str) -> bool {
    let stored = overview.edge.deliveries.store().tunnels();
    overview.edge.registry.find(tunnel).is_some()
        || stored.iter().any(|stored| *stored.host == *tunnel)
}

/// Returns the path of the list with these conditions.
fn list_of(tunnel: &str, state: &str) -> String {
    path_with(DELIVERIES, &[("tunnel", tunnel), ("state", state)])
}

/// The list.
#[derive(Template)]
#[template(path = "deliveries.html")]
struct DeliveriesPage {
    /// Name of the state to which the list is limited; empty for all.
    state: String,
    /// Host to which the list is limited; empty for all.
    tunnel: String,
    /// `true` if there is this tunnel, so that its attempts can be paused.
    is_known: bool,
    /// `true` if the attempts of the tunnel are paused.
    is_paused: bool,
    states: [&'static str; 4],
    rows: Vec<DeliveryListItem>,
    /// Number before which the next page begins.
    older: Option<i64>,
    /// Changes of many deliveries, the newest first.
    jobs: Vec<String>,
    /// Time at which the page was made.
    made: String,
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

    fn next(&self, before: &i64) -> String {
        let before = before.to_string();
        let conditions = [
            ("tunnel", self.tunnel.as_str()),
            ("state", &self.state),
            ("before", &before),
        ];
        path_with(DELIVERIES, &conditions)
    }

    /// Returns the path of the question before all dead letters of the list are redelivered.
    fn redelivery(&self) -> String {
        let path = "/deliveries/redeliver";
        match self.tunnel.is_empty() {
            true => path_with(path, &[("all_tunnels", "true")]),
            false => path_with(path, &[("tunnel", &self.tunnel)]),
        }
    }

    fn shown<'t>(&self, text: &'t str) -> Cow<'t, str> {
        visible(text)
    }
}

/// A line of the list.
struct DeliveryListItem {
    id: Uuid,
    /// Time in UTC, whole and short.
    received: String,
    received_short: String,
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
            received_short: day_and_minute(delivery.received_ms),
            event: event_of(&delivery),
            class: class_of(&delivery),
            result: result_of(&delivery),
            tunnel: delivery.tunnel,
            route: visible(&delivery.route).into_owned(),
            state: delivery.state,
            has_content: delivery.has_content,
        }
    }
}

/// Returns provider and event of a delivery.
pub(super) fn event_of(delivery: &DeliveryStatus) -> String {
    let event = [delivery.provider.as_deref(), delivery.event.as_deref()];
    let event: Vec<_> = event.into_iter().flatten().collect();
    match event.is_empty() {
        true => "webhook".to_owned(),
        false => visible(&event.join(" ")).into_owned(),
    }
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
    let at = clock(job.started_ms);
    format!(
        "{at} UTC, {change}: {changed} of {} changed, {state}",
        job.matched
    )
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
        is_known: is_known(&overview, &query.tunnel),
        is_paused: store.is_paused(&query.tunnel),
        state: query.state,
        tunnel: query.tunnel,
        states: DeliveryState::ALL.map(DeliveryState::as_str),
        made: date_time(overview.clock.now().0),
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
    live_page("Deliveries", DELIVERIES, &content)
}

/// Tunnel whose deliveries an act is about.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TunnelForm {
    tunnel: String,
}

/// Tunnels whose dead letters are redelivered. A form without fields would be a mistake.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RedeliveryForm {
    tunnel: Option<String>,
    all_tunnels: Option<bool>,
}

impl RedeliveryForm {
    /// Returns the host of the tunnel, which must exist; `None` for all.
    fn tunnel(&self, overview: &Overview) -> Result<Option<&str>, ConsoleError> {
        match (self.tunnel.as_deref(), self.all_tunnels) {
            (Some(tunnel), None) if is_known(overview, tunnel) => Ok(Some(tunnel)),
            (None, Some(true)) => Ok(None),
            _ => Err(ConsoleError::NoTunnel),
        }
    }
}

/// Asks before all dead letters are redelivered.
pub(super) async fn confirm_redeliver(
    State(overview): State<Arc<Overview>>,
    Query(form): Query<RedeliveryForm>,
) -> Result<Html<String>, ConsoleError> {
    let tunnel = form.tunnel(&overview)?;
    let dead = overview.edge.deliveries.store().counts(tunnel).dead;
    let of = tunnel.map_or_else(
        || "all tunnels".to_owned(),
        |tunnel| visible(tunnel).into_owned(),
    );
    let confirmation = ConfirmationPage {
        question: "Redeliver the dead letters?".to_owned(),
        consequence: format!(
            "The relay sends {} of {of} to the application again, up to {RATE} a second.",
            counted(dead, "dead letter")
        ),
        action: "/deliveries/redeliver".to_owned(),
        back: list_of(tunnel.unwrap_or_default(), DeliveryState::Dead.as_str()),
        fields: vec![match tunnel {
            Some(tunnel) => ("tunnel", tunnel.to_owned()),
            None => ("all_tunnels", "true".to_owned()),
        }],
        button: "Redeliver",
        ..ConfirmationPage::default()
    };
    page("Redeliver", DELIVERIES, &confirmation)
}

/// Redelivers all dead letters in the background.
pub(super) async fn redeliver(
    State(overview): State<Arc<Overview>>,
    Extension(caller): Extension<Caller>,
    Form(form): Form<RedeliveryForm>,
) -> Result<Redirect, ConsoleError> {
    let tunnel = form.tunnel(&overview)?;
    let filter = DeliveryFilter {
        state: Some(DeliveryState::Dead),
        tunnel: tunnel.map(str::to_owned),
        ..DeliveryFilter::default()
    };
    let requester = Requester::administrator(Actor::api(caller));
    let deliveries = &overview.edge.deliveries;
    match deliveries.change(filter, Change::Redeliver, RATE, requester) {
        Some(_) => Ok(Redirect::to(&list_of(tunnel.unwrap_or_default(), ""))),
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
    if !is_known(overview, &form.tunnel) {
        return Err(ConsoleError::NoTunnel);
    }
    let requester = Requester::administrator(Actor::api(caller));
    let deliveries = &overview.edge.deliveries;
    deliveries.pause(&form.tunnel, is_paused, requester).await?;
    Ok(Redirect::to(&list_of(&form.tunnel, "")))
}
