//! What the relay fetches from providers: [`client`] is the HTTPS client and its bounds, [`keys`]
//! are the public keys of signatures, [`ip_sets`] the named sets of addresses.

pub(crate) mod client;
pub(crate) mod ip_sets;
pub(crate) mod keys;
