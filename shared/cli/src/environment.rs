//! Flags from the environment: `HOOKWARD_DATA_DIR` for `--data-dir`. A flag wins over its variable.

use std::ffi::OsString;

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command, Error};

/// Parses a command line. Flags and arguments of these commands also come from the environment.
///
/// # Errors
/// clap's error, with the variables that are set.
pub fn parse(
    command: Command,
    commands: &[&'static str],
    args: impl IntoIterator<Item = impl Into<OsString> + Clone>,
) -> Result<ArgMatches, Error> {
    let command = with_variables(command, commands);
    let set = commands
        .iter()
        .filter_map(|path| {
            let mut names = path.split(' ');
            names.try_fold(&command, |command, name| command.find_subcommand(name))
        })
        .flat_map(Command::get_arguments)
        .filter_map(Arg::get_env)
        .filter(|variable| std::env::var_os(variable).is_some());
    let mut set: Vec<_> = set
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    set.sort();
    set.dedup();

    command.try_get_matches_from(args).map_err(|error| {
        if set.is_empty() || error.exit_code() == 0 {
            return error;
        }
        let text = error.render().to_string();
        let text = text.trim_start_matches("error: ");
        let set = set.join(", ");
        Error::raw(
            error.kind(),
            format!("{text}\nThese variables of the environment count as flags: {set}\n"),
        )
    })
}

/// A flag or argument that the user has given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenFlag {
    /// Name of the flag, without `--`.
    pub name: String,
    /// Value as given.
    pub value: String,
    /// Flag, or variable of the environment.
    pub origin: String,
}

/// Returns the flags of the command that were given on the command line or in the environment.
#[must_use]
pub fn given(command: &Command, matches: &ArgMatches) -> Vec<GivenFlag> {
    let (mut command, mut matches) = (command, matches);
    while let Some((name, below)) = matches.subcommand() {
        let Some(found) = command.find_subcommand(name) else {
            break;
        };
        (command, matches) = (found, below);
    }

    let given = command.get_arguments().filter_map(|arg| {
        let id = arg.get_id().as_str();
        let name = arg.get_long().unwrap_or(id).to_owned();
        let origin = match matches.value_source(id)? {
            ValueSource::CommandLine => format!("--{name}"),
            ValueSource::EnvVariable => variable_of(&name),
            _ => return None,
        };
        let values = matches.get_raw(id)?.map(|value| value.to_string_lossy());
        let value = values.collect::<Vec<_>>().join(", ");
        Some(GivenFlag {
            name,
            value,
            origin,
        })
    });
    given.collect()
}

/// Returns the command with variables for the flags of some commands, such as `serve` and
/// `config show`.
#[must_use]
pub fn with_variables(command: Command, commands: &[&'static str]) -> Command {
    commands
        .iter()
        .fold(command, |command, path| with_variables_at(command, path))
}

fn with_variables_at(command: Command, path: &'static str) -> Command {
    match path.split_once(' ') {
        Some((name, rest)) => {
            command.mut_subcommand(name, |command| with_variables_at(command, rest))
        }
        None => command.mut_subcommand(path, |command| command.mut_args(with_variable)),
    }
}

fn variable_of(name: &str) -> String {
    match name {
        // HOOKWARD_LOG is the filter of the diagnostics.
        "log" => "HOOKWARD_LOG_FILE".to_owned(),
        name => format!("HOOKWARD_{}", name.replace('-', "_").to_ascii_uppercase()),
    }
}

fn with_variable(arg: Arg) -> Arg {
    let name = arg.get_long().unwrap_or(arg.get_id().as_str()).to_owned();
    // One that clap adds, or one that has its variable.
    if matches!(name.as_str(), "help" | "version") || arg.get_env().is_some() {
        return arg;
    }
    // The help would list the values.
    arg.env(variable_of(&name)).hide_env(true)
}
