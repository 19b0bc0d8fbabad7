//! Bodies on their way: [`request`] reads what a sender sends, [`response`] carries what the
//! application answers, [`sender`] sends the request's body into the tunnel, [`drain`] reads the rest of a body that is not needed.

pub(crate) mod drain;
pub(crate) mod request;
pub(crate) mod response;
pub(crate) mod sender;
