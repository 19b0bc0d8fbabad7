//! The list of sample events.

use askama::Template;
use hookward_gate::providers::samples::Sample;

/// Sample events, by provider.
#[derive(Template)]
#[template(path = "samples.html")]
pub(crate) struct SamplesPage {
    /// Those of providers that a route verifies.
    pub own: Vec<SampleGroup>,
    pub others: Vec<SampleGroup>,
    /// `true` if there is a tunnel to send them to.
    pub has_tunnel: bool,
}

/// Samples of one provider.
pub(crate) struct SampleGroup {
    pub provider: String,
    pub samples: Vec<&'static Sample>,
}
