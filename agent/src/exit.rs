//! How the program ends: every way has its own exit code, documented in `--help` and the README.

use std::process::ExitCode;

/// A way to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// As asked.
    Done,
    /// Something that should not happen, or a file or network that failed.
    Failed,
    /// The command line or a file is wrong; nothing was started.
    Usage,
    /// The relay does not know the agent's credential, or the join token.
    Credential,
    /// The relay does not give the agent this host.
    Host,
    /// The relay does not take the agent's policy.
    Policy,
}

/// What `--help` says about exit codes.
pub(crate) const HELP: &str = "Exit codes:
  0  ended as asked (also by SIGINT or SIGTERM)
  1  something failed: a file, a port, the network
  2  the command line, a secret or a file is wrong; nothing was started
  3  the relay refused the agent's credential or the join token
  4  the relay refused the public host: it belongs to another agent
  5  the relay refused the policy";

/// What `hookward explain --help` says about exit codes.
pub(crate) const EXPLAIN_HELP: &str = "Exit codes:
  0  the request would be allowed
  1  it would be refused
  2  the command line, the policy, a secret or the request can't be read";

/// What `hookward send --help` says about exit codes.
pub(crate) const SEND_HELP: &str = "Exit codes:
  0  answered 2xx
  1  answered something else, or not at all
  2  the command line, the secret or the body can't be read; nothing was sent";

/// What `hookward diagnose --help` says about exit codes.
pub(crate) const DIAGNOSE_HELP: &str = "Exit codes:
  0  a tunnel can be opened to every relay, and the application, if one was named, takes connections
  1  something is in the way
  2  the command line is wrong, or this agent has joined no relay";

/// What `hookward pair --help` says about exit codes.
pub(crate) const PAIR_HELP: &str = "Exit codes:
  0  the secret is stored
  1  it ended before the provider told its secret, or something failed
  2  the command line or a file is wrong; nothing was started
  3  the relay refused the agent's credential or the join token
  4  the relay refused the public host: it belongs to another agent
  5  the relay refused the policy";

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Credential => 3,
            Exit::Host => 4,
            Exit::Policy => 5,
        })
    }
}
