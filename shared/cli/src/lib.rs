//! Commands that both programs have: [`deliveries`], and [`help`] for shells and `man`.

pub mod deliveries;
pub mod help;

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
