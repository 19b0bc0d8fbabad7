//! Bodies in transit: [`request`] reads the sender's body, [`response`] carries the application's,
//! and [`drain`] discards the rest of a body that is not needed.

pub(crate) mod drain;
pub(crate) mod request;
pub(crate) mod response;
