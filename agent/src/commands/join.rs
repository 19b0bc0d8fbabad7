//! `hookward join`: exchanges a join token for this agent's own credential.

use hookward_core::reason::Reason;
use std::io::{BufRead as _, IsTerminal as _, Read as _};
use std::path::Path;

use hookward_tunnel::join_token::JoinToken;
use hookward_tunnel::protocol::control::RefusedReason;

use crate::cli::{JoinArgs, LogFormat};
use crate::commands::local::NOT_JOINED;
use crate::commands::{CommandError, print_error};
use crate::config::state_dir::{Credential, StateDir};
use crate::exit::Exit;
use crate::relay_link::proxy::Proxies;
use crate::relay_link::{self, ConnectionError, LinkSettings, RelayEndpoint};

/// Runs the command.
///
/// # Errors
/// Failure that ends with [`Exit::Failed`].
pub(super) async fn run(args: JoinArgs) -> Result<Exit, CommandError> {
    let state = StateDir::open(args.common.state_dir.as_deref())?;
    let token = match token(&args.token) {
        Ok(token) => token,
        Err(error) => {
            print_error(LogFormat::Text, &error.to_string());
            return Ok(Exit::Usage);
        }
    };

    let link = LinkSettings {
        transport: args.transport.into(),
        proxies: Proxies::from_env(),
        last_transport: state.last_transport(),
        ..LinkSettings::default()
    };
    let joined = join(&state, &link, token, args.replace, LogFormat::Text).await?;
    Ok(match joined {
        Some(joined) => {
            report_joined(&joined, "; next: hookward http PORT");
            Exit::Done
        }
        None => Exit::Credential,
    })
}

/// Joins a relay before the first tunnel: by the token of the environment, or by one that the user
/// pastes. Returns `None` after a join, else the exit code.
///
/// # Errors
/// Failure that ends with [`Exit::Failed`].
pub(super) async fn first_join(
    state: &StateDir,
    link: &LinkSettings,
    log_format: LogFormat,
) -> Result<Option<Exit>, CommandError> {
    let is_terminal = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
    let token = match std::env::var(TOKEN_VARIABLE) {
        Ok(text) => JoinToken::parse(&text)
            .map_err(|error| Reason::from(format!("{TOKEN_VARIABLE}: {error}"))),
        Err(_) if is_terminal && log_format == LogFormat::Text => {
            let hint = "no relay joined yet: `hookward-relay agent add NAME` on the relay prints a join token";
            print_error(log_format, hint);
            pasted_token().await
        }
        Err(_) => {
            print_error(log_format, NOT_JOINED);
            return Ok(Some(Exit::Usage));
        }
    };
    let token = match token {
        Ok(token) => token,
        Err(error) => {
            print_error(log_format, &error.to_string());
            return Ok(Some(Exit::Usage));
        }
    };

    let joined = join(state, link, token, false, log_format).await?;
    Ok(match joined {
        Some(joined) => {
            report_joined(&joined, "");
            None
        }
        None => Some(Exit::Credential),
    })
}

/// Reads the token that the user pastes. The thread is detached, so that a signal ends the program
/// while it waits.
async fn pasted_token() -> Result<JoinToken, Reason> {
    let (answer, answered) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        // The program may be ending.
        let _ = answer.send(token("-"));
    });
    let stopped = |_| Err(Reason::from("the join token was not read".to_owned()));
    answered.await.unwrap_or_else(stopped)
}

/// Variable of the environment with the join token of an agent that has not joined.
const TOKEN_VARIABLE: &str = "HOOKWARD_JOIN_TOKEN";

/// A join that has succeeded.
struct Joined {
    relay: String,
    agent: String,
    /// Addresses of all relays that the agent has joined.
    relays: Vec<String>,
}

/// Exchanges a token for a credential. Returns `None` if the relay refuses the token, with its message on
/// standard error.
///
/// # Errors
/// Failure that ends with [`Exit::Failed`].
async fn join(
    state: &StateDir,
    link: &LinkSettings,
    token: JoinToken,
    replace: bool,
    log_format: LogFormat,
) -> Result<Option<Joined>, CommandError> {
    // Stored before the token is used, so that an interrupted join can be repeated.
    let secret = state.begin_join(&token.secret)?;
    let relay = RelayEndpoint::new(token.relay.clone(), token.pin, secret.clone());

    match relay_link::join(&relay, link, token.secret).await {
        Ok(agent) => {
            let address = token.relay.clone();
            let credential = Credential::new(address, token.pin, agent.clone(), secret);
            let relays = state.keep_credential(credential, replace)?;
            state.end_join();
            Ok(Some(Joined {
                relay: token.relay,
                agent,
                relays,
            }))
        }
        Err(ConnectionError::Refused {
            reason: RefusedReason::JoinToken | RefusedReason::Credential,
            message,
        }) => {
            state.end_join();
            print_error(log_format, &message);
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

fn report_joined(joined: &Joined, next: &str) {
    let Joined {
        relay,
        agent,
        relays,
    } = joined;
    print_error(LogFormat::Text, &format!("joined {relay} as {agent}{next}"));

    if relays.len() > 1 {
        let all = relays.join(", ");
        let text = format!(
            "this agent serves {} relays now: {all}; `join --replace` keeps the new one only",
            relays.len()
        );
        print_error(LogFormat::Text, &text);
    }
}

/// Reads the join token.
fn token(given: &str) -> Result<JoinToken, Reason> {
    // The text may be part of a token, so no error repeats it.
    let text = read(given).map_err(|error| {
        format!("can't read the join token: {error}; name a file with it, or - for standard input")
    })?;

    JoinToken::parse(&text)
        .map_err(|error| error.to_string())
        .map_err(Reason::from)
}

/// Reads the token's text from standard input, a file, or the argument itself.
fn read(source: &str) -> std::io::Result<String> {
    let mut text = String::new();
    if source == "-" {
        let mut input = std::io::stdin().lock().take(INPUT);
        if std::io::stdin().is_terminal() {
            print_error(LogFormat::Text, "paste the join token, and press Enter:");
            input.read_line(&mut text)?;
        } else {
            input.read_to_string(&mut text)?;
        }
    } else if JoinToken::is_one(source) {
        print_error(
            LogFormat::Text,
            "warning: a token on the command line can be read by every process of this machine; use `hookward join -`",
        );
        source.clone_into(&mut text);
    } else {
        std::fs::File::open(Path::new(source))?
            .take(INPUT)
            .read_to_string(&mut text)?;
    }

    Ok(text)
}

/// Maximum input size in bytes: a token has some 300.
const INPUT: u64 = 16 * 1024;
