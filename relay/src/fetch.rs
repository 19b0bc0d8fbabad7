//! Fetching from providers: [`client`] is the HTTPS client with its bounds, [`keys`] caches public
//! keys of signatures, [`ip_sets`] updates named address sets.

pub(crate) mod client;
pub(crate) mod ip_sets;
pub(crate) mod keys;
