//! Exports of the history: JSON lines, and HAR 1.2 (w3c.github.io/web-performance/specs/HAR), which
//! browsers and HTTP tools read.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use data_encoding::BASE64;
use futures_util::{Stream, stream};
use hookward_observe::api::access::problem;
use hookward_pages::text::date_time;
use serde_json::{Value, json};

use super::{InspectorApiError, ListQuery};
use crate::api::status::AgentView;
use crate::inspector::filter::Filter;
use crate::inspector::history::{Detail, History, HistoryError, Page};
use crate::inspector::message::{HeadParts, StoredMessage};

/// Number of requests that are read at once.
const BATCH: usize = 50;

/// Returns the requests that match a filter as JSON lines, oldest first.
pub(super) async fn lines(
    State(view): State<Arc<AgentView>>,
    Query(query): Query<ListQuery>,
) -> Result<Response, InspectorApiError> {
    export(
        &view,
        &query,
        ("requests.jsonl", "application/x-ndjson"),
        ["", "\n", ""],
        line,
    )
}

/// Returns them as one HAR document.
pub(super) async fn har(
    State(view): State<Arc<AgentView>>,
    Query(query): Query<ListQuery>,
) -> Result<Response, InspectorApiError> {
    let begin = concat!(
        r#"{"log":{"version":"1.2","creator":{"name":"Hookward","version":""#,
        env!("CARGO_PKG_VERSION"),
        r#""},"entries":["#
    );
    export(
        &view,
        &query,
        ("requests.har", "application/json"),
        [begin, ",\n", "]}}\n"],
        entry,
    )
}

fn export(
    view: &AgentView,
    query: &ListQuery,
    (name, media_type): (&'static str, &'static str),
    [begin, between, end]: [&'static str; 3],
    form: fn(&Detail) -> Value,
) -> Result<Response, InspectorApiError> {
    let filter = match Filter::parse(&query.filter, view.clock.now()) {
        Ok(filter) => filter,
        Err(mistake) => return Ok(problem(StatusCode::BAD_REQUEST, &mistake.to_string())),
    };
    let exporter = Exporter {
        history: view.inspector()?.history.clone(),
        filter,
        after: 0,
        between,
        end: Some(end),
        is_first: true,
        begin: Some(begin),
        form,
    };

    let disposition = format!("attachment; filename=\"{name}\"");
    let disposition = HeaderValue::from_str(&disposition);
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(media_type)),
        (
            header::CONTENT_DISPOSITION,
            disposition.unwrap_or(HeaderValue::from_static("attachment")),
        ),
    ];
    Ok((headers, Body::from_stream(exporter.stream())).into_response())
}

/// An export in progress. It reads some requests at a time.
struct Exporter {
    history: History,
    filter: Filter,
    after: i64,
    begin: Option<&'static str>,
    between: &'static str,
    /// `None` once the export has ended.
    end: Option<&'static str>,
    is_first: bool,
    form: fn(&Detail) -> Value,
}

impl Exporter {
    fn stream(self) -> impl Stream<Item = Result<String, HistoryError>> {
        // An error ends the response without its end, so that no half is taken for the whole.
        stream::unfold(self, |mut exporter| async move {
            let next = exporter.next().await.transpose()?;
            Some((next, exporter))
        })
    }

    async fn next(&mut self) -> Result<Option<String>, HistoryError> {
        let Some(end) = self.end else {
            return Ok(None);
        };
        let mut text = self.begin.take().unwrap_or_default().to_owned();
        let found = self
            .history
            .list(&self.filter, Page::After(self.after), BATCH)
            .await?;
        for summary in &found {
            self.after = summary.number;
            // It may be too old by now.
            let Some(detail) = self.history.find(summary.number).await? else {
                continue;
            };
            // JSON lines end each line; the entries of a HAR are separated.
            let is_separator = self.between.starts_with(',');
            if is_separator && !self.is_first {
                text.push_str(self.between);
            }
            self.is_first = false;
            text.push_str(&(self.form)(&detail).to_string());
            if !is_separator {
                text.push_str(self.between);
            }
        }
        if found.len() < BATCH {
            self.end = None;
            text.push_str(end);
        }
        Ok(Some(text))
    }
}

/// Returns a request as a line of JSON has it.
pub(in crate::api) fn line(detail: &Detail) -> Value {
    let summary = &detail.summary;
    json!({
        "time": date_time(summary.at_ms),
        "summary": summary,
        "request": message(&detail.request),
        "response": detail.response.as_ref().map(message),
        "explanation": detail.explanation,
    })
}

/// Returns a message: fields in order, and the body as text or in Base64.
fn message(message: &StoredMessage) -> Value {
    let head = message.parts();
    let (text, encoding) = content(&message.body);
    json!({
        "start_line": head.start_line,
        "headers": head.fields,
        "body": text,
        "body_encoding": encoding,
        "body_bytes": message.body_bytes,
        "is_whole": message.is_whole,
        "is_redacted": message.is_redacted,
    })
}

fn content(body: &[u8]) -> (String, Option<&'static str>) {
    match std::str::from_utf8(body) {
        Ok(text) => (text.to_owned(), None),
        Err(_) => (BASE64.encode(body), Some("base64")),
    }
}

/// Returns an entry of a HAR.
fn entry(detail: &Detail) -> Value {
    let summary = &detail.summary;
    let millis = |micros: Option<u64>| micros.map_or(-1.0, |micros| micros as f64 / 1000.0);
    let pairs = |fields: Vec<(String, String)>| -> Vec<_> {
        let fields = fields.into_iter();
        fields
            .map(|(name, value)| json!({ "name": name, "value": value }))
            .collect()
    };
    let media_type = |head: &HeadParts| head.field("content-type").unwrap_or_default().to_owned();

    let head = detail.request.parts();
    let target = head.target().unwrap_or(&summary.path).to_owned();
    let (text, encoding) = content(&detail.request.body);
    let post_data = (!detail.request.body.is_empty()).then(|| {
        json!({ "mimeType": media_type(&head), "text": text, "params": [], "encoding": encoding })
    });
    let response = detail.response.as_ref();
    let answer_head = response.map(StoredMessage::parts).unwrap_or_default();
    let (answer, answer_encoding) = detail
        .response
        .as_ref()
        .map_or_else(Default::default, |response| content(&response.body));
    let answer_bytes = detail
        .response
        .as_ref()
        .map_or(0, |response| response.body_bytes);
    json!({
        "startedDateTime": date_time(summary.at_ms),
        "time": summary.total_us as f64 / 1000.0,
        "request": {
            "method": summary.method,
            "url": format!("https://{}{target}", detail.request.authority(&summary.tunnel)),
            "httpVersion": "HTTP/1.1",
            "cookies": [],
            "headers": pairs(head.fields),
            "queryString": [],
            "postData": post_data,
            "headersSize": detail.request.head.len() + 2,
            "bodySize": detail.request.body_bytes,
        },
        "response": {
            "status": summary.status.unwrap_or(0),
            "statusText": answer_head.start_line.splitn(3, ' ').nth(2).unwrap_or_default(),
            "httpVersion": "HTTP/1.1",
            "cookies": [],
            "content": {
                "size": answer_bytes,
                "mimeType": media_type(&answer_head),
                "text": answer,
                "encoding": answer_encoding,
            },
            "headers": pairs(answer_head.fields),
            "redirectURL": "",
            "headersSize": -1,
            "bodySize": answer_bytes,
        },
        "cache": {},
        "timings": {
            "send": millis(summary.gate_us),
            "wait": millis(summary.application_us),
            "receive": 0,
        },
        "comment": summary.reason.clone().unwrap_or_else(|| summary.verdict.clone()),
    })
}
