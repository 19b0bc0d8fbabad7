//! Pages of the inspector in HTML, made on the server. Scripts only add comfort: live updates, keys,
//! and copying.

mod body;
pub(crate) mod detail;
pub(crate) mod edit;
pub(crate) mod list;
pub(crate) mod samples;

use askama::Template;
use hookward_pages::assets::Asset;
use hookward_pages::layout::{Link, Page};

/// Name of the pages.
const PRODUCT: &str = "Hookward inspector";

/// Scripts of the inspector.
pub(crate) const SCRIPTS: [Asset; 2] = [
    script("list.js", include_str!("pages/assets/list.js")),
    script("request.js", include_str!("pages/assets/request.js")),
];

const fn script(name: &'static str, content: &'static str) -> Asset {
    Asset {
        name,
        media_type: "text/javascript; charset=utf-8",
        content,
    }
}

/// Page of the navigation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Requests,
    Samples,
    /// A page below one of the others.
    Elsewhere,
}

/// Returns a whole page with this content.
///
/// # Errors
/// A failure of the template, which is a bug.
pub(crate) fn page(
    title: &str,
    place: Place,
    scripts: &[&str],
    content: &impl Template,
) -> askama::Result<String> {
    let links = [
        ("/", "Requests", Place::Requests),
        ("/samples", "Sample events", Place::Samples),
    ];
    let links = links.map(|(href, name, own)| Link {
        href,
        name,
        is_current: own == place,
    });
    let page = Page {
        title,
        product: PRODUCT,
        links: &links,
        scripts,
        content: &content.render()?,
    };
    page.render()
}

/// Returns the class of a verdict: its colour, which is never its only sign.
fn verdict_class(verdict: &str, status: Option<u16>) -> &'static str {
    match verdict {
        "forwarded" | "answered" if status.is_none_or(|status| status < 400) => "good",
        "refused" | "failed" => "bad",
        _ => "warn",
    }
}
