//! Keys of the screen, and the actions that they request.

use std::collections::HashSet;
use std::io::{self, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Instant;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use data_encoding::BASE64;

use super::details::Details;
use super::{Mode, Screen};
use crate::inspector::filter::Filter;
use crate::inspector::history::Detail;

/// Rows by which a page key scrolls.
const PAGE: isize = 10;

/// Maximum size of a filter, in bytes, so that it fits into the last line.
const MAX_FILTER: usize = 60;

/// Keys and their actions, as the help shows them.
pub(super) const KEYS: [(&str, &str); 11] = [
    ("Up, Down", "select a request; PgUp, PgDn by ten"),
    ("Home, End", "select the newest or the oldest"),
    ("Enter", "checks and bodies; Left, Right: next"),
    ("r", "send it to the application again"),
    ("o", "open the inspector in a browser"),
    ("/", "filter: push status:5xx -event:ping"),
    ("p", "pause the list, not the webhooks"),
    ("c", "copy the webhook URL"),
    ("l", "show the log"),
    ("?", "show these keys"),
    ("q, Ctrl-C", "stop; Ctrl-C again does not wait"),
];

/// Maximum number of requests without a capture that Left and Right skip.
const SKIPPED: usize = 50;

/// A search of the history.
pub(super) struct Search {
    terms: Filter,
    /// Number of the newest request when it began.
    newest: i64,
    /// Ids of the requests, or the reason why there are none; `None` once it was shown.
    result: Option<Receiver<Result<HashSet<String>, String>>>,
}

/// Action that the user requests by a key, beyond the list.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Action {
    Quit,
    CopyUrl,
    Details,
    SendAgain,
    OpenInspector,
}

impl Screen {
    /// Applies a key, and returns the action that it requests beyond the list.
    pub(super) fn press(&mut self, key: KeyEvent) -> Option<Action> {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return (key.code == KeyCode::Char('c')).then_some(Action::Quit);
        }

        if matches!(self.mode, Mode::Filter) {
            self.press_in_filter(key.code);
            return None;
        }
        if let Mode::Details(details) = &mut self.mode {
            match key.code {
                KeyCode::Down => details.scroll(1),
                KeyCode::Up => details.scroll(-1),
                KeyCode::PageDown | KeyCode::Char(' ') => details.scroll(PAGE),
                KeyCode::PageUp => details.scroll(-PAGE),
                KeyCode::Home => details.scroll(isize::MIN),
                KeyCode::End => details.scroll(isize::MAX),
                KeyCode::Char('r') => return Some(Action::SendAgain),
                KeyCode::Char('o') => return Some(Action::OpenInspector),
                KeyCode::Left | KeyCode::Right => {
                    let step = if key.code == KeyCode::Left { -1 } else { 1 };
                    let id = details.detail.summary.id.clone();
                    self.open_beside(&id, step);
                }
                KeyCode::Esc | KeyCode::Enter | KeyCode::Backspace | KeyCode::Char('q' | 'x') => {
                    self.mode = Mode::List;
                }
                _ => {}
            }
            return None;
        }
        if matches!(self.mode, Mode::Help | Mode::Log) {
            // Any key closes them, but those that the wheel sends.
            if !matches!(key.code, KeyCode::Up | KeyCode::Down) {
                self.mode = Mode::List;
            }
            return None;
        }

        match key.code {
            KeyCode::Char('q') => return Some(Action::Quit),
            KeyCode::Char('c') => return Some(Action::CopyUrl),
            KeyCode::Char('o') => return Some(Action::OpenInspector),
            KeyCode::Char('r') => return Some(Action::SendAgain),
            KeyCode::Enter => return Some(Action::Details),
            KeyCode::Char('p') => self.requests.toggle_pause(),
            KeyCode::Char('/') => self.mode = Mode::Filter,
            KeyCode::Char('?') => self.mode = Mode::Help,
            KeyCode::Char('l') => self.mode = Mode::Log,
            KeyCode::Esc => {
                self.requests.edit_filter(self.clock.now(), String::clear);
            }
            KeyCode::Down => self.requests.scroll(1),
            KeyCode::Up => self.requests.scroll(-1),
            KeyCode::PageDown => self.requests.scroll(PAGE),
            KeyCode::PageUp => self.requests.scroll(-PAGE),
            KeyCode::Home => self.requests.scroll(isize::MIN),
            KeyCode::End => self.requests.scroll(isize::MAX),
            _ => {}
        }
        None
    }

    fn press_in_filter(&mut self, key: KeyCode) {
        match key {
            // A filter with a mistake would select nothing.
            KeyCode::Enter if self.requests.has_mistake() => {}
            KeyCode::Enter => {
                self.mode = Mode::List;
                self.search();
            }
            KeyCode::Esc => {
                self.requests.edit_filter(self.clock.now(), String::clear);
                self.mode = Mode::List;
            }
            KeyCode::Backspace => self.requests.edit_filter(self.clock.now(), |filter| {
                filter.pop();
            }),
            KeyCode::Char(letter) if self.requests.filter().len() < MAX_FILTER => {
                self.requests
                    .edit_filter(self.clock.now(), |filter| filter.push(letter));
            }
            _ => {}
        }
    }

    /// Searches the history, if the filter needs it and the history has changed.
    pub(super) fn search(&mut self) {
        let (Some(source), Some(terms)) = (&self.source, self.requests.history_terms()) else {
            self.search = None;
            return;
        };
        let newest = source.newest();
        let is_known = |search: &Search| search.terms == *terms && search.newest == newest;
        if self.search.as_ref().is_some_and(is_known) {
            return;
        }
        self.search = Some(Search {
            terms: terms.clone(),
            newest,
            result: Some(source.search(terms)),
        });
    }

    /// Shows the result of a search, once it is there.
    pub(super) fn show_search(&mut self) {
        let Some(search) = &mut self.search else {
            return;
        };
        let result = search.result.as_ref().map(Receiver::try_recv);
        let is_present = self.requests.history_terms() == Some(&search.terms);
        match result {
            Some(Ok(result)) => {
                search.result = None;
                match result {
                    _ if !is_present => {}
                    Ok(ids) => self.requests.show_found(ids),
                    Err(reason) => self.requests.show_failure(reason),
                }
            }
            Some(Err(TryRecvError::Disconnected)) => search.result = None,
            Some(Err(TryRecvError::Empty)) | None => {}
        }
    }

    /// Opens the next captured request beside that of `id`.
    fn open_beside(&mut self, id: &str, step: isize) {
        let Some(source) = &self.source else { return };
        let beside = self.requests.beside(id, step).into_iter().take(SKIPPED);
        let found = beside.filter_map(|id| source.detail(&id).ok()).next();
        if let Some(detail) = found {
            self.requests.select_id(&detail.summary.id);
            self.mode = Mode::Details(Details::new(detail));
        }
    }

    /// Opens the selected request.
    pub(super) fn open_details(&mut self) {
        match self.find_detail() {
            Some(Ok(detail)) => self.mode = Mode::Details(Details::new(detail)),
            Some(Err(reason)) => self.result = Some((reason, Instant::now())),
            None => {}
        }
    }

    /// Returns the selected request, or the first one.
    fn find_detail(&mut self) -> Option<Result<Detail, String>> {
        let id = self.requests.selected_id()?;
        Some(self.source.as_ref()?.detail(&id))
    }

    /// Sends the selected or opened request again.
    pub(super) fn send_again(&mut self) {
        let sent = match &self.mode {
            Mode::Details(details) => {
                let source = self.source.as_ref();
                source.map(|source| source.send_again(&details.detail))
            }
            _ => self.find_detail().and_then(|found| {
                let source = self.source.as_ref()?;
                Some(
                    found.and_then(|detail| match detail.summary.verdict == "refused" {
                        // A stranger wrote it, and it would be signed.
                        true => Err("it was refused; Enter shows it, then r sends it".to_owned()),
                        false => source.send_again(&detail),
                    }),
                )
            }),
        };
        let result = match sent {
            Some(Ok(status)) => format!("sent again: the application answers {status}"),
            Some(Err(reason)) => format!("not sent again: {reason}"),
            None => return,
        };
        self.result = Some((result, Instant::now()));
    }

    /// Opens the inspector in the user's browser.
    pub(super) fn open_inspector(&mut self) {
        let Some(url) = &self.inspector else {
            self.result = Some(("the inspector is off".to_owned(), Instant::now()));
            return;
        };
        let page = match &self.mode {
            Mode::Details(details) => format!("{url}/requests/{}", details.detail.summary.number),
            _ => url.clone(),
        };
        let opened = Command::new("xdg-open")
            .arg(&page)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let result = match opened {
            Ok(mut child) => {
                // Otherwise it would stay as a zombie.
                std::thread::spawn(move || child.wait());
                format!("opening {page}")
            }
            Err(_) => format!("open {page} in a browser"),
        };
        self.result = Some((result, Instant::now()));
    }

    /// Copies the first webhook URL to the clipboard of the user's terminal.
    pub(super) fn copy_url(&mut self, terminal: &mut impl Write) -> io::Result<()> {
        let Some(ready) = self.tunnels.values().next() else {
            return Ok(());
        };

        terminal.write_all(osc52(&ready.url).as_bytes())?;
        terminal.flush()?;
        self.copied = Some(Instant::now());
        Ok(())
    }
}

/// Returns the sequence that sets the clipboard (OSC 52 in xterm's control sequences). Terminals
/// that do not support it ignore it.
fn osc52(text: &str) -> String {
    format!("\u{1b}]52;c;{}\u{7}", BASE64.encode(text.as_bytes()))
}
