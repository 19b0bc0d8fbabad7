//! Keep-alive: the only liveness signal, on the connection that carries the data.

use std::time::Duration;

/// Time without received data after which a tunnel's connection is dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Liveness(Duration);

impl Liveness {
    /// Creates settings with this idle timeout.
    #[must_use]
    pub const fn with_idle_timeout(span: Duration) -> Self {
        Self(span)
    }

    /// Returns the time without received data after which the connection is dead.
    #[must_use]
    pub const fn idle_timeout(self) -> Duration {
        self.0
    }

    /// Returns the time without received data after which other connections are preferred: at least
    /// one reply was lost.
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

/// Number of pings within the idle timeout, some of which may be lost.
const PINGS: u32 = 10;

/// Minimum interval of pings. The other side may have a shorter idle timeout.
const MIN_PING_INTERVAL: Duration = Duration::from_secs(1);

impl Default for Liveness {
    fn default() -> Self {
        Self(hookward_core::limits::TUNNEL_IDLE_TIMEOUT)
    }
}
