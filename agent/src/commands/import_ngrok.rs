//! `hookward import-ngrok`: writes the files of `hookward start` from a configuration file of ngrok
//! (ngrok.com/docs/agent/config/v3), and lists what it cannot carry over.

mod read;
mod write;

use std::fs;
use std::path::PathBuf;

use data_encoding::HEXLOWER;
use hookward_core::diagnostics::{Diagnostic, Diagnostics};
use hookward_core::secret::Secret;
use hookward_runtime::process;

use self::read::Import;
use self::write::OutputFile;
use crate::cli::{ImportNgrokArgs, LogFormat};
use crate::commands::{CommandError, print, print_error};
use crate::exit::Exit;

/// Runs the command.
///
/// # Errors
/// Failure that ends with [`Exit::Failed`].
pub(super) fn run(args: &ImportNgrokArgs) -> Result<Exit, CommandError> {
    let name = args.file.display().to_string();
    let usage = |what: String| {
        let problem = Diagnostics(vec![Diagnostic::new(&name, what)]);
        print_error(LogFormat::Text, &problem.to_string());
        Ok(Exit::Usage)
    };
    let text = match fs::read_to_string(&args.file) {
        Ok(text) if text.len() <= MAX_BYTES => text,
        Ok(_) => return usage(format!("has more than {MAX_BYTES} bytes")),
        Err(error) => return usage(format!("can't be read: {error}")),
    };
    let import = match read::read(&text) {
        Ok(import) if import.tunnels.is_empty() => {
            let what = "has no HTTP endpoint or tunnel".to_owned();
            return usage(format!("{what}{}", listed(&import)));
        }
        Ok(import) => import,
        Err(what) => return usage(what.to_string()),
    };

    let directory = std::path::absolute(&args.out).unwrap_or_else(|_| args.out.clone());
    let token = || Secret::generate().map(|secret| HEXLOWER.encode(secret.expose()));
    let files = write::files(&import, &directory, token)?;
    let existing = files.iter().map(|file| args.out.join(&file.name));
    let existing: Vec<_> = existing.filter(|path| path.exists()).collect();
    if let Some(path) = existing.first() {
        return usage(format!(
            "{} exists; name another directory with --out",
            path.display()
        ));
    }
    for file in &files {
        write_file(args.out.join(&file.name), file)?;
    }

    let written = files
        .iter()
        .map(|file| format!("wrote {}\n", args.out.join(&file.name).display()));
    let main = args.out.join(write::TUNNELS_FILE);
    let hosts = import
        .tunnels
        .iter()
        .filter_map(|tunnel| tunnel.host.as_deref());
    let flags: String = hosts
        .filter(|host| host.contains('.'))
        .map(|host| format!(" --host {host}"))
        .collect();
    let hosts = match flags.is_empty() {
        true => String::new(),
        false => format!(
            "if these hosts are not below the relay's domain: hookward-relay agent set NAME{flags}\n"
        ),
    };
    let next = format!(
        "{hosts}next: hookward config check {0}, hookward join -, hookward start {0}\n",
        main.display()
    );
    print(&format!(
        "{}{}{next}",
        written.collect::<String>(),
        listed(&import)
    ))?;
    Ok(Exit::Done)
}

/// Maximum size of the file, in bytes.
const MAX_BYTES: usize = 1024 * 1024;

/// Returns what was not carried over, one line each.
fn listed(import: &Import) -> String {
    let notes = import
        .notes
        .iter()
        .map(|note| format!("not carried over: {note}\n"));
    notes.collect()
}

fn write_file(path: PathBuf, file: &OutputFile) -> Result<(), CommandError> {
    let failed = |source| CommandError::File {
        path: path.clone(),
        source,
    };
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(failed)?;
    }
    match file.is_secret {
        true => process::write_private(&path, file.text.as_bytes()).map_err(failed),
        false => fs::write(&path, &file.text).map_err(failed),
    }
}
