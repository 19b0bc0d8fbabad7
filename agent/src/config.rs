//! Configuration and state: [`policy_args`] builds a policy from flags or a file, [`state_dir`]
//! stores credentials, created tokens and the printed URL.

pub(crate) mod policy_args;
pub(crate) mod state_dir;
