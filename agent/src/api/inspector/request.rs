//! One request: its page, its download, and the actions on it.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Extension, Form, Path, Query, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse as _, Redirect, Response};
use hookward_gate::policy::SignatureCheck;
use hookward_observe::api::access::{Caller, problem};
use hookward_observe::api::deliveries::DeliveryPage;
use hookward_observe::audit::Actor;
use serde::Deserialize;
use serde_json::json;

use super::InspectorApiError;
use crate::api::status::AgentView;
use crate::inspector::again::{Draft, Restored};
use crate::inspector::capture::Source;
use crate::inspector::filter::Filter;
use crate::inspector::history::{Detail, HistoryError, Page, Summary};
use crate::inspector::pages::detail::{DeliveryView, RequestPage, RequestPlace};
use crate::inspector::pages::edit::EditPage;
use crate::inspector::pages::{INSPECTOR, REQUESTS};
use crate::inspector::remedy::remedies;

/// Result of an action, shown on the page of a request.
#[derive(Deserialize, Default)]
pub(super) struct NoticeQuery {
    /// Filter of the list that the user came from.
    #[serde(default)]
    filter: String,
    #[serde(default)]
    sent: bool,
    /// Names of the checks whose signature the request has.
    #[serde(default)]
    signed: String,
    #[serde(default)]
    redelivered: bool,
}

pub(super) async fn show(
    State(view): State<Arc<AgentView>>,
    Path(number): Path<i64>,
    Query(notice): Query<NoticeQuery>,
) -> Result<Html<String>, InspectorApiError> {
    let detail = view.captured(number).await?;
    let mut page = request_page(&view, &detail).await?;
    if let Ok(filter) = Filter::parse(&notice.filter, view.clock.now()) {
        let history = &view.inspector()?.history;
        let (newer, older) = tokio::join!(
            history.list(&filter, Page::After(number), 1),
            history.list(&filter, Page::Before(number), 1),
        );
        // A slow search costs the links, not the page.
        let number_of = |found: Result<Vec<Summary>, HistoryError>| {
            found.ok()?.first().map(|summary| summary.number)
        };
        (page.newer, page.older) = (number_of(newer), number_of(older));
        page.filter = notice.filter;
    }
    if notice.redelivered {
        page.notice = Some("The relay delivers the webhook again.".to_owned());
    }
    if notice.sent {
        let signed = signed_by(&view, &detail, &notice.signed);
        page.notice = Some(format!("Sent to the application{signed}."));
    }
    whole_page(&detail, &page)
}

/// Returns the part of a notice on new signatures. A link may have any text, so that only names of the
/// tunnel's own checks are shown.
fn signed_by(view: &AgentView, detail: &Detail, names: &str) -> String {
    let Some(tunnel) = view.tunnel(&detail.summary.tunnel) else {
        return String::new();
    };
    let policy = tunnel.gate.policy();
    let rules = policy.policy.routes.iter().flat_map(|route| &route.accept);
    let checks: Vec<_> = rules
        .flat_map(|rule| &rule.verify)
        .map(SignatureCheck::title)
        .collect();
    let names: Vec<_> = names
        .split(SIGNED_BY)
        .filter(|name| checks.iter().any(|check| check == name))
        .collect();
    match names.is_empty() {
        true => String::new(),
        false => format!(
            ", with a new signature as {} makes it",
            names.join(SIGNED_BY)
        ),
    }
}

/// Separator of the names of checks.
pub(super) const SIGNED_BY: &str = " and ";

async fn request_page(view: &AgentView, detail: &Detail) -> Result<RequestPage, InspectorApiError> {
    let tunnel = view.tunnel(&detail.summary.tunnel);
    let stuck = match (Restored::of(detail), &tunnel) {
        (Err(error), _) => Some(error.to_string()),
        (_, None) => Some("this agent has not opened its tunnel".to_owned()),
        (Ok(_), Some(_)) => None,
    };
    let delivery = match &detail.summary.delivery {
        Some(id) => Some(view.delivery(id).await?),
        None => None,
    };
    let ca = view.inspector()?.ca.as_deref();
    let application = tunnel.as_ref();
    let application = application.map(|tunnel| tunnel.handler.pool.application().to_string());
    let place = RequestPlace {
        ca,
        application: application.as_deref().unwrap_or("PORT"),
    };
    let mut page = RequestPage::new(detail, stuck, delivery, place)?;
    if let Some(tunnel) = tunnel {
        page.remedies = remedies(&tunnel.gate.policy().policy, detail, (&tunnel.origin, ca));
    }
    Ok(page)
}

fn whole_page(detail: &Detail, page: &RequestPage) -> Result<Html<String>, InspectorApiError> {
    let title = format!("{} {}", detail.summary.method, detail.summary.path);
    Ok(Html(INSPECTOR.page(
        &title,
        REQUESTS,
        &["request.js", "copy.js"],
        page,
    )?))
}

/// Returns a request in the form that `hookward explain --request` reads.
pub(super) async fn raw(
    State(view): State<Arc<AgentView>>,
    Path(number): Path<i64>,
) -> Result<Response, InspectorApiError> {
    let detail = view.captured(number).await?;
    if !detail.request.is_whole {
        let reason = "the history does not have the whole request";
        return Ok(problem(StatusCode::CONFLICT, reason));
    }
    let name = format!("attachment; filename=\"request-{number}.http\"");
    let name = HeaderValue::from_str(&name).unwrap_or(HeaderValue::from_static("attachment"));
    let headers = [
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/octet-stream"),
        ),
        (header::CONTENT_DISPOSITION, name),
    ];
    Ok((headers, detail.request.to_http()).into_response())
}

pub(super) async fn edit(
    State(view): State<Arc<AgentView>>,
    Path(number): Path<i64>,
) -> Result<Response, InspectorApiError> {
    let detail = view.captured(number).await?;
    let restored = match Restored::of(&detail) {
        Ok(restored) => restored,
        Err(error) => return Ok(problem(StatusCode::CONFLICT, &error.to_string())),
    };
    let page = edit_page(number, &detail, restored.draft, restored.missing);
    Ok(Html(INSPECTOR.page("Edit and send", REQUESTS, &[], &page)?).into_response())
}

fn edit_page(number: i64, detail: &Detail, draft: Draft, missing: Vec<String>) -> EditPage {
    EditPage {
        title: format!(
            "Edit and send: {} {}",
            detail.summary.method, detail.summary.path
        ),
        back: format!("/requests/{number}"),
        action: format!("/requests/{number}/send"),
        tunnels: vec![detail.summary.tunnel.clone()],
        method: draft.method,
        target: draft.target,
        fields: draft.fields,
        body: String::from_utf8(draft.body).ok(),
        signs: true,
        missing,
        problem: None,
    }
}

/// Fields of a request to send.
#[derive(Deserialize)]
pub(super) struct SendForm {
    /// Set if the other fields replace the captured request.
    edited: Option<String>,
    method: Option<String>,
    target: Option<String>,
    fields: Option<String>,
    body: Option<String>,
    sign: Option<String>,
}

impl SendForm {
    /// Applies the edits to a draft.
    fn apply(self, draft: &mut Draft) {
        if self.edited.is_none() {
            return;
        }
        if let Some(method) = self.method {
            draft.method = method;
        }
        if let Some(target) = self.target {
            draft.target = target;
        }
        if let Some(fields) = self.fields {
            draft.fields = fields;
        }
        if let Some(body) = self.body {
            // Browsers send each line break as CR LF (HTML Living Standard §4.10.21.7).
            let has_crlf = draft.body.windows(2).any(|pair| pair == b"\r\n");
            draft.body = match has_crlf {
                true => body.into_bytes(),
                false => body.replace("\r\n", "\n").into_bytes(),
            };
        }
    }
}

pub(super) async fn send(
    State(view): State<Arc<AgentView>>,
    Extension(caller): Extension<Caller>,
    Path(number): Path<i64>,
    Form(form): Form<SendForm>,
) -> Result<Response, InspectorApiError> {
    let detail = view.captured(number).await?;
    let is_edited = form.edited.is_some();
    let signs = form.sign.is_some();
    let (draft, missing) = match Restored::of(&detail) {
        Ok(Restored { mut draft, missing }) => {
            form.apply(&mut draft);
            (draft, missing)
        }
        Err(error) => return Ok(problem(StatusCode::CONFLICT, &error.to_string())),
    };

    let client = detail.summary.client.parse().ok();
    let wish = Wish {
        host: &detail.summary.tunnel,
        client,
        source: Source::Again(number),
        signs,
    };
    match view.send(draft.clone(), wish, Actor::api(caller)).await {
        Ok(sent) => {
            let target = sent.number.unwrap_or(number);
            let signed = sent.signed_by.join(SIGNED_BY);
            let query = [("sent", "true"), ("signed", &signed)];
            let query = serde_urlencoded::to_string(query).unwrap_or_default();
            let target = format!("/requests/{target}?{query}");
            Ok(Redirect::to(&target).into_response())
        }
        Err(reason) if is_edited => {
            let mut page = edit_page(number, &detail, draft, missing);
            page.signs = signs;
            page.problem = Some(reason);
            let html = INSPECTOR.page("Edit and send", REQUESTS, &[], &page)?;
            Ok((StatusCode::UNPROCESSABLE_ENTITY, Html(html)).into_response())
        }
        Err(reason) => {
            let mut page = request_page(&view, &detail).await?;
            page.problem = Some(reason);
            let html = whole_page(&detail, &page)?;
            Ok((StatusCode::UNPROCESSABLE_ENTITY, html).into_response())
        }
    }
}

/// Request that the user wants to send.
pub(crate) struct Wish<'w> {
    /// Host of the tunnel.
    pub host: &'w str,
    pub client: Option<IpAddr>,
    pub source: Source,
    /// `true` to sign anew.
    pub signs: bool,
}

/// A request that was sent.
pub(crate) struct SentRequest {
    /// Its number in the history, if it is captured.
    pub number: Option<i64>,
    pub status: StatusCode,
    pub signed_by: Vec<String>,
}

impl AgentView {
    /// Returns a stored delivery: its state at the relay, and the attempts in the history.
    async fn delivery(&self, id: &str) -> Result<DeliveryView, InspectorApiError> {
        let attempts = self.inspector()?.history.attempts(id.to_owned()).await?;
        // Without the content, whose display the relay would record.
        let path = format!("/api/v1/deliveries?id={id}");
        let answer = self.call_relay("GET", &path).await;
        let state = match answer {
            Ok((StatusCode::OK, body)) => match serde_json::from_str::<DeliveryPage>(&body) {
                Ok(page) => match page.deliveries.into_iter().next() {
                    Some(delivery) => Ok(delivery.state),
                    None => Err("the relay no longer has it".to_owned()),
                },
                Err(error) => Err(error.to_string()),
            },
            Ok((status, _)) => Err(format!("the relay does not show it: {status}")),
            Err(reason) => Err(reason),
        };
        Ok(DeliveryView::new(id, state, &attempts))
    }

    /// Sends a draft to the application.
    ///
    /// # Errors
    /// The reason, for the user.
    pub(crate) async fn send(
        &self,
        draft: Draft,
        wish: Wish<'_>,
        actor: Actor,
    ) -> Result<SentRequest, String> {
        let Some(tunnel) = self.tunnel(wish.host) else {
            return Err(format!(
                "this agent has not opened the tunnel {}",
                wish.host
            ));
        };
        let now = self.clock.now();
        let prepared = draft.prepare(&tunnel, wish.signs, wish.client, (wish.source, now));
        let prepared = prepared.map_err(|error| error.to_string())?;

        let details = json!({
            "tunnel": wish.host,
            "again_of": match wish.source {
                Source::Again(number) => Some(number),
                Source::Sender | Source::Sample => None,
            },
            "signed_by": prepared.signed_by,
        });
        let audit = self.observer.audit();
        audit.act("request_sent_by_user", actor, details);
        let sent = tunnel.send_for_owner(prepared.request).await;
        let sent = sent.map_err(|error| error.to_string())?;
        let number = match &self.inspector {
            // Without its number, the page of the original is shown.
            Some(inspector) => inspector
                .history
                .arrival(&sent.id.to_string())
                .await
                .unwrap_or(None),
            None => None,
        };
        Ok(SentRequest {
            number,
            status: sent.status,
            signed_by: prepared.signed_by,
        })
    }
}

/// Requests another delivery of a stored webhook.
pub(super) async fn redeliver(
    State(view): State<Arc<AgentView>>,
    Extension(caller): Extension<Caller>,
    Path(number): Path<i64>,
) -> Result<Response, InspectorApiError> {
    let detail = view.captured(number).await?;
    let Some(id) = &detail.summary.delivery else {
        let reason = "the webhook was not stored; send it again instead";
        return Ok(problem(StatusCode::CONFLICT, reason));
    };
    let target = format!("/api/v1/deliveries/redeliver?id={id}");
    match view.change_at_relay("POST", &target, caller).await {
        Ok((status, _)) if status.is_success() => {
            let place = format!("/requests/{number}?redelivered=true");
            Ok(Redirect::to(&place).into_response())
        }
        Ok((status, body)) => {
            let mut page = request_page(&view, &detail).await?;
            page.problem = Some(format!("the relay answers {status}: {body}"));
            Ok((StatusCode::BAD_GATEWAY, whole_page(&detail, &page)?).into_response())
        }
        Err(reason) => {
            let mut page = request_page(&view, &detail).await?;
            page.problem = Some(reason);
            Ok((StatusCode::BAD_GATEWAY, whole_page(&detail, &page)?).into_response())
        }
    }
}
