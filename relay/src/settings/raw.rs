//! Settings as written, in a file or as flags.

use super::{DATA_DIR, LISTEN, MAX_HEAD_BYTES, Settings};
use crate::edge::client_address::ForwardedField;
use crate::fetch::client::FetchSettings;
use hookward_core::address::parse_network;
use hookward_core::diagnostics::{Diagnostic, Diagnostics, TableReader, TomlDocument};
use hookward_core::limits::BODY_MEMORY_SHARES;
use hookward_core::limits::Limits;
use hookward_core::names::{AgentName, HostName};
use hookward_core::url::HostPattern;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Settings as written, in a file or as flags. A flag wins over the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RawSettings {
    pub domain: Option<String>,
    /// Address and port of the listeners.
    pub listen: Option<String>,
    /// The port in public URLs.
    pub public_port: Option<u16>,
    /// Host and port under which agents reach this relay.
    pub tunnel_address: Option<String>,
    /// Directory of the relay's state.
    pub data_dir: Option<PathBuf>,
    /// PEM file with the edge's certificate chain.
    pub certificate: Option<PathBuf>,
    /// PEM file with its key.
    pub key: Option<PathBuf>,
    /// Networks whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<String>,
    /// Exact hosts, and the agents that own them.
    pub hosts: Vec<(String, String)>,
    /// The field that trusted proxies write.
    pub forwarded: Option<String>,
    /// `true` if connections of trusted proxies begin with the PROXY protocol.
    pub proxy_protocol: Option<bool>,
    /// The operator's baseline policy.
    pub baseline_policy: Option<PathBuf>,
    pub fetch_hosts: Vec<String>,
    /// Certificates to trust when fetching.
    pub fetch_ca: Option<PathBuf>,
    pub fetch_resolve: Vec<(String, String)>,
    /// `true` to make damaged or missing files of the data directory anew; a flag only.
    pub reset: bool,
}

/// Reads a settings file. Mistakes go to `problems`; what could be read is returned.
pub(crate) fn read_file(
    name: &str,
    text: &str,
    problems: &mut Vec<Diagnostic>,
) -> (RawSettings, Limits) {
    let document = TomlDocument::new(name, text);
    let mut written = RawSettings::default();
    let mut limits = Limits::default();

    {
        let table = document.parse();
        let mut top = TableReader::new(&document, &table);
        written.domain = top.string("domain");
        written.listen = top.string("listen");
        written.public_port = top.count("public_port").and_then(|port| {
            let port = u16::try_from(port).ok();
            if port.is_none() {
                top.report_value("public_port", "a port lies between 1 and 65535");
            }
            port
        });

        written.tunnel_address = top.string("tunnel_address");
        written.data_dir = top.string("data_dir").map(PathBuf::from);
        written.certificate = top.string("certificate").map(PathBuf::from);
        written.key = top.string("key").map(PathBuf::from);
        written.trusted_proxies = top.strings("trusted_proxies").unwrap_or_default();
        written.forwarded = top.string("forwarded");
        written.proxy_protocol = top.boolean("proxy_protocol");
        written.baseline_policy = top.string("baseline_policy").map(PathBuf::from);

        if let Some(mut fetch) = top.table("fetch") {
            written.fetch_hosts = fetch.strings("hosts").unwrap_or_default();
            written.fetch_ca = fetch.string("ca").map(PathBuf::from);
            if let Some(mut resolve) = fetch.table("resolve") {
                written.fetch_resolve = resolve.entries();
            }
            fetch.finish();
        }

        if let Some(mut hosts) = top.table("hosts") {
            written.hosts = hosts.entries();
        }

        if let Some(mut table) = top.table("limits") {
            limits = Limits::read(&mut table);
            table.finish();
        }

        top.finish();
    }

    problems.extend(document.into_diagnostics());
    (written, limits)
}

impl RawSettings {
    /// Returns these settings, with those of `file` where these have none.
    #[must_use]
    pub(crate) fn merge_over(self, file: Self) -> Self {
        Self {
            domain: self.domain.or(file.domain),
            listen: self.listen.or(file.listen),
            public_port: self.public_port.or(file.public_port),
            tunnel_address: self.tunnel_address.or(file.tunnel_address),
            data_dir: self.data_dir.or(file.data_dir),
            certificate: self.certificate.or(file.certificate),
            key: self.key.or(file.key),
            trusted_proxies: [file.trusted_proxies, self.trusted_proxies].concat(),
            hosts: [file.hosts, self.hosts].concat(),
            forwarded: self.forwarded.or(file.forwarded),
            proxy_protocol: self.proxy_protocol.or(file.proxy_protocol),
            baseline_policy: self.baseline_policy.or(file.baseline_policy),
            fetch_hosts: [file.fetch_hosts, self.fetch_hosts].concat(),
            fetch_ca: self.fetch_ca.or(file.fetch_ca),
            fetch_resolve: [file.fetch_resolve, self.fetch_resolve].concat(),
            reset: self.reset,
        }
    }

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
    /// `problems`, and all that are found here, if there are any.
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
                    wrong("domain", format!("{text:?} is no host name"));
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
                    "{listen_text:?} is no address with a port, such as [::]:443 or 0.0.0.0:8443"
                ),
            );
        }

        if self.public_port == Some(0) {
            wrong("public_port", "a port lies between 1 and 65535".to_owned());
        }

        if let Some(address) = &self.tunnel_address
            && !address.rsplit_once(':').is_some_and(|(host, port)| {
                !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)
            })
        {
            wrong(
                "tunnel_address",
                format!("{address:?} is no HOST:PORT, such as relay.example.com:443"),
            );
        }

        let mut trusted_proxies = Vec::new();
        for text in &self.trusted_proxies {
            match parse_network(text) {
                Ok(network) if network.prefix_len() == 0 => {
                    wrong(
                        "trusted_proxies",
                        format!("{text:?} would believe whatever anybody claims to be"),
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

            wrong(
                key,
                "has no effect without trusted_proxies: nobody else is believed".to_owned(),
            );
        }

        // A proxy that begins connections with the PROXY protocol passes bytes on, and writes no
        // field of HTTP.
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
                    format!("{name:?} = {address:?} is no host name with an ADDRESS:PORT"),
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
                (None, _) => wrong("hosts", format!("{host:?} is no host name")),
                (_, None) => wrong(
                    "hosts",
                    format!("{agent:?} is no agent's name: letters, digits and hyphens"),
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

        let data_dir = self.data_dir();
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

        match (domain, listen, problems.is_empty()) {
            (Some(domain), Some(listen), true) => Ok(Settings {
                domain,
                listen,
                tunnel_listen: listen,
                public_port: self.public_port,
                tunnel_address: self.tunnel_address,
                data_dir,
                certificate,
                trusted_proxies,
                forwarded,
                proxy_protocol,
                baseline_policy: self.baseline_policy,
                fetch,
                hosts,
                reset: self.reset,
                limits,
            }),
            _ => Err(Diagnostics(problems)),
        }
    }
}
