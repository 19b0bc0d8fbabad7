//! Deliveries as text for people.

use hookward_core::clock::UnixMillis;
use hookward_core::text::printable;
use hookward_observe::api::deliveries::{DeliveryContent, DeliveryStatus};
use hookward_observe::table::{self, span};

/// Returns a list as a table.
pub(super) fn list(deliveries: &[DeliveryStatus], now: UnixMillis) -> String {
    let header = [
        "ID", "RECEIVED", "STATE", "TUNNEL", "ROUTE", "EVENT", "ATTEMPTS", "BYTES", "LAST",
    ];
    let rows = deliveries.iter().map(|delivery| {
        let event = [&delivery.provider, &delivery.event];
        let event: Vec<_> = event.into_iter().flatten().map(String::as_str).collect();
        vec![
            delivery.id.to_string(),
            ago(delivery.received_ms, now),
            printable(&delivery.state),
            printable(&delivery.tunnel),
            printable(&delivery.route),
            printable(&event.join(" ")),
            delivery.attempts.to_string(),
            delivery.bytes.to_string(),
            last(delivery),
        ]
    });
    table::text(&header, rows.collect())
}

fn ago(at: u64, now: UnixMillis) -> String {
    format!("{} ago", span(now.0.saturating_sub(at) / 1000))
}

/// Returns the last response or failure.
fn last(delivery: &DeliveryStatus) -> String {
    match (&delivery.last_error, delivery.last_status) {
        (Some(error), _) => printable(error),
        (None, Some(status)) => status.to_string(),
        (None, None) => "-".to_owned(),
    }
}

/// Returns a webhook with its content.
pub(super) fn content(content: &DeliveryContent, now: UnixMillis) -> String {
    let delivery = &content.delivery;
    let mut lines = vec![
        format!("id          {}", delivery.id),
        format!("state       {}", printable(&delivery.state)),
        format!("received    {}", ago(delivery.received_ms, now)),
        format!("tunnel      {}", printable(&delivery.tunnel)),
        format!("route       {}", printable(&delivery.route)),
        format!(
            "attempts    {}, redelivered {}",
            delivery.attempts, delivery.redelivered
        ),
        format!("last        {}", last(delivery)),
    ];
    if let Some(next) = delivery.next_attempt_ms {
        let wait = span(next.saturating_sub(now.0) / 1000);
        lines.push(format!("next        in {wait}"));
    }

    match &content.request {
        Some(request) => {
            lines.push(format!("client      {}", printable(&request.client)));
            lines.push(String::new());
            lines.push(printable(&format!("{} {}", request.method, request.path)));
            let fields = request.headers.iter();
            lines.extend(fields.map(|(name, value)| printable(&format!("{name}: {value}"))));
            lines.push(String::new());
            lines.push(lines_of(&request.body));
        }
        None => lines.push("content     not stored any more".to_owned()),
    }
    if let Some(response) = &content.response {
        lines.push(String::new());
        lines.push("last response:".to_owned());
        lines.push(lines_of(&response.head));
        lines.push(String::new());
        lines.push(lines_of(&response.body));
    }
    lines.join("\n")
}

/// Returns text of others for a terminal.
fn lines_of(text: &str) -> String {
    text.lines().map(printable).collect::<Vec<_>>().join("\n")
}
