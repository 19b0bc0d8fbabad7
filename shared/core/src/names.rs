//! Names of agents and public hosts.

use serde::{Deserialize, Serialize};

/// Public host name: lower case, letters, digits and hyphens in labels, without port and final dot.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostName(String);

impl HostName {
    /// Parses a host name and folds it to lower case, as DNS does. Returns `None` if it is invalid.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let valid = text.len() <= HOST && text.split('.').all(is_label);
        valid.then(|| Self(text.to_ascii_lowercase()))
    }

    /// Parses the value of `Host` or `:authority`: a host name, with or without a numeric port.
    #[must_use]
    pub fn parse_authority(text: &str) -> Option<(Self, Option<u16>)> {
        let Some((name, port)) = text.split_once(':') else {
            return Some((Self::parse(text)?, None));
        };
        let plain = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|_| plain)?;
        Some((Self::parse(name)?, Some(port)))
    }

    /// Returns the domain of a relay on one machine. Every name below `localhost` is this machine
    /// (RFC 6761 §6.3), which curl and browsers know without configuration.
    #[must_use]
    pub fn local() -> Self {
        Self("localhost".to_owned())
    }

    /// Returns the name of `label` below this domain.
    #[must_use]
    pub fn child(&self, label: &AgentName) -> Self {
        Self(format!("{}.{}", label.0, self.0))
    }

    /// Returns `true` if the host is exactly one label below `domain`, as wildcard records and
    /// certificates cover.
    #[must_use]
    pub fn is_child_of(&self, domain: &Self) -> bool {
        self.label_below(domain)
            .is_some_and(|label| !label.contains('.'))
    }

    /// Returns the agent whose name is this host's label below `domain`.
    #[must_use]
    pub fn agent_below(&self, domain: &Self) -> Option<AgentName> {
        self.label_below(domain).and_then(AgentName::parse)
    }

    fn label_below(&self, domain: &Self) -> Option<&str> {
        self.0.strip_suffix(&domain.0)?.strip_suffix('.')
    }

    /// Returns the name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Maximum length of a host name, in bytes (RFC 1035 §2.3.4, without the root's dot and length
/// byte).
const HOST: usize = 253;

impl TryFrom<String> for HostName {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text).ok_or("not a host name")
    }
}

impl From<HostName> for String {
    fn from(host: HostName) -> Self {
        host.0
    }
}

impl std::borrow::Borrow<str> for HostName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for HostName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Returns the origin of a public URL: scheme and authority, without the default port.
#[must_use]
pub fn origin_of(host: &str, port: u16) -> String {
    if port == 443 {
        format!("https://{host}")
    } else {
        format!("https://{host}:{port}")
    }
}

/// Name of an agent, and first label of its public host: one lower-case DNS label.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AgentName(String);

impl AgentName {
    /// Returns the name of the first agent.
    #[must_use]
    pub fn preset() -> Self {
        Self("flexdeploy".to_owned())
    }

    /// Parses a name. Returns `None` unless it is one DNS label.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        is_label(text).then(|| Self(text.to_ascii_lowercase()))
    }

    /// Returns the name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for AgentName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_label(label: &str) -> bool {
    !label.is_empty()
        && label.len() <= LABEL
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// Maximum length of an agent's name, in bytes: one DNS label (RFC 1035 §2.3.4).
const LABEL: usize = 63;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_with_ports() {
        let parsed =
            |text| HostName::parse_authority(text).map(|(host, port)| (host.to_string(), port));
        assert_eq!(
            parsed("Hooks.example.test:8443"),
            Some(("hooks.example.test".to_owned(), Some(8443)))
        );
        assert_eq!(
            parsed("hooks.example.test"),
            Some(("hooks.example.test".to_owned(), None))
        );

        for bad in [
            "h.test:",
            "h.test:+1",
            "h.test:99999",
            "h.test:1@evil",
            "h.test:443, evil",
            "h.test:/../x",
            ":443",
        ] {
            assert_eq!(parsed(bad), None, "{bad}");
        }
    }

    #[test]
    fn host_names() {
        let domain = HostName::parse("Hooks.Example.com").unwrap();
        assert_eq!(domain.as_str(), "hooks.example.com");
        assert!(
            HostName::parse("a.hooks.example.com")
                .unwrap()
                .is_child_of(&domain)
        );

        for stranger in [
            "hooks.example.com",
            "a.b.hooks.example.com",
            "xhooks.example.com",
        ] {
            assert!(
                !HostName::parse(stranger).unwrap().is_child_of(&domain),
                "{stranger}"
            );
        }

        for bad in [
            "", ".", "a..b", "a.", "-a.b", "a_b", "a b", "a:1", "ä.de", "[::1]",
        ] {
            assert!(HostName::parse(bad).is_none(), "{bad}");
        }
    }
}
