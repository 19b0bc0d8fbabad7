//! Validates settings, and collects all errors.

use super::super::{AUDIT_FILE, DATA_DIR, LISTEN, MAX_HEAD_BYTES, Settings};
use super::RawSettings;
use crate::admin::listeners::{AdminListen, AdminSettings};
use crate::edge::client_address::ForwardedField;
use crate::fetch::client::FetchSettings;
use hookward_core::address::parse_network;
use hookward_core::diagnostics::{Diagnostic, Diagnostics};
use hookward_core::limits::BODY_MEMORY_SHARES;
use hookward_core::limits::Limits;
use hookward_core::names::{AgentName, HostName};
use hookward_core::reason::Reason;
use hookward_core::url::HostPattern;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Reads the address of the admin API. It is not encrypted, so it stays on this machine.
fn admin_listen(text: Option<&str>) -> Result<AdminListen, Reason> {
    let Some(text) = text else {
        return Ok(AdminListen::Preset);
    };
    if text == "off" {
        return Ok(AdminListen::Off);
    }
    match text.parse::<SocketAddr>() {
        Ok(address) if address.ip().is_loopback() => Ok(AdminListen::At(address)),
        Ok(_) => Err(format!(
            "{text:?} is not a loopback address: the admin API is not encrypted; use [monitoring] listen for health and metrics"
        )
        .into()),
        Err(_) => Err(format!("{text:?} is neither \"off\" nor an address with a port, such as 127.0.0.1:4041").into()),
    }
}

impl RawSettings {
    /// Returns the directory of the relay's state.
    #[must_use]
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.data_dir
            .clone()
            .unwrap_or_else(|| PathBuf::from(DATA_DIR))
    }

    /// Validates the settings.
    ///
    /// # Errors
    /// `problems`, together with all errors found here.
    pub(crate) fn resolve(
        self,
        limits: Limits,
        mut problems: Vec<Diagnostic>,
    ) -> Result<Settings, Diagnostics> {
        let mut wrong = |place: &str, what: String| problems.push(Diagnostic::new(place, what));
        let domain = match &self.domain {
            None => {
                wrong(
                    "domain",
                    "missing; name the relay's public domain, such as --domain hooks.example.com"
                        .into(),
                );
                None
            }
            Some(text) => {
                let domain = HostName::parse(text);
                if domain.is_none() {
                    wrong("domain", format!("{text:?} is not a host name"));
                }
                domain
            }
        };

        let listen_text = self.listen.as_deref().unwrap_or(LISTEN);
        let listen: Option<SocketAddr> = listen_text.parse().ok();
        if listen.is_none() {
            wrong(
                "listen",
                format!(
                    "{listen_text:?} is not an address with a port, such as [::]:443 or 0.0.0.0:8443"
                ),
            );
        }

        if self.public_port == Some(0) {
            wrong("public_port", "a port is between 1 and 65535".to_owned());
        }

        if let Some(address) = &self.tunnel_address
            && !address.rsplit_once(':').is_some_and(|(host, port)| {
                !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)
            })
        {
            wrong(
                "tunnel_address",
                format!("{address:?} is not a HOST:PORT, such as relay.example.com:443"),
            );
        }

        let mut trusted_proxies = Vec::new();
        for text in &self.trusted_proxies {
            match parse_network(text) {
                Ok(network) if network.prefix_len() == 0 => {
                    wrong(
                        "trusted_proxies",
                        format!("{text:?} would trust every client's statement about its address"),
                    );
                }
                Ok(network) => trusted_proxies.push(network),
                Err(what) => wrong("trusted_proxies", what.to_string()),
            }
        }

        let forwarded = match self.forwarded.as_deref() {
            None | Some("x-forwarded-for") => ForwardedField::XForwardedFor,
            Some("forwarded") => ForwardedField::Forwarded,
            Some(other) => {
                wrong(
                    "forwarded",
                    format!("{other:?} is neither \"x-forwarded-for\" nor \"forwarded\""),
                );
                ForwardedField::XForwardedFor
            }
        };

        let proxy_protocol = self.proxy_protocol.unwrap_or(false);
        if self.trusted_proxies.is_empty() && (proxy_protocol || self.forwarded.is_some()) {
            let key = if proxy_protocol {
                "proxy_protocol"
            } else {
                "forwarded"
            };

            wrong(key, "has no effect without trusted_proxies".to_owned());
        }

        // A proxy with the PROXY protocol copies bytes, and writes no HTTP header field.
        if proxy_protocol && self.forwarded.is_some() {
            wrong(
                "forwarded",
                "has no effect with proxy_protocol: no field is read then".to_owned(),
            );
        }

        let mut fetch = FetchSettings {
            ca: self.fetch_ca.clone(),
            ..FetchSettings::default()
        };

        for text in &self.fetch_hosts {
            match HostPattern::parse(text) {
                Ok(host) => fetch.hosts.push(host),
                Err(what) => wrong("fetch.hosts", what.to_string()),
            }
        }

        for (name, address) in &self.fetch_resolve {
            match (HostName::parse(name), address.parse()) {
                (Some(name), Ok(address)) => {
                    fetch.resolve.insert(name.to_string(), address);
                }
                _ => wrong(
                    "fetch.resolve",
                    format!("{name:?} = {address:?} is not a host name with an ADDRESS:PORT"),
                ),
            }
        }

        let mut hosts = BTreeMap::new();
        for (host, agent) in &self.hosts {
            match (HostName::parse(host), AgentName::parse(agent)) {
                (Some(host), Some(agent)) => {
                    if hosts.insert(host.clone(), agent).is_some() {
                        wrong("hosts", format!("{host} is given twice"));
                    }
                }
                (None, _) => wrong("hosts", format!("{host:?} is not a host name")),
                (_, None) => wrong(
                    "hosts",
                    format!("{agent:?} is not an agent's name: letters, digits and hyphens"),
                ),
            }
        }

        if limits.body_memory / BODY_MEMORY_SHARES < limits.max_body_bytes {
            wrong(
                "limits",
                format!(
                    "body_memory must be {BODY_MEMORY_SHARES} times max_body_bytes at least: one client address gets that part of it"
                ),
            );
        }

        if limits.max_head_bytes > MAX_HEAD_BYTES {
            wrong(
                "limits",
                format!("max_head_bytes is more than {MAX_HEAD_BYTES}"),
            );
        }

        let admin = AdminSettings {
            listen: admin_listen(self.admin.as_deref()).unwrap_or_else(|reason| {
                wrong("admin.listen", reason.into());
                AdminListen::Off
            }),
            socket: true,
            monitoring: self.monitoring.as_deref().and_then(|text| {
                let address = text.parse().ok();
                if address.is_none() {
                    wrong(
                        "monitoring.listen",
                        format!("{text:?} is not an address with a port, such as 10.0.0.5:4042"),
                    );
                }
                address
            }),
        };

        let data_dir = self.data_dir();
        let audit_file = data_dir.join(AUDIT_FILE);
        let certificate = match (self.certificate, self.key) {
            (Some(chain), Some(key)) => Some((chain, key)),
            (None, None) => None,
            (Some(_), None) => {
                wrong("key", "missing; a certificate needs its key".to_owned());
                None
            }
            (None, Some(_)) => {
                wrong(
                    "certificate",
                    "missing; a key needs its certificate".to_owned(),
                );
                None
            }
        };

        let acme = self.acme.resolve(&mut wrong);
        if acme.is_some() && certificate.is_some() {
            let what = "give either a certificate with its key, or acme".to_owned();
            wrong("acme", what);
        }

        match (domain, listen, problems.is_empty()) {
            (Some(domain), Some(listen), true) => Ok(Settings {
                domain,
                listen,
                tunnel_listen: listen,
                public_port: self.public_port,
                tunnel_address: self.tunnel_address,
                data_dir,
                certificate,
                acme,
                trusted_proxies,
                forwarded,
                proxy_protocol,
                baseline_policy: self.baseline_policy,
                fetch,
                hosts,
                admin,
                audit: self.audit.resolve(Some(&audit_file)),
                delivery: self.delivery,
                reset: self.reset,
                limits,
            }),
            _ => Err(Diagnostics(problems)),
        }
    }
}
