//! `hookward start`: opens the tunnels that a file describes.
//!
//! ```toml
//! [[tunnel]]
//! application = "8000"              # as on the command line
//! host = "flexdeploy"               # a label under the relay's domain, or a whole host name
//! policy = "policy.toml"            # beside this file; without one as `hookward http` without flags
//! webhook = "git/push"              # whose URL to print
//! upstream_host = "rewrite"         # and upstream_ca, upstream_insecure, upstream_http2
//! ```

use std::path::{Path, PathBuf};

use hookward_core::clock::Clock;
use hookward_core::diagnostics::{Diagnostic, Diagnostics, TableReader, TomlDocument, Variables};
use tokio_util::sync::CancellationToken;

use super::http::plan::Plan;
use super::http::{self, plan};
use super::{CommandError, print_error};
use crate::cli::{FileTunnel, HttpArgs, PolicyFlags, StartArgs, UpstreamArgs};
use crate::commands::runner::TunnelRunner;
use crate::config::state_dir::{StateDir, StateError};
use crate::exit::Exit;

/// Runs the command.
///
/// # Errors
/// Failure that ends with [`Exit::Failed`].
pub(super) async fn run(args: StartArgs) -> Result<Exit, CommandError> {
    let state = StateDir::open(args.common.state_dir.as_deref())?;
    let state = if args.local.address.is_some() {
        state.local()?
    } else {
        state
    };

    let plans = match plans(&args, &state, &Clock::System)? {
        Ok(plans) => plans,
        Err(problems) => {
            print_error(args.output.log_format, &problems.to_string());
            return Ok(Exit::Usage);
        }
    };

    let (local, link, output) = (args.local.address, args.link.clone(), args.output.clone());
    let mut tunnels = Vec::new();

    for (tunnel, plan) in plans {
        tunnels.push(http::again(tunnel, plan, &state)?);
    }

    TunnelRunner {
        tunnels,
        local,
        link,
        output,
        state,
    }
    .run(CancellationToken::new())
    .await
}

/// Reads the file and the policies that it names.
///
/// # Errors
/// A failure of the state directory; inside, all mistakes of the files.
pub(super) fn plans(
    args: &StartArgs,
    state: &StateDir,
    clock: &Clock,
) -> Result<Result<Vec<(HttpArgs, Plan)>, Diagnostics>, StateError> {
    let (tunnels, mut problems) = read(args);
    let mut plans = Vec::new();
    for (number, tunnel) in tunnels {
        match plan::plan(&tunnel, state, clock)? {
            Ok(plan) => plans.push((tunnel, plan)),
            Err(more) => problems.extend(more.0.into_iter().map(|problem| {
                // The keys of the file have the names of the flags.
                let key = problem
                    .place
                    .strip_prefix("--")
                    .map(|flag| flag.replace('-', "_"));
                let key = key.unwrap_or(problem.place);
                let place = format!("{}: tunnel {number}: {key}", args.file.display());
                Diagnostic::new(place, problem.reason)
            })),
        }
    }
    Ok(match problems.is_empty() {
        true => Ok(plans),
        false => Err(Diagnostics(problems)),
    })
}

/// Reads the file: every tunnel as if given on a command line, with its number, and all mistakes.
/// Omits tunnels with mistakes.
pub(super) fn read(args: &StartArgs) -> (Vec<(usize, HttpArgs)>, Vec<Diagnostic>) {
    let name = args.file.display().to_string();
    let text = match std::fs::read_to_string(&args.file) {
        Ok(text) => text,
        Err(error) => {
            return (
                Vec::new(),
                vec![Diagnostic::new(&name, format!("can't be read: {error}"))],
            );
        }
    };
    if is_yaml(&args.file) {
        let what = format!(
            "this is YAML: hookward import-ngrok {name} writes our files from one of ngrok"
        );
        return (Vec::new(), vec![Diagnostic::new(&name, what)]);
    }
    let variable = |name: &str| std::env::var(name).ok();
    let document = TomlDocument::new(&name, &text).with_variables(Variables::new(&variable));

    let tunnels = {
        let table = document.parse();
        let mut top = TableReader::new(&document, &table);
        let beside = args.file.parent().unwrap_or(Path::new(""));
        let tunnels = read_tunnels(&mut top, beside);
        top.finish();
        tunnels
    };

    let tunnels = tunnels.into_iter();
    let tunnels = tunnels.map(|(number, tunnel)| (number, HttpArgs::from_file(tunnel, args)));
    (tunnels.collect(), document.into_diagnostics())
}

fn is_yaml(file: &Path) -> bool {
    let extension = file.extension().and_then(|extension| extension.to_str());
    matches!(extension, Some("yml" | "yaml"))
}

/// Reads the tunnels of a file, whose other files are `beside` it.
pub(super) fn read_tunnels(top: &mut TableReader<'_>, beside: &Path) -> Vec<(usize, FileTunnel)> {
    let (mut tunnels, mut hosts, mut count) = (Vec::new(), Vec::new(), 0);
    for reader in top.tables("tunnel") {
        let before = top.diagnostics();
        let tunnel = tunnel(reader, beside);
        count += 1;
        if top.diagnostics() == before {
            hosts.push(tunnel.host.clone());
            tunnels.push((count, tunnel));
        }
    }

    if count == 0 || count > TUNNELS {
        top.problem(format!("write between one and {TUNNELS} tables [[tunnel]]"));
    }

    hosts.sort_unstable();
    match hosts.windows(2).find(|pair| pair.first() == pair.last()) {
        Some([Some(host), _]) => top.problem(format!(
            "two tunnels have the host {host:?}; each needs one of its own"
        )),
        Some(_) => top.problem("two tunnels have no host; each needs one of its own"),
        None => {}
    }
    tunnels
}

/// Maximum number of tunnels of one file.
const TUNNELS: usize = 100;

fn tunnel(mut reader: TableReader<'_>, beside: &Path) -> FileTunnel {
    let file = |path: String| beside.join(PathBuf::from(path));
    if !reader.has("application") {
        reader.problem("application is missing; write a port such as 8000");
    }

    let application = reader.text("application").unwrap_or_default();
    let upstream = UpstreamArgs {
        upstream_ca: reader.string("upstream_ca").map(file),
        upstream_insecure: reader.boolean("upstream_insecure").unwrap_or_default(),
        upstream_http2: reader.boolean("upstream_http2").unwrap_or_default(),
        upstream_host: reader
            .string("upstream_host")
            .unwrap_or_else(|| "preserve".to_owned()),
    };

    let gate = PolicyFlags {
        policy: reader.string("policy").map(file),
        ..PolicyFlags::default()
    };
    let (host, webhook) = (reader.string("host"), reader.string("webhook"));

    reader.finish();
    FileTunnel {
        application,
        upstream,
        host,
        webhook,
        policy: gate,
    }
}
