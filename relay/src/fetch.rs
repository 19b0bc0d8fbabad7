//! What the relay fetches from providers: [`client`] is the HTTPS client and its bounds, [`keys`]
//! are the public keys of signatures, [`ip_sets`] the named sets of addresses.

pub mod client;
pub mod ip_sets;
pub mod keys;
