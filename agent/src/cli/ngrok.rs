//! Errors for flags and commands of ngrok: each names the equivalent here.

use clap::Error;
use clap::error::{ContextKind, ContextValue, ErrorKind};

/// Replaces the error of an unknown flag or command by one that names the equivalent here. Removes
/// misleading suggestions from other errors.
#[must_use]
pub(crate) fn explain(mut error: Error) -> Error {
    let (kind, context) = match error.kind() {
        ErrorKind::UnknownArgument => (ErrorKind::UnknownArgument, ContextKind::InvalidArg),
        ErrorKind::InvalidSubcommand => {
            (ErrorKind::InvalidSubcommand, ContextKind::InvalidSubcommand)
        }
        _ => return error,
    };
    let Some(ContextValue::String(given)) = error.get(context) else {
        return error;
    };

    let name = given
        .split(['=', ' '])
        .next()
        .unwrap_or_default()
        .to_owned();
    let remedy = match kind {
        ErrorKind::UnknownArgument => flag(&name),
        _ => command(&name),
    };
    if let Some(remedy) = remedy {
        let what = match kind {
            ErrorKind::UnknownArgument => format!("there is no flag {name}: {remedy}"),
            _ => format!("there is no command {name}: {remedy}"),
        };
        // Not by `Command::error`, which would print the usage of the top-level command.
        return Error::raw(kind, format!("{what}\n"));
    }

    if given.parse::<std::net::SocketAddr>().is_ok() {
        let what = format!("unexpected address {given}: write it as --local={given}");
        return Error::raw(kind, format!("{what}\n"));
    }

    // "to pass '--x' as a value, use '-- --x'": no command accepts such values.
    error.remove(ContextKind::Suggested);
    error
}

/// Returns the remedy for a flag of ngrok that has no alias here.
fn flag(name: &str) -> Option<&'static str> {
    Some(match name {
        "--basic-auth" | "--auth" => {
            "use --basic env:NAME or --basic file:PATH, whose content is user:password"
        }
        "--verify-webhook" | "--verify-webhook-secret" => {
            "use --verify PROVIDER=env:NAME, such as --verify github=env:GITHUB_SECRET"
        }
        "--authtoken" => "join your relay once with `hookward join -`",
        "--config" => "`hookward start FILE` opens the tunnels of a file",
        "--traffic-policy-file" | "--traffic-policy-url" | "--policy-file" => {
            "write a policy file and use --policy FILE; `hookward check FILE` checks it"
        }
        "--log-level" => "set HOOKWARD_LOG=debug for more, and use --log FILE or --log-format json",
        "--inspect-db-size" => {
            "the inspector keeps 10,000 requests, 128 MiB and a week at most, also after a restart"
        }
        "--oauth" | "--oidc" | "--saml" => {
            "webhook senders can't log in; use --verify, --token or --basic"
        }
        "--all" | "--none" => "`hookward start FILE` opens all tunnels of the file",
        "--region" => "the relay is your own; `hookward join -` chooses it",
        "--scheme" | "--schemes" | "--bind-tls" => "the public side is always https",
        "--compression"
        | "--request-header-add"
        | "--request-header-remove"
        | "--response-header-add"
        | "--response-header-remove" => {
            "Hookward forwards requests and responses as they were sent"
        }
        "--mutual-tls-cas" => "webhook senders are checked by --verify, --token or --allow-ip",
        "--proxy-proto" => "the application gets the client address in X-Forwarded-For",
        "--upstream-protocol" | "--app-protocol" => "use --upstream-http2 for HTTP/2",
        "--upstream-tls-verify" | "--upstream-tls-verify-cas" => {
            "certificates are verified; use --upstream-ca FILE to trust more"
        }
        "--metadata" | "--description" | "--name" => "tunnels are known by their --host",
        "--remote-addr" | "--crt" => "Hookward forwards webhooks only: use `hookward http PORT`",
        _ if name.starts_with("--oauth-") || name.starts_with("--oidc-") => {
            "webhook senders can't log in; use --verify, --token or --basic"
        }
        _ => return None,
    })
}

/// Returns the remedy for a command of ngrok.
fn command(name: &str) -> Option<&'static str> {
    Some(match name {
        "version" => "use `hookward --version`",
        "update" => "replace the program by a newer release",
        "authtoken" | "add-authtoken" | "add-api-key" | "add-connect-url" | "edit" | "upgrade" => {
            "join your relay with `hookward join -`; flags, or `hookward start FILE`, describe tunnels"
        }
        "service" => "run `hookward start FILE` under a service manager such as systemd",
        "tcp" | "tls" | "ssh" => "Hookward forwards webhooks only: use `hookward http PORT`",
        "api" | "credits" | "edge" | "tunnel" => {
            "the relay is your own; see `hookward-relay --help`"
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::Cli;

    fn output(line: &str) -> String {
        let error = Cli::try_parse_from(line.split(' ')).map(drop).unwrap_err();
        explain(error).to_string()
    }

    #[test]
    fn flags_of_ngrok_name_ours() {
        for (line, ours) in [
            (
                "hookward http 8000 --basic-auth user:pw",
                "--basic env:NAME",
            ),
            ("hookward http 8000 --auth user:pw", "--basic env:NAME"),
            (
                "hookward http 8000 --verify-webhook github",
                "--verify github=env:",
            ),
            (
                "hookward http 8000 --verify-webhook-secret s",
                "--verify github=env:",
            ),
            ("hookward http 8000 --oauth=google", "can't log in"),
            ("hookward http 8000 --oauth-allow-email=x", "can't log in"),
            ("hookward http 8000 --log-level=debug", "HOOKWARD_LOG=debug"),
            (
                "hookward http 8000 --config ngrok.yml",
                "hookward start FILE",
            ),
            (
                "hookward http 8000 --traffic-policy-file p.yml",
                "--policy FILE",
            ),
            ("hookward http 8000 --region eu", "your own"),
            ("hookward http 8000 --scheme https", "always https"),
            (
                "hookward http 8000 --request-header-add x:y",
                "as they were sent",
            ),
            (
                "hookward http 8000 --local 127.0.0.1:9443",
                "--local=127.0.0.1:9443",
            ),
            ("hookward start --all", "hookward start FILE"),
            ("hookward version", "hookward --version"),
            ("hookward update", "newer release"),
            ("hookward config add-authtoken x", "hookward join -"),
            ("hookward service install", "systemd"),
            ("hookward tcp 22", "hookward http PORT"),
            ("hookward api", "hookward-relay --help"),
        ] {
            let output = output(line);
            assert!(output.contains(ours), "{line}: {output}");
            assert!(!output.contains("tip:"), "{line}: {output}");
            assert!(!output.contains("Usage:"), "{line}: {output}");
        }
    }

    #[test]
    fn unknown_flags_have_no_misleading_tip() {
        assert!(!output("hookward http 8000 --xyzzy").contains("as a value"));
    }

    #[test]
    fn aliases_of_ngrok_are_known() {
        for line in [
            "hookward http 8000 --url https://jira.hooks.example.com",
            "hookward http 8000 --domain jira.hooks.example.com",
            "hookward http 8000 --hostname jira.hooks.example.com",
            "hookward http 8000 --subdomain jira",
            "hookward http 8000 --cidr-allow 192.0.2.0/24 --cidr-deny 192.0.2.1",
            "hookward http 8000 --host-header rewrite",
            "hookward http 8000 --pooling-enabled",
            "hookward http 8000 --inspect=false",
            "hookward http 8000 --web-addr 127.0.0.1:4050",
        ] {
            if let Err(error) = Cli::try_parse_from(line.split(' ')) {
                panic!("{line}: {error}");
            }
        }
    }
}
