//! Canonical request of Atlassian Connect.

use std::collections::BTreeMap;

use hookward_core::form;

use super::escape;
use crate::providers::error::SignatureError;
use crate::request::Request;

/// Returns Atlassian's canonical request: method, path, and the sorted query without `jwt`
/// (developer.atlassian.com, "Understanding JWT", query string hash).
pub(in crate::providers) fn canonical(request: &Request<'_>) -> Result<Vec<u8>, SignatureError> {
    const PLAIN: &[u8] = b"-_.~";

    let broken = || SignatureError::Malformed("the query".to_owned(), "it can't be read");
    let path = String::from_utf8_lossy(request.head.path()).replace('&', "%26");
    let path = if path.len() > 1 {
        path.trim_end_matches('/')
    } else {
        &path
    };

    let mut names: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in form::pairs(request.head.query().unwrap_or_default()).ok_or_else(broken)? {
        if name.as_ref() != b"jwt" {
            names
                .entry(escape(&name, PLAIN))
                .or_default()
                .push(escape(&value, PLAIN));
        }
    }

    let query = names.into_iter().map(|(name, mut values)| {
        values.sort();
        format!("{name}={}", values.join(","))
    });
    let query = query.collect::<Vec<_>>().join("&");
    Ok(format!("{}&{path}&{query}", request.head.method).into_bytes())
}
