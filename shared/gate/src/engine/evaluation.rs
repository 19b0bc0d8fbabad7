//! Circumstances of an evaluation: who sends, when, and what the gate remembers.

use std::net::IpAddr;

use super::state::GateState;
use hookward_core::clock::{Moment, UnixMillis};
use hookward_core::fetched_keys::FetchedKeys;

/// Circumstances under which the gate evaluates a request. The gate is a pure function of the
/// request and these values.
#[derive(Clone, Copy)]
pub struct Evaluation<'a> {
    /// Client address, after trusted proxies.
    pub client: IpAddr,
    /// Time of the evaluation.
    pub now: Moment,
    /// State between requests.
    pub state: &'a GateState,
    /// Public keys that were fetched for this request.
    pub keys: &'a FetchedKeys,
    /// `true` on a route that only observes. The gate sets it.
    pub(super) observing: bool,
}

impl<'a> Evaluation<'a> {
    /// Creates an evaluation without fetched keys.
    #[must_use]
    pub fn new(client: IpAddr, now: impl Into<Moment>, state: &'a GateState) -> Self {
        static NO_KEYS: FetchedKeys = FetchedKeys::none();

        Self {
            client,
            now: now.into(),
            state,
            keys: &NO_KEYS,
            observing: false,
        }
    }

    /// Returns the evaluation with these fetched keys.
    #[must_use]
    pub const fn with_keys(self, keys: &'a FetchedKeys) -> Self {
        Self { keys, ..self }
    }

    /// Returns the evaluation on a route that only observes, or that enforces.
    pub(super) const fn observing(self, observing: bool) -> Self {
        Self { observing, ..self }
    }

    /// Returns the time of day.
    pub(super) const fn time(&self) -> UnixMillis {
        self.now.wall
    }
}
