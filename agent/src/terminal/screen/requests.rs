//! The list of requests: newest first, in aligned columns, with a filter, a pause and scrolling.

use std::collections::VecDeque;
use std::time::Instant;

use hookward_core::clock::UnixMillis;
use hookward_core::reason::Check;
use hookward_core::text::printable;
use hookward_tunnel::protocol::control::RefusedRequest;
use ratatui::style::{Style, Stylize};
use ratatui::text::Line;
use time::OffsetDateTime;

use super::columns::{Cells, Columns, INDENT, TIME};
use crate::events::{Event, RequestEvent, RequestResult, TimedEvent};
use crate::inspector::filter::shown::ShownRequest;
use crate::inspector::filter::{Filter, FilterError};
use crate::terminal::lines;

/// Requests on the screen.
#[derive(Default)]
pub(super) struct RequestList {
    /// Rows, newest first, by the time of their responses.
    rows: VecDeque<Row>,
    /// Rows that arrived during the pause, oldest first; `None` without a pause.
    waiting: Option<VecDeque<Row>>,
    /// Filter of visible rows, as the user writes it.
    filter: String,
    /// The last filter without a mistake, and the mistake of the present one.
    terms: Filter,
    mistake: Option<FilterError>,
    /// Number of matching rows above the first visible one.
    scrolled: usize,
    /// `true` while the first visible row is marked as the selected one.
    is_selecting: bool,
}

impl RequestList {
    /// Inserts a request at its place: refusals by the relay arrive a little late.
    pub(super) fn insert(&mut self, row: Row) {
        if let Some(waiting) = &mut self.waiting {
            if waiting.len() == MAX_ROWS {
                waiting.pop_front();
            }
            waiting.push_back(row);
            return;
        }

        // The rows that the user has scrolled to stay in place.
        if self.scrolled > 0 && row.matches(&self.terms) {
            let first = self.matching().nth(self.scrolled);
            let above = first.is_none_or(|first| first.moment <= row.moment);
            self.scrolled += usize::from(above);
        }

        let place = self
            .rows
            .iter()
            .position(|shown| shown.moment <= row.moment)
            .unwrap_or(self.rows.len());
        self.rows.insert(place, row);
        self.rows.truncate(MAX_ROWS);

        // The oldest rows, which the user may have scrolled to, are gone.
        let last = self.matching().count().saturating_sub(1);
        self.scrolled = self.scrolled.min(last);
    }

    /// Holds new rows back, or shows those that were held back and returns to the newest row.
    pub(super) fn toggle_pause(&mut self) {
        match self.waiting.take() {
            None => self.waiting = Some(VecDeque::new()),
            Some(waiting) => {
                self.scrolled = 0;
                waiting.into_iter().for_each(|row| self.insert(row));
            }
        }
    }

    /// Returns the number of rows held back; `None` without a pause.
    pub(super) fn paused(&self) -> Option<usize> {
        self.waiting.as_ref().map(VecDeque::len)
    }

    /// Returns the filter of visible rows.
    pub(super) fn filter(&self) -> &str {
        &self.filter
    }

    /// Returns the mistake of the filter, which selects as before it then.
    pub(super) const fn mistake(&self) -> Option<&FilterError> {
        self.mistake.as_ref()
    }

    /// Changes the filter, and returns to the newest row.
    pub(super) fn edit_filter(&mut self, now: UnixMillis, edit: impl FnOnce(&mut String)) {
        edit(&mut self.filter);
        self.mistake = match Filter::parse_for_terminal(&self.filter, now) {
            Ok(terms) => {
                self.terms = terms;
                None
            }
            Err(mistake) => Some(mistake),
        };
        self.scrolled = 0;
    }

    /// Scrolls by this number of rows; positive numbers lead to older ones.
    pub(super) fn scroll(&mut self, rows: isize) {
        let last = self.matching().count().saturating_sub(1);
        self.scrolled = self.scrolled.saturating_add_signed(rows).min(last);
        self.is_selecting = true;
    }

    /// Marks the first visible row as the selected one, or not.
    pub(super) fn select(&mut self, is_selecting: bool) {
        self.is_selecting = is_selecting;
    }

    /// Returns the id of the selected request.
    pub(super) fn selected(&self) -> Option<String> {
        self.matching().nth(self.scrolled)?.id.clone()
    }

    /// Adds the provider and the event to a request's row.
    pub(super) fn name_sender(&mut self, id: &str, sender: &str) {
        let waiting = self.waiting.iter_mut().flatten();
        let mut rows = self.rows.iter_mut().chain(waiting);
        let row = rows.find(|row| row.id.as_deref() == Some(id));
        if let Some(cells) = row.and_then(|row| row.cells.as_mut()) {
            cells.sender = printable(sender);
        }
    }

    fn matching(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| row.matches(&self.terms))
    }

    /// Returns the lines that fill an area of this size.
    pub(super) fn lines(&self, width: usize, height: usize) -> Vec<Line<'static>> {
        if self.rows.is_empty() {
            return vec![Line::from("No requests yet.").dim()];
        }

        let columns = Columns::of(width);
        let mut lines = vec![Line::from(columns.title()).dim()];
        for (number, row) in self.matching().skip(self.scrolled).enumerate() {
            if lines.len() >= height {
                break;
            }
            let is_selected = number == 0 && self.is_selecting;
            lines.extend(row.lines(&columns, width, is_selected));
        }

        if lines.len() == 1 {
            lines.push(Line::from("No request matches the filter."));
        }
        lines.truncate(height);
        lines
    }
}

/// Row of a request.
pub(super) struct Row {
    /// Request id; `None` for a summary.
    id: Option<String>,
    moment: Instant,
    at: UnixMillis,
    style: Style,
    time: String,
    /// Columns; `None` for a summary of several requests.
    cells: Option<Cells>,
    /// Check that refused.
    check: Option<Check>,
    /// Reason of the verdict, if there is one.
    reason: Option<String>,
}

impl Row {
    /// Creates the row of an event about requests; other events have none. With `several` tunnels,
    /// the path begins with the host.
    pub(super) fn of(stamped: &TimedEvent, several: bool) -> Option<Self> {
        let id = match &stamped.event {
            Event::Request(request) => Some(request.id.to_string()),
            Event::Refused(refused) => Some(refused.id.clone()),
            _ => None,
        };
        let check = match &stamped.event {
            Event::Request(request) => request.outcome.check(),
            Event::Refused(refused) => Some(refused.check),
            _ => None,
        };
        let (style, cells, reason) = match &stamped.event {
            Event::Request(request) => {
                let (verdict, reason) = verdict_of(&request.outcome);
                let cells = cells_of(request, verdict, several);
                (style_of(&request.outcome), Some(cells), reason)
            }
            Event::Refused(refused) => {
                let (style, verdict, reason) = relay_verdict_of(refused);
                let cells = Cells {
                    method: refused.method.clone(),
                    path: located(&refused.host, &refused.path, several),
                    status: refused.status.to_string(),
                    took: format!("{}ms", refused.ms),
                    client: refused.client.clone(),
                    sender: String::new(),
                    verdict,
                };
                (style, Some(cells), Some(reason))
            }
            Event::RefusedSummary(_) => {
                let text = lines::text(&stamped.event, several);
                (Style::new().red(), None, Some(text))
            }
            _ => return None,
        };

        Some(Self {
            id,
            moment: stamped.moment,
            at: millis(stamped.at),
            style,
            time: super::clock(stamped.at),
            cells,
            check,
            reason,
        })
    }

    fn matches(&self, filter: &Filter) -> bool {
        let shown = ShownRequest {
            at: self.at,
            id: self.id.as_deref().unwrap_or_default(),
            check: self.check.map(Check::as_str).unwrap_or_default(),
            reason: self.reason.as_deref().unwrap_or_default(),
            ..ShownRequest::default()
        };
        let Some(cells) = &self.cells else {
            return filter.matches(&shown);
        };
        filter.matches(&ShownRequest {
            method: &cells.method,
            path: &cells.path,
            status: &cells.status,
            client: &cells.client,
            sender: &cells.sender,
            verdict: cells.verdict,
            ..shown
        })
    }

    fn lines(&self, columns: &Columns, width: usize, is_selected: bool) -> Vec<Line<'static>> {
        let mut lines = Vec::new();
        if let Some(cells) = &self.cells {
            lines.push(columns.row(&self.time, cells));
        }

        if let Some(reason) = &self.reason {
            for line in wrapped(reason, width.saturating_sub(INDENT)) {
                // The reason of a row without columns begins beside the time.
                let margin = if lines.is_empty() { &self.time } else { "" };
                lines.push(format!("{margin:<TIME$} {line}"));
            }
        }

        let styled = |(number, text)| {
            let line = Line::styled(text, self.style);
            // Reversed, because it must be seen without colours, too.
            match number == 0 && is_selected {
                true => line.reversed(),
                false => line,
            }
        };
        lines.into_iter().enumerate().map(styled).collect()
    }
}

fn millis(at: OffsetDateTime) -> UnixMillis {
    let millis = at.unix_timestamp_nanos() / 1_000_000;
    UnixMillis(u64::try_from(millis).unwrap_or_default())
}

fn located(host: &str, path: &str, several: bool) -> String {
    format!("{}{path}", if several { host } else { "" })
}

fn cells_of(request: &RequestEvent, verdict: &'static str, several: bool) -> Cells {
    Cells {
        method: request.method(),
        path: located(&request.host, &request.path, several),
        status: request
            .outcome
            .status()
            .map_or_else(|| "-".to_owned(), |status| status.to_string()),
        took: lines::short(request.took),
        client: request.client.to_string(),
        sender: String::new(),
        verdict,
    }
}

fn style_of(outcome: &RequestResult) -> Style {
    match outcome {
        RequestResult::Answered { status, .. } | RequestResult::Challenge { status }
            if *status < 400 =>
        {
            Style::new().green()
        }
        RequestResult::Answered { .. } => Style::new().yellow(),
        _ => Style::new().red(),
    }
}

/// Returns the verdict on a request that reached the agent, and its reason.
fn verdict_of(outcome: &RequestResult) -> (&'static str, Option<String>) {
    let reason = match outcome {
        RequestResult::Answered {
            observed: Some((check, reason)),
            ..
        } => {
            let reason = format!("would be refused by {check}: {reason}");
            return (OBSERVED, Some(reason));
        }
        RequestResult::Answered { secrets, .. } if secrets.is_empty() => None,
        RequestResult::Answered { secrets, .. } => Some(format!("by {}", secrets.join(", "))),
        RequestResult::Challenge { .. } => Some("the provider's challenge".to_owned()),
        RequestResult::Refused { check, reason, .. } => {
            Some(format!("by the agent's {check}: {reason}"))
        }
        RequestResult::Failed { code, reason, .. } => Some(format!("{code}: {reason}")),
        RequestResult::Aborted => Some("by the sender or the relay".to_owned()),
    };

    (outcome.verdict(), reason)
}

/// Returns the verdict of the relay on a request, and its reason.
fn relay_verdict_of(refused: &RefusedRequest) -> (Style, &'static str, String) {
    let RefusedRequest { check, reason, .. } = refused;
    if refused.note {
        return (Style::new().yellow(), "forwarded", reason.clone());
    }

    if refused.answered {
        let reason = format!("by the relay: {reason}");
        return (Style::new().green(), "answered", reason);
    }

    if refused.observed {
        let reason = format!("would be refused by {check}: {reason}");
        return (Style::new().red(), OBSERVED, reason);
    }

    let reason = format!("by {check}: {reason}");
    (Style::new().red(), "refused", reason)
}

/// Verdict on a request that passes only because its route observes.
const OBSERVED: &str = "observed";

/// Maximum number of rows to keep, about 0.5 KB each.
const MAX_ROWS: usize = 1_000;

/// Breaks a text into lines of at most `width` characters, between words where possible.
pub(super) fn wrapped(text: &str, width: usize) -> Vec<String> {
    let width = width.max(1);
    let (mut lines, mut line, mut used) = (Vec::new(), String::new(), 0);

    for word in text.split_whitespace() {
        if used > 0 && used + 1 + word.chars().count() > width {
            lines.push(std::mem::take(&mut line));
            used = 0;
        }

        if used > 0 {
            line.push(' ');
            used += 1;
        }

        for letter in word.chars() {
            if used == width {
                lines.push(std::mem::take(&mut line));
                used = 0;
            }
            line.push(letter);
            used += 1;
        }
    }

    lines.push(line);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(path: &str, client: &str) -> Row {
        let refused = RefusedRequest {
            id: String::new(),
            host: "h.example".to_owned(),
            method: "POST".to_owned(),
            path: path.to_owned(),
            client: client.to_owned(),
            status: 403,
            check: Check::Token,
            reason: "the token in the URL is not one of this route's tokens".to_owned(),
            ms: 3,
            observed: false,
            answered: false,
            note: false,
            age_ms: 0,
            at_ms: 0,
            order: 0,
            content: None,
        };
        Row::of(&Event::Refused(Box::new(refused)).into(), false).unwrap()
    }

    fn text(list: &RequestList, width: usize, height: usize) -> Vec<String> {
        let lines = list.lines(width, height).into_iter();
        lines.map(|line| line.to_string()).collect()
    }

    #[test]
    fn columns_are_aligned_and_no_line_is_wider_than_the_screen() {
        let mut list = RequestList::default();
        list.insert(refusal("/a", "192.0.2.1"));
        list.insert(refusal(
            &"/long".repeat(40),
            "2001:db8:1111:2222:3333:4444:5555:6666",
        ));

        for width in [50, 60, 80, 120] {
            let lines = text(&list, width, 40);
            assert!(
                lines.iter().all(|line| line.chars().count() <= width),
                "{width}: {lines:#?}"
            );

            let place = |line: &String| {
                let at = line.find("refused").or_else(|| line.find("VERDICT"));
                at.map(|at| line.get(..at).unwrap().chars().count())
            };
            let places: Vec<_> = lines.iter().filter_map(place).collect();
            assert!(
                places.len() == 3 && places.iter().all(|place| place == &places[0]),
                "{width}: {lines:#?}"
            );
            assert_eq!(lines[0].contains("CLIENT"), width >= 80);
        }
    }

    #[test]
    fn reasons_are_wrapped_between_words() {
        let lines = wrapped("the token is wrong abcdefghijkl", 9);
        assert_eq!(lines, ["the token", "is wrong", "abcdefghi", "jkl"]);
    }

    #[test]
    fn the_filter_selects_rows_by_any_column() {
        let mut list = RequestList::default();
        list.insert(refusal("/git/push", "192.0.2.1"));
        list.insert(refusal("/jira", "192.0.2.77"));

        for (filter, count) in [
            ("", 2),
            ("check:token -path:jira", 1),
            ("status:4xx", 2),
            ("status:x", 2),
            ("PUSH", 1),
            ("2.77", 1),
            ("refused", 2),
            ("none", 0),
        ] {
            list.edit_filter(UnixMillis(0), |text| *text = filter.to_owned());
            assert_eq!(list.matching().count(), count, "{filter}");
        }
        assert!(text(&list, 80, 10)[1].contains("No request matches"));
    }

    #[test]
    fn a_pause_holds_rows_back_and_scrolling_keeps_its_place() {
        let mut list = RequestList::default();
        for number in 0..10 {
            list.insert(refusal(&format!("/at-{number}"), "192.0.2.1"));
        }

        list.scroll(2);
        list.toggle_pause();
        list.insert(refusal("/paused", "192.0.2.1"));
        assert_eq!(list.paused(), Some(1));
        assert!(!text(&list, 80, 40).concat().contains("/paused"));
        list.toggle_pause();
        assert!(text(&list, 80, 40)[1].contains("/paused"));

        list.scroll(3);
        let first = text(&list, 80, 40)[1].clone();
        list.insert(refusal("/newer", "192.0.2.1"));
        assert_eq!(text(&list, 80, 40)[1], first);

        // A refusal that arrives late stands below the row, and does not move it.
        let mut late = refusal("/late", "192.0.2.1");
        late.moment = list.rows.back().unwrap().moment;
        list.insert(late);
        assert_eq!(text(&list, 80, 40)[1], first);

        list.scroll(isize::MIN);
        assert!(text(&list, 80, 40)[1].contains("/newer"));
        list.scroll(isize::MAX);
        assert!(text(&list, 80, 40)[1].contains("/at-0"));
    }

    #[test]
    fn rows_have_a_bound_also_during_a_pause() {
        let mut list = RequestList::default();
        for _ in 0..=MAX_ROWS {
            list.insert(refusal("/a", "192.0.2.1"));
        }
        assert_eq!(list.rows.len(), MAX_ROWS);

        list.scroll(isize::MAX);
        list.insert(refusal("/a", "192.0.2.1"));
        assert!(text(&list, 80, 10)[1].contains("/a"), "the oldest one left");

        list.toggle_pause();
        for _ in 0..=MAX_ROWS {
            list.insert(refusal("/b", "192.0.2.1"));
        }
        assert_eq!(list.paused(), Some(MAX_ROWS));
    }
}
