//! Console: the pages of the admin API. They show the state of the relay, its deliveries and its audit
//! log, and ask before they revoke, drop, stop, or deliver again what was delivered.

mod audit;
mod audit_filter;
mod confirmation;
mod deliveries;
mod delivery;
mod start_page;

use std::sync::Arc;

use askama::Template;
use axum::Router;
use axum::extract::{Extension, Form, Path, Query, State};
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use hookward_core::names::AgentName;
use hookward_observe::api::access::{Caller, problem};
use hookward_pages::assets::script;
use hookward_pages::serve::with_assets;
use hookward_pages::site::{Site, path_with};
use serde::Deserialize;

use self::confirmation::ConfirmationPage;
use self::start_page::StartPage;
use super::deliveries::STATES;
use super::overview::Overview;
use crate::storage::StorageError;

/// The console.
pub(super) static CONSOLE: Site = Site {
    product: "Hookward relay",
    links: &[
        (OVERVIEW, "Overview"),
        (DELIVERIES, "Deliveries"),
        (AUDIT, "Audit log"),
    ],
    scripts: &[
        script("audit.js", include_str!("console/assets/audit.js")),
        script("refresh.js", include_str!("console/assets/refresh.js")),
    ],
};

/// Path of the start page.
const OVERVIEW: &str = "/";

/// Path of the list of deliveries.
const DELIVERIES: &str = "/deliveries";

/// Path of the audit log.
const AUDIT: &str = "/audit";

/// Returns the routes.
pub(super) fn router() -> Router<Arc<Overview>> {
    let pages = Router::new()
        .route(OVERVIEW, get(show))
        .route("/agents/{name}/revoke", get(confirm_revoke).post(revoke))
        .route("/drain", get(confirm_drain).post(drain))
        .route(DELIVERIES, get(deliveries::list))
        .route(
            "/deliveries/redeliver",
            get(deliveries::confirm_redeliver).post(deliveries::redeliver),
        )
        .route("/deliveries/pause", post(deliveries::pause))
        .route("/deliveries/resume", post(deliveries::resume))
        .route("/deliveries/{id}", get(delivery::show))
        .route(
            "/deliveries/{id}/redeliver",
            get(delivery::confirm_redeliver).post(delivery::redeliver),
        )
        .route(
            "/deliveries/{id}/drop",
            get(delivery::confirm_drop).post(delivery::drop),
        )
        .route(AUDIT, get(audit::show))
        .route("/audit/stream", get(audit::stream));
    with_assets(pages, &CONSOLE)
}

/// Failure of a page.
enum ConsoleError {
    NoAgent,
    NoTunnel,
    NoDelivery,
    NoState,
    /// The state of a delivery allows no such change.
    Unchanged,
    /// The page is of an earlier run of the relay.
    Restarted,
    /// Too many changes are in progress.
    Busy,
    NoAuditLog,
    LongFilter,
    Storage(StorageError),
    Template(askama::Error),
}

impl From<StorageError> for ConsoleError {
    fn from(error: StorageError) -> Self {
        Self::Storage(error)
    }
}

impl From<askama::Error> for ConsoleError {
    fn from(error: askama::Error) -> Self {
        Self::Template(error)
    }
}

impl IntoResponse for ConsoleError {
    fn into_response(self) -> Response {
        let (status, detail) = match &self {
            Self::NoAgent => (StatusCode::NOT_FOUND, "there is no agent of this name"),
            Self::NoTunnel => (StatusCode::NOT_FOUND, "there is no tunnel with this host"),
            Self::NoDelivery => (StatusCode::NOT_FOUND, "there is no delivery with this id"),
            Self::NoState => (StatusCode::BAD_REQUEST, STATES),
            Self::Unchanged => (
                StatusCode::CONFLICT,
                "the delivery has not changed: its content is deleted, or it is dropped already",
            ),
            Self::Restarted => (
                StatusCode::CONFLICT,
                "the relay has started again since this page was opened; it has not been stopped",
            ),
            Self::Busy => (
                StatusCode::SERVICE_UNAVAILABLE,
                "too many changes are in progress: wait until one has ended",
            ),
            Self::NoAuditLog => (
                StatusCode::NOT_FOUND,
                "this relay has no audit log: name a sink in [audit]",
            ),
            Self::LongFilter => (StatusCode::BAD_REQUEST, "a filter has at most 256 bytes"),
            Self::Storage(error) => {
                return problem(StatusCode::SERVICE_UNAVAILABLE, &error.to_string());
            }
            Self::Template(error) => {
                return problem(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string());
            }
        };
        problem(status, detail)
    }
}

/// Returns a whole page with this content, below a page of the navigation.
fn page(title: &str, current: &str, content: &impl Template) -> Result<Html<String>, ConsoleError> {
    Ok(Html(CONSOLE.page(title, current, &["time.js"], content)?))
}

/// Returns a page whose element `fresh` a script updates.
fn live_page(
    title: &str,
    current: &str,
    content: &impl Template,
) -> Result<Html<String>, ConsoleError> {
    Ok(Html(CONSOLE.page(
        title,
        current,
        &["refresh.js"],
        content,
    )?))
}

/// Result of an act, which the start page shows.
#[derive(Deserialize)]
struct RevokedQuery {
    /// Name of the agent.
    revoked: Option<String>,
}

async fn show(
    State(overview): State<Arc<Overview>>,
    Query(query): Query<RevokedQuery>,
) -> Result<Html<String>, ConsoleError> {
    let content = StartPage::read(&overview, query.revoked.as_deref()).await?;
    live_page("Overview", OVERVIEW, &content)
}

/// Returns the name of an agent that exists.
async fn existing(overview: &Overview, name: &str) -> Result<AgentName, ConsoleError> {
    let agents = overview.agents().await?;
    let exists = agents.iter().any(|agent| agent.name == name);
    let name = AgentName::parse(name).filter(|_| exists);
    name.ok_or(ConsoleError::NoAgent)
}

async fn confirm_revoke(
    State(overview): State<Arc<Overview>>,
    Path(name): Path<String>,
) -> Result<Html<String>, ConsoleError> {
    let name = existing(&overview, &name).await?;
    let confirmation = ConfirmationPage {
        question: format!("Revoke agent {name}?"),
        consequence: "The relay withdraws its credentials and join tokens. Its sessions end within \
                      seconds. It keeps its hosts, which answer 503 until it joins with a new token."
            .to_owned(),
        action: format!("/agents/{name}/revoke"),
        button: "Revoke",
        back: OVERVIEW.to_owned(),
        ..ConfirmationPage::default()
    };
    page("Revoke", OVERVIEW, &confirmation)
}

async fn revoke(
    State(overview): State<Arc<Overview>>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Result<Redirect, ConsoleError> {
    let name = AgentName::parse(&name).ok_or(ConsoleError::NoAgent)?;
    match overview.revoke(&name, caller).await? {
        true => Ok(Redirect::to(&path_with(
            OVERVIEW,
            &[("revoked", name.as_str())],
        ))),
        false => Err(ConsoleError::NoAgent),
    }
}

/// Identity of the run of the relay that a page is of.
#[derive(Deserialize)]
struct RunForm {
    started_ms: u64,
}

async fn confirm_drain(
    State(overview): State<Arc<Overview>>,
) -> Result<Html<String>, ConsoleError> {
    let confirmation = ConfirmationPage {
        question: "Stop the relay?".to_owned(),
        consequence: format!(
            "The relay accepts no new requests, waits at most {} s for those in flight, now {}, and \
             exits. This page cannot start it again: its service manager does, if it restarts \
             programs that end with exit code 0.",
            overview.edge.limits.drain.as_secs(),
            overview.in_flight()
        ),
        action: "/drain".to_owned(),
        fields: vec![("started_ms", overview.started.0.0.to_string())],
        button: "Stop",
        back: OVERVIEW.to_owned(),
        ..ConfirmationPage::default()
    };
    page("Stop", OVERVIEW, &confirmation)
}

/// Last page of the console.
#[derive(Template)]
#[template(
    source = "<section class=\"panel\"><h1>The relay drains and stops</h1></section>",
    ext = "html"
)]
struct Stopping;

/// Stops the relay. A page that is sent again does not stop the next run.
async fn drain(
    State(overview): State<Arc<Overview>>,
    Extension(caller): Extension<Caller>,
    Form(form): Form<RunForm>,
) -> Result<(StatusCode, Html<String>), ConsoleError> {
    if form.started_ms != overview.started.0.0 {
        return Err(ConsoleError::Restarted);
    }
    overview.drain(caller);
    Ok((StatusCode::ACCEPTED, page("Stop", OVERVIEW, &Stopping)?))
}
