//! Commands that both programs have: [`deliveries`].

pub mod deliveries;

use clap::ValueEnum;

/// Format of output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// For people.
    #[default]
    Text,
    /// For programs: JSON.
    Json,
}
