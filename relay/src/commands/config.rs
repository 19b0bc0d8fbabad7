//! `hookward-relay config`: checks and explains the settings.

use std::path::Path;

use hookward_cli::OutputFormat;
use hookward_cli::environment::GivenFlag;
use hookward_cli::schema;
use hookward_core::clock::Clock;
use hookward_core::diagnostics::{
    Diagnostic, Diagnostics, FileValue, KeyKind, Variables, file_values,
};
use hookward_core::secret::SecretSource;
use hookward_observe::table;
use serde_json::json;

use crate::certs::review::WantedNames;
use crate::certs::source::CertificateSource;
use crate::cli::{ConfigCommand, ServeArgs};
use crate::commands::{CommandError, say, serve};
use crate::edge::baseline;
use crate::settings::Settings;
use crate::settings::keys::{self, SettingKey};

/// A setting with its value and the origin of the value.
struct Shown {
    key: String,
    value: String,
    origin: String,
}

/// Runs the command. `given` are the flags and variables of the command line.
///
/// # Errors
/// [`CommandError`].
pub(super) fn run(command: ConfigCommand, given: &[GivenFlag]) -> Result<(), CommandError> {
    match command {
        ConfigCommand::Check(args) => check(&args),
        ConfigCommand::Show(args) => {
            let shown = show(&args.settings, given)?;
            match args.format {
                OutputFormat::Json => {
                    let rows = shown.iter().map(
                        |row| json!({ "key": row.key, "value": row.value, "origin": row.origin }),
                    );
                    say(&json!(rows.collect::<Vec<_>>()).to_string())
                }
                OutputFormat::Text => {
                    let rows = shown
                        .into_iter()
                        .map(|row| vec![row.key, row.value, row.origin]);
                    say(&table::text(&["KEY", "VALUE", "ORIGIN"], rows.collect()))
                }
            }
        }
        ConfigCommand::Example => say(example().trim_end()),
        ConfigCommand::Schema => {
            let rows = keys::all();
            let described = rows.iter().map(|key| (&key.known, key.about.as_str()));
            say(&schema::of("Settings of hookward-relay", described).to_string())
        }
    }
}

/// Checks the settings, and the files that they name.
fn check(args: &ServeArgs) -> Result<(), CommandError> {
    let settings = serve::settings(args)?;
    let mut problems = Vec::new();
    problems.extend(certificate_faults(&settings));
    if let Some(path) = &settings.baseline_policy
        && let Err(Diagnostics(found)) = baseline::check_file(path, &Clock::System)
    {
        problems.extend(found);
    }
    match problems.is_empty() {
        true => say("the settings can be used"),
        false => Err(Diagnostics(problems).into()),
    }
}

/// Returns what senders would reject in the certificate of the settings.
fn certificate_faults(settings: &Settings) -> Vec<Diagnostic> {
    let Some((chain, key)) = settings.certificate.clone() else {
        return Vec::new();
    };
    let wanted = WantedNames {
        domain: settings.domain.clone(),
        hosts: None,
    };
    let fault = |what: String| Diagnostic::new("certificate", what);
    match (CertificateSource::Files { chain, key }).load(&wanted, &Clock::System) {
        Ok(loaded) => {
            let faults = loaded.findings.iter().filter(|finding| finding.is_fault());
            faults.map(|finding| fault(finding.to_string())).collect()
        }
        Err(error) => vec![fault(error.to_string())],
    }
}

/// Returns every setting that is in force.
fn show(args: &ServeArgs, given: &[GivenFlag]) -> Result<Vec<Shown>, CommandError> {
    let settings = serve::settings(args)?;
    let text = match &args.config {
        Some(path) => read(path)?,
        None => String::new(),
    };
    let in_file = file_values(&text);
    let limits = settings.limits.values();

    let mut shown = Vec::new();
    for key in keys::all() {
        let of_flags = given
            .iter()
            .filter(|flag| Some(flag.name.as_str()) == key.flag);
        let of_flags: Vec<_> = of_flags
            .map(|flag| Shown {
                key: key.known.path.clone(),
                value: flag.value.clone(),
                origin: flag.origin.clone(),
            })
            .collect();
        let of_file = in_file.iter().filter(|value| belongs(value, &key));
        let of_file: Vec<_> = of_file.map(|value| file_row(value, args)).collect();

        let is_list = matches!(key.known.kind, KeyKind::Texts | KeyKind::Map);
        let name = key.known.path.strip_prefix("limits.");
        let limit = name.and_then(|name| limits.iter().find(|limit| limit.0 == name));
        match (of_flags.is_empty(), of_file.is_empty()) {
            (false, false) if is_list => shown.extend(of_file.into_iter().chain(of_flags)),
            (false, _) => shown.extend(of_flags),
            (true, false) => shown.extend(of_file),
            (true, true) => shown.push(default_row(&key, limit.map(|limit| limit.1.as_str()))),
        }
    }
    Ok(shown)
}

fn read(path: &Path) -> Result<String, CommandError> {
    std::fs::read_to_string(path).map_err(|source| CommandError::File {
        path: path.to_owned(),
        source,
    })
}

fn belongs(value: &FileValue, key: &SettingKey) -> bool {
    let path = key.known.path.as_str();
    let below = || {
        value
            .path
            .strip_prefix(path)
            .is_some_and(|rest| rest.starts_with('.'))
    };
    value.path == path || key.known.kind == KeyKind::Map && below()
}

fn file_row(value: &FileValue, args: &ServeArgs) -> Shown {
    let file = args.config.as_deref().unwrap_or(Path::new(""));
    Shown {
        key: value.path.clone(),
        value: without_secrets(value),
        origin: format!("{}:{}", file.display(), value.line),
    }
}

/// Returns the value with its variables. A command may contain a secret, so only its program is shown.
fn without_secrets(value: &FileValue) -> String {
    match value.path.as_str() {
        "acme.dns_hook" => {
            let first = value.text.split(',').next().unwrap_or_default();
            match first == value.text {
                true => first.to_owned(),
                false => format!("{first}, …]"),
            }
        }
        "acme.external_account.key" => {
            let source = SecretSource::parse(value.text.trim_matches(['"', '\'']));
            source.map_or("(hidden)".to_owned(), |source| source.to_string())
        }
        // Part of a URL or an id may be secret.
        path if path.starts_with("acme.") => value.text.clone(),
        _ => {
            let variable = |name: &str| std::env::var(name).ok();
            value.expanded(&Variables::new(&variable))
        }
    }
}

fn default_row(key: &SettingKey, limit: Option<&str>) -> Shown {
    let derived = limit.filter(|value| key.default.trim_matches('"') != *value);
    Shown {
        key: key.known.path.clone(),
        value: derived.map_or_else(|| key.default.clone(), str::to_owned),
        origin: match derived {
            Some(_) => "limits.profile".to_owned(),
            None => "default".to_owned(),
        },
    }
}

/// Returns a commented settings file with all keys.
fn example() -> String {
    let mut text = String::from(
        "# Settings of hookward-relay. Remove the # before a key, and before its [table], to set it.\n\
         # Flags win over variables (HOOKWARD_…), and variables over this file.\n\
         # ${NAME} in a string is the value of a variable; ${NAME:-text} has a default.\n",
    );
    let mut table = "";
    let keys = keys::all();
    for key in &keys {
        let (of, name) = key
            .known
            .path
            .rsplit_once('.')
            .unwrap_or(("", &key.known.path));
        if of != table {
            table = of;
            // An empty table may already turn something on.
            text.push_str(&format!("\n#[{of}]\n"));
        }
        let mark = if key.known.path == "domain" { "" } else { "#" };
        text.push_str(&format!("\n# {}\n", key.about));
        if key.default.starts_with('(') {
            text.push_str(&format!(
                "# Default: {}\n",
                key.default.trim_matches(['(', ')'])
            ));
        }
        text.push_str(&format!("{mark}{name} = {}\n", key.sample()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::read_file;

    /// With and without the comment marks.
    #[test]
    fn the_example_is_a_settings_file() {
        let text = example();
        let every = text.lines().map(|line| match line.split_once(" = ") {
            Some((key, _)) if !key.trim_start_matches('#').contains(' ') => {
                line.trim_start_matches('#')
            }
            None if line.starts_with("#[") => line.trim_start_matches('#'),
            _ => line,
        });
        let every = every.collect::<Vec<_>>().join("\n");
        for text in [&text, &every] {
            let mut problems = Vec::new();
            let (settings, _) = read_file("r.toml", text, &mut problems);
            assert!(problems.is_empty(), "{problems:?} in\n{text}");
            assert_eq!(settings.domain.as_deref(), Some("hooks.example.com"));
        }
        let mut problems = Vec::new();
        let (settings, limits) = read_file("r.toml", &text, &mut problems);
        settings.resolve(limits, problems).unwrap();
    }
}
