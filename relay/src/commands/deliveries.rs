//! `hookward-relay deliveries …` lists, changes and moves the stored webhooks of the running relay.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, BufWriter, Seek as _, SeekFrom, Write as _};
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

/// Imports each line of a file, the last and oldest one first. Goes on after a line that is refused.
async fn import(args: &ImportArgs) -> Result<(), CommandError> {
    let file = &args.file;
    let failed = |source| file_error(file, source);
    let socket = args.data_dir.data_dir.join(SOCKET_FILE);
    let mut reader = BufReader::new(File::open(file).map_err(failed)?);
    let starts = line_starts(&mut reader).map_err(failed)?;
    let progress = ProgressBar::new(starts.len() as u64);

    let (mut stored, mut known, mut refused) = (0_u64, 0_u64, Vec::new());
    for (number, start) in starts.into_iter().enumerate().rev() {
        progress.inc(1);
        let mut line = Vec::new();
        reader.seek(SeekFrom::Start(start)).map_err(failed)?;
        reader.read_until(b'\n', &mut line).map_err(failed)?;
        if line.trim_ascii().is_empty() {
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
    refused.reverse();
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

/// Returns the position of each line.
fn line_starts(reader: &mut BufReader<File>) -> std::io::Result<Vec<u64>> {
    let (mut starts, mut at) = (Vec::new(), 0);
    loop {
        let length = reader.skip_until(b'\n')? as u64;
        if length == 0 {
            return Ok(starts);
        }
        starts.push(at);
        at += length;
    }
}

fn file_error(path: &Path, source: std::io::Error) -> CommandError {
    CommandError::File {
        path: PathBuf::from(path),
        source,
    }
}
