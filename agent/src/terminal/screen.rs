//! The screen: session state and URLs above ([`header`]), requests below ([`requests`]), newest first,
//! keys at the bottom. Enter opens one request ([`details`]).

mod details;
mod header;
mod requests;
mod source;

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crossterm::event::{self as input, KeyCode, KeyEvent, KeyModifiers};
use data_encoding::BASE64;
use hookward_core::reason::Check;
use hookward_runtime::process::{self, LogHold};
use hookward_tunnel::transport::Transport;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::Stylize as _;
use ratatui::text::Line;
use ratatui::widgets::{Paragraph, Wrap};
use ratatui::{DefaultTerminal, Frame};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use time::OffsetDateTime;

use self::details::Details;
use self::requests::{RequestList, Row};
pub(crate) use self::source::ScreenSource;
use self::source::Snapshot;
use super::Quit;
use super::lines;
use crate::events::{Event, EventStream, Ready, RequestResult, TimedEvent};
use crate::inspector::history::Detail;

/// Shows the screen until the events end, and leaves a summary in the scrollback. Ctrl-C and q
/// request the end. With `several` tunnels, each request is shown with its host.
///
/// # Errors
/// Those of the terminal.
pub(crate) fn run(
    mut reports: EventStream,
    several: bool,
    quit: &Quit,
    source: Option<ScreenSource>,
) -> io::Result<()> {
    // Log lines would overwrite the screen.
    let held = process::hold_log();
    let opened = Instant::now();
    let mut terminal = ratatui::try_init()?;
    let mut screen = Screen {
        several,
        known_senders: source.as_ref().map_or(0, ScreenSource::newest),
        source,
        ..Screen::default()
    };
    let shown = screen.show(&mut terminal, &mut reports, quit, &held);

    ratatui::restore();
    drop(held);
    shown?;

    let mut out = io::stdout();
    writeln!(out, "{}", screen.summary(opened.elapsed()))?;
    out.flush()
}

/// State of the screen.
#[derive(Default)]
pub(crate) struct Screen {
    several: bool,
    state: String,
    stopping: bool,
    /// Time at which the user copied the webhook URL.
    copied: Option<Instant>,
    /// Result of the last action, with its time.
    result: Option<(String, Instant)>,
    /// URL of the inspector.
    inspector: Option<String>,
    /// Connection to each relay.
    relays: BTreeMap<String, Link>,
    /// Applications that are unreachable or unresponsive, with the description.
    unhealthy: BTreeMap<String, String>,
    /// Tunnels by their public origin.
    tunnels: BTreeMap<String, Ready>,
    messages: VecDeque<Message>,
    requests: RequestList,
    mode: Mode,
    /// `None` in tests.
    source: Option<ScreenSource>,
    snapshot: Snapshot,
    snapshot_at: Option<Instant>,
    /// Number in the history of the last request whose sender is known.
    known_senders: i64,
    /// Log lines, while the screen shows them.
    log: Vec<String>,
    answered: u64,
    stored: u64,
    refused: u64,
    failed: u64,
    lost: u64,
}

/// Connection to a relay.
enum Link {
    Open(Transport),
    /// Lost connection, with its reason if it has one of its own.
    Lost(Option<String>),
}

/// A note or a warning.
struct Message {
    at: OffsetDateTime,
    moment: Instant,
    text: String,
    /// Number of times that it occurred.
    count: u32,
    /// `true` if it disappears by itself.
    is_note: bool,
}

impl Message {
    fn line(&self) -> String {
        let times = match self.count {
            1 => String::new(),
            count => format!(" ({count} times)"),
        };
        format!("{} {}{times}", clock(self.at), self.text)
    }
}

/// Meaning of the keys.
#[derive(Default)]
enum Mode {
    /// Keys act on the list.
    #[default]
    List,
    /// Keys write the filter.
    Filter,
    /// The screen shows the list of keys.
    Help,
    /// The screen shows one request.
    Details(Details),
    /// The screen shows the log.
    Log,
}

impl Screen {
    fn show(
        &mut self,
        terminal: &mut DefaultTerminal,
        reports: &mut EventStream,
        quit: &Quit,
        held: &LogHold,
    ) -> io::Result<()> {
        loop {
            let since = Instant::now();
            while let Some(stamped) = reports.try_next() {
                self.take(&stamped);
            }
            self.refresh();
            if matches!(self.mode, Mode::Log) {
                self.log = held.lines();
            }

            if reports.is_over() || quit.at_once.is_cancelled() {
                return Ok(());
            }

            self.lost += reports.take_lost();
            terminal.draw(|frame| self.draw(frame))?;

            if !wait_for_input(TICK.saturating_sub(since.elapsed()))? {
                // The user has closed the terminal.
                quit.request();
                return Ok(());
            }
            while input::poll(INPUT_TIME)? {
                if let input::Event::Key(key) = input::read()? {
                    match self.press(key) {
                        Some(Action::Quit) => quit.request(),
                        Some(Action::CopyUrl) => self.copy_url(terminal.backend_mut())?,
                        Some(Action::Details) => self.open_details(),
                        Some(Action::SendAgain) => self.send_again(),
                        Some(Action::OpenInspector) => self.open_inspector(),
                        None => {}
                    }
                }
            }
        }
    }

    /// Applies a key, and returns the action that it requests beyond the list.
    fn press(&mut self, key: KeyEvent) -> Option<Action> {
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
                KeyCode::Esc | KeyCode::Enter | KeyCode::Backspace | KeyCode::Char('q' | 'x') => {
                    self.mode = Mode::List;
                }
                _ => {}
            }
            return None;
        }
        if matches!(self.mode, Mode::Help | Mode::Log) {
            // Any key closes them.
            self.mode = Mode::List;
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
                self.requests.edit_filter(String::clear);
                self.requests.select(false);
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

    /// Reads what changes without events, at most once an interval.
    fn refresh(&mut self) {
        let Some(source) = &self.source else { return };
        let (senders, known) = source.senders(self.known_senders);
        self.known_senders = known;
        for (id, sender) in senders {
            self.requests.name_sender(&id, &sender);
        }

        if self
            .snapshot_at
            .is_none_or(|at| at.elapsed() >= SNAPSHOT_INTERVAL)
        {
            self.snapshot = source.snapshot();
            self.snapshot_at = Some(Instant::now());
            self.messages
                .retain(|message| !message.is_note || message.moment.elapsed() < NOTE_TIME);
        }
    }

    /// Opens the selected request.
    fn open_details(&mut self) {
        match self.find_detail() {
            Some(Ok(detail)) => self.mode = Mode::Details(Details::new(detail)),
            Some(Err(reason)) => self.result = Some((reason, Instant::now())),
            None => {}
        }
    }

    /// Returns the selected request, or the first one.
    fn find_detail(&mut self) -> Option<Result<Detail, String>> {
        self.requests.select(true);
        let (source, id) = (self.source.as_ref()?, self.requests.selected()?);
        Some(source.detail(&id))
    }

    /// Sends the selected or opened request again.
    fn send_again(&mut self) {
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
    fn open_inspector(&mut self) {
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

    fn press_in_filter(&mut self, key: KeyCode) {
        match key {
            KeyCode::Enter => self.mode = Mode::List,
            KeyCode::Esc => {
                self.requests.edit_filter(String::clear);
                self.mode = Mode::List;
            }
            KeyCode::Backspace => self.requests.edit_filter(|filter| {
                filter.pop();
            }),
            KeyCode::Char(letter) if self.requests.filter().len() < MAX_FILTER => {
                self.requests.edit_filter(|filter| filter.push(letter));
            }
            _ => {}
        }
    }

    /// Copies the first webhook URL to the clipboard of the user's terminal.
    fn copy_url(&mut self, terminal: &mut impl Write) -> io::Result<()> {
        let Some(ready) = self.tunnels.values().next() else {
            return Ok(());
        };

        terminal.write_all(osc52(&ready.url).as_bytes())?;
        terminal.flush()?;
        self.copied = Some(Instant::now());
        Ok(())
    }

    /// Applies an event.
    pub(crate) fn take(&mut self, stamped: &TimedEvent) {
        let report = &stamped.event;
        match report {
            Event::Connecting { relay } => self.state = format!("connecting to {relay}"),
            Event::Ready(ready) => {
                self.state = "online".to_owned();
                self.relays
                    .insert(ready.relay.clone(), Link::Open(ready.transport));
                self.tunnels.insert(ready.base_url.clone(), ready.clone());
            }
            Event::Disconnected { .. } => {
                self.state = self.text(report);
                let links = self.relays.values_mut();
                links.for_each(|link| *link = Link::Lost(None));
            }
            Event::RelayDisconnected { relay, reason, .. } => {
                let lost = Link::Lost(Some(reason.clone()));
                self.relays.insert(relay.clone(), lost);
            }
            Event::Api { address } => {
                let secret = self
                    .source
                    .as_ref()
                    .and_then(|source| source.token_url.clone());
                let plain = || format!("http://{address}");
                self.inspector = Some(secret.unwrap_or_else(plain));
            }
            Event::Stopping { .. } => {
                self.state = format!("{}, Ctrl-C again to abort", self.text(report));
                self.stopping = true;
            }
            Event::Application {
                application,
                is_healthy: true,
                ..
            } => {
                self.unhealthy.remove(application);
            }
            Event::Application {
                application,
                message,
                ..
            } => {
                self.unhealthy.insert(application.clone(), message.clone());
            }
            Event::Note(_) | Event::Warning(_) => self.message(stamped),
            Event::Request(request) => match request.outcome {
                RequestResult::Refused { .. } => self.refused += 1,
                RequestResult::Failed { .. }
                | RequestResult::Aborted
                | RequestResult::Answered { status: 500.., .. } => self.failed += 1,
                RequestResult::Answered { .. } | RequestResult::Challenge { .. } => {
                    self.answered += 1;
                }
            },
            Event::Refused(refused) => {
                let is_refused = !refused.observed && !refused.answered && !refused.note;
                self.refused += u64::from(is_refused);
                // A duplicate and a challenge have a check of their own.
                let is_stored = refused.answered && refused.check == Check::Tunnel;
                self.stored += u64::from(is_stored);
                self.answered += u64::from(refused.answered && !is_stored);
            }
            Event::RefusedSummary(counted) => {
                self.refused += counted.iter().map(|(_, count)| count).sum::<u64>();
            }
        }

        if let Some(row) = Row::of(stamped, self.several) {
            self.requests.insert(row);
        }
    }

    fn text(&self, report: &Event) -> String {
        lines::text(report, self.several)
    }

    /// Adds a message, or counts it if it is there already.
    fn message(&mut self, stamped: &TimedEvent) {
        let text = self.text(&stamped.event);
        let known = self.messages.iter().position(|known| known.text == text);
        let count = known
            .and_then(|at| self.messages.remove(at))
            .map_or(0, |known| known.count);
        self.messages.push_back(Message {
            at: stamped.at,
            moment: stamped.moment,
            text,
            count: count + 1,
            is_note: matches!(stamped.event, Event::Note(_)),
        });

        if self.messages.len() > MESSAGES {
            self.messages.pop_front();
        }
    }

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

    fn counts(&self) -> String {
        let Self {
            answered,
            failed,
            refused,
            stored,
            ..
        } = self;
        format!("{answered} answered, {failed} failed, {refused} refused, {stored} stored")
    }

    /// Returns the newest log lines that fit.
    fn log_lines(&self, width: usize, height: usize) -> Vec<Line<'static>> {
        if self.log.is_empty() {
            let text = "The log is empty, or goes to a file (--log).";
            return vec![Line::from(text).dim()];
        }
        let lines = self
            .log
            .iter()
            .flat_map(|line| requests::wrapped(line, width));
        let lines: Vec<_> = lines.map(Line::from).collect();
        let hidden = lines.len().saturating_sub(height);
        lines.into_iter().skip(hidden).collect()
    }

    /// Returns the line that stays on the terminal after the screen.
    fn summary(&self, open: Duration) -> String {
        let requests = match self.answered + self.refused + self.failed + self.stored {
            1 => "1 request".to_owned(),
            count => format!("{count} requests"),
        };
        format!(
            "hookward: {requests} in {}: {}",
            lines::span(open),
            self.counts()
        )
    }

    /// Returns the last line: the state of the list, or the keys.
    fn hint(&self) -> String {
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
                return "arrows scroll  r again  o inspector  Esc closes".to_owned();
            }
            (Mode::Log, _) => return "log  Esc closes".to_owned(),
            _ => {}
        }
        match (&self.mode, self.requests.paused()) {
            (Mode::Filter, _) => format!("filter: {filter}_   Enter keeps it, Esc clears it"),
            (_, Some(waiting)) => format!("paused, {waiting} held back; p continues"),
            _ if !filter.is_empty() => format!("filter: {filter}   Esc clears it"),
            _ => "Enter details  c copy URL  / filter  ? help  q quit".to_owned(),
        }
    }
}

/// Height of the screen below which only the most important lines are shown.
const COMPACT_BELOW: usize = 20;

/// Rows by which a page key scrolls.
const PAGE: isize = 10;

/// Maximum size of a filter, in bytes, so that it fits into the last line.
const MAX_FILTER: usize = 60;

/// Keys and their actions, as the help shows them.
const KEYS: [(&str, &str); 11] = [
    ("Up, Down", "select a request; PgUp, PgDn by ten"),
    ("Home, End", "select the newest or the oldest request"),
    ("Enter", "show its checks, fields and bodies"),
    ("r", "send it to the application again"),
    ("o", "open the inspector in a browser"),
    ("/", "filter the list; Esc clears the filter"),
    ("p", "pause the list; webhooks continue to arrive"),
    ("c", "copy the webhook URL"),
    ("l", "show the log"),
    ("?", "show these keys"),
    ("q, Ctrl-C", "stop; Ctrl-C again does not wait"),
];

/// Maximum number of notes and warnings on the screen.
const MESSAGES: usize = 8;

/// Minimum part of the screen for requests: a third. Tunnels beyond the rest are only counted.
const REQUESTS: usize = 3;

/// Time for which the last line reports that the URL is copied.
const COPIED_HINT: Duration = Duration::from_secs(3);

/// Time for which the last line shows the result of an action.
const RESULT_HINT: Duration = Duration::from_secs(6);

/// Time for which a note is shown. A warning stays until the screen closes, or others replace it.
const NOTE_TIME: Duration = Duration::from_secs(120);

/// Interval at which the screen reads what changes without events.
const SNAPSHOT_INTERVAL: Duration = Duration::from_secs(1);

/// Minimum interval between two drawings.
const TICK: Duration = Duration::from_millis(100);

/// Maximum wait for input that has arrived. Without any, crossterm reads nothing.
const INPUT_TIME: Duration = Duration::from_millis(1);

/// Action that the user requests by a key, beyond the list.
#[derive(Debug, PartialEq, Eq)]
enum Action {
    Quit,
    CopyUrl,
    Details,
    SendAgain,
    OpenInspector,
}

/// Waits for input, at most this time. Returns `false` if the terminal is gone: reading from it would
/// return nothing again and again.
fn wait_for_input(most: Duration) -> io::Result<bool> {
    let stdin = io::stdin();
    let mut polled = [PollFd::new(&stdin, PollFlags::IN)];
    let most = Timespec::try_from(most).unwrap_or_default();
    match poll(&mut polled, Some(&most)) {
        Ok(_) => {}
        // A signal, such as that of another size.
        Err(Errno::INTR) => return Ok(true),
        Err(error) => return Err(error.into()),
    }
    let gone = PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL;
    Ok(!polled
        .iter()
        .any(|polled| polled.revents().intersects(gone)))
}

/// Returns the sequence that sets the clipboard (OSC 52 in xterm's control sequences). Terminals
/// that do not support it ignore it.
fn osc52(text: &str) -> String {
    format!("\u{1b}]52;c;{}\u{7}", BASE64.encode(text.as_bytes()))
}

/// Formats the time of day in UTC.
fn clock(at: OffsetDateTime) -> String {
    lines::time_of(at)
        .get(11..19)
        .unwrap_or_default()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    #[test]
    fn url_state_and_requests_are_on_the_screen() {
        let mut screen = Screen::default();
        let url = format!(
            "https://flexdeploy.hooks.example.com/flexdeploy/webhooks/v1/git/push?token={}",
            "t".repeat(43)
        );
        let ready = ready("https://h.example", &url);
        screen.take(&Event::Ready(ready.clone()).into());
        screen.take(&Event::RefusedSummary(vec![(hookward_core::reason::Check::Token, 7)]).into());

        let shown = shown(&screen);
        for text in [
            "online",
            "relay.example:443 (quic)",
            "7 by token",
            "7 refused",
        ] {
            assert!(shown.contains(text), "{text} in\n{shown}");
        }

        let joined: String = shown
            .lines()
            .map(|line| line.trim_matches('"').trim_end())
            .collect();
        assert!(joined.contains(&url), "the whole URL in\n{shown}");

        let other = Ready {
            base_url: "https://two.example".into(),
            relay: "other.example:443".into(),
            ..ready
        };
        screen.take(&Event::Ready(other).into());

        screen.take(
            &Event::RelayDisconnected {
                relay: "relay.example:443".into(),
                reason: "it is off".into(),
                permanent: false,
            }
            .into(),
        );

        let shown = self::shown(&screen);
        for text in [
            "relay.example:443 (not reached: it is off)",
            "other.example:443 (quic)",
            "https://h.example ->",
            "https://two.example ->",
        ] {
            assert!(shown.contains(text), "{text} in\n{shown}");
        }
    }

    #[test]
    fn many_tunnels_leave_room_for_requests() {
        let mut screen = Screen::default();
        for number in 0..20 {
            let base_url = format!("https://t{number:02}.example");
            let url = format!("{base_url}/flexdeploy/webhooks/v1?token={}", "t".repeat(43));
            screen.take(&Event::Ready(ready(&base_url, &url)).into());
        }

        screen.take(&Event::Warning("THE OLD ONE STAYS IN FORCE".into()).into());
        screen.take(&Event::RefusedSummary(vec![(hookward_core::reason::Check::Token, 7)]).into());
        let shown = shown(&screen);

        for text in [
            "t00.example ->",
            "more tunnels",
            "IN FORCE",
            "7 refused",
            "7 by token",
        ] {
            assert!(shown.contains(text), "{text} in\n{shown}");
        }
    }

    /// Refusals arrive a little late, and are still shown in order.
    #[test]
    fn requests_stand_in_the_order_of_their_answers_and_failures_are_counted_apart() {
        use std::net::IpAddr;
        use std::sync::Arc;

        use hookward_core::reason::{Check, Code};
        use hookward_tunnel::protocol::control::RefusedRequest;
        use hookward_tunnel::protocol::head::RequestId;

        use crate::events::RequestEvent;

        let begin = Instant::now();
        let at = |ms: u64| begin + Duration::from_millis(ms);
        let client: IpAddr = "192.0.2.1".parse().unwrap();
        let request = |ms: u64, outcome: RequestResult| {
            let (id, host, method) = (
                RequestId([0; 16]),
                Arc::from("h.example"),
                http::Method::POST,
            );
            let path = format!("/at-{ms}");

            let report = RequestEvent {
                trace: None,
                id,
                host,
                method,
                path,
                client,
                took: Duration::ZERO,
                outcome,
            };

            TimedEvent {
                moment: at(ms),
                ..Event::Request(Box::new(report)).into()
            }
        };

        let refused = |ms: u64| {
            let report = RefusedRequest {
                id: String::new(),
                host: "h.example".to_owned(),
                method: "POST".to_owned(),
                path: format!("/at-{ms}"),
                client: client.to_string(),
                status: 403,
                check: Check::Token,
                reason: "the token is wrong".to_owned(),
                ms: 0,
                observed: false,
                answered: false,
                note: false,
                age_ms: 0,
                at_ms: 0,
                order: 0,
                content: None,
            };

            TimedEvent {
                moment: at(ms),
                ..Event::Refused(Box::new(report)).into()
            }
        };

        let answered = |status| RequestResult::Answered {
            status,
            observed: None,
            route: String::new(),
            checks: std::sync::Arc::from([]),
            secrets: Vec::new(),
        };

        let reason = || "the application broke off".to_owned();
        let failed = RequestResult::Failed {
            status: 502,
            code: Code::UpstreamError,
            reason: reason(),
        };

        let mut screen = Screen::default();
        for stamped in [
            request(0, answered(200)),
            request(1, answered(404)),
            request(3, answered(301)),
            request(4, failed),
            // 50 ms late.
            refused(2),
        ] {
            screen.take(&stamped);
        }

        let shown = shown(&screen);
        let places: Vec<_> = (0..5)
            .map(|ms| shown.find(&format!("/at-{ms}")).unwrap())
            .collect();
        assert!(
            places.is_sorted_by(|before, after| before > after),
            "the newest first: {places:?}\n{shown}"
        );
        assert!(
            shown.contains("3 answered, 1 failed, 1 refused, 0 stored"),
            "{shown}"
        );
        assert_eq!(
            screen.summary(Duration::from_secs(200)),
            "hookward: 5 requests in 3m 20s: 3 answered, 1 failed, 1 refused, 0 stored"
        );
    }

    #[test]
    fn c_copies_the_url_and_the_last_line_reports_it() {
        let url = "https://h.example/flexdeploy/webhooks/v1?token=t";
        let mut screen = Screen::default();
        let mut out = Vec::new();
        screen.copy_url(&mut out).unwrap();
        assert_eq!(
            (out.len(), screen.copied),
            (0, None),
            "there is no tunnel yet"
        );

        screen.take(&Event::Ready(ready("https://h.example", url)).into());
        screen.copy_url(&mut out).unwrap();

        let sent = String::from_utf8(out).unwrap();
        let encoded = sent
            .strip_prefix("\u{1b}]52;c;")
            .and_then(|rest| rest.strip_suffix('\u{7}'))
            .unwrap();
        assert_eq!(BASE64.decode(encoded.as_bytes()).unwrap(), url.as_bytes());
        assert!(shown(&screen).contains("the webhook URL is copied"));
    }

    #[test]
    fn keys_write_the_filter_pause_and_quit() {
        let mut screen = Screen::default();
        let mut press = |code, modifiers| {
            let action = screen.press(KeyEvent::new(code, modifiers));
            (action, screen.hint())
        };
        let mut key = |code| press(code, KeyModifiers::NONE);

        assert_eq!(key(KeyCode::Char('c')).0, Some(Action::CopyUrl));
        assert_eq!(key(KeyCode::Char('q')).0, Some(Action::Quit));
        assert!(key(KeyCode::Char('p')).1.starts_with("paused, 0"));
        key(KeyCode::Char('p'));

        for code in ['/', 'q', 'C', 'x'] {
            assert_eq!(key(KeyCode::Char(code)).0, None, "{code} is text");
        }
        assert!(key(KeyCode::Backspace).1.starts_with("filter: qc_"));
        assert!(key(KeyCode::Enter).1.starts_with("filter: qc "));
        assert!(key(KeyCode::Esc).1.contains("? help"));

        let control_c = press(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(control_c.0, Some(Action::Quit));
    }

    #[test]
    fn the_help_lists_the_keys_and_any_key_closes_it() {
        let mut screen = Screen::default();
        let question = KeyEvent::new(KeyCode::Char('?'), KeyModifiers::NONE);
        let shows_all = |screen: &Screen| {
            let shown = shown_at(screen, 60, 12);
            KEYS.iter().all(|(_, action)| shown.contains(action))
        };
        screen.take(&Event::Ready(ready("https://h.example", "https://h.example/w")).into());
        screen.press(question);
        assert!(shows_all(&screen), "{}", shown_at(&screen, 60, 12));

        screen.press(question);
        assert!(!shows_all(&screen));
    }

    fn ready(base_url: &str, url: &str) -> Ready {
        Ready {
            url: url.to_owned(),
            base_url: base_url.to_owned(),
            host: "h.example".into(),
            edge: None,
            ca: None,
            relay: "relay.example:443".into(),
            transport: Transport::Quic,
            application: "localhost:8000".into(),
        }
    }

    /// State, URL, counts and requests are on a screen of every size.
    #[test]
    fn a_small_screen_shows_what_matters() {
        let url = format!(
            "https://h.example/flexdeploy/webhooks/v1?token={}",
            "t".repeat(43)
        );
        let mut screen = Screen::default();
        screen.take(&Event::Ready(ready("https://h.example", &url)).into());
        screen.take(&Event::Note("the application refuses connections".into()).into());
        screen.take(&Event::RefusedSummary(vec![(hookward_core::reason::Check::Token, 7)]).into());

        for (width, height) in [(50, 12), (80, 24), (120, 40)] {
            let shown = shown_at(&screen, width, height);
            let joined: String = shown
                .lines()
                .map(|line| line.trim_matches('"').trim_end())
                .collect();
            for text in [&url, "online", "7 refused", "7 by token", "? help"] {
                assert!(joined.contains(text), "{text} in\n{shown}");
            }
        }

        // Nothing fits, and nothing fails.
        for (width, height) in [(1, 1), (3, 2), (200, 1), (1, 60)] {
            shown_at(&screen, width, height);
        }
    }

    fn shown(screen: &Screen) -> String {
        shown_at(screen, 80, 30)
    }

    fn shown_at(screen: &Screen, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| screen.draw(frame)).unwrap();
        terminal.backend().to_string()
    }
}
