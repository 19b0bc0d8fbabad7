//! What a connection of an agent passes before it is a session, whichever transport brings it: so many
//! unknown ones in all and of one address, one deadline, and the greeting.

use std::future::Future;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use hookward_shared::limits::AGENTS_UNKNOWN_PER_SOURCE;
use hookward_shared::quota::Quota;
use hookward_shared::transport::Session;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::admission::{self, AdmissionError};
use super::host::Host;
use super::session;
use crate::edge::places::{Place, Places};

/// Log lines a second about connections that failed before they were an agent's.
const FAILURES_A_SECOND: usize = 5;

/// The way in for agents. It owns the tasks of greetings and sessions.
pub struct Entrance {
    /// What a session needs of the relay.
    pub host: Arc<Host>,
    unknown: Arc<Semaphore>,
    of_source: Places,
    tasks: TaskTracker,
    /// Log lines about strangers, who can knock as often as they like.
    // A std mutex: it guards a short list, and nothing waits while it is held.
    failures: Mutex<Quota<()>>,
    drain: CancellationToken,
    stop: CancellationToken,
}

/// A place for a connection whose peer has not yet said who it is.
pub struct Unknown(#[allow(dead_code, reason = "held, not read")] (Place, OwnedSemaphorePermit));

impl Entrance {
    /// An entrance whose sessions are told to leave when `drain` is cancelled, and end with `stop`.
    #[must_use]
    pub fn new(host: Arc<Host>, drain: CancellationToken, stop: CancellationToken) -> Self {
        let unknown = Arc::new(Semaphore::new(host.limits.agents_unknown));
        let failures = Mutex::new(Quota::new(FAILURES_A_SECOND));
        Self { host, unknown, of_source: Places::default(), tasks: TaskTracker::new(), failures, drain, stop }
    }

    /// Connections whose peer has not yet said who it is.
    #[must_use]
    pub fn unknown(&self) -> usize {
        self.host.limits.agents_unknown - self.unknown.available_permits()
    }

    /// What owns the tasks.
    #[must_use]
    pub const fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// Returns `true` if a stranger's failure may be logged; the next line that is tells how many were not.
    fn may_log(&self) -> bool {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if !failures.take(()) {
            return false;
        }
        let counted = failures.take_counted().into_iter().map(|((), count)| count).sum::<u64>();
        drop(failures);
        if counted > 0 {
            tracing::info!(counted, "connections to the agents' door that failed, and were counted only");
        }
        true
    }

    /// A place for one more unknown connection; `None` when there are too many.
    pub fn place(&self, source: IpAddr) -> Option<Unknown> {
        // A handshake proves its address, so one that only knocks can't lock the others out.
        let place = self.of_source.take(source, AGENTS_UNKNOWN_PER_SOURCE)?;
        Some(Unknown((place, Arc::clone(&self.unknown).try_acquire_owned().ok()?)))
    }

    /// Takes a connection in, in a task of its own: `connecting` makes it, the greeting follows, then the
    /// session.
    pub fn enter<E>(
        self: &Arc<Self>,
        place: Unknown,
        connecting: impl Future<Output = Result<Session, E>> + Send + 'static,
    ) where
        AdmissionError: From<E>,
        E: Send,
    {
        let this = Arc::clone(self);
        self.tasks.spawn(async move {
            let greeting = async {
                let session = connecting.await?;
                let admitted = admission::admit(&session, &this.host).await?;
                Ok::<_, AdmissionError>((session, admitted))
            };
            let greeted = tokio::select! {
                greeted = timeout(this.host.limits.agent_greeting, greeting) => greeted,
                () = this.stop.cancelled() => return,
            };
            drop(place);
            match greeted {
                Ok(Ok((session, admitted))) => {
                    session::serve(session, admitted, &this.host, this.drain.clone(), this.stop.clone()).await;
                }
                Ok(Err(AdmissionError::Joined(agent))) => tracing::info!(agent, "agent joined"),
                // Agents try several ways at one time, and give up all but one.
                Ok(Err(error @ AdmissionError::Session(_))) => {
                    tracing::debug!(%error, "a connection that was given up")
                }
                Ok(Err(error)) if this.may_log() => {
                    tracing::info!(%error, "an agent's connection ended before its session");
                }
                Err(_) if this.may_log() => tracing::info!("an agent's connection said nothing in time"),
                Ok(Err(_)) | Err(_) => {}
            }
        });
    }
}
