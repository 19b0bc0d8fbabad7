//! Syntax checks. The gate refuses a request that two parsers could read differently; it never
//! normalises it, regardless of the policy.

use http::HeaderMap;
use http::header::{self, HeaderName};

use crate::providers;
use hookward_core::headers;
use hookward_core::limits::TARGET_BYTES;
use hookward_core::reason::{Check, Code, Refusal};
use hookward_core::syntax::{EscapedSlashes, check_target};
use hookward_core::text::Escaped;

/// Checks target and headers. The target is forwarded as it is: path and query.
///
/// # Errors
/// The first ambiguity.
pub fn check(target: &[u8], fields: &HeaderMap, slashes: EscapedSlashes) -> Result<(), Refusal> {
    if target.len() > TARGET_BYTES {
        return Err(Refusal::new(
            Check::Syntax,
            Code::TargetTooLong,
            format!(
                "the target has {} bytes, more than {TARGET_BYTES}",
                target.len()
            ),
        ));
    }

    check_target(target, slashes).map_err(Refusal::malformed)?;
    for name in fields.keys() {
        if is_singular(name) && differ(fields, name) {
            return Err(Refusal::malformed(format!(
                "the header {name} occurs twice with different values"
            )));
        }

        if let Some(twin) = twin(fields, name) {
            let (name, twin) = (
                Escaped(name.as_str().as_bytes()),
                Escaped(twin.as_str().as_bytes()),
            );
            return Err(Refusal::malformed(format!(
                "the headers {name} and {twin} are one to applications behind CGI"
            )));
        }
    }

    Ok(())
}

/// Returns another field that CGI servers read as this one: they read every character other than a
/// letter or digit as `_` (RFC 3875 §4.1.18).
fn twin<'h>(fields: &'h HeaderMap, name: &HeaderName) -> Option<&'h HeaderName> {
    if headers::is_usual_name(name) {
        return None;
    }
    fields
        .keys()
        .find(|other| *other != name && headers::are_twins(name, other))
}

fn is_singular(name: &HeaderName) -> bool {
    SINGULAR.contains(name) || *name == WEBHOOK_ID || providers::stands_once(name)
}

/// Fields that occur once (RFC 9110): two different values are two different requests.
const SINGULAR: [HeaderName; 9] = [
    header::AUTHORIZATION,
    header::CONTENT_TYPE,
    header::CONTENT_LENGTH,
    header::DATE,
    header::FROM,
    header::IF_UNMODIFIED_SINCE,
    header::MAX_FORWARDS,
    header::REFERER,
    header::USER_AGENT,
];

/// Delivery id of Standard Webhooks, which occurs once, like those of the catalog.
const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");

fn differ(headers: &HeaderMap, name: &HeaderName) -> bool {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    values.any(|value| Some(value) != first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_that_are_one_behind_cgi() {
        let after_claim = |names: &[&'static str]| {
            let fields = names.iter().map(|name| {
                (
                    HeaderName::from_static(name),
                    http::HeaderValue::from_static("x"),
                )
            });
            check(b"/", &fields.collect(), EscapedSlashes::Refused)
        };

        for twins in [
            ["x-github-event", "x_github_event"],
            ["x_token", "x-token"],
            ["x.a", "x-a"],
            ["x_a", "x.a"],
        ] {
            assert!(after_claim(&twins).is_err(), "{twins:?}");
        }

        for others in [
            ["x-a", "x-b"],
            ["x_a", "x-b"],
            ["content-type", "content_length"],
        ] {
            assert_eq!(after_claim(&others), Ok(()), "{others:?}");
        }
    }
}
