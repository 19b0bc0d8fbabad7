//! Values shared by both programs. This crate performs no I/O: `hookward-runtime` and
//! `hookward-tunnel` access files, sockets and the environment. Only [`clock`] reads the time.

pub mod address;
pub mod clock;
pub mod diagnostics;
pub mod fetched_keys;
pub mod form;
pub mod headers;
pub mod ip_sets;
pub mod json;
pub mod limits;
pub mod names;
pub mod path;
pub mod quota;
pub mod rate;
pub mod reason;
pub mod secret;
pub mod syntax;
pub mod text;
pub mod trace;
pub mod url;
