//! What the lines do, summed up for the user: reached or not, and by what.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hookward_shared::transport::Transport;

use super::{ConnectionError, Opened};
use crate::report::{Report, Reporter};

/// The same failure is told again after this.
const AGAIN: Duration = Duration::from_secs(30);

/// Which line: the relay's address and the line's number.
pub type LineId = (String, usize);

/// What the lines do.
#[derive(Default)]
pub struct Status {
    // A std mutex: it guards a small map, and nothing waits while it is held.
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    open: BTreeMap<LineId, Transport>,
    told: Option<(String, Instant)>,
}

impl Status {
    /// A line is being dialled.
    pub fn dialling(&self, relay: &str, reporter: &Reporter) {
        if self.lock().open.is_empty() {
            reporter.say(Report::Connecting { relay: relay.to_owned() });
        }
    }

    /// A line is open. `tell` is called for what the user has to hear again: the relay, or what carries it, is
    /// another than before.
    pub fn open(&self, id: LineId, transport: Transport, opened: &[Opened], tell: &dyn Fn(Opened)) {
        let mut inner = self.lock();
        let news = !inner.open.iter().any(|((relay, _), by)| *relay == id.0 && *by == transport);
        inner.open.insert(id, transport);
        inner.told = None;
        drop(inner);
        if news {
            opened.iter().cloned().for_each(tell);
        }
    }

    /// A line is gone.
    pub fn closed(&self, id: &LineId, why: &ConnectionError, reporter: &Reporter) {
        let mut inner = self.lock();
        let was_open = inner.open.remove(id).is_some();
        let others = inner.open.len();
        drop(inner);
        match (was_open, others) {
            (true, 0) => self.failed(why, reporter),
            (true, _) => reporter.say(Report::Note(format!(
                "a connection was lost ({why}); {others} others carry on, and it is dialled again"
            ))),
            (false, _) => {}
        }
    }

    /// A line is given up.
    pub fn ended(&self, id: &LineId) {
        self.lock().open.remove(id);
    }

    /// An attempt failed. It is told where no line is open, and not every time.
    pub fn failed(&self, why: &ConnectionError, reporter: &Reporter) {
        let mut inner = self.lock();
        let why = why.to_string();
        let known = inner.told.as_ref().is_some_and(|(told, at)| *told == why && at.elapsed() < AGAIN);
        if known || !inner.open.is_empty() {
            return;
        }
        inner.told = Some((why.clone(), Instant::now()));
        drop(inner);
        reporter.say(Report::Away { why });
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
