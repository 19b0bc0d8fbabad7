//! Service of a site over HTTP: embedded files, protection, and errors as pages.

use askama::Template;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Path, Request, State};
use axum::middleware::{Next, map_response};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::Value;

use crate::assets::page_headers;
use crate::site::Site;
use crate::text::visible;

/// Adds the embedded files of a site to its pages, and to all of them the header fields that protect
/// them in a browser.
pub fn with_assets<S>(pages: Router<S>, site: &'static Site) -> Router<S>
where
    S: Clone + Send + Sync + 'static,
{
    let asset = move |Path(name): Path<String>| async move {
        match site.asset(&name) {
            Some(asset) => {
                ([(header::CONTENT_TYPE, asset.media_type)], asset.content).into_response()
            }
            None => (StatusCode::NOT_FOUND, "there is no such file").into_response(),
        }
    };
    pages
        .route("/assets/{name}", get(asset))
        .layer(map_response(protect))
}

async fn protect(mut response: Response) -> Response {
    add_page_headers(response.headers_mut());
    response
}

fn add_page_headers(headers: &mut HeaderMap) {
    // Browsers ignore some of these fields if they are repeated.
    for (name, value) in page_headers() {
        headers.insert(name, value);
    }
}

/// An error.
#[derive(Template)]
#[template(path = "error.html")]
struct ErrorPage<'e> {
    title: &'e str,
    /// Sentence that says what to do.
    detail: &'e str,
    /// Path of the start page.
    start: &'e str,
}

/// Maximum size of an error's text, in bytes.
const DETAIL_BYTES: usize = 64 * 1024;

/// Middleware that shows an error to a browser as a page. Programs get it unchanged, as problem details
/// (RFC 9457) or as text.
pub async fn show_errors(
    State(site): State<&'static Site>,
    request: Request,
    next: Next,
) -> Response {
    let is_browser = is_navigation(request.headers());
    let response = next.run(request).await;
    let status = response.status();
    if !is_browser || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }

    let (mut parts, body) = response.into_parts();
    let text = to_bytes(body, DETAIL_BYTES).await.unwrap_or_default();
    let problem = serde_json::from_slice::<Value>(&text).ok();
    let detail = problem.and_then(|problem| Some(problem.get("detail")?.as_str()?.to_owned()));
    let detail = detail.unwrap_or_else(|| String::from_utf8_lossy(&text).trim().to_owned());
    let title = status.canonical_reason().unwrap_or("Error");
    let detail = match (detail.is_empty(), status) {
        (true, StatusCode::METHOD_NOT_ALLOWED) => {
            "this address only accepts a form: go back, and use the button".to_owned()
        }
        _ => visible(&detail).into_owned(),
    };
    let content = ErrorPage {
        title,
        detail: &sentence(&detail),
        start: site.links.first().map_or("/", |(path, _)| path),
    };
    let Ok(html) = site.page(title, "", &[], &content) else {
        return (status, detail).into_response();
    };
    parts.headers.remove(header::CONTENT_LENGTH);
    let html_type = HeaderValue::from_static("text/html; charset=utf-8");
    parts.headers.insert(header::CONTENT_TYPE, html_type);
    add_page_headers(&mut parts.headers);
    Response::from_parts(parts, Body::from(html))
}

/// Returns `true` for requests of a browser for a page, also after a form was sent.
fn is_navigation(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT);
    let accept = accept.and_then(|accept| accept.to_str().ok());
    accept.is_some_and(|accept| accept.contains("text/html"))
}

/// Returns an error message as a sentence.
fn sentence(message: &str) -> String {
    let mut letters = message.chars();
    let Some(first) = letters.next() else {
        return String::new();
    };
    let end = match message.ends_with(['.', '!', '?']) {
        true => "",
        false => ".",
    };
    format!("{}{}{end}", first.to_uppercase(), letters.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_become_sentences() {
        for (message, expected) in [
            ("", ""),
            ("there is no agent", "There is no agent."),
            ("Stop!", "Stop!"),
        ] {
            assert_eq!(sentence(message), expected);
        }
    }
}
