//! `hookward-relay deliveries …` lists, changes and moves the stored webhooks of the running relay.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, BufWriter, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use hookward_cli::deliveries::{DeliveriesError, path};
use hookward_observe::api::client::{self, CallError};
use hookward_observe::api::deliveries::FilterQuery;
use hyper::Method;
use indicatif::ProgressBar;

use super::status::call_error;
use crate::admin::SOCKET_FILE;
use crate::admin::deliveries::Imported;
use crate::cli::{DeliveriesCommand, ExportArgs, ImportArgs};
use crate::commands::{CommandError, say};

/// Runs the command.
///
/// # Errors
/// [`CommandError`].
pub(super) async fn run(command: DeliveriesCommand) -> Result<(), CommandError> {
    match command {
        DeliveriesCommand::Shared(command) => {
            let socket = command.location().data_dir.join(SOCKET_FILE);
            let run = command.run(&socket, "hookward-relay").await;
            run.map_err(|error| match error {
                DeliveriesError::Call(error) => call_error(socket, error),
                error => CommandError::Deliveries(error),
            })
        }
        DeliveriesCommand::Export(args) => export(args).await,
        DeliveriesCommand::Import(args) => import(&args).await,
    }
}

async fn export(args: ExportArgs) -> Result<(), CommandError> {
    let file = &args.file;
    let failed = |source| file_error(file, source);
    let socket = args.data_dir.data_dir.join(SOCKET_FILE);
    let query = FilterQuery {
        complete: args.complete.then_some(true),
        ..args.filter.query(None)
    };

    // Only its owner may read the content of webhooks.
    let mut options = fs::OpenOptions::new();
    let created = options.write(true).create_new(true).mode(0o600).open(file);
    let mut out = BufWriter::new(created.map_err(failed)?);
    let path = path("deliveries/export", &query);
    let written = match client::download(&socket, &path, &mut out).await {
        Ok(()) => out.flush().map_err(failed),
        Err(CallError::Output(source)) => Err(failed(source)),
        Err(error) => Err(call_error(socket, error)),
    };
    if let Err(error) = written {
        // Half an export would look like a whole one.
        let _ = fs::remove_file(file);
        return Err(error);
    }
    say(&format!("{} holds the webhooks", file.display()))
}

/// Imports each line of a file. Goes on after a line that is refused.
async fn import(args: &ImportArgs) -> Result<(), CommandError> {
    let file = &args.file;
    let failed = |source| file_error(file, source);
    let socket = args.data_dir.data_dir.join(SOCKET_FILE);
    let opened = File::open(file).map_err(failed)?;
    let size = opened.metadata().map_or(0, |metadata| metadata.len());
    let progress = ProgressBar::new(size);

    let (mut stored, mut known, mut refused) = (0_u64, 0_u64, Vec::new());
    for (number, line) in BufReader::new(opened).lines().enumerate() {
        let line = line.map_err(failed)?;
        progress.inc(line.len() as u64 + 1);
        if line.trim().is_empty() {
            continue;
        }
        let path = "/api/v1/deliveries/import";
        match client::send(&socket, Method::POST, path, line.into()).await {
            Ok(Imported { is_new: true }) => stored += 1,
            Ok(Imported { is_new: false }) => known += 1,
            Err(CallError::Refused { detail, .. }) => {
                refused.push(format!("{}:{}: {detail}", file.display(), number + 1));
            }
            Err(error) => return Err(call_error(socket, error)),
        }
    }
    progress.finish_and_clear();

    say(&format!(
        "{stored} webhooks are stored and due, {known} were stored already, {} are refused",
        refused.len()
    ))?;
    match refused.is_empty() {
        true => Ok(()),
        false => Err(CommandError::NotImported(refused.join("\n"))),
    }
}

fn file_error(path: &Path, source: std::io::Error) -> CommandError {
    CommandError::File {
        path: PathBuf::from(path),
        source,
    }
}
