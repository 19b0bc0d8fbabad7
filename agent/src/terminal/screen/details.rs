//! One request on the screen: verdict, checks, advice, header fields, and the beginning of bodies.

use std::cell::Cell;

use hookward_gate::engine::explain::CheckOutcome;
use hookward_pages::text::{bytes, date_time, duration, visible};
use ratatui::style::Stylize as _;
use ratatui::text::Line;

use super::requests::wrapped;
use crate::inspector::history::Detail;
use crate::inspector::message::StoredMessage;

/// Maximum number of lines of a body.
const BODY_LINES: usize = 200;

/// A request that the screen shows in full.
pub(super) struct Details {
    pub detail: Box<Detail>,
    /// Number of lines above the first visible one, which drawing bounds.
    scrolled: Cell<usize>,
}

impl Details {
    pub(super) fn new(detail: Detail) -> Self {
        Self {
            detail: Box::new(detail),
            scrolled: Cell::default(),
        }
    }

    /// Scrolls by this number of lines.
    pub(super) fn scroll(&self, lines: isize) {
        let scrolled = self.scrolled.get().saturating_add_signed(lines);
        self.scrolled.set(scrolled);
    }

    /// Returns the lines that fill an area of this size.
    pub(super) fn lines(&self, width: usize, height: usize) -> Vec<Line<'static>> {
        let all = self.all(width);
        let first = self.scrolled.get().min(all.len().saturating_sub(height));
        self.scrolled.set(first);
        all.into_iter().skip(first).take(height).collect()
    }

    fn all(&self, width: usize) -> Vec<Line<'static>> {
        let Detail {
            summary,
            request,
            response,
            explanation,
        } = &*self.detail;
        let mut lines = Vec::new();
        let mut add = |text: &str, is_bold: bool| {
            let text = visible(text);
            // The indentation of JSON stays.
            let indentation: String = text.chars().take_while(|letter| *letter == ' ').collect();
            let room = width.saturating_sub(indentation.len());
            for line in wrapped(&text, room) {
                let line = Line::from(format!("{indentation}{line}"));
                lines.push(if is_bold { line.bold() } else { line });
            }
        };

        let status = summary.status.map(|status| format!(" {status}"));
        let status = status.unwrap_or_default();
        add(&format!("{} {}", summary.method, summary.path), true);
        add(
            &format!(
                "{}{status} in {}, {}, from {}",
                summary.verdict,
                duration(summary.total_us),
                date_time(summary.at_ms),
                summary.client
            ),
            false,
        );
        let sender = [&summary.provider, &summary.event, &summary.route];
        let sender: Vec<_> = sender.into_iter().flatten().map(String::as_str).collect();
        if !sender.is_empty() {
            add(&sender.join(", "), false);
        }
        if let Some(reason) = &summary.reason {
            add(reason, true);
        }

        if let Some(explained) = explanation {
            add("", false);
            add("Checks", true);
            for step in &explained.checks {
                let outcome = match step.outcome {
                    CheckOutcome::Pass => "passes",
                    CheckOutcome::Refuse => "REFUSES",
                    CheckOutcome::Observed => "would refuse",
                    CheckOutcome::RelayOnly => "relay only",
                    CheckOutcome::AgentOnly => "agent only",
                };
                add(&format!("{outcome} {}: {}", step.check, step.reason), false);
            }
            for hint in &explained.hints {
                add(&format!("advice: {hint}"), true);
            }
            for note in &explained.notes {
                add(&format!("note: {note}"), false);
            }
        }

        for (name, message) in [("Request", Some(request)), ("Response", response.as_ref())] {
            let Some(message) = message.filter(|message| !message.head.is_empty()) else {
                continue;
            };
            add("", false);
            add(name, true);
            for line in String::from_utf8_lossy(&message.head).lines() {
                add(line, false);
            }
            lines_of_body(message, &mut add);
        }
        lines
    }
}

fn lines_of_body(message: &StoredMessage, add: &mut impl FnMut(&str, bool)) {
    if message.body_bytes == 0 {
        return;
    }
    add("", false);
    let Ok(text) = std::str::from_utf8(&message.body) else {
        add(&format!("{}, not text", bytes(message.body_bytes)), false);
        return;
    };
    let pretty = serde_json::from_str::<serde_json::Value>(text)
        .ok()
        .and_then(|value| serde_json::to_string_pretty(&value).ok());
    let text = pretty.as_deref().unwrap_or(text);
    for line in text.lines().take(BODY_LINES) {
        add(line, false);
    }
    if text.lines().count() > BODY_LINES || !message.is_whole {
        add("… the inspector has more", false);
    }
}
