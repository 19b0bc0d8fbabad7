//! `hookward join`: exchanges a join token for this agent's own credential.

use hookward_core::reason::Reason;
use std::io::{BufRead as _, IsTerminal as _, Read as _};
use std::path::Path;

use hookward_tunnel::join_token::JoinToken;
use hookward_tunnel::protocol::control::RefusedReason;

use crate::cli::{JoinArgs, LogFormat};
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
    // Stored before the token is used, so that an interrupted join can be repeated.
    let secret = state.begin_join(&token.secret)?;

    let relay = RelayEndpoint {
        address: token.relay.clone(),
        pin: token.pin,
        credential: secret.clone(),
    };

    let (transport, proxies) = (args.transport.into(), Proxies::from_env());
    let link = LinkSettings {
        transport,
        proxies,
        last_transport: state.last_transport(),
        ..LinkSettings::default()
    };

    match relay_link::join(&relay, &link, token.secret).await {
        Ok(agent) => {
            let credential = Credential {
                relay: token.relay.clone(),
                pin: token.pin,
                agent: agent.clone(),
                secret,
            };
            let relays = state.keep_credential(credential, args.replace)?;

            state.end_join();
            report_joined(&token.relay, &agent, &relays);
            Ok(Exit::Done)
        }
        Err(ConnectionError::Refused {
            reason: RefusedReason::JoinToken | RefusedReason::Credential,
            message,
        }) => {
            state.end_join();
            print_error(LogFormat::Text, &message);
            Ok(Exit::Credential)
        }
        Err(error) => Err(error.into()),
    }
}

fn report_joined(relay: &str, agent: &str, relays: &[String]) {
    print_error(
        LogFormat::Text,
        &format!("joined {relay} as {agent}; next: hookward http PORT"),
    );

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
