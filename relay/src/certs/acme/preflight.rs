//! Warnings at the start of what will keep the ACME server from validating names.

use std::net::SocketAddr;
use std::time::Duration;

use hookward_core::names::HostName;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::certs::review::ANY_LABEL;

/// Settings that decide what the server must reach.
pub(crate) struct Preflight {
    pub domain: HostName,
    /// Port under which senders reach the relay.
    pub https_port: u16,
    /// `true` if names are proved by DNS records.
    pub has_dns_hook: bool,
    /// `true` if the relay listens for HTTP-01.
    pub has_http: bool,
}

/// State of the way to the relay.
#[derive(Default)]
struct Findings {
    /// Addresses of the domain.
    domain: Vec<SocketAddr>,
    /// `true` if hosts below the domain have an address.
    has_wildcard: bool,
    /// Address that does not accept connections on port 443.
    unreachable: Option<SocketAddr>,
}

impl Preflight {
    /// Logs the warnings, unless `stop` is cancelled.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let findings = tokio::select! {
            findings = self.find() => findings,
            () = stop.cancelled() => return,
        };
        for warning in self.warnings(&findings) {
            tracing::warn!("{warning}");
        }
    }

    async fn find(&self) -> Findings {
        let mut findings = Findings {
            domain: addresses(self.domain.as_str()).await,
            has_wildcard: !addresses(&format!("{ANY_LABEL}.{}", self.domain))
                .await
                .is_empty(),
            unreachable: None,
        };
        if let Some(address) = findings.domain.first() {
            let connected = timeout(PATIENCE, TcpStream::connect(address)).await;
            findings.unreachable = (!matches!(connected, Ok(Ok(_)))).then_some(*address);
        }
        findings
    }

    fn warnings(&self, findings: &Findings) -> Vec<String> {
        let domain = &self.domain;
        let mut warnings = Vec::new();
        if findings.domain.is_empty() {
            warnings.push(format!(
                "no address of {domain} was found in DNS: create an A or AAAA record that points to this machine"
            ));
        }
        if !findings.has_wildcard {
            warnings.push(format!(
                "hosts below {domain} have no address in DNS: create a record for *.{domain}, or one for each host"
            ));
        }
        if self.has_dns_hook || self.has_http {
            return warnings;
        }

        if self.https_port != HTTPS_PORT {
            warnings.push(format!(
                "the ACME server connects to port 443 of each name, and the relay has port {}: forward port 443 to it, \
                 or set --http-listen or dns_hook",
                self.https_port
            ));
        } else if let Some(address) = findings.unreachable {
            warnings.push(format!(
                "{address} of {domain} does not answer from this machine: open 443/tcp in the firewall; some networks \
                 can't reach their own public address, and the ACME server still can"
            ));
        }
        warnings
    }
}

async fn addresses(host: &str) -> Vec<SocketAddr> {
    let looking = timeout(PATIENCE, lookup_host((host, HTTPS_PORT)));
    match looking.await {
        Ok(Ok(found)) => found.collect(),
        _ => Vec::new(),
    }
}

/// Port on which an ACME server validates names (RFC 8737 §3).
const HTTPS_PORT: u16 = 443;

/// Maximum wait for DNS, and for a connection.
const PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_name_what_to_do() {
        let mut preflight = Preflight {
            domain: HostName::parse("hooks.example.test").unwrap(),
            https_port: 8443,
            has_dns_hook: false,
            has_http: false,
        };
        let nothing = preflight.warnings(&Findings::default()).join("\n");
        for expected in ["A or AAAA record", "*.hooks.example.test", "port 8443"] {
            assert!(nothing.contains(expected), "{expected} in {nothing}");
        }

        let address = SocketAddr::from(([192, 0, 2, 1], 443));
        let blocked = Findings {
            domain: vec![address],
            has_wildcard: true,
            unreachable: Some(address),
        };
        preflight.https_port = 443;
        let firewall = preflight.warnings(&blocked);
        assert!(
            firewall.len() == 1 && firewall[0].contains("firewall"),
            "{firewall:?}"
        );
        preflight.has_dns_hook = true;
        assert!(preflight.warnings(&blocked).is_empty());
    }
}
