//! Values that both of Hookward's programs share. No I/O: what reads files, sockets or the
//! environment is in `hookward-runtime` and `hookward-tunnel`. [`clock`] alone reads the time.

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
pub mod url;
