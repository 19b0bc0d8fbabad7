//! Commands that both programs have: [`deliveries`], and [`help`] for shells and `man`. Flags of
//! both come from the [`environment`], too.

pub mod deliveries;
pub mod environment;
pub mod help;
pub mod schema;

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
