//! Pages of the inspector in HTML, made on the server. Scripts only add comfort: live updates, keys,
//! and copying.

mod body;
pub(crate) mod detail;
pub(crate) mod edit;
pub(crate) mod list;
pub(crate) mod samples;

use hookward_pages::assets::{Asset, script};
use hookward_pages::site::Site;

/// The inspector.
pub(crate) static INSPECTOR: Site = Site {
    product: "Hookward inspector",
    links: &[(REQUESTS, "Requests"), (SAMPLES, "Sample events")],
    scripts: &SCRIPTS,
};

/// Path of the list.
pub(crate) const REQUESTS: &str = "/";

/// Path of the sample events.
pub(crate) const SAMPLES: &str = "/samples";

const SCRIPTS: [Asset; 2] = [
    script("list.js", include_str!("pages/assets/list.js")),
    script("request.js", include_str!("pages/assets/request.js")),
];

/// Returns the class of a verdict: its colour, which is never its only sign.
fn verdict_class(verdict: &str, status: Option<u16>) -> &'static str {
    match verdict {
        "forwarded" | "answered" if status.is_none_or(|status| status < 400) => "good",
        "refused" | "failed" => "bad",
        _ => "warn",
    }
}
