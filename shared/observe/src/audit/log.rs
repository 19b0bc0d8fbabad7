//! Handle of the audit log: queues records for the writer thread. Recording never waits.

use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use hookward_core::clock::Clock;
use serde::Serialize;
use tokio::sync::watch;

use super::error::AuditError;
use super::limited::{Causer, LimitedKind};
use super::lock;
use super::queue::{AuditStatus, LIMITED_BYTES, LogState, QUEUE_BYTES};
use super::recent::RecentRecord;
use super::record::{Act, Actor, encode};
use super::settings::AuditSettings;
use super::writer::Writer;

/// The log; clones share it.
#[derive(Clone)]
pub struct AuditLog {
    handle: Option<Arc<Handle>>,
    clock: Clock,
}

/// Owner of the writer thread. Dropping the last clone of the log ends it.
struct Handle {
    shared: Arc<LogState>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.stop();
    }
}

/// Time for the writer to end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

impl AuditLog {
    /// Starts the log of a program.
    ///
    /// # Errors
    /// If a sink fails.
    pub fn start(
        settings: &AuditSettings,
        program: &'static str,
        clock: Clock,
    ) -> Result<Self, AuditError> {
        if settings.is_off() {
            return Ok(Self::off(clock));
        }

        let shared = Arc::new(LogState::new(settings.on_failure));
        let writer = Writer::open(settings, program, Arc::clone(&shared), clock.clone())?;
        let thread = std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || writer.run())
            .map_err(AuditError::Thread)?;
        let handle = Handle {
            shared,
            thread: Mutex::new(Some(thread)),
        };
        Ok(Self {
            handle: Some(Arc::new(handle)),
            clock,
        })
    }

    /// Returns a log without sinks.
    #[must_use]
    pub const fn off(clock: Clock) -> Self {
        Self {
            handle: None,
            clock,
        }
    }

    /// Returns `true` if nothing is recorded.
    #[must_use]
    pub const fn is_off(&self) -> bool {
        self.handle.is_none()
    }

    fn shared(&self) -> Option<&Arc<LogState>> {
        self.handle.as_ref().map(|handle| &handle.shared)
    }

    /// Returns `false` while no request may be forwarded, because a sink fails, or is too slow.
    #[must_use]
    pub fn accepts(&self) -> bool {
        !self.shared().is_some_and(|shared| shared.is_refusing())
    }

    /// Returns the number of records so far that the log has taken, for [`AuditLog::has_written`].
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.shared().map_or(0, |shared| shared.accepted())
    }

    /// Returns `true` once the file has this many records. A log without sinks has all.
    #[must_use]
    pub fn has_written(&self, accepted: u64) -> bool {
        self.shared()
            .is_none_or(|shared| shared.written() >= accepted)
    }

    /// Records an event with the fields of an object.
    pub fn record(&self, event: &'static str, fields: &impl Serialize) {
        if let Some(shared) = self.shared() {
            shared.push(encode(self.clock.now(), event, fields), QUEUE_BYTES);
        }
    }

    /// Records an administrative act.
    pub fn act(&self, event: &'static str, actor: Actor, details: impl Serialize) {
        self.record(event, &Act { actor, details });
    }

    /// Records an event that others cause at will, or counts it if this second has too many.
    pub fn limited<F: Serialize>(
        &self,
        causer: Causer,
        client: IpAddr,
        kind: LimitedKind,
        fields: impl FnOnce() -> F,
    ) {
        let Some(shared) = self.shared() else {
            return;
        };
        let now = self.clock.now();
        if shared.take_limited(causer, client, kind, now) {
            shared.push(encode(now, kind.event, &fields()), LIMITED_BYTES);
        }
    }

    /// Opens the file again, as after logrotate.
    pub fn reopen(&self) {
        if let Some(shared) = self.shared() {
            shared.reopen();
        }
    }

    /// Returns the state of the log; `None` if it is off.
    #[must_use]
    pub fn status(&self) -> Option<AuditStatus> {
        self.shared().map(|shared| shared.status())
    }

    /// Returns the last records after this number, oldest first.
    #[must_use]
    pub fn recent(&self, after: u64) -> Vec<RecentRecord> {
        self.shared()
            .map_or_else(Vec::new, |shared| shared.recent.after(after))
    }

    /// Returns the number of the newest record, and its changes; `None` if the log is off.
    #[must_use]
    pub fn newest(&self) -> Option<watch::Receiver<u64>> {
        self.shared().map(|shared| shared.recent.newest())
    }

    /// Writes what is queued, and ends the log. Records after that are lost.
    pub async fn close(&self) {
        let Some(handle) = &self.handle else {
            return;
        };
        handle.shared.stop();
        let thread = lock(&handle.thread).take();
        if let Some(thread) = thread {
            let joining = tokio::task::spawn_blocking(move || thread.join());
            if tokio::time::timeout(CLOSE_TIMEOUT, joining).await.is_err() {
                tracing::error!(
                    event = "audit_failing",
                    "the audit log did not end in time; its last records may be lost"
                );
            }
        }
    }
}
