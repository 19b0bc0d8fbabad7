//! Path patterns, compared segment by segment with the raw bytes of a valid target.

use crate::reason::Reason;
use crate::syntax::{self, EscapedSlashes};

/// Pattern such as `/flexdeploy/webhooks/v1/**`. `*` matches one segment; a final `/**` matches the
/// prefix itself and everything below it. There are no other wildcards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathPattern {
    segments: Vec<Segment>,
    below: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Exact(Vec<u8>),
    Any,
}

impl PathPattern {
    /// Parses a pattern.
    ///
    /// # Errors
    /// A sentence with the mistake, also for a pattern that no request could match, or that does not
    /// mean what it seems to.
    pub fn parse(text: &str) -> Result<Self, Reason> {
        let Some(rest) = text.strip_prefix('/') else {
            return Err(format!("the path {text:?} must begin with a slash").into());
        };
        let (rest, below) = match rest.strip_suffix("**") {
            Some("") => ("", true),
            Some(prefix) if prefix.ends_with('/') => (prefix.trim_end_matches('/'), true),
            Some(_) => return Err(wildcard(text).into()),
            None => (rest.strip_suffix('/').unwrap_or(rest), false),
        };

        let segments = match rest {
            "" => Vec::new(),
            rest => rest
                .split('/')
                .map(|segment| Segment::parse(segment, text))
                .collect::<Result<_, _>>()?,
        };

        let plain = text.replace("**", "x").replace('*', "x");
        syntax::check_target(plain.as_bytes(), EscapedSlashes::Refused)
            .map_err(|reason| format!("the path {text:?} can't match any request: {reason}"))?;

        Ok(Self { segments, below })
    }

    /// Returns `true` if the path (without query) of a valid target matches. With `slashes`,
    /// escaped slashes may occur below the prefix of a final `/**`, and nowhere else.
    #[must_use]
    pub fn matches(&self, path: &[u8], slashes: bool) -> bool {
        let path = path.strip_prefix(b"/").unwrap_or(path);
        let path = path.strip_suffix(b"/").unwrap_or(path);
        let mut given = path
            .split(|byte| *byte == b'/')
            .filter(|segment| !segment.is_empty());

        for segment in &self.segments {
            match (segment, given.next()) {
                (Segment::Exact(wanted), Some(found)) if wanted.as_slice() == found => {}
                (Segment::Any, Some(found)) if !syntax::has_escaped_slash(found) => {}
                _ => return false,
            }
        }

        if self.below {
            slashes || !given.any(syntax::has_escaped_slash)
        } else {
            given.next().is_none()
        }
    }

    /// Returns `true` if this pattern matches every path that `other` matches.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        let prefix = self
            .segments
            .iter()
            .zip(&other.segments)
            .all(|pair| match pair {
                (Segment::Any, _) => true,
                (mine, theirs) => mine == theirs,
            });

        let (mine, theirs) = (self.segments.len(), other.segments.len());
        prefix && mine <= theirs && (self.below || (mine == theirs && !other.below))
    }

    /// Returns `true` if the pattern matches every path.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.below && self.segments.is_empty()
    }
}

impl Segment {
    fn parse(segment: &str, pattern: &str) -> Result<Self, Reason> {
        match segment {
            "*" => Ok(Self::Any),
            segment if segment.contains('*') => Err(wildcard(pattern).into()),
            segment if segment.contains('?') => Err(format!(
                "the path {pattern:?} has a query; a route is chosen by its path alone"
            )
            .into()),
            segment => Ok(Self::Exact(segment.as_bytes().to_vec())),
        }
    }
}

fn wildcard(pattern: &str) -> String {
    format!(
        "the path {pattern:?}: a * stands for one whole segment (/a/*/b), and ** only at the end (/a/**)"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matching_is_by_segment() {
        let cases: [(&str, &[&str], &[&str]); 5] = [
            (
                "/v1/**",
                &["/v1", "/v1/", "/v1/a", "/v1/a/b/"],
                &["/", "/v", "/v10", "/v1*", "/V1", "/x/v1"],
            ),
            (
                "/a/*/c",
                &["/a/b/c", "/a/x/c/"],
                &["/a/c", "/a/b/b/c", "/a/b/c/d", "/a//c"],
            ),
            ("/a", &["/a", "/a/"], &["/a/b", "/"]),
            ("/", &["/"], &["/a"]),
            ("/**", &["/", "/a", "/a/b"], &[]),
        ];

        for (pattern, yes, no) in cases {
            let pattern = PathPattern::parse(pattern).unwrap();
            for path in yes {
                assert!(
                    pattern.matches(path.as_bytes(), false),
                    "{pattern:?} {path}"
                );
            }

            for path in no {
                assert!(
                    !pattern.matches(path.as_bytes(), false),
                    "{pattern:?} {path}"
                );
            }
        }
    }

    #[test]
    fn escaped_slashes_stand_below_the_prefix_only() {
        let below = PathPattern::parse("/hooks/*/**").unwrap();
        for (path, slashes, fits) in [
            ("/hooks/a/job/release%2F1/build", true, true),
            ("/hooks/a/job/release%2f1", true, true),
            ("/hooks/a/job/release%2F1/build", false, false),
            ("/hooks/a%2Fb/c", true, false),
            ("/hooks%2Fa/b", true, false),
        ] {
            assert_eq!(
                below.matches(path.as_bytes(), slashes),
                fits,
                "{path} {slashes}"
            );
        }

        assert!(
            !PathPattern::parse("/hooks/*")
                .unwrap()
                .matches(b"/hooks/a%2Fb", true),
            "no final /**"
        );
    }

    #[test]
    fn patterns_that_can_not_match_are_refused() {
        for bad in [
            "", "a", "/a**", "/a*", "/**/a", "/a/**/", "//", "/a//b", "/a;b", "/../a", "/a?x",
            "/a b", "/%2e",
        ] {
            assert!(PathPattern::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn covering() {
        let parse = |text| PathPattern::parse(text).unwrap();
        for (wide, narrow, covers) in [
            ("/a/**", "/a/b", true),
            ("/a/**", "/a", true),
            ("/a/*", "/a/b", true),
            ("/a/b", "/a/*", false),
            ("/a", "/a/**", false),
            ("/**", "/**", true),
            ("/a/b/**", "/a/**", false),
        ] {
            assert_eq!(
                parse(wide).covers(&parse(narrow)),
                covers,
                "{wide} {narrow}"
            );
        }
    }
}
