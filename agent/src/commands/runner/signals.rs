//! Signals that end the program.

use crate::commands::CommandError;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Signals that end the program.
pub(super) struct ShutdownSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl ShutdownSignals {
    pub(super) fn new() -> Result<Self, CommandError> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).map_err(CommandError::system("SIGTERM"))?,
            interrupt: signal(SignalKind::interrupt()).map_err(CommandError::system("SIGINT"))?,
        })
    }

    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
