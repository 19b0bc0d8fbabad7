//! What the user configures, and what the agent keeps: [`policy_args`] makes a policy of flags or a
//! file, [`state_dir`] has the credential, minted tokens and the printed URL.

pub mod policy_args;
pub mod state_dir;
