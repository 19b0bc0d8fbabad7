//! Files that are embedded in the program.

use http::{HeaderName, HeaderValue, header};

/// An embedded file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asset {
    /// Name below `/assets/`.
    pub name: &'static str,
    /// Media type.
    pub media_type: &'static str,
    /// Content of the file.
    pub content: &'static str,
}

/// Returns a script, which is a module.
#[must_use]
pub const fn script(name: &'static str, content: &'static str) -> Asset {
    Asset {
        name,
        media_type: "text/javascript; charset=utf-8",
        content,
    }
}

/// Files of every page.
pub(crate) const SHARED: [Asset; 4] = [
    script("copy.js", include_str!("assets/copy.js")),
    script("time.js", include_str!("assets/time.js")),
    Asset {
        name: "style.css",
        media_type: "text/css; charset=utf-8",
        content: include_str!("assets/style.css"),
    },
    Asset {
        name: "icon.svg",
        media_type: "image/svg+xml",
        content: include_str!("assets/icon.svg"),
    },
];

/// Policy of the pages (W3C Content Security Policy Level 3): files of the page's own server only, no
/// inline script or style, no frames.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// Returns the header fields that protect a page in the browser.
pub(crate) fn page_headers() -> [(HeaderName, HeaderValue); 5] {
    [
        (
            header::CONTENT_SECURITY_POLICY,
            HeaderValue::from_static(CONTENT_SECURITY_POLICY),
        ),
        (
            header::REFERRER_POLICY,
            // Without a referrer, browsers send `Origin: null` with forms (Fetch §4.4).
            HeaderValue::from_static("same-origin"),
        ),
        (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
        (
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        ),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            HeaderValue::from_static("same-origin"),
        ),
    ]
}
