//! Certificates from an ACME server (RFC 8555): for the relay's domain, and for each host that an
//! agent owns. [`task`] orders and renews them, one after the other. [`challenges`] holds what the
//! server validates meanwhile.

mod account;
pub(crate) mod challenges;
mod client;
pub(crate) mod dns_hook;
mod files;
mod managed;
mod order;
pub(crate) mod preflight;
mod schedule;
pub(crate) mod status;
pub(crate) mod task;

use std::io;
use std::path::PathBuf;

use hookward_core::text::printable;

/// Failure to get a certificate.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AcmeError {
    #[error("{path}: {source}")]
    File { path: PathBuf, source: io::Error },
    /// The server refused the account, or could not be reached.
    #[error("the ACME account: {0}")]
    Account(#[source] instant_acme::Error),
    /// The server refused a new order, or could not be reached.
    #[error("the ACME order: {0}")]
    NewOrder(#[source] instant_acme::Error),
    /// The server refused a step of the order, or could not be reached.
    #[error("the ACME order: {0}")]
    Order(#[source] instant_acme::Error),
    /// The server did not validate names.
    #[error("the ACME server did not validate the names: {}", .names.join("; "))]
    Rejected { names: Vec<String> },
    #[error(
        "the ACME server offers no challenge for {name} that this relay can solve{}",
        if *.is_wildcard { ": a wildcard needs dns_hook" } else { "" }
    )]
    NoChallenge { name: String, is_wildcard: bool },
    #[error("the DNS hook `{command}`: {what}")]
    Hook { command: String, what: String },
    /// The external account of the settings is unusable.
    #[error("acme.external_account: {0}")]
    ExternalAccount(String),
    /// The server's response is unusable.
    #[error("the ACME server: {0}")]
    Server(String),
    /// The certificate is unusable.
    #[error("the certificate: {0}")]
    Certificate(String),
    #[error("the ACME server took longer than {} minutes", order::ORDER_TIMEOUT.as_secs() / 60)]
    Timeout,
}

impl AcmeError {
    /// Returns `true` if the server does not know the account any more, or has ended it
    /// (RFC 8555 §6.7, §7.3.6). In later steps of an order, `unauthorized` is about a name.
    fn is_lost_account(&self) -> bool {
        let Self::NewOrder(instant_acme::Error::Api(problem)) = self else {
            return false;
        };
        let kind = problem.r#type.as_deref().unwrap_or_default();
        let kind = kind.strip_prefix("urn:ietf:params:acme:error:");
        matches!(kind, Some("accountDoesNotExist" | "unauthorized"))
    }

    /// Returns the reason for people. The server and the hook may write anything.
    fn shown(&self) -> String {
        let text = printable(&self.to_string());
        text.chars().take(REASON_CHARS).collect()
    }
}

/// Maximum length of a reason, in characters.
const REASON_CHARS: usize = 500;
