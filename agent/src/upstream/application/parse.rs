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
        let wrong = |what: &str| {
            let write =
                "write a port such as 8000, HOST:PORT, https://HOST:PORT, or unix:/run/app.sock";
            Err(Diagnostic::new(
                "APPLICATION",
                format!("{text:?}: {what}; {write}"),
            ))
        };

        if let Some(path) = text.strip_prefix("unix:") {
            if !path.starts_with('/') {
                return wrong("the socket's path begins with a slash");
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
            Some(_) => return wrong("an application speaks http or https"),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '?', '#', '@']) {
            return wrong("the path is the sender's");
        }

        let (host, port) = match rest.rsplit_once(':') {
            None if https => (Some(rest), "443"),
            None if text.contains("://") => (Some(rest), "80"),
            None => (None, rest),
            Some((host, port)) => (Some(host), port),
        };
        let plain = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());

        let Some(number) = port
            .parse::<u16>()
            .ok()
            .filter(|number| plain && *number > 0)
        else {
            let has_name = host.is_none() && port.bytes().any(|byte| byte.is_ascii_alphabetic());
            return match has_name {
                true => Err(Diagnostic::new(
                    "APPLICATION",
                    format!("{text:?} has no port: write {text}:8000"),
                )),
                false => wrong("a port is between 1 and 65535"),
            };
        };

        let address = match host {
            None | Some("localhost") => Address::Port(number),
            Some("") => return wrong("the host is missing"),
            Some(host) if host.contains(':') && !host.starts_with('[') => {
                return wrong("an IPv6 address stands in brackets");
            }
            Some(host) => Address::Host(format!("{host}:{number}")),
        };
        Ok(Self { address, https })
    }
}
