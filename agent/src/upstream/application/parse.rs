//! Parses the application's address.

use super::Address;
use hookward_core::diagnostics::Diagnostic;

/// Address and scheme of the application, parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApplicationAddress {
    pub address: Address,
    pub https: bool,
}

impl ApplicationAddress {
    /// Parses `8000`, `localhost:8000`, `app.internal:8000`, `[::1]:8000`, `https://app.internal:8443`
    /// or `unix:/run/app.sock`.
    ///
    /// # Errors
    /// A sentence with the correct syntax.
    pub fn parse(text: &str) -> Result<Self, Diagnostic> {
        if let Some(path) = text.strip_prefix("unix:") {
            if !path.starts_with('/') {
                return Err(wrong(text, "the socket's path begins with a slash"));
            }
            return Ok(Self {
                address: Address::Unix(path.into()),
                https: false,
            });
        }

        let (https, rest) = match text.split_once("://") {
            None => (false, text),
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            Some(_) => return Err(wrong(text, "an application speaks http or https")),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '?', '#', '@']) {
            return Err(wrong(text, "the path is the sender's"));
        }

        let (host, port) = match rest.rsplit_once(':') {
            None if https => (Some(rest), "443"),
            None if text.contains("://") => (Some(rest), "80"),
            None => (None, rest),
            Some((host, port)) => (Some(host), port),
        };
        let Some(number) = port_number(port) else {
            let has_name = host.is_none() && port.bytes().any(|byte| byte.is_ascii_alphabetic());
            return Err(match has_name {
                true => Diagnostic::new(
                    "APPLICATION",
                    format!("{text:?} has no port: write {text}:8000"),
                ),
                false => wrong(text, "a port is between 1 and 65535"),
            });
        };

        let address = match host {
            None | Some("localhost") => Address::Port(number),
            Some("") => return Err(wrong(text, "the host is missing")),
            Some(host) if host.contains(':') && !host.starts_with('[') => {
                return Err(wrong(text, "an IPv6 address stands in brackets"));
            }
            Some(host) => Address::Host(format!("{host}:{number}")),
        };
        Ok(Self { address, https })
    }
}

/// Returns a port that is written in digits.
fn port_number(text: &str) -> Option<u16> {
    let is_plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|number| *number > 0)?;
    is_plain.then_some(number)
}

fn wrong(text: &str, what: &str) -> Diagnostic {
    let write = "write a port such as 8000, HOST:PORT, https://HOST:PORT, or unix:/run/app.sock";
    Diagnostic::new("APPLICATION", format!("{text:?}: {what}; {write}"))
}
