//! Hookward's gate: it decides about a request by a policy. Pure: request, client address, `now`
//! and state go in, a verdict comes out. No tokio, no sockets.
//!
//! [`policy`] is the policy as plain data, [`providers`] the catalog of signing schemes,
//! [`engine`] the compiled policy and its checks, [`doctor`] the diagnosis of a wrong signature,
//! [`sign`] signs as a provider does.
#![doc = ""]
#![doc = include_str!("../README.md")]

pub mod doctor;
pub mod engine;
pub mod inspection;
pub mod policy;
pub mod providers;
pub mod redaction;
pub mod request;
pub mod sign;
