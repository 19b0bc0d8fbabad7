//! `hookward pair`: receives the secret that a provider sends once, in the challenge for a new
//! webhook (Asana, Notion). Anyone who knows the URL could send one. So the command accepts a
//! secret only while it runs, only once, and reports it.

use hookward_core::reason::Reason;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use hookward_core::path::PathPattern;
use hookward_core::secret::Secret;
use hookward_gate::policy::{Accept, PRESET_PATHS, Policy, Route, SecretAt, SignatureCheck};
use hookward_gate::providers;
use hookward_runtime::process;
use hookward_runtime::reload::Reloads;
use tokio_util::sync::CancellationToken;

use crate::cli::PairArgs;
use crate::commands::http::plan::Plan;
use crate::commands::runner::{PlannedTunnel, TunnelRunner};
use crate::commands::{CommandError, print_error};
use crate::config::state_dir::StateDir;
use crate::events::Event;
use crate::exchange::Pairing;
use crate::exit::Exit;
use crate::upstream::application::{Address, Application};

/// Runs the command.
///
/// # Errors
/// Failure that ends with [`Exit::Failed`].
pub(super) async fn run(args: PairArgs) -> Result<Exit, CommandError> {
    let policy = match policy(&args) {
        Ok(policy) => policy,
        Err(what) => {
            print_error(args.output.log_format, &what.to_string());
            return Ok(Exit::Usage);
        }
    };

    let state = StateDir::open(args.common.state_dir.as_deref())?;
    let state = if args.public.local.address.is_some() {
        state.local()?
    } else {
        state
    };

    let taken = CancellationToken::new();
    let pairing = pairing(args.secret_file.clone(), taken.clone());

    let plan = plan(&args.provider, policy);
    let reloads = Reloads::new(&[]).map_err(CommandError::system("SIGHUP"))?;
    let again = Arc::new(|| Ok(Err(hookward_core::diagnostics::Diagnostics(Vec::new()))));
    let tunnel = PlannedTunnel {
        host: args.public.host.clone(),
        plan,
        reloads,
        reload: again,
        pairing: Some(pairing),
    };

    let (local, link, output) = (
        args.public.local.address,
        args.link.clone(),
        args.output.clone(),
    );
    let ended = TunnelRunner {
        tunnels: vec![tunnel],
        local,
        link,
        output,
        state,
    }
    .run(taken.clone())
    .await?;

    if taken.is_cancelled() && args.secret_file.exists() {
        report_secret(&args);
        return Ok(Exit::Done);
    }

    Ok(if ended == Exit::Done {
        Exit::Failed
    } else {
        ended
    })
}

/// Returns the receiver of the secret, which keeps the first one in a file.
fn pairing(file: PathBuf, done: CancellationToken) -> Pairing {
    let once = Mutex::new(());
    Box::new(move |secret: &Secret| {
        // One challenge at a time: the second finds the file.
        let _one = once
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        keep(&file, secret)?;
        done.cancel();
        Ok(())
    })
}

fn report_secret(args: &PairArgs) {
    let (file, provider) = (args.secret_file.display(), &args.provider);
    print_error(
        args.output.log_format,
        &format!(
            "the secret is in {file}; next: hookward http PORT --verify {provider}=file:{file}"
        ),
    );
}

/// Returns the plan of a tunnel that only receives a secret.
fn plan(provider: &str, policy: Policy) -> Plan {
    let path = policy
        .routes
        .first()
        .and_then(|route| route.paths.first())
        .cloned()
        .unwrap_or_default();
    let name = providers::find(provider).map_or(provider, |row| row.name.as_str());
    let note = format!(
        "waiting for the secret of {name}: create the webhook there now; nothing is forwarded meanwhile"
    );

    Plan {
        // Nothing is forwarded: no signature check has a secret yet, so there is no permit.
        application: Application::plain(Address::Port(1)),
        policy,
        created_token: None,
        messages: vec![Event::Warning(note)],
        path: path.split("/*").next().unwrap_or_default().to_owned(),
    }
}

fn policy(args: &PairArgs) -> Result<Policy, Reason> {
    let row = providers::find(&args.provider).ok_or_else(|| providers::unknown(&args.provider))?;
    if !row
        .challenges
        .iter()
        .any(|challenge| challenge.pair.is_some())
    {
        return Err(format!(
            "{} does not send its secret in a challenge; enter it yourself",
            row.name
        )
        .into());
    }

    if args.secret_file.exists() {
        return Err(format!(
            "{} exists; `hookward pair` never overwrites a secret",
            args.secret_file.display()
        )
        .into());
    }

    let paths = if args.path.is_empty() {
        PRESET_PATHS.map(str::to_owned).to_vec()
    } else {
        args.path.clone()
    };
    for path in &paths {
        PathPattern::parse(path)?;
    }

    let mut route = Route::new(paths.first().cloned().unwrap_or_default(), paths);
    let verify = SignatureCheck {
        secret_at: SecretAt::Agent,
        pair: true,
        ..SignatureCheck::by(&row.id)
    };

    route.accept.push(Accept {
        verify: vec![verify],
        ..Accept::default()
    });

    Ok(Policy::new(vec![route]))
}

/// Stores the secret, unless the file exists.
fn keep(file: &Path, secret: &Secret) -> io::Result<()> {
    if file.exists() {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "a secret was taken already",
        ));
    }
    process::write_private(file, secret.expose())
}
