//! Flags from the environment: `HOOKWARD_DATA_DIR` for `--data-dir`. A flag wins over its variable.

use std::ffi::OsString;

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
        .filter_map(|name| command.find_subcommand(name))
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

fn with_variables(command: Command, commands: &[&'static str]) -> Command {
    commands.iter().fold(command, |command, name| {
        command.mut_subcommand(*name, |command| command.mut_args(with_variable))
    })
}

fn with_variable(arg: Arg) -> Arg {
    let name = arg.get_long().unwrap_or(arg.get_id().as_str()).to_owned();
    // One that clap adds, or one that has its variable.
    if matches!(name.as_str(), "help" | "version") || arg.get_env().is_some() {
        return arg;
    }
    let variable = match name.as_str() {
        // HOOKWARD_LOG is the filter of the diagnostics.
        "log" => "LOG_FILE".to_owned(),
        name => name.replace('-', "_").to_ascii_uppercase(),
    };
    // The help would list the values.
    arg.env(format!("HOOKWARD_{variable}")).hide_env(true)
}
