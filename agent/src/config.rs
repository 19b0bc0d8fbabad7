//! Configuration and state: [`policy_args`] builds a policy from flags ([`raw_flags`]) or a file,
//! [`state_dir`] stores credentials, created tokens and the printed URL.

pub(crate) mod policy_args;
mod raw_flags;
pub(crate) mod state_dir;
