//! Findings and their remedies.

use std::net::SocketAddr;

use hookward_tunnel::transport::Session;
use serde::Serialize;

use crate::commands::print;
use crate::relay_link::RelayEndpoint;

/// Result of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum StepOutcome {
    Ok,
    Warning,
    Failed,
    Skipped,
}

#[derive(Debug, Serialize)]
pub(super) struct ProbeStep {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) relay: Option<String>,
    pub(super) step: &'static str,
    pub(super) outcome: StepOutcome,
    pub(super) reason: String,
}

impl ProbeStep {
    fn line(&self) -> String {
        let outcome = match self.outcome {
            StepOutcome::Ok => "ok",
            StepOutcome::Warning => "no",
            StepOutcome::Failed => "FAILED",
            StepOutcome::Skipped => "-",
        };
        format!("  {:<20} {outcome:<7} {}\n", self.step, self.reason)
    }
}

/// Result of sending to an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reachability {
    Answered,
    /// The host, or a firewall, reports a closed port.
    Refused,
    Lost,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct Findings {
    pub(super) steps: Vec<ProbeStep>,
    /// `true` to print each step when it ends, because some take seconds.
    #[serde(skip)]
    pub(super) live: bool,
    /// Remedies on this machine.
    pub(super) remedies: Vec<String>,
    /// Requests to the network team.
    pub(super) requests: Vec<String>,
    /// Relays that a tunnel can be opened to, and the others.
    #[serde(skip)]
    pub(super) reached: Vec<String>,
    #[serde(skip)]
    pub(super) unreached: Vec<String>,
    /// Something else blocks the tunnel.
    #[serde(skip)]
    pub(super) blocked: bool,
}

/// Result of a handshake with the relay.
pub(super) enum HandshakeResult {
    Done(Session),
    /// Completed, but the agent has not joined and has no key to compare.
    Unchecked,
    /// The server has another key.
    WrongKey,
    Failed,
}

impl HandshakeResult {
    pub(super) const fn session(&self) -> Option<&Session> {
        if let Self::Done(session) = self {
            Some(session)
        } else {
            None
        }
    }

    pub(super) const fn is_done(&self) -> bool {
        matches!(self, Self::Done(_) | Self::Unchecked)
    }
}

/// Results of all paths to one relay.
pub(super) struct PathResults<'f> {
    pub(super) relay: &'f RelayEndpoint,
    pub(super) addresses: &'f [SocketAddr],
    pub(super) udp: Reachability,
    pub(super) quic: HandshakeResult,
    pub(super) tcp: Reachability,
    /// Proxy of TLS over TCP, and `true` if it accepted the connection.
    pub(super) proxy: Option<(String, bool)>,
    pub(super) tls: HandshakeResult,
}

impl Findings {
    /// Adds a step on the way to this relay.
    pub(super) fn add(
        &mut self,
        relay: &RelayEndpoint,
        step: &'static str,
        outcome: StepOutcome,
        detail: impl Into<String>,
    ) {
        let relay = Some(relay.address.clone());
        self.push(ProbeStep {
            relay,
            step,
            outcome,
            reason: detail.into(),
        });
    }

    pub(super) fn push(&mut self, step: ProbeStep) {
        if self.live {
            let is_first = self
                .steps
                .last()
                .is_none_or(|last| last.relay != step.relay);
            let title = step
                .relay
                .as_ref()
                .filter(|_| is_first)
                .map(|relay| format!("{relay}\n"))
                .unwrap_or_default();
            let title = if step.relay.is_none() {
                "Here\n".to_owned()
            } else {
                title
            };
            // The final output reports write errors.
            let _ = print(&format!("{title}{}", step.line()));
        }

        self.steps.push(step);
    }

    /// Adds the remedies for one relay.
    pub(super) fn conclude(&mut self, ways: &PathResults<'_>) {
        let address = &ways.relay.address;
        let (host, _) = address.rsplit_once(':').unwrap_or((address, "443"));
        let proxied = ways
            .proxy
            .as_ref()
            .is_some_and(|(_, let_through)| *let_through);

        // An inspecting proxy intercepts TLS over TCP, never QUIC.
        if let HandshakeResult::WrongKey = ways.quic {
            self.remedies.push(format!(
                "another relay answers at {address}: if yours was set up anew, join it again with a new token; if only its \
                 key has changed, accept it (hookward pin add PIN); if neither, a third party is in between"
            ));
            return;
        }

        if ways.addresses.is_empty() && !ways.tls.is_done() {
            self.requests.push(format!(
                "a DNS answer for {address}, or HTTPS_PROXY for a proxy that has one"
            ));
        }

        if let (Reachability::Refused, Reachability::Refused, None, Some(target)) =
            (ways.udp, ways.tcp, &ways.proxy, ways.addresses.first())
        {
            self.remedies.push(format!(
                "{target} is closed for UDP and TCP: is the relay {address} running, and is this its address?"
            ));
            return;
        }

        // Nothing is known about the path behind a broken proxy.
        let straight = ways.tcp == Reachability::Answered && ways.proxy.is_some() && !proxied;

        if let Some((proxy, false)) = &ways.proxy {
            let what = match straight {
                true => {
                    format!("the straight way is open: unset it, or write {host} into NO_PROXY")
                }
                false => "repair it, or name another one".to_owned(),
            };
            self.remedies.push(format!(
                "the proxy {proxy}, which HTTPS_PROXY or ALL_PROXY names, does not lead to {address}; {what}"
            ));
        }

        self.request_ports(ways, straight);
    }

    /// Adds the ports that the network team must open.
    fn request_ports(&mut self, ways: &PathResults<'_>, straight: bool) {
        let address = &ways.relay.address;
        let (host, port) = address.rsplit_once(':').unwrap_or((address, "443"));
        let list = ways
            .addresses
            .iter()
            .map(|address| address.ip().to_string())
            .collect::<Vec<_>>()
            .join(", ");

        match (ways.udp, ways.quic.is_done()) {
            (Reachability::Answered, false) => self.requests.push(format!(
                "QUIC to {list} port {port}, not filtered: datagrams pass, but the handshake does not (a firewall inspects it)"
            )),
            (_, false) if !ways.addresses.is_empty() => {
                self.requests.push(format!("outgoing UDP from this machine to {list} port {port}, with replies (QUIC)"));
            }
            _ => {}
        }

        if !ways.tls.is_done() && !straight {
            self.requests.push(format!(
                "outgoing TCP from this machine to {} port {port}, not opened by a proxy that makes certificates of its own",
                if list.is_empty() { host } else { list.as_str() }
            ));
        }
    }

    /// Returns all remedies as text.
    pub(super) fn conclusion(&self) -> String {
        let mut text = String::new();
        for (title, list) in [
            ("Fix these yourself", &self.remedies),
            ("Ask the network team for", &self.requests),
        ] {
            if !list.is_empty() {
                text.push_str(&format!("\n{title}:\n"));
                list.iter()
                    .for_each(|what| text.push_str(&format!("  - {what}\n")));
            }
        }

        let nothing_to_do = self.remedies.is_empty() && self.requests.is_empty();
        let end = match (self.unreached.is_empty(), self.reached.is_empty()) {
            (false, false) => format!(
                "A tunnel can be opened to {}, and none to {}; see above.",
                self.reached.join(" and "),
                self.unreached.join(" and ")
            ),
            (false, true) => "Something is in the way; see above.".to_owned(),
            (true, _) if self.blocked => "Something is in the way; see above.".to_owned(),
            (true, _) if nothing_to_do => "Everything is open.".to_owned(),
            (true, _) => {
                "A tunnel can be opened. What stands above would make it faster, or safer against an outage.".to_owned()
            }
        };
        text.push_str(&format!("\n{end}\n"));

        text
    }
}
