//! When a path counts as dead: the one liveness signal, on the connection that carries the data.

use std::time::Duration;

/// After how long a silence a tunnel's connection is dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Liveness(Duration);

impl Liveness {
    /// Dead after so long a silence.
    #[must_use]
    pub const fn with_idle_timeout(span: Duration) -> Self {
        Self(span)
    }

    /// The silence after which the connection is dead.
    #[must_use]
    pub const fn idle_timeout(self) -> Duration {
        self.0
    }

    /// The silence after which other connections are better: one sign of life was lost, or more.
    #[must_use]
    pub fn quiet_after(self) -> Duration {
        self.ping_interval() * 9 / 4
    }

    /// Returns the interval between two pings.
    #[must_use]
    pub(crate) fn ping_interval(self) -> Duration {
        (self.0 / PINGS).min(MIN_PING_INTERVAL)
    }
}

/// Asks for a sign of life within that time: some of them may be lost.
const PINGS: u32 = 10;

/// However long a silence may be here, the other side may take a shorter one for death.
const MIN_PING_INTERVAL: Duration = Duration::from_secs(1);

impl Default for Liveness {
    fn default() -> Self {
        Self(hookward_core::limits::TUNNEL_IDLE_TIMEOUT)
    }
}
