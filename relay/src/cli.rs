//! The command line of `hookward-relay`.
