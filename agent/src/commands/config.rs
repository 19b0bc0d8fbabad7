//! `hookward config`: checks and explains the file of `hookward start`.

use std::path::Path;

use hookward_cli::schema;
use hookward_core::clock::Clock;
use hookward_core::diagnostics::{
    Diagnostic, Diagnostics, FileValue, KnownKey, Variables, describe, file_values,
};
use hookward_observe::table;

use super::start;
use super::{CommandError, print, print_error};
use crate::cli::{ConfigCommand, LogFormat, StartArgs};
use crate::config::state_dir::StateDir;
use crate::exit::Exit;

/// Runs the command.
///
/// # Errors
/// Failure that ends with [`Exit::Failed`].
pub(super) fn run(command: ConfigCommand) -> Result<Exit, CommandError> {
    match command {
        ConfigCommand::Check(args) => check(&args),
        ConfigCommand::Show(args) => show(&args),
        ConfigCommand::Example => print(&example()).map(|()| Exit::Done),
        ConfigCommand::Schema => {
            let known = known_keys();
            let described = known.iter().map(|key| (key, about(&key.path)));
            let schema = schema::of("Tunnels of hookward", described);
            print(&format!("{schema}\n")).map(|()| Exit::Done)
        }
    }
}

/// Checks the file and the policies that it names.
fn check(args: &StartArgs) -> Result<Exit, CommandError> {
    let state = StateDir::open(args.common.state_dir.as_deref())?;
    match start::plans(args, &state, &Clock::System)? {
        Ok(plans) => {
            let count = plans.len();
            let tunnels = if count == 1 { "tunnel" } else { "tunnels" };
            print(&format!("the file can be used: {count} {tunnels}\n")).map(|()| Exit::Done)
        }
        Err(problems) => usage(&problems),
    }
}

/// Prints every setting of every tunnel, with its line or the default.
fn show(args: &StartArgs) -> Result<Exit, CommandError> {
    let (tunnels, problems) = start::read(args);
    if !problems.is_empty() {
        return usage(&Diagnostics(problems));
    }
    let Ok(text) = std::fs::read_to_string(&args.file) else {
        let what = "can't be read".to_owned();
        let place = args.file.display().to_string();
        return usage(&Diagnostics(vec![Diagnostic::new(place, what)]));
    };

    let (values, file) = (file_values(&text), args.file.display());
    let variable = |name: &str| std::env::var(name).ok();
    let variables = Variables::new(&variable);
    let mut rows = Vec::new();
    for (number, _) in tunnels {
        for (key, default, ..) in KEYS {
            let path = format!("tunnel[{number}].{key}");
            // A single table stands for a list of one.
            let single = format!("tunnel.{key}");
            let is_it = |value: &&FileValue| value.path == path || value.path == single;
            let (value, origin) = match values.iter().find(is_it) {
                Some(value) => (value.expanded(&variables), format!("{file}:{}", value.line)),
                None => ((*default).to_owned(), "default".to_owned()),
            };
            rows.push(vec![path, value, origin]);
        }
    }
    let text = table::text(&["KEY", "VALUE", "ORIGIN"], rows);
    print(&format!("{text}\n")).map(|()| Exit::Done)
}

fn usage(problems: &Diagnostics) -> Result<Exit, CommandError> {
    print_error(LogFormat::Text, &problems.to_string());
    Ok(Exit::Usage)
}

/// Returns a commented file with all keys.
fn example() -> String {
    let mut text = String::from(
        "# Tunnels of `hookward start`. Remove the # before a key to set it.\n\
         # ${NAME} in a string is the value of a variable; ${NAME:-text} has a default.\n\n\
         [[tunnel]]\n",
    );
    for (key, default, example, about) in KEYS {
        let mark = if *key == "application" { "" } else { "#" };
        text.push_str(&format!(
            "# {about}\n# Default: {}\n",
            default.trim_matches(['(', ')'])
        ));
        text.push_str(&format!("{mark}{key} = {example}\n"));
    }
    text
}

fn known_keys() -> Vec<KnownKey> {
    describe(|top| start::read_tunnels(top, Path::new("")).clear())
}

fn about(path: &str) -> &'static str {
    let row = KEYS
        .iter()
        .find(|(key, ..)| path == format!("tunnel[].{key}"));
    row.map_or("", |(.., about)| about)
}

/// Name, default, example and description of each key of a tunnel.
const KEYS: &[(&str, &str, &str, &str)] = &[
    (
        "application",
        "(required)",
        "8000",
        "Port, address or URL of the application",
    ),
    (
        "host",
        "(the agent's own)",
        "\"jira\"",
        "Public host: a label below the relay's domain, or a whole name",
    ),
    (
        "webhook",
        "(none)",
        "\"git/push\"",
        "Webhook below the policy's path whose URL is printed",
    ),
    (
        "policy",
        "(a created token)",
        "\"policy.toml\"",
        "Policy file, beside this file",
    ),
    (
        "upstream_ca",
        "(the system's)",
        "\"ca.pem\"",
        "PEM file of certificates to trust beside the system's, for https",
    ),
    (
        "upstream_insecure",
        "false",
        "false",
        "true: the application's certificate is not verified",
    ),
    (
        "upstream_http2",
        "false",
        "false",
        "true: the application gets HTTP/2",
    ),
    (
        "upstream_host",
        "\"preserve\"",
        "\"rewrite\"",
        "Host field of requests: preserve, rewrite, or a host",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};

    #[test]
    fn every_key_is_described() {
        let known = known_keys();
        assert_eq!(known.len(), KEYS.len());
        for key in known {
            assert!(!about(&key.path).is_empty(), "{}", key.path);
        }
    }

    /// With and without the comment marks.
    #[test]
    fn the_example_is_a_file_of_tunnels() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("hookward.toml");
        for marks in ["#", "# # "] {
            let keys = KEYS.iter().map(|(key, ..)| format!("{marks}{key} = "));
            let text = keys.fold(example(), |text, marked| {
                text.replace(&marked, marked.trim_start_matches('#'))
            });
            std::fs::write(&file, &text).unwrap();
            let line = ["hookward", "start", file.to_str().unwrap()];
            let Command::Start(args) = Cli::parse_args(line).unwrap().command else {
                panic!("not a start")
            };
            let (tunnels, problems) = start::read(&args);
            assert!(problems.is_empty(), "{problems:?} in\n{text}");
            assert_eq!(tunnels.len(), 1);
        }
    }
}
