//! `hookward pin`: the keys that the agent accepts from its relays.

use hookward_tunnel::transport::identity::Pin;

use crate::cli::{LogFormat, PinCommand};
use crate::commands::{CommandError, print, print_error};
use crate::config::state_dir::{Credential, StateDir};
use crate::exit::Exit;

/// Runs the command.
///
/// # Errors
/// Failure that ends with [`Exit::Failed`].
pub(super) fn run(command: &PinCommand) -> Result<Exit, CommandError> {
    let (args, change) = match command {
        PinCommand::List(common) => return list(&StateDir::open(common.state_dir.as_deref())?),
        PinCommand::Add(args) => (args, add as Change),
        PinCommand::Remove(args) => (args, remove as Change),
    };

    let state = StateDir::open(args.common.state_dir.as_deref())?;
    let changed = state.change_credentials(|credentials| {
        let credential = chosen(credentials, args.relay.as_deref())?;
        change(credential, args.pin)?;
        Ok::<_, String>(credential.clone())
    })?;
    match changed {
        Ok(credential) => {
            print(&line(&credential))?;
            print_error(LogFormat::Text, "restart running agents of this directory");
            Ok(Exit::Done)
        }
        Err(what) => {
            print_error(LogFormat::Text, &what);
            Ok(Exit::Usage)
        }
    }
}

/// Change of the pins of a relay. The error is for the user.
type Change = fn(&mut Credential, Pin) -> Result<(), String>;

fn list(state: &StateDir) -> Result<Exit, CommandError> {
    for credential in state.credentials()? {
        print(&line(&credential))?;
    }
    Ok(Exit::Done)
}

fn line(credential: &Credential) -> String {
    let pins = [Some(credential.pin), credential.second_pin];
    let pins: Vec<_> = pins.iter().flatten().map(Pin::to_string).collect();
    format!("{} {}\n", credential.relay, pins.join(" "))
}

/// Returns the credential of the named relay, or of the only one.
fn chosen<'c>(
    credentials: &'c mut [Credential],
    relay: Option<&str>,
) -> Result<&'c mut Credential, String> {
    let relays: Vec<_> = credentials.iter().map(|kept| kept.relay.clone()).collect();
    let is_chosen = |kept: &&mut Credential| relay.is_none_or(|relay| relay == kept.relay);
    let mut found: Vec<_> = credentials.iter_mut().filter(is_chosen).collect();
    match (found.pop(), found.is_empty()) {
        (Some(only), true) => Ok(only),
        (None, _) if relays.is_empty() => Err("this agent has not joined a relay".to_owned()),
        _ => Err(format!(
            "name one relay with --relay: {}",
            relays.join(", ")
        )),
    }
}

fn add(credential: &mut Credential, pin: Pin) -> Result<(), String> {
    match credential.second_pin {
        _ if credential.pin == pin || credential.second_pin == Some(pin) => Ok(()),
        None => {
            credential.second_pin = Some(pin);
            Ok(())
        }
        Some(_) => Err(format!(
            "the agent accepts two keys of {} already; remove one: hookward pin remove PIN",
            credential.relay
        )),
    }
}

fn remove(credential: &mut Credential, pin: Pin) -> Result<(), String> {
    match credential.second_pin {
        Some(second) if credential.pin == pin => {
            (credential.pin, credential.second_pin) = (second, None);
            Ok(())
        }
        Some(second) if second == pin => {
            credential.second_pin = None;
            Ok(())
        }
        None if credential.pin == pin => Err(format!(
            "it is the only key of {}; add the new one first: hookward pin add PIN",
            credential.relay
        )),
        _ => Err(format!(
            "the agent accepts no such key of {}",
            credential.relay
        )),
    }
}
