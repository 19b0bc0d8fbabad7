//! The list of requests: newest first, in aligned columns, with a filter, a pause and scrolling.

use std::cell::Cell;
use std::collections::{HashSet, VecDeque};
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
    filter: ListFilter,
    /// Number of the last row that arrived.
    last: u64,
    /// The selected row; `None` to follow the newest.
    selected: Option<Selection>,
    /// Number of visible rows above the selected one, which drawing adjusts.
    above: Cell<usize>,
}

/// The selected row.
#[derive(Debug, Clone, Copy)]
struct Selection {
    /// Number of the row.
    number: u64,
    /// Its position among the matching rows, from 0.
    at: usize,
}

/// Filter of the list.
#[derive(Default)]
struct ListFilter {
    /// The filter as the user writes it.
    text: String,
    terms: Filter,
    mistake: Option<FilterError>,
    /// Ids of the requests that the history finds, for terms that need it.
    found: Option<HashSet<String>>,
    /// Reason why it finds none.
    failure: Option<String>,
}

impl ListFilter {
    fn parse(text: String, now: UnixMillis) -> Self {
        let parsed = Filter::parse(&text, now);
        let (terms, mistake) = match parsed {
            Ok(terms) => (terms, None),
            Err(mistake) => (Filter::default(), Some(mistake)),
        };
        Self {
            text,
            terms,
            mistake,
            found: None,
            failure: None,
        }
    }

    fn selects(&self, row: &Row) -> bool {
        if self.mistake.is_some() {
            return false;
        }
        match &self.found {
            Some(found) => row.id.as_ref().is_some_and(|id| found.contains(id)),
            None => !self.terms.needs_history() && row.matches(&self.terms),
        }
    }

    /// Returns the sentence in place of rows, if none is visible.
    fn explanation(&self) -> String {
        match (&self.mistake, &self.failure) {
            (Some(mistake), _) => mistake.to_string(),
            (None, Some(failure)) => failure.clone(),
            (None, None) if self.terms.needs_history() && self.found.is_none() => {
                "Enter searches the history of the inspector.".to_owned()
            }
            (None, None) => "No request matches the filter.".to_owned(),
        }
    }
}

impl RequestList {
    /// Inserts a request at its place: refusals by the relay arrive a little late.
    pub(super) fn insert(&mut self, mut row: Row) {
        if let Some(waiting) = &mut self.waiting {
            if waiting.len() == MAX_ROWS {
                waiting.pop_front();
            }
            waiting.push_back(row);
            return;
        }

        self.last += 1;
        row.number = self.last;
        let place = self
            .rows
            .iter()
            .position(|shown| shown.moment <= row.moment)
            .unwrap_or(self.rows.len());
        self.rows.insert(place, row);
        self.rows.truncate(MAX_ROWS);
        self.find_selected();
    }

    /// Finds the selected row again after a change of the rows. Without it, the one in its place is
    /// selected.
    fn find_selected(&mut self) {
        let Some(Selection { number, at }) = self.selected else {
            return;
        };
        let found = self.matching().position(|row| row.number == number);
        self.select_at(found.unwrap_or(at));
    }

    /// Selects the row at this position, or the last one.
    fn select_at(&mut self, at: usize) {
        let last = self.matching().count().checked_sub(1);
        let at = last.map(|last| at.min(last));
        self.selected = at.and_then(|at| {
            let number = self.matching().nth(at)?.number;
            Some(Selection { number, at })
        });
    }

    /// Holds new rows back, or shows those that were held back and returns to the newest row.
    pub(super) fn toggle_pause(&mut self) {
        match self.waiting.take() {
            None => self.waiting = Some(VecDeque::new()),
            Some(waiting) => {
                self.follow();
                waiting.into_iter().for_each(|row| self.insert(row));
            }
        }
    }

    /// Returns the number of rows held back; `None` without a pause.
    pub(super) fn paused(&self) -> Option<usize> {
        self.waiting.as_ref().map(VecDeque::len)
    }

    /// Returns the filter as the user writes it.
    pub(super) fn filter(&self) -> &str {
        &self.filter.text
    }

    /// Returns `true` if the filter has a mistake, and so selects nothing.
    pub(super) const fn has_mistake(&self) -> bool {
        self.filter.mistake.is_some()
    }

    /// Returns the terms of the filter, if only the history finds what they select.
    pub(super) fn history_terms(&self) -> Option<&Filter> {
        let terms = &self.filter.terms;
        (!self.has_mistake() && terms.needs_history()).then_some(terms)
    }

    /// Changes the filter, and returns to the newest row.
    pub(super) fn edit_filter(&mut self, now: UnixMillis, edit: impl FnOnce(&mut String)) {
        let mut text = std::mem::take(&mut self.filter.text);
        edit(&mut text);
        self.filter = ListFilter::parse(text, now);
        self.follow();
    }

    /// Shows what the history finds for the filter.
    pub(super) fn show_found(&mut self, ids: HashSet<String>) {
        self.filter.found = Some(ids);
        self.filter.failure = None;
        self.find_selected();
    }

    /// Shows why the history finds nothing for the filter.
    pub(super) fn show_failure(&mut self, reason: String) {
        self.filter.found = None;
        self.filter.failure = Some(reason);
        self.find_selected();
    }

    /// Selects no row, and follows the newest.
    pub(super) fn follow(&mut self) {
        self.selected = None;
        self.above.set(0);
    }

    /// Moves the selection by this number of rows; positive numbers lead to older ones.
    pub(super) fn scroll(&mut self, rows: isize) {
        let at = match self.selected {
            Some(Selection { at, .. }) => at.saturating_add_signed(rows),
            // The first step selects the newest row.
            None => 0_usize.saturating_add_signed(rows - rows.signum()),
        };
        let above = self.above.get().saturating_add_signed(rows);
        self.above.set(above);
        self.select_at(at);
    }

    /// Returns the ids of the requests beside that of `id`, the next one first: the older ones if
    /// `step` is positive.
    pub(super) fn beside(&self, id: &str, step: isize) -> Vec<String> {
        let ids: Vec<_> = self.matching().map(|row| row.id.clone()).collect();
        let at = ids.iter().position(|known| known.as_deref() == Some(id));
        let (newer, older) = ids.split_at(at.unwrap_or_default());
        match (at, step > 0) {
            (None, _) => Vec::new(),
            (_, true) => older.iter().skip(1).flatten().cloned().collect(),
            (_, false) => newer.iter().rev().flatten().cloned().collect(),
        }
    }

    /// Selects the row of a request.
    pub(super) fn select_id(&mut self, id: &str) {
        let mut rows = self.matching();
        let at = rows.position(|row| row.id.as_deref() == Some(id));
        drop(rows);
        if let Some(at) = at {
            self.select_at(at);
        }
    }

    /// Returns the id of the selected request. Selects the newest row, if none is selected.
    pub(super) fn selected_id(&mut self) -> Option<String> {
        let at = self.selected.map_or(0, |selected| selected.at);
        self.select_at(at);
        self.matching().nth(at)?.id.clone()
    }

    /// Returns the position of the selected row, from 1, and the number of all.
    pub(super) fn position(&self) -> Option<(usize, usize)> {
        let selected = self.selected?;
        Some((selected.at + 1, self.matching().count()))
    }

    /// Adds the providers and events to the rows of requests, by their ids.
    pub(super) fn name_senders(&mut self, senders: &[(String, String)]) {
        for (id, sender) in senders {
            self.name_sender(id, sender);
        }
        // Rows may match now, or no longer.
        if !senders.is_empty() {
            self.find_selected();
        }
    }

    fn name_sender(&mut self, id: &str, sender: &str) {
        let waiting = self.waiting.iter_mut().flatten();
        let mut rows = self.rows.iter_mut().chain(waiting);
        let row = rows.find(|row| row.id.as_deref() == Some(id));
        if let Some(cells) = row.and_then(|row| row.cells.as_mut()) {
            cells.sender = printable(sender);
        }
    }

    fn matching(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| self.filter.selects(row))
    }

    /// Returns the lines that fill an area of this size.
    pub(super) fn lines(&self, width: usize, height: usize) -> Vec<Line<'static>> {
        if self.rows.is_empty() {
            return vec![Line::from("No requests yet.").dim()];
        }

        let columns = Columns::of(width);
        let mut lines = vec![Line::from(columns.title()).dim()];
        let top = self.first_visible(&columns, (width, height.saturating_sub(1)));
        for (number, row) in self.matching().enumerate().skip(top) {
            if lines.len() >= height {
                break;
            }
            let is_selected = self.selected.is_some_and(|selected| selected.at == number);
            lines.extend(row.lines(&columns, width, is_selected));
        }

        if lines.len() == 1 {
            let explanation = wrapped(&self.filter.explanation(), width);
            lines.extend(explanation.into_iter().map(Line::from));
        }
        lines.truncate(height);
        lines
    }

    /// Returns the position of the first visible row: near the one before, and so that the selected row
    /// is visible.
    fn first_visible(&self, columns: &Columns, (width, height): (usize, usize)) -> usize {
        let Some(Selection { at: selected, .. }) = self.selected else {
            return 0;
        };
        let rows: Vec<_> = self.matching().take(selected + 1).collect();
        let mut room = height;
        let fits = |row: &&&Row| {
            let lines = row.lines(columns, width, false).len();
            let has_room = room >= lines;
            room = room.saturating_sub(lines);
            has_room
        };
        let visible = rows.iter().rev().take_while(fits).count().max(1);
        let above = self.above.get().min(visible - 1).min(selected);
        self.above.set(above);
        selected - above
    }
}

/// Row of a request.
pub(super) struct Row {
    /// Number of the row, in the order of arrival.
    number: u64,
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
            number: 0,
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
        RequestResult::Answered { .. } => None,
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
pub(super) const MAX_ROWS: usize = 1_000;

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
            id: format!("of {path}"),
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
        let set = |list: &mut RequestList, filter: &str| {
            list.edit_filter(UnixMillis(0), |text| *text = filter.to_owned());
        };

        for (filter, count) in [
            ("", 2),
            ("check:token -path:jira", 1),
            ("status:4xx", 2),
            ("PUSH", 1),
            ("2.77", 1),
            ("refused", 2),
            ("none", 0),
            // A mistake, and terms that the rows cannot answer.
            ("status:x", 0),
            ("body:x", 0),
        ] {
            set(&mut list, filter);
            assert_eq!(list.matching().count(), count, "{filter}");
        }
        assert!(text(&list, 80, 10)[1].contains("Enter searches the history"));
        list.show_found(HashSet::from(["of /jira".to_owned()]));
        assert_eq!(list.matching().count(), 1);

        set(&mut list, "none");
        assert!(text(&list, 80, 10)[1].contains("No request matches"));
        set(&mut list, "status:x");
        assert!(text(&list, 80, 10)[1].contains("is not a status"));
    }

    #[test]
    fn a_selected_row_stays_selected_and_visible() {
        let mut list = RequestList::default();
        for number in 0..10 {
            list.insert(refusal(&format!("/at-{number}"), "192.0.2.1"));
        }
        // Two lines for each row: four fit.
        let shown = |list: &RequestList| text(list, 80, 9);

        list.toggle_pause();
        list.insert(refusal("/paused", "192.0.2.1"));
        assert_eq!(list.paused(), Some(1));
        assert!(!shown(&list).concat().contains("/paused"));
        list.toggle_pause();
        assert!(shown(&list)[1].contains("/paused"));

        // The first step selects the newest row; the fifth scrolls.
        list.scroll(1);
        assert_eq!(list.position(), Some((1, 11)));
        assert_eq!(list.selected_id().as_deref(), Some("of /paused"));
        for _ in 0..4 {
            list.scroll(1);
        }
        assert_eq!(list.selected_id().as_deref(), Some("of /at-6"));
        assert!(shown(&list)[1].contains("/at-9") && shown(&list)[7].contains("/at-6"));

        let before = shown(&list);
        list.insert(refusal("/newer", "192.0.2.1"));
        assert_eq!(shown(&list), before);
        // A refusal that arrives late stands below the rows, and does not move them.
        let mut late = refusal("/late", "192.0.2.1");
        late.moment = list.rows.back().unwrap().moment;
        list.insert(late);
        assert_eq!(shown(&list), before);

        // Upwards, the list scrolls only when it must.
        list.scroll(-1);
        assert_eq!(shown(&list)[1], before[1]);
        list.scroll(isize::MIN);
        assert!(shown(&list)[1].contains("/newer"));
        list.scroll(isize::MAX);
        assert!(shown(&list).concat().contains("/at-0"));
        list.follow();
        assert!(shown(&list)[1].contains("/newer"));
    }

    /// Rows begin to match after they have arrived.
    #[test]
    fn a_selection_is_a_request_and_not_a_place() {
        let mut list = RequestList::default();
        list.edit_filter(UnixMillis(0), |text| text.push_str("provider:github"));
        list.scroll(1);
        assert_eq!((list.position(), list.selected_id()), (None, None));

        for number in 0..3 {
            list.insert(refusal(&format!("/at-{number}"), "192.0.2.1"));
            list.name_senders(&[(format!("of /at-{number}"), "github push".to_owned())]);
        }
        list.scroll(2);
        assert_eq!(list.selected_id().as_deref(), Some("of /at-1"));
        list.insert(refusal("/newer", "192.0.2.1"));
        list.name_senders(&[("of /newer".to_owned(), "github push".to_owned())]);
        assert_eq!(list.selected_id().as_deref(), Some("of /at-1"));
        assert_eq!(list.position(), Some((3, 4)));

        // Its place is taken when it no longer matches.
        list.name_senders(&[("of /at-1".to_owned(), "gitlab push".to_owned())]);
        assert_eq!(list.selected_id().as_deref(), Some("of /at-0"));
    }

    #[test]
    fn the_requests_beside_one_are_found_by_its_id() {
        let mut list = RequestList::default();
        for number in 0..3 {
            list.insert(refusal(&format!("/at-{number}"), "192.0.2.1"));
        }
        let summary = Event::RefusedSummary(vec![(Check::Token, 7)]);
        list.insert(Row::of(&summary.into(), false).unwrap());
        list.insert(refusal("/newest", "192.0.2.1"));

        let next = |id: &str, step| list.beside(id, step);
        assert_eq!(next("of /at-2", 1), ["of /at-1", "of /at-0"]);
        assert_eq!(next("of /at-2", -1), ["of /newest"]);
        for (id, step) in [("of /newest", -1), ("of /at-0", 1), ("unknown", 1)] {
            assert!(next(id, step).is_empty(), "{id}");
        }
        list.select_id("of /at-1");
        assert_eq!(list.position(), Some((4, 5)));
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
        assert_eq!(list.position(), Some((MAX_ROWS, MAX_ROWS)));

        list.toggle_pause();
        for _ in 0..=MAX_ROWS {
            list.insert(refusal("/b", "192.0.2.1"));
        }
        assert_eq!(list.paused(), Some(MAX_ROWS));
    }
}
