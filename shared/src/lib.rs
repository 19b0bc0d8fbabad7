//! What Hookward's relay and agent have in common.
//!
//! No sockets, except for [`transport`], which speaks QUIC. What decides is pure: the gate is given
//! the request, the client address and `now`. Three values reach outside where a program hands them
//! in: [`clock`] reads the time, [`secret`] environment and files, [`budget`] the age of a body.
//! What both programs do as processes (log, open files, private files, files that are read again)
//! is in [`process`] and [`reload`].
//!
//! The order in which a request meets the modules:
//!
//! 1. [`protocol`] carries it between relay and agent, [`transport`] moves the bytes.
//! 2. [`gate`] decides about it by a [`policy`], with the schemes of [`providers`] and the named
//!    sets of [`addresses`].
//! 3. [`refusal`] says why it was refused, in one vocabulary for answers, logs and screens.

pub mod addresses;
pub mod budget;
pub mod clock;
pub mod config;
pub mod current;
pub mod form;
pub mod gate;
pub mod headers;
pub mod inspection;
pub mod join_token;
pub mod json;
pub mod limits;
pub mod names;
pub mod offload;
pub mod pieces;
pub mod policy;
pub mod process;
pub mod protocol;
pub mod providers;
pub mod quota;
pub mod refusal;
pub mod reload;
pub mod request;
pub mod secret;
pub mod text;
pub mod transport;
pub mod url;
