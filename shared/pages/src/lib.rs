//! The look of Hookward's pages, which the agent's inspector and the relay's console share: the site
//! with its layout ([`site`]), its service over HTTP ([`serve`]), charts ([`chart`]), text of strangers
//! ([`text`]) and embedded files ([`assets`]).
//!
//! The pages are HTML from the server. Scripts are modules without dependencies, and every page works
//! without them.

pub mod assets;
pub mod chart;
pub mod serve;
pub mod site;
pub mod text;
