//! What stands in for [`local`](super::local) in a program that was built without it.

use std::convert::Infallible;
use std::net::SocketAddr;

use hookward_core::clock::Clock;

use super::CommandError;
use crate::connection::Relay;
use crate::state::StateDir;

/// What an agent that has not joined is told.
pub(crate) use super::NOT_JOINED;

/// There is none.
pub struct Local(Infallible);

/// Starts nothing.
///
/// # Errors
/// None.
pub const fn start(
    _: Option<SocketAddr>,
    _: &[Option<&str>],
    _: &StateDir,
    _: &Clock,
) -> Result<Option<Local>, CommandError> {
    Ok(None)
}

impl Local {
    /// Never called.
    #[must_use]
    pub const fn connection(&self) -> Relay {
        match self.0 {}
    }

    /// Never called.
    #[must_use]
    pub const fn edge(&self) -> String {
        match self.0 {}
    }

    /// Never called.
    #[must_use]
    pub const fn ca(&self) -> Option<String> {
        match self.0 {}
    }

    /// Never called.
    pub async fn shutdown(self) {
        match self.0 {}
    }
}
