//! `hookward providers`: the catalogue of signing schemes.

use std::io::{self, Write as _};

use hookward_shared::providers::{self, Provider};

use crate::cli::{LogFormat, ProvidersArgs, ProvidersCommand};
use crate::commands::{CommandError, tell};
use crate::exit::Exit;

/// Runs the command.
///
/// # Errors
/// When standard output takes nothing.
pub fn run(args: &ProvidersArgs) -> Result<Exit, CommandError> {
    let text = match &args.command {
        None => list(),
        Some(ProvidersCommand::Show { name }) => match providers::find(name) {
            Some(provider) => show(provider),
            None => {
                tell(LogFormat::Text, &providers::unknown(name));
                return Ok(Exit::Usage);
            }
        },
    };
    match io::stdout().write_all(text.as_bytes()) {
        // Whoever read the list has seen enough of it.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Exit::Done),
        written => written.map(|()| Exit::Done).map_err(CommandError::system("standard output")),
    }
}

fn list() -> String {
    providers::all().iter().map(|provider| format!("{:<24} {}\n", provider.id, provider.name)).collect()
}

fn show(provider: &Provider) -> String {
    let variable = format!("{}_SECRET", provider.id.to_ascii_uppercase());
    let mut rows = vec![("name", provider.name.clone())];
    if !provider.aliases.is_empty() {
        rows.push(("also called", provider.aliases.join(", ")));
    }
    rows.extend(provider.scheme.description());
    if let Some(delivery) = &provider.delivery {
        rows.push(("delivery id", format!("header {delivery}")));
    }
    rows.push(("source", provider.source.clone()));
    let mut text = format!("{}\n", provider.id);
    for (what, value) in rows {
        text.push_str(&format!("  {what:<12} {value}\n"));
    }
    text.push_str(&format!(
        "\nOn the command line:\n  --verify {id}=env:{variable}\nIn a policy file:\n  [[route.accept]]\n  verify = {{ provider = \"{id}\", \
         secret = \"env:{variable}\" }}\n",
        id = provider.id,
    ));
    text
}
