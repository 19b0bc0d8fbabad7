//! The lines above the requests: session, relays, URLs, protection, application, counts.

use std::time::Duration;

use ratatui::style::{Color, Stylize as _};
use ratatui::text::{Line, Span};

use super::requests::wrapped;
use super::{Link, Screen};
use crate::terminal::lines;

/// Maximum number of sentences on the protection.
const PROTECTION: usize = 3;

impl Screen {
    /// Returns the lines above the requests.
    pub(super) fn top(&self, tunnels: usize, width: usize) -> Vec<Line<'_>> {
        let mut top = vec![
            Line::from("hookward".bold()),
            Line::default(),
            Line::from(vec![
                Span::raw(format!("{:<NAME$}", "Session")),
                self.state(),
            ]),
        ];

        for (relay, link) in &self.relays {
            top.push(row(
                "Relay",
                format!("{relay} ({})", self.link(relay, link)),
            ));
        }

        if let Some(inspector) = &self.inspector {
            top.push(row("Inspector", inspector.clone()));
        }

        for ready in self.tunnels.values().take(tunnels) {
            top.push(row(
                "Forwarding",
                format!("{} -> {}", ready.base_url, ready.application),
            ));
            top.push(Line::from("Webhook URL"));
            top.push(Line::from(ready.url.as_str()).bold());
        }

        let more = self.tunnels.len().saturating_sub(tunnels);
        if more > 0 {
            top.push(row("", format!("and {more} more tunnels")));
        }

        let mut name = "Lets in";
        for sentence in self.snapshot.protection.iter().take(PROTECTION) {
            for line in wrapped(sentence, width.saturating_sub(NAME)) {
                top.push(row(std::mem::take(&mut name), line));
            }
        }
        for (application, problem) in &self.unhealthy {
            let text = problem
                .strip_prefix("the application at ")
                .unwrap_or(problem);
            for line in wrapped(text, width.saturating_sub(NAME)) {
                let name = if line.starts_with(application.as_str()) {
                    "Application"
                } else {
                    ""
                };
                top.push(row(name, line).red());
            }
        }

        if let Some(ca) = self.tunnels.values().find_map(|ready| ready.ca.as_ref()) {
            top.push(row("Certificate", format!("self-signed: {ca}")));
        }

        for message in &self.messages {
            let lines = wrapped(&message.line(), width).into_iter();
            top.extend(lines.map(|line| Line::from(line).yellow()));
        }

        top.push(row("Requests", self.counts()));
        if let Some(durations) = self.snapshot.durations {
            top.push(row("Durations", percentiles(durations)));
        }
        if self.lost > 0 {
            let text = format!(
                "{} events were too many at once, and are not shown",
                self.lost
            );
            top.push(row("", text));
        }

        top.push(Line::default());
        top
    }

    /// Returns the lines above the requests on a low screen: state, URLs, the newest message and
    /// the counts.
    pub(super) fn compact_top(&self, tunnels: usize) -> Vec<Line<'_>> {
        let mut top = vec![Line::from(vec![
            "hookward ".bold(),
            self.state(),
            Span::raw(format!("  {}", self.counts())),
        ])];

        let urls = self.tunnels.values().take(tunnels);
        top.extend(urls.map(|ready| Line::from(ready.url.as_str()).bold()));

        let more = self.tunnels.len().saturating_sub(tunnels);
        if more > 0 {
            top.push(Line::from(format!("and {more} more tunnels")));
        }

        let problem = self.unhealthy.values().next();
        top.extend(problem.map(|problem| Line::from(problem.as_str()).red()));

        let newest = self.messages.back();
        top.extend(newest.map(|message| Line::from(message.line()).yellow()));
        top
    }

    /// Returns the transport to a relay with its round-trip time, or the reason of its loss.
    fn link(&self, relay: &str, link: &Link) -> String {
        match link {
            Link::Open(transport) => match self.snapshot.round_trips.get(relay) {
                Some(millis) => format!("{transport}, {millis:.1} ms"),
                None => transport.to_string(),
            },
            Link::Lost(None) => "not reached".to_owned(),
            Link::Lost(Some(reason)) => format!("not reached: {reason}"),
        }
    }

    fn state(&self) -> Span<'_> {
        let color = match self.state.as_str() {
            "online" => Color::Green,
            _ => Color::Yellow,
        };
        Span::styled(self.state.as_str(), color)
    }
}

/// Width of the names.
const NAME: usize = 14;

/// Returns the percentiles of the application's time.
fn percentiles([median, p90, p99]: [Duration; 3]) -> String {
    let [median, p90, p99] = [median, p90, p99].map(lines::short);
    format!("p50 {median}, p90 {p90}, p99 {p99} until the application responds")
}

fn row(name: &'static str, value: String) -> Line<'static> {
    Line::from(vec![Span::raw(format!("{name:<NAME$}")), Span::raw(value)])
}
