//! Joints: adjacent values in a signed text without a separator, between which bytes could move
//! under the same signature. The fixed length of a time, or the brackets of a JSON body, close a
//! joint. A scheme with an open joint at the body does not cover all of it.

use http::Method;

use crate::providers::scheme::{Scheme, TimeUnit};
use crate::providers::template::{Filter, TemplatePart, ValueSource};
use crate::request::Request;

/// A joint, and what closes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Joint<'s> {
    /// The time has a single length.
    Time(TimeUnit),
    /// The body begins and ends with a bracket, and this other value contains none.
    Json(&'s ValueSource),
    Open,
}

impl Scheme {
    /// Returns the joints at which bytes of the body could move, and those of the time.
    pub(in crate::providers) fn joints(&self) -> impl Iterator<Item = Joint<'_>> {
        let parts = self.msg.parts();
        parts
            .iter()
            .zip(parts.iter().skip(1))
            .filter_map(|(left, right)| self.joint(left, right))
    }

    /// Returns `true` if bytes could move from the body to another value, or back.
    pub(in crate::providers) fn has_open_joint(&self) -> bool {
        // A time between two values could move as a whole: its length closes one side only.
        let times = self
            .joints()
            .filter(|joint| matches!(joint, Joint::Time(_)))
            .count();
        self.joints().any(|joint| joint == Joint::Open)
            || times > 1 && !self.json_body && !self.has_window()
    }

    /// Returns `true` if a time must be within a window, so that it cannot move.
    fn has_window(&self) -> bool {
        self.ts.as_ref().is_some_and(|ts| ts.tolerance.is_some())
    }

    /// Returns `true` for a body that is distinguishable from adjacent values. Methods without a
    /// body need none if the method is signed, too.
    pub(in crate::providers) fn has_telling_body(&self, request: &Request<'_>) -> bool {
        let bodiless = || {
            matches!(
                *request.head.method,
                Method::GET | Method::HEAD | Method::DELETE
            )
        };

        let signs_method = || {
            self.msg
                .sources()
                .any(|source| *source == ValueSource::Method)
        };
        is_json(request.body) || request.body.is_empty() && bodiless() && signs_method()
    }

    fn joint<'s>(&'s self, left: &'s TemplatePart, right: &'s TemplatePart) -> Option<Joint<'s>> {
        let (left, right) = match (left, right) {
            // Literal text separates values; rendering rejects a value that contains it.
            (TemplatePart::Literal(_), _) | (_, TemplatePart::Literal(_)) => return None,
            (TemplatePart::Value(left, left_filter), TemplatePart::Value(right, right_filter)) => {
                // A digest has a fixed length, and a JSON string ends at its quote.
                if is_closed(*left_filter) || is_closed(*right_filter) {
                    return None;
                }
                (left, right)
            }
            _ => return Some(Joint::Open),
        };

        // The sender does not choose the secret, and no URL begins like the end of a method.
        let fixed =
            |source: &ValueSource| matches!(source, ValueSource::Secret(_) | ValueSource::Method);
        if fixed(left) || fixed(right) {
            return None;
        }

        if *left == ValueSource::Timestamp || *right == ValueSource::Timestamp {
            let unit = self.ts.as_ref().map(|ts| ts.unit)?;
            return match unit {
                // No such time begins or ends like another one.
                TimeUnit::Iso8601 => None,
                // A time with a fraction begins like one without.
                TimeUnit::Iso8601Utc => Some(if self.json_body {
                    Joint::Json(&ValueSource::Timestamp)
                } else {
                    Joint::Open
                }),
                unit => Some(Joint::Time(unit)),
            };
        }

        let other = match (left, right) {
            (ValueSource::Body, other) | (other, ValueSource::Body) => other,
            _ => return None,
        };

        Some(if self.json_body {
            Joint::Json(other)
        } else {
            Joint::Open
        })
    }
}

const fn is_closed(filter: Filter) -> bool {
    matches!(
        filter,
        Filter::JsonString | Filter::Sha256 | Filter::Sha256Base64 | Filter::Sha256Base64url
    )
}

/// Returns `true` if a value contains no character with which a JSON body begins or ends.
#[must_use]
pub(crate) fn is_bare(value: &[u8]) -> bool {
    !value
        .iter()
        .any(|byte| matches!(byte, b'{' | b'}' | b'[' | b']' | b'"'))
}

/// Returns `true` for a body that begins and ends with the brackets of a JSON object or list.
/// Surrounding spaces and line ends are allowed: no header value and no URL begins or ends with
/// one.
#[must_use]
pub(crate) fn is_json(body: &[u8]) -> bool {
    let body = body.trim_ascii();
    let ends = (body.first(), body.last());
    body.len() > 1 && matches!(ends, (Some(b'{'), Some(b'}')) | (Some(b'['), Some(b']')))
}

impl TimeUnit {
    /// Returns `true` if the text has the only length of times of this kind: ten digits for seconds
    /// until the year 2286, thirteen for milliseconds, 29 characters for an HTTP date (RFC 9110
    /// §5.6.7).
    #[must_use]
    pub(crate) fn is_pinned(self, text: &[u8]) -> bool {
        match self {
            Self::Seconds => text.len() == 10,
            Self::Milliseconds => text.len() == 13,
            Self::HttpDate => text.len() == 29,
            Self::Iso8601 | Self::Iso8601Utc => true,
        }
    }
}
