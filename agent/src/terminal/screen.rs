//! The screen: session state and URLs above ([`header`]), requests below ([`requests`]), newest first,
//! keys at the bottom. Enter opens one request ([`details`]). [`Screen`] is its state, [`keys`] changes
//! it for the user, and [`drawing`] shows it.

mod columns;
mod details;
mod drawing;
mod header;
mod keys;
mod requests;
mod source;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Write};
use std::time::{Duration, Instant};

use crossterm::event as input;
use hookward_core::clock::Clock;
use hookward_core::reason::Check;
use hookward_runtime::process::{self, LogHold};
use hookward_tunnel::transport::Transport;
use ratatui::DefaultTerminal;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use time::OffsetDateTime;

use self::details::Details;
use self::keys::{Action, Search};
use self::requests::{RequestList, Row};
pub(crate) use self::source::ScreenSource;
use self::source::Snapshot;
use super::Quit;
use super::lines;
use crate::events::{Event, EventStream, Ready, RequestResult, TimedEvent};

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
    let wheel = WheelKeys::enable();
    let mut screen = Screen {
        several,
        known_senders: source.as_ref().map_or(0, ScreenSource::newest),
        source,
        ..Screen::default()
    };
    let shown = screen.show(&mut terminal, &mut reports, quit, &held);

    drop(wheel);
    ratatui::restore();
    drop(held);
    shown?;

    let mut out = io::stdout();
    writeln!(out, "{}", screen.summary(opened.elapsed()))?;
    out.flush()
}

/// Mode in which the wheel sends arrow keys (alternate scroll in xterm's control sequences). Text can still be
/// selected, unlike with mouse events. Dropping it restores the terminal's own setting, where the terminal
/// can.
struct WheelKeys;

impl WheelKeys {
    fn enable() -> Self {
        Self::write(b"\x1b[?1007s\x1b[?1007h");
        Self
    }

    fn write(code: &[u8]) {
        let mut out = io::stdout();
        // A terminal that is gone ends the screen elsewhere.
        let _ = out.write_all(code).and_then(|()| out.flush());
    }
}

impl Drop for WheelKeys {
    fn drop(&mut self) {
        Self::write(b"\x1b[?1007r");
    }
}

/// State of the screen.
#[derive(Default)]
pub(crate) struct Screen {
    clock: Clock,
    several: bool,
    state: String,
    stopping: bool,
    /// Time at which the user copied the webhook URL.
    copied: Option<Instant>,
    /// Search of the history for the filter.
    search: Option<Search>,
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

    /// Reads what changes without events, at most once an interval.
    fn refresh(&mut self) {
        self.show_search();
        let Some(source) = &self.source else { return };
        let (senders, known) = source.senders(self.known_senders);
        self.known_senders = known;
        self.requests.name_senders(&senders);

        if self
            .snapshot_at
            .is_none_or(|at| at.elapsed() >= SNAPSHOT_INTERVAL)
        {
            self.snapshot = source.snapshot();
            self.snapshot_at = Some(Instant::now());
            if matches!(self.mode, Mode::List) {
                self.search();
            }
            self.messages
                .retain(|message| !message.is_note || message.moment.elapsed() < NOTE_TIME);
        }
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
}

/// Maximum number of notes and warnings on the screen.
const MESSAGES: usize = 8;

/// Time for which a note is shown. A warning stays until the screen closes, or others replace it.
const NOTE_TIME: Duration = Duration::from_secs(120);

/// Interval at which the screen reads what changes without events.
const SNAPSHOT_INTERVAL: Duration = Duration::from_secs(1);

/// Minimum interval between two drawings.
const TICK: Duration = Duration::from_millis(100);

/// Maximum wait for input that has arrived. Without any, crossterm reads nothing.
const INPUT_TIME: Duration = Duration::from_millis(1);

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

/// Formats the time of day in UTC.
fn clock(at: OffsetDateTime) -> String {
    lines::time_of(at)
        .get(11..19)
        .unwrap_or_default()
        .to_owned()
}
