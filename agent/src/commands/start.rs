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
use hookward_core::diagnostics::{Diagnostic, Diagnostics, TableReader, TomlDocument};
use tokio_util::sync::CancellationToken;

use super::http::{self, plan};
use super::{CommandError, print_error};
use crate::cli::{HttpArgs, PolicyFlags, StartArgs, UpstreamArgs};
use crate::commands::runner::TunnelRunner;
use crate::config::state_dir::StateDir;
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

    let (tunnels, mut problems) = read(&args);
    let mut plans = Vec::new();

    for (number, tunnel) in tunnels {
        match plan::plan(&tunnel, &state, &Clock::System)? {
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

    if !problems.is_empty() {
        print_error(args.output.log_format, &Diagnostics(problems).to_string());
        return Ok(Exit::Usage);
    }

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

/// Reads the file: every tunnel as if given on a command line, with its number, and all mistakes.
/// Omits tunnels with mistakes.
fn read(args: &StartArgs) -> (Vec<(usize, HttpArgs)>, Vec<Diagnostic>) {
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
    let document = TomlDocument::new(&name, &text);

    let mut tunnels = Vec::new();
    {
        let table = document.parse();
        let mut top = TableReader::new(&document, &table);
        let beside = args.file.parent().unwrap_or(Path::new(""));
        let (mut hosts, mut count) = (Vec::new(), 0);

        for reader in top.tables("tunnel") {
            let before = top.diagnostics();
            let tunnel = tunnel(reader, beside, args);
            count += 1;
            if top.diagnostics() == before {
                hosts.push(tunnel.public.host.clone());
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

        top.finish();
    }

    (tunnels, document.into_diagnostics())
}

/// Maximum number of tunnels of one file.
const TUNNELS: usize = 100;

fn tunnel(mut reader: TableReader<'_>, beside: &Path, args: &StartArgs) -> HttpArgs {
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
    HttpArgs::from_file(application, upstream, host, webhook, gate, args)
}
