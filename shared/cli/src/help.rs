//! Shell completions and man pages, generated from the command line of a program.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, Command};
use clap_complete::Shell;

/// Arguments of `completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// Shell whose completions are printed
    pub shell: Shell,
}

/// Arguments of `man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Directory of the pages, such as /usr/local/share/man/man1
    pub directory: PathBuf,
}

/// Returns the completions of a program for a shell.
#[must_use]
pub fn completions(mut command: Command, args: &CompletionsArgs) -> Vec<u8> {
    let name = command.get_name().to_owned();
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut command, name, &mut text);
    text
}

/// Writes a man page for the program and each of its commands. Creates the directory. Returns the
/// number of pages.
///
/// # Errors
/// Error of the system, with the file's path.
pub fn write_man_pages(command: Command, args: &ManArgs) -> Result<usize, (PathBuf, io::Error)> {
    let directory = &args.directory;
    fs::create_dir_all(directory).map_err(|error| (directory.clone(), error))?;
    let name = command.get_name().to_owned();
    write_page(command.disable_help_subcommand(true), &name, directory)
}

fn write_page(
    command: Command,
    name: &str,
    directory: &Path,
) -> Result<usize, (PathBuf, io::Error)> {
    let mut count = 1;
    for subcommand in command.get_subcommands().filter(|one| !one.is_hide_set()) {
        let name = format!("{name}-{}", subcommand.get_name());
        count += write_page(subcommand.clone(), &name, directory)?;
    }

    let path = directory.join(format!("{name}.1"));
    let mut text = Vec::new();
    let written = clap_mangen::Man::new(command.name(name.to_owned()))
        .render(&mut text)
        .and_then(|()| fs::write(&path, text));
    written.map_err(|error| (path, error))?;
    Ok(count)
}
