//! URLs that the relay fetches: https, a host name, a path, and no ambiguous syntax.

use crate::reason::Reason;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::names::HostName;

/// An https URL with a host name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HttpsUrl {
    host: HostName,
    port: u16,
    target: String,
}

impl HttpsUrl {
    /// Parses a URL.
    ///
    /// # Errors
    /// A sentence with the mistake.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let rest = text
            .strip_prefix("https://")
            .ok_or("it does not begin with https://")?;
        let (authority, target) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err("it has a user name");
        }

        let (name, port) = match authority.split_once(':') {
            None => (authority, 443),
            Some((name, digits)) => (
                name,
                digits.parse().map_err(|_| "its port is not a number")?,
            ),
        };
        let host = HostName::parse(name)
            .filter(|_| name.contains('.'))
            .ok_or("its host is not a host name")?;

        // Some parsers read a name whose last label is a number as an address.
        if name
            .rsplit('.')
            .next()
            .is_some_and(|label| label.bytes().all(|byte| byte.is_ascii_digit()))
        {
            return Err("its host is an address");
        }

        let target = if target.is_empty() { "/" } else { target };
        let plain = target.starts_with('/')
            && target
                .bytes()
                .all(|byte| matches!(byte, 0x21..=0x7e) && byte != b'#');
        if !plain
            || target
                .split('?')
                .next()
                .is_some_and(|path| path.contains("/../") || path.ends_with("/.."))
        {
            return Err("its path has something that could be read in two ways");
        }

        Ok(Self {
            host,
            port,
            target: target.to_owned(),
        })
    }

    /// Returns the host, in lower case.
    #[must_use]
    pub fn host(&self) -> &str {
        self.host.as_str()
    }

    /// Returns the port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Returns path and query.
    #[must_use]
    pub fn target(&self) -> &str {
        &self.target
    }
}

impl fmt::Display for HttpsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, target } = self;
        if *port == 443 {
            write!(f, "https://{host}{target}")
        } else {
            write!(f, "https://{host}:{port}{target}")
        }
    }
}

/// Pattern of a host name. `*` matches one whole label, `{region}` the name of an AWS region. A
/// label that anyone can register, such as the name of a bucket or a site, must not be a `*`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostPattern(String);

/// Returns `true` for the syntax of AWS region names, such as `eu-west-1` and `us-gov-east-1`
/// (docs.aws.amazon.com/general, "Regions"): two letters, one or more words, one digit.
fn is_region(label: &str) -> bool {
    let mut parts = label.split('-');
    let word = |part: &str| part.len() > 1 && part.bytes().all(|byte| byte.is_ascii_lowercase());
    let (country, number) = (parts.next(), parts.next_back());
    country.is_some_and(|country| country.len() == 2 && word(country))
        && number.is_some_and(|number| matches!(number.as_bytes(), [b'0'..=b'9']))
        && parts.clone().next().is_some()
        && parts.all(word)
}

impl HostPattern {
    /// Parses a pattern such as `sns.{region}.amazonaws.com`.
    ///
    /// # Errors
    /// The mistake.
    pub fn parse(text: &str) -> Result<Self, Reason> {
        let plain = text.replace(REGION, "x").replace('*', "x");
        let stars = text
            .split('.')
            .all(|label| label == "*" || !label.contains('*'));
        let named = text
            .split('.')
            .rev()
            .take(2)
            .all(|label| label != "*" && label != REGION);
        if !stars || !named || !text.contains('.') || HostName::parse(&plain).is_none() {
            return Err(format!(
                "{text:?} is not a host such as keys.example.com or sns.{{region}}.amazonaws.com"
            )
            .into());
        }

        Ok(Self(text.to_ascii_lowercase()))
    }

    /// Returns `true` if the pattern matches this host.
    #[must_use]
    pub fn matches(&self, host: &str) -> bool {
        let (mut pattern, mut labels) = (self.0.split('.'), host.split('.'));
        loop {
            match (pattern.next(), labels.next()) {
                (None, None) => return true,
                (Some(REGION), Some(label)) if is_region(label) => {}
                (Some(wanted), Some(label))
                    if wanted == "*" || wanted.eq_ignore_ascii_case(label) => {}
                _ => return false,
            }
        }
    }
}

/// Placeholder of a region in a pattern.
const REGION: &str = "{region}";

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for HostPattern {
    type Error = Reason;

    fn try_from(text: String) -> Result<Self, Reason> {
        Self::parse(&text)
    }
}

impl From<HostPattern> for String {
    fn from(pattern: HostPattern) -> Self {
        pattern.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_https_urls() {
        let url = HttpsUrl::parse("https://sns.us-east-1.amazonaws.com/a.pem?x=1").unwrap();
        assert_eq!(
            (url.host(), url.port(), url.target()),
            ("sns.us-east-1.amazonaws.com", 443, "/a.pem?x=1")
        );
        assert_eq!(
            url.to_string(),
            "https://sns.us-east-1.amazonaws.com/a.pem?x=1"
        );

        for bad in [
            "http://a.example/",
            "https://",
            "https://a/",
            "https://127.0.0.1/",
            "https://0x7f.1/",
            "https://[::1]/",
            "https://good.example@evil.example/",
            "https://a.example:x/",
            "https://a.example/#b",
            "https://a.example#@b.example/",
            "https://a.example/../b",
            "https://a.example\\@b.example/",
            "https://a.example/ b",
        ] {
            assert!(HttpsUrl::parse(bad).is_err(), "{bad}");
        }
    }

    /// `sns.s3.amazonaws.com` is a bucket called sns, which anyone could create.
    #[test]
    fn a_region_is_no_service() {
        let pattern = HostPattern::parse("sns.{region}.amazonaws.com").unwrap();
        for region in [
            "eu-west-1",
            "us-gov-west-1",
            "ap-southeast-2",
            "us-iso-east-1",
            "mx-central-1",
        ] {
            assert!(
                pattern.matches(&format!("sns.{region}.amazonaws.com")),
                "{region}"
            );
        }

        for other in [
            "s3",
            "s3-us-west-2",
            "s3-website-us-east-1",
            "s3.dualstack.us-east-1",
            "eu-west",
            "eu-west-1x",
            "eu-west-12",
            "eu--1",
            "1-1",
            "eu-west-1.s3",
            "execute-api",
            "a",
            "",
        ] {
            assert!(
                !pattern.matches(&format!("sns.{other}.amazonaws.com")),
                "{other}"
            );
        }
    }

    #[test]
    fn a_star_is_one_label() {
        let pattern = HostPattern::parse("sns.*.amazonaws.com").unwrap();
        assert!(pattern.matches("sns.eu-west-1.amazonaws.com"));

        for other in [
            "sns.amazonaws.com",
            "sns.a.b.amazonaws.com",
            "sns.a.amazonaws.com.evil.example",
            "xsns.a.amazonaws.com",
        ] {
            assert!(!pattern.matches(other), "{other}");
        }

        for bad in ["*", "*.com", "a.*", "a*.example.com", "a b.example.com", ""] {
            assert!(HostPattern::parse(bad).is_err(), "{bad}");
        }
    }
}
