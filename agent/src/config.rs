//! What the user configures, and what the agent keeps: [`policy_args`] makes a policy of flags or a
//! file, [`state_dir`] has the credential, minted tokens and the printed URL.

pub(crate) mod policy_args;
pub(crate) mod state_dir;
