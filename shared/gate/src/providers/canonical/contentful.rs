//! Signed path of Contentful.

use super::escape;

/// Returns Contentful's `encodeURI(path + "?" + querystring.escape(query))` (npm
/// @contentful/node-apps-toolkit, `src/requests/utils.ts`).
pub(in crate::providers) fn contentful(target: &str) -> String {
    const ENCODE_URI: &[u8] = b"-_.!~*'();/?:@&=+$,#";
    const COMPONENT: &[u8] = b"-_.!~*'()";

    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let path = escape(path.as_bytes(), ENCODE_URI);

    if query.is_empty() {
        return path;
    }

    format!(
        "{path}?{}",
        escape(escape(query.as_bytes(), COMPONENT).as_bytes(), ENCODE_URI)
    )
}
