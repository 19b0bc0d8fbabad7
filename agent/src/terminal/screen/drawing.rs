//! Drawing of the screen: the lines above, the list or what covers it, and the last line.

use std::time::Duration;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::Stylize as _;
use ratatui::text::Line;
use ratatui::widgets::{Paragraph, Wrap};

use super::keys::KEYS;
use super::requests::wrapped;
use super::{Mode, Screen};

/// Height of the screen below which only the most important lines are shown.
const COMPACT_BELOW: usize = 20;

/// Minimum part of the screen for requests: a third. Tunnels beyond the rest are only counted.
const REQUESTS: usize = 3;

/// Time for which the last line reports that the URL is copied.
const COPIED_HINT: Duration = Duration::from_secs(3);

/// Time for which the last line shows the result of an action.
const RESULT_HINT: Duration = Duration::from_secs(6);

impl Screen {
    pub(crate) fn draw(&self, frame: &mut Frame<'_>) {
        // Long lines are wrapped: the whole webhook URL must be visible, to be copied.
        let width = usize::from(frame.area().width.max(1));
        let height_of = |top: &[Line<'_>]| {
            top.iter()
                .map(|line| line.width().div_ceil(width).max(1))
                .sum::<usize>()
        };

        let all = usize::from(frame.area().height);
        let top = |tunnels: usize| {
            if all < COMPACT_BELOW {
                self.compact_top(tunnels)
            } else {
                self.top(tunnels, width)
            }
        };
        let fits = |tunnels: &usize| height_of(&top(*tunnels)) <= all - all / REQUESTS;
        // Each needs at least one row, or three.
        let most = self.tunnels.len().min(all / 3);
        let top = match self.mode {
            Mode::Help | Mode::Details(_) | Mode::Log => Vec::new(),
            Mode::List | Mode::Filter => top((1..=most).rev().find(fits).unwrap_or(1)),
        };
        let height = height_of(&top);
        let height = u16::try_from(height).unwrap_or(u16::MAX);
        let [above, below, keys] = Layout::vertical([
            Constraint::Length(height),
            Constraint::Min(0),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        frame.render_widget(Paragraph::new(top).wrap(Wrap { trim: false }), above);

        let rows = usize::from(below.height);
        let list = match &self.mode {
            Mode::Help => KEYS
                .iter()
                .map(|(key, action)| Line::from(format!("{key:<12}{action}")))
                .collect(),
            Mode::Details(details) => details.lines(width, rows),
            Mode::Log => self.log_lines(width, rows),
            Mode::List | Mode::Filter => self.requests.lines(width, rows),
        };
        frame.render_widget(Paragraph::new(list), below);
        frame.render_widget(Paragraph::new(self.hint()).dim(), keys);
    }

    /// Returns the newest log lines that fit.
    fn log_lines(&self, width: usize, height: usize) -> Vec<Line<'static>> {
        if self.log.is_empty() {
            let text = "The log is empty, or goes to a file (--log).";
            return vec![Line::from(text).dim()];
        }
        let lines = self.log.iter().flat_map(|line| wrapped(line, width));
        let lines: Vec<_> = lines.map(Line::from).collect();
        let hidden = lines.len().saturating_sub(height);
        lines.into_iter().skip(hidden).collect()
    }

    /// Returns the last line: the state of the list, or the keys.
    pub(super) fn hint(&self) -> String {
        let is_writing = matches!(self.mode, Mode::Filter);
        let is_copied = self
            .copied
            .is_some_and(|copied| copied.elapsed() < COPIED_HINT);
        if is_copied && !is_writing {
            return "the webhook URL is copied".to_owned();
        }

        if let Some((result, at)) = &self.result
            && at.elapsed() < RESULT_HINT
            && !is_writing
        {
            return result.clone();
        }

        let filter = self.requests.filter();
        match (&self.mode, self.requests.paused()) {
            (Mode::Details(_), _) => {
                let keys = "Left, Right next  r again  Esc closes";
                return format!("{}{keys}", self.position());
            }
            (Mode::Log, _) => return "log  Esc closes".to_owned(),
            _ => {}
        }
        match (&self.mode, self.requests.paused()) {
            (Mode::Filter, _) => format!("filter: {filter}_   Enter keeps it, Esc clears it"),
            (_, Some(waiting)) => format!("paused, {waiting} held back; p continues"),
            _ if !filter.is_empty() => {
                format!("{}filter: {filter}   Esc clears it", self.position())
            }
            _ => format!(
                "{}Enter details  c copy URL  ? help  q quit",
                self.position()
            ),
        }
    }

    /// Returns the place of the selected row, if there is one.
    fn position(&self) -> String {
        let position = self.requests.position();
        position.map_or_else(String::new, |(at, all)| format!("{at} of {all}  "))
    }
}
