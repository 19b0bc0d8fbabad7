//! The relay's settings: a TOML file and flags, resolved, with all mistakes reported at once.
//!
//! ```toml
//! domain = "hooks.example.com"
//! listen = "[::]:443"                  # HTTPS (TCP) and the tunnel (UDP)
//! public_port = 443                    # the port in public URLs, when it is another one
//! tunnel_address = "hooks.example.com:443"   # under which agents reach this relay, if another
//! data_dir = "/var/lib/hookward"
//! certificate = "/etc/hookward/chain.pem"
//! key = "/etc/hookward/key.pem"
//! trusted_proxies = ["10.0.0.0/8"]
//!
//! [hosts]                              # exact hosts: the bare domain, a CNAME
//! "hooks.example.com" = "flexdeploy"
//!
//! [limits]                             # every bound of shared/src/limits.rs, by its name
//! request_head = "10s"
//! ```

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use hookward_shared::budget::SHARES as BODY_SHARES;
use hookward_shared::config::{Document, Problem, Problems, Reader};
use hookward_shared::gate::address::parse_network;
use hookward_shared::limits::Limits;
use hookward_shared::names::{AgentName, HostName};
use ipnet::IpNet;

/// Where the relay listens unless it is told otherwise: all addresses of both families.
pub const LISTEN: &str = "[::]:443";
/// Most that `head_bytes` may be: a head must fit into one frame of the tunnel, with room to spare.
const MOST_HEAD_BYTES: u64 = 60 * 1024;
/// Where the relay keeps what must survive a restart, unless it is told otherwise.
pub const DATA_DIR: &str = "/var/lib/hookward";

/// Settings as written, in a file or as flags. A flag wins over the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Written {
    /// The public domain.
    pub domain: Option<String>,
    /// Address and port of the listeners.
    pub listen: Option<String>,
    /// The port in public URLs.
    pub public_port: Option<u16>,
    /// Host and port under which agents reach this relay.
    pub tunnel_address: Option<String>,
    /// Where state is kept.
    pub data_dir: Option<PathBuf>,
    /// PEM file with the edge's certificate chain.
    pub certificate: Option<PathBuf>,
    /// PEM file with its key.
    pub key: Option<PathBuf>,
    /// Networks whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<String>,
    /// Exact hosts, and the agents that own them.
    pub hosts: Vec<(String, String)>,
}

/// Settings as meant.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The public domain.
    pub domain: HostName,
    /// Where HTTPS is served.
    pub listen: SocketAddr,
    /// Where the tunnel is served; the same address and port for a relay on a VM.
    pub tunnel_listen: SocketAddr,
    /// The port in public URLs; `None` for the listener's own.
    pub public_port: Option<u16>,
    /// Host and port under which agents reach this relay; `None` for the domain and the public port.
    pub tunnel_address: Option<String>,
    /// Where state is kept.
    pub data_dir: PathBuf,
    /// Chain and key of the edge; `None` for a self-signed one.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// Networks whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Exact hosts, and the agents that own them.
    pub hosts: BTreeMap<HostName, AgentName>,
    /// All bounds.
    pub limits: Limits,
}

/// Reads a settings file. Mistakes go to `problems`; what could be read is returned.
pub fn read_file(name: &str, text: &str, problems: &mut Vec<Problem>) -> (Written, Limits) {
    let document = Document::new(name, text);
    let mut written = Written::default();
    let mut limits = Limits::default();
    {
        let table = document.parse();
        let mut top = Reader::new(&document, &table);
        written.domain = top.string("domain");
        written.listen = top.string("listen");
        written.public_port = top.count("public_port").and_then(|port| {
            let port = u16::try_from(port).ok();
            if port.is_none() {
                top.problem_with("public_port", "a port lies between 1 and 65535");
            }
            port
        });
        written.tunnel_address = top.string("tunnel_address");
        written.data_dir = top.string("data_dir").map(PathBuf::from);
        written.certificate = top.string("certificate").map(PathBuf::from);
        written.key = top.string("key").map(PathBuf::from);
        written.trusted_proxies = top.strings("trusted_proxies").unwrap_or_default();
        if let Some(mut hosts) = top.table("hosts") {
            written.hosts = hosts.entries();
        }
        if let Some(mut table) = top.table("limits") {
            limits = Limits::read(&mut table);
            table.finish();
        }
        top.finish();
    }
    problems.extend(document.into_problems());
    (written, limits)
}

impl Written {
    /// These settings, where `file` says nothing else.
    #[must_use]
    pub fn over(self, file: Self) -> Self {
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
        }
    }

    /// Where state is kept.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.data_dir.clone().unwrap_or_else(|| PathBuf::from(DATA_DIR))
    }

    /// What is meant.
    ///
    /// # Errors
    /// `problems`, and all that are found here, if there are any.
    pub fn resolve(self, limits: Limits, mut problems: Vec<Problem>) -> Result<Settings, Problems> {
        let mut wrong = |place: &str, what: String| problems.push(Problem::new(place, what));
        let domain = match &self.domain {
            None => {
                wrong("domain", "missing; name the relay's public domain, such as --domain hooks.example.com".into());
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
            wrong("listen", format!("{listen_text:?} is no address with a port, such as [::]:443 or 0.0.0.0:8443"));
        }
        if self.public_port == Some(0) {
            wrong("public_port", "a port lies between 1 and 65535".to_owned());
        }
        if let Some(address) = &self.tunnel_address
            && !address
                .rsplit_once(':')
                .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0))
        {
            wrong("tunnel_address", format!("{address:?} is no HOST:PORT, such as relay.example.com:443"));
        }
        let mut trusted_proxies = Vec::new();
        for text in &self.trusted_proxies {
            match parse_network(text) {
                Ok(network) if network.prefix_len() == 0 => {
                    wrong("trusted_proxies", format!("{text:?} would believe whatever anybody claims to be"));
                }
                Ok(network) => trusted_proxies.push(network),
                Err(what) => wrong("trusted_proxies", what),
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
                (_, None) => wrong("hosts", format!("{agent:?} is no agent's name: letters, digits and hyphens")),
            }
        }
        if limits.body_budget / BODY_SHARES < limits.body_bytes {
            wrong(
                "limits",
                format!(
                    "body_budget must be {BODY_SHARES} times body_bytes at least: one client address gets that part of it"
                ),
            );
        }
        if limits.head_bytes > MOST_HEAD_BYTES {
            wrong("limits", format!("head_bytes is more than {MOST_HEAD_BYTES}"));
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
                wrong("certificate", "missing; a key needs its certificate".to_owned());
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
                hosts,
                limits,
            }),
            _ => Err(Problems(problems)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_file() {
        let text = "domain = 'Hooks.example.com'\nlisten = '127.0.0.1:0'\ntrusted_proxies = ['10.0.0.0/8']\n\
                    [hosts]\n'hooks.example.com' = 'flexdeploy'\n[limits]\nrequest_head = '3s'\nbody_bytes = '1MiB'\n";
        let mut problems = Vec::new();
        let (file, limits) = read_file("r.toml", text, &mut problems);
        let flags = Written { public_port: Some(8443), ..Written::default() };
        let settings = flags.over(file).resolve(limits, problems).unwrap();
        assert_eq!(settings.domain.as_str(), "hooks.example.com");
        assert_eq!(settings.limits.body_bytes, 1 << 20);
        assert_eq!(settings.public_port, Some(8443));
        assert_eq!(settings.hosts.len(), 1);
    }

    #[test]
    fn all_mistakes_in_one_run() {
        let text = "listen = '443'\ntrusted_proxies = ['any', '::/0']\nspool = true\nkey = 'k'\n\
                    [limits]\nrequest_head = '3'\nheads = 1\n[hosts]\n'a_b' = 'x'\n";
        let mut problems = Vec::new();
        let (file, limits) = read_file("r.toml", text, &mut problems);
        let found = file.resolve(limits, problems).unwrap_err().to_string();
        for expected in [
            "r.toml:3: unknown key \"spool\"",
            "request_head: expected a time",
            "unknown key \"heads\"",
            "domain: missing",
            "\"443\" is no address",
            "\"any\"",
            "whatever anybody claims",
            "certificate: missing",
            "\"a_b\" is no host name",
        ] {
            assert!(found.contains(expected), "{expected} in\n{found}");
        }
    }
}
