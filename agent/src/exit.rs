//! Exit codes of the program, and the last part of each command's `--help`.

use std::process::ExitCode;

/// Environment variables, for `--help`.
macro_rules! env_help {
    () => {
        "
Environment:
  HOOKWARD_LOG            diagnostics on standard error: warn (default), info, debug
  HOOKWARD_STATE_DIR      directory of the credential and tokens
  HOOKWARD_JOIN_TOKEN     join token of an agent that has not joined a relay
  HOOKWARD_(FLAG)         flags of http and start: HOOKWARD_APPLICATION, HOOKWARD_VERIFY,
                          HOOKWARD_LOG_FILE for --log; a flag wins
  HTTPS_PROXY, NO_PROXY   HTTP proxy to the relay"
    };
}

/// Exit status of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Success, or stopped on request.
    Done,
    /// A file or the network failed, or an internal error occurred.
    Failed,
    /// The command line or a file has mistakes; nothing was started.
    Usage,
    /// The relay rejects the agent's credential or the join token.
    Credential,
    /// The relay refuses this host to the agent.
    Host,
    /// The relay refuses the agent's policy.
    Policy,
}

/// Exit codes of most commands, for `--help`.
pub(crate) const HELP: &str = concat!(
    "\
Exit codes:
  0  done, or stopped by SIGINT or SIGTERM
  1  a file, a port or the network failed
  2  wrong command line, secret or file; nothing was started
  3  the relay refused the agent's credential or join token
  4  the relay refused the public host: it belongs to another agent
  5  the relay refused the policy
",
    env_help!()
);

/// Examples and exit codes of `hookward http`.
pub(crate) const HTTP_HELP: &str = concat!(
    "\
Examples:
  hookward http 8000                                    FlexDeploy's webhooks, with a token in the URL
  hookward http 8000 --verify github=env:GITHUB_SECRET  with GitHub's signature
  hookward http 8000 --path '/hooks/**' --host jira     another application
  hookward http 8000 --local                            with a relay on this machine, to try it

Exit codes:
  0  stopped by SIGINT or SIGTERM
  1  a file, a port or the network failed
  2  wrong command line, secret or file; nothing was started
  3  the relay refused the agent's credential
  4  the relay refused the public host: it belongs to another agent
  5  the relay refused the policy
",
    env_help!()
);

/// Examples and exit codes of `hookward providers`.
pub(crate) const PROVIDERS_HELP: &str = "\
Examples:
  hookward providers
  hookward providers github

Exit codes:
  0  shown
  2  no provider has this name";

/// Examples and exit codes of `hookward check`.
pub(crate) const CHECK_HELP: &str = "\
Examples:
  hookward check policy.toml
  hookward check --path '/hooks/**' --verify github=env:GITHUB_SECRET

Exit codes:
  0  the policy is valid
  2  it is not; every error is listed";

/// Examples and exit codes of `hookward explain`.
pub(crate) const EXPLAIN_HELP: &str = "\
Example:
  hookward explain --policy policy.toml --url https://hooks.example.com/hooks -d @body.json

Exit codes:
  0  the request is allowed
  1  it is refused
  2  the command line, the policy, a secret or the request is invalid";

/// Examples and exit codes of `hookward send`.
pub(crate) const SEND_HELP: &str = "\
Example:
  hookward send --provider github --secret env:GITHUB_SECRET -d @body.json URL

Exit codes:
  0  the response was 2xx
  1  another response, or none
  2  the command line, the secret or the body is invalid; nothing was sent";

/// Examples and exit codes of `hookward diagnose`.
pub(crate) const DIAGNOSE_HELP: &str = "\
Examples:
  hookward diagnose 8000
  hookward diagnose --relay hooks.example.com:443

Exit codes:
  0  a tunnel can be opened to every relay, and the application accepts connections
  1  something is in the way
  2  wrong command line, or this agent has joined no relay";

/// Exit codes of `hookward status`.
pub(crate) const STATUS_HELP: &str = "\
Exit codes:
  0  shown
  1  no agent is running with this state directory";

/// Exit codes of `hookward audit verify`.
pub(crate) const VERIFY_HELP: &str = "\
Exit codes:
  0  the audit log is intact
  1  it is not, or a file can't be read
  2  wrong command line";

/// Exit codes of `hookward pair`.
pub(crate) const PAIR_HELP: &str = "\
Exit codes:
  0  the secret is stored
  1  it ended before the provider sent its secret, or something failed
  2  wrong command line or file; nothing was started
  3  the relay refused the agent's credential
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
