//! Deliveries as the API shows them. Lists hold no content; a single delivery is shown without its
//! secrets.

use axum::http::HeaderName;
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use hookward_core::secret::names::is_secret_name;
use hookward_core::text::shown_path;
use hookward_gate::engine::{Grant, TokenSpan};
use hookward_gate::policy::{Accept, Policy, Route, SignatureCheck};
use hookward_gate::redaction::Redaction;
use hookward_observe::api::deliveries::{
    DeliveryContent, DeliveryStatus, JobStatus, StoredRequest, StoredResponse,
};
use hookward_tunnel::protocol::head::ExchangeRequest;

use crate::delivery::jobs::Job;
use crate::storage::deliveries::{Change, DeliveryDetail, DeliveryRow, Payload};

impl From<DeliveryRow> for DeliveryStatus {
    fn from(row: DeliveryRow) -> Self {
        Self {
            id: row.id,
            tunnel: row.tunnel,
            route: row.route,
            provider: row.provider,
            event: row.event,
            state: row.state.as_str().to_owned(),
            attempts: row.attempts,
            redelivered: row.redelivered,
            last_status: row.last_status,
            last_error: row.last_error,
            received_ms: row.received.0,
            ended_ms: row.ended.map(|ended| ended.0),
            next_attempt_ms: row.due.map(|due| due.0),
            bytes: row.bytes,
            has_content: row.has_payload,
        }
    }
}

impl From<&Job> for JobStatus {
    fn from(job: &Job) -> Self {
        Self {
            job: job.number,
            change: match job.change {
                Change::Redeliver => "redeliver".to_owned(),
                Change::Drop => "drop".to_owned(),
            },
            started_ms: job.started.0,
            matched: job.matched(),
            changed: job.changed(),
            has_ended: job.has_ended(),
            failure: job.failure(),
        }
    }
}

/// Returns a delivery with its content, without secrets.
pub(super) fn content(detail: DeliveryDetail) -> DeliveryContent {
    let rules = rules_of(detail.row.provider.as_deref());
    let response = detail.response.map(|response| StoredResponse {
        head: response.head,
        body: text(&rules, "", &response.body),
    });
    DeliveryContent {
        delivery: DeliveryStatus::from(detail.row),
        request: detail.payload.and_then(|payload| request(payload, &rules)),
        response,
    }
}

/// Returns the rules for the webhooks of a provider: names that say that a value is secret, and the
/// places where the provider puts one.
fn rules_of(provider: Option<&str>) -> Redaction {
    let mut route = Route::new("stored", Vec::new());
    route.accept.push(Accept {
        verify: provider.map(SignatureCheck::by).into_iter().collect(),
        ..Accept::default()
    });
    Redaction::of(&Policy::new(vec![route]), &[])
}

/// Returns the beginning of a body as text, without secrets.
fn text(rules: &Redaction, media_type: &str, body: &[u8]) -> String {
    let shown = body.get(..body.len().min(SHOWN_BYTES)).unwrap_or_default();
    let is_cut = shown.len() < body.len();
    let shown = rules
        .redacted()
        .body(media_type, shown, is_cut)
        .into_owned();
    String::from_utf8_lossy(&shown).into_owned()
}

fn request(payload: Payload, rules: &Redaction) -> Option<StoredRequest> {
    let Payload { head, grant, body } = payload;
    let head = ExchangeRequest::decode(head).ok()?;
    let grant: Grant = serde_json::from_slice(&grant).ok()?;
    let is_token = |name: &HeaderName| {
        let is_own = |span: &TokenSpan| matches!(span, TokenSpan::Header(token) if token == name);
        grant.tokens.iter().any(is_own)
    };

    let media_type = head.headers.get(CONTENT_TYPE);
    let media_type = media_type.and_then(|kind| kind.to_str().ok());
    let media_type = media_type.unwrap_or_default();
    let headers = head.headers.iter().map(|(name, value)| {
        let value = match !is_token(name) && is_harmless(name) {
            true => String::from_utf8_lossy(value.as_bytes()).into_owned(),
            false => "(hidden)".to_owned(),
        };
        (name.as_str().to_owned(), value)
    });
    Some(StoredRequest {
        client: head.meta.client.to_string(),
        method: head.method.to_string(),
        path: shown_path(&head.target).into_owned(),
        headers: headers.collect(),
        body_bytes: body.len() as u64,
        body: match head.headers.get(CONTENT_ENCODING) {
            // Secrets in it cannot be found.
            Some(coding) if !coding.as_bytes().eq_ignore_ascii_case(b"identity") => {
                "(compressed)".to_owned()
            }
            _ => text(rules, media_type, &body),
        },
    })
}

/// Returns `true` for fields that hold no secret. Providers put secrets and signatures into fields of
/// many names, so that all others are hidden.
fn is_harmless(name: &HeaderName) -> bool {
    const NAMES: [&str; 8] = [
        "accept",
        "content-encoding",
        "content-length",
        "content-type",
        "date",
        "host",
        "traceparent",
        "user-agent",
    ];
    const ENDS: [&str; 5] = ["-event", "-event-key", "-event-type", "-topic", "-delivery"];
    let name = name.as_str();
    let is_plain = NAMES.contains(&name) || ENDS.iter().any(|end| name.ends_with(end));
    is_plain && !is_secret_name(name.as_bytes())
}

/// Maximum number of bytes of a body that are shown.
const SHOWN_BYTES: usize = 64 * 1024;
