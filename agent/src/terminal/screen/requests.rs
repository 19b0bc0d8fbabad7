//! The list of requests: newest first, in aligned columns, with a filter, a pause and scrolling.

use std::collections::VecDeque;
use std::time::Instant;

use hookward_core::text::printable;
use hookward_tunnel::protocol::control::RefusedRequest;
use ratatui::style::{Style, Stylize};
use ratatui::text::Line;

use crate::events::{Event, RequestEvent, RequestResult, TimedEvent};
use crate::terminal::lines;

/// Requests on the screen.
#[derive(Default)]
pub(super) struct RequestList {
    /// Rows, newest first, by the time of their responses.
    rows: VecDeque<Row>,
    /// Rows that arrived during the pause, oldest first; `None` without a pause.
    waiting: Option<VecDeque<Row>>,
    /// Text that a visible row contains, in lower case.
    filter: String,
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
        if self.scrolled > 0 && row.matches(&self.filter) {
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

    /// Returns the text that visible rows contain.
    pub(super) fn filter(&self) -> &str {
        &self.filter
    }

    /// Changes the filter, and returns to the newest row.
    pub(super) fn edit_filter(&mut self, edit: impl FnOnce(&mut String)) {
        edit(&mut self.filter);
        self.filter = self.filter.to_lowercase();
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
        self.rows.iter().filter(|row| row.matches(&self.filter))
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
    style: Style,
    time: String,
    /// Columns; `None` for a summary of several requests.
    cells: Option<Cells>,
    /// Reason of the verdict, if there is one.
    reason: Option<String>,
}

/// Values of the columns.
struct Cells {
    method: String,
    path: String,
    status: String,
    took: String,
    client: String,
    /// Provider and event, once they are known.
    sender: String,
    verdict: &'static str,
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
            style,
            time: super::clock(stamped.at),
            cells,
            reason,
        })
    }

    fn matches(&self, filter: &str) -> bool {
        let contains = |text: &str| text.to_lowercase().contains(filter);
        let cells = self.cells.iter().flat_map(|cells| {
            [
                cells.method.as_str(),
                &cells.path,
                &cells.status,
                &cells.client,
                &cells.sender,
                cells.verdict,
            ]
        });
        filter.is_empty() || cells.chain(self.reason.as_deref()).any(contains)
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

/// Columns that fit into the width. The path takes what the others leave.
struct Columns {
    path: usize,
    took: bool,
    client: bool,
    sender: bool,
}

impl Columns {
    fn of(width: usize) -> Self {
        let (took, client) = (width >= TOOK_FROM, width >= CLIENT_FROM);
        let sender = width >= SENDER_FROM;
        let optional = |shown: bool, column: usize| if shown { column + 1 } else { 0 };
        let others = [TIME, METHOD, STATUS, VERDICT].iter().sum::<usize>() + SEPARATORS;
        let others = others + optional(took, TOOK) + optional(client, CLIENT);
        let others = others + optional(sender, SENDER);

        Self {
            path: width.saturating_sub(others).max(MIN_PATH),
            took,
            client,
            sender,
        }
    }

    fn title(&self) -> String {
        let titles = Cells {
            method: "METHOD".to_owned(),
            path: "PATH".to_owned(),
            status: String::new(),
            took: "TOOK".to_owned(),
            client: "CLIENT".to_owned(),
            sender: "EVENT".to_owned(),
            verdict: "VERDICT",
        };
        self.row("UTC", &titles)
    }

    fn row(&self, time: &str, cells: &Cells) -> String {
        let path_width = self.path;
        let mut row = format!(
            "{time:<TIME$} {:<METHOD$} {:<path_width$} {:>STATUS$} ",
            cut_middle(&cells.method, METHOD),
            cut_middle(&cells.path, path_width),
            cells.status,
        );

        if self.took {
            row.push_str(&format!("{:>TOOK$} ", cells.took));
        }

        if self.client {
            row.push_str(&format!("{:<CLIENT$} ", cut_middle(&cells.client, CLIENT)));
        }
        if self.sender {
            row.push_str(&format!("{:<SENDER$} ", cut_middle(&cells.sender, SENDER)));
        }
        row.push_str(cells.verdict);
        row
    }
}

/// Width of the time of day, as in 12:34:56.
const TIME: usize = 8;

/// Width of a method. OPTIONS is the longest usual one.
const METHOD: usize = 7;

/// Width of a status.
const STATUS: usize = 3;

/// Width of a duration, as in 1000ms.
const TOOK: usize = 6;

/// Width of an IPv4 address. An IPv6 address is cut in the middle.
const CLIENT: usize = 15;

/// Width of provider and event, as in "github pull_request".
const SENDER: usize = 20;

/// Width of the longest verdict, "forwarded".
const VERDICT: usize = 9;

/// Spaces between the five columns that are always shown.
const SEPARATORS: usize = 4;

/// Minimum width of a path.
const MIN_PATH: usize = 8;

/// Width of the screen from which durations are shown.
const TOOK_FROM: usize = 60;

/// Width of the screen from which clients are shown.
const CLIENT_FROM: usize = 80;

/// Width of the screen from which provider and event are shown.
const SENDER_FROM: usize = 105;

/// Indentation of a reason: it stands below the method.
const INDENT: usize = TIME + 1;

/// Replaces the middle of a text that is too wide: the end of a path tells most.
fn cut_middle(text: &str, width: usize) -> String {
    let count = text.chars().count();
    if count <= width {
        return text.to_owned();
    }

    let kept = width.saturating_sub(1);
    let end = kept.div_ceil(2);
    let head = text.chars().take(kept - end);
    let tail = text.chars().skip(count - end);
    head.chain(['…']).chain(tail).collect()
}

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
    use hookward_core::reason::Check;

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
    fn the_middle_is_cut() {
        assert_eq!(
            cut_middle("/flexdeploy/webhooks/v1/git/push", 15),
            "/flexde…it/push"
        );
        assert_eq!(cut_middle("/short", 15), "/short");
        assert_eq!(cut_middle("abc", 1), "…");
        assert_eq!(cut_middle("äöüß", 3), "ä…ß");
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
            ("PUSH", 1),
            ("2.77", 1),
            ("refused", 2),
            ("none", 0),
        ] {
            list.edit_filter(|text| *text = filter.to_owned());
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
