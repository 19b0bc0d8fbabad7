//! Console: the pages of the admin API. They show the state of the relay, and ask before
//! they revoke, drop or stop.

mod deliveries;
mod page;

use std::sync::Arc;

use askama::Template;
use axum::Router;
use axum::extract::{Extension, Path, State};
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use hookward_core::names::AgentName;
use hookward_observe::api::access::{Caller, problem};
use hookward_pages::assets::{SHARED, page_headers};
use hookward_pages::layout::{Link, Page};

use self::page::{Confirmation, Console};
use super::overview::Overview;
use crate::storage::StorageError;

/// Returns the routes.
pub(super) fn router() -> Router<Arc<Overview>> {
    Router::new()
        .route("/", get(show))
        .route("/agents/{name}/revoke", get(confirm_revoke).post(revoke))
        .route("/drain", get(confirm_drain).post(drain))
        .route("/deliveries", get(deliveries::list))
        .route("/deliveries/{id}/redeliver", post(deliveries::redeliver))
        .route(
            "/deliveries/{id}/drop",
            get(deliveries::confirm_drop).post(deliveries::drop),
        )
        .route("/assets/{name}", get(asset))
        .layer(axum::middleware::map_response(protect))
}

/// Adds the fields that protect a page.
async fn protect(mut response: Response) -> Response {
    response.headers_mut().extend(page_headers());
    response
}

/// Returns an embedded file.
async fn asset(Path(name): Path<String>) -> Response {
    match SHARED.iter().find(|asset| asset.name == name) {
        Some(asset) => ([(header::CONTENT_TYPE, asset.media_type)], asset.content).into_response(),
        None => problem(StatusCode::NOT_FOUND, "there is no such file"),
    }
}

/// Failure of a page.
enum PageError {
    NoAgent,
    NoState,
    /// Too many changes are in progress.
    Busy,
    Storage(StorageError),
    Template(askama::Error),
}

impl From<StorageError> for PageError {
    fn from(error: StorageError) -> Self {
        Self::Storage(error)
    }
}

impl From<askama::Error> for PageError {
    fn from(error: askama::Error) -> Self {
        Self::Template(error)
    }
}

impl IntoResponse for PageError {
    fn into_response(self) -> Response {
        match self {
            Self::NoAgent => problem(StatusCode::NOT_FOUND, "there is no agent of this name"),
            Self::NoState => problem(
                StatusCode::BAD_REQUEST,
                "state is pending, delivered, dead or dropped",
            ),
            Self::Busy => problem(
                StatusCode::SERVICE_UNAVAILABLE,
                "too many changes are in progress: wait until one has ended",
            ),
            Self::Storage(error) => problem(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()),
            Self::Template(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        }
    }
}

/// Returns a whole page with this content.
fn page(title: &str, content: &impl Template) -> Result<Html<String>, PageError> {
    let links = [("/", OVERVIEW), ("/deliveries", DELIVERIES)];
    let links = links.map(|(href, name)| Link {
        href,
        name,
        is_current: title == name,
    });
    let page = Page {
        title,
        product: "Hookward relay",
        links: &links,
        scripts: &[],
        content: &content.render()?,
    };
    Ok(Html(page.render()?))
}

/// Title of the first page.
const OVERVIEW: &str = "Overview";

/// Title of the list of deliveries.
const DELIVERIES: &str = "Deliveries";

async fn show(State(overview): State<Arc<Overview>>) -> Result<Html<String>, PageError> {
    page(OVERVIEW, &Console::read(&overview).await?)
}

/// Returns the name of an agent that exists.
async fn existing(overview: &Overview, name: &str) -> Result<AgentName, PageError> {
    let agents = overview.agents().await?;
    let exists = agents.iter().any(|agent| agent.name == name);
    let name = AgentName::parse(name).filter(|_| exists);
    name.ok_or(PageError::NoAgent)
}

async fn confirm_revoke(
    State(overview): State<Arc<Overview>>,
    Path(name): Path<String>,
) -> Result<Html<String>, PageError> {
    let name = existing(&overview, &name).await?;
    let confirmation = Confirmation {
        question: format!("Revoke agent {name}?"),
        consequence: "The relay withdraws its credentials and join tokens. Its sessions end within \
                      seconds. It keeps its hosts, which answer 503 until it joins with a new token."
            .to_owned(),
        action: format!("/agents/{name}/revoke"),
        button: "Revoke".to_owned(),
        back: "/",
    };
    page("Revoke", &confirmation)
}

async fn revoke(
    State(overview): State<Arc<Overview>>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Result<Redirect, PageError> {
    let name = AgentName::parse(&name).ok_or(PageError::NoAgent)?;
    match overview.revoke(&name, caller).await? {
        true => Ok(Redirect::to("/")),
        false => Err(PageError::NoAgent),
    }
}

async fn confirm_drain(State(overview): State<Arc<Overview>>) -> Result<Html<String>, PageError> {
    let confirmation = Confirmation {
        question: "Stop the relay?".to_owned(),
        consequence: format!(
            "The relay accepts no new requests, waits at most {} s for those in flight, now {}, and \
             exits. This page cannot start it again: its service manager does, if it restarts \
             programs that end with exit code 0.",
            overview.edge.limits.drain.as_secs(),
            overview.in_flight()
        ),
        action: "/drain".to_owned(),
        button: "Stop".to_owned(),
        back: "/",
    };
    page("Stop", &confirmation)
}

async fn drain(
    State(overview): State<Arc<Overview>>,
    Extension(caller): Extension<Caller>,
) -> (StatusCode, &'static str) {
    overview.drain(caller);
    (StatusCode::ACCEPTED, "The relay drains and stops.\n")
}
